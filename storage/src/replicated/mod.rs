//! A shard's store with the replica on it: what coordinators ask of a copy, and what that waits for.
//!
//! ```text
//!              ask                                 settle
//!   message ---------> replica on store -> held ----------> answer
//!               |          ^                ^ until the log is durable so far
//!               v  on_ready|
//!             waiting, by token, until the store is ready
//! ```
//!
//! A machine without I/O: it is told of messages, of tickets of its store that are ready and that the
//! store has had its turn; [`Replicated::poll_answer`] hands out what may leave. Nodes and the simulator
//! drive the same one. `S` says where an answer goes, which means nothing here.
//!
//! # Invariants
//!
//! - While a message waits for a token, what else is asked about the token waits behind it, so messages
//!   about a key are answered in the order in which they came.
//! - The first of a queue waits for exactly one ticket, and every ticket becomes ready: every queue comes
//!   to its end.
//! - An answer leaves when the log is durable as far as the answer tells. When the log has failed before,
//!   it never leaves: what it tells may be found when the log is read again, or may not, so neither is
//!   said.

mod store;
#[cfg(all(test, feature = "file"))]
mod tests;

use std::collections::{BTreeMap, VecDeque};

use gridkv_cluster::replication::{self, Busy, Context, Hold, Replica};
use gridkv_cluster::wire::message::{Ask, Reason, Reply, ReplyKind};
use gridkv_cluster::{HybridClock, Mutation, Token, Version, mutation};
use rkyv::util::AlignedVec;

use self::store::{Lack, View};
use crate::backend::{Durability, Error, LogPosition, ReadError, Storage, Ticket};

/// What a replica says to who has asked it.
#[derive(Debug)]
pub struct Answer<S> {
    /// Way back to the coordinator, as it was given to [`Replicated::ask`].
    pub source: S,
    /// What is said.
    pub reply: Reply,
    /// The record that it tells, archived.
    pub record: Option<AlignedVec>,
}

/// A message that waits.
struct Message<S> {
    source: S,
    ask: Ask,
    mutation: AlignedVec,
}

/// The messages that wait for a token.
struct Queue<S> {
    messages: VecDeque<Message<S>>,
    /// Tickets that stay, with what they have brought in, until the first message was answered: what
    /// waits again, for room in the log perhaps, still needs what was read.
    kept: Vec<Ticket>,
}

/// A store with its replica.
pub struct Replicated<S> {
    store: Box<dyn Storage>,
    replica: Replica,
    /// When a write counts as done, and how the store was opened.
    durability: Durability,
    store_durability: Durability,
    /// Where in the log the bound of the promises is.
    promise_at: LogPosition,
    queues: BTreeMap<Token, Queue<S>>,
    tickets: BTreeMap<Ticket, Token>,
    waiting_count: usize,
    waiting_bytes: usize,
    /// By what they wait for, then in the order in which they came.
    held: BTreeMap<(LogPosition, u64), Answer<S>>,
    /// How many answers were ever held.
    held_count: u64,
    answers: VecDeque<Answer<S>>,
}

impl<S> Replicated<S> {
    /// The replica on a store that was just opened, with the durability that it was opened with.
    #[must_use]
    pub fn new(store: Box<dyn Storage>, durability: Durability) -> Self {
        Self {
            replica: Replica::new(store.promised()),
            store,
            durability,
            store_durability: durability,
            promise_at: LogPosition::default(),
            queues: BTreeMap::new(),
            tickets: BTreeMap::new(),
            waiting_count: 0,
            waiting_bytes: 0,
            held: BTreeMap::new(),
            held_count: 0,
            answers: VecDeque::new(),
        }
    }

    /// The store.
    #[must_use]
    #[inline]
    pub fn store(&self) -> &dyn Storage {
        &*self.store
    }

    /// The store, for what is no coordinator's.
    #[inline]
    pub fn store_mut(&mut self) -> &mut dyn Storage {
        &mut *self.store
    }

    /// A write counts as done as this says, from the next message on.
    pub const fn set_durability(&mut self, durability: Durability) {
        self.durability = durability;
    }

