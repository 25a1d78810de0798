use std::collections::BTreeSet;

use super::*;
use crate::disk::{BLOCK_BYTES, zeroed};

const FILE: FileId = FileId(1);
const BLOCK: u64 = BLOCK_BYTES as u64;
const SEED_COUNT: u64 = 200;

fn filled(block_count: usize, byte: u8) -> Buffer {
    let mut buffer = zeroed(block_count * BLOCK_BYTES);
    buffer.fill(byte);
    buffer
}

fn write(block: u64, buffer: Buffer, is_durable: bool) -> Op {
    Op::Write { file: FILE, offset: block * BLOCK, buffer, is_durable }
}

fn read(block: u64, block_count: usize) -> Op {
    Op::Read { file: FILE, offset: block * BLOCK, buffer: zeroed(block_count * BLOCK_BYTES) }
}

fn create(block_count: u64) -> Op {
    Op::Create { file: FILE, bytes: block_count * BLOCK, is_written: true }
}

const SYNC: Op = Op::Sync { file: FILE };
const DELETE: Op = Op::Delete { file: FILE };

/// Carries out one operation, with nothing else under way.
fn run(disk: &mut SimulatedDisk, op: Op) -> Completion {
    let id = disk.start(op);
    disk.wait().unwrap();
    let completion = disk.poll().unwrap();
    assert_eq!(completion.id, id);
    completion
}

fn done(disk: &mut SimulatedDisk, op: Op) -> Option<Buffer> {
    let completion = run(disk, op);
    completion.result.unwrap();
    completion.buffer
}

/// A disk with a file of so many blocks.
fn disk(seed: u64, block_count: u64) -> SimulatedDisk {
    let mut disk = SimulatedDisk::new(seed, Faults::NONE);
    done(&mut disk, create(block_count));
    disk
}

fn error_of(completion: &Completion) -> Option<i32> {
    completion.result.as_ref().err().and_then(io::Error::raw_os_error)
}

/// The first byte of each block of the file.
fn firsts(disk: &SimulatedDisk) -> Vec<u8> {
    disk.bytes(FILE).unwrap().chunks(BLOCK_BYTES).map(|it| it[0]).collect()
}

#[test]
fn operations_end_after_some_polls_and_in_any_order() {
    let mut orders = BTreeSet::new();
    for seed in 0..SEED_COUNT {
        let mut disk = disk(seed, 4);
        let ids: Vec<OpId> =
            (0..3).map(|block| disk.start(write(block, filled(1, 1), false))).collect();
        let mut order = Vec::new();
        while order.len() < 3 {
            if let Some(completion) = disk.poll() {
                completion.result.unwrap();
                order.push(ids.iter().position(|id| *id == completion.id).unwrap());
            }
        }
        assert_eq!(disk.under_way_count(), 0);
        orders.insert(order);
    }
    assert_eq!(orders.len(), 6);
}

#[test]
fn waiting_for_nothing_is_refused() {
    let mut disk = disk(1, 1);
    assert!(disk.wait().is_err());
    disk.start(read(0, 1));
    disk.wait().unwrap();
    // What has ended and was not taken ends the next wait at once.
    disk.wait().unwrap();
    assert!(disk.poll().is_some());
    assert!(disk.poll().is_none());
    assert!(disk.wait().is_err());
}

#[test]
fn a_read_sees_the_writes_that_ended_before() {
    for seed in 0..SEED_COUNT {
        let mut disk = disk(seed, 4);
        done(&mut disk, write(1, filled(2, 7), false));
        done(&mut disk, write(2, filled(1, 8), true));
        let bytes = done(&mut disk, read(0, 4)).unwrap();
        let seen: Vec<u8> = bytes.chunks(BLOCK_BYTES).map(|it| it[0]).collect();
        assert_eq!(seen, [0, 7, 8, 0]);
        let mut buffer = zeroed(2 * BLOCK_BYTES);
        disk.read_now(FILE, BLOCK, &mut buffer).unwrap();
        assert_eq!((buffer[0], buffer[BLOCK_BYTES]), (7, 8));
    }
}

