//! What a person sees while a target is loaded: one line on standard error, if that is a terminal.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use crate::timeline::{Timeline, TimelinePoint};

/// How often the line is written anew.
const INTERVAL: Duration = Duration::from_millis(250);

/// When a target has been loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Goal {
    /// All of so many keys are written.
    Loading(u64),
    /// So many requests were measured.
    Requests(u64),
    /// It was measured for so long.
    Duration(Duration),
}

/// One line, gone in the end.
#[derive(Debug)]
pub struct Progress {
    goal: Goal,
    written_at: Option<Instant>,
    is_shown: bool,
}

impl Progress {
    /// A line on a terminal; nothing elsewhere.
    #[must_use]
    pub fn new(goal: Goal) -> Self {
        Self { goal, written_at: None, is_shown: io::stderr().is_terminal() }
    }

    /// Writes the line, if it is time.
    pub fn tick(&mut self, timeline: &Timeline) {
        let now = Instant::now();
        let is_due = self.written_at.is_none_or(|at| now - at >= INTERVAL);
        if !self.is_shown || !is_due {
            return;
        }
        self.written_at = Some(now);
        let text = self.line(timeline, now);
        // Nobody is left to tell when standard error is closed.
        let _ = write!(io::stderr(), "\r{text}\x1b[K");
    }

    fn line(&self, timeline: &Timeline, now: Instant) -> String {
        if now < timeline.origin() {
            let left = timeline.origin() - now;
            return format!("warming up, {:.0} s left", left.as_secs_f64());
        }
        let (completed, errors) = timeline.counts();
        let elapsed = now - timeline.origin();
        let latest = timeline.latest(now);
        let left = match self.goal {
            Goal::Duration(duration) => {
                format!("{:.0} s left", duration.saturating_sub(elapsed).as_secs_f64())
            }
            Goal::Requests(count) | Goal::Loading(count) => {
                let share = completed as f64 / count as f64;
                let left = elapsed.as_secs_f64() * (1.0 - share) / share;
                let time =
                    if left.is_finite() { format!(", {left:.0} s left") } else { String::new() };
                format!("{:.0} %{time}", share * 100.0)
            }
        };
        let what = if matches!(self.goal, Goal::Loading(_)) { "loading: " } else { "" };
        format!("{what}{}{errors} errors, {left}", latest.map(figures).unwrap_or_default())
    }
}

fn figures(point: TimelinePoint) -> String {
    let micros = |it: Option<f64>| match it {
        None => "-".to_owned(),
        Some(it) if it < 10.0 => format!("{it:.2} us"),
        Some(it) => format!("{it:.0} us"),
    };
    format!("{:.0} req/s, p50 {}, p99 {}, ", point.rate, micros(point.p50_us), micros(point.p99_us))
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.written_at.is_some() {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Answer;

    #[test]
    fn the_line_tells_rate_latencies_errors_and_what_is_left() {
        let now = Instant::now();
        let timeline = Timeline::new(now - Duration::from_secs(2));
        let mut feed = timeline.feed();
        for at in 0..2000 {
            let answer = if at == 7 { Answer::Refused } else { Answer::Done };
            feed.record(
                timeline.origin() + Duration::from_millis(at),
                Duration::from_millis(1),
                answer,
            );
        }
        feed.flush();
        let line = |goal| Progress { goal, written_at: None, is_shown: true }.line(&timeline, now);
        assert_eq!(
            line(Goal::Duration(Duration::from_secs(5))),
            "1000 req/s, p50 1004 us, p99 1004 us, 1 errors, 3 s left"
        );
        assert!(line(Goal::Requests(3998)).ends_with("1 errors, 50 %, 2 s left"));
        assert!(line(Goal::Loading(3998)).starts_with("loading: 1000 req/s"));
    }

    #[test]
    fn short_latencies_are_not_told_as_none() {
        let now = Instant::now();
        let timeline = Timeline::new(now - Duration::from_secs(2));
        let mut feed = timeline.feed();
        for at in 0..2000 {
            let ended_at = timeline.origin() + Duration::from_millis(at);
            feed.record(ended_at, Duration::from_nanos(300), Answer::Done);
        }
        feed.flush();
        let line = Progress::new(Goal::Requests(4000)).line(&timeline, now);
        assert!(line.contains("p50 0.30 us"), "{line}");
    }

    #[test]
    fn nothing_is_told_of_a_warm_up() {
        let timeline = Timeline::new(Instant::now() + Duration::from_secs(60));
        let progress = Progress::new(Goal::Requests(5));
        assert_eq!(progress.line(&timeline, Instant::now()), "warming up, 60 s left");
    }
}
