#!/usr/bin/env bash
# A GridKV cluster of three nodes beside its peers, on one machine: all servers on one processor, the
# client on another.
#   memory: quorum writes beside redis-server with two replicas and WAIT 1 after each SET, in turn;
#           quorum, linearizable and unreplicated requests beside each other.
#   disk:   quorum writes with durability = commit beside an etcd of three members.
# Usage: bench/compare_cluster.sh memory|disk DIR [PAIRS] [SECONDS]
#   MARKDOWN=FILE in the environment appends what is measured to that file too.
set -euo pipefail
fail() { echo "compare_cluster: $*" >&2; exit 1; }
[ $# -ge 2 ] || fail "memory or disk, and DIR are needed: a directory on the disk to measure"
kind=$1
mkdir -p "$2"
dir=$(cd "$2" && pwd) pairs=${3:-5} seconds=${4:-2}
cd "$(dirname "$0")/.."
case $kind in
    memory) needed="redis-server redis-cli taskset" storage=memory ;;
    disk) needed="etcd etcdctl taskset" storage=file ;;
    *) fail "memory or disk is needed, not $kind" ;;
esac
for program in $needed; do
    command -v "$program" >/dev/null || fail "$program is needed: apt-get install redis-server etcd-server etcd-client"
done
cargo build --release -q -p gridkv -p gridkv-bench
bin=${CARGO_TARGET_DIR:-target}/release
data=$(mktemp -d "$dir/compare-cluster.XXXXXX")
trap 'kill $(jobs -p) 2>/dev/null || true; wait 2>/dev/null || true; rm -rf "$data"' EXIT

# What a report is called, and where else it goes.
report() { printf '%s\n' --title "$1"; [ -z "${MARKDOWN:-}" ] || printf '%s\n' --markdown "$MARKDOWN"; }
quote() { if [ -n "${MARKDOWN:-}" ]; then { printf '```text\n'; tee /dev/stderr; printf '```\n\n'; } >>"$MARKDOWN"; else cat; fi; }

wait_for() { # what, command...
    local what=$1
    shift
    for _ in $(seq 300); do
        if "$@" >/dev/null 2>&1; then return; fi
        sleep 0.1
    done
    fail "$what did not start: see $data"
}

node() { # number, port, options...
    local number=$1 port=$2
    shift 2
    "$bin/gridkv" --cpus 0 --storage $storage --data "$data/n$number" --listen 127.0.0.1:$port \
        --admin 127.0.0.1:$((port + 1000)) "$@" >"$data/n$number.log" 2>&1 &
}

members_alive() { # count
    [ "$("$bin/gridkv" status --admin 127.0.0.1:18381 --json | grep -o '"state":"alive"' | wc -l)" = "$1" ]
}

node 1 17381 --cluster 127.0.0.1:17481
for number in 2 3; do
    node $number 1738$number --cluster 127.0.0.1:1748$number --join 127.0.0.1:17481
done
wait_for "the cluster" members_alive 3
peers=127.0.0.1:17382,127.0.0.1:17383
cluster=resp://127.0.0.1:17381?peers=$peers
options=(--keys 100000 --value-size 64 --client-cpus 1 -c 50)

