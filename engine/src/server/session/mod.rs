//! One client's connection: bytes to requests, requests to replies.
//!
//! # Invariants
//!
//! - Requests of one connection are begun in their order, and answered in it. Those on one key run
//!   in it too.
//! - A connection whose replies are not taken is not served, and soon not read: it holds at most
//!   about [`OUTPUT_BYTES_PAUSE`], one value, and half of `output_limit` in replies of other cores.
//!   One whose single reply outgrows `output_limit` is closed; `MGET` is as many replies as keys.
//! - Bytes that are no requests end the connection, after an error that says why.

mod client;
mod run;

use std::time::Instant;

use gridkv_cluster::Token;
use gridkv_net::resp::{Arguments, Limits, Parser, Reply, Step};
use gridkv_net::ring::ConnectionId;
use smallvec::SmallVec;

pub(crate) use self::client::{Client, ReplyMode};
use self::run::Piecewise;
use super::commands::{Command, Failure, Flag, Part, Run, command_of, text};
use super::replies::Replies;
use crate::core::World;
use crate::core::held::Hold;
use crate::shard::KEY_BYTES_MAX;

/// Beyond so many bytes of unsent replies, no further request is begun.
pub(super) const OUTPUT_BYTES_PAUSE: usize = 256 << 10;

/// How many requests are parsed, hashed and prefetched before the first is executed.
const BATCH_COUNT: usize = 32;

/// How many keys, and how many bytes of them and their values, a command treats before other
/// connections have their turn.
const KEY_COUNT_MAX: usize = 256;
const KEY_BYTES_TURN: usize = 1 << 20;

/// Replies from other cores that one connection may wait for: at first, and at most.
const WINDOW_START: usize = 16;
const WINDOW_MAX: usize = 1_024;
/// What those replies together may be expected to take.
const WINDOW_BYTES: usize = 4 << 20;

/// Requests that are parsed together, with their keys' tokens.
pub(crate) struct Batch {
    requests: Vec<Parsed>,
}

struct Parsed {
    arguments: Arguments,
    /// Where the request begins in the input.
    start: usize,
    end: usize,
    command: Option<&'static Command>,
    token: Token,
}

impl Batch {
    pub(crate) fn new() -> Self {
        let parsed = || Parsed {
            arguments: Arguments::new(),
            start: 0,
            end: 0,
            command: None,
            token: Token::MIN,
        };
        Self { requests: std::iter::repeat_with(parsed).take(BATCH_COUNT).collect() }
    }
}

/// Whether requests are still served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Serving,
    /// No more requests: closed when the replies are out.
    Finishing,
    /// The replies are out and the client was told that no more follow; what it still sends is
    /// dropped until it closes, or until this time.
    Lingering(Instant),
}

/// What [`Session::advance`] stopped at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pause {
    /// All that has arrived was served.
    Input,
    /// It waits for replies to leave, or to come from other cores or tasks.
    Replies,
    /// It waits for room among all that waits in the core.
    Full,
    /// It has more to do, after others had their turn.
    Turn,
}

/// A connection.
pub(crate) struct Session {
    pub(crate) client: Client,
    pub(super) connection: ConnectionId,
    pub(super) phase: Phase,
    pub(super) input: Vec<u8>,
    pub(super) input_ended: bool,
    pub(super) is_paused: bool,
    pub(super) is_queued: bool,
    /// Bytes of the reply under way.
    pub(super) sending_bytes: usize,
    /// What the core counts for its replies.
    pub(super) counted_bytes: usize,
    /// What the kernel had not yet taken of the reply under way, when it was last looked at.
    pub(super) unsent_bytes: usize,
    /// When unsent replies last moved.
    pub(super) output_moved_at: Instant,
    pub(super) replies: Replies,
    /// What its output waits for, of which the core was told.
    pub(super) held_for: Option<Hold>,
    parser: Parser,
    piecewise: Option<Box<Piecewise>>,
    /// The reply that must be there before the next request is begun.
    barrier: Option<u64>,
    /// All replies must be there before the next request is begun.
    awaits_all: bool,
    window: usize,
}

