//! Two targets in turn.

use super::Draft;
use super::lines::{axis, dashed, over_time, percentiles, rate_over_time, solid};
use super::units::{latency_axis, readable};
use crate::report::html::{Page, Plot, Scale, Series};
use crate::report::{CompareReport, Figures, notes, sum, tables, words};

pub(in crate::report) fn page(report: &CompareReport) -> Page {
    let comparison = &report.comparison;
    let names = side_names(report);
    let title = format!("gridkv-bench compare {} and {}", report.targets[0], report.targets[1]);
    let mut draft = Draft::new(title, &report.setting, notes::compare(report));
    let sides = [("A", &comparison.a), ("B", &comparison.b)];
    for (index, (side, runs)) in sides.into_iter().enumerate() {
        draft.fact(side, &report.targets[index]);
        let label = format!("{side} ");
        draft.facts(words::preparation(&label, &report.preparations[index]));
        if let Some(first) = runs.first() {
            draft.facts(words::places(&label, first));
        }
        if let Some(reply) = runs.iter().find_map(|it| it.errors.first_error_reply.as_ref()) {
            draft.fact(&format!("{side} first error"), reply);
        }
    }
    draft.heading("Ratios");
    draft.text(
        "A ratio above 1 says that A has more: a higher rate, or longer latencies. When 1 lies \
         within the interval, the pairs show no difference.",
    );
    draft.table(tables::ratios(&comparison.ratios));
    draft.table(tables::spreads(comparison));
    draft.table(tables::runs(comparison));
    let curves = [&comparison.a, &comparison.b].map(|it| sum(it).curve());
    let curves = names.iter().zip(curves).map(|(name, curve)| solid(name, curve)).collect();
    let percentiles = percentiles("Latency by percentile, all runs of a side together", curves);
    draft.plots("Latency by percentile", [percentiles]);
    draft.plots("Pairs", pairs(report, &names));
    let medians = rate_over_time(medians(report, &names), &[]);
    let title = "Answered requests over time, of the run of the median rate".to_owned();
    draft.plots("Over time", [Plot { title, ..medians }]);
    draft.page
}

fn side_names(report: &CompareReport) -> [String; 2] {
    let [a, b] = &report.targets;
    [format!("A: {a}"), format!("B: {b}")]
}

type Figure = fn(&Figures) -> Option<f64>;

const RATE: Figure = |it| it.rate;
const P50: Figure = |it| Some(it.latency.as_ref()?.p50_us);
const P99: Figure = |it| Some(it.latency.as_ref()?.p99_us);

/// Pairs by their number; a single one has no course.
fn pairs(report: &CompareReport, names: &[String; 2]) -> Vec<Plot> {
    let comparison = &report.comparison;
    if comparison.a.len() < 2 {
        return Vec::new();
    }
    let sides = [&comparison.a, &comparison.b];
    let line = |runs: &[Figures], figure: Figure| -> Vec<(f64, f64)> {
        let values = runs.iter().map(|it| figure(it).unwrap_or(f64::NAN));
        (1..).map(f64::from).zip(values).collect()
    };
    let both = |figure: Figure| -> Vec<Series> {
        names.iter().zip(sides).map(|(name, runs)| solid(name, line(runs, figure))).collect()
    };
    let pair = || axis("pair", "", Scale::Whole);
    let plot = |title: &str, y, series| Plot {
        title: title.to_owned(),
        x: pair(),
        y,
        series,
        marks: Vec::new(),
    };
    let ratio = |name: &str, figure: Figure| {
        let [a, b] = sides.map(|it| line(it, figure));
        let ratios = a.iter().zip(&b).map(|(a, b)| (a.0, a.1 / b.1));
        solid(name, ratios.collect())
    };
    let ratios = vec![ratio("rate", RATE), ratio("p50", P50), ratio("p99", P99)];
    let last = ratios[0].points.last().map_or(1.0, |it| it.0);
    let equal = dashed("equal", vec![(1.0, 1.0), (last, 1.0)]);
    vec![
        plot("Rate of each pair", axis("rate", "req/s", Scale::Linear), both(RATE)),
        readable(plot("p99 of each pair", latency_axis("p99"), both(P99))),
        plot(
            "A divided by B within each pair",
            axis("A / B", "", Scale::Log),
            ratios.into_iter().chain([equal]).collect(),
        ),
    ]
}

/// The rate over time of the run of each side whose rate is the median: the lower of two.
fn medians(report: &CompareReport, names: &[String; 2]) -> Vec<Series> {
    let sides = [&report.comparison.a, &report.comparison.b];
    let line = |(name, runs): (&String, &Vec<Figures>)| {
        let mut order: Vec<usize> = (0..runs.len()).collect();
        let rate = |index: usize| runs[index].rate.unwrap_or(0.0);
        order.sort_by(|&a, &b| rate(a).total_cmp(&rate(b)));
        let index = *order.get(order.len().checked_sub(1)? / 2)?;
        let points = over_time(&runs[index].timeline, |it| Some(it.rate));
        Some(solid(format!("{name} (pair {})", index + 1), points))
    };
    names.iter().zip(sides).filter_map(line).collect()
}
