//! Segment files: names, counters, open handles.
//!
//! # Invariants
//! - A handle that was got under a shard's lock for an extent of that shard exists, and stays readable after the file
//!   was unlinked: unlinking needs that no extent refers to the segment.
//! - At most `max_open_files` handles are kept here; readers may hold more for the time of a read.

use super::device;
use super::format::{Header, Kind, UNIT_BYTES};
use parking_lot::{Mutex, RwLock};
use std::collections::{BTreeMap, VecDeque};
use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, Ordering};

/// One segment file.
pub(super) struct Segment {
    pub id: u32,
    path: PathBuf,
    /// Bytes of it that extents refer to.
    live_bytes: AtomicI64,
    /// Bytes that its records carried when they were written: data, and a unit for each tombstone. What is live is
    /// compared with it and not with the file's size, or small records, which fill their units badly, would be
    /// copied for ever.
    payload_bytes: AtomicU64,
    /// Units in use, the head included.
    units: AtomicU32,
    /// Truncate and remove records in it.
    tombstones: AtomicU32,
    /// Something in it cannot be read: compaction leaves it alone.
    damaged: AtomicBool,
    file: Mutex<Option<Arc<File>>>,
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

    pub fn tombstones(&self) -> u32 {
        self.tombstones.load(Ordering::Acquire)
    }

    pub fn payload_bytes(&self) -> u64 {
        self.payload_bytes.load(Ordering::Acquire)
    }

    /// Counts a record that was placed in it.
    pub fn add_record(&self, header: &Header) {
        let bytes = match header.kind {
            Kind::Data | Kind::Void => u64::from(header.data_bytes),
            Kind::Truncate | Kind::Remove => UNIT_BYTES,
        };
        self.payload_bytes.fetch_add(bytes, Ordering::AcqRel);
        if header.is_tombstone() {
            self.tombstones.fetch_add(1, Ordering::AcqRel);
        }
    }

    pub fn clear_tombstones(&self) {
        self.tombstones.store(0, Ordering::Release);
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
    dir: PathBuf,
    table: RwLock<BTreeMap<u32, Arc<Segment>>>,
    open_order: Mutex<VecDeque<u32>>,
    max_open_files: usize,
}

impl Segments {
    pub fn new(dir: &Path, max_open_files: usize) -> Self {
        Segments {
            dir: dir.to_owned(),
            table: RwLock::default(),
            open_order: Mutex::default(),
            max_open_files: max_open_files.max(8),
        }
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Numbers of the segment files in the directory, ascending.
    pub fn list_files(dir: &Path) -> io::Result<Vec<u32>> {
        let mut ids = Vec::new();
        for entry in std::fs::read_dir(dir)? {
            let name = entry?.file_name();
            let digits = name.to_str().and_then(|n| n.strip_suffix(".seg")).filter(|d| d.len() == 8);
            ids.extend(digits.and_then(|d| u32::from_str_radix(d, 16).ok()));
        }
        ids.sort_unstable();
        Ok(ids)
    }

    /// Enters a file that exists.
    pub fn add(&self, id: u32, units: u32, file: Option<File>) -> Arc<Segment> {
        let segment = Arc::new(Segment {
            id,
            path: self.path_of(id),
            live_bytes: AtomicI64::new(0),
            payload_bytes: AtomicU64::new(0),
            units: AtomicU32::new(units),
            tombstones: AtomicU32::new(0),
            damaged: AtomicBool::new(false),
            file: Mutex::new(None),
        });
        self.table.write().insert(id, segment.clone());
        if let Some(file) = file {
            self.keep(&segment, &mut segment.file.lock(), Arc::new(file));
        }
        segment
    }

    /// Creates the file of a new segment, open for reading and writing.
    pub fn create_file(&self, id: u32) -> io::Result<File> {
        OpenOptions::new().read(true).write(true).create_new(true).open(self.path_of(id))
    }

    pub fn get(&self, id: u32) -> Option<Arc<Segment>> {
        self.table.read().get(&id).cloned()
    }

    pub fn all(&self) -> Vec<Arc<Segment>> {
        self.table.read().values().cloned().collect()
    }

    /// The lowest number in use.
    pub fn oldest(&self) -> Option<u32> {
        self.table.read().keys().next().copied()
    }

    /// The file of a segment, opened if need be.
    pub fn file(&self, id: u32) -> io::Result<Arc<File>> {
        let Some(segment) = self.get(id) else { return Err(io::ErrorKind::NotFound.into()) };
        self.file_of(&segment)
    }

    pub fn file_of(&self, segment: &Segment) -> io::Result<Arc<File>> {
        let mut slot = segment.file.lock();
        if let Some(file) = &*slot {
            return Ok(file.clone());
        }
        let file = Arc::new(OpenOptions::new().read(true).write(true).open(&segment.path)?);
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
        std::fs::remove_file(&segment.path)?;
        self.table.write().remove(&segment.id);
        *segment.file.lock() = None;
        Ok(())
    }

    /// Gives back the space behind the last record.
    pub fn trim(&self, segment: &Segment) -> io::Result<()> {
        let file = self.file_of(segment)?;
        if file.metadata()?.len() != segment.used_bytes() {
            rustix::fs::ftruncate(&*file, segment.used_bytes())?;
        }
        Ok(())
    }

    pub fn sync(&self, segment: &Segment) -> io::Result<()> {
        Ok(rustix::fs::fdatasync(&*self.file_of(segment)?)?)
    }

    pub fn sync_names(&self) -> io::Result<()> {
        device::sync_dir(&self.dir)
    }

    fn path_of(&self, id: u32) -> PathBuf {
        self.dir.join(format!("{id:08x}.seg"))
    }

    /// Keeps a handle, and lets go of the one opened first if there are too many.
    fn keep(&self, segment: &Segment, slot: &mut Option<Arc<File>>, file: Arc<File>) {
        *slot = Some(file);
        let mut order = self.open_order.lock();
        order.push_back(segment.id);
        if order.len() <= self.max_open_files {
            return;
        }
        let Some(oldest) = order.pop_front() else { return };
        drop(order);
        // A slot that somebody uses now is left open rather than waited for.
        if let Some(segment) = self.get(oldest).filter(|s| s.id != segment.id)
            && let Some(mut slot) = segment.file.try_lock()
        {
            *slot = None;
        }
    }
}
