//! How often keys are used, in half a byte a counter: the sketch of TinyLFU.
//!
//! Source: Einziger, Friedman, Manes, "TinyLFU: A Highly Efficient Cache Admission Policy" (2017).
//! A count-min sketch of four rows; the four counters of a token lie in one cache line. A use
//! raises those of the four that are smallest; the estimate is the smallest.
//!
//! # Why it ages a word at a time
//!
//! The paper halves all counters at once, every so many uses: a pause that grows with the store.
//! Here one word is halved every few uses, in turn, so each counter is halved just as often.
//!
//! # Why it is plain words
//!
//! A sketch has up to 64 MiB, which take 20 to 30 ms to write. Words that are zero are had from the
//! system without writing them: a page becomes memory when a token of it is first used. An element that
//! asks for the alignment of a cache line would be written, so the first such line is searched for.

use gridkv_cluster::Token;

/// The largest estimate.
const COUNT_MAX: u64 = 15;
/// Bytes of a typical record, from which the number of keys at a memory bound is guessed.
const RECORD_BYTES_TYPICAL: u64 = 128;
/// Keys that a block is for.
const KEYS_PER_BLOCK: u64 = 32;
/// Each counter is halved once in this many uses for each key.
const USES_PER_KEY: u64 = 10;
const WORDS_PER_BLOCK: usize = 8;
/// A block is one.
const CACHE_LINE_BYTES: usize = 64;
const _: () = assert!(WORDS_PER_BLOCK * size_of::<u64>() == CACHE_LINE_BYTES);
const USES_PER_WORD: u64 = USES_PER_KEY * KEYS_PER_BLOCK / WORDS_PER_BLOCK as u64;
const BLOCK_COUNT_MIN: u64 = 16;
const BLOCK_COUNT_MAX: u64 = 1 << 20;
const BLOCK_COUNT_UNBOUNDED: u64 = 4_096;
const ROW_COUNT: usize = 4;
/// Halving moves the lowest bit of a counter into its neighbour; this takes it away.
const HALVED: u64 = 0x7777_7777_7777_7777;

/// Counts the uses of tokens, roughly.
pub(crate) struct Sketch {
    words: Box<[u64]>,
    /// The word with which the first cache line begins.
    start: usize,
    block_count: usize,
    /// Uses until the next word is halved.
    uses_left: u64,
    word_next: usize,
}

/// A counter: a word of the block and a shift in it.
#[derive(Clone, Copy)]
struct Counter {
    word: usize,
    shift: u32,
}

impl Sketch {
    /// A sketch for a store with this memory bound.
    pub(crate) fn new(memory_bytes_max: Option<u64>) -> Self {
        let block_count = usize::try_from(Self::block_count(memory_bytes_max));
        let block_count = block_count.expect("a sketch has at most a million blocks");
        // One block more, so that the others can begin where a cache line does.
        let words = vec![0; (block_count + 1) * WORDS_PER_BLOCK].into_boxed_slice();
        let start = words.as_ptr().align_offset(CACHE_LINE_BYTES);
        assert!(start < WORDS_PER_BLOCK, "a line begins within the first block");
        Self { words, start, block_count, uses_left: USES_PER_WORD, word_next: 0 }
    }

    #[inline]
    fn block(&self, index: usize) -> &[u64] {
        &self.words[self.start + index * WORDS_PER_BLOCK..][..WORDS_PER_BLOCK]
    }

    #[inline]
    fn block_mut(&mut self, index: usize) -> &mut [u64] {
        &mut self.words[self.start + index * WORDS_PER_BLOCK..][..WORDS_PER_BLOCK]
    }

    fn block_count(memory_bytes_max: Option<u64>) -> u64 {
        let Some(bytes) = memory_bytes_max else { return BLOCK_COUNT_UNBOUNDED };
        let count = bytes / RECORD_BYTES_TYPICAL / KEYS_PER_BLOCK;
        count.clamp(BLOCK_COUNT_MIN, BLOCK_COUNT_MAX).next_power_of_two()
    }

    /// Whether the sketch is as large as one for this bound.
    pub(crate) fn fits(&self, memory_bytes_max: Option<u64>) -> bool {
        self.block_count as u64 == Self::block_count(memory_bytes_max)
    }

    /// Memory of the sketch.
    pub(crate) const fn bytes(&self) -> u64 {
        size_of_val(&*self.words) as u64
    }

