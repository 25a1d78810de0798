//! Reports as sections of a Markdown file, such as `bench/RESULTS.md`.

use std::fmt::Write as _;

use super::tables::verdict;
use super::words::{self, ABSENT};
use super::{ClusterReport, CompareReport, Figures, RunReport, Setting, SweepReport};
use crate::compare::Compared;
use crate::statistics::{Ratio, Spread};

/// Writing to a string cannot fail.
const INFALLIBLE: &str = "a string takes any text";

/// A section under construction.
struct Section {
    text: String,
}

impl Section {
    /// Begins with a heading, the command, and where it was run.
    fn new(title: Option<&str>, setting: &Setting) -> Self {
        let mut section = Self { text: String::new() };
        if let Some(title) = title {
            section.line(format_args!("### {}\n", plain(title)));
        }
        section.line(format_args!("```sh\n{}\n```\n", setting.command.replace("```", "'''")));
        let facts = words::setting(setting).into_iter();
        let told = facts.filter(|it| ["workload", "load"].contains(&it.0.as_str()));
        let told: Vec<String> = told.map(|it| plain(&it.1)).collect();
        section.line(format_args!(
            "{}, load average {} before. {}.\n",
            setting.date,
            setting.machine.load_average,
            told.join("; ")
        ));
        section
    }

    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        writeln!(self.text, "{line}").expect(INFALLIBLE);
    }

    /// The first column is text, the others are figures.
    fn header(&mut self, names: &[&str]) {
        self.row(names.iter().map(|it| (*it).to_owned()));
        let rules =
            names.iter().enumerate().map(|(index, _)| if index == 0 { "---" } else { "---:" });
        self.row(rules.map(str::to_owned));
    }

    fn row(&mut self, cells: impl Iterator<Item = String>) {
        let cells: Vec<String> = cells.map(|it| plain(&it)).collect();
        self.line(format_args!("| {} |", cells.join(" | ")));
    }

    fn partial(&mut self, reason: Option<&String>) {
        if let Some(reason) = reason {
            self.line(format_args!("**PARTIAL: {}**\n", plain(reason)));
        }
    }

    fn end(mut self) -> String {
        self.text.push('\n');
        self.text
    }
}

/// Two targets beside each other.
pub(super) fn comparison(title: Option<&str>, report: &CompareReport) -> String {
    let mut section = Section::new(title, &report.setting);
    let found = &report.comparison;
    section.partial(found.partial.as_ref());
    let [a, b] = &report.targets;
    section.header(&["medians", a, b, "A / B", "95 % interval", "says"]);
    type Pick<T> = fn(&Compared<T>) -> Option<T>;
    let rows: [(&str, Pick<Spread>, Pick<Ratio>); 5] = [
        ("req/s", |it| it.rate, |it| it.rate),
        ("p50, us", |it| it.p50_us, |it| it.p50_us),
        ("p99, us", |it| it.p99_us, |it| it.p99_us),
        ("p99.9, us", |it| it.p99_9_us, |it| it.p99_9_us),
        (
            "server CPU, us/req",
            |it| it.server_cpu_us_per_request,
            |it| it.server_cpu_us_per_request,
        ),
    ];
    for (name, spread, ratio) in rows {
        let median = |side: &Compared| number(spread(side).map(|it| it.median));
        let ratio = ratio(&found.ratios);
        let interval = ratio.and_then(|it| Some((it.interval_low?, it.interval_high?)));
        let cells = [
            name.to_owned(),
            median(&found.a_figures),
            median(&found.b_figures),
            ratio.map_or_else(|| ABSENT.to_owned(), |it| format!("**{:.2}**", it.mean)),
            interval.map_or_else(|| ABSENT.to_owned(), |it| format!("{:.2} to {:.2}", it.0, it.1)),
            ratio.map_or("not measured", |it| verdict(it.verdict)).to_owned(),
        ];
        section.row(cells.into_iter());
    }
    let errors: Vec<String> = [("A", &found.a), ("B", &found.b)]
        .into_iter()
        .map(|(side, runs)| format!("{side} {}", errors_of(runs)))
        .collect();
    section.line(format_args!("\nErrors: {}.", errors.join("; ")));
    section.end()
}

/// One measurement.
pub(super) fn run(title: Option<&str>, report: &RunReport) -> String {
    let mut section = Section::new(title, &report.setting);
    section.partial(report.figures.partial.as_ref());
    section.header(&FIGURES);
    figures(&mut section, report.target.clone(), &report.figures);
    section.end()
}

const FIGURES: [&str; 8] = [
    "target",
    "req/s",
    "p50, us",
    "p99, us",
    "p99.9, us",
    "CPU, us/req",
    "of a core for the generator",
    "failed requests",
];

