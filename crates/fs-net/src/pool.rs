//! Bulk buffers within a fixed budget, shared by the threads of a process.
//!
//! Buffers come in power-of-two size classes, aligned to pages (so that direct I/O takes them as they are), and are used again. When the budget is used up, [`BufferPool::get`] waits: whoever
//! wants to receive stops reading, and the back-pressure reaches the sender.
//!
//! Two servers that forward to each other must not fill each other's pools and then wait for one another. So what is needed to
//! finish work already begun may use more of the budget than what begins new work ([`BufferClass`], lowest first): each class
//! waits only for buffers that are returned with the help of higher classes.
//!
//! # Invariants
//! - Buffers out and idle together never exceed the budget (`budget_is_never_exceeded`).
//! - Within a class buffers are given in the order asked; a class waits while a higher one does (`waiters_are_served_in_order`).
//! - A `get` that is dropped, even after it was granted, loses nothing (`a_dropped_get_gives_its_grant_back`).
//! - A higher class gets buffers that a lower one may not have (`higher_classes_keep_a_reserve`).
//!
//! The lock is held for list operations only, never while memory is allocated or freed.

use crate::shm::Block;
use aligned_vec::{AVec, ConstAlign};
use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::ops::{Deref, DerefMut};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;
use thiserror::Error;

const SMALLEST_BITS: u32 = 12;
const LARGEST_BITS: u32 = 24;
const SIZES: usize = (LARGEST_BITS - SMALLEST_BITS + 1) as usize;
const CLASSES: usize = 4;
/// Alignment of buffers: what direct I/O asks for at most.
const ALIGN: usize = 4096;

type Memory = AVec<u8, ConstAlign<ALIGN>>;

/// Largest buffer, in bytes.
pub const LARGEST_BUFFER: usize = 1 << LARGEST_BITS;

const _: () = assert!(LARGEST_BUFFER >= fs_proto::BULK_MAX as usize);

/// A message part, or a buffer for it, that is larger than a message may carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("{0} bytes are more than one message may carry")]
pub struct TooLarge(pub usize);

/// What a buffer is for, and so how much of the budget may be in use when it is given out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum BufferClass {
    /// Data that a client sends: a quarter.
    ClientRequest = 0,
    /// Buffers that the process fills itself, such as reads from its store: half.
    Local = 1,
    /// Data that a server answers: three quarters.
    PeerReply = 2,
    /// Data that another server sends; it is carried out here without further buffers: all.
    PeerRequest = 3,
}

/// State of a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PoolStats {
    /// Budget in bytes.
    pub size: u64,
    /// Bytes given out.
    pub used: u64,
    /// Most bytes ever given out.
    pub peak: u64,
    /// How often somebody had to wait.
    pub waits: u64,
    /// How long they waited in all, in nanoseconds.
    pub wait_ns: u64,
    /// Bytes kept for reuse.
    pub idle: u64,
}

/// The pool. Clones share it.
#[derive(Clone)]
pub struct BufferPool(Arc<Shared>);

struct Shared {
    size: usize,
    limits: [usize; CLASSES],
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    used: usize,
    idle_bytes: usize,
    idle: [Vec<Memory>; SIZES],
    waiting: [VecDeque<Waiter>; CLASSES],
    granted: Vec<u64>,
    next_ticket: u64,
    peak: usize,
    waits: u64,
    wait_ns: u64,
}

struct Waiter {
    ticket: u64,
    bytes: usize,
    waker: Waker,
}

/// A buffer of the pool, or of memory shared with a peer; goes back when dropped. New content is the caller's to write: old content
/// shows through.
pub struct PoolBuffer {
    data: Home,
    len: usize,
}

/// Where a buffer lies.
enum Home {
    Pool(Pooled),
    Shared(Block),
}

struct Pooled {
    data: Memory,
    pool: Arc<Shared>,
}

impl BufferPool {
    /// A pool of `bytes`, or of the largest buffer if that is more. Servers that forward need four times the largest buffer
    /// (64 MiB) for the reserves of [`BufferClass`] to hold.
    pub fn new(bytes: usize) -> BufferPool {
        let size = bytes.max(LARGEST_BUFFER);
        let limit = |quarters: usize| (size / 4 * quarters).max(LARGEST_BUFFER);
        let limits = [limit(1), limit(2), limit(3), size];
        BufferPool(Arc::new(Shared { size, limits, state: Mutex::default() }))
    }

