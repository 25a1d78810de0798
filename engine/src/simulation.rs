//! One core of a node as the simulator drives it: its shards, its machine, and the ways to the node's
//! other cores. What the engine does with rings, sockets and mailboxes, the simulator does with values;
//! all that decides anything is the engine's.

use std::collections::{BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, PoisonError};

use crossbeam_channel::TrySendError;
use gridkv_cluster::member::State;
use gridkv_cluster::replication::{Archive, Config, Coordinator, Level, Standing};
use gridkv_cluster::topology::agreement::Survey;
use gridkv_cluster::wire::message::{Ask, DecodeError, Reply};
use gridkv_cluster::{HybridClock, Instant, NodeId, Now, Token, TokenKey, Version};
use gridkv_cluster::{ShardRange, WallTime};
use gridkv_net::resp::Protocol;
use gridkv_net::ring::ConnectionId;
use gridkv_storage::{Durability, Storage};
use rkyv::util::AlignedVec;

use crate::cluster::machine::{Incoming, LinkId, Machine, Output, Parts, Place};
use crate::core::account::Account;
use crate::core::forward::{About, Links, Waiter};
use crate::core::job::{Access, Job};
use crate::core::mailbox::Message;
use crate::core::request::{Asker, Request};
use crate::core::shards::{Layout, Shards};
use crate::error::Error;
use crate::server::commands::{Part, command_of};
use crate::shard::{Condition, Expiry, SetOptions, Shard};

/// Longest value, in bytes.
const VALUE_BYTES_MAX: usize = 1 << 20;
/// Slots that a turn looks at for values that have expired for everybody.
const EXPIRY_BUDGET: usize = 64;

/// What a core is made of.
pub struct Setup {
    /// What its coordinator is told.
    pub config: Config,
    /// What tokens are made with.
    pub token_key: TokenKey,
    /// Shards of the node, and cores that run them.
    pub shard_count: u16,
    /// See [`Setup::shard_count`].
    pub core_count: usize,
    /// Which of them it is.
    pub core: usize,
    /// The stores of its shards, in order.
    pub stores: Vec<Box<dyn Storage>>,
    /// When a write counts as done.
    pub durability: Durability,
    /// Whether the node was killed while it had acknowledged what was not on disk.
    pub is_behind: bool,
    /// Size of its sync log, in bytes.
    pub sync_log_bytes: usize,
    /// For what is drawn at random.
    pub seed: u64,
}

/// The shards of a node's core.
#[must_use]
pub fn shards_of(core: usize, shard_count: u16, core_count: usize) -> Vec<u16> {
    Layout { shard_count, core_count }.shards_of(core).collect()
}

/// The core that runs a node's shard.
#[must_use]
pub fn core_of_shard(shard: u16, shard_count: u16, core_count: usize) -> usize {
    Layout { shard_count, core_count }.core_of_shard(shard)
}

/// A call of the API, about one key.
#[derive(Clone, Debug)]
pub enum Call {
    /// What the key has.
    Get,
    /// Gives it a value.
    Set {
        /// The value.
        value: Vec<u8>,
        /// When it stops to exist.
        expires_at: Option<WallTime>,
    },
    /// Takes it away.
    Delete,
}

/// What a call has come to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Called {
    /// This value, or none; with its version, or that of its deletion.
    Found(Version, Option<Vec<u8>>),
    /// Written, with this version.
    Written(Version),
    /// Whether there was a value that was deleted; its version, or that of the deletion.
    Deleted(Version, bool),
}

/// What a core wants done.
#[derive(Debug)]
pub enum Effect {
    /// Ask a peer's shard. What cannot be sent: [`Core::on_lost`].
    Ask {
        /// Whose shard.
        to: Peer,
        /// What is asked.
        ask: Ask,
        /// About what.
        mutation: Archive,
    },
    /// Answer a peer's core.
    Answer {
        /// Over which link it has asked.
        link: u32,
        /// What is said.
        reply: Reply,
        /// The record that it tells.
        record: Option<AlignedVec>,
    },
    /// Have a peer run a command. What cannot be sent: [`Core::on_unsent`].
    Command {
        /// Whose shard.
        to: Peer,
        /// Its number.
        id: u64,
        /// It, as an entry of a frame.
        entry: Vec<u8>,
    },
    /// Answer a peer's command.
    CommandReply {
        /// Over which link it came.
        link: u32,
        /// The reply, as an entry of a frame.
        entry: Vec<u8>,
    },
    /// A request has ended: what a client reads, or the text of an error.
    Replied {
        /// Which.
        tag: u64,
        /// The reply.
        reply: Result<Vec<u8>, String>,
    },
    /// A call has ended.
    Called {
        /// Which.
        tag: u64,
        /// What it has come to.
        result: Result<Called, Error>,
    },
}

