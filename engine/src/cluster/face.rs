//! The cluster as the clients of Redis' cluster are shown it.
//!
//! A slot's master is the first of its replicas that answers and takes clients: who proposes its
//! changes, unless it is suspected for a moment. The others are its replicas. So each member that answers is master of some slots and
//! replica of others, and every node serves every key.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

use gridkv_cluster::model::NodeId;
use gridkv_cluster::token::SLOT_COUNT;
use gridkv_cluster::topology::Topology;
use gridkv_cluster::topology::endpoint::Endpoint;
use gridkv_cluster::topology::placement::Placement;
use gridkv_cluster::{Slot, Token};

use super::control::CONTROL_CORE;
use super::status::{MemberStatus, Status};
use crate::error::Error;
use crate::handle::Handle;

/// Who leads which slots, as this node sees it.
#[derive(Clone, Debug)]
pub(crate) struct Leaders {
    topology: Arc<Topology>,
    placement: Arc<Placement>,
    own: Option<NodeId>,
    /// Members that answer, this one among them.
    heard: BTreeSet<NodeId>,
}

impl Leaders {
    pub(super) fn new(told: &super::Told, heard: BTreeSet<NodeId>) -> Self {
        let (topology, placement) = (Arc::clone(&told.topology), Arc::clone(&told.placement));
        Self { topology, placement, own: told.own, heard }
    }

    /// The member that leads a token's slot; `None` where no replica of it takes clients. Where none
    /// answers, the first of them.
    pub(crate) fn of(&self, token: Token) -> Option<NodeId> {
        let takes_clients = |node: &&NodeId| {
            self.topology.by_node(**node).is_some_and(|member| member.clients.is_some())
        };
        let mut replicas = self.placement.replicas(token).iter().filter(takes_clients);
        let first = replicas.clone().next();
        replicas.find(|node| self.heard.contains(node)).or(first).copied()
    }

    /// Whether this node leads a token's slot.
    pub(crate) fn is_own(&self, token: Token) -> bool {
        self.of(token) == self.own
    }

    /// The first token from `token` on in a slot that this node leads.
    pub(crate) fn next_own(&self, mut token: Token) -> Option<Token> {
        self.own?;
        while !self.is_own(token) {
            token = self.placement.run_end(token).next()?;
        }
        Some(token)
    }

    /// This node's part of a count of all keys: the parts of all members that lead slots add up.
    pub(crate) fn part_of(&self, count: u64) -> u64 {
        let (mut below, mut own) = (0, 0);
        for slot in Slot::all() {
            let leader = self.of(slot.first());
            below += u64::from(leader.is_none() || leader < self.own);
            own += u64::from(leader.is_some() && leader == self.own);
        }
        let up_to = |slot_count: u64| {
            let part = u128::from(count) * u128::from(slot_count) / u128::from(SLOT_COUNT);
            u64::try_from(part).expect("a part of it")
        };
        up_to(below + own) - up_to(below)
    }
}

impl Handle {
    /// Who leads which slots.
    ///
    /// # Errors
    ///
    /// [`Error::NotApplied`] before the node knows of a topology.
    pub(crate) async fn leaders(&self) -> Result<Leaders, Error> {
        let find = |core: &mut crate::core::Core| {
            let machine = core.world.machine.as_ref()?;
            Some(Leaders::new(machine.state()?, machine.heard()))
        };
        let why = gridkv_cluster::replication::Why::NoCluster;
        self.on_core(CONTROL_CORE, find).await?.ok_or(Error::NotApplied { why })
    }
}

/// A member that clients can connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Node {
    /// Forty hexadecimal digits, as tools expect.
    pub(crate) id: String,
    pub(crate) endpoint: Endpoint,
    /// Where other nodes reach it.
    pub(crate) address: SocketAddr,
    pub(crate) is_self: bool,
    /// As [`MemberStatus`] has it.
    pub(crate) state: &'static str,
    /// It answers.
    pub(crate) is_heard: bool,
}

/// Slots that follow each other and have the same copies. Nodes by their index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) first: u16,
    pub(crate) last: u16,
    pub(crate) master: usize,
    pub(crate) replicas: Vec<usize>,
}

/// How many slots there are, and of which enough copies answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct SlotCounts {
    pub(crate) assigned: u16,
    /// Enough copies answer for reads and writes at `quorum`,
    pub(crate) ok: u16,
    /// or they do with those of members that are suspected,
    pub(crate) suspected: u16,
    /// or not.
    pub(crate) failed: u16,
}

