//! Both rings of one side, and sleeping without missing anything.
//!
//! # Invariants
//! - A side that sleeps is rung when anything was put into its inward ring, and one that waits for room when room was made
//!   (`nobody_sleeps_through_a_message`, an exhaustive search over interleavings; `tests/shared.rs` with real processes).
//!   Who goes to sleep writes its word and then looks at the ring; who put something publishes it and then looks at the word. A
//!   sequentially consistent fence between the two steps of each makes one of them see the other's write.
//! - What was shown to a peer without waking it is rung for with the next [`Link::publish`] (`what_was_shown_is_rung_for_in_the_end`).
//! - A peer that is awake costs no system call: only a word that was 1 is rung for, by whoever sets it to 0
//!   (`an_awake_peer_is_not_rung`).

use super::bell::{Ear, Rope};
use super::region::{Region, Word};
use super::ring::{Consumer, Producer};
use super::side::Side;
use super::spin::Spin;
use crate::error::NetError;
use bytes::BytesMut;
use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering, fence};
use std::task::{Context, Poll};

/// One side's end.
pub(super) struct Link {
    region: Arc<Region>,
    side: Side,
    out: Producer,
    inward: Consumer,
    ear: Ear,
    rope: Rope,
    /// Our word may still say that we sleep.
    dozing: bool,
    /// Whether the peer was shown something and has not been woken for it.
    has_shown: bool,
    spin: Spin,
    /// Rings since the last time somebody asked.
    rings: u64,
}

thread_local! {
    /// Links that were made on this thread and not dropped: an event loop's.
    static LINKS: Cell<u32> = const { Cell::new(0) };
}

impl Drop for Link {
    fn drop(&mut self) {
        // A thread that ends has no other sessions to be kind to.
        let _ = LINKS.try_with(|links| links.set(links.get().saturating_sub(1)));
    }
}

impl Link {
    pub fn new(region: Arc<Region>, side: Side, (ear, rope): (Ear, Rope), spin: Spin) -> Link {
        let out = Producer::new(region.clone(), side.outward());
        let inward = Consumer::new(region.clone(), side.inward());
        LINKS.set(LINKS.get() + 1);
        Link { region, side, out, inward, ear, rope, dozing: false, has_shown: false, spin, rings: 0 }
    }

    /// Appends what arrived to `taken`; returns how many bytes.
    pub fn take(&mut self, taken: &mut BytesMut) -> Result<usize, NetError> {
        let len = self.inward.take(taken)?;
        if len > 0 {
            self.ring_if(Word::Starved(self.side.peer()));
        }
        Ok(len)
    }

    pub fn has_room(&mut self, bytes: usize) -> Result<bool, NetError> {
        self.out.has_room(bytes)
    }

    /// Puts bytes for which there is room; not seen by the peer before [`Link::publish`].
    #[inline]
    pub fn put(&mut self, bytes: &[u8]) {
        self.out.put(bytes);
    }

    /// Shows the peer what was put, but wakes it not before [`Link::publish`].
    pub fn show(&mut self) {
        self.has_shown |= self.out.publish();
    }

    /// Shows the peer what was put, and wakes it if it sleeps.
    pub fn publish(&mut self) {
        let has_shown = std::mem::take(&mut self.has_shown);
        if (self.out.publish() || has_shown) && !self.ring_if(Word::Asleep(self.side.peer())) {
            self.spin.peer_is_awake();
        }
    }

    /// We are up: the peer need not ring. To be called before anything is looked at, so that a ring of before is for something that will
    /// be seen.
    pub fn rise(&mut self) {
        self.ear.tidy();
        self.wake();
    }

    fn wake(&mut self) {
        if std::mem::take(&mut self.dozing) {
            self.region.word(Word::Asleep(self.side)).store(0, Ordering::Relaxed);
        }
    }

    /// Looks a little whether something arrives, if that pays.
    pub fn look(&mut self) -> bool {
        let inward = &self.inward;
        self.spin.look(LINKS.get(), || inward.has_bytes()) == Some(true)
    }

    /// Pending when a ring will wake the task as soon as something arrives; ready when something has.
    pub fn poll_arrived(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), NetError>> {
        announce(self.region.word(Word::Asleep(self.side)));
        self.dozing = true;
        if self.inward.has_bytes() {
            self.wake();
            return Poll::Ready(Ok(()));
        }
        self.ear.poll_quiet(cx).map(|_| Err(NetError::Closed))
    }

    /// Pending when a ring will wake the task as soon as there may be room for `bytes`; ready when there is.
    pub fn poll_room(&mut self, cx: &mut Context<'_>, bytes: usize) -> Poll<Result<(), NetError>> {
        announce(self.region.word(Word::Starved(self.side)));
        if self.out.has_room(bytes)? {
            self.region.word(Word::Starved(self.side)).store(0, Ordering::Relaxed);
            return Poll::Ready(Ok(()));
        }
        self.ear.poll_quiet(cx).map(|_| Err(NetError::Closed))
    }

    /// Rings since the last call.
    pub fn take_rings(&mut self) -> u64 {
        std::mem::take(&mut self.rings)
    }

    /// Rings if the peer waits for what this word says; whether it did.
    fn ring_if(&mut self, word: Word) -> bool {
        let waits = answer(self.region.word(word));
        if waits {
            self.rope.ring();
            self.rings += 1;
        }
        waits
    }
}

/// First step of who goes to sleep; then it looks at the ring.
fn announce(word: &AtomicU32) {
    word.store(1, Ordering::Relaxed);
    fence(Ordering::SeqCst);
}

/// Second step of who changed the ring: whether to ring.
fn answer(word: &AtomicU32) -> bool {
    fence(Ordering::SeqCst);
    word.load(Ordering::Relaxed) == 1 && word.swap(0, Ordering::Relaxed) == 1
}

#[cfg(test)]
pub(super) mod tests;
