//! Searches on modelled servers.

use fastrand::Rng;

use super::*;

const BOUND: Duration = Duration::from_millis(5);

fn point(offered: f64, p99_9_us: f64) -> Point {
    Point {
        offered,
        achieved: offered,
        seconds: 1e6,
        p99_9_us: Some(p99_9_us),
        failed: 0,
        unsent: 0,
        partial: None,
        generator_limit: None,
    }
}

/// A server with one queue: waits grow without end as the rate nears its capacity, beyond which it
/// answers no more than that.
fn queue(capacity: f64) -> impl FnMut(f64) -> Point {
    move |rate| {
        if rate >= capacity {
            return Point { achieved: capacity, ..point(rate, 500_000.0) };
        }
        // The 99.9th percentile of the time in a queue with random arrivals and services.
        point(rate, 1000.0_f64.ln() / (capacity - rate) * 1e6)
    }
}

/// Searches from `start`; what came of it, and the rates that were offered.
fn search(start: f64, mut server: impl FnMut(f64) -> Point) -> (Outcome, Vec<f64>) {
    let mut knee = Knee::new(BOUND, start, 0.05);
    let mut rates = Vec::new();
    while let Some(rate) = knee.next() {
        rates.push(rate);
        knee.on_point(server(rate));
    }
    (knee.outcome(), rates)
}

/// The rate at which the p99.9 of [`queue`] is the bound.
fn true_knee(capacity: f64) -> f64 {
    capacity - 1000.0_f64.ln() / BOUND.as_secs_f64()
}

fn is_within_precision(outcome: &Outcome, truth: f64) -> bool {
    let (knee, failing) = (outcome.knee.as_ref().unwrap(), outcome.failing.as_ref().unwrap());
    knee.offered <= truth && failing.offered > truth && failing.offered / knee.offered <= 1.0501
}

#[test]
fn the_knee_of_a_queue_is_found_to_within_the_precision() {
    for capacity in [3_000.0, 12_345.0, 100_000.0, 5_000_000.0] {
        let (outcome, rates) = search(1000.0, queue(capacity));
        assert_eq!(outcome.end, End::Found);
        assert!(is_within_precision(&outcome, true_knee(capacity)), "{outcome:?}");
        let knee = outcome.knee.unwrap().offered;
        assert_eq!(rates.last(), Some(&knee), "it is confirmed");
        assert!(rates.len() < 34, "{rates:?}");
    }
}

#[test]
fn rates_double_and_then_their_bracket_is_halved() {
    let (outcome, rates) =
        search(1000.0, |rate| point(rate, if rate > 4500.0 { 9e3 } else { 1e3 }));
    let rounded: Vec<u32> = rates.iter().map(|it| it.round() as u32).collect();
    let expected = [1000, 2000, 4000, 8000, 8000, 5657, 5657, 4757, 4757, 4362, 4555, 4555, 4362];
    assert_eq!(rounded, expected);
    assert_eq!(outcome.reason, Some(Reason::Latency));
    assert_eq!(outcome.failing.unwrap().offered.round(), 4555.0);
}

#[test]
fn a_server_that_fails_at_the_start_is_asked_less() {
    let (outcome, rates) = search(10_000.0, queue(3_000.0));
    assert_eq!(outcome.end, End::Found);
    assert!(is_within_precision(&outcome, true_knee(3_000.0)), "{outcome:?}");
    assert_eq!(rates[..7], [1e4, 1e4, 5e3, 5e3, 2.5e3, 2.5e3, 1.25e3]);
}

#[test]
fn a_server_that_fails_at_any_rate_has_no_knee() {
    let (outcome, rates) = search(1000.0, |rate| Point { failed: 1, ..point(rate, 10.0) });
    assert_eq!((outcome.end, outcome.knee), (End::NonePasses, None));
    assert_eq!(outcome.reason, Some(Reason::Errors));
    assert_eq!(rates.len(), 22);
    assert_eq!(outcome.failing.unwrap().offered, *rates.last().unwrap());
}

#[test]
fn a_server_faster_than_the_generator_is_said_to_be() {
    let (outcome, _) = search(1000.0, |rate| {
        let is_late = rate > 50_000.0;
        let generator_limit = is_late.then(|| "sends were late".to_owned());
        Point { generator_limit, ..point(rate, if is_late { 1e6 } else { 100.0 }) }
    });
    assert_eq!(outcome.end, End::GeneratorLimit);
    assert_eq!(outcome.knee.unwrap().offered, 32_000.0);
    assert_eq!(outcome.failing.unwrap().offered, 64_000.0);
}

