//! The store itself: each operation of the port as reserve, write, enter into the index.

use super::compact::{self, Eagerness, Upkeep};
use super::crc_cache::{self, CrcCache, Sums};
use super::disk::buffered::{self, BufferedDisk};
use super::disk::direct::{self, DirectDisk};
use super::disk::{self, Disk, SegmentFile};
use super::extent::{Extent, Place, overlapping};
use super::format::{self, BlockSums, Kind, MAX_CHUNK_BYTES, MAX_REMOVED, STORE_FILE_BYTES, UNIT_BYTES};
use super::index::Index;
use super::log::{Limits, Log, Purpose, Request, Ticket};
use super::merge;
use super::reader::{Compare, Fault, Source};
use super::recover;
use super::rows::Keys;
use super::save::Saver;
use super::segment::Segments;
use super::shard::{Deletion, Reach};
use super::{ChunkKey, ChunkStore, IoMode, StoreError, StoreOptions, StoreStats};
use crate::kv::Kv;
use fs_proto::checksum::{combine, crc};
use fs_proto::ids::{ChunkIndex, InodeId};
use rustix::fs::FlockOperation;
use smallvec::SmallVec;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::thread::JoinHandle;

/// From this length on a record's block sums are kept when it is written: for shorter ones a read finds them beside the data.
const KEPT_SUMS_FROM: u32 = 64 << 10;

/// What the operations, the merging of extents and the upkeep thread share.
pub(super) struct Core {
    pub log: Log,
    pub index: Index,
    pub saver: Saver,
    pub cache: CrcCache,
    pub upkeep: Upkeep,
    /// Whether segment files are read and written past the page cache.
    pub is_direct: bool,
    crc_failures: AtomicU64,
    dead_bytes: AtomicU64,
    /// Sum over the index. The segments' own counts do not add up to it while content moves between them.
    live_bytes: AtomicI64,
}

/// A chunk store on one device.
pub struct LogStore {
    core: Arc<Core>,
    thread: Option<JoinHandle<()>>,
    /// Carries the lock on the directory, where there is one.
    lock: Option<File>,
    is_abandoned: bool,
}

/// Opens, or creates, the store in `dir`, with its index in `kv`, and begins its upkeep. Where the file system does not
/// take direct I/O, a store that should use it goes through the page cache, and says so.
pub fn open(dir: &Path, kv: Arc<dyn Kv>, options: StoreOptions) -> Result<Arc<LogStore>, StoreError> {
    std::fs::create_dir_all(dir)?;
    let (lock, store_id) = lock_store(dir)?;
    let direct = match options.io {
        IoMode::Buffered => None,
        IoMode::Direct => DirectDisk::new(dir).inspect_err(|error| no_direct_io(dir, error)).ok(),
    };
    let mut store = match direct {
        Some(disk) => open_with(Arc::new(disk), true, store_id, kv, &options)?,
        None => open_with(Arc::new(BufferedDisk::new(dir)), false, store_id, kv, &options)?,
    };
    store.lock = Some(lock);
    Ok(Arc::new(store))
}

fn no_direct_io(dir: &Path, error: &std::io::Error) {
    tracing::warn!(
        dir = %dir.display(), %error,
        "no direct I/O here: the chunk store uses the page cache; choose another file system, or --io buffered"
    );
}

/// As [`open`], on a disk of the caller's choice whose store has the identity `store_id`. In direct mode records are laid
/// out for it, whatever the disk is.
pub fn open_on(
    disk: Arc<dyn Disk>,
    store_id: u64,
    kv: Arc<dyn Kv>,
    options: StoreOptions,
) -> Result<LogStore, StoreError> {
    open_with(disk, options.io == IoMode::Direct, store_id, kv, &options)
}

