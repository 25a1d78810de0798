//! No call takes longer the more the store holds: what is much is done in steps.

use super::*;
use crate::backend::Eviction;

const VALUE: [u8; 100] = [7; 100];

fn filled(disk: &SimulatedDisk, count: u64) -> FileStorage<SimulatedDisk> {
    let (mut store, _) = open(disk, &setup(1 << 20, 256 << 20));
    for number in 1..=count {
        set(&mut store, &number.to_be_bytes(), &VALUE, number);
    }
    store
}

/// Turns at one time for as long as the store says that it has something to do, and at most `count`.
fn turns(store: &mut FileStorage<SimulatedDisk>, count: usize) -> usize {
    let now = Instant::from_nanos(1 << 40);
    for done in 0..count {
        store.turn(now);
        if store.way_due_at().is_none() {
            return done + 1;
        }
    }
    count
}

#[test]
fn a_bound_that_was_lowered_is_reached_in_steps_and_without_writes() {
    let mut store = filled(&SimulatedDisk::new(1, Faults::NONE), 30_000);
    turns(&mut store, 10);
    assert_eq!(store.way_due_at(), None);
    let bound = 3 << 20;
    store.set_memory_limit(Some(bound), Eviction::Lfu);
    assert_eq!(store.cache.stats().key_count, 30_000, "nothing was let go of yet");
    assert!(store.turn_due_at().is_some());
    set(&mut store, b"new", &VALUE, 50_000);
    let cached = store.cache.stats().key_count;
    assert!((27_000..30_000).contains(&cached), "{cached} keys are left after one write");
    assert!(store.memory_bytes() > bound, "a write is not refused while the cache gives way");
    let count = turns(&mut store, 1_000);
    assert!((5..1_000).contains(&count), "{count} turns");
    assert!(store.memory_bytes() <= bound);
    assert_eq!(store.way_due_at(), None);
    assert_eq!(store.stats().key_count, 30_001);
}

#[test]
fn a_bound_below_the_index_refuses_new_keys_at_once_and_lets_the_core_rest() {
    let mut store = filled(&SimulatedDisk::new(2, Faults::NONE), 5_000);
    let bound = store.index.memory_bytes() - 1;
    store.set_memory_limit(Some(bound), Eviction::Lfu);
    let version = contract::version(9_000);
    let mutation = Mutation { key: b"new", value: Some(&VALUE), version, expires_at: None };
    let refused = store.apply(contract::token_of(b"new"), &mutation, START);
    assert!(matches!(refused, Err(Error::OutOfMemory { .. })), "{refused:?}");
    assert!(turns(&mut store, 1_000) < 1_000, "what cannot be freed is not tried for ever");
    assert_eq!(store.cache.stats().key_count, 0);
}

#[test]
fn a_cleared_store_is_freed_in_turns_and_takes_writes_meanwhile() {
    let mut store = filled(&SimulatedDisk::new(3, Faults::NONE), 30_000);
    turns(&mut store, 10);
    store.set_memory_limit(Some(6 << 20), Eviction::Lfu);
    turns(&mut store, 1_000);
    let full = store.memory_bytes();
    assert!(full > 4 << 20);
    store.clear(contract::version(40_000)).unwrap();
    assert!(store.memory_bytes() >= full, "nothing was freed yet");
    assert!(store.turn_due_at().is_some());
    set(&mut store, b"new", &VALUE, 50_000);
    assert_eq!(store.stats().key_count, 1);
    assert!(store.memory_bytes() > full / 2, "a write frees a little");
    let count = turns(&mut store, 10_000);
    assert!((5..10_000).contains(&count), "{count} turns");
    assert!(store.memory_bytes() < 1 << 18, "{} bytes are left", store.memory_bytes());
}

#[test]
fn a_search_for_what_has_expired_collects_so_many_and_no_more() {
    let disk = SimulatedDisk::new(4, Faults::NONE);
    let (mut store, _) = open(&disk, &setup(1 << 20, 256 << 20));
    let expires_at = Some(START + Duration::from_millis(1));
    for number in 1..=20_000_u64 {
        let (key, version) = (number.to_be_bytes(), contract::version(number));
        let mutation = Mutation { key: &key, value: Some(b"v"), version, expires_at };
        while let Err(Error::Busy(ticket)) = store.apply(contract::token_of(&key), &mutation, START)
        {
            contract::wait_for(&mut store, ticket);
        }
    }
    let (budget, later) = (16 << 10, START + Duration::from_millis(2));
    let mut collected = 0;
    for _ in 0..20 {
        let cached = store.cache.stats().key_count;
        let some = store.collect_expired(budget, later);
        assert!(some <= budget / 8 + 256, "{some} of the index in one call");
        assert!(cached - store.cache.stats().key_count <= (budget / 8) as u64);
        // At this many the core looks again in its next turn.
        assert!(some >= budget / 16 || collected + some == 20_000);
        collected += some;
    }
    assert_eq!((collected, store.stats().key_count), (20_000, 0));
}
