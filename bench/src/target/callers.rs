//! Threads of this process that call a store in it.

use std::collections::BTreeSet;
use std::thread;
use std::time::{Duration, Instant};

use super::{Failure, GeneratorCost, Measurement, ServerCost, pin, thread_cpu_time};
use crate::options::MeasureOptions;
use crate::pace::Schedule;
use crate::proc::{CpuTime, ServerProcess, thread_cpu_wait};
use crate::progress::{Goal, Progress};
use crate::record::{Answer, Recorder, Sample};
use crate::timeline::{Feed, Timeline};
use crate::workload::{Generator, Operation, Part, Workload};

/// How often the main thread looks whether the callers are done.
const WATCH_INTERVAL: Duration = Duration::from_millis(1);

/// A request that outlives the drawing of the next.
#[derive(Clone, Debug)]
pub struct OwnedRequest {
    /// What to do.
    pub operation: Operation,
    /// The key.
    pub key: Vec<u8>,
    /// The value to write.
    pub value: Vec<u8>,
    /// The keys that a scan reads.
    pub rows: Vec<Vec<u8>>,
    /// How long what it writes lives; for ever without.
    pub time_to_live: Option<Duration>,
    started_at: Instant,
}

/// One thread's way to call a store.
pub trait Calls: Send {
    /// Makes the calls for `requests`, whose keys and values it may take; answers, or refusals in
    /// the store's words, are in their order.
    fn make(&mut self, requests: &mut [OwnedRequest]) -> Vec<Result<Answer, String>>;
}

/// Loads a store with one thread for each of `calls`, as the options say.
///
/// # Errors
///
/// When the threads cannot be pinned to `cpus`.
pub fn call(
    calls: Vec<Box<dyn Calls>>,
    workload: &Workload,
    options: &MeasureOptions,
    cpus: &BTreeSet<usize>,
) -> Result<Measurement, Failure> {
    let thread_count = calls.len();
    let start = Instant::now();
    let measure_at = start + options.warmup;
    let timeline = Timeline::new(measure_at);
    let callers = calls
        .into_iter()
        .enumerate()
        .map(|(thread, calls)| {
            let part = (thread, thread_count);
            Caller::new(calls, workload, options, part, start, timeline.feed())
        })
        .collect();
    let duration = options.requests.is_none().then_some(options.duration);
    let goal = options.requests.map_or(Goal::Duration(options.duration), Goal::Requests);
    let mut progress = Progress::new(goal);
    let (outcomes, cost) =
        run(callers, cpus, measure_at, duration, &mut || progress.tick(&timeline))?;
    drop(progress);
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
    let window = duration.unwrap_or(finished_at - measure_at);
    Ok(Measurement {
        operation_names: workload.operation_names(),
        recorder,
        timeline: timeline.points(window),
        window,
        partial: crate::interrupt::reason(),
        server: cost.map(|(cpu, cpu_wait)| ServerCost {
            process_ids: vec![std::process::id()],
            pinned_cpus: BTreeSet::new(),
            includes_callers: true,
            cpu,
            cpu_wait,
        }),
        generator: Some(GeneratorCost {
            threads: thread_count,
            cpus: cpus.clone(),
            busy_share: busy / wall,
            starved_share: starved / wall,
        }),
        engine_cpus: Vec::new(),
        latency_stride: 1,
    })
}

/// Runs all callers, a thread for each. Returns also what the process cost meanwhile.
fn run(
    callers: Vec<Caller>,
    cpus: &BTreeSet<usize>,
    measure_at: Instant,
    duration: Option<Duration>,
    watch: &mut dyn FnMut(),
) -> Result<(Vec<Outcome>, Option<ProcessCost>), Failure> {
    let process = ServerProcess::this();
    let observe = || Some((process.cpu_time()?, process.cpu_wait()?));
    thread::scope(|scope| {
        let threads: Vec<_> = callers
            .into_iter()
            .map(|caller| scope.spawn(move || pin(cpus).map(|()| caller.run())))
            .collect();
        let mut wait_until = |until: Option<Instant>| {
            let is_over = |now| until.is_some_and(|until| now >= until);
            while !is_over(Instant::now())
                && !threads.iter().all(thread::ScopedJoinHandle::is_finished)
            {
                thread::sleep(WATCH_INTERVAL);
                watch();
            }
        };
        wait_until(Some(measure_at));
        let before = observe();
        wait_until(duration.map(|it| measure_at + it));
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

/// A thread that calls a store.
struct Caller {
    calls: Box<dyn Calls>,
    requests: Generator,
    schedule: Option<Schedule>,
    pipeline: usize,
    measure_at: Instant,
    end_at: Option<Instant>,
    /// Requests to measure.
    left: u64,
    recorder: Recorder,
    batch: Vec<OwnedRequest>,
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
        calls: Box<dyn Calls>,
        workload: &Workload,
        options: &MeasureOptions,
        (thread, thread_count): (usize, usize),
        start: Instant,
        feed: Feed,
    ) -> Self {
        let (stream, count) = (thread as u64, thread_count as u64);
        let measure_at = start + options.warmup;
        let part = Part { index: stream, count, in_flight_max: options.pipeline as u64 };
        Self {
            calls,
            requests: workload.requests(part),
            schedule: options.pace().schedule(start, (thread, thread_count), workload.seed),
            pipeline: options.pipeline,
            measure_at,
            end_at: options.requests.is_none().then(|| measure_at + options.duration),
            left: options
                .requests
                .map_or(u64::MAX, |it| it / count + u64::from(stream < it % count)),
            recorder: Recorder::feeding(feed),
            batch: Vec::with_capacity(options.pipeline),
        }
    }

    fn run(mut self) -> Outcome {
        let (start, cpu, cpu_wait) = (Instant::now(), thread_cpu_time(), thread_cpu_wait());
        let mut now = start;
        while self.left > 0
            && let Some(called_at) = self.draw(now)
        {
            // An open loop's requests begin when they are made, later than intended.
            let answers = self.calls.make(&mut self.batch);
            now = Instant::now();
            for (request, answer) in self.batch.drain(..).zip(answers) {
                if request.started_at < self.measure_at {
                    continue;
                }
                let sample = Sample {
                    ended_at: now,
                    response: now - request.started_at,
                    service: self.schedule.as_ref().map(|_| now - called_at),
                };
                match answer {
                    Ok(answer) => self.recorder.record_sample(request.operation, sample, answer),
                    Err(error) => self.recorder.refuse(request.operation, sample, &error),
                }
            }
        }
        self.count_unsent(now);
        self.recorder.flush();
        Outcome {
            recorder: self.recorder,
            finished_at: now,
            cpu: thread_cpu_time().saturating_sub(cpu),
            cpu_wait: thread_cpu_wait().saturating_sub(cpu_wait),
            wall: now - start,
        }
    }

    /// Draws the requests of the next call, and says when it is made; `None` when it is over.
    fn draw(&mut self, mut now: Instant) -> Option<Instant> {
        let is_over = |at: Instant| self.end_at.is_some_and(|end| at >= end);
        let is_over = |at| is_over(at) || crate::interrupt::is_set();
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
            return (!is_over(now)).then_some(now);
        };
        if is_over(now) || is_over(schedule.next_at()) {
            return None;
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
        Some(now)
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

fn owned(requests: &mut Generator, started_at: Instant) -> OwnedRequest {
    let request = requests.draw();
    OwnedRequest {
        operation: request.operation,
        key: request.key.to_vec(),
        value: request.value.to_vec(),
        rows: request.rows.to_vec(),
        time_to_live: request.time_to_live,
        started_at,
    }
}
