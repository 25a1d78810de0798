//! The core that speaks for the node: drives its membership ([`gridkv_cluster::member`]), and keeps the
//! sockets that all cores share and the strangers who connect to them.
//!
//! It tells all cores what holds whenever that changes, itself too, through their mailboxes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::TrySendError;
use gridkv_cluster::Instant;
use gridkv_cluster::identity::{DatagramSeal, Local};
use gridkv_cluster::member::{Input, Member, Output};
use gridkv_cluster::swim::{self, State};
use gridkv_cluster::topology::agreement::{Answer, Request, Survey, Tag, Via};
use gridkv_cluster::topology::{Change, Epoch, Refusal, Topology};
use gridkv_net::peer::{Datagrams, First, PeerListener, read_preamble};
use gridkv_net::ring::{DataRing, Interest};
use gridkv_net::wire::frame::Kind;
use gridkv_net::wire::preamble::{CONTROL, Preamble, VERSION};

use super::Cluster;
use super::link::{LinkId, Target};
use crate::core::Core;
use crate::core::mailbox::Message;
use crate::node::Node;

/// Tokens of what the control waits for.
const LISTENER: u32 = 1;
const DATAGRAMS: u32 = 2;

/// Sockets accepted and datagrams read in one turn, at most.
const TURN_COUNT_MAX: usize = 64;
/// Peers that have connected and not said what they want, at most, and for how long.
const STRANGER_COUNT_MAX: usize = 256;
const STRANGER_PATIENCE: Duration = Duration::from_secs(3);
/// How often what strangers do wrong is logged at most.
const TELL_EVERY: Duration = Duration::from_millis(500);
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// Somebody who waits for a change of the topology.
pub(crate) type Wisher = Box<dyn FnOnce(Result<Epoch, Refusal>) + Send>;

/// A peer that has connected and not said what it wants.
struct Stranger {
    socket: Arc<OwnedFd>,
    address: SocketAddr,
    until: Instant,
    /// It has sent a part of what it has to: what is there stays readable, so that it is looked at
    /// again after a while.
    look_at: Option<Instant>,
}

/// What the core that speaks for the node has beside what every core has.
pub(crate) struct Control {
    pub(crate) member: Member,
    pub(crate) seal: DatagramSeal,
    pub(super) local: Arc<Local>,
    datagrams: Datagrams,
    listener: PeerListener,
    file: PathBuf,
    strangers: BTreeMap<u32, Stranger>,
    /// On which link a request came that is still to be answered.
    vias: BTreeMap<Via, LinkId>,
    next_via: u64,
    wishers: BTreeMap<Tag, Wisher>,
    next_tag: u64,
    /// Cores that have not been told the latest.
    untold: BTreeSet<usize>,
    pub(super) calls: super::calls::Calls,
    may_tell_at: Instant,
    pub(crate) strangers_refused: u64,
}

/// What a control is made of.
pub(crate) struct Parts {
    pub(crate) member: Member,
    pub(crate) local: Arc<Local>,
    pub(crate) run: u64,
    pub(crate) datagrams: Datagrams,
    pub(crate) listener: PeerListener,
    pub(crate) file: PathBuf,
}

impl Control {
    pub(crate) fn new(parts: Parts, ring: &mut DataRing) -> Self {
        let Parts { member, local, run, datagrams, listener, file } = parts;
        ring.watch(Arc::clone(listener.descriptor()), Interest::Readable, LISTENER);
        ring.watch(Arc::clone(datagrams.descriptor()), Interest::Readable, DATAGRAMS);
        Self {
            member,
            seal: DatagramSeal::new(run),
            local,
            datagrams,
            listener,
            file,
            strangers: BTreeMap::new(),
            vias: BTreeMap::new(),
            next_via: 1,
            wishers: BTreeMap::new(),
            next_tag: 1,
            untold: BTreeSet::new(),
            calls: super::calls::Calls::default(),
            may_tell_at: Instant::ZERO,
            strangers_refused: 0,
        }
    }

    /// When there is something to do, if nothing else happens first.
    pub(super) fn due_at(&self) -> Option<Instant> {
        let stranger = self
            .strangers
            .values()
            .map(|it| it.look_at.map_or(it.until, |at| at.min(it.until)))
            .min();
        let now = (!self.untold.is_empty()).then_some(Instant::ZERO);
        let times = [self.member.poll_timeout(), stranger, now];
        times.into_iter().flatten().min()
    }
}

