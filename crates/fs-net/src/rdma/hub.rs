//! What the connections of one thread share on one device: completion queue, receive buffers, send buffers.
//!
//! Receive buffers are in a shared queue, or, with iWARP, given to connections when these begin: so many connections as that is enough for there may be.
//!
//! # Invariants
//! - A receive buffer is copied out and posted again when its completion is seen, so a connection whose messages nobody takes holds none of
//!   them, and there are as many for a thousand peers as for one (with iWARP as many for all together).
//! - A receive buffer is posted again whatever became of its message (`hostile`: `messages_that_do_not_fit_cost_no_buffer`).
//! - The completion queue has room for all that can be under way: receives, sends and reads are each counted.
//! - The queue is armed whenever the hub's task sleeps: it arms first and looks then, so a completion is seen by the look or wakes it.
//! - Buffers of a queue pair that is gone are given back after the device was told to forget it, and after the queue was emptied of it.

use super::device::Device;
use super::kind::{IWARP_RECEIVES, Kind};
use super::line::Line;
use super::record::MESSAGE_BYTES;
use super::slots::Slots;
use super::sys::{self, CompChannel, Cq, Qp, RecvWr, SendWr, Sge, Srq, SrqInitAttr, Wc};
use bytes::Bytes;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::ffi::{CStr, c_int};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::ptr::null_mut;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::task::AbortHandle;

/// Send buffers of a thread and device.
const SENDS: usize = 128;
/// Reads under way at once.
const READS: u32 = 512;
/// Completions taken at once.
const BATCH: usize = 32;
/// Marks reads among a connection's requests to the device.
const READ: u64 = 1 << 32;
/// Marks receive buffers: of what failed the device tells nothing else.
const RECEIVE: u64 = 1 << 33;

/// Why there are no more connections over iWARP.
const NO_RECEIVES: &str = "as many connections over iWARP as one thread has receive buffers for";

/// Memory that a hub registers.
pub(super) fn hub_bytes(kind: Kind) -> usize {
    (kind.receives() + SENDS) * MESSAGE_BYTES
}

fn completions(kind: Kind) -> c_int {
    kind.receives() as c_int + SENDS as c_int + READS as c_int
}

struct Fd(RawFd);

impl AsRawFd for Fd {
    fn as_raw_fd(&self) -> RawFd {
        self.0
    }
}

/// A connection.
#[derive(Clone)]
struct Member {
    line: Rc<Line>,
    qp: *mut Qp,
}

/// The part of a device that a thread uses.
pub(super) struct Hub {
    pub device: &'static Device,
    events: Option<AsyncFd<Fd>>,
    channel: *mut CompChannel,
    pub cq: *mut Cq,
    /// None with iWARP.
    pub srq: *mut Srq,
    receive: Option<Slots>,
    send: Option<Slots>,
    free: RefCell<Vec<u32>>,
    /// Receive buffers that no connection has, with iWARP.
    spare: RefCell<Vec<u32>>,
    /// Receive buffers that the device has.
    posted: Cell<usize>,
    reads: Cell<u32>,
    lines: RefCell<HashMap<u32, Member>>,
    /// Who waits for a send buffer or for room for a read.
    starved: RefCell<Vec<Waker>>,
    task: RefCell<Option<AbortHandle>>,
}

impl Hub {
    /// A hub, with its task on this thread's runtime.
    pub fn new(device: &'static Device) -> io::Result<Rc<Hub>> {
        let mut hub = Hub {
            device,
            events: None,
            channel: null_mut(),
            cq: null_mut(),
            srq: null_mut(),
            receive: None,
            send: None,
            free: RefCell::new((0..SENDS as u32).collect()),
            spare: RefCell::default(),
            posted: Cell::new(0),
            reads: Cell::new(0),
            lines: RefCell::default(),
            starved: RefCell::default(),
            task: RefCell::default(),
        };
        hub.make()?;
        let hub = Rc::new(hub);
        hub.arm();
        let weak = Rc::downgrade(&hub);
        let task = tokio::task::spawn_local(std::future::poll_fn(move |cx| run(&weak, cx)));
        hub.task.replace(Some(task.abort_handle()));
        Ok(hub)
    }

