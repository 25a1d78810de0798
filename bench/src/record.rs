//! What came of the requests: latencies, and whatever went wrong.

use std::fmt::Display;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::timeline::Feed;
use crate::workload::Operation;

/// Latencies beyond this count as this.
const LATENCY_MAX: Duration = Duration::from_secs(3600);

/// Three digits of every latency are kept.
const SIGNIFICANT_DIGITS: u8 = 3;

/// Points of a percentile curve in each halving of the distance to 100 %.
const CURVE_TICKS_PER_HALF: u32 = 5;

/// Latencies of one kind.
#[derive(Clone, Debug)]
pub struct Latencies {
    nanoseconds: Histogram<u64>,
}

impl Default for Latencies {
    fn default() -> Self {
        Self::new()
    }
}

impl Latencies {
    /// None yet.
    #[must_use]
    pub fn new() -> Self {
        let nanoseconds_max = u64::try_from(LATENCY_MAX.as_nanos()).expect("an hour fits");
        let nanoseconds = Histogram::new_with_bounds(1, nanoseconds_max, SIGNIFICANT_DIGITS)
            .expect("the bounds are constants that fit each other");
        Self { nanoseconds }
    }

    /// Adds one.
    #[inline]
    pub fn record(&mut self, latency: Duration) {
        self.nanoseconds.saturating_record(u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX));
    }

    /// Adds those of another thread.
    pub fn add(&mut self, other: &Self) {
        self.nanoseconds.add(&other.nanoseconds).expect("all histograms have the same bounds");
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.nanoseconds.len()
    }

    /// How many are longer than `bound`.
    #[must_use]
    pub fn count_above(&self, bound: Duration) -> u64 {
        let bound = u64::try_from(bound.as_nanos()).unwrap_or(u64::MAX);
        self.count() - self.nanoseconds.count_between(0, bound)
    }

    /// The histogram, in nanoseconds.
    #[must_use]
    pub fn histogram(&self) -> &Histogram<u64> {
        &self.nanoseconds
    }

    /// Latencies in microseconds by quantile, from 0 to below 1: denser towards the end.
    #[must_use]
    pub fn curve(&self) -> Vec<(f64, f64)> {
        self.nanoseconds
            .iter_quantiles(CURVE_TICKS_PER_HALF)
            .map(|it| (it.quantile_iterated_to(), it.value_iterated_to() as f64 / 1000.0))
            .filter(|it| it.0 < 1.0)
            .collect()
    }

    /// Their percentiles; `None` when there are none.
    #[must_use]
    pub fn summary(&self) -> Option<LatencySummary> {
        if self.nanoseconds.is_empty() {
            return None;
        }
        let at = |quantile| self.nanoseconds.value_at_quantile(quantile) as f64 / 1000.0;
        Some(LatencySummary {
            count: self.count(),
            mean_us: self.nanoseconds.mean() / 1000.0,
            min_us: self.nanoseconds.min() as f64 / 1000.0,
            p50_us: at(0.5),
            p90_us: at(0.9),
            p99_us: at(0.99),
            p99_9_us: at(0.999),
            p99_99_us: at(0.9999),
            max_us: self.nanoseconds.max() as f64 / 1000.0,
        })
    }
}

/// Percentiles in microseconds, to three digits.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[expect(missing_docs, reason = "the names say it all")]
pub struct LatencySummary {
    pub count: u64,
    pub mean_us: f64,
    pub min_us: f64,
    pub p50_us: f64,
    pub p90_us: f64,
    pub p99_us: f64,
    pub p99_9_us: f64,
    pub p99_99_us: f64,
    pub max_us: f64,
}

/// What went wrong, to be shown beside every rate.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Errors {
    /// Requests that the target refused.
    pub error_replies: u64,
    /// Connections that ended before their requests were answered.
    pub lost_connections: u64,
    /// Requests that were sent and not answered.
    pub unanswered: u64,
    /// Requests of an open loop that were due and never sent, as the target was behind. Their wait
    /// until the end is among the latencies.
    pub unsent: u64,
    /// The first refusal, in the target's words.
    pub first_error_reply: Option<String>,
}

impl Errors {
    /// Adds a refusal.
    pub fn refuse(&mut self, text: &str) {
        self.error_replies += 1;
        if self.first_error_reply.is_none() {
            self.first_error_reply = Some(text.to_owned());
        }
    }

    /// Adds those of another thread.
    pub fn add(&mut self, other: &Self) {
        self.error_replies += other.error_replies;
        self.lost_connections += other.lost_connections;
        self.unanswered += other.unanswered;
        self.unsent += other.unsent;
        if self.first_error_reply.is_none() {
            self.first_error_reply.clone_from(&other.first_error_reply);
        }
    }

