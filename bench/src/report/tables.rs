//! Figures in rows, the same for a terminal and a page.

use super::html::Table;
use super::words::{ABSENT, errors_in_short, micros, number, percent};
use super::{ClusterReport, Figures, PointReport, SweepReport};
use crate::compare::{Compared, Comparison};
use crate::record::LatencySummary;
use crate::statistics::{Ratio, Spread, Verdict};

fn row(name: impl Into<String>, cells: impl IntoIterator<Item = String>) -> Vec<String> {
    std::iter::once(name.into()).chain(cells).collect()
}

fn header(names: &[&str]) -> Vec<String> {
    names.iter().map(|it| (*it).to_owned()).collect()
}

/// All latencies of a measurement.
pub(super) fn latencies(figures: &Figures) -> Table {
    let all = if figures.latency_service.is_some() { "  response" } else { "  all" };
    let mut summaries = vec![(all.to_owned(), figures.latency.as_ref())];
    summaries.push(("  service".to_owned(), figures.latency_service.as_ref()));
    for it in &figures.operations {
        summaries.push((format!("  {}", it.operation), Some(&it.latency)));
    }
    summaries.push(("  sent late by".to_owned(), figures.send_delay.as_ref()));
    let rows = summaries.into_iter().filter_map(|(name, it)| Some(row(name, latency_cells(it?))));
    Table {
        caption: "Latency".to_owned(),
        header: header(&[
            "latency (us)",
            "count",
            "mean",
            "p50",
            "p90",
            "p99",
            "p99.9",
            "p99.99",
            "max",
        ]),
        rows: rows.collect(),
    }
}

fn latency_cells(summary: &LatencySummary) -> Vec<String> {
    let micros = [
        summary.mean_us,
        summary.p50_us,
        summary.p90_us,
        summary.p99_us,
        summary.p99_9_us,
        summary.p99_99_us,
        summary.max_us,
    ]
    .map(|it| micros(Some(it)));
    std::iter::once(summary.count.to_string()).chain(micros).collect()
}

/// All runs of a comparison, in order.
pub(super) fn runs(comparison: &Comparison) -> Table {
    let mut rows = Vec::new();
    for pair in 0..comparison.a.len() {
        for (name, runs) in [("A", &comparison.a), ("B", &comparison.b)] {
            if let Some(run) = runs.get(pair) {
                rows.push(row(format!("{name} {}", pair + 1), run_cells(run)));
            }
        }
    }
    Table {
        caption: "Runs in order".to_owned(),
        header: header(&[
            "run",
            "req/s",
            "errors",
            "p50 us",
            "p99 us",
            "p99.9 us",
            "CPU us/rq",
            "awaited",
            "gen.busy",
            "starved",
        ]),
        rows,
    }
}

fn run_cells(run: &Figures) -> Vec<String> {
    let latency = |pick: fn(&LatencySummary) -> f64| micros(run.latency.as_ref().map(pick));
    vec![
        number(run.rate, 0),
        errors_in_short(&run.errors),
        latency(|it| it.p50_us),
        latency(|it| it.p99_us),
        latency(|it| it.p99_9_us),
        number(run.server.as_ref().and_then(|it| it.cpu_us_per_request), 3),
        number(run.server.as_ref().and_then(|it| it.cpus_awaited), 2),
        percent(run.generator.as_ref().map(|it| it.busy_share)),
        percent(run.generator.as_ref().map(|it| it.starved_share)),
    ]
}

/// What each side does over its runs.
pub(super) fn spreads(comparison: &Comparison) -> Table {
    let mut rows = Vec::new();
    for (side, figures) in [("A", &comparison.a_figures), ("B", &comparison.b_figures)] {
        let [whole, three]: [fn(Option<f64>) -> String; 2] =
            [|it| number(it, 0), |it| number(it, 3)];
        for (name, spread, format) in [
            ("req/s", figures.rate, whole),
            ("p50 us", figures.p50_us, micros),
            ("p99 us", figures.p99_us, micros),
            ("p99.9 us", figures.p99_9_us, micros),
            ("CPU us/rq", figures.server_cpu_us_per_request, three),
        ] {
            let cells: [fn(Spread) -> f64; 3] = [|it| it.median, |it| it.min, |it| it.max];
            let cells = cells.map(|cell| format(spread.map(cell)));
            rows.push(row(format!("{side} {name}"), cells));
        }
    }
    let header = header(&["figure", "median", "min", "max"]);
    Table { caption: "Each side over its runs".to_owned(), header, rows }
}

