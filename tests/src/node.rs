//! A node in this process.

use std::net::SocketAddr;

use gridkv::{Builder, Engine};

use crate::client::Client;

/// How a test's node is cut up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Threads.
    pub cores: usize,
    /// Parts of the key space.
    pub shards: u16,
}

/// One core, one core each for two shards, and more shards than cores.
pub const SHAPES: [Shape; 3] =
    [Shape { cores: 1, shards: 1 }, Shape { cores: 2, shards: 2 }, Shape { cores: 2, shards: 5 }];

/// An address of this machine with a port that the kernel chooses.
///
/// # Panics
///
/// Never.
#[must_use]
pub fn any_port() -> SocketAddr {
    "127.0.0.1:0".parse().expect("an address")
}

/// Options for a node of a shape, listening, that keeps its keys in memory.
///
/// Where the machine has fewer processors than the shape has cores, the node gets fewer cores, and
/// the test's output says so.
#[must_use]
pub fn builder(shape: Shape) -> Builder {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let cores = shape.cores.min(processors);
    if cores < shape.cores {
        crate::process::say(&format!("only {processors} processors: {shape:?} gets {cores} cores"));
    }
    Engine::builder().cores(cores).shards(shape.shards).storage("memory").listen(any_port())
}

/// A node and where it listens.
#[derive(Debug)]
pub struct Node {
    /// The engine.
    pub engine: Engine,
    /// Where clients connect.
    pub address: SocketAddr,
}

impl Node {
    /// Starts a node of a shape.
    #[must_use]
    pub fn start(shape: Shape) -> Self {
        Self::open(builder(shape))
    }

    /// Starts a node on two cores.
    #[must_use]
    pub fn on_two_cores() -> Self {
        Self::start(SHAPES[1])
    }

    /// Starts a node on one core.
    #[must_use]
    pub fn on_one_core() -> Self {
        Self::start(SHAPES[0])
    }

    /// Starts a node with these options.
    ///
    /// # Panics
    ///
    /// When it cannot be started.
    #[must_use]
    pub fn open(builder: Builder) -> Self {
        let engine = builder.open().expect("an engine opens");
        let address = engine.listen_address().expect("it listens");
        Self { engine, address }
    }

    /// A new connection.
    #[must_use]
    pub fn connect(&self) -> Client {
        Client::connect(self.address)
    }

    /// A key of each core, found by trying: `cores` many, each of another core.
    #[must_use]
    pub fn key_of_each_shard(&self) -> Vec<String> {
        (0..self.engine.handle().shard_count())
            .map(|shard| self.keys_of(shard, 1).remove(0))
            .collect()
    }

    /// The first keys `key:0`, `key:1`, ... that a shard owns.
    #[must_use]
    pub fn keys_of(&self, shard: u16, count: usize) -> Vec<String> {
        let handle = self.engine.handle();
        let keys = (0..).map(|number: usize| format!("key:{number}"));
        keys.filter(|key| handle.shard_of(key) == shard).take(count).collect()
    }

    /// Stops it.
    ///
    /// # Panics
    ///
    /// When a core has ended badly.
    pub fn stop(self) {
        assert_eq!(self.engine.shutdown(), Ok(()));
    }
}

/// Sets an option by its name.
///
/// # Panics
///
/// When there is no such option, or it cannot have that value.
#[must_use]
pub fn with(builder: Builder, name: &str, value: &str) -> Builder {
    builder.set(name, value).expect("an option and a value that it can have")
}
