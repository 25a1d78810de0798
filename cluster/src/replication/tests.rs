//! Coordinators and replicas of a few nodes, on a network that loses nothing unless told to.

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use rkyv::util::AlignedVec;

use super::*;
use crate::hlc::HybridClock;
use crate::message::{Ask, AskKind, Reason, Reply, ReplyKind};
use crate::model::{Timestamp, Version};
use crate::mutation::{self, Mutation};
use crate::time::{Instant, Now, WallTime};
use crate::token::Slot;
use crate::topology::tests::topology;

const CONFIG: Config = Config {
    request_timeout: Duration::from_secs(1),
    write_quorum: None,
    read_quorum: None,
    drift_max: Duration::from_millis(500),
    op_count_max: 10_000,
};

#[derive(Default)]
struct Store {
    records: BTreeMap<Vec<u8>, AlignedVec>,
    promised: Version,
    floor: Version,
    is_full: bool,
}

impl Records for Store {
    fn latest<'a>(&'a mut self, _: Token, key: &'a [u8]) -> Result<Option<Mutation<'a>>, Unready> {
        Ok(self.records.get(key).map(|bytes| mutation::access(bytes).unwrap()))
    }

    fn version(&mut self, token: Token, key: &[u8]) -> Version {
        version_of(self.latest(token, key).unwrap().as_ref())
    }

    fn apply(&mut self, token: Token, mutation: &Mutation<'_>) -> Result<Applied, Unready> {
        let before = self.latest(token, mutation.key).unwrap();
        if mutation.version <= version_of(before.as_ref()) {
            return Ok(Applied::Superseded);
        }
        let replaced = before.is_some_and(|before| before.value.is_some());
        if self.is_full {
            return Err(Unready::Refused(Reason::DiskFull));
        }
        self.records.insert(mutation.key.to_vec(), mutation::encode(mutation));
        Ok(Applied::Won { replaced })
    }

    fn promise(&mut self, through: Version) -> Result<(), Unready> {
        self.promised = self.promised.max(through);
        Ok(())
    }

    fn promised(&self) -> Version {
        self.promised
    }

    fn floor(&self) -> Version {
        self.floor
    }
}

struct Node {
    coordinator: Coordinator,
    replica: Replica,
    store: Store,
    log: Vec<Archive>,
}

/// What an operation has come to.
#[derive(Clone, Debug, PartialEq, Eq)]
enum End {
    Value(Option<Vec<u8>>),
    Done(Outcome),
}

/// What is on its way.
enum Sent {
    Ask(Ask, Archive),
    Reply(Reply, Option<AlignedVec>),
}

struct Cluster {
    nodes: BTreeMap<NodeId, Node>,
    wire: VecDeque<(NodeId, NodeId, Sent)>,
    down: BTreeSet<NodeId>,
    /// Nothing is accepted for the moment.
    is_frozen: bool,
    now: Instant,
    ends: BTreeMap<(NodeId, OpId), End>,
}

impl Cluster {
    fn new(count: u16) -> Self {
        let topology = Arc::new(topology(count, 3));
        let placement = Arc::new(Placement::new(&topology));
        let node = |number| {
            let clock = HybridClock::new(NodeId(number), Timestamp::ZERO, CONFIG.drift_max);
            let mut coordinator = Coordinator::new(CONFIG, clock, u64::from(number));
            let view =
                View::new(Arc::clone(&topology), Arc::clone(&placement), Some(NodeId(number)));
            coordinator.on_view(Now { at: Instant::ZERO, wall: WallTime::EPOCH }, view);
            let replica = Replica::new(Version::ZERO);
            (NodeId(number), Node { coordinator, replica, store: Store::default(), log: vec![] })
        };
        Self {
            nodes: (1..=count).map(node).collect(),
            wire: VecDeque::new(),
            down: BTreeSet::new(),
            is_frozen: false,
            now: Instant::ZERO,
            ends: BTreeMap::new(),
        }
    }

    fn wall(&self) -> WallTime {
        WallTime::from_millis(1_000_000 + self.now.as_nanos() / 1_000_000)
    }

    fn now(&self) -> Now {
        Now { at: self.now, wall: self.wall() }
    }

