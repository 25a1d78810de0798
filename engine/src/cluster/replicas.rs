//! Messages to and from replicas: this core's own, and those of peers.

use std::rc::Rc;

use gridkv_cluster::message::{self, Ask, Message};
use gridkv_cluster::replication::{Archive, Context, Output};
use gridkv_cluster::{Mutation, NodeId, ShardRange, Slot, Token, mutation};
use gridkv_storage::ReadError;
use gridkv_storage::replicated::Answer;
use smallvec::SmallVec;

use super::Cluster;
use super::link::LinkId;
use crate::core::Core;
use crate::core::parking::Wait;
use crate::shard::Shard;

/// Where an answer goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// This core's own coordinator.
    Own,
    /// A peer's, over the link.
    Link(LinkId),
}

impl Core {
    /// Does what the machines want done, until there is nothing more. Whether there was anything.
    pub(crate) fn turn_cluster(&mut self) -> bool {
        let Some(mut cluster) = self.world.cluster.take() else { return false };
        cluster.now = self.world.time();
        if self.world.shards.iter().all(|shard| shard.floor() >= cluster.clearing) {
            cluster.cleared = cluster.clearing;
        }
        let mut has_work = self.turn_links(&mut cluster);
        loop {
            let mut is_done = !self.begin_incoming(&mut cluster);
            if cluster.coordinator.poll_timeout().is_some_and(|at| at <= cluster.now.at) {
                cluster.coordinator.handle_timeout(cluster.now);
            }
            while let Some(output) = cluster.coordinator.poll_output() {
                is_done = false;
                self.perform(&mut cluster, output);
            }
            while let Some((ask, archive)) = cluster.local.pop_front() {
                is_done = false;
                let mutation = mutation::access(&archive).expect("it was encoded here");
                self.ask_replica(&mut cluster, Source::Own, ask, &mutation);
            }
            if is_done {
                break;
            }
            has_work = true;
        }
        cluster.links.flush(&mut self.server.ring, cluster.now.wall);
        self.world.cluster = Some(cluster);
        has_work
    }

    fn perform(&mut self, cluster: &mut Cluster, output: Output) {
        match output {
            Output::Send { to, ask, mutation } => {
                for node in to {
                    send(cluster, node, ask, &mutation);
                }
            }
            Output::Record { op, record } => {
                self.on_record(cluster, op, record.as_ref().map(|it| &it[..]));
            }
            Output::Compute { op, record, version } => {
                self.on_compute(cluster, op, record.as_ref().map(|it| &it[..]), version);
            }
            Output::Log { sequence, mutation } => {
                let given = cluster.log.push(&mutation);
                assert_eq!(given.0, sequence, "the log and the coordinator count alike");
            }
            Output::Feed { peer, from } => {
                let excerpt = cluster.reader.excerpt(from);
                cluster.coordinator.fed(cluster.now, peer, &excerpt);
            }
            Output::Done { op, outcome } => self.on_done(cluster, op, outcome),
        }
    }

    /// Has one of this core's replicas answer.
    pub(crate) fn ask_replica(
        &mut self,
        cluster: &mut Cluster,
        source: Source,
        ask: Ask,
        mutation: &Mutation<'_>,
    ) {
        let token = self.world.shards.token_key().token(mutation.key);
        if !self.world.shards.owns(token) {
            // A peer that knows another number of shards: it learns better with the topology.
            return;
        }
        let Some(view) = cluster.coordinator.view().cloned() else { return };
        let context = Context { view: &view, standing: cluster.standing(), wall: cluster.now.wall };
        let shard = self.world.shards.of(token);
        let before = shard.waiting_bytes();
        shard.ask(cluster.coordinator.clock_mut(), &context, source, ask, mutation);
        self.world.waiting.replace(before, shard.waiting_bytes());
        deliver_all(cluster, shard);
    }

