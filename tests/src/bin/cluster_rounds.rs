//! The program `cluster_rounds`: three nodes, clients that write, and faults for as long as wanted.

#![forbid(unsafe_code)]

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use gridkv_tests::cluster::rounds::{Options, Summary, prepare, run, why_no_cuts};
use gridkv_tests::process::say;

fn main() -> ExitCode {
    let options = options(&command().get_matches());
    prepare();
    tell(&format!("seed {:#x}, {:?}, cuts: {}", options.seed, options.duration, options.has_cuts));
    match run(&options, &mut tell) {
        Ok(summary) => {
            tell(&text(&summary));
            ExitCode::SUCCESS
        }
        Err(failure) => {
            say(&format!("FAILED: {failure}\nseed {:#x}", options.seed));
            ExitCode::FAILURE
        }
    }
}

fn command() -> Command {
    let seconds = Arg::new("seconds").long("seconds").value_name("N").default_value("300");
    let seed = Arg::new("seed").long("seed").value_name("N").value_parser(value_parser!(u64));
    let cuts = Arg::new("no-cuts").long("no-cuts").action(ArgAction::SetTrue);
    let node = Arg::new("node").long("node").value_name("ARGUMENTS").default_value("");
    Command::new("cluster_rounds")
        .about("Kills, pauses, restarts and cuts off nodes of a cluster under load.")
        .arg(seconds.value_parser(value_parser!(u64).range(1..)).help("for how long"))
        .arg(seed.help("what the faults and the load derive from"))
        .arg(cuts.help("cuts no links, for which `ip netns` and the rights of root are needed"))
        .arg(node.help("further arguments of the nodes"))
}

fn options(matches: &ArgMatches) -> Options {
    let problem = if matches.get_flag("no-cuts") { None } else { why_no_cuts() };
    if let Some(problem) = &problem {
        tell(&format!("no links are cut: {problem}"));
    }
    let seconds = *matches.get_one::<u64>("seconds").expect("it has a default");
    Options {
        duration: Duration::from_secs(seconds),
        seed: matches.get_one("seed").copied().unwrap_or_else(|| fastrand::u64(..)),
        has_cuts: !matches.get_flag("no-cuts") && problem.is_none(),
        arguments: matches.get_one::<String>("node").cloned().unwrap_or_default(),
    }
}

fn text(summary: &Summary) -> String {
    let mut lines = vec![format!(
        "{} faults, {} comparisons of all keys: {} writes acknowledged, 0 lost; {} refused, {} \
         unknown",
        summary.faults.values().sum::<u32>(),
        summary.check_count,
        summary.done_count,
        summary.refused_count,
        summary.unknown_count,
    )];
    for (fault, outages) in &summary.outages {
        let mut sorted = outages.clone();
        sorted.sort_unstable();
        lines.push(format!(
            "{fault:?}: {} times; clients saw errors for {:.2?} at the median, {:.2?} at most",
            sorted.len(),
            sorted[sorted.len() / 2],
            sorted[sorted.len() - 1],
        ));
    }
    lines.join("\n")
}

fn tell(line: &str) {
    // Without standard output there is nobody to tell.
    let _ = writeln!(std::io::stdout(), "{line}");
}
