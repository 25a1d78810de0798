//! One coordinator, and replicas that say what a test has them say.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use rkyv::util::AlignedVec;

use super::super::*;
use super::kit::{CONFIG, End, value};
use crate::hlc::HybridClock;
use crate::model::{Timestamp, Version};
use crate::mutation::{self, Draft, Mutation};
use crate::time::{Instant, Now, WallTime};
use crate::token::Slot;
use crate::topology::Topology;
use crate::topology::tests::topology;
use crate::wire::message::{Ask, AskKind, Reason, Reply, ReplyKind};

/// What changes append, a letter each.
const LETTERS: [&str; 6] = ["a", "b", "c", "d", "e", "f"];

/// Timeouts that are handled in one test at a time, at most.
const TURNS_MAX: usize = 10_000;

pub(super) struct Script {
    pub(super) coordinator: Coordinator,
    pub(super) now: Instant,
    /// All that was asked, the latest last.
    pub(super) asked: Vec<(Vec<NodeId>, Ask, Archive)>,
    pub(super) ends: BTreeMap<OpId, End>,
    /// What each change has made when it was last asked.
    pub(super) made: BTreeMap<OpId, Vec<u8>>,
    pub(super) logged: Vec<Archive>,
    /// The key of each operation, and its letter.
    /// Who was asked for a clock, and by which request; unless it is silent, each answers at once.
    pub(super) clocks_asked: Vec<(NodeId, u64)>,
    pub(super) clocks_are_silent: bool,
    letters: BTreeMap<OpId, (Vec<u8>, &'static str)>,
}

impl Script {
    /// A coordinator at node 1, in a cluster of nodes `members`, which show their clocks.
    pub(super) fn new(members: u16) -> Self {
        let mut script = Self::empty();
        script.view(topology(members, 3));
        script
    }

    /// As [`Script::new`], of a node that has used versions up to `past` before.
    pub(super) fn of_past(members: u16, past: Timestamp) -> Self {
        let mut script = Self::empty();
        script.coordinator.clock_mut().pass(past);
        script.view(topology(members, 3));
        script
    }

    fn empty() -> Self {
        let clock = HybridClock::new(NodeId(1), Timestamp::ZERO, CONFIG.drift_max);
        Self {
            coordinator: Coordinator::new(CONFIG, clock, 1),
            now: Instant::ZERO,
            asked: Vec::new(),
            ends: BTreeMap::new(),
            made: BTreeMap::new(),
            logged: Vec::new(),
            clocks_asked: Vec::new(),
            clocks_are_silent: false,
            letters: BTreeMap::new(),
        }
    }

    /// As [`Script::new`], and nobody shows its clock.
    pub(super) fn of_silent_clocks(members: u16) -> Self {
        let mut script = Self::empty();
        script.clocks_are_silent = true;
        script.view(topology(members, 3));
        script
    }

    pub(super) fn now(&self) -> Now {
        let wall = WallTime::from_millis(1_000_000 + self.now.as_nanos() / 1_000_000);
        Now { at: self.now, wall }
    }

    /// The cluster is this one from here on.
    pub(super) fn view(&mut self, topology: Topology) {
        let topology = Arc::new(topology);
        let placement = Arc::new(Placement::new(&topology));
        let now = self.now();
        self.coordinator.on_view(now, View::new(topology, placement, Some(NodeId(1))));
        self.drain();
    }

    /// These can be sent to from here on.
    pub(super) fn reach(&mut self, numbers: &[u16]) {
        let mut view = View::clone(self.coordinator.view().unwrap());
        view.reachable = numbers.iter().map(|number| NodeId(*number)).collect();
        let now = self.now();
        self.coordinator.on_view(now, view);
        self.drain();
    }

    /// A node is not reached any more.
    pub(super) fn lose(&mut self, number: u16) {
        let now = self.now();
        self.coordinator.on_lost(now, NodeId(number));
        self.drain();
    }

    pub(super) fn begin(&mut self, key: &[u8], level: Level, work: Work) -> OpId {
        let now = self.now();
        let op = self.coordinator.begin(now, (Slot::of(key).first(), key), level, work);
        let letter = LETTERS[self.letters.len() % LETTERS.len()];
        self.letters.insert(op, (key.to_vec(), letter));
        self.drain();
        op
    }

