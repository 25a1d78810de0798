//! Loads key-value stores and reports what it measured.
//!
//! | room | what |
//! |---|---|
//! | [`options`] | the command line |
//! | [`keys`], [`workload`] | which requests, as a pure function of the seed |
//! | [`pace`] | when a request is meant to start |
//! | [`record`] | latencies and errors |
//! | [`timeline`], [`progress`] | the same over time, and for who watches |
//! | [`target`] | what is loaded |
//! | [`server`] | servers that this program starts and stops |
//! | [`interrupt`] | whether the user asks it to end |
//! | [`proc`] | what `/proc` says of the server and the machine |
//! | [`statistics`] | what some pairs of figures tell |
//! | [`compare`] | two targets in turn |
//! | [`cluster`] | nodes on this machine, and what faults do to them |
//! | [`report`] | tables, JSON and pages |
//! | [`responder`] | a server that does nothing, to measure this program with |
//! | [`sweep`] | one target with many values of a knob |
//!
//! # Invariants
//!
//! - Nothing is printed that was not measured.
//! - A latency counts from the moment the request was meant to start, so a stall shows in every
//!   request that it delayed.
//! - Errors stand beside every rate.

#![forbid(unsafe_code)]

pub mod cluster;
pub mod compare;
pub mod interrupt;
pub mod keys;
pub mod options;
pub mod pace;
pub mod proc;
pub mod progress;
pub mod record;
pub mod report;
pub mod responder;
pub mod server;
pub mod statistics;
pub mod sweep;
pub mod target;
pub mod timeline;
pub mod workload;

use options::{
    ClusterOptions, Command, CompareOptions, OutputOptions, RespondOptions, RunOptions,
    SweepOptions, TargetName,
};
use report::{ClusterReport, CompareReport, Figures, Report, RunReport, Setting, publish};
use responder::Responder;
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
        Command::Cluster(options) => load_cluster(&options, command_line),
        Command::Respond(options) => respond(&options),
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
    let errors_max = options.measure.errors_max;
    let wrong = verdict(figures.partial.clone(), std::iter::once(&figures), errors_max);
    let report = RunReport { setting, target: name.to_string(), preparation, figures };
    write(&options.output, &report)?;
    wrong.map_or(Ok(()), |why| Err(with_obituary(why, [&mut server])))
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
    let runs = comparison.a.iter().chain(&comparison.b);
    let wrong = verdict(comparison.partial.clone(), runs, options.measure.errors_max);
    let called = |name: &Option<String>, target: &TargetName| {
        name.clone().unwrap_or_else(|| target.to_string())
    };
    let targets = [called(&options.a_name, &a_name), called(&options.b_name, &b_name)];
    let report = CompareReport { setting, targets, preparations, comparison };
    write(&options.output, &report)?;
    wrong.map_or(Ok(()), |why| Err(with_obituary(why, [&mut a_server, &mut b_server])))
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
    write(&options.output, &report)?;
    let found = report.points.iter().map(|it| &it.figures).filter(|_| options.knee.is_none());
    verdict(report.partial.clone(), found, options.measure.errors_max).map_or(Ok(()), Err)
}

fn load_cluster(options: &ClusterOptions, command_line: String) -> Result<(), String> {
    let workload = options.measure.workload.workload()?;
    // Before any node is started.
    options.faults().map_err(text)?;
    let observe = |target| Setting::observe(command_line, &workload, &options.measure, &[target]);
    let outcome = cluster::run(options, &workload).map_err(text)?;
    let figures = Figures::new(&outcome.measurement);
    let errors_max = options.measure.errors_max;
    let wrong = verdict(figures.partial.clone(), std::iter::once(&figures), errors_max);
    let report = ClusterReport {
        setting: observe(&outcome.target),
        nodes: options.nodes,
        replicas: options.replica_count(),
        consistency: options.consistency.clone(),
        node_options: options.node.iter().flat_map(|it| it.0.iter().cloned()).collect(),
        target: outcome.target.to_string(),
        preparation: outcome.preparation,
        figures,
        events: outcome.events,
        effects: outcome.effects,
    };
    write(&options.output, &report)?;
    wrong.map_or(Ok(()), Err)
}

/// A failure, and which server died of it.
fn with_obituary<'a>(why: String, servers: impl IntoIterator<Item = &'a mut Running>) -> String {
    match servers.into_iter().find_map(Running::obituary) {
        Some(obituary) => format!("{why}; {obituary}"),
        None => why,
    }
}

/// Serves until a signal comes.
fn respond(options: &RespondOptions) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("cannot serve at {}: {error}", options.listen);
    let responder = Responder::bind(options.listen, options.stall()).map_err(failed)?;
    let address = responder.address().map_err(failed)?;
    report::print(&format!("listening at {address}\n")).map_err(failed)?;
    responder.serve(interrupt::flag()).map_err(failed)
}

fn write(output: &OutputOptions, report: &impl Report) -> Result<(), String> {
    publish(output, report).map_err(|error| format!("cannot write the report: {error}"))
}

/// Why what was measured is not all that was asked for, or not to be relied on.
fn verdict<'a>(
    partial: Option<String>,
    mut figures: impl Iterator<Item = &'a Figures>,
    errors_max: f64,
) -> Option<String> {
    partial.or_else(|| figures.find_map(|it| it.too_many_errors(errors_max)))
}

fn text(error: impl std::error::Error) -> String {
    error.to_string()
}
