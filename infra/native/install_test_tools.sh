#!/usr/bin/env bash
# Installs the programs that tests need from the machine: a browser (tests/ui) and PostgreSQL (tests/infra), and Redis where no
# wheel has it. By apt-get, as root or by a sudo that asks nothing. Says one line for each that it could not install, and ends
# well all the same: the tests that need it are left out, and `make test` says which.
set -u
DOWNLOAD_S=300
INSTALL_S=600

has_browser() { command -v chromium || command -v chromium-browser || command -v google-chrome; } >/dev/null
has_postgres() { command -v postgres || compgen -G '/usr/lib/postgresql/*/bin/postgres'; } >/dev/null
has_redis() { command -v redis-server || [ "$(uname -sm)" = 'Linux x86_64' ]; } >/dev/null

as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n "$@"; fi
}

# apt_get SECONDS ARGUMENT...
apt_get() {
  local limit_s=$1
  shift
  as_root env DEBIAN_FRONTEND=noninteractive timeout "$limit_s" apt-get --quiet --yes \
    -o Acquire::Retries=1 -o Acquire::http::Timeout=20 -o DPkg::Lock::Timeout=60 "$@" </dev/null 2>&1
}

# Downloads have a limit of their own: where the network hangs, nothing is stopped half installed.
try() {
  apt_get $DOWNLOAD_S install --no-install-recommends --download-only "$@" &&
    apt_get $INSTALL_S install --no-install-recommends "$@"
}

# install NAME PACKAGE...
updated=
install() {
  local name=$1 said why
  shift
  if ! command -v apt-get >/dev/null; then
    why='this machine has no apt-get'
  elif ! as_root true 2>/dev/null; then
    why='that needs root, or sudo without a password'
  else
    said=$(try "$@") && return
    if [ -z "$updated" ]; then # the package lists are missing or old
      updated=yes
      said=$(apt_get $DOWNLOAD_S update && try "$@") && return
    fi
    why=$(grep '^E: ' <<<"$said" | tail -n 1)
  fi
  echo "not installed: $name ($*): ${why:-apt-get failed or took too long}"
}

has_browser || install Chromium chromium fonts-liberation
has_postgres || install PostgreSQL postgresql
has_redis || install Redis redis-server
exit 0