#[test]
fn a_read_may_see_some_blocks_of_a_write_under_way() {
    let mut seen = BTreeSet::new();
    for seed in 0..SEED_COUNT {
        let mut disk = disk(seed, 2);
        disk.start(write(0, filled(2, 5), true));
        let mut buffer = zeroed(2 * BLOCK_BYTES);
        disk.read_now(FILE, 0, &mut buffer).unwrap();
        seen.insert((buffer[0], buffer[BLOCK_BYTES]));
    }
    assert_eq!(seen, BTreeSet::from([(0, 0), (0, 5), (5, 0), (5, 5)]));
}

#[test]
fn a_write_that_has_ended_but_was_not_synced_is_kept_lost_or_torn_by_blocks() {
    let (mut kept, mut lost, mut torn) = (0, 0, 0);
    for seed in 0..SEED_COUNT {
        let mut disk = disk(seed, 8);
        done(&mut disk, write(0, filled(8, 3), false));
        assert_eq!(firsts(&disk), [3; 8]);
        disk.crash();
        for block in disk.bytes(FILE).unwrap().chunks(BLOCK_BYTES) {
            let new_count = block.iter().filter(|it| **it == 3).count();
            assert_eq!(new_count % 512, 0);
            match new_count {
                0 => lost += 1,
                BLOCK_BYTES => kept += 1,
                _ => torn += 1,
            }
        }
        let counts = disk.counts();
        let total = counts.kept_block_count + counts.lost_block_count + counts.torn_block_count;
        assert_eq!(total, 8);
    }
    assert!(kept > 100);
    assert!(lost > 100);
    assert!(torn > 100);
}

#[test]
fn a_block_written_twice_may_come_back_as_of_either_write() {
    let mut outcomes = BTreeSet::new();
    for seed in 0..SEED_COUNT {
        let mut disk = disk(seed, 1);
        done(&mut disk, write(0, filled(1, 1), false));
        done(&mut disk, write(0, filled(1, 2), false));
        disk.crash();
        let bytes = disk.bytes(FILE).unwrap();
        if bytes.iter().all(|it| *it == bytes[0]) {
            outcomes.insert(bytes[0]);
        }
    }
    assert_eq!(outcomes, BTreeSet::from([0, 1, 2]));
}

#[test]
fn a_sync_makes_durable_what_had_ended_before_it_started() {
    let mut later_was_lost = false;
    for seed in 0..SEED_COUNT {
        let mut disk = disk(seed, 2);
        done(&mut disk, write(0, filled(1, 1), false));
        let sync = disk.start(SYNC);
        let later = disk.start(write(1, filled(1, 2), false));
        let mut open = BTreeSet::from([sync, later]);
        while !open.is_empty() {
            if let Some(completion) = disk.poll() {
                completion.result.unwrap();
                open.remove(&completion.id);
            }
        }
        disk.crash();
        assert!(disk.bytes(FILE).unwrap()[..BLOCK_BYTES].iter().all(|it| *it == 1));
        later_was_lost |= firsts(&disk)[1] == 0;
    }
    assert!(later_was_lost);
}

#[test]
fn a_sync_keeps_the_version_that_it_covers_when_the_block_is_written_again_meanwhile() {
    let mut outcomes = BTreeSet::new();
    for seed in 0..SEED_COUNT {
        let mut disk = disk(seed, 1);
        done(&mut disk, write(0, filled(1, 1), false));
        disk.start(SYNC);
        disk.start(write(0, filled(1, 2), false));
        while disk.under_way_count() > 0 {
            disk.poll();
        }
        disk.crash();
        outcomes.extend(disk.bytes(FILE).unwrap().iter().copied());
    }
    assert_eq!(outcomes, BTreeSet::from([1, 2]));
}

#[test]
fn a_durable_write_makes_itself_durable_and_nothing_else() {
    let mut neighbour_was_lost = false;
    for seed in 0..SEED_COUNT {
        let mut disk = disk(seed, 2);
        done(&mut disk, write(0, filled(1, 1), false));
        done(&mut disk, write(1, filled(1, 2), true));
        disk.crash();
        assert!(disk.bytes(FILE).unwrap()[BLOCK_BYTES..].iter().all(|it| *it == 2));
        neighbour_was_lost |= firsts(&disk)[0] == 0;
    }
    assert!(neighbour_was_lost);
}

