//! Commands about the connection itself, and those the client's own core can answer at once.

use gridkv_net::resp::{Protocol, Reply};
use rustix::time::{ClockId, clock_gettime};

use super::{Failure, SessionCall, integer, is_word, text};
use crate::core::World;
use crate::server::session::{Client, ReplyMode};

type Result<T = ()> = std::result::Result<T, Failure>;

/// What clients are told this server is compatible with.
pub(crate) const REDIS_VERSION: &str = "7.2.4";

/// `PING [message]`
pub(super) fn ping(call: &mut SessionCall<'_, '_>) -> Result {
    match call.arguments[1..] {
        [] => call.reply.simple("PONG"),
        [message] => call.reply.bulk(message),
        _ => return Err(Failure::Arity("ping".to_owned())),
    }
    Ok(())
}

/// `ECHO message`
#[expect(clippy::unnecessary_wraps, reason = "one of several of this type")]
pub(super) fn echo(call: &mut SessionCall<'_, '_>) -> Result {
    call.reply.bulk(call.arguments[1]);
    Ok(())
}

/// `TIME`
#[expect(clippy::unnecessary_wraps, reason = "one of several of this type")]
pub(super) fn time(call: &mut SessionCall<'_, '_>) -> Result {
    let now = clock_gettime(ClockId::Realtime);
    call.reply.array(2);
    call.reply.bulk(now.tv_sec.to_string().as_bytes());
    call.reply.bulk((now.tv_nsec / 1_000).to_string().as_bytes());
    Ok(())
}

/// `SELECT index`: there is one database.
pub(super) fn select(call: &mut SessionCall<'_, '_>) -> Result {
    match integer(call.arguments[1]) {
        Ok(0) => call.reply.ok(),
        Ok(_) => return Err(Failure::text("ERR DB index is out of range")),
        Err(_) => return Err(Failure::text("ERR value is not an integer or out of range")),
    }
    Ok(())
}

/// `QUIT`
#[expect(clippy::unnecessary_wraps, reason = "one of several of this type")]
pub(super) fn quit(call: &mut SessionCall<'_, '_>) -> Result {
    call.reply.ok();
    call.client.wants_close = true;
    Ok(())
}

/// `RESET`
#[expect(clippy::unnecessary_wraps, reason = "one of several of this type")]
pub(super) fn reset(call: &mut SessionCall<'_, '_>) -> Result {
    call.client.protocol = Protocol::Resp2;
    call.client.is_authenticated = call.world.settings.password.is_empty();
    call.client.reply_mode = ReplyMode::On;
    call.client.name.clear();
    call.client.no_evict = false;
    call.client.no_touch = false;
    call.client.scope.fix(None);
    call.reply.simple("RESET");
    Ok(())
}

/// `AUTH [username] password`
pub(super) fn auth(call: &mut SessionCall<'_, '_>) -> Result {
    match call.arguments[1..] {
        [password] => {
            if call.world.settings.password.is_empty() {
                return Err(Failure::text(
                    "ERR AUTH <password> called without any password configured for the default \
                     user. Are you sure your configuration is correct?",
                ));
            }
            authenticate(call.client, call.world, b"default", password)?;
        }
        [user, password] => authenticate(call.client, call.world, user, password)?,
        _ => return Err(Failure::Syntax),
    }
    call.reply.ok();
    Ok(())
}

fn authenticate(client: &mut Client, world: &World, user: &[u8], password: &[u8]) -> Result {
    let expected = world.settings.password.as_bytes();
    let is_right = user == b"default" && (expected.is_empty() || is_same(expected, password));
    if !is_right {
        return Err(Failure::text("WRONGPASS invalid username-password pair or user is disabled."));
    }
    client.is_authenticated = true;
    Ok(())
}

/// Compares in a time that does not tell where the first difference is.
fn is_same(a: &[u8], b: &[u8]) -> bool {
    let differences = a.iter().zip(b).fold(0, |found, (a, b)| found | (a ^ b));
    a.len() == b.len() && differences == 0
}

