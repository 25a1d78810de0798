//! What every [`Disk`] does, run on each of them.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use super::{BLOCK_BYTES, Buffer, Completion, Disk, FileId, Op, OpId, zeroed};

const BLOCK: u64 = BLOCK_BYTES as u64;
const FILE: FileId = FileId(7);

/// Waits for all of these.
pub(super) fn end_all(disk: &mut dyn Disk, ids: &[OpId]) -> BTreeMap<OpId, Completion> {
    let mut open: BTreeSet<OpId> = ids.iter().copied().collect();
    let mut ended = BTreeMap::new();
    while !open.is_empty() {
        disk.wait().unwrap();
        while let Some(completion) = disk.poll() {
            assert!(open.remove(&completion.id), "an operation ends once");
            ended.insert(completion.id, completion);
        }
    }
    ended
}

/// Carries out one operation.
pub(super) fn run(disk: &mut dyn Disk, op: Op) -> Completion {
    let id = disk.start(op);
    end_all(disk, &[id]).remove(&id).unwrap()
}

pub(super) fn done(disk: &mut dyn Disk, op: Op) -> Option<Buffer> {
    let Completion { result, buffer, .. } = run(disk, op);
    result.unwrap();
    buffer
}

pub(super) fn create(block_count: u64, is_written: bool) -> Op {
    Op::Create { file: FILE, bytes: block_count * BLOCK, is_written }
}

pub(super) fn write(block: u64, block_count: usize, byte: u8, is_durable: bool) -> Op {
    let mut buffer = zeroed(block_count * BLOCK_BYTES);
    buffer.fill(byte);
    Op::Write { file: FILE, offset: block * BLOCK, buffer, is_durable }
}

pub(super) fn read(block: u64, block_count: usize) -> Op {
    let buffer = zeroed(block_count * BLOCK_BYTES);
    Op::Read { file: FILE, offset: block * BLOCK, buffer }
}

fn is_missing(completion: &Completion) -> bool {
    completion.result.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
}

/// Runs all of it, each on an empty disk.
pub(super) fn check(mut empty: impl FnMut() -> Box<dyn Disk>) {
    a_new_file_is_zeros(&mut *empty());
    what_is_written_is_read(&mut *empty());
    operations_overlap(&mut *empty());
    a_file_takes_the_place_of_another(&mut *empty());
    what_is_not_there_is_refused(&mut *empty());
    a_removed_file_is_gone(&mut *empty());
    a_file_is_made_while_its_removed_namesake_is_read(&mut *empty());
}

fn a_new_file_is_zeros(disk: &mut dyn Disk) {
    assert_eq!(disk.files(), []);
    for is_written in [false, true] {
        assert!(done(disk, create(300, is_written)).is_none());
        let mut expected = zeroed(300 * BLOCK_BYTES);
        assert_eq!(*done(disk, read(0, 300)).unwrap(), *expected);
        expected.fill(1);
        disk.read_now(FILE, 0, &mut expected).unwrap();
        assert!(expected.iter().all(|byte| *byte == 0));
    }
}

fn what_is_written_is_read(disk: &mut dyn Disk) {
    done(disk, create(4, true));
    let written = done(disk, write(1, 2, 5, true)).unwrap();
    assert_eq!(written.len(), 2 * BLOCK_BYTES);
    assert!(written.iter().all(|byte| *byte == 5));
    done(disk, write(2, 1, 6, false));
    assert!(done(disk, Op::Sync { file: FILE }).is_none());
    let bytes = done(disk, read(0, 4)).unwrap();
    let firsts: Vec<u8> = bytes.chunks(BLOCK_BYTES).map(|it| it[0]).collect();
    assert_eq!(firsts, [0, 5, 6, 0]);
    let mut buffer = zeroed(BLOCK_BYTES);
    disk.read_now(FILE, 2 * BLOCK, &mut buffer).unwrap();
    assert!(buffer.iter().all(|byte| *byte == 6));
}

