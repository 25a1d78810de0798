//! Coordinators and replicas: what members of the cluster may say to them, whatever they were asked.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use rkyv::util::AlignedVec;

use super::Source;
use crate::hlc::HybridClock;
use crate::model::{NodeId, Timestamp, Version};
use crate::mutation::{self, Draft, Mutation};
use crate::replication::{
    Applied, Archive, Computed, Config, Context, Coordinator, Excerpt, Level, OpId, Output,
    Records, Replica, Standing, Unready, View, Work,
};
use crate::time::{Instant, Now, WallTime};
use crate::token::{Slot, Token};
use crate::topology::placement::Placement;
use crate::topology::tests::topology;
use crate::wire::message::{self, Ask, AskKind, Message, Reason, Reply, ReplyKind};

const CONFIG: Config = Config {
    request_timeout: Duration::from_secs(1),
    write_quorum: None,
    read_quorum: None,
    drift_max: Duration::from_millis(500),
    op_count_max: 32,
    op_bytes_max: 4 << 10,
};

const KEYS: [&[u8]; 4] = [b"a", b"b", b"{a}c", b""];
const REASONS: [Reason; 5] =
    [Reason::Epoch, Reason::Frozen, Reason::Drift, Reason::Failed, Reason::Overloaded];

fn view(source: &mut Source<'_>) -> View {
    let topology = Arc::new({
        let mut topology = topology(1 + u16::from(source.byte() % 4), 1 + source.byte() % 4);
        topology.cleared_timestamp = if source.is_rare(8) { source.number() >> 17 } else { 0 };
        topology
    });
    let placement = Arc::new(Placement::new(&topology));
    let own = (!source.is_rare(8)).then_some(NodeId(1));
    let mut view = View::new(topology, placement, own);
    view.reachable.retain(|_| !source.is_rare(4));
    view
}

fn version(source: &mut Source<'_>, wall: WallTime) -> Version {
    let near = Timestamp::from_wall(wall).0.wrapping_add(source.number() % 7).wrapping_sub(3);
    let timestamp = Timestamp(if source.is_rare(4) { source.number() } else { near });
    Version { timestamp, node: NodeId(u16::from(source.byte() % 6)) }
}

/// A mutation as it comes over the wire.
fn archive(source: &mut Source<'_>, wall: WallTime) -> AlignedVec {
    let value = source.flag().then_some(&b"value"[..]);
    let expires_at =
        value.and_then(|_| source.is_rare(4).then(|| WallTime::from_millis(source.number())));
    let key = source.pick(&KEYS);
    mutation::encode(&Mutation { key, value, version: version(source, wall), expires_at })
}

fn asking(source: &mut Source<'_>, epoch: u64) -> Ask {
    let request = source.number();
    let epoch = if source.is_rare(8) { source.number() } else { epoch };
    let kinds = [
        AskKind::Write,
        AskKind::Read,
        AskKind::Prepare,
        AskKind::Accept,
        AskKind::Repair,
        AskKind::Clock,
    ];
    Ask { request, epoch, kind: source.pick(&kinds) }
}

fn answering(source: &mut Source<'_>, (request, wall): (u64, WallTime)) -> Reply {
    let kind = match source.below(7) {
        0 => ReplyKind::Written { replaced: source.flag() },
        1 => ReplyKind::Found { is_sure: source.flag() },
        2 => ReplyKind::Promised { is_sure: source.flag() },
        3 => ReplyKind::Accepted,
        4 => ReplyKind::Outbid { by: version(source, wall).into() },
        5 => ReplyKind::Clock,
        _ => ReplyKind::Refused { epoch: source.number(), reason: source.pick(&REASONS) },
    };
    Reply { request, kind }
}

/// As they are read from a frame: what cannot be read is not heard.
fn on_the_wire(source: &mut Source<'_>, body: &[u8], hear: impl FnOnce(Message<'_>)) {
    let mut damaged = body.to_vec();
    source.damage(&mut damaged);
    let mut body: AlignedVec = AlignedVec::new();
    body.extend_from_slice(&damaged);
    if let Some(Ok(message)) = message::read(&body).next() {
        hear(message);
    }
}

/// A store that is sometimes busy, or refuses.
struct Store {
    records: BTreeMap<Vec<u8>, AlignedVec>,
    promised: Version,
    floor: Version,
    trouble: Option<Unready>,
}

