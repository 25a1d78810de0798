//! The tables of a cluster under faults.

use super::{Table, figures, setting};
use crate::report::{ClusterReport, notes, tables, words};

pub(in crate::report) fn cluster_table(report: &ClusterReport) -> String {
    let mut table = Table::default();
    setting(&mut table, &report.setting);
    table.facts(words::cluster(report));
    table.facts(words::preparation("", &report.preparation));
    table.notes(&notes::cluster(report));
    table.line(format_args!(""));
    figures(&mut table, &report.figures);
    if report.effects.is_empty() {
        return table.text;
    }
    table.line(format_args!(""));
    table.grid(&tables::effects(report));
    table.line(format_args!("              {}", tables::effects_legend(report)));
    table.text
}
