//! A shard: a range of tokens, its store, and the clock that gives its writes their versions.
//!
//! A shard belongs to one core and is only ever touched there. [`Handle::run_on`] lends it to a
//! closure on that core; every client command and every call of the API ends in the methods here.
//!
//! # What is on disk
//!
//! Where a value has to be read from disk first, or the log has no room for a write, a call fails
//! with [`Error::Busy`] and nothing has changed; the shard remembers what it lacks. The core takes
//! note of it, and runs the command again when it is there. A closure cannot be run again: for one,
//! the shard reads at once, and the core waits meanwhile.
//!
//! # What is durable
//!
//! A call leaves behind up to which position the log must be durable before its answer may leave:
//! its own write's, and that of a write which it has seen. The core holds the answer until then.
//!
//! [`Handle::run_on`]: crate::Handle::run_on

pub(crate) mod replica;
pub(crate) mod stage;
mod store;

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use gridkv_cluster::{HybridClock, NodeId, ShardRange, Token, TokenKey, Version, WallTime};
use gridkv_storage::replicated::Replicated;
use gridkv_storage::{Durability, LogPosition, LogStats, Record, Stats, Storage, Ticket};

use self::store::Lack;
use crate::cluster::machine::Source;
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

impl Condition {
    fn holds_for(&self, current: Option<Record<'_>>) -> bool {
        match self {
            Self::Always => true,
            Self::Absent => current.is_none(),
            Self::Present => current.is_some(),
            Self::Equals(value) => current.is_some_and(|record| record.value == value),
            Self::Version(version) => current.is_some_and(|record| record.version == *version),
        }
    }
}

/// How to write a value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SetOptions {
    /// When it stops to exist.
    pub expiry: Expiry,
    /// What must hold.
    pub condition: Condition,
    /// When this write counts as done; `None` for what the node is told (`durability`). Without
    /// meaning for a store that has no log.
    pub durability: Option<Durability>,
}

/// What came of a conditional write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetOutcome {
    /// Written, with this version.
    Written(Version),
    /// The condition does not hold; the key is as it was.
    ConditionFailed,
}

impl SetOutcome {
    /// The write was given this version.
    pub(crate) fn stamp(&mut self, version: Version) {
        if let Self::Written(written) = self {
            *written = version;
        }
    }
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
    /// What tokens are made with.
    token_key: TokenKey,
    /// Its number in the node.
    index: u16,
    range: ShardRange,
    count: u16,
    /// Its store, with what it is as a replica.
    replicated: Replicated<Source>,
    clock: HybridClock,
    now: WallTime,
    value_bytes_max: usize,
    /// The longest value that any shard of the node was ever given, where that is not small.
    longest_value: Arc<AtomicUsize>,
    scratch: Vec<u8>,
    /// Whether the store has a log, and may have values on disk. What follows is idle without one.
    has_log: bool,
    /// When a write counts as done: as the node is told, as the store was, and for the write under
    /// way.
    durability: Durability,
    store_durability: Durability,
    write_durability: Durability,
    /// As the store has last said it. Looked at with each read, so kept here.
    appended: LogPosition,
    durable: LogPosition,
    is_failed: bool,
    /// What the call under way must wait for before it is run again.
    lack: Option<Lack>,
    /// What must be durable before the answer to the call under way may leave.
    hold: Option<LogPosition>,
    /// The command under way is run for what it would do.
    stage: Option<Box<stage::Stage>>,
    /// Values on disk are read at once; what was brought in so far.
    reads_now: bool,
    brought_in: Vec<Ticket>,
}

/// A key with the token that the caller has computed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Key<'a> {
    pub(crate) bytes: &'a [u8],
    pub(crate) token: Token,
}

impl<'a> Key<'a> {
    pub(crate) fn new(token_key: &TokenKey, bytes: &'a [u8]) -> Self {
        Self { bytes, token: token_key.token(bytes) }
    }
}

