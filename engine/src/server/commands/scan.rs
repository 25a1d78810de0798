//! Commands over all keys: SCAN, KEYS, RANDOMKEY, DBSIZE, FLUSHDB, FLUSHALL.
//!
//! A cursor of SCAN is a token: the walk goes on at it, in token order, whatever was written in
//! between, on whatever core. A key that is there from the first call to the last is returned, and
//! no key twice. Where keys have copies on several nodes, it is the connection's [`Scope`] of them.

mod replicated;

use std::pin::Pin;

use gridkv_cluster::{ShardRange, Token};
use gridkv_net::resp::Reply;

use super::scope::{Scope, scope_of};
use super::strings::len_integer;
use super::{Failure, TaskCall, integer, is_word};
use crate::cluster::face::Leaders;
use crate::core::job::Tokens;
use crate::core::shards::Shards;
use crate::error::Error;
use crate::handle::Handle;
use crate::server::glob;

type Task = Pin<Box<dyn Future<Output = Result<(), Failure>>>>;

/// Index slots looked at in one step of a walk over everything: some two thousand keys, of which a step
/// copies those that match, in about a millisecond.
const STEP_SLOTS: usize = 256;

/// What a key takes in a reply, besides itself.
const KEY_OVERHEAD_BYTES: usize = 16;

/// A call of SCAN returns no more keys when it has so many bytes of them, whatever it was asked for.
const SCAN_BYTES: usize = 1 << 20;

/// Keys are written into pieces of so many bytes, so that no step copies or frees all of them.
const PIECE_BYTES: usize = 256 << 10;

/// A walk in the scope of a connection: over all keys, or those in slots that this node leads.
struct Walk(Option<Leaders>);

/// What one step of a walk has come to.
struct Step {
    /// The keys that match.
    keys: Vec<Vec<u8>>,
    /// Where to go on; `None` at the end of all shards.
    next: Option<Token>,
    /// How much of the budget it took.
    cost: usize,
}

impl Walk {
    async fn new(call: &TaskCall) -> Result<Self, Failure> {
        Ok(Self(match scope_of(call).await? {
            Scope::All => None,
            Scope::Led => Some(call.handle.leaders().await?),
        }))
    }

    /// The first token from `from` on that is walked over.
    fn enter(&self, from: Token) -> Option<Token> {
        self.0.as_ref().map_or(Some(from), |leaders| leaders.next_own(from))
    }

    /// Walks one step from `from` on.
    async fn step(
        &self,
        handle: &Handle,
        from: Token,
        budget: usize,
        pattern: Option<&[u8]>,
    ) -> Result<Step, Error> {
        if !handle.is_replicated() {
            let (keys, next) = step_own(handle, from, budget, pattern).await?;
            return Ok(Step { keys, next, cost: budget });
        }
        let (mut keys, next) = replicated::step(handle, from, budget, self.0.as_ref()).await?;
        // It ends where other nodes have the keys, which may be soon.
        let cost = keys.len().clamp(1, budget);
        keys.retain(|key| pattern.is_none_or(|pattern| glob::matches(pattern, key)));
        Ok(Step { keys, next: next.and_then(|token| self.enter(token)), cost })
    }
}

/// The keys of this node's own copies, and where to go on.
pub(crate) async fn walk_own(
    handle: &Handle,
    from: Token,
    budget: usize,
) -> Result<(Vec<Vec<u8>>, Option<Token>), Error> {
    step_own(handle, from, budget, None).await
}

async fn step_own(
    handle: &Handle,
    from: Token,
    budget: usize,
    pattern: Option<&[u8]>,
) -> Result<(Vec<Vec<u8>>, Option<Token>), Error> {
    let layout = handle.node().layout;
    let shard = ShardRange::owner(from, layout.shard_count);
    let pattern = pattern.map(<[u8]>::to_vec);
    let work = move |shards: &mut Shards| {
        let mut keys = Vec::new();
        let next = shards.of(from).walk(from, budget, &mut |entry| {
            if pattern.as_deref().is_none_or(|pattern| glob::matches(pattern, entry.key)) {
                keys.push(entry.key.to_vec());
            }
        })?;
        Ok((keys, next))
    };
    let (keys, next) = handle.again_on(layout.core_of(from), Tokens::new(), work).await?;
    let after = shard.0 + 1;
    let next = next.or_else(|| {
        (after < layout.shard_count).then(|| ShardRange::new(after, layout.shard_count).first())
    });
    Ok((keys, next))
}

