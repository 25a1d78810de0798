//! What some pairs of figures tell, and what they do not.
//!
//! Two runs of one program differ by what else the machine does. A ratio is taken within a pair, so
//! that what disturbs for minutes cancels out; what is left is noise, and [`Ratio`] says whether the
//! pairs show more than that.
//!
//! # How a ratio is judged
//!
//! Ratios multiply, so their mean is the geometric one: the mean of their logarithms, for which the
//! 95 % confidence interval is Student's, with one degree of freedom less than there are pairs.
//! When 1 lies within the interval, the pairs show no difference. Of comparisons of two equal sides
//! one in twenty claims one nevertheless.

use serde::Serialize;

/// A figure over some runs.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Spread {
    /// Half of the runs are below, half above.
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

/// What pairs say of the first figure beside the second.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The first is higher.
    Higher,
    /// The first is lower.
    Lower,
    /// What differs may be noise.
    NoDifference,
    /// Fewer than two pairs say nothing of noise.
    Undecidable,
}

/// The first figure divided by the second, over all pairs.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Ratio {
    /// How many pairs there are.
    pub pairs: usize,
    /// The geometric mean.
    pub mean: f64,
    /// Where its 95 % confidence interval begins; `None` with fewer than two pairs.
    pub interval_low: Option<f64>,
    /// Where it ends.
    pub interval_high: Option<f64>,
    /// Half of the pairs are below, half above.
    pub median: f64,
    /// The smallest.
    pub min: f64,
    /// The largest.
    pub max: f64,
    /// What they tell.
    pub verdict: Verdict,
}

impl Ratio {
    /// The ratios of `pairs`; `None` when there are none, or one has a figure that is not positive.
    #[must_use]
    pub fn of(pairs: impl IntoIterator<Item = (f64, f64)>) -> Option<Self> {
        let mut ratios = Vec::new();
        for (a, b) in pairs {
            let ratio = a / b;
            if !(a > 0.0 && b > 0.0 && ratio.is_normal()) {
                return None;
            }
            ratios.push(ratio);
        }
        let Spread { median, min, max } = Spread::of(ratios.iter().copied())?;
        let logarithms: Vec<f64> = ratios.iter().map(|it| it.ln()).collect();
        let count = logarithms.len() as f64;
        let mean = logarithms.iter().sum::<f64>() / count;
        let interval = (logarithms.len() > 1).then(|| {
            let squares: f64 = logarithms.iter().map(|it| (it - mean).powi(2)).sum();
            let error = (squares / (count - 1.0) / count).sqrt();
            let reach = t_quantile(logarithms.len() - 1) * error;
            ((mean - reach).exp(), (mean + reach).exp())
        });
        let verdict = match interval {
            None => Verdict::Undecidable,
            Some((low, _)) if low > 1.0 => Verdict::Higher,
            Some((_, high)) if high < 1.0 => Verdict::Lower,
            Some(_) => Verdict::NoDifference,
        };
        Some(Self {
            pairs: ratios.len(),
            mean: mean.exp(),
            interval_low: interval.map(|it| it.0),
            interval_high: interval.map(|it| it.1),
            median,
            min,
            max,
            verdict,
        })
    }
}

/// 97.5 % quantiles of Student's t from one degree of freedom on, as in the NIST/SEMATECH handbook
/// of statistical methods, 1.3.6.7.2.
const T_QUANTILES: [f64; 10] = [
    12.706_205, 4.302_653, 3.182_446, 2.776_445, 2.570_582, 2.446_912, 2.364_624, 2.306_004,
    2.262_157, 2.228_139,
];

/// The same of the normal distribution.
const NORMAL_QUANTILE: f64 = 1.959_964;

/// The 97.5 % quantile of Student's t: beyond the table the expansion of Abramowitz and Stegun,
/// 26.7.5, whose error there is below a millionth.
fn t_quantile(degrees_of_freedom: usize) -> f64 {
    assert!(degrees_of_freedom > 0);
    if let Some(quantile) = T_QUANTILES.get(degrees_of_freedom - 1) {
        return *quantile;
    }
    let (x, v) = (NORMAL_QUANTILE, degrees_of_freedom as f64);
    let g1 = (x.powi(3) + x) / 4.0;
    let g2 = (5.0 * x.powi(5) + 16.0 * x.powi(3) + 3.0 * x) / 96.0;
    let g3 = (3.0 * x.powi(7) + 19.0 * x.powi(5) + 17.0 * x.powi(3) - 15.0 * x) / 384.0;
    let g4 = 79.0 * x.powi(9) + 776.0 * x.powi(7) + 1482.0 * x.powi(5) - 1920.0 * x.powi(3);
    let g4 = (g4 - 945.0 * x) / 92_160.0;
    x + g1 / v + g2 / v.powi(2) + g3 / v.powi(3) + g4 / v.powi(4)
}

#[cfg(test)]
mod tests {
    use fastrand::Rng;

