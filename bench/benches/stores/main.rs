//! GridKV in this process beside other embedded stores in it, in turn.
//!
//! ```text
//! cargo bench -p gridkv-bench --bench stores -- --dir DIR --load --keys 100000 --duration 2s
//! ```
//!
//! Each turn opens a store anew in a directory of its own, writes the keys, runs the workload and
//! closes it, so none has the others' threads or caches beside it: GridKV, redb, fjall, GridKV, and
//! so on. The requests, the callers' threads, the clocks and the figures are those of `gridkv-bench
//! run embedded`. Ratios are taken within a round; what is told is their median, and their range.
//!
//! Without `--dir` it does nothing, so that a run of all benches passes by.
//!
//! # What is alike, and what cannot be
//!
//! - With `--durability commit` an answered write is on disk in each: `fdatasync` or as good.
//! - With `--calls batch` the requests of a call are one group in each: a batch of GridKV's, one
//!   transaction of redb, one batch of fjall. With `--calls async` GridKV has them on their way at
//!   once; the others have no such calls and make them one after the other.
//! - The memory for what is on disk is the same. Beside it GridKV has an index of all keys in memory,
//!   fjall its memtables.
//! - GridKV has a core, whose CPU no caller uses; the others work in the callers' threads, and fjall in
//!   some of its own, which may use all CPUs. So all have the same CPUs, unless `--client-cpus` says
//!   otherwise.
//! - GridKV keeps keys by their hash: a scan is as many reads there, a range in the others.

#![forbid(unsafe_code)]

mod report;
mod store;

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use gridkv_bench::interrupt;
use gridkv_bench::options::{EngineSetting, MeasureOptions, TargetName};
use gridkv_bench::report::{Figures, Setting, print_failure, write_json};
use gridkv_bench::target::{EmbeddedTarget, Failure, Target};
use gridkv_bench::workload::Workload;
use report::{Report, Run};
use store::{Durability, StoreOptions, StoreTarget};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// What `statfs` says of a file system in memory.
const TMPFS_MAGIC: u64 = 0x0102_1994;

/// Loads GridKV and other embedded stores in turn, and reports the figures of each and their ratios.
#[derive(Clone, Debug, Parser)]
#[command(name = "stores")]
struct Cli {
    /// Where the stores keep their files, each in a new directory that is removed afterwards.
    #[arg(long)]
    dir: PathBuf,
    /// When a write is answered: once it is on disk, or at once.
    #[arg(long, value_enum, default_value_t = Durability::Commit)]
    durability: Durability,
    /// Memory for records that are on disk, in bytes; the same for each store.
    #[arg(long, default_value_t = 256 << 20)]
    cache_bytes: u64,
    /// How often each store has its turn.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    pairs: u32,
    /// How to load them.
    #[command(flatten)]
    measure: MeasureOptions,
    /// Write the report as JSON to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<String>,
    /// Given by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

/// Whose turn it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    GridKv,
    Redb,
    Fjall,
}

impl Kind {
    const ALL: [Self; 3] = [Self::GridKv, Self::Redb, Self::Fjall];

    const fn name(self) -> &'static str {
        match self {
            Self::GridKv => "gridkv",
            Self::Redb => "redb",
            Self::Fjall => "fjall",
        }
    }
}

fn main() -> ExitCode {
    let is_asked = |it: String| ["--dir", "-h", "--help"].iter().any(|word| it.starts_with(word));
    if !std::env::args().any(is_asked) {
        let _ = writeln!(io::stdout(), "stores: nothing is measured without --dir DIR");
        return ExitCode::SUCCESS;
    }
    let command = std::env::args().collect::<Vec<_>>().join(" ");
    match execute(&Cli::parse(), command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            print_failure(&failure);
            ExitCode::FAILURE
        }
    }
}

fn execute(cli: &Cli, command: String) -> Result<(), String> {
    let workload = cli.measure.workload.workload()?;
    cli.measure.check(&TargetName::Embedded)?;
    fs::create_dir_all(&cli.dir).map_err(|it| failed_in(&cli.dir, &it))?;
    refuse_tmpfs(cli)?;
    interrupt::listen().map_err(|it| it.to_string())?;
    let setting = Setting::observe(command, &workload, &cli.measure, &[&TargetName::Embedded]);
    let (runs, partial) = take_turns(cli, &workload)?;
    let report = Report::new(setting, cli, runs, partial.clone());
    report::print(&report).map_err(|it| format!("cannot write the report: {it}"))?;
    if let Some(path) = &cli.json {
        write_json(path, &report).map_err(|it| format!("cannot write {path}: {it}"))?;
    }
    partial.map_or(Ok(()), Err)
}

