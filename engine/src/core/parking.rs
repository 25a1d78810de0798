//! What waits for the disk before it can be run: commands whose value must be read first, and writes
//! for which the log has no room.
//!
//! ```text
//!   ticket -> token -> first (runs again when the ticket is ready), second, third ...
//! ```
//!
//! # Invariants
//!
//! - While something waits for a token, what else is asked about the token waits behind it: commands
//!   on a key run in the order in which they arrived, from whatever connection, core or thread.
//! - The first of a queue waits for exactly one ticket, and every ticket becomes ready: so every
//!   queue comes to its end.
//! - What is parked was copied and holds nothing of its connection.

use std::collections::{BTreeMap, VecDeque};

use gridkv_cluster::Token;
use gridkv_storage::Ticket;

use super::job::Job;
use super::request::Request;
use crate::cluster::replicas::Asked;

/// Beyond so much that is parked, nothing more is begun.
const PARKED_COUNT_MAX: usize = 16 << 10;

/// What a call has to wait for before it is run again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Wait {
    /// The shard whose store it is, by its number in the node.
    pub(crate) shard: u16,
    pub(crate) ticket: Ticket,
}

/// Something that can be run again.
pub(crate) enum Parked {
    Request(Request),
    Job(Box<dyn Job>),
    /// A coordinator's message to a replica.
    Message(Box<Asked>),
}

/// Who waits for a ticket.
pub(crate) enum Waiting {
    /// The queue of a token.
    Queue(Token),
    /// A job that is about no token.
    Job(Box<dyn Job>),
}

#[derive(Default)]
struct Queue {
    parked: VecDeque<Parked>,
    /// Tickets that stay, with what they have brought in, until the first of the queue has run.
    kept: Vec<Ticket>,
}

/// What is parked on one core.
#[derive(Default)]
pub(crate) struct Parking {
    queues: BTreeMap<Token, Queue>,
    waits: BTreeMap<Wait, Vec<Waiting>>,
    count: usize,
}

impl Parking {
    /// Whether nothing is parked.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.waits.is_empty()
    }

    /// Whether so much is parked that nothing more may be begun.
    pub(crate) fn is_full(&self) -> bool {
        self.count >= PARKED_COUNT_MAX
    }

    /// Whether something waits for `token`, so that what is asked about it waits behind.
    #[inline]
    pub(crate) fn holds_up(&self, token: Token) -> bool {
        !self.queues.is_empty() && self.queues.contains_key(&token)
    }

    /// Parks something behind what waits for `token` already.
    pub(crate) fn queue(&mut self, token: Token, parked: Parked) {
        let queue = self.queues.get_mut(&token).expect("something waits for the token");
        queue.parked.push_back(parked);
        self.count += 1;
    }

    /// Parks the first that waits for `token`.
    pub(crate) fn park(&mut self, token: Token, parked: Parked, wait: Wait) {
        let queue = Queue { parked: VecDeque::from([parked]), kept: Vec::new() };
        let before = self.queues.insert(token, queue);
        assert!(before.is_none(), "what is asked about a token queues");
        self.count += 1;
        self.wait(wait, Waiting::Queue(token));
    }

    /// Parks a job. One about several tokens holds up one of them.
    pub(crate) fn park_job(&mut self, job: Box<dyn Job>, wait: Wait) {
        match job.tokens().iter().find(|token| !self.holds_up(**token)).copied() {
            Some(token) => self.park(token, Parked::Job(job), wait),
            None => {
                self.count += 1;
                self.wait(wait, Waiting::Job(job));
            }
        }
    }

    fn wait(&mut self, wait: Wait, waiting: Waiting) {
        self.waits.entry(wait).or_default().push(waiting);
    }

    /// Who waits for a ticket that is ready.
    pub(crate) fn take(&mut self, wait: Wait) -> Vec<Waiting> {
        let waiting = self.waits.remove(&wait).unwrap_or_default();
        let jobs = waiting.iter().filter(|it| matches!(it, Waiting::Job(_))).count();
        self.count -= jobs;
        waiting
    }

    /// What is next in the queue of `token`. The queue stays until [`Parking::end`].
    pub(crate) fn next(&mut self, token: Token) -> Option<Parked> {
        let parked = self.queues.get_mut(&token)?.parked.pop_front();
        self.count -= usize::from(parked.is_some());
        parked
    }

    /// Puts the first back: it waits again.
    pub(crate) fn put_back(&mut self, token: Token, parked: Parked, wait: Wait) {
        let queue = self.queues.get_mut(&token).expect("its queue stays while it runs");
        queue.parked.push_front(parked);
        self.count += 1;
        self.wait(wait, Waiting::Queue(token));
    }

    /// Keeps what a ticket has brought in until the first of the queue has run. Whether it did: a
    /// queue that has come to its end needs it no more.
    pub(crate) fn keep(&mut self, token: Token, ticket: Ticket) -> bool {
        let Some(queue) = self.queues.get_mut(&token) else { return false };
        queue.kept.push(ticket);
        true
    }

    /// The tickets that were kept for the first of the queue, which has run.
    pub(crate) fn take_kept(&mut self, token: Token) -> Vec<Ticket> {
        self.queues.get_mut(&token).map(|queue| std::mem::take(&mut queue.kept)).unwrap_or_default()
    }

    /// Ends the queue of `token`, which is empty.
    pub(crate) fn end(&mut self, token: Token) {
        let queue = self.queues.remove(&token).expect("a queue ends once");
        assert!(queue.parked.is_empty());
        assert!(queue.kept.is_empty());
    }
}
