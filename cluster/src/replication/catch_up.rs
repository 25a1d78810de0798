//! What peers have missed, and feeding it to them when they are back.
//!
//! Each core keeps the writes that it has coordinated in its sync log. For each peer it knows the
//! first that the peer may not have; when the peer can be reached, everything from there on that the
//! peer keeps a copy of is sent again, one batch at a time, so that a node that comes back is not
//! flooded.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::model::NodeId;
use crate::probe;
use crate::time::Instant;

/// Entries read from the log at a time.
pub(super) const BATCH_COUNT: usize = 128;
/// How long after a failure a peer is tried again.
const PAUSE: Duration = Duration::from_millis(200);

/// What a peer has missed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Missed {
    /// The first entry of the sync log that it may not have.
    pub from: u64,
    /// Entries that were overwritten before they could be sent.
    pub lost_count: u64,
}

/// The feed of one peer.
#[derive(Clone, Copy, Debug)]
struct Feed {
    from: Option<u64>,
    batch: Option<Batch>,
    resume_at: Instant,
    lost_count: u64,
}

#[derive(Clone, Copy, Debug)]
struct Batch {
    next: u64,
    outstanding: usize,
    has_failed: bool,
    /// The log was read to its end: nothing is missed when this is confirmed.
    is_last: bool,
    /// The first entry missed since the batch was read.
    missed_since: Option<u64>,
}

/// The feeds of all peers.
#[derive(Debug, Default)]
pub(super) struct CatchUp {
    feeds: BTreeMap<NodeId, Feed>,
}

impl CatchUp {
    /// A peer may not have the entry.
    pub(super) fn missed(&mut self, peer: NodeId, sequence: u64) {
        let feed = self.feeds.entry(peer).or_insert(Feed {
            from: None,
            batch: None,
            resume_at: Instant::ZERO,
            lost_count: 0,
        });
        probe!(feed.batch.is_some(), "mark during an excerpt");
        let first = match &mut feed.batch {
            Some(batch) => &mut batch.missed_since,
            None => &mut feed.from,
        };
        *first = Some(first.map_or(sequence, |first| first.min(sequence)));
    }

    /// The next peer to feed, and from where.
    pub(super) fn due(
        &self,
        now: Instant,
        is_reachable: impl Fn(NodeId) -> bool,
    ) -> Option<(NodeId, u64)> {
        self.feeds.iter().find_map(|(peer, feed)| {
            let from = feed.from?;
            let is_due = feed.batch.is_none() && feed.resume_at <= now && is_reachable(*peer);
            is_due.then_some((*peer, from))
        })
    }

    /// When the next feed goes on after a failure.
    pub(super) fn resume_at(&self, is_reachable: impl Fn(NodeId) -> bool) -> Option<Instant> {
        let waiting = |feed: &&Feed| feed.from.is_some() && feed.batch.is_none();
        let feeds = self.feeds.iter().filter(|(peer, feed)| waiting(feed) && is_reachable(**peer));
        feeds.map(|(_, feed)| feed.resume_at).min()
    }

    /// A batch was read from the log, of which `outstanding` entries were sent. What was missed since the
    /// log was asked for may not be in it.
    pub(super) fn started(
        &mut self,
        now: Instant,
        peer: NodeId,
        (next, lost_count, is_last): (u64, u64, bool),
        outstanding: usize,
    ) {
        let feed = self.feeds.get_mut(&peer).expect("it was due");
        feed.lost_count += lost_count;
        let missed_since = feed.batch.take().and_then(|asked| asked.missed_since);
        feed.batch = Some(Batch { next, outstanding, has_failed: false, is_last, missed_since });
        if outstanding == 0 {
            self.finish(now, peer);
        }
    }

    /// The peer has confirmed an entry of its batch, or failed to.
    pub(super) fn on_answer(&mut self, now: Instant, peer: NodeId, is_confirmed: bool) {
        let Some(batch) = self.feeds.get_mut(&peer).and_then(|feed| feed.batch.as_mut()) else {
            return;
        };
        batch.outstanding -= 1;
        batch.has_failed |= !is_confirmed;
        if batch.outstanding == 0 {
            self.finish(now, peer);
        }
    }

    fn finish(&mut self, now: Instant, peer: NodeId) {
        let feed = self.feeds.get_mut(&peer).expect("it has a batch");
        let batch = feed.batch.take().expect("it is under way");
        if batch.has_failed {
            feed.resume_at = now + PAUSE;
        } else {
            feed.from = (!batch.is_last).then_some(batch.next);
        }
        let first = [feed.from, batch.missed_since].into_iter().flatten().min();
        feed.from = first;
    }

    /// What each peer has missed, of those that have missed something.
    pub(super) fn lags(&self) -> impl Iterator<Item = (NodeId, Missed)> {
        self.feeds.iter().filter_map(|(peer, feed)| {
            let from = feed.from?;
            Some((*peer, Missed { from, lost_count: feed.lost_count }))
        })
    }