    /// Makes the device's objects; what is made is ended by `Drop`, also after an error.
    fn make(&mut self) -> io::Result<()> {
        let api = self.device.api;
        let made = |is_made: bool| if is_made { Ok(()) } else { Err(io::Error::last_os_error()) };
        // SAFETY: the context is open for good; each object is made of those before it.
        unsafe {
            self.channel = (api.ibv_create_comp_channel)(self.device.context);
            made(!self.channel.is_null())?;
            let most = completions(self.device.kind);
            self.cq = (api.ibv_create_cq)(self.device.context, most, null_mut(), self.channel, 0);
            made(!self.cq.is_null())?;
        }
        // SAFETY: made above.
        let fd = unsafe { (*self.channel).fd };
        self.events = Some(watched(fd)?);
        self.send = Some(Slots::new(self.device, SENDS)?);
        let receives = self.device.kind.receives() as u32;
        self.receive = Some(Slots::new(self.device, receives as usize)?);
        match self.device.kind {
            Kind::InfiniBand => self.share_receives(receives),
            Kind::Iwarp => {
                self.spare = RefCell::new((0..receives).collect());
                Ok(())
            }
        }
    }

    /// Makes the shared queue of receive buffers.
    fn share_receives(&mut self, receives: u32) -> io::Result<()> {
        let mut wish = SrqInitAttr { srq_context: null_mut(), max_wr: receives, max_sge: 1, srq_limit: 0 };
        // SAFETY: the domain is there for good.
        self.srq = unsafe { (self.device.api.ibv_create_srq)(self.device.pd, &raw mut wish) };
        if self.srq.is_null() {
            return Err(io::Error::last_os_error());
        }
        (0..receives).try_for_each(|slot| self.post_receive(slot, null_mut()))
    }

    /// Receive buffers that a queue pair of this hub has for itself.
    pub fn receives_of_each(&self) -> usize {
        if self.srq.is_null() { IWARP_RECEIVES } else { 0 }
    }

    /// Lets a connection's completions come to it, and gives it the receive buffers that it has for itself.
    pub fn join(&self, (qp, qp_num): (*mut Qp, u32), line: Rc<Line>) -> io::Result<()> {
        self.lines.borrow_mut().insert(qp_num, Member { line: line.clone(), qp });
        for _ in 0..self.receives_of_each() {
            let spare = self.spare.borrow_mut().pop();
            let slot = spare.ok_or_else(|| io::Error::other(NO_RECEIVES))?;
            line.receives.borrow_mut().push(slot);
            self.post_receive(slot, qp)?;
        }
        Ok(())
    }

    /// Ends what `join` began.
    pub fn leave(&self, qp_num: u32) {
        self.lines.borrow_mut().remove(&qp_num);
    }

    /// Connections of this hub.
    pub fn len(&self) -> usize {
        self.lines.borrow().len()
    }

    /// What a connection had under way comes back: its queue pair is gone, and its completions are drained.
    pub fn reclaim(&self, line: &Line) {
        self.free.borrow_mut().append(&mut line.slots.borrow_mut());
        self.spare.borrow_mut().append(&mut line.receives.borrow_mut());
        self.reads.set(self.reads.get() - line.reads.replace(0));
        self.wake_starved();
    }

    fn wake_starved(&self) {
        self.starved.take().into_iter().for_each(Waker::wake);
    }

