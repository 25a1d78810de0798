//! Running one request: here, on the cores that own its keys, or as a task.

use std::rc::Rc;
use std::time::Instant;

use gridkv_cluster::Token;
use gridkv_net::resp::{Arguments, Reply};
use smallvec::SmallVec;

use super::{BATCH_COUNT, KEY_BYTES_TURN, KEY_COUNT_MAX, Session};
use crate::cluster::machine::Incoming;
use crate::core::World;
use crate::core::forward::{About, Waiter};
use crate::core::held::Hold;
use crate::core::parking::Parked;
use crate::core::request::{Asker, Request};
use crate::handle::Handle;
use crate::server::commands::{
    Command, Each, Failure, Flag, Part, Run, SessionCall, TaskCall, docs, text,
};
use crate::server::replies::Gather;

/// A request of at least so many bytes is timed on its own, whatever its command.
const TIMED_REQUEST_BYTES: usize = 64 << 10;

/// A command over very many keys, or very large ones, done piece by piece. It stands at the front of
/// its connection's input for as long.
pub(super) struct Piecewise {
    command: &'static Command,
    /// Where its arguments lie, and its length.
    pub(super) request: Arguments,
    pub(super) len: usize,
    /// The next argument to treat.
    next: usize,
    sequence: Option<u64>,
}

impl Piecewise {
    /// What it does, and to which key next, with its request at the front of `input`.
    pub(super) fn next<'i>(&'i self, input: &'i [u8]) -> (&'static Command, &'i [u8]) {
        (self.command, self.request.get(self.next, input))
    }
}

impl Session {
    /// Runs one request, timed if it can be slow.
    pub(super) fn begin(
        &mut self,
        world: &mut World,
        command: &'static Command,
        token: Token,
        arguments: &[&[u8]],
        request_bytes: usize,
    ) {
        let threshold = world.settings.slowlog_threshold;
        if request_bytes < TIMED_REQUEST_BYTES && command.has(Flag::Fast) {
            return self.run(world, command, token, arguments);
        }
        let before = Instant::now();
        self.run(world, command, token, arguments);
        let took = before.elapsed();
        world.turns.note_command(command.name, took);
        if threshold.is_some_and(|threshold| took > threshold) {
            let client = (self.client.address.to_string(), self.client.name.clone());
            let at = crate::core::wall_time();
            world.slowlog.note(world.settings.slowlog_len, at, took, arguments, client);
        }
    }

    fn run(
        &mut self,
        world: &mut World,
        command: &'static Command,
        token: Token,
        arguments: &[&[u8]],
    ) {
        let protocol = self.client.protocol;
        match command.run {
            Run::Container => {
                self.run_session(world, arguments, |call| docs::container(call, command));
            }
            Run::Key(_) => {
                let core = world.shards.core_of(token);
                if core == world.id {
                    self.run_local(world, command, token, arguments);
                } else {
                    let sequence = self.replies.wait(Gather::One, protocol, 1, self.is_mute());
                    self.ask(world, core, sequence, command, token, arguments);
                }
            }
            Run::Each(each) => self.run_each(world, command, each, arguments),
            Run::Session(run) => self.run_session(world, arguments, run),
            Run::Task(run, urgency) => {
                let sequence = self.replies.wait(Gather::One, protocol, 1, self.is_mute());
                self.barrier = Some(sequence);
                let call = TaskCall {
                    core: world.id,
                    arguments: arguments.iter().map(|argument| argument.to_vec()).collect(),
                    protocol,
                    client_id: self.client.id,
                    client: self.client.asker(),
                    handle: Handle::of_command(&world.node).at_level(self.client.level),
                    out: Rc::default(),
                    pieces: Rc::default(),
                };
                let waiter = Waiter { connection: self.connection, sequence };
                call.start((run, urgency), (&world.tasks, command.name), waiter);
            }
        }
    }

    fn run_session(
        &mut self,
        world: &mut World,
        arguments: &[&[u8]],
        run: impl FnOnce(&mut SessionCall<'_, '_>) -> Result<(), Failure>,
    ) {
        let out = self.replies.buffer();
        let before = out.len();
        let reply = Reply::new(out, self.client.protocol);
        let call = &mut SessionCall { client: &mut self.client, world, arguments, reply };
        if let Err(failure) = run(call) {
            let out = self.replies.buffer();
            out.truncate(before);
            Reply::new(out, self.client.protocol).error(failure);
            world.counters.errors += 1;
        }
        if self.is_mute() {
            self.replies.buffer().truncate(before);
        }
    }

