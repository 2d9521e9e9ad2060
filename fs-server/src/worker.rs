//! One worker thread: its connections, its way to other servers, and the path of a request through it.
//!
//! A connection stays on the worker that accepted it. A request is tried to the end at once; only when it has to wait (for another
//! server, a lock, a buffer) does it become a task.
//!
//! # Invariants
//! - A request is forwarded at most once (`hops`).
//! - What a client may not ask, or says in another's name, is refused before anything else looks at it.

use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use fs_net::{BufferClass, Frame, Handled, Handler, Lending, NetEnv, PeerInfo, Peers, PoolBuffer, Reply};
use fs_proto::msg::Caller;
use fs_proto::msg::node::ForNode;
use fs_proto::msg::session::Role;
use fs_proto::record::{Mutation, RequestResult};
use fs_proto::wire::Reader;
use fs_proto::{ClientId, Flags, Header, InodeId, Op, Partition, Request, ServerId, Status, Wire};

use crate::departed;
use crate::dispatch;
use crate::error::{OpError, OpResult};
use crate::hot;
use crate::hot::gateway::Begun;
use crate::node::Node;
use crate::opened;
use crate::opens::{Closer, NodeStamp, Opener};
use crate::ops::getattr::Asker;

/// How long a server waits for another's answer before it tells its client to try again, in milliseconds.
const ASK_MS: u32 = 20_000;

/// State of one worker thread.
pub struct Worker {
    /// The server it belongs to.
    pub node: Arc<Node>,
    /// Connections to the other servers, of this thread.
    pub peers: Rc<Peers>,
    /// Buffers and counters.
    pub env: Rc<NetEnv>,
    /// Answers about locks that are kept back (`ops/lock.rs`).
    pub parked: Cell<usize>,
    sequence: Cell<u64>,
}

/// How a request came here.
#[derive(Debug, Clone, Default)]
pub struct Arrival {
    /// Buffers for the answer in memory that is shared with who asks.
    pub lending: Lending,
    /// The server of the asker's node: the one that it came through, or this one. None if the asker has none, or one without a store.
    pub near: Option<ServerId>,
    /// The other server that a client's request came through.
    pub through: Option<ServerId>,
    /// It opens or closes for that server's node.
    pub for_node: Option<NodeStamp>,
    /// What it closes is open there yet, for reading.
    pub reads_yet: bool,
}

/// What a request brings along besides its body.
#[derive(Debug, Clone)]
pub struct Context {
    /// On whose behalf.
    pub caller: Caller,
    /// The header.
    pub header: Header,
    /// How it came.
    pub arrival: Arrival,
}

impl Context {
    /// The server of the asker's node, for what is to lie there.
    pub fn near(&self) -> Option<ServerId> {
        self.arrival.near
    }

    /// A buffer of `len` bytes for the answer, where it need not be copied again if that can be.
    pub async fn buffer(&self, worker: &Worker, len: usize) -> OpResult<PoolBuffer> {
        worker.buffer(&self.arrival.lending, len).await
    }

    /// Whether the kernel has checked permissions already.
    pub fn is_checked(&self) -> bool {
        self.header.flags.has(Flags::CHECKED) || self.caller.is_root()
    }

    /// Who is to count as having open what the request opens.
    pub fn opener(&self) -> Opener {
        let client = self.client();
        self.arrival.for_node.map_or(Opener::Client(client), |node| Opener::Node(node, Some(client)))
    }

    /// Whose closing the request is.
    pub fn closer(&self) -> Closer {
        let run = self.arrival.for_node.map(|node| node.session);
        Closer { client: self.client(), through: self.arrival.through.map(|server| (server, run)) }
    }

    /// Who asks for a size.
    pub fn asker(&self) -> Asker {
        let sole_of = self.arrival.through.filter(|_| self.header.flags.has(Flags::SOLE));
        Asker { client: self.client(), sole_of }
    }

    /// The client that asked first.
    pub fn client(&self) -> ClientId {
        self.header.client
    }

    /// The mutation that remembers this request as done, for its batch.
    pub fn remember(&self, ino: InodeId) -> Option<Mutation> {
        if !self.header.op.is_mutation() || self.header.client.0 == 0 {
            return None;
        }
        let (lane, count) = self.header.lane_and_count();
        let result = RequestResult { count, op: self.header.op, status: Status::Ok, ino };
        Some(Mutation::Remember { client: self.header.client, lane, result })
    }
}

