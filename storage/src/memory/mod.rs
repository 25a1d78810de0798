//! The backend `memory`: this shard's records in RAM, and nowhere else.
//!
//! The table keeps the items; this module decides: which version wins, what has
//! expired, what makes room at the bound.
//!
//! # Invariants
//!
//! - A record is dead from `expires_at` on: no call for clients shows it, whether or not it was
//!   collected. Replicas are told it as it was accepted: its end is not the store's to judge.
//! - With [`Tombstones::Keep`] only [`Storage::collect_expired`] frees the value of what has expired.
//! - A version at or below the floor does not create a record.
//! - The statistics are sums over what the table holds, kept up to date by each change.
//! - After a write that was not refused, memory is within the bound, unless the bound was lowered,
//!   the write made the record no larger, or it was a deletion.

mod eviction;

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use gridkv_cluster::{Instant, Mutation, ShardRange, Token, TokenKey, Version, WallTime};

use crate::backend::{
    Accepted, Applied, Entry, Error, Eviction, Lookup, Options, Record, Stats, Step, Storage,
    Tombstones,
};
use crate::table::item::{Item, KEY_LEN_MAX, VALUE_LEN_MAX};
use crate::table::{
    Demolition, Locator, Place, Sweep, Table, TokenOf, is_expired, stamp_age, stamp_at,
};
use eviction::Lfu;

/// Slots of a cleared table that each write frees.
const DEMOLISHED_PER_WRITE: usize = 32;
/// Slots of a cleared table that each turn frees.
const DEMOLISHED_PER_TURN: usize = 512;
/// A search for what has expired frees one slot of a cleared table where it looks at so many.
const DEMOLISHED_SHARE: usize = 4;
/// Records that [`MemoryStorage::trim`] lets go of in one call.
const TRIMMED_PER_CALL: usize = 256;
/// Draws of [`Storage::random`] before it searches in order.
const DRAW_COUNT_MAX: usize = 64;
/// What is kept for another store takes at most so small a part of the bound.
const KEPT_SHARE: u64 = 16;
/// Slots that [`Storage::random`] searches in order.
const RANDOM_SEARCH_SLOTS: usize = 4_096;

/// A store in memory.
pub struct MemoryStorage {
    table: Table,
    range: ShardRange,
    floor: Version,
    promised: Version,
    tombstones: Tombstones,
    memory_bytes_max: Option<u64>,
    eviction: Eviction,
    lfu: Option<Lfu>,
    rng: Rng,
    sweep: Sweep,
    demolitions: VecDeque<Demolition>,
    counters: Counters,
}

#[derive(Clone, Copy, Debug, Default)]
struct Counters {
    hit_count: u64,
    miss_count: u64,
    expired_count: u64,
    evicted_count: u64,
}

impl MemoryStorage {
    /// An empty store.
    #[must_use]
    pub fn new(options: &Options) -> Self {
        let token_key = options.token_key.clone();
        Self::with_tokens(options, Arc::new(move |key| token_key.token(key)))
    }

    /// An empty store with another idea of which token a key has.
    fn with_tokens(options: &Options, token_of: TokenOf) -> Self {
        let mut store = Self {
            table: Table::new(Locator { range: options.range, token_of }),
            range: options.range,
            floor: Version::ZERO,
            promised: Version::ZERO,
            tombstones: options.tombstones,
            memory_bytes_max: None,
            eviction: Eviction::Refuse,
            lfu: None,
            rng: Rng::with_seed(options.seed),
            sweep: Sweep::default(),
            demolitions: VecDeque::new(),
            counters: Counters::default(),
        };
        store.set_memory_limit(options.memory_bytes_max, options.eviction);
        store
    }

    /// Where the key's live record is.
    fn find_live(&self, token: Token, key: &[u8], now: WallTime) -> Option<Place> {
        self.table.find(token, key).filter(|place| is_live(self.table.item(*place), now))
    }

    /// What becomes of a record that has expired. Its place is void after.
    fn expire(&mut self, place: Place) {
        self.counters.expired_count += 1;
        match self.tombstones {
            Tombstones::Keep => self.table.bury(place),
            Tombstones::Drop => {
                self.floor = self.floor.max(self.table.item(place).version());
                self.table.remove(place);
            }
        }
    }

    fn memory_bytes(&self) -> u64 {
        let demolitions: u64 = self.demolitions.iter().map(Demolition::bytes).sum();
        let lfu = self.lfu.as_ref().map_or(0, Lfu::bytes);
        self.table.memory_bytes() + demolitions + lfu
    }

