//! What every store must do for its replicas: tell what it has accepted, and keep promises.

use std::time::Duration;

use gridkv_cluster::{Mutation, NodeId, Token, Version, WallTime};

use super::{
    Open, START, WON_NEW, WON_OVER, apply, delete, key, options, set, token_of, try_apply, version,
    wait_for,
};
use crate::backend::{
    Accepted, Applied, Error, Eviction, Lookup, Options, Record, Step, Storage, Tombstones,
};

/// Runs all checks.
pub(super) fn check(open: Open<'_>) {
    what_was_accepted_is_told_deletions_too(open);
    a_value_that_was_freed_leaves_its_version_and_its_expiry(open);
    a_version_that_is_there_is_superseded(open);
    a_refused_write_leaves_what_was_accepted(open);
    clearing_sets_the_floor(open);
    tombstones_are_counted(open);
    a_promise_only_grows(open);
    what_a_walk_shows_makes_another_store_the_same(open);
    a_walk_of_large_values_shows_each_once(open);
}

/// What was accepted for a key, wherever it is: version, value and expiry.
type Known = Option<(Version, Option<Vec<u8>>, Option<WallTime>)>;

fn accepted_of(store: &mut dyn Storage, key: &[u8]) -> Known {
    let token = token_of(key);
    let mut tickets = Vec::new();
    let known = loop {
        let on_disk = match store.accepted(token, key) {
            Accepted::Nothing => break None,
            Accepted::Deleted(version) => break Some((version, None, None)),
            Accepted::Ended(version, expires_at) => break Some((version, None, Some(expires_at))),
            Accepted::Value(Record { value, version, expires_at }) => {
                break Some((version, Some(value.to_vec()), expires_at));
            }
            Accepted::OnDisk(version) => version,
        };
        let ticket = store.load(token, key);
        wait_for(store, ticket);
        tickets.push(ticket);
        assert_eq!(store.accepted(token, key).version(), Some(on_disk));
    };
    tickets.into_iter().for_each(|ticket| store.release(ticket));
    known
}

/// Hands over all that a store has accepted, in steps of `budget`.
fn walk_all(store: &mut dyn Storage, budget: usize, visit: &mut dyn FnMut(&Mutation<'_>)) {
    let mut from = Some(Token::MIN);
    let mut shown_to = None;
    while let Some(token) = from {
        let mut tickets = Vec::new();
        let next = loop {
            let mut check_order = |mutation: &Mutation<'_>| {
                let place = (token_of(mutation.key), mutation.key.to_vec());
                assert!(place.0 >= token);
                assert!(shown_to.as_ref().is_none_or(|last| *last < place), "in order, once");
                shown_to = Some(place);
                visit(mutation);
            };
            match store.walk_accepted(token, budget, &mut check_order) {
                Step::Done(next) => break next,
                Step::Loading(ticket) => {
                    wait_for(store, ticket);
                    tickets.push(ticket);
                }
            }
        };
        tickets.into_iter().for_each(|ticket| store.release(ticket));
        assert!(next.is_none_or(|next| next > token), "a walk makes progress");
        from = next;
    }
}