    /// A buffer of `len` bytes for data of this process. Waits while the budget is used up.
    pub async fn get(&self, len: usize) -> Result<PoolBuffer, TooLarge> {
        self.get_for(BufferClass::Local, len).await
    }

    /// A buffer of `len` bytes. Waits while the class's share of the budget is used up. May be dropped at any time.
    pub async fn get_for(&self, class: BufferClass, len: usize) -> Result<PoolBuffer, TooLarge> {
        let size = size_index(len)?;
        if let Some(buffer) = self.0.take_at_once(class, size, len) {
            return Ok(buffer);
        }
        let wait = Wait { pool: self.0.clone(), class, size, ticket: None, since: Instant::now() };
        Ok(wait.await.buffer(len))
    }

    /// A buffer of `len` bytes for data of this process, if there is one now (and `len` is not too large).
    pub fn try_get(&self, len: usize) -> Option<PoolBuffer> {
        self.try_get_for(BufferClass::Local, len)
    }

    /// A buffer of `len` bytes, if there is one now (and `len` is not too large).
    pub fn try_get_for(&self, class: BufferClass, len: usize) -> Option<PoolBuffer> {
        self.0.take_at_once(class, size_index(len).ok()?, len)
    }

    /// The pool's figures.
    pub fn stats(&self) -> PoolStats {
        let state = self.0.state.lock();
        PoolStats {
            size: self.0.size as u64,
            used: state.used as u64,
            peak: state.peak as u64,
            waits: state.waits,
            wait_ns: state.wait_ns,
            idle: state.idle_bytes as u64,
        }
    }
}

impl fmt::Debug for BufferPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.stats().fmt(f)
    }
}

fn size_index(len: usize) -> Result<usize, TooLarge> {
    if len > LARGEST_BUFFER {
        return Err(TooLarge(len));
    }
    let bits = len.next_power_of_two().trailing_zeros().max(SMALLEST_BITS);
    Ok((bits - SMALLEST_BITS) as usize)
}

fn bytes_of(size: usize) -> usize {
    1 << (size as u32 + SMALLEST_BITS)
}

fn new_memory(bytes: usize) -> Memory {
    let mut memory = AVec::with_capacity(0, bytes);
    memory.resize(bytes, 0);
    memory
}

/// Room in the budget that is already counted as used, and an idle buffer to fill it if there was one.
/// Made into a buffer at once, after the lock is released.
struct Grant {
    pool: Arc<Shared>,
    size: usize,
    data: Option<Memory>,
}

impl Grant {
    fn buffer(mut self, len: usize) -> PoolBuffer {
        let data = self.data.take().unwrap_or_else(|| new_memory(bytes_of(self.size)));
        PoolBuffer { data: Home::Pool(Pooled { data, pool: self.pool.clone() }), len }
    }
}

impl Shared {
    fn take_at_once(self: &Arc<Self>, class: BufferClass, size: usize, len: usize) -> Option<PoolBuffer> {
        let mut evicted = Vec::new();
        let data = {
            let mut state = self.state.lock();
            let queued = state.waiting[class as usize..].iter().any(|queue| !queue.is_empty());
            if queued || state.used + bytes_of(size) > self.limits[class as usize] {
                return None;
            }
            state.used += bytes_of(size);
            self.take_data(&mut state, size, &mut evicted)
        };
        drop(evicted);
        Some(Grant { pool: self.clone(), size, data }.buffer(len))
    }

    /// An idle buffer of the size if there is one. If not, idle ones of other sizes (to be freed after unlocking) make room
    /// for a new one. The bytes are counted in `used` already.
    fn take_data(&self, state: &mut State, size: usize, evicted: &mut Vec<Memory>) -> Option<Memory> {
        state.peak = state.peak.max(state.used);
        let found = state.idle[size].pop();
        if found.is_some() {
            state.idle_bytes -= bytes_of(size);
        }
        while state.used + state.idle_bytes > self.size {
            let Some(other) = state.idle.iter_mut().rev().find_map(Vec::pop) else { break };
            state.idle_bytes -= other.len();
            evicted.push(other);
        }
        found
    }