/// What is on a file system in memory is not on disk, whatever a sync says.
fn refuse_tmpfs(cli: &Cli) -> Result<(), String> {
    let stat = rustix::fs::statfs(&cli.dir).map_err(|it| failed_in(&cli.dir, &it.into()))?;
    let is_in_memory = u64::try_from(stat.f_type) == Ok(TMPFS_MAGIC);
    if is_in_memory && cli.durability == Durability::Commit {
        return Err(format!(
            "{} is on a file system in memory: --durability commit needs a disk",
            cli.dir.display()
        ));
    }
    Ok(())
}

/// The runs of each store, and why they ended early, if they did.
fn take_turns(
    cli: &Cli,
    workload: &Workload,
) -> Result<([Vec<Run>; Kind::ALL.len()], Option<String>), String> {
    let mut runs = Kind::ALL.map(|_| Vec::new());
    for turn in 0..cli.pairs as usize * Kind::ALL.len() {
        let place = turn % Kind::ALL.len();
        match take_turn(cli, workload, Kind::ALL[place]) {
            Ok(run) => runs[place].push(run),
            Err(failure) if turn < Kind::ALL.len() => return Err(failure),
            Err(failure) => return Ok((runs, Some(failure))),
        }
    }
    Ok((runs, None))
}

/// One store from its opening to its end.
fn take_turn(cli: &Cli, workload: &Workload, kind: Kind) -> Result<Run, String> {
    let directory = cli.dir.join(format!("stores-{}-{}", std::process::id(), kind.name()));
    fs::create_dir(&directory).map_err(|it| failed_in(&directory, &it))?;
    let measured = measure(&mut *target(cli, workload, kind, &directory));
    let disk_bytes = disk_bytes(&directory);
    let removed = fs::remove_dir_all(&directory);
    let figures = measured.map_err(|it| format!("{}: {it}", kind.name()))?;
    removed.map_err(|it| failed_in(&directory, &it))?;
    if let Some(reason) = figures.partial {
        return Err(reason);
    }
    let disk_bytes = disk_bytes.map_err(|it| failed_in(&directory, &it))?;
    Ok(Run { figures, disk_bytes })
}

fn target(cli: &Cli, workload: &Workload, kind: Kind, directory: &Path) -> Box<dyn Target> {
    let options = StoreOptions {
        directory: directory.to_owned(),
        durability: cli.durability,
        cache_bytes: cli.cache_bytes,
    };
    let open = match kind {
        Kind::GridKv => {
            return Box::new(EmbeddedTarget::new(workload.clone(), with_engine(cli, directory)));
        }
        Kind::Redb => store::open_redb,
        Kind::Fjall => store::open_fjall,
    };
    let (workload, measure) = (workload.clone(), cli.measure.clone());
    Box::new(StoreTarget::new(kind.name(), open, options, workload, measure))
}

/// The options with the engine's storage before what the user says of it.
fn with_engine(cli: &Cli, directory: &Path) -> MeasureOptions {
    let setting =
        |name: &str, value: &str| EngineSetting { name: name.to_owned(), value: value.to_owned() };
    let mut options = cli.measure.clone();
    let own = match cli.durability {
        Durability::Commit => vec![
            setting("storage", "file"),
            setting("durability", "commit"),
            setting("data", &directory.display().to_string()),
            setting("cache", &format!("{}B", cli.cache_bytes)),
        ],
        Durability::None => vec![setting("storage", "memory")],
    };
    options.engine.settings.splice(0..0, own);
    options
}

fn measure(target: &mut dyn Target) -> Result<Figures, Failure> {
    target.prepare()?;
    let measurement = target.measure();
    target.rest();
    Ok(Figures::new(&measurement?))
}

/// What the files of a directory take on disk.
fn disk_bytes(directory: &Path) -> io::Result<u64> {
    let mut sum = 0;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        sum += if metadata.is_dir() { disk_bytes(&entry.path())? } else { metadata.blocks() * 512 };
    }
    Ok(sum)
}

fn failed_in(path: &Path, error: &io::Error) -> String {
    format!("{}: {error}", path.display())
}
