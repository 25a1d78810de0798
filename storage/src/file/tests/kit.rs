//! A store on a simulated disk, with what its tests do to it over and over.

use std::collections::BTreeMap;

use super::*;
use crate::backend::OnDisk;

/// Whatever is waited for takes far fewer turns.
const TURNS_MAX: usize = 20_000;
/// Turns of ten milliseconds in which nothing may be under way before a store counts as idle.
const IDLE_TURNS: usize = 120;

pub(super) const SEGMENT_BYTES: u32 = 64 << 10;

/// Small segments, and hardly a cache: what is read comes from the log.
pub(super) fn small() -> Setup {
    setup(SEGMENT_BYTES, 0)
}

/// A store with its clocks and its next version.
pub(super) struct Rig<D> {
    pub(super) store: FileStorage<D>,
    pub(super) setup: Setup,
    pub(super) recovered: Recovered,
    pub(super) now: WallTime,
    tombstones: Tombstones,
    clock: u64,
    version: u64,
    ready: BTreeMap<Ticket, Result<(), ReadError>>,
}

impl Rig<SimulatedDisk> {
    /// A store on a new disk, and a handle to it.
    pub(super) fn new(seed: u64) -> (Self, SimulatedDisk) {
        let disk = SimulatedDisk::new(seed, Faults::NONE);
        (Self::open(disk.clone(), small()), disk)
    }
}

impl<D: Disk> Rig<D> {
    pub(super) fn open(disk: D, setup: Setup) -> Self {
        Self::try_open(disk, setup).unwrap_or_else(|error| panic!("{error}"))
    }

    pub(super) fn try_open(disk: D, setup: Setup) -> Result<Self, OpenFailure> {
        Self::try_open_with(disk, setup, Tombstones::Drop)
    }

    fn try_open_with(disk: D, setup: Setup, tombstones: Tombstones) -> Result<Self, OpenFailure> {
        let options = contract::options(tombstones);
        let (store, recovered) = FileStorage::open(disk, setup.clone(), &options, START)?;
        let ready = BTreeMap::new();
        Ok(Self { store, setup, recovered, now: START, tombstones, clock: 0, version: 0, ready })
    }

    /// A store that keeps tombstones.
    pub(super) fn open_keeping(disk: D) -> Self {
        let opened = Self::try_open_with(disk, small(), Tombstones::Keep);
        opened.unwrap_or_else(|error| panic!("{error}"))
    }

    /// The same store once more, on what its disk holds by now.
    pub(super) fn reopen(self, disk: D) -> Self {
        let opened = Self::try_open_with(disk, self.setup, self.tombstones);
        let opened = opened.unwrap_or_else(|error| panic!("{error}"));
        Self { now: self.now, version: self.version, ..opened }
    }

    pub(super) fn write(
        &mut self,
        key: &[u8],
        value: Option<&[u8]>,
        expires_at: Option<WallTime>,
    ) -> Result<Applied, Error> {
        self.version += 1;
        let version = contract::version(self.version);
        let mutation = Mutation { key, value, version, expires_at };
        self.store.apply(contract::token_of(key), &mutation, self.now)
    }

    /// Leaves a version to a write that does not come through here.
    pub(super) fn skip_version(&mut self) {
        self.version += 1;
    }

    /// Writes as a client does, which waits when it is told to.
    pub(super) fn apply(&mut self, key: &[u8], value: Option<&[u8]>, expires_at: Option<WallTime>) {
        loop {
            match self.write(key, value, expires_at) {
                Ok(_) => return,
                Err(Error::Busy(ticket)) => {
                    self.wait_for(ticket).expect("there is room in the end");
                }
                Err(error) => panic!("{error}"),
            }
        }
    }

    pub(super) fn set(&mut self, key: &[u8], value: &[u8]) {
        self.apply(key, Some(value), None);
    }

    pub(super) fn delete(&mut self, key: &[u8]) {
        self.apply(key, None, None);
    }

    /// A turn a tenth of a millisecond later.
    pub(super) fn turn(&mut self) {
        self.turn_after(Duration::from_micros(100));
    }

