//! What people and programs get to read.
//!
//! JSON fields carry their unit. A figure that could not be measured is absent (`null`), never zero.

mod cluster;
pub mod hgrm;
pub mod html;
mod markdown;
mod notes;
mod pages;
mod publish;
mod sweep;
mod tables;
mod text;
mod words;

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use serde::Serialize;

use crate::compare::Comparison;
use crate::options::{CallStyle, MeasureOptions, TargetName};
use crate::pace::{Arrivals, Pace};
use crate::proc::Machine;
use crate::record::{Errors, Latencies, LatencySummary};
use crate::target::{Measurement, Preparation};
use crate::timeline::TimelinePoint;
use crate::workload::{Operation, Workload};

use html::{Note, Page};

pub use cluster::ClusterReport;
pub use publish::{Report, print, print_failure, publish, write_json};
pub use sweep::{KneeReport, KnobReport, PointReport, SweepReport};

/// Names the form of the JSON; changes when a field changes its meaning or goes away.
pub const SCHEMA: &str = "gridkv-bench/2";

/// What was run, where and when.
#[derive(Clone, Debug, Serialize)]
pub struct Setting {
    /// [`SCHEMA`].
    pub schema: &'static str,
    /// The command line.
    pub command: String,
    /// When it began, in UTC.
    pub date: String,
    /// Where.
    pub machine: Machine,
    /// What was asked.
    pub workload: WorkloadReport,
    /// How.
    pub load: LoadReport,
}

impl Setting {
    /// This moment on this machine.
    #[must_use]
    pub fn observe(
        command: String,
        workload: &Workload,
        options: &MeasureOptions,
        targets: &[&TargetName],
    ) -> Self {
        Self {
            schema: SCHEMA,
            command,
            date: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
            machine: Machine::observe(),
            workload: WorkloadReport::new(workload),
            load: LoadReport::new(options, targets),
        }
    }
}

/// A [`Workload`].
#[derive(Clone, Debug, Serialize)]
pub struct WorkloadReport {
    /// Its name, where it has one.
    pub name: Option<&'static str>,
    /// How many keys there are.
    pub keys: u64,
    /// The size of keys, as the option has it.
    pub key_bytes: String,
    /// The size of values, as the option has it.
    pub value_bytes: String,
    /// Whether values have nothing in common.
    pub distinct: bool,
    /// What requests do; shares add up to 1.
    pub mix: Vec<OperationShare>,
    /// How they spread over keys.
    pub distribution: String,
    /// How many rows a scan reads, from the first number to the second, where there are scans.
    pub scan_rows: Option<(u32, u32)>,
    /// How long what is written lives, from the first time to the second.
    pub ttl_seconds: Option<(f64, f64)>,
    /// What all randomness derived from.
    pub seed: u64,
}

/// A part of a mix.
#[derive(Clone, Debug, Serialize)]
pub struct OperationShare {
    /// What the operation is called.
    pub operation: String,
    /// The command, where it is one of the user's own.
    pub command: Option<String>,
    /// From 0 to 1.
    pub share: f64,
}

impl WorkloadReport {
    fn new(workload: &Workload) -> Self {
        let mix = workload.mix.parts().iter().map(|&(operation, share)| OperationShare {
            operation: workload.name_of(operation).to_owned(),
            command: match operation {
                Operation::Command(index) => {
                    Some(workload.commands[usize::from(index)].text.clone())
                }
                _ => None,
            },
            share,
        });
        let seconds = |time: (Duration, Duration)| (time.0.as_secs_f64(), time.1.as_secs_f64());
        Self {
            name: workload.name,
            keys: workload.key_count,
            key_bytes: workload.key_sizes.to_string(),
            value_bytes: workload.value_sizes.to_string(),
            distinct: workload.is_distinct,
            mix: mix.collect(),
            distribution: workload.distribution.to_string(),
            scan_rows: workload.mix.has(Operation::Scan).then_some(workload.scan_rows),
            ttl_seconds: workload.time_to_live.map(seconds),
            seed: workload.seed,
        }
    }
}

