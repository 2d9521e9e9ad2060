//! What waits to be sent on a connection, in order.
//!
//! Headers and small parts are copied one after the other into a staging buffer, so that many small messages leave as one piece;
//! large parts are kept by reference and leave as scatter entries between pieces of it.
//!
//! # Invariants
//! - The bytes handed out, whatever the sizes of partial writes, are the pushed frames in order (`partial_writes_keep_the_bytes`).
//! - `pending` is the number of bytes not yet consumed.
//! - An empty queue holds no memory (`an_empty_queue_holds_nothing`).

use crate::counters::NetCounters;
use crate::pool::TooLarge;
use bytes::Bytes;
use fs_proto::{BULK_MAX, Header, META_MAX};
use std::cell::Cell;
use std::collections::VecDeque;
use std::io::IoSlice;
use std::sync::Arc;

/// Parts from this size on are sent by reference: below, a copy is cheaper than a scatter entry.
pub(crate) const BY_REFERENCE_BYTES: usize = 8 << 10;
/// Where in a header the lengths of meta and bulk are.
const LENGTHS: std::ops::Range<usize> = 40..48;
/// Scatter entries of one write.
pub(crate) const MAX_SLICES: usize = 64;
/// Sent bytes of the staging buffer are given up when they are this many.
const COMPACT_BYTES: usize = 256 << 10;
/// Frames that wait to be counted at most, where the queue is never empty.
const COUNTED_AT_ONCE: u64 = 256;
/// A staging buffer that grew larger than this is not kept.
const KEEP_BYTES: usize = 1 << 20;

thread_local! {
    /// Room for the next queue of the thread that needs some.
    static SPARE: Cell<Option<Box<Waiting>>> = const { Cell::new(None) };
}

/// A part sent by reference: where in the staging buffer it comes, what, and how much of it has left.
struct Part {
    at: usize,
    bytes: Bytes,
}

/// The first frame of a queue, of which nothing has left.
pub(crate) struct Front<'a> {
    /// Header, and the parts that are not below.
    pub staged: &'a [u8],
    /// A large encoded body; it comes after the header.
    pub meta: Option<&'a Bytes>,
    /// A large bulk part.
    pub bulk: Option<&'a Bytes>,
}

impl Front<'_> {
    /// Length of the frame.
    pub fn bytes(&self) -> usize {
        self.staged.len() + self.meta.map_or(0, Bytes::len) + self.bulk.map_or(0, Bytes::len)
    }
}

/// The queue. There is one for every connection, and most have nothing to send.
pub(crate) struct SendQueue {
    waiting: Option<Box<Waiting>>,
    /// Bytes that have left since the start.
    sent_bytes: u64,
    counters: Arc<NetCounters>,
}

/// What has not left.
#[derive(Default)]
struct Waiting {
    /// Frames, and bytes that were copied, that are not counted yet: counters are shared by threads.
    frames: u64,
    copied: u64,
    staged: Vec<u8>,
    /// Bytes of `staged` that have left.
    sent: usize,
    parts: VecDeque<Part>,
    pending: usize,
}

impl SendQueue {
    pub(crate) fn new(counters: Arc<NetCounters>) -> SendQueue {
        SendQueue { waiting: None, sent_bytes: 0, counters }
    }

    /// Bytes that have not left.
    pub(crate) fn pending(&self) -> usize {
        self.waiting.as_ref().map_or(0, |waiting| waiting.pending)
    }

    /// Bytes of memory that are not a buffer of somebody else's.
    pub(crate) fn staged_bytes(&self) -> usize {
        self.waiting.as_ref().map_or(0, |waiting| waiting.staged.len())
    }

    /// Bytes that have left since the start.
    pub(crate) fn sent_bytes(&self) -> u64 {
        self.sent_bytes
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_none()
    }

    fn waiting(&mut self) -> &mut Waiting {
        self.waiting.get_or_insert_with(|| SPARE.take().unwrap_or_default())
    }

    /// Queues a frame; the header's lengths are set here.
    pub(crate) fn push(&mut self, mut header: Header, meta: Bytes, bulk: Bytes) -> Result<(), TooLarge> {
        check_sizes(&meta, &bulk)?;
        header.meta_bytes = meta.len() as u32;
        header.bulk_bytes = bulk.len() as u32;
        let waiting = self.waiting();
        waiting.staged.extend_from_slice(&header.encode());
        waiting.pending += fs_proto::HEADER_BYTES;
        let copied = waiting.push_part(meta) + waiting.push_part(bulk);
        waiting.copied += copied as u64;
        waiting.frames += 1;
        Ok(())
    }

    /// Fills `slices` with the next bytes to send; returns how many entries.
    pub(crate) fn slices<'a>(&'a self, slices: &mut [IoSlice<'a>; MAX_SLICES]) -> usize {
        self.waiting.as_ref().map_or(0, |waiting| waiting.slices(slices))
    }

