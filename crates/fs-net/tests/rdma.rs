//! Connections over RDMA: what differs from a socket. What is the same is tried by `session.rs` and `calls.rs`, over all transports.
//! Without a device (`tests/e2e/rdma.sh` makes one, in a guest) only what needs none is tried.

mod support;

use bytes::Bytes;
use fs_net::{Address, BufferClass, Connection, Identity, NetCounters, NetEnv, Rdma, RdmaChoice, Secret};
use fs_proto::msg::session::Role;
use fs_proto::{ClientId, Op};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;
use support::{
    LONG, Server, check_way, client, env, is_iwarp, over_rdma, request, run, until, with_rdma_as_parent,
};
use tokio::sync::oneshot;

const MIB: usize = 1 << 20;
/// Connections with both ends in one process over soft-iWARP: its library takes the 144th page of all queues (0x90000, `SIW_INVAL_UOBJ_KEY`) for an error, and
/// a connection's end has five.
const SIW_CONNECTIONS: usize = 9;

fn pattern(len: usize, seed: u8) -> Bytes {
    (0..len).map(|i| (i / 7) as u8 ^ seed).collect::<Vec<_>>().into()
}

/// Goal: data that lies in buffers of the pool is not copied by either side. Method: the counters tell.
#[test]
fn data_by_reference_is_not_copied() {
    over_rdma(|address| async move {
        let server = Server::start(0, &address, &Secret::random());
        let env = env();
        let connection = server.connect(&env).await.expect("connected");
        let copied = || [&env, &server.env].map(|env| NetCounters::read(&env.counters.copied_bytes));
        let before = copied();
        for seed in 0..3 {
            let mut buffer = env.pool.get(MIB).await.expect("a buffer");
            buffer.copy_from_slice(&pattern(MIB, seed));
            let answer = connection.call(request(Op::Ping), Bytes::new(), buffer.freeze()).await;
            assert!(answer.expect("answered").bulk == pattern(MIB, seed));
        }
        assert_eq!(copied(), before);
        let (ours, theirs) = (env.rdma.stats(), server.env.rdma.stats());
        assert_eq!((ours.reads, ours.read_bytes), (3, 3 * MIB as u64));
        assert_eq!((theirs.reads, theirs.connections, ours.connections), (3, 1, 1));
        assert!(ours.registrations > 0 && ours.registered_bytes > 2 * MIB as u64, "{ours:?}");
    });
}

/// Goal: memory for receiving does not grow with the number of peers. Method: what is registered with one connection, and with nine.
#[test]
fn receive_buffers_are_shared_by_all_peers() {
    over_rdma(|address| async move {
        let server = Server::start(0, &address, &Secret::random());
        let env = env();
        let (mut connections, mut registered) = (Vec::new(), Vec::new());
        for _ in 0..9 {
            let connection = server.connect(&env).await.expect("connected");
            connection.call(request(Op::Ping), pattern(4000, 1), Bytes::new()).await.expect("answered");
            connections.push(connection);
            registered.push(env.rdma.stats().registered_bytes);
        }
        assert!(registered[0] > MIB as u64 && registered[8] == registered[0], "{registered:?}");
    });
}

/// Goal: small messages go within their requests to the device, which then need not be read from memory; larger ones do not. Method: the counters tell, of requests
/// without and with a body.
#[test]
fn small_messages_are_within_their_requests() {
    over_rdma(|address| async move {
        let server = Server::start(0, &address, &Secret::random());
        let env = env();
        let connection = server.connect(&env).await.expect("connected");
        let sent = async |body: usize| {
            let before = env.rdma.stats();
            for _ in 0..20 {
                let answer = connection.call(request(Op::Ping), pattern(body, 1), Bytes::new()).await;
                assert!(answer.expect("answered").meta == pattern(body, 1));
            }
            let now = env.rdma.stats();
            let inline = now.inline_messages - before.inline_messages;
            (inline, now.messages_sent - before.messages_sent - inline)
        };
        assert!(matches!(sent(0).await, (20.., 0)), "{:?}", env.rdma.stats());
        // What gives credits back is small at all times.
        assert_eq!(sent(2_000).await.1, 20, "{:?}", env.rdma.stats());
        assert!(server.env.rdma.stats().inline_messages >= 20, "{:?}", server.env.rdma.stats());
    });
}

/// A server on a thread of its own, until it is dropped.
struct Apart {
    address: Address,
    /// Lets go of the thread, once it is held.
    release: mpsc::Sender<()>,
    _end: oneshot::Sender<()>,
}

