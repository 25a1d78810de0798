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
//! - Its bytes are counted for as long as it is parked: with nothing parked they are 0.

use std::collections::{BTreeMap, VecDeque};

use gridkv_cluster::Token;
use gridkv_storage::Ticket;

use super::account::Account;
use super::job::Job;
use super::request::Request;

/// Beyond so much that is parked, nothing more is begun, however small it is.
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
}

impl Parked {
    fn memory_bytes(&self) -> usize {
        match self {
            Self::Request(request) => request.memory_bytes(),
            Self::Job(job) => job.memory_bytes(),
        }
    }
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
pub(crate) struct Parking {
    queues: BTreeMap<Token, Queue>,
    waits: BTreeMap<Wait, Vec<Waiting>>,
    count: usize,
    /// Memory of all that is parked.
    bytes: usize,
    bytes_max: usize,
    /// What counts for itself is not counted in here.
    account: Account,
}

impl Parking {
    /// Nothing parked yet. Up to `bytes_max` bytes are parked before nothing more is begun; what is no
    /// client's request, which counts for itself, is added to `account`.
    pub(crate) fn new(bytes_max: usize, account: Account) -> Self {
        let (queues, waits) = (BTreeMap::new(), BTreeMap::new());
        Self { queues, waits, count: 0, bytes: 0, bytes_max, account }
    }

    /// Whether nothing is parked.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.waits.is_empty()
    }

    /// Whether so much is parked that nothing more may be begun. All of it waits for this core's own
    /// disks, so that it passes without mail.
    #[inline]
    pub(crate) fn is_full(&self) -> bool {
        self.count >= PARKED_COUNT_MAX || self.bytes >= self.bytes_max
    }

    /// Whether something waits for `token`, so that what is asked about it waits behind.
    #[inline]
    pub(crate) fn holds_up(&self, token: Token) -> bool {
        !self.queues.is_empty() && self.queues.contains_key(&token)
    }

    /// Parks something behind what waits for `token` already.
    pub(crate) fn queue(&mut self, token: Token, parked: Parked) {
        self.count_in(&parked);
        let queue = self.queues.get_mut(&token).expect("something waits for the token");
        queue.parked.push_back(parked);
    }

    /// Parks the first that waits for `token`.
    pub(crate) fn park(&mut self, token: Token, parked: Parked, wait: Wait) {
        self.count_in(&parked);
        let queue = Queue { parked: VecDeque::from([parked]), kept: Vec::new() };
        let before = self.queues.insert(token, queue);
        assert!(before.is_none(), "what is asked about a token queues");
        self.wait(wait, Waiting::Queue(token));
    }

    /// Parks a job. One about several tokens holds up one of them.
    pub(crate) fn park_job(&mut self, job: Box<dyn Job>, wait: Wait) {
        match job.tokens().iter().find(|token| !self.holds_up(**token)).copied() {
            Some(token) => self.park(token, Parked::Job(job), wait),
            None => {
                self.count_in_job(&*job);
                self.wait(wait, Waiting::Job(job));
            }
        }
    }

    fn count_in(&mut self, parked: &Parked) {
        if let Parked::Job(job) = parked {
            return self.count_in_job(&**job);
        }
        self.count += 1;
        self.bytes = self.bytes.saturating_add(parked.memory_bytes());
    }

    fn count_in_job(&mut self, job: &dyn Job) {
        self.count += 1;
        self.bytes = self.bytes.saturating_add(job.memory_bytes());
        self.account.add(job.memory_bytes());
    }

    fn count_out(&mut self, parked: &Parked) {
        if let Parked::Job(job) = parked {
            return self.count_out_job(&**job);
        }
        self.take_off(parked.memory_bytes());
    }

    fn count_out_job(&mut self, job: &dyn Job) {
        self.take_off(job.memory_bytes());
        self.account.subtract(job.memory_bytes());
    }

    fn take_off(&mut self, bytes: usize) {
        self.count -= 1;
        self.bytes = self.bytes.checked_sub(bytes).expect("what is taken out was parked");
        assert!(self.count > 0 || self.bytes == 0, "nothing that is parked has no bytes");
    }

    fn wait(&mut self, wait: Wait, waiting: Waiting) {
        self.waits.entry(wait).or_default().push(waiting);
    }

    /// Who waits for a ticket that is ready.
    pub(crate) fn take(&mut self, wait: Wait) -> Vec<Waiting> {
        let waiting = self.waits.remove(&wait).unwrap_or_default();
        for waiting in &waiting {
            if let Waiting::Job(job) = waiting {
                self.count_out_job(&**job);
            }
        }
        waiting
    }

    /// What is next in the queue of `token`. The queue stays until [`Parking::end`].
    pub(crate) fn next(&mut self, token: Token) -> Option<Parked> {
        let parked = self.queues.get_mut(&token)?.parked.pop_front()?;
        self.count_out(&parked);
        Some(parked)
    }

    /// Puts the first back: it waits again.
    pub(crate) fn put_back(&mut self, token: Token, parked: Parked, wait: Wait) {
        self.count_in(&parked);
        let queue = self.queues.get_mut(&token).expect("its queue stays while it runs");
        queue.parked.push_front(parked);
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