impl Records for Store {
    fn latest<'a>(&'a mut self, _: Token, key: &'a [u8]) -> Result<Option<Mutation<'a>>, Unready> {
        match self.trouble {
            Some(Unready::Busy) => Err(Unready::Busy),
            _ => Ok(self.records.get(key).map(|it| mutation::access(it).expect("encoded here"))),
        }
    }

    fn version(&mut self, _: Token, key: &[u8]) -> Version {
        let known = self.records.get(key).map(|it| mutation::access(it).expect("encoded here"));
        known.map_or(Version::ZERO, |it| it.version)
    }

    fn apply(&mut self, token: Token, mutation: &Mutation<'_>) -> Result<Applied, Unready> {
        if let Some(trouble) = self.trouble {
            return Err(trouble);
        }
        if mutation.version <= self.version(token, mutation.key) {
            return Ok(Applied::Superseded);
        }
        let before = self.records.insert(mutation.key.to_vec(), mutation::encode(mutation));
        let is_live = |it: &AlignedVec| mutation::access(it).is_ok_and(|it| it.value.is_some());
        Ok(Applied::Won { replaced: before.as_ref().is_some_and(is_live) })
    }

    fn promise(&mut self, through: Version) -> Result<(), Unready> {
        self.trouble.map_or(Ok(()), Err)?;
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

fn whatever_a_replica_is_asked(source: &mut Source<'_>) {
    let wall = WallTime::from_millis(1_700_000_000_000);
    let mut clock = HybridClock::new(NodeId(1), Timestamp::ZERO, CONFIG.drift_max);
    let (promised, floor) = (version(source, wall), Version::ZERO);
    let mut store = Store { records: BTreeMap::new(), promised, floor, trouble: None };
    let mut replica = Replica::new(promised);
    let (mut view, mut wall) = (view(source), wall);
    while !source.is_empty() {
        if source.is_rare(16) {
            view = self::view(source);
        }
        wall = if source.is_rare(32) {
            WallTime::from_millis(source.number() >> 17)
        } else {
            wall + source.pause()
        };
        store.trouble = match source.below(16) {
            0 => Some(Unready::Busy),
            1 => Some(Unready::Refused(Reason::DiskFull)),
            _ => None,
        };
        let standings = [Standing::Serving, Standing::Serving, Standing::Frozen, Standing::Empty];
        let standing = source.pick(&standings);
        let context = Context { view: &view, standing, wall };
        let mut body = Vec::new();
        message::push_ask(asking(source, view.epoch()), &archive(source, wall), &mut body);
        on_the_wire(source, &body, |message| {
            let Message::Ask(ask, mutation) = message else { return };
            let token = view.placement.token(mutation.key);
            let answer = replica.handle(&mut store, &mut clock, &context, ask, (token, &mutation));
            let answered = answer.ok().and_then(|answer| answer.reply);
            assert!(answered.is_none_or(|it| it.request == ask.request));
        });
        assert!(replica.promise_count() <= KEYS.len() * 8);
    }
}

struct Rig {
    coordinator: Coordinator,
    now: Now,
    requests: Vec<u64>,
    log: Vec<Archive>,
    /// What was asked to be made, and is made later.
    computing: Vec<OpId>,
    keys: BTreeMap<OpId, &'static [u8]>,
    begun: usize,
    ended: usize,
}

impl Rig {
    fn new(source: &mut Source<'_>) -> Self {
        let clock = HybridClock::new(NodeId(0), Timestamp::ZERO, CONFIG.drift_max);
        let coordinator = Coordinator::new(CONFIG, clock, source.number());
        let wall = WallTime::from_millis(1_700_000_000_000);
        Self {
            coordinator,
            now: Now { at: Instant::ZERO, wall },
            requests: Vec::new(),
            log: Vec::new(),
            computing: Vec::new(),
            keys: BTreeMap::new(),
            begun: 0,
            ended: 0,
        }
    }

    fn step(&mut self, source: &mut Source<'_>) {
        let pause = source.pause();
        self.now = Now { at: self.now.at + pause, wall: self.now.wall + pause };
        if source.is_rare(32) {
            self.now.wall = WallTime::from_millis(source.number() >> 17);
        }
        let now = self.now;
        let node = NodeId(1 + u16::from(source.byte() % 5));
        match source.below(12) {
            0 => {
                let due = self.coordinator.poll_timeout();
                self.now.at = due.map_or(now.at, |due| due.max(now.at));
                self.coordinator.handle_timeout(self.now);
            }
            1..=3 => self.begin(source),
            4..=7 => self.answer(source, node),
            8 => self.coordinator.on_lost(now, node),
            9 => {
                let remote = WallTime::from_millis(source.number() >> 17);
                self.coordinator.on_heard(now, node, remote);
            }
            10 => self.coordinator.on_view(now, view(source)),
            _ => {
                if let Some(op) = self.computing.pop() {
                    let computed = self.computed(source, op);
                    self.coordinator.computed(now, op, computed);
                }
            }
        }
        self.drain(source);
    }

    fn begin(&mut self, source: &mut Source<'_>) {
        let count = 1 + source.byte() % 6;
        let levels =
            [Level::One, Level::Quorum, Level::Count(count), Level::All, Level::Linearizable];
        let (key, level) = (source.pick(&KEYS), source.pick(&levels));
        let value = source.flag().then_some(&b"some value"[..]);
        let work = match source.below(3) {
            0 => Work::Read,
            1 => Work::Write(Draft::new(key, value, None)),
            _ => Work::Change,
        };
        let token = Slot::of(key).first();
        // What is begun may compute at once.
        let op = self.coordinator.begin(self.now, (token, key), level, work);
        self.keys.insert(op, key);
        self.begun += 1;
    }

    fn answer(&mut self, source: &mut Source<'_>, node: NodeId) {
        let known = !self.requests.is_empty() && !source.is_rare(8);
        let request = if known { source.pick(&self.requests) } else { source.number() };
        let (now, wall) = (self.now, self.now.wall);
        let archive = if source.flag() { archive(source, wall) } else { AlignedVec::new() };
        let mut body = Vec::new();
        message::push_reply(answering(source, (request, wall)), &archive, &mut body);
        let coordinator = &mut self.coordinator;
        on_the_wire(source, &body, |message| {
            if let Message::Reply(reply, record) = message {
                coordinator.on_answer(now, node, reply, record.as_ref());
            }
        });
    }

    /// Takes in all that is put out, then does what that asks for, one thing after the other.
    fn drain(&mut self, source: &mut Source<'_>) {
        let (mut count, mut feeds, mut computes) = (0, VecDeque::new(), VecDeque::new());
        loop {
            while let Some(output) = self.coordinator.poll_output() {
                count += 1;
                assert!(count <= 5_000, "one event leads to so much");
                match output {
                    Output::Send { ask, .. } => self.requests.push(ask.request),
                    Output::Record { .. } | Output::Done { .. } => self.ended += 1,
                    Output::Compute { op, .. } => computes.push_back(op),
                    Output::Log { sequence, mutation } => {
                        self.log.push(mutation);
                        assert_eq!(self.log.len() as u64, sequence);
                    }
                    Output::Feed { peer, from } => feeds.push_back((peer, from)),
                }
            }
            if let Some((peer, from)) = feeds.pop_front() {
                let excerpt = self.excerpt(from);
                self.coordinator.fed(self.now, peer, &excerpt);
            } else if let Some(op) = computes.pop_front() {
                if source.is_rare(4) {
                    self.computing.push(op);
                } else {
                    let computed = self.computed(source, op);
                    self.coordinator.computed(self.now, op, computed);
                }
            } else {
                break;
            }
        }
        self.requests.drain(..self.requests.len().saturating_sub(64));
        assert!(self.ended <= self.begun, "an operation ends once");
        // What clients have asked for, and what each peer is fed at a time.
        assert!(self.coordinator.op_count() <= CONFIG.op_count_max + 6 * Excerpt::COUNT_MAX);
    }

    fn computed(&self, source: &mut Source<'_>, op: OpId) -> Computed {
        if source.is_rare(3) {
            return Computed::Keep;
        }
        let value = source.flag().then_some(&b"made"[..]);
        Computed::Put(Draft::new(self.keys[&op], value, None))
    }

    fn excerpt(&self, from: u64) -> Excerpt {
        let from = usize::try_from(from).expect("a place in the log") - 1;
        let entries = self.log[from..].iter().take(Excerpt::COUNT_MAX);
        let entries: Vec<_> = entries.map(|it| AlignedVec::clone(it)).collect();
        let end = from + entries.len();
        let is_last = end == self.log.len();
        Excerpt { entries, next: end as u64 + 1, lost_count: 0, is_last }
    }
}

#[test]
fn fuzz_whatever_a_replica_is_asked_it_answers() {
    super::run(2_000, 1_500, whatever_a_replica_is_asked);
}

#[test]
fn fuzz_whatever_a_coordinator_is_answered_its_operations_end_once() {
    super::run(2_000, 1_500, |source| {
        let mut rig = Rig::new(source);
        while !source.is_empty() {
            rig.step(source);
        }
    });
}