/// A shard of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The node.
    pub node: NodeId,
    /// Where it is reached.
    pub address: SocketAddr,
    /// The shard's number in it.
    pub shard: u16,
}

/// What one core posts to another.
pub struct Mail(Message);

/// Results of calls that have ended.
type Ended = Arc<Mutex<VecDeque<(u64, Result<Called, Error>)>>>;

/// A core.
pub struct Core {
    shards: Shards,
    machine: Machine,
    links: Links,
    waiting: Account,
    ended: Ended,
    effects: VecDeque<Effect>,
    layout: Layout,
    own: usize,
}

impl Core {
    /// A core that was just started.
    #[must_use]
    pub fn new(setup: Setup) -> Self {
        let Setup { config, token_key, shard_count, core_count, core, stores, .. } = setup;
        let layout = Layout { shard_count, core_count };
        let longest = Arc::new(AtomicUsize::new(0));
        let shards = layout.shards_of(core).zip(stores).map(|(index, store)| {
            let values = (VALUE_BYTES_MAX, Arc::clone(&longest));
            Shard::new(index, shard_count, store, setup.durability, token_key.clone(), values)
        });
        let shards: Vec<Shard> = shards.collect();
        let resume_after = shards.iter().map(Shard::resume_after).max().unwrap_or_default();
        let mut clock = HybridClock::new(NodeId(0), resume_after.timestamp, config.drift_max);
        clock.pass(resume_after.timestamp);
        let waiting = Account::default();
        let parts = Parts {
            config,
            clock,
            sync_log_bytes: setup.sync_log_bytes,
            seed: setup.seed,
            is_behind: setup.is_behind,
            waiting: waiting.clone(),
        };
        Self {
            shards: Shards::new(layout, core, token_key, shards),
            machine: Machine::new(parts),
            links: Links::new(core, core_count),
            waiting,
            ended: Ended::default(),
            effects: VecDeque::new(),
            layout,
            own: core,
        }
    }

    /// What the cluster is, as it was told.
    #[must_use]
    pub fn state(&self) -> Option<&State> {
        self.machine.state()
    }

    /// Its coordinator, for what it has counted.
    #[must_use]
    pub fn coordinator(&self) -> &Coordinator {
        self.machine.coordinator()
    }

    /// Whether it serves its copies.
    #[must_use]
    pub fn standing(&self) -> Standing {
        self.machine.standing()
    }

