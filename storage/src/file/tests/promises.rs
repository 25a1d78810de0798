//! A promise outlives whatever becomes of the files that told it.

use super::kit::{Rig, SEGMENT_BYTES, small};
use super::*;
use crate::directory::{Directory, New};
use crate::disk::{IoPort, SyncMethod};
use crate::file::restore;

const PROMISED: Version = contract::version(u64::MAX >> 1);

fn overwrite(rig: &mut Rig<SimulatedDisk>) {
    for number in 0..2_000_u64 {
        rig.set(&(number % 100).to_be_bytes(), &[number as u8; 1_000]);
        rig.turn();
    }
    rig.commit();
}

/// A store whose promise is only told by headers: the file with its record was used again.
fn promised_long_ago() -> (Rig<SimulatedDisk>, SimulatedDisk) {
    let (mut rig, disk) = Rig::new(1);
    rig.set(b"first", b"v");
    rig.store.promise(PROMISED).unwrap();
    let file = rig.place_of(b"first").0;
    let id = rig.store.log.file(file).id;
    rig.commit();
    overwrite(&mut rig);
    rig.settle(&disk);
    assert!(rig.store.log.files[file.0 as usize].is_none_or(|file| file.id != id));
    (rig, disk)
}

#[test]
fn a_promise_survives_crashes_the_compaction_of_its_file_and_clean_stops() {
    let (mut rig, disk) = promised_long_ago();
    for round in 0..6 {
        if round % 2 == 0 {
            rig.store.close();
        }
        disk.crash();
        rig = rig.reopen(disk.clone());
        assert_eq!(rig.recovered.has_checkpoint, round % 2 == 0);
        assert_eq!(rig.store.promised(), PROMISED);
        assert!(rig.store.version_max() < PROMISED);
        overwrite(&mut rig);
        rig.settle(&disk);
    }
}

#[test]
fn the_files_of_a_snapshot_tell_the_promise() {
    let (mut rig, disk) = promised_long_ago();
    while let Err(error) = rig.store.roll() {
        let Error::Busy(ticket) = error else { panic!("{error}") };
        rig.wait_for(ticket).unwrap();
    }
    rig.commit();
    rig.settle(&disk);
    let (names, copy) = (rig.store.record_files(), SimulatedDisk::new(2, Faults::NONE));
    for (file, _) in disk.files() {
        if names.contains(&disk.name(file)) {
            copy.put(file, disk.bytes(file).unwrap());
        }
    }
    assert_eq!(Rig::open(copy, small()).store.promised(), PROMISED);
}

fn open_shard(directory: &Directory, index: u16) -> FileStorage<DirectDisk> {
    let disk = DirectDisk::open(&directory.shard(index), IoPort::new(), SyncMethod::Dsync).unwrap();
    let range = ShardRange::new(index, directory.shard_count());
    let token_key = directory.token_key();
    let options = Options { range, token_key, ..contract::options(Tombstones::Keep) };
    let setup = setup(directory.segment_bytes(), 0);
    FileStorage::open(disk, setup, &options, START).unwrap().0
}

#[test]
fn a_restored_directory_keeps_the_promises_of_all_shards() {
    let place = tempfile::tempdir().unwrap();
    let make = |name: &str, shard_count| {
        let new = New { shard_count, segment_bytes: SEGMENT_BYTES, token_secret: [7; 16] };
        Directory::create(&place.path().join(name), &new).unwrap()
    };
    let (from, to) = (make("from", 2), make("to", 3));
    for (index, through) in [(0, contract::version(5)), (1, PROMISED)] {
        let mut store = open_shard(&from, index);
        store.promise(through).unwrap();
        store.close();
    }
    let cut = gridkv_cluster::Timestamp(1);
    restore(&from, cut, &to, SyncMethod::Dsync).unwrap();
    for index in 0..3 {
        assert_eq!(open_shard(&to, index).promised(), PROMISED);
    }
}
