//! What a node is told about its cluster.

use std::net::SocketAddr;
use std::time::Duration;

use gridkv_cluster::topology::endpoint::Endpoint;

use super::text::{Parsed, address, duration, endpoint, expected, number, one_of, or_word, size};

/// Whether nodes prove who they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClusterSecurity {
    /// They do not: everybody who can reach the cluster's addresses is trusted.
    Off,
    /// They sign, and trust a list of keys or those signed by the cluster's key.
    Sign,
}

/// The options about the cluster, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterConfig {
    /// Where this node listens for others, over TCP and UDP; `None` for a node alone.
    pub address: Option<SocketAddr>,
    /// Where other nodes reach it, if that is not where it listens. A host name is resolved when the
    /// node starts.
    pub announce: Option<Endpoint>,
    /// Members to ask for admission. Host names are resolved again for each attempt, and all of their
    /// addresses tried. Without any, a node with a directory that was never in a cluster
    /// forms one, unless it hears of one of that name.
    pub join: Vec<Endpoint>,
    /// Whether such a node forms a cluster without listening for one first; with `join`, whether it
    /// forms one when none of those answers that it is in one.
    pub bootstrap: bool,
    /// The cluster's name: nodes of another are refused.
    pub name: String,
    /// What people call this node; empty for a name made of its identity.
    pub node_name: String,
    /// Replicas are kept in different zones where there are as many.
    pub zone: String,
    /// Copies of each key, as the node that forms the cluster is told.
    pub replica_count: u8,
    /// Replicas that a write at `quorum` waits for; `None` for more than half.
    pub write_quorum: Option<u8>,
    /// Replicas that a read at `quorum` asks; `None` for more than half.
    pub read_quorum: Option<u8>,
    /// Places of this node on the ring of tokens: its weight.
    pub virtual_nodes: u16,
    /// How long an operation may wait for replicas.
    pub request_timeout: Duration,
    /// How far ahead of this node's clock another's may be.
    pub clock_drift_max: Duration,
    /// Size of the log of latest writes that a peer which was away is fed from, for each core.
    pub sync_log_bytes: usize,
    /// How often a member is probed.
    pub probe_interval: Duration,
    /// How long a probe may take before others are asked to try.
    pub probe_timeout: Duration,
    /// How often the whole list of members is exchanged with another.
    pub exchange_interval: Duration,
    /// How long dead members are remembered.
    pub forget_after: Duration,
    /// Whether nodes prove who they are.
    pub security: ClusterSecurity,
    /// Public keys of nodes that are trusted, in hexadecimal.
    pub trusted_keys: Vec<String>,
    /// The public key that has signed the keys of all nodes, in hexadecimal; empty for none.
    pub cluster_key: String,
}

impl ClusterConfig {
    pub(super) const fn empty() -> Self {
        Self {
            address: None,
            announce: None,
            join: Vec::new(),
            bootstrap: false,
            name: String::new(),
            node_name: String::new(),
            zone: String::new(),
            replica_count: 0,
            write_quorum: None,
            read_quorum: None,
            virtual_nodes: 0,
            request_timeout: Duration::ZERO,
            clock_drift_max: Duration::ZERO,
            sync_log_bytes: 0,
            probe_interval: Duration::ZERO,
            probe_timeout: Duration::ZERO,
            exchange_interval: Duration::ZERO,
            forget_after: Duration::ZERO,
            security: ClusterSecurity::Off,
            trusted_keys: Vec::new(),
            cluster_key: String::new(),
        }
    }