#[test]
fn a_generator_at_its_limit_harms_no_point_that_passes() {
    let (outcome, _) = search(1000.0, |rate| {
        let generator_limit = Some("starved".to_owned());
        let mut queue = queue(20_000.0);
        Point { generator_limit: generator_limit.filter(|_| rate < 10_000.0), ..queue(rate) }
    });
    assert_eq!(outcome.end, End::Found);
}

#[test]
fn a_server_that_never_fails_ends_the_search_too() {
    let (outcome, rates) = search(1000.0, |rate| point(rate, 1.0));
    assert_eq!((outcome.end, outcome.failing), (End::NoneFails, None));
    assert!(rates.len() < 34);
}

#[test]
fn a_rate_that_passed_by_luck_is_given_up() {
    let mut visits = 0;
    let (outcome, rates) = search(1000.0, |rate| {
        // Fails above 3000, and passes there once.
        visits += u32::from(rate > 3000.0);
        point(rate, if rate > 3000.0 && visits != 1 { 9e3 } else { 1e3 })
    });
    assert_eq!(outcome.end, End::Found);
    let knee = outcome.knee.unwrap().offered;
    assert!((2400.0..=3000.0).contains(&knee), "{knee} after {rates:?}");
    assert!(outcome.failing.unwrap().offered > knee);
}

#[test]
fn a_rate_that_fails_once_by_bad_luck_is_offered_again() {
    let mut queue = queue(50_000.0);
    let mut count = 0;
    let (outcome, _) = search(1000.0, |rate| {
        count += 1;
        let quiet = queue(rate);
        if count % 2 == 0 { Point { p99_9_us: Some(1e6), ..quiet } } else { quiet }
    });
    assert_eq!(outcome.end, End::Found);
    assert!(is_within_precision(&outcome, true_knee(50_000.0)), "{outcome:?}");
}

#[test]
fn noise_moves_the_knee_by_no_more_than_its_width() {
    for seed in 0..200 {
        let mut rng = Rng::with_seed(seed);
        let mut queue = queue(50_000.0);
        let (outcome, rates) = search(1000.0, |rate| {
            let noise = 0.9 + 0.2 * rng.f64();
            let quiet = queue(rate);
            Point { p99_9_us: quiet.p99_9_us.map(|it| it * noise), ..quiet }
        });
        assert_eq!(outcome.end, End::Found, "seed {seed}");
        let ratio = outcome.knee.unwrap().offered / true_knee(50_000.0);
        assert!((0.85..1.02).contains(&ratio), "seed {seed}: {ratio}");
        assert!(rates.len() < POINTS_MAX);
    }
}

#[test]
fn pure_chance_ends_too() {
    for seed in 0..500 {
        let mut rng = Rng::with_seed(seed);
        let (outcome, rates) = search(1000.0, |rate| point(rate, rng.f64() * 1e4));
        assert_ne!(outcome.end, End::Interrupted, "seed {seed}");
        assert!(rates.len() <= POINTS_MAX);
    }
}

#[test]
fn each_way_to_fail_has_its_reason() {
    let knee = Knee::new(BOUND, 1000.0, 0.05);
    let good = || point(1000.0, 5000.0);
    for (point, reason) in [
        (good(), None),
        (point(1000.0, 5001.0), Some(Reason::Latency)),
        (Point { p99_9_us: None, ..good() }, Some(Reason::Latency)),
        (Point { achieved: 989.0, ..good() }, Some(Reason::Rate)),
        (Point { achieved: 990.0, ..good() }, None),
        (Point { unsent: 1, ..good() }, Some(Reason::Unsent)),
        (Point { failed: 1, ..good() }, Some(Reason::Errors)),
        (Point { partial: Some("died".to_owned()), ..good() }, Some(Reason::EndedEarly)),
    ] {
        assert_eq!(knee.reason(&point), reason, "{point:?}");
    }
}

#[test]
fn a_search_that_was_interrupted_has_its_best_so_far() {
    let mut knee = Knee::new(BOUND, 1000.0, 0.05);
    knee.on_point(point(1000.0, 1.0));
    let outcome = knee.outcome();
    assert_eq!((outcome.end, outcome.knee), (End::Interrupted, Some(point(1000.0, 1.0))));
}
