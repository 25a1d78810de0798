//! One core: a thread, its shards, its clients.
//!
//! ```text
//!            +--------------------------- turn ---------------------------+
//!            |                                                            |
//!   sockets -> data ring -> sessions: parse, prefetch, execute -> replies -> data ring -> sockets
//!            |                   |            ^                           |
//!   mailbox -> calls, requests   |            |                           |
//!            |  of other cores --+-> shards --+   links -> other cores' mailboxes
//!            |                                                            |
//!            +--> timers: expiry, time-outs --> yield to tasks, or sleep -+
//! ```
//!
//! [`World`] is what a command can touch, [`Server`] the connections, [`Core`] both; the loop that
//! drives them is in [`pump`].
//!
//! # Invariants
//!
//! - Everything in here belongs to one thread. What other threads want reaches it as a
//!   [`Message`](mailbox::Message).
//! - What cannot run before a disk has answered is [parked](parking); what may not be told before a
//!   log is durable is [held](held). Neither holds up anything else.
//! - A panic ends the core that it happened on, in order: its clients are disconnected, calls for
//!   its shards fail with an error that says so, the other cores go on.

pub(crate) mod account;
#[expect(unsafe_code, reason = "the kernel is handed buffers that the stores own")]
mod disk;
pub(crate) mod forward;
pub(crate) mod held;
pub(crate) mod job;
pub(crate) mod mailbox;
pub(crate) mod parking;
pub(crate) mod pump;
pub(crate) mod request;
pub(crate) mod shards;
pub(crate) mod slowlog;
mod stores;
pub(crate) mod tasks;
pub(crate) mod turns;

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use gridkv_cluster::WallTime;
use gridkv_storage::disk::IoPort;
use gridkv_storage::{LogStats, Stats};

use self::account::Account;
use self::forward::Links;
use self::held::Held;
use self::parking::Parking;
use self::shards::Shards;
use self::slowlog::Slowlog;
use self::tasks::Tasks;
use self::turns::{Longest, Turns};
use crate::cluster::machine::{Incoming, Machine};
use crate::cluster::{Cluster, LinkEvent};
use crate::config::Config;
use crate::node::Node;
use crate::server::Server;
use crate::server::session::Batch;

/// What a command can touch.
pub(crate) struct World {
    pub(crate) id: usize,
    pub(crate) node: Arc<Node>,
    pub(crate) shards: Shards,
    pub(crate) links: Links,
    pub(crate) parking: Parking,
    /// Requests of clients that were copied to wait, here or for replicas, and what else is parked.
    pub(crate) waiting: Account,
    /// Replies that clients have not taken.
    pub(crate) unread: Account,
    pub(crate) held: Held,
    /// What this core does about keys that have copies on other nodes, where they have.
    pub(crate) machine: Option<Box<Machine>>,
    /// Its connections to them.
    pub(crate) cluster: Option<Box<Cluster>>,
    /// Descriptors that the data ring has found ready.
    pub(crate) ready: Vec<u32>,
    /// What has happened on connections that are no clients'.
    pub(crate) link_events: Vec<LinkEvent>,
    /// Carries out what the stores want of their disks.
    pub(crate) io: IoPort,
    /// The options, as changed by `CONFIG SET` on all cores.
    pub(crate) settings: Config,
    pub(crate) counters: Counters,
    pub(crate) slowlog: Slowlog,
    pub(crate) tasks: Rc<Tasks>,
    pub(crate) turns: Rc<Turns>,
    /// When the present turn began.
    pub(crate) now: Instant,
    /// Room for the requests that are parsed together.
    pub(crate) batch: Batch,
}

impl World {
    /// Whether keys have copies on other nodes: then nothing about them is done on this core alone.
    #[inline]
    pub(crate) fn is_replicated(&self) -> bool {
        self.machine.is_some()
    }

    /// Collects expired records: of copies, what is over by everybody's clock. How many there were.
    pub(crate) fn collect_expired(&mut self, budget: usize) -> usize {
        let now = self.time();
        let until = match &self.machine {
            Some(machine) => machine.ended_until(now),
            None => Some(now.wall),
        };
        until.map_or(0, |until| self.shards.collect_expired(budget, until))
    }

