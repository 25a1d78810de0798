//! One replica on its store: what it answers, what it holds the answer for, and when it forgets a promise.

use std::time::Duration;

use super::super::*;
use super::kit::{CONFIG, Store, value};
use crate::hlc::HybridClock;
use crate::model::{Timestamp, Version};
use crate::mutation::Mutation;
use crate::time::WallTime;
use crate::token::Slot;
use crate::topology::tests::topology;
use crate::wire::message::{Ask, AskKind, Reason, Reply, ReplyKind};

const REQUEST: u64 = 77;
const WALL: WallTime = WallTime::from_millis(1_000_000);

/// The replica of node 1.
struct One {
    replica: Replica,
    store: Store,
    clock: HybridClock,
    view: View,
    standing: Standing,
}

impl One {
    fn new() -> Self {
        Self::in_cluster_of(3)
    }

    fn in_cluster_of(members: u16) -> Self {
        let topology = Arc::new(topology(members, 3));
        let placement = Arc::new(Placement::new(&topology));
        Self {
            replica: Replica::new(Version::ZERO),
            store: Store::default(),
            clock: HybridClock::new(NodeId(1), Timestamp::ZERO, CONFIG.drift_max),
            view: View::new(topology, placement, Some(NodeId(1))),
            standing: Standing::Serving,
        }
    }

    /// The node is started again: what it keeps is what its store has.
    fn restart(&mut self) {
        self.replica = Replica::new(self.store.promised);
    }

    fn handle(&mut self, ask: Ask, mutation: &Mutation<'_>) -> Result<Answer, Busy> {
        let context = Context { view: &self.view, standing: self.standing, wall: WALL };
        let place = (Slot::of(mutation.key).first(), mutation);
        self.replica.handle(&mut self.store, &mut self.clock, &context, ask, place)
    }

    fn answer(&mut self, kind: AskKind, mutation: &Mutation<'_>) -> Answer {
        let ask = Ask { request: REQUEST, epoch: self.view.epoch(), kind };
        self.handle(ask, mutation).unwrap()
    }

    /// What is said about the one key, and what has to be durable before.
    fn ask(&mut self, kind: AskKind, mutation: &Mutation<'_>) -> (ReplyKind, Hold) {
        let answer = self.answer(kind, mutation);
        let Reply { request, kind } = answer.reply.expect("somebody has asked");
        assert_eq!(request, REQUEST);
        (kind, answer.hold)
    }

    fn say(&mut self, kind: AskKind, mutation: &Mutation<'_>) -> ReplyKind {
        self.ask(kind, mutation).0
    }

    /// What it tells of the key to who reads it.
    fn read(&mut self) -> (ReplyKind, Option<Vec<u8>>) {
        let answer = self.answer(AskKind::Read, &ballot(0));
        assert_eq!(answer.hold, Hold::Record);
        (answer.reply.unwrap().kind, answer.record.and_then(|it| value(&it)))
    }
}

fn version(number: u64) -> Version {
    if number == 0 {
        return Version::ZERO;
    }
    Version { timestamp: Timestamp(Timestamp::from_wall(WALL).0 + number), node: NodeId(2) }
}

/// The key with a value, at a version of so large a number.
fn put(value: &[u8], number: u64) -> Mutation<'_> {
    Mutation { key: b"k", value: Some(value), version: version(number), expires_at: None }
}

/// The key, and a ballot.
fn ballot(number: u64) -> Mutation<'static> {
    Mutation { key: b"k", value: None, version: version(number), expires_at: None }
}

fn outbid(number: u64) -> ReplyKind {
    ReplyKind::Outbid { by: version(number).into() }
}

const WRITTEN: ReplyKind = ReplyKind::Written { replaced: false };
const SURE: ReplyKind = ReplyKind::Found { is_sure: true };
const UNSURE: ReplyKind = ReplyKind::Found { is_sure: false };
const PROMISED: ReplyKind = ReplyKind::Promised { is_sure: true };

#[test]
fn a_write_waits_for_what_it_appends_or_for_the_record_that_is_newer() {
    let mut one = One::new();
    assert_eq!(one.ask(AskKind::Write, &put(b"a", 5)), (WRITTEN, Hold::Appended));
    let replaced = ReplyKind::Written { replaced: true };
    assert_eq!(one.ask(AskKind::Write, &put(b"b", 7)), (replaced, Hold::Appended));
    assert_eq!(one.ask(AskKind::Write, &put(b"c", 6)), (WRITTEN, Hold::Record));
    assert_eq!(one.read(), (SURE, Some(b"b".to_vec())));
}

