//! The longest turns of a core's loop, by cause: what a client that came at the worst moment has waited
//! for.
//!
//! # What is timed
//!
//! Reading the clock takes about 20 ns here, a turn that serves one GET 3.6 us. So the clock is read
//! at the beginning and at the end of a turn, and besides after each phase that has found something
//! to do: twice more than the loop needs anyway in a turn that serves clients of a store in memory. A
//! phase that finds nothing to do is counted with the next one. The kernel's part is timed in turns that
//! do not wait, since a wait is no stall. Commands are timed on their own where the slow log times
//! them, and each step of a task is: a command is named if it took a millisecond once.
//!
//! # Windows
//!
//! Each figure is the highest of the present window of ten seconds and the one before: who looks at
//! least every ten seconds misses none, however many look.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How long a window is.
const WINDOW: Duration = Duration::from_secs(10);

/// A command that takes so long is named.
const NAMED_MIN: Duration = Duration::from_millis(1);

/// What a turn does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// All of it, but for waiting.
    Turn,
    /// Submitting, and the kernel's deferred work.
    Kernel,
    /// What has arrived on sockets: accepting, parsing, running commands.
    Clients,
    /// Mail: calls, requests and answers of other cores, replies of tasks.
    Mailbox,
    /// A step of a command that takes several, or of background work.
    Tasks,
    /// Expiry, time-outs.
    Timers,
    /// The cluster's messages.
    Cluster,
    /// The stores' logs, and what has waited for them.
    Stores,
    /// Posting to other cores, sending.
    Replies,
}

const PHASES: [(Phase, &str); 9] = [
    (Phase::Turn, "turn"),
    (Phase::Kernel, "kernel"),
    (Phase::Clients, "clients"),
    (Phase::Mailbox, "mailbox"),
    (Phase::Tasks, "tasks"),
    (Phase::Timers, "timers"),
    (Phase::Cluster, "cluster"),
    (Phase::Stores, "stores"),
    (Phase::Replies, "replies"),
];

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Window {
    phases: [Duration; PHASES.len()],
    commands: BTreeMap<&'static str, Duration>,
}

/// The longest of each cause, on one core or on several.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Longest(Window);

impl Longest {
    /// Takes in those of another core.
    pub(crate) fn merge(&mut self, other: &Self) {
        for (own, others) in self.0.phases.iter_mut().zip(&other.0.phases) {
            *own = (*own).max(*others);
        }
        for (name, took) in &other.0.commands {
            let own = self.0.commands.entry(name).or_default();
            *own = (*own).max(*took);
        }
    }

    /// Each cause with its longest time: all phases, and the commands that took long.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (String, Duration)> {
        let phases = PHASES.iter().zip(&self.0.phases);
        let phases = phases.map(|((_, name), took)| ((*name).to_owned(), *took));
        let commands = self.0.commands.iter();
        phases.chain(commands.map(|(name, took)| (format!("command:{name}"), *took)))
    }
}

/// Where the longest times of a core are kept. Its tasks note theirs, too.
#[derive(Debug)]
pub(crate) struct Turns(RefCell<Windows>);

#[derive(Debug)]
struct Windows {
    present: Window,
    before: Window,
    begun_at: Instant,
}

impl Turns {
    pub(crate) fn new(now: Instant) -> Self {
        let (present, before) = (Window::default(), Window::default());
        Self(RefCell::new(Windows { present, before, begun_at: now }))
    }

    /// Begins a new window when it is time. Called at every tick.
    pub(crate) fn tick(&self, now: Instant) {
        let mut windows = self.0.borrow_mut();
        if now.saturating_duration_since(windows.begun_at) >= WINDOW {
            windows.before = std::mem::take(&mut windows.present);
            windows.begun_at = now;
        }
    }

    /// Forgets all, and begins a new window.
    pub(crate) fn reset(&self, now: Instant) {
        let (present, before) = (Window::default(), Window::default());
        *self.0.borrow_mut() = Windows { present, before, begun_at: now };
    }

