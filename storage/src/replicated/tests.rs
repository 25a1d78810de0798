//! Over a store of files on the simulated disk.

use std::sync::Arc;
use std::time::Duration;

use gridkv_cluster::replication::{Standing, View};
use gridkv_cluster::topology::placement::Placement;
use gridkv_cluster::topology::{Member, Topology};
use gridkv_cluster::wire::message::AskKind;
use gridkv_cluster::{Instant, NodeId, WallTime};

use super::*;
use crate::backend::Tombstones;
use crate::contract::{self, token_of, version};
use crate::disk::{Faults, SimulatedDisk};
use crate::file::{FileStorage, Setup};

const START: WallTime = WallTime::from_millis(1_700_000_000_000);
const EPOCH: u64 = 1;
/// A cache of so many bytes holds a few dozen of the values that are written here.
const CACHE_BYTES: u64 = 32 << 10;
const TURN_COUNT_MAX: usize = 100_000;

struct World {
    shard: Replicated<u32>,
    disk: SimulatedDisk,
    clock: HybridClock,
    view: View,
    now: Instant,
    /// Who was answered, and what.
    answers: Vec<(u32, ReplyKind, Option<AlignedVec>)>,
}

impl World {
    fn new(durability: Durability) -> Self {
        let disk = SimulatedDisk::new(1, Faults::NONE);
        let setup = Setup {
            cache_bytes_max: CACHE_BYTES,
            durability,
            segment_bytes: 1 << 20,
            directory: "simulated".to_owned(),
        };
        let options = contract::options(Tombstones::Keep);
        let (store, _) =
            FileStorage::open(disk.clone(), setup, &options, START).expect("the disk is empty");
        let member = Member {
            id: 1,
            node: 1,
            key: [0; 32],
            name: "a".to_owned(),
            address: ([127, 0, 0, 1], 7_000).into(),
            clients: None,
            zone: String::new(),
            weight: 1,
            shard_count: 1,
            store: 1,
        };
        let topology = Topology::first(1, contract::token_key().secret(), 1, member);
        assert_eq!(topology.epoch, EPOCH);
        let placement = Placement::new(&topology);
        let own = Some(topology.members[0].node());
        Self {
            shard: Replicated::new(Box::new(store), durability),
            disk,
            clock: HybridClock::new(NodeId(1), version(0).timestamp, Duration::from_secs(1)),
            view: View::new(Arc::new(topology), Arc::new(placement), own),
            now: Instant::ZERO,
            answers: Vec::new(),
        }
    }

    fn ask(
        &mut self,
        source: u32,
        (kind, request): (AskKind, u64),
        key: &[u8],
        value: Option<&[u8]>,
        number: u64,
    ) {
        let context = Context { view: &self.view, standing: Standing::Serving, wall: START };
        let mutation = Mutation { key, value, version: version(number), expires_at: None };
        let ask = Ask { request, epoch: EPOCH, kind };
        self.shard.ask(&mut self.clock, &context, source, token_of(key), ask, &mutation);
        self.take_answers();
    }

    fn write(&mut self, source: u32, key: &[u8], value: &[u8], number: u64) {
        self.ask(source, (AskKind::Write, 1), key, Some(value), number);
    }

    fn read(&mut self, source: u32, key: &[u8]) {
        self.ask(source, (AskKind::Read, 1), key, None, 0);
    }

    fn take_answers(&mut self) {
        while let Some(Answer { source, reply, record }) = self.shard.poll_answer() {
            assert_ne!(reply.request, 0, "who wants no answer gets none");
            self.answers.push((source, reply.kind, record));
        }
    }

    fn turn(&mut self) {
        self.now = self.now + Duration::from_micros(10);
        self.shard.store_mut().turn(self.now);
        while let Some((ticket, result)) = self.shard.store_mut().poll_ready() {
            let context = Context { view: &self.view, standing: Standing::Serving, wall: START };
            assert!(self.shard.on_ready(&mut self.clock, &context, ticket, &result));
            self.take_answers();
        }
        self.shard.settle();
        self.take_answers();
    }

    /// Turns until nothing waits. Returns who was answered since the last time, in order.
    fn settled(&mut self) -> Vec<(u32, ReplyKind, Option<AlignedVec>)> {
        for _ in 0..TURN_COUNT_MAX {
            if self.shard.is_settled() {
                return std::mem::take(&mut self.answers);
            }
            self.turn();
        }
        panic!("it never settles");
    }

    /// Writes more than the cache holds, and waits until that is on disk.
    fn with_values_on_disk() -> Self {
        let mut world = Self::new(Durability::Commit);
        for number in 0..500_u32 {
            world.write(0, format!("key:{number}").as_bytes(), &[7; 500], u64::from(number) + 1);
        }
        assert_eq!(world.settled().len(), 500);
        world
    }

    /// The first key whose value is in memory, or is not.
    fn key(&self, is_in_memory: bool) -> Vec<u8> {
        let mut keys = (0..500).map(|number| format!("key:{number}").into_bytes());
        let store = self.shard.store();
        let is_found = |key: &Vec<u8>| store.peek(token_of(key), key, START).record().is_ok();
        keys.find(|key| is_found(key) == is_in_memory).expect("there are both")
    }
}

fn value_of(record: Option<&AlignedVec>) -> Option<Vec<u8>> {
    mutation::access(record?).expect("it was encoded here").value.map(<[u8]>::to_vec)
}

