//! A write, in the one form in which it travels and is kept.
//!
//! ```text
//!  +-----------+-----------+-----------+----------------+------------------+
//!  | key       | value     | timestamp | expiry  | node | key length       |
//!  |           |           | 8         | 6       | 2    | and flags, 4     |
//!  +-----------+-----------+-----------+----------------+------------------+
//!                          ^ root, 20 bytes: the end of the archive
//! ```
//!
//! [`Mutation`] borrows its bytes. [`encode`] archives it once, with rkyv, at the core that accepts
//! it; the same bytes are appended to a log, held by a sync log and sent to replicas. [`access`]
//! checks them and gives the mutation back, borrowing from the archive: nothing is copied.
//!
//! The archive carries no checksum: what holds it (a frame, a log record) does, and checks it
//! first. [`access`] is safe on arbitrary bytes all the same, wherever they begin.
//!
//! # Why the root has no pointers
//!
//! A key of 16 bytes with a value of 64 is a common record. Two relative pointers with their lengths,
//! aligned integers and optional fields took 56 bytes beside them; what they point at is known from
//! the length of the whole and that of the key.

use std::rc::Rc;

use rkyv::Portable;
use rkyv::bytecheck::CheckBytes;
use rkyv::rancor;
use rkyv::rend::unaligned::{u32_ule, u64_ule};
use rkyv::util::AlignedVec;

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
    /// When the value stops to exist. With an expiry and without a value it has ended, and the value was
    /// freed; a tombstone has none.
    pub expires_at: Option<WallTime>,
}

/// What stands behind key and value. Integers are little-endian and need no alignment.
#[derive(Portable, CheckBytes)]
#[bytecheck(crate = rkyv::bytecheck)]
#[repr(C)]
struct Root {
    timestamp: u64_ule,
    /// Milliseconds in the lower 48 bits, zeros for none; the node above them.
    expiry_and_node: u64_ule,
    key_len_and_flags: u32_ule,
}

const ROOT_BYTES: usize = size_of::<Root>();
const KEY_LEN_BITS: u32 = 24;
const EXPIRY_BITS: u32 = 48;
/// There is a value; without, the mutation is a deletion.
const HAS_VALUE: u32 = 1 << 31;
/// There is an expiry, which may be zero.
const HAS_EXPIRY: u32 = 1 << 30;

const _: () = assert!(ROOT_BYTES == 20);
const _: () = assert!(align_of::<Root>() == 1);
const _: () = assert!(WallTime::MAX.as_millis() < 1 << EXPIRY_BITS);

/// Longest key that an archive can hold, in bytes. Stores and clients are told of tighter bounds.
pub const KEY_LEN_MAX: usize = (1 << KEY_LEN_BITS) - 1;

/// An archived mutation that several hold: it is made once, and nothing of it is copied until it is put
/// into a frame or a log.
pub type Archive = Rc<AlignedVec>;

/// A mutation that is given its version by who accepts it, and another one for each try.
///
/// The archive is made here, with the value where it will be read from.
#[derive(Clone, Debug)]
pub struct Draft(Archive);

impl Draft {
    /// Archives a key with a value, or without one for its deletion.
    ///
    /// # Panics
    ///
    /// When the key is longer than [`KEY_LEN_MAX`].
    #[must_use]
    pub fn new(key: &[u8], value: Option<&[u8]>, expires_at: Option<WallTime>) -> Self {
        let mutation = Mutation { key, value, version: Version::ZERO, expires_at };
        Self(Rc::new(encode(&mutation)))
    }

    /// What it is. Its version is that of the last try; before the first it is zero.
    #[must_use]
    pub fn mutation(&self) -> Mutation<'_> {
        access(&self.0).expect("it was encoded here")
    }

    /// Its archive with this version. What was handed out with another stays as it is: it is copied if
    /// somebody still has it.
    #[must_use]
    pub fn stamp(&mut self, version: Version) -> Archive {
        if self.mutation().version == version {
            return Rc::clone(&self.0);
        }
        let bytes = Rc::make_mut(&mut self.0);
        let root = bytes.len() - ROOT_BYTES;
        bytes[root..root + 8].copy_from_slice(&version.timestamp.0.to_le_bytes());
        // The node stands above the expiry.
        bytes[root + 14..root + 16].copy_from_slice(&version.node.0.to_le_bytes());
        Rc::clone(&self.0)
    }
}

impl From<Archive> for Draft {
    /// What was accepted before, to be tried again.
    fn from(archive: Archive) -> Self {
        Self(archive)
    }
}

/// The bytes are not an archived mutation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an archived mutation")]
pub struct AccessError;

