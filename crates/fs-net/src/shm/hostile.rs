//! Goal: whatever a client writes into the memory that it shares, the server neither fails nor touches what is not that client's.
//! Method: a client that shook hands honestly and then scribbles into rings, positions and data, by itself, while requests run; beside it an
//! honest client of the same server, whose answers must stay right.

use super::arena::Arena;
use super::bell::{Ear, Rope};
use super::link::Link;
use super::record::{self, Kind};
use super::region::{RING_BYTES, Region, Word};
use super::session::{End, share};
use super::side::Side;
use super::spin::Spin;
use crate::env::{Identity, NetEnv, Sharing};
use crate::frame::Frame;
use crate::handshake::{Talk, introduce};
use crate::send_queue::SendQueue;
use crate::serve::{Handled, Handler, PeerInfo, Reply, ServerIdentity, serve_connection};
use crate::stream::adopt;
use crate::transport::Transport;
use crate::{BufferClass, Connection, NetCounters, Secret, ShareBudget, Socket};
use bytes::{Bytes, BytesMut};
use fs_proto::msg::session::Role;
use fs_proto::{ClientId, Header, Op, Partition, ServerId};
use proptest::prelude::*;
use std::cell::Cell;
use std::future::poll_fn;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::Poll;
use std::time::Duration;
use tokio::task::{JoinHandle, LocalSet};

/// Answers with what it was sent, after it looked at every byte.
#[derive(Default)]
struct Mirror {
    sums: Cell<u64>,
}

impl Handler for Mirror {
    fn handle(self: Rc<Self>, _: &Rc<PeerInfo>, request: Frame) -> Handled {
        let sum = request.bulk.iter().map(|byte| u64::from(*byte)).sum::<u64>();
        self.sums.set(self.sums.get().wrapping_add(sum));
        Handled::Now(Reply::ok(&request.header, request.meta, request.bulk))
    }
}

struct Server {
    me: ServerIdentity,
    env: Rc<NetEnv>,
    budget: Arc<ShareBudget>,
}

impl Server {
    fn new() -> Server {
        let epoch = Arc::new(AtomicU64::new(1));
        let me = ServerIdentity { id: ServerId(0), job: "job".into(), secret: Secret::random(), epoch };
        let budget = ShareBudget::new(64 << 20);
        let sharing = Sharing::Grant(budget.clone());
        Server { me, env: Rc::new(NetEnv { sharing, ..NetEnv::new(64 << 20) }), budget }
    }

    /// A socket that the server serves, and the task that does.
    fn connect(&self) -> (Socket, JoinHandle<()>) {
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        for socket in [&ours, &theirs] {
            socket.set_nonblocking(true).expect("nonblocking");
        }
        let serving = serve_connection(
            Socket::Unix(theirs),
            Rc::new(Mirror::default()),
            self.me.clone(),
            self.env.clone(),
        );
        (Socket::Unix(ours), tokio::task::spawn_local(serving))
    }

    fn who(&self, id: u64) -> Identity {
        Identity {
            role: Role::Client { id: ClientId(id) },
            job: self.me.job.clone(),
            secret: self.me.secret.clone(),
        }
    }

    /// The bare end of a session: no transport keeps it honest.
    async fn bare(&self) -> (Bare, JoinHandle<()>) {
        let (socket, serving) = self.connect();
        let env = Rc::new(NetEnv { sharing: Sharing::Insist, ..NetEnv::new(1 << 20) });
        let mut socket = adopt(socket, &env).expect("a socket");
        let talk = Talk::new(&mut *socket, SendQueue::new(env.counters.clone()));
        introduce(talk, &self.who(666)).await.expect("let in");
        socket.trust(BufferClass::PeerReply, None);
        let end = share(&mut *socket, &env).await.expect("an answer").expect("memory");
        let End { region, ear, rope } = end;
        let (ear, rope) = (Ear::new(ear).expect("an ear"), Rope::new(rope).expect("a rope"));
        let link = Link::new(region.clone(), Side::Client, (ear, rope), Spin::new(Duration::ZERO));
        (Bare { region, link, _socket: socket }, serving)
    }
}

