//! What the turns come to: a table for people, JSON for programs.

use std::io::{self, Write as _};

use gridkv_bench::report::{Figures, Setting};
use gridkv_bench::statistics::Spread;
use serde::Serialize;

use crate::store::Durability;
use crate::{Cli, Kind};

/// The versions in use.
const LOCK: &str = include_str!("../../../Cargo.lock");

/// Stands for a figure that was not measured.
const ABSENT: &str = "-";

/// One turn of a store.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Run {
    /// What was measured.
    #[serde(flatten)]
    pub(crate) figures: Figures,
    /// What its files took on disk when it was closed.
    pub(crate) disk_bytes: u64,
}

/// All turns of all stores.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Report {
    /// What was run.
    #[serde(flatten)]
    setting: Setting,
    /// Why it ended early, if it did.
    partial: Option<String>,
    /// Memory for what is on disk, of each store.
    cache_bytes: u64,
    stores: Vec<StoreReport>,
}

/// All turns of one store.
#[derive(Clone, Debug, Serialize)]
struct StoreReport {
    name: &'static str,
    version: String,
    /// What an answered write means.
    meaning: &'static str,
    /// What a read does.
    reading: &'static str,
    figures: Compared,
    /// GridKV's figures divided by this store's, within rounds.
    gridkv_ratios: Compared,
    runs: Vec<Run>,
}

/// Figures, or ratios of them, over all turns.
#[derive(Clone, Debug, Serialize)]
struct Compared {
    rate: Option<Spread>,
    p50_us: Option<Spread>,
    p99_us: Option<Spread>,
    p99_9_us: Option<Spread>,
    process_cpu_us_per_request: Option<Spread>,
    disk_bytes: Option<Spread>,
}

type Figure = fn(&Run) -> Option<f64>;

impl Compared {
    fn new(spread: impl Fn(Figure) -> Option<Spread>) -> Self {
        Self {
            rate: spread(|it| it.figures.rate),
            p50_us: spread(|it| Some(it.figures.latency.as_ref()?.p50_us)),
            p99_us: spread(|it| Some(it.figures.latency.as_ref()?.p99_us)),
            p99_9_us: spread(|it| Some(it.figures.latency.as_ref()?.p99_9_us)),
            process_cpu_us_per_request: spread(|it| it.figures.server.as_ref()?.cpu_us_per_request),
            // A store in memory has no files.
            disk_bytes: spread(|it| (it.disk_bytes > 0).then_some(it.disk_bytes as f64)),
        }
    }

    fn of(runs: &[Run]) -> Self {
        Self::new(|figure| Spread::of(runs.iter().filter_map(figure)))
    }

    fn ratios(a: &[Run], b: &[Run]) -> Self {
        let ratio = |a: f64, b: f64| (b > 0.0).then(|| a / b);
        Self::new(|figure| {
            let pairs = a.iter().zip(b);
            Spread::of(pairs.filter_map(|(a, b)| ratio(figure(a)?, figure(b)?)))
        })
    }

    fn all(&self) -> [Option<Spread>; 6] {
        [
            self.rate,
            self.p50_us,
            self.p99_us,
            self.p99_9_us,
            self.process_cpu_us_per_request,
            self.disk_bytes,
        ]
    }
}

impl Report {
    /// What `runs`, those of each store, come to.
    pub(crate) fn new(
        setting: Setting,
        cli: &Cli,
        runs: [Vec<Run>; Kind::ALL.len()],
        partial: Option<String>,
    ) -> Self {
        let gridkv = runs[0].clone();
        let stores = Kind::ALL.into_iter().zip(runs).map(|(kind, runs)| StoreReport {
            name: kind.name(),
            version: version(kind),
            meaning: meaning(kind, cli.durability),
            reading: reading(kind),
            figures: Compared::of(&runs),
            gridkv_ratios: Compared::ratios(&gridkv, &runs),
            runs,
        });
        let stores = stores.collect();
        Self { setting, partial, cache_bytes: cli.cache_bytes, stores }
    }
}

fn version(kind: Kind) -> String {
    if kind == Kind::GridKv {
        return env!("CARGO_PKG_VERSION").to_owned();
    }
    let head = format!("name = \"{}\"\nversion = \"", kind.name());
    let rest = LOCK.split_once(&head).map(|it| it.1);
    rest.and_then(|it| it.split('"').next()).unwrap_or(ABSENT).to_owned()
}

const fn meaning(kind: Kind, durability: Durability) -> &'static str {
    match (kind, durability) {
        (Kind::GridKv, Durability::Commit) => {
            "on disk (storage=file, durability=commit): one sync serves all writes that wait, of \
             all threads"
        }
        (Kind::GridKv, Durability::None) => "in memory (storage=memory): gone with the process",
        (Kind::Redb, Durability::Commit) => {
            "on disk (Durability::Immediate, fdatasync): a transaction for each write, or for each \
             batch; one writer at a time"
        }
        (Kind::Redb, Durability::None) => {
            "in memory (InMemoryBackend, Durability::None): a transaction for each write, or for \
             each batch; gone with the process"
        }
        (Kind::Fjall, Durability::Commit) => {
            "on disk (PersistMode::SyncData, fdatasync): persisted after each write, or with each \
             batch; one writer at a time"
        }
        (Kind::Fjall, Durability::None) => {
            "buffered in the process (manual_journal_persist, never persisted by the caller): \
             flushed to its files when memtables are full"
        }
    }
}

