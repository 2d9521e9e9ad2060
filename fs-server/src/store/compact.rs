//! Upkeep: segments with little live data are emptied by copying, dead segments are unlinked.
//!
//! Why deleted data cannot come back. A *tombstone* (truncate or remove record) with sequence t hides the records of its
//! inode with sequences below t. It may vanish only when none of those is left on disk.
//!
//! 1. Every record that a tombstone hides lies before it in the log. For records of writes: places are given out in the
//!    order of sequences. For copies: a copy's place is given out under its shard's lock while its source is
//!    live and no deletion of the shard is under way, and a deletion's place is given out under the same lock; so a
//!    deletion that hides the copy came later, and its place is behind the copy's.
//! 2. So when no segment older than the tombstone's own is left, all it hides is in its own segment, and is unlinked
//!    with it in one step. Hence: a segment with tombstones is unlinked only when it is the oldest, or after its
//!    tombstones were copied to the end of the log (with their sequence, so that they hide what they hid), which keeps 1.
//! 3. Data that is hidden by newer data needs no such care: a record dies only when each of its bytes is hidden by a
//!    record or tombstone with a higher sequence, and that is then true of everything that it hid itself.
//!
//! Crash cases. Before a segment is unlinked the log is synced, so what killed it (overwrites, tombstones, copies) is
//! durable first. A crash between copying and unlinking leaves both; they have the same sequence and content, and the
//! later place wins. Unlinking goes from old to new, with the directory synced before a segment with tombstones goes.

use super::engine::Core;
use super::extent::{Extent, Place};
use super::format::{Header, Kind, UNIT_BYTES};
use super::index::Index;
use super::log::{Purpose, Request};
use super::merge::{self, Copy};
use super::recover;
use super::scan;
use super::segment::Segment;
use super::{ChunkKey, StoreError};
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Segments with less live data than this are emptied.
pub(super) const SPARSE_PERCENT: u64 = 40;
/// The same when the file system is full.
const TIGHT_PERCENT: u64 = 80;
/// Most segments that one pass empties, so that their space is given back before more is taken.
const VICTIMS: usize = 4;
/// From this many segments on that are smaller than a quarter of the usual size, they are put together.
const MANY_SMALL: usize = 8;
/// Times that a record is tried again that changes while it is copied.
const TRIES: usize = 4;

/// State of the upkeep.
#[derive(Default)]
pub(super) struct Upkeep {
    running: Mutex<()>,
    stopping: AtomicBool,
    compacted_bytes: AtomicU64,
}

impl Upkeep {
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
    }

    pub fn compacted_bytes(&self) -> u64 {
        self.compacted_bytes.load(Ordering::Relaxed)
    }

    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }
}

/// The upkeep thread.
pub(super) fn run(core: &Core) {
    loop {
        core.log.wake.wait();
        loop {
            if core.upkeep.is_stopping() {
                return;
            }
            match pass(core, SPARSE_PERCENT) {
                Ok(true) => {}
                // Refusals were told where they began.
                Ok(false) | Err(StoreError::Refused) => break,
                Err(error) => {
                    tracing::error!(%error, "upkeep of the chunk store failed");
                    break;
                }
            }
        }
    }
}

/// Gives back space for a write that found none, as far as there is any.
pub(super) fn make_room(core: &Core) -> Result<(), StoreError> {
    if !pass(core, SPARSE_PERCENT)? {
        pass(core, TIGHT_PERCENT)?;
    }
    Ok(())
}

/// Empties some sparse segments and unlinks the dead. Returns whether a segment went.
pub(super) fn pass(core: &Core, percent: u64) -> Result<bool, StoreError> {
    let _one = core.upkeep.running.lock();
    core.log.check()?;
    for victim in victims(core, percent) {
        if core.upkeep.is_stopping() {
            break;
        }
        match evacuate(core, &victim) {
            // What was copied so far may have freed something.
            Ok(()) | Err(StoreError::NoSpace) => {}
            Err(StoreError::Corrupt { .. }) => victim.mark_damaged(),
            Err(other) => return Err(other),
        }
    }
    reap(core)
}

/// Segments that are worth emptying, the emptiest first.
fn victims(core: &Core, percent: u64) -> Vec<Arc<Segment>> {
    let oldest = core.log.segments.oldest();
    let settled = |s: &Arc<Segment>| !s.is_damaged() && core.log.is_settled(s.id);
    let candidates: Vec<_> = core.log.segments.all().into_iter().filter(settled).collect();
    let weight = |s: &Segment| {
        let pinned_bytes = if Some(s.id) == oldest { 0 } else { u64::from(s.tombstones()) * UNIT_BYTES };
        s.live_bytes() + pinned_bytes
    };
    let is_sparse = |s: &Arc<Segment>| weight(s) * 100 < s.payload_bytes() * percent;
    let mut found: Vec<_> = candidates.iter().filter(|s| weight(s) > 0 && is_sparse(s)).cloned().collect();
    found.sort_by_key(|s| weight(s));
    found.truncate(VICTIMS);
    if found.is_empty() {
        found = small(core, &candidates);
    }
    if found.is_empty() && is_pinned(&candidates, oldest) {
        found.extend(candidates.first().cloned());
    }
    found
}

