//! What the index knows of a key, in 24 bytes.
//!
//! ```text
//!          63                               8 7            0
//!  word 0   position, without its first byte  fingerprint, high
//!          63                                      4 3     0
//!  word 1   timestamp                                fingerprint, low
//!          63       44 43        22 21         8 7     2 1 0
//!  word 2   file        granule      payload     node    t e
//! ```
//!
//! The first byte of the position is that of the part of the index in which the entry stands.
//! `t` marks a tombstone. `e` says that what the words have no room for is in an [`Extra`] beside:
//! an expiry, a payload of 16 KiB and more, a node from 64 on, a timestamp after the year 2500.
//! Entries are ordered by their words, so by position.

use gridkv_cluster::{NodeId, Timestamp, Version, WallTime};

use crate::disk::FileId;
use crate::file::format::{GRANULE_BYTES, SEGMENT_BYTES_MAX, u64_at};

/// First bits of a position that are not kept in an entry.
pub(super) const ROOT_BITS: u32 = 8;

const TIMESTAMP_SHIFT: u32 = 4;
const FILE_SHIFT: u32 = 44;
const GRANULE_SHIFT: u32 = 22;
const GRANULE_MASK: u64 = (1 << 22) - 1;
const PAYLOAD_SHIFT: u32 = 8;
const PAYLOAD_MASK: u64 = (1 << 14) - 1;
const NODE_SHIFT: u32 = 2;
const NODE_MASK: u64 = (1 << 6) - 1;
const TOMBSTONE: u64 = 2;
const HAS_EXTRA: u64 = 1;

/// Files that entries can point into.
pub(crate) const FILE_COUNT_MAX: u32 = 1 << 20;

const _: () = assert!(size_of::<Entry>() == 24);
const _: () = assert!(SEGMENT_BYTES_MAX <= (GRANULE_MASK as usize + 1) * GRANULE_BYTES);

/// Tells a key from all others, but for one chance in 2^76.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Ident {
    /// Where the key's token lies in the shard.
    pub(crate) position: u64,
    /// Twelve bits of another hash.
    pub(crate) fingerprint: u16,
}

/// Where a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    /// In which file.
    pub(crate) file: FileId,
    /// From which byte on, a multiple of [`GRANULE_BYTES`].
    pub(crate) offset: u32,
}

/// What the index knows of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Known {
    pub(crate) place: Place,
    pub(crate) version: Version,
    pub(crate) expires_at: Option<WallTime>,
    /// Bytes of key and value.
    pub(crate) payload_bytes: u32,
    pub(crate) is_tombstone: bool,
}

impl Known {
    fn is_plain(&self) -> bool {
        self.expires_at.is_none()
            && u64::from(self.payload_bytes) <= PAYLOAD_MASK
            && u64::from(self.version.node.0) <= NODE_MASK
            && self.version.timestamp.0 >> (64 - TIMESTAMP_SHIFT) == 0
    }
}

/// The part of an [`Ident`] that an entry has: its order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Sort(pub(super) u64, u8);

impl Sort {
    #[inline]
    pub(super) const fn of(ident: Ident) -> Self {
        Self(
            ident.position << ROOT_BITS | (ident.fingerprint as u64) >> 4,
            ident.fingerprint as u8 & 15,
        )
    }

    /// The ident, in the part of the index whose positions begin with `root`.
    pub(super) const fn ident(self, root: u64) -> Ident {
        Ident {
            position: root << (64 - ROOT_BITS) | self.0 >> ROOT_BITS,
            fingerprint: ((self.0 & 0xff) << 4) as u16 | self.1 as u16,
        }
    }
}

/// What an entry has no room for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Extra {
    pub(super) sort: Sort,
    version: Version,
    pub(super) expires_at: Option<WallTime>,
    payload_bytes: u32,
}

/// An entry.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry([u64; 3]);

impl Entry {
    /// The entry of a record, with what it has no room for.
    pub(super) fn new(sort: Sort, known: &Known) -> (Self, Option<Extra>) {
        assert!(known.place.file.0 < FILE_COUNT_MAX);
        assert!((known.place.offset as usize).is_multiple_of(GRANULE_BYTES));
        let is_plain = known.is_plain();
        let mut words = [sort.0, u64::from(sort.1), 0];
        words[2] = u64::from(known.place.file.0) << FILE_SHIFT
            | u64::from(known.place.offset / GRANULE_BYTES as u32) << GRANULE_SHIFT
            | if known.is_tombstone { TOMBSTONE } else { 0 };
        if is_plain {
            words[1] |= known.version.timestamp.0 << TIMESTAMP_SHIFT;
            words[2] |= u64::from(known.payload_bytes) << PAYLOAD_SHIFT
                | u64::from(known.version.node.0) << NODE_SHIFT;
            return (Self(words), None);
        }
        words[2] |= HAS_EXTRA;
        let extra = Extra {
            sort,
            version: known.version,
            expires_at: known.expires_at,
            payload_bytes: known.payload_bytes,
        };
        (Self(words), Some(extra))
    }

