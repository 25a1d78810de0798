//! The table of commands, and what running one takes.
//!
//! | kind | runs | examples |
//! |---|---|---|
//! | [`Run::Key`] | on the core that owns its one key | GET, SET, INCR, EXPIRE |
//! | [`Run::Each`] | once a key, each on the core that owns it | DEL, EXISTS, MGET, MSET |
//! | [`Run::Session`] | at once, on the client's own core | PING, HELLO, CLIENT ID |
//! | [`Run::Task`] | as a task, in steps; its client waits, others do not | RENAME, SCAN, INFO |
//!
//! # What is atomic
//!
//! A command on one key is atomic. `MSETNX`, `RENAME`, `RENAMENX`, `COPY` and `LCS` are atomic when
//! their keys live on one core. Otherwise: `MGET`, `MSET`, `DEL`, `UNLINK`, `EXISTS` and `TOUCH`
//! treat each key atomically, not the set of them; for the others see [`two_keys`].

mod cluster;
pub(crate) mod docs;
mod each;
mod info;
mod keys;
mod node;
mod persistence;
mod scan;
pub(crate) mod scope;
mod session;
mod strings;
mod table;
mod two_keys;

use std::cell::RefCell;
use std::fmt;
use std::pin::Pin;
use std::rc::Rc;

use gridkv_cluster::Token;
use gridkv_net::resp::{Protocol, Reply};

pub(crate) use self::scan::walk_own;
use self::scope::Asker;
pub(crate) use self::table::command_of;
use super::session::Client;
use crate::core::World;
use crate::core::forward::Waiter;
use crate::core::job::Access;
use crate::core::tasks::{Pieces, Tasks, Urgency};
use crate::error::Error;
use crate::handle::Handle;
use crate::shard::{Key, Shard};

/// Where the keys of a command stand among its arguments, the command's name being number 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Keys {
    /// The first; 0 for none.
    pub(crate) first: usize,
    /// The last; negative counts from the end.
    pub(crate) last: isize,
    /// From one to the next.
    pub(crate) step: usize,
}

/// A command on one key.
pub(crate) type RunKey = fn(&mut KeyCall<'_, '_>) -> Result<(), Failure>;
/// A command about the connection.
pub(crate) type RunSession = fn(&mut SessionCall<'_, '_>) -> Result<(), Failure>;
/// A command in several steps.
pub(crate) type RunTask = fn(TaskCall) -> Pin<Box<dyn Future<Output = Result<(), Failure>>>>;

/// How a command runs.
#[derive(Clone, Copy)]
pub(crate) enum Run {
    Key(RunKey),
    Each(Each),
    Session(RunSession),
    Task(RunTask, Urgency),
    /// It is the first word of others; alone it only explains them.
    Container,
}

/// What a command over many keys does with each, and makes of it.
#[derive(Clone, Copy)]
pub(crate) enum Each {
    /// The reply is the number of keys for which this is true.
    Count(fn(&mut Shard, Key<'_>) -> Result<bool, Error>),
    /// The reply is an array of the values.
    Values,
    /// Keys and values alternate; the reply is `OK`.
    Set,
}

/// A command.
pub(crate) struct Command {
    /// Its name in lower case.
    pub(crate) name: &'static str,
    /// How many arguments it takes, its name included; negative for at least so many.
    pub(crate) arity: i32,
    pub(crate) keys: Keys,
    pub(crate) flags: &'static [Flag],
    /// Redis' group: `string`, `generic`, `connection`, `server`.
    pub(crate) group: &'static str,
    pub(crate) since: &'static str,
    pub(crate) summary: &'static str,
    pub(crate) run: Run,
}

/// What a command is like, in Redis' words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flag {
    Write,
    ReadOnly,
    DenyOom,
    Admin,
    Fast,
    Loading,
    Stale,
    NoAuth,
    NoScript,
}

impl Flag {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Write => "write",
            Self::ReadOnly => "readonly",
            Self::DenyOom => "denyoom",
            Self::Admin => "admin",
            Self::Fast => "fast",
            Self::Loading => "loading",
            Self::Stale => "stale",
            Self::NoAuth => "no_auth",
            Self::NoScript => "noscript",
        }
    }
}

/// What one part of a request has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// The reply was written.
    Reply,
    /// The key counts, or not.
    Count(bool),
    /// The text of an error was written.
    Failed,
    /// Nothing has happened: the shard says what to wait for, and then it is to be run again.
    Wait,
}

/// A command on one key, on the core that owns it.
pub(crate) struct KeyCall<'a, 'r> {
    pub(crate) shard: &'a mut Shard,
    pub(crate) key: Key<'a>,
    /// All arguments, the name first.
    pub(crate) arguments: &'a [&'a [u8]],
    pub(crate) reply: Reply<'r>,
}

