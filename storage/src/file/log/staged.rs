//! Records that are on their way to disk, and still in memory.

use super::closing::Closing;
use super::{Commit, InFlight, Log};
use crate::backend::LogPosition;
use crate::disk::{Buffer, Disk};
use crate::file::index::Place;

impl<D: Disk> Log<D> {
    /// The bytes of a record that is not on disk yet.
    pub(in crate::file) fn staged(&self, place: Place) -> Option<&[u8]> {
        let commit = self.commit_of(place)?;
        Some(&commit.bytes[place.offset as usize - commit.offset..])
    }

    /// The commit that a record is in, if that is not on disk yet.
    fn commit_of(&self, place: Place) -> Option<&Commit> {
        let offset = place.offset as usize;
        let in_flight = match &self.in_flight {
            Some(InFlight::Commit { commit, .. }) => Some(commit),
            _ => None,
        };
        let mut commits = in_flight.into_iter().chain(&self.queue).chain(&self.open);
        commits.find(|commit| {
            commit.file == place.file
                && (commit.offset..commit.offset + commit.bytes.len()).contains(&offset)
        })
    }

    /// The position that must be durable for the record at `place` to be.
    pub(in crate::file) fn unsettled(&self, place: Place) -> Option<LogPosition> {
        if self.durable == self.position
            || (self.file(place.file).id, place.offset) < self.durable_end
        {
            return None;
        }
        // What is in no commit is written, and waits for a sync.
        Some(self.commit_of(place).map_or(self.written, |commit| commit.position))
    }

    /// Memory of what is on its way to disk.
    pub(in crate::file) fn buffer_bytes(&self) -> u64 {
        let contents = self.active.as_ref().map_or(0, |active| active.contents.bytes());
        let closing: usize = self.closing.iter().map(Closing::bytes).sum();
        let commits = self.queue.iter().chain(&self.open);
        let commits: usize = commits.map(|commit| commit.bytes.capacity()).sum();
        let pool: usize = self.pool.iter().map(Buffer::capacity).sum();
        (contents + closing + commits + pool) as u64
    }
}
