//! One way's ring of bytes: one producer, one consumer, records that are published whole.
//!
//! # Invariants
//! - Bytes come out as they went in, in order, whatever the sizes (`bytes_come_out_as_they_went_in`, also between threads).
//! - The consumer sees a byte only after it was written: the producer stores `tail` with Release after the bytes, the consumer loads
//!   it with Acquire before it copies them. The producer writes over a byte only after it was copied out: the consumer stores `head`
//!   with Release after the copy, the producer loads it with Acquire before it writes.
//! - Each side's own position is private; the shared word only tells the other. A position of the peer that cannot be (more in the ring
//!   than fits) is an error, never an index (`impossible_positions_are_errors`).

use super::region::{RING_BYTES, Region, Word};
use super::side::Way;
use crate::error::NetError;
use bytes::BytesMut;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// The filling end.
pub(super) struct Producer {
    region: Arc<Region>,
    way: Way,
    /// Bytes ever put; those up to `published` are known to the consumer.
    tail: u32,
    published: u32,
    /// The consumer's position as last seen.
    head: u32,
}

/// The emptying end.
pub(super) struct Consumer {
    region: Arc<Region>,
    way: Way,
    head: u32,
}

fn impossible() -> NetError {
    NetError::protocol("a position in shared memory that cannot be")
}

impl Producer {
    pub fn new(region: Arc<Region>, way: Way) -> Producer {
        Producer { region, way, tail: 0, published: 0, head: 0 }
    }

    /// Whether `bytes` can be put now.
    pub fn has_room(&mut self, bytes: usize) -> Result<bool, NetError> {
        if self.room() >= bytes {
            return Ok(true);
        }
        let head = self.region.word(Word::Head(self.way)).load(Ordering::Acquire);
        if self.tail.wrapping_sub(head) > self.tail.wrapping_sub(self.head) {
            return Err(impossible());
        }
        self.head = head;
        Ok(self.room() >= bytes)
    }

    fn room(&self) -> usize {
        RING_BYTES - self.tail.wrapping_sub(self.head) as usize
    }

    /// Puts bytes for which there is room. They are not seen before [`Producer::publish`].
    #[inline]
    pub fn put(&mut self, bytes: &[u8]) {
        assert!(self.room() >= bytes.len(), "room was asked for");
        let at = self.tail as usize % RING_BYTES;
        if bytes.len() <= RING_BYTES - at {
            self.region.ring_put(self.way, at, bytes);
        } else {
            let (first, rest) = bytes.split_at(RING_BYTES - at);
            self.region.ring_put(self.way, at, first);
            self.region.ring_put(self.way, 0, rest);
        }
        self.tail = self.tail.wrapping_add(bytes.len() as u32);
    }

    /// Lets the consumer see what was put. False: that was nothing.
    pub fn publish(&mut self) -> bool {
        if self.published == self.tail {
            return false;
        }
        self.region.word(Word::Tail(self.way)).store(self.tail, Ordering::Release);
        self.published = self.tail;
        true
    }
}

impl Consumer {
    pub fn new(region: Arc<Region>, way: Way) -> Consumer {
        Consumer { region, way, head: 0 }
    }

    /// Whether there is anything to take.
    pub fn has_bytes(&self) -> bool {
        self.region.word(Word::Tail(self.way)).load(Ordering::Acquire) != self.head
    }

    /// Appends all that was published to `out`; returns how many bytes.
    pub fn take(&mut self, out: &mut BytesMut) -> Result<usize, NetError> {
        let tail = self.region.word(Word::Tail(self.way)).load(Ordering::Acquire);
        let len = tail.wrapping_sub(self.head) as usize;
        if len == 0 {
            return Ok(0);
        }
        if len > RING_BYTES {
            return Err(impossible());
        }
        let begin = out.len();
        out.resize(begin + len, 0);
        let at = self.head as usize % RING_BYTES;
        let (first, rest) = out[begin..].split_at_mut(len.min(RING_BYTES - at));
        self.region.ring_get(self.way, at, first);
        self.region.ring_get(self.way, 0, rest);
        self.head = tail;
        self.region.word(Word::Head(self.way)).store(tail, Ordering::Release);
        Ok(len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pattern(from: usize, len: usize) -> Vec<u8> {
        (from..from + len).map(|i| (i * 7 + i / 251) as u8).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        /// Goal: a ring is a pipe. Method: puts and takes of random sizes in random order, past the ring's end many times.
        #[test]
        fn bytes_come_out_as_they_went_in(steps in prop::collection::vec((1..RING_BYTES, any::<bool>()), 1..100)) {
            let region = Region::small();
            let mut producer = Producer::new(region.clone(), Way::TO_SERVER);
            let mut consumer = Consumer::new(region, Way::TO_SERVER);
            let (mut sent, mut out) = (0, BytesMut::new());
            for (len, take) in steps {
                if producer.has_room(len).expect("honest") {
                    producer.put(&pattern(sent, len));
                    sent += len;
                    prop_assert!(producer.publish() && !producer.publish());
                }
                if take {
                    consumer.take(&mut out).expect("honest");
                }
            }
            consumer.take(&mut out).expect("honest");
            prop_assert!(out == pattern(0, sent) && !consumer.has_bytes());
        }
    }

    /// Goal: the order of memory accesses holds between processors. Method: two threads, a million bytes, every one compared.
    #[test]
    fn bytes_come_out_as_they_went_in_between_threads() {
        const TOTAL: usize = 4 << 20;
        let region = Region::small();
        let mut producer = Producer::new(region.clone(), Way::TO_CLIENT);
        let filler = std::thread::spawn(move || {
            let mut sent = 0;
            while sent < TOTAL {
                let len = (sent % 5000 + 1).min(TOTAL - sent);
                while !producer.has_room(len).expect("honest") {
                    std::thread::yield_now();
                }
                producer.put(&pattern(sent, len));
                producer.publish();
                sent += len;
            }
        });
        let mut consumer = Consumer::new(region, Way::TO_CLIENT);
        let mut got = 0;
        while got < TOTAL {
            let mut out = BytesMut::new();
            if consumer.take(&mut out).expect("honest") == 0 {
                std::thread::yield_now();
            }
            assert!(out == pattern(got, out.len()), "between {got} and {}", got + out.len());
            got += out.len();
        }
        filler.join().expect("no panic");
    }

    #[test]
    fn impossible_positions_are_errors() {
        let region = Region::small();
        let mut consumer = Consumer::new(region.clone(), Way::TO_SERVER);
        region.word(Word::Tail(Way::TO_SERVER)).store(RING_BYTES as u32 + 1, Ordering::Relaxed);
        assert!(matches!(consumer.take(&mut BytesMut::new()), Err(NetError::Protocol(_))));
        let mut producer = Producer::new(region.clone(), Way::TO_CLIENT);
        producer.put(&vec![0; RING_BYTES]);
        for head in [RING_BYTES as u32 + 1, u32::MAX] {
            region.word(Word::Head(Way::TO_CLIENT)).store(head, Ordering::Relaxed);
            assert!(matches!(producer.has_room(1), Err(NetError::Protocol(_))));
        }
    }
}
