//! The data directory of a node with a backend on disk.

use gridkv_cluster::TokenKey;
use gridkv_storage::DiskOptions;
use gridkv_storage::directory::{Directory, New};
use gridkv_storage::disk::{IoPort, SyncMethod, probe};

use crate::config::{Config, is_on_disk};
use crate::error::OpenError;

/// A directory that this node alone uses, and what was found out about its disk.
pub(crate) struct Data {
    directory: Directory,
    method: SyncMethod,
}

impl Data {
    /// Takes the configured directory, or makes it, with `shard_count` shards.
    ///
    /// # Errors
    ///
    /// [`OpenError`], when it cannot be used, or has another number of shards than is asked for.
    pub(crate) fn open(config: &Config, shard_count: u16) -> Result<Self, OpenError> {
        let token_secret = random_secret();
        let new = New { shard_count, segment_bytes: config.segment, token_secret };
        let directory = Directory::open_or_create(&config.data, &new)?;
        if let Some(asked) = config.shards
            && asked != directory.shard_count()
        {
            let found = directory.shard_count();
            return Err(OpenError::Option {
                option: "shards",
                problem: format!(
                    "{} was made with {found} shards and cannot have {asked}: leave the option out, \
                     or restore a snapshot into a new directory",
                    config.data.display()
                ),
            });
        }
        let method = match config.sync {
            Some(method) => method,
            // Only the identity and the topology are kept there.
            None if !is_on_disk(&config.storage) => SyncMethod::Fdatasync,
            None => probe(directory.path()).map_err(|source| OpenError::Data {
                path: config.data.display().to_string(),
                source,
            })?,
        };
        tracing::info!(
            path = %config.data.display(), shards = directory.shard_count(), sync = ?method,
            "data directory"
        );
        Ok(Self { directory, method })
    }

    pub(crate) fn shard_count(&self) -> u16 {
        self.directory.shard_count()
    }

    pub(crate) fn directory(&self) -> &Directory {
        &self.directory
    }

    /// What the store of a shard needs.
    pub(crate) fn options(&self, config: &Config, shard: u16, io: &IoPort) -> DiskOptions {
        DiskOptions {
            directory: self.directory.shard(shard),
            io: io.clone(),
            cache_bytes_max: config.cache / u64::from(self.shard_count()),
            durability: config.durability,
            segment_bytes: self.directory.segment_bytes(),
            sync_method: self.method,
        }
    }
}

/// A secret to make tokens with.
pub(crate) fn random_secret() -> [u8; TokenKey::BYTES] {
    let mut secret = [0; TokenKey::BYTES];
    // One that can be guessed is still one.
    let _ = rustix::rand::getrandom(&mut secret, rustix::rand::GetRandomFlags::NONBLOCK);
    secret
}
