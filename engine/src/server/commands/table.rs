//! The commands there are, by name.

use std::sync::LazyLock;

use super::{
    Command, Each, Flag, Keys, Run, RunTask, cluster, docs, each, info, keys, node, persistence,
    scan, session, strings, two_keys,
};
use crate::core::tasks::Urgency;

type Flags = &'static [Flag];

const READ: Flags = &[Flag::ReadOnly];
const READ_FAST: Flags = &[Flag::ReadOnly, Flag::Fast];
const WRITE: Flags = &[Flag::Write];
const WRITE_FAST: Flags = &[Flag::Write, Flag::Fast];
const WRITE_OOM: Flags = &[Flag::Write, Flag::DenyOom];
const WRITE_OOM_FAST: Flags = &[Flag::Write, Flag::DenyOom, Flag::Fast];
const CONNECTION: Flags = &[Flag::NoScript, Flag::Loading, Flag::Stale];
const FAST_CONNECTION: Flags = &[Flag::Fast, Flag::Loading, Flag::Stale];
/// What a client may send before it has authenticated.
const STRANGER: Flags = &[Flag::NoScript, Flag::Loading, Flag::Stale, Flag::Fast, Flag::NoAuth];
const SERVER: Flags = &[Flag::Loading, Flag::Stale];
const FAST_SERVER: Flags = &[Flag::Loading, Flag::Stale, Flag::Fast];
const ADMIN: Flags = &[Flag::Admin, Flag::NoScript, Flag::Loading, Flag::Stale];

/// What a row of the table says, in its order.
type Row = (
    &'static str,
    i32,
    (usize, isize, usize),
    Flags,
    &'static str,
    &'static str,
    Run,
    &'static str,
);

const fn command(row: Row) -> Command {
    let (name, arity, (first, last, step), flags, group, since, run, summary) = row;
    let keys = Keys { first, last, step };
    Command { name, arity, keys, flags, group, since, summary, run }
}

const fn task(run: RunTask) -> Run {
    Run::Task(run, Urgency::Client)
}

/// A command whose work grows with the store or with the product of its values.
const fn background(run: RunTask) -> Run {
    Run::Task(run, Urgency::Background)
}