/// How a target was loaded; options that none of the targets has are absent.
#[derive(Clone, Debug, Serialize)]
#[expect(missing_docs, reason = "the fields are those of the options")]
pub struct LoadReport {
    pub pace: &'static str,
    pub offered_rate: Option<f64>,
    pub arrivals: Option<&'static str>,
    pub connections: Option<usize>,
    pub pipeline: Option<usize>,
    pub threads: Option<usize>,
    pub calls: Option<&'static str>,
    pub batch: Option<usize>,
    pub warmup_seconds: f64,
    pub errors_max: f64,
}

impl LoadReport {
    fn new(options: &MeasureOptions, targets: &[&TargetName]) -> Self {
        let any = |is: fn(&TargetName) -> bool| targets.iter().any(|&it| is(it));
        let is_called = any(|it| *it != TargetName::InCore);
        let (pace, offered_rate, arrivals) = match options.pace() {
            Pace::Closed => ("closed", None, None),
            Pace::Open { rate, arrivals: Arrivals::Fixed } => ("open", Some(rate), Some("fixed")),
            Pace::Open { rate, arrivals: Arrivals::Poisson } => {
                ("open", Some(rate), Some("poisson"))
            }
        };
        Self {
            pace,
            offered_rate,
            arrivals,
            connections: any(|it| matches!(it, TargetName::Remote(_)))
                .then(|| options.connections.max(options.threads)),
            pipeline: is_called.then_some(options.pipeline),
            threads: is_called.then_some(options.threads),
            calls: any(|it| *it == TargetName::Embedded).then_some(match options.engine.calls {
                CallStyle::Blocking => "blocking",
                CallStyle::Async => "async",
                CallStyle::Batch => "batch",
            }),
            batch: any(|it| *it == TargetName::InCore).then_some(options.engine.batch),
            warmup_seconds: options.warmup.as_secs_f64(),
            errors_max: options.errors_max,
        }
    }
}

/// One measurement.
#[derive(Clone, Debug, Serialize)]
pub struct Figures {
    /// Why it ended early, if it did.
    pub partial: Option<String>,
    /// How long was measured.
    pub seconds: f64,
    /// Requests answered without error.
    pub requests: u64,
    /// Of these, a second.
    pub rate: Option<f64>,
    /// What went wrong.
    pub errors: Errors,
    /// Reads that found no key.
    pub missing_keys: u64,
    /// All latencies; in an open loop from the intended starts on: response time.
    pub latency: Option<LatencySummary>,
    /// In an open loop, from the actual starts on: service time.
    pub latency_service: Option<LatencySummary>,
    /// Those of each operation.
    pub operations: Vec<OperationFigures>,
    /// How much later than intended an open loop sent.
    pub send_delay: Option<LatencySummary>,
    /// What it cost the server.
    pub server: Option<ServerFigures>,
    /// What it cost the generator, where there is one apart from the target.
    pub generator: Option<GeneratorFigures>,
    /// The CPUs of the engine's cores, for an engine in this process.
    pub engine_cpus: Vec<usize>,
    /// The rate divided by the engine's cores.
    pub rate_per_core: Option<f64>,
    /// One request in so many was timed.
    pub latency_stride: u64,
    /// Latencies by quantile: quantile from 0 to below 1, microseconds.
    pub curve: Vec<(f64, f64)>,
    /// The same of service times.
    pub curve_service: Vec<(f64, f64)>,
    /// Rate and latencies over time.
    pub timeline: Vec<TimelinePoint>,
    /// All latencies, for whoever writes them down or adds them up.
    #[serde(skip)]
    pub latencies: Latencies,
}

/// The latencies of one operation.
#[derive(Clone, Debug, Serialize)]
pub struct OperationFigures {
    /// What it is called.
    pub operation: String,
    /// Its latencies.
    pub latency: LatencySummary,
    /// The same by quantile, as in [`Figures::curve`].
    pub curve: Vec<(f64, f64)>,
}

