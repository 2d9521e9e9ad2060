//! redb: a copy-on-write B-tree. A commit that survives a kill is a durable one, which syncs the file; commits that wait for the
//! same sync are joined, so that each of several threads does not pay one of its own.

use bytes::Bytes;
use fs_server::kv::{Batch, Change, Kv, KvError, ScanVisitor};
use redb::{Database, ReadableDatabase, TableDefinition};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};

const ROWS: TableDefinition<&[u8], &[u8]> = TableDefinition::new("rows");

#[derive(Default)]
struct Group {
    waiting: Vec<Batch>,
    /// Number of the group that is being collected, and of the last that is done.
    collecting: u64,
    done: u64,
    is_committing: bool,
}

pub struct RedbKv {
    database: Database,
    group: Mutex<Group>,
    changed: Condvar,
    path: std::path::PathBuf,
}

fn lift(error: impl std::fmt::Display) -> KvError {
    KvError::Io(std::io::Error::other(error.to_string()))
}

impl RedbKv {
    pub fn open(dir: &Path, cache_bytes: u64) -> Result<Arc<dyn Kv>, KvError> {
        let path = dir.join("redb");
        let database =
            redb::Builder::new().set_cache_size(cache_bytes as usize).create(&path).map_err(lift)?;
        let write = database.begin_write().map_err(lift)?;
        write.open_table(ROWS).map_err(lift)?;
        write.commit().map_err(lift)?;
        let group = Mutex::new(Group { collecting: 1, ..Group::default() });
        Ok(Arc::new(RedbKv { database, group, changed: Condvar::new(), path }))
    }

    fn write(&self, batches: &[Batch]) -> Result<(), KvError> {
        let write = self.database.begin_write().map_err(lift)?;
        {
            let mut rows = write.open_table(ROWS).map_err(lift)?;
            for change in batches.iter().flat_map(Batch::changes) {
                match change {
                    Change::Put { key, value } => drop(rows.insert(key, value).map_err(lift)?),
                    Change::Delete { key } => drop(rows.remove(key).map_err(lift)?),
                }
            }
        }
        write.commit().map_err(lift)
    }
}

impl Kv for RedbKv {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, KvError> {
        let read = self.database.begin_read().map_err(lift)?;
        let rows = read.open_table(ROWS).map_err(lift)?;
        let found = rows.get(key).map_err(lift)?;
        Ok(found.map(|value| Bytes::copy_from_slice(value.value())))
    }

    fn commit(&self, batch: Batch) -> Result<(), KvError> {
        let mut group = self.group.lock().expect("no panic");
        group.waiting.push(batch);
        let mine = group.collecting;
        while group.done < mine {
            if group.is_committing {
                group = self.changed.wait(group).expect("no panic");
                continue;
            }
            group.is_committing = true;
            group.collecting += 1;
            let batches = std::mem::take(&mut group.waiting);
            drop(group);
            self.write(&batches)?;
            group = self.group.lock().expect("no panic");
            group.is_committing = false;
            group.done = mine;
            self.changed.notify_all();
        }
        Ok(())
    }

    fn scan(&self, from: &[u8], to: &[u8], visit: &mut ScanVisitor<'_>) -> Result<(), KvError> {
        let read = self.database.begin_read().map_err(lift)?;
        let rows = read.open_table(ROWS).map_err(lift)?;
        for pair in rows.range(from..to).map_err(lift)? {
            let (key, value) = pair.map_err(lift)?;
            if visit(key.value(), value.value()).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn sync(&self) -> Result<(), KvError> {
        Ok(())
    }

    fn disk_bytes(&self) -> u64 {
        self.path.metadata().map_or(0, |meta| meta.len())
    }

    fn memory_bytes(&self) -> u64 {
        0
    }
}
