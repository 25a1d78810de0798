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

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use super::*;
    use crate::model::{Timestamp, Version};
    use crate::mutation::{self, Mutation};
    use crate::replication::op::Level;
    use crate::time::Instant;
    use crate::token::Token;
    use crate::wire::message::Reason;

    /// A read of three replicas, all of whom were asked.
    fn read(needed: usize, must_agree: bool) -> QuorumRead {
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
        QuorumRead::new(common, targets, needed, must_agree)
    }

    /// What a replica tells: a version, with its value or without.
    fn told(from: u16, number: u64, value: Option<&[u8]>) -> Told {
        let version = Version { timestamp: Timestamp(number), node: NodeId(1) };
        let record = Mutation { key: b"k", value, version, expires_at: None };
        let record = (number > 0).then(|| Rc::new(mutation::encode(&record)));
        let rank = Rank { version, has_value: value.is_some() };
        Told { from: NodeId(from), rank, is_sure: true, record, charge: None }
    }

    /// What the read has come to, in a word, with the value that it has found.
    fn outcome(progress: &Progress) -> (&'static str, Option<Vec<u8>>) {
        match progress {
            Progress::Pending => ("pending", None),
            Progress::Disagreed => ("disagreed", None),
            Progress::Failed(_) => ("failed", None),
            Progress::Decided(record) => {
                let record = record.as_ref().map(|it| mutation::access(it).unwrap());
                ("decided", record.and_then(|it| it.value.map(<[u8]>::to_vec)))
            }
        }
    }

    const PENDING: (&str, Option<Vec<u8>>) = ("pending", None);

    fn found(value: &[u8]) -> (&'static str, Option<Vec<u8>>) {
        ("decided", Some(value.to_vec()))
    }

    #[test]
    fn the_newest_of_as_many_distinct_replicas_as_are_needed_is_found() {
        let mut read = read(2, false);
        assert_eq!(outcome(&read.on_told(told(1, 5, Some(b"old")))), PENDING);
        assert_eq!(outcome(&read.on_told(told(1, 5, Some(b"old")))), PENDING, "once");
        assert_eq!(outcome(&read.on_told(told(9, 8, Some(b"foreign")))), PENDING, "a stranger");
        assert_eq!(outcome(&read.on_told(told(3, 7, Some(b"new")))), found(b"new"));
        assert_eq!(outcome(&read.on_told(told(2, 9, Some(b"late")))), PENDING, "it is decided");
        assert_eq!(outcome(&read.on_timeout()), PENDING);
    }

    #[test]
    fn of_one_version_the_copy_with_a_value_is_found_and_only_a_newer_one_is_kept() {
        let mut read = read(2, false);
        read.on_told(told(1, 5, None));
        assert!(read.wants(told(2, 5, Some(b"v")).rank));
        assert!(!read.wants(told(2, 5, None).rank), "it is known");
        assert!(!read.wants(told(2, 4, Some(b"u")).rank));
        assert!(read.wants(told(2, 6, None).rank));
        assert_eq!(outcome(&read.on_told(told(2, 5, Some(b"v")))), found(b"v"));
    }

    #[test]
    fn replicas_agree_when_all_are_sure_of_one_version() {
        let agree = |second: Told| {
            let mut read = read(2, true);
            assert_eq!(outcome(&read.on_told(told(1, 5, Some(b"v")))), PENDING);
            let first = outcome(&read.on_told(second));
            assert_eq!(outcome(&read.on_told(told(3, 5, Some(b"v")))), PENDING, "it ends once");
            first
        };
        assert_eq!(agree(told(2, 5, Some(b"v"))), found(b"v"));
        assert_eq!(agree(told(2, 6, Some(b"w"))).0, "disagreed");
        assert_eq!(agree(told(2, 4, Some(b"u"))).0, "disagreed");
        assert_eq!(agree(Told { is_sure: false, ..told(2, 5, Some(b"v")) }).0, "disagreed");
    }

    #[test]
    fn fails_as_soon_as_too_few_can_tell_and_says_why() {
        let mut refused = read(2, false);
        let full = Status::No(Reason::Failed);
        assert_eq!(outcome(&refused.on_failure(NodeId(1), full)), PENDING);
        let progress = refused.on_failure(NodeId(2), Status::Lost);
        assert!(matches!(progress, Progress::Failed(Why::Refused(Reason::Failed))), "{progress:?}");
        assert_eq!(outcome(&refused.on_failure(NodeId(3), full)), PENDING, "it ends once");

        let mut lost = read(2, false);
        lost.on_failure(NodeId(1), Status::Lost);
        let progress = lost.on_failure(NodeId(2), Status::Lost);
        let too_few = Why::TooFew { reachable: 1, needed: 2 };
        assert!(matches!(progress, Progress::Failed(why) if why == too_few), "{progress:?}");
    }

    #[test]
    fn when_its_time_is_up_it_says_how_many_have_told() {
        let mut silent = read(2, false);
        silent.on_told(told(1, 5, None));
        let timed_out = Why::TimedOut { answered: 1, needed: 2 };
        let progress = silent.on_timeout();
        assert!(matches!(progress, Progress::Failed(why) if why == timed_out), "{progress:?}");
        assert_eq!(outcome(&silent.on_told(told(2, 5, None))), PENDING, "it is too late");

        let mut refused = read(2, false);
        refused.on_failure(NodeId(3), Status::Again(Reason::Epoch));
        let progress = refused.on_timeout();
        assert!(matches!(progress, Progress::Failed(Why::Refused(Reason::Epoch))), "{progress:?}");
    }

    #[test]
    fn who_has_told_an_older_version_is_named_once_with_the_newest_copy() {
        let mut read = read(2, false);
        assert!(read.take_stale().is_none(), "nobody has told anything");
        read.on_told(told(1, 5, Some(b"old")));
        read.on_told(told(2, 7, Some(b"new")));
        read.on_told(told(3, 0, None));
        let (record, stale) = read.take_stale().unwrap();
        assert_eq!(mutation::access(&record).unwrap().value, Some(&b"new"[..]));
        assert_eq!(stale[..], [NodeId(1), NodeId(3)]);
        assert!(read.take_stale().is_none(), "they were mended");
    }

    #[test]
    fn what_a_former_replica_has_told_counts_no_more() {
        let mut read = read(2, false);
        read.on_told(told(1, 5, Some(b"v")));
        read.move_to(&[NodeId(1), NodeId(2), NodeId(4)]);
        assert_eq!(read.targets.status(NodeId(1)), Some(Status::Yes), "it is still one");
        read.move_to(&[NodeId(2), NodeId(3), NodeId(4)]);
        assert_eq!((read.record_bytes(), read.targets.yes()), (0, 0));
        assert_eq!(read.targets.status(NodeId(2)), Some(Status::Unsent), "all are asked again");
    }
}
