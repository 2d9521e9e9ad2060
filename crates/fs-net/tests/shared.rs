//! Sessions over shared memory: what differs from a socket. What is the same is tried by `session.rs` and `calls.rs`, over all transports.

mod support;

use bytes::Bytes;
use fs_net::{Connection, NetCounters, NetEnv, NetError, Secret, ShareBudget, Sharing};
use fs_proto::{Op, Status};
use std::rc::Rc;
use support::{LONG, Server, client, env, over_shared_memory, request, run, share_stats, until};

const MIB: usize = 1 << 20;

fn pattern(len: usize, seed: u8) -> Bytes {
    (0..len).map(|i| (i / 7) as u8 ^ seed).collect::<Vec<_>>().into()
}

fn with(sharing: Sharing) -> Rc<NetEnv> {
    Rc::new(NetEnv { sharing, ..NetEnv::new(64 << 20) })
}

/// Goal: who gets no shared memory goes on over its socket, unless it insists. Method: a server whose budget holds two sessions.
#[test]
fn without_memory_the_socket_does() {
    run(async {
        let dir = tempfile::TempDir::new().expect("a directory");
        let address = fs_net::Address::Unix(dir.path().join("s.sock"));
        let small = with(Sharing::Grant(ShareBudget::new(1_400 << 10)));
        let server = Server::start_in(small.clone(), 0, &address, &Secret::random());
        let mut connections = Vec::new();
        for _ in 0..4 {
            let env = with(Sharing::Ask);
            let connection = server.connect(&env).await.expect("connected");
            let bulk = pattern(100_000, 3);
            let answer =
                connection.call(request(Op::Ping), Bytes::new(), bulk.clone()).await.expect("answered");
            assert!(answer.bulk == bulk);
            connections.push(connection);
        }
        let shared = connections.iter().map(Connection::is_shared).collect::<Vec<_>>();
        assert_eq!(shared, [true, true, false, false]);
        let stats = share_stats(&small);
        assert_eq!((stats.sessions, stats.refused), (2, 2));
        let insisting =
            Connection::connect(&server.address, &client(&server.secret), &with(Sharing::Insist), LONG).await;
        let why = insisting.err().expect("refused");
        assert!(matches!(&why, NetError::Rejected(text) if text.contains("--transport")), "{why}");
        drop(connections);
        until(|| share_stats(&small).used == 0).await;
        assert!(server.connect(&with(Sharing::Insist)).await.expect("room again").is_shared());
    });
}

/// Goal: data goes by reference: neither side copies it. Method: the client fills a buffer of the session; the server's handler answers with
/// the bytes as it got them. Only the answer is copied, from one arena to the other; the counters tell.
#[test]
fn data_by_reference_is_not_copied() {
    over_shared_memory(|address| async move {
        let server = Server::start(0, &address, &Secret::random());
        let env = env();
        let connection = server.connect(&env).await.expect("connected");
        let copied = || [&env, &server.env].map(|env| NetCounters::read(&env.counters.copied_bytes));
        let before = copied();
        let mut kept = Vec::new();
        for seed in 0..3 {
            let mut buffer = connection.buffer(MIB).expect("room");
            buffer.copy_from_slice(&pattern(MIB, seed));
            let answer = connection.call(request(Op::WriteChunk), Bytes::new(), buffer.freeze()).await;
            let answer = answer.expect("answered").bulk;
            assert!(answer == pattern(MIB, seed));
            kept.push(answer);
        }
        let after = copied();
        assert_eq!((after[0] - before[0], after[1] - before[1]), (0, 3 * MIB as u64));
        assert_eq!(server.env.pool.stats().peak + env.pool.stats().peak, 0);
        // Held answers are not written over.
        assert!((0..3).all(|seed| kept[seed as usize] == pattern(MIB, seed)));
    });
}

/// Goal: data that something looks into is not read in place. Method: an operation that is not plain data; the server's pool holds the copy.
#[test]
fn data_is_read_in_place_only_from_who_is_trusted() {
    over_shared_memory(|address| async move {
        let server = Server::start(0, &address, &Secret::random());
        let connection = server.connect(&env()).await.expect("connected");
        let bulk = pattern(MIB, 9);
        let answer =
            connection.call(request(Op::PutMany), Bytes::new(), bulk.clone()).await.expect("answered");
        assert!(answer.bulk == bulk);
        assert_eq!(server.env.pool.stats().peak, MIB as u64);
    });
}

