//! Tables for people.

mod cluster;
mod ratios;
mod sweep;

use std::collections::BTreeSet;
use std::fmt::Write as _;

use super::{CompareReport, Figures, OperationShare, RunReport, Setting, WorkloadReport};
use crate::compare::Compared;
use crate::record::{Errors, LatencySummary};
use crate::statistics::Spread;
use crate::target::Preparation;

pub(super) use cluster::cluster_table;
pub(super) use sweep::sweep_table;

/// Stands for a figure that was not measured.
const ABSENT: &str = "-";

/// A table under construction. Writing to a string cannot fail.
#[derive(Default)]
struct Table {
    text: String,
}

impl Table {
    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        self.text.write_fmt(line).expect("a string takes any text");
        self.text.push('\n');
    }

    fn row(&mut self, name: &str, cells: &[String]) {
        let cells: String = cells.iter().map(|cell| format!("{cell:>13}")).collect();
        self.line(format_args!("{name:<14}{cells}"));
    }
}

pub(super) fn run_table(report: &RunReport) -> String {
    let mut table = Table::default();
    setting(&mut table, &report.setting);
    table.line(format_args!("target        {}", report.target));
    preparation(&mut table, "", &report.preparation);
    table.line(format_args!(""));
    figures(&mut table, &report.figures);
    table.text
}

fn setting(table: &mut Table, setting: &Setting) {
    let Setting { command, date, machine, workload, load, .. } = setting;
    table.line(format_args!("{command}"));
    table.line(format_args!(
        "{date}, {}, {} CPUs, Linux {}, load average {}",
        machine.cpu_model, machine.cpu_count, machine.kernel, machine.load_average
    ));
    table.line(format_args!("workload      {}", workload_line(workload)));
    let pace = match (load.offered_rate, load.arrivals) {
        (Some(rate), Some(arrivals)) => format!("open loop, {rate} req/s, {arrivals} arrivals"),
        _ => "closed loop".to_owned(),
    };
    let part = |before: &str, number: Option<usize>, after: &str| {
        number.map(|it| format!(", {before}{it}{after}")).unwrap_or_default()
    };
    table.line(format_args!(
        "load          {pace}{}{}{}{}{}; warm-up {} s",
        part("", load.connections, " connections"),
        part("pipeline ", load.pipeline, ""),
        part("", load.threads, " load threads"),
        load.calls.map(|it| format!(", {it} calls")).unwrap_or_default(),
        part("in-core batches of ", load.batch, ""),
        load.warmup_seconds
    ));
}

fn workload_line(workload: &WorkloadReport) -> String {
    let share = |it: &OperationShare| {
        let command = it.command.as_ref().map(|text| format!(" ({text})")).unwrap_or_default();
        format!("{:.4} % {}{command}", it.share * 100.0, it.operation)
    };
    let mix: Vec<String> = workload.mix.iter().map(share).collect();
    let name = workload.name.map(|it| format!("{it}: ")).unwrap_or_default();
    let rows = workload.scan_rows.map(|it| format!("; scans of {} to {} rows", it.0, it.1));
    let life = workload.ttl_seconds.map(|it| format!("; written for {} to {} s", it.0, it.1));
    format!(
        "{name}{}{}; {} keys of {} B, {}; {}values of {} B{}; seed {}",
        mix.join(", "),
        rows.unwrap_or_default(),
        workload.keys,
        workload.key_bytes,
        workload.distribution,
        if workload.distinct { "distinct " } else { "" },
        workload.value_bytes,
        life.unwrap_or_default(),
        workload.seed
    )
}

fn preparation(table: &mut Table, label: &str, preparation: &Preparation) {
    if let Some(loading) = &preparation.loading {
        table.line(format_args!(
            "{label}loaded        {} keys in {:.2} s, {:.0} req/s; {}",
            loading.keys,
            loading.seconds,
            loading.rate,
            errors(&loading.errors)
        ));
        if let Some(memory) = &loading.memory {
            table.line(format_args!(
                "{label}memory        resident {} B before loading, {} B after; payload {} B, {}",
                memory.resident_bytes_before,
                memory.resident_bytes_after,
                memory.payload_bytes,
                memory.overhead_bytes_per_key.map_or_else(
                    || "overhead not told: the target was not empty".to_owned(),
                    |it| format!("{it:.1} B overhead per key")
                )
            ));
        }
    }
    if let Some(growth) = preparation.loading.as_ref().and_then(|it| it.growth.as_ref()) {
        table.line(format_args!(
            "{label}growth        longest single write {} us; p50 {}, p99 {}, p99.99 {} us",
            micros(Some(growth.max_us)),
            micros(Some(growth.p50_us)),
            micros(Some(growth.p99_us)),
            micros(Some(growth.p99_99_us))
        ));
    }
    if let Some(idle) = &preparation.idle_connections {
        let bytes = idle.bytes_per_connection.map_or_else(
            || "memory cannot be told".to_owned(),
            |it| format!("{it:.0} B resident for each"),
        );
        table.line(format_args!("{label}idle          {} connections, {bytes}", idle.connections));
    }
}

