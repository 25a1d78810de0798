//! The bytes of a log file: a *segment* of one shard's log.
//!
//! ```text
//!  0         4096                                                        segment_bytes
//!  +---------+--------+--------+-- ... --+--------+- - - - - -+----------+---------+
//!  | segment | commit | commit |         | commit |  zeros    | contents | trailer |
//!  | header  |        |        |         |        |           |          |         |
//!  +---------+--------+--------+-- ... --+--------+- - - - - -+----------+---------+
//!
//!  commit, begins at a block        0        8        12       16       20       24
//!                                   +--------+--------+--------+--------+--------+
//!                                   | check- | seg-   | index  | bytes  | records|
//!                                   | sum    | ment   |        |        |        |
//!                                   +--------+--------+--------+--------+--------+
//!                                   24       28       32              40     44     48
//!                                   +--------+--------+---------------+------+------+
//!                                   | durable| durable| highest       | node | seal-| records, then
//!                                   | segment| offset | timestamp     |      | ed   | zeros to a block
//!                                   +--------+--------+---------------+------+------+
//!
//!  record, begins at a granule      0        8        12       16       20       24
//!  of 16 bytes                      +--------+--------+--------+--------+--------+-----------
//!                                   | check- | archive| se-    | key len| origin | archived
//!                                   | sum    | bytes  | quence | | kind |        | mutation
//!                                   +--------+--------+--------+--------+--------+-----------
//!
//!  contents, 32 bytes a record      token | timestamp | expiry or origin, node | place, size, kind
//!  trailer, 64 bytes                checksum | magic | segment | count | data_end | highest version
//! ```
//!
//! Integers are little-endian. Checksums are xxh3-64 over what follows them (the trailer's over the
//! contents too), and mixed with the segment's number: a file that is used again holds
//! bytes of its former life, none of which pass for the present one's.
//!
//! A record is valid if its length stays within its commit, its checksum holds and its archive can
//! be accessed. A commit says from where on the log was durable when it was written: what is invalid
//! *before* that place was damaged later; what is invalid behind it was never acknowledged, and is
//! cut off.
//!
//! `origin` is the segment in which a tombstone was first written: it is needed for as long as there
//! are segments before that one, whose records it may cover.

use gridkv_cluster::mutation::{access, encode_into, encoded_bytes};
use gridkv_cluster::{Mutation, NodeId, Timestamp, Token, Version, WallTime};
use xxhash_rust::xxh3::xxh3_64;

use crate::disk::{BLOCK_BYTES, Buffer};

/// The format that this program writes.
pub(crate) const FORMAT: u32 = 2;
/// The oldest format that it reads. Format 1 knows no promises.
pub(crate) const FORMAT_MIN: u32 = 1;
/// Records begin at multiples of this.
pub(crate) const GRANULE_BYTES: usize = 16;
/// Size of a commit's header.
pub(crate) const COMMIT_HEADER_BYTES: usize = 48;
/// Size of a record's header.
pub(crate) const RECORD_HEADER_BYTES: usize = 24;
/// Size of an entry of the contents.
pub(crate) const ENTRY_BYTES: usize = 32;
/// Size of the trailer.
pub(crate) const TRAILER_BYTES: usize = 64;

const SEGMENT_MAGIC: u64 = u64::from_le_bytes(*b"GridKVsg");
const TRAILER_MAGIC: u64 = u64::from_le_bytes(*b"GridKVtr");
/// Size of the segment's header, in each format.
const SEGMENT_HEADER_BYTES: [usize; FORMAT as usize + 1] = [0, 64, 80];

const _: () = assert!(COMMIT_HEADER_BYTES.is_multiple_of(GRANULE_BYTES));
const _: () = assert!(RECORD_HEADER_BYTES.is_multiple_of(8));
const _: () = assert!(BLOCK_BYTES.is_multiple_of(ENTRY_BYTES));

/// The place of a segment in its shard's log. Files are used again, numbers are not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct SegmentId(pub(crate) u32);

/// What a record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A key has a value.
    Value,
    /// A key has none.
    Tombstone,
    /// No key has a value of this version or an older one.
    Clear,
    /// The shard accepts nothing of this version or an older one but from whom it was promised to.
    Promise,
}

impl Kind {
    const fn code(self) -> u8 {
        match self {
            Self::Value => 1,
            Self::Tombstone => 2,
            Self::Clear => 3,
            // The two bits that contents have for it can tell no fourth kind but this.
            Self::Promise => 0,
        }
    }