/// What was accepted is told with its version, deletions too, and nobody is counted for asking.
fn what_was_accepted_is_told_deletions_too(open: Open<'_>) {
    let mut store = open(&options(Tombstones::Keep));
    let expires_at = START + Duration::from_secs(1);
    assert_eq!(accepted_of(&mut *store, b"k"), None);
    apply(&mut *store, &Mutation { expires_at: Some(expires_at), ..set(b"k", b"v", 1) }, START);
    let mortal = Some((version(1), Some(b"v".to_vec()), Some(expires_at)));
    assert_eq!(accepted_of(&mut *store, b"k"), mortal);
    assert_eq!(store.get(token_of(b"k"), b"k", expires_at), Lookup::Absent);
    assert_eq!(accepted_of(&mut *store, b"k"), mortal, "whoever finds it dead");
    let late = Mutation { expires_at: Some(START), ..set(b"late", b"v", 1) };
    apply(&mut *store, &late, expires_at);
    let late = Some((version(1), Some(b"v".to_vec()), Some(START)));
    assert_eq!(accepted_of(&mut *store, b"late"), late, "whenever it comes");
    apply(&mut *store, &delete(b"k", 2), START);
    assert_eq!(store.accepted(token_of(b"k"), b"k"), Accepted::Deleted(version(2)));
    apply(&mut *store, &delete(b"never written", 3), START);
    assert_eq!(accepted_of(&mut *store, b"never written"), Some((version(3), None, None)));
    apply(&mut *store, &set(b"k", b"", 4), START);
    let empty = Some((version(4), Some(Vec::new()), None));
    assert_eq!(accepted_of(&mut *store, b"k"), empty);
    let stats = store.stats();
    assert_eq!((stats.hit_count, stats.miss_count, stats.expired_count), (0, 1, 0));
    let mut store = open(&options(Tombstones::Drop));
    apply(&mut *store, &set(b"k", b"v", 1), START);
    apply(&mut *store, &delete(b"k", 2), START);
    assert_eq!(accepted_of(&mut *store, b"k"), None);
    assert_eq!(store.floor(), version(2));
}

/// What has expired is told as it was accepted until it is collected. Then its value takes no memory,
/// and version and expiry are told, of which another store makes the same.
fn a_value_that_was_freed_leaves_its_version_and_its_expiry(open: Open<'_>) {
    const KEY_COUNT: u64 = 200;
    let mut store = open(&options(Tombstones::Keep));
    let expires_at = START + Duration::from_secs(1);
    for number in 0..KEY_COUNT {
        let key = key(number);
        let mortal = Mutation { expires_at: Some(expires_at), ..set(&key, &[7; 500], number + 1) };
        apply(&mut *store, &mortal, START);
    }
    let before = store.stats();
    for is_collected in [false, true] {
        let value = (!is_collected).then(|| vec![7; 500]);
        for number in 0..KEY_COUNT {
            let expected = Some((version(number + 1), value.clone(), Some(expires_at)));
            assert_eq!(accepted_of(&mut *store, &key(number)), expected);
        }
        let mut collected = 0;
        for _ in 0..1_000 {
            collected += store.collect_expired(100, expires_at);
        }
        assert_eq!(collected as u64, if is_collected { 0 } else { KEY_COUNT });
    }
    let stats = store.stats();
    assert_eq!((stats.key_count, stats.tombstone_count), (0, KEY_COUNT));
    assert_eq!((stats.payload_bytes, stats.expiring_key_count), (0, 0));
    assert!(stats.memory_bytes < before.memory_bytes);
    let late = set(b"key:7", b"late", 8);
    assert_eq!(apply(&mut *store, &late, expires_at), Applied::Superseded);
    assert_eq!(store.floor(), Version::ZERO);
    let mut other = open(&Options { seed: 2, ..options(Tombstones::Keep) });
    walk_all(&mut *store, 100, &mut |mutation| {
        apply(&mut *other, mutation, START);
    });
    assert_eq!(other.stats().tombstone_count, KEY_COUNT);
    let ended = Some((version(8), None, Some(expires_at)));
    assert_eq!(accepted_of(&mut *other, &key(7)), ended);
    assert_eq!(apply(&mut *other, &set(&key(7), b"new", 9), expires_at), WON_NEW);
    assert_eq!(accepted_of(&mut *other, &key(7)), Some((version(9), Some(b"new".to_vec()), None)));
}

