//! The guard that every engine is opened with: damage below is told, never returned.
//!
//! ```text
//! value in the engine = value  check:u32            check = crc(value) ^ crc(key) turned by 16 bits, little-endian
//! lane row: 'k' lane:u8 -> count:u64 floor:u64      (little-endian) the batches of a lane so far, and a sequence
//!                                                   number of the engine that this batch's own cannot be below
//! bridge  = a batch of a lane row alone, with the count that the lane has already: what the engine's journal says of the
//!           lane goes on from here
//! ```
//! A value's check finds what changed; it cannot find what is missing. For that every batch counts up one of a few
//! *lanes*, and the count of what was acknowledged is also kept outside of the engine, in the [`Fence`]. An engine
//! that takes a damaged journal for a torn one and drops its end comes back with a count below the fence's.
//!
//! After a loss of power the journal may end before what the tables have, because those were synced later: the counts
//! that follow would look as if some were missing. So each lane gets a bridge at the first opening of a boot.
//!
//! # Invariants
//! - No value is shown whose check fails (`tests/kv`, `a_value_under_another_key_is_told`).
//! - A flipped bit in a closed store is an error or changes nothing (`tests/kv`, `flipped_bits_are_told_or_harmless`).
//! - A lane's count in the fence is never above the engine's, whenever the process is killed: it is raised after the
//!   commit has returned (`tests/kv`, `acknowledged_batches_survive_kill`).
//! - Lanes are not shown by scans (`tests/kv`, all of the contract).
//!
//! Not found: a whole store that is replaced by an older copy of itself, its fence included.

use super::fence::{Counts, Fence, LANES, Past};
use super::verify::{self, KvReport};
use super::{Batch, Kv, KvError, ScanVisitor};
use crate::space::Space;
use bytes::Bytes;
use fs_proto::checksum::crc;
use parking_lot::Mutex;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

const CHECK_BYTES: usize = 4;
const LANE_KIND: u8 = b'k';
const LANE_ROW_BYTES: usize = 16;

/// What the guard needs of an engine beside the port.
pub(super) trait Engine: Kv {
    /// A number that orders batches: that of any batch whose commit begins after this call is not below it.
    fn position(&self) -> u64 {
        0
    }
    /// It has all that it acknowledged. Called before anything is committed.
    fn accept(&self) -> Result<(), KvError> {
        Ok(())
    }
}

pub(super) struct Guarded<E> {
    engine: E,
    /// Batches of each lane; held while one of them is committed, so that counts arrive in order.
    lanes: [Mutex<u64>; LANES],
    fence: Fence,
    space: Space,
}

impl<E: Engine> Guarded<E> {
    /// Takes an engine that was opened in `dir`, if it has all that it acknowledged.
    pub(super) fn open(engine: E, dir: &Path) -> Result<Self, KvError> {
        let counts = stored_counts(&engine)?;
        let past = Past::read(dir)?;
        past.compare(&counts)?;
        engine.accept()?;
        if !past.is_same_boot() {
            bridge(&engine, &counts)?;
        }
        let fence = past.renew(&counts)?;
        Ok(Guarded { engine, lanes: counts.map(Mutex::new), fence, space: Space::of(dir) })
    }
}

impl<E: Engine> Kv for Guarded<E> {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, KvError> {
        let Some(mut stored) = self.engine.get(key)? else { return Ok(None) };
        let length = unseal(key, &stored)?.len();
        stored.truncate(length);
        Ok(Some(stored))
    }

    fn commit(&self, batch: Batch) -> Result<(), KvError> {
        if batch.is_empty() {
            return Ok(());
        }
        // An engine that meets the end of the space itself writes nothing more until it is opened again. What it still wants does not count here: should
        // it want more than there is, then deletions are what helps.
        if self.space.is_exhausted() {
            return Err(KvError::NoSpace);
        }
        let lane = lane_of_thread();
        let mut sealed = Batch::with_capacity(batch.len() + 1, batch.payload_bytes() + 32);
        let mut count = self.lanes[lane].lock();
        put_row(&mut sealed, lane, *count + 1, &self.engine);
        sealed.append_checked(&batch, check);
        self.engine.commit(sealed)?;
        *count += 1;
        self.fence.acknowledge(lane, *count);
        Ok(())
    }

