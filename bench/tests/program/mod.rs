//! The program under test.

use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Pid;
use serde_json::Value;

use crate::responder::running;

/// A run of the program, with a directory for its servers.
pub(crate) struct Run {
    pub(crate) output: Output,
    directory: tempfile::TempDir,
    mark: String,
}

impl Run {
    pub(crate) fn stderr(&self) -> String {
        String::from_utf8(self.output.stderr.clone()).unwrap()
    }

    pub(crate) fn stdout(&self) -> String {
        String::from_utf8(self.output.stdout.clone()).unwrap()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout()).unwrap_or_else(|_| panic!("{}", self.stderr()))
    }

    /// One line on standard error, failure, and nothing left.
    pub(crate) fn fails_with(&self, expected: &str) {
        let stderr = self.stderr();
        assert!(stderr.contains(expected), "{stderr}");
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
        assert!(!self.output.status.success());
        self.leaves_nothing();
    }

    pub(crate) fn succeeds(&self) {
        assert!(self.output.status.success(), "{}", self.stderr());
        self.leaves_nothing();
    }

    pub(crate) fn leaves_nothing(&self) {
        assert_eq!(running(&self.mark), Vec::<u32>::new());
        assert!(std::fs::read_dir(self.directory.path()).unwrap().next().is_none());
    }
}

/// Runs the program with `arguments`, some of which are command lines, and the options in `line`.
pub(crate) fn bench(mark: &str, arguments: &[&str], line: &str) -> Run {
    started(mark, arguments, line, |_| {})
}

/// The same, with something done meanwhile.
pub(crate) fn started(
    mark: &str,
    arguments: &[&str],
    line: &str,
    meanwhile: impl FnOnce(Pid),
) -> Run {
    let directory = tempfile::tempdir().unwrap();
    let mut program = Command::new(env!("CARGO_BIN_EXE_gridkv-bench"));
    program.args(arguments).args(line.split_ascii_whitespace());
    program.arg("--dir").arg(directory.path());
    program.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = program.spawn().unwrap();
    meanwhile(Pid::from_child(&child));
    Run { output: child.wait_with_output().unwrap(), directory, mark: mark.to_owned() }
}

/// Waits until the responders of a mark have worked for a tenth of a second of CPU time together,
/// which only a load makes them do.
pub(crate) fn await_load(mark: &str) {
    let ticks = |id: &u32| -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
        let fields = stat.rsplit_once(')').map_or("", |it| it.1).split_ascii_whitespace();
        // User and system time are fields 14 and 15, of which two stand before the parenthesis.
        fields.skip(11).take(2).filter_map(|it| it.parse::<u64>().ok()).sum()
    };
    let enough = rustix::param::clock_ticks_per_second() / 10;
    let deadline = Instant::now() + Duration::from_secs(20);
    while running(mark).iter().map(ticks).sum::<u64>() < enough {
        assert!(Instant::now() < deadline);
        std::thread::sleep(Duration::from_millis(10));
    }
}
