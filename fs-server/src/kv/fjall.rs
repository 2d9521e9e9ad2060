//! fjall behind the port: a log-structured merge tree with a journal.
//!
//! Its journal is buffered in the process, so every batch asks for `PersistMode::Buffer`: one `write` to the kernel.
//! A failed journal write poisons the database until it is reopened, also after ENOSPC.
//!
//! Blocks of tables carry checksums that fjall compares at every read from the device. What it does not compare is
//! compared here before it opens: `manifest.rs`, `journal.rs`. There the journals are also put into new files: fjall replays them and
//! goes on to promise what is in them without knowing whether a sync of them has failed before.

mod journal;
mod manifest;

use super::fence::Past;
use super::guard::Engine;
use super::lock;
use super::{Batch, Change, Kv, KvError, ScanVisitor};
use bytes::Bytes;
use fjall::config::{BlockSizePolicy, PinningPolicy};
use fjall::{AbstractTree as _, Database, Keyspace, KeyspaceCreateOptions, PersistMode, Readable};
use parking_lot::Mutex;
use std::error::Error as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

/// The engine seals a memtable and goes on with the next; it halts writers when four are sealed.
const MEMTABLES: u64 = 5;
const MEMTABLE_BYTES: std::ops::RangeInclusive<u64> = 1 << 20..=16 << 20;
/// The smallest bound that the engine takes for its journals.
const JOURNAL_BYTES: u64 = 128 << 20;
/// What a merge of tables takes until its inputs go, at most: four tables of the first level, and what they overlap.
const MERGE_BYTES: u64 = 512 << 20;
/// Blocks of tables by level, the last of all levels below: what was written lately is read in order soon, by flushing; what is deeper by itself, mostly.
const BLOCK_BYTES: [u32; 3] = [16 << 10, 16 << 10, 4 << 10];
/// One flushes, one merges. With a second that merges, fjall 3.1 may halt writers for ever: what asks for a merge comes with flushes
/// only, and is dropped while another merge is under way; when that ends with too many tables, nobody flushes any more.
const WORKERS: usize = 2;

/// How fjall is set up. Those that [`FjallOptions::within`] makes are what a server uses; others are for measuring.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FjallOptions {
    /// Blocks of tables in memory, in bytes.
    pub block_cache_bytes: u64,
    /// A memtable is sealed when it has this many bytes.
    pub memtable_bytes: u64,
    /// Whether filters and indexes of the first levels stay in memory, outside of the cache.
    pub pins: bool,
    /// Whether filters and indexes of all levels are cut into blocks that are cached one by one.
    pub partitions: bool,
}

impl FjallOptions {
    /// What a server uses with `cache_bytes` for caches and write buffers together.
    pub fn within(cache_bytes: u64) -> Self {
        FjallOptions {
            // Half for blocks that are read, half for memtables: creates and deletes are as common as look-ups.
            block_cache_bytes: cache_bytes / 2,
            memtable_bytes: (cache_bytes / 2 / MEMTABLES)
                .clamp(*MEMTABLE_BYTES.start(), *MEMTABLE_BYTES.end()),
            // Pinned indexes were 2 MiB a million files, whatever the cache; in parts they are cached like all blocks.
            pins: false,
            partitions: true,
        }
    }

    fn of_tree(&self) -> KeyspaceCreateOptions {
        let options = KeyspaceCreateOptions::default()
            .max_memtable_size(self.memtable_bytes)
            .data_block_size_policy(BlockSizePolicy::new(BLOCK_BYTES));
        let options = if self.pins {
            options
        } else {
            options
                .filter_block_pinning_policy(PinningPolicy::disabled())
                .index_block_pinning_policy(PinningPolicy::disabled())
        };
        if self.partitions {
            options
                .filter_block_partitioning_policy(PinningPolicy::all(true))
                .index_block_partitioning_policy(PinningPolicy::all(true))
        } else {
            options
        }
    }
}

pub(super) struct FjallKv {
    database: Database,
    tree: Keyspace,
    memtable_bytes: u64,
    rotating: Mutex<()>,
    dir: PathBuf,
}

impl FjallKv {
    pub(super) fn open(dir: &Path, options: &FjallOptions) -> Result<Self, KvError> {
        check_files(dir)?;
        // Meeting what makes no sense, fjall panics here and there.
        catch_unwind(AssertUnwindSafe(|| FjallKv::open_checked(dir, options)))
            .unwrap_or_else(|_| Err(KvError::Corrupt(format!("{} cannot be opened", dir.display()))))
    }

    fn open_checked(dir: &Path, options: &FjallOptions) -> Result<Self, KvError> {
        let lift = |e| convert_open(e, dir);
        let database = Database::builder(dir)
            .cache_size(options.block_cache_bytes)
            .max_journaling_size(JOURNAL_BYTES)
            .journal_compression(fjall::CompressionType::None)
            .worker_threads(WORKERS)
            .open()
            .map_err(lift)?;
        let tree = database.keyspace("namespace", || options.of_tree()).map_err(lift)?;
        let (memtable_bytes, rotating) = (options.memtable_bytes, Mutex::new(()));
        Ok(FjallKv { database, tree, memtable_bytes, rotating, dir: dir.to_owned() })
    }

    /// Seals a memtable that is full. fjall leaves that to its workers; while these flushed and merged, the memtable was seen to
    /// grow to 113 MiB where 6 were asked for. Sealed at once, it is the count of sealed ones that halts writers.
    ///
    /// Who seals may be held up by the workers for seconds. The others go on meanwhile until there is a second memtable's worth, and
    /// then wait for it: without that it grew to 393 MiB.
    fn seal_if_full(&self) {
        let size = || self.tree.tree.active_memtable().size();
        let now = size();
        if now <= self.memtable_bytes {
            return;
        }
        let alone =
            if now > 2 * self.memtable_bytes { Some(self.rotating.lock()) } else { self.rotating.try_lock() };
        if alone.is_some() && size() > self.memtable_bytes {
            // The batch is committed, so its caller must not hear of this: a failed write poisons, and the next commit tells.
            let _ = self.tree.rotate_memtable();
        }
    }
}

/// Undoes what an opening has changed before it was refused.
pub(super) fn put_back(dir: &Path) {
    if let Err(error) = journal::put_back(dir) {
        tracing::warn!(%error, dir = %dir.display(), "the last journal stays under another name until the next opening");
    }
}

/// Compares what fjall does not, and brings the journals to the device. The lock is held meanwhile: a journal that is being written looks torn.
fn check_files(dir: &Path) -> Result<(), KvError> {
    let Some(_lock) = lock::take(dir, "lock")? else { return Ok(()) };
    manifest::check(dir)?;
    journal::settle(dir, &Past::read(dir)?)
}

impl Engine for FjallKv {
    fn position(&self) -> u64 {
        self.database.seqno()
    }

    fn accept(&self) -> Result<(), KvError> {
        journal::accept(&self.dir)
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
        write.commit().map_err(convert)?;
        self.seal_if_full();
        Ok(())
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

    fn disk_bytes(&self) -> u64 {
        // Only a poisoned lock makes this fail; a gauge need not.
        self.database.disk_space().unwrap_or(0)
    }

    /// A flush or merge that meets the end of the space poisons, as a commit does, so there must be room for both.
    fn owed_bytes(&self) -> u64 {
        self.database.write_buffer_size() + self.tree.tree.disk_space().min(MERGE_BYTES)
    }

    fn memory_bytes(&self) -> u64 {
        self.database.cache_size() + self.database.write_buffer_size()
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
