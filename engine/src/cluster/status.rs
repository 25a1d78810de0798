//! What a node tells of its cluster: `gridkv status`, the metrics, and the `CLUSTER` commands.

use std::collections::BTreeMap;

use gridkv_cluster::model::NodeId;
use gridkv_cluster::replication::{Standing, Stats};
use gridkv_cluster::swim::{self, State};
use gridkv_cluster::topology::endpoint::Endpoint;
use serde::Serialize;

use super::Told;
use super::control::CONTROL_CORE;
use super::face::Leaders;
use crate::core::{Core, World};
use crate::error::Error;
use crate::handle::Handle;

/// One member, as this node sees it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct MemberStatus {
    /// Its name.
    pub(crate) id: String,
    /// Its identity.
    pub(crate) identity: String,
    /// Its number in the topology; 0 for one that is not in it.
    pub(crate) node: u16,
    pub(crate) address: String,
    pub(crate) clients: Option<String>,
    pub(crate) zone: String,
    /// `alive`, `suspect`, `dead`, `left` or `joining`.
    pub(crate) state: &'static str,
    pub(crate) incarnation: u32,
    /// The part of all keys of which it keeps a copy, 0 to 1.
    pub(crate) share: f64,
    pub(crate) is_self: bool,
    /// How far its clock is ahead of this node's, in milliseconds, as last heard.
    pub(crate) clock_skew_ms: Option<i64>,
}

/// One of this node's shards.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct ShardStatus {
    pub(crate) shard: u16,
    pub(crate) core: usize,
    pub(crate) keys: u64,
    pub(crate) tombstones: u64,
    pub(crate) promises: usize,
    pub(crate) takes_writes: bool,
}

/// What a peer may have missed of what one core has coordinated.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct LagStatus {
    /// The peer's name.
    pub(crate) id: String,
    pub(crate) core: usize,
    /// Writes that it may not have.
    pub(crate) writes: u64,
    /// Writes that it did not get and cannot be fed any more: reads mend them.
    pub(crate) lost: u64,
}

/// All of it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Status {
    pub(crate) node: String,
    pub(crate) cluster: Option<String>,
    pub(crate) epoch: u64,
    pub(crate) replicas: u8,
    /// `serving`, `frozen` (the topology is being changed), `empty` (its data was lost), `behind` (it was
    /// killed before its log was on disk), `joining`,
    /// `forming` (it listens for a live cluster of the name before it forms one); `alone` for a node
    /// without a cluster.
    pub(crate) standing: &'static str,
    /// Why the cluster does not let this node in, as it was told last.
    pub(crate) refused: Option<String>,
    pub(crate) members: Vec<MemberStatus>,
    pub(crate) shards: Vec<ShardStatus>,
    pub(crate) lag: Vec<LagStatus>,
    /// Members that may have missed more than is counted: it was before this node's start.
    pub(crate) lag_unknown: Vec<String>,
    #[serde(skip)]
    pub(crate) figures: Figures,
    /// Who leads which slots, once there is a topology.
    #[serde(skip)]
    pub(crate) leaders: Option<Leaders>,
}

/// What was counted, of all cores together.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Figures {
    pub(crate) replication: Stats,
    pub(crate) op_count: u64,
    pub(crate) promise_count: u64,
    pub(crate) lost_count: u64,
    pub(crate) bytes_in: u64,
    pub(crate) bytes_out: u64,
    pub(crate) frames_in: u64,
    pub(crate) frames_out: u64,
    pub(crate) refused: u64,
    pub(crate) swim: swim::Stats,
    pub(crate) handed_over: u64,
    pub(crate) local_health: u32,
    pub(crate) datagrams_refused: u64,
}

/// What one core knows.
struct CoreStatus {
    shards: Vec<ShardStatus>,
    lags: Vec<(NodeId, u64, u64)>,
    skews: Vec<(NodeId, i64)>,
    figures: Figures,
}

