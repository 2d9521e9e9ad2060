//! Goal: a client that is killed at any point of a request leaves nothing behind at its server: no memory, no buffer, no descriptor, no mapping.
//! Method: a thousand processes (this program again, as a client) that send requests of all sizes over shared memory, each killed after a random
//! time; then the server's figures are what they were.

mod support;

use bytes::Bytes;
use fs_net::{
    Acceptor, Address, Connection, NetCounters, NetEnv, Secret, ServerIdentity, Sharing, serve_connection,
};
use fs_proto::{Op, ServerId};
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};
use support::{Echo, JOB, LONG, client, request, run, server_env, share_stats};
use tokio::task::LocalSet;

const KILLED: usize = 1_000;
/// Clients alive at once.
const AT_ONCE: usize = 8;
const SOCKET: &str = "HAYATE_TEST_KILLED_SOCKET";
const SECRET: &str = "HAYATE_TEST_KILLED_SECRET";
/// What a client says when its session has begun.
const CONNECTED: &str = "connected";

/// Not a test of its own: what a client process does until it is killed.
#[test]
fn a_client_that_asks_for_ever() {
    let (Ok(socket), Ok(secret)) = (std::env::var(SOCKET), std::env::var(SECRET)) else { return };
    let raw = hex::decode(secret).expect("hexadecimal");
    let secret = Secret::from_raw(raw.try_into().expect("as long as secrets are"));
    LocalSet::new().block_on(&runtime(), async {
        let env = Rc::new(NetEnv { sharing: Sharing::Insist, ..NetEnv::new(64 << 20) });
        let address = Address::Unix(socket.into());
        let connection =
            Connection::connect(&address, &client(&secret), &env, LONG).await.expect("connected");
        println!("\n{CONNECTED}");
        let lanes: Vec<_> =
            (0..6).map(|lane| tokio::task::spawn_local(ask(connection.clone(), lane))).collect();
        for lane in lanes {
            lane.await.expect("it does not end");
        }
    });
}

async fn ask(connection: Connection, lane: usize) {
    const SIZES: [usize; 6] = [0, 100, 20_000, 300_000, 1 << 20, 5 << 20];
    // In place, copied, and answered later: the ways through the server.
    const OPS: [Op; 3] = [Op::WriteChunk, Op::PutMany, Op::Getattr];
    for round in 0.. {
        let len = SIZES[(lane + round) % SIZES.len()];
        let bulk = match connection.buffer(len) {
            Some(buffer) => buffer.freeze(),
            None => Bytes::from(vec![1; len]),
        };
        let answer = connection.call(request(OPS[round % OPS.len()]), Bytes::new(), bulk).await;
        drop(answer.expect("the server lives"));
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

fn spawn(socket: &std::path::Path, secret: &Secret) -> Child {
    Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", "a_client_that_asks_for_ever", "--nocapture"])
        .env(SOCKET, socket)
        .env(SECRET, secret.to_hex())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("a client starts")
}

/// Spawns and kills on a thread of its own; ends when all are dead.
fn slaughter(socket: &std::path::Path, secret: &Secret) {
    let mut alive = std::collections::VecDeque::new();
    let mut random = 0x9E37_79B9_7F4A_7C15_u64;
    for _ in 0..KILLED {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let mut child = spawn(socket, secret);
        // Most are killed while they ask, some while they begin.
        let life = if random >> 62 == 0 {
            Duration::from_micros(random >> 33 & 0x3FFF)
        } else {
            let said = BufReader::new(child.stdout.take().expect("it is piped")).lines();
            assert!(said.map_while(Result::ok).any(|line| line == CONNECTED), "a client does not connect");
            Duration::from_micros(random >> 33 & 0xFFF)
        };
        alive.push_back((child, Instant::now() + life));
        while alive.len() >= AT_ONCE {
            kill_first(&mut alive);
        }
    }
    while !alive.is_empty() {
        kill_first(&mut alive);
    }
}

fn kill_first(alive: &mut std::collections::VecDeque<(Child, Instant)>) {
    let Some((mut child, end)) = alive.pop_front() else { return };
    // Its life is what the test chose.
    std::thread::sleep(end.saturating_duration_since(Instant::now()));
    child.kill().expect("it lives until it is killed");
    child.wait().expect("it is ours");
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").expect("proc").count()
}

fn mappings() -> usize {
    let maps = std::fs::read_to_string("/proc/self/maps").expect("proc");
    maps.lines().filter(|line| line.contains("memfd:hayate")).count()
}

#[test]
fn a_thousand_killed_clients_leave_nothing() {
    if std::env::var_os(SOCKET).is_some() {
        return;
    }
    let dir = tempfile::TempDir::new().expect("a directory");
    let (socket, secret) = (dir.path().join("s.sock"), Secret::random());
    run(async {
        let acceptor = Acceptor::bind(&Address::Unix(socket.clone())).expect("bound");
        let (env, echo) = (server_env(), Rc::new(Echo::default()));
        let epoch = Arc::new(AtomicU64::new(1));
        let me = ServerIdentity { id: ServerId(0), job: JOB.into(), secret: secret.clone(), epoch };
        let serve = {
            let (env, echo) = (env.clone(), echo.clone());
            move |socket| {
                tokio::task::spawn_local(serve_connection(socket, echo.clone(), me.clone(), env.clone()));
            }
        };
        tokio::task::spawn_local(acceptor.run(serve, std::future::pending()));
        tokio::task::yield_now().await;
        let before = descriptors();
        let killer = std::thread::spawn(move || slaughter(&socket, &secret));
        let mut most = share_stats(&env);
        while !killer.is_finished() {
            tokio::time::sleep(Duration::from_millis(1)).await;
            most.sessions = most.sessions.max(share_stats(&env).sessions);
        }
        killer.join().expect("no panic");
        let deadline = Instant::now() + LONG;
        let is_clean = || {
            let stats = share_stats(&env);
            let is_open = descriptors() != before;
            (stats.used, stats.sessions, env.pool.stats().used, NetCounters::read(&env.counters.connections))
                == (0, 0, 0, 0)
                && !is_open
        };
        while !is_clean() && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert_eq!((share_stats(&env).used, share_stats(&env).sessions), (0, 0));
        assert_eq!((env.pool.stats().used, NetCounters::read(&env.counters.connections)), (0, 0));
        assert_eq!((descriptors(), mappings()), (before, 0));
        // And they had been at work.
        let (handled, copied) = (echo.handled.get(), env.pool.stats().peak);
        assert!(handled > KILLED && copied > 0 && most.sessions > 1, "{handled} requests, {most:?}");
        println!("{KILLED} killed, {handled} requests, at most {} sessions at once", most.sessions);
    });
}
