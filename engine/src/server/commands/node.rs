//! Commands about the node as a whole: CONFIG, CLIENT LIST and KILL, SLOWLOG, SHUTDOWN, DEBUG.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::time::Duration;

use gridkv_net::resp::Reply;
use gridkv_storage::{Durability, Eviction};

use super::session::describe;
use super::{Failure, SessionCall, TaskCall, integer, is_word, text};
use crate::config::{Config, is_on_disk};
use crate::core::Core;
use crate::core::slowlog::SlowEntry;

pub(super) type Task = Pin<Box<dyn Future<Output = Result<(), Failure>>>>;

/// The options that have a name in Redis, with their values in its terms.
pub(super) fn redis_settings(
    settings: &Config,
    listen: Option<SocketAddr>,
) -> Vec<(&'static str, String)> {
    let policy = match settings.eviction {
        Eviction::Refuse => "noeviction",
        Eviction::Lfu => "allkeys-lfu",
    };
    let threshold = settings
        .slowlog_threshold
        .map_or_else(|| "-1".to_owned(), |threshold| threshold.as_micros().to_string());
    let sync = match settings.durability {
        Durability::Commit => "always",
        Durability::Interval(_) => "everysec",
        Durability::None => "no",
    };
    let has_log = is_on_disk(&settings.storage);
    let is_in_cluster = settings.cluster.address.is_some();
    vec![
        ("appendfsync", sync.to_owned()),
        ("appendonly", if has_log { "yes" } else { "no" }.to_owned()),
        ("bind", listen.map_or_else(String::new, |address| address.ip().to_string())),
        ("cluster-enabled", if is_in_cluster { "yes" } else { "no" }.to_owned()),
        ("databases", "1".to_owned()),
        ("dir", settings.data.display().to_string()),
        ("maxclients", settings.max_clients.to_string()),
        ("maxmemory", settings.max_memory.unwrap_or(0).to_string()),
        ("maxmemory-policy", policy.to_owned()),
        ("port", listen.map_or(0, |address| address.port()).to_string()),
        ("proto-max-bulk-len", settings.max_value.to_string()),
        ("requirepass", settings.password.clone()),
        ("save", String::new()),
        ("slowlog-log-slower-than", threshold),
        ("slowlog-max-len", settings.slowlog_len.to_string()),
        ("timeout", settings.client_timeout.as_secs().to_string()),
    ]
}

/// A setting of Redis that can be changed, as an option of ours: its name and the value's text.
fn own_setting(name: &str, value: &str) -> Option<(&'static str, String)> {
    Some(match name {
        "appendfsync" => {
            let own = match value {
                "always" => "commit",
                "everysec" => "interval:1s",
                "no" => "none",
                other => other,
            };
            ("durability", own.to_owned())
        }
        "maxmemory" if value == "0" => ("max_memory", "none".to_owned()),
        "maxmemory" => ("max_memory", redis_bytes(value)),
        "maxmemory-policy" if value.ends_with("-lfu") => ("eviction", "lfu".to_owned()),
        "maxmemory-policy" => ("eviction", value.to_owned()),
        "maxclients" => ("max_clients", value.to_owned()),
        "timeout" => ("client_timeout", format!("{value}s")),
        "requirepass" => ("password", value.to_owned()),
        "slowlog-log-slower-than" if value.starts_with('-') => {
            ("slowlog_threshold", "off".to_owned())
        }
        "slowlog-log-slower-than" => ("slowlog_threshold", format!("{value}us")),
        "slowlog-max-len" => ("slowlog_len", value.to_owned()),
        _ => return None,
    })
}

/// A size in Redis' units as one in ours: there `100mb` is 100 MiB, and `100m` a hundred million.
fn redis_bytes(value: &str) -> String {
    let lower = value.to_ascii_lowercase();
    match lower.strip_suffix('b') {
        Some(number) if number.ends_with(['k', 'm', 'g']) => format!("{number}ib"),
        _ => lower,
    }
}