/// `SCAN cursor [MATCH pattern] [COUNT n] [TYPE type]`
pub(super) fn scan(call: TaskCall) -> Task {
    Box::pin(async move {
        let cursor = std::str::from_utf8(&call.arguments[1]).ok().and_then(|it| it.parse().ok());
        let cursor: u64 = cursor.ok_or_else(|| Failure::text("ERR invalid cursor"))?;
        let mut budget = 10;
        let mut pattern = None;
        let mut are_wanted = true;
        let mut rest = call.arguments[2..].iter();
        while let Some(word) = rest.next() {
            let value = rest.next().ok_or(Failure::Syntax)?;
            if is_word(word, "COUNT") {
                budget = match usize::try_from(integer(value)?) {
                    Ok(count) if count > 0 => count,
                    _ => return Err(Failure::Syntax),
                };
            } else if is_word(word, "MATCH") {
                pattern = (value != b"*").then_some(value.as_slice());
            } else if is_word(word, "TYPE") {
                are_wanted = is_word(value, "string");
            } else {
                return Err(Failure::Syntax);
            }
        }
        let walk = Walk::new(&call).await?;
        let (mut next, mut keys, mut bytes) = (walk.enter(Token(cursor)), Vec::new(), 0);
        while let Some(from) = next
            && budget > 0
            && bytes < SCAN_BYTES
        {
            let slots = budget.min(STEP_SLOTS);
            let step = walk.step(&call.handle, from, slots, pattern).await?;
            bytes += step.keys.iter().map(|key| KEY_OVERHEAD_BYTES + key.len()).sum::<usize>();
            keys.extend(step.keys);
            next = step.next;
            budget -= step.cost;
        }
        if !are_wanted {
            keys.clear();
        }
        call.reply(|reply| {
            reply.array(2);
            reply.bulk(next.map_or(0, |token| token.0).to_string().as_bytes());
            write_keys(reply, &keys);
        });
        Ok(())
    })
}

/// `KEYS pattern`
pub(super) fn keys(call: TaskCall) -> Task {
    Box::pin(async move {
        let pattern = &call.arguments[1];
        let pattern = (pattern != b"*").then_some(pattern.as_slice());
        let limit = call.handle.node().config.output_limit;
        let walk = Walk::new(&call).await?;
        let (mut next, mut count, mut bytes) = (walk.enter(Token::MIN), 0, 0);
        let (mut pieces, mut piece) = (vec![Vec::new()], Vec::new());
        while let Some(from) = next {
            let Step { keys: found, next: after, .. } =
                walk.step(&call.handle, from, STEP_SLOTS, pattern).await?;
            bytes += found.iter().map(|key| KEY_OVERHEAD_BYTES + key.len()).sum::<usize>();
            if bytes > limit {
                return Err(Failure::text("ERR more keys than output_limit allows: use SCAN"));
            }
            count += found.len();
            let mut reply = Reply::new(&mut piece, call.protocol);
            found.iter().for_each(|key| reply.bulk(key));
            if piece.len() >= PIECE_BYTES {
                pieces.push(std::mem::take(&mut piece));
            }
            next = after;
        }
        // How many there are is said first and known last.
        Reply::new(&mut pieces[0], call.protocol).array(count);
        call.pieces.replace(pieces);
        call.out.replace(piece);
        Ok(())
    })
}

fn write_keys(reply: &mut Reply<'_>, keys: &[Vec<u8>]) {
    reply.array(keys.len());
    for key in keys {
        reply.bulk(key);
    }
}

