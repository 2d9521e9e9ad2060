//! The answering side.
//!
//! One task serves a connection: it reads what is there, lets the handler answer every whole request, and then sends all answers
//! in one write. An answer that takes longer is awaited by a task of its own and leaves with the next write.
//!
//! # Invariants
//! - Every request gets exactly one answer with its tag, even if its handler panics while it is awaited
//!   (`a_panicking_handler_still_answers`).
//! - At most [`MAX_RUNNING`] requests of a connection run at once, and at most [`MAX_UNSENT_BYTES`] (and one batch) of answers
//!   wait for the peer to read them; then nothing is read (`only_so_many_requests_run_at_once`).
//! - No request is read before the handshake is done.

use crate::acceptor::Socket;
use crate::counters::{NetCounters, OpenConnection};
use crate::env::NetEnv;
use crate::error::NetError;
use crate::frame::Frame;
use crate::handshake::{Talk, admit};
use crate::pool::BufferClass;
use crate::secret::Secret;
use crate::send_queue::SendQueue;
use crate::shm::{self, Lending};
use crate::stream::adopt;
use crate::transport::Transport;
use bytes::Bytes;
use fs_proto::msg::session::Role;
use fs_proto::{Flags, Header, Op, ServerId, Status, Wire};
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::time::{Sleep, sleep};

/// Requests of one connection that run at once.
pub const MAX_RUNNING: usize = 256;
/// Unsent bytes from which on nothing more is read.
pub const MAX_UNSENT_BYTES: usize = 32 << 20;
/// Bytes of running requests' bodies in read buffers (not in the pool) from which on nothing more is read.
const MAX_RUNNING_BYTES: usize = 8 << 20;
/// Batches that a busy connection handles before other tasks of the thread have their turn.
const ROUNDS: usize = 8;
/// How long a handshake may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// A peer that reads nothing for this long (up to twice) while answers wait for it is cut off: it holds pool buffers.
const STALL_TIMEOUT: Duration = Duration::from_secs(60);

/// Who is at the other end of a served connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerInfo {
    /// As proved in the handshake.
    pub role: Role,
    /// User, group and process number as the kernel says, for a peer on this node.
    pub credentials: Option<(u32, u32, i32)>,
    /// Who and where, for people.
    pub description: String,
    /// Buffers for answers, in memory that is shared with the peer.
    pub lending: Lending,
}

/// An answer. The header's tag, flags and lengths are set when it is sent; `Header::reply` makes a fitting one.
#[derive(Debug, Clone)]
pub struct Reply {
    /// Header.
    pub header: Header,
    /// Encoded body.
    pub meta: Bytes,
    /// Data.
    pub bulk: Bytes,
}

impl Reply {
    /// A successful answer to `request`.
    pub fn ok(request: &Header, meta: Bytes, bulk: Bytes) -> Reply {
        Reply { header: request.reply(Status::Ok, meta.len() as u32, bulk.len() as u32), meta, bulk }
    }

    /// A refusal of `request`, with a message for people.
    pub fn error(request: &Header, status: Status, message: &str) -> Reply {
        let meta = message.to_owned().to_bytes();
        Reply { header: request.reply(status, meta.len() as u32, 0), meta, bulk: Bytes::new() }
    }
}

/// How a request is answered.
pub enum Handled {
    /// On the spot.
    Now(Reply),
    /// When the future is done. It goes on even if the connection ends meanwhile.
    Later(Pin<Box<dyn Future<Output = Reply>>>),
}

/// What answers requests.
pub trait Handler: 'static {
    /// Answers one request. Must not block: other requests of the thread wait.
    fn handle(self: Rc<Self>, peer: &Rc<PeerInfo>, request: Frame) -> Handled;

    /// A connection has ended; the peer may have others.
    fn closed(self: Rc<Self>, _peer: &Rc<PeerInfo>) {}
}

/// Who this server is to those that connect.
#[derive(Debug, Clone)]
pub struct ServerIdentity {
    /// Its number.
    pub id: ServerId,
    /// Job that it belongs to.
    pub job: String,
    /// The job's secret.
    pub secret: Secret,
    /// Epoch of the partition map in force.
    pub epoch: Arc<AtomicU64>,
}

/// Serves a connection: handshake, then requests until the peer closes it or violates the protocol (logged once). Must be called
/// inside a `LocalSet`, which also runs the answers that take longer.
pub async fn serve_connection(socket: Socket, handler: Rc<dyn Handler>, me: ServerIdentity, env: Rc<NetEnv>) {
    let mut transport = match adopt(socket, &env) {
        Ok(transport) => transport,
        Err(error) => {
            // The peer went away between connecting and being served.
            tracing::debug!(%error, "connection lost before its handshake");
            return;
        }
    };
    let Some(role) = shake_hands(&mut *transport, &me, &env).await else { return };
    let class = match role {
        Role::Client { .. } => BufferClass::ClientRequest,
        Role::Server { .. } => BufferClass::PeerRequest,
    };
    transport.trust(class);
    let open = OpenConnection::new(&env.counters);
    let (from, mut frames) = (transport.describe(), VecDeque::new());
    let (transport, lending) = match begin(transport, class, &mut frames, &env).await {
        Ok(begun) => begun,
        // It went away without a request, which is its right.
        Err(NetError::Closed) => return,
        Err(reason) => return tracing::warn!(from, %reason, "connection closed at its first request"),
    };
    let description = match &role {
        Role::Client { id } => format!("client {id:?} ({})", transport.describe()),
        Role::Server { id } => format!("server {id} ({})", transport.describe()),
    };
    let peer = Rc::new(PeerInfo { role, credentials: transport.credentials(), description, lending });
    let shared = Rc::new(Shared::new(&env));
    let mut session = Session { transport, handler, peer, shared, frames, stall: None };
    let reason = poll_fn(|cx| session.poll_serve(cx)).await;
    session.shared.driver.take();
    drop(open);
    session.handler.clone().closed(&session.peer);
    match reason {
        NetError::Closed => {}
        reason => tracing::warn!(peer = session.peer.description, %reason, "connection closed"),
    }
}

