//! fjall behind the port: a log-structured merge tree with a journal.
//!
//! Its journal is buffered in the process, so every batch asks for `PersistMode::Buffer`: one `write` to the kernel.
//! A failed journal write poisons the database until it is reopened, also after ENOSPC.

use super::{Batch, Change, Kv, KvError, KvStats, ScanVisitor};
use bytes::Bytes;
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode, Readable};
use std::error::Error as _;
use std::path::Path;

/// The engine seals a memtable and goes on with the next; it halts writers when this many are sealed.
const MEMTABLES: u64 = 5;
const MEMTABLE_BYTES: std::ops::RangeInclusive<u64> = 1 << 20..=16 << 20;
/// The smallest bound that the engine takes for its journals.
const JOURNAL_BYTES: u64 = 128 << 20;
/// Flush and compaction; more threads than two would only compete with the server's own.
const WORKERS: usize = 2;

pub(super) struct FjallKv {
    database: Database,
    tree: Keyspace,
}

impl FjallKv {
    pub(super) fn open(dir: &Path, cache_bytes: u64) -> Result<Self, KvError> {
        let lift = |e| convert_open(e, dir);
        // Half for blocks that are read, half for memtables: creates and deletes are as common as look-ups.
        let memtable_bytes =
            (cache_bytes / 2 / MEMTABLES).clamp(*MEMTABLE_BYTES.start(), *MEMTABLE_BYTES.end());
        let database = Database::builder(dir)
            .cache_size(cache_bytes / 2)
            .max_journaling_size(JOURNAL_BYTES)
            .journal_compression(fjall::CompressionType::None)
            .worker_threads(WORKERS)
            .open()
            .map_err(lift)?;
        let options = || KeyspaceCreateOptions::default().max_memtable_size(memtable_bytes);
        let tree = database.keyspace("namespace", options).map_err(lift)?;
        Ok(FjallKv { database, tree })
    }
}

impl Kv for FjallKv {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, KvError> {
        Ok(self.tree.get(key).map_err(convert)?.map(Bytes::from_owner))
    }

    fn commit(&self, batch: Batch) -> Result<(), KvError> {
        let mut write = fjall::OwnedWriteBatch::with_capacity(self.database.clone(), batch.len())
            .durability(Some(PersistMode::Buffer));
        for change in batch.changes() {
            match change {
                Change::Put { key, value } => write.insert(&self.tree, key, value),
                Change::Delete { key } => write.remove(&self.tree, key),
            }
        }
        write.commit().map_err(convert)
    }

    fn scan(&self, from: &[u8], to: &[u8], visit: &mut ScanVisitor<'_>) -> Result<(), KvError> {
        if from >= to {
            return Ok(());
        }
        // A plain range would show parts of a batch that is being applied.
        for pair in self.database.snapshot().range(&self.tree, from..to) {
            let (key, value) = pair.into_inner().map_err(convert)?;
            if visit(&key, &value).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn sync(&self) -> Result<(), KvError> {
        self.database.persist(PersistMode::SyncData).map_err(convert)
    }

    fn stats(&self) -> KvStats {
        KvStats {
            // Only a poisoned lock makes this fail; a gauge need not.
            disk_bytes: self.database.disk_space().unwrap_or(0),
            memory_bytes: self.database.cache_size() + self.database.write_buffer_size(),
        }
    }
}

fn convert_open(error: fjall::Error, dir: &Path) -> KvError {
    match error {
        fjall::Error::Locked => KvError::InUse(dir.to_owned()),
        other => convert(other),
    }
}

fn convert(error: fjall::Error) -> KvError {
    match error {
        fjall::Error::Io(e) | fjall::Error::Storage(fjall::LsmError::Io(e)) => KvError::from_io(e),
        fjall::Error::Poisoned => KvError::Refused,
        other => {
            let io_below = other.source().and_then(|e| e.downcast_ref::<std::io::Error>());
            match io_below.and_then(std::io::Error::raw_os_error) {
                Some(code) => KvError::from_io(std::io::Error::from_raw_os_error(code)),
                None => KvError::Corrupt(other.to_string()),
            }
        }
    }
}
