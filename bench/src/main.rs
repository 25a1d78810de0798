//! The program `gridkv-bench`.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;
use gridkv_bench::options::Cli;
use gridkv_bench::{execute, report};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let command_line = std::env::args().collect::<Vec<_>>().join(" ");
    let command_line = gridkv_bench::options::without_password(&command_line);
    match execute(Cli::parse().command, command_line) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            report::print_failure(&failure);
            ExitCode::FAILURE
        }
    }
}