    /// The first frame. Must not be mixed with partial writes.
    pub(crate) fn front(&self) -> Option<Front<'_>> {
        self.waiting.as_ref()?.front()
    }

    /// Moves the first frame to the end of another queue.
    pub(crate) fn move_front(&mut self, to: &mut SendQueue) {
        let Some(front) = self.front() else { return };
        let bytes = front.bytes();
        let (header, small) = front.staged.split_at(fs_proto::HEADER_BYTES);
        let waiting = to.waiting();
        waiting.staged.extend_from_slice(header);
        let part = |waiting: &Waiting, bytes: &Bytes| Part { at: waiting.staged.len(), bytes: bytes.clone() };
        let meta = front.meta.map(|bytes| part(waiting, bytes));
        waiting.parts.extend(meta);
        waiting.staged.extend_from_slice(small);
        let bulk = front.bulk.map(|bytes| part(waiting, bytes));
        waiting.parts.extend(bulk);
        waiting.pending += bytes;
        self.consume(bytes);
    }

    /// The first `n` bytes have left.
    pub(crate) fn consume(&mut self, n: usize) {
        self.sent_bytes += n as u64;
        let Some(waiting) = &mut self.waiting else { return };
        waiting.consume(n);
        if waiting.pending == 0 {
            self.give_back();
        } else if waiting.frames >= COUNTED_AT_ONCE {
            waiting.count(&self.counters);
        }
    }

    /// An empty queue has nothing; what it had is the thread's next one's.
    fn give_back(&mut self) {
        let Some(mut waiting) = self.waiting.take() else { return };
        waiting.count(&self.counters);
        waiting.sent = 0;
        if waiting.staged.capacity() > KEEP_BYTES {
            waiting.staged = Vec::new();
        }
        waiting.staged.clear();
        if waiting.parts.capacity() > 0 {
            waiting.parts = VecDeque::new();
        }
        SPARE.set(Some(waiting));
    }
}

impl Waiting {
    fn count(&mut self, counters: &NetCounters) {
        NetCounters::add(&counters.messages_sent, std::mem::take(&mut self.frames));
        NetCounters::add(&counters.copied_bytes, std::mem::take(&mut self.copied));
    }

    fn push_part(&mut self, bytes: Bytes) -> usize {
        self.pending += bytes.len();
        if bytes.is_empty() {
            return 0;
        }
        if bytes.len() >= BY_REFERENCE_BYTES {
            self.parts.push_back(Part { at: self.staged.len(), bytes });
            return 0;
        }
        self.staged.extend_from_slice(&bytes);
        bytes.len()
    }

    fn slices<'a>(&'a self, slices: &mut [IoSlice<'a>; MAX_SLICES]) -> usize {
        let mut from = self.sent;
        let mut count = 0;
        for part in &self.parts {
            if count + 2 > MAX_SLICES {
                return count;
            }
            if part.at > from {
                slices[count] = IoSlice::new(&self.staged[from..part.at]);
                count += 1;
                from = part.at;
            }
            slices[count] = IoSlice::new(&part.bytes);
            count += 1;
        }
        if count < MAX_SLICES && from < self.staged.len() {
            slices[count] = IoSlice::new(&self.staged[from..]);
            count += 1;
        }
        count
    }

    fn front(&self) -> Option<Front<'_>> {
        let rest = &self.staged[self.sent..];
        let lengths = rest.get(LENGTHS)?;
        let length = |at: usize| {
            u32::from_le_bytes([lengths[at], lengths[at + 1], lengths[at + 2], lengths[at + 3]]) as usize
        };
        let mut parts = self.parts.iter();
        let mut staged = fs_proto::HEADER_BYTES;
        let mut part = |len: usize| {
            if len >= BY_REFERENCE_BYTES {
                return parts.next().map(|part| &part.bytes);
            }
            staged += len;
            None
        };
        let (meta, bulk) = (part(length(0)), part(length(4)));
        Some(Front { staged: &rest[..staged], meta, bulk })
    }

    fn consume(&mut self, mut n: usize) {
        self.pending -= n;
        if self.parts.is_empty() {
            self.sent += n;
            n = 0;
        }
        while n > 0 {
            let staged_end = self.parts.front().map_or(self.staged.len(), |part| part.at);
            let step = n.min(staged_end - self.sent);
            self.sent += step;
            n -= step;
            if let Some(part) = self.parts.front_mut()
                && n > 0
            {
                let step = n.min(part.bytes.len());
                drop(part.bytes.split_to(step));
                n -= step;
                if part.bytes.is_empty() {
                    self.parts.pop_front();
                }
            }
        }
        if self.pending > 0 && self.sent > COMPACT_BYTES {
            self.staged.drain(..self.sent);
            self.parts.iter_mut().for_each(|part| part.at -= self.sent);
            self.sent = 0;
        }
    }
}

