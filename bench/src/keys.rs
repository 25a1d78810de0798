//! Which key comes next.
//!
//! Keys are numbers below `key_count`, written as text by [`KeyBuffer`].
//!
//! # Zipfian
//!
//! The formula of Gray et al., *Quickly generating billion-record synthetic databases* (1994), which
//! YCSB uses too: rank `r` (from 0) is drawn with probability `1 / (r + 1)^theta / zeta(n, theta)`,
//! exactly for the two lowest ranks and closely for the others.
//!
//! # Why ranks are scattered by a multiplication
//!
//! YCSB scatters ranks with a hash modulo the key count. Two hot ranks may then meet on one key, and
//! a third of the keys is never asked for. A multiplication by a factor coprime with the key count
//! is a permutation: every key keeps the share of its rank.

use fastrand::Rng;

use crate::workload::{Sizes, stream_rng};

/// Written before the digits of a key.
const KEY_PREFIX: &[u8] = b"key:";

/// Terms of the zeta sum that are added one by one; the rest is an integral with corrections.
const ZETA_TERMS_EXACT: u64 = 100_000;

/// Close to 2^64 divided by the golden ratio, and prime: spreads neighbours over the whole range.
const SCATTER_FACTOR: u64 = 11_400_714_819_323_198_549;

/// How requests spread over keys.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Distribution {
    /// Every key alike.
    Uniform,
    /// A few keys often, most of them seldom; which ones is scattered over the range.
    Zipfian {
        /// The exponent, above 0 and below 1.
        theta: f64,
    },
    /// The newest keys often: the age of a key has the rank of [`Distribution::Zipfian`].
    Latest {
        /// The exponent, above 0 and below 1.
        theta: f64,
    },
    /// So many of the requests go to so many of the keys, evenly; the others to the other keys.
    Hotspot {
        /// The share of the keys that are hot, above 0 and at most 1.
        keys: f64,
        /// The share of the requests that go to them, from 0 to 1.
        requests: f64,
    },
    /// The newest keys often: the age of a key is exponentially distributed, and most of the
    /// requests go to the newest part of the keys.
    Exponential {
        /// The share of the keys that are young, above 0.
        keys: f64,
        /// The share of the requests that go to them, above 0 and below 1.
        requests: f64,
    },
}

impl std::fmt::Display for Distribution {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Uniform => f.write_str("uniform"),
            Self::Zipfian { theta } => write!(f, "zipfian {theta}"),
            Self::Latest { theta } => write!(f, "latest {theta}"),
            Self::Hotspot { keys, requests } => {
                write!(
                    f,
                    "hotspot: {} % of requests to {} % of keys",
                    requests * 100.0,
                    keys * 100.0
                )
            }
            Self::Exponential { keys, requests } => {
                let (keys, requests) = (keys * 100.0, requests * 100.0);
                write!(f, "exponential: {requests} % of requests to the newest {keys} % of keys")
            }
        }
    }
}

/// How often an age is drawn that may be no key's.
const AGE_DRAWS_MAX: u32 = 64;

/// Draws keys.
#[derive(Clone, Debug)]
pub struct KeyChooser {
    key_count: u64,
    shape: Shape,
}

#[derive(Clone, Debug)]
enum Shape {
    Uniform,
    Zipfian {
        zipf: Zipf,
        factor: u64,
    },
    Latest {
        zipf: Zipf,
    },
    Hotspot {
        hot_count: u64,
        requests: f64,
    },
    /// The mean age.
    Exponential {
        mean: f64,
    },
}

impl KeyChooser {
    /// A chooser among `key_count` keys.
    ///
    /// # Panics
    ///
    /// Without keys, or with a `theta` outside of its range.
    #[must_use]
    pub fn new(key_count: u64, distribution: Distribution) -> Self {
        assert!(key_count > 0);
        let shape = match distribution {
            Distribution::Uniform => Shape::Uniform,
            Distribution::Zipfian { theta } => Shape::Zipfian {
                zipf: Zipf::new(key_count, theta),
                factor: coprime_factor(key_count),
            },
            Distribution::Latest { theta } => Shape::Latest { zipf: Zipf::new(key_count, theta) },
            Distribution::Hotspot { keys, requests } => {
                assert!(keys > 0.0);
                let hot_count = (key_count as f64 * keys).round() as u64;
                Shape::Hotspot { hot_count: hot_count.clamp(1, key_count), requests }
            }
            Distribution::Exponential { keys, requests } => {
                assert!(keys > 0.0);
                assert!(requests > 0.0);
                assert!(requests < 1.0);
                Shape::Exponential { mean: -(key_count as f64) * keys / (1.0 - requests).ln() }
            }
        };
        Self { key_count, shape }
    }

