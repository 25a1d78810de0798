//! A run, from its start to its end.

use std::time::Duration;

use gridkv_cluster::replication::{Level, Standing};

use super::clients::{key_of, needed};
use super::history::{Ending, Kind, Operation};
use super::properties;
use super::world::{Event, World};

/// How long a cluster may take to form.
const FORMING_MAX: Duration = Duration::from_secs(15);
/// How long it may take, when nothing goes wrong any more, until it is well.
const HEALING_MAX: Duration = Duration::from_secs(90);
/// The client of the last operations.
const INSPECTOR: usize = usize::MAX;
/// How often the last reads are tried.
const TRY_COUNT: usize = 5;

impl World {
    /// All of it.
    pub(super) fn run(&mut self) {
        for node in 0..self.options.node_count {
            let delay = self.network.up_to(Duration::from_secs(2));
            self.after(delay, Event::Start(node));
        }
        if self.options.is_troubled_early {
            self.begin_trouble();
        }
        if !self.options.is_hasty {
            let has_formed = self.run_until(FORMING_MAX, Self::has_formed);
            let is_calm = !self.options.is_troubled_early;
            assert!(has_formed || !is_calm, "nodes that start find together: {:?}", self.epochs());
        }
        self.begin_clients();
        if !self.options.is_troubled_early {
            self.begin_trouble();
        }
        self.run_for(self.options.trouble);
        self.calm();
        self.run_for(Duration::from_secs(3));
        self.clients.is_on = false;
        self.heal();
        properties::replicas_are_equal_where_status_says_so(self);
        self.inspect();
        properties::check(self);
        self.account();
    }

    /// Whether all nodes are members.
    fn has_formed(&self) -> bool {
        self.running().count() == self.options.node_count
            && self.running().all(|(_, process)| {
                process.topology().is_some_and(|it| it.members.len() == self.options.node_count)
            })
    }

    /// Waits until the cluster is well.
    fn heal(&mut self) {
        let started = self.now;
        let is_well = self.run_until(HEALING_MAX, |world| properties::is_well(world).is_ok());
        let took = self.now.saturating_since(started).as_millis();
        self.report.raise("most ms until all is well", u64::try_from(took).unwrap_or(u64::MAX));
        if !is_well {
            let reason = properties::is_well(self).expect_err("it is not");
            panic!("all is mended, and {HEALING_MAX:?} later {reason}");
        }
    }

    /// How many of a key's replicas serve.
    pub(super) fn serving(&self, key: usize) -> usize {
        let Some(placement) = self.placement() else { return 0 };
        let replicas = placement.replicas(crate::sim::token_of(&key_of(key)));
        let serves = |(_, process): &(usize, &super::process::Process)| {
            process.own().is_some_and(|own| replicas.contains(&own))
                && process.standing() == Standing::Serving
        };
        self.running().filter(serves).count()
    }

    /// The placement that all have.
    pub(super) fn placement(
        &self,
    ) -> Option<std::sync::Arc<gridkv_cluster::topology::placement::Placement>> {
        let newest = self.running().filter_map(|(_, process)| process.placement());
        newest.max_by_key(|placement| placement.epoch()).cloned()
    }

    /// Reads each key at the highest level that it can be read at: first so that stale copies are
    /// mended, then to see what is there.
    fn inspect(&mut self) {
        let members: Vec<usize> = self
            .running()
            .filter(|(_, process)| process.own().is_some())
            .map(|(node, _)| node)
            .collect();
        if members.is_empty() {
            return;
        }
        for round in 0..2 {
            for key in 0..self.options.key_count {
                let serving = self.serving(key);
                let replica_count = usize::from(self.options.replica_count);
                let level = if serving == replica_count && round == 0 {
                    Level::All
                } else if serving * 2 > replica_count && self.clients.classes[key].is_agreed() {
                    Level::Linearizable
                } else if serving * 2 > replica_count {
                    Level::Quorum
                } else {
                    self.report.count("keys without a quorum at the end");
                    continue;
                };
                self.read(&members, key, level);
            }
            self.run_for(Duration::from_millis(500));
        }
        self.write_last(&members);
    }

    fn inspection(&self, node: usize, key: usize, kind: Kind, level: Level) -> Operation {
        Operation {
            client: INSPECTOR,
            node,
            key,
            kind,
            level,
            needed: needed(level, self.options.replica_count),
            value: Vec::new(),
            expected: None,
            expires_at: None,
            invoked: self.now,
            completed: None,
            before: None,
            ending: Ending::None,
        }
    }

    fn attempt(&mut self, members: &[usize], key: usize, kind: Kind, level: Level) {
        for attempt in 0..TRY_COUNT {
            let node = members[(key + attempt) % members.len()];
            let mut operation = self.inspection(node, key, kind, level);
            operation.value = b"last,".to_vec();
            let index = self.begin(operation);
            self.run_until(Duration::from_secs(5), |world| {
                world.ledger.operations[index].completed.is_some()
            });
            let ending = &self.ledger.operations[index].ending;
            if matches!(ending, Ending::Found(_) | Ending::Acknowledged(_)) {
                return;
            }
            assert_ne!(*ending, Ending::None, "every operation ends");
            self.run_for(Duration::from_millis(300));
        }
        if self.options.faults.wild_jump.is_some() {
            // What a clock that was far ahead has written is refused until the others get there.
            return self.report.count("operations that fail because of a clock that was far ahead");
        }
        let ending = &self.ledger.operations.last().expect("it was tried").ending;
        panic!("all is well, and key-{key} cannot be used at level {level:?}: {kind:?} {ending:?}");
    }

    fn read(&mut self, members: &[usize], key: usize, level: Level) {
        self.attempt(members, key, Kind::Read, level);
    }

    /// Keys that nobody has used can be written.
    fn write_last(&mut self, members: &[usize]) {
        for number in 0..3 {
            let key = self.options.key_count + number;
            if self.serving(key) * 2 <= usize::from(self.options.replica_count) {
                continue;
            }
            self.attempt(members, key, Kind::Write, Level::Quorum);
            self.attempt(members, key, Kind::Append, Level::Linearizable);
            self.report.count("writes after all is well");
        }
    }

    fn account(&mut self) {
        let seconds = self.now.as_nanos() / 1_000_000_000;
        self.report.add("simulated seconds", seconds);
        let operations = self.ledger.operations.len() as u64;
        self.report.add("operations", operations);
        let most: Vec<super::process::Held> = self.running().map(|(_, it)| it.most).collect();
        for most in &most {
            self.watch.note_held(most);
        }
        let handed: u64 = self.running().map(|(_, it)| it.handed_count()).sum();
        self.report.add("commands handed over", handed);
        let disks: Vec<_> =
            self.nodes.iter().flat_map(|it| &it.disks).map(|it| it.counts()).collect();
        for counts in disks {
            self.report.add("disk: syncs", counts.sync_count);
            self.report.add("disk: failed syncs", counts.failed_sync_count);
            self.report.add("disk: failed writes", counts.failed_write_count);
            self.report.add("disk: failed reads", counts.failed_read_count);
            self.report.add("disk: slow operations", counts.slow_count);
            self.report.add("disk: blocks lost", counts.lost_block_count + counts.torn_block_count);
        }
        let lost = self.watch.losses.len() as u64;
        self.report.add("stores lost", lost);
    }
}
