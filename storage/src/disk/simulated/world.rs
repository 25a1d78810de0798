//! What the handles of one simulated disk share: files, operations under way, time and luck.
//!
//! # Invariants
//!
//! - What an operation does to its file it does when it ends; before that it may be seen in part.
//! - Everything is drawn from one generator, in an order that depends on the calls alone.

use std::collections::{BTreeMap, VecDeque};
use std::io;

use fastrand::Rng;
use rustix::io::Errno;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use super::file::File;
use super::{Counts, Faults};
use crate::disk::{BLOCK_BYTES, Buffer, Completion, FileId, Op, OpId};

/// The polls that an operation takes: at least one.
const POLL_COUNT_MAX: u64 = 8;
/// The polls that a slow one takes on top of that.
const SLOW_POLL_COUNT_MAX: u64 = 1_000;

/// An operation that has not ended.
struct UnderWay {
    id: OpId,
    op: Op,
    started_at: u64,
    /// Decided when it started.
    refusal: Option<io::Error>,
    /// A read whose bytes are in place already.
    is_filled: bool,
}

/// How an operation comes to be cut off.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// The machine loses its power.
    Crash,
    /// The process dies; the machine goes on.
    Kill,
}

pub(super) struct World {
    pub(super) faults: Faults,
    pub(super) counts: Counts,
    pub(super) files: BTreeMap<FileId, File>,
    /// A handle of an earlier epoch reaches nothing.
    pub(super) epoch: u64,
    /// From here on nothing ends any more, until the crash.
    powerless_from: Option<u64>,
    pub(super) event_hash: u64,
    rng: Rng,
    /// Polls so far.
    now: u64,
    next_id: u64,
    /// By the poll in which they end, then by lot.
    under_way: BTreeMap<(u64, u64, OpId), UnderWay>,
    ended: VecDeque<Completion>,
}

impl World {
    pub(super) fn new(seed: u64, faults: Faults, files: BTreeMap<FileId, File>) -> Self {
        Self {
            faults,
            counts: Counts::default(),
            files,
            epoch: 0,
            powerless_from: None,
            event_hash: seed,
            rng: Rng::with_seed(seed),
            now: 0,
            next_id: 0,
            under_way: BTreeMap::new(),
            ended: VecDeque::new(),
        }
    }

    pub(super) const fn new_id(&mut self) -> OpId {
        self.next_id += 1;
        OpId(self.next_id)
    }

    pub(super) fn under_way_count(&self) -> usize {
        self.under_way.len()
    }

    pub(super) fn start(&mut self, op: Op) -> OpId {
        let id = self.new_id();
        self.assert_order(&op);
        self.count(&op);
        let refusal = self.refusal(&op);
        let mut it = UnderWay { id, op, started_at: self.now, refusal, is_filled: false };
        // What is written while a read is under way may be seen or not, so look now or at the end.
        let is_filled = self.rng.bool() && it.refusal.is_none();
        if let Op::Read { file, offset, buffer } = &mut it.op
            && is_filled
        {
            self.fill(*file, *offset, buffer);
            it.is_filled = true;
        }
        let mut ends_at = self.now + self.rng.u64(1..=POLL_COUNT_MAX);
        if self.chance(self.faults.slow_operation) {
            ends_at += self.rng.u64(1..=SLOW_POLL_COUNT_MAX);
            self.counts.slow_count += 1;
        }
        let lot = self.rng.u64(..);
        self.note(&it.op, id, ends_at);
        self.under_way.insert((ends_at, lot, id), it);
        id
    }

    pub(super) fn poll(&mut self) -> Option<Completion> {
        self.pass();
        self.ended.pop_front()
    }

    pub(super) fn wait(&mut self) -> io::Result<()> {
        while self.ended.is_empty() {
            if self.is_powerless() {
                return Err(Errno::IO.into());
            }
            if self.under_way.is_empty() {
                return Err(io::Error::other("nothing is under way that could be waited for"));
            }
            self.pass();
        }
        Ok(())
    }

