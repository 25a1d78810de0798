//! Servers that speak RESP, or the text protocol of memcached.

mod address;
mod connection;
mod driver;
mod encode;
mod memcached;
mod probe;
mod tls;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::{
    Failure, GeneratorCost, Idle, LoadMemory, Loading, Measurement, Preparation, ServerCost,
    Target, pin,
};
use crate::interrupt;
use crate::options::MeasureOptions;
use crate::pace::Schedule;
use crate::proc::{CpuTime, ServerProcess, online_cpus};
use crate::progress::{Goal, Progress};
use crate::record::Recorder;
use crate::timeline::{Feed, Timeline, TimelinePoint};
use crate::workload::{CommandTemplate, Generator, Part, Workload};
use address::{Address, Protocol};
use connection::Connection;
use driver::{Driver, End, Outcome, Plan};
use probe::Probe;

/// Requests on their way at once on each connection of the load phase.
const LOADING_PIPELINE: usize = 64;

/// How often the main thread looks whether the load threads are done.
const WATCH_INTERVAL: Duration = Duration::from_millis(5);

/// Servers at an address.
pub struct RemoteTarget {
    address: Arc<Address>,
    workload: Workload,
    options: MeasureOptions,
    server: Option<ServerProcess>,
    client_cpus: BTreeSet<usize>,
    idle: Vec<Probe>,
    on_tick: RefCell<Option<OnTick>>,
}

/// What is called every few milliseconds of a measurement, with the time since its begin.
pub type OnTick = Box<dyn FnMut(Duration)>;

/// One round of all load threads.
struct Round {
    recorder: Recorder,
    timeline: Vec<TimelinePoint>,
    window: Duration,
    failure: Option<Failure>,
    /// Of the server, within the window: CPU time, and waits for a CPU.
    server: Option<(CpuTime, Duration)>,
    busy_share: f64,
    starved_share: f64,
}

/// What the load threads of a round do.
#[derive(Clone, Copy)]
struct Task {
    warmup: Duration,
    /// `None` for a number of requests.
    duration: Option<Duration>,
    goal: Goal,
}

impl RemoteTarget {
    /// The servers at an address as `bench/src/target/remote/address.rs` describes it; one of them must answer.
    ///
    /// # Errors
    ///
    /// When none does, or the address or the workload is not for them.
    pub fn open(url: &str, workload: Workload, options: MeasureOptions) -> Result<Self, Failure> {
        let address = Arc::new(Address::parse(url)?);
        check(&address, &workload)?;
        let answers = (0..address.endpoints.len()).map(|it| Probe::open(&address, it));
        // A member of a cluster may be away; if all are, the first says why.
        let mut failures = Vec::new();
        for answer in answers {
            failures.extend(answer.err());
        }
        if failures.len() == address.endpoints.len() {
            return Err(failures.swap_remove(0));
        }
        let all =
            address.endpoints.iter().map(|it| it.address).chain(address.peers.iter().copied());
        let mut processes = all.map(ServerProcess::find);
        // Without the time of one there is none of the whole.
        let first = processes.next().flatten();
        let server = processes.fold(first, |all, one| Some(all?.with(one?)));
        let client_cpus = match &options.client_cpus {
            Some(list) => list.0.clone(),
            None => server.as_ref().map(free_cpus).unwrap_or_default(),
        };
        Ok(Self {
            address,
            workload,
            options,
            server,
            client_cpus,
            idle: Vec::new(),
            on_tick: RefCell::new(None),
        })
    }

    /// Calls `on_tick` every few milliseconds while something is measured.
    pub fn on_tick(&mut self, on_tick: OnTick) {
        self.on_tick = RefCell::new(Some(on_tick));
    }

    fn load(&self) -> Result<Loading, Failure> {
        let resident = || self.server.as_ref().and_then(ServerProcess::resident_bytes);
        let was_empty = self.is_empty();
        let before = resident();
        let thread_count = self.options.threads as u64;
        let goal = Goal::Loading(self.workload.key_count);
        let task = Task { warmup: Duration::ZERO, duration: None, goal };
        let round = self.run_threads(task, |thread, _, _| {
            let keys = self.workload.loading_range(thread as u64, thread_count);
            let end = End::After(keys.end - keys.start);
            (self.workload.loading(keys), None, end, LOADING_PIPELINE)
        })?;
        if let Some(failure) = round.failure {
            return Err(failure);
        }
        let (keys, errors) = (self.workload.key_count, round.recorder.errors);
        if round.recorder.completed < keys {
            return Err(Failure::Loading {
                target: self.address.name(),
                refused: keys - round.recorder.completed,
                keys,
                first: errors.first_error_reply.unwrap_or_else(|| "connection lost".to_owned()),
            });
        }
        let memory = before.zip(resident()).filter(|_| self.options.report_rss);
        let seconds = round.window.as_secs_f64();
        Ok(Loading {
            keys,
            seconds,
            rate: keys as f64 / seconds,
            errors,
            growth: None,
            memory: memory
                .map(|(before, after)| LoadMemory::new(before, after, &self.workload, was_empty)),
        })
    }

