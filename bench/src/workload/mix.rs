//! What requests do, and how often each kind comes.

use fastrand::Rng;

/// What a request does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    /// Reads a key.
    Get,
    /// Writes a key.
    Set,
    /// Writes a key that is new.
    Insert,
    /// Reads keys with neighbouring numbers together. A store that places keys by their hash has no
    /// order to scan in, so this reads as many rows from as many places.
    Scan,
    /// Reads a key, then writes it: one request, whose latency is that of both.
    ReadModifyWrite,
    /// Removes a key.
    Delete,
    /// Asks whether a key is there.
    Exists,
    /// Adds one to a key's number.
    Increment,
    /// Appends the value to that of a key.
    Append,
    /// A command of the user's own: [`super::Workload::commands`] at this index.
    Command(u8),
}

impl Operation {
    /// All that have a name of their own.
    pub const NAMED: [(Self, &'static str); 9] = [
        (Self::Get, "get"),
        (Self::Set, "set"),
        (Self::Insert, "insert"),
        (Self::Scan, "scan"),
        (Self::ReadModifyWrite, "rmw"),
        (Self::Delete, "del"),
        (Self::Exists, "exists"),
        (Self::Increment, "incr"),
        (Self::Append, "append"),
    ];

    /// A place of its own in a table, from 0 on.
    #[inline]
    #[must_use]
    pub fn index(self) -> usize {
        match self {
            Self::Get => 0,
            Self::Set => 1,
            Self::Insert => 2,
            Self::Scan => 3,
            Self::ReadModifyWrite => 4,
            Self::Delete => 5,
            Self::Exists => 6,
            Self::Increment => 7,
            Self::Append => 8,
            Self::Command(number) => Self::NAMED.len() + usize::from(number),
        }
    }

    /// Whether the requests of this kind carry a value.
    #[inline]
    #[must_use]
    pub fn carries_value(self) -> bool {
        match self {
            Self::Set | Self::Insert | Self::ReadModifyWrite | Self::Append | Self::Command(_) => {
                true
            }
            Self::Get | Self::Scan | Self::Delete | Self::Exists | Self::Increment => false,
        }
    }
}

/// The share of each operation.
#[derive(Clone, Debug, PartialEq)]
pub struct Mix {
    /// Shares are above 0 and add up to 1.
    parts: Vec<(Operation, f64)>,
}

impl Mix {
    /// A mix by weights, which add up to 1 or to 100; those of 0 are left out.
    ///
    /// # Errors
    ///
    /// A sentence, when they do not.
    pub fn new(weights: &[(Operation, f64)]) -> Result<Self, String> {
        let sum: f64 = weights.iter().map(|it| it.1).sum();
        let whole = if (sum - 100.0).abs() < 1e-4 { 100.0 } else { 1.0 };
        if weights.iter().any(|it| !it.1.is_finite() || it.1 < 0.0) {
            return Err("a share is no number from 0 on".to_owned());
        }
        if (sum - whole).abs() > 1e-6 * whole {
            return Err(format!("shares add up to {sum}, not to 1 or 100"));
        }
        let shares = weights.iter().filter(|it| it.1 > 0.0).map(|it| (it.0, it.1 / whole));
        Ok(Self { parts: shares.collect() })
    }

    /// So many reads, the others writes.
    ///
    /// # Panics
    ///
    /// When the share is not within 0 and 1.
    #[must_use]
    pub fn of_reads(share: f64) -> Self {
        Self::new(&[(Operation::Get, share), (Operation::Set, 1.0 - share)])
            .expect("a share and its rest are a whole")
    }

    /// Operations with their shares.
    #[must_use]
    pub fn parts(&self) -> &[(Operation, f64)] {
        &self.parts
    }

    /// Whether `operation` is part of it.
    #[must_use]
    pub fn has(&self, operation: Operation) -> bool {
        self.parts.iter().any(|it| it.0 == operation)
    }

    /// The next operation.
    #[inline]
    pub fn draw(&self, rng: &mut Rng) -> Operation {
        let (last, others) = self.parts.split_last().expect("shares add up to 1");
        if others.is_empty() {
            return last.0;
        }
        let mut left = rng.f64();
        for (operation, share) in others {
            if left < *share {
                return *operation;
            }
            left -= share;
        }
        last.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operation_has_a_place_and_a_name_of_its_own() {
        for (place, (operation, _)) in Operation::NAMED.iter().enumerate() {
            assert_eq!(operation.index(), place);
        }
        assert_eq!(Operation::Command(0).index(), Operation::NAMED.len());
        let mut names: Vec<&str> = Operation::NAMED.iter().map(|it| it.1).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Operation::NAMED.len());
    }

    #[test]
    fn operations_come_as_often_as_their_shares_say() {
        let weights =
            [(Operation::Get, 70.0), (Operation::Increment, 25.0), (Operation::Delete, 5.0)];
        let mix = Mix::new(&weights).unwrap();
        let mut rng = Rng::with_seed(1);
        let drawn: Vec<Operation> = (0..100_000).map(|_| mix.draw(&mut rng)).collect();
        for (operation, percent) in weights {
            let count = drawn.iter().filter(|it| **it == operation).count() as f64;
            assert!((count / 1000.0 - percent).abs() < 0.5, "{operation:?}: {count}");
        }
    }

    #[test]
    fn shares_are_a_whole() {
        for weights in [[0.5, 0.4], [60.0, 50.0], [-0.5, 1.5], [f64::NAN, 1.0], [0.0, 0.0]] {
            let parts = [(Operation::Get, weights[0]), (Operation::Set, weights[1])];
            assert!(Mix::new(&parts).is_err(), "{weights:?}");
        }
        assert_eq!(Mix::of_reads(1.0).parts(), [(Operation::Get, 1.0)]);
    }
}
