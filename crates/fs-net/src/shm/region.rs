//! The memory that two processes share: made, sealed, mapped, and how its words and bytes are touched.
//!
//! ```text
//!      0  control words, each alone in 128 bytes (two cache lines, which processors fetch together):
//!         ring 0 tail, ring 0 head, ring 1 tail, ring 1 head, asleep 0, asleep 1, starved 0, starved 1
//!   4096  ring 0 (client to server), 64 KiB       ring 1 (server to client), 64 KiB
//! 135168  arena 0 (filled by the client)          arena 1 (filled by the server), equally large
//! ```
//!
//! # Invariants
//! - The file is sealed against shrinking, growing and further seals before it is shared, and a file without these seals is not
//!   mapped, so no access within the mapping can meet the end of the file (`an_unsealed_file_is_refused`).
//! - Every offset is checked against the private layout, never against a number in the shared memory; an offset out of bounds
//!   panics before memory is touched (`bytes_out_of_bounds_are_refused`).
//! - The memory is unmapped when the last that refers to it is gone, wherever the session went before.
//!
//! The peer may write anything at any time. So nothing here, or above, decides by a value and reads it again: words are loaded once,
//! as atomics, and bytes that decide anything are copied first.

use super::budget::Grant;
use super::side::{Side, Way};
use crate::rdma::memory::{self, Tracked};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, fstat, ftruncate, memfd_create};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::AtomicU32;

/// Bytes of a ring. A power of two, so that positions may wrap.
pub(super) const RING_BYTES: usize = 64 << 10;
/// Granule of arenas; what they are aligned to.
pub(super) const PAGE_BYTES: usize = 4096;
/// Smallest and largest arena of one side, in bytes.
pub(super) const ARENA_MIN: u32 = 256 << 10;
pub(super) const ARENA_MAX: u32 = 16 << 20;

const CONTROL_BYTES: usize = 4096;
const WORD_STRIDE: usize = 128;
const ARENAS_AT: usize = CONTROL_BYTES + 2 * RING_BYTES;
const SEALS: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW).union(SealFlags::SEAL);

const _: () = assert!(RING_BYTES.is_power_of_two() && RING_BYTES < u32::MAX as usize);
const _: () = assert!(8 * WORD_STRIDE <= CONTROL_BYTES && ARENAS_AT.is_multiple_of(PAGE_BYTES));

/// A control word.
#[derive(Debug, Clone, Copy)]
pub(super) enum Word {
    /// Bytes ever put into a ring; written by its producer.
    Tail(Way),
    /// Bytes ever taken from a ring; written by its consumer.
    Head(Way),
    /// 1 while a side waits for anything to come; set by itself, cleared by who rings its bell.
    Asleep(Side),
    /// 1 while a side waits for room in the ring that it fills.
    Starved(Side),
}

/// Mapped shared memory.
pub(super) struct Region {
    base: NonNull<u8>,
    arena_bytes: u32,
    /// Arenas that RDMA devices may read and write in place.
    tracked: Vec<Tracked>,
    _grant: Option<Grant>,
}

// SAFETY: the mapping belongs to no thread; words are touched as atomics only, and bytes by the rules at `bytes`.
unsafe impl Send for Region {}
// SAFETY: as above.
unsafe impl Sync for Region {}

fn region_bytes(arena_bytes: u32) -> usize {
    ARENAS_AT + 2 * arena_bytes as usize
}

/// Whether a peer may offer arenas of this size.
pub(super) fn is_arena_size(bytes: u32) -> bool {
    (ARENA_MIN..=ARENA_MAX).contains(&bytes) && bytes.is_power_of_two()
}

/// Bytes of memory that a session with arenas of `arena_bytes` may come to use.
pub(super) fn session_bytes(arena_bytes: u32) -> u64 {
    region_bytes(arena_bytes) as u64
}

impl Region {
    /// New shared memory, all zero and sealed; with the file to pass on.
    pub fn create(arena_bytes: u32, grant: Grant) -> io::Result<(Region, OwnedFd)> {
        assert!(is_arena_size(arena_bytes));
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let file = memfd_create(c"hayate session", flags)?;
        ftruncate(&file, session_bytes(arena_bytes))?;
        fcntl_add_seals(&file, SEALS)?;
        let region = Region::map(file.as_fd(), arena_bytes, Some(grant))?;
        Ok((region, file))
    }