/// What the core that speaks for the node knows.
struct ControlStatus {
    told: Option<Told>,
    leaders: Option<Leaders>,
    refused: Option<String>,
    is_listening: bool,
    is_behind: bool,
    members: Vec<swim::Member>,
    own: u64,
    figures: Figures,
}

impl Status {
    /// Asks all cores.
    pub(crate) async fn collect(handle: &Handle) -> Result<Self, Error> {
        let cores = handle.on_all_cores(core_status).await?;
        let control = handle.on_core(CONTROL_CORE, control_status).await?;
        let node = handle.node();
        let name = node.cluster.as_ref().map_or("", |cluster| cluster.name());
        let mut figures = Figures::default();
        for core in &cores {
            figures.add(&core.figures);
        }
        let mut status = Self {
            node: name.to_owned(),
            cluster: node.cluster.as_ref().map(|_| node.config.cluster.name.clone()),
            epoch: 0,
            replicas: 1,
            standing: "alone",
            refused: None,
            members: Vec::new(),
            shards: cores.iter().flat_map(|core| core.shards.clone()).collect(),
            lag: Vec::new(),
            lag_unknown: Vec::new(),
            figures,
            leaders: None,
        };
        let Some(control) = control else { return Ok(status) };
        status.standing = if control.is_listening { "forming" } else { "joining" };
        status.refused.clone_from(&control.refused);
        status.figures.add(&control.figures);
        let mut skews = BTreeMap::new();
        for (node, skew) in cores.iter().flat_map(|core| &core.skews) {
            skews.insert(*node, *skew);
        }
        status.add_members(&control, &skews);
        status.leaders.clone_from(&control.leaders);
        if let Some(told) = &control.told {
            status.epoch = told.topology.epoch;
            status.replicas = told.topology.replica_count;
            if node.cluster.as_ref().is_some_and(|cluster| cluster.was_member()) {
                let others = told.topology.members.iter().filter(|it| Some(it.node()) != told.own);
                status.lag_unknown = others.map(|it| it.name.clone()).collect();
            }
            for (core, known) in cores.iter().enumerate() {
                for (node, writes, lost) in known.lags.iter().copied() {
                    let member = told.topology.by_node(node);
                    let id = member.map_or_else(|| node.0.to_string(), |it| it.name.clone());
                    status.lag.push(LagStatus { id, core, writes, lost });
                }
            }
        }
        Ok(status)
    }

    fn add_members(&mut self, control: &ControlStatus, skews: &BTreeMap<NodeId, i64>) {
        let seen: BTreeMap<u64, &swim::Member> =
            control.members.iter().map(|member| (member.id.0, member)).collect();
        if let Some(told) = &control.told {
            let standing = match told.standing {
                Standing::Serving if control.is_behind => "behind",
                Standing::Serving => "serving",
                Standing::Frozen => "frozen",
                Standing::Empty => "empty",
                Standing::Behind => "behind",
            };
            self.standing = if told.own.is_some() { standing } else { "joining" };
            for member in &told.topology.members {
                let known = seen.get(&member.id);
                self.members.push(MemberStatus {
                    id: member.name.clone(),
                    identity: member.id().to_string(),
                    node: member.node,
                    address: member.address.to_string(),
                    clients: member.clients.as_ref().map(Endpoint::to_string),
                    zone: member.zone.clone(),
                    // One that was never heard of since the start.
                    state: known.map_or("dead", |known| state_name(known.state)),
                    incarnation: known.map_or(0, |known| known.incarnation),
                    share: told.placement.share(member.node()),
                    is_self: member.id == control.own,
                    clock_skew_ms: skews.get(&member.node()).copied(),
                });
            }
        }
        for (id, member) in seen {
            let told = control.told.as_ref();
            if told.is_none_or(|told| told.topology.member(member.id).is_none()) {
                let is_live = matches!(member.state, State::Alive | State::Suspect);
                self.members.push(MemberStatus {
                    id: member.id.to_string(),
                    identity: member.id.to_string(),
                    node: 0,
                    address: member.address.to_string(),
                    clients: None,
                    zone: String::new(),
                    state: if is_live { "joining" } else { state_name(member.state) },
                    incarnation: member.incarnation,
                    share: 0.0,
                    is_self: id == control.own,
                    clock_skew_ms: None,
                });
            }
        }
    }
}