#[test]
fn a_plain_write_has_to_be_above_a_promise_and_above_what_was_removed() {
    let mut one = One::new();
    assert_eq!(one.say(AskKind::Prepare, &ballot(5)), PROMISED);
    for number in [4, 5] {
        let answer = one.ask(AskKind::Write, &put(b"a", number));
        assert_eq!(answer, (outbid(5), Hold::Nothing), "{number}");
    }
    assert_eq!(one.say(AskKind::Write, &put(b"b", 6)), WRITTEN);
    one.store.floor = version(8);
    assert_eq!(one.say(AskKind::Write, &put(b"c", 8)), outbid(8));
    assert_eq!(one.say(AskKind::Write, &put(b"d", 9)), ReplyKind::Written { replaced: true });
    assert_eq!(one.read(), (SURE, Some(b"d".to_vec())));
}

#[test]
fn a_promise_is_for_a_ballot_above_all_that_was_promised_accepted_or_removed() {
    let mut one = One::new();
    assert_eq!(one.ask(AskKind::Prepare, &ballot(5)), (PROMISED, Hold::Promise));
    for number in [4, 5] {
        let answer = one.ask(AskKind::Prepare, &ballot(number));
        assert_eq!(answer, (outbid(5), Hold::Nothing), "{number}");
    }
    assert_eq!(one.say(AskKind::Prepare, &ballot(6)), PROMISED);
    one.say(AskKind::Write, &put(b"a", 7));
    assert_eq!(one.say(AskKind::Prepare, &ballot(7)), outbid(7));
    let answer = one.answer(AskKind::Prepare, &ballot(8));
    assert_eq!(answer.reply.unwrap().kind, PROMISED);
    assert_eq!(
        answer.record.and_then(|it| value(&it)),
        Some(b"a".to_vec()),
        "it tells what it has"
    );
    one.store.floor = version(9);
    assert_eq!(one.say(AskKind::Prepare, &ballot(9)), outbid(9));
    assert_eq!(one.say(AskKind::Prepare, &ballot(10)), PROMISED);
}

#[test]
fn a_bound_of_promises_is_durable_for_a_lease_before_the_first_of_them_is_given() {
    let mut one = One::new();
    one.say(AskKind::Prepare, &ballot(5));
    let bound = one.store.promised;
    assert_eq!(bound.timestamp, Timestamp::last_of(WALL + LEASE));
    assert_eq!(bound.node, NodeId(u16::MAX), "whoever else asks in that time");
    assert_eq!(one.store.promise_count, 1);
    one.say(AskKind::Prepare, &ballot(6));
    one.say(AskKind::Prepare, &Mutation { version: bound, ..ballot(0) });
    assert_eq!(one.store.promise_count, 1, "the lease covers its last version");
    let beyond = Version { timestamp: Timestamp(bound.timestamp.0 + 1), node: NodeId(1) };
    one.say(AskKind::Prepare, &Mutation { version: beyond, ..ballot(0) });
    assert_eq!(one.store.promise_count, 2);
    assert!(one.store.promised > beyond);
}

#[test]
fn after_a_restart_all_up_to_the_bound_counts_as_promised() {
    let mut one = One::new();
    one.say(AskKind::Write, &put(b"a", 4));
    one.say(AskKind::Prepare, &ballot(5));
    let bound = one.store.promised;
    one.restart();
    assert_eq!(one.replica.promise_count(), 0);
    let by_bound = ReplyKind::Outbid { by: bound.into() };
    let at_bound = Mutation { version: bound, ..put(b"b", 0) };
    for asked in [put(b"b", 5), put(b"b", 9), at_bound] {
        for kind in [AskKind::Write, AskKind::Prepare, AskKind::Accept] {
            assert_eq!(one.say(kind, &asked), by_bound, "{kind:?}");
        }
    }
    assert_eq!(one.read(), (UNSURE, Some(b"a".to_vec())), "a promise for it may be forgotten");
    let beyond = Version { timestamp: Timestamp(bound.timestamp.0 + 1), node: NodeId(2) };
    assert_eq!(
        one.say(AskKind::Accept, &Mutation { version: beyond, ..put(b"c", 0) }),
        ReplyKind::Accepted
    );
    assert_eq!(one.read(), (SURE, Some(b"c".to_vec())));
}

