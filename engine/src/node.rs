//! Starts the cores of a node, and stops them in order.

use std::net::{SocketAddr, TcpListener};
use std::panic::AssertUnwindSafe;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Sender, TrySendError};
use futures_lite::FutureExt;
use glommio::{LocalExecutorBuilder, Placement};
use gridkv_cluster::{ShardRange, TokenKey, WallTime};
use gridkv_net::ring::{Config as RingConfig, DataRing, Doorbell};
use gridkv_storage::disk::IoPort;
use gridkv_storage::{Options, Registry, Tombstones};

use crate::cluster::control;
use crate::cluster::start::{ClusterNode, check_alone};
use crate::config::{Config, is_on_disk};
use crate::core::account::Account;
use crate::core::forward::Links;
use crate::core::held::Held;
use crate::core::mailbox::{Mailbox, Message, Port};
use crate::core::parking::Parking;
use crate::core::shards::{Layout, Shards};
use crate::core::slowlog::Slowlog;
use crate::core::tasks::{Tasks, Urgency, start_heartbeat};
use crate::core::turns::Turns;
use crate::core::{Core, Counters, World, pump, wall_time};
use crate::cpus;
use crate::data::{Data, random_secret};
use crate::error::{OpenError, ShutdownError};
use crate::metrics::resident_bytes;
use crate::server::Server;
use crate::server::session::Batch;
use crate::shard::{SMALL_VALUE_BYTES, Shard};
use crate::snapshot::Snapshots;
use crate::token_keys::TokenKeys;

/// How long clients have to take their replies when the node stops. A core that cannot even be told
/// holds this up no longer.
const DRAIN_LIMIT: Duration = Duration::from_secs(5);

/// How long a core may take to leave its loop when the node has quit: it looks in each turn.
const QUIT_LIMIT: Duration = Duration::from_secs(5);

/// How long it may then take to close its stores, whose disks may be slow.
const CLOSE_LIMIT: Duration = Duration::from_secs(60);

/// How often the end of something is looked for.
const LOOK: Duration = Duration::from_millis(1);

/// Each core has 128 receive buffers of 16 KiB: a pipeline of small requests fits into one, and a
/// client that is silent holds none.
const RING: RingConfig =
    RingConfig { submission_count: 1_024, buffer_count: 128, buffer_bytes: 16 << 10 };

/// What all cores of a node, and all who hold a handle to it, share.
pub(crate) struct Node {
    /// The options it was started with.
    pub(crate) config: Config,
    /// Its part in a cluster.
    pub(crate) cluster: Option<ClusterNode>,
    pub(crate) ports: Vec<Port>,
    pub(crate) layout: Layout,
    /// What tokens are made with.
    pub(crate) token_keys: TokenKeys,
    /// The processor of each core.
    pub(crate) cpus: Vec<usize>,
    /// Where clients connect, with the port that was chosen.
    pub(crate) listen: Option<SocketAddr>,
    pub(crate) started_at: Instant,
    /// Resident bytes of the process when all cores had started, but for what was recovered.
    pub(crate) startup_bytes: AtomicU64,
    /// Memory of the stores when they had been opened.
    pub(crate) recovered_bytes: AtomicU64,
    pub(crate) started_wall: WallTime,
    pub(crate) run_id: String,
    pub(crate) next_client_id: AtomicU64,
    /// The longest value that any shard was ever given, where that is not small.
    pub(crate) longest_value: Arc<AtomicUsize>,
    pub(crate) snapshots: Snapshots,
    /// Calls are refused from here on.
    pub(crate) closed: AtomicBool,
    /// The cores leave their loops.
    pub(crate) quit: AtomicBool,
    /// A client has sent `SHUTDOWN`.
    pub(crate) shutdown_asked: AtomicBool,
}

/// A node's threads.
pub(crate) struct Threads {
    pub(crate) node: Arc<Node>,
    threads: Vec<JoinHandle<()>>,
    /// Last, so that the data directory is in use for as long as a core is.
    data: Option<Arc<Data>>,
}

/// Descriptors that a core's rings, bell and executor open, with room to spare.
const DESCRIPTORS_PER_CORE: u64 = 20;