    use super::*;

    #[test]
    fn quantiles_are_those_of_the_tables() {
        for (degrees_of_freedom, expected) in [
            (1, 12.706_205),
            (4, 2.776_445),
            (10, 2.228_139),
            (11, 2.200_985),
            (15, 2.131_450),
            (20, 2.085_963),
            (30, 2.042_272),
            (60, 2.000_298),
            (120, 1.979_930),
            (1000, 1.962_339),
        ] {
            let quantile = t_quantile(degrees_of_freedom);
            assert!((quantile - expected).abs() < 2e-5, "{degrees_of_freedom}: {quantile}");
        }
    }

    #[test]
    fn the_expansion_meets_the_table() {
        let steps = (8..13).map(|it| t_quantile(it) - t_quantile(it + 1)).collect::<Vec<_>>();
        assert!(steps.is_sorted_by(|a, b| a > b), "{steps:?}");
    }

    #[test]
    fn an_even_number_of_figures_has_its_median_between() {
        let spread = Spread { median: 2.5, min: 1.0, max: 4.0 };
        assert_eq!(Spread::of([4.0, 1.0, 3.0, 2.0]), Some(spread));
        assert_eq!(Spread::of([]), None);
    }

    #[test]
    fn an_interval_is_that_of_a_worked_example() {
        // Ratios e^0.1, e^0.2, e^0.3: mean 0.2, deviation 0.1, error 0.1 / sqrt 3, t 4.302653.
        let ratio = Ratio::of([0.1, 0.2, 0.3_f64].map(|it| (it.exp(), 1.0))).unwrap();
        let reach = 4.302_653 * 0.1 / 3.0_f64.sqrt();
        assert!((ratio.mean.ln() - 0.2).abs() < 1e-9);
        assert!((ratio.interval_low.unwrap().ln() - (0.2 - reach)).abs() < 1e-9);
        assert!((ratio.interval_high.unwrap().ln() - (0.2 + reach)).abs() < 1e-9);
        assert_eq!(ratio.verdict, Verdict::NoDifference);
        assert_eq!(ratio.pairs, 3);
    }

    #[test]
    fn one_pair_decides_nothing_and_no_pair_is_nothing() {
        let ratio = Ratio::of([(3.0, 2.0)]).unwrap();
        assert_eq!((ratio.mean, ratio.verdict), (1.5, Verdict::Undecidable));
        assert_eq!((ratio.interval_low, ratio.interval_high), (None, None));
        assert_eq!(Ratio::of([]), None);
        for pair in [(0.0, 1.0), (1.0, 0.0), (-1.0, 1.0), (f64::NAN, 1.0), (f64::INFINITY, 1.0)] {
            assert_eq!(Ratio::of([(1.0, 1.0), pair]), None);
        }
    }

    #[test]
    fn equal_figures_without_noise_do_not_differ_and_others_do() {
        let verdict = |a| Ratio::of([(a, 2.0); 5]).unwrap().verdict;
        assert_eq!(verdict(2.0), Verdict::NoDifference);
        assert_eq!(verdict(2.1), Verdict::Higher);
        assert_eq!(verdict(1.9), Verdict::Lower);
    }

    /// Figures around `mean`, normally spread by a hundredth of it.
    fn noisy(rng: &mut Rng, mean: f64) -> f64 {
        // After Box and Muller.
        let radius = (-2.0 * (1.0 - rng.f64()).ln()).sqrt();
        let normal = radius * (rng.f64() * std::f64::consts::TAU).cos();
        mean * (1.0 + 0.01 * normal)
    }

    fn verdicts(pair_count: usize, a: f64, b: f64) -> Vec<Verdict> {
        let mut rng = Rng::with_seed(7);
        let mut verdict = || {
            let pairs: Vec<_> =
                (0..pair_count).map(|_| (noisy(&mut rng, a), noisy(&mut rng, b))).collect();
            Ratio::of(pairs).unwrap().verdict
        };
        (0..4000).map(|_| verdict()).collect()
    }

    fn share(verdicts: &[Verdict], wanted: Verdict) -> f64 {
        verdicts.iter().filter(|&&it| it == wanted).count() as f64 / verdicts.len() as f64
    }

    #[test]
    fn equal_sides_seem_to_differ_once_in_twenty_comparisons() {
        for pair_count in [2, 5, 20] {
            let missed = 1.0 - share(&verdicts(pair_count, 500.0, 500.0), Verdict::NoDifference);
            assert!((0.04..0.06).contains(&missed), "{pair_count} pairs: {missed}");
        }
    }

    #[test]
    fn a_difference_of_three_noises_is_found() {
        assert!(share(&verdicts(5, 515.0, 500.0), Verdict::Higher) > 0.9);
        assert!(share(&verdicts(5, 500.0, 515.0), Verdict::Lower) > 0.9);
        assert!(share(&verdicts(10, 515.0, 500.0), Verdict::Higher) > 0.999);
    }
}