#[test]
fn having_nothing_is_sure() {
    let mut one = One::new();
    assert_eq!(one.read(), (SURE, None));
    one.say(AskKind::Prepare, &ballot(5));
    one.restart();
    assert_eq!(one.read(), (SURE, None));
}

#[test]
fn what_was_promised_is_accepted_and_what_is_below_the_promise_is_not() {
    let mut one = One::new();
    one.say(AskKind::Prepare, &ballot(5));
    assert_eq!(one.ask(AskKind::Accept, &put(b"a", 4)), (outbid(5), Hold::Nothing));
    assert_eq!(one.ask(AskKind::Accept, &put(b"b", 5)), (ReplyKind::Accepted, Hold::Appended));
    assert_eq!(one.read(), (SURE, Some(b"b".to_vec())));
    // Who was promised elsewhere, and is above all that is known here.
    assert_eq!(one.say(AskKind::Accept, &put(b"c", 6)), ReplyKind::Accepted);
    assert_eq!(one.say(AskKind::Accept, &put(b"b", 5)), outbid(6), "it comes too late");
    one.say(AskKind::Prepare, &ballot(7));
    assert_eq!(one.say(AskKind::Accept, &put(b"d", 8)), ReplyKind::Accepted);
    assert_eq!(one.read(), (SURE, Some(b"d".to_vec())));
}

#[test]
fn what_was_accepted_is_accepted_once_more_when_it_is_asked_once_more() {
    let mut one = One::new();
    one.say(AskKind::Prepare, &ballot(5));
    one.say(AskKind::Accept, &put(b"a", 5));
    assert_eq!(one.ask(AskKind::Accept, &put(b"a", 5)), (ReplyKind::Accepted, Hold::Appended));
    // Also while another has been promised more since: it was accepted before.
    one.say(AskKind::Prepare, &ballot(9));
    assert_eq!(one.say(AskKind::Accept, &put(b"a", 5)), ReplyKind::Accepted);
    assert_eq!(one.say(AskKind::Prepare, &ballot(9)), outbid(9), "which holds");
    one.restart();
    let bound = ReplyKind::Outbid { by: one.store.promised.into() };
    assert_eq!(one.say(AskKind::Accept, &put(b"a", 5)), bound, "who can tell how it came");
}

#[test]
fn what_came_to_the_store_by_another_way_is_neither_overwritten_nor_taken_for_accepted() {
    let mut one = One::new();
    one.say(AskKind::Prepare, &ballot(5));
    one.store.apply(Slot::of(b"k").first(), &put(b"a", 9)).unwrap();
    assert_eq!(one.say(AskKind::Accept, &put(b"b", 5)), outbid(9));
    // At the floor, where it may have been merged and that be forgotten.
    one.replica = Replica::new(version(9));
    assert_eq!(one.say(AskKind::Accept, &put(b"a", 9)), outbid(9));
    assert_eq!(one.read(), (UNSURE, Some(b"a".to_vec())));
}

#[test]
fn a_copy_that_changes_nothing_leaves_what_was_accepted_sure() {
    let mut one = One::new();
    one.say(AskKind::Write, &put(b"b", 5));
    one.say(AskKind::Prepare, &ballot(9));
    assert_eq!(one.say(AskKind::Repair, &put(b"a", 4)), WRITTEN);
    assert_eq!(one.say(AskKind::Repair, &put(b"b", 5)), WRITTEN);
    assert_eq!(one.read(), (SURE, Some(b"b".to_vec())));
    // Once it has changed something, another that does not changes nothing about that.
    one.say(AskKind::Repair, &put(b"c", 6));
    one.say(AskKind::Repair, &put(b"c", 6));
    one.say(AskKind::Repair, &put(b"d", 7));
    assert_eq!(one.read(), (UNSURE, Some(b"d".to_vec())));
}

#[test]
fn a_copy_that_is_not_below_the_promise_ends_it() {
    for number in [5, 6] {
        let mut one = One::new();
        one.say(AskKind::Prepare, &ballot(5));
        assert_eq!(one.replica.promise_count(), 1);
        assert_eq!(one.ask(AskKind::Repair, &put(b"a", number)), (WRITTEN, Hold::Appended));
        assert_eq!(one.replica.promise_count(), 0, "{number}");
        assert_eq!(one.read(), (SURE, Some(b"a".to_vec())));
        let answer = one.say(AskKind::Accept, &put(b"b", 5));
        if number == 6 {
            assert_eq!(answer, outbid(6));
        }
    }
}

