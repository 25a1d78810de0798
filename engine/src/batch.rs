//! Several calls of the embedded API in one.

use std::cell::OnceCell;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_lite::future::block_on;
use gridkv_cluster::replication::Level;
use gridkv_cluster::{Token, Version};

use crate::cluster::machine::Incoming;
use crate::core::held::Holds;
use crate::core::job::{Access, Job};
use crate::core::mailbox::Message;
use crate::core::parking::Parked;
use crate::core::shards::Shards;
use crate::core::{Core, World};
use crate::error::Error;
use crate::handle::Handle;
use crate::shard::{SetOptions, SetOutcome, Shard};

enum Operation {
    Get,
    Set(Vec<u8>),
    SetWith(Vec<u8>, SetOptions),
    Delete,
    Increment(i64),
}

/// The result of one operation of a [`Batch`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BatchResult {
    /// Of [`Batch::get`].
    Value(Option<Vec<u8>>),
    /// Of [`Batch::set`].
    Done,
    /// Of [`Batch::set_with`].
    Set(SetOutcome),
    /// Of [`Batch::delete`]: whether the key had a value.
    Deleted(bool),
    /// Of [`Batch::increment`]: the sum.
    Sum(i64),
}

struct Item {
    index: usize,
    token: Token,
    key: Vec<u8>,
    operation: Operation,
}

/// Operations to be run together: one message a core, and the records of each core's keys fetched
/// into the processor's cache together. Each operation is atomic on its own, the batch is not;
/// operations on one key run in the order in which they were added.
pub struct Batch {
    handle: Handle,
    cores: Vec<Vec<Item>>,
    count: usize,
}

impl std::fmt::Debug for Batch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Batch").field("count", &self.count).finish_non_exhaustive()
    }
}

impl Batch {
    pub(crate) fn new(handle: Handle) -> Self {
        let cores = (0..handle.node().layout.core_count).map(|_| Vec::new()).collect();
        Self { handle, cores, count: 0 }
    }

    /// Reads a key.
    #[must_use]
    pub fn get(self, key: impl Into<Vec<u8>>) -> Self {
        self.add(key.into(), Operation::Get)
    }

    /// Gives a key a value that does not expire.
    #[must_use]
    pub fn set(self, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) -> Self {
        self.add(key.into(), Operation::Set(value.into()))
    }

    /// Gives a key a value if the options' condition holds.
    #[must_use]
    pub fn set_with(
        self,
        key: impl Into<Vec<u8>>,
        value: impl Into<Vec<u8>>,
        options: SetOptions,
    ) -> Self {
        self.add(key.into(), Operation::SetWith(value.into(), options))
    }

    /// Deletes a key.
    #[must_use]
    pub fn delete(self, key: impl Into<Vec<u8>>) -> Self {
        self.add(key.into(), Operation::Delete)
    }

    /// Adds to the decimal integer under a key.
    #[must_use]
    pub fn increment(self, key: impl Into<Vec<u8>>, delta: i64) -> Self {
        self.add(key.into(), Operation::Increment(delta))
    }

    /// How many operations were added.
    #[must_use]
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether none was added.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Runs the operations. Their results are in the order in which they were added.
    pub async fn run(self) -> Vec<Result<BatchResult, Error>> {
        let mut results: Vec<Result<BatchResult, Error>> = vec![Err(Error::Closed); self.count];
        let mut answers = Vec::new();
        for (core, items) in self.cores.into_iter().enumerate().filter(|(_, it)| !it.is_empty()) {
            let indexes: Vec<usize> = items.iter().map(|item| item.index).collect();
            let (answer, receiver) = oneshot::async_channel();
            let level = self.handle.level();
            let work = move |core: &mut Core| run_items(core, items, level, answer);
            let call = Message::Items(Box::new(work));
            match self.handle.post(core, call).await {
                Ok(()) => answers.push((indexes, receiver)),
                Err(error) => fail(&mut results, &indexes, &error),
            }
        }
        for (indexes, answer) in answers {
            match answer.await {
                Ok(done) => {
                    for (index, result) in indexes.into_iter().zip(done) {
                        results[index] = result;
                    }
                }
                Err(_) => fail(&mut results, &indexes, &Error::Interrupted),
            }
        }
        results
    }

    /// As [`Batch::run`], blocking the calling thread.
    #[must_use]
    pub fn run_blocking(self) -> Vec<Result<BatchResult, Error>> {
        block_on(self.run())
    }

    fn add(mut self, key: Vec<u8>, operation: Operation) -> Self {
        let token = self.handle.token_of(&key);
        let core = self.handle.node().layout.core_of(token);
        self.cores[core].push(Item { index: self.count, token, key, operation });
        self.count += 1;
        self
    }
}

fn fail(results: &mut [Result<BatchResult, Error>], indexes: &[usize], error: &Error) {
    for index in indexes {
        results[*index] = Err(error.clone());
    }
}

type ItemResult = Result<BatchResult, Error>;

/// The results of one core's items, while some are still to come.
#[derive(Default)]
struct Collector {
    results: Vec<Option<ItemResult>>,
    left: usize,
    answer: Option<oneshot::Sender<Vec<ItemResult>>>,
}

