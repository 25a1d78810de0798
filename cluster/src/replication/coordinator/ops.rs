//! The operations under way, by number.
//!
//! Numbers are given out one after the other, and mostly given back in that order. One that is held up
//! keeps the places behind it: an empty place takes the size of a pointer.

use std::collections::VecDeque;

use super::super::op::{Common, OpId};
use super::super::read::QuorumRead;
use super::super::write::QuorumWrite;
use super::changes::ChangeKind;
use crate::model::NodeId;
use crate::mutation::Draft;
use crate::time::Instant;

/// One operation.
#[expect(clippy::large_enum_variant, reason = "each is in a box of its own")]
pub(super) enum Entry {
    /// Behind a change of the same key.
    Waiting(Common, Waiting),
    Write(QuorumWrite),
    Read(QuorumRead),
    /// Part of a round.
    Change(Common, ChangeKind),
    /// A copy that a peer has missed.
    Repair(NodeId, Instant),
    /// The number of a round that is under way.
    Round,
}

pub(super) enum Waiting {
    Read,
    Write(Draft),
    Change(ChangeKind),
}

impl Entry {
    /// Its deadline; a round has those of its changes.
    pub(super) fn until(&self) -> Option<Instant> {
        match self {
            Self::Waiting(common, _) | Self::Change(common, _) => Some(common.until),
            Self::Write(write) => Some(write.common.until),
            Self::Read(read) => Some(read.common.until),
            Self::Repair(_, until) => Some(*until),
            Self::Round => None,
        }
    }
}

/// All operations under way.
pub(super) struct Ops {
    places: VecDeque<Option<Box<Entry>>>,
    /// The number of the first place.
    base: u64,
    count: usize,
}

impl Ops {
    pub(super) const fn new() -> Self {
        Self { places: VecDeque::new(), base: 1, count: 0 }
    }

    /// A new number; its place is empty.
    pub(super) fn add(&mut self) -> OpId {
        self.places.push_back(None);
        OpId(self.base + self.places.len() as u64 - 1)
    }

    /// Fills a place, or changes what is there.
    pub(super) fn put(&mut self, id: OpId, entry: Entry) {
        let index = self.index(id).expect("an operation that has not ended has a place");
        let before = self.places[index].replace(Box::new(entry));
        self.count += usize::from(before.is_none());
    }

    /// Empties a place.
    pub(super) fn take(&mut self, id: OpId) -> Option<Entry> {
        let index = self.index(id)?;
        let entry = self.places[index].take()?;
        self.count -= 1;
        Some(*entry)
    }

    pub(super) fn get(&mut self, id: OpId) -> Option<&mut Entry> {
        let index = self.index(id)?;
        self.places[index].as_deref_mut()
    }

    /// As [`Ops::get`], to look at.
    #[cfg(debug_assertions)]
    pub(super) fn look(&self, id: OpId) -> Option<&Entry> {
        self.places[self.index(id)?].as_deref()
    }

    fn index(&self, id: OpId) -> Option<usize> {
        let index = usize::try_from(id.0.checked_sub(self.base)?).ok()?;
        (index < self.places.len()).then_some(index)
    }

    /// The numbers that are given out.
    pub(super) fn ids(&self) -> impl Iterator<Item = OpId> + use<> {
        (self.base..self.base + self.places.len() as u64).map(OpId)
    }

    /// Operations that have not ended.
    pub(super) const fn count(&self) -> usize {
        self.count
    }

    /// The first deadline: of the first operation that has one, as those behind it have begun later.
    pub(super) fn due_at(&self) -> Option<Instant> {
        self.places.iter().flatten().find_map(|entry| entry.until())
    }

    /// Forgets the operations that have ended before all others.
    pub(super) fn trim(&mut self) {
        while let Some(None) = self.places.front() {
            self.places.pop_front();
            self.base += 1;
        }
        assert!(self.count <= self.places.len());
    }
}
