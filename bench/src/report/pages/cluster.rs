//! A cluster under faults.

use super::Draft;
use super::lines::{axis, latency_over_time, over_time, rate_over_time, solid};
use super::run;
use crate::report::html::{Mark, Page, Plot, Scale};
use crate::report::{ClusterReport, notes, tables, words};

pub(in crate::report) fn page(report: &ClusterReport) -> Page {
    let title = format!("gridkv-bench cluster of {} nodes", report.nodes);
    let mut draft = Draft::new(title, &report.setting, notes::cluster(report));
    draft.facts(words::cluster(report));
    if !report.node_options.is_empty() {
        draft.fact("node options", &report.node_options.join(" "));
    }
    draft.facts(words::preparation("", &report.preparation));
    draft.facts(words::places("", &report.figures));
    if !report.effects.is_empty() {
        draft.heading("Effects of the faults");
        draft.table(tables::effects(report));
        draft.text(format!("Each row is {}.", tables::effects_legend(report)));
    }
    draft.figures(&report.figures);
    draft.plots("Over time", over_time_plots(report));
    if report.figures.timeline.len() > 1 && report.figures.timeline.iter().all(|it| it.errors == 0)
    {
        draft.text("No request was refused or given up at any time.");
    }
    draft.plots("Latency by percentile", run::curves(&report.figures));
    draft.page
}

fn over_time_plots(report: &ClusterReport) -> Vec<Plot> {
    let marks: Vec<Mark> =
        report.events.iter().map(|it| Mark { at: it.at_seconds, label: it.what.clone() }).collect();
    let timeline = &report.figures.timeline;
    let rate = solid("answered", over_time(timeline, |it| Some(it.rate)));
    let mut plots = vec![rate_over_time(vec![rate], &marks), latency_over_time(timeline, &marks)];
    if timeline.iter().any(|it| it.errors > 0) {
        let errors = over_time(timeline, |it| Some(it.errors as f64 / it.seconds));
        plots.push(Plot {
            title: "Requests refused or given up over time".to_owned(),
            x: axis("time", "s", Scale::Linear),
            y: axis("errors", "1/s", Scale::Linear),
            series: vec![solid("errors", errors)],
            marks,
        });
    }
    plots
}