    fn begin(&mut self, at: u16, key: &[u8], level: Level, work: Work<'_>) -> (NodeId, OpId) {
        let (now, at) = (self.now(), NodeId(at));
        let coordinator = &mut self.nodes.get_mut(&at).unwrap().coordinator;
        let op = coordinator.begin(now, (Slot::of(key).first(), key), level, work);
        self.drain(at);
        (at, op)
    }

    /// Does what a coordinator says. A change adds one to a number.
    fn drain(&mut self, at: NodeId) {
        let now = self.now();
        let node = self.nodes.get_mut(&at).unwrap();
        while let Some(output) = node.coordinator.poll_output() {
            match output {
                Output::Send { to, ask, mutation } => {
                    for to in to {
                        let sent = Sent::Ask(ask, Rc::clone(&mutation));
                        self.wire.push_back((at, to, sent));
                    }
                }
                Output::Record { op, record } => {
                    let value = record.and_then(|it| value(&it));
                    let before = self.ends.insert((at, op), End::Value(value));
                    assert_eq!(before, None, "an operation ends once");
                }
                Output::Compute { op, record, .. } => {
                    let before = record.and_then(|it| value(&it)).unwrap_or_default();
                    let number: u64 = String::from_utf8(before).unwrap().parse().unwrap_or(0);
                    let value = Some((number + 1).to_string().into_bytes());
                    let computed = Computed::Put { value, expires_at: None };
                    node.coordinator.computed(now, op, computed);
                }
                Output::Log { sequence, mutation } => {
                    node.log.push(mutation);
                    assert_eq!(node.log.len() as u64, sequence);
                }
                Output::Feed { peer, from } => {
                    let from = usize::try_from(from).unwrap() - 1;
                    let entries: Vec<_> = node.log[from..]
                        .iter()
                        .take(Excerpt::COUNT_MAX)
                        .map(|it| AlignedVec::clone(it))
                        .collect();
                    let end = from + entries.len();
                    let is_last = end == node.log.len();
                    let excerpt = Excerpt { entries, next: end as u64 + 1, lost_count: 0, is_last };
                    node.coordinator.fed(now, peer, &excerpt);
                }
                Output::Done { op, outcome } => {
                    let before = self.ends.insert((at, op), End::Done(outcome));
                    assert_eq!(before, None, "an operation ends once");
                }
            }
        }
    }

    fn deliver_one(&mut self) -> bool {
        let Some((from, to, sent)) = self.wire.pop_front() else { return false };
        if self.down.contains(&from) || self.down.contains(&to) {
            return true;
        }
        let now = self.now();
        let node = self.nodes.get_mut(&to).unwrap();
        let (ask, mutation) = match sent {
            Sent::Ask(ask, mutation) => (ask, mutation),
            Sent::Reply(reply, record) => {
                let record = record.as_ref().map(|bytes| mutation::access(bytes).unwrap());
                node.coordinator.on_answer(now, from, reply, record.as_ref());
                self.drain(to);
                return true;
            }
        };
        let view = node.coordinator.view().unwrap().clone();
        let is_frozen = self.is_frozen && ask.kind == AskKind::Accept;
        let standing = if is_frozen { Standing::Frozen } else { Standing::Serving };
        let context = Context { view: &view, standing, wall: now.wall };
        let Node { coordinator, replica, store, .. } = node;
        let mutation = mutation::access(&mutation).unwrap();
        let clock = coordinator.clock_mut();
        let answer = replica.handle(store, clock, &context, ask, &mutation).unwrap();
        if let Some(reply) = answer.reply {
            self.wire.push_back((to, from, Sent::Reply(reply, answer.record)));
        }
        true
    }

    /// Lets everything come to its end: what feeds a silent peer goes on for ever.
    fn run(&mut self) {
        self.run_until(self.now + Duration::from_secs(5));
    }

    fn run_until(&mut self, until: Instant) {
        for _ in 0..100_000 {
            while self.deliver_one() {}
            let next = self.nodes.values().filter_map(|it| it.coordinator.poll_timeout()).min();
            let Some(next) = next else { return };
            if next > until {
                return;
            }
            self.now = self.now.max(next);
            let now = self.now();
            for number in self.nodes.keys().copied().collect::<Vec<_>>() {
                self.nodes.get_mut(&number).unwrap().coordinator.handle_timeout(now);
                self.drain(number);
            }
        }
        panic!("it does not come to an end");
    }

