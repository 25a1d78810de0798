//! The tables of a sweep.

use super::{ABSENT, Table, errors, micros, number, percent, setting};
use crate::record::LatencySummary;
use crate::report::{KneeReport, PointReport, SweepReport};
use crate::server::Values;
use crate::sweep::knee::{End, Point, Reason};

pub(in crate::report) fn sweep_table(report: &SweepReport) -> String {
    let mut table = Table::default();
    setting(&mut table, &report.setting);
    for knob in &report.knobs {
        table.line(format_args!("knob          {}: {}", knob.name, knob.values.join(", ")));
    }
    if let Some(bound) = report.knee_bound_us {
        table.line(format_args!(
            "knee          searched from there on: p99.9 of at most {} us",
            micros(Some(bound))
        ));
    }
    if let Some(reason) = &report.partial {
        table.line(format_args!("PARTIAL       {reason}"));
    }
    table.line(format_args!(""));
    points(&mut table, report);
    if let Some(best) = report.best.filter(|_| report.knee_bound_us.is_none()) {
        let point = &report.points[best];
        table.line(format_args!(""));
        table.line(format_args!(
            "best          point {}: {} at {} req/s without errors",
            best + 1,
            settings_of(&point.knobs),
            number(point.figures.rate, 0)
        ));
    }
    for knee in &report.knees {
        table.line(format_args!(""));
        knee_lines(&mut table, knee);
    }
    table.text
}

fn points(table: &mut Table, report: &SweepReport) {
    let names = report.knobs.iter().map(|it| format!(" {}", it.name));
    let offered = report.knee_bound_us.map(|_| "offered".to_owned());
    let figures =
        ["req/s", "p50 us", "p99 us", "p99.9 us", "CPU us/req", "gen. busy", "gen. starved"];
    let figures = figures.into_iter().map(str::to_owned);
    table.row("point", &names.chain(offered).chain(figures).collect::<Vec<_>>());
    for (index, point) in report.points.iter().enumerate() {
        let value = |name: &String| point.knobs.get(name).map_or(ABSENT, String::as_str);
        let values = report.knobs.iter().map(|it| format!(" {}", value(&it.name)));
        let offered = report.knee_bound_us.map(|_| number(point.offered_rate, 0));
        let mut cells: Vec<String> = values.chain(offered).chain(figure_cells(point)).collect();
        cells.push(format!("  {}", errors(&point.figures.errors)));
        if let Some(reason) = &point.figures.partial {
            cells.push(format!("  PARTIAL: {reason}"));
        }
        if let Some(limit) = &point.generator_limit {
            cells.push(format!("  GENERATOR: {limit}"));
        }
        table.row(&(index + 1).to_string(), &cells);
    }
}

fn figure_cells(point: &PointReport) -> [String; 7] {
    let figures = &point.figures;
    let latency = |pick: fn(&LatencySummary) -> f64| micros(figures.latency.as_ref().map(pick));
    let generator = figures.generator.as_ref();
    [
        number(figures.rate, 0),
        latency(|it| it.p50_us),
        latency(|it| it.p99_us),
        latency(|it| it.p99_9_us),
        number(figures.server.as_ref().and_then(|it| it.cpu_us_per_request), 3),
        percent(generator.map(|it| it.busy_share)),
        percent(generator.map(|it| it.starved_share)),
    ]
}

fn knee_lines(table: &mut Table, report: &KneeReport) {
    let outcome = &report.outcome;
    let measured = format!("{} points", report.points);
    let of = if report.knobs.is_empty() {
        String::new()
    } else {
        format!(" of {}", settings_of(&report.knobs))
    };
    match &outcome.knee {
        Some(point) => table.line(format_args!(
            "knee{of}: {:.0} req/s, p99.9 {} us ({measured}); {}",
            point.offered,
            micros(point.p99_9_us),
            end_words(outcome.end)
        )),
        None => table.line(format_args!("knee{of}: none ({measured}); {}", end_words(outcome.end))),
    }
    if let Some((point, reason)) = outcome.failing.as_ref().zip(outcome.reason.as_ref()) {
        let why = reason_words(point, reason);
        table.line(format_args!("  fails at {:.0} req/s: {why}", point.offered));
        if let Some(limit) = &point.generator_limit {
            table.line(format_args!("  the generator there: {limit}"));
        }
    }
}

fn settings_of(knobs: &Values) -> String {
    knobs.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ")
}

fn end_words(end: End) -> &'static str {
    match end {
        End::Found => "measured twice",
        End::NonePasses => "no rate passes",
        End::GeneratorLimit => "LIMITED BY THE GENERATOR, not by the target: at least this",
        End::NoneFails => "no rate fails: at least this",
        End::Unsettled => "UNSETTLED: too much noise",
        End::Interrupted => "PARTIAL: the search did not end",
    }
}

fn reason_words(point: &Point, reason: &Reason) -> String {
    match reason {
        Reason::EndedEarly => point.partial.clone().unwrap_or_else(|| "it ended early".to_owned()),
        Reason::Errors => format!("{} requests failed", point.failed),
        Reason::Unsent => format!("{} requests were due and not sent", point.unsent),
        Reason::Rate => format!("{:.0} req/s were achieved", point.achieved),
        Reason::Latency => format!("p99.9 {} us", micros(point.p99_9_us)),
    }
}
