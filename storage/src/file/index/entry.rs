//! What the index knows of a key, in 26 bytes.
//!
//! ```text
//!            63                                 8 7              0
//!  word 0    position, without its first byte     fingerprint, high
//!            63                                        4 3       0
//!  word 1    timestamp                                   fingerprint, middle
//!            63      45 44          22 21         8 7     2 1 0
//!  word 2    file       granule        payload      node    t e
//!            15                     0
//!  half      fingerprint, low
//! ```
//!
//! The first byte of the position is that of the part of the index in which the entry stands.
//! `t` marks a tombstone. `e` says that what the words have no room for is in an [`Extra`] beside:
//! an expiry, a payload of 16 KiB and more, a node from 64 on, a timestamp after the year 2500.
//! Entries are ordered by position, then fingerprint.
//!
//! # How many bits tell keys apart
//!
//! Keys of one hash tag share 14 bits of their position, which leaves 50 and the fingerprint's 28.
//! Of ten million such keys some two look alike with a chance of 10^14 / 2 / 2^78, which is below
//! 10^-9 (2 in 10^10); of ten million keys with nothing in common, with one of 10^-14.

use gridkv_cluster::{NodeId, Timestamp, Version, WallTime};

use crate::disk::FileId;
use crate::file::format::{self, GRANULE_BYTES, SEGMENT_BYTES_MAX, u64_at};

/// First bits of a position that are not kept in an entry.
pub(super) const ROOT_BITS: u32 = 8;
/// Bits of a key's second hash.
pub(crate) const FINGERPRINT_BITS: u32 = 28;

/// Bits of a fingerprint that stand in word 0, those that stand in word 1, and the half's.
const HIGH_BITS: u32 = ROOT_BITS;
const MIDDLE_BITS: u32 = 4;
const LOW_BITS: u32 = u16::BITS;
const MIDDLE_MASK: u64 = (1 << MIDDLE_BITS) - 1;

const GRANULE_BITS: u32 = 23;
const FILE_BITS: u32 = 19;
const PAYLOAD_BITS: u32 = 14;
const NODE_BITS: u32 = 6;

const TIMESTAMP_SHIFT: u32 = MIDDLE_BITS;
const FILE_SHIFT: u32 = GRANULE_SHIFT + GRANULE_BITS;
const GRANULE_SHIFT: u32 = PAYLOAD_SHIFT + PAYLOAD_BITS;
const GRANULE_MASK: u64 = (1 << GRANULE_BITS) - 1;
const PAYLOAD_SHIFT: u32 = NODE_SHIFT + NODE_BITS;
const PAYLOAD_MASK: u64 = (1 << PAYLOAD_BITS) - 1;
const NODE_SHIFT: u32 = 2;
const NODE_MASK: u64 = (1 << NODE_BITS) - 1;
const TOMBSTONE: u64 = 2;
const HAS_EXTRA: u64 = 1;

/// Files that entries can point into.
pub(crate) const FILE_COUNT_MAX: u32 = 1 << FILE_BITS;

const _: () = assert!(size_of::<Entry>() == ENTRY_DUMP_BYTES);
const _: () = assert!(HIGH_BITS + MIDDLE_BITS + LOW_BITS == FINGERPRINT_BITS);
const _: () = assert!(format::FINGERPRINT_BITS <= FINGERPRINT_BITS);
const _: () = assert!(FILE_SHIFT + FILE_BITS == u64::BITS);
const _: () = assert!(SEGMENT_BYTES_MAX <= (GRANULE_MASK as usize + 1) * GRANULE_BYTES);

/// Tells a key from all others, but for one chance in 2^92.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Ident {
    /// Where the key's token lies in the shard.
    pub(crate) position: u64,
    /// [`FINGERPRINT_BITS`] bits of another hash.
    pub(crate) fingerprint: u32,
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
    /// When the value stops to exist; of a tombstone, when the value has that was freed.
    pub(crate) expires_at: Option<WallTime>,
    /// Bytes of key and value.
    pub(crate) payload_bytes: u32,
    pub(crate) is_tombstone: bool,
}