    /// Whether nobody waits for anything here.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.machine.is_settled() && self.shards.iter().all(Shard::is_settled)
    }

    /// Commands that other nodes were handed.
    #[must_use]
    pub fn handed_count(&self) -> u64 {
        self.machine.handed_count()
    }

    /// Promises that its replicas keep by key.
    #[must_use]
    pub fn promise_count(&self) -> usize {
        self.shards.iter().map(Shard::promise_count).sum()
    }

    /// Messages that wait for a store, and answers that wait for a log.
    #[must_use]
    pub fn held_counts(&self) -> (usize, usize) {
        let counts = self.shards.iter().map(Shard::held_counts);
        counts.fold((0, 0), |sum, it| (sum.0 + it.0, sum.1 + it.1))
    }

    /// Whether the log of a shard has failed.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.shards.iter().any(Shard::has_failed)
    }

    /// The store of a token of this core.
    pub fn store_mut(&mut self, token: Token) -> &mut dyn Storage {
        self.shards.of(token).store_mut()
    }

    /// Whether a token is this core's.
    #[must_use]
    pub fn owns(&self, token: Token) -> bool {
        self.shards.owns(token)
    }

    /// A version for what the node itself writes.
    pub fn tick(&mut self, now: Now) -> Version {
        self.machine.tick(now)
    }

    /// A client of this core asks for something about one key, of whatever core. Whether there is room.
    ///
    /// # Panics
    ///
    /// When it is no command on one key.
    #[must_use]
    pub fn request(&mut self, tag: u64, words: &[&[u8]], level: Level) -> bool {
        let command = command_of(words[0], || None).expect("it is a command");
        assert!(command.can_be_handed_over(words.len()), "it is about one key");
        let token = self.shards.token_key().token(words[command.key_of_part()]);
        let waiter = Waiter { connection: ConnectionId::default(), sequence: tag };
        let about = About { command, protocol: Protocol::Resp3, token, level };
        if self.shards.owns(token) {
            let asker = Asker::Client(waiter);
            self.machine.ask(incoming(&self.waiting, asker, about, words));
            return true;
        }
        let core = self.layout.core_of(token);
        let has_room = self.links.has_room(core);
        if has_room {
            self.links.request(core, waiter, about, words);
        }
        has_room
    }

    /// Somebody calls the API about a key of this core.
    pub fn call(&mut self, tag: u64, key: &[u8], call: Call, level: Level) {
        let token = self.shards.token_key().token(key);
        let call = SimulatedCall {
            tag,
            key: key.to_vec(),
            tokens: [token],
            call,
            level,
            found: None,
            version: Version::ZERO,
            ended: Arc::clone(&self.ended),
        };
        self.machine.ask(Incoming::job(Box::new(call)));
    }

    /// Posts to other cores what they are owed. `post` gives back what there is no room for. Whether
    /// there was some.
    pub fn post(&mut self, mut post: impl FnMut(usize, Mail) -> Result<(), Mail>) -> bool {
        self.links.post(|core, message| {
            assert_ne!(core, self.own, "nothing is posted to oneself");
            post(core, Mail(message)).map_err(|mail| TrySendError::Full(mail.0))
        })
    }

    /// Another core has posted something.
    ///
    /// # Panics
    ///
    /// When it is not for this core.
    pub fn take(&mut self, now: Now, mail: Mail) {
        match mail.0 {
            Message::Requests(batch) => {
                let serve = |core: &mut Self, asker, about, arguments: &[&[u8]]| {
                    core.machine.ask(incoming(&core.waiting, asker, about, arguments));
                };
                batch.for_each(self, |core, tokens| core.shards.prefetch(tokens), serve);
            }
            Message::Answers(batch) => {
                for (waiter, part, bytes) in self.links.take_answers(&batch) {
                    self.effects.push_back(replied(waiter, part, bytes.to_vec()));
                }
            }
            _ => unreachable!("cores post nothing else"),
        }
        self.turn_machine(now);
    }

    /// What holds in the cluster.
    pub fn on_state(&mut self, now: Now, state: State) {
        self.machine.on_state(now, &mut self.shards, state);
        self.drain();
    }

    /// What is sent to these peers would not arrive.
    pub fn on_links(&mut self, now: Now, failing: BTreeSet<NodeId>) {
        self.machine.on_links(now, &mut self.shards, failing.clone(), failing);
        self.drain();
    }

    /// What a peer was asked will not be answered.
    pub fn on_lost(&mut self, now: Now, node: NodeId) {
        self.machine.on_lost(now, &mut self.shards, node);
        self.drain();
    }

    /// A command could not be sent.
    pub fn on_unsent(&mut self, now: Now, id: u64) {
        self.machine.on_unsent(now, &mut self.shards, id);
        self.drain();
    }

    /// A frame of messages has arrived, sent when its sender's clock showed `remote`.
    ///
    /// # Errors
    ///
    /// [`DecodeError`].
    pub fn on_messages(
        &mut self,
        now: Now,
        (from, link, remote): (NodeId, u32, WallTime),
        body: &[u8],
    ) -> Result<(), DecodeError> {
        self.machine.on_heard(now, from, remote);
        let way = (from, LinkId(link));
        let result = self.machine.on_messages(now, &mut self.shards, way, body);
        self.drain();
        result
    }

    /// Commands that another node has handed over.
    ///
    /// # Errors
    ///
    /// What is wrong with them.
    pub fn on_commands(&mut self, now: Now, link: u32, body: &[u8]) -> Result<(), &'static str> {
        let result = self.machine.on_commands(now, &mut self.shards, LinkId(link), body);
        self.drain();
        result
    }

    /// Replies to commands that were handed over.
    ///
    /// # Errors
    ///
    /// What is wrong with them.
    pub fn on_command_replies(&mut self, now: Now, body: &[u8]) -> Result<(), &'static str> {
        let result = self.machine.on_command_replies(now, &mut self.shards, body);
        self.drain();
        result
    }

    /// Takes no writes from here on, until it is told anew what holds. What there is.
    pub fn survey(&mut self) -> Survey {
        self.machine.survey(&self.shards)
    }

    /// Does what is due, and lets the stores have their turn. Called after all else that happens to it.
    pub fn turn(&mut self, now: Now) {
        self.shards.set_now(now.wall);
        self.turn_machine(now);
        if let Some(until) = self.machine.ended_until(now) {
            self.shards.collect_expired(EXPIRY_BUDGET, until);
        }
        self.shards.turn(now.at);
        while let Some((wait, result)) = self.shards.poll_ready() {
            let is_its = self.machine.on_ready(now, &mut self.shards, wait, &result);
            if !is_its {
                self.shards.release(wait);
            }
            self.drain();
        }
        self.machine.settle(now, &mut self.shards);
        self.drain();
        self.turn_machine(now);
    }

    /// When to call [`Core::turn`], if nothing else happens first; what disks need apart.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let stores = self.shards.iter().filter_map(Shard::turn_due_at).min();
        self.machine.poll_timeout().into_iter().chain(stores).min()
    }

    /// The next thing to do.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    fn turn_machine(&mut self, now: Now) {
        while self.machine.turn(now, &mut self.shards) {
            self.drain();
        }
        self.drain();
    }

    fn drain(&mut self) {
        while let Some(output) = self.machine.poll_output() {
            let effect = match output {
                Output::Ask { to, ask, mutation } => Effect::Ask { to: peer(to), ask, mutation },
                Output::Answer { link, reply, record } => {
                    Effect::Answer { link: link.0, reply, record }
                }
                Output::Command { to, id, entry } => Effect::Command { to: peer(to), id, entry },
                Output::CommandReply { link, entry } => {
                    Effect::CommandReply { link: link.0, entry }
                }
                Output::Reply { asker: Asker::Client(waiter), part, bytes } => {
                    replied(waiter, part, bytes)
                }
                Output::Reply { asker: Asker::Core { core, id }, part, bytes } => {
                    self.links.answer(core, id, part, &bytes);
                    continue;
                }
                Output::Reply { asker: Asker::Peer { .. }, .. } => {
                    unreachable!("peers are answered over links")
                }
                Output::Finished { job, end } => {
                    job.finish(end);
                    continue;
                }
            };
            self.effects.push_back(effect);
        }
        let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        let ended = ended.drain(..).map(|(tag, result)| Effect::Called { tag, result });
        self.effects.extend(ended);
    }
}

