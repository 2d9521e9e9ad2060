//! What an opening has left in doubt: segments that reach behind the durable mark. Before anything promises what is in one, it is
//! copied to a new file, which takes its place.
//!
//! If a sync of such a file has failed, in this boot and perhaps in a process that is gone, the kernel shows its bytes, takes
//! them for written, and would answer the next sync without having written them. Writing them again in place does not help
//! (decision 0044). The copies are made by the first sync, and the upkeep asks for one at once: the store serves meanwhile
//! (decision 0048). Nothing is added to these segments any more, and none is unlinked before a sync.
//!
//! # Invariants
//! - A sync that is answered covers what earlier processes wrote, also if theirs had failed (`tests/store`,
//!   `a_sync_after_a_failed_one_covers_what_that_lost`).
//! - A copy that cannot be made leaves the segment in doubt, and the sync unanswered (`tests/store`,
//!   `what_is_in_doubt_needs_room`).

use super::disk::{Patch, SegmentFile};
use super::format::{Kind, Position, UNIT_BYTES};
use super::reader::{Fault, Source};
use super::scan;
use super::segment::{Segment, Segments};
use std::io;
use std::sync::Arc;

/// A segment in doubt.
pub(super) struct InDoubt {
    pub segment: Arc<Segment>,
    /// What belongs into it: headers to repair, and to cover what is nothing.
    pub patches: Vec<Patch>,
    /// From here on records were kept without a look at their data.
    pub unread_from: Option<Position>,
}

/// Copies segments, the last first; each that is done goes from the list. Returns what was found to be damaged.
pub(super) fn settle(
    segments: &Segments,
    store_id: u64,
    in_doubt: &mut Vec<InDoubt>,
) -> (u64, io::Result<()>) {
    let mut damage = 0;
    while let Some(one) = in_doubt.last() {
        match settle_one(segments, store_id, one) {
            Ok(found) => damage += found,
            Err(error) => return (damage, Err(error)),
        }
        in_doubt.pop();
    }
    (damage, Ok(()))
}

fn settle_one(segments: &Segments, store_id: u64, one: &InDoubt) -> io::Result<u64> {
    let segment = one.segment.id;
    let renewed = segments.renew(&one.segment, &one.patches)?;
    for at in &renewed.lost {
        let unit = (at / UNIT_BYTES) as u32;
        tell(Position { segment, unit }, "a block cannot be read; what was in it is lost");
    }
    if !renewed.lost.is_empty() {
        // The copy can be read, and has zeros where records may have been: compaction would find nothing there to keep.
        one.segment.mark_damaged();
    }
    let unread = match one.unread_from {
        Some(from) => verify(&*renewed.file, store_id, from, segment)?,
        None => 0,
    };
    Ok(renewed.lost.len() as u64 + unread)
}

/// Reads the records of a segment from a position on. Returns how many do not match.
fn verify(file: &dyn SegmentFile, store_id: u64, from: Position, segment: u32) -> io::Result<u64> {
    let found = scan::scan(file, segment, store_id)?;
    let mut damage = 0;
    for header in found.records.iter().map(|r| r.header).filter(|h| h.kind == Kind::Data && h.at >= from) {
        match Source::of(file, &header, store_id).read_whole() {
            Ok(_) => {}
            Err(Fault::Io(error)) => return Err(error),
            Err(Fault::Corrupt) => {
                tell(header.at, "a record does not match its checksum");
                damage += 1;
            }
        }
    }
    Ok(damage)
}

/// Tells of damage.
pub(super) fn tell(at: Position, what: &str) {
    tracing::error!(segment = at.segment, byte = at.byte(), "chunk store: {what}");
}
