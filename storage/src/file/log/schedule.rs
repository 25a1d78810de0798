//! When what was appended is written, and made durable.
//!
//! | durability | written | durable |
//! |---|---|---|
//! | `commit` | at once | with the write |
//! | `interval:T` | when there is much, or half of T has passed | at half of T, before more is written |
//! | `none` | when there is much, or a second has passed | when a segment ends |
//!
//! With nothing to write and nothing to sync nothing is ever due: an idle core sleeps.

use gridkv_cluster::Instant;

use super::{COMMIT_BYTES_LAZY, InFlight, LAZY_INTERVAL, Log};
use crate::backend::Durability;
use crate::disk::Disk;

impl<D: Disk> Log<D> {
    /// When [`Log::turn`] has something to do by itself.
    pub(in crate::file) fn due_at(&self) -> Option<Instant> {
        if self.has_failed {
            return None;
        }
        let is_idle = self.in_flight.is_none();
        let commit = self.overdue_at().filter(|_| is_idle);
        [self.create_due_at(), commit, self.delete_due_at()].into_iter().flatten().min()
    }

    /// Since when something waits to be written.
    pub(super) fn unwritten_since(&self) -> Option<Instant> {
        self.queue.front().or(self.open.as_ref()).map(|commit| commit.since)
    }

    /// Since when something waits to be durable.
    pub(super) fn undurable_since(&self) -> Option<Instant> {
        let in_flight = match &self.in_flight {
            Some(InFlight::Commit { commit, .. }) => Some(commit.since),
            _ => None,
        };
        self.written_since.or(in_flight).or_else(|| self.unwritten_since())
    }

    /// When what waits has to be written, and made durable where that was promised.
    pub(super) fn overdue_at(&self) -> Option<Instant> {
        match self.durability {
            Durability::Commit => self.undurable_since(),
            Durability::Interval(interval) => Some(self.undurable_since()? + interval / 2),
            Durability::None => Some(self.unwritten_since()? + LAZY_INTERVAL),
        }
    }

    pub(super) fn is_overdue(&self) -> bool {
        self.overdue_at().is_some_and(|at| at <= self.now)
    }

    /// Whether something acknowledged is not durable although its time is over: nothing more is
    /// acknowledged until it is.
    pub(super) fn is_late(&self) -> bool {
        let Durability::Interval(interval) = self.durability else { return false };
        self.undurable_since().is_some_and(|since| since + interval <= self.now)
    }

    pub(super) fn wants_commit(&self) -> bool {
        if !self.queue.is_empty() {
            return true;
        }
        let Some(open) = &self.open else { return false };
        self.wanted >= open.position || open.bytes.len() >= COMMIT_BYTES_LAZY || self.is_overdue()
    }

    pub(super) fn wants_sync(&self) -> bool {
        let is_wanted = self.wanted > self.durable
            || (matches!(self.durability, Durability::Interval(_)) && self.is_overdue());
        let blocks_contents = self.closing.front().is_some_and(|it| it.after > self.durable);
        self.written > self.durable && (is_wanted || blocks_contents)
    }

    /// Whether what is written is made durable before more is: while much is written there is always
    /// another commit.
    pub(super) fn needs_sync_first(&self) -> bool {
        let is_overdue = matches!(self.durability, Durability::Interval(_))
            && self.written_since.is_some()
            && self.is_overdue();
        let blocks_contents = self
            .closing
            .front()
            .is_some_and(|it| it.after > self.durable && it.after <= self.written);
        self.written > self.durable && (is_overdue || blocks_contents)
    }
}
