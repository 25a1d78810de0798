//! Where a report goes.

use clap::Args;

/// Where a report goes, beside the table on standard output.
#[derive(Clone, Debug, Args)]
pub struct OutputOptions {
    /// Write the report as JSON to this file; `-` for standard output, in place of the table.
    #[arg(long, value_name = "FILE")]
    pub json: Option<String>,
    /// Write the report to this file as a page for a browser, with plots; it needs nothing else.
    #[arg(long, value_name = "FILE")]
    pub html: Option<String>,
    /// Append the report to this file, as a section of Markdown.
    #[arg(long, value_name = "FILE")]
    pub markdown: Option<String>,
    /// The title of a page or a section. Default for a page: what was done to what.
    #[arg(long, value_name = "TEXT")]
    pub title: Option<String>,
    /// Write all latencies to this file, in the form that plotters of HdrHistogram read, in
    /// microseconds. A comparison writes two, with `.a` and `.b` before the file's extension.
    #[arg(long, value_name = "FILE")]
    pub hgrm: Option<String>,
}