/// What a measurement cost the server, by the CPU time of its process.
#[derive(Clone, Debug, Serialize)]
pub struct ServerFigures {
    /// The processes that listen.
    pub process_ids: Vec<u32>,
    /// Whether callers are part of it: an engine in this process.
    pub includes_callers: bool,
    /// The CPUs that their threads are pinned to; none when they may run anywhere.
    pub pinned_cpus: BTreeSet<usize>,
    /// CPU time for each answered request.
    pub cpu_us_per_request: Option<f64>,
    /// The part in its own code.
    pub user_us_per_request: Option<f64>,
    /// The part in the kernel.
    pub system_us_per_request: Option<f64>,
    /// How many CPUs it kept busy.
    pub cpus_busy: Option<f64>,
    /// How many CPUs more it would have kept busy, had others not used them.
    pub cpus_awaited: Option<f64>,
}

/// What a measurement cost the generator.
#[derive(Clone, Debug, Serialize)]
pub struct GeneratorFigures {
    /// Load threads.
    pub threads: usize,
    /// The CPUs they were pinned to; none when they may run anywhere.
    pub pinned_cpus: BTreeSet<usize>,
    /// The share of time they were busy; near 1 in a closed loop, they are what was measured.
    pub busy_share: f64,
    /// The share of time they could have run and were not let: others disturb.
    pub starved_share: f64,
}

impl Figures {
    /// The figures of a measurement.
    #[must_use]
    pub fn new(measurement: &Measurement) -> Self {
        let Measurement { recorder, window, partial, server, generator, .. } = measurement;
        let seconds = window.as_secs_f64();
        let answered = recorder.completed + recorder.errors.error_replies;
        let all = recorder.all();
        let per = |amount: f64, of: f64| (of > 0.0).then(|| amount / of);
        Self {
            partial: partial.clone(),
            seconds,
            requests: recorder.completed,
            rate: per(recorder.completed as f64, seconds),
            errors: recorder.errors.clone(),
            missing_keys: recorder.missing,
            latency: all.summary(),
            latency_service: recorder.service.as_ref().and_then(|it| it.summary()),
            operations: operations(measurement),
            send_delay: recorder.send_delays.summary(),
            server: server.as_ref().map(|server| {
                let micros = |time: Duration| time.as_secs_f64() * 1e6;
                ServerFigures {
                    process_ids: server.process_ids.clone(),
                    includes_callers: server.includes_callers,
                    pinned_cpus: server.pinned_cpus.clone(),
                    cpu_us_per_request: per(micros(server.cpu.total()), answered as f64),
                    user_us_per_request: per(micros(server.cpu.user), answered as f64),
                    system_us_per_request: per(micros(server.cpu.system), answered as f64),
                    cpus_busy: per(server.cpu.total().as_secs_f64(), seconds),
                    cpus_awaited: per(server.cpu_wait.as_secs_f64(), seconds),
                }
            }),
            generator: generator.as_ref().map(|generator| GeneratorFigures {
                threads: generator.threads,
                pinned_cpus: generator.cpus.clone(),
                busy_share: generator.busy_share,
                starved_share: generator.starved_share,
            }),
            engine_cpus: measurement.engine_cpus.clone(),
            rate_per_core: per(
                recorder.completed as f64,
                seconds * measurement.engine_cpus.len() as f64,
            ),
            latency_stride: measurement.latency_stride,
            curve: all.curve(),
            curve_service: recorder.service.as_ref().map(|it| it.curve()).unwrap_or_default(),
            timeline: measurement.timeline.clone(),
            latencies: all,
        }
    }

    /// Of the requests that were sent, the share that failed.
    #[must_use]
    pub fn error_share(&self) -> f64 {
        let failed = (self.errors.error_replies + self.errors.unanswered) as f64;
        if failed > 0.0 { failed / (failed + self.requests as f64) } else { 0.0 }
    }

