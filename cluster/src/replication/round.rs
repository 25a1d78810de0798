//! One agreed change of a key: a promise from a majority, a value made of what they have, its
//! acceptance by a majority. Changes of one key that wait at one coordinator share a round: each is
//! made of what the one before has made, and only the last result travels.
//!
//! A leaf: it sends nothing; each call returns what the round has come to.
//!
//! # Other replicas
//!
//! A majority is one of the replicas that the key has. When these change, a try ends where it stands, and
//! the next one begins by asking the new ones for a promise: of the promises to go on with, and of the
//! acceptances to count, some would be those of nodes that nobody asks any more.
//!
//! # What may be tried again
//!
//! A try whose ballot nobody has accepted has left nothing behind. One that some may have accepted
//! is *uncertain*: another proposer may have found it, and built on it. The next try tells:
//!
//! - its majority has the uncertain ballot itself, or still has what the uncertain try was made of: the
//!   *same bytes* are proposed again. If the new try is accepted by a majority, the uncertain one is
//!   smaller and with none, so nobody finds it any more;
//! - anything else: whether it was built on the uncertain try cannot be told, and the outcome is
//!   unknown.
//!
//! Never is a try made again that is uncertain, with fewer changes perhaps, since one of them has had no
//! more time: what each change has told its client holds for the bytes that it was part of, and a later
//! try may find any of those before it.

use smallvec::SmallVec;

use super::Archive;
use super::op::{Common, Rank, Status, Targets, Told, Why, newest};
use crate::model::{NodeId, Version};

use super::OpId;
use crate::probe;

/// Where a round stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Between two tries.
    Pausing,
    Preparing,
    /// The promises are there, and the driver makes the new value.
    Computing,
    Accepting,
    Ended,
}

/// What a round has come to.
#[derive(Clone, Debug)]
pub(super) enum Progress {
    Pending,
    /// The changes can be made of this.
    Compute(Option<Archive>, Version),
    /// What an earlier try has proposed is to be proposed again, as it is.
    Adopt(Archive),
    /// Accepted.
    Done,
    /// Another proposer was there; try again.
    Outbid,
    Failed(Why),
}

#[derive(Debug)]
pub(super) struct Round {
    pub(super) common: Common,
    /// The changes, with what is known of each.
    pub(super) ops: SmallVec<[OpId; 2]>,
    pub(super) targets: Targets,
    pub(super) needed: usize,
    pub(super) phase: Phase,
    pub(super) ballot: Version,
    pub(super) attempt: u8,
    pub(super) tries: u32,
    /// The key has got other replicas while the driver makes the new value.
    pub(super) is_moved: bool,
    told: SmallVec<[Told; 5]>,
    /// What is proposed, in the second phase.
    pub(super) proposed: Option<Archive>,
    /// Ballots that somebody may have accepted, what all of them have proposed, and what that was made of.
    uncertain: SmallVec<[Version; 2]>,
    kept: Option<Archive>,
    base: Version,
}

impl Round {
    pub(super) fn new(common: Common, needed: usize) -> Self {
        Self {
            common,
            ops: SmallVec::new(),
            targets: Targets::new(&[]),
            needed,
            phase: Phase::Pausing,
            ballot: Version::ZERO,
            attempt: 0,
            tries: 0,
            is_moved: false,
            told: SmallVec::new(),
            proposed: None,
            uncertain: SmallVec::new(),
            kept: None,
            base: Version::ZERO,
        }
    }

    /// Begins a try.
    pub(super) fn prepare(&mut self, targets: Targets, ballot: Version) {
        assert!(ballot > self.ballot);
        self.targets = targets;
        self.ballot = ballot;
        self.attempt = self.attempt.wrapping_add(1);
        self.tries += 1;
        self.told.clear();
        self.proposed = None;
        self.is_moved = false;
        self.phase = Phase::Preparing;
    }

    /// Begins the second phase of a try.
    pub(super) fn accept(&mut self, targets: Targets, proposed: Archive) {
        assert_eq!(self.phase, Phase::Computing);
        self.targets = targets;
        self.attempt = self.attempt.wrapping_add(1);
        self.proposed = Some(proposed);
        self.phase = Phase::Accepting;
    }

