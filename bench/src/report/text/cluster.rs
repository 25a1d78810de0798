//! The tables of a cluster under faults.

use super::{ABSENT, Table, figures, micros, number, preparation, setting};
use crate::report::ClusterReport;

pub(in crate::report) fn cluster_table(report: &ClusterReport) -> String {
    let mut table = Table::default();
    setting(&mut table, &report.setting);
    table.line(format_args!(
        "cluster       {} nodes, {} copies of each key, consistency {}; {}",
        report.nodes,
        report.replicas,
        report.consistency.as_deref().unwrap_or("as configured"),
        report.target
    ));
    preparation(&mut table, "", &report.preparation);
    table.line(format_args!(""));
    figures(&mut table, &report.figures);
    if report.effects.is_empty() {
        return table.text;
    }
    table.line(format_args!(""));
    let names = ["at s", "req/s before", "lowest req/s", "s unanswered", "s until back"];
    let names = names.into_iter().chain(["errors", "longest us"]);
    table.row("fault", &names.map(str::to_owned).collect::<Vec<_>>());
    for effect in &report.effects {
        let cells = [
            number(Some(effect.at_seconds), 2),
            number(effect.rate_before, 0),
            number(effect.rate_lowest, 0),
            number(Some(effect.seconds_without_answers), 1),
            effect.seconds_until_back.map_or_else(|| ABSENT.to_owned(), |it| format!("{it:.1}")),
            effect.errors.to_string(),
            micros(effect.latency_max_us),
        ];
        table.row(&effect.what, &cells);
    }
    table.line(format_args!(
        "              until the next fault; back is nine tenths of the rate before, in points of {} s",
        report.figures.timeline.first().map_or(0.0, |it| it.seconds)
    ));
    table.text
}
