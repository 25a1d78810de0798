//! What is asked: a stream of requests, as a pure function of the seed.
//!
//! Each load thread draws from a stream of its own, so its requests do not depend on how fast the
//! others are, nor on when replies come.

mod command;
mod generator;
mod mix;
mod preset;
mod sizes;
mod values;

use std::ops::Range;
use std::time::Duration;

use fastrand::Rng;

use crate::keys::{Distribution, KeyBuffer};

pub use command::CommandTemplate;
pub use generator::{Generator, Request};
pub use mix::{Mix, Operation};
pub use preset::{NAMES as PRESET_NAMES, Preset, ROW_BYTES};
pub use sizes::Sizes;
pub use values::ValueId;

/// What to ask, of whichever target.
#[derive(Clone, Debug, PartialEq)]
pub struct Workload {
    /// What it is called, where it has a name.
    pub name: Option<&'static str>,
    /// How many keys there are before the first insertion.
    pub key_count: u64,
    /// The sizes of keys; a key keeps its own.
    pub key_sizes: Sizes,
    /// The sizes of values.
    pub value_sizes: Sizes,
    /// Whether no two values have anything in common.
    pub is_distinct: bool,
    /// What requests do.
    pub mix: Mix,
    /// Commands of the user's own.
    pub commands: Vec<CommandTemplate>,
    /// How requests spread over keys.
    pub distribution: Distribution,
    /// How many rows a scan reads, each number alike.
    pub scan_rows: (u32, u32),
    /// How long what is written lives, each time alike; for ever without.
    pub time_to_live: Option<(Duration, Duration)>,
    /// What all streams of randomness derive from.
    pub seed: u64,
}

/// Which of the load threads draws, and how far ahead of the replies it may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Its number, from 0 on.
    pub index: u64,
    /// How many there are.
    pub count: u64,
    /// How many of its requests can be on their way at once. So many of the keys that it inserted
    /// last are not asked for yet.
    pub in_flight_max: u64,
}

impl Workload {
    /// Requests of one load thread, without end.
    ///
    /// # Panics
    ///
    /// When the part is none of its count.
    #[must_use]
    pub fn requests(&self, part: Part) -> Generator {
        assert!(part.index < part.count);
        Generator::chosen(self, part)
    }

    /// One [`Operation::Set`] for each key of `keys`, in order; it begins anew at the end.
    ///
    /// # Panics
    ///
    /// When `keys` reaches beyond the last.
    #[must_use]
    pub fn loading(&self, keys: Range<u64>) -> Generator {
        assert!(keys.end <= self.key_count);
        Generator::sequence(self, keys)
    }

    /// The part of the key space that `part` of `part_count` loads.
    ///
    /// # Panics
    ///
    /// When the part is none of its count.
    #[must_use]
    pub fn loading_range(&self, part: u64, part_count: u64) -> Range<u64> {
        assert!(part < part_count);
        let bound = |part| {
            let key = u128::from(self.key_count) * u128::from(part) / u128::from(part_count);
            u64::try_from(key).expect("a share is no more than the whole")
        };
        bound(part)..bound(part + 1)
    }

    /// Writes the texts of keys.
    #[must_use]
    pub fn key_buffer(&self) -> KeyBuffer {
        KeyBuffer::new(self.key_sizes.clone(), self.seed)
    }

    /// What `operation` is called.
    #[must_use]
    pub fn name_of(&self, operation: Operation) -> &str {
        match operation {
            Operation::Command(index) => &self.commands[usize::from(index)].name,
            named => Operation::NAMED[named.index()].1,
        }
    }

    /// What all operations are called, by their place.
    #[must_use]
    pub fn operation_names(&self) -> Vec<String> {
        let named = Operation::NAMED.iter().map(|it| it.1.to_owned());
        named.chain(self.commands.iter().map(|it| it.name.clone())).collect()
    }

    /// Bytes of all keys and their values, with keys and values of mean size.
    #[must_use]
    pub fn payload_bytes(&self) -> f64 {
        self.key_count as f64 * (self.key_sizes.mean() + self.value_sizes.mean())
    }
}

/// The randomness of one stream: neighbouring seeds and streams have nothing in common.
#[must_use]
pub fn stream_rng(seed: u64, stream: u64) -> Rng {
    let mut root = Rng::with_seed(seed);
    let salt = root.u64(..);
    Rng::with_seed(salt ^ stream.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

#[cfg(test)]
mod tests;
