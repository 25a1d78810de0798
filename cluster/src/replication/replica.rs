//! One copy: answers coordinators from a store, and keeps the promises made to them.
//!
//! # Invariants
//!
//! - Below a promise nothing is accepted, however it comes.
//! - Every promise is at most [`Records::promised`], which is durable. So one that was given before a
//!   crash and is not known by itself any more is still kept, by the *floor*: the highest promise
//!   there may have been.
//!
//! # Why a promise is not written by itself
//!
//! A promise is as short-lived as the change that it is for, and ballots follow the clock. Making
//! durable, once in [`LEASE`], that "nothing up to this was not promised" costs one small write for
//! thousands of changes. After a restart everything up to that bound counts as promised. By then the
//! clock has passed it, or does so within [`LEASE`].
//!
//! # What a replica is sure of
//!
//! A reader may take what a majority agrees on only if each of them has come to it by accepting. A
//! copy that was merged below a promise (by a repair, which takes what is below one: who has asked
//! for the promise may never come back) was not told to who was promised, who may yet go on from
//! what was there before. It is told, but not as sure, and the reader goes the long way. So it is
//! below the floor, where a promise may be forgotten. Having nothing is sure: it is not merged.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rkyv::util::AlignedVec;

use super::View;
use crate::hlc::HybridClock;
use crate::model::{NodeId, Timestamp, Version};
use crate::mutation::{self, Mutation};
use crate::probe;
use crate::time::WallTime;
use crate::token::Token;
use crate::wire::message::{Ask, AskKind, Reason, Reply, ReplyKind, RequestId};

/// How far ahead promises are made durable.
pub const LEASE: Duration = Duration::from_millis(250);

/// Promises kept by key. Beyond, the oldest ones raise the floor.
pub const PROMISE_COUNT_MAX: usize = 16 << 10;

/// The store of a replica, as much of it as a replica needs.
pub trait Records {
    /// What was accepted for a key, as it was accepted: deletions included, and the expired with their
    /// expiry, without a value if that was freed. `None` for nothing.
    ///
    /// # Errors
    ///
    /// [`Unready::Busy`] when it has to be read first.
    fn latest<'a>(
        &'a mut self,
        token: Token,
        key: &'a [u8],
    ) -> Result<Option<Mutation<'a>>, Unready>;

    /// The version of that; [`Version::ZERO`] for nothing. Never waits.
    fn version(&mut self, token: Token, key: &[u8]) -> Version;

    /// Merges a mutation.
    ///
    /// # Errors
    ///
    /// [`Unready`]; nothing has changed.
    fn apply(&mut self, token: Token, mutation: &Mutation<'_>) -> Result<Applied, Unready>;

    /// Raises the bound up to which promises may be given.
    ///
    /// # Errors
    ///
    /// [`Unready`]; nothing has changed.
    fn promise(&mut self, through: Version) -> Result<(), Unready>;

    /// That bound.
    fn promised(&self) -> Version;

    /// Everything up to this version was removed, and is not taken any more.
    fn floor(&self) -> Version;
}

/// What merging has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    /// It is what the key has, from here on.
    Won {
        /// Whether a live value was there.
        replaced: bool,
    },
    /// The key has it, or something newer.
    Superseded,
}

/// Why a store did not do something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unready {
    /// It waits for its disk. Try again when it says so.
    Busy,
    /// It cannot.
    Refused(Reason),
}

/// Whether a node serves its copies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It does.
    Serving,
    /// Not while the topology is being changed.
    Frozen,
    /// It has lost them.
    Empty,
    /// It may lack what it has acknowledged: it takes writes, and is not counted for reads and votes.
    Behind,
}

/// What a replica is told with each message.
pub struct Context<'a> {
    /// The cluster.
    pub view: &'a View,
    /// Whether it serves.
    pub standing: Standing,
    /// The time.
    pub wall: WallTime,
}

/// What must be durable before an answer may leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    /// Nothing.
    Nothing,
    /// The record that the answer tells.
    Record,
    /// That record, and the bound of the promises.
    Promise,
    /// All that was appended so far.
    Appended,
}

/// What a replica answers.
#[derive(Clone, Debug)]
pub struct Answer {
    /// What it says; `None` where none is wanted.
    pub reply: Option<Reply>,
    /// The record that it tells, archived.
    pub record: Option<AlignedVec>,
    /// What it waits for.
    pub hold: Hold,
}

/// What was promised for a key.
#[derive(Clone, Copy, Debug)]
struct Promise {
    ballot: Version,
    /// A copy was merged since, which who was promised does not know of.
    is_overtaken: bool,
}

/// The promises of one shard.
#[derive(Debug, Default)]
pub struct Replica {
    by_key: BTreeMap<Box<[u8]>, Promise>,
    by_version: BTreeSet<(Version, Box<[u8]>)>,
    /// Up to here everything counts as promised.
    floor: Version,
}

