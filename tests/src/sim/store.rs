//! A node's one shard: its store, and the replica on it.

use gridkv_cluster::message::{Head, Reason};
use gridkv_cluster::replication::{Applied, Busy, Context, Hold, Records, Replica, Reply, Unready};
use gridkv_cluster::{HybridClock, Mutation, ShardRange, Token, Version, WallTime};
use gridkv_storage::disk::SimulatedDisk;
use gridkv_storage::file::{FileStorage, OpenFailure, Setup};
use gridkv_storage::{
    Accepted, Durability, Error, Eviction, LogPosition, MemoryStorage, Options, Storage, Ticket,
    Tombstones,
};

/// Size of a file of the log.
const SEGMENT_BYTES: u32 = 1 << 17;

/// A store as a replica sees it.
struct View<'a> {
    storage: &'a mut dyn Storage,
    now: WallTime,
    lack: &'a mut Option<Lack>,
    promise_at: &'a mut LogPosition,
}

/// What a replica waits for.
#[derive(Clone, Debug)]
enum Lack {
    Ticket(Ticket),
    Record(Token, Vec<u8>),
}

impl View<'_> {
    fn refused(&mut self, refused: Error) -> Unready {
        Unready::Refused(match refused {
            Error::Busy(ticket) => {
                *self.lack = Some(Lack::Ticket(ticket));
                return Unready::Busy;
            }
            Error::DiskFull => Reason::DiskFull,
            Error::LogFailed | Error::TooLarge { .. } => Reason::Failed,
            Error::OutOfMemory { .. } => Reason::OutOfMemory,
        })
    }
}

impl Records for View<'_> {
    fn latest<'a>(
        &'a mut self,
        token: Token,
        key: &'a [u8],
    ) -> Result<Option<Mutation<'a>>, Unready> {
        let (value, version, expires_at) = match self.storage.accepted(token, key, self.now) {
            Accepted::Nothing => return Ok(None),
            Accepted::Value(record) => (Some(record.value), record.version, record.expires_at),
            Accepted::Deleted(version) => (None, version, None),
            Accepted::OnDisk(_) => {
                *self.lack = Some(Lack::Record(token, key.to_vec()));
                return Err(Unready::Busy);
            }
        };
        Ok(Some(Mutation { key, value, version, expires_at }))
    }

    fn version(&mut self, token: Token, key: &[u8]) -> Version {
        self.storage.accepted(token, key, self.now).version().unwrap_or(Version::ZERO)
    }

    fn apply(&mut self, token: Token, mutation: &Mutation<'_>) -> Result<Applied, Unready> {
        match self.storage.apply(token, mutation, self.now) {
            Ok(gridkv_storage::Applied::Won { replaced }) => Ok(Applied::Won { replaced }),
            Ok(gridkv_storage::Applied::Superseded) => Ok(Applied::Superseded),
            Err(refused) => Err(self.refused(refused)),
        }
    }

    fn promise(&mut self, through: Version) -> Result<(), Unready> {
        self.storage.promise(through).map_err(|refused| self.refused(refused))?;
        *self.promise_at = self.storage.appended();
        Ok(())
    }

    fn promised(&self) -> Version {
        self.storage.promised()
    }

    fn floor(&self) -> Version {
        self.storage.floor()
    }
}

/// A shard.
pub(super) struct Shard {
    pub(super) storage: Box<dyn Storage>,
    pub(super) replica: Replica,
    promise_at: LogPosition,
}

impl Shard {
    /// A shard whose records are in memory.
    pub(super) fn in_memory(seed: u64) -> Self {
        Self::on(Box::new(MemoryStorage::new(&options(seed))))
    }

    /// A shard whose records are on a disk.
    pub(super) fn on_disk(
        disk: SimulatedDisk,
        cache_bytes_max: u64,
        seed: u64,
        now: WallTime,
    ) -> Result<Self, OpenFailure> {
        let setup = Setup {
            cache_bytes_max,
            durability: Durability::Commit,
            segment_bytes: SEGMENT_BYTES,
            directory: "simulated".to_owned(),
        };
        let (store, recovered) = FileStorage::open(disk, setup, &options(seed), now)?;
        assert!(recovered.damages.is_empty(), "{:?}", recovered.damages);
        Ok(Self::on(Box::new(store)))
    }

    fn on(storage: Box<dyn Storage>) -> Self {
        let replica = Replica::new(storage.promised());
        Self { storage, replica, promise_at: LogPosition::default() }
    }

    /// Answers a coordinator, with how far the log must be durable before the answer may leave.
    ///
    /// # Errors
    ///
    /// What has to be ready before it can be asked again.
    pub(super) fn answer(
        &mut self,
        clock: &mut HybridClock,
        context: &Context<'_>,
        head: &Head,
        mutation: &Mutation<'_>,
    ) -> Result<(Reply, Option<LogPosition>), Ticket> {
        let token = crate::sim::token_of(mutation.key);
        let mut lack = None;
        let mut store = View {
            storage: &mut *self.storage,
            now: context.wall,
            lack: &mut lack,
            promise_at: &mut self.promise_at,
        };
        match self.replica.handle(&mut store, clock, context, head, mutation) {
            Ok(reply) => {
                let hold = self.hold_of(reply.hold, token, mutation.key);
                Ok((reply, hold))
            }
            Err(Busy) => Err(match lack.expect("a store that is busy says why") {
                Lack::Ticket(ticket) => ticket,
                Lack::Record(token, key) => self.storage.load(token, &key),
            }),
        }
    }

    fn hold_of(&self, hold: Hold, token: Token, key: &[u8]) -> Option<LogPosition> {
        let record = || self.storage.unsettled(token, key);
        let position = match hold {
            Hold::Nothing => return None,
            Hold::Record => record()?,
            Hold::Promise => record().unwrap_or_default().max(self.promise_at),
            Hold::Appended => self.storage.appended(),
        };
        (position > self.storage.durable()).then_some(position)
    }

    /// Whether everything up to `version` is gone.
    pub(super) fn clear_through(&mut self, version: Version) -> bool {
        self.storage.floor() >= version || self.storage.clear(version).is_ok()
    }

    /// Whether it holds neither values nor tombstones.
    pub(super) fn is_empty(&self) -> bool {
        let stats = self.storage.stats();
        stats.key_count == 0 && stats.tombstone_count == 0
    }

    /// The largest version that the store, or a promise of its, has ever used.
    pub(super) fn resume_after(&self) -> Version {
        self.storage.version_max().max(self.storage.promised()).max(self.storage.floor())
    }
}

fn options(seed: u64) -> Options {
    Options {
        token_key: crate::sim::token_key(),
        range: ShardRange::WHOLE,
        disk: None,
        memory_bytes_max: None,
        eviction: Eviction::Refuse,
        tombstones: Tombstones::Keep,
        seed,
    }
}