    #[inline]
    pub(super) const fn sort(&self) -> Sort {
        Sort(self.0[0], self.0[1] as u8 & 15)
    }

    #[inline]
    pub(super) const fn has_extra(&self) -> bool {
        self.0[2] & HAS_EXTRA != 0
    }

    /// Where the record is.
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "the fields are masked to their bits")]
    pub(super) const fn place(&self) -> Place {
        Place {
            file: FileId((self.0[2] >> FILE_SHIFT) as u32),
            offset: (self.0[2] >> GRANULE_SHIFT & GRANULE_MASK) as u32 * GRANULE_BYTES as u32,
        }
    }

    /// Points the entry elsewhere.
    pub(super) fn set_place(&mut self, place: Place) {
        let kept = self.0[2] & ((1 << GRANULE_SHIFT) - 1);
        self.0[2] = kept
            | u64::from(place.file.0) << FILE_SHIFT
            | u64::from(place.offset / GRANULE_BYTES as u32) << GRANULE_SHIFT;
    }

    /// What the entry and its extra say.
    #[inline]
    pub(super) fn known(&self, extra: Option<&Extra>) -> Known {
        let place = self.place();
        let is_tombstone = self.0[2] & TOMBSTONE != 0;
        if let Some(Extra { version, expires_at, payload_bytes, .. }) = extra.copied() {
            return Known { place, version, expires_at, payload_bytes, is_tombstone };
        }
        let version = Version {
            timestamp: Timestamp(self.0[1] >> TIMESTAMP_SHIFT),
            node: NodeId((self.0[2] >> NODE_SHIFT & NODE_MASK) as u16),
        };
        let payload_bytes = (self.0[2] >> PAYLOAD_SHIFT & PAYLOAD_MASK) as u32;
        Known { place, version, expires_at: None, payload_bytes, is_tombstone }
    }
}

/// Bytes of an entry in a dump.
pub(super) const ENTRY_DUMP_BYTES: usize = 24;
/// Bytes of an extra in a dump.
pub(super) const EXTRA_DUMP_BYTES: usize = 40;

impl Entry {
    /// Appends the entry to a dump.
    pub(super) fn dump(&self, out: &mut Vec<u8>) {
        self.0.iter().for_each(|word| out.extend_from_slice(&word.to_le_bytes()));
    }

    /// The entry of a dump.
    pub(super) fn read(bytes: &[u8]) -> Self {
        Self([0, 8, 16].map(|at| u64_at(bytes, at)))
    }
}

impl Extra {
    /// Appends the extra to a dump.
    pub(super) fn dump(&self, out: &mut Vec<u8>) {
        let expiry = self.expires_at.map_or(0, WallTime::as_millis) | u64::from(self.sort.1) << 56;
        out.extend_from_slice(&self.sort.0.to_le_bytes());
        out.extend_from_slice(&expiry.to_le_bytes());
        out.extend_from_slice(&self.version.timestamp.0.to_le_bytes());
        out.extend_from_slice(&u64::from(self.version.node.0).to_le_bytes());
        out.extend_from_slice(&u64::from(self.payload_bytes).to_le_bytes());
    }

    /// The extra of a dump.
    #[expect(clippy::cast_possible_truncation, reason = "the fields were of these types")]
    pub(super) fn read(bytes: &[u8]) -> Self {
        let expiry = u64_at(bytes, 8);
        let expires_at = expiry & ((1 << 48) - 1);
        Self {
            sort: Sort(u64_at(bytes, 0), (expiry >> 56) as u8),
            version: Version {
                timestamp: Timestamp(u64_at(bytes, 16)),
                node: NodeId(u64_at(bytes, 24) as u16),
            },
            expires_at: (expires_at != 0).then(|| WallTime::from_millis(expires_at)),
            payload_bytes: u64_at(bytes, 32) as u32,
        }
    }
}
