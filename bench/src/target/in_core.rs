//! The engine from within: the workload runs on the cores, in closures that hold their shard.
//!
//! This is the price of the store alone: no socket, no hop. What a request costs is of the order of
//! what drawing one costs, so each shard's requests are drawn beforehand and gone through again and
//! again (what it inserts is new in the first round only); and one request in [`SAMPLE_STRIDE`] is
//! timed, so that the clock does not dominate. The latencies include one reading of the clock.

use std::time::{Duration, Instant};

use gridkv::{Error, Expiry, Handle, SetOptions, Shard};

use super::engine::{EngineSlot, SLICE, Turn};
use super::{Failure, GeneratorCost, Measurement, Preparation, Target, thread_cpu_time};
use crate::options::MeasureOptions;
use crate::proc::thread_cpu_wait;
use crate::progress::{Goal, Progress};
use crate::record::{Group, Recorder, Sample};
use crate::timeline::Timeline;
use crate::workload::{Operation, Part, Workload, stream_rng};

/// Requests drawn beforehand, for each shard; fewer where there are fewer keys.
const PREPARED_MAX: u64 = 1 << 21;

/// At least as many requests are drawn beforehand, however few keys there are.
const PREPARED_MIN: u64 = 1 << 12;

/// One request in so many is timed; with batches, one batch in as many batches as make so many.
const SAMPLE_STRIDE: usize = 64;

/// No more bytes of keys are drawn beforehand.
const KEY_BYTES_MAX: usize = 1 << 30;

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
        let workload = &self.slot.workload;
        let refused = workload.mix.parts().iter().find(|it| !is_offered(it.0));
        if let Some((operation, _)) = refused {
            let why = format!("a shard has no {}", workload.name_of(*operation));
            return Err(Failure::Unfit { target: "in-core".to_owned(), why });
        }
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
        let timeline = Timeline::new(measure_at);
        for state in &mut states {
            state.measure_at = measure_at;
            state.recorder = Recorder::feeding(timeline.feed());
        }
        let goal = options.requests.map_or(Goal::Duration(options.duration), Goal::Requests);
        let mut progress = Progress::new(goal);
        let watch = &mut || progress.tick(&timeline);
        let mut states = engine.on_each_shard(states, ShardLoad::work, watch)?;
        drop(progress);
        states.iter_mut().for_each(|it| it.recorder.flush());
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
        let window = window.map_or(Duration::ZERO, |(from, to)| to - from);
        Ok(Measurement {
            operation_names: workload.operation_names(),
            recorder,
            timeline: timeline.points(window),
            window,
            partial: crate::interrupt::reason(),
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

/// Whether the API of a shard has `operation`, for keys that are its own.
fn is_offered(operation: Operation) -> bool {
    match operation {
        Operation::Get
        | Operation::Set
        | Operation::Insert
        | Operation::ReadModifyWrite
        | Operation::Delete
        | Operation::Exists
        | Operation::Increment => true,
        Operation::Scan | Operation::Append | Operation::Command(_) => false,
    }
}

/// Requests of one shard, in the order in which they are made.
struct Prepared {
    keys: Vec<u8>,
    requests: Vec<PreparedRequest>,
    pool: Vec<u8>,
    next: usize,
}

/// Where a request's key and value lie.
#[derive(Clone, Copy)]
struct PreparedRequest {
    operation: Operation,
    key_start: u32,
    key_len: u16,
    value_start: u32,
    value_len: u32,
    time_to_live: Option<Duration>,
}

impl Prepared {
    fn draw(workload: &Workload, handle: &Handle, shard: u64) -> Self {
        let count = (workload.key_count * 4 / u64::from(handle.shard_count()))
            .clamp(PREPARED_MIN, PREPARED_MAX);
        let mut rng = stream_rng(workload.seed, VALUE_STREAM + shard);
        let mut pool = vec![0; VALUE_POOL_BYTES + workload.value_sizes.max()];
        rng.fill(&mut pool);
        let shard_count = u64::from(handle.shard_count());
        let mut drawn =
            workload.requests(Part { index: shard, count: shard_count, in_flight_max: 0 });
        let mut prepared = Self { keys: vec![], requests: vec![], pool, next: 0 };
        // With very few keys a shard may own none of them.
        for _ in 0..count.saturating_mul(shard_count * 8) {
            let request = drawn.draw();
            if u64::from(handle.shard_of(request.key)) != shard {
                continue;
            }
            // Keys have at most 64 KiB, values and the pool far less than 4 GiB.
            prepared.requests.push(PreparedRequest {
                operation: request.operation,
                key_start: prepared.keys.len() as u32,
                key_len: request.key.len() as u16,
                value_start: rng.usize(..VALUE_POOL_BYTES) as u32,
                value_len: request.value.len() as u32,
                time_to_live: request.time_to_live,
            });
            prepared.keys.extend_from_slice(request.key);
            let is_full = prepared.keys.len() > KEY_BYTES_MAX;
            if prepared.requests.len() as u64 == count || is_full {
                break;
            }
        }
        prepared
    }

    /// The next request.
    #[inline]
    fn take(requests: &[PreparedRequest], next: &mut usize) -> PreparedRequest {
        let index = *next;
        *next = if index + 1 == requests.len() { 0 } else { index + 1 };
        requests[index]
    }

    #[inline]
    fn key(&self, request: &PreparedRequest) -> &[u8] {
        &self.keys[request.key_start as usize..][..usize::from(request.key_len)]
    }

    #[inline]
    fn value(&self, request: &PreparedRequest) -> &[u8] {
        &self.pool[request.value_start as usize..][..request.value_len as usize]
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

    /// Makes one request.
    #[inline]
    fn make(&mut self, shard: &mut Shard, request: &PreparedRequest, key: &[u8], value: &[u8]) {
        let result = match request.operation {
            Operation::Get => shard.get(key).map(|it| self.see(it)),
            Operation::ReadModifyWrite => shard
                .get(key)
                .map(|it| self.see(it))
                .and_then(|()| write(shard, request, key, value)),
            Operation::Delete => shard.delete(key).map(|it| self.missing += u64::from(!it)),
            Operation::Exists => shard.exists(key).map(|it| self.missing += u64::from(!it)),
            Operation::Increment => shard.increment(key, 1).map(|_| ()),
            Operation::Set
            | Operation::Insert
            | Operation::Scan
            | Operation::Append
            | Operation::Command(_) => write(shard, request, key, value),
        };
        if let Err(error) = result {
            self.refuse(error);
        }
    }

    #[cold]
    fn refuse(&mut self, error: Error) {
        self.refused += 1;
        self.error.get_or_insert(error);
    }
}

#[inline]
fn write(
    shard: &mut Shard,
    request: &PreparedRequest,
    key: &[u8],
    value: &[u8],
) -> Result<(), Error> {
    match request.time_to_live {
        None => shard.set(key, value),
        Some(time) => {
            let options = SetOptions { expiry: Expiry::After(time), ..SetOptions::default() };
            shard.set_with(key, value, &options).map(|_| ())
        }
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
        if self.prepared.requests.is_empty() || crate::interrupt::is_set() {
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
                let request = Prepared::take(&self.prepared.requests, &mut next);
                let key = self.prepared.key(&request);
                last_operation = request.operation;
                if request.operation == Operation::Get && self.batch > 1 {
                    keys.push(key);
                } else {
                    tally.make(shard, &request, key, self.prepared.value(&request));
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
            let sample = Sample { ended_at: now, response: now - start, service: None };
            self.recorder.record_group(last_operation, sample, &group);
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
