//! A shard as a replica: answers coordinators, its own node's and others'.

use gridkv_cluster::replication::Context;
use gridkv_cluster::wire::message::Ask;
use gridkv_cluster::{HybridClock, Mutation, Token, Version};
use gridkv_storage::ReadError;
use gridkv_storage::replicated::Answer;

use super::Shard;
use crate::cluster::machine::Source;
use crate::core::parking::Wait;

impl Shard {
    /// A coordinator asks; [`Shard::poll_answer`] has what may leave.
    pub(crate) fn ask(
        &mut self,
        clock: &mut HybridClock,
        context: &Context<'_>,
        source: Source,
        token: Token,
        ask: Ask,
        mutation: &Mutation<'_>,
    ) {
        self.replicated.ask(clock, context, source, token, ask, mutation);
        self.note_appended();
    }

    /// A ticket of the store is ready. Whether a coordinator's message has waited for it.
    pub(crate) fn on_ready(
        &mut self,
        clock: &mut HybridClock,
        context: &Context<'_>,
        wait: Wait,
        result: &Result<(), ReadError>,
    ) -> bool {
        let is_its = self.replicated.on_ready(clock, context, wait.ticket, result);
        self.note_appended();
        is_its
    }

    /// The store has had its turn: answers that are durable may leave.
    pub(crate) fn settle(&mut self) {
        self.replicated.settle();
    }

    pub(crate) fn poll_answer(&mut self) -> Option<Answer<Source>> {
        self.replicated.poll_answer()
    }

    /// Whether no coordinator's message waits and no answer is held.
    pub(crate) fn is_settled(&self) -> bool {
        self.replicated.is_settled()
    }

    /// Messages that wait, and answers that are held.
    #[cfg(feature = "simulation")]
    pub(crate) fn held_counts(&self) -> (usize, usize) {
        (self.replicated.waiting_count(), self.replicated.held_count())
    }

    /// The store, for who looks at what it holds.
    #[cfg(feature = "simulation")]
    pub(crate) fn store_mut(&mut self) -> &mut dyn gridkv_storage::Storage {
        self.replicated.store_mut()
    }

    /// Memory of the messages that wait.
    pub(crate) fn waiting_bytes(&self) -> usize {
        self.replicated.waiting_bytes()
    }

    fn note_appended(&mut self) {
        if self.has_log {
            self.appended = self.replicated.store().appended();
        }
    }

    /// Removes everything up to `version`, for good.
    ///
    /// # Errors
    ///
    /// As [`Shard::set`].
    pub(crate) fn clear_through(&mut self, version: Version) -> Result<(), crate::Error> {
        if self.replicated.store().floor() >= version {
            return Ok(());
        }
        let cleared = self.replicated.clear_through(version);
        cleared.map_err(|refused| self.refused(refused))?;
        if self.has_log {
            self.note_write();
        }
        Ok(())
    }

    /// Promises that are kept by key.
    pub(crate) fn promise_count(&self) -> usize {
        self.replicated.promise_count()
    }

    /// Whether it holds neither values nor tombstones.
    pub(crate) fn is_empty(&self) -> bool {
        self.replicated.is_empty()
    }

    /// The largest version that the store, or a promise of its, has ever used.
    pub(crate) fn resume_after(&self) -> Version {
        self.replicated.resume_after()
    }
}