    /// Whether it holds no key; `None` when it does not say.
    fn is_empty(&self) -> Option<bool> {
        Probe::open(&self.address, 0).ok()?.is_empty()
    }

    fn open_idle(&mut self, count: usize) -> Result<Idle, Failure> {
        let resident = || self.server.as_ref().and_then(ServerProcess::resident_bytes);
        let before = resident();
        allow_open_files();
        for _ in 0..count {
            let endpoint = self.idle.len() % self.address.endpoints.len();
            self.idle.push(Probe::open(&self.address, endpoint)?);
        }
        let after = resident();
        let growth = before.zip(after).map(|(before, after)| after as f64 - before as f64);
        Ok(Idle {
            connections: count,
            resident_bytes_before: before,
            resident_bytes_after: after,
            bytes_per_connection: growth.filter(|_| count > 0).map(|it| it / count as f64),
        })
    }

    fn connect_all(&self) -> Result<Vec<Vec<Connection>>, Failure> {
        allow_open_files();
        let (threads, connections) = (self.options.threads, self.options.connections);
        let commands = self.workload.commands.clone().into();
        // No thread without a connection.
        let count = connections.max(threads);
        let mut all: Vec<Vec<Connection>> = (0..threads).map(|_| Vec::new()).collect();
        for index in 0..count {
            all[index % threads].push(self.connect(&commands, index)?);
        }
        Ok(all)
    }

    /// A connection to the server of `index`, or to the next one that can be reached.
    fn connect(
        &self,
        commands: &Arc<[CommandTemplate]>,
        index: usize,
    ) -> Result<Connection, Failure> {
        let server_count = self.address.endpoints.len();
        let mut failure = None;
        for attempt in 0..server_count {
            let endpoint = (index + attempt) % server_count;
            match Connection::open(&self.address, commands, endpoint) {
                Ok(connection) => return Ok(connection),
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        let source = failure.expect("an address has a server");
        Err(Failure::Connect { target: self.address.name(), source })
    }

    fn tick(&self, task: Task, measure_at: Instant) {
        let is_measured = !matches!(task.goal, Goal::Loading(_));
        if let Some(elapsed) = Instant::now().checked_duration_since(measure_at)
            && is_measured
            && let Some(on_tick) = &mut *self.on_tick.borrow_mut()
        {
            on_tick(elapsed);
        }
    }

    /// One load thread's plan.
    fn plan(
        &self,
        connections: Vec<Connection>,
        (requests, schedule, end, pipeline): (Generator, Option<Schedule>, End, usize),
        measure_at: Instant,
        feed: Feed,
    ) -> Plan {
        Plan {
            address: Arc::clone(&self.address),
            commands: self.workload.commands.clone().into(),
            connections,
            pipeline,
            schedule,
            requests,
            measure_at,
            end,
            reply_timeout: self.options.reply_timeout,
            request_timeout: self.options.request_timeout,
            reconnect_for: self.options.reconnect_for,
            recorder: Recorder::feeding(feed),
        }
    }

    /// Runs all load threads: warm-up, then until the duration is over or each has sent its number.
    /// `plan` says for a thread what to send, when, how much, and in batches of which size, given
    /// the start of the round and the end of warm-up.
    fn run_threads(
        &self,
        task: Task,
        plan: impl Fn(usize, Instant, Instant) -> (Generator, Option<Schedule>, End, usize),
    ) -> Result<Round, Failure> {
        let connections = self.connect_all()?;
        let stop = AtomicBool::new(false);
        let start = Instant::now();
        let measure_at = start + task.warmup;
        let timeline = Timeline::new(measure_at);
        let drivers = connections
            .into_iter()
            .enumerate()
            .map(|(thread, connections)| {
                let plan = plan(thread, start, measure_at);
                let plan = self.plan(connections, plan, measure_at, timeline.feed());
                Driver::new(plan, &stop)
            })
            .collect::<Result<Vec<_>, Failure>>()?;
        let mut progress = Progress::new(task.goal);
        let (outcomes, server) = thread::scope(|scope| {
            let cpus = &self.client_cpus;
            let pinned_to = |driver: Driver<'_>| {
                pin(cpus)?;
                Ok(driver.run())
            };
            let threads: Vec<_> =
                drivers.into_iter().map(|it| scope.spawn(move || pinned_to(it))).collect();
            let observe = || {
                let server = self.server.as_ref()?;
                Some((server.cpu_time()?, server.cpu_wait()?))
            };
            let mut wait_until = |until: Option<Instant>| {
                let is_over = |now| until.is_some_and(|until| now >= until);
                while !is_over(Instant::now())
                    && !stop.load(Ordering::Relaxed)
                    && !threads.iter().all(thread::ScopedJoinHandle::is_finished)
                {
                    thread::sleep(WATCH_INTERVAL);
                    progress.tick(&timeline);
                    self.tick(task, measure_at);
                    if interrupt::is_set() {
                        stop.store(true, Ordering::Relaxed);
                    }
                }
            };
            wait_until(Some(measure_at));
            let before = observe();
            wait_until(task.duration.map(|it| measure_at + it));
            let server = observe()
                .zip(before)
                .map(|(after, before)| (after.0.since(before.0), after.1.saturating_sub(before.1)));
            let outcomes: Result<Vec<Outcome>, Failure> = threads
                .into_iter()
                .map(|it| it.join().expect("a load thread does not panic"))
                .collect();
            outcomes.map(|it| (it, server))
        })?;
        drop(progress);
        let duration = task.duration.filter(|_| !interrupt::is_set());
        let mut round = Round::new(outcomes, measure_at, duration, server);
        round.timeline = timeline.points(round.window);
        Ok(round)
    }
}

impl Round {
    fn new(
        outcomes: Vec<Outcome>,
        measure_at: Instant,
        duration: Option<Duration>,
        server: Option<(CpuTime, Duration)>,
    ) -> Self {
        let mut recorder = Recorder::default();
        let mut failure = None;
        let (mut busy, mut starved, mut wall) = (0.0, 0.0, f64::MIN_POSITIVE);
        let mut finished_at = measure_at;
        for outcome in outcomes {
            recorder.add(&outcome.recorder);
            failure = failure.or(outcome.failure);
            busy += outcome.cpu.as_secs_f64();
            starved += outcome.cpu_wait.as_secs_f64();
            wall += outcome.wall.as_secs_f64();
            finished_at = finished_at.max(outcome.finished_at);
        }
        let measured = finished_at - measure_at;
        let window = match duration {
            Some(duration) if failure.is_none() => duration,
            Some(duration) => measured.min(duration),
            None => measured,
        };
        let (busy_share, starved_share) = (busy / wall, starved / wall);
        let timeline = Vec::new();
        Self { recorder, timeline, window, failure, server, busy_share, starved_share }
    }
}

impl Target for RemoteTarget {
    fn prepare(&mut self) -> Result<Preparation, Failure> {
        let loading = if self.options.load { Some(self.load()?) } else { None };
        let idle_connections = match self.options.idle_connections {
            Some(count) => Some(self.open_idle(count)?),
            None => None,
        };
        Ok(Preparation { loading, idle_connections })
    }

