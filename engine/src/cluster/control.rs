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
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::TrySendError;
use gridkv_cluster::identity::{DatagramSeal, Local};
use gridkv_cluster::member::{Input, Member, Output};
use gridkv_cluster::swim::{self, State};
use gridkv_cluster::topology::agreement::{Answer, Failure, Request, Survey, Tag, Via};
use gridkv_cluster::topology::{Change, Epoch, Topology};
use gridkv_cluster::wire::frame::Kind;
use gridkv_cluster::wire::preamble::{CONTROL, Preamble};
use gridkv_cluster::wire::{VERSION, body};
use gridkv_cluster::{Instant, Now};
use gridkv_net::peer::{Datagrams, First, PeerListener, read_preamble};
use gridkv_net::ring::{DataRing, Interest};

use super::Cluster;
use super::link::Target;
use super::links::Links;
use super::machine::LinkId;
use super::seeds::Seeds;
use crate::core::Core;
use crate::core::mailbox::Message;
use crate::core::tasks::Tasks;
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
pub(crate) type Wisher = Box<dyn FnOnce(Result<Epoch, Failure>) + Send>;

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
    seeds: Seeds,
    strangers: BTreeMap<u32, Stranger>,
    /// On which link a request came that is still to be answered.
    vias: BTreeMap<Via, LinkId>,
    next_via: u64,
    wishers: BTreeMap<Tag, Wisher>,
    next_tag: u64,
    /// Cores that have not been told the latest.
    untold: BTreeSet<usize>,
    /// It had no turn yet.
    is_new: bool,
    pub(super) calls: super::calls::Calls,
    pub(super) kin: super::kin::KnownKin,
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
    pub(super) seeds: Seeds,
}

impl Control {
    pub(crate) fn new(parts: Parts, ring: &mut DataRing) -> Self {
        let Parts { member, local, run, datagrams, listener, file, seeds } = parts;
        ring.watch(Arc::clone(listener.descriptor()), Interest::Readable, LISTENER);
        ring.watch(Arc::clone(datagrams.descriptor()), Interest::Readable, DATAGRAMS);
        Self {
            member,
            seal: DatagramSeal::new(run),
            local,
            datagrams,
            listener,
            file,
            seeds,
            strangers: BTreeMap::new(),
            vias: BTreeMap::new(),
            next_via: 1,
            wishers: BTreeMap::new(),
            next_tag: 1,
            untold: BTreeSet::new(),
            is_new: true,
            calls: super::calls::Calls::default(),
            kin: super::kin::KnownKin::default(),
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
        let now = (self.is_new || !self.untold.is_empty()).then_some(Instant::ZERO);
        let times = [self.member.poll_timeout(), stranger, now, self.seeds.due_at()];
        times.into_iter().flatten().min()
    }
}

/// What the control works with, of its core.
pub(super) struct Desk<'a> {
    pub(super) now: Now,
    core: usize,
    pub(super) links: &'a mut Links,
    ring: &'a mut DataRing,
    pub(super) node: &'a Arc<Node>,
    pub(super) tasks: &'a Rc<Tasks>,
}

impl Control {
    /// What its sockets and timers have to do.
    pub(super) fn turn(&mut self, desk: &mut Desk<'_>, ready: &[u32]) {
        self.is_new = false;
        for token in ready {
            match *token {
                LISTENER => self.accept(desk),
                DATAGRAMS => self.receive(desk),
                token => self.on_stranger(desk, token),
            }
        }
        self.look_at_strangers(desk);
        if self.member.poll_timeout().is_some_and(|at| at <= desk.now.at) {
            self.tell_member(desk, Input::Timeout);
        }
        self.seeds.turn(desk.now.at, desk.node, self.member.needs_seeds());
        self.expire_calls(desk.now.at);
    }

    /// Tells the cores that have not been told the latest.
    fn tell_cores(&mut self, desk: &Desk<'_>) {
        let Some(told) = self.member.state() else { return };
        let node = desk.node;
        self.untold.retain(|core| {
            let message = Message::Told(Box::new(told.clone()));
            let is_full = |error| matches!(error, TrySendError::Full(_));
            node.ports[*core].try_post(message).is_err_and(is_full)
        });
    }

    fn accept(&mut self, desk: &mut Desk<'_>) {
        for _ in 0..TURN_COUNT_MAX {
            let (socket, address) = match self.listener.accept() {
                Ok(Some(accepted)) => accepted,
                Ok(None) => break,
                Err(error) => {
                    tracing::warn!(%error, "a peer could not be accepted: out of descriptors?");
                    break;
                }
            };
            if self.strangers.len() >= STRANGER_COUNT_MAX {
                self.strangers_refused += 1;
                continue;
            }
            let token = desk.links.next_token();
            let until = desk.now.at + STRANGER_PATIENCE;
            let socket = Arc::new(socket);
            desk.ring.watch(Arc::clone(&socket), Interest::Readable, token);
            self.strangers.insert(token, Stranger { socket, address, until, look_at: None });
        }
        let descriptor = Arc::clone(self.listener.descriptor());
        desk.ring.watch(descriptor, Interest::Readable, LISTENER);
    }

