//! The contents of a segment in the making: an entry a record, in pieces, so that nothing has to be
//! moved when they grow, and memory goes as they are written.

use std::collections::VecDeque;

use xxhash_rust::xxh3::Xxh3;

use super::format::{
    ENTRY_BYTES, Entry, SegmentId, TRAILER_BYTES, Trailer, contents_bytes, encode_trailer,
};
use crate::disk::{BLOCK_BYTES, Buffer};

/// Size of a piece.
const PIECE_BYTES: usize = 256 << 10;

const _: () = assert!(PIECE_BYTES.is_multiple_of(ENTRY_BYTES));
const _: () = assert!(PIECE_BYTES.is_multiple_of(BLOCK_BYTES));

/// Entries of records, in order.
#[derive(Default)]
pub(super) struct Contents {
    pieces: VecDeque<Buffer>,
    count: u32,
}

impl Contents {
    /// Adds a record's entry.
    pub(super) fn push(&mut self, entry: &Entry) {
        if self.pieces.back().is_none_or(|piece| piece.len() == PIECE_BYTES) {
            self.pieces.push_back(Buffer::with_capacity(BLOCK_BYTES));
        }
        let piece = self.pieces.back_mut().expect("there is one with room");
        entry.append(piece);
        self.count += 1;
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
        let mut sum = Xxh3::new();
        self.pieces.iter().for_each(|piece| sum.update(piece));
        let total = contents_bytes(self.count as usize);
        let before: usize = self.pieces.iter().map(Buffer::len).sum();
        let last_len = self.pieces.back().map_or(0, Buffer::len);
        let room = total - (before - last_len);
        if room > PIECE_BYTES || self.pieces.is_empty() {
            // The trailer is in a piece of its own.
            if let Some(piece) = self.pieces.back_mut() {
                piece.resize(PIECE_BYTES, 0);
            }
            self.pieces.push_back(Buffer::new());
        }
        let written: usize = self.pieces.iter().rev().skip(1).map(Buffer::len).sum();
        let last = self.pieces.back_mut().expect("there is one");
        last.resize(total - written - TRAILER_BYTES, 0);
        last.extend_from_slice(&encode_trailer(segment, trailer, sum.digest()));
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
        let per_piece = PIECE_BYTES / ENTRY_BYTES;
        let numbers = [0, 1, 125, 126, 127, per_piece - 2, per_piece - 1, per_piece, per_piece + 1];
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
            let mut contents = Contents::default();
            (0..count).for_each(|number| contents.push(&entry(number)));
            let trailer = Trailer {
                count: u32::try_from(count).unwrap(),
                data_end: 8_192,
                version_max: Version::ZERO,
            };
            let pieces = contents.close(SegmentId(3), &trailer);
            assert!(pieces.iter().all(|piece| piece.len().is_multiple_of(BLOCK_BYTES)));
            assert!(pieces.iter().all(|piece| piece.len() <= PIECE_BYTES));
            let mut whole = Buffer::new();
            pieces.iter().for_each(|piece| whole.extend_from_slice(piece));
            assert_eq!(whole.len(), contents_bytes(count));
            let read = read_contents(SegmentId(3), &whole).unwrap();
            assert!(read.iter().copied().eq((0..count).map(entry)));
        }
    }
}
