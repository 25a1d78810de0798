//! The files of a log: made ready before they are needed, marked free, used again.

use std::io;
use std::time::Duration;

use gridkv_cluster::Instant;

use super::{FULL_RETRY, Log, Purpose, fits};
use crate::disk::{Disk, FileId, Op};
use crate::file::format::{SegmentHeader, SegmentId};
use crate::file::index::FILE_COUNT_MAX;

/// Free files go one at a time, so long apart. Where a file system tells its disk of what it no longer
/// needs, the disk serves nobody else meanwhile: 10 to 20 ms for 64 MiB, measured, which one read in
/// a hundred would feel if it came more often. Where nobody reads or writes it may.
const DELETE_INTERVAL: Duration = Duration::from_secs(4);
const DELETE_INTERVAL_UNUSED: Duration = Duration::from_millis(100);

/// What a file of the log is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::file) enum State {
    /// It may be used again: its header says so, durably.
    Free,
    /// Being created, or given a header.
    Preparing,
    /// Ready for records.
    Spare,
    /// Records are appended.
    Active,
    /// Records are no longer appended; some may not be durable, or the contents not yet written.
    Closing,
    /// Complete.
    Sealed,
    /// Part of it could not be read when the log was opened, or since: kept as it is.
    Damaged,
    /// What was live in it is appended elsewhere.
    Emptied,
    /// Its header is being marked, or it is being deleted.
    Leaving,
}

/// A file of the log.
#[derive(Clone, Copy, Debug)]
pub(in crate::file) struct File {
    pub(in crate::file) state: State,
    pub(in crate::file) id: SegmentId,
    /// Its size.
    pub(in crate::file) bytes: u32,
    /// Where its last commit ends.
    pub(in crate::file) data_end: u32,
    /// Bytes of the records that the index points at.
    pub(in crate::file) live_bytes: u64,
    /// Bytes among them that are values of records which have expired and are tombstones by the
    /// index alone. May be too many, where such a record was replaced since.
    pub(in crate::file) buried_bytes: u64,
    /// Bytes of tombstones that the index does not know, and the latest of their origins.
    pub(in crate::file) tombstone_bytes: u64,
    pub(in crate::file) tombstone_origin: SegmentId,
    /// Reads under way, which keep it from being used again.
    pub(in crate::file) reader_count: u32,
}

impl File {
    /// A file of so many bytes, with nothing in it that counts.
    pub(in crate::file) const fn new(state: State, id: SegmentId, bytes: u32) -> Self {
        Self {
            state,
            id,
            bytes,
            data_end: 0,
            live_bytes: 0,
            buried_bytes: 0,
            tombstone_bytes: 0,
            tombstone_origin: SegmentId(0),
            reader_count: 0,
        }
    }

    /// About how many bytes the live records take elsewhere, once they were moved.
    pub(in crate::file) const fn kept_bytes(&self) -> u64 {
        self.live_bytes.saturating_sub(self.buried_bytes)
    }

    /// Whether it holds records.
    pub(in crate::file) const fn has_records(&self) -> bool {
        matches!(
            self.state,
            State::Active
                | State::Closing
                | State::Sealed
                | State::Damaged
                | State::Emptied
                | State::Leaving
        )
    }
}

/// Which segments are the oldest.
#[derive(Clone, Copy, Debug)]
pub(in crate::file) struct Ages {
    oldest: Option<(SegmentId, FileId)>,
    second: SegmentId,
}

impl Ages {
    /// The oldest segment that is not in `apart`.
    pub(in crate::file) fn oldest_but(&self, apart: FileId) -> SegmentId {
        match self.oldest {
            Some((id, file)) if file != apart => id,
            _ => self.second,
        }
    }
}

impl<D: Disk> Log<D> {
    /// Sees to it that there is a file for the time after the active one, and one more.
    pub(super) fn prepare_files(&mut self) {
        if self.has_ended || self.is_preparing {
            return;
        }
        let (needs_spare, needs_free) = self.needs();
        if needs_spare && let Some(file) = self.take_free() {
            if let Some(small) = self.spare.take() {
                self.set_free(small);
            }
            return self.write_header(file);
        }
        if needs_spare || (needs_free && self.free.is_empty()) {
            self.create();
        }
    }

