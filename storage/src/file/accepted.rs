//! What replicas ask of a store: what it has accepted, deletions too, and what it has promised.
//!
//! # Where a promise is
//!
//! In a record of the log, and in the header of every segment that is begun and of every file that is
//! freed after it. So the record is never moved: before its file goes, a header tells the same. A
//! snapshot takes the files that have records, so the promise is appended once more before those
//! are closed.

use gridkv_cluster::{Mutation, Token, Version};

use super::format::{self, Kind};
use super::index::{Ident, Known};
use super::log::{Append, Priority};
use super::reads::{Loaded, Wanted};
use super::{FileStorage, WALK_LOADS_MAX};
use crate::backend::{Accepted, Error, Lookup, Step, Tombstones};
use crate::disk::Disk;

/// Values shown in one step of a walk take at most so many bytes, unless one does alone.
const WALK_BYTES_MAX: u64 = 4 << 20;

/// A key that a walk has come to.
struct Visit {
    ident: Ident,
    known: Known,
    /// Deleted, or its value was freed.
    is_dead: bool,
}

impl<D: Disk> FileStorage<D> {
    /// What was accepted for a key.
    pub(super) fn find_accepted(&self, token: Token, key: &[u8]) -> Accepted<'_> {
        let ident = self.ident(token, key);
        let Some(known) = self.index.find(ident) else { return Accepted::Nothing };
        if known.is_tombstone && self.tombstones == Tombstones::Drop {
            return Accepted::Nothing;
        }
        if known.is_tombstone {
            return match known.expires_at {
                Some(expires_at) => Accepted::Ended(known.version, expires_at),
                None => Accepted::Deleted(known.version),
            };
        }
        if let Some(record) = self.cache.kept(token, key) {
            return Accepted::Value(record);
        }
        match self.in_memory(ident, key, &known) {
            Lookup::Found(record) => Accepted::Value(record),
            Lookup::OnDisk => Accepted::OnDisk(known.version),
            Lookup::Absent => Accepted::Nothing,
        }
    }

    /// Appends a promise.
    pub(super) fn append_promise(&mut self, through: Version) -> Result<(), Error> {
        let mutation = Mutation { key: b"", value: None, version: through, expires_at: None };
        // Deletions need it too, and they make room.
        self.append(&Append {
            kind: Kind::Promise,
            origin: None,
            mutation: &mutation,
            token: self.range.first(),
            fingerprint: 0,
            priority: Priority::MakesRoom,
        })?;
        assert!(self.log.promised >= through);
        Ok(())
    }

    /// Visits mutations in token order.
    pub(super) fn walk_mutations(
        &mut self,
        from: Token,
        budget: usize,
        visit: &mut dyn FnMut(&Mutation<'_>),
    ) -> Step<Option<Token>> {
        if !self.range.contains(from) && from > self.range.first() {
            return Step::Done(None);
        }
        let from = self.range.position(from.max(self.range.first()));
        let (visits, next) = self.next_visits(from, budget);
        let missing = visits.iter().filter(|it| self.mutation_of(it).is_none());
        let missing: Vec<Wanted> = missing
            .map(|Visit { ident, known, is_dead }| Wanted {
                ident: *ident,
                known: *known,
                needs_value: !is_dead,
            })
            .collect();
        if !missing.is_empty() {
            return Step::Loading(self.start_loading(missing, false));
        }
        visits.iter().filter_map(|it| self.mutation_of(it)).for_each(|it| visit(&it));
        Step::Done(next.and_then(|position| self.range.token_at(position)))
    }

    /// The keys of a step of a walk, and the position to go on from.
    fn next_visits(&self, from: u64, budget: usize) -> (Vec<Visit>, Option<u64>) {
        let mut visits: Vec<Visit> = Vec::new();
        let mut bytes = 0;
        let mut cut_at = None;
        let next = self.index.walk(from, budget.min(WALK_LOADS_MAX), &mut |ident, known| {
            let is_dead = known.is_tombstone;
            bytes += if is_dead { 0 } else { u64::from(known.payload_bytes) };
            // Keys of one position are visited together: a walk goes on from a position.
            let is_apart = visits.last().is_some_and(|last| last.ident.position < ident.position);
            if bytes > WALK_BYTES_MAX && is_apart {
                cut_at.get_or_insert(ident.position);
            }
            let is_fading = known.is_tombstone && self.tombstones == Tombstones::Drop;
            if cut_at.is_none() && !is_fading && !self.damaged_places.contains(&known.place) {
                visits.push(Visit { ident, known, is_dead });
            }
        });
        (visits, cut_at.or(next))
    }

    /// What a key was last told, if all that a walk shows of it is in memory.
    fn mutation_of(&self, visit: &Visit) -> Option<Mutation<'_>> {
        let Visit { ident, known, is_dead } = visit;
        let (version, expires_at) = (known.version, known.expires_at);
        if *is_dead {
            let key = self.key_of(*ident, known)?;
            return Some(Mutation { key, value: None, version, expires_at });
        }
        let loaded = self.reads.loaded(*ident, known.place).and_then(Loaded::record);
        let record = loaded.or_else(|| {
            let staged = self.log.staged(known.place)?;
            format::read_record(self.log.file(known.place.file).id, staged)
        });
        if let Some(record) = record {
            return Some(record.mutation);
        }
        let token = self.range.token_at(ident.position)?;
        let key = self.cache.key_of_token(token)?;
        let record = self.cache.kept(token, key)?;
        let is_meant = self.ident(token, key) == *ident && record.version == version;
        is_meant.then_some(Mutation { key, value: Some(record.value), version, expires_at })
    }
}
