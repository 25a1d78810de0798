//! The data ring: one io_uring that owns the sockets of one core.
//!
//! ```text
//!   turn(wait) ---- one io_uring_enter: submits what is queued, runs the kernel's deferred work,
//!      |            waits if asked to
//!      v
//!   next_event() -> Accepted | Received | Sent | Closed | Completed | Ready  (until None)
//!      |
//!      v
//!   adopt, send, pause, resume, close, watch, submit ---- queue submissions for the next turn
//! ```
//!
//! Accepting and receiving are multishot: armed once, they go on until something ends them. Bytes
//! arrive in provided buffers; whoever takes a [`Received`] reads it and recycles it before the next
//! turn. Events that are not taken stay, and the buffers with them.
//!
//! What else the core has the kernel do, such as its disk's reads and writes, goes through the same
//! ring ([`DataRing::submit`]): one system call a turn serves both, and a core that sleeps in its
//! ring is woken by either.
//!
//! # Invariants
//!
//! - The kernel reads a send's bytes only while the ring owns them ([`DataRing::send`] takes the
//!   vector, [`Event::Sent`] gives it back); a connection's slot and socket outlive every operation
//!   on it.
//! - `EINTR`, `EAGAIN`, `EBUSY` and `ENOMEM` from the kernel are never fatal: what was queued stays
//!   queued and the next turn tries again.
//! - A receive that found no buffer is armed again at a later turn, after buffers have come back, and
//!   no more of them than there are buffers; it neither spins nor stays deaf.
//! - A [`Received`] is read from and recycled by the ring that it came out of, and no other.
//!
//! # Which kernel
//!
//! Linux 6.1 has everything that is needed (multishot accept 5.19, multishot receive 6.0, deferred
//! task running 6.1). Where deferred task running is refused, cooperative running is used.

#[expect(unsafe_code, reason = "memory is shared with the kernel")]
mod buffers;
mod conn;
mod doorbell;
#[expect(unsafe_code, reason = "the system call takes raw arguments")]
mod enter;
mod event;
mod setup;

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::TcpListener;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

use io_uring::{IoUring, cqueue, opcode, squeue, types};
use rustix::event::{EventfdFlags, eventfd};

use self::buffers::{Buffers, GROUP};
pub use self::conn::ConnectionId;
use self::conn::{Connection, Connections, Receiving, Sending};
pub use self::doorbell::Doorbell;
use self::enter::{Enter, is_wanted};
pub use self::event::{Completed, Event, Interest, Received, Wait};
use self::setup::build;
pub use self::setup::{Config, SetupError};

/// What a submission was for, in the low byte of its user data.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Operation {
    Accept = 0,
    Receive = 1,
    Send = 2,
    Cancel = 3,
    Doorbell = 4,
    /// Completes with nothing to be done: the cancellation of an operation of no connection.
    Other = 5,
    /// Handed over by the owner. Its token takes the place of slot and generation.
    Foreign = 6,
    /// A descriptor becomes ready. The owner's token takes the place of the slot.
    Watch = 7,
}

/// Bits of the user data that name the operation.
const OPERATION_BITS: u32 = 8;
/// Tokens of foreign operations are smaller than this.
const TOKEN_END: u64 = 1 << (u64::BITS - OPERATION_BITS);

/// slot (32 bits) | generation (24 bits) | operation (8 bits)
const fn user_data(operation: Operation, id: ConnectionId) -> u64 {
    ((id.slot as u64) << 32) | ((id.generation as u64) << OPERATION_BITS) | operation as u64
}

const NOBODY: ConnectionId = ConnectionId { slot: 0, generation: 0 };

/// One core's sockets. Belongs to the thread that made it.
pub struct DataRing {
    // First, so that the kernel lets go of the memory below before it is freed.
    uring: IoUring,
    enter: Enter,
    buffers: Buffers,
    connections: Connections,
    /// Connections whose receive found no buffer, in the order in which they are armed again.
    starved: VecDeque<ConnectionId>,
    listener: Option<TcpListener>,
    accepting: bool,
    /// The last accept failed: the next try is the owner's to choose.
    accept_failed: bool,
    doorbell: Arc<Doorbell>,
    doorbell_armed: bool,
    doorbell_count: Box<u64>,
    activity: Option<OwnedFd>,
    completions: VecDeque<cqueue::Entry>,
    /// Operations of the owner's that have not ended.
    foreign_count: usize,
    /// Descriptors that are watched, kept open until the kernel lets go of them.
    watched: BTreeMap<u32, Arc<OwnedFd>>,
}

