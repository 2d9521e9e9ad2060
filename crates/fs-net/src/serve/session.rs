//! A served connection after its handshake.

use super::waits::{Stall, Waits};
use super::{Handled, Handler, MAX_RUNNING, MAX_UNSENT_BYTES, PeerInfo, Reply, idle};
use crate::budget::{Account, BufferClass, Charge, Kept};
use crate::counters::OpenConnection;
use crate::env::NetEnv;
use crate::error::NetError;
use crate::frame::{Frame, FrameReader};
use crate::send_queue::SendQueue;
use crate::transport::Transport;
use bytes::Bytes;
use fs_proto::msg::session::Role;
use fs_proto::{Flags, Header, Status};
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

/// Bytes of running requests' bodies in read buffers (not in the pool) from which on nothing more is read.
const MAX_RUNNING_BYTES: usize = 8 << 20;
/// Batches that a busy connection handles before other tasks of the thread have their turn.
const ROUNDS: usize = 8;
/// Requests of a batch after which their answers are shown to a peer that looks.
const SHOWN_AT_ONCE: usize = 4;
/// What a request that waits is counted with besides its body: the state of its operation.
const REQUEST_BYTES: usize = 2 << 10;

/// One pointer: most connections are idle, and an empty `VecDeque` is four words.
#[allow(clippy::box_collection)]
type Frames = Box<VecDeque<Frame>>;

thread_local! {
    /// Room for frames, of whichever connection of the thread is at work.
    static SPARE: Cell<Option<Frames>> = const { Cell::new(None) };
}

/// What a peer holds, and where.
pub(super) struct Accounts {
    pub class: BufferClass,
    pub account: Account,
    slot: Option<Charge>,
}

impl Accounts {
    pub fn new(role: &Role, class: BufferClass, mut slot: Option<Charge>, env: &NetEnv) -> Accounts {
        let account = env.pool.account(role);
        if let Some(slot) = &mut slot {
            slot.assign(account.clone());
        }
        Accounts { class, account, slot }
    }
}

/// What a connection's task and the tasks of its slow answers share.
pub(super) struct Shared {
    queue: RefCell<SendQueue>,
    running: Cell<u32>,
    running_bytes: Cell<u32>,
    driver: Cell<Option<Waker>>,
    env: Rc<NetEnv>,
    class: BufferClass,
    account: Account,
    /// When it was last at work, in turns of its thread.
    pub last_turn: Cell<u64>,
    /// Whether it is to be closed, as long as it is idle.
    pub unwanted: Cell<bool>,
}

/// A request whose answer is owed.
struct Debt {
    shared: Rc<Shared>,
    request: Header,
    bytes: u32,
    paid: bool,
    _charge: Charge,
}

impl Shared {
    pub fn new(accounts: &Accounts, env: Rc<NetEnv>) -> Rc<Shared> {
        let shared = Rc::new(Shared {
            queue: RefCell::new(SendQueue::new(env.counters.clone())),
            running: Cell::new(0),
            running_bytes: Cell::new(0),
            driver: Cell::new(None),
            env,
            class: accounts.class,
            account: accounts.account.clone(),
            last_turn: Cell::new(0),
            unwanted: Cell::new(false),
        });
        idle::watch(&shared);
        shared
    }

    fn is_full(&self) -> bool {
        self.running.get() as usize >= MAX_RUNNING
            || self.running_bytes.get() as usize >= MAX_RUNNING_BYTES
            || self.queue.borrow().pending() >= MAX_UNSENT_BYTES
    }

    /// Its task is at work, and is to be woken by who closes it.
    pub fn at_work(&self, cx: &Context<'_>) {
        self.driver.set(Some(cx.waker().clone()));
        self.last_turn.set(idle::turn());
    }

    /// Whether nothing is under way. What is in the kernel's buffers is not known.
    pub fn is_idle(&self) -> bool {
        self.running.get() == 0 && self.queue.borrow().is_empty()
    }

    /// Bytes that the connections of its peer are counted with.
    pub fn peer_connections(&self) -> usize {
        self.env.connections.held(BufferClass::PeerRequest, &self.account)
    }

    /// Ends the connection if it is still idle when its task runs.
    pub fn close(&self) {
        self.unwanted.set(true);
        if let Some(driver) = self.driver.take() {
            driver.wake();
        }
    }

    /// Counts `bytes` among messages, on the peer's account.
    pub fn charge(&self, bytes: usize) -> Charge {
        self.env.messages.charge(self.class, Some(&self.account), bytes)
    }

