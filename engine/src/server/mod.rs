//! The clients of one core: accepts them, moves their bytes between the data ring and their
//! [sessions](session), and bounds what each may cost.
//!
//! # Invariants
//!
//! - A session and its connection end together: [`Event::Closed`] is the last that is heard of both.
//! - What unfinished requests of all clients together hold is bounded by `input_limit`; a client
//!   that would pass it is closed.
//! - Replies that clients have not taken are counted whenever one of them is put back. Beyond
//!   `waiting_limit` those who have unread replies ask for no more; beyond twice as much the ones who
//!   have left many unread for longest are disconnected.
//! - The buffer of a receive goes back to the ring before the next turn.

pub(crate) mod commands;
pub(crate) mod glob;
pub(crate) mod replies;
pub(crate) mod session;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use gridkv_cluster::replication::Level;
use gridkv_net::resp::Protocol;
use gridkv_net::ring::{ConnectionId, DataRing, Event, Received};

use self::commands::scope::ScopeCell;
use self::commands::{Failure, Part};
use self::session::{Client, OUTPUT_BYTES_PAUSE, Pause, Phase, ReplyMode, Session};
use crate::cluster::LinkEvent;
use crate::core::World;
use crate::core::account::Account;
use crate::core::forward::Waiter;
use crate::core::mailbox::{Message, Port};

/// How long a closed connection may go on sending before it is cut off.
const LINGER: Duration = Duration::from_secs(1);

/// Clients that are taken in a turn; a backlog full of them takes several.
const ACCEPT_COUNT_TURN: usize = 64;

/// No further input is looked at in a turn in which so many commands were begun, or so many bytes of
/// replies were written.
const COMMAND_COUNT_TURN: u64 = 1_024;
const REPLY_BYTES_TURN: usize = 4 << 20;

/// Empty output buffers kept for the next reply: how many, and how large.
const POOL_COUNT: usize = 64;
const POOL_BYTES: usize = 64 << 10;

/// The clients of one core.
pub(crate) struct Server {
    pub(crate) ring: DataRing,
    sessions: Vec<Option<Box<Session>>>,
    session_count: usize,
    /// Connections whose output, or whose end, is to be looked at before the turn ends.
    queue: Vec<ConnectionId>,
    /// Connections with input that waits for room in the links to other cores, or for room among what
    /// is parked.
    stalled: Vec<ConnectionId>,
    /// Connections that have more to do and let others go first.
    ready: Vec<ConnectionId>,
    /// Clients that have connected and are not served yet.
    accepted: VecDeque<OwnedFd>,
    input_bytes: usize,
    /// Bytes of replies that were not taken, of all clients.
    unread: Account,
    /// A connection waits for room among what waits in the core.
    was_full: bool,
    /// When the present turn began.
    turn_at: Instant,
    /// Bytes of replies written in this turn.
    written_bytes: usize,
    pool: Vec<Vec<u8>>,
    is_stopping: bool,
}

impl Server {
    /// No clients yet; what they leave unread is counted in `unread`.
    pub(crate) fn new(ring: DataRing, unread: Account) -> Self {
        Self {
            ring,
            sessions: Vec::new(),
            session_count: 0,
            queue: Vec::new(),
            stalled: Vec::new(),
            ready: Vec::new(),
            accepted: VecDeque::new(),
            input_bytes: 0,
            unread,
            was_full: false,
            turn_at: Instant::now(),
            written_bytes: 0,
            pool: Vec::new(),
            is_stopping: false,
        }
    }

    pub(crate) fn client_count(&self) -> usize {
        self.session_count
    }

    pub(crate) fn client_bytes(&self) -> usize {
        self.sessions().map(Session::memory_bytes).sum()
    }

    pub(crate) fn sessions(&self) -> impl Iterator<Item = &Session> {
        self.sessions.iter().filter_map(Option::as_deref)
    }

    /// Whether some connection has more to do without anything new arriving.
    pub(crate) fn has_work(&self) -> bool {
        !self.ready.is_empty()
            || !self.queue.is_empty()
            || !self.accepted.is_empty()
            || self.ring.has_events()
    }

