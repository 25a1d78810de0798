//! A shard: a range of tokens, its store, and the clock that gives its writes their versions.
//!
//! A shard belongs to one core and is only ever touched there. [`Handle::run_on`] lends it to a
//! closure on that core; every client command and every call of the API ends in the methods here.
//!
//! [`Handle::run_on`]: crate::Handle::run_on

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use gridkv_cluster::{
    HybridClock, Mutation, NodeId, ShardRange, Timestamp, Token, Version, WallTime,
};
use gridkv_storage::{Applied, Entry, Eviction, Record, Stats, Storage};

use crate::error::Error;

/// Longest key, in bytes.
pub const KEY_BYTES_MAX: usize = 64 << 10;

/// Values up to this are small: whoever waits for many of them needs no care.
pub(crate) const SMALL_VALUE_BYTES: usize = 64 << 10;

/// How far ahead of this node's clock a timestamp of another node may be.
const DRIFT_MAX: Duration = Duration::from_millis(500);

/// When a value stops to exist.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Expiry {
    /// Never.
    #[default]
    Never,
    /// When the value it replaces would have.
    Keep,
    /// This long after the write, in whole milliseconds.
    After(Duration),
    /// At this time.
    At(WallTime),
}

/// What must hold for a value to be written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Condition {
    /// Nothing.
    #[default]
    Always,
    /// The key has no value.
    Absent,
    /// The key has a value.
    Present,
    /// The key has this value.
    Equals(Vec<u8>),
    /// The key's value was written by this version ([`Versioned::version`]): compare-and-set.
    Version(Version),
}

/// How to write a value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SetOptions {
    /// When it stops to exist.
    pub expiry: Expiry,
    /// What must hold.
    pub condition: Condition,
}

/// What came of a conditional write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetOutcome {
    /// Written, with this version.
    Written(Version),
    /// The condition does not hold; the key is as it was.
    ConditionFailed,
}

/// A value with what a compare-and-set needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Versioned {
    /// The value.
    pub value: Vec<u8>,
    /// The version that wrote it.
    pub version: Version,
    /// When it stops to exist.
    pub expires_at: Option<WallTime>,
}

/// A range of tokens and its store. Not `Send`: it lives and dies on its core.
pub struct Shard {
    range: ShardRange,
    count: u16,
    storage: Box<dyn Storage>,
    clock: HybridClock,
    now: WallTime,
    value_bytes_max: usize,
    /// The longest value that any shard of the node was ever given, where that is not small.
    longest_value: Arc<AtomicUsize>,
    scratch: Vec<u8>,
}

/// A key with the token that the caller has computed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Key<'a> {
    pub(crate) bytes: &'a [u8],
    pub(crate) token: Token,
}

impl<'a> Key<'a> {
    pub(crate) fn of(bytes: &'a [u8]) -> Self {
        Self { bytes, token: Token::of(bytes) }
    }
}

impl Shard {
    pub(crate) fn new(
        index: u16,
        count: u16,
        storage: Box<dyn Storage>,
        value_bytes_max: usize,
        longest_value: Arc<AtomicUsize>,
    ) -> Self {
        Self {
            range: ShardRange::new(index, count),
            count,
            storage,
            clock: HybridClock::new(NodeId(0), Timestamp::ZERO, DRIFT_MAX),
            now: WallTime::EPOCH,
            value_bytes_max,
            longest_value,
            scratch: Vec::new(),
        }
    }

    /// The tokens that the shard owns.
    #[must_use]
    pub fn range(&self) -> ShardRange {
        self.range
    }

    /// Whether the shard owns `key`.
    #[must_use]
    pub fn owns(&self, key: &[u8]) -> bool {
        self.range.contains(Token::of(key))
    }

    /// The time at which expiry is judged: the wall clock at the last turn of the core, or at the
    /// last [`Shard::refresh_time`].
    #[must_use]
    pub fn now(&self) -> WallTime {
        self.now
    }

