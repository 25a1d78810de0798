//! Clients' commands in a cluster: each runs on its staged shard, and what it reads and writes
//! becomes an operation of the core's coordinator.
//!
//! | the command | becomes |
//! |---|---|
//! | writes without reading | a write at the client's level |
//! | only reads | a read at the client's level |
//! | deletes | a read, and a write of the tombstone if there is something |
//! | reads and writes | a change: agreed, whatever the level |
//!
//! What a command replies is kept until its operation has ended, and replaced by an error if that
//! was not well.

use std::collections::VecDeque;

use gridkv_cluster::replication::{Computed, Level, OpId, Outcome, Why, Work};
use gridkv_cluster::{Token, mutation};

use super::forward::encode_reply;
use super::{Cluster, Told};
use crate::core::Core;
use crate::core::job::{Access, Job};
use crate::core::request::{Asker, Request};
use crate::error::Error;
use crate::server::commands::{Failure, Part};
use crate::shard::stage::{Stage, Staged};

/// What a client has asked for.
pub(crate) enum Incoming {
    Request(Box<Request>, Level),
    Job(Box<dyn Job>, Level),
}

/// Something that runs on a staged shard.
enum Runner {
    Request { request: Box<Request>, part: Part, out: Vec<u8> },
    Job(Box<dyn Job>),
}

/// What an operation is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// The record is all that is needed.
    Read,
    /// If there is something, it is deleted.
    ReadToDelete,
    /// The command has run; its reply waits.
    Write,
    Change,
}

/// A command whose operation is under way.
pub(crate) struct Pending {
    runner: Runner,
    step: Step,
    level: Level,
}

impl Runner {
    fn token(&self) -> Token {
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

    /// Whether another node can run it.
    fn can_be_handed_over(&self) -> bool {
        match self {
            // What was handed over once stays.
            Self::Request { request, .. } => !matches!(request.asker, Asker::Peer { .. }),
            Self::Job(_) => false,
        }
    }

    /// As it came.
    fn into_incoming(self, level: Level) -> Incoming {
        match self {
            Self::Request { request, .. } => Incoming::Request(request, level),
            Self::Job(job) => Incoming::Job(job, level),
        }
    }

    fn key(&self) -> Vec<u8> {
        match self {
            Self::Request { request, .. } => request.key().to_vec(),
            Self::Job(job) => job.key().to_vec(),
        }
    }
}

impl Core {
    /// Takes in again what has waited: before all that has come since.
    pub(super) fn ask_first(&mut self, waiting: VecDeque<Incoming>) {
        let asked = self.world.asked.as_mut().expect("there is a cluster");
        for incoming in waiting.into_iter().rev() {
            asked.push_front(incoming);
        }
    }

    /// Begins what clients have asked for.
    pub(super) fn begin_incoming(&mut self, cluster: &mut Cluster) -> bool {
        let mut has_begun = false;
        while let Some(incoming) = self.world.asked.as_mut().and_then(VecDeque::pop_front) {
            has_begun = true;
            let (mut runner, level) = match incoming {
                Incoming::Request(request, level) => {
                    (Runner::Request { request, part: Part::Wait, out: Vec::new() }, level)
                }
                Incoming::Job(job, level) => (Runner::Job(job), level),
            };
            let version = cluster.coordinator.clock_mut().peek(cluster.now.wall);
            let staged = self.run_staged(&mut runner, Stage::unknown(version));
            let asked_level = level;
            let (step, level) = match (&staged, runner.access()) {
                (Staged::Nothing, _) => {
                    // What waits about the key comes first, as it was asked first.
                    if cluster.forward.must_wait(runner.token(), false) {
                        cluster.forward.wait(runner.token(), runner.into_incoming(level));
                    } else {
                        self.finish_runner(cluster, runner, Ok(()));
                    }
                    continue;
                }
                (Staged::Wrote { .. }, _) => (Step::Write, level),
                (Staged::WantsRecord, Access::Read) => (Step::Read, level),
                (Staged::WantsRecord, Access::Delete) => (Step::ReadToDelete, level),
                (Staged::WantsRecord, Access::Write | Access::Local) => {
                    (Step::Change, Level::Linearizable)
                }
            };
            let work = match (&staged, step) {
                (Staged::Wrote { value, expires_at }, _) => {
                    Work::Write { value: value.as_deref(), expires_at: *expires_at }
                }
                (_, Step::Change) => Work::Change,
                _ => Work::Read,
            };
            // A deletion at `linearizable` is one agreed change.
            let is_agreed_delete = step == Step::ReadToDelete && level == Level::Linearizable;
            let (step, work) =
                if is_agreed_delete { (Step::Change, Work::Change) } else { (step, work) };
            let token = runner.token();
            let goes_away = step == Step::Change && runner.can_be_handed_over();
            let proposer = goes_away.then(|| cluster.proposer_elsewhere(token)).flatten();
            if cluster.forward.must_wait(token, proposer.is_some()) {
                cluster.forward.wait(token, runner.into_incoming(asked_level));
                continue;
            }
            if let Some(node) = proposer {
                let Runner::Request { request, .. } = runner else {
                    unreachable!("only requests are handed over")
                };
                let Err(request) = cluster.hand_over(node, request) else { continue };
                runner = Runner::Request { request, part: Part::Wait, out: Vec::new() };
            }
            cluster.forward.begin_here(token);
            self.begin(cluster, Pending { runner, step, level }, work);
        }
        has_begun
    }

