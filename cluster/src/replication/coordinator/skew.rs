//! Whether this node's clock is ahead of the others'.
//!
//! Replicas refuse versions from too far ahead, but a node's own replica judges by the same wrong
//! clock. So a coordinator whose clock most others find ahead writes nothing, and ends nothing.
//!
//! # What is known of a peer's clock
//!
//! What a peer's clock showed arrives later, by as long as it was on its way: a process that stood still
//! reads in a row what was sent to it for seconds. So no single showing says what the clock shows now:
//!
//! ```text
//!   this node    request sent at S --------.         .-----> answer read at L
//!                                           \       /
//!   the peer                                 R: its clock, when it answers
//! ```
//!
//! - It showed R no later than L, so it shows at least that much now: a *lower* bound, of which the
//!   largest of late counts.
//! - It showed R no sooner than S, so it shows at most that much now, plus what has passed since S: an
//!   *upper* bound. Of a frame that answers nothing there is none.
//!
//! This node's clock is ahead only where an upper bound says so. That it is not ahead, which is asked
//! before something is freed for good, and that it is behind, only a lower bound says.
//!
//! Bounds are kept against the clock that only goes forward, so this node's clock is found out as soon as
//! it was set, by what was heard before.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::super::OpId;
use crate::model::NodeId;
use crate::time::{Instant, Now, WallTime};

/// How long what was heard counts.
const MEMORY: Duration = Duration::from_secs(10);
/// How often it is noted when requests are sent.
const MARK_EVERY: Duration = Duration::from_millis(2);
/// Notes of when requests were sent, at most: answers that come later bound nothing.
const MARK_COUNT_MAX: usize = 2_048;

/// How much more a clock shows, in milliseconds, than has passed since this process began.
type Offset = i64;

/// What was heard of one clock.
#[derive(Clone, Copy, Debug)]
struct Heard {
    /// What it showed last, and by how much that was more than this node's clock.
    remote: WallTime,
    difference_ms: i64,
    /// The largest lower bound of the present half of [`MEMORY`] and of the half before.
    lower: [Option<Offset>; 2],
    half_from: Instant,
    /// The latest upper bound.
    upper: Option<(Offset, Instant)>,
}

#[derive(Debug, Default)]
pub(super) struct Skew {
    heard: BTreeMap<NodeId, Heard>,
    /// Requests, and when they were sent: none of a larger number was sent before.
    marks: VecDeque<(OpId, Instant)>,
}

impl Skew {
    /// What is sent from here on has numbers from `id` on.
    pub(super) fn mark(&mut self, id: OpId, at: Instant) {
        let is_due = |(_, last): &(OpId, Instant)| at.saturating_since(*last) >= MARK_EVERY;
        if self.marks.back().is_none_or(is_due) {
            self.marks.push_back((id, at));
        }
        if self.marks.len() > MARK_COUNT_MAX {
            self.marks.pop_front();
        }
    }

    /// A peer's clock showed `remote` in a frame that was just read.
    pub(super) fn note(&mut self, now: Now, from: NodeId, remote: WallTime) {
        let lower = offset(remote, now.at);
        let heard = self.heard.entry(from).or_insert(Heard {
            remote,
            difference_ms: 0,
            lower: [None; 2],
            half_from: now.at,
            upper: None,
        });
        let halves = now.at.saturating_since(heard.half_from).as_nanos() / (MEMORY / 2).as_nanos();
        if halves > 0 {
            heard.lower = [None, heard.lower[0].filter(|_| halves == 1)];
            heard.half_from = now.at;
        }
        heard.lower[0] = heard.lower[0].max(Some(lower));
        heard.remote = remote;
        heard.difference_ms = millis(remote) - millis(now.wall);
    }

    /// That frame has an answer to a request.
    pub(super) fn note_answer(&mut self, now: Instant, from: NodeId, request: OpId) {
        let Some(heard) = self.heard.get_mut(&from) else { return };
        let next = self.marks.partition_point(|(id, _)| *id <= request);
        let Some((_, sent_at)) = next.checked_sub(1).and_then(|it| self.marks.get(it)) else {
            return;
        };
        heard.upper = Some((offset(heard.remote, *sent_at), now));
    }

