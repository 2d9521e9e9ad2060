//! The store itself: each operation of the port as reserve, write, enter into the index.

use super::compact::{self, Upkeep};
use super::crc_cache::{self, CrcCache};
use super::device;
use super::extent::{Extent, Place, overlapping};
use super::format::{self, Kind, MAX_CHUNK_BYTES, MAX_REMOVED, STORE_FILE_BYTES};
use super::index::{Deletion, Index};
use super::log::{Limits, Log, Purpose, Request, Ticket};
use super::merge;
use super::reader::{Fault, Source};
use super::recover;
use super::segment::Segments;
use super::{ChunkKey, ChunkStore, StoreError, StoreOptions, StoreStats};
use fs_proto::checksum::crc;
use fs_proto::ids::{ChunkIndex, InodeId};
use rustix::fs::FlockOperation;
use std::fs::{File, OpenOptions};
use std::io::IoSlice;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::thread::JoinHandle;

/// What the operations, the merging of extents and the upkeep thread share.
pub(super) struct Core {
    pub log: Log,
    pub index: Index,
    pub cache: CrcCache,
    pub upkeep: Upkeep,
    crc_failures: AtomicU64,
    dead_bytes: AtomicU64,
    /// Sum over the index. The segments' own counts do not add up to it while content moves between them.
    live_bytes: AtomicI64,
}

/// A chunk store in a directory.
pub struct LogStore {
    core: Arc<Core>,
    thread: Option<JoinHandle<()>>,
    /// Carries the lock on the directory.
    lock: File,
}

/// Opens, or creates, the store in `dir` and begins its upkeep.
pub fn open(dir: &Path, options: StoreOptions) -> Result<Arc<LogStore>, StoreError> {
    std::fs::create_dir_all(dir)?;
    let (lock, store_id) = lock_store(dir)?;
    let (total_bytes, _) = device::space(dir)?;
    let limits = Limits {
        store_id,
        boot_id: options.boot_id.unwrap_or_else(device::boot_id),
        segment_bytes: options.segment_bytes.min(total_bytes / 32).max(64 << 10),
        reserve_bytes: options.reserve_bytes.min(total_bytes / 16),
    };
    let segments = Segments::new(dir, options.max_open_files);
    let index = Index::new();
    let recovered = recover::recover(&limits, &segments, &index)?;
    let live_bytes: u64 = segments.all().iter().map(|s| s.live_bytes()).sum();
    let core = Arc::new(Core {
        log: Log::new(limits, segments, recovered.resume),
        index,
        cache: crc_cache::new(options.crc_cache_bytes),
        upkeep: Upkeep::default(),
        crc_failures: AtomicU64::new(recovered.damage),
        dead_bytes: AtomicU64::new(0),
        live_bytes: AtomicI64::new(live_bytes as i64),
    });
    let worker = core.clone();
    let thread =
        std::thread::Builder::new().name("store-upkeep".into()).spawn(move || compact::run(&worker))?;
    core.log.wake.notify();
    Ok(Arc::new(LogStore { core, thread: Some(thread), lock }))
}

/// Locks the directory; gives a new store its identity.
fn lock_store(dir: &Path) -> Result<(File, u64), StoreError> {
    let path = dir.join("store");
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path)?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Err(rustix::io::Errno::WOULDBLOCK) => return Err(StoreError::InUse(dir.to_owned())),
        other => other.map_err(std::io::Error::from)?,
    }
    let mut bytes = vec![0; file.metadata()?.len().min(2 * STORE_FILE_BYTES as u64) as usize];
    device::read_padded(&file, &mut bytes, 0)?;
    if !bytes.is_empty() {
        let store_id = format::decode_store_file(&bytes).map_err(|why| StoreError::Foreign { path, why })?;
        return Ok((file, store_id));
    }
    if !Segments::list_files(dir)?.is_empty() {
        return Err(StoreError::Foreign {
            path,
            why: "the store's identity is missing, but its segments are there",
        });
    }
    let store_id = rand::random();
    device::write_all_at(&file, &mut [IoSlice::new(&format::encode_store_file(store_id))], 0)
        .map_err(device::lift)?;
    file.sync_all()?;
    device::sync_dir(dir)?;
    Ok((file, store_id))
}

impl Core {
    /// Books live bytes that a segment gained or lost by a change of content.
    fn book(&self, segment: u32, bytes: i64) {
        self.live_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.book_move(segment, bytes);
    }

    /// Books live bytes of a segment; wakes the upkeep now and then if bytes die.
    pub fn book_move(&self, segment: u32, bytes: i64) {
        self.log.segments.book(segment, bytes);
        if bytes >= 0 {
            return;
        }
        let dead = self.dead_bytes.fetch_add(bytes.unsigned_abs(), Ordering::Relaxed) + bytes.unsigned_abs();
        if dead > self.log.limits.segment_bytes / 4 {
            self.dead_bytes.store(0, Ordering::Relaxed);
            self.log.wake.notify();
        }
    }