impl Replica {
    /// The replica on a store that has been opened: `promised` is the store's bound.
    #[must_use]
    pub const fn new(promised: Version) -> Self {
        Self { by_key: BTreeMap::new(), by_version: BTreeSet::new(), floor: promised }
    }

    /// Promises kept by key.
    #[must_use]
    pub fn promise_count(&self) -> usize {
        self.by_key.len()
    }

    /// Does what a coordinator asks. `mutation` is what came with the message, `token` its key's.
    ///
    /// # Errors
    ///
    /// [`Busy`] when the store has to wait: nothing has changed, call again.
    pub fn handle(
        &mut self,
        records: &mut impl Records,
        clock: &mut HybridClock,
        context: &Context<'_>,
        ask: Ask,
        (token, mutation): (Token, &Mutation<'_>),
    ) -> Result<Answer, Busy> {
        let Ask { request, kind, .. } = ask;
        if kind == AskKind::Clock {
            return Ok(Answer::plain(request, ReplyKind::Clock));
        }
        let refused = |reason| {
            let epoch = context.view.epoch();
            Answer::plain(request, ReplyKind::Refused { epoch, reason })
        };
        if let Some(reason) = unfit(context, ask, token) {
            return Ok(refused(reason));
        }
        let version = match kind {
            AskKind::Read => Version::ZERO,
            _ => mutation.version,
        };
        if clock.observe(version.timestamp, context.wall).is_err() {
            return Ok(refused(Reason::Drift));
        }
        let result = match kind {
            AskKind::Read => self.read(records, request, token, mutation.key),
            AskKind::Write => self.write(records, request, token, mutation),
            AskKind::Repair => self.repair(records, request, token, mutation),
            AskKind::Accept => self.accept(records, request, token, mutation),
            AskKind::Prepare => self.prepare(records, request, token, mutation.key, version),
            AskKind::Clock => unreachable!("it was answered"),
        };
        self.assert_invariants();
        match result {
            Ok(answer) => Ok(answer),
            Err(Unready::Busy) => Err(Busy),
            Err(Unready::Refused(reason)) => Ok(refused(reason)),
        }
    }

    fn read(
        &self,
        records: &mut impl Records,
        request: u64,
        token: Token,
        key: &[u8],
    ) -> Result<Answer, Unready> {
        let found = records.latest(token, key)?;
        let is_sure = self.is_sure(key, found.as_ref());
        probe!(self.is_overtaken(key), "overtaken read");
        let record = found.as_ref().map(mutation::encode);
        let reply = Some(Reply { request, kind: ReplyKind::Found { is_sure } });
        Ok(Answer { reply, record, hold: Hold::Record })
    }

    fn write(
        &mut self,
        records: &mut impl Records,
        request: u64,
        token: Token,
        mutation: &Mutation<'_>,
    ) -> Result<Answer, Unready> {
        // What a removal of everything would swallow is not acknowledged: it is made again, above it.
        let bound = self.bound(mutation.key).max(records.floor());
        if mutation.version <= bound {
            return Ok(Answer::plain(request, ReplyKind::Outbid { by: bound.into() }));
        }
        let applied = records.apply(token, mutation)?;
        self.release(mutation);
        let (replaced, hold) = match applied {
            Applied::Won { replaced } => (replaced, Hold::Appended),
            Applied::Superseded => (false, Hold::Record),
        };
        let reply = Some(Reply { request, kind: ReplyKind::Written { replaced } });
        Ok(Answer { reply, record: None, hold })
    }

    fn repair(
        &mut self,
        records: &mut impl Records,
        request: u64,
        token: Token,
        mutation: &Mutation<'_>,
    ) -> Result<Answer, Unready> {
        let applied = records.apply(token, mutation)?;
        match self.by_key.get_mut(mutation.key) {
            Some(promise) if mutation.version < promise.ballot => {
                promise.is_overtaken |= matches!(applied, Applied::Won { .. });
            }
            _ => self.release(mutation),
        }
        let kind = ReplyKind::Written { replaced: false };
        let reply = (request != 0).then_some(Reply { request, kind });
        Ok(Answer { reply, record: None, hold: Hold::Appended })
    }

    fn accept(
        &mut self,
        records: &mut impl Records,
        request: u64,
        token: Token,
        mutation: &Mutation<'_>,
    ) -> Result<Answer, Unready> {
        let ballot = mutation.version;
        let promise = self.promise_of(mutation.key);
        let accepted = records.version(token, mutation.key);
        let removed = records.floor();
        let bound = self.bound(mutation.key).max(accepted).max(removed);
        // One that was merged by a repair was not accepted: who was promised does not know of it.
        let is_overtaken = self.is_overtaken(mutation.key);
        probe!(is_overtaken && accepted == ballot, "overtaken accept");
        let is_repeated = accepted == ballot && ballot > self.floor && !is_overtaken;
        let may = promise == Some(ballot) || ballot > bound;
        if !is_repeated && (!may || accepted > ballot || removed >= ballot) {
            return Ok(Answer::plain(request, ReplyKind::Outbid { by: bound.into() }));
        }
        records.apply(token, mutation)?;
        probe!(promise.is_none() && !is_repeated, "accept without a promise");
        self.release(mutation);
        let reply = Some(Reply { request, kind: ReplyKind::Accepted });
        Ok(Answer { reply, record: None, hold: Hold::Appended })
    }

    fn prepare(
        &mut self,
        records: &mut impl Records,
        request: u64,
        token: Token,
        key: &[u8],
        ballot: Version,
    ) -> Result<Answer, Unready> {
        let bound = self.bound(key).max(records.version(token, key)).max(records.floor());
        probe!(ballot <= self.floor, "raised floor");
        if ballot <= bound {
            return Ok(Answer::plain(request, ReplyKind::Outbid { by: bound.into() }));
        }
        let found = records.latest(token, key)?;
        let is_sure = self.is_sure(key, found.as_ref());
        let record = found.as_ref().map(mutation::encode);
        if ballot > records.promised() {
            let until = ballot.timestamp.wall() + LEASE;
            let through = Version { timestamp: Timestamp::last_of(until), node: NodeId(u16::MAX) };
            records.promise(through)?;
        }
        self.note(key, ballot);
        let reply = Some(Reply { request, kind: ReplyKind::Promised { is_sure } });
        Ok(Answer { reply, record, hold: Hold::Promise })
    }

    /// What a plain write of the key must be above.
    fn bound(&self, key: &[u8]) -> Version {
        self.promise_of(key).unwrap_or(Version::ZERO).max(self.floor)
    }

    fn promise_of(&self, key: &[u8]) -> Option<Version> {
        self.by_key.get(key).map(|promise| promise.ballot)
    }

    /// Whether what the key has came by accepting it.
    fn is_sure(&self, key: &[u8], found: Option<&Mutation<'_>>) -> bool {
        let Some(found) = found else { return true };
        probe!(found.version <= self.floor, "unsure below the floor");
        found.version > self.floor && !self.is_overtaken(key)
    }

    fn is_overtaken(&self, key: &[u8]) -> bool {
        self.by_key.get(key).is_some_and(|it| it.is_overtaken)
    }

    fn note(&mut self, key: &[u8], ballot: Version) {
        let before = self.by_key.get(key).copied();
        // It stays overtaken: another may still go on from the promise before.
        let is_overtaken = before.is_some_and(|before| before.is_overtaken);
        self.by_key.insert(key.into(), Promise { ballot, is_overtaken });
        if let Some(before) = before {
            assert!(before.ballot < ballot, "a promise only grows");
            self.by_version.remove(&(before.ballot, key.into()));
        }
        self.by_version.insert((ballot, key.into()));
        if self.by_key.len() > PROMISE_COUNT_MAX {
            let (version, key) = self.by_version.pop_first().expect("there are many");
            self.by_key.remove(&key);
            self.floor = self.floor.max(version);
        }
    }

    /// A promise that the key's version has reached is not needed any more.
    fn release(&mut self, mutation: &Mutation<'_>) {
        if let Some(promise) = self.promise_of(mutation.key)
            && promise <= mutation.version
        {
            self.by_key.remove(mutation.key);
            self.by_version.remove(&(promise, mutation.key.into()));
        }
    }

    fn assert_invariants(&self) {
        assert_eq!(self.by_key.len(), self.by_version.len());
        assert!(self.by_key.len() <= PROMISE_COUNT_MAX);
    }
}

/// The store has to wait; nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Busy;

/// Why the node cannot do what the message asks, whatever the store says.
fn unfit(context: &Context<'_>, ask: Ask, token: Token) -> Option<Reason> {
    if ask.epoch != context.view.epoch() {
        return Some(Reason::Epoch);
    }
    match context.standing {
        Standing::Empty => Some(Reason::Empty),
        Standing::Frozen => Some(Reason::Frozen),
        Standing::Behind if !matches!(ask.kind, AskKind::Write | AskKind::Repair) => {
            Some(Reason::Behind)
        }
        Standing::Serving | Standing::Behind => {
            (!context.view.is_mine(token)).then_some(Reason::NotMine)
        }
    }
}

impl Answer {
    const fn plain(request: RequestId, kind: ReplyKind) -> Self {
        Self { reply: Some(Reply { request, kind }), record: None, hold: Hold::Nothing }
    }
}