impl Core {
    /// What the sockets and timers of the control have to do.
    pub(super) fn turn_control(&mut self, cluster: &mut Cluster, ready: &[u32]) {
        let Some(mut control) = cluster.control.take() else { return };
        for token in ready {
            match *token {
                LISTENER => self.accept(cluster, &mut control),
                DATAGRAMS => self.receive(cluster, &mut control),
                token => self.on_stranger(cluster, &mut control, token),
            }
        }
        self.look_at_strangers(cluster, &mut control);
        // What a node that starts wants done.
        self.drain(cluster, &mut control);
        if control.member.poll_timeout().is_some_and(|at| at <= cluster.now.at) {
            self.tell_member(cluster, &mut control, Input::Timeout);
        }
        control.expire_calls(cluster.now.at);
        self.tell_cores(&mut control);
        cluster.control = Some(control);
    }

    fn tell_cores(&self, control: &mut Control) {
        let Some(told) = control.member.state() else { return };
        let node = &self.world.node;
        control.untold.retain(|core| {
            let message = Message::Told(Box::new(told.clone()));
            let is_full = |error| matches!(error, TrySendError::Full(_));
            node.ports[*core].try_post(message).is_err_and(is_full)
        });
    }

    fn accept(&mut self, cluster: &mut Cluster, control: &mut Control) {
        for _ in 0..TURN_COUNT_MAX {
            let (socket, address) = match control.listener.accept() {
                Ok(Some(accepted)) => accepted,
                Ok(None) => break,
                Err(error) => {
                    tracing::warn!(%error, "a peer could not be accepted: out of descriptors?");
                    break;
                }
            };
            if control.strangers.len() >= STRANGER_COUNT_MAX {
                control.strangers_refused += 1;
                continue;
            }
            let token = cluster.links.next_token();
            let until = cluster.now.at + STRANGER_PATIENCE;
            let socket = Arc::new(socket);
            self.server.ring.watch(Arc::clone(&socket), Interest::Readable, token);
            control.strangers.insert(token, Stranger { socket, address, until, look_at: None });
        }
        let descriptor = Arc::clone(control.listener.descriptor());
        self.server.ring.watch(descriptor, Interest::Readable, LISTENER);
    }

    fn look_at_strangers(&mut self, cluster: &mut Cluster, control: &mut Control) {
        let now = cluster.now.at;
        let strangers = control.strangers.iter();
        let due =
            strangers.filter(|(_, it)| it.look_at.is_some_and(|at| at <= now) || it.until <= now);
        for token in due.map(|(token, _)| *token).collect::<Vec<_>>() {
            if control.strangers.get(&token).is_some_and(|it| it.until <= now) {
                control.strangers.remove(&token);
                control.strangers_refused += 1;
                self.server.ring.unwatch(token);
            } else {
                self.on_stranger(cluster, control, token);
            }
        }
    }

    /// Something happens to the node's membership.
    fn tell_member(&mut self, cluster: &mut Cluster, control: &mut Control, input: Input<'_>) {
        control.member.handle(cluster.now, input);
        self.drain(cluster, control);
    }

    /// Does what the membership wants done.
    fn drain(&mut self, cluster: &mut Cluster, control: &mut Control) {
        while let Some(output) = control.member.poll_output() {
            match output {
                Output::Keep(bytes) => keep(&control.file, &bytes),
                Output::Datagram { to, bytes } => {
                    let sealed = control.seal.seal(&control.local, cluster.now.wall, &bytes);
                    control.datagrams.send(to, &sealed);
                }
                Output::Exchange { to, bytes } => {
                    let link = cluster.links.dial(Target { address: to, shard: CONTROL });
                    cluster.links.push(link, Kind::Exchange, bytes);
                }
                Output::Ask(to, request) => {
                    let link = cluster.links.dial(Target { address: to, shard: CONTROL });
                    cluster.links.push(link, Kind::Agreement, tagged(REQUEST, &request.encode()));
                }
                Output::Answer(via, answer) => {
                    let Some(link) = control.vias.remove(&via) else { continue };
                    cluster.links.push(link, Kind::Agreement, tagged(ANSWER, &answer.encode()));
                }
                Output::Survey(via) => super::calls::survey(&self.world.node, self.world.id, via),
                Output::State(_) => control.untold = (0..self.world.node.ports.len()).collect(),
                Output::Done(tag, result) => {
                    if let Some(wisher) = control.wishers.remove(&tag) {
                        wisher(result);
                    }
                }
                Output::Installed(topology) => tell_topology(&topology),
                Output::Lost => tracing::error!(
                    "this node has lost its data: it serves no keys until the cluster has taken it \
                     in again"
                ),
                Output::Changed(member) => tell_change(&member),
                Output::Forgotten(member) => {
                    tracing::info!(%member, "a member that was gone for long is forgotten");
                }
                Output::Rejected(from, refusal) => {
                    tracing::warn!(%from, %refusal, "this node is not let into the cluster");
                }
                Output::Conflict(address) => {
                    tracing::error!(
                        %address,
                        "another process with this node's identity is running there: stopping. Two \
                         nodes must not use copies of one data directory"
                    );
                    self.world.node.stop_for_conflict();
                }
            }
        }
    }

