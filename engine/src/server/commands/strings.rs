//! Commands on the value of one key: GET, SET and their kin.

use std::time::Duration;

use gridkv_cluster::WallTime;
use rust_decimal::Decimal;

use super::{Failure, KeyCall, integer, is_word};
use crate::error::Error;

type Result<T = ()> = std::result::Result<T, Failure>;

/// `GET key`
pub(super) fn get(call: &mut KeyCall<'_, '_>) -> Result {
    match call.shard.read(call.key)? {
        Some(record) => call.reply.bulk(record.value),
        None => call.reply.null(),
    }
    Ok(())
}

/// What `SET` is told beside key and value.
#[derive(Default)]
struct SetArguments<'a> {
    only_if: Option<OnlyIf<'a>>,
    wants_old: bool,
    expiry: SetExpiry,
}

impl SetArguments<'_> {
    /// Whether it is not enough to know if the key has a value.
    fn needs_record(&self) -> bool {
        self.wants_old
            || self.expiry == SetExpiry::Keep
            || matches!(self.only_if, Some(OnlyIf::Equal(_)))
    }
}

#[derive(Clone, Copy)]
enum OnlyIf<'a> {
    Absent,
    Present,
    Equal(&'a [u8]),
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum SetExpiry {
    #[default]
    Never,
    Keep,
    At(WallTime),
}

/// Units of a time given to a command, and what it counts from.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Unit {
    Seconds,
    Millis,
    SecondsAt,
    MillisAt,
}

impl Unit {
    fn of_option(word: &[u8]) -> Option<Self> {
        let units = [
            ("EX", Self::Seconds),
            ("PX", Self::Millis),
            ("EXAT", Self::SecondsAt),
            ("PXAT", Self::MillisAt),
        ];
        units.into_iter().find(|(name, _)| is_word(word, name)).map(|(_, unit)| unit)
    }

    /// The instant that `amount` of the unit means; `None` when it cannot be represented. It may
    /// lie before `now`.
    pub(super) fn instant(self, amount: i64, now: WallTime) -> Option<WallTime> {
        let millis = match self {
            Self::Seconds | Self::SecondsAt => amount.checked_mul(1_000)?,
            Self::Millis | Self::MillisAt => amount,
        };
        let now = i64::try_from(now.as_millis()).ok()?;
        let at = match self {
            Self::Seconds | Self::Millis => now.checked_add(millis)?,
            Self::SecondsAt | Self::MillisAt => millis,
        };
        let at = u64::try_from(at.max(0)).ok()?;
        (at <= WallTime::MAX.as_millis()).then(|| WallTime::from_millis(at))
    }
}

/// A time that an option gives, which must be positive.
fn positive_time(unit: Unit, amount: &[u8], now: WallTime, name: &str) -> Result<WallTime> {
    let amount = integer(amount)?;
    let instant = if amount > 0 { unit.instant(amount, now) } else { None };
    instant.ok_or_else(|| Failure::InvalidExpire(name.to_owned()))
}

fn parse_set<'a>(arguments: &[&'a [u8]], now: WallTime) -> Result<SetArguments<'a>> {
    let mut parsed = SetArguments::default();
    let mut rest = arguments.iter().copied();
    while let Some(word) = rest.next() {
        let only_if = if is_word(word, "NX") {
            Some(OnlyIf::Absent)
        } else if is_word(word, "XX") {
            Some(OnlyIf::Present)
        } else if is_word(word, "IFEQ") {
            Some(OnlyIf::Equal(rest.next().ok_or(Failure::Syntax)?))
        } else {
            None
        };
        if only_if.is_some() {
            if parsed.only_if.is_some() {
                return Err(Failure::Syntax);
            }
            parsed.only_if = only_if;
        } else if is_word(word, "GET") {
            parsed.wants_old = true;
        } else {
            if parsed.expiry != SetExpiry::Never {
                return Err(Failure::Syntax);
            }
            parsed.expiry = if is_word(word, "KEEPTTL") {
                SetExpiry::Keep
            } else {
                let unit = Unit::of_option(word).ok_or(Failure::Syntax)?;
                let amount = rest.next().ok_or(Failure::Syntax)?;
                SetExpiry::At(positive_time(unit, amount, now, "set")?)
            };
        }
    }
    Ok(parsed)
}

