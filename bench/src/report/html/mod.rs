//! A report as one page that needs nothing else.
//!
//! The page knows tables and lines, and nothing of how figures were measured. Style, script and
//! plots are inside of it; its `Content-Security-Policy` has the browser refuse whatever else a text
//! might smuggle in. It is whole without its script, which adds the values under the pointer.
//!
//! | room | what |
//! |---|---|
//! | `escape` | text of any origin, made harmless |
//! | `scale` | axes and their ticks |
//! | `thin` | fewer points of a long series |
//! | `marks` | vertical lines, whose labels do not cover one another |
//! | `plot` | a figure |
//! | `page.css`, `page.js` | how it looks, and what happens under the pointer |
//!
//! # Invariants
//!
//! - No text reaches the page but escaped.
//! - Whatever the values are, there is a page: what cannot be drawn is left out, and said to be.
//!
//! # Why a nonce
//!
//! The policy admits the page's own style and script by a number that is drawn when the page is
//! written. Hostile text was there before, and cannot hold it.

mod escape;
mod marks;
mod plot;
mod scale;
mod thin;

use std::fmt::Write as _;

use escape::escaped;
use serde::Serialize;

pub use marks::Mark;
pub use plot::{Plot, Series, SeriesStyle};
pub use scale::{Axis, Scale};

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");
const INFALLIBLE: &str = "a string takes any text";

/// So many headings make a list of contents worth its room.
const CONTENTS_MIN: usize = 3;

/// One self-contained page.
#[derive(Clone, Debug, PartialEq)]
pub struct Page {
    /// What it is about.
    pub title: String,
    /// The command line that made it.
    pub command: String,
    /// When.
    pub date: String,
    /// Machine, workload, load: names and what they are.
    pub facts: Vec<(String, String)>,
    /// What a reader must know before the figures.
    pub notes: Vec<Note>,
    /// The figures.
    pub sections: Vec<Section>,
}

/// What a reader must know before the figures.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Note {
    /// How bad it is.
    pub kind: NoteKind,
    /// What it is.
    pub text: String,
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum NoteKind {
    /// There is only a part of what was asked.
    Partial,
    /// The run failed: its figures are not to be relied on.
    Failure,
    /// Figures may not be what they seem.
    Warning,
    /// Good to know.
    Information,
}

/// A part of the page.
#[derive(Clone, Debug, PartialEq)]
pub enum Section {
    /// Begins a chapter.
    Heading(String),
    /// A paragraph.
    Text(String),
    /// Figures in rows.
    Table(Table),
    /// Figures as lines.
    Plot(Plot),
}

/// Figures in rows: the first column is text, the others stand to the right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// What they are.
    pub caption: String,
    /// What the columns are.
    pub header: Vec<String>,
    /// The figures, as people write them.
    pub rows: Vec<Vec<String>>,
}

/// The page as a file.
#[must_use]
pub fn render(page: &Page) -> String {
    with_nonce(page, &format!("{:032x}", fastrand::u128(..)))
}

fn with_nonce(page: &Page, nonce: &str) -> String {
    let mut out = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; \
         style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'; base-uri 'none'; form-action 'none'\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <title>{}</title>\n<style nonce=\"{nonce}\">\n{STYLE}</style>\n</head>\n<body>\n",
        escaped(&page.title)
    );
    header(page, &mut out);
    out.push_str("<main>\n");
    for (index, section) in page.sections.iter().enumerate() {
        match section {
            Section::Heading(text) => {
                write_line(&mut out, format_args!("<h2 id=\"s{index}\">{}</h2>", escaped(text)));
            }
            Section::Text(text) => {
                write_line(&mut out, format_args!("<p class=\"text\">{}</p>", escaped(text)));
            }
            Section::Table(it) => table(it, &mut out),
            Section::Plot(it) => plot::draw(it, &mut out),
        }
    }
    write!(out, "</main>\n<script nonce=\"{nonce}\">\n{SCRIPT}</script>\n</body>\n</html>\n")
        .expect(INFALLIBLE);
    out
}