    /// Whether a peer has ever answered.
    pub(super) fn was_bounded(&self, node: NodeId) -> bool {
        self.heard.get(&node).is_some_and(|heard| heard.upper.is_some())
    }

    /// Whether a peer has answered within this time.
    pub(super) fn is_bounded_since(&self, node: NodeId, now: Instant, time: Duration) -> bool {
        let upper = self.heard.get(&node).and_then(|heard| heard.upper);
        upper.is_some_and(|(_, at)| now.saturating_since(at) < time)
    }

    /// Whether more than half of those who have answered of late are behind by more than `drift_max`.
    pub(super) fn is_ahead(&self, now: Now, drift_max: Duration) -> bool {
        let bound = offset(now.wall - drift_max, now.at);
        let (mut count, mut behind) = (0, 0);
        for (upper, at) in self.heard.values().filter_map(|heard| heard.upper) {
            if now.at.saturating_since(at) <= MEMORY {
                count += 1;
                behind += usize::from(upper < bound);
            }
        }
        behind * 2 > count
    }

    /// How many others are, by what was heard of late, not behind by more than `drift_max`.
    pub(super) fn vouchers(&self, now: Now, drift_max: Duration) -> usize {
        let bound = offset(now.wall - drift_max, now.at);
        let of_late = |heard: &&Heard| now.at.saturating_since(heard.half_from) <= MEMORY;
        let heard = self.heard.values().filter(of_late);
        heard.filter(|heard| heard.lower.iter().flatten().any(|lower| *lower >= bound)).count()
    }

    /// Whether this node's clock is behind those of more than half of those heard of late, by more than
    /// `drift_max`, and for one that is as much ahead of theirs this time has come.
    pub(super) fn is_behind(&self, now: Now, drift_max: Duration, time: WallTime) -> bool {
        let far = offset(now.wall + drift_max, now.at) + 1;
        let bound = far.max(offset(time - drift_max, now.at));
        let (mut count, mut beyond) = (0, 0);
        for heard in self.heard.values() {
            if now.at.saturating_since(heard.half_from) <= MEMORY {
                count += 1;
                beyond += usize::from(heard.lower.iter().flatten().any(|lower| *lower >= bound));
            }
        }
        beyond * 2 > count
    }

    /// By how much each clock was ahead of this node's when it was heard of last, in milliseconds.
    pub(super) fn iter(&self) -> impl Iterator<Item = (NodeId, i64)> {
        self.heard.iter().map(|(node, heard)| (*node, heard.difference_ms))
    }
}

fn millis(time: WallTime) -> i64 {
    i64::try_from(time.as_millis()).expect("48 bits")
}

fn offset(wall: WallTime, at: Instant) -> Offset {
    millis(wall) - i64::try_from(at.as_nanos() / 1_000_000).expect("a quotient of 64 bits")
}

#[cfg(test)]
mod tests {
    use super::*;

    const DRIFT_MAX: Duration = Duration::from_millis(500);

    /// A time, at a node whose clock is so far ahead.
    fn now(at_ms: u64, ahead_ms: u64) -> Now {
        let at = Instant::ZERO + Duration::from_millis(at_ms);
        Now { at, wall: WallTime::from_millis(1_000_000_000 + at_ms + ahead_ms) }
    }

    /// A request is sent and answered, and takes so long both ways.
    fn ask(skew: &mut Skew, peer: u16, request: u64, at_ms: u64, way_ms: u64, ahead_ms: u64) {
        skew.mark(OpId(request), now(at_ms, 0).at);
        let read_at = now(at_ms + 2 * way_ms, ahead_ms);
        skew.note(read_at, NodeId(peer), now(at_ms + way_ms, 0).wall);
        skew.note_answer(read_at.at, NodeId(peer), OpId(request));
    }

    #[test]
    fn a_clock_is_ahead_when_most_who_answer_say_so() {
        let mut skew = Skew::default();
        assert!(!skew.is_ahead(now(0, 1_000), DRIFT_MAX), "nobody has said anything");
        ask(&mut skew, 2, 1, 0, 1, 1_000);
        assert!(skew.is_ahead(now(10, 1_000), DRIFT_MAX));
        assert!(!skew.is_ahead(now(10, 400), DRIFT_MAX), "it was set");
        skew.mark(OpId(2), now(10, 0).at);
        skew.note(now(12, 1_000), NodeId(3), now(11, 1_000).wall);
        skew.note_answer(now(12, 1_000).at, NodeId(3), OpId(2));
        assert!(!skew.is_ahead(now(20, 1_000), DRIFT_MAX), "one of two");
        ask(&mut skew, 3, 3, 20, 1, 1_000);
        assert!(skew.is_ahead(now(30, 1_000), DRIFT_MAX));
        assert!(!skew.is_ahead(now(11_000, 1_000), DRIFT_MAX), "that was long ago");
    }

