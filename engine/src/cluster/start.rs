//! How a node's part in its cluster is made, from its options and its data directory.

use std::fs::File;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use gridkv_cluster::identity::{Hello, Identity, Local, PublicKey, Security, Trust};
use gridkv_cluster::member;
use gridkv_cluster::swim::{self, Swim};
use gridkv_cluster::topology::Member;
use gridkv_cluster::topology::agreement::{self, Agreement, Forming, Own};
use gridkv_cluster::topology::endpoint::Endpoint;
use gridkv_cluster::{HybridClock, Instant, NodeId, Now, TokenKey, Version, WallTime};
use gridkv_net::peer::{Datagrams, PeerListener};
use gridkv_net::ring::DataRing;
use gridkv_storage::directory::Directory;
use gridkv_storage::{Durability, Eviction};
use xxhash_rust::xxh3::xxh3_64;

use super::control::{CONTROL_CORE, Control, Parts};
use super::identity_files;
use super::links::{Links, random};
use super::machine::{self, Machine};
use super::seeds::{Seeds, resolve};
use super::{Cluster, coordinator_config};
use crate::config::{ClusterConfig, ClusterSecurity, Config, is_on_disk};
use crate::core::account::Account;
use crate::error::OpenError;
use crate::node::{listen, once_free};

/// The file in the data directory in which the topology is kept.
const TOPOLOGY_FILE: &str = "topology";

/// There while the node may have acknowledged what is not on disk yet. Found at a start, it tells that
/// the node was killed meanwhile.
const UNSETTLED_FILE: &str = "unsettled";

/// What all cores of a node share about its cluster.
pub(crate) struct ClusterNode {
    local: Arc<Local>,
    /// Where it listens for other nodes, who reach it at its member's address.
    bind: SocketAddr,
    /// What tokens are made with in a cluster that this node forms.
    token_secret: [u8; TokenKey::BYTES],
    hello: Hello,
    member: Member,
    file: PathBuf,
    /// It belonged to a cluster when it was started: what its peers have missed of what it had asked them
    /// before, nobody remembers.
    was_member: bool,
    unsettled_file: PathBuf,
    /// The node may lack what it acknowledged before it was killed.
    is_behind: AtomicBool,
    listener: Mutex<Option<TcpListener>>,
    /// Another process has this node's identity.
    conflict: AtomicBool,
}

impl ClusterNode {
    /// Reads the node's identity, and takes its addresses.
    ///
    /// # Errors
    ///
    /// [`OpenError`], naming the option at fault.
    pub(crate) fn open(
        config: &Config,
        directory: &Directory,
        shard_count: u16,
        (listen_address, started): (Option<SocketAddr>, WallTime),
    ) -> Result<Option<Self>, OpenError> {
        let options = &config.cluster;
        let (path, token_secret) = (directory.path(), directory.token_key().secret());
        let Some(bind) = options.address else {
            check_alone(config)?;
            return Ok(None);
        };
        check(config)?;
        let address = announced(options, bind)?;
        let identity = identity_files::load_or_create(path)
            .map_err(|error| wrong("data", &error.to_string()))?;
        let security = security(options, path)?;
        let local = Local { identity, security, cluster: options.name.clone() };
        local.check().map_err(|error| wrong("cluster_name", &error.to_string()))?;
        // A store in memory is another at each start.
        let store = if is_on_disk(&config.storage) {
            xxh3_64(directory.id().as_bytes())
        } else {
            number(&random())
        };
        let is_behind = path.join(UNSETTLED_FILE).exists();
        if is_behind {
            tracing::error!(
                "this node was killed before its log was on disk, and may lack what it has \
                 acknowledged: it takes writes, and is not counted for reads and votes"
            );
        }
        let run = started.as_millis();
        let hello = Hello { address, store, epoch: 0, run, cluster_id: 0 };
        let listener = listen(bind, "cluster")?;
        let mut member = member(options, &local.identity, address, shard_count, store);
        member.clients = clients(config, listen_address, address);
        if path.join(TOPOLOGY_FILE).exists() {
            tracing::warn!(
                "what other members missed before this start is not known: reads at quorum mend what \
                 they read"
            );
        }
        tracing::info!(id = %local.identity.id(), name = member.name, %address, "cluster node");
        let node = Self {
            local: Arc::new(local),
            bind,
            hello,
            member,
            token_secret,
            was_member: path.join(TOPOLOGY_FILE).exists(),
            unsettled_file: path.join(UNSETTLED_FILE),
            is_behind: AtomicBool::new(is_behind),
            file: path.join(TOPOLOGY_FILE),
            listener: Mutex::new(Some(listener)),
            conflict: AtomicBool::new(false),
        };
        if config.durability != Durability::Commit && is_on_disk(&config.storage) {
            node.note_unsettled().map_err(|source| {
                let path = node.unsettled_file.display().to_string();
                OpenError::Data { path, source }
            })?;
        }
        Ok(Some(node))
    }