    /// How many requests failed.
    #[must_use]
    pub fn failed_requests(&self) -> u64 {
        self.error_replies + self.unanswered + self.unsent
    }
}

/// How a request was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// As it should be.
    Done,
    /// The key to read is not there.
    Missing,
    /// Refused.
    Refused,
    /// Given up: the connection ended, or the time was over.
    Unanswered,
}

impl Answer {
    /// Whether the request failed.
    #[inline]
    #[must_use]
    pub fn is_error(self) -> bool {
        matches!(self, Self::Refused | Self::Unanswered)
    }
}

/// How long one request took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// When it ended.
    pub ended_at: Instant,
    /// From its intended start on.
    pub response: Duration,
    /// From its actual start on, where that is another.
    pub service: Option<Duration>,
}

/// What a group of requests came to, without their latencies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Group {
    /// How many there were.
    pub count: u64,
    /// Reads that found no key.
    pub missing: u64,
    /// How many were refused.
    pub refused: u64,
    /// The first refusal.
    pub first_error: Option<String>,
}

/// What one load thread measured.
#[derive(Clone, Debug, Default)]
pub struct Recorder {
    /// By the place of the operation.
    operations: Vec<Option<Box<Latencies>>>,
    /// From the actual starts of requests on, in an open loop.
    pub service: Option<Box<Latencies>>,
    /// Waits of requests that were never sent.
    pub unsent: Latencies,
    /// How much later than intended requests of an open loop were sent.
    pub send_delays: Latencies,
    /// Requests that were answered without an error.
    pub completed: u64,
    /// Reads that found no key.
    pub missing: u64,
    /// What went wrong.
    pub errors: Errors,
    /// Where it is told over time.
    feed: Option<Feed>,
}

impl Recorder {
    /// One that tells a time line too.
    #[must_use]
    pub fn feeding(feed: Feed) -> Self {
        Self { feed: Some(feed), ..Self::default() }
    }

    /// Adds an answered request. Refusals are counted and their latency is kept, for a client waits
    /// for them too.
    #[inline]
    pub fn record(&mut self, operation: Operation, latency: Duration, answer: Answer) {
        self.latencies_of(operation).record(latency);
        match answer {
            Answer::Done => self.completed += 1,
            Answer::Missing => {
                self.completed += 1;
                self.missing += 1;
            }
            Answer::Refused => self.errors.error_replies += 1,
            Answer::Unanswered => self.errors.unanswered += 1,
        }
    }

    /// The same, with all that is known of its time.
    #[inline]
    pub fn record_sample(&mut self, operation: Operation, sample: Sample, answer: Answer) {
        self.record(operation, sample.response, answer);
        if let Some(service) = sample.service {
            self.service.get_or_insert_default().record(service);
        }
        if let Some(feed) = &mut self.feed {
            feed.record(sample.ended_at, sample.response, answer);
        }
    }

    /// Adds a request that was refused in so many words.
    pub fn refuse(&mut self, operation: Operation, sample: Sample, error: &dyn Display) {
        if self.errors.first_error_reply.is_none() {
            self.errors.first_error_reply = Some(error.to_string());
        }
        self.record_sample(operation, sample, Answer::Refused);
    }

    /// Adds a group of requests of which one was timed.
    pub fn record_group(&mut self, timed: Operation, sample: Sample, group: &Group) {
        self.latencies_of(timed).record(sample.response);
        self.completed += group.count - group.refused;
        self.missing += group.missing;
        self.errors.error_replies += group.refused;
        if self.errors.first_error_reply.is_none() {
            self.errors.first_error_reply.clone_from(&group.first_error);
        }
        if let Some(feed) = &mut self.feed {
            feed.record_group(sample.ended_at, sample.response, group.count, group.refused);
        }
    }

    /// Adds a request that was due and never sent: it waited for at least this long.
    pub fn record_unsent(&mut self, wait: Duration) {
        self.errors.unsent += 1;
        self.unsent.record(wait);
    }

    /// Tells the time line what it does not know yet.
    pub fn flush(&mut self) {
        if let Some(feed) = &mut self.feed {
            feed.flush();
        }
    }

    /// Adds what another thread measured.
    pub fn add(&mut self, other: &Self) {
        for (index, latencies) in other.operations.iter().enumerate() {
            if let Some(latencies) = latencies {
                self.latencies_at(index).add(latencies);
            }
        }
        if let Some(service) = &other.service {
            self.service.get_or_insert_default().add(service);
        }
        self.unsent.add(&other.unsent);
        self.send_delays.add(&other.send_delays);
        self.completed += other.completed;
        self.missing += other.missing;
        self.errors.add(&other.errors);
    }

