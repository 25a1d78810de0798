//! The embedded API: a store without sockets.
//!
//! A call is a closure posted to the core that owns the key; its answer comes back through a
//! one-shot channel, so its future works under any executor. A write whose future is dropped may or
//! may not take effect.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use gridkv_cluster::replication::Level;
use gridkv_cluster::{ShardRange, Token, Version, WallTime};
use gridkv_storage::{LogStats, Stats};

use crate::Consistency;
use crate::batch::Batch;
use crate::blocking::Blocking;
use crate::core::Core;
use crate::core::job::{About, Access, Answer, Stamp, Tokens, once, repeatable, repeatable_about};
use crate::core::mailbox::Message;
use crate::core::shards::Shards;
use crate::error::Error;
use crate::node::Node;
use crate::shard::{Condition, Expiry, SetOptions, SetOutcome, Shard, Versioned};
use crate::snapshot::{self, SnapshotError, SnapshotInfo};

/// A way to an open engine. Clones are cheap; all of them, on all threads, are the same engine.
///
/// After [`Engine::shutdown`](crate::Engine::shutdown) every call fails with [`Error::Closed`].
#[derive(Clone)]
pub struct Handle {
    node: Arc<Node>,
    /// It serves a client's command, which is brought to its end while the node stops.
    outlasts_closing: bool,
    level: Level,
}

impl std::fmt::Debug for Handle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let cores = self.node.layout.core_count;
        f.debug_struct("Handle").field("cores", &cores).finish_non_exhaustive()
    }
}

impl Handle {
    pub(crate) fn new(node: &Arc<Node>) -> Self {
        Self { node: Arc::clone(node), outlasts_closing: false, level: Level::Quorum }
    }

    /// For the commands of clients: what was begun when the node is told to stop is not refused in
    /// the middle.
    pub(crate) fn of_command(node: &Arc<Node>) -> Self {
        Self { node: Arc::clone(node), outlasts_closing: true, level: Level::Quorum }
    }

    /// A handle whose calls wait for so many replicas, where keys have copies on other nodes. Calls
    /// that read, change and write are [`Consistency::Linearizable`] whatever the level.
    #[must_use]
    pub fn at(&self, consistency: Consistency) -> Self {
        self.clone().at_level(consistency)
    }

    pub(crate) fn at_level(mut self, level: Level) -> Self {
        self.level = level;
        self
    }

    pub(crate) fn level(&self) -> Level {
        self.level
    }

    /// The same calls for threads without an executor.
    #[must_use]
    pub fn blocking(&self) -> Blocking {
        Blocking::new(self.clone())
    }

    /// Several calls in one: one message a core instead of one a key.
    #[must_use]
    pub fn batch(&self) -> Batch {
        Batch::new(self.clone())
    }

    /// The value of `key`.
    ///
    /// # Errors
    ///
    /// [`Error::Closed`], [`Error::CoreStopped`], [`Error::Interrupted`]; with a store on disk also
    /// [`Error::Read`], and [`Error::NotDurable`] for a value whose write will not be durable.
    pub async fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Vec<u8>>, Error> {
        let key = key.as_ref().to_vec();
        self.on_owner(Access::Read, key, |shard, key| Ok(shard.get(key)?.map(<[u8]>::to_vec))).await
    }

    /// The value of `key` with its version, for a later compare-and-set.
    ///
    /// # Errors
    ///
    /// As [`Handle::get`].
    pub async fn get_versioned(&self, key: impl AsRef<[u8]>) -> Result<Option<Versioned>, Error> {
        let get = |shard: &mut Shard, key: &[u8]| shard.get_versioned(key);
        self.on_owner(Access::Read, key.as_ref().to_vec(), get).await
    }

    /// Gives `key` a value that does not expire.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfMemory`], [`Error::KeyTooLarge`], [`Error::ValueTooLarge`], and as
    /// [`Handle::get`]; with a store on disk also [`Error::DiskFull`], [`Error::LogFailed`] and
    /// [`Error::NotDurable`]. [`Error::outcome`] says whether the value may have been written.
    pub async fn set(&self, key: impl AsRef<[u8]>, value: impl Into<Vec<u8>>) -> Result<(), Error> {
        let value = value.into();
        let bytes = value.len();
        let set = move |shard: &mut Shard, key: &[u8]| shard.set(key, &value);
        self.with_owner((Access::Write, key.as_ref().to_vec(), bytes), set, None).await
    }

