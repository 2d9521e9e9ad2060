//! Connections by server number: shared dials, back-off, restarts.

mod support;

use bytes::Bytes;
use fs_net::{Address, BufferClass, Identity, NetCounters, NetEnv, NetError, Peers, Secret};
use fs_proto::msg::session::Role;
use fs_proto::{Op, ServerId, Status};
use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};
use support::{Server, all_are_refused, client, env, over_all, request, run, until};

/// Peers with server 0 at `address` and no other; counts how often the address was asked for, which is once a dial.
fn peers(address: &Address, secret: &Secret, env: &Rc<NetEnv>) -> (Rc<Peers>, Rc<Cell<usize>>) {
    let dials = Rc::new(Cell::new(0));
    let (address, counted) = (address.clone(), dials.clone());
    let find = move |id: ServerId| {
        counted.set(counted.get() + 1);
        (id == ServerId(0)).then(|| address.clone())
    };
    (Peers::new(find, client(secret), env.clone()), dials)
}

async fn ping(peers: &Peers) -> Result<(), NetError> {
    peers.call(ServerId(0), request(Op::Ping), Bytes::new(), Bytes::new()).await.map(drop)
}

#[test]
fn many_callers_share_one_dial() {
    over_all(|address| async move {
        let server = Server::start(0, &address, &Secret::random());
        let (peers, dials) = peers(&server.address, &server.secret, &env());
        let calls: Vec<_> = (0..50)
            .map(|_| {
                let peers = peers.clone();
                tokio::task::spawn_local(async move { ping(&peers).await })
            })
            .collect();
        // The first, which began the dial, goes away.
        tokio::task::yield_now().await;
        calls[0].abort();
        for call in calls.into_iter().skip(1) {
            call.await.expect("no panic").expect("answered");
        }
        assert_eq!(dials.get(), 1);
        assert_eq!(NetCounters::read(&server.env.counters.connections), 1);
    });
}

#[test]
fn a_restarted_server_is_reached_again() {
    over_all(|address| async move {
        let secret = Secret::random();
        let server = Server::start(0, &address, &secret);
        let address = server.address.clone();
        let (peers, dials) = peers(&address, &secret, &env());
        ping(&peers).await.expect("answered");
        server.kill().await;
        // The first call may find the old connection's end, later ones find nobody there.
        let error = ping(&peers).await.expect_err("nobody is there");
        assert_eq!(error.status(), Status::Unavailable);
        let error = ping(&peers).await.expect_err("nobody is there");
        assert_eq!(error.status(), Status::Unavailable);
        let server = Server::start(0, &address, &secret);
        let before = dials.get();
        // Tries go on until the back-off lets one through; they must not dial each time.
        let mut tries = 0;
        while ping(&peers).await.is_err() {
            tries += 1;
            tokio::task::yield_now().await;
        }
        assert!(dials.get() - before <= 2, "{} dials in {tries} tries", dials.get() - before);
        assert_eq!(server.echo.handled.get(), 1);
    });
}

#[test]
fn a_failed_dial_is_not_repeated_at_once() {
    over_all(|address| async move {
        all_are_refused();
        let secret = Secret::random();
        let server = Server::start(0, &address, &secret);
        let (peers, dials) = peers(&server.address, &Secret::random(), &env());
        let begin = Instant::now();
        for _ in 0..50 {
            let error = ping(&peers).await.expect_err("the secret is another");
            assert!(matches!(error, NetError::Rejected(_)), "{error}");
        }
        // Pauses of 10, 20, 40 ... ms lie between the dials, however slow this machine is.
        let pauses = Duration::from_millis(10 * ((1 << (dials.get() - 1).min(7)) - 1));
        assert!(
            dials.get() < 50 && begin.elapsed() >= pauses,
            "{} dials in {:?}",
            dials.get(),
            begin.elapsed()
        );
    });
}

#[test]
fn an_unknown_server_is_an_error() {
    over_all(|address| async move {
        all_are_refused();
        let (peers, _) = peers(&address, &Secret::random(), &env());
        let error = peers
            .call(ServerId(8), request(Op::Ping), Bytes::new(), Bytes::new())
            .await
            .expect_err("unknown");
        assert!(matches!(error, NetError::UnknownServer(ServerId(8))));
    });
}

#[test]
fn another_server_at_the_address_is_not_taken_for_it() {
    over_all(|address| async move {
        all_are_refused();
        let server = Server::start(5, &address, &Secret::random());
        let (peers, _) = peers(&server.address, &server.secret, &env());
        let error = ping(&peers).await.expect_err("it is server 5").to_string();
        assert!(error.contains("server 5, not 0"), "{error}");
    });
}