fn write_line(out: &mut String, line: std::fmt::Arguments<'_>) {
    out.write_fmt(line).expect(INFALLIBLE);
    out.push('\n');
}

fn header(page: &Page, out: &mut String) {
    write_line(out, format_args!("<header>\n<h1>{}</h1>", escaped(&page.title)));
    if !page.date.is_empty() {
        let date = escaped(&page.date);
        write_line(out, format_args!("<p><time datetime=\"{date}\">{date}</time></p>"));
    }
    if !page.command.is_empty() {
        let command = escaped(&page.command);
        write_line(out, format_args!("<pre><code>{command}</code></pre>"));
    }
    for note in &page.notes {
        let (class, word) = match note.kind {
            NoteKind::Information => ("information", "Note"),
            NoteKind::Warning => ("warning", "Warning"),
            NoteKind::Failure => ("failure", "Failure"),
            NoteKind::Partial => ("failure", "Partial"),
        };
        let text = escaped(&note.text);
        write_line(
            out,
            format_args!(
                "<p class=\"note {class}\" role=\"note\"><strong>{word}</strong> {text}</p>"
            ),
        );
    }
    if !page.facts.is_empty() {
        out.push_str("<table class=\"facts\">\n<tbody>\n");
        for (name, fact) in &page.facts {
            let (name, fact) = (escaped(name), escaped(fact));
            let row = format_args!("<tr><th scope=\"row\">{name}</th><td>{fact}</td></tr>");
            write_line(out, row);
        }
        out.push_str("</tbody>\n</table>\n");
    }
    contents(page, out);
    out.push_str("</header>\n");
}

fn contents(page: &Page, out: &mut String) {
    let headings = page.sections.iter().enumerate().filter_map(|(index, it)| match it {
        Section::Heading(text) => Some((index, text)),
        Section::Text(_) | Section::Table(_) | Section::Plot(_) => None,
    });
    if headings.clone().count() < CONTENTS_MIN {
        return;
    }
    out.push_str("<nav aria-label=\"Contents\">\n<ul>\n");
    for (index, text) in headings {
        write_line(out, format_args!("<li><a href=\"#s{index}\">{}</a></li>", escaped(text)));
    }
    out.push_str("</ul>\n</nav>\n");
}

fn table(table: &Table, out: &mut String) {
    let caption = escaped(&table.caption);
    write_line(
        out,
        format_args!(
            "<div class=\"scroll\" tabindex=\"0\" role=\"group\" aria-label=\"{caption}\">\n\
             <table class=\"figures\">\n<caption>{caption}</caption>\n<thead>\n<tr>"
        ),
    );
    for name in &table.header {
        write!(out, "<th scope=\"col\">{}</th>", escaped(name)).expect(INFALLIBLE);
    }
    out.push_str("</tr>\n</thead>\n<tbody>\n");
    let column_count = table.header.len();
    if table.rows.is_empty() {
        let span = column_count.max(1);
        write_line(out, format_args!("<tr><th colspan=\"{span}\" scope=\"row\">no data</th></tr>"));
    }
    for row in &table.rows {
        out.push_str("<tr>");
        let absent = column_count.saturating_sub(row.len());
        let cells = row.iter().map(String::as_str).chain(std::iter::repeat_n("", absent));
        for (column, cell) in cells.enumerate() {
            let cell = escaped(cell);
            if column == 0 {
                write!(out, "<th scope=\"row\">{cell}</th>").expect(INFALLIBLE);
            } else {
                write!(out, "<td>{cell}</td>").expect(INFALLIBLE);
            }
        }
        out.push_str("</tr>\n");
    }
    out.push_str("</tbody>\n</table>\n</div>\n");
}

#[cfg(test)]
mod tests;