/// `RANDOMKEY`
pub(super) fn random_key(call: TaskCall) -> Task {
    Box::pin(async move {
        if call.handle.is_replicated() {
            let drawn = replicated::random_key(&call.handle).await?;
            call.reply(|reply| match drawn {
                Some(key) => reply.bulk(&key),
                None => reply.null(),
            });
            return Ok(());
        }
        let counts = call.handle.run_on_all(|shard| shard.stats().key_count).await?;
        let total: u64 = counts.iter().sum();
        // Each shard with the weight of its keys.
        let mut at = if total == 0 { 0 } else { fastrand::u64(0..total) };
        let chosen = counts.iter().position(|key_count| {
            let is_here = at < *key_count;
            at = at.saturating_sub(*key_count);
            is_here
        });
        let Some(chosen) = chosen else {
            call.reply(|reply| reply.null());
            return Ok(());
        };
        // Where all have expired, another shard may have some.
        let mut shards = (chosen..counts.len()).chain(0..chosen);
        let drawn = loop {
            let Some(shard) = shards.next() else { break None };
            let drawn = draw(&call.handle, u16::try_from(shard).expect("a shard's number")).await?;
            if drawn.is_some() {
                break drawn;
            }
        };
        call.reply(|reply| match drawn {
            Some(key) => reply.bulk(&key),
            None => reply.null(),
        });
        Ok(())
    })
}

/// Draws a key of one shard.
async fn draw(handle: &Handle, shard: u16) -> Result<Option<Vec<u8>>, Error> {
    let layout = handle.node().layout;
    let first = ShardRange::new(shard, layout.shard_count).first();
    let work = move |shards: &mut Shards| shards.of(first).random_key();
    handle.again_on(layout.core_of(first), Tokens::new(), work).await
}

/// `DBSIZE`
pub(super) fn db_size(call: TaskCall) -> Task {
    Box::pin(async move {
        let key_count = match Walk::new(&call).await? {
            Walk(Some(leaders)) => led_key_count(&call.handle, leaders).await?,
            Walk(None) if call.handle.is_replicated() => {
                replicated::key_count(&call.handle).await?
            }
            Walk(None) => call.handle.stats().await?.key_count,
        };
        let count = usize::try_from(key_count).unwrap_or(usize::MAX);
        call.reply(|reply| reply.integer(len_integer(count)));
        Ok(())
    })
}

/// How many keys there are in slots that this node leads. They are counted as long as there are few;
/// of more it is the node's part of all keys, so that the parts of all nodes add up.
async fn led_key_count(handle: &Handle, leaders: Leaders) -> Result<u64, Error> {
    const COUNTED_MAX: u64 = 20_000;
    let all = replicated::key_count(handle).await?;
    if all > COUNTED_MAX {
        return Ok(leaders.part_of(all));
    }
    let walk = Walk(Some(leaders));
    let (mut next, mut count) = (walk.enter(Token::MIN), 0);
    while let Some(from) = next {
        let step = walk.step(handle, from, STEP_SLOTS, None).await?;
        count += step.keys.len() as u64;
        next = step.next;
    }
    Ok(count)
}

/// `FLUSHDB [ASYNC | SYNC]`, `FLUSHALL [ASYNC | SYNC]`: the keys are gone at once; their memory is
/// freed in steps, so that no core stalls.
///
/// A client that knows of the cluster sends it to each master. The first one flushes all nodes; those
/// after it find nothing to be flushed, unless somebody has written meanwhile.
pub(super) fn flush(call: TaskCall) -> Task {
    Box::pin(async move {
        match &call.arguments[1..] {
            [] => {}
            [word] if is_word(word, "ASYNC") || is_word(word, "SYNC") => {}
            _ => return Err(Failure::Syntax),
        }
        if !call.handle.is_replicated() || !replicated::is_empty(&call.handle).await? {
            call.handle.clear().await?;
        }
        call.reply_ok();
        Ok(())
    })
}
