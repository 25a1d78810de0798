#!/usr/bin/env bash
# Changes the code in small ways, one at a time, and names the changes that no unit test notices.
#
#   tests/mutation.sh [FILE...]
#
# FILE is a path from the root of the repository; without one, the files of cluster/src/replication in
# which it is decided what a client is told. Needs cargo-mutants (cargo install cargo-mutants --locked) and
# a few seconds for each change.
#
# - The judge are the unit tests of replication in gridkv-cluster, without those that take long: the fuzz
#   tests, and the one of 100,000 writes. Tests that do not end within MUTANT_SECONDS (5) have noticed it.
# - It works on a copy of the files that git knows, as they are now, without optimization.
# - Everything lies in target/mutation: the copy, what was built, and what cargo-mutants says, out/mutants.out.
# - Survivors that are no gaps are listed in tests/mutation.survivors, each under its reason, by the text of
#   their line: whoever changes the line judges anew. Others are printed, and make this fail.
set -euo pipefail
cd "$(dirname "$0")/.."

files=("$@")
if [ ${#files[@]} -eq 0 ]; then
    files=(
        cluster/src/replication/{replica,round,read,write,op,unconfirmed,catch_up}.rs
        cluster/src/replication/coordinator/{changes,plain,settle,views,feeding,clocks,skew}.rs
    )
fi
known=$PWD/tests/mutation.survivors
room=$(realpath -m "${CARGO_TARGET_DIR:-target}/mutation")
tree=$room/tree
rm -rf "$tree" "$room/out"
mkdir -p "$tree" "$room/out"

# Times are kept, so that only what may have changed is built again: what was built last is a mutant.
git ls-files --cached --others --exclude-standard -z |
    tar --null --ignore-failed-read --files-from=- --create --file=- |
    tar --extract --file=- --directory="$tree"
touch "$tree/cluster/src/lib.rs"
mkdir -p "$tree/.cargo"
cat > "$tree/.cargo/config.toml" <<'CONFIG'
[profile.dev]
debug = 0
[profile.dev.package.gridkv-cluster]
opt-level = 0
CONFIG

selected=()
for file in "${files[@]}"; do
    [ -f "$file" ] || { echo "there is no $file" >&2; exit 2; }
    selected+=(--file "$file")
done
# It fails when something survives, which is judged below.
CARGO_TARGET_DIR=$room/build cargo mutants --dir "$tree" --in-place --output "$room/out" \
    --package gridkv-cluster "${selected[@]}" --no-shuffle --colors never --no-times \
    --timeout "${MUTANT_SECONDS:-5}" --cargo-arg=--lib -- \
    replication -- --skip fuzz:: --skip a_replica_that_stands_still || [ $? -eq 2 ] || [ $? -eq 3 ]

cd "$room/out/mutants.out"
# A survivor as the list has it: file, change and line of code, without the number of the line.
while IFS=: read -r file line column change; do
    code=$(sed -n "${line}p" "$tree/$file" | sed 's/^ *//')
    printf '%s:%s @ %s\n' "$file" "$change" "$code"
done < missed.txt > survivors.txt
grep -v '^#' "$known" | grep . | sort > known.txt || true
sort survivors.txt | comm -12 - known.txt > listed.txt
sort survivors.txt | comm -23 - known.txt > left.txt

# How many changes of a file are in these lists.
rows() {
    local file=$1
    shift
    cat "$@" | grep -c "^$file:" || true
}
printf '\n%-52s %7s %7s %7s %9s\n' file caught listed left unviable
for file in "${files[@]}"; do
    printf '%-52s %7s %7s %7s %9s\n' "$file" "$(rows "$file" caught.txt timeout.txt)" \
        "$(rows "$file" listed.txt)" "$(rows "$file" left.txt)" "$(rows "$file" unviable.txt)"
done
if [ -s left.txt ]; then
    printf '\nNo test notices:\n'
    cat left.txt
    exit 1
fi