/// What a read does, however writes are answered.
const fn reading(kind: Kind) -> &'static str {
    match kind {
        Kind::GridKv => "asked of the core that owns the key, and awaited",
        Kind::Redb => {
            "in the caller's thread, in a read transaction that it keeps until somebody commits"
        }
        Kind::Fjall => "in the caller's thread, by the handle that all threads share",
    }
}

/// Prints the tables.
///
/// # Errors
///
/// When standard output is closed.
pub(crate) fn print(report: &Report) -> io::Result<()> {
    let mut out = io::stdout().lock();
    let Setting { command, date, machine, workload, load, .. } = &report.setting;
    writeln!(out, "{command}")?;
    writeln!(
        out,
        "{date}, {}, {} CPUs, Linux {}, load average {}",
        machine.cpu_model, machine.cpu_count, machine.kernel, machine.load_average
    )?;
    let mix: Vec<String> = workload
        .mix
        .iter()
        .map(|it| format!("{:.1} % {}", it.share * 100.0, it.operation))
        .collect();
    writeln!(
        out,
        "workload  {}; {} keys of {} B, {}; {}values of {} B; no compression",
        mix.join(", "),
        workload.keys,
        workload.key_bytes,
        workload.distribution,
        if workload.distinct { "distinct " } else { "" },
        workload.value_bytes
    )?;
    writeln!(
        out,
        "load      {} threads, {} calls of {} requests; cache of {} MiB in each store",
        load.threads.unwrap_or(1),
        load.calls.unwrap_or(ABSENT),
        load.pipeline.unwrap_or(1),
        report.cache_bytes >> 20
    )?;
    print_cpus(&mut out, report)?;
    if let Some(reason) = &report.partial {
        writeln!(out, "PARTIAL   {reason}")?;
    }
    print_figures(&mut out, report)?;
    print_ratios(&mut out, report)?;
    writeln!(out, "\nwhat an answered write is")?;
    for it in &report.stores {
        writeln!(out, "  {:<8}{}", it.name, it.meaning)?;
    }
    writeln!(out, "what a read is")?;
    for it in &report.stores {
        writeln!(out, "  {:<8}{}", it.name, it.reading)?;
    }
    Ok(())
}

/// Where the stores ran, by their first turns.
fn print_cpus(out: &mut impl io::Write, report: &Report) -> io::Result<()> {
    for it in &report.stores {
        let Some(run) = it.runs.first() else { continue };
        let pinned = run.figures.generator.as_ref().map(|it| &it.pinned_cpus);
        let callers = match pinned {
            Some(cpus) if !cpus.is_empty() => format!("callers on CPU {cpus:?}"),
            _ => "callers on any CPU".to_owned(),
        };
        let cores = &run.figures.engine_cpus;
        let cores = if cores.is_empty() { String::new() } else { format!(", cores on {cores:?}") };
        writeln!(out, "{:<10}{callers}{cores}", it.name)?;
    }
    Ok(())
}

const COLUMNS: [&str; 6] = ["req/s", "p50 us", "p99 us", "p99.9 us", "CPU us/req", "disk MiB"];

fn print_figures(out: &mut impl io::Write, report: &Report) -> io::Result<()> {
    writeln!(
        out,
        "\n{:<9}{:<10}{}  CPUs awaited, errors, missing",
        "median",
        "version",
        row(COLUMNS)
    )?;
    for it in &report.stores {
        let awaited = it.runs.iter().filter_map(|it| it.figures.server.as_ref()?.cpus_awaited);
        let awaited = Spread::of(awaited).map(|it| it.median);
        let [rate, p50, p99, p99_9, cpu, disk] = it.figures.all().map(|it| it.map(|it| it.median));
        let disk = disk.map(|it| it / f64::from(1 << 20));
        let cells = [
            number(rate, 0),
            number(p50, 1),
            number(p99, 1),
            number(p99_9, 1),
            number(cpu, 2),
            number(disk, 1),
        ];
        let sum = |count: fn(&Run) -> u64| it.runs.iter().map(count).sum::<u64>();
        let errors = sum(|it| it.figures.errors.error_replies);
        let missing = sum(|it| it.figures.missing_keys);
        writeln!(
            out,
            "{:<9}{:<10}{}  {}, {errors}, {missing}",
            it.name,
            it.version,
            row(cells),
            number(awaited, 2)
        )?;
        let first = it.runs.iter().find_map(|it| it.figures.errors.first_error_reply.as_ref());
        if let Some(text) = first {
            writeln!(out, "         first error: {text}")?;
        }
    }
    Ok(())
}

fn print_ratios(out: &mut impl io::Write, report: &Report) -> io::Result<()> {
    let pairs = report.stores[0].runs.len();
    writeln!(out, "\n{:<19}{}  median of {pairs} rounds, and range", "gridkv /", row(COLUMNS))?;
    for it in report.stores.iter().skip(1) {
        let cell = |pick: fn(Spread) -> f64| {
            row(it.gridkv_ratios.all().map(|spread| number(spread.map(pick), 3)))
        };
        writeln!(out, "{:<19}{}", it.name, cell(|it| it.median))?;
        writeln!(out, "{:<19}{}", "  least", cell(|it| it.min))?;
        writeln!(out, "{:<19}{}", "  most", cell(|it| it.max))?;
    }
    Ok(())
}

fn row(cells: [impl std::fmt::Display; 6]) -> String {
    cells.iter().map(|it| format!("{it:>12}")).collect()
}

fn number(figure: Option<f64>, decimals: usize) -> String {
    figure.map_or_else(|| ABSENT.to_owned(), |it| format!("{it:.decimals$}"))
}
