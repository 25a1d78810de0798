//! One connection of a load thread: requests encoded into one buffer, replies found in another.
//!
//! # Invariants
//!
//! - Replies answer the requests in flight in their order.
//! - No request is pushed before the greeting is answered.
//! - Buffers are reused; they grow to the largest batch and the largest reply.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use gridkv_net::resp::{ReplyKind, ReplyScanner, ScannedReply};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with, sockopt};

use super::address::{Address, Protocol};
use super::encode::{encode, encode_set, encode_wait};
use super::memcached;
use super::tls::Stream;
use crate::workload::{CommandTemplate, Operation, Request, ValueId};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Room for replies at first.
const INPUT_BYTES: usize = 64 * 1024;

/// What a reply is to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// A command of the greeting.
    Greeting,
    /// A whole request.
    Whole,
    /// The read of a read-modify-write.
    Read,
    /// The write of a read-modify-write.
    Write,
}

/// A request on its way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sent {
    /// When it was meant to start.
    pub(super) started_at: Instant,
    /// When it was sent.
    pub(super) sent_at: Instant,
    pub(super) operation: Operation,
    pub(super) stage: Stage,
    pub(super) key_index: u64,
    pub(super) value_id: ValueId,
    pub(super) time_to_live: Option<Duration>,
}

impl Sent {
    /// Whether this part of it writes.
    fn is_write(&self) -> bool {
        match self.stage {
            Stage::Greeting | Stage::Read => false,
            Stage::Write => true,
            Stage::Whole => !matches!(
                self.operation,
                Operation::Get | Operation::Scan | Operation::Exists | Operation::Command(_)
            ),
        }
    }
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
    pub(super) stream: Stream,
    pub(super) opened_at: Instant,
    /// The server's place in the address.
    pub(super) endpoint: usize,
    /// Oldest first.
    pub(super) in_flight: VecDeque<Sent>,
    /// Whether the socket is still being connected.
    pub(super) is_connecting: bool,
    /// Whether any reply has come.
    pub(super) has_replied: bool,
    /// Whether the driver knows that there is room for requests.
    pub(super) is_ready: bool,
    /// Whether epoll watches for room in the socket.
    pub(super) awaits_room: bool,
    address: Arc<Address>,
    commands: Arc<[CommandTemplate]>,
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
    /// A connection to one of the servers, whose socket is connected.
    pub(super) fn open(
        address: &Arc<Address>,
        commands: &Arc<[CommandTemplate]>,
        endpoint: usize,
    ) -> io::Result<Self> {
        let server = address.endpoints[endpoint].address;
        let socket = TcpStream::connect_timeout(&server, CONNECT_TIMEOUT)?;
        socket.set_nonblocking(true)?;
        Self::new(socket, address, commands, endpoint)
    }

    /// A connection whose socket will be connected, or not.
    pub(super) fn start(
        address: &Arc<Address>,
        commands: &Arc<[CommandTemplate]>,
        endpoint: usize,
    ) -> io::Result<Self> {
        let server = address.endpoints[endpoint].address;
        let family = if server.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = socket_with(family, SocketType::STREAM, flags, None)?;
        let is_connecting = match connect(&socket, &server) {
            Ok(()) => false,
            Err(Errno::INPROGRESS) => true,
            Err(error) => return Err(error.into()),
        };
        let connection = Self::new(TcpStream::from(socket), address, commands, endpoint)?;
        Ok(Self { is_connecting, ..connection })
    }

    fn new(
        socket: TcpStream,
        address: &Arc<Address>,
        commands: &Arc<[CommandTemplate]>,
        endpoint: usize,
    ) -> io::Result<Self> {
        socket.set_nodelay(true)?;
        let host = &address.endpoints[endpoint].host;
        let now = Instant::now();
        let mut connection = Self {
            opened_at: now,
            stream: Stream::new(socket, address.tls.as_ref(), host)?,
            endpoint,
            in_flight: VecDeque::new(),
            is_connecting: false,
            has_replied: false,
            is_ready: false,
            awaits_room: false,
            address: Arc::clone(address),
            commands: Arc::clone(commands),
            is_front_written: false,
            output: Vec::new(),
            written: 0,
            scanner: ReplyScanner::new(),
            input: vec![0; INPUT_BYTES],
            taken: 0,
            filled: 0,
        };
        for command in &address.greeting {
            connection.output.extend_from_slice(command);
            connection.in_flight.push_back(Sent {
                started_at: now,
                sent_at: now,
                operation: Operation::Get,
                stage: Stage::Greeting,
                key_index: 0,
                value_id: ValueId::default(),
                time_to_live: None,
            });
        }
        Ok(connection)
    }

