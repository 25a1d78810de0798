//! A connection beside those of the load threads, for a question now and then. It blocks.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use gridkv_net::resp::{ReplyKind, ReplyScanner};

use super::address::{Address, Protocol};
use super::memcached;
use super::tls::Stream;
use crate::target::Failure;

const TIMEOUT: Duration = Duration::from_secs(2);

/// No reply to a question is longer.
const REPLY_BYTES_MAX: usize = 1 << 20;

/// A server that answers.
pub(super) struct Probe {
    stream: Stream,
    protocol: Protocol,
}

impl Probe {
    /// Connects to one of the servers, greets it, and makes sure that it answers.
    pub(super) fn open(address: &Address, endpoint: usize) -> Result<Self, Failure> {
        let server = &address.endpoints[endpoint];
        let target = || server.address.to_string();
        let no_connection = |source| Failure::Connect { target: target(), source };
        let socket = TcpStream::connect_timeout(&server.address, TIMEOUT).map_err(no_connection)?;
        socket.set_read_timeout(Some(TIMEOUT)).map_err(no_connection)?;
        socket.set_write_timeout(Some(TIMEOUT)).map_err(no_connection)?;
        let stream =
            Stream::new(socket, address.tls.as_ref(), &server.host).map_err(no_connection)?;
        let mut probe = Self { stream, protocol: address.protocol };
        let question: &[u8] = match address.protocol {
            Protocol::Resp => b"PING\r\n",
            Protocol::Memcached => b"version\r\n",
        };
        for command in address.greeting.iter().map(Vec::as_slice).chain([question]) {
            let (kind, text) = probe.ask(command).map_err(|error| match error.kind() {
                io::ErrorKind::InvalidData => {
                    Failure::Protocol { target: target(), cause: error.to_string() }
                }
                io::ErrorKind::WouldBlock => {
                    no_connection(io::Error::other("it accepts connections and does not answer"))
                }
                _ => no_connection(error),
            })?;
            if kind == ReplyKind::Error {
                let hint = if text.starts_with("NOAUTH") {
                    "; give it as in resp://USER:PASSWORD@HOST:PORT or in GRIDKV_BENCH_PASSWORD"
                } else {
                    ""
                };
                return Err(Failure::Refused { target: target(), text: format!("{text}{hint}") });
            }
        }
        Ok(probe)
    }

    /// Whether the server holds no key; `None` when it does not say.
    pub(super) fn is_empty(&mut self) -> Option<bool> {
        match self.protocol {
            Protocol::Resp => {
                let (_, text) = self.ask(b"DBSIZE\r\n").ok()?;
                text.starts_with(':').then(|| text == ":0")
            }
            Protocol::Memcached => None,
        }
    }

    /// The kind and the text of the reply to one command.
    fn ask(&mut self, command: &[u8]) -> io::Result<(ReplyKind, String)> {
        self.stream.write_all(command)?;
        let mut input = Vec::new();
        let mut scanner = ReplyScanner::new();
        let mut piece = [0; 4096];
        loop {
            let read = self.stream.read(&mut piece)?;
            if read == 0 {
                return Err(io::Error::other("it ends the connection without an answer"));
            }
            input.extend_from_slice(&piece[..read]);
            let found = match self.protocol {
                Protocol::Resp => scanner.scan(&input).map_err(|error| error.to_string()),
                Protocol::Memcached => memcached::scan(&input),
            };
            match found.map_err(|cause| io::Error::new(io::ErrorKind::InvalidData, cause))? {
                Some(reply) => {
                    let text = String::from_utf8_lossy(&input[..reply.len]);
                    return Ok((reply.kind, text.trim_start_matches('-').trim_end().to_owned()));
                }
                None if input.len() > REPLY_BYTES_MAX => {
                    return Err(io::Error::new(io::ErrorKind::InvalidData, "a reply without end"));
                }
                None => {}
            }
        }
    }
}
