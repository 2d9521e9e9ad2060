//! The transport port over shared memory.
//!
//! Small frames are copied into the ring; a large bulk part lies in an arena and only its place is sent: the place where it lies already
//! ([`Arena::take`] was asked for a buffer), or one that it is copied to. What fits neither goes over the session's socket, which stays
//! open: it also tells when the peer dies.
//!
//! # Invariants
//! - Frames come out as they were sent, by whichever way; between the two ways their order is not kept, as answers have none
//!   (`tests/calls.rs`, `tests/shared.rs`).
//! - Whatever the peer writes into the memory, this side answers with frames or an error, never a panic or an access out of bounds
//!   (`tests/shared.rs`, `any_bytes_in_a_ring_are_survived`).
//! - While a pool buffer is waited for, nothing is taken from the ring.
//! - A ring that is never empty does not keep what comes over the socket from being received (`a_busy_ring_does_not_starve_the_socket`).

use super::arena::{Arena, Lent, Releases};
use super::link::Link;
use super::record::{self, HEAD_BYTES, Head, Kind};
use super::region::{RING_BYTES, Region};
use super::side::Side;
use crate::budget::{Account, BufferClass};
use crate::counters::NetCounters;
use crate::env::NetEnv;
use crate::error::NetError;
use crate::frame::{COPIED_BYTES, Frame};
use crate::pool::{PoolBuffer, TooLarge};
use crate::send_queue::{Front, SendQueue};
use crate::transport::{Credentials, Transport};
use bytes::{Buf, Bytes, BytesMut};
use fs_proto::{HEADER_BYTES, Header, Op};
use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

/// Which bulk parts are read where the peer put them, and not copied first.
pub(super) type InPlace = fn(Op) -> bool;

type BufferWait = Pin<Box<dyn Future<Output = Result<PoolBuffer, TooLarge>>>>;

/// A frame whose bulk part waits for a buffer to be copied to.
struct Waiting {
    header: Header,
    meta: Bytes,
    lent: Lent,
    buffer: BufferWait,
}

/// What became of the first frame of a queue.
enum Step {
    Sent,
    /// The ring has no room for so many bytes.
    NoRoom(usize),
    /// It is for the socket.
    TooLarge,
}

/// Batches from the ring after which the socket is looked at, too. Otherwise it is before this side sleeps.
const UNHEARD_MAX: u32 = 16;

/// A session over shared memory.
pub(super) struct SharedTransport {
    socket: Box<dyn Transport>,
    link: Link,
    region: Arc<Region>,
    side: Side,
    arena: Arc<Arena>,
    releases: Arc<Releases>,
    env: Rc<NetEnv>,
    class: BufferClass,
    /// The peer's account.
    share: Option<Account>,
    in_place: InPlace,
    /// Copied out of the ring; from `parsed` on not yet made into frames.
    taken: BytesMut,
    parsed: usize,
    waiting: Option<Box<Waiting>>,
    /// What goes over the socket.
    overflow: SendQueue,
    /// Let go, not yet told.
    due: Vec<u32>,
    /// Frames sent without those received: for a client the answers that are owed to it.
    owed: i64,
    /// Whether frames were given out since the task last had nothing to do: who waits for them goes first.
    gave: bool,
    /// Batches from the ring since the socket was looked at.
    unheard: u32,
}

impl SharedTransport {
    pub fn new(
        socket: Box<dyn Transport>,
        link: Link,
        arena: Arc<Arena>,
        (region, side): (Arc<Region>, Side),
        in_place: InPlace,
        env: Rc<NetEnv>,
    ) -> SharedTransport {
        let overflow = SendQueue::new(env.counters.clone());
        SharedTransport {
            socket,
            link,
            region,
            side,
            arena,
            releases: Arc::default(),
            env,
            class: BufferClass::ClientRequest,
            share: None,
            in_place,
            taken: BytesMut::new(),
            parsed: 0,
            waiting: None,
            overflow,
            due: Vec::new(),
            owed: 0,
            gave: false,
            unheard: 0,
        }
    }

    /// Makes frames of what was taken. Pending only while a pool buffer is waited for.
    fn poll_parse(
        &mut self,
        cx: &mut Context<'_>,
        frames: &mut VecDeque<Frame>,
    ) -> Poll<Result<(), NetError>> {
        loop {
            if let Some(waiting) = &mut self.waiting {
                let buffer = ready!(waiting.buffer.as_mut().poll(cx))?;
                if let Some(waiting) = self.waiting.take() {
                    frames.push_back(copied(waiting.header, waiting.meta, &waiting.lent, buffer));
                }
            }
            if self.parsed == self.taken.len() {
                self.taken.clear();
                self.parsed = 0;
                return Poll::Ready(Ok(()));
            }
            let head = record::first(&self.taken[self.parsed..])?;
            self.accept(head, frames)?;
        }
    }

