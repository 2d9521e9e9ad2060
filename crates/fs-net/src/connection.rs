//! The asking side: many calls in flight on one connection.
//!
//! One task drives the connection: it sends all that calls have queued since it last ran, in one write, reads what is there, and
//! wakes the calls whose answers came. Calls and driver share their state on one thread, without locks.
//!
//! # Invariants
//! - A tag is not used again before its answer came, so an answer never reaches another call, even when the call that asked was
//!   dropped (`a_dropped_call_does_not_disturb_later_ones`).
//! - When the connection ends, every waiting call learns why (`calls_end_when_the_connection_does`).
//! - The last handle that is dropped ends the connection.

use crate::address::Address;
use crate::budget::BufferClass;
use crate::counters::{NetCounters, OpenConnection};
use crate::env::{Identity, NetEnv, Sharing};
use crate::error::NetError;
use crate::frame::Frame;
use crate::handshake::{Talk, introduce};
use crate::landing::Landings;
use crate::pool::PoolBuffer;
use crate::rdma::{self, Way};
use crate::send_queue::SendQueue;
use crate::shm::{self, Lending};
use crate::stream::dial;
use crate::transport::Transport;
use bytes::Bytes;
use fs_proto::{Flags, Header, ServerId};
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

/// Answers that may be outstanding for calls nobody waits for; with more, the server is as good as dead.
const MAX_ABANDONED: usize = 1 << 16;

/// How often a connection over TCP looks whether RDMA may be tried again, and how long a try has.
const LOOK_PAUSE: Duration = Duration::from_secs(1);
const TRY_PAUSE: Duration = Duration::from_secs(6);

/// Batches of answers that are taken in before the calls that they woke have their turn.
const ROUNDS: usize = 2;

/// A connection to a server. Clones share it.
#[derive(Clone)]
pub struct Connection(Rc<Handle>);

/// Ends the connection when the last clone is gone.
struct Handle {
    shared: Rc<Shared>,
    server: ServerId,
    epoch: u64,
    lending: Lending,
    way: Way,
    /// When it is next asked whether it could be over RDMA.
    next_look: Cell<Instant>,
}

struct Shared {
    queue: RefCell<SendQueue>,
    calls: RefCell<Calls>,
    landings: Rc<Landings>,
    driver: Cell<Option<Waker>>,
    ended: RefCell<Option<NetError>>,
}

enum Slot {
    Free,
    Waiting(Waker),
    Done(Frame),
    Abandoned,
}

#[derive(Default)]
struct Calls {
    slots: Vec<Slot>,
    free: Vec<u32>,
    abandoned: usize,
}

impl Calls {
    fn begin(&mut self) -> u32 {
        // The waker is set when the call is polled for the first time, which is before the driver runs.
        let slot = Slot::Waiting(Waker::noop().clone());
        if let Some(tag) = self.free.pop() {
            self.slots[tag as usize] = slot;
            return tag;
        }
        self.slots.push(slot);
        (self.slots.len() - 1) as u32
    }

    /// Brings an answer to its call.
    fn finish(&mut self, frame: Frame) -> Result<(), NetError> {
        let tag = frame.header.tag;
        let slot = self.slots.get_mut(tag as usize);
        match slot {
            Some(slot @ Slot::Waiting(_)) if frame.header.flags.has(Flags::REPLY) => {
                if let Slot::Waiting(waker) = std::mem::replace(slot, Slot::Done(frame)) {
                    waker.wake();
                }
                Ok(())
            }
            Some(slot @ Slot::Abandoned) => {
                *slot = Slot::Free;
                self.free.push(tag);
                self.abandoned -= 1;
                Ok(())
            }
            _ => Err(NetError::protocol("an answer to a question that was not asked")),
        }
    }

    fn poll(&mut self, tag: u32, cx: &Context<'_>) -> Option<Frame> {
        let slot = &mut self.slots[tag as usize];
        if let Slot::Waiting(waker) = slot {
            waker.clone_from(cx.waker());
            return None;
        }
        match std::mem::replace(slot, Slot::Free) {
            Slot::Done(frame) => {
                self.free.push(tag);
                Some(frame)
            }
            _ => None,
        }
    }

    fn abandon(&mut self, tag: u32) {
        let slot = &mut self.slots[tag as usize];
        if matches!(slot, Slot::Waiting(_)) {
            *slot = Slot::Abandoned;
            self.abandoned += 1;
        } else {
            *slot = Slot::Free;
            self.free.push(tag);
        }
    }

    fn wake_all(&mut self) {
        for slot in &mut self.slots {
            if let Slot::Waiting(waker) = slot {
                waker.wake_by_ref();
            }
        }
    }
}

