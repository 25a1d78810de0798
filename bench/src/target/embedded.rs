//! The engine from outside of its cores: threads of the process that call its API.

use std::collections::BTreeSet;
use std::thread;
use std::time::{Duration, Instant};

use futures_lite::future::block_on;
use futures_util::future::join_all;
use gridkv::{BatchResult, Blocking, Error, Handle};

use super::engine::EngineSlot;
use super::{
    Failure, GeneratorCost, Measurement, Preparation, ServerCost, Target, pin, thread_cpu_time,
};
use crate::options::{CallStyle, MeasureOptions};
use crate::pace::{Pace, Schedule};
use crate::proc::{CpuTime, ServerProcess, online_cpus, thread_cpu_wait};
use crate::record::{Answer, Recorder};
use crate::workload::{Generator, Operation, Workload, stream_rng};

/// Streams of randomness for schedules, apart from those for requests.
const SCHEDULE_STREAMS: u64 = 1 << 32;

/// How often the main thread looks whether the callers are done.
const WATCH_INTERVAL: Duration = Duration::from_millis(1);

/// The target `embedded`.
pub struct EmbeddedTarget {
    slot: EngineSlot,
}

impl EmbeddedTarget {
    /// An engine to be opened by [`Target::prepare`].
    #[must_use]
    pub fn new(workload: Workload, options: MeasureOptions) -> Self {
        Self { slot: EngineSlot::new(workload, options) }
    }
}

impl Target for EmbeddedTarget {
    fn prepare(&mut self) -> Result<Preparation, Failure> {
        self.slot.prepare()
    }

    fn measure(&mut self) -> Result<Measurement, Failure> {
        let (workload, options) = (self.slot.workload.clone(), self.slot.options.clone());
        let engine = self.slot.engine()?;
        let cpus = match &options.client_cpus {
            Some(list) => list.0.clone(),
            None => &online_cpus() - &engine.cpus().iter().copied().collect::<BTreeSet<_>>(),
        };
        let start = Instant::now();
        let measure_at = start + options.warmup;
        let callers = (0..options.threads)
            .map(|thread| Caller::new(&workload, &options, &engine.handle, thread, start))
            .collect();
        let duration = options.requests.is_none().then_some(options.duration);
        let (outcomes, cost) = run(callers, &cpus, measure_at, duration)?;
        let mut recorder = Recorder::default();
        let mut finished_at = measure_at;
        let (mut busy, mut starved, mut wall) = (0.0, 0.0, f64::MIN_POSITIVE);
        for outcome in outcomes {
            recorder.add(&outcome.recorder);
            finished_at = finished_at.max(outcome.finished_at);
            busy += outcome.cpu.as_secs_f64();
            starved += outcome.cpu_wait.as_secs_f64();
            wall += outcome.wall.as_secs_f64();
        }
        Ok(Measurement {
            recorder,
            window: duration.unwrap_or(finished_at - measure_at),
            partial: None,
            server: cost.map(|(cpu, cpu_wait)| ServerCost {
                process_ids: vec![std::process::id()],
                pinned_cpus: engine.cpus().iter().copied().collect(),
                includes_callers: true,
                cpu,
                cpu_wait,
            }),
            generator: Some(GeneratorCost {
                threads: options.threads,
                cpus,
                busy_share: busy / wall,
                starved_share: starved / wall,
            }),
            engine_cpus: engine.cpus().to_vec(),
            latency_stride: 1,
        })
    }

    fn rest(&mut self) {
        self.slot.rest();
    }
}

/// Runs all callers, a thread for each. Returns also what the process cost meanwhile.
fn run(
    callers: Vec<Caller>,
    cpus: &BTreeSet<usize>,
    measure_at: Instant,
    duration: Option<Duration>,
) -> Result<(Vec<Outcome>, Option<ProcessCost>), Failure> {
    let process = ServerProcess::this();
    let observe = || Some((process.cpu_time()?, process.cpu_wait()?));
    let sleep_until = |at: Instant| thread::sleep(at.saturating_duration_since(Instant::now()));
    thread::scope(|scope| {
        let threads: Vec<_> = callers
            .into_iter()
            .map(|caller| scope.spawn(move || pin(cpus).map(|()| caller.run())))
            .collect();
        sleep_until(measure_at);
        let before = observe();
        match duration {
            Some(duration) => sleep_until(measure_at + duration),
            None => {
                while !threads.iter().all(thread::ScopedJoinHandle::is_finished) {
                    thread::sleep(WATCH_INTERVAL);
                }
            }
        }
        let cost = observe()
            .zip(before)
            .map(|(after, before)| (after.0.since(before.0), after.1.saturating_sub(before.1)));
        let outcomes: Result<Vec<Outcome>, Failure> =
            threads.into_iter().map(|it| it.join().expect("a caller does not panic")).collect();
        outcomes.map(|it| (it, cost))
    })
}

