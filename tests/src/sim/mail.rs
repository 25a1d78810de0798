//! What a node's cores post to each other: it takes a while, and a full inbox takes nothing.

use std::collections::VecDeque;
use std::time::Duration;

use fastrand::Rng;
use gridkv::simulation::{Call, Mail};
use gridkv_cluster::Instant;
use gridkv_cluster::member::State;
use gridkv_cluster::replication::Level;
use gridkv_cluster::topology::agreement::{Survey, Via};

/// What the mail is like.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// The longest that it takes.
    pub delay_max: Duration,
    /// Batches that an inbox holds; more wait where they come from.
    pub capacity: usize,
}

/// What a core finds in its inbox.
pub(super) enum Item {
    Mail(Mail),
    /// What holds in the cluster.
    State(Box<State>),
    /// Take no writes any more, and say whether there is anything: for the survey of that number.
    Survey(usize),
    /// All cores have said so: for the core that speaks for the node.
    Surveyed(Via, Survey),
    /// A call from another thread.
    Call {
        tag: u64,
        key: Vec<u8>,
        call: Call,
        level: Level,
    },
}

/// The inboxes of all cores.
pub(super) struct Inboxes {
    options: Options,
    rng: Rng,
    /// By who gets it and who has sent it, the last of whom is no core; each in order.
    queues: Vec<Vec<VecDeque<(Instant, Item)>>>,
}

impl Inboxes {
    pub(super) fn new(core_count: usize, options: Options, seed: u64) -> Self {
        let inbox = |_| (0..=core_count).map(|_| VecDeque::new()).collect();
        let queues = (0..core_count).map(inbox).collect();
        Self { options, rng: Rng::with_seed(seed ^ 0x6d61_696c), queues }
    }

    /// Posts something that is never refused.
    pub(super) fn post(&mut self, now: Instant, (from, to): (usize, usize), item: Item) {
        let delay = self.options.delay_max * self.rng.u32(0..=1_000) / 1_000;
        let queue = &mut self.queues[to][from];
        let latest = queue.back().map_or(Instant::ZERO, |(at, _)| *at);
        queue.push_back((latest.max(now + delay), item));
    }

    pub(super) fn post_from_outside(&mut self, now: Instant, to: usize, item: Item) {
        self.post(now, (self.queues.len(), to), item);
    }

    /// Posts a batch, if there is room.
    pub(super) fn try_post(
        &mut self,
        now: Instant,
        ends: (usize, usize),
        mail: Mail,
    ) -> Result<(), Mail> {
        let waiting: usize = self.queues[ends.1].iter().map(VecDeque::len).sum();
        if waiting >= self.options.capacity {
            return Err(mail);
        }
        self.post(now, ends, Item::Mail(mail));
        Ok(())
    }

    /// What has arrived: for whom, and what.
    pub(super) fn take(&mut self, now: Instant) -> Option<(usize, Item)> {
        let fronts = self.queues.iter().enumerate().flat_map(|(to, inbox)| {
            let front = move |(from, queue): (usize, &VecDeque<(Instant, Item)>)| {
                Some((queue.front()?.0, to, from))
            };
            inbox.iter().enumerate().filter_map(front)
        });
        let (at, to, from) = fronts.min()?;
        if at > now {
            return None;
        }
        let (_, item) = self.queues[to][from].pop_front().expect("it was just seen");
        Some((to, item))
    }

    /// When something arrives.
    pub(super) fn due_at(&self) -> Option<Instant> {
        self.queues.iter().flatten().filter_map(|queue| queue.front()).map(|(at, _)| *at).min()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queues.iter().flatten().all(VecDeque::is_empty)
    }
}
