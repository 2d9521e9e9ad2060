//! sled behind the port: selectable, not the default.
//!
//! sled keeps its log in buffers of the process and offers nothing between that and `flush`, which has the kernel write the log to the
//! device (`sync_file_range`, on Linux), but neither the file's length nor what the device caches. So surviving a kill costs a flush for each
//! commit here, and `sync` syncs the files besides.
//!
//! # Invariants
//! - After a failed write, flush or sync nothing is committed or synced any more until the store is opened anew (`tests/kv`,
//!   `the_device_has_what_is_synced_after_a_failed_sync`).
//! - What sled reads at an opening is on the device, or was put into new files first (the same test; decision 0048).

use super::fence::Past;
use super::guard::Engine;
use super::lock;
use super::renew::{is_half, renew};
use super::{Batch, Change, Kv, KvError, ScanVisitor};
use bytes::Bytes;
use parking_lot::RwLock;
use std::fs::File;
use std::io::ErrorKind;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// sled's log. Locked while the store is open.
const LOG: &str = "db";
/// Where sled keeps values that are too large for its log.
const BLOBS: &str = "blobs";

pub(super) struct SledKv {
    /// None only while it is dropped.
    database: Option<sled::Db>,
    /// The log once more, to be synced: of a write that failed the kernel tells each handle.
    log: File,
    dir: PathBuf,
    cache_bytes: u64,
    /// Written while a batch is applied, read by scans: sled's own iterators would show a batch half applied.
    applying: RwLock<()>,
    refused: AtomicBool,
}

impl SledKv {
    pub(super) fn open(dir: &Path, cache_bytes: u64) -> Result<Self, KvError> {
        let mut past = Past::read(dir)?;
        renew_files(dir, past.may_show_unwritten())?;
        past.note_opening()?;
        let config = sled::Config::new().path(dir).cache_capacity(cache_bytes).flush_every_ms(None);
        let give_up = Instant::now() + lock::WAIT;
        let database = loop {
            match config.open() {
                Ok(database) => break database,
                Err(e) if !is_locked(&e) => return Err(convert(e)),
                Err(_) if Instant::now() > give_up => return Err(KvError::InUse(dir.to_owned())),
                Err(_) => std::thread::sleep(lock::RETRY),
            }
        };
        Ok(SledKv {
            database: Some(database),
            log: File::open(dir.join(LOG)).map_err(KvError::from_io)?,
            dir: dir.to_owned(),
            cache_bytes,
            applying: RwLock::new(()),
            refused: AtomicBool::new(false),
        })
    }

    fn database(&self) -> Result<&sled::Db, KvError> {
        self.database.as_ref().ok_or(KvError::Refused)
    }

    fn check(&self) -> Result<(), KvError> {
        if self.refused.load(Ordering::Acquire) { Err(KvError::Refused) } else { Ok(()) }
    }

    /// What is on the device is not known after an error: nothing is changed any more.
    fn or_refuse<T>(&self, outcome: Result<T, KvError>) -> Result<T, KvError> {
        if outcome.is_err() {
            self.refused.store(true, Ordering::Release);
        }
        outcome
    }

    /// On return a kill takes nothing away.
    fn flush(&self) -> Result<(), KvError> {
        let flushed = self.database()?.flush().map_err(convert);
        self.or_refuse(flushed.map(drop))
    }

    /// What sled leaves to the kernel and to the device: all of the log, and values beside it.
    fn sync_files(&self) -> std::io::Result<()> {
        self.log.sync_data()?;
        for blob in files_in(&self.dir.join(BLOBS))? {
            match File::open(blob) {
                // Replaced or deleted meanwhile.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                file => file?.sync_all()?,
            }
        }
        for dir in [self.dir.join(BLOBS), self.dir.clone()] {
            File::open(dir)?.sync_all()?;
        }
        Ok(())
    }
}

/// Removes what a kill has left of copies. Then, if they are in doubt, puts all that sled may read into new files (see `renew`).
fn renew_files(dir: &Path, are_in_doubt: bool) -> Result<(), KvError> {
    let Some(_lock) = lock::take(dir, LOG)? else { return Ok(()) };
    remove_halves(dir).map_err(KvError::from_io)?;
    if are_in_doubt { renew_all(dir).map_err(KvError::from_io) } else { Ok(()) }
}

fn remove_halves(dir: &Path) -> std::io::Result<()> {
    for path in files_in(dir)?.into_iter().chain(files_in(&dir.join(BLOBS))?).filter(|path| is_half(path)) {
        std::fs::remove_file(path)?;
    }
    Ok(())
}

fn renew_all(dir: &Path) -> std::io::Result<()> {
    let blobs = dir.join(BLOBS);
    let is_sleds = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        [LOG, "conf"].contains(&name) || name.starts_with("snap.")
    };
    let own = files_in(dir)?.into_iter().filter(is_sleds);
    for path in own.chain(files_in(&blobs)?) {
        renew(&path, path.metadata()?.len())?;
    }
    if blobs.is_dir() {
        File::open(&blobs)?.sync_all()?;
    }
    File::open(dir)?.sync_all()
}

/// Files in a directory, if there is one.
fn files_in(dir: &Path) -> std::io::Result<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(dir) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.is_file() {
            files.push(path);
        }
    }
    Ok(files)
}

impl Drop for SledKv {
    fn drop(&mut self) {
        let database = self.database.take();
        // sled panics when its last sync fails. What was acknowledged was flushed before; what a failed sync has left, the next opening sees to.
        if catch_unwind(AssertUnwindSafe(|| drop(database))).is_err() {
            tracing::warn!(dir = %self.dir.display(), "sled could not sync its log at the end");
        }
    }
}

impl Engine for SledKv {}

impl Kv for SledKv {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, KvError> {
        Ok(self.database()?.get(key).map_err(convert)?.map(Bytes::from_owner))
    }

    fn commit(&self, batch: Batch) -> Result<(), KvError> {
        self.check()?;
        let mut write = sled::Batch::default();
        for change in batch.changes() {
            match change {
                Change::Put { key, value } => write.insert(key, value),
                Change::Delete { key } => write.remove(key),
            }
        }
        {
            let _alone = self.applying.write();
            self.or_refuse(self.database()?.apply_batch(write).map_err(convert))?;
        }
        // Outside the lock, so that commits of several threads share a flush.
        self.flush()
    }

    fn scan(&self, from: &[u8], to: &[u8], visit: &mut ScanVisitor<'_>) -> Result<(), KvError> {
        if from >= to {
            return Ok(());
        }
        let _steady = self.applying.read();
        for pair in self.database()?.range(from..to) {
            let (key, value) = pair.map_err(convert)?;
            if visit(&key, &value).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn sync(&self) -> Result<(), KvError> {
        self.check()?;
        self.flush()?;
        self.or_refuse(self.sync_files().map_err(KvError::from_io))
    }

    fn disk_bytes(&self) -> u64 {
        self.database().ok().and_then(|database| database.size_on_disk().ok()).unwrap_or(0)
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