#[test]
fn a_crash_tears_writes_under_way_by_sectors() {
    let mut mixed = 0;
    for seed in 0..SEED_COUNT {
        let mut disk = disk(seed, 1);
        disk.start(write(0, filled(1, 9), true));
        disk.crash();
        let bytes = disk.bytes(FILE).unwrap();
        for sector in bytes.chunks(512) {
            assert!(sector.iter().all(|it| *it == sector[0]));
        }
        mixed += u64::from(bytes.contains(&0) && bytes.contains(&9));
        assert_eq!(disk.counts().dropped_count, 1);
    }
    assert!(mixed > SEED_COUNT / 2);
}

#[test]
fn what_was_under_way_in_a_crash_never_ends() {
    let mut disk = disk(3, 1);
    let mut store = disk.clone();
    store.start(write(0, filled(1, 9), true));
    disk.crash();
    assert!(disk.wait().is_err());
    assert!(disk.poll().is_none());
    // The store of before the crash reaches nothing.
    let before = disk.bytes(FILE);
    store.start(write(0, filled(1, 4), true));
    store.start(DELETE);
    assert!(store.wait().is_err());
    assert!(store.poll().is_none());
    assert!(store.read_now(FILE, 0, &mut zeroed(BLOCK_BYTES)).is_err());
    assert_eq!(disk.under_way_count(), 0);
    assert_eq!(disk.bytes(FILE), before);
    // One that is opened after it does.
    let mut next = disk.clone();
    done(&mut next, write(0, filled(1, 4), true));
    assert_eq!(firsts(&disk), [4]);
}

#[test]
fn a_file_under_construction_may_be_absent_short_or_there_after_a_crash() {
    let mut lengths = BTreeSet::new();
    for seed in 0..SEED_COUNT {
        let mut disk = SimulatedDisk::new(seed, Faults::NONE);
        disk.start(create(2));
        assert_eq!(disk.files(), []);
        disk.crash();
        lengths.insert(disk.files().first().map(|(_, bytes)| *bytes));
        assert!(disk.bytes(FILE).is_none_or(|it| it.iter().all(|byte| *byte == 0)));
    }
    assert_eq!(lengths, BTreeSet::from([None, Some(0), Some(BLOCK), Some(2 * BLOCK)]));
}

#[test]
fn a_file_being_removed_may_be_there_after_a_crash_and_one_removed_is_not() {
    let mut outcomes = BTreeSet::new();
    for seed in 0..SEED_COUNT {
        let mut disk = disk(seed, 1);
        disk.start(DELETE);
        disk.crash();
        outcomes.insert(disk.files().len());
        if disk.files().len() == 1 {
            done(&mut disk, DELETE);
        }
        disk.crash();
        assert_eq!(disk.files(), []);
    }
    assert_eq!(outcomes, BTreeSet::from([0, 1]));
}

#[test]
fn a_file_made_in_place_of_another_is_empty_and_durable() {
    let mut disk = disk(5, 1);
    done(&mut disk, write(0, filled(1, 9), true));
    done(&mut disk, create(3));
    disk.crash();
    assert_eq!(disk.files(), [(FILE, 3 * BLOCK)]);
    assert_eq!(firsts(&disk), [0; 3]);
}