impl Session {
    pub(super) fn new(client: Client, connection: ConnectionId, now: Instant) -> Self {
        Self {
            client,
            connection,
            phase: Phase::Serving,
            input: Vec::new(),
            input_ended: false,
            is_paused: false,
            is_queued: false,
            sending_bytes: 0,
            counted_bytes: 0,
            unsent_bytes: 0,
            output_moved_at: now,
            replies: Replies::default(),
            held_for: None,
            parser: Parser::new(),
            piecewise: None,
            barrier: None,
            awaits_all: false,
            window: WINDOW_START,
        }
    }

    /// Serves what it can of `input`, which continues what was left over before. Returns how many
    /// bytes it is done with, and why it stopped.
    pub(super) fn advance(&mut self, world: &mut World, input: &[u8]) -> (usize, Pause) {
        let mut consumed = 0;
        loop {
            if self.phase != Phase::Serving {
                return (input.len(), Pause::Input);
            }
            if self.must_wait(world) {
                self.parser = Parser::new();
                let is_unread = world.is_unread() && self.unread_bytes() > 0;
                return (consumed, if is_unread { Pause::Full } else { Pause::Replies });
            }
            if let Some(piecewise) = &self.piecewise {
                let (command, key) = piecewise.next(&input[consumed..]);
                let token = world.shards.token_key().token(key);
                if let Some(pause) = blocks(world, command, token) {
                    return (consumed, pause);
                }
                let Some(len) = self.advance_piecewise(world, &input[consumed..]) else {
                    return (consumed, Pause::Turn);
                };
                consumed += len;
                self.end_request();
                continue;
            }
            let mut batch = std::mem::replace(&mut world.batch, Batch { requests: Vec::new() });
            let (count, parsed_to, stop) = self.parse(world, input, consumed, &mut batch);
            let served = self.execute(world, input, &mut batch.requests[..count]);
            world.batch = batch;
            if let Some((served_to, pause)) = served {
                // Not all of the batch: parse the rest again when there is room.
                self.parser = Parser::new();
                consumed = served_to;
                match pause {
                    Some(pause) => return (consumed, pause),
                    None => continue,
                }
            }
            consumed = parsed_to;
            match stop {
                Stop::BatchFull => {}
                Stop::Incomplete => return (consumed, Pause::Input),
                Stop::Failed(failure) => {
                    world.counters.protocol_errors += 1;
                    self.fail_connection(&failure);
                }
            }
        }
    }

    /// Whether the next request must not be begun yet, whatever it is.
    fn must_wait(&self, world: &World) -> bool {
        self.barrier.is_some()
            || (self.awaits_all && self.replies.are_due())
            || self.is_full(world)
            || (world.is_unread() && self.unread_bytes() > 0)
    }

    /// Whether it holds so many replies, or waits for so many, that no further one may be asked for.
    fn is_full(&self, world: &World) -> bool {
        let waiting_count = self.replies.waiting_count();
        self.replies.len() >= OUTPUT_BYTES_PAUSE
            || (waiting_count > 0 && waiting_count >= self.window.min(world.reply_count_max()))
    }

