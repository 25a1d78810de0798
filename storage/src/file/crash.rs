//! Crashes on the simulated disk: random operations and faults, a crash at any point, recovery,
//! and a look at everything; several times a seed. Sometimes the crash comes while the store is being
//! opened, and sometimes what is opened is written to, and crashes again, before anything is read.
//!
//! What is checked, each time that everything is read: an acknowledged write is there, with its newest value; of what was
//! not acknowledged each key has a whole state that it went through, or none of it; the deleted
//! stays deleted; the statistics agree with a full walk; what was promised durably is promised.

use std::collections::BTreeMap;
use std::time::Duration;

use gridkv_cluster::{Instant, NodeId, Timestamp};

use super::*;
use crate::backend::{Applied, LogPosition, OnDisk, ReadError, Ticket};
use crate::contract;
use crate::disk::{Faults, SimulatedDisk};

/// Seeds in an ordinary run.
const SEED_COUNT: u64 = 10_000;
const START: WallTime = WallTime::from_millis(1_700_000_000_000);

/// What a key had at one time.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Written {
    version: Version,
    value: Option<Vec<u8>>,
    expires_at: Option<WallTime>,
}

/// What is known of a key: its last acknowledged state, those after it that a crash may have left,
/// and those since.
#[derive(Clone, Debug, Default)]
struct History {
    acknowledged: Option<Written>,
    maybe: Vec<Written>,
    later: Vec<(LogPosition, Written)>,
}

impl History {
    /// The states of which the key has one, the newest last.
    fn possible(&self) -> Vec<Option<Written>> {
        if let Some((_, newest)) = self.later.last() {
            return vec![Some(newest.clone())];
        }
        let maybe = self.maybe.iter().cloned().map(Some);
        [self.acknowledged.clone()].into_iter().chain(maybe).collect()
    }

    /// The same after a crash.
    fn possible_after_crash(&self) -> Vec<Option<Written>> {
        let later = self.later.iter().map(|(_, written)| written);
        let unsure = self.maybe.iter().chain(later).cloned().map(Some);
        [self.acknowledged.clone()].into_iter().chain(unsure).collect()
    }
}

/// What a run did, so that an empty one does not pass.
#[derive(Clone, Copy, Debug, Default)]
struct Done {
    writes: u64,
    refused: u64,
    reads: u64,
    loads: u64,
    crashes: u64,
    blind: u64,
    cut_short: u64,
    promised: u64,
    acknowledged: u64,
    lost: u64,
    failed_logs: u64,
    full: u64,
    damaged: u64,
    compacted: u64,
}

impl Done {
    fn add(&mut self, other: &Self) {
        self.writes += other.writes;
        self.refused += other.refused;
        self.reads += other.reads;
        self.loads += other.loads;
        self.crashes += other.crashes;
        self.blind += other.blind;
        self.cut_short += other.cut_short;
        self.promised += other.promised;
        self.acknowledged += other.acknowledged;
        self.lost += other.lost;
        self.failed_logs += other.failed_logs;
        self.full += other.full;
        self.damaged += other.damaged;
        self.compacted += other.compacted;
    }
}

struct Run {
    rng: Rng,
    disk: SimulatedDisk,
    store: FileStorage<SimulatedDisk>,
    setup: Setup,
    options: Options,
    model: BTreeMap<Vec<u8>, History>,
    /// The highest durable promise, the highest that a crash may have left, and those since.
    promised: Version,
    promised_maybe: Version,
    promises: Vec<(LogPosition, Version)>,
    now: WallTime,
    clock: u64,
    version: u64,
    key_count: u32,
    value_bytes_max: usize,
    flips: bool,
    done: Done,
}