/// `SET key value [NX | XX | IFEQ value] [GET] [EX s | PX ms | EXAT s | PXAT ms | KEEPTTL]`
pub(super) fn set(call: &mut KeyCall<'_, '_>) -> Result {
    let value = call.arguments[2];
    if call.arguments.len() == 3 {
        call.shard.write(call.key, value, None)?;
        call.reply.ok();
        return Ok(());
    }
    let options = parse_set(&call.arguments[3..], call.shard.now())?;
    let mut expires_at = match options.expiry {
        SetExpiry::Never | SetExpiry::Keep => None,
        SetExpiry::At(instant) => Some(instant),
    };
    let holds = if options.needs_record() {
        let current = call.shard.read(call.key)?;
        if options.expiry == SetExpiry::Keep {
            expires_at = current.and_then(|record| record.expires_at);
        }
        if options.wants_old {
            match current {
                Some(record) => call.reply.bulk(record.value),
                None => call.reply.null(),
            }
        }
        match options.only_if {
            None => true,
            Some(OnlyIf::Absent) => current.is_none(),
            Some(OnlyIf::Present) => current.is_some(),
            Some(OnlyIf::Equal(expected)) => current.is_some_and(|record| record.value == expected),
        }
    } else {
        match options.only_if {
            Some(only_if) => call.shard.uses(call.key)? == matches!(only_if, OnlyIf::Present),
            None => true,
        }
    };
    if holds {
        write_or_remove(call, value, expires_at)?;
    }
    match (options.wants_old, holds) {
        (true, _) => {}
        (false, true) => call.reply.ok(),
        (false, false) => call.reply.null(),
    }
    Ok(())
}

/// Writes a value whose time may have passed already, which deletes.
fn write_or_remove(
    call: &mut KeyCall<'_, '_>,
    value: &[u8],
    expires_at: Option<WallTime>,
) -> Result {
    if expires_at.is_some_and(|instant| instant <= call.shard.now()) {
        call.shard.remove(call.key)?;
    } else {
        call.shard.write(call.key, value, expires_at)?;
    }
    Ok(())
}

/// `SETNX key value`
pub(super) fn set_if_absent(call: &mut KeyCall<'_, '_>) -> Result {
    let is_absent = !call.shard.uses(call.key)?;
    if is_absent {
        call.shard.write(call.key, call.arguments[2], None)?;
    }
    call.reply.integer(i64::from(is_absent));
    Ok(())
}

/// `SETEX key seconds value`
pub(super) fn set_seconds(call: &mut KeyCall<'_, '_>) -> Result {
    set_for(call, Unit::Seconds, "setex")
}

/// `PSETEX key milliseconds value`
pub(super) fn set_millis(call: &mut KeyCall<'_, '_>) -> Result {
    set_for(call, Unit::Millis, "psetex")
}

fn set_for(call: &mut KeyCall<'_, '_>, unit: Unit, name: &str) -> Result {
    let instant = positive_time(unit, call.arguments[2], call.shard.now(), name)?;
    call.shard.write(call.key, call.arguments[3], Some(instant))?;
    call.reply.ok();
    Ok(())
}

/// `GETSET key value`
pub(super) fn get_set(call: &mut KeyCall<'_, '_>) -> Result {
    get(call)?;
    call.shard.write(call.key, call.arguments[2], None)?;
    Ok(())
}

/// `GETDEL key`
pub(super) fn get_delete(call: &mut KeyCall<'_, '_>) -> Result {
    get(call)?;
    call.shard.remove(call.key)?;
    Ok(())
}

