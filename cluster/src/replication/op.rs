//! What a client wants with one key, and what can come of it.

use std::rc::Rc;

use smallvec::SmallVec;

use crate::model::{NodeId, Version};
use crate::mutation::Draft;
use crate::time::Instant;
use crate::token::Token;
use crate::wire::message::Reason;

use super::Archive;
use super::account::Charge;

/// A number for an operation; unique on its core for as long as its node runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OpId(pub u64);

/// How many replicas an operation waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// One.
    One,
    /// As many as the cluster is told, by default more than half.
    Quorum,
    /// So many.
    Count(u8),
    /// All.
    All,
    /// More than half, in agreement: the key is a linearizable register.
    Linearizable,
}

/// What is wanted.
#[derive(Clone, Debug)]
pub enum Work {
    /// What does the key have?
    Read,
    /// Give the key this, whatever it has.
    Write(Draft),
    /// Replace what the key has by what the driver makes of it, atomically.
    Change,
}

/// What the driver has made of a record.
#[derive(Clone, Debug)]
pub enum Computed {
    /// It stays.
    Keep,
    /// It is replaced by this.
    Put(Draft),
}

/// How an operation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was done.
    Acknowledged {
        /// Whether a live value was replaced, as far as the replicas that have answered know.
        replaced: bool,
        /// The version of what was written; of what was read where nothing was.
        version: Version,
    },
    /// It was not done, and will not be.
    NotApplied(Why),
    /// It may have been done, or be done later.
    Unknown(Why),
}

/// Why an operation was not done, or may not have been.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Why {
    /// Too few replicas can be reached.
    #[error("{reachable} replicas can be reached and {needed} are needed")]
    TooFew {
        /// Replicas that can be reached.
        reachable: usize,
        /// Replicas that are needed.
        needed: usize,
    },
    /// The replicas did not answer in time.
    #[error("{answered} replicas have answered in time and {needed} are needed")]
    TimedOut {
        /// Replicas that have answered.
        answered: usize,
        /// Replicas that are needed.
        needed: usize,
    },
    /// A replica has refused.
    #[error("{}", describe(*.0))]
    Refused(Reason),
    /// Another change came between, and it cannot be told which was first.
    #[error("another change of the key came between")]
    Contended,
    /// The node does not belong to a cluster.
    #[error("the node is not a member of a cluster yet")]
    NoCluster,
    /// This node's clock is ahead of the others'.
    #[error("this node's clock is ahead of most others'")]
    ClockAhead,
    /// Too few others have said what their clocks show since this node was started, or too little time has
    /// passed.
    #[error(
        "this node was just started, and does not know yet how its clock stands beside the others'"
    )]
    ClocksUnheard,
    /// This node has given out versions that are further ahead than its clock shows and clocks may differ.
    #[error("this node has given out versions that are too far ahead of its clock")]
    VersionsAhead,
    /// This node's clock is behind the others': what it gives out may be old, and what has ended for others is
    /// not over for it.
    #[error("this node's clock is behind most others'")]
    ClockBehind,
    /// There is as much under way as may be.
    #[error("too many operations are under way")]
    Overloaded,
}

/// A refusal in words.
const fn describe(reason: Reason) -> &'static str {
    match reason {
        Reason::Epoch | Reason::Frozen | Reason::NotMine => "the topology is being changed",
        Reason::Empty => "the replicas have lost their data",
        Reason::Behind => "the replicas may lack what they have acknowledged",
        Reason::Drift => "this node's clock is too far ahead",
        Reason::DiskFull => "the disk of the replicas is full",
        Reason::OutOfMemory => "the memory of the replicas is full",
        Reason::Failed => "the replicas cannot write, or read, their disks",
        Reason::Overloaded => "the replicas have more to do than they can",
    }
}

/// What a replica has come to in one operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    /// It could not be sent to.
    Unsent,
    /// It is to be asked again later: it has, or needs, another topology.
    Again(Reason),
    Asked,
    Yes,
    No(Reason),
    Outbid,
    /// It was asked, and will not answer.
    Lost,
}

/// The replicas of an operation's key.
#[derive(Clone, Debug)]
pub(super) struct Targets {
    pub(super) nodes: SmallVec<[(NodeId, Status); 5]>,
}

impl Targets {
    pub(super) fn new(nodes: &[NodeId]) -> Self {
        Self { nodes: nodes.iter().map(|node| (*node, Status::Unsent)).collect() }
    }

    /// The replicas of a newer topology; what is known of those that stay is kept.
    pub(super) fn move_to(&mut self, nodes: &[NodeId]) {
        let mut next = Self::new(nodes);
        for (node, status) in &self.nodes {
            next.set(*node, *status);
        }
        *self = next;
    }

    /// Whether these are the nodes, in whatever order.
    pub(super) fn are(&self, nodes: &[NodeId]) -> bool {
        self.nodes.len() == nodes.len() && nodes.iter().all(|node| self.status(*node).is_some())
    }

    pub(super) fn set(&mut self, node: NodeId, status: Status) -> bool {
        let Some(entry) = self.nodes.iter_mut().find(|it| it.0 == node) else { return false };
        entry.1 = status;
        true
    }

    pub(super) fn status(&self, node: NodeId) -> Option<Status> {
        self.nodes.iter().find(|it| it.0 == node).map(|it| it.1)
    }

    pub(super) fn count(&self, is: impl Fn(Status) -> bool) -> usize {
        self.nodes.iter().filter(|it| is(it.1)).count()
    }

    pub(super) fn yes(&self) -> usize {
        self.count(|it| it == Status::Yes)
    }

