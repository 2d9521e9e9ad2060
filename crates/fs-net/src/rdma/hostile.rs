//! Goal: whatever a peer sends over RDMA, the server neither fails nor reads what is not there, cuts that peer off, and serves others.
//! Method: a client that shook hands honestly and then posts messages by itself; beside it an honest client of the same server. Needs a device:
//! without `HAYATE_TEST_RDMA` (an address of one; `tests/e2e/rdma.sh` sets it in its guest) nothing is tried.

use super::cm::{Cm, Pair, Token};
use super::kind::{IWARP_RECEIVES, Kind, Purpose};
use super::memory;
use super::record::{self, Place, Writer};
use super::session::offered;
use super::sys::{Sge, WR_RDMA_WRITE, WR_SEND};
use super::{Rdma, RdmaChoice};
use crate::env::{Identity, NetEnv};
use crate::frame::Frame;
use crate::handshake::{Talk, introduce};
use crate::send_queue::SendQueue;
use crate::serve::{Handled, Handler, PeerInfo, Reply, ServerIdentity, serve_connection};
use crate::stream::adopt;
use crate::transport::Transport;
use crate::{BufferClass, Connection, PoolBuffer, Secret, Socket};
use bytes::Bytes;
use fs_proto::msg::session::Role;
use fs_proto::{BULK_MAX, ClientId, Header, Op, Partition, ServerId};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;
use tokio::task::{JoinHandle, LocalSet};

struct Mirror;

impl Handler for Mirror {
    fn handle(self: Rc<Self>, _: &Rc<PeerInfo>, request: Frame) -> Handled {
        Handled::Now(Reply::ok(&request.header, request.meta, request.bulk))
    }
}

struct Server {
    ip: String,
    me: ServerIdentity,
    env: Rc<NetEnv>,
}

fn env() -> Rc<NetEnv> {
    let mut env = NetEnv::new(64 << 20);
    env.rdma = Arc::new(Rdma::new(RdmaChoice::Auto, 64 << 20, 1));
    Rc::new(env)
}

impl Server {
    fn new(ip: String) -> Server {
        let epoch = Arc::new(AtomicU64::new(1));
        let me = ServerIdentity { id: ServerId(0), job: "job".into(), secret: Secret::random(), epoch };
        Server { ip, me, env: env() }
    }

    /// A socket that the server serves, and the task that does.
    fn connect(&self, env: &Rc<NetEnv>) -> (Box<dyn Transport>, JoinHandle<()>) {
        let listener = TcpListener::bind((self.ip.as_str(), 0)).expect("bound");
        let ours = TcpStream::connect(listener.local_addr().expect("an address")).expect("connected");
        let (theirs, _) = listener.accept().expect("accepted");
        for socket in [&ours, &theirs] {
            socket.set_nonblocking(true).expect("nonblocking");
        }
        let serving =
            serve_connection(Socket::Tcp(theirs), Rc::new(Mirror), self.me.clone(), self.env.clone());
        (adopt(Socket::Tcp(ours), env).expect("a socket"), tokio::task::spawn_local(serving))
    }

    fn who(&self, id: u64) -> Identity {
        Identity {
            role: Role::Client { id: ClientId(id) },
            job: self.me.job.clone(),
            secret: self.me.secret.clone(),
        }
    }

    /// A connection by rdma_cm with nothing above that keeps it honest.
    async fn bare(&self, spoil: bool) -> (Box<dyn Transport>, Result<Pair, std::io::Error>, JoinHandle<()>) {
        let env = env();
        let (mut socket, serving) = self.connect(&env);
        let talk = Talk::new(&mut *socket, SendQueue::new(env.counters.clone()));
        introduce(talk, &self.who(666)).await.expect("let in");
        socket.trust(BufferClass::PeerReply, None);
        let offer = offered(&mut *socket, &env).await.expect("an answer").expect("an offer");
        let mut token = Token::try_from(&offer.token[..]).expect("its length");
        token[5] ^= u8::from(spoil);
        let to = SocketAddr::new(offer.addresses[0].parse().expect("an address"), offer.port);
        let pair = Cm::local().expect("a device").connect(to, &token).await;
        (socket, pair, serving)
    }

