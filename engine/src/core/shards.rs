//! The shards of one core, and which core runs which shard.

use gridkv_cluster::{ShardRange, Token, WallTime};
use smallvec::SmallVec;

use crate::shard::Shard;

/// How a node's shards are spread over its cores: in contiguous runs, as evenly as they divide.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout {
    pub(crate) shard_count: u16,
    pub(crate) core_count: usize,
}

impl Layout {
    /// The core that runs the shard of `token`.
    #[inline]
    pub(crate) fn core_of(self, token: Token) -> usize {
        let shard = ShardRange::owner(token, self.shard_count);
        usize::from(shard.0) * self.core_count / usize::from(self.shard_count)
    }

    /// The shards that `core` runs.
    pub(crate) fn shards_of(self, core: usize) -> impl Iterator<Item = u16> {
        (0..self.shard_count).filter(move |shard| {
            usize::from(*shard) * self.core_count / usize::from(self.shard_count) == core
        })
    }
}

/// The shards of one core.
pub(crate) struct Shards {
    layout: Layout,
    own_core: usize,
    first: u16,
    shards: Vec<Shard>,
    next_to_expire: usize,
}

impl Shards {
    pub(crate) fn new(layout: Layout, own_core: usize, shards: Vec<Shard>) -> Self {
        let first = layout.shards_of(own_core).next().unwrap_or(0);
        assert_eq!(shards.len(), layout.shards_of(own_core).count());
        Self { layout, own_core, first, shards, next_to_expire: 0 }
    }

    pub(crate) fn layout(&self) -> Layout {
        self.layout
    }

    /// The core that owns `token`.
    #[inline]
    pub(crate) fn core_of(&self, token: Token) -> usize {
        // One core owns everything: no need to compute which.
        if self.layout.core_count == 1 { self.own_core } else { self.layout.core_of(token) }
    }

    /// The shard of a token of this core.
    ///
    /// # Panics
    ///
    /// When the token belongs to another core.
    #[inline]
    pub(crate) fn of(&mut self, token: Token) -> &mut Shard {
        let shard = ShardRange::owner(token, self.layout.shard_count);
        &mut self.shards[usize::from(shard.0 - self.first)]
    }

    /// Fetches what lookups will touch; tokens of other cores are passed over.
    pub(crate) fn prefetch(&self, tokens: &[Token]) {
        if self.layout.shard_count == 1 {
            return self.shards[0].prefetch(tokens);
        }
        for shard in &self.shards {
            let own: SmallVec<[Token; 32]> =
                tokens.iter().copied().filter(|token| shard.range().contains(*token)).collect();
            shard.prefetch(&own);
        }
    }

    pub(crate) fn set_now(&mut self, now: WallTime) {
        for shard in &mut self.shards {
            shard.set_now(now);
        }
    }

    /// Collects expired records, a bounded amount of work. Shards take turns.
    pub(crate) fn collect_expired(&mut self, budget: usize) -> usize {
        if self.shards.is_empty() {
            return 0;
        }
        self.next_to_expire = (self.next_to_expire + 1) % self.shards.len();
        self.shards[self.next_to_expire].collect_expired(budget)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Shard> {
        self.shards.iter()
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Shard> {
        self.shards.iter_mut()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shard_has_one_core_and_runs_are_contiguous() {
        for core_count in 1..9 {
            for shard_count in 1..20 {
                let layout = Layout { shard_count, core_count };
                let all: Vec<u16> =
                    (0..core_count).flat_map(|core| layout.shards_of(core)).collect();
                assert_eq!(all, (0..shard_count).collect::<Vec<_>>());
                for core in 0..core_count {
                    for shard in layout.shards_of(core) {
                        let first = ShardRange::new(shard, shard_count).first();
                        assert_eq!(layout.core_of(first), core);
                    }
                }
            }
        }
    }
}