fn serve_apart(address: Address, secret: Secret) -> Apart {
    let (tell, told) = mpsc::channel();
    let (release, hold) = mpsc::channel();
    let (end, ended) = oneshot::channel::<()>();
    std::thread::spawn(move || {
        with_rdma_as_parent();
        run(async move {
            let server = Server::start(0, &address, &secret);
            server.echo.hold.replace(Some(hold));
            tell.send(server.address.clone()).expect("the test waits for it");
            // Either way the test is over.
            drop(ended.await);
        });
    });
    Apart { address: told.recv().expect("it serves"), release, _end: end }
}

/// Goal: peers that all send at once to one that takes nothing for a while cost no connection: where the device does not send again what finds no
/// receive buffer (iWARP), no more is sent than there are buffers. Method: the server's thread is held by a request, and connections send as much as
/// they may before it is let go: 24 times 16 messages would be half as many again as a shared queue has buffers, and 16 twice as many as one has for itself.
/// All are answered, none over TCP.
#[test]
fn messages_wait_for_who_is_busy() {
    over_rdma(|address| async move {
        let secret = Secret::random();
        let (server, env) = (serve_apart(address, secret.clone()), env());
        let mut connections = Vec::new();
        for _ in 0..if is_iwarp() { SIW_CONNECTIONS } else { 24 } {
            let connection =
                Connection::connect(&server.address, &client(&secret), &env, LONG).await.expect("connected");
            check_way(&connection);
            connection.call(request(Op::Ping), Bytes::new(), Bytes::new()).await.expect("answered");
            connections.push(connection);
        }
        let holder = connections[0].clone();
        let held = async move { holder.call(request(Op::Setattr), Bytes::new(), Bytes::new()).await };
        let mut calls = vec![tokio::task::spawn_local(held)];
        let before = env.rdma.stats().messages_sent;
        until(|| env.rdma.stats().messages_sent > before).await;
        for connection in &connections {
            // Two fill a message.
            for n in 0..40 {
                let connection = connection.clone();
                let call =
                    async move { connection.call(request(Op::Ping), pattern(8_000, n), Bytes::new()).await };
                calls.push(tokio::task::spawn_local(call));
            }
        }
        until(|| env.rdma.stats().messages_sent >= before + connections.len() as u64 * 3).await;
        // And as much more as they would.
        for _ in 0..1_000 {
            tokio::task::yield_now().await;
        }
        server.release.send(()).expect("it is held");
        for call in calls {
            call.await.expect("no panic").expect("answered");
        }
        assert!(connections.iter().all(Connection::is_rdma));
    });
}

/// Goal: parts that are lent come back, however many and small, also where no message may be sent that the peer has no buffer for (iWARP). Method: far
/// more requests and answers with a part of the least size than may be under way; the server is on a thread of its own, so that either side may be slower.
#[test]
fn many_small_parts_are_given_back() {
    over_rdma(|address| async move {
        let secret = Secret::random();
        let (server, env) = (serve_apart(address, secret.clone()), env());
        let connection =
            Connection::connect(&server.address, &client(&secret), &env, LONG).await.expect("connected");
        check_way(&connection);
        let calls: Vec<_> = (0..1_000_u32)
            .map(|n| {
                let (connection, bulk) = (connection.clone(), pattern(8_192 + n as usize, n as u8));
                tokio::task::spawn_local(async move {
                    let answer = connection.call(request(Op::Ping), Bytes::new(), bulk.clone()).await;
                    assert!(answer.expect("answered").bulk == bulk);
                })
            })
            .collect();
        for call in calls {
            call.await.expect("as it was sent");
        }
        until(|| env.pool.stats().used == 0).await;
        assert!(env.rdma.stats().reads >= 1_000, "{:?}", env.rdma.stats());
    });
}

/// Goal: who expects something looks a little before sleeping, where there are processors for that, and never where there is only one. Method: the
/// server is on a thread of its own, so answers come while the client looks; long looks, because in a guest all is slow. The counters tell.
#[test]
fn who_expects_something_looks_before_sleeping() {
    over_rdma(|address| async move {
        let secret = Secret::random();
        let server = serve_apart(address, secret.clone());
        let env = Rc::new(NetEnv { spin: Duration::from_millis(200), ..NetEnv::clone(&env()) });
        let connection =
            Connection::connect(&server.address, &client(&secret), &env, LONG).await.expect("connected");
        check_way(&connection);
        for n in 0..50 {
            let answer = connection.call(request(Op::Ping), pattern(100, n), Bytes::new()).await;
            assert!(answer.expect("answered").meta == pattern(100, n));
        }
        let stats = env.rdma.stats();
        if std::thread::available_parallelism().is_ok_and(|processors| processors.get() > 1) {
            assert!(stats.hits > 0 && stats.looks >= stats.hits, "{stats:?}");
        } else {
            assert_eq!((stats.looks, stats.hits), (0, 0));
        }
    });
}

