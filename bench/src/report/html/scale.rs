//! Where a value stands on an axis, and which values are written beside it.
//!
//! A range holds its ends as they are drawn: the value itself, its logarithm, or the number of nines
//! of a quantile.

/// What a plot's edge measures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Axis {
    /// What it is.
    pub label: String,
    /// In what unit; empty for none.
    pub unit: String,
    /// How it is drawn.
    pub scale: Scale,
}

/// How values are spread along an axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// Evenly.
    Linear,
    /// The same, of things that are counted: only whole values are written beside the axis.
    Whole,
    /// By their logarithm; values that are not positive are left out.
    Log,
    /// Quantiles from 0 to below 1, by the logarithm of `1 / (1 - q)`: each nine as wide as another.
    Percentile,
}

impl Scale {
    /// Its name in the page.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Linear | Self::Whole => "linear",
            Self::Log => "log",
            Self::Percentile => "percentile",
        }
    }

    /// How far along the axis `value` is; `None` when it has no place there.
    pub(super) fn project(self, value: f64) -> Option<f64> {
        // Beyond these, sums and differences of values would not be finite, or not be told from zero.
        let is_usual = value.is_finite() && value.abs() <= 1e300;
        match self {
            Self::Linear | Self::Whole => is_usual.then_some(value),
            Self::Log => (is_usual && value >= 1e-300).then(|| value.log10()),
            Self::Percentile => (0.0..1.0).contains(&value).then(|| -(1.0 - value).log10()),
        }
    }
}

/// A value that is written beside an axis.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Tick {
    /// From 0 to 1 along the axis.
    pub(super) at: f64,
    pub(super) label: String,
    /// Labelled before the others, where there is no room for all.
    pub(super) is_major: bool,
}

/// The part of an axis that is shown.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Range {
    scale: Scale,
    low: f64,
    high: f64,
}

impl Range {
    /// The least that shows all values that have a place; `None` when none has.
    pub(super) fn around(scale: Scale, values: impl Iterator<Item = f64>) -> Option<Self> {
        let places = values.filter_map(|it| scale.project(it));
        let ends = places.fold(None, |ends: Option<(f64, f64)>, it| {
            Some(ends.map_or((it, it), |(low, high)| (low.min(it), high.max(it))))
        });
        let (low, high) = ends?;
        Some(match scale {
            Scale::Percentile => Self { scale, low: 0.0, high: high.max(1.0) },
            Scale::Log if high - low < 1e-9 => Self { scale, low: low - 0.2, high: high + 0.2 },
            Scale::Linear | Scale::Whole if high - low <= 1e-9 * high.abs().max(low.abs()) => {
                let half = if low.abs() < 1e-290 { 1.0 } else { low.abs() * 0.1 };
                let floor = if low >= 0.0 { 0.0 } else { f64::MIN };
                Self { scale, low: (low - half).max(floor), high: high + half }
            }
            Scale::Log | Scale::Linear | Scale::Whole => Self { scale, low, high },
        })
    }

    /// Ends where a tick would be.
    pub(super) fn rounded(self) -> Self {
        let Self { scale, low, high } = self;
        match scale {
            Scale::Percentile => self,
            Scale::Linear | Scale::Whole => {
                let step = step(low, high, 6);
                let (first, last) = ((low / step + 1e-9).floor(), (high / step - 1e-9).ceil());
                Self { scale, low: first * step, high: last * step }
            }
            Scale::Log if self.is_narrow() => {
                let (first, last) = (10_f64.powf(low), 10_f64.powf(high));
                let step = step(first, last, 6);
                let below = ((first / step + 1e-9).floor() * step).log10();
                let above = ((last / step - 1e-9).ceil() * step).log10();
                Self { scale, low: if below.is_finite() { below } else { low }, high: above }
            }
            Scale::Log => {
                let part = |it: f64| 10_f64.powf(it - it.floor());
                let below = [5.0, 2.0].into_iter().find(|it| *it <= part(low) * (1.0 + 1e-9));
                let above = [1.0, 2.0, 5.0].into_iter().find(|it| *it >= part(high) * (1.0 - 1e-9));
                Self {
                    scale,
                    low: low.floor() + below.unwrap_or(1.0).log10(),
                    high: high.floor() + above.unwrap_or(10.0).log10(),
                }
            }
        }
    }

    /// Less than most of a decade of logarithms: few or no values of 1, 2 or 5 are inside.
    fn is_narrow(&self) -> bool {
        self.scale == Scale::Log && self.high - self.low < 0.7
    }

    /// From 0 to 1 along the axis for what is inside; `None` when `value` has no place at all.
    pub(super) fn place(&self, value: f64) -> Option<f64> {
        Some((self.scale.project(value)? - self.low) / (self.high - self.low))
    }

