#!/usr/bin/env bash
# Random reads of values that GridKV does not have in memory, beside what fio reads from the same
# file system (direct, 4 KiB, queue depth 32), in turn. Prints reads a second of both and their
# ratio, for each setting.
# Usage: bench/uncached_reads.sh DIR [PAIRS] [SECONDS] [KEYS] [VALUE_BYTES]
set -euo pipefail
fail() { echo "uncached_reads: $*" >&2; exit 1; }
[ $# -ge 1 ] || fail "DIR is needed: a directory on the disk to measure"
mkdir -p "$1"
dir=$(cd "$1" && pwd) pairs=${2:-5} seconds=${3:-3} key_count=${4:-300000} value_bytes=${5:-3500}
cd "$(dirname "$0")/.."
command -v fio >/dev/null || fail "fio is needed: apt-get install fio"
[ "$(stat -f -c %T "$dir")" != tmpfs ] || fail "$dir is in memory: nothing is read from a disk there"
cargo build --release -q -p gridkv -p gridkv-bench
bin=${CARGO_TARGET_DIR:-target}/release
data=$(mktemp -d "$dir/uncached-reads.XXXXXX")
gridkv=''
trap 'kill $gridkv 2>/dev/null || true; wait 2>/dev/null || true; rm -rf "$data"' EXIT

cache_mib=16
"$bin/gridkv" --cpus 0 --listen 127.0.0.1:17380 --admin off --storage file --data "$data/gridkv" \
    --durability none --cache "${cache_mib}MiB" >"$data/gridkv.log" 2>&1 &
gridkv=$!
for attempt in $(seq 200); do
    kill -0 $gridkv 2>/dev/null || { cat "$data/gridkv.log" >&2; fail "the server did not start"; }
    if (exec 3<>/dev/tcp/127.0.0.1/17380) 2>/dev/null; then break; fi
    [ "$attempt" -lt 200 ] || { cat "$data/gridkv.log" >&2; fail "no answer on port 17380"; }
    sleep 0.1
done
keys=(--keys "$key_count" --value-size "$value_bytes")
size_mib=$((key_count * value_bytes >> 20))
[ "$size_mib" -ge $((cache_mib * 16)) ] || fail "$key_count keys are $size_mib MiB: too near to the cache"
echo "$key_count values of $value_bytes B ($size_mib MiB), cache of $cache_mib MiB"
"$bin/gridkv-bench" run resp://127.0.0.1:17380 --load "${keys[@]}" --client-cpus 1 --reads 1 -c 64 \
    --warmup 0s --duration 1s >/dev/null
fio --name=lay-out --filename="$data/fio" --size="${size_mib}M" --rw=write --bs=1M --direct=1 \
    --output-format=terse --terse-version=3 >/dev/null

fio_rate() {
    fio --name=randread --filename="$data/fio" --size="${size_mib}M" --rw=randread --bs=4k --direct=1 \
        --iodepth=32 --ioengine=io_uring --time_based --runtime="$seconds" --output-format=terse \
        --terse-version=3 | cut -d ';' -f 8
}

# Reads a second with $1 connections and pipeline $2. A run with errors or missing keys counts for
# nothing.
gridkv_rate() {
    local report
    report=$("$bin/gridkv-bench" run resp://127.0.0.1:17380 "${keys[@]}" --client-cpus 1 --reads 1 \
        -c "$1" -P "$2" --warmup 500ms --duration "${seconds}s" --json -)
    grep -q '"missing_keys": 0,' <<<"$report" || fail "keys are missing: $report"
    grep -q '"error_replies": 0,' <<<"$report" || fail "errors: $report"
    awk '/"figures"/ { inside = 1 } inside && $1 == "\"rate\":" { printf "%.0f\n", $2; exit }' <<<"$report"
}

median() {
    sort -g | awk '{ all[NR] = $1 }
        END { print (all[int((NR + 1) / 2)] + all[int((NR + 2) / 2)]) / 2 }'
}

echo "connections pipeline    GET/s   fio IOPS   ratio [all]"
for setting in "64 1" "128 1" "64 4" "128 4"; do
    read -r connections pipeline <<<"$setting"
    gets='' reads='' ratios=''
    for _ in $(seq "$pairs"); do
        read_rate=$(fio_rate)
        get_rate=$(gridkv_rate "$connections" "$pipeline")
        gets+="$get_rate"$'\n' reads+="$read_rate"$'\n'
        ratios+=$(awk "BEGIN { printf \"%.3f\", $get_rate / $read_rate }")$'\n'
    done
    printf '%11s %8s %8.0f %10.0f %7.3f [%s]\n' "$connections" "$pipeline" \
        "$(printf %s "$gets" | median)" "$(printf %s "$reads" | median)" \
        "$(printf %s "$ratios" | median)" "$(printf %s "$ratios" | paste -sd ' ')"
done