    pub(super) fn read_now(
        &mut self,
        file: FileId,
        offset: u64,
        buffer: &mut Buffer,
    ) -> io::Result<()> {
        self.counts.read_now_count += 1;
        if self.is_powerless() {
            return Err(Errno::IO.into());
        }
        if let Some(refusal) = self.read_refusal(file, offset, buffer.len()) {
            return Err(refusal);
        }
        if self.chance(self.faults.read_failure) {
            self.counts.failed_read_count += 1;
            return Err(Errno::IO.into());
        }
        self.fill(file, offset, buffer);
        self.mix(&[u64::from(file.0), offset, xxh3_64(buffer)]);
        Ok(())
    }

    /// Drops all operations, each done in part, and what a crash costs.
    pub(super) fn cut_off(&mut self, end: End) {
        self.ended.clear();
        if end == End::Crash {
            for file in self.files.values_mut() {
                file.crash(&mut self.rng, &mut self.counts);
            }
        }
        for it in std::mem::take(&mut self.under_way).into_values() {
            self.counts.dropped_count += 1;
            if it.refusal.is_none() {
                self.cut_off_one(it.op, end);
            }
        }
        self.epoch += 1;
        self.powerless_from = None;
        self.counts.crash_count += u64::from(end == End::Crash);
        self.counts.kill_count += u64::from(end == End::Kill);
        self.mix(&[self.epoch, self.counts.lost_sector_count]);
    }

    fn cut_off_one(&mut self, op: Op, end: End) {
        match op {
            Op::Create { file, bytes, .. } => {
                let block_count = to_usize(bytes) / BLOCK_BYTES;
                let block_count = match self.rng.u8(..4) {
                    0 => return,
                    1 => 0,
                    2 => self.rng.usize(0..=block_count),
                    _ => block_count,
                };
                self.files.insert(file, File::new(vec![0; block_count * BLOCK_BYTES]));
            }
            Op::Delete { file } => {
                if self.rng.bool() {
                    self.files.remove(&file);
                }
            }
            Op::Write { file, offset, buffer, .. } => {
                let Some(file) = self.files.get_mut(&file) else { return };
                match end {
                    End::Crash => file.tear(to_usize(offset), &buffer, &mut self.rng),
                    End::Kill => {
                        file.write_some(to_usize(offset), &buffer, self.now, &mut self.rng);
                    }
                }
            }
            Op::Sync { .. } | Op::Read { .. } => {}
        }
    }

    /// Time passes: one poll.
    pub(super) fn lose_power_after(&mut self, polls: u64) {
        self.powerless_from = Some(self.now + polls);
    }

    fn is_powerless(&self) -> bool {
        self.powerless_from.is_some_and(|from| self.now >= from)
    }

    fn pass(&mut self) {
        if self.is_powerless() {
            return;
        }
        self.now += 1;
        while let Some(entry) = self.under_way.first_entry() {
            if entry.key().0 > self.now {
                break;
            }
            let it = entry.remove();
            self.end(it);
        }
    }

    fn end(&mut self, mut it: UnderWay) {
        let result = match it.refusal.take() {
            Some(refusal) => Err(refusal),
            None => self.carry_out(&mut it),
        };
        self.note(&it.op, it.id, u64::from(result.is_ok()));
        let buffer = match it.op {
            Op::Write { buffer, .. } | Op::Read { buffer, .. } => Some(buffer),
            Op::Create { .. } | Op::Sync { .. } | Op::Delete { .. } => None,
        };
        self.ended.push_back(Completion { id: it.id, result, buffer });
    }

    fn carry_out(&mut self, it: &mut UnderWay) -> io::Result<()> {
        match &mut it.op {
            Op::Create { file, bytes, .. } => self.create(*file, *bytes),
            Op::Write { file, offset, buffer, is_durable } => {
                self.write(*file, *offset, buffer, *is_durable)
            }
            Op::Sync { file } => self.sync(*file, it.started_at),
            Op::Read { file, offset, buffer } => {
                if self.chance(self.faults.read_failure) {
                    self.counts.failed_read_count += 1;
                    return Err(Errno::IO.into());
                }
                if !it.is_filled {
                    self.fill(*file, *offset, buffer);
                }
                Ok(())
            }
            Op::Delete { file } => {
                self.fill_reads_of(*file);
                self.files.remove(file);
                Ok(())
            }
        }
    }

