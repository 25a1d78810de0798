//! Commands on one key, whatever its value: expiry, TYPE, OBJECT, MEMORY USAGE.

use super::strings::{Unit, millis};
use super::{Failure, KeyCall, integer, is_word};
use crate::shard::Key;

type Result<T = ()> = std::result::Result<T, Failure>;

/// `TYPE key`
pub(super) fn kind(call: &mut KeyCall<'_, '_>) -> Result {
    let is_there = call.shard.has(call.key)?;
    call.reply.simple(if is_there { "string" } else { "none" });
    Ok(())
}

/// `EXPIRE key seconds [NX | XX | GT | LT]`
pub(super) fn expire(call: &mut KeyCall<'_, '_>) -> Result {
    set_expiry(call, Unit::Seconds, "expire")
}

/// `PEXPIRE key milliseconds [NX | XX | GT | LT]`
pub(super) fn expire_millis(call: &mut KeyCall<'_, '_>) -> Result {
    set_expiry(call, Unit::Millis, "pexpire")
}

/// `EXPIREAT key unix-time-seconds [NX | XX | GT | LT]`
pub(super) fn expire_at(call: &mut KeyCall<'_, '_>) -> Result {
    set_expiry(call, Unit::SecondsAt, "expireat")
}

/// `PEXPIREAT key unix-time-milliseconds [NX | XX | GT | LT]`
pub(super) fn expire_at_millis(call: &mut KeyCall<'_, '_>) -> Result {
    set_expiry(call, Unit::MillisAt, "pexpireat")
}

#[derive(Default)]
struct OnlyIf {
    nx: bool,
    xx: bool,
    gt: bool,
    lt: bool,
}

fn parse_only_if(words: &[&[u8]]) -> Result<OnlyIf> {
    let mut only_if = OnlyIf::default();
    for word in words {
        let flag = match word {
            _ if is_word(word, "NX") => &mut only_if.nx,
            _ if is_word(word, "XX") => &mut only_if.xx,
            _ if is_word(word, "GT") => &mut only_if.gt,
            _ if is_word(word, "LT") => &mut only_if.lt,
            _ => {
                return Err(Failure::text(format!("ERR Unsupported option {}", super::text(word))));
            }
        };
        *flag = true;
    }
    if only_if.nx && (only_if.xx || only_if.gt || only_if.lt) {
        let text = "ERR NX and XX, GT or LT options at the same time are not compatible";
        return Err(Failure::text(text));
    }
    if only_if.gt && only_if.lt {
        let text = "ERR GT and LT options at the same time are not compatible";
        return Err(Failure::text(text));
    }
    Ok(only_if)
}

fn set_expiry(call: &mut KeyCall<'_, '_>, unit: Unit, name: &str) -> Result {
    let amount = integer(call.arguments[2])?;
    let only_if = parse_only_if(&call.arguments[3..])?;
    let Some(instant) = unit.instant(amount, call.shard.now()) else {
        return Err(Failure::InvalidExpire(name.to_owned()));
    };
    let Some(record) = call.shard.look(call.key)? else {
        call.reply.integer(0);
        return Ok(());
    };
    // No expiry counts as one that never comes.
    let current = record.expires_at;
    let holds = !(only_if.nx && current.is_some()
        || only_if.xx && current.is_none()
        || only_if.gt && current.is_none_or(|current| instant <= current)
        || only_if.lt && current.is_some_and(|current| instant >= current));
    if holds {
        call.shard.set_expiry(call.key, Some(instant))?;
    }
    call.reply.integer(i64::from(holds));
    Ok(())
}

/// `PERSIST key`
pub(super) fn persist(call: &mut KeyCall<'_, '_>) -> Result {
    let expires = call.shard.look(call.key)?.is_some_and(|record| record.expires_at.is_some());
    if expires {
        call.shard.set_expiry(call.key, None)?;
    }
    call.reply.integer(i64::from(expires));
    Ok(())
}

