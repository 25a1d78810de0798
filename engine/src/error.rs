//! What can go wrong, and what is true afterwards.

use std::io;

use gridkv_cluster::replication::Why;
use gridkv_cluster::topology::Refusal;
use gridkv_net::ring::SetupError;
use gridkv_storage::ReadError;

/// A call to a store failed. [`Error::outcome`] says whether the store may have changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The store is full and its policy is to refuse, or nothing could be evicted. Not applied.
    #[error("out of memory: {used_bytes} of {max_bytes} bytes in use by the shard")]
    OutOfMemory {
        /// In use by the shard.
        used_bytes: u64,
        /// The shard's part of `max_memory`.
        max_bytes: u64,
    },
    /// The key is longer than any key may be. Not applied.
    #[error("key of {bytes} bytes is longer than the {max_bytes} allowed")]
    KeyTooLarge {
        /// Its length.
        bytes: usize,
        /// The bound.
        max_bytes: usize,
    },
    /// The value is longer than `max_value`. Not applied.
    #[error("value of {bytes} bytes is longer than the {max_bytes} allowed")]
    ValueTooLarge {
        /// Its length.
        bytes: usize,
        /// The bound.
        max_bytes: usize,
    },
    /// The value is not a decimal integer of 64 bits. Not applied.
    #[error("value is not an integer or out of range")]
    NotAnInteger,
    /// The sum does not fit into 64 bits. Not applied.
    #[error("increment or decrement would overflow")]
    Overflow,
    /// The key belongs to another shard than the one that was asked. Not applied.
    #[error("the key belongs to another shard")]
    WrongShard,
    /// The value must be read from disk first, or the store's log has no room at the moment. Only a
    /// [`Shard`](crate::Shard) says so, to a closure that writes; all other calls wait. Not applied:
    /// try again.
    #[error("the store has no room for the write at the moment: try again")]
    Busy,
    /// The value could not be read from disk. Others can. Not applied.
    #[error(transparent)]
    Read(Box<ReadError>),
    /// The disk is full. Deletions are still taken. Not applied.
    #[error("the disk is full: writes are refused, reads and deletions are served")]
    DiskFull,
    /// A write to the log has failed, so the shard takes no more. Not applied.
    #[error("the log has failed: writes are refused, reads are served; see the node's log")]
    LogFailed,
    /// The log has failed before the write, or the value read, was durable. A write has been
    /// applied, and is lost when the engine ends.
    #[error("the log could not be made durable: the write may be lost")]
    NotDurable,
    /// The engine has been shut down, or was when the call was made. Not applied.
    #[error("the engine is closed")]
    Closed,
    /// The core that owns the key stopped after a panic before the call reached it. Not applied.
    #[error("core {core} has stopped; the others go on")]
    CoreStopped {
        /// Which core.
        core: usize,
    },
    /// The cluster cannot do it: too few replicas answer, or they refuse. Not applied.
    #[error("{why}")]
    NotApplied {
        /// Why.
        why: Why,
    },
    /// The replicas did not say in time that they have done it. A write may have been applied, or be
    /// applied later.
    #[error("{why}: whether it was done is not known")]
    Unknown {
        /// Why.
        why: Why,
    },
    /// The members of the cluster do not agree on the change. Not applied.
    #[error("{refusal}")]
    TopologyRefused {
        /// Why.
        refusal: Refusal,
    },
    /// The members of the cluster were asked to vote for the change, and did not decide in time. It may
    /// have been applied, or be applied later: whoever of them finds such a vote finishes it.
    #[error("{refusal}: whether it was done is not known")]
    TopologyUnknown {
        /// Why.
        refusal: Refusal,
    },
    /// A closure on a core has only this node's copy of a key. Not applied.
    #[error("keys have copies on other nodes: closures on one core cannot use them")]
    Replicated,
    /// The core, or the engine, stopped while the call was under way. A write may or may not have
    /// been applied.
    #[error("the core stopped while the call was under way: its outcome is unknown")]
    Interrupted,
}

