//! A coordinator's part in plain writes and reads: what replicas answer, and what follows from it.

use std::rc::Rc;

use super::super::expiry;
use super::super::op::{Common, Level, OpId, Outcome, Status, Targets, Told, Why};
use super::super::read::{Progress as Reading, QuorumRead};
use super::super::write::{Progress as Writing, QuorumWrite};
use super::changes::ChangeKind;
use super::ops::{Entry, Waiting};
use super::settle::charge_for;
use super::{AGAIN, Archive, Coordinator, Output, request_of, status_of};
use crate::model::{NodeId, Version};
use crate::mutation::{self, Draft, Mutation};
use crate::probe;
use crate::time::Now;
use crate::wire::message::{Reason, Reply, ReplyKind, encode_key};

impl Coordinator {
    pub(super) fn start_read(&mut self, now: Now, id: OpId, common: Common) {
        let needed = self.needed(common.level, self.config.read_quorum);
        let Some(mut targets) = self.targets(id, common.token, needed) else { return };
        let own = self.view.as_ref().filter(|view| view.serves).and_then(|view| view.own);
        if needed == 1
            && let Some(own) = own.filter(|own| targets.status(*own).is_some())
        {
            targets = Targets::new(&[own]);
        }
        let must_agree = common.level == Level::Linearizable;
        let key = common.key.clone();
        self.ops.put(id, Entry::Read(QuorumRead::new(common, targets, needed, must_agree)));
        self.send(now, id, Rc::new(encode_key(&key, Version::ZERO)));
    }

    pub(super) fn start_write(&mut self, now: Now, id: OpId, common: Common, draft: Draft) {
        let needed = self.needed(common.level, self.config.write_quorum);
        let Some(targets) = self.targets(id, common.token, needed) else { return };
        if !self.has_heard_clocks(now) {
            return self.wait_for_clocks(now, id, common, Waiting::Write(draft));
        }
        if let Some(why) = self.clock_trouble(now) {
            return self.done(id, Outcome::NotApplied(why));
        }
        let version = self.clock.tick(now.wall);
        let mut write = QuorumWrite::new(common, targets, needed, draft, version);
        let proposed = write.proposed();
        self.ops.put(id, Entry::Write(write));
        self.send(now, id, proposed);
    }

    pub(super) fn on_write_answer(&mut self, now: Now, id: OpId, from: NodeId, reply: Reply) {
        let (status, replaced) = match reply.kind {
            ReplyKind::Written { replaced } => (Status::Yes, replaced),
            ReplyKind::Outbid { by } => (self.outbid(now, by.into()), false),
            ReplyKind::Refused { reason, .. } => (status_of(reason), false),
            _ => return,
        };
        let Some(Entry::Write(write)) = self.ops.get(id) else { return };
        let progress = write.on_answer(from, status, replaced);
        if matches!(status, Status::Again(_)) {
            self.retries.insert((now.at + AGAIN, id));
        }
        self.on_writing(now, id, progress);
    }

    pub(super) fn on_writing(&mut self, now: Now, id: OpId, progress: Writing) {
        match progress {
            Writing::Pending => {}
            Writing::Decided(outcome) => self.end_write(now, id, outcome),
            Writing::Outbid => {
                self.stats.retries += 1;
                probe!(true, "write made again");
                let version = self.clock.tick(now.wall);
                let Some(Entry::Write(write)) = self.ops.get(id) else { return };
                write.retry(version);
                let proposed = write.proposed();
                self.send(now, id, proposed);
            }
        }
    }

    /// A write has ended. What was not applied is forgotten, so that nobody gets it later.
    fn end_write(&mut self, now: Now, id: OpId, outcome: Outcome) {
        let Some(Entry::Write(mut write)) = self.ops.take(id) else { unreachable!("it is one") };
        if !matches!(outcome, Outcome::NotApplied(_)) {
            let sequence = self.log(write.proposed());
            let request = request_of(id, write.attempt);
            self.settle(now, &write.targets, request, (sequence, write.common.until));
        }
        self.report(id, outcome);
    }

