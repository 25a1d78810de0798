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
