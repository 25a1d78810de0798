//! Damage is told apart from what a crash leaves: it is reported with its place, what is damaged is
//! kept, and all else is there.

use std::collections::BTreeMap;

use super::kit::{Rig, SEGMENT_BYTES, small};
use super::*;
use crate::disk::BLOCK_BYTES;
use crate::disk::Buffer;
use crate::file::contents::Contents;
use crate::file::format::{
    COMMIT_HEADER_BYTES, DATA_START, Entry, SegmentId, contents_bytes, read_contents, read_trailer,
};

type Model = BTreeMap<Vec<u8>, Vec<u8>>;

fn key(number: u32) -> Vec<u8> {
    format!("key-{number}").into_bytes()
}

/// Writes keys of a kilobyte each, five a commit.
fn fill(rig: &mut Rig<SimulatedDisk>, model: &mut Model, numbers: std::ops::Range<u32>, byte: u8) {
    for number in numbers {
        rig.set(&key(number), &[byte; 1_000]);
        model.insert(key(number), vec![byte; 1_000]);
        if number % 5 == 4 {
            rig.commit();
        }
    }
    rig.commit();
}

/// A log of five segments, of which the last is not sealed.
fn written(seed: u64) -> (Rig<SimulatedDisk>, SimulatedDisk, Model) {
    let (mut rig, disk) = Rig::new(seed);
    let mut model = Model::new();
    fill(&mut rig, &mut model, 0..190, 1);
    (0..200).for_each(|_| rig.turn());
    // Those before the last are sealed, and this says so.
    fill(&mut rig, &mut model, 190..200, 1);
    (rig, disk, model)
}

/// A log of one segment that is not sealed, with ten commits.
fn begun(seed: u64) -> (Rig<SimulatedDisk>, SimulatedDisk, Model) {
    let (mut rig, disk) = Rig::new(seed);
    let mut model = Model::new();
    fill(&mut rig, &mut model, 0..30, 1);
    (rig, disk, model)
}

fn aligned(bytes: &[u8]) -> Buffer {
    let mut buffer = Buffer::new();
    buffer.extend_from_slice(bytes);
    buffer
}

fn flip_headers(disk: &SimulatedDisk, file: FileId) {
    [0, BLOCK_BYTES as u64].into_iter().for_each(|at| disk.flip_bit(file, at + 24, 0));
}

fn name(file: FileId) -> String {
    format!("{:010}.log", file.0)
}

fn segment_of(rig: &Rig<SimulatedDisk>, file: FileId) -> u32 {
    rig.store.log.file(file).id.0
}

/// What a check of all values finds.
fn checked(disk: &SimulatedDisk) -> Vec<Damage> {
    let options = contract::options(Tombstones::Drop);
    let cut = gridkv_cluster::Timestamp(u64::MAX);
    let extent = recover::Extent { cut, trusts_checkpoint: false };
    let (mut store, recovered) =
        FileStorage::view(disk.clone(), small(), &options, extent).unwrap();
    let mut report = ShardReport { damages: recovered.damages, ..ShardReport::default() };
    for file in store.file_numbers() {
        store.check_file(file, &mut report).unwrap();
    }
    report.damages
}

#[test]
fn a_sealed_segment_with_damaged_contents_is_scanned() {
    let (rig, disk, model) = written(1);
    let (file, _) = rig.place_of(&key(0));
    let segment = segment_of(&rig, file);
    disk.crash();
    disk.flip_bit(file, u64::from(SEGMENT_BYTES) - BLOCK_BYTES as u64 + 5, 0);
    let mut rig = rig.reopen(disk);
    let damage = Damage {
        file: name(file),
        segment: Some(segment),
        offset: u64::from(SEGMENT_BYTES),
        bytes: 0,
        what: "the contents of the segment",
    };
    assert_eq!(rig.recovered.damages, [damage]);
    assert_eq!(rig.stats().damaged_count, 1);
    rig.assert_holds(&model);
}

