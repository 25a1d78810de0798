//! Commands that need several steps or several cores run as tasks of the core's executor, beside
//! the loop; their client waits, all others do not.
//!
//! The executor has a queue for each [`Urgency`], with shares of the core's time: what walks over
//! everything gets a tenth of what clients get, where both want it.

use std::cell::{Cell, OnceCell, RefCell};
use std::panic::AssertUnwindSafe;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures_lite::FutureExt;
use glommio::timer::Timer;
use glommio::{Latency, Shares, TaskQueueHandle};
use gridkv_net::ring::Doorbell;

use super::forward::Waiter;

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

/// How often an executor that sleeps is woken at least.
const HEARTBEAT: Duration = Duration::from_millis(100);

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

/// The tasks of one core.
pub(crate) struct Tasks {
    running: Cell<usize>,
    panicked: Cell<bool>,
    done: RefCell<Vec<(Waiter, Vec<u8>)>>,
    bell: Arc<Doorbell>,
    /// Made by the executor, once it runs.
    queues: OnceCell<Queues>,
}

impl Tasks {
    pub(crate) fn new(bell: Arc<Doorbell>) -> Self {
        Self {
            running: Cell::new(0),
            panicked: Cell::new(false),
            done: RefCell::new(Vec::new()),
            bell,
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
        urgency: Urgency,
        command: impl Future<Output = Vec<u8>> + 'static,
    ) {
        self.running.set(self.running.get() + 1);
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

    /// Runs something that no client waits for.
    pub(crate) fn spawn_quietly(
        self: &Rc<Self>,
        urgency: Urgency,
        work: impl Future<Output = ()> + 'static,
    ) {
        self.running.set(self.running.get() + 1);
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
    pub(crate) fn take_done(&self) -> Vec<(Waiter, Vec<u8>)> {
        assert!(!self.panicked.get(), "a command panicked");
        self.done.take()
    }
}