#[test]
fn operations_on_a_file_that_is_not_there_are_refused() {
    let mut disk = SimulatedDisk::new(1, Faults::NONE);
    for op in [read(0, 1), write(0, filled(1, 1), false), SYNC, DELETE] {
        assert_eq!(error_of(&run(&mut disk, op)), Some(libc::ENOENT));
    }
    done(&mut disk, create(1));
    let late = run(&mut disk, read(1, 1));
    assert_eq!(late.result.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    // A file that is being made is not there yet; one that is being removed no more.
    disk.start(DELETE);
    let refused = disk.start(SYNC);
    loop {
        let Some(completion) = disk.poll() else { continue };
        if completion.id == refused {
            assert_eq!(error_of(&completion), Some(libc::ENOENT));
            break;
        }
    }
}

#[test]
fn a_read_that_began_before_its_file_was_removed_is_answered() {
    for seed in 0..SEED_COUNT {
        let mut disk = disk(seed, 1);
        done(&mut disk, write(0, filled(1, 6), false));
        let reading = disk.start(read(0, 1));
        disk.start(DELETE);
        while disk.under_way_count() > 0 {
            let Some(completion) = disk.poll() else { continue };
            if completion.id == reading {
                assert_eq!(completion.buffer.unwrap()[0], 6);
            }
        }
    }
}

#[test]
fn what_a_failed_sync_has_forgotten_is_read_and_not_brought_back_by_the_next_sync() {
    let mut lost = 0;
    for seed in 0..SEED_COUNT {
        let mut disk = disk(seed, 8);
        done(&mut disk, write(0, filled(8, 4), false));
        disk.set_faults(Faults { sync_failure: 1.0, ..Faults::NONE });
        assert_eq!(error_of(&run(&mut disk, SYNC)), Some(libc::EIO));
        disk.set_faults(Faults::NONE);
        done(&mut disk, SYNC);
        assert_eq!(firsts(&disk), [4; 8]);
        let forgotten = disk.counts().doomed_block_count;
        disk.crash();
        let gone = firsts(&disk).iter().filter(|it| **it == 0).count() as u64;
        assert_eq!(gone, forgotten);
        assert_eq!(disk.counts().lost_block_count, forgotten);
        lost += gone;
    }
    assert!(lost > SEED_COUNT);
}

#[test]
fn a_failed_write_may_be_there_in_any_part() {
    let faults = [
        Faults { write_failure: 1.0, ..Faults::NONE },
        Faults { sync_failure: 1.0, ..Faults::NONE },
    ];
    let mut outcomes = BTreeSet::new();
    for seed in 0..SEED_COUNT {
        let mut disk = disk(seed, 1);
        disk.set_faults(faults[usize::from(seed % 2 == 0)]);
        let failed = run(&mut disk, write(0, filled(1, 4), true));
        assert_eq!(error_of(&failed), Some(libc::EIO));
        assert!(failed.buffer.is_some());
        assert_eq!(disk.counts().failed_write_count, 1);
        let seen = firsts(&disk)[0];
        disk.crash();
        outcomes.insert((seen, firsts(&disk)[0]));
    }
    assert_eq!(outcomes, BTreeSet::from([(0, 0), (4, 0), (4, 4)]));
}

#[test]
fn reads_fail_when_told_to() {
    let mut disk = disk(1, 1);
    disk.set_faults(Faults { read_failure: 1.0, ..Faults::NONE });
    let failed = run(&mut disk, read(0, 1));
    assert_eq!(error_of(&failed), Some(libc::EIO));
    assert!(failed.buffer.is_some());
    assert!(disk.read_now(FILE, 0, &mut zeroed(BLOCK_BYTES)).is_err());
    assert_eq!(disk.counts().failed_read_count, 2);
}

#[test]
fn a_file_that_does_not_fit_is_refused_and_not_there() {
    let mut disk = disk(1, 2);
    disk.set_faults(Faults { capacity_bytes: Some(3 * BLOCK), ..Faults::NONE });
    let other = FileId(2);
    let refused = run(&mut disk, Op::Create { file: other, bytes: 2 * BLOCK, is_written: false });
    assert_eq!(error_of(&refused), Some(libc::ENOSPC));
    assert_eq!(disk.counts().full_count, 1);
    assert_eq!(disk.files(), [(FILE, 2 * BLOCK)]);
    done(&mut disk, Op::Create { file: other, bytes: BLOCK, is_written: false });
    assert_eq!(disk.files(), [(FILE, 2 * BLOCK), (other, BLOCK)]);
}

#[test]
fn a_slow_operation_takes_many_polls() {
    let mut disk = disk(1, 1);
    disk.set_faults(Faults { slow_operation: 1.0, ..Faults::NONE });
    let mut poll_count_max = 0;
    for _ in 0..10 {
        disk.start(read(0, 1));
        let mut poll_count = 0;
        while disk.poll().is_none() {
            poll_count += 1;
        }
        poll_count_max = poll_count_max.max(poll_count);
    }
    assert!(poll_count_max > 100);
    assert_eq!(disk.counts().slow_count, 10);
}

#[test]
fn a_killed_process_leaves_what_was_written_durable_or_not() {
    let (mut under_way_seen, mut lost_later) = (false, false);
    for seed in 0..SEED_COUNT {
        let mut disk = disk(seed, 2);
        done(&mut disk, write(0, filled(1, 1), false));
        disk.start(write(1, filled(1, 2), true));
        disk.kill();
        assert!(disk.wait().is_err());
        assert_eq!(firsts(&disk)[0], 1);
        under_way_seen |= firsts(&disk)[1] == 2;
        disk.crash();
        lost_later |= firsts(&disk)[0] == 0;
    }
    assert!(under_way_seen);
    assert!(lost_later);
}

#[test]
fn damage_is_seen_by_reads_and_survives_a_crash() {
    let mut disk = disk(1, 2);
    done(&mut disk, write(0, filled(1, 0xf0), false));
    disk.flip_bit(FILE, 5, 0);
    assert_eq!(done(&mut disk, read(0, 1)).unwrap()[5], 0xf1);
    done(&mut disk, SYNC);
    let before = disk.bytes(FILE).unwrap();
    let (file, at) = disk.flip_random_bit(&mut Rng::with_seed(1)).unwrap();
    assert_eq!(file, FILE);
    disk.corrupt(FILE, BLOCK, b"astray");
    disk.truncate(FILE, BLOCK + 6);
    disk.crash();
    let after = disk.bytes(FILE).unwrap();
    assert_eq!(&after[BLOCK_BYTES..], b"astray");
    assert_eq!(disk.files(), [(FILE, BLOCK + 6)]);
    if at < BLOCK {
        assert_eq!((before[index(at)] ^ after[index(at)]).count_ones(), 1);
    }
    assert_eq!(SimulatedDisk::new(1, Faults::NONE).flip_random_bit(&mut Rng::with_seed(1)), None);
}

#[test]
fn an_image_holds_what_is_durable_and_begins_the_same_disk_again() {
    let mut disk = disk(1, 2);
    done(&mut disk, write(0, filled(1, 1), true));
    done(&mut disk, write(1, filled(1, 2), false));
    let image = disk.snapshot_image();
    let copies: Vec<SimulatedDisk> =
        (0..2).map(|seed| SimulatedDisk::from_image(seed, Faults::NONE, &image)).collect();
    for copy in &copies {
        assert_eq!(copy.files(), [(FILE, 2 * BLOCK)]);
        assert_eq!(firsts(copy), [1, 0]);
    }
    copies[0].remove(FILE);
    copies[0].put(FileId(7), vec![1; 10]);
    assert_eq!(copies[0].files(), [(FileId(7), 10)]);
    assert_eq!(copies[1].files(), [(FILE, 2 * BLOCK)]);
}

/// A run in which all kinds of things happen.
fn story(seed: u64) -> (u64, Counts, Image) {
    let mut rng = Rng::with_seed(seed);
    let faults = Faults {
        sync_failure: 0.1,
        write_failure: 0.1,
        read_failure: 0.1,
        slow_operation: 0.05,
        capacity_bytes: None,
    };
    let mut disk = disk(seed, 16);
    disk.set_faults(faults);
    for _ in 0..500 {
        let block = rng.u64(..15);
        let op = match rng.u8(..4) {
            0 => SYNC,
            1 => read(block, 2),
            _ => write(block, filled(2, rng.u8(..)), rng.bool()),
        };
        disk.start(op);
        disk.poll();
        if rng.u8(..50) == 0 {
            disk.crash();
        }
    }
    (disk.event_hash(), disk.counts(), disk.snapshot_image())
}

#[test]
fn the_same_seed_is_the_same_run() {
    let first = story(42);
    assert_eq!(first, story(42));
    assert_ne!(first.0, story(43).0);
    let counts = first.1;
    assert!(counts.crash_count > 0);
    assert!(counts.failed_sync_count > 0);
    assert!(counts.failed_write_count > 0);
    assert!(counts.failed_read_count > 0);
    assert!(counts.slow_count > 0);
    assert!(counts.torn_block_count > 0);
    assert!(counts.lost_sector_count > 0);
    assert!(counts.dropped_count > 0);
}

#[test]
#[should_panic(expected = "nothing is under way on it")]
fn a_file_is_not_made_while_it_is_read() {
    let mut disk = disk(1, 1);
    disk.start(read(0, 1));
    disk.start(create(1));
}

#[test]
#[should_panic(expected = "does not make its file longer")]
fn a_write_behind_the_end_is_the_callers_mistake() {
    disk(1, 1).start(write(1, filled(1, 1), false));
}

#[test]
fn the_simulated_disk_is_a_disk() {
    for seed in 0..20 {
        crate::disk::contract::check(|| Box::new(SimulatedDisk::new(seed, Faults::NONE)));
    }
}