    /// Parses requests from `consumed` on, hashes their keys, and fetches what they will touch.
    fn parse(
        &mut self,
        world: &World,
        input: &[u8],
        mut consumed: usize,
        batch: &mut Batch,
    ) -> (usize, usize, Stop) {
        let limits = self.limits(world);
        let token_key = world.shards.token_key();
        let mut count = 0;
        let mut tokens: SmallVec<[Token; BATCH_COUNT]> = SmallVec::new();
        let stop = loop {
            if count == BATCH_COUNT {
                break Stop::BatchFull;
            }
            let parsed = &mut batch.requests[count];
            match self.parser.parse(&input[consumed..], &limits, &mut parsed.arguments) {
                Ok(Step::Request { consumed: len }) => {
                    let request = &input[consumed..consumed + len];
                    parsed.start = consumed;
                    consumed += len;
                    parsed.end = consumed;
                    count += 1;
                    let arguments = &parsed.arguments;
                    let subcommand = || (arguments.len() > 1).then(|| arguments.get(1, request));
                    parsed.command = command_of(arguments.get(0, request), subcommand);
                    match parsed.command {
                        Some(command) if !command.is_barrier() => {
                            let argument_count = parsed.arguments.len();
                            if !command.takes(argument_count) {
                                continue;
                            }
                            let key = parsed.arguments.get(command.keys.first, request);
                            parsed.token = token_key.token(key);
                            tokens.push(parsed.token);
                            if argument_count > KEY_COUNT_MAX {
                                break Stop::BatchFull;
                            }
                        }
                        _ => break Stop::BatchFull,
                    }
                }
                Ok(Step::Empty { consumed: len }) => consumed += len,
                Ok(Step::Incomplete { .. }) => {
                    let rest = &input[consumed..];
                    break match self.oversized_key(rest) {
                        Some(failure) => Stop::Failed(failure),
                        None => Stop::Incomplete,
                    };
                }
                Err(error) => break Stop::Failed(Failure::text(format!("ERR {error}"))),
            }
        };
        if tokens.len() > 1 {
            world.shards.prefetch(&tokens);
        }
        (count, consumed, stop)
    }

    fn limits(&self, world: &World) -> Limits {
        let bulk_bytes_max = world.settings.max_value.max(KEY_BYTES_MAX);
        let limits = Limits::new(bulk_bytes_max, world.settings.input_limit);
        if self.client.is_authenticated { limits } else { limits.unauthenticated() }
    }

    /// Whether the request that is arriving announces a key longer than any key may be.
    fn oversized_key(&self, rest: &[u8]) -> Option<Failure> {
        let (index, len, name) = self.parser.pending(rest)?;
        if len <= KEY_BYTES_MAX || index == 0 {
            return None;
        }
        let command = command_of(name, || None)?;
        let is_key =
            command.key_indexes(usize::MAX / 2).take_while(|it| *it <= index).any(|it| it == index);
        is_key.then(|| {
            Failure::text(format!(
                "ERR key of {len} bytes is longer than the {KEY_BYTES_MAX} allowed"
            ))
        })
    }

    /// Executes requests. `None` when all were begun, else where the first that was not begins, and what
    /// it waits for if that is not for this connection's own replies.
    fn execute(
        &mut self,
        world: &mut World,
        input: &[u8],
        requests: &mut [Parsed],
    ) -> Option<(usize, Option<Pause>)> {
        for parsed in requests {
            if self.phase != Phase::Serving {
                return None;
            }
            if self.must_wait(world) {
                return Some((parsed.start, None));
            }
            if let Some(command) = parsed.command
                && let Some(pause) = blocks(world, command, parsed.token)
            {
                return Some((parsed.start, Some(pause)));
            }
            // A task reaches other cores on a way of its own, which could be the shorter one: what
            // was asked before it is answered first.
            self.awaits_all = matches!(parsed.command, Some(Command { run: Run::Task(..), .. }))
                && self.replies.are_due();
            if self.awaits_all {
                return Some((parsed.start, None));
            }
            let request = &input[parsed.start..parsed.end];
            let arguments: SmallVec<[&[u8]; 8]> = parsed.arguments.iter(request).collect();
            world.counters.commands += 1;
            let Some(command) = parsed.command else {
                self.refuse(world, &unknown_command(&arguments));
                continue;
            };
            self.client.last_command = command.name;
            if !self.client.is_authenticated && !command.has(Flag::NoAuth) {
                self.refuse(world, &Failure::text("NOAUTH Authentication required."));
            } else if !command.takes(arguments.len()) {
                self.refuse(world, &Failure::Arity(command.name.to_owned()));
            } else {
                self.begin(world, command, parsed.token, &arguments, request.len());
            }
            if let Some(piecewise) = &mut self.piecewise {
                // It stays where it has arrived, in front of the input, until all of it is done.
                drop(arguments);
                piecewise.request = std::mem::take(&mut parsed.arguments);
                piecewise.len = parsed.end - parsed.start;
                return Some((parsed.start, None));
            }
            self.end_request();
        }
        None
    }