impl DataRing {
    /// A ring for the calling thread, with a bell that others ring to wake it.
    ///
    /// # Errors
    ///
    /// [`SetupError`], each with its remedy.
    pub fn new(config: &Config, doorbell: Arc<Doorbell>) -> Result<Self, SetupError> {
        let uring = build(config)?;
        let enter = Enter::new(&uring);
        let buffers =
            Buffers::register(&uring.submitter(), config.buffer_count, config.buffer_bytes)?;
        Ok(Self {
            uring,
            enter,
            buffers,
            connections: Connections::default(),
            starved: VecDeque::new(),
            listener: None,
            accepting: false,
            accept_failed: false,
            doorbell,
            doorbell_armed: false,
            doorbell_count: Box::new(0),
            activity: None,
            completions: VecDeque::new(),
            foreign_count: 0,
            watched: BTreeMap::new(),
        })
    }

    /// Accepts clients of `listener` from the next turn on. Several rings may listen to duplicates
    /// of one socket: the kernel gives each client to one of them.
    pub fn listen(&mut self, listener: TcpListener) {
        assert!(self.listener.is_none(), "a ring listens to one socket");
        self.listener = Some(listener);
    }

    /// Accepts no more clients. Those in the backlog are accepted by other rings or refused.
    pub fn stop_listening(&mut self) {
        if self.listener.take().is_some() && self.accepting {
            let accept = user_data(Operation::Accept, NOBODY);
            self.push(&opcode::AsyncCancel::new(accept).build(), Operation::Other, NOBODY);
        }
    }

    /// Tries to accept again after [`Event::AcceptFailed`].
    pub fn accept_again(&mut self) {
        self.accept_failed = false;
    }

    /// Looks for clients that wait, whoever was told of them.
    ///
    /// The kernel tells one ring of a new client. If that ring is closed before it has accepted, no
    /// other is told, and the client waits until the next one comes.
    pub fn accept_waiting(&mut self) {
        if self.accepting {
            // Armed again at the next turn, which begins with a look.
            let accept = user_data(Operation::Accept, NOBODY);
            self.push(&opcode::AsyncCancel::new(accept).build(), Operation::Other, NOBODY);
        }
    }

    /// Takes over a connected socket, and reads from it until told otherwise.
    pub fn adopt(&mut self, socket: OwnedFd) -> ConnectionId {
        let id = self.connections.insert(socket);
        self.arm(id);
        id
    }

    /// Sends `bytes`, all of them, in order. [`Event::Sent`] tells when the kernel has them.
    ///
    /// # Panics
    ///
    /// When an earlier send of the connection is still under way, or `bytes` is empty.
    pub fn send(&mut self, id: ConnectionId, bytes: Vec<u8>) {
        assert!(!bytes.is_empty());
        let Some(connection) = self.connections.get(id) else { return };
        if connection.closing {
            return;
        }
        assert!(connection.sending.is_none(), "one send at a time");
        connection.sending = Some(Sending { bytes, sent: 0 });
        self.submit_send(id);
    }

    /// Whether a send of the connection is under way.
    #[must_use]
    pub fn is_sending(&mut self, id: ConnectionId) -> bool {
        self.connections.get(id).is_some_and(|connection| connection.sending.is_some())
    }

    /// Bytes of the send under way that the kernel has yet to take.
    #[must_use]
    pub fn unsent_bytes(&mut self, id: ConnectionId) -> usize {
        let connection = self.connections.get(id);
        let sending = connection.and_then(|connection| connection.sending.as_ref());
        sending.map_or(0, |sending| sending.bytes.len() - sending.sent)
    }