    /// Reads an extent's part into `out`, verified.
    pub fn read_extent(
        &self,
        key: ChunkKey,
        file: &File,
        extent: &Extent,
        out: &mut [u8],
    ) -> Result<(), StoreError> {
        let source = Source { file, place: extent.place, store_id: self.log.limits.store_id };
        source.read(&self.cache, extent.start, out).map_err(|fault| match fault {
            Fault::Io(error) => StoreError::Io(error),
            Fault::Corrupt => {
                self.crc_failures.fetch_add(1, Ordering::Relaxed);
                let at = extent.place.position();
                StoreError::Corrupt { key, segment: at.segment, byte: at.byte() }
            }
        })
    }

    /// A place for data. If the file system is full, dead segments are removed first; by this thread or by another that
    /// was before it, so it is tried again in any case.
    fn reserve_data(&self, request: &Request) -> Result<Ticket<'_>, StoreError> {
        match self.log.reserve(request) {
            Err(StoreError::NoSpace) => {
                compact::make_room(self)?;
                self.log.reserve(request)
            }
            other => other,
        }
    }

    fn write(&self, key: ChunkKey, offset: u32, data: &[u8]) -> Result<(), StoreError> {
        let table = format::block_table(offset, data);
        let request = Request {
            kind: Kind::Data,
            key,
            offset,
            data_bytes: data.len() as u32,
            table_crc: crc(&table),
            purpose: Purpose::Data,
            shard: Index::shard_of(key.ino),
            sequence: None,
        };
        let ticket = self.reserve_data(&request)?;
        ticket.write(&table, data)?;
        let new = Extent::whole(ticket.header.sequence, place_of(&ticket));
        let mut shard = self.index.write(key.ino);
        let extents = self.index.insert(&mut shard, key, new, &mut |id, bytes| self.book(id, bytes));
        drop(shard);
        drop(ticket);
        if extents > merge::MANY_EXTENTS {
            merge::merge(self, key);
        }
        Ok(())
    }

    /// Writes a tombstone, whose place was given out under the shard's lock, and applies it.
    fn delete(&self, ticket: &Ticket, data: &[u8], cuts: &[(ChunkKey, u32)]) -> Result<(), StoreError> {
        ticket.write(&format::block_table(0, data), data)?;
        let oldest = self.log.oldest_under_way();
        let Some((first, _)) = cuts.first() else { return Ok(()) };
        let mut shard = self.index.write(first.ino);
        for (key, keep) in cuts {
            let deletion =
                Deletion { ino: key.ino, chunk: key.chunk, keep: *keep, sequence: ticket.header.sequence };
            self.index.delete(&mut shard, deletion, oldest, &mut |id, bytes| self.book(id, bytes));
        }
        Ok(())
    }

    fn truncate(&self, key: ChunkKey, keep: u32) -> Result<(), StoreError> {
        let shard = self.index.read(key.ino);
        if !shard.has_from(key.ino, key.chunk, keep) {
            return self.log.check();
        }
        let request = deletion_request(Kind::Truncate, key, keep, &[]);
        let ticket = self.log.reserve(&request)?;
        drop(shard);
        self.delete(&ticket, &[], &[(key, keep)])
    }

    /// Removes inodes of one shard.
    fn remove_some(&self, inos: &[InodeId]) -> Result<(), StoreError> {
        let Some(first) = inos.first() else { return Ok(()) };
        let shard = self.index.read(*first);
        let held = inos.iter().filter(|ino| shard.has_from(**ino, ChunkIndex(0), 0));
        let cuts: Vec<_> = held.map(|ino| (ChunkKey { ino: *ino, chunk: ChunkIndex(0) }, 0)).collect();
        let Some((key, _)) = cuts.first() else { return self.log.check() };
        let list: Vec<u8> = cuts.iter().flat_map(|(key, _)| key.ino.0.to_le_bytes()).collect();
        let ticket = self.log.reserve(&deletion_request(Kind::Remove, *key, 0, &list))?;
        drop(shard);
        self.delete(&ticket, &list, &cuts)
    }
}

/// The place of a reserved record.
pub(super) fn place_of(ticket: &Ticket) -> Place {
    Place { segment: ticket.header.at.segment, shape: ticket.header.shape() }
}

fn deletion_request(kind: Kind, key: ChunkKey, offset: u32, data: &[u8]) -> Request {
    Request {
        kind,
        key,
        offset,
        data_bytes: data.len() as u32,
        table_crc: crc(&format::block_table(0, data)),
        purpose: Purpose::Upkeep,
        shard: Index::shard_of(key.ino),
        sequence: None,
    }
}

