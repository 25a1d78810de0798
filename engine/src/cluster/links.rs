//! One core's connections to peers.
//!
//! A link is dialled for each shard of each peer that owns a token of this core's: where nodes have as
//! many shards as cores, and as many as each other, that is one a core and node. And one goes from core to
//! core for what concerns the nodes. What is to be sent waits in a link until the turn ends, and leaves as
//! one frame. The other end's answers come back on the same link.
//!
//! # Invariants
//!
//! - What waits for one peer is bounded: beyond [`WAITING_BYTES_MAX`] nothing is taken, nor what fits
//!   into no frame; who wanted it sent hears that it would not arrive.
//! - Nothing that a stranger sends is looked at beyond its handshake, and that only for
//!   [`PATIENCE`]; strangers are bounded in number.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use gridkv_cluster::identity::{Handshake, Hello, Local, Peer, Reason, Refusal, Step};
use gridkv_cluster::model::MemberId;
use gridkv_cluster::topology::Epoch;
use gridkv_cluster::wire::VERSION;
use gridkv_cluster::wire::frame::{BODY_BYTES_MAX, Kind, Seal};
use gridkv_cluster::wire::message::{Ask, Reply};
use gridkv_cluster::wire::preamble::{CONTROL, Preamble};
use gridkv_cluster::{Instant, NodeId, ShardRange, Token, WallTime};
use gridkv_net::peer;
use gridkv_net::ring::{ConnectionId, DataRing, Interest};

use super::Told;
use super::link::{Link, PATIENCE, State, Target, WAITING_BYTES_MAX};
use super::machine::{LinkId, Place};
use super::status::Figures;

/// How long a peer that is refused has to hear why.
const LAST_WORDS: Duration = Duration::from_millis(100);

/// A frame about the nodes that is longer is not sent: it fits into no frame.
const OTHER_BYTES_MAX: usize = BODY_BYTES_MAX - 64;

/// Peers that have connected and not shaken hands yet, at most.
const STRANGER_COUNT_MAX: usize = 128;

/// The links.
pub(crate) struct Links {
    pub(super) local: Arc<Local>,
    hello: Hello,
    links: BTreeMap<LinkId, Link>,
    /// Those that may not be open: all that time is looked at for.
    unopened: BTreeSet<LinkId>,
    by_target: BTreeMap<Target, LinkId>,
    /// By the connection's slot.
    by_slot: Vec<Option<(ConnectionId, LinkId)>>,
    next_id: u32,
    /// Links with something to send.
    queue: Vec<LinkId>,
    /// Connections that are closed once what was said last has left.
    closing: Vec<(ConnectionId, Instant)>,
    /// Links to be closed: their peers are no members any more.
    gone: Vec<LinkId>,
    /// Nodes by identity, of the present topology.
    nodes: BTreeMap<MemberId, NodeId>,
    addresses: BTreeMap<SocketAddr, NodeId>,
    /// What tells a member's store from one that replaced it: of the topology, and as it has said itself
    /// last.
    stores: BTreeMap<NodeId, u64>,
    stores_heard: BTreeMap<NodeId, u64>,
    /// What was told of peers, until all is well with them.
    told: BTreeSet<(SocketAddr, Trouble)>,
    /// Where somebody with this node's own key was met.
    pub(super) twin_at: Option<SocketAddr>,
    /// A node that has connected says that it belongs to a cluster, of this epoch; this one to none.
    pub(super) heard: Option<(SocketAddr, Epoch)>,
    pub(super) bytes_in: u64,
    pub(super) bytes_out: u64,
    pub(super) frames_in: u64,
    pub(super) frames_out: u64,
    /// Connections that were ended for what came on them.
    pub(super) refused: u64,
}

/// What is wrong with a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Trouble {
    Unreachable,
    Refused,
}

/// Peers whose trouble is remembered, at most: beyond, nothing more is told.
const TOLD_COUNT_MAX: usize = 256;

/// Tokens below are the control's.
const FIRST_LINK: u32 = 16;

impl Links {
    pub(crate) fn new(local: Arc<Local>, hello: Hello) -> Self {
        Self {
            local,
            hello,
            links: BTreeMap::new(),
            unopened: BTreeSet::new(),
            by_target: BTreeMap::new(),
            by_slot: Vec::new(),
            next_id: FIRST_LINK,
            queue: Vec::new(),
            closing: Vec::new(),
            gone: Vec::new(),
            nodes: BTreeMap::new(),
            addresses: BTreeMap::new(),
            stores: BTreeMap::new(),
            stores_heard: BTreeMap::new(),
            told: BTreeSet::new(),
            twin_at: None,
            heard: None,
            bytes_in: 0,
            bytes_out: 0,
            frames_in: 0,
            frames_out: 0,
            refused: 0,
        }
    }

