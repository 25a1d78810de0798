//! What one node's core says to another's about keys.
//!
//! A message is a [`Head`] of a few integers and, mostly, a mutation in its one archived form. A
//! frame carries many, one after the other:
//!
//! ```text
//!  0          4              8                  8 + head, to 8      + mutation, to 8
//!  | head len | mutation len | head (rkyv) .... | mutation (rkyv) .. |
//! ```
//!
//! Both lengths are in bytes, without the padding to a multiple of 8; a mutation of length 0 is
//! none. Keys travel as mutations without a value, whose version is what the head's meaning says.
//!
//! The frame around has a checksum, or a code that proves who sent it; reading is safe on arbitrary
//! bytes all the same.

#![allow(missing_docs, reason = "what rkyv derives beside an enum has none")]

use rkyv::util::AlignedVec;
use rkyv::{Archive, Deserialize, Serialize, rancor};

use crate::model::{NodeId, Timestamp, Version};
use crate::mutation::{self, Mutation};

/// A coordinator's number for what it has asked; unique on its core for as long as its node runs.
pub type RequestId = u64;

/// A version on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
#[rkyv(archived = ArchivedStamp, attr(allow(missing_docs, reason = "as in what it archives")))]
pub struct Stamp(u64, u16);

impl From<Version> for Stamp {
    fn from(version: Version) -> Self {
        Self(version.timestamp.0, version.node.0)
    }
}

impl From<Stamp> for Version {
    fn from(stamp: Stamp) -> Self {
        Self { timestamp: Timestamp(stamp.0), node: NodeId(stamp.1) }
    }
}

/// Why a replica did not do what it was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Archive, Serialize, Deserialize)]
#[rkyv(archived = ArchivedReason, attr(allow(missing_docs, reason = "as in what it archives")))]
pub enum Reason {
    /// The request is about another topology than the replica's.
    Epoch,
    /// The topology is being changed: try again.
    Frozen,
    /// The replica keeps no copy of the key.
    NotMine,
    /// The replica has lost its data.
    Empty,
    /// The version is further ahead of the replica's clock than clocks may differ.
    Drift,
    /// The disk is full.
    DiskFull,
    /// The replica's memory is full.
    OutOfMemory,
    /// The log or the disk has failed.
    Failed,
    /// The replica has more to do than it can.
    Overloaded,
}

/// A message without its mutation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
#[rkyv(archived = ArchivedHead, attr(allow(missing_docs, reason = "as in what it archives")))]
pub enum Head {
    /// Apply the mutation.
    Write {
        /// Whose answer is wanted.
        request: RequestId,
        /// The topology it is about.
        epoch: u64,
    },
    /// What do you have for the key?
    Read {
        /// Whose answer is wanted.
        request: RequestId,
        /// The topology it is about.
        epoch: u64,
    },
    /// Accept nothing for the key below this ballot, and tell what you have.
    Prepare {
        /// Whose answer is wanted.
        request: RequestId,
        /// The topology it is about.
        epoch: u64,
        /// The ballot.
        ballot: Stamp,
    },
    /// Accept the mutation, whose version is the ballot.
    Accept {
        /// Whose answer is wanted.
        request: RequestId,
        /// The topology it is about.
        epoch: u64,
    },
    /// You have an older version, or missed it while you were away: merge the mutation.
    Repair {
        /// Whose answer is wanted; 0 for none.
        request: RequestId,
        /// The topology it is about.
        epoch: u64,
    },
    /// The mutation is applied, or was superseded before.
    Written {
        /// What is answered.
        request: RequestId,
        /// Whether a live value was replaced.
        replaced: bool,
    },
    /// The mutation is what the replica has; without one it has nothing.
    Found {
        /// What is answered.
        request: RequestId,
        /// Whether the replica can tell that it came by a write or an accepted change, in order.
        is_sure: bool,
    },
    /// The replica accepts nothing below the ballot; the mutation is what it has accepted.
    Promised {
        /// What is answered.
        request: RequestId,
        /// As for [`Head::Found`].
        is_sure: bool,
    },
    /// The ballot is accepted.
    Accepted {
        /// What is answered.
        request: RequestId,
    },
    /// Something larger than the version was promised or accepted before.
    Outbid {
        /// What is answered.
        request: RequestId,
        /// It.
        by: Stamp,
    },
    /// It was not done.
    Refused {
        /// What is answered.
        request: RequestId,
        /// The replica's topology.
        epoch: u64,
        /// Why.
        reason: Reason,
    },
}

impl Head {
    /// What it answers; `None` for what asks.
    #[must_use]
    pub const fn answers(&self) -> Option<RequestId> {
        match *self {
            Self::Written { request, .. }
            | Self::Found { request, .. }
            | Self::Promised { request, .. }
            | Self::Accepted { request }
            | Self::Outbid { request, .. }
            | Self::Refused { request, .. } => Some(request),
            Self::Write { .. }
            | Self::Read { .. }
            | Self::Prepare { .. }
            | Self::Accept { .. }
            | Self::Repair { .. } => None,
        }
    }

    /// The request, and the topology that it is about; `None` for an answer.
    #[must_use]
    pub const fn asks(&self) -> Option<(RequestId, u64)> {
        match *self {
            Self::Write { request, epoch }
            | Self::Read { request, epoch }
            | Self::Prepare { request, epoch, .. }
            | Self::Accept { request, epoch }
            | Self::Repair { request, epoch } => Some((request, epoch)),
            _ => None,
        }
    }
}