/// `CONFIG SET parameter value [parameter value ...]`: all or none.
pub(super) fn config_set(call: TaskCall) -> Task {
    Box::pin(async move {
        if !call.arguments.len().is_multiple_of(2) {
            return Err(Failure::Syntax);
        }
        let mut changes = Vec::new();
        let mut trial = call.handle.node().config.clone();
        for pair in call.arguments[2..].chunks_exact(2) {
            let (name, value) = (text(&pair[0]).to_ascii_lowercase(), text(&pair[1]));
            let Some((own, own_value)) = own_setting(&name, &value) else {
                let known = redis_settings(&trial, None).iter().any(|(known, _)| *known == name);
                let text = if known {
                    format!(
                        "ERR CONFIG SET failed (possibly related to argument '{name}') - can't set immutable config"
                    )
                } else {
                    format!("ERR Unknown option or number of arguments for CONFIG SET - '{name}'")
                };
                return Err(Failure::text(text));
            };
            if let Err(expected) = trial.set(own, &own_value) {
                let expected = expected.unwrap_or_default();
                return Err(Failure::text(format!(
                    "ERR CONFIG SET failed (possibly related to argument '{name}') - {expected}"
                )));
            }
            if let Some(refusal) = refusal(&call.handle.node().config, &trial) {
                return Err(Failure::text(format!(
                    "ERR CONFIG SET failed (possibly related to argument '{name}') - {refusal}"
                )));
            }
            changes.push((own, own_value));
        }
        let apply = move |core: &mut Core| apply_settings(core, &changes);
        call.handle.on_all_cores(apply).await?;
        call.reply_ok();
        Ok(())
    })
}

/// Why settings cannot be had by a node that was started with others: its stores write to disk as
/// often as they were told then, or more often when they are asked to.
fn refusal(started_with: &Config, wanted: &Config) -> Option<String> {
    let is_possible = match (started_with.durability, wanted.durability) {
        (Durability::Commit, _) | (_, Durability::Commit | Durability::None) => true,
        (Durability::Interval(often), Durability::Interval(seldom)) => often <= seldom,
        (Durability::None, Durability::Interval(_)) => false,
    };
    let started_with = started_with.text("durability").unwrap_or_default();
    (!is_possible).then(|| {
        format!(
            "the node was started with durability = {started_with}: start it with what is wanted"
        )
    })
}