/// `GETEX key [EX s | PX ms | EXAT s | PXAT ms | PERSIST]`
pub(super) fn get_expire(call: &mut KeyCall<'_, '_>) -> Result {
    let now = call.shard.now();
    let expires_at = match call.arguments[2..] {
        [] => None,
        [word] if is_word(word, "PERSIST") => Some(None),
        [word, amount] => {
            let unit = Unit::of_option(word).ok_or(Failure::Syntax)?;
            Some(Some(positive_time(unit, amount, now, "getex")?))
        }
        _ => return Err(Failure::Syntax),
    };
    get(call)?;
    if let Some(expires_at) = expires_at {
        call.shard.set_expiry(call.key, expires_at)?;
    }
    Ok(())
}

/// `APPEND key value`
pub(super) fn append(call: &mut KeyCall<'_, '_>) -> Result {
    let suffix = call.arguments[2];
    let bytes_max = call.shard.value_bytes_max();
    let len = call.shard.rewrite(call.key, |value, _| {
        check_len(value.len() + suffix.len(), bytes_max)?;
        value.extend_from_slice(suffix);
        Ok::<_, Failure>((true, value.len()))
    })?;
    call.reply.integer(len_integer(len));
    Ok(())
}

/// `STRLEN key`
pub(super) fn len(call: &mut KeyCall<'_, '_>) -> Result {
    let len = call.shard.read(call.key)?.map_or(0, |record| record.value.len());
    call.reply.integer(len_integer(len));
    Ok(())
}

/// `GETRANGE key start end`, both inclusive; negative ones count from the end.
pub(super) fn get_range(call: &mut KeyCall<'_, '_>) -> Result {
    let (start, end) = (integer(call.arguments[2])?, integer(call.arguments[3])?);
    let value = call.shard.read(call.key)?.map_or(&[][..], |record| record.value);
    call.reply.bulk(slice(value, start, end));
    Ok(())
}

fn slice(value: &[u8], start: i64, end: i64) -> &[u8] {
    let len = len_integer(value.len());
    if start < 0 && end < 0 && start > end {
        return &[];
    }
    let from_start = |index: i64| if index < 0 { (len + index).max(0) } else { index };
    // Too far to the left is the first byte, too far to the right the last.
    let (start, end) = (from_start(start), from_start(end).min(len - 1));
    if start > end {
        return &[];
    }
    let index = |at: i64| usize::try_from(at).expect("between zero and the length");
    &value[index(start)..=index(end)]
}

/// `SETRANGE key offset value`
pub(super) fn set_range(call: &mut KeyCall<'_, '_>) -> Result {
    let offset = integer(call.arguments[2])?;
    let patch = call.arguments[3];
    let Ok(offset) = usize::try_from(offset) else {
        return Err(Failure::text("ERR offset is out of range"));
    };
    let bytes_max = call.shard.value_bytes_max();
    let len = call.shard.rewrite(call.key, |value, _| {
        if patch.is_empty() {
            return Ok((false, value.len()));
        }
        let end = offset.saturating_add(patch.len());
        check_len(end, bytes_max)?;
        if value.len() < end {
            value.resize(end, 0);
        }
        value[offset..end].copy_from_slice(patch);
        Ok::<_, Failure>((true, value.len()))
    })?;
    call.reply.integer(len_integer(len));
    Ok(())
}

/// `INCR key`
pub(super) fn increment(call: &mut KeyCall<'_, '_>) -> Result {
    add(call, 1)
}

/// `DECR key`
pub(super) fn decrement(call: &mut KeyCall<'_, '_>) -> Result {
    add(call, -1)
}

/// `INCRBY key increment`
pub(super) fn increment_by(call: &mut KeyCall<'_, '_>) -> Result {
    let delta = integer(call.arguments[2])?;
    add(call, delta)
}

/// `DECRBY key decrement`
pub(super) fn decrement_by(call: &mut KeyCall<'_, '_>) -> Result {
    let delta = integer(call.arguments[2])?;
    let delta = delta.checked_neg().ok_or_else(|| Failure::text("ERR decrement would overflow"))?;
    add(call, delta)
}

fn add(call: &mut KeyCall<'_, '_>, delta: i64) -> Result {
    let sum = call.shard.add(call.key, delta)?;
    call.reply.integer(sum);
    Ok(())
}

