//! Segment files: counters and open handles.
//!
//! # Invariants
//! - A handle that was got under a shard's lock for an extent of that shard exists, and stays readable after the file
//!   was unlinked: unlinking needs that no extent refers to the segment.
//! - At most `max_open_files` handles are kept here; readers may hold more for the time of a read.

use super::disk::{Disk, Patch, Renewed, SegmentFile};
use super::format::{Header, Kind, UNIT_BYTES};
use super::rows::SegmentRow;
use crate::kv::Kv;
use fs_proto::checksum::BLOCK_BYTES;
use parking_lot::{Mutex, RwLock};
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, Ordering};

/// One segment file.
pub(super) struct Segment {
    pub id: u32,
    /// Bytes of it that extents refer to.
    live_bytes: AtomicI64,
    /// Bytes that its records carried when they were written: data, and a unit for each tombstone. What is live is
    /// compared with it and not with the file's size, or small records, which fill their units badly, would be
    /// copied for ever.
    payload_bytes: AtomicU64,
    /// Units in use, the head included.
    units: AtomicU32,
    /// Something in it cannot be read: compaction leaves it alone.
    damaged: AtomicBool,
    file: Mutex<Option<Arc<dyn SegmentFile>>>,
}

impl Segment {
    pub fn live_bytes(&self) -> u64 {
        self.live_bytes.load(Ordering::Acquire).max(0) as u64
    }

    pub fn used_bytes(&self) -> u64 {
        u64::from(self.units.load(Ordering::Acquire)) * UNIT_BYTES
    }

    pub fn set_units(&self, units: u32) {
        self.units.store(units, Ordering::Release);
    }

    pub fn payload_bytes(&self) -> u64 {
        self.payload_bytes.load(Ordering::Acquire)
    }

    /// Counts a record that was placed in it.
    pub fn add_record(&self, header: &Header) {
        let bytes = match header.kind {
            // What fills up a block goes with the record before it.
            Kind::Void if u64::from(header.data_bytes) < BLOCK_BYTES as u64 => 0,
            Kind::Data | Kind::Void => u64::from(header.data_bytes),
            Kind::Truncate | Kind::Remove | Kind::Punch => UNIT_BYTES,
        };
        self.payload_bytes.fetch_add(bytes, Ordering::AcqRel);
    }

    /// What the index keeps of it, with `live_bytes` as of the same state of the index.
    pub fn row(&self, live_bytes: i64) -> SegmentRow {
        SegmentRow {
            live_bytes: live_bytes.max(0) as u64,
            payload_bytes: self.payload_bytes(),
            units: self.units.load(Ordering::Acquire),
        }
    }

    /// Takes over what the index kept of it.
    pub fn restore(&self, row: &SegmentRow) {
        self.live_bytes.store(row.live_bytes as i64, Ordering::Release);
        self.payload_bytes.store(row.payload_bytes, Ordering::Release);
        self.set_units(row.units);
    }

    /// The live bytes alone: the rest of a segment at the log's end is counted from its records.
    pub fn restore_live(&self, row: &SegmentRow) {
        self.live_bytes.store(row.live_bytes as i64, Ordering::Release);
    }

    pub fn is_damaged(&self) -> bool {
        self.damaged.load(Ordering::Acquire)
    }

    pub fn mark_damaged(&self) {
        self.damaged.store(true, Ordering::Release);
    }
}

/// All segments of a store.
pub(super) struct Segments {
    disk: Arc<dyn Disk>,
    table: RwLock<BTreeMap<u32, Arc<Segment>>>,
    open_order: Mutex<VecDeque<u32>>,
    max_open_files: usize,
    capacity: Option<u64>,
    /// Whose files lie in the same place.
    beside: Option<Arc<dyn Kv>>,
}

impl Segments {
    pub fn new(disk: Arc<dyn Disk>, max_open_files: usize) -> Self {
        Segments {
            disk,
            table: RwLock::default(),
            open_order: Mutex::default(),
            max_open_files: max_open_files.max(8),
            capacity: None,
            beside: None,
        }
    }

    /// With at most `capacity` bytes of files, about.
    pub fn within(self, capacity: Option<u64>) -> Self {
        Segments { capacity, ..self }
    }

    /// Beside the files of `kv`: what its engine still wants of the space is not free.
    pub fn beside(self, kv: Option<Arc<dyn Kv>>) -> Self {
        Segments { beside: kv, ..self }
    }

    /// Size and free bytes of the disk, or of what may be used of it.
    pub fn space(&self) -> io::Result<(u64, u64)> {
        let (total_bytes, free_bytes) = self.disk.space()?;
        let Some(capacity) = self.capacity else { return Ok((total_bytes, free_bytes)) };
        Ok((total_bytes.min(capacity), free_bytes.min(capacity.saturating_sub(self.used_bytes()))))
    }

    /// Free bytes that nobody else counts on.
    pub fn room_bytes(&self) -> io::Result<u64> {
        let owed_bytes = self.beside.as_ref().map_or(0, |kv| kv.owed_bytes());
        Ok(self.space()?.1.saturating_sub(owed_bytes))
    }

