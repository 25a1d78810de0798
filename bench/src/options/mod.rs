//! The command line.

mod cluster;
mod measure;
mod output;
mod respond;
mod server;
mod sweep;
mod target;
mod workload;

use clap::{Args, Parser, Subcommand};

pub use cluster::{ClusterOptions, Words};
pub use measure::{CallStyle, CpuList, EngineOptions, EngineSetting, MeasureOptions};
pub use output::OutputOptions;
pub use respond::RespondOptions;
pub use server::ServerOptions;
pub use sweep::SweepOptions;
pub use target::{TargetName, without_password};
pub use workload::{DistributionName, TimeRange, WorkloadOptions};

use crate::proc::parse_cpu_list;
use crate::server::{CommandTemplate, TargetTemplate};

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
    /// Load two targets in turn (A B A B ...) and report the ratios, and whether they differ from 1.
    Compare(CompareOptions),
    /// Start a cluster on this machine, load it, do things to its nodes, and report what that did.
    Cluster(ClusterOptions),
    /// Serve RESP and do nothing, to find out what this program can do and what it sees.
    Respond(RespondOptions),
    /// Load one target again and again with other values of one or two knobs, or search the highest
    /// rate at which it still answers in time.
    Sweep(SweepOptions),
}

/// Options of `run`.
#[derive(Clone, Debug, Args)]
pub struct RunOptions {
    /// What to load: resp://HOST:PORT, `in-core` or `embedded`. With --cmd it may have the
    /// placeholders of the command, and `auto` is resp://127.0.0.1:{port}.
    #[arg(default_value = "auto")]
    pub target: TargetTemplate,
    /// Start this server first, and stop it in the end: a command line in which {port} is a free
    /// port and {dir} a new directory. May be repeated for servers of several processes.
    #[arg(long = "cmd", value_name = "TEMPLATE")]
    pub commands: Vec<CommandTemplate>,
    /// How to start it.
    #[command(flatten)]
    pub server: ServerOptions,
    /// How to load it.
    #[command(flatten)]
    pub measure: MeasureOptions,
    /// Where the report goes.
    #[command(flatten)]
    pub output: OutputOptions,
}

/// Options of `compare`.
#[derive(Clone, Debug, Args)]
pub struct CompareOptions {
    /// The first target: ratios are of this one to the other. With --a-cmd it may have the
    /// placeholders of the command, and `auto` is resp://127.0.0.1:{port}.
    #[arg(default_value = "auto")]
    pub a: TargetTemplate,
    /// The second target, likewise.
    #[arg(default_value = "auto")]
    pub b: TargetTemplate,
    /// Start this server for A, and stop it in the end: a command line in which {port} is a free
    /// port and {dir} a new directory. May be repeated for servers of several processes.
    #[arg(long = "a-cmd", value_name = "TEMPLATE")]
    pub a_commands: Vec<CommandTemplate>,
    /// The same for B.
    #[arg(long = "b-cmd", value_name = "TEMPLATE")]
    pub b_commands: Vec<CommandTemplate>,
    /// How to start them.
    #[command(flatten)]
    pub server: ServerOptions,
    /// What the first target is called in the report. Default: its address.
    #[arg(long, value_name = "NAME")]
    pub a_name: Option<String>,
    /// What the second target is called.
    #[arg(long, value_name = "NAME")]
    pub b_name: Option<String>,
    /// How often to run both, at least 5 times: fewer do not tell a difference from noise.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(5..))]
    pub pairs: u32,
    /// How to load them.
    #[command(flatten)]
    pub measure: MeasureOptions,
    /// Where the report goes.
    #[command(flatten)]
    pub output: OutputOptions,
}

fn cpu_list(text: &str) -> Result<CpuList, String> {
    parse_cpu_list(text).map(CpuList).ok_or_else(|| "expected CPUs as in 1,3-4".to_owned())
}

fn positive(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(number) if number > 0 => Ok(number),
        _ => Err("expected a whole number above 0".to_owned()),
    }
}

fn share(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(share) if (0.0..=1.0).contains(&share) => Ok(share),
        _ => Err("expected a number from 0 to 1".to_owned()),
    }
}