    /// Maps what a server passed. Refuses a file of another size, or one that could change its size later.
    pub fn open(file: BorrowedFd<'_>, arena_bytes: u32) -> io::Result<Region> {
        let refuse = |why| Err(io::Error::new(io::ErrorKind::InvalidData, why));
        if !is_arena_size(arena_bytes) || fstat(file)?.st_size as u64 != session_bytes(arena_bytes) {
            return refuse("shared memory of another size than announced");
        }
        if !fcntl_get_seals(file)?.contains(SEALS) {
            return refuse("shared memory that is not sealed");
        }
        Region::map(file, arena_bytes, None)
    }

    fn map(file: BorrowedFd<'_>, arena_bytes: u32, grant: Option<Grant>) -> io::Result<Region> {
        let len = region_bytes(arena_bytes);
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at a place of the kernel's choice overlaps nothing that this process has.
        let base = unsafe { mmap(std::ptr::null_mut(), len, protection, MapFlags::SHARED, file, 0) }?;
        let base = NonNull::new(base.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Region { base, arena_bytes, tracked: Vec::new(), _grant: grant })
    }

    /// Lets RDMA devices, if there are some, use an arena where it lies: what a peer put there is passed on, and what it is to get is received,
    /// without a copy.
    pub fn track(&mut self, way: Way) {
        let arena = self.arena_ptr(way, 0, self.arena_bytes);
        self.tracked.extend(memory::track(arena.as_ptr(), self.arena_bytes as usize));
    }

    /// Bytes of each arena.
    pub fn arena_bytes(&self) -> u32 {
        self.arena_bytes
    }

    /// A control word. Ordering is the caller's.
    pub fn word(&self, word: Word) -> &AtomicU32 {
        let index = match word {
            Word::Tail(way) => 2 * way.index(),
            Word::Head(way) => 2 * way.index() + 1,
            Word::Asleep(side) => 4 + side.index(),
            Word::Starved(side) => 6 + side.index(),
        };
        // SAFETY: index < 8, so the word lies within the mapping, which is page-aligned and lives as long as `self`; both
        // processes touch it as an atomic only, and any value is valid.
        unsafe { AtomicU32::from_ptr(self.base.add(index * WORD_STRIDE).cast().as_ptr()) }
    }

    /// Where `len` bytes of a ring from `at` lie. They must not wrap.
    #[inline]
    fn ring_ptr(&self, way: Way, at: usize, len: usize) -> NonNull<u8> {
        assert!(at <= RING_BYTES && len <= RING_BYTES - at, "within the ring");
        // SAFETY: by the assertion the place is within the mapping.
        unsafe { self.base.add(CONTROL_BYTES + way.index() * RING_BYTES + at) }
    }

    /// Puts bytes into a ring at `at`.
    #[inline]
    pub fn ring_put(&self, way: Way, at: usize, bytes: &[u8]) {
        let to = self.ring_ptr(way, at, bytes.len());
        // SAFETY: `to` has room for all; `bytes` is not in the ring, because nobody here has a reference into rings.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to.as_ptr(), bytes.len()) }
    }

    /// Copies bytes of a ring out.
    pub fn ring_get(&self, way: Way, at: usize, out: &mut [u8]) {
        let from = self.ring_ptr(way, at, out.len());
        // SAFETY: `from` has all the bytes. The peer may write them at the same time; then the copy is any bytes, which its
        // reader takes as such.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), out.as_mut_ptr(), out.len()) }
    }

    /// Whether `len` bytes from `at` lie in an arena.
    pub fn is_in_arena(&self, at: u32, len: u32) -> bool {
        at <= self.arena_bytes && len <= self.arena_bytes - at
    }

    /// Where `len` bytes of an arena from `at` lie.
    pub fn arena_ptr(&self, way: Way, at: u32, len: u32) -> NonNull<u8> {
        assert!(self.is_in_arena(at, len), "within the arena");
        let from = ARENAS_AT + way.index() * self.arena_bytes as usize + at as usize;
        // SAFETY: by the assertion the place is within the mapping.
        unsafe { self.base.add(from) }
    }

