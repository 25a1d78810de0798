//! Faults, over and over, while clients write: killed, paused and restarted nodes, cut links.
//!
//! The rounds end when the time is over or a client was told something wrong. After each fault the
//! cluster has to become whole again, and every so many rounds all keys are compared.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use fastrand::Rng;

use super::load::{Account, Load, Options as LoadOptions};
use super::{Cluster, Endpoint, Spec};
use crate::program;

/// After so many faults all keys are compared.
const FAULTS_PER_CHECK: u32 = 4;
/// Clients at each node.
const CLIENTS_PER_NODE: usize = 2;

/// What to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// For how long.
    pub duration: Duration,
    /// What all choices derive from; the moments at which processes meet do not.
    pub seed: u64,
    /// Whether links are cut too: each node then runs in a network namespace of its own.
    pub has_cuts: bool,
    /// What the nodes keep their keys in: more arguments.
    pub arguments: String,
}

/// What is done to a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// `kill -9`, and a start after a while.
    Kill,
    /// `kill -9` of all nodes at once, and a start.
    KillAll,
    /// A restart in order.
    Restart,
    /// `SIGSTOP`, shorter than it takes to be declared dead, or longer.
    Pause,
    /// Its link is down.
    Cut,
}

/// All rounds together.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// How often each fault was made.
    pub faults: BTreeMap<Fault, u32>,
    /// Writes that have happened.
    pub done_count: u64,
    /// Writes of which nobody knows.
    pub unknown_count: u64,
    /// Writes that were refused.
    pub refused_count: u64,
    /// By fault: how long the clients that were hit saw nothing but errors.
    pub outages: BTreeMap<Fault, Vec<Duration>>,
    /// How often all keys were compared.
    pub check_count: u32,
}

/// Runs until the time is over, and says a line about each fault.
///
/// # Errors
///
/// The first wrong answer.
pub fn run(options: &Options, say: &mut dyn FnMut(&str)) -> Result<Summary, String> {
    let mut rng = Rng::with_seed(options.seed);
    let mut cluster = Cluster::planned(3, &Spec::file().with(&options.arguments));
    let net = if options.has_cuts { Some(Net::build(&mut cluster)?) } else { None };
    cluster.start_all();
    let began = Instant::now();
    let mut accounts = None;
    let mut summary = Summary::default();
    while began.elapsed() < options.duration {
        let load_options = load_options(&cluster, rng.u64(..));
        let load = match accounts.take() {
            None => Load::start(&load_options),
            Some(accounts) => Load::go_on(accounts, &load_options),
        };
        let mut marks = Vec::new();
        for _ in 0..FAULTS_PER_CHECK {
            load.wait_for_row("all clients are served", 20);
            let fault = draw(&mut rng, net.is_some());
            marks.push((Instant::now(), fault));
            let node = rng.usize(..3);
            let lasted = make(&mut cluster, net.as_ref(), fault, node, &mut rng);
            cluster.wait_until_whole();
            *summary.faults.entry(fault).or_default() += 1;
            say(&format!(
                "{:4.0?} {fault:?} of n{}, {lasted:.1?}; {} writes done in this round",
                began.elapsed(),
                node + 1,
                load.done_count()
            ));
            if load.has_failed() {
                break;
            }
        }
        load.wait_for_row("all clients are served", 20);
        let mut found = load.stop()?;
        note_outages(&mut summary, &mut found, &marks);
        check(&mut cluster, &mut found)?;
        summary.check_count += 1;
        accounts = Some(found);
    }
    for account in accounts.iter().flatten() {
        summary.done_count += account.done_count();
        summary.unknown_count += account.book.unknown_count;
        summary.refused_count += account.book.refused_count;
    }
    Ok(summary)
}

/// Two clients at each node, which go on to the next node when they are refused.
fn load_options(cluster: &Cluster, seed: u64) -> LoadOptions {
    let all = cluster.endpoints();
    let from = |first: usize| -> Vec<Endpoint> {
        (0..all.len()).map(|at| all[(first + at) % all.len()].clone()).collect()
    };
    let endpoints = (0..all.len() * CLIENTS_PER_NODE).map(|it| from(it % all.len())).collect();
    LoadOptions { endpoints, key_count: 100, seed }
}

fn draw(rng: &mut Rng, has_cuts: bool) -> Fault {
    match rng.u8(..if has_cuts { 14 } else { 10 }) {
        0..4 => Fault::Kill,
        4..5 => Fault::KillAll,
        5..7 => Fault::Restart,
        7..10 => Fault::Pause,
        _ => Fault::Cut,
    }
}

