//! A disk in memory that a test can crash: writes and names that were not synced survive, vanish or tear as a seed says. A sync that
//! fails leaves what Linux leaves: readers see all that was written, and no later sync writes what this one could not. Blocks can go bad.

use crate::support::Rng;
use fs_server::store::disk::{self, Disk, Patch, Renewed, SegmentFile};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, IoSlice, IoSliceMut};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// Bytes that a device writes wholly or not at all.
const SECTOR_BYTES: usize = 512;
/// Bytes that go bad together, and that the page cache reads for a write of a part of them.
pub const BLOCK_BYTES: u64 = 4096;
const TOTAL_BYTES: u64 = 1 << 30;

#[derive(Clone)]
struct Write {
    at: u64,
    data: Vec<u8>,
}

#[derive(Default, Clone)]
struct Content {
    now: Vec<u8>,
    synced: Vec<u8>,
    unsynced: Vec<Write>,
    /// Bytes that a failed sync has given up, until they are written again.
    lost: Vec<bool>,
    /// Blocks that cannot be read until they are written as a whole.
    bad: BTreeSet<u64>,
}

/// What fails next, if it is not zero.
#[derive(Default)]
struct Faults {
    /// The error that the next write ends with.
    write: AtomicI32,
    /// A seed of what the next sync, which fails, still brings to the device.
    sync: AtomicU64,
    /// Whether no write finds room.
    full: AtomicBool,
}

#[derive(Default)]
pub struct SimFile(Mutex<Content>, Arc<Faults>);

#[derive(Default)]
struct Names {
    now: BTreeMap<u32, Arc<SimFile>>,
    synced: BTreeMap<u32, Arc<SimFile>>,
}

#[derive(Default)]
pub struct SimDisk(Mutex<Names>, Arc<Faults>);

fn put(bytes: &mut Vec<u8>, at: u64, data: &[u8]) {
    let end = at as usize + data.len();
    bytes.resize(bytes.len().max(end), 0);
    bytes[at as usize..end].copy_from_slice(data);
}

impl Content {
    /// These bytes are to reach the device no more, or again.
    fn mark_lost(&mut self, at: u64, len: usize, is_lost: bool) {
        let (begin, end) = (at as usize, at as usize + len);
        self.lost.resize(self.lost.len().max(end), false);
        self.lost[begin..end].fill(is_lost);
    }

    /// An error if any of these blocks cannot be read.
    fn check_blocks(&self, begin: u64, end: u64) -> io::Result<()> {
        let (first, behind) = (begin / BLOCK_BYTES, end.div_ceil(BLOCK_BYTES));
        match self.bad.iter().find(|block| (first..behind).contains(block)) {
            Some(_) => Err(io::Error::from_raw_os_error(libc::EIO)),
            None => Ok(()),
        }
    }

    /// What a write does to bad blocks: one that it covers is well again, one that it covers in part would have to be read.
    fn heal_blocks(&mut self, at: u64, len: u64) -> io::Result<()> {
        let (first, last) = (at.div_ceil(BLOCK_BYTES), (at + len) / BLOCK_BYTES);
        if !at.is_multiple_of(BLOCK_BYTES) {
            self.check_blocks(at, at + 1)?;
        }
        if len > 0 && !(at + len).is_multiple_of(BLOCK_BYTES) {
            self.check_blocks(at + len - 1, at + len)?;
        }
        self.bad.retain(|block| !(first..last).contains(block));
        Ok(())
    }

    /// A sync that fails: a third of the sectors reach the device all the same.
    fn give_up(&mut self, rng: &mut Rng) {
        for write in std::mem::take(&mut self.unsynced) {
            for (sector, data) in write.data.chunks(SECTOR_BYTES).enumerate() {
                let at = write.at + (sector * SECTOR_BYTES) as u64;
                let is_lost = rng.below(3) != 0;
                if !is_lost {
                    put(&mut self.synced, at, data);
                }
                self.mark_lost(at, data.len(), is_lost);
            }
        }
    }

    fn sync(&mut self) {
        let mut reached = self.now.clone();
        for (at, byte) in reached.iter_mut().enumerate() {
            if self.lost.get(at).copied().unwrap_or_default() {
                *byte = self.synced.get(at).copied().unwrap_or_default();
            }
        }
        self.synced = reached;
        self.unsynced.clear();
    }
}

