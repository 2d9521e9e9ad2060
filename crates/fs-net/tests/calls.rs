//! Many calls on one connection, over every kind of address.

mod support;

use bytes::Bytes;
use fs_net::{NetCounters, NetError, Secret};
use fs_proto::{Flags, Op, Status, Wire};
use std::future::Future;
use std::pin::pin;
use std::task::{Context, Waker};
use support::{Server, env, is_emulated, over_all, request, until};

fn number(n: u64) -> Bytes {
    Bytes::copy_from_slice(&n.to_le_bytes())
}

/// Goal: answers reach their own calls. Method: 200 calls whose answers are let go in reverse order.
#[test]
fn answers_may_come_in_any_order() {
    over_all(|address| async move {
        let server = Server::start(0, &address, &Secret::random());
        let connection = server.connect(&env()).await.expect("connected");
        let calls: Vec<_> = (0..200)
            .map(|n| {
                let connection = connection.clone();
                tokio::task::spawn_local(async move {
                    connection.call(request(Op::Lookup), number(n), Bytes::new()).await
                })
            })
            .collect();
        until(|| server.echo.gates.borrow().len() == 200).await;
        // A later request overtakes all of them.
        connection.call(request(Op::Ping), Bytes::new(), Bytes::new()).await.expect("answered");
        for gate in server.echo.gates.take().into_iter().rev() {
            gate.send(()).expect("it waits");
        }
        for (n, call) in calls.into_iter().enumerate() {
            assert_eq!(call.await.expect("no panic").expect("answered").meta, number(n as u64));
        }
    });
}

/// Goal: many small requests leave together. Method: 100 calls at once; the counters tell the system calls.
#[test]
fn requests_queued_together_leave_together() {
    over_all(|address| async move {
        let server = Server::start(0, &address, &Secret::random());
        let env = env();
        let connection = server.connect(&env).await.expect("connected");
        let before = [&env, &server.env].map(|env| NetCounters::read(&env.counters.write_calls));
        let received = NetCounters::read(&env.counters.messages_received);
        let sent = NetCounters::read(&server.env.counters.messages_sent);
        let calls: Vec<_> = (0..100)
            .map(|n| {
                let connection = connection.clone();
                tokio::task::spawn_local(async move {
                    connection.call(request(Op::Ping), number(n), Bytes::new()).await
                })
            })
            .collect();
        for (n, call) in calls.into_iter().enumerate() {
            assert_eq!(call.await.expect("no panic").expect("answered").meta, number(n as u64));
        }
        for (side, before) in [&env, &server.env].into_iter().zip(before) {
            let writes = NetCounters::read(&side.counters.write_calls) - before;
            assert!(writes <= 4, "{writes} system calls for 100 messages");
        }
        assert_eq!(NetCounters::read(&env.counters.messages_received) - received, 100);
        assert_eq!(NetCounters::read(&server.env.counters.messages_sent) - sent, 100);
    });
}