impl Known {
    /// Whether there is a value that can expire.
    pub(super) const fn can_expire(&self) -> bool {
        self.expires_at.is_some() && !self.is_tombstone
    }

    fn is_plain(&self) -> bool {
        self.expires_at.is_none()
            && u64::from(self.payload_bytes) <= PAYLOAD_MASK
            && u64::from(self.version.node.0) <= NODE_MASK
            && self.version.timestamp.0 >> (64 - TIMESTAMP_SHIFT) == 0
    }
}

/// The part of an [`Ident`] that an entry has: its order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Sort {
    /// The position after its first byte, then the first bits of the fingerprint.
    pub(super) high: u64,
    /// The other bits of the fingerprint.
    low: u32,
}

impl Sort {
    #[inline]
    pub(super) const fn of(ident: Ident) -> Self {
        debug_assert!(ident.fingerprint >> FINGERPRINT_BITS == 0);
        Self {
            high: ident.position << ROOT_BITS
                | (ident.fingerprint >> (MIDDLE_BITS + LOW_BITS)) as u64,
            low: ident.fingerprint & ((1 << (MIDDLE_BITS + LOW_BITS)) - 1),
        }
    }

    /// The ident, in the part of the index whose positions begin with `root`.
    pub(super) const fn ident(self, root: u8) -> Ident {
        let high = (self.high & ((1 << HIGH_BITS) - 1)) as u32;
        Ident {
            position: (root as u64) << (64 - ROOT_BITS) | self.high >> ROOT_BITS,
            fingerprint: high << (MIDDLE_BITS + LOW_BITS) | self.low,
        }
    }
}

/// What an entry has no room for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Extra {
    pub(super) sort: Sort,
    version: Version,
    expires_at: Option<WallTime>,
    payload_bytes: u32,
    /// The value was freed: it does not expire any more.
    has_ended: bool,
}

/// An entry.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry([u8; ENTRY_DUMP_BYTES]);

impl Entry {
    /// The entry of a record, with what it has no room for.
    pub(super) fn new(sort: Sort, known: &Known) -> (Self, Option<Extra>) {
        let (mut middle, mut rest) = (u64::from(sort.low >> LOW_BITS), place_bits(known.place));
        rest |= if known.is_tombstone { TOMBSTONE } else { 0 };
        let mut extra = None;
        if known.is_plain() {
            middle |= known.version.timestamp.0 << TIMESTAMP_SHIFT;
            rest |= u64::from(known.payload_bytes) << PAYLOAD_SHIFT
                | u64::from(known.version.node.0) << NODE_SHIFT;
        } else {
            rest |= HAS_EXTRA;
            extra = Some(Extra {
                sort,
                version: known.version,
                expires_at: known.expires_at,
                payload_bytes: known.payload_bytes,
                has_ended: known.is_tombstone,
            });
        }
        let mut bytes = [0; ENTRY_DUMP_BYTES];
        bytes[..8].copy_from_slice(&sort.high.to_le_bytes());
        bytes[8..16].copy_from_slice(&middle.to_le_bytes());
        bytes[16..24].copy_from_slice(&rest.to_le_bytes());
        #[expect(clippy::cast_possible_truncation, reason = "the lower half is meant")]
        bytes[24..].copy_from_slice(&(sort.low as u16).to_le_bytes());
        (Self(bytes), extra)
    }

    #[inline]
    fn word(&self, at: usize) -> u64 {
        u64_at(&self.0, at * 8)
    }

    #[inline]
    pub(super) fn sort(&self) -> Sort {
        let middle = (self.word(1) & MIDDLE_MASK) as u32;
        let half = u16::from_le_bytes([self.0[24], self.0[25]]);
        Sort { high: self.word(0), low: middle << LOW_BITS | u32::from(half) }
    }

    #[inline]
    pub(super) fn has_extra(&self) -> bool {
        self.word(2) & HAS_EXTRA != 0
    }