fn incoming(waiting: &Account, asker: Asker, about: About, arguments: &[&[u8]]) -> Incoming {
    let About { command, protocol, token, level } = about;
    Incoming::request(Request::new(waiting, asker, command, protocol, token, arguments), level)
}

fn replied(waiter: Waiter, part: Part, bytes: Vec<u8>) -> Effect {
    let reply = match part {
        Part::Reply => Ok(bytes),
        Part::Count(counted) => Ok(format!(":{}\r\n", u8::from(counted)).into_bytes()),
        Part::Failed => Err(String::from_utf8_lossy(&bytes).into_owned()),
        Part::Wait => unreachable!("what waits is not told"),
    };
    Effect::Replied { tag: waiter.sequence, reply }
}

fn peer(place: Place) -> Peer {
    let Place { node, address, shard } = place;
    Peer { node, address, shard }
}

/// A call, as it runs on its shard.
struct SimulatedCall {
    tag: u64,
    key: Vec<u8>,
    tokens: [Token; 1],
    call: Call,
    level: Level,
    found: Option<Result<Option<Vec<u8>>, Error>>,
    version: Version,
    ended: Ended,
}

impl Job for SimulatedCall {
    fn access(&self) -> Access {
        match self.call {
            Call::Get => Access::Read,
            Call::Set { .. } => Access::Write,
            Call::Delete => Access::Write,
        }
    }

    fn key(&self) -> &[u8] {
        &self.key
    }

    fn level(&self) -> Level {
        self.level
    }

    fn tokens(&self) -> &[Token] {
        &self.tokens
    }

    fn can_wait(&self) -> bool {
        true
    }

    fn run(&mut self, shards: &mut Shards) {
        let shard = shards.of(self.tokens[0]);
        self.found = Some(match &self.call {
            Call::Get => shard.get(&self.key).map(|value| value.map(<[u8]>::to_vec)),
            Call::Set { value, expires_at } => {
                let expiry = expires_at.map_or(Expiry::Never, Expiry::At);
                let options = SetOptions { expiry, condition: Condition::Always, durability: None };
                shard.set_with(&self.key, value, &options).map(|_| None)
            }
            Call::Delete => shard.delete(&self.key).map(|was_there| was_there.then(Vec::new)),
        });
    }

    fn told(&mut self, version: Version) {
        self.version = version;
    }

    fn finish(self: Box<Self>, end: Result<(), Error>) {
        let Self { tag, call, found, version, ended, .. } = *self;
        let found = end.and_then(|()| found.expect("it has run"));
        let result = found.map(|found| match call {
            Call::Get => Called::Found(version, found),
            Call::Set { .. } => Called::Written(version),
            Call::Delete => Called::Deleted(version, found.is_some()),
        });
        ended.lock().unwrap_or_else(PoisonError::into_inner).push_back((tag, result));
    }
}

/// The tokens of a node's shard.
#[must_use]
pub fn range_of(shard: u16, shard_count: u16) -> ShardRange {
    ShardRange::new(shard, shard_count)
}
