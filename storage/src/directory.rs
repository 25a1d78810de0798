//! The data directory of a node: who may use it, what it was made with, where its shards lie.
//!
//! ```text
//! DIR/LOCK            locked by the process that uses the directory; holds its number
//! DIR/MANIFEST        what the directory was made with; written once
//! DIR/MANIFEST.tmp    a manifest under way
//! DIR/shard-0000/     a directory for each shard
//! DIR/snapshots/      a directory for each snapshot: see `snapshot.rs`
//! DIR/identity.*      who the node is, which may be there before all else; kept by the engine
//! ```
//!
//! # Invariants
//!
//! - A directory has a `MANIFEST` if and only if its creation is over; by then everything else in
//!   the picture is durable. One that was interrupted is found without, and begun again.
//! - Nothing is put into a directory that holds somebody else's files.
//! - One process at a time: the lock belongs to a [`Directory`] for as long as it lives, and ends
//!   with the process however that ends.
//!
//! # Why the number of shards is fixed
//!
//! A shard owns a range of tokens, so another number of them is another place for almost every key.
//! A snapshot can be restored into a directory with another number.

mod lock;
mod manifest;
mod old;
mod snapshot;
#[cfg(test)]
mod tests;

use std::fs::{DirBuilder, File};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use gridkv_cluster::TokenKey;
use rustix::io::Errno;

use crate::file::{SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN, is_segment_size};
use lock::Lock;
use manifest::{FORMAT, Manifest};
pub use old::OldDirectory;
use snapshot::SNAPSHOT;
pub use snapshot::{Contents, NameError, SnapshotName, SnapshotNote};

const LOCK: &str = "LOCK";
const MANIFEST: &str = "MANIFEST";
const MANIFEST_TMP: &str = "MANIFEST.tmp";
const SNAPSHOTS: &str = "snapshots";
const SHARD_PREFIX: &str = "shard-";
const IDENTITY_PREFIX: &str = "identity.";
/// What some file systems have at their root, which is a fine place for data.
const LOST_AND_FOUND: &str = "lost+found";

/// A longer manifest is not one of ours.
const MANIFEST_BYTES_MAX: u64 = 64 << 10;

/// What a new directory is made with. It stays so for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct New {
    /// How many shards; at least one.
    pub shard_count: u16,
    /// Largest size of a file of a log, in bytes: a power of two, 64 KiB to 64 MiB.
    pub segment_bytes: u32,
    /// What tokens are made with: drawn at random.
    pub token_secret: [u8; TokenKey::BYTES],
}

/// A data directory that this process uses, and nobody else until this is dropped.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    manifest: Manifest,
    is_new: bool,
    /// A snapshot is used by nobody.
    _lock: Option<Lock>,
}