fn check_range(offset: u32, len: usize) -> Result<(), StoreError> {
    let is_inside = offset as usize + len <= MAX_CHUNK_BYTES as usize;
    if is_inside { Ok(()) } else { Err(StoreError::OutOfRange { offset, len }) }
}

impl ChunkStore for LogStore {
    fn write(&self, key: ChunkKey, offset: u32, data: &[u8]) -> Result<(), StoreError> {
        check_range(offset, data.len())?;
        if data.is_empty() { self.core.log.check() } else { self.core.write(key, offset, data) }
    }

    fn read(&self, key: ChunkKey, offset: u32, out: &mut [u8]) -> Result<usize, StoreError> {
        let mut pieces: Vec<(Extent, Arc<File>)> = Vec::new();
        let shard = self.core.index.read(key.ino);
        let extents = shard.extents(key);
        let chunk_end = extents.last().map_or(0, |e| e.end);
        let end = u64::from(chunk_end).min(u64::from(offset) + out.len() as u64) as u32;
        if end <= offset {
            return Ok(0);
        }
        for extent in &extents[overlapping(extents, offset, end)] {
            let file = match pieces.last() {
                Some((last, file)) if last.place.segment == extent.place.segment => file.clone(),
                _ => self.core.log.segments.file(extent.place.segment)?,
            };
            pieces.push((extent.clip(offset, end), file));
        }
        drop(shard);
        let mut cursor = offset;
        for (extent, file) in &pieces {
            out[(cursor - offset) as usize..(extent.start - offset) as usize].fill(0);
            let part = &mut out[(extent.start - offset) as usize..(extent.end - offset) as usize];
            self.core.read_extent(key, file, extent, part)?;
            cursor = extent.end;
        }
        out[(cursor - offset) as usize..(end - offset) as usize].fill(0);
        Ok((end - offset) as usize)
    }

    fn truncate(&self, ino: InodeId, chunk: ChunkIndex, keep_bytes: u32) -> Result<(), StoreError> {
        check_range(keep_bytes, 0)?;
        self.core.truncate(ChunkKey { ino, chunk }, keep_bytes)
    }

    fn remove(&self, inos: &[InodeId]) -> Result<(), StoreError> {
        self.core.log.check()?;
        let mut sorted = inos.to_vec();
        sorted.sort_unstable_by_key(|ino| (Index::shard_of(*ino), *ino));
        sorted.dedup();
        for group in sorted.chunk_by(|a, b| Index::shard_of(*a) == Index::shard_of(*b)) {
            group.chunks(MAX_REMOVED).try_for_each(|some| self.core.remove_some(some))?;
        }
        Ok(())
    }

    fn chunks(&self, ino: InodeId) -> Result<Vec<(ChunkIndex, u32)>, StoreError> {
        Ok(self.core.index.read(ino).chunks_of(ino).collect())
    }

    fn sync(&self) -> Result<(), StoreError> {
        self.core.log.sync()
    }

    fn stats(&self) -> StoreStats {
        let segments = self.core.log.segments.all();
        // Gauges: an unreadable file system shows as full, and the operations tell the error.
        let (total_bytes, free_bytes) = device::space(self.core.log.segments.dir()).unwrap_or_default();
        StoreStats {
            live_bytes: self.core.live_bytes.load(Ordering::Relaxed).max(0) as u64,
            disk_bytes: segments.iter().map(|s| s.used_bytes()).sum(),
            chunks: self.core.index.chunk_count(),
            segments: segments.len() as u64,
            total_bytes,
            free_bytes,
            compacted_bytes: self.core.upkeep.compacted_bytes(),
            crc_failures: self.core.crc_failures.load(Ordering::Relaxed),
        }
    }
}

impl LogStore {
    /// Empties sparse segments and removes dead ones now, in this thread, as the upkeep thread does by itself.
    pub fn compact(&self) -> Result<(), StoreError> {
        compact::pass(&self.core, compact::SPARSE_PERCENT).map(drop)
    }
}

impl Drop for LogStore {
    fn drop(&mut self) {
        self.core.upkeep.stop();
        self.core.log.wake.notify();
        if self.thread.take().is_some_and(|t| t.join().is_err()) {
            tracing::error!("the upkeep thread of the chunk store panicked");
        }
        self.core.log.close();
        // Closing is not enough: a process that is being forked elsewhere holds the descriptor a moment longer.
        if let Err(error) = rustix::fs::flock(&self.lock, FlockOperation::Unlock) {
            tracing::warn!(%error, "cannot unlock the chunk store");
        }
    }
}
