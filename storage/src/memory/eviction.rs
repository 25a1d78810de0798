//! Making room at the memory bound.
//!
//! New keys pass through a *window*, a queue of the latest insertions, about one in a hundred of
//! all keys. When room is needed, the key that leaves the window meets the least used of a few
//! keys drawn at random, and the one that is used less is evicted (W-TinyLFU). So a scan of keys
//! that are used once flows through the window and leaves the much used ones alone.

use std::collections::VecDeque;

use gridkv_cluster::{Mutation, Token, WallTime};

use super::{MemoryStorage, is_live};
use crate::backend::{Error, Eviction, Tombstones};
use crate::lfu::Sketch;
use crate::table::item::allocation_bytes;
use crate::table::{Place, Table, is_expired};

/// Keys evicted for one write at most.
const EVICTIONS_PER_WRITE_MAX: usize = 1_024;
/// Keys among which a victim is chosen.
const SAMPLE_LEN: usize = 5;
/// Draws for a sample: slots may be empty, or hold tombstones.
const SAMPLE_DRAWS_MAX: usize = 64;
/// Slots searched in order when draws find nothing.
const SEARCH_SLOTS: usize = 4_096;
const WINDOW_LEN_MAX: usize = 1_024;
const WINDOW_SHARE: u64 = 100;

/// What is remembered about uses.
pub(super) struct Lfu {
    sketch: Sketch,
    /// The latest insertions, the oldest first.
    window: VecDeque<Token>,
}

impl Lfu {
    /// What is remembered, for another bound. Counts survive while the sketch has the right size.
    pub(super) fn resized(before: Option<Self>, memory_bytes_max: Option<u64>) -> Self {
        match before {
            Some(lfu) if lfu.sketch.fits(memory_bytes_max) => lfu,
            _ => Self {
                sketch: Sketch::new(memory_bytes_max),
                window: VecDeque::with_capacity(WINDOW_LEN_MAX),
            },
        }
    }

    /// Counts a use.
    #[inline]
    pub(super) fn record(&mut self, token: Token) {
        self.sketch.record(token);
    }

    /// How often the token was used of late.
    pub(super) fn frequency(&self, token: Token) -> u8 {
        self.sketch.frequency(token)
    }

    /// Takes a new key into the window of a store of `key_count` keys.
    pub(super) fn admit(&mut self, token: Token, key_count: u64) {
        while self.is_window_full(key_count) {
            self.window.pop_front();
        }
        self.window.push_back(token);
        assert!(self.window.len() <= WINDOW_LEN_MAX);
    }

    fn is_window_full(&self, key_count: u64) -> bool {
        let share = usize::try_from(key_count / WINDOW_SHARE).unwrap_or(WINDOW_LEN_MAX);
        self.window.len() >= share.clamp(1, WINDOW_LEN_MAX)
    }

    /// The key that has to leave the window, if it is full.
    fn leave_window(&mut self, key_count: u64) -> Option<Token> {
        if self.is_window_full(key_count) { self.window.pop_front() } else { None }
    }

    /// Memory of sketch and window.
    pub(super) fn bytes(&self) -> u64 {
        self.sketch.bytes() + allocation_bytes(self.window.capacity() * size_of::<Token>()) as u64
    }
}

impl MemoryStorage {
    /// Sees to it that the mutation fits, evicting if that is allowed. Returns where the key's
    /// item is after that.
    pub(super) fn make_room(
        &mut self,
        token: Token,
        mutation: &Mutation<'_>,
        place: Option<Place>,
        now: WallTime,
    ) -> Result<Option<Place>, Error> {
        let Some(max_bytes) = self.memory_bytes_max else { return Ok(place) };
        let mut place = place;
        let mut evictions_left = EVICTIONS_PER_WRITE_MAX;
        loop {
            let needed_bytes = self.needed_bytes(token, mutation, place);
            let used_bytes = self.memory_bytes();
            if needed_bytes == 0 || used_bytes + needed_bytes <= max_bytes {
                return Ok(place);
            }
            if evictions_left == 0 || !self.evict(Some(token), now) {
                return Err(Error::OutOfMemory { used_bytes, max_bytes, needed_bytes });
            }
            evictions_left -= 1;
            place = self.table.find(token, mutation.key);
        }
    }

    /// What the mutation adds to the memory in use; 0 where it makes the record no larger.
    fn needed_bytes(&self, token: Token, mutation: &Mutation<'_>, place: Option<Place>) -> u64 {
        let new_bytes = Table::item_bytes(mutation);
        match place {
            Some(place) => {
                new_bytes.saturating_sub(self.table.item(place).allocation_bytes() as u64)
            }
            None => new_bytes + self.table.growth_bytes_max(token),
        }
    }

    /// Evicts one record, of another token than `kept`. Returns whether there was one.
    pub(super) fn evict(&mut self, kept: Option<Token>, now: WallTime) -> bool {
        if self.eviction == Eviction::Refuse {
            return false;
        }
        let key_count = self.table.totals().key_count;
        let candidate = self.lfu.as_mut().and_then(|lfu| lfu.leave_window(key_count));
        let candidate = candidate.filter(|token| Some(*token) != kept);
        let candidate = candidate.and_then(|token| self.table.find_token(token));
        let candidate = candidate.filter(|place| is_live(self.table.item(*place), now));
        let victim = match (candidate, self.sample_victim(kept, now)) {
            (Some(candidate), Some(victim)) => {
                let newcomer_is_used_more = self.use_count(candidate) > self.use_count(victim);
                Some(if newcomer_is_used_more { victim } else { candidate })
            }
            (candidate, victim) => victim.or(candidate),
        };
        let Some(victim) = victim else { return false };
        self.evict_at(victim, now);
        true
    }

    fn evict_at(&mut self, place: Place, now: WallTime) {
        let item = self.table.item(place);
        if is_expired(item, now) {
            self.counters.expired_count += 1;
        } else {
            self.counters.evicted_count += 1;
        }
        if self.tombstones == Tombstones::Drop {
            self.floor = self.floor.max(item.version());
        }
        self.table.remove(place);
    }

    fn use_count(&self, place: Place) -> u8 {
        let token = self.table.token_of(self.table.item(place));
        self.frequency_of(token)
    }

    fn frequency_of(&self, token: Token) -> u8 {
        self.lfu.as_ref().map_or(0, |lfu| lfu.frequency(token))
    }

    /// The least used of a few records, or one that has expired.
    fn sample_victim(&mut self, kept: Option<Token>, now: WallTime) -> Option<Place> {
        let mut least: Option<(u8, Place)> = None;
        let mut sampled = 0;
        for _ in 0..SAMPLE_DRAWS_MAX {
            let Some(place) = self.draw() else { continue };
            let item = self.table.item(place);
            let token = self.table.token_of(item);
            if item.is_tombstone() || Some(token) == kept {
                continue;
            }
            if is_expired(item, now) {
                return Some(place);
            }
            let frequency = self.frequency_of(token);
            if least.is_none_or(|(smallest, _)| frequency < smallest) {
                least = Some((frequency, place));
            }
            sampled += 1;
            if sampled == SAMPLE_LEN {
                break;
            }
        }
        least.map(|(_, place)| place).or_else(|| {
            let (segment, bucket) = (self.rng.u64(..), self.rng.usize(..));
            self.table.first_place(segment, bucket, SEARCH_SLOTS, |item| {
                !item.is_tombstone() && Some(self.table.token_of(item)) != kept
            })
        })
    }
}
