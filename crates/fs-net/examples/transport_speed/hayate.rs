//! The ways of Hayate: its connections, its answering side.

use crate::process::Server;
use crate::{Figure, Load, MIB, Way};
use bytes::Bytes;
use fs_net::{
    Acceptor, Address, Connection, Frame, Handled, Handler, Identity, NetCounters, NetEnv, PeerInfo, Reply,
    SPIN_DEFAULT, Secret, ServerIdentity, ShareBudget, Sharing, serve_connection,
};
use fs_proto::checksum::crc;
use fs_proto::msg::session::Role;
use fs_proto::{ClientId, Header, Op, Partition, ServerId};
use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};
use tokio::runtime::{Builder, Runtime};
use tokio::task::LocalSet;

const SECRET: [u8; 32] = [7; 32];

struct Answer {
    data: Vec<u8>,
    env: Rc<NetEnv>,
}

impl Handler for Answer {
    fn handle(self: Rc<Self>, peer: &Rc<PeerInfo>, request: Frame) -> Handled {
        let (meta, bulk) = match request.header.op {
            Op::WriteChunk => (Bytes::copy_from_slice(&crc(&request.bulk).to_le_bytes()), Bytes::new()),
            Op::ReadChunk => {
                let shared = peer.lending.buffer(MIB);
                let mut buffer = shared.or_else(|| self.env.pool.try_get(MIB)).expect("room");
                buffer.copy_from_slice(&self.data);
                (Bytes::new(), buffer.freeze())
            }
            _ => (Bytes::new(), Bytes::new()),
        };
        Handled::Now(Reply::ok(&request.header, meta, bulk))
    }
}

fn spin(way: &str) -> Duration {
    if way == "ShmNoSpin" { Duration::ZERO } else { SPIN_DEFAULT }
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().expect("a runtime")
}

/// The server process: serves one address until it is killed.
pub fn serve(dir: &Path, way: &str) {
    let listen =
        if way == "Tcp" { Address::Tcp("127.0.0.1:0".into()) } else { Address::Unix(dir.join("s.sock")) };
    LocalSet::new().block_on(&runtime(), async {
        let acceptor = Acceptor::bind(&listen).expect("bound");
        println!("{}", acceptor.address());
        let sharing = Sharing::Grant(ShareBudget::new(512 << 20));
        let env = Rc::new(NetEnv { sharing, spin: spin(way), ..NetEnv::new(256 * MIB) });
        let handler = Rc::new(Answer { data: vec![3; MIB], env: env.clone() });
        let epoch = Arc::new(AtomicU64::new(1));
        let me =
            ServerIdentity { id: ServerId(0), job: "bench".into(), secret: Secret::from_raw(SECRET), epoch };
        let deliver = |socket| {
            tokio::task::spawn_local(serve_connection(socket, handler.clone(), me.clone(), env.clone()));
        };
        acceptor.run(deliver, std::future::pending()).await.expect("accepting works");
    });
}

/// One exchange, with the copies that a client makes.
async fn exchange(connection: &Connection, env: &NetEnv, load: Load, own: &RefCell<Vec<u8>>) {
    let header = |op| Header::request(op, Partition(0));
    match load {
        Load::Small => {
            drop(connection.call(header(Op::Ping), Bytes::new(), Bytes::new()).await.expect("an answer"));
        }
        Load::Write => {
            let mut buffer = connection.buffer(MIB).or_else(|| env.pool.try_get(MIB)).expect("room");
            buffer.copy_from_slice(&own.borrow());
            drop(
                connection
                    .call(header(Op::WriteChunk), Bytes::new(), buffer.freeze())
                    .await
                    .expect("an answer"),
            );
        }
        Load::Read => {
            let answer =
                connection.call(header(Op::ReadChunk), Bytes::new(), Bytes::new()).await.expect("an answer");
            own.borrow_mut().copy_from_slice(&answer.bulk);
        }
    }
}

pub fn measure(dir: &Path, way: Way, load: Load, depth: usize, time: Duration) -> Figure {
    let (server, listens) = Server::start(&["serve", dir.to_str().expect("text"), &format!("{way:?}")]);
    let address: Address = listens.parse().expect("an address");
    LocalSet::new().block_on(&runtime(), async {
        let sharing = if matches!(way, Way::Shm | Way::ShmNoSpin) { Sharing::Insist } else { Sharing::Never };
        let spin = spin(&format!("{way:?}"));
        let env = Rc::new(NetEnv { sharing, spin, ..NetEnv::new(256 * MIB) });
        let who = Identity {
            role: Role::Client { id: ClientId(1) },
            job: "bench".into(),
            secret: Secret::from_raw(SECRET),
        };
        let connection =
            Connection::connect(&address, &who, &env, Duration::from_secs(5)).await.expect("connected");
        let own = Rc::new(RefCell::new(vec![1; MIB]));
        run(&connection, &env, load, depth, time / 5, &own).await;
        let calls = |env: &NetEnv| {
            NetCounters::read(&env.counters.read_calls) + NetCounters::read(&env.counters.write_calls)
        };
        let (begun, cpu, before) = (Instant::now(), server.cpu_us(), calls(&env));
        let mut latencies = run(&connection, &env, load, depth, time, &own).await;
        let (elapsed, cpu) = (begun.elapsed(), server.cpu_us() - cpu);
        latencies.sort_unstable();
        let n = latencies.len() as f64;
        Figure {
            per_second: n / elapsed.as_secs_f64(),
            cpu_us: cpu / n,
            calls: (calls(&env) - before) as f64 / n,
            p50_us: latencies[latencies.len() / 2] as f64 / 1e3,
        }
    })
}

/// Latencies in nanoseconds.
async fn run(
    connection: &Connection,
    env: &Rc<NetEnv>,
    load: Load,
    depth: usize,
    time: Duration,
    own: &Rc<RefCell<Vec<u8>>>,
) -> Vec<u64> {
    let (begun, latencies) = (Instant::now(), Rc::new(RefCell::new(Vec::new())));
    let lanes: Vec<_> = (0..depth)
        .map(|_| {
            let (connection, env, own, latencies) =
                (connection.clone(), env.clone(), own.clone(), latencies.clone());
            tokio::task::spawn_local(async move {
                let mut start = Instant::now();
                while start.duration_since(begun) < time {
                    exchange(&connection, &env, load, &own).await;
                    let end = Instant::now();
                    latencies.borrow_mut().push(end.duration_since(start).as_nanos() as u64);
                    start = end;
                }
            })
        })
        .collect();
    for lane in lanes {
        lane.await.expect("lanes end well");
    }
    latencies.take()
}