    /// Whether what is drawn is the age of a key, 0 for the newest, instead of its number.
    #[inline]
    #[must_use]
    pub fn goes_by_age(&self) -> bool {
        matches!(self.shape, Shape::Latest { .. } | Shape::Exponential { .. })
    }

    /// The next key, or its age, below the key count.
    #[inline]
    pub fn draw(&self, rng: &mut Rng) -> u64 {
        match &self.shape {
            Shape::Uniform => rng.u64(..self.key_count),
            Shape::Zipfian { zipf, factor } => {
                scatter(zipf.draw_rank(rng), *factor, self.key_count)
            }
            Shape::Latest { zipf } => zipf.draw_rank(rng),
            Shape::Hotspot { hot_count, requests } => {
                let is_hot = *hot_count == self.key_count || rng.f64() < *requests;
                if is_hot { rng.u64(..*hot_count) } else { rng.u64(*hot_count..self.key_count) }
            }
            Shape::Exponential { mean } => {
                for _ in 0..AGE_DRAWS_MAX {
                    // 1 - [0, 1) is never 0, whose logarithm has no end.
                    let age = (-(1.0 - rng.f64()).ln() * mean) as u64;
                    if age < self.key_count {
                        return age;
                    }
                }
                rng.u64(..self.key_count)
            }
        }
    }
}

/// A factor below or near [`SCATTER_FACTOR`] that shares no divisor with `key_count`.
fn coprime_factor(key_count: u64) -> u64 {
    (0..=SCATTER_FACTOR)
        .map(|step| SCATTER_FACTOR - step)
        .find(|&factor| greatest_common_divisor(factor, key_count) == 1)
        .expect("1 shares no divisor with anything")
}

fn greatest_common_divisor(mut a: u64, mut b: u64) -> u64 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

/// The result is below `key_count`, so the cast loses nothing.
#[inline]
fn scatter(rank: u64, factor: u64, key_count: u64) -> u64 {
    (u128::from(rank) * u128::from(factor) % u128::from(key_count)) as u64
}

/// Draws ranks: 0 is the most frequent.
#[derive(Clone, Debug)]
struct Zipf {
    rank_count: u64,
    zeta: f64,
    second_rank_bound: f64,
    alpha: f64,
    eta: f64,
}

impl Zipf {
    fn new(rank_count: u64, theta: f64) -> Self {
        assert!(theta > 0.0);
        assert!(theta < 1.0);
        let zeta = zeta(rank_count, theta);
        let zeta_two = 1.0 + 0.5_f64.powf(theta);
        let eta = if rank_count > 2 {
            (1.0 - (2.0 / rank_count as f64).powf(1.0 - theta)) / (1.0 - zeta_two / zeta)
        } else {
            1.0 // The two lowest ranks need no estimate.
        };
        Self { rank_count, zeta, second_rank_bound: zeta_two, alpha: 1.0 / (1.0 - theta), eta }
    }

    #[inline]
    fn draw_rank(&self, rng: &mut Rng) -> u64 {
        let draw = rng.f64();
        let scaled = draw * self.zeta;
        if scaled < 1.0 {
            return 0;
        }
        if scaled < self.second_rank_bound {
            return 1.min(self.rank_count - 1);
        }
        let rank = self.rank_count as f64 * (self.eta * draw - self.eta + 1.0).powf(self.alpha);
        (rank as u64).min(self.rank_count - 1)
    }
}

/// The sum of `1 / i^theta` for `i` from 1 to `count`. Terms beyond [`ZETA_TERMS_EXACT`] are added
/// by the Euler-Maclaurin formula, whose error is far below that of the summation itself.
fn zeta(count: u64, theta: f64) -> f64 {
    let exact = count.min(ZETA_TERMS_EXACT);
    let sum: f64 = (1..=exact).map(|term| (term as f64).powf(-theta)).sum();
    if count == exact {
        return sum;
    }
    let (from, to) = (exact as f64, count as f64);
    let integral = (to.powf(1.0 - theta) - from.powf(1.0 - theta)) / (1.0 - theta);
    let ends = (to.powf(-theta) - from.powf(-theta)) / 2.0;
    let slopes = theta * (from.powf(-theta - 1.0) - to.powf(-theta - 1.0)) / 12.0;
    sum + integral + ends + slopes
}