/// Refuses to start cores that would run out of descriptors half way: what they are made of does not
/// all bear it.
fn check_descriptors(core_count: usize) -> Result<(), OpenError> {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let open = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count) as u64;
    let needed = core_count as u64 * DESCRIPTORS_PER_CORE;
    let left = limit.map_or(u64::MAX, |limit| limit.saturating_sub(open));
    if left < needed { Err(OpenError::Descriptors { needed, left }) } else { Ok(()) }
}

/// What a core's thread starts with.
struct Seat {
    id: usize,
    cpu: usize,
    node: Arc<Node>,
    mailbox: Mailbox,
    listener: Option<TcpListener>,
    registry: Arc<Registry>,
    data: Option<Arc<Data>>,
    started: Sender<Result<(), OpenError>>,
}

impl Threads {
    /// Starts a node. All its cores run when this returns.
    ///
    /// # Errors
    ///
    /// [`OpenError`]; nothing is left running.
    pub(crate) fn start(config: Config, registry: Registry) -> Result<Self, OpenError> {
        cpus::check_kernel()?;
        let cpus = cpus::choose(&config.cores)?;
        let core_count = cpus.len();
        let shard_count = config
            .shards
            .unwrap_or_else(|| u16::try_from(core_count).expect("a mask has fewer processors"));
        let needs_data = is_on_disk(&config.storage) || config.cluster.address.is_some();
        let data = needs_data.then(|| Data::open(&config, shard_count));
        let data = data.transpose()?;
        let data = data.map(Arc::new);
        let shard_count = data.as_ref().map_or(shard_count, |data| data.shard_count());
        check_descriptors(core_count)?;
        let listener = config.listen.map(|address| listen(address, "listen")).transpose()?;
        let (ports, mailboxes): (Vec<_>, Vec<_>) =
            std::iter::repeat_with(|| Doorbell::new().map(|bell| Port::new(Arc::new(bell))))
                .take(core_count)
                .collect::<Result<Vec<_>, _>>()
                .map_err(|error| core_error(0, &error))?
                .into_iter()
                .unzip();
        let listen = listener.as_ref().and_then(|listener| listener.local_addr().ok());
        let started_wall = wall_time();
        let cluster = match &data {
            None => {
                check_alone(&config)?;
                None
            }
            Some(data) => {
                let directory = data.directory();
                ClusterNode::open(&config, directory, shard_count, (listen, started_wall))?
            }
        };
        let kept = cluster.as_ref().and_then(ClusterNode::kept_token_secret);
        let token_key = match (kept, &data) {
            (Some(secret), _) => TokenKey::new(secret),
            (None, Some(data)) => data.directory().token_key(),
            (None, None) => TokenKey::new(random_secret()),
        };
        let node = Arc::new(Node {
            config,
            cluster,
            ports,
            layout: Layout { shard_count, core_count },
            token_keys: TokenKeys::new(token_key),
            cpus,
            listen,
            started_at: Instant::now(),
            startup_bytes: AtomicU64::new(0),
            recovered_bytes: AtomicU64::new(0),
            started_wall,
            run_id: run_id(),
            next_client_id: AtomicU64::new(1),
            longest_value: Arc::new(AtomicUsize::new(SMALL_VALUE_BYTES)),
            snapshots: Snapshots::new(data.as_ref(), started_wall),
            closed: AtomicBool::new(false),
            quit: AtomicBool::new(false),
            shutdown_asked: AtomicBool::new(false),
        });
        let mut threads = Self { node, threads: Vec::new(), data };
        threads.start_cores(mailboxes, listener.as_ref(), &Arc::new(registry))?;
        let recovered_bytes = threads.node.recovered_bytes.load(Ordering::Relaxed);
        let startup_bytes = resident_bytes().saturating_sub(recovered_bytes);
        threads.node.startup_bytes.store(startup_bytes, Ordering::Relaxed);
        Ok(threads)
    }

