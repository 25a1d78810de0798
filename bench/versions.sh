#!/usr/bin/env bash
# Two builds of gridkv beside each other, in one run: is the one slower than the other?
#
#   bench/versions.sh DIR BEFORE AFTER >section.md
#
# BEFORE and AFTER are programs `gridkv`; DIR is a directory on the disk to measure. Ratios are of AFTER to
# BEFORE: rates above 1 are faster, processor time below 1 is less. PAIRS and SECONDS_EACH say how long.
set -euo pipefail
cd "$(dirname "$0")/.."
dir=${1:?a directory on the disk to measure}
before=$(realpath "${2:?the program before}")
after=$(realpath "${3:?the program after}")
pairs=${PAIRS:-5}
bin=${CARGO_TARGET_DIR:-target}/release
out=$(mktemp)
trap 'rm -f "$out"' EXIT

gridkv='--cpus 0 --listen 127.0.0.1:{port} --admin off'
beside=(compare --a-name after --b-name before --server-cpus 0 --client-cpus 1 --pairs "$pairs" --warmup 500ms
    --duration "${SECONDS_EACH:-2}s" --dir "$dir" --load --markdown "$out")

compare() { # title, options of both programs, arguments of gridkv-bench...
    local title=$1 options=$2
    shift 2
    echo "versions: $title" >&2
    "$bin/gridkv-bench" "${beside[@]}" --title "$title" --a-cmd "$after $gridkv $options" \
        --b-cmd "$before $gridkv $options" "$@" >/dev/null
}

for pipeline in 1 16 64; do
    compare "GET in memory, 50 connections, pipeline $pipeline" '--storage memory' \
        --keys 1000000 -c 50 -P "$pipeline" --reads 1
    compare "SET in memory, 50 connections, pipeline $pipeline" '--storage memory' \
        --keys 1000000 -c 50 -P "$pipeline" --reads 0
done
for shape in '1 1' '50 1' '50 16'; do
    set -- $shape
    compare "SET on disk, $1 connections, pipeline $2" '--data {dir}/data --durability commit' \
        --keys 200000 --reads 0 -c "$1" -P "$2"
done
cat "$out"
