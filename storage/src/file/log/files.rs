//! The files of a log: made ready before they are needed, marked free, used again.

use std::io;
use std::time::Duration;

use gridkv_cluster::Instant;

use super::{FULL_RETRY, Log, Purpose};
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
    pub(in crate::file) const fn new(state: State, id: SegmentId) -> Self {
        Self {
            state,
            id,
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
    /// Sees to it that there is a file for the time after the active one.
    pub(super) fn prepare_spare(&mut self) {
        if self.has_ended {
            return;
        }
        let is_needed = match &self.active {
            Some(active) => self.is_spare_wanted || active.end > self.segment_bytes / 8,
            None => true,
        };
        if !is_needed || self.spare.is_some() || self.is_preparing {
            return;
        }
        let free = self.find(State::Free);
        if let Some(file) = free {
            self.full_until = None;
            return self.write_header(file);
        }
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
        self.files[vacant] = Some(File::new(State::Preparing, SegmentId(0)));
        self.is_preparing = true;
        let bytes = self.segment_bytes as u64;
        // The first has no time to be filled with zeros.
        let is_written = self.active.is_some();
        self.start(Purpose::Create(file), Op::Create { file, bytes, is_written });
    }

    fn find(&self, state: State) -> Option<FileId> {
        let found = self.files.iter().position(|it| it.is_some_and(|it| it.state == state))?;
        Some(FileId(u32::try_from(found).expect("fewer files than 2^32")))
    }

    pub(super) fn complete_create(&mut self, file: FileId, result: &io::Result<()>) {
        match result {
            Ok(()) => self.write_header(file),
            Err(error) => {
                self.files[file.0 as usize] = None;
                self.is_preparing = false;
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
        self.files[file.0 as usize] = Some(File::new(State::Preparing, id));
        self.stating = (self.floor, self.promised);
        let buffer = self.header(Some(id)).encode();
        let op = Op::Write { file, offset: 0, buffer, is_durable: true };
        self.start(Purpose::Header(file), op);
    }

    const fn header(&self, segment: Option<SegmentId>) -> SegmentHeader {
        let Self { version_max, floor, promised, .. } = *self;
        SegmentHeader { segment, version_max, floor, promised }
    }

    pub(super) fn complete_header(&mut self, file: FileId, result: &io::Result<()>) {
        self.is_preparing = false;
        if let Err(error) = result {
            return self.fail(error);
        }
        self.stated = self.stating;
        if self.full_until.take().is_some() {
            tracing::info!("the log has room again");
        }
        if self.active.is_none() {
            return self.activate(file);
        }
        self.file_mut(file).state = State::Spare;
        self.spare = Some(file);
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
        let buffer = self.header(None).encode();
        self.start(Purpose::Free(file), Op::Write { file, offset: 0, buffer, is_durable: true });
    }

    pub(super) fn complete_free(&mut self, file: FileId, result: &io::Result<()>) {
        if let Err(error) = result {
            return self.fail(error);
        }
        *self.file_mut(file) = File::new(State::Free, SegmentId(0));
        self.freed_last = Some(file);
    }

    /// When the next free file may go, if there are too many.
    pub(super) fn delete_due_at(&self) -> Option<Instant> {
        let is_free = |file: &&File| file.state == State::Free;
        let free_count = self.files.iter().flatten().filter(is_free).count();
        let pause = if self.is_unused { DELETE_INTERVAL_UNUSED } else { DELETE_INTERVAL };
        // Before there is a segment, a free file may be the only one that knows the promise.
        let is_begun = self.active.is_some() && !self.has_ended;
        (free_count > 1 && is_begun).then_some(self.deleted_at + pause)
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
        let numbers = (0..).map(FileId).zip(&self.files);
        let mut free = numbers
            .filter(|(_, file)| file.is_some_and(|file| file.state == State::Free))
            .map(|(file, _)| file);
        if let Some(file) = free.find(|file| Some(*file) != self.freed_last) {
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