    /// Where the record is.
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "the fields are masked to their bits")]
    pub(super) fn place(&self) -> Place {
        let rest = self.word(2);
        Place {
            file: FileId((rest >> FILE_SHIFT) as u32),
            offset: (rest >> GRANULE_SHIFT & GRANULE_MASK) as u32 * GRANULE_BYTES as u32,
        }
    }

    /// Points the entry elsewhere.
    pub(super) fn set_place(&mut self, place: Place) {
        let kept = self.word(2) & ((1 << GRANULE_SHIFT) - 1);
        self.0[16..24].copy_from_slice(&(kept | place_bits(place)).to_le_bytes());
    }

    /// What the entry and its extra say.
    #[inline]
    pub(super) fn known(&self, extra: Option<&Extra>) -> Known {
        let place = self.place();
        let rest = self.word(2);
        let is_tombstone = rest & TOMBSTONE != 0;
        if let Some(Extra { version, expires_at, payload_bytes, .. }) = extra.copied() {
            return Known { place, version, expires_at, payload_bytes, is_tombstone };
        }
        let version = Version {
            timestamp: Timestamp(self.word(1) >> TIMESTAMP_SHIFT),
            node: NodeId((rest >> NODE_SHIFT & NODE_MASK) as u16),
        };
        let payload_bytes = (rest >> PAYLOAD_SHIFT & PAYLOAD_MASK) as u32;
        Known { place, version, expires_at: None, payload_bytes, is_tombstone }
    }
}

/// The bits of an entry that tell a place.
fn place_bits(place: Place) -> u64 {
    let granule = u64::from(place.offset / GRANULE_BYTES as u32);
    assert!(place.file.0 < FILE_COUNT_MAX);
    assert!((place.offset as usize).is_multiple_of(GRANULE_BYTES));
    assert!(granule <= GRANULE_MASK);
    u64::from(place.file.0) << FILE_SHIFT | granule << GRANULE_SHIFT
}

/// Bytes of an entry, in a dump and in memory.
pub(super) const ENTRY_DUMP_BYTES: usize = 26;
/// Bytes of an extra in a dump.
pub(super) const EXTRA_DUMP_BYTES: usize = 40;

impl Entry {
    /// Appends the entry to a dump.
    pub(super) fn dump(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.0);
    }

    /// The entry of a dump.
    pub(super) fn read(bytes: &[u8]) -> Self {
        Self(bytes.try_into().expect("an entry is cut out of a dump whole"))
    }
}

impl Extra {
    /// When its value expires.
    pub(super) fn expires_at(&self) -> Option<WallTime> {
        self.expires_at.filter(|_| !self.has_ended)
    }

    /// Appends the extra to a dump.
    pub(super) fn dump(&self, out: &mut Vec<u8>) {
        let node = u64::from(self.version.node.0)
            | u64::from(self.has_ended) << 16
            | u64::from(self.sort.low) << 32;
        out.extend_from_slice(&self.sort.high.to_le_bytes());
        out.extend_from_slice(&self.expires_at.map_or(0, WallTime::as_millis).to_le_bytes());
        out.extend_from_slice(&self.version.timestamp.0.to_le_bytes());
        out.extend_from_slice(&node.to_le_bytes());
        out.extend_from_slice(&u64::from(self.payload_bytes).to_le_bytes());
    }

    /// The extra of a dump.
    #[expect(clippy::cast_possible_truncation, reason = "the fields were of these types")]
    pub(super) fn read(bytes: &[u8]) -> Self {
        let (expires_at, node) = (u64_at(bytes, 8), u64_at(bytes, 24));
        Self {
            sort: Sort { high: u64_at(bytes, 0), low: (node >> 32) as u32 },
            version: Version { timestamp: Timestamp(u64_at(bytes, 16)), node: NodeId(node as u16) },
            expires_at: (expires_at != 0).then(|| WallTime::from_millis(expires_at)),
            payload_bytes: u64_at(bytes, 32) as u32,
            has_ended: node >> 16 & 1 == 1,
        }
    }
}