/// A command about the connection or the node, on the client's own core.
pub(crate) struct SessionCall<'a, 'r> {
    pub(crate) client: &'a mut Client,
    pub(crate) world: &'a mut World,
    pub(crate) arguments: &'a [&'a [u8]],
    pub(crate) reply: Reply<'r>,
}

/// A command that runs as a task. What it replies is collected in `out`.
pub(crate) struct TaskCall {
    pub(crate) core: usize,
    pub(crate) arguments: Vec<Vec<u8>>,
    pub(crate) protocol: Protocol,
    pub(crate) client_id: u64,
    pub(crate) client: Asker,
    pub(crate) handle: Handle,
    pub(crate) out: Rc<RefCell<Vec<u8>>>,
    /// What comes before that, in large pieces.
    pub(crate) pieces: Rc<RefCell<Pieces>>,
}

impl TaskCall {
    /// Writes a part of the reply.
    pub(crate) fn reply(&self, write: impl FnOnce(&mut Reply<'_>)) {
        write(&mut Reply::new(&mut self.out.borrow_mut(), self.protocol));
    }

    /// Replies `OK`.
    pub(crate) fn reply_ok(&self) {
        self.reply(|reply| reply.ok());
    }

    /// Starts the command; its reply goes to `waiter`.
    pub(crate) fn start(
        self,
        (run, urgency): (RunTask, Urgency),
        (tasks, name): (&Rc<Tasks>, &'static str),
        waiter: Waiter,
    ) {
        let (out, pieces) = (Rc::clone(&self.out), Rc::clone(&self.pieces));
        let protocol = self.protocol;
        let task = run(self);
        tasks.spawn(waiter, (urgency, name), async move {
            let result = task.await;
            let (mut reply, mut pieces) = (out.take(), pieces.take());
            if let Err(failure) = result {
                reply.clear();
                pieces.clear();
                Reply::new(&mut reply, protocol).error(failure);
            }
            pieces.push(reply);
            pieces
        });
    }
}

/// Why a command has no other reply than an error. Its text is Redis'.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    Syntax,
    NotAnInteger,
    NotAFloat,
    NoSuchKey,
    Arity(String),
    InvalidExpire(String),
    CoreStopped,
    Store(Error),
    /// A text with its code.
    Text(String),
}

impl Failure {
    pub(crate) fn text(text: impl Into<String>) -> Self {
        Self::Text(text.into())
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Store(error)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Syntax => f.write_str("ERR syntax error"),
            Self::NotAnInteger | Self::Store(Error::NotAnInteger) => {
                f.write_str("ERR value is not an integer or out of range")
            }
            Self::NotAFloat => f.write_str("ERR value is not a valid float"),
            Self::NoSuchKey => f.write_str("ERR no such key"),
            Self::Arity(name) => write!(f, "ERR wrong number of arguments for '{name}' command"),
            Self::InvalidExpire(name) => write!(f, "ERR invalid expire time in '{name}' command"),
            Self::CoreStopped => f.write_str("ERR the core that owns the key has stopped"),
            Self::Store(Error::OutOfMemory { .. }) => {
                f.write_str("OOM command not allowed when used memory > 'maxmemory'.")
            }
            Self::Store(Error::Overflow) => {
                f.write_str("ERR increment or decrement would overflow")
            }
            Self::Store(Error::ValueTooLarge { .. }) => {
                f.write_str("ERR string exceeds maximum allowed size (max_value)")
            }
            Self::Store(Error::DiskFull) => {
                write!(f, "DISKFULL {}", Error::DiskFull)
            }
            // As Redis says it, so that its clients know it.
            Self::Store(error @ Error::LogFailed) => write!(f, "MISCONF {error}"),
            Self::Store(
                error @ (Error::NotDurable | Error::Unknown { .. } | Error::TopologyUnknown { .. }),
            ) => write!(f, "UNKNOWN {error}"),
            Self::Store(error @ (Error::NotApplied { .. } | Error::TopologyRefused { .. })) => {
                write!(f, "NOQUORUM {error}")
            }
            Self::Store(Error::Interrupted) => {
                f.write_str("UNKNOWN the core stopped while the command was under way")
            }
            Self::Store(error) => write!(f, "ERR {error}"),
            Self::Text(text) => f.write_str(text),
        }
    }
}

impl Command {
    pub(crate) fn has(&self, flag: Flag) -> bool {
        self.flags.contains(&flag)
    }

    /// What it does with a key, where keys have copies on other nodes.
    pub(crate) fn access(&self) -> Access {
        if self.has(Flag::ReadOnly) { Access::Read } else { Access::Write }
    }

