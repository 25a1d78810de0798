//! The program `kill_rounds`: kills a node over and over while clients write, and compares what it
//! has after each start with what it has acknowledged.

#![forbid(unsafe_code)]

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Arg, ArgMatches, Command, value_parser};
use gridkv_tests::durability::rounds::{Options, Summary, arguments, directory, run};
use gridkv_tests::process::say;

fn main() -> ExitCode {
    let matches = command().get_matches();
    let is_ours = !matches.contains_id("data");
    let options = options(&matches);
    tell(&format!("seed {}, data in {}", options.seed, options.data.display()));
    match run(&options, &mut tell) {
        Ok(summary) => {
            tell(&text(&summary));
            if is_ours {
                // A directory that stays is only untidy.
                let _ = std::fs::remove_dir_all(&options.data);
            }
            ExitCode::SUCCESS
        }
        Err(failure) => {
            say(&format!("FAILED: {failure}\nseed {}", options.seed));
            say(&format!("the directory is kept: {}", options.data.display()));
            ExitCode::FAILURE
        }
    }
}

fn command() -> Command {
    let number = |name: &'static str, help: &'static str| {
        Arg::new(name).long(name).value_name("N").help(help)
    };
    let path = |name: &'static str, value: &'static str, help: &'static str| {
        let parser = value_parser!(PathBuf);
        Arg::new(name).long(name).value_name(value).value_parser(parser).help(help)
    };
    let rounds = number("rounds", "how often the node is ended").default_value("50");
    let clients = number("clients", "how many clients write").default_value("4");
    let cores = number("cores", "cores of the node").default_value("1");
    Command::new("kill_rounds")
        .about("Kills a node at random moments under load, and looks for what it has lost.")
        .arg(rounds.value_parser(value_parser!(u32).range(1..)))
        .arg(clients.value_parser(value_parser!(u16).range(1..=256)))
        .arg(cores.value_parser(value_parser!(u16).range(1..)))
        .arg(number("seed", "what the load derives from").value_parser(value_parser!(u64)))
        .arg(path("program", "PATH", "the node's program [default: this workspace's]"))
        .arg(path("data", "DIR", "a new or empty directory [default: a temporary one]"))
}

fn options(matches: &ArgMatches) -> Options {
    let cores = *matches.get_one::<u16>("cores").expect("it has a default");
    Options {
        round_count: *matches.get_one("rounds").expect("it has a default"),
        seed: matches.get_one("seed").copied().unwrap_or_else(|| fastrand::u64(..)),
        program: matches.get_one("program").cloned(),
        arguments: arguments(usize::from(cores)),
        data: matches.get_one("data").cloned().unwrap_or_else(directory),
        client_count: *matches.get_one("clients").expect("it has a default"),
    }
}

fn text(summary: &Summary) -> String {
    let Summary { round_count, kill_count, acknowledged_count, verified, recovery_max } = summary;
    format!(
        "{round_count} rounds, {kill_count} kills: {acknowledged_count} writes acknowledged, none \
         lost; {} not ({} kept), none by halves; {} keys verified; longest start {recovery_max:.1?}",
        verified.unanswered_count, verified.kept_count, verified.key_count,
    )
}

fn tell(line: &str) {
    // Without standard output there is nobody to tell.
    let _ = writeln!(std::io::stdout(), "{line}");
}
