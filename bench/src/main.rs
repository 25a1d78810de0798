//! The program `gridkv-bench`.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;
use gridkv_bench::options::{Cli, without_password};
use gridkv_bench::{execute, report};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The exit status of a command line that cannot be read, as is usual.
const USAGE_STATUS: u8 = 2;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return refuse(&error),
    };
    match execute(cli.command, command_line()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            report::print_failure(&failure);
            ExitCode::FAILURE
        }
    }
}

/// The command line as it can be given to a shell again, but for passwords.
fn command_line() -> String {
    let words: Vec<String> =
        std::env::args_os().map(|word| without_password(&word.to_string_lossy())).collect();
    shlex::try_join(words.iter().map(String::as_str)).unwrap_or_else(|_| words.join(" "))
}

/// Help, if that was asked for; otherwise what is wrong, on one line.
fn refuse(error: &clap::Error) -> ExitCode {
    let asked = [
        ErrorKind::DisplayHelp,
        ErrorKind::DisplayVersion,
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand,
    ];
    if asked.contains(&error.kind()) {
        // Nobody is left to tell when standard output is closed.
        let _ = error.print();
        return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(USAGE_STATUS));
    }
    let text = error.to_string();
    let what = text.split("\n\n").next().unwrap_or_default();
    let words: Vec<&str> = what.split_whitespace().collect();
    report::print_failure(words.join(" ").trim_start_matches("error: "));
    ExitCode::from(USAGE_STATUS)
}