    /// The server cuts off who sends this.
    async fn refuses(&self, name: &str, message: &[u8]) {
        let (mut socket, pair, serving) = self.bare(false).await;
        let pair = pair.expect("connected");
        send(&pair, message).await;
        let mut frames: VecDeque<Frame> = VecDeque::new();
        let end = poll_fn(|cx| socket.poll_receive(cx, &mut frames));
        let end = tokio::time::timeout(Duration::from_secs(20), end).await;
        assert!(matches!(end, Ok(Err(_))), "{name}: {:?} {} frames", end.is_ok(), frames.len());
        serving.await.expect("no panic");
        assert_eq!(self.env.pool.stats().used, 0, "{name}");
    }
}

async fn send(pair: &Pair, message: &[u8]) {
    let (hub, qp, _) = pair.parts().expect("a queue pair");
    let mut slot = poll_fn(|cx| match hub.take_slot(cx) {
        Some(slot) => std::task::Poll::Ready(slot),
        None => std::task::Poll::Pending,
    })
    .await;
    slot.bytes()[..message.len()].copy_from_slice(message);
    slot.send((qp, &pair.line), message.len(), 0).expect("posted");
}

fn message(credits: u32, fill: impl FnOnce(&mut Writer<'_>)) -> Vec<u8> {
    let mut out = vec![0; record::MESSAGE_BYTES];
    let mut writer = Writer::new(&mut out, credits);
    fill(&mut writer);
    let (len, _) = writer.finish();
    out.truncate(len);
    out
}

fn far(bulk: u32, address: u64, key: u32) -> Vec<u8> {
    let mut header = Header::request(Op::WriteChunk, Partition(1));
    header.bulk_bytes = bulk;
    message(0, |writer| writer.frame(&header.encode(), &[], Some(Place { address, key, id: 1 })))
}

/// Runs a test with the address of a device, if there is one.
fn with_device(test: impl AsyncFnOnce(String)) {
    let Ok(ip) = std::env::var("HAYATE_TEST_RDMA") else {
        return crate::skip::note("no RDMA device, but in the guests of tests/e2e/rdma.sh");
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    LocalSet::new().block_on(&runtime, async {
        tokio::time::timeout(Duration::from_secs(120), test(ip)).await.expect("the test hangs");
    });
}

#[test]
fn liars_are_cut_off_and_others_served() {
    with_device(async |ip| {
        let server = Server::new(ip);
        let ours = env();
        let (socket, _) = server.connect(&ours);
        let honest = Connection::over(socket, &server.who(1), &ours).await.expect("let in");
        assert!(honest.is_rdma());
        let here = vec![7_u8; 64 << 10];
        let address = here.as_ptr() as u64;
        let lies = [
            ("half a head", vec![1; 7]),
            ("noise", (0..200_u32).map(|n| (n * 37) as u8).collect()),
            ("credits that were not used", message(1, |_| ())),
            ("something given back that was not lent", message(0, |writer| writer.given_back(3))),
            ("an unknown key", far(16 << 10, address, 0x0123_4567)),
            ("an address beyond all memory", far(BULK_MAX, u64::MAX - 100, 5)),
            ("a part that is too small", far(100, address, 5)),
            ("a part that is too large", far(BULK_MAX + 1, address, 5)),
        ];
        for (name, lie) in lies {
            server.refuses(name, &lie).await;
            let bulk = Bytes::from(vec![9; 100_000]);
            let answer =
                honest.call(Header::request(Op::Ping, Partition(1)), Bytes::new(), bulk.clone()).await;
            assert!(answer.expect("answered").bulk == bulk, "after {name}");
            // What the server lent for that comes back with the next message or soon.
            while server.env.pool.stats().used > 0 {
                tokio::task::yield_now().await;
            }
        }
        let (_socket, pair, _) = server.bare(true).await;
        assert!(pair.is_err(), "a token that nobody awaits is refused");
    });
}

/// Waits until something happens to a connection that nothing above keeps honest.
async fn until(pair: &Pair, mut done: impl FnMut() -> bool) {
    let (hub, ..) = pair.parts().expect("a queue pair");
    let wait = async {
        while !done() {
            hub.drain();
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), wait).await.expect("it does not happen");
}

/// Reaches for memory of the other side, by one request to the device.
fn reach(pair: &Pair, opcode: u32, from: &PoolBuffer, far: (u64, u32)) {
    let (hub, qp, _) = pair.parts().expect("a queue pair");
    let keys = memory::find(from, hub.device, Purpose::Lent).expect("registered").expect("known");
    let here = Sge { addr: from.as_ptr() as u64, length: from.len() as u32, lkey: keys.local };
    // SAFETY: the test keeps the buffer until the connection is gone.
    unsafe { hub.reach(opcode, (qp, &pair.line), 7, here, far) }.expect("posted");
}

/// Goal: a peer that was told the key of what it may read cannot write there. Method: one that tries, over a connection of its own; the memory is of this
/// process, which is the server as well. The key of memory that is read into is never told; that the same write comes about with it where the device
/// needs that (iWARP), and nowhere else, shows that the write is one that could.
#[test]
fn what_is_lent_cannot_be_written() {
    with_device(async |ip| {
        let server = Server::new(ip);
        let ours = env();
        ours.rdma.open().expect("a device, from when on memory is tracked");
        let (mut from, target) =
            (ours.pool.try_get(16 << 10).expect("a buffer"), ours.pool.try_get(16 << 10).expect("another"));
        from.fill(9);
        for purpose in [Purpose::Lent, Purpose::ReadInto] {
            let (_socket, pair, _) = server.bare(false).await;
            let pair = pair.expect("connected");
            let device = pair.parts().expect("a queue pair").0.device;
            let keys = memory::find(&target, device, purpose).expect("registered").expect("known");
            reach(&pair, WR_RDMA_WRITE, &from, (target.as_ptr() as u64, keys.remote));
            // SAFETY: within the buffer. Read as what others write to.
            let last = || unsafe { target.as_ptr().add((16 << 10) - 1).read_volatile() };
            if purpose == Purpose::ReadInto && device.kind == Kind::Iwarp {
                until(&pair, || last() == 9).await;
            } else {
                until(&pair, || pair.line.broken().is_some()).await;
                assert_eq!(last(), 0, "{purpose:?}");
            }
        }
    });
}

/// Goal: a message that is longer than any receive buffer ends its connection and costs the others none of theirs. Method: what the device has is counted.
#[test]
fn messages_that_do_not_fit_cost_no_buffer() {
    with_device(async |ip| {
        let server = Server::new(ip);
        let ours = env();
        let (socket, _) = server.connect(&ours);
        let honest = Connection::over(socket, &server.who(1), &ours).await.expect("let in");
        let from = ours.pool.try_get(64 << 10).expect("a buffer");
        let mut left = Vec::new();
        for _ in 0..3 {
            let (socket, pair, serving) = server.bare(false).await;
            let pair = pair.expect("connected");
            let hub = pair.parts().expect("a queue pair").0.clone();
            reach(&pair, WR_SEND, &from, (0, 0));
            until(&pair, || pair.line.broken().is_some()).await;
            serving.await.expect("no panic");
            drop((pair, socket));
            hub.drain();
            left.push(hub.receives_left());
        }
        assert!(left[0] > 100 && left.iter().all(|now| *now == left[0]), "{left:?}");
        let answer = honest.call(Header::request(Op::Ping, Partition(1)), Bytes::new(), Bytes::new()).await;
        assert!(answer.is_ok() && honest.is_rdma());
    });
}

/// Goal: memory for receiving is bounded where each connection has buffers for itself (iWARP): one beyond that goes over TCP and works, and those that are there go
/// on. Method: the buffers of all connections to come are taken away but for one too few; with a shared queue there is nothing to take.
#[test]
fn who_finds_no_receive_buffers_goes_over_tcp() {
    with_device(async |ip| {
        let server = Server::new(ip);
        let ours = env();
        let first = Connection::over(server.connect(&ours).0, &server.who(1), &ours).await.expect("let in");
        let cm = Cm::local().expect("a device");
        let hub = cm.hubs().pop().expect("the connection's");
        let held = hub.hold_receives(2 * IWARP_RECEIVES - 1);
        let theirs = env();
        let second =
            Connection::over(server.connect(&theirs).0, &server.who(2), &theirs).await.expect("let in");
        let is_bounded = hub.device.kind == Kind::Iwarp;
        assert_eq!((first.is_rdma(), second.is_rdma()), (true, !is_bounded));
        assert!(!is_bounded || hub.receives_left() == 2 * IWARP_RECEIVES - 1, "what was given comes back");
        for connection in [&first, &second] {
            let bulk = Bytes::from(vec![3; 100_000]);
            let request = Header::request(Op::Ping, Partition(1));
            let answer = connection.call(request, Bytes::new(), bulk.clone()).await;
            assert!(answer.expect("answered").bulk == bulk);
        }
        hub.release_receives(held);
        // Another process has not been refused, and there is room again.
        let other = env();
        let third = Connection::over(server.connect(&other).0, &server.who(3), &other).await.expect("let in");
        assert!(third.is_rdma());
    });
}
