//! When a request is meant to start.
//!
//! In a *closed* loop a request starts when the one before it was answered: a slow server is asked
//! less, and its stalls hide. In an *open* loop requests start by a schedule, as those of
//! independent clients do, and a latency counts from the scheduled moment, sent late or not.

use std::time::{Duration, Instant};

use fastrand::Rng;

use crate::workload::stream_rng;

/// Streams of randomness for schedules, apart from those for requests.
const SCHEDULE_STREAMS: u64 = 1 << 32;

/// How requests follow one another.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pace {
    /// Each after the reply to the one before.
    Closed,
    /// At a rate, whatever the target does.
    Open {
        /// Requests a second, of all load threads together.
        rate: f64,
        /// How they are spaced.
        arrivals: Arrivals,
    },
}

impl Pace {
    /// The schedule of `thread` of `thread_count` from `origin` on; none in a closed loop.
    #[must_use]
    pub fn schedule(
        self,
        origin: Instant,
        (thread, thread_count): (usize, usize),
        seed: u64,
    ) -> Option<Schedule> {
        let Self::Open { rate, arrivals } = self else { return None };
        let rng = stream_rng(seed, SCHEDULE_STREAMS + thread as u64);
        Some(Schedule::new(origin, rate, arrivals, (thread, thread_count), rng))
    }
}

/// How the requests of an open loop are spaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Arrivals {
    /// At equal distances.
    Fixed,
    /// At random, each independent of the others.
    Poisson,
}

/// The intended starts of one load thread, in order.
#[derive(Clone, Debug)]
pub struct Schedule {
    origin: Instant,
    gap_seconds: f64,
    arrivals: Arrivals,
    rng: Rng,
    /// Seconds after the origin. Kept apart from instants, so rounding does not add up.
    next_seconds: f64,
}

impl Schedule {
    /// The share of `thread` of `thread_count` in `rate` requests a second from `origin` on.
    ///
    /// # Panics
    ///
    /// When the rate is no positive number.
    #[must_use]
    pub fn new(
        origin: Instant,
        rate: f64,
        arrivals: Arrivals,
        (thread, thread_count): (usize, usize),
        rng: Rng,
    ) -> Self {
        assert!(rate.is_finite());
        assert!(rate > 0.0);
        assert!(thread < thread_count);
        let gap_seconds = thread_count as f64 / rate;
        let mut schedule = Self { origin, gap_seconds, arrivals, rng, next_seconds: 0.0 };
        match arrivals {
            Arrivals::Fixed => schedule.next_seconds = thread as f64 / rate,
            Arrivals::Poisson => schedule.advance(),
        }
        schedule
    }

    /// When the next request is meant to start.
    #[inline]
    #[must_use]
    pub fn next_at(&self) -> Instant {
        self.origin + Duration::from_secs_f64(self.next_seconds)
    }

    /// Passes on to the request after the next.
    #[inline]
    pub fn advance(&mut self) {
        self.next_seconds += match self.arrivals {
            Arrivals::Fixed => self.gap_seconds,
            // 1 - [0, 1) is never 0, whose logarithm has no end.
            Arrivals::Poisson => -(1.0 - self.rng.f64()).ln() * self.gap_seconds,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn starts(mut schedule: Schedule, count: usize) -> Vec<f64> {
        (0..count)
            .map(|_| {
                let at = schedule.next_at().duration_since(schedule.origin).as_secs_f64();
                schedule.advance();
                at
            })
            .collect()
    }

    fn schedule(arrivals: Arrivals, part: (usize, usize)) -> Schedule {
        Schedule::new(Instant::now(), 1000.0, arrivals, part, Rng::with_seed(5))
    }

    #[test]
    fn fixed_arrivals_of_all_threads_interleave() {
        let mut all = starts(schedule(Arrivals::Fixed, (0, 2)), 500);
        all.extend(starts(schedule(Arrivals::Fixed, (1, 2)), 500));
        all.sort_by(f64::total_cmp);
        for (index, at) in all.into_iter().enumerate() {
            assert!((at - index as f64 / 1000.0).abs() < 1e-6, "request {index} at {at}");
        }
    }

    #[test]
    fn poisson_arrivals_keep_the_rate_and_vary_as_much_as_they_should() {
        let all = starts(schedule(Arrivals::Poisson, (0, 1)), 100_000);
        let gaps: Vec<f64> = all.windows(2).map(|pair| pair[1] - pair[0]).collect();
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let variance = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
        assert!((mean * 1000.0 - 1.0).abs() < 0.02, "{mean}");
        // The deviation of an exponential distribution is its mean.
        assert!((variance.sqrt() / mean - 1.0).abs() < 0.03, "{variance}");
    }
}
