//! A server in the test's own thread, with a handler whose answers the test controls.
#![allow(dead_code)] // every test file uses a part of it

#[path = "../../../../tests/src/skip.rs"]
mod skip;

use bytes::{Bytes, BytesMut};
use fs_net::{
    Acceptor, Address, Connection, Frame, Handled, Handler, Identity, NetEnv, NetError, PeerInfo, Rdma,
    RdmaChoice, RdmaStats, Reply, Secret, ServerIdentity, ShareBudget, ShareStats, Sharing,
    close_idle_connections, serve_connection,
};
use fs_proto::msg::session::{Challenge, Hello, Prove, Role, Welcome};
use fs_proto::{ClientId, Header, Op, Partition, ServerId, Wire};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use std::cell::{Cell, RefCell};
use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, LocalSet, yield_now};

/// More than any test needs: what takes longer hangs.
pub const LONG: Duration = Duration::from_secs(20);
pub const JOB: &str = "job 1";

/// Answers `Ping` at once with what it was sent; `Lookup` when the test opens its gate; `Open` by panicking while it is awaited;
/// `Release` with more than a message may hold; `Getattr` by a future that is ready at once; `Setattr` when the test lets go of its whole thread.
#[derive(Default)]
pub struct Echo {
    pub gates: RefCell<Vec<oneshot::Sender<()>>>,
    pub peers: RefCell<Vec<Rc<PeerInfo>>>,
    pub handled: Cell<usize>,
    pub hold: RefCell<Option<std::sync::mpsc::Receiver<()>>>,
}

impl Handler for Echo {
    fn handle(self: Rc<Self>, peer: &Rc<PeerInfo>, request: Frame) -> Handled {
        self.handled.set(self.handled.get() + 1);
        let Frame { header, meta, bulk } = request;
        match header.op {
            Op::Lookup => {
                let (gate, opened) = oneshot::channel();
                self.gates.borrow_mut().push(gate);
                Handled::Later(Box::pin(async move {
                    opened.await.expect("the test opens every gate");
                    Reply::ok(&header, meta, bulk)
                }))
            }
            Op::Open => Handled::Later(Box::pin(async move {
                yield_now().await;
                panic!("on purpose: a handler fails");
            })),
            Op::Getattr => Handled::Later(Box::pin(async move { Reply::ok(&header, meta, bulk) })),
            Op::Setattr => {
                let hold = self.hold.take().expect("the test has what this waits for");
                hold.recv().expect("the test lets go");
                Handled::Now(Reply::ok(&header, meta, bulk))
            }
            Op::Release => Handled::Now(Reply::ok(&header, Bytes::new(), Bytes::from(vec![0; 17 << 20]))),
            _ => {
                if self.peers.borrow().is_empty() {
                    self.peers.borrow_mut().push(peer.clone());
                }
                Handled::Now(Reply::ok(&header, meta, bulk))
            }
        }
    }
}

pub struct Server {
    pub address: Address,
    pub env: Rc<NetEnv>,
    pub echo: Rc<Echo>,
    pub secret: Secret,
    stop: oneshot::Sender<()>,
    accepting: JoinHandle<Result<(), NetError>>,
    serving: Rc<RefCell<Vec<JoinHandle<()>>>>,
}

impl Server {
    pub fn start(id: u16, listen: &Address, secret: &Secret) -> Server {
        Server::start_in(server_env(), id, listen, secret)
    }

    pub fn start_in(env: Rc<NetEnv>, id: u16, listen: &Address, secret: &Secret) -> Server {
        let acceptor = Acceptor::bind(listen).expect("bound");
        let address = acceptor.address().clone();
        let echo = Rc::new(Echo::default());
        let me = ServerIdentity {
            id: ServerId(id),
            job: JOB.into(),
            secret: secret.clone(),
            epoch: Arc::new(AtomicU64::new(42)),
        };
        let serving: Rc<RefCell<Vec<JoinHandle<()>>>> = Rc::default();
        let deliver = {
            let (env, echo, serving) = (env.clone(), echo.clone(), serving.clone());
            move |socket| {
                let task = serve_connection(socket, echo.clone(), me.clone(), env.clone());
                serving.borrow_mut().push(tokio::task::spawn_local(task));
            }
        };
        let (stop, stopped) = oneshot::channel();
        let room = env.connections.clone();
        let accepting = tokio::task::spawn_local(async move {
            let pressed = || {
                close_idle_connections(1);
            };
            acceptor.run_within(&room, pressed, deliver, async { stopped.await.unwrap_or(()) }).await
        });
        Server { address, env, echo, secret: secret.clone(), stop, accepting, serving }
    }

