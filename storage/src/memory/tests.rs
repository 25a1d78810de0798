use std::collections::BTreeMap;
use std::time::Duration;

use fastrand::Rng;
use gridkv_cluster::{NodeId, Timestamp};
use proptest::prelude::*;

use super::*;
use crate::contract::{options, version};
use crate::{Registry, contract};

const START: WallTime = WallTime::from_millis(1_700_000_000_000);
const KEY_COUNT: u16 = 3_000;

#[test]
fn the_contract_is_kept() {
    let registry = Registry::new();
    contract::check(&|options| registry.open("memory", options).unwrap());
}

fn key(number: u16) -> [u8; 4] {
    [b'k', b'-', (number >> 8) as u8, number as u8]
}

/// Tokens of which many are equal and the others lie close together.
fn crowded(key: &[u8]) -> Token {
    Token(contract::token_of(&key[3..]).0 & 0xffff_0000_0000_00ff)
}

/// Tokens of one hash tag, and every eighth of none.
fn mostly_tagged(key: &[u8]) -> Token {
    let token = contract::token_of(key).0;
    Token(if token.is_multiple_of(8) { token } else { 0x2a51 << 50 | token >> 14 })
}

#[derive(Clone, Debug)]
enum Step {
    /// Writes to keys from the first on.
    Set {
        first: u16,
        count: u16,
        value_len: u16,
        lifetime_ms: Option<u64>,
        age: u64,
    },
    Delete {
        first: u16,
        count: u16,
        age: u64,
    },
    Get {
        first: u16,
        count: u16,
    },
    Advance {
        ms: u64,
    },
    Collect,
    Clear {
        age: u64,
    },
    Walk {
        budget: usize,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let keys = || (0..KEY_COUNT, prop_oneof![1_u16..5, 1..KEY_COUNT]);
    let age = || prop_oneof![4 => Just(0_u64), 1 => 0_u64..3_000];
    let lifetime = proptest::option::of(0_u64..200);
    prop_oneof![
        6 => (keys(), 0_u16..200, lifetime, age()).prop_map(
            |((first, count), value_len, lifetime_ms, age)|
                Step::Set { first, count, value_len, lifetime_ms, age }),
        3 => (keys(), age()).prop_map(|((first, count), age)| Step::Delete { first, count, age }),
        2 => keys().prop_map(|(first, count)| Step::Get { first, count }),
        2 => (0_u64..100).prop_map(|ms| Step::Advance { ms }),
        1 => Just(Step::Collect),
        1 => (0_u64..3_000).prop_map(|age| Step::Clear { age }),
        2 => (0_usize..5_000).prop_map(|budget| Step::Walk { budget }),
    ]
}

/// What is under a key: its version, and value and expiry unless it is a tombstone.
type Known = (Version, Option<(Vec<u8>, Option<WallTime>)>);

/// A store told in the simplest words.
struct Model {
    records: BTreeMap<Vec<u8>, Known>,
    floor: Version,
    tombstones: Tombstones,
    expired_count: u64,
    now: WallTime,
    next: u64,
}

impl Model {
    fn is_expired(&self, key: &[u8]) -> bool {
        let value = self.records.get(key).and_then(|known| known.1.as_ref());
        value.and_then(|value| value.1).is_some_and(|expires_at| expires_at <= self.now)
    }

    fn remove(&mut self, key: &[u8], version: Version) {
        match self.tombstones {
            Tombstones::Keep => {
                self.records.insert(key.to_vec(), (version, None));
            }
            Tombstones::Drop => {
                self.records.remove(key);
                self.floor = self.floor.max(version);
            }
        }
    }

    fn expire(&mut self, key: &[u8]) {
        if self.is_expired(key) {
            self.expired_count += 1;
            self.remove(key, self.records[key].0);
        }
    }

    fn apply(&mut self, mutation: &Mutation<'_>) -> Applied {
        let is_kept = self.tombstones == Tombstones::Keep;
        if !is_kept {
            self.expire(mutation.key);
        }
        let known = self.records.get(mutation.key);
        let is_live = !self.is_expired(mutation.key);
        let replaced = is_live && known.is_some_and(|known| known.1.is_some());
        if mutation.version <= known.map_or(self.floor, |known| known.0) {
            return Applied::Superseded;
        }
        match mutation.value {
            Some(value) if is_kept || mutation.expires_at.is_none_or(|at| at > self.now) => {
                let value = Some((value.to_vec(), mutation.expires_at));
                self.records.insert(mutation.key.to_vec(), (mutation.version, value));
            }
            _ => self.remove(mutation.key, mutation.version),
        }
        Applied::Won { replaced }
    }

