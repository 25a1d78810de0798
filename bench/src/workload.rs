//! What is asked: a stream of requests, as a pure function of the seed.
//!
//! Each load thread draws from a stream of its own, so its requests do not depend on how fast the
//! others are.

use std::ops::Range;

use fastrand::Rng;

use crate::keys::{Distribution, KeyBuffer, KeyChooser};

/// What a request does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Reads a key.
    Get,
    /// Writes a key.
    Set,
}

/// One request. The value of a [`Operation::Get`] is empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request<'a> {
    /// What to do.
    pub operation: Operation,
    /// The key's number.
    pub key_index: u64,
    /// The key.
    pub key: &'a [u8],
    /// The value to write.
    pub value: &'a [u8],
}

/// Sizes of values, each as likely as the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ValueSizes {
    /// The smallest.
    pub bytes_min: usize,
    /// The largest.
    pub bytes_max: usize,
}

/// What to ask, of whichever target.
#[derive(Clone, Debug, PartialEq)]
pub struct Workload {
    /// How many keys there are.
    pub key_count: u64,
    /// The size of each key.
    pub key_bytes: usize,
    /// The sizes of values.
    pub value_sizes: ValueSizes,
    /// The share of reads, from 0 to 1; the others write.
    pub reads: f64,
    /// How requests spread over keys.
    pub distribution: Distribution,
    /// What all streams of randomness derive from.
    pub seed: u64,
}

impl Workload {
    /// Requests of load thread `stream`, without end.
    #[must_use]
    pub fn requests(&self, stream: u64) -> Generator {
        let keys = Keys::Chosen(KeyChooser::new(self.key_count, self.distribution));
        Generator::new(self, keys, self.reads, stream)
    }

    /// One [`Operation::Set`] for each key of `keys`, in order; it begins anew at the end.
    #[must_use]
    pub fn loading(&self, keys: Range<u64>) -> Generator {
        assert!(keys.end <= self.key_count);
        let stream = !keys.start; // Apart from those of load threads, which count from 0.
        Generator::new(self, Keys::Sequence { next: keys.start, keys }, 0.0, stream)
    }

    /// The part of the key space that `part` of `part_count` loads.
    #[must_use]
    pub fn loading_range(&self, part: u64, part_count: u64) -> Range<u64> {
        assert!(part < part_count);
        let bound = |part| {
            let key = u128::from(self.key_count) * u128::from(part) / u128::from(part_count);
            u64::try_from(key).expect("a share is no more than the whole")
        };
        bound(part)..bound(part + 1)
    }

    /// Bytes of all keys and their values, with values of mean size.
    #[must_use]
    pub fn payload_bytes(&self) -> f64 {
        let ValueSizes { bytes_min, bytes_max } = self.value_sizes;
        let value_bytes = (bytes_min + bytes_max) as f64 / 2.0;
        self.key_count as f64 * (self.key_bytes as f64 + value_bytes)
    }
}

#[derive(Clone, Debug)]
enum Keys {
    Chosen(KeyChooser),
    Sequence { next: u64, keys: Range<u64> },
}

/// Draws the requests of one stream.
#[derive(Clone, Debug)]
pub struct Generator {
    keys: Keys,
    reads: f64,
    value_sizes: ValueSizes,
    rng: Rng,
    key: KeyBuffer,
    value: Vec<u8>,
}

impl Generator {
    fn new(workload: &Workload, keys: Keys, reads: f64, stream: u64) -> Self {
        Self {
            keys,
            reads,
            value_sizes: workload.value_sizes,
            rng: stream_rng(workload.seed, stream),
            key: KeyBuffer::new(workload.key_bytes),
            value: vec![0; workload.value_sizes.bytes_max],
        }
    }

    /// The next request.
    #[inline]
    pub fn draw(&mut self) -> Request<'_> {
        let key_index = match &mut self.keys {
            Keys::Chosen(chooser) => chooser.draw(&mut self.rng),
            Keys::Sequence { next, keys } => {
                let key = *next;
                *next = if key + 1 < keys.end { key + 1 } else { keys.start };
                key
            }
        };
        let key = self.key.write(key_index);
        if self.reads > 0.0 && self.rng.f64() < self.reads {
            return Request { operation: Operation::Get, key_index, key, value: &[] };
        }
        let ValueSizes { bytes_min, bytes_max } = self.value_sizes;
        let value_bytes =
            if bytes_min == bytes_max { bytes_max } else { self.rng.usize(bytes_min..=bytes_max) };
        // Fresh bytes each time: a store that compresses finds nothing to win.
        let value = &mut self.value[..value_bytes];
        self.rng.fill(value);
        Request { operation: Operation::Set, key_index, key, value }
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
mod tests {
    use super::*;

    fn workload() -> Workload {
        Workload {
            key_count: 1000,
            key_bytes: 16,
            value_sizes: ValueSizes { bytes_min: 8, bytes_max: 32 },
            reads: 0.25,
            distribution: Distribution::Zipfian { theta: 0.99 },
            seed: 42,
        }
    }

    type Owned = (Operation, Vec<u8>, Vec<u8>);

    fn draw(generator: &mut Generator, count: usize) -> Vec<Owned> {
        (0..count)
            .map(|_| {
                let request = generator.draw();
                (request.operation, request.key.to_vec(), request.value.to_vec())
            })
            .collect()
    }

    #[test]
    fn a_seed_and_a_stream_determine_every_request() {
        let first = draw(&mut workload().requests(3), 1000);
        assert_eq!(first, draw(&mut workload().requests(3), 1000));
        assert_ne!(first, draw(&mut workload().requests(4), 1000));
        let other = Workload { seed: 43, ..workload() };
        assert_ne!(first, draw(&mut other.requests(3), 1000));
    }

    #[test]
    fn reads_and_value_sizes_are_as_asked() {
        let requests = draw(&mut workload().requests(0), 100_000);
        let reads = requests.iter().filter(|it| it.0 == Operation::Get).count();
        assert!(reads.abs_diff(25_000) < 1000, "{reads}");
        for (operation, key, value) in &requests {
            assert_eq!(key.len(), 16);
            match operation {
                Operation::Get => assert!(value.is_empty()),
                Operation::Set => assert!((8..=32).contains(&value.len())),
            }
        }
        for bytes in [8, 32] {
            assert!(requests.iter().any(|it| it.2.len() == bytes));
        }
    }

    #[test]
    fn only_reads_and_only_writes_are_mixes_too() {
        for (reads, operation) in [(1.0, Operation::Get), (0.0, Operation::Set)] {
            let mut generator = Workload { reads, ..workload() }.requests(0);
            assert!((0..10_000).all(|_| generator.draw().operation == operation));
        }
    }

    #[test]
    fn loading_writes_every_key_once() {
        let workload = workload();
        let mut keys = Vec::new();
        for part in 0..3 {
            let range = workload.loading_range(part, 3);
            let count = usize::try_from(range.end - range.start).unwrap();
            let requests = draw(&mut workload.loading(range), count);
            assert!(requests.iter().all(|it| it.0 == Operation::Set));
            keys.extend(requests.into_iter().map(|it| it.1));
        }
        let all: Vec<Vec<u8>> =
            (0..1000).map(|key| format!("key:{key:012}").into_bytes()).collect();
        assert_eq!(keys, all);
    }

    #[test]
    fn values_do_not_repeat() {
        let requests = draw(&mut workload().loading(0..1000), 1000);
        let mut values: Vec<&Vec<u8>> = requests.iter().map(|it| &it.2).collect();
        values.sort();
        values.dedup();
        assert_eq!(values.len(), 1000);
    }
}
