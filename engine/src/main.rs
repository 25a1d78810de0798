//! The program `gridkv`: a node, and what is done with its data.

mod cli;

use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clap::{Arg, ArgMatches, Command};
use gridkv::{Config, Engine, LogFormat, OPTIONS};
use signal_hook::consts::{SIGINT, SIGTERM};
use tracing_subscriber::EnvFilter;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

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
    if let Err(error) = start_log(&config) {
        return fail(&error);
    }
    run(config)
}

/// The command line. Every option is a flag, here and after a subcommand.
fn command() -> Command {
    let flags = |command: Command| {
        let config = Arg::new("config").long("config").value_name("FILE");
        let config = config.help("reads options from a TOML file (also GRIDKV_CONFIG)");
        let flag = |option: &'static gridkv::OptionInfo| {
            let default = if option.default.is_empty() { "empty" } else { option.default };
            Arg::new(option.name)
                .long(option.name.replace('_', "-"))
                .value_name(option.value)
                .help(format!("{} [default: {default}]", option.help))
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

fn start_log(config: &Config) -> Result<(), String> {
    let filter = EnvFilter::try_new(&config.log)
        .map_err(|error| format!("log = {}: {error}", config.log))?;
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    let started = match config.log_format {
        LogFormat::Human => log.try_init(),
        LogFormat::Json => log.json().try_init(),
    };
    started.map_err(|error| error.to_string())
}

fn run(config: Config) -> ExitCode {
    raise_descriptor_limit(config.max_clients);
    let is_asked = Arc::new(AtomicBool::new(false));
    for signal in [SIGTERM, SIGINT] {
        // The second one ends the process at once; the first one asks it to end.
        let registered =
            signal_hook::flag::register_conditional_shutdown(signal, 1, Arc::clone(&is_asked))
                .and_then(|_| signal_hook::flag::register(signal, Arc::clone(&is_asked)));
        if let Err(error) = registered {
            return fail(&format!("signals cannot be handled: {error}"));
        }
    }
    let storage = config.storage.clone();
    let engine = match Engine::builder().config(config).open() {
        Ok(engine) => engine,
        Err(error) => return fail(&error.to_string()),
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
    }
    tracing::info!("stopping: clients get the replies they are owed");
    let has_conflict = engine.has_identity_conflict();
    let ended = engine.shutdown();
    if has_conflict {
        return fail("another running node has this node's identity: see the log");
    }
    match ended {
        Ok(()) => {
            tracing::info!("stopped");
            ExitCode::SUCCESS
        }
        Err(error) => fail(&format!("{error}; restart the node")),
    }
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
    // Without standard error there is nobody to tell.
    let _ = writeln!(std::io::stderr(), "gridkv: {line}");
    ExitCode::FAILURE
}