impl Run {
    fn new(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let durability = match rng.u8(..10) {
            0..7 => Durability::Commit,
            7 | 8 => Durability::Interval(Duration::from_millis(rng.u64(1..50))),
            _ => Durability::None,
        };
        let setup = Setup {
            cache_bytes_max: if rng.bool() { 8 << 10 } else { 1 << 20 },
            durability,
            segment_bytes: 1 << rng.u32(16..19),
            directory: "simulated".to_owned(),
        };
        let tombstones = if rng.u8(..4) == 0 { Tombstones::Keep } else { Tombstones::Drop };
        let options = Options { seed: rng.u64(..), ..contract::options(tombstones) };
        let disk = SimulatedDisk::new(rng.u64(..), Faults::NONE);
        let opened = FileStorage::open(disk.clone(), setup.clone(), &options, START);
        let (store, _) = opened.expect("a sound disk is opened");
        let flips = rng.u8(..10) == 0;
        Self {
            key_count: rng.u32(1..60),
            value_bytes_max: [20, 300, 6_000][rng.usize(..3)],
            rng,
            disk,
            store,
            setup,
            options,
            model: BTreeMap::new(),
            promised: Version::ZERO,
            promised_maybe: Version::ZERO,
            promises: Vec::new(),
            now: START,
            clock: 0,
            version: 0,
            flips,
            done: Done::default(),
        }
    }

    fn run(mut self) -> Done {
        for _ in 0..self.rng.u8(1..6) {
            self.choose_faults();
            // Some crashes come before what was recovered is sealed; that takes longer after a run that
            // has written many small records.
            let step_count_max = match self.rng.u8(..6) {
                0..2 => 12,
                2 if self.value_bytes_max < 300 => 6_000,
                _ => 400,
            };
            for _ in 0..self.rng.u32(1..step_count_max) {
                self.step();
            }
            if self.rng.bool() {
                // A commit of several blocks is under way.
                self.write_long();
                self.turn();
            }
            self.crash();
        }
        self.done
    }

    fn choose_faults(&mut self) {
        let mut faults = Faults::NONE;
        if self.rng.u8(..8) == 0 {
            faults.sync_failure = 0.02;
        }
        if self.rng.u8(..8) == 0 {
            faults.write_failure = 0.01;
        }
        if self.rng.u8(..8) == 0 {
            faults.read_failure = 0.1;
        }
        if self.rng.u8(..4) == 0 {
            faults.slow_operation = 0.05;
        }
        if self.rng.u8(..5) == 0 {
            let files = self.rng.u64(2..6);
            faults.capacity_bytes = Some(files * u64::from(self.setup.segment_bytes));
        }
        self.disk.set_faults(faults);
    }

    fn key(&mut self) -> Vec<u8> {
        format!("key-{}", self.rng.u32(..self.key_count)).into_bytes()
    }

    fn step(&mut self) {
        match self.rng.u8(..20) {
            0..10 => self.write(),
            10..12 => self.delete(),
            12..15 => self.read(),
            15..19 => self.turns(),
            _ => match self.rng.u8(..10) {
                0 => self.clear(),
                2 => self.promise(),
                // As for a snapshot.
                3 if self.rng.bool() => drop(self.store.roll()),
                1 => {
                    self.now = self.now + Duration::from_millis(self.rng.u64(..200));
                    self.store.collect_expired(1_000, self.now);
                }
                _ => self.store.request_commit(),
            },
        }
    }

    fn next_version(&mut self) -> Version {
        self.version += 1;
        Version {
            timestamp: Timestamp(Timestamp::from_wall(START).0 + self.version),
            node: NodeId(1),
        }
    }

    fn write_long(&mut self) {
        let len = self.rng.usize(4_000..12_000);
        self.write_of(len);
    }

    fn write(&mut self) {
        let len = self.rng.usize(..self.value_bytes_max);
        self.write_of(len);
    }

