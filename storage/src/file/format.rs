//! The bytes of a log file: a *segment* of one shard's log.
//!
//! ```text
//!  0         4096      8192                                              the file's size
//!  +---------+---------+--------+-- ... --+--------+- - - - -+----------+---------+
//!  | segment | the     | commit |         | commit |  zeros  | contents | trailer |
//!  | header  | same    |        |         |        |         |          |         |
//!  +---------+---------+--------+-- ... --+--------+- - - - -+----------+---------+
//!
//!  segment header                   0        8        16       20       24
//!                                   +--------+--------+--------+--------+
//!                                   | check- | magic  | format | segment|
//!                                   | sum    |        |        |        |
//!                                   +--------+--------+--------+--------+
//!                                   24           40       56         72      80       84      92
//!                                   +------------+--------+----------+-------+--------+-------+
//!                                   | highest    | floor  | promise  | token | file's | log   |
//!                                   | version    |        |          | key   | bytes  | before|
//!                                   +------------+--------+----------+-------+--------+-------+
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
//!  record, begins at a granule      0        4             8          12
//!  of 8 bytes                       +--------+-------------+----------+-----------+--------+
//!                                   | check- | archive's   | key      | archived  | origin |
//!                                   | sum    | bytes, kind | length   | mutation  |        |
//!                                   +--------+-------------+----------+-----------+--------+
//!
//!  contents, 36 bytes a record      token | timestamp | expiry or origin, node | offset
//!                                   | payload's bytes, kind | fingerprint
//!  trailer, 64 bytes                checksum | magic | segment | count | data_end | highest version
//! ```
//!
//! Integers are little-endian. Checksums are XXH3-64 over what follows them (the trailer's over the
//! contents too), a record's the lower half of one, and mixed with the segment's number: a file that
//! is used again holds bytes of its former life, none of which pass for the present one's.
//!
//! A record is valid if its length stays within its commit, its checksum holds and its archive can
//! be accessed. A commit says from where on the log was durable when it was written: what is invalid
//! *before* that place was damaged later; what is invalid behind it was never acknowledged, and is
//! cut off.
//!
//! The first segment of each run, which begins when a store is opened, says in its header where the
//! log before it ends, as recovery has found it. Whatever lies behind that end was cut off then and
//! stays so; whatever lies before it was there then. So what one recovery has decided, the next one
//! finds decided, also when it comes before the segments of the first were sealed.
//!
//! The header stands there twice, in two blocks that are written at once: damage to one of them costs
//! nothing. Where a crash has left two different ones, the file is free, or has no records yet.
//!
//! `origin` is the segment in which a tombstone was first written: it is needed for as long as there
//! are segments before that one, whose records it may cover. It is written for a tombstone that was
//! moved; the others are where they were first written.
//!
//! The token of a record is told by the contents, made with the token key that the header names. Where
//! that is not the store's key, the segment is read whole and tokens are made anew.

use gridkv_cluster::mutation::{access, encode_into, encoded_bytes, payload_bytes};
use gridkv_cluster::{Mutation, NodeId, Timestamp, Token, Version, WallTime};
use xxhash_rust::xxh3::xxh3_64;

use crate::disk::{BLOCK_BYTES, Buffer};

/// The format that this program writes and opens.
pub(crate) const FORMAT: u32 = 3;
/// Records begin at multiples of this.
pub(crate) const GRANULE_BYTES: usize = 8;
/// Copies of the segment's header, each in a block of its own.
pub(crate) const HEADER_COUNT: usize = 2;
/// Where the first commit begins.
pub(crate) const DATA_START: usize = HEADER_COUNT * BLOCK_BYTES;
/// Size of a commit's header.
pub(crate) const COMMIT_HEADER_BYTES: usize = 48;
/// Size of a record's header.
pub(crate) const RECORD_HEADER_BYTES: usize = 12;
/// Size of an entry of the contents.
pub(crate) const ENTRY_BYTES: usize = 36;
/// Size of the trailer.
pub(crate) const TRAILER_BYTES: usize = 64;

const SEGMENT_MAGIC: u64 = u64::from_le_bytes(*b"GridKVsg");
const TRAILER_MAGIC: u64 = u64::from_le_bytes(*b"GridKVtr");
/// Size of the segment's header.
const SEGMENT_HEADER_BYTES: usize = 96;
/// Size of a record's origin.
const ORIGIN_BYTES: usize = 4;

const _: () = assert!(COMMIT_HEADER_BYTES.is_multiple_of(GRANULE_BYTES));
const _: () = assert!(BLOCK_BYTES.is_multiple_of(GRANULE_BYTES));
const _: () = assert!(SEGMENT_HEADER_BYTES <= BLOCK_BYTES);

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
    /// A key had a value of this version until its expiry: the value was freed since.
    Ended,
}

