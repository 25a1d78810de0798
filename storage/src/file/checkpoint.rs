//! The index on disk, written when a store is closed, so that the next opening reads no records and
//! not even what they are.
//!
//! ```text
//!  0      8       16     20         24      28     32             80        96      104
//!  +------+-------+------+----------+-------+------+--------------+---------+-------+---------+-------+
//!  | sum  | magic | for- | segment  | files | zero | versions,    | promise | token | a line  | the   |
//!  |      |       | mat  | highest  |       |      | body's bytes |         | key   | a file  | index |
//!  +------+-------+------+----------+-------+------+--------------+---------+-------+---------+-------+
//!  ^ head: one block, written last                                                  ^ body, from the
//!                                                                                     next block on
//! ```
//!
//! The head's checksum covers the head and that of the body. A checkpoint holds if it is whole and
//! names the highest segment there is: a store that was opened begins a new segment before it
//! writes anything, so no checkpoint outlives what it tells of.

use gridkv_cluster::Version;
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use super::FileStorage;
use super::format::{FORMAT, SegmentId, u32_at, u64_at, version_at, write_version};
use super::index::{Dumped, Index};
use super::log::{File, State};
use crate::disk::{BLOCK_BYTES, Buffer, Disk, FileId, Op, zeroed};

const MAGIC: u64 = u64::from_le_bytes(*b"GridKVcp");
const HEAD_BYTES: usize = 104;
const LINE_BYTES: usize = 40;
/// Written and read at once.
const PIECE_BYTES: usize = 4 << 20;

/// What a checkpoint's head says.
struct Head {
    /// The highest segment that there was.
    segment_max: SegmentId,
    file_count: u32,
    version_max: Version,
    floor: Version,
    body_bytes: u64,
    body_sum: u64,
    promised: Version,
    /// Names the key with which the tokens in the index were made.
    token_key: u64,
}

impl Head {
    fn encode(&self) -> Buffer {
        let mut block = zeroed(BLOCK_BYTES);
        block[8..16].copy_from_slice(&MAGIC.to_le_bytes());
        block[16..20].copy_from_slice(&FORMAT.to_le_bytes());
        block[20..24].copy_from_slice(&self.segment_max.0.to_le_bytes());
        block[24..28].copy_from_slice(&self.file_count.to_le_bytes());
        write_version(&mut block[32..48], self.version_max);
        write_version(&mut block[48..64], self.floor);
        block[64..72].copy_from_slice(&self.body_bytes.to_le_bytes());
        block[72..80].copy_from_slice(&self.body_sum.to_le_bytes());
        write_version(&mut block[80..96], self.promised);
        block[96..104].copy_from_slice(&self.token_key.to_le_bytes());
        let sum = xxh3_64(&block[8..HEAD_BYTES]);
        block[..8].copy_from_slice(&sum.to_le_bytes());
        block
    }

    fn decode(block: &[u8]) -> Option<Self> {
        let head = block.get(..HEAD_BYTES)?;
        let is_valid = u64_at(head, 0) == xxh3_64(&head[8..])
            && u64_at(head, 8) == MAGIC
            && u32_at(head, 16) == FORMAT;
        is_valid.then(|| Self {
            segment_max: SegmentId(u32_at(head, 20)),
            file_count: u32_at(head, 24),
            version_max: version_at(head, 32),
            floor: version_at(head, 48),
            body_bytes: u64_at(head, 64),
            body_sum: u64_at(head, 72),
            promised: version_at(head, 80),
            token_key: u64_at(head, 96),
        })
    }
}

fn encode_line(number: u32, file: &File, out: &mut Vec<u8>) {
    out.extend_from_slice(&number.to_le_bytes());
    out.extend_from_slice(&file.id.0.to_le_bytes());
    out.extend_from_slice(&file.data_end.to_le_bytes());
    out.extend_from_slice(&file.tombstone_origin.0.to_le_bytes());
    out.extend_from_slice(&file.live_bytes.to_le_bytes());
    out.extend_from_slice(&file.tombstone_bytes.to_le_bytes());
    out.extend_from_slice(&file.buried_bytes.to_le_bytes());
}

