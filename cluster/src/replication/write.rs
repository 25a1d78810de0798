//! One write: `needed` distinct replicas have to hold it.
//!
//! A leaf: it sends nothing; each call returns what the write has come to.
//!
//! # Invariants
//!
//! - A decision is final; answers that come later change nothing but who is known to hold it.
//! - A write that was sent to anybody, and not acknowledged, is unknown unless everybody has refused.

use super::op::{Common, Outcome, Status, Targets, Why};
use crate::model::{NodeId, Version};
use crate::mutation::{Archive, Draft};

/// What an operation has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    Pending,
    /// It has ended.
    Decided(Outcome),
    /// Too many replicas have something larger: another try, with a larger version, may succeed.
    Outbid,
}

#[derive(Debug)]
pub(super) struct QuorumWrite {
    pub(super) common: Common,
    pub(super) targets: Targets,
    pub(super) needed: usize,
    draft: Draft,
    version: Version,
    pub(super) attempt: u8,
    replaced: bool,
    /// An earlier try may have left something behind.
    is_tainted: bool,
    is_decided: bool,
}

impl QuorumWrite {
    pub(super) const fn new(
        common: Common,
        targets: Targets,
        needed: usize,
        draft: Draft,
        version: Version,
    ) -> Self {
        Self {
            common,
            targets,
            needed,
            draft,
            version,
            attempt: 0,
            replaced: false,
            is_tainted: false,
            is_decided: false,
        }
    }

    /// A replica has answered, or will not.
    pub(super) fn on_answer(&mut self, from: NodeId, status: Status, replaced: bool) -> Progress {
        self.targets.set(from, status);
        self.replaced |= replaced;
        self.evaluate()
    }

    pub(super) fn evaluate(&mut self) -> Progress {
        if self.is_decided {
            return Progress::Pending;
        }
        if self.targets.yes() >= self.needed {
            return self
                .decide(Outcome::Acknowledged { replaced: self.replaced, version: self.version });
        }
        if self.targets.hopes() >= self.needed {
            return Progress::Pending;
        }
        let outbid = self.targets.count(|it| it == Status::Outbid);
        if self.targets.hopes() + outbid >= self.needed {
            return Progress::Outbid;
        }
        let too_few = Why::TooFew { reachable: self.targets.hopes(), needed: self.needed };
        let why = self.targets.refusal().map_or(too_few, Why::Refused);
        self.decide(self.failed(why))
    }

    /// Time is up.
    pub(super) fn on_timeout(&mut self) -> Progress {
        if self.is_decided {
            return Progress::Pending;
        }
        let answered = self.targets.count(|it| !matches!(it, Status::Asked | Status::Unsent));
        let why = match self.targets.refusal() {
            Some(reason) => Why::Refused(reason),
            None => Why::TimedOut { answered, needed: self.needed },
        };
        self.decide(self.failed(why))
    }

    fn failed(&self, why: Why) -> Outcome {
        if self.is_tainted || self.targets.may_be_done() {
            Outcome::Unknown(why)
        } else {
            Outcome::NotApplied(why)
        }
    }

    fn decide(&mut self, outcome: Outcome) -> Progress {
        assert!(!self.is_decided, "a write ends once");
        self.is_decided = true;
        Progress::Decided(outcome)
    }

    /// The key has these replicas from here on: what others have answered counts no more, but may have
    /// left something behind.
    pub(super) fn move_to(&mut self, nodes: &[NodeId]) {
        let before = self.targets.clone();
        self.targets.move_to(nodes);
        let is_gone = |node: &NodeId| self.targets.status(*node).is_none();
        let has_left = |(node, status): &(NodeId, Status)| {
            is_gone(node) && matches!(status, Status::Yes | Status::Asked | Status::Lost)
        };
        self.is_tainted |= before.nodes.iter().any(has_left);
    }

    /// What the replicas are to hold: the draft with the version of this try.
    pub(super) fn proposed(&mut self) -> Archive {
        self.draft.stamp(self.version)
    }