    fn clear(&mut self, version: Version) {
        self.floor = self.floor.max(version);
        self.records.retain(|_, known| known.0 > version);
    }

    fn live(&self) -> BTreeMap<Vec<u8>, Vec<u8>> {
        let live = self.records.iter().filter(|(key, _)| !self.is_expired(key));
        live.filter_map(|(key, known)| Some((key.clone(), known.1.as_ref()?.0.clone()))).collect()
    }
}

struct Pair {
    store: MemoryStorage,
    model: Model,
    token_of: fn(&[u8]) -> Token,
}

impl Pair {
    fn new(tombstones: Tombstones, token_of: fn(&[u8]) -> Token) -> Self {
        let store = MemoryStorage::with_tokens(&options(tombstones), Arc::new(token_of));
        let (records, floor) = (BTreeMap::new(), Version::ZERO);
        let model = Model { records, floor, tombstones, expired_count: 0, now: START, next: 0 };
        Self { store, model, token_of }
    }

    fn apply(&mut self, key: &[u8], value: Option<&[u8]>, expires_at: Option<WallTime>, age: u64) {
        self.model.next += 1;
        let version = version(self.model.next.saturating_sub(age).max(1));
        let mutation = Mutation { key, value, version, expires_at };
        let applied = self.store.apply((self.token_of)(key), &mutation, self.model.now);
        assert_eq!(applied, Ok(self.model.apply(&mutation)));
    }

    fn run(&mut self, step: &Step) {
        let keys = |first, count| (first..KEY_COUNT.min(first + count)).map(key);
        match *step {
            Step::Set { first, count, value_len, lifetime_ms, age } => {
                let value = vec![b'v'; usize::from(value_len)];
                let expires_at = lifetime_ms.map(|ms| self.model.now + Duration::from_millis(ms));
                keys(first, count).for_each(|key| self.apply(&key, Some(&value), expires_at, age));
            }
            Step::Delete { first, count, age } => {
                keys(first, count).for_each(|key| self.apply(&key, None, None, age));
            }
            Step::Get { first, count } => {
                for key in keys(first, count) {
                    if self.model.tombstones == Tombstones::Drop {
                        self.model.expire(&key);
                    }
                    let found = self.store.get((self.token_of)(&key), &key, self.model.now);
                    let known = self.model.records.get(&key[..]).and_then(|known| known.1.as_ref());
                    let known = known.filter(|_| !self.model.is_expired(&key));
                    assert_eq!(
                        found.record().unwrap().map(|record| (record.value, record.expires_at)),
                        known.map(|value| (&value.0[..], value.1))
                    );
                }
            }
            Step::Advance { ms } => self.model.now = self.model.now + Duration::from_millis(ms),
            Step::Collect => {
                let keys: Vec<_> = self.model.records.keys().cloned().collect();
                let before = self.model.expired_count;
                keys.iter().for_each(|key| self.model.expire(key));
                let collected = self.store.collect_expired(usize::MAX, self.model.now);
                assert_eq!(collected as u64, self.model.expired_count - before);
            }
            Step::Clear { age } => {
                let version = version(self.model.next.saturating_sub(age));
                self.model.clear(version);
                self.store.clear(version).unwrap();
            }
            Step::Walk { budget } => self.walk(budget),
        }
        self.check();
    }

    fn walk(&mut self, budget: usize) {
        let mut seen = BTreeMap::new();
        let mut from = Some(Token::MIN);
        while let Some(token) = from {
            let mut last = token;
            from = contract::step(&mut self.store, token, budget, self.model.now, &mut |entry| {
                assert!(entry.token >= last);
                last = entry.token;
                let before = seen.insert(entry.key.to_vec(), entry.version);
                assert_eq!(before, None, "visited twice");
            });
            assert!(from.is_none_or(|next| next > last));
        }
        let live = self.model.live();
        assert!(seen.keys().eq(live.keys()));
        for (key, value) in live {
            let found =
                self.store.peek((self.token_of)(&key), &key, self.model.now).record().unwrap();
            assert_eq!(found.map(|record| record.value), Some(&value[..]));
        }
    }

