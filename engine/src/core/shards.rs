//! The shards of one core, and which core runs which shard.

use gridkv_cluster::{Instant, ShardRange, Token, TokenKey, WallTime};
use gridkv_storage::{LogPosition, ReadError};
use smallvec::SmallVec;

use super::held::{Hold, Holds, Standing};
use super::parking::Wait;
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
        self.core_of_shard(ShardRange::owner(token, self.shard_count).0)
    }

    /// The core that runs a shard.
    #[inline]
    pub(crate) fn core_of_shard(self, shard: u16) -> usize {
        usize::from(shard) * self.core_count / usize::from(self.shard_count)
    }

    /// The shards that `core` runs.
    pub(crate) fn shards_of(self, core: usize) -> impl Iterator<Item = u16> {
        (0..self.shard_count).filter(move |shard| self.core_of_shard(*shard) == core)
    }
}

/// The shards of one core.
pub(crate) struct Shards {
    layout: Layout,
    own_core: usize,
    /// What tokens are made with.
    token_key: TokenKey,
    first: u16,
    shards: Vec<Shard>,
    /// Tokens were made with another key before.
    was_rekeyed: bool,
    next_to_expire: usize,
}

impl Shards {
    pub(crate) fn new(
        layout: Layout,
        own_core: usize,
        token_key: TokenKey,
        shards: Vec<Shard>,
    ) -> Self {
        let first = layout.shards_of(own_core).next().unwrap_or(0);
        assert_eq!(shards.len(), layout.shards_of(own_core).count());
        Self { layout, own_core, token_key, first, shards, was_rekeyed: false, next_to_expire: 0 }
    }

    pub(crate) fn layout(&self) -> Layout {
        self.layout
    }

    /// What tokens are made with.
    #[inline]
    pub(crate) fn token_key(&self) -> &TokenKey {
        &self.token_key
    }

    /// Makes tokens with another key from here on. `false` when a shard holds something.
    pub(crate) fn rekey(&mut self, token_key: &TokenKey) -> bool {
        let is_rekeyed = self.shards.iter_mut().all(|shard| shard.rekey(token_key));
        if is_rekeyed {
            self.token_key = token_key.clone();
            self.was_rekeyed = true;
        }
        is_rekeyed
    }

    /// Whether tokens were made with another key before.
    pub(crate) fn was_rekeyed(&self) -> bool {
        self.was_rekeyed
    }

    /// Whether `token` belongs to this core.
    #[inline]
    pub(crate) fn owns(&self, token: Token) -> bool {
        self.core_of(token) == self.own_core
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

    /// The first and the last token that this core owns; `None` for one without a shard.
    pub(crate) fn ends(&self) -> Option<(Token, Token)> {
        let range = |shard: &Shard| ShardRange::new(shard.index(), self.layout.shard_count);
        let (first, last) = (self.shards.first()?, self.shards.last()?);
        Some((range(first).first(), range(last).last()))
    }

    /// A shard of this core, by its number in the node.
    ///
    /// # Panics
    ///
    /// When it is another core's.
    pub(crate) fn by_index(&mut self, index: u16) -> &mut Shard {
        &mut self.shards[usize::from(index - self.first)]
    }

    /// Fetches what lookups will touch; tokens of other cores are passed over.
    pub(crate) fn prefetch(&self, tokens: &[Token]) {
        if self.layout.core_count == 1
            && let [shard] = &self.shards[..]
        {
            return shard.prefetch(tokens);
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

    /// Collects records that had expired by `until`, a bounded amount of work. Shards take turns.
    pub(crate) fn collect_expired(&mut self, budget: usize, until: WallTime) -> usize {
        if self.shards.is_empty() {
            return 0;
        }
        self.next_to_expire = (self.next_to_expire + 1) % self.shards.len();
        self.shards[self.next_to_expire].collect_expired(budget, until)
    }

    /// Gives each store its turn.
    pub(crate) fn turn(&mut self, now: Instant) {
        for shard in &mut self.shards {
            shard.turn(now);
        }
    }

    /// The next ticket that is ready.
    pub(crate) fn poll_ready(&mut self) -> Option<(Wait, Result<(), ReadError>)> {
        self.shards.iter_mut().find_map(|shard| {
            let (ticket, result) = shard.poll_ready()?;
            Some((Wait { shard: shard.index(), ticket }, result))
        })
    }

    /// What was brought in for a ticket may go.
    pub(crate) fn release(&mut self, wait: Wait) {
        self.by_index(wait.shard).release(wait.ticket);
    }

    /// What the job that has just run waits for, if it has to be run again.
    pub(crate) fn take_wait(&mut self) -> Option<Wait> {
        let wait = self.shards.iter_mut().find_map(Shard::take_wait)?;
        // It has shown nothing of the others either.
        self.take_holds();
        Some(wait)
    }

    /// Forgets what a job that is not run again was waiting for.
    pub(crate) fn forget_waits(&mut self) {
        self.shards.iter_mut().for_each(Shard::forget_wait);
    }

    /// What must be durable before what the job that has just run returned may be told.
    pub(crate) fn take_holds(&mut self) -> Holds {
        self.shards.iter_mut().filter_map(Shard::take_hold).collect()
    }

    /// What has become of a hold.
    pub(crate) fn standing(&self, hold: Hold) -> Standing {
        self.shards[usize::from(hold.shard - self.first)].standing(hold.position)
    }

    /// Up to where the holds of each shard have come to their end.
    pub(crate) fn decided(&self) -> SmallVec<[(u16, LogPosition); 8]> {
        self.shards.iter().map(|shard| (shard.index(), shard.decided())).collect()
    }

    /// Whether the stores have logs, and with them something to do in every turn.
    #[inline]
    pub(crate) fn have_logs(&self) -> bool {
        self.shards.first().is_some_and(Shard::has_log)
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