    #[test]
    fn a_clock_that_is_set_is_found_out_by_what_was_heard_before() {
        let mut skew = Skew::default();
        ask(&mut skew, 2, 1, 0, 1, 0);
        assert!(!skew.is_ahead(now(5, 0), DRIFT_MAX));
        assert!(skew.is_ahead(now(5, 3_600_000), DRIFT_MAX));
        assert_eq!(skew.vouchers(now(5, 0), DRIFT_MAX), 1);
        assert_eq!(skew.vouchers(now(5, 3_600_000), DRIFT_MAX), 0);
    }

    #[test]
    fn a_clock_is_behind_for_a_time_that_has_come_for_most_others() {
        let mut skew = Skew::default();
        let is_behind =
            |skew: &Skew, time_ms| skew.is_behind(now(100, 0), DRIFT_MAX, now(100, time_ms).wall);
        assert!(!is_behind(&skew, 0), "nobody has said anything");
        for (peer, ahead_ms) in [(2, 9_000), (3, 7_000), (4, 0)] {
            skew.note(now(5, 0), NodeId(peer), now(5, ahead_ms).wall);
        }
        assert!(is_behind(&skew, 7_500));
        assert!(!is_behind(&skew, 7_501), "for one of three only");
        skew.note(now(100, 0), NodeId(5), now(100, 0).wall);
        assert!(!is_behind(&skew, 0), "two of four are not most");
        let mut close = Skew::default();
        close.note(now(5, 0), NodeId(2), now(5, 500).wall);
        assert!(!is_behind(&close, 0), "clocks may differ by that");
    }

    #[test]
    fn what_was_long_on_its_way_does_not_make_a_clock_ahead() {
        let mut skew = Skew::default();
        // A request of before, whose answer waits while the process stands still for 3 s, and frames
        // that nobody has asked for.
        skew.mark(OpId(1), now(0, 0).at);
        for sent_at in [1, 100, 200] {
            skew.note(now(3_200, 0), NodeId(2), now(sent_at, 0).wall);
            skew.note_answer(now(3_200, 0).at, NodeId(2), OpId(1));
            skew.note(now(3_200, 0), NodeId(3), now(sent_at, 0).wall);
        }
        assert!(!skew.is_ahead(now(3_200, 0), DRIFT_MAX));
        assert_eq!(
            skew.vouchers(now(3_200, 0), DRIFT_MAX),
            0,
            "nobody says that it is right, either"
        );
        skew.note(now(3_201, 0), NodeId(2), now(3_200, 0).wall);
        skew.note(now(3_300, 0), NodeId(2), now(1_000, 0).wall);
        assert_eq!(skew.vouchers(now(3_300, 0), DRIFT_MAX), 1, "the largest counts");
        assert_eq!(skew.vouchers(now(30_000, 0), DRIFT_MAX), 0, "that was long ago");
    }

    #[test]
    fn an_answer_to_what_was_sent_long_ago_bounds_nothing_too_tightly() {
        let mut skew = Skew::default();
        for id in 0..10_000_u64 {
            skew.mark(OpId(id), now(id * 2, 0).at);
        }
        assert!(skew.marks.len() <= MARK_COUNT_MAX);
        skew.note(now(20_000, 0), NodeId(2), now(5, 0).wall);
        skew.note_answer(now(20_000, 0).at, NodeId(2), OpId(1));
        assert!(!skew.is_ahead(now(20_000, 0), DRIFT_MAX), "it is not known when it was sent");
    }

