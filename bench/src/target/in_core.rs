//! The engine from within: the workload runs on the cores, in closures that hold their shard.
//!
//! This is the price of the store alone: no socket, no hop. What a request costs is of the order of
//! what drawing one costs, so each shard's requests are drawn beforehand and gone through again and
//! again; and one request in [`SAMPLE_STRIDE`] is timed, so that the clock does not dominate. The
//! latencies include one reading of the clock.

use std::time::{Duration, Instant};

use gridkv::{Error, Handle, Shard};

use super::engine::{EngineSlot, SLICE, Turn};
use super::{Failure, GeneratorCost, Measurement, Preparation, Target, thread_cpu_time};
use crate::options::MeasureOptions;
use crate::proc::thread_cpu_wait;
use crate::record::{Group, Recorder};
use crate::workload::{Operation, Workload, stream_rng};

/// Requests drawn beforehand, for each shard; fewer where there are fewer keys.
const PREPARED_MAX: u64 = 1 << 21;

/// At least as many requests are drawn beforehand, however few keys there are.
const PREPARED_MIN: u64 = 1 << 12;

/// One request in so many is timed; with batches, one batch in as many batches as make so many.
const SAMPLE_STRIDE: usize = 64;

/// Random bytes that values are cut from.
const VALUE_POOL_BYTES: usize = 1 << 16;

/// The stream of randomness of the value pool.
const VALUE_STREAM: u64 = 1 << 33;

/// The target `in-core`.
pub struct InCoreTarget {
    slot: EngineSlot,
}

impl InCoreTarget {
    /// An engine to be opened by [`Target::prepare`].
    #[must_use]
    pub fn new(workload: Workload, options: MeasureOptions) -> Self {
        Self { slot: EngineSlot::new(workload, options) }
    }
}

impl Target for InCoreTarget {
    fn prepare(&mut self) -> Result<Preparation, Failure> {
        self.slot.prepare()
    }

    fn measure(&mut self) -> Result<Measurement, Failure> {
        let (workload, options) = (self.slot.workload.clone(), self.slot.options.clone());
        let engine = self.slot.engine()?;
        let shard_count = engine.shard_count() as u64;
        let mut states: Vec<ShardLoad> = (0..shard_count)
            .map(|shard| {
                let count = options
                    .requests
                    .map(|it| it / shard_count + u64::from(shard < it % shard_count));
                ShardLoad {
                    prepared: Prepared::draw(&workload, &engine.handle, shard),
                    batch: options.engine.batch,
                    measure_at: Instant::now(),
                    duration: options.duration,
                    left: count,
                    measured: None,
                    cpu: Duration::ZERO,
                    cpu_wait: Duration::ZERO,
                    recorder: Recorder::default(),
                }
            })
            .collect();
        let measure_at = Instant::now() + options.warmup;
        for state in &mut states {
            state.measure_at = measure_at;
        }
        let states = engine.on_each_shard(states, ShardLoad::work)?;
        let mut recorder = Recorder::default();
        let (mut busy, mut starved, mut wall) = (0.0, 0.0, f64::MIN_POSITIVE);
        let mut window: Option<(Instant, Instant)> = None;
        for state in &states {
            recorder.add(&state.recorder);
            if let Some((from, to)) = state.measured {
                busy += state.cpu.as_secs_f64();
                starved += state.cpu_wait.as_secs_f64();
                wall += (to - from).as_secs_f64();
                window = window.map_or(Some((from, to)), |it| Some((it.0.min(from), it.1.max(to))));
            }
        }
        Ok(Measurement {
            recorder,
            window: window.map_or(Duration::ZERO, |(from, to)| to - from),
            partial: None,
            server: None,
            generator: Some(GeneratorCost {
                threads: engine.cpus().len(),
                cpus: engine.cpus().iter().copied().collect(),
                busy_share: busy / wall,
                starved_share: starved / wall,
            }),
            engine_cpus: engine.cpus().to_vec(),
            latency_stride: SAMPLE_STRIDE.next_multiple_of(options.engine.batch) as u64,
        })
    }

    fn rest(&mut self) {
        self.slot.rest();
    }
}

/// Requests of one shard, in the order in which they are made.
struct Prepared {
    key_bytes: usize,
    keys: Vec<u8>,
    /// For each key, where in the pool its value lies; `None` to read.
    values: Vec<Option<(u32, u32)>>,
    pool: Vec<u8>,
    next: usize,
}

