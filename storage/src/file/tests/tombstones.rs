//! What becomes of the deleted where tombstones are kept.

use super::kit::{Rig, SEGMENT_BYTES, small};
use super::*;
use crate::backend::Accepted;

fn keeping(seed: u64) -> (Rig<SimulatedDisk>, SimulatedDisk) {
    let disk = SimulatedDisk::new(seed, Faults::NONE);
    (Rig::open_keeping(disk.clone()), disk)
}

fn accepted(rig: &mut Rig<SimulatedDisk>, key: &[u8]) -> Option<Version> {
    rig.store.accepted(contract::token_of(key), key).version()
}

/// Goes on to the next file.
fn roll(rig: &mut Rig<SimulatedDisk>) {
    while let Err(error) = rig.store.roll() {
        let Error::Busy(ticket) = error else { panic!("{error}") };
        rig.wait_for(ticket).unwrap();
    }
    rig.commit();
}

#[test]
fn the_values_of_the_expired_leave_the_disk() {
    const KEY_COUNT: u64 = 500;
    let (mut rig, disk) = keeping(1);
    let expires_at = rig.now + Duration::from_secs(1);
    for number in 0..KEY_COUNT {
        rig.apply(&number.to_be_bytes(), Some(&[7; 2_000]), Some(expires_at));
        rig.turn();
    }
    rig.commit();
    let keys = (0..KEY_COUNT).map(u64::to_be_bytes);
    let versions: Vec<_> = keys.map(|key| accepted(&mut rig, &key).unwrap()).collect();
    rig.now = expires_at;
    while rig.store.collect_expired(1_000, rig.now) > 0 {}
    assert!(rig.stats().disk_bytes > 1 << 20);
    rig.settle(&disk);
    for is_reopened in [false, true] {
        let bound = KEY_COUNT * TOMBSTONE_BYTES * 3 / 2 + 5 * u64::from(SEGMENT_BYTES);
        let disk_bytes = rig.stats().disk_bytes;
        assert!(disk_bytes <= bound, "{disk_bytes} bytes, reopened: {is_reopened}");
        assert_eq!(rig.store.stats().tombstone_count, KEY_COUNT);
        for (key, version) in (0..KEY_COUNT).map(u64::to_be_bytes).zip(&versions) {
            let known = rig.store.accepted(contract::token_of(&key), &key);
            assert_eq!(known, Accepted::Ended(*version, expires_at));
        }
        disk.crash();
        rig = rig.reopen(disk.clone());
        rig.settle(&disk);
    }
}

/// A tombstone that is newer than what was cleared, in the file with the record of that.
fn cleared_beside_a_tombstone() -> (Rig<SimulatedDisk>, SimulatedDisk) {
    let (mut rig, disk) = keeping(2);
    rig.set(b"cleared", b"v");
    rig.skip_version();
    rig.set(b"stays", &[7; 30_000]);
    roll(&mut rig);
    rig.delete(b"deleted");
    rig.store.clear(contract::version(2)).unwrap();
    rig.commit();
    (rig, disk)
}

#[test]
fn what_was_cleared_stays_so_when_the_file_that_says_it_goes() {
    for is_reopened in [false, true] {
        let (mut rig, disk) = cleared_beside_a_tombstone();
        if is_reopened {
            disk.crash();
            rig = rig.reopen(disk.clone());
        }
        roll(&mut rig);
        let cleared_in = rig.place_of(b"deleted").0;
        let id = rig.store.log.file(cleared_in).id;
        rig.set(b"deleted", b"is back");
        rig.commit();
        for round in 0..400 {
            rig.set(b"often", &[round as u8; 1_000]);
            rig.turn();
        }
        rig.commit();
        rig.settle(&disk);
        let file = rig.store.log.files[cleared_in.0 as usize];
        assert!(file.is_none_or(|file| file.id != id), "the file was used again");
        disk.crash();
        rig = rig.reopen(disk.clone());
        assert_eq!(accepted(&mut rig, b"cleared"), None, "reopened before: {is_reopened}");
        assert_eq!(accepted(&mut rig, b"stays"), Some(contract::version(3)));
        assert_eq!(rig.store.floor(), contract::version(2));
    }
}

#[test]
fn what_was_deleted_after_the_version_of_a_clearing_stays_so() {
    let (mut rig, disk) = Rig::new(3);
    rig.set(b"deleted", b"v");
    rig.set(b"stays", &[7; 30_000]);
    roll(&mut rig);
    rig.set(b"often", b"v");
    rig.delete(b"deleted");
    rig.commit();
    let file = rig.place_of(b"often").0;
    let id = rig.store.log.file(file).id;
    roll(&mut rig);
    // From a node whose clock is behind.
    rig.store.clear(contract::version(0)).unwrap();
    for round in 0..400 {
        rig.set(b"often", &[round as u8; 1_000]);
        rig.turn();
    }
    rig.commit();
    rig.settle(&disk);
    let file = rig.store.log.files[file.0 as usize];
    assert!(file.is_none_or(|file| file.id != id), "the file was used again");
    disk.crash();
    rig = rig.reopen(disk.clone());
    assert_eq!(accepted(&mut rig, b"deleted"), None);
    assert!(accepted(&mut rig, b"stays").is_some());
}

/// A node that was in a cluster is started without one: it keeps no tombstones from then on.
#[test]
fn what_a_record_that_has_ended_covers_stays_covered_where_tombstones_are_dropped() {
    let (mut rig, disk) = keeping(4);
    let expires_at = rig.now + Duration::from_secs(1);
    rig.set(b"ended", b"before");
    rig.set(b"stays", &[7; 30_000]);
    roll(&mut rig);
    rig.apply(b"ended", None, Some(expires_at));
    for round in 0..40_u8 {
        rig.set(b"often", &[round; 1_000]);
    }
    roll(&mut rig);
    let version = accepted(&mut rig, b"ended").unwrap();
    let token = contract::token_of(b"ended");
    assert_eq!(rig.store.accepted(token, b"ended"), Accepted::Ended(version, expires_at));
    let id = rig.store.log.file(rig.place_of(b"ended").0).id;
    disk.crash();
    let mut rig = Rig::open(disk.clone(), small());
    for _ in 0..3 {
        assert_eq!(rig.store.peek(token, b"ended", rig.now), Lookup::Absent);
        rig.settle(&disk);
        disk.crash();
        rig = rig.reopen(disk.clone());
    }
    let is_left = rig.store.log.files.iter().flatten().any(|it| it.id == id && it.has_records());
    assert!(!is_left, "its file is gone, and what it said is kept elsewhere");
    assert_eq!(rig.store.peek(token, b"ended", rig.now), Lookup::Absent);
}