    fn look_at_strangers(&mut self, desk: &mut Desk<'_>) {
        let now = desk.now.at;
        let strangers = self.strangers.iter();
        let due =
            strangers.filter(|(_, it)| it.look_at.is_some_and(|at| at <= now) || it.until <= now);
        for token in due.map(|(token, _)| *token).collect::<Vec<_>>() {
            if self.strangers.get(&token).is_some_and(|it| it.until <= now) {
                self.strangers.remove(&token);
                self.strangers_refused += 1;
                desk.ring.unwatch(token);
            } else {
                self.on_stranger(desk, token);
            }
        }
    }

    /// Something happens to the node's membership.
    fn tell_member(&mut self, desk: &mut Desk<'_>, input: Input<'_>) {
        self.member.handle(desk.now, input);
        self.drain(desk);
    }

    /// A seed's host name was resolved, or could not be.
    fn on_resolved(
        &mut self,
        desk: &mut Desk<'_>,
        index: usize,
        found: Result<Vec<SocketAddr>, String>,
    ) {
        if let Some(addresses) = self.seeds.resolved(index, found) {
            self.tell_member(desk, Input::Seeds(addresses));
        }
    }

    /// Does what the membership wants done.
    fn drain(&mut self, desk: &mut Desk<'_>) {
        while let Some(output) = self.member.poll_output() {
            match output {
                Output::Keep(bytes) => keep(&self.file, &bytes),
                Output::Datagram { to, bytes } => {
                    let sealed = self.seal.seal(&self.local, desk.now.wall, &bytes);
                    self.datagrams.send(to, &sealed);
                }
                Output::Exchange { to, bytes } => {
                    let link = desk.links.dial(Target { address: to, shard: CONTROL });
                    desk.links.push(link, Kind::Exchange, bytes);
                }
                Output::Ask(to, request) => {
                    let link = desk.links.dial(Target { address: to, shard: CONTROL });
                    desk.links.push(
                        link,
                        Kind::Agreement,
                        body::tagged(body::ASK, &request.encode()),
                    );
                }
                Output::Answer(via, answer) => {
                    let Some(link) = self.vias.remove(&via) else { continue };
                    desk.links.push(
                        link,
                        Kind::Agreement,
                        body::tagged(body::ANSWER, &answer.encode()),
                    );
                }
                Output::Survey(via) => super::calls::survey(desk.node, desk.core, via),
                Output::State(_) => self.untold = (0..desk.node.ports.len()).collect(),
                Output::Done(tag, result) => {
                    if let Some(wisher) = self.wishers.remove(&tag) {
                        wisher(result);
                    }
                }
                Output::Installed(topology) => tell_topology(&topology),
                Output::Lost => tracing::error!(
                    "this node has lost its data: it serves no keys until the cluster has taken it \
                     in again"
                ),
                Output::Changed(member) => {
                    tell_change(&member);
                    if self.member.needs_seeds() {
                        self.seeds.seek(desk.now.at);
                    }
                }
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
                    desk.node.stop_for_conflict();
                }
            }
        }
    }

    /// A peer that has connected has sent something.
    fn on_stranger(&mut self, desk: &mut Desk<'_>, token: u32) {
        let Some(stranger) = self.strangers.remove(&token) else { return };
        let preamble = match read_preamble(&stranger.socket) {
            First::Preamble(preamble) => preamble,
            First::Incomplete => {
                let look_at = Some(desk.now.at + LOOK_AGAIN);
                self.strangers.insert(token, Stranger { look_at, ..stranger });
                return;
            }
            First::Nobody => {
                self.strangers_refused += 1;
                return;
            }
        };
        if preamble.version != VERSION {
            let answer = Preamble { version: VERSION, target: preamble.target }.encode();
            // It may be gone already.
            let _ = rustix::io::write(&stranger.socket, &answer);
            self.strangers_refused += 1;
            if desk.now.at < self.may_tell_at {
                return;
            }
            self.may_tell_at = desk.now.at + TELL_EVERY;
            tracing::warn!(
                address = %stranger.address, theirs = preamble.version, ours = VERSION,
                "a peer speaks another version of the protocol between nodes"
            );
            return;
        }
        let Some(socket) = Arc::into_inner(stranger.socket) else { return };
        let layout = desk.node.layout;
        let core = match preamble.target {
            CONTROL => desk.core,
            shard if shard < layout.shard_count => layout.core_of_shard(shard),
            _ => {
                self.strangers_refused += 1;
                return;
            }
        };
        if core == desk.core {
            let now = desk.now.at;
            return desk.links.adopt(desk.ring, socket, stranger.address, preamble.target, now);
        }
        let message = Message::AdoptPeer(socket, stranger.address, preamble.target);
        // A full mailbox drops it: the peer dials again.
        let _ = desk.node.ports[core].try_post(message);
    }

    fn receive(&mut self, desk: &mut Desk<'_>) {
        let mut buffer = [0; 2_048];
        for _ in 0..TURN_COUNT_MAX {
            let Some((len, from)) = self.datagrams.receive(&mut buffer) else { break };
            let local = Arc::clone(&self.local);
            let opened = self.seal.open(&local, desk.now.wall, &buffer[..len]);
            let Ok((_, payload)) = opened else { continue };
            self.tell_member(desk, Input::Datagram { from, bytes: payload });
        }
        let descriptor = Arc::clone(self.datagrams.descriptor());
        desk.ring.watch(descriptor, Interest::Readable, DATAGRAMS);
    }

    /// A frame about membership or topology has arrived.
    pub(super) fn take_frame(
        &mut self,
        desk: &mut Desk<'_>,
        link: LinkId,
        kind: Kind,
        body: &[u8],
    ) -> Result<(), &'static str> {
        if kind == Kind::Exchange {
            self.tell_member(desk, Input::Exchange { bytes: body });
            return Ok(());
        }
        if kind == Kind::Command {
            return self.take_call_frame(desk, link, body);
        }
        let malformed = "what it says of the topology cannot be read";
        let (tag, bytes) = body.split_first().ok_or(malformed)?;
        if *tag == body::ANSWER {
            let Some(target) = desk.links.get(link).and_then(|link| link.target) else {
                return Err("it answers what it was not asked");
            };
            let answer = Answer::decode(bytes).map_err(|_| malformed)?;
            self.tell_member(desk, Input::Answer(target.address, answer));
        } else {
            let request = Request::decode(bytes).map_err(|_| malformed)?;
            let via = Via(self.next_via);
            self.next_via += 1;
            self.vias.insert(via, link);
            self.tell_member(desk, Input::Request(via, request));
        }
        Ok(())
    }
}