/// Small segments, left by many openings, if there are many.
fn small(core: &Core, candidates: &[Arc<Segment>]) -> Vec<Arc<Segment>> {
    let small_bytes = core.log.limits.segment_bytes / 4;
    let found: Vec<_> = candidates.iter().filter(|s| s.used_bytes() < small_bytes).cloned().collect();
    if found.len() < MANY_SMALL { Vec::new() } else { found }
}

/// Whether more than a quarter of the space is held by tombstones that wait for older segments to go.
fn is_pinned(candidates: &[Arc<Segment>], oldest: Option<u32>) -> bool {
    let all_bytes: u64 = candidates.iter().map(|s| s.used_bytes()).sum();
    let waiting =
        candidates.iter().filter(|s| s.live_bytes() == 0 && s.tombstones() > 0 && Some(s.id) != oldest);
    let pinned_bytes: u64 = waiting.map(|s| s.used_bytes()).sum();
    pinned_bytes * 4 > all_bytes
}

/// Copies what is live in a segment, and its tombstones if they are still needed.
fn evacuate(core: &Core, segment: &Segment) -> Result<(), StoreError> {
    let file = core.log.segments.file_of(segment)?;
    let found = scan::scan(&file, segment.id, core.log.limits.store_id)?;
    let is_oldest = core.log.segments.oldest() == Some(segment.id);
    let mut tombstones_moved = true;
    for record in &found.records {
        if core.upkeep.is_stopping() {
            return Ok(());
        }
        let header = &record.header;
        match header.kind {
            Kind::Data => move_data(core, header)?,
            Kind::Truncate | Kind::Remove if !is_oldest => tombstones_moved &= move_tombstone(core, header)?,
            Kind::Truncate | Kind::Remove | Kind::Void => {}
        }
    }
    if !is_oldest && tombstones_moved {
        segment.clear_tombstones();
    }
    Ok(())
}

/// Copies the live parts of a record. Parts that keep changing are left for a later pass.
fn move_data(core: &Core, header: &Header) -> Result<(), StoreError> {
    let key = ChunkKey { ino: header.ino, chunk: header.chunk };
    let place = Place { segment: header.at.segment, shape: header.shape() };
    for _ in 0..TRIES {
        let parts = live_parts(core, key, place);
        let mut is_done = true;
        for part in parts {
            let what = Copy { key, sources: &[part], is_merge: false, purpose: Purpose::Upkeep };
            let copied = merge::copy(core, &what)?;
            is_done &= copied;
            if copied {
                core.upkeep.compacted_bytes.fetch_add(part.bytes(), Ordering::Relaxed);
            }
        }
        if is_done {
            return Ok(());
        }
        std::thread::yield_now();
    }
    Ok(())
}

fn live_parts(core: &Core, key: ChunkKey, place: Place) -> Vec<Extent> {
    core.index.read(key.ino).extents(key).iter().filter(|e| e.place == place).copied().collect()
}

/// Copies a tombstone to the end of the log. Returns whether it is safe there.
fn move_tombstone(core: &Core, header: &Header) -> Result<bool, StoreError> {
    let data = match header.kind {
        Kind::Remove => {
            let Ok(inos) = recover::removed(&core.log.limits, &core.log.segments, header) else {
                return Ok(false);
            };
            inos.iter().flat_map(|ino| ino.0.to_le_bytes()).collect()
        }
        _ => Vec::new(),
    };
    let table = super::format::block_table(0, &data);
    let request = Request {
        kind: header.kind,
        key: ChunkKey { ino: header.ino, chunk: header.chunk },
        offset: header.offset,
        data_bytes: data.len() as u32,
        table_crc: header.table_crc,
        purpose: Purpose::Upkeep,
        shard: Index::shard_of(header.ino),
        sequence: Some(header.sequence),
    };
    core.log.reserve(&request)?.write(&table, &data)?;
    Ok(true)
}

/// Unlinks dead segments, the oldest first. Returns whether one went.
fn reap(core: &Core) -> Result<bool, StoreError> {
    // In this order: once settled, live bytes only fall; before, a record may still come to life.
    let is_dead = |s: &Arc<Segment>| core.log.is_settled(s.id) && s.live_bytes() == 0;
    let dead: Vec<_> = core.log.segments.all().into_iter().filter(is_dead).collect();
    let mut oldest = core.log.segments.oldest();
    if !dead.iter().any(|s| s.tombstones() == 0 || Some(s.id) == oldest) {
        return Ok(false);
    }
    core.log.sync()?;
    let mut has_unlinked = false;
    for segment in dead {
        if segment.tombstones() > 0 {
            if Some(segment.id) != oldest {
                continue;
            }
            core.log.segments.sync_names()?;
        }
        core.log.segments.unlink(&segment)?;
        has_unlinked = true;
        oldest = core.log.segments.oldest();
    }
    Ok(has_unlinked)
}
