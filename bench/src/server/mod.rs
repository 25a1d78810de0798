//! Servers that this program starts and stops.
//!
//! | file | what |
//! |---|---|
//! | [`template`] | a command line with placeholders |
//! | [`process`] | one process and what it starts, from its first moment to its last |
//! | [`orphans`] | what servers leave outside of their process groups |
//! | [`side`] | what is loaded: a target, and the processes that serve it |
//!
//! # Invariants
//!
//! - Whatever was started is stopped and waited for when its [`Running`] is dropped, and so on every
//!   way out of the program but `SIGKILL`.
//! - Processes are ended by their process group, so what a server forks ends with it. What leaves its
//!   group is killed as an orphan; a server that makes itself a daemon is refused, as it ends at
//!   once.

pub mod orphans;
pub mod process;
pub mod side;
pub mod template;

use std::collections::BTreeMap;

pub use process::Process;
pub use side::{Layout, Running, Side};
pub use template::{CommandTemplate, TargetTemplate};

/// What stands in the place of a placeholder, by the placeholder's name.
pub type Values = BTreeMap<String, String>;

/// Why servers could not be started. No process is left behind.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A command line or a target has a placeholder that nothing stands for.
    #[error("`{text}` has the placeholder {{{name}}}; known are {known}")]
    Placeholder {
        /// Where it stands.
        text: String,
        /// Its name.
        name: String,
        /// Those that there are.
        known: String,
    },
    /// With its placeholders filled in, a target is none.
    #[error("{text} is no target: {why}")]
    Target {
        /// The target.
        text: String,
        /// What is wrong with it.
        why: String,
    },
    /// No command says what to start, and no target what to load.
    #[error("nothing to load{side}: name a target, or a command that starts one ({option})")]
    Nothing {
        /// Of which side, with a blank before; empty when there is one only.
        side: &'static str,
        /// The option of a command.
        option: &'static str,
    },
    /// The target is in this process, so no command can serve it.
    #[error("{target} is in this process: it takes no command to start a server")]
    InProcess {
        /// The target.
        target: String,
    },
    /// The system gave no port, directory or file.
    #[error("cannot prepare to start a server: {context}: {source}")]
    Prepare {
        /// What was tried.
        context: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The command cannot be run.
    #[error("cannot start `{command}`: {source}")]
    Spawn {
        /// The command line.
        command: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// It ended before it served.
    #[error("`{command}` ended before it was ready ({status}); {output}")]
    Exited {
        /// The command line.
        command: String,
        /// How.
        status: std::process::ExitStatus,
        /// Its last words.
        output: String,
    },
    /// It does not serve.
    #[error("`{command}` was not ready within {seconds} s: {why}; {output}")]
    NotReady {
        /// The command line.
        command: String,
        /// How long it was waited for.
        seconds: f64,
        /// What is missing.
        why: String,
        /// Its last words.
        output: String,
    },
    /// The user asked to end.
    #[error("{}", crate::interrupt::REASON)]
    Interrupted,
}