    fn set_down(&mut self, number: u16, is_down: bool) {
        let number = NodeId(number);
        if is_down {
            self.down.insert(number)
        } else {
            self.down.remove(&number)
        };
        let now = self.now();
        for at in self.nodes.keys().copied().collect::<Vec<_>>() {
            let node = self.nodes.get_mut(&at).unwrap();
            let mut view = View::clone(node.coordinator.view().unwrap());
            if is_down {
                view.reachable.remove(&number)
            } else {
                view.reachable.insert(number)
            };
            node.coordinator.on_view(now, view);
            self.drain(at);
        }
    }

    fn end(&mut self, op: (NodeId, OpId)) -> End {
        self.run();
        self.ends[&op].clone()
    }

    fn read(&mut self, at: u16, key: &[u8], level: Level) -> End {
        let op = self.begin(at, key, level, Work::Read);
        self.end(op)
    }

    fn write(&mut self, at: u16, key: &[u8], value: &[u8], level: Level) -> End {
        let work = Work::Write { value: Some(value), expires_at: None };
        let op = self.begin(at, key, level, work);
        self.end(op)
    }
}

fn value(archive: &AlignedVec) -> Option<Vec<u8>> {
    mutation::access(archive).unwrap().value.map(<[u8]>::to_vec)
}

fn is_acknowledged(end: &End) -> bool {
    matches!(end, End::Done(Outcome::Acknowledged { .. }))
}

fn text(value: &str) -> End {
    End::Value(Some(value.as_bytes().to_vec()))
}

#[test]
fn what_is_written_at_one_node_is_read_at_every_other() {
    for level in [Level::One, Level::Quorum, Level::All, Level::Count(2), Level::Linearizable] {
        let mut cluster = Cluster::new(5);
        assert!(is_acknowledged(&cluster.write(1, b"k", b"one", level)), "{level:?}");
        for at in 1..=5 {
            assert_eq!(cluster.read(at, b"k", level), text("one"), "{level:?} at {at}");
            assert_eq!(cluster.read(at, b"none", level), End::Value(None));
        }
    }
}

#[test]
fn changes_of_one_key_from_all_nodes_add_up() {
    let mut cluster = Cluster::new(3);
    let mut ops = Vec::new();
    for _ in 0..20 {
        for at in 1..=3 {
            ops.push(cluster.begin(at, b"n", Level::Linearizable, Work::Change));
        }
    }
    cluster.run();
    let ends: Vec<End> = ops.iter().map(|op| cluster.ends[op].clone()).collect();
    let done = ends.iter().filter(|end| is_acknowledged(end)).count();
    let unknown = ends.iter().filter(|end| matches!(end, End::Done(Outcome::Unknown(_)))).count();
    let End::Value(Some(sum)) = cluster.read(2, b"n", Level::Linearizable) else { panic!() };
    let sum: usize = String::from_utf8(sum).unwrap().parse().unwrap();
    assert!((done..=done + unknown).contains(&sum), "{done} {unknown} {sum}");
    assert!(done > 0);
}

#[test]
fn too_few_replicas_are_told_at_once_and_nothing_is_sent() {
    let mut cluster = Cluster::new(3);
    cluster.set_down(2, true);
    assert!(is_acknowledged(&cluster.write(1, b"k", b"one", Level::Quorum)));
    let too_few = Why::TooFew { reachable: 2, needed: 3 };
    let all = cluster.write(1, b"k", b"two", Level::All);
    assert_eq!(all, End::Done(Outcome::NotApplied(too_few)));
    cluster.set_down(3, true);
    for level in [Level::Quorum, Level::Linearizable] {
        let too_few = Why::TooFew { reachable: 1, needed: 2 };
        let end = cluster.write(1, b"k", b"three", level);
        assert_eq!(end, End::Done(Outcome::NotApplied(too_few)));
        assert_eq!(cluster.read(1, b"k", level), End::Done(Outcome::NotApplied(too_few)));
    }
    assert_eq!(cluster.read(1, b"k", Level::One), text("one"));
}

#[test]
fn a_silent_replica_makes_a_write_unknown_not_failed() {
    let mut cluster = Cluster::new(3);
    // Down, and nobody knows it.
    cluster.down.extend([NodeId(2), NodeId(3)]);
    let end = cluster.write(1, b"k", b"one", Level::Quorum);
    assert!(matches!(end, End::Done(Outcome::Unknown(Why::TimedOut { .. }))), "{end:?}");
    let end = cluster.read(1, b"k", Level::Quorum);
    assert!(matches!(end, End::Done(Outcome::NotApplied(_))), "{end:?}");
}