/// `INCRBYFLOAT key increment`
pub(super) fn increment_by_float(call: &mut KeyCall<'_, '_>) -> Result {
    let delta = call.arguments[2];
    if parse_float(delta).is_none() {
        return Err(Failure::NotAFloat);
    }
    let sum = call.shard.rewrite(call.key, |value, found| {
        let current: &[u8] = if found { value } else { b"0" };
        let sum = add_floats(current, delta)?;
        value.clear();
        value.extend_from_slice(sum.as_bytes());
        Ok::<_, Failure>((true, sum))
    })?;
    call.reply.bulk(sum.as_bytes());
    Ok(())
}

/// The sum of two numbers, as text: exact where 28 decimal digits are enough, else that of doubles.
fn add_floats(a: &[u8], b: &[u8]) -> Result<String> {
    let (float_a, float_b) = (parse_float(a), parse_float(b));
    let (Some(float_a), Some(float_b)) = (float_a, float_b) else { return Err(Failure::NotAFloat) };
    if let (Some(a), Some(b)) = (parse_decimal(a), parse_decimal(b))
        && let Some(sum) = a.checked_add(b)
    {
        return Ok(sum.round_dp(17).normalize().to_string());
    }
    let sum = float_a + float_b;
    if !sum.is_finite() {
        return Err(Failure::text("ERR increment would produce NaN or Infinity"));
    }
    Ok(sum.to_string())
}

fn parse_float(text: &[u8]) -> Option<f64> {
    let text = std::str::from_utf8(text).ok()?;
    let number: f64 = text.parse().ok()?;
    number.is_finite().then_some(number)
}

fn parse_decimal(text: &[u8]) -> Option<Decimal> {
    let text = std::str::from_utf8(text).ok()?;
    Decimal::from_str_exact(text).or_else(|_| Decimal::from_scientific(text)).ok()
}

fn check_len(len: usize, bytes_max: usize) -> Result {
    if len <= bytes_max {
        return Ok(());
    }
    Err(Failure::Store(Error::ValueTooLarge { bytes: len, max_bytes: bytes_max }))
}

/// A length as the integer of a reply.
pub(super) fn len_integer(len: usize) -> i64 {
    i64::try_from(len).unwrap_or(i64::MAX)
}

/// The time from `now` until `instant`, in Redis' milliseconds.
pub(super) fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_cut_like_redis_cuts_it() {
        let value = b"This is a string";
        let cases: [(i64, i64, &[u8]); 9] = [
            (0, 3, b"This"),
            (-3, -1, b"ing"),
            (0, -1, b"This is a string"),
            (10, 100, b"string"),
            (-100, 3, b"This"),
            (5, 4, b""),
            (-1, -3, b""),
            (100, 200, b""),
            (0, -100, b"T"),
        ];
        for (start, end, expected) in cases {
            assert_eq!(slice(value, start, end), expected, "{start} {end}");
        }
        assert_eq!(slice(b"", 0, -1), b"");
    }

    #[test]
    fn decimal_sums_are_exact_where_doubles_are_not() {
        assert_eq!(add_floats(b"0.1", b"0.2").unwrap(), "0.3");
        assert_eq!(add_floats(b"10.50", b"0.1").unwrap(), "10.6");
        assert_eq!(add_floats(b"5.0e3", b"2.0e2").unwrap(), "5200");
        assert_eq!(add_floats(b"1e300", b"1").unwrap().len(), 301);
        assert_eq!(add_floats(b"x", b"1"), Err(Failure::NotAFloat));
        assert_eq!(add_floats(b"inf", b"1"), Err(Failure::NotAFloat));
    }

    #[test]
    fn an_instant_beyond_what_can_be_kept_is_none() {
        let now = WallTime::from_millis(1_000);
        assert_eq!(Unit::Seconds.instant(2, now), Some(WallTime::from_millis(3_000)));
        assert_eq!(Unit::SecondsAt.instant(2, now), Some(WallTime::from_millis(2_000)));
        assert_eq!(Unit::Seconds.instant(i64::MAX, now), None);
        assert_eq!(Unit::MillisAt.instant(i64::MAX, now), None);
        assert_eq!(Unit::Millis.instant(-5_000, now), Some(WallTime::EPOCH));
    }
}
