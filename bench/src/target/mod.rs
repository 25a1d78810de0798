//! What is loaded.

pub mod callers;
mod embedded;
mod engine;
mod in_core;
mod remote;

use std::collections::BTreeSet;
use std::io;
use std::time::Duration;

use rustix::thread::{CpuSet, sched_setaffinity};
use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;

use crate::options::{MeasureOptions, TargetName};
use crate::proc::CpuTime;
use crate::record::{Errors, LatencySummary, Recorder};
use crate::timeline::TimelinePoint;
use crate::workload::Workload;

pub use embedded::EmbeddedTarget;
pub use in_core::InCoreTarget;
pub use remote::{OnTick, RemoteTarget};

/// Something to load.
pub trait Target {
    /// Gets ready for the first [`Target::measure`]: writes all keys, where that is asked.
    ///
    /// # Errors
    ///
    /// When the target cannot be reached or refuses.
    fn prepare(&mut self) -> Result<Preparation, Failure>;

    /// Loads it for the whole of warm-up and measurement. A target that fails under way leaves a
    /// [`Measurement::partial`].
    ///
    /// # Errors
    ///
    /// When the target cannot be reached at all.
    fn measure(&mut self) -> Result<Measurement, Failure>;

    /// Leaves the machine to another target until the next [`Target::measure`].
    fn rest(&mut self) {}
}

/// The target that `name` stands for.
///
/// # Errors
///
/// When it cannot be reached.
pub fn open(
    name: &TargetName,
    workload: &Workload,
    options: &MeasureOptions,
) -> Result<Box<dyn Target>, Failure> {
    match name {
        TargetName::Remote(url) => {
            Ok(Box::new(RemoteTarget::open(url, workload.clone(), options.clone())?))
        }
        TargetName::InCore => Ok(Box::new(InCoreTarget::new(workload.clone(), options.clone()))),
        TargetName::Embedded => {
            Ok(Box::new(EmbeddedTarget::new(workload.clone(), options.clone())))
        }
    }
}

/// Why a target could not be measured to the end.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// Its name does not lead to an address.
    #[error("cannot resolve {target}: {source}")]
    Resolve {
        /// As given.
        target: String,
        /// What the resolver said.
        source: io::Error,
    },
    /// No connection.
    #[error("cannot connect to {target}: {source}")]
    Connect {
        /// The address.
        target: String,
        /// What the system said.
        source: io::Error,
    },
    /// Connections ended, and new ones fail.
    #[error("{target} died under way: connection lost ({cause}), and again: {again}")]
    Died {
        /// The address.
        target: String,
        /// How a connection ended.
        cause: String,
        /// How the attempt to replace it ended.
        again: String,
    },
    /// Requests stay without reply.
    #[error("{target} sent no reply for {seconds} s with {requests} requests on their way")]
    Silent {
        /// The address.
        target: String,
        /// How long.
        seconds: f64,
        /// How many requests wait.
        requests: usize,
    },
    /// It does not let this program in.
    #[error("{target} refuses: {text}")]
    Refused {
        /// The address.
        target: String,
        /// In its words.
        text: String,
    },
    /// The workload is not for this target.
    #[error("{target} cannot be asked this: {why}")]
    Unfit {
        /// The address.
        target: String,
        /// What is not for it.
        why: String,
    },
    /// What arrives makes no sense.
    #[error("{target} does not answer in its protocol: {cause}")]
    Protocol {
        /// The address.
        target: String,
        /// What is wrong.
        cause: String,
    },
    /// Writes of the load phase failed, so the keys are not what the workload says.
    #[error("{target} refused {refused} of {keys} writes while loading: {first}")]
    Loading {
        /// The address.
        target: String,
        /// How many were refused.
        refused: u64,
        /// How many keys were to be written.
        keys: u64,
        /// The first refusal.
        first: String,
    },
    /// The engine in this process refused.
    #[error("the engine failed: {0}")]
    Engine(
        /// In its words.
        String,
    ),
    /// The generator's own machine refused.
    #[error("the load generator failed: {context}: {source}")]
    Generator {
        /// What it did.
        context: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

/// What came of [`Target::prepare`].
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Preparation {
    /// The load phase, if there was one.
    pub loading: Option<Loading>,
    /// Idle connections, if some were asked for.
    pub idle_connections: Option<Idle>,
}

/// All keys written.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Loading {
    /// How many.
    pub keys: u64,
    /// In which time.
    pub seconds: f64,
    /// Writes a second.
    pub rate: f64,
    /// What went wrong.
    pub errors: Errors,
    /// Memory, where it was asked for and can be told.
    pub memory: Option<LoadMemory>,
    /// Latencies of single writes, where each was timed.
    pub growth: Option<LatencySummary>,
}