    /// Whether a record of this rank has to be kept.
    pub(super) fn wants(&self, rank: Rank) -> bool {
        newest(&self.told).is_none_or(|newest| newest.rank < rank)
    }

    /// A replica has promised.
    pub(super) fn on_promise(&mut self, told: Told) -> Progress {
        let is_asked = matches!(self.targets.status(told.from), Some(Status::Asked));
        if self.phase != Phase::Preparing || !is_asked {
            return Progress::Pending;
        }
        self.targets.set(told.from, Status::Yes);
        self.told.push(told);
        if self.told.len() < self.needed {
            return self.evaluate();
        }
        let newest = newest(&self.told).expect("at least one is needed").clone();
        if self.uncertain.is_empty() {
            self.base = newest.rank.version;
        } else {
            let version = newest.rank.version;
            if version != self.base && !self.uncertain.contains(&version) {
                return Progress::Failed(Why::Contended);
            }
            self.phase = Phase::Computing;
            probe!(true, "adopt");
            return Progress::Adopt(self.kept.clone().expect("an uncertain try has proposed it"));
        }
        self.phase = Phase::Computing;
        Progress::Compute(newest.record, newest.rank.version)
    }

    /// Whether all who have promised have the same and are sure of it, so that nothing has to be
    /// proposed to know it.
    pub(super) fn is_agreed(&self) -> bool {
        self.told.iter().all(|it| it.is_sure && it.rank.version == self.told[0].rank.version)
    }

    /// A replica has accepted.
    pub(super) fn on_accepted(&mut self, from: NodeId) -> Progress {
        if self.phase != Phase::Accepting {
            return Progress::Pending;
        }
        self.targets.set(from, Status::Yes);
        self.evaluate()
    }

    /// A replica will not do it.
    pub(super) fn on_failure(&mut self, from: NodeId, status: Status) -> Progress {
        self.targets.set(from, status);
        self.evaluate()
    }

    fn evaluate(&mut self) -> Progress {
        if !matches!(self.phase, Phase::Preparing | Phase::Accepting) {
            return Progress::Pending;
        }
        if self.phase == Phase::Accepting && self.targets.yes() >= self.needed {
            self.phase = Phase::Ended;
            return Progress::Done;
        }
        if self.targets.hopes() >= self.needed {
            return Progress::Pending;
        }
        // Whether the last one has accepted it decides what may be tried again: worth waiting for.
        let is_waiting = self.targets.count(|it| it == Status::Asked) > 0;
        if self.phase == Phase::Accepting && is_waiting {
            return Progress::Pending;
        }
        let outbid = self.targets.count(|it| it == Status::Outbid);
        self.note_uncertain();
        self.phase = Phase::Pausing;
        if self.targets.hopes() + outbid >= self.needed {
            return Progress::Outbid;
        }
        let too_few = Why::TooFew { reachable: self.targets.hopes(), needed: self.needed };
        Progress::Failed(self.targets.refusal().map_or(too_few, Why::Refused))
    }

    /// The key has other replicas from here on: what was promised or accepted counts no more, and the
    /// next try begins anew.
    pub(super) fn start_over(&mut self) {
        assert!(!matches!(self.phase, Phase::Ended));
        self.note_uncertain();
        self.phase = Phase::Pausing;
    }

    /// The try ends here: it may have left something behind.
    pub(super) fn note_uncertain(&mut self) {
        if self.phase == Phase::Accepting && self.targets.may_be_done() {
            self.uncertain.push(self.ballot);
            probe!(self.uncertain.len() == 2, "two uncertain tries");
            self.kept.clone_from(&self.proposed);
        }
    }

