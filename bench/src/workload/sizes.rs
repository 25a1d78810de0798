//! How long keys and values are.

use std::str::FromStr;

use fastrand::Rng;

/// No key or value is longer than this.
const BYTES_MAX: usize = 512 << 20;

/// A distribution of sizes in bytes.
#[derive(Clone, Debug, PartialEq)]
pub enum Sizes {
    /// Always the same.
    Fixed(usize),
    /// Each size from the first to the last alike.
    Uniform(usize, usize),
    /// A few sizes, each with its share; shares add up to 1.
    Weighted(Vec<(usize, f64)>),
    /// Many small and few large ones: the exponential of a normally distributed number. Sizes
    /// beyond `bytes_max` count as that.
    LogNormal {
        /// Half of the sizes are below, half above.
        median: f64,
        /// The deviation of the logarithm; about 1 in caches of the web.
        sigma: f64,
        /// The largest.
        bytes_max: usize,
    },
}

impl Sizes {
    /// The next size.
    #[inline]
    pub fn draw(&self, rng: &mut Rng) -> usize {
        match self {
            Self::Fixed(bytes) => *bytes,
            Self::Uniform(min, max) => rng.usize(*min..=*max),
            Self::Weighted(parts) => {
                let mut left = rng.f64();
                let found = parts.iter().find(|(_, share)| {
                    left -= share;
                    left < 0.0
                });
                found.or_else(|| parts.last()).expect("a list has a part").0
            }
            Self::LogNormal { median, sigma, bytes_max } => {
                // Box and Muller, 1958. 1 - [0, 1) is never 0, whose logarithm has no end.
                let radius = (-2.0 * (1.0 - rng.f64()).ln()).sqrt();
                let normal = radius * (std::f64::consts::TAU * rng.f64()).cos();
                let bytes = (median * (sigma * normal).exp()).round();
                // A cast of a float ends at the bounds of the integer.
                (bytes as usize).clamp(1, *bytes_max)
            }
        }
    }

    /// The smallest that can be drawn.
    #[must_use]
    pub fn min(&self) -> usize {
        match self {
            Self::Fixed(bytes) | Self::Uniform(bytes, _) => *bytes,
            Self::Weighted(parts) => parts.iter().map(|it| it.0).min().unwrap_or(0),
            Self::LogNormal { .. } => 1,
        }
    }

    /// The largest that can be drawn.
    #[must_use]
    pub fn max(&self) -> usize {
        match self {
            Self::Fixed(bytes) | Self::Uniform(_, bytes) => *bytes,
            Self::Weighted(parts) => parts.iter().map(|it| it.0).max().unwrap_or(0),
            Self::LogNormal { bytes_max, .. } => *bytes_max,
        }
    }

    /// Their mean; that of [`Sizes::LogNormal`] as if nothing were cut off.
    #[must_use]
    pub fn mean(&self) -> f64 {
        match self {
            Self::Fixed(bytes) => *bytes as f64,
            Self::Uniform(min, max) => (min + max) as f64 / 2.0,
            Self::Weighted(parts) => parts.iter().map(|it| it.0 as f64 * it.1).sum(),
            Self::LogNormal { median, sigma, .. } => median * (sigma * sigma / 2.0).exp(),
        }
    }
}

const EXPECTED: &str = "expected bytes as in 64, 16-1024 (each alike), 64:90,4096:10 (with shares) \
                        or lognormal:MEDIAN:SIGMA:MAX";

impl FromStr for Sizes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bytes = |text: &str| match text.parse::<usize>() {
            Ok(bytes) if bytes <= BYTES_MAX => Ok(bytes),
            Ok(_) => Err(format!("{text} is more than {BYTES_MAX} bytes")),
            Err(_) => Err(EXPECTED.to_owned()),
        };
        let positive = |text: &str| match text.parse::<f64>() {
            Ok(number) if number > 0.0 && number < 1e9 => Ok(number),
            _ => Err(EXPECTED.to_owned()),
        };
        if let Some(rest) = text.strip_prefix("lognormal:") {
            let parts: Vec<&str> = rest.split(':').collect();
            let [median, sigma, max] = parts[..] else { return Err(EXPECTED.to_owned()) };
            let (median, sigma) = (positive(median)?, positive(sigma)?);
            return Ok(Self::LogNormal { median, sigma, bytes_max: bytes(max)?.max(1) });
        }
        if text.contains(':') {
            let mut parts = Vec::new();
            for part in text.split(',') {
                let (size, weight) = part.split_once(':').ok_or(EXPECTED)?;
                parts.push((bytes(size)?, positive(weight)?));
            }
            let sum: f64 = parts.iter().map(|it| it.1).sum();
            parts.iter_mut().for_each(|it| it.1 /= sum);
            return Ok(Self::Weighted(parts));
        }
        match text.split_once('-') {
            None => bytes(text).map(Self::Fixed),
            Some((min, max)) => match (bytes(min)?, bytes(max)?) {
                (min, max) if min < max => Ok(Self::Uniform(min, max)),
                (min, max) if min == max => Ok(Self::Fixed(min)),
                _ => Err(EXPECTED.to_owned()),
            },
        }
    }
}

impl std::fmt::Display for Sizes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Fixed(bytes) => write!(f, "{bytes}"),
            Self::Uniform(min, max) => write!(f, "{min}-{max}"),
            Self::Weighted(parts) => {
                for (index, (bytes, share)) in parts.iter().enumerate() {
                    let comma = if index == 0 { "" } else { "," };
                    write!(f, "{comma}{bytes}:{}", (share * 1e6).round() / 1e4)?;
                }
                Ok(())
            }
            Self::LogNormal { median, sigma, bytes_max } => {
                write!(f, "lognormal:{median}:{sigma}:{bytes_max}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DRAWS: usize = 200_000;

    fn drawn(text: &str) -> (Sizes, Vec<usize>) {
        let sizes: Sizes = text.parse().unwrap();
        let mut rng = Rng::with_seed(1);
        let mut drawn: Vec<usize> = (0..DRAWS).map(|_| sizes.draw(&mut rng)).collect();
        drawn.sort_unstable();
        (sizes, drawn)
    }

    #[test]
    fn sizes_have_the_mean_and_the_bounds_that_they_tell() {
        for text in ["64", "16-1024", "64:90,4096:10", "lognormal:200:1:100000"] {
            let (sizes, drawn) = drawn(text);
            assert_eq!(sizes.to_string(), text);
            let mean = drawn.iter().sum::<usize>() as f64 / DRAWS as f64;
            assert!((mean / sizes.mean() - 1.0).abs() < 0.02, "{text}: {mean}");
            assert!(drawn[0] >= sizes.min(), "{text}");
            assert!(drawn[DRAWS - 1] <= sizes.max(), "{text}");
        }
    }

    #[test]
    fn the_median_of_a_log_normal_is_the_one_asked_for() {
        let (_, drawn) = drawn("lognormal:200:0.5:100000");
        assert!(drawn[DRAWS / 2].abs_diff(200) <= 2, "{}", drawn[DRAWS / 2]);
        // One sigma above the median are 84.13 %.
        let above = (200.0 * 0.5_f64.exp()) as usize;
        assert!(drawn[(DRAWS as f64 * 0.8413) as usize].abs_diff(above) <= 4);
    }

    #[test]
    fn nonsense_is_refused() {
        for text in
            ["", "x", "9-5", "-5", "64:0", "64:x", "64:1,5", "lognormal:5", "1e3", "999999999999"]
        {
            assert!(text.parse::<Sizes>().is_err(), "{text}");
        }
    }
}
