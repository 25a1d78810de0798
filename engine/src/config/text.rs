//! Options from their texts: each value, or what it must be.

use std::fmt;
use std::net::{SocketAddr, ToSocketAddrs};
use std::str::FromStr;
use std::time::Duration;

use bytesize::ByteSize;
use gridkv_cluster::topology::endpoint::{Endpoint, ParseError};
use gridkv_storage::file::is_segment_size;
use gridkv_storage::{Durability, Eviction};

use super::Idle;

/// A value, or what it must be.
pub(super) type Parsed<T> = Result<T, Option<String>>;

pub(super) fn expected<T>(text: impl Into<String>) -> Parsed<T> {
    Err(Some(text.into()))
}

pub(super) fn or_word<T>(
    text: &str,
    word: &str,
    parse: impl FnOnce(&str) -> Parsed<T>,
) -> Parsed<Option<T>> {
    if text == word { Ok(None) } else { parse(text).map(Some) }
}

pub(super) fn address(text: &str) -> Parsed<Option<SocketAddr>> {
    or_word(text, "off", |text| {
        let found = text.to_socket_addrs().ok().and_then(|mut found| found.next());
        found.map_or_else(|| expected("an address such as 127.0.0.1:7379, or off, is needed"), Ok)
    })
}

/// Where somebody else connects; a host name is not resolved.
pub(super) fn endpoint(text: &str) -> Parsed<Endpoint> {
    text.parse().or_else(|error: ParseError| expected(error.to_string()))
}

pub(super) fn number<T: FromStr + PartialOrd + fmt::Display>(
    text: &str,
    least: T,
    most: T,
) -> Parsed<T> {
    match text.parse::<T>() {
        Ok(number) if number >= least && number <= most => Ok(number),
        _ => expected(format!("a whole number from {least} to {most} is needed")),
    }
}

pub(super) fn size<T: TryFrom<u64>>(text: &str, least: u64, most: u64) -> Parsed<T> {
    let parsed = text.parse::<ByteSize>().ok().map(|size| size.as_u64());
    parsed
        .filter(|bytes| (least..=most).contains(bytes))
        .and_then(|bytes| T::try_from(bytes).ok())
        .map_or_else(
            || {
                let least = ByteSize::b(least).display().iec();
                expected(format!("a size such as 64MiB or 4GiB, at least {least}, is needed"))
            },
            Ok,
        )
}

pub(super) fn duration(text: &str) -> Parsed<Duration> {
    match humantime::parse_duration(text) {
        Ok(duration) => Ok(duration),
        Err(_) if text == "0" => Ok(Duration::ZERO),
        Err(_) => expected("a time such as 50us, 100ms, 5s or 2m is needed"),
    }
}

pub(super) fn one_of<T: Copy>(text: &str, words: &[(&str, T)]) -> Parsed<T> {
    match words.iter().find(|(word, _)| *word == text) {
        Some((_, value)) => Ok(*value),
        None => {
            let words = words.iter().map(|(word, _)| *word).collect::<Vec<_>>().join(" or ");
            expected(format!("{words} is needed"))
        }
    }
}

/// The policy of that name.
pub(super) fn eviction(text: &str) -> Parsed<Eviction> {
    one_of(text, &[("noeviction", Eviction::Refuse), ("lfu", Eviction::Lfu)])
}

pub(super) fn idle(text: &str) -> Parsed<Idle> {
    match text.split_once(':') {
        Some(("spin", time)) => duration(time).map(Idle::Spin),
        None if text == "park" => Ok(Idle::Park),
        None if text == "poll" => Ok(Idle::Poll),
        _ => expected("park, spin:TIME (such as spin:50us) or poll is needed"),
    }
}

pub(super) fn durability(text: &str) -> Parsed<Durability> {
    let wanted = "commit, interval:TIME (such as interval:100ms) or none is needed";
    match text.split_once(':') {
        Some(("interval", time)) => match duration(time)? {
            Duration::ZERO => expected(wanted),
            time => Ok(Durability::Interval(time)),
        },
        None if text == "commit" => Ok(Durability::Commit),
        None if text == "none" => Ok(Durability::None),
        _ => expected(wanted),
    }
}

/// The smallest size of a log's files that a node is given.
const SEGMENT_MIN: u32 = 1 << 20;

pub(super) fn segment(text: &str) -> Parsed<u32> {
    let parsed = text.parse::<ByteSize>().ok().and_then(|size| u32::try_from(size.as_u64()).ok());
    parsed
        .filter(|bytes| *bytes >= SEGMENT_MIN && is_segment_size(*bytes as usize))
        .map_or_else(|| expected("1MiB, 2MiB, 4MiB, 8MiB, 16MiB, 32MiB or 64MiB is needed"), Ok)
}

pub(super) fn cpu_list(text: &str) -> Parsed<Vec<usize>> {
    let mut cpus = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (Ok(first), Ok(last)) = (first.trim().parse::<usize>(), last.trim().parse::<usize>())
        else {
            return expected("a list of processor numbers such as 0,2-3 is needed");
        };
        if first > last || last >= 65_536 {
            return expected("processor numbers go up, and stay below 65536");
        }
        cpus.extend(first..=last);
    }
    let mut distinct = cpus.clone();
    distinct.sort_unstable();
    distinct.dedup();
    if distinct.len() == cpus.len() { Ok(cpus) } else { expected("each processor once") }
}

pub(super) fn join(items: impl Iterator<Item = impl fmt::Display>) -> String {
    items.map(|item| item.to_string()).collect::<Vec<_>>().join(",")
}