    /// A peer that has connected has sent something.
    fn on_stranger(&mut self, cluster: &mut Cluster, control: &mut Control, token: u32) {
        let Some(stranger) = control.strangers.remove(&token) else { return };
        let preamble = match read_preamble(&stranger.socket) {
            First::Preamble(preamble) => preamble,
            First::Incomplete => {
                let look_at = Some(cluster.now.at + LOOK_AGAIN);
                control.strangers.insert(token, Stranger { look_at, ..stranger });
                return;
            }
            First::Nobody => {
                control.strangers_refused += 1;
                return;
            }
        };
        if preamble.version != VERSION {
            let answer = Preamble { version: VERSION, target: preamble.target }.encode();
            // It may be gone already.
            let _ = rustix::io::write(&stranger.socket, &answer);
            control.strangers_refused += 1;
            if cluster.now.at < control.may_tell_at {
                return;
            }
            control.may_tell_at = cluster.now.at + TELL_EVERY;
            tracing::warn!(
                address = %stranger.address, theirs = preamble.version, ours = VERSION,
                "a peer speaks another version of the protocol between nodes"
            );
            return;
        }
        let Some(socket) = Arc::into_inner(stranger.socket) else { return };
        let layout = self.world.node.layout;
        let core = match preamble.target {
            CONTROL => self.world.id,
            shard if shard < layout.shard_count => layout.core_of_shard(shard),
            _ => {
                control.strangers_refused += 1;
                return;
            }
        };
        if core == self.world.id {
            let (now, ring) = (cluster.now.at, &mut self.server.ring);
            return cluster.links.adopt(ring, socket, stranger.address, preamble.target, now);
        }
        let message = Message::AdoptPeer(socket, stranger.address, preamble.target);
        // A full mailbox drops it: the peer dials again.
        let _ = self.world.node.ports[core].try_post(message);
    }

    fn receive(&mut self, cluster: &mut Cluster, control: &mut Control) {
        let mut buffer = [0; 2_048];
        for _ in 0..TURN_COUNT_MAX {
            let Some((len, from)) = control.datagrams.receive(&mut buffer) else { break };
            let local = Arc::clone(&control.local);
            let opened = control.seal.open(&local, cluster.now.wall, &buffer[..len]);
            let Ok((_, payload)) = opened else { continue };
            self.tell_member(cluster, control, Input::Datagram { from, bytes: payload });
        }
        let descriptor = Arc::clone(control.datagrams.descriptor());
        self.server.ring.watch(descriptor, Interest::Readable, DATAGRAMS);
    }