    /// Frees about `budget` slots of cleared tables.
    fn demolish(&mut self, budget: usize) {
        if let Some(demolition) = self.demolitions.front_mut()
            && demolition.step(budget)
        {
            self.demolitions.pop_front();
        }
    }

    /// Applies a mutation that won and leaves no value.
    fn apply_deletion(&mut self, token: Token, mutation: &Mutation<'_>, place: Option<Place>) {
        match (self.tombstones, place) {
            (Tombstones::Keep, Some(place)) => self.table.overwrite(place, mutation),
            (Tombstones::Keep, None) => self.table.insert(token, mutation, 0),
            (Tombstones::Drop, place) => {
                self.floor = self.floor.max(mutation.version);
                if let Some(place) = place {
                    self.table.remove(place);
                }
            }
        }
    }

    /// Applies a mutation that won and leaves a value.
    fn apply_value(
        &mut self,
        token: Token,
        mutation: &Mutation<'_>,
        place: Option<Place>,
        now: WallTime,
    ) -> Result<(), Error> {
        let place = self.make_room(token, mutation, place, now)?;
        if let Some(place) = place {
            self.table.overwrite(place, mutation);
            self.table.set_stamp(place, stamp_at(now));
        } else {
            self.table.insert(token, mutation, stamp_at(now));
            if let Some(lfu) = &mut self.lfu {
                lfu.admit(token, self.table.totals().key_count);
            }
        }
        Ok(())
    }

    /// Visits items from a token on. Returns the token to go on from.
    fn walk_items(
        &self,
        from: Token,
        budget: usize,
        visit: &mut dyn FnMut(Token, Item<'_>),
    ) -> Option<Token> {
        let first = self.range.first();
        if !self.range.contains(from) && from > first {
            return None;
        }
        let position = self.range.position(from.max(first));
        let next = self.table.walk(position, budget, visit)?;
        self.range.token_at(next)
    }

    fn entry(&self, place: Place) -> Entry<'_> {
        let item = self.table.item(place);
        entry(self.table.token_of(item), item)
    }

    fn random_place(&mut self, now: WallTime) -> Option<Place> {
        for _ in 0..DRAW_COUNT_MAX {
            if let Some(place) = self.draw()
                && is_live(self.table.item(place), now)
            {
                return Some(place);
            }
        }
        let (segment, bucket) = (self.rng.u64(..), self.rng.usize(..));
        self.table.first_place(segment, bucket, RANDOM_SEARCH_SLOTS, |item| is_live(item, now))
    }

    /// An item at random, if a few slots hold one.
    fn draw(&mut self) -> Option<Place> {
        self.table.draw(&mut self.rng)
    }
}

/// What a store that keeps its records elsewhere needs of one that keeps some of them in memory.
impl MemoryStorage {
    /// Where the key's live record is. Counts as a use of the key, there or not.
    #[inline]
    pub(crate) fn touch(&mut self, token: Token, key: &[u8], now: WallTime) -> Option<Place> {
        if let Some(lfu) = &mut self.lfu {
            lfu.record(token);
        }
        let place = self.find_live(token, key, now)?;
        self.table.set_stamp(place, stamp_at(now));
        Some(place)
    }

    /// The key's record, whether or not it has expired, without a trace.
    pub(crate) fn kept(&self, token: Token, key: &[u8]) -> Option<Record<'_>> {
        let place = self.table.find(token, key)?;
        Some(record(self.table.item(place)))
    }

    /// The record at a place.
    #[inline]
    pub(crate) fn record_at(&self, place: Place) -> Record<'_> {
        record(self.table.item(place))
    }

    /// Keeps a record, known to be the newest of its key, if it is worth its room.
    pub(crate) fn keep(&mut self, token: Token, mutation: &Mutation<'_>, now: WallTime) {
        self.demolish(DEMOLISHED_PER_WRITE);
        let place = self.table.find(token, mutation.key);
        let share = self.memory_bytes_max.map_or(u64::MAX, |bytes| bytes / KEPT_SHARE);
        let is_large = Table::item_bytes(mutation) > share;
        if is_large || self.apply_value(token, mutation, place, now).is_err() {
            self.forget(token, mutation.key);
        }
    }

    /// Lets go of a key's record.
    pub(crate) fn forget(&mut self, token: Token, key: &[u8]) {
        if let Some(place) = self.table.find(token, key) {
            self.table.remove(place);
        }
    }

    /// The key of a record with this token, if there is one.
    pub(crate) fn key_of_token(&self, token: Token) -> Option<&[u8]> {
        self.table.find_token(token).map(|place| self.table.item(place).key())
    }

    /// Lets go of all records.
    pub(crate) fn forget_all(&mut self) {
        let demolition = self.table.clear(Version::MAX);
        if !demolition.is_nothing() {
            self.demolitions.push_back(demolition);
        }
        self.sweep = Sweep::default();
    }

    /// Lets go of the least used records until at most `bytes` are in use, and of no more than
    /// [`TRIMMED_PER_CALL`]. Before that, frees some of what was cleared. Returns whether another
    /// call would let go of more.
    pub(crate) fn trim(&mut self, bytes: u64, now: WallTime) -> bool {
        self.demolish(DEMOLISHED_PER_TURN);
        if self.is_demolishing() {
            return true;
        }
        for _ in 0..TRIMMED_PER_CALL {
            if self.memory_bytes() <= bytes || !self.evict(None, now) {
                return false;
            }
        }
        self.memory_bytes() > bytes
    }

    /// Whether memory of what was cleared is left to free.
    fn is_demolishing(&self) -> bool {
        !self.demolitions.is_empty()
    }

    /// Memory of all that is kept.
    pub(crate) fn bytes(&self) -> u64 {
        self.memory_bytes()
    }
}

