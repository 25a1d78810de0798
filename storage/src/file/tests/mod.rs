//! What a store on disk does, shown on a simulated disk.

mod bounds;
mod commits;
mod compaction;
mod damage;
mod faults;
mod format;
mod fuzz;
mod kit;
mod leaving;
mod promises;
mod tombstones;

pub(super) use self::format::fixture;

use std::cell::Cell;
use std::time::Duration;

use gridkv_cluster::Instant;

use super::log::State;
use super::*;
use crate::backend::{Applied, LogPosition, LogStats, ReadError, Step, Ticket};
use crate::contract;
use crate::disk::{Faults, FileId, SimulatedDisk};

const START: WallTime = WallTime::from_millis(1_700_000_000_000);

fn setup(segment_bytes: u32, cache_bytes_max: u64) -> Setup {
    Setup {
        cache_bytes_max,
        durability: Durability::Commit,
        segment_bytes,
        directory: "simulated".to_owned(),
    }
}

#[test]
fn the_contract_is_kept_with_a_cache_and_almost_without() {
    for cache_bytes in [64 << 20, 32 << 10] {
        check_contract(1 << 20, cache_bytes);
    }
}

#[test]
fn the_contract_is_kept_with_the_largest_segments() {
    check_contract(SEGMENT_BYTES_MAX as u32, 32 << 10);
}

fn check_contract(segment_bytes: u32, cache_bytes: u64) {
    let seed = Cell::new(0);
    contract::check(&|options| {
        seed.set(seed.get() + 1);
        let disk = SimulatedDisk::new(seed.get(), Faults::NONE);
        let setup = setup(segment_bytes, cache_bytes);
        let (store, recovered) = FileStorage::open(disk, setup, options, START).unwrap();
        assert_eq!(recovered, Recovered::default());
        Box::new(store)
    });
}

#[test]
fn records_at_the_far_end_of_the_largest_segment_are_found_and_overwritten() {
    let disk = SimulatedDisk::new(1, Faults::NONE);
    let setup = setup(SEGMENT_BYTES_MAX as u32, 0);
    let (mut store, _) = open(&disk, &setup);
    let key = |number: u64| number.to_be_bytes();
    let value = |number: u64| vec![number as u8; 500 << 10];
    // Each file is twice the last, from 4 MiB on: the largest is filled too.
    let key_count = (2 * SEGMENT_BYTES_MAX as u64) / (500 << 10);
    for number in 0..key_count {
        set(&mut store, &key(number), &value(number), number + 1);
    }
    contract::wait_until_durable(&mut store);
    let far = |store: &FileStorage<SimulatedDisk>| {
        store.log.files.iter().flatten().map(|file| file.data_end).max().expect("there are files")
    };
    assert!(far(&store) > SEGMENT_BYTES_MAX as u32 - (1 << 20), "{} bytes in a file", far(&store));
    disk.crash();
    let (mut store, recovered) = open(&disk, &setup);
    assert_eq!(recovered.damages, []);
    for number in 0..key_count {
        let found = contract::value_of(&mut store, &key(number), START);
        assert!(found == Some(value(number)), "key {number}");
    }
    for number in 0..key_count {
        set(&mut store, &key(number), b"new", key_count + number + 1);
    }
    for number in 0..key_count {
        assert_eq!(contract::value_of(&mut store, &key(number), START), Some(b"new".to_vec()));
    }
}

fn open(disk: &SimulatedDisk, setup: &Setup) -> (FileStorage<SimulatedDisk>, Recovered) {
    let options = contract::options(Tombstones::Drop);
    FileStorage::open(disk.clone(), setup.clone(), &options, START).unwrap()
}

fn set(store: &mut FileStorage<SimulatedDisk>, key: &[u8], value: &[u8], number: u64) {
    let version = contract::version(number);
    let mutation = Mutation { key, value: Some(value), version, expires_at: None };
    loop {
        match store.apply(contract::token_of(key), &mutation, START) {
            Ok(_) => return,
            Err(Error::Busy(ticket)) => contract::wait_for(store, ticket),
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn after_a_clean_stop_nothing_is_scanned_and_after_a_crash_the_last_segment() {
    let disk = SimulatedDisk::new(1, Faults::NONE);
    let setup = setup(1 << 17, 1 << 20);
    let (mut store, _) = open(&disk, &setup);
    for number in 1..=10_000_u64 {
        set(&mut store, &number.to_be_bytes(), &[7; 100], number);
    }
    store.close();
    disk.crash();
    let (mut store, recovered) = open(&disk, &setup);
    assert!(recovered.has_checkpoint);
    assert_eq!((recovered.scanned_count, recovered.torn_bytes), (0, 0));
    assert!(recovered.segment_count > 10);
    assert_eq!(store.stats().key_count, 10_000);
    set(&mut store, b"new", b"v", 20_000);
    contract::wait_until_durable(&mut store);
    disk.crash();
    let (store, recovered) = open(&disk, &setup);
    assert!(!recovered.has_checkpoint, "a checkpoint tells of what was before");
    assert_eq!((recovered.scanned_count, recovered.torn_bytes), (1, 0));
    assert_eq!(store.stats().key_count, 10_001);
}