    /// As when the process is killed.
    pub async fn kill(self) {
        self.stop.send(()).expect("it accepts");
        self.accepting.await.expect("no panic").expect("no error");
        for task in self.serving.take() {
            task.abort();
            // Its being cancelled is what was asked for.
            drop(task.await);
        }
    }

    pub async fn connect(&self, env: &Rc<NetEnv>) -> Result<Connection, NetError> {
        let connection = Connection::connect(&self.address, &client(&self.secret), env, LONG).await?;
        check_way(&connection);
        Ok(connection)
    }
}

pub fn client(secret: &Secret) -> Identity {
    Identity { role: Role::Client { id: ClientId(77) }, job: JOB.into(), secret: secret.clone() }
}

thread_local! {
    /// Whether clients of this test ask for shared memory.
    static SHARED: Cell<bool> = const { Cell::new(false) };
    /// Whether servers and clients of this test have RDMA.
    static RDMA: Cell<bool> = const { Cell::new(false) };
    /// The RDMA of its servers and clients.
    static MADE: RefCell<Vec<Arc<Rdma>>> = const { RefCell::new(Vec::new()) };
    /// Whether all its clients are refused, so that none gets as far as to use it.
    static REFUSED: Cell<bool> = const { Cell::new(false) };
}

/// Address of an RDMA device of this node. Without it no test tries RDMA: `tests/e2e/rdma.sh` sets it, in a guest.
const RDMA_ADDRESS: &str = "HAYATE_TEST_RDMA";

pub fn with_rdma(mut env: NetEnv) -> Rc<NetEnv> {
    if RDMA.get() {
        env.rdma = Arc::new(Rdma::new(RdmaChoice::Auto, env.pool.stats().size, 1));
        env.rdma.open().expect("a device");
        MADE.with_borrow_mut(|made| made.push(env.rdma.clone()));
    }
    Rc::new(env)
}

/// A client's; with shared memory, and never without, where [`over_all`] tries that.
pub fn env() -> Rc<NetEnv> {
    let sharing = if SHARED.get() { Sharing::Insist } else { Sharing::Never };
    with_rdma(NetEnv { sharing, ..NetEnv::new(256 << 20) })
}

pub fn server_env() -> Rc<NetEnv> {
    with_rdma(NetEnv { sharing: Sharing::Grant(ShareBudget::new(256 << 20)), ..NetEnv::new(256 << 20) })
}

/// Figures of the memory that a server shares.
pub fn share_stats(env: &NetEnv) -> ShareStats {
    match &env.sharing {
        Sharing::Grant(budget) => budget.stats(),
        _ => ShareStats::default(),
    }
}

pub fn request(op: Op) -> Header {
    Header::request(op, Partition(5))
}

/// Lets the other tasks run until `done`; a test that never gets there fails by its time limit.
pub async fn until(mut done: impl FnMut() -> bool) {
    while !done() {
        yield_now().await;
    }
}

/// Runs a test on a runtime as servers and clients have it, with a time limit.
pub fn run(test: impl Future<Output = ()>) {
    run_within(LONG * 3, test);
}

/// The same for what takes longer.
pub fn run_within(limit: Duration, test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    LocalSet::new().block_on(&runtime, async {
        tokio::time::timeout(limit, test).await.expect("the test hangs");
    });
}

/// Whether this runs in a guest where all is emulated: tests do less of what only takes time.
pub fn is_emulated() -> bool {
    std::env::var_os(RDMA_ADDRESS).is_some()
}

/// Whether the guest's device is one of iWARP.
pub fn is_iwarp() -> bool {
    let devices = std::fs::read_dir("/sys/class/infiniband").into_iter().flatten().flatten();
    let mut kinds = devices.flat_map(|device| std::fs::read_to_string(device.path().join("node_type")));
    kinds.any(|kind| kind.contains("RNIC"))
}

/// Runs a test over every kind of address. In the guest that has a device only over RDMA: the others are tried where it is faster.
pub fn over_all<F: Future<Output = ()>>(test: impl Fn(Address) -> F) {
    if is_emulated() {
        return over_rdma(&test);
    }
    over_each_socket(&test);
    over_shared_memory(&test);
}

/// Says of the test that runs that its clients are refused before they can use RDMA.
pub fn all_are_refused() {
    REFUSED.set(true);
}

