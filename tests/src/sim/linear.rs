//! Whether what clients saw of one key can be put in an order that one register could have gone
//! through.
//!
//! Sources: Wing, Gong, "Testing and Verifying Concurrent Objects" (1993); Lowe, "Testing for
//! linearizability" (2017), whose memory of the places seen makes it affordable.
//!
//! An operation that was acknowledged takes effect between its call and its return. One whose outcome
//! is unknown takes effect at any time after its call, or never. Where the search would take too
//! long it ends without a verdict, which is counted.
//!
//! # Expiry
//!
//! A key with an expiry ends by itself, once: a step that no client takes. It may come as long before the
//! expiry as a clock may be ahead, and no client may see the value that begins to look later than a clock
//! may be behind.

use std::collections::HashSet;
use std::time::Duration;

use gridkv_cluster::{Instant, WallTime};
use xxhash_rust::xxh3::xxh3_128;

use super::history::{Ending, Held, Kind, Operation, Value, text};
use super::world::WALL_START;

/// Places that a search may come to.
const PLACE_COUNT_MAX: usize = 300_000;

/// What is known of a history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Linearizable,
    /// The search has come so far, and no further.
    Not(String),
    /// The search was too long.
    Undecided,
}

/// Whether a key's operations, which started with no value, are linearizable. `drift_max` is how far any
/// clock may be wrong; `None` where there is no bound.
pub(super) fn check(operations: &[&Operation], drift_max: Option<Duration>) -> Verdict {
    let verdict = Search::new(relevant(operations, false), drift_max).run();
    let hides_some = |it: &&Operation| it.expires_at.is_some() || it.hides_what_it_saw();
    if matches!(verdict, Verdict::Not(_)) && operations.iter().any(hides_some) {
        // What nobody has seen may be in what only the length of is known, or have ended.
        return Search::new(relevant(operations, true), drift_max).run();
    }
    verdict
}

/// When true clocks show a time.
fn instant_of(wall: WallTime) -> Instant {
    let since = wall.saturating_since(WallTime::from_millis(WALL_START));
    Instant::ZERO + since
}

struct Call<'a> {
    operation: &'a Operation,
    invoked: Instant,
    /// `None` for one that may take effect at any time, or never.
    completed: Option<Instant>,
}

/// The operations that say anything, in the order of their calls; with `all`, those too that nobody
/// has seen anything of.
fn relevant<'a>(operations: &[&'a Operation], all: bool) -> Vec<Call<'a>> {
    let mut seen: HashSet<&[u8]> = HashSet::new();
    for operation in operations {
        let observed = match &operation.ending {
            Ending::Found(Some((_, value))) => value.as_deref(),
            Ending::Acknowledged(_) => {
                let before = operation.before.as_ref().and_then(|it| it.exactly());
                before.and_then(|it| it.as_deref())
            }
            _ => None,
        };
        // What was appended ends with a comma, and so does each value.
        seen.extend(observed.unwrap_or_default().split(|byte| *byte == b','));
    }
    let mut calls: Vec<Call<'_>> = Vec::new();
    for operation in operations {
        let completed = match operation.ending {
            Ending::NotApplied => continue,
            Ending::None | Ending::Unknown => {
                let is_value = matches!(
                    operation.kind,
                    Kind::Write | Kind::Append | Kind::SetIfAbsent | Kind::CompareAndSet
                );
                let id = operation.value.split(|byte| *byte == b',').next().unwrap_or_default();
                let is_unseen = is_value && !seen.contains(id) && !all;
                if operation.kind == Kind::Read || is_unseen {
                    // Nobody has seen it: it can be left out.
                    continue;
                }
                None
            }
            _ => operation.completed,
        };
        calls.push(Call { operation, invoked: operation.invoked, completed });
    }
    calls.sort_by_key(|call| call.invoked);
    calls
}

struct Search<'a> {
    calls: Vec<Call<'a>>,
    /// Those done, as bits.
    done: Vec<u64>,
    state: Held,
    drift_max: Option<Duration>,
    /// All before this one are done.
    first: usize,
    /// Of those that must be done, so many are not.
    left: usize,
    /// Hashes of them: of what is done from `first` on, and of the value.
    places: HashSet<u128>,
}

impl<'a> Search<'a> {
    fn new(calls: Vec<Call<'a>>, drift_max: Option<Duration>) -> Self {
        let left = calls.iter().filter(|call| call.completed.is_some()).count();
        let done = vec![0; calls.len().div_ceil(64)];
        let (state, places) = (Held::default(), HashSet::new());
        Self { calls, done, state, drift_max, first: 0, left, places }
    }

    fn place(&self) -> u128 {
        let mut bytes = Vec::with_capacity(64);
        bytes.extend_from_slice(&self.first.to_le_bytes());
        bytes.push(u8::from(self.state.value.is_some()));
        let expiry = self.state.expires_at.map_or(0, WallTime::as_millis);
        bytes.extend_from_slice(&expiry.to_le_bytes());
        for word in &self.done[self.first / 64..] {
            bytes.extend_from_slice(&word.to_le_bytes());
        }
        bytes.extend_from_slice(self.state.value.as_deref().unwrap_or_default());
        xxh3_128(&bytes)
    }

