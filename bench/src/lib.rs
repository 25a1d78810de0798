//! Loads key-value stores and reports what it measured.
//!
//! | room | what |
//! |---|---|
//! | [`options`] | the command line |
//! | [`keys`], [`workload`] | which requests, as a pure function of the seed |
//! | [`pace`] | when a request is meant to start |
//! | [`record`] | latencies and errors |
//! | [`target`] | what is loaded |
//! | [`server`] | servers that this program starts and stops |
//! | [`interrupt`] | whether the user asks it to end |
//! | [`proc`] | what `/proc` says of the server and the machine |
//! | [`statistics`] | what some pairs of figures tell |
//! | [`compare`] | two targets in turn |
//! | [`sweep`] | one target with many values of a knob |
//! | [`report`] | tables and JSON |
//!
//! # Invariants
//!
//! - Nothing is printed that was not measured.
//! - A latency counts from the moment the request was meant to start, so a stall shows in every
//!   request that it delayed.
//! - Errors stand beside every rate.

#![forbid(unsafe_code)]

pub mod compare;
pub mod interrupt;
pub mod keys;
pub mod options;
pub mod pace;
pub mod proc;
pub mod record;
pub mod report;
pub mod server;
pub mod statistics;
pub mod sweep;
pub mod target;
pub mod workload;

use options::{Command, CompareOptions, RunOptions, SweepOptions};
use report::{CompareReport, Figures, RunReport, Setting};
use server::{Running, Side, Values};

/// Does what the command line says, and prints the report.
///
/// # Errors
///
/// One line, when there is no report or only a partial one.
pub fn execute(command: Command, command_line: String) -> Result<(), String> {
    interrupt::listen().map_err(|error| format!("signals cannot be handled: {error}"))?;
    server::orphans::adopt().map_err(|error| format!("orphans cannot be adopted: {error}"))?;
    match command {
        Command::Run(options) => run(&options, command_line),
        Command::Compare(options) => compare_targets(&options, command_line),
        Command::Sweep(options) => sweep_target(&options, command_line),
    }
}

fn run(options: &RunOptions, command_line: String) -> Result<(), String> {
    let workload = options.measure.workload.workload()?;
    let side = Side::new(&options.target, &options.commands, "", "--cmd").map_err(text)?;
    let layout = side.layout(&Values::new(), &options.server).map_err(text)?;
    options.measure.check(layout.target())?;
    let mut server = layout.start().map_err(text)?;
    let name = server.target().clone();
    let setting = Setting::observe(command_line, &workload, &options.measure, &[&name]);
    let mut target = target::open(&name, &workload, &options.measure).map_err(text)?;
    let measured = target.prepare().and_then(|it| Ok((it, target.measure()?)));
    let (preparation, measurement) =
        measured.map_err(|failure| with_obituary(text(failure), [&mut server]))?;
    let mut figures = Figures::new(&measurement);
    if figures.partial.is_none() && interrupt::is_set() {
        figures.partial = Some(interrupt::REASON.to_owned());
    }
    let partial = figures.partial.clone();
    let report = RunReport { setting, target: name.to_string(), preparation, figures };
    write(options.json.as_deref(), &report, report::print_run)?;
    partial.map_or(Ok(()), |why| Err(with_obituary(why, [&mut server])))
}

fn compare_targets(options: &CompareOptions, command_line: String) -> Result<(), String> {
    let workload = options.measure.workload.workload()?;
    let a = Side::new(&options.a, &options.a_commands, " as A", "--a-cmd").map_err(text)?;
    let b = Side::new(&options.b, &options.b_commands, " as B", "--b-cmd").map_err(text)?;
    let a = a.layout(&Values::new(), &options.server).map_err(text)?;
    let b = b.layout(&Values::new(), &options.server).map_err(text)?;
    options.measure.check(a.target())?;
    options.measure.check(b.target())?;
    let mut a_server = a.start().map_err(text)?;
    let mut b_server = b.start().map_err(text)?;
    let (a_name, b_name) = (a_server.target().clone(), b_server.target().clone());
    let setting = Setting::observe(command_line, &workload, &options.measure, &[&a_name, &b_name]);
    let mut a = target::open(&a_name, &workload, &options.measure).map_err(text)?;
    let mut b = target::open(&b_name, &workload, &options.measure).map_err(text)?;
    let alternated = compare::alternate(&mut *a, &mut *b, options.pairs);
    let (preparations, comparison) = alternated
        .map_err(|failure| with_obituary(text(failure), [&mut a_server, &mut b_server]))?;
    let partial = comparison.partial.clone();
    let targets = [a_name.to_string(), b_name.to_string()];
    let report = CompareReport { setting, targets, preparations, comparison };
    write(options.json.as_deref(), &report, report::print_comparison)?;
    partial.map_or(Ok(()), |why| Err(with_obituary(why, [&mut a_server, &mut b_server])))
}

fn sweep_target(options: &SweepOptions, command_line: String) -> Result<(), String> {
    let workload = options.measure.workload.workload()?;
    let plan = sweep::Plan::new(options)?;
    let mut measure = options.measure.clone();
    if options.knee.is_some() {
        measure.rate = Some(options.knee_start);
    }
    let setting = Setting::observe(command_line, &workload, &measure, &[plan.target()]);
    let report = plan.run(setting)?;
    write(options.json.as_deref(), &report, report::print_sweep)?;
    report.partial.map_or(Ok(()), Err)
}

/// A failure, and which server died of it.
fn with_obituary<'a>(why: String, servers: impl IntoIterator<Item = &'a mut Running>) -> String {
    match servers.into_iter().find_map(Running::obituary) {
        Some(obituary) => format!("{why}; {obituary}"),
        None => why,
    }
}

/// The table, unless JSON takes its place on standard output; and JSON to a file, if one is named.
fn write<T: serde::Serialize>(
    json: Option<&str>,
    report: &T,
    print: fn(&T) -> std::io::Result<()>,
) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("cannot write the report: {error}");
    if json != Some("-") {
        print(report).map_err(failed)?;
    }
    json.map_or(Ok(()), |path| report::print_json(path, report)).map_err(failed)
}

fn text(error: impl std::error::Error) -> String {
    error.to_string()
}
