//! A node's part in its cluster: what drives the machines of `gridkv-cluster`.
//!
//! ```text
//!   core 0                                         every core
//!   SWIM, agreement <-- UDP, control links         coordinator, replicas <-- links to peers' shards
//!        |                                               ^
//!        +------------- what holds now ------------------+
//! ```
//!
//! - [`commands`]: clients' commands become operations of the coordinator
//! - [`forward`]: changes that another node proposes better
//! - [`replicas`]: messages become deeds of the shards, and answers
//! - [`links`], [`link`]: connections to peers
//! - [`control`]: who is a member, and who answers
//! - [`calls`]: what one node has another do that is neither
//!
//! # Invariants
//!
//! - The one place that turns the outputs of the machines into deeds is [`Core::turn_cluster`], once
//!   or more a turn. Nothing in here waits.
//! - An answer to a coordinator leaves when the log is durable as far as it says.

pub(crate) mod calls;
pub(crate) mod commands;
pub(crate) mod control;
pub(crate) mod forward;
pub mod identity_files;
pub(crate) mod link;
pub(crate) mod links;
pub(crate) mod replicas;
pub(crate) mod start;
pub(crate) mod status;
pub(crate) mod traffic;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use gridkv_cluster::message::Ask;
use gridkv_cluster::replication::{Archive, Config, Coordinator, OpId, Standing, View};
use gridkv_cluster::{HybridClock, Instant, Now, Version, WallTime};
use gridkv_storage::sync_log::{SyncLog, SyncReader, sync_log};

use self::commands::Pending;
use self::control::Control;
use self::forward::Forward;
use self::links::Links;
pub(crate) use self::traffic::LinkEvent;
use crate::config::ClusterConfig;

/// Operations under way on one core, at most.
const OP_COUNT_MAX: usize = 64 << 10;

/// What holds now, as core 0 tells the others.
pub(crate) type Told = gridkv_cluster::member::State;

/// One core's part.
pub(crate) struct Cluster {
    pub(crate) coordinator: Coordinator,
    pub(crate) told: Option<Told>,
    pub(crate) links: Links,
    /// On the core that speaks for the node.
    pub(crate) control: Option<Box<Control>>,
    pending: BTreeMap<OpId, Pending>,
    /// What this core's own replicas are asked.
    local: VecDeque<(Ask, Archive)>,
    /// What other nodes do for this core's clients.
    pub(crate) forward: Forward,
    request_timeout: Duration,
    log: SyncLog,
    reader: SyncReader,
    /// Everything up to this version was removed here; and is being removed.
    cleared: Version,
    clearing: Version,
    /// The time of the present turn.
    now: Now,
}

impl Cluster {
    pub(crate) fn new(config: &ClusterConfig, clock: HybridClock, links: Links, seed: u64) -> Self {
        let coordinator_config = Config {
            request_timeout: config.request_timeout,
            write_quorum: config.write_quorum,
            read_quorum: config.read_quorum,
            drift_max: config.clock_drift_max,
            op_count_max: OP_COUNT_MAX,
        };
        let (log, reader) = sync_log(config.sync_log_bytes);
        Self {
            coordinator: Coordinator::new(coordinator_config, clock, seed),
            told: None,
            links,
            control: None,
            pending: BTreeMap::new(),
            local: VecDeque::new(),
            forward: Forward::default(),
            request_timeout: config.request_timeout,
            log,
            reader,
            cleared: Version::ZERO,
            clearing: Version::ZERO,
            now: Now { at: Instant::ZERO, wall: WallTime::EPOCH },
        }
    }

    /// Core 0 has told what holds.
    pub(crate) fn on_told(&mut self, told: Told) {
        self.links.set_topology(&told);
        self.told = Some(told);
        self.refresh_view();
    }

    /// Tells the coordinator who can be sent to: who answers, and has no link that fails.
    pub(crate) fn refresh_view(&mut self) {
        let Some(told) = &self.told else { return };
        let (topology, placement) = (Arc::clone(&told.topology), Arc::clone(&told.placement));
        let mut view = View::new(topology, placement, told.own);
        let links = &self.links;
        view.reachable.retain(|node| {
            told.own == Some(*node) || (told.alive.contains(node) && !links.is_failing(*node))
        });
        self.coordinator.on_view(self.now, view);
    }

    /// Whether the node serves its copies.
    pub(crate) fn standing(&self) -> Standing {
        match &self.told {
            None => Standing::Frozen,
            Some(told) if self.cleared < told.topology.cleared() => Standing::Frozen,
            Some(told) => told.standing,
        }
    }

    /// Whether no client waits for something that was begun.
    pub(crate) fn is_settled(&self) -> bool {
        self.pending.is_empty() && self.forward.is_empty()
    }

    /// When there is something to do, if nothing else happens first.
    pub(crate) fn due_at(&self) -> Option<Instant> {
        let control = self.control.as_ref().and_then(|control| control.due_at());
        let times =
            [self.coordinator.poll_timeout(), self.links.due_at(), self.forward.due_at(), control];
        times.into_iter().flatten().min()
    }
}
