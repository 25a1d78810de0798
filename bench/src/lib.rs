//! Loads key-value stores and reports what it measured.
//!
//! | room | what |
//! |---|---|
//! | [`options`] | the command line |
//! | [`keys`], [`workload`] | which requests, as a pure function of the seed |
//! | [`pace`] | when a request is meant to start |
//! | [`record`] | latencies and errors |
//! | [`target`] | what is loaded |
//! | [`proc`] | what `/proc` says of the server and the machine |
//! | [`statistics`] | what some pairs of figures tell |
//! | [`compare`] | two targets in turn |
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
pub mod keys;
pub mod options;
pub mod pace;
pub mod proc;
pub mod record;
pub mod report;
pub mod statistics;
pub mod target;
pub mod workload;

use options::{Command, CompareOptions, RunOptions};
use report::{CompareReport, Figures, RunReport, Setting};

/// Does what the command line says, and prints the report.
///
/// # Errors
///
/// One line, when there is no report or only a partial one.
pub fn execute(command: Command, command_line: String) -> Result<(), String> {
    match command {
        Command::Run(options) => run(&options, command_line),
        Command::Compare(options) => compare_targets(&options, command_line),
    }
}

fn run(options: &RunOptions, command_line: String) -> Result<(), String> {
    let workload = options.measure.workload.workload()?;
    options.measure.check(&options.target)?;
    let targets = [&options.target];
    let setting = Setting::observe(command_line, &workload, &options.measure, &targets);
    let mut target = target::open(&options.target, &workload, &options.measure).map_err(text)?;
    let preparation = target.prepare().map_err(text)?;
    let figures = Figures::new(&target.measure().map_err(text)?);
    let partial = figures.partial.clone();
    let report = RunReport { setting, target: options.target.to_string(), preparation, figures };
    write(options.json.as_deref(), &report, report::print_run)?;
    partial.map_or(Ok(()), Err)
}

fn compare_targets(options: &CompareOptions, command_line: String) -> Result<(), String> {
    let workload = options.measure.workload.workload()?;
    options.measure.check(&options.a)?;
    options.measure.check(&options.b)?;
    let targets = [&options.a, &options.b];
    let setting = Setting::observe(command_line, &workload, &options.measure, &targets);
    let mut a = target::open(&options.a, &workload, &options.measure).map_err(text)?;
    let mut b = target::open(&options.b, &workload, &options.measure).map_err(text)?;
    let (preparations, comparison) =
        compare::alternate(&mut *a, &mut *b, options.pairs).map_err(text)?;
    let partial = comparison.partial.clone();
    let targets = [options.a.to_string(), options.b.to_string()];
    let report = CompareReport { setting, targets, preparations, comparison };
    write(options.json.as_deref(), &report, report::print_comparison)?;
    partial.map_or(Ok(()), Err)
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

fn text(failure: target::Failure) -> String {
    failure.to_string()
}