/// A directory cannot be used. Each line says what to do. Nothing in it was changed, unless it was
/// being made; then the next attempt begins again.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// Somebody else uses it.
    #[error(
        "{} is in use by {}: stop it, or use another directory", path.display(), holder(*process)
    )]
    Locked {
        /// The directory.
        path: PathBuf,
        /// Who, where that can be told.
        process: Option<u32>,
    },
    /// Its format is one of the future.
    #[error(
        "{} was made by a newer GridKV: format {found}, this program reads {FORMAT}; use a program \
         as new as that", path.display()
    )]
    Format {
        /// The directory.
        path: PathBuf,
        /// The format it has.
        found: u64,
    },
    /// Its format is one of the past.
    #[error(
        "{} was made by an older GridKV: format {found}, this program opens {FORMAT}; move it with \
         `gridkv restore --from {} --data NEW`", path.display(), path.display()
    )]
    OldFormat {
        /// The directory.
        path: PathBuf,
        /// The format it has.
        found: u64,
    },
    /// Files of such a size cannot be made.
    #[error(
        "a log's files have a power of two of bytes, {SEGMENT_BYTES_MIN} to {SEGMENT_BYTES_MAX}, \
         not {bytes}"
    )]
    SegmentBytes {
        /// What was asked for.
        bytes: u32,
    },
    /// The manifest, or a part of a snapshot, is not what was written.
    #[error(
        "{} is damaged ({reason}): put a copy of that file in its place, or restore a snapshot \
         into another directory", path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// It holds files, and they are not a node's.
    #[error(
        "{} is not a GridKV directory: it has no {MANIFEST}, but holds `{found}`; use one that is \
         new or empty", path.display()
    )]
    Foreign {
        /// The directory.
        path: PathBuf,
        /// One of the files.
        found: String,
    },
    /// It is not there, or nothing was ever stored in it.
    #[error("{} is not a GridKV directory: it has no {MANIFEST}; check the path", path.display())]
    Absent {
        /// The directory.
        path: PathBuf,
    },
    /// It is there, and a new one was asked for.
    #[error("{} is a GridKV directory already: use one that is new or empty", path.display())]
    Present {
        /// The directory.
        path: PathBuf,
    },
    /// It is a snapshot, and a node's directory was asked for.
    #[error(
        "{} is a snapshot: restore it into a new directory with `gridkv restore`", path.display()
    )]
    Snapshot {
        /// The directory.
        path: PathBuf,
    },
    /// It is no snapshot, and one was asked for.
    #[error("{} is not a snapshot: it has no {SNAPSHOT}; check the path", path.display())]
    NoSnapshot {
        /// The directory.
        path: PathBuf,
    },
    /// There is a snapshot of that name.
    #[error("{} is there already: choose another name, or remove it", path.display())]
    SnapshotPresent {
        /// The snapshot.
        path: PathBuf,
    },
    /// The snapshot was given up, because the node stops.
    #[error("{} was given up: the node stops", path.display())]
    Cancelled {
        /// The snapshot.
        path: PathBuf,
    },
    /// A part of it is gone.
    #[error(
        "{} is missing: bring it back, or restore a snapshot into another directory", path.display()
    )]
    ShardMissing {
        /// The shard's directory.
        path: PathBuf,
    },
    /// The operating system refuses.
    #[error("cannot {doing} {}: {reason}{}", path.display(), remedy(reason))]
    Io {
        /// What was tried.
        doing: &'static str,
        /// With which file or directory.
        path: PathBuf,
        /// What it says.
        reason: io::Error,
    },
}

impl Directory {
    /// Takes the directory if there is one, else makes it. An existing one keeps what it was made
    /// with.
    ///
    /// # Errors
    ///
    /// [`DirectoryError`].
    pub fn open_or_create(path: &Path, new: &New) -> Result<Self, DirectoryError> {
        let lock = prepare(path)?;
        match read_manifest(path)? {
            Some(manifest) => {
                let directory = Self::check(path, manifest, Some(lock))?;
                directory.remove_partial_snapshots();
                Ok(directory)
            }
            None => Self::make(path, new, lock),
        }
    }

    /// Takes a directory that is there.
    ///
    /// # Errors
    ///
    /// [`DirectoryError`].
    pub fn open(path: &Path) -> Result<Self, DirectoryError> {
        let absent = || DirectoryError::Absent { path: path.to_owned() };
        refuse_snapshot(path)?;
        // Looked for before the lock, so that no lock file is left where no node has been.
        read_manifest(path)?.ok_or_else(absent)?;
        let lock = Lock::take(path)?;
        let manifest = read_manifest(path)?.ok_or_else(absent)?;
        Self::check(path, manifest, Some(lock))
    }

    /// Makes a directory where there is none, or an empty one.
    ///
    /// # Errors
    ///
    /// [`DirectoryError`].
    pub fn create(path: &Path, new: &New) -> Result<Self, DirectoryError> {
        let lock = prepare(path)?;
        // Whatever there is of a manifest, damaged or not, is left alone.
        match manifest_text(path)? {
            Some(_) => Err(DirectoryError::Present { path: path.to_owned() }),
            None => Self::make(path, new, lock),
        }
    }

    /// How many shards it has.
    #[must_use]
    pub fn shard_count(&self) -> u16 {
        self.manifest.shards
    }

    /// Largest size of a file of a log, in bytes.
    #[must_use]
    pub fn segment_bytes(&self) -> u32 {
        self.manifest.segment_bytes
    }

    /// What tokens are made with.
    #[must_use]
    pub fn token_key(&self) -> TokenKey {
        TokenKey::new(self.manifest.token_secret.0)
    }