    /// A coordinator asks. `mutation` is what came with the message, and `token` its key's.
    ///
    /// # Panics
    ///
    /// When an answer was not polled.
    pub fn ask(
        &mut self,
        clock: &mut HybridClock,
        context: &Context<'_>,
        source: S,
        token: Token,
        ask: Ask,
        mutation: &Mutation<'_>,
    ) {
        assert!(self.answers.is_empty(), "answers are handed on before the next message");
        if let Some(queue) = self.queues.get_mut(&token) {
            let message = Message::new(source, ask, mutation);
            self.waiting_count += 1;
            self.waiting_bytes += message.memory_bytes();
            return queue.messages.push_back(message);
        }
        match self.answer(clock, context, token, ask, mutation) {
            Ok((answer, until)) => self.hand_on(source, answer, until),
            Err(lack) => {
                let message = Message::new(source, ask, mutation);
                self.waiting_count += 1;
                self.waiting_bytes += message.memory_bytes();
                let queue = Queue { messages: VecDeque::from([message]), kept: Vec::new() };
                self.queues.insert(token, queue);
                self.wait(token, lack);
            }
        }
        self.assert_invariants();
    }

    /// A ticket of the store is ready. Whether a message has waited for it; else it is somebody else's.
    ///
    /// # Panics
    ///
    /// When an answer was not polled.
    pub fn on_ready(
        &mut self,
        clock: &mut HybridClock,
        context: &Context<'_>,
        ticket: Ticket,
        result: &Result<(), ReadError>,
    ) -> bool {
        assert!(self.answers.is_empty(), "answers are handed on before the next event");
        let Some(token) = self.tickets.remove(&ticket) else { return false };
        let mut queue = self.queues.remove(&token).expect("a message waits for the ticket");
        if result.is_err() {
            let message = self.next(&mut queue).expect("one waits");
            self.refuse(message);
            self.release_kept(&mut queue);
        }
        while let Some(message) = self.next(&mut queue) {
            let mutation = mutation::access(&message.mutation).expect("it was encoded here");
            match self.answer(clock, context, token, message.ask, &mutation) {
                Ok((answer, until)) => self.hand_on(message.source, answer, until),
                Err(lack) => {
                    self.waiting_count += 1;
                    self.waiting_bytes += message.memory_bytes();
                    queue.messages.push_front(message);
                    queue.kept.push(ticket);
                    self.queues.insert(token, queue);
                    self.wait(token, lack);
                    self.assert_invariants();
                    return true;
                }
            }
            self.release_kept(&mut queue);
        }
        self.store.release(ticket);
        self.assert_invariants();
        true
    }

    /// The store has had its turn: what is durable may leave.
    ///
    /// # Panics
    ///
    /// When an answer was not polled.
    pub fn settle(&mut self) {
        assert!(self.answers.is_empty(), "answers are handed on before the next event");
        if self.held.is_empty() {
            return;
        }
        let durable = self.store.durable();
        while let Some(entry) = self.held.first_entry()
            && entry.key().0 <= durable
        {
            self.answers.push_back(entry.remove());
        }
        if self.store.has_failed() {
            self.held.clear();
        }
    }

    /// The next answer that may leave.
    pub fn poll_answer(&mut self) -> Option<Answer<S>> {
        self.answers.pop_front()
    }

