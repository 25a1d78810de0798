//! Does what the core's machine wants done.

use std::collections::VecDeque;

use gridkv_cluster::{NodeId, Now};
use gridkv_storage::ReadError;

use super::machine::{Machine, Output};
use crate::core::parking::Wait;
use crate::core::request::Asker;
use crate::core::shards::Shards;
use crate::core::{Core, World};
use crate::server::commands::Part;
use crate::shard::Shard;

/// What could not be sent.
#[derive(Debug, PartialEq, Eq)]
enum Undelivered {
    To(NodeId),
    Command(u64),
}

impl Core {
    /// Takes in what has happened on links, and does what is due, until there is nothing more. Whether
    /// there was anything.
    pub(crate) fn turn_cluster(&mut self) -> bool {
        if !self.world.is_replicated() {
            return false;
        }
        let now = self.world.time();
        let mut has_work = self.turn_links(now);
        // What is told to clients lets them ask more.
        while self.tell_machine(now, |machine, shards| machine.turn(now, shards)) == Some(true) {
            has_work = true;
        }
        if let Some(cluster) = &mut self.world.cluster {
            cluster.links.flush(&mut self.server.ring, now.wall);
        }
        has_work
    }

    /// Tells the machine of an event, and does what it wants done. `None` where there is none.
    pub(super) fn tell_machine<T>(
        &mut self,
        now: Now,
        tell: impl FnOnce(&mut Machine, &mut Shards) -> T,
    ) -> Option<T> {
        let machine = self.world.machine.as_mut()?;
        let told = tell(machine, &mut self.world.shards);
        self.drain_machine(now);
        Some(told)
    }

    /// A ticket of a store is ready. Whether the machine has waited for it.
    pub(crate) fn on_replica_ready(&mut self, wait: Wait, result: &Result<(), ReadError>) -> bool {
        if !self.world.is_replicated() {
            return false;
        }
        let now = self.world.time();
        let is_its =
            self.tell_machine(now, |machine, shards| machine.on_ready(now, shards, wait, result));
        is_its.unwrap_or(false)
    }

    /// Lets answers leave that are durable. Whether there were any.
    pub(crate) fn settle_replicas(&mut self) -> bool {
        let is_settled = self.world.shards.iter().all(Shard::is_settled);
        if is_settled || !self.world.is_replicated() {
            return false;
        }
        let now = self.world.time();
        self.tell_machine(now, |machine, shards| machine.settle(now, shards)).unwrap_or(false)
    }

    /// Does what the machine wants done, in order.
    fn drain_machine(&mut self, now: Now) {
        let mut undelivered = VecDeque::new();
        loop {
            while let Some(output) = self.world.machine.as_mut().and_then(|it| it.poll_output()) {
                let failed = self.perform(output);
                undelivered.extend(failed.filter(|it| !undelivered.contains(it)));
            }
            let World { machine: Some(machine), shards, .. } = &mut self.world else { return };
            match undelivered.pop_front() {
                None => return,
                Some(Undelivered::To(node)) => machine.on_lost(now, shards, node),
                Some(Undelivered::Command(id)) => machine.on_unsent(now, shards, id),
            }
        }
    }

    /// Does what the machine wants done. What it has to know of, once all is done.
    fn perform(&mut self, output: Output) -> Option<Undelivered> {
        let cluster = self.world.cluster.as_mut().expect("the node is in a cluster");
        match output {
            Output::Ask { to, ask, mutation } => {
                let is_sent = cluster.links.send(to, ask, &mutation);
                return (!is_sent).then_some(Undelivered::To(to.node));
            }
            Output::Command { to, id, entry } => {
                let is_sent = cluster.links.send_command(to, &entry);
                return (!is_sent).then_some(Undelivered::Command(id));
            }
            Output::Answer { link, reply, record } => {
                cluster.links.reply(link, reply, record.as_deref().unwrap_or_default());
            }
            Output::CommandReply { link, entry } => cluster.links.reply_command(link, &entry),
            Output::Reply { asker, part, bytes } => self.answer(asker, part, &bytes),
            Output::Finished { job, end } => job.finish(end),
        }
        None
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