    /// Latencies of all operations together, and the waits of what was never sent.
    #[must_use]
    pub fn all(&self) -> Latencies {
        let mut all = self.unsent.clone();
        self.operations.iter().flatten().for_each(|it| all.add(it));
        all
    }

    /// The place of each operation that there was, with its latencies.
    pub fn by_operation(&self) -> impl Iterator<Item = (usize, &Latencies)> {
        self.operations.iter().enumerate().filter_map(|(place, it)| Some((place, it.as_deref()?)))
    }

    /// Latencies of one operation; `None` when there was none.
    #[must_use]
    pub fn of(&self, operation: Operation) -> Option<&Latencies> {
        self.operations.get(operation.index())?.as_deref()
    }

    #[inline]
    fn latencies_of(&mut self, operation: Operation) -> &mut Latencies {
        self.latencies_at(operation.index())
    }

    #[inline]
    fn latencies_at(&mut self, index: usize) -> &mut Latencies {
        if self.operations.len() <= index {
            self.operations.resize_with(index + 1, || None);
        }
        self.operations[index].get_or_insert_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn micros(count: u64) -> Duration {
        Duration::from_micros(count)
    }

    #[test]
    fn percentiles_equal_those_of_the_sorted_latencies_to_three_digits() {
        let mut rng = fastrand::Rng::with_seed(3);
        let mut sorted: Vec<u64> =
            (0..50_000).map(|_| (1000.0 / (1.0 - rng.f64()).powf(1.5)) as u64 + 50).collect();
        let mut latencies = Latencies::new();
        for &nanoseconds in &sorted {
            latencies.record(Duration::from_nanos(nanoseconds));
        }
        sorted.sort_unstable();
        let reference = |quantile: f64| {
            let rank = (quantile * sorted.len() as f64).ceil() as usize;
            sorted[rank - 1] as f64 / 1000.0
        };
        let summary = latencies.summary().unwrap();
        for (found, expected) in [
            (summary.p50_us, reference(0.5)),
            (summary.p90_us, reference(0.9)),
            (summary.p99_us, reference(0.99)),
            (summary.p99_9_us, reference(0.999)),
            (summary.p99_99_us, reference(0.9999)),
            (summary.max_us, reference(1.0)),
        ] {
            assert!((found / expected - 1.0).abs() < 0.001, "{found} for {expected}");
        }
        assert_eq!(summary.count, 50_000);
    }

    #[test]
    fn a_curve_ends_at_the_largest_and_never_falls() {
        let mut latencies = Latencies::new();
        (1..=100_000).for_each(|it| latencies.record(Duration::from_nanos(it * 100)));
        let curve = latencies.curve();
        assert!(curve.windows(2).all(|it| it[0].0 <= it[1].0 && it[0].1 <= it[1].1));
        assert!(curve.len() > 50);
        for (quantile, micros) in curve.iter().filter(|it| it.0 > 0.1) {
            assert!((micros / (quantile * 10_000.0) - 1.0).abs() < 0.002, "{quantile}: {micros}");
        }
    }

    #[test]
    fn no_latencies_have_no_percentiles() {
        assert_eq!(Latencies::new().summary(), None);
    }

    #[test]
    fn latencies_above_a_bound_are_counted() {
        let mut latencies = Latencies::new();
        (1..=100).for_each(|it| latencies.record(micros(it * 1000)));
        assert_eq!(latencies.count_above(micros(75_500)), 25);
    }

    #[test]
    fn threads_add_up() {
        let mut first = Recorder::default();
        first.record(Operation::Get, micros(10), Answer::Done);
        first.record(Operation::Get, micros(20), Answer::Missing);
        let mut second = Recorder::default();
        second.record(Operation::Set, micros(30), Answer::Refused);
        second.errors.lost_connections = 2;
        second.errors.first_error_reply = Some("OOM".to_owned());
        first.add(&second);

        assert_eq!((first.completed, first.missing), (2, 1));
        let count = |operation| first.of(operation).map(Latencies::count);
        let counts = [Operation::Get, Operation::Set, Operation::Delete].map(count);
        assert_eq!(counts, [Some(2), Some(1), None]);
        assert_eq!(first.all().count(), 3);
        let errors = Errors {
            error_replies: 1,
            lost_connections: 2,
            first_error_reply: Some("OOM".to_owned()),
            ..Errors::default()
        };
        assert_eq!(first.errors, errors);
    }
}