impl Storage for MemoryStorage {
    #[inline]
    fn get(&mut self, token: Token, key: &[u8], now: WallTime) -> Lookup<'_> {
        if let Some(lfu) = &mut self.lfu {
            lfu.record(token);
        }
        let found = self.table.find(token, key);
        let Some(place) = found.filter(|place| !self.table.item(*place).is_tombstone()) else {
            self.counters.miss_count += 1;
            return Lookup::Absent;
        };
        if is_expired(self.table.item(place), now) {
            self.counters.miss_count += 1;
            if self.tombstones == Tombstones::Drop {
                self.expire(place);
            }
            return Lookup::Absent;
        }
        self.counters.hit_count += 1;
        self.table.set_stamp(place, stamp_at(now));
        Lookup::Found(record(self.table.item(place)))
    }

    fn peek(&self, token: Token, key: &[u8], now: WallTime) -> Lookup<'_> {
        self.find_live(token, key, now)
            .map_or(Lookup::Absent, |place| Lookup::Found(record(self.table.item(place))))
    }

    fn apply(
        &mut self,
        token: Token,
        mutation: &Mutation<'_>,
        now: WallTime,
    ) -> Result<Applied, Error> {
        let (key_bytes, value_bytes) = (mutation.key.len(), mutation.value.map_or(0, <[u8]>::len));
        if key_bytes > KEY_LEN_MAX || value_bytes > VALUE_LEN_MAX {
            return Err(Error::TooLarge { key_bytes, value_bytes });
        }
        self.demolish(DEMOLISHED_PER_WRITE);
        let mut place = self.table.find(token, mutation.key);
        let is_kept = self.tombstones == Tombstones::Keep;
        if !is_kept
            && let Some(expired) = place.filter(|place| is_expired(self.table.item(*place), now))
        {
            self.expire(expired);
            place = self.table.find(token, mutation.key);
        }
        let known = place.map_or(self.floor, |place| self.table.item(place).version());
        if mutation.version <= known {
            return Ok(Applied::Superseded);
        }
        let replaced = place.is_some_and(|place| is_live(self.table.item(place), now));
        let is_dead = mutation.expires_at.is_some_and(|expires_at| expires_at <= now);
        if mutation.value.is_none() || (is_dead && !is_kept) {
            self.apply_deletion(token, mutation, place);
        } else {
            if let Some(lfu) = &mut self.lfu {
                lfu.record(token);
            }
            self.apply_value(token, mutation, place, now)?;
        }
        Ok(Applied::Won { replaced })
    }

    fn accepted(&mut self, token: Token, key: &[u8]) -> Accepted<'_> {
        let Some(place) = self.table.find(token, key) else { return Accepted::Nothing };
        let item = self.table.item(place);
        match (item.is_tombstone(), item.expires_at()) {
            (false, _) => Accepted::Value(record(item)),
            (true, Some(expires_at)) => Accepted::Ended(item.version(), expires_at),
            (true, None) => Accepted::Deleted(item.version()),
        }
    }

    fn turn(&mut self, _: Instant) {
        self.demolish(DEMOLISHED_PER_TURN);
    }

    fn turn_due_at(&self) -> Option<Instant> {
        self.is_demolishing().then_some(Instant::ZERO)
    }

    fn floor(&self) -> Version {
        self.floor
    }

    fn promise(&mut self, through: Version) -> Result<(), Error> {
        self.promised = self.promised.max(through);
        Ok(())
    }

    fn promised(&self) -> Version {
        self.promised
    }

    #[inline]
    fn prefetch(&self, tokens: &[Token]) {
        self.table.prefetch(tokens);
    }

    fn walk(
        &mut self,
        from: Token,
        budget: usize,
        now: WallTime,
        visit: &mut dyn FnMut(Entry<'_>),
    ) -> Step<Option<Token>> {
        Step::Done(self.walk_items(from, budget, &mut |token, item| {
            if is_live(item, now) {
                visit(entry(token, item));
            }
        }))
    }

    fn walk_accepted(
        &mut self,
        from: Token,
        budget: usize,
        visit: &mut dyn FnMut(&Mutation<'_>),
    ) -> Step<Option<Token>> {
        Step::Done(self.walk_items(from, budget, &mut |_, item| {
            let (value, expires_at) = (item.value(), item.expires_at());
            visit(&Mutation { key: item.key(), value, version: item.version(), expires_at });
        }))
    }

    fn collect_expired(&mut self, budget: usize, now: WallTime) -> usize {
        self.demolish(budget / DEMOLISHED_SHARE);
        let mut allowance = self.table.allowance(budget);
        let mut collected = 0;
        while let Some(place) = self.table.next_expired(&mut self.sweep, &mut allowance, now) {
            self.expire(place);
            collected += 1;
        }
        collected
    }

    fn random(&mut self, now: WallTime) -> Step<Option<Entry<'_>>> {
        let place = self.random_place(now);
        Step::Done(place.map(|place| self.entry(place)))
    }

    fn idle_time(&self, token: Token, key: &[u8], now: WallTime) -> Option<Duration> {
        let place = self.find_live(token, key, now)?;
        Some(Duration::from_secs(u64::from(stamp_age(self.table.stamp(place), now))))
    }

    fn frequency(&self, token: Token) -> Option<u8> {
        self.lfu.as_ref().map(|lfu| lfu.frequency(token))
    }

    fn record_bytes(&self, token: Token, key: &[u8], now: WallTime) -> Option<u64> {
        let place = self.find_live(token, key, now)?;
        Some(self.table.item(place).allocation_bytes() as u64 + Table::slot_bytes())
    }

    fn clear(&mut self, version: Version) -> Result<(), Error> {
        if version <= self.floor && self.tombstones == Tombstones::Keep {
            return Ok(());
        }
        self.floor = self.floor.max(version);
        let demolition = self.table.clear(version);
        if !demolition.is_nothing() {
            self.demolitions.push_back(demolition);
        }
        self.sweep = Sweep::default();
        Ok(())
    }

    fn stats(&self) -> Stats {
        let totals = self.table.totals();
        Stats {
            key_count: totals.key_count,
            expiring_key_count: totals.expiring_key_count,
            tombstone_count: totals.tombstone_count,
            payload_bytes: totals.payload_bytes,
            memory_bytes: self.memory_bytes(),
            hit_count: self.counters.hit_count,
            miss_count: self.counters.miss_count,
            expired_count: self.counters.expired_count,
            evicted_count: self.counters.evicted_count,
        }
    }

    fn reset_stats(&mut self) {
        self.counters = Counters::default();
    }

    fn set_memory_limit(&mut self, memory_bytes_max: Option<u64>, eviction: Eviction) {
        self.memory_bytes_max = memory_bytes_max;
        self.eviction = eviction;
        self.lfu = match eviction {
            Eviction::Refuse => None,
            Eviction::Lfu => Some(Lfu::resized(self.lfu.take(), memory_bytes_max)),
        };
    }

    fn rekey(&mut self, token_key: &TokenKey) -> bool {
        let totals = self.table.totals();
        if totals.key_count + totals.tombstone_count > 0 {
            return false;
        }
        let token_key = token_key.clone();
        let token_of: TokenOf = Arc::new(move |key| token_key.token(key));
        self.table = Table::new(Locator { range: self.range, token_of });
        true
    }
}

fn is_live(item: Item<'_>, now: WallTime) -> bool {
    !item.is_tombstone() && !is_expired(item, now)
}

fn entry(token: Token, item: Item<'_>) -> Entry<'_> {
    Entry { token, key: item.key(), version: item.version(), expires_at: item.expires_at() }
}

#[inline]
fn record(item: Item<'_>) -> Record<'_> {
    let value = item.value().expect("a tombstone is not shown");
    Record { value, version: item.version(), expires_at: item.expires_at() }
}
