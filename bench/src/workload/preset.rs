//! Workloads that have a name: those of the *Yahoo! Cloud Serving Benchmark* (Cooper et al., SoCC
//! 2010), as its file `workloads/workload[a-f]` give them.
//!
//! A row of YCSB is ten fields of 100 B, folded into one value of 1000 B; an update writes the whole
//! row.

use super::{Mix, Operation};
use crate::keys::Distribution;

/// What a name stands for.
#[derive(Clone, Debug, PartialEq)]
pub struct Preset {
    /// Its name.
    pub name: &'static str,
    /// What it does, in a few words.
    pub summary: &'static str,
    /// What requests do.
    pub mix: Mix,
    /// How they spread over keys.
    pub distribution: Distribution,
}

/// Bytes of a row.
pub const ROW_BYTES: usize = 1000;

/// The exponent that YCSB uses.
const THETA: f64 = 0.99;

/// The names that [`Preset::named`] knows.
pub const NAMES: [&str; 6] = ["ycsb-a", "ycsb-b", "ycsb-c", "ycsb-d", "ycsb-e", "ycsb-f"];

impl Preset {
    /// The workload of that name, in capitals or not.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        use Operation::{Get, Insert, ReadModifyWrite, Scan, Set};
        let zipfian = Distribution::Zipfian { theta: THETA };
        let latest = Distribution::Latest { theta: THETA };
        let position = NAMES.iter().position(|it| it.eq_ignore_ascii_case(name))?;
        let (summary, weights, distribution) = match position {
            0 => ("update heavy", [(Get, 50.0), (Set, 50.0)], zipfian),
            1 => ("read mostly", [(Get, 95.0), (Set, 5.0)], zipfian),
            2 => ("read only", [(Get, 100.0), (Set, 0.0)], zipfian),
            3 => ("read latest", [(Get, 95.0), (Insert, 5.0)], latest),
            4 => ("short ranges", [(Scan, 95.0), (Insert, 5.0)], zipfian),
            _ => ("read-modify-write", [(Get, 50.0), (ReadModifyWrite, 50.0)], zipfian),
        };
        let mix = Mix::new(&weights).expect("the shares above are wholes");
        Some(Self { name: NAMES[position], summary, mix, distribution })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_known_in_capitals_too_and_others_are_not() {
        for name in NAMES {
            assert_eq!(Preset::named(name).unwrap().name, name);
        }
        assert_eq!(Preset::named("YCSB-E").unwrap().summary, "short ranges");
        assert_eq!(Preset::named("ycsb-g"), None);
    }
}
