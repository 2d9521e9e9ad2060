//! Saving the index: what changed since the last save goes to the key-value store, with the place up to which the log is
//! in it. So an opening reads the log from there on only.
//!
//! # Invariants
//! - Rows never refer to bytes that are not on the device: the log is synced between collecting and committing
//!   (`tests/store`, `any_crash_leaves_what_was_durable`).
//! - After a save everything before its mark is in the rows, so tombstones before it are not needed any more: that is all
//!   that `compact` has to know to unlink segments in any order.
//! - Rows may be newer than the mark. Replaying from the mark over newer rows ends as over older ones: of two contents
//!   the higher sequence wins, and every deletion that a replayed record must not survive lies behind it in the log.
//! - One save at a time; nobody waits for it but who asked.
//! - A save that the key-value store has no room for is made up by the next one (`tests/store`, `an_index_without_room_is_saved_later`).

use super::StoreError;
use super::format::Position;
use super::index::{Index, Unsaved};
use super::log::{Log, Written};
use super::rows::{Checkpoint, Keys, SegmentRow};
use super::segment::Segments;
use crate::kv::{Batch, Kv, KvError};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes of log that an opening reads at most, about: headers only, if the machine did not crash.
const LOG_BYTES: u64 = 1 << 30;
/// Records that an opening reads at most, about.
const LOG_RECORDS: u64 = 1 << 18;

struct State {
    generation: u64,
    /// Live bytes of segments as the rows of chunks have them.
    live: BTreeMap<u32, i64>,
    chunks: i64,
    /// Mark of the last save, and the next sequence then.
    mark: (Position, u64),
    /// Segments that are gone, whose rows are not yet.
    gone: Vec<u32>,
    /// Rows of a save for which the key-value store had no room.
    left: Batch,
}

/// Saves the index of a store.
pub(super) struct Saver {
    kv: Arc<dyn Kv>,
    keys: Keys,
    store_id: u64,
    state: Mutex<State>,
    /// What the log had written when the last save began.
    bytes: AtomicU64,
    records: AtomicU64,
    saves: AtomicU64,
}

/// What an earlier opening has saved.
pub(super) struct Saved {
    pub checkpoint: Checkpoint,
    pub segments: BTreeMap<u32, SegmentRow>,
}

impl Saver {
    /// Reads what was saved.
    pub fn open(kv: Arc<dyn Kv>, keys: Keys, store_id: u64) -> Result<(Self, Saved), KvError> {
        let saved = load(&*kv, keys, store_id)?;
        let live = saved.segments.iter().map(|(id, row)| (*id, row.live_bytes as i64)).collect();
        let Checkpoint { at, next_sequence, chunks, .. } = saved.checkpoint;
        let state = State {
            generation: 0,
            live,
            chunks: chunks as i64,
            mark: (at, next_sequence),
            gone: Vec::new(),
            left: Batch::new(),
        };
        let zero = || AtomicU64::new(0);
        let saver = Saver {
            kv,
            keys,
            store_id,
            state: Mutex::new(state),
            bytes: zero(),
            records: zero(),
            saves: zero(),
        };
        Ok((saver, saved))
    }

    /// Whether a save should begin.
    pub fn is_due(&self, written: Written, index: &Index) -> bool {
        written.bytes.saturating_sub(self.bytes.load(Ordering::Relaxed)) >= LOG_BYTES
            || written.records.saturating_sub(self.records.load(Ordering::Relaxed)) >= LOG_RECORDS
            || index.wants_save()
    }

    /// Saves since the opening.
    pub fn saves(&self) -> u64 {
        self.saves.load(Ordering::Relaxed)
    }

    /// Saves the index as it is now.
    pub fn save(&self, log: &Log, index: &Index) -> Result<(), StoreError> {
        self.save_locked(&mut self.state.lock(), log, index)
    }

    /// As `save`, and surely there after a loss of power. Returns the mark.
    pub fn save_durably(&self, log: &Log, index: &Index) -> Result<Position, StoreError> {
        let mut state = self.state.lock();
        self.save_locked(&mut state, log, index)?;
        self.kv.sync().inspect_err(|error| log.refuse_for(error))?;
        Ok(state.mark.0)
    }

