//! Copies of content within the log: the step that compaction and the merging of small extents share, and the merging.
//!
//! # Invariants
//! - A copy never hides a write: it keeps a sequence that every write it could hide is above. Merging gives the highest of
//!   its sources to all of them, so it waits until no older change of the shard is under way
//!   (`tests/store`, `concurrent_writers_end_as_a_reopening_sees_it`).
//! - A copy has its place given out while its sources are live and no deletion of its shard is under way, so every
//!   deletion of its content lies behind it in the log. `compact` relies on that.

use super::disk::SegmentFile;
use super::engine::{Core, place_of};
use super::extent::{self, Extent};
use super::format::{BlockSums, Kind};
use super::index::Index;
use super::log::{Purpose, Request};
use super::reader::Compare;
use super::{ChunkKey, StoreError};
use fs_proto::checksum::crc;
use std::io;
use std::sync::Arc;

/// Above this many extents a chunk's small ones are merged.
pub(super) const MANY_EXTENTS: usize = 256;
/// Extents from this size on stay where they are: rewriting them would cost more than it saves.
const SMALL_BYTES: u64 = 32 << 10;

/// Content that is to be copied: adjacent extents of a chunk.
pub(super) struct Copy<'a> {
    pub key: ChunkKey,
    pub sources: &'a [Extent],
    /// Whether sequences are unified, see the module's invariants.
    pub is_merge: bool,
    pub purpose: Purpose,
}

impl Copy<'_> {
    fn request(&self, table: &[u8], data: &[u8]) -> Request {
        Request {
            kind: Kind::Data,
            key: self.key,
            offset: self.sources[0].start,
            data_bytes: data.len() as u32,
            table_crc: crc(table),
            purpose: self.purpose,
            shard: Index::shard_of(self.key.ino),
            sequence: self.sources.iter().map(|s| s.sequence).max(),
        }
    }
}

/// Copies content to the end of the log. Returns false, and changes nothing, if it is not what it was or if a change
/// that must come first is under way.
pub(super) fn copy(core: &Core, what: &Copy) -> Result<bool, StoreError> {
    let (Some(first), Some(last)) = (what.sources.first(), what.sources.last()) else { return Ok(true) };
    let Some(files) = open_sources(core, what)? else { return Ok(false) };
    let mut data = vec![0; (last.end - first.start) as usize];
    for (source, file) in what.sources.iter().zip(files) {
        let part = &mut data[(source.start - first.start) as usize..(source.end - first.start) as usize];
        core.read_extent(what.key, (source, &*file), part, Compare::Here)?;
    }
    let sums = BlockSums::of(first.start, &data);
    let request = what.request(sums.table(), &data);
    let newest = request.sequence.filter(|_| what.is_merge);
    let ticket = {
        let chunk = core.index.edit(what.key)?;
        if !extent::is_unchanged(chunk.extents(), first.start, last.end, what.sources) {
            return Ok(false);
        }
        let Some(ticket) = core.log.reserve_copy(&request, newest)? else { return Ok(false) };
        ticket
    };
    ticket.write(sums.table(), &data)?;
    let new = Extent::whole(ticket.header.sequence, place_of(&ticket));
    core.index.edit(what.key)?.relocate(what.sources, new, &mut |id, bytes| core.book_move(id, bytes));
    Ok(true)
}

/// The sources' files, or `None` if they are not live any more.
fn open_sources(core: &Core, what: &Copy) -> Result<Option<Vec<Arc<dyn SegmentFile>>>, StoreError> {
    let chunk = core.index.view(what.key)?;
    let (start, end) = (what.sources[0].start, what.sources[what.sources.len() - 1].end);
    if !extent::is_unchanged(chunk.extents(), start, end, what.sources) {
        return Ok(None);
    }
    let files = what.sources.iter().map(|s| core.log.segments.file(s.place.segment));
    Ok(Some(files.collect::<io::Result<_>>()?))
}

/// Merges small extents of a chunk. Whether it works out or not, the chunk's content stays: failures that matter show
/// at the next change.
pub(super) fn merge(core: &Core, key: ChunkKey) {
    let Ok(runs) = core.index.view(key).map(|chunk| small_runs(chunk.extents())) else { return };
    let saved: usize = runs.iter().map(|run| run.len() - 1).sum();
    if saved < MANY_EXTENTS / 2 {
        return;
    }
    for run in runs {
        let newest = run.iter().map(|e| e.sequence).max();
        if !core.log.may_copy(Index::shard_of(key.ino), newest) {
            return;
        }
        let what = Copy { key, sources: &run, is_merge: true, purpose: Purpose::Data };
        if let Err(error) = copy(core, &what) {
            tracing::debug!(?key, %error, "extents are not merged");
            return;
        }
    }
}

/// Runs of adjacent small extents, each of at least two.
fn small_runs(extents: &[Extent]) -> Vec<Vec<Extent>> {
    let is_small = |e: &Extent| e.bytes() < SMALL_BYTES;
    let runs = extents.chunk_by(|a, b| a.end == b.start && is_small(a) && is_small(b));
    runs.filter(|run| run.len() > 1).map(<[Extent]>::to_vec).collect()
}
