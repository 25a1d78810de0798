//! What each fault did: read off the time line between it and the next.

use serde::Serialize;

use super::Done;
use crate::timeline::TimelinePoint;

/// The rate before a fault is that of so many seconds.
const BEFORE_SECONDS: f64 = 2.0;

/// The rate is back when it is this much of what it was before.
const BACK_SHARE: f64 = 0.9;

/// What one fault did, until the next one or the end.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Effect {
    /// What was done.
    pub what: String,
    /// When.
    pub at_seconds: f64,
    /// Requests a second before.
    pub rate_before: Option<f64>,
    /// The lowest of any point after.
    pub rate_lowest: Option<f64>,
    /// How long there were points in which nothing was answered.
    pub seconds_without_answers: f64,
    /// How long after the fault it took until a point had nine tenths of the rate before, and the
    /// one after it too; absent when that did not happen.
    pub seconds_until_back: Option<f64>,
    /// Requests refused or given up.
    pub errors: u64,
    /// The longest request that ended.
    pub latency_max_us: Option<f64>,
}

/// The effects of `events`, as far as `points` tell them.
#[must_use]
pub fn of(events: &[Done], points: &[TimelinePoint]) -> Vec<Effect> {
    let ends = events.iter().skip(1).map(|it| it.at_seconds).chain([f64::INFINITY]);
    events.iter().zip(ends).map(|(event, end)| effect(event, end, points)).collect()
}

fn effect(event: &Done, end: f64, points: &[TimelinePoint]) -> Effect {
    let at = event.at_seconds;
    let end_of = |it: &TimelinePoint| it.start_seconds + it.seconds;
    let before = points
        .iter()
        .filter(|it| end_of(it) <= at && it.start_seconds >= at - BEFORE_SECONDS - it.seconds);
    let rate_before = mean(before.map(|it| it.rate));
    // A point in which the fault falls belongs to what came after it.
    let after: Vec<&TimelinePoint> =
        points.iter().filter(|it| end_of(it) > at && it.start_seconds < end).collect();
    let is_back = |it: &TimelinePoint| rate_before.is_some_and(|rate| it.rate >= rate * BACK_SHARE);
    let lowest = after.iter().map(|it| it.rate).min_by(f64::total_cmp);
    // Back means back after it was lower; a fault that nobody noticed took no time.
    let first_low = after.iter().position(|it| !is_back(it));
    let seconds_until_back = match first_low {
        None => rate_before.map(|_| 0.0),
        Some(low) => after[low..]
            .windows(2)
            .find(|pair| pair.iter().all(|it| is_back(it)))
            .map(|pair| (pair[0].start_seconds - at).max(0.0)),
    };
    Effect {
        what: event.what.clone(),
        at_seconds: at,
        rate_before,
        rate_lowest: lowest,
        // From 0 on: the sum of nothing is -0 otherwise.
        seconds_without_answers: after
            .iter()
            .filter(|it| it.rate <= 0.0)
            .fold(0.0, |sum, it| sum + it.seconds),
        seconds_until_back,
        errors: after.iter().map(|it| it.errors).sum(),
        latency_max_us: after.iter().filter_map(|it| it.max_us).max_by(f64::total_cmp),
    }
}

fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (sum, count) = values.fold((0.0, 0.0), |(sum, count), it| (sum + it, count + 1.0));
    (count > 0.0).then(|| sum / count)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn points(rates: &[f64]) -> Vec<TimelinePoint> {
        let point = |(index, &rate): (usize, &f64)| TimelinePoint {
            start_seconds: index as f64,
            seconds: 1.0,
            rate,
            errors: u64::from(rate < 50.0),
            p50_us: None,
            p99_us: None,
            p99_9_us: None,
            max_us: (rate > 0.0).then_some(1000.0 / rate),
        };
        rates.iter().enumerate().map(point).collect()
    }

    fn done(at_seconds: f64, what: &str) -> Done {
        Done { at_seconds, what: what.to_owned() }
    }

    #[test]
    fn an_effect_lasts_until_the_next_event() {
        let points = points(&[100.0, 100.0, 100.0, 10.0, 0.0, 95.0, 100.0, 100.0, 90.0, 100.0]);
        let events = [done(3.2, "kill node 2"), done(7.0, "restart node 2")];
        let effects = of(&events, &points);
        assert_eq!(effects[0].rate_before, Some(100.0));
        assert_eq!(effects[0].rate_lowest, Some(0.0));
        assert_eq!((effects[0].seconds_without_answers, effects[0].errors), (1.0, 2));
        let back = effects[0].seconds_until_back.unwrap();
        assert!((back - 1.8).abs() < 1e-9, "{back}");
        assert_eq!(effects[0].latency_max_us, Some(100.0));
        assert_eq!(effects[1].rate_lowest, Some(90.0));
        assert!(effects[1].seconds_without_answers.is_sign_positive());
        assert_eq!(effects[1].seconds_until_back, Some(0.0));
    }

    #[test]
    fn what_does_not_come_back_is_not_said_to() {
        let effects = of(&[done(2.0, "kill node 1")], &points(&[100.0, 100.0, 0.0, 0.0, 99.0]));
        assert_eq!(effects[0].seconds_until_back, None);
        assert_eq!(effects[0].seconds_without_answers, 2.0);
        let nothing = of(&[done(0.0, "kill node 1")], &[]);
        assert_eq!((nothing[0].rate_before, nothing[0].seconds_until_back), (None, None));
    }
}