    fn queue_reply(&self, request: &Header, reply: Reply) {
        let header = |mut header: Header| {
            header.tag = request.tag;
            header.flags = header.flags.with(Flags::REPLY);
            header
        };
        let mut queue = self.queue.borrow_mut();
        if let Err(error) = queue.push(header(reply.header), reply.meta, reply.bulk) {
            tracing::error!(op = ?request.op, %error, "an answer is too large to send");
            let reply = Reply::error(request, Status::OutOfRange, "the answer is too large to send");
            // The message is short, so this cannot fail in the same way.
            let _ = queue.push(header(reply.header), reply.meta, Bytes::new());
        }
    }
}

impl Debt {
    fn new(shared: &Rc<Shared>, request: Header, bytes: usize) -> Debt {
        shared.running.set(shared.running.get() + 1);
        let charge = shared.charge(REQUEST_BYTES + bytes);
        let bytes = bytes as u32;
        shared.running_bytes.set(shared.running_bytes.get() + bytes);
        Debt { shared: shared.clone(), request, bytes, paid: false, _charge: charge }
    }

    fn pay(mut self, reply: Reply) {
        self.shared.queue_reply(&self.request, reply);
        self.paid = true;
    }
}

impl Drop for Debt {
    fn drop(&mut self) {
        self.shared.running.set(self.shared.running.get() - 1);
        self.shared.running_bytes.set(self.shared.running_bytes.get() - self.bytes);
        if !self.paid {
            let reply = Reply::error(
                &self.request,
                Status::Io,
                "the server failed while it handled the request; see its log",
            );
            self.shared.queue_reply(&self.request, reply);
        }
        if let Some(driver) = self.shared.driver.take() {
            driver.wake();
        }
    }
}

pub(super) struct Session {
    transport: Box<dyn Transport>,
    handler: Rc<dyn Handler>,
    peer: Rc<PeerInfo>,
    shared: Rc<Shared>,
    /// Received, not yet given to the handler; absent while there is nothing to do.
    frames: Option<Frames>,
    /// Absent while nothing is waited for.
    waits: Option<Box<Waits>>,
    /// What it is counted with among connections.
    slot: Option<Kept>,
}

// An idle connection has these and the event loop's part: tests/idle_bytes.rs measures the sum.
const _: () = assert!(
    size_of::<Session>() + size_of::<Shared>() + size_of::<PeerInfo>() + size_of::<FrameReader>() <= 296
);

// By what the connection knows anyway, not by guards: those have pointers of their own.
impl Drop for Session {
    fn drop(&mut self) {
        let (env, account) = (&self.shared.env, &self.shared.account);
        OpenConnection::end(&env.counters);
        if let Some(slot) = self.slot.take() {
            env.connections.give_back(slot, account);
        }
    }
}

impl Session {
    pub fn new(
        transport: Box<dyn Transport>,
        handler: Rc<dyn Handler>,
        peer: Rc<PeerInfo>,
        (shared, accounts): (Rc<Shared>, Accounts),
        frames: VecDeque<Frame>,
        open: OpenConnection,
    ) -> Session {
        open.keep();
        Session {
            transport,
            handler,
            peer,
            shared,
            frames: Some(Box::new(frames)),
            waits: None,
            slot: accounts.slot.map(Charge::keep),
        }
    }

    /// Serves until the end of the connection; not to be polled any more then.
    pub fn poll_to_end(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let reason = ready!(self.poll_serve(cx));
        self.shared.driver.take();
        if !matches!(reason, NetError::Closed) {
            let (peer, from) = (self.peer.description(), self.transport.describe());
            tracing::warn!(peer, from, %reason, "connection closed");
        }
        self.handler.clone().closed(&self.peer);
        Poll::Ready(())
    }

    fn poll_serve(&mut self, cx: &mut Context<'_>) -> Poll<NetError> {
        self.shared.at_work(cx);
        let mut frames = self.frames.take().or_else(|| SPARE.take()).unwrap_or_default();
        let outcome = self.poll_rounds(cx, &mut frames);
        if self.waits.as_ref().is_some_and(|waits| waits.is_over()) {
            self.waits = None;
        }
        if frames.is_empty() {
            SPARE.set(Some(frames));
        } else {
            self.frames = Some(frames);
        }
        if outcome.is_pending() && self.shared.unwanted.replace(false) && self.shared.is_idle() {
            return Poll::Ready(NetError::Closed);
        }
        outcome
    }

