//! One connection to a peer: dialled or accepted, shaken hands on, then open.
//!
//! ```text
//!   dialled:   Waiting -> Connecting -> Shaking -> Open -> Waiting ...
//!   accepted:                           Shaking -> Open -> gone
//! ```

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use gridkv_cluster::Instant;
use gridkv_cluster::identity::Handshake;
use gridkv_cluster::model::MemberId;
use gridkv_cluster::wire::body;
use gridkv_cluster::wire::frame::{FrameReader, FrameWriter, Kind, Seal};
use gridkv_cluster::wire::message::{self, Ask, Reply};
use gridkv_net::ring::ConnectionId;

use super::batches::Batches;

/// How long connecting, or shaking hands, may take.
pub(super) const PATIENCE: Duration = Duration::from_secs(3);
/// Pauses between attempts: the first, and the longest.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// Beyond so many bytes that wait for one peer, it is given up.
pub(super) const WAITING_BYTES_MAX: usize = 64 << 20;

/// Where a link goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Target {
    pub(crate) address: SocketAddr,
    /// A shard's number in the peer, or [`gridkv_cluster::wire::preamble::CONTROL`].
    pub(crate) shard: u16,
}

pub(super) enum State {
    /// To be dialled at this time.
    Waiting(Instant),
    Connecting(Arc<OwnedFd>, Instant),
    Shaking(ConnectionId, Box<Handshake>, Instant),
    Open(ConnectionId),
}

/// A link.
pub(super) struct Link {
    /// Where it was dialled to; `None` for one that was accepted.
    pub(super) target: Option<Target>,
    /// The shard that it leads to, at whichever end, or `CONTROL`.
    pub(super) shard: u16,
    /// The other end, for the log.
    pub(super) address: SocketAddr,
    pub(super) state: State,
    pub(super) reader: FrameReader,
    pub(super) writer: FrameWriter,
    /// Messages that wait to be sent.
    messages: Batches,
    /// Commands for the peer, and replies to its own, that wait.
    commands: Batches,
    command_replies: Batches,
    /// Other frames that wait.
    pub(super) others: Vec<(Kind, Vec<u8>)>,
    /// The end of the handshake, still to be sent; after it frames are sealed in this way.
    pub(super) last_of_handshake: Option<Vec<u8>>,
    pub(super) seal_after_handshake: Option<Seal>,
    /// How frames of the other end are checked after the handshake.
    pub(super) receive_seal: Seal,
    /// Who the other end has proven to be.
    pub(super) peer: Option<MemberId>,
    /// Attempts in a row that have failed.
    pub(super) failures: u32,
}

impl Link {
    pub(super) fn dialled(target: Target, now: Instant) -> Self {
        Self::new(Some(target), target.address, target.shard, State::Waiting(now))
    }

    pub(super) fn accepted(address: SocketAddr, shard: u16, state: State) -> Self {
        Self::new(None, address, shard, state)
    }

    fn new(target: Option<Target>, address: SocketAddr, shard: u16, state: State) -> Self {
        Self {
            target,
            shard,
            address,
            state,
            reader: FrameReader::default(),
            writer: FrameWriter::default(),
            messages: Batches::of_messages(),
            commands: Batches::of_bodies(body::ASK),
            command_replies: Batches::of_bodies(body::ANSWER),
            others: Vec::new(),
            last_of_handshake: None,
            seal_after_handshake: None,
            receive_seal: Seal::Checksum,
            peer: None,
            failures: 0,
        }
    }

    pub(super) fn connection(&self) -> Option<ConnectionId> {
        match self.state {
            State::Shaking(connection, ..) | State::Open(connection) => Some(connection),
            State::Waiting(_) | State::Connecting(..) => None,
        }
    }

    pub(super) fn is_open(&self) -> bool {
        matches!(self.state, State::Open(_))
    }

    /// Whether what is given to it would probably not arrive.
    pub(super) fn is_failing(&self) -> bool {
        self.failures > 0 && !self.is_open()
    }

