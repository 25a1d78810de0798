//! The stores' disks, carried out by the data ring. The one file of this crate with unsafe code.

use std::time::Duration;

use gridkv_net::ring::{Completed, Event, Wait};
use gridkv_storage::disk::Submission;

use super::{Core, World};

impl World {
    /// Takes in the end of an operation of the stores' disks.
    #[expect(clippy::needless_pass_by_value, reason = "an end is told once")]
    pub(crate) fn on_completed(&self, completed: Completed) {
        // SAFETY: rings alone make these, one for each end; the ring of this core is handed what this
        // port hands out, and nothing else, so this is the end of that operation.
        unsafe { self.io.complete(completed.token(), completed.result()) };
    }
}

impl Core {
    /// Hands the ring what the stores want of their disks.
    pub(crate) fn submit_io(&mut self) {
        while let Some(Submission { entry, token }) = self.world.io.next_submission() {
            // SAFETY: what the entry points to stays in the port until `complete` is called with
            // the token, which is done for `Event::Completed` alone; a port that is dropped before
            // never frees it. The ring is dropped before the port, with this core.
            unsafe { self.server.ring.submit(entry, token) };
        }
    }

    /// Waits until the kernel has done all that the stores have asked for.
    pub(crate) fn finish_io(&mut self) {
        loop {
            self.submit_io();
            if self.world.io.in_flight() == 0 {
                return;
            }
            if let Err(error) = self.server.ring.turn(Wait::AtMost(Duration::from_millis(100))) {
                tracing::error!(%error, "operations of the disk are given up");
                return;
            }
            while let Some(event) = self.server.ring.next_event() {
                match event {
                    Event::Completed(completed) => self.world.on_completed(completed),
                    Event::Received(received) => self.server.ring.recycle(received),
                    // The core ends, and its clients with it.
                    _ => {}
                }
            }
        }
    }
}
