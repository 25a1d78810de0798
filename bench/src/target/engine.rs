//! An engine in this process, as the targets `in-core` and `embedded` open it.

use std::thread;
use std::time::{Duration, Instant};

use gridkv::{Engine, Handle, Shard};

use super::{Failure, LoadMemory, Loading, Preparation};
use crate::options::{EngineOptions, MeasureOptions};
use crate::proc::ServerProcess;
use crate::record::{Errors, Latencies};
use crate::workload::{Generator, Workload};

/// How long a closure keeps a core: long beside the hop to it, short beside what else a core does
/// between its turns.
pub(super) const SLICE: Duration = Duration::from_millis(20);

/// How often the main thread looks whether the shards are done.
const WATCH_INTERVAL: Duration = Duration::from_millis(1);

/// How many keys are looked at between two looks at the clock while loading.
const LOADING_STRIDE: u64 = 256;

/// Whether a closure wants its core again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    Again,
    Done,
}

/// Room for an engine that comes and goes with the measurements.
pub(super) struct EngineSlot {
    pub(super) workload: Workload,
    pub(super) options: MeasureOptions,
    open: Option<OpenEngine>,
    /// Whether an engine was open in this process before, whose memory is used again.
    was_open: bool,
}

impl EngineSlot {
    pub(super) fn new(workload: Workload, options: MeasureOptions) -> Self {
        Self { workload, options, open: None, was_open: false }
    }

    /// Opens an engine and loads it, where that is asked.
    pub(super) fn prepare(&mut self) -> Result<Preparation, Failure> {
        self.rest();
        let engine = OpenEngine::open(&self.options.engine, &self.workload)?;
        let loading = if self.options.load {
            Some(engine.load(&self.workload, &self.options, !self.was_open)?)
        } else {
            None
        };
        self.was_open = true;
        self.open = Some(engine);
        Ok(Preparation { loading, idle_connections: None })
    }

    /// The engine, prepared again if it has rested.
    pub(super) fn engine(&mut self) -> Result<&OpenEngine, Failure> {
        if self.open.is_none() {
            self.prepare()?;
        }
        Ok(self.open.as_ref().expect("prepared above"))
    }

    pub(super) fn rest(&mut self) {
        if let Some(engine) = self.open.take() {
            // A core that does not end is in the log; what was measured stands.
            let _ = engine.engine.shutdown();
        }
    }
}

/// An open engine.
pub(super) struct OpenEngine {
    engine: Engine,
    pub(super) handle: Handle,
    /// One key of each shard: the way to it.
    shard_keys: Vec<Vec<u8>>,
}

impl OpenEngine {
    fn open(options: &EngineOptions, workload: &Workload) -> Result<Self, Failure> {
        let failed = |error: &dyn std::error::Error| Failure::Engine(with_causes(error));
        let mut builder = match &options.cpus {
            Some(list) => Engine::builder().cpus(list.0.iter().copied().collect::<Vec<_>>()),
            None => Engine::builder().cores(options.cores),
        };
        // A benchmark of the engine leaves no files, unless it is told to.
        builder = builder.storage("memory");
        for option in &options.settings {
            builder = builder.set(&option.name, &option.value).map_err(|error| failed(&error))?;
        }
        let engine = builder.open().map_err(|error| failed(&error))?;
        let handle = engine.handle();
        let mut shard_keys = vec![None; usize::from(handle.shard_count())];
        let mut key = workload.key_buffer();
        for index in 0.. {
            let text = key.write(index);
            shard_keys[usize::from(handle.shard_of(text))].get_or_insert_with(|| text.to_vec());
            if shard_keys.iter().all(Option::is_some) {
                break;
            }
        }
        Ok(Self { engine, handle, shard_keys: shard_keys.into_iter().flatten().collect() })
    }

    pub(super) fn shard_count(&self) -> usize {
        self.shard_keys.len()
    }

    pub(super) fn cpus(&self) -> &[usize] {
        self.engine.cpus()
    }

