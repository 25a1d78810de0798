//! One core's part of a node in a cluster, without I/O: what clients ask becomes operations of the
//! coordinator, or goes to another node; what peers ask is answered by the core's own replicas.
//!
//! ```text
//!   clients --ask--> incoming --> staged on its shard --> coordinator ----> asks to peers
//!                        |                                 ^    |  |
//!                        |                     peers' replies   |  +-----> sync log
//!                        |                                      v own
//!                        +--> handed to another node        own replicas <-- peers' asks
//! ```
//!
//! - [`commands`]: clients' commands become operations
//! - [`handing`]: changes that another node proposes better
//! - [`clearing`]: what was removed from all nodes is removed here
//! - [`readiness`]: whether requests at `quorum` would be served
//!
//! The engine drives it with rings and mailboxes, the simulator with values. After each event
//! [`Machine::poll_output`] has what is to be done, in order, until there is nothing more.
//!
//! # Invariants
//!
//! - Every command that was asked has one end: [`Output::Reply`], [`Output::Finished`] or
//!   [`Output::CommandReply`].
//! - What the coordinator wants done because of an event is done before it is told the next.
//! - An answer to a coordinator leaves when the log is durable as far as it says: see
//!   [`gridkv_storage::replicated`].

mod clearing;
pub(crate) mod commands;
pub(crate) mod handing;
pub(crate) mod readiness;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use gridkv_cluster::member::State;
use gridkv_cluster::replication::{
    self, Archive, Config, Context, Coordinator, OpId, Standing, View,
};
use gridkv_cluster::topology::Topology;
use gridkv_cluster::topology::agreement::Survey;
use gridkv_cluster::wire::message::{self, Ask, AskKind, DecodeError, Message, Reply};
use gridkv_cluster::{
    HybridClock, Instant, Mutation, NodeId, Now, ShardRange, Slot, Timestamp, Token, Version,
    WallTime, mutation,
};
use gridkv_storage::ReadError;
use gridkv_storage::replicated::Answer;
use gridkv_storage::sync_log::{SyncLog, SyncReader, sync_log};
use rkyv::util::AlignedVec;
use smallvec::SmallVec;

use self::clearing::Clearing;
pub(crate) use self::commands::Incoming;
use self::commands::Pending;
use self::handing::Handing;
use crate::core::account::Account;
use crate::core::job::Job;
use crate::core::parking::Wait;
use crate::core::request::Asker;
use crate::core::shards::Shards;
use crate::error::Error;
use crate::server::commands::Part;

/// A core has its turn at least every tenth of a second: without one for so long, its node stood still,
/// and may have been given up.
const STOOD_STILL: Duration = Duration::from_millis(500);

/// How long what had arrived by then may take to be read.
const FLUSHED_AFTER: Duration = Duration::from_millis(200);

/// The way to a peer, by which what it sends is answered: a number that the driver gives out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct LinkId(pub(crate) u32);

/// Where an answer of a replica goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// To this core's own coordinator.
    Own,
    /// To a peer's.
    Link(LinkId),
}

/// A shard of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) node: NodeId,
    pub(crate) address: SocketAddr,
    pub(crate) shard: u16,
}

/// What is to be done.
pub(crate) enum Output {
    /// Ask a peer's replica. What cannot be sent: [`Machine::on_lost`], once all outputs are done.
    Ask { to: Place, ask: Ask, mutation: Archive },
    /// Answer a peer's coordinator.
    Answer { link: LinkId, reply: Reply, record: Option<AlignedVec> },
    /// Have a peer run a command. What cannot be sent: [`Machine::on_unsent`].
    Command { to: Place, id: u64, entry: Vec<u8> },
    /// Answer a peer's command.
    CommandReply { link: LinkId, entry: Vec<u8> },
    /// Tell a client of this core, or another core, what came of a part of a request.
    Reply { asker: Asker, part: Part, bytes: Vec<u8> },
    /// Tell who waits for a job.
    Finished { job: Box<dyn Job>, end: Result<(), Error> },
}

/// What a machine is made of.
pub(crate) struct Parts {
    pub(crate) config: Config,
    /// Resumes above everything that the core's shards have ever used.
    pub(crate) clock: HybridClock,
    pub(crate) sync_log_bytes: usize,
    pub(crate) seed: u64,
    /// Its stores may lack what they had acknowledged when the node was killed.
    pub(crate) is_behind: bool,
    /// What waits is counted in here.
    pub(crate) waiting: Account,
}