struct Bare {
    region: Arc<Region>,
    link: Link,
    _socket: Box<dyn Transport>,
}

impl Bare {
    /// Puts a record into the ring and shows it, however senseless.
    fn put(&mut self, record: &[u8]) {
        if self.link.has_room(record.len()).unwrap_or(false) {
            self.link.put(record);
            self.link.publish();
        }
    }
}

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    LocalSet::new().block_on(&runtime, async {
        tokio::time::timeout(Duration::from_secs(120), test).await.expect("the test hangs");
    });
}

fn frame(op: Op, meta: usize, bulk: u32) -> Vec<u8> {
    let mut header = Header::request(op, Partition(1));
    (header.meta_bytes, header.bulk_bytes) = (meta as u32, bulk);
    let mut raw = header.encode().to_vec();
    raw.resize(raw.len() + meta, 7);
    raw
}

fn whole(kind: Kind, offset: u32, body: &[u8]) -> Vec<u8> {
    [&record::head(kind, body.len(), offset)[..], body].concat()
}

/// Waits until the server has given the session up, and everything of it is back.
async fn is_over(server: &Server, serving: JoinHandle<()>, bare: Bare) {
    serving.await.expect("no panic");
    drop(bare);
    assert_eq!((server.budget.stats().used, server.env.pool.stats().used), (0, 0));
    assert_eq!(NetCounters::read(&server.env.counters.connections), 0);
}

/// Goal: every lie that a record can tell ends the session and nothing else. Method: one lie after the other, each in a session of its own.
#[test]
fn lies_end_the_session() {
    run(async {
        let server = Server::new();
        let arena = {
            let (bare, serving) = server.bare().await;
            let bytes = bare.region.arena_bytes();
            drop(bare);
            serving.await.expect("no panic");
            bytes
        };
        let mut damaged = frame(Op::Ping, 0, 0);
        damaged[9] ^= 1;
        let lies = [
            whole(Kind::GivenBack, 0, &[]),
            whole(Kind::GivenBack, u32::MAX, &[]),
            whole(Kind::GivenBack, 4096, b"x"),
            whole(Kind::Frame, 0, b"short"),
            whole(Kind::Frame, 0, &damaged),
            whole(Kind::Frame, 0, &frame(Op::Ping, 5, 9)),
            whole(Kind::FrameByReference, arena, &frame(Op::WriteChunk, 0, 1)),
            whole(Kind::FrameByReference, arena - 1, &frame(Op::WriteChunk, 0, 2)),
            whole(Kind::FrameByReference, u32::MAX, &frame(Op::WriteChunk, 0, u32::MAX >> 8)),
            whole(Kind::FrameByReference, 0, &frame(Op::PutMany, 3, 16 << 20)),
            whole(Kind::Frame, 0, &frame(Op::Ping, 0, 0))[..30].to_vec(),
            vec![0; 16],
            vec![0xFF; 200],
        ];
        for lie in lies {
            let (mut bare, serving) = server.bare().await;
            bare.put(&lie);
            is_over(&server, serving, bare).await;
        }
        for (word, value) in [
            (Word::Tail(Side::Client.outward()), RING_BYTES as u32 + 1),
            (Word::Tail(Side::Client.outward()), u32::MAX),
            (Word::Head(Side::Client.inward()), 1 << 31),
        ] {
            let (mut bare, serving) = server.bare().await;
            while !serving.is_finished() {
                // Again and again: a lie is noticed when there is a reason to look, and an honest link tells the truth in between.
                bare.put(&whole(Kind::Frame, 0, &frame(Op::Ping, 30_000, 0)));
                bare.region.word(word).store(value, Ordering::SeqCst);
                tokio::task::yield_now().await;
            }
            is_over(&server, serving, bare).await;
        }
    });
}

/// What a scribbler does next.
#[derive(Debug, Clone)]
enum Scribble {
    Word(u8, u32),
    Ring(usize, Vec<u8>),
    Data(u32, u8),
    Frame(u8, u32, u32),
    Record(Vec<u8>),
    Yield,
}

