//! The program `sim`: simulates whole clusters, seed after seed, and says what did not hold.

#![forbid(unsafe_code)]

use std::io::Write;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use clap::{Arg, ArgMatches, Command, value_parser};
use gridkv_tests::process::say;
use gridkv_tests::sim::report::Report;
use gridkv_tests::sim::shrink::{Reduction, kind_of};
use gridkv_tests::sim::{assert_busy, run, run_reduced};

fn main() -> ExitCode {
    let matches = command().get_matches();
    let number = |name: &str| *matches.get_one::<u64>(name).expect("it has a default");
    if let Some(text) = matches.get_one::<String>("seed") {
        let seed = text.strip_prefix("0x").map_or_else(
            || text.parse().expect("a number"),
            |digits| u64::from_str_radix(digits, 16).expect("a number"),
        );
        let reduction = match reduction(&matches) {
            Ok(reduction) => reduction,
            Err(wrong) => {
                say(&wrong);
                return ExitCode::FAILURE;
            }
        };
        say(&format!("{:#?}", reduction.options(seed)));
        return match run_reduced(seed, &reduction) {
            Ok(done) => {
                tell(&format!("{}\nhash {:#x}", done.report, done.hash));
                ExitCode::SUCCESS
            }
            Err(_) => ExitCode::FAILURE,
        };
    }
    let (first, count, threads) = (number("first"), number("seeds"), number("threads"));
    let start = Instant::now();
    let (report, failed) = run_all(first, count, threads, number("failures"));
    let seconds = start.elapsed().as_secs_f64();
    tell(&format!("{report}"));
    tell(&format!("{} seeds in {seconds:.1} s: {:.1} a second", count, count as f64 / seconds));
    if failed.is_empty() {
        // Panics with what it never came to.
        assert_busy(&report, count);
        return ExitCode::SUCCESS;
    }
    let mut by_reason: std::collections::BTreeMap<String, Vec<u64>> = Default::default();
    for failure in failed {
        by_reason.entry(kind_of(&failure.reason)).or_default().push(failure.seed);
    }
    for (reason, seeds) in by_reason {
        tell(&format!(
            "FAILED {} times: {reason}: {:#x?}",
            seeds.len(),
            &seeds[..seeds.len().min(5)]
        ));
    }
    ExitCode::FAILURE
}

fn run_all(
    first: u64,
    count: u64,
    threads: u64,
    failures_max: u64,
) -> (Report, Vec<gridkv_tests::sim::Failure>) {
    let failure_count = AtomicU64::new(0);
    let work = |thread: u64| {
        let (mut report, mut failed) = (Report::default(), Vec::new());
        for seed in (first..first + count).filter(|seed| seed % threads == thread) {
            if failure_count.load(Ordering::Relaxed) >= failures_max {
                break;
            }
            match run(seed) {
                Ok(done) => report.merge(&done.report),
                Err(failure) => {
                    failure_count.fetch_add(1, Ordering::Relaxed);
                    failed.push(failure);
                }
            }
        }
        (report, failed)
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|it| scope.spawn(move || work(it))).collect();
        let (mut report, mut failed) = (Report::default(), Vec::new());
        for worker in workers {
            let (its_report, its_failed) = worker.join().expect("what fails in a run is caught");
            report.merge(&its_report);
            failed.extend(its_failed);
        }
        (report, failed)
    })
}

fn command() -> Command {
    let number = |name: &'static str, default: &'static str, help: &'static str| {
        let parser = value_parser!(u64);
        Arg::new(name)
            .long(name)
            .value_name("N")
            .default_value(default)
            .help(help)
            .value_parser(parser)
    };
    let text = |name: &'static str, value: &'static str, help: &'static str| {
        Arg::new(name).long(name).value_name(value).help(help).requires("seed")
    };
    Command::new("sim")
        .about(
            "Simulates clusters from seeds, with all that can go wrong, and checks what must hold.",
        )
        .arg(number("seeds", "1000", "how many seeds"))
        .arg(number("first", "0", "the first"))
        .arg(number("threads", "1", "how many at a time"))
        .arg(number("failures", "10", "stop after so many failures"))
        .arg(text("without", "NAME,..", "the one seed without these features"))
        .arg(text("trouble-ms", "N", "the one seed with so short a time of trouble"))
        .arg(text("keys", "N", "the one seed with so few keys"))
        .arg(text("clients", "N", "the one seed with so few clients"))
        .arg(Arg::new("seed").long("seed").value_name("SEED").help("this one only"))
}

/// How the one seed is less than what it would be.
fn reduction(matches: &ArgMatches) -> Result<Reduction, String> {
    let text = |name: &str| matches.get_one::<String>(name);
    let number = |name: &str| {
        let parse = |it: &String| it.parse::<u64>().map_err(|error| format!("--{name}: {error}"));
        text(name).map(parse).transpose()
    };
    let count = |name: &str| Ok::<_, String>(number(name)?.map(|it| it as usize));
    Ok(Reduction {
        without: Reduction::without(text("without").map_or("", String::as_str))?,
        trouble_ms: number("trouble-ms")?,
        key_count: count("keys")?,
        client_count: count("clients")?,
    })
}

fn tell(line: &str) {
    // Without standard output there is nobody to tell.
    let _ = writeln!(std::io::stdout(), "{line}");
}
