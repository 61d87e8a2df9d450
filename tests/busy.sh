#!/usr/bin/env bash
# Shows that no test hopes for a quick machine: runs the tests again and again while as many busy loops
# as there are cores take their time.
#
#   tests/busy.sh [--real] [TIMES]
#
# TIMES is 5 unless given. With --real the tests with real app servers run too; they need what
# tests/install.sh brings and a release build. Stops at the first failure and names it.
set -euo pipefail
cd "$(dirname "$0")/.."

real='' times=5
for argument in "$@"; do
  case $argument in
    --real) real=yes ;;
    [1-9] | [1-9][0-9]*) times=$argument ;;
    *)
      printf 'usage: tests/busy.sh [--real] [TIMES]\n' >&2
      exit 2
      ;;
  esac
done

# Each job has a process group of its own: what it has started can be ended with it.
set -m
loops=() tests=''
log=$(mktemp)
finish() {
  local code=$?
  trap - EXIT
  # These and no others, by their ids.
  [ -z "$tests" ] || kill -- "-$tests" 2>/dev/null || true
  [ ${#loops[@]} -eq 0 ] || kill "${loops[@]}" 2>/dev/null || true
  wait 2>/dev/null
  rm -f "$log"
  exit "$code"
}
trap finish EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

# Runs tests in the background, so that a signal is heard at once.
try() {
  "$@" >"$log" 2>&1 &
  tests=$!
  local code=0
  wait "$tests" || code=$?
  tests=''
  return "$code"
}

# Shows what failed of what has just run.
fail() {
  sed -n '/^failures:$/,$p; /^=.* FAILURES =/,$p' "$log"
  printf '\nFAILED: run %d of %d: %s\n' "$run" "$times" "$1" >&2
  grep -E '^test .* FAILED$|^FAILED |^error' "$log" >&2 || tail -n 30 "$log" >&2
  exit 1
}

export CARGO_TERM_COLOR=never
cargo test --quiet --locked --no-run
[ -z "$real" ] || cargo build --quiet --release --locked

for _ in $(seq "$(nproc)"); do
  # Ends with this script, even if that is killed.
  (while kill -0 $$ 2>/dev/null; do for ((turn = 0; turn < 100000; turn++)); do :; done; done) &
  loops+=($!)
done

for ((run = 1; run <= times; run++)); do
  started=$SECONDS
  try cargo test --locked || fail 'cargo test'
  if [ -n "$real" ]; then
    export SEAWALL_BIN="${CARGO_TARGET_DIR:-$PWD/target}/release/seawall"
    try tests/.venv/bin/python -m pytest tests/real -c tests/real/pytest.ini -rf || fail 'tests/real'
  fi
  printf 'run %d of %d passed in %d s\n' "$run" "$times" $((SECONDS - started))
done
