//! A coordinator's part in what is left of an operation when it is decided.
//!
//! A write leaves, for each replica that was asked and has not answered, its place in the sync log: see
//! [`Unconfirmed`](super::super::unconfirmed). A read leaves what it has found, for as long as there is
//! room: the last replica mostly answers a moment later, and what it tells is mended if it is older. Under
//! load, or beside a replica that stands still, the oldest of those go unmended; what is stale by then is
//! what a write has left as missed, or another read will find.

use std::collections::BTreeMap;
use std::rc::Rc;

use super::super::account::{Account, Charge};
use super::super::op::{OpId, Status, Targets, Told};
use super::super::read::{Progress, QuorumRead};
use super::super::{Archive, expiry};
use super::{Coordinator, Output, status_of};
use crate::model::NodeId;
use crate::mutation::{self, Mutation};
use crate::time::{Instant, Now};
use crate::wire::message::{Ask, AskKind, Reply, ReplyKind, RequestId};

/// Decided reads that wait for their last replicas, at most, and the bytes of what they have found.
const LATE_COUNT_MAX: usize = 1_024;
const LATE_BYTES_MAX: usize = 1 << 20;

/// Reads that are decided.
#[derive(Debug, Default)]
pub(super) struct LateReads {
    reads: BTreeMap<OpId, QuorumRead>,
    bytes: usize,
}

impl LateReads {
    fn insert(&mut self, id: OpId, read: QuorumRead) {
        self.bytes += read.record_bytes();
        self.reads.insert(id, read);
        while self.reads.len() > LATE_COUNT_MAX || self.bytes > LATE_BYTES_MAX {
            self.pop_first();
        }
    }

    fn pop_first(&mut self) {
        let (_, read) = self.reads.pop_first().expect("there are too many");
        self.bytes -= read.record_bytes();
    }

    fn take(&mut self, id: OpId) -> Option<QuorumRead> {
        let read = self.reads.remove(&id)?;
        self.bytes -= read.record_bytes();
        Some(read)
    }

    /// Forgets those whose time is up.
    pub(super) fn expire(&mut self, now: Instant) {
        let is_late = |(_, read): (&OpId, &QuorumRead)| read.common.until <= now;
        while self.reads.first_key_value().is_some_and(is_late) {
            self.pop_first();
        }
        assert_eq!(self.reads.is_empty(), self.bytes == 0);
    }
}

/// The charge for a record that is kept.
pub(super) fn charge_for(account: &Account, record: Option<&Archive>) -> Option<Rc<Charge>> {
    record.map(|record| account.charge(record.len()))
}

impl Coordinator {
    /// A write is decided: who does not hold it has missed it, unless it was asked and answers in time.
    pub(super) fn settle(
        &mut self,
        now: Now,
        targets: &Targets,
        request: RequestId,
        (sequence, until): (u64, Instant),
    ) {
        for (node, status) in &targets.nodes {
            let missed = match status {
                Status::Yes => None,
                Status::Asked if until > now.at => {
                    self.unconfirmed.expect(*node, request, (sequence, until))
                }
                _ => Some(sequence),
            };
            if let Some(missed) = missed {
                self.catch_up.missed(*node, missed);
            }
        }
    }

    /// A replica answers about a write that is decided.
    pub(super) fn on_settled_answer(
        &mut self,
        now: Now,
        from: NodeId,
        reply: Reply,
        sequence: u64,
    ) {
        match reply.kind {
            ReplyKind::Written { .. } | ReplyKind::Accepted => return,
            ReplyKind::Outbid { by } => drop(self.outbid(now, by.into())),
            _ => {}
        }
        self.catch_up.missed(from, sequence);
    }

    /// A read is decided.
    pub(super) fn settle_read(&mut self, now: Now, id: OpId, mut read: QuorumRead) {
        self.mend(&mut read);
        let has_found = read.record_bytes() > 0;
        if has_found && !read.targets.is_settled() && read.common.until > now.at {
            read.release_charges();
            self.late.insert(id, read);
        }
    }

    /// A replica answers a read that is decided, perhaps.
    pub(super) fn on_late_answer(
        &mut self,
        id: OpId,
        from: NodeId,
        reply: Reply,
        mutation: Option<&Mutation<'_>>,
    ) {
        let Some(mut read) = self.late.take(id) else { return };
        let progress = match reply.kind {
            ReplyKind::Found { is_sure } => {
                let rank = expiry::rank_of(mutation);
                let record = mutation.filter(|_| read.wants(rank));
                let record = record.map(|record| Rc::new(mutation::encode(record)));
                read.on_told(Told { from, rank, is_sure, record, charge: None })
            }
            ReplyKind::Refused { reason, .. } => read.on_failure(from, status_of(reason)),
            _ => Progress::Pending,
        };
        assert!(matches!(progress, Progress::Pending), "a read is decided once");
        self.mend(&mut read);
        if !read.targets.is_settled() {
            self.late.insert(id, read);
        }
    }

    /// Sends the newest copy that a read has found to those that have an older one.
    fn mend(&mut self, read: &mut QuorumRead) {
        let Some((mutation, to)) = read.take_stale() else { return };
        self.stats.repairs += to.len() as u64;
        let epoch = self.view.as_ref().map_or(0, |view| view.epoch());
        let ask = Ask { request: 0, epoch, kind: AskKind::Repair };
        self.outputs.push_back(Output::Send { to, ask, mutation });
    }
}