impl Kind {
    /// What a record with a key says.
    pub(crate) const fn of_mutation(mutation: &Mutation<'_>) -> Self {
        match (mutation.value, mutation.expires_at) {
            (Some(_), _) => Self::Value,
            (None, Some(_)) => Self::Ended,
            (None, None) => Self::Tombstone,
        }
    }

    const fn code(self) -> u32 {
        match self {
            Self::Value => 1,
            Self::Tombstone => 2,
            Self::Clear => 3,
            Self::Promise => 4,
            Self::Ended => 5,
        }
    }

    /// Whether the record has to be kept for as long as there may be one that it covers.
    pub(crate) const fn covers(self) -> bool {
        matches!(self, Self::Tombstone | Self::Clear)
    }

    const fn of(code: u32) -> Option<Self> {
        match code {
            1 => Some(Self::Value),
            2 => Some(Self::Tombstone),
            3 => Some(Self::Clear),
            4 => Some(Self::Promise),
            5 => Some(Self::Ended),
            _ => None,
        }
    }
}

/// Sets a checksum apart for a segment.
const fn mix(segment: SegmentId) -> u64 {
    (segment.0 as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

pub(in crate::file) fn checksum(bytes: &[u8], segment: SegmentId) -> u64 {
    xxh3_64(bytes) ^ mix(segment)
}

pub(in crate::file) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

pub(in crate::file) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

pub(in crate::file) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes[at..at + 2].try_into().expect("two bytes"))
}

/// Bytes that a record takes, for `payload_bytes` of key and value. One with an origin may take a
/// granule more.
pub(crate) const fn record_bytes(payload_bytes: usize) -> usize {
    (RECORD_HEADER_BYTES + encoded_bytes(payload_bytes)).next_multiple_of(GRANULE_BYTES)
}

/// Bytes that a record takes at most.
pub(crate) const fn record_bytes_max(payload_bytes: usize) -> usize {
    record_bytes(payload_bytes + ORIGIN_BYTES)
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
    /// Names the key with which the tokens in the contents were made.
    pub(crate) token_key: u64,
    /// Size of the file.
    pub(crate) file_bytes: u32,
    /// In the first segment of a run, where the log before it ends.
    pub(crate) before: Option<(SegmentId, u32)>,
}

/// What a block that should hold a header does hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FirstBlock {
    /// A header.
    Header(SegmentHeader),
    /// Zeros: a file that was never used.
    Blank,
    /// A header of another format.
    Unknown(u32),
    /// None of these.
    Damaged,
}

impl SegmentHeader {
    /// The first blocks of a file: one write.
    pub(crate) fn encode(&self) -> Buffer {
        let mut blocks = Buffer::with_capacity(DATA_START);
        blocks.extend_from_slice(&[0; 8]);
        blocks.extend_from_slice(&SEGMENT_MAGIC.to_le_bytes());
        blocks.extend_from_slice(&FORMAT.to_le_bytes());
        blocks.extend_from_slice(&self.segment.map_or(u32::MAX, |it| it.0).to_le_bytes());
        for version in [self.version_max, self.floor, self.promised] {
            blocks.extend_from_slice(&version.timestamp.0.to_le_bytes());
            blocks.extend_from_slice(&u64::from(version.node.0).to_le_bytes());
        }
        blocks.extend_from_slice(&self.token_key.to_le_bytes());
        blocks.extend_from_slice(&self.file_bytes.to_le_bytes());
        // Segments are numbered from 1.
        let (segment, offset) = self.before.unwrap_or_default();
        blocks.extend_from_slice(&segment.0.to_le_bytes());
        blocks.extend_from_slice(&offset.to_le_bytes());
        blocks.resize(SEGMENT_HEADER_BYTES, 0);
        let sum = xxh3_64(&blocks[8..]);
        blocks[..8].copy_from_slice(&sum.to_le_bytes());
        let copy: [u8; SEGMENT_HEADER_BYTES] = blocks[..].try_into().expect("it has this size");
        blocks.resize(BLOCK_BYTES, 0);
        blocks.extend_from_slice(&copy);
        blocks.resize(DATA_START, 0);
        blocks
    }
}

