//! Upkeep: what an opening has left in doubt is settled, segments with little live data are emptied by copying, dead segments are unlinked, the
//! index is saved.
//!
//! Why deleted data cannot come back. A *tombstone* (truncate, remove or punch record) with sequence t hides the records
//! of its inode with sequences below t. An opening replays the log from the mark of the last save that the device has.
//!
//! 1. What lies before the mark is not replayed: the rows have it, with every tombstone before the mark applied.
//! 2. Every record that a tombstone hides lies before it in the log, so who is replayed is hidden again. For records of
//!    writes: places are given out in the order of sequences. For copies: a copy's place is given out under its shard's
//!    lock while its source is live and no deletion of the shard is under way, and a deletion's place is given out
//!    under the same lock; so a deletion that hides the copy came later, and its place is behind the copy's.
//! 3. A segment is unlinked only if it lies wholly before the mark of a save that is on the device, and if no row refers
//!    to it. So neither its data nor its tombstones are needed by any opening, in whatever order segments go.
//!
//! Crash cases. A crash between copying and unlinking leaves both; they have the same sequence and content, and the later
//! place wins. A crash between unlinking and the next save leaves the segment's row, which counts nothing.

use super::disk;
use super::engine::Core;
use super::extent::{Extent, Place};
use super::format::{Header, Kind};
use super::log::Purpose;
use super::merge::{self, Copy};
use super::scan;
use super::segment::Segment;
use super::{ChunkKey, StoreError};
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

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
/// Dead segments that are unlinked at once; fewer wait for others, because unlinking costs syncs.
const MANY_DEAD: usize = 8;
/// How long they wait.
const DEAD_REST: Duration = Duration::from_secs(2);

/// State of the upkeep.
#[derive(Default)]
pub(super) struct Upkeep {
    running: Mutex<()>,
    stopping: AtomicBool,
    compacted_bytes: AtomicU64,
    reaped: Mutex<Option<Instant>>,
}

/// How eager a pass is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Eagerness {
    /// Cheap first: what is dead may rest a little.
    Calm,
    /// Space is wanted now.
    Eager,
}

/// What a pass came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// A segment went.
    Gained,
    /// There is nothing to do now.
    Idle,
    /// Dead segments wait for more of them.
    Resting,
}

impl Upkeep {
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
    }

    pub fn compacted_bytes(&self) -> u64 {
        self.compacted_bytes.load(Ordering::Relaxed)
    }

    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }
}