    fn write_of(&mut self, len: usize) {
        let key = self.key();
        let value: Vec<u8> = std::iter::repeat_with(|| self.rng.u8(..)).take(len).collect();
        let ttl = Duration::from_millis(self.rng.u64(1..500));
        let expires_at = (self.rng.u8(..6) == 0).then(|| self.now + ttl);
        let version = self.next_version();
        self.apply(key, Written { version, value: Some(value), expires_at });
    }

    fn delete(&mut self) {
        let key = self.key();
        let version = self.next_version();
        self.apply(key, Written { version, value: None, expires_at: None });
    }

    fn apply(&mut self, key: Vec<u8>, written: Written) {
        let mutation = Mutation {
            key: &key,
            value: written.value.as_deref(),
            version: written.version,
            expires_at: written.expires_at,
        };
        self.done.writes += 1;
        match self.store.apply(contract::token_of(&key), &mutation, self.now) {
            Ok(applied) => {
                assert!(matches!(applied, Applied::Won { .. }), "a new version wins");
                let position = self.store.appended();
                self.model.entry(key).or_default().later.push((position, written));
            }
            Err(Error::Busy(_)) => self.done.refused += 1,
            Err(Error::DiskFull) => self.done.full += 1,
            Err(Error::LogFailed) => assert!(self.store.has_failed()),
            Err(error) => panic!("{error}"),
        }
    }

    fn clear(&mut self) {
        let version = self.next_version();
        if self.store.clear(version).is_ok() {
            let position = self.store.appended();
            for history in self.model.values_mut() {
                let gone = Written { version, value: None, expires_at: None };
                history.later.push((position, gone));
            }
        }
    }

    /// Promises something ahead of all versions, or behind.
    fn promise(&mut self) {
        let mut through = self.next_version();
        through.timestamp.0 += self.rng.u64(..1_000);
        through.timestamp.0 -= self.rng.u64(..500);
        match self.store.promise(through) {
            Ok(()) => self.promises.push((self.store.appended(), through)),
            Err(Error::Busy(_)) => self.done.refused += 1,
            Err(Error::DiskFull) => self.done.full += 1,
            Err(Error::LogFailed) => assert!(self.store.has_failed()),
            Err(error) => panic!("{error}"),
        }
        assert!(self.store.promised() >= self.promised);
    }

    fn turns(&mut self) {
        for _ in 0..self.rng.u32(1..12) {
            self.turn();
        }
    }

    fn turn(&mut self) {
        self.clock += self.rng.u64(..20_000_000);
        self.store.turn(Instant::from_nanos(self.clock));
        while let Some((ticket, _)) = self.store.poll_ready() {
            self.store.release(ticket);
        }
        let durable = self.store.durable();
        let count = self.promises.iter().take_while(|(at, _)| *at <= durable).count();
        for (_, through) in self.promises.drain(..count) {
            self.promised = self.promised.max(through);
            self.done.promised += 1;
        }
        for history in self.model.values_mut() {
            let count = history.later.iter().take_while(|(at, _)| *at <= durable).count();
            for (_, written) in history.later.drain(..count) {
                history.acknowledged = Some(written);
                history.maybe.clear();
                self.done.acknowledged += 1;
            }
        }
    }

    /// Reads a key through the store, waiting for the disk; `None` if it cannot be read.
    fn value(&mut self, key: &[u8]) -> Option<Option<(Version, Vec<u8>)>> {
        let token = contract::token_of(key);
        loop {
            self.done.reads += 1;
            let found = self.store.get(token, key, self.now).record();
            if let Ok(record) = found {
                return Some(record.map(|record| (record.version, record.value.to_vec())));
            }
            self.done.loads += 1;
            let ticket = self.store.load(token, key);
            let result = self.wait_for(ticket);
            let record = self.store.get(token, key, self.now).record();
            let found =
                record.map(|record| record.map(|record| (record.version, record.value.to_vec())));
            self.store.release(ticket);
            match (result, found) {
                (Err(_), _) => return None,
                (Ok(()), Ok(found)) => return Some(found),
                // It has moved meanwhile.
                (Ok(()), Err(OnDisk)) => {}
            }
        }
    }

