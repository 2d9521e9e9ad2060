//! The index: which extents each chunk has. Its rows are in the key-value store; those in use, and those that changed
//! since the last save, are also in memory, sharded by inode.
//!
//! # Invariants
//! - Changes that are applied in another order than that of their sequences end the same. For data, extents carry their
//!   sequence; for deletions, a shard remembers each for as long as an older write may still come
//!   (`a_late_write_does_not_undo_a_removal`).
//! - A chunk that is not in memory is as its row says; without a row it is not there. A chunk in memory may be newer than
//!   its row, and is not let go of before that was saved (`what_was_let_go_comes_back`).
//! - Memory stays near its budget: what was saved is let go of beyond it, and above the budget in unsaved chunks the
//!   changes' callers save (`memory_stays_within_its_budget`).
//! - The rows of segments count what the rows of chunks refer to, not what memory knows beyond
//!   (`tests/store`, `behaves_like_the_model`).
//! - Rows are read under a shard's lock only by deletions, listings, and reads that met an eviction several times.

use super::ChunkKey;
use super::StoreError;
use super::extent::{self, Extent, Ledger};
use super::rows::{self, Keys};
use super::shard::{Deletion, Shard};
use crate::kv::{Batch, Kv, KvError};
use fs_proto::ids::{ChunkIndex, InodeId};
use parking_lot::{RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering};

const SHARD_BITS: u32 = 6;
/// Rows that a deletion brings into memory at once.
const PAGE: usize = 1024;
/// Reads of a row outside of the lock before one under it.
const TRIES: usize = 3;

/// Figures that the shards share.
#[derive(Default)]
pub(super) struct Totals {
    /// Bytes of memory of all chunks in memory.
    pub cached_bytes: AtomicI64,
    /// Bytes of memory of those that are newer than their rows.
    pub dirty_bytes: AtomicI64,
    /// Chunks that are there.
    pub chunks: AtomicI64,
}

/// All shards.
pub(super) struct Index {
    kv: Arc<dyn Kv>,
    keys: Keys,
    shards: Vec<RwLock<Shard>>,
    totals: Totals,
    budget_bytes: i64,
    /// The newest save whose rows are in the key-value store.
    saved: AtomicU64,
    sweep: AtomicUsize,
}

/// What a save writes.
#[derive(Default)]
pub(super) struct Unsaved {
    pub batch: Batch,
    /// Live bytes that segments gain or lose with these rows.
    pub deltas: BTreeMap<u32, i64>,
    /// Rows of chunks that come or go.
    pub chunks: i64,
}

/// A chunk to look at; its shard stays as it is.
pub(super) struct View<'a> {
    shard: RwLockReadGuard<'a, Shard>,
    key: ChunkKey,
}

impl View<'_> {
    /// Its extents; none if it is not there.
    pub fn extents(&self) -> &[Extent] {
        self.shard.extents(self.key)
    }
}

/// A chunk to change.
pub(super) struct Edit<'a> {
    index: &'a Index,
    shard: RwLockWriteGuard<'a, Shard>,
    key: ChunkKey,
}

impl Edit<'_> {
    /// Its extents; none if it is not there.
    pub fn extents(&self) -> &[Extent] {
        self.shard.extents(self.key)
    }

    /// Enters a record of data. Returns the number of extents that the chunk has now.
    pub fn insert(&mut self, new: Extent, book: &mut Ledger) -> usize {
        let parts = self.shard.after_deletions(self.key, new);
        self.shard.change(self.key, &self.index.totals, book, |extents, ledger| {
            for part in parts {
                extent::insert(extents, part, ledger);
            }
            extents.len()
        })
    }

    /// Makes `new` the place of what is still read from `sources`.
    pub fn relocate(&mut self, sources: &[Extent], new: Extent, book: &mut Ledger) {
        self.shard.change(self.key, &self.index.totals, book, |extents, ledger| {
            extent::relocate(extents, sources, new, ledger);
        });
    }
}

impl Index {
    /// The index that `kv` holds for the device of `keys`, with `chunks` rows.
    pub fn new(kv: Arc<dyn Kv>, keys: Keys, budget_bytes: u64, chunks: u64) -> Self {
        let totals = Totals { chunks: AtomicI64::new(chunks as i64), ..Totals::default() };
        Index {
            kv,
            keys,
            shards: (0..1 << SHARD_BITS).map(|_| RwLock::default()).collect(),
            totals,
            budget_bytes: budget_bytes as i64,
            saved: AtomicU64::new(0),
            sweep: AtomicUsize::new(0),
        }
    }

    /// Which shard holds an inode.
    pub fn shard_of(ino: InodeId) -> usize {
        ino.place(1 << SHARD_BITS)
    }

    pub fn chunk_count(&self) -> u64 {
        self.totals.chunks.load(Ordering::Relaxed).max(0) as u64
    }

    pub fn cached_bytes(&self) -> u64 {
        self.totals.cached_bytes.load(Ordering::Relaxed).max(0) as u64
    }