/// The upkeep thread.
pub(super) fn run(core: &Core) {
    let mut rest = None;
    loop {
        core.log.wake.wait(rest);
        rest = None;
        loop {
            if core.upkeep.is_stopping() {
                return;
            }
            let saved = core.log.settle().and_then(|()| core.save_if_due());
            match saved.and_then(|()| pass(core, SPARSE_PERCENT, Eagerness::Calm)) {
                Ok(Outcome::Gained) => {}
                // Without room the index stays to be saved.
                Ok(Outcome::Resting) | Err(StoreError::NoSpace) => {
                    rest = Some(DEAD_REST);
                    break;
                }
                // Refusals were told where they began.
                Ok(Outcome::Idle) | Err(StoreError::Refused) => break,
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
    if pass(core, SPARSE_PERCENT, Eagerness::Eager)? != Outcome::Gained {
        pass(core, TIGHT_PERCENT, Eagerness::Eager)?;
    }
    Ok(())
}

/// Empties some sparse segments and unlinks the dead.
pub(super) fn pass(core: &Core, percent: u64, eagerness: Eagerness) -> Result<Outcome, StoreError> {
    let _one = core.upkeep.running.lock();
    // Copies must not take the room that this needs: without it nothing can be unlinked.
    core.log.settle_first()?;
    for victim in victims(core, percent) {
        if core.upkeep.is_stopping() {
            break;
        }
        match evacuate(core, &victim) {
            // What was copied so far may have freed something.
            Ok(()) | Err(StoreError::NoSpace) => {}
            Err(StoreError::Corrupt { .. }) => victim.mark_damaged(),
            Err(StoreError::Io(error)) if disk::is_unreadable(&error) => victim.mark_damaged(),
            Err(other) => return Err(other),
        }
    }
    reap(core, eagerness)
}

/// Segments that are worth emptying, the emptiest first.
fn victims(core: &Core, percent: u64) -> Vec<Arc<Segment>> {
    let settled = |s: &Arc<Segment>| !s.is_damaged() && core.log.is_settled(s.id);
    let candidates: Vec<_> = core.log.segments.all().into_iter().filter(settled).collect();
    let is_sparse = |s: &Arc<Segment>| s.live_bytes() * 100 < s.payload_bytes() * percent;
    let mut found: Vec<_> =
        candidates.iter().filter(|s| s.live_bytes() > 0 && is_sparse(s)).cloned().collect();
    found.sort_by_key(|s| s.live_bytes());
    found.truncate(VICTIMS);
    if found.is_empty() { small(core, &candidates) } else { found }
}

/// Small segments, left by many openings, if there are many.
fn small(core: &Core, candidates: &[Arc<Segment>]) -> Vec<Arc<Segment>> {
    let small_bytes = core.log.limits.segment_bytes / 4;
    let found: Vec<_> = candidates.iter().filter(|s| s.used_bytes() < small_bytes).cloned().collect();
    if found.len() < MANY_SMALL { Vec::new() } else { found }
}

/// Copies what is live in a segment.
fn evacuate(core: &Core, segment: &Segment) -> Result<(), StoreError> {
    let file = core.log.segments.file_of(segment)?;
    let found = scan::scan(&*file, segment.id, core.log.limits.store_id)?;
    for record in found.records.iter().filter(|r| r.header.kind == Kind::Data) {
        if core.upkeep.is_stopping() {
            return Ok(());
        }
        move_data(core, &record.header)?;
        core.save_if_due()?;
    }
    if !found.lost.is_empty() {
        // Records that could not be found are not copied.
        segment.mark_damaged();
    }
    Ok(())
}

/// Copies the live parts of a record. Parts that keep changing are left for a later pass.
fn move_data(core: &Core, header: &Header) -> Result<(), StoreError> {
    let key = ChunkKey { ino: header.ino, chunk: header.chunk };
    let place = Place { segment: header.at.segment, shape: header.shape() };
    for _ in 0..TRIES {
        let parts = live_parts(core, key, place)?;
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

fn live_parts(core: &Core, key: ChunkKey, place: Place) -> Result<Vec<Extent>, StoreError> {
    Ok(core.index.view(key)?.extents().iter().filter(|e| e.place == place).copied().collect())
}

/// Unlinks dead segments.
fn reap(core: &Core, eagerness: Eagerness) -> Result<Outcome, StoreError> {
    // In this order: once settled, live bytes only fall; before, a record may still come to life.
    let is_dead = |s: &Arc<Segment>| core.log.is_settled(s.id) && s.live_bytes() == 0;
    let mut dead: Vec<_> = core.log.segments.all().into_iter().filter(is_dead).collect();
    if dead.is_empty() {
        return Ok(Outcome::Idle);
    }
    let is_fresh = core.upkeep.reaped.lock().is_some_and(|when| when.elapsed() < DEAD_REST);
    if eagerness == Eagerness::Calm && is_fresh && dead.len() < MANY_DEAD {
        return Ok(Outcome::Resting);
    }
    let mark = core.saver.save_durably(&core.log, &core.index)?;
    *core.upkeep.reaped.lock() = Some(Instant::now());
    dead.retain(|s| s.id < mark.segment);
    for segment in &dead {
        core.log.segments.unlink(segment)?;
        core.saver.note_gone(segment.id);
    }
    Ok(if dead.is_empty() { Outcome::Idle } else { Outcome::Gained })
}