#[test]
fn a_damaged_value_fails_its_reads_and_no_others() {
    let (rig, disk, mut model) = written(2);
    let (file, offset) = rig.place_of(&key(3));
    disk.crash();
    disk.flip_bit(file, offset + 500, 3);
    let found = checked(&disk);
    let [found] = &found[..] else { panic!("one place is damaged: {found:?}") };
    assert_eq!((&found.file, found.offset, found.what), (&name(file), offset, "records"));
    let mut rig = rig.reopen(disk);
    assert_eq!(rig.recovered.damages, [], "values are not read at the start");
    let error = rig.read(&key(3)).unwrap_err();
    assert_eq!(error, ReadError::Damaged { file: name(file), offset });
    // Compaction may have come across it as well.
    assert!((1..=2).contains(&rig.stats().damaged_count));
    model.remove(&key(3));
    for (key, value) in &model {
        assert_eq!(rig.read(key).unwrap().as_ref(), Some(value));
    }
}

#[test]
fn damage_in_the_middle_of_an_unsealed_segment_is_reported_and_the_rest_is_kept() {
    let (rig, disk, mut model) = begun(3);
    let (file, offset) = rig.place_of(&key(7));
    let segment = segment_of(&rig, file);
    disk.crash();
    disk.flip_bit(file, offset + 100, 1);
    let mut rig = rig.reopen(disk);
    let [found] = &rig.recovered.damages[..] else {
        panic!("one place is damaged: {:?}", rig.recovered.damages)
    };
    assert_eq!((&found.file, found.segment, found.offset), (&name(file), Some(segment), offset));
    assert_eq!((found.what, rig.recovered.torn_bytes), ("records", 0));
    model.remove(&key(7));
    rig.assert_holds(&model);
}

#[test]
fn a_damaged_header_of_a_durable_commit_costs_that_commit() {
    let (rig, disk, mut model) = begun(4);
    let (file, offset) = rig.place_of(&key(5));
    disk.crash();
    let commit_at = offset - COMMIT_HEADER_BYTES as u64;
    assert!(commit_at.is_multiple_of(BLOCK_BYTES as u64), "it is the first of its commit");
    disk.flip_bit(file, commit_at + 20, 1);
    let mut rig = rig.reopen(disk);
    let [found] = &rig.recovered.damages[..] else {
        panic!("one place is damaged: {:?}", rig.recovered.damages)
    };
    assert_eq!((found.offset, rig.recovered.torn_bytes), (commit_at, 0));
    (5..10).for_each(|number| assert!(model.remove(&key(number)).is_some()));
    rig.assert_holds(&model);
}

#[test]
fn one_damaged_header_is_reported_and_costs_nothing() {
    for (copy, is_wiped) in [(0, false), (1, false), (0, true), (1, true)] {
        let (rig, disk, mut model) = written(5);
        let (file, _) = rig.place_of(&key(0));
        disk.crash();
        let at = copy * BLOCK_BYTES as u64;
        if is_wiped {
            disk.corrupt(file, at, &[0; BLOCK_BYTES]);
        } else {
            disk.flip_bit(file, at + 24, 0);
        }
        let damage = Damage {
            file: name(file),
            segment: Some(1),
            offset: 0,
            bytes: BLOCK_BYTES as u64,
            what: "one of the two headers of the segment",
        };
        assert_eq!(checked(&disk), std::slice::from_ref(&damage));
        let mut rig = rig.reopen(disk.clone());
        assert_eq!(rig.recovered.damages, [damage]);
        rig.assert_holds(&model);
        for round in 2..6 {
            fill(&mut rig, &mut model, 0..200, round);
            rig.settle(&disk);
        }
        disk.crash();
        let mut rig = rig.reopen(disk);
        assert_eq!(rig.recovered.damages, [], "the file was used again");
        rig.assert_holds(&model);
    }
}

