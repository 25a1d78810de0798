//! Which of a sender's sequence numbers have been seen, and how much work is done for it.

use crate::time::WallTime;

/// How far behind the newest a number may come, so that datagrams may overtake each other.
pub(super) const WINDOW_LEN: u64 = 64;

/// The newest number that was seen, and which of the [`WINDOW_LEN`] up to it were: bit 0 is the
/// newest. What is older counts as seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Window {
    newest: u64,
    seen: u64,
}

const _: () = assert!(WINDOW_LEN == u64::BITS as u64);

impl Window {
    /// A window that has seen one number.
    pub(super) const fn starting_at(sequence: u64) -> Self {
        Self { newest: sequence, seen: 1 }
    }

    pub(super) const fn is_new(self, sequence: u64) -> bool {
        if sequence > self.newest {
            return true;
        }
        let age = self.newest - sequence;
        age < WINDOW_LEN && self.seen & (1 << age) == 0
    }

    /// Marks a number that is new.
    pub(super) fn mark(&mut self, sequence: u64) {
        assert!(self.is_new(sequence));
        if sequence > self.newest {
            let step = sequence - self.newest;
            self.seen = if step < WINDOW_LEN { self.seen << step } else { 0 };
            self.newest = sequence;
        }
        self.seen |= 1 << (self.newest - sequence);
        assert!(!self.is_new(sequence));
    }
}

/// So much in each second of the wall clock.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Budget {
    second: u64,
    spent: u32,
}

impl Budget {
    /// Whether there is room for one more.
    pub(super) const fn spend(&mut self, wall: WallTime, per_second: u32) -> bool {
        let second = wall.as_millis() / 1_000;
        if second != self.second {
            *self = Self { second, spent: 0 };
        }
        if self.spent >= per_second {
            return false;
        }
        self.spent += 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_number_is_new_once_and_not_when_it_is_too_old(
            start in 200_u64..1_000,
            steps in proptest::collection::vec(0_u64..200, 1..100),
        ) {
            let mut window = Window::starting_at(start);
            let mut seen = BTreeSet::from([start]);
            for step in steps {
                let newest = *seen.last().unwrap();
                let sequence = newest + step - 100;
                let is_new = !seen.contains(&sequence) && sequence + WINDOW_LEN > newest;
                prop_assert_eq!(window.is_new(sequence), is_new);
                if is_new {
                    window.mark(sequence);
                    seen.insert(sequence);
                }
            }
        }
    }

    #[test]
    fn the_edges_of_the_window_are_where_they_should_be() {
        let mut window = Window::starting_at(100);
        assert!(!window.is_new(100));
        assert!(window.is_new(100 - 63));
        assert!(!window.is_new(100 - 64));
        assert!(!window.is_new(0));
        window.mark(163);
        assert!(!window.is_new(100));
        assert!(window.is_new(101));
        window.mark(164);
        assert!(!window.is_new(100));
        window.mark(164 + 64);
        assert!(!window.is_new(164));
        assert!(window.is_new(165));
        window.mark(u64::MAX);
        assert!(!window.is_new(u64::MAX));
        assert!(window.is_new(u64::MAX - 1));
        assert!(!window.is_new(0));
    }

    #[test]
    fn a_budget_is_filled_again_each_second() {
        let mut budget = Budget::default();
        let wall = WallTime::from_millis;
        assert_eq!([5_000, 5_500, 5_999].map(|it| budget.spend(wall(it), 2)), [true, true, false]);
        assert!(budget.spend(wall(6_000), 2));
    }
}