    /// Handles the events of the latest turn of the ring, as many as one turn may. Whether there were
    /// any.
    pub(crate) fn handle_events(&mut self, world: &mut World) -> bool {
        let mut has_served = !self.accepted.is_empty();
        let commands_end = world.counters.commands + COMMAND_COUNT_TURN;
        self.written_bytes = 0;
        self.turn_at = world.now;
        while world.counters.commands < commands_end
            && self.written_bytes < REPLY_BYTES_TURN
            && let Some(event) = self.ring.next_event()
        {
            has_served = true;
            let Some(event) = Self::pass_on(world, event) else { continue };
            match event {
                Event::Received(received) => self.on_received(world, received),
                Event::Sent(id, buffer) => self.on_sent(world, id, buffer),
                Event::Ended(id) => self.on_ended(id),
                Event::Closed(id) => self.on_closed(world, id),
                Event::Completed(completed) => world.on_completed(completed),
                Event::Ready(token) => world.ready.push(token),
                Event::Accepted(socket) => self.accepted.push_back(socket),
                Event::AcceptFailed(error) => {
                    tracing::warn!(%error, "a client could not be accepted: out of descriptors?");
                }
            }
        }
        for _ in 0..ACCEPT_COUNT_TURN {
            let Some(socket) = self.accepted.pop_front() else { break };
            self.on_accepted(world, socket);
        }
        has_served
    }

    /// Hands the cluster what has happened on its connections; everything else comes back.
    fn pass_on(world: &mut World, event: Event) -> Option<Event> {
        let Some(cluster) = &world.cluster else { return Some(event) };
        let connection = match &event {
            Event::Received(received) => received.connection,
            Event::Sent(id, _) | Event::Ended(id) | Event::Closed(id) => *id,
            _ => return Some(event),
        };
        if cluster.links.of_connection(connection).is_none() {
            return Some(event);
        }
        world.link_events.push(match event {
            Event::Received(received) => LinkEvent::Received(received),
            Event::Sent(..) => LinkEvent::Sent,
            _ => LinkEvent::Ended(connection),
        });
        None
    }

    /// Lets connections go on that have more to do. Whether there were any.
    pub(crate) fn serve_ready(&mut self, world: &mut World) -> bool {
        let has_served = !self.ready.is_empty();
        let mut ready = std::mem::take(&mut self.ready).into_iter();
        while self.written_bytes < REPLY_BYTES_TURN
            && let Some(id) = ready.next()
        {
            self.serve(world, id);
        }
        // Who was not served comes before those who have been.
        let served = std::mem::replace(&mut self.ready, ready.collect());
        self.ready.extend(served);
        has_served
    }

    /// Serves a connection from the input that was left over.
    fn serve(&mut self, world: &mut World, id: ConnectionId) {
        let Some(mut session) = self.take(id) else { return };
        let input = std::mem::take(&mut session.input);
        self.input_bytes -= input.len();
        session.replies.lend(&mut self.pool);
        let (consumed, pause) = session.advance(world, &input);
        if consumed < input.len() {
            session.input = input;
            session.input.drain(..consumed);
            self.input_bytes += session.input.len();
        }
        self.settle(session, pause);
    }

    fn on_received(&mut self, world: &mut World, received: Received) {
        let id = received.connection;
        let Some(mut session) = self.take(id) else { return self.ring.recycle(received) };
        let bytes = self.ring.bytes(&received);
        world.counters.input_bytes += bytes.len() as u64;
        session.client.active_at = world.now;
        session.replies.lend(&mut self.pool);
        let pause = if session.input.is_empty() {
            let (consumed, pause) = session.advance(world, bytes);
            session.input.extend_from_slice(&bytes[consumed..]);
            self.input_bytes += session.input.len();
            pause
        } else {
            let mut input = std::mem::take(&mut session.input);
            self.input_bytes -= input.len();
            input.extend_from_slice(bytes);
            let (consumed, pause) = session.advance(world, &input);
            if consumed < input.len() {
                input.drain(..consumed);
                session.input = input;
                self.input_bytes += session.input.len();
            }
            pause
        };
        self.ring.recycle(received);
        if self.input_bytes > world.settings.input_limit && !session.input.is_empty() {
            self.input_bytes -= session.input.len();
            session.fail_connection(&Failure::text(
                "ERR too many bytes of unfinished requests are held for all clients (input_limit)",
            ));
        }
        self.settle(session, pause);
    }

