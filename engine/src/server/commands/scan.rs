//! Commands over all keys: SCAN, KEYS, RANDOMKEY, DBSIZE, FLUSHDB, FLUSHALL.
//!
//! A cursor of SCAN is a token: the walk goes on at it, in token order, whatever was written in
//! between, on whatever core. A key that is there from the first call to the last is returned, and
//! no key twice.

mod replicated;

use std::pin::Pin;

use gridkv_cluster::{ShardRange, Token};
use gridkv_net::resp::Reply;

use super::strings::len_integer;
use super::{Failure, TaskCall, integer, is_word};
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

/// Walks one step from `from` on: the keys that match, and where to go on; `None` at the end of all
/// shards.
async fn step(
    handle: &Handle,
    from: Token,
    budget: usize,
    pattern: Option<&[u8]>,
) -> Result<(Vec<Vec<u8>>, Option<Token>), Error> {
    if handle.is_replicated() {
        let (mut keys, next) = replicated::step(handle, from, budget).await?;
        keys.retain(|key| pattern.is_none_or(|pattern| glob::matches(pattern, key)));
        return Ok((keys, next));
    }
    step_own(handle, from, budget, pattern).await
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
        let (mut next, mut keys, mut bytes) = (Some(Token(cursor)), Vec::new(), 0);
        while let Some(from) = next
            && budget > 0
            && bytes < SCAN_BYTES
        {
            let slots = budget.min(STEP_SLOTS);
            let (found, after) = step(&call.handle, from, slots, pattern).await?;
            bytes += found.iter().map(|key| KEY_OVERHEAD_BYTES + key.len()).sum::<usize>();
            keys.extend(found);
            next = after;
            budget -= slots;
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
        let (mut next, mut count, mut bytes) = (Some(Token::MIN), 0, 0);
        let (mut pieces, mut piece) = (vec![Vec::new()], Vec::new());
        while let Some(from) = next {
            let (found, after) = step(&call.handle, from, STEP_SLOTS, pattern).await?;
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
        let key_count = if call.handle.is_replicated() {
            replicated::key_count(&call.handle).await?
        } else {
            call.handle.stats().await?.key_count
        };
        let count = usize::try_from(key_count).unwrap_or(usize::MAX);
        call.reply(|reply| reply.integer(len_integer(count)));
        Ok(())
    })
}

/// `FLUSHDB [ASYNC | SYNC]`, `FLUSHALL [ASYNC | SYNC]`: the keys are gone at once; their memory is
/// freed in steps, so that no core stalls.
pub(super) fn flush(call: TaskCall) -> Task {
    Box::pin(async move {
        match &call.arguments[1..] {
            [] => {}
            [word] if is_word(word, "ASYNC") || is_word(word, "SYNC") => {}
            _ => return Err(Failure::Syntax),
        }
        call.handle.clear().await?;
        call.reply_ok();
        Ok(())
    })
}