fn figures(section: &mut Section, name: String, figures: &Figures) {
    let latency = |pick: fn(&crate::record::LatencySummary) -> f64| {
        number(figures.latency.as_ref().map(pick))
    };
    let cells = [
        name,
        number(figures.rate),
        latency(|it| it.p50_us),
        latency(|it| it.p99_us),
        latency(|it| it.p99_9_us),
        number(figures.server.as_ref().and_then(|it| it.cpu_us_per_request)),
        number(figures.generator.as_ref().map(|it| it.busy_share)),
        figures.errors.failed_requests().to_string(),
    ];
    section.row(cells.into_iter());
}

/// Many measurements, or the knees that were searched.
pub(super) fn sweep(title: Option<&str>, report: &SweepReport) -> String {
    let mut section = Section::new(title, &report.setting);
    section.partial(report.partial.as_ref());
    let knobs = |values: &crate::server::Values| {
        let parts: Vec<String> = values.iter().map(|it| format!("{} {}", it.0, it.1)).collect();
        parts.join(", ")
    };
    if report.knee_bound_us.is_some() {
        section.header(&["knobs", "knee, req/s", "its p99.9, us", "fails at, req/s"]);
        for knee in &report.knees {
            let (found, failing) = (&knee.outcome.knee, &knee.outcome.failing);
            let cells = [
                knobs(&knee.knobs),
                number(found.as_ref().map(|it| it.offered)),
                number(found.as_ref().and_then(|it| it.p99_9_us)),
                number(failing.as_ref().map(|it| it.offered)),
            ];
            section.row(cells.into_iter());
        }
    } else {
        section.header(&FIGURES);
        for point in &report.points {
            figures(&mut section, knobs(&point.knobs), &point.figures);
        }
    }
    section.end()
}

/// A cluster under faults.
pub(super) fn cluster(title: Option<&str>, report: &ClusterReport) -> String {
    let mut section = Section::new(title, &report.setting);
    section.partial(report.figures.partial.as_ref());
    section.header(&FIGURES);
    figures(&mut section, format!("{} nodes", report.nodes), &report.figures);
    if !report.effects.is_empty() {
        section.line(format_args!(""));
        let names = ["fault", "at, s", "req/s before", "lowest", "s without answers"];
        let names = names.into_iter().chain(["s until back", "errors", "longest, us"]);
        section.header(&names.collect::<Vec<_>>());
        for effect in &report.effects {
            let cells = [
                effect.what.clone(),
                number(Some(effect.at_seconds)),
                number(effect.rate_before),
                number(effect.rate_lowest),
                number(Some(effect.seconds_without_answers)),
                number(effect.seconds_until_back),
                effect.errors.to_string(),
                number(effect.latency_max_us),
            ];
            section.row(cells.into_iter());
        }
    }
    section.end()
}

/// Four digits, as many as tell something.
fn number(figure: Option<f64>) -> String {
    match figure {
        None => ABSENT.to_owned(),
        Some(figure) if figure >= 1000.0 => grouped(figure),
        Some(figure) if figure >= 100.0 => format!("{figure:.0}"),
        Some(figure) if figure >= 10.0 => format!("{figure:.1}"),
        Some(figure) if figure >= 1.0 => format!("{figure:.2}"),
        Some(figure) => format!("{figure:.3}"),
    }
}

/// `1234567` as `1,234,567`.
fn grouped(figure: f64) -> String {
    let digits = format!("{figure:.0}");
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn errors_of(runs: &[Figures]) -> String {
    let failed: u64 = runs.iter().map(|it| it.errors.failed_requests()).sum();
    let lost: u64 = runs.iter().map(|it| it.errors.lost_connections).sum();
    let first = runs.iter().find_map(|it| it.errors.first_error_reply.as_ref());
    match (failed, lost) {
        (0, 0) => "none".to_owned(),
        _ => {
            let first = first.map(|it| format!(" (the first: {})", plain(it))).unwrap_or_default();
            format!("{failed} failed requests, {lost} lost connections{first}")
        }
    }
}

/// A text that means nothing in Markdown.
fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '|' | '<' | '>' | '`' | '[' | ']' | '_' => {
                plain.push('\\');
                plain.push(character);
            }
            _ if character.is_control() => plain.push(' '),
            _ => plain.push(character),
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_have_as_many_digits_as_tell_something() {
        let figures = [0.1234, 1.234, 12.34, 123.4, 1234.4, 1_234_567.0];
        let texts = figures.map(|it| number(Some(it)));
        assert_eq!(texts, ["0.123", "1.23", "12.3", "123", "1,234", "1,234,567"]);
        assert_eq!(number(None), "-");
    }

    #[test]
    fn text_from_outside_stays_in_its_cell() {
        assert_eq!(plain("a|b\n<c> [d](e)"), "a\\|b \\<c\\> \\[d\\](e)");
    }
}