/// A call that waits for its answer.
struct Answer<'a> {
    shared: &'a Shared,
    tag: u32,
    done: bool,
    /// Whether it is known where the answer is to be received.
    lands: bool,
}

impl Future for Answer<'_> {
    type Output = Result<Frame, NetError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let found = self.shared.calls.borrow_mut().poll(self.tag, cx);
        if let Some(frame) = found {
            self.done = true;
            return Poll::Ready(Ok(frame));
        }
        match &*self.shared.ended.borrow() {
            Some(reason) => Poll::Ready(Err(reason.clone())),
            None => Poll::Pending,
        }
    }
}

impl Drop for Answer<'_> {
    fn drop(&mut self) {
        if self.lands {
            self.shared.landings.forget(self.tag);
        }
        if !self.done {
            self.shared.calls.borrow_mut().abandon(self.tag);
        }
    }
}

impl Connection {
    /// Connects and proves who we are, within `timeout`. Must be called on a runtime with local tasks, where the connection then lives.
    pub async fn connect(
        address: &Address,
        who: &Identity,
        env: &Rc<NetEnv>,
        timeout: Duration,
    ) -> Result<Connection, NetError> {
        match tokio::time::timeout(timeout, Connection::open(address, who, env)).await {
            Ok(opened) => opened,
            Err(_) => Err(NetError::TimedOut),
        }
    }

    async fn open(address: &Address, who: &Identity, env: &Rc<NetEnv>) -> Result<Connection, NetError> {
        let transport = dial(address, env).await?;
        Connection::over(transport, who, env).await
    }

    /// As [`Connection::connect`], on a transport that is open already.
    pub(crate) async fn over(
        mut transport: Box<dyn Transport>,
        who: &Identity,
        env: &Rc<NetEnv>,
    ) -> Result<Connection, NetError> {
        let talk = Talk::new(&mut *transport, SendQueue::new(env.counters.clone()));
        let (server, epoch) = introduce(talk, who).await.inspect_err(|_| {
            NetCounters::add(&env.counters.handshake_failures, 1);
        })?;
        transport.trust(BufferClass::PeerReply, None);
        let (transport, lending) = match &env.sharing {
            Sharing::Ask | Sharing::Insist => shm::ask(transport, env).await?,
            Sharing::Never | Sharing::Grant(_) => (transport, Lending::default()),
        };
        let (mut transport, way) = rdma::ask(transport, env).await?;
        let landings = Rc::<Landings>::default();
        transport.land(&landings);
        let shared = Rc::new(Shared {
            queue: RefCell::new(SendQueue::new(env.counters.clone())),
            calls: RefCell::default(),
            landings,
            driver: Cell::new(None),
            ended: RefCell::new(None),
        });
        let open = OpenConnection::new(&env.counters);
        tokio::task::spawn_local(drive(shared.clone(), transport, open));
        let next_look = Cell::new(Instant::now() + LOOK_PAUSE);
        Ok(Connection(Rc::new(Handle { shared, server, epoch, lending, way, next_look })))
    }

