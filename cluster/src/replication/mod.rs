//! N copies of each key: coordinators, which do what clients ask with the help of the replicas, and
//! replicas, which hold the copies.
//!
//! ```text
//!   client -- begin --> Coordinator -- Write, Read, Prepare, Accept --> Replica -- Records (a store)
//!          <-- Done --              <-- Written, Found, Promised, .. --
//! ```
//!
//! A [`Coordinator`] lives on each core of each node, a [`Replica`] beside each shard's store.
//! Neither sends, waits or reads a clock; the driver, real or simulated, does what their outputs say
//! and holds an answer until the store's log is durable as far as the answer's [`Hold`] says.
//!
//! # One register a key
//!
//! A key's version is its ballot: a write is accepted by a replica unless it has promised, or
//! accepted, something larger. A change that depends on what it replaces asks for a promise first
//! (CASPaxos: Rystsov, "CASPaxos: Replicated State Machines without logs", 2018); a plain write does
//! not, which is why only agreed operations are linearizable among each other.
//!
//! # What is promised
//!
//! - A write is acknowledged when so many *distinct* replicas hold it as its level asks, each as
//!   durably as its log's option says.
//! - A write whose replicas are known to be too few is refused before anything is sent. One that was
//!   sent and came to no end is *unknown*, never failed.
//! - A key with an expiry ends once at `linearizable`: its coordinator judges, and nobody else.
//! - Whatever brings a mutation to a replica is merged by version: repeats and reordering are
//!   harmless.

mod account;
mod catch_up;
mod coordinator;
mod expiry;
mod op;
mod read;
mod replica;
mod round;
#[cfg(test)]
mod tests;
mod unconfirmed;
mod write;

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::model::{NodeId, Version};
use crate::token::Token;
use crate::topology::Topology;
use crate::topology::placement::Placement;

pub use crate::mutation::Archive;

pub use self::catch_up::Missed;
pub use self::coordinator::{Config, Coordinator, Excerpt, Output, Stats};
pub use self::op::{Computed, Level, OpId, Outcome, Why, Work};
pub use self::replica::{
    Answer, Applied, Busy, Context, Hold, LEASE, PROMISE_COUNT_MAX, Records, Replica, Standing,
    Unready,
};

/// What a node knows of its cluster: the agreed topology, and who answers at the moment.
#[derive(Clone, Debug)]
pub struct View {
    /// The topology.
    pub topology: Arc<Topology>,
    /// What follows from it.
    pub placement: Arc<Placement>,
    /// This node's number; `None` for one that is no member.
    pub own: Option<NodeId>,
    /// The members that can be sent to, this node included.
    pub reachable: BTreeSet<NodeId>,
    /// Those of them that did not answer of late: asked like all others, and preferred for nothing.
    pub suspected: BTreeSet<NodeId>,
    /// Whether this node's own replicas answer reads: else others are asked.
    pub serves: bool,
}

impl View {
    /// A view of a topology in which everybody is reachable.
    #[must_use]
    pub fn new(topology: Arc<Topology>, placement: Arc<Placement>, own: Option<NodeId>) -> Self {
        assert_eq!(topology.epoch(), placement.epoch());
        let reachable = topology.members.iter().map(crate::topology::Member::node).collect();
        let suspected = BTreeSet::new();
        Self { topology, placement, own, reachable, suspected, serves: true }
    }

    /// The number of the topology.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.topology.epoch
    }

    /// Whether this node keeps a copy of the token.
    #[must_use]
    pub fn is_mine(&self, token: Token) -> bool {
        self.own.is_some_and(|own| self.placement.replicas(token).contains(&own))
    }

    /// The reachable replica that comes first in the token's order: who proposes changes best. One that is
    /// suspected only where all are.
    #[must_use]
    pub fn preferred(&self, token: Token) -> Option<NodeId> {
        let replicas = self.placement.replicas(token).iter();
        let mut reachable = replicas.filter(|node| self.reachable.contains(node)).copied();
        let first = reachable.clone().next();
        reachable.find(|node| !self.suspected.contains(node)).or(first)
    }
}

/// The version of what a replica has.
const fn version_of(record: Option<&crate::Mutation<'_>>) -> Version {
    match record {
        Some(mutation) => mutation.version,
        None => Version::ZERO,
    }
}