impl Prepared {
    fn draw(workload: &Workload, handle: &Handle, shard: u64) -> Self {
        let count = (workload.key_count * 4 / u64::from(handle.shard_count()))
            .clamp(PREPARED_MIN, PREPARED_MAX);
        let value_bytes_max = workload.value_sizes.bytes_max;
        let mut rng = stream_rng(workload.seed, VALUE_STREAM + shard);
        let mut pool = vec![0; VALUE_POOL_BYTES + value_bytes_max];
        rng.fill(&mut pool);
        let mut requests = workload.requests(shard);
        let mut prepared =
            Self { key_bytes: workload.key_bytes, keys: vec![], values: vec![], pool, next: 0 };
        // With very few keys a shard may own none of them.
        for _ in 0..count.saturating_mul(u64::from(handle.shard_count()) * 8) {
            let request = requests.draw();
            if u64::from(handle.shard_of(request.key)) != shard {
                continue;
            }
            prepared.keys.extend_from_slice(request.key);
            // Both are below the size of the pool, which is far from 4 GiB.
            let value = (rng.usize(..VALUE_POOL_BYTES) as u32, request.value.len() as u32);
            prepared.values.push((request.operation == Operation::Set).then_some(value));
            if prepared.values.len() as u64 == count {
                break;
            }
        }
        prepared
    }

    /// The index of the next request.
    #[inline]
    fn take(values: &[Option<(u32, u32)>], next: &mut usize) -> usize {
        let index = *next;
        *next = if index + 1 == values.len() { 0 } else { index + 1 };
        index
    }

    #[inline]
    fn key(&self, index: usize) -> &[u8] {
        &self.keys[index * self.key_bytes..(index + 1) * self.key_bytes]
    }

    #[inline]
    fn value(&self, index: usize) -> Option<&[u8]> {
        let (start, len) = self.values[index]?;
        Some(&self.pool[start as usize..start as usize + len as usize])
    }
}

/// One shard's load, carried from slice to slice.
struct ShardLoad {
    prepared: Prepared,
    batch: usize,
    measure_at: Instant,
    duration: Duration,
    /// Requests to measure; `None` to go by the clock.
    left: Option<u64>,
    /// From when until when, once measuring has begun.
    measured: Option<(Instant, Instant)>,
    /// CPU time of the core in measured slices.
    cpu: Duration,
    /// What the core waited for its CPU in measured slices.
    cpu_wait: Duration,
    recorder: Recorder,
}

/// What a group of requests came to, without their latencies.
#[derive(Default)]
struct Tally {
    missing: u64,
    refused: u64,
    error: Option<Error>,
    /// Keeps reads from being left out.
    bytes_seen: u64,
}

impl Tally {
    /// A read counts once its value was looked at.
    #[inline]
    fn see(&mut self, value: Option<&[u8]>) {
        match value {
            Some([first, .., last]) => self.bytes_seen += u64::from(first ^ last),
            Some(_) => {}
            None => self.missing += 1,
        }
    }

    #[cold]
    fn refuse(&mut self, error: Error) {
        self.refused += 1;
        self.error.get_or_insert(error);
    }
}

impl ShardLoad {
    fn work(&mut self, shard: &mut Shard) -> Turn {
        let (cpu, cpu_wait) = (thread_cpu_time(), thread_cpu_wait());
        let turn = self.slice(shard);
        if self.measured.is_some() {
            self.cpu += thread_cpu_time().saturating_sub(cpu);
            self.cpu_wait += thread_cpu_wait().saturating_sub(cpu_wait);
        }
        turn
    }

    fn slice(&mut self, shard: &mut Shard) -> Turn {
        if self.prepared.values.is_empty() {
            return Turn::Done;
        }
        let start = Instant::now();
        let slice_end = start + SLICE;
        let is_measured = start >= self.measure_at;
        let groups_end = if is_measured {
            let (from, _) = *self.measured.get_or_insert((start, start));
            if self.left.is_some() { slice_end } else { slice_end.min(from + self.duration) }
        } else {
            slice_end.min(self.measure_at)
        };
        loop {
            let now = self.group(shard, is_measured);
            if let (true, Some((from, to))) = (is_measured, &mut self.measured) {
                *to = now;
                let is_done = match self.left {
                    Some(left) => left == 0,
                    None => now >= *from + self.duration,
                };
                if is_done {
                    return Turn::Done;
                }
            }
            if now >= groups_end {
                return Turn::Again;
            }
        }
    }