/// Reads a block that should hold a header.
pub(crate) fn first_block(block: &[u8]) -> FirstBlock {
    if block.iter().all(|byte| *byte == 0) {
        return FirstBlock::Blank;
    }
    if block.len() < BLOCK_BYTES || u64_at(block, 8) != SEGMENT_MAGIC {
        return FirstBlock::Damaged;
    }
    let format = u32_at(block, 16);
    if format != FORMAT {
        return FirstBlock::Unknown(format);
    }
    if u64_at(block, 0) != xxh3_64(&block[8..SEGMENT_HEADER_BYTES]) {
        return FirstBlock::Damaged;
    }
    let segment = u32_at(block, 20);
    let before = (SegmentId(u32_at(block, 84)), u32_at(block, 88));
    FirstBlock::Header(SegmentHeader {
        segment: (segment != u32::MAX).then_some(SegmentId(segment)),
        version_max: version_at(block, 24),
        floor: version_at(block, 40),
        promised: version_at(block, 56),
        token_key: u64_at(block, 72),
        file_bytes: u32_at(block, 80),
        before: (before.0 > SegmentId(0)).then_some(before),
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
    /// For a tombstone, the segment in which it was first written.
    pub(crate) origin: SegmentId,
}

const ARCHIVE_BITS: u32 = 28;
const ARCHIVE_MASK: u32 = (1 << ARCHIVE_BITS) - 1;
/// Above the bits of the archive's length, three of the kind.
const KIND_MASK: u32 = 7;
/// The record ends with an origin.
const HAS_ORIGIN: u32 = 1 << 31;

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
    let archive_bytes = encoded_bytes(payload_bytes(mutation));
    let archive_bytes = u32::try_from(archive_bytes).expect("a record fits into a segment");
    assert!(archive_bytes <= ARCHIVE_MASK);
    let has_origin = header.kind.covers() && header.origin != segment;
    let packed = archive_bytes
        | header.kind.code() << ARCHIVE_BITS
        | if has_origin { HAS_ORIGIN } else { 0 };
    commit.extend_from_slice(&[0; 4]);
    commit.extend_from_slice(&packed.to_le_bytes());
    commit.extend_from_slice(&key_len.to_le_bytes());
    encode_into(mutation, commit);
    if has_origin {
        commit.extend_from_slice(&header.origin.0.to_le_bytes());
    }
    let end = commit.len();
    let record = &mut commit[start..end];
    let sum = record_checksum(&record[4..], segment);
    record[..4].copy_from_slice(&sum.to_le_bytes());
    commit.resize(end.next_multiple_of(GRANULE_BYTES), 0);
}

#[expect(clippy::cast_possible_truncation, reason = "the lower half is meant")]
fn record_checksum(bytes: &[u8], segment: SegmentId) -> u32 {
    checksum(bytes, segment) as u32
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

/// Where a record's archive and the record itself end, padding excluded, as its header says.
fn record_ends(header: &[u8]) -> (usize, usize) {
    let packed = u32_at(header, 4);
    let archive_end = RECORD_HEADER_BYTES + (packed & ARCHIVE_MASK) as usize;
    (archive_end, archive_end + if packed & HAS_ORIGIN != 0 { ORIGIN_BYTES } else { 0 })
}

/// Reads the record at the beginning of `bytes`; `None` where there is no valid one.
pub(crate) fn read_record(segment: SegmentId, bytes: &[u8]) -> Option<Record<'_>> {
    let header = bytes.get(..RECORD_HEADER_BYTES)?;
    let (_, end) = record_ends(header);
    let whole = bytes.get(..end)?;
    if u32_at(header, 0) != record_checksum(&whole[4..], segment) {
        return None;
    }
    parse_record(segment, bytes)
}

/// Reads the record at the beginning of `bytes`, whose checksum was seen to hold: the hash of a large
/// value is not made again.
pub(crate) fn parse_record(segment: SegmentId, bytes: &[u8]) -> Option<Record<'_>> {
    let header = bytes.get(..RECORD_HEADER_BYTES)?;
    let (archive_end, end) = record_ends(header);
    let whole = bytes.get(..end)?;
    let packed = u32_at(header, 4);
    let kind = Kind::of(packed >> ARCHIVE_BITS & KIND_MASK)?;
    let mutation = access(&whole[RECORD_HEADER_BYTES..archive_end]).ok()?;
    let is_consistent = mutation.key.len() == u32_at(header, 8) as usize
        && mutation.value.is_some() == (kind == Kind::Value);
    let origin = if end > archive_end { SegmentId(u32_at(whole, archive_end)) } else { segment };
    let header = RecordHeader { kind, origin };
    let record = Record { header, mutation, bytes: end.next_multiple_of(GRANULE_BYTES) };
    is_consistent.then_some(record)
}

/// The key of the record at the beginning of `bytes`, which may end before the record does. Only
/// the caller, who knows the key's token, can tell whether it is right.
pub(crate) fn read_key(bytes: &[u8]) -> Option<&[u8]> {
    let header = bytes.get(..RECORD_HEADER_BYTES)?;
    bytes[RECORD_HEADER_BYTES..].get(..u32_at(header, 8) as usize)
}