/// A version that is there is refused, whatever it says: value, deletion or expired.
fn a_version_that_is_there_is_superseded(open: Open<'_>) {
    let mut store = open(&options(Tombstones::Keep));
    let expires_at = START + Duration::from_secs(1);
    apply(&mut *store, &set(b"value", b"v", 5), START);
    apply(&mut *store, &delete(b"deleted", 5), START);
    let mortal = Mutation { expires_at: Some(expires_at), ..set(b"expired", b"v", 5) };
    apply(&mut *store, &mortal, START);
    for key in [&b"value"[..], b"deleted", b"expired"] {
        let before = accepted_of(&mut *store, key);
        for mutation in [set(key, b"other", 5), delete(key, 5), set(key, b"older", 4)] {
            assert_eq!(apply(&mut *store, &mutation, expires_at), Applied::Superseded);
            assert_eq!(accepted_of(&mut *store, key), before);
        }
        let tie = Version { node: NodeId(2), ..version(5) };
        apply(&mut *store, &Mutation { version: tie, ..delete(key, 5) }, expires_at);
        assert_eq!(accepted_of(&mut *store, key), Some((tie, None, None)));
    }
}

/// What `apply` refuses changes nothing of the key.
fn a_refused_write_leaves_what_was_accepted(open: Open<'_>) {
    let mut store = open(&options(Tombstones::Keep));
    let expires_at = START + Duration::from_secs(1);
    apply(&mut *store, &set(b"value", b"v", 5), START);
    apply(&mut *store, &delete(b"deleted", 5), START);
    let mortal = Mutation { expires_at: Some(expires_at), ..set(b"expired", b"v", 5) };
    apply(&mut *store, &mortal, START);
    let keys = [&b"value"[..], b"deleted", b"expired", b"unknown"];
    let before = keys.map(|key| accepted_of(&mut *store, key));
    store.set_memory_limit(Some(1), Eviction::Refuse);
    let large = vec![1; 1 << 30];
    for (key, before) in keys.into_iter().zip(before) {
        let too_large = store.apply(token_of(key), &set(key, &large, 6), expires_at);
        assert!(matches!(too_large, Err(Error::TooLarge { .. })));
        assert_eq!(accepted_of(&mut *store, key), before);
    }
    let refused = try_apply(&mut *store, &set(b"unknown", b"v", 6), expires_at);
    assert!(matches!(refused, Err(Error::OutOfMemory { .. })));
    assert_eq!(accepted_of(&mut *store, b"unknown"), None);
}

/// Clearing forgets what is not newer, tombstones too, and nothing of it comes back.
fn clearing_sets_the_floor(open: Open<'_>) {
    let mut store = open(&options(Tombstones::Keep));
    for number in 1..=100 {
        let key = key(number);
        let mutation = if number % 3 == 0 { delete(&key, number) } else { set(&key, b"v", number) };
        apply(&mut *store, &mutation, START);
    }
    assert_eq!(store.floor(), Version::ZERO);
    store.clear(version(90)).expect("there is room");
    assert_eq!(store.floor(), version(90));
    for number in 1..=100 {
        let known = accepted_of(&mut *store, &key(number));
        let value = (number % 3 != 0).then(|| b"v".to_vec());
        assert_eq!(known, (number > 90).then(|| (version(number), value, None)), "{number}");
    }
    for late in [set(b"late", b"v", 90), delete(b"late", 90), set(b"late", b"v", 1)] {
        assert_eq!(apply(&mut *store, &late, START), Applied::Superseded);
        assert_eq!(accepted_of(&mut *store, b"late"), None);
    }
    // A key that is known has a version of its own.
    assert_eq!(apply(&mut *store, &set(b"key:93", b"v", 91), START), Applied::Superseded);
    assert_eq!(apply(&mut *store, &set(b"key:93", b"v", 94), START), WON_NEW);
    assert_eq!(apply(&mut *store, &set(b"late", b"v", 91), START), WON_NEW);
    store.clear(version(50)).expect("there is room");
    assert_eq!(store.floor(), version(90));
}