    fn begin(&mut self, cluster: &mut Cluster, pending: Pending, work: Work<'_>) {
        let key = pending.runner.key();
        let token = pending.runner.token();
        let is_old = |told: &Told| told.placement.token(&key) != token;
        if self.world.node.token_keys.have_changed() && cluster.told.as_ref().is_some_and(is_old) {
            // It was asked before the node was a member.
            let why = Why::NoCluster;
            return self.finish_runner(cluster, pending.runner, Err(Error::NotApplied { why }));
        }
        let (now, level) = (cluster.now, pending.level);
        let about = (pending.runner.token(), &key[..]);
        let op = cluster.coordinator.begin(now, about, level, work);
        cluster.pending.insert(op, pending);
    }

    /// Runs a command on its staged shard.
    fn run_staged(&mut self, runner: &mut Runner, stage: Stage) -> Staged {
        let token = runner.token();
        self.world.shards.of(token).set_stage(stage);
        match runner {
            Runner::Request { request, part, out } => {
                out.clear();
                *part = request.run(self.world.shards.of(token), out);
            }
            Runner::Job(job) => job.run(&mut self.world.shards),
        }
        self.world.shards.of(token).take_stage()
    }

    /// A read has ended: the record is there.
    pub(super) fn on_record(&mut self, cluster: &mut Cluster, op: OpId, record: Option<&[u8]>) {
        let Some(mut pending) = cluster.pending.remove(&op) else { return };
        let record = record.map(|record| mutation::access(record).expect("it was encoded here"));
        let version = cluster.coordinator.clock_mut().peek(cluster.now.wall);
        let now = self.world.shards.of(pending.runner.token()).now();
        let stage = Stage::known(record.as_ref(), version, now);
        let staged = self.run_staged(&mut pending.runner, stage);
        match staged {
            Staged::Wrote { value, expires_at } => {
                assert_eq!(pending.step, Step::ReadToDelete, "what only reads does not write");
                pending.step = Step::Write;
                let work = Work::Write { value: value.as_deref(), expires_at };
                self.begin(cluster, pending, work);
            }
            Staged::Nothing | Staged::WantsRecord => {
                let token = pending.runner.token();
                self.finish_runner(cluster, pending.runner, Ok(()));
                let waiting = cluster.forward.end_here(token);
                self.ask_first(waiting);
            }
        }
    }

    /// The coordinator asks what a change makes of a record.
    pub(super) fn on_compute(
        &mut self,
        cluster: &mut Cluster,
        op: OpId,
        record: Option<&[u8]>,
        version: gridkv_cluster::Version,
    ) {
        let computed = match cluster.pending.get_mut(&op) {
            None => Computed::Keep,
            Some(pending) => {
                let record =
                    record.map(|record| mutation::access(record).expect("it was encoded here"));
                let now = self.world.shards.of(pending.runner.token()).now();
                let stage = Stage::known(record.as_ref(), version, now);
                match self.run_staged(&mut pending.runner, stage) {
                    Staged::Wrote { value, expires_at } => Computed::Put { value, expires_at },
                    Staged::Nothing | Staged::WantsRecord => Computed::Keep,
                }
            }
        };
        cluster.coordinator.computed(cluster.now, op, computed);
    }

    /// An operation has ended.
    pub(super) fn on_done(&mut self, cluster: &mut Cluster, op: OpId, outcome: Outcome) {
        let Some(pending) = cluster.pending.remove(&op) else { return };
        let result = match outcome {
            Outcome::Acknowledged { .. } => Ok(()),
            Outcome::NotApplied(why) => Err(error_of(why)),
            Outcome::Unknown(why) => Err(Error::Unknown { why }),
        };
        let token = pending.runner.token();
        self.finish_runner(cluster, pending.runner, result);
        let waiting = cluster.forward.end_here(token);
        self.ask_first(waiting);
    }

    /// Tells the client.
    fn finish_runner(&mut self, cluster: &mut Cluster, runner: Runner, result: Result<(), Error>) {
        match runner {
            Runner::Job(job) => job.finish(result),
            Runner::Request { request, part, out } => {
                let (part, out) = match result {
                    Ok(()) => (part, out),
                    Err(error) => (Part::Failed, Failure::Store(error).to_string().into_bytes()),
                };
                match request.asker {
                    Asker::Peer { link, id } => {
                        cluster.links.reply_command(link, &encode_reply(id, part, &out));
                    }
                    asker => self.answer(asker, part, &out),
                }
            }
        }
    }

    /// Tells a client of this core, or another core, what came of a part of a request.
    pub(crate) fn answer(&mut self, asker: Asker, part: Part, bytes: &[u8]) {
        let Self { world, server } = self;
        match asker {
            Asker::Client(waiter) => server.deliver(world, waiter, part, bytes),
            Asker::Core { core, id } => world.links.answer(core, id, part, bytes),
            Asker::Peer { .. } => unreachable!("its replies go through the cluster's links"),
        }
    }
}

const fn error_of(why: Why) -> Error {
    use gridkv_cluster::message::Reason;
    match why {
        Why::Refused(Reason::DiskFull) => Error::DiskFull,
        why => Error::NotApplied { why },
    }
}
