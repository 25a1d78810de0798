//! Where a report goes.

use clap::Args;

/// Where a report goes, beside the table on standard output.
#[derive(Clone, Debug, Args)]
pub struct OutputOptions {
    /// Write the report as JSON to this file; `-` for standard output, in place of the table.
    #[arg(long, value_name = "FILE")]
    pub json: Option<String>,
    /// Write all latencies to this file, in the form that plotters of HdrHistogram read, in
    /// microseconds. A comparison writes two, with `.a` and `.b` before the file's extension.
    #[arg(long, value_name = "FILE")]
    pub hgrm: Option<String>,
}