    fn wait_for(&mut self, ticket: Ticket) -> Result<(), ReadError> {
        let mut result = None;
        while result.is_none() {
            self.clock += 1_000_000;
            self.store.turn(Instant::from_nanos(self.clock));
            while let Some((ready, outcome)) = self.store.poll_ready() {
                if ready == ticket {
                    result = Some(outcome);
                } else {
                    self.store.release(ready);
                }
            }
        }
        result.expect("the loop ends with one")
    }

    fn live(&self, written: Option<&Written>) -> Option<(Version, Vec<u8>)> {
        let written = written?;
        let value = written.value.as_ref()?;
        let is_dead = written.expires_at.is_some_and(|at| at <= self.now);
        (!is_dead).then(|| (written.version, value.clone()))
    }

    fn read(&mut self) {
        let key = self.key();
        // Reading takes time, in which what was written becomes durable.
        let found = self.value(&key);
        let history = self.model.entry(key.clone()).or_default().clone();
        let possible = history.possible();
        if let Some(found) = found {
            let state = possible.iter().rev().find(|it| self.live(it.as_ref()) == found);
            let state = state.unwrap_or_else(|| {
                let key = String::from_utf8_lossy(&key);
                panic!("{key} during the run: {found:?}, not one of {possible:?}")
            });
            if history.later.is_empty() {
                // What was shown stays.
                let shown = History { acknowledged: state.clone(), ..History::default() };
                self.model.insert(key, shown);
            }
        } else {
            let can_fail = self.disk.faults().read_failure > 0.0 || self.flips;
            assert!(can_fail, "a read failed without a reason");
        }
    }

    fn crash(&mut self) {
        let stats = self.store.log_stats().expect("it has a log");
        self.done.compacted += stats.compacted_bytes;
        self.done.failed_logs += stats.failed_count;
        self.done.crashes += 1;
        if self.rng.u8(..6) == 0 {
            self.disk.set_faults(Faults::NONE);
            self.store.close();
            self.turn();
        }
        // What a failed write has left may be read until the machine crashes, and is never durable: only
        // a process that is killed in between would be misled.
        if self.rng.u8(..4) == 0 && !self.store.has_failed() {
            self.disk.kill();
        } else {
            self.disk.crash();
        }
        let mut is_flipped = false;
        if self.flips {
            for _ in 0..self.rng.u8(1..4) {
                is_flipped |= self.disk.flip_random_bit(&mut self.rng).is_some();
            }
        }
        let opened = self.reopen(is_flipped);
        let (store, recovered) = match opened {
            Ok(opened) => opened,
            // The format's number itself was hit, or a file that was being created and was blank.
            Err(
                OpenFailure::UnknownFormat { .. }
                | OpenFailure::OldFormat { .. }
                | OpenFailure::Size { .. },
            ) if is_flipped => return self.start_over(),
            Err(error) => panic!("{error}: {:?}", std::error::Error::source(&error)),
        };
        self.store = store;
        assert!(is_flipped || recovered.damages.is_empty(), "{:?}", recovered.damages);
        if !is_flipped && self.rng.u8(..3) == 0 {
            return self.go_on_blindly();
        }
        // A bit of the last commit that has changed cannot be told from one that was never written.
        let is_cut = is_flipped && recovered.torn_bytes > 0;
        let is_damaged = !recovered.damages.is_empty() || is_cut;
        self.done.damaged += u64::from(is_damaged);
        self.check_promise(is_damaged);
        self.check_keys(is_damaged, is_flipped);
        if !is_flipped {
            self.check_statistics();
        }
    }