fn scribbles() -> impl Strategy<Value = Scribble> {
    let bytes = prop::collection::vec(any::<u8>(), 1..200);
    prop_oneof![
        1 => (0..8u8, prop_oneof![any::<u32>(), 0..200_000u32]).prop_map(|(w, v)| Scribble::Word(w, v)),
        2 => (0..RING_BYTES, bytes.clone()).prop_map(|(at, bytes)| Scribble::Ring(at, bytes)),
        4 => (any::<u32>(), any::<u8>()).prop_map(|(at, byte)| Scribble::Data(at, byte)),
        8 => (0..4u8, any::<u32>(), 0..300_000u32).prop_map(|(op, at, len)| Scribble::Frame(op, at, len)),
        1 => bytes.prop_map(Scribble::Record),
        6 => Just(Scribble::Yield),
    ]
}

impl Bare {
    fn scribble(&mut self, scribble: &Scribble) {
        let arena = self.region.arena_bytes();
        match scribble {
            Scribble::Word(which, value) => {
                let side = if which % 2 == 0 { Side::Client } else { Side::Server };
                let word = match which / 2 {
                    0 => Word::Tail(side.outward()),
                    1 => Word::Head(side.outward()),
                    2 => Word::Asleep(side),
                    _ => Word::Starved(side),
                };
                self.region.word(word).store(*value, Ordering::SeqCst);
            }
            Scribble::Ring(at, bytes) => {
                let len = bytes.len().min(RING_BYTES - at);
                self.region.ring_put(Side::Client.outward(), *at, &bytes[..len]);
                self.region.ring_put(Side::Server.outward(), *at, &bytes[..len]);
            }
            Scribble::Data(at, byte) => {
                let len = 70_000.min(arena);
                let to = self.region.arena_ptr(Side::Client.outward(), at % (arena - len + 1), len);
                // SAFETY: within the mapping; that the server may read it meanwhile is what is tried.
                unsafe { std::ptr::write_bytes(to.as_ptr(), *byte, len as usize) }
            }
            Scribble::Frame(op, at, len) => {
                let op = [Op::WriteChunk, Op::PutMany, Op::Ping, Op::Share][usize::from(*op)];
                let len = (*len).min(arena);
                self.put(&whole(Kind::FrameByReference, at % (arena - len + 1), &frame(op, 10, len)));
            }
            Scribble::Record(bytes) => self.put(bytes),
            Scribble::Yield => {}
        }
    }
}

/// An honest client's request with a known answer.
async fn ask_honestly(connection: &Connection, seed: u8) {
    let bulk = Bytes::from(vec![seed; 50_000]);
    let header = Header::request(Op::WriteChunk, Partition(0));
    let answer =
        connection.call(header, Bytes::from(vec![!seed; 100]), bulk.clone()).await.expect("answered");
    assert!(answer.bulk == bulk && answer.meta[..] == [!seed; 100]);
}

async fn honest(server: &Server) -> (Connection, JoinHandle<()>) {
    let (socket, serving) = server.connect();
    let env = Rc::new(NetEnv { sharing: Sharing::Insist, ..NetEnv::new(64 << 20) });
    let connection = Connection::over(adopt(socket, &env).expect("a socket"), &server.who(1), &env).await;
    (connection.expect("connected"), serving)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    #[test]
    fn any_bytes_in_a_ring_are_survived(steps in prop::collection::vec(scribbles(), 1..120)) {
        run(async {
            let server = Server::new();
            let (connection, serving_honest) = honest(&server).await;
            let (mut bare, serving) = server.bare().await;
            for (n, step) in steps.iter().enumerate() {
                bare.scribble(step);
                if matches!(step, Scribble::Yield) {
                    tokio::task::yield_now().await;
                    ask_honestly(&connection, n as u8).await;
                }
            }
            ask_honestly(&connection, 3).await;
            drop(bare);
            serving.await.expect("no panic");
            ask_honestly(&connection, 4).await;
            drop(connection);
            serving_honest.await.expect("no panic");
            assert_eq!((server.budget.stats().used, server.env.pool.stats().used), (0, 0));
        });
    }
}

