//! Round trips between two threads: `cargo run --release -p fs-net --example pingpong [seconds per figure]`.
//!
//! One thread serves, one asks, each with its own runtime as in a server and a client. Prints for Unix sockets and TCP, 64-byte
//! messages (header and empty parts, header only each way) and 1 MiB answers, 1 and 16 in flight: median latency, rate, and the
//! CPU time of each thread per round trip.

use bytes::Bytes;
use fs_net::{
    Acceptor, Address, Connection, Frame, Handled, Handler, Identity, NetEnv, PeerInfo, Reply, Secret,
    ServerIdentity, serve_connection,
};
use fs_proto::msg::session::Role;
use fs_proto::{ClientId, Header, Op, Partition, ServerId};
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;
use tokio::task::LocalSet;

const MIB: usize = 1 << 20;

struct Answer {
    data: Bytes,
}

impl Handler for Answer {
    fn handle(self: Rc<Self>, _: &Rc<PeerInfo>, request: Frame) -> Handled {
        let bulk = match request.header.op {
            Op::ReadChunk => self.data.clone(),
            _ => Bytes::new(),
        };
        Handled::Now(Reply::ok(&request.header, Bytes::new(), bulk))
    }
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().expect("a runtime")
}

fn thread_cpu_us() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    time.tv_sec as f64 * 1e6 + time.tv_nsec as f64 / 1e3
}

/// Serves until `stop`; then tells the CPU time that it took.
fn serve(acceptor: Acceptor, secret: Secret, stop: oneshot::Receiver<()>, cpu: mpsc::Sender<f64>) {
    let handler = Rc::new(Answer { data: Bytes::from(vec![7; MIB]) });
    let env = Rc::new(NetEnv::new(256 * MIB));
    let me =
        ServerIdentity { id: ServerId(0), job: "bench".into(), secret, epoch: Arc::new(AtomicU64::new(1)) };
    LocalSet::new().block_on(&runtime(), async {
        let deliver = |socket| {
            tokio::task::spawn_local(serve_connection(socket, handler.clone(), me.clone(), env.clone()));
        };
        // The bench ends either way; an error shows as figures that never come.
        let stopped = async { stop.await.unwrap_or(()) };
        acceptor.run(deliver, stopped).await.expect("accepting works");
    });
    cpu.send(thread_cpu_us()).expect("the asking thread waits");
}

struct Case {
    op: Op,
    bulk: Bytes,
    in_flight: usize,
    name: &'static str,
}

struct Figures {
    latencies_ns: Vec<u64>,
    elapsed: Duration,
    cpu_us: f64,
    writes: u64,
}

async fn ask(address: &Address, secret: Secret, case: &Case, time: Duration) -> Figures {
    let env = Rc::new(NetEnv::new(256 * MIB));
    let who = Identity { role: Role::Client { id: ClientId(1) }, job: "bench".into(), secret };
    let connection =
        Connection::connect(address, &who, &env, Duration::from_secs(5)).await.expect("connected");
    let latencies = Rc::new(RefCell::new(Vec::with_capacity(1 << 20)));
    let running = Rc::new(Cell::new(case.in_flight));
    let (begin, cpu) = (Instant::now(), thread_cpu_us());
    let lanes: Vec<_> = (0..case.in_flight)
        .map(|_| {
            let (connection, latencies, running) = (connection.clone(), latencies.clone(), running.clone());
            let (op, bulk) = (case.op, case.bulk.clone());
            tokio::task::spawn_local(async move {
                while begin.elapsed() < time {
                    let start = Instant::now();
                    let header = Header::request(op, Partition(0));
                    connection.call(header, Bytes::new(), bulk.clone()).await.expect("an answer");
                    latencies.borrow_mut().push(start.elapsed().as_nanos() as u64);
                }
                running.set(running.get() - 1);
            })
        })
        .collect();
    for lane in lanes {
        lane.await.expect("lanes end well");
    }
    assert_eq!(running.get(), 0);
    let latencies_ns = latencies.take();
    let writes = env.counters.write_calls.load(std::sync::atomic::Ordering::Relaxed);
    Figures { latencies_ns, elapsed: begin.elapsed(), cpu_us: thread_cpu_us() - cpu, writes }
}