/// The options of a run against `target`, for tests.
#[cfg(test)]
pub(crate) fn parse_measure(target: &str, line: &str) -> MeasureOptions {
    let arguments = ["gridkv-bench", "run", target].into_iter();
    let arguments = arguments.chain(line.split_ascii_whitespace());
    match Cli::try_parse_from(arguments).unwrap_or_else(|error| panic!("{error}")).command {
        Command::Run(options) => options.measure,
        _ => unreachable!("the line says run"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::Distribution;
    use crate::pace::{Arrivals, Pace};
    use crate::workload::{CommandTemplate, Mix, Operation, Preset, Sizes, Workload};
    use std::time::Duration;

    fn parse(line: &str) -> Result<RunOptions, String> {
        let arguments = ["gridkv-bench", "run", "resp://[::1]:7000"];
        let arguments = arguments.into_iter().chain(line.split_ascii_whitespace());
        match Cli::try_parse_from(arguments).map_err(|it| it.to_string())?.command {
            Command::Run(options) => Ok(options),
            _ => unreachable!("the line says run"),
        }
    }

    #[test]
    fn options_describe_a_workload() {
        let options = parse(
            "--mix get=95,ttl=5 --keys 500 --key-size 32 --value-size 16-1024 --distinct \
             --distribution zipfian --zipf-theta 0.9 --scan-rows 5 --ttl 10s-1m --seed 9 \
             --command ttl=TTL_{key}",
        )
        .unwrap();
        let workload = Workload {
            name: None,
            key_count: 500,
            key_sizes: Sizes::Fixed(32),
            value_sizes: Sizes::Uniform(16, 1024),
            is_distinct: true,
            mix: Mix::new(&[(Operation::Get, 95.0), (Operation::Command(0), 5.0)]).unwrap(),
            commands: vec![CommandTemplate::parse("ttl=TTL_{key}").unwrap()],
            distribution: Distribution::Zipfian { theta: 0.9 },
            scan_rows: (5, 5),
            time_to_live: Some((Duration::from_secs(10), Duration::from_secs(60))),
            seed: 9,
        };
        assert_eq!(options.measure.workload.workload(), Ok(workload));
        let target = TargetName::Remote("resp://[::1]:7000".to_owned());
        assert_eq!(options.target, TargetTemplate::Plain(target));
        assert_eq!(options.measure.pace(), Pace::Closed);
    }

    #[test]
    fn options_go_before_what_a_workload_by_name_says() {
        let workload = |line| parse(line).unwrap().measure.workload.workload().unwrap();
        let named = workload("--workload ycsb-d");
        let preset = Preset::named("ycsb-d").unwrap();
        assert_eq!((named.name, named.mix), (Some("ycsb-d"), preset.mix));
        assert_eq!(
            (named.value_sizes, named.distribution),
            (Sizes::Fixed(1000), preset.distribution)
        );
        let changed = workload("--workload ycsb-d --reads 1 --distribution uniform --value-size 5");
        assert_eq!(
            (changed.mix, changed.distribution),
            (Mix::of_reads(1.0), Distribution::Uniform)
        );
        assert_eq!(changed.value_sizes, Sizes::Fixed(5));
    }

    #[test]
    fn what_is_unknown_is_told_with_what_is_known() {
        let error = parse("--workload ycsb-g").unwrap_err();
        assert!(error.contains("there are ycsb-a, ycsb-b"), "{error}");
        let mix = |line| parse(line).unwrap().measure.workload.workload().unwrap_err();
        assert!(mix("--mix get=0.5,fly=0.5").contains("there are get, set"));
        assert_eq!(mix("--mix get=0.5"), "--mix: shares add up to 0.5, not to 1 or 100");
        assert_eq!(mix("--command x=PING"), "--command x is not part of --mix");
    }

    #[test]
    fn a_rate_makes_an_open_loop() {
        let pace = parse("--rate 5e4 --arrivals fixed").unwrap().measure.pace();
        assert_eq!(pace, Pace::Open { rate: 50_000.0, arrivals: Arrivals::Fixed });
    }

    #[test]
    fn targets_have_the_options_that_make_sense_for_them() {
        let (in_core, embedded) = (TargetName::InCore, TargetName::Embedded);
        let resp = TargetName::Remote("resp://host:1".to_owned());
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
            "--hot-keys 0",
            "--scan-rows 5-2",
            "--ttl 0s",
            "--value-size 1:x",
            "--key-size 70000",
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