#[test]
fn close_all_closes_and_later_calls_connect_anew() {
    over_all(|address| async move {
        let server = Server::start(0, &address, &Secret::random());
        let (peers, dials) = peers(&server.address, &server.secret, &env());
        ping(&peers).await.expect("answered");
        let waiting = {
            let peers = peers.clone();
            tokio::task::spawn_local(async move {
                peers.call(ServerId(0), request(Op::Lookup), Bytes::new(), Bytes::new()).await
            })
        };
        until(|| server.echo.gates.borrow().len() == 1).await;
        peers.close_all();
        assert!(matches!(waiting.await.expect("no panic"), Err(NetError::Closed)));
        ping(&peers).await.expect("answered");
        assert_eq!(dials.get(), 2);
        server.echo.gates.take().into_iter().for_each(|gate| gate.send(()).expect("it waits"));
    });
}

/// Servers 0 to 4 behind one `Peers`.
fn five(address: &Address) -> (Vec<Server>, Rc<Peers>) {
    let (secret, env) = (Secret::random(), env());
    let at = |id: u16| match address {
        Address::Unix(path) => Address::Unix(path.with_extension(id.to_string())),
        Address::Tcp(_) => address.clone(),
    };
    let servers: Vec<_> = (0..5).map(|id| Server::start(id, &at(id), &secret)).collect();
    let addresses: Vec<_> = servers.iter().map(|server| server.address.clone()).collect();
    (servers, Peers::new(move |id| addresses.get(usize::from(id.0)).cloned(), client(&secret), env))
}

fn open(server: &Server) -> u64 {
    NetCounters::read(&server.env.counters.connections)
}

async fn ping_at(peers: &Peers, id: u16) {
    let answer = peers.call(ServerId(id), request(Op::Ping), Bytes::new(), Bytes::new()).await;
    answer.expect("answered");
}

#[test]
fn connections_beyond_the_limit_make_room() {
    over_all(|address| async move {
        let (servers, peers) = five(&address);
        peers.set_limit(2);
        for id in [0, 1, 0, 2] {
            ping_at(&peers, id).await;
        }
        until(|| open(&servers[1]) == 0).await;
        assert_eq!([0, 2].map(|id: usize| open(&servers[id])), [1, 1]);
        // Calls under way are not disturbed.
        let busy = {
            let peers = peers.clone();
            tokio::task::spawn_local(async move {
                peers.call(ServerId(0), request(Op::Lookup), Bytes::new(), Bytes::new()).await
            })
        };
        until(|| servers[0].echo.gates.borrow().len() == 1).await;
        for id in [3, 4] {
            ping_at(&peers, id).await;
        }
        until(|| open(&servers[2]) + open(&servers[3]) == 0).await;
        servers[0].echo.gates.take().into_iter().for_each(|gate| gate.send(()).expect("it waits"));
        busy.await.expect("no panic").expect("answered");
    });
}

#[test]
fn what_is_not_used_is_closed() {
    over_all(|address| async move {
        let (servers, peers) = five(&address);
        for id in 0..5 {
            ping_at(&peers, id).await;
        }
        peers.close_unused();
        ping_at(&peers, 3).await;
        peers.close_unused();
        until(|| servers.iter().map(open).sum::<u64>() == 1).await;
        assert_eq!(open(&servers[3]), 1);
        ping_at(&peers, 0).await;
    });
}

/// Goal: what servers ask each other is not held up by data for which their receiver has no buffer. Method: all buffers of a server are taken; another
/// sends it a mebibyte, and then asks it a hundred times; then buffers are given back.
#[test]
fn small_messages_pass_data_that_wait() {
    run(async {
        let server = Server::start(0, &Address::Tcp("127.0.0.1:0".into()), &Secret::random());
        let (address, pool) = (server.address.clone(), &server.env.pool);
        let who = Identity { role: Role::Server { id: ServerId(9) }, ..client(&server.secret) };
        let peers = Peers::new(move |_| Some(address.clone()), who, env());
        ping(&peers).await.expect("answered");
        let mut taken = Vec::new();
        while let Some(buffer) = pool.try_get_for(BufferClass::PeerRequest, None, 1 << 20) {
            taken.push(buffer);
        }
        let sender = peers.clone();
        let data = tokio::task::spawn_local(async move {
            let data = Bytes::from(vec![7; 1 << 20]);
            sender.call(ServerId(0), request(Op::WriteChunk), Bytes::new(), data).await
        });
        until(|| pool.stats().waiting > 0).await;
        for _ in 0..100 {
            ping(&peers).await.expect("answered");
        }
        assert!(!data.is_finished() && pool.stats().waiting == 1, "the data still wait");
        assert_eq!(NetCounters::read(&server.env.counters.connections), 2);
        drop(taken);
        assert_eq!(data.await.expect("no panic").expect("answered").bulk.len(), 1 << 20);
    });
}