    /// Begins again with a larger version.
    pub(super) fn retry(&mut self, version: Version) {
        assert!(version > self.version);
        self.is_tainted |= self.targets.may_be_done();
        self.version = version;
        self.attempt = self.attempt.wrapping_add(1);
        for (_, status) in &mut self.targets.nodes {
            *status = Status::Unsent;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use super::*;
    use crate::replication::op::Level;
    use crate::time::Instant;
    use crate::token::Token;
    use crate::wire::message::Reason;

    fn write(needed: usize) -> QuorumWrite {
        let common = Common {
            token: Token::MIN,
            key: Rc::from(&b"k"[..]),
            level: Level::Quorum,
            until: Instant::ZERO,
            charge: None,
        };
        let mut targets = Targets::new(&[NodeId(1), NodeId(2), NodeId(3)]);
        for node in 1..=3 {
            targets.set(NodeId(node), Status::Asked);
        }
        let draft = Draft::new(b"k", Some(b"v"), None);
        QuorumWrite::new(common, targets, needed, draft, Version::ZERO)
    }

    fn acknowledged() -> Progress {
        Progress::Decided(Outcome::Acknowledged { replaced: false, version: Version::ZERO })
    }

    #[test]
    fn counts_a_repeated_answer_once() {
        let mut write = write(2);
        assert_eq!(write.on_answer(NodeId(1), Status::Yes, false), Progress::Pending);
        assert_eq!(write.on_answer(NodeId(1), Status::Yes, false), Progress::Pending);
        assert_eq!(write.on_answer(NodeId(3), Status::Yes, false), acknowledged());
        assert_eq!(write.on_answer(NodeId(2), Status::Yes, false), Progress::Pending);
    }

    #[test]
    fn a_stranger_does_not_count() {
        let mut write = write(1);
        assert_eq!(write.on_answer(NodeId(9), Status::Yes, false), Progress::Pending);
    }

    #[test]
    fn fails_as_soon_as_its_quorum_is_out_of_reach_and_says_whether_it_may_be_done() {
        let full = Status::No(Reason::DiskFull);
        let why = Why::Refused(Reason::DiskFull);
        let mut refused = write(3);
        refused.targets.set(NodeId(2), full);
        refused.targets.set(NodeId(3), full);
        let progress = refused.on_answer(NodeId(1), full, false);
        assert_eq!(progress, Progress::Decided(Outcome::NotApplied(why)));

        let mut half = write(2);
        assert_eq!(half.on_answer(NodeId(1), full, false), Progress::Pending);
        let progress = half.on_answer(NodeId(2), full, false);
        assert_eq!(progress, Progress::Decided(Outcome::Unknown(why)), "the third was asked");
    }

    #[test]
    fn a_larger_promise_leads_to_another_try() {
        let mut write = write(2);
        assert_eq!(write.on_answer(NodeId(1), Status::Outbid, false), Progress::Pending);
        assert_eq!(write.on_answer(NodeId(2), Status::Outbid, false), Progress::Outbid);
    }

    #[test]
    fn says_whether_any_replica_has_replaced_a_value() {
        for first in [true, false] {
            let mut write = write(2);
            write.on_answer(NodeId(1), Status::Yes, first);
            let replaced = Outcome::Acknowledged { replaced: true, version: Version::ZERO };
            let progress = write.on_answer(NodeId(2), Status::Yes, !first);
            assert_eq!(progress, Progress::Decided(replaced));
        }
    }

    #[test]
    fn one_that_may_come_again_and_one_that_is_outbid_are_enough_for_another_try() {
        let mut write = write(2);
        assert_eq!(write.on_answer(NodeId(1), Status::Lost, false), Progress::Pending);
        assert_eq!(write.on_answer(NodeId(2), Status::Outbid, false), Progress::Outbid);
    }

    #[test]
    fn when_its_time_is_up_it_says_how_many_have_answered_and_whether_it_may_be_done() {
        let mut silent = write(3);
        silent.on_answer(NodeId(1), Status::Yes, false);
        silent.targets.set(NodeId(2), Status::Unsent);
        let unknown = Outcome::Unknown(Why::TimedOut { answered: 1, needed: 3 });
        assert_eq!(silent.on_timeout(), Progress::Decided(unknown));
        assert_eq!(silent.on_timeout(), Progress::Pending, "it ends once");
        assert_eq!(silent.on_answer(NodeId(3), Status::Yes, false), Progress::Pending);

        let mut refused = write(2);
        for node in 1..=3 {
            refused.targets.set(NodeId(node), Status::Again(Reason::Frozen));
        }
        let nothing = Outcome::NotApplied(Why::Refused(Reason::Frozen));
        assert_eq!(refused.on_timeout(), Progress::Decided(nothing));
    }

    #[test]
    fn a_try_that_may_have_left_a_copy_makes_all_later_ones_unknown() {
        let full = Status::No(Reason::DiskFull);
        for (third, is_unknown) in [(Status::Yes, true), (Status::Lost, true), (full, false)] {
            let mut write = write(2);
            write.on_answer(NodeId(3), third, false);
            write.on_answer(NodeId(1), Status::Outbid, false);
            assert_eq!(write.on_answer(NodeId(2), Status::Outbid, false), Progress::Outbid);
            // Another that leaves nothing changes nothing about that.
            for number in 1..=2 {
                write
                    .retry(Version { timestamp: crate::model::Timestamp(number), node: NodeId(1) });
                assert_eq!(write.attempt, u8::try_from(number).unwrap());
                assert!(write.targets.nodes.iter().all(|it| it.1 == Status::Unsent));
            }
            let why = Why::Refused(Reason::DiskFull);
            let ended = if is_unknown { Outcome::Unknown(why) } else { Outcome::NotApplied(why) };
            let progress = write.on_answer(NodeId(1), full, false);
            assert_eq!(progress, Progress::Decided(ended), "{third:?}");
        }
    }

    #[test]
    fn a_former_replica_that_may_have_a_copy_makes_a_write_unknown() {
        let full = Status::No(Reason::DiskFull);
        let why = Why::Refused(Reason::DiskFull);
        for (left, is_unknown) in [(Status::Asked, true), (Status::Lost, true), (full, false)] {
            let mut write = write(2);
            write.targets.set(NodeId(3), left);
            write.move_to(&[NodeId(1), NodeId(2), NodeId(4)]);
            assert_eq!(write.targets.status(NodeId(3)), None);
            write.move_to(&[NodeId(1), NodeId(2), NodeId(5)]);
            write.targets.set(NodeId(1), full);
            let ended = if is_unknown { Outcome::Unknown(why) } else { Outcome::NotApplied(why) };
            let progress = write.on_answer(NodeId(2), full, false);
            assert_eq!(progress, Progress::Decided(ended), "{left:?}");
        }
    }
}