/// Archives a mutation.
///
/// # Panics
///
/// When the key is longer than [`KEY_LEN_MAX`].
#[must_use]
pub fn encode(mutation: &Mutation<'_>) -> AlignedVec {
    let mut bytes = AlignedVec::with_capacity(encoded_bytes(payload_bytes(mutation)));
    encode_into(mutation, &mut bytes);
    bytes
}

/// Appends the archive of a mutation to `bytes`.
///
/// # Panics
///
/// As [`encode`].
pub fn encode_into<const ALIGNMENT: usize>(
    mutation: &Mutation<'_>,
    bytes: &mut AlignedVec<ALIGNMENT>,
) {
    let Mutation { key, value, version, expires_at } = *mutation;
    assert!(key.len() <= KEY_LEN_MAX);
    let key_len = u32::try_from(key.len()).expect("it has 24 bits");
    let flags = if value.is_some() { HAS_VALUE } else { 0 }
        | if expires_at.is_some() { HAS_EXPIRY } else { 0 };
    let expiry = expires_at.map_or(0, WallTime::as_millis);
    bytes.reserve(encoded_bytes(payload_bytes(mutation)));
    bytes.extend_from_slice(key);
    bytes.extend_from_slice(value.unwrap_or_default());
    bytes.extend_from_slice(&version.timestamp.0.to_le_bytes());
    bytes.extend_from_slice(&(expiry | u64::from(version.node.0) << EXPIRY_BITS).to_le_bytes());
    bytes.extend_from_slice(&(key_len | flags).to_le_bytes());
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
    payload_bytes + ROOT_BYTES
}

/// Reads an archived mutation in place.
///
/// # Errors
///
/// [`AccessError`] when the bytes are anything but a mutation's archive.
#[inline]
pub fn access(bytes: &[u8]) -> Result<Mutation<'_>, AccessError> {
    let root = rkyv::access::<Root, rancor::Error>(bytes).map_err(|_| AccessError)?;
    let payload = &bytes[..bytes.len() - ROOT_BYTES];
    let key_len_and_flags = root.key_len_and_flags.to_native();
    let key_len = key_len_and_flags & ((1 << KEY_LEN_BITS) - 1);
    let flags = key_len_and_flags & !((1 << KEY_LEN_BITS) - 1);
    let (key, value) = payload.split_at_checked(key_len as usize).ok_or(AccessError)?;
    let (has_value, has_expiry) = (flags & HAS_VALUE != 0, flags & HAS_EXPIRY != 0);
    let expiry_and_node = root.expiry_and_node.to_native();
    let expiry = expiry_and_node & ((1 << EXPIRY_BITS) - 1);
    // One mutation has one archive.
    let is_canonical = flags & !(HAS_VALUE | HAS_EXPIRY) == 0
        && (has_value || value.is_empty())
        && (has_expiry || expiry == 0);
    if !is_canonical {
        return Err(AccessError);
    }
    let node = NodeId((expiry_and_node >> EXPIRY_BITS) as u16);
    let timestamp = Timestamp(root.timestamp.to_native());
    Ok(Mutation {
        key,
        value: has_value.then_some(value),
        version: Version { timestamp, node },
        expires_at: has_expiry.then(|| WallTime::from_millis(expiry)),
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
            // Wherever it begins.
            let shifted = [&[0], &bytes[..]].concat();
            prop_assert_eq!(access(&shifted[1..]), Ok(mutation));
        }

        #[test]
        fn a_draft_differs_from_try_to_try_in_nothing_but_its_version(
            key: Vec<u8>, value: Option<Vec<u8>>, tries: Vec<(u64, u16)>,
            expires_at in proptest::option::of(0_u64..1 << 48),
        ) {
            let expires_at = expires_at.map(WallTime::from_millis);
            let mut draft = Draft::new(&key, value.as_deref(), expires_at);
            let mut kept = Vec::new();
            for (timestamp, node) in tries {
                let version = Version { timestamp: Timestamp(timestamp), node: NodeId(node) };
                let mutation = Mutation { key: &key, value: value.as_deref(), version, expires_at };
                kept.push((draft.stamp(version), encode(&mutation)));
            }
            for (stamped, encoded) in kept {
                prop_assert_eq!(&stamped[..], &encoded[..]);
            }
        }

        #[test]
        fn arbitrary_bytes_are_refused_or_are_the_archive_of_what_is_read(bytes: Vec<u8>) {
            if let Ok(mutation) = access(&bytes) {
                prop_assert_eq!(&encode(&mutation)[..], &bytes[..]);
            }
        }

        #[test]
        fn a_damaged_archive_never_panics(at: usize, bit in 0..8) {
            let mutation = Mutation {
                key: b"key", value: Some(b"value"), version: Version::ZERO, expires_at: None,
            };
            let mut bytes = encode(&mutation);
            let at = at % bytes.len();
            bytes[at] ^= 1_u8 << bit;
            prop_assert_ne!(access(&bytes), Ok(mutation));
        }
    }
}
