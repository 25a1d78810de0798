#!/usr/bin/env bash
# GridKV beside Debian's redis-server (memory only), both on one processor, the client on another,
# in turn. Prints what gridkv-bench compare prints. Usage: bench/compare_redis.sh [PAIRS] [SECONDS]
set -euo pipefail
cd "$(dirname "$0")/.."
pairs=${1:-5} seconds=${2:-2}
command -v redis-server >/dev/null || { echo "redis-server is needed: apt-get install redis-server" >&2; exit 1; }
cargo build --release -q -p gridkv -p gridkv-bench
bin=${CARGO_TARGET_DIR:-target}/release
servers=(--a-cmd "$bin/gridkv --storage memory --cpus 0 --listen 127.0.0.1:{port} --admin off"
    --b-cmd 'redis-server --port {port} --save "" --appendonly no' --server-cpus 0)
common=(--load --keys 1000000 --value-size 64 -c 50 --client-cpus 1 --pairs "$pairs" --duration "${seconds}s" --warmup 500ms)
for pipeline in 1 16 64; do
    for reads in 1 0; do
        "$bin/gridkv-bench" compare "${servers[@]}" "${common[@]}" --reads "$reads" -P "$pipeline"
        echo
    done
done