    /// What follows from a request that was begun in all its parts.
    fn end_request(&mut self) {
        match self.client.reply_mode {
            ReplyMode::SkipNext => self.client.reply_mode = ReplyMode::Skip,
            ReplyMode::Skip => self.client.reply_mode = ReplyMode::On,
            ReplyMode::On | ReplyMode::Off => {}
        }
        if self.client.wants_close {
            self.phase = Phase::Finishing;
        }
    }

    /// Takes in a part of a reply from another core, a disk or a task.
    pub(super) fn deliver(&mut self, sequence: u64, part: Part, bytes: &[u8]) {
        let expected = WINDOW_BYTES / bytes.len().max(1);
        self.window = (self.window + 1).min(WINDOW_MAX).min(expected.max(1));
        if self.replies.deliver(sequence, part, bytes) && self.barrier == Some(sequence) {
            self.barrier = None;
        }
    }

    /// Takes in the whole reply of a task.
    pub(super) fn deliver_pieces(&mut self, sequence: u64, pieces: Vec<Vec<u8>>) {
        self.replies.deliver_pieces(sequence, pieces);
        if self.barrier == Some(sequence) {
            self.barrier = None;
        }
    }

    /// Gives up a reply that will not come: the core that was asked has stopped.
    pub(super) fn give_up(&mut self, sequence: u64) {
        self.replies.fail(sequence, &Failure::CoreStopped);
        if self.barrier == Some(sequence) {
            self.barrier = None;
        }
    }

    fn is_mute(&self) -> bool {
        matches!(self.client.reply_mode, ReplyMode::Off | ReplyMode::Skip)
    }

    /// Answers a request with an error.
    fn refuse(&mut self, world: &mut World, failure: &Failure) {
        world.counters.errors += 1;
        if !self.is_mute() {
            Reply::new(self.replies.buffer(), self.client.protocol).error(failure);
        }
    }

    /// Sends an error, and closes the connection after it.
    pub(super) fn fail_connection(&mut self, failure: &Failure) {
        Reply::new(self.replies.buffer(), self.client.protocol).error(failure);
        self.parser = Parser::new();
        self.input = Vec::new();
        self.piecewise = None;
        self.phase = Phase::Finishing;
    }

    /// Whether nothing is under way and nothing is left to send.
    pub(super) fn is_finished(&self) -> bool {
        !self.replies.are_due() && !self.replies.has_output() && self.piecewise.is_none()
    }

    /// Whether a command over very many keys is under way here.
    pub(super) fn is_in_pieces(&self) -> bool {
        self.piecewise.is_some()
    }

    /// Bytes of replies that the client has not taken.
    pub(super) fn unread_bytes(&self) -> usize {
        self.replies.len() + self.sending_bytes
    }

    /// Memory held for the client, in bytes.
    pub(crate) fn memory_bytes(&self) -> usize {
        size_of::<Self>() + self.input.capacity() + self.replies.memory_bytes() + self.sending_bytes
    }
}

/// What a command about a key has to wait for before it is begun: others are always served, so that a
/// core whose disk or whose neighbour is slow can still be asked how it is.
#[inline]
fn blocks(world: &World, command: &Command, token: Token) -> Option<Pause> {
    if command.keys.first == 0 {
        return None;
    }
    if world.is_full() {
        return Some(Pause::Full);
    }
    if command.is_barrier() || world.shards.layout().core_count == 1 {
        return None;
    }
    let core = world.shards.core_of(token);
    if world.links.has_room(core) { None } else { Some(Pause::Replies) }
}

enum Stop {
    BatchFull,
    Incomplete,
    Failed(Failure),
}

/// Redis' words for a command that there is not.
fn unknown_command(arguments: &[&[u8]]) -> Failure {
    let name = text(&arguments[0][..arguments[0].len().min(128)]);
    let mut shown = String::new();
    for argument in &arguments[1..] {
        if shown.len() >= 128 {
            break;
        }
        let room = 128 - shown.len();
        shown.push_str(&format!("'{}' ", text(&argument[..argument.len().min(room)])));
    }
    Failure::text(format!("ERR unknown command '{name}', with args beginning with: {shown}"))
}