    /// Whether requests may be pushed.
    pub(super) fn is_usable(&self) -> bool {
        let is_greeted = self.in_flight.front().is_none_or(|it| it.stage != Stage::Greeting);
        !self.is_connecting && is_greeted
    }

    /// Looks how connecting ended, once epoll says that it did.
    pub(super) fn finish_connecting(&mut self) -> io::Result<()> {
        self.is_connecting = false;
        sockopt::socket_error(&self.stream.socket)?.map_err(io::Error::from)
    }

    /// Appends a request, to be sent by [`Connection::flush`].
    #[inline]
    pub(super) fn push(&mut self, request: &Request<'_>, started_at: Instant, sent_at: Instant) {
        match self.address.protocol {
            Protocol::Resp => encode(&mut self.output, request, &self.commands),
            Protocol::Memcached => memcached::encode(&mut self.output, request),
        }
        let is_first_half = request.operation == Operation::ReadModifyWrite;
        self.sent(Sent {
            started_at,
            sent_at,
            operation: request.operation,
            stage: if is_first_half { Stage::Read } else { Stage::Whole },
            key_index: request.key_index,
            value_id: request.value_id,
            time_to_live: request.time_to_live,
        });
    }

    /// Appends the write of a read-modify-write whose read was answered.
    pub(super) fn push_write(&mut self, read: &Sent, (key, value): (&[u8], &[u8])) {
        let time_to_live = read.time_to_live;
        match self.address.protocol {
            Protocol::Resp => encode_set(&mut self.output, key, value, time_to_live),
            Protocol::Memcached => {
                memcached::encode_store(&mut self.output, b"set ", key, value, time_to_live);
            }
        }
        self.sent(Sent { stage: Stage::Write, ..*read });
    }

    #[inline]
    fn sent(&mut self, sent: Sent) {
        if let Some(replicas) = self.address.wait.filter(|_| sent.is_write()) {
            encode_wait(&mut self.output, replicas);
        }
        self.in_flight.push_back(sent);
    }

    /// Says when the requests in flight, which are one batch, started.
    #[inline]
    pub(super) fn start_batch(&mut self, now: Instant) {
        for sent in &mut self.in_flight {
            sent.started_at = now;
            sent.sent_at = now;
        }
    }

    /// Whether nothing waits to be written.
    #[inline]
    pub(super) fn is_flushed(&self) -> bool {
        self.output.is_empty() && !self.stream.wants_write()
    }

    /// Writes what the socket takes. `false` when some is left.
    #[inline]
    pub(super) fn flush(&mut self) -> io::Result<bool> {
        if self.is_connecting {
            return Ok(false);
        }
        self.stream.flush()?;
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
        Ok(!self.stream.wants_write())
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
    ///
    /// # Errors
    ///
    /// What was sent instead of one.
    #[inline]
    pub(super) fn take_reply(&mut self) -> Result<Option<ScannedReply>, String> {
        loop {
            let input = &self.input[self.taken..self.filled];
            let scanned = match self.address.protocol {
                Protocol::Resp => self.scanner.scan(input).map_err(|error| error.to_string())?,
                Protocol::Memcached => memcached::scan(input)?,
            };
            let Some(mut reply) = scanned else { return Ok(None) };
            self.taken += reply.len;
            let Some(replicas) = self.address.wait else { return Ok(Some(reply)) };
            if !self.in_flight.front().is_some_and(Sent::is_write) {
                return Ok(Some(reply));
            }
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