    pub(super) fn on_read_answer(
        &mut self,
        now: Now,
        id: OpId,
        from: NodeId,
        reply: Reply,
        mutation: Option<&Mutation<'_>>,
    ) {
        let Some(Entry::Read(read)) = self.ops.get(id) else { return };
        let progress = match reply.kind {
            ReplyKind::Found { is_sure } => {
                let rank = expiry::rank_of(mutation);
                let record = mutation.filter(|_| read.wants(rank));
                let record = record.map(|record| Rc::new(mutation::encode(record)));
                let charge = charge_for(&self.account, record.as_ref());
                read.on_told(Told { from, rank, is_sure, record, charge })
            }
            ReplyKind::Refused { reason, .. } => {
                let status = status_of(reason);
                let progress = read.on_failure(from, status);
                if matches!(status, Status::Again(_)) {
                    self.retries.insert((now.at + AGAIN, id));
                }
                progress
            }
            _ => return,
        };
        self.on_reading(now, id, progress);
    }

    pub(super) fn on_reading(&mut self, now: Now, id: OpId, progress: Reading) {
        match progress {
            Reading::Pending => return,
            Reading::Decided(record) => {
                if !self.tell_record(now, id, record) {
                    return;
                }
            }
            Reading::Failed(why) => self.report(id, Outcome::NotApplied(why)),
            Reading::Disagreed => {
                self.stats.long_reads += 1;
                let Some(Entry::Read(read)) = self.ops.take(id) else { return };
                return self.queue_change(now, id, read.common, ChangeKind::Read);
            }
        }
        let Some(Entry::Read(read)) = self.ops.take(id) else { unreachable!("it is one") };
        self.settle_read(now, id, read);
    }

    /// Tells what a read has found, as it is judged now. Whether the read ends with that: where a key is
    /// over and a linearizable read the first to see it, that is to be agreed.
    fn tell_record(&mut self, now: Now, id: OpId, record: Option<Archive>) -> bool {
        let Some(Entry::Read(read)) = self.ops.get(id) else { unreachable!("it is one") };
        let level = read.common.level;
        match self.is_over(now, record.as_ref()) {
            Err(why) => self.report(id, Outcome::NotApplied(why)),
            Ok(true) if level == Level::Linearizable => {
                self.stats.long_reads += 1;
                let Some(Entry::Read(read)) = self.ops.take(id) else { unreachable!("it is one") };
                self.queue_change(now, id, read.common, ChangeKind::Read);
                return false;
            }
            Ok(_) => {
                let record = expiry::judged(record, now.wall);
                self.outputs.push_back(Output::Record { op: id, record });
            }
        }
        true
    }

    /// Whether a record has ended; why that cannot be told, where this node's clock is too far off and
    /// the key's time is between what it shows and what most others do.
    pub(super) fn is_over(&self, now: Now, record: Option<&Archive>) -> Result<bool, Why> {
        let Some(expires_at) = expiry::expiry_of(record) else { return Ok(false) };
        let drift_max = self.config.drift_max;
        if expiry::is_archive_over(record, now.wall) {
            let is_ahead = self.skew.is_ahead(now, drift_max);
            return if is_ahead { Err(Why::ClockAhead) } else { Ok(true) };
        }
        let is_behind = self.skew.is_behind(now, drift_max, expires_at);
        if is_behind { Err(Why::ClockBehind) } else { Ok(false) }
    }

    /// A replica has something larger. The clock passes it, if it may.
    pub(super) fn outbid(&mut self, now: Now, by: Version) -> Status {
        match self.clock.observe(by.timestamp, now.wall) {
            Ok(()) => Status::Outbid,
            Err(_) => Status::No(Reason::Drift),
        }
    }
}