/// Makes a fault and mends it. Returns how long it lasted.
fn make(
    cluster: &mut Cluster,
    net: Option<&Net>,
    fault: Fault,
    node: usize,
    rng: &mut Rng,
) -> Duration {
    let lasts = Duration::from_millis(rng.u64(50..5_000));
    let began = Instant::now();
    let member = &mut cluster.members[node];
    match fault {
        Fault::Kill => {
            member.kill();
            std::thread::sleep(lasts);
            member.start();
        }
        Fault::KillAll => {
            cluster.members.iter_mut().for_each(super::Member::kill);
            cluster.members.iter_mut().for_each(super::Member::launch);
            cluster.members.iter_mut().for_each(super::Member::wait_until_ready);
        }
        Fault::Restart => {
            let status = member.terminate();
            assert!(status.success(), "{} has ended with {status}", member.name);
            std::thread::sleep(lasts / 4);
            member.start();
        }
        Fault::Pause => {
            member.pause();
            std::thread::sleep(lasts);
            member.resume();
        }
        Fault::Cut => {
            let net = net.expect("there are links to cut");
            net.cut(node, true);
            std::thread::sleep(lasts);
            net.cut(node, false);
        }
    }
    began.elapsed()
}

/// The longest outage that began after each fault and before the next.
fn note_outages(summary: &mut Summary, accounts: &mut [Account], marks: &[(Instant, Fault)]) {
    for (index, (at, fault)) in marks.iter().enumerate() {
        let next = marks.get(index + 1).map(|(at, _)| *at);
        let outages = accounts.iter().flat_map(|account| &account.outages);
        let after = outages.filter(|(from, _)| from >= at && next.is_none_or(|next| *from < next));
        let longest = after.map(|(from, to)| *to - *from).max().unwrap_or_default();
        summary.outages.entry(*fault).or_default().push(longest);
    }
    accounts.iter_mut().for_each(|account| account.outages.clear());
}

/// Compares all keys, at all nodes.
fn check(cluster: &mut Cluster, accounts: &mut [Account]) -> Result<(), String> {
    for member in &mut cluster.members {
        for level in ["quorum", "linearizable"] {
            let mut connection = member.connect_at(level);
            for account in &mut *accounts {
                let found = account.verify(&mut connection, level == "linearizable");
                found.map_err(|wrong| format!("{} at {level}: {wrong}", member.name))?;
            }
        }
    }
    Ok(())
}

/// Nodes in network namespaces, joined by a bridge: links can be cut without the nodes' knowing.
#[derive(Debug)]
struct Net {
    tag: String,
    count: usize,
}

impl Net {
    /// Builds the network, and has the nodes use it.
    fn build(cluster: &mut Cluster) -> Result<Self, String> {
        let tag = format!("g{}", std::process::id() % 100_000);
        let net = Self { tag: tag.clone(), count: cluster.members.len() };
        ip(&format!("link add {tag}br type bridge"))?;
        ip(&format!("addr add 10.213.7.1/24 dev {tag}br"))?;
        ip(&format!("link set {tag}br up"))?;
        let mut seed = String::new();
        for (index, member) in cluster.members.iter_mut().enumerate() {
            let (space, number) = (format!("{tag}n{index}"), index + 11);
            ip(&format!("netns add {space}"))?;
            ip(&format!("link add {tag}v{index} type veth peer name eth0 netns {space}"))?;
            ip(&format!("link set {tag}v{index} master {tag}br up"))?;
            ip(&format!("-n {space} addr add 10.213.7.{number}/24 dev eth0"))?;
            ip(&format!("-n {space} link set eth0 up"))?;
            ip(&format!("-n {space} link set lo up"))?;
            let address = format!("10.213.7.{number}:7380");
            let old = member.address.to_string();
            for word in &mut member.arguments {
                if *word == old {
                    word.clone_from(&address);
                } else if index > 0 && *word == seed {
                    "10.213.7.11:7380".clone_into(word);
                }
            }
            if index == 0 {
                seed = old;
            }
            member.address = address.parse().expect("an address");
            member.host = member.address.ip();
            let words = ["ip", "netns", "exec", &space];
            member.wrapper = words.map(str::to_owned).to_vec();
        }
        Ok(net)
    }

    /// Takes the link of a node to the others down, or up. Clients reach it by the same way: they see
    /// a node that does not answer.
    fn cut(&self, node: usize, is_down: bool) {
        let state = if is_down { "down" } else { "up" };
        let done = ip(&format!("link set {}v{node} {state}", self.tag));
        done.unwrap_or_else(|error| panic!("{error}"));
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        // What is not there need not be removed.
        for index in 0..self.count {
            let _ = ip(&format!("netns del {}n{index}", self.tag));
        }
        let _ = ip(&format!("link del {}br", self.tag));
    }
}

fn ip(arguments: &str) -> Result<(), String> {
    let mut command = std::process::Command::new("ip");
    command.args(arguments.split_whitespace());
    let output = command.output().map_err(|error| format!("ip: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("ip {arguments}: {}", said.trim()))
}

/// Why links cannot be cut here; `None` when they can.
#[must_use]
pub fn why_no_cuts() -> Option<String> {
    let name = format!("gtest{}", std::process::id());
    let tried = ip(&format!("netns add {name}"));
    // What is not there need not be removed.
    let _ = ip(&format!("netns del {name}"));
    tried.err().map(|error| format!("{error} (needs iproute2, and the rights of root)"))
}

/// Builds the program before the first round.
pub fn prepare() {
    let _ = program::path();
}
