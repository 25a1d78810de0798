//! The tables of a sweep.

use super::{Table, setting};
use crate::report::{SweepReport, notes, tables, words};

pub(in crate::report) fn sweep_table(report: &SweepReport) -> String {
    let mut table = Table::default();
    setting(&mut table, &report.setting);
    table.facts(words::sweep(report));
    table.notes(&notes::sweep(report));
    table.line(format_args!(""));
    table.grid(&tables::points(report));
    let found = words::findings(report);
    if !found.is_empty() {
        table.line(format_args!(""));
        found.iter().for_each(|it| table.line(format_args!("{it}")));
    }
    table.text
}