/// `HELLO [protover [AUTH username password] [SETNAME name]]`
pub(super) fn hello(call: &mut SessionCall<'_, '_>) -> Result {
    let mut protocol = call.client.protocol;
    let mut credentials = None;
    let mut name = None;
    if let Some(version) = call.arguments.get(1) {
        protocol = match integer(version) {
            Ok(2) => Protocol::Resp2,
            Ok(3) => Protocol::Resp3,
            Ok(_) => return Err(Failure::text("NOPROTO unsupported protocol version")),
            Err(_) => {
                return Err(Failure::text(
                    "ERR Protocol version is not an integer or out of range",
                ));
            }
        };
        let mut rest = call.arguments[2..].iter();
        while let Some(word) = rest.next() {
            let wrong =
                || Failure::text(format!("ERR Syntax error in HELLO option '{}'", text(word)));
            if is_word(word, "AUTH") {
                let user = rest.next().ok_or_else(wrong)?;
                credentials = Some((*user, *rest.next().ok_or_else(wrong)?));
            } else if is_word(word, "SETNAME") {
                name = Some(checked_name(rest.next().ok_or_else(wrong)?)?);
            } else {
                return Err(wrong());
            }
        }
    }
    if let Some((user, password)) = credentials {
        authenticate(call.client, call.world, user, password)?;
    }
    if !call.client.is_authenticated {
        return Err(Failure::text(
            "NOAUTH HELLO must be called with the client already authenticated, otherwise the \
             HELLO <proto> AUTH <user> <pass> option can be used to authenticate the client and \
             select the RESP protocol version at the same time",
        ));
    }
    if let Some(name) = name {
        call.client.name = name;
    }
    call.client.protocol = protocol;
    call.reply.set_protocol(protocol);
    let is_replicated = call.world.is_replicated();
    write_hello(&mut call.reply, call.client, is_replicated);
    Ok(())
}

fn write_hello(reply: &mut Reply<'_>, client: &Client, is_replicated: bool) {
    reply.map(7);
    let texts: [(&[u8], &[u8]); 2] =
        [(b"server", b"redis"), (b"version", REDIS_VERSION.as_bytes())];
    for (name, value) in texts {
        reply.bulk(name);
        reply.bulk(value);
    }
    reply.bulk(b"proto");
    reply.integer(if client.protocol == Protocol::Resp3 { 3 } else { 2 });
    reply.bulk(b"id");
    reply.integer(i64::try_from(client.id).unwrap_or(i64::MAX));
    reply.bulk(b"mode");
    reply.bulk(if is_replicated { b"cluster" } else { b"standalone" });
    reply.bulk(b"role");
    reply.bulk(b"master");
    reply.bulk(b"modules");
    reply.array(0);
}

/// `CLIENT ID`
#[expect(clippy::unnecessary_wraps, reason = "one of several of this type")]
pub(super) fn client_id(call: &mut SessionCall<'_, '_>) -> Result {
    call.reply.integer(i64::try_from(call.client.id).unwrap_or(i64::MAX));
    Ok(())
}

/// `CLIENT INFO`
#[expect(clippy::unnecessary_wraps, reason = "one of several of this type")]
pub(super) fn client_info(call: &mut SessionCall<'_, '_>) -> Result {
    let line = describe(call.client, call.world, 0);
    call.reply.verbatim(*b"txt", line.as_bytes());
    Ok(())
}

/// A client in the form of `CLIENT LIST`: one line.
pub(super) fn describe(client: &Client, world: &World, memory_bytes: usize) -> String {
    let seconds = |then| world.now.saturating_duration_since(then).as_secs();
    let local = client.local_address.map_or_else(String::new, |address| address.to_string());
    let mut flags = String::new();
    if client.no_evict {
        flags.push('e');
    }
    if client.no_touch {
        flags.push('T');
    }
    if flags.is_empty() {
        flags.push('N');
    }
    format!(
        "id={} addr={} laddr={local} fd=-1 name={} age={} idle={} flags={flags} db=0 sub=0 psub=0 \
         ssub=0 multi=-1 qbuf=0 qbuf-free=0 argv-mem=0 multi-mem=0 rbs=0 rbp=0 obl=0 oll=0 omem=0 \
         tot-mem={memory_bytes} events=r cmd={} user=default redir=-1 resp={} lib-name={} \
         lib-ver={}\n",
        client.id,
        client.address,
        text(&client.name),
        seconds(client.connected_at),
        seconds(client.active_at),
        client.last_command,
        if client.protocol == Protocol::Resp3 { 3 } else { 2 },
        text(&client.library_name),
        text(&client.library_version),
    )
}

/// `CLIENT GETNAME`
#[expect(clippy::unnecessary_wraps, reason = "one of several of this type")]
pub(super) fn client_name(call: &mut SessionCall<'_, '_>) -> Result {
    if call.client.name.is_empty() {
        call.reply.null();
    } else {
        call.reply.bulk(&call.client.name);
    }
    Ok(())
}

/// `CLIENT SETNAME name`
pub(super) fn set_client_name(call: &mut SessionCall<'_, '_>) -> Result {
    call.client.name = checked_name(call.arguments[2])?;
    call.reply.ok();
    Ok(())
}

fn checked_name(name: &[u8]) -> Result<Vec<u8>> {
    if name.iter().all(u8::is_ascii_graphic) {
        return Ok(name.to_vec());
    }
    Err(Failure::text("ERR Client names cannot contain spaces, newlines or special characters."))
}

