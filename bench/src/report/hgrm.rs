//! Percentiles in the text format `.hgrm`, which the plotters of HdrHistogram read.
//!
//! ```text
//!        Value     Percentile TotalCount 1/(1-Percentile)
//!
//!        1.023 0.000000000000          1           1.00
//!        9.999 0.500000000000       5000           2.00
//!       20.015 1.000000000000      10000
//! #[Mean    =        9.803, StdDeviation   =        3.116]
//! #[Max     =       20.015, Total count    =        10000]
//! #[Buckets =           32, SubBuckets     =         2048]
//! ```
//!
//! This is what `outputPercentileDistribution` of the Java library prints, to the blank: five lines
//! for each halving of the distance to 100 %, as many decimals as the histogram keeps digits, and no
//! last column where it would be infinite.

use std::fmt::Write as _;

use hdrhistogram::Histogram;

/// Nanoseconds in a unit of the column `Value` when that shows microseconds, as is usual here.
pub const MICROSECONDS: f64 = 1e3;

/// Nanoseconds in a unit of the column `Value` when that shows milliseconds.
pub const MILLISECONDS: f64 = 1e6;

/// Lines for each halving of the distance to 100 %.
const TICKS_PER_HALF_DISTANCE: f64 = 5.0;

/// The text. Values are divided by `unit`: see [`MICROSECONDS`].
#[must_use]
pub fn text(nanoseconds: &Histogram<u64>, unit: f64) -> String {
    let mut text = format!(
        "{:>12} {:>14} {:>10} {:>14}\n\n",
        "Value", "Percentile", "TotalCount", "1/(1-Percentile)"
    );
    if !nanoseconds.is_empty() {
        lines(&mut text, nanoseconds, unit);
    }
    footer(&mut text, nanoseconds, unit);
    text
}

fn lines(text: &mut String, nanoseconds: &Histogram<u64>, unit: f64) {
    let digits = usize::from(nanoseconds.sigfig());
    let mut line = |nanoseconds: u64, percent: f64, count: u64| {
        let (value, quantile) = (nanoseconds as f64 / unit, percent / 100.0);
        write!(text, "{value:12.digits$} {quantile:.12} {count:10}").expect(INFALLIBLE);
        if percent < 100.0 {
            write!(text, " {:14.2}", 1.0 / (1.0 - quantile)).expect(INFALLIBLE);
        }
        text.push('\n');
    };
    let total = nanoseconds.len();
    let mut count = 0;
    // In per cent, as there: tenths of the whole are no sums of tenths of one. The iterator over
    // quantiles of this library steps beside 0.3 and 0.75.
    let mut percent = 0.0;
    for step in nanoseconds.iter_recorded() {
        count += step.count_at_value();
        while percent < 100.0 && percent <= 100.0 * count as f64 / total as f64 {
            line(step.value_iterated_to(), percent, count);
            percent = next(percent);
            if count == total {
                break;
            }
        }
    }
    line(nanoseconds.max(), 100.0, total);
}

/// The percentage after `percent`: the closer to 100, the smaller the steps.
fn next(percent: f64) -> f64 {
    let halvings = (100.0 / (100.0 - percent)).log2().floor();
    percent + 100.0 / (TICKS_PER_HALF_DISTANCE * (halvings + 1.0).exp2())
}

fn footer(text: &mut String, nanoseconds: &Histogram<u64>, unit: f64) {
    let digits = usize::from(nanoseconds.sigfig());
    // So many slots tell values of twice as many digits apart that are kept.
    let slot_count = (2 * 10_u64.pow(u32::from(nanoseconds.sigfig()))).next_power_of_two();
    writeln!(
        text,
        "#[Mean    = {:12.digits$}, StdDeviation   = {:12.digits$}]\n\
         #[Max     = {:12.digits$}, Total count    = {:12}]\n\
         #[Buckets = {:12}, SubBuckets     = {slot_count:12}]",
        nanoseconds.mean() / unit,
        nanoseconds.stdev() / unit,
        nanoseconds.max() as f64 / unit,
        nanoseconds.len(),
        nanoseconds.buckets(),
    )
    .expect(INFALLIBLE);
}

const INFALLIBLE: &str = "a string takes any text";

#[cfg(test)]
mod tests {
    use super::*;

    fn histogram(values: &[u64]) -> Histogram<u64> {
        let mut histogram = Histogram::new_with_bounds(1, 3_600_000_000_000, 3).unwrap();
        for &value in values {
            histogram.record(value).unwrap();
        }
        histogram
    }

    /// Long tails, as latencies have.
    fn values() -> Vec<u64> {
        let mut rng = fastrand::Rng::with_seed(7);
        let mut values: Vec<u64> =
            (0..20_000).map(|_| (50_000.0 / (1.0 - rng.f64()).max(1e-6)) as u64).collect();
        values.sort_unstable();
        values
    }

    #[test]
    fn the_layout_is_that_of_the_java_library() {
        let text = text(&histogram(&[1_000, 2_000, 2_000, 4_000]), MICROSECONDS);
        let expected = "       Value     Percentile TotalCount 1/(1-Percentile)

       1.000 0.000000000000          1           1.00
       1.000 0.100000000000          1           1.11
       1.000 0.200000000000          1           1.25
       2.000 0.300000000000          3           1.43
       2.000 0.400000000000          3           1.67
       2.000 0.500000000000          3           2.00
       2.000 0.550000000000          3           2.22
       2.000 0.600000000000          3           2.50
       2.000 0.650000000000          3           2.86
       2.000 0.700000000000          3           3.33
       2.000 0.750000000000          3           4.00
       4.001 0.775000000000          4           4.44
       4.001 1.000000000000          4
#[Mean    =        2.250, StdDeviation   =        1.090]
#[Max     =        4.001, Total count    =            4]
#[Buckets =           32, SubBuckets     =         2048]
";
        assert_eq!(text, expected);
    }

    #[test]
    fn percentiles_are_those_of_the_raw_values() {
        let values = values();
        for unit in [MICROSECONDS, MILLISECONDS] {
            let text = text(&histogram(&values), unit);
            let lines: Vec<Vec<f64>> = text
                .lines()
                .skip(2)
                .take_while(|line| !line.starts_with('#'))
                .map(|line| line.split_whitespace().map(|it| it.parse().unwrap()).collect())
                .collect();
            assert!(lines.len() > 50);
            for line in &lines {
                let (value, quantile, count) = (line[0], line[1], line[2] as usize);
                // A quantile may fall between two values; three digits are kept of a value, and
                // three decimals are printed.
                let rank = (quantile * values.len() as f64) as usize;
                let low = values[rank.saturating_sub(1)] as f64 / unit - 0.0005;
                let high = values[rank.min(values.len() - 1)] as f64 / unit * 1.001 + 0.0005;
                assert!((low..=high).contains(&value), "{quantile}: {value} in {low}..{high}");
                if unit == MICROSECONDS {
                    let value = (value * unit).round() as u64;
                    assert_eq!(count, values.partition_point(|it| *it <= value));
                }
                if let Some(inverse) = line.get(3) {
                    assert!((inverse * (1.0 - quantile) - 1.0).abs() < 0.01);
                }
            }
            assert_eq!(lines.last().unwrap().len(), 3);
            assert_eq!(lines.last().unwrap()[2] as usize, values.len());
        }
    }

    #[test]
    fn nothing_recorded_is_a_table_without_lines() {
        let text = text(&histogram(&[]), MICROSECONDS);
        assert_eq!(text.lines().count(), 5);
        assert!(text.contains("#[Max     =        0.000, Total count    =            0]"));
    }
}