    /// Makes [`SAMPLE_STRIDE`] requests or a batch, whichever is more, and times the last or the
    /// last batch.
    fn group(&mut self, shard: &mut Shard, is_measured: bool) -> Instant {
        let mut count = SAMPLE_STRIDE.next_multiple_of(self.batch);
        if let (true, Some(left)) = (is_measured, &mut self.left) {
            count = count.min(usize::try_from(*left).unwrap_or(usize::MAX));
            *left -= count as u64;
        }
        let timed = self.batch.min(count);
        let mut tally = Tally::default();
        let mut last_operation = Operation::Get;
        let mut start = Instant::now();
        let mut keys: Vec<&[u8]> = Vec::with_capacity(self.batch);
        let mut next = self.prepared.next;
        let mut left = count;
        while left > 0 {
            let batch = left.min(if left > timed { (left - timed).min(self.batch) } else { timed });
            if left <= timed {
                start = Instant::now();
            }
            left -= batch;
            for _ in 0..batch {
                let index = Prepared::take(&self.prepared.values, &mut next);
                let key = self.prepared.key(index);
                match self.prepared.value(index) {
                    Some(value) => {
                        last_operation = Operation::Set;
                        if let Err(error) = shard.set(key, value) {
                            tally.refuse(error);
                        }
                    }
                    None if self.batch > 1 => keys.push(key),
                    None => {
                        last_operation = Operation::Get;
                        match shard.get(key) {
                            Ok(value) => tally.see(value),
                            Err(error) => tally.refuse(error),
                        }
                    }
                }
            }
            if !keys.is_empty() {
                last_operation = Operation::Get;
                if let Err(error) = shard.get_many(&keys, |_, value| tally.see(value)) {
                    tally.refuse(error);
                }
                keys.clear();
            }
        }
        let now = Instant::now();
        drop(keys);
        self.prepared.next = next;
        std::hint::black_box(tally.bytes_seen);
        if is_measured {
            let group = Group {
                count: count as u64,
                missing: tally.missing,
                refused: tally.refused,
                first_error: tally.error.map(|it| it.to_string()),
            };
            self.recorder.record_group(last_operation, now - start, &group);
        }
        now
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::parse_measure;

    fn target(line: &str) -> InCoreTarget {
        let options = parse_measure("in-core", line);
        InCoreTarget::new(options.workload.workload().unwrap(), options)
    }

    #[test]
    fn every_request_is_made_on_the_shard_that_owns_its_key() {
        for line in ["-n 10007", "-n 10007 --batch 16", "-n 20011 --engine shards=3 --reads 1"] {
            let line = format!("{line} --keys 1000 --load --growth --report-rss --warmup 5ms");
            let mut target = target(&line);
            let loading = target.prepare().unwrap().loading.unwrap();
            assert_eq!((loading.keys, loading.growth.unwrap().count), (1000, 1000));
            assert!(loading.memory.unwrap().overhead_bytes_per_key.is_some());
            let measurement = target.measure().unwrap();
            let recorder = &measurement.recorder;
            assert_eq!(recorder.completed, target.slot.options.requests.unwrap(), "{line}");
            assert_eq!(recorder.missing, 0);
            assert_eq!(recorder.errors, crate::record::Errors::default());
            assert!(recorder.all().count() > 0);
            assert!(measurement.window > Duration::ZERO);
        }
    }

    #[test]
    fn an_engine_that_rested_is_loaded_again() {
        let mut target = target("-n 1000 --keys 100 --load --reads 1 --warmup 0s");
        target.prepare().unwrap();
        for _ in 0..2 {
            let recorder = target.measure().unwrap().recorder;
            assert_eq!((recorder.completed, recorder.missing), (1000, 0));
            target.rest();
        }
    }

    #[test]
    fn options_that_the_engine_refuses_are_told() {
        let failure = target("--engine colour=blue").prepare().unwrap_err().to_string();
        assert!(failure.starts_with("the engine failed: unknown option `colour`"), "{failure}");
    }
}
