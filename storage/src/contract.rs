//! What every [`Storage`] must do, as functions to run on each backend.
//!
//! A backend's tests call [`check`] with a function that opens an empty store. Each function panics
//! where a store breaks the contract, and is named after the sentence it checks.

mod replication;

use std::collections::BTreeMap;
use std::sync::LazyLock;
use std::time::Duration;

use gridkv_cluster::{
    Instant, Mutation, NodeId, ShardRange, Timestamp, Token, TokenKey, Version, WallTime,
};

use crate::backend::{
    Applied, Entry, Error, Eviction, Lookup, OnDisk, Options, Record, Step, Storage, Ticket,
    Tombstones,
};

/// Opens an empty store.
pub type Open<'a> = &'a dyn Fn(&Options) -> Box<dyn Storage>;

/// The time at which the checks begin.
const START: WallTime = WallTime::from_millis(1_700_000_000_000);

/// Runs all checks.
pub fn check(open: Open<'_>) {
    a_written_value_is_found_with_its_version(open);
    the_larger_version_wins(open);
    mutations_converge_in_any_order_and_repetition(open);
    a_deleted_key_is_absent_and_stays_so(open);
    what_was_dropped_does_not_come_back(open);
    a_record_is_dead_from_its_expiry_on(open);
    expired_records_are_collected_without_being_asked_for(open);
    a_mutation_that_is_expired_already_deletes(open);
    a_walk_visits_in_token_order_and_nothing_twice(open);
    a_walk_finds_what_stays_while_others_come_and_go(open);
    a_walk_of_a_shard_stays_in_its_range(open);
    clearing_removes_what_is_older_and_keeps_what_is_newer(open);
    a_write_beyond_the_bound_is_refused_and_changes_nothing(open);
    what_is_too_large_is_refused(open);
    statistics_agree_with_a_walk(open);
    random_records_are_live_and_many(open);
    replication::check(open);
}

/// Options for a store of the whole token space without a bound.
#[must_use]
pub fn options(tombstones: Tombstones) -> Options {
    Options {
        token_key: token_key(),
        range: ShardRange::WHOLE,
        disk: None,
        memory_bytes_max: None,
        eviction: Eviction::Refuse,
        tombstones,
        seed: 1,
    }
}

/// What tokens are made with in the checks.
#[must_use]
pub fn token_key() -> TokenKey {
    static KEY: LazyLock<TokenKey> = LazyLock::new(|| TokenKey::new([7; TokenKey::BYTES]));
    KEY.clone()
}

/// The token of a key in the checks.
#[must_use]
pub fn token_of(key: &[u8]) -> Token {
    token_key().token(key)
}

/// The `number`-th version.
#[must_use]
pub const fn version(number: u64) -> Version {
    Version { timestamp: Timestamp(number), node: NodeId(1) }
}

fn key(number: u64) -> Vec<u8> {
    format!("key:{number}").into_bytes()
}

const fn set<'a>(key: &'a [u8], value: &'a [u8], number: u64) -> Mutation<'a> {
    Mutation { key, value: Some(value), version: version(number), expires_at: None }
}

const fn delete(key: &[u8], number: u64) -> Mutation<'_> {
    Mutation { key, value: None, version: version(number), expires_at: None }
}

fn apply(store: &mut dyn Storage, mutation: &Mutation<'_>, now: WallTime) -> Applied {
    try_apply(store, mutation, now).expect("the store has no bound")
}

/// Applies a mutation, waiting where the store asks for it.
fn try_apply(
    store: &mut dyn Storage,
    mutation: &Mutation<'_>,
    now: WallTime,
) -> Result<Applied, Error> {
    loop {
        match store.apply(token_of(mutation.key), mutation, now) {
            Err(Error::Busy(ticket)) => wait_for(store, ticket),
            result => return result,
        }
    }
}

/// Turns the store until the ticket is ready.
pub fn wait_for(store: &mut dyn Storage, ticket: Ticket) {
    loop {
        store.turn(Instant::ZERO);
        while let Some((ready, result)) = store.poll_ready() {
            result.expect("the disk is sound");
            if ready == ticket {
                return;
            }
        }
    }
}