    /// About `count` values to be written beside the axis, in order.
    pub(super) fn ticks(&self, count: usize) -> Vec<Tick> {
        match self.scale {
            Scale::Linear => self.even_ticks(self.low, self.high, count),
            Scale::Whole => {
                let whole = count.min((self.high - self.low).max(1.0) as usize);
                let ticks = self.even_ticks(self.low, self.high, whole);
                // Between two whole values there is none to write.
                if ticks.is_empty() { self.even_ticks(self.low, self.high, count) } else { ticks }
            }
            Scale::Log if self.is_narrow() => {
                self.even_ticks(10_f64.powf(self.low), 10_f64.powf(self.high), count)
            }
            Scale::Log => self.decade_ticks(count),
            Scale::Percentile => self.nine_ticks(),
        }
    }

    fn tick(&self, value: f64, label: String, is_major: bool) -> Option<Tick> {
        let at = self.place(value).filter(|at| (-1e-6..=1.0 + 1e-6).contains(at))?;
        Some(Tick { at, label, is_major })
    }

    fn even_ticks(&self, low: f64, high: f64, count: usize) -> Vec<Tick> {
        let step = step(low, high, count);
        let first = (low / step - 1e-6).ceil();
        let largest = low.abs().max(high.abs());
        let values = (0..=4 * count).map(|index| (first + index as f64) * step);
        values.filter_map(|it| self.tick(it, number(it, step, largest), true)).collect()
    }

    fn decade_ticks(&self, count: usize) -> Vec<Tick> {
        // Ends are logarithms of numbers that a float can hold: some hundreds at most.
        let (first, last) = (self.low.floor() as i32, self.high.ceil() as i32);
        let decade_count = usize::try_from(last - first).unwrap_or(0);
        let stride = decade_count.div_ceil(count.max(1)).max(1);
        let largest = 10_f64.powf(self.high);
        let parts: &[f64] = if decade_count <= count { &[1.0, 2.0, 5.0] } else { &[1.0] };
        let decades = (first..=last).filter(|it| it.rem_euclid(stride as i32) == 0);
        let values = decades.flat_map(|decade| {
            parts.iter().map(move |part| (part * 10_f64.powi(decade), *part <= 1.0))
        });
        values.filter_map(|(it, major)| self.tick(it, number(it, it, largest), major)).collect()
    }

    fn nine_ticks(&self) -> Vec<Tick> {
        let mut ticks = vec![
            self.tick(0.0, "0".to_owned(), true),
            self.tick(0.5, "50 %".to_owned(), false),
            self.tick(0.9, "90 %".to_owned(), true),
            self.tick(0.99, "99 %".to_owned(), true),
        ];
        // A float tells fifteen nines from one.
        ticks.extend((3..=15).map(|nines| {
            let label = format!("99.{} %", "9".repeat(nines - 2));
            self.tick(1.0 - 10_f64.powf(-(nines as f64)), label, true)
        }));
        ticks.into_iter().flatten().collect()
    }
}

/// The distance between about `count` even ticks: 1, 2 or 5 times a power of ten.
fn step(low: f64, high: f64, count: usize) -> f64 {
    let least = ((high - low) / count.max(1) as f64).max(1e-300);
    let decade = 10_f64.powf(least.log10().floor());
    let part = [1.0, 2.0, 5.0].into_iter().find(|it| *it >= least / decade * (1.0 - 1e-9));
    part.unwrap_or(10.0) * decade
}

/// A number as people write it beside an axis whose ticks are `step` apart and end at `largest`.
pub(super) fn number(value: f64, step: f64, largest: f64) -> String {
    let size = value.abs();
    if size < step.abs() * 1e-6 {
        return "0".to_owned();
    }
    if !(1e-4..1e15).contains(&largest) || size < 1e-4 {
        let text = format!("{value:.3e}");
        let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        return format!("{}e{exponent}", trimmed(mantissa));
    }
    let (unit, suffix) = match size {
        _ if size >= 1e12 => (1e12, " T"),
        _ if size >= 1e9 => (1e9, " G"),
        _ if size >= 1e6 => (1e6, " M"),
        _ if size >= 1e3 && largest >= 1e4 => (1e3, " k"),
        _ => (1.0, ""),
    };
    let is_whole = |decimals: &i32| {
        let scaled = step.abs() / unit * 10_f64.powi(*decimals);
        scaled > 0.5 && (scaled - scaled.round()).abs() < 1e-6 * scaled
    };
    let decimals = (0..9).find(is_whole).unwrap_or(9);
    let text = format!("{:.*}", usize::try_from(decimals).unwrap_or(0), value / unit);
    format!("{}{suffix}", trimmed(&text))
}