/// The bytes are not messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a message between nodes")]
pub struct DecodeError;

const LENGTHS_BYTES: usize = 8;
const ALIGNMENT: usize = 8;

/// Appends a message to a frame's body, whose length is a multiple of 8. `mutation` is an archive
/// (see [`mutation::encode`]), empty for none.
pub fn push(head: &Head, mutation: &[u8], body: &mut AlignedVec) {
    assert!(body.len().is_multiple_of(ALIGNMENT));
    let start = body.len();
    body.extend_from_slice(&[0; LENGTHS_BYTES]);
    rkyv::api::high::to_bytes_in::<_, rancor::Error>(head, &mut *body)
        .expect("writing into memory does not fail");
    let head_bytes = body.len() - start - LENGTHS_BYTES;
    pad(body);
    body.extend_from_slice(mutation);
    pad(body);
    let head_bytes = u32::try_from(head_bytes).expect("a head is small");
    let mutation_bytes = u32::try_from(mutation.len()).expect("a mutation is below 4 GiB");
    body[start..start + 4].copy_from_slice(&head_bytes.to_le_bytes());
    body[start + 4..start + 8].copy_from_slice(&mutation_bytes.to_le_bytes());
}

fn pad(body: &mut AlignedVec) {
    let to = body.len().next_multiple_of(ALIGNMENT);
    body.resize(to, 0);
}

/// The messages of a frame's body, which is aligned to 8 bytes. Ends after the first that is none.
pub fn read(
    body: &[u8],
) -> impl Iterator<Item = Result<(Head, Option<Mutation<'_>>), DecodeError>> {
    let mut rest = body;
    let mut has_failed = false;
    std::iter::from_fn(move || {
        if rest.is_empty() || has_failed {
            return None;
        }
        let message = read_one(&mut rest);
        has_failed = message.is_err();
        Some(message)
    })
}

fn read_one<'a>(rest: &mut &'a [u8]) -> Result<(Head, Option<Mutation<'a>>), DecodeError> {
    let (lengths, mut after) = rest.split_at_checked(LENGTHS_BYTES).ok_or(DecodeError)?;
    let len_at = |at: usize| {
        let bytes = [lengths[at], lengths[at + 1], lengths[at + 2], lengths[at + 3]];
        u32::from_le_bytes(bytes) as usize
    };
    let mut take = |len: usize| {
        let (padded, next) = after.split_at_checked(len.next_multiple_of(ALIGNMENT))?;
        after = next;
        Some(&padded[..len])
    };
    let head = take(len_at(0)).ok_or(DecodeError)?;
    let archive = take(len_at(4)).ok_or(DecodeError)?;
    let archived = rkyv::access::<ArchivedHead, rancor::Error>(head).map_err(|_| DecodeError)?;
    let head = rkyv::deserialize::<Head, rancor::Error>(archived).map_err(|_| DecodeError)?;
    let mutation = if archive.is_empty() {
        None
    } else {
        Some(mutation::access(archive).map_err(|_| DecodeError)?)
    };
    *rest = after;
    Ok((head, mutation))
}

/// A key as it travels: a mutation without a value.
#[must_use]
pub fn encode_key(key: &[u8]) -> AlignedVec {
    mutation::encode(&Mutation { key, value: None, version: Version::ZERO, expires_at: None })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn heads() -> Vec<Head> {
        let ballot = Stamp(7, 2);
        vec![
            Head::Write { request: 1, epoch: 2 },
            Head::Read { request: u64::MAX, epoch: 3 },
            Head::Prepare { request: 3, epoch: 2, ballot },
            Head::Accept { request: 4, epoch: 2 },
            Head::Repair { request: 0, epoch: 2 },
            Head::Written { request: 1, replaced: true },
            Head::Found { request: 2, is_sure: false },
            Head::Promised { request: 3, is_sure: true },
            Head::Accepted { request: 4 },
            Head::Outbid { request: 4, by: ballot },
            Head::Refused { request: 5, epoch: 9, reason: Reason::Frozen },
        ]
    }

    #[test]
    fn a_frame_of_messages_comes_back_in_order() {
        let version = Version { timestamp: Timestamp(77), node: NodeId(3) };
        let value = Some(&b"some value"[..]);
        let mutation = Mutation { key: b"key", value, version, expires_at: None };
        let mut body = AlignedVec::new();
        for (number, head) in heads().iter().enumerate() {
            let archive =
                if number % 2 == 0 { mutation::encode(&mutation) } else { AlignedVec::new() };
            push(head, &archive, &mut body);
        }
        let messages: Vec<_> = read(&body).map(Result::unwrap).collect();
        let expected: Vec<_> = heads()
            .into_iter()
            .enumerate()
            .map(|(number, head)| (head, (number % 2 == 0).then_some(mutation)))
            .collect();
        assert_eq!(messages, expected);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_are_read_without_a_panic(bytes: Vec<u8>) {
            let mut body: AlignedVec = AlignedVec::new();
            body.extend_from_slice(&bytes);
            prop_assert!(read(&body).count() <= bytes.len() / LENGTHS_BYTES + 1);
        }

        #[test]
        fn damaged_messages_are_read_without_a_panic(at: prop::sample::Index, flip in 1_u8..) {
            let mut body = AlignedVec::new();
            for head in heads() {
                push(&head, &encode_key(b"some key"), &mut body);
            }
            let at = at.index(body.len());
            body[at] ^= flip;
            prop_assert!(read(&body).count() <= heads().len() + 1);
        }
    }
}