fn open_with(
    disk: Arc<dyn Disk>,
    is_direct: bool,
    store_id: u64,
    kv: Arc<dyn Kv>,
    options: &StoreOptions,
) -> Result<LogStore, StoreError> {
    let total_bytes = disk.space()?.0.min(options.capacity_bytes.unwrap_or(u64::MAX));
    let limits = Limits {
        store_id,
        boot_id: options.boot_id.unwrap_or_else(crate::boot::boot_id),
        segment_bytes: options.segment_bytes.min(total_bytes / 32).max(64 << 10),
        reserve_bytes: options.reserve_bytes.min(total_bytes / 16),
        align: if is_direct { direct::ALIGN as u32 } else { UNIT_BYTES as u32 },
    };
    let keys = Keys { device: options.device };
    let (saver, saved) = Saver::open(Arc::clone(&kv), keys, store_id)?;
    // The key-value store is with the first.
    let beside = (options.device == 0).then(|| Arc::clone(&kv));
    let segments = Segments::new(disk, options.max_open_files).within(options.capacity_bytes).beside(beside);
    let index = Index::new(kv, keys, options.index_bytes, saved.checkpoint.chunks);
    let recovered = recover::recover(&limits, &segments, &index, &saver, saved)?;
    let live_bytes: u64 = segments.all().iter().map(|s| s.live_bytes()).sum();
    let core = Arc::new(Core {
        log: Log::new(limits, segments, recovered.resume),
        index,
        saver,
        cache: crc_cache::new(options.crc_cache_bytes),
        upkeep: Upkeep::default(),
        is_direct,
        crc_failures: AtomicU64::new(recovered.damage),
        dead_bytes: AtomicU64::new(0),
        live_bytes: AtomicI64::new(live_bytes as i64),
    });
    let worker = core.clone();
    let thread =
        std::thread::Builder::new().name("store-upkeep".into()).spawn(move || compact::run(&worker))?;
    core.log.wake.notify();
    Ok(LogStore { core, thread: Some(thread), lock: None, is_abandoned: false })
}

