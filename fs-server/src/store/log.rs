//! The end of the log: places for records are given out here, and what was written is made durable.
//!
//! # Invariants
//! - Places are given out in the order of sequences, under one short lock; nothing is written under it but the head of
//!   a new segment.
//! - From its reservation until its ticket is dropped a record counts as under way: its segment is not emptied or
//!   unlinked, the durable mark stays before it, and newer deletions are remembered for it.
//! - After a failed write or sync no change is accepted: what is on the device is not known then
//!   (`a_failed_write_refuses_changes`). A later opening finds out, and what is in doubt is written again (`doubt.rs`).
//! - What is to be synced is held open until then: of a write that failed in the background the kernel tells only handles
//!   that were open, or who asks before it has forgotten the file.

use super::disk::direct::DirectFile;
use super::disk::{self, SegmentFile};
use super::doubt::{self, InDoubt};
use super::format::{self, FIRST_UNIT, Header, Kind, Position, Shape, UNIT_BYTES};
use super::segment::{Segment, Segments};
use super::{ChunkKey, StoreError};
use parking_lot::{Condvar, Mutex};
use std::collections::BTreeMap;
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// What does not change while a store is open.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub store_id: u64,
    pub boot_id: u128,
    pub segment_bytes: u64,
    pub reserve_bytes: u64,
    /// What writes are multiples of.
    pub align: u32,
}

/// From this length on a record begins with a block in direct mode: reading it takes a block less, and no two readers of
/// neighbours ask the device for the same block, which costs a fifth of the rate.
const ON_BLOCKS_FROM: u32 = 16 << 10;

impl Limits {
    /// Where a record begins whose place is at `unit` or behind.
    fn begin_of(&self, request: &Request, unit: u32) -> u32 {
        if request.data_bytes < ON_BLOCKS_FROM { unit } else { format::aligned(unit, self.align) }
    }
}

/// Who wants a place: data must leave the reserve free; deletes and compaction, which gain space, may use it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    Data,
    Upkeep,
}

/// The record that a place is wanted for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Request {
    pub kind: Kind,
    pub key: ChunkKey,
    pub offset: u32,
    pub data_bytes: u32,
    pub table_crc: u32,
    pub purpose: Purpose,
    /// The shard that the record changes.
    pub shard: usize,
    /// The sequence of a copy; new records get the next.
    pub sequence: Option<u64>,
}

impl Request {
    /// Length of the record at `unit` of a segment.
    fn units_at(&self, unit: u32) -> u32 {
        let data_bytes = if self.kind == Kind::Punch { 0 } else { self.data_bytes };
        Shape { unit, offset: self.offset, data_bytes }.units()
    }
}

struct Active {
    segment: Arc<Segment>,
    file: Arc<dyn SegmentFile>,
    next_unit: u32,
    capacity_units: u32,
    from_reserve: bool,
}

struct UnderWay {
    at: Position,
    file: Arc<dyn SegmentFile>,
    sequence: u64,
    shard: usize,
    is_deletion: bool,
}

/// Segment files by number.
pub(super) type Files = BTreeMap<u32, Arc<dyn SegmentFile>>;

struct State {
    active: Option<Active>,
    next_segment: u32,
    next_sequence: u64,
    under_way: Vec<UnderWay>,
    dirty: Files,
    names_dirty: bool,
    durable: Position,
}

impl State {
    /// Everything before it is written and in the index.
    fn applied(&self) -> Position {
        let end = match &self.active {
            Some(active) => Position { segment: active.segment.id, unit: active.next_unit },
            None => Position { segment: self.next_segment, unit: 0 },
        };
        self.under_way.iter().map(|u| u.at).min().unwrap_or(end)
    }

    /// Whether a change is under way that a copy in `shard` could get ahead of.
    fn is_in_the_way(&self, shard: usize, newest: Option<u64>) -> bool {
        let is_older = |u: &UnderWay| newest.is_some_and(|sequence| u.sequence < sequence);
        self.under_way.iter().any(|u| u.shard == shard && (u.is_deletion || is_older(u)))
    }
}