    /// Puts a session back after it was served, and queues what follows from where it stopped.
    fn settle(&mut self, mut session: Box<Session>, pause: Pause) {
        let id = session.connection;
        match pause {
            Pause::Input if session.input_ended => {
                // A request whose end will not come is none.
                self.input_bytes -= session.input.len();
                session.input = Vec::new();
            }
            Pause::Input => {}
            Pause::Turn => self.ready.push(id),
            Pause::Replies | Pause::Full => {
                self.was_full |= pause == Pause::Full;
                if !session.is_paused {
                    session.is_paused = true;
                    self.ring.pause(id);
                }
                if !session.replies.are_due() && session.replies.len() < OUTPUT_BYTES_PAUSE {
                    self.stalled.push(id);
                }
            }
        }
        if !session.is_queued {
            session.is_queued = true;
            self.queue.push(id);
        }
        self.put(session);
    }

    /// Sends what is ready, and closes who is done with. Once a turn, after all else.
    pub(crate) fn flush(&mut self, world: &mut World) {
        if self.unread.bytes() > world.settings.waiting_limit {
            self.cut_unread(world);
        }
        for id in std::mem::take(&mut self.queue) {
            let Some(mut session) = self.take(id) else { continue };
            session.is_queued = false;
            self.flush_session(world, &mut session);
            self.put(session);
        }
    }

    fn flush_session(&mut self, world: &mut World, session: &mut Session) {
        let id = session.connection;
        if self.ring.is_sending(id) {
            return;
        }
        if session.replies.has_output() {
            let output = session.replies.take_output(|hold| world.shards.standing(hold));
            if output.is_empty() {
                return hold_back(world, session);
            }
            world.counters.output_bytes += output.len() as u64;
            session.output_moved_at = world.now;
            session.sending_bytes = output.capacity();
            return self.ring.send(id, output);
        }
        if !session.is_finished() {
            return;
        }
        match session.phase {
            Phase::Serving if session.input_ended && session.input.is_empty() => {
                self.ring.close(id);
            }
            Phase::Serving => {}
            Phase::Finishing if session.input_ended => self.ring.close(id),
            Phase::Finishing => {
                self.ring.finish_sending(id);
                session.phase = Phase::Lingering(world.now + LINGER);
                if session.is_paused {
                    session.is_paused = false;
                    self.ring.resume(id);
                }
            }
            Phase::Lingering(until) if session.input_ended || until <= world.now => {
                self.ring.close(id);
            }
            Phase::Lingering(_) => {}
        }
    }

    /// Has a connection looked at again: what its output has waited for is decided.
    pub(crate) fn release(&mut self, id: ConnectionId) {
        let Some(mut session) = self.take(id) else { return };
        session.held_for = None;
        if !session.is_queued {
            session.is_queued = true;
            self.queue.push(id);
        }
        self.put(session);
    }

    fn on_sent(&mut self, world: &mut World, id: ConnectionId, buffer: Vec<u8>) {
        if self.pool.len() < POOL_COUNT && buffer.capacity() <= POOL_BYTES {
            self.pool.push(buffer);
        }
        if let Some(mut session) = self.take(id) {
            session.sending_bytes = 0;
            self.put(session);
        }
        self.proceed(world, id);
    }

