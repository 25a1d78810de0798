//! A store as a replica sees it.

use gridkv_cluster::replication::{Applied, Records, Unready};
use gridkv_cluster::wire::message::Reason;
use gridkv_cluster::{Mutation, Token, Version, WallTime};

use crate::backend::{self, Accepted, Error, LogPosition, Storage, Ticket};

/// What the store has to have before a message can be answered.
#[derive(Debug)]
pub(super) enum Lack {
    /// What the ticket is for.
    Ticket(Ticket),
    /// A key's record.
    Record(Token, Vec<u8>),
}

/// The store, while a message is answered.
pub(super) struct View<'a> {
    pub(super) store: &'a mut dyn Storage,
    pub(super) now: WallTime,
    /// Set where the answer is that it has to wait.
    pub(super) lack: &'a mut Option<Lack>,
    /// Where the bound of the promises was last appended.
    pub(super) promise_at: &'a mut LogPosition,
}

impl View<'_> {
    fn refused(&mut self, error: Error) -> Unready {
        Unready::Refused(match error {
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
        let (value, version, expires_at) = match self.store.accepted(token, key) {
            Accepted::Nothing => return Ok(None),
            Accepted::Value(record) => (Some(record.value), record.version, record.expires_at),
            Accepted::Deleted(version) => (None, version, None),
            Accepted::Ended(version, expires_at) => (None, version, Some(expires_at)),
            Accepted::OnDisk(_) => {
                *self.lack = Some(Lack::Record(token, key.to_vec()));
                return Err(Unready::Busy);
            }
        };
        Ok(Some(Mutation { key, value, version, expires_at }))
    }

    fn version(&mut self, token: Token, key: &[u8]) -> Version {
        self.store.accepted(token, key).version().unwrap_or(Version::ZERO)
    }

    fn apply(&mut self, token: Token, mutation: &Mutation<'_>) -> Result<Applied, Unready> {
        match self.store.apply(token, mutation, self.now) {
            Ok(backend::Applied::Won { replaced }) => Ok(Applied::Won { replaced }),
            Ok(backend::Applied::Superseded) => Ok(Applied::Superseded),
            Err(error) => Err(self.refused(error)),
        }
    }

    fn promise(&mut self, through: Version) -> Result<(), Unready> {
        self.store.promise(through).map_err(|error| self.refused(error))?;
        *self.promise_at = self.store.appended();
        Ok(())
    }

    fn promised(&self) -> Version {
        self.store.promised()
    }

    fn floor(&self) -> Version {
        self.store.floor()
    }
}
