//! Bulk buffers within a fixed budget, shared by the threads of a process.
//!
//! Buffers come in power-of-two size classes, aligned to pages (so that direct I/O takes them as they are), and are used again. When the budget is used up, [`BufferPool::get`] waits: whoever
//! wants to receive stops reading, and the back-pressure reaches the sender. Who waits is served by turns ([`crate::budget`]).
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

use crate::budget::{Account, Budget, BufferClass, Charge, PoolStats};
use crate::rdma::memory::{self, Tracked};
use crate::shm::Block;
use aligned_vec::{AVec, ConstAlign};
use bytes::Bytes;
use fs_proto::msg::session::Role;
use parking_lot::Mutex;
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use thiserror::Error;

const SMALLEST_BITS: u32 = 12;
const LARGEST_BITS: u32 = 24;
const SIZES: usize = (LARGEST_BITS - SMALLEST_BITS + 1) as usize;
/// Bytes of buffers that a waiting peer gets before the next one's turn, at least.
const TURN_BYTES: usize = 64 << 10;
/// Alignment of buffers: what direct I/O asks for at most.
const ALIGN: usize = 4096;

/// Memory of a buffer.
struct Memory {
    /// Goes before what it is about.
    tracked: Option<Tracked>,
    bytes: AVec<u8, ConstAlign<ALIGN>>,
}

/// Largest buffer, in bytes.
pub const LARGEST_BUFFER: usize = 1 << LARGEST_BITS;

const _: () = assert!(LARGEST_BUFFER >= fs_proto::BULK_MAX as usize);

/// A message part, or a buffer for it, that is larger than a message may carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("{0} bytes are more than one message may carry")]
pub struct TooLarge(pub usize);

/// The pool. Clones share it.
#[derive(Clone)]
pub struct BufferPool {
    budget: Budget,
    spare: Arc<Mutex<Spare>>,
}

/// Memory kept for reuse.
#[derive(Default)]
struct Spare {
    bytes: usize,
    sizes: [Vec<Memory>; SIZES],
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
    spare: Arc<Mutex<Spare>>,
    /// Goes back after the memory.
    _charge: Charge,
}

impl BufferPool {
    /// A pool of `bytes`, or of the largest buffer if that is more. Servers that forward need four times the largest buffer
    /// (64 MiB) for the reserves of [`BufferClass`] to hold.
    pub fn new(bytes: usize) -> BufferPool {
        let size = bytes.max(LARGEST_BUFFER);
        let limit = |quarters: usize| (size / 4 * quarters).max(LARGEST_BUFFER);
        let budget = Budget::with_limits(size, [limit(1), limit(2), limit(3), size], TURN_BYTES);
        BufferPool { budget, spare: Arc::default() }
    }

    /// The account of a peer.
    pub fn account(&self, role: &Role) -> Account {
        self.budget.account(role)
    }

    /// A buffer of `len` bytes for data of this process. Waits while the budget is used up.
    pub async fn get(&self, len: usize) -> Result<PoolBuffer, TooLarge> {
        self.get_for(BufferClass::Local, None, len).await
    }

    /// A buffer of `len` bytes on account of a peer. Waits while the class's share of the budget, or the peer's, is used up. May be dropped
    /// at any time.
    pub async fn get_for(
        &self,
        class: BufferClass,
        share: Option<&Account>,
        len: usize,
    ) -> Result<PoolBuffer, TooLarge> {
        let size = size_index(len)?;
        if let Some(charge) = self.budget.try_get(class, share, bytes_of(size)) {
            return Ok(self.buffer(charge, size, len));
        }
        let charge = self.budget.get(class, share, bytes_of(size)).await;
        Ok(self.buffer(charge, size, len))
    }

    /// A buffer of `len` bytes for data of this process, if there is one now (and `len` is not too large).
    pub fn try_get(&self, len: usize) -> Option<PoolBuffer> {
        self.try_get_for(BufferClass::Local, None, len)
    }

    /// A buffer of `len` bytes on account of a peer, if there is one now (and `len` is not too large).
    pub fn try_get_for(&self, class: BufferClass, share: Option<&Account>, len: usize) -> Option<PoolBuffer> {
        let size = size_index(len).ok()?;
        let charge = self.budget.try_get(class, share, bytes_of(size))?;
        Some(self.buffer(charge, size, len))
    }

    /// The pool's figures.
    pub fn stats(&self) -> PoolStats {
        PoolStats { idle: self.spare.lock().bytes as u64, ..self.budget.stats() }
    }

    /// Memory for what is counted already.
    fn buffer(&self, charge: Charge, size: usize, len: usize) -> PoolBuffer {
        let mut evicted = Vec::new();
        let found = self.spare.lock().take(size, &self.budget, &mut evicted);
        drop(evicted);
        let mut data = found.unwrap_or_else(|| new_memory(bytes_of(size)));
        if data.tracked.is_none() {
            data.tracked = memory::track(data.bytes.as_ptr(), data.bytes.len());
        }
        let pooled = Pooled { data, spare: self.spare.clone(), _charge: charge };
        PoolBuffer { data: Home::Pool(pooled), len }
    }
}

impl Spare {
    /// An idle buffer of the size if there is one. If not, idle ones of other sizes (to be freed after unlocking) make room
    /// for a new one.
    fn take(&mut self, size: usize, budget: &Budget, evicted: &mut Vec<Memory>) -> Option<Memory> {
        let found = self.sizes[size].pop();
        if found.is_some() {
            self.bytes -= bytes_of(size);
        }
        while budget.used() + self.bytes > budget.size() {
            let Some(other) = self.sizes.iter_mut().rev().find_map(Vec::pop) else { break };
            self.bytes -= other.bytes.len();
            evicted.push(other);
        }
        found
    }

    fn put(&mut self, data: Memory) {
        let len = data.bytes.len();
        self.bytes += len;
        self.sizes[(len.trailing_zeros() - SMALLEST_BITS) as usize].push(data);
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
    Memory { tracked: None, bytes: memory }
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
            Home::Pool(pooled) => &mut pooled.data.bytes,
            Home::Shared(block) => block,
        }
    }

    /// As [`PoolBuffer::whole_mut`], to look at.
    pub fn whole(&self) -> &[u8] {
        match &self.data {
            Home::Pool(pooled) => &pooled.data.bytes,
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
        let data = std::mem::replace(&mut self.data, Memory { tracked: None, bytes: AVec::new(0) });
        self.spare.lock().put(data);
    }
}

#[cfg(test)]
mod tests;
