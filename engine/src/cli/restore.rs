//! `gridkv restore`: makes a data directory of a snapshot, with any number of shards.
//!
//! The directory is filled under a name of its own and gets the name that was asked for when it is
//! whole: a node cannot be started on a half.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{ArgMatches, Command};
use gridkv::{Config, Timestamp};
use gridkv_cluster::TokenKey;
use gridkv_storage::directory::{Directory, DirectoryError, New, OldDirectory};
use gridkv_storage::disk::probe;
use gridkv_storage::file::{Restored, restore, restore_old};

use super::{describe, flag, human, required, say};

pub(super) fn command() -> Command {
    Command::new("restore")
        .about("makes a data directory of a snapshot, or of a directory of an older version")
        .arg(
            flag("from", "SNAPSHOT", "the snapshot, or the older version's directory")
                .required(true),
        )
        .arg(flag("data", "DIR", "the new directory; it must not be there").required(true))
        .arg(flag("shards", "N", "its number of shards [default: as many as the snapshot has]"))
        .arg(flag("segment", "SIZE", "size of its log's files [default: as in the snapshot]"))
}

pub(super) fn run(matches: &ArgMatches) -> ExitCode {
    let (from, to) = (required(matches, "from"), required(matches, "data"));
    match make(matches, Path::new(from), Path::new(to)) {
        Ok(restored) if restored.damaged_count > 0 => crate::fail(&format!(
            "{to} has the {} keys that could be read: {} places of the snapshot are damaged; \
             `gridkv check --data {from}` lists them",
            restored.key_count, restored.damaged_count
        )),
        Ok(restored) => {
            let (keys, bytes) = (restored.key_count, human(restored.payload_bytes));
            say(&format!("restored {keys} keys of {bytes} into {to}"));
            ExitCode::SUCCESS
        }
        Err(problem) => crate::fail(&problem),
    }
}

/// A snapshot of today, or whatever an older version has left.
enum Source {
    Snapshot(Directory, Timestamp),
    /// A directory or a snapshot that an older GridKV has made.
    Old(OldDirectory),
}

impl Source {
    fn open(path: &Path) -> Result<Self, String> {
        match Directory::open_snapshot(path) {
            Ok((snapshot, note)) => Ok(Self::Snapshot(snapshot, note.cut)),
            Err(error) => match OldDirectory::open(path) {
                Ok(old) => Ok(Self::Old(old)),
                // A directory of today is not moved but used.
                Err(DirectoryError::Format { .. } | DirectoryError::Absent { .. }) => {
                    Err(describe(&error))
                }
                Err(error) => Err(describe(&error)),
            },
        }
    }

    fn shard_count(&self) -> u16 {
        match self {
            Self::Snapshot(snapshot, _) => snapshot.shard_count(),
            Self::Old(old) => old.shard_count(),
        }
    }
}

fn make(matches: &ArgMatches, from: &Path, to: &Path) -> Result<Restored, String> {
    let source = Source::open(from)?;
    let new = shape(matches, &source)?;
    let is_there = to.try_exists().map_err(|error| format!("{}: {error}", to.display()))?;
    if is_there && std::fs::read_dir(to).is_ok_and(|mut it| it.next().is_some()) {
        return Err(format!("{} is there and not empty: restore into a new one", to.display()));
    }
    let partial = partial_of(to)?;
    if partial.exists() {
        return Err(format!(
            "{} is in the way, from a restore that was interrupted: remove it",
            partial.display()
        ));
    }
    let restored = fill(&source, &partial, &new).and_then(|restored| {
        std::fs::rename(&partial, to)
            .and_then(|()| sync_parent(to))
            .map_err(|error| format!("cannot make {}: {error}", to.display()))?;
        Ok(restored)
    });
    if restored.is_err() {
        // The error that came first is the one to tell.
        let _ = std::fs::remove_dir_all(&partial);
    }
    restored
}

/// What the new directory is made with.
fn shape(matches: &ArgMatches, source: &Source) -> Result<New, String> {
    let mut config = Config::default();
    for name in ["shards", "segment"] {
        if let Some(text) = matches.get_one::<String>(name) {
            let set = config.set_from(name, text, &format!("--{name}"));
            set.map_err(|error| error.to_string())?;
        }
    }
    let is_given = matches.get_one::<String>("segment").is_some();
    let segment_bytes = match source {
        Source::Snapshot(snapshot, _) if !is_given => snapshot.segment_bytes(),
        // That of an old one may be larger than any may be.
        Source::Snapshot(..) | Source::Old(_) => config.segment,
    };
    Ok(New {
        shard_count: config.shards.unwrap_or_else(|| source.shard_count()),
        segment_bytes,
        token_secret: secret(),
    })
}

fn secret() -> [u8; TokenKey::BYTES] {
    let mut secret = [0; TokenKey::BYTES];
    fastrand::fill(&mut secret);
    secret
}

fn fill(source: &Source, partial: &Path, new: &New) -> Result<Restored, String> {
    let directory = Directory::create(partial, new).map_err(|error| describe(&error))?;
    let unwritable = |error| format!("cannot write to {}: {error}", partial.display());
    let method = probe(partial).map_err(unwritable)?;
    let restored = match source {
        Source::Snapshot(snapshot, cut) => restore(snapshot, *cut, &directory, method),
        Source::Old(old) => restore_old(old, &directory, method),
    };
    restored.map_err(|error| describe(&error))
}

/// What the directory is called until it is whole.
fn partial_of(to: &Path) -> Result<PathBuf, String> {
    let name = to.file_name().ok_or_else(|| format!("{} is no name", to.display()))?;
    let mut name = name.to_owned();
    name.push(".restoring");
    Ok(to.with_file_name(name))
}

fn sync_parent(path: &Path) -> std::io::Result<()> {
    let parent = path.parent().filter(|it| !it.as_os_str().is_empty());
    std::fs::File::open(parent.unwrap_or_else(|| Path::new(".")))?.sync_all()
}