    /// Whether the record has to be kept for as long as there may be one that it covers.
    pub(crate) const fn covers(self) -> bool {
        matches!(self, Self::Tombstone | Self::Clear)
    }

    const fn of(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::Value),
            2 => Some(Self::Tombstone),
            3 => Some(Self::Clear),
            0 => Some(Self::Promise),
            _ => None,
        }
    }
}

/// Sets a checksum apart for a segment.
const fn mix(segment: SegmentId) -> u64 {
    (segment.0 as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

fn checksum(bytes: &[u8], segment: SegmentId) -> u64 {
    xxh3_64(bytes) ^ mix(segment)
}

pub(in crate::file) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

pub(in crate::file) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes[at..at + 2].try_into().expect("two bytes"))
}

/// Bytes that a record takes, for `payload_bytes` of key and value.
pub(crate) const fn record_bytes(payload_bytes: usize) -> usize {
    (RECORD_HEADER_BYTES + encoded_bytes(payload_bytes)).next_multiple_of(GRANULE_BYTES)
}

/// Bytes at the end of a segment that contents of `count` records take, trailer included.
pub(crate) const fn contents_bytes(count: usize) -> usize {
    (count * ENTRY_BYTES + TRAILER_BYTES).next_multiple_of(BLOCK_BYTES)
}

/// What stands at the beginning of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    /// `None`: the file is free, whatever it holds.
    pub(crate) segment: Option<SegmentId>,
    /// The highest version that the log had seen.
    pub(crate) version_max: Version,
    /// No key without a record has a version above this one's.
    pub(crate) floor: Version,
    /// The highest promise.
    pub(crate) promised: Version,
}

/// What the first block of a file may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FirstBlock {
    /// A header.
    Header(SegmentHeader),
    /// Zeros: a file that was never used.
    Blank,
    /// A header of another format.
    Unknown(u32),
    /// Neither.
    Damaged,
}

impl SegmentHeader {
    /// The first block.
    pub(crate) fn encode(&self) -> Buffer {
        let mut block = Buffer::with_capacity(BLOCK_BYTES);
        block.extend_from_slice(&[0; 8]);
        block.extend_from_slice(&SEGMENT_MAGIC.to_le_bytes());
        block.extend_from_slice(&FORMAT.to_le_bytes());
        block.extend_from_slice(&self.segment.map_or(u32::MAX, |it| it.0).to_le_bytes());
        for version in [self.version_max, self.floor, self.promised] {
            block.extend_from_slice(&version.timestamp.0.to_le_bytes());
            block.extend_from_slice(&u64::from(version.node.0).to_le_bytes());
        }
        block.resize(SEGMENT_HEADER_BYTES[FORMAT as usize], 0);
        let sum = xxh3_64(&block[8..]);
        block[..8].copy_from_slice(&sum.to_le_bytes());
        block.resize(BLOCK_BYTES, 0);
        block
    }
}

/// Reads the first block of a file.
pub(crate) fn first_block(block: &[u8]) -> FirstBlock {
    if block.iter().all(|byte| *byte == 0) {
        return FirstBlock::Blank;
    }
    if block.len() < BLOCK_BYTES || u64_at(block, 8) != SEGMENT_MAGIC {
        return FirstBlock::Damaged;
    }
    let format = u32_at(block, 16);
    if !(FORMAT_MIN..=FORMAT).contains(&format) {
        return FirstBlock::Unknown(format);
    }
    if u64_at(block, 0) != xxh3_64(&block[8..SEGMENT_HEADER_BYTES[format as usize]]) {
        return FirstBlock::Damaged;
    }
    let segment = u32_at(block, 20);
    FirstBlock::Header(SegmentHeader {
        segment: (segment != u32::MAX).then_some(SegmentId(segment)),
        version_max: version_at(block, 24),
        floor: version_at(block, 40),
        // Zeros in format 1.
        promised: version_at(block, 56),
    })
}

/// Writes what [`version_at`] reads: 16 bytes.
pub(in crate::file) fn write_version(bytes: &mut [u8], version: Version) {
    bytes[..8].copy_from_slice(&version.timestamp.0.to_le_bytes());
    bytes[8..10].copy_from_slice(&version.node.0.to_le_bytes());
}

pub(in crate::file) fn version_at(bytes: &[u8], at: usize) -> Version {
    Version { timestamp: Timestamp(u64_at(bytes, at)), node: NodeId(u16_at(bytes, at + 8)) }
}

