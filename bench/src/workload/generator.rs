//! Draws the requests of one load thread.

use std::ops::Range;
use std::time::Duration;

use fastrand::Rng;

use super::values::{ValueId, Values};
use super::{Mix, Operation, Part, Sizes, Workload, stream_rng};
use crate::keys::{KeyBuffer, KeyChooser};

/// One request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request<'a> {
    /// What to do.
    pub operation: Operation,
    /// The key's number.
    pub key_index: u64,
    /// The key.
    pub key: &'a [u8],
    /// The value to write; empty for an operation that writes none.
    pub value: &'a [u8],
    /// The same, to be had again from [`Generator::key_and_value`].
    pub value_id: ValueId,
    /// The keys that a scan reads, `key` the first of them; none for other operations.
    pub rows: &'a [Vec<u8>],
    /// How long what it writes lives; for ever without.
    pub time_to_live: Option<Duration>,
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
    mix: Mix,
    value_sizes: Sizes,
    scan_rows: (u32, u32),
    time_to_live: Option<(Duration, Duration)>,
    rng: Rng,
    key: KeyBuffer,
    values: Values,
    rows: Vec<Vec<u8>>,
    inserted: Inserted,
}

/// Keys beyond the first ones. Each thread inserts keys of its own, every `part.count`-th, and reads
/// only its own: those of other threads may not be there yet.
#[derive(Clone, Copy, Debug)]
struct Inserted {
    key_count: u64,
    part: Part,
    count: u64,
}

impl Inserted {
    fn key(&self, number: u64) -> u64 {
        self.key_count + number * self.part.count + self.part.index
    }

    /// The key that is `age` keys older than the newest that is certainly there.
    #[inline]
    fn aged(&self, age: u64) -> u64 {
        let settled = self.count.saturating_sub(self.part.in_flight_max);
        match settled.checked_sub(age + 1) {
            Some(number) => self.key(number),
            None => (self.key_count - 1).saturating_sub(age - settled),
        }
    }
}

impl Generator {
    pub(super) fn chosen(workload: &Workload, part: Part) -> Self {
        let keys = Keys::Chosen(KeyChooser::new(workload.key_count, workload.distribution));
        Self::new(workload, keys, workload.mix.clone(), part, part.index)
    }

    pub(super) fn sequence(workload: &Workload, keys: Range<u64>) -> Self {
        let stream = !keys.start; // Apart from those of load threads, which count from 0.
        let part = Part { index: 0, count: 1, in_flight_max: 0 };
        let keys = Keys::Sequence { next: keys.start, keys };
        Self::new(workload, keys, Mix::of_reads(0.0), part, stream)
    }

    fn new(workload: &Workload, keys: Keys, mix: Mix, part: Part, stream: u64) -> Self {
        let values = Values::new(workload.seed, workload.value_sizes.max(), workload.is_distinct);
        Self {
            keys,
            mix,
            value_sizes: workload.value_sizes.clone(),
            scan_rows: workload.scan_rows,
            time_to_live: workload.time_to_live,
            rng: stream_rng(workload.seed, stream),
            key: workload.key_buffer(),
            values,
            rows: Vec::new(),
            inserted: Inserted { key_count: workload.key_count, part, count: 0 },
        }
    }

    /// The next request.
    #[inline]
    pub fn draw(&mut self) -> Request<'_> {
        let operation = self.mix.draw(&mut self.rng);
        let key_index = self.draw_key(operation);
        let rows = if operation == Operation::Scan { self.write_rows(key_index) } else { 0 };
        let value_id = if operation.carries_value() {
            // Sizes are bounded far below 4 GiB, so the cast loses nothing.
            let len = self.value_sizes.draw(&mut self.rng) as u32;
            ValueId { number: self.rng.u64(..), len }
        } else {
            ValueId::default()
        };
        let time_to_live = match self.time_to_live {
            Some((min, max)) if min < max => Some(min + (max - min).mul_f64(self.rng.f64())),
            fixed => fixed.map(|it| it.0),
        };
        Request {
            operation,
            key_index,
            key: self.key.write(key_index),
            value: if value_id.len == 0 { &[] } else { self.values.bytes(value_id) },
            value_id,
            rows: &self.rows[..rows],
            time_to_live,
        }
    }

    #[inline]
    fn draw_key(&mut self, operation: Operation) -> u64 {
        match &mut self.keys {
            Keys::Chosen(_) if operation == Operation::Insert => {
                self.inserted.count += 1;
                self.inserted.key(self.inserted.count - 1)
            }
            Keys::Chosen(chooser) if chooser.goes_by_age() => {
                self.inserted.aged(chooser.draw(&mut self.rng))
            }
            Keys::Chosen(chooser) => chooser.draw(&mut self.rng),
            Keys::Sequence { next, keys } => {
                let key = *next;
                *next = if key + 1 < keys.end { key + 1 } else { keys.start };
                key
            }
        }
    }

    /// Fills the rows from `first` on, as far as there are keys; says how many they are.
    fn write_rows(&mut self, first: u64) -> usize {
        let wanted = self.rng.u32(self.scan_rows.0..=self.scan_rows.1);
        let left = self.inserted.key_count.saturating_sub(first).max(1);
        // No more than `wanted`, so the cast loses nothing.
        let count = u64::from(wanted).min(left) as usize;
        self.rows.resize_with(count.max(self.rows.len()), Vec::new);
        for (key, row) in (first..).zip(&mut self.rows[..count]) {
            row.clear();
            row.extend_from_slice(self.key.write(key));
        }
        count
    }

    /// The text of a key that was drawn before.
    #[inline]
    pub fn key(&mut self, key_index: u64) -> &[u8] {
        self.key.write(key_index)
    }

    /// A key and a value that were drawn before.
    #[inline]
    pub fn key_and_value(&mut self, key_index: u64, value_id: ValueId) -> (&[u8], &[u8]) {
        (self.key.write(key_index), self.values.bytes(value_id))
    }
}
