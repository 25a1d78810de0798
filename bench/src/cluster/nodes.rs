//! The nodes of a cluster on this machine.
//!
//! Each has an address of its own on the loopback network, not only a port: a dialled port on which
//! nobody listens may be the one that the dialling socket was given itself, which then talks to
//! itself and keeps the node that comes back from its port.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use std::{io, thread};

use rustix::process::Signal;
use tempfile::TempDir;

use super::faults::Action;
use crate::interrupt;
use crate::options::ClusterOptions;
use crate::server::{self, Process};

const CLIENT_PORT: u16 = 7379;
const CLUSTER_PORT: u16 = 7380;
const ADMIN_PORT: u16 = 7381;

/// How often it is looked whether a node serves.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// Networks of 127.0.0.0/8 that are tried.
const NETWORKS: u8 = 200;

/// Why nodes do not serve. None is left behind.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A process does not start, or ends.
    #[error(transparent)]
    Server(#[from] server::Error),
    /// The faults cannot happen.
    #[error("{0}")]
    Faults(
        /// Why.
        String,
    ),
    /// The program `gridkv` is not to be found.
    #[error("no gridkv beside this program ({}): name it with --gridkv", .0.display())]
    NoProgram(
        /// Where it was looked for.
        PathBuf,
    ),
    /// No place for the nodes.
    #[error("cannot prepare nodes: {0}")]
    Prepare(
        /// What the system said.
        io::Error,
    ),
    /// They run, and do not come to serve together.
    #[error("the cluster did not serve within {} s: {last}", .after.as_secs_f64())]
    NotServing {
        /// How long it was waited for.
        after: Duration,
        /// What the node that lacks most said last.
        last: String,
    },
}

/// One node.
struct Node {
    address: Ipv4Addr,
    words: Vec<String>,
    output: PathBuf,
    /// Absent while it is gone.
    process: Option<Process>,
}

/// All nodes. They are stopped, and their directory goes, when this is dropped.
pub struct Nodes {
    program: PathBuf,
    nodes: Vec<Node>,
    cpus: BTreeSet<usize>,
    start_timeout: Duration,
    _directory: TempDir,
}

impl Nodes {
    /// Starts all nodes and waits until each serves and sees all others.
    ///
    /// # Errors
    ///
    /// When they do not.
    pub fn start(options: &ClusterOptions) -> Result<Self, Error> {
        let program = program(options)?;
        let parent = options.server.dir.clone().unwrap_or_else(std::env::temp_dir);
        let directory = tempfile::Builder::new()
            .prefix("gridkv-bench-cluster-")
            .tempdir_in(&parent)
            .map_err(Error::Prepare)?;
        let network = free_network(options.nodes.into()).map_err(Error::Prepare)?;
        let nodes = (1..=usize::from(options.nodes))
            .map(|number| Node::plan(number, network, &program, directory.path(), options))
            .collect();
        let mut nodes = Self {
            program,
            nodes,
            cpus: options.server.server_cpus.as_ref().map(|it| it.0.clone()).unwrap_or_default(),
            start_timeout: options.server.server_start_timeout,
            _directory: directory,
        };
        for index in 0..nodes.nodes.len() {
            nodes.begin(index)?;
        }
        nodes.await_service()?;
        Ok(nodes)
    }

    /// The address of all nodes together.
    #[must_use]
    pub fn url(&self, consistency: Option<&str>) -> String {
        let servers: Vec<String> =
            self.nodes.iter().map(|it| format!("{}:{CLIENT_PORT}", it.address)).collect();
        let level = consistency.map(|it| format!("?consistency={it}")).unwrap_or_default();
        format!("resp://{}{level}", servers.join(","))
    }

    /// Does something to node `number`, which counts from 1.
    ///
    /// # Errors
    ///
    /// When it cannot be started again.
    pub fn perform(&mut self, number: usize, action: Action) -> Result<(), Error> {
        let index = number - 1;
        let node = &mut self.nodes[index];
        match (action, &mut node.process) {
            // It is waited for in an instant, as the system takes it away.
            (Action::Kill, Some(process)) => {
                process.send(Signal::KILL);
                node.process = None;
            }
            (Action::Stop, Some(process)) => process.ask_to_stop(),
            (Action::Pause, Some(process)) => process.send(Signal::STOP),
            (Action::Resume, Some(process)) => process.send(Signal::CONT),
            (Action::Restart, _) => self.begin(index)?,
            (_, None) => {}
        }
        Ok(())
    }

    /// Stops all nodes: all are asked first, then each is waited for.
    pub fn stop(&mut self) {
        for process in self.nodes.iter_mut().filter_map(|it| it.process.as_mut()) {
            process.send(Signal::CONT);
            process.ask_to_stop();
        }
        self.nodes.iter_mut().for_each(|it| it.process = None);
    }

