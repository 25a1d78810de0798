//! The search for the knee: the highest rate at which a target still answers in time.
//!
//! A [`Knee`] is a leaf without I/O: [`Knee::next`] says which rate to offer, and
//! [`Knee::on_point`] takes what came of it.
//!
//! 1. Double the rate until a point fails; when the first one fails already, halve it until one
//!    passes.
//! 2. Halve the bracket between the two on the logarithm, until it is as narrow as the precision.
//! 3. Offer the best rate once more. Should it fail then, it passed by luck: go down by the
//!    precision, and by twice as much each time, until a rate passes.
//!
//! A rate that fails is offered once more at once, and has failed when it fails twice: what disturbs
//! the machine for a moment would otherwise end the search far below the knee.
//!
//! # Invariants
//!
//! - The knee is a rate that passed, and the rate that is told as failing is above it.
//! - A search ends after at most [`POINTS_MAX`] points.
//!
//! # Why a generator at its limit ends the search
//!
//! A generator that sends late, or is kept from its CPU, makes latencies of its own. A rate that
//! fails for that says nothing of the target, and no higher rate would.

use std::time::Duration;

use serde::Serialize;

/// No search has more points.
pub const POINTS_MAX: usize = 100;

/// The highest rate that is offered.
const RATE_MAX: f64 = 1e9;

/// The lowest one.
const RATE_MIN: f64 = 0.01;

/// How often the rate is halved before none is said to pass.
const HALVINGS_MAX: u32 = 10;

/// A rate passes only when so much of it was achieved, but for what arrivals at random vary by: so
/// many standard deviations of their number.
const ACHIEVED_SHARE_MIN: f64 = 0.99;
const ARRIVAL_DEVIATIONS: f64 = 4.0;

/// What came of one rate.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Point {
    /// Requests a second that were meant to start.
    pub offered: f64,
    /// Of these, those answered.
    pub achieved: f64,
    /// How long was measured.
    pub seconds: f64,
    /// Response time from the intended start; `None` when nothing was answered.
    pub p99_9_us: Option<f64>,
    /// Requests that failed, but for those not sent.
    pub failed: u64,
    /// Requests that were due and not sent.
    pub unsent: u64,
    /// Why the measurement ended early, if it did.
    pub partial: Option<String>,
    /// How the generator was at its limit, if it was.
    pub generator_limit: Option<String>,
}

/// Why a rate failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// The measurement ended early.
    EndedEarly,
    /// Requests failed.
    Errors,
    /// Requests were due and not sent.
    Unsent,
    /// Fewer were answered than offered.
    Rate,
    /// They took too long.
    Latency,
}

/// How a search ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// There is a knee, measured twice.
    Found,
    /// No rate passes, however low.
    NonePasses,
    /// Higher rates failed for the generator: the knee is at least the best that passed.
    GeneratorLimit,
    /// No rate fails.
    NoneFails,
    /// The points were used up: the knee is near the best that passed.
    Unsettled,
    /// Somebody ended it.
    Interrupted,
}

/// What came of a search.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Outcome {
    /// How it ended.
    pub end: End,
    /// The highest rate that passed.
    pub knee: Option<Point>,
    /// The lowest one above it that failed.
    pub failing: Option<Point>,
    /// Why it did.
    pub reason: Option<Reason>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Phase {
    Doubling,
    Halving { left: u32 },
    Bisecting,
    Confirming,
    Descending { step: u32 },
    Ended(End),
}

/// A search.
#[derive(Debug)]
pub struct Knee {
    bound: Duration,
    /// How wide the bracket may be in the end, as a ratio above 1.
    width: f64,
    phase: Phase,
    rate: f64,
    best: Option<Point>,
    failing: Option<(Point, Reason)>,
    /// Whether the rate has failed once already.
    is_second_try: bool,
    point_count: usize,
}

impl Knee {
    /// A search for the highest rate whose p99.9 is at most `bound`, from `start` on, to within
    /// `precision`, a share.
    ///
    /// # Panics
    ///
    /// When a number is not positive.
    #[must_use]
    pub fn new(bound: Duration, start: f64, precision: f64) -> Self {
        assert!(start > 0.0);
        assert!(precision > 0.0);
        Self {
            bound,
            width: 1.0 + precision,
            phase: Phase::Doubling,
            rate: start.clamp(RATE_MIN, RATE_MAX),
            best: None,
            failing: None,
            is_second_try: false,
            point_count: 0,
        }
    }

    /// The rate to offer; `None` at the end.
    #[must_use]
    pub fn next(&self) -> Option<f64> {
        (!matches!(self.phase, Phase::Ended(_))).then_some(self.rate)
    }

