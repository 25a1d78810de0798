//! What has happened in a run: a hash of all of it, and, when a failed run is repeated, the text.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use gridkv_cluster::Instant;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Bytes of an event log.
const BYTES_MAX: usize = 64 << 20;

/// The events of one run.
#[derive(Debug)]
pub(super) struct Trace {
    hash: u64,
    file: Option<BufWriter<File>>,
    bytes_left: usize,
}

impl Trace {
    /// A trace that keeps a hash, and writes a log if it is told where.
    pub(super) fn new(path: Option<&Path>) -> Self {
        let file = path.and_then(|path| {
            std::fs::create_dir_all(path.parent()?).ok()?;
            File::create(path).ok().map(BufWriter::new)
        });
        Self { hash: 0, file, bytes_left: BYTES_MAX }
    }

    /// Something has happened.
    pub(super) fn note(&mut self, now: Instant, numbers: [u64; 3]) {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&now.as_nanos().to_le_bytes());
        for (index, number) in numbers.iter().enumerate() {
            bytes[8 * (index + 1)..][..8].copy_from_slice(&number.to_le_bytes());
        }
        self.hash = xxh3_64_with_seed(&bytes, self.hash);
    }

    /// Says what has happened, if there is a log.
    pub(super) fn say(&mut self, now: Instant, what: impl FnOnce() -> String) {
        if self.bytes_left == 0 {
            return;
        }
        let Some(file) = &mut self.file else { return };
        let nanos = now.as_nanos();
        let line =
            format!("{:>4}.{:06} {}\n", nanos / 1_000_000_000, nanos / 1_000 % 1_000_000, what());
        self.bytes_left = self.bytes_left.saturating_sub(line.len());
        // A log that cannot be written is none.
        let _ = file.write_all(line.as_bytes());
    }

    /// Whether there is a log.
    pub(super) const fn is_on(&self) -> bool {
        self.file.is_some()
    }

    /// A hash of all that has happened.
    pub(super) const fn hash(&self) -> u64 {
        self.hash
    }
}
