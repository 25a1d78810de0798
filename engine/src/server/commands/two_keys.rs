//! Commands whose keys belong together: RENAME, RENAMENX, COPY, MSETNX, LCS.
//!
//! # What is atomic when the keys live on different cores
//!
//! - `RENAME`, `RENAMENX`, `COPY`: the new key is written in one step. `RENAME` then removes the old
//!   one, unless it was written meanwhile; a reader may see both keys for a moment, never neither.
//! - `MSETNX`: core by core, in order. Where a key turns out to exist, what this command has
//!   written on earlier cores is removed again, unless it was written over meanwhile. So all keys
//!   are set or none, but another client may for a moment see some of a set that is then given up,
//!   and another `MSETNX` that meets such a key fails.
//! - `LCS`: each value is read in one step.
//!
//! In a cluster every key is treated as if it lived on a core of its own, each by an agreed change.
//!
//! With a store on disk, a write can have to wait for room in the log. What is atomic on one core
//! above is then so up to there: a command that waits between two writes goes on with the second,
//! as between two cores.

use std::collections::BTreeMap;
use std::pin::Pin;

use gridkv_cluster::Version;
use gridkv_net::resp::Reply;

use super::{Failure, TaskCall, integer, is_word};
use crate::core::job::{Access, Tokens};
use crate::core::shards::Shards;
use crate::error::Error;
use crate::handle::Handle;
use crate::shard::{Condition, Expiry, Key, SetOptions, SetOutcome, Shard, Versioned};

type Task = Pin<Box<dyn Future<Output = Result<(), Failure>>>>;

/// What a move or copy came to.
enum Moved {
    Done,
    NoSource,
    TargetExists,
}

/// How to move.
#[derive(Clone, Copy)]
struct Move {
    removes_source: bool,
    replaces_target: bool,
}

/// `RENAME key newkey`
pub(super) fn rename(call: TaskCall) -> Task {
    Box::pin(async move {
        let how = Move { removes_source: true, replaces_target: true };
        match move_key(&call.handle, &call.arguments[1], &call.arguments[2], how).await? {
            Moved::NoSource => Err(Failure::NoSuchKey),
            Moved::Done | Moved::TargetExists => {
                call.reply_ok();
                Ok(())
            }
        }
    })
}

/// `RENAMENX key newkey`
pub(super) fn rename_if_absent(call: TaskCall) -> Task {
    Box::pin(async move {
        let how = Move { removes_source: true, replaces_target: false };
        match move_key(&call.handle, &call.arguments[1], &call.arguments[2], how).await? {
            Moved::NoSource => return Err(Failure::NoSuchKey),
            Moved::Done => call.reply(|reply| reply.integer(1)),
            Moved::TargetExists => call.reply(|reply| reply.integer(0)),
        }
        Ok(())
    })
}

/// `COPY source destination [DB 0] [REPLACE]`
pub(super) fn copy(call: TaskCall) -> Task {
    Box::pin(async move {
        let mut how = Move { removes_source: false, replaces_target: false };
        let mut rest = call.arguments[3..].iter();
        while let Some(word) = rest.next() {
            if is_word(word, "REPLACE") {
                how.replaces_target = true;
            } else if is_word(word, "DB") {
                if integer(rest.next().ok_or(Failure::Syntax)?)? != 0 {
                    return Err(Failure::text("ERR DB index is out of range"));
                }
            } else {
                return Err(Failure::Syntax);
            }
        }
        if call.arguments[1] == call.arguments[2] {
            return Err(Failure::text("ERR source and destination objects are the same"));
        }
        let moved = move_key(&call.handle, &call.arguments[1], &call.arguments[2], how).await?;
        call.reply(|reply| reply.integer(i64::from(matches!(moved, Moved::Done))));
        Ok(())
    })
}