impl Worker {
    /// A worker of `node` that reaches others through `peers`.
    pub fn new(node: Arc<Node>, peers: Rc<Peers>, env: Rc<NetEnv>) -> Rc<Self> {
        Rc::new(Worker { node, peers, env, parked: Cell::new(0), sequence: Cell::new(0) })
    }

    /// A buffer of `len` bytes for an answer: in the memory that is shared with who asks, if there is some.
    pub async fn buffer(&self, lending: &Lending, len: usize) -> OpResult<PoolBuffer> {
        self.buffer_of(BufferClass::Local, lending, len).await
    }

    /// The same of another class, where no memory is shared.
    pub async fn buffer_of(&self, class: BufferClass, lending: &Lending, len: usize) -> OpResult<PoolBuffer> {
        if let Some(buffer) = lending.buffer(len) {
            return Ok(buffer);
        }
        let got = self.env.pool.get_for(class, lending.account(), len).await;
        got.map_err(|error| OpError::because(Status::Invalid, error.to_string()))
    }

    /// Asks another server (or this one) on the cluster's own behalf.
    pub async fn ask<R: Request>(self: &Rc<Self>, to: ServerId, request: &R) -> OpResult<R::Reply> {
        let header = Header::request_to_server(R::OP, to);
        self.ask_as(header, to, request, Bytes::new()).await.map(|(reply, _)| reply)
    }

    /// Asks the owner of a partition on the cluster's own behalf.
    pub async fn ask_owner<R: Request>(
        self: &Rc<Self>,
        partition: Partition,
        request: &R,
    ) -> OpResult<R::Reply> {
        self.exchange(partition, request, Bytes::new()).await.map(|(reply, _)| reply)
    }

    /// As [`Worker::ask_owner`], with data to send and to receive.
    pub async fn exchange<R: Request>(
        self: &Rc<Self>,
        partition: Partition,
        request: &R,
        bulk: Bytes,
    ) -> OpResult<(R::Reply, Bytes)> {
        let header = Header::request(R::OP, partition);
        self.ask_as(header, self.node.owner(partition), request, bulk).await
    }

    /// As [`Worker::ask`], with data to receive.
    pub async fn fetch<R: Request>(
        self: &Rc<Self>,
        from: ServerId,
        request: &R,
    ) -> OpResult<(R::Reply, Bytes)> {
        self.ask_as(Header::request_to_server(R::OP, from), from, request, Bytes::new()).await
    }

    /// As [`Worker::ask`], with data to send.
    pub async fn send<R: Request>(
        self: &Rc<Self>,
        to: ServerId,
        request: &R,
        bulk: Bytes,
    ) -> OpResult<R::Reply> {
        let header = Header::request_to_server(R::OP, to);
        self.ask_as(header, to, request, bulk).await.map(|(reply, _)| reply)
    }

    async fn ask_as<R: Request>(
        self: &Rc<Self>,
        mut header: Header,
        to: ServerId,
        request: &R,
        bulk: Bytes,
    ) -> OpResult<(R::Reply, Bytes)> {
        self.sequence.set(self.sequence.get() + 1);
        header.sequence = self.sequence.get();
        header.epoch = self.node.map().epoch();
        header.hops = 1;
        header.deadline_ms = ASK_MS;
        let mut meta = BytesMut::with_capacity(128);
        Caller::ROOT.put(&mut meta);
        request.put(&mut meta);
        let meta = meta.freeze();
        let (status, meta, bulk) = if to == self.node.id() {
            (header.meta_bytes, header.bulk_bytes) = (meta.len() as u32, bulk.len() as u32);
            let frame = Frame { header, meta, bulk };
            // Boxed, because an operation may ask its own server again.
            let execution: Pin<Box<dyn Future<Output = Reply>>> = Box::pin(
                Rc::clone(self).execute(frame, Arrival { near: self.near(to), ..Arrival::default() }),
            );
            let reply = execution.await;
            (reply.header.status, reply.meta, reply.bulk)
        } else {
            let reply = self.peers.call(to, header, meta, bulk).await?;
            (reply.header.status, reply.meta, reply.bulk)
        };
        if status == Status::Ok {
            return Ok((R::Reply::from_bytes(meta)?, bulk));
        }
        Err(OpError::because(status, String::from_bytes(meta).unwrap_or_default()))
    }

