//! Commands that need several steps or several cores run as tasks of the core's executor, beside
//! the loop; their client waits, all others do not.
//!
//! The executor has a queue for each [`Urgency`], with shares of the core's time: what walks over
//! everything gets a tenth of what clients get, where both want it.

use std::cell::{Cell, OnceCell, RefCell};
use std::panic::AssertUnwindSafe;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_lite::FutureExt;
use glommio::timer::Timer;
use glommio::{Latency, Shares, TaskQueueHandle};
use gridkv_net::ring::Doorbell;

use super::forward::Waiter;
use super::turns::{Phase, Turns};

/// Who waits for a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Urgency {
    /// A client, for an answer that takes few steps. The loop of the core runs here too.
    Client,
    /// A client that has asked for much, or nobody.
    Background,
}

/// The executor's queues, by urgency.
#[derive(Clone, Copy)]
pub(crate) struct Queues {
    client: TaskQueueHandle,
    background: TaskQueueHandle,
}

impl Queues {
    /// Makes the queues of the executor that this runs on.
    pub(crate) fn new() -> Self {
        let executor = glommio::executor();
        let queue = |shares, name| {
            executor.create_task_queue(Shares::Static(shares), Latency::NotImportant, name)
        };
        Self { client: queue(1_000, "client"), background: queue(100, "background") }
    }

    pub(crate) fn of(&self, urgency: Urgency) -> TaskQueueHandle {
        match urgency {
            Urgency::Client => self.client,
            Urgency::Background => self.background,
        }
    }
}

/// The reply of a task, piece after piece.
pub(crate) type Pieces = Vec<Vec<u8>>;

/// How often an executor that sleeps is woken at least: one without tasks, and one with some.
const HEARTBEAT: Duration = Duration::from_millis(100);
const HEARTBEAT_BUSY: Duration = Duration::from_millis(5);

/// Wakes the executor that this runs on again and again, for as long as it lives.
///
/// # Why
///
/// An executor whose preemption timer fires before it has begun to run its queues (its thread was
/// paused that long) takes them for empty and goes to sleep on tasks that are ready. With a timer
/// always pending that is a delay and not the end. For the same reason no queue asks for a low
/// latency: that would make the preemption timer a short one.
pub(crate) fn start_heartbeat() {
    glommio::spawn_local(async {
        loop {
            Timer::new(HEARTBEAT).await;
        }
    })
    .detach();
}

/// Times each step of a task.
fn timed<T>(
    turns: Rc<Turns>,
    name: Option<&'static str>,
    task: impl Future<Output = T> + 'static,
) -> impl Future<Output = T> + 'static {
    let mut task = Box::pin(task);
    std::future::poll_fn(move |context| {
        let before = Instant::now();
        let polled = task.as_mut().poll(context);
        let took = before.elapsed();
        turns.note(Phase::Tasks, took);
        if let Some(name) = name {
            turns.note_command(name, took);
        }
        polled
    })
}

/// The tasks of one core.
pub(crate) struct Tasks {
    running: Cell<usize>,
    panicked: Cell<bool>,
    done: RefCell<Vec<(Waiter, Pieces)>>,
    bell: Arc<Doorbell>,
    turns: Rc<Turns>,
    /// Beats while tasks run.
    is_beating: Cell<bool>,
    /// Made by the executor, once it runs.
    queues: OnceCell<Queues>,
}

impl Tasks {
    pub(crate) fn new(bell: Arc<Doorbell>, turns: Rc<Turns>) -> Self {
        Self {
            running: Cell::new(0),
            panicked: Cell::new(false),
            done: RefCell::new(Vec::new()),
            bell,
            turns,
            is_beating: Cell::new(false),
            queues: OnceCell::new(),
        }
    }

    /// The queues, for the executor that this runs on.
    pub(crate) fn queues(&self) -> Queues {
        *self.queues.get_or_init(Queues::new)
    }

    /// Runs `command`; its reply goes to `waiter`. Call it on the core's own thread, from within
    /// its loop.
    pub(crate) fn spawn(
        self: &Rc<Self>,
        waiter: Waiter,
        (urgency, name): (Urgency, &'static str),
        command: impl Future<Output = Pieces> + 'static,
    ) {
        self.begin();
        let command = timed(Rc::clone(&self.turns), Some(name), command);
        let tasks = Rc::clone(self);
        let task = async move {
            match AssertUnwindSafe(command).catch_unwind().await {
                Ok(reply) => tasks.done.borrow_mut().push((waiter, reply)),
                // The loop sees it and ends the core.
                Err(_) => tasks.panicked.set(true),
            }
            tasks.running.set(tasks.running.get() - 1);
            tasks.bell.ring();
        };
        let queue = self.queues().of(urgency);
        glommio::spawn_local_into(task, queue).expect("a queue lives as long as its core").detach();
    }

    /// Counts a task in. As long as there are some the executor may sleep, and is woken often.
    fn begin(self: &Rc<Self>) {
        self.running.set(self.running.get() + 1);
        if self.is_beating.replace(true) {
            return;
        }
        let tasks = Rc::clone(self);
        glommio::spawn_local(async move {
            while tasks.are_running() {
                Timer::new(HEARTBEAT_BUSY).await;
            }
            tasks.is_beating.set(false);
        })
        .detach();
    }

    /// Runs something that no client waits for.
    pub(crate) fn spawn_quietly(
        self: &Rc<Self>,
        urgency: Urgency,
        work: impl Future<Output = ()> + 'static,
    ) {
        self.begin();
        let work = timed(Rc::clone(&self.turns), None, work);
        let tasks = Rc::clone(self);
        let task = async move {
            if AssertUnwindSafe(work).catch_unwind().await.is_err() {
                tasks.panicked.set(true);
            }
            tasks.running.set(tasks.running.get() - 1);
            tasks.bell.ring();
        };
        let queue = self.queues().of(urgency);
        glommio::spawn_local_into(task, queue).expect("a queue lives as long as its core").detach();
    }

    /// Whether any task needs the executor.
    pub(crate) fn are_running(&self) -> bool {
        self.running.get() > 0
    }

    /// Whether there are replies to take.
    pub(crate) fn have_done(&self) -> bool {
        !self.done.borrow().is_empty() || self.panicked.get()
    }

    /// The replies of tasks that have ended.
    ///
    /// # Panics
    ///
    /// When a task has panicked: so that the core ends as from a panic of its own.
    pub(crate) fn take_done(&self) -> Vec<(Waiter, Pieces)> {
        assert!(!self.panicked.get(), "a command panicked");
        self.done.take()
    }
}
