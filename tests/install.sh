#!/usr/bin/env bash
# Installs what the tests need beside a Rust toolchain. Safe to run again: what is there is left alone.
#
# System packages come from apt (Debian, Ubuntu) and only for commands that are missing; elsewhere install
# by hand what the message names. Python and node packages are pinned and stay inside tests/.
set -euo pipefail
cd "$(dirname "$0")"

say() { printf '   %s\n' "$*"; }
stop() { printf 'install: %s\n' "$*" >&2; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }
first_of() { local c; for c in "$@"; do if have "$c"; then return 0; fi; done; return 1; }

missing=()
need() { # need PACKAGE: it is missing
  missing+=("$1")
}

have cargo || stop "no Rust toolchain: install rustup first; rust-toolchain.toml names the version"
first_of cc gcc clang || need gcc
first_of c++ g++ clang++ || need g++
first_of make gmake || need make
have python3 || need python3
python3 -c 'import venv, ensurepip' 2>/dev/null || need python3-venv
have node || need nodejs
have npm || need npm
curl --version 2>/dev/null | grep -q HTTP2 || need curl
have openssl || need openssl
have haproxy || need haproxy
have nginx || need nginx
have systemd-analyze || need systemd
compgen -G '/usr/lib/*/faketime/libfaketimeMT.so.1' >/dev/null || need faketime
first_of chromium chromium-browser google-chrome || need chromium
have chromedriver || need chromium-driver
compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null || have initdb || need postgresql
have runuser || need util-linux
{ have prometheus && have promtool; } || need prometheus

if [ "${#missing[@]}" -gt 0 ]; then
  have apt-get || stop "missing: ${missing[*]} (Debian's names). There is no apt-get here: install them by hand"
  as_root=()
  if [ "$(id -u)" -ne 0 ]; then
    if have sudo && sudo -n true 2>/dev/null; then
      as_root=(sudo -n)
    else
      stop "missing: ${missing[*]}. Run: sudo apt-get install ${missing[*]}"
    fi
  fi
  say "apt packages: ${missing[*]}"
  # RUNLEVEL=1: a package that brings a service (PostgreSQL, Prometheus) must not start it.
  apt() { ${as_root[@]+"${as_root[@]}"} env RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get -q "$@"; }
  log=$(mktemp)
  if ! { apt update && apt install -y --no-install-recommends "${missing[@]}"; } >"$log" 2>&1; then
    tail -n 20 "$log" >&2
    stop "apt-get could not install ${missing[*]}; its whole output is in $log"
  fi
  rm -f "$log"
fi

rustfmt --version >/dev/null 2>&1 || stop "no rustfmt: rustup component add rustfmt"
cargo clippy --version >/dev/null 2>&1 || stop "no clippy: rustup component add clippy"

# A stamp per tool: the sum of the file that pins the versions, and what it was installed with.
stamp_of() { { cat "$1"; "${@:2}"; } | sha256sum | cut -d' ' -f1; }
installed() { [ -f "$1" ] && [ "$(cat "$1")" = "$2" ]; }

python_stamp=$(stamp_of real/requirements.txt python3 --version)
if ! { installed .venv/.stamp "$python_stamp" && .venv/bin/python -c '' 2>/dev/null; }; then
  say "python packages: tests/real/requirements.txt -> tests/.venv"
  python3 -m venv --clear .venv
  .venv/bin/pip install --quiet --disable-pip-version-check --requirement real/requirements.txt
  printf '%s' "$python_stamp" >.venv/.stamp
fi

node_stamp=$(stamp_of real/package-lock.json node --version)
if ! installed real/node_modules/.stamp "$node_stamp"; then
  say "node packages: tests/real/package-lock.json -> tests/real/node_modules"
  npm --prefix real ci --silent --ignore-scripts --no-audit --no-fund
  printf '%s' "$node_stamp" >real/node_modules/.stamp
fi
say "everything that the tests need is here"
