//! One load thread: an epoll over its connections.
//!
//! In a closed loop a connection gets a batch of requests when all replies to the one before are
//! there. In an open loop a request goes, when it is due, to the connection that has had room for
//! the longest. Requests that are due and find no room wait; their latency runs.
//!
//! # Invariants
//!
//! - A request counts when it was meant to start within the window, however late its reply.
//! - The clock is read after what it times: once the batch is encoded, once the replies have been
//!   read.
//!
//! # Why an open loop does not sleep
//!
//! A thread that sleeps until the next start wakes tens of microseconds late, and that would count
//! as latency of the target. So it polls whenever the next start is near.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use gridkv_net::resp::ReplyKind;
use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::Errno;

use super::connection::{Connection, Received};
use super::manner::Manner;
use crate::pace::Schedule;
use crate::proc::thread_cpu_wait;
use crate::record::{Answer, Recorder};
use crate::target::{Failure, thread_cpu_time};
use crate::workload::Generator;

/// How long an open loop goes on sending what was due by the end.
const BACKLOG_DRAIN_MAX: Duration = Duration::from_secs(1);

/// The longest sleep: how soon a thread sees that another failed.
const TICK: Duration = Duration::from_millis(20);

/// An open loop sleeps only when the next start is further away than this, and wakes that early.
const POLL_BEFORE_START: Duration = Duration::from_millis(2);

const EVENTS_MAX: usize = 1024;

/// When measuring ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    At(Instant),
    After(u64),
}

/// What one thread is to do.
pub(super) struct Plan {
    pub(super) address: SocketAddr,
    pub(super) manner: Manner,
    pub(super) connections: Vec<Connection>,
    pub(super) pipeline: usize,
    /// `None` for a closed loop.
    pub(super) schedule: Option<Schedule>,
    pub(super) requests: Generator,
    pub(super) measure_at: Instant,
    pub(super) end: End,
    pub(super) reply_timeout: Duration,
}

/// What came of it.
pub(super) struct Outcome {
    pub(super) recorder: Recorder,
    pub(super) failure: Option<Failure>,
    /// The last reply to a measured request, or the failure.
    pub(super) finished_at: Instant,
    pub(super) cpu: Duration,
    /// Able to run, and not let.
    pub(super) cpu_wait: Duration,
    pub(super) wall: Duration,
}

pub(super) struct Driver<'a> {
    plan: Plan,
    /// Set when any thread fails.
    stop: &'a AtomicBool,
    epoll: OwnedFd,
    /// Connections with room for requests, the one that waits for the longest first.
    ready: VecDeque<usize>,
    /// Connections with requests not yet written.
    unflushed: Vec<usize>,
    in_flight: usize,
    measured: u64,
    progress_at: Instant,
    finished_at: Instant,
    recorder: Recorder,
}

impl<'a> Driver<'a> {
    pub(super) fn new(plan: Plan, stop: &'a AtomicBool) -> Result<Self, Failure> {
        let epoll = epoll::create(CreateFlags::CLOEXEC).map_err(generator("epoll_create"))?;
        let now = Instant::now();
        let mut driver = Self {
            ready: VecDeque::with_capacity(plan.connections.len()),
            unflushed: Vec::with_capacity(plan.connections.len()),
            in_flight: 0,
            measured: 0,
            progress_at: now,
            finished_at: now,
            recorder: Recorder::default(),
            plan,
            stop,
            epoll,
        };
        for index in 0..driver.plan.connections.len() {
            driver.watch(index)?;
        }
        Ok(driver)
    }

    /// Drives until the end of the plan.
    pub(super) fn run(mut self) -> Outcome {
        let (start, cpu_before) = (Instant::now(), thread_cpu_time());
        let cpu_wait_before = thread_cpu_wait();
        let failure = self.drive().err();
        let now = Instant::now();
        if failure.is_some() {
            self.stop.store(true, Ordering::Relaxed);
        }
        if self.stop.load(Ordering::Relaxed) {
            self.finished_at = now;
        }
        self.recorder.errors.unanswered += self.in_flight as u64;
        self.count_unsent(now);
        Outcome {
            recorder: self.recorder,
            failure,
            finished_at: self.finished_at,
            cpu: thread_cpu_time().saturating_sub(cpu_before),
            cpu_wait: thread_cpu_wait().saturating_sub(cpu_wait_before),
            wall: now - start,
        }
    }