    /// What tokens are made with, where the node has belonged to a cluster before.
    pub(crate) fn kept_token_secret(&self) -> Option<[u8; TokenKey::BYTES]> {
        // What is wrong with the file is said when the agreement is made of it.
        agreement::kept_token_secret(&std::fs::read(&self.file).ok()?)
    }

    /// Nothing is lacking any more.
    pub(crate) fn set_whole(&self) {
        if self.is_behind.swap(false, Ordering::AcqRel) {
            tracing::info!("what this node may have lacked is gone for all: it is counted again");
        }
    }

    /// From here on the node acknowledges what is not on disk yet: a kill is found at the next start.
    ///
    /// # Errors
    ///
    /// What the file system says.
    pub(crate) fn note_unsettled(&self) -> std::io::Result<()> {
        if self.unsettled_file.exists() {
            return Ok(());
        }
        File::create(&self.unsettled_file)?.sync_all()?;
        File::open(self.unsettled_file.parent().unwrap_or_else(|| Path::new(".")))?.sync_all()
    }

    /// All logs are closed, and on disk. A node that is behind stays so.
    pub(crate) fn note_settled(&self) {
        if !self.is_behind.load(Ordering::Acquire)
            && let Err(error) = std::fs::remove_file(&self.unsettled_file)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(%error, "the next start will find the node behind");
        }
    }

    /// Whether it belonged to a cluster when it was started.
    pub(crate) const fn was_member(&self) -> bool {
        self.was_member
    }

    /// The node's name.
    pub(crate) fn name(&self) -> &str {
        &self.member.name
    }

    pub(crate) fn set_conflict(&self) {
        self.conflict.store(true, Ordering::Release);
    }

    /// Whether another process has this node's identity.
    pub(crate) fn has_conflict(&self) -> bool {
        self.conflict.load(Ordering::Acquire)
    }

    /// One core's part. `resume_after` is above everything its shards have ever used.
    ///
    /// # Errors
    ///
    /// [`OpenError`], when the address is taken or what was kept is damaged.
    pub(crate) fn core(
        &self,
        config: &Config,
        core: usize,
        ring: &mut DataRing,
    ) -> Result<Cluster, OpenError> {
        let options = &config.cluster;
        let mut cluster = Cluster::new(Links::new(Arc::clone(&self.local), self.hello));
        if core == CONTROL_CORE {
            cluster.control = Some(Box::new(self.control(options, ring)?));
        }
        Ok(cluster)
    }

    /// What a core does about keys. What waits is counted in `waiting`.
    pub(crate) fn machine(
        &self,
        options: &ClusterConfig,
        resume_after: Version,
        waiting: Account,
    ) -> Machine {
        let clock = HybridClock::new(NodeId(0), resume_after.timestamp, options.clock_drift_max);
        Machine::new(machine::Parts {
            config: coordinator_config(options),
            clock,
            sync_log_bytes: options.sync_log_bytes,
            seed: number(&random()),
            is_behind: self.is_behind.load(Ordering::Acquire),
            waiting,
        })
    }

    fn control(&self, options: &ClusterConfig, ring: &mut DataRing) -> Result<Control, OpenError> {
        let (address, bind) = (self.hello.address, self.bind);
        let failed =
            |source| OpenError::Listen { address: bind.to_string(), option: "cluster", source };
        let datagrams = once_free(|| Datagrams::bind(bind)).map_err(failed)?;
        let listener = self.listener.lock().unwrap_or_else(PoisonError::into_inner).take();
        let listener = listener.expect("one core speaks for the node");
        let listener = PeerListener::new(listener).map_err(failed)?;
        let swim_own = swim::Own {
            id: self.local.identity.id(),
            address,
            run: self.hello.run,
            cluster: xxh3_64(options.name.as_bytes()),
        };
        let swim = Swim::new(swim_config(options), swim_own, number(&random()), Instant::ZERO);
        let seeds = Seeds::new(&options.join);
        let own = Own {
            member: self.member.clone(),
            seeds: seeds.addresses(),
            forming: match (options.bootstrap, options.join.is_empty()) {
                (true, true) => Forming::AtOnce,
                (true, false) | (false, true) => Forming::Unheard,
                (false, false) => Forming::Never,
            },
            replica_count: options.replica_count,
            token_secret: self.token_secret,
        };
        let kept = match std::fs::read(&self.file) {
            Ok(bytes) => Some(bytes),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(source) => {
                return Err(OpenError::Data { path: self.file.display().to_string(), source });
            }
        };
        let cluster_id = number(&random()).max(1);
        let seed = number(&random());
        let agreement = Agreement::new(own, kept.as_deref(), cluster_id, seed, Instant::ZERO)
            .map_err(|_| {
                let path = self.file.display();
                let problem =
                    "is damaged, or of another version: restore it, or let the node join anew";
                wrong("data", &format!("{path} {problem}"))
            })?;
        let now = Now { at: Instant::ZERO, wall: crate::core::wall_time() };
        let parts = Parts {
            member: member::Member::new(now, swim, agreement),
            local: Arc::clone(&self.local),
            run: self.hello.run,
            datagrams,
            listener,
            file: self.file.clone(),
            seeds,
        };
        Ok(Control::new(parts, ring))
    }
}

