//! Who may append how much, and where the log goes on when a segment is full.

use super::{COMMIT_BYTES_MAX, Log, Priority, Purpose, QUEUE_BYTES_MAX};
use crate::disk::{BLOCK_BYTES, Disk};
use crate::file::format::{COMMIT_HEADER_BYTES, DATA_START, contents_bytes};

impl<D: Disk> Log<D> {
    /// Whether a record fits into the active segment, with its entry in the contents.
    pub(super) fn has_room(&self, bytes: usize, priority: Priority) -> bool {
        let Some(active) = &self.active else { return false };
        let open_bytes = self.open.as_ref().map_or(COMMIT_HEADER_BYTES, |open| open.bytes.len());
        let end = (active.end + open_bytes + bytes).next_multiple_of(BLOCK_BYTES);
        let contents = contents_bytes(active.contents.count() as usize + 1);
        end + contents + self.kept_bytes(active.bytes, priority) <= active.bytes
    }

    /// What is kept of an active segment of so many bytes for those with a higher priority.
    pub(super) fn kept_bytes(&self, bytes: usize, priority: Priority) -> usize {
        let is_last = self.is_last();
        match priority {
            Priority::Compaction => 0,
            // What is being moved needs all of it.
            Priority::MakesRoom if is_last && self.expects_room => bytes,
            Priority::MakesRoom if is_last => bytes - reserve_bytes(bytes),
            Priority::MakesRoom => 0,
            Priority::Ordinary if is_last => bytes,
            Priority::Ordinary if self.may_roll(priority) => 0,
            Priority::Ordinary => reserve_bytes(bytes),
        }
    }

    /// Whether compaction has no file to go on to after the active one.
    pub(super) fn is_last(&self) -> bool {
        self.is_full() && self.spare.is_none() && self.free.is_empty() && !self.is_preparing
    }

    /// Whether there is a next segment for appends of a priority.
    pub(super) fn may_roll(&self, priority: Priority) -> bool {
        self.spare.is_some() && (priority == Priority::Compaction || !self.free.is_empty())
    }

    /// Whether who makes room has none, and there is none but what compaction makes.
    pub(in crate::file) fn is_starving(&self) -> bool {
        self.is_full() && self.wanted_bytes.is_some() && !self.may_roll(Priority::MakesRoom)
    }

    /// What can be moved into the active segment, where there is none after it: about so many bytes of
    /// records, whose entries in the contents may take as many again.
    pub(in crate::file) fn last_room(&self) -> Option<u64> {
        let active = self.active.as_ref().filter(|_| self.is_last())?;
        let contents = contents_bytes(active.contents.count() as usize);
        let taken = active.end + contents + 4 * BLOCK_BYTES;
        Some(active.bytes.saturating_sub(taken) as u64 / 2)
    }

    /// Whether a file is being marked free.
    pub(in crate::file) fn is_freeing(&self) -> bool {
        self.operations.values().any(|purpose| matches!(purpose, Purpose::Free(_)))
    }

    /// Whether those who were told to wait may try again.
    pub(in crate::file) fn takes_more(&self) -> bool {
        let is_coming = self.is_preparing || (self.full_until.is_some() && self.expects_room);
        let has_room = self.may_roll(Priority::Ordinary) || !is_coming;
        let takes = has_room
            && self.queue_bytes <= QUEUE_BYTES_MAX / 2
            && self.credit != Some(0)
            && !self.is_late();
        // After a failure they are told that there is none.
        self.has_failed || takes
    }

    /// Says whether compaction is about to free files.
    pub(in crate::file) fn set_expects_room(&mut self, expects_room: bool) {
        self.expects_room = expects_room;
    }

    /// Bounds what clients may append until [`Log::add_credit`], or ends that.
    pub(in crate::file) fn set_credit(&mut self, credit: Option<u64>) {
        self.credit = credit.map(|credit| self.credit.unwrap_or(credit));
    }

    /// Lets clients append more, if they are bounded.
    pub(in crate::file) fn add_credit(&mut self, bytes: usize) {
        self.credit = self.credit.map(|credit| credit + bytes as u64);
    }

    /// Whether commits of clients queue up.
    pub(in crate::file) fn has_backlog(&self) -> bool {
        self.queue_bytes > COMMIT_BYTES_MAX
    }
}

/// What is kept of a last segment of so many bytes for those who make room.
pub(super) const fn reserve_bytes(bytes: usize) -> usize {
    bytes / 8
}

/// Whether a record fits into a file of its own.
pub(super) fn fits(file_bytes: usize, bytes: usize) -> bool {
    let end = (DATA_START + COMMIT_HEADER_BYTES + bytes).next_multiple_of(BLOCK_BYTES);
    end + contents_bytes(1) + reserve_bytes(file_bytes) <= file_bytes
}