/// `CLIENT SETINFO LIB-NAME name`, `CLIENT SETINFO LIB-VER version`
pub(super) fn set_client_info(call: &mut SessionCall<'_, '_>) -> Result {
    let (attribute, value) = (call.arguments[2], call.arguments[3]);
    let (target, name) = if is_word(attribute, "LIB-NAME") {
        (&mut call.client.library_name, "lib-name")
    } else if is_word(attribute, "LIB-VER") {
        (&mut call.client.library_version, "lib-ver")
    } else {
        let text = format!("ERR Unrecognized option '{}'", text(attribute));
        return Err(Failure::text(text));
    };
    if !value.iter().all(u8::is_ascii_graphic) {
        let text = format!("ERR {name} cannot contain spaces, newlines or special characters.");
        return Err(Failure::text(text));
    }
    *target = value.to_vec();
    call.reply.ok();
    Ok(())
}

fn on_or_off(word: &[u8]) -> Result<bool> {
    match word {
        _ if is_word(word, "ON") => Ok(true),
        _ if is_word(word, "OFF") => Ok(false),
        _ => Err(Failure::Syntax),
    }
}

/// `CLIENT NO-EVICT ON | OFF`
pub(super) fn set_no_evict(call: &mut SessionCall<'_, '_>) -> Result {
    call.client.no_evict = on_or_off(call.arguments[2])?;
    call.reply.ok();
    Ok(())
}

/// `CLIENT NO-TOUCH ON | OFF`
pub(super) fn set_no_touch(call: &mut SessionCall<'_, '_>) -> Result {
    call.client.no_touch = on_or_off(call.arguments[2])?;
    call.reply.ok();
    Ok(())
}

/// `CLIENT REPLY ON | OFF | SKIP`
pub(super) fn set_reply_mode(call: &mut SessionCall<'_, '_>) -> Result {
    let word = call.arguments[2];
    call.client.reply_mode = match word {
        _ if is_word(word, "ON") => ReplyMode::On,
        _ if is_word(word, "OFF") => ReplyMode::Off,
        _ if is_word(word, "SKIP") => {
            // While replies are off they stay off.
            if call.client.reply_mode == ReplyMode::Off {
                ReplyMode::Off
            } else {
                ReplyMode::SkipNext
            }
        }
        _ => return Err(Failure::Syntax),
    };
    if call.client.reply_mode == ReplyMode::On {
        call.reply.ok();
    }
    Ok(())
}

/// `CONFIG GET pattern [pattern ...]`
#[expect(clippy::unnecessary_wraps, reason = "one of several of this type")]
pub(super) fn config_get(call: &mut SessionCall<'_, '_>) -> Result {
    let patterns: Vec<Vec<u8>> =
        call.arguments[2..].iter().map(|pattern| pattern.to_ascii_lowercase()).collect();
    let all = super::node::redis_settings(&call.world.settings, call.world.node.listen);
    let matches = |name: &str| {
        patterns.iter().any(|pattern| crate::server::glob::matches(pattern, name.as_bytes()))
    };
    let found: Vec<_> = all.into_iter().filter(|(name, _)| matches(name)).collect();
    call.reply.map(found.len());
    for (name, value) in found {
        call.reply.bulk(name.as_bytes());
        call.reply.bulk(value.as_bytes());
    }
    Ok(())
}

/// `LATENCY LATEST`, `LATENCY HISTORY event`: nothing is recorded under these names.
#[expect(clippy::unnecessary_wraps, reason = "one of several of this type")]
pub(super) fn empty_list(call: &mut SessionCall<'_, '_>) -> Result {
    call.reply.array(0);
    Ok(())
}

/// `LATENCY HISTOGRAM [command ...]`
#[expect(clippy::unnecessary_wraps, reason = "one of several of this type")]
pub(super) fn empty_map(call: &mut SessionCall<'_, '_>) -> Result {
    call.reply.map(0);
    Ok(())
}

/// `LATENCY RESET [event ...]`: nothing was reset.
#[expect(clippy::unnecessary_wraps, reason = "one of several of this type")]
pub(super) fn zero(call: &mut SessionCall<'_, '_>) -> Result {
    call.reply.integer(0);
    Ok(())
}

/// `LATENCY DOCTOR`
#[expect(clippy::unnecessary_wraps, reason = "one of several of this type")]
pub(super) fn latency_doctor(call: &mut SessionCall<'_, '_>) -> Result {
    let advice = "The longest turns of the cores are in INFO turns and, by cause, in /metrics; slow commands \
                  are in SLOWLOG.";
    call.reply.verbatim(*b"txt", advice.as_bytes());
    Ok(())
}