    /// Whether what was proposed may have been accepted, or may still be.
    pub(super) fn may_be_done(&self) -> bool {
        !self.uncertain.is_empty() || (self.phase == Phase::Accepting && self.targets.may_be_done())
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use super::*;
    use crate::model::Timestamp;
    use crate::mutation::{self, Mutation};
    use crate::replication::op::Level;
    use crate::time::Instant;
    use crate::token::Token;
    use crate::wire::message::Reason;

    const FULL: Status = Status::No(Reason::DiskFull);

    fn version(number: u64) -> Version {
        Version { timestamp: Timestamp(number), node: NodeId(1) }
    }

    fn archive(value: &[u8], number: u64) -> Archive {
        let version = version(number);
        let record = Mutation { key: b"k", value: Some(value), version, expires_at: None };
        Rc::new(mutation::encode(&record))
    }

    /// What a replica tells with its promise: a value, at a version of so large a number.
    fn told(from: u16, number: u64) -> Told {
        let rank = Rank { version: version(number), has_value: true };
        let record = Some(archive(&[u8::try_from(number).unwrap()], number));
        Told { from: NodeId(from), rank, is_sure: true, record, charge: None }
    }

    fn asked() -> Targets {
        let mut targets = Targets::new(&[NodeId(1), NodeId(2), NodeId(3)]);
        for node in 1..=3 {
            targets.set(NodeId(node), Status::Asked);
        }
        targets
    }

    /// A round that has asked three replicas for a promise.
    fn preparing() -> Round {
        let common = Common {
            token: Token::MIN,
            key: Rc::from(&b"k"[..]),
            level: Level::Linearizable,
            until: Instant::ZERO,
            charge: None,
        };
        let mut round = Round::new(common, 2);
        round.prepare(asked(), version(100));
        round
    }

    /// One that has proposed "new", made of what it was told at version 5.
    fn accepting() -> Round {
        let mut round = preparing();
        round.on_promise(told(1, 5));
        assert_eq!(says(&round.on_promise(told(2, 5))), "compute 5 of 5");
        round.accept(asked(), archive(b"new", 100));
        round
    }

    /// What a round has come to, in words.
    fn says(progress: &Progress) -> String {
        let value = |record: &Archive| mutation::access(record).unwrap().value.unwrap().to_vec();
        match progress {
            Progress::Pending => "pending".into(),
            Progress::Compute(record, version) => {
                let of = record.as_ref().map_or(0, |record| value(record)[0]);
                format!("compute {of} of {}", version.timestamp.0)
            }
            Progress::Adopt(record) => {
                format!("adopt {}", String::from_utf8(value(record)).unwrap())
            }
            Progress::Done => "done".into(),
            Progress::Outbid => "outbid".into(),
            Progress::Failed(why) => format!("failed: {why}"),
        }
    }

    #[test]
    fn is_made_of_the_newest_that_a_majority_of_distinct_replicas_tells() {
        let mut round = preparing();
        assert_eq!(says(&round.on_promise(told(1, 7))), "pending");
        assert_eq!(says(&round.on_promise(told(1, 7))), "pending", "once");
        assert_eq!(says(&round.on_promise(told(9, 8))), "pending", "a stranger");
        assert_eq!(says(&round.on_accepted(NodeId(2))), "pending", "nothing is proposed");
        assert!(!round.wants(told(2, 7).rank), "it is known");
        assert!(round.wants(told(2, 8).rank));
        assert_eq!(says(&round.on_promise(told(3, 5))), "compute 7 of 7");
        assert_eq!(says(&round.on_promise(told(2, 9))), "pending", "it is being made");
        assert_eq!(says(&round.on_failure(NodeId(2), FULL)), "pending");
    }

    #[test]
    fn is_agreed_when_all_are_sure_of_one_version() {
        let is_agreed = |second: Told| {
            let mut round = preparing();
            round.on_promise(told(1, 5));
            round.on_promise(second);
            round.is_agreed()
        };
        assert!(is_agreed(told(2, 5)));
        assert!(!is_agreed(told(2, 6)));
        assert!(!is_agreed(told(2, 4)));
        assert!(!is_agreed(Told { is_sure: false, ..told(2, 5) }));
    }

    #[test]
    fn is_done_when_a_majority_of_distinct_replicas_has_accepted() {
        let mut round = accepting();
        assert_eq!(says(&round.on_accepted(NodeId(1))), "pending");
        assert_eq!(says(&round.on_accepted(NodeId(1))), "pending", "once");
        assert_eq!(says(&round.on_accepted(NodeId(9))), "pending", "a stranger");
        assert_eq!(says(&round.on_promise(told(2, 5))), "pending", "an answer of before");
        assert_eq!(says(&round.on_accepted(NodeId(3))), "done");
        assert_eq!(says(&round.on_accepted(NodeId(2))), "pending", "it has ended");
    }

    #[test]
    fn is_tried_again_where_a_larger_ballot_was_in_the_way_and_fails_elsewhere() {
        let mut outbid = preparing();
        assert_eq!(says(&outbid.on_failure(NodeId(1), Status::Outbid)), "pending");
        assert_eq!(says(&outbid.on_failure(NodeId(2), Status::Outbid)), "outbid");
        assert_eq!(says(&outbid.on_failure(NodeId(3), FULL)), "pending", "until it is");

        let mut refused = preparing();
        assert_eq!(says(&refused.on_failure(NodeId(1), Status::Lost)), "pending");
        let full = "failed: the disk of the replicas is full";
        assert_eq!(says(&refused.on_failure(NodeId(2), FULL)), full);

        let mut lost = preparing();
        lost.on_failure(NodeId(1), Status::Lost);
        let too_few = "failed: 1 replicas can be reached and 2 are needed";
        assert_eq!(says(&lost.on_failure(NodeId(2), Status::Lost)), too_few);

        // One that may come again, and one that is outbid, are a majority; one of each kind is none.
        let mut mixed = preparing();
        mixed.on_failure(NodeId(1), FULL);
        assert_eq!(says(&mixed.on_failure(NodeId(2), Status::Outbid)), "outbid");
        let mut gone = preparing();
        gone.on_failure(NodeId(1), Status::Outbid);
        gone.on_failure(NodeId(2), Status::Lost);
        assert_eq!(says(&gone.on_failure(NodeId(3), FULL)), "pending", "it was decided before");
    }

    #[test]
    fn who_may_yet_accept_is_waited_for_before_a_try_is_given_up() {
        let mut round = accepting();
        assert_eq!(says(&round.on_failure(NodeId(1), Status::Outbid)), "pending");
        assert_eq!(says(&round.on_failure(NodeId(2), Status::Outbid)), "pending", "the third");
        assert_eq!(says(&round.on_failure(NodeId(3), Status::Outbid)), "outbid");
        assert!(!round.may_be_done(), "nobody has accepted it");
        // So the next is made of whatever there is.
        round.prepare(asked(), version(200));
        round.on_promise(told(1, 9));
        assert_eq!(says(&round.on_promise(told(2, 9))), "compute 9 of 9");
    }

    #[test]
    fn what_one_may_have_accepted_is_proposed_again_while_nothing_came_between() {
        for status in [Status::Yes, Status::Lost] {
            // What the next majority tells, and what follows.
            let contended = "failed: another change of the key came between";
            for (found, then) in [(5, "adopt new"), (100, "adopt new"), (101, contended)] {
                let mut round = accepting();
                assert!(round.may_be_done(), "all were asked");
                round.on_failure(NodeId(1), Status::Outbid);
                round.on_failure(NodeId(2), Status::Outbid);
                assert_eq!(says(&round.on_failure(NodeId(3), status)), "outbid");
                assert!(round.may_be_done(), "the third {status:?}");
                round.prepare(asked(), version(200));
                assert!(round.may_be_done(), "a try before has left something");
                round.on_promise(told(1, 5));
                assert_eq!(says(&round.on_promise(told(2, found))), then, "{status:?}");
            }
        }
    }

    #[test]
    fn a_round_that_starts_over_has_left_something_where_it_had_proposed_something() {
        let mut early = preparing();
        early.start_over();
        assert!(!early.may_be_done());
        assert_eq!(says(&early.on_promise(told(1, 5))), "pending");
        assert_eq!(early.phase, Phase::Pausing);

        let mut late = accepting();
        late.start_over();
        assert!(late.may_be_done());
        late.prepare(asked(), version(200));
        late.on_promise(told(1, 5));
        assert_eq!(says(&late.on_promise(told(2, 5))), "adopt new");
    }

    #[test]
    fn each_phase_of_each_try_has_a_number_of_its_own() {
        let mut round = preparing();
        let mut numbers = vec![round.attempt];
        round.on_promise(told(1, 5));
        round.on_promise(told(2, 5));
        round.accept(asked(), archive(b"new", 100));
        numbers.push(round.attempt);
        round.start_over();
        round.prepare(asked(), version(200));
        numbers.push(round.attempt);
        assert_eq!((numbers, round.tries), (vec![1, 2, 3], 2));
        assert!(round.proposed.is_none(), "a new try has proposed nothing");
    }
}