/// What stands at the beginning of a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CommitHeader {
    /// Which of its segment, from 0.
    pub(crate) index: u32,
    /// Its length with this header, padding excluded.
    pub(crate) bytes: u32,
    /// How many records it has.
    pub(crate) record_count: u32,
    /// The log was durable up to this segment and offset when the commit was written.
    pub(crate) durable: (SegmentId, u32),
    /// The highest version that the log had seen.
    pub(crate) version_max: Version,
    /// All segments before this one were sealed.
    pub(crate) sealed_before: SegmentId,
}

impl CommitHeader {
    /// Writes the header over the first bytes of a commit.
    pub(crate) fn write(&self, segment: SegmentId, commit: &mut [u8]) {
        let header = &mut commit[..COMMIT_HEADER_BYTES];
        header[8..12].copy_from_slice(&segment.0.to_le_bytes());
        header[12..16].copy_from_slice(&self.index.to_le_bytes());
        header[16..20].copy_from_slice(&self.bytes.to_le_bytes());
        header[20..24].copy_from_slice(&self.record_count.to_le_bytes());
        header[24..28].copy_from_slice(&self.durable.0.0.to_le_bytes());
        header[28..32].copy_from_slice(&self.durable.1.to_le_bytes());
        header[32..40].copy_from_slice(&self.version_max.timestamp.0.to_le_bytes());
        header[40..42].copy_from_slice(&self.version_max.node.0.to_le_bytes());
        header[44..48].copy_from_slice(&self.sealed_before.0.to_le_bytes());
        let sum = checksum(&header[8..], segment);
        header[..8].copy_from_slice(&sum.to_le_bytes());
    }

    /// Reads a commit's header, if there is one of this segment.
    pub(crate) fn read(segment: SegmentId, bytes: &[u8]) -> Option<Self> {
        let header = bytes.get(..COMMIT_HEADER_BYTES)?;
        let is_valid = u32_at(header, 8) == segment.0
            && u64_at(header, 0) == checksum(&header[8..], segment)
            && u32_at(header, 16) as usize >= COMMIT_HEADER_BYTES;
        is_valid.then(|| Self {
            index: u32_at(header, 12),
            bytes: u32_at(header, 16),
            record_count: u32_at(header, 20),
            durable: (SegmentId(u32_at(header, 24)), u32_at(header, 28)),
            version_max: version_at(header, 32),
            sealed_before: SegmentId(u32_at(header, 44)),
        })
    }
    /// Whether bytes that are no valid header were the one of commit `index`, as far as its other
    /// fields can tell when one is damaged. A write that was cut short leaves none such: a header
    /// lies within one sector of the disk.
    pub(crate) fn was(segment: SegmentId, index: u32, bytes: &[u8]) -> bool {
        let Some(header) = bytes.get(..COMMIT_HEADER_BYTES) else { return false };
        let (commit_bytes, record_count) = (u32_at(header, 16), u32_at(header, 20));
        let is_sensible = (1..=commit_bytes / record_bytes(0) as u32).contains(&record_count);
        let mut restored = [0; COMMIT_HEADER_BYTES];
        restored.copy_from_slice(header);
        restored[8..12].copy_from_slice(&segment.0.to_le_bytes());
        let is_restored = u64_at(header, 0) == checksum(&restored[8..], segment);
        let is_next = u32_at(header, 12) == index;
        is_restored || (u32_at(header, 8) == segment.0 && (is_next || is_sensible))
    }
}

/// What a record is besides its mutation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RecordHeader {
    /// What it says.
    pub(crate) kind: Kind,
    /// Which of its segment, from 0.
    pub(crate) sequence: u32,
    /// For a tombstone, the segment in which it was first written.
    pub(crate) origin: SegmentId,
}

/// Appends a record to a commit. `commit` ends at a granule, before and after.
pub(crate) fn append_record(
    segment: SegmentId,
    header: RecordHeader,
    mutation: &Mutation<'_>,
    commit: &mut Buffer,
) {
    assert!(commit.len().is_multiple_of(GRANULE_BYTES));
    let start = commit.len();
    let key_len = u32::try_from(mutation.key.len()).expect("a key has at most 64 KiB");
    assert!(key_len < 1 << 24);
    let mut bytes = [0; RECORD_HEADER_BYTES];
    bytes[12..16].copy_from_slice(&header.sequence.to_le_bytes());
    let packed = key_len | u32::from(header.kind.code()) << 24;
    bytes[16..20].copy_from_slice(&packed.to_le_bytes());
    bytes[20..24].copy_from_slice(&header.origin.0.to_le_bytes());
    commit.extend_from_slice(&bytes);
    encode_into(mutation, commit);
    let end = commit.len();
    let archive_bytes = u32::try_from(end - start - RECORD_HEADER_BYTES);
    let archive_bytes = archive_bytes.expect("a record fits into a segment");
    let record = &mut commit[start..end];
    record[8..12].copy_from_slice(&archive_bytes.to_le_bytes());
    let sum = checksum(&record[8..], segment);
    record[..8].copy_from_slice(&sum.to_le_bytes());
    commit.resize(end.next_multiple_of(GRANULE_BYTES), 0);
}