    /// Entries that some peer has not got and cannot get any more.
    pub(super) fn lost_count(&self) -> u64 {
        self.feeds.values().map(|feed| feed.lost_count).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: NodeId = NodeId(2);

    #[test]
    fn what_is_missed_while_the_log_is_being_read_is_not_forgotten() {
        let (mut catch_up, now) = (CatchUp::default(), Instant::ZERO);
        catch_up.missed(PEER, 5);
        assert_eq!(catch_up.due(now, |_| true), Some((PEER, 5)));
        // As when the driver is asked for the log, and when it has read it, to its end.
        catch_up.started(now, PEER, (5, 0, false), 1);
        catch_up.missed(PEER, 9);
        catch_up.started(now, PEER, (8, 0, true), 3);
        for _ in 0..3 {
            catch_up.on_answer(now, PEER, true);
        }
        assert_eq!(catch_up.due(now, |_| true), Some((PEER, 9)));
        assert_eq!(catch_up.lags().next(), Some((PEER, Missed { from: 9, lost_count: 0 })));
    }

    const OTHER: NodeId = NodeId(3);

    /// What a peer has missed, if anything.
    fn missed_from(catch_up: &CatchUp, peer: NodeId) -> Option<u64> {
        catch_up.lags().find(|it| it.0 == peer).map(|(_, missed)| missed.from)
    }

    /// Reads a batch for the peer, up to entry 8, of which it is sent so many.
    fn send(catch_up: &mut CatchUp, is_last: bool, sent: usize) {
        let (_, from) = catch_up.due(Instant::ZERO, |_| true).expect("it has missed something");
        catch_up.started(Instant::ZERO, PEER, (from, 0, false), 1);
        catch_up.started(Instant::ZERO, PEER, (8, 0, is_last), sent);
    }

    #[test]
    fn the_first_that_was_missed_counts() {
        let mut catch_up = CatchUp::default();
        for sequence in [7, 5, 9] {
            catch_up.missed(PEER, sequence);
        }
        assert_eq!(missed_from(&catch_up, PEER), Some(5));
        send(&mut catch_up, true, 1);
        assert_eq!(catch_up.due(Instant::ZERO, |_| true), None, "one batch at a time");
        assert_eq!(catch_up.resume_at(|_| true), None);
        for sequence in [14, 12, 13] {
            catch_up.missed(PEER, sequence);
        }
        catch_up.on_answer(Instant::ZERO, PEER, true);
        assert_eq!(missed_from(&catch_up, PEER), Some(12));
    }

    #[test]
    fn a_peer_is_fed_batch_by_batch_until_the_log_ends() {
        let mut catch_up = CatchUp::default();
        catch_up.missed(PEER, 5);
        send(&mut catch_up, false, 2);
        catch_up.on_answer(Instant::ZERO, PEER, true);
        assert_eq!(missed_from(&catch_up, PEER), Some(5), "the other may be lost");
        catch_up.on_answer(Instant::ZERO, PEER, true);
        assert_eq!(missed_from(&catch_up, PEER), Some(8), "what comes after the batch");
        // Nothing of the next is for this peer.
        send(&mut catch_up, true, 0);
        assert_eq!(missed_from(&catch_up, PEER), None);
        assert_eq!(catch_up.due(Instant::ZERO, |_| true), None);
        assert_eq!(catch_up.resume_at(|_| true), None);
        catch_up.on_answer(Instant::ZERO, PEER, true);
        catch_up.on_answer(Instant::ZERO, OTHER, true);
        assert_eq!(catch_up.lags().count(), 0, "what answers nothing changes nothing");
    }

    #[test]
    fn a_batch_that_was_not_confirmed_is_sent_again_after_a_pause() {
        for confirmed in [[true, false], [false, true], [false, false]] {
            let mut catch_up = CatchUp::default();
            catch_up.missed(PEER, 5);
            send(&mut catch_up, true, 2);
            for is_confirmed in confirmed {
                catch_up.on_answer(Instant::ZERO, PEER, is_confirmed);
            }
            assert_eq!(missed_from(&catch_up, PEER), Some(5));
            let resume_at = Instant::ZERO + PAUSE;
            assert_eq!(catch_up.resume_at(|_| true), Some(resume_at));
            assert_eq!(catch_up.due(Instant::ZERO, |_| true), None);
            assert_eq!(catch_up.due(resume_at, |_| true), Some((PEER, 5)));
        }
    }

    #[test]
    fn a_peer_that_is_away_is_fed_when_it_is_back_and_holds_up_no_other() {
        let mut catch_up = CatchUp::default();
        catch_up.missed(PEER, 5);
        catch_up.missed(OTHER, 6);
        assert_eq!(catch_up.due(Instant::ZERO, |peer| peer == OTHER), Some((OTHER, 6)));
        assert_eq!(catch_up.due(Instant::ZERO, |_| false), None);
        assert_eq!(catch_up.resume_at(|_| false), None, "that it is back will be told");
        assert_eq!(catch_up.resume_at(|peer| peer == OTHER), Some(Instant::ZERO));
    }

    #[test]
    fn entries_that_were_overwritten_are_counted_for_all_peers() {
        let mut catch_up = CatchUp::default();
        for (peer, lost_count) in [(PEER, 3), (OTHER, 4), (PEER, 10)] {
            catch_up.missed(peer, 5);
            catch_up.started(Instant::ZERO, peer, (9, lost_count, false), 0);
        }
        assert_eq!(catch_up.lost_count(), 17);
        let lags: Vec<_> = catch_up.lags().collect();
        let missed = |lost_count| Missed { from: 9, lost_count };
        assert_eq!(lags, [(PEER, missed(13)), (OTHER, missed(4))]);
    }
}
