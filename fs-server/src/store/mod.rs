//! The chunk store: pieces of files, kept in a log of segment files on a device of the node.
//!
//! A write of any size and alignment becomes one record at the log's end (`format`), written by one `pwritev`
//! outside all locks, small ones together with others (`group`, `gather`); an index (`index`, `shard`, `extent`) says where the bytes of each chunk are. Its rows are in the
//! key-value store (`rows`); what changed is saved now and then, and an opening reads the log from the last save on
//! (`save`, `recover`). Segments with little live data are emptied and unlinked in the background (`compact`).
//!
//! # Invariants
//! - A write is wholly there or not at all after a crash, and there once `write` returned if only processes died
//!   (`tests/store`: `killed_writers_lose_nothing`, `torn_tails_keep_every_whole_record`).
//! - What was synced survives loss of power; a later, torn write never hides it (`any_crash_leaves_what_was_durable`).
//! - Bytes are returned only after their CRC was verified (`tests/store`, `flipped_bits_are_never_returned`).
//! - What the index says and what a reopening would find are the same (`tests/store`, `behaves_like_the_model`).
//! - Deleted bytes never come back, whatever segments were unlinked; the argument is in `compact`
//!   (`tests/store`, `deleted_data_stays_deleted_through_compaction`,
//!   `a_tombstone_stays_while_what_it_hides_may_be_replayed`).
//! - Locks are taken in the order upkeep, save, shard of the index (one at a time), log, segment table. No data is read
//!   or written under any but the first two, rows under shards only as `index` says; files may be opened, and a new
//!   segment begun.
//!
//! Deliberately absent: copies on other servers, knowledge of files beyond their number.

mod compact;
mod crc_cache;
pub mod devices;
mod direct_io;
pub mod disk;
mod doubt;
mod engine;
mod extent;
pub mod format;
mod gather;
mod group;
mod index;
mod log;
mod merge;
mod reader;
mod recover;
mod rows;
mod save;
mod scan;
mod scrub;
mod segment;
mod shard;

pub use devices::Devices;
pub use direct_io::ChunkData;
pub use engine::{LogStore, open, open_on};
pub use format::BlockSums;
pub use group::ChunkWrite;
pub use reader::Compare;
pub use scrub::ScrubPage;

use crate::kv::KvError;
use fs_proto::ids::{ChunkIndex, InodeId};
use std::path::PathBuf;
use thiserror::Error;

/// Which chunk of which file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChunkKey {
    /// The file.
    pub ino: InodeId,
    /// The chunk's index within it.
    pub chunk: ChunkIndex,
}

/// Why the store failed: one variant per thing that a caller can do.
#[derive(Debug, Error)]
pub enum StoreError {
    /// The file system is full. Reads and deletes go on, and writes do again once space was freed.
    #[error("no space left in the chunk store")]
    NoSpace,
    /// A write or sync failed earlier: reads go on, changes are refused until the store is reopened.
    #[error("the chunk store refuses changes after a failed write; reopen it once the device is well")]
    Refused,
    /// Stored bytes do not match their checksum, or the device cannot read them.
    #[error("stored bytes of inode {:x} chunk {} do not match their checksum or cannot be read (segment {segment}, byte {byte})",
        .key.ino.0, .key.chunk.0)]
    Corrupt {
        /// Whose bytes.
        key: ChunkKey,
        /// Number of the segment file.
        segment: u32,
        /// Where in it the record begins.
        byte: u64,
    },
    /// Another process (or another handle) has the store open.
    #[error("the chunk store in {} is in use by another process", .0.display())]
    InUse(PathBuf),
    /// The directory holds something that is not a store of this version.
    #[error("{}: {why}", .path.display())]
    Foreign {
        /// The file that makes no sense.
        path: PathBuf,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The range is outside what a chunk can hold.
    #[error("range of {len} bytes at {offset} is outside of a chunk")]
    OutOfRange {
        /// First byte within the chunk.
        offset: u32,
        /// Length in bytes.
        len: usize,
    },
    /// The key-value store, which holds the index, failed.
    #[error("index of the chunk store: {0}")]
    Index(KvError),
    /// The operating system failed an operation.
    #[error("chunk store: {0}")]
    Io(#[from] std::io::Error),
}

impl From<KvError> for StoreError {
    fn from(error: KvError) -> Self {
        match error {
            KvError::NoSpace => StoreError::NoSpace,
            other => StoreError::Index(other),
        }
    }
}

/// What a store holds and takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StoreStats {
    /// Bytes of chunks that can be read.
    pub live_bytes: u64,
    /// Bytes of segment files.
    pub disk_bytes: u64,
    /// Chunks held.
    pub chunks: u64,
    /// Segment files.
    pub segments: u64,
    /// Size of the file system.
    pub total_bytes: u64,
    /// Free bytes of the file system.
    pub free_bytes: u64,
    /// Live bytes that compaction has copied since the store was opened.
    pub compacted_bytes: u64,
    /// Bytes written to segment files since the store was opened, frames, padding and copies included.
    pub written_bytes: u64,
    /// Bytes of memory that the index takes.
    pub index_bytes: u64,
    /// Times that the index was saved since the store was opened.
    pub index_saves: u64,
    /// Checksums that did not match since the store was opened.
    pub crc_failures: u64,
}