    /// Serves a connection that may have been waiting for its replies.
    fn proceed(&mut self, world: &mut World, id: ConnectionId) {
        let Some(mut session) = self.take(id) else { return };
        session.output_moved_at = world.now;
        if session.is_paused {
            session.is_paused = false;
            self.ring.resume(id);
            self.put(session);
            return self.serve(world, id);
        }
        let needs_flush =
            session.replies.has_output() || session.phase != Phase::Serving || session.input_ended;
        if needs_flush && !session.is_queued {
            session.is_queued = true;
            self.queue.push(id);
        }
        self.put(session);
    }

    fn on_ended(&mut self, id: ConnectionId) {
        let Some(mut session) = self.take(id) else { return };
        session.input_ended = true;
        // Whoever waits for replies, or for its next turn, may have whole requests left.
        if !session.is_paused && !session.is_in_pieces() {
            self.input_bytes -= session.input.len();
            session.input = Vec::new();
        }
        if !session.is_queued {
            session.is_queued = true;
            self.queue.push(id);
        }
        self.put(session);
    }

    fn on_closed(&mut self, world: &mut World, id: ConnectionId) {
        let Some(session) = self.take(id) else { return };
        self.input_bytes -= session.input.len();
        self.unread.subtract(session.counted_bytes);
        self.session_count -= 1;
        world.node.ports[world.id].remove_client();
    }

    /// Takes in the whole reply of a task, in pieces.
    pub(crate) fn deliver_pieces(
        &mut self,
        world: &mut World,
        waiter: Waiter,
        pieces: Vec<Vec<u8>>,
    ) {
        let Some(mut session) = self.take(waiter.connection) else { return };
        session.deliver_pieces(waiter.sequence, pieces);
        self.put_bounded(world, session);
    }

    /// Takes in a part of a reply from another core or a disk.
    pub(crate) fn deliver(&mut self, world: &mut World, waiter: Waiter, part: Part, bytes: &[u8]) {
        if part == Part::Failed {
            world.counters.errors += 1;
        }
        let Some(mut session) = self.take(waiter.connection) else { return };
        session.deliver(waiter.sequence, part, bytes);
        self.put_bounded(world, session);
    }

    /// Puts back a session that has been given a reply, and closes it if that is too much.
    fn put_bounded(&mut self, world: &mut World, mut session: Box<Session>) {
        let id = session.connection;
        let is_over = session.replies.len() > world.settings.output_limit;
        if is_over && !matches!(session.phase, Phase::Lingering(_)) {
            world.counters.output_disconnects += 1;
            let client = session.client.address;
            tracing::warn!(%client, "output_limit reached: disconnecting");
            session.phase = Phase::Lingering(world.now);
            self.ring.close(id);
        }
        self.put(session);
        self.proceed_if_idle(world, id);
    }

    /// Tells those who wait for a core that has stopped, and takes over whom it had not accepted.
    pub(crate) fn give_up(&mut self, world: &mut World, waiters: Vec<Waiter>) {
        self.ring.accept_waiting();
        for waiter in waiters {
            let Some(mut session) = self.take(waiter.connection) else { continue };
            session.give_up(waiter.sequence);
            self.put(session);
            self.proceed_if_idle(world, waiter.connection);
        }
    }

    /// As [`Server::proceed`], unless the next completion of a send will do it.
    fn proceed_if_idle(&mut self, world: &mut World, id: ConnectionId) {
        if !self.ring.is_sending(id) {
            return self.proceed(world, id);
        }
        if let Some(session) = &self.sessions[id.slot()]
            && session.is_paused
            && session.replies.len() < OUTPUT_BYTES_PAUSE
        {
            self.proceed(world, id);
        }
    }

