//! The token table beside the plain shape it has to beat, in one run: a fixed directory of
//! `hashbrown::HashTable` segments whose items are single allocations.
//!
//! ```text
//! taskset -c 0 cargo bench -p gridkv-bench --bench table
//! ```
//!
//! Both hold the same keys (16 B) and values (64 B) and are asked for the same keys in the same
//! order. Times are per GET, of the hash too, with the value's first and last byte looked at; the
//! ratio is what to compare, since memory latency on a shared machine changes from run to run.
//!
//! Then keys that share a hash tag, so the first bits of their tokens, beside keys that share none:
//! to write and to read them should cost about the same.

#![expect(clippy::print_stdout, reason = "a bench prints what it measured")]

use std::hint::black_box;
use std::process::Command;
use std::sync::LazyLock;
use std::time::Instant;

use gridkv::storage::{Eviction, Lookup, Options, Record, Registry, Storage, Tombstones};
use gridkv::{Mutation, NodeId, ShardRange, Timestamp, Token, TokenKey, Version, WallTime};
use hashbrown::HashTable;

static TOKEN_KEY: LazyLock<TokenKey> = LazyLock::new(|| TokenKey::new([7; TokenKey::BYTES]));

fn token_of(key: &[u8]) -> Token {
    TOKEN_KEY.token(key)
}

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const KEY_COUNT: u64 = 1_000_000;
const GET_COUNT: usize = 4_000_000;
const ROUNDS: usize = 5;
const BATCH: usize = 16;
/// What this program is called with to measure the one or the other.
const UNTAGGED: &str = "untagged";
const TAGGED: &str = "tagged";
const TAGGED_KEY_COUNT: u64 = 5_000_000;
const KEY_BYTES: usize = 16;
const VALUE: [u8; 64] = [7; 64];
const NOW: WallTime = WallTime::from_millis(1_700_000_000_000);

type Key = [u8; KEY_BYTES];

fn key(index: u64) -> Key {
    format!("key:{index:012}").into_bytes().try_into().expect("sixteen bytes")
}

/// The plain shape: a directory on the top 11 bits, key and value in one boxed slice.
struct Plain {
    directory: Vec<HashTable<Box<[u8]>>>,
}

impl Plain {
    fn slot(token: Token) -> (usize, u64) {
        (usize::try_from(token.0 >> 53).expect("eleven bits"), token.0.rotate_left(11))
    }

    fn insert(&mut self, key: &Key) {
        let (segment, hash) = Self::slot(token_of(key));
        let item: Box<[u8]> = [key.as_slice(), &VALUE].concat().into();
        self.directory[segment]
            .insert_unique(hash, item, |item| Self::slot(token_of(&item[..KEY_BYTES])).1);
    }

    fn get(&self, key: &Key) -> Option<&[u8]> {
        let (segment, hash) = Self::slot(token_of(key));
        let item = self.directory[segment].find(hash, |item| item[..KEY_BYTES] == *key)?;
        Some(&item[KEY_BYTES..])
    }
}

fn see(value: &[u8]) -> usize {
    usize::from(value[0] & value[value.len() - 1])
}