fn apply_settings(core: &mut Core, changes: &[(&'static str, String)]) {
    let settings = &mut core.world.settings;
    for (name, value) in changes {
        settings.set(name, value).expect("the value was tried before");
    }
    let (limit, eviction, durability) =
        (settings.max_memory, settings.eviction, settings.durability);
    if durability != Durability::Commit
        && let Some(cluster) = &core.world.node.cluster
        && core.world.shards.have_logs()
        && let Err(error) = cluster.note_unsettled()
    {
        tracing::error!(%error, "a kill of this node would not be found");
    }
    for shard in core.world.shards.iter_mut() {
        shard.set_durability(durability);
    }
    if changes.iter().any(|(name, _)| ["max_memory", "eviction"].contains(name)) {
        for shard in core.world.shards.iter_mut() {
            shard.set_memory_limit(limit, eviction);
        }
    }
}

/// `CONFIG RESETSTAT`
pub(super) fn config_reset_stat(call: TaskCall) -> Task {
    Box::pin(async move {
        call.handle.on_all_cores(Core::reset_stats).await?;
        call.reply_ok();
        Ok(())
    })
}

/// `CLIENT LIST [TYPE type] [ID id ...]`
pub(super) fn client_list(call: TaskCall) -> Task {
    Box::pin(async move {
        let mut ids: Option<Vec<i64>> = None;
        match call.arguments[2..].split_first() {
            None => {}
            Some((word, rest)) if is_word(word, "ID") && !rest.is_empty() => {
                let parsed: Result<Vec<i64>, _> = rest.iter().map(|id| integer(id)).collect();
                ids = Some(parsed.map_err(|_| Failure::text("ERR Invalid client ID"))?);
            }
            Some((word, [kind])) if is_word(word, "TYPE") => {
                ids = (!is_normal(kind)?).then(Vec::new);
            }
            Some(_) => return Err(Failure::Syntax),
        }
        let list = |core: &mut Core| {
            let describe = |session: &crate::server::session::Session| {
                let line = describe(&session.client, &core.world, session.memory_bytes());
                (session.client.id, line)
            };
            core.server.sessions().map(describe).collect::<Vec<_>>()
        };
        let mut lines: Vec<_> =
            call.handle.on_all_cores(list).await?.into_iter().flatten().collect();
        lines.sort_unstable();
        let is_wanted = |id: u64| {
            ids.as_ref().is_none_or(|ids| i64::try_from(id).is_ok_and(|id| ids.contains(&id)))
        };
        let report: String =
            lines.into_iter().filter(|(id, _)| is_wanted(*id)).map(|(_, line)| line).collect();
        call.reply(|reply| reply.verbatim(*b"txt", report.as_bytes()));
        Ok(())
    })
}

/// Whether a type of client is the one there is here; an error for what is no type in Redis either.
fn is_normal(kind: &[u8]) -> Result<bool, Failure> {
    let others = ["master", "replica", "slave", "pubsub"];
    match kind {
        _ if is_word(kind, "normal") => Ok(true),
        _ if others.iter().any(|other| is_word(kind, other)) => Ok(false),
        _ => Err(Failure::text(format!("ERR Unknown client type '{}'", text(kind)))),
    }
}

/// Whom `CLIENT KILL` means.
#[derive(Clone, Default)]
struct KillFilter {
    id: Option<u64>,
    address: Option<Vec<u8>>,
    local_address: Option<Vec<u8>>,
    age_min: Option<Duration>,
    nobody: bool,
    spared: Option<u64>,
}

fn parse_kill(call: &TaskCall) -> Result<KillFilter, Failure> {
    let mut filter = KillFilter { spared: Some(call.client_id), ..KillFilter::default() };
    for pair in call.arguments[2..].chunks(2) {
        let [word, value] = pair else { return Err(Failure::Syntax) };
        match word {
            _ if is_word(word, "ID") => {
                let id = integer(value).ok().and_then(|id| u64::try_from(id).ok());
                let text = "ERR client-id should be greater than 0";
                filter.id = Some(id.filter(|id| *id > 0).ok_or_else(|| Failure::text(text))?);
            }
            _ if is_word(word, "ADDR") => filter.address = Some(value.clone()),
            _ if is_word(word, "LADDR") => filter.local_address = Some(value.clone()),
            _ if is_word(word, "TYPE") => filter.nobody |= !is_normal(value)?,
            _ if is_word(word, "USER") => {
                if value != b"default" {
                    return Err(Failure::text(format!("ERR No such user '{}'", text(value))));
                }
            }
            _ if is_word(word, "MAXAGE") => {
                let age = u64::try_from(integer(value)?).map_err(|_| Failure::Syntax)?;
                filter.age_min = Some(Duration::from_secs(age));
            }
            _ if is_word(word, "SKIPME") => match value {
                _ if is_word(value, "yes") => filter.spared = Some(call.client_id),
                _ if is_word(value, "no") => filter.spared = None,
                _ => return Err(Failure::Syntax),
            },
            _ => return Err(Failure::Syntax),
        }
    }
    Ok(filter)
}

/// `CLIENT KILL addr:port`, `CLIENT KILL [ID id] [ADDR addr] [LADDR addr] [SKIPME yes|no] ...`
pub(super) fn client_kill(call: TaskCall) -> Task {
    Box::pin(async move {
        let is_old_form = call.arguments.len() == 3;
        let filter = if is_old_form {
            KillFilter { address: Some(call.arguments[2].clone()), ..KillFilter::default() }
        } else {
            parse_kill(&call)?
        };
        let own = call.client_id;
        let kill = move |core: &mut Core| kill_on_core(core, &filter, own);
        let killed: usize = call.handle.on_all_cores(kill).await?.into_iter().sum();
        match (is_old_form, killed) {
            (true, 0) => return Err(Failure::text("ERR No such client")),
            (true, _) => call.reply_ok(),
            (false, _) => {
                call.reply(|reply| reply.integer(super::strings::len_integer(killed)));
            }
        }
        Ok(())
    })
}

/// Closes the clients that are meant; the one that asks for it after it has heard the reply.
fn kill_on_core(core: &mut Core, filter: &KillFilter, own: u64) -> usize {
    let now = core.world.now;
    let is_address = |wanted: &Option<Vec<u8>>, address: Option<SocketAddr>| {
        wanted.as_ref().is_none_or(|wanted| {
            address.is_some_and(|address| address.to_string().as_bytes() == wanted.as_slice())
        })
    };
    let is_meant = |session: &&crate::server::session::Session| {
        let client = &session.client;
        !filter.nobody
            && filter.spared != Some(client.id)
            && filter.id.is_none_or(|id| id == client.id)
            && is_address(&filter.address, Some(client.address))
            && is_address(&filter.local_address, client.local_address)
            && filter
                .age_min
                .is_none_or(|age| now.saturating_duration_since(client.connected_at) >= age)
    };
    let meant: Vec<u64> =
        core.server.sessions().filter(is_meant).map(|session| session.client.id).collect();
    let kill = |id: &u64| if *id == own { core.server.finish(*id) } else { core.server.kill(*id) };
    meant.into_iter().filter(kill).count()
}

/// `SLOWLOG GET [count]`
pub(super) fn slowlog_get(call: TaskCall) -> Task {
    Box::pin(async move {
        let wrong = || Failure::text("ERR count should be greater than or equal to -1");
        let count = match &call.arguments[2..] {
            [] => 10,
            [count] => match integer(count).map_err(|_| wrong())? {
                -1 => usize::MAX,
                count => usize::try_from(count).map_err(|_| wrong())?,
            },
            _ => {
                return Err(Failure::text(
                    "ERR unknown subcommand or wrong number of arguments for 'GET'. Try SLOWLOG \
                     HELP.",
                ));
            }
        };
        let entries =
            |core: &mut Core| core.world.slowlog.entries().cloned().collect::<Vec<SlowEntry>>();
        let mut all: Vec<SlowEntry> =
            call.handle.on_all_cores(entries).await?.into_iter().flatten().collect();
        all.sort_by_key(|entry| std::cmp::Reverse((entry.at, entry.id)));
        all.truncate(count);
        call.reply(|reply| {
            reply.array(all.len());
            for entry in &all {
                write_slow_entry(reply, entry);
            }
        });
        Ok(())
    })
}

fn write_slow_entry(reply: &mut Reply<'_>, entry: &SlowEntry) {
    let number = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    reply.array(6);
    reply.integer(number(entry.id));
    reply.integer(number(entry.at.as_millis() / 1_000));
    reply.integer(i64::try_from(entry.took.as_micros()).unwrap_or(i64::MAX));
    reply.array(entry.arguments.len());
    for argument in &entry.arguments {
        reply.bulk(argument);
    }
    reply.bulk(entry.client_address.as_bytes());
    reply.bulk(&entry.client_name);
}

/// `SLOWLOG LEN`
pub(super) fn slowlog_len(call: TaskCall) -> Task {
    Box::pin(async move {
        let lens = call.handle.on_all_cores(|core| core.world.slowlog.len()).await?;
        let len = lens.into_iter().sum();
        call.reply(|reply| reply.integer(super::strings::len_integer(len)));
        Ok(())
    })
}

/// `SLOWLOG RESET`
pub(super) fn slowlog_reset(call: TaskCall) -> Task {
    Box::pin(async move {
        call.handle.on_all_cores(|core| core.world.slowlog.clear()).await?;
        call.reply_ok();
        Ok(())
    })
}

/// `SHUTDOWN [NOSAVE | SAVE] [NOW] [FORCE]`: asks the program to stop, as SIGTERM does.
pub(super) fn shutdown(call: TaskCall) -> Task {
    Box::pin(async move {
        let is_there = |name: &str| call.arguments[1..].iter().any(|word| is_word(word, name));
        if is_there("SAVE") && is_there("NOSAVE") {
            return Err(Failure::Syntax);
        }
        for word in &call.arguments[1..] {
            if is_word(word, "ABORT") {
                return Err(Failure::text("ERR No shutdown in progress."));
            }
            if !["NOSAVE", "SAVE", "NOW", "FORCE"].iter().any(|known| is_word(word, known)) {
                return Err(Failure::Syntax);
            }
        }
        call.handle.node().shutdown_asked.store(true, Ordering::Release);
        // As in Redis there is no reply: the connection is closed.
        Ok(())
    })
}

/// What is said where `debug_commands` is off.
fn check_debug(is_enabled: bool) -> Result<(), Failure> {
    if is_enabled {
        return Ok(());
    }
    Err(Failure::text(
        "ERR DEBUG command not allowed. If the debug_commands option is set to \"false\", you can \
         run it from a node that was started with \"true\"",
    ))
}

/// `DEBUG PANIC`: ends the core that serves the client as a bug would, to see what a service makes
/// of it.
pub(super) fn debug_panic(call: &mut SessionCall<'_, '_>) -> Result<(), Failure> {
    check_debug(call.world.settings.debug_commands)?;
    panic!("DEBUG PANIC was asked for by {}", call.client.address);
}

/// `DEBUG SLEEP seconds`: this client waits; others are served.
pub(super) fn debug_sleep(call: TaskCall) -> Task {
    Box::pin(async move {
        let is_enabled =
            call.handle.on_core(call.core, |core| core.world.settings.debug_commands).await?;
        check_debug(is_enabled)?;
        let seconds = text(&call.arguments[2]).parse::<f64>().ok();
        let duration = seconds.and_then(|it| Duration::try_from_secs_f64(it).ok());
        let duration = duration.ok_or(Failure::NotAFloat)?;
        glommio::timer::Timer::new(duration.min(Duration::from_secs(3_600))).await;
        call.reply_ok();
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_setting_that_can_be_changed_can_be_read() {
        let readable = redis_settings(&Config::default(), None);
        for name in ["maxmemory", "maxmemory-policy", "maxclients", "timeout", "requirepass"] {
            assert!(readable.iter().any(|(known, _)| *known == name), "{name}");
            assert!(own_setting(name, "0").is_some(), "{name}");
        }
    }
}
