//! Clients' commands in a cluster: each runs on its staged shard, and what it reads and writes
//! becomes an operation of the core's coordinator.
//!
//! | the command | becomes |
//! |---|---|
//! | writes without reading | a write at the client's level |
//! | only reads | a read at the client's level |
//! | reads and writes, or deletes | a change: agreed, whatever the level |
//!
//! A deletion tells whether there was something, so that of two only one has deleted it: that takes
//! agreement.
//!
//! What a command replies is kept until its operation has ended, and replaced by an error if that
//! was not well.

use std::collections::VecDeque;

use gridkv_cluster::replication::{Archive, Computed, Level, OpId, Outcome, Why, Work};
use gridkv_cluster::wire::message::Reason;
use gridkv_cluster::{Now, Token, Version, mutation};

use super::{Machine, Output};
use crate::core::job::{Access, Job};
use crate::core::request::{Asker, Request};
use crate::core::shards::Shards;
use crate::error::Error;
use crate::server::commands::{Failure, Part};
use crate::shard::stage::{Stage, Staged};

/// What was asked, and was not begun.
pub(crate) struct Incoming {
    pub(super) runner: Runner,
    pub(super) level: Level,
    /// It is done here, whoever would do it better.
    pub(super) stays: bool,
}

/// Something that runs on a staged shard.
pub(super) enum Runner {
    Request { request: Box<Request>, part: Part, out: Vec<u8> },
    Job(Box<dyn Job>),
}

/// What an operation is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// The record is all that is needed.
    Read,
    /// The command has run; its reply waits.
    Write,
    Change,
}

/// A command whose operation is under way.
pub(super) struct Pending {
    runner: Runner,
    step: Step,
    level: Level,
}

impl Incoming {
    /// A part of a request of a client, of this core or another.
    pub(crate) fn request(request: Request, level: Level) -> Self {
        Self { runner: Runner::of(Box::new(request)), level, stays: false }
    }

    /// What another node has handed over.
    pub(super) fn handed(request: Request) -> Self {
        Self { runner: Runner::of(Box::new(request)), level: Level::Linearizable, stays: true }
    }

    /// What another node could not be handed.
    pub(super) fn unsent(request: Box<Request>) -> Self {
        Self { runner: Runner::of(request), level: Level::Linearizable, stays: true }
    }

    /// A call of the API.
    pub(crate) fn job(job: Box<dyn Job>) -> Self {
        let level = job.level();
        Self { runner: Runner::Job(job), level, stays: true }
    }
}

impl Runner {
    fn of(request: Box<Request>) -> Self {
        Self::Request { request, part: Part::Wait, out: Vec::new() }
    }

    pub(super) fn token(&self) -> Token {
        match self {
            Self::Request { request, .. } => request.token,
            Self::Job(job) => job.tokens()[0],
        }
    }

    fn access(&self) -> Access {
        match self {
            Self::Request { request, .. } => request.access(),
            Self::Job(job) => job.access(),
        }
    }

    fn key(&self) -> &[u8] {
        match self {
            Self::Request { request, .. } => request.key(),
            Self::Job(job) => job.key(),
        }
    }

    /// Runs it on its shard, staged.
    fn run(&mut self, shards: &mut Shards, stage: Stage) -> Staged {
        let token = self.token();
        shards.of(token).set_stage(stage);
        match self {
            Self::Request { request, part, out } => {
                out.clear();
                *part = request.run(shards.of(token), out);
            }
            Self::Job(job) => job.run(shards),
        }
        shards.of(token).take_stage()
    }
}

impl Machine {
    /// Takes in again what has waited: before all that has come since.
    pub(super) fn ask_first(&mut self, waiting: VecDeque<Incoming>) {
        for incoming in waiting.into_iter().rev() {
            self.incoming.push_front(incoming);
        }
    }

    /// Begins what a client has asked for.
    pub(super) fn begin(&mut self, now: Now, shards: &mut Shards, incoming: Incoming) {
        let Incoming { mut runner, level, stays } = incoming;
        let token = runner.token();
        let version = self.coordinator.clock_mut().peek(now.wall);
        let staged = runner.run(shards, Stage::unknown(version));
        let step = match (&staged, runner.access()) {
            (Staged::Nothing, _) => {
                // What waits about the key comes first, as it was asked first.
                if self.handing.must_wait(token, false) {
                    self.handing.wait(token, Incoming { runner, level, stays });
                } else {
                    self.finish(runner, Ok(()), Version::ZERO);
                }
                return;
            }
            (Staged::Wrote(_), _) => Step::Write,
            (Staged::WantsRecord, Access::Read) => Step::Read,
            (Staged::WantsRecord, Access::Write | Access::Local) => Step::Change,
        };
        let proposer = if step == Step::Change && !stays { self.proposer(token) } else { None };
        if self.handing.must_wait(token, proposer.is_some()) {
            return self.handing.wait(token, Incoming { runner, level, stays });
        }
        if let Some(to) = proposer {
            let Runner::Request { request, .. } = runner else { unreachable!("a job stays") };
            return self.hand_over(now, to, request);
        }
        self.handing.begin_here(token);
        let work = match staged {
            Staged::Wrote(draft) => Work::Write(draft),
            _ if step == Step::Change => Work::Change,
            _ => Work::Read,
        };
        let level = if step == Step::Change { Level::Linearizable } else { level };
        self.begin_op(now, shards, Pending { runner, step, level }, work);
    }

