//! Requests for keys of other cores: collected while a core serves its clients, posted once a turn
//! in one batch a core, answered in one batch.
//!
//! # Invariants
//!
//! - The requests to one core are numbered in the order in which they are posted, and are begun in
//!   it. An answer carries its request's number, since one that waits for a disk leaves later; each
//!   request is answered once.
//! - What is under way to one core is bounded in number and bytes. Beyond that, connections with
//!   requests for it are not served until answers arrive.

use std::collections::VecDeque;

use crossbeam_channel::TrySendError;
use gridkv_cluster::Token;
use gridkv_cluster::replication::Level;
use gridkv_net::resp::Protocol;
use gridkv_net::ring::ConnectionId;
use smallvec::SmallVec;

use super::World;
use super::mailbox::Message;
use super::parking::Parked;
use super::request::{Asker, Request as Copied};
use crate::cluster::machine::Incoming;
use crate::server::commands::{Command, Part};

/// Most requests under way to one core.
const REQUEST_COUNT_MAX: usize = 16 << 10;
/// Most bytes of requests under way to one core.
const REQUEST_BYTES_MAX: usize = 32 << 20;

/// A batch holds so many requests, and begins none beyond so many bytes: a core serves whole batches,
/// and has other things to do.
const BATCH_COUNT_MAX: usize = 512;
const BATCH_BYTES_MAX: usize = 1 << 20;

/// What a request is about.
#[derive(Clone, Copy)]
pub(crate) struct About {
    pub(crate) command: &'static Command,
    pub(crate) protocol: Protocol,
    pub(crate) token: Token,
    pub(crate) level: Level,
}

struct Request {
    about: About,
    argument_count: u32,
}

/// A batch of requests.
pub(crate) struct Requests {
    from: usize,
    /// The number of the first.
    first_id: u64,
    requests: Vec<Request>,
    /// Lengths of all arguments, in order.
    lengths: Vec<u32>,
    /// The arguments, one after the other.
    bytes: Vec<u8>,
}

/// A batch of answers, to as many requests.
pub(crate) struct Answers {
    from: usize,
    /// Each with the number of its request.
    parts: Vec<(u64, AnswerPart)>,
    bytes: Vec<u8>,
}

enum AnswerPart {
    /// So many bytes of the batch.
    Reply(u32),
    Count(bool),
    /// So many bytes of the batch are the text of an error.
    Failed(u32),
}

/// Who waits for an answer: a connection, and the place of the reply in its queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Waiter {
    pub(crate) connection: ConnectionId,
    pub(crate) sequence: u64,
}

/// The way to one other core.
struct Link {
    /// Batches that are full, and wait to be posted before the one that is filled.
    full: VecDeque<Requests>,
    requests: Requests,
    answers: Answers,
    /// Who waits for the requests from number `base` on, with their bytes; `None` for those that
    /// were answered before an earlier one.
    waiting: VecDeque<Option<(Waiter, u32)>>,
    base: u64,
    waiting_bytes: usize,
}

/// The ways to all other cores.
pub(crate) struct Links {
    own: usize,
    links: Vec<Link>,
    /// Bytes of all requests that were not answered.
    waiting_bytes: usize,
}

impl Links {
    pub(crate) fn new(own: usize, core_count: usize) -> Self {
        let link = |_| Link {
            full: VecDeque::new(),
            requests: Requests::empty(own),
            answers: Answers::empty(own),
            waiting: VecDeque::new(),
            base: 0,
            waiting_bytes: 0,
        };
        Self { own, links: (0..core_count).map(link).collect(), waiting_bytes: 0 }
    }

    /// Bytes of the requests that were not answered.
    #[inline]
    pub(crate) fn waiting_bytes(&self) -> usize {
        self.waiting_bytes
    }

    /// Whether a connection may go on asking that core. The own one has room.
    #[inline]
    pub(crate) fn has_room(&self, core: usize) -> bool {
        let link = &self.links[core];
        link.waiting.len() < REQUEST_COUNT_MAX && link.waiting_bytes < REQUEST_BYTES_MAX
    }