    fn measure(&mut self) -> Result<Measurement, Failure> {
        let options = &self.options;
        let duration = options.requests.is_none().then_some(options.duration);
        let goal = options.requests.map_or(Goal::Duration(options.duration), Goal::Requests);
        let task = Task { warmup: options.warmup, duration, goal };
        let round = self.run_threads(task, |thread, start, measure_at| {
            let (stream, thread_count) = (thread as u64, options.threads as u64);
            let part = (thread, options.threads);
            let schedule = options.pace().schedule(start, part, self.workload.seed);
            let end = match options.requests {
                Some(count) => {
                    End::After(count / thread_count + u64::from(stream < count % thread_count))
                }
                None => End::At(measure_at + options.duration),
            };
            let share = options.connections.max(options.threads).div_ceil(options.threads);
            let in_flight_max = (share * options.pipeline) as u64;
            let part = Part { index: stream, count: thread_count, in_flight_max };
            (self.workload.requests(part), schedule, end, options.pipeline)
        })?;
        let server =
            self.server.as_ref().zip(round.server).map(|(server, (cpu, cpu_wait))| ServerCost {
                includes_callers: false,
                process_ids: server.process_ids().to_vec(),
                pinned_cpus: server.pinned_cpus(),
                cpu,
                cpu_wait,
            });
        Ok(Measurement {
            operation_names: self.workload.operation_names(),
            recorder: round.recorder,
            timeline: round.timeline,
            window: round.window,
            partial: round.failure.map(|it| it.to_string()).or_else(interrupt::reason),
            server,
            generator: Some(GeneratorCost {
                threads: options.threads,
                cpus: self.client_cpus.clone(),
                busy_share: round.busy_share,
                starved_share: round.starved_share,
            }),
            engine_cpus: Vec::new(),
            latency_stride: 1,
        })
    }
}

/// Whether the servers can be asked what the workload asks.
fn check(address: &Address, workload: &Workload) -> Result<(), Failure> {
    let unfit = |why: String| Err(Failure::Unfit { target: address.name(), why });
    if address.protocol == Protocol::Resp {
        return Ok(());
    }
    let refused = workload.mix.parts().iter().find_map(|it| memcached::refusal(it.0));
    if let Some(why) = refused {
        return unfit(why.to_owned());
    }
    let key_bytes = workload.key_sizes.max();
    if key_bytes > memcached::KEY_BYTES_MAX {
        return unfit(format!("keys have at most {} B there", memcached::KEY_BYTES_MAX));
    }
    Ok(())
}

/// CPUs that no thread of `server` is pinned to; none when it is pinned nowhere, or everywhere.
fn free_cpus(server: &ServerProcess) -> BTreeSet<usize> {
    let pinned = server.pinned_cpus();
    if pinned.is_empty() { BTreeSet::new() } else { &online_cpus() - &pinned }
}

/// Raises the limit of open files as far as it goes. Where that is too low, the connection that
/// fails says so.
fn allow_open_files() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    let _ = setrlimit(Resource::Nofile, raised);
}

#[cfg(test)]
mod tests;