/// One core's part.
pub(crate) struct Machine {
    coordinator: Coordinator,
    log: SyncLog,
    reader: SyncReader,
    request_timeout: Duration,
    /// Replicas of `quorum` for writes and reads, where that is not a majority.
    quorums: (Option<u8>, Option<u8>),
    state: Option<State>,
    is_behind: bool,
    /// Peers to which what is sent would not arrive.
    failing: BTreeSet<NodeId>,
    unopened: BTreeSet<NodeId>,
    clearing: Clearing,
    /// When anything last happened, and until when commands of other nodes are refused because nothing
    /// had for long.
    last_at: Instant,
    refuses_until: Instant,
    /// What was asked and not begun.
    incoming: VecDeque<Incoming>,
    pending: BTreeMap<OpId, Pending>,
    handing: Handing,
    /// What the coordinator wants done.
    todo: VecDeque<replication::Output>,
    /// What this core's own replicas are asked by the coordinator, and what they reply.
    local: VecDeque<(Ask, Archive)>,
    own_replies: VecDeque<(Reply, Option<AlignedVec>)>,
    waiting: Account,
    outputs: VecDeque<Output>,
}

impl Machine {
    pub(crate) fn new(parts: Parts) -> Self {
        let Parts { config, clock, sync_log_bytes, seed, is_behind, waiting } = parts;
        let (log, reader) = sync_log(sync_log_bytes);
        Self {
            request_timeout: config.request_timeout,
            quorums: (config.write_quorum, config.read_quorum),
            coordinator: Coordinator::new(config, clock, seed),
            log,
            reader,
            state: None,
            is_behind,
            failing: BTreeSet::new(),
            unopened: BTreeSet::new(),
            clearing: Clearing::default(),
            last_at: Instant::ZERO,
            refuses_until: Instant::ZERO,
            incoming: VecDeque::new(),
            pending: BTreeMap::new(),
            handing: Handing::default(),
            todo: VecDeque::new(),
            local: VecDeque::new(),
            own_replies: VecDeque::new(),
            waiting,
            outputs: VecDeque::new(),
        }
    }

    /// What holds in the cluster, as last told.
    pub(crate) fn state(&self) -> Option<&State> {
        self.state.as_ref()
    }

    /// What does the work, for what it has counted.
    pub(crate) fn coordinator(&self) -> &Coordinator {
        &self.coordinator
    }

    /// Commands that other nodes were handed.
    pub(crate) fn handed_count(&self) -> u64 {
        self.handing.count()
    }

    /// Whether everything up to `version` was removed here.
    pub(crate) fn has_cleared(&self, version: Version) -> bool {
        self.clearing.has_cleared(version)
    }

    /// Whether no client waits for something that was begun.
    pub(crate) fn is_settled(&self) -> bool {
        self.incoming.is_empty() && self.pending.is_empty() && self.handing.is_empty()
    }