/// What was in it cannot be told from a former life of the file, so its keys are absent, and those
/// that were written before have their older values. `gridkv check` and the log name the file.
#[test]
fn a_segment_whose_headers_are_both_damaged_is_set_aside() {
    let (rig, disk, mut model) = written(5);
    let (file, _) = rig.place_of(&key(0));
    let lost: Vec<u32> = (0..200).filter(|it| rig.place_of(&key(*it)).0 == file).collect();
    assert!((30..80).contains(&lost.len()));
    disk.crash();
    flip_headers(&disk, file);
    let aside = disk.bytes(file);
    let mut rig = rig.reopen(disk.clone());
    let damage = Damage {
        file: name(file),
        segment: None,
        offset: 0,
        bytes: DATA_START as u64,
        what: "the header of the segment",
    };
    assert_eq!(rig.recovered.damages, [damage]);
    lost.iter().for_each(|number| assert!(model.remove(&key(*number)).is_some()));
    rig.assert_holds(&model);
    for round in 2..6 {
        fill(&mut rig, &mut model, 0..200, round);
        rig.settle(&disk);
        disk.crash();
        rig = rig.reopen(disk.clone());
        assert_eq!(disk.bytes(file), aside, "it is not written to");
        assert_eq!(rig.recovered.damages.len(), 1);
        rig.assert_holds(&model);
    }
}

#[test]
fn a_torn_tail_is_cut_and_no_damage() {
    let (mut rig, disk) = Rig::new(6);
    let mut model = Model::new();
    fill(&mut rig, &mut model, 0..30, 1);
    rig.set(b"torn", &[7; 10_000]);
    rig.commit();
    let (file, offset) = rig.place_of(b"torn");
    disk.crash();
    let torn_at = offset - COMMIT_HEADER_BYTES as u64 + BLOCK_BYTES as u64;
    disk.corrupt(file, torn_at, &[0; BLOCK_BYTES]);
    let mut rig = rig.reopen(disk.clone());
    assert_eq!(rig.recovered.damages, []);
    assert_eq!(rig.recovered.torn_bytes, 3 * BLOCK_BYTES as u64);
    assert_eq!(rig.stats().damaged_count, 0);
    rig.assert_holds(&model);
    assert_eq!(checked(&disk), []);
}

/// A log whose last commit was torn, in a segment whose contents take many pieces: the disk, the torn
/// bytes' segment, and what is acknowledged.
fn torn(durability: Durability) -> (Rig<SimulatedDisk>, SimulatedDisk, SegmentId, Model) {
    let disk = SimulatedDisk::new(13, Faults::NONE);
    let mut rig = Rig::open(disk.clone(), Setup { durability, ..small() });
    let mut model = Model::new();
    for number in 0..600 {
        rig.set(&key(number), b"v");
        model.insert(key(number), b"v".to_vec());
    }
    rig.store.request_commit();
    rig.commit();
    let segment = segment_of(&rig, rig.place_of(&key(599)).0);
    (rig, disk, SegmentId(segment), model)
}

/// Writes `after`, and crashes as soon as it is durable.
fn acknowledge_and_crash(
    rig: &mut Rig<SimulatedDisk>,
    disk: &SimulatedDisk,
    model: &mut Model,
    torn: SegmentId,
) {
    rig.set(b"after", b"acknowledged");
    model.insert(b"after".to_vec(), b"acknowledged".to_vec());
    rig.store.request_commit();
    rig.commit();
    let mut files = rig.store.log.files.iter().flatten();
    let state = files.find(|file| file.id == torn).expect("it is there").state;
    assert_eq!(state, State::Closing, "what was recovered is not sealed yet");
    disk.crash();
}