/// The identity of the store in `dir`; a new one gets one.
pub(super) fn peek_store_id(dir: &Path) -> Result<u64, StoreError> {
    let (lock, store_id) = lock_store(dir)?;
    rustix::fs::flock(&lock, FlockOperation::Unlock).map_err(std::io::Error::from)?;
    Ok(store_id)
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
    disk::read_padded(&file, &mut bytes, 0)?;
    let has_segments = !buffered::list(dir)?.is_empty();
    if bytes.is_empty() && has_segments {
        return Err(StoreError::Foreign {
            path,
            why: "the store's identity is missing, but its segments are there",
        });
    }
    let store_id = if bytes.is_empty() {
        rand::random()
    } else {
        format::decode_store_file(&bytes).map_err(|why| StoreError::Foreign { path, why })?
    };
    if !has_segments {
        // Also if it is there: whoever made it may have been killed before it was synced, or its sync failed.
        file.write_all_at(&format::encode_store_file(store_id), 0).map_err(disk::lift)?;
        file.sync_all()?;
        buffered::sync_dir(dir)?;
    }
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

    /// The record that holds an extent.
    pub fn source<'a>(&self, file: &'a dyn SegmentFile, extent: &Extent) -> Source<'a> {
        Source { file, place: extent.place, store_id: self.log.limits.store_id }
    }

    /// Reads an extent's part into `out`. Returns its CRC.
    pub fn read_extent(
        &self,
        key: ChunkKey,
        (extent, file): (&Extent, &dyn SegmentFile),
        out: &mut [u8],
        compare: Compare,
    ) -> Result<u32, StoreError> {
        self.source(file, extent)
            .read(&self.cache, extent.start, out, compare)
            .map_err(|fault| self.unread(key, extent, fault))
    }

    /// The error that a fault is to who reads. Counts damage.
    pub fn unread(&self, key: ChunkKey, extent: &Extent, fault: Fault) -> StoreError {
        match fault {
            Fault::Io(error) => StoreError::Io(error),
            Fault::Corrupt => self.corrupt(key, extent),
        }
    }

    /// As [`ChunkStore::read`], with the CRC of what was read.
    pub fn read(
        &self,
        key: ChunkKey,
        offset: u32,
        out: &mut [u8],
        compare: Compare,
    ) -> Result<(usize, u32), StoreError> {
        let Some((range, pieces)) = read_range(self, key, offset, out.len())? else { return Ok((0, 0)) };
        let mut made = Made::new(&mut out[..range.len()]);
        for (extent, file) in &pieces {
            made.skip_to((extent.start - offset) as usize);
            made.fill((extent.end - extent.start) as usize, |part| {
                self.read_extent(key, (extent, &**file), part, compare)
            })?;
        }
        made.skip_to(range.len());
        Ok((range.len(), made.sum))
    }

    /// Counts damage.
    pub fn corrupt(&self, key: ChunkKey, extent: &Extent) -> StoreError {
        self.crc_failures.fetch_add(1, Ordering::Relaxed);
        let at = extent.place.position();
        StoreError::Corrupt { key, segment: at.segment, byte: at.byte() }
    }

    /// A place for data. If the file system is full, dead segments are removed first; by this thread or by another that
    /// was before it, so it is tried again in any case.
    pub fn reserve_data(&self, request: &Request) -> Result<Ticket<'_>, StoreError> {
        match self.log.reserve(request) {
            Err(StoreError::NoSpace) => {
                compact::make_room(self)?;
                self.log.reserve(request)
            }
            other => other,
        }
    }

    /// Writes a record on its own, by a call that blocks.
    pub fn write(&self, key: ChunkKey, offset: u32, data: &[u8], sums: &BlockSums) -> Result<(), StoreError> {
        let ticket = self.reserve_data(&data_request(key, offset, data.len(), sums.table()))?;
        ticket.write(sums.table(), data)?;
        self.enter(key, ticket, sums)
    }

    /// Enters a record that was written into the index.
    pub fn enter(&self, key: ChunkKey, ticket: Ticket<'_>, sums: &BlockSums) -> Result<(), StoreError> {
        if ticket.header.data_bytes >= KEPT_SUMS_FROM {
            self.cache.insert(ticket.header.at, Sums::of(sums));
        }
        let new = Extent::whole(ticket.header.sequence, place_of(&ticket));
        let extents = self.index.edit(key)?.insert(new, &mut |id, bytes| self.book(id, bytes));
        drop(ticket);
        if extents > merge::MANY_EXTENTS {
            merge::merge(self, key);
        }
        self.relieve()
    }

    /// After a change: has the index saved once that is due, and waits for it only when memory is used up.
    fn relieve(&self) -> Result<(), StoreError> {
        if self.index.is_overfull() {
            return self.saver.save(&self.log, &self.index);
        }
        if self.saver.is_due(self.log.written(), &self.index) {
            self.log.wake.notify();
        }
        Ok(())
    }

    /// For the upkeep: saves the index if that is due.
    pub fn save_if_due(&self) -> Result<(), StoreError> {
        if !self.saver.is_due(self.log.written(), &self.index) {
            return Ok(());
        }
        self.saver.save(&self.log, &self.index)
    }

    /// Writes a tombstone, whose place was given out under the shard's lock, and applies it.
    fn delete(&self, ticket: &Ticket, data: &[u8], deletions: &[Deletion]) -> Result<(), StoreError> {
        ticket.write(BlockSums::of(0, data).table(), data)?;
        let oldest = self.log.oldest_under_way();
        for deletion in deletions {
            let deletion = Deletion { sequence: ticket.header.sequence, ..*deletion };
            let book = &mut |id, bytes| self.book(id, bytes);
            self.index.delete(&deletion, oldest, book, &mut || self.relieve())?;
        }
        Ok(())
    }

    /// Cuts a file, or punches a hole.
    fn cut(&self, kind: Kind, deletion: Deletion) -> Result<(), StoreError> {
        let shard = self.index.hold(deletion.ino);
        if !self.index.has_any(&shard, &deletion)? {
            return self.log.check();
        }
        let key = ChunkKey { ino: deletion.ino, chunk: deletion.chunk };
        let request = Request {
            data_bytes: match deletion.reach {
                Reach::Byte(to) => to - deletion.from,
                Reach::End => 0,
            },
            ..deletion_request(kind, key, deletion.from, &[])
        };
        let ticket = self.log.reserve(&request)?;
        drop(shard);
        self.delete(&ticket, &[], &[deletion])?;
        drop(ticket);
        self.relieve()
    }

    /// Removes inodes of one shard.
    fn remove_some(&self, inos: &[InodeId]) -> Result<(), StoreError> {
        let Some(first) = inos.first() else { return Ok(()) };
        let shard = self.index.hold(*first);
        let mut held = Vec::new();
        for deletion in inos.iter().map(|ino| removal(*ino)) {
            if self.index.has_any(&shard, &deletion)? {
                held.push(deletion);
            }
        }
        let Some(one) = held.first() else { return self.log.check() };
        let key = ChunkKey { ino: one.ino, chunk: ChunkIndex(0) };
        let list: Vec<u8> = held.iter().flat_map(|deletion| deletion.ino.0.to_le_bytes()).collect();
        let ticket = self.log.reserve(&deletion_request(Kind::Remove, key, 0, &list))?;
        drop(shard);
        self.delete(&ticket, &list, &held)?;
        drop(ticket);
        self.relieve()
    }
}

fn removal(ino: InodeId) -> Deletion {
    Deletion { ino, chunk: ChunkIndex(0), from: 0, reach: Reach::End, sequence: 0 }
}