    /// The block of a token and its counters, one in each quarter of the block.
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "single bits of a hash are taken")]
    const fn counters(&self, token: Token) -> (usize, [Counter; ROW_COUNT]) {
        let hash = (token.0 ^ (token.0 >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let block = (hash >> 40) as usize & (self.block_count - 1);
        let mut counters = [Counter { word: 0, shift: 0 }; ROW_COUNT];
        let mut row = 0;
        while row < ROW_COUNT {
            let bits = (hash >> (15 + 5 * row)) as usize;
            counters[row] =
                Counter { word: 2 * row + (bits & 1), shift: ((bits >> 1) & 15) as u32 * 4 };
            row += 1;
        }
        (block, counters)
    }

    /// Counts a use.
    #[inline]
    pub(crate) fn record(&mut self, token: Token) {
        let (block, counters) = self.counters(token);
        let smallest = self.frequency(token);
        if u64::from(smallest) < COUNT_MAX {
            let words = self.block_mut(block);
            for Counter { word, shift } in counters {
                if (words[word] >> shift) & COUNT_MAX == u64::from(smallest) {
                    words[word] += 1 << shift;
                }
            }
        }
        self.age();
    }

    fn age(&mut self) {
        self.uses_left -= 1;
        if self.uses_left != 0 {
            return;
        }
        self.uses_left = USES_PER_WORD;
        let word = &mut self.words[self.start + self.word_next];
        *word = (*word >> 1) & HALVED;
        self.word_next = (self.word_next + 1) % (self.block_count * WORDS_PER_BLOCK);
    }

    /// How often the token was used of late, 0 to 15.
    #[inline]
    pub(crate) fn frequency(&self, token: Token) -> u8 {
        let (block, counters) = self.counters(token);
        let words = self.block(block);
        let counts = counters.map(|Counter { word, shift }| (words[word] >> shift) & COUNT_MAX);
        #[expect(clippy::cast_possible_truncation, reason = "a count is at most 15")]
        let smallest = counts.into_iter().fold(COUNT_MAX, u64::min) as u8;
        smallest
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    fn token(number: u64) -> Token {
        crate::contract::token_of(&number.to_le_bytes())
    }

    #[test]
    fn uses_are_counted_up_to_the_bound() {
        let mut sketch = Sketch::new(None);
        for uses in 0..30 {
            assert_eq!(sketch.frequency(token(1)), uses.min(15));
            sketch.record(token(1));
        }
        assert_eq!(sketch.frequency(token(2)), 0);
    }

    #[test]
    fn what_is_not_used_any_more_is_forgotten() {
        let mut sketch = Sketch::new(Some(64 << 10));
        for _ in 0..15 {
            sketch.record(token(1));
        }
        let key_count = sketch.block_count as u64 * KEYS_PER_BLOCK;
        for number in 0..key_count * USES_PER_KEY * 4 {
            sketch.record(token(2 + number % 3));
        }
        assert_eq!(sketch.frequency(token(1)), 0);
        assert!(sketch.frequency(token(2)) > 8);
    }

    #[test]
    fn the_often_used_stand_out_among_the_keys_the_sketch_is_for() {
        let mut sketch = Sketch::new(Some(1 << 20));
        let key_count = (1 << 20) / RECORD_BYTES_TYPICAL;
        for round in 0..10 {
            for number in 0..key_count {
                if round == 0 || number % 100 == 0 {
                    sketch.record(token(number));
                }
            }
        }
        let often = |number: &u64| sketch.frequency(token(*number)) >= 7;
        let hot = (0..key_count).filter(|number| number % 100 == 0).filter(often).count();
        let cold = (0..key_count).filter(|number| number % 100 != 0).filter(often).count();
        assert!(hot >= 80, "{hot} of 82 hot keys stand out");
        assert!(cold <= 80, "{cold} of 8,110 cold keys stand out");
    }

    #[test]
    fn the_sketch_is_a_small_part_of_the_bound() {
        for bound in [1 << 20, 1 << 27, 1 << 30] {
            let sketch = Sketch::new(Some(bound));
            assert!(sketch.bytes() <= bound / 32);
            assert!(sketch.fits(Some(bound)));
        }
    }

    /// Which pages of `words` are in memory, as the system says of its own process.
    fn resident_pages(words: &[u64]) -> usize {
        const PAGE_BYTES: u64 = 4096;
        const PRESENT: u64 = 1 << 63;
        let first = words.as_ptr().addr() as u64 / PAGE_BYTES;
        let count = size_of_val(words) as u64 / PAGE_BYTES;
        let mut entries = vec![0; usize::try_from(count * 8).unwrap()];
        let pages = std::fs::File::open("/proc/self/pagemap").unwrap();
        pages.read_exact_at(&mut entries, first * 8).unwrap();
        let (entries, _) = entries.as_chunks::<8>();
        entries.iter().filter(|entry| u64::from_le_bytes(**entry) & PRESENT != 0).count()
    }

    #[test]
    fn a_large_sketch_is_not_written_before_it_is_used() {
        let mut sketch = Sketch::new(Some(1 << 40));
        assert!(sketch.bytes() >= 64 << 20);
        let before = resident_pages(&sketch.words);
        // A page of the allocator's own, or a large one where the system prefers those.
        assert!(before <= 512, "{before} pages are in memory");
        (0..5_000).for_each(|number| sketch.record(token(number)));
        let after = resident_pages(&sketch.words);
        assert!(after > before, "pages are seen when they are used");
        assert!(sketch.block(0).as_ptr().addr().is_multiple_of(CACHE_LINE_BYTES));
    }
}
