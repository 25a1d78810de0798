//! The embedded API for threads without an executor.

use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use futures_lite::future::block_on;
use gridkv_cluster::Version;
use gridkv_storage::{LogStats, Stats};

use crate::config::Idle;
use crate::error::Error;
use crate::handle::Handle;
use crate::shard::{Expiry, SetOptions, SetOutcome, Shard, Versioned};
use crate::snapshot::{SnapshotError, SnapshotInfo};

/// How long a caller looks for its answer before it sleeps.
const SPIN: Duration = Duration::from_micros(20);

/// A [`Handle`] whose calls block the calling thread. Not for use within a core's closure: a core
/// that waits for itself waits for ever.
#[derive(Clone, Debug)]
pub struct Blocking {
    handle: Handle,
}

impl Blocking {
    pub(crate) const fn new(handle: Handle) -> Self {
        Self { handle }
    }

    /// Waits for a call. Where the cores do not sleep at once, the caller does not either: being
    /// woken takes longer than most calls.
    fn wait<T>(&self, call: impl Future<Output = T>) -> T {
        let limit = match self.handle.node().config.idle {
            Idle::Park => Duration::ZERO,
            Idle::Spin(_) | Idle::Poll => SPIN,
        };
        let mut call = pin!(call);
        let mut context = Context::from_waker(Waker::noop());
        let started = Instant::now();
        while started.elapsed() < limit {
            if let Poll::Ready(result) = call.as_mut().poll(&mut context) {
                return result;
            }
            std::hint::spin_loop();
        }
        block_on(call)
    }

    /// As [`Handle::get`].
    ///
    /// # Errors
    ///
    /// As [`Handle::get`].
    pub fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Vec<u8>>, Error> {
        self.wait(self.handle.get(key))
    }

    /// As [`Handle::get_versioned`].
    ///
    /// # Errors
    ///
    /// As [`Handle::get_versioned`].
    pub fn get_versioned(&self, key: impl AsRef<[u8]>) -> Result<Option<Versioned>, Error> {
        self.wait(self.handle.get_versioned(key))
    }

    /// As [`Handle::set`].
    ///
    /// # Errors
    ///
    /// As [`Handle::set`].
    pub fn set(&self, key: impl AsRef<[u8]>, value: impl Into<Vec<u8>>) -> Result<(), Error> {
        self.wait(self.handle.set(key, value))
    }

    /// As [`Handle::set_with`].
    ///
    /// # Errors
    ///
    /// As [`Handle::set_with`].
    pub fn set_with(
        &self,
        key: impl AsRef<[u8]>,
        value: impl Into<Vec<u8>>,
        options: SetOptions,
    ) -> Result<SetOutcome, Error> {
        self.wait(self.handle.set_with(key, value, options))
    }

    /// As [`Handle::compare_and_set`].
    ///
    /// # Errors
    ///
    /// As [`Handle::compare_and_set`].
    pub fn compare_and_set(
        &self,
        key: impl AsRef<[u8]>,
        version: Version,
        value: impl Into<Vec<u8>>,
    ) -> Result<SetOutcome, Error> {
        self.wait(self.handle.compare_and_set(key, version, value))
    }

    /// As [`Handle::delete`].
    ///
    /// # Errors
    ///
    /// As [`Handle::delete`].
    pub fn delete(&self, key: impl AsRef<[u8]>) -> Result<bool, Error> {
        self.wait(self.handle.delete(key))
    }

    /// As [`Handle::exists`].
    ///
    /// # Errors
    ///
    /// As [`Handle::exists`].
    pub fn exists(&self, key: impl AsRef<[u8]>) -> Result<bool, Error> {
        self.wait(self.handle.exists(key))
    }

    /// As [`Handle::increment`].
    ///
    /// # Errors
    ///
    /// As [`Handle::increment`].
    pub fn increment(&self, key: impl AsRef<[u8]>, delta: i64) -> Result<i64, Error> {
        self.wait(self.handle.increment(key, delta))
    }

    /// As [`Handle::expire`].
    ///
    /// # Errors
    ///
    /// As [`Handle::expire`].
    pub fn expire(&self, key: impl AsRef<[u8]>, expiry: Expiry) -> Result<bool, Error> {
        self.wait(self.handle.expire(key, expiry))
    }

    /// As [`Handle::time_to_live`].
    ///
    /// # Errors
    ///
    /// As [`Handle::time_to_live`].
    pub fn time_to_live(&self, key: impl AsRef<[u8]>) -> Result<Option<Option<Duration>>, Error> {
        self.wait(self.handle.time_to_live(key))
    }

    /// As [`Handle::run_on`].
    ///
    /// # Errors
    ///
    /// As [`Handle::run_on`].
    pub fn run_on<T: Send + 'static>(
        &self,
        key: impl AsRef<[u8]>,
        work: impl FnOnce(&mut Shard) -> T + Send + 'static,
    ) -> Result<T, Error> {
        self.wait(self.handle.run_on(key, work))
    }

    /// As [`Handle::run_on_all`].
    ///
    /// # Errors
    ///
    /// As [`Handle::run_on_all`].
    pub fn run_on_all<T: Send + 'static>(
        &self,
        work: impl Fn(&mut Shard) -> T + Clone + Send + 'static,
    ) -> Result<Vec<T>, Error> {
        self.wait(self.handle.run_on_all(work))
    }

    /// As [`Handle::snapshot`].
    ///
    /// # Errors
    ///
    /// As [`Handle::snapshot`].
    pub fn snapshot(&self, name: Option<&str>) -> Result<SnapshotInfo, SnapshotError> {
        block_on(self.handle.snapshot(name))
    }

    /// As [`Handle::log_stats`].
    ///
    /// # Errors
    ///
    /// As [`Handle::log_stats`].
    pub fn log_stats(&self) -> Result<Option<LogStats>, Error> {
        self.wait(self.handle.log_stats())
    }

    /// As [`Handle::stats`].
    ///
    /// # Errors
    ///
    /// As [`Handle::stats`].
    pub fn stats(&self) -> Result<Stats, Error> {
        self.wait(self.handle.stats())
    }

    /// As [`Handle::clear`].
    ///
    /// # Errors
    ///
    /// As [`Handle::clear`].
    pub fn clear(&self) -> Result<(), Error> {
        self.wait(self.handle.clear())
    }
}
