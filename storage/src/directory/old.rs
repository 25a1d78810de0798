//! Data directories and snapshots of the format before, to be moved from.

use std::path::{Path, PathBuf};

use gridkv_cluster::Timestamp;

use super::lock::Lock;
use super::manifest::OldManifest;
use super::{Directory, DirectoryError, MANIFEST, manifest_text};

/// A directory of the format before, or a snapshot of one, that nobody uses until this is dropped.
#[derive(Debug)]
pub struct OldDirectory {
    path: PathBuf,
    shard_count: u16,
    cut: Timestamp,
    /// A snapshot is used by nobody.
    _lock: Option<Lock>,
}

impl OldDirectory {
    /// Takes a directory that is there.
    ///
    /// # Errors
    ///
    /// [`DirectoryError`], also when it is of another format.
    pub fn open(path: &Path) -> Result<Self, DirectoryError> {
        let absent = || DirectoryError::Absent { path: path.to_owned() };
        let text = manifest_text(path)?.ok_or_else(absent)?;
        let manifest = OldManifest::parse(&text);
        let manifest = manifest.map_err(|flaw| flaw.of(path, &path.join(MANIFEST)))?;
        let (cut, lock) = if Directory::is_snapshot(path) {
            (Directory::snapshot_cut(path)?, None)
        } else {
            (Timestamp(u64::MAX), Some(Lock::take(path)?))
        };
        let OldManifest { shards: shard_count, .. } = manifest;
        Ok(Self { path: path.to_owned(), shard_count, cut, _lock: lock })
    }

    /// How many shards it has.
    #[must_use]
    pub const fn shard_count(&self) -> u16 {
        self.shard_count
    }

    /// The highest timestamp that counts: that of a snapshot, or all there are.
    #[must_use]
    pub const fn cut(&self) -> Timestamp {
        self.cut
    }

    /// Where shard `index` lies.
    #[must_use]
    pub fn shard(&self, index: u16) -> PathBuf {
        super::shard(&self.path, index)
    }
}