/// Memory of the target around the load phase.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LoadMemory {
    /// Resident before.
    pub resident_bytes_before: u64,
    /// Resident after.
    pub resident_bytes_after: u64,
    /// Keys and values alone.
    pub payload_bytes: u64,
    /// Whether the target was empty before, where it says so.
    pub was_empty: Option<bool>,
    /// Growth beyond the payload, for each key; absent for a target that was not empty, whose
    /// growth tells nothing.
    pub overhead_bytes_per_key: Option<f64>,
}

impl LoadMemory {
    /// The figures for all keys of `workload`.
    #[must_use]
    pub fn new(
        resident_bytes_before: u64,
        resident_bytes_after: u64,
        workload: &Workload,
        was_empty: Option<bool>,
    ) -> Self {
        let payload = workload.payload_bytes();
        let growth = resident_bytes_after as f64 - resident_bytes_before as f64;
        Self {
            resident_bytes_before,
            resident_bytes_after,
            payload_bytes: payload as u64,
            was_empty,
            overhead_bytes_per_key: (was_empty != Some(false))
                .then(|| (growth - payload) / workload.key_count as f64),
        }
    }
}

/// Memory of the target around the opening of idle connections.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Idle {
    /// How many were opened, and answered a `PING`.
    pub connections: usize,
    /// Resident before, where it can be told.
    pub resident_bytes_before: Option<u64>,
    /// Resident after, where it can be told.
    pub resident_bytes_after: Option<u64>,
    /// Growth for each connection.
    pub bytes_per_connection: Option<f64>,
}

/// What came of [`Target::measure`].
#[derive(Clone, Debug)]
pub struct Measurement {
    /// What operations are called, by their place ([`crate::workload::Operation::index`]).
    pub operation_names: Vec<String>,
    /// Latencies and errors, of all threads.
    pub recorder: Recorder,
    /// The same over time.
    pub timeline: Vec<TimelinePoint>,
    /// How long was measured.
    pub window: Duration,
    /// Why it ended early, if it did.
    pub partial: Option<String>,
    /// What it cost the server, where that can be told.
    pub server: Option<ServerCost>,
    /// What it cost the generator, where there is one apart from the target.
    pub generator: Option<GeneratorCost>,
    /// The CPUs of the engine's cores, for an engine in this process.
    pub engine_cpus: Vec<usize>,
    /// One request in so many was timed.
    pub latency_stride: u64,
}

/// CPU time of the server within the window.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerCost {
    /// Whose.
    pub process_ids: Vec<u32>,
    /// The CPUs it is pinned to; none when it may run anywhere.
    pub pinned_cpus: BTreeSet<usize>,
    /// Whether the callers are part of it: an engine in this process.
    pub includes_callers: bool,
    /// How much.
    pub cpu: CpuTime,
    /// How long its threads could have run and were not let.
    pub cpu_wait: Duration,
}

/// What the load threads did.
#[derive(Clone, Debug, PartialEq)]
pub struct GeneratorCost {
    /// How many there were.
    pub threads: usize,
    /// The CPUs they were pinned to; none when they may run anywhere.
    pub cpus: BTreeSet<usize>,
    /// The share of time in which they were busy, from warm-up on. Threads of an open loop await
    /// the next start without sleep.
    pub busy_share: f64,
    /// The share of time in which they could have run and were not let.
    pub starved_share: f64,
}

/// Pins this thread to `cpus`; leaves it alone when there are none.
fn pin(cpus: &BTreeSet<usize>) -> Result<(), Failure> {
    if cpus.is_empty() {
        return Ok(());
    }
    let mut set = CpuSet::new();
    cpus.iter().filter(|&&it| it < CpuSet::MAX_CPU).for_each(|&it| set.set(it));
    sched_setaffinity(None, &set).map_err(|error| Failure::Generator {
        context: "pin to --client-cpus",
        source: error.into(),
    })
}

/// CPU time of this thread.
fn thread_cpu_time() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).expect("CPU time is not negative")
}
