//! Rate and latency over time, for a plot and for who watches.
//!
//! Load threads gather on their own and hand over every 100 ms, so a lock is taken ten times
//! a second and thread. A long run has wider points instead of more of them.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::record::Answer;

/// The width of the narrowest points.
const WIDTH_MIN: Duration = Duration::from_millis(100);

/// When there are so many points, neighbours become one.
const POINTS_MAX: usize = 600;

/// Latencies beyond this count as this.
const NANOSECONDS_MAX: u64 = 3_600_000_000_000;

/// Two digits of a latency are kept: enough for a plot, and small.
const SIGNIFICANT_DIGITS: u8 = 2;

/// What ended within a while.
#[derive(Clone, Debug)]
struct Bucket {
    nanoseconds: Histogram<u32>,
    completed: u64,
    errors: u64,
}

impl Bucket {
    fn new() -> Self {
        let nanoseconds = Histogram::new_with_bounds(1, NANOSECONDS_MAX, SIGNIFICANT_DIGITS)
            .expect("the bounds are constants that fit each other");
        Self { nanoseconds, completed: 0, errors: 0 }
    }

    fn add(&mut self, other: &Self) {
        self.nanoseconds.add(&other.nanoseconds).expect("all histograms have the same bounds");
        self.completed += other.completed;
        self.errors += other.errors;
    }

    fn clear(&mut self) {
        self.nanoseconds.reset();
        self.completed = 0;
        self.errors = 0;
    }

    fn point(&self, start: Duration, width: Duration) -> TimelinePoint {
        let micros = |nanoseconds: u64| nanoseconds as f64 / 1000.0;
        let at = |quantile| {
            (!self.nanoseconds.is_empty())
                .then(|| micros(self.nanoseconds.value_at_quantile(quantile)))
        };
        TimelinePoint {
            start_seconds: start.as_secs_f64(),
            seconds: width.as_secs_f64(),
            rate: self.completed as f64 / width.as_secs_f64(),
            errors: self.errors,
            p50_us: at(0.5),
            p99_us: at(0.99),
            p99_9_us: at(0.999),
            max_us: at(1.0),
        }
    }
}

/// What ended within one while of a measurement.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TimelinePoint {
    /// Its begin, from that of the measurement on.
    pub start_seconds: f64,
    /// How long it is.
    pub seconds: f64,
    /// Requests answered without error, a second.
    pub rate: f64,
    /// Requests refused or given up.
    pub errors: u64,
    /// Of all that ended within; absent where nothing did.
    pub p50_us: Option<f64>,
    /// The same.
    pub p99_us: Option<f64>,
    /// The same.
    pub p99_9_us: Option<f64>,
    /// The same.
    pub max_us: Option<f64>,
}

/// A measurement over time, as far as it has come.
#[derive(Debug)]
pub struct Timeline {
    origin: Instant,
    buckets: Mutex<Buckets>,
}

#[derive(Debug)]
struct Buckets {
    width: Duration,
    all: Vec<Bucket>,
}

impl Timeline {
    /// One that begins at `origin`.
    #[must_use]
    pub fn new(origin: Instant) -> Arc<Self> {
        Arc::new(Self {
            origin,
            buckets: Mutex::new(Buckets { width: WIDTH_MIN, all: Vec::new() }),
        })
    }

    /// When it begins.
    #[must_use]
    pub fn origin(&self) -> Instant {
        self.origin
    }

    /// A load thread's way to add to it.
    #[must_use]
    pub fn feed(self: &Arc<Self>) -> Feed {
        Feed {
            timeline: Arc::clone(self),
            until: self.origin + WIDTH_MIN,
            bucket: Bucket::new(),
            is_empty: true,
        }
    }

    /// Its points as far as they are over after `window`.
    #[must_use]
    pub fn points(&self, window: Duration) -> Vec<TimelinePoint> {
        let buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let width = buckets.width;
        // At most a few hundred points, so the index fits.
        let starts = (0..).map(|index| width * index);
        let all = buckets.all.iter().zip(starts);
        all.take_while(|(_, start)| *start + width <= window + WIDTH_MIN / 10)
            .map(|(bucket, start)| bucket.point(start, width))
            .collect()
    }

    /// What ended within about the last second before `now`; `None` when that is not to be told yet.
    #[must_use]
    pub fn latest(&self, now: Instant) -> Option<TimelinePoint> {
        let buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let elapsed = now.checked_duration_since(self.origin)?;
        // The last point is still being gathered by the load threads.
        let end = index_of(elapsed, buckets.width).min(buckets.all.len()).checked_sub(1)?;
        let count = index_of(Duration::from_secs(1), buckets.width).clamp(1, end.max(1));
        let start = end.checked_sub(count)?;
        let mut sum = Bucket::new();
        buckets.all[start..end].iter().for_each(|it| sum.add(it));
        let width = |count: usize| buckets.width * u32::try_from(count).unwrap_or(u32::MAX);
        Some(sum.point(width(start), width(count)))
    }

    /// How many requests were answered without error, and how many were not, as far as it is told.
    #[must_use]
    pub fn counts(&self) -> (u64, u64) {
        let buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        buckets.all.iter().fold((0, 0), |sum, it| (sum.0 + it.completed, sum.1 + it.errors))
    }

    fn add(&self, at: Duration, bucket: &Bucket) {
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        while index_of(at, buckets.width) >= POINTS_MAX {
            buckets.widen();
        }
        let index = index_of(at, buckets.width);
        if buckets.all.len() <= index {
            buckets.all.resize_with(index + 1, Bucket::new);
        }
        buckets.all[index].add(bucket);
    }
}