/// The key of a record and the bytes that the record takes, unchecked, for fetching ahead.
pub(crate) fn record_key(bytes: &[u8]) -> Option<(&[u8], usize)> {
    let key = read_key(bytes)?;
    let (_, end) = record_ends(bytes);
    (end <= bytes.len()).then(|| (key, end.next_multiple_of(GRANULE_BYTES)))
}

/// An entry of a segment's contents: what the index needs of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) token: Token,
    /// Tells keys of one token apart.
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

const PAYLOAD_BITS: u32 = 28;
/// Bits of a key's second hash that an entry tells.
pub(crate) const FINGERPRINT_BITS: u32 = 28;
const PAYLOAD_MASK: u32 = (1 << PAYLOAD_BITS) - 1;
const HAS_EXPIRY: u32 = 1 << 31;

/// Largest payload that an entry can tell.
pub(crate) const PAYLOAD_BYTES_MAX: usize = PAYLOAD_MASK as usize;
/// Smallest size of a file of a log, in bytes.
pub const SEGMENT_BYTES_MIN: usize = 16 * BLOCK_BYTES;
/// Largest size of a file of a log, in bytes: the index tells places by 23 bits of granules.
pub const SEGMENT_BYTES_MAX: usize = 64 << 20;

/// Whether files of a log may have so many bytes.
#[must_use]
pub const fn is_segment_size(bytes: usize) -> bool {
    bytes.is_power_of_two() && bytes >= SEGMENT_BYTES_MIN && bytes <= SEGMENT_BYTES_MAX
}

const _: () = assert!(SEGMENT_BYTES_MAX <= GRANULE_BYTES << 23);
const _: () = assert!(SEGMENT_BYTES_MAX <= PAYLOAD_BYTES_MAX);
const _: () = assert!(SEGMENT_BYTES_MAX <= ARCHIVE_MASK as usize);

impl Entry {
    /// The entry's bytes.
    pub(crate) fn encode(&self) -> [u8; ENTRY_BYTES] {
        let extra = match self.kind {
            Kind::Value | Kind::Ended => self.expires_at.map_or(0, WallTime::as_millis),
            Kind::Tombstone | Kind::Clear | Kind::Promise => u64::from(self.origin.0),
        };
        assert!(self.payload_bytes <= PAYLOAD_MASK);
        let sized = self.payload_bytes
            | self.kind.code() << PAYLOAD_BITS
            | if self.expires_at.is_some() { HAS_EXPIRY } else { 0 };
        let mut bytes = [0; ENTRY_BYTES];
        bytes[..8].copy_from_slice(&self.token.0.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.version.timestamp.0.to_le_bytes());
        bytes[16..24].copy_from_slice(&extra.to_le_bytes());
        // Above the 48 bits of an expiry.
        bytes[22..24].copy_from_slice(&self.version.node.0.to_le_bytes());
        bytes[24..28].copy_from_slice(&self.offset.to_le_bytes());
        bytes[28..32].copy_from_slice(&sized.to_le_bytes());
        bytes[32..36].copy_from_slice(&self.fingerprint.to_le_bytes());
        bytes
    }

    #[expect(clippy::cast_possible_truncation, reason = "an origin has 32 bits")]
    fn read(bytes: &[u8]) -> Option<Self> {
        let extra = u64_at(bytes, 16) & ((1 << 48) - 1);
        let sized = u32_at(bytes, 28);
        let kind = Kind::of(sized >> PAYLOAD_BITS & KIND_MASK)?;
        let has_origin = !matches!(kind, Kind::Value | Kind::Ended);
        Some(Self {
            token: Token(u64_at(bytes, 0)),
            fingerprint: u32_at(bytes, 32),
            version: Version {
                timestamp: Timestamp(u64_at(bytes, 8)),
                node: NodeId(u16_at(bytes, 22)),
            },
            expires_at: (sized & HAS_EXPIRY != 0).then(|| WallTime::from_millis(extra)),
            kind,
            origin: SegmentId(if has_origin { extra as u32 } else { 0 }),
            offset: u32_at(bytes, 24),
            payload_bytes: sized & PAYLOAD_MASK,
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
pub(crate) fn read_contents(
    segment: SegmentId,
    tail: &[u8],
) -> Option<impl Iterator<Item = Entry>> {
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
    let entries = || tail[..end].chunks_exact(ENTRY_BYTES).map(Entry::read);
    entries().all(|entry| entry.is_some()).then(|| entries().flatten())
}