#[test]
fn what_is_acknowledged_after_a_torn_tail_survives_a_crash_before_that_is_sealed() {
    let (mut rig, disk, segment, mut model) = torn(Durability::Commit);
    rig.set(b"torn", &[7; 10_000]);
    rig.commit();
    let (file, offset) = rig.place_of(b"torn");
    disk.crash();
    let torn_at = offset - COMMIT_HEADER_BYTES as u64 + BLOCK_BYTES as u64;
    disk.corrupt(file, torn_at, &[0; BLOCK_BYTES]);
    let mut rig = rig.reopen(disk.clone());
    assert_eq!(rig.recovered.torn_bytes, 3 * BLOCK_BYTES as u64);
    for _ in 0..3 {
        acknowledge_and_crash(&mut rig, &disk, &mut model, segment);
        rig = rig.reopen(disk.clone());
        assert_eq!((rig.recovered.damages.as_slice(), rig.recovered.torn_bytes), (&[][..], 0));
    }
    rig.assert_holds(&model);
    assert_eq!(checked(&disk), []);
}

/// With a durability that does not wait, a hole may have commits behind it.
#[test]
fn what_was_absent_after_a_hole_stays_absent_and_is_no_damage() {
    let (mut rig, disk, segment, mut model) = torn(Durability::None);
    rig.set(b"lost", b"v");
    let (file, offset) = rig.place_of(b"lost");
    rig.turn_after(Duration::from_secs(3_600));
    (0..200).for_each(|_| rig.turn());
    rig.set(b"behind", b"v");
    rig.turn_after(Duration::from_secs(3_600));
    (0..200).for_each(|_| rig.turn());
    disk.kill();
    disk.corrupt(file, offset - COMMIT_HEADER_BYTES as u64, &[0; BLOCK_BYTES]);
    let mut rig = rig.reopen(disk.clone());
    assert_eq!(rig.recovered.damages, []);
    for _ in 0..3 {
        acknowledge_and_crash(&mut rig, &disk, &mut model, segment);
        rig = rig.reopen(disk.clone());
        assert_eq!(rig.recovered.damages, []);
    }
    rig.assert_holds(&model);
}

fn refusal(disk: &SimulatedDisk) -> String {
    let before = disk.snapshot_image();
    let Err(error) = Rig::try_open(disk.clone(), small()) else { panic!("it is refused") };
    assert_eq!(disk.snapshot_image(), before, "nothing was changed");
    error.to_string()
}

#[test]
fn a_file_that_was_cut_is_refused() {
    let (rig, disk, _) = written(7);
    let (file, _) = rig.place_of(&key(0));
    disk.crash();
    disk.truncate(file, u64::from(SEGMENT_BYTES) - 4_096);
    let expected = "has 61440 bytes in place of 65536: it was cut, or belongs elsewhere";
    assert_eq!(refusal(&disk), format!("{} {expected}", name(file)));
}

#[test]
fn a_file_of_another_format_is_refused() {
    let (rig, disk, _) = written(8);
    let (file, _) = rig.place_of(&key(0));
    disk.crash();
    [0, BLOCK_BYTES as u64]
        .into_iter()
        .for_each(|at| disk.corrupt(file, at + 16, &9_u32.to_le_bytes()));
    let expected = "has format 9; this program reads 3: use the program that wrote it";
    assert_eq!(refusal(&disk), format!("{} {expected}", name(file)));
}

/// A node that is opened believes contents without reading the records.
#[test]
fn contents_that_are_not_those_of_the_records_are_found_by_a_check() {
    let (rig, disk, _) = written(14);
    let (file, _) = rig.place_of(&key(0));
    let (other, _) = rig.place_of(&key(100));
    assert_ne!(file, other);
    disk.crash();
    assert_eq!(checked(&disk), []);
    let mut bytes = disk.bytes(file).unwrap();
    let segment = SegmentId(segment_of(&rig, file));
    let trailer = read_trailer(segment, &bytes).unwrap();
    let at = bytes.len() - contents_bytes(trailer.count as usize);
    let entries: Vec<Entry> = read_contents(segment, &aligned(&bytes[at..])).unwrap().collect();
    let mut contents = Contents::new(bytes.len());
    // One record is said to be where another is.
    let moved = |(number, entry): (usize, &Entry)| match number {
        3 => Entry { offset: entries[4].offset, ..*entry },
        _ => *entry,
    };
    entries.iter().enumerate().map(moved).for_each(|entry| contents.push(&entry));
    let written: Vec<u8> =
        contents.close(segment, &trailer).iter().flat_map(|it| it.to_vec()).collect();
    bytes[at..].copy_from_slice(&written);
    disk.put(file, bytes);
    let found = checked(&disk);
    let [damage] = &found[..] else { panic!("one segment is damaged: {found:?}") };
    assert_eq!(damage.file, name(file));
    assert_eq!(damage.what, "the contents of the segment, which are not those of its records");
}