    /// A frame about membership or topology has arrived.
    pub(super) fn on_control_frame(
        &mut self,
        cluster: &mut Cluster,
        link: LinkId,
        kind: Kind,
        body: &[u8],
    ) -> Result<(), &'static str> {
        let Some(mut control) = cluster.control.take() else {
            return Err("it speaks of the cluster to a core that does not speak for the node");
        };
        let result = self.take_control_frame(cluster, &mut control, link, kind, body);
        self.tell_cores(&mut control);
        cluster.control = Some(control);
        result
    }

    fn take_control_frame(
        &mut self,
        cluster: &mut Cluster,
        control: &mut Control,
        link: LinkId,
        kind: Kind,
        body: &[u8],
    ) -> Result<(), &'static str> {
        if kind == Kind::Exchange {
            self.tell_member(cluster, control, Input::Exchange { bytes: body });
            return Ok(());
        }
        if kind == Kind::Command {
            return self.take_call_frame(cluster, control, link, body);
        }
        let malformed = "what it says of the topology cannot be read";
        let (tag, bytes) = body.split_first().ok_or(malformed)?;
        if *tag == ANSWER {
            let Some(target) = cluster.links.get(link).and_then(|link| link.target) else {
                return Err("it answers what it was not asked");
            };
            let answer = Answer::decode(bytes).map_err(|_| malformed)?;
            self.tell_member(cluster, control, Input::Answer(target.address, answer));
        } else {
            let request = Request::decode(bytes).map_err(|_| malformed)?;
            let via = Via(control.next_via);
            control.next_via += 1;
            control.vias.insert(via, link);
            self.tell_member(cluster, control, Input::Request(via, request));
        }
        Ok(())
    }

    /// All cores have stopped taking writes, and have said whether they hold anything.
    pub(crate) fn surveyed(&mut self, via: Via, is_empty: bool) {
        self.with_control(|core, cluster, control| {
            core.tell_member(cluster, control, Input::Surveyed(via, Survey { is_empty }));
        });
    }

    /// Asks the members for a change of the topology; `wisher` is told what came of it.
    pub(crate) fn wish(&mut self, change: Change, wisher: Wisher) {
        self.with_control(|core, cluster, control| {
            let tag = Tag(control.next_tag);
            control.next_tag += 1;
            control.wishers.insert(tag, wisher);
            core.tell_member(cluster, control, Input::Wish(tag, change));
        });
    }

    /// Asks who is at an address where this node's own key was met.
    pub(super) fn ask_twin(&mut self, address: SocketAddr) {
        self.with_control(|core, cluster, control| {
            core.tell_member(cluster, control, Input::Twin(address));
        });
    }

    /// Tells the others that this node goes.
    pub(crate) fn leave(&mut self) {
        self.with_control(|core, cluster, control| {
            core.tell_member(cluster, control, Input::Leave);
        });
    }

    pub(super) fn with_control(
        &mut self,
        work: impl FnOnce(&mut Self, &mut Cluster, &mut Control),
    ) {
        let Some(mut cluster) = self.world.cluster.take() else { return };
        cluster.now = self.world.time();
        if let Some(mut control) = cluster.control.take() {
            work(self, &mut cluster, &mut control);
            self.tell_cores(&mut control);
            cluster.control = Some(control);
        }
        self.world.cluster = Some(cluster);
    }
}

/// First bytes of frames about the topology.
pub(super) const REQUEST: u8 = 0;
pub(super) const ANSWER: u8 = 1;

pub(super) fn tagged(tag: u8, bytes: &[u8]) -> Vec<u8> {
    let mut body = Vec::with_capacity(bytes.len() + 1);
    body.push(tag);
    body.extend_from_slice(bytes);
    body
}

fn tell_topology(topology: &Topology) {
    let names: Vec<&str> = topology.members.iter().map(|member| member.name.as_str()).collect();
    tracing::info!(
        epoch = topology.epoch,
        members = names.join(","),
        replicas = topology.replica_count,
        "topology"
    );
}

/// Writes a file so that it is there, whole, whatever happens. Holds up the core: topologies seldom
/// change.
fn keep(file: &Path, bytes: &[u8]) {
    if let Err(error) = write_durably(file, bytes) {
        tracing::error!(file = %file.display(), %error, "the topology could not be kept: stopping");
        panic!("what was promised to the cluster cannot be kept");
    }
}

fn write_durably(file: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = file.with_extension("tmp");
    let mut written = File::create(&temporary)?;
    written.write_all(bytes)?;
    written.sync_all()?;
    std::fs::rename(&temporary, file)?;
    File::open(file.parent().unwrap_or_else(|| Path::new(".")))?.sync_all()
}

fn tell_change(member: &swim::Member) {
    let (id, address) = (member.id, member.address);
    match member.state {
        State::Alive => tracing::info!(member = %id, %address, "a member answers"),
        State::Suspect => tracing::debug!(member = %id, %address, "a member is suspected"),
        State::Dead => tracing::warn!(member = %id, %address, "a member does not answer: dead"),
        State::Left => tracing::info!(member = %id, %address, "a member has left"),
    }
}

/// The number of the core that speaks for the node.
pub(crate) const CONTROL_CORE: usize = 0;

/// Sends work to the core that speaks for the node. Whether it was sent: not to a mailbox that is full.
pub(crate) fn try_post(node: &Node, work: impl FnOnce(&mut Core) + Send + 'static) -> bool {
    let message = Message::Call(Box::new(work));
    // A core that has stopped tells nobody.
    !matches!(node.ports[CONTROL_CORE].try_post(message), Err(TrySendError::Full(_)))
}