    /// Takes what came of the rate that [`Self::next`] told.
    ///
    /// # Panics
    ///
    /// When it told none.
    pub fn on_point(&mut self, point: Point) {
        assert!(self.next().is_some());
        self.point_count += 1;
        let reason = self.reason(&point);
        self.is_second_try = reason.is_some() && !self.is_second_try;
        match reason {
            None => self.on_pass(point),
            Some(_) if self.is_second_try => {}
            Some(reason) if point.generator_limit.is_some() => {
                let is_higher = |best: &Point| point.offered > best.offered;
                if self.best.as_ref().is_none_or(is_higher) {
                    self.failing = Some((point, reason));
                }
                self.end(End::GeneratorLimit);
            }
            Some(reason) => self.on_fail(point, reason),
        }
        if self.point_count >= POINTS_MAX && self.next().is_some() {
            self.end(End::Unsettled);
        }
        self.assert_invariants();
    }

    /// What has come of it so far.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        let end = match self.phase {
            Phase::Ended(end) => end,
            _ => End::Interrupted,
        };
        let (failing, reason) = self.failing.clone().unzip();
        Outcome { end, knee: self.best.clone(), failing, reason }
    }

    fn reason(&self, point: &Point) -> Option<Reason> {
        let bound_us = self.bound.as_secs_f64() * 1e6;
        let chance = ARRIVAL_DEVIATIONS * (point.offered / point.seconds).sqrt();
        if point.partial.is_some() {
            Some(Reason::EndedEarly)
        } else if point.failed > 0 {
            Some(Reason::Errors)
        } else if point.unsent > 0 {
            Some(Reason::Unsent)
        } else if point.achieved < point.offered * ACHIEVED_SHARE_MIN - chance {
            Some(Reason::Rate)
        } else if point.p99_9_us.is_none_or(|it| it > bound_us) {
            Some(Reason::Latency)
        } else {
            None
        }
    }

    fn on_pass(&mut self, point: Point) {
        let rate = point.offered;
        self.best = Some(point);
        match self.phase {
            Phase::Doubling if rate * 2.0 > RATE_MAX => self.end(End::NoneFails),
            Phase::Doubling => self.rate = rate * 2.0,
            Phase::Halving { .. } | Phase::Bisecting => self.narrow(),
            Phase::Confirming | Phase::Descending { .. } => self.end(End::Found),
            Phase::Ended(_) => unreachable!("it has not ended"),
        }
    }

    fn on_fail(&mut self, point: Point, reason: Reason) {
        let rate = point.offered;
        self.failing = Some((point, reason));
        match self.phase {
            Phase::Doubling if self.best.is_none() => self.halve(rate, HALVINGS_MAX),
            Phase::Halving { left } => self.halve(rate, left),
            Phase::Doubling | Phase::Bisecting => self.narrow(),
            Phase::Confirming => self.descend(rate, 1),
            Phase::Descending { step } => self.descend(rate, step.saturating_mul(2)),
            Phase::Ended(_) => unreachable!("it has not ended"),
        }
    }

    fn halve(&mut self, rate: f64, left: u32) {
        self.rate = rate / 2.0;
        if left == 0 || self.rate < RATE_MIN {
            return self.end(End::NonePasses);
        }
        self.phase = Phase::Halving { left: left - 1 };
    }

    /// Halves the bracket, or has its lower end confirmed when it is narrow.
    fn narrow(&mut self) {
        let low = self.best.as_ref().expect("a rate has passed").offered;
        let high = self.failing.as_ref().expect("a rate has failed").0.offered;
        assert!(low < high);
        if high / low <= self.width {
            self.phase = Phase::Confirming;
            self.rate = low;
        } else {
            self.phase = Phase::Bisecting;
            self.rate = (low * high).sqrt();
        }
    }

    /// What passed before at this rate and above was luck.
    fn descend(&mut self, rate: f64, step: u32) {
        self.best = None;
        self.rate = rate / self.width.powf(f64::from(step));
        if self.rate < RATE_MIN {
            return self.end(End::NonePasses);
        }
        self.phase = Phase::Descending { step };
    }

    fn end(&mut self, end: End) {
        self.phase = Phase::Ended(end);
    }

    fn assert_invariants(&self) {
        assert!(self.point_count <= POINTS_MAX);
        if let (Some(best), Some((failing, _))) = (&self.best, &self.failing) {
            assert!(best.offered < failing.offered);
        }
        if self.phase == Phase::Ended(End::Found) {
            assert!(self.best.is_some());
        }
    }
}

#[cfg(test)]
mod tests;