    /// Why the figures are not to be relied on, if more requests failed than `share` of them.
    #[must_use]
    pub fn too_many_errors(&self, share: f64) -> Option<String> {
        let found = self.error_share();
        (found > share).then(|| {
            let first = self.errors.first_error_reply.as_ref();
            let first = first.map(|it| format!("; the first: {it}")).unwrap_or_default();
            format!(
                "{:.4} % of the requests failed, --errors-max is {:.4} %{first}",
                found * 100.0,
                share * 100.0
            )
        })
    }
}

fn operations(measurement: &Measurement) -> Vec<OperationFigures> {
    let latencies = measurement.recorder.by_operation();
    let named = latencies.filter_map(|(place, latencies)| {
        let operation = measurement.operation_names[place].clone();
        Some(OperationFigures {
            operation,
            latency: latencies.summary()?,
            curve: latencies.curve(),
        })
    });
    named.collect()
}

/// The report of `run`.
#[derive(Clone, Debug, Serialize)]
pub struct RunReport {
    /// What was run.
    #[serde(flatten)]
    pub setting: Setting,
    /// Against what.
    pub target: String,
    /// What came of loading and such.
    pub preparation: Preparation,
    /// What came of it.
    pub figures: Figures,
}

/// The report of `compare`.
#[derive(Clone, Debug, Serialize)]
pub struct CompareReport {
    /// What was run.
    #[serde(flatten)]
    pub setting: Setting,
    /// The two targets.
    pub targets: [String; 2],
    /// What came of loading and such, for each of the targets.
    pub preparations: [Preparation; 2],
    /// What came of it.
    pub comparison: Comparison,
}

impl Report for RunReport {
    fn table(&self) -> String {
        text::run_table(self)
    }

    fn notes(&self) -> Vec<Note> {
        notes::run(self)
    }

    fn page(&self) -> Page {
        pages::run::page(self)
    }

    fn markdown(&self, title: Option<&str>) -> String {
        markdown::run(title, self)
    }

    fn latencies(&self) -> Vec<(&'static str, Latencies)> {
        vec![("", self.figures.latencies.clone())]
    }
}

impl Report for CompareReport {
    fn table(&self) -> String {
        text::comparison_table(self)
    }

    fn notes(&self) -> Vec<Note> {
        notes::compare(self)
    }

    fn page(&self) -> Page {
        pages::compare::page(self)
    }

    fn markdown(&self, title: Option<&str>) -> String {
        markdown::comparison(title, self)
    }

    fn latencies(&self) -> Vec<(&'static str, Latencies)> {
        vec![("a", sum(&self.comparison.a)), ("b", sum(&self.comparison.b))]
    }
}

impl Report for SweepReport {
    fn table(&self) -> String {
        text::sweep_table(self)
    }

    fn notes(&self) -> Vec<Note> {
        notes::sweep(self)
    }

    fn page(&self) -> Page {
        pages::sweep::page(self)
    }

    fn markdown(&self, title: Option<&str>) -> String {
        markdown::sweep(title, self)
    }

    fn latencies(&self) -> Vec<(&'static str, Latencies)> {
        Vec::new()
    }
}

impl Report for ClusterReport {
    fn table(&self) -> String {
        text::cluster_table(self)
    }

    fn notes(&self) -> Vec<Note> {
        notes::cluster(self)
    }

    fn page(&self) -> Page {
        pages::cluster::page(self)
    }

    fn markdown(&self, title: Option<&str>) -> String {
        markdown::cluster(title, self)
    }

    fn latencies(&self) -> Vec<(&'static str, Latencies)> {
        vec![("", self.figures.latencies.clone())]
    }
}

/// The latencies of several runs together.
fn sum(runs: &[Figures]) -> Latencies {
    let mut sum = Latencies::new();
    runs.iter().for_each(|it| sum.add(&it.latencies));
    sum
}

#[cfg(test)]
mod tests;