/// All of it.
#[derive(Clone, Debug)]
pub(crate) struct Face {
    pub(crate) nodes: Vec<Node>,
    /// In the order of the slots, of which those without a master are left out.
    pub(crate) runs: Vec<Run>,
    pub(crate) counts: SlotCounts,
}

impl Face {
    /// What follows from `status`. A client has reached this node at `reached`, which stands for it;
    /// `quorum` copies are needed.
    pub(crate) fn new(status: &Status, reached: Option<Endpoint>, quorum: usize) -> Self {
        let mut face = Self { nodes: Vec::new(), runs: Vec::new(), counts: SlotCounts::default() };
        let heard =
            |node: u16| status.leaders.as_ref().is_some_and(|it| it.heard.contains(&NodeId(node)));
        let mut indexes = BTreeMap::new();
        for member in status.members.iter().filter(|it| it.node != 0 || it.is_self) {
            let own = reached.clone().filter(|_| member.is_self);
            let Some(endpoint) = own.or_else(|| member.clients.as_ref()?.parse().ok()) else {
                continue;
            };
            indexes.insert(NodeId(member.node), face.nodes.len());
            face.nodes.push(Node {
                id: long_id(member),
                endpoint,
                address: member.address.parse().expect("it was an address"),
                is_self: member.is_self,
                state: member.state,
                is_heard: member.is_self || heard(member.node),
            });
        }
        if let Some(leaders) = status.leaders.as_ref().filter(|it| it.own.is_some()) {
            face.add_slots(leaders, &indexes, quorum);
        }
        face
    }

    fn add_slots(&mut self, leaders: &Leaders, indexes: &BTreeMap<NodeId, usize>, quorum: usize) {
        let mut next = Some(Token::MIN);
        while let Some(from) = next {
            let to = leaders.placement.run_end(from);
            next = to.next();
            let replicas = leaders.placement.replicas(from);
            let (first, last) = (from.slot().number(), to.slot().number());
            self.count(last - first + 1, replicas, (leaders, indexes), quorum);
            let Some(leader) = leaders.of(from) else { continue };
            let Some(&master) = indexes.get(&leader) else { continue };
            let others = replicas.iter().filter(|node| **node != leader);
            let replicas = others.filter_map(|node| indexes.get(node).copied()).collect();
            let run = Run { first, last, master, replicas };
            match self.runs.last_mut() {
                Some(before)
                    if (before.master, &before.replicas) == (run.master, &run.replicas)
                        && before.last + 1 == first =>
                {
                    before.last = last;
                }
                _ => self.runs.push(run),
            }
        }
    }

    fn count(
        &mut self,
        slot_count: u16,
        replicas: &[NodeId],
        (leaders, indexes): (&Leaders, &BTreeMap<NodeId, usize>),
        quorum: usize,
    ) {
        let is_suspected = |node: &NodeId| {
            indexes.get(node).is_some_and(|index| self.nodes[*index].state == "suspect")
        };
        let heard: Vec<&NodeId> =
            replicas.iter().filter(|node| leaders.heard.contains(node)).collect();
        let sure = heard.iter().filter(|node| !is_suspected(node)).count();
        let counts = &mut self.counts;
        counts.assigned += slot_count;
        if sure >= quorum {
            counts.ok += slot_count;
        } else if heard.len() >= quorum {
            counts.suspected += slot_count;
        } else {
            counts.failed += slot_count;
        }
        assert_eq!(counts.ok + counts.suspected + counts.failed, counts.assigned);
    }

    /// Masters, with the slots of each.
    pub(crate) fn masters(&self) -> BTreeMap<usize, Vec<(u16, u16)>> {
        let mut masters: BTreeMap<usize, Vec<(u16, u16)>> = BTreeMap::new();
        for run in &self.runs {
            let ranges = masters.entry(run.master).or_default();
            match ranges.last_mut() {
                Some(before) if before.1 + 1 == run.first => before.1 = run.last,
                _ => ranges.push((run.first, run.last)),
            }
        }
        masters
    }

    /// Those that keep a copy of each slot of a master.
    pub(crate) fn replicas_of(&self, master: usize) -> Vec<usize> {
        let mut runs = self.runs.iter().filter(|run| run.master == master);
        let Some(first) = runs.next() else { return Vec::new() };
        let mut replicas = first.replicas.clone();
        runs.for_each(|run| replicas.retain(|index| run.replicas.contains(index)));
        replicas
    }