/// What a store in memory has found.
fn found(lookup: Lookup<'_>) -> Option<Record<'_>> {
    lookup.record().expect("a store in memory has all there")
}

/// Nanoseconds a GET.
fn time(run: impl FnOnce() -> usize) -> f64 {
    let started = Instant::now();
    let seen = run();
    let took = started.elapsed();
    assert_eq!(black_box(seen), GET_COUNT * 7, "every key is found");
    took.as_secs_f64() * 1e9 / GET_COUNT as f64
}

fn open() -> Box<dyn Storage> {
    let options = Options {
        token_key: TOKEN_KEY.clone(),
        range: ShardRange::WHOLE,
        disk: None,
        memory_bytes_max: None,
        eviction: Eviction::Refuse,
        tombstones: Tombstones::Drop,
        seed: 1,
    };
    Registry::default().open("memory", &options).expect("the backend is built in")
}

/// Another number for each, without any order: CRC-16 of numbers that follow each other goes from slot
/// to slot in a pattern, which is kind to a processor's cache.
const fn scrambled(index: u64) -> u64 {
    index.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20
}

fn untagged_key(index: u64) -> Key {
    format!("key::{:011x}", scrambled(index)).into_bytes().try_into().expect("sixteen bytes")
}

/// Keys of the same length, all of one hash tag.
fn tagged_key(index: u64) -> Key {
    format!("{{one}}{:011x}", scrambled(index)).into_bytes().try_into().expect("sixteen bytes")
}

/// A store of many keys, and which of them to ask for.
struct Filled {
    store: Box<dyn Storage>,
    keys: Vec<Key>,
    /// The time of an insertion.
    insert_nanos: f64,
}

impl Filled {
    fn with(key_of: fn(u64) -> Key) -> Self {
        let mut store = open();
        let version = Version { timestamp: Timestamp(1), node: NodeId(1) };
        let started = Instant::now();
        for index in 0..TAGGED_KEY_COUNT {
            let key = key_of(index);
            let mutation = Mutation { key: &key, value: Some(&VALUE), version, expires_at: None };
            store.apply(token_of(&key), &mutation, NOW).expect("there is no bound");
        }
        let insert_nanos = started.elapsed().as_secs_f64() * 1e9 / TAGGED_KEY_COUNT as f64;
        let mut rng = fastrand::Rng::with_seed(5);
        let keys = (0..GET_COUNT).map(|_| key_of(rng.u64(0..TAGGED_KEY_COUNT))).collect();
        Self { store, keys, insert_nanos }
    }

    fn get_nanos(&mut self) -> f64 {
        let Self { store, keys, .. } = self;
        time(|| {
            let get = |key: &Key| found(store.get(token_of(key), key, NOW)).map(|it| see(it.value));
            keys.iter().filter_map(get).sum()
        })
    }

    fn memory_bytes(&self) -> f64 {
        self.store.stats().memory_bytes as f64 / TAGGED_KEY_COUNT as f64
    }
}

/// Fills a store and asks it, and prints what that took, in a process of its own: what a process had
/// before decides which memory it gets, and that changed the times by a half.
fn measure_filled(key_of: fn(u64) -> Key) {
    let mut filled = Filled::with(key_of);
    filled.get_nanos();
    let get_nanos = filled.get_nanos();
    println!("{} {} {get_nanos}", filled.insert_nanos, filled.memory_bytes());
}

fn measured(name: &str) -> [f64; 3] {
    let program = std::env::current_exe().expect("the system tells where this program is");
    let output = Command::new(program).arg(name).output().expect("this program starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("numbers are text");
    let figures: Vec<f64> =
        text.split_whitespace().map(|figure| figure.parse().expect("a number")).collect();
    figures.try_into().expect("there are three")
}

fn compare_tagged_with_others() {
    println!("{TAGGED_KEY_COUNT} keys without a tag, as many of one tag; ns an insertion or a GET");
    println!("{:>12} {:>12} {:>12} {:>14}", "", "no tag", "one tag", "tag / none");
    for _ in 0..ROUNDS {
        let (none, tag) = (measured(UNTAGGED), measured(TAGGED));
        for ((what, none), tag) in ["insert", "bytes a key", "get"].iter().zip(none).zip(tag) {
            println!("{what:>12} {none:>12.1} {tag:>12.1} {:>14.2}", tag / none);
        }
    }
}

fn main() {
    match std::env::args().nth(1).as_deref() {
        Some(UNTAGGED) => measure_filled(untagged_key),
        Some(TAGGED) => measure_filled(tagged_key),
        _ => {
            compare_with_the_plain_shape();
            compare_tagged_with_others();
        }
    }
}

fn compare_with_the_plain_shape() {
    let mut table = open();
    let mut plain = Plain { directory: (0..2_048).map(|_| HashTable::new()).collect() };
    let version = Version { timestamp: Timestamp(1), node: NodeId(1) };
    for index in 0..KEY_COUNT {
        let key = key(index);
        let mutation = Mutation { key: &key, value: Some(&VALUE), version, expires_at: None };
        table.apply(token_of(&key), &mutation, NOW).expect("there is no bound");
        plain.insert(&key);
    }
    let mut rng = fastrand::Rng::with_seed(5);
    let keys: Vec<Key> = (0..GET_COUNT).map(|_| key(rng.u64(0..KEY_COUNT))).collect();

    println!("{KEY_COUNT} keys, {GET_COUNT} GETs a round, ns a GET");
    println!("{:>12} {:>12} {:>12} {:>14}", "plain shape", "table", "table of 16", "plain / table");
    for _ in 0..ROUNDS {
        let plainly = time(|| keys.iter().filter_map(|key| plain.get(key)).map(see).sum());
        let singly = time(|| {
            let get = |key: &Key| found(table.get(token_of(key), key, NOW)).map(|it| see(it.value));
            keys.iter().filter_map(get).sum()
        });
        let batched = time(|| {
            let mut seen = 0;
            for batch in keys.chunks_exact(BATCH) {
                let tokens: [Token; BATCH] = std::array::from_fn(|at| token_of(&batch[at]));
                table.prefetch(&tokens);
                for (key, token) in batch.iter().zip(tokens) {
                    seen += found(table.get(token, key, NOW)).map_or(0, |it| see(it.value));
                }
            }
            seen
        });
        let ratio = plainly / singly;
        println!("{plainly:>12.1} {singly:>12.1} {batched:>12.1} {ratio:>14.2}");
    }
}