    /// Opens the store, at the first try or after some that faults or a crash end.
    fn reopen(
        &mut self,
        is_flipped: bool,
    ) -> Result<(FileStorage<SimulatedDisk>, Recovered), OpenFailure> {
        self.disk.set_faults(Faults::NONE);
        if !is_flipped {
            for _ in 0..self.rng.u8(..3) {
                if self.rng.bool() {
                    self.disk.lose_power_after(self.rng.u64(..60));
                } else {
                    let (sync_failure, write_failure) = (0.1, 0.1);
                    self.disk.set_faults(Faults { sync_failure, write_failure, ..Faults::NONE });
                }
                let (disk, setup) = (self.disk.clone(), self.setup.clone());
                let opened = FileStorage::open(disk, setup, &self.options, self.now);
                self.done.cut_short += u64::from(opened.is_err());
                // What has a crash behind it may still do something, to no effect.
                self.disk.crash();
                self.disk.set_faults(Faults::NONE);
            }
        }
        let (disk, setup) = (self.disk.clone(), self.setup.clone());
        FileStorage::open(disk, setup, &self.options, self.now)
    }

    /// Writes what is not acknowledged down as possible, and looks at nothing.
    fn go_on_blindly(&mut self) {
        self.done.blind += 1;
        for history in self.model.values_mut() {
            let later = std::mem::take(&mut history.later);
            history.maybe.extend(later.into_iter().map(|(_, written)| written));
        }
        let latest = self.promises.drain(..).map(|(_, through)| through).max();
        self.promised_maybe = self.promised_maybe.max(latest.unwrap_or_default());
    }

    fn check_promise(&mut self, is_damaged: bool) {
        let promised = self.store.promised();
        assert!(is_damaged || promised >= self.promised, "{promised}, not {}", self.promised);
        let latest = self.promises.drain(..).map(|(_, through)| through).max();
        let bound = self.promised.max(self.promised_maybe).max(latest.unwrap_or_default());
        assert!(promised <= bound, "{promised}");
        (self.promised, self.promised_maybe) = (promised, Version::ZERO);
    }

    fn start_over(&mut self) {
        self.disk = SimulatedDisk::new(self.rng.u64(..), Faults::NONE);
        let (disk, setup) = (self.disk.clone(), self.setup.clone());
        let opened = FileStorage::open(disk, setup, &self.options, self.now);
        self.store = opened.expect("a sound disk is opened").0;
        self.model.clear();
        (self.promised, self.promised_maybe) = (Version::ZERO, Version::ZERO);
    }

    fn check_keys(&mut self, is_damaged: bool, is_flipped: bool) {
        for key in self.model.keys().cloned().collect::<Vec<_>>() {
            let found = self.value(&key);
            let history = &self.model[&key];
            let states = history.possible_after_crash();
            let Some(found) = found else {
                assert!(is_flipped, "{} cannot be read", String::from_utf8_lossy(&key));
                self.model.remove(&key);
                continue;
            };
            let chosen =
                states.iter().rev().find(|state| self.live(state.as_ref()) == found).cloned();
            let Some(chosen) = chosen else {
                assert!(
                    is_damaged,
                    "{}: found {:?}, acknowledged {:?}, maybe {:?}, later {:?}",
                    String::from_utf8_lossy(&key),
                    found.map(|(version, value)| (version, value.len())),
                    history.acknowledged.as_ref().map(|it| (it.version, it.expires_at)),
                    history.maybe.iter().map(|it| it.version).collect::<Vec<_>>(),
                    history.later.iter().map(|(at, it)| (at, it.version)).collect::<Vec<_>>(),
                );
                self.model.remove(&key);
                continue;
            };
            self.done.lost += u64::from(Some(&chosen) != states.last());
            self.model.insert(key, History { acknowledged: chosen, ..History::default() });
        }
        if is_damaged || is_flipped {
            // Keys that surfaced from damage are not followed any further.
            self.start_over();
        }
    }

