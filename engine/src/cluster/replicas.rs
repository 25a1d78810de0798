//! Messages to and from replicas: this core's own, and those of peers.

use std::rc::Rc;

use gridkv_cluster::message::{self, Head, Reason};
use gridkv_cluster::replication::{Archive, Context, Excerpt, Output, Reply};
use gridkv_cluster::{Mutation, NodeId, ShardRange, Slot, Token, mutation};
use gridkv_storage::sync_log::Read;
use rkyv::util::AlignedVec;
use smallvec::SmallVec;

use super::Cluster;
use super::link::LinkId;
use crate::core::Core;
use crate::core::parking::Parked;

/// Where an answer goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// This core's own coordinator.
    Own,
    /// A peer's, over the link.
    Link(LinkId),
}

/// A message to a replica that has to wait for its store.
pub(crate) struct Asked {
    pub(crate) source: Source,
    pub(crate) token: Token,
    head: Head,
    mutation: AlignedVec,
}

impl Asked {
    /// Its memory, in bytes.
    pub(crate) fn memory_bytes(&self) -> usize {
        size_of::<Self>() + self.mutation.len()
    }
}

/// An answer that is held until it may leave.
pub(crate) struct Answer {
    pub(crate) source: Source,
    pub(crate) head: Head,
    pub(crate) mutation: Option<AlignedVec>,
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

    /// Has one of this core's replicas answer, or parks the message.
    pub(crate) fn ask_replica(
        &mut self,
        cluster: &mut Cluster,
        source: Source,
        head: &Head,
        mutation: &Mutation<'_>,
    ) {
        let token = self.world.token_key.token(mutation.key);
        let asked = || {
            let mutation = mutation::encode(mutation);
            Parked::Message(Box::new(Asked { source, token, head: *head, mutation }))
        };
        if self.world.parking.holds_up(token) {
            return self.world.parking.queue(token, asked());
        }
        match self.try_replica(cluster, token, source, head, mutation) {
            Ok(()) => {}
            Err(Busy) => self.world.park(token, asked()),
        }
    }

    /// As [`Core::ask_replica`], for what was parked before.
    pub(crate) fn ask_again(&mut self, asked: &Asked) -> Result<(), Busy> {
        let Some(mut cluster) = self.world.cluster.take() else { return Ok(()) };
        let mutation = mutation::access(&asked.mutation).expect("it was encoded here");
        let result =
            self.try_replica(&mut cluster, asked.token, asked.source, &asked.head, &mutation);
        self.world.cluster = Some(cluster);
        result
    }

    fn try_replica(
        &mut self,
        cluster: &mut Cluster,
        token: Token,
        source: Source,
        head: &Head,
        mutation: &Mutation<'_>,
    ) -> Result<(), Busy> {
        let standing = cluster.standing();
        let Some(view) = cluster.coordinator.view().cloned() else { return Ok(()) };
        if self.world.shards.core_of(token) != self.world.id {
            // A peer that knows another number of shards: it learns better with the topology.
            return Ok(());
        }
        let context = Context { view: &view, standing, wall: cluster.wall };
        let shard = self.world.shards.of(token);
        let clock = cluster.coordinator.clock_mut();
        let (reply, hold) = shard.answer(clock, &context, head, mutation).map_err(|_| Busy)?;
        let Reply { head: Some(head), mutation, .. } = reply else { return Ok(()) };
        let answer = Answer { source, head, mutation };
        match hold {
            None => deliver(cluster, answer),
            Some(hold) => self.world.held.answer(hold, answer),
        }
        Ok(())
    }

    /// An answer may leave; as a refusal, if what it tells will never be durable.
    pub(crate) fn release_answer(&mut self, mut answer: Answer, is_lost: bool) {
        let Some(cluster) = &mut self.world.cluster else { return };
        if is_lost {
            let request = answer.head.answers().expect("an answer answers");
            let epoch = cluster.told.as_ref().map_or(0, |told| told.topology.epoch);
            answer.head = Head::Refused { request, epoch, reason: Reason::Failed };
            answer.mutation = None;
        }
        deliver(cluster, answer);
    }

    /// A message whose record cannot be read is refused.
    pub(crate) fn refuse_message(&mut self, asked: &Asked) {
        if let Some((request, _)) = asked.head.asks()
            && request != 0
        {
            let (source, mutation) = (asked.source, None);
            let head = Head::Written { request, replaced: false };
            self.release_answer(Answer { source, head, mutation }, true);
        }
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

/// The store has to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Busy;

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

/// Hands an answer to who waits for it.
fn deliver(cluster: &mut Cluster, answer: Answer) {
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
