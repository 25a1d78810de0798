//! Whether the user asks the program to end.
//!
//! A signal sets a flag, and nothing else: whoever waits looks at it, ends early and leaves what was
//! measured so far. So servers that this program started are stopped, and a report is printed. A
//! second signal does no more than the first: it would leave those servers behind.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

/// Why a report is partial when the user ended it.
pub const REASON: &str = "interrupted by a signal";

static FLAG: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// Begins to listen for signals.
///
/// # Errors
///
/// When the system refuses.
pub fn listen() -> io::Result<()> {
    for signal in [SIGHUP, SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(shared()))?;
    }
    Ok(())
}

/// Set once a signal has asked to end.
pub fn flag() -> &'static AtomicBool {
    shared()
}

/// Whether a signal has asked to end.
#[must_use]
pub fn is_set() -> bool {
    flag().load(Ordering::Relaxed)
}

/// [`REASON`], if so.
#[must_use]
pub fn reason() -> Option<String> {
    is_set().then(|| REASON.to_owned())
}

fn shared() -> &'static Arc<AtomicBool> {
    FLAG.get_or_init(Arc::default)
}
