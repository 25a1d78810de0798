//! Commands that need several steps or several cores run as tasks of the core's executor, beside
//! the loop; their client waits, all others do not.

use std::cell::{Cell, RefCell};
use std::panic::AssertUnwindSafe;
use std::rc::Rc;
use std::sync::Arc;

use futures_lite::FutureExt;
use gridkv_net::ring::Doorbell;

use super::forward::Waiter;

/// The tasks of one core.
pub(crate) struct Tasks {
    running: Cell<usize>,
    panicked: Cell<bool>,
    done: RefCell<Vec<(Waiter, Vec<u8>)>>,
    bell: Arc<Doorbell>,
}

impl Tasks {
    pub(crate) fn new(bell: Arc<Doorbell>) -> Self {
        Self {
            running: Cell::new(0),
            panicked: Cell::new(false),
            done: RefCell::new(Vec::new()),
            bell,
        }
    }

    /// Runs `command`; its reply goes to `waiter`. Call it on the core's own thread, from within
    /// its loop.
    pub(crate) fn spawn(
        self: &Rc<Self>,
        waiter: Waiter,
        command: impl Future<Output = Vec<u8>> + 'static,
    ) {
        self.running.set(self.running.get() + 1);
        let tasks = Rc::clone(self);
        glommio::spawn_local(async move {
            match AssertUnwindSafe(command).catch_unwind().await {
                Ok(reply) => tasks.done.borrow_mut().push((waiter, reply)),
                // The loop sees it and ends the core.
                Err(_) => tasks.panicked.set(true),
            }
            tasks.running.set(tasks.running.get() - 1);
            tasks.bell.ring();
        })
        .detach();
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