/// A valid record.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Record<'a> {
    /// What it is besides its mutation.
    pub(crate) header: RecordHeader,
    /// Its mutation, borrowed from the bytes.
    pub(crate) mutation: Mutation<'a>,
    /// Bytes that it takes, padding included.
    pub(crate) bytes: usize,
}

/// Reads the record at the beginning of `bytes`, which are aligned to eight; `None` where there is
/// no valid one.
pub(crate) fn read_record(segment: SegmentId, bytes: &[u8]) -> Option<Record<'_>> {
    let header = bytes.get(..RECORD_HEADER_BYTES)?;
    let end = RECORD_HEADER_BYTES.checked_add(u32_at(header, 8) as usize)?;
    let whole = bytes.get(..end)?;
    if u64_at(header, 0) != checksum(&whole[8..], segment) {
        return None;
    }
    let packed = u32_at(header, 16);
    let kind = Kind::of((packed >> 24) as u8)?;
    let mutation = access(&whole[RECORD_HEADER_BYTES..]).ok()?;
    let is_consistent = mutation.key.len() == (packed & 0xff_ffff) as usize
        && mutation.value.is_some() == (kind == Kind::Value);
    let header =
        RecordHeader { kind, sequence: u32_at(header, 12), origin: SegmentId(u32_at(header, 20)) };
    let record = Record { header, mutation, bytes: end.next_multiple_of(GRANULE_BYTES) };
    is_consistent.then_some(record)
}

/// The key of the record at the beginning of `bytes`, which may end before the record does. Only
/// the caller, who knows the key's token, can tell whether it is right.
pub(crate) fn read_key(bytes: &[u8]) -> Option<&[u8]> {
    let header = bytes.get(..RECORD_HEADER_BYTES)?;
    let key_len = (u32_at(header, 16) & 0xff_ffff) as usize;
    bytes.get(RECORD_HEADER_BYTES..RECORD_HEADER_BYTES + key_len)
}

/// The key of a record and the bytes that the record takes, unchecked, for fetching ahead.
pub(crate) fn record_key(bytes: &[u8]) -> Option<(&[u8], usize)> {
    let key = read_key(bytes)?;
    let end = RECORD_HEADER_BYTES.checked_add(u32_at(bytes, 8) as usize)?;
    (end <= bytes.len()).then(|| (key, end.next_multiple_of(GRANULE_BYTES)))
}

/// An entry of a segment's contents: what the index needs of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) token: Token,
    /// Tells keys of one token apart, 12 bits.
    pub(crate) fingerprint: u32,
    pub(crate) version: Version,
    pub(crate) expires_at: Option<WallTime>,
    pub(crate) kind: Kind,
    /// For a tombstone, the segment in which it was first written.
    pub(crate) origin: SegmentId,
    /// Where the record begins, in bytes from the beginning of the file.
    pub(crate) offset: u32,
    /// Bytes of key and value.
    pub(crate) payload_bytes: u32,
}

const OFFSET_BITS: u32 = 22;
const PAYLOAD_BITS: u32 = 28;
/// Bits of a key's second hash that an entry tells.
pub(crate) const FINGERPRINT_BITS: u32 = 12;

/// Largest payload that an entry can tell.
pub(crate) const PAYLOAD_BYTES_MAX: usize = (1 << PAYLOAD_BITS) - 1;
/// Largest segment.
pub(crate) const SEGMENT_BYTES_MAX: usize = GRANULE_BYTES << OFFSET_BITS;

const _: () = assert!(OFFSET_BITS + PAYLOAD_BITS + FINGERPRINT_BITS + 2 == 64);

