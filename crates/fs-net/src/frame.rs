//! A message in memory, and how messages are read off a byte stream.
//!
//! Frames are gathered in the thread's read buffer. Small ones are handed out as copies, larger ones as slices of it; a large bulk part is read
//! straight into a pool buffer of its size, or to where it is to land (`landing`). Between reads a connection has nothing but what came of a message that is not whole.
//!
//! # Invariants
//! - Reading is total: any bytes give frames or an error, never a panic (`any_bytes_give_frames_or_an_error`).
//! - Nothing is allocated for a peer that is not trusted beyond a small read buffer (`a_stranger_gets_no_memory`).
//! - While a pool buffer is waited for, nothing is read.
//! - A reader that waits for the next message holds no memory (`an_idle_reader_holds_nothing`).
//! - How the stream is cut into reads does not show (`frames_do_not_depend_on_how_reads_are_cut`).

use crate::budget::{Account, BufferClass};
use crate::counters::NetCounters;
use crate::env::NetEnv;
use crate::error::NetError;
use crate::landing::Landings;
use crate::pool::{PoolBuffer, TooLarge};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use fs_proto::header::HeaderError;
use fs_proto::{BULK_MAX, HEADER_BYTES, Header, META_MAX};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::Future;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};

/// Bulk parts from this size on are received into pool buffers.
pub(crate) const LARGE_BYTES: usize = 16 << 10;
/// Capacity of the read buffer.
const READ_BUFFER_BYTES: usize = 64 << 10;
/// Room below which the read buffer is renewed.
const LEAST_ROOM_BYTES: usize = 4 << 10;
/// What is read at most where a large bulk part may follow: what comes with the header has to be copied.
const HEAD_READ_BYTES: usize = 2 << 10;
/// Read buffer, and largest meta part, of a peer that is not trusted.
const STRANGER_BYTES: usize = 1 << 10;
/// Frames up to this size are copied out of the buffer that they were read into, so that one that waits long does not keep all of it.
pub(crate) const COPIED_BYTES: usize = 1 << 10;

thread_local! {
    /// The buffer that all readers of the thread read into, when none of them is reading.
    static SPARE: RefCell<BytesMut> = RefCell::new(BytesMut::new());
}

const _: () = assert!(LARGE_BYTES * 2 + HEADER_BYTES <= READ_BUFFER_BYTES);

/// A received message. The parts may share the connection's read buffer: keep copies, not these, for long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// The decoded header.
    pub header: Header,
    /// The encoded body.
    pub meta: Bytes,
    /// The data.
    pub bulk: Bytes,
}

impl Frame {
    /// Memory that the frame keeps in use besides its large bulk part: itself, or the read buffer that it is a slice of.
    pub(crate) fn kept_bytes(&self) -> usize {
        let bulk = if self.bulk.len() < LARGE_BYTES { self.bulk.len() } else { 0 };
        match self.meta.len() + bulk {
            small if small <= COPIED_BYTES => small,
            larger => larger.max(READ_BUFFER_BYTES),
        }
    }
}

type BufferWait = Pin<Box<dyn Future<Output = Result<PoolBuffer, TooLarge>>>>;

/// What is large is in boxes: a reader is there for every connection, and most are idle.
enum State {
    /// A header is gathered in the read buffer.
    Gather,
    /// The meta part or a small frame is, after its header.
    Head(Box<Header>),
    /// The bulk part waits for a buffer.
    Wait(Box<(Header, Bytes, BufferWait)>),
    /// The bulk part is being read in place.
    Bulk(Box<Filling>),
}

/// A frame whose bulk part is being read.
struct Filling {
    header: Header,
    meta: Bytes,
    bulk: PoolBuffer,
    /// How much of it is there.
    filled: usize,
}

/// Reads frames off a byte stream.
pub(crate) struct FrameReader {
    env: Rc<NetEnv>,
    buffer: BytesMut,
    /// Whether `buffer` is the thread's, to be given back before another reads.
    borrowed: bool,
    /// Bytes read since the start.
    received: u64,
    state: State,
    /// Class of buffers, once the peer is trusted.
    class: Option<BufferClass>,
    /// The peer's account.
    share: Option<Account>,
    /// Where answers are received, on the asking side.
    landings: Option<Rc<Landings>>,
    /// Whether the last frame had a large bulk part: the next is likely to.
    bulk_expected: bool,
}

impl FrameReader {
    pub(crate) fn new(env: Rc<NetEnv>) -> FrameReader {
        let buffer = BytesMut::with_capacity(STRANGER_BYTES + HEADER_BYTES);
        FrameReader {
            env,
            buffer,
            borrowed: false,
            received: 0,
            state: State::Gather,
            class: None,
            share: None,
            landings: None,
            bulk_expected: false,
        }
    }

