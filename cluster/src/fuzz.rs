//! Hostile input for every decoder and every machine of this crate.
//!
//! A case is a row of bytes, and each decision of a test is drawn from them by a [`Source`]: which
//! event comes next, with which of the plausible values or with an extreme one, and how much later.
//! proptest makes the rows and shortens those that fail. No other toolchain is needed, and what fails
//! is reported as its bytes; the case that they stand for becomes a test of its own before it is mended.
//!
//! Each room has one file of such tests, `fuzz.rs`; that of replication is in here. What they hold: nothing that comes from outside makes
//! a machine panic, whatever came before and however late; what a machine keeps is bounded; a request
//! has at most one answer; what a machine sends, the other end can read.
//!
//! `cargo test` runs them for a few seconds each. For hours:
//!
//! ```sh
//! FUZZ=10000 cargo test --release -p gridkv-cluster fuzz        # so many times as many cases
//! ```

mod replication;

use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{TestError, TestRunner};

/// Decisions, drawn from bytes. When they are used up, the first of each choice is taken.
#[derive(Debug)]
pub(crate) struct Source<'a> {
    rest: &'a [u8],
}

impl Source<'_> {
    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub(crate) fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.rest.split_first() else { return 0 };
        self.rest = rest;
        *first
    }

    pub(crate) fn flag(&mut self) -> bool {
        self.byte() & 1 == 1
    }

    /// One in so many.
    pub(crate) fn is_rare(&mut self, one_in: u8) -> bool {
        self.byte() % one_in == one_in - 1
    }

    /// A number below `count`, which is at most 256.
    pub(crate) fn below(&mut self, count: usize) -> usize {
        assert!((1..=256).contains(&count));
        usize::from(self.byte()) % count
    }

    pub(crate) fn pick<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.below(of.len().min(256))].clone()
    }

    /// Small, at an edge, or any.
    pub(crate) fn number(&mut self) -> u64 {
        match self.below(6) {
            0 => u64::from(self.byte()),
            1 => 0,
            2 => u64::MAX - u64::from(self.byte() % 4),
            3 => 1 << (self.byte() % 64),
            4 => (1 << (self.byte() % 64)) - 1,
            _ => u64::from_le_bytes(std::array::from_fn(|_| self.byte())),
        }
    }

    /// From nothing to a century.
    pub(crate) fn pause(&mut self) -> Duration {
        let byte = u64::from(self.byte());
        match self.below(8) {
            0 | 1 => Duration::ZERO,
            2 | 3 => Duration::from_millis(byte),
            4 | 5 => Duration::from_millis(byte * 20),
            6 => Duration::from_secs(byte),
            _ => Duration::from_secs(byte << (self.byte() % 24)),
        }
    }

    /// So many bytes as there are left, at most.
    pub(crate) fn bytes(&mut self, len_max: usize) -> Vec<u8> {
        let (bytes, rest) = self.rest.split_at(len_max.min(self.rest.len()));
        self.rest = rest;
        bytes.to_vec()
    }

    /// Mostly nothing; otherwise something is changed, missing, or too much.
    pub(crate) fn damage(&mut self, bytes: &mut Vec<u8>) {
        if !self.is_rare(8) || bytes.is_empty() {
            return;
        }
        let at = usize::from(u16::from_le_bytes([self.byte(), self.byte()])) % bytes.len();
        match self.below(4) {
            0 => bytes[at] = self.byte(),
            1 => bytes[at] ^= 1 << (self.byte() % 8),
            2 => bytes.truncate(at),
            _ => bytes.extend(self.bytes(8)),
        }
    }
}

/// Runs a test on so many rows of at most so many bytes; times `FUZZ`, if that is set.
pub(crate) fn run(cases: u32, len_max: usize, test: impl Fn(&mut Source<'_>)) {
    let times = std::env::var("FUZZ").map_or(1, |times| times.parse().expect("FUZZ is a number"));
    let config = ProptestConfig {
        cases: cases.saturating_mul(times),
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    let tested = TestRunner::new(config).run(&vec(any::<u8>(), 0..=len_max), |bytes| {
        test(&mut Source { rest: &bytes });
        Ok(())
    });
    match tested {
        Ok(()) => {}
        Err(TestError::Fail(why, bytes)) => panic!("{why}, of the row {bytes:?}"),
        Err(TestError::Abort(why)) => panic!("{why}"),
    }
}
