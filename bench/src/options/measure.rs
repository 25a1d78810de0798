//! How a target is loaded.

use std::collections::BTreeSet;
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::{TargetName, WorkloadOptions, positive, share};
use crate::pace::{Arrivals, Pace};
use crate::proc::parse_cpu_list;

/// How to load a target.
#[derive(Clone, Debug, Args)]
pub struct MeasureOptions {
    /// What to ask.
    #[command(flatten)]
    pub workload: WorkloadOptions,
    /// Connections, of all load threads together.
    #[arg(long, short = 'c', default_value_t = 50, value_parser = positive)]
    pub connections: usize,
    /// Requests on their way at once on each connection. A closed loop sends them as one batch and
    /// waits for all replies; in an open loop requests beyond it wait, and their wait counts.
    #[arg(long, short = 'P', default_value_t = 1, value_parser = positive)]
    pub pipeline: usize,
    /// Load threads.
    #[arg(long, default_value_t = 1, value_parser = positive)]
    pub threads: usize,
    /// CPUs to pin load threads to, as in `1` or `1,3-4`. Default: those that the server is not
    /// pinned to, where that can be told.
    #[arg(long, value_name = "LIST", value_parser = cpu_list)]
    pub client_cpus: Option<CpuList>,
    /// Open loop: start this many requests a second, whatever the target does, and measure
    /// latencies from the intended starts. Default: closed loop.
    #[arg(long, value_parser = rate)]
    pub rate: Option<f64>,
    /// How the requests of an open loop are spaced.
    #[arg(long, value_enum, default_value_t = Arrivals::Poisson)]
    pub arrivals: Arrivals,
    /// Write all keys before measuring (once per target).
    #[arg(long)]
    pub load: bool,
    /// Run this long before measuring.
    #[arg(long, default_value = "1s", value_parser = humantime::parse_duration)]
    pub warmup: Duration,
    /// Measure this long.
    #[arg(long, default_value = "10s", value_parser = humantime::parse_duration, conflicts_with = "requests")]
    pub duration: Duration,
    /// Measure this many requests.
    #[arg(long, short = 'n', value_parser = clap::value_parser!(u64).range(1..))]
    pub requests: Option<u64>,
    /// Give up when no reply arrives for this long.
    #[arg(long, default_value = "10s", value_parser = humantime::parse_duration)]
    pub reply_timeout: Duration,
    /// Give up a connection whose oldest request is older than this: its requests count as
    /// unanswered, and another server of the address takes its place. Default: no such limit.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub request_timeout: Option<Duration>,
    /// Go on for this long trying to reach servers that are gone.
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = humantime::parse_duration)]
    pub reconnect_for: Duration,
    /// Fail when more than this share of the requests is refused or stays unanswered.
    #[arg(long, value_name = "SHARE", default_value_t = 0.01, value_parser = share)]
    pub errors_max: f64,
    /// Report the server's resident memory before and after --load, and the overhead per key.
    #[arg(long, requires = "load")]
    pub report_rss: bool,
    /// Open this many idle connections first, and report the server's memory for each.
    #[arg(long, value_name = "COUNT")]
    pub idle_connections: Option<usize>,
    /// How to load an engine in this process.
    #[command(flatten)]
    pub engine: EngineOptions,
}

/// How an engine in this process is opened and called.
#[derive(Clone, Debug, Args)]
pub struct EngineOptions {
    /// in-core, embedded: cores of the engine.
    #[arg(long, default_value_t = 1, value_parser = positive, conflicts_with = "cpus")]
    pub cores: usize,
    /// in-core, embedded: the CPUs of the engine's cores, as in `0` or `0,2-3`.
    #[arg(long, value_name = "LIST", value_parser = cpu_list)]
    pub cpus: Option<CpuList>,
    /// in-core, embedded: an option of the engine, as in `idle=poll`. May be repeated.
    #[arg(long = "engine", value_name = "NAME=VALUE", value_parser = engine_option)]
    pub settings: Vec<EngineSetting>,
    /// in-core: requests made together; more than one are read by `get_many`.
    #[arg(long, default_value_t = 1, value_parser = positive)]
    pub batch: usize,
    /// in-core, embedded: time each write of --load, to find the longest while the store grows.
    #[arg(long, requires = "load")]
    pub growth: bool,
    /// embedded: how threads call the engine. `async` and `batch` have --pipeline requests on their
    /// way at once.
    #[arg(long, value_enum, default_value_t = CallStyle::Blocking)]
    pub calls: CallStyle,
}

/// How threads call an embedded engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum CallStyle {
    /// One call at a time.
    Blocking,
    /// Futures, awaited together.
    Async,
    /// One batch at a time.
    Batch,
}

/// An option of the engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineSetting {
    /// Its name in the configuration file.
    pub name: String,
    /// Its value.
    pub value: String,
}

impl MeasureOptions {
    /// Closed or open loop.
    #[must_use]
    pub fn pace(&self) -> Pace {
        self.rate.map_or(Pace::Closed, |rate| Pace::Open { rate, arrivals: self.arrivals })
    }

    /// Whether `target` can be loaded like this.
    ///
    /// # Errors
    ///
    /// A sentence, when it cannot.
    pub fn check(&self, target: &TargetName) -> Result<(), String> {
        let is_resp = matches!(target, TargetName::Remote(_));
        let wrong = match target {
            TargetName::InCore if self.rate.is_some() => "has no open loop: leave out --rate",
            TargetName::Embedded if self.calls_one_by_one() && self.pipeline > 1 => {
                "makes one blocking call at a time: --pipeline needs --calls async or batch"
            }
            _ if self.idle_connections.is_some() && !is_resp => "has no --idle-connections",
            _ if self.engine.growth && is_resp => "has no --growth",
            _ => return Ok(()),
        };
        Err(format!("{target} {wrong}"))
    }

    fn calls_one_by_one(&self) -> bool {
        self.engine.calls == CallStyle::Blocking
    }
}

/// A set of CPUs. A name of its own, as a bare set would read as a repeated option.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CpuList(pub BTreeSet<usize>);

fn cpu_list(text: &str) -> Result<CpuList, String> {
    parse_cpu_list(text).map(CpuList).ok_or_else(|| "expected CPUs as in 1,3-4".to_owned())
}

fn engine_option(text: &str) -> Result<EngineSetting, String> {
    let (name, value) = text.split_once('=').ok_or("expected NAME=VALUE")?;
    Ok(EngineSetting { name: name.to_owned(), value: value.to_owned() })
}

fn rate(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(rate) if (0.001..=1e9).contains(&rate) => Ok(rate),
        _ => Err("expected requests a second, from 0.001 to 1e9".to_owned()),
    }
}