/// All commands, containers and their subcommands (`container|subcommand`), by name: name, arity,
/// keys (first, last, step), flags, group, since which Redis, how it runs, summary.
#[rustfmt::skip]
pub(super) static ALL: &[Command] = &[
    command(("append", 3, (1, 1, 1), WRITE_OOM_FAST, "string", "2.0.0", Run::Key(strings::append),
        "Appends to the value of a key, creating it if needed.")),
    command(("asking", 1, (0, 0, 0), FAST_CONNECTION, "cluster", "3.0.0", Run::Session(cluster::no_effect),
        "Has no effect: any node serves any key.")),
    command(("auth", -2, (0, 0, 0), STRANGER, "connection", "1.0.0", Run::Session(session::auth),
        "Authenticates the connection.")),
    command(("bgsave", -1, (0, 0, 0), ADMIN, "server", "1.0.0", task(persistence::background_save),
        "Starts a snapshot.")),
    command(("client", -2, (0, 0, 0), CONNECTION, "connection", "2.4.0", Run::Container,
        "A container for commands about connections.")),
    command(("client|getname", 2, (0, 0, 0), CONNECTION, "connection", "2.6.9", Run::Session(session::client_name),
        "Returns the name of the connection.")),
    command(("client|id", 2, (0, 0, 0), CONNECTION, "connection", "5.0.0", Run::Session(session::client_id),
        "Returns the number of the connection.")),
    command(("client|info", 2, (0, 0, 0), CONNECTION, "connection", "6.2.0", Run::Session(session::client_info),
        "Returns what is known about the connection.")),
    command(("client|kill", -3, (0, 0, 0), ADMIN, "connection", "2.4.0", task(node::client_kill),
        "Closes connections.")),
    command(("client|list", -2, (0, 0, 0), ADMIN, "connection", "2.4.0", task(node::client_list),
        "Lists the open connections.")),
    command(("client|no-evict", 3, (0, 0, 0), ADMIN, "connection", "7.0.0", Run::Session(session::set_no_evict),
        "Exempts the connection from eviction, or not.")),
    command(("client|no-touch", 3, (0, 0, 0), CONNECTION, "connection", "7.2.0", Run::Session(session::set_no_touch),
        "Sets whether the connection's reads count as uses.")),
    command(("client|reply", 3, (0, 0, 0), CONNECTION, "connection", "3.2.0", Run::Session(session::set_reply_mode),
        "Sets whether the connection hears replies.")),
    command(("client|setinfo", 4, (0, 0, 0), CONNECTION, "connection", "7.2.0", Run::Session(session::set_client_info),
        "Sets what is known about the client's library.")),
    command(("client|setname", 3, (0, 0, 0), CONNECTION, "connection", "2.6.9", Run::Session(session::set_client_name),
        "Names the connection.")),
    command(("cluster", -2, (0, 0, 0), SERVER, "cluster", "3.0.0", Run::Container,
        "A container for commands about the cluster.")),
    command(("cluster|countkeysinslot", 3, (0, 0, 0), SERVER, "cluster", "3.0.0", background(cluster::count_keys_in_slot),
        "Returns the number of the node's keys in a slot.")),
    command(("cluster|getkeysinslot", 4, (0, 0, 0), SERVER, "cluster", "3.0.0", background(cluster::keys_in_slot),
        "Returns keys of the node in a slot.")),
    command(("cluster|info", 2, (0, 0, 0), SERVER, "cluster", "3.0.0", task(cluster::info),
        "Returns the state of the cluster.")),
    command(("cluster|keyslot", 3, (0, 0, 0), SERVER, "cluster", "3.0.0", Run::Session(cluster::key_slot),
        "Returns the slot of a key.")),
    command(("cluster|myid", 2, (0, 0, 0), SERVER, "cluster", "3.0.0", task(cluster::my_id),
        "Returns the identity of the node.")),
    command(("cluster|nodes", 2, (0, 0, 0), SERVER, "cluster", "3.0.0", task(cluster::nodes),
        "Returns the members of the cluster.")),
    command(("cluster|shards", 2, (0, 0, 0), SERVER, "cluster", "7.0.0", task(cluster::shards),
        "Returns the members of the cluster, with slots.")),
    command(("cluster|slots", 2, (0, 0, 0), SERVER, "cluster", "3.0.0", task(cluster::slots),
        "Returns the members of the cluster, by slots.")),
    command(("command", -1, (0, 0, 0), SERVER, "server", "2.8.13", Run::Session(docs::command),
        "Returns what is known about all commands.")),
    command(("command|count", 2, (0, 0, 0), SERVER, "server", "2.8.13", Run::Session(docs::command_count),
        "Returns the number of commands.")),
    command(("command|docs", -2, (0, 0, 0), SERVER, "server", "7.0.0", Run::Session(docs::command_docs),
        "Returns the documentation of commands.")),
    command(("command|getkeys", -3, (0, 0, 0), SERVER, "server", "2.8.13", Run::Session(docs::command_get_keys),
        "Returns the keys of a command line.")),
    command(("command|info", -2, (0, 0, 0), SERVER, "server", "2.8.13", Run::Session(docs::command_info),
        "Returns what is known about some commands.")),
    command(("command|list", -2, (0, 0, 0), SERVER, "server", "7.0.0", Run::Session(docs::command_list),
        "Lists the names of commands.")),
    command(("config", -2, (0, 0, 0), ADMIN, "server", "2.0.0", Run::Container,
        "A container for commands about the configuration.")),
    command(("config|get", -3, (0, 0, 0), ADMIN, "server", "2.0.0", Run::Session(session::config_get),
        "Returns the values of parameters.")),
    command(("config|resetstat", 2, (0, 0, 0), ADMIN, "server", "2.0.0", task(node::config_reset_stat),
        "Resets the statistics.")),
    command(("config|set", -4, (0, 0, 0), ADMIN, "server", "2.0.0", task(node::config_set),
        "Sets parameters.")),
    command(("copy", -3, (1, 2, 1), WRITE_OOM, "generic", "6.2.0", task(two_keys::copy),
        "Copies the value of a key to another.")),
    command(("dbsize", 1, (0, 0, 0), READ_FAST, "server", "1.0.0", task(scan::db_size),
        "Returns the number of keys.")),
    command(("debug", -2, (0, 0, 0), ADMIN, "server", "1.0.0", Run::Container,
        "A container for debugging commands.")),
    command(("debug|panic", 2, (0, 0, 0), ADMIN, "server", "1.0.0", Run::Session(node::debug_panic),
        "Ends the core that serves the connection.")),
    command(("debug|sleep", 3, (0, 0, 0), ADMIN, "server", "1.0.0", task(node::debug_sleep),
        "Lets the connection wait.")),
    command(("decr", 2, (1, 1, 1), WRITE_OOM_FAST, "string", "1.0.0", Run::Key(strings::decrement),
        "Decrements an integer by one.")),
    command(("decrby", 3, (1, 1, 1), WRITE_OOM_FAST, "string", "1.0.0", Run::Key(strings::decrement_by),
        "Decrements an integer.")),
    command(("del", -2, (1, -1, 1), WRITE, "generic", "1.0.0", Run::Each(Each::Count(each::delete)),
        "Deletes keys.")),
    command(("echo", 2, (0, 0, 0), FAST_CONNECTION, "connection", "1.0.0", Run::Session(session::echo),
        "Returns its argument.")),
    command(("exists", -2, (1, -1, 1), READ_FAST, "generic", "1.0.0", Run::Each(Each::Count(each::exists)),
        "Counts which keys exist.")),
    command(("expire", -3, (1, 1, 1), WRITE_FAST, "generic", "1.0.0", Run::Key(keys::expire),
        "Sets the expiry of a key in seconds.")),
    command(("expireat", -3, (1, 1, 1), WRITE_FAST, "generic", "1.2.0", Run::Key(keys::expire_at),
        "Sets the expiry of a key to a Unix time.")),
    command(("expiretime", 2, (1, 1, 1), READ_FAST, "generic", "7.0.0", Run::Key(keys::expire_time),
        "Returns the expiry of a key as a Unix time.")),
    command(("flushall", -1, (0, 0, 0), WRITE, "server", "1.0.0", task(scan::flush),
        "Removes all keys.")),
    command(("flushdb", -1, (0, 0, 0), WRITE, "server", "1.0.0", task(scan::flush),
        "Removes all keys.")),
    command(("get", 2, (1, 1, 1), READ_FAST, "string", "1.0.0", Run::Key(strings::get),
        "Returns the value of a key.")),
    command(("getdel", 2, (1, 1, 1), WRITE_FAST, "string", "6.2.0", Run::Key(strings::get_delete),
        "Returns the value of a key and deletes it.")),
    command(("getex", -2, (1, 1, 1), WRITE_FAST, "string", "6.2.0", Run::Key(strings::get_expire),
        "Returns the value of a key and sets its expiry.")),
    command(("getrange", 4, (1, 1, 1), READ, "string", "2.4.0", Run::Key(strings::get_range),
        "Returns a part of a value.")),
    command(("getset", 3, (1, 1, 1), WRITE_OOM_FAST, "string", "1.0.0", Run::Key(strings::get_set),
        "Returns the value of a key and replaces it.")),
    command(("gridkv", -2, (0, 0, 0), ADMIN, "server", "1.0.0", Run::Container,
        "A container for commands that Redis does not have.")),
    command(("gridkv|consistency", -2, (0, 0, 0), CONNECTION, "server", "1.0.0", Run::Session(cluster::consistency),
        "Sets how many replicas the connection's commands wait for.")),
    command(("gridkv|scope", -2, (0, 0, 0), CONNECTION, "server", "1.0.0", Run::Session(cluster::scope),
        "Sets which keys the connection's SCAN, KEYS and DBSIZE treat.")),
    command(("gridkv|snapshot", -2, (0, 0, 0), ADMIN, "server", "1.0.0", task(persistence::snapshot),
        "Takes a snapshot and returns its directory.")),
    command(("hello", -1, (0, 0, 0), STRANGER, "connection", "6.0.0", Run::Session(session::hello),
        "Agrees on the protocol.")),
    command(("incr", 2, (1, 1, 1), WRITE_OOM_FAST, "string", "1.0.0", Run::Key(strings::increment),
        "Increments an integer by one.")),
    command(("incrby", 3, (1, 1, 1), WRITE_OOM_FAST, "string", "1.0.0", Run::Key(strings::increment_by),
        "Increments an integer.")),
    command(("incrbyfloat", 3, (1, 1, 1), WRITE_OOM_FAST, "string", "2.6.0", Run::Key(strings::increment_by_float),
        "Increments a number.")),
    command(("info", -1, (0, 0, 0), SERVER, "server", "1.0.0", task(info::info),
        "Returns figures about the server.")),
    command(("keys", 2, (0, 0, 0), READ, "generic", "1.0.0", background(scan::keys),
        "Returns all keys that match a pattern.")),
    command(("lastsave", 1, (0, 0, 0), FAST_SERVER, "server", "1.0.0", task(persistence::last_save),
        "Returns the time of the last snapshot.")),
    command(("latency", -2, (0, 0, 0), ADMIN, "server", "2.8.13", Run::Container,
        "A container for commands about latency.")),
    command(("latency|doctor", 2, (0, 0, 0), ADMIN, "server", "2.8.13", Run::Session(session::latency_doctor),
        "Says where latencies are shown.")),
    command(("latency|histogram", -2, (0, 0, 0), ADMIN, "server", "7.0.0", Run::Session(session::empty_map),
        "Returns no histograms.")),
    command(("latency|history", 3, (0, 0, 0), ADMIN, "server", "2.8.13", Run::Session(session::empty_list),
        "Returns no history.")),
    command(("latency|latest", 2, (0, 0, 0), ADMIN, "server", "2.8.13", Run::Session(session::empty_list),
        "Returns no events.")),
    command(("latency|reset", -2, (0, 0, 0), ADMIN, "server", "2.8.13", Run::Session(session::zero),
        "Resets nothing.")),
    command(("lcs", -3, (1, 2, 1), READ, "string", "7.0.0", background(two_keys::longest_common_subsequence),
        "Finds the longest common subsequence of two values.")),
    command(("memory", -2, (0, 0, 0), READ, "server", "4.0.0", Run::Container,
        "A container for commands about memory.")),
    command(("memory|usage", -3, (2, 2, 1), READ, "server", "4.0.0", Run::Key(keys::memory_usage),
        "Returns the memory of a record.")),
    command(("mget", -2, (1, -1, 1), READ_FAST, "string", "1.0.0", Run::Each(Each::Values),
        "Returns the values of keys.")),
    command(("mset", -3, (1, -1, 2), WRITE_OOM, "string", "1.0.1", Run::Each(Each::Set),
        "Sets the values of keys.")),
    command(("msetnx", -3, (1, -1, 2), WRITE_OOM, "string", "1.0.1", task(two_keys::set_all_if_absent),
        "Sets the values of keys if none of them exists.")),
    command(("object", -2, (0, 0, 0), READ, "generic", "2.2.3", Run::Container,
        "A container for commands about records.")),
    command(("object|encoding", 3, (2, 2, 1), READ, "generic", "2.2.3", Run::Key(keys::object_encoding),
        "Returns how a value would be encoded.")),
    command(("object|freq", 3, (2, 2, 1), READ, "generic", "4.0.0", Run::Key(keys::object_frequency),
        "Returns how often a key was used of late.")),
    command(("object|idletime", 3, (2, 2, 1), READ, "generic", "2.2.3", Run::Key(keys::object_idle_time),
        "Returns the time since the last use of a key.")),
    command(("object|refcount", 3, (2, 2, 1), READ, "generic", "2.2.3", Run::Key(keys::object_refcount),
        "Returns 1.")),
    command(("persist", 2, (1, 1, 1), WRITE_FAST, "generic", "2.2.0", Run::Key(keys::persist),
        "Removes the expiry of a key.")),
    command(("pexpire", -3, (1, 1, 1), WRITE_FAST, "generic", "2.6.0", Run::Key(keys::expire_millis),
        "Sets the expiry of a key in milliseconds.")),
    command(("pexpireat", -3, (1, 1, 1), WRITE_FAST, "generic", "2.6.0", Run::Key(keys::expire_at_millis),
        "Sets the expiry of a key to a Unix time in milliseconds.")),
    command(("pexpiretime", 2, (1, 1, 1), READ_FAST, "generic", "7.0.0", Run::Key(keys::expire_time_millis),
        "Returns the expiry of a key as a Unix time in milliseconds.")),
    command(("ping", -1, (0, 0, 0), FAST_CONNECTION, "connection", "1.0.0", Run::Session(session::ping),
        "Answers.")),
    command(("psetex", 4, (1, 1, 1), WRITE_OOM, "string", "2.6.0", Run::Key(strings::set_millis),
        "Sets a value with an expiry in milliseconds.")),
    command(("pttl", 2, (1, 1, 1), READ_FAST, "generic", "2.6.0", Run::Key(keys::time_to_live_millis),
        "Returns the time to live of a key in milliseconds.")),
    command(("quit", -1, (0, 0, 0), STRANGER, "connection", "1.0.0", Run::Session(session::quit),
        "Closes the connection.")),
    command(("randomkey", 1, (0, 0, 0), READ, "generic", "1.0.0", task(scan::random_key),
        "Returns a key drawn at random.")),
    command(("readonly", 1, (0, 0, 0), FAST_CONNECTION, "cluster", "3.0.0", Run::Session(cluster::no_effect),
        "Has no effect: any node serves any key.")),
    command(("readwrite", 1, (0, 0, 0), FAST_CONNECTION, "cluster", "3.0.0", Run::Session(cluster::no_effect),
        "Has no effect: any node serves any key.")),
    command(("rename", 3, (1, 2, 1), WRITE, "generic", "1.0.0", task(two_keys::rename),
        "Renames a key.")),
    command(("renamenx", 3, (1, 2, 1), WRITE_FAST, "generic", "1.0.0", task(two_keys::rename_if_absent),
        "Renames a key if the new name is free.")),
    command(("reset", 1, (0, 0, 0), STRANGER, "connection", "6.2.0", Run::Session(session::reset),
        "Resets the connection.")),
    command(("save", 1, (0, 0, 0), ADMIN, "server", "1.0.0", task(persistence::save),
        "Takes a snapshot.")),
    command(("scan", -2, (0, 0, 0), READ, "generic", "2.8.0", task(scan::scan),
        "Walks over the keys.")),
    command(("select", 2, (0, 0, 0), FAST_CONNECTION, "connection", "1.0.0", Run::Session(session::select),
        "Selects the one database.")),
    command(("set", -3, (1, 1, 1), WRITE_OOM_FAST, "string", "1.0.0", Run::Key(strings::set),
        "Sets the value of a key.")),
    command(("setex", 4, (1, 1, 1), WRITE_OOM, "string", "2.0.0", Run::Key(strings::set_seconds),
        "Sets a value with an expiry in seconds.")),
    command(("setnx", 3, (1, 1, 1), WRITE_OOM_FAST, "string", "1.0.0", Run::Key(strings::set_if_absent),
        "Sets the value of a key if it has none.")),
    command(("setrange", 4, (1, 1, 1), WRITE_OOM, "string", "2.2.0", Run::Key(strings::set_range),
        "Overwrites a part of a value.")),
    command(("shutdown", -1, (0, 0, 0), ADMIN, "server", "1.0.0", task(node::shutdown),
        "Stops the server.")),
    command(("slowlog", -2, (0, 0, 0), ADMIN, "server", "2.2.12", Run::Container,
        "A container for commands about slow commands.")),
    command(("slowlog|get", -2, (0, 0, 0), ADMIN, "server", "2.2.12", task(node::slowlog_get),
        "Returns the latest slow commands.")),
    command(("slowlog|len", 2, (0, 0, 0), ADMIN, "server", "2.2.12", task(node::slowlog_len),
        "Returns the number of slow commands held.")),
    command(("slowlog|reset", 2, (0, 0, 0), ADMIN, "server", "2.2.12", task(node::slowlog_reset),
        "Forgets the slow commands.")),
    command(("strlen", 2, (1, 1, 1), READ_FAST, "string", "2.2.0", Run::Key(strings::len),
        "Returns the length of a value.")),
    command(("substr", 4, (1, 1, 1), READ, "string", "1.0.0", Run::Key(strings::get_range),
        "Returns a part of a value.")),
    command(("time", 1, (0, 0, 0), FAST_SERVER, "server", "2.6.0", Run::Session(session::time),
        "Returns the time of the server.")),
    command(("touch", -2, (1, -1, 1), READ_FAST, "generic", "3.2.1", Run::Each(Each::Count(each::exists)),
        "Counts which keys exist, and counts that as a use of them.")),
    command(("ttl", 2, (1, 1, 1), READ_FAST, "generic", "1.0.0", Run::Key(keys::time_to_live),
        "Returns the time to live of a key in seconds.")),
    command(("type", 2, (1, 1, 1), READ_FAST, "generic", "1.0.0", Run::Key(keys::kind),
        "Returns the type of a value.")),
    command(("unlink", -2, (1, -1, 1), WRITE_FAST, "generic", "4.0.0", Run::Each(Each::Count(each::delete)),
        "Deletes keys.")),
];