/// What is known about a write that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The store is as it was.
    NotApplied,
    /// The write may or may not have taken effect: read before trying again.
    Unknown,
}

impl Error {
    /// Whether the store may have changed.
    #[must_use]
    pub const fn outcome(&self) -> Outcome {
        match self {
            Self::Interrupted
            | Self::NotDurable
            | Self::Unknown { .. }
            | Self::TopologyUnknown { .. } => Outcome::Unknown,
            Self::OutOfMemory { .. }
            | Self::KeyTooLarge { .. }
            | Self::ValueTooLarge { .. }
            | Self::NotAnInteger
            | Self::Overflow
            | Self::WrongShard
            | Self::Busy
            | Self::Read(_)
            | Self::DiskFull
            | Self::LogFailed
            | Self::Closed
            | Self::NotApplied { .. }
            | Self::TopologyRefused { .. }
            | Self::Replicated
            | Self::CoreStopped { .. } => Outcome::NotApplied,
        }
    }
}

impl From<ReadError> for Error {
    fn from(error: ReadError) -> Self {
        Self::Read(Box::new(error))
    }
}

/// An engine has ended otherwise than it should. What was answered is as durable as the answers said;
/// what else was under way was not answered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.text())]
pub struct ShutdownError {
    /// Cores that have panicked, by number. They have ended.
    pub panicked: Vec<usize>,
    /// Cores that did not end in time, by number: a closure that a core runs does not come back, or a
    /// disk does not. Their threads go on, and the data directory stays locked, until the process ends.
    pub hung: Vec<usize>,
}

impl ShutdownError {
    fn text(&self) -> String {
        let list =
            |cores: &[usize]| cores.iter().map(usize::to_string).collect::<Vec<_>>().join(", ");
        let mut parts = Vec::new();
        if !self.panicked.is_empty() {
            parts.push(format!("panicked: core {}", list(&self.panicked)));
        }
        if !self.hung.is_empty() {
            parts.push(format!("did not end in time: core {}", list(&self.hung)));
        }
        parts.join("; ")
    }
}

/// The engine could not be opened. Nothing is left running; each variant names its remedy.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// An option has a value that it cannot have.
    #[error("{option}: {problem}")]
    Option {
        /// The option's name in the configuration file.
        option: &'static str,
        /// What is wrong, and what is allowed.
        problem: String,
    },
    /// io_uring cannot be used.
    #[error(transparent)]
    Ring(#[from] SetupError),
    /// The kernel is older than what is needed.
    #[error("Linux {found} is too old: 6.1 or later is needed")]
    KernelTooOld {
        /// The running kernel.
        found: String,
    },
    /// Too few descriptors are left for the cores.
    #[error(
        "too few descriptors: {needed} are needed for the cores, {left} are left; raise \
         RLIMIT_NOFILE (ulimit -n, or LimitNOFILE in the service)"
    )]
    Descriptors {
        /// What the cores need.
        needed: u64,
        /// What the process may still open.
        left: u64,
    },
    /// The address is taken.
    #[error("{address} is in use by another process: stop it, or choose another `{option}`")]
    AddressInUse {
        /// The address.
        address: String,
        /// The option that names it.
        option: &'static str,
    },
    /// The address cannot be listened on.
    #[error("cannot listen on {address} (`{option}`): {source}")]
    Listen {
        /// The address.
        address: String,
        /// The option that names it.
        option: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The data directory cannot be used.
    #[error(transparent)]
    Directory(#[from] gridkv_storage::directory::DirectoryError),
    /// The data directory cannot be written to.
    #[error("cannot write to {path} (`data`): {source}")]
    Data {
        /// The directory.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// The store could not be opened.
    #[error("{0}")]
    Storage(String),
    /// A core's thread or executor could not be started.
    #[error("core {core} could not be started: {reason}")]
    Core {
        /// Which core.
        core: usize,
        /// Why.
        reason: String,
    },
}
