//! One write for all that came while the one before was under way, and no block written twice.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::rc::Rc;

use super::kit::{Rig, SEGMENT_BYTES, small};
use super::*;
use crate::disk::{BLOCK_BYTES, Buffer, Completion, Op, OpId};
use crate::file::format::DATA_START;

#[test]
fn what_comes_while_a_write_is_under_way_goes_out_in_one() {
    let disk = SimulatedDisk::new(1, Faults::NONE);
    let mut rig = Rig::open(disk.clone(), setup(1 << 20, 0));
    for round in 0..50_u32 {
        rig.settle(&disk);
        let before = rig.stats();
        rig.set(b"first", &round.to_be_bytes());
        rig.turn();
        assert_eq!(disk.under_way_count(), 1, "its write has begun");
        for number in 0..50_u32 {
            rig.set(&number.to_be_bytes(), &round.to_be_bytes());
        }
        rig.commit();
        let after = rig.stats();
        assert_eq!(after.commit_count - before.commit_count, 2);
        assert_eq!(after.sync_count - before.sync_count, 2);
        assert_eq!(after.record_count - before.record_count, 51);
    }
}

#[test]
fn a_client_waits_for_the_write_under_way_and_its_own() {
    let disk = SimulatedDisk::new(2, Faults { slow_operation: 0.05, ..Faults::NONE });
    let mut rig = Rig::open(disk, setup(16 << 20, 0));
    let mut rng = Rng::with_seed(2);
    let mut waiting: VecDeque<(LogPosition, u64)> = VecDeque::new();
    for number in 0..6_000_u32 {
        for _ in 0..rng.u32(0..5) {
            rig.set(&number.to_be_bytes(), &[7; 100]);
            waiting.push_back((rig.store.appended(), rig.stats().sync_count));
        }
        rig.turn();
        let (durable, sync_count) = (rig.store.durable(), rig.stats().sync_count);
        while let Some((_, before)) = waiting.pop_front_if(|(position, _)| *position <= durable) {
            assert!(sync_count <= before + 2, "it waited for {} syncs", sync_count - before);
        }
        let oldest = waiting.front().map_or(sync_count, |(_, before)| *before);
        assert!(sync_count < oldest + 2, "it still waits after {} syncs", sync_count - oldest);
    }
    assert!(rig.stats().sync_count > 100, "{} syncs", rig.stats().sync_count);
}

/// Which blocks of which files were written since their file's header was, and whether with the
/// contents of the segment.
#[derive(Debug, Default)]
struct Written {
    blocks: BTreeMap<(FileId, u64), bool>,
    header_count: u64,
    block_count: u64,
}

impl Written {
    fn forget(&mut self, file: FileId) {
        self.blocks.retain(|(other, _), _| *other != file);
    }

    fn add(&mut self, file: FileId, offset: u64, bytes: u64) {
        if offset == 0 {
            assert_eq!(bytes, DATA_START as u64, "a header is alone");
            self.header_count += 1;
            return self.forget(file);
        }
        let is_contents = offset + bytes == u64::from(SEGMENT_BYTES);
        for block in (offset..offset + bytes).step_by(BLOCK_BYTES) {
            self.block_count += 1;
            let before = self.blocks.insert((file, block), is_contents);
            // A crash may have cut off the writing of contents, which hold nothing of their own.
            let is_allowed = before.is_none_or(|before| before && is_contents);
            assert!(is_allowed, "block {block} of file {} is written twice", file.0);
        }
    }
}

/// A disk that sees to it that no block with records is written again.
struct Recorder {
    disk: SimulatedDisk,
    written: Rc<RefCell<Written>>,
}

impl Disk for Recorder {
    fn start(&mut self, op: Op) -> OpId {
        let mut written = self.written.borrow_mut();
        match &op {
            Op::Create { file, .. } | Op::Delete { file } => written.forget(*file),
            Op::Write { file, offset, buffer, .. } => {
                written.add(*file, *offset, buffer.len() as u64);
            }
            Op::Read { .. } | Op::Sync { .. } => {}
        }
        self.disk.start(op)
    }

    fn poll(&mut self) -> Option<Completion> {
        self.disk.poll()
    }

    fn wait(&mut self) -> io::Result<()> {
        self.disk.wait()
    }

    fn read_now(&mut self, file: FileId, offset: u64, buffer: &mut Buffer) -> io::Result<()> {
        self.disk.read_now(file, offset, buffer)
    }

    fn files(&self) -> Vec<(FileId, u64)> {
        self.disk.files()
    }
}