/// Slots of the lookup table: a power of two, several times the number of commands.
const SLOT_COUNT: usize = 512;

type Slot = Option<(u128, &'static Command)>;

/// Top-level commands by their packed name, open addressing.
static BY_NAME: LazyLock<Box<[Slot]>> = LazyLock::new(|| {
    let mut slots = vec![None; SLOT_COUNT].into_boxed_slice();
    for command in ALL.iter().filter(|command| !command.name.contains('|')) {
        let name = pack(command.name.as_bytes()).expect("names are short");
        let mut slot = slot_of(name);
        while slots[slot].is_some() {
            slot = (slot + 1) % SLOT_COUNT;
        }
        slots[slot] = Some((name, command));
    }
    slots
});

/// A name of at most 16 bytes as a number, the same for both cases of its letters.
#[inline]
fn pack(name: &[u8]) -> Option<u128> {
    const LOWER: u128 = u128::from_ne_bytes([0x20; 16]);
    let len = name.len();
    if len == 0 || len > 16 {
        return None;
    }
    let mut bytes = [0; 16];
    bytes[..len].copy_from_slice(name);
    // Only letters are folded into letters, so no other name can become that of a command.
    let mask = u128::MAX >> (128 - 8 * len);
    Some(u128::from_le_bytes(bytes) | (LOWER & mask))
}

/// Where the search for a name begins.
#[inline]
#[expect(clippy::cast_possible_truncation, reason = "folds the number")]
fn slot_of(name: u128) -> usize {
    let folded = (name as u64) ^ ((name >> 64) as u64);
    (folded.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 55) as usize
}

/// The top-level command of that name, in any case.
#[inline]
pub(super) fn find(name: &[u8]) -> Option<&'static Command> {
    let name = pack(name)?;
    let slots = &*BY_NAME;
    let mut slot = slot_of(name);
    while let Some((found, command)) = slots[slot] {
        if found == name {
            return Some(command);
        }
        slot = (slot + 1) % SLOT_COUNT;
    }
    None
}

