//! The nodes, and what carries their messages.

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use rkyv::util::AlignedVec;

use super::super::*;
use crate::hlc::HybridClock;
use crate::model::{Timestamp, Version};
use crate::mutation::{self, Draft, Mutation};
use crate::time::{Instant, Now, WallTime};
use crate::token::Slot;
use crate::topology::tests::topology;
use crate::wire::message::{Ask, AskKind, Reason, Reply};

pub(super) const CONFIG: Config = Config {
    request_timeout: Duration::from_secs(1),
    write_quorum: None,
    read_quorum: None,
    drift_max: Duration::from_millis(500),
    op_count_max: 10_000,
    op_bytes_max: 10_000_000,
};

#[derive(Default)]
pub(super) struct Store {
    pub(super) records: BTreeMap<Vec<u8>, AlignedVec>,
    pub(super) promised: Version,
    pub(super) floor: Version,
    pub(super) is_full: bool,
    /// It waits for its disk.
    pub(super) is_busy: bool,
    /// How often the bound of promises was raised.
    pub(super) promise_count: usize,
}

impl Records for Store {
    fn latest<'a>(&'a mut self, _: Token, key: &'a [u8]) -> Result<Option<Mutation<'a>>, Unready> {
        if self.is_busy {
            return Err(Unready::Busy);
        }
        Ok(self.records.get(key).map(|bytes| mutation::access(bytes).unwrap()))
    }

    fn version(&mut self, _: Token, key: &[u8]) -> Version {
        let record = self.records.get(key).map(|bytes| mutation::access(bytes).unwrap());
        version_of(record.as_ref())
    }

    fn apply(&mut self, token: Token, mutation: &Mutation<'_>) -> Result<Applied, Unready> {
        let before = self.latest(token, mutation.key)?;
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
        self.promise_count += 1;
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

pub(super) struct Node {
    pub(super) coordinator: Coordinator,
    pub(super) replica: Replica,
    pub(super) store: Store,
    pub(super) log: Vec<Archive>,
}

/// What an operation has come to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum End {
    Value(Option<Vec<u8>>),
    Done(Outcome),
}

/// What is on its way.
pub(super) enum Sent {
    Ask(Ask, Archive),
    Reply(Reply, Option<AlignedVec>),
}

pub(super) struct Cluster {
    pub(super) nodes: BTreeMap<NodeId, Node>,
    pub(super) wire: VecDeque<(NodeId, NodeId, Sent)>,
    pub(super) down: BTreeSet<NodeId>,
    /// Nothing is accepted for the moment.
    pub(super) is_frozen: bool,
    /// Changes leave what there is.
    pub(super) keeps: bool,
    /// How long ago was sent what arrives, in milliseconds.
    pub(super) backlog_ms: u64,
    pub(super) now: Instant,
    /// How far each node's clock is ahead, in milliseconds.
    pub(super) ahead_ms: BTreeMap<NodeId, i64>,
    pub(super) ends: BTreeMap<(NodeId, OpId), End>,
    keys: BTreeMap<(NodeId, OpId), Vec<u8>>,
}

impl Cluster {
    pub(super) fn new(count: u16) -> Self {
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
        let mut cluster = Self {
            nodes: (1..=count).map(node).collect(),
            wire: VecDeque::new(),
            down: BTreeSet::new(),
            is_frozen: false,
            keeps: false,
            backlog_ms: 0,
            now: Instant::ZERO,
            ahead_ms: BTreeMap::new(),
            ends: BTreeMap::new(),
            keys: BTreeMap::new(),
        };
        // They ask each other for their clocks.
        for number in 1..=count {
            cluster.drain(NodeId(number));
        }
        while cluster.deliver_one() {}
        cluster
    }

    pub(super) fn wall(&self) -> WallTime {
        WallTime::from_millis(1_000_000 + self.now.as_nanos() / 1_000_000)
    }

    /// The time as a node has it.
    pub(super) fn now(&self, at: NodeId) -> Now {
        let ahead = self.ahead_ms.get(&at).copied().unwrap_or(0);
        let millis = self.wall().as_millis().checked_add_signed(ahead).unwrap();
        Now { at: self.now, wall: WallTime::from_millis(millis) }
    }