    /// A ticket of a store is ready. Whether a coordinator's message has waited for it.
    pub(crate) fn on_replica_ready(&mut self, wait: Wait, result: &Result<(), ReadError>) -> bool {
        let Some(cluster) = &mut self.world.cluster else { return false };
        let Some(view) = cluster.coordinator.view().cloned() else { return false };
        let context = Context { view: &view, standing: cluster.standing(), wall: cluster.now.wall };
        let shard = self.world.shards.by_index(wait.shard);
        let before = shard.waiting_bytes();
        let is_its = shard.on_ready(cluster.coordinator.clock_mut(), &context, wait, result);
        self.world.waiting.replace(before, shard.waiting_bytes());
        deliver_all(cluster, shard);
        is_its
    }

    /// Lets answers leave that are durable. Whether there were any.
    pub(crate) fn settle_replicas(&mut self) -> bool {
        let Some(cluster) = &mut self.world.cluster else { return false };
        let mut has_answered = false;
        for shard in self.world.shards.iter_mut() {
            shard.settle();
            has_answered |= deliver_all(cluster, shard);
        }
        has_answered
    }

    /// A peer's messages have arrived.
    pub(super) fn on_messages(
        &mut self,
        cluster: &mut Cluster,
        link: LinkId,
        from: NodeId,
        body: &[u8],
    ) -> Result<(), message::DecodeError> {
        const BATCH: usize = 32;
        let mut messages = message::read(body);
        loop {
            let batch: Result<SmallVec<[_; BATCH]>, _> = messages.by_ref().take(BATCH).collect();
            let batch = batch?;
            if batch.is_empty() {
                return Ok(());
            }
            // What the messages will touch is fetched before the first one is looked at.
            let token_key = self.world.shards.token_key();
            let asked = batch.iter().filter_map(|message| match message {
                Message::Ask(_, mutation) => Some(token_key.token(mutation.key)),
                Message::Reply(..) => None,
            });
            let tokens: SmallVec<[Token; BATCH]> = asked.collect();
            self.world.shards.prefetch(&tokens);
            for message in batch {
                match message {
                    Message::Ask(ask, mutation) => {
                        self.ask_replica(cluster, Source::Link(link), ask, &mutation);
                    }
                    Message::Reply(reply, record) => {
                        cluster.coordinator.on_answer(cluster.now, from, reply, record.as_ref());
                    }
                }
            }
        }
    }
}

/// Sends a message to a replica: this core's own, or a peer's.
fn send(cluster: &mut Cluster, node: NodeId, ask: Ask, archive: &Archive) {
    let Some(told) = &cluster.told else { return };
    if told.own == Some(node) {
        return cluster.local.push_back((ask, Rc::clone(archive)));
    }
    let Some(member) = told.topology.by_node(node) else { return };
    let mutation = mutation::access(archive).expect("it was encoded here");
    let token = Slot::of(mutation.key).first();
    let shard = ShardRange::owner(token, member.shard_count);
    if !cluster.links.send(member, shard.0, ask, archive) {
        cluster.coordinator.on_lost(cluster.now, node);
    }
}

/// Hands a replica's answers to who waits for them. Whether there were any.
fn deliver_all(cluster: &mut Cluster, shard: &mut Shard) -> bool {
    let mut has_answered = false;
    while let Some(answer) = shard.poll_answer() {
        has_answered = true;
        deliver(cluster, answer);
    }
    has_answered
}

fn deliver(cluster: &mut Cluster, answer: Answer<Source>) {
    let Answer { source, reply, record } = answer;
    match source {
        Source::Link(link) => {
            cluster.links.reply(link, reply, record.as_deref().unwrap_or_default());
        }
        Source::Own => {
            let Some(own) = cluster.told.as_ref().and_then(|told| told.own) else { return };
            let record =
                record.as_ref().map(|it| mutation::access(it).expect("it was encoded here"));
            cluster.coordinator.on_answer(cluster.now, own, reply, record.as_ref());
        }
    }
}
