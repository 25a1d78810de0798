//! One target with many values of a knob.

use super::Draft;
use super::lines::{axis, dashed, solid};
use super::units::{latency_axis, readable};
use crate::report::html::{Axis, Mark, Page, Plot, Scale, Series};
use crate::report::{Figures, PointReport, SweepReport, notes, tables, words};
use crate::server::Values;

/// Values that span more than this factor stand on a logarithmic axis.
const LINEAR_FACTOR_MAX: f64 = 8.0;

/// Points that no number orders are told apart by their looks, as far as there are so many.
const LOOSE_POINTS_MAX: usize = 12;

type Figure = fn(&Figures) -> Option<f64>;

const RATE: Figure = |it| it.rate;
const P50: Figure = |it| Some(it.latency.as_ref()?.p50_us);
const P99: Figure = |it| Some(it.latency.as_ref()?.p99_us);
const P99_9: Figure = |it| Some(it.latency.as_ref()?.p99_9_us);
const CPU: Figure = |it| it.server.as_ref()?.cpu_us_per_request;

pub(in crate::report) fn page(report: &SweepReport) -> Page {
    let target = report.points.first().map_or("", |it| it.target.as_str());
    let mut draft =
        Draft::new(format!("gridkv-bench sweep {target}"), &report.setting, notes::sweep(report));
    draft.fact("target", target);
    draft.facts(words::sweep(report));
    if let Some(first) = report.points.first() {
        draft.facts(words::preparation("", &first.preparation));
        draft.facts(words::places("", &first.figures));
    }
    let found = words::findings(report);
    if !found.is_empty() {
        draft.heading("Found");
        found.into_iter().for_each(|it| draft.text(it));
    }
    draft.heading("Points");
    draft.table(tables::points(report));
    if let Some(bound) = report.knee_bound_us {
        draft.plots("Offered rates", knee(report, bound));
        return draft.page;
    }
    let lines = Lines::of(report);
    if let Some(lines) = &lines {
        draft.plots(&format!("By {}", lines.knob), by_knob(lines));
    }
    draft.plots("Throughput and latency", [throughput(report, lines.as_ref())]);
    draft.page
}

