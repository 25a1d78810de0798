//! Snapshots: a data directory as it was at one moment, for [`restore`](crate::file::restore).
//!
//! ```text
//! DIR/snapshots/NAME.partial/     one under way, or one that was interrupted
//! DIR/snapshots/NAME/MANIFEST     that of the directory
//! DIR/snapshots/NAME/SNAPSHOT     the moment, and the files of each shard with their sizes
//! DIR/snapshots/NAME/shard-0000/  a hard link to each file of the log; a copy where none can be
//!
//! format = 1
//! cut = "019a1b2c3d4effff"
//! created_ms = 1795305600000
//! [[shards]]
//! files = [{ name = "0000000001.log", bytes = 67108864 }]
//! # xxh3 = 0123456789abcdef
//! ```
//!
//! A link costs no room, and the log never writes over a file that has two names. What the files
//! hold beyond the moment is passed over by its version.
//!
//! # Invariants
//!
//! - A snapshot has its name only when it is whole and durable.
//! - A snapshot is read and never served from: a node that wrote to it would write to the node
//!   whose files these are.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use gridkv_cluster::Timestamp;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::manifest::{Flaw, Hex, seal, unseal};
use super::{
    Directory, DirectoryError, MANIFEST, io, make_directory, read_manifest, sync_directory,
    write_durably,
};

/// The file that says that a directory is a snapshot.
pub(super) const SNAPSHOT: &str = "SNAPSHOT";

/// What a snapshot is called until it is whole.
const PARTIAL: &str = ".partial";

const FORMAT: u64 = 1;
const NAME_BYTES_MAX: usize = 200;

/// A longer list of files is not one of ours.
const LIST_BYTES_MAX: u64 = 64 << 20;

/// What a snapshot is called: letters, digits, `-`, `_` and `.`, which does not come first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotName(String);

/// A text cannot be a snapshot's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a snapshot's name has letters, digits, `-`, `_` and `.`, does not begin with `.` or end with \
     `{PARTIAL}`, and is at most {NAME_BYTES_MAX} bytes long"
)]
pub struct NameError;