/// Tells the upkeep thread that there may be something to do.
#[derive(Default)]
pub(super) struct Wake {
    pending: Mutex<bool>,
    changed: Condvar,
}

impl Wake {
    pub fn notify(&self) {
        *self.pending.lock() = true;
        self.changed.notify_one();
    }

    /// Waits for a notification, or until `limit`.
    pub fn wait(&self, limit: Option<Duration>) {
        let until = limit.map(|limit| Instant::now() + limit);
        let mut pending = self.pending.lock();
        while !*pending {
            match until {
                None => self.changed.wait(&mut pending),
                Some(until) if self.changed.wait_until(&mut pending, until).timed_out() => break,
                Some(_) => {}
            }
        }
        *pending = false;
    }
}

pub(super) struct Log {
    pub limits: Limits,
    pub segments: Segments,
    pub wake: Wake,
    state: Mutex<State>,
    /// Held by who syncs: what has to be settled first.
    syncing: Mutex<Vec<InDoubt>>,
    refused: AtomicBool,
    damage: AtomicU64,
    written_bytes: AtomicU64,
    records: AtomicU64,
}

/// What was written since the store was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Written {
    /// Bytes of segment files, frames and padding included.
    pub bytes: u64,
    pub records: u64,
}

/// Where a recovered log goes on.
pub(super) struct Resume {
    pub next_segment: u32,
    pub next_sequence: u64,
    pub durable: Position,
    /// What the first sync has to settle.
    pub in_doubt: Vec<InDoubt>,
}

impl Log {
    pub fn new(limits: Limits, segments: Segments, from: Resume) -> Self {
        let state = State {
            active: None,
            next_segment: from.next_segment,
            next_sequence: from.next_sequence,
            under_way: Vec::new(),
            dirty: Files::new(),
            names_dirty: true,
            durable: from.durable,
        };
        Log {
            limits,
            segments,
            wake: Wake::default(),
            state: Mutex::new(state),
            syncing: Mutex::new(from.in_doubt),
            refused: AtomicBool::new(false),
            damage: AtomicU64::new(0),
            written_bytes: AtomicU64::new(0),
            records: AtomicU64::new(0),
        }
    }

    /// What was written since the opening.
    pub fn written(&self) -> Written {
        Written {
            bytes: self.written_bytes.load(Ordering::Relaxed),
            records: self.records.load(Ordering::Relaxed),
        }
    }

    /// Everything before the position is written and in the index; with it, the next sequence.
    pub fn applied(&self) -> (Position, u64) {
        let state = self.state.lock();
        (state.applied(), state.next_sequence)
    }

    /// An error once changes are refused.
    pub fn check(&self) -> Result<(), StoreError> {
        if self.refused.load(Ordering::Acquire) { Err(StoreError::Refused) } else { Ok(()) }
    }