/// Points along a knob of numbers, a line for each value of the other knob.
struct Lines<'a> {
    knob: &'a str,
    scale: Scale,
    /// What tells a line from others; nothing for the only one.
    lines: Vec<(String, Vec<(f64, &'a PointReport)>)>,
}

impl<'a> Lines<'a> {
    /// `None` where no knob is of numbers, or has but one.
    fn of(report: &'a SweepReport) -> Option<Self> {
        let number = |text: &str| text.parse::<f64>().ok().filter(|it| it.is_finite());
        let knob = report.knobs.iter().find(|it| {
            it.values.len() > 1 && it.values.iter().all(|value| number(value).is_some())
        })?;
        let mut lines: Vec<(String, Vec<(f64, &PointReport)>)> = Vec::new();
        for point in &report.points {
            let Some(at) = point.knobs.get(&knob.name).and_then(|it| number(it)) else { continue };
            let mut others: Values = point.knobs.clone();
            others.remove(&knob.name);
            let name = words::knobs(&others);
            match lines.iter_mut().find(|it| it.0 == name) {
                Some(line) => line.1.push((at, point)),
                None => lines.push((name, vec![(at, point)])),
            }
        }
        lines.iter_mut().for_each(|it| it.1.sort_by(|a, b| a.0.total_cmp(&b.0)));
        let scale = scale_of(lines.iter().flat_map(|it| &it.1).map(|it| it.0));
        Some(Self { knob: &knob.name, scale, lines })
    }

    fn series(&self, name: &str, figure: Figure) -> Vec<Series> {
        let line = |(other, points): &(String, Vec<(f64, &PointReport)>)| {
            let values =
                points.iter().map(|(at, it)| (*at, figure(&it.figures).unwrap_or(f64::NAN)));
            solid(if other.is_empty() { name } else { other }, values.collect())
        };
        self.lines.iter().map(line).collect()
    }

    fn plot(&self, title: &str, y: Axis, series: Vec<Series>) -> Plot {
        let x = axis(self.knob, "", self.scale);
        Plot { title: format!("{title} by {}", self.knob), x, y, series, marks: Vec::new() }
    }
}

fn scale_of(places: impl Iterator<Item = f64> + Clone) -> Scale {
    let is_whole = places.clone().all(|it| it.fract() == 0.0);
    let (low, high) =
        places.fold((f64::INFINITY, 0.0_f64), |(low, high), it| (low.min(it), high.max(it)));
    if low > 0.0 && high > low * LINEAR_FACTOR_MAX {
        Scale::Log
    } else if is_whole {
        Scale::Whole
    } else {
        Scale::Linear
    }
}

fn by_knob(lines: &Lines<'_>) -> Vec<Plot> {
    let rate = axis("rate", "req/s", Scale::Linear);
    let mut plots = vec![lines.plot("Rate", rate, lines.series("answered", RATE))];
    let percentiles = [("p50", P50), ("p99", P99), ("p99.9", P99_9)];
    if lines.lines.len() == 1 {
        let series =
            percentiles.iter().rev().flat_map(|(name, figure)| lines.series(name, *figure));
        plots.push(readable(lines.plot("Latency", latency_axis("latency"), series.collect())));
    } else {
        for (name, figure) in percentiles {
            let series = lines.series(name, figure);
            plots.push(readable(lines.plot(name, latency_axis(name), series)));
        }
    }
    let cpu = axis("CPU time per request", "us", Scale::Linear);
    plots.push(lines.plot("CPU time of the server", cpu, lines.series("CPU time", CPU)));
    plots
}

/// p99 over the rate that was achieved: the way a target saturates.
fn throughput(report: &SweepReport, lines: Option<&Lines<'_>>) -> Plot {
    let place = |it: &Figures| (RATE(it).unwrap_or(f64::NAN), P99(it).unwrap_or(f64::NAN));
    let series = match lines {
        Some(lines) => lines
            .lines
            .iter()
            .map(|(other, points)| {
                let name = format!("{}, {} rising", other, lines.knob);
                let points = points.iter().map(|(_, it)| place(&it.figures));
                solid(name.trim_start_matches(", "), points.collect())
            })
            .collect(),
        None if report.points.len() <= LOOSE_POINTS_MAX => report
            .points
            .iter()
            .map(|it| solid(words::knobs(&it.knobs), vec![place(&it.figures)]))
            .collect(),
        None => Vec::new(),
    };
    readable(Plot {
        title: "p99 over the achieved rate".to_owned(),
        x: axis("achieved rate", "req/s", Scale::Linear),
        y: latency_axis("p99"),
        series,
        marks: Vec::new(),
    })
}

/// What was measured at each rate on the way to the knees.
fn knee(report: &SweepReport, bound: f64) -> Vec<Plot> {
    let places = || report.points.iter().filter_map(|it| it.offered_rate);
    let scale = scale_of(places());
    let mut names: Vec<String> = Vec::new();
    for point in &report.points {
        let name = words::knobs(&point.knobs);
        if !names.contains(&name) {
            names.push(name);
        }
    }
    let line = |name: &String, figure: Figure| {
        let points = report.points.iter().filter(|it| words::knobs(&it.knobs) == *name);
        let place = |it: &PointReport| {
            (it.offered_rate.unwrap_or(f64::NAN), figure(&it.figures).unwrap_or(f64::NAN))
        };
        let mut places: Vec<(f64, f64)> = points.map(place).collect();
        places.sort_by(|a, b| a.0.total_cmp(&b.0));
        solid(if name.is_empty() { "measured" } else { name }, places)
    };
    let series = |figure: Figure| names.iter().map(move |it| line(it, figure)).collect::<Vec<_>>();
    let (low, high) =
        places().fold((f64::INFINITY, 0.0_f64), |(low, high), it| (low.min(it), high.max(it)));
    let marks: Vec<Mark> = report
        .knees
        .iter()
        .filter_map(|it| {
            let label = format!("knee {}", words::knobs(&it.knobs)).trim_end().to_owned();
            Some(Mark { at: it.outcome.knee.as_ref()?.offered, label })
        })
        .collect();
    let plot = |title: &str, y, series| Plot {
        title: title.to_owned(),
        x: axis("offered rate", "req/s", scale),
        y,
        series,
        marks: marks.clone(),
    };
    let mut latencies = series(P99_9);
    latencies.push(dashed("bound", vec![(low, bound), (high, bound)]));
    let mut achieved = series(RATE);
    achieved.push(dashed("offered", vec![(low, low), (high, high)]));
    let y = if scale == Scale::Log { Scale::Log } else { Scale::Linear };
    let achieved_axis = axis("achieved rate", "req/s", y);
    vec![
        readable(plot("p99.9 at offered rates", latency_axis("p99.9"), latencies)),
        plot("Achieved at offered rates", achieved_axis, achieved),
    ]
}
