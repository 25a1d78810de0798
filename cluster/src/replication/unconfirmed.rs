//! Copies of decided writes that replicas have not confirmed yet: a few bytes each, so that a write is
//! settled when it is decided, and a slow replica holds up nothing.
//!
//! A copy that is not confirmed by its deadline, or by the loss of its peer, counts as missed, and its peer
//! is fed from there on. So it does when it is the oldest of too many: that a peer has missed something may
//! be believed at any time, for what it has it takes again as nothing new.

use std::collections::BTreeMap;

use crate::model::NodeId;
use crate::time::Instant;
use crate::wire::message::RequestId;

/// Copies that one peer has not confirmed, at most.
pub(super) const COUNT_MAX: usize = 8 << 10;

#[derive(Clone, Copy, Debug)]
struct Copy {
    /// Place of the write in the sync log.
    sequence: u64,
    until: Instant,
}

/// What each peer has not confirmed, by the request that it will answer.
#[derive(Debug, Default)]
pub(super) struct Unconfirmed {
    peers: BTreeMap<NodeId, BTreeMap<RequestId, Copy>>,
}

impl Unconfirmed {
    /// A peer was asked, and has not answered. Returns what counts as missed for it: there are too many.
    #[must_use]
    pub(super) fn expect(
        &mut self,
        peer: NodeId,
        request: RequestId,
        (sequence, until): (u64, Instant),
    ) -> Option<u64> {
        let copies = self.peers.entry(peer).or_default();
        let before = copies.insert(request, Copy { sequence, until });
        assert!(before.is_none(), "a write is settled once");
        if copies.len() <= COUNT_MAX {
            return None;
        }
        copies.pop_first().map(|(_, oldest)| oldest.sequence)
    }

    /// A peer answers. Which write that was about, if one waits for it.
    pub(super) fn take(&mut self, peer: NodeId, request: RequestId) -> Option<u64> {
        Some(self.peers.get_mut(&peer)?.remove(&request)?.sequence)
    }

    /// A peer will not answer. The first write that it may not have.
    pub(super) fn on_lost(&mut self, peer: NodeId) -> Option<u64> {
        let copies = self.peers.remove(&peer)?;
        copies.values().map(|copy| copy.sequence).min()
    }

    /// What is not confirmed in time, one after the other. Requests are numbered as they begin, so the
    /// deadlines of the first are the earliest, or nearly.
    pub(super) fn pop_late(&mut self, now: Instant) -> Option<(NodeId, u64)> {
        self.peers.iter_mut().find_map(|(peer, copies)| {
            let first = copies.first_entry().filter(|first| first.get().until <= now)?;
            Some((*peer, first.remove().sequence))
        })
    }

    /// When the first is late.
    pub(super) fn due_at(&self) -> Option<Instant> {
        let firsts = self.peers.values().filter_map(|copies| copies.first_key_value());
        firsts.map(|(_, copy)| copy.until).min()
    }

    /// How many copies are not confirmed.
    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        self.peers.values().map(BTreeMap::len).sum()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const PEER: NodeId = NodeId(2);

    fn at(ms: u64) -> Instant {
        Instant::ZERO + Duration::from_millis(ms)
    }

    #[test]
    fn what_is_not_confirmed_in_time_or_before_the_peer_is_lost_was_missed() {
        let mut unconfirmed = Unconfirmed::default();
        for request in 1..=3 {
            assert_eq!(unconfirmed.expect(PEER, request, (10 + request, at(request))), None);
        }
        assert_eq!(unconfirmed.due_at(), Some(at(1)));
        assert_eq!(unconfirmed.take(PEER, 1), Some(11));
        assert_eq!(unconfirmed.take(PEER, 1), None, "once");
        assert_eq!(unconfirmed.pop_late(at(1)), None);
        assert_eq!(unconfirmed.pop_late(at(2)), Some((PEER, 12)));
        assert_eq!(unconfirmed.on_lost(NodeId(3)), None);
        assert_eq!(unconfirmed.on_lost(PEER), Some(13));
        assert_eq!(unconfirmed.take(PEER, 3), None, "it was given up");
        assert_eq!(unconfirmed.due_at(), None);
    }

    #[test]
    fn of_too_many_the_oldest_were_missed() {
        let mut unconfirmed = Unconfirmed::default();
        for request in 0..COUNT_MAX as u64 {
            assert_eq!(unconfirmed.expect(PEER, request, (request, at(1))), None);
        }
        assert_eq!(unconfirmed.expect(PEER, 1 << 40, (1 << 40, at(1))), Some(0));
        assert_eq!(unconfirmed.count(), COUNT_MAX);
    }

    #[test]
    fn the_first_deadline_of_all_peers_counts_and_the_first_write_of_one_that_is_lost() {
        let mut unconfirmed = Unconfirmed::default();
        for (peer, request, sequence, ms) in [(3, 1, 31, 5), (2, 2, 30, 7), (3, 3, 29, 9)] {
            assert_eq!(unconfirmed.expect(NodeId(peer), request, (sequence, at(ms))), None);
        }
        assert_eq!(unconfirmed.count(), 3);
        assert_eq!(unconfirmed.due_at(), Some(at(5)));
        assert_eq!(unconfirmed.pop_late(at(4)), None);
        assert_eq!(unconfirmed.on_lost(NodeId(3)), Some(29), "whichever request that was");
        assert_eq!(unconfirmed.due_at(), Some(at(7)));
        assert_eq!(unconfirmed.pop_late(at(8)), Some((NodeId(2), 30)));
        assert_eq!(unconfirmed.pop_late(at(99)), None);
        assert_eq!(unconfirmed.count(), 0);
    }
}