/// The first frames, and the transport to go on with: shared memory, if the first is the wish for it and there is some.
async fn begin(
    mut transport: Box<dyn Transport>,
    class: BufferClass,
    frames: &mut VecDeque<Frame>,
    env: &Rc<NetEnv>,
) -> Result<(Box<dyn Transport>, Lending), NetError> {
    poll_fn(|cx| transport.poll_receive(cx, frames)).await?;
    if frames.len() != 1 || frames[0].header.op != Op::Share {
        return Ok((transport, Lending::default()));
    }
    let request = frames.pop_front().ok_or(NetError::Closed)?.header;
    shm::grant(transport, &request, class, env).await
}

/// The handshake, with its time limit. None: refused, counted and logged.
async fn shake_hands(transport: &mut dyn Transport, me: &ServerIdentity, env: &Rc<NetEnv>) -> Option<Role> {
    let from = transport.describe();
    let mut talk = Talk::new(transport, SendQueue::new(env.counters.clone()));
    let shaken = tokio::time::timeout(HANDSHAKE_TIMEOUT, async {
        let admitted = admit(&mut talk, me).await;
        if let Err(NetError::WrongVersion(reason)) = &admitted {
            talk.refuse_version(reason).await?;
        }
        admitted
    })
    .await;
    let reason = match shaken {
        Ok(Ok(role)) => return Some(role),
        Ok(Err(reason)) => reason,
        Err(_) => NetError::TimedOut,
    };
    NetCounters::add(&env.counters.handshake_failures, 1);
    match reason {
        NetError::Rejected(_) | NetError::WrongVersion(_) => {
            tracing::warn!(from, %reason, "connection refused");
        }
        // Port scanners and probes of our own: not worth a person's look.
        reason => tracing::info!(from, %reason, "not a peer"),
    }
    None
}

/// What a connection's task and the tasks of its slow answers share.
struct Shared {
    queue: RefCell<SendQueue>,
    running: Cell<usize>,
    running_bytes: Cell<usize>,
    driver: Cell<Option<Waker>>,
}

/// A request whose answer is owed.
struct Debt {
    shared: Rc<Shared>,
    request: Header,
    bytes: usize,
    paid: bool,
}

impl Shared {
    fn new(env: &NetEnv) -> Shared {
        Shared {
            queue: RefCell::new(SendQueue::new(env.counters.clone())),
            running: Cell::new(0),
            running_bytes: Cell::new(0),
            driver: Cell::new(None),
        }
    }

    fn is_full(&self) -> bool {
        self.running.get() >= MAX_RUNNING
            || self.running_bytes.get() >= MAX_RUNNING_BYTES
            || self.queue.borrow().pending() >= MAX_UNSENT_BYTES
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
        shared.running_bytes.set(shared.running_bytes.get() + bytes);
        Debt { shared: shared.clone(), request, bytes, paid: false }
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

struct Session {
    transport: Box<dyn Transport>,
    handler: Rc<dyn Handler>,
    peer: Rc<PeerInfo>,
    shared: Rc<Shared>,
    /// Received, not yet given to the handler.
    frames: VecDeque<Frame>,
    /// When it is next looked whether the peer still reads, and what was pending when it was last.
    stall: Option<(Pin<Box<Sleep>>, u64)>,
}

impl Session {
    fn poll_serve(&mut self, cx: &mut Context<'_>) -> Poll<NetError> {
        self.shared.driver.set(Some(cx.waker().clone()));
        for _ in 0..ROUNDS {
            while !self.shared.is_full() {
                let Some(frame) = self.frames.pop_front() else { break };
                if let Err(reason) = self.handle(frame, cx) {
                    return Poll::Ready(reason);
                }
            }
            let sent = self.transport.poll_send(cx, &mut self.shared.queue.borrow_mut());
            match sent {
                Poll::Ready(Err(reason)) => return Poll::Ready(reason),
                Poll::Pending if self.has_stalled(cx) => return Poll::Ready(NetError::TimedOut),
                Poll::Ready(Ok(())) | Poll::Pending => {}
            }
            if self.shared.is_full() {
                // The socket, or the end of a running request, wakes this task.
                return Poll::Pending;
            }
            if !self.frames.is_empty() {
                continue;
            }
            match self.transport.poll_receive(cx, &mut self.frames) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(reason)) => return Poll::Ready(reason),
                Poll::Pending => return Poll::Pending,
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn handle(&mut self, frame: Frame, cx: &mut Context<'_>) -> Result<(), NetError> {
        let request = frame.header;
        if request.flags.has(Flags::REPLY) {
            return Err(NetError::protocol("an answer where a request was expected"));
        }
        let bytes = frame.meta.len();
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

    /// Whether the peer has read nothing for too long. Called while answers wait for it.
    fn has_stalled(&mut self, cx: &mut Context<'_>) -> bool {
        let sent = self.shared.queue.borrow().sent_bytes();
        let (timer, before) = self.stall.get_or_insert_with(|| (Box::pin(sleep(STALL_TIMEOUT)), sent));
        while timer.as_mut().poll(cx).is_ready() {
            if *before == sent {
                return true;
            }
            *before = sent;
            timer.set(sleep(STALL_TIMEOUT));
        }
        false
    }
}
