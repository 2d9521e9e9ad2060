//! What one peer can take from others, and for how long: slow readers, half messages, many connections, death.

mod support;

use bytes::Bytes;
use fs_net::{
    Address, Budget, CONNECTION_BYTES, Connection, Identity, NetCounters, NetEnv, Secret,
    close_idle_connections,
};
use fs_proto::msg::session::Role;
use fs_proto::{ClientId, Op};
use std::rc::Rc;
use std::time::{Duration, Instant};
use support::{
    LONG, Server, all_are_refused, check_way, client, env, is_emulated, over_all, request, run, server_env,
    until,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const MIB: usize = 1 << 20;
/// Long enough for what goes on, short enough to wait for.
const STALL: Duration = Duration::from_millis(300);

fn tcp() -> Address {
    Address::Tcp("127.0.0.1:0".into())
}

fn strict_env(edit: impl FnOnce(&mut NetEnv)) -> Rc<NetEnv> {
    let mut env = NetEnv::clone(&server_env());
    env.stall = STALL;
    edit(&mut env);
    Rc::new(env)
}

fn connections(server: &Server) -> u64 {
    NetCounters::read(&server.env.counters.connections)
}

async fn connect_as(server: &Server, id: u64) -> Connection {
    let who = Identity { role: Role::Client { id: ClientId(id) }, ..client(&server.secret) };
    let connection = Connection::connect(&server.address, &who, &env(), LONG).await.expect("connected");
    check_way(&connection);
    connection
}

/// A client that reads nothing: its bytes go through a relay that passes only what the client sends, once told to.
async fn deaf(server: &Server, id: u64) -> Connection {
    let Address::Tcp(to) = server.address.clone() else { panic!("a TCP server") };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let address = Address::Tcp(listener.local_addr().expect("an address").to_string());
    tokio::task::spawn_local(async move {
        let (near, _) = listener.accept().await.expect("accepted");
        let far = TcpStream::connect(to).await.expect("connected");
        let ((mut from_client, mut to_client), (mut from_server, mut to_server)) =
            (near.into_split(), far.into_split());
        // The answers of the handshake pass, nothing more.
        let mut handshake = [0; 4096];
        let up =
            tokio::task::spawn_local(async move { tokio::io::copy(&mut from_client, &mut to_server).await });
        for _ in 0..2 {
            let n = from_server.read(&mut handshake).await.expect("an answer");
            to_client.write_all(&handshake[..n]).await.expect("passed on");
        }
        drop(up.await);
        drop((from_server, to_client));
    });
    let who = Identity { role: Role::Client { id: ClientId(id) }, ..client(&server.secret) };
    Connection::connect(&address, &who, &env(), LONG).await.expect("connected")
}

/// Goal: a client that never reads its answers is read no longer, keeps what others need free, and is cut off.
/// Method: it asks for 200 MiB through a relay that passes no answers; another client works beside it.
#[test]
fn who_reads_no_answers_is_read_no_longer() {
    run(async {
        let server = Server::start_in(strict_env(|_| ()), 0, &tcp(), &Secret::random());
        let slow = deaf(&server, 1).await;
        let calls: Vec<_> = (0..200)
            .map(|_| {
                let slow = slow.clone();
                tokio::task::spawn_local(async move {
                    slow.call(request(Op::Ping), Bytes::new(), Bytes::from(vec![1; MIB])).await
                })
            })
            .collect();
        until(|| server.env.pool.stats().used > 30 * MIB as u64).await;
        let other = connect_as(&server, 2).await;
        while connections(&server) == 2 {
            let answer = other.call(request(Op::Ping), Bytes::new(), Bytes::from(vec![2; MIB])).await;
            assert_eq!(answer.expect("answered").bulk.len(), MIB);
            // A quarter of the pool is for clients' requests, two thirds of it for this one, and one batch is read at a time.
            assert!(server.env.pool.stats().used <= (64 + 2) * MIB as u64, "{:?}", server.env.pool.stats());
        }
        for call in calls {
            assert!(call.await.expect("no panic").is_err());
        }
        assert_eq!((server.env.pool.stats().used, server.env.messages.used()), (0, 0));
    });
}

/// Goal: who stops in the middle of a message is cut off, wherever that is. Method: every kind of half message, after a true handshake.
#[test]
fn half_a_message_is_not_waited_for_for_ever() {
    run(async {
        let server = Server::start_in(strict_env(|_| ()), 0, &tcp(), &Secret::random());
        let mut whole = request(Op::Ping);
        (whole.meta_bytes, whole.bulk_bytes) = (3_000, 1 << 20);
        let mut bytes = whole.encode().to_vec();
        bytes.resize(64 + 3_000 + (1 << 20), 7);
        for cut in [1, 63, 64, 1_000, 64 + 3_000, 64 + 3_000 + 500_000] {
            let mut stream = support::admitted(&server).await;
            stream.write_all(&bytes[..cut]).await.expect("sent");
            let began = Instant::now();
            let end = tokio::time::timeout(LONG, stream.read_to_end(&mut Vec::new())).await;
            assert!(matches!(end.expect("it is cut off"), Ok(0) | Err(_)), "cut at {cut}");
            assert!(began.elapsed() >= STALL, "cut at {cut}");
            until(|| connections(&server) == 0).await;
            assert_eq!(server.env.pool.stats().used, 0, "cut at {cut}");
        }
        // Who sends nothing at all is idle, which is its right, and can only be seen by letting time pass.
        let _idle = support::admitted(&server).await;
        tokio::time::sleep(STALL * 4).await;
        assert_eq!(connections(&server), 1);
    });
}

#[test]
fn a_handshake_that_is_never_finished_ends() {
    over_all(|address| async move {
        all_are_refused();
        let server = Server::start(0, &address, &Secret::random());
        let mut stream = support::raw(&server.address).await;
        stream.write_all(&request(Op::Hello).encode()[..40]).await.expect("sent");
        let end = tokio::time::timeout(LONG, stream.read_to_end(&mut Vec::new())).await;
        assert!(matches!(end.expect("it is cut off"), Ok(0)));
        until(|| NetCounters::read(&server.env.counters.handshake_failures) == 1).await;
        assert_eq!(server.env.connections.used(), 0);
    });
}

/// Goal: one client with many connections and everything under way at once does not slow another to less than its part.
/// Method: requests that wait for the test, of a greedy client (40 connections) and a modest one (4), in a budget for 100 requests; each time
/// one is let go, whoever's turn it is gets in.
#[test]
fn a_greedy_client_gets_no_more_than_its_turn() {
    over_all(|address| async move {
        let env = strict_env(|env| env.messages = Budget::for_messages(100 * 2_048));
        let server = Server::start_in(env, 0, &address, &Secret::random());
        let done: [Rc<std::cell::Cell<usize>>; 2] = Default::default();
        for (peer, many) in [(0_usize, 40), (1, 4)] {
            for _ in 0..many {
                let connection = connect_as(&server, peer as u64 + 1).await;
                for _ in 0..20 {
                    let (connection, done) = (connection.clone(), done[peer].clone());
                    tokio::task::spawn_local(async move {
                        while connection.call(request(Op::Lookup), Bytes::new(), Bytes::new()).await.is_ok() {
                            done.set(done.get() + 1);
                        }
                    });
                }
            }
        }
        let enough = if is_emulated() { 1_200 } else { 3_000 };
        while done[0].get() + done[1].get() < enough {
            until(|| !server.echo.gates.borrow().is_empty()).await;
            let gate = server.echo.gates.borrow_mut().remove(0);
            gate.send(()).expect("it waits");
            tokio::task::yield_now().await;
        }
        let (greedy, modest) = (done[0].get(), done[1].get());
        assert!(modest * 3 >= greedy * 2, "greedy {greedy}, modest {modest}");
        let stats = server.env.messages.stats();
        assert!(stats.waits > 100 && stats.peak <= 102 * 2_048, "{stats:?}");
    });
}

/// Goal: a client that connects and never asks anything does not keep its place for ever, and one that asks late is served. Method: two after their
/// handshakes; the one that was unused for longest is closed, the other asks.
#[test]
fn who_asks_nothing_makes_room() {
    run(async {
        let server = Server::start_in(strict_env(|_| ()), 0, &tcp(), &Secret::random());
        let mut silent = support::admitted(&server).await;
        let late = connect_as(&server, 2).await;
        until(|| connections(&server) == 2).await;
        assert_eq!(close_idle_connections(1), 1);
        let end = tokio::time::timeout(LONG, silent.read_to_end(&mut Vec::new())).await;
        assert!(matches!(end.expect("it is closed"), Ok(0) | Err(_)));
        until(|| server.env.connections.used() == CONNECTION_BYTES).await;
        let answer = late.call(request(Op::Ping), Bytes::new(), Bytes::new()).await;
        answer.expect("who asks late is served");
    });
}

/// Goal: without room for more connections new ones wait, idle ones make room, and everybody is served. Method: room for eight.
#[test]
fn connections_beyond_the_pool_wait_and_idle_ones_make_room() {
    over_all(|address| async move {
        let env = strict_env(|env| env.connections = Budget::for_connections(8 * CONNECTION_BYTES));
        let server = Server::start_in(env, 0, &address, &Secret::random());
        let mut hoard = Vec::new();
        for id in 0..40 {
            // The hoarder keeps its connections and asks nothing more; others come with one each.
            let id = if id % 4 == 3 { id + 100 } else { 1 };
            let connection = connect_as(&server, id).await;
            let answer = connection.call(request(Op::Ping), Bytes::new(), Bytes::new()).await;
            answer.expect("a new connection is served");
            hoard.push((id, connection));
            assert!(server.env.connections.used() <= 8 * CONNECTION_BYTES);
        }
        let open = |of_hoarder: bool| {
            hoard.iter().filter(|(id, open)| (*id == 1) == of_hoarder && !open.is_closed()).count()
        };
        until(|| open(true) + open(false) <= 8).await;
        assert!(
            open(true) <= 4 && open(false) >= 4,
            "{} of the hoarder, {} of others",
            open(true),
            open(false)
        );
        assert!(server.env.connections.stats().waits >= 30);
    });
}