#[test]
fn a_peer_that_was_away_is_fed_what_it_missed() {
    let mut cluster = Cluster::new(3);
    cluster.set_down(3, true);
    for number in 0..500 {
        let key = format!("k{number}");
        assert!(is_acknowledged(&cluster.write(1, key.as_bytes(), b"v", Level::Quorum)));
    }
    assert!(cluster.nodes[&NodeId(3)].store.records.is_empty());
    cluster.set_down(3, false);
    cluster.run();
    assert_eq!(cluster.nodes[&NodeId(3)].store.records.len(), 500);
    assert_eq!(cluster.nodes[&NodeId(1)].coordinator.lags().count(), 0);
}

#[test]
fn a_read_mends_a_replica_that_has_an_older_value() {
    let mut cluster = Cluster::new(3);
    cluster.write(1, b"k", b"old", Level::All);
    cluster.down.insert(NodeId(3));
    cluster.write(1, b"k", b"new", Level::Quorum);
    cluster.down.clear();
    assert_eq!(cluster.read(2, b"k", Level::All), text("new"));
    cluster.run();
    assert_eq!(value(&cluster.nodes[&NodeId(3)].store.records[&b"k"[..]]), Some(b"new".to_vec()));
}

#[test]
fn a_promise_that_nobody_comes_back_to_does_not_keep_a_replica_from_being_mended() {
    let mut cluster = Cluster::new(3);
    cluster.write(1, b"n", b"1", Level::All);
    // Three promises, and who has asked for them falls silent.
    cluster.begin(2, b"n", Level::Linearizable, Work::Change);
    cluster.deliver_one();
    cluster.down.insert(NodeId(1));
    cluster.deliver_one();
    cluster.deliver_one();
    cluster.wire.clear();
    // What the second has is newer, and stays below the promises of the others.
    let node = cluster.nodes.get_mut(&NodeId(3)).unwrap();
    let promised = node.store.promised();
    let found = mutation::access(&node.store.records[&b"n"[..]]).unwrap();
    let version = Version { timestamp: Timestamp(found.version.timestamp.0 + 1), ..found.version };
    assert!(version < promised);
    let newer = Mutation { value: Some(b"7"), version, ..found };
    let newer = mutation::encode(&newer);
    let topology = cluster.nodes[&NodeId(3)].coordinator.view().unwrap().clone();
    let context = Context { view: &topology, standing: Standing::Serving, wall: cluster.wall() };
    let Node { coordinator, replica, store, .. } = cluster.nodes.get_mut(&NodeId(3)).unwrap();
    let mut ask = |kind| {
        let (mutation, epoch) = (mutation::access(&newer).unwrap(), topology.epoch());
        let (clock, ask) = (coordinator.clock_mut(), Ask { request: 5, epoch, kind });
        let answer = replica.handle(store, clock, &context, ask, &mutation).unwrap();
        answer.reply.unwrap().kind
    };
    assert_eq!(ask(AskKind::Repair), ReplyKind::Written { replaced: false });
    assert_eq!(ask(AskKind::Read), ReplyKind::Found { is_sure: false });
    cluster.down.clear();
    assert_eq!(cluster.read(1, b"n", Level::Linearizable), text("7"));
    assert_eq!(cluster.read(1, b"n", Level::Linearizable), text("7"));
}

#[test]
fn what_was_not_applied_comes_to_nobody_later() {
    let mut cluster = Cluster::new(3);
    for node in cluster.nodes.values_mut() {
        node.store.is_full = true;
    }
    let refused = Outcome::NotApplied(Why::Refused(Reason::DiskFull));
    for level in [Level::One, Level::Linearizable] {
        assert_eq!(cluster.write(1, b"k", b"one", level), End::Done(refused), "{level:?}");
    }
    for node in cluster.nodes.values_mut() {
        node.store.is_full = false;
    }
    // It has its place in the log, and a peer has missed it.
    cluster.down.insert(NodeId(3));
    assert!(is_acknowledged(&cluster.write(1, b"other", b"two", Level::Quorum)));
    cluster.down.clear();
    cluster.run();
    for at in 1..=3 {
        assert!(!cluster.nodes[&NodeId(at)].store.records.contains_key(&b"k"[..]), "{at}");
        assert!(cluster.nodes[&NodeId(at)].store.records.contains_key(&b"other"[..]), "{at}");
    }
}