    fn start_cores(
        &mut self,
        mailboxes: Vec<Mailbox>,
        listener: Option<&TcpListener>,
        registry: &Arc<Registry>,
    ) -> Result<(), OpenError> {
        let (started, starts) = crossbeam_channel::unbounded();
        for (id, mailbox) in mailboxes.into_iter().enumerate() {
            let listener = listener
                .map(TcpListener::try_clone)
                .transpose()
                .map_err(|error| core_error(id, &error))?;
            let seat = Seat {
                id,
                cpu: self.node.cpus[id],
                node: Arc::clone(&self.node),
                mailbox,
                listener,
                registry: Arc::clone(registry),
                data: self.data.clone(),
                started: started.clone(),
            };
            let thread = std::thread::Builder::new()
                .name(format!("gridkv-core-{id}"))
                .spawn(move || run_core(seat))
                .map_err(|error| core_error(id, &error))?;
            self.threads.push(thread);
        }
        drop(started);
        let results: Vec<_> = starts.iter().collect();
        if results.len() < self.threads.len() && results.iter().all(Result::is_ok) {
            return Err(OpenError::Core { core: 0, reason: "a core panicked".to_owned() });
        }
        results.into_iter().collect()
    }

    /// Whether some core has stopped by itself, after a panic.
    pub(crate) fn has_stopped_core(&self) -> bool {
        self.node.ports.iter().any(Port::is_stopped)
    }

    /// Stops accepting, gives the clients their replies, and ends the cores.
    ///
    /// # Errors
    ///
    /// [`ShutdownError`]: which cores had panicked, and which do not end. The threads of the latter
    /// are left behind.
    pub(crate) fn stop(&mut self) -> Result<(), ShutdownError> {
        self.node.closed.store(true, Ordering::Release);
        self.drain();
        let mut panicked = self.stopped_cores();
        self.node.quit.store(true, Ordering::Release);
        for port in &self.node.ports {
            port.bell().ring();
        }
        let quit_at = Instant::now();
        let mut hung = Vec::new();
        for (core, thread) in std::mem::take(&mut self.threads).into_iter().enumerate() {
            let port = &self.node.ports[core];
            let limit = || if port.is_closing() { CLOSE_LIMIT } else { QUIT_LIMIT };
            while !thread.is_finished() && quit_at.elapsed() < limit() {
                std::thread::sleep(LOOK);
            }
            if !thread.is_finished() {
                tracing::error!(core, "a core does not end: its thread is left behind");
                hung.push(core);
            } else if thread.join().is_err() {
                panicked.push(core);
            }
        }
        if hung.is_empty() {
            // One under way could wait for a core that hangs.
            self.node.snapshots.finish();
        }
        panicked.sort_unstable();
        panicked.dedup();
        let is_well = panicked.is_empty() && hung.is_empty();
        if is_well && let Some(cluster) = &self.node.cluster {
            cluster.note_settled();
        }
        if is_well { Ok(()) } else { Err(ShutdownError { panicked, hung }) }
    }

    /// Tells the cores to stop, and waits until they have given their clients the replies; for a
    /// bounded time.
    fn drain(&self) {
        let deadline = Instant::now() + DRAIN_LIMIT;
        let mut must_leave = self.node.cluster.is_some();
        let mut untold: Vec<&Port> = self.node.ports.iter().collect();
        let is_over = |port: &Port| port.is_drained() || port.is_stopped();
        loop {
            must_leave = must_leave && !control::try_post(&self.node, Core::leave);
            // A full mailbox only delays it; a core that has stopped needs no telling. What a core is
            // told first it does first: that the node leaves its cluster comes before the end.
            if !must_leave {
                untold.retain(|port| is_full(&port.try_post(Message::Stop)));
            }
            if self.node.ports.iter().all(is_over) || Instant::now() >= deadline {
                return;
            }
            std::thread::sleep(LOOK);
        }
    }

    /// Cores that have stopped by themselves.
    fn stopped_cores(&self) -> Vec<usize> {
        let ports = self.node.ports.iter().enumerate();
        ports.filter(|(_, port)| port.is_stopped()).map(|(core, _)| core).collect()
    }
}

/// Whether a message came back because there was no room for it.
fn is_full(posted: &Result<(), TrySendError<Message>>) -> bool {
    matches!(posted, Err(TrySendError::Full(_)))
}

