//! What nodes ask one another about the topology, and the answers, in bytes.

use rkyv::{Archive, Deserialize, Serialize, rancor};

use super::acceptor::Ballot;
use crate::topology::{DecodeError, Member, Refusal, Topology};

/// What one node asks another. Every request has one [`Answer`].
#[derive(Clone, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
#[rkyv(archived = ArchivedRequest, attr(allow(missing_docs, reason = "as in what it archives")))]
pub enum Request {
    /// Which topology do you know?
    Ask,
    /// Promise to accept nothing below the ballot, as what follows `base`.
    Prepare {
        /// The latest topology.
        base: Topology,
        /// The attempt.
        ballot: Ballot,
        /// Stop taking writes, and say whether you are empty.
        must_be_empty: bool,
        /// Stop taking writes, and say how far your clocks are: everything is to be removed.
        is_barrier: bool,
    },
    /// Accept `value` as what follows `base`.
    Accept {
        /// The latest topology.
        base: Topology,
        /// The attempt.
        ballot: Ballot,
        /// The next topology.
        value: Topology,
    },
    /// This was decided.
    Chosen(Topology),
    /// The attempt has come to nothing: some member holds data, or may have held some. Go on taking
    /// writes.
    Dropped(Ballot, Refusal),
    /// Let me in.
    Join {
        /// What I am; the number is not known yet.
        member: Member,
        /// The cluster I know of; 0 for none.
        cluster: u64,
        /// I hold no keys and no tombstones. Asked of one who is no member, or with another store.
        is_empty: bool,
    },
}

/// The answer to a [`Request`].
#[derive(Clone, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
#[rkyv(archived = ArchivedAnswer, attr(allow(missing_docs, reason = "as in what it archives")))]
pub enum Answer {
    /// This is the latest I know.
    Current(Option<Topology>),
    /// I promise.
    Promised {
        /// The attempt.
        ballot: Ballot,
        /// What I have accepted before.
        accepted: Option<(Ballot, Topology)>,
        /// Whether I hold nothing.
        is_empty: bool,
        /// Whether nothing is lost that I held.
        is_sound: bool,
        /// The latest timestamp of my clocks, where I was asked for it.
        latest: u64,
    },
    /// I have accepted.
    Accepted(Ballot),
    /// I have promised more to another.
    Refused(Ballot),
    /// I try.
    Pending,
    /// It cannot be.
    Rejected(Refusal),
}

macro_rules! bytes_of {
    ($($type:ty),*) => {$(
        impl $type {
            /// Its bytes.
            #[must_use]
            pub fn encode(&self) -> Vec<u8> {
                let bytes = rkyv::to_bytes::<rancor::Error>(self);
                bytes.expect("writing into memory does not fail").to_vec()
            }

            /// Reads its bytes, aligned or not.
            ///
            /// # Errors
            ///
            /// [`DecodeError`] on anything else.
            pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
                let mut aligned: rkyv::util::AlignedVec =
                    rkyv::util::AlignedVec::with_capacity(bytes.len());
                aligned.extend_from_slice(bytes);
                let decoded: Self =
                    rkyv::from_bytes::<_, rancor::Error>(&aligned).map_err(|_| DecodeError)?;
                if decoded.is_valid() { Ok(decoded) } else { Err(DecodeError) }
            }
        }
    )*};
}

bytes_of!(Request, Answer);

impl Request {
    fn is_valid(&self) -> bool {
        match self {
            Self::Ask => true,
            Self::Dropped(ballot, _) => ballot.is_valid(),
            Self::Join { member, .. } => crate::topology::is_valid(member),
            Self::Prepare { base, ballot, .. } => base.is_valid() && ballot.is_valid(),
            Self::Accept { base, ballot, value } => {
                let are_valid = base.is_valid() && ballot.is_valid() && value.is_valid();
                are_valid && value.follows(base)
            }
            Self::Chosen(topology) => topology.is_valid(),
        }
    }
}

impl Answer {
    fn is_valid(&self) -> bool {
        match self {
            Self::Current(topology) => topology.as_ref().is_none_or(Topology::is_valid),
            Self::Promised { ballot, accepted, .. } => {
                let is_valid = |it: &(Ballot, Topology)| it.0.is_valid() && it.1.is_valid();
                ballot.is_valid() && accepted.as_ref().is_none_or(is_valid)
            }
            Self::Accepted(ballot) | Self::Refused(ballot) => ballot.is_valid(),
            Self::Pending | Self::Rejected(_) => true,
        }
    }
}