    /// Reads the wall clock again. A closure that keeps a shard for milliseconds calls it, so that
    /// what it sees expires on time.
    pub fn refresh_time(&mut self) {
        self.now = crate::core::wall_time();
    }

    /// The value of `key`, borrowed from the store.
    ///
    /// # Errors
    ///
    /// [`Error::WrongShard`].
    #[inline]
    pub fn get(&mut self, key: &[u8]) -> Result<Option<&[u8]>, Error> {
        let key = self.own(key)?;
        Ok(self.read(key).map(|record| record.value))
    }

    /// The values of `keys`, in order, each handed to `visit` with its index. Faster than as many
    /// calls of [`Shard::get`]: all index buckets and records are fetched into the processor's
    /// cache before the first is looked at. Best with 8 to 32 keys at a time.
    ///
    /// # Errors
    ///
    /// [`Error::WrongShard`], before `visit` is called for the first time.
    pub fn get_many(
        &mut self,
        keys: &[&[u8]],
        mut visit: impl FnMut(usize, Option<&[u8]>),
    ) -> Result<(), Error> {
        const BATCH: usize = 32;
        if keys.iter().any(|key| !self.owns(key)) {
            return Err(Error::WrongShard);
        }
        for (batch, keys) in keys.chunks(BATCH).enumerate() {
            let mut tokens = [Token::MIN; BATCH];
            for (token, key) in tokens.iter_mut().zip(keys) {
                *token = Token::of(key);
            }
            self.storage.prefetch(&tokens[..keys.len()]);
            for (index, (token, bytes)) in tokens.iter().zip(keys).enumerate() {
                let found = self.storage.get(*token, bytes, self.now).record();
                visit(batch * BATCH + index, found.map(|record| record.value));
            }
        }
        Ok(())
    }

    /// The value of `key` with its version.
    ///
    /// # Errors
    ///
    /// [`Error::WrongShard`].
    pub fn get_versioned(&mut self, key: &[u8]) -> Result<Option<Versioned>, Error> {
        let key = self.own(key)?;
        Ok(self.read(key).map(|record| Versioned {
            value: record.value.to_vec(),
            version: record.version,
            expires_at: record.expires_at,
        }))
    }

    /// Gives `key` a value that does not expire.
    ///
    /// # Errors
    ///
    /// [`Error::WrongShard`], [`Error::OutOfMemory`], [`Error::KeyTooLarge`],
    /// [`Error::ValueTooLarge`]; the key is as it was.
    #[inline]
    pub fn set(&mut self, key: &[u8], value: &[u8]) -> Result<(), Error> {
        let key = self.own(key)?;
        self.write(key, value, None).map(|_| ())
    }

    /// Gives `key` a value if the options' condition holds. Checking and writing are one step.
    ///
    /// # Errors
    ///
    /// As [`Shard::set`].
    pub fn set_with(
        &mut self,
        key: &[u8],
        value: &[u8],
        options: &SetOptions,
    ) -> Result<SetOutcome, Error> {
        let key = self.own(key)?;
        let current = self.look(key);
        let holds = match &options.condition {
            Condition::Always => true,
            Condition::Absent => current.is_none(),
            Condition::Present => current.is_some(),
            Condition::Equals(value) => current.is_some_and(|record| record.value == value),
            Condition::Version(version) => current.is_some_and(|record| record.version == *version),
        };
        if !holds {
            return Ok(SetOutcome::ConditionFailed);
        }
        let expires_at = match options.expiry {
            Expiry::Never => None,
            Expiry::Keep => current.and_then(|record| record.expires_at),
            Expiry::After(duration) => Some(self.now + duration),
            Expiry::At(time) => Some(time),
        };
        if expires_at.is_some_and(|time| time <= self.now) {
            self.remove(key)?;
            return Ok(SetOutcome::Written(self.latest()));
        }
        self.write(key, value, expires_at)?;
        Ok(SetOutcome::Written(self.latest()))
    }