#[test]
fn a_dropped_call_does_not_disturb_later_ones() {
    over_all(|address| async move {
        let server = Server::start(0, &address, &Secret::random());
        let connection = server.connect(&env()).await.expect("connected");
        for n in 0..20 {
            let mut call = Box::pin(connection.call(request(Op::Lookup), number(n), Bytes::new()));
            assert!(call.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
            until(|| server.echo.gates.borrow().len() == 1).await;
            drop(call);
            let during = connection.call(request(Op::Ping), number(1000 + n), Bytes::new()).await;
            assert_eq!(during.expect("answered").meta, number(1000 + n));
            server.echo.gates.take().into_iter().for_each(|gate| gate.send(()).expect("it waits"));
            let after = connection.call(request(Op::Ping), number(2000 + n), Bytes::new()).await;
            assert_eq!(after.expect("answered").meta, number(2000 + n));
        }
    });
}

#[test]
fn a_deadline_ends_the_call_but_not_the_connection() {
    over_all(|address| async move {
        let server = Server::start(0, &address, &Secret::random());
        let connection = server.connect(&env()).await.expect("connected");
        let mut header = request(Op::Lookup);
        header.deadline_ms = 20;
        let late = connection.call(header, number(1), Bytes::new()).await;
        assert!(matches!(late, Err(NetError::TimedOut)), "{late:?}");
        server.echo.gates.take().into_iter().for_each(|gate| gate.send(()).expect("it waits"));
        header.op = Op::Ping;
        header.deadline_ms = 10_000;
        assert_eq!(connection.call(header, number(2), Bytes::new()).await.expect("answered").meta, number(2));
    });
}

#[test]
fn frames_of_every_size_come_back() {
    over_all(|address| async move {
        let server = Server::start(0, &address, &Secret::random());
        let env = env();
        let connection = server.connect(&env).await.expect("connected");
        let all = [0, 1, 63, 64, 4096, 8191, 8192, 16_383, 16_384, 16_385, 65_536, 100_001, 1 << 20, 4 << 20];
        let (sizes, largest) = if is_emulated() { (&all[..12], 4 << 20) } else { (&all[..], 16 << 20) };
        let data = Bytes::from(
            (0..(16u32 << 20)).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect::<Vec<_>>(),
        );
        let mut calls = Vec::new();
        let bulks = sizes.iter().copied().chain([largest]);
        let pairs = bulks
            .enumerate()
            .flat_map(|(at, bulk)| sizes.iter().skip(at % 3).step_by(3).map(move |&meta| (meta, bulk)));
        for (meta, bulk) in pairs {
            let (meta, bulk) = (data.slice(..meta), data.slice(data.len() - bulk..));
            let connection = connection.clone();
            calls.push(tokio::task::spawn_local(async move {
                let answer = connection
                    .call(request(Op::Getattr), meta.clone(), bulk.clone())
                    .await
                    .expect("answered");
                assert!(answer.meta == meta && answer.bulk == bulk, "{} + {}", meta.len(), bulk.len());
            }));
            if calls.len() >= 8 {
                calls.remove(0).await.expect("equal");
            }
        }
        for call in calls {
            call.await.expect("equal");
        }
        let in_use = || (env.pool.stats().used, server.env.pool.stats().used);
        if is_emulated() {
            // Over RDMA what was lent is given back by a message of its own.
            until(|| in_use() == (0, 0)).await;
        }
        assert_eq!(in_use(), (0, 0));
        assert!(env.pool.stats().peak > 0);
    });
}

#[test]
fn too_large_messages_are_refused_before_they_are_sent() {
    over_all(|address| async move {
        let server = Server::start(0, &address, &Secret::random());
        let connection = server.connect(&env()).await.expect("connected");
        let large = Bytes::from(vec![0; (16 << 20) + 1]);
        let refused = connection.call(request(Op::Ping), Bytes::new(), large).await.expect_err("too large");
        assert_eq!(refused.status(), Status::Invalid);
        // An answer that the server cannot send is an error of that request only.
        let answer =
            connection.call(request(Op::Release), Bytes::new(), Bytes::new()).await.expect("answered");
        assert_eq!(answer.header.status, Status::OutOfRange);
        connection.call(request(Op::Ping), Bytes::new(), Bytes::new()).await.expect("answered");
    });
}

#[test]
fn a_panicking_handler_still_answers() {
    over_all(|address| async move {
        let server = Server::start(0, &address, &Secret::random());
        let connection = server.connect(&env()).await.expect("connected");
        let answer = connection.call(request(Op::Open), Bytes::new(), Bytes::new()).await.expect("answered");
        assert_eq!(answer.header.status, Status::Io);
        assert!(String::from_bytes(answer.meta).expect("a message").contains("log"));
        connection.call(request(Op::Ping), Bytes::new(), Bytes::new()).await.expect("answered");
    });
}

/// Goal: a connection cannot start more than its share. Method: more slow requests than allowed, then a fast one behind them.
#[test]
fn only_so_many_requests_run_at_once() {
    over_all(|address| async move {
        let server = Server::start(0, &address, &Secret::random());
        let connection = server.connect(&env()).await.expect("connected");
        let most = fs_net::serve::MAX_RUNNING;
        let calls: Vec<_> = (0..most as u64 + 50)
            .map(|n| {
                let connection = connection.clone();
                tokio::task::spawn_local(async move {
                    connection.call(request(Op::Lookup), number(n), Bytes::new()).await
                })
            })
            .collect();
        until(|| server.echo.handled.get() == most).await;
        // All have been sent and received; whatever ran would have run by now.
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert_eq!(server.echo.handled.get(), most);
        for done in 1..=calls.len() {
            until(|| !server.echo.gates.borrow().is_empty()).await;
            let gate = server.echo.gates.borrow_mut().pop().expect("a gate");
            gate.send(()).expect("it waits");
            let expected = (most + done).min(calls.len());
            until(|| server.echo.handled.get() == expected).await;
        }
        for (n, call) in calls.into_iter().enumerate() {
            assert_eq!(call.await.expect("no panic").expect("answered").meta, number(n as u64));
        }
    });
}

#[test]
fn calls_end_when_the_connection_does() {
    over_all(|address| async move {
        let server = Server::start(0, &address, &Secret::random());
        let connection = server.connect(&env()).await.expect("connected");
        let waiting = {
            let connection = connection.clone();
            tokio::task::spawn_local(async move {
                connection.call(request(Op::Lookup), number(1), Bytes::new()).await
            })
        };
        until(|| server.echo.gates.borrow().len() == 1).await;
        let echo = server.echo.clone();
        server.kill().await;
        assert!(matches!(waiting.await.expect("no panic"), Err(NetError::Closed)));
        until(|| connection.is_closed()).await;
        assert!(matches!(
            connection.call(request(Op::Ping), Bytes::new(), Bytes::new()).await,
            Err(NetError::Closed)
        ));
        // The request itself goes on to its end.
        echo.gates.take().into_iter().for_each(|gate| gate.send(()).expect("it still runs"));
    });
}

#[test]
fn who_answers_unasked_is_cut_off() {
    over_all(|address| async move {
        let server = Server::start(0, &address, &Secret::random());
        let connection = server.connect(&env()).await.expect("connected");
        let mut header = request(Op::Ping);
        header.flags = Flags::REPLY;
        assert!(matches!(connection.call(header, Bytes::new(), Bytes::new()).await, Err(NetError::Closed)));
        assert_eq!(server.echo.handled.get(), 0);
        server.connect(&env()).await.expect("the server still serves");
    });
}

/// Goal: an exhausted pool slows the client down and nobody else. Method: the test holds the server's buffers.
#[test]
fn an_exhausted_pool_holds_up_only_who_needs_it() {
    over_all(|address| async move {
        let server = Server::start(0, &address, &Secret::random());
        let (first, second) = (
            server.connect(&env()).await.expect("connected"),
            server.connect(&env()).await.expect("connected"),
        );
        let held: Vec<_> = std::iter::from_fn(|| server.env.pool.try_get(16 << 20)).collect();
        let mut waiting = pin!(first.call(request(Op::Ping), Bytes::new(), Bytes::from(vec![5; 1 << 20])));
        let waker = Waker::noop();
        assert!(waiting.as_mut().poll(&mut Context::from_waker(waker)).is_pending());
        until(|| server.env.pool.stats().waits == 1).await;
        let small = second.call(request(Op::Ping), number(1), Bytes::from_static(&[7; 1000])).await;
        assert_eq!(small.expect("answered").bulk.len(), 1000);
        assert!(waiting.as_mut().poll(&mut Context::from_waker(waker)).is_pending());
        drop(held);
        assert_eq!(waiting.await.expect("answered").bulk, vec![5; 1 << 20]);
    });
}
