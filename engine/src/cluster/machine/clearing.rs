//! What was removed from all nodes is removed from this core's shards. Until it is, the core serves
//! no keys.

use gridkv_cluster::Version;

use super::Machine;
use crate::core::parking::Wait;
use crate::core::shards::Shards;
use crate::error::Error;

/// How far the removal has come.
#[derive(Debug, Default)]
pub(super) struct Clearing {
    /// Everything up to here is to be removed, and was.
    wanted: Version,
    done: Version,
    /// The room in a log that it waits for.
    wait: Option<Wait>,
}

impl Clearing {
    pub(super) fn is_done(&self) -> bool {
        self.done >= self.wanted
    }

    pub(super) fn has_cleared(&self, version: Version) -> bool {
        self.done >= version
    }
}

impl Machine {
    pub(super) fn clear_through(&mut self, shards: &mut Shards, version: Version) {
        self.clearing.wanted = self.clearing.wanted.max(version);
        if self.clearing.wait.is_none() {
            self.clear(shards);
        }
    }

    /// Goes on if `wait` is what was waited for; whether it was.
    pub(super) fn go_on_clearing(&mut self, shards: &mut Shards, wait: Wait) -> bool {
        if self.clearing.wait != Some(wait) {
            return false;
        }
        self.clearing.wait = None;
        self.clear(shards);
        true
    }

    fn clear(&mut self, shards: &mut Shards) {
        let wanted = self.clearing.wanted;
        let cleared = shards.iter_mut().try_for_each(|shard| shard.clear_through(wanted));
        match cleared {
            Ok(()) => {
                // Nobody is told: that it is so is found in the log, or done again.
                shards.take_holds();
                self.clearing.done = wanted;
            }
            Err(Error::Busy) => self.clearing.wait = shards.take_wait(),
            // The store takes nothing any more, and the core stays as it is: it serves no keys.
            Err(error) => {
                tracing::error!(%error, "a shard could not be cleared");
                shards.forget_waits();
            }
        }
    }
}