    /// What an opening has put into the index so far, without moving the mark. Its log is on the device.
    pub fn save_rows(&self, segments: &Segments, index: &Index) -> Result<(), StoreError> {
        let mut state = self.state.lock();
        state.generation += 1;
        let unsaved = index.collect(state.generation);
        let at = state.mark.0;
        self.commit(&mut state, segments, unsaved, at)?;
        index.finish(state.generation);
        Ok(())
    }

    /// The segment's file is gone; its row goes with the next save.
    pub fn note_gone(&self, id: u32) {
        self.state.lock().gone.push(id);
    }

    fn save_locked(&self, state: &mut State, log: &Log, index: &Index) -> Result<(), StoreError> {
        let refuse = |error: &StoreError| match error {
            StoreError::NoSpace => {}
            error => log.refuse_for(error),
        };
        self.commit_left(state).inspect_err(refuse)?;
        // What is collected must be committed, or the store refuse: a sync must not end for want of room in between.
        log.settle_first()?;
        let written = log.written();
        let mark = log.applied();
        state.generation += 1;
        let unsaved = index.collect(state.generation);
        log.sync()?;
        // Only now: a failed sync leaves the old mark.
        let older = std::mem::replace(&mut state.mark, mark);
        self.commit(state, &log.segments, unsaved, older.0).inspect_err(refuse)?;
        index.finish(state.generation);
        self.bytes.store(written.bytes, Ordering::Relaxed);
        self.records.store(written.records, Ordering::Relaxed);
        self.saves.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Writes rows and the state's mark as one batch. Segments have grown from `older` on at most.
    fn commit(
        &self,
        state: &mut State,
        segments: &Segments,
        unsaved: Unsaved,
        older: Position,
    ) -> Result<(), StoreError> {
        let mut batch = unsaved.batch;
        for (id, bytes) in &unsaved.deltas {
            *state.live.entry(*id).or_default() += bytes;
        }
        for id in std::mem::take(&mut state.gone) {
            state.live.remove(&id);
            batch.delete(self.keys.segment(id));
        }
        // Segments at the log's end have grown even if no row of a chunk refers to them.
        let grown = segments.all().into_iter().filter(|s| s.id >= older.segment).map(|s| s.id);
        let changed: std::collections::BTreeSet<_> = unsaved.deltas.keys().copied().chain(grown).collect();
        for segment in changed.into_iter().filter_map(|id| segments.get(id)) {
            let live_bytes = state.live.get(&segment.id).copied().unwrap_or(0);
            batch.put(self.keys.segment(segment.id), segment.row(live_bytes).encode());
        }
        state.chunks += unsaved.chunks;
        let (at, next_sequence) = state.mark;
        let chunks = state.chunks.max(0) as u64;
        let checkpoint = Checkpoint { store_id: self.store_id, at, next_sequence, chunks };
        batch.put(self.keys.checkpoint(), checkpoint.encode());
        state.left = batch;
        self.commit_left(state)
    }

    fn commit_left(&self, state: &mut State) -> Result<(), StoreError> {
        if state.left.is_empty() {
            return Ok(());
        }
        self.kv.commit(state.left.clone())?;
        state.left.clear();
        Ok(())
    }
}

fn load(kv: &dyn Kv, keys: Keys, store_id: u64) -> Result<Saved, KvError> {
    let damaged = |what: &str| KvError::Corrupt(format!("{what} of the chunk store"));
    let mut segments = BTreeMap::new();
    let Some(row) = kv.get(&keys.checkpoint())? else {
        return Ok(Saved { checkpoint: Checkpoint { store_id, ..Checkpoint::default() }, segments });
    };
    let checkpoint = Checkpoint::decode(&row).ok_or_else(|| damaged("the mark"))?;
    if checkpoint.store_id != store_id {
        return Err(KvError::Corrupt(
            "the index is of another chunk store: were directories exchanged or restored apart?".to_owned(),
        ));
    }
    let mut is_sane = true;
    let (from, to) = keys.all_segments();
    kv.scan(&from, &to, &mut |key, row| {
        match (Keys::split_segment(key), SegmentRow::decode(row)) {
            (Some(id), Some(row)) => drop(segments.insert(id, row)),
            _ => is_sane = false,
        }
        ControlFlow::Continue(())
    })?;
    if is_sane { Ok(Saved { checkpoint, segments }) } else { Err(damaged("a segment")) }
}