impl SimFile {
    fn new(content: Vec<u8>, faults: &Arc<Faults>) -> Arc<SimFile> {
        let content = Content { now: content.clone(), synced: content, ..Content::default() };
        Arc::new(SimFile(Mutex::new(content), Arc::clone(faults)))
    }

    /// What a loss of power leaves: of each unsynced write any of its sectors, the last one torn as likely as not.
    fn after_power_loss(&self, rng: &mut Rng, faults: &Arc<Faults>) -> Arc<SimFile> {
        let content = self.0.lock().unwrap();
        let mut bytes = content.synced.clone();
        // The length may have reached the device or not.
        if rng.below(2) == 0 {
            bytes.resize(bytes.len().max(content.now.len()), 0);
        }
        let mode = rng.below(4);
        let last = rng.below(content.unsynced.len() as u64 + 1) as usize;
        for (number, write) in content.unsynced.iter().enumerate() {
            for (sector, data) in write.data.chunks(SECTOR_BYTES).enumerate() {
                let is_kept = match mode {
                    0 => number < last,
                    1 => number < last || (number == last && rng.below(2) == 0),
                    2 => rng.below(2) == 0,
                    _ => rng.below(10) != 0,
                };
                if is_kept {
                    put(&mut bytes, write.at + (sector * SECTOR_BYTES) as u64, data);
                }
            }
        }
        let file = SimFile::new(bytes, faults);
        file.0.lock().unwrap().bad.clone_from(&content.bad);
        file
    }
}

impl SimDisk {
    pub fn new() -> Arc<SimDisk> {
        Arc::default()
    }

    /// What a segment's file has.
    pub fn bytes_of(&self, id: u32) -> Vec<u8> {
        self.0.lock().unwrap().now[&id].0.lock().unwrap().now.clone()
    }

    /// Lets a block of a segment's file go bad.
    pub fn spoil(&self, id: u32, block: u64) {
        self.0.lock().unwrap().now[&id].0.lock().unwrap().bad.insert(block);
    }

    /// From now on no write finds room, or all do.
    pub fn set_full(&self, is_full: bool) {
        self.1.full.store(is_full, Ordering::SeqCst);
    }

    /// Lets the next write end with an error of the system.
    pub fn fail_next(&self, errno: i32) {
        self.1.write.store(errno, Ordering::SeqCst);
    }

    /// Lets the next sync of a file end with EIO. The seed, which is not zero, says what reaches the device all the same.
    pub fn fail_next_sync(&self, seed: u64) {
        self.1.sync.store(seed, Ordering::SeqCst);
    }

    /// Syncs do not fail any more. Returns whether one has.
    pub fn stop_failing(&self) -> bool {
        self.1.sync.swap(0, Ordering::SeqCst) == 0
    }

    /// What the next process finds after a kill: all that was written, as little of it on the device as before.
    pub fn after_kill(&self) -> Arc<SimDisk> {
        let (names, faults) = (self.0.lock().unwrap(), Arc::default());
        let mut copies = BTreeMap::new();
        let mut copy = |(id, file): (&u32, &Arc<SimFile>)| {
            let copied =
                || Arc::new(SimFile(Mutex::new(file.0.lock().unwrap().clone()), Arc::clone(&faults)));
            // A file may have both its names, or the number of one that was removed.
            (*id, Arc::clone(copies.entry(Arc::as_ptr(file)).or_insert_with(copied)))
        };
        let now = names.now.iter().map(&mut copy).collect();
        let synced = names.synced.iter().map(&mut copy).collect();
        Arc::new(SimDisk(Mutex::new(Names { now, synced }), faults))
    }

    /// What is there after a loss of power.
    pub fn after_power_loss(&self, rng: &mut Rng) -> Arc<SimDisk> {
        let (names, faults) = (self.0.lock().unwrap(), Arc::default());
        let mut now = BTreeMap::new();
        let ids: std::collections::BTreeSet<_> = names.now.keys().chain(names.synced.keys()).collect();
        for id in ids {
            // A name that was made or removed without a sync is there or not.
            let is_certain = names.now.contains_key(id) && names.synced.contains_key(id);
            let first = match (names.now.get(id), names.synced.get(id)) {
                // One has taken the place of the other, or not.
                (Some(now), Some(synced)) if !Arc::ptr_eq(now, synced) && rng.below(2) == 0 => Some(synced),
                (now, synced) => now.or(synced),
            };
            if let Some(file) = first
                && (is_certain || rng.below(2) == 0)
            {
                now.insert(*id, file.after_power_loss(rng, &faults));
            }
        }
        Arc::new(SimDisk(Mutex::new(Names { synced: now.clone(), now }), faults))
    }
}

