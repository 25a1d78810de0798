//! One target, measured with many values of one or two knobs.
//!
//! | file | what |
//! |---|---|
//! | [`list`] | a knob and its values, from the command line |
//! | `knob` | what a knob changes |
//! | [`knee`] | the search for the highest rate at which a target answers in time |
//!
//! # Invariants
//!
//! - Everything that can be refused is refused before a server is started.
//! - A server that was started is started again only when a knob in its command line changes. Keys
//!   are written again, where that is asked, only then and when the keys themselves change.

pub mod knee;
mod knob;
pub mod list;

use std::time::Duration;

pub use list::{Knob, POINTS_MAX};

use crate::interrupt;
use crate::options::{MeasureOptions, SweepOptions, TargetName};
use crate::report::{Figures, KneeReport, KnobReport, PointReport, Setting, SweepReport};
use crate::server::{Running, Side, Values};
use crate::target;
use crate::workload::Workload;
use knee::{Knee, Point};

/// A generator that is kept from its CPU for more of its time makes latencies of its own.
const STARVED_SHARE_MAX: f64 = 0.05;

/// A generator is at its limit when it is busy so much and nevertheless sends late.
const BUSY_SHARE_MAX: f64 = 0.95;

/// One combination of values.
struct Combination {
    knobs: Values,
    measure: MeasureOptions,
    workload: Workload,
}

/// A sweep that can be run.
pub struct Plan<'a> {
    options: &'a SweepOptions,
    side: Side,
    target: TargetName,
    combinations: Vec<Combination>,
}

impl<'a> Plan<'a> {
    /// The sweep that `options` describe.
    ///
    /// # Errors
    ///
    /// A sentence, when there is no such sweep.
    pub fn new(options: &'a SweepOptions) -> Result<Self, String> {
        options.check()?;
        let side = Side::new(&options.target, &options.commands, "", "--cmd");
        let side = side.map_err(|error| error.to_string())?;
        let combined = combine(&options.knobs);
        let layout = side.layout(&combined[0], &options.server).map_err(|it| it.to_string())?;
        let target = layout.target().clone();
        let mut placeholders = side.command_placeholders();
        placeholders.extend(side.target_placeholders());
        for Knob { name, .. } in &options.knobs {
            if is_taken(name) {
                return Err(format!("--knob {name}: {{{name}}} stands for what is chosen anew"));
            }
            knob::check(name, &target, &options.measure, &placeholders)?;
        }
        if options.knee.is_some() && target == TargetName::InCore {
            return Err(format!("{target} has no open loop, and so no knee"));
        }
        let mut combinations = Vec::with_capacity(combined.len());
        for knobs in combined {
            let mut measure = options.measure.clone();
            for (name, value) in &knobs {
                knob::apply(name, value, &mut measure)?;
            }
            measure.check(&target)?;
            let workload = measure.workload.workload()?;
            combinations.push(Combination { knobs, measure, workload });
        }
        Ok(Self { options, side, target, combinations })
    }

    /// What is loaded, for the first combination.
    #[must_use]
    pub fn target(&self) -> &TargetName {
        &self.target
    }

    /// Measures all combinations. Ends early when the target fails, or the user asks.
    ///
    /// # Errors
    ///
    /// A sentence, when that happens before there is anything to report.
    pub fn run(&self, setting: Setting) -> Result<SweepReport, String> {
        let mut runner = Runner { plan: self, running: None, loaded: None, points: Vec::new() };
        let mut knees = Vec::new();
        let mut partial = None;
        for combination in &self.combinations {
            let ended = match self.options.knee {
                Some(bound) => {
                    let (knee, ended) = runner.search(combination, bound);
                    knees.extend(knee);
                    ended
                }
                None => runner.point(combination, combination.measure.rate, None),
            };
            if let Err(why) = ended {
                partial = Some(runner.with_obituary(why));
                break;
            }
        }
        let points = runner.points;
        match partial {
            Some(why) if points.is_empty() => Err(why),
            partial => Ok(SweepReport {
                setting,
                knobs: self.options.knobs.iter().map(KnobReport::new).collect(),
                knee_bound_us: self.options.knee.map(|it| it.as_secs_f64() * 1e6),
                partial,
                best: SweepReport::best_of(&points),
                points,
                knees,
            }),
        }
    }
}

/// What goes from point to point.
struct Runner<'a> {
    plan: &'a Plan<'a>,
    /// A started side, and the values of the knobs in its commands.
    running: Option<(Values, Running)>,
    /// The keys that it holds.
    loaded: Option<Workload>,
    points: Vec<PointReport>,
}