    /// A send buffer of [`MESSAGE_BYTES`], to be posted or given back. `None`: `cx` is woken when there is one.
    pub fn take_slot(&self, cx: &Context<'_>) -> Option<SendSlot<'_>> {
        let slot = self.free.borrow_mut().pop();
        if slot.is_none() {
            self.starved.borrow_mut().push(cx.waker().clone());
        }
        Some(SendSlot { hub: self, slot: slot? })
    }

    /// Takes what completed, and tells whom it is for. Returns whether there was anything.
    pub fn drain(&self) -> bool {
        let mut found = false;
        loop {
            let mut completions = [Wc::default(); BATCH];
            // SAFETY: the queue lives as long as the hub; its context says how it is polled.
            let count = unsafe {
                let Some(poll) = (*self.device.context).ops.poll_cq else { return false };
                poll(self.cq, BATCH as c_int, completions.as_mut_ptr())
            };
            let count = usize::try_from(count).unwrap_or(0).min(BATCH);
            completions[..count].iter().for_each(|completion| self.complete(completion));
            found |= count > 0;
            if count < BATCH {
                return found;
            }
        }
    }

    fn complete(&self, completion: &Wc) {
        let member = self.lines.borrow().get(&completion.qp_num).cloned();
        let failure = (completion.status != sys::WC_SUCCESS).then(|| self.why(completion.status));
        if completion.wr_id & RECEIVE != 0 {
            return self.has_received(completion, member, failure);
        }
        let Some(Member { line, .. }) = member else { return };
        if completion.wr_id & READ == 0 {
            if line.give_back_slot(completion.wr_id as u32) {
                self.free.borrow_mut().push(completion.wr_id as u32);
            }
        } else {
            line.reads.set(line.reads.get() - 1);
            self.reads.set(self.reads.get() - 1);
            line.pulled.borrow_mut().push(completion.wr_id as u32);
        }
        if let Some(why) = failure {
            line.fail(&why);
        }
        line.wake();
        self.wake_starved();
    }

    /// A receive buffer is done with. It is posted again, but not to a queue pair that has failed: that gives it back when it ends.
    fn has_received(&self, completion: &Wc, member: Option<Member>, failure: Option<String>) {
        let (slot, is_failed) = (completion.wr_id as u32, failure.is_some());
        self.posted.set(self.posted.get().saturating_sub(1));
        let qp = member.as_ref().map(|member| member.qp);
        match (member, failure) {
            (Some(Member { line, .. }), Some(why)) => line.fail(&why),
            (Some(Member { line, .. }), None) => {
                line.arrive(self.received(slot, completion.byte_len as usize));
            }
            (None, _) => {}
        }
        let posted = match qp {
            _ if !self.srq.is_null() => self.post_receive(slot, null_mut()),
            Some(qp) if !is_failed => self.post_receive(slot, qp),
            _ => Ok(()),
        };
        if let Err(error) = posted {
            tracing::error!(%error, device = self.device.name, "a receive buffer is lost");
        }
    }

    fn why(&self, status: u32) -> String {
        // SAFETY: the function has a string for every number.
        unsafe { CStr::from_ptr((self.device.api.ibv_wc_status_str)(status)) }.to_string_lossy().into_owned()
    }

    fn received(&self, slot: u32, len: usize) -> Bytes {
        let Some(receive) = &self.receive else { return Bytes::new() };
        let from = receive.at(slot);
        // SAFETY: the device has written `len` bytes and is done with the buffer until it is posted again.
        Bytes::copy_from_slice(unsafe { std::slice::from_raw_parts(from.as_ptr(), len.min(MESSAGE_BYTES)) })
    }

    /// Posts a receive buffer to the shared queue, or where there is none to that of a queue pair.
    fn post_receive(&self, slot: u32, qp: *mut Qp) -> io::Result<()> {
        let Some(receive) = &self.receive else { return Ok(()) };
        let mut place = receive.sge(slot, MESSAGE_BYTES);
        let wr_id = RECEIVE | u64::from(slot);
        let mut wish = RecvWr { wr_id, next: null_mut(), sg_list: &raw mut place, num_sge: 1 };
        let mut bad = null_mut();
        // SAFETY: the queue lives as long as the hub, the queue pair until it has left; the buffer lives longer; the request is copied.
        let status = unsafe {
            let ops = &(*self.device.context).ops;
            match (ops.post_srq_recv, ops.post_recv) {
                (Some(post), _) if !self.srq.is_null() => post(self.srq, &raw mut wish, &raw mut bad),
                (_, Some(post)) if self.srq.is_null() => post(qp, &raw mut wish, &raw mut bad),
                _ => return Err(io::ErrorKind::Unsupported.into()),
            }
        };
        posted(status)?;
        self.posted.set(self.posted.get() + 1);
        Ok(())
    }

    /// Receive buffers that are there for messages that come, of connections that are and with iWARP those that may be.
    #[cfg(test)]
    pub fn receives_left(&self) -> usize {
        if self.srq.is_null() { self.spare.borrow().len() } else { self.posted.get() }
    }

    /// Takes receive buffers away from connections to come, until this many are left. What it took.
    #[cfg(test)]
    pub fn hold_receives(&self, left: usize) -> Vec<u32> {
        let mut spare = self.spare.borrow_mut();
        let left = left.min(spare.len());
        spare.split_off(left)
    }

    /// Gives them back.
    #[cfg(test)]
    pub fn release_receives(&self, mut held: Vec<u32>) {
        self.spare.borrow_mut().append(&mut held);
    }

    /// Whether one more read may be under way. If not, `cx` is woken when it may.
    pub fn may_read(&self, cx: &Context<'_>) -> bool {
        let may = self.reads.get() < READS;
        if !may {
            self.starved.borrow_mut().push(cx.waker().clone());
        }
        may
    }

    /// Reads from a peer's memory. `id` comes back in the line's `pulled`.
    ///
    /// # Safety
    /// `into` stays, and nobody else uses it, until then or until the queue pair is gone.
    pub unsafe fn read(&self, to: (*mut Qp, &Line), id: u32, into: Sge, far: (u64, u32)) -> io::Result<()> {
        // SAFETY: as this function's.
        unsafe { self.reach(sys::WR_RDMA_READ, to, id, into, far) }
    }

    /// Has the device do something with memory here and a peer's.
    ///
    /// # Safety
    /// As of `read`.
    pub unsafe fn reach(
        &self,
        opcode: u32,
        (qp, line): (*mut Qp, &Line),
        id: u32,
        here: Sge,
        (address, key): (u64, u32),
    ) -> io::Result<()> {
        let mut wish = request(opcode, READ | u64::from(id));
        (wish.remote_addr, wish.rkey) = (address, key);
        self.post(qp, wish, here)?;
        self.reads.set(self.reads.get() + 1);
        line.reads.set(line.reads.get() + 1);
        Ok(())
    }

    fn post(&self, qp: *mut Qp, mut wish: SendWr, mut place: Sge) -> io::Result<()> {
        (wish.sg_list, wish.num_sge) = (&raw mut place, 1);
        let mut bad = null_mut();
        // SAFETY: the caller's queue pair is of this hub and lives; the request is copied.
        let status = unsafe {
            let Some(post) = (*self.device.context).ops.post_send else {
                return Err(io::ErrorKind::Unsupported.into());
            };
            post(qp, &raw mut wish, &raw mut bad)
        };
        posted(status)
    }

    fn arm(&self) {
        // SAFETY: the queue lives as long as the hub.
        unsafe {
            if let Some(arm) = (*self.device.context).ops.req_notify_cq {
                arm(self.cq, 0);
            }
        }
    }

    /// Takes events off the channel; whether there were any.
    fn take_events(&self) -> bool {
        let mut count = 0;
        // SAFETY: the channel does not block; every event that was got is acknowledged.
        unsafe {
            let (mut cq, mut context) = (null_mut(), null_mut());
            while (self.device.api.ibv_get_cq_event)(self.channel, &raw mut cq, &raw mut context) == 0 {
                count += 1;
            }
            if count > 0 {
                (self.device.api.ibv_ack_cq_events)(self.cq, count);
            }
        }
        count > 0
    }

    fn poll_events(&self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(events) = &self.events else { return Poll::Ready(()) };
        loop {
            let mut ready = match events.poll_read_ready(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(ready)) => ready,
                Poll::Ready(Err(_)) => return Poll::Ready(()),
            };
            if self.take_events() {
                self.arm();
            }
            ready.clear_ready();
            self.drain();
        }
    }
}