    /// Bytes of all files.
    pub fn used_bytes(&self) -> u64 {
        self.table.read().values().map(|segment| segment.used_bytes()).sum()
    }

    /// Number of files.
    pub fn count(&self) -> usize {
        self.table.read().len()
    }

    pub fn disk(&self) -> &dyn Disk {
        &*self.disk
    }

    /// Enters a file that exists.
    pub fn add(&self, id: u32, units: u32, file: Option<Arc<dyn SegmentFile>>) -> Arc<Segment> {
        let segment = Arc::new(Segment {
            id,
            live_bytes: AtomicI64::new(0),
            payload_bytes: AtomicU64::new(0),
            units: AtomicU32::new(units),
            damaged: AtomicBool::new(false),
            file: Mutex::new(None),
        });
        self.table.write().insert(id, segment.clone());
        if let Some(file) = file {
            self.keep(&segment, &mut segment.file.lock(), file);
        }
        segment
    }

    pub fn get(&self, id: u32) -> Option<Arc<Segment>> {
        self.table.read().get(&id).cloned()
    }

    pub fn all(&self) -> Vec<Arc<Segment>> {
        self.table.read().values().cloned().collect()
    }

    /// The file of a segment, opened if need be.
    pub fn file(&self, id: u32) -> io::Result<Arc<dyn SegmentFile>> {
        let Some(segment) = self.get(id) else { return Err(io::ErrorKind::NotFound.into()) };
        self.file_of(&segment)
    }

    pub fn file_of(&self, segment: &Segment) -> io::Result<Arc<dyn SegmentFile>> {
        let mut slot = segment.file.lock();
        if let Some(file) = &*slot {
            return Ok(file.clone());
        }
        let file = self.disk.open(segment.id)?;
        self.keep(segment, &mut slot, file.clone());
        Ok(file)
    }

    /// Books live bytes gained or lost.
    pub fn book(&self, id: u32, bytes: i64) {
        if let Some(segment) = self.table.read().get(&id) {
            segment.live_bytes.fetch_add(bytes, Ordering::AcqRel);
        }
    }

    /// Forgets a segment and removes its file.
    pub fn unlink(&self, segment: &Segment) -> io::Result<()> {
        self.disk.remove(segment.id)?;
        self.table.write().remove(&segment.id);
        *segment.file.lock() = None;
        Ok(())
    }

    /// Gives back the space behind the last record.
    pub fn trim(&self, segment: &Segment) -> io::Result<()> {
        let file = self.file_of(segment)?;
        if file.bytes()? != segment.used_bytes() {
            file.cut(segment.used_bytes())?;
        }
        Ok(())
    }

    /// Puts a segment's records into a new file, with `patches` over them.
    pub fn renew(&self, segment: &Segment, patches: &[Patch]) -> io::Result<Renewed> {
        let renewed = self.disk.renew(segment.id, segment.used_bytes(), patches)?;
        self.keep(segment, &mut segment.file.lock(), Arc::clone(&renewed.file));
        Ok(renewed)
    }

    /// Keeps a handle, and lets go of the one opened first if there are too many.
    fn keep(&self, segment: &Segment, slot: &mut Option<Arc<dyn SegmentFile>>, file: Arc<dyn SegmentFile>) {
        if slot.replace(file).is_some() {
            // Its number is in the order already.
            return;
        }
        let mut order = self.open_order.lock();
        order.push_back(segment.id);
        if order.len() <= self.max_open_files {
            return;
        }
        let Some(oldest) = order.pop_front() else { return };
        drop(order);
        let Some(oldest) = self.get(oldest) else { return };
        match oldest.file.try_lock() {
            Some(mut slot) => *slot = None,
            // Somebody uses it now: it comes last rather than being waited for.
            None => self.open_order.lock().push_back(oldest.id),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::disk::buffered::BufferedDisk;
    use super::*;

    #[test]
    fn a_renewed_file_is_counted_once() {
        // Goal: files of segments are opened and put into new ones again and again; the handles that are kept are those counted, each once, and
        // no more than allowed.
        let dir = tempfile::tempdir().unwrap();
        let segments = Segments::new(Arc::new(BufferedDisk::new(dir.path())), 8);
        for id in 1..=12 {
            let file = segments.disk().create(id).unwrap();
            let segment = segments.add(id, 1, Some(file));
            (0..3).for_each(|_| drop(segments.renew(&segment, &[]).unwrap()));
            segments.file(id.saturating_sub(5).max(1)).unwrap();
        }
        let mut counted: Vec<_> = segments.open_order.lock().iter().copied().collect();
        counted.sort_unstable();
        let open = segments.all().into_iter().filter(|s| s.file.lock().is_some()).map(|s| s.id);
        assert_eq!(counted, open.collect::<Vec<_>>());
        assert_eq!(counted.len(), 8);
    }
}