    #[test]
    fn an_answer_bounds_a_clock_from_when_its_request_was_sent() {
        let mut skew = Skew::default();
        skew.mark(OpId(1), now(0, 0).at);
        skew.mark(OpId(2), now(3_000, 0).at);
        skew.mark(OpId(3), now(6_000, 0).at);
        skew.note(now(6_001, 0), NodeId(2), now(3_001, 0).wall);
        skew.note_answer(now(6_001, 0).at, NodeId(2), OpId(2));
        assert!(!skew.is_ahead(now(6_010, 501), DRIFT_MAX), "it may be 500 ms ahead only");
        assert!(skew.is_ahead(now(6_010, 502), DRIFT_MAX));
        // An answer to the first says less.
        skew.note_answer(now(6_002, 0).at, NodeId(2), OpId(1));
        assert!(!skew.is_ahead(now(6_010, 3_501), DRIFT_MAX));
        assert!(skew.is_ahead(now(6_010, 3_502), DRIFT_MAX));
    }

    #[test]
    fn the_largest_that_a_clock_has_shown_counts_for_one_half_of_the_memory_to_all_of_it() {
        let half = u64::try_from(MEMORY.as_millis()).unwrap() / 2;
        let is_behind =
            |skew: &Skew, at_ms| skew.is_behind(now(at_ms, 0), DRIFT_MAX, WallTime::EPOCH);
        let mut skew = Skew::default();
        skew.note(now(0, 0), NodeId(2), now(0, 9_000).wall);
        for at_ms in [half - 1, half, 2 * half - 1] {
            skew.note(now(at_ms, 0), NodeId(2), now(at_ms, 0).wall);
            assert!(is_behind(&skew, at_ms), "{at_ms}");
        }
        skew.note(now(2 * half, 0), NodeId(2), now(2 * half, 0).wall);
        assert!(!is_behind(&skew, 2 * half));
        // One that was silent for two halves.
        let mut skew = Skew::default();
        skew.note(now(0, 0), NodeId(2), now(0, 9_000).wall);
        skew.note(now(2 * half, 0), NodeId(2), now(2 * half, 0).wall);
        assert!(!is_behind(&skew, 2 * half));
    }

    #[test]
    fn a_clock_is_behind_by_more_than_clocks_may_differ() {
        for (ahead_ms, is_behind) in [(500, false), (501, true)] {
            let mut skew = Skew::default();
            skew.note(now(5, 0), NodeId(2), now(5, ahead_ms).wall);
            assert_eq!(skew.is_behind(now(5, 0), DRIFT_MAX, WallTime::EPOCH), is_behind);
            // And for a time that has not come for the others it is not.
            assert!(!skew.is_behind(now(5, 0), DRIFT_MAX, now(5, 1_002).wall));
        }
    }

    #[test]
    fn a_clock_was_heard_within_a_time_that_is_not_up() {
        let mut skew = Skew::default();
        let time = Duration::from_millis(100);
        skew.note(now(5, 0), NodeId(2), now(5, 0).wall);
        assert!(!skew.was_bounded(NodeId(2)), "it has answered nothing");
        ask(&mut skew, 2, 1, 8, 1, 0);
        assert!(skew.was_bounded(NodeId(2)) && !skew.was_bounded(NodeId(3)));
        assert!(skew.is_bounded_since(NodeId(2), now(109, 0).at, time));
        assert!(!skew.is_bounded_since(NodeId(2), now(110, 0).at, time));
        assert!(!skew.is_bounded_since(NodeId(3), now(10, 0).at, time));
    }

    #[test]
    fn who_is_ahead_of_this_node_is_shown_by_how_much() {
        let mut skew = Skew::default();
        skew.note(now(5, 100), NodeId(2), now(5, 0).wall);
        skew.note(now(6, 0), NodeId(3), now(6, 0).wall);
        skew.note(now(7, 0), NodeId(3), now(7, 30).wall);
        assert_eq!(skew.iter().collect::<Vec<_>>(), [(NodeId(2), -100), (NodeId(3), 30)]);
    }

    #[test]
    fn marks_that_are_close_are_one_and_the_oldest_go() {
        let mut skew = Skew::default();
        for id in 0..10 {
            skew.mark(OpId(id), now(id / 2, 0).at);
        }
        assert_eq!(skew.marks.len(), 3, "at 0, 2 and 4 ms");
        for id in 10..10_000 {
            skew.mark(OpId(id), now(id * 2, 0).at);
        }
        assert_eq!(skew.marks.len(), MARK_COUNT_MAX);
        assert_eq!(skew.marks.back().map(|it| it.0), Some(OpId(9_999)));
    }
}