/// One key as text, `key:` and digits, filled up with zeros to its size; written again for each
/// request.
#[derive(Clone, Debug)]
pub struct KeyBuffer {
    sizes: Sizes,
    seed: u64,
    bytes: Vec<u8>,
}

impl KeyBuffer {
    /// Keys of `sizes`; which key has which derives from the seed.
    #[must_use]
    pub fn new(sizes: Sizes, seed: u64) -> Self {
        Self { sizes, seed, bytes: KEY_PREFIX.to_vec() }
    }

    /// How many keys differ at this width.
    #[must_use]
    pub fn key_count_max(key_bytes: usize) -> u64 {
        let digits = u32::try_from(key_bytes.saturating_sub(KEY_PREFIX.len())).unwrap_or(u32::MAX);
        if digits == 0 { 0 } else { 10_u64.checked_pow(digits).unwrap_or(u64::MAX) }
    }

    /// The text of `key`; longer than its size where its digits do not fit.
    #[inline]
    pub fn write(&mut self, key: u64) -> &[u8] {
        let size = match &self.sizes {
            Sizes::Fixed(bytes) => *bytes,
            sizes => sizes.draw(&mut stream_rng(self.seed, key)),
        };
        let mut text = itoa::Buffer::new();
        let text = text.format(key).as_bytes();
        let size = size.max(KEY_PREFIX.len() + text.len());
        self.bytes.resize(size, b'0');
        let (zeros, tail) =
            self.bytes[KEY_PREFIX.len()..].split_at_mut(size - KEY_PREFIX.len() - text.len());
        zeros.fill(b'0');
        tail.copy_from_slice(text);
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DRAWS: u64 = 400_000;

    fn reference_zeta(count: u64, theta: f64) -> f64 {
        (1..=count).rev().map(|term| (term as f64).powf(-theta)).sum()
    }

    #[test]
    fn zeta_equals_the_plain_sum_at_any_count() {
        for count in [1, 2, 1000, ZETA_TERMS_EXACT, ZETA_TERMS_EXACT + 1, 3_000_000] {
            let error = zeta(count, 0.99) / reference_zeta(count, 0.99) - 1.0;
            assert!(error.abs() < 1e-11, "{count}: {error}");
        }
    }

    #[test]
    fn ranks_are_drawn_with_the_probability_of_the_law() {
        let (count, theta) = (1000_u64, 0.99);
        let zipf = Zipf::new(count, theta);
        let mut rng = Rng::with_seed(7);
        let mut drawn = vec![0_u64; 1000];
        for _ in 0..DRAWS {
            drawn[zipf.draw_rank(&mut rng) as usize] += 1;
        }
        let zeta = reference_zeta(count, theta);
        let share =
            |ranks: std::ops::Range<usize>| drawn[ranks].iter().sum::<u64>() as f64 / DRAWS as f64;
        let law = |ranks: std::ops::Range<usize>| {
            ranks.map(|rank| ((rank + 1) as f64).powf(-theta) / zeta).sum::<f64>()
        };
        // Exact for the two lowest ranks, an approximation beyond them.
        for (ranks, tolerance) in
            [(0..1, 0.02), (1..2, 0.03), (2..10, 0.12), (10..100, 0.05), (100..1000, 0.05)]
        {
            let (share, law) = (share(ranks.clone()), law(ranks.clone()));
            assert!((share / law - 1.0).abs() < tolerance, "{ranks:?}: {share} for {law}");
        }
    }

    #[test]
    fn scattering_is_a_permutation() {
        for key_count in [1, 2, 10, 997, 4096, 100_000] {
            let factor = coprime_factor(key_count);
            let mut seen = vec![false; key_count as usize];
            for rank in 0..key_count {
                let key = scatter(rank, factor, key_count) as usize;
                assert!(!std::mem::replace(&mut seen[key], true), "{key_count}: {key} twice");
            }
        }
    }

    #[test]
    fn hot_keys_are_no_neighbours() {
        let factor = coprime_factor(1_000_000);
        let hot: Vec<u64> = (0..10).map(|rank| scatter(rank, factor, 1_000_000)).collect();
        for (index, key) in hot.iter().enumerate() {
            for other in &hot[index + 1..] {
                assert!(key.abs_diff(*other) > 1000, "{hot:?}");
            }
        }
    }

    #[test]
    fn uniform_draws_reach_every_key_alike() {
        let chooser = KeyChooser::new(100, Distribution::Uniform);
        let mut rng = Rng::with_seed(1);
        let mut drawn = [0_u64; 100];
        for _ in 0..DRAWS {
            drawn[chooser.draw(&mut rng) as usize] += 1;
        }
        let even = DRAWS / 100;
        assert!(drawn.iter().all(|&count| count.abs_diff(even) < even / 5), "{drawn:?}");
    }

    #[test]
    fn one_or_two_keys_are_drawn_too() {
        for key_count in [1, 2] {
            let chooser = KeyChooser::new(key_count, Distribution::Zipfian { theta: 0.99 });
            let mut rng = Rng::with_seed(1);
            assert!((0..1000).all(|_| chooser.draw(&mut rng) < key_count));
        }
    }

    #[test]
    fn most_requests_go_to_the_hot_keys() {
        let distribution = Distribution::Hotspot { keys: 0.2, requests: 0.8 };
        let chooser = KeyChooser::new(1000, distribution);
        let mut rng = Rng::with_seed(1);
        let drawn: Vec<u64> = (0..DRAWS).map(|_| chooser.draw(&mut rng)).collect();
        let hot = drawn.iter().filter(|it| **it < 200).count() as f64 / DRAWS as f64;
        assert!((hot - 0.8).abs() < 0.01, "{hot}");
        assert!(drawn.iter().all(|it| *it < 1000));
        // Evenly among the hot ones.
        let first = drawn.iter().filter(|it| **it < 100).count() as f64 / DRAWS as f64;
        assert!((first - 0.4).abs() < 0.01, "{first}");
    }

    #[test]
    fn ages_are_exponential_and_those_of_keys() {
        let distribution = Distribution::Exponential { keys: 0.2, requests: 0.8 };
        let chooser = KeyChooser::new(1000, distribution);
        assert!(chooser.goes_by_age());
        let mut rng = Rng::with_seed(1);
        let drawn: Vec<u64> = (0..DRAWS).map(|_| chooser.draw(&mut rng)).collect();
        assert!(drawn.iter().all(|it| *it < 1000));
        // Ages beyond the last key, exp(-5 ln 5) of all, are drawn again.
        let beyond = 0.2_f64.powi(5);
        for young in [100, 200, 400] {
            let share = drawn.iter().filter(|it| **it < young).count() as f64 / DRAWS as f64;
            let law = (1.0 - 0.2_f64.powf(young as f64 / 200.0)) / (1.0 - beyond);
            assert!((share - law).abs() < 0.01, "{young}: {share} for {law}");
        }
    }

    #[test]
    fn the_newest_key_has_the_lowest_rank() {
        let chooser = KeyChooser::new(1000, Distribution::Latest { theta: 0.99 });
        assert!(chooser.goes_by_age());
        let mut rng = Rng::with_seed(1);
        let newest = (0..DRAWS).filter(|_| chooser.draw(&mut rng) == 0).count() as f64;
        let law = 1.0 / reference_zeta(1000, 0.99);
        assert!((newest / DRAWS as f64 / law - 1.0).abs() < 0.03);
    }

    #[test]
    fn keys_have_a_size_of_their_own() {
        let mut key = KeyBuffer::new(Sizes::Uniform(10, 40), 1);
        let all: Vec<Vec<u8>> = (0..10_000).map(|it| key.write(it).to_vec()).collect();
        assert!(all.iter().enumerate().all(|(index, it)| key.write(index as u64) == it));
        let mut sorted = all.clone();
        sorted.sort();
        sorted.dedup();
        assert_eq!(sorted.len(), all.len());
        for bytes in 10..=40 {
            assert!(all.iter().any(|it| it.len() == bytes), "{bytes}");
        }
    }

    #[test]
    fn keys_have_a_fixed_width_and_forget_the_one_before() {
        let mut key = KeyBuffer::new(Sizes::Fixed(16), 1);
        assert_eq!(key.write(999_999_999_999), b"key:999999999999");
        assert_eq!(key.write(12), b"key:000000000012");
        assert_eq!(key.write(9_999_999_999_999), b"key:9999999999999");
        assert_eq!(key.write(12), b"key:000000000012");
        assert_eq!(KeyBuffer::key_count_max(16), 1_000_000_000_000);
        assert_eq!(KeyBuffer::key_count_max(4), 0);
        assert_eq!(KeyBuffer::key_count_max(64), u64::MAX);
    }
}