/// Goal: a process that may use RDMA works with one that does not. Method: only one side has it, then only the other.
#[test]
fn without_a_way_tcp_does() {
    run(async {
        for (ours, theirs) in [(RdmaChoice::Auto, RdmaChoice::Off), (RdmaChoice::Off, RdmaChoice::Auto)] {
            let with = |choice: RdmaChoice| {
                let mut env = NetEnv::new(64 << 20);
                env.rdma = Arc::new(Rdma::new(choice, env.pool.stats().size, 1));
                Rc::new(env)
            };
            let address = Address::Tcp("127.0.0.1:0".into());
            let server = Server::start_in(with(theirs), 0, &address, &Secret::random());
            let connection = server.connect(&with(ours)).await.expect("connected");
            let answer = connection.call(request(Op::Ping), Bytes::new(), pattern(MIB, 1)).await;
            assert!(answer.expect("answered").bulk == pattern(MIB, 1));
        }
    });
}

/// Goal: answers go out while the server takes no requests, which it does not while many wait to be sent. Method: far more data asked for
/// at once than may wait and than may be lent; all answers come, and all that was lent comes back.
#[test]
fn answers_flow_while_nothing_is_taken() {
    over_rdma(|address| async move {
        let server = Server::start(0, &address, &Secret::random());
        let env = env();
        let connection = server.connect(&env).await.expect("connected");
        let calls: Vec<_> = (0..90_u8)
            .map(|n| {
                let connection = connection.clone();
                tokio::task::spawn_local(async move {
                    let bulk = pattern(MIB, n);
                    let answer = connection.call(request(Op::Ping), Bytes::new(), bulk.clone()).await;
                    assert!(answer.expect("answered").bulk == bulk);
                })
            })
            .collect();
        for call in calls {
            call.await.expect("as it was sent");
        }
        until(|| (server.env.pool.stats().used, env.pool.stats().used) == (0, 0)).await;
        let peak = server.env.pool.stats().peak;
        assert!(peak < 128 * MIB as u64, "{peak}");
    });
}

/// Goal: a peer without room holds little of what others use. Method: the test holds the client's buffers, so it cannot read answers; the
/// server lends to it no more than its limit, and serves another meanwhile.
#[test]
fn a_peer_that_takes_nothing_holds_little() {
    over_rdma(|address| async move {
        let server = Server::start(0, &address, &Secret::random());
        let (full, other) = (env(), env());
        let stuck = server.connect(&full).await.expect("connected");
        // Another client: what a peer holds is counted by client, not by connection.
        let who = Identity { role: Role::Client { id: ClientId(78) }, ..client(&server.secret) };
        let free = Connection::connect(&server.address, &who, &other, LONG).await.expect("connected");
        check_way(&free);
        let mut calls = Vec::new();
        for n in 0..60_u8 {
            let mut buffer = full.pool.get(MIB).await.expect("a buffer");
            buffer.copy_from_slice(&pattern(MIB, n));
            let (stuck, bulk) = (stuck.clone(), buffer.freeze());
            let call = async move { stuck.call(request(Op::Ping), Bytes::new(), bulk).await };
            calls.push(tokio::task::spawn_local(call));
        }
        let held: Vec<_> =
            std::iter::from_fn(|| full.pool.try_get_for(BufferClass::PeerRequest, None, MIB)).collect();
        for n in 0..20 {
            let answer = free.call(request(Op::Ping), Bytes::new(), pattern(MIB, n)).await;
            assert!(answer.expect("answered").bulk == pattern(MIB, n));
        }
        assert!(server.env.pool.stats().used <= 64 * MIB as u64, "{:?}", server.env.pool.stats());
        drop(held);
        for (n, call) in calls.into_iter().enumerate() {
            let answer = call.await.expect("no panic").expect("answered");
            assert!(answer.bulk == pattern(MIB, n as u8));
        }
    });
}
