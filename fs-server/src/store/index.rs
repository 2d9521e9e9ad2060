//! The index: which extents each chunk has. In memory, sharded by inode.
//!
//! # Invariants
//! - Changes that are applied in another order than that of their sequences end the same. For data, extents carry their
//!   sequence; for deletions, a shard remembers each for as long as an older write may still come
//!   (`a_late_write_does_not_undo_a_removal`).
//! - A chunk without extents is not there.

use super::ChunkKey;
use super::extent::{self, Extent, Ledger};
use fs_proto::ids::{ChunkIndex, InodeId};
use parking_lot::{RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

const SHARD_BITS: u32 = 6;

/// Drops bytes of an inode from `keep` of `chunk` on: a truncation, or from zero a removal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Deletion {
    pub ino: InodeId,
    pub chunk: ChunkIndex,
    pub keep: u32,
    pub sequence: u64,
}

#[derive(Default)]
pub(super) struct Shard {
    chunks: BTreeMap<ChunkKey, Vec<Extent>>,
    recent: Vec<Deletion>,
}

/// All shards.
pub(super) struct Index {
    shards: Vec<RwLock<Shard>>,
    chunks: AtomicU64,
}

impl Index {
    pub fn new() -> Self {
        Index { shards: (0..1 << SHARD_BITS).map(|_| RwLock::default()).collect(), chunks: AtomicU64::new(0) }
    }

    /// Which shard holds an inode.
    pub fn shard_of(ino: InodeId) -> usize {
        (ino.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - SHARD_BITS)) as usize
    }

    pub fn read(&self, ino: InodeId) -> RwLockReadGuard<'_, Shard> {
        self.shards[Self::shard_of(ino)].read()
    }

    pub fn write(&self, ino: InodeId) -> RwLockWriteGuard<'_, Shard> {
        self.shards[Self::shard_of(ino)].write()
    }

    pub fn chunk_count(&self) -> u64 {
        self.chunks.load(Ordering::Relaxed)
    }

    /// Enters a record of data. Returns the number of extents that the chunk has now.
    pub fn insert(&self, shard: &mut Shard, key: ChunkKey, new: Extent, ledger: &mut Ledger) -> usize {
        let Some(new) = shard.after_deletions(key, new) else { return 0 };
        let extents = shard.chunks.entry(key).or_default();
        if extents.is_empty() {
            self.chunks.fetch_add(1, Ordering::Relaxed);
        }
        extent::insert(extents, new, ledger);
        extents.len()
    }

    /// Applies a deletion. It is remembered unless no write older than `oldest_under_way` can come any more.
    pub fn delete(&self, shard: &mut Shard, deletion: Deletion, oldest_under_way: u64, ledger: &mut Ledger) {
        shard.recent.retain(|d| d.sequence > oldest_under_way);
        if deletion.sequence > oldest_under_way {
            shard.recent.push(deletion);
        }
        let from = ChunkKey { ino: deletion.ino, chunk: deletion.chunk };
        let mut emptied = Vec::new();
        for (key, extents) in shard.chunks.range_mut(from..=last_of(deletion.ino)) {
            let keep = if key.chunk == deletion.chunk { deletion.keep } else { 0 };
            extent::cut(extents, keep, deletion.sequence, ledger);
            if extents.is_empty() {
                emptied.push(*key);
            }
        }
        self.chunks.fetch_sub(emptied.len() as u64, Ordering::Relaxed);
        for key in emptied {
            shard.chunks.remove(&key);
        }
    }
}

impl Shard {
    /// Extents of a chunk; none if it is not there.
    pub fn extents(&self, key: ChunkKey) -> &[Extent] {
        self.chunks.get(&key).map_or(&[], Vec::as_slice)
    }

    /// The chunks of an inode and their ends.
    pub fn chunks_of(&self, ino: InodeId) -> impl Iterator<Item = (ChunkIndex, u32)> {
        let first = ChunkKey { ino, chunk: ChunkIndex(0) };
        self.chunks
            .range(first..=last_of(ino))
            .map(|(key, extents)| (key.chunk, extents.last().map_or(0, |e| e.end)))
    }

    /// Whether a deletion would drop anything.
    pub fn has_from(&self, ino: InodeId, chunk: ChunkIndex, keep: u32) -> bool {
        let mut held = self.chunks_of(ino);
        held.any(|(c, end)| c > chunk || (c == chunk && end > keep))
    }

    /// Makes `new` the place of what is still read from `sources`.
    pub fn relocate(&mut self, key: ChunkKey, sources: &[Extent], new: Extent, ledger: &mut Ledger) {
        if let Some(extents) = self.chunks.get_mut(&key) {
            extent::relocate(extents, sources, new, ledger);
        }
    }

    /// What is left of a record after the newer deletions that are remembered.
    fn after_deletions(&self, key: ChunkKey, mut new: Extent) -> Option<Extent> {
        for deletion in self.recent.iter().filter(|d| d.ino == key.ino && d.sequence > new.sequence) {
            match key.chunk.cmp(&deletion.chunk) {
                std::cmp::Ordering::Less => {}
                std::cmp::Ordering::Equal => new.end = new.end.min(deletion.keep),
                std::cmp::Ordering::Greater => return None,
            }
        }
        (new.start < new.end).then_some(new)
    }
}

fn last_of(ino: InodeId) -> ChunkKey {
    ChunkKey { ino, chunk: ChunkIndex(u64::MAX) }
}

#[cfg(test)]
mod tests {
    use super::super::extent::Place;
    use super::super::format::Shape;
    use super::*;

    fn data(sequence: u64, start: u32, end: u32) -> Extent {
        let shape = Shape { unit: sequence as u32, offset: start, data_bytes: end - start };
        Extent::whole(sequence, Place { segment: 1, shape })
    }

    #[test]
    fn a_late_write_does_not_undo_a_removal() {
        // Goal: write 5 was under way when truncation 6 and write 7 were applied; it is entered last and changes only
        // what is older than it. Once nothing older than 6 is under way, the truncation is forgotten.
        let index = Index::new();
        let key = ChunkKey { ino: InodeId(9), chunk: ChunkIndex(3) };
        let mut shard = index.write(key.ino);
        let mut live = 0;
        let mut ledger = |_, bytes: i64| live += bytes;
        index.insert(&mut shard, key, data(4, 0, 100), &mut ledger);
        let cut = Deletion { ino: key.ino, chunk: key.chunk, keep: 50, sequence: 6 };
        index.delete(&mut shard, cut, 5, &mut ledger);
        index.insert(&mut shard, key, data(7, 80, 90), &mut ledger);
        index.insert(&mut shard, key, data(5, 40, 100), &mut ledger);
        let spans: Vec<_> = shard.extents(key).iter().map(|e| (e.start, e.end, e.sequence)).collect();
        assert_eq!(spans, [(0, 40, 4), (40, 50, 5), (80, 90, 7)]);
        let later = ChunkKey { chunk: ChunkIndex(4), ..key };
        index.insert(&mut shard, later, data(5, 0, 10), &mut ledger);
        assert_eq!(shard.chunks_of(key.ino).collect::<Vec<_>>(), [(key.chunk, 90)]);
        index.delete(&mut shard, Deletion { sequence: 8, keep: 0, ..cut }, u64::MAX, &mut ledger);
        assert!(shard.recent.is_empty());
        assert_eq!((index.chunk_count(), live), (0, 0));
    }
}