impl Buckets {
    fn widen(&mut self) {
        self.width *= 2;
        let mut wider: Vec<Bucket> = Vec::with_capacity(POINTS_MAX);
        for (index, bucket) in self.all.drain(..).enumerate() {
            match wider.last_mut() {
                Some(last) if index % 2 == 1 => last.add(&bucket),
                _ => wider.push(bucket),
            }
        }
        self.all = wider;
    }
}

fn index_of(at: Duration, width: Duration) -> usize {
    usize::try_from(at.as_nanos() / width.as_nanos()).unwrap_or(usize::MAX)
}

/// One load thread's part.
#[derive(Clone, Debug)]
pub struct Feed {
    timeline: Arc<Timeline>,
    /// What is gathered ended before this, and less than [`WIDTH_MIN`] before.
    until: Instant,
    bucket: Bucket,
    is_empty: bool,
}

impl Feed {
    /// Adds a request that ended at `now`.
    #[inline]
    pub fn record(&mut self, now: Instant, latency: Duration, answer: Answer) {
        self.record_group(now, latency, 1, u64::from(answer.is_error()));
    }

    /// Adds requests that ended at `now`, of which one was timed.
    #[inline]
    pub fn record_group(&mut self, now: Instant, latency: Duration, count: u64, errors: u64) {
        if now >= self.until {
            self.pass_on(now);
        }
        let nanoseconds = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        self.bucket.nanoseconds.saturating_record(nanoseconds.max(1));
        self.bucket.completed += count - errors;
        self.bucket.errors += errors;
        self.is_empty = false;
    }

    /// Hands over what was gathered, and begins to gather for `now`.
    #[cold]
    fn pass_on(&mut self, now: Instant) {
        self.flush();
        let elapsed = now.saturating_duration_since(self.timeline.origin);
        let next = u32::try_from(index_of(elapsed, WIDTH_MIN) + 1).unwrap_or(u32::MAX);
        self.until = self.timeline.origin + WIDTH_MIN * next;
    }

    /// Hands over what was gathered.
    pub fn flush(&mut self) {
        if self.is_empty {
            return;
        }
        let at = (self.until - WIDTH_MIN).saturating_duration_since(self.timeline.origin);
        self.timeline.add(at, &self.bucket);
        self.bucket.clear();
        self.is_empty = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn millis(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    #[test]
    fn threads_add_up_in_the_points_in_which_requests_ended() {
        let timeline = Timeline::new(Instant::now());
        for thread in 0..2 {
            let mut feed = timeline.feed();
            for at in 0..1000 {
                let answer = if at == 250 && thread == 1 { Answer::Refused } else { Answer::Done };
                feed.record(timeline.origin() + millis(at), millis(1 + at / 500), answer);
            }
            feed.flush();
        }
        let points = timeline.points(millis(1000));
        assert_eq!(points.len(), 10);
        for (index, point) in points.iter().enumerate() {
            let errors = u64::from(index == 2);
            assert_eq!(point.errors, errors);
            assert!((point.rate - (200 - errors) as f64 * 10.0).abs() < 1e-6, "{point:?}");
            let expected = if index < 5 { 1000.0 } else { 2000.0 };
            assert!((point.p50_us.unwrap() / expected - 1.0).abs() < 0.01, "{point:?}");
        }
    }

    #[test]
    fn a_pause_shows_as_points_without_requests() {
        let timeline = Timeline::new(Instant::now());
        let mut feed = timeline.feed();
        feed.record(timeline.origin(), millis(1), Answer::Done);
        feed.record(timeline.origin() + millis(350), millis(300), Answer::Done);
        feed.flush();
        let points = timeline.points(millis(400));
        let rates: Vec<f64> = points.iter().map(|it| it.rate).collect();
        assert_eq!(rates, [10.0, 0.0, 0.0, 10.0]);
        assert_eq!(points[1].p99_us, None);
    }

    #[test]
    fn a_point_that_is_not_over_is_not_told() {
        let timeline = Timeline::new(Instant::now());
        let mut feed = timeline.feed();
        feed.record(timeline.origin() + millis(150), millis(1), Answer::Done);
        feed.flush();
        assert_eq!(timeline.points(millis(160)).len(), 1);
    }

    #[test]
    fn long_runs_have_wider_points() {
        let timeline = Timeline::new(Instant::now());
        let mut feed = timeline.feed();
        let seconds = 4 * 3600;
        for at in 0..seconds {
            feed.record(timeline.origin() + Duration::from_secs(at), millis(1), Answer::Done);
        }
        feed.flush();
        let points = timeline.points(Duration::from_secs(seconds));
        assert!(points.len() <= POINTS_MAX);
        let answered: f64 = points.iter().map(|it| it.rate * it.seconds).sum();
        assert!((answered - seconds as f64).abs() < 60.0, "{answered}");
    }

    #[test]
    fn the_latest_is_about_the_last_second() {
        let timeline = Timeline::new(Instant::now());
        let mut feed = timeline.feed();
        assert_eq!(timeline.latest(timeline.origin() + millis(50)), None);
        for at in 0..3000 {
            feed.record(timeline.origin() + millis(at), millis(1), Answer::Done);
        }
        feed.flush();
        let latest = timeline.latest(timeline.origin() + millis(3000)).unwrap();
        assert!((latest.rate - 1000.0).abs() < 1e-6);
        assert!((latest.seconds - 1.0).abs() < 1e-6);
    }
}