    fn drive(&mut self) -> Result<(), Failure> {
        let mut events = Vec::with_capacity(EVENTS_MAX);
        while !self.stop.load(Ordering::Relaxed) {
            let now = Instant::now();
            let is_sending = self.is_sending(now);
            if is_sending {
                self.send(now)?;
            }
            if self.in_flight == 0 {
                if !is_sending {
                    break;
                }
                self.progress_at = now; // Nothing to wait for.
            } else if now - self.progress_at > self.plan.reply_timeout {
                return Err(Failure::Silent {
                    target: self.plan.address.to_string(),
                    seconds: (now - self.progress_at).as_secs_f64(),
                    requests: self.in_flight,
                });
            }
            self.wait(&mut events, self.sleep(now, is_sending))?;
            for event in events.drain(..) {
                self.on_event(event)?;
            }
        }
        Ok(())
    }

    fn is_sending(&self, now: Instant) -> bool {
        match (self.plan.end, &self.plan.schedule) {
            (End::After(count), _) => self.measured < count,
            (End::At(end), None) => now < end,
            (End::At(end), Some(schedule)) => {
                now < end || (schedule.next_at() < end && now < end + BACKLOG_DRAIN_MAX)
            }
        }
    }

    fn sleep(&self, now: Instant, is_sending: bool) -> Duration {
        match &self.plan.schedule {
            Some(schedule) if is_sending && !self.ready.is_empty() => {
                let gap = schedule.next_at().saturating_duration_since(now);
                gap.saturating_sub(POLL_BEFORE_START).min(TICK)
            }
            _ => TICK,
        }
    }

