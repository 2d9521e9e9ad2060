//! Which pages of an arena are in use: first fit, so that the same few pages are used again while they are in the CPU's cache.
//!
//! All of it is private to the side that fills the arena: the peer can release what was lent to it, and nothing else.
//!
//! # Invariants
//! - A page belongs to one block at most (`blocks_never_overlap`).
//! - A block is free again when its holder here dropped it and the peer, if it was lent to it, gave it back, in whichever order
//!   (`a_block_is_free_when_both_let_go`).

use super::region::PAGE_BYTES;

#[derive(Debug, Clone, Copy, Default)]
struct Block {
    pages: u32,
    held: bool,
    /// Offset in bytes under which the peer knows it.
    lent: Option<u32>,
}

/// The state of an arena's pages.
pub(super) struct Pages {
    /// A bit for each page in use.
    used: Vec<u64>,
    total: usize,
    /// First page of the block that each used page belongs to.
    first: Vec<u32>,
    /// By first page.
    blocks: Vec<Block>,
    in_use: usize,
}

impl Pages {
    /// All free.
    pub fn new(bytes: u32) -> Pages {
        let pages = bytes as usize / PAGE_BYTES;
        Pages {
            used: vec![0; pages.div_ceil(64)],
            total: pages,
            first: vec![0; pages],
            blocks: vec![Block::default(); pages],
            in_use: 0,
        }
    }

    /// Pages in use.
    pub fn in_use(&self) -> usize {
        self.in_use
    }

    /// A block of at least `bytes`, held; gives its offset in bytes.
    pub fn take(&mut self, bytes: usize) -> Option<u32> {
        let want = bytes.div_ceil(PAGE_BYTES).max(1);
        let mut begin = self.next(0, true);
        while begin + want <= self.total {
            let end = self.next(begin, false);
            if end - begin >= want {
                self.mark(begin, want, true);
                self.first[begin..begin + want].fill(begin as u32);
                self.blocks[begin] = Block { pages: want as u32, held: true, lent: None };
                self.in_use += want;
                return Some((begin * PAGE_BYTES) as u32);
            }
            begin = self.next(end, true);
        }
        None
    }

    /// The holder of the block at `at` dropped it.
    pub fn drop_held(&mut self, at: u32) {
        let page = at as usize / PAGE_BYTES;
        self.blocks[page].held = false;
        self.free_if_unused(page);
    }

    /// Lends the bytes from `at`, which lie in a held block, to the peer. False: it has it already.
    pub fn lend(&mut self, at: u32) -> bool {
        let block = &mut self.blocks[self.first[at as usize / PAGE_BYTES] as usize];
        let fresh = block.lent.is_none();
        if fresh {
            block.lent = Some(at);
        }
        fresh
    }

    /// The peer gives back what it was lent at `at`. False: it was not.
    pub fn release(&mut self, at: u32) -> bool {
        let page = at as usize / PAGE_BYTES;
        if page >= self.total || self.used[page / 64] >> (page % 64) & 1 == 0 {
            return false;
        }
        let first = self.first[page] as usize;
        if self.blocks[first].lent != Some(at) {
            return false;
        }
        self.blocks[first].lent = None;
        self.free_if_unused(first);
        true
    }

    fn free_if_unused(&mut self, first: usize) {
        let block = self.blocks[first];
        if !block.held && block.lent.is_none() {
            self.mark(first, block.pages as usize, false);
            self.in_use -= block.pages as usize;
        }
    }

    /// The next free (or used) page from `from` on; the end if there is none.
    fn next(&self, from: usize, free: bool) -> usize {
        let mut word = from / 64;
        let mut mask = u64::MAX << (from % 64);
        while word < self.used.len() {
            let bits = if free { !self.used[word] } else { self.used[word] } & mask;
            if bits != 0 {
                return (word * 64 + bits.trailing_zeros() as usize).min(self.total);
            }
            mask = u64::MAX;
            word += 1;
        }
        self.total
    }

    fn mark(&mut self, begin: usize, pages: usize, used: bool) {
        let mut at = begin;
        let end = begin + pages;
        while at < end {
            let bits = (64 - at % 64).min(end - at);
            let mask = (u64::MAX >> (64 - bits)) << (at % 64);
            let word = &mut self.used[at / 64];
            *word = if used { *word | mask } else { *word & !mask };
            at += bits;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PAGE: u32 = PAGE_BYTES as u32;

    #[test]
    fn a_block_is_free_when_both_let_go() {
        let mut pages = Pages::new(64 * PAGE);
        let at = pages.take(5 * PAGE_BYTES - 1).expect("room");
        assert!(!pages.release(at), "not lent");
        assert!(pages.lend(at + 100) && !pages.lend(at));
        assert!(!pages.release(at) && !pages.release(u32::MAX) && !pages.release(63 * PAGE));
        pages.drop_held(at);
        assert_eq!(pages.in_use(), 5);
        assert!(pages.release(at + 100) && !pages.release(at + 100));
        assert_eq!(pages.in_use(), 0);
        let again = pages.take(1).expect("room");
        assert!(again == at && pages.lend(again) && pages.release(again));
        assert_eq!(pages.in_use(), 1);
        pages.drop_held(again);
        assert_eq!((pages.in_use(), pages.take(64 * PAGE_BYTES)), (0, Some(0)));
        assert_eq!(pages.take(0), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        /// Goal: no two blocks share a page, and what is free is found. Method: random takes and drops beside a plain list.
        #[test]
        fn blocks_never_overlap(steps in prop::collection::vec((1..90usize, any::<prop::sample::Index>()), 1..200)) {
            let mut pages = Pages::new(200 * PAGE);
            let mut blocks: Vec<(usize, usize)> = Vec::new();
            for (want, which) in steps {
                if want > 60 && !blocks.is_empty() {
                    let (at, _) = blocks.swap_remove(which.index(blocks.len()));
                    pages.drop_held(at as u32 * PAGE);
                    continue;
                }
                let free = |at: usize| blocks.iter().all(|(begin, len)| at < *begin || at >= begin + len);
                let fits = (0..=200 - want.min(200)).find(|at| (*at..at + want).all(free));
                let got = pages.take(want * PAGE_BYTES).map(|at| (at / PAGE) as usize);
                prop_assert_eq!(got, fits);
                blocks.extend(got.map(|at| (at, want)));
                prop_assert_eq!(pages.in_use(), blocks.iter().map(|(_, len)| len).sum::<usize>());
            }
        }
    }
}