#[test]
fn a_copy_of_which_nobody_wants_to_hear_is_taken_without_an_answer() {
    let mut one = One::new();
    let ask = Ask { request: 0, epoch: one.view.epoch(), kind: AskKind::Repair };
    assert_eq!(one.handle(ask, &put(b"a", 5)).unwrap().reply, None);
    assert_eq!(one.read(), (SURE, Some(b"a".to_vec())));
}

#[test]
fn what_was_removed_is_neither_promised_nor_accepted_again() {
    let mut one = One::new();
    one.say(AskKind::Prepare, &ballot(5));
    one.store.floor = version(5);
    assert_eq!(one.say(AskKind::Accept, &put(b"a", 5)), outbid(5), "though it was promised");
    assert_eq!(one.say(AskKind::Accept, &put(b"a", 6)), ReplyKind::Accepted);
    // Not above it, though nothing was promised.
    let mut one = One::new();
    one.store.floor = version(8);
    assert_eq!(one.say(AskKind::Accept, &put(b"a", 8)), outbid(8));
}

#[test]
fn a_promise_is_forgotten_when_the_version_has_reached_it_and_not_sooner() {
    let mut one = One::new();
    one.say(AskKind::Prepare, &ballot(5));
    one.say(AskKind::Accept, &put(b"a", 4));
    one.say(AskKind::Write, &put(b"a", 4));
    assert_eq!(one.replica.promise_count(), 1);
    one.say(AskKind::Accept, &put(b"a", 5));
    assert_eq!(one.replica.promise_count(), 0);
    one.say(AskKind::Prepare, &ballot(6));
    one.say(AskKind::Prepare, &ballot(7));
    assert_eq!(one.replica.promise_count(), 1, "a key has one");
    one.say(AskKind::Write, &put(b"b", 8));
    assert_eq!(one.replica.promise_count(), 0);
}

#[test]
fn of_too_many_promises_the_oldest_are_kept_by_the_floor() {
    let mut one = One::new();
    let keys: Vec<String> = (0..=PROMISE_COUNT_MAX).map(|it| format!("k{it}")).collect();
    let at = |index: usize| Mutation { key: keys[index].as_bytes(), ..ballot(index as u64 + 10) };
    one.say(AskKind::Write, &Mutation { version: version(1), ..put(b"v", 0) });
    for index in 0..PROMISE_COUNT_MAX {
        assert_eq!(one.say(AskKind::Prepare, &at(index)), PROMISED);
    }
    assert_eq!(one.read(), (SURE, Some(b"v".to_vec())));
    assert_eq!(one.say(AskKind::Write, &put(b"w", 2)), ReplyKind::Written { replaced: true });
    assert_eq!(one.say(AskKind::Prepare, &at(PROMISE_COUNT_MAX)), PROMISED);
    assert_eq!(one.replica.promise_count(), PROMISE_COUNT_MAX);
    // The first is not known by itself any more, and all up to it counts as promised.
    let first = Mutation { value: Some(b"v"), ..at(0) };
    assert_eq!(one.say(AskKind::Write, &first), outbid(10));
    assert_eq!(one.say(AskKind::Write, &put(b"x", 10)), outbid(10));
    assert_eq!(one.read(), (UNSURE, Some(b"w".to_vec())));
    assert_eq!(
        one.say(AskKind::Accept, &Mutation { value: Some(b"v"), ..at(1) }),
        ReplyKind::Accepted
    );
}