    /// Stops reading from a connection. What the kernel has already put into buffers still comes.
    pub fn pause(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.get(id) else { return };
        connection.wants_input = false;
        if connection.receiving == Receiving::Armed {
            connection.receiving = Receiving::Cancelling;
            self.cancel_receive(id);
        }
    }

    /// Reads from a paused connection again.
    pub fn resume(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.get(id) else { return };
        connection.wants_input = true;
        if connection.receiving == Receiving::Paused && !connection.closing {
            self.arm(id);
        }
    }

    /// Tells the client that nothing more will be sent, and goes on reading.
    pub fn finish_sending(&mut self, id: ConnectionId) {
        if let Some(connection) = self.connections.get(id) {
            // Fails only when the client is gone already, which the receive reports.
            let _ = rustix::net::shutdown(&connection.socket, rustix::net::Shutdown::Write);
        }
    }

    /// Closes a connection, whatever is under way on it. [`Event::Closed`] follows.
    pub fn close(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.get(id) else { return };
        if connection.closing {
            return;
        }
        connection.closing = true;
        // Ends a receive and a send that are under way; both report it.
        let _ = rustix::net::shutdown(&connection.socket, rustix::net::Shutdown::Both);
        if connection.operations == 0 {
            // The end of the connection is always reported through a completion.
            connection.operations = 1;
            self.push(&opcode::Nop::new().build(), Operation::Cancel, id);
        }
    }

    /// Has the kernel carry out an operation of the owner's, whatever its user data says. It is
    /// queued for the next turn; [`Event::Completed`] tells how it has ended, once.
    ///
    /// # Safety
    ///
    /// What the entry points to, buffers, paths and descriptors, is there and left alone until
    /// [`Event::Completed`] with this token has come out. If the ring is dropped before that, it
    /// stays so for ever: dropping waits for what is under way, but not without end. The entry
    /// completes once (it is no multishot operation).
    ///
    /// # Panics
    ///
    /// When the token has more than 56 bits.
    #[expect(unsafe_code, reason = "what the entry points to is the caller's to keep")]
    pub unsafe fn submit(&mut self, entry: squeue::Entry, token: u64) {
        assert!(token < TOKEN_END, "a token fits beside the operation's name");
        self.foreign_count += 1;
        let data = (token << OPERATION_BITS) | Operation::Foreign as u64;
        self.push_entry(&entry.user_data(data));
    }

    /// Waits for a descriptor to become ready, once: [`Event::Ready`] tells.
    ///
    /// # Panics
    ///
    /// When the token is in use by a watch that has not ended.
    pub fn watch(&mut self, descriptor: Arc<OwnedFd>, interest: Interest, token: u32) {
        let flags = match interest {
            Interest::Readable => libc::POLLIN,
            Interest::Writable => libc::POLLOUT,
        };
        let flags = u32::from(flags.cast_unsigned());
        let poll = opcode::PollAdd::new(types::Fd(descriptor.as_raw_fd()), flags).build();
        let before = self.watched.insert(token, descriptor);
        assert!(before.is_none(), "a token has one watch at a time");
        self.push(&poll, Operation::Watch, ConnectionId { slot: token, generation: 0 });
    }

    /// Ends a watch before its time; [`Event::Ready`] still tells.
    pub fn unwatch(&mut self, token: u32) {
        if self.watched.contains_key(&token) {
            let id = ConnectionId { slot: token, generation: 0 };
            let cancel = opcode::AsyncCancel::new(user_data(Operation::Watch, id)).build();
            self.push(&cancel, Operation::Other, NOBODY);
        }
    }

    /// Open connections, closing ones included.
    #[must_use]
    pub fn connections(&self) -> Vec<ConnectionId> {
        self.connections.ids()
    }

    /// Submits what is queued, lets the kernel run its deferred work, and waits for an event if
    /// there is none and `wait` says so. Events are read with [`DataRing::next_event`].
    ///
    /// # Errors
    ///
    /// Only what cannot pass by itself: a ring or a memory that the kernel does not know.
    pub fn turn(&mut self, wait: Wait) -> io::Result<()> {
        self.arm_starved();
        // Those that are left have their turn when these have had theirs.
        let wait = if self.may_arm_starved() { Wait::No } else { wait };
        if self.listener.is_some() && !self.accepting && !self.accept_failed {
            self.arm_accept();
        }
        if !self.doorbell_armed {
            self.arm_doorbell();
        }
        self.enter.turn(&mut self.uring, wait)?;
        self.completions.extend(self.uring.completion());
        Ok(())
    }