    /// Starts a node; one that still runs, or is about to end, ends first.
    fn begin(&mut self, index: usize) -> Result<(), Error> {
        let node = &mut self.nodes[index];
        node.process = None;
        node.process = Some(Process::start(&node.words, node.output.clone(), &self.cpus)?);
        Ok(())
    }

    fn await_service(&mut self) -> Result<(), Error> {
        let deadline = Instant::now() + self.start_timeout;
        loop {
            for process in self.nodes.iter_mut().filter_map(|it| it.process.as_mut()) {
                if let Some(status) = process.status() {
                    let (command, output) = (process.command().to_owned(), process.last_words());
                    return Err(server::Error::Exited { command, status, output }.into());
                }
            }
            let count = self.nodes.len();
            let unready = self.nodes.iter().find_map(|it| lacks(&self.program, it, count).err());
            let Some(last) = unready else { return Ok(()) };
            if interrupt::is_set() {
                return Err(server::Error::Interrupted.into());
            }
            if Instant::now() >= deadline {
                return Err(Error::NotServing { after: self.start_timeout, last });
            }
            thread::sleep(LOOK_INTERVAL);
        }
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Node {
    fn plan(
        number: usize,
        network: u8,
        program: &Path,
        directory: &Path,
        options: &ClusterOptions,
    ) -> Self {
        let address = address_of(network, number);
        let data = directory.join(format!("node-{number}"));
        let mut words = vec![program.display().to_string()];
        let mut option = |name: &str, value: String| words.extend([name.to_owned(), value]);
        option("--node-id", format!("node-{number}"));
        option("--data", data.display().to_string());
        option("--listen", format!("{address}:{CLIENT_PORT}"));
        option("--cluster", format!("{address}:{CLUSTER_PORT}"));
        option("--admin", format!("{address}:{ADMIN_PORT}"));
        option("--replicas", options.replica_count().to_string());
        if number > 1 {
            option("--join", format!("{}:{CLUSTER_PORT}", address_of(network, 1)));
        }
        words.extend(options.node.iter().flat_map(|it| it.0.iter().cloned()));
        let output = directory.join(format!("node-{number}.log"));
        Self { address, words, output, process: None }
    }
}

/// Whether a node serves and sees `count` members alive; otherwise what it says.
fn lacks(program: &Path, node: &Node, count: usize) -> Result<(), String> {
    let admin = format!("{}:{ADMIN_PORT}", node.address);
    let output = Command::new(program)
        .args(["status", "--json", "--admin", &admin])
        .output()
        .map_err(|error| error.to_string())?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).trim().to_owned());
    }
    let status: serde_json::Value =
        serde_json::from_slice(&output.stdout).map_err(|error| error.to_string())?;
    let members = status["members"].as_array().map(Vec::as_slice).unwrap_or_default();
    let alive = members.iter().filter(|it| it["state"] == "alive").count();
    let standing = status["standing"].as_str().unwrap_or("unknown");
    if standing == "serving" && alive == count {
        return Ok(());
    }
    Err(format!("{} is {standing} and sees {alive} of {count} members alive", node.address))
}

fn program(options: &ClusterOptions) -> Result<PathBuf, Error> {
    if let Some(program) = &options.gridkv {
        return Ok(program.clone());
    }
    let own = std::env::current_exe().map_err(Error::Prepare)?;
    let beside = own.with_file_name("gridkv");
    if beside.is_file() { Ok(beside) } else { Err(Error::NoProgram(beside)) }
}

fn address_of(network: u8, number: usize) -> Ipv4Addr {
    Ipv4Addr::new(127, 79, network, u8::try_from(number).expect("there are few nodes"))
}

/// A part of the loopback network in which the ports of all nodes are free.
fn free_network(node_count: usize) -> io::Result<u8> {
    let is_free = |network: u8| {
        (1..=node_count).all(|number| {
            [CLIENT_PORT, CLUSTER_PORT, ADMIN_PORT].iter().all(|&port| {
                TcpListener::bind(SocketAddrV4::new(address_of(network, number), port)).is_ok()
            })
        })
    };
    // Begins at a place of its own, so that two programs seldom meet.
    let first = (std::process::id() % u32::from(NETWORKS)) as u8;
    (0..NETWORKS)
        .map(|step| 1 + (u16::from(first) + u16::from(step)) as u8 % NETWORKS)
        .find(|&network| is_free(network))
        .ok_or_else(|| io::Error::other("no free addresses in 127.79.0.0/16"))
}
