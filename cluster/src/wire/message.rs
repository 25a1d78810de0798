//! What one node's core says to another's about keys.
//!
//! A message is a head of a few integers, an [`Ask`] or a [`Reply`], and, mostly, a mutation in its
//! one archived form. A frame carries many, one after the other:
//!
//! ```text
//!  0          4              8                  8 + head, to 8      + mutation, to 8
//!  | head len | mutation len | head (rkyv) .... | mutation (rkyv) .. |
//! ```
//!
//! Both lengths are in bytes, without the padding to a multiple of 8; a mutation of length 0 is
//! none. Keys travel as mutations without a value.
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
    /// The replica may lack what it has acknowledged.
    Behind,
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

/// What a coordinator asks of a replica, about the key of the mutation that comes with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
#[rkyv(archived = ArchivedAsk, attr(allow(missing_docs, reason = "as in what it archives")))]
pub struct Ask {
    /// Whose reply is wanted; 0 for none, which only a repair may have.
    pub request: RequestId,
    /// The topology it is about.
    pub epoch: u64,
    /// What is to be done.
    pub kind: AskKind,
}

/// What a replica is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
#[rkyv(archived = ArchivedAskKind, attr(allow(missing_docs, reason = "as in what it archives")))]
pub enum AskKind {
    /// Apply the mutation.
    Write,
    /// Tell what you have for the key.
    Read,
    /// Accept nothing for the key below the mutation's version, which is a ballot, and tell what you
    /// have.
    Prepare,
    /// Accept the mutation, whose version is the ballot.
    Accept,
    /// Merge the mutation: you have an older version, or missed it while you were away.
    Repair,
    /// What does your clock show? The frame of the reply tells. The key means nothing.
    Clock,
}

/// What a replica tells who has asked it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
#[rkyv(archived = ArchivedReply, attr(allow(missing_docs, reason = "as in what it archives")))]
pub struct Reply {
    /// The number of the request that it answers, attempts included: a late one is told from a present one.
    pub request: RequestId,
    /// What the replica has done, or why not.
    pub kind: ReplyKind,
}

/// What a replica has done, or has; which of them follows from what was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
#[rkyv(archived = ArchivedReplyKind, attr(allow(missing_docs, reason = "as in what it archives")))]
pub enum ReplyKind {
    /// The mutation is applied, or was superseded before.
    Written {
        /// Whether a live value was replaced.
        replaced: bool,
    },
    /// The mutation is what the replica has; without one it has nothing.
    Found {
        /// Whether the replica can tell that it came by a write or an accepted change, in order.
        is_sure: bool,
    },
    /// The replica accepts nothing below the ballot; the mutation is what it has accepted.
    Promised {
        /// As for [`ReplyKind::Found`].
        is_sure: bool,
    },
    /// The ballot is accepted.
    Accepted,
    /// Something larger than the version was promised or accepted before.
    Outbid {
        /// It.
        by: Stamp,
    },
    /// It was not done.
    Refused {
        /// The replica's topology.
        epoch: u64,
        /// Why.
        reason: Reason,
    },
    /// What the clock shows stands in the frame.
    Clock,
}

/// A message without its mutation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
#[rkyv(archived = ArchivedHead, attr(allow(missing_docs, reason = "as in what it archives")))]
enum Head {
    Ask(Ask),
    Reply(Reply),
}

/// A message as it is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message<'a> {
    /// To a replica.
    Ask(Ask, Mutation<'a>),
    /// To a coordinator, perhaps with a record.
    Reply(Reply, Option<Mutation<'a>>),
}

/// The bytes are not messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a message between nodes")]
pub struct DecodeError;

const LENGTHS_BYTES: usize = 8;
const ALIGNMENT: usize = 8;

/// Appends what is asked to a frame's body, which begins and ends in `body` at a multiple of 8. `mutation`
/// is an archive (see [`mutation::encode`]).
pub fn push_ask(ask: Ask, mutation: &[u8], body: &mut Vec<u8>) {
    assert!(!mutation.is_empty(), "what asks is about a key");
    push(Head::Ask(ask), mutation, body);
}

/// Appends a reply to a frame's body, as [`push_ask`]; `record` is empty for none.
pub fn push_reply(reply: Reply, record: &[u8], body: &mut Vec<u8>) {
    push(Head::Reply(reply), record, body);
}

fn push(head: Head, mutation: &[u8], body: &mut Vec<u8>) {
    assert!(body.len().is_multiple_of(ALIGNMENT));
    let start = body.len();
    body.extend_from_slice(&[0; LENGTHS_BYTES]);
    rkyv::api::high::to_bytes_in::<_, rancor::Error>(&head, &mut *body)
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

fn pad(body: &mut Vec<u8>) {
    let to = body.len().next_multiple_of(ALIGNMENT);
    body.resize(to, 0);
}

/// The messages of a frame's body, which is aligned to 8 bytes. Ends after the first that is none.
pub fn read(body: &[u8]) -> impl Iterator<Item = Result<Message<'_>, DecodeError>> {
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

fn read_one<'a>(rest: &mut &'a [u8]) -> Result<Message<'a>, DecodeError> {
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
    match (head, mutation) {
        (Head::Ask(ask), Some(mutation)) => Ok(Message::Ask(ask, mutation)),
        (Head::Ask(_), None) => Err(DecodeError),
        (Head::Reply(reply), record) if tells_what_can_be(reply.kind, record.as_ref()) => {
            Ok(Message::Reply(reply, record))
        }
        (Head::Reply(_), _) => Err(DecodeError),
    }
}