/// The record of a write.
pub(super) fn data_request(key: ChunkKey, offset: u32, len: usize, table: &[u8]) -> Request {
    Request {
        kind: Kind::Data,
        key,
        offset,
        data_bytes: len as u32,
        table_crc: crc(table),
        purpose: Purpose::Data,
        shard: Index::shard_of(key.ino),
        sequence: None,
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
        table_crc: crc(BlockSums::of(0, data).table()),
        purpose: Purpose::Upkeep,
        shard: Index::shard_of(key.ino),
        sequence: None,
    }
}

pub(super) fn check_range(offset: u32, len: usize) -> Result<(), StoreError> {
    let is_inside = offset as usize + len <= MAX_CHUNK_BYTES as usize;
    if is_inside { Ok(()) } else { Err(StoreError::OutOfRange { offset, len }) }
}

/// What a read gives, made from its begin to its end, with its CRC.
pub(super) struct Made<'a> {
    out: &'a mut [u8],
    done: usize,
    pub sum: u32,
}

impl<'a> Made<'a> {
    pub fn new(out: &'a mut [u8]) -> Self {
        Made { out, done: 0, sum: 0 }
    }

    /// Zeros up to `to`: a hole.
    pub fn skip_to(&mut self, to: usize) {
        if to > self.done {
            let hole = &mut self.out[self.done..to];
            hole.fill(0);
            self.sum = combine(self.sum, crc(hole), hole.len() as u64);
            self.done = to;
        }
    }

    /// The next `len` bytes, from who fills them and says their CRC.
    pub fn fill<E>(&mut self, len: usize, from: impl FnOnce(&mut [u8]) -> Result<u32, E>) -> Result<(), E> {
        let sum = from(&mut self.out[self.done..self.done + len])?;
        // Mostly the first and only part.
        self.sum = if self.done == 0 { sum } else { combine(self.sum, sum, len as u64) };
        self.done += len;
        Ok(())
    }
}

/// Mostly one: no allocation then.
pub(super) type Pieces = SmallVec<[(Extent, Arc<dyn SegmentFile>); 2]>;
/// What a read gets: the range up to the chunk's end, and where its data is.
pub(super) type Found = (std::ops::Range<u32>, Pieces);

/// Where `len` bytes at `offset` are. `None` if the chunk ends before.
pub(super) fn read_range(
    core: &Core,
    key: ChunkKey,
    offset: u32,
    len: usize,
) -> Result<Option<Found>, StoreError> {
    let chunk = core.index.view(key)?;
    let extents = chunk.extents();
    let chunk_end = extents.last().map_or(0, |e| e.end);
    let end = u64::from(chunk_end).min(u64::from(offset) + len as u64) as u32;
    if end <= offset {
        return Ok(None);
    }
    let mut pieces: Pieces = Pieces::new();
    for extent in &extents[overlapping(extents, offset, end)] {
        let file = match pieces.last() {
            Some((last, file)) if last.place.segment == extent.place.segment => file.clone(),
            _ => core.log.segments.file(extent.place.segment)?,
        };
        pieces.push((extent.clip(offset, end), file));
    }
    Ok(Some((offset..end, pieces)))
}

impl ChunkStore for LogStore {
    fn write(&self, key: ChunkKey, offset: u32, data: &[u8]) -> Result<(), StoreError> {
        check_range(offset, data.len())?;
        if data.is_empty() {
            return self.core.log.check();
        }
        self.core.write(key, offset, data, &BlockSums::of(offset, data))
    }

    fn read(&self, key: ChunkKey, offset: u32, out: &mut [u8]) -> Result<usize, StoreError> {
        self.core.read(key, offset, out, Compare::Here).map(|(got, _)| got)
    }

    fn truncate(&self, ino: InodeId, chunk: ChunkIndex, keep_bytes: u32) -> Result<(), StoreError> {
        check_range(keep_bytes, 0)?;
        let cut = Deletion { ino, chunk, from: keep_bytes, reach: Reach::End, sequence: 0 };
        self.core.cut(Kind::Truncate, cut)
    }

    fn punch(&self, key: ChunkKey, offset: u32, len: u32) -> Result<(), StoreError> {
        check_range(offset, len as usize)?;
        if len == 0 {
            return self.core.log.check();
        }
        let reach = Reach::Byte(offset + len);
        self.core
            .cut(Kind::Punch, Deletion { ino: key.ino, chunk: key.chunk, from: offset, reach, sequence: 0 })
    }