    /// Whether a spare file is needed, and whether a free one is besides.
    fn needs(&self) -> (bool, bool) {
        let Some(active) = &self.active else { return (true, false) };
        let is_wanted = self.wanted_bytes.is_some();
        let lacks_spare = self.spare.is_none_or(|spare| !self.suits(spare));
        let needs_spare = lacks_spare && (is_wanted || active.end > active.bytes / 8);
        // Later, so that compaction may free one instead.
        (needs_spare, is_wanted || active.end > active.bytes / 2)
    }

    /// When a file that could not be made is tried again, if one is still needed.
    pub(super) fn create_due_at(&self) -> Option<Instant> {
        let (needs_spare, needs_free) = self.needs();
        let is_needed = needs_spare || (needs_free && self.free.is_empty());
        self.full_until.filter(|_| is_needed && !self.has_ended && !self.is_preparing)
    }

    /// Whether a file is large enough for what waits for the next one.
    fn suits(&self, file: FileId) -> bool {
        self.wanted_bytes.is_none_or(|bytes| fits(self.file(file).bytes as usize, bytes))
    }

    /// Takes the largest free file, if that suits.
    fn take_free(&mut self) -> Option<FileId> {
        loop {
            let largest = (0..self.free.len()).max_by_key(|at| self.file(self.free[*at]).bytes)?;
            let file = self.free[largest];
            if !self.suits(file) {
                return None;
            }
            self.free.swap_remove(largest);
            if !self.disk.is_shared(file) {
                return Some(file);
            }
            // A snapshot has it too, from before it was marked free.
            self.file_mut(file).state = State::Leaving;
            self.start(Purpose::Delete(file), Op::Delete { file });
        }
    }

    /// Makes another file.
    fn create(&mut self) {
        if self.full_until.is_some_and(|until| self.now < until) {
            return;
        }
        let vacant = self.files.iter().position(Option::is_none).unwrap_or(self.files.len());
        let file = FileId(u32::try_from(vacant).expect("fewer files than 2^32"));
        if file.0 >= FILE_COUNT_MAX {
            self.full_until = Some(self.now + FULL_RETRY);
            return;
        }
        if vacant == self.files.len() {
            self.files.push(None);
        }
        let mut bytes = self.next_file_bytes;
        while !self.wanted_bytes.is_none_or(|wanted| fits(bytes, wanted))
            && bytes < self.segment_bytes
        {
            bytes *= 2;
        }
        self.next_file_bytes = (bytes * 2).min(self.segment_bytes);
        let size = u32::try_from(bytes).expect("a segment has at most 64 MiB");
        self.files[vacant] = Some(File::new(State::Preparing, SegmentId(0), size));
        self.is_preparing = true;
        let op = Op::Create { file, bytes: bytes as u64, is_written: true };
        self.start(Purpose::Create(file), op);
    }

    /// The disk is not full, or no longer.
    fn tell_room(&mut self) {
        if self.full_until.take().is_some() {
            tracing::info!("the log has room again");
        }
    }

    /// A file may be used again.
    pub(in crate::file) fn set_free(&mut self, file: FileId) {
        let bytes = self.file(file).bytes;
        *self.file_mut(file) = File::new(State::Free, SegmentId(0), bytes);
        assert!(!self.free.contains(&file), "a file is free once");
        self.free.push(file);
    }

    pub(super) fn complete_create(&mut self, file: FileId, result: &io::Result<()>) {
        self.is_preparing = false;
        match result {
            Ok(()) => {
                self.set_free(file);
                self.tell_room();
            }
            Err(error) => {
                self.files[file.0 as usize] = None;
                if self.full_until.is_none() {
                    tracing::error!(%error, "the log cannot be extended: is the disk full?");
                }
                self.full_until = Some(self.now + FULL_RETRY);
            }
        }
    }

    fn write_header(&mut self, file: FileId) {
        self.is_preparing = true;
        let id = self.next_id;
        self.next_id.0 += 1;
        let bytes = self.file(file).bytes;
        *self.file_mut(file) = File::new(State::Preparing, id, bytes);
        self.stating = (self.floor, self.promised);
        let buffer = self.header(Some(id), bytes).encode();
        let op = Op::Write { file, offset: 0, buffer, is_durable: true };
        self.start(Purpose::Header(file), op);
    }