    /// Sends a request and waits for its answer, at most `header.deadline_ms` if that is not 0. The tag and the lengths of the
    /// header are set here. An answer with a status other than `Ok` is an answer, not an error. The future may be dropped.
    pub fn call(
        &self,
        header: Header,
        meta: Bytes,
        bulk: Bytes,
    ) -> impl Future<Output = Result<Frame, NetError>> + use<'_> {
        self.call_to(header, meta, bulk, None)
    }

    /// As [`Connection::call`]; the data of the answer lands in the memory that `lending` shares with who it is for, if there is some and it
    /// has room. Nobody may look into it here: see [`crate::Lending`].
    pub fn call_into<'a>(
        &'a self,
        header: Header,
        meta: Bytes,
        bulk: Bytes,
        lending: &'a Lending,
    ) -> impl Future<Output = Result<Frame, NetError>> + use<'a> {
        self.call_to(header, meta, bulk, Some(lending).filter(|lending| lending.is_shared()))
    }

    async fn call_to(
        &self,
        mut header: Header,
        meta: Bytes,
        bulk: Bytes,
        lending: Option<&Lending>,
    ) -> Result<Frame, NetError> {
        let shared = &*self.0.shared;
        if let Some(reason) = &*shared.ended.borrow() {
            return Err(reason.clone());
        }
        crate::send_queue::check_sizes(&meta, &bulk)?;
        header.tag = shared.calls.borrow_mut().begin();
        let answer = Answer { shared, tag: header.tag, done: false, lands: lending.is_some() };
        if let Some(lending) = lending {
            shared.landings.expect(header.tag, lending);
        }
        shared.queue.borrow_mut().push(header, meta, bulk)?;
        shared.wake_driver();
        if header.deadline_ms == 0 {
            return answer.await;
        }
        let limit = Duration::from_millis(header.deadline_ms.into());
        tokio::time::timeout(limit, answer).await.unwrap_or(Err(NetError::TimedOut))
    }

    /// A buffer of `len` bytes in the memory that is shared with the server, if there is such memory, it has room, and it is worth
    /// it: what is sent from there is not copied.
    pub fn buffer(&self, len: usize) -> Option<PoolBuffer> {
        self.0.lending.buffer(len)
    }

    /// Whether bytes lie in the part of the shared memory that the server fills.
    #[cfg(test)]
    pub(crate) fn lies_in_shared_memory(&self, bytes: &[u8]) -> bool {
        self.0.lending.is_of_peer(bytes)
    }

    /// Whether messages go through shared memory.
    pub fn is_shared(&self) -> bool {
        self.0.lending.is_shared()
    }

    /// Whether messages go over RDMA.
    pub fn is_rdma(&self) -> bool {
        self.0.way == Way::Rdma
    }

    /// Whether a new connection to the same server may be over RDMA where this one is not. Said at most once in a while, so that who
    /// hears it has the time to try.
    pub(crate) fn may_become_rdma(&self, env: &NetEnv) -> bool {
        let Way::TcpForNow(peer) = &self.0.way else { return false };
        let now = Instant::now();
        if now < self.0.next_look.get() {
            return false;
        }
        let may = env.rdma.may_try(peer);
        self.0.next_look.set(now + if may { TRY_PAUSE } else { LOOK_PAUSE });
        may
    }

    /// Whether these are handles of one connection.
    pub(crate) fn is_same(&self, other: &Connection) -> bool {
        Rc::ptr_eq(&self.0, &other.0)
    }

    /// The server at the other end, as it proved in the handshake.
    pub fn server(&self) -> ServerId {
        self.0.server
    }

    /// The server's epoch when the connection was opened.
    pub fn epoch(&self) -> u64 {
        self.0.epoch
    }

    /// Whether the connection has ended. A new one has to be opened then.
    pub fn is_closed(&self) -> bool {
        self.0.shared.ended.borrow().is_some()
    }

    /// Whether no call is under way.
    pub fn is_idle(&self) -> bool {
        let calls = self.0.shared.calls.borrow();
        calls.free.len() == calls.slots.len()
    }

    /// Ends the connection; waiting calls fail with [`NetError::Closed`].
    pub fn close(&self) {
        self.0.shared.end(NetError::Closed);
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.end(NetError::Closed);
    }
}

impl Shared {
    fn wake_driver(&self) {
        if let Some(waker) = self.driver.take() {
            waker.wake();
        }
    }

    fn end(&self, reason: NetError) {
        self.ended.borrow_mut().get_or_insert(reason);
        self.calls.borrow_mut().wake_all();
        self.wake_driver();
    }

    /// Sends and receives what can be; ready with the reason when the connection is at its end.
    fn poll_exchange(
        &self,
        cx: &mut Context<'_>,
        transport: &mut dyn Transport,
        frames: &mut VecDeque<Frame>,
    ) -> Poll<NetError> {
        self.driver.set(Some(cx.waker().clone()));
        for _ in 0..ROUNDS {
            if let Some(reason) = &*self.ended.borrow() {
                return Poll::Ready(reason.clone());
            }
            if let Poll::Ready(Err(reason)) = transport.poll_send(cx, &mut self.queue.borrow_mut()) {
                return Poll::Ready(reason);
            }
            match transport.poll_receive(cx, frames) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(reason)) => return Poll::Ready(reason),
                Poll::Ready(Ok(())) => {
                    if let Err(reason) = self.deliver(frames) {
                        return Poll::Ready(reason);
                    }
                }
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn deliver(&self, frames: &mut VecDeque<Frame>) -> Result<(), NetError> {
        let mut calls = self.calls.borrow_mut();
        for frame in frames.drain(..) {
            calls.finish(frame)?;
        }
        if calls.abandoned > MAX_ABANDONED {
            return Err(NetError::TimedOut);
        }
        Ok(())
    }
}

/// The task of a connection.
async fn drive(shared: Rc<Shared>, mut transport: Box<dyn Transport>, open: OpenConnection) {
    let mut frames = VecDeque::new();
    let reason = poll_fn(|cx| shared.poll_exchange(cx, &mut *transport, &mut frames)).await;
    if matches!(reason, NetError::Protocol(_) | NetError::WrongVersion(_)) {
        tracing::error!(peer = transport.describe(), %reason, "connection to a server closed");
    }
    drop(transport);
    drop(open);
    shared.end(reason);
}
