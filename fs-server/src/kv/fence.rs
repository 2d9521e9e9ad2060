//! How far each lane of the guard has been acknowledged, kept outside of the engine in one page that survives a kill.
//!
//! ```text
//! file "fence", 4096 bytes, little-endian:
//!   0  magic    "HAYFENC1"
//!   8  boot id  u128        of the kernel under which the counts were acknowledged
//!  24  boot id  u128        of the kernel under which a process has last begun to open the store
//!  64  lanes    32 * { acknowledged:u64  synced:u64  zeros[48] }
//! ```
//! The page is mapped, so that raising a count is a store to memory. Nobody syncs it: under the same boot the kernel has
//! it; after a loss of power it is at most as old as the kernel's write-back (30 s), and then says less, never too much:
//! a synced count is stored after the engine's sync has returned.
//!
//! # Invariants
//! - Under the boot that wrote it, a store below the acknowledged counts is refused (`tests/kv`, `a_lost_end_is_told`).
//! - Under another boot, a store below the synced counts is refused (`tests/kv`, `a_lost_synced_end_is_told`).
//! - A refused store is refused again: the fence is left as it was (the same tests).

use super::KvError;
use crate::boot::boot_id;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// Lanes of commits: more than a server has threads that commit at once.
pub(super) const LANES: usize = 32;
/// A count for each lane.
pub(super) type Counts = [u64; LANES];

const FILE: &str = "fence";
const FILE_BYTES: usize = 4096;
const MAGIC: &[u8; 8] = b"HAYFENC1";
const OPENED_AT: usize = 24;
const LANES_AT: usize = 64;
/// A lane has a cache line of its own.
const LANE_BYTES: usize = 64;
const _: () = assert!(LANES_AT + LANES * LANE_BYTES <= FILE_BYTES);

/// The fence as the last process left it.
pub(super) struct Past {
    path: PathBuf,
    file: File,
    old: Vec<u8>,
}

impl Past {
    /// Reads the fence in `dir`; makes an empty one if there is none.
    pub(super) fn read(dir: &Path) -> Result<Self, KvError> {
        let path = dir.join(FILE);
        let mut options = OpenOptions::new();
        let options = options.read(true).write(true).create(true).truncate(false);
        let mut file = options.open(&path).map_err(KvError::from_io)?;
        let mut old = vec![0; FILE_BYTES];
        if file.metadata().map_err(KvError::from_io)?.len() == FILE_BYTES as u64 {
            file.read_exact(&mut old).map_err(KvError::from_io)?;
        }
        // Zeros are what a loss of power may leave of a fence that was just made.
        if old.iter().any(|byte| *byte != 0) && old[..8] != *MAGIC {
            return Err(KvError::Corrupt(format!(
                "{} is not a fence; if the store is known to be whole, delete that file",
                path.display()
            )));
        }
        Ok(Past { path, file, old })
    }

    /// Whether the kernel still runs under which it was kept. A boot that does not tell its id is never the same.
    pub(super) fn is_same_boot(&self) -> bool {
        boot_id() != 0 && self.old[8..24] == boot_id().to_le_bytes()
    }

    /// Whether a process has had the store open under this kernel, which may show what is not on the device then. Also without an answer.
    pub(super) fn may_show_unwritten(&self) -> bool {
        boot_id() == 0 || self.is_same_boot() || self.old[OPENED_AT..][..16] == boot_id().to_le_bytes()
    }

    /// From now on it is open under this kernel. Kept by that kernel, so nothing has to reach the device.
    pub(super) fn note_opening(&mut self) -> Result<(), KvError> {
        self.old[OPENED_AT..][..16].copy_from_slice(&boot_id().to_le_bytes());
        self.old[..8].copy_from_slice(MAGIC);
        let (file, page) = (&mut self.file, &self.old);
        file.seek(SeekFrom::Start(0)).and_then(|_| file.write_all(page)).map_err(KvError::from_io)
    }

    /// Changes of a lane that are known to be on the device.
    pub(super) fn synced(&self, lane: usize) -> u64 {
        word_of(&self.old, synced_at(lane))
    }

