//! `gridkv status`: what a running node sees of its cluster.

use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Arg, ArgAction, ArgMatches, Command};
use serde_json::Value;

use super::{flag, required, say};

/// A longer answer is none of a node's.
const ANSWER_BYTES_MAX: u64 = 16 << 20;
/// How long a node may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

pub(super) fn command() -> Command {
    let admin = flag("admin", "ADDR", "the node's admin address [default: 127.0.0.1:7381]");
    let json = Arg::new("json").long("json").action(ArgAction::SetTrue);
    Command::new("status")
        .about("prints the members, shards and lags that a running node sees")
        .arg(admin.default_value("127.0.0.1:7381").hide_default_value(true))
        .arg(json.help("one JSON object instead of tables"))
}

pub(super) fn run(matches: &ArgMatches) -> ExitCode {
    let address = required(matches, "admin");
    let text = match fetch(address) {
        Ok(text) => text,
        Err(problem) => return crate::fail(&problem),
    };
    if matches.get_flag("json") {
        say(text.trim_end());
        return ExitCode::SUCCESS;
    }
    match serde_json::from_str::<Value>(&text) {
        Ok(status) => {
            say(table(&status).trim_end());
            ExitCode::SUCCESS
        }
        Err(error) => crate::fail(&format!("{address} has answered with no status: {error}")),
    }
}

/// What the node's admin port says.
fn fetch(address: &str) -> Result<String, String> {
    let unreachable = |error: std::io::Error| {
        format!("cannot ask {address}: {error}; does the node run, with that admin address?")
    };
    let mut stream = TcpStream::connect(address).map_err(unreachable)?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(unreachable)?;
    stream
        .write_all(b"GET /status HTTP/1.1\r\nHost: gridkv\r\nConnection: close\r\n\r\n")
        .map_err(unreachable)?;
    let mut answer = String::new();
    let mut bounded = (&mut stream).take(ANSWER_BYTES_MAX);
    bounded.read_to_string(&mut answer).map_err(unreachable)?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((answer.as_str(), ""));
    if head.starts_with("HTTP/1.1 200") {
        Ok(body.to_owned())
    } else {
        let reason = if body.is_empty() { head.lines().next().unwrap_or_default() } else { body };
        Err(format!("{address} does not tell: {}", reason.trim_end()))
    }
}

/// The status as tables for people.
fn table(status: &Value) -> String {
    let mut out = String::new();
    let text = |value: &Value| match value {
        Value::String(text) => text.clone(),
        Value::Null => "-".to_owned(),
        other => other.to_string(),
    };
    let rows = |name: &str| status[name].as_array().cloned().unwrap_or_default();
    // Writing into a string does not fail.
    let _ = writeln!(
        out,
        "node {}  cluster {}  epoch {}  replicas {}  {}",
        text(&status["node"]),
        text(&status["cluster"]),
        text(&status["epoch"]),
        text(&status["replicas"]),
        text(&status["standing"]),
    );
    if let Some(why) = status["refused"].as_str() {
        let _ = writeln!(out, "not let into the cluster: {why}");
    }
    let members = rows("members").into_iter().map(|member| {
        let share = member["share"].as_f64().unwrap_or(0.0) * 100.0;
        let mark = if member["is_self"] == Value::Bool(true) { "*" } else { "" };
        let skew = member["clock_skew_ms"].as_i64();
        vec![
            format!("{}{mark}", text(&member["id"])),
            text(&member["state"]),
            text(&member["address"]),
            text(&member["clients"]),
            text(&member["zone"]),
            format!("{share:.1}%"),
            text(&member["incarnation"]),
            skew.map_or_else(|| "-".to_owned(), |skew| format!("{skew} ms")),
        ]
    });
    let heads = ["MEMBER", "STATE", "ADDRESS", "CLIENTS", "ZONE", "KEYS", "INCARNATION", "CLOCK"];
    write_table(&mut out, &heads, &members.collect::<Vec<_>>());
    let shards = rows("shards").into_iter().map(|shard| {
        ["shard", "core", "keys", "tombstones", "takes_writes"]
            .iter()
            .map(|name| text(&shard[*name]))
            .collect()
    });
    let heads = ["SHARD", "CORE", "COPIES", "TOMBSTONES", "TAKES WRITES"];
    write_table(&mut out, &heads, &shards.collect::<Vec<_>>());
    let lag = rows("lag")
        .into_iter()
        .map(|lag| ["id", "core", "writes", "lost"].iter().map(|name| text(&lag[*name])).collect());
    let lag: Vec<Vec<String>> = lag.collect();
    let unknown: Vec<String> = rows("lag_unknown").iter().map(text).collect();
    if !unknown.is_empty() {
        let names = unknown.join(", ");
        let _ = writeln!(out, "what {names} may have missed before this node's start is unknown");
    }
    if !lag.is_empty() {
        write_table(&mut out, &["BEHIND", "CORE", "WRITES", "LOST"], &lag);
    }
    out
}

/// Columns as wide as what stands in them.
fn write_table(out: &mut String, heads: &[&str], rows: &[Vec<String>]) {
    let mut widths: Vec<usize> = heads.iter().map(|head| head.len()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.len());
        }
    }
    let heads: Vec<String> = heads.iter().map(|head| (*head).to_owned()).collect();
    out.push('\n');
    for row in std::iter::once(&heads).chain(rows) {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        let line = cells.collect::<Vec<_>>().join("  ");
        let _ = writeln!(out, "{}", line.trim_end());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_longest_cell() {
        let mut out = String::new();
        let rows = [vec!["a".to_owned(), "bb".to_owned()], vec!["cccc".to_owned(), "d".to_owned()]];
        write_table(&mut out, &["X", "YYY"], &rows);
        assert_eq!(out, "\nX     YYY\na     bb\ncccc  d\n");
    }
}
