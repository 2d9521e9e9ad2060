//! Goal: a client that is killed at any point of a request leaves nothing behind at its server: no memory, no buffer, no descriptor, no mapping.
//! Method: a thousand processes (this program again, as a client) that send requests of all sizes, each killed after a random time; then all pools of the
//! server are full again. Once over shared memory, once over sockets, Unix and TCP by turns; in a guest with a device over RDMA, fewer.

mod support;

use bytes::Bytes;
use fs_net::{
    Acceptor, Address, Connection, NetCounters, NetEnv, Secret, ServerIdentity, Sharing, serve_connection,
};
use fs_proto::{Op, ServerId};
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::rc::Rc;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use support::{
    Echo, JOB, LONG, client, is_emulated, over_rdma_within, request, run_within, server_env, share_stats,
    with_rdma, with_rdma_as_parent,
};
use tokio::task::LocalSet;

const KILLED: usize = 1_000;
/// The same where all is emulated.
const KILLED_EMULATED: usize = 12;
/// Clients alive at once.
const AT_ONCE: usize = 8;
const AT_ONCE_EMULATED: usize = 2;
const ADDRESS: &str = "HAYATE_TEST_KILLED_ADDRESS";
const WAY: &str = "HAYATE_TEST_KILLED_WAY";
const SECRET: &str = "HAYATE_TEST_KILLED_SECRET";

/// How clients reach the server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Over {
    Memory,
    Sockets,
    Rdma,
}

/// What a client says when its session has begun.
const CONNECTED: &str = "connected";