/// Takes a file's line over into what was found of it, if that is the same.
fn take_line(line: &[u8], files: &mut [Option<File>]) -> Option<()> {
    let file = files.get_mut(u32_at(line, 0) as usize)?.as_mut()?;
    if file.state != State::Free || file.id.0 != u32_at(line, 4) {
        return None;
    }
    file.state = State::Sealed;
    file.data_end = u32_at(line, 8);
    file.tombstone_origin = SegmentId(u32_at(line, 12));
    file.live_bytes = u64_at(line, 16);
    file.tombstone_bytes = u64_at(line, 24);
    file.buried_bytes = u64_at(line, 32);
    Some(())
}

/// What was read of a checkpoint.
pub(super) struct Loaded {
    pub(super) index: Index,
    pub(super) version_max: Version,
    pub(super) floor: Version,
    pub(super) promised: Version,
}

/// Reads the checkpoint of a directory into the files found there. `None`, and the files as they
/// were, where there is none that holds.
pub(super) fn load<D: Disk>(
    disk: &mut D,
    bytes: u64,
    files: &mut Vec<Option<File>>,
    segment_max: SegmentId,
    token_key: u64,
) -> Option<Loaded> {
    let mut block = zeroed(BLOCK_BYTES);
    disk.read_now(FileId::CHECKPOINT, 0, &mut block).ok()?;
    let head = Head::decode(&block)?;
    let file_count = head.file_count as usize;
    let fits = head.segment_max == segment_max
        && head.token_key == token_key
        && file_count <= files.len()
        && head.body_bytes.next_multiple_of(BLOCK_BYTES as u64) + BLOCK_BYTES as u64 == bytes;
    if !fits {
        return None;
    }
    let mut taken = files.clone();
    let mut body =
        Body { disk, left: head.body_bytes, offset: BLOCK_BYTES as u64, sum: Xxh3::new() };
    let mut rest = Vec::new();
    while rest.len() < file_count * LINE_BYTES {
        rest.extend_from_slice(&body.next()?);
    }
    // What is not listed is a segment that was made ready and never used.
    for file in taken.iter_mut().flatten().filter(|file| file.state == State::Sealed) {
        file.state = State::Free;
    }
    for line in rest[..file_count * LINE_BYTES].chunks_exact(LINE_BYTES) {
        take_line(line, &mut taken)?;
    }
    let mut dumped = Dumped::new();
    dumped.take(&rest[file_count * LINE_BYTES..])?;
    while body.left > 0 {
        dumped.take(&body.next()?)?;
    }
    if body.sum.digest() != head.body_sum {
        return None;
    }
    let index = dumped.finish()?;
    *files = taken;
    let Head { version_max, floor, promised, .. } = head;
    Some(Loaded { index, version_max, floor, promised })
}

/// The rest of a checkpoint's body.
struct Body<'a, D> {
    disk: &'a mut D,
    left: u64,
    offset: u64,
    sum: Xxh3,
}

impl<D: Disk> Body<'_, D> {
    fn next(&mut self) -> Option<Buffer> {
        let len = usize::try_from(self.left).ok()?.min(PIECE_BYTES);
        if len == 0 {
            return None;
        }
        let mut piece = zeroed(len.next_multiple_of(BLOCK_BYTES));
        self.disk.read_now(FileId::CHECKPOINT, self.offset, &mut piece).ok()?;
        piece.resize(len, 0);
        self.sum.update(&piece);
        self.left -= len as u64;
        self.offset += len as u64;
        Some(piece)
    }
}