impl Runner<'_> {
    /// Measures one combination, at a rate in an open loop.
    fn point(
        &mut self,
        combination: &Combination,
        rate: Option<f64>,
        bound: Option<Duration>,
    ) -> Result<(), String> {
        if interrupt::is_set() {
            return Err(interrupt::REASON.to_owned());
        }
        let target = self.start(combination)?;
        let mut measure = combination.measure.clone();
        measure.rate = rate;
        let stays = matches!(target, TargetName::Remote(_));
        // An engine in this process is opened anew for each point.
        measure.load &= !stays || self.loaded.as_ref() != Some(&combination.workload);
        let failed = |failure: target::Failure| failure.to_string();
        let mut open = target::open(&target, &combination.workload, &measure).map_err(failed)?;
        let preparation = open.prepare().map_err(failed)?;
        self.loaded = Some(combination.workload.clone());
        let measurement = open.measure();
        open.rest();
        let mut figures = Figures::new(&measurement.map_err(failed)?);
        if figures.partial.is_none() && interrupt::is_set() {
            figures.partial = Some(interrupt::REASON.to_owned());
        }
        let partial = figures.partial.clone();
        self.points.push(PointReport {
            knobs: combination.knobs.clone(),
            target: target.to_string(),
            offered_rate: rate,
            generator_limit: bound.and_then(|it| generator_limit(&figures, it)),
            preparation,
            figures,
        });
        // A search goes on below a rate that was too much.
        match partial {
            Some(why) if bound.is_none() || interrupt::is_set() => Err(why),
            _ => Ok(()),
        }
    }

    /// Searches the knee of one combination.
    fn search(
        &mut self,
        combination: &Combination,
        bound: Duration,
    ) -> (Option<KneeReport>, Result<(), String>) {
        let options = self.plan.options;
        let mut knee = Knee::new(bound, options.knee_start, options.knee_precision);
        let first = self.points.len();
        let mut ended = Ok(());
        while let Some(rate) = knee.next() {
            ended = self.point(combination, Some(rate), Some(bound));
            if ended.is_err() {
                break;
            }
            knee.on_point(knee_point(rate, self.points.last().expect("it was measured")));
        }
        let points = self.points.len() - first;
        let knobs = combination.knobs.clone();
        let report = KneeReport { knobs, points, outcome: knee.outcome() };
        (Some(report).filter(|it| it.points > 0), ended)
    }

    /// The target of a combination, with its servers started.
    fn start(&mut self, combination: &Combination) -> Result<TargetName, String> {
        let Plan { side, options, .. } = self.plan;
        let Combination { knobs, .. } = combination;
        let in_commands = side.command_placeholders();
        let mut values = knobs.clone();
        values.retain(|name, _| in_commands.contains(name));
        if self.running.as_ref().is_none_or(|(running, _)| *running != values) {
            // The one before leaves the machine to the next.
            self.running = None;
            self.loaded = None;
            let started = side.layout(knobs, &options.server).and_then(|it| it.start());
            self.running = Some((values, started.map_err(|error| error.to_string())?));
        }
        let (_, running) = self.running.as_ref().expect("started above");
        let target = side.target_with(running, knobs).map_err(|error| error.to_string())?;
        let is_placed = in_commands.contains("consistency")
            || side.target_placeholders().contains("consistency");
        Ok(match knobs.get("consistency").filter(|_| !is_placed) {
            Some(level) => knob::with_consistency(target, level),
            None => target,
        })
    }

    fn with_obituary(&mut self, why: String) -> String {
        crate::with_obituary(why, self.running.as_mut().map(|it| &mut it.1))
    }
}

/// All combinations, those of the last knob next to each other.
fn combine(knobs: &[Knob]) -> Vec<Values> {
    let mut combined = vec![Values::new()];
    for knob in knobs {
        let with = |before: &Values| {
            let before = before.clone();
            knob.values.iter().map(move |value| {
                let mut values = before.clone();
                values.insert(knob.name.clone(), value.clone());
                values
            })
        };
        combined = combined.iter().flat_map(with).collect();
    }
    combined
}

/// Whether a placeholder of this name stands for a port or a directory.
fn is_taken(name: &str) -> bool {
    ["port", "dir"].iter().any(|kind| {
        name.strip_prefix(kind).is_some_and(|it| it.chars().all(|it| it.is_ascii_digit()))
    })
}