async fn move_key(
    handle: &Handle,
    source: &[u8],
    target: &[u8],
    how: Move,
) -> Result<Moved, Failure> {
    let layout = handle.node().layout;
    let token_key = handle.node().token_keys.current();
    let (from, to) = (Key::new(token_key, source), Key::new(token_key, target));
    if !handle.is_replicated() && layout.core_of(from.token) == layout.core_of(to.token) {
        let (source, target) = (source.to_vec(), target.to_vec());
        let core = layout.core_of(from.token);
        let tokens = Tokens::from_slice(&[from.token, to.token]);
        let mut written = None;
        let work =
            move |shards: &mut Shards| move_on_core(shards, &source, &target, how, &mut written);
        return Ok(handle.again_on(core, tokens, work).await?);
    }
    let Some(found) = handle.get_versioned(source).await? else { return Ok(Moved::NoSource) };
    let condition = if how.replaces_target { Condition::Always } else { Condition::Absent };
    let expiry = found.expires_at.map_or(Expiry::Never, Expiry::At);
    let options = SetOptions { expiry, condition, ..SetOptions::default() };
    let outcome = handle.set_with(target, found.value, options).await?;
    if outcome == SetOutcome::ConditionFailed {
        return Ok(Moved::TargetExists);
    }
    if how.removes_source {
        remove_version(handle, source.to_vec(), found.version).await?;
    }
    Ok(Moved::Done)
}

/// Moves within a core. `written` is the version of the source that has been written to the target,
/// for when this is run again because the log had no room to remove the source.
fn move_on_core(
    shards: &mut Shards,
    source: &[u8],
    target: &[u8],
    how: Move,
    written: &mut Option<Version>,
) -> Result<Moved, Error> {
    let token_key = shards.token_key();
    let (from, to) = (Key::new(token_key, source), Key::new(token_key, target));
    if let Some(version) = *written {
        shards.of(from.token).remove_version(from, version)?;
        return Ok(Moved::Done);
    }
    let found = shards.of(from.token).get_versioned(source)?;
    let Some(Versioned { value, expires_at, version }) = found else {
        return Ok(Moved::NoSource);
    };
    if !how.replaces_target && shards.of(to.token).has(to)? {
        return Ok(Moved::TargetExists);
    }
    if source == target {
        return Ok(Moved::Done);
    }
    shards.of(to.token).write(to, &value, expires_at)?;
    if how.removes_source {
        *written = Some(version);
        shards.of(from.token).remove(from)?;
    }
    Ok(Moved::Done)
}

/// Removes a key if its value is still the one of `version`.
async fn remove_version(handle: &Handle, key: Vec<u8>, version: Version) -> Result<(), Error> {
    let remove =
        move |shard: &mut Shard, bytes: &[u8]| shard.remove_version(shard.key(bytes), version);
    handle.on_owner(Access::Write, key, remove).await
}

type Pairs = Vec<(Vec<u8>, Vec<u8>)>;
/// What was written, for taking it back; `None` when a key existed.
type Written = Option<Vec<(Vec<u8>, Version)>>;

/// `MSETNX key value [key value ...]`
pub(super) fn set_all_if_absent(call: TaskCall) -> Task {
    Box::pin(async move {
        if call.arguments.len().is_multiple_of(2) {
            return Err(Failure::Arity("msetnx".to_owned()));
        }
        if call.handle.is_replicated() {
            return set_replicated_if_absent(call).await;
        }
        let layout = call.handle.node().layout;
        let mut by_core: BTreeMap<usize, Pairs> = BTreeMap::new();
        for pair in call.arguments[1..].chunks_exact(2) {
            let core = layout.core_of(call.handle.token_of(&pair[0]));
            by_core.entry(core).or_default().push((pair[0].clone(), pair[1].clone()));
        }
        let mut undo = Vec::new();
        let mut outcome = Ok(true);
        for (core, pairs) in by_core {
            let tokens = pairs.iter().map(|(key, _)| call.handle.token_of(key)).collect();
            let mut setting = SetIfAbsent::new(pairs);
            let work = move |shards: &mut Shards| setting.run(shards);
            match call.handle.again_on(core, tokens, work).await {
                Ok(Some(written)) => undo.extend(written),
                Ok(None) => outcome = Ok(false),
                Err(error) => outcome = Err(error),
            }
            if outcome != Ok(true) {
                break;
            }
        }
        if outcome != Ok(true) {
            for (key, version) in undo {
                remove_version(&call.handle, key, version).await?;
            }
        }
        let is_set = outcome?;
        call.reply(|reply| reply.integer(i64::from(is_set)));
        Ok(())
    })
}