    /// Adds a request to the next batch for `core`.
    pub(crate) fn request(
        &mut self,
        core: usize,
        waiter: Waiter,
        about: About,
        arguments: &[&[u8]],
    ) {
        assert_ne!(core, self.own);
        let link = &mut self.links[core];
        if link.requests.is_full() {
            let full = std::mem::replace(&mut link.requests, Requests::empty(self.own));
            link.full.push_back(full);
        }
        if link.requests.requests.is_empty() {
            link.requests.first_id = link.base + link.waiting.len() as u64;
        }
        let mut request_bytes = 0;
        for argument in arguments {
            let len = u32::try_from(argument.len()).expect("an argument is below 2 GiB");
            link.requests.lengths.push(len);
            link.requests.bytes.extend_from_slice(argument);
            request_bytes += len;
        }
        let argument_count = u32::try_from(arguments.len()).expect("bounded by the parser");
        link.requests.requests.push(Request { about, argument_count });
        link.waiting.push_back(Some((waiter, request_bytes)));
        link.waiting_bytes += request_bytes as usize;
        self.waiting_bytes += request_bytes as usize;
    }

    /// Adds an answer to the next batch for `core`.
    pub(crate) fn answer(&mut self, core: usize, id: u64, part: Part, bytes: &[u8]) {
        let answers = &mut self.links[core].answers;
        answers.bytes.extend_from_slice(bytes);
        answers.add(id, part, bytes.len());
    }

    /// Whom the answers of a batch are for, with what they say.
    pub(crate) fn take_answers<'a>(&mut self, batch: &'a Answers) -> Vec<(Waiter, Part, &'a [u8])> {
        let link = &mut self.links[batch.from];
        let mut answers = Vec::with_capacity(batch.parts.len());
        let mut bytes = &batch.bytes[..];
        for (id, part) in &batch.parts {
            let index = usize::try_from(id - link.base).expect("requests are counted with usize");
            let (waiter, request_bytes) =
                link.waiting[index].take().expect("a request is answered once");
            link.waiting_bytes -= request_bytes as usize;
            self.waiting_bytes -= request_bytes as usize;
            while let Some(None) = link.waiting.front() {
                link.waiting.pop_front();
                link.base += 1;
            }
            let (part, len) = match *part {
                AnswerPart::Reply(len) => (Part::Reply, len),
                AnswerPart::Count(counted) => (Part::Count(counted), 0),
                AnswerPart::Failed(len) => (Part::Failed, len),
            };
            let (own, rest) = bytes.split_at(len as usize);
            bytes = rest;
            answers.push((waiter, part, own));
        }
        answers
    }

    /// Gives up what `core`, which has stopped, was asked.
    pub(crate) fn give_up(&mut self, core: usize) -> Vec<Waiter> {
        let link = &mut self.links[core];
        link.full.clear();
        link.requests = Requests::empty(self.own);
        link.answers = Answers::empty(self.own);
        self.waiting_bytes -= std::mem::take(&mut link.waiting_bytes);
        link.base += link.waiting.len() as u64;
        link.waiting.drain(..).flatten().map(|(waiter, _)| waiter).collect()
    }

    /// Posts the batches. Whether some core's mailbox was full, so that its batch still waits.
    pub(crate) fn post(
        &mut self,
        mut post: impl FnMut(usize, Message) -> Result<(), TrySendError<Message>>,
    ) -> bool {
        let mut is_behind = false;
        for (core, link) in self.links.iter_mut().enumerate() {
            while let Some(batch) = link.full.pop_front() {
                let refused = post(core, Message::Requests(batch));
                if let Some(Message::Requests(batch)) = still_full(refused) {
                    link.full.push_front(batch);
                    is_behind = true;
                    break;
                }
            }
            if link.full.is_empty() && !link.requests.requests.is_empty() {
                let batch = std::mem::replace(&mut link.requests, Requests::empty(self.own));
                let refused = post(core, Message::Requests(batch));
                if let Some(Message::Requests(batch)) = still_full(refused) {
                    link.requests = batch;
                    is_behind = true;
                }
            }
            if !link.answers.parts.is_empty() {
                let batch = std::mem::replace(&mut link.answers, Answers::empty(self.own));
                let refused = post(core, Message::Answers(batch));
                if let Some(Message::Answers(batch)) = still_full(refused) {
                    link.answers = batch;
                    is_behind = true;
                }
            }
        }
        is_behind
    }
}