impl Shard {
    pub(crate) fn new(
        index: u16,
        count: u16,
        storage: Box<dyn Storage>,
        durability: Durability,
        token_key: TokenKey,
        (value_bytes_max, longest_value): (usize, Arc<AtomicUsize>),
    ) -> Self {
        // A clock that went back while the node was down must not make new writes lose.
        let resume_after = storage.version_max().timestamp;
        Self {
            index,
            range: ShardRange::new(index, count),
            count,
            token_key,
            clock: HybridClock::new(NodeId(0), resume_after, DRIFT_MAX),
            now: WallTime::EPOCH,
            value_bytes_max,
            longest_value,
            scratch: Vec::new(),
            has_log: storage.log_stats().is_some(),
            durability,
            store_durability: durability,
            write_durability: durability,
            appended: storage.appended(),
            durable: storage.durable(),
            is_failed: storage.has_failed(),
            lack: None,
            hold: None,
            stage: None,
            reads_now: false,
            brought_in: Vec::new(),
            replicated: Replicated::new(storage, durability),
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
        self.range.contains(self.token_key.token(key))
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
    /// [`Error::WrongShard`], [`Error::Read`].
    #[inline]
    pub fn get(&mut self, key: &[u8]) -> Result<Option<&[u8]>, Error> {
        let key = self.own(key)?;
        Ok(self.read(key)?.map(|record| record.value))
    }

    /// The values of `keys`, in order, each handed to `visit` with its index. Faster than as many
    /// calls of [`Shard::get`]: all index buckets and records are fetched into the processor's
    /// cache before the first is looked at. Best with 8 to 32 keys at a time.
    ///
    /// # Errors
    ///
    /// [`Error::WrongShard`], before `visit` is called for the first time; [`Error::Read`] for the
    /// first value that cannot be read.
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
                *token = self.token_key.token(key);
            }
            self.replicated.store_mut().prefetch(&tokens[..keys.len()]);
            for (index, (token, bytes)) in tokens.iter().zip(keys).enumerate() {
                let found = self.read(Key { bytes, token: *token })?;
                visit(batch * BATCH + index, found.map(|record| record.value));
            }
        }
        Ok(())
    }

    /// The value of `key` with its version.
    ///
    /// # Errors
    ///
    /// As [`Shard::get`].
    pub fn get_versioned(&mut self, key: &[u8]) -> Result<Option<Versioned>, Error> {
        let key = self.own(key)?;
        Ok(self.read(key)?.map(|record| Versioned {
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
    /// [`Error::ValueTooLarge`]; with a store on disk also [`Error::Busy`], [`Error::Read`],
    /// [`Error::DiskFull`], [`Error::LogFailed`]. The key is as it was.
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
        self.write_durability = options.durability.unwrap_or(self.durability);
        let result = self.set_if(key, value, options);
        self.write_durability = self.durability;
        result
    }

    fn set_if(
        &mut self,
        key: Key<'_>,
        value: &[u8],
        options: &SetOptions,
    ) -> Result<SetOutcome, Error> {
        let mut expires_at = match options.expiry {
            Expiry::Never | Expiry::Keep => None,
            Expiry::After(duration) => Some(self.now + duration),
            Expiry::At(time) => Some(time),
        };
        // Whether a key is there is known without its value.
        let keeps_expiry = options.expiry == Expiry::Keep;
        let holds = match &options.condition {
            Condition::Always if !keeps_expiry => true,
            Condition::Absent => !self.has(key)?,
            Condition::Present if !keeps_expiry => self.has(key)?,
            condition => {
                let current = self.look(key)?;
                if keeps_expiry {
                    expires_at = current.and_then(|record| record.expires_at);
                }
                condition.holds_for(current)
            }
        };
        if !holds {
            return Ok(SetOutcome::ConditionFailed);
        }
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
        let current = self.read(key)?;
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
        self.uses(key)
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
        Ok(self.look(key)?.map(|record| record.expires_at))
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
            Expiry::Keep => return self.has(key),
            Expiry::After(duration) => Some(self.now + duration),
            Expiry::At(time) => Some(time),
        };
        self.set_expiry(key, expires_at)
    }

    /// Counters and sizes of the store.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.replicated.store().stats()
    }

    /// Counters and sizes of the store's log; `None` for a store without one.
    #[must_use]
    pub fn log_stats(&self) -> Option<LogStats> {
        self.replicated.store().log_stats()
    }

    /// A key with its token.
    pub(crate) fn key<'k>(&self, bytes: &'k [u8]) -> Key<'k> {
        Key::new(&self.token_key, bytes)
    }

    /// Has the shard make tokens with another key. `false` where its store holds something.
    pub(crate) fn rekey(&mut self, token_key: &TokenKey) -> bool {
        if !self.replicated.store_mut().rekey(token_key) {
            return false;
        }
        self.token_key = token_key.clone();
        true
    }

    fn own<'k>(&self, bytes: &'k [u8]) -> Result<Key<'k>, Error> {
        let key = self.key(bytes);
        if self.range.contains(key.token) { Ok(key) } else { Err(Error::WrongShard) }
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