    /// The members have changed: links to those that are gone go too.
    /// `own` are the first and the last token of this core.
    pub(super) fn set_topology(&mut self, told: &Told, own: Option<(Token, Token)>) {
        self.hello.epoch = told.topology.epoch;
        self.hello.cluster_id = told.topology.cluster;
        let members = &told.topology.members;
        self.nodes = members.iter().map(|it| (it.id(), it.node())).collect();
        self.addresses = members.iter().map(|it| (it.address, it.node())).collect();
        self.stores = members.iter().map(|it| (it.node(), it.store)).collect();
        let addresses = &self.addresses;
        let gone: Vec<Target> = self
            .by_target
            .keys()
            .filter(|it| it.shard != CONTROL && !addresses.contains_key(&it.address))
            .copied()
            .collect();
        for target in gone {
            let id = self.by_target.remove(&target).expect("it was just listed");
            self.gone.push(id);
        }
        // Dialled before anything is to be sent, so that who cannot be reached is known.
        let Some(own) = own else { return };
        let own_address = self.hello.address;
        for member in members.iter().filter(|it| it.address != own_address) {
            for shard in ShardRange::owners(own, member.shard_count) {
                self.dial(Target { address: member.address, shard });
            }
        }
    }

    /// Adds what was counted.
    pub(super) fn count(&self, figures: &mut Figures) {
        figures.bytes_in += self.bytes_in;
        figures.bytes_out += self.bytes_out;
        figures.frames_in += self.frames_in;
        figures.frames_out += self.frames_out;
        figures.refused += self.refused;
    }

    /// A number that no link has.
    pub(super) fn next_token(&mut self) -> u32 {
        let token = self.next_id;
        self.next_id = self.next_id.checked_add(1).unwrap_or(FIRST_LINK);
        token
    }

    /// The link of a connection.
    pub(crate) fn of_connection(&self, connection: ConnectionId) -> Option<LinkId> {
        let entry = self.by_slot.get(connection.slot())?.as_ref()?;
        (entry.0 == connection).then_some(entry.1)
    }

    pub(super) fn get(&mut self, id: LinkId) -> Option<&mut Link> {
        self.links.get_mut(&id)
    }

    /// The nodes to which a link is not open, or which have another store than the topology knows: they
    /// have lost their data, and are not counted. And those to which it is down: what was sent on it would
    /// be lost.
    pub(super) fn unopened(&self) -> (BTreeSet<NodeId>, BTreeSet<NodeId>) {
        let (mut unopened, mut failing) = (BTreeSet::new(), BTreeSet::new());
        for link in self.unopened.iter().filter_map(|id| self.links.get(id)) {
            let is_shards = link.target.is_some_and(|target| target.shard != CONTROL);
            let Some(node) = self.node_at(link.address).filter(|_| is_shards) else { continue };
            unopened.insert(node);
            if link.is_failing() {
                failing.insert(node);
            }
        }
        let is_other = |(node, store): &(&NodeId, &u64)| self.stores.get(node) != Some(store);
        unopened.extend(self.stores_heard.iter().filter(is_other).map(|(node, _)| *node));
        (unopened, failing)
    }

    fn node_at(&self, address: SocketAddr) -> Option<NodeId> {
        self.addresses.get(&address).copied()
    }

    /// When something is due about some link.
    pub(super) fn due_at(&self) -> Option<Instant> {
        let closing = self.closing.iter().map(|(_, at)| *at);
        let links = self.unopened.iter().filter_map(|id| self.links.get(id)?.due_at());
        links.chain(closing).min()
    }

    /// Gives a message to the link to a peer's shard; `false` when it would not arrive.
    pub(super) fn send(&mut self, to: Place, ask: Ask, archive: &[u8]) -> bool {
        let target = Target { address: to.address, shard: to.shard };
        let id = self.dial(target);
        let link = self.links.get_mut(&id).expect("it was just looked up");
        if link.is_failing() || link.waiting_bytes() > WAITING_BYTES_MAX {
            return false;
        }
        let was_empty = link.waiting_bytes() == 0;
        let is_taken = link.push_ask(ask, archive);
        if was_empty && is_taken {
            self.queue.push(id);
        }
        is_taken
    }

    /// Gives an answer to the link on which it was asked, if that is still there.
    pub(super) fn reply(&mut self, id: LinkId, reply: Reply, record: &[u8]) {
        let Some(link) = self.links.get_mut(&id) else { return };
        if !link.is_open() || link.waiting_bytes() > WAITING_BYTES_MAX {
            return;
        }
        let was_empty = link.waiting_bytes() == 0;
        if link.push_reply(reply, record) && was_empty {
            self.queue.push(id);
        }
    }

