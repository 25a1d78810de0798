//! Where all output goes.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::hgrm;
use super::html::{self, Note, Page};
use crate::options::OutputOptions;
use crate::record::Latencies;

/// What a command has come to.
pub trait Report: Serialize {
    /// For people at a terminal.
    fn table(&self) -> String;

    /// What a reader must know before the figures.
    fn notes(&self) -> Vec<Note>;

    /// For people with a browser.
    fn page(&self) -> Page;

    /// For a file of results.
    fn markdown(&self, title: Option<&str>) -> String;

    /// All latencies; of a comparison those of each side, with what tells them apart.
    fn latencies(&self) -> Vec<(&'static str, Latencies)>;
}

/// A report as programs read it.
#[derive(Serialize)]
pub(super) struct Noted<'a, R> {
    #[serde(flatten)]
    report: &'a R,
    notes: Vec<Note>,
}

impl<'a, R: Report> Noted<'a, R> {
    pub(super) fn new(report: &'a R) -> Self {
        Self { report, notes: report.notes() }
    }
}

/// Writes a report wherever the options say: a table to standard output, unless JSON takes its
/// place there, and files.
///
/// # Errors
///
/// When that fails.
pub fn publish(output: &OutputOptions, report: &impl Report) -> io::Result<()> {
    if output.json.as_deref() != Some("-") {
        print(&report.table())?;
    }
    if let Some(path) = &output.json {
        write_json(path, &Noted::new(report))?;
    }
    if let Some(path) = &output.html {
        let mut page = report.page();
        if let Some(title) = &output.title {
            page.title.clone_from(title);
        }
        write(Path::new(path), &html::render(&page))?;
    }
    if let Some(path) = &output.markdown {
        append(Path::new(path), &report.markdown(output.title.as_deref()))?;
    }
    if let Some(path) = &output.hgrm {
        for (side, latencies) in report.latencies() {
            let text = hgrm::text(latencies.histogram(), hgrm::MICROSECONDS);
            write(&with_side(Path::new(path), side), &text)?;
        }
    }
    Ok(())
}

/// Writes something as JSON to a file, or to standard output for `-`.
///
/// # Errors
///
/// When that fails.
pub fn write_json(path: &str, report: &impl Serialize) -> io::Result<()> {
    let mut text = serde_json::to_string_pretty(report)?;
    text.push('\n');
    if path == "-" { print(&text) } else { write(Path::new(path), &text) }
}

/// Writes to standard output.
///
/// # Errors
///
/// When that is closed.
pub fn print(text: &str) -> io::Result<()> {
    io::stdout().lock().write_all(text.as_bytes())
}

/// Says on standard error why there is no report, or no whole one.
pub fn print_failure(failure: &str) {
    // Nobody is left to tell when standard error is closed.
    let _ = writeln!(io::stderr(), "gridkv-bench: {failure}");
}

fn write(path: &Path, text: &str) -> io::Result<()> {
    let failed = |error| io::Error::other(format!("{}: {error}", path.display()));
    fs::write(path, text).map_err(failed)
}

fn append(path: &Path, text: &str) -> io::Result<()> {
    let file = fs::OpenOptions::new().create(true).append(true).open(path);
    let written = file.and_then(|mut file| file.write_all(text.as_bytes()));
    written.map_err(|error| io::Error::other(format!("{}: {error}", path.display())))
}

/// `x.hgrm` of side `a` is `x.a.hgrm`.
fn with_side(path: &Path, side: &str) -> PathBuf {
    if side.is_empty() {
        return path.to_owned();
    }
    match path.extension() {
        Some(extension) => path.with_extension(format!("{side}.{}", extension.to_string_lossy())),
        None => path.with_extension(side),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sides_have_files_of_their_own() {
        let path = |side| with_side(Path::new("d.x/out.hgrm"), side).display().to_string();
        assert_eq!(path(""), "d.x/out.hgrm");
        assert_eq!(path("a"), "d.x/out.a.hgrm");
        assert_eq!(with_side(Path::new("out"), "b"), Path::new("out.b"));
    }
}