/// The message, if its mailbox was full. To a core that has stopped nothing is owed: its end is
/// announced to all cores, which then give up what they asked it.
fn still_full(result: Result<(), TrySendError<Message>>) -> Option<Message> {
    match result {
        Err(TrySendError::Full(message)) => Some(message),
        Ok(()) | Err(TrySendError::Disconnected(_)) => None,
    }
}

impl Requests {
    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.requests.len()
    }

    /// Has `world` serve each request, in order, and prefetch what the next ones will touch.
    pub(crate) fn for_each<W>(
        &self,
        world: &mut W,
        prefetch: impl Fn(&mut W, &[Token]),
        serve: impl Fn(&mut W, Asker, About, &[&[u8]]),
    ) {
        let (mut bytes, mut lengths) = (&self.bytes[..], self.lengths.iter());
        let mut ids = self.first_id..;
        for requests in self.requests.chunks(16) {
            let tokens: SmallVec<[Token; 16]> = requests.iter().map(|it| it.about.token).collect();
            prefetch(world, &tokens);
            for (request, id) in requests.iter().zip(&mut ids) {
                let mut arguments: SmallVec<[&[u8]; 8]> = SmallVec::new();
                for len in lengths.by_ref().take(request.argument_count as usize) {
                    let (argument, rest) = bytes.split_at(*len as usize);
                    arguments.push(argument);
                    bytes = rest;
                }
                serve(world, Asker::Core { core: self.from, id }, request.about, &arguments);
            }
        }
    }

    fn is_full(&self) -> bool {
        self.requests.len() >= BATCH_COUNT_MAX || self.bytes.len() >= BATCH_BYTES_MAX
    }

    fn empty(from: usize) -> Self {
        Self { from, first_id: 0, requests: Vec::new(), lengths: Vec::new(), bytes: Vec::new() }
    }
}

impl Answers {
    fn empty(from: usize) -> Self {
        Self { from, parts: Vec::new(), bytes: Vec::new() }
    }

    /// Adds the answer whose `len` bytes were written last.
    fn add(&mut self, id: u64, part: Part, len: usize) {
        let len = u32::try_from(len).expect("a reply is below 4 GiB");
        let part = match part {
            Part::Reply => AnswerPart::Reply(len),
            Part::Count(counted) => AnswerPart::Count(counted),
            Part::Failed => AnswerPart::Failed(len),
            Part::Wait => unreachable!("what waits has no answer yet"),
        };
        self.parts.push((id, part));
    }
}

impl World {
    /// Serves another core's batch from this core's shards.
    pub(crate) fn serve(&mut self, batch: &Requests) {
        let prefetch = |world: &mut Self, tokens: &[Token]| world.shards.prefetch(tokens);
        batch.for_each(self, prefetch, Self::serve_one);
    }

    /// Runs one request of another core, or parks it; its answer is posted, or held.
    fn serve_one(&mut self, asker: Asker, about: About, arguments: &[&[u8]]) {
        let About { command, protocol, token, level } = about;
        let Asker::Core { core, id } = asker else { unreachable!("another core asks") };
        if self.is_replicated() {
            let copied = Copied::new(&self.waiting, asker, command, protocol, token, arguments);
            return self.ask_cluster(Incoming::request(copied, level));
        }
        let park = || {
            Parked::Request(Copied::new(&self.waiting, asker, command, protocol, token, arguments))
        };
        if self.parking.holds_up(token) {
            return self.parking.queue(token, park());
        }
        let answers = &mut self.links.links[core].answers;
        let before = answers.bytes.len();
        let shard = self.shards.of(token);
        let part = command.run_part(shard, token, arguments, &mut answers.bytes, protocol);
        if part == Part::Wait {
            return self.park(token, park());
        }
        match shard.take_hold() {
            None => answers.add(id, part, answers.bytes.len() - before),
            Some(hold) => {
                self.held.part(hold, asker, part, &answers.bytes[before..]);
                answers.bytes.truncate(before);
            }
        }
    }
}
