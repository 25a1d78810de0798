//! redb: a B+ tree that is copied on write, with one writer at a time.
//!
//! Each call that writes is a write transaction of its own; others wait for it. A thread that reads
//! keeps its view of the tree, a read transaction with the table open in it, for as long as nobody
//! has committed since: so reads cost what the tree costs, and see every write that was answered.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use gridkv_bench::workload::Generator;
use redb::backends::InMemoryBackend;
use redb::{
    Builder, Database, Durability as RedbDurability, Error, ReadOnlyTable, ReadableDatabase,
    ReadableTable, Table, TableDefinition, WriteTransaction,
};

use super::{Act, Durability, See, Session, Store, StoreOptions};

type Bytes = &'static [u8];

const TABLE: TableDefinition<'static, Bytes, Bytes> = TableDefinition::new("items");

/// Keys in a transaction of the load phase.
const LOADING_STRIDE: u64 = 100_000;

/// Opens the database in the options' directory, or one in memory.
pub(crate) fn open(options: &StoreOptions) -> Result<Box<dyn Store>, String> {
    open_here(options).map(|it| -> Box<dyn Store> { Box::new(it) }).map_err(|it| it.to_string())
}

fn open_here(options: &StoreOptions) -> Result<Shared, Error> {
    let mut builder = Builder::new();
    builder.set_cache_size(usize::try_from(options.cache_bytes).unwrap_or(usize::MAX));
    let (database, durability) = match options.durability {
        Durability::Commit => {
            (builder.create(options.directory.join("redb"))?, RedbDurability::Immediate)
        }
        Durability::None => {
            (builder.create_with_backend(InMemoryBackend::new())?, RedbDurability::None)
        }
    };
    let shared = Shared { database: Arc::new(database), durability, commits: Arc::default() };
    // A view of a table that was never opened for writing is an error.
    shared.write(|_| Ok(()))?;
    Ok(shared)
}

/// What all threads share.
#[derive(Clone)]
struct Shared {
    database: Arc<Database>,
    durability: RedbDurability,
    /// How often was committed: whoever has seen another number has an old view.
    commits: Arc<AtomicU64>,
}

impl Shared {
    /// One write transaction.
    fn write<T>(
        &self,
        work: impl FnOnce(&mut Table<'_, Bytes, Bytes>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let mut transaction: WriteTransaction = self.database.begin_write()?;
        transaction.set_durability(self.durability)?;
        let done = work(&mut transaction.open_table(TABLE)?)?;
        transaction.commit()?;
        self.commits.fetch_add(1, Ordering::Release);
        Ok(done)
    }
}

impl Store for Shared {
    fn session(&self) -> Box<dyn Session> {
        Box::new(RedbSession { shared: self.clone(), view: None })
    }

    fn load(&self, requests: &mut Generator, count: u64) -> Result<(), String> {
        let mut left = count;
        while left > 0 {
            let stride = left.min(LOADING_STRIDE);
            left -= stride;
            let fill = |table: &mut Table<'_, Bytes, Bytes>| {
                for _ in 0..stride {
                    let request = requests.draw();
                    table.insert(request.key, request.value)?;
                }
                Ok(())
            };
            self.write(fill).map_err(|it| it.to_string())?;
        }
        Ok(())
    }
}

struct RedbSession {
    shared: Shared,
    /// The number of commits before it was taken, and the table as it was then.
    view: Option<(u64, ReadOnlyTable<Bytes, Bytes>)>,
}

impl RedbSession {
    fn view(&mut self) -> Result<&ReadOnlyTable<Bytes, Bytes>, Error> {
        let commits = self.shared.commits.load(Ordering::Acquire);
        if self.view.as_ref().is_none_or(|it| it.0 != commits) {
            self.view = None;
            let table = self.shared.database.begin_read()?.open_table(TABLE)?;
            self.view = Some((commits, table));
        }
        Ok(&self.view.as_ref().expect("taken above").1)
    }
}

impl Session for RedbSession {
    fn run(&mut self, acts: &[Act<'_>], see: See<'_>) -> Result<Vec<bool>, String> {
        let done: Result<Vec<bool>, Error> = if acts.iter().any(Act::is_write) {
            // An old view would keep pages from being used again.
            self.view = None;
            self.shared.write(|table| acts.iter().map(|act| write(table, act, see)).collect())
        } else {
            self.view().and_then(|table| acts.iter().map(|act| read(table, act, see)).collect())
        };
        done.map_err(|it| it.to_string())
    }
}

fn write(table: &mut Table<'_, Bytes, Bytes>, act: &Act<'_>, see: See<'_>) -> Result<bool, Error> {
    match *act {
        Act::Set(key, value) => {
            table.insert(key, value)?;
            Ok(true)
        }
        Act::Change(key, value) => {
            let is_found = read(table, &Act::Get(key), see)?;
            table.insert(key, value)?;
            Ok(is_found)
        }
        Act::Delete(key) => Ok(table.remove(key)?.is_some()),
        Act::Get(_) | Act::Exists(_) | Act::Scan(..) => read(table, act, see),
    }
}

fn read(
    table: &impl ReadableTable<Bytes, Bytes>,
    act: &Act<'_>,
    see: See<'_>,
) -> Result<bool, Error> {
    match *act {
        Act::Get(key) => {
            let value = table.get(key)?;
            value.iter().for_each(|it| see(it.value()));
            Ok(value.is_some())
        }
        Act::Exists(key) => Ok(table.get(key)?.is_some()),
        Act::Scan(from, count) => {
            let mut is_found = false;
            for row in table.range(from..)?.take(count) {
                see(row?.1.value());
                is_found = true;
            }
            Ok(is_found)
        }
        Act::Set(..) | Act::Change(..) | Act::Delete(_) => unreachable!("a write is no read"),
    }
}
