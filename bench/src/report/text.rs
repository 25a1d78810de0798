//! Tables for people at a terminal.

mod cluster;
mod sweep;

use std::fmt::Write as _;

use super::html::{self, Note, NoteKind};
use super::words::{self, Fact};
use super::{CompareReport, Figures, RunReport, Setting, notes, tables};

pub(super) use cluster::cluster_table;
pub(super) use sweep::sweep_table;

/// What a name at the begin of a line takes.
const NAME_LEN: usize = 14;

/// A line of words is broken here.
const LINE_LEN: usize = 108;

/// A table under construction. Writing to a string cannot fail.
#[derive(Default)]
struct Table {
    text: String,
}

impl Table {
    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        self.text.write_fmt(line).expect("a string takes any text");
        self.text.push('\n');
    }

    fn facts(&mut self, facts: Vec<Fact>) {
        for (name, text) in facts {
            self.broken_line(&name, &text);
        }
    }

    fn broken_line(&mut self, name: &str, text: &str) {
        for (index, line) in broken(text, LINE_LEN - NAME_LEN).iter().enumerate() {
            let name = if index == 0 { name } else { "" };
            self.line(format_args!("{name:<13} {line}"));
        }
    }

    /// Rows with columns as wide as what is in them.
    fn grid(&mut self, table: &html::Table) {
        let rows = || std::iter::once(&table.header).chain(&table.rows);
        let last = table.header.len().saturating_sub(1);
        let width = |column: usize| {
            rows().filter_map(|it| it.get(column)).map(String::len).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..=last).map(width).collect();
        for row in rows() {
            let mut line = String::new();
            for (column, cell) in row.iter().enumerate() {
                let width = widths.get(column).copied().unwrap_or(0);
                // Words at the end of a row stand to the left.
                let is_words = column == last && is_wordy(table);
                match column {
                    0 => write!(line, "{cell:<width$}"),
                    _ if is_words => write!(line, "  {cell}"),
                    _ => write!(line, "  {cell:>width$}"),
                }
                .expect("a string takes any text");
            }
            self.line(format_args!("{}", line.trim_end()));
        }
    }

    fn notes(&mut self, notes: &[Note]) {
        for note in notes {
            let name = match note.kind {
                NoteKind::Partial => "PARTIAL",
                NoteKind::Failure => "FAILURE",
                NoteKind::Warning => "WARNING",
                NoteKind::Information => "note",
            };
            self.broken_line(name, &note.text);
        }
    }
}

fn is_wordy(table: &html::Table) -> bool {
    table.header.last().is_some_and(|it| it == "verdict")
}

/// Lines of at most `len` letters, but for longer words.
fn broken(text: &str, len: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let line = lines.last_mut().expect("there is a line");
        if line.is_empty() {
            line.push_str(word);
        } else if line.len() + 1 + word.len() <= len {
            line.push(' ');
            line.push_str(word);
        } else {
            lines.push(word.to_owned());
        }
    }
    lines
}

fn setting(table: &mut Table, setting: &Setting) {
    table.line(format_args!("{}", setting.command));
    let mut facts = words::setting(setting);
    let (_, machine) = facts.remove(0);
    table.line(format_args!("{}, {machine}", setting.date));
    table.facts(facts);
}

/// A rate with all that belongs to it.
fn figures(table: &mut Table, figures: &Figures) {
    // A rate and its errors are one line, however long.
    for (name, text) in words::rate(figures) {
        table.line(format_args!("{name:<13} {text}"));
    }
    table.grid(&tables::latencies(figures));
    table.facts(words::costs(figures));
}

pub(super) fn run_table(report: &RunReport) -> String {
    let mut table = Table::default();
    setting(&mut table, &report.setting);
    table.line(format_args!("target        {}", report.target));
    table.facts(words::preparation("", &report.preparation));
    table.notes(&notes::run(report));
    table.line(format_args!(""));
    figures(&mut table, &report.figures);
    table.text
}

pub(super) fn comparison_table(report: &CompareReport) -> String {
    let mut table = Table::default();
    setting(&mut table, &report.setting);
    let comparison = &report.comparison;
    for (name, target, prepared) in [
        ("A", &report.targets[0], &report.preparations[0]),
        ("B", &report.targets[1], &report.preparations[1]),
    ] {
        table.line(format_args!("{name}             {target}"));
        table.facts(words::preparation(&format!("{name} "), prepared));
    }
    table.notes(&notes::compare(report));
    let parts =
        [tables::runs(comparison), tables::spreads(comparison), tables::ratios(&comparison.ratios)];
    for part in &parts {
        table.line(format_args!(""));
        table.grid(part);
    }
    for (name, runs) in [("A", &comparison.a), ("B", &comparison.b)] {
        if let Some(reply) = runs.iter().find_map(|it| it.errors.first_error_reply.as_ref()) {
            table.line(format_args!("{name} first error {reply}"));
        }
    }
    table.text
}