    /// When to call [`Machine::turn`], if nothing else happens first.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        let now = (!self.incoming.is_empty()).then_some(Instant::ZERO);
        let times = [now, self.coordinator.poll_timeout(), self.handing.due_at()];
        times.into_iter().flatten().min()
    }

    /// The next thing to do, oldest first.
    pub(crate) fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// A version for what the node itself writes.
    pub(crate) fn tick(&mut self, now: Now) -> Version {
        self.coordinator.clock_mut().tick(now.wall)
    }

    /// What is written from here on is newer than `cut`.
    pub(crate) fn pass(&mut self, cut: Timestamp) {
        self.coordinator.clock_mut().pass(cut);
    }

    /// Up to when what has expired is over by everybody's clock: its value may be freed.
    pub(crate) fn ended_until(&self, now: Now) -> Option<WallTime> {
        self.coordinator.ended_until(now)
    }

    /// A client wants something. It is begun at the next event.
    pub(crate) fn ask(&mut self, incoming: Incoming) {
        self.incoming.push_back(incoming);
    }

    /// Takes no writes from here on, until it is told anew what holds. What there is, and how far the
    /// clock is by then.
    pub(crate) fn survey(&mut self, shards: &Shards) -> Survey {
        if let Some(state) = &mut self.state
            && state.standing == Standing::Serving
        {
            state.standing = Standing::Frozen;
        }
        // Who is behind does not know what it held.
        let is_empty = !self.is_behind() && shards.iter().all(|shard| shard.is_empty());
        Survey { is_empty, latest: self.coordinator.clock_mut().latest().0 }
    }

    /// Begins what was asked, and does what is due. Whether there was anything.
    pub(crate) fn turn(&mut self, now: Now, shards: &mut Shards) -> bool {
        self.assert_drained();
        let has_begun = !self.incoming.is_empty();
        let has_expired = self.expire(now, shards);
        self.run(now, shards);
        has_begun || has_expired
    }

    /// Does what is due. Whether there was anything. It comes before what has arrived: after a pause what
    /// clients were long told has no known end must not go on.
    fn expire(&mut self, now: Now, shards: &mut Shards) -> bool {
        if now.at.saturating_since(self.last_at) > STOOD_STILL && self.last_at > Instant::ZERO {
            self.refuses_until = now.at + FLUSHED_AFTER;
        }
        self.last_at = now.at;
        let is_due = |at: Option<Instant>| at.is_some_and(|at| at <= now.at);
        let (is_late, is_handed_late) =
            (is_due(self.coordinator.poll_timeout()), is_due(self.handing.due_at()));
        if is_late {
            self.coordinator.handle_timeout(now);
        }
        if is_handed_late {
            self.give_up_handed(|handed| handed.until <= now.at);
        }
        if is_late || is_handed_late {
            self.run(now, shards);
        }
        is_late || is_handed_late
    }

    /// What holds in the cluster.
    pub(crate) fn on_state(&mut self, now: Now, shards: &mut Shards, state: State) {
        self.assert_drained();
        let cleared = state.topology.cleared();
        let before = self.state.replace(state).map(|before| before.topology.cleared());
        if before.is_some_and(|before| before < cleared) {
            // Whatever is lacking here is gone for all.
            self.is_behind = false;
        }
        self.refresh_view(now);
        self.clear_through(shards, cleared);
        self.run(now, shards);
    }

    /// What is sent to `failing` from here on would not arrive; to all others it would. To those who are
    /// `unopened` nothing was said yet: whether they answer is not known.
    pub(crate) fn on_links(
        &mut self,
        now: Now,
        shards: &mut Shards,
        failing: BTreeSet<NodeId>,
        unopened: BTreeSet<NodeId>,
    ) {
        self.assert_drained();
        assert!(failing.is_subset(&unopened));
        self.unopened = unopened;
        if self.failing != failing {
            self.failing = failing;
            self.refresh_view(now);
        }
        self.run(now, shards);
    }

    /// What a peer was asked, and was handed, will not be answered.
    pub(crate) fn on_lost(&mut self, now: Now, shards: &mut Shards, node: NodeId) {
        self.assert_drained();
        self.coordinator.on_lost(now, node);
        self.give_up_handed(|handed| handed.node == node);
        self.run(now, shards);
    }

    /// A peer's clock showed `remote` when it sent what is about to be taken in.
    pub(crate) fn on_heard(&mut self, now: Now, from: NodeId, remote: WallTime) {
        self.coordinator.on_heard(now, from, remote);
    }

    /// A peer's messages have arrived: a frame's body.
    ///
    /// # Errors
    ///
    /// [`DecodeError`]: those before the first that is none are done.
    pub(crate) fn on_messages(
        &mut self,
        now: Now,
        shards: &mut Shards,
        (from, link): (NodeId, LinkId),
        body: &[u8],
    ) -> Result<(), DecodeError> {
        const BATCH: usize = 32;
        self.assert_drained();
        self.expire(now, shards);
        let mut messages = message::read(body);
        loop {
            let batch: Result<SmallVec<[_; BATCH]>, _> = messages.by_ref().take(BATCH).collect();
            let batch = batch?;
            if batch.is_empty() {
                return Ok(());
            }
            // What the messages will touch is fetched before the first one is looked at.
            let token_key = shards.token_key();
            let asked = batch.iter().filter_map(|message| match message {
                Message::Ask(_, mutation) => Some(token_key.token(mutation.key)),
                Message::Reply(..) => None,
            });
            let tokens: SmallVec<[Token; BATCH]> = asked.collect();
            shards.prefetch(&tokens);
            let mut tokens = tokens.into_iter();
            for message in batch {
                match message {
                    Message::Ask(ask, mutation) => {
                        let token = tokens.next().expect("each that asks has one");
                        let (source, about) = (Source::Link(link), (token, &mutation));
                        self.ask_replica(now, shards, source, ask, about);
                    }
                    Message::Reply(reply, record) => {
                        self.coordinator.on_answer(now, from, reply, record.as_ref());
                    }
                }
                self.run(now, shards);
            }
        }
    }

    /// A ticket of a store is ready. Whether the machine has waited for it.
    pub(crate) fn on_ready(
        &mut self,
        now: Now,
        shards: &mut Shards,
        wait: Wait,
        result: &Result<(), ReadError>,
    ) -> bool {
        self.assert_drained();
        if self.go_on_clearing(shards, wait) {
            shards.release(wait);
            return true;
        }
        let Some(view) = self.coordinator.view().cloned() else { return false };
        let context = Context { view: &view, standing: self.standing(), wall: now.wall };
        let shard = shards.by_index(wait.shard);
        let before = shard.waiting_bytes();
        let is_its = shard.on_ready(self.coordinator.clock_mut(), &context, wait, result);
        self.waiting.replace(before, shard.waiting_bytes());
        while let Some(answer) = shard.poll_answer() {
            self.deliver(answer);
        }
        self.run(now, shards);
        is_its
    }

    /// The stores have had their turn: answers that are durable leave. Whether there were any.
    pub(crate) fn settle(&mut self, now: Now, shards: &mut Shards) -> bool {
        self.assert_drained();
        let mut has_answered = false;
        for shard in shards.iter_mut() {
            shard.settle();
            while let Some(answer) = shard.poll_answer() {
                has_answered = true;
                self.deliver(answer);
            }
        }
        self.run(now, shards);
        has_answered
    }

    /// Whether the copies here may lack what they had acknowledged.
    pub(crate) const fn may_lack(&self) -> bool {
        self.is_behind
    }

    /// Whether they are not counted for that. Where there are no others, they are all that there is.
    pub(crate) fn is_behind(&self) -> bool {
        self.is_behind && self.state.as_ref().is_some_and(|state| has_copies(&state.topology))
    }

    /// Whether the core serves its copies.
    pub(crate) fn standing(&self) -> Standing {
        match &self.state {
            None => Standing::Frozen,
            Some(_) if !self.clearing.is_done() => Standing::Frozen,
            Some(state) if self.is_behind() && state.standing == Standing::Serving => {
                Standing::Behind
            }
            Some(state) => state.standing,
        }
    }

    /// Tells the coordinator who can be sent to: who answers, and has no link that fails.
    fn refresh_view(&mut self, now: Now) {
        let Some(state) = &self.state else { return };
        let (topology, placement) = (Arc::clone(&state.topology), Arc::clone(&state.placement));
        let mut view = View::new(topology, placement, state.own);
        view.reachable.retain(|node| {
            let is_heard = state.alive.contains(node) && !self.failing.contains(node);
            state.own == Some(*node) || is_heard
        });
        view.suspected.clone_from(&state.suspected);
        // Not while it is frozen: that passes, and is waited for.
        view.serves = !matches!(self.standing(), Standing::Empty | Standing::Behind);
        let reachable = view.reachable.clone();
        self.coordinator.on_view(now, view);
        self.give_up_handed(|handed| !reachable.contains(&handed.node));
    }

    /// Does all that follows from an event.
    fn run(&mut self, now: Now, shards: &mut Shards) {
        loop {
            self.coordinator.take_outputs(&mut self.todo);
            if let Some(output) = self.todo.pop_front() {
                self.perform(now, shards, output);
            } else if let Some((reply, record)) = self.own_replies.pop_front() {
                self.on_own_reply(now, reply, record.as_ref());
            } else if let Some((ask, archive)) = self.local.pop_front() {
                let mutation = mutation::access(&archive).expect("it was encoded here");
                let token = shards.token_key().token(mutation.key);
                self.ask_replica(now, shards, Source::Own, ask, (token, &mutation));
            } else if let Some(incoming) = self.incoming.pop_front() {
                self.begin(now, shards, incoming);
            } else {
                break;
            }
        }
        self.assert_invariants();
    }

    fn perform(&mut self, now: Now, shards: &mut Shards, output: replication::Output) {
        use replication::Output;
        match output {
            Output::Send { to, ask, mutation } => {
                let key = mutation::access(&mutation).expect("it was encoded here").key;
                // What is about no key goes where a link of this core's leads.
                let any = shards.ends().map(|(first, _)| first);
                let any = any.filter(|_| ask.kind == AskKind::Clock);
                let token = any.unwrap_or_else(|| Slot::of(key).first());
                self.send(&to, ask, (token, &mutation));
            }
            Output::Record { op, record } => self.on_record(now, shards, op, record),
            Output::Compute { op, record, version } => {
                self.on_compute(now, shards, op, record, version);
            }
            Output::Log { sequence, mutation } => {
                let given = self.log.push(&mutation);
                assert_eq!(given.0, sequence, "the log and the coordinator count alike");
            }
            Output::Feed { peer, from } => {
                let excerpt = self.reader.excerpt(from);
                self.coordinator.fed(now, peer, &excerpt);
            }
            Output::Done { op, outcome } => self.on_done(op, outcome),
        }
    }

    /// Sends a message to replicas: this core's own, and peers'.
    fn send(&mut self, nodes: &[NodeId], ask: Ask, (token, archive): (Token, &Archive)) {
        let Some(state) = &self.state else { return };
        for node in nodes {
            let mutation = Archive::clone(archive);
            if state.own == Some(*node) {
                self.local.push_back((ask, mutation));
            } else if let Some(to) = place(state, *node, token) {
                self.outputs.push_back(Output::Ask { to, ask, mutation });
            }
        }
    }

    /// Has one of this core's replicas answer.
    fn ask_replica(
        &mut self,
        now: Now,
        shards: &mut Shards,
        source: Source,
        ask: Ask,
        (token, mutation): (Token, &Mutation<'_>),
    ) {
        // What is about no key is answered by any shard.
        let any = shards.ends().map(|(first, _)| first).filter(|_| ask.kind == AskKind::Clock);
        let token = any.unwrap_or(token);
        if !shards.owns(token) {
            // A peer that knows another number of shards: it learns better with the topology.
            return;
        }
        let Some(view) = self.coordinator.view().cloned() else { return };
        let context = Context { view: &view, standing: self.standing(), wall: now.wall };
        let shard = shards.of(token);
        let before = shard.waiting_bytes();
        shard.ask(self.coordinator.clock_mut(), &context, source, token, ask, mutation);
        self.waiting.replace(before, shard.waiting_bytes());
        while let Some(answer) = shard.poll_answer() {
            self.deliver(answer);
        }
    }

    /// Hands a replica's answer to who waits for it.
    fn deliver(&mut self, answer: Answer<Source>) {
        let Answer { source, reply, record } = answer;
        match source {
            Source::Link(link) => self.outputs.push_back(Output::Answer { link, reply, record }),
            Source::Own => self.own_replies.push_back((reply, record)),
        }
    }

    fn on_own_reply(&mut self, now: Now, reply: Reply, record: Option<&AlignedVec>) {
        let Some(own) = self.state.as_ref().and_then(|state| state.own) else { return };
        let record = record.map(|it| mutation::access(it).expect("it was encoded here"));
        self.coordinator.on_answer(now, own, reply, record.as_ref());
    }

    fn assert_drained(&self) {
        assert!(self.outputs.is_empty(), "outputs are carried out before the next event");
    }

    fn assert_invariants(&self) {
        assert!(self.todo.is_empty() && self.local.is_empty() && self.own_replies.is_empty());
        assert!(self.incoming.is_empty(), "what was asked was begun");
    }
}

/// Whether keys have several copies.
pub(crate) fn has_copies(topology: &Topology) -> bool {
    topology.members.len() > 1 && topology.replica_count > 1
}

/// A node's shard for a token; `None` for one that is no member.
fn place(state: &State, node: NodeId, token: Token) -> Option<Place> {
    let member = state.topology.by_node(node)?;
    let shard = ShardRange::owner(token, member.shard_count).0;
    Some(Place { node, address: member.address, shard })
}
