//! A ring of words with one writer, and readers that it never waits for.
//!
//! ```text
//!   words    ... | entry 7   | entry 8     | free or the oldest ... | entry 5 | entry 6 | ...
//!   starts   [5] [6] [7] [8] [9]     where each entry begins; an entry ends where the next begins
//!   oldest   5, `next` 9
//! ```
//!
//! Positions count words and never wrap; word `p` is in place `p mod words`, the start of entry `s`
//! in slot `s mod slots`, with how many bytes of its last word the entry before leaves unused. So an entry is found by its number in one step, however large the ring
//! is. The log reaches back as far as both words and slots do.
//!
//! # Why no reader sees a torn entry
//!
//! All that is shared is atomic, so a race is never undefined; it must not be believed either.
//!
//! - *What is published is whole.* The writer stores words and start with `Relaxed`, then `next`
//!   with `Release`. A reader loads `next` with `Acquire`, so it sees all of each entry before it,
//!   or something newer.
//! - *What is newer is noticed.* Before the writer overwrites anything of an entry, words or slot,
//!   it moves `oldest` beyond that entry, then comes a `Release` fence, then the stores. A reader
//!   copies, then comes an `Acquire` fence, then it loads `oldest`. If any of its loads has seen one
//!   of those stores, the two fences order the writer's move of `oldest` before the reader's load of
//!   it, so the reader sees that its entry is gone, and drops the copy.
//!
//! A reader that finds nonsense for a length copies nothing: it goes by what `oldest` says after.
//!
//! # What is too large
//!
//! An entry larger than a quarter of the ring takes a number and no words: it begins where the next
//! begins. Readers are told that they have missed it.

use rkyv::util::AlignedVec;

use super::sync::{Arc, AtomicU64, Ordering, fence};

const WORD_BYTES: usize = size_of::<u64>();
/// Bits that tell how much of a word is unused.
const UNUSED_BITS: u32 = WORD_BYTES.trailing_zeros();
/// An entry may take the ring's size divided by this.
const ENTRY_SHARE: usize = 4;
/// Words copied at a time.
const CHUNK_WORDS: usize = 32;

/// The number of an entry; the first has 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sequence(pub u64);

impl Sequence {
    /// Of the first entry.
    pub const FIRST: Self = Self(1);

    /// The number after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// What was found at a place of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Read {
    /// An entry, which is in the buffer.
    Entry {
        /// Its number.
        sequence: Sequence,
        /// Where to go on.
        next: Sequence,
    },
    /// Nothing yet.
    End,
    /// It was overwritten, or never kept: go on from `oldest`. What lies between is lost to this
    /// reader.
    Overrun {
        /// The oldest entry that there may still be.
        oldest: Sequence,
    },
}

struct Shared {
    words: Box<[AtomicU64]>,
    starts: Box<[AtomicU64]>,
    /// Nothing of this entry and those after it was overwritten.
    oldest: AtomicU64,
    /// All entries before this one are whole.
    next: AtomicU64,
}

impl Shared {
    #[expect(clippy::cast_possible_truncation, reason = "the bits of the place are meant")]
    fn start(&self, sequence: u64) -> &AtomicU64 {
        &self.starts[sequence as usize & (self.starts.len() - 1)]
    }

    /// The words from a position on: up to the end of the ring, and from its beginning.
    #[expect(clippy::cast_possible_truncation, reason = "the bits of the place are meant")]
    fn extent(&self, position: u64, count: usize) -> [&[AtomicU64]; 2] {
        assert!(count <= self.words.len());
        let (before, from) = self.words.split_at(position as usize & (self.words.len() - 1));
        let straight = count.min(from.len());
        [&from[..straight], &before[..count - straight]]
    }

    const fn entry_words_max(&self) -> usize {
        self.words.len() / ENTRY_SHARE
    }
}

/// The writer's end of a log.
pub struct SyncLog {
    shared: Arc<Shared>,
    /// Where the next entry begins.
    position: u64,
    oldest: u64,
    next: u64,
}

impl SyncLog {
    /// An empty log. Both numbers are powers of two.
    pub(super) fn new(word_count: usize, slot_count: usize) -> Self {
        assert!(word_count.is_power_of_two());
        assert!(word_count >= ENTRY_SHARE);
        assert!(slot_count.is_power_of_two());
        assert!(slot_count >= 2, "an entry ends where the next begins");
        let zeros = |count| std::iter::repeat_with(|| AtomicU64::new(0)).take(count).collect();
        let first = Sequence::FIRST.0;
        let shared = Shared {
            words: zeros(word_count),
            starts: zeros(slot_count),
            oldest: AtomicU64::new(first),
            next: AtomicU64::new(first),
        };
        Self { shared: Arc::new(shared), position: 0, oldest: first, next: first }
    }

