//! GridKV: a key-value store with a thread per core and nothing shared, on io_uring.
//!
//! This crate is the store as a library, and the program `gridkv` that any Redis client can talk
//! to. Each core owns a range of the keys' tokens and everything that belongs to it: records,
//! sockets, timers. A call from outside is posted to the core that owns the key.
//!
//! ```
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let engine = gridkv::Engine::builder().cores(1).storage("memory").open()?;
//! let store = engine.handle().blocking();
//! store.set("greeting", "hello")?;
//! assert_eq!(store.get("greeting")?.as_deref(), Some(&b"hello"[..]));
//! engine.shutdown()?;
//! # Ok(())
//! # }
//! ```
//!
//! | to | use |
//! |---|---|
//! | open an engine | [`Engine::builder`], [`Builder`], [`Config`] |
//! | read and write from any executor | [`Handle`] |
//! | ... from plain threads | [`Blocking`] |
//! | ... many keys at once | [`Batch`] |
//! | ... without a hop for each operation | [`Handle::run_on`], [`Shard`] |
//! | take a snapshot while it serves | [`Handle::snapshot`] |
//! | bring a backend of one's own | [`Builder::register_backend`] |
//!
//! # What fails, and what is true then
//!
//! Each [`Error`] says with [`Error::outcome`] whether a write may have taken effect. A panic on a
//! core (in this crate, or in a closure given to [`Handle::run_on`]) ends that core in order: calls
//! for its keys fail with [`Error::CoreStopped`], its clients are disconnected, the other cores and
//! the process go on.
//!
//! # What is durable
//!
//! With the backend `file`, the default, a write that was answered is on disk, and the next engine
//! on the same directory ([`Config::data`]) has it; what an answer shows is on disk too.
//! [`Config::durability`], or [`SetOptions::durability`] for one write, asks for less. When a write
//! to the log of a shard fails, the shard takes no more of them ([`Error::LogFailed`]) and serves
//! reads; when the disk is full, writes are refused ([`Error::DiskFull`]) until there is room, and
//! deletions are taken. With the backend `memory` everything is gone when the engine is shut down
//! or its core stops.

#![deny(unsafe_code)]

mod admin;
mod batch;
mod blocking;
mod cluster;
mod config;
mod core;
mod cpus;
mod data;
mod error;
mod handle;
mod metrics;
mod node;
mod server;
mod shard;
#[cfg(feature = "simulation")]
#[doc(hidden)]
pub mod simulation;
mod snapshot;
mod token_keys;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

pub use gridkv_cluster::replication::Level as Consistency;
pub use gridkv_cluster::topology::endpoint::{Endpoint, ParseError};
pub use gridkv_cluster::{
    Instant, Mutation, NodeId, ShardRange, Timestamp, Token, TokenKey, Version, WallTime,
};
pub use gridkv_storage as storage;
pub use gridkv_storage::{Durability, Eviction, LogStats, Stats};

use crate::admin::Admin;
pub use crate::batch::{Batch, BatchResult};
pub use crate::blocking::Blocking;
/// For the program `gridkv`.
#[doc(hidden)]
pub use crate::cluster::identity_files;
pub use crate::config::{
    ClusterConfig, ClusterSecurity, Config, ConfigError, Cores, Idle, LogFormat, OPTIONS,
    OptionInfo,
};
pub use crate::error::{Error, OpenError, Outcome, ShutdownError};
pub use crate::handle::Handle;
use crate::node::Threads;
pub use crate::shard::{
    Condition, Expiry, KEY_BYTES_MAX, SetOptions, SetOutcome, Shard, Versioned,
};
pub use crate::snapshot::{SnapshotError, SnapshotInfo};
use gridkv_storage::{OpenFn, Registry};

/// An open store: its cores' threads. Any number may be open in one process.
///
/// Dropping it shuts it down, as [`Engine::shutdown`] does.
pub struct Engine {
    // First, so that it asks no cores that are gone.
    admin: Option<Admin>,
    threads: Threads,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("cores", &self.core_count()).finish_non_exhaustive()
    }
}

impl Engine {
    /// Options for an engine without listeners, on all processors that the process may use, with its
    /// files in `./gridkv-data` ([`Builder::data`]).
    #[must_use]
    pub fn builder() -> Builder {
        Builder { config: Config::embedded(), registry: Registry::default() }
    }

    /// A way to use the store, for any thread and any executor.
    #[must_use]
    pub fn handle(&self) -> Handle {
        Handle::new(&self.threads.node)
    }

    /// How many cores run.
    #[must_use]
    pub fn core_count(&self) -> usize {
        self.threads.node.layout.core_count
    }