    /// Refuses what this peer may not ask; forces its own name on a request from a user without trust.
    fn admit(&self, peer: &PeerInfo, header: &Header, caller: &Caller) -> OpResult<()> {
        let Role::Client { id } = peer.role else { return Ok(()) };
        let of_servers = header.flags.has(Flags::FOR_NODE) || header.flags.has(Flags::SOLE);
        if header.op.is_internal() || header.hops != 0 || of_servers {
            return Err(OpError::new(Status::NotPermitted, "only servers may ask this"));
        }
        if header.client != id {
            return Err(OpError::new(Status::NotPermitted, "request in the name of another client"));
        }
        let Some((uid, ..)) = peer.credentials else { return Ok(()) };
        let trusted = uid == 0 || uid == rustix::process::geteuid().as_raw();
        if !trusted && (caller.uid != uid || header.flags.has(Flags::CHECKED)) {
            return Err(OpError::new(Status::NotPermitted, "request in the name of another user"));
        }
        Ok(())
    }

    fn near(&self, server: ServerId) -> Option<ServerId> {
        (self.node.map().share(server) > 0).then_some(server)
    }

    /// The server with a store on the node of whoever asks by this connection.
    fn near_peer(&self, peer: &PeerInfo) -> Option<ServerId> {
        match peer.role {
            Role::Server { id } => self.near(id),
            // The kernel knows who is at the other end: it is this node.
            Role::Client { .. } if peer.credentials.is_some() => self.near(self.node.id()),
            Role::Client { .. } => None,
        }
    }

    fn destination(&self, header: &Header) -> ServerId {
        if header.flags.has(Flags::TO_SERVER) {
            ServerId(header.target)
        } else {
            self.node.owner(Partition(header.target))
        }
    }

    /// How a request came here; takes off what the server that it came through has added.
    fn arrival(&self, peer: &PeerInfo, frame: &mut Frame) -> OpResult<Arrival> {
        let mut arrival =
            Arrival { lending: peer.lending.clone(), near: self.near_peer(peer), ..Arrival::default() };
        let Role::Server { id: server } = peer.role else { return Ok(arrival) };
        if frame.header.client.0 != 0 {
            arrival.through = Some(server);
        }
        if frame.header.flags.has(Flags::FOR_NODE) {
            let Some(len) = frame.meta.len().checked_sub(ForNode::BYTES) else {
                return Err(OpError::new(
                    Status::Invalid,
                    "a request for a node does not say when it was sent",
                ));
            };
            let ForNode { session, stamp, reads } = ForNode::from_bytes(frame.meta.split_off(len))?;
            frame.header.meta_bytes = len as u32;
            arrival.for_node = Some(NodeStamp { server, session, stamp });
            arrival.reads_yet = reads;
        }
        Ok(arrival)
    }

    /// Takes a request to where it belongs: here, or one server further.
    async fn route(self: Rc<Self>, peer: Rc<PeerInfo>, mut frame: Frame) -> Reply {
        let header = frame.header;
        let admitted =
            peek_caller(&frame.meta).map_err(OpError::from).and_then(|c| self.admit(&peer, &header, &c));
        if let Err(error) = admitted {
            return refusal(&header, &error);
        }
        let to = self.destination(&header);
        if matches!(peer.role, Role::Client { .. }) {
            dispatch::note_write(&self, &frame);
            if header.op == Op::LockSet && peer.credentials.is_some() {
                self.node.departed.note_locker(header.client);
            }
        }
        if to == self.node.id() {
            if let Role::Server { id } = peer.role
                && hot::holder::redirects(&self, id, &frame)
            {
                return Reply::ok(&header, Bytes::new(), Bytes::new());
            }
            let arrival = match self.arrival(&peer, &mut frame) {
                Ok(arrival) => arrival,
                Err(error) => return refusal(&header, &error),
            };
            let lent = hot::lender::lend(&self, &peer, &frame);
            let mut reply = Rc::clone(&self).execute(frame, arrival).await;
            if let Some(lent) = lent {
                lent.tell(&self, &mut reply);
            }
            return reply;
        }
        if header.hops > 0 {
            let text = "this server does not own the partition: the sender's map is of another epoch";
            return refusal(&header, &OpError::new(Status::StaleEpoch, text));
        }
        self.forward(peer, frame, to).await
    }