#[test]
fn a_write_below_a_promise_is_made_again_above_it() {
    let mut cluster = Cluster::new(3);
    let change = cluster.begin(1, b"k", Level::Linearizable, Work::Change);
    // The promises are given; the acceptance is still to come.
    for _ in 0..3 {
        cluster.deliver_one();
    }
    let write = Work::Write { value: Some(b"7"), expires_at: None };
    let write = cluster.begin(2, b"k", Level::All, write);
    cluster.run();
    assert!(is_acknowledged(&cluster.ends[&change]));
    assert!(is_acknowledged(&cluster.ends[&write]));
    let last = cluster.read(3, b"k", Level::All);
    assert!([text("7"), text("8")].contains(&last), "{last:?}");
}

#[test]
fn a_change_waits_for_nothing_and_what_follows_it_waits_for_it() {
    let mut cluster = Cluster::new(3);
    let ops: Vec<_> =
        (0..3).map(|_| cluster.begin(1, b"n", Level::Linearizable, Work::Change)).collect();
    let read = cluster.begin(1, b"n", Level::Quorum, Work::Read);
    cluster.run();
    assert!(ops.iter().all(|op| is_acknowledged(&cluster.ends[op])));
    assert_eq!(cluster.ends[&read], text("3"));
    assert_eq!(
        cluster.nodes[&NodeId(1)].coordinator.stats().rounds,
        2,
        "two waited and shared one"
    );
}

#[test]
fn a_clock_that_most_find_ahead_writes_nothing() {
    let mut cluster = Cluster::new(3);
    let wall = cluster.wall() + Duration::from_secs(3_600);
    let now = Now { at: cluster.now, wall };
    let coordinator = &mut cluster.nodes.get_mut(&NodeId(1)).unwrap().coordinator;
    for node in [2, 3] {
        coordinator.on_heard(now, NodeId(node), wall - Duration::from_secs(3_600));
    }
    let end = cluster.write(1, b"k", b"one", Level::One);
    assert_eq!(end, End::Done(Outcome::NotApplied(Why::ClockAhead)));
}

#[test]
fn what_a_removal_would_swallow_is_written_again_above_it() {
    let mut cluster = Cluster::new(3);
    let floor = Version {
        timestamp: Timestamp::last_of(cluster.wall() + Duration::from_millis(100)),
        node: NodeId(9),
    };
    for node in cluster.nodes.values_mut() {
        node.store.floor = floor;
    }
    for level in [Level::Quorum, Level::Linearizable] {
        let end = cluster.write(1, b"k", b"v", level);
        let End::Done(Outcome::Acknowledged { version, .. }) = end else { panic!("{end:?}") };
        assert!(version > floor);
        assert_eq!(cluster.read(2, b"k", level), text("v"));
    }
}

#[test]
fn a_change_whose_time_is_up_is_unknown_while_its_round_goes_on_with_what_it_has_made() {
    let mut cluster = Cluster::new(3);
    let first = cluster.begin(1, b"n", Level::Linearizable, Work::Change);
    // Not when replicas are asked again: its time is up while all have refused.
    cluster.now = cluster.now + Duration::from_millis(5);
    let early = cluster.begin(1, b"n", Level::Linearizable, Work::Change);
    cluster.now = Instant::ZERO + CONFIG.request_timeout / 2;
    let late = cluster.begin(1, b"n", Level::Linearizable, Work::Change);
    while !cluster.ends.contains_key(&first) {
        assert!(cluster.deliver_one());
    }
    // The two others share a round now. It is proposed, and taken by nobody for a while.
    cluster.is_frozen = true;
    cluster.run_until(Instant::ZERO + CONFIG.request_timeout * 5 / 4);
    let end = cluster.ends[&early].clone();
    assert!(matches!(end, End::Done(Outcome::Unknown(_))), "{end:?}");
    assert!(!cluster.ends.contains_key(&late));
    cluster.is_frozen = false;
    assert!(is_acknowledged(&cluster.end(late)));
    assert_eq!(cluster.read(2, b"n", Level::Linearizable), text("3"), "it was made after all");
}
