//! One process and what it starts.
//!
//! A process begins a process group of its own, so a signal to this program's group, as a terminal
//! sends one, does not reach it, and whatever it forks can be ended with it. Its standard output and
//! error go to a file, from which errors quote.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};
use rustix::thread::{CpuSet, sched_setaffinity};

use super::{Error, orphans};

/// How long a server has to end by itself.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// How long the system has to end what was killed.
const KILL_TIMEOUT: Duration = Duration::from_secs(5);

const LOOK_INTERVAL: Duration = Duration::from_millis(5);

/// How much of its output an error quotes.
const QUOTED_LINES: usize = 3;
const QUOTED_BYTES: u64 = 1000;

/// A process that runs, or has ended; stopped and waited for on drop.
#[derive(Debug)]
pub struct Process {
    command: String,
    child: Child,
    group: Pid,
    output: PathBuf,
    status: Option<ExitStatus>,
    /// Whether it was asked to end. Some servers take a second time for impatience, and end without
    /// what they do at the end.
    is_asked: bool,
}

impl Process {
    /// Runs `words` on `cpus`, or anywhere when there are none, with its output in the file
    /// `output`.
    ///
    /// # Errors
    ///
    /// When that fails. Nothing runs then.
    pub fn start(words: &[String], output: PathBuf, cpus: &BTreeSet<usize>) -> Result<Self, Error> {
        let line = shlex::try_join(words.iter().map(String::as_str));
        let command = line.unwrap_or_else(|_| words.join(" "));
        let prepare = |source| Error::Prepare { context: output.display().to_string(), source };
        let out = File::create(&output).map_err(prepare)?;
        let error = out.try_clone().map_err(prepare)?;
        let mut process = Command::new(&words[0]);
        process.args(&words[1..]).process_group(0);
        process.stdin(Stdio::null()).stdout(out).stderr(error);
        // A process inherits the CPUs of the thread that starts it.
        let spawned = thread::scope(|scope| {
            let start = || {
                pin(cpus)?;
                process.spawn()
            };
            scope.spawn(start).join().expect("the thread does not panic")
        });
        let child = spawned.map_err(|source| Error::Spawn { command: command.clone(), source })?;
        let group = Pid::from_child(&child);
        orphans::keep(group);
        Ok(Self { command, child, group, output, status: None, is_asked: false })
    }

    /// Its command line.
    #[must_use]
    pub fn command(&self) -> &str {
        &self.command
    }

    /// How it ended, if it has.
    pub fn status(&mut self) -> Option<ExitStatus> {
        if self.status.is_none() {
            self.status = self.child.try_wait().ok().flatten();
        }
        self.status
    }

    /// The last lines of its output, on one line.
    #[must_use]
    pub fn last_words(&self) -> String {
        match tail(&self.output) {
            Ok(text) if !text.is_empty() => format!("it said: {text}"),
            _ => "it said nothing".to_owned(),
        }
    }

    /// Sends a signal to it and all that it started.
    pub fn send(&mut self, signal: Signal) {
        self.signal(signal);
    }

    /// Asks it and all that it started to end, and does not wait.
    pub fn ask_to_stop(&mut self) {
        if !self.is_asked {
            self.is_asked = true;
            self.signal(Signal::TERM);
        }
    }

    /// Ends it and all that it started: asked first, killed when that takes too long.
    pub fn stop(&mut self) {
        self.stop_within(STOP_TIMEOUT);
    }

    fn stop_within(&mut self, timeout: Duration) {
        self.ask_to_stop();
        if !self.await_end(timeout) {
            self.signal(Signal::KILL);
            // What does not even end by that hangs in the system, and no wait would help.
            self.await_end(KILL_TIMEOUT);
        }
    }

    fn signal(&mut self, signal: Signal) {
        if !self.has_ended() {
            // Fails when the last one has ended since, which is what is wanted.
            let _ = kill_process_group(self.group, signal);
        }
    }

    fn await_end(&mut self, timeout: Duration) -> bool {
        let deadline = Instant::now() + timeout;
        while !self.has_ended() {
            if Instant::now() > deadline {
                return false;
            }
            thread::sleep(LOOK_INTERVAL);
        }
        true
    }

    /// Whether nothing of its group is left. While something is, the number of the group is not
    /// given to another.
    fn has_ended(&mut self) -> bool {
        self.status().is_some() && !has_member(self.group)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.stop();
        orphans::release(self.group);
    }
}

fn pin(cpus: &BTreeSet<usize>) -> io::Result<()> {
    if cpus.is_empty() {
        return Ok(());
    }
    let mut set = CpuSet::new();
    cpus.iter().filter(|&&it| it < CpuSet::MAX_CPU).for_each(|&it| set.set(it));
    sched_setaffinity(None, &set)
        .map_err(|error| io::Error::other(format!("--server-cpus: {}", io::Error::from(error))))
}

