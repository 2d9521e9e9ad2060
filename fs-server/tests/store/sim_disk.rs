//! A disk in memory that a test can crash: writes and names that were not synced survive, vanish or tear as a seed says.

use crate::support::Rng;
use fs_server::store::disk::{Disk, SegmentFile};
use std::collections::BTreeMap;
use std::io::{self, IoSlice, IoSliceMut};
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Mutex};

/// Bytes that a device writes wholly or not at all.
const SECTOR_BYTES: usize = 512;
const TOTAL_BYTES: u64 = 1 << 30;

struct Write {
    at: u64,
    data: Vec<u8>,
}

#[derive(Default)]
struct Content {
    now: Vec<u8>,
    synced: Vec<u8>,
    unsynced: Vec<Write>,
}

#[derive(Default)]
pub struct SimFile(Mutex<Content>, Arc<AtomicI32>);

#[derive(Default)]
struct Names {
    now: BTreeMap<u32, Arc<SimFile>>,
    synced: BTreeMap<u32, Arc<SimFile>>,
}

/// The second is the error that the next write ends with, if it is not zero.
#[derive(Default)]
pub struct SimDisk(Mutex<Names>, Arc<AtomicI32>);

fn put(bytes: &mut Vec<u8>, at: u64, data: &[u8]) {
    let end = at as usize + data.len();
    bytes.resize(bytes.len().max(end), 0);
    bytes[at as usize..end].copy_from_slice(data);
}

impl SimFile {
    fn new(content: Vec<u8>) -> Arc<SimFile> {
        SimFile::failing(content, Arc::default())
    }

    fn failing(content: Vec<u8>, failure: Arc<AtomicI32>) -> Arc<SimFile> {
        let content = Content { now: content.clone(), synced: content, ..Content::default() };
        Arc::new(SimFile(Mutex::new(content), failure))
    }

    /// What a loss of power leaves: of each unsynced write any of its sectors, the last one torn as likely as not.
    fn after_power_loss(&self, rng: &mut Rng) -> Arc<SimFile> {
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
        SimFile::new(bytes)
    }
}

impl SimDisk {
    pub fn new() -> Arc<SimDisk> {
        Arc::default()
    }

    /// Lets the next write end with an error of the system.
    pub fn fail_next(&self, errno: i32) {
        self.1.store(errno, Ordering::SeqCst);
    }

    /// What is there after a kill of the process: all that was written.
    pub fn after_kill(&self) -> Arc<SimDisk> {
        let names = self.0.lock().unwrap();
        let copy =
            |(id, file): (&u32, &Arc<SimFile>)| (*id, SimFile::new(file.0.lock().unwrap().now.clone()));
        let now: BTreeMap<_, _> = names.now.iter().map(copy).collect();
        Arc::new(SimDisk(Mutex::new(Names { synced: now.clone(), now }), Arc::default()))
    }

    /// What is there after a loss of power.
    pub fn after_power_loss(&self, rng: &mut Rng) -> Arc<SimDisk> {
        let names = self.0.lock().unwrap();
        let mut now = BTreeMap::new();
        let ids: std::collections::BTreeSet<_> = names.now.keys().chain(names.synced.keys()).collect();
        for id in ids {
            // A name that was made or removed without a sync is there or not.
            let is_certain = names.now.contains_key(id) && names.synced.contains_key(id);
            if let Some(file) = names.now.get(id).or(names.synced.get(id))
                && (is_certain || rng.below(2) == 0)
            {
                now.insert(*id, file.after_power_loss(rng));
            }
        }
        Arc::new(SimDisk(Mutex::new(Names { synced: now.clone(), now }), Arc::default()))
    }
}

impl Disk for SimDisk {
    fn list(&self) -> io::Result<Vec<u32>> {
        Ok(self.0.lock().unwrap().now.keys().copied().collect())
    }

    fn create(&self, id: u32) -> io::Result<Arc<dyn SegmentFile>> {
        let file = SimFile::failing(Vec::new(), Arc::clone(&self.1));
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
        let errno = self.1.swap(0, Ordering::SeqCst);
        if errno != 0 {
            return Err(io::Error::from_raw_os_error(errno));
        }
        let data: Vec<u8> = parts.iter().flat_map(|part| part.iter().copied()).collect();
        let mut content = self.0.lock().unwrap();
        put(&mut content.now, at, &data);
        content.unsynced.push(Write { at, data });
        Ok(())
    }

    fn read_at(&self, parts: &mut [IoSliceMut<'_>], at: u64) -> io::Result<usize> {
        let content = self.0.lock().unwrap();
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
        self.0.lock().unwrap().now.resize(bytes as usize, 0);
        Ok(())
    }

    fn bytes(&self) -> io::Result<u64> {
        Ok(self.0.lock().unwrap().now.len() as u64)
    }

    fn sync(&self) -> io::Result<()> {
        let content = &mut *self.0.lock().unwrap();
        content.synced.clone_from(&content.now);
        content.unsynced.clear();
        Ok(())
    }
}
