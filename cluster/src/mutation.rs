//! A write, in the one form in which it travels and is kept.
//!
//! [`Mutation`] borrows its bytes. [`encode`] archives it once, with rkyv, at the core that accepts
//! it; the same bytes are appended to a log, held by a sync log and sent to replicas. [`access`]
//! checks them and gives the mutation back, borrowing from the archive: nothing is copied.
//!
//! The archive carries no checksum: what holds it (a frame, a log record) does, and checks it
//! first. [`access`] is safe on arbitrary bytes all the same.

use rkyv::rancor;
use rkyv::util::AlignedVec;
use rkyv::with::{InlineAsBox, Map};
use rkyv::{Archive, Serialize};

use crate::model::{NodeId, Timestamp, Version};
use crate::time::WallTime;

/// A key and its new value, or its deletion.
///
/// Applying a mutation is a merge: it wins only over an older [`Version`], so repeats and
/// reordering are harmless.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mutation<'a> {
    /// The key, any bytes.
    pub key: &'a [u8],
    /// The new value; `None` deletes (a tombstone).
    pub value: Option<&'a [u8]>,
    /// Decides between this and what a store has.
    pub version: Version,
    /// When the value stops to exist. Always `None` on a tombstone.
    pub expires_at: Option<WallTime>,
}

/// The archived layout. Integers are little-endian; byte strings follow out of line.
#[derive(Archive, Serialize)]
#[rkyv(archived = Archived)]
struct Layout<'a> {
    timestamp: u64,
    node: u16,
    expires_at_ms: Option<u64>,
    #[rkyv(with = InlineAsBox)]
    key: &'a [u8],
    #[rkyv(with = Map<InlineAsBox>)]
    value: Option<&'a [u8]>,
}

/// The bytes are not an archived mutation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an archived mutation")]
pub struct AccessError;

/// Archives a mutation: a buffer aligned for [`access`].
#[must_use]
pub fn encode(mutation: &Mutation<'_>) -> AlignedVec {
    let mut bytes = AlignedVec::with_capacity(encoded_bytes(payload_bytes(mutation)));
    encode_into(mutation, &mut bytes);
    bytes
}

/// Appends the archive of a mutation to `bytes`, whose length is a multiple of 8.
pub fn encode_into<const ALIGNMENT: usize>(
    mutation: &Mutation<'_>,
    bytes: &mut AlignedVec<ALIGNMENT>,
) {
    const { assert!(ALIGNMENT >= align_of::<Archived<'_>>()) };
    assert!(bytes.len().is_multiple_of(align_of::<Archived<'_>>()));
    let before = bytes.len();
    let layout = Layout {
        timestamp: mutation.version.timestamp.0,
        node: mutation.version.node.0,
        expires_at_ms: mutation.expires_at.map(WallTime::as_millis),
        key: mutation.key,
        value: mutation.value,
    };
    rkyv::api::high::to_bytes_in::<_, rancor::Error>(&layout, &mut *bytes)
        .expect("writing into a growing buffer does not fail");
    debug_assert_eq!(bytes.len() - before, encoded_bytes(payload_bytes(mutation)));
}

/// Bytes of key and value.
#[must_use]
pub const fn payload_bytes(mutation: &Mutation<'_>) -> usize {
    match mutation.value {
        Some(value) => mutation.key.len() + value.len(),
        None => mutation.key.len(),
    }
}

/// Size of the archive of a mutation with `payload_bytes` of key and value. The key comes first.
#[must_use]
pub const fn encoded_bytes(payload_bytes: usize) -> usize {
    payload_bytes.next_multiple_of(align_of::<Archived<'static>>()) + size_of::<Archived<'static>>()
}

/// Reads an archived mutation in place.
///
/// `bytes` must be aligned to 8 bytes, as [`encode`]'s buffer is.
///
/// # Errors
///
/// [`AccessError`] when the bytes are anything but a mutation's archive, or are not aligned.
pub fn access(bytes: &[u8]) -> Result<Mutation<'_>, AccessError> {
    let archived = rkyv::access::<Archived<'_>, rancor::Error>(bytes).map_err(|_| AccessError)?;
    let version = Version {
        timestamp: Timestamp(archived.timestamp.to_native()),
        node: NodeId(archived.node.to_native()),
    };
    Ok(Mutation {
        key: archived.key.get(),
        value: archived.value.as_ref().map(|value| value.get()),
        version,
        expires_at: archived.expires_at_ms.as_ref().map(|ms| WallTime::from_millis(ms.to_native())),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn an_archive_gives_back_the_mutation(
            key: Vec<u8>, value: Option<Vec<u8>>, timestamp: u64, node: u16,
            expires_at in proptest::option::of(0_u64..1 << 48),
        ) {
            let mutation = Mutation {
                key: &key,
                value: value.as_deref(),
                version: Version { timestamp: Timestamp(timestamp), node: NodeId(node) },
                expires_at: expires_at.map(WallTime::from_millis),
            };
            let bytes = encode(&mutation);
            prop_assert_eq!(bytes.len(), encoded_bytes(payload_bytes(&mutation)));
            prop_assert!(bytes.starts_with(&key));
            prop_assert_eq!(access(&bytes), Ok(mutation));
        }

        #[test]
        fn arbitrary_bytes_are_refused_or_read_but_never_panic(bytes: Vec<u8>) {
            let mut aligned = AlignedVec::<16>::new();
            aligned.extend_from_slice(&bytes);
            let _ = access(&aligned);
        }

        #[test]
        fn a_damaged_archive_never_panics(at: usize, bit in 0..8) {
            let mutation = Mutation {
                key: b"key", value: Some(b"value"), version: Version::ZERO, expires_at: None,
            };
            let mut bytes = encode(&mutation);
            let at = at % bytes.len();
            bytes[at] ^= 1_u8 << bit;
            let _ = access(&bytes);
        }
    }
}
