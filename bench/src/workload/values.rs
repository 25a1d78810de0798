//! What is written.
//!
//! A value is known by a number and its length, so that one which is sent later (the second half of
//! a read-modify-write) need not be kept. By default it is cut from a pool of random bytes, at a
//! place drawn anew each time: nothing to win for compression within a value, and next to no work
//! here. A store that looks for repetition *between* values can find some; with `distinct` values
//! every byte is drawn for its value alone.

use fastrand::Rng;

use super::stream_rng;

/// Places in the pool where a value can begin.
const POOL_STARTS: usize = 1 << 20;

/// The stream of randomness of the pool.
const POOL_STREAM: u64 = 1 << 33;

/// A value that can be written at any time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ValueId {
    /// What its bytes derive from.
    pub number: u64,
    /// Its length in bytes.
    pub len: u32,
}

/// Where values come from.
#[derive(Clone, Debug)]
pub(super) struct Values {
    pool: Vec<u8>,
    is_distinct: bool,
}

impl Values {
    pub(super) fn new(seed: u64, bytes_max: usize, is_distinct: bool) -> Self {
        let mut pool = vec![0; if is_distinct { bytes_max } else { POOL_STARTS + bytes_max }];
        if !is_distinct && bytes_max > 0 {
            stream_rng(seed, POOL_STREAM).fill(&mut pool);
        }
        Self { pool, is_distinct }
    }

    /// The bytes of a value no longer than the longest.
    #[inline]
    pub(super) fn bytes(&mut self, id: ValueId) -> &[u8] {
        let len = id.len as usize;
        if self.is_distinct {
            Rng::with_seed(id.number).fill(&mut self.pool[..len]);
            return &self.pool[..len];
        }
        // Less than the number of places, so the cast loses nothing.
        let start = (id.number % POOL_STARTS as u64) as usize;
        &self.pool[start..start + len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_determines_the_bytes() {
        for is_distinct in [false, true] {
            let mut values = Values::new(1, 100, is_distinct);
            let id = ValueId { number: 77, len: 100 };
            let first = values.bytes(id).to_vec();
            let other = values.bytes(ValueId { number: 78, len: 40 }).to_vec();
            assert_eq!(values.bytes(id), first);
            assert_ne!(other, first[..40]);
        }
    }

    #[test]
    fn distinct_values_have_no_eight_bytes_in_common() {
        let mut values = Values::new(1, 64, true);
        let mut seen = std::collections::BTreeSet::new();
        for number in 0..2_000 {
            for window in values.bytes(ValueId { number, len: 64 }).windows(8) {
                assert!(seen.insert(window.to_vec()), "{number}");
            }
        }
    }
}
