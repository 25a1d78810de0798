//! Data directories of nodes on disk.

use std::path::{Path, PathBuf};

use gridkv::Builder;
use gridkv::storage::directory::{Directory, New};
use gridkv::storage::disk::SyncMethod;
use gridkv::storage::file;

use crate::node::{Shape, builder, with};

/// Options for a node of a shape whose data is in `data`, with small files.
///
/// # Panics
///
/// When the path is no text.
#[must_use]
pub fn on_disk(shape: Shape, data: &Path) -> Builder {
    let builder = with(builder(shape), "data", data.to_str().expect("a path that is a text"));
    with(with(builder, "segment", "1MiB"), "cache", "1MiB").storage("file")
}

/// As [`on_disk`], with the shards that the directory has.
#[must_use]
pub fn reopened(cores: usize, data: &Path) -> Builder {
    with(on_disk(Shape { cores, shards: 1 }, data), "shards", "cores")
}

/// The files of the logs in a directory, in the order of their names.
///
/// # Panics
///
/// When the directory cannot be read.
#[must_use]
pub fn log_files(data: &Path) -> Vec<PathBuf> {
    let names = |path: &Path| {
        let entries = std::fs::read_dir(path).expect("it is a directory");
        entries.map(|entry| entry.expect("it can be read").path()).collect::<Vec<_>>()
    };
    let is_shard = |path: &PathBuf| {
        path.file_name().is_some_and(|it| it.to_string_lossy().starts_with("shard-"))
    };
    let shards = names(data).into_iter().filter(is_shard);
    let mut files: Vec<PathBuf> = shards.flat_map(|shard| names(&shard)).collect();
    files.sort_unstable();
    files
}

/// Makes a directory out of a snapshot. Returns how many keys it has.
///
/// # Panics
///
/// When that fails.
pub fn restore(snapshot: &Path, data: &Path, shard_count: u16) -> u64 {
    let (from, note) = Directory::open_snapshot(snapshot).expect("it is a snapshot");
    let new = New { shard_count, segment_bytes: 1 << 20, token_secret: [7; 16] };
    let to = Directory::create(data, &new).expect("it is new");
    let restored = file::restore(&from, note.cut, &to, SyncMethod::Fdatasync);
    let restored = restored.expect("the snapshot can be read");
    assert_eq!(restored.damaged_count, 0);
    restored.key_count
}