/// `MSETNX` where keys have copies on other nodes: key by key, each agreed on.
async fn set_replicated_if_absent(call: TaskCall) -> Result<(), Failure> {
    let mut written: Vec<(Vec<u8>, Version)> = Vec::new();
    let mut outcome = Ok(true);
    for pair in call.arguments[1..].chunks_exact(2) {
        let own = written.iter().find(|(own, _)| *own == pair[0]).map(|(_, version)| *version);
        // The same key twice: the later value counts.
        let condition = own.map_or(Condition::Absent, Condition::Version);
        let options = SetOptions { condition, ..SetOptions::default() };
        match call.handle.set_with(&pair[0], pair[1].clone(), options).await {
            Ok(SetOutcome::Written(version)) => written.push((pair[0].clone(), version)),
            Ok(SetOutcome::ConditionFailed) => outcome = Ok(false),
            Err(error) => outcome = Err(error),
        }
        if outcome != Ok(true) {
            break;
        }
    }
    if outcome != Ok(true) {
        for (key, version) in written {
            remove_version(&call.handle, key, version).await?;
        }
    }
    let is_set = outcome?;
    call.reply(|reply| reply.integer(i64::from(is_set)));
    Ok(())
}

/// Sets all pairs of one core, or none. Knows how far it has come, for when it is run again because
/// the log had no room.
struct SetIfAbsent {
    pairs: Pairs,
    /// What was written, in the order of the pairs.
    written: Vec<(Vec<u8>, Version)>,
    /// What was written is taken back, and this is what came of it.
    given_up: Option<Result<Written, Error>>,
}

impl SetIfAbsent {
    fn new(pairs: Pairs) -> Self {
        Self { pairs, written: Vec::new(), given_up: None }
    }

    fn run(&mut self, shards: &mut Shards) -> Result<Written, Error> {
        if self.given_up.is_none() {
            match self.set(shards) {
                Ok(true) => return Ok(Some(std::mem::take(&mut self.written))),
                Ok(false) => self.given_up = Some(Ok(None)),
                Err(Error::Busy) => return Err(Error::Busy),
                Err(error) => self.given_up = Some(Err(error)),
            }
        }
        while let Some((key, version)) = self.written.last() {
            let key = Key::new(shards.token_key(), key);
            shards.of(key.token).remove_version(key, *version)?;
            self.written.pop();
        }
        self.given_up.take().expect("it was given up")
    }

    /// Sets what is left; whether all of it could be.
    fn set(&mut self, shards: &mut Shards) -> Result<bool, Error> {
        let left = &self.pairs[self.written.len()..];
        for (key, _) in left {
            let key = Key::new(shards.token_key(), key);
            // The same key twice: the later value counts.
            let is_own = self.written.iter().any(|(own, _)| own == key.bytes);
            if !is_own && shards.of(key.token).has(key)? {
                return Ok(false);
            }
        }
        for (key, value) in left {
            let key = Key::new(shards.token_key(), key);
            let shard = shards.of(key.token);
            shard.write(key, value, None)?;
            self.written.push((key.bytes.to_vec(), shard.latest()));
        }
        Ok(true)
    }
}

/// What `LCS` is told beside its keys.
#[derive(Default)]
struct LcsOptions {
    wants_len: bool,
    wants_matches: bool,
    wants_match_len: bool,
    match_len_min: usize,
}

/// A range of the first value, one of the second, inclusive, and their length.
type Match = ((usize, usize), (usize, usize), usize);

/// `LCS key1 key2 [LEN] [IDX] [MINMATCHLEN n] [WITHMATCHLEN]`: the longest common subsequence.
pub(super) fn longest_common_subsequence(call: TaskCall) -> Task {
    /// Cells of the table, of 4 bytes each: as long as it is made, nobody else can have them.
    const CELL_COUNT_MAX: usize = 16 << 20;
    Box::pin(async move {
        let options = parse_lcs(&call.arguments[3..])?;
        let a = call.handle.get(&call.arguments[1]).await?.unwrap_or_default();
        let b = call.handle.get(&call.arguments[2]).await?.unwrap_or_default();
        if (a.len() + 1).saturating_mul(b.len() + 1) > CELL_COUNT_MAX {
            return Err(Failure::text(format!(
                "ERR Insufficient memory, transient memory for LCS exceeds {} MiB",
                (CELL_COUNT_MAX * size_of::<u32>()) >> 20
            )));
        }
        let table = lcs_table(&a, &b).await;
        let len = i64::from(*table.last().expect("the table has a corner"));
        if options.wants_len {
            call.reply(|reply| reply.integer(len));
            return Ok(());
        }
        let (common, matches) = lcs_walk(&table, &a, &b);
        if options.wants_matches {
            call.reply(|reply| write_matches(reply, &options, &matches, len));
        } else {
            call.reply(|reply| reply.bulk(&common));
        }
        Ok(())
    })
}