    /// Gives `key` a value if the options' condition holds, with the options' expiry. Checking and
    /// writing are one step.
    ///
    /// # Errors
    ///
    /// As [`Handle::set`].
    pub async fn set_with(
        &self,
        key: impl AsRef<[u8]>,
        value: impl Into<Vec<u8>>,
        options: SetOptions,
    ) -> Result<SetOutcome, Error> {
        let value = value.into();
        let bytes = value.len();
        let set = move |shard: &mut Shard, key: &[u8]| shard.set_with(key, &value, &options);
        let about = (Access::Write, key.as_ref().to_vec(), bytes);
        self.with_owner(about, set, Some(SetOutcome::stamp)).await
    }

    /// Writes `value` only if the key's value is still the one of `version`.
    ///
    /// # Errors
    ///
    /// As [`Handle::set`].
    pub async fn compare_and_set(
        &self,
        key: impl AsRef<[u8]>,
        version: Version,
        value: impl Into<Vec<u8>>,
    ) -> Result<SetOutcome, Error> {
        let condition = Condition::Version(version);
        self.set_with(
            key,
            value,
            SetOptions { condition, expiry: Expiry::Keep, ..SetOptions::default() },
        )
        .await
    }

    /// Deletes `key`; whether it had a value.
    ///
    /// # Errors
    ///
    /// As [`Handle::get`].
    pub async fn delete(&self, key: impl AsRef<[u8]>) -> Result<bool, Error> {
        let delete = |shard: &mut Shard, key: &[u8]| shard.delete(key);
        self.on_owner(Access::Write, key.as_ref().to_vec(), delete).await
    }

    /// Whether `key` has a value.
    ///
    /// # Errors
    ///
    /// As [`Handle::get`].
    pub async fn exists(&self, key: impl AsRef<[u8]>) -> Result<bool, Error> {
        let exists = |shard: &mut Shard, key: &[u8]| shard.exists(key);
        self.on_owner(Access::Read, key.as_ref().to_vec(), exists).await
    }

    /// Adds `delta` to the decimal integer under `key`; 0 if there is none.
    ///
    /// # Errors
    ///
    /// [`Error::NotAnInteger`], [`Error::Overflow`], and as [`Handle::set`].
    pub async fn increment(&self, key: impl AsRef<[u8]>, delta: i64) -> Result<i64, Error> {
        let add = move |shard: &mut Shard, key: &[u8]| shard.increment(key, delta);
        self.on_owner(Access::Write, key.as_ref().to_vec(), add).await
    }

    /// Sets or removes the expiry of `key`; whether it has a value.
    ///
    /// # Errors
    ///
    /// As [`Handle::set`].
    pub async fn expire(&self, key: impl AsRef<[u8]>, expiry: Expiry) -> Result<bool, Error> {
        let expire = move |shard: &mut Shard, key: &[u8]| shard.expire(key, expiry);
        self.on_owner(Access::Write, key.as_ref().to_vec(), expire).await
    }

    /// Time until `key` expires: `None` without a value, `Some(None)` for never.
    ///
    /// # Errors
    ///
    /// As [`Handle::get`].
    pub async fn time_to_live(
        &self,
        key: impl AsRef<[u8]>,
    ) -> Result<Option<Option<Duration>>, Error> {
        let left = |shard: &mut Shard, key: &[u8]| {
            let now = shard.now();
            let left = |at: Option<WallTime>| at.map(|at| at.saturating_since(now));
            Ok(shard.expires_at(key)?.map(left))
        };
        self.on_owner(Access::Read, key.as_ref().to_vec(), left).await
    }

