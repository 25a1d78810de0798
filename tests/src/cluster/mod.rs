//! Clusters of real processes, to be broken on purpose.
//!
//! | to | use |
//! |---|---|
//! | start nodes, kill them, pause them | [`Cluster`], [`Member`] |
//! | write and read while that happens | [`load`] |
//! | know what a key may hold | [`book`] |
//! | do it over and over | [`rounds`] |
//!
//! Each node has an address of its own on the loopback network, not only a port. A dialled port of
//! 127.0.0.1 on which nobody listens may be the one that the dialling socket was given itself: it
//! then connects to itself, and the node that comes back finds its port taken.

pub mod book;
pub mod load;
pub mod member;
pub mod rounds;

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::Value as Json;

pub use self::member::{Endpoint, Member};
use crate::until;

/// What all nodes of a cluster are started with.
#[derive(Clone, Debug, Default)]
pub struct Spec {
    /// Further arguments.
    pub arguments: Vec<String>,
}

impl Spec {
    /// Nodes that keep their keys in memory.
    #[must_use]
    pub fn memory() -> Self {
        Self::default().with("--storage memory")
    }

    /// Nodes that keep them in files, and answer when they are durable.
    #[must_use]
    pub fn file() -> Self {
        Self::default().with("--storage file --durability commit --segment 1MiB --cache 1MiB")
    }

    /// The same with further arguments, apart by blanks.
    #[must_use]
    pub fn with(mut self, arguments: &str) -> Self {
        self.arguments.extend(arguments.split_whitespace().map(str::to_owned));
        self
    }
}

/// Nodes and their directories, which go when it is dropped.
#[derive(Debug)]
pub struct Cluster {
    /// The nodes: the first forms the cluster, the others join through it.
    pub members: Vec<Member>,
    place: tempfile::TempDir,
    spec: Spec,
    planned_count: usize,
}

impl Cluster {
    /// Nodes that are not started yet.
    ///
    /// # Panics
    ///
    /// When there is no room for their directories.
    #[must_use]
    pub fn planned(count: usize, spec: &Spec) -> Self {
        let place = tempfile::tempdir().expect("a directory for files");
        let mut cluster = Self { members: Vec::new(), place, spec: spec.clone(), planned_count: 0 };
        for _ in 0..count {
            let seed = cluster.members.first().map(|seed| seed.address);
            cluster.plan(seed);
        }
        cluster
    }

    /// Nodes that have formed a cluster.
    #[must_use]
    pub fn start(count: usize, spec: &Spec) -> Self {
        let mut cluster = Self::planned(count, spec);
        cluster.start_all();
        cluster
    }

    /// Plans a further node that joins through `seed`. Returns its index.
    pub fn plan(&mut self, seed: Option<SocketAddr>) -> usize {
        let index = self.members.len();
        self.planned_count += 1;
        let name = format!("n{}", self.planned_count);
        let member = Member::planned(&name, seed, self.place.path().join(&name), &self.spec);
        self.members.push(member);
        index
    }

    /// Starts all that do not run, and waits until they are one cluster.
    pub fn start_all(&mut self) {
        for member in self.members.iter_mut().filter(|member| !member.is_running()) {
            member.launch();
        }
        for member in &mut self.members {
            member.wait_until_ready();
        }
        self.wait_until_whole();
    }

    /// Waits until every node sees all members alive in one topology, and serves.
    pub fn wait_until_whole(&mut self) {
        let count = self.members.len();
        for index in 0..count {
            self.members[index].wait_for_status("a whole cluster", |status| {
                status["standing"] == "serving" && alive_count(status) == count
            });
        }
        let epoch = |member: &mut Member| member.status()["epoch"].as_u64();
        until("all know the same topology", || {
            let epochs: Vec<_> = self.members.iter_mut().map(epoch).collect();
            epochs.iter().all(|it| *it == epochs[0])
        });
    }

    /// Waits until `at` sees `other` in a state.
    pub fn wait_for_state(&mut self, at: usize, other: usize, state: &str) {
        let name = self.members[other].name.clone();
        self.members[at].wait_for_status(&format!("{name} is {state}"), |status| {
            state_of(status, &name) == Some(state)
        });
    }

    /// Waits until no node knows of writes that another has missed.
    pub fn wait_until_caught_up(&mut self) {
        for member in &mut self.members {
            member.wait_for_status("no lag", |status| {
                let lags = status["lag"].as_array().expect("a list");
                lags.iter().all(|lag| lag["writes"] == 0)
            });
        }
    }

    /// Where clients reach each node.
    #[must_use]
    pub fn endpoints(&self) -> Vec<Endpoint> {
        self.members.iter().map(Member::endpoint).collect()
    }
}

/// The state in which a status has a member, by its name.
#[must_use]
pub fn state_of<'a>(status: &'a Json, name: &str) -> Option<&'a str> {
    let mut members = status["members"].as_array()?.iter();
    members.find(|member| member["id"] == name)?["state"].as_str()
}

/// How many members of the topology are alive in a status.
#[must_use]
pub fn alive_count(status: &Json) -> usize {
    let is_alive = |member: &&Json| member["state"] == "alive" && member["node"] != 0;
    status["members"].as_array().map_or(0, |members| members.iter().filter(is_alive).count())
}

/// An address for a node, on which nobody listens, over TCP and UDP.
///
/// # Panics
///
/// When there is none.
#[must_use]
pub fn free_address() -> SocketAddr {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let process = std::process::id();
    let byte = |value: u32| u8::try_from(value & 0xff).expect("it was cut");
    // 127.64.0.1 and up: the process, then the node.
    let ip = Ipv4Addr::new(127, 64 | byte(process >> 8 & 63), byte(process), byte(number));
    for _ in 0..100 {
        let socket = TcpListener::bind(SocketAddr::new(IpAddr::V4(ip), 0));
        let address = socket.as_ref().ok().and_then(|it| it.local_addr().ok());
        let address = address.expect("the loopback network has free ports");
        if UdpSocket::bind(address).is_ok() {
            return address;
        }
    }
    panic!("no port is free over both TCP and UDP");
}