    /// Those that may still say yes.
    pub(super) fn hopes(&self) -> usize {
        self.count(|it| matches!(it, Status::Yes | Status::Asked | Status::Again(_)))
    }

    /// Whether it may be that a replica has done it, or will.
    pub(super) fn may_be_done(&self) -> bool {
        self.count(|it| matches!(it, Status::Yes | Status::Asked | Status::Lost)) > 0
    }

    /// The last refusal, if there was one.
    pub(super) fn refusal(&self) -> Option<Reason> {
        self.nodes.iter().rev().find_map(|it| match it.1 {
            Status::No(reason) | Status::Again(reason) => Some(reason),
            _ => None,
        })
    }

    pub(super) fn wants_again(&self) -> bool {
        self.count(|it| matches!(it, Status::Again(_))) > 0
    }

    pub(super) fn is_settled(&self) -> bool {
        self.count(|it| matches!(it, Status::Asked | Status::Again(_))) == 0
    }
}

/// What all operations have.
#[derive(Clone, Debug)]
pub(super) struct Common {
    pub(super) token: Token,
    pub(super) key: Rc<[u8]>,
    pub(super) level: Level,
    pub(super) until: Instant,
    /// For the key, and for the value that it was asked with.
    pub(super) charge: Option<Rc<Charge>>,
}

/// A record as a replica has told it.
#[derive(Clone, Debug)]
pub(super) struct Told {
    pub(super) from: NodeId,
    pub(super) rank: Rank,
    pub(super) is_sure: bool,
    pub(super) record: Option<Archive>,
    /// For the record.
    pub(super) charge: Option<Rc<Charge>>,
}

/// What decides between two copies of a key: the version, and of equal ones the value that one of them
/// has not freed yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rank {
    pub(super) version: Version,
    pub(super) has_value: bool,
}

/// The newest of what replicas have told. Of equal ones only the first was kept whole.
pub(super) fn newest(told: &[Told]) -> Option<&Told> {
    told.iter().rev().max_by_key(|it| it.rank)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FULL: Status = Status::No(Reason::DiskFull);
    const MOVED: Status = Status::Again(Reason::Epoch);

    fn targets(known: &[(u16, Status)]) -> Targets {
        Targets { nodes: known.iter().map(|(node, status)| (NodeId(*node), *status)).collect() }
    }

    #[test]
    fn a_replica_counts_by_what_is_known_of_it() {
        // Whether it has said yes, may yet, may have done it, has been heard to the end, is to be asked again.
        let table = [
            (Status::Unsent, [false, false, false, true, false]),
            (MOVED, [false, true, false, false, true]),
            (Status::Asked, [false, true, true, false, false]),
            (Status::Yes, [true, true, true, true, false]),
            (FULL, [false, false, false, true, false]),
            (Status::Outbid, [false, false, false, true, false]),
            (Status::Lost, [false, false, true, true, false]),
        ];
        for (status, [yes, hope, may_be_done, is_settled, wants_again]) in table {
            let one = targets(&[(1, Status::Unsent), (2, status)]);
            assert_eq!((one.yes(), one.hopes()), (yes.into(), hope.into()), "{status:?}");
            assert_eq!(one.may_be_done(), may_be_done, "{status:?}");
            assert_eq!(one.is_settled(), is_settled, "{status:?}");
            assert_eq!(one.wants_again(), wants_again, "{status:?}");
        }
    }

    #[test]
    fn what_is_known_of_replicas_that_stay_is_kept_and_others_are_unasked() {
        let mut moving = targets(&[(1, Status::Yes), (2, Status::Asked), (3, FULL)]);
        moving.move_to(&[NodeId(3), NodeId(4), NodeId(1)]);
        let after = [(3, FULL), (4, Status::Unsent), (1, Status::Yes)];
        assert_eq!(moving.nodes, targets(&after).nodes);
    }

    #[test]
    fn replicas_are_the_same_in_whatever_order() {
        let three = Targets::new(&[NodeId(1), NodeId(2), NodeId(3)]);
        assert!(three.are(&[NodeId(3), NodeId(1), NodeId(2)]));
        assert!(!three.are(&[NodeId(3), NodeId(1), NodeId(4)]));
        assert!(!three.are(&[NodeId(3), NodeId(1)]));
        assert!(!three.are(&[NodeId(1), NodeId(2), NodeId(3), NodeId(4)]));
    }

    #[test]
    fn the_last_refusal_is_told_in_words() {
        assert_eq!(targets(&[(1, Status::Yes), (2, Status::Outbid)]).refusal(), None);
        let refused = targets(&[(1, MOVED), (2, FULL), (3, Status::Yes)]);
        assert_eq!(refused.refusal(), Some(Reason::DiskFull));
        assert_eq!(targets(&[(1, FULL), (2, MOVED)]).refusal(), Some(Reason::Epoch));
        let told = Why::Refused(Reason::DiskFull).to_string();
        assert_eq!(told, "the disk of the replicas is full");
    }

    #[test]
    fn of_equal_copies_the_first_is_the_newest() {
        let told = |from, number| {
            let version = Version { timestamp: crate::model::Timestamp(number), node: NodeId(1) };
            let rank = Rank { version, has_value: true };
            Told { from: NodeId(from), rank, is_sure: true, record: None, charge: None }
        };
        let told = [told(1, 4), told(2, 5), told(3, 5)];
        assert_eq!(newest(&told).map(|it| it.from), Some(NodeId(2)));
        assert!(newest(&[]).is_none());
    }
}
