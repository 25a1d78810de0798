//! COMMAND and its subcommands: what clients ask to learn what they can send.

use gridkv_net::resp::Reply;

use super::table::{ALL, find};
use super::{Command, Failure, Flag, Run, SessionCall, is_word, text};
use crate::server::glob;

type Result<T = ()> = std::result::Result<T, Failure>;

fn count(len: usize) -> i64 {
    i64::try_from(len).unwrap_or(i64::MAX)
}

fn top_level() -> impl Iterator<Item = &'static Command> + Clone {
    ALL.iter().filter(|command| !command.name.contains('|'))
}

fn subcommands(container: &str) -> impl Iterator<Item = &'static Command> {
    let prefix = format!("{container}|");
    ALL.iter().filter(move |command| command.name.starts_with(&prefix))
}

/// `COMMAND`, and what follows it when that is no subcommand.
pub(super) fn command(call: &mut SessionCall<'_, '_>) -> Result {
    if call.arguments.len() > 1 {
        let command = find(call.arguments[0]).expect("it was found to get here");
        return container(call, command);
    }
    call.reply.array(top_level().count());
    for command in top_level() {
        write_info(&mut call.reply, command);
    }
    Ok(())
}

/// `COMMAND COUNT`
#[expect(clippy::unnecessary_wraps, reason = "one of several of this type")]
pub(super) fn command_count(call: &mut SessionCall<'_, '_>) -> Result {
    call.reply.integer(count(top_level().count()));
    Ok(())
}

/// `COMMAND INFO [name ...]`
#[expect(clippy::unnecessary_wraps, reason = "one of several of this type")]
pub(super) fn command_info(call: &mut SessionCall<'_, '_>) -> Result {
    let names = &call.arguments[2..];
    if names.is_empty() {
        call.reply.array(top_level().count());
        for command in top_level() {
            write_info(&mut call.reply, command);
        }
        return Ok(());
    }
    call.reply.array(names.len());
    for name in names {
        match find(name) {
            Some(command) => write_info(&mut call.reply, command),
            None => call.reply.null(),
        }
    }
    Ok(())
}

/// How clients that know of a cluster send a command to several of its nodes, in Redis' words.
fn tips(name: &str) -> &'static [&'static str] {
    match name {
        "dbsize" => &["request_policy:all_shards", "response_policy:agg_sum"],
        "flushall" | "flushdb" => &["request_policy:all_shards", "response_policy:all_succeeded"],
        "keys" => &["request_policy:all_shards", "nondeterministic_output_order"],
        "scan" => &["nondeterministic_output", "request_policy:special", "response_policy:special"],
        _ => &[],
    }
}

/// The ten elements of a command in `COMMAND INFO`.
fn write_info(reply: &mut Reply<'_>, command: &Command) {
    let (first, last, step) = if command.keys.first == 0 {
        (0, 0, 0)
    } else {
        let last = i64::try_from(command.keys.last).unwrap_or(0);
        (count(command.keys.first), last, count(command.keys.step))
    };
    reply.array(10);
    reply.bulk(command.name.as_bytes());
    reply.integer(i64::from(command.arity));
    reply.set(command.flags.len());
    for flag in command.flags {
        reply.simple(flag.name());
    }
    reply.integer(first);
    reply.integer(last);
    reply.integer(step);
    let categories = categories(command);
    reply.set(categories.len());
    for category in categories {
        reply.simple(category);
    }
    let tips = tips(command.name);
    reply.set(tips.len());
    for tip in tips {
        reply.bulk(tip.as_bytes());
    }
    reply.array(0);
    reply.array(subcommands(command.name).count());
    for subcommand in subcommands(command.name) {
        write_info(reply, subcommand);
    }
}

fn categories(command: &Command) -> Vec<&'static str> {
    let mut categories = vec![match command.group {
        "string" => "@string",
        "generic" => "@keyspace",
        "connection" => "@connection",
        _ => "@admin",
    }];
    if command.has(Flag::Write) {
        categories.push("@write");
    }
    if command.has(Flag::ReadOnly) {
        categories.push("@read");
    }
    categories.push(if command.has(Flag::Fast) { "@fast" } else { "@slow" });
    categories
}