#[test]
fn a_node_answers_for_what_it_serves_and_in_its_epoch_only() {
    let kinds = [AskKind::Read, AskKind::Write, AskKind::Repair, AskKind::Prepare, AskKind::Accept];
    let (epoch, mutation) = (One::new().view.epoch(), put(b"a", 5));
    let refused = |reason| ReplyKind::Refused { epoch, reason };
    for kind in kinds {
        let mut one = One::new();
        for standing in [Standing::Frozen, Standing::Empty, Standing::Behind] {
            one.standing = standing;
            let reason = match standing {
                Standing::Frozen => Reason::Frozen,
                Standing::Empty => Reason::Empty,
                _ if matches!(kind, AskKind::Write | AskKind::Repair) => continue,
                _ => Reason::Behind,
            };
            let answer = one.ask(kind, &mutation);
            assert_eq!(answer, (refused(reason), Hold::Nothing), "{kind:?}");
        }
        let ask = Ask { request: REQUEST, epoch: epoch + 1, kind };
        let other = one.handle(ask, &mutation).unwrap().reply.unwrap().kind;
        assert_eq!(other, refused(Reason::Epoch), "{kind:?}");
        assert!(one.store.records.is_empty());
        assert_eq!(one.replica.promise_count(), 0);
    }
    let mut one = One::new();
    one.standing = Standing::Behind;
    assert_eq!(one.say(AskKind::Write, &mutation), WRITTEN, "it takes what is new");
    assert_eq!(one.say(AskKind::Repair, &put(b"b", 6)), WRITTEN);
}

#[test]
fn a_node_answers_for_keys_of_its_own_only() {
    let mut one = One::in_cluster_of(4);
    let epoch = one.view.epoch();
    let is_foreign = |it: &Vec<u8>| !one.view.is_mine(Slot::of(it).first());
    let key = (0..1_000).map(|it| format!("k{it}").into_bytes()).find(is_foreign).unwrap();
    for standing in [Standing::Serving, Standing::Behind] {
        one.standing = standing;
        let refused = ReplyKind::Refused { epoch, reason: Reason::NotMine };
        assert_eq!(one.say(AskKind::Write, &Mutation { key: &key, ..put(b"a", 5) }), refused);
    }
    assert!(one.store.records.is_empty());
}

#[test]
fn a_clock_is_shown_to_whoever_asks() {
    let mut one = One::new();
    one.standing = Standing::Empty;
    let ask = Ask { request: REQUEST, epoch: 0, kind: AskKind::Clock };
    let answer = one.handle(ask, &ballot(0)).unwrap();
    assert_eq!(answer.reply, Some(Reply { request: REQUEST, kind: ReplyKind::Clock }));
    assert_eq!((answer.record.is_none(), answer.hold), (true, Hold::Nothing));
}

#[test]
fn a_version_from_too_far_ahead_is_refused_and_one_that_is_not_is_passed_by_the_clock() {
    let far = Timestamp::from_wall(WALL + CONFIG.drift_max + Duration::from_millis(1));
    let far = Version { timestamp: far, node: NodeId(2) };
    for kind in [AskKind::Write, AskKind::Repair, AskKind::Prepare, AskKind::Accept] {
        let mut one = One::new();
        let drift = ReplyKind::Refused { epoch: one.view.epoch(), reason: Reason::Drift };
        assert_eq!(one.say(kind, &Mutation { version: far, ..put(b"a", 0) }), drift, "{kind:?}");
        assert!(one.store.records.is_empty() && one.store.promised == Version::ZERO);
        one.say(kind, &put(b"a", 5));
        assert_eq!(one.clock.latest(), version(5).timestamp, "{kind:?}");
    }
    let mut one = One::new();
    assert_eq!(one.say(AskKind::Read, &Mutation { version: far, ..ballot(0) }), SURE);
    assert_eq!(one.clock.latest(), Timestamp::ZERO, "what is read has no version yet");
}

#[test]
fn what_a_store_cannot_do_is_refused_and_what_it_will_do_later_is_asked_again() {
    for kind in [AskKind::Write, AskKind::Repair, AskKind::Accept] {
        let mut one = One::new();
        one.say(AskKind::Prepare, &ballot(5));
        one.store.is_full = true;
        let full = ReplyKind::Refused { epoch: one.view.epoch(), reason: Reason::DiskFull };
        assert_eq!(one.ask(kind, &put(b"a", 6)), (full, Hold::Nothing), "{kind:?}");
        assert_eq!(one.replica.promise_count(), 1, "{kind:?}");
        assert_eq!(one.read(), (SURE, None));
    }
    for kind in [AskKind::Write, AskKind::Repair, AskKind::Accept, AskKind::Prepare, AskKind::Read]
    {
        let mut one = One::new();
        one.store.is_busy = true;
        let ask = Ask { request: REQUEST, epoch: one.view.epoch(), kind };
        assert_eq!(one.handle(ask, &put(b"a", 5)).unwrap_err(), Busy, "{kind:?}");
        assert_eq!((one.replica.promise_count(), one.store.promised), (0, Version::ZERO));
    }
}