    /// Whether another node may ask for a part of it with so many arguments: it is about one key, and
    /// the key is there.
    pub(crate) fn can_be_handed_over(&self, argument_count: usize) -> bool {
        match self.run {
            Run::Key(_) => self.takes(argument_count) && self.keys.first < argument_count,
            Run::Each(Each::Set) => argument_count == 2,
            Run::Each(_) => argument_count == 1,
            Run::Session(_) | Run::Task(..) | Run::Container => false,
        }
    }

    /// Where the key stands among the arguments of a part of the command.
    pub(crate) fn key_of_part(&self) -> usize {
        if matches!(self.run, Run::Each(_)) { 0 } else { self.keys.first }
    }

    /// Whether the command takes `argument_count` arguments, its name included.
    #[inline]
    pub(crate) fn takes(&self, argument_count: usize) -> bool {
        let arity = self.arity.unsigned_abs() as usize;
        if self.arity >= 0 { argument_count == arity } else { argument_count >= arity }
    }

    /// Whether the next request of the connection must not be looked at before this one is done
    /// with: it may change how the connection is read, or takes its time.
    #[inline]
    pub(crate) fn is_barrier(&self) -> bool {
        matches!(self.run, Run::Session(_) | Run::Task(..) | Run::Container)
    }

    /// The places of the keys among `argument_count` arguments.
    pub(crate) fn key_indexes(&self, argument_count: usize) -> impl Iterator<Item = usize> + use<> {
        let Keys { first, last, step } = self.keys;
        let last = if last < 0 {
            argument_count.saturating_sub(last.unsigned_abs())
        } else {
            last.unsigned_abs()
        };
        let end = if first == 0 { 0 } else { (last + 1).min(argument_count) };
        (first.max(1)..end.max(1)).step_by(step.max(1))
    }

    /// Runs the part of a request that concerns one key, on the core that owns it. The reply, or
    /// the text of an error, is appended to `out`.
    ///
    /// A command that meets what is on disk, or a log without room, is run again from its start. So
    /// it changes nothing before the last step that can fail like that.
    #[inline]
    pub(crate) fn run_part(
        &self,
        shard: &mut Shard,
        token: Token,
        arguments: &[&[u8]],
        out: &mut Vec<u8>,
        protocol: Protocol,
    ) -> Part {
        let before = out.len();
        let result = match self.run {
            Run::Key(run) => {
                let key = Key { bytes: arguments[self.keys.first], token };
                let reply = Reply::new(out, protocol);
                run(&mut KeyCall { shard, key, arguments, reply }).map(|()| Part::Reply)
            }
            Run::Each(each) => each::run(each, shard, token, arguments, out, protocol),
            Run::Session(_) | Run::Task(..) | Run::Container => {
                unreachable!("these have no part elsewhere")
            }
        };
        result.unwrap_or_else(|failure| {
            out.truncate(before);
            if failure == Failure::Store(Error::Busy) {
                return Part::Wait;
            }
            out.extend_from_slice(failure.to_string().as_bytes());
            Part::Failed
        })
    }
}

/// A whole number in the way Redis reads options.
pub(crate) fn integer(argument: &[u8]) -> Result<i64, Failure> {
    crate::shard::parse_integer(argument).ok_or(Failure::NotAnInteger)
}

/// Whether an argument is this word, whatever its case.
#[inline]
pub(crate) fn is_word(argument: &[u8], word: &str) -> bool {
    argument.eq_ignore_ascii_case(word.as_bytes())
}

/// An argument as text, for an error.
pub(crate) fn text(argument: &[u8]) -> String {
    String::from_utf8_lossy(argument).into_owned()
}

#[cfg(test)]
mod tests {
    use gridkv_cluster::replication::Why;
    use gridkv_cluster::topology::Refusal;

    use super::*;
    use crate::error::Outcome;

    #[test]
    fn a_client_hears_unknown_of_what_may_have_been_done_and_of_nothing_else() {
        let refusal = Refusal::NoMajority;
        let errors = [
            Error::TopologyRefused { refusal },
            Error::TopologyUnknown { refusal },
            Error::NotApplied { why: Why::NoCluster },
            Error::Unknown { why: Why::NoCluster },
            Error::NotDurable,
            Error::Interrupted,
            Error::DiskFull,
            Error::LogFailed,
            Error::Replicated,
            Error::Closed,
        ];
        for error in errors {
            let text = Failure::from(error.clone()).to_string();
            let is_unknown = error.outcome() == Outcome::Unknown;
            assert_eq!(text.starts_with("UNKNOWN "), is_unknown, "{text}");
        }
    }
}
