//! When a record is over, which its coordinator judges and nobody else.
//!
//! Expiry is data: a record is version, value and expiry for as long as it exists, and replicas tell it
//! as they accepted it. The coordinator of a request judges what it was told once, with one `now`.
//!
//! - Below `linearizable` what is over by its clock is nothing, and nothing is written.
//! - At `linearizable` nobody is told that a key has ended before a tombstone was chosen over exactly
//!   that version. So it ends once, for everybody, and never before its time by more than the clock of
//!   one proposer is ahead. Changes take what is over for absent in their own round, which chooses the
//!   tombstone where it chooses nothing else.
//! - A coordinator whose clock is further off than clocks may be, by what most others show, judges nothing
//!   about a key whose time is between: ahead, it would end it too soon; behind, show it too long.
//!
//! # Values that were freed
//!
//! A replica may free the value of what has expired for everybody, which leaves a mutation with an expiry
//! and without a value. That is over, whatever a clock says. It is no disagreement with a copy of the same
//! version that still has its value: of equal versions the one with the value counts. So what is told
//! depends on the copies that were asked, not on the order of their answers.

use std::rc::Rc;

use super::Archive;
use super::op::Rank;
use crate::model::Version;
use crate::mutation::{self, Draft, Mutation};
use crate::time::WallTime;

/// Whether a record has ended, by a clock. A deletion has not: it never was.
pub(super) fn is_over(record: &Mutation<'_>, wall: WallTime) -> bool {
    match (record.value, record.expires_at) {
        (_, None) => false,
        (None, Some(_)) => true,
        (Some(_), Some(expires_at)) => expires_at <= wall,
    }
}

/// When an archived record ends, or has ended.
pub(super) fn expiry_of(record: Option<&Archive>) -> Option<WallTime> {
    mutation::access(record?).expect("it was encoded here").expires_at
}

/// Whether an archived record has ended, by a clock; nothing has not.
pub(super) fn is_archive_over(record: Option<&Archive>, wall: WallTime) -> bool {
    record.is_some_and(|it| is_over(&mutation::access(it).expect("it was encoded here"), wall))
}

/// The record as a client is told of it: without its value when it is over.
pub(super) fn judged(record: Option<Archive>, wall: WallTime) -> Option<Archive> {
    if !is_archive_over(record.as_ref(), wall) {
        return record;
    }
    let record = record.expect("nothing is not over");
    let over = mutation::access(&record).expect("it was encoded here");
    Some(Rc::new(mutation::encode(&Mutation { value: None, ..over })))
}

/// What a change proposes: a deletion, where it would be over at once.
pub(super) fn proposal(change: &mut Draft, ballot: Version, wall: WallTime) -> Archive {
    if is_over(&change.mutation(), wall) {
        return tombstone(change.mutation().key, ballot);
    }
    change.stamp(ballot)
}

/// A deletion.
pub(super) fn tombstone(key: &[u8], version: Version) -> Archive {
    Rc::new(mutation::encode(&Mutation { key, value: None, version, expires_at: None }))
}

/// What decides between two copies of a key.
pub(super) fn rank_of(record: Option<&Mutation<'_>>) -> Rank {
    Rank {
        version: super::version_of(record),
        has_value: record.is_some_and(|it| it.value.is_some()),
    }
}
