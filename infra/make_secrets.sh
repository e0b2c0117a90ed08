#!/usr/bin/env bash
# Draw the passwords of docker-compose.yml into .secrets, a file each. What is there stays.
# The folder is closed to other users of this machine; the files are not, since each container reads them as a user of its own.
set -euo pipefail
cd "$(dirname "$0")/.."
mkdir -p .secrets && chmod 700 .secrets

draw() { od -An -N24 -tx1 /dev/urandom | tr -d ' \n'; }
keep() { [ -s ".secrets/$1" ] || { printf '%s' "$2" > ".secrets/$1" && chmod 644 ".secrets/$1"; }; }

for name in postgres_password redis_password prefect_password s3_secret_key; do keep "$name" "$(draw)"; done
key=$(cat .secrets/s3_secret_key)
keep s3_credentials "[default]"$'\n'"aws_access_key_id = tinywave"$'\n'"aws_secret_access_key = $key"$'\n'
echo "passwords: .secrets; the UI's user is tinywave, with .secrets/prefect_password"