#[test]
fn no_block_is_written_twice_in_a_life_of_its_file() {
    let mut compacted_bytes = 0;
    for seed in 0..8 {
        let disk = SimulatedDisk::new(seed, Faults { slow_operation: 0.02, ..Faults::NONE });
        let written = Rc::new(RefCell::new(Written::default()));
        let recorder = || Recorder { disk: disk.clone(), written: Rc::clone(&written) };
        let durability = match seed % 3 {
            0 => Durability::Commit,
            1 => Durability::Interval(Duration::from_millis(3)),
            _ => Durability::None,
        };
        let mut rig = Rig::open(recorder(), Setup { durability, ..small() });
        let mut rng = Rng::with_seed(seed);
        for _ in 0..4 {
            for _ in 0..2_000 {
                let key = rng.u32(..150).to_be_bytes();
                match rng.u8(..10) {
                    0..2 => rig.delete(&key),
                    _ => rig.set(&key, &vec![7; rng.usize(..3_000)]),
                }
                (0..rng.u32(..3)).for_each(|_| rig.turn());
                if rng.u8(..100) == 0 {
                    (0..20).for_each(|_| rig.turn_after(Duration::from_millis(60)));
                }
            }
            compacted_bytes += rig.stats().compacted_bytes;
            disk.crash();
            rig = rig.reopen(recorder());
        }
        let written = written.borrow();
        assert!(written.header_count > 50, "files are used again: {}", written.header_count);
        assert!(written.block_count > 1_000);
    }
    assert!(compacted_bytes > 1 << 20, "{compacted_bytes} bytes were moved");
}

/// A client that writes at each turn, one a millisecond, and what of it is not durable.
struct Steady {
    rig: Rig<SimulatedDisk>,
    now: Duration,
    /// Position and time of what was taken and is not durable.
    waiting: VecDeque<(LogPosition, Duration)>,
    rng: Rng,
    taken_count: u64,
    refused_count: u64,
}

impl Steady {
    const TURN: Duration = Duration::from_millis(1);

    fn new(seed: u64, interval: Duration, faults: Faults) -> Self {
        let disk = SimulatedDisk::new(seed, Faults::NONE);
        let durability = Durability::Interval(interval);
        let mut rig = Rig::open(disk.clone(), Setup { durability, ..setup(16 << 20, 0) });
        rig.settle(&disk);
        disk.set_faults(faults);
        let rng = Rng::with_seed(seed);
        let (waiting, now) = (VecDeque::new(), Duration::ZERO);
        Self { rig, now, waiting, rng, taken_count: 0, refused_count: 0 }
    }

    /// The age of what was taken first and is not durable.
    fn oldest(&self) -> Duration {
        self.waiting.front().map_or(Duration::ZERO, |(_, at)| self.now - *at)
    }

    /// Writes, or deletes. Returns whether that was taken.
    fn write(&mut self) -> bool {
        let key = self.rng.u32(..500).to_be_bytes();
        let value = (self.rng.u8(..5) > 0).then_some(&[7; 100][..]);
        match self.rig.write(&key, value, None) {
            Ok(_) => self.waiting.push_back((self.rig.store.appended(), self.now)),
            Err(Error::Busy(_)) => {
                self.refused_count += 1;
                return false;
            }
            Err(error) => panic!("{error}"),
        }
        self.taken_count += 1;
        true
    }

    fn turn(&mut self) {
        self.now += Self::TURN;
        self.rig.turn_after(Self::TURN);
        let durable = self.rig.store.durable();
        while self.waiting.pop_front_if(|(position, _)| *position <= durable).is_some() {}
    }
}

#[test]
fn under_a_steady_load_nothing_is_acknowledged_for_longer_than_the_interval_before_it_is_durable() {
    let interval = Duration::from_millis(100);
    for seed in 0..8 {
        // No operation takes longer than eight turns: the half of the interval is time enough.
        let mut steady = Steady::new(seed, interval, Faults::NONE);
        for _ in 0..5_000 {
            assert!(steady.write(), "no client waits");
            steady.turn();
            assert!(steady.oldest() < interval, "{:?} at {:?}", steady.oldest(), steady.now);
        }
        let sync_count = steady.rig.stats().sync_count;
        assert!((50..200).contains(&sync_count), "{sync_count} syncs in 50 intervals");
    }
}

#[test]
fn on_a_slow_disk_no_write_is_taken_while_one_older_than_the_interval_is_not_durable() {
    let interval = Duration::from_millis(100);
    let faults = Faults { slow_operation: 1.0, ..Faults::NONE };
    for seed in 0..8 {
        let mut steady = Steady::new(seed, interval, faults);
        for _ in 0..30_000 {
            if steady.write() {
                assert!(steady.oldest() < interval, "{:?} at {:?}", steady.oldest(), steady.now);
            }
            steady.turn();
        }
        assert!(steady.taken_count > 1_000, "{} were taken", steady.taken_count);
        assert!(steady.refused_count > 1_000, "{} had to wait", steady.refused_count);
    }
}