    /// Gives a command to the link to a peer's shard; `false` when it would not arrive.
    pub(super) fn send_command(&mut self, to: Place, entry: &[u8]) -> bool {
        let target = Target { address: to.address, shard: to.shard };
        let id = self.dial(target);
        let link = self.links.get_mut(&id).expect("it was just looked up");
        if link.is_failing() || link.waiting_bytes() > WAITING_BYTES_MAX {
            return false;
        }
        let is_taken = link.push_command(entry, false);
        self.queue.push(id);
        is_taken
    }

    /// Gives a reply to a command to the link on which it came, if that is still there.
    pub(super) fn reply_command(&mut self, id: LinkId, entry: &[u8]) {
        let Some(link) = self.links.get_mut(&id) else { return };
        if link.is_open() && link.waiting_bytes() <= WAITING_BYTES_MAX {
            link.push_command(entry, true);
            self.queue.push(id);
        }
    }

    /// Whether the link was made for what concerns the nodes, not a shard.
    pub(super) fn is_control(&self, id: LinkId) -> bool {
        self.links.get(&id).is_some_and(|link| link.shard == CONTROL)
    }

    /// Gives another frame to a link.
    pub(super) fn push(&mut self, id: LinkId, kind: Kind, body: Vec<u8>) {
        let Some(link) = self.links.get_mut(&id) else { return };
        if link.waiting_bytes() > WAITING_BYTES_MAX || body.len() > OTHER_BYTES_MAX {
            return;
        }
        link.others.push((kind, body));
        self.queue.push(id);
    }

    /// The link to a target, which is dialled if there is none yet.
    pub(super) fn dial(&mut self, target: Target) -> LinkId {
        if let Some(id) = self.by_target.get(&target) {
            return *id;
        }
        let id = LinkId(self.next_token());
        self.links.insert(id, Link::dialled(target, Instant::ZERO));
        self.unopened.insert(id);
        self.by_target.insert(target, id);
        id
    }

    /// Takes over a socket that a peer has connected.
    pub(super) fn adopt(
        &mut self,
        ring: &mut DataRing,
        socket: OwnedFd,
        address: SocketAddr,
        target: u16,
        now: Instant,
    ) {
        let is_stranger = |link: &&Link| link.target.is_none() && !link.is_open();
        if self.links.values().filter(is_stranger).count() >= STRANGER_COUNT_MAX {
            return;
        }
        let connection = ring.adopt(socket);
        let handshake = Handshake::respond(&self.local, self.hello, random(), target);
        let state = State::Shaking(connection, Box::new(handshake), now + PATIENCE);
        let id = LinkId(self.next_token());
        self.links.insert(id, Link::accepted(address, target, state));
        self.unopened.insert(id);
        self.note_connection(connection, id);
    }

    fn note_connection(&mut self, connection: ConnectionId, id: LinkId) {
        if connection.slot() >= self.by_slot.len() {
            self.by_slot.resize(connection.slot() + 1, None);
        }
        self.by_slot[connection.slot()] = Some((connection, id));
    }
}

/// What has become of a link.
#[derive(Debug)]
pub(super) enum Change {
    /// It is open.
    Opened(LinkId),
    /// What was asked on it will not be answered.
    Lost(Option<NodeId>),
}

/// Connecting, shaking hands, losing and sending.
impl Links {
    /// The node at the other end, if it is a member.
    pub(super) fn node_of(&self, id: LinkId) -> Option<NodeId> {
        let link = self.links.get(&id)?;
        self.nodes.get(&link.peer?).copied()
    }

    /// Dials what is due, and gives up what takes too long.
    pub(super) fn run_timers(&mut self, ring: &mut DataRing, now: Instant) -> Vec<Change> {
        let mut changes = Vec::new();
        self.closing.retain(|(connection, at)| {
            if *at <= now {
                ring.close(*connection);
            }
            *at > now
        });
        for id in std::mem::take(&mut self.gone) {
            if let Some(link) = self.remove(id) {
                close(ring, &link, id);
            }
        }
        let due = |link: &Link| link.due_at().is_some_and(|at| at <= now);
        let is_due = |id: &&LinkId| self.links.get(id).is_some_and(due);
        let due: Vec<LinkId> = self.unopened.iter().filter(is_due).copied().collect();
        for id in due {
            let link = self.links.get(&id).expect("it was just listed");
            if matches!(link.state, State::Waiting(_)) {
                if let Err(error) = self.connect(ring, id, now) {
                    self.tell_failure(id, &error.to_string());
                    changes.extend(self.lose(ring, id, now));
                }
            } else {
                self.tell_failure(id, "it does not answer");
                changes.extend(self.lose(ring, id, now));
            }
        }
        changes
    }