    /// What its connection counts in.
    pub(crate) fn counters(&self) -> &NetCounters {
        &self.env.counters
    }

    pub(crate) fn trust(&mut self, class: BufferClass, share: Option<Account>) {
        self.class = Some(class);
        self.share = share;
        if self.buffer.is_empty() {
            self.buffer = BytesMut::new();
        }
    }

    pub(crate) fn land(&mut self, landings: &Rc<Landings>) {
        self.landings = Some(landings.clone());
    }

    /// Bytes read in all, if the rest of a message is owed and there is room for it.
    pub(crate) fn owed_since(&self) -> Option<u64> {
        let is_owed = match self.state {
            State::Gather => !self.buffer.is_empty(),
            State::Wait(..) => false,
            State::Head(_) | State::Bulk(_) => true,
        };
        is_owed.then_some(self.received)
    }

    /// Reads until there is at least one whole frame; then appends all whole frames at hand.
    pub(crate) fn poll_frames<S: AsyncRead + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        stream: &mut S,
        frames: &mut VecDeque<Frame>,
    ) -> Poll<Result<(), NetError>> {
        let outcome = self.poll_whole(cx, stream, frames);
        self.give_back();
        outcome
    }

    fn poll_whole<S: AsyncRead + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        stream: &mut S,
        frames: &mut VecDeque<Frame>,
    ) -> Poll<Result<(), NetError>> {
        let before = frames.len();
        loop {
            ready!(self.poll_parse(cx, frames))?;
            let new = frames.len() - before;
            if new > 0 {
                NetCounters::add(&self.env.counters.messages_received, new as u64);
                return Poll::Ready(Ok(()));
            }
            let n = ready!(self.poll_fill(cx, stream))?;
            NetCounters::add(&self.env.counters.read_calls, 1);
            NetCounters::add(&self.env.counters.bytes_received, n as u64);
            self.received += n as u64;
            if n == 0 {
                return Poll::Ready(Err(NetError::Closed));
            }
        }
    }

    /// Takes all whole frames out of what was read. Pending only while a pool buffer is waited for.
    fn poll_parse(
        &mut self,
        cx: &mut Context<'_>,
        frames: &mut VecDeque<Frame>,
    ) -> Poll<Result<(), NetError>> {
        loop {
            match std::mem::replace(&mut self.state, State::Gather) {
                State::Gather => {
                    if !self.gather(None, frames)? {
                        return Poll::Ready(Ok(()));
                    }
                }
                State::Head(header) => {
                    if !self.gather(Some(*header), frames)? {
                        return Poll::Ready(Ok(()));
                    }
                }
                State::Wait(mut waiting) => match waiting.2.as_mut().poll(cx) {
                    Poll::Ready(buffer) => self.begin_bulk(waiting.0, waiting.1, buffer?),
                    Poll::Pending => {
                        self.state = State::Wait(waiting);
                        return Poll::Pending;
                    }
                },
                State::Bulk(filling) if filling.filled == filling.bulk.len() => {
                    let Filling { header, meta, bulk, .. } = *filling;
                    frames.push_back(Frame { header, meta, bulk: bulk.freeze() });
                }
                unfinished @ State::Bulk(..) => {
                    self.state = unfinished;
                    return Poll::Ready(Ok(()));
                }
            }
        }
    }

    /// One step in the read buffer: a small frame, or what comes before a large bulk part. False: more is needed.
    fn gather(&mut self, head: Option<Header>, frames: &mut VecDeque<Frame>) -> Result<bool, NetError> {
        let header = if let Some(header) = head {
            header
        } else {
            let Some(raw) = self.buffer.first_chunk::<HEADER_BYTES>() else { return Ok(false) };
            let header = self.admit(Header::decode(raw))?;
            self.buffer.advance(HEADER_BYTES);
            header
        };
        let meta_bytes = header.meta_bytes as usize;
        let bulk_bytes = header.bulk_bytes as usize;
        let large = bulk_bytes >= LARGE_BYTES;
        let need = if large { meta_bytes } else { meta_bytes + bulk_bytes };
        if self.buffer.len() < need {
            self.state = State::Head(Box::new(header));
            self.buffer.reserve(need - self.buffer.len());
            return Ok(false);
        }
        self.bulk_expected = large;
        let mut bulk = self.take_out(need);
        let meta = bulk.split_to(meta_bytes);
        if large {
            self.want_buffer(header, meta);
        } else {
            frames.push_back(Frame { header, meta, bulk });
        }
        Ok(true)
    }

    fn take_out(&mut self, bytes: usize) -> Bytes {
        match bytes {
            0 => Bytes::new(),
            1..=COPIED_BYTES => {
                let copy = Bytes::copy_from_slice(&self.buffer[..bytes]);
                self.buffer.advance(bytes);
                copy
            }
            _ => self.buffer.split_to(bytes).freeze(),
        }
    }

    /// Whether this peer may send a message with such a header.
    fn admit(&self, decoded: Result<Header, HeaderError>) -> Result<Header, NetError> {
        let header = decoded.map_err(|error| match error {
            HeaderError::Version(_) => NetError::WrongVersion(error.to_string()),
            _ => NetError::protocol(error),
        })?;
        let (meta_max, bulk_max) =
            if self.class.is_some() { (META_MAX, BULK_MAX) } else { (STRANGER_BYTES as u32, 0) };
        if header.meta_bytes > meta_max || header.bulk_bytes > bulk_max {
            return Err(NetError::protocol(HeaderError::TooLarge(header.meta_bytes.max(header.bulk_bytes))));
        }
        Ok(header)
    }

    fn want_buffer(&mut self, header: Header, meta: Bytes) {
        let len = header.bulk_bytes as usize;
        let class = self.class.unwrap_or(BufferClass::ClientRequest);
        let landing = self.landings.as_ref().and_then(|landings| landings.buffer(header.tag, len));
        let now = landing.or_else(|| self.env.pool.try_get_for(class, self.share.as_ref(), len));
        if let Some(buffer) = now {
            return self.begin_bulk(header, meta, buffer);
        }
        let (pool, share) = (self.env.pool.clone(), self.share.clone());
        let wait = async move { pool.get_for(class, share.as_ref(), len).await };
        self.state = State::Wait(Box::new((header, meta, Box::pin(wait))));
    }

    /// Moves what was read of the bulk part into its buffer.
    fn begin_bulk(&mut self, header: Header, meta: Bytes, mut buffer: PoolBuffer) {
        let there = self.buffer.len().min(buffer.len());
        buffer[..there].copy_from_slice(&self.buffer[..there]);
        drop(self.buffer.split_to(there));
        NetCounters::add(&self.env.counters.copied_bytes, there as u64);
        self.state = State::Bulk(Box::new(Filling { header, meta, bulk: buffer, filled: there }));
    }

    /// One read, into the bulk part or the read buffer.
    fn poll_fill<S: AsyncRead + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        stream: &mut S,
    ) -> Poll<Result<usize, NetError>> {
        // A connection that fails is a connection that ends: what the caller can do is the same.
        let closed = |_| NetError::Closed;
        if let State::Bulk(filling) = &mut self.state {
            let Filling { bulk, filled, .. } = &mut **filling;
            let mut rest = ReadBuf::new(&mut bulk[*filled..]);
            ready!(Pin::new(stream).poll_read(cx, &mut rest)).map_err(closed)?;
            *filled += rest.filled().len();
            return Poll::Ready(Ok(rest.filled().len()));
        }
        self.make_room();
        let most = if self.bulk_expected && !matches!(self.state, State::Head(_)) {
            HEAD_READ_BYTES
        } else {
            usize::MAX
        };
        let room = self.buffer.capacity() - self.buffer.len();
        let mut target = (&mut self.buffer).limit(room.min(most));
        pin!(stream.read_buf(&mut target)).poll(cx).map_err(closed)
    }

    /// Goes on in the thread's buffer.
    fn borrow(&mut self) {
        let spare = SPARE.with_borrow_mut(std::mem::take);
        let begun = std::mem::replace(&mut self.buffer, spare);
        self.buffer.extend_from_slice(&begun);
        self.borrowed = true;
    }

    /// Leaves the thread's buffer to others, with a private copy of what is not whole.
    fn give_back(&mut self) {
        if !self.borrowed {
            return;
        }
        self.borrowed = false;
        let begun = if self.buffer.is_empty() { BytesMut::new() } else { BytesMut::from(&self.buffer[..]) };
        let mut buffer = std::mem::replace(&mut self.buffer, begun);
        if buffer.capacity() <= 4 * READ_BUFFER_BYTES {
            buffer.clear();
            SPARE.set(buffer);
        }
    }

    fn make_room(&mut self) {
        if self.class.is_none() {
            return self.buffer.reserve(HEADER_BYTES);
        }
        if !self.borrowed && self.buffer.len() < LEAST_ROOM_BYTES {
            self.borrow();
        }
        // Starting at the front again, when no slice is held, keeps the buffer in the CPU's cache.
        let whole = READ_BUFFER_BYTES.saturating_sub(self.buffer.len());
        if !self.buffer.try_reclaim(whole) && self.buffer.capacity() - self.buffer.len() < LEAST_ROOM_BYTES {
            self.buffer.reserve(READ_BUFFER_BYTES);
        }
    }
}

#[cfg(test)]
mod tests;
