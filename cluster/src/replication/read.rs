//! One read: the newest of what `needed` distinct replicas have, or what a majority agrees on.
//!
//! A leaf: it sends nothing; each call returns what the read has come to.
//!
//! # Why agreement is enough for a linearizable read
//!
//! A version that a majority has accepted is one that no smaller ballot can undo, and every larger
//! one's proposer has seen it, or something larger, in its own majority. A version that was
//! acknowledged before the read began is with a majority, one of whom this read has asked; so it is
//! not older than what they agree on.

use smallvec::SmallVec;

use super::Archive;
use super::op::{Common, Rank, Status, Targets, Told, Why, newest};
use crate::model::NodeId;

/// What a read has come to.
#[derive(Clone, Debug)]
pub(super) enum Progress {
    Pending,
    /// This is what the key has.
    Decided(Option<Archive>),
    /// The replicas do not agree: an agreed change that changes nothing has to bring them to it.
    Disagreed,
    Failed(Why),
}

#[derive(Debug)]
pub(super) struct QuorumRead {
    pub(super) common: Common,
    pub(super) targets: Targets,
    pub(super) needed: usize,
    must_agree: bool,
    told: SmallVec<[Told; 5]>,
    pub(super) is_decided: bool,
}

impl QuorumRead {
    pub(super) fn new(common: Common, targets: Targets, needed: usize, must_agree: bool) -> Self {
        let told = SmallVec::new();
        Self { common, targets, needed, must_agree, told, is_decided: false }
    }

    /// Whether a record of this rank has to be kept to answer.
    pub(super) fn wants(&self, rank: Rank) -> bool {
        newest(&self.told).is_none_or(|newest| newest.rank < rank)
    }

    /// A replica has told what it has.
    pub(super) fn on_told(&mut self, told: Told) -> Progress {
        let asked = matches!(self.targets.status(told.from), Some(Status::Asked));
        if !asked {
            return Progress::Pending;
        }
        self.targets.set(told.from, Status::Yes);
        self.told.push(told);
        self.evaluate()
    }

    /// The key has these replicas from here on. What a former one has told counts no more; as it may be the
    /// one copy that was kept whole, all are asked again then.
    pub(super) fn move_to(&mut self, nodes: &[NodeId]) {
        self.targets.move_to(nodes);
        if self.told.iter().any(|told| !nodes.contains(&told.from)) {
            self.told.clear();
            self.targets = Targets::new(nodes);
        }
    }

    /// A replica will not tell.
    pub(super) fn on_failure(&mut self, from: NodeId, status: Status) -> Progress {
        self.targets.set(from, status);
        self.evaluate()
    }

    pub(super) fn evaluate(&mut self) -> Progress {
        if self.is_decided {
            return Progress::Pending;
        }
        if self.told.len() < self.needed {
            if self.targets.hopes() >= self.needed {
                return Progress::Pending;
            }
            self.is_decided = true;
            let reachable = self.targets.hopes();
            let too_few = Why::TooFew { reachable, needed: self.needed };
            return Progress::Failed(self.targets.refusal().map_or(too_few, Why::Refused));
        }
        if self.must_agree && !self.do_agree() {
            self.is_decided = true;
            return Progress::Disagreed;
        }
        self.is_decided = true;
        let newest = newest(&self.told).expect("at least one is needed");
        Progress::Decided(newest.record.clone())
    }

    fn do_agree(&self) -> bool {
        self.told.iter().all(|it| it.is_sure && it.rank.version == self.told[0].rank.version)
    }

    /// Time is up.
    pub(super) fn on_timeout(&mut self) -> Progress {
        if self.is_decided {
            return Progress::Pending;
        }
        self.is_decided = true;
        let timed_out = Why::TimedOut { answered: self.told.len(), needed: self.needed };
        Progress::Failed(self.targets.refusal().map_or(timed_out, Why::Refused))
    }

    /// What is kept from here on is bounded by another count.
    pub(super) fn release_charges(&mut self) {
        self.common.charge = None;
        self.told.iter_mut().for_each(|told| told.charge = None);
    }

    /// Bytes of the records that were kept.
    pub(super) fn record_bytes(&self) -> usize {
        let records = self.told.iter().filter_map(|told| told.record.as_ref());
        records.map(|record| record.len()).sum()
    }

    /// The newest record there is, and who has told an older one; each is named once.
    pub(super) fn take_stale(&mut self) -> Option<(Archive, SmallVec<[NodeId; 5]>)> {
        let newest = newest(&self.told)?.clone();
        let record = newest.record?;
        let mut stale = SmallVec::new();
        for told in &mut self.told {
            if told.rank.version < newest.rank.version {
                told.rank = newest.rank;
                stale.push(told.from);
            }
        }
        if stale.is_empty() { None } else { Some((record, stale)) }
    }
}
