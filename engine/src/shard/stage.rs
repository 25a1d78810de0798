//! A command that is run for what it would do: on a record that the cluster has told, with its write
//! kept for the replicas.
//!
//! In a cluster a command runs on its shard as it does on a single node, but the shard is *staged*:
//! what it reads is the staged record, and what it writes is kept. A command that reads before the
//! record is known fails with [`Error::Busy`], like one whose value is on disk; it is run again when
//! the cluster has told it. What it writes is archived here, once.

use gridkv_cluster::mutation::{self, Archive};
use gridkv_cluster::{Draft, Mutation, Version, WallTime};
use gridkv_storage::Record;

use super::Shard;
use crate::error::Error;

/// What a staged command has done.
#[derive(Debug)]
pub(crate) enum Staged {
    /// Nothing but perhaps read what was known.
    Nothing,
    /// It has asked for the record, and was told to come back.
    WantsRecord,
    /// It has written.
    Wrote(Draft),
}

/// The stage of one command.
#[derive(Debug)]
pub(crate) struct Stage {
    /// What the cluster has told; `None` while it was not asked yet.
    known: Option<Option<Archive>>,
    /// The version that a write will have, as far as can be told.
    version: Version,
    staged: Staged,
}

impl Stage {
    /// For a command of which it is not known whether it reads.
    pub(crate) fn unknown(version: Version) -> Self {
        Self { known: None, version, staged: Staged::Nothing }
    }

    /// With what the cluster has told: a deletion is nothing. What has a value is alive, as the
    /// coordinator has judged, whatever this core's clock says by now.
    pub(crate) fn known(record: Option<Archive>, version: Version) -> Self {
        Self { known: Some(record), version, staged: Staged::Nothing }
    }

    fn read(&mut self) -> Result<Option<Record<'_>>, Error> {
        if !self.is_known() {
            self.staged = Staged::WantsRecord;
            return Err(Error::Busy);
        }
        let mutation = match (&self.staged, &self.known) {
            (Staged::Wrote(draft), _) => Mutation { version: self.version, ..draft.mutation() },
            (_, Some(Some(record))) => mutation::access(record).expect("it was encoded here"),
            (_, Some(None) | None) => return Ok(None),
        };
        let Mutation { value, version, expires_at, .. } = mutation;
        Ok(value.map(|value| Record { value, version, expires_at }))
    }

    /// Whether it can be told what the key has.
    const fn is_known(&self) -> bool {
        self.known.is_some() || matches!(self.staged, Staged::Wrote(_))
    }

    /// Keeps a write; whether a value was replaced, where that is known.
    fn write(&mut self, key: &[u8], value: Option<&[u8]>, expires_at: Option<WallTime>) -> bool {
        let replaced = self.is_known() && self.read().is_ok_and(|record| record.is_some());
        self.staged = Staged::Wrote(Draft::new(key, value, expires_at));
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
        key: &[u8],
        value: Option<&[u8]>,
        expires_at: Option<WallTime>,
    ) -> Option<bool> {
        self.stage.as_mut().map(|stage| stage.write(key, value, expires_at))
    }

    pub(super) fn staged_version(&self) -> Option<Version> {
        self.stage.as_ref().map(|stage| stage.version)
    }
}