    fn check(&self) {
        let values =
            || self.model.records.iter().filter_map(|(key, it)| Some((key, it.1.as_ref()?)));
        let stats = self.store.stats();
        assert_eq!(stats.key_count, values().count() as u64);
        assert_eq!(stats.tombstone_count, self.model.records.len() as u64 - stats.key_count);
        let expiring = values().filter(|(_, value)| value.1.is_some()).count();
        assert_eq!(stats.expiring_key_count, expiring as u64);
        let payload: usize = values().map(|(key, value)| key.len() + value.0.len()).sum();
        assert_eq!(stats.payload_bytes, payload as u64);
        assert_eq!(stats.expired_count, self.model.expired_count);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn the_store_does_what_the_model_does(
        steps in proptest::collection::vec(step(), 1..40), keeps: bool, tokens in 0_usize..3,
    ) {
        let tombstones = if keeps { Tombstones::Keep } else { Tombstones::Drop };
        let token_of = [contract::token_of, crowded, mostly_tagged][tokens];
        let mut pair = Pair::new(tombstones, token_of);
        for step in &steps {
            pair.run(step);
        }
        pair.store.table.assert_invariants();
        pair.walk(100);
        while !pair.store.demolitions.is_empty() {
            pair.store.demolish(1_000);
        }
        prop_assert_eq!(pair.store.memory_bytes(), pair.store.table.memory_bytes());
    }
}

fn set(number: u64, value_len: usize, at: u64) -> (Vec<u8>, Vec<u8>, Version) {
    (format!("key:{number}").into_bytes(), vec![1; value_len], version(at))
}

fn write(store: &mut MemoryStorage, (key, value, version): &(Vec<u8>, Vec<u8>, Version)) -> bool {
    let mutation = Mutation { key, value: Some(value), version: *version, expires_at: None };
    store.apply(contract::token_of(key), &mutation, START).is_ok()
}

fn bounded(bound: u64, eviction: Eviction) -> MemoryStorage {
    let memory_bytes_max = Some(bound);
    MemoryStorage::new(&Options { memory_bytes_max, eviction, ..options(Tombstones::Drop) })
}

#[test]
fn the_bound_holds_through_every_write_with_either_policy() {
    const BOUND: u64 = 1 << 20;
    for eviction in [Eviction::Refuse, Eviction::Lfu] {
        let mut store = bounded(BOUND, eviction);
        let mut rng = Rng::with_seed(7);
        for at in 1..60_000 {
            write(&mut store, &set(rng.u64(..20_000), rng.usize(..400), at));
            assert!(store.stats().memory_bytes <= BOUND);
        }
        assert!(store.stats().memory_bytes > BOUND * 9 / 10);
        assert_eq!(store.stats().evicted_count > 0, eviction == Eviction::Lfu);
        store.table.assert_invariants();
    }
}

#[test]
fn much_used_keys_survive_a_flood_of_others() {
    const HOT_COUNT: u64 = 500;
    let mut store = bounded(1 << 20, Eviction::Lfu);
    let mut rng = Rng::with_seed(3);
    for at in 1..100_000 {
        // A quarter of all accesses are to the hot keys, the others to keys that never come again.
        let number = if rng.u8(..4) == 0 { rng.u64(..HOT_COUNT) } else { HOT_COUNT + at };
        let record = set(number, 100, at);
        if store.get(contract::token_of(&record.0), &record.0, START) == Lookup::Absent {
            assert!(write(&mut store, &record));
        }
    }
    let kept = (0..HOT_COUNT).map(|number| set(number, 0, 0).0);
    let kept = kept
        .filter(|key| store.peek(contract::token_of(key), key, START) != Lookup::Absent)
        .count();
    assert!(kept >= 490, "{kept} of {HOT_COUNT} hot keys kept");
    assert!(store.frequency(contract::token_of(b"key:1")) >= Some(3));
}

#[test]
fn a_skewed_load_hits_more_often_than_the_share_of_keys_that_fit() {
    let mut store = bounded(512 << 10, Eviction::Lfu);
    let mut rng = Rng::with_seed(11);
    for at in 1..200_000 {
        if at == 100_000 {
            store.reset_stats();
        }
        // Zipf with exponent 1 over 50,000 keys, by inversion.
        let number = (50_000_f64.powf(rng.f64())) as u64;
        let record = set(number, 100, at);
        if store.get(contract::token_of(&record.0), &record.0, START) == Lookup::Absent {
            write(&mut store, &record);
        }
    }
    let stats = store.stats();
    let hit_share = stats.hit_count as f64 / (stats.hit_count + stats.miss_count) as f64;
    // About 3,400 records fit; the best possible is ln(3,400) / ln(50,000) = 75 %.
    assert!(hit_share > 0.68, "hit share {hit_share}");
}

#[test]
fn a_record_too_large_for_the_bound_is_refused_after_a_bounded_number_of_evictions() {
    let mut store = bounded(1 << 20, Eviction::Lfu);
    for number in 0..10_000 {
        write(&mut store, &set(number, 10, number + 1));
    }
    let evicted = store.stats().evicted_count;
    assert!(!write(&mut store, &set(1, 2 << 20, 20_000)));
    assert!(store.stats().evicted_count - evicted <= 1_024);
    store.table.assert_invariants();
}

#[test]
fn the_oldest_stamp_is_told_in_seconds() {
    let mut store = MemoryStorage::new(&options(Tombstones::Drop));
    write(&mut store, &set(1, 5, 1));
    let key = b"key:1";
    let idle = |store: &MemoryStorage, seconds| {
        store.idle_time(contract::token_of(key), key, START + Duration::from_secs(seconds))
    };
    assert_eq!(idle(&store, 90), Some(Duration::from_secs(90)));
    store.get(contract::token_of(key), key, START + Duration::from_secs(80));
    store.peek(contract::token_of(key), key, START + Duration::from_secs(85));
    assert_eq!(idle(&store, 90), Some(Duration::from_secs(10)));
}

#[test]
fn a_cleared_store_is_taken_down_in_bounded_steps() {
    let mut store = MemoryStorage::new(&options(Tombstones::Drop));
    for number in 0..20_000 {
        write(&mut store, &set(number, 50, 1));
    }
    let full = store.stats().memory_bytes;
    store.clear(Version { timestamp: Timestamp(1), node: NodeId(u16::MAX) }).unwrap();
    assert_eq!(store.stats().key_count, 0);
    let mut left = store.stats().memory_bytes;
    assert!(left > full * 9 / 10, "what is not freed yet is counted");
    let mut calls = 0;
    while !store.demolitions.is_empty() {
        store.collect_expired(200, START);
        let now = store.stats().memory_bytes;
        assert!(left - now < 40_000, "{} bytes freed at once", left - now);
        (left, calls) = (now, calls + 1);
    }
    assert!(calls > 100);
    assert_eq!(left, MemoryStorage::new(&options(Tombstones::Drop)).stats().memory_bytes);
}

#[test]
fn an_idle_core_takes_a_cleared_store_down_in_turns() {
    let mut store = MemoryStorage::new(&options(Tombstones::Drop));
    let empty = store.stats().memory_bytes;
    for number in 0..20_000 {
        write(&mut store, &set(number, 50, 1));
    }
    assert_eq!(store.turn_due_at(), None);
    store.clear(Version { timestamp: Timestamp(1), node: NodeId(u16::MAX) }).unwrap();
    let mut turns = 0;
    while store.turn_due_at().is_some() {
        store.turn(Instant::ZERO);
        turns += 1;
    }
    assert!((20_000 / DEMOLISHED_PER_TURN..200).contains(&turns), "{turns} turns");
    assert_eq!(store.stats().memory_bytes, empty);
}

#[test]
fn a_walk_from_outside_of_the_range_begins_or_ends_with_it() {
    let range = ShardRange::new(1, 3);
    let mut store = MemoryStorage::new(&Options { range, ..options(Tombstones::Drop) });
    let records = (0..100).map(|number| set(number, 5, 1));
    let records: Vec<_> = records.filter(|it| range.contains(contract::token_of(&it.0))).collect();
    records.iter().for_each(|record| assert!(write(&mut store, record)));
    let mut count = 0;
    let walked = store.walk(Token::MIN, usize::MAX, START, &mut |_| count += 1);
    assert_eq!(walked, crate::Step::Done(None));
    assert_eq!(count, records.len());
    let behind = store.walk(Token::MAX, usize::MAX, START, &mut |_| panic!("behind"));
    assert_eq!(behind, crate::Step::Done(None));
}

#[test]
fn a_store_can_be_handed_to_its_core() {
    fn is_send<T: Send>() {}
    is_send::<MemoryStorage>();
}

#[test]
fn the_same_seed_draws_the_same_keys() {
    let draw = |seed| {
        let mut store = MemoryStorage::new(&Options { seed, ..options(Tombstones::Drop) });
        for number in 0..1_000 {
            write(&mut store, &set(number, 5, 1));
        }
        let mut token = || match store.random(START) {
            crate::Step::Done(entry) => entry.unwrap().token,
            crate::Step::Loading(_) => unreachable!("all is in memory"),
        };
        (0..20).map(|_| token()).collect::<Vec<_>>()
    };
    assert_eq!(draw(1), draw(1));
    assert_ne!(draw(1), draw(2));
}
