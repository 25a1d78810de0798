//! How nodes start, and how they end.

use std::time::Duration;

use gridkv_cluster::member::Member;
use gridkv_cluster::replication::Config;
use gridkv_cluster::swim::{self, Swim};
use gridkv_cluster::topology::agreement::{Agreement, Forming, Own};
use gridkv_cluster::{MemberId, Now, WallTime};
use gridkv_storage::disk::{Faults as DiskFaults, SimulatedDisk};
use gridkv_storage::file::OpenFailure;
use gridkv_storage::{Durability, Storage};

use super::network::{address, member_of};
use super::options::{Backend, Options};
use super::process::{OP_COUNT_MAX, Port, Process, Start};
use super::store;
use super::stream::seed_of;
use super::world::{Event, Node, World};

impl World {
    /// Starts a process on a node that has none.
    pub(super) fn start(&mut self, node: usize) {
        if self.nodes[node].process.is_some() {
            return;
        }
        self.set_clock_wrong_at_boot(node);
        let now = self.node_now(node);
        let it = &mut self.nodes[node];
        it.run += 1;
        it.is_starting = false;
        it.is_doomed = false;
        it.wake_at = None;
        let (run, options) = (it.run, &self.options);
        let seed = |name: &str| seed_of(options.seed, name, (node as u64) << 32 | run);
        let stores = match open_stores(options, it, options.layouts[node].shards, now.wall) {
            Ok(stores) => stores,
            // Somebody tries again later.
            Err(_) if it.disks.iter().any(|it| it.faults() != DiskFaults::NONE) => {
                self.report.count("starts that a disk has refused");
                return self.start_later(node, 3_000);
            }
            Err(error) => panic!("node {node} cannot open its store: {error}"),
        };
        let layout = options.layouts[node];
        let durability = match options.backend {
            Backend::File => options.durability,
            Backend::Memory => Durability::None,
        };
        let config = Config {
            request_timeout: options.request_timeout,
            write_quorum: None,
            read_quorum: None,
            drift_max: options.drift_max,
            op_count_max: OP_COUNT_MAX,
            op_bytes_max: 16 << 20,
        };
        let sync_log_bytes = options.sync_log_bytes;
        let seed = seed("coordinator");
        let member = self.membership(node, now);
        let (core_count, mail) = (layout.cores, self.options.mail);
        let is_behind = self.nodes[node].is_behind;
        let start = Start {
            member,
            stores,
            durability,
            is_behind,
            core_count,
            config,
            sync_log_bytes,
            mail,
            seed,
        };
        self.nodes[node].process = Some(Process::new(start));
        self.trace.note(self.now, [9, node as u64, run]);
        self.trace.say(self.now, || format!("n{node} starts its run {run}"));
        self.report.count("starts");
        for (ends, link) in &mut self.network.links {
            if ends.0.0 == node {
                link.cut_off();
                link.is_up = true;
            }
        }
        self.turn(node);
    }

    /// The membership of a node whose process starts.
    fn membership(&self, node: usize, now: Now) -> Member {
        let (it, options) = (&self.nodes[node], &self.options);
        let seed = |name: &str| seed_of(options.seed, name, (node as u64) << 32 | it.run);
        let id = MemberId(node as u64 * 1_000_003 + 17);
        let own = swim::Own { id, address: address(node), run: now.wall.as_millis(), cluster: 1 };
        let swim = Swim::new(swim::Config::lan(), own, seed("swim"), self.now);
        let member = member_of(node, id, it.store, options.layouts[node].shards);
        let seeds = if node == 0 { Vec::new() } else { vec![address(0), address(1)] };
        let replica_count = options.replica_count;
        let forming = if node == 0 { Forming::Unheard } else { Forming::Never };
        let token_secret = super::TOKEN_SECRET;
        let own = Own { member, seeds, forming, replica_count, token_secret };
        let kept = it.kept.as_deref();
        let agreement = Agreement::new(own, kept, seed("cluster"), seed("agreement"), self.now)
            .expect("what was kept is what was kept");
        Member::new(now, swim, agreement)
    }

    /// Ends a process, perhaps with its machine.
    pub(super) fn stop(&mut self, node: usize, with_machine: bool) {
        let it = &mut self.nodes[node];
        let Some(process) = it.process.take() else { return };
        self.report.raise("most operations", process.most.ops as u64);
        self.watch.note_held(&process.most);
        self.report.add("commands handed over", process.handed_count());
        self.trace.note(self.now, [10, node as u64, u64::from(with_machine)]);
        self.trace.say(self.now, || format!("n{node} dies, with its machine: {with_machine}"));
        it.is_paused = false;
        it.backlog.clear();
        it.unperformed.clear();
        for disk in &it.disks {
            if with_machine { disk.crash() } else { disk.kill() }
        }
        if it.disks.is_empty() {
            it.store += 1 << 20;
            self.watch.losses.push((self.now, node));
        } else if self.options.durability != Durability::Commit {
            // It lacks what was not on disk yet, and knows that it may.
            it.is_behind = true;
            self.watch.losses.push((self.now, node));
        }
        // The process goes after its disk: what it drops does no harm.
        drop(process);
        for client in self.ledger.abandon(node) {
            self.report.count("operations cut off");
            self.clients.release(client);
            let pause = self.clients.think();
            self.after(pause, Event::Client(client));
        }
        // Without a machine nobody says that a connection is gone.
        let noticed = Duration::from_millis(if with_machine { 4_000 } else { 50 });
        let all: Vec<(Port, Port)> = self.network.links.keys().copied().collect();
        for ends in all {
            if ends.1.0 == node {
                self.break_link(ends, noticed);
            } else if ends.0.0 == node {
                self.network.links.get_mut(&ends).expect("it is listed").cut_off();
            }
        }
    }

    /// Takes a node's disk away, and gives it an empty one. It has no process.
    pub(super) fn erase(&mut self, node: usize) {
        let it = &mut self.nodes[node];
        assert!(it.process.is_none());
        if !it.disks.is_empty() {
            it.store += 1 << 20;
            it.disks = new_disks(&self.options, node, it.store);
            self.watch.losses.push((self.now, node));
        }
    }
}

/// Opens the stores of a node's shards.
fn open_stores(
    options: &Options,
    node: &Node,
    count: u16,
    now: WallTime,
) -> Result<Vec<Box<dyn Storage>>, OpenFailure> {
    let open = |index: u16| {
        let part = u64::from(index) << 32 | node.run;
        let (shard, seed) = ((index, count), seed_of(options.seed, "store", part));
        match node.disks.get(usize::from(index)) {
            None => Ok(store::in_memory(shard, seed)),
            Some(disk) => {
                let how = (options.cache_bytes_max, options.durability);
                store::on_disk(shard, disk.clone(), how, seed, now)
            }
        }
    };
    (0..count).map(open).collect()
}

/// Empty disks, one for each shard of a node.
pub(super) fn new_disks(options: &Options, node: usize, store: u64) -> Vec<SimulatedDisk> {
    let disk = |shard: u16| {
        let seed = seed_of(options.seed, "disk", store ^ u64::from(shard) << 48);
        SimulatedDisk::new(seed, DiskFaults::NONE)
    };
    (0..options.layouts[node].shards).map(disk).collect()
}
