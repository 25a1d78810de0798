//! `gridkv snapshot`: has a running node take a snapshot, and prints its directory.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::ExitCode;

use clap::{Arg, ArgMatches, Command};
use gridkv_net::resp::{Value, encode_command, parse_reply};

use super::{flag, required, say};

/// A longer reply is none of a node's.
const REPLY_BYTES_MAX: usize = 64 << 10;

pub(super) fn command() -> Command {
    let name = Arg::new("name").value_name("NAME");
    let password = flag("password", "TEXT", "the node's password [default: GRIDKV_PASSWORD]");
    let listen = flag("listen", "ADDR", "where the node listens [default: 127.0.0.1:7379]");
    Command::new("snapshot")
        .about("has a running node take a snapshot, and prints its directory on the node")
        .arg(name.help("letters, digits, `-`, `_` and `.` [default: the time]"))
        .arg(listen.default_value("127.0.0.1:7379").hide_default_value(true))
        .arg(password)
}

pub(super) fn run(matches: &ArgMatches) -> ExitCode {
    match ask(matches) {
        Ok(path) => {
            say(&path);
            ExitCode::SUCCESS
        }
        Err(problem) => crate::fail(&problem),
    }
}

fn ask(matches: &ArgMatches) -> Result<String, String> {
    let address = required(matches, "listen");
    let stream = TcpStream::connect(address).map_err(|error| {
        format!("cannot connect to {address}: {error}; does the node run, and listen there?")
    })?;
    let password = matches.get_one::<String>("password").cloned();
    let password = password.or_else(|| std::env::var("GRIDKV_PASSWORD").ok());
    if let Some(password) = password.filter(|it| !it.is_empty()) {
        call(&stream, &[b"AUTH", password.as_bytes()])?;
    }
    let name = matches.get_one::<String>("name");
    let mut words: Vec<&[u8]> = vec![b"GRIDKV", b"SNAPSHOT"];
    words.extend(name.map(|name| name.as_bytes()));
    match call(&stream, &words)? {
        Value::Bulk(path) => Ok(String::from_utf8_lossy(&path).into_owned()),
        other => Err(format!("{address} has answered {other:?}: is it a GridKV node?")),
    }
}

/// Sends a command and waits for its reply: a snapshot takes its time.
fn call(mut stream: &TcpStream, words: &[&[u8]]) -> Result<Value, String> {
    let broken = |error: std::io::Error| format!("the node has closed the connection: {error}");
    let mut request = Vec::new();
    encode_command(&mut request, words);
    stream.write_all(&request).map_err(broken)?;
    let mut input = Vec::new();
    let mut chunk = [0; 4_096];
    while input.len() < REPLY_BYTES_MAX {
        let len = stream.read(&mut chunk).map_err(broken)?;
        if len == 0 {
            return Err(broken(std::io::ErrorKind::UnexpectedEof.into()));
        }
        input.extend_from_slice(&chunk[..len]);
        match parse_reply(&input) {
            Ok(None) => {}
            Ok(Some((Value::Error(text), _))) => {
                return Err(format!("the node refuses: {}", String::from_utf8_lossy(&text)));
            }
            Ok(Some((value, _))) => return Ok(value),
            Err(error) => return Err(format!("the node has answered with no reply: {error}")),
        }
    }
    Err("the node has answered with no end".to_owned())
}