impl<D: Disk> FileStorage<D> {
    /// Writes the checkpoint. Without one the next opening takes longer, and nothing else.
    pub(super) fn write_checkpoint(&mut self) {
        let is_whole = self
            .log
            .files
            .iter()
            .flatten()
            .all(|file| matches!(file.state, State::Sealed | State::Free | State::Spare));
        if !is_whole || self.log.has_failed() {
            return;
        }
        if let Err(error) = self.try_write_checkpoint() {
            tracing::info!(directory = %self.directory, %error, "no checkpoint was written");
        }
    }

    fn try_write_checkpoint(&mut self) -> std::io::Result<()> {
        let file = FileId::CHECKPOINT;
        let mut lines = Vec::new();
        let mut file_count = 0;
        let mut segment_max = SegmentId(0);
        for (number, file) in (0..).zip(&self.log.files) {
            let Some(file) = file else { continue };
            segment_max = segment_max.max(file.id);
            if file.state == State::Sealed {
                encode_line(number, file, &mut lines);
                file_count += 1;
            }
        }
        let body_bytes = lines.len() as u64 + self.index.dump_bytes();
        let bytes = BLOCK_BYTES as u64 + body_bytes.next_multiple_of(BLOCK_BYTES as u64);
        let disk = &mut self.log.disk;
        carry_out(disk, Op::Create { file, bytes, is_written: false })?;
        let mut pieces = Pieces::new(disk);
        pieces.write(&lines)?;
        self.index.dump(&mut |bytes| pieces.write(bytes))?;
        let (written, body_sum) = pieces.finish()?;
        assert_eq!(written, body_bytes, "a dump is as long as it said");
        carry_out(disk, Op::Sync { file })?;
        let head = Head {
            segment_max,
            file_count,
            version_max: self.log.version_max,
            floor: self.floor,
            body_bytes,
            body_sum,
            promised: self.log.promised,
            token_key: self.token_key.id(),
        };
        let op = Op::Write { file, offset: 0, buffer: head.encode(), is_durable: true };
        carry_out(disk, op).map(|_| ())
    }
}

/// A body being written.
struct Pieces<'a, D> {
    disk: &'a mut D,
    piece: Buffer,
    offset: u64,
    written: u64,
    sum: Xxh3,
}

impl<'a, D: Disk> Pieces<'a, D> {
    fn new(disk: &'a mut D) -> Self {
        let piece = Buffer::with_capacity(PIECE_BYTES);
        Self { disk, piece, offset: BLOCK_BYTES as u64, written: 0, sum: Xxh3::new() }
    }

    fn write(&mut self, mut bytes: &[u8]) -> std::io::Result<()> {
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(PIECE_BYTES - self.piece.len()));
            self.piece.extend_from_slice(now);
            bytes = later;
            if self.piece.len() == PIECE_BYTES {
                self.flush()?;
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        if self.piece.is_empty() {
            return Ok(());
        }
        self.sum.update(&self.piece);
        self.written += self.piece.len() as u64;
        let mut buffer = std::mem::take(&mut self.piece);
        buffer.resize(buffer.len().next_multiple_of(BLOCK_BYTES), 0);
        let (file, offset) = (FileId::CHECKPOINT, self.offset);
        self.offset += buffer.len() as u64;
        let buffer = carry_out(self.disk, Op::Write { file, offset, buffer, is_durable: false })?;
        self.piece = buffer.unwrap_or_default();
        self.piece.clear();
        Ok(())
    }

    /// How many bytes were written, and their checksum.
    fn finish(mut self) -> std::io::Result<(u64, u64)> {
        self.flush()?;
        Ok((self.written, self.sum.digest()))
    }
}

/// Carries one operation out, the caller waiting. Nothing else is under way.
pub(super) fn carry_out<D: Disk>(disk: &mut D, op: Op) -> std::io::Result<Option<Buffer>> {
    let id = disk.start(op);
    loop {
        disk.wait()?;
        while let Some(completion) = disk.poll() {
            if completion.id == id {
                return completion.result.map(|()| completion.buffer);
            }
        }
    }
}