    /// Where in an arena `bytes` lie, if they do.
    pub fn offset_of(&self, way: Way, bytes: &[u8]) -> Option<u32> {
        let begin = self.arena_ptr(way, 0, 0).as_ptr() as usize;
        let at = (bytes.as_ptr() as usize).checked_sub(begin)?;
        let end = at.checked_add(bytes.len())?;
        (end <= self.arena_bytes as usize).then_some(at as u32)
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        self.tracked.clear();
        // SAFETY: the mapping is ours, and nothing refers to it any more: whoever does keeps the region alive.
        let gone = unsafe { munmap(self.base.as_ptr().cast(), region_bytes(self.arena_bytes)) };
        if let Err(error) = gone {
            tracing::error!(%error, "shared memory cannot be unmapped");
        }
    }
}

#[cfg(test)]
impl Region {
    /// One for tests.
    pub fn small() -> std::sync::Arc<Region> {
        let (_, grant) = super::budget::ShareBudget::new(64 << 20).grant().expect("room");
        std::sync::Arc::new(Region::create(ARENA_MIN, grant).expect("made").0)
    }
}

#[cfg(test)]
mod tests {
    use super::super::budget::ShareBudget;
    use super::*;
    use std::panic::AssertUnwindSafe;

    fn grant() -> Grant {
        ShareBudget::new(64 << 20).grant().expect("there is room").1
    }

    #[test]
    fn both_mappings_see_the_same_bytes() {
        let (ours, file) = Region::create(ARENA_MIN, grant()).expect("made");
        let theirs = Region::open(file.as_fd(), ARENA_MIN).expect("opened");
        ours.ring_put(Way::TO_SERVER, RING_BYTES - 3, b"abc");
        let mut out = [0; 3];
        theirs.ring_get(Way::TO_SERVER, RING_BYTES - 3, &mut out);
        assert_eq!(&out, b"abc");
        theirs.ring_get(Way::TO_CLIENT, RING_BYTES - 3, &mut out);
        assert_eq!(out, [0; 3]);
    }

    #[test]
    fn an_unsealed_file_is_refused() {
        let file = memfd_create(c"x", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).expect("made");
        ftruncate(&file, session_bytes(ARENA_MIN)).expect("sized");
        let why = Region::open(file.as_fd(), ARENA_MIN).err().expect("refused").to_string();
        assert!(why.contains("not sealed"), "{why}");
        fcntl_add_seals(&file, SEALS).expect("sealed");
        assert!(Region::open(file.as_fd(), ARENA_MIN).is_ok());
        for other in [ARENA_MIN * 2, ARENA_MIN + 1, 0] {
            let why = Region::open(file.as_fd(), other).err().expect("refused").to_string();
            assert!(why.contains("size"), "{why}");
        }
        assert!(ftruncate(&file, 0).is_err(), "nobody can cut it");
    }

    #[test]
    fn bytes_out_of_bounds_are_refused() {
        let (region, _file) = Region::create(ARENA_MIN, grant()).expect("made");
        assert!(region.is_in_arena(ARENA_MIN, 0) && region.is_in_arena(0, ARENA_MIN));
        for (at, len) in [(1, ARENA_MIN), (ARENA_MIN, 1), (u32::MAX, 2), (2, u32::MAX)] {
            assert!(!region.is_in_arena(at, len));
            let touched =
                std::panic::catch_unwind(AssertUnwindSafe(|| region.arena_ptr(Way::TO_CLIENT, at, len)));
            assert!(touched.is_err());
        }
        let touched =
            std::panic::catch_unwind(AssertUnwindSafe(|| region.ring_put(Way::TO_CLIENT, RING_BYTES, b"x")));
        assert!(touched.is_err());
    }

    #[test]
    fn bytes_are_found_in_their_arena_only() {
        let (region, _file) = Region::create(ARENA_MIN, grant()).expect("made");
        let at = |way, at, len| {
            let ptr = region.arena_ptr(way, at, len);
            // SAFETY: within the mapping, and nobody writes in this test.
            unsafe { std::slice::from_raw_parts(ptr.as_ptr(), len as usize) }
        };
        assert_eq!(region.offset_of(Way::TO_SERVER, at(Way::TO_SERVER, 8192, 100)), Some(8192));
        assert_eq!(region.offset_of(Way::TO_SERVER, at(Way::TO_CLIENT, 8192, 100)), None);
        assert_eq!(region.offset_of(Way::TO_CLIENT, at(Way::TO_SERVER, 0, 10)), None);
        assert_eq!(region.offset_of(Way::TO_CLIENT, &[1, 2, 3]), None);
    }
}
