#!/usr/bin/env bash
# Plants each bug of tests/mutants/, one at a time, and says what convicts it: a unit test of the
# replicas, a seed of the simulator, or nothing.
#
#   tests/mutants.sh DIRECTORY [SEEDS] [NAME..]
#
# DIRECTORY gets a copy of the repository as it is committed, and what is built of it; the simulator runs
# up to SEEDS seeds (5,000 unless told) on THREADS threads (2 unless told).
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
root=$(dirname "$here")
place=${1:?"usage: $0 DIRECTORY [SEEDS] [NAME..]"}
seeds=${2:-5000}
shift $(($# < 2 ? $# : 2))
names=("$@")
threads=${THREADS:-2}

mkdir -p "$place"
place=$(cd "$place" && pwd)
tree=$place/tree
export CARGO_TARGET_DIR=$place/target
[ -d "$tree" ] || git -C "$root" worktree add --detach --quiet "$tree"
git -C "$tree" checkout --quiet --force --detach "$(git -C "$root" rev-parse HEAD)"

# What failed, in a line; nothing if nothing did.
unit_tests() {
    local log=$1
    if timeout 1200 cargo test -j2 --lib -p gridkv-cluster -p gridkv-storage --no-fail-fast -- replica \
        >"$log" 2>&1; then
        return
    fi
    sed -n 's/^test \(.*\) \.\.\. FAILED$/\1/p' "$log" | sort -u | paste -sd ' '
    grep -q '^test .*FAILED$' "$log" || echo "what does not build: $log"
}

simulator() {
    local log=$1
    timeout 1200 cargo build --release --quiet -j2 -p gridkv-tests --bin sim 2>"$log"
    if timeout 7200 "$CARGO_TARGET_DIR/release/sim" \
        --first 0 --seeds "$seeds" --threads "$threads" --failures 1 >>"$log" 2>&1; then
        return
    fi
    grep -m1 -o 'seed 0x[0-9a-f]* failed: .*' "$log" | cut -c1-160 || echo "an end without words: $log"
}

survived=0
for patch in "$here"/mutants/*.patch; do
    name=$(basename "$patch" .patch)
    if [ ${#names[@]} -gt 0 ] && [[ ! " ${names[*]} " == *" $name "* ]]; then
        continue
    fi
    git -C "$tree" checkout --quiet --force .
    if ! git -C "$tree" apply --recount -C1 "$patch"; then
        echo "$name: does not apply any more"
        survived=1
        continue
    fi
    cd "$tree"
    by_test=$(unit_tests "$place/$name.tests.log")
    by_seed=$(simulator "$place/$name.sim.log")
    cd - >/dev/null
    echo "$name"
    echo "    unit tests: ${by_test:-survived}"
    echo "    simulator:  ${by_seed:-survived $seeds seeds}"
    [ -n "$by_seed" ] || survived=1
done
git -C "$tree" checkout --quiet --force .
exit $survived
