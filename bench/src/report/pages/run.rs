//! One measurement.

use super::Draft;
use super::lines::{dashed, latency_over_time, over_time, percentiles, rate_over_time, solid};
use crate::report::html::{Page, Plot};
use crate::report::{Figures, RunReport, notes, words};

pub(in crate::report) fn page(report: &RunReport) -> Page {
    let title = format!("gridkv-bench run {}", report.target);
    let mut draft = Draft::new(title, &report.setting, notes::run(report));
    draft.fact("target", &report.target);
    draft.facts(words::preparation("", &report.preparation));
    draft.facts(words::places("", &report.figures));
    draft.figures(&report.figures);
    draft.plots("Latency by percentile", curves(&report.figures));
    let timeline = &report.figures.timeline;
    let rate = solid("answered", over_time(timeline, |it| Some(it.rate)));
    let plots = [rate_over_time(vec![rate], &[]), latency_over_time(timeline, &[])];
    draft.plots("Over time", plots);
    draft.page
}

/// All latencies; and those of each operation where there are several.
pub(super) fn curves(figures: &Figures) -> Vec<Plot> {
    let is_open = figures.latency_service.is_some();
    let all = if is_open { "response time, from the intended start" } else { "all requests" };
    let mut series = vec![solid(all, figures.curve.clone())];
    if is_open {
        let name = "service time, from the actual start";
        series.push(dashed(name, figures.curve_service.clone()));
    }
    let mut plots = vec![percentiles("All requests", series)];
    if figures.operations.len() > 1 {
        let operations = figures.operations.iter();
        let series = operations.map(|it| solid(&it.operation, it.curve.clone())).collect();
        plots.push(percentiles("Each operation", series));
    }
    plots
}
