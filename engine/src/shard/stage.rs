//! A command that is run for what it would do: on a record that the cluster has told, with its write
//! kept for the replicas.
//!
//! In a cluster a command runs on its shard as it does on a single node, but the shard is *staged*:
//! what it reads is the staged record, and what it writes is kept. A command that reads before the
//! record is known fails with [`Error::Busy`], like one whose value is on disk; it is run again when
//! the cluster has told it.

use gridkv_cluster::{Mutation, Version, WallTime};
use gridkv_storage::Record;

use super::Shard;
use crate::error::Error;

/// A record with its own bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Owned {
    value: Vec<u8>,
    version: Version,
    expires_at: Option<WallTime>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Known {
    /// The cluster was not asked yet.
    Unknown,
    Is(Option<Owned>),
}

/// What a staged command has done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Staged {
    /// Nothing but perhaps read what was known.
    Nothing,
    /// It has asked for the record, and was told to come back.
    WantsRecord,
    /// It has written: `None` deletes.
    Wrote { value: Option<Vec<u8>>, expires_at: Option<WallTime> },
}

/// The stage of one command.
#[derive(Debug)]
pub(crate) struct Stage {
    known: Known,
    /// The version that a write will have, as far as can be told.
    version: Version,
    staged: Staged,
}

impl Stage {
    /// For a command of which it is not known whether it reads.
    pub(crate) fn unknown(version: Version) -> Self {
        Self { known: Known::Unknown, version, staged: Staged::Nothing }
    }

    /// With what the cluster has told: a deletion is nothing. What has a value is alive, as the
    /// coordinator has judged, whatever this core's clock says by now.
    pub(crate) fn known(record: Option<&Mutation<'_>>, version: Version) -> Self {
        let live = record.and_then(|record| {
            let value = record.value?.to_vec();
            Some(Owned { value, version: record.version, expires_at: record.expires_at })
        });
        Self { known: Known::Is(live), version, staged: Staged::Nothing }
    }

    fn read(&mut self) -> Result<Option<Record<'_>>, Error> {
        match &self.known {
            Known::Unknown => {
                self.staged = Staged::WantsRecord;
                Err(Error::Busy)
            }
            Known::Is(record) => Ok(record.as_ref().map(|it| Record {
                value: &it.value,
                version: it.version,
                expires_at: it.expires_at,
            })),
        }
    }

    /// Keeps a write; whether a value was replaced, where that is known.
    fn write(&mut self, value: Option<&[u8]>, expires_at: Option<WallTime>) -> bool {
        let replaced = matches!(self.known, Known::Is(Some(_)));
        let version = self.version;
        self.known = Known::Is(value.map(|it| Owned { value: it.to_vec(), version, expires_at }));
        self.staged = Staged::Wrote { value: value.map(<[u8]>::to_vec), expires_at };
        replaced
    }
}

impl Shard {
    /// Puts the next command on a stage.
    pub(crate) fn set_stage(&mut self, stage: Stage) {
        assert!(self.stage.is_none(), "one command at a time");
        self.stage = Some(Box::new(stage));
    }

    /// What the staged command has done.
    pub(crate) fn take_stage(&mut self) -> Staged {
        let stage = self.stage.take().expect("a command was staged");
        // It has waited for nothing of the store's.
        self.forget_wait();
        stage.staged
    }

    /// What the staged command reads; `None` where none is staged.
    #[inline]
    pub(super) fn staged(&mut self) -> Option<Result<Option<Record<'_>>, Error>> {
        self.stage.as_mut().map(|stage| stage.read())
    }

    pub(super) fn write_staged(
        &mut self,
        value: Option<&[u8]>,
        expires_at: Option<WallTime>,
    ) -> Option<bool> {
        self.stage.as_mut().map(|stage| stage.write(value, expires_at))
    }

    pub(super) fn staged_version(&self) -> Option<Version> {
        self.stage.as_ref().map(|stage| stage.version)
    }
}
