//! A meter of the heap for tests: what each thread holds, as the system's allocator itself accounts for it (whole blocks with their heads).
//!
//! A test program includes this file, and has a static of [`Counted`] as its global allocator.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::collections::BTreeMap;

/// Sizes of blocks that are told apart: multiples of 16 bytes.
const SIZES: usize = 64;

thread_local! {
    static HELD: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
    static BLOCKS: [Cell<i32>; SIZES] = const { [const { Cell::new(0) }; SIZES] };
}

/// The system's allocator, counted.
pub struct Counted;

/// Counts a block that this thread got (1) or gave back (-1). Blocks change threads hardly ever in such tests.
fn count(block: *mut u8, sign: isize) {
    // SAFETY: the block was got from the system's allocator and has not been given back.
    let bytes = unsafe { libc::malloc_usable_size(block.cast()) } + size_of::<usize>();
    // A thread that ends has no counters any more.
    let _ = HELD.try_with(|held| {
        held.set(held.get() + sign * bytes as isize);
        let _ = PEAK.try_with(|peak| peak.set(peak.get().max(held.get())));
    });
    let _ = BLOCKS.try_with(|blocks| {
        let of_size = &blocks[(bytes / 16).min(SIZES - 1)];
        of_size.set(of_size.get() + sign as i32);
    });
}

// SAFETY: everything is the system's allocator's, which keeps the contract.
unsafe impl GlobalAlloc for Counted {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as the caller promises.
        let block = unsafe { System.alloc(layout) };
        if !block.is_null() {
            count(block, 1);
        }
        block
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        count(block, -1);
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(block, layout) }
    }
}

/// Bytes that this thread holds.
pub fn held() -> isize {
    HELD.get()
}

/// The most that this thread has held since it was asked last.
pub fn peak() -> isize {
    PEAK.replace(HELD.get())
}

/// What a thread holds: bytes, and blocks by their size.
pub struct Held {
    /// Bytes.
    pub bytes: isize,
    blocks: Vec<i32>,
}

impl Held {
    /// What this thread holds now.
    pub fn now() -> Held {
        let blocks = BLOCKS.with(|blocks| blocks.iter().map(Cell::get).collect());
        Held { bytes: HELD.get(), blocks }
    }

    /// Sizes of the blocks of which there are more than so many more than before, with how many of each.
    pub fn blocks_since(&self, before: &Held, many: usize) -> BTreeMap<usize, i32> {
        let more = self.blocks.iter().zip(&before.blocks).enumerate();
        more.map(|(n, (now, before))| (n * 16, now - before))
            .filter(|(_, more)| *more > many as i32)
            .collect()
    }
}

/// A meter that shows nothing would let everything pass.
pub fn check_the_meter() {
    let before = held();
    let block = std::hint::black_box(Box::new([7_u8; 1000]));
    assert!((1008..1032).contains(&(held() - before)), "{}", held() - before);
    drop(block);
    assert_eq!(held(), before);
}
