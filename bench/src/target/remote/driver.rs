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
//! - A request that is given up, since its connection ended or its time was over, keeps its latency
//!   so far: a client would have waited for it too.
//!
//! # Why an open loop does not sleep
//!
//! A thread that sleeps until the next start wakes tens of microseconds late, and that would count
//! as latency of the target. So it polls whenever the next start is near.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use gridkv_net::resp::ReplyKind;
use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::Errno;

use super::address::Address;
use super::connection::{Connection, Received, Sent, Stage};
use crate::pace::Schedule;
use crate::proc::thread_cpu_wait;
use crate::record::{Answer, Recorder, Sample};
use crate::target::{Failure, thread_cpu_time};
use crate::workload::{CommandTemplate, Generator};

/// How long an open loop goes on sending what was due by the end.
const BACKLOG_DRAIN_MAX: Duration = Duration::from_secs(1);

/// The longest sleep: how soon a thread sees that another failed.
const TICK: Duration = Duration::from_millis(20);

/// An open loop sleeps only when the next start is further away than this, and wakes that early.
const POLL_BEFORE_START: Duration = Duration::from_millis(2);

/// How long a connection may take to be of use.
const GREETING_TIMEOUT: Duration = Duration::from_secs(2);

/// How long all servers are left alone when none of them can be reached.
const RETRY_PAUSE: Duration = Duration::from_millis(50);

const EVENTS_MAX: usize = 1024;

/// The low bits of an event's data are a connection's index.
const INDEX_BITS: u32 = 32;
const INDEX_MASK: u64 = u32::MAX as u64;

/// When measuring ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    At(Instant),
    After(u64),
}

/// What one thread is to do.
pub(super) struct Plan {
    pub(super) address: Arc<Address>,
    pub(super) commands: Arc<[CommandTemplate]>,
    pub(super) connections: Vec<Connection>,
    pub(super) pipeline: usize,
    /// `None` for a closed loop.
    pub(super) schedule: Option<Schedule>,
    pub(super) requests: Generator,
    pub(super) measure_at: Instant,
    pub(super) end: End,
    /// Without any reply for this long, the target is given up.
    pub(super) reply_timeout: Duration,
    /// A connection whose oldest request is older is given up.
    pub(super) request_timeout: Option<Duration>,
    /// How long servers that cannot be reached are tried again.
    pub(super) reconnect_for: Duration,
    pub(super) recorder: Recorder,
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

/// A server that could not be reached, or that ended a connection.
#[derive(Clone, Debug, Default)]
struct Trouble {
    /// Attempts since the last reply.
    attempts: usize,
    /// When it began, and what it was at first.
    first: Option<(Instant, String)>,
    /// When to try again, after all servers were tried.
    retry_at: Option<Instant>,
}

pub(super) struct Driver<'a> {
    plan: Plan,
    /// For each connection.
    troubles: Vec<Trouble>,
    /// How often each connection was replaced: an event may be of the one before.
    generations: Vec<u32>,
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
    /// When connections were last looked at that are late or to be replaced.
    looked_at: Instant,
    recorder: Recorder,
}