impl SnapshotName {
    /// Checks a name.
    ///
    /// # Errors
    ///
    /// [`NameError`], which says what is allowed.
    pub fn new(text: &str) -> Result<Self, NameError> {
        let is_known = |it: u8| it.is_ascii_alphanumeric() || b"-_.".contains(&it);
        let is_good = !text.is_empty()
            && text.len() <= NAME_BYTES_MAX
            && text.bytes().all(is_known)
            && !text.starts_with('.')
            && !text.ends_with(PARTIAL);
        if is_good { Ok(Self(text.to_owned())) } else { Err(NameError) }
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What goes into a snapshot.
#[derive(Clone, Debug)]
pub struct Contents<'a> {
    /// Its name.
    pub name: &'a SnapshotName,
    /// The highest timestamp that counts.
    pub cut: Timestamp,
    /// When it was asked for, in milliseconds since 1970.
    pub created_ms: u64,
    /// The names of the files of each shard, in the order of the shards.
    pub files: &'a [Vec<String>],
}

/// A snapshot that was taken, or one that was opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotNote {
    /// The highest timestamp that counts.
    pub cut: Timestamp,
    /// When it was asked for, in milliseconds since 1970.
    pub created_ms: u64,
    /// How many files it has.
    pub file_count: usize,
    /// Their bytes.
    pub bytes: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct List {
    format: u64,
    cut: Hex,
    created_ms: u64,
    shards: Vec<ListedShard>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ListedShard {
    files: Vec<ListedFile>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ListedFile {
    name: String,
    bytes: u64,
}

impl Directory {
    /// Takes a snapshot of files that are not written to any more, but for what makes them quick to
    /// open, and that stay meanwhile. `is_cancelled` is looked at before each file.
    ///
    /// Waits for the disk: not for a core's thread.
    ///
    /// # Errors
    ///
    /// [`DirectoryError`]; nothing of it is left then.
    pub fn take_snapshot(
        &self,
        contents: &Contents<'_>,
        is_cancelled: &dyn Fn() -> bool,
    ) -> Result<(PathBuf, SnapshotNote), DirectoryError> {
        assert_eq!(contents.files.len(), usize::from(self.shard_count()), "all shards take part");
        let snapshots = self.snapshots();
        let path = snapshots.join(contents.name.as_str());
        if path.try_exists().map_err(io("look at", &path))? {
            return Err(DirectoryError::SnapshotPresent { path });
        }
        let partial = snapshots.join(format!("{}{PARTIAL}", contents.name.as_str()));
        remove(&partial)?;
        make_directory(&partial)?;
        let filled = self.fill(&partial, contents, is_cancelled).and_then(|note| {
            std::fs::rename(&partial, &path).map_err(io("make", &path))?;
            sync_directory(&snapshots)?;
            Ok(note)
        });
        match filled {
            Ok(note) => Ok((path, note)),
            Err(error) => {
                // The error that came first is the one to tell.
                let _ = remove(&partial);
                Err(error)
            }
        }
    }

    fn fill(
        &self,
        partial: &Path,
        contents: &Contents<'_>,
        is_cancelled: &dyn Fn() -> bool,
    ) -> Result<SnapshotNote, DirectoryError> {
        let mut list = List {
            format: FORMAT,
            cut: Hex(contents.cut.0),
            created_ms: contents.created_ms.min(i64::MAX.unsigned_abs()),
            shards: Vec::new(),
        };
        for (index, names) in (0..self.shard_count()).zip(contents.files) {
            let (from, to) = (self.shard(index), super::shard(partial, index));
            std::fs::create_dir(&to).map_err(io("make", &to))?;
            let mut files = Vec::new();
            for name in names {
                if is_cancelled() {
                    return Err(DirectoryError::Cancelled { path: partial.to_owned() });
                }
                let bytes = link_or_copy(&from.join(name), &to.join(name))?;
                files.push(ListedFile { name: name.clone(), bytes });
            }
            sync_directory(&to)?;
            list.shards.push(ListedShard { files });
        }
        write_durably(&partial.join(MANIFEST), self.manifest.to_text().as_bytes())?;
        let text = seal(toml::to_string(&list).expect("numbers and texts can be written"));
        write_durably(&partial.join(SNAPSHOT), text.as_bytes())?;
        sync_directory(partial)?;
        Ok(list.note())
    }

    /// Opens a snapshot, to check it or to restore from it. Changes nothing.
    ///
    /// # Errors
    ///
    /// [`DirectoryError`], also when one of its files is missing or has another size.
    pub fn open_snapshot(path: &Path) -> Result<(Self, SnapshotNote), DirectoryError> {
        let absent = || DirectoryError::NoSnapshot { path: path.to_owned() };
        let name = path.join(SNAPSHOT);
        let mut file = match File::open(&name) {
            Err(reason) if reason.kind() == ErrorKind::NotFound => return Err(absent()),
            other => other.map_err(io("open", &name))?,
        };
        let mut text = Vec::new();
        let read = Read::by_ref(&mut file).take(LIST_BYTES_MAX).read_to_end(&mut text);
        read.map_err(io("read", &name))?;
        let list = List::parse(&text).map_err(|flaw| flaw.of(path, &name))?;
        let manifest = read_manifest(path)?.ok_or_else(absent)?;
        if list.shards.len() != usize::from(manifest.shards) {
            let reason = "it lists another number of shards than the manifest".to_owned();
            return Err(DirectoryError::Damaged { path: name, reason });
        }
        for (index, shard) in (0..manifest.shards).zip(&list.shards) {
            shard.files.iter().try_for_each(|file| file.look_at(&super::shard(path, index)))?;
        }
        let note = list.note();
        Ok((Self::check(path, manifest, None)?, note))
    }

    /// The moment of the snapshot in a directory.
    pub(super) fn snapshot_cut(path: &Path) -> Result<Timestamp, DirectoryError> {
        let name = path.join(SNAPSHOT);
        let text = std::fs::read(&name).map_err(io("read", &name))?;
        let list = List::parse(&text).map_err(|flaw| flaw.of(path, &name))?;
        Ok(Timestamp(list.cut.0))
    }

    /// Whether a directory is a snapshot, going by its files.
    #[must_use]
    pub fn is_snapshot(path: &Path) -> bool {
        path.join(SNAPSHOT).exists()
    }

    /// Removes what interrupted snapshots have left.
    pub(super) fn remove_partial_snapshots(&self) {
        let Ok(entries) = std::fs::read_dir(self.snapshots()) else { return };
        for entry in entries.map_while(Result::ok) {
            let is_partial = entry.file_name().to_string_lossy().ends_with(PARTIAL);
            // What cannot be removed is in the way of a snapshot of that name only, which says so.
            if is_partial && remove(&entry.path()).is_ok() {
                tracing::info!(path = %entry.path().display(), "removed an interrupted snapshot");
            }
        }
    }
}

impl List {
    fn parse(bytes: &[u8]) -> Result<Self, Flaw> {
        let list: Self = unseal(bytes, FORMAT)?;
        // A name leads to a file of the shard, and nowhere else.
        let is_plain = |file: &ListedFile| SnapshotName::new(&file.name).is_ok();
        if list.shards.iter().flat_map(|shard| &shard.files).all(is_plain) {
            Ok(list)
        } else {
            Err(Flaw::Damage("it lists a file that is none of a log".to_owned()))
        }
    }

    fn note(&self) -> SnapshotNote {
        let files = || self.shards.iter().flat_map(|shard| &shard.files);
        SnapshotNote {
            cut: Timestamp(self.cut.0),
            created_ms: self.created_ms,
            file_count: files().count(),
            bytes: files().map(|file| file.bytes).sum(),
        }
    }
}

impl ListedFile {
    fn look_at(&self, shard: &Path) -> Result<(), DirectoryError> {
        let path = shard.join(&self.name);
        match path.metadata() {
            Ok(metadata) if metadata.len() == self.bytes => Ok(()),
            Ok(metadata) => Err(DirectoryError::Damaged {
                path,
                reason: format!("it has {} bytes in place of {}", metadata.len(), self.bytes),
            }),
            Err(reason) if reason.kind() == ErrorKind::NotFound => {
                Err(DirectoryError::Damaged { path, reason: "it is missing".to_owned() })
            }
            Err(reason) => Err(io("look at", &path)(reason)),
        }
    }
}

/// Gives a file a second name, or copies it where it cannot have one. Returns its size.
fn link_or_copy(from: &Path, to: &Path) -> Result<u64, DirectoryError> {
    match std::fs::hard_link(from, to) {
        Ok(()) => return to.metadata().map(|it| it.len()).map_err(io("look at", to)),
        Err(reason) => match Errno::from_io_error(&reason) {
            Some(Errno::XDEV | Errno::PERM | Errno::MLINK | Errno::NOTSUP) => {}
            _ => return Err(io("link", to)(reason)),
        },
    }
    let mut source = File::open(from).map_err(io("open", from))?;
    let made = OpenOptions::new().write(true).create_new(true).open(to);
    let mut copy = made.map_err(io("make", to))?;
    let bytes = io::copy(&mut source, &mut copy).map_err(io("write", to))?;
    copy.sync_all().map_err(io("sync", to))?;
    Ok(bytes)
}

/// Removes a directory with all that is in it, if it is there.
fn remove(path: &Path) -> Result<(), DirectoryError> {
    match std::fs::remove_dir_all(path) {
        Err(reason) if reason.kind() != ErrorKind::NotFound => Err(io("remove", path)(reason)),
        _ => Ok(()),
    }
}