    /// Runs `work` on the core that owns `key`, with the key's shard: any number of operations at
    /// the cost of one hop. While it runs, the core serves nobody else; a panic in it ends the
    /// core.
    ///
    /// It cannot be run again, so a value that is on disk only is read while the core waits: use it
    /// for what is in memory, and the single calls for the rest. What it returns is told when what
    /// it has written is as durable as the node's writes are. If that fails the error is
    /// [`Error::NotDurable`], whatever it has returned.
    ///
    /// # Errors
    ///
    /// As [`Handle::get`].
    pub async fn run_on<T: Send + 'static>(
        &self,
        key: impl AsRef<[u8]>,
        work: impl FnOnce(&mut Shard) -> T + Send + 'static,
    ) -> Result<T, Error> {
        if self.is_replicated() {
            return Err(Error::Replicated);
        }
        let token = self.token_of(key.as_ref());
        let core = self.node.layout.core_of(token);
        self.on_shards(core, move |shards| shards.of(token).reading_now(work)).await
    }

    /// Runs `work` on every core, once for each of its shards, all cores at the same time. Results
    /// are in the order of the shards. What [`Handle::run_on`] says of values on disk holds here too.
    ///
    /// # Errors
    ///
    /// As [`Handle::get`]; other cores may have run it all the same.
    pub async fn run_on_all<T: Send + 'static>(
        &self,
        work: impl Fn(&mut Shard) -> T + Clone + Send + 'static,
    ) -> Result<Vec<T>, Error> {
        if self.is_replicated() {
            return Err(Error::Replicated);
        }
        self.on_all_shards(work).await
    }

    /// As [`Handle::run_on_all`], for what concerns this node's own copies.
    pub(crate) async fn on_all_shards<T: Send + 'static>(
        &self,
        work: impl Fn(&mut Shard) -> T + Clone + Send + 'static,
    ) -> Result<Vec<T>, Error> {
        let core_count = self.node.layout.core_count;
        let mut answers = Vec::with_capacity(core_count);
        for core in 0..core_count {
            let work = work.clone();
            let each = move |shards: &mut Shards| {
                shards.iter_mut().map(|shard| shard.reading_now(&work)).collect::<Vec<_>>()
            };
            answers.push(self.start_on_shards(core, each).await?);
        }
        let mut results = Vec::with_capacity(usize::from(self.node.layout.shard_count));
        for answer in answers {
            results.extend(answer.await.map_err(|_| Error::Interrupted)??);
        }
        Ok(results)
    }

    /// Counters and sizes of all shards together.
    ///
    /// # Errors
    ///
    /// As [`Handle::get`].
    pub async fn stats(&self) -> Result<Stats, Error> {
        let mut total = Stats::default();
        for stats in self.on_all_shards(|shard| shard.stats()).await? {
            total.add(&stats);
        }
        Ok(total)
    }

    /// Counters and sizes of the logs of all shards together; `None` for stores without one.
    ///
    /// # Errors
    ///
    /// As [`Handle::get`].
    pub async fn log_stats(&self) -> Result<Option<LogStats>, Error> {
        let mut total = None;
        for stats in self.on_all_shards(|shard| shard.log_stats()).await?.into_iter().flatten() {
            total.get_or_insert_with(LogStats::default).add(&stats);
        }
        Ok(total)
    }

    /// Takes a snapshot while the store serves, named by the time unless it is given a name. It
    /// holds what was answered before, and shares its files with the store for as long as both keep
    /// them; `gridkv restore` makes a data directory of it. If the future is dropped the snapshot is
    /// taken all the same.
    ///
    /// # Errors
    ///
    /// [`SnapshotError`]; nothing of it is left.
    pub async fn snapshot(&self, name: Option<&str>) -> Result<SnapshotInfo, SnapshotError> {
        if self.is_refused() {
            return Err(Error::Closed.into());
        }
        snapshot::start(self, name)?.await.unwrap_or_else(|_| Err(Error::Interrupted.into()))
    }

    /// Removes all keys. Where a log has no room at the moment, it waits.
    ///
    /// # Errors
    ///
    /// As [`Handle::get`], [`Error::LogFailed`] and [`Error::NotDurable`]; other shards may have been
    /// cleared.
    pub async fn clear(&self) -> Result<(), Error> {
        if self.is_replicated() {
            return self.clear_cluster().await;
        }
        let mut answers = Vec::with_capacity(self.node.layout.core_count);
        for core in 0..self.node.layout.core_count {
            // One that has to wait is run again, and goes on where it was: what was written to a shard
            // after it was cleared stays.
            let mut cleared_count = 0;
            let clear = move |shards: &mut Shards| {
                for shard in shards.iter_mut().skip(cleared_count) {
                    shard.clear()?;
                    cleared_count += 1;
                }
                shards.iter_mut().for_each(Shard::hold_written);
                Ok(())
            };
            let (job, answer) = repeatable(Tokens::new(), clear);
            self.post(core, Message::Job(job)).await?;
            answers.push(answer);
        }
        for answer in answers {
            answer.await.map_err(|_| Error::Interrupted)??;
        }
        Ok(())
    }

    /// The number of shards; [`Handle::shard_of`] is below it.
    #[must_use]
    pub fn shard_count(&self) -> u16 {
        self.node.layout.shard_count
    }

    /// The shard that owns `key`. Keys of one shard can be used together in [`Handle::run_on`].
    #[must_use]
    pub fn shard_of(&self, key: impl AsRef<[u8]>) -> u16 {
        ShardRange::owner(self.token_of(key.as_ref()), self.node.layout.shard_count).0
    }

    /// The token of a key.
    pub(crate) fn token_of(&self, key: &[u8]) -> Token {
        self.node.token_keys.current().token(key)
    }

    pub(crate) fn node(&self) -> &Arc<Node> {
        &self.node
    }

    /// Runs `work` with the shard of `key`, on its core: again, if it has to wait for a disk.
    pub(crate) async fn on_owner<T: Send + 'static>(
        &self,
        access: Access,
        key: Vec<u8>,
        work: impl FnMut(&mut Shard, &[u8]) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        self.with_owner((access, key, 0), work, None).await
    }

    /// As [`Handle::on_owner`], for work that carries so many bytes besides the key.
    async fn with_owner<T: Send + 'static>(
        &self,
        (access, key, bytes): (Access, Vec<u8>, usize),
        mut work: impl FnMut(&mut Shard, &[u8]) -> Result<T, Error> + Send + 'static,
        stamp: Option<Stamp<T>>,
    ) -> Result<T, Error> {
        let token = self.token_of(&key);
        let about = About { access, key: key.clone(), level: self.level, bytes };
        let work = move |shards: &mut Shards| work(shards.of(token), &key);
        let (job, answer) = repeatable_about(about, Tokens::from_slice(&[token]), work, stamp);
        self.post(self.node.layout.core_of(token), Message::Job(job)).await?;
        answer.await.map_err(|_| Error::Interrupted)?
    }

    /// Runs `work` with the shards of a core: again, if it has to wait for a disk. It changes nothing before it fails
    /// with [`Error::Busy`], or knows what it has changed.
    pub(crate) async fn again_on<T: Send + 'static>(
        &self,
        core: usize,
        tokens: Tokens,
        work: impl FnMut(&mut Shards) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let (job, answer) = repeatable(tokens, work);
        self.post(core, Message::Job(job)).await?;
        answer.await.map_err(|_| Error::Interrupted)?
    }

    /// Runs `work` with the shards of a core, once. What it returns is told when what it has written
    /// is durable.
    pub(crate) async fn on_shards<T: Send + 'static>(
        &self,
        core: usize,
        work: impl FnOnce(&mut Shards) -> T + Send + 'static,
    ) -> Result<T, Error> {
        self.start_on_shards(core, work).await?.await.map_err(|_| Error::Interrupted)?
    }

    /// Posts `work` to a core; the receiver tells what came of it.
    async fn start_on_shards<T: Send + 'static>(
        &self,
        core: usize,
        work: impl FnOnce(&mut Shards) -> T + Send + 'static,
    ) -> Result<Answer<T>, Error> {
        let (job, answer) = once(work);
        self.post(core, Message::Job(job)).await?;
        Ok(answer)
    }

    /// Runs `work` on a core: it looks at what is not the shards', and writes nothing to them.
    pub(crate) async fn on_core<T: Send + 'static>(
        &self,
        core: usize,
        work: impl FnOnce(&mut Core) -> T + Send + 'static,
    ) -> Result<T, Error> {
        self.start_on_core(core, work).await?.await.map_err(|_| Error::Interrupted)
    }

    /// Posts `work` to a core; the receiver tells what came of it.
    async fn start_on_core<T: Send + 'static>(
        &self,
        core: usize,
        work: impl FnOnce(&mut Core) -> T + Send + 'static,
    ) -> Result<oneshot::AsyncReceiver<T>, Error> {
        let (sender, receiver) = oneshot::async_channel();
        let call = move |core: &mut Core| {
            // Nobody may be waiting any more.
            let _ = sender.send(work(core));
        };
        self.post(core, Message::Call(Box::new(call))).await?;
        Ok(receiver)
    }

    fn is_refused(&self) -> bool {
        !self.outlasts_closing && self.node.closed.load(Ordering::Acquire)
    }

    /// Posts a message to a core.
    pub(crate) async fn post(&self, core: usize, message: Message) -> Result<(), Error> {
        if self.is_refused() {
            return Err(Error::Closed);
        }
        self.node.ports[core].post(message).await.map_err(|error| {
            if self.node.closed.load(Ordering::Acquire) {
                error
            } else {
                Error::CoreStopped { core }
            }
        })
    }

    /// Runs `work` on all cores at the same time.
    pub(crate) async fn on_all_cores<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Core) -> T + Clone + Send + 'static,
    ) -> Result<Vec<T>, Error> {
        let core_count = self.node.layout.core_count;
        let mut answers = Vec::with_capacity(core_count);
        for core in 0..core_count {
            answers.push(self.start_on_core(core, work.clone()).await?);
        }
        let mut results = Vec::with_capacity(core_count);
        for answer in answers {
            results.push(answer.await.map_err(|_| Error::Interrupted)?);
        }
        Ok(results)
    }
}
