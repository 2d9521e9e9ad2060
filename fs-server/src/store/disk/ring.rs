//! One io_uring per worker thread: direct reads and writes that do not hold up the thread.
//!
//! Requests are queued while tasks run, and given to the kernel together when they have all had their turn; completions
//! wake the thread's runtime through an eventfd.
//!
//! # Invariants
//! - Memory that the kernel reads or writes belongs to the ring from the start of an operation to its completion,
//!   whatever becomes of who waits for it (`who_stops_waiting_leaves_nothing_behind`).
//! - A ring ends only after all its operations have.
//!
//! Deliberately absent: registered files and buffers (decision 0012).

use super::SegmentFile;
use super::direct::{Aligned, DirectFile};
use bytes::Bytes;
use fs_net::PoolBuffer;
use io_uring::{IoUring, opcode, squeue, types};
use rustix::event::EventfdFlags;
use slab::Slab;
use std::cell::RefCell;
use std::future::Future;
use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, OwnedFd};
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;

/// Operations that the kernel takes at once. More are given to it as these are taken.
const ENTRIES: u32 = 256;

/// Memory of an operation.
pub(in super::super) enum Part {
    /// The ring's own.
    Own(Aligned),
    /// Of a message; written only from.
    Shared(Bytes),
    /// Of a reply that is being made, of which so many bytes are used.
    Pool(PoolBuffer, usize),
}

impl Part {
    fn iovec(&mut self) -> libc::iovec {
        let (base, len) = match self {
            Part::Own(memory) => (memory.as_mut_ptr(), memory.len()),
            Part::Shared(bytes) => (bytes.as_ptr().cast_mut(), bytes.len()),
            Part::Pool(buffer, len) => (buffer.whole_mut().as_mut_ptr(), *len),
        };
        libc::iovec { iov_base: base.cast(), iov_len: len }
    }

    /// What the kernel reads or fills.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Part::Own(memory) => memory,
            Part::Shared(bytes) => bytes,
            Part::Pool(buffer, len) => &buffer.whole()[..*len],
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    Read,
    Write,
}

/// An operation: everything that the kernel refers to meanwhile.
struct Work {
    file: Arc<DirectFile>,
    parts: Vec<Part>,
    iovecs: Vec<libc::iovec>,
    at: u64,
    direction: Direction,
}

impl Work {
    fn new(file: Arc<DirectFile>, mut parts: Vec<Part>, at: u64, direction: Direction) -> Self {
        let iovecs = parts.iter_mut().map(Part::iovec).collect();
        Work { file, parts, iovecs, at, direction }
    }

    fn entry(&self) -> squeue::Entry {
        let fd = types::Fd(self.file.0.as_raw_fd());
        let (iovecs, count) = (self.iovecs.as_ptr(), self.iovecs.len() as u32);
        match self.direction {
            Direction::Read => opcode::Readv::new(fd, iovecs, count).offset(self.at).build(),
            Direction::Write => opcode::Writev::new(fd, iovecs, count).offset(self.at).build(),
        }
    }

    /// The number of bytes that were moved; writes that the kernel took only part of are ended here.
    fn outcome(&self, result: i32) -> io::Result<usize> {
        if result < 0 {
            return Err(io::Error::from_raw_os_error(-result));
        }
        let moved = result as usize;
        let wanted: usize = self.iovecs.iter().map(|v| v.iov_len).sum();
        if self.direction == Direction::Write && moved < wanted {
            let all: Vec<u8> = self.parts.iter().flat_map(|part| part.bytes().iter().copied()).collect();
            self.file.write_at(&mut [IoSlice::new(&all[moved..])], self.at + moved as u64)?;
        }
        Ok(if self.direction == Direction::Write { wanted } else { moved })
    }
}

struct Slot {
    work: Work,
    result: Option<i32>,
    waker: Option<Waker>,
    is_wanted: bool,
}

/// A thread's ring.
struct Ring {
    uring: RefCell<IoUring>,
    slots: RefCell<Slab<Slot>>,
    queued: Notify,
}

thread_local! {
    static RING: RefCell<Weak<Ring>> = const { RefCell::new(Weak::new()) };
}

impl Ring {
    /// This thread's ring, made at the first need. Lives as long as the thread's runtime.
    fn here() -> io::Result<Rc<Ring>> {
        if let Some(ring) = RING.with_borrow(Weak::upgrade) {
            return Ok(ring);
        }
        let uring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_taskrun_flag()
            .build(ENTRIES)
            .or_else(|_| IoUring::new(ENTRIES))?;
        let event = rustix::event::eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?;
        uring.submitter().register_eventfd(event.as_raw_fd())?;
        // SAFETY: the descriptor is owned by what is registered, so it stays open and the same until deregistered.
        let event = unsafe { AsyncFd::register(event) }?;
        let ring =
            Rc::new(Ring { uring: RefCell::new(uring), slots: RefCell::default(), queued: Notify::new() });
        RING.set(Rc::downgrade(&ring));
        tokio::task::spawn_local(drive(Rc::clone(&ring), event));
        Ok(ring)
    }

