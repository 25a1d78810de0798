//! How much a run has done, so that an empty one cannot pass.

use std::collections::BTreeMap;
use std::fmt;

/// Counts by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    counts: BTreeMap<String, u64>,
}

impl Report {
    /// One more of these.
    pub(super) fn count(&mut self, what: &str) {
        self.add(what, 1);
    }

    /// So many more of these.
    pub(super) fn add(&mut self, what: &str, amount: u64) {
        match self.counts.get_mut(what) {
            Some(count) => *count += amount,
            None => {
                self.counts.insert(what.to_owned(), amount);
            }
        }
    }

    /// The larger of what there is and this.
    pub(super) fn raise(&mut self, what: &str, amount: u64) {
        let count = self.counts.entry(what.to_owned()).or_default();
        *count = amount.max(*count);
    }

    /// How many there were.
    #[must_use]
    pub fn get(&self, what: &str) -> u64 {
        self.counts.get(what).copied().unwrap_or(0)
    }

    /// The sum of all whose names begin so.
    #[must_use]
    pub fn sum(&self, prefix: &str) -> u64 {
        self.counts.iter().filter(|(name, _)| name.starts_with(prefix)).map(|(_, it)| it).sum()
    }

    /// Takes in another's.
    pub fn merge(&mut self, other: &Self) {
        for (name, amount) in &other.counts {
            if name.starts_with("most ") {
                self.raise(name, *amount);
            } else {
                self.add(name, *amount);
            }
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, amount) in &self.counts {
            writeln!(f, "{amount:>12}  {name}")?;
        }
        Ok(())
    }
}