/// Fails if a connection is over RDMA and should not be, or should be and is not.
pub fn check_way(connection: &Connection) {
    assert_eq!(connection.is_rdma(), RDMA.get(), "by another way than the test is about");
}

/// Runs a test over the kinds of socket.
pub fn over_each_socket<F: Future<Output = ()>>(test: impl Fn(Address) -> F) {
    let dir = TempDir::new().expect("a directory");
    run(test(Address::Unix(dir.path().join("s.sock"))));
    run(test(Address::Tcp("127.0.0.1:0".into())));
}

/// Runs a test over RDMA, where the environment names a device's address. Fails if TCP had to do for anybody.
pub fn over_rdma<F: Future<Output = ()>>(test: impl Fn(Address) -> F) {
    let stats = over_rdma_within(LONG * 3, test);
    assert!(stats.iter().all(|one| one.fallbacks == 0), "TCP had to do: {stats:?}");
}

/// The same for what takes longer, and where peers may die while they connect. Fails if nothing came over RDMA. The figures of all that had it.
pub fn over_rdma_within<F: Future<Output = ()>>(
    limit: Duration,
    test: impl Fn(Address) -> F,
) -> Vec<RdmaStats> {
    let Ok(address) = std::env::var(RDMA_ADDRESS) else {
        skip::note("no RDMA device, but in the guests of tests/e2e/rdma.sh");
        return Vec::new();
    };
    // The harness may run all tests on one thread, and one before may have failed.
    drop((MADE.take(), REFUSED.take()));
    RDMA.set(true);
    run_within(limit, test(Address::Tcp(format!("{address}:0"))));
    RDMA.set(false);
    let stats: Vec<_> = MADE.take().iter().map(|rdma| rdma.stats()).collect();
    let is_used = stats.iter().any(|one| one.messages_received > 0);
    assert!(is_used || REFUSED.get(), "nothing came over RDMA: {stats:?}");
    stats
}

/// A process of its own that a test over RDMA has started does as that does.
pub fn with_rdma_as_parent() {
    RDMA.set(true);
}

/// Runs a test over shared memory.
pub fn over_shared_memory<F: Future<Output = ()>>(test: impl Fn(Address) -> F) {
    let dir = TempDir::new().expect("a directory");
    SHARED.set(true);
    run(test(Address::Unix(dir.path().join("s.sock"))));
    SHARED.set(false);
}

pub trait Stream: AsyncRead + AsyncWrite + Unpin {}
impl<S: AsyncRead + AsyncWrite + Unpin> Stream for S {}

/// A stream without anything of ours on it.
pub async fn raw(address: &Address) -> Box<dyn Stream> {
    match address {
        Address::Tcp(host_port) => Box::new(TcpStream::connect(host_port).await.expect("connected")),
        Address::Unix(path) => Box::new(UnixStream::connect(path).await.expect("connected")),
    }
}

async fn told<R: Wire>(stream: &mut Box<dyn Stream>, header: Header, meta: Bytes) -> R {
    let mut header = header;
    header.meta_bytes = meta.len() as u32;
    stream.write_all(&[&header.encode()[..], &meta[..]].concat()).await.expect("sent");
    let mut raw = [0; 64];
    stream.read_exact(&mut raw).await.expect("an answer");
    let answer = Header::decode(&raw).expect("a header");
    let mut body = vec![0; answer.body_bytes()];
    stream.read_exact(&mut body).await.expect("a body");
    R::from_bytes(body.into()).expect("what was asked for")
}

/// A stream whose handshake was done by hand, so that the test can send what no client would.
pub async fn admitted(server: &Server) -> Box<dyn Stream> {
    let mut stream = raw(&server.address).await;
    let role = Role::Client { id: ClientId(5) };
    let nonce = Bytes::from(vec![9; 32]);
    let hello = Hello { role: role.clone(), job: JOB.into(), nonce: nonce.clone() };
    let challenge: Challenge = told(&mut stream, request(Op::Hello), hello.to_bytes()).await;
    let secret = hex::decode(server.secret.to_hex()).expect("hexadecimal");
    let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(&secret).expect("any length");
    mac.update(b"hayate client");
    let mut text = BytesMut::new();
    nonce.put(&mut text);
    challenge.nonce.put(&mut text);
    JOB.to_owned().put(&mut text);
    challenge.server.put(&mut text);
    role.put(&mut text);
    mac.update(&text);
    let proof = Bytes::copy_from_slice(&mac.finalize().into_bytes());
    let _: Welcome = told(&mut stream, request(Op::Prove), Prove { proof }.to_bytes()).await;
    stream
}