/// Without the zeros at the end of its decimals.
fn trimmed(number: &str) -> &str {
    if number.contains('.') { number.trim_end_matches('0').trim_end_matches('.') } else { number }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(scale: Scale, values: &[f64]) -> Range {
        Range::around(scale, values.iter().copied()).unwrap()
    }

    fn labels(range: &Range, count: usize) -> Vec<String> {
        range.ticks(count).into_iter().map(|it| it.label).collect()
    }

    #[test]
    fn what_is_counted_has_no_halves() {
        assert_eq!(labels(&range(Scale::Whole, &[1.0, 5.0]), 8), ["1", "2", "3", "4", "5"]);
        assert_eq!(labels(&range(Scale::Whole, &[1.0, 2.0]), 8), ["1", "2"]);
    }

    #[test]
    fn even_ticks_are_one_two_or_five_apart() {
        let labels = |high: f64| labels(&range(Scale::Linear, &[0.0, high]).rounded(), 6);
        assert_eq!(labels(1.0), ["0", "0.2", "0.4", "0.6", "0.8", "1"]);
        assert_eq!(labels(7.3), ["0", "2", "4", "6", "8"]);
        assert_eq!(labels(2_900.0), ["0", "500", "1000", "1500", "2000", "2500", "3000"]);
        assert_eq!(labels(29_000.0), ["0", "5 k", "10 k", "15 k", "20 k", "25 k", "30 k"]);
        assert_eq!(labels(1.15e6), ["0", "200 k", "400 k", "600 k", "800 k", "1 M", "1.2 M"]);
        assert_eq!(labels(4e-5), ["0", "1e-5", "2e-5", "3e-5", "4e-5"]);
    }

    #[test]
    fn even_ticks_go_through_zero() {
        let range = range(Scale::Linear, &[-3.0, 4.0]).rounded();
        assert_eq!(labels(&range, 6), ["-4", "-2", "0", "2", "4"]);
        assert_eq!(range.place(0.0), Some(0.5));
    }

    #[test]
    fn decades_have_two_and_five_where_there_is_room() {
        let range = range(Scale::Log, &[0.3, 12_000.0]).rounded();
        let expected = ["0.2", "0.5", "1", "2", "5", "10", "20", "50", "100", "200", "500", "1 k"];
        assert_eq!(labels(&range, 8)[..12], expected);
        assert_eq!(labels(&range, 8).last().unwrap(), "20 k");
        assert_eq!(labels(&range, 3), ["1", "100", "10 k"]);
        let majors = range.ticks(8).into_iter().filter(|it| it.is_major).map(|it| it.label);
        assert_eq!(majors.collect::<Vec<_>>(), ["1", "10", "100", "1 k", "10 k"]);
    }

    #[test]
    fn a_part_of_a_decade_has_even_ticks() {
        let range = range(Scale::Log, &[110.0, 128.0]).rounded();
        assert_eq!(labels(&range, 6), ["110", "115", "120", "125", "130"]);
    }

    #[test]
    fn each_nine_is_as_wide_as_another() {
        let range = range(Scale::Percentile, &[0.0, 0.5, 0.9999, 1.0, f64::NAN]);
        assert_eq!(labels(&range, 8), ["0", "50 %", "90 %", "99 %", "99.9 %", "99.99 %"]);
        let places: Vec<f64> = range.ticks(8).into_iter().map(|it| it.at).collect();
        for (place, expected) in places.iter().zip([0.0, 0.0753, 0.25, 0.5, 0.75, 1.0]) {
            assert!((place - expected).abs() < 1e-3, "{place} is {expected}");
        }
        assert_eq!(range.place(1.0), None);
    }

    #[test]
    fn odd_values_leave_finite_ranges() {
        let odd = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, f64::MAX, f64::MIN];
        for scale in [Scale::Linear, Scale::Whole, Scale::Log, Scale::Percentile] {
            assert_eq!(Range::around(scale, odd.into_iter()), None);
            for values in [[0.0, 0.5], [0.5, 0.5], [1e-320, 0.1], [1e-9, 1e300], [-1e300, 1e-5]] {
                let Some(range) = Range::around(scale, odd.into_iter().chain(values)) else {
                    continue;
                };
                let range = range.rounded();
                assert!(range.low < range.high, "{scale:?} {values:?} {range:?}");
                let ticks = range.ticks(8);
                assert!((1..=32).contains(&ticks.len()), "{scale:?} {values:?} {ticks:?}");
                assert!(ticks.windows(2).all(|it| it[0].at < it[1].at), "{ticks:?}");
            }
        }
        assert_eq!(labels(&range(Scale::Linear, &[0.0]).rounded(), 4), ["0", "0.5", "1"]);
        assert_eq!(Range::around(Scale::Log, [0.0, -1.0].into_iter()), None);
    }
}