    pub(super) fn waiting_bytes(&self) -> usize {
        let commands = self.commands.waiting_bytes() + self.command_replies.waiting_bytes();
        self.messages.waiting_bytes()
            + commands
            + self.others.iter().map(|(_, body)| body.len()).sum::<usize>()
    }

    /// Gives it what is asked of a replica; `false` for what fits into no frame.
    pub(super) fn push_ask(&mut self, ask: Ask, archive: &[u8]) -> bool {
        let Some(frame) = self.messages.frame_for(archive.len()) else { return false };
        message::push_ask(ask, archive, frame);
        true
    }

    /// Gives it what a replica replies; `false` for what fits into no frame.
    pub(super) fn push_reply(&mut self, reply: Reply, record: &[u8]) -> bool {
        let Some(frame) = self.messages.frame_for(record.len()) else { return false };
        message::push_reply(reply, record, frame);
        true
    }

    /// Gives it a command, or the reply to one; `false` for what fits into no frame.
    pub(super) fn push_command(&mut self, entry: &[u8], is_reply: bool) -> bool {
        let batches = if is_reply { &mut self.command_replies } else { &mut self.commands };
        let Some(frame) = batches.frame_for(entry.len()) else { return false };
        frame.extend_from_slice(entry);
        true
    }

    /// When something is due about it.
    pub(super) fn due_at(&self) -> Option<Instant> {
        match self.state {
            State::Waiting(at) | State::Connecting(_, at) | State::Shaking(_, _, at) => Some(at),
            State::Open(_) => None,
        }
    }

    /// It has failed, or was lost: nothing that waited will arrive. A dialled one is dialled again.
    pub(super) fn fail(&mut self, now: Instant) {
        let pause = PAUSE_MIN * (1 << self.failures.min(5));
        self.failures += 1;
        self.state = State::Waiting(now + pause.min(PAUSE_MAX));
        self.reader = FrameReader::default();
        self.writer = FrameWriter::default();
        self.messages = Batches::of_messages();
        self.commands = Batches::of_bodies(body::ASK);
        self.command_replies = Batches::of_bodies(body::ANSWER);
        self.others.clear();
        self.last_of_handshake = None;
        self.seal_after_handshake = None;
        self.peer = None;
    }

    /// Writes what the handshake has to say; the rest waits until it is over.
    pub(super) fn write_handshake(&mut self, wall_ms: u64, out: &mut Vec<u8>) {
        let others = std::mem::take(&mut self.others);
        let (said, rest) = others.into_iter().partition(|(kind, _)| *kind == Kind::Handshake);
        self.others = rest;
        let said: Vec<(Kind, Vec<u8>)> = said;
        let last = self.last_of_handshake.take();
        for body in said.into_iter().map(|(_, body)| body).chain(last) {
            body::write(&mut self.writer, Kind::Handshake, wall_ms, &body, out);
        }
        if let Some(seal) = self.seal_after_handshake.take() {
            self.writer.set_seal(seal);
        }
    }

    /// What is still to be said in a handshake that has failed: why.
    pub(super) fn take_last_words(&mut self) -> Vec<u8> {
        let mut out = Vec::new();
        if matches!(self.state, State::Shaking(..)) {
            self.write_handshake(0, &mut out);
        }
        out
    }

    /// Writes all that waits. What is most is not copied: the first frame of messages is what is sent.
    pub(super) fn write_frames(&mut self, wall_ms: u64, out: &mut Vec<u8>, count: &mut u64) {
        for (kind, body) in std::mem::take(&mut self.others) {
            body::write(&mut self.writer, kind, wall_ms, &body, out);
            *count += 1;
        }
        for mut frame in self.messages.take() {
            self.writer.finish(Kind::Messages, wall_ms, 0, &mut frame);
            append(out, frame);
            *count += 1;
        }
        for mut frame in self.commands.take().chain(self.command_replies.take()) {
            body::finish(&mut self.writer, Kind::Command, wall_ms, 0, &mut frame);
            append(out, frame);
            *count += 1;
        }
    }
}

fn append(out: &mut Vec<u8>, frame: Vec<u8>) {
    if out.is_empty() {
        *out = frame;
    } else {
        out.extend_from_slice(&frame);
    }
}
