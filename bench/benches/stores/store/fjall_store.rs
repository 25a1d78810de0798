//! fjall: a log-structured merge tree with a journal, and threads of its own that flush and compact.
//!
//! The keyspace's handle is shared by all threads, as its documentation says. The journal is written
//! to by hand: a single write is inserted and then persisted, a group of them is a batch that is
//! persisted as one, both with `PersistMode::SyncData`, which is `fdatasync`, as redb and GridKV
//! have it. Nothing is compressed.

use fjall::config::CompressionPolicy;
use fjall::{
    CompressionType, Database, Error, Keyspace, KeyspaceCreateOptions, OwnedWriteBatch, PersistMode,
};
use gridkv_bench::workload::Generator;

use super::{Act, Durability, See, Session, Store, StoreOptions};

/// Keys in a batch of the load phase.
const LOADING_STRIDE: u64 = 1_000;

/// Opens the database in the options' directory.
pub(crate) fn open(options: &StoreOptions) -> Result<Box<dyn Store>, String> {
    open_here(options).map(|it| -> Box<dyn Store> { Box::new(it) }).map_err(|it| it.to_string())
}

fn open_here(options: &StoreOptions) -> Result<Shared, Error> {
    let database = Database::builder(options.directory.join("fjall"))
        .cache_size(options.cache_bytes)
        .journal_compression(CompressionType::None)
        .manual_journal_persist(true)
        .open()?;
    let plain = || {
        KeyspaceCreateOptions::default()
            .data_block_compression_policy(CompressionPolicy::all(CompressionType::None))
            .index_block_compression_policy(CompressionPolicy::all(CompressionType::None))
            .manual_journal_persist(true)
    };
    let items = database.keyspace("items", plain)?;
    let persist = match options.durability {
        Durability::Commit => Some(PersistMode::SyncData),
        Durability::None => None,
    };
    Ok(Shared { database, items, persist })
}

/// What all threads share.
#[derive(Clone)]
struct Shared {
    database: Database,
    items: Keyspace,
    /// How writes are made durable, where they are.
    persist: Option<PersistMode>,
}

impl Store for Shared {
    fn session(&self) -> Box<dyn Session> {
        Box::new(self.clone())
    }

    fn load(&self, requests: &mut Generator, count: u64) -> Result<(), String> {
        self.fill(requests, count).map_err(|it| it.to_string())
    }
}

impl Session for Shared {
    fn run(&mut self, acts: &[Act<'_>], see: See<'_>) -> Result<Vec<bool>, String> {
        let done = match acts {
            [act] if act.is_write() => self.write_one(act, see).map(|it| vec![it]),
            _ if acts.iter().any(Act::is_write) => self.write_all(acts, see),
            _ => acts.iter().map(|act| self.read(act, see)).collect(),
        };
        done.map_err(|it| it.to_string())
    }
}

impl Shared {
    fn fill(&self, requests: &mut Generator, count: u64) -> Result<(), Error> {
        let mut left = count;
        while left > 0 {
            let stride = left.min(LOADING_STRIDE);
            left -= stride;
            let mut batch = self.database.batch();
            for _ in 0..stride {
                let request = requests.draw();
                batch.insert(&self.items, request.key, request.value);
            }
            batch.commit()?;
        }
        self.persist.map_or(Ok(()), |mode| self.database.persist(mode))
    }

    fn write_one(&self, act: &Act<'_>, see: See<'_>) -> Result<bool, Error> {
        let is_found = self.look_before(act, see)?;
        match *act {
            Act::Set(key, value) | Act::Change(key, value) => self.items.insert(key, value)?,
            Act::Delete(key) => self.items.remove(key)?,
            Act::Get(_) | Act::Exists(_) | Act::Scan(..) => unreachable!("a read is no write"),
        }
        self.persist.map_or(Ok(()), |mode| self.database.persist(mode))?;
        Ok(is_found)
    }

    /// Reads do not see the group's own writes.
    fn write_all(&self, acts: &[Act<'_>], see: See<'_>) -> Result<Vec<bool>, Error> {
        let mut batch = self.database.batch().durability(self.persist);
        let found = acts.iter().map(|act| self.add(&mut batch, act, see)).collect();
        batch.commit()?;
        found
    }

    fn add(&self, batch: &mut OwnedWriteBatch, act: &Act<'_>, see: See<'_>) -> Result<bool, Error> {
        match *act {
            Act::Set(key, value) | Act::Change(key, value) => {
                let is_found = self.look_before(act, see)?;
                batch.insert(&self.items, key, value);
                Ok(is_found)
            }
            Act::Delete(key) => {
                let is_found = self.look_before(act, see)?;
                batch.remove(&self.items, key);
                Ok(is_found)
            }
            Act::Get(_) | Act::Exists(_) | Act::Scan(..) => self.read(act, see),
        }
    }

    /// What a write has to know of the key: a removal says nothing of it by itself.
    fn look_before(&self, act: &Act<'_>, see: See<'_>) -> Result<bool, Error> {
        match *act {
            Act::Change(key, _) => self.read(&Act::Get(key), see),
            Act::Delete(key) => self.read(&Act::Exists(key), see),
            Act::Set(..) | Act::Get(_) | Act::Exists(_) | Act::Scan(..) => Ok(true),
        }
    }

    fn read(&self, act: &Act<'_>, see: See<'_>) -> Result<bool, Error> {
        match *act {
            Act::Get(key) => {
                let value = self.items.get(key)?;
                value.iter().for_each(|it| see(it));
                Ok(value.is_some())
            }
            Act::Exists(key) => self.items.contains_key(key),
            Act::Scan(from, count) => {
                let mut is_found = false;
                for row in self.items.range(from..).take(count) {
                    see(&row.value()?);
                    is_found = true;
                }
                Ok(is_found)
            }
            Act::Set(..) | Act::Change(..) | Act::Delete(_) => unreachable!("a write is no read"),
        }
    }
}