/// CPU time, and waits for a CPU.
type ProcessCost = (CpuTime, Duration);

/// A thread that calls the engine.
struct Caller {
    calls: Calls,
    requests: Generator,
    schedule: Option<Schedule>,
    pipeline: usize,
    measure_at: Instant,
    end_at: Option<Instant>,
    /// Requests to measure.
    left: u64,
    recorder: Recorder,
    batch: Vec<Owned>,
}

/// A request that outlives the drawing of the next.
struct Owned {
    operation: Operation,
    key: Vec<u8>,
    value: Vec<u8>,
    started_at: Instant,
}

struct Outcome {
    recorder: Recorder,
    finished_at: Instant,
    cpu: Duration,
    cpu_wait: Duration,
    wall: Duration,
}

impl Caller {
    fn new(
        workload: &Workload,
        options: &MeasureOptions,
        handle: &Handle,
        thread: usize,
        start: Instant,
    ) -> Self {
        let (stream, count) = (thread as u64, options.threads as u64);
        let measure_at = start + options.warmup;
        let (handle, blocking) = (handle.clone(), handle.blocking());
        Self {
            calls: Calls { style: options.engine.calls, handle, blocking },
            requests: workload.requests(stream),
            schedule: match options.pace() {
                Pace::Closed => None,
                Pace::Open { rate, arrivals } => {
                    let rng = stream_rng(workload.seed, SCHEDULE_STREAMS + stream);
                    let part = (thread, options.threads);
                    Some(Schedule::new(start, rate, arrivals, part, rng))
                }
            },
            pipeline: options.pipeline,
            measure_at,
            end_at: options.requests.is_none().then(|| measure_at + options.duration),
            left: options
                .requests
                .map_or(u64::MAX, |it| it / count + u64::from(stream < it % count)),
            recorder: Recorder::default(),
            batch: Vec::with_capacity(options.pipeline),
        }
    }

    fn run(mut self) -> Outcome {
        let (start, cpu, cpu_wait) = (Instant::now(), thread_cpu_time(), thread_cpu_wait());
        let mut now = start;
        while self.left > 0 && self.draw(now) {
            let answers = self.calls.make(&mut self.batch);
            now = Instant::now();
            for (request, answer) in self.batch.drain(..).zip(answers) {
                if request.started_at < self.measure_at {
                    continue;
                }
                let latency = now - request.started_at;
                match answer {
                    Ok(answer) => self.recorder.record(request.operation, latency, answer),
                    Err(error) => self.recorder.refuse(request.operation, latency, &error),
                }
            }
        }
        self.count_unsent(now);
        Outcome {
            recorder: self.recorder,
            finished_at: now,
            cpu: thread_cpu_time().saturating_sub(cpu),
            cpu_wait: thread_cpu_wait().saturating_sub(cpu_wait),
            wall: now - start,
        }
    }

    /// Draws the requests of the next call; `false` when it is over.
    fn draw(&mut self, mut now: Instant) -> bool {
        let is_over = |at: Instant| self.end_at.is_some_and(|end| at >= end);
        let count = usize::try_from(self.left).unwrap_or(usize::MAX).min(self.pipeline);
        let Some(schedule) = &mut self.schedule else {
            for _ in 0..count {
                self.batch.push(owned(&mut self.requests, now));
            }
            // The clock is read when all are drawn: drawing is no latency.
            now = Instant::now();
            self.batch.iter_mut().for_each(|it| it.started_at = now);
            if now >= self.measure_at {
                self.left -= count as u64;
            }
            return !is_over(now);
        };
        if is_over(now) || is_over(schedule.next_at()) {
            return false;
        }
        while now < schedule.next_at() {
            std::hint::spin_loop();
            now = Instant::now();
        }
        while self.batch.len() < count && schedule.next_at() <= now {
            let intended_at = schedule.next_at();
            self.batch.push(owned(&mut self.requests, intended_at));
            schedule.advance();
            if intended_at >= self.measure_at {
                self.left -= 1;
                self.recorder.send_delays.record(now - intended_at);
            }
        }
        true
    }