    /// Makes a frame of the record that comes next, of which this is the head.
    fn accept(&mut self, head: Head, frames: &mut VecDeque<Frame>) -> Result<(), NetError> {
        let begin = self.parsed + HEAD_BYTES;
        self.parsed = begin + head.body_bytes;
        if head.kind == Kind::GivenBack {
            let known = head.body_bytes == 0 && self.arena.release(head.offset);
            return if known {
                Ok(())
            } else {
                Err(NetError::protocol("something given back that was not lent"))
            };
        }
        let body = &self.taken[begin..self.parsed];
        let raw = body.first_chunk::<HEADER_BYTES>().ok_or_else(|| NetError::protocol("half a header"))?;
        let header = Header::decode(raw).map_err(NetError::protocol)?;
        let (meta_bytes, bulk_bytes) = (header.meta_bytes as usize, header.bulk_bytes as usize);
        let inline_bytes = if head.kind == Kind::Frame { bulk_bytes } else { 0 };
        if head.body_bytes - HEADER_BYTES != meta_bytes + inline_bytes {
            return Err(NetError::protocol("a message of another length than its header says"));
        }
        let (meta, bulk) = self.parts(begin + HEADER_BYTES, meta_bytes);
        if head.kind == Kind::Frame {
            frames.push_back(Frame { header, meta, bulk });
            return Ok(());
        }
        let way = self.side.inward();
        let lent = Lent::new(&self.region, way, head.offset, header.bulk_bytes, &self.releases)
            .ok_or_else(|| NetError::protocol("data outside of the shared memory"))?;
        NetCounters::add(&self.env.counters.bytes_received, bulk_bytes as u64);
        if (self.in_place)(header.op) {
            frames.push_back(Frame { header, meta, bulk: lent.in_place() });
        } else {
            self.copy(header, meta, lent, frames);
        }
        Ok(())
    }

    /// What lies between `begin` and what is parsed, cut after `meta_bytes`. What is small is copied, so that one that waits long does not keep
    /// all that came with it.
    fn parts(&mut self, begin: usize, meta_bytes: usize) -> (Bytes, Bytes) {
        let mut meta = match self.parsed - begin {
            0 => return (Bytes::new(), Bytes::new()),
            1..=COPIED_BYTES => Bytes::copy_from_slice(&self.taken[begin..self.parsed]),
            bytes => {
                self.taken.advance(begin);
                self.parsed = 0;
                self.taken.split_to(bytes).freeze()
            }
        };
        let bulk = meta.split_off(meta_bytes);
        (meta, bulk)
    }

    /// Takes a private copy of what was lent, now or when there is a buffer.
    fn copy(&mut self, header: Header, meta: Bytes, lent: Lent, frames: &mut VecDeque<Frame>) {
        NetCounters::add(&self.env.counters.copied_bytes, header.bulk_bytes.into());
        let (pool, class, len) = (self.env.pool.clone(), self.class, header.bulk_bytes as usize);
        let share = self.share.clone();
        let now = pool.try_get_for(class, share.as_ref(), len);
        if let Some(buffer) = now {
            frames.push_back(copied(header, meta, &lent, buffer));
            return;
        }
        let buffer: BufferWait = Box::pin(async move { pool.get_for(class, share.as_ref(), len).await });
        self.waiting = Some(Box::new(Waiting { header, meta, lent, buffer }));
    }

    /// Tells the peer what was let go, as far as there is room.
    fn give_back(&mut self) -> Result<(), NetError> {
        self.releases.drain_into(&mut self.due);
        while let Some(at) = self.due.last() {
            if !self.link.has_room(HEAD_BYTES)? {
                break;
            }
            self.link.put(&record::head(Kind::GivenBack, 0, *at));
            self.due.pop();
        }
        Ok(())
    }

    fn poll_socket(
        &mut self,
        cx: &mut Context<'_>,
        frames: &mut VecDeque<Frame>,
    ) -> Poll<Result<(), NetError>> {
        self.unheard = 0;
        self.socket.poll_receive(cx, frames)
    }

    fn give(&mut self, frames: usize) -> Poll<Result<(), NetError>> {
        self.owed -= frames as i64;
        self.gave = self.side == Side::Client;
        Poll::Ready(Ok(()))
    }

    /// Puts all that it can into the ring. Answers how many bytes of room are missing, if that is what ended it.
    fn fill(&mut self, queue: &mut SendQueue) -> Result<Option<usize>, NetError> {
        let mut put = 0;
        let missing = loop {
            if !self.overflow.is_empty() {
                break None;
            }
            let Some(front) = queue.front() else { break None };
            let bytes = front.bytes();
            match self.put(&front)? {
                Step::Sent => {
                    put += bytes;
                    queue.consume(bytes);
                }
                Step::NoRoom(missing) => break Some(missing),
                Step::TooLarge => queue.move_front(&mut self.overflow),
            }
            self.owed += 1;
        };
        NetCounters::add(&self.env.counters.bytes_sent, put as u64);
        Ok(missing)
    }