    /// Arms receives that found no buffer: as many as there are buffers, since each takes one at once
    /// if its client has sent something, and fails again if there is none.
    fn arm_starved(&mut self) {
        let mut room = self.buffers.free_count();
        while room > 0
            && let Some(id) = self.starved.pop_front()
        {
            let Some(connection) = self.connections.get(id) else { continue };
            if connection.receiving != Receiving::Starved {
                continue;
            }
            connection.receiving = Receiving::Paused;
            if connection.wants_input && !connection.closing {
                self.arm(id);
                room -= 1;
            }
        }
    }

    /// Whether the next turn can arm receives that found no buffer.
    fn may_arm_starved(&self) -> bool {
        !self.starved.is_empty() && self.buffers.free_count() > 0
    }

    /// Whether [`DataRing::next_event`] may have one before the next turn.
    #[must_use]
    pub fn has_events(&self) -> bool {
        !self.completions.is_empty()
    }

    /// Whether a turn without waiting would find something to do. Costs no system call.
    #[must_use]
    pub fn has_work(&mut self) -> bool {
        !self.completions.is_empty()
            || !self.uring.completion().is_empty()
            || !self.uring.submission().is_empty()
            || is_wanted(&mut self.uring)
            || self.may_arm_starved()
    }

    /// An event descriptor that becomes readable when the kernel has something for this ring, for
    /// an owner that sleeps elsewhere than in [`DataRing::turn`]. Quiet until
    /// [`DataRing::notify`] asks for it.
    ///
    /// # Errors
    ///
    /// When the process has no descriptor left.
    pub fn activity(&mut self) -> io::Result<OwnedFd> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        self.uring.submitter().register_eventfd(event.as_raw_fd())?;
        self.uring.completion().disable_eventfd();
        let shared = event.try_clone()?;
        self.activity = Some(event);
        Ok(shared)
    }

    /// Turns the [activity](DataRing::activity) descriptor on or off.
    pub fn notify(&mut self, on: bool) {
        assert!(self.activity.is_some(), "there is a descriptor to notify");
        if on {
            self.uring.completion().enable_eventfd();
        } else {
            self.uring.completion().disable_eventfd();
        }
    }

    /// The bytes of an event.
    ///
    /// # Panics
    ///
    /// When the event is another ring's.
    #[must_use]
    pub fn bytes(&self, received: &Received) -> &[u8] {
        self.buffers.bytes(&received.lent)
    }

    /// Gives the buffer of an event back.
    ///
    /// # Panics
    ///
    /// When the event is another ring's.
    pub fn recycle(&mut self, received: Received) {
        self.buffers.recycle(received.lent);
    }

    /// The next event of the latest turn, oldest first.
    pub fn next_event(&mut self) -> Option<Event> {
        while let Some(entry) = self.completions.pop_front() {
            if let Some(event) = self.take(&entry) {
                return Some(event);
            }
        }
        None
    }

    /// Translates one completion; most have no meaning for the owner.
    fn take(&mut self, entry: &cqueue::Entry) -> Option<Event> {
        let data = entry.user_data();
        #[expect(clippy::cast_possible_truncation, reason = "takes the fields apart")]
        let id =
            ConnectionId { slot: (data >> 32) as u32, generation: (data >> 8) as u32 & 0xff_ffff };
        match data & 0xff {
            operation if operation == Operation::Accept as u64 => self.on_accept(entry),
            operation if operation == Operation::Receive as u64 => {
                self.on_receive(id, entry.result(), entry.flags())
            }
            operation if operation == Operation::Send as u64 => self.on_send(id, entry),
            operation if operation == Operation::Doorbell as u64 => {
                self.doorbell_armed = false;
                None
            }
            operation if operation == Operation::Other as u64 => None,
            operation if operation == Operation::Foreign as u64 => {
                self.foreign_count -= 1;
                let token = data >> OPERATION_BITS;
                Some(Event::Completed(Completed { token, result: entry.result() }))
            }
            operation if operation == Operation::Watch as u64 => {
                self.watched.remove(&id.slot);
                Some(Event::Ready(id.slot))
            }
            _ => self.on_operation_over(id),
        }
    }

    #[expect(unsafe_code, reason = "the kernel hands out a descriptor by its number")]
    fn on_accept(&mut self, entry: &cqueue::Entry) -> Option<Event> {
        if !cqueue::more(entry.flags()) {
            self.accepting = false;
        }
        match entry.result() {
            result if result >= 0 => {
                // SAFETY: the kernel has just made this descriptor for us; nobody else knows it.
                Some(Event::Accepted(unsafe { OwnedFd::from_raw_fd(result) }))
            }
            error if error == -libc::ECANCELED => None,
            error => {
                self.accept_failed = true;
                Some(Event::AcceptFailed(io::Error::from_raw_os_error(-error)))
            }
        }
    }

    fn on_receive(&mut self, id: ConnectionId, result: i32, flags: u32) -> Option<Event> {
        let mut received = cqueue::buffer_select(flags).map(|buffer| {
            let len = u32::try_from(result).unwrap_or(0);
            Received { connection: id, lent: self.buffers.take(buffer, len) }
        });
        if result < 0
            && let Some(unused) = received.take()
        {
            // A kernel that names a buffer with an error has put nothing into it.
            self.recycle(unused);
        }
        let connection = self.connections.get(id).expect("a slot outlives its operations");
        let closing = connection.closing;
        if !cqueue::more(flags) {
            connection.operations -= 1;
            connection.receiving = match result {
                _ if result == -libc::ENOBUFS => Receiving::Starved,
                _ if result == -libc::ECANCELED || result > 0 => Receiving::Paused,
                _ if result == -libc::EINTR || result == -libc::EAGAIN => Receiving::Starved,
                _ if result == -libc::ENOMEM => Receiving::Starved,
                _ => Receiving::Ended,
            };
            match connection.receiving {
                Receiving::Starved => self.starved.push_back(id),
                Receiving::Paused if connection.wants_input && !closing => self.arm(id),
                Receiving::Ended if !closing => return Some(Event::Ended(id)),
                _ => {}
            }
        }
        if closing {
            if let Some(received) = received {
                self.recycle(received);
            }
            return self.free_if_over(id);
        }
        received.map(Event::Received)
    }

    fn on_send(&mut self, id: ConnectionId, entry: &cqueue::Entry) -> Option<Event> {
        let connection = self.connections.get(id).expect("a slot outlives its operations");
        connection.operations -= 1;
        if connection.closing {
            connection.sending = None;
            return self.free_if_over(id);
        }
        let sending = connection.sending.as_mut().expect("a send completes once");
        match usize::try_from(entry.result()) {
            Ok(len) => sending.sent += len,
            Err(_) if [-libc::EINTR, -libc::EAGAIN, -libc::ENOMEM].contains(&entry.result()) => {}
            Err(_) => {
                // What was to be sent is lost, so nothing that follows would make sense.
                connection.sending = None;
                self.close(id);
                return None;
            }
        }
        if sending.sent < sending.bytes.len() {
            self.submit_send(id);
            return None;
        }
        let mut bytes = connection.sending.take().expect("looked at above").bytes;
        bytes.clear();
        Some(Event::Sent(id, bytes))
    }

    fn on_operation_over(&mut self, id: ConnectionId) -> Option<Event> {
        let connection = self.connections.get(id).expect("a slot outlives its operations");
        connection.operations -= 1;
        if connection.closing { self.free_if_over(id) } else { None }
    }

    fn free_if_over(&mut self, id: ConnectionId) -> Option<Event> {
        let connection = self.connections.get(id).expect("a slot outlives its operations");
        if connection.operations > 0 {
            return None;
        }
        drop(self.connections.remove(id));
        Some(Event::Closed(id))
    }

    fn arm(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.get(id) else { return };
        assert_eq!(connection.receiving, Receiving::Paused);
        connection.receiving = Receiving::Armed;
        connection.operations += 1;
        let socket = types::Fd(connection.socket.as_raw_fd());
        self.push(&opcode::RecvMulti::new(socket, GROUP).build(), Operation::Receive, id);
    }

    fn cancel_receive(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.get(id) else { return };
        connection.operations += 1;
        let target = user_data(Operation::Receive, id);
        self.push(&opcode::AsyncCancel::new(target).build(), Operation::Cancel, id);
    }

    fn submit_send(&mut self, id: ConnectionId) {
        let connection = self.connections.get(id).expect("the caller has looked it up");
        connection.operations += 1;
        let Connection { socket, sending, .. } = connection;
        let sending = sending.as_ref().expect("the caller has put it there");
        let rest = &sending.bytes[sending.sent..];
        // The kernel takes at most this much at once anyway; the rest follows.
        let len = u32::try_from(rest.len()).unwrap_or(1 << 30);
        let send = opcode::Send::new(types::Fd(socket.as_raw_fd()), rest.as_ptr(), len)
            .flags(libc::MSG_NOSIGNAL)
            .build();
        self.push(&send, Operation::Send, id);
    }

    fn arm_accept(&mut self) {
        let Some(listener) = &self.listener else { return };
        let accept = opcode::AcceptMulti::new(types::Fd(listener.as_raw_fd()))
            .flags(libc::SOCK_CLOEXEC)
            .build();
        self.accepting = true;
        self.push(&accept, Operation::Accept, NOBODY);
    }

    fn arm_doorbell(&mut self) {
        let bell: RawFd = self.doorbell.descriptor();
        let count: *mut u64 = &raw mut *self.doorbell_count;
        let read = opcode::Read::new(types::Fd(bell), count.cast(), 8).build();
        self.doorbell_armed = true;
        self.push(&read, Operation::Doorbell, NOBODY);
    }

    fn push(&mut self, entry: &squeue::Entry, operation: Operation, id: ConnectionId) {
        self.push_entry(&entry.clone().user_data(user_data(operation, id)));
    }

    #[expect(unsafe_code, reason = "the kernel is handed pointers")]
    fn push_entry(&mut self, entry: &squeue::Entry) {
        loop {
            // SAFETY: whatever the entry points to outlives its completion: sockets and bytes being
            // sent belong to a slot that is kept until then, the doorbell's word and descriptor to
            // the ring, and the ring is dropped (which ends all operations) before either. For what
            // the owner hands over, the owner has vouched.
            if unsafe { self.uring.submission().push(entry) }.is_ok() {
                return;
            }
            // Completions that nobody has taken can keep the kernel from taking submissions.
            self.completions.extend(self.uring.completion());
            self.enter.make_room(&mut self.uring);
        }
    }
}

