//! The store as its callers see it.

use std::time::Duration;

use gridkv_cluster::{Instant, Mutation, Token, TokenKey, Version, WallTime};

use super::format::{Kind, PAYLOAD_BYTES_MAX, record_bytes};
use super::log::{Append, Priority, State};
use super::reads::Wanted;
use super::{Counters, FileStorage, WALK_LOADS_MAX, is_past};
use crate::backend::{
    Accepted, Applied, Entry, Error, Eviction, LogPosition, LogStats, Lookup, ReadError, Stats,
    Step, Storage, Ticket, Tombstones,
};
use crate::disk::{Disk, FileId};
use crate::table::item::{KEY_LEN_MAX, VALUE_LEN_MAX};

/// A search for what has expired frees one part of a cleared index where it looks at so many slots.
const SLOTS_PER_FREED_PART: usize = 256;

impl<D: Disk> Storage for FileStorage<D> {
    #[inline]
    fn get(&mut self, token: Token, key: &[u8], now: WallTime) -> Lookup<'_> {
        self.now = now;
        if let Some(place) = self.cache.touch(token, key, now) {
            self.counters.hit_count += 1;
            return Lookup::Found(self.cache.record_at(place));
        }
        let ident = self.ident(token, key);
        let Some(known) = self.index.find(ident).filter(|known| !known.is_tombstone) else {
            self.counters.miss_count += 1;
            return Lookup::Absent;
        };
        if is_past(known.expires_at, now) {
            self.counters.miss_count += 1;
            self.cache.forget(token, key);
            if self.tombstones == Tombstones::Drop {
                self.expire(ident);
            }
            return Lookup::Absent;
        }
        let found = self.in_memory(ident, key, &known);
        match found {
            Lookup::Found(_) => self.counters.hit_count += 1,
            Lookup::Absent => self.counters.miss_count += 1,
            // It is counted when it has been brought in.
            Lookup::OnDisk => {}
        }
        self.in_memory(ident, key, &known)
    }

    fn peek(&self, token: Token, key: &[u8], now: WallTime) -> Lookup<'_> {
        let cached = self.cache.peek(token, key, now);
        if let Lookup::Found(_) = cached {
            return cached;
        }
        let ident = self.ident(token, key);
        match self.find_live(ident, now) {
            Some(known) => self.in_memory(ident, key, &known),
            None => Lookup::Absent,
        }
    }

    fn apply(
        &mut self,
        token: Token,
        mutation: &Mutation<'_>,
        now: WallTime,
    ) -> Result<Applied, Error> {
        self.now = now;
        let (key_bytes, value_bytes) = (mutation.key.len(), mutation.value.map_or(0, <[u8]>::len));
        let payload_max = self.log.payload_bytes_max().min(PAYLOAD_BYTES_MAX);
        let is_large = key_bytes > KEY_LEN_MAX || value_bytes > VALUE_LEN_MAX;
        if is_large || key_bytes + value_bytes > payload_max {
            return Err(Error::TooLarge { key_bytes, value_bytes });
        }
        let ident = self.ident(token, mutation.key);
        let mut known = self.index.find(ident);
        if self.tombstones == Tombstones::Drop
            && known.is_some_and(|known| is_past(known.expires_at, now))
        {
            self.cache.forget(token, mutation.key);
            self.expire(ident);
            known = self.index.find(ident);
        }
        let newest = known.map_or(self.floor, |known| known.version);
        if mutation.version <= newest {
            return Ok(Applied::Superseded);
        }
        if known.is_none() && mutation.value.is_some() {
            self.make_room(ident, now)?;
        }
        let before = self.apply_won(ident, mutation, token, now)?;
        if let Some(max_bytes) = self.memory_bytes_max
            && self.memory_bytes() > max_bytes
        {
            self.give_way(0, now);
        }
        let is_live = |it: super::Known| !it.is_tombstone && !is_past(it.expires_at, now);
        Ok(Applied::Won { replaced: before.is_some_and(is_live) })
    }

    fn accepted(&mut self, token: Token, key: &[u8]) -> Accepted<'_> {
        self.find_accepted(token, key)
    }

    fn floor(&self) -> Version {
        self.floor
    }

    fn promise(&mut self, through: Version) -> Result<(), Error> {
        if through <= self.log.promised {
            return Ok(());
        }
        self.append_promise(through)
    }

    fn promised(&self) -> Version {
        self.log.promised
    }

    fn prefetch(&self, tokens: &[Token]) {
        self.cache.prefetch(tokens);
        self.index.prefetch(tokens.iter().map(|token| self.range.position(*token)));
    }

    fn load(&mut self, token: Token, key: &[u8]) -> Ticket {
        let ident = self.ident(token, key);
        let known = self.index.find(ident);
        let wanted = known.map(|known| Wanted { ident, known, needs_value: true });
        self.start_loading(wanted.into_iter().collect(), true)
    }

    fn load_now(&mut self, token: Token, key: &[u8]) -> Result<Ticket, ReadError> {
        let ident = self.ident(token, key);
        match self.index.find(ident) {
            Some(known) => self.read_now(ident, &known),
            None => Ok(self.reads.ticket()),
        }
    }

    fn poll_ready(&mut self) -> Option<(Ticket, Result<(), ReadError>)> {
        self.reads.poll_ready()
    }

    fn release(&mut self, ticket: Ticket) {
        self.release_loaded(ticket);
    }

    fn turn(&mut self, now: Instant) {
        self.log.set_now(now);
        self.reap();
        self.log.turn(now);
        self.fade();
        self.compact();
        if self.is_giving_way {
            self.give_way(0, self.now);
        }
        if self.log.takes_more() {
            self.reads.room_made();
        }
    }

    fn turn_due_at(&self) -> Option<Instant> {
        let times = [self.log.due_at(), self.compaction_due_at(), self.way_due_at()];
        times.into_iter().flatten().min()
    }

    fn appended(&self) -> LogPosition {
        self.log.appended()
    }

    fn durable(&self) -> LogPosition {
        self.log.durable()
    }

    fn unsettled(&self, token: Token, key: &[u8]) -> Option<LogPosition> {
        if self.log.durable() == self.log.appended() {
            return None;
        }
        let known = self.index.find(self.ident(token, key));
        known.map_or_else(
            || (self.cleared_at > self.log.durable()).then_some(self.cleared_at),
            |known| self.log.unsettled(known.place),
        )
    }

    fn request_commit(&mut self) {
        self.log.request_commit();
    }

    fn has_failed(&self) -> bool {
        self.log.has_failed()
    }

    fn version_max(&self) -> Version {
        self.log.version_max
    }

    fn close(&mut self) {
        self.quiesce();
        self.log.end();
        self.quiesce();
        self.fade();
        self.write_checkpoint();
    }

    fn pin(&mut self) {
        self.pin_count += 1;
    }

    fn unpin(&mut self) {
        assert!(self.pin_count > 0, "what is pinned is unpinned once");
        self.pin_count -= 1;
    }

    fn roll(&mut self) -> Result<(), Error> {
        if self.log.promised > Version::ZERO && !self.log.has_promise() {
            // The files of a snapshot tell it, whichever of them are left by then.
            self.append_promise(self.log.promised)?;
        }
        self.log.force_roll().map_err(|refusal| self.refused(refusal, Priority::Ordinary))
    }

    fn record_files(&self) -> Vec<String> {
        let numbered = self.log.files.iter().enumerate();
        let names = numbered.filter_map(|(number, file)| {
            let is_begun = file.is_some_and(|it| {
                // One that leaves is needed no more, and may be gone before it has a second name.
                it.has_records() && !matches!(it.state, State::Active | State::Leaving)
            });
            is_begun.then(|| FileId(u32::try_from(number).unwrap_or(u32::MAX)))
        });
        names.map(|file| self.log.disk.name(file)).collect()
    }

    fn log_stats(&self) -> Option<LogStats> {
        let (mut disk_bytes, mut live_bytes, mut segment_count) = (0, 0, 0);
        for file in self.log.files.iter().flatten() {
            disk_bytes += u64::from(file.bytes);
            live_bytes += file.kept_bytes();
            segment_count += 1;
        }
        let counters = &self.log.counters;
        Some(LogStats {
            disk_bytes,
            live_bytes,
            segment_count,
            record_count: counters.record_count,
            commit_count: counters.commit_count,
            sync_count: counters.sync_count,
            written_bytes: counters.written_bytes,
            compacted_bytes: self.compacted_bytes,
            read_count: self.reads.count,
            damaged_count: self.damaged_count,
            read_error_count: self.reads.error_count,
            sync_nanos_last: counters.sync_nanos_last,
            sync_nanos_max: counters.sync_nanos_max,
            index_bytes: self.index.memory_bytes(),
            cache_bytes: self.cache.bytes(),
            buffer_bytes: self.log.buffer_bytes() + self.compaction.buffer_bytes(),
            failed_count: u64::from(self.log.has_failed()),
            full_count: u64::from(self.log.is_full()),
        })
    }

    fn walk(
        &mut self,
        from: Token,
        budget: usize,
        now: WallTime,
        visit: &mut dyn FnMut(Entry<'_>),
    ) -> Step<Option<Token>> {
        self.now = now;
        if !self.range.contains(from) && from > self.range.first() {
            return Step::Done(None);
        }
        let from = self.range.position(from.max(self.range.first()));
        let mut found = Vec::new();
        let next = self.index.walk(from, budget.min(WALK_LOADS_MAX), &mut |ident, known| {
            if !known.is_tombstone && !is_past(known.expires_at, now) {
                found.push((ident, known));
            }
        });
        let missing = found.iter().filter(|(ident, known)| !self.has_key(*ident, known));
        let missing: Vec<Wanted> = missing
            .map(|(ident, known)| Wanted { ident: *ident, known: *known, needs_value: false })
            .collect();
        if !missing.is_empty() {
            return Step::Loading(self.start_loading(missing, false));
        }
        for (ident, known) in &found {
            if let Some(token) = self.range.token_at(ident.position) {
                self.with_key(*ident, known, |key| visit(self.entry(token, key, known)));
            }
        }
        Step::Done(next.and_then(|position| self.range.token_at(position)))
    }

    fn walk_accepted(
        &mut self,
        from: Token,
        budget: usize,
        visit: &mut dyn FnMut(&Mutation<'_>),
    ) -> Step<Option<Token>> {
        self.walk_mutations(from, budget, visit)
    }

    fn collect_expired(&mut self, budget: usize, now: WallTime) -> usize {
        self.now = now;
        self.index.free_some(budget.div_ceil(SLOTS_PER_FREED_PART));
        self.cache.collect_expired(budget / 2, now);
        let (mut left, mut collected) = (budget, 0);
        while let Some(ident) = self.index.next_due(&mut left, now) {
            self.expire(ident);
            collected += 1;
        }
        collected
    }

    fn random(&mut self, now: WallTime) -> Step<Option<Entry<'_>>> {
        self.now = now;
        let drawn = self.draw.take();
        let again = drawn.and_then(|ident| Some((ident, self.find_live(ident, now)?)));
        let found = again.or_else(|| self.draw_live(now));
        let Some((ident, known)) = found else { return Step::Done(None) };
        if !self.has_key(ident, &known) {
            self.draw = Some(ident);
            let wanted = vec![Wanted { ident, known, needs_value: false }];
            return Step::Loading(self.start_loading(wanted, false));
        }
        let token = self.range.token_at(ident.position).unwrap_or(Token::MIN);
        Step::Done(self.key_of(ident, &known).map(|key| self.entry(token, key, &known)))
    }

    fn idle_time(&self, token: Token, key: &[u8], now: WallTime) -> Option<Duration> {
        let cached = self.cache.idle_time(token, key, now);
        // What is not in the cache was not used for long.
        let long = Duration::from_secs(u64::from(crate::table::STAMP_AGE_MAX));
        cached.or_else(|| self.find_live(self.ident(token, key), now).map(|_| long))
    }

    fn frequency(&self, token: Token) -> Option<u8> {
        self.cache.frequency(token)
    }

    fn record_bytes(&self, token: Token, key: &[u8], now: WallTime) -> Option<u64> {
        let known = self.find_live(self.ident(token, key), now)?;
        let cached = self.cache.record_bytes(token, key, now).unwrap_or(0);
        Some(cached + record_bytes(known.payload_bytes as usize) as u64)
    }

    fn clear(&mut self, version: Version) -> Result<(), Error> {
        let is_newest = version >= self.log.version_max;
        let mutation = Mutation { key: b"", value: None, version, expires_at: None };
        let place = self.append(&Append {
            kind: Kind::Clear,
            origin: None,
            mutation: &mutation,
            token: self.range.first(),
            fingerprint: 0,
            priority: Priority::MakesRoom,
        })?;
        self.floor = self.floor.max(version);
        self.log.floor = self.floor;
        self.cleared_at = self.log.appended();
        self.cache.forget_all();
        let left = self.index.clear(version);
        self.is_giving_way = true;
        let cleared = self.log.file(place.file).id;
        for file in self.log.files.iter_mut().flatten() {
            file.live_bytes = 0;
            if file.id < cleared && is_newest {
                // What they cover is covered by this.
                file.tombstone_bytes = 0;
            }
        }
        left.iter().for_each(|(_, known)| self.count_live(known));
        Ok(())
    }

    fn stats(&self) -> Stats {
        let totals = self.index.totals();
        Stats {
            key_count: totals.key_count,
            expiring_key_count: totals.expiring_key_count,
            // Else they are there until they are durable, and on their way out.
            tombstone_count: match self.tombstones {
                Tombstones::Keep => totals.tombstone_count,
                Tombstones::Drop => 0,
            },
            payload_bytes: totals.payload_bytes,
            memory_bytes: self.memory_bytes(),
            hit_count: self.counters.hit_count,
            miss_count: self.counters.miss_count,
            expired_count: self.counters.expired_count,
            evicted_count: 0,
        }
    }

    fn reset_stats(&mut self) {
        self.counters = Counters::default();
    }

    fn set_memory_limit(&mut self, memory_bytes_max: Option<u64>, _: Eviction) {
        self.memory_bytes_max = memory_bytes_max;
        let half = memory_bytes_max.map_or(u64::MAX, |bytes| bytes / 2);
        self.cache.set_memory_limit(Some(self.cache_bytes_max.min(half)), Eviction::Lfu);
        self.is_giving_way = true;
    }

    fn rekey(&mut self, token_key: &TokenKey) -> bool {
        let totals = self.index.totals();
        if totals.key_count + totals.tombstone_count > 0 || !self.cache.rekey(token_key) {
            return false;
        }
        self.token_key = token_key.clone();
        self.log.token_key = token_key.id();
        true
    }
}