    fn connect(&mut self, ring: &mut DataRing, id: LinkId, now: Instant) -> std::io::Result<()> {
        let link = self.links.get_mut(&id).expect("the caller has looked it up");
        let socket = peer::dial(link.address)?;
        ring.watch(Arc::clone(&socket), Interest::Writable, id.0);
        link.state = State::Connecting(socket, now + PATIENCE);
        Ok(())
    }

    /// A socket that was connecting is connected, or has failed.
    pub(super) fn on_ready(
        &mut self,
        ring: &mut DataRing,
        id: LinkId,
        now: Instant,
    ) -> Option<Change> {
        let link = self.links.get_mut(&id)?;
        if !matches!(link.state, State::Connecting(..)) {
            return None;
        }
        let target = link.target.expect("only what is dialled connects");
        let State::Connecting(socket, _) = std::mem::replace(&mut link.state, State::Waiting(now))
        else {
            unreachable!("it was just looked at")
        };
        let preamble = Preamble { version: VERSION, target: target.shard };
        let socket = match peer::finish_dial(socket, preamble) {
            Ok(socket) => socket,
            Err(error) => {
                self.tell_failure(id, &error.to_string());
                return self.lose(ring, id, now);
            }
        };
        let connection = ring.adopt(socket);
        let (handshake, first) =
            Handshake::initiate(&self.local, self.hello, random(), target.shard);
        let link = self.links.get_mut(&id).expect("it was just there");
        link.state = State::Shaking(connection, Box::new(handshake), now + PATIENCE);
        link.others.insert(0, (Kind::Handshake, first));
        self.queue.push(id);
        self.note_connection(connection, id);
        None
    }

    /// A part of the handshake has arrived.
    ///
    /// # Errors
    ///
    /// Why the peer is refused, in words.
    pub(super) fn on_handshake(
        &mut self,
        id: LinkId,
        bytes: &[u8],
    ) -> Result<Option<Change>, String> {
        let local = Arc::clone(&self.local);
        let Some(link) = self.links.get_mut(&id) else { return Ok(None) };
        let State::Shaking(connection, handshake, _) = &mut link.state else {
            return Err("it shakes hands again".to_owned());
        };
        let connection = *connection;
        let step = match handshake.on_message(&local, bytes) {
            Ok(step) => step,
            Err(refusal) => {
                if matches!(refusal, Refusal::Own | Refusal::ByPeer(Reason::Own)) {
                    self.twin_at = link.target.map(|target| target.address);
                }
                if let Some(reason) = refusal.encode() {
                    link.others.push((Kind::Handshake, reason));
                    self.queue.push(id);
                }
                return Err(refusal.to_string());
            }
        };
        let claimed = handshake.claimed().filter(|it| it.cluster_id != 0);
        if let Some(theirs) = claimed.filter(|_| self.hello.cluster_id == 0) {
            self.heard = Some((theirs.address, Epoch(theirs.epoch)));
        }
        match step {
            Step::Send(bytes) => {
                link.others.push((Kind::Handshake, bytes));
                self.queue.push(id);
                Ok(None)
            }
            Step::Finished { send, peer } => self.open(id, connection, send, &peer).map(Some),
        }
    }

    fn open(
        &mut self,
        id: LinkId,
        connection: ConnectionId,
        send: Option<Vec<u8>>,
        peer: &Peer,
    ) -> Result<Change, String> {
        let node = self.nodes.get(&peer.id).copied();
        self.stores_heard.extend(node.map(|node| (node, peer.hello.store)));
        let link = self.links.get_mut(&id).expect("the caller has looked it up");
        let expected = self.addresses.get(&link.address).copied();
        let is_other = link.target.is_some() && expected.is_some() && node != expected;
        if is_other {
            return Err("another node than the member at this address has answered".to_owned());
        }
        if self.hello.cluster_id != 0
            && peer.hello.cluster_id != 0
            && peer.hello.cluster_id != self.hello.cluster_id
        {
            return Err("it belongs to another cluster of the same name".to_owned());
        }
        if let Some(last) = send {
            link.last_of_handshake = Some(last);
            self.queue.push(id);
        }
        let (send, receive) = match &peer.keys {
            None => (Seal::Checksum, Seal::Checksum),
            Some(keys) => (Seal::Key(keys.send), Seal::Key(keys.receive)),
        };
        link.receive_seal = receive;
        link.seal_after_handshake = Some(send);
        link.state = State::Open(connection);
        self.unopened.remove(&id);
        link.peer = Some(peer.id);
        link.failures = 0;
        let address = link.target.map_or(link.address, |target| target.address);
        self.forget_told(address);
        self.queue.push(id);
        Ok(Change::Opened(id))
    }