    fn start(self: &Rc<Self>, work: Work) -> io::Result<InFlight> {
        let entry = work.entry();
        let id = self.slots.borrow_mut().insert(Slot { work, result: None, waker: None, is_wanted: true });
        let entry = entry.user_data(id as u64);
        let mut uring = self.uring.borrow_mut();
        loop {
            // SAFETY: what the entry refers to (file, iovecs and their memory) is in the slot, which stays until the
            // completion was reaped, and behind pointers that do not move with it.
            let pushed = unsafe { uring.submission().push(&entry) };
            if pushed.is_ok() {
                break;
            }
            if let Err(error) = uring.submit() {
                self.slots.borrow_mut().remove(id);
                return Err(error);
            }
        }
        drop(uring);
        self.queued.notify_one();
        Ok(InFlight { ring: Rc::clone(self), id, is_done: false })
    }

    /// Gives what is queued to the kernel, and has it post what is complete: it leaves that to the calls of this thread, which costs one wake-up
    /// of a batch instead of an interruption of each. If it takes no more now, completions come first.
    fn submit(&self) {
        if !self.is_behind() {
            return;
        }
        let submitted = self.uring.borrow().submit();
        if let Err(error) = submitted
            && !matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EBUSY | libc::EINTR))
        {
            tracing::error!(%error, "io_uring takes no requests");
        }
    }

    fn reap(&self) {
        let mut wakers = Vec::new();
        {
            let mut uring = self.uring.borrow_mut();
            let mut slots = self.slots.borrow_mut();
            for completion in uring.completion() {
                let id = completion.user_data() as usize;
                let Some(slot) = slots.get_mut(id) else { continue };
                slot.result = Some(completion.result());
                if slot.is_wanted {
                    wakers.extend(slot.waker.take());
                } else {
                    slots.remove(id);
                }
            }
        }
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Whether the kernel has to be called: it did not take everything, or has completions that are not posted, for lack of room or of a call.
    fn is_behind(&self) -> bool {
        let mut uring = self.uring.borrow_mut();
        let queue = uring.submission();
        !queue.is_empty() || queue.cq_overflow() || queue.taskrun()
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        while self.slots.borrow().iter().any(|(_, slot)| slot.result.is_none()) {
            let waited = self.uring.borrow().submit_and_wait(1);
            if let Err(error) = waited
                && error.raw_os_error() != Some(libc::EINTR)
            {
                tracing::error!(%error, "io_uring cannot be waited for; its memory is left to the kernel");
                std::mem::forget(std::mem::take(&mut *self.slots.borrow_mut()));
                return;
            }
            self.reap();
        }
    }
}

/// Submits what was queued and reaps what is complete, until the runtime ends.
async fn drive(ring: Rc<Ring>, event: AsyncFd<OwnedFd>) {
    loop {
        tokio::select! {
            readable = event.readable() => {
                // The count is not read, which saves a call: epoll tells of each further completion all the same.
                let Ok(mut ready) = readable else { return };
                ready.clear_ready();
            }
            () = ring.queued.notified() => {}
        }
        ring.submit();
        ring.reap();
        if ring.is_behind() {
            ring.queued.notify_one();
        }
    }
}

/// An operation that is being carried out. Its memory comes back with the result.
struct InFlight {
    ring: Rc<Ring>,
    id: usize,
    is_done: bool,
}

impl Future for InFlight {
    type Output = (io::Result<usize>, Vec<Part>);

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let ring = Rc::clone(&self.ring);
        let mut slots = ring.slots.borrow_mut();
        let slot = &mut slots[self.id];
        let Some(result) = slot.result else {
            slot.waker = Some(cx.waker().clone());
            return Poll::Pending;
        };
        self.is_done = true;
        let work = slots.remove(self.id).work;
        drop(slots);
        Poll::Ready((work.outcome(result), work.parts))
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        if self.is_done {
            return;
        }
        let mut slots = self.ring.slots.borrow_mut();
        match slots.get_mut(self.id) {
            Some(slot) if slot.result.is_none() => slot.is_wanted = false,
            _ => drop(slots.try_remove(self.id)),
        }
    }
}

/// Writes `parts`, aligned and as long as blocks together, at `at`. Waits without holding up the thread.
pub(in super::super) async fn write(file: Arc<DirectFile>, parts: Vec<Part>, at: u64) -> io::Result<()> {
    let ring = Ring::here()?;
    let (written, _) = ring.start(Work::new(file, parts, at, Direction::Write))?.await;
    written.map(drop)
}

/// Fills `parts`, aligned and each as long as blocks, one after the other from `at`. Returns them with the number of bytes
/// there were.
pub(in super::super) async fn read(
    file: Arc<DirectFile>,
    parts: Vec<Part>,
    at: u64,
) -> (io::Result<usize>, Vec<Part>) {
    match Ring::here().and_then(|ring| ring.start(Work::new(file, parts, at, Direction::Read))) {
        Ok(operation) => operation.await,
        Err(error) => (Err(error), Vec::new()),
    }
}

#[cfg(test)]
#[path = "ring_tests.rs"]
mod tests;
