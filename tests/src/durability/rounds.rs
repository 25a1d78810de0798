//! Load, kill, start again, compare; over and over on one directory.

use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use fastrand::Rng;
use gridkv_net::resp::Value;
use rustix::process::Signal;

use super::deed::{Keys, key_name};
use super::ledger::{Ledger, Span, Verified};
use super::writer::{Load, Written, write_until_cut};
use crate::client::{Client, encode};
use crate::program::{Program, command};
use crate::{DEADLINE, client};

/// The keys of each client.
const KEYS: Keys = Keys { text_count: 400, number_count: 40 };
/// When a node is killed, from the beginning of its load on.
const LOAD_MILLIS: std::ops::Range<u64> = 20..800;
/// Keys that are read at once.
const BATCH_LEN: usize = 64;
/// How much of the node's log a failure shows.
const LOG_LINES_SHOWN: usize = 10;

/// What to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// How often the node is ended.
    pub round_count: u32,
    /// What all choices derive from. The moments at which processes meet do not, so a seed gives
    /// the same load, not the same outcome.
    pub seed: u64,
    /// The program; the one of this workspace without.
    pub program: Option<PathBuf>,
    /// Its arguments, the directory and the ports left out.
    pub arguments: Vec<String>,
    /// The directory: new or empty.
    pub data: PathBuf,
    /// How many clients write.
    pub client_count: u16,
}

/// How a round ends the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    /// `SIGKILL`.
    Kill,
    /// `SIGKILL`, and another while it starts again.
    KillTwice,
    /// `SIGTERM`: in order.
    Terminate,
}

/// All rounds together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// How many were run.
    pub round_count: u32,
    /// Processes that were killed.
    pub kill_count: u32,
    /// Writes that were answered.
    pub acknowledged_count: usize,
    /// What the looks at all keys have come to.
    pub verified: Verified,
    /// The longest time from a start to the first answer.
    pub recovery_max: Duration,
}

/// Runs all rounds, and says a line about each.
///
/// # Errors
///
/// The first write that was lost or is half there, or whatever else the node did wrong. The
/// directory stays as it is.
pub fn run(options: &Options, say: &mut dyn FnMut(&str)) -> Result<Summary, String> {
    assert!(options.client_count > 0, "somebody writes");
    if std::fs::read_dir(&options.data).is_ok_and(|mut it| it.next().is_some()) {
        let data = options.data.display();
        return Err(format!("{data} is not empty: what it holds cannot be known"));
    }
    let mut run = Run {
        options,
        rng: Rng::with_seed(options.seed),
        began: Instant::now(),
        ledgers: (0..options.client_count).map(|client| Ledger::new(client, KEYS)).collect(),
        recovery: Duration::ZERO,
        summary: Summary::default(),
    };
    let (mut program, _) = run.start()?;
    for round in 1..=options.round_count {
        let failed = |text: String| format!("round {round}: {text}");
        let line = run.round(&mut program).map_err(|text| failed(with_log(&mut program, &text)))?;
        say(&failed(line));
    }
    program.signal(Signal::TERM);
    let status = program.wait();
    if !status.success() {
        return Err(with_log(&mut program, &format!("at the end: ended in order with {status}")));
    }
    Ok(run.summary)
}

struct Run<'a> {
    options: &'a Options,
    rng: Rng,
    began: Instant,
    ledgers: Vec<Ledger>,
    /// How long the last start took.
    recovery: Duration,
    summary: Summary,
}