fn swim_config(options: &ClusterConfig) -> swim::Config {
    swim::Config {
        probe_interval: options.probe_interval,
        probe_timeout: options.probe_timeout,
        exchange_interval: options.exchange_interval,
        forget_after: options.forget_after,
        ..swim::Config::lan()
    }
}

/// What is asked of a node of a cluster is not asked of a node alone.
///
/// # Errors
///
/// [`OpenError`], naming the option.
pub(crate) fn check_alone(config: &Config) -> Result<(), OpenError> {
    let options = &config.cluster;
    assert_eq!(options.address, None);
    let problem = "needs `cluster`, the address at which other nodes reach this one";
    let given = [
        ("join", !options.join.is_empty()),
        ("bootstrap", options.bootstrap),
        ("announce", config.announce.is_some()),
        ("cluster_announce", options.announce.is_some()),
    ];
    let given = given.into_iter().find(|(_, is_given)| *is_given);
    given.map_or(Ok(()), |(option, _)| Err(wrong(option, problem)))
}

/// Where other nodes are told to reach this one. Blocks where that is a host name.
fn announced(options: &ClusterConfig, bind: SocketAddr) -> Result<SocketAddr, OpenError> {
    let Some(endpoint) = &options.announce else {
        if bind.ip().to_canonical().is_unspecified() {
            let problem = "nobody can connect to a wildcard: other nodes need an address of this one, \
                           here or in `cluster_announce`";
            return Err(wrong("cluster", problem));
        }
        return Ok(bind);
    };
    let unresolved = |why: &str| wrong("cluster_announce", &format!("{endpoint}: {why}"));
    let found = resolve(endpoint).map_err(|error| unresolved(&error.to_string()))?;
    let found = found.into_iter().filter(|it| !it.ip().to_canonical().is_unspecified());
    let found: Vec<SocketAddr> = found.collect();
    // A socket that listens on an IPv4 address hears nothing else.
    let is_fitting = |it: &&SocketAddr| it.is_ipv4() == bind.is_ipv4();
    let address = found.iter().find(is_fitting).or_else(|| found.first());
    address.copied().ok_or_else(|| unresolved("it has no address that others can reach"))
}