    #[inline]
    pub(crate) fn note(&self, phase: Phase, took: Duration) {
        let longest = &mut self.0.borrow_mut().present.phases[phase as usize];
        *longest = (*longest).max(took);
    }

    /// Notes how long a command, or a step of it, took.
    #[inline]
    pub(crate) fn note_command(&self, name: &'static str, took: Duration) {
        if took >= NAMED_MIN {
            let mut windows = self.0.borrow_mut();
            let longest = windows.present.commands.entry(name).or_default();
            *longest = (*longest).max(took);
        }
    }

    /// The longest times of the last ten seconds, or somewhat more.
    pub(crate) fn longest(&self) -> Longest {
        let windows = self.0.borrow();
        let mut longest = Longest(windows.before.clone());
        longest.merge(&Longest(windows.present.clone()));
        longest
    }
}

/// Times the phases of one turn.
pub(crate) struct Watch {
    begun_at: Instant,
    last_at: Instant,
}

impl Watch {
    pub(crate) fn start(now: Instant) -> Self {
        Self { begun_at: now, last_at: now }
    }

    /// Ends a phase, if it has found something to do.
    #[inline]
    pub(crate) fn lap(&mut self, turns: &Turns, phase: Phase, has_worked: bool) {
        if has_worked {
            let now = Instant::now();
            turns.note(phase, now - self.last_at);
            self.last_at = now;
        }
    }

    /// Ends the last phase and the turn. Returns when that was.
    pub(crate) fn end(mut self, turns: &Turns, phase: Phase) -> Instant {
        self.lap(turns, phase, true);
        turns.note(Phase::Turn, self.last_at - self.begun_at);
        self.last_at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(turns: &Turns, cause: &str) -> Option<Duration> {
        turns.longest().iter().find(|(name, _)| name == cause).map(|(_, took)| took)
    }

    #[test]
    fn the_longest_stays_for_a_window_and_is_gone_after_two() {
        let start = Instant::now();
        let turns = Turns::new(start);
        let millis = Duration::from_millis;
        turns.note(Phase::Stores, millis(5));
        turns.note(Phase::Stores, millis(3));
        turns.note_command("keys", millis(7));
        turns.note_command("get", millis(1) / 2);
        turns.tick(start + WINDOW / 2);
        assert_eq!(of(&turns, "stores"), Some(millis(5)));
        turns.tick(start + WINDOW);
        turns.note(Phase::Stores, millis(4));
        assert_eq!(of(&turns, "stores"), Some(millis(5)));
        assert_eq!(of(&turns, "command:keys"), Some(millis(7)));
        assert_eq!(of(&turns, "command:get"), None);
        // Looking changes nothing.
        assert_eq!(turns.longest(), turns.longest());
        turns.tick(start + 2 * WINDOW);
        assert_eq!(of(&turns, "stores"), Some(millis(4)));
        assert_eq!(of(&turns, "command:keys"), None);
        turns.tick(start + 3 * WINDOW);
        assert_eq!(of(&turns, "stores"), Some(Duration::ZERO));
        turns.note(Phase::Stores, millis(6));
        turns.reset(start + 3 * WINDOW);
        assert_eq!(of(&turns, "stores"), Some(Duration::ZERO));
    }

    #[test]
    fn phases_are_named_at_their_own_places() {
        for (index, (phase, _)) in PHASES.iter().enumerate() {
            assert_eq!(*phase as usize, index);
        }
    }

    #[test]
    fn the_longest_of_several_cores_is_the_longest_of_each_cause() {
        let (one, other) = (Turns::new(Instant::now()), Turns::new(Instant::now()));
        one.note(Phase::Clients, Duration::from_millis(2));
        other.note(Phase::Clients, Duration::from_millis(1));
        other.note_command("scan", Duration::from_millis(9));
        let mut both = one.longest();
        both.merge(&other.longest());
        let long: Vec<_> = both.iter().filter(|(_, took)| !took.is_zero()).collect();
        let expected = [("clients", 2), ("command:scan", 9)];
        let expected = expected.map(|(name, it)| (name.to_owned(), Duration::from_millis(it)));
        assert_eq!(long, expected);
    }
}