impl Run<'_> {
    /// Starts the node and waits until it answers. Also tells how many keys it counts.
    fn start(&mut self) -> Result<(Program, u64), String> {
        let started = Instant::now();
        let mut program = self.launch();
        program.wait_until_ready()?;
        let key_count = self.first_answer(&program).map_err(|it| with_log(&mut program, &it))?;
        self.recovery = started.elapsed();
        self.summary.recovery_max = self.summary.recovery_max.max(self.recovery);
        Ok((program, key_count))
    }

    fn launch(&self) -> Program {
        let command = match &self.options.program {
            Some(path) => Command::new(path),
            None => command(&[]),
        };
        let mut arguments: Vec<&str> = self.options.arguments.iter().map(String::as_str).collect();
        let data = self.options.data.display().to_string();
        arguments.extend(["--data", &data]);
        Program::launch(command, &arguments)
    }

    fn first_answer(&self, program: &Program) -> Result<u64, String> {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let answer = Client::try_connect(program.address)
                .map_err(|error| error.to_string())
                .and_then(|mut it| ask(&mut it, &[b"DBSIZE".to_vec()]));
            match answer {
                Ok(Value::Integer(count)) if count >= 0 => return Ok(count.unsigned_abs()),
                other if Instant::now() > deadline => return Err(format!("no answer: {other:?}")),
                _ => std::thread::sleep(Duration::from_millis(1)),
            }
        }
    }

    /// Load, an end, a start, a look at all keys. Leaves the node running.
    fn round(&mut self, program: &mut Program) -> Result<String, String> {
        let ending = match self.rng.u8(..10) {
            0 => Ending::Terminate,
            1 | 2 => Ending::KillTwice,
            _ => Ending::Kill,
        };
        let loaded = Duration::from_millis(self.rng.u64(LOAD_MILLIS));
        let acknowledged_count = self.load(program, ending, loaded)?;
        let status = program.wait();
        if ending == Ending::Terminate && !status.success() {
            return Err(format!("ended in order with {status}"));
        }
        if ending == Ending::KillTwice {
            let mut second = self.launch();
            let recovery_nanos = u64::try_from(self.recovery.as_nanos()).unwrap_or(u64::MAX);
            std::thread::sleep(Duration::from_nanos(self.rng.u64(..=recovery_nanos)));
            second.signal(Signal::KILL);
            second.wait();
        }
        self.summary.kill_count += match ending {
            Ending::Kill => 1,
            Ending::KillTwice => 2,
            Ending::Terminate => 0,
        };
        let counted;
        (*program, counted) = self.start()?;
        let verified = self.verify(program)?;
        check_count(counted, &verified)?;
        self.summary.round_count += 1;
        self.summary.acknowledged_count += acknowledged_count;
        self.summary.verified.add(&verified);
        Ok(format!(
            "{ending} after {loaded:.0?}: {acknowledged_count} writes acknowledged, {} not ({} \
             kept); answered {:.1?} after its start; {} keys verified",
            verified.unanswered_count, verified.kept_count, self.recovery, verified.key_count,
        ))
    }

    /// Lets all clients write for so long, ends the node, and waits until all are cut off.
    fn load(
        &mut self,
        program: &Program,
        ending: Ending,
        loaded: Duration,
    ) -> Result<usize, String> {
        let load = Load {
            address: program.address,
            client_count: self.options.client_count,
            began: self.began,
            is_ending: AtomicBool::new(false),
        };
        let rng = &mut self.rng;
        let outcomes: Vec<Result<Written, String>> = std::thread::scope(|scope| {
            let threads: Vec<_> = self
                .ledgers
                .iter_mut()
                .map(|ledger| {
                    let (load, rng) = (&load, rng.fork());
                    scope.spawn(move || write_until_cut(load, ledger, rng))
                })
                .collect();
            std::thread::sleep(loaded);
            load.is_ending.store(true, Ordering::Release);
            let is_in_order = ending == Ending::Terminate;
            program.signal(if is_in_order { Signal::TERM } else { Signal::KILL });
            let broken = || Err("a writer has panicked, as said above".to_owned());
            threads.into_iter().map(|it| it.join().unwrap_or_else(|_| broken())).collect()
        });
        let now = self.began.elapsed();
        let mut acknowledged_count = 0;
        for outcome in outcomes {
            let written = outcome?;
            acknowledged_count += written.acknowledged_count;
            for seen in written.seen {
                self.ledgers[usize::from(seen.mark.client)].see(seen.key, seen.mark.sequence, now);
            }
        }
        Ok(acknowledged_count)
    }

    /// Compares every key of every client.
    fn verify(&mut self, program: &Program) -> Result<Verified, String> {
        let mut verified = Verified::default();
        let connection = Client::try_connect(program.address);
        let mut connection = connection.map_err(|error| format!("cannot connect: {error}"))?;
        for ledger in &mut self.ledgers {
            let from = self.began.elapsed();
            let values = read_all(&mut connection, ledger)?;
            verified.add(&ledger.verify(&values, Span { from, to: self.began.elapsed() })?);
        }
        Ok(verified)
    }
}

impl std::fmt::Display for Ending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Kill => "killed",
            Self::KillTwice => "killed, and again at its start,",
            Self::Terminate => "ended in order",
        })
    }
}

fn read_all(connection: &mut Client, ledger: &Ledger) -> Result<Vec<Option<Vec<u8>>>, String> {
    let keys: Vec<usize> = (0..ledger.keys().count()).collect();
    let mut values = Vec::with_capacity(keys.len());
    for batch in keys.chunks(BATCH_LEN) {
        let mut words = vec![b"MGET".to_vec()];
        words.extend(batch.iter().map(|&key| key_name(ledger.client(), key)));
        match ask(connection, &words)? {
            Value::Array(found) if found.len() == batch.len() => {
                for value in found {
                    values.push(match value {
                        Value::Null => None,
                        Value::Bulk(bytes) => Some(bytes),
                        other => return Err(format!("MGET was answered with {other:?}")),
                    });
                }
            }
            other => return Err(format!("MGET was answered with {other:?}")),
        }
    }
    Ok(values)
}

fn ask(connection: &mut Client, words: &[Vec<u8>]) -> Result<Value, String> {
    use std::io::Write;
    let name = || String::from_utf8_lossy(&words[0]).into_owned();
    connection
        .stream()
        .write_all(&encode(words))
        .map_err(|error| format!("{} cannot be sent: {error}", name()))?;
    let reply = connection.try_reply_bytes();
    reply.map(|it| client::value(&it)).map_err(|end| format!("{}: {end:?}", name()))
}

/// The node counts before we read, so keys may have died in between; those that have expired count
/// until they are collected.
fn check_count(counted: u64, verified: &Verified) -> Result<(), String> {
    let range = verified.lasting_count as u64..=verified.counted_max as u64;
    if range.contains(&counted) {
        return Ok(());
    }
    Err(format!("DBSIZE is {counted}, but there are {} to {} keys", range.start(), range.end()))
}

/// A failure with the end of the node's log.
fn with_log(program: &mut Program, text: &str) -> String {
    let ended = program.ended().map_or_else(String::new, |status| format!(" (it ended: {status})"));
    program.read_log();
    let shown = program.lines.len().saturating_sub(LOG_LINES_SHOWN);
    let lines = program.lines[shown..].join("\n    ");
    format!("{text}\n  the node's last words{ended}:\n    {lines}")
}

/// What the program is told, but for the directory: a store on disk whose answers mean that a write
/// is there, in files so small that many are filled.
#[must_use]
pub fn arguments(cores: usize) -> Vec<String> {
    let fixed = ["--storage", "file", "--durability", "commit", "--segment", "1MiB", "--cores"];
    fixed.map(str::to_owned).into_iter().chain([cores.to_string()]).collect()
}

/// A new directory among the temporary ones.
#[must_use]
pub fn directory() -> PathBuf {
    std::env::temp_dir().join(format!("gridkv-kill-rounds-{}", std::process::id()))
}