impl Core {
    /// Runs `work` with the control, on the core that has it.
    pub(super) fn with_control<T>(
        &mut self,
        work: impl FnOnce(&mut Control, &mut Desk<'_>) -> T,
    ) -> Option<T> {
        let now = self.world.time();
        let Self { world, server } = self;
        let Cluster { links, control } = world.cluster.as_deref_mut()?;
        let control = control.as_deref_mut()?;
        let (node, tasks, ring) = (&world.node, &world.tasks, &mut server.ring);
        let mut desk = Desk { now, core: world.id, links, ring, node, tasks };
        // What a node that starts wants done.
        control.drain(&mut desk);
        let result = work(control, &mut desk);
        control.tell_cores(&desk);
        Some(result)
    }

    /// All cores have stopped taking writes, and have said whether they hold anything.
    pub(crate) fn surveyed(&mut self, via: Via, survey: Survey) {
        self.with_control(|control, desk| {
            control.tell_member(desk, Input::Surveyed(via, survey));
        });
    }

    /// Asks the members for a change of the topology; `wisher` is told what came of it.
    pub(crate) fn wish(&mut self, change: Change, wisher: Wisher) {
        self.with_control(|control, desk| {
            let tag = Tag(control.next_tag);
            control.next_tag += 1;
            control.wishers.insert(tag, wisher);
            control.tell_member(desk, Input::Wish(tag, change));
        });
    }

    /// A seed's host name was resolved, or why it could not be.
    pub(super) fn seed_resolved(&mut self, index: usize, found: Result<Vec<SocketAddr>, String>) {
        self.with_control(|control, desk| control.on_resolved(desk, index, found));
    }

    /// Asks who is at an address where this node's own key was met.
    pub(super) fn ask_twin(&mut self, address: SocketAddr) {
        self.with_control(|control, desk| control.tell_member(desk, Input::Twin(address)));
    }

    /// A node of a cluster has connected, and this one belongs to none.
    pub(super) fn hear_of_cluster(&mut self, from: SocketAddr, epoch: Epoch) {
        self.with_control(|control, desk| control.tell_member(desk, Input::Heard(from, epoch)));
    }

    /// Tells the others that this node goes.
    pub(crate) fn leave(&mut self) {
        self.with_control(|control, desk| control.tell_member(desk, Input::Leave));
    }
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