const fn state_name(state: State) -> &'static str {
    match state {
        State::Alive => "alive",
        State::Suspect => "suspect",
        State::Dead => "dead",
        State::Left => "left",
    }
}

fn core_status(core: &mut Core) -> CoreStatus {
    let shards = core.world.shards.iter().map(|shard| {
        let stats = shard.stats();
        ShardStatus {
            shard: shard.index(),
            core: core.world.id,
            keys: stats.key_count,
            tombstones: stats.tombstone_count,
            promises: shard.promise_count(),
            takes_writes: !shard.has_failed(),
        }
    });
    let shards: Vec<ShardStatus> = shards.collect();
    let mut status = CoreStatus {
        figures: Figures {
            promise_count: shards.iter().map(|shard| shard.promises as u64).sum(),
            ..Figures::default()
        },
        shards,
        lags: Vec::new(),
        skews: Vec::new(),
    };
    let World { machine: Some(machine), cluster: Some(cluster), .. } = &core.world else {
        return status;
    };
    let coordinator = machine.coordinator();
    let next = coordinator.next_sequence();
    status.lags = coordinator
        .lags()
        .map(|(node, missed)| (node, next.saturating_sub(missed.from), missed.lost_count))
        .collect();
    status.skews = coordinator.skews().collect();
    let figures = &mut status.figures;
    figures.replication = coordinator.stats();
    figures.op_count = coordinator.op_count() as u64;
    figures.lost_count = coordinator.lost_count();
    figures.handed_over = machine.handed_count();
    cluster.links.count(figures);
    status
}

fn control_status(core: &mut Core) -> Option<ControlStatus> {
    let cluster = core.world.cluster.as_ref()?;
    let control = cluster.control.as_ref()?;
    let datagrams = control.seal.stats();
    let mut own = control.member.swim().members();
    let own = own.next().map_or(0, |own| own.id.0);
    let told = control.member.state().cloned();
    let heard = core.world.machine.as_ref().map(|machine| machine.heard());
    Some(ControlStatus {
        leaders: told.as_ref().zip(heard).map(|(told, heard)| Leaders::new(told, heard)),
        told,
        refused: control.member.refusal().map(|refusal| refusal.to_string()),
        is_listening: control.member.is_listening(),
        is_behind: core.world.machine.as_ref().is_some_and(|machine| machine.is_behind()),
        members: control.member.swim().members().copied().collect(),
        own,
        figures: Figures {
            swim: *control.member.swim().stats(),
            local_health: control.member.swim().local_health(),
            refused: control.strangers_refused,
            datagrams_refused: datagrams.refused(),
            ..Figures::default()
        },
    })
}

/// Why this node, which is to be in a cluster, is not in it.
pub(crate) fn why_no_member(core: &mut Core) -> Option<String> {
    let control = core.world.cluster.as_ref()?.control.as_ref()?;
    let member = &control.member;
    if let Some(refusal) = member.refusal() {
        return Some(format!("not let into the cluster: {refusal}"));
    }
    if member.is_listening() {
        return Some("listening for a live cluster before one is formed".to_owned());
    }
    let is_member = member.state().is_some_and(|state| state.own.is_some());
    (!is_member).then(|| "not a member of the cluster yet".to_owned())
}

