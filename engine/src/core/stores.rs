//! What a core does for its stores: gives them their turn, runs again what has waited for a disk, and
//! lets go of the answers that have become durable.

use gridkv_cluster::{Instant, Now, Token};
use gridkv_storage::ReadError;

use super::held::{Batch, Hold, Holds, Standing};
use super::job::{Access, Job};
use super::parking::{Parked, Wait, Waiting};
use super::{Core, World};
use crate::cluster::machine::Incoming;
use crate::error::Error;
use crate::server::commands::{Failure, Part};
use crate::shard::Shard;

impl World {
    /// The time of the present turn, for stores.
    pub(crate) fn instant(&self) -> Instant {
        let since_start = self.now.saturating_duration_since(self.node.started_at);
        Instant::ZERO + since_start
    }

    /// The time of the present turn, for machines; the wall clock's is read anew.
    pub(crate) fn time(&self) -> Now {
        Now { at: self.instant(), wall: super::wall_time() }
    }

    /// How long the core may sleep for its stores' sake; `None` for as long as it likes.
    pub(crate) fn store_sleep_max(&self) -> Option<std::time::Duration> {
        let stores = self.shards.iter().filter_map(|shard| shard.turn_due_at()).min();
        let links = self.cluster.as_ref().and_then(|cluster| cluster.due_at());
        let machine = self.machine.as_ref().and_then(|machine| machine.poll_timeout());
        let cluster = links.into_iter().chain(machine).min();
        let due_at = [stores, cluster].into_iter().flatten().min()?;
        // The clock of the loop has moved on since the turn began.
        Some(due_at.saturating_since(self.instant()))
    }

    /// Parks what is about `token`: behind what waits for it already, or for what its shard lacks.
    pub(crate) fn park(&mut self, token: Token, parked: Parked) {
        if self.parking.holds_up(token) {
            return self.parking.queue(token, parked);
        }
        let wait = self.shards.of(token).take_wait().expect("what waits says for what");
        self.parking.park(token, parked, wait);
    }

    /// Whether nobody waits for a disk.
    pub(crate) fn is_settled(&self) -> bool {
        let is_cluster_settled = self.machine.as_ref().is_none_or(|it| it.is_settled());
        let are_replicas_settled = self.shards.iter().all(Shard::is_settled);
        let is_settled = self.parking.is_empty() && self.held.is_empty();
        is_settled && are_replicas_settled && is_cluster_settled
    }
}

impl Core {
    /// Once a turn, after its commands. Whether the stores may have more to do at once.
    pub(crate) fn turn_stores(&mut self) -> bool {
        let now = self.world.instant();
        self.world.shards.turn(now);
        let has_run = self.run_ready();
        if has_run {
            // What was written goes to disk now, not at the next thing that happens.
            self.world.shards.turn(now);
            self.server.wake_stalled(&mut self.world);
        }
        let world = &self.world;
        let is_idle = world.parking.is_empty() && !world.is_replicated();
        assert!(!is_idle || world.waiting.bytes() == 0, "what does not wait is not counted");
        // Clients that were answered may have gone on with what they had sent before.
        let has_released = self.release_decided();
        has_run || has_released
    }

    /// Runs what has waited for tickets that are ready. Whether there were any.
    fn run_ready(&mut self) -> bool {
        let mut has_run = false;
        while let Some((wait, result)) = self.world.shards.poll_ready() {
            has_run = true;
            self.on_ready(wait, result);
        }
        has_run
    }

    fn on_ready(&mut self, wait: Wait, result: Result<(), ReadError>) {
        if self.on_replica_ready(wait, &result) {
            return;
        }
        let result = result.map_err(Error::from);
        let waiting = self.world.parking.take(wait);
        if let [Waiting::Queue(token)] = waiting[..] {
            self.run_queue(token, result);
            // What waits again, for room in the log perhaps, still needs what was read.
            if !self.world.parking.keep(token, wait.ticket) {
                self.world.shards.release(wait);
            }
            return;
        }
        for waiting in waiting {
            match (waiting, &result) {
                (Waiting::Queue(token), _) => self.run_queue(token, result.clone()),
                (Waiting::Job(job), Ok(())) => self.start_job(job),
                (Waiting::Job(job), Err(error)) => job.finish(Err(error.clone())),
            }
        }
        self.world.shards.release(wait);
    }