    fn create(&mut self, file: FileId, bytes: u64) -> io::Result<()> {
        let others = self.files.iter().filter(|(id, _)| **id != file);
        let used_bytes: u64 = others.map(|(_, it)| it.len() as u64).sum();
        self.files.remove(&file);
        if self.faults.capacity_bytes.is_some_and(|capacity| used_bytes + bytes > capacity) {
            self.counts.full_count += 1;
            return Err(Errno::NOSPC.into());
        }
        self.files.insert(file, File::new(vec![0; to_usize(bytes)]));
        Ok(())
    }

    fn write(&mut self, id: FileId, offset: u64, bytes: &[u8], is_durable: bool) -> io::Result<()> {
        let has_failed = self.chance(self.faults.write_failure)
            || (is_durable && self.chance(self.faults.sync_failure));
        let file = self.files.get_mut(&id).expect("a file is not removed while it is written");
        let offset = to_usize(offset);
        if has_failed {
            self.counts.failed_write_count += 1;
            file.write_badly(offset, bytes, self.now, &mut self.rng);
            return Err(Errno::IO.into());
        }
        if is_durable {
            file.write_durable(offset, bytes);
        } else {
            file.write(offset, bytes, self.now);
        }
        Ok(())
    }

    fn sync(&mut self, id: FileId, started_at: u64) -> io::Result<()> {
        let has_failed = self.chance(self.faults.sync_failure);
        let file = self.files.get_mut(&id).expect("a file is not removed while it is synced");
        if has_failed {
            self.counts.failed_sync_count += 1;
            file.sync_badly(started_at, &mut self.rng, &mut self.counts);
            return Err(Errno::IO.into());
        }
        file.sync(started_at);
        Ok(())
    }

    /// Reads what completed writes have left, and of each block of a write under way, perhaps, that.
    fn fill(&mut self, id: FileId, offset: u64, buffer: &mut Buffer) {
        let file = self.files.get(&id).expect("it was there when the read started");
        let start = to_usize(offset);
        file.read(start, buffer);
        for it in self.under_way.values().filter(|it| it.refusal.is_none()) {
            let Op::Write { file, offset, buffer: bytes, .. } = &it.op else { continue };
            if *file != id {
                continue;
            }
            let first = to_usize(*offset);
            for (index, chunk) in bytes.chunks_exact(BLOCK_BYTES).enumerate() {
                let at = first + index * BLOCK_BYTES;
                if at >= start && at < start + buffer.len() && self.rng.bool() {
                    buffer[at - start..at - start + BLOCK_BYTES].copy_from_slice(chunk);
                }
            }
        }
    }

    /// Reads that began before a file was removed still see it.
    fn fill_reads_of(&mut self, id: FileId) {
        let mut under_way = std::mem::take(&mut self.under_way);
        for it in under_way.values_mut().filter(|it| it.refusal.is_none() && !it.is_filled) {
            if let Op::Read { file, offset, buffer } = &mut it.op
                && *file == id
            {
                self.fill(id, *offset, buffer);
                it.is_filled = true;
            }
        }
        self.under_way = under_way;
    }

    /// What is under way on a file, refused operations apart.
    fn on_file(&self, file: FileId) -> impl Iterator<Item = &UnderWay> {
        self.under_way.values().filter(move |it| it.op.file() == file && it.refusal.is_none())
    }

    /// Why an operation cannot be done, if its caller could not know.
    fn refusal(&self, op: &Op) -> Option<io::Error> {
        match op {
            Op::Create { .. } => None,
            Op::Read { file, offset, buffer } => self.read_refusal(*file, *offset, buffer.len()),
            Op::Delete { file } | Op::Sync { file } | Op::Write { file, .. } => {
                self.file_refusal(*file)
            }
        }
    }

