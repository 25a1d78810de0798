//! How other threads wake a core that sleeps in its data ring.
//!
//! A thread that has put something into a core's mailbox calls [`Doorbell::ring`]. That costs a
//! fence and a load while the core is awake, and a system call only when it sleeps.
//!
//! # Why no wake-up is lost
//!
//! The core says that it sleeps, *then* looks into its mailbox once more; the thread fills the
//! mailbox, *then* looks whether the core sleeps. With a sequentially consistent fence between the
//! two steps on both sides, at least one of them sees the other's (Dekker's argument).

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering, fence};

use rustix::event::{EventfdFlags, eventfd};

/// A core's bell. Shared by all who can wake the core.
#[derive(Debug)]
pub struct Doorbell {
    asleep: AtomicBool,
    event: OwnedFd,
}

impl Doorbell {
    /// A bell for a core that is awake.
    ///
    /// # Errors
    ///
    /// When the process has no descriptor left.
    pub fn new() -> io::Result<Self> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { asleep: AtomicBool::new(false), event })
    }

    /// Wakes the core if it sleeps. Call it after what the core shall find is in its place.
    #[inline]
    pub fn ring(&self) {
        fence(Ordering::SeqCst);
        if self.asleep.load(Ordering::Relaxed) && self.asleep.swap(false, Ordering::AcqRel) {
            // The only failure is a counter that is full: then the core is being woken anyway.
            let _ = rustix::io::write(&self.event, &1_u64.to_ne_bytes());
        }
    }

    /// The core says that it is going to sleep. It must look for work once more after this.
    #[inline]
    pub fn fall_asleep(&self) {
        self.asleep.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// The core says that it is awake.
    #[inline]
    pub fn wake_up(&self) {
        self.asleep.store(false, Ordering::Relaxed);
    }

    /// A descriptor that is readable from when the bell was rung until the ring has noticed, for a
    /// core that sleeps elsewhere than in its ring.
    ///
    /// The ring's own activity descriptor does not tell in time: what signals an event descriptor
    /// while another one is being written is put off by the kernel (to the end of an RCU grace
    /// period, tens of milliseconds), lest the two call each other for ever.
    ///
    /// # Errors
    ///
    /// When the process has no descriptor left.
    pub fn watch(&self) -> io::Result<OwnedFd> {
        self.event.try_clone()
    }

    pub(super) fn descriptor(&self) -> RawFd {
        self.event.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rings(bell: &Doorbell) -> bool {
        let mut count = [0; 8];
        rustix::io::read(&bell.event, &mut count).is_ok()
    }

    #[test]
    fn a_core_that_is_awake_costs_no_write() {
        let bell = Doorbell::new().unwrap();
        bell.ring();
        assert!(!rings(&bell));
    }

    #[test]
    fn a_sleeping_core_is_woken_once() {
        let bell = Doorbell::new().unwrap();
        bell.fall_asleep();
        bell.ring();
        bell.ring();
        assert!(rings(&bell));
        assert!(!rings(&bell));
    }

    #[test]
    fn no_wake_up_is_lost_between_two_threads() {
        use std::sync::atomic::AtomicU64;
        // One message at a time; the reader sleeps whenever it finds none. A lost wake-up would
        // leave it in `poll` for ever, which the time-out turns into a failure.
        const MESSAGES: u64 = 20_000;
        let bell = Doorbell::new().unwrap();
        let sent = AtomicU64::new(0);
        let seen = AtomicU64::new(0);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for message in 1..=MESSAGES {
                    sent.store(message, Ordering::Release);
                    bell.ring();
                    while seen.load(Ordering::Acquire) < message {
                        std::hint::spin_loop();
                    }
                }
            });
            while seen.load(Ordering::Relaxed) < MESSAGES {
                bell.fall_asleep();
                if sent.load(Ordering::Acquire) == seen.load(Ordering::Relaxed) {
                    let mut wait =
                        [rustix::event::PollFd::new(&bell.event, rustix::event::PollFlags::IN)];
                    let limit = rustix::event::Timespec { tv_sec: 20, tv_nsec: 0 };
                    let ready = rustix::event::poll(&mut wait, Some(&limit)).unwrap();
                    assert_eq!(ready, 1, "a wake-up was lost");
                }
                bell.wake_up();
                rings(&bell);
                seen.store(sent.load(Ordering::Acquire), Ordering::Release);
            }
        });
    }
}
