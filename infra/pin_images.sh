#!/usr/bin/env bash
# Pin every image that docker-compose.yml and infra/Dockerfile take from a registry to the digest that its tag has today.
# What has a digest already is left alone: take it off to have a newer one. Needs docker and a network; then look at `git diff`.
set -euo pipefail
cd "$(dirname "$0")/.."

command -v docker >/dev/null || { echo "pin_images: no docker found: run it where docker is installed" >&2; exit 2; }

for file in docker-compose.yml infra/Dockerfile; do
  for image in $(sed -nE 's/^(FROM| *image:) +([^ @]+:[^ @]+)$/\2/p' "$file" | sort -u); do
    docker pull --quiet "$image" >/dev/null
    digest=$(docker image inspect --format '{{index .RepoDigests 0}}' "$image" | grep -oE 'sha256:[0-9a-f]{64}$') || {
      echo "pin_images: docker knows no digest of $image: pull it from a registry" >&2; exit 2; }
    sed -i.before -E "s|^(FROM\|( *)image:) +${image//./\\.}\$|&@$digest|" "$file"
    rm "$file.before"
    echo "$file: $image@$digest"
  done
done
