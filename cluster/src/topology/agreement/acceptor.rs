//! One member's vote on the next topology.
//!
//! # Invariants
//!
//! - What was promised or accepted is handed out to be kept before the answer that tells it.
//! - A vote is about the epoch after the latest known one; that one's coming ends it.

use rkyv::{Archive, Deserialize, Serialize, rancor};

use crate::model::{NodeId, Timestamp, Version};
use crate::topology::{DecodeError, Topology};

/// A number of an attempt to agree: larger ones prevail.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Archive, Serialize, Deserialize,
)]
#[rkyv(archived = ArchivedBallot, attr(allow(missing_docs, reason = "as in what it archives")))]
pub struct Ballot {
    /// The proposer's clock.
    pub timestamp: u64,
    /// The low half of the proposer's identity.
    pub proposer: u64,
}

impl Ballot {
    /// The largest timestamp of a ballot: in the year 6429. It leaves room to go above.
    pub(super) const TIMESTAMP_MAX: u64 = u64::MAX / 2;

    /// Whether a proposer can have drawn it.
    pub(super) const fn is_valid(self) -> bool {
        self.timestamp <= Self::TIMESTAMP_MAX
    }

    /// As a version, for clocks.
    #[must_use]
    pub const fn version(self) -> Version {
        Version { timestamp: Timestamp(self.timestamp), node: NodeId(0) }
    }
}

/// A vote: what was promised, and what was accepted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Archive, Serialize, Deserialize)]
#[rkyv(archived = ArchivedVote, attr(allow(missing_docs, reason = "as in what it archives")))]
pub(super) struct Vote {
    pub(super) promised: Ballot,
    pub(super) accepted: Option<(Ballot, Topology)>,
}

/// What a member keeps on disk.
#[derive(Clone, Debug, Default, PartialEq, Eq, Archive, Serialize, Deserialize)]
#[rkyv(archived = ArchivedKept, attr(allow(missing_docs, reason = "as in what it archives")))]
pub(super) struct Kept {
    /// The latest topology that was agreed on.
    pub(super) current: Option<Topology>,
    /// The vote on the one after it.
    pub(super) vote: Vote,
}

impl Kept {
    /// The epoch that is voted on.
    pub(super) fn slot(&self) -> u64 {
        self.current.as_ref().map_or(0, |current| current.epoch) + 1
    }

    /// Takes in a topology that was agreed on. Whether it is newer than what was known.
    pub(super) fn install(&mut self, topology: &Topology) -> bool {
        if topology.epoch < self.slot() {
            return false;
        }
        self.current = Some(topology.clone());
        self.vote = Vote::default();
        true
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let bytes = rkyv::to_bytes::<rancor::Error>(self);
        bytes.expect("writing into memory does not fail").to_vec()
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut aligned: rkyv::util::AlignedVec =
            rkyv::util::AlignedVec::with_capacity(bytes.len());
        aligned.extend_from_slice(bytes);
        let kept: Self = rkyv::from_bytes::<_, rancor::Error>(&aligned).map_err(|_| DecodeError)?;
        let Self { current, vote } = &kept;
        let is_valid = current.as_ref().is_none_or(Topology::is_valid)
            && vote.promised.is_valid()
            && vote.accepted.as_ref().is_none_or(|(ballot, it)| ballot.is_valid() && it.is_valid());
        if is_valid { Ok(kept) } else { Err(DecodeError) }
    }
}

impl Vote {
    /// Promises to accept nothing below `ballot`. Whether it could.
    pub(super) fn promise(&mut self, ballot: Ballot) -> bool {
        if ballot <= self.promised {
            return false;
        }
        self.promised = ballot;
        true
    }

    /// Accepts a topology. Whether it could.
    pub(super) fn accept(&mut self, ballot: Ballot, topology: &Topology) -> bool {
        if ballot < self.promised {
            return false;
        }
        self.promised = ballot;
        self.accepted = Some((ballot, topology.clone()));
        true
    }
}
