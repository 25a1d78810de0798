//! What reaches a core from outside: calls of other threads, requests of other cores and their
//! answers, sockets.
//!
//! A mailbox is a bounded channel and a doorbell. A full mailbox pushes back: the API waits for
//! room, a core keeps its batch and stops reading the connections it came from.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence};

use crossbeam_channel::{Receiver, Sender, TrySendError};
use event_listener::Event;
use gridkv_net::ring::Doorbell;

use super::Core;
use super::forward::{Answers, Requests};
use super::job::Job;
use crate::cluster::Told;
use crate::error::Error;

/// How many messages a mailbox holds. A message between cores is a whole batch.
const MESSAGE_COUNT_MAX: usize = 1_024;

/// Work for a core, from whoever holds a handle.
pub(crate) type Call = Box<dyn FnOnce(&mut Core) + Send>;

/// What a core can find in its mailbox.
pub(crate) enum Message {
    /// Run this, and tell what it returns.
    Job(Box<dyn Job>),
    /// Run this.
    Call(Call),
    /// Run this, which is about keys.
    Items(Call),
    /// Another core's clients ask for keys of this one.
    Requests(Requests),
    /// Another core answers.
    Answers(Answers),
    /// Serve this client, accepted by another core.
    Adopt(OwnedFd, SocketAddr),
    /// Take over this connection of a peer's, who wants this shard.
    AdoptPeer(OwnedFd, SocketAddr, u16),
    /// What holds in the cluster.
    Told(Box<Told>),
    /// That core has stopped: what it was asked will not be answered.
    CoreStopped(usize),
    /// Stop: close the clients once their answers are out, then leave the loop.
    Stop,
}

/// Where others reach a core.
pub(crate) struct Port {
    sender: Sender<Message>,
    /// For throwing away what nobody will take out: a bounded channel keeps its messages, and with
    /// them those who wait for an answer, for as long as there is a sender.
    receiver: Receiver<Message>,
    bell: Arc<Doorbell>,
    /// Notified when a full mailbox has room again.
    room: Event,
    stopped: AtomicBool,
    drained: AtomicBool,
    closing: AtomicBool,
    client_count: AtomicUsize,
}

/// A core's own end.
pub(crate) struct Mailbox {
    pub(crate) receiver: Receiver<Message>,
}

impl Port {
    pub(crate) fn new(bell: Arc<Doorbell>) -> (Self, Mailbox) {
        let (sender, receiver) = crossbeam_channel::bounded(MESSAGE_COUNT_MAX);
        let port = Self {
            sender,
            receiver: receiver.clone(),
            bell,
            room: Event::new(),
            stopped: AtomicBool::new(false),
            drained: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            client_count: AtomicUsize::new(0),
        };
        (port, Mailbox { receiver })
    }

    pub(crate) fn bell(&self) -> &Arc<Doorbell> {
        &self.bell
    }

    /// Posts a message if there is room.
    ///
    /// # Errors
    ///
    /// The message comes back when the mailbox is full or its core has stopped.
    pub(crate) fn try_post(&self, message: Message) -> Result<(), TrySendError<Message>> {
        if self.is_stopped() {
            return Err(TrySendError::Disconnected(message));
        }
        self.sender.try_send(message)?;
        // Rings with a fence between the sending above and the looking below; see `set_stopped`.
        self.bell.ring();
        if self.is_stopped() {
            self.discard();
        }
        Ok(())
    }

    /// Posts a message, waiting for room.
    ///
    /// # Errors
    ///
    /// [`Error::Closed`] when the core has stopped.
    pub(crate) async fn post(&self, mut message: Message) -> Result<(), Error> {
        loop {
            match self.try_post(message) {
                Ok(()) => return Ok(()),
                Err(TrySendError::Disconnected(_)) => return Err(Error::Closed),
                Err(TrySendError::Full(back)) => message = back,
            }
            // Listen, then try again: room made in between is not missed.
            let room = self.room.listen();
            match self.try_post(message) {
                Ok(()) => return Ok(()),
                Err(TrySendError::Disconnected(_)) => return Err(Error::Closed),
                Err(TrySendError::Full(back)) => message = back,
            }
            room.await;
        }
    }

    /// The core tells those who wait that it has taken messages out.
    pub(crate) fn made_room(&self) {
        self.room.notify(usize::MAX);
    }

    /// Whether the core has left its loop.
    pub(crate) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }

    /// The core takes nothing out any more. From here on posts are refused; what was posted before
    /// is dropped, and its callers told.
    ///
    /// A message posted at the same time is dropped here or by who posted it: the core says that it
    /// has stopped, *then* empties the mailbox, the other posts, *then* looks whether it has.
    pub(crate) fn set_stopped(&self) {
        self.stopped.store(true, Ordering::Release);
        fence(Ordering::SeqCst);
        self.discard();
        self.made_room();
    }

    fn discard(&self) {
        while self.receiver.try_recv().is_ok() {}
    }

    /// Whether the core, told to stop, has given its clients their replies.
    pub(crate) fn is_drained(&self) -> bool {
        self.drained.load(Ordering::Acquire)
    }

    pub(crate) fn set_drained(&self) {
        self.drained.store(true, Ordering::Release);
    }

    /// Whether the core has left its loop, and brings what is under way to its end.
    pub(crate) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Acquire)
    }

    pub(crate) fn set_closing(&self) {
        self.closing.store(true, Ordering::Release);
    }

    /// How many clients the core serves.
    pub(crate) fn client_count(&self) -> usize {
        self.client_count.load(Ordering::Relaxed)
    }

    /// Counts a client in. Counted where the socket is handed over, so that a burst of connections
    /// is spread too.
    pub(crate) fn add_client(&self) {
        self.client_count.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn remove_client(&self) {
        self.client_count.fetch_sub(1, Ordering::Relaxed);
    }
}
