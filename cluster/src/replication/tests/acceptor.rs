//! One replica by itself: what it accepts, what it refuses, and what it is sure of.

use std::sync::Arc;

use super::super::*;
use super::kit::{CONFIG, Store};
use super::script::record;
use crate::hlc::HybridClock;
use crate::model::{Timestamp, Version};
use crate::mutation::Mutation;
use crate::time::WallTime;
use crate::topology::tests::topology;
use crate::wire::message::{Ask, AskKind, Reason, ReplyKind};

const ACCEPTED: ReplyKind = ReplyKind::Accepted;
const MERGED: ReplyKind = ReplyKind::Written { replaced: false };

struct Acceptor {
    replica: Replica,
    store: Store,
    clock: HybridClock,
    view: View,
}

impl Acceptor {
    fn new() -> Self {
        let topology = topology(3, 3);
        let placement = Arc::new(Placement::new(&topology));
        let view = View::new(Arc::new(topology), placement, Some(NodeId(1)));
        let clock = HybridClock::new(NodeId(1), Timestamp(0), CONFIG.drift_max);
        Self { replica: Replica::new(Version::ZERO), store: Store::default(), clock, view }
    }

    fn restart(&mut self) {
        self.replica = Replica::new(self.store.promised);
    }

    /// Has it do something with a version, of this node's epoch or another.
    fn ask_of(&mut self, epoch: u64, kind: AskKind, mutation: &Mutation<'_>) -> ReplyKind {
        let token = self.view.placement.token(mutation.key);
        let wall = WallTime::from_millis(10_000);
        let context = Context { view: &self.view, standing: Standing::Serving, wall };
        let ask = Ask { request: 1, epoch, kind };
        let (store, clock) = (&mut self.store, &mut self.clock);
        let answer = self.replica.handle(store, clock, &context, ask, (token, mutation));
        answer.unwrap().reply.unwrap().kind
    }

    fn ask(&mut self, kind: AskKind, version: u64) -> ReplyKind {
        let epoch = self.view.epoch();
        self.ask_of(epoch, kind, &record(b"k", &version.to_be_bytes(), version))
    }
}

fn version(number: u64) -> Version {
    record(b"k", b"", number).version
}

fn outbid(by: u64) -> ReplyKind {
    ReplyKind::Outbid { by: version(by).into() }
}

fn found(is_sure: bool) -> ReplyKind {
    ReplyKind::Found { is_sure }
}

fn promised(is_sure: bool) -> ReplyKind {
    ReplyKind::Promised { is_sure }
}

#[test]
fn what_was_merged_below_a_promise_is_told_and_not_as_sure() {
    let mut acceptor = Acceptor::new();
    assert_eq!(acceptor.ask(AskKind::Accept, 5), ACCEPTED);
    assert_eq!(acceptor.ask(AskKind::Read, 0), found(true));
    assert_eq!(acceptor.ask(AskKind::Prepare, 9), promised(true));
    assert_eq!(acceptor.ask(AskKind::Repair, 7), MERGED);
    assert_eq!(acceptor.ask(AskKind::Read, 0), found(false));
    assert_eq!(acceptor.ask(AskKind::Prepare, 11), promised(false), "the first may still go on");
    assert_eq!(acceptor.ask(AskKind::Accept, 11), ACCEPTED);
    assert_eq!(acceptor.ask(AskKind::Read, 0), found(true));
}

#[test]
fn what_was_merged_below_a_promise_does_not_count_as_accepted() {
    let mut acceptor = Acceptor::new();
    assert_eq!(acceptor.ask(AskKind::Prepare, 9), promised(true));
    assert_eq!(acceptor.ask(AskKind::Repair, 7), MERGED);
    // Who was promised goes on from nothing.
    assert_eq!(acceptor.ask(AskKind::Accept, 7), outbid(9));
    assert_eq!(acceptor.ask(AskKind::Accept, 9), ACCEPTED);
    assert_eq!(acceptor.ask(AskKind::Accept, 9), ACCEPTED, "as often as it is asked");
}

#[test]
fn below_the_floor_nothing_is_sure_and_nothing_accepted() {
    let mut acceptor = Acceptor::new();
    assert_eq!(acceptor.ask(AskKind::Accept, 5), ACCEPTED);
    assert_eq!(acceptor.ask(AskKind::Prepare, 9), promised(true));
    acceptor.restart();
    assert_eq!(acceptor.ask(AskKind::Read, 0), found(false), "a promise may be forgotten");
    let bound = ReplyKind::Outbid { by: acceptor.store.promised.into() };
    for number in [5, 9] {
        assert_eq!(acceptor.ask(AskKind::Accept, number), bound);
        assert_eq!(acceptor.ask(AskKind::Write, number), bound);
    }
    let through = acceptor.store.promised.timestamp.0;
    assert_eq!(acceptor.ask(AskKind::Accept, through + 1), ACCEPTED);
    assert_eq!(acceptor.ask(AskKind::Read, 0), found(true));
}

/// A promise that was given up for want of room is the floor itself.
#[test]
fn what_equals_the_bound_is_not_above_it() {
    let mut acceptor = Acceptor::new();
    acceptor.replica = Replica::new(version(9));
    for kind in [AskKind::Write, AskKind::Accept, AskKind::Prepare] {
        assert_eq!(acceptor.ask(kind, 9), outbid(9), "{kind:?}");
    }
    assert_eq!(acceptor.ask(AskKind::Accept, 10), ACCEPTED);
}

#[test]
fn what_a_removal_would_swallow_is_not_accepted() {
    let mut acceptor = Acceptor::new();
    acceptor.store.floor = version(9);
    for kind in [AskKind::Write, AskKind::Accept, AskKind::Prepare] {
        for number in [8, 9] {
            assert_eq!(acceptor.ask(kind, number), outbid(9), "{kind:?}");
        }
    }
    assert_eq!(acceptor.ask(AskKind::Accept, 10), ACCEPTED);
}

#[test]
fn another_epoch_is_not_served() {
    let mut acceptor = Acceptor::new();
    let epoch = acceptor.view.epoch();
    let refused = ReplyKind::Refused { epoch, reason: Reason::Epoch };
    let kinds = [AskKind::Read, AskKind::Write, AskKind::Prepare, AskKind::Accept, AskKind::Repair];
    for kind in kinds {
        for other in [epoch - 1, epoch + 1] {
            let record = record(b"k", b"v", 5);
            assert_eq!(acceptor.ask_of(other, kind, &record), refused, "{kind:?}");
        }
    }
    assert!(acceptor.store.records.is_empty());
    assert_eq!(acceptor.replica.promise_count(), 0);
}
