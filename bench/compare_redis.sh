#!/usr/bin/env bash
# GridKV beside Debian's redis-server (memory only), both on one processor, the client on another,
# in turn. Prints what gridkv-bench compare prints. Usage: bench/compare_redis.sh [PAIRS] [SECONDS]
set -euo pipefail
cd "$(dirname "$0")/.."
pairs=${1:-5} seconds=${2:-2}
command -v redis-server >/dev/null || { echo "redis-server is needed: apt-get install redis-server" >&2; exit 1; }
cargo build --release -q -p gridkv -p gridkv-bench
taskset -c 0 redis-server --port 17379 --save '' --appendonly no --daemonize no >/dev/null &
redis=$!
./target/release/gridkv --storage memory --cpus 0 --listen 127.0.0.1:17380 --admin off 2>/dev/null &
gridkv=$!
trap 'kill $redis $gridkv 2>/dev/null' EXIT
sleep 1
common=(--load --keys 1000000 --value-size 64 -c 50 --client-cpus 1 --pairs "$pairs" --duration "${seconds}s" --warmup 500ms)
for pipeline in 1 16 64; do
    for reads in 1 0; do
        ./target/release/gridkv-bench compare resp://127.0.0.1:17380 resp://127.0.0.1:17379 "${common[@]}" --reads "$reads" -P "$pipeline"
        echo
    done
done
