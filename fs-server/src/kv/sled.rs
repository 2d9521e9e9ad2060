//! sled behind the port: selectable, not the default.
//!
//! sled keeps its log in buffers of the process and offers nothing between that and `flush`, which also syncs the
//! file. So surviving a kill costs a flush for each commit here, and `sync` has nothing left to do but the same.

use super::guard::Engine;
use super::{Batch, Change, Kv, KvError, ScanVisitor};
use bytes::Bytes;
use parking_lot::RwLock;
use std::path::Path;
use std::time::{Duration, Instant};

/// After a close sled's own threads hold its lock a little longer.
const LOCK_WAIT: Duration = Duration::from_secs(1);
const LOCK_RETRY: Duration = Duration::from_millis(20);

pub(super) struct SledKv {
    database: sled::Db,
    cache_bytes: u64,
    /// Written while a batch is applied, read by scans: sled's own iterators would show a batch half applied.
    applying: RwLock<()>,
}

impl SledKv {
    pub(super) fn open(dir: &Path, cache_bytes: u64) -> Result<Self, KvError> {
        let config = sled::Config::new().path(dir).cache_capacity(cache_bytes).flush_every_ms(None);
        let give_up = Instant::now() + LOCK_WAIT;
        loop {
            match config.open() {
                Ok(database) => return Ok(SledKv { database, cache_bytes, applying: RwLock::new(()) }),
                Err(e) if !is_locked(&e) => return Err(convert(e)),
                Err(_) if Instant::now() > give_up => return Err(KvError::InUse(dir.to_owned())),
                Err(_) => std::thread::sleep(LOCK_RETRY),
            }
        }
    }
}

impl Engine for SledKv {}

impl Kv for SledKv {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, KvError> {
        Ok(self.database.get(key).map_err(convert)?.map(Bytes::from_owner))
    }

    fn commit(&self, batch: Batch) -> Result<(), KvError> {
        let mut write = sled::Batch::default();
        for change in batch.changes() {
            match change {
                Change::Put { key, value } => write.insert(key, value),
                Change::Delete { key } => write.remove(key),
            }
        }
        {
            let _alone = self.applying.write();
            self.database.apply_batch(write).map_err(convert)?;
        }
        // Outside the lock, so that commits of several threads share a flush.
        self.sync()
    }

    fn scan(&self, from: &[u8], to: &[u8], visit: &mut ScanVisitor<'_>) -> Result<(), KvError> {
        if from >= to {
            return Ok(());
        }
        let _steady = self.applying.read();
        for pair in self.database.range(from..to) {
            let (key, value) = pair.map_err(convert)?;
            if visit(&key, &value).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn sync(&self) -> Result<(), KvError> {
        self.database.flush().map(drop).map_err(convert)
    }

    fn disk_bytes(&self) -> u64 {
        self.database.size_on_disk().unwrap_or(0)
    }

    fn memory_bytes(&self) -> u64 {
        // sled does not tell what it holds: its bound is the best guess there is, and a low one.
        self.cache_bytes
    }
}

fn is_locked(error: &sled::Error) -> bool {
    matches!(error, sled::Error::Io(e) if e.to_string().contains("could not acquire lock"))
}

fn convert(error: sled::Error) -> KvError {
    match error {
        sled::Error::Io(e) => KvError::from_io(e),
        sled::Error::Corruption { .. } | sled::Error::ReportableBug(_) => KvError::Corrupt(error.to_string()),
        sled::Error::Unsupported(_) | sled::Error::CollectionNotFound(_) => {
            KvError::Corrupt(error.to_string())
        }
    }
}