    /// Asks the cluster, which [`World::is_replicated`] says there is.
    pub(crate) fn ask_cluster(&mut self, incoming: Incoming) {
        self.machine.as_mut().expect("there is a cluster").ask(incoming);
    }

    /// Bytes of requests that wait: for a disk, for replicas, or for other cores.
    #[inline]
    pub(crate) fn waiting_bytes(&self) -> usize {
        self.waiting.bytes() + self.links.waiting_bytes()
    }

    /// Whether so much waits that no further request is begun.
    #[inline]
    pub(crate) fn is_full(&self) -> bool {
        self.parking.is_full() || self.waiting_bytes() >= self.settings.waiting_limit
    }

    /// Whether so many replies are unread that no further one is asked for by those who read slowly.
    #[inline]
    pub(crate) fn is_unread(&self) -> bool {
        self.unread.bytes() >= self.settings.waiting_limit
    }

    /// How many replies of other cores one connection may wait for, if each is as long as the longest
    /// value there ever was: half of what may wait for a client.
    pub(crate) fn reply_count_max(&self) -> usize {
        let longest = self.node.longest_value.load(Ordering::Relaxed);
        (self.settings.output_limit / 2 / longest).max(1)
    }
}

/// What a core counts, for `INFO` and the metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counters {
    pub(crate) connections_received: u64,
    pub(crate) connections_rejected: u64,
    pub(crate) commands: u64,
    pub(crate) errors: u64,
    pub(crate) forwarded: u64,
    pub(crate) input_bytes: u64,
    pub(crate) output_bytes: u64,
    pub(crate) protocol_errors: u64,
    pub(crate) output_disconnects: u64,
    pub(crate) turns: u64,
    pub(crate) sleeps: u64,
}

impl Counters {
    pub(crate) const fn add(&mut self, other: &Self) {
        self.connections_received += other.connections_received;
        self.connections_rejected += other.connections_rejected;
        self.commands += other.commands;
        self.errors += other.errors;
        self.forwarded += other.forwarded;
        self.input_bytes += other.input_bytes;
        self.output_bytes += other.output_bytes;
        self.protocol_errors += other.protocol_errors;
        self.output_disconnects += other.output_disconnects;
        self.turns += other.turns;
        self.sleeps += other.sleeps;
    }
}

/// A core's state, for `INFO` and the metrics.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Snapshot {
    pub(crate) counters: Counters,
    pub(crate) store: Stats,
    /// `None` where the stores have no logs.
    pub(crate) log: Option<LogStats>,
    pub(crate) client_count: u64,
    /// Bytes of buffers that belong to clients.
    pub(crate) client_bytes: u64,
    /// Bytes of requests that wait, parts of which may be counted where they were asked and where they
    /// wait.
    pub(crate) waiting_bytes: u64,
    /// Of those, bytes that were copied on this core.
    pub(crate) copied_bytes: u64,
    /// Bytes of replies that clients have not taken.
    pub(crate) unread_bytes: u64,
    pub(crate) longest: Longest,
}

/// One core's world and its connections.
pub(crate) struct Core {
    // Before the stores in the world: the kernel lets go of their memory before it is freed.
    pub(crate) server: Server,
    pub(crate) world: World,
}

impl Core {
    pub(crate) fn snapshot(&self) -> Snapshot {
        let (mut store, mut log) = (Stats::default(), None);
        for shard in self.world.shards.iter() {
            store.add(&shard.stats());
            if let Some(stats) = shard.log_stats() {
                log.get_or_insert_with(LogStats::default).add(&stats);
            }
        }
        Snapshot {
            counters: self.world.counters,
            store,
            log,
            client_count: self.server.client_count() as u64,
            client_bytes: self.server.client_bytes() as u64,
            waiting_bytes: self.world.waiting_bytes() as u64,
            copied_bytes: self.world.waiting.bytes() as u64,
            unread_bytes: self.world.unread.bytes() as u64,
            longest: self.world.turns.longest(),
        }
    }

    pub(crate) fn reset_stats(&mut self) {
        self.world.counters = Counters::default();
        self.world.turns.reset(self.world.now);
        for shard in self.world.shards.iter_mut() {
            shard.reset_stats();
        }
    }
}

/// The wall clock. The one place of this crate that reads it for stored data.
pub(crate) fn wall_time() -> WallTime {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    WallTime::from_millis(u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX))
}