    /// Counts what was due and not sent, with the wait so far.
    fn count_unsent(&mut self, now: Instant) {
        let Some(schedule) = &mut self.schedule else { return };
        let end = self.end_at.unwrap_or(now).min(now);
        while self.left > 0 && schedule.next_at() < end {
            if schedule.next_at() >= self.measure_at {
                self.recorder.record_unsent(now - schedule.next_at());
                self.left -= 1;
            }
            schedule.advance();
        }
    }
}

fn owned(requests: &mut Generator, started_at: Instant) -> Owned {
    let request = requests.draw();
    Owned {
        operation: request.operation,
        key: request.key.to_vec(),
        value: request.value.to_vec(),
        started_at,
    }
}

/// How requests become calls.
struct Calls {
    style: CallStyle,
    handle: Handle,
    blocking: Blocking,
}

impl Calls {
    /// Makes the calls for `requests`, whose values it takes; answers are in their order.
    fn make(&self, requests: &mut [Owned]) -> Vec<Result<Answer, Error>> {
        match self.style {
            CallStyle::Blocking => requests
                .iter_mut()
                .map(|it| match it.operation {
                    Operation::Get => self.blocking.get(&it.key).map(found),
                    Operation::Set => {
                        let value = std::mem::take(&mut it.value);
                        self.blocking.set(&it.key, value).map(|()| Answer::Done)
                    }
                })
                .collect(),
            CallStyle::Async => {
                block_on(join_all(requests.iter_mut().map(async |it| match it.operation {
                    Operation::Get => self.handle.get(&it.key).await.map(found),
                    Operation::Set => {
                        let value = std::mem::take(&mut it.value);
                        self.handle.set(&it.key, value).await.map(|()| Answer::Done)
                    }
                })))
            }
            CallStyle::Batch => {
                let batch = requests.iter_mut().fold(self.handle.batch(), |batch, it| {
                    let key = std::mem::take(&mut it.key);
                    match it.operation {
                        Operation::Get => batch.get(key),
                        Operation::Set => batch.set(key, std::mem::take(&mut it.value)),
                    }
                });
                let answer = |result| match result {
                    BatchResult::Value(value) => found(value),
                    _ => Answer::Done,
                };
                batch.run_blocking().into_iter().map(|it| it.map(answer)).collect()
            }
        }
    }
}

fn found(value: Option<Vec<u8>>) -> Answer {
    if value.is_some() { Answer::Done } else { Answer::Missing }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::parse_measure;

    fn measure(line: &str) -> Measurement {
        let options = parse_measure("embedded", line);
        let mut target = EmbeddedTarget::new(options.workload.workload().unwrap(), options);
        target.prepare().unwrap();
        target.measure().unwrap()
    }

    #[test]
    fn every_request_is_answered_in_each_style_of_calls() {
        for line in [
            "-n 501 --threads 2",
            "-n 2003 --calls async -P 16",
            "-n 2003 --calls batch -P 16",
            "-n 503 --calls async -P 8 --rate 100000",
        ] {
            let measurement = measure(&format!("{line} --keys 100 --load --warmup 5ms"));
            let count: u64 = line.split(' ').nth(1).unwrap().parse().unwrap();
            assert_eq!(measurement.recorder.completed, count, "{line}");
            assert_eq!(measurement.recorder.all().count(), count);
            assert_eq!(measurement.recorder.missing, 0);
            assert!(measurement.window > Duration::ZERO);
        }
    }

    #[test]
    fn keys_that_were_not_loaded_are_missing() {
        let recorder = measure("-n 100 --keys 100 --reads 1 --warmup 0s").recorder;
        assert_eq!((recorder.completed, recorder.missing), (100, 100));
    }
}