    /// Lends each shard to `work` with its own state, slice after slice until that is done, all
    /// shards at the same time.
    pub(super) fn on_each_shard<S: Send + 'static>(
        &self,
        states: Vec<S>,
        work: fn(&mut S, &mut Shard) -> Turn,
        watch: &mut dyn FnMut(),
    ) -> Result<Vec<S>, Failure> {
        assert_eq!(states.len(), self.shard_count());
        let run = |mut state: S, key: &[u8]| {
            let blocking = self.handle.blocking();
            loop {
                let slice = move |shard: &mut Shard| {
                    let turn = work(&mut state, shard);
                    (state, turn)
                };
                let turn;
                (state, turn) = blocking
                    .run_on(key, slice)
                    .map_err(|error| Failure::Engine(with_causes(&error)))?;
                if turn == Turn::Done {
                    return Ok(state);
                }
            }
        };
        thread::scope(|scope| {
            let threads: Vec<_> = states
                .into_iter()
                .zip(&self.shard_keys)
                .map(|(state, key)| scope.spawn(move || run(state, key)))
                .collect();
            while !threads.iter().all(thread::ScopedJoinHandle::is_finished) {
                thread::sleep(WATCH_INTERVAL);
                watch();
            }
            threads.into_iter().map(|it| it.join().expect("a driver does not panic")).collect()
        })
    }

    /// Writes all keys, each on the core that owns it.
    fn load(
        &self,
        workload: &Workload,
        options: &MeasureOptions,
        is_first: bool,
    ) -> Result<Loading, Failure> {
        let resident = || ServerProcess::this().resident_bytes();
        let states: Vec<LoadingShard> = (0..self.shard_count())
            .map(|_| LoadingShard::new(workload, options.engine.growth))
            .collect();
        let before = resident();
        let start = Instant::now();
        let states = self.on_each_shard(states, LoadingShard::work, &mut || ())?;
        let seconds = start.elapsed().as_secs_f64();
        let memory = before.zip(resident()).filter(|_| options.report_rss);
        let mut growth = Latencies::new();
        let mut errors = Errors::default();
        for state in &states {
            if let Some(latencies) = &state.latencies {
                growth.add(latencies);
            }
            errors.add(&state.errors);
        }
        if errors.error_replies > 0 {
            return Err(Failure::Loading {
                target: "engine".to_owned(),
                refused: errors.error_replies,
                keys: workload.key_count,
                first: errors.first_error_reply.unwrap_or_default(),
            });
        }
        Ok(Loading {
            keys: workload.key_count,
            seconds,
            rate: workload.key_count as f64 / seconds,
            errors,
            memory: memory
                .map(|(before, after)| LoadMemory::new(before, after, workload, Some(is_first))),
            growth: growth.summary(),
        })
    }
}

/// One shard's part of the load phase: it looks at all keys and writes those it owns.
struct LoadingShard {
    requests: Generator,
    left: u64,
    latencies: Option<Latencies>,
    errors: Errors,
}

impl LoadingShard {
    fn new(workload: &Workload, is_timed: bool) -> Self {
        Self {
            requests: workload.loading(0..workload.key_count),
            left: workload.key_count,
            latencies: is_timed.then(Latencies::new),
            errors: Errors::default(),
        }
    }

    fn work(&mut self, shard: &mut Shard) -> Turn {
        let end = Instant::now() + SLICE;
        while self.left > 0 {
            let count = self.left.min(LOADING_STRIDE);
            self.left -= count;
            for _ in 0..count {
                self.write_next(shard);
            }
            if Instant::now() >= end {
                return Turn::Again;
            }
        }
        Turn::Done
    }

    fn write_next(&mut self, shard: &mut Shard) {
        let request = self.requests.draw();
        if !shard.owns(request.key) {
            return;
        }
        let start = self.latencies.as_ref().map(|_| Instant::now());
        let result = shard.set(request.key, request.value);
        if let (Some(latencies), Some(start)) = (&mut self.latencies, start) {
            latencies.record(start.elapsed());
        }
        if let Err(error) = result {
            self.errors.refuse(&error.to_string());
        }
    }
}

/// An error and what caused it, in one line.
pub(super) fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
