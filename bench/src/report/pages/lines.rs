//! Plots that several pages have.

use super::units::{latency_axis, readable};
use crate::report::html::{Axis, Mark, Plot, Scale, Series, SeriesStyle};
use crate::timeline::TimelinePoint;

/// A figure that a point of a time line has, if anything ended within it.
type Figure = fn(&TimelinePoint) -> Option<f64>;

pub(super) fn axis(label: &str, unit: &str, scale: Scale) -> Axis {
    Axis { label: label.to_owned(), unit: unit.to_owned(), scale }
}

pub(super) fn solid(name: impl Into<String>, points: Vec<(f64, f64)>) -> Series {
    Series { name: name.into(), points, style: SeriesStyle::Solid }
}

pub(super) fn dashed(name: impl Into<String>, points: Vec<(f64, f64)>) -> Series {
    Series { name: name.into(), points, style: SeriesStyle::Dashed }
}

/// The plot without lines that show nothing; `None` where none is left.
pub(super) fn drawable(mut plot: Plot) -> Option<Plot> {
    let has_place = |scale: Scale, value: f64| match scale {
        Scale::Linear | Scale::Whole => value.is_finite(),
        Scale::Log => value.is_finite() && value > 0.0,
        Scale::Percentile => (0.0..1.0).contains(&value),
    };
    let Plot { x, y, .. } = &plot;
    let (x, y) = (x.scale, y.scale);
    plot.series
        .retain(|it| it.points.iter().any(|point| has_place(x, point.0) && has_place(y, point.1)));
    (!plot.series.is_empty()).then_some(plot)
}

/// Latencies by quantile.
pub(super) fn percentiles(title: &str, series: Vec<Series>) -> Plot {
    readable(Plot {
        title: title.to_owned(),
        x: axis("percentile", "", Scale::Percentile),
        y: latency_axis("latency"),
        series,
        marks: Vec::new(),
    })
}

/// A figure over time; none for a measurement too short to have a shape.
pub(super) fn over_time(timeline: &[TimelinePoint], figure: Figure) -> Vec<(f64, f64)> {
    if timeline.len() < 2 {
        return Vec::new();
    }
    let middle = |it: &TimelinePoint| it.start_seconds + it.seconds / 2.0;
    timeline.iter().map(|it| (middle(it), figure(it).unwrap_or(f64::NAN))).collect()
}

pub(super) fn rate_over_time(series: Vec<Series>, marks: &[Mark]) -> Plot {
    Plot {
        title: "Answered requests over time".to_owned(),
        x: axis("time", "s", Scale::Linear),
        y: axis("rate", "req/s", Scale::Linear),
        series,
        marks: marks.to_vec(),
    }
}

/// Latencies of what ended within each point of a time line.
pub(super) fn latency_over_time(timeline: &[TimelinePoint], marks: &[Mark]) -> Plot {
    let lines: [(&str, Figure); 4] = [
        ("max", |it| it.max_us),
        ("p99.9", |it| it.p99_9_us),
        ("p99", |it| it.p99_us),
        ("p50", |it| it.p50_us),
    ];
    let series = lines.map(|(name, figure)| solid(name, over_time(timeline, figure)));
    readable(Plot {
        title: "Latency over time".to_owned(),
        x: axis("time", "s", Scale::Linear),
        y: latency_axis("latency"),
        series: series.into(),
        marks: marks.to_vec(),
    })
}