    fn wait(&self, events: &mut Vec<Event>, sleep: Duration) -> Result<(), Failure> {
        let timeout = Timespec::try_from(sleep).expect("a tick is short");
        match epoll::wait(&self.epoll, spare_capacity(events), Some(&timeout)) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(generator("epoll_wait")(error)),
        }
    }

    fn send(&mut self, now: Instant) -> Result<(), Failure> {
        if self.plan.schedule.is_some() {
            return self.send_due(now);
        }
        while let Some(index) = self.ready.pop_front() {
            let batch = self.batch_len(now);
            if batch == 0 {
                self.ready.push_front(index);
                break;
            }
            let connection = &mut self.plan.connections[index];
            connection.is_ready = false;
            for _ in 0..batch {
                connection.push(self.plan.requests.draw(), now);
            }
            self.in_flight += batch;
            let start = Instant::now();
            connection.start_batch(start);
            if start >= self.plan.measure_at {
                self.measured += batch as u64;
            }
            self.flush(index)?;
        }
        Ok(())
    }

    /// A whole batch, but for the last ones of a run with a number of requests.
    fn batch_len(&self, now: Instant) -> usize {
        match self.plan.end {
            // Within warm-up a batch may still come to be measured, so it is kept within too.
            End::After(count) => {
                let left = usize::try_from(count - self.measured).unwrap_or(usize::MAX);
                self.plan.pipeline.min(left)
            }
            End::At(end) if now >= end => 0,
            End::At(_) => self.plan.pipeline,
        }
    }

    fn send_due(&mut self, now: Instant) -> Result<(), Failure> {
        while let Some(intended_at) = self.next_start(now)
            && let Some(index) = self.ready.pop_front()
        {
            let connection = &mut self.plan.connections[index];
            if connection.is_flushed() {
                self.unflushed.push(index);
            }
            connection.push(self.plan.requests.draw(), intended_at);
            self.in_flight += 1;
            connection.is_ready = connection.in_flight.len() < self.plan.pipeline;
            if connection.is_ready {
                self.ready.push_back(index);
            }
            if intended_at >= self.plan.measure_at {
                self.measured += 1;
                self.recorder.send_delays.record(now - intended_at);
            }
            self.advance_schedule();
        }
        while let Some(index) = self.unflushed.pop() {
            self.flush(index)?;
        }
        Ok(())
    }

    /// The start of the next request of an open loop, when it is due and within the plan.
    fn next_start(&self, now: Instant) -> Option<Instant> {
        let next = self.plan.schedule.as_ref()?.next_at();
        let is_planned = match self.plan.end {
            End::At(end) => next < end,
            End::After(count) => self.measured < count,
        };
        (next <= now && is_planned).then_some(next)
    }

    fn advance_schedule(&mut self) {
        self.plan.schedule.as_mut().expect("called in an open loop only").advance();
    }

    /// Counts what was due and not sent, with the wait so far.
    fn count_unsent(&mut self, now: Instant) {
        while let Some(intended_at) = self.next_start(now) {
            if intended_at >= self.plan.measure_at {
                self.measured += 1;
                self.recorder.record_unsent(now - intended_at);
            }
            self.advance_schedule();
        }
    }

    fn flush(&mut self, index: usize) -> Result<(), Failure> {
        let connection = &mut self.plan.connections[index];
        match connection.flush() {
            Ok(is_done) if is_done == connection.awaits_room => {
                connection.awaits_room = !is_done;
                let flags = if is_done { EventFlags::IN } else { EventFlags::IN | EventFlags::OUT };
                let data = EventData::new_u64(index as u64);
                epoll::modify(&self.epoll, &connection.stream, data, flags)
                    .map_err(generator("epoll_ctl"))
            }
            Ok(_) => Ok(()),
            Err(error) => self.lose(index, &error.to_string()),
        }
    }

    /// The data of an event is the index of its connection.
    fn on_event(&mut self, event: Event) -> Result<(), Failure> {
        let index = usize::try_from(event.data.u64()).expect("an index is a usize");
        let flags = event.flags;
        if flags.contains(EventFlags::OUT) {
            self.flush(index)?;
        }
        if !flags.intersects(EventFlags::IN | EventFlags::HUP | EventFlags::ERR) {
            return Ok(());
        }
        match self.plan.connections[index].receive() {
            Received::Nothing => Ok(()),
            Received::Bytes => self.take_replies(index),
            Received::End(cause) => self.lose(index, &cause),
        }
    }

    fn take_replies(&mut self, index: usize) -> Result<(), Failure> {
        let now = Instant::now();
        self.progress_at = now;
        let connection = &mut self.plan.connections[index];
        connection.has_replied = true;
        loop {
            let reply = match connection.take_reply() {
                Ok(Some(reply)) => reply,
                Ok(None) => break,
                Err(error) => return Err(self.protocol(error.to_string())),
            };
            let answer = match reply.kind {
                ReplyKind::Push => continue,
                ReplyKind::Value => Answer::Done,
                ReplyKind::Null => Answer::Missing,
                ReplyKind::Error => Answer::Refused,
            };
            let Some(sent) = connection.in_flight.pop_front() else {
                let cause = format!("a reply to no request: {}", connection.reply_text(reply));
                return Err(self.protocol(cause));
            };
            self.in_flight -= 1;
            if answer == Answer::Refused && self.recorder.errors.first_error_reply.is_none() {
                self.recorder.errors.first_error_reply = Some(connection.reply_text(reply));
            }
            if sent.started_at >= self.plan.measure_at {
                self.recorder.record(sent.operation, now - sent.started_at, answer);
                self.finished_at = now;
            }
        }
        let has_room = match self.plan.schedule {
            Some(_) => connection.in_flight.len() < self.plan.pipeline,
            None => connection.in_flight.is_empty(),
        };
        if has_room && !connection.is_ready {
            connection.is_ready = true;
            self.ready.push_back(index);
        }
        Ok(())
    }

    fn protocol(&self, cause: String) -> Failure {
        Failure::Protocol { target: self.plan.address.to_string(), cause }
    }

    /// Replaces a connection that ended. A server that ends one without having answered anything
    /// on it is as good as dead.
    fn lose(&mut self, index: usize, cause: &str) -> Result<(), Failure> {
        let died = |again: String| Failure::Died {
            target: self.plan.address.to_string(),
            cause: cause.to_owned(),
            again,
        };
        let lost = &self.plan.connections[index];
        self.recorder.errors.lost_connections += 1;
        self.recorder.errors.unanswered += lost.in_flight.len() as u64;
        self.in_flight -= lost.in_flight.len();
        if !lost.has_replied {
            return Err(died("it ends connections without a reply".to_owned()));
        }
        let connection = Connection::open(self.plan.address, &self.plan.manner)
            .map_err(|error| died(error.to_string()))?;
        self.ready.retain(|&it| it != index);
        self.unflushed.retain(|&it| it != index);
        self.plan.connections[index] = connection;
        self.watch(index)
    }

    /// Begins to use connection `index`, which is new.
    fn watch(&mut self, index: usize) -> Result<(), Failure> {
        let connection = &mut self.plan.connections[index];
        let data = EventData::new_u64(index as u64);
        epoll::add(&self.epoll, &connection.stream, data, EventFlags::IN)
            .map_err(generator("epoll_ctl"))?;
        connection.is_ready = true;
        self.ready.push_back(index);
        Ok(())
    }
}

fn generator(context: &'static str) -> impl Fn(Errno) -> Failure {
    move |error| Failure::Generator { context, source: error.into() }
}