    /// Gives out a place at the end of the log.
    pub fn reserve(&self, request: &Request) -> Result<Ticket<'_>, StoreError> {
        self.check()?;
        let mut state = self.state.lock();
        self.place(&mut state, request)
    }

    /// As `reserve`, for a copy of content that is there already. `None` if a change of its shard is under way that
    /// the copy could get ahead of: a deletion, or, if `newest` is given, any change older than that sequence.
    pub fn reserve_copy(
        &self,
        request: &Request,
        newest: Option<u64>,
    ) -> Result<Option<Ticket<'_>>, StoreError> {
        self.check()?;
        let mut state = self.state.lock();
        if state.is_in_the_way(request.shard, newest) {
            return Ok(None);
        }
        self.place(&mut state, request).map(Some)
    }

    /// Whether `reserve_copy` would give out a place now.
    pub fn may_copy(&self, shard: usize, newest: Option<u64>) -> bool {
        !self.state.lock().is_in_the_way(shard, newest)
    }

    /// Gives out places that follow each other, for as many of `requests` as the segment has room for, but at least for
    /// the first.
    pub fn reserve_group(&self, requests: &[Request]) -> Result<Vec<Ticket<'_>>, StoreError> {
        self.check()?;
        let mut state = self.state.lock();
        let mut tickets: Vec<Ticket> = Vec::with_capacity(requests.len());
        for request in requests {
            if tickets.is_empty() {
                self.make_active(&mut state, request)?;
            } else if !state.active.as_ref().is_some_and(|active| self.has_room(active, request)) {
                break;
            }
            tickets.push(self.put(&mut state, request)?);
        }
        self.end_group(&mut state);
        Ok(tickets)
    }

    fn place(&self, state: &mut State, request: &Request) -> Result<Ticket<'_>, StoreError> {
        self.make_active(state, request)?;
        let ticket = self.put(state, request)?;
        self.end_group(state);
        Ok(ticket)
    }

    /// Places a record in the active segment, where `make_active` has seen to room for it.
    fn put(&self, state: &mut State, request: &Request) -> Result<Ticket<'_>, StoreError> {
        let sequence = request.sequence.unwrap_or(state.next_sequence);
        let Some(active) = &mut state.active else { return Err(StoreError::Refused) };
        let begin = self.limits.begin_of(request, active.next_unit);
        let at = Position { segment: active.segment.id, unit: begin };
        let header = Header {
            kind: request.kind,
            at,
            ino: request.key.ino,
            chunk: request.key.chunk,
            sequence,
            durable: state.durable,
            offset: request.offset,
            data_bytes: request.data_bytes,
            table_crc: request.table_crc,
        };
        let units = header.end().unit - active.next_unit;
        self.written_bytes.fetch_add(u64::from(units) * UNIT_BYTES, Ordering::Relaxed);
        active.next_unit = header.end().unit;
        active.segment.add_record(&header);
        self.records.fetch_add(1, Ordering::Relaxed);
        let file = active.file.clone();
        let ticket = Ticket { log: self, file: file.clone(), header };
        state.next_sequence += u64::from(request.sequence.is_none());
        let is_deletion = header.is_tombstone() && request.sequence.is_none();
        state.under_way.push(UnderWay { at, file, sequence, shard: request.shard, is_deletion });
        Ok(ticket)
    }

    /// What comes next begins where a write may: the rest of the block belongs to the write of the last record.
    fn end_group(&self, state: &mut State) {
        let Some(active) = &mut state.active else { return };
        let end = format::aligned(active.next_unit, self.limits.align);
        self.written_bytes.fetch_add(u64::from(end - active.next_unit) * UNIT_BYTES, Ordering::Relaxed);
        active.next_unit = end;
        active.segment.set_units(end);
    }

    fn has_room(&self, active: &Active, request: &Request) -> bool {
        let begin = self.limits.begin_of(request, active.next_unit);
        let end = begin + request.units_at(begin);
        format::aligned(end, self.limits.align) <= active.capacity_units
    }

    /// Sees to it that the active segment has room for the record and may be used for it.
    fn make_active(&self, state: &mut State, request: &Request) -> Result<(), StoreError> {
        let Some(active) = state.active.as_mut().filter(|active| self.has_room(active, request)) else {
            let first = self.first_unit();
            let end = format::aligned(first + request.units_at(first), self.limits.align);
            return self.rotate(state, end, request.purpose);
        };
        if active.from_reserve && request.purpose == Purpose::Data {
            let free_bytes = self.segments.room_bytes()?;
            if free_bytes < self.limits.reserve_bytes {
                return Err(StoreError::NoSpace);
            }
            active.from_reserve = false;
        }
        Ok(())
    }

    /// Begins a new segment of at least `units`.
    fn rotate(&self, state: &mut State, units: u32, purpose: Purpose) -> Result<(), StoreError> {
        let need_bytes = u64::from(units) * UNIT_BYTES;
        let full_bytes = need_bytes.max(self.limits.segment_bytes / UNIT_BYTES * UNIT_BYTES);
        let free_bytes = self.segments.room_bytes()?;
        let is_tight = free_bytes < full_bytes + self.limits.reserve_bytes;
        if is_tight && purpose == Purpose::Data {
            return Err(StoreError::NoSpace);
        }
        // Upkeep must get through when next to nothing is left.
        let bytes = if is_tight && free_bytes < 2 * full_bytes {
            need_bytes.next_multiple_of(64 << 10)
        } else {
            full_bytes
        };
        let id = state.next_segment;
        let first = self.first_unit();
        let file = self.segments.disk().create(id).map_err(disk::lift)?;
        let begun = self.begin(&*file, id, bytes);
        let segment = self.segments.add(id, first, Some(file));
        if let Err(error) = begun {
            self.segments.unlink(&segment)?;
            return Err(disk::lift(error));
        }
        self.close_active(state);
        let file = self.segments.file_of(&segment)?;
        let capacity_units = (bytes / UNIT_BYTES) as u32;
        state.next_segment += 1;
        state.names_dirty = true;
        state.active =
            Some(Active { segment, file, next_unit: first, capacity_units, from_reserve: is_tight });
        self.wake.notify();
        Ok(())
    }

    fn first_unit(&self) -> u32 {
        format::aligned(FIRST_UNIT, self.limits.align)
    }

    /// Takes space for a segment's file and writes its head.
    fn begin(&self, file: &dyn SegmentFile, id: u32, bytes: u64) -> io::Result<()> {
        file.reserve(bytes)?;
        let mut block = vec![0; self.limits.align as usize];
        let (head, filling) = block.split_at_mut(UNIT_BYTES as usize);
        head.copy_from_slice(&format::encode_segment_head(id, self.limits.boot_id));
        format::fill_up(Position { segment: id, unit: FIRST_UNIT }, self.limits.store_id, filling);
        file.write_at(&mut [IoSlice::new(&block)], 0)
    }

    /// Ends the active segment and gives back the space that it did not use.
    fn close_active(&self, state: &mut State) {
        let Some(active) = state.active.take() else { return };
        // A segment that stays too long costs space until the next opening, nothing else.
        if let Err(error) = self.segments.trim(&active.segment) {
            tracing::warn!(segment = active.segment.id, %error, "cannot trim a segment");
        }
    }

    /// As `close_active`, for the end of the store.
    pub fn close(&self) {
        self.close_active(&mut self.state.lock());
    }

    /// The lowest sequence that is under way; without any, the next.
    pub fn oldest_under_way(&self) -> u64 {
        let state = self.state.lock();
        state.under_way.iter().map(|u| u.sequence).min().unwrap_or(state.next_sequence)
    }

    /// Whether no record can come into a segment any more.
    pub fn is_settled(&self, segment: u32) -> bool {
        let state = self.state.lock();
        let is_active = state.active.as_ref().is_some_and(|a| a.segment.id == segment);
        !is_active && state.under_way.iter().all(|u| u.at.segment != segment)
    }

    /// Makes everything that was written before the call durable.
    pub fn sync(&self) -> Result<(), StoreError> {
        let mut in_doubt = self.syncing.lock();
        self.check()?;
        self.settle_all(&mut in_doubt)?;
        let unsynced = self.take_unsynced();
        for file in unsynced.files.values() {
            file.sync().map_err(|e| self.refuse(e))?;
        }
        if unsynced.has_names {
            self.segments.disk().sync_names().map_err(|e| self.refuse(e))?;
        }
        let mut state = self.state.lock();
        state.durable = state.durable.max(unsynced.mark);
        Ok(())
    }

    /// Sees to it that nothing is left in doubt by the opening. Who syncs just now does that.
    pub fn settle(&self) -> Result<(), StoreError> {
        if self.syncing.try_lock().is_none_or(|in_doubt| in_doubt.is_empty()) {
            return Ok(());
        }
        self.sync()
    }

    /// On return nothing is in doubt, so that no sync ends for want of room any more. Waits for who syncs.
    pub fn settle_first(&self) -> Result<(), StoreError> {
        let mut in_doubt = self.syncing.lock();
        self.check()?;
        self.settle_all(&mut in_doubt)
    }

    fn settle_all(&self, in_doubt: &mut Vec<InDoubt>) -> Result<(), StoreError> {
        let (damage, settled) = doubt::settle(&self.segments, self.limits.store_id, in_doubt);
        self.damage.fetch_add(damage, Ordering::Relaxed);
        match settled {
            Err(error) if disk::is_full(&error) => Err(StoreError::NoSpace),
            Err(error) => Err(self.refuse(error)),
            Ok(()) => Ok(()),
        }
    }

    /// What was found to be damaged when doubts were settled.
    pub fn damage(&self) -> u64 {
        self.damage.load(Ordering::Relaxed)
    }

    fn take_unsynced(&self) -> Unsynced {
        let mut state = self.state.lock();
        let mark = state.applied();
        let mut files = std::mem::take(&mut state.dirty);
        // Records under way may be in the index already, and upkeep counts on their being durable then.
        files.extend(state.under_way.iter().map(|u| (u.at.segment, u.file.clone())));
        Unsynced { files, has_names: std::mem::take(&mut state.names_dirty), mark }
    }

    fn refuse(&self, error: io::Error) -> StoreError {
        self.refuse_for(&error);
        StoreError::Io(error)
    }

    /// No change is accepted any more.
    pub fn refuse_for(&self, error: &dyn std::error::Error) {
        if self.refused.swap(true, Ordering::AcqRel) {
            return;
        }
        tracing::error!(%error, "the chunk store refuses changes from now on");
    }
}

