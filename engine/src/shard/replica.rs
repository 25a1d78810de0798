//! A shard as a replica: answers coordinators, its own node's and others'.

use gridkv_cluster::message::{Head, Reason};
use gridkv_cluster::replication::{
    Applied, Busy, Context, Hold as ReplyHold, Records, Reply, Unready,
};
use gridkv_cluster::{HybridClock, Mutation, Token, Version, WallTime};
use gridkv_storage::{Accepted, Durability, LogPosition, Storage};

use super::Shard;
use super::store::Lack;
use crate::core::held::Hold;

/// A store as a replica sees it.
struct Store<'a> {
    storage: &'a mut dyn Storage,
    now: WallTime,
    lack: &'a mut Option<Lack>,
    promise_at: &'a mut LogPosition,
}

impl Store<'_> {
    fn refused(&mut self, refused: gridkv_storage::Error) -> Unready {
        use gridkv_storage::Error as Refused;
        Unready::Refused(match refused {
            Refused::Busy(ticket) => {
                *self.lack = Some(Lack::Ticket(ticket));
                return Unready::Busy;
            }
            Refused::DiskFull => Reason::DiskFull,
            Refused::LogFailed | Refused::TooLarge { .. } => Reason::Failed,
            Refused::OutOfMemory { .. } => Reason::OutOfMemory,
        })
    }
}

impl Records for Store<'_> {
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

impl Shard {
    /// Answers a coordinator, with what must be durable before the answer may leave.
    ///
    /// # Errors
    ///
    /// [`Busy`] when the store has to wait: [`Shard::take_wait`] says for what.
    pub(crate) fn answer(
        &mut self,
        clock: &mut HybridClock,
        context: &Context<'_>,
        head: &Head,
        mutation: &Mutation<'_>,
    ) -> Result<(Reply, Option<Hold>), Busy> {
        let token = self.token_key.token(mutation.key);
        let mut replica = std::mem::take(&mut self.replica);
        let mut store = Store {
            storage: &mut *self.storage,
            now: self.now,
            lack: &mut self.lack,
            promise_at: &mut self.promise_at,
        };
        let result = replica.handle(&mut store, clock, context, head, mutation);
        self.replica = replica;
        let reply = result?;
        let hold = self.hold_of(reply.hold, token, mutation.key);
        Ok((reply, hold))
    }

    /// What a reply waits for. With a durability that does not wait, nothing does.
    fn hold_of(&mut self, hold: ReplyHold, token: Token, key: &[u8]) -> Option<Hold> {
        if !self.has_log {
            return None;
        }
        self.appended = self.storage.appended();
        if self.durability != Durability::Commit {
            return None;
        }
        let record = || self.storage.unsettled(token, key);
        let position = match hold {
            ReplyHold::Nothing => return None,
            ReplyHold::Record => record()?,
            ReplyHold::Promise => record().unwrap_or_default().max(self.promise_at),
            ReplyHold::Appended => self.appended,
        };
        (position > self.durable).then_some(Hold { shard: self.index, position })
    }

    /// Removes everything up to `version`, for good.
    ///
    /// # Errors
    ///
    /// As [`Shard::set`].
    pub(crate) fn clear_through(&mut self, version: Version) -> Result<(), crate::Error> {
        if self.storage.floor() >= version {
            return Ok(());
        }
        self.storage.clear(version).map_err(|refused| self.refused(refused))?;
        if self.has_log {
            self.note_write();
        }
        Ok(())
    }

    /// Promises that are kept by key.
    pub(crate) fn promise_count(&self) -> usize {
        self.replica.promise_count()
    }

    /// Whether it holds neither values nor tombstones.
    pub(crate) fn is_empty(&self) -> bool {
        let stats = self.storage.stats();
        stats.key_count == 0 && stats.tombstone_count == 0
    }

    /// The largest version that the store, or a promise of its, has ever used.
    pub(crate) fn resume_after(&self) -> Version {
        self.storage.version_max().max(self.storage.promised()).max(self.storage.floor())
    }
}