    fn is_done(&self, index: usize) -> bool {
        self.done[index / 64] >> (index % 64) & 1 == 1
    }

    /// Depth first; the steps taken are on `path`, so that no history is too long for the stack.
    fn run(mut self) -> Verdict {
        let mut path: Vec<(usize, Held, usize)> = Vec::new();
        let mut deepest: Vec<usize> = Vec::new();
        let mut next = 0;
        loop {
            if self.left == 0 {
                return Verdict::Linearizable;
            }
            if let Some(index) = self.step_from(next) {
                let before = self.state.clone();
                let first = self.first;
                self.take(index);
                if self.places.insert(self.place()) {
                    if self.places.len() > PLACE_COUNT_MAX {
                        return Verdict::Undecided;
                    }
                    path.push((index, before, first));
                    if path.len() > deepest.len() {
                        deepest = path.iter().map(|(index, ..)| *index).collect();
                    }
                    next = self.first;
                    continue;
                }
                self.put_back(index, before, first);
                next = index + 1;
                continue;
            }
            let Some((index, before, first)) = path.pop() else {
                return Verdict::Not(self.describe(&deepest));
            };
            self.put_back(index, before, first);
            next = index + 1;
        }
    }

    /// Where a search stands after these steps: the last of them, and what could come next.
    fn describe(mut self, steps: &[usize]) -> String {
        steps.iter().for_each(|index| self.take(*index));
        let last = steps.iter().rev().take(4).rev();
        let last = last.map(|index| match self.calls.get(*index) {
            Some(call) => format!("\n  {:?}", call.operation),
            None => "\n  its end".to_owned(),
        });
        let left = (self.first..self.calls.len()).filter(|index| !self.is_done(*index)).take(8);
        let left = left.map(|index| format!("\n  {:?}", self.calls[index].operation));
        let value = self.state.value.as_deref().map(text);
        let (last, left): (String, String) = (last.collect(), left.collect());
        let until = self.state.expires_at;
        format!("after{last}\nit is {value:?} until {until:?}, and left are{left}")
    }

    /// The first call, from `next` on, that can come now; behind the last one, the end of the key.
    fn step_from(&self, next: usize) -> Option<usize> {
        let bound = self.bound();
        let call = (next.max(self.first)..self.calls.len())
            .take_while(|index| self.calls[*index].invoked <= bound)
            .find(|index| !self.is_done(*index) && self.fits(*index));
        call.or_else(|| {
            (next <= self.calls.len() && self.can_end(bound)).then_some(self.calls.len())
        })
    }

    /// When the next step comes at the latest.
    fn bound(&self) -> Instant {
        // None may come after another has returned that is not done.
        let mut bound = Instant::from_nanos(u64::MAX);
        for index in self.first..self.calls.len() {
            let call = &self.calls[index];
            if call.invoked > bound {
                break;
            }
            if !self.is_done(index)
                && let Some(completed) = call.completed
            {
                bound = bound.min(completed);
            }
        }
        bound
    }

    /// Whether the key may end by itself by `bound`.
    fn can_end(&self, bound: Instant) -> bool {
        let Some(expires_at) = self.state.expires_at else { return false };
        self.drift_max.is_none_or(|drift_max| instant_of(expires_at - drift_max) <= bound)
    }

    /// Whether who begins to look at `invoked` may see the value.
    fn may_be_seen(&self, invoked: Instant) -> bool {
        let bounds = self.state.expires_at.zip(self.drift_max);
        bounds.is_none_or(|(expires_at, drift_max)| invoked <= instant_of(expires_at + drift_max))
    }

    /// Whether what the call's client saw is what it would see now.
    fn fits(&self, index: usize) -> bool {
        let operation = self.calls[index].operation;
        let is_seen =
            |value: &Value| *value == self.state.value && self.may_be_seen(operation.invoked);
        match &operation.ending {
            Ending::Found(found) => is_seen(&found.as_ref().and_then(|it| it.1.clone())),
            Ending::Acknowledged(_) => operation.before.as_ref().is_none_or(|before| {
                before.fits(&self.state.value) && self.may_be_seen(operation.invoked)
            }),
            // One without effect need not take place.
            _ => operation.apply_to(&self.state).is_some_and(|after| after != self.state),
        }
    }

    fn take(&mut self, index: usize) {
        if index == self.calls.len() {
            self.state = Held::default();
            return;
        }
        self.done[index / 64] |= 1 << (index % 64);
        self.left -= usize::from(self.calls[index].completed.is_some());
        if let Some(after) = self.calls[index].operation.apply_to(&self.state) {
            self.state = after;
        }
        while self.first < self.calls.len() && self.is_done(self.first) {
            self.first += 1;
        }
    }

    fn put_back(&mut self, index: usize, before: Held, first: usize) {
        if let Some(call) = self.calls.get(index) {
            self.done[index / 64] &= !(1 << (index % 64));
            self.left += usize::from(call.completed.is_some());
        }
        self.state = before;
        self.first = first;
    }
}

#[cfg(test)]
mod tests;
