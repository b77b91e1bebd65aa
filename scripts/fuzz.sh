#!/usr/bin/env bash
# Feeds hostile bytes to what reads foreign ones (fuzz/fuzz_targets), starting from fuzz/seeds.
#
#   fuzz.sh SECONDS [TARGET]...   runs each target (all, if none is named) for so long; fails at a crash, at an input
#                                 that takes longer than 5 s, and beyond 256 MiB
#   fuzz.sh --install             installs cargo-fuzz; says and does nothing if it is there
#
# On the stable toolchain, so without the address sanitizer: safe code has little use for one, and beside it memory could
# not be measured. What was found lies in fuzz/artifacts, what was learned in fuzz/corpus.
set -euo pipefail

version=0.13.2
cargo=${CARGO:-cargo}
cd "$(dirname "$0")/.."

if [ "${1:-}" = --install ]; then
    command -v cargo-fuzz >/dev/null && exit
    echo "fuzz: installing cargo-fuzz $version ..." >&2
    exec "$cargo" install --quiet --locked "cargo-fuzz@$version"
fi

seconds=${1:?for how many seconds?}
shift
targets=("$@")
if [ ${#targets[@]} -eq 0 ]; then
    for file in fuzz/fuzz_targets/*.rs; do
        targets+=("$(basename "$file" .rs)")
    done
fi

if ! command -v cargo-fuzz >/dev/null; then
    echo "SKIPPED: cargo-fuzz is not installed: run scripts/install-deps.sh" >&2
    [ "${CI:-}" != true ] || exit 1
    exit 0
fi

"$cargo" fuzz build --sanitizer none
for target in "${targets[@]}"; do
    mkdir -p "fuzz/corpus/$target" "fuzz/artifacts/$target"
    log=fuzz/artifacts/$target.log
    status=0
    fuzz/target/x86_64-unknown-linux-gnu/release/"$target" "fuzz/corpus/$target" "fuzz/seeds/$target" \
        -artifact_prefix="fuzz/artifacts/$target/" -max_total_time="$seconds" -timeout=5 -rss_limit_mb=256 \
        -malloc_limit_mb=256 -max_len=16384 -print_final_stats=1 >"$log" 2>&1 || status=$?
    if [ $status -ne 0 ]; then
        tail -n 60 "$log" >&2
        echo "fuzz: $target failed; its log is $log" >&2
        exit 1
    fi
    sed -n 's/^stat::number_of_executed_units: */executions /p; s/^stat::peak_rss_mb: */peak MiB /p' "$log" |
        paste -sd ' ' | sed "s/^/fuzz: $target: /" >&2
done