#[test]
fn a_write_is_answered_when_it_is_durable_and_not_before() {
    let mut world = World::new(Durability::Commit);
    world.write(1, b"key", b"value", 1);
    world.read(2, b"key");
    assert!(world.answers.is_empty(), "nobody is told what is not durable");
    assert_eq!((world.shard.held_count(), world.shard.waiting_count()), (2, 0));
    let wanted = world.shard.store().appended();
    let answers = world.settled();
    assert!(world.shard.store().durable() >= wanted);
    assert!(matches!(answers[0], (1, ReplyKind::Written { replaced: false }, None)));
    assert!(matches!(answers[1], (2, ReplyKind::Found { .. }, Some(_))));
    assert_eq!(value_of(answers[1].2.as_ref()), Some(b"value".to_vec()));
}

#[test]
fn a_promise_is_told_when_its_bound_is_durable() {
    let mut world = World::new(Durability::Commit);
    world.ask(1, (AskKind::Prepare, 1), b"key", None, 5);
    assert!(world.answers.is_empty());
    assert!(world.shard.store().promised() >= version(5));
    assert!(matches!(world.settled()[..], [(1, ReplyKind::Promised { .. }, None)]));
    assert_eq!(world.shard.promise_count(), 1);
}

#[test]
fn with_a_durability_that_does_not_wait_nothing_is_held() {
    let mut world = World::new(Durability::None);
    world.write(1, b"key", b"value", 1);
    assert!(matches!(world.answers[..], [(1, ReplyKind::Written { .. }, None)]));
    assert!(world.shard.is_settled());
}

#[test]
fn a_durability_that_is_changed_holds_for_a_store_that_was_opened_with_another() {
    let mut world = World::new(Durability::None);
    world.shard.set_durability(Durability::Commit);
    world.write(1, b"key", b"value", 1);
    assert!(world.answers.is_empty());
    // Without being asked the store would write in a second.
    let started_at = world.now;
    assert_eq!(world.settled().len(), 1);
    assert!(world.now.saturating_since(started_at) < Duration::from_millis(500));
}

#[test]
fn messages_about_a_key_are_answered_in_their_order_while_others_pass() {
    let mut world = World::with_values_on_disk();
    let (key, cached) = (world.key(false), world.key(true));
    world.read(1, &key);
    world.write(2, &key, b"new", 1_000);
    world.read(3, &key);
    assert_eq!((world.shard.waiting_count(), world.answers.len()), (3, 0));
    assert!(world.shard.waiting_bytes() > 0);
    world.read(4, &cached);
    assert_eq!(world.answers.len(), 1, "what is in the cache waits for nothing");
    let answers = world.settled();
    let sources: Vec<u32> = answers.iter().map(|(source, ..)| *source).collect();
    assert_eq!(sources, [4, 1, 2, 3]);
    assert_eq!(value_of(answers[1].2.as_ref()), Some(vec![7; 500]));
    assert_eq!(value_of(answers[3].2.as_ref()), Some(b"new".to_vec()));
    assert_eq!((world.shard.waiting_count(), world.shard.waiting_bytes()), (0, 0));
}

#[test]
fn what_waits_again_and_again_for_room_in_the_log_keeps_its_order() {
    const COUNT: u32 = 400;
    let mut world = World::new(Durability::Commit);
    for source in 0..COUNT {
        world.write(source, b"key", &[7; 200 << 10], u64::from(source) + 1);
    }
    assert!(world.shard.waiting_count() > 100, "there is more than the log takes at once");
    let sources: Vec<u32> = world.settled().iter().map(|(source, ..)| *source).collect();
    assert_eq!(sources, (0..COUNT).collect::<Vec<_>>());
}

#[test]
fn a_queue_reads_its_record_once() {
    let mut world = World::new(Durability::Commit);
    world.write(0, b"larger than the cache", &[7; 2 * CACHE_BYTES as usize], 1);
    world.settled();
    let before = world.disk.counts().read_count;
    (0..100).for_each(|source| world.read(source, b"larger than the cache"));
    assert_eq!(world.shard.waiting_count(), 100);
    assert_eq!(world.settled().len(), 100);
    assert_eq!(world.disk.counts().read_count, before + 1);
}

#[test]
fn a_message_whose_record_cannot_be_read_is_refused_and_the_next_goes_on() {
    let mut world = World::with_values_on_disk();
    world.disk.set_faults(Faults { read_failure: 1.0, ..Faults::NONE });
    let key = world.key(false);
    world.read(1, &key);
    world.write(2, &key, b"new", 1_000);
    world.ask(3, (AskKind::Repair, 0), &key, Some(b"old"), 1);
    let answers = world.settled();
    let refused = ReplyKind::Refused { epoch: EPOCH, reason: Reason::Failed };
    assert_eq!((answers[0].0, answers[0].1), (1, refused));
    assert!(matches!(answers[1..], [(2, ReplyKind::Written { .. }, None)]), "a repair wants none");
}

#[test]
fn what_never_becomes_durable_is_never_told() {
    let mut world = World::new(Durability::Commit);
    world.disk.set_faults(Faults { sync_failure: 1.0, ..Faults::NONE });
    world.write(1, b"key", b"value", 1);
    world.read(2, b"key");
    assert!(world.settled().is_empty());
    assert!(world.shard.store().has_failed());
    world.write(3, b"key", b"later", 2);
    let refused = ReplyKind::Refused { epoch: EPOCH, reason: Reason::Failed };
    assert_eq!(world.answers.pop().map(|(source, kind, _)| (source, kind)), Some((3, refused)));
}