#[test]
fn a_file_with_a_damaged_live_record_is_never_used_again() {
    let (rig, disk, mut model) = written(9);
    let (file, offset) = rig.place_of(&key(0));
    disk.crash();
    disk.flip_bit(file, offset + 500, 3);
    let kept = disk.bytes(file);
    let mut rig = rig.reopen(disk.clone());
    model.remove(&key(0));
    for round in 2..6 {
        fill(&mut rig, &mut model, 1..200, round);
        (0..500).for_each(|_| rig.turn_after(Duration::from_millis(10)));
        assert_eq!(disk.bytes(file), kept, "round {round}");
        assert!(rig.read(&key(0)).is_err(), "its value is nowhere else");
        disk.crash();
        rig = rig.reopen(disk.clone());
    }
    model.keys().for_each(|key| assert!(rig.read(key).unwrap().is_some()));
}

#[test]
fn a_segment_with_damaged_contents_is_never_used_again() {
    let (rig, disk, mut model) = written(10);
    let (file, _) = rig.place_of(&key(0));
    disk.crash();
    disk.flip_bit(file, u64::from(SEGMENT_BYTES) - 10, 0);
    let kept = disk.bytes(file);
    let mut rig = rig.reopen(disk.clone());
    for round in 2..6 {
        assert_eq!(rig.recovered.damages.len(), 1);
        fill(&mut rig, &mut model, 0..200, round);
        rig.settle(&disk);
        assert_eq!(disk.bytes(file), kept, "round {round}");
        disk.crash();
        rig = rig.reopen(disk.clone());
        rig.assert_holds(&model);
    }
}

#[test]
fn a_file_set_aside_does_not_keep_compaction_busy() {
    let (rig, disk, _) = written(11);
    let (file, _) = rig.place_of(&key(0));
    disk.crash();
    flip_headers(&disk, file);
    let mut rig = rig.reopen(disk.clone());
    for number in 0..4_000 {
        rig.set(&key(number), &[7; 100]);
        rig.delete(&key(number));
        if number % 4 == 0 {
            rig.turn();
        }
    }
    rig.settle(&disk);
    let before = rig.stats().compacted_bytes;
    (0..1_000).for_each(|_| rig.turn_after(Duration::from_millis(10)));
    assert_eq!(rig.stats().compacted_bytes, before);
}

#[test]
fn a_segment_that_is_there_twice_does_no_harm() {
    for is_sealed in [true, false] {
        let (mut rig, disk, model) = written(12);
        let file = rig.place_of(&key(if is_sealed { 0 } else { 199 })).0;
        rig.commit();
        disk.crash();
        let (bytes, copy) = (disk.bytes(file).unwrap(), FileId(20));
        disk.put(copy, bytes.clone());
        let mut rig = rig.reopen(disk.clone());
        let [found] = &rig.recovered.damages[..] else {
            panic!("one file is too many: {:?}", rig.recovered.damages)
        };
        assert_eq!(found.file, name(copy));
        assert_eq!(found.what, "the number of the segment, which another file has");
        rig.assert_holds(&model);
        disk.crash();
        assert_eq!(disk.bytes(copy), Some(bytes), "it is kept");
    }
}
