//! The program `swim_figures`: how fast a simulated cluster finds its dead, how often it calls the
//! living dead, and how fast a large one forms. Virtual time: the figures are the protocol's, not the
//! machine's.

#![forbid(unsafe_code)]

use std::io::Write;
use std::time::Duration;

use clap::{Arg, ArgMatches, Command, value_parser};
use gridkv_cluster::swim::Config;
use gridkv_cluster::swim::simulation::{Options, detections, false_positives, join};

fn main() {
    let matches = command().get_matches();
    let number = |name| *matches.get_one::<u32>(name).expect("it has a default");
    let seed = *matches.get_one::<u64>("seed").expect("it has a default");
    tell(&format!("seed {seed}"));
    print_detections(&matches, seed);
    let (nodes, minutes) = (number("nodes") as usize, number("minutes"));
    print_false_positives(nodes, minutes, seed);
    let many = number("join") as usize;
    let joined = join(Options::lan(seed), many);
    tell(&format!(
        "\n{many} nodes that start at once agree after {} s; {} datagrams and {} exchanges each",
        seconds(joined.agreed_after),
        joined.datagram_count / many as u64,
        joined.exchange_count / many as u64,
    ));
    tell(&format!("one more joins: all know it after {} s", seconds(joined.newcomer_after)));
}

fn command() -> Command {
    let number = |name: &'static str, help: &'static str, default: &'static str| {
        let parser = value_parser!(u32).range(1..);
        Arg::new(name)
            .long(name)
            .value_name("N")
            .help(help)
            .default_value(default)
            .value_parser(parser)
    };
    Command::new("swim_figures")
        .about("Prints figures of the membership protocol in simulated clusters.")
        .arg(number("nodes", "how many nodes a cluster has", "100"))
        .arg(number("kills", "how many nodes are killed, one after another", "100"))
        .arg(number("minutes", "how long the living are watched", "60"))
        .arg(number("join", "how many nodes start at once", "1000"))
        .arg(
            Arg::new("seed")
                .long("seed")
                .value_name("N")
                .help("what everything derives from")
                .default_value("1")
                .value_parser(value_parser!(u64)),
        )
}

fn options(is_lifeguard: bool, loss_percent: u32, seed: u64) -> Options {
    let config = Config { is_lifeguard, ..Config::lan() };
    Options { config, loss_percent, ..Options::lan(seed) }
}

fn print_detections(matches: &ArgMatches, seed: u64) {
    let nodes = *matches.get_one::<u32>("nodes").expect("it has a default") as usize;
    let kills = *matches.get_one::<u32>("kills").expect("it has a default") as usize;
    tell(&format!("\nseconds from a kill until it is known, {kills} kills"));
    tell("nodes  Lifeguard  first p50  first p99  last p50  last p99");
    for (count, is_lifeguard) in [(3, true), (3, false), (nodes, true), (nodes, false)] {
        let found = detections(options(is_lifeguard, 0, seed), count, kills);
        tell(&format!(
            "{count:5}  {:9}  {:>9}  {:>9}  {:>8}  {:>8}",
            yes(is_lifeguard),
            seconds(quantile(&found.first, 50)),
            seconds(quantile(&found.first, 99)),
            seconds(quantile(&found.last, 50)),
            seconds(quantile(&found.last, 99)),
        ));
    }
}

fn print_false_positives(nodes: usize, minutes: u32, seed: u64) {
    tell(&format!("\n{nodes} nodes that live, watched for {minutes} minutes"));
    tell("loss  Lifeguard  called dead per node-hour  datagrams per node-second");
    for (loss, is_lifeguard) in [(10, true), (10, false), (30, true), (30, false)] {
        let time = Duration::from_secs(60) * minutes;
        let sum = false_positives(options(is_lifeguard, loss, seed), nodes, time);
        let node_seconds = nodes as f64 * time.as_secs_f64();
        tell(&format!(
            "{loss:3}%  {:9}  {:>25.3}  {:>25.1}",
            yes(is_lifeguard),
            sum.death_count as f64 * 3_600.0 / node_seconds,
            sum.datagram_count as f64 / node_seconds,
        ));
    }
}

fn quantile(sorted: &[Duration], percent: usize) -> Duration {
    assert!(!sorted.is_empty());
    sorted[(sorted.len() * percent / 100).min(sorted.len() - 1)]
}

fn yes(is_so: bool) -> &'static str {
    if is_so { "yes" } else { "no" }
}

fn seconds(time: Duration) -> String {
    format!("{:.2}", time.as_secs_f64())
}

/// One line on standard output. Nobody may be reading it any more.
fn tell(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}