    const fn header(&self, segment: Option<SegmentId>, file_bytes: u32) -> SegmentHeader {
        let Self { version_max, floor, promised, token_key, before, .. } = *self;
        let before = if segment.is_some() { before } else { None };
        SegmentHeader { segment, version_max, floor, promised, token_key, file_bytes, before }
    }

    pub(super) fn complete_header(&mut self, file: FileId, result: &io::Result<()>) {
        self.is_preparing = false;
        if let Err(error) = result {
            return self.fail(error);
        }
        self.stated = self.stating;
        if self.active.is_none() {
            // This is the first of the run: it has said where the log before ends.
            self.before = None;
            return self.activate(file);
        }
        self.file_mut(file).state = State::Spare;
        self.spare = Some(file);
        if !self.free.is_empty() {
            self.tell_room();
        }
    }

    /// Whether a file may go. One that a snapshot has too is deleted without a last header, so floor
    /// and promise have to be told by another.
    pub(in crate::file) fn may_free(&self, file: FileId) -> bool {
        let (floor, promised) = self.stated;
        !self.disk.is_shared(file) || (floor >= self.floor && promised >= self.promised)
    }

    /// Gives up a file whose live records are all elsewhere, durably.
    pub(in crate::file) fn free(&mut self, file: FileId) {
        assert_eq!(self.file(file).reader_count, 0);
        assert_eq!(self.file(file).live_bytes, 0);
        self.file_mut(file).state = State::Leaving;
        if self.disk.is_shared(file) {
            // A snapshot has it too.
            return self.start(Purpose::Delete(file), Op::Delete { file });
        }
        self.mark_free(file);
    }

    /// Writes into a file's header that it may be used again.
    pub(in crate::file) fn mark_free(&mut self, file: FileId) {
        let buffer = self.header(None, self.file(file).bytes).encode();
        self.start(Purpose::Free(file), Op::Write { file, offset: 0, buffer, is_durable: true });
    }

    pub(super) fn complete_free(&mut self, file: FileId, result: &io::Result<()>) {
        if let Err(error) = result {
            return self.fail(error);
        }
        self.set_free(file);
        self.freed_last = Some(file);
        if self.free.len() > 1 || self.spare.is_some() {
            self.tell_room();
        }
    }

    /// When the next free file may go, if there are too many.
    pub(super) fn delete_due_at(&self) -> Option<Instant> {
        let pause = if self.is_unused { DELETE_INTERVAL_UNUSED } else { DELETE_INTERVAL };
        // Before there is a segment, a free file may be the only one that knows the promise.
        let is_begun = self.active.is_some() && !self.has_ended;
        (self.free.len() > 1 && is_begun).then_some(self.deleted_at + pause)
    }

    /// Says whether hardly anybody reads or writes.
    pub(in crate::file) fn set_unused(&mut self, is_unused: bool) {
        self.is_unused = is_unused;
    }

    /// Removes a free file, now and then. One is kept for the next segment: the last, whose header
    /// knows the highest version.
    pub(super) fn delete_free(&mut self) {
        if self.delete_due_at().is_none_or(|at| self.now < at) {
            return;
        }
        self.deleted_at = self.now;
        let others = (0..self.free.len()).filter(|at| Some(self.free[*at]) != self.freed_last);
        if let Some(at) = others.min_by_key(|at| self.file(self.free[*at]).bytes) {
            let file = self.free.swap_remove(at);
            self.file_mut(file).state = State::Leaving;
            self.start(Purpose::Delete(file), Op::Delete { file });
        }
    }

    /// Removes a file whose creation was interrupted.
    pub(in crate::file) fn discard(&mut self, file: FileId) {
        self.start(Purpose::Delete(file), Op::Delete { file });
    }

    /// The two oldest segments.
    pub(in crate::file) fn ages(&self) -> Ages {
        let mut ages = Ages { oldest: None, second: SegmentId(u32::MAX) };
        for (number, file) in self.files.iter().enumerate() {
            let Some(file) = file.filter(|file| file.has_records()) else { continue };
            let number = FileId(u32::try_from(number).expect("fewer files than 2^32"));
            match ages.oldest {
                Some((id, _)) if id < file.id => ages.second = ages.second.min(file.id),
                before => {
                    ages.second = before.map_or(ages.second, |(id, _)| id);
                    ages.oldest = Some((file.id, number));
                }
            }
        }
        ages
    }
}