    fn holds(&self, key: ChunkKey) -> Result<bool, StoreError> {
        Ok(!self.core.index.view(key)?.extents().is_empty())
    }

    fn ranges(&self, key: ChunkKey) -> Result<Vec<std::ops::Range<u32>>, StoreError> {
        let chunk = self.core.index.view(key)?;
        let mut ranges: Vec<std::ops::Range<u32>> = Vec::new();
        for extent in chunk.extents() {
            match ranges.last_mut() {
                Some(last) if last.end == extent.start => last.end = extent.end,
                _ => ranges.push(extent.start..extent.end),
            }
        }
        Ok(ranges)
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

    fn chunks_from(
        &self,
        ino: InodeId,
        from: ChunkIndex,
        limit: usize,
    ) -> Result<Vec<(ChunkIndex, u32)>, StoreError> {
        self.core.index.chunks_from(ino, from, limit)
    }

    fn sync(&self) -> Result<(), StoreError> {
        self.core.log.sync()
    }

    fn stats(&self) -> StoreStats {
        let segments = &self.core.log.segments;
        // Gauges: an unreadable file system shows as full, and the operations tell the error.
        let (total_bytes, free_bytes) = segments.space().unwrap_or_default();
        StoreStats {
            live_bytes: self.core.live_bytes.load(Ordering::Relaxed).max(0) as u64,
            disk_bytes: segments.used_bytes(),
            chunks: self.core.index.chunk_count(),
            segments: segments.count() as u64,
            total_bytes,
            free_bytes,
            compacted_bytes: self.core.upkeep.compacted_bytes(),
            written_bytes: self.core.log.written().bytes,
            index_bytes: self.index_bytes(),
            index_saves: self.core.saver.saves(),
            crc_failures: self.core.crc_failures.load(Ordering::Relaxed) + self.core.log.damage(),
        }
    }

    fn index_bytes(&self) -> u64 {
        self.core.index.cached_bytes() + self.core.cache.weight()
    }
}

impl LogStore {
    pub(super) fn core(&self) -> &Core {
        &self.core
    }

    pub(super) fn shared_core(&self) -> Arc<Core> {
        Arc::clone(&self.core)
    }

    /// Whether it reads and writes past the page cache.
    pub fn is_direct(&self) -> bool {
        self.core.is_direct
    }

    /// Up to `limit` chunks behind `after`, of whatever file, as they were when the first page was asked for.
    pub fn chunks_after(&self, after: Option<ChunkKey>, limit: usize) -> Result<Vec<ChunkKey>, StoreError> {
        if after.is_none() {
            // Chunks are listed by their rows.
            self.save()?;
        }
        self.core.index.saved_after(after, limit)
    }

    /// Empties sparse segments and removes dead ones now, in this thread, as the upkeep thread does by itself.
    pub fn compact(&self) -> Result<(), StoreError> {
        compact::pass(&self.core, compact::SPARSE_PERCENT, Eagerness::Eager).map(drop)
    }

    /// Saves the index now, so that the next opening reads no log before this moment.
    pub fn save(&self) -> Result<(), StoreError> {
        self.core.saver.save(&self.core.log, &self.core.index)
    }

    /// Ends the store as a crash would: nothing is saved, synced or trimmed.
    pub fn abandon(mut self) {
        self.is_abandoned = true;
    }

    /// What cannot be saved is replayed by the next opening.
    fn close(&self) {
        match self.save() {
            Ok(()) | Err(StoreError::Refused) => {}
            Err(error) => {
                tracing::warn!(%error, "the index of the chunk store could not be saved at the end");
            }
        }
        self.core.log.close();
    }

    /// Closing is not enough: a process that is being forked elsewhere holds the descriptor a moment longer.
    fn unlock(&mut self) {
        if let Some(lock) = self.lock.take()
            && let Err(error) = rustix::fs::flock(&lock, FlockOperation::Unlock)
        {
            tracing::warn!(%error, "cannot unlock the chunk store");
        }
    }

    fn end_upkeep(&mut self) {
        self.core.upkeep.stop();
        self.core.log.wake.notify();
        if self.thread.take().is_some_and(|t| t.join().is_err()) {
            tracing::error!("the upkeep thread of the chunk store panicked");
        }
    }
}

impl Drop for LogStore {
    fn drop(&mut self) {
        self.end_upkeep();
        if !self.is_abandoned {
            self.close();
        }
        self.unlock();
    }
}