    /// What tells it from all other directories: 32 hexadecimal digits.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.manifest.id
    }

    /// Whether it was made just now.
    #[must_use]
    pub fn is_new(&self) -> bool {
        self.is_new
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where shard `index` lies.
    #[must_use]
    pub fn shard(&self, index: u16) -> PathBuf {
        assert!(index < self.shard_count(), "there is no shard {index}");
        shard(&self.path, index)
    }

    /// Where snapshots lie.
    #[must_use]
    pub fn snapshots(&self) -> PathBuf {
        self.path.join(SNAPSHOTS)
    }

    fn check(path: &Path, manifest: Manifest, lock: Option<Lock>) -> Result<Self, DirectoryError> {
        for index in 0..manifest.shards {
            let path = shard(path, index);
            match path.metadata() {
                Ok(metadata) if metadata.is_dir() => {}
                Err(reason) if reason.kind() != ErrorKind::NotFound => {
                    return Err(DirectoryError::Io { doing: "look at", path, reason });
                }
                _ => return Err(DirectoryError::ShardMissing { path }),
            }
        }
        Ok(Self { path: path.to_owned(), manifest, is_new: false, _lock: lock })
    }

    /// Makes the directory out of one that is locked and holds no more than an earlier attempt.
    fn make(path: &Path, new: &New, lock: Lock) -> Result<Self, DirectoryError> {
        assert!(new.shard_count > 0, "a directory has a shard");
        if !is_segment_size(new.segment_bytes as usize) {
            return Err(DirectoryError::SegmentBytes { bytes: new.segment_bytes });
        }
        remove_attempt(path)?;
        for index in 0..new.shard_count {
            let shard = shard(path, index);
            std::fs::create_dir(&shard).map_err(io("make", &shard))?;
        }
        let snapshots = path.join(SNAPSHOTS);
        std::fs::create_dir(&snapshots).map_err(io("make", &snapshots))?;
        sync_directory(path)?;

        let id = random_id().map_err(io("draw a random number for", path))?;
        let created_ms = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let created_ms = created_ms.map_or(0, |it| u64::try_from(it.as_millis()).unwrap_or(0));
        let manifest = Manifest::new(new, id, created_ms);
        write_durably(&path.join(MANIFEST_TMP), manifest.to_text().as_bytes())?;
        let name = path.join(MANIFEST);
        std::fs::rename(path.join(MANIFEST_TMP), &name).map_err(io("make", &name))?;
        sync_directory(path)?;
        Ok(Self { path: path.to_owned(), manifest, is_new: true, _lock: Some(lock) })
    }
}

/// Makes sure that there is a directory which may become a node's, or is one, and locks it.
fn prepare(path: &Path) -> Result<Lock, DirectoryError> {
    refuse_snapshot(path)?;
    make_directory(path)?;
    // Before the lock, so that no lock file is left among somebody else's files.
    refuse_foreign(path)?;
    let lock = Lock::take(path)?;
    refuse_foreign(path)?;
    Ok(lock)
}

/// Makes a directory and those above it, and their names durable. What is stored is nobody else's
/// to read.
fn make_directory(path: &Path) -> Result<(), DirectoryError> {
    let mut missing = Vec::new();
    let mut parent = path;
    while !parent.try_exists().map_err(io("look at", parent))? {
        missing.push(parent);
        parent = parent_of(parent);
    }
    for path in missing.into_iter().rev() {
        match DirBuilder::new().mode(0o700).create(path) {
            Err(reason) if reason.kind() != ErrorKind::AlreadyExists => {
                return Err(io("make", path)(reason));
            }
            // Made by another process meanwhile, which may have had no time to make it durable.
            _ => sync_directory(parent_of(path))?,
        }
    }
    Ok(())
}

fn parent_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

fn refuse_snapshot(path: &Path) -> Result<(), DirectoryError> {
    if Directory::is_snapshot(path) {
        return Err(DirectoryError::Snapshot { path: path.to_owned() });
    }
    Ok(())
}