fn measure(listen: &Address, case: &Case, time: Duration) {
    let secret = Secret::random();
    let acceptor = Acceptor::bind(listen).expect("bound");
    let address = acceptor.address().clone();
    let (stop, stopped) = oneshot::channel();
    let (cpu, server_cpu) = mpsc::channel();
    let theirs = secret.clone();
    let server = std::thread::spawn(move || serve(acceptor, theirs, stopped, cpu));
    let mut figures = LocalSet::new().block_on(&runtime(), ask(&address, secret, case, time));
    stop.send(()).expect("the server runs");
    let server_cpu = server_cpu.recv().expect("the server tells");
    server.join().expect("the server ends well");
    figures.latencies_ns.sort_unstable();
    let n = figures.latencies_ns.len();
    println!(
        "{:14} {:16} {:3} in flight: p50 {:8.1} us  p99 {:8.1} us  {:9.1} k/s  CPU us/op client {:6.2} server {:6.2}  ops/write {:5.1}",
        address.to_string().split(':').next().unwrap_or_default(),
        case.name,
        case.in_flight,
        figures.latencies_ns[n / 2] as f64 / 1e3,
        figures.latencies_ns[n * 99 / 100] as f64 / 1e3,
        n as f64 / figures.elapsed.as_secs_f64() / 1e3,
        figures.cpu_us / n as f64,
        server_cpu / n as f64,
        n as f64 / figures.writes as f64,
    );
}

/// What the same runtimes do with 64 bytes and no protocol at all: the floor on this machine at this time.
fn measure_bare(time: Duration) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().expect("a pair");
    let own = |socket: std::os::unix::net::UnixStream| {
        socket.set_nonblocking(true).expect("nonblocking");
        tokio::net::UnixStream::from_std(socket).expect("registered")
    };
    let server = std::thread::spawn(move || {
        runtime().block_on(async {
            let (mut stream, mut message) = (own(theirs), [0; 64]);
            // Ends when the other side hangs up.
            while stream.read_exact(&mut message).await.is_ok() {
                stream.write_all(&message).await.expect("written");
            }
        });
        thread_cpu_us()
    });
    let mut latencies = Vec::new();
    let before = thread_cpu_us();
    runtime().block_on(async {
        let (mut stream, mut message, begin) = (own(ours), [0; 64], Instant::now());
        while begin.elapsed() < time {
            let start = Instant::now();
            stream.write_all(&message).await.expect("written");
            stream.read_exact(&mut message).await.expect("answered");
            latencies.push(start.elapsed().as_nanos() as u64);
        }
    });
    let cpu = thread_cpu_us() - before;
    let server_cpu = server.join().expect("the server ends well");
    latencies.sort_unstable();
    let n = latencies.len();
    let p50 = latencies[n / 2] as f64 / 1e3;
    println!(
        "bare tokio Unix socket, 64 B, 1 in flight: p50 {p50:.1} us  CPU us/op client {:.2} server {:.2}",
        cpu / n as f64,
        server_cpu / n as f64
    );
}

fn main() {
    let seconds: f64 = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(1.0);
    measure_bare(Duration::from_secs_f64(seconds));
    let socket = std::env::temp_dir().join(format!("hayate-pingpong-{}.sock", std::process::id()));
    for listen in [Address::Unix(socket), Address::Tcp("127.0.0.1:0".into())] {
        for in_flight in [1, 16] {
            for (name, op, bulk) in [
                ("64 B", Op::Ping, Bytes::new()),
                ("1 MiB answer", Op::ReadChunk, Bytes::new()),
                ("1 MiB request", Op::WriteChunk, Bytes::from(vec![1; MIB])),
            ] {
                measure(&listen, &Case { op, bulk, in_flight, name }, Duration::from_secs_f64(seconds));
            }
        }
    }
}