fn latencies(table: &mut Table, figures: &Figures) {
    let names = ["count", "mean", "p50", "p90", "p99", "p99.9", "p99.99", "max"];
    table.row("latency (us)", &names.map(str::to_owned));
    let all = if figures.latency_service.is_some() { "  response" } else { "  all" };
    let mut rows = vec![(all.to_owned(), figures.latency.as_ref())];
    rows.push(("  service".to_owned(), figures.latency_service.as_ref()));
    for it in &figures.operations {
        rows.push((format!("  {}", it.operation), Some(&it.latency)));
    }
    rows.push(("  sent late by".to_owned(), figures.send_delay.as_ref()));
    for (name, summary) in rows {
        if let Some(summary) = summary {
            table.row(&name, &latency_cells(summary));
        }
    }
}

fn figures(table: &mut Table, figures: &Figures) {
    if let Some(reason) = &figures.partial {
        table.line(format_args!("PARTIAL       {reason}"));
    }
    table.line(format_args!(
        "rate          {} req/s ({} requests in {:.3} s); {}",
        number(figures.rate, 0),
        figures.requests,
        figures.seconds,
        errors(&figures.errors)
    ));
    if let Some(reply) = &figures.errors.first_error_reply {
        table.line(format_args!("first error   {reply}"));
    }
    if figures.missing_keys > 0 {
        table.line(format_args!("missing keys  {} reads found none", figures.missing_keys));
    }
    latencies(table, figures);
    if figures.latency_stride > 1 {
        table.line(format_args!(
            "              one request in {} was timed",
            figures.latency_stride
        ));
    }
    if let Some(rate) = figures.rate_per_core {
        table.line(format_args!(
            "engine        {rate:.0} req/s per core; {} cores, on CPU {}",
            figures.engine_cpus.len(),
            list(&figures.engine_cpus)
        ));
    }
    match &figures.server {
        Some(server) => table.line(format_args!(
            "{} {} us/req (user {}, system {}), {} CPUs busy, {} awaited; process {}, {}",
            if server.includes_callers { "process CPU  " } else { "server CPU   " },
            number(server.cpu_us_per_request, 3),
            number(server.user_us_per_request, 3),
            number(server.system_us_per_request, 3),
            number(server.cpus_busy, 2),
            number(server.cpus_awaited, 2),
            list(&server.process_ids),
            pinned(&server.pinned_cpus)
        )),
        None if !figures.engine_cpus.is_empty() => {}
        None => table.line(format_args!(
            "server CPU    not measured: its process is not to be seen here, or gone"
        )),
    }
    if let Some(generator) = &figures.generator {
        table.line(format_args!(
            "generator     {:.0} % busy, {:.0} % starved; {} threads, {}",
            generator.busy_share * 100.0,
            generator.starved_share * 100.0,
            generator.threads,
            pinned(&generator.pinned_cpus)
        ));
    }
}