impl Entry {
    /// Appends the entry to contents.
    pub(crate) fn append(&self, contents: &mut Buffer) {
        let extra = match self.kind {
            Kind::Value => self.expires_at.map_or(0, WallTime::as_millis),
            Kind::Tombstone | Kind::Clear | Kind::Promise => u64::from(self.origin.0),
        };
        let place = u64::from(self.offset / GRANULE_BYTES as u32)
            | u64::from(self.payload_bytes) << OFFSET_BITS
            | u64::from(self.fingerprint) << (OFFSET_BITS + PAYLOAD_BITS)
            | u64::from(self.kind.code()) << (OFFSET_BITS + PAYLOAD_BITS + FINGERPRINT_BITS);
        contents.extend_from_slice(&self.token.0.to_le_bytes());
        contents.extend_from_slice(&self.version.timestamp.0.to_le_bytes());
        contents.extend_from_slice(&(extra | u64::from(self.version.node.0) << 48).to_le_bytes());
        contents.extend_from_slice(&place.to_le_bytes());
    }

    #[expect(clippy::cast_possible_truncation, reason = "the fields are masked to their bits")]
    fn read(bytes: &[u8]) -> Option<Self> {
        let (extra, place) = (u64_at(bytes, 16), u64_at(bytes, 24));
        let kind = Kind::of((place >> (OFFSET_BITS + PAYLOAD_BITS + FINGERPRINT_BITS)) as u8)?;
        let node = NodeId((extra >> 48) as u16);
        let extra = extra & ((1 << 48) - 1);
        let is_value = kind == Kind::Value;
        Some(Self {
            token: Token(u64_at(bytes, 0)),
            fingerprint: (place >> (OFFSET_BITS + PAYLOAD_BITS)) as u32
                & ((1 << FINGERPRINT_BITS) - 1),
            version: Version { timestamp: Timestamp(u64_at(bytes, 8)), node },
            expires_at: (is_value && extra != 0).then(|| WallTime::from_millis(extra)),
            kind,
            origin: SegmentId(if is_value { 0 } else { extra as u32 }),
            offset: (place as u32 & ((1 << OFFSET_BITS) - 1)) * GRANULE_BYTES as u32,
            payload_bytes: (place >> OFFSET_BITS) as u32 & ((1 << PAYLOAD_BITS) - 1),
        })
    }
}

/// What closes a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Trailer {
    /// Records in the segment.
    pub(crate) count: u32,
    /// Where the last commit ends.
    pub(crate) data_end: u32,
    /// The highest version that the log had seen.
    pub(crate) version_max: Version,
}

/// The trailer of contents whose entries hash to `entries_sum`.
pub(crate) fn encode_trailer(
    segment: SegmentId,
    trailer: &Trailer,
    entries_sum: u64,
) -> [u8; TRAILER_BYTES] {
    let mut bytes = [0; TRAILER_BYTES];
    bytes[8..16].copy_from_slice(&TRAILER_MAGIC.to_le_bytes());
    bytes[16..20].copy_from_slice(&segment.0.to_le_bytes());
    bytes[20..24].copy_from_slice(&trailer.count.to_le_bytes());
    bytes[24..28].copy_from_slice(&trailer.data_end.to_le_bytes());
    write_version(&mut bytes[32..48], trailer.version_max);
    let sum = entries_sum ^ mix(segment) ^ xxh3_64(&bytes[8..]);
    bytes[..8].copy_from_slice(&sum.to_le_bytes());
    bytes
}

/// Reads the trailer from the last bytes of a file, if the segment is sealed. Its checksum is that
/// of the contents, which [`read_contents`] checks.
pub(crate) fn read_trailer(segment: SegmentId, tail: &[u8]) -> Option<Trailer> {
    let bytes = tail.get(tail.len().checked_sub(TRAILER_BYTES)?..)?;
    let is_trailer = u64_at(bytes, 8) == TRAILER_MAGIC && u32_at(bytes, 16) == segment.0;
    is_trailer.then(|| Trailer {
        count: u32_at(bytes, 20),
        data_end: u32_at(bytes, 24),
        version_max: version_at(bytes, 32),
    })
}

/// Reads the contents from the last [`contents_bytes`] of a file; `None` where they are damaged.
pub(crate) fn read_contents(segment: SegmentId, tail: &[u8]) -> Option<Vec<Entry>> {
    let trailer = read_trailer(segment, tail)?;
    let end = trailer.count as usize * ENTRY_BYTES;
    let trailer_at = tail.len() - TRAILER_BYTES;
    if end > trailer_at {
        return None;
    }
    let sum = checksum(&tail[..end], segment) ^ xxh3_64(&tail[trailer_at + 8..]);
    if u64_at(tail, trailer_at) != sum {
        return None;
    }
    tail[..end].chunks_exact(ENTRY_BYTES).map(Entry::read).collect()
}
