//! Data passed by reference: blocks that this side fills and lends, and bytes that the peer lent to it.
//!
//! # Invariants
//! - A [`Block`] is written only by who holds it alone (`&mut`), and only before it is lent: lending takes shared bytes, which end that.
//! - [`Lent`] is given back once, when its last reader is gone, and the list of what is to be given back is no longer than what was
//!   received (`what_was_lent_comes_back_once`).
//!
//! **Shared bytes and Rust.** A slice into an arena is memory that another process may change, which the language does not foresee.
//! An honest peer never writes what it lent. For one that does, whoever reads such bytes must give the same safety with any
//! bytes at any time: checksums, copies and system calls do; parsers do not, and get copies (`session`: which requests are read in place).

use super::pages::Pages;
use super::region::{PAGE_BYTES, Region};
use super::side::Way;
use bytes::Bytes;
use parking_lot::Mutex;
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The arena that this side fills.
pub(crate) struct Arena {
    region: Arc<Region>,
    way: Way,
    pages: Mutex<Pages>,
}

/// A block of an arena, held by this side. Freed when dropped, or when the peer gives it back, whichever is later.
pub(crate) struct Block {
    arena: Arc<Arena>,
    at: u32,
    len: u32,
}

impl Arena {
    pub(super) fn new(region: Arc<Region>, way: Way) -> Arc<Arena> {
        let pages = Mutex::new(Pages::new(region.arena_bytes()));
        Arc::new(Arena { region, way, pages })
    }

    /// A block of `len` bytes or a little more (whole pages), if there is room. Old content shows through.
    pub(crate) fn take(self: &Arc<Self>, len: usize) -> Option<Block> {
        if len == 0 || len > self.region.arena_bytes() as usize {
            return None;
        }
        let at = self.pages.lock().take(len)?;
        let len = len.next_multiple_of(PAGE_BYTES) as u32;
        Some(Block { arena: self.clone(), at, len })
    }

    /// Where `bytes` lie in this arena, if they do and are not lent already; they are lent from now on.
    pub(super) fn lend(&self, bytes: &Bytes) -> Option<u32> {
        let at = self.region.offset_of(self.way, bytes)?;
        self.pages.lock().lend(at).then_some(at)
    }

    /// The peer gives back what was lent to it. False: it was not.
    pub(super) fn release(&self, at: u32) -> bool {
        self.pages.lock().release(at)
    }

    #[cfg(test)]
    pub(super) fn is_of_peer(&self, bytes: &[u8]) -> bool {
        self.region.offset_of(self.way.back(), bytes).is_some()
    }

    #[cfg(test)]
    pub(super) fn pages_in_use(&self) -> usize {
        self.pages.lock().in_use()
    }
}

impl fmt::Debug for Arena {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Arena({} bytes, {} pages in use)", self.region.arena_bytes(), self.pages.lock().in_use())
    }
}

impl Deref for Block {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        let from = self.arena.region.arena_ptr(self.arena.way, self.at, self.len);
        // SAFETY: within the mapping, which the block keeps alive; the pages belong to this block alone, so nobody here has a
        // mutable reference besides `&mut self`. What the peer may do: see the module.
        unsafe { std::slice::from_raw_parts(from.as_ptr(), self.len as usize) }
    }
}

impl DerefMut for Block {
    fn deref_mut(&mut self) -> &mut [u8] {
        let from = self.arena.region.arena_ptr(self.arena.way, self.at, self.len);
        // SAFETY: as above, and `&mut self` is the only reference to it here.
        unsafe { std::slice::from_raw_parts_mut(from.as_ptr(), self.len as usize) }
    }
}

impl AsRef<[u8]> for Block {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        self.arena.pages.lock().drop_held(self.at);
    }
}

/// What this side has been lent and let go, to be told with the next message.
#[derive(Debug, Default)]
pub(super) struct Releases {
    list: Mutex<Vec<u32>>,
    /// Whether there may be something in the list: most messages find nothing there.
    any: AtomicBool,
}

impl Releases {
    /// Takes what was let go since the last time.
    pub fn drain_into(&self, out: &mut Vec<u32>) {
        if self.any.load(Ordering::Acquire) {
            let mut list = self.list.lock();
            self.any.store(false, Ordering::Relaxed);
            out.append(&mut list);
        }
    }

    fn add(&self, at: u32) {
        let mut list = self.list.lock();
        list.push(at);
        self.any.store(true, Ordering::Release);
    }
}

/// Bytes in the peer's arena.
pub(super) struct Lent {
    region: Arc<Region>,
    way: Way,
    at: u32,
    len: u32,
    releases: Arc<Releases>,
}

impl Lent {
    /// `None`: no such bytes can be.
    pub fn new(region: &Arc<Region>, way: Way, at: u32, len: u32, releases: &Arc<Releases>) -> Option<Lent> {
        let (region, releases) = (region.clone(), releases.clone());
        region.is_in_arena(at, len).then_some(Lent { region, way, at, len, releases })
    }

    /// The bytes in place. They go back when the last reference to them is gone.
    pub fn in_place(self) -> Bytes {
        Bytes::from_owner(self)
    }

    /// Copies the bytes out; `out` has their length.
    pub fn copy_to(&self, out: &mut [u8]) {
        assert_eq!(out.len(), self.len as usize);
        let from = self.region.arena_ptr(self.way, self.at, self.len);
        // SAFETY: both have `len` bytes, and `out` is private memory. Should the peer write meanwhile, the copy is any bytes.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), out.as_mut_ptr(), out.len()) }
    }
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        let from = self.region.arena_ptr(self.way, self.at, self.len);
        // SAFETY: within the mapping, which `self` keeps alive; nobody in this process writes the peer's arena. What the peer
        // may do: see the module.
        unsafe { std::slice::from_raw_parts(from.as_ptr(), self.len as usize) }
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        self.releases.add(self.at);
    }
}

#[cfg(test)]
mod tests {
    use super::super::region::ARENA_MIN;
    use super::*;

    #[test]
    fn what_was_lent_comes_back_once() {
        let region = Region::small();
        let (arena, releases) = (Arena::new(region.clone(), Way::TO_SERVER), Arc::new(Releases::default()));
        let mut block = arena.take(10_000).expect("room");
        block.fill(7);
        let bytes = Bytes::from_owner(block).slice(5..9_000);
        let at = arena.lend(&bytes).expect("ours");
        assert_eq!((arena.lend(&bytes), arena.lend(&Bytes::from_static(b"x"))), (None, None));
        let lent = Lent::new(&region, Way::TO_SERVER, at, 8_995, &releases).expect("in bounds");
        let mut copy = vec![0; 8_995];
        lent.copy_to(&mut copy);
        let seen = lent.in_place();
        assert!(seen == bytes && copy == bytes);
        let piece = seen.slice(10..20);
        drop((bytes, seen));
        let mut given_back = Vec::new();
        releases.drain_into(&mut given_back);
        assert!(given_back.is_empty() && arena.pages_in_use() == 3);
        drop(piece);
        releases.drain_into(&mut given_back);
        releases.drain_into(&mut given_back);
        assert_eq!(given_back, [at]);
        assert!(arena.release(at) && !arena.release(at));
        assert_eq!(arena.pages_in_use(), 0);
        assert!(Lent::new(&region, Way::TO_SERVER, ARENA_MIN - 1, 2, &releases).is_none());
    }
}