fn run(hub: &Weak<Hub>, cx: &mut Context<'_>) -> Poll<()> {
    hub.upgrade().map_or(Poll::Ready(()), |hub| hub.poll_events(cx))
}

fn posted(status: c_int) -> io::Result<()> {
    if status == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(status.abs())) }
}

fn request(opcode: u32, wr_id: u64) -> SendWr {
    SendWr {
        wr_id,
        next: null_mut(),
        sg_list: null_mut(),
        num_sge: 0,
        opcode,
        send_flags: sys::SEND_SIGNALED,
        imm_data: 0,
        remote_addr: 0,
        rkey: 0,
        unused: [0; 19],
    }
}

/// A descriptor of one of the libraries in this thread's event loop. It does not block from now on.
fn watched(fd: RawFd) -> io::Result<AsyncFd<Fd>> {
    // SAFETY: the descriptor is open, and stays so for as long as its owner has it.
    let borrowed = unsafe { std::os::fd::BorrowedFd::borrow_raw(fd) };
    rustix::io::ioctl_fionbio(borrowed, true)?;
    // SAFETY: `Fd` gives the same open file for as long as it lives: its owner drops it before the file.
    Ok(unsafe { AsyncFd::register_with_interest(Fd(fd), Interest::READABLE) }?)
}