fn parse_lcs(words: &[Vec<u8>]) -> Result<LcsOptions, Failure> {
    let mut options = LcsOptions::default();
    let mut rest = words.iter();
    while let Some(word) = rest.next() {
        match word {
            _ if is_word(word, "LEN") => options.wants_len = true,
            _ if is_word(word, "IDX") => options.wants_matches = true,
            _ if is_word(word, "WITHMATCHLEN") => options.wants_match_len = true,
            _ if is_word(word, "MINMATCHLEN") => {
                let len = integer(rest.next().ok_or(Failure::Syntax)?)?;
                options.match_len_min = usize::try_from(len).unwrap_or(0);
            }
            _ => return Err(Failure::Syntax),
        }
    }
    if options.wants_len && options.wants_matches {
        let text = "ERR If you want both the length and indexes, please just use IDX.";
        return Err(Failure::text(text));
    }
    Ok(options)
}

/// Lengths of the longest common subsequences of all prefixes, row by row (Wagner and Fischer,
/// "The string-to-string correction problem", 1974). Others have their turn in between.
async fn lcs_table(a: &[u8], b: &[u8]) -> Vec<u32> {
    let width = b.len() + 1;
    let mut table = vec![0_u32; (a.len() + 1) * width];
    let mut cells_since_yield = 0;
    for (i, byte) in a.iter().enumerate() {
        let (above, row) = table[i * width..(i + 2) * width].split_at_mut(width);
        for (j, other) in b.iter().enumerate() {
            row[j + 1] = if byte == other { above[j] + 1 } else { above[j + 1].max(row[j]) };
        }
        cells_since_yield += width;
        if cells_since_yield > 100_000 {
            cells_since_yield = 0;
            futures_lite::future::yield_now().await;
        }
    }
    table
}

/// Walks the table back: the subsequence, and the runs it is made of, last first.
fn lcs_walk(table: &[u32], a: &[u8], b: &[u8]) -> (Vec<u8>, Vec<Match>) {
    let width = b.len() + 1;
    let (mut i, mut j) = (a.len(), b.len());
    let mut common = Vec::new();
    let mut matches: Vec<Match> = Vec::new();
    while i > 0 && j > 0 {
        if a[i - 1] == b[j - 1] {
            common.push(a[i - 1]);
            match matches.last_mut() {
                Some((in_a, in_b, len)) if in_a.0 == i && in_b.0 == j => {
                    in_a.0 = i - 1;
                    in_b.0 = j - 1;
                    *len += 1;
                }
                _ => matches.push(((i - 1, i - 1), (j - 1, j - 1), 1)),
            }
            i -= 1;
            j -= 1;
        } else if table[(i - 1) * width + j] > table[i * width + j - 1] {
            i -= 1;
        } else {
            j -= 1;
        }
    }
    common.reverse();
    (common, matches)
}

fn write_matches(reply: &mut Reply<'_>, options: &LcsOptions, matches: &[Match], len: i64) {
    let index = |at: usize| i64::try_from(at).unwrap_or(i64::MAX);
    let shown: Vec<&Match> =
        matches.iter().filter(|(_, _, len)| *len >= options.match_len_min).collect();
    reply.map(2);
    reply.bulk(b"matches");
    reply.array(shown.len());
    for (in_a, in_b, match_len) in shown {
        reply.array(if options.wants_match_len { 3 } else { 2 });
        for (first, last) in [in_a, in_b] {
            reply.array(2);
            reply.integer(index(*first));
            reply.integer(index(*last));
        }
        if options.wants_match_len {
            reply.integer(index(*match_len));
        }
    }
    reply.bulk(b"len");
    reply.integer(len);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_common_subsequence_of_redis_own_example_is_found() {
        let (a, b) = (b"ohmytext", b"mynewtext");
        let table = futures_lite::future::block_on(lcs_table(a, b));
        assert_eq!(table.last(), Some(&6));
        let (common, matches) = lcs_walk(&table, a, b);
        assert_eq!(common, b"mytext");
        assert_eq!(matches, [((4, 7), (5, 8), 4), ((2, 3), (0, 1), 2)]);
    }

    #[test]
    fn nothing_in_common_is_nothing() {
        let table = futures_lite::future::block_on(lcs_table(b"abc", b""));
        assert_eq!(lcs_walk(&table, b"abc", b""), (Vec::new(), Vec::new()));
    }
}