pub(super) fn comparison_table(report: &CompareReport) -> String {
    let mut table = Table::default();
    setting(&mut table, &report.setting);
    let comparison = &report.comparison;
    for (name, target, prepared) in [
        ("A", &report.targets[0], &report.preparations[0]),
        ("B", &report.targets[1], &report.preparations[1]),
    ] {
        table.line(format_args!("{name}             {target}"));
        preparation(&mut table, &format!("{name} "), prepared);
    }
    if let Some(reason) = &comparison.partial {
        table.line(format_args!("PARTIAL       {reason}"));
    }
    table.line(format_args!(""));
    let names = [
        "req/s",
        "p50 us",
        "p99 us",
        "p99.9 us",
        "CPU us/req",
        "CPUs awaited",
        "gen. busy",
        "gen. starved",
    ];
    table.row("run", &names.map(str::to_owned));
    for pair in 0..comparison.a.len() {
        for (name, runs) in [("A", &comparison.a), ("B", &comparison.b)] {
            if let Some(run) = runs.get(pair) {
                let mut cells = run_cells(run);
                cells.push(format!("  {}", errors(&run.errors)));
                table.row(&format!("{name} {}", pair + 1), &cells);
            }
        }
    }
    table.line(format_args!(""));
    let names = ["median", "min", "max"];
    table.row("", &names.map(str::to_owned));
    spreads(&mut table, "A ", &comparison.a_figures);
    spreads(&mut table, "B ", &comparison.b_figures);
    table.line(format_args!(""));
    ratios::rows(&mut table, &comparison.ratios);
    for (name, runs) in [("A", &comparison.a), ("B", &comparison.b)] {
        if let Some(reply) = runs.iter().find_map(|it| it.errors.first_error_reply.as_ref()) {
            table.line(format_args!("{name} first error {reply}"));
        }
    }
    table.text
}

fn spreads(table: &mut Table, label: &str, figures: &Compared) {
    let [whole, three]: [fn(Option<f64>) -> String; 2] = [|it| number(it, 0), |it| number(it, 3)];
    for (name, spread, format) in [
        ("req/s", figures.rate, whole),
        ("p50 us", figures.p50_us, micros),
        ("p99 us", figures.p99_us, micros),
        ("p99.9 us", figures.p99_9_us, micros),
        ("CPU/req", figures.server_cpu_us_per_request, three),
    ] {
        let cells: [fn(Spread) -> f64; 3] = [|it| it.median, |it| it.min, |it| it.max];
        let cells = cells.map(|cell| format(spread.map(cell)));
        table.row(&format!("{label}{name}"), &cells);
    }
}

fn run_cells(run: &Figures) -> Vec<String> {
    let latency = |pick: fn(&LatencySummary) -> f64| micros(run.latency.as_ref().map(pick));
    vec![
        number(run.rate, 0),
        latency(|it| it.p50_us),
        latency(|it| it.p99_us),
        latency(|it| it.p99_9_us),
        number(run.server.as_ref().and_then(|it| it.cpu_us_per_request), 3),
        number(run.server.as_ref().and_then(|it| it.cpus_awaited), 2),
        percent(run.generator.as_ref().map(|it| it.busy_share)),
        percent(run.generator.as_ref().map(|it| it.starved_share)),
    ]
}

fn latency_cells(summary: &LatencySummary) -> Vec<String> {
    let mut cells = vec![summary.count.to_string()];
    cells.extend(
        [
            summary.mean_us,
            summary.p50_us,
            summary.p90_us,
            summary.p99_us,
            summary.p99_9_us,
            summary.p99_99_us,
            summary.max_us,
        ]
        .map(|it| micros(Some(it))),
    );
    cells
}

/// All kinds, zero or not: that nothing failed is a finding too.
fn errors(errors: &Errors) -> String {
    let Errors { error_replies, lost_connections, unanswered, unsent, .. } = errors;
    if *errors == Errors::default() {
        return "no errors".to_owned();
    }
    format!(
        "ERRORS: {error_replies} error replies, {lost_connections} lost connections, {unanswered} unanswered, {unsent} unsent"
    )
}

/// Microseconds, with about as many digits as are measured.
fn micros(figure: Option<f64>) -> String {
    number(figure, if figure.is_some_and(|it| it < 10.0) { 3 } else { 1 })
}

fn number(figure: Option<f64>, digits: usize) -> String {
    figure.map_or_else(|| ABSENT.to_owned(), |it| format!("{it:.digits$}"))
}

fn percent(share: Option<f64>) -> String {
    share.map_or_else(|| ABSENT.to_owned(), |it| format!("{:.0} %", it * 100.0))
}

fn list<T: ToString>(items: impl IntoIterator<Item = T>) -> String {
    items.into_iter().map(|it| it.to_string()).collect::<Vec<_>>().join(",")
}

fn pinned(cpus: &BTreeSet<usize>) -> String {
    if cpus.is_empty() { "not pinned".to_owned() } else { format!("pinned to CPU {}", list(cpus)) }
}
