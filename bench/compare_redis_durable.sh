#!/usr/bin/env bash
# GridKV's writes on disk beside those of Debian's redis-server: both on one processor and one disk,
# the client on another processor, in turn. First answers that mean "on disk" (durability = commit,
# appendfsync always), then those that mean "on disk within a second". Prints what gridkv-bench
# compare prints, a block for each setting, and what GridKV's log did meanwhile.
# Usage: bench/compare_redis_durable.sh DIR [PAIRS] [SECONDS]
set -euo pipefail
fail() { echo "compare_redis_durable: $*" >&2; exit 1; }
[ $# -ge 1 ] || fail "DIR is needed: a directory on the disk to measure"
mkdir -p "$1"
dir=$(cd "$1" && pwd) pairs=${2:-5} seconds=${3:-2}
cd "$(dirname "$0")/.."
for program in redis-server curl taskset; do
    command -v "$program" >/dev/null || fail "$program is needed: apt-get install $program"
done
[ "$(stat -f -c %T "$dir")" != tmpfs ] || fail "$dir is in memory: a sync costs nothing there"
cargo build --release -q -p gridkv -p gridkv-bench
bin=${CARGO_TARGET_DIR:-target}/release
data=$(mktemp -d "$dir/compare-durable.XXXXXX")
redis='' gridkv=''
stop() {
    kill $redis $gridkv 2>/dev/null || true
    wait 2>/dev/null || true
    redis='' gridkv=''
}
trap 'stop; rm -rf "$data"' EXIT

ping() { (exec 3<>"/dev/tcp/127.0.0.1/$1" && printf 'PING\r\n' >&3 && head -c 5 <&3); }

# Waits until the process $1 answers on port $2; its log is $3.
await() {
    for _ in $(seq 200); do
        kill -0 "$1" 2>/dev/null || { cat "$3" >&2; fail "the server did not start"; }
        if [ "$(ping "$2" 2>/dev/null)" = +PONG ]; then return; fi
        sleep 0.1
    done
    cat "$3" >&2
    fail "no answer on port $2"
}

# Starts both on new directories, with GridKV's durability $1 and Redis' appendfsync $2.
start() {
    rm -rf "$data"/*
    mkdir "$data/redis"
    taskset -c 0 redis-server --port 17379 --dir "$data/redis" --save '' --appendonly yes \
        --appendfsync "$2" --auto-aof-rewrite-percentage 0 --daemonize no >"$data/redis.log" 2>&1 &
    redis=$!
    "$bin/gridkv" --cpus 0 --listen 127.0.0.1:17380 --admin 127.0.0.1:17381 --storage file \
        --data "$data/gridkv" --durability "$1" >"$data/gridkv.log" 2>&1 &
    gridkv=$!
    await $redis 17379 "$data/redis.log"
    await $gridkv 17380 "$data/gridkv.log"
    # Both have all keys, and files that have grown, before anything is measured: the first files of
    # a log are slower than those that are used again.
    for port in 17380 17379; do
        "$bin/gridkv-bench" run resp://127.0.0.1:$port --load "${keys[@]}" -c 50 -P 16 --reads 0 \
            --warmup 0s --duration 3s >/dev/null
    done
}

# What GridKV's log has done so far: durable writes, and the mutations that they carried.
log_counts() {
    curl -sf http://127.0.0.1:17381/metrics | awk '
        $1 == "gridkv_log_syncs_total" { syncs = $2 } $1 == "gridkv_log_records_total" { records = $2 }
        END { printf "%.0f %.0f\n", syncs, records }'
}

# Compares at $1 connections and pipeline $2.
compare() {
    local before after
    read -r -a before < <(log_counts)
    "$bin/gridkv-bench" compare resp://127.0.0.1:17380 resp://127.0.0.1:17379 "${keys[@]}" \
        --client-cpus 1 --reads 0 -c "$1" -P "$2" --pairs "$pairs" --warmup 500ms --duration "${seconds}s"
    read -r -a after < <(log_counts)
    awk -v syncs=$((after[0] - before[0])) -v records=$((after[1] - before[1])) \
        -v time="$(awk "BEGIN { print $pairs * ($seconds + 0.5) }")" 'BEGIN {
        if (syncs > 0) printf "gridkv log    %.0f syncs/s, %.1f mutations a sync\n", syncs / time, records / syncs
    }'
    echo
}

keys=(--keys 1000000 --value-size 64)
echo "=== commit / always"
start commit always
compare 1 1
compare 50 1
compare 50 16
stop
echo "=== interval:1s / everysec"
start interval:1s everysec
compare 50 16