    fn poll_rounds(&mut self, cx: &mut Context<'_>, frames: &mut VecDeque<Frame>) -> Poll<NetError> {
        for _ in 0..ROUNDS {
            let mut handled = 0;
            while !self.shared.is_full() && !frames.is_empty() && self.is_admitted(cx) {
                let Some(frame) = frames.pop_front() else { break };
                if let Err(reason) = self.handle(frame, cx) {
                    return Poll::Ready(reason);
                }
                handled += 1;
                // A peer that looks goes on with the first answers while the others are made.
                if handled % SHOWN_AT_ONCE == 0
                    && !frames.is_empty()
                    && let Err(reason) = self.transport.show(&mut self.shared.queue.borrow_mut())
                {
                    return Poll::Ready(reason);
                }
            }
            if let Poll::Ready(reason) = self.poll_send(cx) {
                return Poll::Ready(reason);
            }
            if self.shared.is_full() || self.waits.as_ref().is_some_and(|waits| waits.turn.is_some()) {
                // The socket, the end of a running request, or its turn wakes this task.
                return Poll::Pending;
            }
            if !frames.is_empty() {
                continue;
            }
            match self.transport.poll_receive(cx, frames) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(reason)) => return Poll::Ready(reason),
                Poll::Pending => return self.poll_owed(cx),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Sends what can be sent; ready when the connection is at its end.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<NetError> {
        let sent = self.transport.poll_send(cx, &mut self.shared.queue.borrow_mut());
        match sent {
            Poll::Ready(Err(reason)) => return Poll::Ready(reason),
            Poll::Ready(Ok(())) => {
                if let Some(waits) = &mut self.waits {
                    waits.unsent = None;
                }
            }
            Poll::Pending => {
                let (staged, moved) = {
                    let queue = self.shared.queue.borrow();
                    (queue.staged_bytes(), queue.sent_bytes())
                };
                let waits = self.waits.get_or_insert_default();
                waits.count_unsent(staged, &self.shared);
                if waits.stall.is_over(moved, self.shared.env.stall, cx) {
                    return Poll::Ready(NetError::TimedOut);
                }
            }
        }
        Poll::Pending
    }

    /// Nothing whole has come: the peer may owe the rest of a message, but not for ever.
    fn poll_owed(&mut self, cx: &mut Context<'_>) -> Poll<NetError> {
        match self.transport.owed_since() {
            Some(received) => {
                let stall = &mut self.waits.get_or_insert_default().stall;
                if stall.is_over(received, self.shared.env.stall, cx) {
                    return Poll::Ready(NetError::TimedOut);
                }
            }
            None => {
                if let Some(waits) = &mut self.waits
                    && self.shared.queue.borrow().is_empty()
                {
                    waits.stall = Stall::default();
                }
            }
        }
        Poll::Pending
    }

    /// Whether there is room for one more request of this peer. Servers are not asked to wait: there are few, and each is bounded.
    fn is_admitted(&mut self, cx: &mut Context<'_>) -> bool {
        let shared = &*self.shared;
        if shared.class != BufferClass::ClientRequest {
            return true;
        }
        let (is_admitted, waits) =
            self.waits.as_ref().map_or((false, false), |all| (all.admitted.is_some(), all.turn.is_some()));
        let has_room = || shared.env.messages.has_room(shared.class, Some(&shared.account), REQUEST_BYTES);
        if is_admitted || (!waits && has_room()) {
            return true;
        }
        let waits = self.waits.get_or_insert_default();
        let turn = waits.turn.get_or_insert_with(|| {
            Box::pin(shared.env.messages.get(shared.class, Some(&shared.account), REQUEST_BYTES))
        });
        let Poll::Ready(room) = turn.as_mut().poll(cx) else { return false };
        waits.turn = None;
        waits.admitted = Some(room);
        true
    }

    fn handle(&mut self, frame: Frame, cx: &mut Context<'_>) -> Result<(), NetError> {
        let request = frame.header;
        // Given back when the request is answered, or counted by itself.
        let _room = self.waits.as_mut().and_then(|waits| waits.admitted.take());
        if request.flags.has(Flags::REPLY) {
            return Err(NetError::protocol("an answer where a request was expected"));
        }
        let bytes = frame.kept_bytes();
        match self.handler.clone().handle(&self.peer, frame) {
            Handled::Now(reply) => self.shared.queue_reply(&request, reply),
            Handled::Later(mut answer) => {
                // Many answers only look slow: a task is made for those that are.
                if let Poll::Ready(reply) = answer.as_mut().poll(cx) {
                    self.shared.queue_reply(&request, reply);
                    return Ok(());
                }
                let debt = Debt::new(&self.shared, request, bytes);
                tokio::task::spawn_local(async move { debt.pay(answer.await) });
            }
        }
        Ok(())
    }
}