    fn put(&mut self, front: &Front<'_>) -> Result<Step, NetError> {
        let meta = front.meta.map_or(&[][..], |bytes| bytes);
        let body = front.staged.len() + meta.len();
        if HEAD_BYTES + body > RING_BYTES {
            return Ok(Step::TooLarge);
        }
        if !self.link.has_room(HEAD_BYTES + body)? {
            return Ok(Step::NoRoom(HEAD_BYTES + body));
        }
        let (kind, offset) = match front.bulk {
            None => (Kind::Frame, 0),
            Some(bulk) => match self.lend(bulk) {
                None => return Ok(Step::TooLarge),
                Some(at) => (Kind::FrameByReference, at),
            },
        };
        self.link.put(&record::head(kind, body, offset));
        if meta.is_empty() {
            self.link.put(front.staged);
            return Ok(Step::Sent);
        }
        let (header, rest) = front.staged.split_at(HEADER_BYTES);
        self.link.put(header);
        self.link.put(meta);
        self.link.put(rest);
        Ok(Step::Sent)
    }

    /// Brings a bulk part into the arena, if it is not there, and lends it. `None`: there is no room.
    fn lend(&self, bulk: &Bytes) -> Option<u32> {
        if let Some(at) = self.arena.lend(bulk) {
            return Some(at);
        }
        let mut block = self.arena.take(bulk.len())?;
        block[..bulk.len()].copy_from_slice(bulk);
        NetCounters::add(&self.env.counters.copied_bytes, bulk.len() as u64);
        self.arena.lend(&Bytes::from_owner(block).slice(..bulk.len()))
    }
}

fn copied(header: Header, meta: Bytes, lent: &Lent, mut buffer: PoolBuffer) -> Frame {
    lent.copy_to(&mut buffer);
    Frame { header, meta, bulk: buffer.freeze() }
}

impl Transport for SharedTransport {
    fn poll_receive(
        &mut self,
        cx: &mut Context<'_>,
        frames: &mut VecDeque<Frame>,
    ) -> Poll<Result<(), NetError>> {
        let before = frames.len();
        loop {
            let parsed = self.poll_parse(cx, frames)?;
            let new = frames.len() - before;
            if new > 0 {
                NetCounters::add(&self.env.counters.messages_received, new as u64);
                self.unheard += 1;
                return self.give(new);
            }
            if parsed.is_pending() {
                // A peer that dies meanwhile must be noticed: others may wait for what it holds.
                return self.socket.poll_receive(cx, frames);
            }
            if self.unheard >= UNHEARD_MAX && self.poll_socket(cx, frames)?.is_ready() {
                return self.give(frames.len() - before);
            }
            let taken = self.link.take(&mut self.taken)?;
            if taken > 0 {
                NetCounters::add(&self.env.counters.bytes_received, taken as u64);
                continue;
            }
            if std::mem::take(&mut self.gave) {
                // Not asleep: this task runs again when those have run that it has woken, and the peer need not ring for that.
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            let expects = self.side == Side::Server || self.owed > 0;
            if expects && self.link.look() {
                continue;
            }
            if self.poll_socket(cx, frames)?.is_ready() {
                return self.give(frames.len() - before);
            }
            ready!(self.link.poll_arrived(cx))?;
        }
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, queue: &mut SendQueue) -> Poll<Result<(), NetError>> {
        self.link.rise();
        if !queue.is_empty() {
            // With the next message: waking the peer for this alone would cost more than it brings.
            self.give_back()?;
        }
        loop {
            let missing = self.fill(queue)?;
            self.link.publish();
            NetCounters::add(&self.env.counters.write_calls, self.link.take_rings());
            if !self.overflow.is_empty() {
                ready!(self.socket.poll_send(cx, &mut self.overflow))?;
            }
            match missing {
                Some(bytes) => ready!(self.link.poll_room(cx, bytes))?,
                None if queue.is_empty() => return Poll::Ready(Ok(())),
                None => {}
            }
        }
    }

    fn show(&mut self, queue: &mut SendQueue) -> Result<(), NetError> {
        self.fill(queue)?;
        self.link.show();
        Ok(())
    }

    fn trust(&mut self, class: BufferClass, share: Option<Account>) {
        self.class = class;
        self.share.clone_from(&share);
        self.socket.trust(class, share);
    }

    fn owed_since(&self) -> Option<u64> {
        // A message is put into the ring as a whole; what is in an arena is there already.
        self.socket.owed_since()
    }

    fn credentials(&self) -> Option<Credentials> {
        self.socket.credentials()
    }

    fn describe(&self) -> String {
        format!("{}, shared memory", self.socket.describe())
    }
}

#[cfg(test)]
mod tests;