/// What TTL and its kin make of an expiry: -2 without a key, -1 without an expiry.
fn reply_expiry(call: &mut KeyCall<'_, '_>, of: impl FnOnce(i64, i64) -> i64) -> Result {
    let now = i64::try_from(call.shard.now().as_millis()).unwrap_or(i64::MAX);
    let reply = match call.shard.look(call.key)? {
        None => -2,
        Some(record) => match record.expires_at {
            None => -1,
            // It was alive when that was judged: a moment may have passed since.
            Some(at) => of(i64::try_from(at.as_millis()).unwrap_or(i64::MAX).max(now), now),
        },
    };
    call.reply.integer(reply);
    Ok(())
}

/// `TTL key`: seconds, rounded as Redis does.
pub(super) fn time_to_live(call: &mut KeyCall<'_, '_>) -> Result {
    reply_expiry(call, |at, now| (at - now + 500) / 1_000)
}

/// `PTTL key`
pub(super) fn time_to_live_millis(call: &mut KeyCall<'_, '_>) -> Result {
    reply_expiry(call, |at, now| at - now)
}

/// `EXPIRETIME key`
pub(super) fn expire_time(call: &mut KeyCall<'_, '_>) -> Result {
    reply_expiry(call, |at, _| (at + 500) / 1_000)
}

/// `PEXPIRETIME key`
pub(super) fn expire_time_millis(call: &mut KeyCall<'_, '_>) -> Result {
    reply_expiry(call, |at, _| at)
}

/// `OBJECT ENCODING key`: what Redis would call a string like this.
pub(super) fn object_encoding(call: &mut KeyCall<'_, '_>) -> Result {
    match call.shard.look(call.key)? {
        None => call.reply.null(),
        Some(record) if crate::shard::parse_integer(record.value).is_some() => {
            call.reply.bulk(b"int");
        }
        Some(record) if record.value.len() <= 44 => call.reply.bulk(b"embstr"),
        Some(_) => call.reply.bulk(b"raw"),
    }
    Ok(())
}

/// `OBJECT REFCOUNT key`
pub(super) fn object_refcount(call: &mut KeyCall<'_, '_>) -> Result {
    if call.shard.has(call.key)? {
        call.reply.integer(1);
    } else {
        call.reply.null();
    }
    Ok(())
}

/// `OBJECT IDLETIME key`: seconds since the last use.
#[expect(clippy::unnecessary_wraps, reason = "one of several of this type")]
pub(super) fn object_idle_time(call: &mut KeyCall<'_, '_>) -> Result {
    match call.shard.idle_time(call.key) {
        None => call.reply.null(),
        Some(idle) => call.reply.integer(millis(idle) / 1_000),
    }
    Ok(())
}

/// `OBJECT FREQ key`: how often it was used of late, 0 to 15.
pub(super) fn object_frequency(call: &mut KeyCall<'_, '_>) -> Result {
    if !call.shard.has(call.key)? {
        call.reply.null();
        return Ok(());
    }
    let Some(frequency) = call.shard.frequency(call.key) else {
        return Err(Failure::text(
            "ERR An LFU maxmemory policy is not selected, access frequency not tracked. Please \
             note that when switching between policies at runtime LRU and LFU data will take some \
             time to adjust.",
        ));
    };
    call.reply.integer(i64::from(frequency));
    Ok(())
}

/// `MEMORY USAGE key [SAMPLES n]`: bytes of the record, its slot in the index included.
pub(super) fn memory_usage(call: &mut KeyCall<'_, '_>) -> Result {
    match call.arguments[3..] {
        [] => {}
        [word, count] if is_word(word, "SAMPLES") => {
            if integer(count)? < 0 {
                return Err(Failure::Syntax);
            }
        }
        _ => return Err(Failure::Syntax),
    }
    let key: Key<'_> = call.key;
    match call.shard.record_bytes(key) {
        None => call.reply.null(),
        Some(bytes) => call.reply.integer(i64::try_from(bytes).unwrap_or(i64::MAX)),
    }
    Ok(())
}