    /// Replaces the value of `key` by what `change` makes of it, keeping its expiry; `None` deletes
    /// it. Returns what `change` returned beside it.
    ///
    /// # Errors
    ///
    /// As [`Shard::set`].
    pub fn update<T>(
        &mut self,
        key: &[u8],
        change: impl FnOnce(Option<&[u8]>) -> (Option<Vec<u8>>, T),
    ) -> Result<T, Error> {
        let key = self.own(key)?;
        let current = self.read(key);
        let expires_at = current.and_then(|record| record.expires_at);
        let (value, result) = change(current.map(|record| record.value));
        match value {
            Some(value) => self.write(key, &value, expires_at).map(|_| ())?,
            None => self.remove(key).map(|_| ())?,
        }
        Ok(result)
    }

    /// Deletes `key`; whether it had a value.
    ///
    /// # Errors
    ///
    /// [`Error::WrongShard`].
    pub fn delete(&mut self, key: &[u8]) -> Result<bool, Error> {
        let key = self.own(key)?;
        self.remove(key)
    }

    /// Whether `key` has a value.
    ///
    /// # Errors
    ///
    /// [`Error::WrongShard`].
    pub fn exists(&mut self, key: &[u8]) -> Result<bool, Error> {
        let key = self.own(key)?;
        Ok(self.read(key).is_some())
    }

    /// Adds `delta` to the decimal integer under `key` (0 if there is none), keeping its expiry.
    ///
    /// # Errors
    ///
    /// [`Error::NotAnInteger`], [`Error::Overflow`], and as [`Shard::set`].
    pub fn increment(&mut self, key: &[u8], delta: i64) -> Result<i64, Error> {
        let key = self.own(key)?;
        self.add(key, delta)
    }

    /// When `key` expires: `None` without a value, `Some(None)` for never.
    ///
    /// # Errors
    ///
    /// [`Error::WrongShard`].
    pub fn expires_at(&mut self, key: &[u8]) -> Result<Option<Option<WallTime>>, Error> {
        let key = self.own(key)?;
        Ok(self.look(key).map(|record| record.expires_at))
    }

    /// Sets or removes the expiry of `key`; whether it has a value.
    ///
    /// # Errors
    ///
    /// As [`Shard::set`].
    pub fn expire(&mut self, key: &[u8], expiry: Expiry) -> Result<bool, Error> {
        let key = self.own(key)?;
        let expires_at = match expiry {
            Expiry::Never => None,
            Expiry::Keep => return Ok(self.look(key).is_some()),
            Expiry::After(duration) => Some(self.now + duration),
            Expiry::At(time) => Some(time),
        };
        self.set_expiry(key, expires_at)
    }

    /// Counters and sizes of the store.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.storage.stats()
    }

    fn own<'k>(&self, bytes: &'k [u8]) -> Result<Key<'k>, Error> {
        let key = Key::of(bytes);
        if self.range.contains(key.token) { Ok(key) } else { Err(Error::WrongShard) }
    }
}