    pub(super) fn begin(
        &mut self,
        at: u16,
        key: &[u8],
        level: Level,
        work: Work,
    ) -> (NodeId, OpId) {
        let at = NodeId(at);
        let now = self.now(at);
        let coordinator = &mut self.nodes.get_mut(&at).unwrap().coordinator;
        let op = coordinator.begin(now, (Slot::of(key).first(), key), level, work);
        self.keys.insert((at, op), key.to_vec());
        self.drain(at);
        (at, op)
    }

    /// Does what a coordinator says. A change adds one to a number.
    pub(super) fn drain(&mut self, at: NodeId) {
        let now = self.now(at);
        let node = self.nodes.get_mut(&at).unwrap();
        let mut outputs = VecDeque::new();
        loop {
            // What it leads to is done when all is known of what came before.
            outputs.extend(std::iter::from_fn(|| node.coordinator.poll_output()));
            let Some(output) = outputs.pop_front() else { break };
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
                    let put = Draft::new(&self.keys[&(at, op)], value.as_deref(), None);
                    let put = Computed::Put(put);
                    let computed = if self.keeps { Computed::Keep } else { put };
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

    pub(super) fn deliver_one(&mut self) -> bool {
        let Some((from, to, sent)) = self.wire.pop_front() else { return false };
        if self.down.contains(&from) || self.down.contains(&to) {
            return true;
        }
        let backlog = Duration::from_millis(self.backlog_ms);
        let (now, remote) = (self.now(to), self.now(from).wall - backlog);
        let node = self.nodes.get_mut(&to).unwrap();
        if from != to {
            node.coordinator.on_heard(now, from, remote);
        }
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
        let (clock, token) = (coordinator.clock_mut(), view.placement.token(mutation.key));
        let answer = replica.handle(store, clock, &context, ask, (token, &mutation)).unwrap();
        if let Some(reply) = answer.reply {
            self.wire.push_back((to, from, Sent::Reply(reply, answer.record)));
        }
        true
    }

    /// Lets everything come to its end: what feeds a silent peer goes on for ever.
    pub(super) fn run(&mut self) {
        self.run_until(self.now + Duration::from_secs(5));
    }

    /// Lets what is on its way arrive, and what is to be tried again soon be tried.
    pub(super) fn run_briefly(&mut self) {
        self.run_until(self.now + Duration::from_millis(70));
    }

    /// Lets time pass.
    pub(super) fn wait(&mut self, time: Duration) {
        let until = self.now + time;
        self.run_until(until);
        self.now = until;
    }

    pub(super) fn run_until(&mut self, until: Instant) {
        for _ in 0..10_000 {
            let mut delivered = 0;
            while self.deliver_one() {
                delivered += 1;
                assert!(delivered < 100_000, "they ask each other for ever");
            }
            let next = self.nodes.values().filter_map(|it| it.coordinator.poll_timeout()).min();
            let Some(next) = next else { return };
            if next > until {
                return;
            }
            self.now = self.now.max(next);
            for number in self.nodes.keys().copied().collect::<Vec<_>>() {
                let now = self.now(number);
                self.nodes.get_mut(&number).unwrap().coordinator.handle_timeout(now);
                self.drain(number);
            }
        }
        panic!("it does not come to an end");
    }

    pub(super) fn set_down(&mut self, number: u16, is_down: bool) {
        let number = NodeId(number);
        if is_down {
            self.down.insert(number)
        } else {
            self.down.remove(&number)
        };
        for at in self.nodes.keys().copied().collect::<Vec<_>>() {
            let now = self.now(at);
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

    pub(super) fn end(&mut self, op: (NodeId, OpId)) -> End {
        self.run();
        self.ends[&op].clone()
    }

    pub(super) fn read(&mut self, at: u16, key: &[u8], level: Level) -> End {
        let op = self.begin(at, key, level, Work::Read);
        self.end(op)
    }

    pub(super) fn write(&mut self, at: u16, key: &[u8], value: &[u8], level: Level) -> End {
        let work = Work::Write(Draft::new(key, Some(value), None));
        let op = self.begin(at, key, level, work);
        self.end(op)
    }
}

pub(super) fn value(archive: &AlignedVec) -> Option<Vec<u8>> {
    mutation::access(archive).unwrap().value.map(<[u8]>::to_vec)
}

pub(super) fn is_acknowledged(end: &End) -> bool {
    matches!(end, End::Done(Outcome::Acknowledged { .. }))
}

pub(super) fn text(value: &str) -> End {
    End::Value(Some(value.as_bytes().to_vec()))
}