    /// Runs here what is one reply, or parks it.
    #[inline]
    fn run_local(
        &mut self,
        world: &mut World,
        command: &'static Command,
        token: Token,
        arguments: &[&[u8]],
    ) {
        if world.is_replicated() {
            return self.defer(world, None, command, token, arguments);
        }
        if world.parking.holds_up(token) {
            return self.park(world, None, command, token, arguments);
        }
        let protocol = self.client.protocol;
        let out = self.replies.buffer();
        let before = out.len();
        let shard = world.shards.of(token);
        let part = command.run_part(shard, token, arguments, out, protocol);
        if part == Part::Wait {
            return self.park(world, None, command, token, arguments);
        }
        let hold = shard.take_hold();
        self.end_local(world, before, part, hold);
    }

    /// Runs here one part of the reply `sequence`, or parks it.
    fn run_local_part(
        &mut self,
        world: &mut World,
        sequence: u64,
        command: &'static Command,
        token: Token,
        arguments: &[&[u8]],
    ) {
        if world.is_replicated() {
            return self.defer(world, Some(sequence), command, token, arguments);
        }
        if world.parking.holds_up(token) {
            return self.park(world, Some(sequence), command, token, arguments);
        }
        let mut out = Vec::new();
        let shard = world.shards.of(token);
        let part = command.run_part(shard, token, arguments, &mut out, self.client.protocol);
        if part == Part::Wait {
            return self.park(world, Some(sequence), command, token, arguments);
        }
        match shard.take_hold() {
            None => {
                self.replies.deliver(sequence, part, &out);
            }
            Some(hold) => {
                let waiter = Waiter { connection: self.connection, sequence };
                world.held.part(hold, Asker::Client(waiter), part, &out);
            }
        }
    }

    /// Hands the cluster what is about a key with copies on other nodes: a part of the reply
    /// `sequence`, or a reply of its own.
    fn defer(
        &mut self,
        world: &mut World,
        sequence: Option<u64>,
        command: &'static Command,
        token: Token,
        arguments: &[&[u8]],
    ) {
        let protocol = self.client.protocol;
        let sequence =
            sequence.unwrap_or_else(|| self.replies.wait(Gather::One, protocol, 1, self.is_mute()));
        let asker = Asker::Client(Waiter { connection: self.connection, sequence });
        let request = Request::new(&world.waiting, asker, command, protocol, token, arguments);
        world.ask_cluster(Incoming::request(request, self.client.level));
    }

    /// Parks what cannot run yet: a part of the reply `sequence`, or a reply of its own.
    #[cold]
    fn park(
        &mut self,
        world: &mut World,
        sequence: Option<u64>,
        command: &'static Command,
        token: Token,
        arguments: &[&[u8]],
    ) {
        let protocol = self.client.protocol;
        let sequence =
            sequence.unwrap_or_else(|| self.replies.wait(Gather::One, protocol, 1, self.is_mute()));
        let asker = Asker::Client(Waiter { connection: self.connection, sequence });
        let request = Request::new(&world.waiting, asker, command, protocol, token, arguments);
        world.park(token, Parked::Request(request));
    }

    /// Finishes the reply of a part that ran here, from `before` on in the buffer.
    #[inline]
    fn end_local(&mut self, world: &mut World, before: usize, part: Part, hold: Option<Hold>) {
        if part == Part::Failed {
            world.counters.errors += 1;
            let out = self.replies.buffer();
            let failure = text(&out[before..]);
            out.truncate(before);
            Reply::new(out, self.client.protocol).error(failure);
        }
        if self.is_mute() {
            self.replies.buffer().truncate(before);
        }
        if let Some(hold) = hold {
            self.replies.hold(before, hold);
        }
    }