    /// The processor of each core.
    #[must_use]
    pub fn cpus(&self) -> &[usize] {
        &self.threads.node.cpus
    }

    /// Where Redis clients connect, with the port that was chosen if 0 was asked for.
    #[must_use]
    pub fn listen_address(&self) -> Option<SocketAddr> {
        self.threads.node.listen
    }

    /// Where metrics are served, with the port that was chosen if 0 was asked for.
    #[must_use]
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin.as_ref().and_then(Admin::address)
    }

    /// Whether the node stops because another running process has its identity: a copy of its data
    /// directory, most likely.
    #[must_use]
    pub fn has_identity_conflict(&self) -> bool {
        self.threads.node.cluster.as_ref().is_some_and(|cluster| cluster.has_conflict())
    }

    /// Whether a core has stopped after a panic. Its keys are not served; the others are.
    #[must_use]
    pub fn has_stopped_core(&self) -> bool {
        self.threads.has_stopped_core()
    }

    /// Whether a client has sent `SHUTDOWN`. What to do about it is the owner's to decide.
    #[must_use]
    pub fn is_shutdown_asked(&self) -> bool {
        self.threads.node.shutdown_asked.load(Ordering::Acquire)
    }

    /// Stops accepting clients and calls, gives the clients the replies they are owed (for at most
    /// five seconds), and ends the cores' threads.
    ///
    /// # Errors
    ///
    /// [`ShutdownError`] names the cores that have panicked, and those that hang: a core that does not
    /// leave its loop within five seconds more, or does not close its stores within a minute, is left
    /// behind.
    pub fn shutdown(mut self) -> Result<(), ShutdownError> {
        self.admin = None;
        self.threads.stop()
    }
}

/// How an engine is opened.
pub struct Builder {
    config: Config,
    registry: Registry,
}

impl std::fmt::Debug for Builder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Builder").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Builder {
    /// Takes all options from `config`, listeners included.
    #[must_use]
    pub fn config(mut self, config: Config) -> Self {
        self.config = config;
        self
    }

    /// Uses this many processors.
    #[must_use]
    pub fn cores(mut self, count: usize) -> Self {
        self.config.cores = Cores::Count(count);
        self
    }

    /// Uses these processors, by number.
    #[must_use]
    pub fn cpus(mut self, cpus: impl Into<Vec<usize>>) -> Self {
        self.config.cores = Cores::Cpus(cpus.into());
        self
    }

    /// Divides the keys into this many shards; one a core if not called.
    #[must_use]
    pub fn shards(mut self, count: u16) -> Self {
        self.config.shards = Some(count);
        self
    }

    /// Uses the backend of this name: `file` (the default), `memory`, or one given to
    /// [`Builder::register_backend`].
    #[must_use]
    pub fn storage(mut self, name: &str) -> Self {
        name.clone_into(&mut self.config.storage);
        self
    }

    /// Keeps the files of a backend on disk in this directory, which is made if it is not there. It
    /// belongs to one engine at a time.
    #[must_use]
    pub fn data(mut self, directory: impl Into<PathBuf>) -> Self {
        self.config.data = directory.into();
        self
    }

    /// Bounds the memory of records and index, in bytes, over all shards.
    #[must_use]
    pub fn max_memory(mut self, bytes: u64, eviction: Eviction) -> Self {
        self.config.max_memory = Some(bytes);
        self.config.eviction = eviction;
        self
    }

    /// What a core does when it has nothing to do.
    #[must_use]
    pub fn idle(mut self, idle: Idle) -> Self {
        self.config.idle = idle;
        self
    }

    /// Serves Redis clients at this address; port 0 chooses a free one.
    #[must_use]
    pub fn listen(mut self, address: SocketAddr) -> Self {
        self.config.listen = Some(address);
        self
    }

    /// Sets an option by its name in the configuration file.
    ///
    /// # Errors
    ///
    /// [`ConfigError`], which names what is allowed.
    pub fn set(mut self, name: &str, value: &str) -> Result<Self, ConfigError> {
        self.config.set_from(name, value, "Builder::set")?;
        Ok(self)
    }

    /// Adds a storage backend, or replaces the one of that name.
    #[must_use]
    pub fn register_backend(mut self, name: &str, open: Arc<OpenFn>) -> Self {
        self.registry.register(name, open);
        self
    }

    /// Starts the cores.
    ///
    /// # Errors
    ///
    /// [`OpenError`], each with its remedy; nothing is left running.
    pub fn open(self) -> Result<Engine, OpenError> {
        let admin = self.config.admin;
        let threads = Threads::start(self.config, self.registry)?;
        let handle = Handle::new(&threads.node);
        let admin = admin.map(|address| Admin::start(address, handle)).transpose()?;
        Ok(Engine { admin, threads })
    }
}