/// The command that a request asks for: the subcommand where the first word names a container, the
/// container itself where there is no such subcommand.
#[inline]
pub(crate) fn command_of<'a>(
    name: &[u8],
    subcommand: impl FnOnce() -> Option<&'a [u8]>,
) -> Option<&'static Command> {
    let command = find(name)?;
    if matches!(command.run, Run::Container) || command.name == "command" {
        return Some(subcommand_of(command, subcommand()).unwrap_or(command));
    }
    Some(command)
}

fn subcommand_of(container: &Command, subcommand: Option<&[u8]>) -> Option<&'static Command> {
    let subcommand = subcommand?;
    ALL.iter().find(|command| {
        command.name.split_once('|').is_some_and(|(outer, inner)| {
            outer == container.name && subcommand.eq_ignore_ascii_case(inner.as_bytes())
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_is_found_by_its_name_in_any_case() {
        for command in ALL {
            let mut words = command.name.split('|').map(str::to_ascii_uppercase);
            let (name, subcommand) = (words.next().unwrap(), words.next());
            let found = command_of(name.as_bytes(), || subcommand.as_deref().map(str::as_bytes));
            assert_eq!(found.map(|it| it.name), Some(command.name));
        }
    }

    #[test]
    fn what_is_not_a_command_is_not_found() {
        for name in ["", "g", "get ", "get\0", "getx", "client|id", "averyveryverylongname"] {
            assert!(find(name.as_bytes()).is_none(), "{name}");
        }
    }

    #[test]
    fn names_are_sorted_and_each_there_once() {
        assert!(ALL.is_sorted_by(|a, b| a.name < b.name));
    }

    #[test]
    fn keys_are_where_the_table_says() {
        let indexes = |name: &str, count: usize| -> Vec<usize> {
            find(name.as_bytes()).unwrap().key_indexes(count).collect()
        };
        assert_eq!(indexes("get", 2), [1]);
        assert_eq!(indexes("mset", 5), [1, 3]);
        assert_eq!(indexes("del", 4), [1, 2, 3]);
        assert_eq!(indexes("rename", 3), [1, 2]);
        assert_eq!(indexes("ping", 2), [0_usize; 0]);
    }
}