fn knee_point(offered: f64, report: &PointReport) -> Point {
    let figures = &report.figures;
    let errors = &figures.errors;
    Point {
        offered,
        achieved: figures.rate.unwrap_or(0.0),
        seconds: figures.seconds.max(1e-9),
        p99_9_us: figures.latency.as_ref().map(|it| it.p99_9_us),
        failed: errors.error_replies + errors.unanswered.max(errors.lost_connections),
        unsent: errors.unsent,
        partial: figures.partial.clone(),
        generator_limit: report.generator_limit.clone(),
    }
}

/// How the generator was at its limit, if it was.
///
/// A load thread of an open loop polls while it has room for a request, and sleeps while all its
/// connections await replies. So one that is busy all the time and sends a tenth of its requests
/// late by half of what they may take at all is late by its own fault; beside a target that is too
/// slow it would sleep.
fn generator_limit(figures: &Figures, bound: Duration) -> Option<String> {
    let generator = figures.generator.as_ref()?;
    if generator.starved_share > STARVED_SHARE_MAX {
        let percent = generator.starved_share * 100.0;
        return Some(format!("kept from its CPU for {percent:.0} % of the time"));
    }
    let late = figures.send_delay.as_ref()?.p90_us;
    let is_late = late > bound.as_secs_f64() * 1e6 / 2.0;
    (is_late && generator.busy_share > BUSY_SHARE_MAX)
        .then(|| format!("busy all the time, and sent one request in ten {late:.0} us late"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::{Cli, Command};
    use clap::Parser;

    fn options(line: &str) -> SweepOptions {
        let words = ["gridkv-bench", "sweep"].into_iter().chain(line.split_ascii_whitespace());
        match Cli::try_parse_from(words).unwrap_or_else(|error| panic!("{error}")).command {
            Command::Sweep(options) => options,
            _ => unreachable!("the line says sweep"),
        }
    }

    fn refusal(line: &str) -> String {
        Plan::new(&options(line)).err().unwrap_or_else(|| panic!("{line}"))
    }

    #[test]
    fn the_second_knob_varies_within_the_first() {
        let options = options("resp://h:1 --knob pipeline=1,8 --knob threads=1..2+1");
        let plan = Plan::new(&options).unwrap();
        let pairs: Vec<_> =
            plan.combinations.iter().map(|it| (it.measure.pipeline, it.measure.threads)).collect();
        assert_eq!(pairs, [(1, 1), (1, 2), (8, 1), (8, 2)]);
    }

    #[test]
    fn what_cannot_be_swept_is_refused_with_a_reason() {
        for (line, expected) in [
            ("resp://h:1", "nothing to sweep"),
            ("resp://h:1 --knob speed=1", "unknown knob speed"),
            ("resp://h:1 --knob pipeline=1 --knob pipeline=2", "given twice"),
            ("resp://h:1 --knob keys=1 --knob rate=1 --knob threads=1", "more than two knobs"),
            ("resp://h:1 --knob keys=1..20+1 --knob threads=1..20+1", "400 points are more"),
            ("resp://h:1 --knob rate=1 --knee 5ms", "--knee searches the rate"),
            ("resp://h:1 --knob pipeline=0", "--knob pipeline: invalid value '0'"),
            ("in-core --knee 5ms", "in-core has no open loop"),
            ("in-core --knob pipeline=1", "--knob pipeline has no effect on in-core"),
            ("--knob pipeline=1", "nothing to load"),
            ("--cmd x{port} --knob port=1", "stands for what is chosen anew"),
            ("resp://h:1 --key-size 6 --knob keys=1000", "--key-size 6 has digits"),
        ] {
            let refusal = refusal(line);
            assert!(refusal.contains(expected), "{line}: {refusal}");
        }
    }

    #[test]
    fn a_generator_that_is_busy_and_late_or_starved_is_at_its_limit() {
        use crate::record::Recorder;
        use crate::target::{GeneratorCost, Measurement};

        let limit = |busy_share, starved_share, late_ms| {
            let mut recorder = Recorder::default();
            recorder.send_delays.record(Duration::from_millis(late_ms));
            let cpus = std::collections::BTreeSet::new();
            let figures = Figures::new(&Measurement {
                operation_names: Vec::new(),
                timeline: Vec::new(),
                recorder,
                window: Duration::from_secs(1),
                partial: None,
                server: None,
                generator: Some(GeneratorCost { threads: 1, cpus, busy_share, starved_share }),
                engine_cpus: Vec::new(),
                latency_stride: 1,
            });
            generator_limit(&figures, Duration::from_millis(5)).is_some()
        };
        assert!(limit(0.99, 0.0, 3));
        assert!(limit(0.5, 0.06, 0));
        assert!(!limit(0.99, 0.0, 2));
        assert!(!limit(0.9, 0.0, 3));
    }
}