    /// Runs what is parked for `token`, in order, until one waits again. With an error the first is
    /// given that.
    fn run_queue(&mut self, token: Token, mut result: Result<(), Error>) {
        while let Some(parked) = self.world.parking.next(token) {
            if let Err(error) = std::mem::replace(&mut result, Ok(())) {
                self.fail(parked, error);
            } else if let Err((parked, wait)) = self.run_parked(parked) {
                return self.world.parking.put_back(token, parked, wait);
            }
            self.release_kept(token);
        }
        self.world.parking.end(token);
    }

    /// The first of a queue has come to its end: what was read for it may go.
    fn release_kept(&mut self, token: Token) {
        let shard = self.world.shards.of(token).index();
        for ticket in self.world.parking.take_kept(token) {
            self.world.shards.release(Wait { shard, ticket });
        }
    }

    fn fail(&mut self, parked: Parked, error: Error) {
        match parked {
            Parked::Job(job) => job.finish(Err(error)),
            Parked::Request(request) => {
                let text = Failure::Store(error).to_string();
                self.answer(request.asker, Part::Failed, text.as_bytes());
            }
        }
    }

    /// Runs what was parked. It comes back when it has to wait again.
    fn run_parked(&mut self, parked: Parked) -> Result<(), (Parked, Wait)> {
        match parked {
            Parked::Job(mut job) => {
                job.run(&mut self.world.shards);
                match self.world.shards.take_wait() {
                    Some(wait) => return Err((Parked::Job(job), wait)),
                    None => self.end_job(job),
                }
            }
            Parked::Request(request) => {
                let shard = self.world.shards.of(request.token);
                let mut out = Vec::new();
                let part = request.run(shard, &mut out);
                if part == Part::Wait {
                    let wait = shard.take_wait().expect("what waits says for what");
                    return Err((Parked::Request(request), wait));
                }
                match shard.take_hold() {
                    None => self.answer(request.asker, part, &out),
                    Some(hold) => self.world.held.part(hold, request.asker, part, &out),
                }
            }
        }
        Ok(())
    }

    /// Runs a job, or parks it. One about a key that has copies on other nodes is the cluster's.
    pub(crate) fn start_job(&mut self, mut job: Box<dyn Job>) {
        if self.world.is_replicated() && job.access() != Access::Local {
            return self.world.ask_cluster(Incoming::job(job));
        }
        let parking = &mut self.world.parking;
        let held_up = job.tokens().iter().find(|token| parking.holds_up(**token)).copied();
        if let Some(token) = held_up {
            return parking.queue(token, Parked::Job(job));
        }
        job.run(&mut self.world.shards);
        if !job.can_wait() {
            self.world.shards.forget_waits();
        }
        match self.world.shards.take_wait() {
            Some(wait) => self.world.parking.park_job(job, wait),
            None => self.end_job(job),
        }
    }

    /// Tells what came of a job that has run, once it is durable.
    fn end_job(&mut self, job: Box<dyn Job>) {
        let holds = self.world.shards.take_holds();
        self.settle_job(job, holds);
    }

    fn settle_job(&mut self, job: Box<dyn Job>, mut holds: Holds) {
        let standing = |hold: &Hold| self.world.shards.standing(*hold);
        if holds.iter().any(|hold| standing(hold) == Standing::Lost) {
            return job.finish(Err(Error::NotDurable));
        }
        holds.retain(|hold| standing(hold) == Standing::Waiting);
        if holds.is_empty() {
            return job.finish(Ok(()));
        }
        self.world.held.job(job, holds);
    }

    /// Lets go of what is durable, or never will be. Whether there was any.
    pub(crate) fn release_decided(&mut self) -> bool {
        let mut has_released = self.settle_replicas();
        if self.world.held.is_empty() {
            return has_released;
        }
        let decided = self.world.shards.decided();
        for (shard, through) in decided {
            while let Some((hold, batch)) = self.world.held.take(shard, through) {
                has_released = true;
                self.release(hold, batch);
            }
        }
        has_released
    }

    fn release(&mut self, hold: Hold, mut batch: Batch) {
        let standing = self.world.shards.standing(hold);
        assert_ne!(standing, Standing::Waiting, "it was decided");
        let lost = Failure::Store(Error::NotDurable).to_string();
        for (asker, part, bytes) in batch.parts() {
            match standing {
                Standing::Lost => self.answer(asker, Part::Failed, lost.as_bytes()),
                Standing::Durable | Standing::Waiting => self.answer(asker, part, bytes),
            }
        }
        for (job, mut holds) in batch.jobs.drain(..) {
            holds.push(hold);
            self.settle_job(job, holds);
        }
        for id in batch.connections.drain(..) {
            self.server.release(id);
        }
    }
}