/// An error when the directory has no manifest, and holds more than an attempt to make it leaves.
fn refuse_foreign(path: &Path) -> Result<(), DirectoryError> {
    let names = names(path)?;
    if names.iter().any(|it| it == MANIFEST) {
        return Ok(());
    }
    for name in names {
        let is_known = match name.as_str() {
            LOCK | MANIFEST_TMP | LOST_AND_FOUND => true,
            name if name.starts_with(IDENTITY_PREFIX) => true,
            name if is_part(name) => is_empty_directory(&path.join(name)),
            _ => false,
        };
        if !is_known {
            return Err(DirectoryError::Foreign { path: path.to_owned(), found: name });
        }
    }
    Ok(())
}

/// Removes what an interrupted attempt has left. Nothing is lost that held anything: a directory
/// which is not empty is not removed by this call of the operating system.
fn remove_attempt(path: &Path) -> Result<(), DirectoryError> {
    for name in names(path)? {
        let path = path.join(&name);
        if name == MANIFEST_TMP {
            std::fs::remove_file(&path).map_err(io("remove", &path))?;
        } else if is_part(&name) {
            std::fs::remove_dir(&path).map_err(io("remove", &path))?;
        }
    }
    Ok(())
}

/// Whether a directory of ours is called so.
fn is_part(name: &str) -> bool {
    let number = name.strip_prefix(SHARD_PREFIX).and_then(|digits| digits.parse().ok());
    name == SNAPSHOTS || number.is_some_and(|index| name == shard_name(index))
}

fn is_empty_directory(path: &Path) -> bool {
    std::fs::read_dir(path).is_ok_and(|mut it| it.next().is_none())
}

fn names(path: &Path) -> Result<Vec<String>, DirectoryError> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(path).map_err(io("list", path))? {
        let entry = entry.map_err(io("list", path))?;
        names.push(entry.file_name().to_string_lossy().into_owned());
    }
    names.sort_unstable();
    Ok(names)
}

/// The manifest, unless there is none.
fn read_manifest(directory: &Path) -> Result<Option<Manifest>, DirectoryError> {
    let Some(text) = manifest_text(directory)? else { return Ok(None) };
    Manifest::parse(&text).map(Some).map_err(|flaw| flaw.of(directory, &directory.join(MANIFEST)))
}

fn manifest_text(directory: &Path) -> Result<Option<Vec<u8>>, DirectoryError> {
    let path = directory.join(MANIFEST);
    let mut text = Vec::new();
    match File::open(&path).and_then(|it| it.take(MANIFEST_BYTES_MAX).read_to_end(&mut text)) {
        Ok(_) => Ok(Some(text)),
        Err(reason) if reason.kind() == ErrorKind::NotFound => Ok(None),
        Err(reason) => Err(io("read", &path)(reason)),
    }
}

fn write_durably(path: &Path, bytes: &[u8]) -> Result<(), DirectoryError> {
    let mut file = File::create(path).map_err(io("make", path))?;
    file.write_all(bytes).map_err(io("write", path))?;
    file.sync_all().map_err(io("sync", path))
}

fn sync_directory(path: &Path) -> Result<(), DirectoryError> {
    File::open(path).and_then(|it| it.sync_all()).map_err(io("sync", path))
}

fn random_id() -> io::Result<String> {
    let mut bytes = [0; 16];
    let mut filled = 0;
    while filled < bytes.len() {
        match rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty()) {
            Ok(len) => filled += len,
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(format!("{:032x}", u128::from_be_bytes(bytes)))
}

fn shard(directory: &Path, index: u16) -> PathBuf {
    directory.join(shard_name(index))
}

fn shard_name(index: u16) -> String {
    format!("{SHARD_PREFIX}{index:04}")
}

fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> DirectoryError {
    let path = path.to_owned();
    move |reason| DirectoryError::Io { doing, path, reason }
}

fn holder(process: Option<u32>) -> String {
    process.map_or_else(|| "another process".to_owned(), |it| format!("process {it}"))
}

fn remedy(reason: &io::Error) -> &'static str {
    match reason.kind() {
        ErrorKind::PermissionDenied => "; give this user the right to read and write there",
        ErrorKind::ReadOnlyFilesystem => "; mount it for writing, or use another directory",
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => "; make room, or use another disk",
        ErrorKind::NotADirectory => "; use a path that leads to a directory",
        _ => "",
    }
}