/// Goal: as above, with a scribbler that really writes at the same time. Method: a thread that never stops, while its session asks and the
/// honest one compares.
#[test]
fn a_scribbling_thread_is_survived() {
    run(async {
        let server = Server::new();
        let (connection, serving_honest) = honest(&server).await;
        for round in 0..20u8 {
            let (mut bare, serving) = server.bare().await;
            let (region, stop) = (bare.region.clone(), Arc::new(AtomicBool::new(false)));
            let stopped = stop.clone();
            // In half of the rounds the ring stays sound, so that the session lives long enough for its data to be read.
            let spoils_ring = round % 2 == 0;
            let scribbler = std::thread::spawn(move || {
                let mut byte = round;
                while !stopped.load(Ordering::Relaxed) {
                    byte = byte.wrapping_mul(31).wrapping_add(7);
                    let to = region.arena_ptr(Side::Client.outward(), 0, 200_000);
                    // SAFETY: within the mapping; that the server reads it meanwhile is what is tried.
                    unsafe { std::ptr::write_bytes(to.as_ptr(), byte, 200_000) }
                    if spoils_ring {
                        region.ring_put(Side::Client.outward(), usize::from(byte) * 200, &[byte; 100]);
                    }
                }
            });
            for n in 0..40u8 {
                let op = if n % 2 == 0 { Op::WriteChunk } else { Op::PutMany };
                bare.put(&whole(Kind::FrameByReference, u32::from(n) * 16, &frame(op, 10, 150_000)));
                // Answers lie in a ring that is scribbled on only by us: taken, so that the session goes on.
                poll_fn(|cx| {
                    drop(bare.link.take(&mut BytesMut::new()));
                    cx.waker().wake_by_ref();
                    Poll::Ready(())
                })
                .await;
                ask_honestly(&connection, n).await;
            }
            stop.store(true, Ordering::Relaxed);
            scribbler.join().expect("no panic");
            drop(bare);
            serving.await.expect("no panic");
        }
        drop(connection);
        serving_honest.await.expect("no panic");
        assert_eq!((server.budget.stats().used, server.env.pool.stats().used), (0, 0));
    });
}

/// Goal: a client cannot use up the server's own memory by never giving anything back. Method: answers by reference, all kept; then they come over
/// the socket, and the session goes on.
#[test]
fn who_gives_nothing_back_gets_the_socket() {
    run(async {
        let server = Server::new();
        let (connection, serving) = honest(&server).await;
        let mut kept = Vec::new();
        for n in 0..60u8 {
            let bulk = Bytes::from(vec![n; 400_000]);
            let header = Header::request(Op::WriteChunk, Partition(0));
            let answer = connection.call(header, Bytes::new(), bulk.clone()).await.expect("answered");
            assert!(answer.bulk == bulk);
            kept.push(answer.bulk);
        }
        let in_place = kept.iter().filter(|bulk| connection.lies_in_shared_memory(bulk)).count();
        assert!(in_place > 2 && in_place < 20, "{in_place}");
        assert!(kept.iter().enumerate().all(|(n, bulk)| bulk.iter().all(|byte| *byte == n as u8)));
        drop((kept, connection));
        serving.await.expect("no panic");
        assert_eq!(server.budget.stats().used, 0);
    });
}

/// Arenas of two sessions are apart: a block of one is not known to the other.
#[test]
fn sessions_do_not_see_each_other() {
    run(async {
        let server = Server::new();
        let ((one, serving_one), (two, serving_two)) = (server.bare().await, server.bare().await);
        let arena = Arena::new(one.region.clone(), Side::Client.outward());
        let block = arena.take(10_000).expect("room");
        assert_eq!(two.region.offset_of(Side::Client.outward(), &block), None);
        drop((block, one, two));
        serving_one.await.expect("no panic");
        serving_two.await.expect("no panic");
    });
}
