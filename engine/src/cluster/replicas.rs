//! Messages to and from replicas: this core's own, and those of peers.

use std::rc::Rc;

use gridkv_cluster::message::{self, Head};
use gridkv_cluster::replication::{Archive, Context, Excerpt, Output};
use gridkv_cluster::{Mutation, NodeId, ShardRange, Slot, Token, mutation};
use gridkv_storage::ReadError;
use gridkv_storage::replicated::Answer;
use gridkv_storage::sync_log::Read;
use rkyv::util::AlignedVec;
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
        cluster.now = self.world.instant();
        cluster.wall = crate::core::wall_time();
        let mut has_work = self.turn_links(&mut cluster);
        loop {
            let mut is_done = !self.begin_incoming(&mut cluster);
            if cluster.coordinator.poll_timeout().is_some_and(|at| at <= cluster.now) {
                cluster.coordinator.handle_timeout(cluster.now, cluster.wall);
            }
            while let Some(output) = cluster.coordinator.poll_output() {
                is_done = false;
                self.perform(&mut cluster, output);
            }
            while let Some((head, archive)) = cluster.local.pop_front() {
                is_done = false;
                let mutation = mutation::access(&archive).expect("it was encoded here");
                self.ask_replica(&mut cluster, Source::Own, &head, &mutation);
            }
            if is_done {
                break;
            }
            has_work = true;
        }
        cluster.links.flush(&mut self.server.ring, cluster.wall);
        self.world.cluster = Some(cluster);
        has_work
    }

    fn perform(&mut self, cluster: &mut Cluster, output: Output) {
        match output {
            Output::Send { to, head, mutation } => {
                let archive = mutation.expect("what asks is about a key");
                for node in to {
                    send(cluster, node, head, &archive);
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
                let excerpt = excerpt(cluster, from);
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
        head: &Head,
        mutation: &Mutation<'_>,
    ) {
        let token = self.world.token_key.token(mutation.key);
        if self.world.shards.core_of(token) != self.world.id {
            // A peer that knows another number of shards: it learns better with the topology.
            return;
        }
        let Some(view) = cluster.coordinator.view().cloned() else { return };
        let context = Context { view: &view, standing: cluster.standing(), wall: cluster.wall };
        let shard = self.world.shards.of(token);
        let before = shard.waiting_bytes();
        shard.ask(cluster.coordinator.clock_mut(), &context, source, head, mutation);
        self.world.waiting.replace(before, shard.waiting_bytes());
        deliver_all(cluster, shard);
    }

    /// A ticket of a store is ready. Whether a coordinator's message has waited for it.
    pub(crate) fn on_replica_ready(&mut self, wait: Wait, result: &Result<(), ReadError>) -> bool {
        let Some(cluster) = &mut self.world.cluster else { return false };
        let Some(view) = cluster.coordinator.view().cloned() else { return false };
        let context = Context { view: &view, standing: cluster.standing(), wall: cluster.wall };
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
            let keys = batch.iter().filter(|(head, _)| head.asks().is_some());
            let keys = keys.filter_map(|(_, mutation)| mutation.as_ref());
            let token_key = &self.world.token_key;
            let tokens: SmallVec<[Token; BATCH]> = keys.map(|it| token_key.token(it.key)).collect();
            self.world.shards.prefetch(&tokens);
            self.take_messages(cluster, link, from, &batch)?;
        }
    }

    fn take_messages(
        &mut self,
        cluster: &mut Cluster,
        link: LinkId,
        from: NodeId,
        messages: &[(Head, Option<Mutation<'_>>)],
    ) -> Result<(), message::DecodeError> {
        for (head, mutation) in messages {
            if head.answers().is_some() {
                let (now, wall) = (cluster.now, cluster.wall);
                cluster.coordinator.on_answer(now, wall, from, head, mutation.as_ref());
            } else if let Some(mutation) = mutation {
                self.ask_replica(cluster, Source::Link(link), head, mutation);
            } else {
                return Err(message::DecodeError);
            }
        }
        Ok(())
    }
}

/// Sends a message to a replica: this core's own, or a peer's.
fn send(cluster: &mut Cluster, node: NodeId, head: Head, archive: &Archive) {
    let Some(told) = &cluster.told else { return };
    if told.own == Some(node) {
        return cluster.local.push_back((head, Rc::clone(archive)));
    }
    let Some(member) = told.topology.by_node(node) else { return };
    let mutation = mutation::access(archive).expect("it was encoded here");
    let token = Slot::of(mutation.key).first();
    let shard = ShardRange::owner(token, member.shard_count);
    if !cluster.links.send(member, shard.0, &head, archive) {
        let (now, wall) = (cluster.now, cluster.wall);
        cluster.coordinator.on_lost(now, wall, node);
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
    let Answer { source, head, mutation } = answer;
    match source {
        Source::Link(link) => {
            cluster.links.reply(link, &head, mutation.as_ref().map_or(&[][..], |it| &it[..]));
        }
        Source::Own => {
            let Some(own) = cluster.told.as_ref().and_then(|told| told.own) else { return };
            let mutation =
                mutation.as_ref().map(|it| mutation::access(it).expect("it was encoded here"));
            let (now, wall) = (cluster.now, cluster.wall);
            cluster.coordinator.on_answer(now, wall, own, &head, mutation.as_ref());
        }
    }
}

/// A part of the sync log, from an entry on.
fn excerpt(cluster: &Cluster, from: u64) -> Excerpt {
    let mut excerpt = Excerpt { next: from, ..Excerpt::default() };
    let mut entry = AlignedVec::new();
    while excerpt.entries.len() < Excerpt::COUNT_MAX {
        match cluster.reader.read(gridkv_storage::sync_log::Sequence(excerpt.next), &mut entry) {
            Read::Entry { next, .. } => {
                excerpt.entries.push(std::mem::take(&mut entry));
                excerpt.next = next.0;
            }
            Read::End => {
                excerpt.is_last = true;
                break;
            }
            Read::Overrun { oldest } => {
                excerpt.lost_count += oldest.0 - excerpt.next;
                excerpt.next = oldest.0;
            }
        }
    }
    excerpt
}