/// What a sync has to do.
struct Unsynced {
    files: Files,
    has_names: bool,
    /// Everything before it is written.
    mark: Position,
}

/// A place in the log that is to be filled. Drop it after the index knows of the record.
pub(super) struct Ticket<'a> {
    log: &'a Log,
    file: Arc<dyn SegmentFile>,
    pub header: Header,
}

impl Ticket<'_> {
    /// Writes the record: one call to the kernel.
    pub fn write(&self, table: &[u8], data: &[u8]) -> Result<(), StoreError> {
        let (front, back) = self.frame(table, self.log.limits.align);
        let mut parts = [IoSlice::new(&front), IoSlice::new(data), IoSlice::new(&back)];
        self.write_parts(&mut parts).map_err(|e| self.failed(e))
    }

    /// Writes what begins with this record.
    pub fn write_parts(&self, parts: &mut [IoSlice<'_>]) -> io::Result<()> {
        self.file.write_at(parts, self.header.at.byte())
    }

    /// What surrounds the record's data, up to a multiple of `align`.
    pub fn frame(&self, table: &[u8], align: u32) -> (Vec<u8>, Vec<u8>) {
        format::frame(&self.header, table, self.log.limits.store_id, align)
    }

    /// What the write of a group that ends with this record has to be a multiple of.
    pub fn align(&self) -> u32 {
        self.log.limits.align
    }

    /// Fills what surrounds the record's data.
    pub fn frame_into(&self, table: &[u8], front: &mut [u8], back: &mut [u8]) {
        format::frame_into(&self.header, table, self.log.limits.store_id, front, back);
    }

    /// The file for direct I/O, if it is one.
    pub fn direct_file(&self) -> Option<Arc<DirectFile>> {
        Arc::clone(&self.file).direct()
    }

    /// A full file system (where space cannot be taken ahead) leaves a hole, and a note that it is one; all else is a
    /// failed device.
    pub fn failed(&self, error: io::Error) -> StoreError {
        if !disk::is_full(&error) {
            return self.log.refuse(error);
        }
        match self.void() {
            Ok(()) => StoreError::NoSpace,
            Err(error) => self.log.refuse(error),
        }
    }

    /// Makes the record one that says nothing.
    pub fn void(&self) -> io::Result<()> {
        let void = format::void(self.header.at, self.header.units());
        let bytes = void.encode(self.log.limits.store_id);
        self.file.write_at(&mut [IoSlice::new(&bytes)], self.header.at.byte())
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        let mut state = self.log.state.lock();
        let at = self.header.at;
        if let Some(index) = state.under_way.iter().position(|u| u.at == at) {
            state.under_way.swap_remove(index);
        }
        state.dirty.entry(at.segment).or_insert_with(|| self.file.clone());
    }
}

#[cfg(test)]
#[path = "log_tests.rs"]
mod tests;