impl Node {
    /// Has the node stop: another process has its identity.
    pub(crate) fn stop_for_conflict(&self) {
        if let Some(cluster) = &self.cluster {
            cluster.set_conflict();
        }
        self.shutdown_asked.store(true, Ordering::Release);
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        if !self.threads.is_empty() {
            // What is wrong was logged.
            let _ = self.stop();
        }
    }
}

/// The life of a core's thread.
fn run_core(seat: Seat) {
    let Seat { id, cpu, node, mailbox, listener, registry, data, started } = seat;
    let core = match build_core(id, &node, listener, &registry, data.as_deref()) {
        Ok(core) => core,
        Err(error) => {
            let _ = started.send(Err(error));
            return leave(id, &node);
        }
    };
    // The executor's own rings serve tasks alone; sockets and files have the data ring. Its I/O memory
    // is what it would lend to files.
    let executor = LocalExecutorBuilder::new(Placement::Fixed(cpu))
        .name(&format!("gridkv-core-{id}"))
        .io_memory(64 << 10)
        .ring_depth(64)
        .make();
    let executor = match executor {
        Ok(executor) => executor,
        Err(error) => {
            let _ = started.send(Err(core_error(id, &error)));
            return leave(id, &node);
        }
    };
    let ended = executor.run(async {
        start_heartbeat();
        let queue = core.world.tasks.queues().of(Urgency::Client);
        let core = seat_core(core, mailbox, id, Arc::clone(&node), started);
        glommio::spawn_local_into(core, queue).expect("the queue was just made").await
    });
    if ended.is_err() {
        tracing::error!(core = id, "a core has panicked and is stopped; the others go on");
    }
    leave(id, &node);
}

/// Runs a core to its end, and tells how it ended.
async fn seat_core(
    mut core: Core,
    mailbox: Mailbox,
    id: usize,
    node: Arc<Node>,
    started: Sender<Result<(), OpenError>>,
) -> std::thread::Result<()> {
    let alarms = core.server.ring.activity().and_then(|activity| {
        let bell = node.ports[id].bell().watch()?;
        Ok(pump::Alarms { activity, bell })
    });
    let alarms = match alarms {
        Ok(alarms) => alarms,
        Err(error) => {
            let _ = started.send(Err(core_error(id, &error)));
            return Ok(());
        }
    };
    let _ = started.send(Ok(()));
    drop(started);
    let result = AssertUnwindSafe(pump::run(&mut core, &mailbox, alarms)).catch_unwind().await;
    // Its clients are disconnected before others are told.
    drop(core);
    result
}

/// Makes it known that a core does not run. One that hangs is told for as long as the node runs.
fn leave(id: usize, node: &Node) {
    node.ports[id].set_stopped();
    let others = node.ports.iter().enumerate().filter(|(other, _)| *other != id);
    let mut untold: Vec<&Port> = others.map(|(_, port)| port).collect();
    while !untold.is_empty() && !node.quit.load(Ordering::Acquire) {
        untold.retain(|port| is_full(&port.try_post(Message::CoreStopped(id))));
        if !untold.is_empty() {
            std::thread::sleep(LOOK);
        }
    }
}

/// Builds what a core owns, on its own thread.
fn build_core(
    id: usize,
    node: &Arc<Node>,
    listener: Option<TcpListener>,
    registry: &Registry,
    data: Option<&Data>,
) -> Result<Core, OpenError> {
    let mut ring = DataRing::new(&RING, Arc::clone(node.ports[id].bell()))?;
    if let Some(listener) = listener {
        ring.listen(listener);
    }
    let io = IoPort::new();
    let mut shards = Vec::new();
    for index in node.layout.shards_of(id) {
        let shard = open_shard(index, node, registry, data, &io)?;
        node.recovered_bytes.fetch_add(shard.stats().memory_bytes, Ordering::Relaxed);
        shards.push(shard);
    }
    let (waiting, unread) = (Account::default(), Account::default());
    let resume_after = shards.iter().map(Shard::resume_after).max().unwrap_or_default();
    let cluster = node.cluster.as_ref();
    let machine = cluster.map(|cluster| {
        Box::new(cluster.machine(&node.config.cluster, resume_after, waiting.clone()))
    });
    let cluster = cluster.map(|cluster| cluster.core(&node.config, id, &mut ring));
    let token_key = node.token_keys.current().clone();
    let now = Instant::now();
    let turns = Rc::new(Turns::new(now));
    let world = World {
        id,
        node: Arc::clone(node),
        machine,
        cluster: cluster.transpose()?.map(Box::new),
        ready: Vec::new(),
        link_events: Vec::new(),
        shards: Shards::new(node.layout, id, token_key, shards),
        links: Links::new(id, node.layout.core_count),
        parking: Parking::new(node.config.waiting_limit, waiting.clone()),
        waiting,
        unread: unread.clone(),
        held: Held::default(),
        io,
        settings: node.config.clone(),
        counters: Counters::default(),
        slowlog: Slowlog::default(),
        tasks: Rc::new(Tasks::new(Arc::clone(node.ports[id].bell()), Rc::clone(&turns))),
        turns,
        now,
        batch: Batch::new(),
    };
    Ok(Core { world, server: Server::new(ring, unread) })
}

