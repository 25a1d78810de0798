#!/usr/bin/env bash
# Two builds of gridkv beside each other as clusters of three copies in memory, in one run: all nodes on one
# processor, the client on another. What a request costs is the processor time of all three nodes.
#
#   bench/cluster_versions.sh DIR BEFORE AFTER >section.md
#
# BEFORE and AFTER are programs `gridkv`; DIR is a directory for what they keep. Ratios are of AFTER to BEFORE:
# rates above 1 are faster, processor time below 1 is less. PAIRS, SECONDS_EACH and VALUE_SIZE say how much.
set -euo pipefail
cd "$(dirname "$0")/.."
dir=${1:?a directory}
before=$(realpath "${2:?the program before}")
after=$(realpath "${3:?the program after}")
bin=${CARGO_TARGET_DIR:-target}/release
mkdir -p "$dir"
data=$(mktemp -d "$dir/cluster-versions.XXXXXX")
trap 'kill $(jobs -p) 2>/dev/null || true; wait 2>/dev/null || true; rm -rf "$data"' EXIT

cluster() { # program, first port
    local program=$1 port=$2 number join
    for number in 1 2 3; do
        join=()
        [ $number = 1 ] || join=(--join 127.0.0.1:$((port + 101)))
        "$program" --cpus 0 --storage memory --data "$data/$port-$number" --listen 127.0.0.1:$((port + number)) \
            --admin 127.0.0.1:$((port + 200 + number)) --cluster 127.0.0.1:$((port + 100 + number)) "${join[@]}" \
            >"$data/$port-$number.log" 2>&1 &
    done
    for number in 1 2 3; do
        for _ in $(seq 300); do
            if curl -sf "127.0.0.1:$((port + 200 + number))/readyz" >/dev/null; then continue 2; fi
            sleep 0.1
        done
        echo "cluster_versions: node $number of $program does not become ready: see $data" >&2
        exit 1
    done
    # /readyz of a single node says so before the others have joined.
    for _ in $(seq 300); do
        if [ "$(curl -s "127.0.0.1:$((port + 201))/status" | grep -o '"state":"alive"' | wc -l)" = 3 ]; then return; fi
        sleep 0.1
    done
    exit 1
}

target() { # first port, level
    echo "resp://127.0.0.1:$(($1 + 1))?peers=127.0.0.1:$(($1 + 2)),127.0.0.1:$(($1 + 3))&consistency=$2"
}

cluster "$before" 17600
cluster "$after" 17000
for level in quorum linearizable; do
    for reads in 0 1; do
        title="$([ $reads = 0 ] && echo SET || echo GET) at $level"
        echo "cluster_versions: $title" >&2
        "$bin/gridkv-bench" compare --a-name after --b-name before "$(target 17000 $level)" "$(target 17600 $level)" \
            --keys "${KEYS:-100000}" --value-size "${VALUE_SIZE:-64}" --client-cpus 1 -c 50 --reads $reads \
            --pairs "${PAIRS:-5}" --warmup 300ms --duration "${SECONDS_EACH:-2}s" --load --title "$title" \
            --markdown "$data/report.md" >/dev/null
    done
done
cat "$data/report.md"