/// What commands use: keys come with their tokens, which were needed to find the shard.
impl Shard {
    /// The record, counted as a use.
    #[inline]
    pub(crate) fn read(&mut self, key: Key<'_>) -> Option<Record<'_>> {
        self.storage.get(key.token, key.bytes, self.now).record()
    }

    /// The record, without a trace.
    #[inline]
    pub(crate) fn look(&self, key: Key<'_>) -> Option<Record<'_>> {
        self.storage.peek(key.token, key.bytes, self.now).record()
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
        if self.look(key).is_none() {
            return Ok(false);
        }
        self.apply(key, None, None)
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
        let found = match self.look(key) {
            Some(record) => {
                scratch.extend_from_slice(record.value);
                true
            }
            None => false,
        };
        let result = if found { self.write(key, &scratch, expires_at) } else { Ok(false) };
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
        let mut expires_at = None;
        let mut found = false;
        if let Some(record) = self.read(key) {
            scratch.extend_from_slice(record.value);
            expires_at = record.expires_at;
            found = true;
        }
        let result = match change(&mut scratch, found) {
            Ok((true, result)) => {
                self.write(key, &scratch, expires_at).map(|_| result).map_err(E::from)
            }
            Ok((false, result)) => Ok(result),
            Err(error) => Err(error),
        };
        self.keep_scratch(scratch);
        result
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
        let version = self.clock.tick(self.now);
        let mutation = Mutation { key: key.bytes, value, version, expires_at };
        match self.storage.apply(key.token, &mutation, self.now) {
            Ok(Applied::Won { replaced }) => Ok(replaced),
            Ok(Applied::Superseded) => panic!("a new version wins over all that went before"),
            Err(gridkv_storage::Error::OutOfMemory { used_bytes, max_bytes, .. }) => {
                Err(Error::OutOfMemory { used_bytes, max_bytes })
            }
            Err(gridkv_storage::Error::TooLarge { value_bytes, .. }) => {
                Err(Error::ValueTooLarge { bytes: value_bytes, max_bytes: self.value_bytes_max })
            }
        }
    }

    /// The version of the latest write.
    pub(crate) fn latest(&self) -> Version {
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
        self.storage.prefetch(tokens);
    }

    pub(crate) fn collect_expired(&mut self, budget: usize) -> usize {
        self.storage.collect_expired(budget, self.now)
    }

    pub(crate) fn walk(
        &self,
        from: Token,
        budget: usize,
        visit: &mut dyn FnMut(Entry<'_>),
    ) -> Option<Token> {
        self.storage.walk(from, budget, self.now, visit)
    }

    pub(crate) fn random_key(&mut self) -> Option<Vec<u8>> {
        self.storage.random(self.now).map(|entry| entry.key.to_vec())
    }

    pub(crate) fn idle_time(&self, key: Key<'_>) -> Option<Duration> {
        self.storage.idle_time(key.token, key.bytes, self.now)
    }

    pub(crate) fn frequency(&self, key: Key<'_>) -> Option<u8> {
        self.storage.frequency(key.token)
    }

    pub(crate) fn record_bytes(&self, key: Key<'_>) -> Option<u64> {
        self.storage.record_bytes(key.token, key.bytes, self.now)
    }

    pub(crate) fn value_bytes_max(&self) -> usize {
        self.value_bytes_max
    }

    pub(crate) fn clear(&mut self) {
        let version = self.clock.tick(self.now);
        self.storage.clear(version);
    }

    pub(crate) fn reset_stats(&mut self) {
        self.storage.reset_stats();
    }

    pub(crate) fn set_memory_limit(&mut self, node_bytes_max: Option<u64>, eviction: Eviction) {
        let shard_bytes_max = node_bytes_max.map(|bytes| bytes / u64::from(self.count));
        self.storage.set_memory_limit(shard_bytes_max, eviction);
    }
}

/// A decimal integer of 64 bits in its one canonical form: no plus sign, no leading zero, no blank.
pub(crate) fn parse_integer(bytes: &[u8]) -> Option<i64> {
    let digits = bytes.strip_prefix(b"-").unwrap_or(bytes);
    let canonical = match digits {
        [] => false,
        [b'0'] => digits.len() == bytes.len(),
        [b'0', ..] => false,
        _ => digits.len() <= 19 && digits.iter().all(u8::is_ascii_digit),
    };
    if !canonical {
        return None;
    }
    std::str::from_utf8(bytes).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_canonical_form_of_an_integer_is_one() {
        let good: [(&[u8], i64); 5] = [
            (b"0", 0),
            (b"-1", -1),
            (b"12", 12),
            (b"9223372036854775807", i64::MAX),
            (b"-9223372036854775808", i64::MIN),
        ];
        for (text, number) in good {
            assert_eq!(parse_integer(text), Some(number));
        }
        let bad: [&[u8]; 9] =
            [b"", b"-", b"+1", b"01", b"-0", b" 1", b"1 ", b"9223372036854775808", b"1e3"];
        for text in bad {
            assert_eq!(parse_integer(text), None, "{}", String::from_utf8_lossy(text));
        }
    }
}