    /// An error if the engine, which has the `stored` counts, has lost something.
    pub(super) fn compare(&self, stored: &Counts) -> Result<(), KvError> {
        let (at, what): (fn(usize) -> usize, _) =
            if self.is_same_boot() { (acknowledged_at, "acknowledged") } else { (synced_at, "synced") };
        let lost = |(lane, count): (usize, &u64)| word_of(&self.old, at(lane)).saturating_sub(*count);
        let lost: u64 = stored.iter().enumerate().map(lost).sum();
        if lost == 0 {
            return Ok(());
        }
        Err(KvError::Corrupt(format!(
            "it has lost at least {lost} {what} changes: its journal was damaged or replaced by an older copy. Restore the store \
             directory from where it is whole; or, to go on without these changes, delete {}",
            self.path.display()
        )))
    }

    /// Begins a fence of this boot from the `stored` counts.
    pub(super) fn renew(mut self, stored: &Counts) -> Result<Fence, KvError> {
        // Written before it is mapped, so that no store to the page can lack space.
        self.file
            .seek(SeekFrom::Start(0))
            .and_then(|_| self.file.write_all(&renewed(&self.old, stored)))
            .map_err(KvError::from_io)?;
        Ok(Fence { page: Page::map(&self.file).map_err(KvError::from_io)? })
    }
}

pub(super) struct Fence {
    page: Page,
}

impl Fence {
    /// Raises a lane's count; called by one thread at a time for each lane.
    pub(super) fn acknowledge(&self, lane: usize, count: u64) {
        self.page.word(acknowledged_at(lane)).store(count.to_le(), Ordering::Release);
    }

    /// What is acknowledged now.
    pub(super) fn acknowledged(&self) -> Counts {
        std::array::from_fn(|lane| {
            u64::from_le(self.page.word(acknowledged_at(lane)).load(Ordering::Acquire))
        })
    }

    /// These counts survive a loss of power. Two callers may come in any order: none lowers what the other raised.
    pub(super) fn note_synced(&self, counts: &Counts) {
        for (lane, count) in counts.iter().enumerate() {
            let word = self.page.word(synced_at(lane));
            let raise = |old: u64| (u64::from_le(old) < *count).then_some(count.to_le());
            // An error says that the word is as high already.
            let _ = word.fetch_update(Ordering::AcqRel, Ordering::Relaxed, raise);
        }
    }
}

const fn acknowledged_at(lane: usize) -> usize {
    LANES_AT + lane * LANE_BYTES
}

const fn synced_at(lane: usize) -> usize {
    acknowledged_at(lane) + 8
}

fn word_of(page: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(page[at..at + 8].try_into().expect("eight bytes"))
}

fn renewed(old: &[u8], stored: &Counts) -> Vec<u8> {
    let mut page = vec![0; FILE_BYTES];
    page[..8].copy_from_slice(MAGIC);
    page[8..24].copy_from_slice(&boot_id().to_le_bytes());
    page[OPENED_AT..][..16].copy_from_slice(&boot_id().to_le_bytes());
    for (lane, count) in stored.iter().enumerate() {
        page[acknowledged_at(lane)..][..8].copy_from_slice(&count.to_le_bytes());
        page[synced_at(lane)..][..8].copy_from_slice(&word_of(old, synced_at(lane)).to_le_bytes());
    }
    page
}

/// The mapped file.
struct Page {
    start: *mut core::ffi::c_void,
}

// SAFETY: the mapping is reached through atomics only, belongs to this value and moves with it.
unsafe impl Send for Page {}
// SAFETY: as above; atomics may be shared.
unsafe impl Sync for Page {}

impl Page {
    fn map(file: &File) -> std::io::Result<Page> {
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice; the file has FILE_BYTES, written just before.
        let start = unsafe { mmap(std::ptr::null_mut(), FILE_BYTES, access, MapFlags::SHARED, file, 0)? };
        Ok(Page { start })
    }

    fn word(&self, at: usize) -> &AtomicU64 {
        assert!(at.is_multiple_of(8) && at + 8 <= FILE_BYTES);
        // SAFETY: within the mapping, which lives as long as self; aligned, as the mapping begins on a page; only
        // accessed as atomics by this process, and no other maps the file while the engine's lock is held.
        unsafe { &*self.start.cast::<AtomicU64>().add(at / size_of::<AtomicU64>()) }
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        // SAFETY: what was mapped above, once; no reference into it outlives self.
        let unmapped = unsafe { munmap(self.start, FILE_BYTES) };
        debug_assert!(unmapped.is_ok());
    }
}
