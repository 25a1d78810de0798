//! How a shard uses its store: what commands read and write, and what they then have to wait for.

use std::sync::atomic::Ordering;
use std::time::Duration;

use gridkv_cluster::{Instant, Mutation, NodeId, Timestamp, Token, Version, WallTime};
use gridkv_storage::{
    Applied, Durability, Entry, Eviction, LogPosition, Lookup, ReadError, Record, Step, Ticket,
};

use super::{KEY_BYTES_MAX, Key, SMALL_VALUE_BYTES, Shard, parse_integer};
use crate::core::held::{Hold, Standing};
use crate::core::parking::Wait;
use crate::error::Error;

/// What a call needs before it can be run.
#[derive(Debug)]
pub(crate) enum Lack {
    /// The record of this key, in memory.
    Record(Token, Vec<u8>),
    /// What the store waits for already.
    Ticket(Ticket),
}

/// What commands use: keys come with their tokens, which were needed to find the shard.
impl Shard {
    /// The record, counted as a use.
    #[inline]
    pub(crate) fn read(&mut self, key: Key<'_>) -> Result<Option<Record<'_>>, Error> {
        if self.stage.is_some() {
            return self.staged().expect("it was just looked at");
        }
        if self.has_log {
            self.prepare(key)?;
        }
        match self.replicated.store_mut().get(key.token, key.bytes, self.now) {
            Lookup::Found(record) => Ok(Some(record)),
            Lookup::Absent => Ok(None),
            Lookup::OnDisk => {
                self.lack = Some(Lack::of(key));
                Err(Error::Busy)
            }
        }
    }

    /// The record, without a trace.
    #[inline]
    pub(crate) fn look(&mut self, key: Key<'_>) -> Result<Option<Record<'_>>, Error> {
        if self.stage.is_some() {
            return self.staged().expect("it was just looked at");
        }
        if self.has_log {
            self.prepare(key)?;
        }
        match self.replicated.store().peek(key.token, key.bytes, self.now) {
            Lookup::Found(record) => Ok(Some(record)),
            Lookup::Absent => Ok(None),
            Lookup::OnDisk => {
                self.lack = Some(Lack::of(key));
                Err(Error::Busy)
            }
        }
    }

    /// Whether there is a value, counted as a use. The value itself may stay on disk.
    pub(crate) fn uses(&mut self, key: Key<'_>) -> Result<bool, Error> {
        if let Some(staged) = self.staged() {
            return staged.map(|record| record.is_some());
        }
        if self.has_log {
            self.hold_for(key);
        }
        Ok(self.replicated.store_mut().get(key.token, key.bytes, self.now) != Lookup::Absent)
    }

    /// Whether there is a value, without a trace. The value itself may stay on disk.
    #[inline]
    pub(crate) fn has(&mut self, key: Key<'_>) -> Result<bool, Error> {
        if let Some(staged) = self.staged() {
            return staged.map(|record| record.is_some());
        }
        if self.has_log {
            self.hold_for(key);
        }
        Ok(self.replicated.store().peek(key.token, key.bytes, self.now) != Lookup::Absent)
    }

    /// Writes a value; whether it replaced one. An expiry that has passed is the caller's to check.
    #[inline]
    pub(crate) fn write(
        &mut self,
        key: Key<'_>,
        value: &[u8],
        expires_at: Option<WallTime>,
    ) -> Result<bool, Error> {
        if value.len() > SMALL_VALUE_BYTES {
            self.longest_value.fetch_max(value.len(), Ordering::Relaxed);
        }
        if key.bytes.len() > KEY_BYTES_MAX {
            return Err(Error::KeyTooLarge { bytes: key.bytes.len(), max_bytes: KEY_BYTES_MAX });
        }
        if value.len() > self.value_bytes_max {
            let max_bytes = self.value_bytes_max;
            return Err(Error::ValueTooLarge { bytes: value.len(), max_bytes });
        }
        self.apply(key, Some(value), expires_at)
    }

    /// Deletes; whether there was a value. A key without one costs no mutation.
    #[inline]
    pub(crate) fn remove(&mut self, key: Key<'_>) -> Result<bool, Error> {
        if !self.has(key)? {
            return Ok(false);
        }
        self.apply(key, None, None)
    }

    /// Deletes, if the value is still the one of `version`.
    pub(crate) fn remove_version(&mut self, key: Key<'_>, version: Version) -> Result<(), Error> {
        if self.look(key)?.is_some_and(|record| record.version == version) {
            self.remove(key)?;
        }
        Ok(())
    }

    /// Sets or removes the expiry, by writing the value again; whether there was one. A time that
    /// has passed deletes.
    pub(crate) fn set_expiry(
        &mut self,
        key: Key<'_>,
        expires_at: Option<WallTime>,
    ) -> Result<bool, Error> {
        if expires_at.is_some_and(|time| time <= self.now) {
            return self.remove(key);
        }
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.clear();
        let found = self.look(key).map(|found| {
            let value = found.map(|record| record.value);
            scratch.extend_from_slice(value.unwrap_or_default());
            value.is_some()
        });
        let result = match found {
            Ok(true) => self.write(key, &scratch, expires_at),
            other => other,
        };
        self.keep_scratch(scratch);
        result
    }

    /// Rewrites a value in the shard's scratch buffer, keeping its expiry. `change` sees the value,
    /// empty if there is none, and says whether to write it.
    pub(crate) fn rewrite<T, E: From<Error>>(
        &mut self,
        key: Key<'_>,
        change: impl FnOnce(&mut Vec<u8>, bool) -> Result<(bool, T), E>,
    ) -> Result<T, E> {
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.clear();
        let result = self.rewrite_in(&mut scratch, key, change);
        self.keep_scratch(scratch);
        result
    }

    fn rewrite_in<T, E: From<Error>>(
        &mut self,
        scratch: &mut Vec<u8>,
        key: Key<'_>,
        change: impl FnOnce(&mut Vec<u8>, bool) -> Result<(bool, T), E>,
    ) -> Result<T, E> {
        let current = self.read(key)?;
        let expires_at = current.and_then(|record| record.expires_at);
        scratch.extend_from_slice(current.map(|record| record.value).unwrap_or_default());
        let (must_write, result) = change(scratch, current.is_some())?;
        if must_write {
            self.write(key, scratch, expires_at)?;
        }
        Ok(result)
    }

    /// Adds to a decimal integer.
    pub(crate) fn add(&mut self, key: Key<'_>, delta: i64) -> Result<i64, Error> {
        self.rewrite(key, |value, found| {
            let current = if found { parse_integer(value).ok_or(Error::NotAnInteger)? } else { 0 };
            let sum = current.checked_add(delta).ok_or(Error::Overflow)?;
            value.clear();
            value.extend_from_slice(itoa::Buffer::new().format(sum).as_bytes());
            Ok((true, sum))
        })
    }

    fn apply(
        &mut self,
        key: Key<'_>,
        value: Option<&[u8]>,
        expires_at: Option<WallTime>,
    ) -> Result<bool, Error> {
        if let Some(replaced) = self.write_staged(key.bytes, value, expires_at) {
            return Ok(replaced);
        }
        let version = self.clock.tick(self.now);
        let mutation = Mutation { key: key.bytes, value, version, expires_at };
        match self.replicated.store_mut().apply(key.token, &mutation, self.now) {
            Ok(Applied::Won { replaced }) => {
                if self.has_log {
                    self.note_write();
                }
                Ok(replaced)
            }
            Ok(Applied::Superseded) => panic!("a new version wins over all that went before"),
            Err(refused) => Err(self.refused(refused)),
        }
    }

    /// What callers are told when the store refuses.
    pub(super) fn refused(&mut self, refused: gridkv_storage::Error) -> Error {
        use gridkv_storage::Error as Refused;
        match refused {
            Refused::Busy(ticket) => {
                self.lack = Some(Lack::Ticket(ticket));
                Error::Busy
            }
            Refused::DiskFull => Error::DiskFull,
            Refused::LogFailed => Error::LogFailed,
            Refused::OutOfMemory { used_bytes, max_bytes, .. } => {
                Error::OutOfMemory { used_bytes, max_bytes }
            }
            Refused::TooLarge { value_bytes, .. } => {
                Error::ValueTooLarge { bytes: value_bytes, max_bytes: self.value_bytes_max }
            }
        }
    }

    /// The version of the latest write.
    pub(crate) fn latest(&self) -> Version {
        if let Some(version) = self.staged_version() {
            return version;
        }
        Version { timestamp: self.clock.latest(), node: NodeId(0) }
    }

    /// Keeps the buffer for the next time, unless it has grown large.
    fn keep_scratch(&mut self, scratch: Vec<u8>) {
        if scratch.capacity() <= 64 << 10 {
            self.scratch = scratch;
        }
    }

    pub(crate) fn set_now(&mut self, now: WallTime) {
        self.now = now;
    }

    pub(crate) fn prefetch(&self, tokens: &[Token]) {
        self.replicated.store().prefetch(tokens);
    }

    /// Collects what had expired by `until`.
    pub(crate) fn collect_expired(&mut self, budget: usize, until: WallTime) -> usize {
        self.replicated.store_mut().collect_expired(budget, until)
    }

    pub(crate) fn walk(
        &mut self,
        from: Token,
        budget: usize,
        visit: &mut dyn FnMut(Entry<'_>),
    ) -> Result<Option<Token>, Error> {
        self.hold_for_all();
        match self.replicated.store_mut().walk(from, budget, self.now, visit) {
            Step::Done(next) => Ok(next),
            Step::Loading(ticket) => {
                self.lack = Some(Lack::Ticket(ticket));
                Err(Error::Busy)
            }
        }
    }

    pub(crate) fn random_key(&mut self) -> Result<Option<Vec<u8>>, Error> {
        self.hold_for_all();
        match self.replicated.store_mut().random(self.now) {
            Step::Done(entry) => Ok(entry.map(|entry| entry.key.to_vec())),
            Step::Loading(ticket) => {
                self.lack = Some(Lack::Ticket(ticket));
                Err(Error::Busy)
            }
        }
    }

    pub(crate) fn idle_time(&self, key: Key<'_>) -> Option<Duration> {
        self.replicated.store().idle_time(key.token, key.bytes, self.now)
    }

    pub(crate) fn frequency(&self, key: Key<'_>) -> Option<u8> {
        self.replicated.store().frequency(key.token)
    }

    pub(crate) fn record_bytes(&self, key: Key<'_>) -> Option<u64> {
        self.replicated.store().record_bytes(key.token, key.bytes, self.now)
    }

    pub(crate) fn value_bytes_max(&self) -> usize {
        self.value_bytes_max
    }

    pub(crate) fn clear(&mut self) -> Result<(), Error> {
        let version = self.clock.tick(self.now);
        if let Err(error) = self.replicated.store_mut().clear(version) {
            return Err(self.refused(error));
        }
        if self.has_log {
            self.note_write();
        }
        Ok(())
    }

    pub(crate) fn reset_stats(&mut self) {
        self.replicated.store_mut().reset_stats();
    }

    pub(crate) fn set_memory_limit(&mut self, node_bytes_max: Option<u64>, eviction: Eviction) {
        let shard_bytes_max = node_bytes_max.map(|bytes| bytes / u64::from(self.count));
        self.replicated.store_mut().set_memory_limit(shard_bytes_max, eviction);
    }
}

/// What calls wait for.
impl Shard {
    /// Before a record is shown: its mutation may have to become durable first; and whoever cannot
    /// be run again has it read at once.
    fn prepare(&mut self, key: Key<'_>) -> Result<(), Error> {
        self.hold_for(key);
        let must_read = self.reads_now
            && self.replicated.store().peek(key.token, key.bytes, self.now) == Lookup::OnDisk;
        if must_read {
            let brought_in = self.replicated.store_mut().load_now(key.token, key.bytes);
            self.brought_in.push(brought_in.map_err(Error::from)?);
        }
        Ok(())
    }

    /// Nobody may see what a crash could take back.
    fn hold_for(&mut self, key: Key<'_>) {
        if self.durability == Durability::Commit
            && self.durable < self.appended
            && let Some(position) = self.replicated.store().unsettled(key.token, key.bytes)
        {
            self.hold_until(position);
        }
    }

    /// As [`Shard::hold_for`], for whatever keys.
    fn hold_for_all(&mut self) {
        if self.durability == Durability::Commit {
            self.hold_until(self.appended);
        }
    }

    pub(super) fn note_write(&mut self) {
        self.appended = self.replicated.store().appended();
        if self.write_durability == Durability::Commit {
            if self.store_durability != Durability::Commit {
                self.replicated.store_mut().request_commit();
            }
            self.hold_until(self.appended);
        }
    }

    /// What this call has written must be durable before its answer leaves, whichever of its runs has
    /// written it.
    pub(crate) fn hold_written(&mut self) {
        if self.has_log {
            self.note_write();
        }
    }

    fn hold_until(&mut self, position: LogPosition) {
        if position > self.durable {
            self.hold = self.hold.max(Some(position));
        }
    }

    /// What must be durable before the answer to the call that has just run may leave.
    #[inline]
    pub(crate) fn take_hold(&mut self) -> Option<Hold> {
        self.hold.take().map(|position| Hold { shard: self.index, position })
    }

    /// What the call that has just run waits for. It has changed nothing, and is to be run again.
    pub(crate) fn take_wait(&mut self) -> Option<Wait> {
        let lack = self.lack.take()?;
        // It has shown nothing either.
        self.hold = None;
        let ticket = match lack {
            Lack::Record(token, key) => self.replicated.store_mut().load(token, &key),
            Lack::Ticket(ticket) => ticket,
        };
        Some(Wait { shard: self.index, ticket })
    }

    /// Forgets what a call that is not run again was waiting for.
    pub(crate) fn forget_wait(&mut self) {
        self.lack = None;
    }

    /// Runs what cannot be run again: values on disk are read at once, while the core waits.
    pub(crate) fn reading_now<T>(&mut self, work: impl FnOnce(&mut Self) -> T) -> T {
        self.reads_now = true;
        let result = work(self);
        self.reads_now = false;
        self.forget_wait();
        for ticket in self.brought_in.drain(..) {
            self.replicated.store_mut().release(ticket);
        }
        result
    }

    /// Lets the store take in what its disk has done, and hand it more.
    #[inline]
    pub(crate) fn turn(&mut self, now: Instant) {
        self.replicated.store_mut().turn(now);
        if self.has_log {
            self.appended = self.replicated.store().appended();
            self.durable = self.replicated.store().durable();
            self.is_failed = self.replicated.store().has_failed();
        }
    }

    pub(crate) fn turn_due_at(&self) -> Option<Instant> {
        self.replicated.store().turn_due_at()
    }

    pub(crate) fn poll_ready(&mut self) -> Option<(Ticket, Result<(), ReadError>)> {
        self.replicated.store_mut().poll_ready()
    }

    pub(crate) fn release(&mut self, ticket: Ticket) {
        self.replicated.store_mut().release(ticket);
    }

    /// Whether the store has a log.
    pub(crate) fn has_log(&self) -> bool {
        self.has_log
    }

    /// Whether the store takes no writes any more.
    pub(crate) fn has_failed(&self) -> bool {
        self.is_failed
    }

    /// Its number in the node.
    pub(crate) fn index(&self) -> u16 {
        self.index
    }

    /// What has become of a hold, as of the last turn.
    pub(crate) fn standing(&self, position: LogPosition) -> Standing {
        if position <= self.durable {
            Standing::Durable
        } else if self.is_failed {
            Standing::Lost
        } else {
            Standing::Waiting
        }
    }

    /// Up to where holds have come to their end, well or not.
    pub(crate) fn decided(&self) -> LogPosition {
        if self.is_failed { LogPosition(u64::MAX) } else { self.durable }
    }

    /// Changes when a write counts as done.
    pub(crate) fn set_durability(&mut self, durability: Durability) {
        self.durability = durability;
        self.write_durability = durability;
        self.replicated.set_durability(durability);
    }

    /// Keeps all files of the log, until [`Shard::unpin`]. Returns the highest timestamp given out
    /// here, or written here by a coordinator wherever it is.
    pub(crate) fn pin(&mut self) -> Timestamp {
        self.replicated.store_mut().pin();
        self.clock.latest().max(self.replicated.store().version_max().timestamp)
    }

    pub(crate) fn unpin(&mut self) {
        self.replicated.store_mut().unpin();
    }

    /// What is written from here on is newer than `cut`.
    pub(crate) fn pass(&mut self, cut: Timestamp) {
        self.clock.pass(cut);
    }

    /// Sees to it that all that was written is in files which are not written to any more.
    pub(crate) fn roll(&mut self) -> Result<(), Error> {
        let rolled = self.replicated.store_mut().roll();
        rolled.map_err(|refused| self.refused(refused))
    }

    /// Those files. The answer waits until all that was written is durable.
    pub(crate) fn settled_files(&mut self) -> Vec<String> {
        self.replicated.store_mut().request_commit();
        self.appended = self.replicated.store().appended();
        self.hold_until(self.appended);
        self.replicated.store().record_files()
    }

    /// Makes all durable, holding up the core. Nothing is written after it.
    pub(crate) fn close(&mut self) {
        self.replicated.store_mut().close();
        self.durable = self.replicated.store().durable();
        self.is_failed = self.replicated.store().has_failed();
    }
}

impl Lack {
    fn of(key: Key<'_>) -> Self {
        Self::Record(key.token, key.bytes.to_vec())
    }
}
