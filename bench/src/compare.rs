//! Two targets in turn.
//!
//! What disturbs a machine for a minute disturbs neighbours in a series alike. So ratios are taken
//! within a pair, and what is reported is their median and their whole spread.

use serde::Serialize;

use crate::report::Figures;
use crate::target::{Failure, Preparation, Target};

/// A figure over all pairs.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Spread {
    /// Half of the pairs are below, half above.
    pub median: f64,
    /// The smallest.
    pub min: f64,
    /// The largest.
    pub max: f64,
}

impl Spread {
    /// The spread of `figures`; `None` when there are none.
    #[must_use]
    pub fn of(figures: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut sorted: Vec<f64> = figures.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        let (&min, &max) = (sorted.first()?, sorted.last()?);
        let middle = sorted.len() / 2;
        let median = if sorted.len() % 2 == 1 {
            sorted[middle]
        } else {
            f64::midpoint(sorted[middle - 1], sorted[middle])
        };
        Some(Self { median, min, max })
    }
}

/// The figures that are compared, of one target or as ratios; absent where they were not measured
/// in every run.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[expect(missing_docs, reason = "the names say it all")]
pub struct Compared {
    pub rate: Option<Spread>,
    pub p50_us: Option<Spread>,
    pub p99_us: Option<Spread>,
    pub p99_9_us: Option<Spread>,
    pub server_cpu_us_per_request: Option<Spread>,
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
    pub ratios: Compared,
}

impl Comparison {
    /// What `a` and `b`, the runs of the targets in order, come to.
    pub(crate) fn new(a: Vec<Figures>, b: Vec<Figures>, partial: Option<String>) -> Self {
        let ratios =
            compared(|figure| spread_of(a.iter().zip(&b), |(a, b)| ratio(figure(a)?, figure(b)?)));
        let of = |runs: &[Figures]| compared(|figure| spread_of(runs.iter(), figure));
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

fn compared(spread: impl Fn(Figure) -> Option<Spread>) -> Compared {
    Compared {
        rate: spread(|it| it.rate),
        p50_us: spread(|it| Some(it.latency.as_ref()?.p50_us)),
        p99_us: spread(|it| Some(it.latency.as_ref()?.p99_us)),
        p99_9_us: spread(|it| Some(it.latency.as_ref()?.p99_9_us)),
        server_cpu_us_per_request: spread(|it| it.server.as_ref()?.cpu_us_per_request),
    }
}

/// `None` when one of the runs lacks the figure.
fn spread_of<T>(
    runs: impl Iterator<Item = T>,
    figure: impl Fn(T) -> Option<f64>,
) -> Option<Spread> {
    Spread::of(runs.map(figure).collect::<Option<Vec<f64>>>()?)
}

fn ratio(a: f64, b: f64) -> Option<f64> {
    (b > 0.0).then(|| a / b)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::Duration;

    use super::*;
    use crate::record::{Answer, Recorder};
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
        assert_eq!(comparison.ratios.rate, Some(Spread { median: 3.0, min: 1.0, max: 4.0 }));
        assert_eq!(comparison.ratios.p50_us, Some(Spread { median: 1.0, min: 1.0, max: 1.0 }));
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
        assert_eq!(comparison.ratios.rate, Some(Spread { median: 2.0, min: 2.0, max: 2.0 }));
    }

    #[test]
    fn a_target_that_was_never_there_is_a_failure() {
        let (comparison, order) = compare(&[100], &[]);
        assert!(comparison.is_err());
        assert_eq!(order, "ab");
    }

    #[test]
    fn an_even_number_of_figures_has_its_median_between() {
        let spread = Spread { median: 2.5, min: 1.0, max: 4.0 };
        assert_eq!(Spread::of([4.0, 1.0, 3.0, 2.0]), Some(spread));
        assert_eq!(Spread::of([]), None);
    }
}
