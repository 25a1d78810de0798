//! One connection of a load thread: requests encoded into one buffer, replies found in another.
//!
//! # Invariants
//!
//! - Replies answer the requests in flight in their order.
//! - Buffers are reused; they grow to the largest batch and the largest reply.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use gridkv_net::resp::{ReplyError, ReplyKind, ReplyScanner, ScannedReply, encode_command};

use super::manner::Manner;
use crate::workload::{Operation, Request};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// How long WAIT may take.
const WAIT_MILLIS: &[u8] = b"1000";

/// Room for replies at first.
const INPUT_BYTES: usize = 64 * 1024;

/// A request on its way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sent {
    pub(super) started_at: Instant,
    pub(super) operation: Operation,
}

/// What [`Connection::receive`] found.
pub(super) enum Received {
    /// Some bytes.
    Bytes,
    /// Nothing yet.
    Nothing,
    /// The end of the connection.
    End(String),
}

pub(super) struct Connection {
    pub(super) stream: TcpStream,
    /// Oldest first.
    pub(super) in_flight: VecDeque<Sent>,
    /// Whether any reply has come.
    pub(super) has_replied: bool,
    /// Whether the driver knows that there is room for requests.
    pub(super) is_ready: bool,
    /// Whether epoll watches for room in the socket.
    pub(super) awaits_room: bool,
    /// Writes are increments.
    increments: bool,
    /// Each write is followed by WAIT for so many replicas, whose reply is the write's.
    wait: Option<u32>,
    /// The reply to the oldest write has come; that to its WAIT has not.
    is_front_written: bool,
    output: Vec<u8>,
    written: usize,
    scanner: ReplyScanner,
    input: Vec<u8>,
    /// Bytes of `input` before this belong to replies that were taken.
    taken: usize,
    /// Bytes of `input` from this on are room.
    filled: usize,
}

impl Connection {
    pub(super) fn open(address: SocketAddr, manner: &Manner) -> io::Result<Self> {
        let mut stream = TcpStream::connect_timeout(&address, CONNECT_TIMEOUT)?;
        stream.set_nodelay(true)?;
        if let Some(level) = &manner.consistency {
            choose_level(&mut stream, level)?;
        }
        stream.set_nonblocking(true)?;
        Ok(Self {
            stream,
            in_flight: VecDeque::new(),
            has_replied: false,
            is_ready: false,
            awaits_room: false,
            increments: manner.increments,
            wait: manner.wait,
            is_front_written: false,
            output: Vec::new(),
            written: 0,
            scanner: ReplyScanner::new(),
            input: vec![0; INPUT_BYTES],
            taken: 0,
            filled: 0,
        })
    }

    /// Appends a request, to be sent by [`Connection::flush`].
    #[inline]
    pub(super) fn push(&mut self, request: Request<'_>, started_at: Instant) {
        match request.operation {
            Operation::Get => encode_command(&mut self.output, &[b"GET", request.key]),
            Operation::Set => {
                if self.increments {
                    encode_command(&mut self.output, &[b"INCR", request.key]);
                } else {
                    encode_command(&mut self.output, &[b"SET", request.key, request.value]);
                }
                if let Some(replicas) = self.wait {
                    let replicas = replicas.to_string();
                    encode_command(&mut self.output, &[b"WAIT", replicas.as_bytes(), WAIT_MILLIS]);
                }
            }
        }
        self.in_flight.push_back(Sent { started_at, operation: request.operation });
    }

    /// Says when the requests in flight, which are one batch, started.
    #[inline]
    pub(super) fn start_batch(&mut self, now: Instant) {
        for sent in &mut self.in_flight {
            sent.started_at = now;
        }
    }

    /// Whether nothing waits to be written.
    #[inline]
    pub(super) fn is_flushed(&self) -> bool {
        self.output.is_empty()
    }

    /// Writes what the socket takes. `false` when some is left.
    #[inline]
    pub(super) fn flush(&mut self) -> io::Result<bool> {
        while self.written < self.output.len() {
            match self.stream.write(&self.output[self.written..]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => self.written += written,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.output.clear();
        self.written = 0;
        Ok(true)
    }

    /// Reads once.
    #[inline]
    pub(super) fn receive(&mut self) -> Received {
        self.make_room();
        match self.stream.read(&mut self.input[self.filled..]) {
            Ok(0) => Received::End("closed by the server".to_owned()),
            Ok(read) => {
                self.filled += read;
                Received::Bytes
            }
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                ) =>
            {
                Received::Nothing
            }
            Err(error) => Received::End(error.to_string()),
        }
    }

    #[inline]
    fn make_room(&mut self) {
        if self.taken == self.filled {
            self.taken = 0;
            self.filled = 0;
        } else if self.filled > self.input.len() / 2 {
            self.input.copy_within(self.taken..self.filled, 0);
            self.filled -= self.taken;
            self.taken = 0;
            if self.filled > self.input.len() / 2 {
                self.input.resize(self.input.len() * 2, 0);
            }
        }
    }

    /// The next reply that has arrived in full.
    #[inline]
    pub(super) fn take_reply(&mut self) -> Result<Option<ScannedReply>, ReplyError> {
        loop {
            let scanned = self.scanner.scan(&self.input[self.taken..self.filled])?;
            let Some(mut reply) = scanned else { return Ok(None) };
            self.taken += reply.len;
            let front = self.in_flight.front().map(|sent| sent.operation);
            let Some(replicas) = self.wait.filter(|_| front == Some(Operation::Set)) else {
                return Ok(Some(reply));
            };
            if !self.is_front_written {
                // Where it was refused, too few replicas have it, and WAIT tells.
                self.is_front_written = true;
                continue;
            }
            self.is_front_written = false;
            let text = self.reply_text(reply);
            let count = text.strip_prefix(':').and_then(|count| count.parse::<u32>().ok());
            if count.is_none_or(|count| count < replicas) {
                reply.kind = ReplyKind::Error;
            }
            return Ok(Some(reply));
        }
    }

    /// The text of the reply that [`Connection::take_reply`] returned last.
    pub(super) fn reply_text(&self, reply: ScannedReply) -> String {
        let bytes = &self.input[self.taken - reply.len..self.taken];
        String::from_utf8_lossy(bytes).trim_start_matches('-').trim_end().to_owned()
    }
}

/// Has a GridKV server use a consistency level on the connection.
fn choose_level(stream: &mut TcpStream, level: &str) -> io::Result<()> {
    let mut command = Vec::new();
    encode_command(&mut command, &[b"GRIDKV", b"CONSISTENCY", level.as_bytes()]);
    stream.set_read_timeout(Some(CONNECT_TIMEOUT))?;
    stream.write_all(&command)?;
    let mut reply = [0; 5];
    stream.read_exact(&mut reply)?;
    if &reply == b"+OK\r\n" {
        return Ok(());
    }
    Err(io::Error::other(format!("GRIDKV CONSISTENCY {level} is refused")))
}