    /// Whether so much is unsaved that a save should begin.
    pub fn wants_save(&self) -> bool {
        self.totals.dirty_bytes.load(Ordering::Relaxed) > self.budget_bytes / 2
    }

    /// Whether so much is unsaved that a save must come before anything else.
    pub fn is_overfull(&self) -> bool {
        self.totals.dirty_bytes.load(Ordering::Relaxed) > self.budget_bytes
    }

    pub fn view(&self, key: ChunkKey) -> Result<View<'_>, StoreError> {
        let shard = self.shard(key.ino).read();
        if shard.touch(key) {
            return Ok(View { shard, key });
        }
        drop(shard);
        Ok(View { shard: RwLockWriteGuard::downgrade(self.load(key)?), key })
    }

    pub fn edit(&self, key: ChunkKey) -> Result<Edit<'_>, StoreError> {
        let shard = self.shard(key.ino).write();
        if shard.touch(key) {
            return Ok(Edit { index: self, shard, key });
        }
        drop(shard);
        Ok(Edit { index: self, shard: self.load(key)?, key })
    }

    /// Locks an inode's shard for looking.
    pub fn hold(&self, ino: InodeId) -> RwLockReadGuard<'_, Shard> {
        self.shard(ino).read()
    }

    /// Whether a deletion would drop anything. The shard is the inode's.
    pub fn has_any(&self, shard: &Shard, deletion: &Deletion) -> Result<bool, StoreError> {
        if shard.has_any(deletion) {
            return Ok(true);
        }
        let (mut has, mut fault) = (false, None);
        let (first, last) = deletion.keys();
        self.scan(first, last, &mut |key, row| {
            if shard.holds(key) {
                return ControlFlow::Continue(());
            }
            match decode(key, row) {
                Ok(extents) => has = deletion.hits(key, &extents),
                Err(error) => fault = Some(error),
            }
            if has || fault.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        fault.map_or(Ok(has), Err)
    }

    /// Applies a deletion. It is remembered unless no write older than `oldest_under_way` can come any more.
    /// `relief` is called between pages of a large file, to save what is too much.
    pub fn delete(
        &self,
        deletion: &Deletion,
        oldest_under_way: u64,
        book: &mut Ledger,
        relief: &mut dyn FnMut() -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let (mut from, last) = deletion.keys();
        let mut shard = self.shard(deletion.ino).write();
        shard.remember(*deletion, oldest_under_way);
        loop {
            let loaded = self.load_page(&mut shard, from, last)?;
            shard.delete(deletion, from, loaded.unwrap_or(last), &self.totals, book);
            let Some(end) = loaded else { return Ok(()) };
            from = ChunkKey { ino: end.ino, chunk: ChunkIndex(end.chunk.0 + 1) };
            drop(shard);
            relief()?;
            self.shrink();
            shard = self.shard(deletion.ino).write();
        }
    }

    /// Up to `limit` chunks of an inode from `from` on and their ends, ascending.
    pub fn chunks_from(
        &self,
        ino: InodeId,
        from: ChunkIndex,
        limit: usize,
    ) -> Result<Vec<(ChunkIndex, u32)>, StoreError> {
        let shard = self.hold(ino);
        let (first, last) = (ChunkKey { ino, chunk: from }, whole(ino).1);
        let in_memory = |extents: &[Extent]| (!extents.is_empty()).then(|| end_of(extents));
        let mut newer =
            shard.range(first, last).map(|(key, extents)| (key.chunk, in_memory(extents))).peekable();
        let (mut found, mut fault) = (Vec::new(), None);
        let mut add = |chunk, end: Option<u32>| found.extend(end.map(|end| (chunk, end)));
        let mut count = 0;
        self.scan(first, last, &mut |key, row| {
            // What is in memory comes in its turn, and instead of the row.
            while let Some((chunk, end)) = newer.next_if(|(chunk, _)| *chunk < key.chunk) {
                add(chunk, end);
                count += usize::from(end.is_some());
            }
            let end = match newer.next_if(|(chunk, _)| *chunk == key.chunk) {
                Some((_, end)) => end,
                None => match decode(key, row) {
                    Ok(extents) => Some(end_of(&extents)),
                    Err(error) => {
                        fault = Some(error);
                        None
                    }
                },
            };
            add(key.chunk, end);
            count += usize::from(end.is_some());
            if count < limit && fault.is_none() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        if count < limit {
            newer.for_each(|(chunk, end)| add(chunk, end));
        }
        found.truncate(limit);
        fault.map_or(Ok(found), Err)
    }

    /// Up to `limit` chunks after `after`, ascending by inode and chunk, as the rows have them.
    pub fn saved_after(&self, after: Option<ChunkKey>, limit: usize) -> Result<Vec<ChunkKey>, StoreError> {
        let mut found = Vec::new();
        let visit = &mut |key: &[u8], _: &[u8]| {
            found.extend(Keys::split_chunk(key).filter(|key| Some(*key) != after));
            if found.len() < limit { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        };
        let (first, end) = self.keys.all_chunks();
        match after {
            Some(key) => self.kv.scan(&self.keys.chunk(key), &end, visit)?,
            None => self.kv.scan(&first, &end, visit)?,
        }
        Ok(found)
    }

    /// Everything that is newer than its row, now to be committed as save `generation`.
    pub fn collect(&self, generation: u64) -> Unsaved {
        let mut out = Unsaved::default();
        for shard in &self.shards {
            shard.write().collect(generation, self.keys, &self.totals, &mut out);
        }
        out
    }

    /// The rows of save `generation` are committed.
    pub fn finish(&self, generation: u64) {
        self.saved.store(generation, Ordering::Release);
        self.shrink();
    }

    /// Lets go of chunks beyond the budget.
    fn shrink(&self) {
        let has_room = || self.totals.cached_bytes.load(Ordering::Relaxed) <= self.budget_bytes;
        // Twice around: the first pass takes the mark of having been used.
        for _ in 0..2 * self.shards.len() {
            if has_room() {
                return;
            }
            let number = self.sweep.fetch_add(1, Ordering::Relaxed) % self.shards.len();
            if let Some(mut shard) = self.shards[number].try_write() {
                shard.evict(self.saved.load(Ordering::Acquire), &self.totals, &has_room);
            }
        }
    }

    fn shard(&self, ino: InodeId) -> &RwLock<Shard> {
        &self.shards[Self::shard_of(ino)]
    }

    /// Brings a chunk into memory. Its row is read without the lock; if the shard let go of any chunk meanwhile, it may
    /// have been of this one in a newer state.
    fn load(&self, key: ChunkKey) -> Result<RwLockWriteGuard<'_, Shard>, StoreError> {
        self.shrink();
        for _ in 0..TRIES {
            let evictions = self.hold(key.ino).evictions();
            let extents = self.read_row(key)?;
            let mut shard = self.shard(key.ino).write();
            if shard.touch(key) {
                return Ok(shard);
            }
            if shard.evictions() == evictions {
                shard.enter(key, extents, &self.totals);
                return Ok(shard);
            }
        }
        let mut shard = self.shard(key.ino).write();
        if !shard.touch(key) {
            shard.enter(key, self.read_row(key)?, &self.totals);
        }
        Ok(shard)
    }

    /// Brings rows of `first..=last` into memory, a page at most. Returns the last if there may be more.
    fn load_page(
        &self,
        shard: &mut Shard,
        first: ChunkKey,
        last: ChunkKey,
    ) -> Result<Option<ChunkKey>, StoreError> {
        let (mut page, mut fault) = (Vec::new(), None);
        self.scan(first, last, &mut |key, row| {
            if shard.holds(key) {
                return ControlFlow::Continue(());
            }
            match decode(key, row) {
                Ok(extents) => page.push((key, extents)),
                Err(error) => fault = Some(error),
            }
            if page.len() < PAGE && fault.is_none() {
                ControlFlow::Continue(())
            } else {
                ControlFlow::Break(())
            }
        })?;
        let end = if page.len() == PAGE { page.last().map(|(key, _)| *key) } else { None };
        for (key, extents) in page {
            shard.enter(key, Some(extents), &self.totals);
        }
        fault.map_or(Ok(end), Err)
    }

    fn read_row(&self, key: ChunkKey) -> Result<Option<Vec<Extent>>, StoreError> {
        self.kv.get(&self.keys.chunk(key))?.map(|row| decode(key, &row)).transpose()
    }

    fn scan(
        &self,
        first: ChunkKey,
        last: ChunkKey,
        visit: &mut dyn FnMut(ChunkKey, &[u8]) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        let to = ChunkKey { ino: InodeId(last.ino.0.saturating_add(1)), chunk: ChunkIndex(0) };
        let mut visit = |key: &[u8], row: &[u8]| match Keys::split_chunk(key) {
            Some(key) if key <= last => visit(key, row),
            _ => ControlFlow::Break(()),
        };
        Ok(self.kv.scan(&self.keys.chunk(first), &self.keys.chunk(to), &mut visit)?)
    }
}

/// All keys of an inode.
pub(super) fn whole(ino: InodeId) -> (ChunkKey, ChunkKey) {
    (ChunkKey { ino, chunk: ChunkIndex(0) }, ChunkKey { ino, chunk: ChunkIndex(u64::MAX) })
}

fn end_of(extents: &[Extent]) -> u32 {
    extents.last().map_or(0, |e| e.end)
}

fn decode(key: ChunkKey, row: &[u8]) -> Result<Vec<Extent>, StoreError> {
    let damaged = || KvError::Corrupt(format!("the extents of inode {:x} chunk {}", key.ino.0, key.chunk.0));
    Ok(rows::decode_extents(row).ok_or_else(damaged)?)
}

#[cfg(test)]
#[path = "index_tests.rs"]
mod tests;