    /// Disconnects clients as long as the replies that all have left unread are twice what may be: as much
    /// as may, and what was asked for before it was. Of those that have as much as the average or more,
    /// the one who has left it unread for longest: who reads has a little on its way at any time, and
    /// who is being disconnected is on its way out with what it has.
    fn cut_unread(&mut self, world: &mut World) {
        let limit = world.settings.waiting_limit.saturating_mul(2);
        let is_leaving = |it: &Session| matches!(it.phase, Phase::Lingering(_));
        let mut staying: Vec<_> = self.sessions.iter_mut().flatten().collect();
        staying.retain(|it| it.unread_bytes() > 0 && !is_leaving(it));
        let mut bytes: usize = staying.iter().map(|it| it.unread_bytes()).sum();
        while bytes > limit {
            let average = bytes / staying.len();
            let at = (0..staying.len())
                .filter(|at| staying[*at].unread_bytes() >= average)
                .min_by_key(|at| staying[*at].output_moved_at)
                .expect("one has as much as the average");
            let session = staying.swap_remove(at);
            bytes -= session.unread_bytes();
            world.counters.output_disconnects += 1;
            let client = session.client.address;
            tracing::warn!(%client, "waiting_limit reached by unread replies: disconnecting");
            session.phase = Phase::Lingering(world.now);
            self.ring.close(session.connection);
        }
    }

    /// Connections that waited for room among what waits in the core try again, if there is some.
    pub(crate) fn wake_if_room(&mut self, world: &mut World) {
        if self.was_full && !world.is_full() && !world.is_unread() {
            self.was_full = false;
            self.wake_stalled(world);
        }
    }

    /// Connections that waited for room in the links, or for what is parked, try again.
    pub(crate) fn wake_stalled(&mut self, world: &mut World) {
        for id in std::mem::take(&mut self.stalled) {
            self.proceed_if_idle(world, id);
        }
    }

    fn on_accepted(&mut self, world: &mut World, socket: OwnedFd) {
        world.counters.connections_received += 1;
        let ports = &world.node.ports;
        // A core that has stopped has taken its clients with it.
        let running = ports.iter().filter(|port| !port.is_stopped());
        let total: usize = running.map(Port::client_count).sum();
        if total >= world.settings.max_clients || self.is_stopping {
            world.counters.connections_rejected += 1;
            // A fresh socket has room for a line; whoever does not get it sees the connection close.
            let _ = rustix::io::write(&socket, b"-ERR max number of clients reached\r\n");
            return;
        }
        let Some(address) = peer_address(&socket) else { return };
        // Whom the kernel gave the client to is chance: the least busy core serves it.
        let least = (0..ports.len())
            .filter(|core| !ports[*core].is_stopped())
            .min_by_key(|core| (ports[*core].client_count(), *core != world.id));
        let core = least.unwrap_or(world.id);
        ports[core].add_client();
        if core == world.id {
            return self.adopt(world, socket, address);
        }
        if ports[core].try_post(Message::Adopt(socket, address)).is_err() {
            // Its mailbox is full or its core gone: the client is free to try again.
            ports[core].remove_client();
        }
    }

    /// Serves a client that was counted in already.
    pub(crate) fn adopt(&mut self, world: &World, socket: OwnedFd, address: SocketAddr) {
        let local_address = rustix::net::getsockname(&socket)
            .ok()
            .and_then(|address| SocketAddr::try_from(address).ok());
        let id = self.ring.adopt(socket);
        let client = Client {
            id: world.node.next_client_id.fetch_add(1, Ordering::Relaxed),
            address,
            local_address,
            name: Vec::new(),
            library_name: Vec::new(),
            library_version: Vec::new(),
            protocol: Protocol::Resp2,
            is_authenticated: world.settings.password.is_empty(),
            reply_mode: ReplyMode::On,
            no_evict: false,
            no_touch: false,
            connected_at: world.now,
            active_at: world.now,
            last_command: "NULL",
            wants_close: false,
            level: Level::Quorum,
            scope: ScopeCell::default(),
        };
        if id.slot() >= self.sessions.len() {
            self.sessions.resize_with(id.slot() + 1, || None);
        }
        assert!(self.sessions[id.slot()].is_none());
        self.sessions[id.slot()] = Some(Box::new(Session::new(client, id, world.now)));
        self.session_count += 1;
    }

    /// Tries to accept clients again after that has failed.
    pub(crate) fn accept_again(&mut self) {
        self.ring.accept_again();
    }