    fn begin_op(&mut self, now: Now, shards: &Shards, pending: Pending, work: Work) {
        let (key, token) = (pending.runner.key(), pending.runner.token());
        if shards.was_rekeyed() && shards.token_key().token(key) != token {
            // It was asked before the node was a member.
            let error = Error::NotApplied { why: Why::NoCluster };
            return self.end(pending.runner, Err(error), Version::ZERO);
        }
        let op = self.coordinator.begin(now, (token, key), pending.level, work);
        self.pending.insert(op, pending);
    }

    /// A read has ended: the record is there.
    pub(super) fn on_record(
        &mut self,
        now: Now,
        shards: &mut Shards,
        op: OpId,
        record: Option<Archive>,
    ) {
        let mut pending = self.pending.remove(&op).expect("an operation ends once");
        assert_eq!(pending.step, Step::Read, "nobody else asks for a record");
        let found = record.as_ref().map_or(Version::ZERO, |record| {
            mutation::access(record).expect("it was encoded here").version
        });
        let version = self.coordinator.clock_mut().peek(now.wall);
        let staged = pending.runner.run(shards, Stage::known(record, version));
        assert!(!matches!(staged, Staged::Wrote(_)), "what only reads does not write");
        self.end(pending.runner, Ok(()), found);
    }

    /// The coordinator asks what a change makes of a record.
    pub(super) fn on_compute(
        &mut self,
        now: Now,
        shards: &mut Shards,
        op: OpId,
        record: Option<Archive>,
        version: Version,
    ) {
        let computed = match self.pending.get_mut(&op) {
            // Its time was up meanwhile.
            None => Computed::Keep,
            Some(pending) => match pending.runner.run(shards, Stage::known(record, version)) {
                Staged::Wrote(draft) => Computed::Put(draft),
                Staged::Nothing | Staged::WantsRecord => Computed::Keep,
            },
        };
        self.coordinator.computed(now, op, computed);
    }

    /// An operation has ended.
    pub(super) fn on_done(&mut self, op: OpId, outcome: Outcome) {
        let pending = self.pending.remove(&op).expect("an operation ends once");
        let (result, version) = match outcome {
            Outcome::Acknowledged { version, .. } => (Ok(()), version),
            Outcome::NotApplied(Why::Refused(Reason::DiskFull)) => {
                (Err(Error::DiskFull), Version::ZERO)
            }
            Outcome::NotApplied(why) => (Err(Error::NotApplied { why }), Version::ZERO),
            Outcome::Unknown(why) => (Err(Error::Unknown { why }), Version::ZERO),
        };
        self.end(pending.runner, result, version);
    }

    /// What was begun here has ended: tells the client, and goes on with what has waited for it.
    fn end(&mut self, runner: Runner, result: Result<(), Error>, version: Version) {
        let waiting = self.handing.end_here(runner.token());
        self.finish(runner, result, version);
        self.ask_first(waiting);
    }

    /// Tells the client.
    fn finish(&mut self, runner: Runner, result: Result<(), Error>, version: Version) {
        match runner {
            Runner::Job(mut job) => {
                job.told(version);
                self.outputs.push_back(Output::Finished { job, end: result });
            }
            Runner::Request { request, part, out } => match result {
                Ok(()) => self.reply(request.asker, part, out),
                Err(error) => self.fail(request.asker, error),
            },
        }
    }

    /// Tells who has asked what came of it.
    pub(super) fn reply(&mut self, asker: Asker, part: Part, bytes: Vec<u8>) {
        self.outputs.push_back(match asker {
            Asker::Peer { link, id } => {
                Output::CommandReply { link, entry: super::handing::encode_reply(id, part, &bytes) }
            }
            Asker::Client(_) | Asker::Core { .. } => Output::Reply { asker, part, bytes },
        });
    }

    pub(super) fn fail(&mut self, asker: Asker, error: Error) {
        self.reply(asker, Part::Failed, Failure::Store(error).to_string().into_bytes());
    }
}