    /// A command over many keys: in one go if they are few, else piece by piece.
    fn run_each(
        &mut self,
        world: &mut World,
        command: &'static Command,
        each: Each,
        arguments: &[&[u8]],
    ) {
        let protocol = self.client.protocol;
        let key_count = command.key_indexes(arguments.len()).count();
        if matches!(each, Each::Set) && arguments.len().is_multiple_of(2) {
            return self.refuse(world, &Failure::Arity(command.name.to_owned()));
        }
        let sequence = match each {
            Each::Values => {
                if !self.is_mute() {
                    Reply::new(self.replies.buffer(), protocol).array(key_count);
                }
                None
            }
            Each::Count(_) | Each::Set => {
                let gather = if matches!(each, Each::Set) { Gather::Done } else { Gather::Count };
                let parts = u32::try_from(key_count).expect("bounded by the parser");
                Some(self.replies.wait(gather, protocol, parts, self.is_mute()))
            }
        };
        let mut next = 1;
        if key_count <= KEY_COUNT_MAX {
            next += self.treat_keys(world, command, &arguments[1..], sequence);
            if next == arguments.len() {
                return;
            }
        }
        let (request, len) = (Arguments::new(), 0);
        self.piecewise = Some(Box::new(Piecewise { command, request, len, next, sequence }));
    }

    /// Treats the next keys of a command over very many, which stands at the front of `input`. Returns
    /// its length when that was all.
    pub(super) fn advance_piecewise(&mut self, world: &mut World, input: &[u8]) -> Option<usize> {
        let mut piecewise = self.piecewise.take()?;
        let Piecewise { command, next, sequence, len, .. } = *piecewise;
        let keys = piecewise.request.len() - next;
        let count = keys.min(KEY_COUNT_MAX * command.keys.step);
        let arguments: Vec<&[u8]> =
            (next..next + count).map(|index| piecewise.request.get(index, input)).collect();
        let treated = self.treat_keys(world, command, &arguments, sequence);
        if treated == keys {
            return Some(len);
        }
        piecewise.next += treated;
        self.piecewise = Some(piecewise);
        None
    }

    /// Treats keys, each with its value if they have some: here, or on the cores that own them. Returns
    /// how many arguments it has treated: all, or as many as one turn may, or until replies must leave
    /// first.
    fn treat_keys(
        &mut self,
        world: &mut World,
        command: &'static Command,
        arguments: &[&[u8]],
        sequence: Option<u64>,
    ) -> usize {
        let protocol = self.client.protocol;
        let step = command.keys.step;
        let (mut next, mut bytes) = (0, 0);
        for keys in arguments.chunks(step * BATCH_COUNT) {
            let tokens: SmallVec<[Token; BATCH_COUNT]> =
                keys.chunks(step).map(|it| world.shards.token_key().token(it[0])).collect();
            world.shards.prefetch(&tokens);
            for (token, part) in tokens.into_iter().zip(keys.chunks(step)) {
                // The first is treated in any case: whether it may be was looked at before.
                let core = world.shards.core_of(token);
                let is_over =
                    bytes >= KEY_BYTES_TURN || world.is_full() || !world.links.has_room(core);
                if next > 0 && (is_over || (sequence.is_none() && self.is_full(world))) {
                    return next;
                }
                next += part.len();
                bytes += part.iter().map(|it| it.len()).sum::<usize>();
                if core != world.id {
                    let sequence = sequence.unwrap_or_else(|| {
                        self.replies.wait(Gather::One, protocol, 1, self.is_mute())
                    });
                    self.ask(world, core, sequence, command, token, part);
                    continue;
                }
                match sequence {
                    None => self.run_local(world, command, token, part),
                    Some(sequence) => {
                        self.run_local_part(world, sequence, command, token, part);
                    }
                }
            }
        }
        next
    }

    /// Asks another core for a part of a reply.
    fn ask(
        &mut self,
        world: &mut World,
        core: usize,
        sequence: u64,
        command: &'static Command,
        token: Token,
        arguments: &[&[u8]],
    ) {
        if world.node.ports[core].is_stopped() {
            world.counters.errors += 1;
            return self.replies.fail(sequence, &Failure::CoreStopped);
        }
        world.counters.forwarded += 1;
        let waiter = Waiter { connection: self.connection, sequence };
        let about =
            About { command, protocol: self.client.protocol, token, level: self.client.level };
        world.links.request(core, waiter, about, arguments);
    }
}