    /// The runs in the order in which clients are shown them: one slot of each master comes first, and
    /// without replicas.
    ///
    /// A client that knows one role a node takes the first that it is shown with (redis-py). It would
    /// take most masters for replicas, and ask them for nothing.
    pub(crate) fn shown_runs(&self) -> Vec<Run> {
        let (mut shown, mut rest, mut seen) = (Vec::new(), Vec::new(), BTreeSet::new());
        for run in &self.runs {
            let mut run = run.clone();
            run.replicas.retain(|index| self.nodes[*index].is_heard);
            if seen.insert(run.master) && !run.replicas.is_empty() {
                shown.push(Run { last: run.first, replicas: Vec::new(), ..run });
                run.first += 1;
            }
            if run.first <= run.last {
                rest.push(run);
            }
        }
        shown.append(&mut rest);
        shown
    }
}

fn long_id(member: &MemberStatus) -> String {
    format!("{:0>40}", member.identity)
}

/// Copies that reads and writes at `quorum` both find enough.
pub(crate) fn quorum(handle: &Handle, replica_count: u8) -> usize {
    let options = &handle.node().config.cluster;
    let majority = replica_count / 2 + 1;
    let (write, read) = (options.write_quorum, options.read_quorum);
    usize::from(write.unwrap_or(majority).max(read.unwrap_or(majority)))
}

#[cfg(test)]
mod tests {
    use gridkv_cluster::replication::Standing;
    use gridkv_cluster::topology::{Change, Member};

    use super::super::Told;
    use super::*;

    fn member(number: u16) -> Member {
        let address = SocketAddr::from(([10, 0, 0, 1], 7_000 + number));
        Member {
            id: u64::from(number) * 1_000_003,
            node: 0,
            key: [0; 32],
            name: number.to_string(),
            address,
            clients: Some(address.into()),
            zone: String::new(),
            weight: 128,
            shard_count: 1,
            store: 1,
        }
    }

    /// What `own` knows of so many members with two copies of each key, of whom some take no clients.
    fn leaders(count: u16, own: u16, heard: &[u16], silent: &[u16]) -> Leaders {
        let newcomer = |number| {
            let clients = member(number).clients.filter(|_| !silent.contains(&number));
            Member { clients, ..member(number) }
        };
        let mut topology = Topology::first(7, [7; 16], 2, newcomer(1));
        for number in 2..=count {
            let change = Change::Join(newcomer(number));
            topology = topology.after(&change).expect("it can join").expect("it is new");
        }
        let told = Told {
            placement: Arc::new(Placement::new(&topology)),
            topology: Arc::new(topology),
            own: Some(NodeId(own)),
            alive: BTreeSet::new(),
            suspected: BTreeSet::new(),
            standing: Standing::Serving,
        };
        Leaders::new(&told, heard.iter().copied().map(NodeId).collect())
    }

    #[test]
    fn the_parts_of_a_count_add_up_whoever_is_there() {
        for (count, heard) in [(1, &[1][..]), (3, &[1, 2, 3]), (5, &[1, 2, 3, 4, 5]), (5, &[2, 5])]
        {
            for keys in [0, 1, 2, 16_383, 1_000_003, u64::MAX / 2] {
                let part = |own| leaders(count, own, heard, &[]).part_of(keys);
                assert_eq!((1..=count).map(part).sum::<u64>(), keys, "{keys} of {count}");
            }
        }
    }

    #[test]
    fn a_slot_is_led_by_its_first_replica_that_answers_and_takes_clients() {
        let leaders = leaders(4, 1, &[1, 2, 3], &[3]);
        for slot in Slot::all() {
            let replicas = leaders.placement.replicas(slot.first());
            let able: Vec<NodeId> = replicas.iter().copied().filter(|node| node.0 < 3).collect();
            // Where none answers that takes clients, one that does not answer is named.
            let silent = replicas.contains(&NodeId(4)).then_some(NodeId(4));
            assert_eq!(leaders.of(slot.first()), able.first().copied().or(silent), "slot {slot}");
        }
        let mut token = Some(Token::MIN);
        let mut own = BTreeSet::new();
        while let Some(at) = token.and_then(|token| leaders.next_own(token)) {
            own.insert(at.slot().number());
            token = at.slot().last().next();
        }
        let led = Slot::all().filter(|slot| leaders.of(slot.first()) == Some(NodeId(1)));
        assert_eq!(own, led.map(Slot::number).collect());
    }
}