impl Figures {
    fn add(&mut self, other: &Self) {
        self.replication.add(&other.replication);
        self.op_count += other.op_count;
        self.promise_count += other.promise_count;
        self.lost_count += other.lost_count;
        self.bytes_in += other.bytes_in;
        self.bytes_out += other.bytes_out;
        self.frames_in += other.frames_in;
        self.frames_out += other.frames_out;
        self.refused += other.refused;
        self.handed_over += other.handed_over;
        self.datagrams_refused += other.datagrams_refused;
        if other.swim != swim::Stats::default() {
            self.swim = other.swim;
            self.local_health = other.local_health;
        }
    }
}

/// The topology as one line for each metric: name, kind, help, value.
pub(crate) type Row = (&'static str, &'static str, &'static str, u64);

impl Status {
    /// The figures for Prometheus.
    pub(crate) fn rows(&self) -> Vec<Row> {
        let count = |state: &str| self.members.iter().filter(|it| it.state == state).count() as u64;
        let (figures, stats) = (&self.figures, &self.figures.replication);
        let skew = self.members.iter().filter_map(|it| it.clock_skew_ms).map(i64::unsigned_abs);
        let lag = self.lag.iter().map(|lag| lag.writes);
        let unknown = self.lag_unknown.len() as u64;
        vec![
            ("epoch", "gauge", "Number of the topology.", self.epoch),
            ("serving", "gauge", "Whether keys are served.", u64::from(self.standing == "serving")),
            ("members_alive", "gauge", "Members that answer.", count("alive")),
            ("members_suspect", "gauge", "Members that are suspected.", count("suspect")),
            ("members_dead", "gauge", "Members that do not answer.", count("dead")),
            ("operations", "gauge", "Operations under way.", figures.op_count),
            ("promises", "gauge", "Promises kept by key.", figures.promise_count),
            ("lag_writes", "gauge", "Most writes a peer may have missed.", lag.max().unwrap_or(0)),
            ("lag_unknown", "gauge", "Members that may have missed more.", unknown),
            ("clock_skew_ms", "gauge", "Largest clock difference.", skew.max().unwrap_or(0)),
            ("local_health", "gauge", "0 is good.", u64::from(figures.local_health)),
            ("begun_total", "counter", "Operations begun.", stats.begun),
            ("not_applied_total", "counter", "Operations refused.", stats.not_applied),
            ("unknown_total", "counter", "Operations without a known end.", stats.unknown),
            ("repairs_total", "counter", "Stale copies mended by reads.", stats.repairs),
            ("caught_up_total", "counter", "Writes fed to peers.", stats.caught_up),
            ("lost_writes_total", "counter", "Writes peers cannot be fed.", figures.lost_count),
            ("rounds_total", "counter", "Rounds of agreed changes.", stats.rounds),
            ("changes_total", "counter", "Agreed changes.", stats.changes),
            ("handed_over_total", "counter", "Changes proposed elsewhere.", figures.handed_over),
            ("retries_total", "counter", "Further tries of changes.", stats.retries),
            ("long_reads_total", "counter", "Reads that took two rounds.", stats.long_reads),
            ("link_bytes_in_total", "counter", "Bytes from peers.", figures.bytes_in),
            ("link_bytes_out_total", "counter", "Bytes to peers.", figures.bytes_out),
            ("link_frames_in_total", "counter", "Frames from peers.", figures.frames_in),
            ("link_frames_out_total", "counter", "Frames to peers.", figures.frames_out),
            ("links_refused_total", "counter", "Connections refused.", figures.refused),
            ("datagrams_refused_total", "counter", "Datagrams refused.", figures.datagrams_refused),
            ("probes_total", "counter", "Members probed.", figures.swim.probe_count),
            ("probes_failed_total", "counter", "Without answer.", figures.swim.failed_probe_count),
            ("suspicions_total", "counter", "Suspicions begun.", figures.swim.suspicion_count),
            ("refutations_total", "counter", "Refuted by us.", figures.swim.refutation_count),
        ]
    }
}