    /// Appends an entry, whose length is not zero. Returns its number.
    ///
    /// It never fails: what is larger than a quarter of the log is not kept, and readers are told.
    pub fn push(&mut self, entry: &[u8]) -> Sequence {
        assert!(!entry.is_empty(), "an entry without words is one that was not kept");
        let sequence = self.next;
        let is_kept = entry.len().div_ceil(WORD_BYTES) <= self.shared.entry_words_max();
        let entry = if is_kept { entry } else { &[] };
        let word_count = entry.len().div_ceil(WORD_BYTES);
        let end = self.position + word_count as u64;
        self.give_up_until(end);
        let mut rest = entry;
        for words in self.shared.extent(self.position, word_count) {
            let (now, later) = rest.split_at(rest.len().min(words.len() * WORD_BYTES));
            for (word, bytes) in words.iter().zip(now.chunks(WORD_BYTES)) {
                let mut whole = [0; WORD_BYTES];
                whole[..bytes.len()].copy_from_slice(bytes);
                word.store(u64::from_ne_bytes(whole), Ordering::Relaxed);
            }
            rest = later;
        }
        self.next += 1;
        self.position = end;
        let unused = word_count * WORD_BYTES - entry.len();
        self.shared.start(self.next).store(pack(end, unused), Ordering::Relaxed);
        self.shared.next.store(self.next, Ordering::Release);
        Sequence(sequence)
    }

    /// Says of all entries that it is over with them which a new one, up to position `end`,
    /// overwrites.
    fn give_up_until(&mut self, end: u64) {
        let shared = &*self.shared;
        let before = self.oldest;
        // The new entry's end is the start of the next, which takes a slot.
        let slot_count = shared.starts.len() as u64;
        self.oldest = self.oldest.max((self.next + 2).saturating_sub(slot_count));
        let start = |sequence| unpack(shared.start(sequence).load(Ordering::Relaxed)).0;
        while start(self.oldest) + (shared.words.len() as u64) < end {
            self.oldest += 1;
        }
        assert!(self.oldest <= self.next);
        if self.oldest > before {
            shared.oldest.store(self.oldest, Ordering::Relaxed);
            fence(Ordering::Release);
        }
    }

    /// The number that the next entry will have.
    #[must_use]
    pub const fn next(&self) -> Sequence {
        Sequence(self.next)
    }

    /// The oldest entry that is there; [`SyncLog::next`] if there is none.
    #[must_use]
    pub const fn oldest(&self) -> Sequence {
        Sequence(self.oldest)
    }

    /// A reader of the log.
    #[must_use]
    pub fn reader(&self) -> SyncReader {
        SyncReader { shared: Arc::clone(&self.shared) }
    }
}

/// A reader's end of a log. It has no place of its own: who reads says from where.
#[derive(Clone)]
pub struct SyncReader {
    shared: Arc<Shared>,
}

impl SyncReader {
    /// Reads the entry `from` into a buffer. Whatever was in it is gone, and what is in it after
    /// anything but [`Read::Entry`] means nothing.
    pub fn read(&self, from: Sequence, into: &mut AlignedVec) -> Read {
        let shared = &*self.shared;
        into.clear();
        if from.0 >= shared.next.load(Ordering::Acquire) {
            return Read::End;
        }
        let (start, _) = unpack(shared.start(from.0).load(Ordering::Relaxed));
        let (end, unused) = unpack(shared.start(from.next().0).load(Ordering::Relaxed));
        let word_count = usize::try_from(end.wrapping_sub(start)).unwrap_or(usize::MAX);
        let is_sensible = word_count <= shared.entry_words_max();
        if is_sensible {
            into.reserve(word_count * WORD_BYTES);
            for words in shared.extent(start, word_count) {
                copy(words, into);
            }
            into.resize(into.len().saturating_sub(unused), 0);
        }
        fence(Ordering::Acquire);
        let oldest = Sequence(shared.oldest.load(Ordering::Relaxed));
        if from < oldest {
            return Read::Overrun { oldest };
        }
        assert!(is_sensible, "what was not overwritten is as it was written");
        if word_count == 0 {
            return Read::Overrun { oldest: from.next() };
        }
        Read::Entry { sequence: from, next: from.next() }
    }

    /// The number that the next entry will have, or a number before it.
    #[must_use]
    pub fn next(&self) -> Sequence {
        Sequence(self.shared.next.load(Ordering::Acquire))
    }
}

/// Where an entry begins, with the unused bytes of the one before, in one word.
const fn pack(position: u64, unused: usize) -> u64 {
    assert!(unused < WORD_BYTES);
    position << UNUSED_BITS | unused as u64
}

#[expect(clippy::cast_possible_truncation, reason = "three bits are left")]
const fn unpack(start: u64) -> (u64, usize) {
    (start >> UNUSED_BITS, (start & (WORD_BYTES as u64 - 1)) as usize)
}

fn copy(words: &[AtomicU64], into: &mut AlignedVec) {
    let mut chunk = [0; CHUNK_WORDS * WORD_BYTES];
    for words in words.chunks(CHUNK_WORDS) {
        for (bytes, word) in chunk.chunks_exact_mut(WORD_BYTES).zip(words) {
            bytes.copy_from_slice(&word.load(Ordering::Relaxed).to_ne_bytes());
        }
        into.extend_from_slice(&chunk[..words.len() * WORD_BYTES]);
    }
}