impl Disk for SimDisk {
    fn list(&self) -> io::Result<Vec<u32>> {
        Ok(self.0.lock().unwrap().now.keys().copied().collect())
    }

    fn create(&self, id: u32) -> io::Result<Arc<dyn SegmentFile>> {
        let file = SimFile::new(Vec::new(), &self.1);
        match self.0.lock().unwrap().now.insert(id, Arc::clone(&file)) {
            None => Ok(file),
            Some(_) => Err(io::ErrorKind::AlreadyExists.into()),
        }
    }

    fn open(&self, id: u32) -> io::Result<Arc<dyn SegmentFile>> {
        let names = self.0.lock().unwrap();
        let file = names.now.get(&id).cloned().ok_or(io::ErrorKind::NotFound)?;
        Ok(file)
    }

    fn renew(&self, id: u32, bytes: u64, patches: &[Patch]) -> io::Result<Renewed> {
        let file = SimFile::new(Vec::new(), &self.1);
        let lost = disk::copy(&*self.open(id)?, &*file, bytes, patches)?;
        self.0.lock().unwrap().now.insert(id, Arc::clone(&file));
        Ok(Renewed { file, lost })
    }

    fn remove(&self, id: u32) -> io::Result<()> {
        let removed = self.0.lock().unwrap().now.remove(&id);
        removed.map(drop).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn sync_names(&self) -> io::Result<()> {
        let mut names = self.0.lock().unwrap();
        names.synced = names.now.clone();
        Ok(())
    }

    fn space(&self) -> io::Result<(u64, u64)> {
        let names = self.0.lock().unwrap();
        let used: u64 = names.now.values().map(|f| f.0.lock().unwrap().now.len() as u64).sum();
        Ok((TOTAL_BYTES, TOTAL_BYTES.saturating_sub(used)))
    }
}

impl SegmentFile for SimFile {
    fn write_at(&self, parts: &mut [IoSlice<'_>], at: u64) -> io::Result<()> {
        let errno = self.1.write.swap(0, Ordering::SeqCst);
        if errno != 0 {
            return Err(io::Error::from_raw_os_error(errno));
        }
        if self.1.full.load(Ordering::SeqCst) {
            return Err(io::Error::from_raw_os_error(libc::ENOSPC));
        }
        let data: Vec<u8> = parts.iter().flat_map(|part| part.iter().copied()).collect();
        let mut content = self.0.lock().unwrap();
        content.heal_blocks(at, data.len() as u64)?;
        put(&mut content.now, at, &data);
        content.mark_lost(at, data.len(), false);
        content.unsynced.push(Write { at, data });
        Ok(())
    }

    fn read_at(&self, parts: &mut [IoSliceMut<'_>], at: u64) -> io::Result<usize> {
        let content = self.0.lock().unwrap();
        let want: usize = parts.iter().map(|part| part.len()).sum();
        content.check_blocks(at, (at + want as u64).min(content.now.len() as u64))?;
        let mut from = content.now.get(at as usize..).unwrap_or_default();
        let mut total = 0;
        for part in parts {
            let len = part.len().min(from.len());
            part[..len].copy_from_slice(&from[..len]);
            from = &from[len..];
            total += len;
        }
        Ok(total)
    }

    fn reserve(&self, bytes: u64) -> io::Result<()> {
        let mut content = self.0.lock().unwrap();
        let len = content.now.len().max(bytes as usize);
        content.now.resize(len, 0);
        Ok(())
    }

    fn cut(&self, bytes: u64) -> io::Result<()> {
        let mut content = self.0.lock().unwrap();
        content.now.resize(bytes as usize, 0);
        content.lost.truncate(bytes as usize);
        Ok(())
    }

    fn bytes(&self) -> io::Result<u64> {
        Ok(self.0.lock().unwrap().now.len() as u64)
    }

    fn sync(&self) -> io::Result<()> {
        let mut content = self.0.lock().unwrap();
        match self.1.sync.swap(0, Ordering::SeqCst) {
            0 => content.sync(),
            seed => {
                content.give_up(&mut Rng(seed));
                return Err(io::Error::from_raw_os_error(libc::EIO));
            }
        }
        Ok(())
    }
}