impl StoreStats {
    /// Of two stores together.
    #[must_use]
    pub fn plus(self, other: StoreStats) -> StoreStats {
        StoreStats {
            live_bytes: self.live_bytes + other.live_bytes,
            disk_bytes: self.disk_bytes + other.disk_bytes,
            chunks: self.chunks + other.chunks,
            segments: self.segments + other.segments,
            total_bytes: self.total_bytes + other.total_bytes,
            free_bytes: self.free_bytes + other.free_bytes,
            compacted_bytes: self.compacted_bytes + other.compacted_bytes,
            written_bytes: self.written_bytes + other.written_bytes,
            index_bytes: self.index_bytes + other.index_bytes,
            index_saves: self.index_saves + other.index_saves,
            crc_failures: self.crc_failures + other.crc_failures,
        }
    }
}

/// How segment files are read and written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum IoMode {
    /// Through the page cache.
    #[default]
    Buffered,
    /// Past it (`O_DIRECT`), by io_uring where requests come from workers.
    Direct,
}

impl std::str::FromStr for IoMode {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "buffered" => Ok(IoMode::Buffered),
            "direct" => Ok(IoMode::Direct),
            other => Err(format!("I/O is `buffered` or `direct`, not `{other}`")),
        }
    }
}

impl std::fmt::Display for IoMode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            IoMode::Buffered => "buffered",
            IoMode::Direct => "direct",
        })
    }
}

/// How a store is kept.
#[derive(Debug, Clone)]
pub struct StoreOptions {
    /// Size of a segment file in bytes. Smaller on file systems below 32 times that.
    pub segment_bytes: u64,
    /// Bytes of the file system that writes leave free, for deletes and compaction. At most a sixteenth of it.
    pub reserve_bytes: u64,
    /// Most bytes of segment files; None: as many as the file system takes.
    pub capacity_bytes: Option<u64>,
    /// Bytes of memory for the block checksums of records that were read.
    pub crc_cache_bytes: u64,
    /// Bytes of memory for the index: chunks in use, and those not saved yet.
    pub index_bytes: u64,
    /// Which of a server's devices it is: tells its rows in the key-value store apart.
    pub device: u8,
    /// How segment files are read and written.
    pub io: IoMode,
    /// Segment files kept open.
    pub max_open_files: usize,
    /// Identity of the running kernel; `None` asks it. What another boot has written may be torn although its end is
    /// there, so its unsynced part is verified when the store is opened.
    pub boot_id: Option<u128>,
}

impl Default for StoreOptions {
    fn default() -> Self {
        StoreOptions {
            segment_bytes: 64 << 20,
            reserve_bytes: 256 << 20,
            capacity_bytes: None,
            crc_cache_bytes: 8 << 20,
            index_bytes: 32 << 20,
            device: 0,
            io: IoMode::Buffered,
            max_open_files: 512,
            boot_id: None,
        }
    }
}

/// The port of the chunk store. Shared by threads; calls block for as long as the device needs.
pub trait ChunkStore: Send + Sync {
    /// Puts `data` at `offset` of a chunk, wholly or not at all.
    fn write(&self, key: ChunkKey, offset: u32, data: &[u8]) -> Result<(), StoreError>;
    /// Fills `out` from `offset` of a chunk, zeros in holes. Returns the bytes that lie before the chunk's end: fewer
    /// than `out` holds if it ends earlier, 0 if there is no such chunk. The rest of `out` is unspecified.
    fn read(&self, key: ChunkKey, offset: u32, out: &mut [u8]) -> Result<usize, StoreError>;
    /// Cuts `chunk` to `keep_bytes`, and drops all later chunks of the inode that are held here.
    fn truncate(&self, ino: InodeId, chunk: ChunkIndex, keep_bytes: u32) -> Result<(), StoreError>;
    /// Makes a hole of `len` bytes at `offset` of a chunk. The chunk's end may come before it then.
    fn punch(&self, key: ChunkKey, offset: u32, len: u32) -> Result<(), StoreError>;
    /// Whether anything of a chunk is held here.
    fn holds(&self, key: ChunkKey) -> Result<bool, StoreError>;
    /// Where a chunk has data, ascending; what is between is holes.
    fn ranges(&self, key: ChunkKey) -> Result<Vec<std::ops::Range<u32>>, StoreError>;
    /// Drops all chunks of `inos`.
    fn remove(&self, inos: &[InodeId]) -> Result<(), StoreError>;
    /// Up to `limit` chunks of an inode from `from` on that are held here, ascending, each with its end (the byte after its
    /// last). Costs what it returns, not what the file has.
    fn chunks_from(
        &self,
        ino: InodeId,
        from: ChunkIndex,
        limit: usize,
    ) -> Result<Vec<(ChunkIndex, u32)>, StoreError>;
    /// All chunks of an inode that are held here.
    fn chunks(&self, ino: InodeId) -> Result<Vec<(ChunkIndex, u32)>, StoreError> {
        self.chunks_from(ino, ChunkIndex(0), usize::MAX)
    }
    /// On return every change that had returned before the call survives loss of power.
    fn sync(&self) -> Result<(), StoreError>;
    /// What it holds and takes now.
    fn stats(&self) -> StoreStats;
    /// Bytes of memory of its index and of cached checksums. Cheap, as [`ChunkStore::stats`] is not.
    fn index_bytes(&self) -> u64;
}