/// `COMMAND DOCS [name ...]`
#[expect(clippy::unnecessary_wraps, reason = "one of several of this type")]
pub(super) fn command_docs(call: &mut SessionCall<'_, '_>) -> Result {
    let names = &call.arguments[2..];
    let commands: Vec<&Command> = if names.is_empty() {
        top_level().collect()
    } else {
        names.iter().filter_map(|name| find(name)).collect()
    };
    call.reply.map(commands.len());
    for command in commands {
        write_docs(&mut call.reply, command);
    }
    Ok(())
}

fn write_docs(reply: &mut Reply<'_>, command: &Command) {
    let subcommands: Vec<_> = subcommands(command.name).collect();
    reply.bulk(command.name.as_bytes());
    reply.map(if subcommands.is_empty() { 3 } else { 4 });
    for (name, value) in
        [("summary", command.summary), ("since", command.since), ("group", command.group)]
    {
        reply.bulk(name.as_bytes());
        reply.bulk(value.as_bytes());
    }
    if !subcommands.is_empty() {
        reply.bulk(b"subcommands");
        reply.map(subcommands.len());
        for subcommand in subcommands {
            write_docs(reply, subcommand);
        }
    }
}

/// `COMMAND LIST [FILTERBY MODULE name | ACLCAT category | PATTERN pattern]`
pub(super) fn command_list(call: &mut SessionCall<'_, '_>) -> Result {
    let filter = match call.arguments[2..] {
        [] => None,
        [word, kind, value] if is_word(word, "FILTERBY") => Some((kind, value)),
        _ => return Err(Failure::Syntax),
    };
    let is_wanted = |command: &&'static Command| -> Result<bool> {
        let Some((kind, value)) = filter else { return Ok(true) };
        match kind {
            _ if is_word(kind, "MODULE") => Ok(false),
            _ if is_word(kind, "ACLCAT") => {
                let name = format!("@{}", text(value).to_ascii_lowercase());
                Ok(categories(command).contains(&name.as_str()))
            }
            _ if is_word(kind, "PATTERN") => {
                Ok(glob::matches(&value.to_ascii_lowercase(), command.name.as_bytes()))
            }
            _ => Err(Failure::Syntax),
        }
    };
    let mut names = Vec::new();
    for command in top_level() {
        if is_wanted(&command)? {
            names.push(command.name);
        }
    }
    call.reply.array(names.len());
    for name in names {
        call.reply.bulk(name.as_bytes());
    }
    Ok(())
}

/// `COMMAND GETKEYS command [argument ...]`
pub(super) fn command_get_keys(call: &mut SessionCall<'_, '_>) -> Result {
    let request = &call.arguments[2..];
    let found = find(request[0]);
    let subcommand = |container: &'static Command| {
        let name = text(request.get(1)?).to_ascii_lowercase();
        subcommands(container.name).find(|it| it.name.ends_with(&format!("|{name}")))
    };
    let command = match found {
        Some(container) if matches!(container.run, Run::Container) => subcommand(container),
        found => found,
    };
    let Some(command) = command else {
        return Err(Failure::text("ERR Invalid command specified"));
    };
    if !command.takes(request.len()) {
        let text = "ERR Invalid number of arguments specified for command";
        return Err(Failure::text(text));
    }
    let indexes: Vec<usize> = command.key_indexes(request.len()).collect();
    if indexes.is_empty() {
        return Err(Failure::text("ERR The command has no key arguments"));
    }
    call.reply.array(indexes.len());
    for index in indexes {
        call.reply.bulk(request[index]);
    }
    Ok(())
}

/// `CLIENT HELP` and the like, and what is said of a subcommand that there is not.
pub(crate) fn container(call: &mut SessionCall<'_, '_>, command: &Command) -> Result {
    let name = command.name.to_ascii_uppercase();
    let asked = call.arguments[1];
    if !is_word(asked, "HELP") {
        let asked = text(&asked[..asked.len().min(128)]);
        return Err(Failure::text(format!("ERR unknown subcommand '{asked}'. Try {name} HELP.")));
    }
    let mut lines =
        vec![format!("{name} <subcommand> [<arg> [value] [opt] ...]. Subcommands are:")];
    for subcommand in subcommands(command.name) {
        let (_, own) = subcommand.name.split_once('|').unwrap_or_default();
        lines.push(own.to_ascii_uppercase());
        lines.push(format!("    {}", subcommand.summary));
    }
    lines.push("HELP".to_owned());
    lines.push("    Print this help.".to_owned());
    call.reply.array(lines.len());
    for line in lines {
        call.reply.simple(&line);
    }
    Ok(())
}
