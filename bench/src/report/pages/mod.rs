//! Reports as pages: facts, notes, the tables of a terminal, and plots.
//!
//! | file | what |
//! |---|---|
//! | [`run`], [`compare`], [`sweep`], [`cluster`] | a page each |
//! | `lines` | plots that several of them have |
//! | `units` | whether latencies are told in microseconds or in milliseconds |
//!
//! A plot of nothing is not on a page.

pub(super) mod cluster;
pub(super) mod compare;
mod lines;
pub(super) mod run;
pub(super) mod sweep;
mod units;

#[cfg(test)]
mod tests;

use super::html::{Note, Page, Plot, Section};
use super::words::{self, Fact};
use super::{Figures, Setting, tables};

/// A page under construction.
struct Draft {
    page: Page,
}

impl Draft {
    fn new(title: String, setting: &Setting, notes: Vec<Note>) -> Self {
        Self {
            page: Page {
                title,
                command: setting.command.clone(),
                date: setting.date.clone(),
                facts: words::setting(setting),
                notes,
                sections: Vec::new(),
            },
        }
    }

    fn fact(&mut self, name: &str, text: &str) {
        self.page.facts.push((name.to_owned(), text.to_owned()));
    }

    fn facts(&mut self, facts: Vec<Fact>) {
        self.page.facts.extend(facts);
    }

    fn heading(&mut self, text: &str) {
        self.page.sections.push(Section::Heading(text.to_owned()));
    }

    fn text(&mut self, text: impl Into<String>) {
        self.page.sections.push(Section::Text(text.into()));
    }

    fn table(&mut self, table: super::html::Table) {
        self.page.sections.push(Section::Table(table));
    }

    /// Plots under a heading, as far as they show anything; no heading over none.
    fn plots(&mut self, heading: &str, plots: impl IntoIterator<Item = Plot>) {
        let shown: Vec<Plot> = plots.into_iter().filter_map(lines::drawable).collect();
        if shown.is_empty() {
            return;
        }
        self.heading(heading);
        self.page.sections.extend(shown.into_iter().map(Section::Plot));
    }

    /// The figures of one measurement.
    fn figures(&mut self, figures: &Figures) {
        self.heading("Figures");
        let facts = words::rate(figures).into_iter().chain(words::costs(figures));
        let text: Vec<String> = facts.map(|(name, text)| format!("{name}: {text}")).collect();
        self.text(text.join("\n"));
        self.table(tables::latencies(figures));
    }
}
