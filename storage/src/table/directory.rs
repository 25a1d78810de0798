//! From the first bits of a position to its segment.
//!
//! The directory has an entry for each prefix of `depth` bits. A segment of `depth` bits is named
//! by one entry; one of fewer bits, by the run of entries that begin with them. When a segment of
//! `depth` bits splits, the directory doubles first: some bytes a segment are copied, no item is
//! touched.
//!
//! Segments live in chunks, so that adding one moves none of the others.
//!
//! # Why the depth is bounded by the number of segments
//!
//! Keys made so that their tokens share a long prefix would make the directory double at each
//! split. It doubles only while it has few entries for each segment; beyond that a segment that
//! is full grows without splitting, and its keys, not those of others, get slower.

use super::item::allocation_bytes;
use super::segment::{Locator, Segment};

const CHUNK_LEN: usize = 64;
const DEPTH_MAX: u8 = 28;
const ENTRIES_PER_SEGMENT_MAX: usize = 8;

const _: () = assert!(DEPTH_MAX <= 32, "a home is told by the 32 bits after the prefix");
const _: () = assert!(size_of::<Segment>() <= 48);

/// The segments of a table.
pub(super) struct Directory {
    entries: Vec<u32>,
    depth: u8,
    chunks: Vec<Vec<Segment>>,
    segment_count: usize,
}

impl Directory {
    /// One segment without items.
    pub(super) fn new() -> Self {
        let mut directory =
            Self { entries: vec![0], depth: 0, chunks: Vec::new(), segment_count: 0 };
        directory.add(Segment::new(0));
        directory
    }

    /// The number of the segment of a position.
    #[inline]
    pub(super) fn index_of(&self, position: u64) -> u32 {
        self.entries[self.entry_of(position)]
    }

    #[inline]
    const fn entry_of(&self, position: u64) -> usize {
        (position >> 1 >> (63 - self.depth)) as usize
    }

    #[inline]
    pub(super) fn segment(&self, index: u32) -> &Segment {
        let index = index as usize;
        &self.chunks[index / CHUNK_LEN][index % CHUNK_LEN]
    }

    #[inline]
    pub(super) fn segment_mut(&mut self, index: u32) -> &mut Segment {
        let index = index as usize;
        &mut self.chunks[index / CHUNK_LEN][index % CHUNK_LEN]
    }

    /// How many segments there are; they are numbered from 0.
    pub(super) const fn segment_count(&self) -> u32 {
        self.segment_count as u32
    }

    /// All segments, by number, for good.
    pub(super) fn into_segments(self) -> impl Iterator<Item = Segment> {
        self.chunks.into_iter().flatten()
    }

    fn add(&mut self, segment: Segment) -> u32 {
        if self.segment_count.is_multiple_of(CHUNK_LEN) {
            self.chunks.push(Vec::with_capacity(CHUNK_LEN));
        }
        let index = self.segment_count();
        self.chunks.last_mut().expect("a chunk was added").push(segment);
        self.segment_count += 1;
        index
    }

    /// Whether the directory may split a segment of this depth.
    pub(super) const fn may_split(&self, depth: u8) -> bool {
        depth < self.depth
            || (depth < DEPTH_MAX
                && self.entries.len() * 2 <= (self.segment_count + 1) * ENTRIES_PER_SEGMENT_MAX)
    }

    /// Splits the segment of `position` in two.
    pub(super) fn split(&mut self, position: u64, locator: &Locator) {
        let index = self.index_of(position);
        let depth = self.segment(index).depth();
        assert!(self.may_split(depth));
        if depth == self.depth {
            self.double();
        }
        let upper = self.segment_mut(index).split(locator);
        let upper_index = self.add(upper);
        let run = 1 << (self.depth - depth);
        let first = self.entry_of(position) & !(run - 1);
        assert!(self.entries[first..first + run].iter().all(|entry| *entry == index));
        self.entries[first + run / 2..first + run].fill(upper_index);
    }

    fn double(&mut self) {
        let mut entries = Vec::with_capacity(self.entries.len() * 2);
        for entry in &self.entries {
            entries.extend([*entry, *entry]);
        }
        self.entries = entries;
        self.depth += 1;
        assert_eq!(self.entries.len(), 1 << self.depth);
    }

    /// Memory of the directory itself.
    pub(super) const fn bytes(&self) -> u64 {
        let chunks = self.chunks.len() as u64 * list_bytes::<Segment>(CHUNK_LEN);
        list_bytes::<u32>(self.entries.capacity())
            + list_bytes::<Vec<Segment>>(self.chunks.capacity())
            + chunks
    }

    /// A bound on the memory that the next split adds to the directory itself.
    pub(super) const fn growth_bytes_max(&self) -> u64 {
        let entries = list_bytes::<u32>(self.entries.capacity() * 2);
        let list = list_bytes::<Vec<Segment>>((self.chunks.capacity() + 4) * 2);
        let chunk = list_bytes::<Segment>(CHUNK_LEN);
        let is_chunk_full = self.segment_count.is_multiple_of(CHUNK_LEN);
        entries + if is_chunk_full { list + chunk } else { 0 }
    }
}

/// Memory of a vector's buffer; the allocator may need room to align it.
const fn list_bytes<T>(capacity: usize) -> u64 {
    if capacity == 0 {
        return 0;
    }
    allocation_bytes(capacity * size_of::<T>() + align_of::<T>() - 1) as u64
}
