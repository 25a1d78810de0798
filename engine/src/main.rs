//! The program `gridkv`: a node, and what is done with its data.

mod cli;

use std::cell::Cell;
use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clap::{Arg, ArgMatches, Command};
use gridkv::{Config, Engine, LogFormat, OPTIONS};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::stdio::stderr;
use signal_hook::consts::{SIGINT, SIGTERM};
use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How often it is said that lines of the log were dropped.
const TELL_DROPPED: Duration = Duration::from_secs(10);

/// Lines of the log that wait to be written.
const LOG_LINES_MAX: usize = 8_192;

/// How often the main thread looks whether it is to stop.
const LOOK: Duration = Duration::from_millis(50);

fn main() -> ExitCode {
    let matches = match command().try_get_matches() {
        Ok(matches) => matches,
        Err(error) if !error.use_stderr() => {
            // Help or version. A reader that has gone wants no more.
            let _ = error.print();
            return ExitCode::SUCCESS;
        }
        Err(error) => return fail(&first_paragraphs(&error.to_string())),
    };
    let (asked, matches) = match matches.subcommand() {
        Some((name, matches)) => (name.to_owned(), matches.clone()),
        None => ("node".to_owned(), matches),
    };
    if let Some(status) = cli::run(&asked, &matches) {
        return status;
    }
    let config = match configure(&matches) {
        Ok(config) => config,
        Err(error) => return fail(&error),
    };
    if asked == "config" {
        // A reader that has gone wants no more.
        let _ = write!(std::io::stdout(), "{config}");
        return ExitCode::SUCCESS;
    }
    let log = match start_log(&config) {
        Ok(log) => log,
        Err(error) => return fail(&error),
    };
    let ended = run(config, &log);
    log.finish();
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

/// The thread that writes the log.
struct Log {
    dropped: ErrorCounter,
    /// How many dropped lines were told of, and when.
    told: Cell<(usize, Instant)>,
    guard: WorkerGuard,
}

impl Log {
    /// Says how many lines of the log are missing, if that was not said, and not too often.
    fn tell_dropped(&self) {
        let (told, at) = self.told.get();
        let count = self.dropped.dropped_lines();
        if count > told && at.elapsed() >= TELL_DROPPED {
            tracing::warn!(count, "lines of this log were dropped: it is read too slowly");
            self.told.set((count, Instant::now()));
        }
    }

    /// Writes what is left of it: for a second, in case nobody reads it.
    fn finish(self) {
        self.tell_dropped();
        drop(self.guard);
    }
}

/// The command line. Every option is a flag, here and after a subcommand.
fn command() -> Command {
    let flags = |command: Command| {
        let config = Arg::new("config").long("config").value_name("FILE");
        let config = config.help("reads options from a TOML file (also GRIDKV_CONFIG)");
        let flag = |option: &'static gridkv::OptionInfo| {
            let default = if option.default.is_empty() { "empty" } else { option.default };
            let flag = Arg::new(option.name)
                .long(option.name.replace('_', "-"))
                .value_name(option.value)
                .help(format!("{} [default: {default}]", option.help));
            // The flag alone says yes.
            let is_switch = option.value == "true|false";
            if is_switch { flag.num_args(0..=1).default_missing_value("true") } else { flag }
        };
        command.arg(config).args(OPTIONS.iter().map(flag))
    };
    let node = flags(Command::new("node").about("runs a node; the same as no subcommand"));
    let config = flags(Command::new("config").about("prints the effective configuration"));
    flags(Command::new("gridkv"))
        .about(
            "A key-value store with a thread per core, on io_uring. Redis clients can talk to it.",
        )
        .version(env!("CARGO_PKG_VERSION"))
        .args_conflicts_with_subcommands(true)
        .subcommand(node)
        .subcommand(config)
        .subcommands(cli::commands())
}

/// Defaults, then the file, then the environment, then the flags.
fn configure(matches: &ArgMatches) -> Result<Config, String> {
    let mut config = Config::default();
    let file = matches.get_one::<String>("config").cloned();
    if let Some(file) = file.or_else(|| std::env::var("GRIDKV_CONFIG").ok()) {
        let text = std::fs::read_to_string(&file).map_err(|error| format!("{file}: {error}"))?;
        config.set_from_toml(&text, &file).map_err(|error| error.to_string())?;
    }
    let variables = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    config.set_from_environment(variables).map_err(|error| error.to_string())?;
    for option in OPTIONS {
        if let Some(text) = matches.get_one::<String>(option.name) {
            let flag = format!("--{}", option.name.replace('_', "-"));
            config.set_from(option.name, text, &flag).map_err(|error| error.to_string())?;
        }
    }
    Ok(config)
}

