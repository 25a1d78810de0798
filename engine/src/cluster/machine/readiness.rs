//! Whether requests at `quorum` would be served, which is what a node that is ready promises.

use std::collections::BTreeSet;

use gridkv_cluster::replication::{Standing, Why};
use gridkv_cluster::{NodeId, Now, Slot};

use super::Machine;
use crate::core::shards::Shards;

/// Why a core does not serve all keys at `quorum`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unready {
    /// It was not told of a cluster, or is no member.
    NoMember,
    /// It does not serve its own copies: the topology is being changed.
    Frozen,
    /// It has lost them.
    Empty,
    /// They may lack what was acknowledged.
    Behind,
    /// What was removed everywhere is still to be removed here.
    Clearing,
    /// It gives out no versions, for what the clocks of the others show.
    Clocks(Why),
    /// Of so many slots fewer replicas can be reached than `quorum` asks.
    NoQuorum(u16),
}

impl Machine {
    /// Why it does not; nothing when it does.
    pub(crate) fn unready(&self, now: Now, shards: &Shards) -> Vec<Unready> {
        let Some(state) = self.state.as_ref().filter(|state| state.own.is_some()) else {
            return vec![Unready::NoMember];
        };
        let mut reasons = Vec::new();
        if self.is_behind() {
            reasons.push(Unready::Behind);
        }
        match state.standing {
            Standing::Serving | Standing::Behind => {}
            Standing::Frozen => reasons.push(Unready::Frozen),
            Standing::Empty => reasons.push(Unready::Empty),
        }
        if !self.clearing.is_done() {
            reasons.push(Unready::Clearing);
        }
        reasons.extend(self.coordinator.clock_trouble(now).map(Unready::Clocks));
        let needed = self.quorum(state.topology.replica_count);
        let heard = self.heard();
        let is_served = |slot: &Slot| {
            let replicas = state.placement.replicas(slot.first()).iter();
            replicas.filter(|node| heard.contains(node)).count() >= needed
        };
        let unserved = Slot::all().filter(|slot| shards.owns(slot.first()) && !is_served(slot));
        if let Some(count) = u16::try_from(unserved.count()).ok().filter(|count| *count > 0) {
            reasons.push(Unready::NoQuorum(count));
        }
        reasons
    }

    /// The members that answer and can be asked for their copies, and this node, unless it has lost its.
    pub(crate) fn heard(&self) -> BTreeSet<NodeId> {
        let Some(state) = &self.state else { return BTreeSet::new() };
        let is_open = |node: &&NodeId| Some(**node) != state.own && !self.unopened.contains(node);
        let others = state.alive.iter().filter(is_open).copied();
        let own = state.own.filter(|_| state.standing != Standing::Empty);
        others.chain(own).collect()
    }

    /// Replicas that reads and writes at `quorum` both find enough.
    fn quorum(&self, replica_count: u8) -> usize {
        let majority = replica_count / 2 + 1;
        let (write, read) = self.quorums;
        usize::from(write.unwrap_or(majority).max(read.unwrap_or(majority)))
    }
}