    /// Answers for the server that a client's request is for, or sends it on.
    async fn forward(self: Rc<Self>, peer: Rc<PeerInfo>, mut frame: Frame, to: ServerId) -> Reply {
        let header = frame.header;
        if let Some(read) = hot::reader::wanted(&self, &frame)
            && let Some(reply) = Box::pin(hot::reader::read(&self, &peer, &frame, to, &read)).await
        {
            return reply;
        }
        if matches!(header.op, Op::Release | Op::Renew)
            && let Some(reply) = Box::pin(opened::passing::told(&self, &frame, to)).await
        {
            return reply;
        }
        let asked = match hot::gateway::begin(&self, &frame) {
            Begun::On(asked) => asked,
            Begun::Perhaps => match Box::pin(hot::gateway::answer(&self, &frame, to)).await {
                Ok(reply) => return reply,
                Err(asked) => asked,
            },
        };
        let outgoing = if opened::passing::sets_layout(&frame) {
            Box::pin(opened::passing::alone(&self, &frame)).await
        } else {
            opened::passing::begin(&self, &frame)
        };
        let onward = Header { hops: 1, flags: outgoing.flags, ..header };
        let (meta, passing) = (outgoing.meta.clone(), outgoing.answered());
        let bulk = std::mem::take(&mut frame.bulk);
        // What may be kept for others does not land where this client can write.
        let lending = if asked.is_some() { Lending::default() } else { peer.lending.clone() };
        match self.peers.call_into(to, onward, meta, bulk, &lending).await {
            Ok(answer) if hot::reader::is_redirection(&answer.header) => {
                Box::pin(hot::reader::redirected(&self, &peer, &frame, to)).await
            }
            Ok(mut answer) => {
                if !passing.is_nothing()
                    && let Err(error) = Box::pin(passing.take(&self, &answer)).await
                {
                    return refusal(&header, &error);
                }
                hot::gateway::passing(&self, &frame, asked, &mut answer);
                Reply {
                    header: Header { tag: header.tag, ..answer.header },
                    meta: answer.meta,
                    bulk: answer.bulk,
                }
            }
            Err(error) => {
                if let Some(asked) = asked {
                    asked.failed(&error);
                }
                refusal(&header, &OpError::from(error))
            }
        }
    }

    /// Carries a request out on this server.
    pub async fn execute(self: Rc<Self>, frame: Frame, arrival: Arrival) -> Reply {
        let header = frame.header;
        let began = Instant::now();
        let outcome = dispatch::run(&self, frame, arrival).await;
        self.node.counters.note(header.op, began.elapsed(), outcome.is_err());
        match outcome {
            Ok((meta, bulk)) => Reply::ok(&header, meta, bulk),
            Err(error) => refusal(&header, &error),
        }
    }
}

/// The answer that says why not.
pub fn refusal(header: &Header, error: &OpError) -> Reply {
    Reply::error(header, error.status, &error.message)
}

fn peek_caller(meta: &Bytes) -> Result<Caller, fs_proto::DecodeError> {
    Caller::get(&mut Reader::new(meta.clone()))
}

impl Handler for Worker {
    fn closed(self: Rc<Self>, peer: &Rc<PeerInfo>) {
        departed::watch(&self, peer);
    }

    fn handle(self: Rc<Self>, peer: &Rc<PeerInfo>, request: Frame) -> Handled {
        let header = request.header;
        let mut task = Box::pin(self.route(Rc::clone(peer), request));
        // Most requests end here and now. Whatever waits registers its waker again when it is polled as a task.
        if let Poll::Ready(reply) = task.as_mut().poll(&mut TaskContext::from_waker(Waker::noop())) {
            return Handled::Now(reply);
        }
        if header.deadline_ms == 0 {
            return Handled::Later(task);
        }
        let limit = Duration::from_millis(u64::from(header.deadline_ms));
        Handled::Later(Box::pin(async move {
            match tokio::time::timeout(limit, task).await {
                Ok(reply) => reply,
                Err(_) => {
                    refusal(&header, &OpError::new(Status::TimedOut, "the server could not finish in time"))
                }
            }
        }))
    }
}
