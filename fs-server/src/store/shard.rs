//! A shard of the index: the chunks of some inodes as far as they are in memory.

use super::ChunkKey;
use super::extent::{self, Extent, Ledger};
use super::index::{Totals, Unsaved};
use super::rows::{self, Keys};
use fs_proto::ids::{ChunkIndex, InodeId};
use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::atomic::{AtomicBool, Ordering};

/// What a chunk in memory takes beside its vectors, about.
const CHUNK_BYTES: usize = 160;
/// Chunks that one sweep looks at while it holds the lock.
const SWEPT: usize = 512;

/// Drops bytes of an inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Deletion {
    pub ino: InodeId,
    pub chunk: ChunkIndex,
    /// First byte of `chunk` that goes.
    pub from: u32,
    pub reach: Reach,
    pub sequence: u64,
}

/// How far a deletion goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    /// To this byte of the same chunk: a hole.
    Byte(u32),
    /// To the end, later chunks included: a truncation, or from zero of chunk zero a removal.
    End,
}

impl Deletion {
    /// First and last chunk that it may touch.
    pub fn keys(&self) -> (ChunkKey, ChunkKey) {
        let last = match self.reach {
            Reach::Byte(_) => self.chunk,
            Reach::End => ChunkIndex(u64::MAX),
        };
        (ChunkKey { ino: self.ino, chunk: self.chunk }, ChunkKey { ino: self.ino, chunk: last })
    }

    /// The bytes of a chunk that it drops.
    fn range_in(&self, chunk: ChunkIndex) -> (u32, u32) {
        match self.reach {
            Reach::Byte(to) if chunk == self.chunk => (self.from, to),
            Reach::End if chunk == self.chunk => (self.from, u32::MAX),
            Reach::End if chunk > self.chunk => (0, u32::MAX),
            _ => (0, 0),
        }
    }

