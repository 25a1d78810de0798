//! Which rare branches were taken: [`probe!`](crate::probe!) counts when its condition holds.
//!
//! A machine whose rare branches nobody comes to is not tested, however many seeds are run. The simulator
//! takes the counts of each run and fails where a batch of runs never came to one that it requires.
//! Without debug assertions or the feature `probes`, which the simulator turns on, a probe is nothing.

use std::cell::RefCell;
use std::collections::BTreeMap;

/// Whether probes count.
pub const IS_ON: bool = cfg!(any(debug_assertions, feature = "probes"));

thread_local! {
    static COUNTS: RefCell<BTreeMap<&'static str, u64>> = const { RefCell::new(BTreeMap::new()) };
}

/// Counts once where a condition holds.
#[macro_export]
macro_rules! probe {
    ($condition:expr, $name:literal) => {
        if $crate::probe::IS_ON && $condition {
            $crate::probe::count($name);
        }
    };
}

/// One more of that name, on this thread.
pub fn count(name: &'static str) {
    COUNTS.with_borrow_mut(|counts| *counts.entry(name).or_default() += 1);
}

/// What was counted on this thread since this was called last.
#[must_use]
pub fn take() -> BTreeMap<&'static str, u64> {
    COUNTS.take()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_holds_is_counted_until_it_is_taken() {
        drop(take());
        for number in 0..5 {
            probe!(number % 2 == 0, "an even number");
            probe!(number > 5, "a large number");
        }
        let expected: Vec<(&str, u64)> = if IS_ON { vec![("an even number", 3)] } else { vec![] };
        assert_eq!(take().into_iter().collect::<Vec<_>>(), expected);
        assert!(take().is_empty());
    }
}