fn operations_overlap(disk: &mut dyn Disk) {
    const COUNT: u8 = 100;
    done(disk, create(u64::from(COUNT), false));
    let ids: Vec<OpId> = (0..COUNT)
        .map(|index| disk.start(write(u64::from(index), 1, index, index % 3 == 0)))
        .collect();
    assert!(end_all(disk, &ids).values().all(|it| it.result.is_ok()));
    let ids: Vec<OpId> = (0..COUNT).map(|index| disk.start(read(u64::from(index), 1))).collect();
    let mut ended = end_all(disk, &ids);
    for (id, index) in ids.iter().zip(0..) {
        let buffer = ended.remove(id).unwrap().buffer.unwrap();
        assert!(buffer.iter().all(|byte| *byte == index));
    }
}

fn a_file_takes_the_place_of_another(disk: &mut dyn Disk) {
    done(disk, create(2, true));
    done(disk, write(0, 2, 9, true));
    done(disk, create(1, false));
    assert_eq!(done(disk, read(0, 1)).unwrap()[0], 0);
    assert_eq!(
        run(disk, read(1, 1)).result.unwrap_err().kind(),
        io::ErrorKind::UnexpectedEof,
        "the old length is forgotten"
    );
}

fn what_is_not_there_is_refused(disk: &mut dyn Disk) {
    assert!(is_missing(&run(disk, Op::Sync { file: FILE })));
    assert!(is_missing(&run(disk, Op::Delete { file: FILE })));
    for op in [read(0, 1), write(0, 1, 1, true)] {
        let refused = run(disk, op);
        assert!(is_missing(&refused));
        assert!(refused.buffer.is_some());
    }
    assert!(disk.read_now(FILE, 0, &mut zeroed(BLOCK_BYTES)).is_err());
    done(disk, create(2, false));
    for (block, block_count) in [(2, 1), (1, 2), ((1 << 51) - 1, 2)] {
        let refused = run(disk, read(block, block_count));
        assert_eq!(refused.result.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
    assert!(disk.read_now(FILE, 2 * BLOCK, &mut zeroed(BLOCK_BYTES)).is_err());
    assert!(disk.wait().is_err());
    assert_eq!(disk.name(FILE), "0000000007.log");
}

fn a_removed_file_is_gone(disk: &mut dyn Disk) {
    done(disk, create(64, true));
    done(disk, write(0, 64, 3, false));
    let reads: Vec<OpId> = (0..16).map(|_| disk.start(read(0, 64))).collect();
    let delete = disk.start(Op::Delete { file: FILE });
    assert!(disk.read_now(FILE, 0, &mut zeroed(BLOCK_BYTES)).is_err());
    let late = disk.start(read(0, 1));
    let mut ended = end_all(disk, &[&reads[..], &[delete, late]].concat());
    assert!(is_missing(&ended.remove(&late).unwrap()));
    ended.remove(&delete).unwrap().result.unwrap();
    // What was being read when the file went is read to its end.
    for completion in ended.into_values() {
        completion.result.unwrap();
        assert!(completion.buffer.unwrap().iter().all(|byte| *byte == 3));
    }
    assert!(is_missing(&run(disk, read(0, 1))));
    done(disk, create(1, true));
    assert_eq!(done(disk, read(0, 1)).unwrap()[0], 0);
}

fn a_file_is_made_while_its_removed_namesake_is_read(disk: &mut dyn Disk) {
    done(disk, create(64, true));
    done(disk, write(0, 64, 3, false));
    let mut open: BTreeSet<OpId> = (0..16).map(|_| disk.start(read(0, 64))).collect();
    let delete = disk.start(Op::Delete { file: FILE });
    open.insert(delete);
    while open.contains(&delete) {
        disk.wait().unwrap();
        while let Some(completion) = disk.poll() {
            completion.result.unwrap();
            open.remove(&completion.id);
        }
    }
    open.insert(disk.start(create(1, false)));
    let open: Vec<OpId> = open.into_iter().collect();
    assert!(end_all(disk, &open).values().all(|it| it.result.is_ok()));
    done(disk, write(0, 1, 4, true));
    assert_eq!(done(disk, read(0, 1)).unwrap()[0], 4);
    done(disk, Op::Delete { file: FILE });
}
