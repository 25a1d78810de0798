//! The index as bytes: part after part, in order of their positions.
//!
//! ```text
//!  0        4          8         12     16
//!  +--------+----------+---------+------+------------------+-----------------+
//!  | depth  | entries  | extras  | zero | entries, 26 each | extras, 40 each |
//!  +--------+----------+---------+------+------------------+-----------------+
//! ```
//!
//! A part's prefix is told by the depths of those before it: each begins where the one before it
//! ends, the first at 0, the last ends where the positions do. What does not fit together so, or has
//! entries that are not in order or not of their part's prefix, is no dump.

use super::entry::{ENTRY_DUMP_BYTES, EXTRA_DUMP_BYTES, Entry, Extra, ROOT_BITS};
use super::part::Part;
use super::{DEPTH_MAX, Index};
use crate::file::format::u32_at;

const HEADER_BYTES: usize = 16;
/// A part that says that it has more is none: this bounds what is kept of a dump until it is known
/// to hold.
const COUNT_MAX: usize = 1 << 16;

impl Index {
    /// Bytes of a dump.
    pub(crate) fn dump_bytes(&self) -> u64 {
        let bytes = self.parts.iter().map(|part| {
            HEADER_BYTES
                + part.entries().len() * ENTRY_DUMP_BYTES
                + part.extras().len() * EXTRA_DUMP_BYTES
        });
        bytes.sum::<usize>() as u64
    }

    /// Writes the index, a part at a time.
    pub(crate) fn dump<E>(&self, write: &mut dyn FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        let mut out = Vec::new();
        let mut position = 0;
        loop {
            let part = self.part(position);
            out.clear();
            for count in [usize::from(part.depth()), part.entries().len(), part.extras().len(), 0] {
                let count = u32::try_from(count).expect("a part is small");
                out.extend_from_slice(&count.to_le_bytes());
            }
            part.entries().iter().for_each(|entry| entry.dump(&mut out));
            part.extras().iter().for_each(|extra| extra.dump(&mut out));
            write(&out)?;
            position = part.end(position);
            if position == 0 {
                return Ok(());
            }
        }
    }
}

/// An index being read from a dump that comes in pieces. Nothing in the dump is believed before its
/// checksum is known to hold, but to be a bound: what was read so far takes a few times the memory
/// of its bytes at most.
pub(crate) struct Dumped {
    index: Index,
    /// The position at which the next part begins; `None` at the end.
    next: Option<u64>,
    rest: Vec<u8>,
}

impl Dumped {
    /// Nothing of a dump.
    pub(crate) fn new() -> Self {
        Self { index: Index::without_parts(), next: Some(0), rest: Vec::new() }
    }

    /// Takes in the next piece; `None` where it cannot be one of a dump.
    pub(crate) fn take(&mut self, piece: &[u8]) -> Option<()> {
        let mut bytes = std::mem::take(&mut self.rest);
        bytes.extend_from_slice(piece);
        let mut left = &bytes[..];
        while left.len() >= HEADER_BYTES {
            let depth = u8::try_from(u32_at(left, 0)).ok()?;
            let (entries, extras) = (u32_at(left, 4) as usize, u32_at(left, 8) as usize);
            let is_sensible = (ROOT_BITS as u8..=DEPTH_MAX).contains(&depth)
                && entries <= COUNT_MAX
                && extras <= entries;
            if !is_sensible {
                return None;
            }
            let entries_end = HEADER_BYTES + entries * ENTRY_DUMP_BYTES;
            let end = entries_end + extras * EXTRA_DUMP_BYTES;
            if left.len() < end {
                break;
            }
            let entries = left[HEADER_BYTES..entries_end].chunks_exact(ENTRY_DUMP_BYTES);
            let extras = left[entries_end..end].chunks_exact(EXTRA_DUMP_BYTES);
            self.add(depth, entries.map(Entry::read), extras.map(Extra::read))?;
            left = &left[end..];
        }
        self.rest = left.to_vec();
        Some(())
    }

    /// Takes in the next part, if it begins where it may.
    fn add(
        &mut self,
        depth: u8,
        entries: impl ExactSizeIterator<Item = Entry>,
        extras: impl Iterator<Item = Extra>,
    ) -> Option<()> {
        let position = self.next?;
        if position.trailing_zeros() < 64 - u32::from(depth) {
            return None;
        }
        let part = Part::of(position, depth, entries, extras)?;
        for known in part.all_known() {
            self.index.totals.add(&known);
        }
        self.index.timestamp_max = self.index.timestamp_max.max(part.timestamp_max());
        self.next = Some(part.end(position)).filter(|end| *end != 0);
        self.index.add(position, part);
        Some(())
    }

    /// The index, if the parts make one.
    pub(crate) fn finish(self) -> Option<Index> {
        (self.next.is_none() && self.rest.is_empty()).then_some(self.index)
    }
}