/// What the pairs of a comparison tell.
pub(super) fn ratios(ratios: &Compared<Ratio>) -> Table {
    let figures: [fn(Ratio) -> Option<f64>; 5] = [
        |it| Some(it.mean),
        |it| it.interval_low,
        |it| it.interval_high,
        |it| Some(it.min),
        |it| Some(it.max),
    ];
    let rows = [
        ("req/s", ratios.rate),
        ("p50", ratios.p50_us),
        ("p99", ratios.p99_us),
        ("p99.9", ratios.p99_9_us),
        ("CPU/req", ratios.server_cpu_us_per_request),
    ]
    .map(|(name, ratio)| {
        let words = ratio.map_or("not measured", |it| verdict(it.verdict)).to_owned();
        let cells = figures.iter().map(|figure| number(ratio.and_then(figure), 3));
        row(format!("A / B {name}"), cells.chain([words]))
    });
    Table {
        caption: "A divided by B within pairs: geometric mean with its 95 % interval".to_owned(),
        header: header(&["A / B", "mean", "95 % from", "to", "min", "max", "verdict"]),
        rows: rows.into(),
    }
}

pub(super) fn verdict(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Higher => "A is higher",
        Verdict::Lower => "A is lower",
        Verdict::NoDifference => "no difference",
        Verdict::Undecidable => "too few pairs to tell",
    }
}

/// All points of a sweep, in order.
pub(super) fn points(report: &SweepReport) -> Table {
    let offered = |it: String| report.knee_bound_us.map(|_| it);
    let mut names = vec!["point".to_owned()];
    names.extend(report.knobs.iter().map(|it| it.name.clone()));
    names.extend(offered("offered".to_owned()));
    names.extend(header(&[
        "req/s",
        "errors",
        "p50 us",
        "p99 us",
        "p99.9 us",
        "CPU us/rq",
        "gen.busy",
        "starved",
    ]));
    let rows = report.points.iter().enumerate().map(|(index, point)| {
        let value = |name: &String| point.knobs.get(name).map_or(ABSENT, String::as_str);
        let values = report.knobs.iter().map(|it| value(&it.name).to_owned());
        let offered = offered(number(point.offered_rate, 0));
        row((index + 1).to_string(), values.chain(offered).chain(point_cells(point)))
    });
    Table { caption: "Points in order".to_owned(), header: names, rows: rows.collect() }
}

fn point_cells(point: &PointReport) -> [String; 8] {
    let figures = &point.figures;
    let latency = |pick: fn(&LatencySummary) -> f64| micros(figures.latency.as_ref().map(pick));
    let generator = figures.generator.as_ref();
    [
        number(figures.rate, 0),
        errors_in_short(&figures.errors),
        latency(|it| it.p50_us),
        latency(|it| it.p99_us),
        latency(|it| it.p99_9_us),
        number(figures.server.as_ref().and_then(|it| it.cpu_us_per_request), 3),
        percent(generator.map(|it| it.busy_share)),
        percent(generator.map(|it| it.starved_share)),
    ]
}

/// What each fault did to the load.
pub(super) fn effects(report: &ClusterReport) -> Table {
    let rows = report.effects.iter().map(|effect| {
        let cells = [
            number(Some(effect.at_seconds), 2),
            number(effect.rate_before, 0),
            number(effect.rate_lowest, 0),
            number(Some(effect.seconds_without_answers), 1),
            number(effect.seconds_until_back, 1),
            effect.errors.to_string(),
            micros(effect.latency_max_us),
        ];
        row(effect.what.clone(), cells)
    });
    Table {
        caption: "What each fault did, until the next".to_owned(),
        header: header(&[
            "fault",
            "at s",
            "req/s before",
            "lowest req/s",
            "s unanswered",
            "s until back",
            "errors",
            "longest us",
        ]),
        rows: rows.collect(),
    }
}

/// What the columns of [`effects`] mean.
pub(super) fn effects_legend(report: &ClusterReport) -> String {
    let width = report.figures.timeline.first().map_or(0.0, |it| it.seconds);
    format!("until the next fault; back is nine tenths of the rate before, in points of {width} s")
}
