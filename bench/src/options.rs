//! The command line.

use std::collections::BTreeSet;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::keys::{Distribution, KeyBuffer};
use crate::pace::{Arrivals, Pace};
use crate::proc::parse_cpu_list;
use crate::workload::{ValueSizes, Workload};

/// Loads key-value stores and reports what it measured.
#[derive(Clone, Debug, Parser)]
#[command(name = "gridkv-bench", version, about)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Load one target and report rate, latencies, errors and the server's CPU time.
    Run(RunOptions),
    /// Load two targets in turn (A B A B ...) and report the ratios with their spread.
    Compare(CompareOptions),
}

/// Options of `run`.
#[derive(Clone, Debug, Args)]
pub struct RunOptions {
    /// What to load: resp://HOST:PORT, `in-core` or `embedded`.
    pub target: TargetName,
    /// How to load it.
    #[command(flatten)]
    pub measure: MeasureOptions,
    /// Write the report as JSON to this file; `-` for standard output, in place of the table.
    #[arg(long, value_name = "FILE")]
    pub json: Option<String>,
}

/// Options of `compare`.
#[derive(Clone, Debug, Args)]
pub struct CompareOptions {
    /// The first target: ratios are of this one to the other.
    pub a: TargetName,
    /// The second target.
    pub b: TargetName,
    /// How often to run both.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    pub pairs: u32,
    /// How to load them.
    #[command(flatten)]
    pub measure: MeasureOptions,
    /// Write the report as JSON to this file; `-` for standard output, in place of the table.
    #[arg(long, value_name = "FILE")]
    pub json: Option<String>,
}

/// What to load.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetName {
    /// A server that speaks RESP, at `host:port`.
    Resp(String),
    /// An engine in this process, loaded from its own cores.
    InCore,
    /// An engine in this process, called by other threads.
    Embedded,
}

impl FromStr for TargetName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.strip_prefix("resp://") {
            Some(address) if address.contains(':') => Ok(Self::Resp(address.to_owned())),
            None if text == "in-core" => Ok(Self::InCore),
            None if text == "embedded" => Ok(Self::Embedded),
            _ => Err("expected resp://HOST:PORT, in-core or embedded".to_owned()),
        }
    }
}

impl std::fmt::Display for TargetName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Resp(address) => write!(f, "resp://{address}"),
            Self::InCore => f.write_str("in-core"),
            Self::Embedded => f.write_str("embedded"),
        }
    }
}

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
        let is_resp = matches!(target, TargetName::Resp(_));
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

/// What to ask.
#[derive(Clone, Debug, Args)]
pub struct WorkloadOptions {
    /// How many keys there are.
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub keys: u64,
    /// Bytes of each key: `key:` and digits.
    #[arg(long, value_name = "BYTES", default_value_t = 16, value_parser = positive)]
    pub key_size: usize,
    /// Bytes of each value, as in `64`, or `16-1024` for sizes drawn evenly from a range.
    #[arg(long, value_name = "BYTES", default_value = "64", value_parser = value_sizes)]
    pub value_size: ValueSizes,
    /// The share of reads; the other requests write.
    #[arg(long, default_value_t = 0.5, value_parser = share)]
    pub reads: f64,
    /// The same, as in `get=0.95,set=0.05`.
    #[arg(long, value_parser = mix, conflicts_with = "reads")]
    pub mix: Option<f64>,
    /// How requests spread over keys.
    #[arg(long, value_enum, default_value_t = DistributionName::Uniform)]
    pub distribution: DistributionName,
    /// The exponent of --distribution zipfian.
    #[arg(long, default_value_t = 0.99, value_parser = zipf_theta)]
    pub zipf_theta: f64,
    /// What all randomness derives from.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}

/// How requests spread over keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DistributionName {
    /// Every key alike.
    Uniform,
    /// A few keys often.
    Zipfian,
}

impl WorkloadOptions {
    /// The workload they describe.
    ///
    /// # Errors
    ///
    /// A sentence, when they contradict each other.
    pub fn workload(&self) -> Result<Workload, String> {
        let key_count_max = KeyBuffer::key_count_max(self.key_size);
        if self.keys > key_count_max {
            return Err(format!(
                "--key-size {} has digits for {key_count_max} keys, not for {}",
                self.key_size, self.keys
            ));
        }
        Ok(Workload {
            key_count: self.keys,
            key_bytes: self.key_size,
            value_sizes: self.value_size,
            reads: self.mix.unwrap_or(self.reads),
            distribution: match self.distribution {
                DistributionName::Uniform => Distribution::Uniform,
                DistributionName::Zipfian => Distribution::Zipfian { theta: self.zipf_theta },
            },
            seed: self.seed,
        })
    }
}

/// A set of CPUs. A name of its own, as a bare set would read as a repeated option.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CpuList(pub BTreeSet<usize>);

fn positive(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(number) if number > 0 => Ok(number),
        _ => Err("expected a whole number above 0".to_owned()),
    }
}

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

