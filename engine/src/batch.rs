//! Several calls of the embedded API in one.

use futures_lite::future::block_on;
use gridkv_cluster::Token;

use crate::core::Core;
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
            match self.handle.start_on_core(core, |core| run_items(core, items)).await {
                Ok(answer) => answers.push((indexes, answer)),
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
        let token = Token::of(&key);
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

fn run_items(core: &mut Core, items: Vec<Item>) -> Vec<Result<BatchResult, Error>> {
    let shards = &mut core.world.shards;
    let mut results = Vec::with_capacity(items.len());
    let mut items = items.into_iter().peekable();
    while items.peek().is_some() {
        let chunk: Vec<Item> = items.by_ref().take(16).collect();
        let tokens: Vec<Token> = chunk.iter().map(|item| item.token).collect();
        shards.prefetch(&tokens);
        results.extend(chunk.into_iter().map(|item| run_item(shards.of(item.token), item)));
    }
    results
}

fn run_item(shard: &mut Shard, item: Item) -> Result<BatchResult, Error> {
    let key = &item.key[..];
    Ok(match item.operation {
        Operation::Get => BatchResult::Value(shard.get(key)?.map(<[u8]>::to_vec)),
        Operation::Set(value) => {
            shard.set(key, &value)?;
            BatchResult::Done
        }
        Operation::SetWith(value, options) => {
            BatchResult::Set(shard.set_with(key, &value, &options)?)
        }
        Operation::Delete => BatchResult::Deleted(shard.delete(key)?),
        Operation::Increment(delta) => BatchResult::Sum(shard.increment(key, delta)?),
    })
}