impl Collector {
    /// Takes in one result, and answers with the last.
    fn take(&mut self, slot: usize, result: ItemResult) {
        assert!(self.results[slot].is_none(), "an item has one result");
        self.results[slot] = Some(result);
        self.left -= 1;
        if self.left == 0 {
            let answer = self.answer.take().expect("a batch is answered once");
            send(answer, std::mem::take(&mut self.results));
        }
    }
}

fn send(answer: oneshot::Sender<Vec<ItemResult>>, results: Vec<Option<ItemResult>>) {
    let results = results.into_iter().map(|it| it.expect("none is left")).collect();
    // Nobody may be waiting any more.
    let _ = answer.send(results);
}

/// Locked by one core's thread only: a batch has one for each core.
type Shared = Arc<Mutex<Collector>>;

fn lock(shared: &Shared) -> MutexGuard<'_, Collector> {
    // A panic ends the core, and with it whoever would lock it again.
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An item that has to wait: to be run, or to be durable.
struct Late {
    item: Item,
    slot: usize,
    result: Option<ItemResult>,
    level: Level,
    collector: Arc<Mutex<Collector>>,
}

impl Job for Late {
    fn access(&self) -> Access {
        match self.item.operation {
            Operation::Get => Access::Read,
            Operation::Set(_) | Operation::SetWith(..) | Operation::Increment(_) => Access::Write,
            Operation::Delete => Access::Write,
        }
    }

    fn key(&self) -> &[u8] {
        &self.item.key
    }

    fn memory_bytes(&self) -> usize {
        let value_bytes = match &self.item.operation {
            Operation::Set(value) | Operation::SetWith(value, _) => value.len(),
            Operation::Get | Operation::Delete | Operation::Increment(_) => 0,
        };
        size_of::<Self>() + self.item.key.len() + value_bytes
    }

    fn level(&self) -> Level {
        self.level
    }

    fn tokens(&self) -> &[Token] {
        std::slice::from_ref(&self.item.token)
    }

    fn can_wait(&self) -> bool {
        true
    }

    fn run(&mut self, shards: &mut Shards) {
        self.result = Some(run_item(shards.of(self.item.token), &self.item));
    }

    fn told(&mut self, version: Version) {
        if let Some(Ok(BatchResult::Set(outcome))) = &mut self.result {
            outcome.stamp(version);
        }
    }

    fn finish(self: Box<Self>, end: Result<(), Error>) {
        let Self { slot, result, collector, .. } = *self;
        let result = end.and_then(|()| result.expect("it has run"));
        lock(&collector).take(slot, result);
    }
}

/// Runs the items of one core. Those that have to wait become jobs of their own.
fn run_items(
    core: &mut Core,
    items: Vec<Item>,
    level: Level,
    answer: oneshot::Sender<Vec<ItemResult>>,
) {
    const CHUNK: usize = 16;
    let shared = OnceCell::new();
    let mut results = Vec::with_capacity(items.len());
    let mut items = items.into_iter().peekable();
    while items.peek().is_some() {
        let chunk: Vec<Item> = items.by_ref().take(CHUNK).collect();
        let tokens: Vec<Token> = chunk.iter().map(|item| item.token).collect();
        core.world.shards.prefetch(&tokens);
        for item in chunk {
            let slot = results.len();
            results.push(start_item(&mut core.world, item, (slot, level), &shared));
        }
    }
    match shared.into_inner() {
        None => send(answer, results),
        Some(shared) => {
            // None of those that wait can have come to its end meanwhile.
            let left = results.iter().filter(|result| result.is_none()).count();
            *lock(&shared) = Collector { results, left, answer: Some(answer) };
        }
    }
}

/// Runs one item; `None` when its result is still to come.
fn start_item(
    world: &mut World,
    item: Item,
    (slot, level): (usize, Level),
    shared: &OnceCell<Shared>,
) -> Option<ItemResult> {
    let late = |item, result| {
        let collector = Arc::clone(shared.get_or_init(Shared::default));
        Box::new(Late { item, slot, result, level, collector })
    };
    let token = item.token;
    if world.is_replicated() {
        world.ask_cluster(Incoming::job(late(item, None)));
        return None;
    }
    if world.parking.holds_up(token) {
        world.park(token, Parked::Job(late(item, None)));
        return None;
    }
    let shard = world.shards.of(token);
    let result = run_item(shard, &item);
    if result == Err(Error::Busy) {
        world.park(token, Parked::Job(late(item, None)));
        return None;
    }
    let Some(hold) = shard.take_hold() else { return Some(result) };
    world.held.job(late(item, Some(result)), Holds::from_slice(&[hold]));
    None
}

fn run_item(shard: &mut Shard, item: &Item) -> ItemResult {
    let key = &item.key[..];
    Ok(match &item.operation {
        Operation::Get => BatchResult::Value(shard.get(key)?.map(<[u8]>::to_vec)),
        Operation::Set(value) => {
            shard.set(key, value)?;
            BatchResult::Done
        }
        Operation::SetWith(value, options) => {
            BatchResult::Set(shard.set_with(key, value, options)?)
        }
        Operation::Delete => BatchResult::Deleted(shard.delete(key)?),
        Operation::Increment(delta) => BatchResult::Sum(shard.increment(key, *delta)?),
    })
}