if [ $kind = memory ]; then
    for port in 17391 17392 17393; do
        mkdir "$data/redis$port"
        taskset -c 0 redis-server --port $port --dir "$data/redis$port" --save '' --appendonly no \
            $([ $port = 17391 ] || echo --replicaof 127.0.0.1 17391) >"$data/redis$port.log" 2>&1 &
    done
    # The replicas are up to date when a write reaches both.
    both() { [ "$(redis-cli -p 17391 set x 1 >/dev/null && redis-cli -p 17391 wait 2 100)" = 2 ]; }
    wait_for "redis-server" both
    redis="resp://127.0.0.1:17391?wait=1&peers=127.0.0.1:17392,127.0.0.1:17393"
    node 4 17384
    wait_for "a node alone" redis-cli -p 17384 ping
    "$bin/gridkv-bench" run "$cluster" --load "${options[@]}" -P 16 --warmup 0s --duration 1s >/dev/null
    "$bin/gridkv-bench" run resp://127.0.0.1:17384 --load "${options[@]}" -P 16 --warmup 0s --duration 1s >/dev/null
    echo "== writes at quorum beside redis-server with two replicas and WAIT 1"
    mapfile -t to < <(report "Writes of two of three copies: GridKV at quorum, redis-server with WAIT 1")
    "$bin/gridkv-bench" compare "${to[@]}" --a-name GridKV --b-name redis-server "$cluster" "$redis" "${options[@]}" --reads 0 --pairs "$pairs" \
        --warmup 500ms --duration "${seconds}s"
    run() { # title, target, options...
        local title=$1 target=$2
        shift 2
        echo "== $title"
        mapfile -t to < <(report "$title")
        "$bin/gridkv-bench" run "$target" "${to[@]}" "${options[@]}" --warmup 500ms --duration "${seconds}s" "$@"
    }
    for level in quorum linearizable; do
        run "SET at $level" "$cluster&consistency=$level" --reads 0
        run "GET at $level" "$cluster&consistency=$level" --reads 1
    done
    redis-cli -p 17381 flushall >/dev/null
    run "INCR, 100,000 keys" "$cluster" --mix incr=1
    run "SET on one node without replicas" resp://127.0.0.1:17384 --reads 0
    run "GET on one node without replicas" resp://127.0.0.1:17384 --reads 1
    contend() { # keys: INCR from three nodes at the same time
        redis-cli -p 17381 flushall >/dev/null
        echo "== INCR of $1 key(s) through all three nodes, 16 connections each"
        for port in 17381 17382 17383; do
            "$bin/gridkv-bench" run "resp://127.0.0.1:$port" --keys "$1" --client-cpus 1 -c 16 \
                --mix incr=1 --warmup 0s -n 40000 --json "$data/incr$port.json" >/dev/null &
            contenders[${#contenders[@]}]=$!
        done
        wait "${contenders[@]}"
        contenders=()
        sum=$(redis-cli -p 17381 keys '*' | xargs redis-cli -p 17381 mget | awk '{ sum += $1 } END { print sum }')
        echo "sum $sum of 120000 increments"
        cat "$data"/incr*.json | tr ',{' '\n\n' | grep -E '"(rate|p50|p99)' | tr '\n' ' '
        echo
        curl -sf http://127.0.0.1:18381/metrics | grep -E '^gridkv_cluster_(rounds|changes|retries|unknown)_total'
    }
    contenders=()
    contend 1
    contend 1000
else
    names=e1=http://127.0.0.1:17581,e2=http://127.0.0.1:17582,e3=http://127.0.0.1:17583
    for number in 1 2 3; do
        taskset -c 0 etcd --name e$number --data-dir "$data/e$number" --log-level error \
            --listen-client-urls http://127.0.0.1:1759$number \
            --advertise-client-urls http://127.0.0.1:1759$number \
            --listen-peer-urls http://127.0.0.1:1758$number \
            --initial-advertise-peer-urls http://127.0.0.1:1758$number \
            --initial-cluster $names --initial-cluster-state new >"$data/e$number.log" 2>&1 &
    done
    export ETCDCTL_API=3
    wait_for etcd etcdctl --endpoints 127.0.0.1:17591,127.0.0.1:17592,127.0.0.1:17593 endpoint health
    echo "== etcd, three members: its own load, up to 8,000 writes a second from 500 clients, for a minute"
    {
        echo '$ etcdctl check perf --load l    # three members on processor 0: at most 8,000 writes a second, 500 clients'
        taskset -c 1 etcdctl --endpoints 127.0.0.1:17591,127.0.0.1:17592,127.0.0.1:17593 check perf --load l \
            2>&1 | tr '\r' '\n' | grep -aE 'FAIL|PASS' || true
    } | quote
    echo "== GridKV, writes at quorum, durability = commit"
    "$bin/gridkv-bench" run "$cluster" --load "${options[@]}" -P 16 --warmup 0s --duration 1s >/dev/null
    for connections in 50 500; do
        mapfile -t to < <(report "GridKV: SET at quorum, three copies on disk, $connections connections")
        "$bin/gridkv-bench" run "$cluster" "${to[@]}" --keys 100000 --value-size 64 --client-cpus 1 -c $connections \
            --reads 0 --warmup 1s --duration "$((seconds * pairs))s"
    done
fi