    /// A change appends its letter.
    fn drain(&mut self) {
        let now = self.now();
        let mut outputs = VecDeque::new();
        loop {
            outputs.extend(std::iter::from_fn(|| self.coordinator.poll_output()));
            let Some(output) = outputs.pop_front() else { break };
            match output {
                Output::Send { to, ask, .. } if ask.kind == AskKind::Clock => {
                    self.clocks_asked.extend(to.iter().map(|node| (*node, ask.request)));
                }
                Output::Send { to, ask, mutation } => {
                    self.asked.push((to.to_vec(), ask, mutation));
                }
                Output::Record { op, record } => {
                    self.ends.insert(op, End::Value(record.and_then(|it| value(&it))));
                }
                Output::Compute { op, record, .. } => {
                    let mut bytes = record.and_then(|it| value(&it)).unwrap_or_default();
                    let (key, letter) = &self.letters[&op];
                    bytes.extend_from_slice(letter.as_bytes());
                    self.made.insert(op, bytes.clone());
                    let computed = Computed::Put(Draft::new(key, Some(&bytes), None));
                    self.coordinator.computed(now, op, computed);
                }
                Output::Log { mutation, .. } => self.logged.push(mutation),
                Output::Feed { peer, from } => {
                    let at = usize::try_from(from).unwrap() - 1;
                    let entries: Vec<_> =
                        self.logged[at..].iter().take(Excerpt::COUNT_MAX).collect();
                    let next = from + entries.len() as u64;
                    let is_last = at + entries.len() == self.logged.len();
                    let entries = entries.into_iter().map(|it| AlignedVec::clone(it)).collect();
                    let excerpt = Excerpt { entries, next, lost_count: 0, is_last };
                    self.coordinator.fed(now, peer, &excerpt);
                }
                Output::Done { op, outcome } => {
                    self.ends.insert(op, End::Done(outcome));
                }
            }
        }
        if !self.clocks_are_silent {
            for (node, request) in std::mem::take(&mut self.clocks_asked) {
                self.show_clock(node, request, now.wall);
            }
        }
    }

    /// A node shows its clock.
    pub(super) fn show_clock(&mut self, node: NodeId, request: u64, wall: WallTime) {
        let (now, kind) = (self.now(), ReplyKind::Clock);
        self.coordinator.on_heard(now, node, wall);
        self.coordinator.on_answer(now, node, Reply { request, kind }, None);
        self.drain();
    }

    /// The latest request.
    pub(super) fn last(&self) -> &(Vec<NodeId>, Ask, Archive) {
        self.asked.last().unwrap()
    }

    /// A node answers a request.
    pub(super) fn answer(
        &mut self,
        from: u16,
        request: u64,
        kind: ReplyKind,
        record: Option<&Mutation<'_>>,
    ) {
        let now = self.now();
        self.coordinator.on_answer(now, NodeId(from), Reply { request, kind }, record);
        self.drain();
    }

    /// A node answers the latest request.
    pub(super) fn reply(&mut self, from: u16, kind: ReplyKind, record: Option<&Mutation<'_>>) {
        let request = self.last().1.request;
        self.answer(from, request, kind, record);
    }

    /// Somebody has promised more: the latest try ends.
    pub(super) fn outbid(&mut self, from: u16) {
        let by = mutation::access(&self.last().2).unwrap().version;
        self.reply(from, ReplyKind::Outbid { by: by.into() }, None);
    }

    pub(super) fn refuse(&mut self, from: u16, reason: Reason) {
        self.reply(from, ReplyKind::Refused { epoch: 0, reason }, None);
    }

    /// Time passes until something is asked.
    pub(super) fn run_until_asked(&mut self, kind: AskKind) {
        let before = self.asked.len();
        let mut turns = 0;
        while !self.asked[before..].iter().any(|(_, ask, _)| ask.kind == kind) {
            turns += 1;
            assert!(turns < TURNS_MAX, "it is asked at some time");
            let at = self.coordinator.poll_timeout().expect("something is under way");
            self.now = self.now.max(at);
            let now = self.now();
            self.coordinator.handle_timeout(now);
            self.drain();
        }
    }

    pub(super) fn run_for(&mut self, time: std::time::Duration) {
        let until = self.now + time;
        let mut turns = 0;
        while let Some(at) = self.coordinator.poll_timeout().filter(|at| *at <= until) {
            turns += 1;
            assert!(turns < TURNS_MAX, "what is due is done");
            self.now = self.now.max(at);
            let now = self.now();
            self.coordinator.handle_timeout(now);
            self.drain();
        }
        self.now = until;
    }
}

pub(super) fn promised() -> ReplyKind {
    ReplyKind::Promised { is_sure: true }
}

pub(super) fn found() -> ReplyKind {
    ReplyKind::Found { is_sure: true }
}

/// A record of a key, of so early a version.
pub(super) fn record<'a>(key: &'a [u8], value: &'a [u8], version: u64) -> Mutation<'a> {
    let version = Version { timestamp: Timestamp(version), node: NodeId(7) };
    Mutation { key, value: Some(value), version, expires_at: None }
}

/// What was proposed in a request.
pub(super) fn proposed(archive: &Archive) -> Mutation<'_> {
    mutation::access(archive).unwrap()
}