fn open_shard(
    index: u16,
    node: &Node,
    registry: &Registry,
    data: Option<&Data>,
    io: &IoPort,
) -> Result<Shard, OpenError> {
    let count = node.layout.shard_count;
    let config = &node.config;
    let token_key = node.token_keys.current().clone();
    let options = Options {
        range: ShardRange::new(index, count),
        token_key: token_key.clone(),
        disk: data
            .filter(|_| is_on_disk(&config.storage))
            .map(|data| data.options(config, index, io)),
        memory_bytes_max: config.max_memory.map(|bytes| bytes / u64::from(count)),
        eviction: config.eviction,
        tombstones: if node.cluster.is_some() { Tombstones::Keep } else { Tombstones::Drop },
        seed: node.started_wall.as_millis() ^ u64::from(index),
    };
    let storage = registry
        .open(&config.storage, &options)
        .map_err(|error| OpenError::Storage(describe(&error)))?;
    let longest_value = Arc::clone(&node.longest_value);
    let values = (config.max_value, longest_value);
    Ok(Shard::new(index, count, storage, config.durability, token_key, values))
}

/// An error with its causes, in one line.
fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

fn core_error(core: usize, error: &dyn std::error::Error) -> OpenError {
    OpenError::Core { core, reason: describe(error) }
}

/// A socket that listens, alone on its address.
///
/// One socket serves all cores, each with an accept of its own: with `SO_REUSEPORT` a second
/// process of the same user could take the address too, and clients with it.
pub(crate) fn listen(address: SocketAddr, option: &'static str) -> Result<TcpListener, OpenError> {
    use socket2::{Domain, Protocol, Socket, Type};
    let open = || {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        // Accepted sockets inherit these.
        socket.set_tcp_nodelay(true)?;
        socket.set_keepalive(true)?;
        socket.bind(&address.into())?;
        socket.listen(4_096)?;
        Ok(TcpListener::from(socket))
    };
    once_free(open).map_err(|source: std::io::Error| match source.kind() {
        std::io::ErrorKind::AddrInUse => {
            OpenError::AddressInUse { address: address.to_string(), option }
        }
        _ => OpenError::Listen { address: address.to_string(), option, source },
    })
}

/// Takes an address, which may not be free yet: when a process is killed, the kernel takes its rings
/// apart after the process is gone, and their sockets with them.
pub(crate) fn once_free<T>(take: impl Fn() -> std::io::Result<T>) -> std::io::Result<T> {
    const PATIENCE: Duration = Duration::from_secs(1);
    const PAUSE: Duration = Duration::from_millis(5);
    let began = Instant::now();
    loop {
        match take() {
            Err(error)
                if error.kind() == std::io::ErrorKind::AddrInUse && began.elapsed() < PATIENCE =>
            {
                std::thread::sleep(PAUSE);
            }
            taken => return taken,
        }
    }
}

/// Forty hexadecimal digits that tell one run from another, as Redis has.
fn run_id() -> String {
    let mut bytes = [0_u8; 20];
    // Without randomness from the kernel the identity is merely less unlikely to repeat.
    let _ = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::NONBLOCK);
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Memory of one core's receive buffers, in bytes.
pub(crate) const fn ring_bytes() -> u64 {
    RING.buffer_count as u64 * RING.buffer_bytes as u64
}
