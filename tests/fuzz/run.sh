#!/usr/bin/env bash
# Fuzzes each target for so many seconds (30), or those that are named: tests/fuzz/run.sh 300 exchange
#
# The coverage counters are stable compiler flags, the same that cargo-fuzz gives; without a sanitizer no
# nightly toolchain is needed, and none would find anything: the crate forbids unsafe code.
# Every input in seeds/ is told first; what is found on the way is kept in the target folder.
set -euo pipefail
cd "$(dirname "$0")"
seconds=${1:-30}
targets=("${@:2}")
[ "${#targets[@]}" -gt 0 ] || targets=(frames exchange session)
target=${CARGO_TARGET_DIR:-../../target}/fuzz
export RUSTFLAGS="--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
-Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=16"
# An explicit target keeps the flags away from build scripts.
host=$(rustc -vV | sed -n 's/^host: //p')
cargo build --quiet --release --locked --target "$host" --target-dir "$target"
for name in "${targets[@]}"; do
  mkdir -p "$target/corpus/$name"
  "$target/$host/release/$name" -max_total_time="$seconds" -max_len=4096 -timeout=30 -dict=words.dict \
    -print_final_stats=1 -artifact_prefix="$target/$name-" "$target/corpus/$name" seeds/"$name" \
    2>"$target/$name.log" || {
    grep -vE '^#|# Uses' "$target/$name.log" | tail -n 40 >&2
    echo "fuzz target $name found a failure; its input is in $target" >&2
    exit 1
  }
  grep -E 'stat::number_of_executed_units|stat::new_units_added' "$target/$name.log" | sed "s/^/   $name: /"
done
