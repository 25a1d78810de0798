//! Whatever bytes are on the disk: nothing panics, and nothing takes more memory than a file.

use proptest::collection::vec;
use proptest::prelude::*;

use super::kit::{Rig, SEGMENT_BYTES, small};
use super::*;
use crate::disk::{BLOCK_BYTES, Buffer};
use crate::file::format::{
    CommitHeader, DATA_START, ENTRY_BYTES, GRANULE_BYTES, SegmentId, first_block, read_contents,
    read_key, read_record, read_trailer,
};
use crate::file::scan::scan;

const FILES: u32 = 4;
/// Steps of a walk, and reads that it may wait for.
const WALK_STEPS_MAX: usize = 2_000;

fn aligned(bytes: &[u8]) -> Buffer {
    let mut buffer = Buffer::new();
    buffer.extend_from_slice(bytes);
    buffer
}

/// The files of a log with sealed segments, an unsealed one, deletions and a clear.
fn valid_files() -> Vec<Vec<u8>> {
    thread_local! {
        static FILES: Vec<Vec<u8>> = write_files();
    }
    FILES.with(Clone::clone)
}

fn write_files() -> Vec<Vec<u8>> {
    let (mut rig, disk) = Rig::new(1);
    for number in 0..150_u32 {
        if number == 20 {
            rig.store.clear(contract::version(10)).unwrap();
        }
        rig.set(&(number % 100).to_be_bytes(), &[7; 1_000]);
        rig.delete(&(number * 3 % 100).to_be_bytes());
        if number % 4 == 0 {
            rig.commit();
        }
    }
    rig.commit();
    disk.crash();
    let files = disk.files();
    assert!(files.len() >= FILES as usize);
    files.iter().map(|(file, _)| disk.bytes(*file).unwrap()).collect()
}

/// Reads bytes as everything that there is.
fn read_as_all(segment: SegmentId, bytes: &Buffer) {
    first_block(bytes);
    CommitHeader::read(segment, bytes);
    CommitHeader::was(segment, 0, bytes);
    read_key(bytes);
    read_trailer(segment, bytes);
    let entry_count = read_contents(segment, bytes).map_or(0, Iterator::count);
    assert!(entry_count <= bytes.len() / ENTRY_BYTES);
    for at in (0..bytes.len()).step_by(GRANULE_BYTES) {
        if let Some(record) = read_record(segment, &bytes[at..]) {
            assert!(record.mutation.key.len() <= bytes.len());
        }
    }
    let scanned = scan(segment, bytes, &contract::token_key());
    assert!(scanned.entries.len() <= bytes.len() / GRANULE_BYTES);
    assert!(scanned.end <= bytes.len().max(DATA_START).next_multiple_of(BLOCK_BYTES));
}

/// Some bytes of a file, and what is put in their place.
fn patches() -> impl Strategy<Value = Vec<(prop::sample::Index, Vec<u8>)>> {
    vec((any::<prop::sample::Index>(), vec(any::<u8>(), 1..24)), 1..12)
}

fn patch(bytes: &mut [u8], patches: &[(prop::sample::Index, Vec<u8>)]) {
    for (number, (index, new)) in patches.iter().enumerate() {
        let mut at = index.index(bytes.len());
        // Beginnings of blocks, where the headers are, are hit as often as all the rest.
        if number % 2 == 0 {
            at = at / BLOCK_BYTES * BLOCK_BYTES + at % 64;
        }
        let len = new.len().min(bytes.len() - at);
        bytes[at..at + len].copy_from_slice(&new[..len]);
    }
}

/// Opens whatever is there, looks at all of it and writes to it.
fn open_and_use(disk: &SimulatedDisk) {
    let Ok(mut rig) = Rig::try_open(disk.clone(), small()) else { return };
    let mut from = Some(Token::MIN);
    for _ in 0..WALK_STEPS_MAX {
        let Some(token) = from else { break };
        match rig.store.walk(token, 50, START, &mut |entry| assert!(entry.token >= token)) {
            Step::Done(next) => from = next,
            Step::Loading(ticket) => {
                let is_bad = rig.wait_for(ticket).is_err();
                let next = rig.store.walk(token, 50, START, &mut |_| {});
                rig.store.release(ticket);
                match next {
                    Step::Done(next) => from = next,
                    Step::Loading(again) => {
                        rig.wait_for(again).ok();
                        rig.store.release(again);
                        // A walk cannot pass what cannot be read.
                        from = from.filter(|_| !is_bad);
                    }
                }
            }
        }
    }
    for number in 0..100_u32 {
        rig.read(&number.to_be_bytes()).ok();
    }
    for number in 0..100_u32 {
        if let Err(Error::Busy(ticket)) = rig.write(&number.to_be_bytes(), Some(&[8; 900]), None) {
            rig.wait_for(ticket).ok();
        }
        rig.turn_after(Duration::from_millis(10));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn arbitrary_bytes_are_read_without_a_panic(
        bytes in vec(any::<u8>(), 0..9_000),
        segment in 0..4_u32,
    ) {
        read_as_all(SegmentId(segment), &aligned(&bytes));
    }

    #[test]
    fn changed_files_are_read_without_a_panic(
        file in 0..FILES,
        start in 0..SEGMENT_BYTES / 4_096,
        len in 0..32_768_usize,
        patches in patches(),
    ) {
        let files = valid_files();
        let start = start as usize * BLOCK_BYTES;
        let end = (start + len).min(SEGMENT_BYTES as usize);
        let mut bytes = files[file as usize][start..end].to_vec();
        if !bytes.is_empty() {
            patch(&mut bytes, &patches);
        }
        read_as_all(SegmentId(file + 1), &aligned(&bytes));
    }

    #[test]
    fn a_directory_of_arbitrary_files_does_no_harm(
        contents in vec((vec(any::<u8>(), 0..200), any::<bool>(), 0..18_usize), 1..4),
        seed in any::<u64>(),
    ) {
        let disk = SimulatedDisk::new(seed, Faults::NONE);
        let files = valid_files();
        for (number, (bytes, has_header, blocks)) in contents.iter().enumerate() {
            let len = if *blocks < 16 { SEGMENT_BYTES as usize } else { blocks * BLOCK_BYTES };
            let mut file = bytes.repeat(len / bytes.len().max(1) + 1);
            file.resize(len, 0);
            if *has_header {
                file[..DATA_START].copy_from_slice(&files[number][..DATA_START]);
            }
            disk.put(FileId(number as u32), file);
        }
        open_and_use(&disk);
    }

    #[test]
    fn a_directory_of_changed_files_does_no_harm(
        patches in vec((0..FILES as usize, patches()), 1..4),
        seed in any::<u64>(),
    ) {
        let disk = SimulatedDisk::new(seed, Faults::NONE);
        let mut files = valid_files();
        patches.iter().for_each(|(file, patches)| patch(&mut files[*file], patches));
        for (number, bytes) in files.into_iter().enumerate() {
            disk.put(FileId(number as u32), bytes);
        }
        open_and_use(&disk);
    }
}