/// The statistics count tombstones as they come and go.
fn tombstones_are_counted(open: Open<'_>) {
    let mut store = open(&options(Tombstones::Keep));
    let count = |store: &mut dyn Storage| {
        let stats = store.stats();
        assert_eq!(stats.payload_bytes, stats.key_count * 7);
        (stats.key_count, stats.tombstone_count)
    };
    for number in 10..100 {
        apply(&mut *store, &set(&key(number), b"v", 1), START);
    }
    assert_eq!(count(&mut *store), (90, 0));
    for number in 10..70 {
        assert_eq!(apply(&mut *store, &delete(&key(number), 2), START), WON_OVER);
    }
    assert_eq!(count(&mut *store), (30, 60));
    let with_tombstones = store.stats().memory_bytes;
    for number in 10..20 {
        assert_eq!(apply(&mut *store, &delete(&key(number), 3), START), WON_NEW);
        apply(&mut *store, &set(&key(number + 10), b"w", 3), START);
    }
    assert_eq!(count(&mut *store), (40, 50));
    store.clear(version(2)).expect("there is room");
    assert_eq!(count(&mut *store), (10, 10));
    for _ in 0..100 {
        store.collect_expired(1_000, START);
    }
    assert!(store.stats().memory_bytes <= with_tombstones);
}

/// A promise is raised and never lowered, and has to do with no version of a key.
fn a_promise_only_grows(open: Open<'_>) {
    let mut store = open(&options(Tombstones::Keep));
    assert_eq!(store.promised(), Version::ZERO);
    for (promise, promised) in [(5, 5), (3, 5), (5, 5), (9, 9)] {
        store.promise(version(promise)).expect("there is room");
        assert_eq!(store.promised(), version(promised));
    }
    assert_eq!((store.version_max(), store.floor()), (Version::ZERO, Version::ZERO));
    assert_eq!(apply(&mut *store, &set(b"k", b"v", 1), START), WON_NEW);
    store.clear(version(20)).expect("there is room");
    assert_eq!(store.promised(), version(9));
}

/// A walk applied to another store makes what is accepted there the same, for all keys.
fn what_a_walk_shows_makes_another_store_the_same(open: Open<'_>) {
    const KEY_COUNT: u64 = 1_000;
    let mut store = open(&options(Tombstones::Keep));
    for number in 1..=3_000_u64 {
        let key = key(number * 7 % KEY_COUNT);
        let value = vec![number as u8; (number * 13 % 300) as usize];
        let expires_at = (number % 3 == 0).then(|| START + Duration::from_millis(number % 200));
        let mutation = match number % 5 {
            0 => delete(&key, number),
            _ => Mutation { expires_at, ..set(&key, &value, number) },
        };
        apply(&mut *store, &mutation, START);
    }
    let now = START + Duration::from_millis(100);
    let all = (0..KEY_COUNT).map(key);
    let expected: Vec<Known> = all.map(|key| accepted_of(&mut *store, &key)).collect();
    assert!(expected.iter().flatten().any(|(_, value, _)| value.is_none()));
    for budget in [0, 10, 1_000_000] {
        let mut other = open(&Options { seed: 2, ..options(Tombstones::Keep) });
        walk_all(&mut *store, budget, &mut |mutation| {
            apply(&mut *other, mutation, now);
        });
        for (number, expected) in (0..).zip(&expected) {
            let found = accepted_of(&mut *other, &key(number));
            assert_eq!(found, *expected, "key {number}, budget {budget}");
        }
        assert_eq!(other.stats().key_count + other.stats().tombstone_count, KEY_COUNT);
    }
}

/// However much the values are, each is shown, whole.
fn a_walk_of_large_values_shows_each_once(open: Open<'_>) {
    const KEY_COUNT: u64 = 80;
    let mut store = open(&options(Tombstones::Keep));
    let value = |number: u64| vec![number as u8; 100_000];
    for number in 0..KEY_COUNT {
        apply(&mut *store, &set(&key(number), &value(number), number + 1), START);
    }
    let mut shown = Vec::new();
    walk_all(&mut *store, 1_000_000, &mut |mutation| {
        let number = mutation.version.timestamp.0 - 1;
        assert_eq!((mutation.key, mutation.value), (&key(number)[..], Some(&value(number)[..])));
        shown.push(number);
    });
    shown.sort_unstable();
    assert_eq!(shown, (0..KEY_COUNT).collect::<Vec<_>>());
}
