//! Any server that speaks RESP.

mod connection;
mod driver;
mod manner;

use std::collections::BTreeSet;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::{
    Failure, GeneratorCost, Idle, LoadMemory, Loading, Measurement, Preparation, ServerCost,
    Target, pin,
};
use crate::options::MeasureOptions;
use crate::pace::{Pace, Schedule};
use crate::proc::{CpuTime, ServerProcess, online_cpus};
use crate::record::Recorder;
use crate::workload::{Generator, Workload, stream_rng};
use connection::Connection;
use driver::{Driver, End, Outcome, Plan};
use manner::Manner;

/// Requests on their way at once on each connection of the load phase.
const LOADING_PIPELINE: usize = 64;

/// How often the main thread looks whether the load threads are done.
const WATCH_INTERVAL: Duration = Duration::from_millis(5);

/// Streams of randomness for schedules, apart from those for requests.
const SCHEDULE_STREAMS: u64 = 1 << 32;

/// A server at an address.
pub struct RespTarget {
    address: SocketAddr,
    manner: Manner,
    workload: Workload,
    options: MeasureOptions,
    server: Option<ServerProcess>,
    client_cpus: BTreeSet<usize>,
    idle: Vec<TcpStream>,
}

/// One round of all load threads.
struct Round {
    recorder: Recorder,
    window: Duration,
    failure: Option<Failure>,
    /// Of the server, within the window: CPU time, and waits for a CPU.
    server: Option<(CpuTime, Duration)>,
    busy_share: f64,
    starved_share: f64,
}

impl RespTarget {
    /// The server at `host:port`, with options behind a `?`; it must accept connections.
    ///
    /// # Errors
    ///
    /// When it does not.
    pub fn open(
        host_and_port: &str,
        workload: Workload,
        options: MeasureOptions,
    ) -> Result<Self, Failure> {
        let (address, manner) = manner::parse(host_and_port)?;
        drop(connect(address)?);
        let peers = manner.peers.iter().map(|peer| ServerProcess::find(*peer));
        // Without the time of a peer there is none of the whole.
        let server = peers.fold(ServerProcess::find(address), |all, peer| Some(all?.with(peer?)));
        let client_cpus = match &options.client_cpus {
            Some(list) => list.0.clone(),
            None => server.as_ref().map(free_cpus).unwrap_or_default(),
        };
        Ok(Self { address, manner, workload, options, server, client_cpus, idle: Vec::new() })
    }