impl Drop for DataRing {
    /// Ends all operations before the memory that they use is freed.
    fn drop(&mut self) {
        self.stop_listening();
        for id in self.connections.ids() {
            self.close(id);
        }
        for token in self.watched.keys().copied().collect::<Vec<_>>() {
            self.unwatch(token);
        }
        let bell = user_data(Operation::Doorbell, NOBODY);
        self.push(&opcode::AsyncCancel::new(bell).build(), Operation::Other, NOBODY);
        // Bounded: the kernel ends what is left when the ring is closed.
        for _ in 0..1_000 {
            let done = self.connections.ids().is_empty() && !self.accepting && !self.doorbell_armed;
            let is_quiet = self.foreign_count == 0 && self.watched.is_empty();
            if (done && is_quiet) || self.turn_over() {
                break;
            }
        }
    }
}

impl DataRing {
    /// One turn of the way down; whether it failed.
    fn turn_over(&mut self) -> bool {
        if self.enter.turn(&mut self.uring, Wait::AtMost(Duration::from_millis(1))).is_err() {
            return true;
        }
        self.completions.extend(self.uring.completion());
        while let Some(event) = self.next_event() {
            if let Event::Received(received) = event {
                self.recycle(received);
            }
        }
        false
    }
}

#[cfg(test)]
#[expect(unsafe_code, reason = "the tests hand the ring operations of their own")]
mod tests;
