//! Facts and figures in words, the same for a terminal and a page.

use std::collections::BTreeSet;

use super::{
    ClusterReport, Figures, KneeReport, KnobReport, OperationShare, Setting, SweepReport,
    WorkloadReport,
};
use crate::record::Errors;
use crate::server::Values;
use crate::sweep::knee::{End, Point, Reason};
use crate::target::Preparation;

/// Stands for a figure that was not measured.
pub(super) const ABSENT: &str = "-";

/// What a fact is of, and what it is.
pub(super) type Fact = (String, String);

fn fact(name: &str, text: String) -> Fact {
    (name.to_owned(), text)
}

/// Where and what; the command and the date stand apart.
pub(super) fn setting(setting: &Setting) -> Vec<Fact> {
    let Setting { machine, workload, load, .. } = setting;
    let machine = format!(
        "{}, {} CPUs, Linux {}, load average {}",
        machine.cpu_model, machine.cpu_count, machine.kernel, machine.load_average
    );
    let pace = match (load.offered_rate, load.arrivals) {
        (Some(rate), Some(arrivals)) => format!("open loop, {rate} req/s, {arrivals} arrivals"),
        _ => "closed loop".to_owned(),
    };
    let part = |before: &str, number: Option<usize>, after: &str| {
        number.map(|it| format!(", {before}{it}{after}")).unwrap_or_default()
    };
    let load = format!(
        "{pace}{}{}{}{}{}; warm-up {} s",
        part("", load.connections, " connections"),
        part("pipeline ", load.pipeline, ""),
        part("", load.threads, " load threads"),
        load.calls.map(|it| format!(", {it} calls")).unwrap_or_default(),
        part("in-core batches of ", load.batch, ""),
        load.warmup_seconds
    );
    vec![fact("machine", machine), fact("workload", workload_words(workload)), fact("load", load)]
}

fn workload_words(workload: &WorkloadReport) -> String {
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

/// What came of loading and such; `side` goes before each name.
pub(super) fn preparation(side: &str, preparation: &Preparation) -> Vec<Fact> {
    let mut facts = Vec::new();
    let mut add = |name: &str, text| facts.push((format!("{side}{name}"), text));
    if let Some(loading) = &preparation.loading {
        let text = format!(
            "{} keys in {:.2} s, {:.0} req/s; {}",
            loading.keys,
            loading.seconds,
            loading.rate,
            errors(&loading.errors)
        );
        add("loaded", text);
        if let Some(memory) = &loading.memory {
            let overhead = memory.overhead_bytes_per_key.map_or_else(
                || "overhead not told: the target was not empty".to_owned(),
                |it| format!("{it:.1} B overhead per key"),
            );
            let text = format!(
                "resident {} B before loading, {} B after; payload {} B, {overhead}",
                memory.resident_bytes_before, memory.resident_bytes_after, memory.payload_bytes
            );
            add("memory", text);
        }
        if let Some(growth) = &loading.growth {
            let text = format!(
                "longest single write {} us; p50 {}, p99 {}, p99.99 {} us",
                micros(Some(growth.max_us)),
                micros(Some(growth.p50_us)),
                micros(Some(growth.p99_us)),
                micros(Some(growth.p99_99_us))
            );
            add("growth", text);
        }
    }
    if let Some(idle) = &preparation.idle_connections {
        let bytes = idle.bytes_per_connection.map_or_else(
            || "memory cannot be told".to_owned(),
            |it| format!("{it:.0} B resident for each"),
        );
        add("idle", format!("{} connections, {bytes}", idle.connections));
    }
    facts
}

/// What the cluster is.
pub(super) fn cluster(report: &ClusterReport) -> Vec<Fact> {
    let text = format!(
        "{} nodes, {} copies of each key, consistency {}; {}",
        report.nodes,
        report.replicas,
        report.consistency.as_deref().unwrap_or("as configured"),
        report.target
    );
    vec![fact("cluster", text)]
}

/// What a sweep varied, and what it searched.
pub(super) fn sweep(report: &SweepReport) -> Vec<Fact> {
    let knob = |it: &KnobReport| {
        fact("knob", format!("{}: {}, each in turn", it.name, it.values.join(", ")))
    };
    let mut facts: Vec<Fact> = report.knobs.iter().map(knob).collect();
    if let Some(bound) = report.knee_bound_us {
        let bound = micros(Some(bound));
        let text = format!("searched from there on: p99.9 of at most {bound} us");
        facts.push(fact("knee", text));
    }
    facts
}

/// What a sweep found: the best point, or each of its knees.
pub(super) fn findings(report: &SweepReport) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(best) = report.best.filter(|_| report.knee_bound_us.is_none()) {
        let point = &report.points[best];
        lines.push(format!(
            "best          point {}: {} at {} req/s without errors",
            best + 1,
            knobs(&point.knobs),
            number(point.figures.rate, 0)
        ));
    }
    lines.extend(report.knees.iter().map(|it| knee(it).join("\n")));
    lines
}

fn knee(report: &KneeReport) -> Vec<String> {
    let outcome = &report.outcome;
    let measured = format!("{} points", report.points);
    let of = if report.knobs.is_empty() {
        String::new()
    } else {
        format!(" of {}", knobs(&report.knobs))
    };
    let end = end(outcome.end);
    let mut lines = vec![match &outcome.knee {
        Some(point) => format!(
            "knee{of}: {:.0} req/s, p99.9 {} us ({measured}); {end}",
            point.offered,
            micros(point.p99_9_us)
        ),
        None => format!("knee{of}: none ({measured}); {end}"),
    }];
    if let Some((point, why)) = outcome.failing.as_ref().zip(outcome.reason.as_ref()) {
        lines.push(format!("  fails at {:.0} req/s: {}", point.offered, reason(point, why)));
        if let Some(limit) = &point.generator_limit {
            lines.push(format!("  the generator there: {limit}"));
        }
    }
    lines
}