/// Whether a message may have such parts.
pub(crate) fn check_sizes(meta: &Bytes, bulk: &Bytes) -> Result<(), TooLarge> {
    if meta.len() > META_MAX as usize {
        return Err(TooLarge(meta.len()));
    }
    if bulk.len() > BULK_MAX as usize {
        return Err(TooLarge(bulk.len()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use fs_proto::{Op, Partition};
    use proptest::prelude::*;

    fn drained(queue: &mut SendQueue, steps: &[usize]) -> Vec<u8> {
        let mut out = Vec::new();
        let mut steps = steps.iter().cycle();
        while !queue.is_empty() {
            let step = {
                let mut slices = [IoSlice::new(&[]); MAX_SLICES];
                let count = queue.slices(&mut slices);
                let mut left = *steps.next().unwrap_or(&1);
                let before = out.len();
                for slice in &slices[..count] {
                    let piece = left.min(slice.len());
                    out.extend_from_slice(&slice[..piece]);
                    left -= piece;
                }
                out.len() - before
            };
            queue.consume(step);
        }
        out
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        /// Goal: the byte stream does not depend on how writes are cut. Method: frames of sizes around the limit, random cuts.
        #[test]
        fn partial_writes_keep_the_bytes(
            sizes in prop::collection::vec((0..20_000usize, 0..40_000usize), 1..60),
            steps in prop::collection::vec(500..100_000usize, 1..8),
        ) {
            let mut queue = SendQueue::new(Arc::default());
            let mut expected = Vec::new();
            for (i, &(meta, bulk)) in sizes.iter().enumerate() {
                let meta = Bytes::from(vec![i as u8; meta]);
                let bulk = Bytes::from(vec![!(i as u8); bulk]);
                let mut header = Header::request(Op::Ping, Partition(i as u16));
                queue.push(header, meta.clone(), bulk.clone()).expect("sizes are allowed");
                header.meta_bytes = meta.len() as u32;
                header.bulk_bytes = bulk.len() as u32;
                expected.extend_from_slice(&header.encode());
                expected.extend_from_slice(&meta);
                expected.extend_from_slice(&bulk);
            }
            prop_assert_eq!(queue.pending(), expected.len());
            prop_assert!(drained(&mut queue, &steps) == expected);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        /// Goal: a frame moved to another queue leaves it as it would have left this. Method: random sizes; every other frame moves.
        #[test]
        fn moved_frames_keep_their_bytes(sizes in prop::collection::vec((0..20_000usize, 0..20_000usize), 1..30)) {
            let (mut from, mut to) = (SendQueue::new(Arc::default()), SendQueue::new(Arc::default()));
            let (mut moved, mut consumed) = (SendQueue::new(Arc::default()), Vec::new());
            for (i, &(meta, bulk)) in sizes.iter().enumerate() {
                let (meta, bulk) = (Bytes::from(vec![i as u8; meta]), Bytes::from(vec![!(i as u8); bulk]));
                let header = Header::request(Op::Ping, Partition(i as u16));
                from.push(header, meta.clone(), bulk.clone()).expect("sizes are allowed");
                if i % 2 == 0 {
                    moved.push(header, meta, bulk).expect("sizes are allowed");
                } else {
                    consumed.push(fs_proto::HEADER_BYTES + meta.len() + bulk.len());
                }
            }
            let mut consumed = consumed.into_iter();
            for i in 0..sizes.len() {
                if i % 2 == 0 {
                    from.move_front(&mut to);
                } else {
                    let bytes = from.front().expect("a frame").bytes();
                    prop_assert_eq!(Some(bytes), consumed.next());
                    from.consume(bytes);
                }
            }
            prop_assert!(from.is_empty() && from.front().is_none());
            prop_assert_eq!(to.pending(), moved.pending());
            prop_assert!(drained(&mut to, &[10_000]) == drained(&mut moved, &[10_000]));
        }
    }

    #[test]
    fn an_empty_queue_holds_nothing() {
        let mut queue = SendQueue::new(Arc::default());
        for bytes in [100, 100_000] {
            let bulk = Bytes::from(vec![0; bytes]);
            queue
                .push(Header::request(Op::Ping, Partition(0)), Bytes::new(), bulk)
                .expect("sizes are allowed");
            assert!(queue.staged_bytes() > 0);
            drained(&mut queue, &[10_000]);
            assert!(queue.waiting.is_none());
        }
    }

    #[test]
    fn too_large_parts_are_refused_and_leave_nothing() {
        let mut queue = SendQueue::new(Arc::default());
        let header = Header::request(Op::Ping, Partition(0));
        let large = Bytes::from(vec![0; BULK_MAX as usize + 1]);
        assert_eq!(queue.push(header, Bytes::new(), large.clone()), Err(TooLarge(large.len())));
        assert_eq!(
            queue.push(header, large.slice(..=META_MAX as usize), Bytes::new()),
            Err(TooLarge(META_MAX as usize + 1))
        );
        assert!(queue.is_empty());
    }
}