    pub(super) fn turn_after(&mut self, time: Duration) {
        self.clock += u64::try_from(time.as_nanos()).unwrap();
        self.store.turn(Instant::from_nanos(self.clock));
        self.ready.extend(std::iter::from_fn(|| self.store.poll_ready()));
    }

    pub(super) fn wait_for(&mut self, ticket: Ticket) -> Result<(), ReadError> {
        for _ in 0..TURNS_MAX {
            if let Some(result) = self.ready.remove(&ticket) {
                return result;
            }
            self.turn();
        }
        panic!("a ticket never becomes ready");
    }

    /// Turns until all that was applied is durable.
    pub(super) fn commit(&mut self) {
        for _ in 0..TURNS_MAX {
            if self.store.durable() == self.store.appended() {
                return;
            }
            self.turn();
        }
        panic!("a commit never ends");
    }

    /// Where a key's record is.
    pub(super) fn place_of(&self, key: &[u8]) -> (FileId, u64) {
        let known = self.store.index.find(self.store.ident(contract::token_of(key), key));
        let place = known.expect("a test asks for a key that is there").place;
        (place.file, u64::from(place.offset))
    }

    pub(super) fn stats(&self) -> LogStats {
        self.store.log_stats().expect("it has a log")
    }

    /// Whatever can be read of a key, from wherever it is.
    pub(super) fn read(&mut self, key: &[u8]) -> Result<Option<Vec<u8>>, ReadError> {
        let token = contract::token_of(key);
        for _ in 0..TURNS_MAX {
            if let Ok(found) = self.peek(key) {
                return Ok(found);
            }
            let ticket = self.store.load(token, key);
            let result = self.wait_for(ticket);
            let found = self.peek(key);
            self.store.release(ticket);
            match (result, found) {
                (Err(error), _) => return Err(error),
                (Ok(()), Ok(found)) => return Ok(found),
                // It has moved meanwhile.
                (Ok(()), Err(OnDisk)) => {}
            }
        }
        panic!("a record is never in memory");
    }

    fn peek(&self, key: &[u8]) -> Result<Option<Vec<u8>>, OnDisk> {
        let record = self.store.peek(contract::token_of(key), key, self.now).record()?;
        Ok(record.map(|record| record.value.to_vec()))
    }

    pub(super) fn assert_holds(&mut self, expected: &BTreeMap<Vec<u8>, Vec<u8>>) {
        let found = contract::walked(&mut self.store, 100, self.now);
        let found: BTreeMap<_, _> = found.into_iter().map(|(_, key, value)| (key, value)).collect();
        assert_eq!(found.len(), expected.len(), "keys");
        for (key, value) in expected {
            assert_eq!(found.get(key), Some(value), "{}", String::from_utf8_lossy(key));
        }
    }
}

impl Rig<SimulatedDisk> {
    /// Whether something is under way, or due at this time.
    pub(super) fn is_at_work(&self, disk: &SimulatedDisk) -> bool {
        let now = Instant::from_nanos(self.clock);
        disk.under_way_count() > 0 || self.store.turn_due_at().is_some_and(|due| due <= now)
    }

    /// Turns until nothing is under way nor due, however long that takes.
    pub(super) fn settle(&mut self, disk: &SimulatedDisk) {
        let mut idle = 0;
        for _ in 0..TURNS_MAX {
            self.turn_after(Duration::from_millis(10));
            let is_busy = disk.under_way_count() > 0 || self.store.turn_due_at().is_some();
            idle = if is_busy { 0 } else { idle + 1 };
            if idle == IDLE_TURNS {
                return;
            }
        }
        panic!("the store never comes to rest: {:?}", self.stats());
    }

    /// Turns as a node does: when the disk has done something, and when a turn is due. Returns when
    /// neither will happen again.
    pub(super) fn settle_by_due_times(&mut self, disk: &SimulatedDisk) {
        for _ in 0..TURNS_MAX {
            let at = Instant::from_nanos(self.clock);
            let wait = self.store.turn_due_at().map(|due| due.saturating_since(at));
            match wait {
                _ if disk.under_way_count() > 0 => self.turn(),
                Some(wait) => self.turn_after(wait),
                None => return,
            }
        }
        panic!("the store never comes to rest: {:?}", self.stats());
    }
}