    fn give_back(&self, data: Memory) {
        let mut wakers = Vec::new();
        {
            let mut state = self.state.lock();
            let size = (data.len().trailing_zeros() - SMALLEST_BITS) as usize;
            state.used -= data.len();
            state.idle_bytes += data.len();
            state.idle[size].push(data);
            self.grant_waiting(&mut state, &mut wakers);
        }
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Lets waiters in, highest class first, until one does not fit.
    fn grant_waiting(&self, state: &mut State, wakers: &mut Vec<Waker>) {
        for class in (0..CLASSES).rev() {
            while let Some(first) = state.waiting[class].front() {
                if state.used + first.bytes > self.limits[class] {
                    return;
                }
                state.used += first.bytes;
                state.granted.push(first.ticket);
                wakers.extend(state.waiting[class].pop_front().map(|waiter| waiter.waker));
            }
        }
    }
}

impl State {
    fn claim(&mut self, ticket: u64) -> bool {
        let found = self.granted.iter().position(|&granted| granted == ticket);
        found.map(|at| self.granted.swap_remove(at)).is_some()
    }
}

/// Waits in the queue of its class.
struct Wait {
    pool: Arc<Shared>,
    class: BufferClass,
    size: usize,
    ticket: Option<u64>,
    since: Instant,
}

impl Future for Wait {
    type Output = Grant;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Grant> {
        let pool = self.pool.clone();
        let (size, class) = (self.size, self.class as usize);
        let mut evicted = Vec::new();
        let mut wakers = Vec::new();
        let mut state = pool.state.lock();
        let ticket = if let Some(ticket) = self.ticket {
            ticket
        } else {
            let ticket = state.next_ticket;
            state.next_ticket += 1;
            state.waits += 1;
            self.ticket = Some(ticket);
            state.waiting[class].push_back(Waiter {
                ticket,
                bytes: bytes_of(size),
                waker: cx.waker().clone(),
            });
            // A buffer may have come back between the first try and now.
            pool.grant_waiting(&mut state, &mut wakers);
            ticket
        };
        if !state.claim(ticket) {
            if let Some(waiter) = state.waiting[class].iter_mut().find(|waiter| waiter.ticket == ticket) {
                waiter.waker.clone_from(cx.waker());
            }
            drop(state);
            wakers.into_iter().for_each(Waker::wake);
            return Poll::Pending;
        }
        self.ticket = None;
        state.wait_ns += self.since.elapsed().as_nanos() as u64;
        let data = pool.take_data(&mut state, size, &mut evicted);
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
        Poll::Ready(Grant { pool, size, data })
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        let Some(ticket) = self.ticket else { return };
        let mut wakers = Vec::new();
        {
            let mut state = self.pool.state.lock();
            if state.claim(ticket) {
                state.used -= bytes_of(self.size);
            } else {
                state.waiting[self.class as usize].retain(|waiter| waiter.ticket != ticket);
            }
            self.pool.grant_waiting(&mut state, &mut wakers);
        }
        wakers.into_iter().for_each(Waker::wake);
    }
}

impl PoolBuffer {
    /// The first `len` bytes of a block of shared memory.
    pub(crate) fn shared(block: Block, len: usize) -> PoolBuffer {
        assert!(len <= block.len());
        PoolBuffer { data: Home::Shared(block), len }
    }

    /// The content as shared bytes; the buffer goes back to the pool when the last of them is dropped.
    pub fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }

    /// All of its memory, which may be longer than its content: a multiple of 4096, aligned to it.
    pub fn whole_mut(&mut self) -> &mut [u8] {
        match &mut self.data {
            Home::Pool(pooled) => &mut pooled.data,
            Home::Shared(block) => block,
        }
    }

    /// As [`PoolBuffer::whole_mut`], to look at.
    pub fn whole(&self) -> &[u8] {
        match &self.data {
            Home::Pool(pooled) => &pooled.data,
            Home::Shared(block) => block,
        }
    }

    /// Keeps the first `len` bytes; does nothing if there are fewer.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }
}

impl AsRef<[u8]> for PoolBuffer {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl Deref for PoolBuffer {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.whole()[..self.len]
    }
}

impl DerefMut for PoolBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        let len = self.len;
        &mut self.whole_mut()[..len]
    }
}

impl fmt::Debug for PoolBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PoolBuffer({} of {} bytes)", self.len, self.whole().len())
    }
}

impl Drop for Pooled {
    fn drop(&mut self) {
        self.pool.give_back(std::mem::replace(&mut self.data, AVec::new(0)));
    }
}

#[cfg(test)]
mod tests;