fn start_log(config: &Config) -> Result<Log, String> {
    let filter = EnvFilter::try_new(&config.log)
        .map_err(|error| format!("log = {}: {error}", config.log))?;
    // A core that logs does not wait for who reads it: beyond so many lines they are dropped.
    let (writer, guard) = NonBlockingBuilder::default()
        .lossy(true)
        .buffered_lines_limit(LOG_LINES_MAX)
        .thread_name("gridkv-log")
        .finish(std::io::stderr());
    let dropped = writer.error_counter();
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(writer)
        .with_ansi(std::io::stderr().is_terminal());
    let started = match config.log_format {
        LogFormat::Human => log.try_init(),
        LogFormat::Json => log.json().try_init(),
    };
    started.map_err(|error| error.to_string())?;
    // As every other line, and not past a reader who is slow.
    std::panic::set_hook(Box::new(|panic| {
        let backtrace = std::backtrace::Backtrace::capture();
        tracing::error!(%panic, %backtrace, "a thread has panicked");
    }));
    Ok(Log { dropped, told: Cell::new((0, Instant::now())), guard })
}

fn run(config: Config, log: &Log) -> Result<(), String> {
    raise_descriptor_limit(config.max_clients);
    let is_asked = Arc::new(AtomicBool::new(false));
    for signal in [SIGTERM, SIGINT] {
        // The second one ends the process at once; the first one asks it to end.
        let registered =
            signal_hook::flag::register_conditional_shutdown(signal, 1, Arc::clone(&is_asked))
                .and_then(|_| signal_hook::flag::register(signal, Arc::clone(&is_asked)));
        if let Err(error) = registered {
            return Err(format!("signals cannot be handled: {error}"));
        }
    }
    let storage = config.storage.clone();
    let engine = match Engine::builder().config(config).open() {
        Ok(engine) => engine,
        Err(error) => return Err(error.to_string()),
    };
    if storage == "memory" {
        tracing::warn!("storage is memory: all keys are gone when this process ends");
    }
    let listen = engine.listen_address().map_or_else(|| "off".to_owned(), |it| it.to_string());
    let admin = engine.admin_address().map_or_else(|| "off".to_owned(), |it| it.to_string());
    let cpus = engine.cpus();
    tracing::info!(%listen, %admin, ?cpus, "ready");
    while !is_asked.load(Ordering::Acquire)
        && !engine.is_shutdown_asked()
        && !engine.has_stopped_core()
    {
        std::thread::sleep(LOOK);
        log.tell_dropped();
    }
    tracing::info!("stopping: clients get the replies they are owed");
    let has_conflict = engine.has_identity_conflict();
    let ended = engine.shutdown();
    if has_conflict {
        return Err("another running node has this node's identity: see the log".to_owned());
    }
    ended.map_err(|error| format!("{error}; restart the node"))?;
    tracing::info!("stopped");
    Ok(())
}

/// Each client is a descriptor: raises the soft limit as far as the hard one, if that many clients
/// need it.
fn raise_descriptor_limit(max_clients: usize) {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let needed = max_clients as u64 + 1_024;
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current.is_some_and(|current| current < needed) {
        limit.current = Some(limit.maximum.map_or(needed, |maximum| maximum.min(needed)));
        let raised = setrlimit(Resource::Nofile, limit);
        let is_enough = limit.current.is_some_and(|current| current >= needed);
        if raised.is_err() || !is_enough {
            let allowed = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
            tracing::warn!(
                allowed,
                needed,
                "too few descriptors for max_clients: raise RLIMIT_NOFILE (ulimit -n)"
            );
        }
    }
}

/// What is wrong and the tip, of an error about the command line; without the usage.
fn first_paragraphs(error: &str) -> String {
    let parts = error.split("\n\n").take_while(|part| !part.starts_with("Usage:"));
    let parts: Vec<&str> = parts.map(|part| part.trim().trim_start_matches("error: ")).collect();
    format!("{} (gridkv --help lists the options)", parts.join("; "))
}

/// One line on standard error, and a status that says failure.
fn fail(error: &str) -> ExitCode {
    let line = error.lines().collect::<Vec<_>>().join(" ");
    // Without standard error, or when nobody reads it, there is nobody to tell. Not through `std`, whose
    // lock the log may hold for as long as nobody reads.
    let errors = stderr();
    let mut wait = [PollFd::new(&errors, PollFlags::OUT)];
    let limit = Timespec { tv_sec: 1, tv_nsec: 0 };
    if poll(&mut wait, Some(&limit)).is_ok_and(|count| count > 0) {
        let _ = rustix::io::write(errors, format!("gridkv: {line}\n").as_bytes());
    }
    ExitCode::FAILURE
}