/// Whether a process of the group lives. One that has ended and was not waited for does not.
fn has_member(group: Pid) -> bool {
    let Ok(entries) = fs::read_dir("/proc") else { return false };
    entries.flatten().any(|entry| {
        let text = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        is_live_member(&text, group).unwrap_or(false)
    })
}

/// Of a text of `/proc/<pid>/stat`: the state stands behind the name, then parent and group.
fn is_live_member(stat: &str, group: Pid) -> Option<bool> {
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    let (state, _parent) = (fields.next()?, fields.next()?);
    let number: i32 = fields.next()?.parse().ok()?;
    Some(number == group.as_raw_nonzero().get() && !matches!(state, "Z" | "X"))
}

fn tail(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let len = file.metadata()?.len();
    file.seek(SeekFrom::Start(len.saturating_sub(QUOTED_BYTES)))?;
    let mut bytes = Vec::new();
    file.take(QUOTED_BYTES).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let lines = text.lines().map(str::trim).filter(|it| !it.is_empty());
    let lines: Vec<String> = lines.map(|it| it.replace(char::is_control, "?")).collect();
    Ok(lines[lines.len().saturating_sub(QUOTED_LINES)..].join(" | "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_of_a_group_lives_until_it_is_a_zombie() {
        let group = Pid::from_raw(7).unwrap();
        assert_eq!(is_live_member("9 (a) b) S 1 7 7 0", group), Some(true));
        assert_eq!(is_live_member("9 (a) b) Z 1 7 7 0", group), Some(false));
        assert_eq!(is_live_member("9 (a) b) S 7 1 7 0", group), Some(false));
        assert_eq!(is_live_member("", group), None);
    }

    /// Runs a script that writes numbers of processes to a file and then a line to its output, and
    /// stops it once it has. Returns those processes.
    fn run_and_stop(script: &str) -> Vec<i32> {
        let directory = tempfile::tempdir().unwrap();
        let (pids, output) = (directory.path().join("pids"), directory.path().join("output"));
        let words = ["sh", "-c", script, "sh", pids.to_str().unwrap()].map(str::to_owned);
        let mut process = Process::start(&words, output, &BTreeSet::new()).unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        while process.last_words() == "it said nothing" {
            assert!(Instant::now() < deadline);
            thread::sleep(LOOK_INTERVAL);
        }
        process.stop_within(Duration::from_millis(100));
        assert!(process.status().is_some());
        let pids = fs::read_to_string(pids).unwrap();
        pids.split_ascii_whitespace().map(|it| it.parse().unwrap()).collect()
    }

    /// A zombie that nobody waits for does nothing any more.
    fn lives(process: i32) -> bool {
        let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
        stat.rsplit_once(')').is_some_and(|it| !it.1.trim_start().starts_with(['Z', 'X']))
    }

    #[test]
    fn a_process_that_ignores_the_request_is_killed() {
        let pids =
            run_and_stop("trap '' TERM; echo $$ > $1; echo ready; while :; do sleep 1; done");
        assert_eq!(pids.len(), 1);
        assert!(!lives(pids[0]));
    }

    #[test]
    fn what_a_process_forks_ends_with_it() {
        let script = "(trap '' TERM; sleep 100) & sleep 100 & echo $$ $! > $1; echo ready; wait";
        let pids = run_and_stop(script);
        assert_eq!(pids.len(), 2);
        assert!(!pids.iter().any(|&it| lives(it)));
        // Also when it ended by itself before.
        let pids = run_and_stop("sleep 100 & echo $! > $1; echo ready");
        assert_eq!(pids.len(), 1);
        assert!(!lives(pids[0]));
    }

    #[test]
    fn a_process_runs_on_the_cpus_it_is_pinned_to() {
        let directory = tempfile::tempdir().unwrap();
        let output = directory.path().join("output");
        let words = ["grep", "Cpus_allowed_list", "/proc/self/status"].map(str::to_owned);
        let mut process = Process::start(&words, output.clone(), &[0].into()).unwrap();
        assert!(process.await_end(Duration::from_secs(20)));
        assert_eq!(process.last_words(), "it said: Cpus_allowed_list:?0");
        let nowhere = Process::start(&words, output, &[1000].into());
        let error = nowhere.unwrap_err().to_string();
        assert!(error.starts_with("cannot start `grep "), "{error}");
        assert!(error.contains("--server-cpus"), "{error}");
    }

    #[test]
    fn an_error_quotes_the_last_lines_on_one() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), format!("{}\none\n\n two\x1b \nthree\n", "x".repeat(5000))).unwrap();
        assert_eq!(tail(file.path()).unwrap(), "one | two? | three");
    }
}