fn share(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(share) if (0.0..=1.0).contains(&share) => Ok(share),
        _ => Err("expected a number from 0 to 1".to_owned()),
    }
}

fn zipf_theta(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(theta) if theta > 0.0 && theta < 1.0 => Ok(theta),
        _ => Err("expected a number above 0 and below 1".to_owned()),
    }
}

fn value_sizes(text: &str) -> Result<ValueSizes, String> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    match (first.parse(), last.parse()) {
        (Ok(bytes_min), Ok(bytes_max)) if bytes_min <= bytes_max => {
            Ok(ValueSizes { bytes_min, bytes_max })
        }
        _ => Err("expected bytes as in 64 or 16-1024".to_owned()),
    }
}

/// The share of reads in a mix.
fn mix(text: &str) -> Result<f64, String> {
    let (mut get, mut set) = (0.0, 0.0);
    for part in text.split(',') {
        let (name, weight) = part.split_once('=').ok_or("expected get=SHARE,set=SHARE")?;
        let weight = share(weight)?;
        match name {
            "get" => get += weight,
            "set" => set += weight,
            _ => return Err(format!("unknown operation {name:?}: there are get and set")),
        }
    }
    let sum: f64 = get + set;
    if (sum - 1.0).abs() > 1e-6 {
        return Err(format!("shares add up to {sum}, not to 1"));
    }
    Ok(get.min(1.0))
}

/// The options of a run against `target`, for tests.
#[cfg(test)]
pub(crate) fn parse_measure(target: &str, line: &str) -> MeasureOptions {
    let arguments = ["gridkv-bench", "run", target].into_iter();
    let arguments = arguments.chain(line.split_ascii_whitespace());
    match Cli::try_parse_from(arguments).unwrap_or_else(|error| panic!("{error}")).command {
        Command::Run(options) => options.measure,
        Command::Compare(_) => unreachable!("the line says run"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<RunOptions, String> {
        let arguments = ["gridkv-bench", "run", "resp://[::1]:7000"];
        let arguments = arguments.into_iter().chain(line.split_ascii_whitespace());
        match Cli::try_parse_from(arguments).map_err(|it| it.to_string())?.command {
            Command::Run(options) => Ok(options),
            Command::Compare(_) => unreachable!("the line says run"),
        }
    }

    #[test]
    fn options_describe_a_workload() {
        let options = parse(
            "--mix get=0.95,set=0.05 --keys 500 --key-size 32 --value-size 16-1024 \
             --distribution zipfian --seed 9",
        )
        .unwrap();
        let workload = Workload {
            key_count: 500,
            key_bytes: 32,
            value_sizes: ValueSizes { bytes_min: 16, bytes_max: 1024 },
            reads: 0.95,
            distribution: Distribution::Zipfian { theta: 0.99 },
            seed: 9,
        };
        assert_eq!(options.measure.workload.workload(), Ok(workload));
        assert_eq!(options.target, TargetName::Resp("[::1]:7000".to_owned()));
        assert_eq!(options.measure.pace(), Pace::Closed);
    }

    #[test]
    fn a_rate_makes_an_open_loop() {
        let pace = parse("--rate 5e4 --arrivals fixed").unwrap().measure.pace();
        assert_eq!(pace, Pace::Open { rate: 50_000.0, arrivals: Arrivals::Fixed });
    }

    #[test]
    fn targets_have_the_options_that_make_sense_for_them() {
        let (in_core, embedded) = (TargetName::InCore, TargetName::Embedded);
        let resp = TargetName::Resp("host:1".to_owned());
        for (line, target, expected) in [
            ("--rate 5", &in_core, "in-core has no open loop: leave out --rate"),
            ("--idle-connections 5", &embedded, "embedded has no --idle-connections"),
            ("--load --growth", &resp, "resp://host:1 has no --growth"),
        ] {
            let check = parse(line).unwrap().measure.check(target);
            assert_eq!(check, Err(expected.to_owned()));
        }
        assert!(parse("-P 2").unwrap().measure.check(&embedded).is_err());
        let line = "-P 2 --rate 5 --calls async --engine idle=poll --engine shards=2";
        let measure = parse(line).unwrap().measure;
        assert_eq!(measure.check(&embedded), Ok(()));
        assert_eq!(measure.engine.settings.len(), 2);
    }

    #[test]
    fn contradictions_and_nonsense_are_refused() {
        for line in [
            "--reads 0.5 --mix get=1",
            "--reads 1.5",
            "--mix get=0.5",
            "--mix get=0.5,del=0.5",
            "--rate 0",
            "--rate inf",
            "--connections 0",
            "--requests 5 --duration 1s",
            "--value-size 9-5",
            "--client-cpus x",
            "--zipf-theta 1",
            "--report-rss",
            "--growth",
            "--cores 1 --cpus 0",
            "--engine idle",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
        let options = parse("--keys 1000 --key-size 6").unwrap();
        let sentence = options.measure.workload.workload().unwrap_err();
        assert_eq!(sentence, "--key-size 6 has digits for 100 keys, not for 1000");
    }
}
