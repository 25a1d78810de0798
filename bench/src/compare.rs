//! Two targets in turn.
//!
//! What disturbs a machine for a minute disturbs neighbours in a series alike. So ratios are taken
//! within a pair; what they tell is in [`statistics`](crate::statistics).

use serde::Serialize;

use crate::interrupt;
use crate::report::Figures;
use crate::statistics::{Ratio, Spread};
use crate::target::{Failure, Preparation, Target};

/// The figures that are compared, of one target, or as ratios; absent where they were not measured
/// in every run.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[expect(missing_docs, reason = "the names say it all")]
pub struct Compared<T = Spread> {
    pub rate: Option<T>,
    pub p50_us: Option<T>,
    pub p99_us: Option<T>,
    pub p99_9_us: Option<T>,
    pub server_cpu_us_per_request: Option<T>,
}

/// All runs and what they come to.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    /// Why it ended early, if it did. The last pair may then lack its second half.
    pub partial: Option<String>,
    /// Runs of the first target, in order.
    pub a: Vec<Figures>,
    /// Runs of the second.
    pub b: Vec<Figures>,
    /// Figures of the first target over its whole runs.
    pub a_figures: Compared,
    /// Figures of the second.
    pub b_figures: Compared,
    /// The first divided by the second, within pairs.
    pub ratios: Compared<Ratio>,
}

impl Comparison {
    /// What `a` and `b`, the runs of the targets in order, come to.
    pub(crate) fn new(a: Vec<Figures>, b: Vec<Figures>, partial: Option<String>) -> Self {
        let ratios = compared(|figure| {
            let pairs = a.iter().zip(&b).map(|(a, b)| figure(a).zip(figure(b)));
            Ratio::of(pairs.collect::<Option<Vec<_>>>()?)
        });
        let of = |runs: &[Figures]| {
            compared(|figure| Spread::of(runs.iter().map(figure).collect::<Option<Vec<_>>>()?))
        };
        Self { partial, a_figures: of(&a), b_figures: of(&b), ratios, a, b }
    }
}

/// Runs both targets `pair_count` times, A first, and each prepared before its first run. Ends early
/// when one of them fails.
///
/// # Errors
///
/// When a target cannot be reached before any pair is done.
pub fn alternate<'a>(
    a: &'a mut dyn Target,
    b: &'a mut dyn Target,
    pair_count: u32,
) -> Result<([Preparation; 2], Comparison), Failure> {
    let mut preparations = [Preparation::default(), Preparation::default()];
    let mut runs = [Vec::new(), Vec::new()];
    let mut partial = None;
    'pairs: for _ in 0..pair_count {
        let prepared = runs.iter_mut().zip(&mut preparations);
        for (target, (runs, preparation)) in [&mut *a, &mut *b].into_iter().zip(prepared) {
            if interrupt::is_set() {
                partial = Some(interrupt::REASON.to_owned());
                break 'pairs;
            }
            if runs.is_empty() {
                *preparation = target.prepare()?;
            }
            let measurement = target.measure();
            target.rest();
            match measurement {
                Ok(measurement) => runs.push(Figures::new(&measurement)),
                Err(failure) if runs.is_empty() => return Err(failure),
                Err(failure) => {
                    partial = Some(failure.to_string());
                    break 'pairs;
                }
            }
            partial = runs.last().and_then(|it| it.partial.clone());
            if partial.is_some() {
                break 'pairs;
            }
        }
    }
    let [a, b] = runs;
    Ok((preparations, Comparison::new(a, b, partial)))
}

type Figure = fn(&Figures) -> Option<f64>;

fn compared<T>(of: impl Fn(Figure) -> Option<T>) -> Compared<T> {
    Compared {
        rate: of(|it| it.rate),
        p50_us: of(|it| Some(it.latency.as_ref()?.p50_us)),
        p99_us: of(|it| Some(it.latency.as_ref()?.p99_us)),
        p99_9_us: of(|it| Some(it.latency.as_ref()?.p99_9_us)),
        server_cpu_us_per_request: of(|it| it.server.as_ref()?.cpu_us_per_request),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::Duration;

    use super::*;
    use crate::record::{Answer, Recorder};
    use crate::statistics::Verdict;
    use crate::target::{GeneratorCost, Measurement};
    use crate::workload::Operation;

    /// Answers so many requests a second in its runs, one after another; then it cannot be reached.
    struct Scripted<'a> {
        name: char,
        rates: &'a [u64],
        order: &'a std::cell::RefCell<String>,
    }

    impl Target for Scripted<'_> {
        fn prepare(&mut self) -> Result<Preparation, Failure> {
            Ok(Preparation::default())
        }

        fn measure(&mut self) -> Result<Measurement, Failure> {
            self.order.borrow_mut().push(self.name);
            let Some((&rate, rest)) = self.rates.split_first() else {
                let source = std::io::Error::other("refused");
                return Err(Failure::Connect { target: self.name.to_string(), source });
            };
            self.rates = rest;
            let mut recorder = Recorder::default();
            for _ in 0..rate {
                recorder.record(Operation::Get, Duration::from_micros(100), Answer::Done);
            }
            Ok(Measurement {
                operation_names: vec!["get".to_owned()],
                timeline: Vec::new(),
                recorder,
                window: Duration::from_secs(1),
                partial: None,
                server: None,
                generator: Some(GeneratorCost {
                    threads: 1,
                    cpus: BTreeSet::new(),
                    busy_share: 0.5,
                    starved_share: 0.0,
                }),
                engine_cpus: Vec::new(),
                latency_stride: 1,
            })
        }
    }

    fn compare(a: &[u64], b: &[u64]) -> (Result<Comparison, Failure>, String) {
        let order = std::cell::RefCell::new(String::new());
        let mut a = Scripted { name: 'a', rates: a, order: &order };
        let mut b = Scripted { name: 'b', rates: b, order: &order };
        let comparison = alternate(&mut a, &mut b, 3);
        (comparison.map(|it| it.1), order.into_inner())
    }

    #[test]
    fn targets_take_turns_and_ratios_are_those_of_pairs() {
        let (comparison, order) = compare(&[100, 300, 200], &[100, 100, 50]);
        let comparison = comparison.unwrap();
        assert_eq!(order, "ababab");
        assert_eq!(comparison.partial, None);
        let rates = Ratio::of([(1.0, 1.0), (3.0, 1.0), (4.0, 1.0)]);
        assert_eq!(comparison.ratios.rate, rates);
        assert_eq!(comparison.ratios.p50_us.unwrap().verdict, Verdict::NoDifference);
        assert_eq!(comparison.ratios.server_cpu_us_per_request, None);
        let a_rate = Spread { median: 200.0, min: 100.0, max: 300.0 };
        assert_eq!(comparison.a_figures.rate, Some(a_rate));
    }

    #[test]
    fn a_target_that_goes_away_leaves_the_pairs_before() {
        let (comparison, order) = compare(&[100, 300, 200], &[50]);
        let comparison = comparison.unwrap();
        assert_eq!(order, "abab");
        assert_eq!(comparison.partial.as_deref(), Some("cannot connect to b: refused"));
        assert_eq!(comparison.ratios.rate, Ratio::of([(100.0, 50.0)]));
    }

    #[test]
    fn a_target_that_was_never_there_is_a_failure() {
        let (comparison, order) = compare(&[100], &[]);
        assert!(comparison.is_err());
        assert_eq!(order, "ab");
    }
}