    /// Sets one option from its text; `Err(None)` for a name that is none.
    pub(super) fn set(&mut self, name: &str, text: &str) -> Parsed<()> {
        match name {
            "cluster" => self.address = cluster_address(text)?,
            "cluster_announce" => self.announce = or_word(text, "auto", endpoint)?,
            "join" => self.join = list(text).map(endpoint).collect::<Parsed<Vec<_>>>()?,
            "bootstrap" => self.bootstrap = one_of(text, &[("true", true), ("false", false)])?,
            "cluster_name" => self.name = short(text)?,
            "node_id" => self.node_name = short(text)?,
            "zone" => self.zone = short(text)?,
            "replicas" => self.replica_count = number(text, 1, 16)?,
            "write_quorum" => {
                self.write_quorum = or_word(text, "majority", |it| number(it, 1, 16))?;
            }
            "read_quorum" => self.read_quorum = or_word(text, "majority", |it| number(it, 1, 16))?,
            "virtual_nodes" => self.virtual_nodes = number(text, 1, 4_096)?,
            "request_timeout" => self.request_timeout = some_time(text)?,
            "max_clock_drift" => self.clock_drift_max = some_time(text)?,
            "sync_log" => self.sync_log_bytes = size(text, 64 << 10, 16 << 30)?,
            "probe_interval" => self.probe_interval = some_time(text)?,
            "probe_timeout" => self.probe_timeout = some_time(text)?,
            "exchange_interval" => self.exchange_interval = some_time(text)?,
            "forget_after" => self.forget_after = some_time(text)?,
            "cluster_security" => {
                let words = [("off", ClusterSecurity::Off), ("sign", ClusterSecurity::Sign)];
                self.security = one_of(text, &words)?;
            }
            "trusted_keys" => {
                self.trusted_keys = list(text).map(key).collect::<Parsed<Vec<_>>>()?;
            }
            "cluster_key" => {
                self.cluster_key = if text.is_empty() { String::new() } else { key(text)? };
            }
            _ => return Err(None),
        }
        Ok(())
    }

    /// The text of an option's value.
    pub(super) fn text(&self, name: &str) -> Option<String> {
        let time = |time: Duration| humantime::format_duration(time).to_string();
        let quorum = |count: Option<u8>| {
            count.map_or_else(|| "majority".to_owned(), |count| count.to_string())
        };
        Some(match name {
            "cluster" => {
                self.address.map_or_else(|| "off".to_owned(), |address| address.to_string())
            }
            "cluster_announce" => {
                self.announce.as_ref().map_or_else(|| "auto".to_owned(), Endpoint::to_string)
            }
            "join" => super::text::join(self.join.iter()),
            "bootstrap" => self.bootstrap.to_string(),
            "cluster_name" => self.name.clone(),
            "node_id" => self.node_name.clone(),
            "zone" => self.zone.clone(),
            "replicas" => self.replica_count.to_string(),
            "write_quorum" => quorum(self.write_quorum),
            "read_quorum" => quorum(self.read_quorum),
            "virtual_nodes" => self.virtual_nodes.to_string(),
            "request_timeout" => time(self.request_timeout),
            "max_clock_drift" => time(self.clock_drift_max),
            "sync_log" => {
                let bytes = bytesize::ByteSize::b(self.sync_log_bytes as u64);
                bytes.display().iec().to_string().replace(' ', "")
            }
            "probe_interval" => time(self.probe_interval),
            "probe_timeout" => time(self.probe_timeout),
            "exchange_interval" => time(self.exchange_interval),
            "forget_after" => time(self.forget_after),
            "cluster_security" => match self.security {
                ClusterSecurity::Off => "off".to_owned(),
                ClusterSecurity::Sign => "sign".to_owned(),
            },
            "trusted_keys" => super::text::join(self.trusted_keys.iter()),
            "cluster_key" => self.cluster_key.clone(),
            _ => return None,
        })
    }
}

/// An address with a port that is known: others are told it.
fn cluster_address(text: &str) -> Parsed<Option<SocketAddr>> {
    let found = address(text)?;
    match found {
        Some(address) if address.port() == 0 => expected(
            "the address at which other nodes reach this one is needed, such as 10.0.0.1:7380",
        ),
        found => Ok(found),
    }
}

fn list(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|it| !it.is_empty())
}

fn short(text: &str) -> Parsed<String> {
    if text.len() <= 64 && text.bytes().all(|byte| byte.is_ascii_graphic()) {
        Ok(text.to_owned())
    } else {
        expected("at most 64 letters, digits and signs, without blanks, are needed")
    }
}

fn some_time(text: &str) -> Parsed<Duration> {
    match duration(text)? {
        Duration::ZERO => expected("a time above zero is needed"),
        time => Ok(time),
    }
}

fn key(text: &str) -> Parsed<String> {
    let is_key = text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    if is_key {
        Ok(text.to_ascii_lowercase())
    } else {
        expected("public keys of 64 hexadecimal digits are needed, as `gridkv keygen` prints them")
    }
}
