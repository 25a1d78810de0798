//! The contents of a segment in the making: an entry a record, in pieces, so that nothing has to be
//! moved when they grow, and memory goes as they are written.

use std::collections::VecDeque;

use xxhash_rust::xxh3::Xxh3;

use super::format::{
    ENTRY_BYTES, Entry, SegmentId, TRAILER_BYTES, Trailer, contents_bytes, encode_trailer,
};
use crate::disk::{BLOCK_BYTES, Buffer};

/// Largest size of a piece.
const PIECE_BYTES_MAX: usize = 256 << 10;
/// The contents of a segment that is full of small records take some ten pieces and more.
const PIECES_PER_SEGMENT: usize = 256;

const _: () = assert!(PIECE_BYTES_MAX.is_multiple_of(BLOCK_BYTES));

/// Entries of records, in order. An entry may begin in one piece and end in the next.
pub(super) struct Contents {
    pieces: VecDeque<Buffer>,
    piece_bytes: usize,
    count: u32,
    /// Of the pieces that are full: to hash all of them at the end would hold up a core for
    /// milliseconds.
    sum: Box<Xxh3>,
}

impl Contents {
    /// Contents of no records yet, for a segment of a file of so many bytes.
    pub(super) fn new(file_bytes: usize) -> Self {
        let piece_bytes = (file_bytes / PIECES_PER_SEGMENT).next_multiple_of(BLOCK_BYTES);
        let piece_bytes = piece_bytes.clamp(BLOCK_BYTES, PIECE_BYTES_MAX);
        Self { pieces: VecDeque::new(), piece_bytes, count: 0, sum: Box::new(Xxh3::new()) }
    }

    /// Adds a record's entry.
    pub(super) fn push(&mut self, entry: &Entry) {
        let full_count = self.full_count();
        self.extend(&entry.encode());
        self.count += 1;
        if self.full_count() > full_count {
            self.sum.update(&self.pieces[full_count]);
        }
    }

    fn full_count(&self) -> usize {
        let is_last_full = self.pieces.back().is_some_and(|it| it.len() == self.piece_bytes);
        self.pieces.len().saturating_sub(usize::from(!is_last_full))
    }

    fn extend(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.pieces.back().is_none_or(|piece| piece.len() == self.piece_bytes) {
                // Few entries take little memory; where there are many, nothing is moved to grow.
                let is_first = self.pieces.is_empty();
                let bytes = if is_first { BLOCK_BYTES } else { self.piece_bytes };
                self.pieces.push_back(Buffer::with_capacity(bytes));
            }
            let piece = self.pieces.back_mut().expect("there is one with room");
            let (now, later) = bytes.split_at(bytes.len().min(self.piece_bytes - piece.len()));
            piece.extend_from_slice(now);
            bytes = later;
        }
    }

    /// How many entries there are.
    pub(super) fn count(&self) -> u32 {
        self.count
    }

    /// Memory of the entries.
    pub(super) fn bytes(&self) -> usize {
        self.pieces.iter().map(Buffer::capacity).sum()
    }

    /// Makes of the entries the last blocks of their segment, in pieces; the last piece ends with
    /// the trailer.
    pub(super) fn close(mut self, segment: SegmentId, trailer: &Trailer) -> VecDeque<Buffer> {
        assert_eq!(trailer.count, self.count);
        let full_count = self.full_count();
        self.pieces.iter().skip(full_count).for_each(|piece| self.sum.update(piece));
        let sum = self.sum.digest();
        let entries_bytes = self.count as usize * ENTRY_BYTES;
        let padding = contents_bytes(self.count as usize) - entries_bytes - TRAILER_BYTES;
        self.extend(&[0; BLOCK_BYTES][..padding]);
        self.extend(&encode_trailer(segment, trailer, sum));
        assert!(self.pieces.iter().all(|piece| piece.len().is_multiple_of(BLOCK_BYTES)));
        self.pieces
    }
}

#[cfg(test)]
mod tests {
    use gridkv_cluster::{Token, Version};

    use super::super::format::{Kind, read_contents};
    use super::*;

    #[test]
    fn what_was_pushed_is_read_back_whatever_its_number() {
        let file_bytes = 16 << 20;
        let per_piece = (file_bytes / PIECES_PER_SEGMENT) / ENTRY_BYTES;
        let numbers =
            [0, 1, 111, 112, 113, 114, per_piece - 2, per_piece - 1, per_piece, per_piece + 1];
        for count in numbers.into_iter().chain([3 * per_piece, 3 * per_piece + 7]) {
            let entry = |number: usize| Entry {
                token: Token(number as u64),
                fingerprint: 5,
                version: Version::ZERO,
                expires_at: None,
                kind: Kind::Value,
                origin: SegmentId(0),
                offset: 4_096,
                payload_bytes: 7,
            };
            let mut contents = Contents::new(file_bytes);
            (0..count).for_each(|number| contents.push(&entry(number)));
            let trailer = Trailer {
                count: u32::try_from(count).unwrap(),
                data_end: 8_192,
                version_max: Version::ZERO,
            };
            let pieces = contents.close(SegmentId(3), &trailer);
            assert!(pieces.iter().all(|piece| piece.len().is_multiple_of(BLOCK_BYTES)));
            assert!(pieces.iter().all(|piece| piece.len() <= file_bytes / PIECES_PER_SEGMENT));
            let mut whole = Buffer::new();
            pieces.iter().for_each(|piece| whole.extend_from_slice(piece));
            assert_eq!(whole.len(), contents_bytes(count));
            let read = read_contents(SegmentId(3), &whole).unwrap();
            assert!(read.eq((0..count).map(entry)));
        }
    }
}
