//! What the program does beside running a node: `check`, `snapshot`, `restore`, `keygen`, `status`.
//!
//! Each says what is wrong in one line, with what to do about it, and ends with a status that
//! scripts can tell apart.

mod check;
mod keygen;
mod restore;
mod snapshot;
mod status;

use std::io::Write as _;
use std::process::ExitCode;

use clap::{Arg, ArgMatches, Command};

/// The subcommands, for the command line.
pub(crate) fn commands() -> [Command; 5] {
    [
        check::command(),
        snapshot::command(),
        restore::command(),
        status::command(),
        keygen::command(),
    ]
}

/// Runs the subcommand of that name, if it is one of these.
pub(crate) fn run(name: &str, matches: &ArgMatches) -> Option<ExitCode> {
    match name {
        "check" => Some(check::run(matches)),
        "snapshot" => Some(snapshot::run(matches)),
        "status" => Some(status::run(matches)),
        "restore" => Some(restore::run(matches)),
        "keygen" => Some(keygen::run(matches)),
        _ => None,
    }
}

/// A flag that takes a value.
fn flag(name: &'static str, value: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).value_name(value).help(help)
}

/// The value of a flag that is required.
fn required<'a>(matches: &'a ArgMatches, name: &str) -> &'a str {
    matches.get_one::<String>(name).map(String::as_str).expect("clap has asked for it")
}

/// One line on standard output. A reader that has gone wants no more.
fn say(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// An error with its causes, in one line.
fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

/// A number of bytes for people.
fn human(bytes: u64) -> String {
    bytesize::ByteSize::b(bytes).display().iec().to_string().replace(' ', "")
}