/// The events of an rdma_cm channel.
pub(super) struct Events(AsyncFd<Fd>);

impl Events {
    pub fn new(fd: RawFd) -> io::Result<Events> {
        watched(fd).map(Events)
    }

    /// Calls `look` whenever there may be something. Ready only when nothing will come any more.
    pub fn poll(&self, cx: &mut Context<'_>, mut look: impl FnMut()) -> Poll<()> {
        loop {
            match self.0.poll_read_ready(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(mut ready)) => ready.clear_ready(),
                Poll::Ready(Err(_)) => return Poll::Ready(()),
            }
            look();
        }
    }
}

/// A send buffer that this thread fills.
pub(super) struct SendSlot<'a> {
    hub: &'a Hub,
    slot: u32,
}

impl SendSlot<'_> {
    pub fn bytes(&mut self) -> &mut [u8] {
        let Some(send) = &self.hub.send else { return &mut [] };
        // SAFETY: the buffer is this slot's alone until it is posted or given back.
        unsafe { std::slice::from_raw_parts_mut(send.at(self.slot).as_ptr(), MESSAGE_BYTES) }
    }

    /// Sends the first `len` bytes; within the request itself if they are at most `inline`.
    pub fn send(self, (qp, line): (*mut Qp, &Line), len: usize, inline: usize) -> io::Result<()> {
        let (hub, slot) = (self.hub, self.slot);
        let Some(send) = &hub.send else { return Ok(()) };
        let mut wish = request(sys::WR_SEND, slot.into());
        if len <= inline {
            wish.send_flags |= sys::SEND_INLINE;
        }
        hub.post(qp, wish, send.sge(slot, len))?;
        std::mem::forget(self);
        line.slots.borrow_mut().push(slot);
        Ok(())
    }
}

impl Drop for SendSlot<'_> {
    fn drop(&mut self) {
        self.hub.free.borrow_mut().push(self.slot);
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
        }
        self.events = None;
        if !sys::is_owner() {
            return;
        }
        let api = self.device.api;
        // SAFETY: no connection refers to these any more: each holds the hub. All events were acknowledged.
        unsafe {
            if !self.srq.is_null() {
                (api.ibv_destroy_srq)(self.srq);
            }
            if !self.cq.is_null() {
                (api.ibv_destroy_cq)(self.cq);
            }
            if !self.channel.is_null() {
                (api.ibv_destroy_comp_channel)(self.channel);
            }
        }
    }
}