    fn load(&self) -> Result<Loading, Failure> {
        let resident = || self.server.as_ref().and_then(ServerProcess::resident_bytes);
        let was_empty = self.is_empty();
        let before = resident();
        let thread_count = self.options.threads as u64;
        let round = self.run_threads(Duration::ZERO, None, |thread, _, _| {
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
                target: self.address.to_string(),
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
        let mut stream = connect(self.address).ok()?;
        stream.set_read_timeout(Some(self.options.reply_timeout)).ok()?;
        stream.write_all(b"DBSIZE\r\n").ok()?;
        let mut reply = [0; 4];
        stream.read_exact(&mut reply).ok()?;
        (reply[0] == b':').then_some(&reply == b":0\r\n")
    }

    fn open_idle(&mut self, count: usize) -> Result<Idle, Failure> {
        let resident = || self.server.as_ref().and_then(ServerProcess::resident_bytes);
        let before = resident();
        allow_open_files();
        for _ in 0..count {
            let mut stream = connect(self.address)?;
            ping(&mut stream, self.options.reply_timeout).map_err(|source| Failure::Connect {
                target: format!("{} ({} idle connections)", self.address, self.idle.len()),
                source,
            })?;
            self.idle.push(stream);
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
        // No thread without a connection.
        let count = connections.max(threads);
        let mut all: Vec<Vec<Connection>> = (0..threads).map(|_| Vec::new()).collect();
        for index in 0..count {
            let connection = Connection::open(self.address, &self.manner)
                .map_err(|source| Failure::Connect { target: self.address.to_string(), source })?;
            all[index % threads].push(connection);
        }
        Ok(all)
    }

    /// Runs all load threads: `warmup`, then until `duration` is over or each has sent its number.
    /// `plan` says for a thread what to send, when, how much, and in batches of which size, given
    /// the start of the round and the end of warm-up.
    fn run_threads(
        &self,
        warmup: Duration,
        duration: Option<Duration>,
        plan: impl Fn(usize, Instant, Instant) -> (Generator, Option<Schedule>, End, usize),
    ) -> Result<Round, Failure> {
        let connections = self.connect_all()?;
        let stop = AtomicBool::new(false);
        let start = Instant::now();
        let measure_at = start + warmup;
        let mut drivers = Vec::with_capacity(connections.len());
        for (thread, connections) in connections.into_iter().enumerate() {
            let (requests, schedule, end, pipeline) = plan(thread, start, measure_at);
            let (address, reply_timeout) = (self.address, self.options.reply_timeout);
            let plan = Plan {
                address,
                manner: self.manner.clone(),
                connections,
                pipeline,
                schedule,
                requests,
                measure_at,
                end,
                reply_timeout,
            };
            drivers.push(Driver::new(plan, &stop)?);
        }
        let (outcomes, server) = thread::scope(|scope| {
            let pinned_to = |driver: Driver<'_>| {
                pin(&self.client_cpus)?;
                Ok(driver.run())
            };
            let threads: Vec<_> =
                drivers.into_iter().map(|it| scope.spawn(move || pinned_to(it))).collect();
            let observe = || {
                let server = self.server.as_ref()?;
                Some((server.cpu_time()?, server.cpu_wait()?))
            };
            let wait_until = |until: Option<Instant>| {
                let is_over = |now| until.is_some_and(|until| now >= until);
                while !is_over(Instant::now())
                    && !stop.load(Ordering::Relaxed)
                    && !threads.iter().all(thread::ScopedJoinHandle::is_finished)
                {
                    thread::sleep(WATCH_INTERVAL);
                }
            };
            wait_until(Some(measure_at));
            let before = observe();
            wait_until(duration.map(|it| measure_at + it));
            let server = observe()
                .zip(before)
                .map(|(after, before)| (after.0.since(before.0), after.1.saturating_sub(before.1)));
            let outcomes: Result<Vec<Outcome>, Failure> = threads
                .into_iter()
                .map(|it| it.join().expect("a load thread does not panic"))
                .collect();
            outcomes.map(|it| (it, server))
        })?;
        Ok(Round::new(outcomes, measure_at, duration, server))
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
        Self { recorder, window, failure, server, busy_share, starved_share }
    }
}

impl Target for RespTarget {
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
        let round = self.run_threads(options.warmup, duration, |thread, start, measure_at| {
            let (stream, thread_count) = (thread as u64, options.threads as u64);
            let schedule = match options.pace() {
                Pace::Closed => None,
                Pace::Open { rate, arrivals } => {
                    let rng = stream_rng(self.workload.seed, SCHEDULE_STREAMS + stream);
                    Some(Schedule::new(start, rate, arrivals, (thread, options.threads), rng))
                }
            };
            let end = match options.requests {
                Some(count) => {
                    End::After(count / thread_count + u64::from(stream < count % thread_count))
                }
                None => End::At(measure_at + options.duration),
            };
            (self.workload.requests(stream), schedule, end, options.pipeline)
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
            recorder: round.recorder,
            window: round.window,
            partial: round.failure.map(|it| it.to_string()),
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

fn connect(address: SocketAddr) -> Result<TcpStream, Failure> {
    TcpStream::connect_timeout(&address, Duration::from_secs(2))
        .map_err(|source| Failure::Connect { target: address.to_string(), source })
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

/// Makes sure that the server has accepted a connection.
fn ping(stream: &mut TcpStream, timeout: Duration) -> io::Result<()> {
    stream.set_read_timeout(Some(timeout))?;
    stream.write_all(b"PING\r\n")?;
    let mut reply = [0; 7];
    stream.read_exact(&mut reply)?;
    if &reply == b"+PONG\r\n" {
        return Ok(());
    }
    Err(io::Error::other(format!("answered {:?}", String::from_utf8_lossy(&reply))))
}

#[cfg(test)]
mod tests;