/// Turns the store until all that was applied is durable.
pub fn wait_until_durable(store: &mut dyn Storage) {
    while store.durable() < store.appended() {
        assert!(!store.has_failed(), "the disk is sound");
        store.request_commit();
        store.turn(Instant::ZERO);
    }
}

/// The live value, from wherever it is.
pub fn value_of(store: &mut dyn Storage, key: &[u8], now: WallTime) -> Option<Vec<u8>> {
    let token = token_of(key);
    let value = |store: &dyn Storage| -> Result<Option<Vec<u8>>, OnDisk> {
        let record = store.peek(token, key, now).record()?;
        Ok(record.map(|record| record.value.to_vec()))
    };
    loop {
        if let Ok(found) = value(store) {
            return found;
        }
        let ticket = store.load(token, key);
        wait_for(store, ticket);
        let loaded = value(store);
        store.release(ticket);
        if let Ok(loaded) = loaded {
            return loaded;
        }
    }
}

/// Walks one step, waiting for what has to be brought in.
pub fn step(
    store: &mut dyn Storage,
    from: Token,
    budget: usize,
    now: WallTime,
    visit: &mut dyn FnMut(Entry<'_>),
) -> Option<Token> {
    let mut tickets = Vec::new();
    let next = loop {
        match store.walk(from, budget, now, visit) {
            Step::Done(next) => break next,
            Step::Loading(ticket) => {
                wait_for(store, ticket);
                tickets.push(ticket);
            }
        }
    };
    tickets.into_iter().for_each(|ticket| store.release(ticket));
    assert!(next.is_none_or(|next| next > from), "a walk makes progress");
    next
}

/// The key of a record drawn at random.
fn drawn(store: &mut dyn Storage, now: WallTime) -> Option<Vec<u8>> {
    let mut tickets = Vec::new();
    let key = loop {
        match store.random(now) {
            Step::Done(entry) => {
                assert!(entry.is_none_or(|entry| entry.token == token_of(entry.key)));
                break entry.map(|entry| entry.key.to_vec());
            }
            Step::Loading(ticket) => {
                wait_for(store, ticket);
                tickets.push(ticket);
            }
        }
    };
    tickets.into_iter().for_each(|ticket| store.release(ticket));
    key
}

const WON_NEW: Applied = Applied::Won { replaced: false };
const WON_OVER: Applied = Applied::Won { replaced: true };

/// What a whole walk in steps of `budget` shows: tokens, keys, values.
pub fn walked(
    store: &mut dyn Storage,
    budget: usize,
    now: WallTime,
) -> Vec<(Token, Vec<u8>, Vec<u8>)> {
    let mut keys = Vec::new();
    let mut from = Some(Token::MIN);
    while let Some(token) = from {
        from = step(store, token, budget, now, &mut |entry| {
            assert!(entry.token >= token);
            keys.push((entry.token, entry.key.to_vec()));
        });
    }
    let with_value = |(token, key): (Token, Vec<u8>)| {
        let value = value_of(store, &key, now).expect("what a walk shows is live");
        (token, key, value)
    };
    keys.into_iter().map(with_value).collect()
}

/// A written value is found with its version.
pub fn a_written_value_is_found_with_its_version(open: Open<'_>) {
    let mut store = open(&options(Tombstones::Drop));
    for (key, value) in [(&b"a"[..], &b"1"[..]), (b"", b""), (&[0; 500], &[0xff; 100_000])] {
        assert_eq!(store.get(token_of(key), key, START), Lookup::Absent);
        assert_eq!(apply(&mut *store, &set(key, value, 7), START), WON_NEW);
        let record = Record { value, version: version(7), expires_at: None };
        assert_eq!(store.get(token_of(key), key, START), Lookup::Found(record));
        assert_eq!(store.peek(token_of(key), key, START), Lookup::Found(record));
    }
    let stats = store.stats();
    assert_eq!((stats.key_count, stats.hit_count, stats.miss_count), (3, 3, 3));
    store.reset_stats();
    assert_eq!((store.stats().hit_count, store.stats().key_count), (0, 3));
}

/// The larger version wins, whenever it comes.
pub fn the_larger_version_wins(open: Open<'_>) {
    for tombstones in [Tombstones::Drop, Tombstones::Keep] {
        let mut store = open(&options(tombstones));
        assert_eq!(apply(&mut *store, &set(b"k", b"second", 2), START), WON_NEW);
        assert_eq!(apply(&mut *store, &set(b"k", b"first", 1), START), Applied::Superseded);
        assert_eq!(apply(&mut *store, &set(b"k", b"other", 2), START), Applied::Superseded);
        assert_eq!(apply(&mut *store, &delete(b"k", 2), START), Applied::Superseded);
        assert_eq!(value_of(&mut *store, b"k", START).as_deref(), Some(&b"second"[..]));
        let tie = Mutation {
            version: Version { node: NodeId(2), ..version(2) },
            ..set(b"k", b"larger node", 2)
        };
        assert_eq!(apply(&mut *store, &tie, START), WON_OVER);
        assert_eq!(value_of(&mut *store, b"k", START).as_deref(), Some(&b"larger node"[..]));
    }
}

/// With tombstones kept, the same mutations lead to the same records in any order, however often
/// each is repeated.
pub fn mutations_converge_in_any_order_and_repetition(open: Open<'_>) {
    let keys: Vec<Vec<u8>> = (0..20).map(key).collect();
    let mutations: Vec<Mutation<'_>> = (1..=200_u64)
        .map(|number| {
            let key = &keys[(number * 7 % 20) as usize];
            if number % 5 == 0 {
                return delete(key, number);
            }
            let expires_at = (number % 3 == 0).then(|| START + Duration::from_millis(number));
            Mutation { expires_at, ..set(key, &key[..3], number) }
        })
        .collect();
    let state = |step: usize, repeat: usize| {
        let mut store = open(&options(Tombstones::Keep));
        for index in 0..mutations.len() * repeat {
            // A step without a factor in common with 200 visits all mutations.
            let mutation = &mutations[index * step % mutations.len()];
            apply(
                &mut *store,
                mutation,
                START + Duration::from_millis((index / repeat) as u64 / 2),
            );
        }
        walked(&mut *store, 10, START + Duration::from_millis(150))
    };
    let expected = state(1, 1);
    assert!(!expected.is_empty());
    for (step, repeat) in [(199, 1), (7, 1), (3, 3), (1, 2), (77, 2)] {
        assert_eq!(state(step, repeat), expected, "step {step}, repeated {repeat} times");
    }
}

/// A deleted key is absent, and an older write does not revive it.
pub fn a_deleted_key_is_absent_and_stays_so(open: Open<'_>) {
    for tombstones in [Tombstones::Drop, Tombstones::Keep] {
        let mut store = open(&options(tombstones));
        apply(&mut *store, &set(b"k", b"v", 5), START);
        assert_eq!(apply(&mut *store, &delete(b"k", 7), START), WON_OVER);
        assert_eq!(store.get(token_of(b"k"), b"k", START), Lookup::Absent);
        assert_eq!(apply(&mut *store, &set(b"k", b"late", 6), START), Applied::Superseded);
        assert_eq!(apply(&mut *store, &delete(b"k", 7), START), Applied::Superseded);
        assert!(walked(&mut *store, 100, START).is_empty());
        let stats = store.stats();
        let kept = u64::from(tombstones == Tombstones::Keep);
        assert_eq!((stats.key_count, stats.tombstone_count, stats.payload_bytes), (0, kept, 0));
        assert_eq!(apply(&mut *store, &delete(b"unknown", 8), START), WON_NEW);
        assert_eq!(apply(&mut *store, &set(b"unknown", b"v", 8), START), Applied::Superseded);
        assert_eq!(apply(&mut *store, &set(b"k", b"new", 9), START), WON_NEW);
        assert_eq!(value_of(&mut *store, b"k", START).as_deref(), Some(&b"new"[..]));
    }
}

/// Without tombstones, nothing at or below the highest version removed creates a record.
pub fn what_was_dropped_does_not_come_back(open: Open<'_>) {
    let mut store = open(&options(Tombstones::Drop));
    let soon = START + Duration::from_secs(1);
    apply(&mut *store, &Mutation { expires_at: Some(soon), ..set(b"k", b"v", 5) }, START);
    assert_eq!(store.get(token_of(b"k"), b"k", soon), Lookup::Absent);
    assert_eq!(apply(&mut *store, &set(b"k", b"v", 5), soon), Applied::Superseded);
    assert_eq!(apply(&mut *store, &set(b"other", b"v", 4), soon), Applied::Superseded);
    assert_eq!(apply(&mut *store, &set(b"k", b"v", 6), soon), WON_NEW);
}

/// A record is dead from the very millisecond of its expiry, for every call.
pub fn a_record_is_dead_from_its_expiry_on(open: Open<'_>) {
    for tombstones in [Tombstones::Drop, Tombstones::Keep] {
        let mut store = open(&options(tombstones));
        let expires_at = START + Duration::from_millis(1_500);
        let before = START + Duration::from_millis(1_499);
        let token = token_of(b"k");
        let mortal = Mutation { expires_at: Some(expires_at), ..set(b"k", b"v", 1) };
        apply(&mut *store, &mortal, START);
        assert_eq!(store.stats().expiring_key_count, 1);
        let record = Record { value: b"v", version: version(1), expires_at: Some(expires_at) };
        assert_eq!(store.get(token, b"k", before), Lookup::Found(record));
        assert_eq!(store.peek(token, b"k", expires_at), Lookup::Absent);
        assert!(walked(&mut *store, 10, expires_at).is_empty());
        assert!(drawn(&mut *store, expires_at).is_none());
        assert_eq!(store.idle_time(token, b"k", expires_at), None);
        assert_eq!(store.record_bytes(token, b"k", expires_at), None);
        assert_eq!(store.stats().expired_count, 0);
        assert_eq!(store.get(token, b"k", expires_at), Lookup::Absent);
        assert_eq!(store.get(token, b"k", expires_at), Lookup::Absent);
        // Where tombstones are kept, looking at it has not ended it.
        let left = usize::from(tombstones == Tombstones::Keep);
        assert_eq!(store.collect_expired(1_000, expires_at), left);
        let stats = store.stats();
        assert_eq!((stats.expired_count, stats.key_count, stats.expiring_key_count), (1, 0, 0));
        assert_eq!(apply(&mut *store, &set(b"k", b"new", 2), expires_at), WON_NEW);
    }
}

/// Records that nobody asks for are collected, a bounded number of slots a call.
pub fn expired_records_are_collected_without_being_asked_for(open: Open<'_>) {
    const KEY_COUNT: u64 = 5_000;
    for tombstones in [Tombstones::Drop, Tombstones::Keep] {
        let mut store = open(&options(tombstones));
        for number in 0..KEY_COUNT {
            let expires_at = START + Duration::from_millis(number % 10 * 100);
            let expires_at = (number % 2 == 0).then_some(expires_at + Duration::from_millis(1));
            apply(&mut *store, &Mutation { expires_at, ..set(&key(number), b"v", 1) }, START);
        }
        let mut collected = 0;
        for step in 0..20 {
            let now = START + Duration::from_millis(step * 50);
            for _ in 0..1_000 {
                let some = store.collect_expired(200, now);
                assert!(some <= 300, "{some} collected with a budget of 200 slots");
                collected += some as u64;
            }
            let due = (0..KEY_COUNT).filter(|n| n % 2 == 0 && n % 10 * 100 < step * 50).count();
            assert_eq!(collected, due as u64, "step {step}");
        }
        let stats = store.stats();
        assert_eq!(stats.expired_count, KEY_COUNT / 2);
        assert_eq!((stats.key_count, stats.expiring_key_count), (KEY_COUNT / 2, 0));
    }
}

/// A mutation whose expiry has passed wins like any other, and shows no value.
pub fn a_mutation_that_is_expired_already_deletes(open: Open<'_>) {
    for tombstones in [Tombstones::Drop, Tombstones::Keep] {
        let mut store = open(&options(tombstones));
        apply(&mut *store, &set(b"k", b"v", 1), START);
        let dead = Mutation { expires_at: Some(START), ..set(b"k", b"w", 3) };
        assert_eq!(apply(&mut *store, &dead, START), WON_OVER);
        assert_eq!(value_of(&mut *store, b"k", START), None);
        assert_eq!(apply(&mut *store, &set(b"k", b"x", 2), START), Applied::Superseded);
        store.collect_expired(1_000, START);
        assert_eq!(store.stats().key_count, 0);
    }
}

/// A walk visits everything, in token order and nothing twice, whatever the budget.
pub fn a_walk_visits_in_token_order_and_nothing_twice(open: Open<'_>) {
    let mut store = open(&options(Tombstones::Drop));
    let mut expected = BTreeMap::new();
    assert!(walked(&mut *store, 10, START).is_empty());
    for number in 0..5_000 {
        let key = key(number);
        apply(&mut *store, &set(&key, b"v", 1), START);
        expected.insert((token_of(&key), key), b"v".to_vec());
    }
    let expected: Vec<_> =
        expected.into_iter().map(|((token, key), value)| (token, key, value)).collect();
    for budget in [0, 1, 100, 1_000_000] {
        assert_eq!(walked(&mut *store, budget, START), expected, "budget {budget}");
    }
}

/// A record that is there throughout a walk is visited once, whatever comes and goes meanwhile.
pub fn a_walk_finds_what_stays_while_others_come_and_go(open: Open<'_>) {
    const STAY_COUNT: u64 = 2_000;
    let mut store = open(&options(Tombstones::Drop));
    for number in 0..STAY_COUNT {
        apply(&mut *store, &set(&key(number), b"v", 1), START);
    }
    let mut visits: BTreeMap<Vec<u8>, u32> = BTreeMap::new();
    let mut from = Some(Token::MIN);
    let mut number = STAY_COUNT;
    while let Some(token) = from {
        from = step(&mut *store, token, 30, START, &mut |entry| {
            *visits.entry(entry.key.to_vec()).or_default() += 1;
        });
        // Waves of growth and of shrinking.
        for _ in 0..60 {
            number += 1;
            let (is_growing, back) =
                ((number / 4_000).is_multiple_of(2), number.saturating_sub(4_000));
            if is_growing {
                apply(&mut *store, &set(&key(number), b"v", number), START);
            } else if back > STAY_COUNT {
                apply(&mut *store, &delete(&key(back), number), START);
            }
        }
    }
    for number in 0..STAY_COUNT {
        assert_eq!(visits.get(&key(number)), Some(&1), "key {number}");
    }
    assert!(visits.values().all(|visits| *visits == 1));
}

/// The stores of neighbouring shards walk through their own keys and together through all.
pub fn a_walk_of_a_shard_stays_in_its_range(open: Open<'_>) {
    const SHARD_COUNT: u16 = 3;
    let mut all = Vec::new();
    for index in 0..SHARD_COUNT {
        let range = ShardRange::new(index, SHARD_COUNT);
        let mut store = open(&Options { range, ..options(Tombstones::Drop) });
        for number in 0..1_000 {
            let key = key(number);
            if range.contains(token_of(&key)) {
                apply(&mut *store, &set(&key, b"v", 1), START);
            }
        }
        let walked = walked(&mut *store, 50, START);
        assert_eq!(walked.len() as u64, store.stats().key_count);
        all.extend(walked);
    }
    assert_eq!(all.len(), 1_000);
    assert!(all.is_sorted());
}

/// Clearing removes what is not newer, for good, and keeps what is.
pub fn clearing_removes_what_is_older_and_keeps_what_is_newer(open: Open<'_>) {
    for tombstones in [Tombstones::Drop, Tombstones::Keep] {
        let mut store = open(&options(tombstones));
        for number in 1..=3_000 {
            apply(&mut *store, &set(&key(number), b"v", number), START);
        }
        store.clear(version(2_990)).expect("there is room");
        let mut left: Vec<_> = walked(&mut *store, 100, START).into_iter().map(|it| it.1).collect();
        left.sort_unstable();
        assert_eq!(left, (2_991..=3_000).map(key).collect::<Vec<_>>());
        assert_eq!(store.stats().key_count, 10);
        for number in [1, 2_990] {
            let late = set(b"late", b"v", number);
            assert_eq!(apply(&mut *store, &late, START), Applied::Superseded);
        }
        for _ in 0..1_000 {
            store.collect_expired(100, START);
        }
        let before = store.stats().memory_bytes;
        let mut empty = open(&options(tombstones));
        for number in 2_991..=3_000 {
            apply(&mut *empty, &set(&key(number), b"v", number), START);
        }
        // A cache may have let go of what stays.
        assert!(before <= empty.stats().memory_bytes);
        assert_eq!(apply(&mut *store, &set(&key(1), b"v", 4_000), START), WON_NEW);
    }
}

/// A write beyond the bound is refused and its key is as it was; what does not grow goes through.
pub fn a_write_beyond_the_bound_is_refused_and_changes_nothing(open: Open<'_>) {
    const BOUND: u64 = 64 << 10;
    let options = Options { memory_bytes_max: Some(BOUND), ..options(Tombstones::Drop) };
    let mut store = open(&options);
    let mut written = 0;
    let refused = loop {
        let key = key(written);
        match try_apply(&mut *store, &set(&key, &[1; 100], 1), START) {
            Ok(_) => written += 1,
            Err(error) => break error,
        }
        assert!(store.stats().memory_bytes <= BOUND);
    };
    let Error::OutOfMemory { used_bytes, max_bytes, needed_bytes } = refused else {
        panic!("{refused}");
    };
    assert_eq!((used_bytes, max_bytes), (store.stats().memory_bytes, BOUND));
    assert!(used_bytes + needed_bytes > BOUND);
    let first = key(0);
    let token = token_of(&first);
    if store.log_stats().is_none() {
        // Where values are on disk, a larger one takes no memory.
        let larger = store.apply(token, &set(&first, &[2; 60_000], 2), START);
        assert!(matches!(larger, Err(Error::OutOfMemory { .. })));
    }
    assert_eq!(value_of(&mut *store, &first, START), Some(vec![1; 100]));
    assert_eq!(store.stats().key_count, written);
    store.set_memory_limit(Some(1), Eviction::Refuse);
    assert_eq!(store.apply(token, &set(&first, &[3; 100], 3), START), Ok(WON_OVER));
    assert_eq!(store.apply(token, &delete(&first, 4), START), Ok(WON_OVER));
    store.set_memory_limit(None, Eviction::Refuse);
    assert_eq!(store.apply(token, &set(&first, &[2; 60_000], 5), START), Ok(WON_NEW));
}

/// A record with a longer key than allowed is refused.
pub fn what_is_too_large_is_refused(open: Open<'_>) {
    let mut store = open(&options(Tombstones::Drop));
    let largest = vec![1; 1 << 16];
    assert_eq!(apply(&mut *store, &set(&largest, b"v", 1), START), WON_NEW);
    assert_eq!(value_of(&mut *store, &largest, START).as_deref(), Some(&b"v"[..]));
    let key = vec![1; (1 << 16) + 1];
    let refused = store.apply(token_of(&key), &set(&key, b"v", 1), START);
    assert_eq!(refused, Err(Error::TooLarge { key_bytes: key.len(), value_bytes: 1 }));
    assert_eq!(store.stats().key_count, 1);
}

/// The statistics say what a walk shows, and memory is at least the payload.
pub fn statistics_agree_with_a_walk(open: Open<'_>) {
    let mut store = open(&options(Tombstones::Keep));
    for number in 1..=5_000 {
        let key = key(number * 31 % 700);
        let value = vec![1; (number * 13 % 300) as usize];
        let mutation =
            if number % 4 == 0 { delete(&key, number) } else { set(&key, &value, number) };
        apply(&mut *store, &mutation, START);
    }
    let entries = walked(&mut *store, 100, START);
    let payload: usize = entries.iter().map(|(_, key, value)| key.len() + value.len()).sum();
    let stats = store.stats();
    assert_eq!(stats.key_count, entries.len() as u64);
    assert_eq!(stats.key_count + stats.tombstone_count, 700);
    assert_eq!(stats.payload_bytes, payload as u64);
    assert!(store.log_stats().is_some() || stats.memory_bytes > stats.payload_bytes);
}

/// Random records are live ones, and not always the same.
pub fn random_records_are_live_and_many(open: Open<'_>) {
    let mut store = open(&options(Tombstones::Keep));
    assert!(drawn(&mut *store, START).is_none());
    for number in 0..1_000 {
        apply(&mut *store, &set(&key(number), b"v", 1), START);
    }
    let mut counts: BTreeMap<Vec<u8>, u32> = BTreeMap::new();
    for _ in 0..5_000 {
        let key = drawn(&mut *store, START).expect("there are live records");
        *counts.entry(key).or_default() += 1;
    }
    assert!(counts.len() > 950, "{} of 1,000 records drawn", counts.len());
    for number in 0..999 {
        apply(&mut *store, &delete(&key(number), 2), START);
    }
    assert_eq!(drawn(&mut *store, START), Some(key(999)));
}
