//! What servers leave outside of their process groups: those that make themselves daemons.
//!
//! Such a process loses its parent, and the system gives it to this program, which has asked for
//! it. So the children of this program that it has not started itself are what servers left, and
//! when a server is stopped they are ended too.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitOptions, kill_process, set_child_subreaper, waitpid};

/// How long the system has to end what was killed.
const KILL_TIMEOUT: Duration = Duration::from_secs(5);

const LOOK_INTERVAL: Duration = Duration::from_millis(5);

static IS_ADOPTING: AtomicBool = AtomicBool::new(false);

/// The processes that this program has started itself and not yet stopped.
static OWN: Mutex<BTreeSet<i32>> = Mutex::new(BTreeSet::new());

/// Asks the system for all orphans among the descendants of this program. All other children must
/// be started as a [`Process`](super::Process) from then on.
///
/// # Errors
///
/// When the system refuses.
pub fn adopt() -> io::Result<()> {
    set_child_subreaper(Some(rustix::process::getpid()))?;
    IS_ADOPTING.store(true, Ordering::Relaxed);
    Ok(())
}

pub(super) fn keep(process: Pid) {
    OWN.lock().expect("nobody panics with it").insert(process.as_raw_pid());
}

/// Forgets a process that has ended, and ends all orphans.
pub(super) fn release(process: Pid) {
    OWN.lock().expect("nobody panics with it").remove(&process.as_raw_pid());
    if !IS_ADOPTING.load(Ordering::Relaxed) {
        return;
    }
    let deadline = Instant::now() + KILL_TIMEOUT;
    loop {
        let orphans = orphans();
        for orphan in &orphans {
            // Fails when it has ended since. Its own children come next.
            let _ = kill_process(*orphan, Signal::KILL);
            let _ = waitpid(Some(*orphan), WaitOptions::NOHANG);
        }
        if orphans.is_empty() || Instant::now() > deadline {
            return;
        }
        thread::sleep(LOOK_INTERVAL);
    }
}

fn orphans() -> Vec<Pid> {
    let own = OWN.lock().expect("nobody panics with it");
    let this = rustix::process::getpid().as_raw_pid();
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let orphan = |entry: fs::DirEntry| {
        let id: i32 = entry.file_name().to_str()?.parse().ok()?;
        let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
        (parent(&stat)? == this && !own.contains(&id)).then(|| Pid::from_raw(id))?
    };
    entries.flatten().filter_map(orphan).collect()
}

/// Of a text of `/proc/<pid>/stat`: it stands behind the name and the state.
fn parent(stat: &str) -> Option<i32> {
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parent_stands_behind_any_name() {
        assert_eq!(parent("9 (a) b) S 12 7 7 0"), Some(12));
        assert_eq!(parent("9 (a"), None);
    }
}
