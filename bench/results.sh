#!/usr/bin/env bash
# Measures everything that bench/RESULTS.md tells, beside what people have, and writes it there.
# Servers run on processor 0, the load on processor 1; each pair of a comparison is one run after
# the other on the same machine. Takes about 20 minutes; nothing else should run meanwhile.
#
# Usage: bench/results.sh DIR [SECTION...]
#   DIR       a directory on the disk to measure
#   SECTION   generator memory memcached durable ycsb in-core stores replicated faults; default: all.
#             With some sections only, they are printed and RESULTS.md stays as it is.
#   PAIRS=5 SECONDS_EACH=2 in the environment change how often and how long.
set -euo pipefail
fail() { echo "results: $*" >&2; exit 1; }
[ $# -ge 1 ] || fail "DIR is needed: a directory on the disk to measure"
mkdir -p "$1"
dir=$(cd "$1" && pwd)
shift
[ "$(stat -f -c %T "$dir")" != tmpfs ] || fail "$dir is in memory: a sync costs nothing there"
cd "$(dirname "$0")/.."
all=(generator memory memcached durable ycsb in-core stores replicated faults)
sections=("$@")
[ $# -gt 0 ] || sections=("${all[@]}")
packages="redis-server redis-tools memcached etcd-server etcd-client"
for program in redis-server redis-benchmark memcached etcd etcdctl taskset; do
    command -v "$program" >/dev/null || fail "$program is needed: apt-get install $packages"
done
pairs=${PAIRS:-5} seconds=${SECONDS_EACH:-2}
cargo build --release -q -p gridkv -p gridkv-bench
cargo bench -q -p gridkv-bench --bench stores --no-run
bin=${CARGO_TARGET_DIR:-target}/release
out=$(mktemp)
log=$(mktemp)
responder=''
failures=0
trap 'kill $responder 2>/dev/null || true; rm -f "$out" "$log"' EXIT

heading() { printf '\n## %s\n\n' "$*" >>"$out"; }
say() { printf '%s\n\n' "$*" >>"$out"; }
# What a program that is not gridkv-bench prints.
# One measurement that fails does not take the others with it; RESULTS.md stays as it is, though.
missed() { failures=$((failures + 1)); cat "$log" >&2; echo "results: FAILED: $*" >&2; printf 'FAILED: %s\n\n' "$*" >>"$out"; }
quote() { { printf '```text\n$ %s\n' "$1"; tail -n "${2:-40}"; printf '```\n\n'; } >>"$out"; }

bench() { # title, arguments of gridkv-bench...
    local title=$1
    shift
    echo "results: $title" >&2
    "$bin/gridkv-bench" "$@" --title "$title" --markdown "$out" >"$log" 2>&1 || missed "$title"
}

window=(--warmup 500ms --duration "${seconds}s")
gridkv="$bin/gridkv --cpus 0 --listen 127.0.0.1:{port} --admin off"
redis="redis-server --port {port} --save ''"
beside=(compare --a-name GridKV --server-cpus 0 --client-cpus 1 --pairs "$pairs" "${window[@]}" --dir "$dir")

generator() {
    heading "The load generator itself"
    say "Against \`gridkv-bench respond\`, which parses requests and answers at once, on processor 0; the generator on processor 1."
    taskset -c 0 "$bin/gridkv-bench" respond --listen 127.0.0.1:17390 >/dev/null &
    responder=$!
    sleep 1
    local run=(run resp://127.0.0.1:17390 --client-cpus 1 -P 64 "${window[@]}")
    bench "GET, 4 connections, pipeline 64" "${run[@]}" -c 4 --reads 1
    bench "SET, 4 connections, pipeline 64" "${run[@]}" -c 4 --reads 0
    bench "YCSB A (values of 1 KB), 4 connections, pipeline 64" "${run[@]}" -c 4 --workload ycsb-a
    local line="taskset -c 1 redis-benchmark -p 17390 -t get,set -n 5000000 -r 1000000 -d 64 -c 4 -P 64 -q"
    $line 2>/dev/null | tr '\r' '\n' | grep 'requests per second' | quote "$line"
    say "redis-benchmark keeps ready-made requests and changes the digits of their keys; it sends one value all the time."
    kill $responder
    wait $responder 2>/dev/null || true
    responder=''
}

memory() {
    heading "In memory, beside redis-server"
    for pipeline in 1 16 64; do
        for reads in 1 0; do
            local name=GET
            [ $reads = 1 ] || name=SET
            bench "$name, 50 connections, pipeline $pipeline" "${beside[@]}" --b-name redis-server \
                --a-cmd "$gridkv --storage memory" --b-cmd "$redis --appendonly no" \
                --load --keys 1000000 -c 50 -P $pipeline --reads $reads
        done
    done
}

memcached() {
    heading "In memory, beside memcached"
    say "memcached with one worker thread, in its text protocol; GridKV in RESP."
    for pipeline in 1 16; do
        for reads in 1 0; do
            local name=GET
            [ $reads = 1 ] || name=SET
            bench "$name, 50 connections, pipeline $pipeline" "${beside[@]}" --b-name memcached \
                --a-cmd "$gridkv --storage memory" auto memcached://127.0.0.1:{port} \
                --b-cmd "memcached -l 127.0.0.1 -p {port} -U 0 -t 1 -m 1024 -u root" \
                --load --keys 1000000 -c 50 -P $pipeline --reads $reads
        done
    done
}

durable() {
    heading "On disk, beside redis-server with appendfsync always"
    say "An answered write is on disk on both sides: \`durability = commit\` and \`appendfsync always\`."
    for shape in "1 1" "50 1" "50 16"; do
        set -- $shape
        bench "SET, $1 connections, pipeline $2" "${beside[@]}" --b-name redis-server \
            --a-cmd "$gridkv --data {dir}/data --durability commit" \
            --b-cmd "$redis --dir {dir} --appendonly yes --appendfsync always --auto-aof-rewrite-percentage 0" \
            --load --keys 200000 --reads 0 -c "$1" -P "$2"
    done
}

ycsb() {
    heading "YCSB A to F in memory, beside redis-server"
    say "100,000 rows of 1 KB, 50 connections, pipeline 4. A scan of E is one \`MGET\` of 1 to 100 keys on both sides: neither has keys in an order."
    for letter in a b c d e f; do
        bench "YCSB ${letter^^}" "${beside[@]}" --b-name redis-server \
            --a-cmd "$gridkv --storage memory" --b-cmd "$redis --appendonly no" \
            --load --keys 100000 -c 50 -P 4 --workload ycsb-$letter
    done
}

in-core() {
    heading "The engine without sockets"
    say "GETs of one core, from closures on it: no socket, no hop. 1 M keys of 16 B, values of 64 B."
    for batch in 1 16; do
        bench "batches of $batch" run in-core --cpus 0 --load --keys 1000000 --reads 1 --batch $batch "${window[@]}"
    done
    say "From another thread, which the hop to the core and back costs."
    for calls in "blocking 1" "async 64" "batch 64"; do
        set -- $calls
        bench "embedded, $1 calls, $2 at once" run embedded --cpus 0 --client-cpus 1 --load --keys 1000000 \
            --reads 1 --calls "$1" -P "$2" "${window[@]}"
    done
}

stores() {
    heading "Beside redb and fjall in one process"
    for line in \
        "--durability commit --reads 0 --threads 1" \
        "--durability commit --reads 0 --threads 8" \
        "--durability commit --reads 0 --threads 1 --calls batch -P 64" \
        "--durability commit --reads 0.95 --threads 8" \
        "--durability none --reads 0.5 --threads 1" \
        "--durability none --reads 1 --threads 1 --calls batch -P 64"; do
        echo "results: stores $line" >&2
        line="--keys 200000 --load $line --pairs $pairs --warmup 500ms --duration ${seconds}s"
        # shellcheck disable=SC2086
        cargo bench -q -p gridkv-bench --bench stores -- --dir "$dir" $line 2>"$log" |
            quote "cargo bench -p gridkv-bench --bench stores -- --dir DIR $line" 60 || missed "stores $line"
    done
}

replicated() {
    heading "Three copies, beside redis-server with replicas and beside etcd"
    echo "results: replicated" >&2
    MARKDOWN=$out bench/compare_cluster.sh memory "$dir" "$pairs" "$seconds" >"$log" 2>&1 || missed "replicated, in memory"
    MARKDOWN=$out bench/compare_cluster.sh disk "$dir" "$pairs" "$seconds" >"$log" 2>&1 || missed "replicated, on disk"
}

faults() {
    heading "A cluster of three while nodes are killed and paused"
    bench "one node killed, started again, another paused" cluster --dir "$dir" --node '--cores 1' \
        --load --keys 100000 -c 20 --rate 5000 --arrivals fixed --warmup 2s --duration 20s \
        --fault 4s:kill:2 --fault 9s:restart:2 --fault 13s:pause:3:2s
}

{
    printf 'Written by `bench/results.sh` on %s, commit %s%s.\n\n' "$(date -u +%Y-%m-%d)" "$(git rev-parse --short HEAD)" \
        "$(git diff --quiet HEAD -- . ':!bench/RESULTS.md' || echo ' with changes')"
    printf 'Machine: %s, %s processors, %s GiB, Linux %s; the disk of DIR is %s.\n' \
        "$(sed -n 's/^model name.*: //p' /proc/cpuinfo | head -1)" "$(nproc)" \
        "$(awk '/MemTotal/ { printf "%.0f", $2 / 1048576 }' /proc/meminfo)" "$(uname -r)" \
        "$(stat -f -c %T "$dir")"
    printf 'Peers: redis-server %s, memcached %s, etcd %s, redb %s, fjall %s.\n\n' \
        "$(redis-server --version | sed 's/.*v=\([^ ]*\).*/\1/')" "$(command memcached -V | sed 's/memcached //')" \
        "$(etcd --version | sed -n 's/etcd Version: //p')" \
        "$(sed -n '/^name = "redb"$/{n;s/version = "\(.*\)"/\1/p}' Cargo.lock)" \
        "$(sed -n '/^name = "fjall"$/{n;s/version = "\(.*\)"/\1/p}' Cargo.lock)"
    printf 'A is always GridKV. A ratio is the geometric mean over %s pairs of runs of %s s, in turn; "no difference" means that\n' "$pairs" "$seconds"
    printf 'its 95 %% confidence interval holds 1. Client and servers share the machine and its caches, and talk over loopback.\n'
} >>"$out"
for section in "${sections[@]}"; do
    case " ${all[*]} " in *" $section "*) "$section" ;; *) fail "no section $section: there are ${all[*]}" ;; esac
done
# What only this script added to the commands, and its directory.
sed -i -E -e "s/ --title ('[^']*'|[^ ]+)//; s/ --markdown [^ ]+//; s# --dir [^ ]+# --dir DIR#; s#^/[^ ]*/stores-[0-9a-f]+ #stores #; s#$bin/##g" "$out"
if [ $# -gt 0 ] || [ $failures -gt 0 ]; then
    cat "$out"
    exit $((failures > 0))
fi
# Between its marks the file is written anew; what people have found stays below.
awk -v file="$out" '
    /^<!-- measured: begin -->$/ { print; while ((getline line < file) > 0) print line; skip = 1 }
    /^<!-- measured: end -->$/ { skip = 0 }
    !skip { print }' bench/RESULTS.md >"$log"
cp "$log" bench/RESULTS.md
echo "results: bench/RESULTS.md is written" >&2
