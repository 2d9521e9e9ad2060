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
//! - A client that has much under way, or reads no answers, waits by turns with others (`who_reads_no_answers_is_read_no_longer`).
//! - A connection that waits for a request, its first too, may be closed to make room (`who_asks_nothing_makes_room`).
//! - A connection that waits for a request holds no buffer (`tests/idle_bytes.rs` counts what it does hold).

mod idle;
mod session;
mod waits;

use crate::acceptor::Accepted;
use crate::budget::BufferClass;
use crate::counters::{NetCounters, OpenConnection};
use crate::env::NetEnv;
use crate::error::NetError;
use crate::frame::Frame;
use crate::handshake::{Talk, admit};
use crate::rdma;
use crate::secret::Secret;
use crate::send_queue::SendQueue;
use crate::shm::{self, Lending};
use crate::stream::adopt;
use crate::transport::Transport;
use bytes::Bytes;
use fs_proto::msg::session::Role;
use fs_proto::{Header, Op, ServerId, Status, Wire};
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::task::{Context, Poll, ready};
use std::time::Duration;

/// Requests of one connection that run at once.
pub const MAX_RUNNING: usize = 256;
/// Unsent bytes from which on nothing more is read.
pub const MAX_UNSENT_BYTES: usize = 32 << 20;
/// How long a handshake may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

pub use idle::close_idle_connections;
use session::{Accounts, Session, Shared};
use waits::Stall;

/// Who is at the other end of a served connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerInfo {
    /// As proved in the handshake.
    pub role: Role,
    /// User, group and process number as the kernel says, for a peer on this node.
    pub credentials: Option<(u32, u32, i32)>,
    /// Buffers for answers, in memory that is shared with the peer.
    pub lending: Lending,
}

impl PeerInfo {
    /// Who, for people.
    pub fn description(&self) -> String {
        match &self.role {
            Role::Client { id } => format!("client {id:?}"),
            Role::Server { id } => format!("server {id}"),
        }
    }
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
/// on a runtime with local tasks, which also runs the answers that take longer.
pub fn serve_connection(
    accepted: impl Into<Accepted>,
    handler: Rc<dyn Handler>,
    me: ServerIdentity,
    env: Rc<NetEnv>,
) -> impl Future<Output = ()> {
    Serving::Opening(Box::pin(open(accepted.into(), handler, me, env)))
}

/// The task of a served connection. What it is at needs a box of its own, freed with it: an `async` block would have room for all for life.
enum Serving {
    Opening(Pin<Box<dyn Future<Output = Option<Box<Session>>>>>),
    Serving(Box<Session>),
}

impl Future for Serving {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            match &mut *self {
                Serving::Serving(session) => return session.poll_to_end(cx),
                Serving::Opening(opening) => match ready!(opening.as_mut().poll(cx)) {
                    Some(session) => *self = Serving::Serving(session),
                    None => return Poll::Ready(()),
                },
            }
        }
    }
}

async fn open(
    accepted: Accepted,
    handler: Rc<dyn Handler>,
    me: ServerIdentity,
    env: Rc<NetEnv>,
) -> Option<Box<Session>> {
    let mut transport = match adopt(accepted.socket, &env) {
        Ok(transport) => transport,
        Err(error) => {
            // The peer went away between connecting and being served.
            tracing::debug!(%error, "connection lost before its handshake");
            return None;
        }
    };
    let role = shake_hands(&mut *transport, &me, &env).await?;
    let class = match role {
        Role::Client { .. } => BufferClass::ClientRequest,
        Role::Server { .. } => BufferClass::PeerRequest,
    };
    let accounts = Accounts::new(&role, class, accepted.slot, &env);
    transport.trust(class, Some(accounts.account.clone()));
    let open = OpenConnection::new(&env.counters);
    let (from, mut frames) = (transport.describe(), VecDeque::new());
    let shared = Shared::new(&accounts, env.clone());
    let (transport, lending) = match begin(transport, &shared, &accounts, &mut frames, &env).await {
        Ok(begun) => begun,
        // It went away without a request, which is its right, or made room for others.
        Err(NetError::Closed) => return None,
        Err(reason) => {
            tracing::warn!(from, %reason, "connection closed at its first request");
            return None;
        }
    };
    let lending = lending.on_account_of(accounts.account.clone());
    let peer = Rc::new(PeerInfo { role, credentials: transport.credentials(), lending });
    Some(Box::new(Session::new(transport, handler, peer, (shared, accounts), frames, open)))
}

/// The first frames, and the transport to go on with: shared memory or RDMA, if the first is the wish for it and there is some.
async fn begin(
    mut transport: Box<dyn Transport>,
    shared: &Shared,
    accounts: &Accounts,
    frames: &mut VecDeque<Frame>,
    env: &Rc<NetEnv>,
) -> Result<(Box<dyn Transport>, Lending), NetError> {
    let mut stall = Stall::default();
    // As long as it likes, if there is room: peers may connect now and ask later.
    poll_fn(|cx| {
        shared.at_work(cx);
        match (transport.poll_receive(cx, frames), transport.owed_since()) {
            (Poll::Pending, _) if shared.unwanted.take() => Poll::Ready(Err(NetError::Closed)),
            (Poll::Pending, Some(received)) if stall.is_over(received, env.stall, cx) => {
                Poll::Ready(Err(NetError::TimedOut))
            }
            (received, _) => received,
        }
    })
    .await?;
    let is_wish = |frame: &Frame| matches!(frame.header.op, Op::Share | Op::Rdma);
    if frames.len() != 1 || !frames.front().is_some_and(is_wish) {
        return Ok((transport, Lending::default()));
    }
    let request = frames.pop_front().ok_or(NetError::Closed)?.header;
    let account = (accounts.class, accounts.account.clone());
    if request.op == Op::Rdma {
        return Ok((rdma::grant(transport, &request, account, env).await?, Lending::default()));
    }
    shm::grant(transport, &request, account, env).await
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