/// Where clients of other nodes are told to reach this one; `None` where it takes no clients.
fn clients(config: &Config, listen: Option<SocketAddr>, address: SocketAddr) -> Option<Endpoint> {
    let listen = listen?;
    let host = if listen.ip().to_canonical().is_unspecified() { address.ip() } else { listen.ip() };
    let reached = SocketAddr::new(host, listen.port());
    Some(config.announce.clone().unwrap_or_else(|| reached.into()))
}

/// What one option says of another.
fn check(config: &Config) -> Result<(), OpenError> {
    let options = &config.cluster;
    if config.announce.is_some() && config.listen.is_none() {
        return Err(wrong("announce", "needs `listen`: this node takes no clients"));
    }
    if config.eviction == Eviction::Lfu {
        let problem = "lfu forgets keys, which replicas would bring back: it needs a node alone";
        return Err(wrong("eviction", problem));
    }
    if options.probe_timeout * 2 > options.probe_interval {
        return Err(wrong("probe_timeout", "must be at most half of `probe_interval`"));
    }
    if options.exchange_interval < options.probe_interval {
        return Err(wrong("exchange_interval", "must be at least `probe_interval`"));
    }
    for (option, quorum) in
        [("write_quorum", options.write_quorum), ("read_quorum", options.read_quorum)]
    {
        if quorum.is_some_and(|quorum| quorum > options.replica_count) {
            return Err(wrong(option, "must be at most `replicas`"));
        }
    }
    let majority = options.replica_count / 2 + 1;
    let (write, read) = (options.write_quorum, options.read_quorum);
    let (write, read) = (write.unwrap_or(majority), read.unwrap_or(majority));
    if write + read <= options.replica_count {
        let problem = "must be so many that `read_quorum` and it together are more than `replicas`: \
                       else reads at quorum miss acknowledged writes; `one` is for that";
        return Err(wrong("write_quorum", problem));
    }
    Ok(())
}

fn security(options: &ClusterConfig, directory: &Path) -> Result<Security, OpenError> {
    let key = |text: &String| {
        text.parse::<PublicKey>().map_err(|error| wrong("trusted_keys", &error.to_string()))
    };
    if options.security == ClusterSecurity::Off {
        return Ok(Security::Off);
    }
    if !options.cluster_key.is_empty() {
        let key = key(&options.cluster_key)?;
        let certificate = identity_files::load_certificate(directory)
            .map_err(|error| wrong("cluster_key", &error.to_string()))?;
        let missing = "this node's key is not certified: gridkv keygen DIR --cluster-key FILE";
        let certificate = certificate.ok_or_else(|| wrong("cluster_key", missing))?;
        return Ok(Security::Sign(Trust::ClusterKey { key, certificate }));
    }
    if options.trusted_keys.is_empty() {
        let problem = "sign needs `trusted_keys` or `cluster_key`: see gridkv keygen";
        return Err(wrong("cluster_security", problem));
    }
    let keys = options.trusted_keys.iter().map(key).collect::<Result<Vec<_>, _>>()?;
    Ok(Security::Sign(Trust::Keys(keys)))
}

fn member(
    options: &ClusterConfig,
    identity: &Identity,
    address: SocketAddr,
    shard_count: u16,
    store: u64,
) -> Member {
    let name = if options.node_name.is_empty() {
        identity.id().to_string()[..8].to_owned()
    } else {
        options.node_name.clone()
    };
    Member {
        id: identity.id().0,
        node: 0,
        key: identity.public().0,
        name,
        address,
        clients: None,
        zone: options.zone.clone(),
        weight: options.virtual_nodes,
        shard_count,
        store,
    }
}

fn number(bytes: &[u8; 32]) -> u64 {
    let (first, _) = bytes.split_first_chunk::<8>().expect("there are 32");
    u64::from_le_bytes(*first)
}

fn wrong(option: &'static str, problem: &str) -> OpenError {
    OpenError::Option { option, problem: problem.to_owned() }
}