impl<'a> Driver<'a> {
    pub(super) fn new(mut plan: Plan, stop: &'a AtomicBool) -> Result<Self, Failure> {
        let epoll = epoll::create(CreateFlags::CLOEXEC).map_err(generator("epoll_create"))?;
        let now = Instant::now();
        let mut driver = Self {
            ready: VecDeque::with_capacity(plan.connections.len()),
            unflushed: Vec::with_capacity(plan.connections.len()),
            in_flight: 0,
            measured: 0,
            progress_at: now,
            finished_at: now,
            looked_at: now,
            troubles: vec![Trouble::default(); plan.connections.len()],
            generations: vec![0; plan.connections.len()],
            recorder: std::mem::take(&mut plan.recorder),
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
        for index in 0..self.plan.connections.len() {
            self.give_up(index, now);
        }
        self.count_unsent(now);
        self.recorder.flush();
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
                    target: self.plan.address.name(),
                    seconds: (now - self.progress_at).as_secs_f64(),
                    requests: self.in_flight,
                });
            }
            self.wait(&mut events, self.sleep(now, is_sending))?;
            for event in events.drain(..) {
                self.on_event(event)?;
            }
            if now - self.looked_at >= TICK {
                self.looked_at = now;
                self.look_after(now)?;
            }
        }
        Ok(())
    }

    /// Gives up connections that are late, and tries again those that were given up.
    fn look_after(&mut self, now: Instant) -> Result<(), Failure> {
        for index in 0..self.plan.connections.len() {
            let connection = &self.plan.connections[index];
            if self.troubles[index].retry_at.is_some_and(|at| now >= at) {
                self.reconnect(index)?;
                continue;
            }
            let is_late = |limit| {
                let oldest = connection.in_flight.front();
                oldest.is_some_and(|it| now.saturating_duration_since(it.sent_at) > limit)
            };
            let age = now.saturating_duration_since(connection.opened_at);
            if !connection.is_usable() && !self.is_resting(index) && age > GREETING_TIMEOUT {
                self.lose(index, "it does not answer")?;
                continue;
            }
            if let Some(limit) = self.plan.request_timeout.filter(|limit| is_late(*limit)) {
                self.lose(index, &format!("no reply for {} s", limit.as_secs_f64()))?;
            }
        }
        Ok(())
    }

    /// Whether connection `index` has ended, and its successor is yet to be begun.
    fn is_resting(&self, index: usize) -> bool {
        self.troubles[index].retry_at.is_some()
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
                connection.push(&self.plan.requests.draw(), now, now);
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
            connection.push(&self.plan.requests.draw(), intended_at, now);
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
                let data = event_data(index, self.generations[index]);
                epoll::modify(&self.epoll, &connection.stream.socket, data, flags)
                    .map_err(generator("epoll_ctl"))
            }
            Ok(_) => Ok(()),
            Err(error) => self.lose(index, &error.to_string()),
        }
    }

    fn on_event(&mut self, event: Event) -> Result<(), Failure> {
        let (data, flags) = (event.data.u64(), event.flags);
        let (index, generation) = ((data & INDEX_MASK) as usize, data >> INDEX_BITS);
        if generation != u64::from(self.generations[index]) {
            return Ok(());
        }
        if self.plan.connections[index].is_connecting {
            return match self.plan.connections[index].finish_connecting() {
                Ok(()) => {
                    self.offer(index);
                    self.flush(index)
                }
                Err(error) => self.lose(index, &error.to_string()),
            };
        }
        if flags.contains(EventFlags::OUT) {
            self.flush(index)?;
        }
        if !flags.intersects(EventFlags::IN | EventFlags::HUP | EventFlags::ERR) {
            return Ok(());
        }
        loop {
            match self.plan.connections[index].receive() {
                Received::Nothing => return Ok(()),
                Received::Bytes => self.take_replies(index)?,
                Received::End(cause) => return self.lose(index, &cause),
            }
            // Epoll tells again of what is left in a socket.
            if !self.plan.connections[index].stream.may_hold_more() {
                return Ok(());
            }
        }
    }

    fn take_replies(&mut self, index: usize) -> Result<(), Failure> {
        let now = Instant::now();
        loop {
            let connection = &mut self.plan.connections[index];
            let reply = match connection.take_reply() {
                Ok(Some(reply)) => reply,
                Ok(None) => break,
                Err(error) => return Err(self.protocol(error)),
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
            if !connection.has_replied {
                connection.has_replied = true;
                self.troubles[index] = Trouble::default();
            }
            if answer == Answer::Refused {
                let text = connection.reply_text(reply);
                if sent.stage == Stage::Greeting {
                    return Err(Failure::Refused { target: self.plan.address.name(), text });
                }
                self.recorder.errors.first_error_reply.get_or_insert(text);
            }
            self.on_answer(index, sent, answer, now);
        }
        self.progress_at = now;
        self.offer(index);
        // The second halves of read-modify-writes, or what a session has to say.
        if self.plan.connections[index].is_flushed() { Ok(()) } else { self.flush(index) }
    }

    #[inline]
    fn on_answer(&mut self, index: usize, sent: Sent, answer: Answer, now: Instant) {
        match sent.stage {
            Stage::Greeting => return,
            Stage::Read if answer != Answer::Refused => {
                let bytes = self.plan.requests.key_and_value(sent.key_index, sent.value_id);
                self.plan.connections[index].push_write(&sent, bytes);
                return;
            }
            Stage::Whole | Stage::Read | Stage::Write => {}
        }
        self.in_flight -= 1;
        self.record(&sent, answer, now);
    }

    #[inline]
    fn record(&mut self, sent: &Sent, answer: Answer, now: Instant) {
        if sent.started_at < self.plan.measure_at {
            return;
        }
        let service =
            self.plan.schedule.as_ref().map(|_| now.saturating_duration_since(sent.sent_at));
        let response = now.saturating_duration_since(sent.started_at);
        let sample = Sample { ended_at: now, response, service };
        self.recorder.record_sample(sent.operation, sample, answer);
        self.finished_at = now;
    }

    /// Puts a connection that has room among those that are ready.
    fn offer(&mut self, index: usize) {
        let connection = &mut self.plan.connections[index];
        let has_room = match self.plan.schedule {
            Some(_) => connection.in_flight.len() < self.plan.pipeline,
            None => connection.in_flight.is_empty(),
        };
        if has_room && !connection.is_ready && connection.is_usable() {
            connection.is_ready = true;
            self.ready.push_back(index);
        }
    }

    fn protocol(&self, cause: String) -> Failure {
        Failure::Protocol { target: self.plan.address.name(), cause }
    }

    /// Counts what a connection still has in flight as unanswered.
    fn give_up(&mut self, index: usize, now: Instant) {
        let in_flight = std::mem::take(&mut self.plan.connections[index].in_flight);
        for sent in in_flight.iter().filter(|it| it.stage != Stage::Greeting) {
            self.in_flight -= 1;
            self.record(sent, Answer::Unanswered, now);
        }
    }

    /// Replaces a connection that ended, by one to the next server. One that ends without having
    /// answered anything is an attempt that failed.
    fn lose(&mut self, index: usize, cause: &str) -> Result<(), Failure> {
        let now = Instant::now();
        self.recorder.errors.lost_connections += 1;
        self.give_up(index, now);
        self.fail(index, cause, now)
    }

    fn fail(&mut self, index: usize, cause: &str, now: Instant) -> Result<(), Failure> {
        let connection = &mut self.plan.connections[index];
        let trouble = &mut self.troubles[index];
        let is_first = trouble.first.is_none();
        let (since, first) = trouble.first.get_or_insert_with(|| (now, cause.to_owned())).clone();
        trouble.attempts += usize::from(!is_first || !connection.has_replied);
        self.ready.retain(|&it| it != index);
        self.unflushed.retain(|&it| it != index);
        // Nothing more of it is wanted, and no event may come for it.
        let _ = epoll::delete(&self.epoll, &connection.stream.socket);
        connection.is_ready = false;
        let server_count = self.plan.address.endpoints.len();
        if trouble.attempts > 0 && trouble.attempts.is_multiple_of(server_count) {
            if now - since >= self.plan.reconnect_for {
                let again = if is_first {
                    "it ends connections without a reply".to_owned()
                } else {
                    cause.to_owned()
                };
                let target = self.plan.address.name();
                return Err(Failure::Died { target, cause: first, again });
            }
            trouble.retry_at = Some(now + RETRY_PAUSE);
            return Ok(());
        }
        self.reconnect(index)
    }

    /// Connects to the server after the one before.
    fn reconnect(&mut self, index: usize) -> Result<(), Failure> {
        self.troubles[index].retry_at = None;
        let server_count = self.plan.address.endpoints.len();
        let endpoint = (self.plan.connections[index].endpoint + 1) % server_count;
        match Connection::start(&self.plan.address, &self.plan.commands, endpoint) {
            Ok(connection) => {
                self.plan.connections[index] = connection;
                self.watch(index)
            }
            Err(error) => {
                self.plan.connections[index].endpoint = endpoint;
                self.plan.connections[index].has_replied = false;
                self.fail(index, &error.to_string(), Instant::now())
            }
        }
    }

    /// Begins to use connection `index`, which is new.
    fn watch(&mut self, index: usize) -> Result<(), Failure> {
        let connection = &mut self.plan.connections[index];
        // A socket that is being connected has room once it is.
        connection.awaits_room = connection.is_connecting || !connection.is_flushed();
        let flags =
            if connection.awaits_room { EventFlags::IN | EventFlags::OUT } else { EventFlags::IN };
        self.generations[index] = self.generations[index].wrapping_add(1);
        let data = event_data(index, self.generations[index]);
        epoll::add(&self.epoll, &connection.stream.socket, data, flags)
            .map_err(generator("epoll_ctl"))?;
        self.offer(index);
        Ok(())
    }
}

/// What tells an event's connection: its index, and how often it was replaced.
fn event_data(index: usize, generation: u32) -> EventData {
    EventData::new_u64(index as u64 | u64::from(generation) << INDEX_BITS)
}

fn generator(context: &'static str) -> impl Fn(Errno) -> Failure {
    move |error| Failure::Generator { context, source: error.into() }
}