    /// The statistics agree with what is there, each file's live bytes with the index.
    fn check_statistics(&mut self) {
        self.store.collect_expired(10_000, self.now);
        let live: Vec<_> = self
            .model
            .iter()
            .filter_map(|(key, it)| Some((key, self.live(it.acknowledged.as_ref())?.1)))
            .map(|(key, value)| (contract::token_of(key), key.clone(), value))
            .collect();
        let mut expected = live;
        expected.sort();
        let (now, budget) = (self.now, self.rng.usize(1..100));
        assert_eq!(contract::walked(&mut self.store, budget, now), expected);
        let stats = self.store.stats();
        assert_eq!(stats.key_count, expected.len() as u64);
        let payload: usize = expected.iter().map(|(_, key, value)| key.len() + value.len()).sum();
        assert_eq!(stats.payload_bytes, payload as u64);
        self.check_live_bytes();
    }

    fn check_live_bytes(&self) {
        let mut live: BTreeMap<u32, u64> = BTreeMap::new();
        self.store.index.walk(0, usize::MAX, &mut |_, known| {
            let bytes = record_bytes(known.payload_bytes as usize) as u64;
            *live.entry(known.place.file.0).or_default() += bytes;
        });
        for (number, file) in self.store.log.files.iter().enumerate() {
            let expected = live.get(&(number as u32)).copied().unwrap_or(0);
            assert_eq!(file.map_or(0, |file| file.live_bytes), expected, "file {number}");
        }
    }
}

fn run_seed(seed: u64) -> Done {
    let outcome = std::panic::catch_unwind(|| Run::new(seed).run());
    outcome.unwrap_or_else(|panic| {
        let commit = option_env!("GITHUB_SHA").unwrap_or("this commit");
        eprintln!(
            "seed {seed:#018x} failed at {commit}. Replay it with:\n    \
             SEED={seed:#x} cargo test -p gridkv-storage acknowledged_writes_survive -- --nocapture"
        );
        std::panic::resume_unwind(panic)
    })
}

#[test]
fn acknowledged_writes_survive_crashes() {
    let number = |name: &str| {
        let text = std::env::var(name).ok()?;
        let hex = text.strip_prefix("0x").map(|hex| u64::from_str_radix(hex, 16));
        hex.unwrap_or_else(|| text.parse()).ok()
    };
    if let Some(seed) = number("SEED") {
        println!("{:?}", run_seed(seed));
        return;
    }
    let count = number("SEEDS").unwrap_or(SEED_COUNT);
    let first = number("FIRST_SEED").unwrap_or(0);
    let threads = std::thread::available_parallelism().map_or(1, usize::from) as u64;
    let done = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|thread| {
                scope.spawn(move || {
                    let mut done = Done::default();
                    let seeds = (first..first + count).filter(|seed| seed % threads == thread);
                    seeds.for_each(|seed| done.add(&run_seed(seed)));
                    done
                })
            })
            .collect();
        let mut done = Done::default();
        for worker in workers {
            match worker.join() {
                Ok(part) => done.add(&part),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        done
    });
    println!("{count} seeds: {done:?}");
    assert!(done.crashes >= count);
    if count >= 1_000 {
        for (what, amount) in [
            ("acknowledged", done.acknowledged),
            ("lost without being acknowledged", done.lost),
            ("promises", done.promised),
            ("loads", done.loads),
            ("failed logs", done.failed_logs),
            ("full disks", done.full),
            ("damaged logs", done.damaged),
            ("compacted bytes", done.compacted),
            ("crashes before anything was read", done.blind),
            ("openings that ended early", done.cut_short),
        ] {
            assert!(amount >= count / 100, "{what}: {amount}");
        }
    }
}

#[test]
fn the_same_seed_does_the_same() {
    for seed in 0..20 {
        let hash = || {
            let mut run = Run::new(seed);
            for _ in 0..300 {
                run.step();
            }
            run.crash();
            run.disk.event_hash()
        };
        assert_eq!(hash(), hash(), "seed {seed}");
    }
}