    /// How the frames of a link that has just been opened are checked.
    pub(super) fn receive_seal(&self, id: LinkId) -> Seal {
        self.links.get(&id).map_or(Seal::Checksum, |link| link.receive_seal)
    }

    fn remove(&mut self, id: LinkId) -> Option<Link> {
        self.unopened.remove(&id);
        self.links.remove(&id)
    }

    /// The connection is gone, or of no more use.
    pub(super) fn lose(&mut self, ring: &mut DataRing, id: LinkId, now: Instant) -> Option<Change> {
        let node = self.node_of(id);
        let link = self.links.get_mut(&id)?;
        let node = node.or_else(|| self.addresses.get(&link.address).copied());
        let last = link.take_last_words();
        match link.connection() {
            Some(connection) if !last.is_empty() && !ring.is_sending(connection) => {
                self.by_slot[connection.slot()] = None;
                ring.send(connection, last);
                self.closing.push((connection, now + LAST_WORDS));
            }
            _ => close(ring, link, id),
        }
        let target = link.target;
        link.fail(now);
        self.unopened.insert(id);
        let Some(target) = target else {
            self.remove(id);
            return None;
        };
        if target.shard == CONTROL {
            // Dialled again when there is something to say.
            self.remove(id);
            self.by_target.remove(&target);
            return Some(Change::Lost(None));
        }
        Some(Change::Lost(node))
    }

    /// Says why a peer cannot be reached, once until it is.
    pub(super) fn tell_failure(&mut self, id: LinkId, why: &str) {
        let Some(link) = self.links.get(&id) else { return };
        let Some(target) = link.target else { return };
        // A shard's link is dialled again at once: the first failure may be a restart. Others are not
        // kept, and do not know how often they have failed.
        let is_news = link.failures > 0 || target.shard == CONTROL && !link.is_open();
        if is_news && self.note_told((target.address, Trouble::Unreachable)) {
            tracing::warn!(address = %target.address, why, "a peer cannot be reached");
        }
    }

    /// Says why a handshake has failed: once until one succeeds, of those who connect once for each
    /// of their addresses.
    pub(super) fn tell_refusal(&mut self, id: LinkId, why: &str) {
        let Some(link) = self.links.get(&id) else { return };
        // Who connects has another port each time.
        let address =
            link.target.map_or_else(|| SocketAddr::new(link.address.ip(), 0), |it| it.address);
        let is_dialled = link.target.is_some();
        if !self.note_told((address, Trouble::Refused)) {
            return;
        }
        if is_dialled {
            tracing::warn!(%address, why, "a peer and this node do not agree to talk");
        } else {
            tracing::warn!(from = %address.ip(), why, "somebody who has connected is refused");
        }
    }

    /// Whether that was not told yet.
    fn note_told(&mut self, what: (SocketAddr, Trouble)) -> bool {
        self.told.len() < TOLD_COUNT_MAX && self.told.insert(what)
    }

    fn forget_told(&mut self, address: SocketAddr) {
        self.told.retain(|(it, _)| *it != address);
    }

    /// Sends what waits, one send a link.
    pub(super) fn flush(&mut self, ring: &mut DataRing, wall: WallTime) {
        for id in std::mem::take(&mut self.queue) {
            let Some(link) = self.links.get_mut(&id) else { continue };
            let Some(connection) = link.connection() else { continue };
            if ring.is_sending(connection) {
                self.queue.push(id);
                continue;
            }
            let mut out = Vec::new();
            let wall_ms = wall.as_millis();
            let is_open = link.is_open();
            link.write_handshake(wall_ms, &mut out);
            if is_open {
                link.write_frames(wall_ms, &mut out, &mut self.frames_out);
            }
            if !out.is_empty() {
                self.bytes_out += out.len() as u64;
                ring.send(connection, out);
            }
        }
    }
}

fn close(ring: &mut DataRing, link: &Link, id: LinkId) {
    match &link.state {
        State::Connecting(..) => ring.unwatch(id.0),
        State::Shaking(connection, ..) | State::Open(connection) => ring.close(*connection),
        State::Waiting(_) => {}
    }
}

/// Random bytes of the kernel's.
pub(super) fn random() -> [u8; 32] {
    let mut bytes = [0; 32];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
        .expect("the kernel has random bytes");
    bytes
}