    /// Whether it drops any of these extents.
    pub fn hits(&self, key: ChunkKey, extents: &[Extent]) -> bool {
        let (from, to) = self.range_in(key.chunk);
        key.ino == self.ino && !extent::overlapping(extents, from, to).is_empty()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum State {
    /// As its row.
    #[default]
    Saved,
    /// As its row will be once that save is committed.
    Saving(u64),
    /// Newer than its row.
    Dirty,
}

#[derive(Default)]
struct Chunk {
    extents: Vec<Extent>,
    /// Live bytes that segments gained or lost here since the last save.
    deltas: Vec<(u32, i64)>,
    state: State,
    has_row: bool,
    was_used: AtomicBool,
    /// What the totals count for it.
    bytes: usize,
}

impl Chunk {
    fn memory_bytes(&self) -> usize {
        CHUNK_BYTES
            + self.extents.capacity() * size_of::<Extent>()
            + self.deltas.capacity() * size_of::<(u32, i64)>()
    }

    fn may_go(&self, saved: u64) -> bool {
        match self.state {
            State::Saved => true,
            State::Saving(generation) => generation <= saved,
            State::Dirty => false,
        }
    }
}

#[derive(Default)]
pub(super) struct Shard {
    chunks: BTreeMap<ChunkKey, Chunk>,
    recent: Vec<Deletion>,
    dirty: Vec<ChunkKey>,
    /// Where the sweep goes on.
    hand: Option<ChunkKey>,
    evictions: u64,
}

impl Shard {
    /// Extents of a chunk in memory; none if it is not there.
    pub fn extents(&self, key: ChunkKey) -> &[Extent] {
        self.chunks.get(&key).map_or(&[], |chunk| chunk.extents.as_slice())
    }

    /// Whether a chunk is in memory.
    pub fn holds(&self, key: ChunkKey) -> bool {
        self.chunks.contains_key(&key)
    }

    /// Whether a chunk is in memory; notes that it is used.
    pub fn touch(&self, key: ChunkKey) -> bool {
        let chunk = self.chunks.get(&key);
        chunk.inspect(|chunk| chunk.was_used.store(true, Ordering::Relaxed)).is_some()
    }

    /// How many chunks it has let go of.
    pub fn evictions(&self) -> u64 {
        self.evictions
    }

    /// Chunks in memory of `first..=last`.
    pub fn range(&self, first: ChunkKey, last: ChunkKey) -> impl Iterator<Item = (ChunkKey, &[Extent])> {
        self.chunks.range(first..=last).map(|(key, chunk)| (*key, chunk.extents.as_slice()))
    }

    /// Whether a deletion drops anything that is in memory.
    pub fn has_any(&self, deletion: &Deletion) -> bool {
        let (first, last) = deletion.keys();
        self.range(first, last).any(|(key, extents)| deletion.hits(key, extents))
    }

    /// Takes over what a chunk's row says, `None` without one.
    pub fn enter(&mut self, key: ChunkKey, row: Option<Vec<Extent>>, totals: &Totals) {
        let mut chunk =
            Chunk { has_row: row.is_some(), extents: row.unwrap_or_default(), ..Chunk::default() };
        chunk.was_used = AtomicBool::new(true);
        chunk.bytes = chunk.memory_bytes();
        totals.cached_bytes.fetch_add(chunk.bytes as i64, Ordering::Relaxed);
        self.chunks.insert(key, chunk);
    }

    /// Changes a chunk that is in memory, and keeps the books.
    pub fn change<R>(
        &mut self,
        key: ChunkKey,
        totals: &Totals,
        book: &mut Ledger,
        change: impl FnOnce(&mut Vec<Extent>, &mut Ledger) -> R,
    ) -> R {
        let chunk = self.chunks.entry(key).or_default();
        let was_there = !chunk.extents.is_empty();
        let deltas = &mut chunk.deltas;
        let out = change(&mut chunk.extents, &mut |segment, bytes| {
            add(deltas, segment, bytes);
            book(segment, bytes);
        });
        let is_there = !chunk.extents.is_empty();
        totals.chunks.fetch_add(i64::from(is_there) - i64::from(was_there), Ordering::Relaxed);
        let (before, after) = (chunk.bytes as i64, chunk.memory_bytes() as i64);
        chunk.bytes = after as usize;
        totals.cached_bytes.fetch_add(after - before, Ordering::Relaxed);
        let was_dirty = chunk.state == State::Dirty;
        totals.dirty_bytes.fetch_add(if was_dirty { after - before } else { after }, Ordering::Relaxed);
        if !was_dirty {
            chunk.state = State::Dirty;
            self.dirty.push(key);
        }
        out
    }

    /// Remembers a deletion for as long as an older write may come.
    pub fn remember(&mut self, deletion: Deletion, oldest_under_way: u64) {
        self.recent.retain(|d| d.sequence > oldest_under_way);
        if deletion.sequence > oldest_under_way {
            self.recent.push(deletion);
        }
    }

    /// Applies a deletion to the chunks in memory of `first..=last`.
    pub fn delete(
        &mut self,
        deletion: &Deletion,
        first: ChunkKey,
        last: ChunkKey,
        totals: &Totals,
        book: &mut Ledger,
    ) {
        let hit = self.range(first, last).filter(|(key, extents)| deletion.hits(*key, extents));
        let hit: Vec<_> = hit.map(|(key, _)| key).collect();
        for key in hit {
            let (from, to) = deletion.range_in(key.chunk);
            self.change(key, totals, book, |extents, ledger| {
                extent::cut(extents, from, to, deletion.sequence, ledger);
            });
        }
    }

    /// What is left of a record after the newer deletions that are remembered.
    pub fn after_deletions(&self, key: ChunkKey, new: Extent) -> Vec<Extent> {
        let mut left = vec![new];
        let newer = |d: &&Deletion| d.ino == key.ino && d.sequence > new.sequence;
        for deletion in self.recent.iter().filter(newer) {
            let (from, to) = deletion.range_in(key.chunk);
            extent::cut(&mut left, from, to, deletion.sequence, &mut |_, _| {});
        }
        left
    }

    /// Adds the rows of all dirty chunks to `out`.
    pub fn collect(&mut self, generation: u64, keys: Keys, totals: &Totals, out: &mut Unsaved) {
        for key in std::mem::take(&mut self.dirty) {
            let Some(chunk) = self.chunks.get_mut(&key) else { continue };
            chunk.state = State::Saving(generation);
            totals.dirty_bytes.fetch_sub(chunk.bytes as i64, Ordering::Relaxed);
            for (segment, bytes) in std::mem::take(&mut chunk.deltas) {
                *out.deltas.entry(segment).or_default() += bytes;
            }
            let is_there = !chunk.extents.is_empty();
            if is_there {
                out.batch.put(keys.chunk(key), rows::encode_extents(&chunk.extents));
            } else if chunk.has_row {
                out.batch.delete(keys.chunk(key));
            }
            out.chunks += i64::from(is_there) - i64::from(chunk.has_row);
            chunk.has_row = is_there;
        }
    }

    /// Lets go of chunks that were not used lately, until `has_room`.
    pub fn evict(&mut self, saved: u64, totals: &Totals, has_room: &dyn Fn() -> bool) {
        let from = self.hand.map_or(Bound::Unbounded, Bound::Excluded);
        let mut go = Vec::new();
        let mut last = None;
        for (key, chunk) in self.chunks.range((from, Bound::Unbounded)).take(SWEPT) {
            last = Some(*key);
            if !chunk.was_used.swap(false, Ordering::Relaxed) && chunk.may_go(saved) {
                go.push(*key);
            }
        }
        self.hand = last;
        for key in go {
            if has_room() {
                return;
            }
            if let Some(chunk) = self.chunks.remove(&key) {
                totals.cached_bytes.fetch_sub(chunk.bytes as i64, Ordering::Relaxed);
                self.evictions += 1;
            }
        }
    }
}

fn add(deltas: &mut Vec<(u32, i64)>, segment: u32, bytes: i64) {
    match deltas.iter_mut().find(|(id, _)| *id == segment) {
        Some((_, sum)) => *sum += bytes,
        None => deltas.push((segment, bytes)),
    }
}
