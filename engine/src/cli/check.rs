//! `gridkv check`: verifies a data directory that no node uses, or a snapshot.
//!
//! | status | meaning |
//! |---|---|
//! | 0 | all records are what was written |
//! | 1 | something is damaged; each place is listed |
//! | 2 | it cannot be read: in use, not there, of another format |

use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;

use clap::{Arg, ArgAction, ArgMatches, Command};
use gridkv_storage::directory::Directory;
use gridkv_storage::file::{Damage, OfflineError, ShardReport, check_shard};
use serde_json::{Value, json};

use super::{describe, flag, human, required, say};

const DAMAGED: u8 = 1;
const UNREADABLE: u8 = 2;

pub(super) fn command() -> Command {
    let json = Arg::new("json").long("json").action(ArgAction::SetTrue);
    Command::new("check")
        .about(
            "verifies a data directory or a snapshot (status 0: sound, 1: damaged, 2: unreadable)",
        )
        .arg(flag("data", "DIR", "the directory; no node may be using it").required(true))
        .arg(json.help("prints one JSON object"))
}

pub(super) fn run(matches: &ArgMatches) -> ExitCode {
    let path = Path::new(required(matches, "data"));
    let reports = match open(path).and_then(|directory| check(&directory)) {
        Ok(reports) => reports,
        Err(problem) => {
            // Without standard error there is nobody to tell.
            let _ = writeln!(std::io::stderr(), "gridkv: {problem}");
            return ExitCode::from(UNREADABLE);
        }
    };
    if matches.get_flag("json") {
        say(&as_json(&reports).to_string());
    } else {
        as_text(&reports).iter().for_each(|line| say(line));
    }
    if reports.iter().all(|report| report.damages.is_empty()) {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(DAMAGED)
    }
}

fn open(path: &Path) -> Result<Directory, String> {
    let opened = if Directory::is_snapshot(path) {
        Directory::open_snapshot(path).map(|(directory, _)| directory)
    } else {
        Directory::open(path)
    };
    opened.map_err(|error| describe(&error))
}

/// Checks all shards, as many at a time as there are processors.
fn check(directory: &Directory) -> Result<Vec<ShardReport>, String> {
    let thread_count = std::thread::available_parallelism().map_or(1, usize::from);
    let shards: Vec<u16> = (0..directory.shard_count()).collect();
    let share = shards.len().div_ceil(thread_count);
    let reports: Result<Vec<_>, OfflineError> = std::thread::scope(|scope| {
        let check = |shards: &[u16]| {
            shards.iter().map(|shard| check_shard(directory, *shard)).collect::<Result<Vec<_>, _>>()
        };
        let threads: Vec<_> =
            shards.chunks(share).map(|shards| scope.spawn(move || check(shards))).collect();
        let joined = threads.into_iter().map(|it| it.join().expect("checking does not panic"));
        joined.collect()
    });
    reports.map(|reports| reports.concat()).map_err(|error| describe(&error))
}

fn as_text(reports: &[ShardReport]) -> Vec<String> {
    let mut lines = Vec::new();
    for report in reports {
        lines.push(format!(
            "shard {}: {}; {} keys of {}, {} records in {} segments, {} on disk{}",
            report.shard,
            if report.damages.is_empty() { "sound" } else { "DAMAGED" },
            report.key_count,
            human(report.payload_bytes),
            report.record_count,
            report.segment_count,
            human(report.disk_bytes),
            torn(report),
        ));
        lines.extend(report.damages.iter().map(|damage| place(report.shard, damage)));
    }
    let damage_count: usize = reports.iter().map(|report| report.damages.len()).sum();
    let key_count: u64 = reports.iter().map(|report| report.key_count).sum();
    lines.push(match damage_count {
        0 => format!("sound: {key_count} keys in {} shards", reports.len()),
        count => format!(
            "DAMAGED: {count} places, {key_count} keys can be read; restore a snapshot into a new \
             directory, or go on without what is lost"
        ),
    });
    lines
}

/// What a crash has left, which is no damage.
fn torn(report: &ShardReport) -> String {
    match report.torn_bytes {
        0 => String::new(),
        bytes => format!(", {} of writes that were not answered", human(bytes)),
    }
}

fn place(shard: u16, damage: &Damage) -> String {
    let Damage { file, segment, offset, bytes, what } = damage;
    let segment = segment.map_or_else(|| "unknown".to_owned(), |it| it.to_string());
    format!(
        "shard {shard}: damage in {file}, segment {segment}, offset {offset}, {bytes} bytes: {what}"
    )
}

fn as_json(reports: &[ShardReport]) -> Value {
    let damage = |it: &Damage| {
        json!({
            "file": it.file, "segment": it.segment, "offset": it.offset, "bytes": it.bytes,
            "what": it.what,
        })
    };
    let shard = |it: &ShardReport| {
        json!({
            "shard": it.shard, "segments": it.segment_count, "records": it.record_count,
            "keys": it.key_count, "payload_bytes": it.payload_bytes, "live_bytes": it.live_bytes,
            "disk_bytes": it.disk_bytes, "torn_bytes": it.torn_bytes,
            "version_max": it.version_max.to_string(),
            "damages": it.damages.iter().map(damage).collect::<Vec<_>>(),
        })
    };
    let is_sound = reports.iter().all(|report| report.damages.is_empty());
    json!({ "sound": is_sound, "shards": reports.iter().map(shard).collect::<Vec<_>>() })
}