    fn file_refusal(&self, file: FileId) -> Option<io::Error> {
        let is_changing = |it: &UnderWay| matches!(it.op, Op::Create { .. } | Op::Delete { .. });
        let is_changing = self.on_file(file).any(is_changing);
        (is_changing || !self.files.contains_key(&file)).then(|| Errno::NOENT.into())
    }

    fn read_refusal(&self, id: FileId, offset: u64, len: usize) -> Option<io::Error> {
        assert!(offset.is_multiple_of(BLOCK_BYTES as u64));
        assert!(len.is_multiple_of(BLOCK_BYTES));
        assert!(len > 0);
        if let Some(refusal) = self.file_refusal(id) {
            return Some(refusal);
        }
        let file_len = self.files.get(&id).map_or(0, File::len) as u64;
        let is_inside = offset.checked_add(len as u64).is_some_and(|end| end <= file_len);
        (!is_inside).then(|| io::ErrorKind::UnexpectedEof.into())
    }

    /// A caller waits for what must come first.
    fn assert_order(&self, op: &Op) {
        match op {
            Op::Create { file, bytes, .. } => {
                assert!(*bytes > 0);
                assert!(bytes.is_multiple_of(BLOCK_BYTES as u64));
                // A read of a file that was removed does not touch the next one of its name.
                let is_gone = !self.files.contains_key(file);
                let is_quiet = self.on_file(*file).all(|it| is_gone && it.is_filled);
                assert!(is_quiet, "a file is created while nothing is under way on it");
            }
            Op::Delete { file } => {
                let is_quiet = self.on_file(*file).all(|it| matches!(it.op, Op::Read { .. }));
                assert!(is_quiet, "a file is removed while nothing but reads is under way on it");
            }
            Op::Write { file, offset, buffer, .. } => {
                assert!(offset.is_multiple_of(BLOCK_BYTES as u64));
                assert!(buffer.len().is_multiple_of(BLOCK_BYTES));
                assert!(!buffer.is_empty());
                if let Some(file) = self.files.get(file) {
                    let end = to_usize(*offset) + buffer.len();
                    assert!(end <= file.len(), "a write does not make its file longer");
                }
            }
            Op::Sync { .. } | Op::Read { .. } => {}
        }
    }

    const fn count(&mut self, op: &Op) {
        let counts = &mut self.counts;
        let count = match op {
            Op::Create { .. } => &mut counts.create_count,
            Op::Write { is_durable: true, .. } => &mut counts.durable_write_count,
            Op::Write { is_durable: false, .. } => &mut counts.write_count,
            Op::Sync { .. } => &mut counts.sync_count,
            Op::Read { .. } => &mut counts.read_count,
            Op::Delete { .. } => &mut counts.delete_count,
        };
        *count += 1;
    }

    fn chance(&mut self, probability: f64) -> bool {
        // Drawn always: the stream does not depend on which faults are on.
        self.rng.f64() < probability
    }

    /// Takes an operation and what came of it into the hash of all events.
    fn note(&mut self, op: &Op, id: OpId, outcome: u64) {
        let (kind, offset, bytes) = match op {
            Op::Create { bytes, .. } => (0, *bytes, 0),
            Op::Write { offset, buffer, is_durable, .. } => {
                (1 + u64::from(*is_durable), *offset, xxh3_64(buffer))
            }
            Op::Sync { .. } => (3, 0, 0),
            Op::Read { offset, buffer, .. } => (4, *offset, xxh3_64(buffer)),
            Op::Delete { .. } => (5, 0, 0),
        };
        self.mix(&[self.now, id.0, kind, u64::from(op.file().0), offset, bytes, outcome]);
    }

    fn mix(&mut self, words: &[u64]) {
        for word in words {
            self.event_hash = xxh3_64_with_seed(&word.to_le_bytes(), self.event_hash);
        }
    }
}

fn to_usize(value: u64) -> usize {
    usize::try_from(value).expect("a simulated file fits into memory")
}