/// Goal: what fits neither ring nor arena comes over the socket, and all answers come. Method: sizes from nothing to the largest, all at once,
/// with more data under way than the arenas hold.
#[test]
fn what_does_not_fit_goes_over_the_socket() {
    over_shared_memory(|address| async move {
        let server = Server::start(0, &address, &Secret::random());
        let connection = server.connect(&env()).await.expect("connected");
        let sizes = [
            (0, 0),
            (10, 0),
            (0, 8191),
            (0, 8192),
            (8192, 0),
            (8192, 8192),
            (8192, 100),
            (70_000, 5),
            (4 * MIB, 0),
            (100, 16 * MIB),
            (70_000, 3 * MIB),
            (0, 9 * MIB),
            (0, 9 * MIB),
            (5, 65_536),
            (60_000, 60_000),
        ];
        let calls: Vec<_> = (0..4)
            .flat_map(|_| sizes)
            .map(|(meta, bulk)| {
                let connection = connection.clone();
                tokio::task::spawn_local(async move {
                    let (meta, bulk) = (pattern(meta, 1), pattern(bulk, 2));
                    let answer = connection
                        .call(request(Op::Lookup), meta.clone(), bulk.clone())
                        .await
                        .expect("answered");
                    assert!(answer.header.status == Status::Ok && answer.meta == meta && answer.bulk == bulk);
                })
            })
            .collect();
        let mut opened = 0;
        while opened < calls.len() {
            until(|| !server.echo.gates.borrow().is_empty()).await;
            for gate in server.echo.gates.take() {
                gate.send(()).expect("it waits");
                opened += 1;
            }
        }
        for call in calls {
            call.await.expect("as it was sent");
        }
        drop(connection);
        until(|| share_stats(&server.env).used == 0).await;
    });
}

/// Goal: a small message that is kept keeps itself in memory, not what came with it. Method: many that come at once; each is the only one that has its bytes.
#[test]
fn small_messages_keep_nothing_else() {
    over_shared_memory(|address| async move {
        let server = Server::start(0, &address, &Secret::random());
        let connection = server.connect(&env()).await.expect("connected");
        let calls: Vec<_> = (0..16)
            .map(|n| {
                let connection = connection.clone();
                tokio::task::spawn_local(async move {
                    connection.call(request(Op::Ping), pattern(100, n), Bytes::new()).await
                })
            })
            .collect();
        let mut answers = Vec::new();
        for call in calls {
            answers.push(call.await.expect("no panic").expect("answered").meta);
        }
        for (n, meta) in answers.iter().enumerate() {
            assert!(*meta == pattern(100, n as u8) && meta.is_unique(), "{n}");
        }
    });
}

/// Goal: a full ring holds up its sender and nobody else, and goes on when it is emptied. Method: far more requests at once than a ring holds,
/// answered out of order.
#[test]
fn a_full_ring_goes_on() {
    over_shared_memory(|address| async move {
        let server = Server::start(0, &address, &Secret::random());
        let connection = server.connect(&env()).await.expect("connected");
        let calls: Vec<_> = (0..500u32)
            .map(|n| {
                let connection = connection.clone();
                tokio::task::spawn_local(async move {
                    let meta = pattern(4000, n as u8);
                    let answer = connection.call(request(Op::Ping), meta.clone(), Bytes::new()).await;
                    assert!(answer.expect("answered").meta == meta);
                })
            })
            .collect();
        for call in calls {
            call.await.expect("as it was sent");
        }
    });
}

/// Goal: an answer may be kept longer than its session. Method: read it after both sides are gone.
#[test]
fn an_answer_outlives_its_session() {
    over_shared_memory(|address| async move {
        let server = Server::start(0, &address, &Secret::random());
        let connection = server.connect(&env()).await.expect("connected");
        let answer =
            connection.call(request(Op::Ping), Bytes::new(), pattern(MIB, 5)).await.expect("answered");
        let unsent = connection.buffer(MIB).expect("room");
        drop(connection);
        let env = server.env.clone();
        until(|| share_stats(&env).used == 0).await;
        server.kill().await;
        assert!(answer.bulk == pattern(MIB, 5) && unsent.len() == MIB);
    });
}