/// Whether a replica can have come to what it tells: having nothing is sure, and what it has was written
/// at some time.
fn tells_what_can_be(kind: ReplyKind, record: Option<&Mutation<'_>>) -> bool {
    match (kind, record) {
        (ReplyKind::Found { is_sure } | ReplyKind::Promised { is_sure }, None) => is_sure,
        (_, Some(record)) => record.version > Version::ZERO,
        (_, None) => true,
    }
}

/// A key as it travels: a mutation without a value. `version` is the ballot of a prepare, and means
/// nothing to a read.
#[must_use]
pub fn encode_key(key: &[u8], version: Version) -> AlignedVec {
    mutation::encode(&Mutation { key, value: None, version, expires_at: None })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// As a frame's reader has it.
    fn aligned(body: &[u8]) -> AlignedVec {
        let mut aligned = AlignedVec::with_capacity(body.len());
        aligned.extend_from_slice(body);
        aligned
    }

    fn heads() -> Vec<Head> {
        let (request, epoch) = (u64::MAX, 3);
        let kinds = [
            AskKind::Write,
            AskKind::Read,
            AskKind::Prepare,
            AskKind::Accept,
            AskKind::Repair,
            AskKind::Clock,
        ];
        let asks = kinds.map(|kind| Head::Ask(Ask { request, epoch, kind }));
        let kinds = [
            ReplyKind::Written { replaced: true },
            ReplyKind::Found { is_sure: false },
            ReplyKind::Promised { is_sure: true },
            ReplyKind::Accepted,
            ReplyKind::Outbid { by: Stamp(7, 2) },
            ReplyKind::Refused { epoch: 9, reason: Reason::Frozen },
            ReplyKind::Clock,
        ];
        let replies = kinds.map(|kind| Head::Reply(Reply { request, kind }));
        asks.into_iter().chain(replies).collect()
    }

    #[test]
    fn a_frame_of_messages_comes_back_in_order() {
        let version = Version { timestamp: Timestamp(77), node: NodeId(3) };
        let value = Some(&b"some value"[..]);
        let mutation = Mutation { key: b"key", value, version, expires_at: None };
        let (mut body, mut expected) = (Vec::new(), Vec::new());
        for (number, head) in heads().into_iter().enumerate() {
            match head {
                Head::Ask(ask) => {
                    push_ask(ask, &mutation::encode(&mutation), &mut body);
                    expected.push(Message::Ask(ask, mutation));
                }
                Head::Reply(reply) => {
                    let record = (number % 2 == 1).then_some(mutation);
                    let archive = record.as_ref().map(mutation::encode).unwrap_or_default();
                    push_reply(reply, &archive, &mut body);
                    expected.push(Message::Reply(reply, record));
                }
            }
        }
        let body = aligned(&body);
        let messages: Vec<_> = read(&body).map(Result::unwrap).collect();
        assert_eq!(messages, expected);
    }

    #[test]
    fn what_asks_about_no_key_is_not_a_message() {
        let mut body = Vec::new();
        push(heads()[0], &[], &mut body);
        assert_eq!(read(&aligned(&body)).collect::<Vec<_>>(), [Err(DecodeError)]);
    }

    /// A coordinator that believed it would propose what is not there.
    #[test]
    fn what_no_replica_can_have_is_not_a_message() {
        let kinds = |is_sure| [ReplyKind::Found { is_sure }, ReplyKind::Promised { is_sure }];
        let read_one = |kind, record: &[u8]| {
            let mut body = Vec::new();
            push_reply(Reply { request: 1, kind }, record, &mut body);
            read(&aligned(&body)).next().expect("there is one").is_ok()
        };
        let written = Version { timestamp: Timestamp(1), node: NodeId(1) };
        for is_sure in [true, false] {
            for kind in kinds(is_sure) {
                assert_eq!(read_one(kind, &[]), is_sure, "nothing is sure");
                assert!(
                    !read_one(kind, &encode_key(b"key", Version::ZERO)),
                    "it was never written"
                );
                assert!(read_one(kind, &encode_key(b"key", written)));
            }
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_are_read_without_a_panic(bytes: Vec<u8>) {
            prop_assert!(read(&aligned(&bytes)).count() <= bytes.len() / LENGTHS_BYTES + 1);
        }

        #[test]
        fn damaged_messages_are_read_without_a_panic(at: prop::sample::Index, flip in 1_u8..) {
            let mut body = Vec::new();
            for head in heads() {
                push(head, &encode_key(b"some key", Version::ZERO), &mut body);
            }
            let at = at.index(body.len());
            body[at] ^= flip;
            prop_assert!(read(&aligned(&body)).count() <= heads().len() + 1);
        }
    }
}
