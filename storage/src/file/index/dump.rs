//! The index as bytes: part after part, in order of their positions.
//!
//! ```text
//!  0        4          8         12     16
//!  +--------+----------+---------+------+------------------+-----------------+
//!  | depth  | entries  | extras  | zero | entries, 24 each | extras, 40 each |
//!  +--------+----------+---------+------+------------------+-----------------+
//! ```

use super::entry::{ENTRY_DUMP_BYTES, EXTRA_DUMP_BYTES, Entry, Extra, ROOT_BITS};
use super::part::Part;
use super::{Index, Totals};
use crate::file::format::u32_at;

const HEADER_BYTES: usize = 16;
/// A part that says that it has more is none.
const COUNT_MAX: usize = 1 << 24;
/// No directory is deeper.
const DEPTH_MAX: u32 = 32;

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
        let mut slot = 0;
        while slot < self.directory.len() {
            let part = &self.parts[self.directory[slot] as usize];
            out.clear();
            for count in [part.depth as usize, part.entries().len(), part.extras().len(), 0] {
                let count = u32::try_from(count).expect("a part is small");
                out.extend_from_slice(&count.to_le_bytes());
            }
            part.entries().iter().for_each(|entry| entry.dump(&mut out));
            part.extras().iter().for_each(|extra| extra.dump(&mut out));
            write(&out)?;
            slot += 1 << (self.depth - part.depth);
        }
        Ok(())
    }
}

/// An index being read from a dump that comes in pieces. Nothing in the dump is believed before its
/// checksum is known to hold, but to be a bound.
#[derive(Default)]
pub(crate) struct Dumped {
    parts: Vec<Part>,
    rest: Vec<u8>,
}

impl Dumped {
    /// Takes in the next piece; `None` where it cannot be one of a dump.
    pub(crate) fn take(&mut self, piece: &[u8]) -> Option<()> {
        let mut bytes = std::mem::take(&mut self.rest);
        bytes.extend_from_slice(piece);
        let mut left = &bytes[..];
        while left.len() >= HEADER_BYTES {
            let depth = u32_at(left, 0);
            let (entries, extras) = (u32_at(left, 4) as usize, u32_at(left, 8) as usize);
            let is_sensible = (ROOT_BITS..=DEPTH_MAX).contains(&depth)
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
            self.parts.push(Part::of(depth, entries.map(Entry::read), extras.map(Extra::read)));
            left = &left[end..];
        }
        self.rest = left.to_vec();
        Some(())
    }

    /// The index, if the parts make one.
    pub(crate) fn finish(self) -> Option<Index> {
        let depth = self.parts.iter().map(|part| part.depth).max()?;
        let mut directory = Vec::new();
        let mut totals = Totals::default();
        let mut part_bytes = 0;
        for (number, part) in self.parts.iter().enumerate() {
            let slots = 1_usize << (depth - part.depth);
            let is_aligned = directory.len().is_multiple_of(slots);
            if !is_aligned || directory.len() + slots > 1 << depth || !part.is_consistent() {
                return None;
            }
            directory.resize(directory.len() + slots, u32::try_from(number).ok()?);
            (0..part.len()).for_each(|at| totals.add(&part.known(at)));
            part_bytes += part.bytes();
        }
        let is_whole = directory.len() == 1 << depth && self.rest.is_empty();
        let parts = self.parts;
        is_whole.then_some(Index { directory, depth, parts, totals, part_bytes, sweep: 0 })
    }
}