    fn scan(&self, from: &[u8], to: &[u8], visit: &mut ScanVisitor<'_>) -> Result<(), KvError> {
        let mut damage = None;
        self.engine.scan(from, to, &mut |key, stored| {
            if is_lane(key) {
                return ControlFlow::Continue(());
            }
            match unseal(key, stored) {
                Ok(value) => visit(key, value),
                Err(error) => {
                    damage = Some(error);
                    ControlFlow::Break(())
                }
            }
        })?;
        damage.map_or(Ok(()), Err)
    }

    fn sync(&self) -> Result<(), KvError> {
        let counts = self.fence.acknowledged();
        self.engine.sync()?;
        self.fence.note_synced(&counts);
        Ok(())
    }

    fn disk_bytes(&self) -> u64 {
        self.engine.disk_bytes()
    }

    fn memory_bytes(&self) -> u64 {
        self.engine.memory_bytes()
    }

    fn owed_bytes(&self) -> u64 {
        self.engine.owed_bytes()
    }

    fn verify(&self) -> Result<KvReport, KvError> {
        verify::walk(&self.engine, &mut |key, stored| unseal(key, stored).is_ok())
    }
}

/// A lane's row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LaneRow {
    pub(super) count: u64,
    pub(super) floor: u64,
}

impl LaneRow {
    fn encode(self) -> [u8; LANE_ROW_BYTES] {
        let mut out = [0; LANE_ROW_BYTES];
        out[..8].copy_from_slice(&self.count.to_le_bytes());
        out[8..].copy_from_slice(&self.floor.to_le_bytes());
        out
    }

    /// The lane and its row, if that is what a stored pair is, and whole.
    pub(super) fn decode(key: &[u8], stored: &[u8]) -> Option<(usize, LaneRow)> {
        let value = if is_lane(key) { unseal(key, stored).ok()? } else { return None };
        let number =
            |range| Some(u64::from_le_bytes(value.get::<std::ops::Range<usize>>(range)?.try_into().ok()?));
        let lane = usize::from(key[1]);
        (lane < LANES).then_some((lane, LaneRow { count: number(0..8)?, floor: number(8..16)? }))
    }
}

fn is_lane(key: &[u8]) -> bool {
    key.len() == 2 && key[0] == LANE_KIND
}

/// Threads take lanes in turn, so that those of a server meet in none as long as they are not more than lanes.
fn lane_of_thread() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static LANE: usize = NEXT.fetch_add(1, Ordering::Relaxed) % LANES;
    }
    LANE.with(|lane| *lane)
}

fn put_row(batch: &mut Batch, lane: usize, count: u64, engine: &impl Engine) {
    let row = LaneRow { count, floor: engine.position() };
    batch.put_checked(&[LANE_KIND, lane as u8], &row.encode(), check);
}

/// Has the journal begin anew with the counts of all lanes.
fn bridge(engine: &impl Engine, counts: &Counts) -> Result<(), KvError> {
    for (lane, count) in counts.iter().enumerate().filter(|(_, count)| **count > 0) {
        let mut batch = Batch::with_capacity(1, 32);
        put_row(&mut batch, lane, *count, engine);
        engine.commit(batch)?;
    }
    Ok(())
}

fn stored_counts(engine: &impl Engine) -> Result<Counts, KvError> {
    let mut counts = [0; LANES];
    let mut damage = None;
    engine.scan(&[LANE_KIND], &[LANE_KIND + 1], &mut |key, stored| {
        match LaneRow::decode(key, stored) {
            Some((lane, row)) => counts[lane] = row.count,
            None if is_lane(key) => damage = Some(damaged(key)),
            None => {}
        }
        ControlFlow::Continue(())
    })?;
    damage.map_or(Ok(counts), Err)
}

/// The two checksums are joined so that neither key nor value must be copied; turned, so that equal ones do not cancel.
fn check(key: &[u8], value: &[u8]) -> [u8; CHECK_BYTES] {
    (crc(value) ^ crc(key).rotate_left(16)).to_le_bytes()
}

fn unseal<'a>(key: &[u8], stored: &'a [u8]) -> Result<&'a [u8], KvError> {
    let (value, found) = stored.split_last_chunk::<CHECK_BYTES>().ok_or_else(|| damaged(key))?;
    if check(key, value) == *found { Ok(value) } else { Err(damaged(key)) }
}

fn damaged(key: &[u8]) -> KvError {
    let kind = key.first().copied().unwrap_or_default().escape_ascii();
    let shown = hex::encode(&key[..key.len().min(40)]);
    KvError::Corrupt(format!("the value of a key of kind '{kind}' does not match its checksum (key {shown})"))
}