fn end(end: End) -> &'static str {
    match end {
        End::Found => "measured twice",
        End::NonePasses => "no rate passes",
        End::GeneratorLimit => "LIMITED BY THE GENERATOR: at least this",
        End::NoneFails => "no rate fails: at least this",
        End::Unsettled => "UNSETTLED: too much noise",
        End::Interrupted => "PARTIAL: the search did not end",
    }
}

fn reason(point: &Point, reason: &Reason) -> String {
    match reason {
        Reason::EndedEarly => point.partial.clone().unwrap_or_else(|| "it ended early".to_owned()),
        Reason::Errors => format!("{} requests failed", point.failed),
        Reason::Unsent => format!("{} requests were due and not sent", point.unsent),
        Reason::Rate => format!("{:.0} req/s were achieved", point.achieved),
        Reason::Latency => format!("p99.9 {} us", micros(point.p99_9_us)),
    }
}

/// The rate, and the errors beside it.
pub(super) fn rate(figures: &Figures) -> Vec<Fact> {
    let text = format!(
        "{} req/s ({} requests in {:.3} s); {}",
        number(figures.rate, 0),
        figures.requests,
        figures.seconds,
        errors(&figures.errors)
    );
    let mut facts = vec![fact("rate", text)];
    if let Some(reply) = &figures.errors.first_error_reply {
        facts.push(fact("first error", reply.clone()));
    }
    facts
}

/// What it cost, and on which CPUs.
pub(super) fn costs(figures: &Figures) -> Vec<Fact> {
    let mut facts = Vec::new();
    if let Some(rate) = figures.rate_per_core {
        let text = format!(
            "{rate:.0} req/s per core; {} cores, on CPU {}",
            figures.engine_cpus.len(),
            list(&figures.engine_cpus)
        );
        facts.push(fact("engine", text));
    }
    if let Some(server) = &figures.server {
        let name = if server.includes_callers { "process CPU" } else { "server CPU" };
        let text = format!(
            "{} us/req (user {}, system {}), {} CPUs busy, {} awaited; process {}, {}",
            number(server.cpu_us_per_request, 3),
            number(server.user_us_per_request, 3),
            number(server.system_us_per_request, 3),
            number(server.cpus_busy, 2),
            number(server.cpus_awaited, 2),
            list(&server.process_ids),
            pinned(&server.pinned_cpus)
        );
        facts.push(fact(name, text));
    }
    facts.extend(generator(figures));
    facts
}

fn generator(figures: &Figures) -> Option<Fact> {
    let generator = figures.generator.as_ref()?;
    let text = format!(
        "{:.0} % busy, {:.0} % starved; {} threads, {}",
        generator.busy_share * 100.0,
        generator.starved_share * 100.0,
        generator.threads,
        pinned(&generator.pinned_cpus)
    );
    Some(fact("generator", text))
}

/// Where generator and server ran, for several runs alike.
pub(super) fn places(side: &str, figures: &Figures) -> Vec<Fact> {
    let mut facts = Vec::new();
    if let Some(server) = &figures.server {
        let ids = list(&server.process_ids);
        let text = format!("process {ids}, {}", pinned(&server.pinned_cpus));
        facts.push((format!("{side}server"), text));
    }
    if let Some(generator) = &figures.generator {
        let text = format!("{} threads, {}", generator.threads, pinned(&generator.pinned_cpus));
        facts.push((format!("{side}generator"), text));
    }
    facts
}

/// All kinds, zero or not: that nothing failed is a finding too.
pub(super) fn errors(errors: &Errors) -> String {
    let Errors { error_replies, lost_connections, unanswered, unsent, .. } = errors;
    if *errors == Errors::default() {
        return "no errors".to_owned();
    }
    format!(
        "ERRORS: {error_replies} error replies, {lost_connections} lost connections, {unanswered} unanswered, {unsent} unsent"
    )
}

/// The same for the end of a row: kinds that there were.
pub(super) fn errors_in_short(errors: &Errors) -> String {
    let Errors { error_replies, lost_connections, unanswered, unsent, .. } = errors;
    let kinds = [
        (error_replies, "refused"),
        (lost_connections, "lost connections"),
        (unanswered, "unanswered"),
        (unsent, "unsent"),
    ];
    let found: Vec<String> =
        kinds.iter().filter(|it| *it.0 > 0).map(|it| format!("{} {}", it.0, it.1)).collect();
    if found.is_empty() { "none".to_owned() } else { found.join(", ") }
}

/// Values of knobs, as in `pipeline=8 threads=2`.
pub(super) fn knobs(values: &Values) -> String {
    values.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ")
}

/// Microseconds, with about as many digits as are measured.
pub(super) fn micros(figure: Option<f64>) -> String {
    number(figure, if figure.is_some_and(|it| it < 10.0) { 3 } else { 1 })
}

pub(super) fn number(figure: Option<f64>, digits: usize) -> String {
    // The sum of nothing is a negative zero; nobody reads that.
    figure.map_or_else(|| ABSENT.to_owned(), |it| format!("{:.digits$}", it + 0.0))
}

pub(super) fn percent(share: Option<f64>) -> String {
    share.map_or_else(|| ABSENT.to_owned(), |it| format!("{:.0} %", it * 100.0))
}

pub(super) fn list<T: ToString>(items: impl IntoIterator<Item = T>) -> String {
    items.into_iter().map(|it| it.to_string()).collect::<Vec<_>>().join(",")
}

fn pinned(cpus: &BTreeSet<usize>) -> String {
    if cpus.is_empty() { "not pinned".to_owned() } else { format!("pinned to CPU {}", list(cpus)) }
}
