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

use gridkv_net::resp::{ReplyError, ReplyScanner, ScannedReply, encode_command};

use crate::workload::{Operation, Request};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

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
    pub(super) fn open(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, CONNECT_TIMEOUT)?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        Ok(Self {
            stream,
            in_flight: VecDeque::new(),
            has_replied: false,
            is_ready: false,
            awaits_room: false,
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
                encode_command(&mut self.output, &[b"SET", request.key, request.value]);
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
        let scanned = self.scanner.scan(&self.input[self.taken..self.filled])?;
        if let Some(reply) = scanned {
            self.taken += reply.len;
        }
        Ok(scanned)
    }

    /// The text of the reply that [`Connection::take_reply`] returned last.
    pub(super) fn reply_text(&self, reply: ScannedReply) -> String {
        let bytes = &self.input[self.taken - reply.len..self.taken];
        String::from_utf8_lossy(bytes).trim_start_matches('-').trim_end().to_owned()
    }
}