    /// Whether no message waits and no answer is held.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.queues.is_empty() && self.held.is_empty() && self.answers.is_empty()
    }

    /// Messages that wait.
    #[must_use]
    pub const fn waiting_count(&self) -> usize {
        self.waiting_count
    }

    /// Memory of the messages that wait, in bytes.
    #[must_use]
    pub const fn waiting_bytes(&self) -> usize {
        self.waiting_bytes
    }

    /// Answers that are held.
    #[must_use]
    pub fn held_count(&self) -> usize {
        self.held.len()
    }

    /// Promises that are kept by key.
    #[must_use]
    pub fn promise_count(&self) -> usize {
        self.replica.promise_count()
    }

    /// Whether the store holds neither values nor tombstones.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let stats = self.store.stats();
        stats.key_count == 0 && stats.tombstone_count == 0
    }

    /// The largest version that the store, or a promise of its, has ever used.
    #[must_use]
    pub fn resume_after(&self) -> Version {
        self.store.version_max().max(self.store.promised()).max(self.store.floor())
    }

    /// Removes everything up to `version`, for good.
    ///
    /// # Errors
    ///
    /// [`Error::Busy`] while the log has no room; nothing was removed, and the call is made again. Else
    /// as [`Storage::clear`].
    pub fn clear_through(&mut self, version: Version) -> Result<(), Error> {
        if self.store.floor() >= version {
            return Ok(());
        }
        self.store.clear(version)
    }

    /// What the replica says, with how far the log must be durable before it may be told.
    fn answer(
        &mut self,
        clock: &mut HybridClock,
        context: &Context<'_>,
        token: Token,
        ask: Ask,
        mutation: &Mutation<'_>,
    ) -> Result<(replication::Answer, Option<LogPosition>), Lack> {
        let mut lack = None;
        let mut view = View {
            store: &mut *self.store,
            now: context.wall,
            lack: &mut lack,
            promise_at: &mut self.promise_at,
        };
        match self.replica.handle(&mut view, clock, context, ask, (token, mutation)) {
            Ok(answer) => {
                let until = self.held_until(answer.hold, token, mutation.key);
                Ok((answer, until))
            }
            Err(Busy) => Err(lack.expect("a store that is busy says why")),
        }
    }

    /// What an answer waits for. With a durability that does not wait, nothing does.
    fn held_until(&self, hold: Hold, token: Token, key: &[u8]) -> Option<LogPosition> {
        if self.durability != Durability::Commit {
            return None;
        }
        let record = || self.store.unsettled(token, key);
        let position = match hold {
            Hold::Nothing => return None,
            Hold::Record => record()?,
            Hold::Promise => record().unwrap_or_default().max(self.promise_at),
            Hold::Appended => self.store.appended(),
        };
        (position > self.store.durable()).then_some(position)
    }

    fn hand_on(&mut self, source: S, answer: replication::Answer, until: Option<LogPosition>) {
        if until.is_some() && self.store_durability != Durability::Commit {
            // The store by itself would take its time.
            self.store.request_commit();
        }
        let replication::Answer { reply: Some(reply), record, .. } = answer else { return };
        let answer = Answer { source, reply, record };
        match until {
            None => self.answers.push_back(answer),
            Some(position) => {
                self.held_count += 1;
                self.held.insert((position, self.held_count), answer);
            }
        }
    }

    /// A message whose record cannot be read is refused.
    fn refuse(&mut self, message: Message<S>) {
        let Ask { request, epoch, .. } = message.ask;
        if request == 0 {
            return;
        }
        let kind = ReplyKind::Refused { epoch, reason: Reason::Failed };
        let reply = Reply { request, kind };
        self.answers.push_back(Answer { source: message.source, reply, record: None });
    }

    fn wait(&mut self, token: Token, lack: Lack) {
        let ticket = match lack {
            Lack::Ticket(ticket) => ticket,
            Lack::Record(token, key) => self.store.load(token, &key),
        };
        let before = self.tickets.insert(ticket, token);
        assert!(before.is_none(), "a ticket is given out once");
    }

    /// Takes out the first that waits.
    fn next(&mut self, queue: &mut Queue<S>) -> Option<Message<S>> {
        let message = queue.messages.pop_front()?;
        self.waiting_count -= 1;
        self.waiting_bytes -= message.memory_bytes();
        Some(message)
    }

    fn release_kept(&mut self, queue: &mut Queue<S>) {
        queue.kept.drain(..).for_each(|ticket| self.store.release(ticket));
    }

    fn assert_invariants(&self) {
        assert_eq!(self.queues.len(), self.tickets.len(), "the first of each queue has a ticket");
        assert!(self.waiting_count >= self.queues.len());
        assert_eq!(self.waiting_count == 0, self.waiting_bytes == 0);
        assert!(self.held.len() as u64 <= self.held_count);
    }
}

impl<S> Message<S> {
    fn new(source: S, ask: Ask, mutation: &Mutation<'_>) -> Self {
        Self { source, ask, mutation: mutation::encode(mutation) }
    }

    /// Its memory, in bytes.
    fn memory_bytes(&self) -> usize {
        size_of::<Self>() + self.mutation.len()
    }
}