/// Not a test of its own: what a client process does until it is killed.
#[test]
fn a_client_that_asks_for_ever() {
    let (Ok(address), Ok(secret)) = (std::env::var(ADDRESS), std::env::var(SECRET)) else { return };
    let way = std::env::var(WAY).unwrap_or_default();
    let sharing = if way == "Memory" { Sharing::Insist } else { Sharing::Never };
    if way == "Rdma" {
        with_rdma_as_parent();
    }
    let raw = hex::decode(secret).expect("hexadecimal");
    let secret = Secret::from_raw(raw.try_into().expect("as long as secrets are"));
    LocalSet::new().block_on(&runtime(), async {
        let env = with_rdma(NetEnv { sharing, ..NetEnv::new(64 << 20) });
        let address = match address.strip_prefix("tcp ") {
            Some(host_port) => Address::Tcp(host_port.into()),
            None => Address::Unix(address.into()),
        };
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

fn spawn(address: &Address, secret: &Secret, over: Over) -> Child {
    let address = match address {
        Address::Tcp(host_port) => format!("tcp {host_port}"),
        Address::Unix(path) => path.to_str().expect("a path in UTF-8").to_owned(),
    };
    Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", "a_client_that_asks_for_ever", "--nocapture"])
        .env(WAY, format!("{over:?}"))
        .env(ADDRESS, address)
        .env(SECRET, secret.to_hex())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("a client starts")
}

/// Spawns and kills on a thread of its own; ends when all are dead.
fn slaughter(addresses: &[Address], secret: &Secret, over: Over, count: usize) {
    let mut alive = std::collections::VecDeque::new();
    let at_once = if over == Over::Rdma { AT_ONCE_EMULATED } else { AT_ONCE };
    let mut random = 0x9E37_79B9_7F4A_7C15_u64;
    for number in 0..count {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let mut child = spawn(&addresses[number % addresses.len()], secret, over);
        // Most are killed while they ask, some while they begin.
        let life = if random >> 62 == 0 {
            Duration::from_micros(random >> 33 & 0x3FFF)
        } else {
            let said = BufReader::new(child.stdout.take().expect("it is piped")).lines();
            assert!(said.map_while(Result::ok).any(|line| line == CONNECTED), "a client does not connect");
            Duration::from_micros(random >> 33 & 0xFFF)
        };
        alive.push_back((child, Instant::now() + life));
        while alive.len() >= at_once {
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

/// The tests look at descriptors and mappings of the process, so one at a time.
static ALONE: Mutex<()> = Mutex::new(());

#[test]
fn a_thousand_killed_clients_leave_nothing() {
    kill_a_thousand(Over::Memory);
}

#[test]
fn a_thousand_killed_clients_leave_nothing_over_sockets() {
    kill_a_thousand(Over::Sockets);
}

#[test]
fn killed_clients_leave_nothing_over_rdma() {
    if !is_child() {
        // Some die while they connect, so whether TCP had to do says nothing.
        drop(over_rdma_within(LONG * 20, |address| kill_clients(address, Over::Rdma, KILLED_EMULATED)));
    }
}

fn is_child() -> bool {
    std::env::var_os(ADDRESS).is_some()
}

/// Serves on an address until the test's end; where that is.
fn serve(at: &Address, secret: &Secret, env: &Rc<NetEnv>, echo: &Rc<Echo>) -> Address {
    let acceptor = Acceptor::bind(at).expect("bound");
    let address = acceptor.address().clone();
    let epoch = Arc::new(AtomicU64::new(1));
    let me = ServerIdentity { id: ServerId(0), job: JOB.into(), secret: secret.clone(), epoch };
    let (env, echo, room) = (env.clone(), echo.clone(), env.connections.clone());
    let deliver = move |accepted| {
        tokio::task::spawn_local(serve_connection(accepted, echo.clone(), me.clone(), env.clone()));
    };
    tokio::task::spawn_local(async move {
        acceptor.run_within(&room, || (), deliver, std::future::pending()).await
    });
    address
}

/// What is in use of the server's pools.
fn in_use(env: &NetEnv) -> [u64; 7] {
    let shared = share_stats(env);
    let counted = [env.pool.stats(), env.messages.stats(), env.connections.stats()].map(|pool| pool.used);
    [
        shared.used,
        shared.sessions,
        counted[0],
        counted[1],
        counted[2],
        NetCounters::read(&env.counters.connections),
        env.rdma.stats().connections,
    ]
}

fn kill_a_thousand(over: Over) {
    if is_child() || is_emulated() {
        return;
    }
    let _alone = ALONE.lock().expect("the other test did not panic");
    let dir = tempfile::TempDir::new().expect("a directory");
    let address = Address::Unix(dir.path().join("s.sock"));
    // A thousand processes start and end: many times the usual time on a machine with more to do.
    run_within(LONG * 20, kill_clients(address, over, KILLED));
}

async fn kill_clients(address: Address, over: Over, count: usize) {
    let secret = Secret::random();
    let (env, echo) = (server_env(), Rc::new(Echo::default()));
    let mut addresses = vec![serve(&address, &secret, &env, &echo)];
    if over == Over::Sockets {
        addresses.push(serve(&Address::Tcp("127.0.0.1:0".into()), &secret, &env, &echo));
    }
    tokio::task::yield_now().await;
    let before = descriptors();
    let killer = std::thread::spawn(move || slaughter(&addresses, &secret, over, count));
    let mut most = [0; 7];
    while !killer.is_finished() {
        tokio::time::sleep(Duration::from_millis(1)).await;
        let now = in_use(&env);
        most = std::array::from_fn(|at| most[at].max(now[at]));
    }
    killer.join().expect("no panic");
    let deadline = Instant::now() + LONG;
    while (in_use(&env) != [0; 7] || descriptors() != before) && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!((in_use(&env), descriptors(), mappings()), ([0; 7], before, 0));
    // And they had been at work.
    let (handled, copied) = (echo.handled.get(), env.pool.stats().peak);
    let opened: u64 = env.rdma.stats().ports.iter().map(|port| port.opened).sum();
    let ways = (most[1] > 1, opened as usize > count / 3);
    assert!(
        handled > count && copied > 0 && most[5] > 1 && ways == (over == Over::Memory, over == Over::Rdma),
        "{handled} requests, {opened} connections over RDMA, {most:?}"
    );
    println!("{count} killed, {handled} requests, {opened} over RDMA, at most {most:?} in use");
}