    /// Looks for clients that have been silent, or have not read, for too long.
    pub(crate) fn check_timeouts(&mut self, world: &World) {
        let silence = world.settings.client_timeout;
        let unread = world.settings.output_timeout;
        let now = world.now;
        let mut over = Vec::new();
        for session in self.sessions.iter_mut().flatten() {
            let id = session.connection;
            // A long reply that is read slowly moves all the same.
            let unsent = self.ring.unsent_bytes(id);
            if unsent != session.unsent_bytes {
                session.unsent_bytes = unsent;
                session.output_moved_at = now;
            }
            // Who reads is not silent.
            let heard_of_at = session.client.active_at.max(session.output_moved_at);
            let is_silent =
                !silence.is_zero() && now.saturating_duration_since(heard_of_at) > silence;
            let is_stuck = !unread.is_zero()
                && now.saturating_duration_since(session.output_moved_at) > unread;
            let is_lingering = matches!(session.phase, Phase::Lingering(until) if until <= now);
            if is_silent || is_lingering || (is_stuck && self.ring.is_sending(id)) {
                over.push(id);
            }
        }
        for id in over {
            self.ring.close(id);
        }
    }

    /// Closes the client of that number; whether it was here.
    pub(crate) fn kill(&mut self, client_id: u64) -> bool {
        let found = self.sessions().find(|session| session.client.id == client_id);
        let Some(id) = found.map(|session| session.connection) else { return false };
        self.ring.close(id);
        true
    }

    /// Closes the client of that number once its replies are out; whether it was here.
    pub(crate) fn finish(&mut self, client_id: u64) -> bool {
        let mut sessions = self.sessions.iter_mut().flatten();
        let Some(session) = sessions.find(|session| session.client.id == client_id) else {
            return false;
        };
        if session.phase == Phase::Serving {
            session.phase = Phase::Finishing;
        }
        true
    }

    /// Accepts nobody any more, and closes the clients once their replies are out.
    pub(crate) fn stop(&mut self) {
        self.is_stopping = true;
        self.ring.stop_listening();
        for session in self.sessions.iter_mut().flatten() {
            if session.phase == Phase::Serving {
                session.phase = Phase::Finishing;
            }
            if !session.is_queued {
                session.is_queued = true;
                self.queue.push(session.connection);
            }
        }
    }

    /// Whether all clients are gone, or have all their replies.
    pub(crate) fn is_drained(&mut self) -> bool {
        let Self { sessions, ring, .. } = self;
        let mut left = sessions.iter().flatten();
        left.all(|session| session.is_finished() && !ring.is_sending(session.connection))
    }

    /// Puts back a session that was taken, and counts what its client has not taken.
    fn put(&mut self, mut session: Box<Session>) {
        let unread_bytes = session.unread_bytes();
        self.written_bytes += unread_bytes.saturating_sub(session.counted_bytes);
        if session.counted_bytes == 0 && unread_bytes > 0 {
            // Who has had nothing to read has left nothing unread.
            session.output_moved_at = self.turn_at;
        }
        self.unread.replace(session.counted_bytes, unread_bytes);
        session.counted_bytes = unread_bytes;
        let slot = session.connection.slot();
        self.sessions[slot] = Some(session);
    }

    fn take(&mut self, id: ConnectionId) -> Option<Box<Session>> {
        let slot = self.sessions.get_mut(id.slot())?;
        if slot.as_ref().is_some_and(|session| session.connection == id) {
            slot.take()
        } else {
            None
        }
    }
}

/// Has the core remember what a connection's output waits for.
fn hold_back(world: &mut World, session: &mut Session) {
    let hold = session.replies.first_hold();
    if session.held_for != hold
        && let Some(hold) = hold
    {
        session.held_for = Some(hold);
        world.held.connection(hold, session.connection);
    }
}

fn peer_address(socket: &OwnedFd) -> Option<SocketAddr> {
    rustix::net::getpeername(socket).ok().flatten().and_then(|it| SocketAddr::try_from(it).ok())
}
