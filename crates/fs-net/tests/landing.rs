//! Goal: a server that passes requests on to another (a gateway) does not copy their data, whichever way: what a client of its node wrote into the
//! shared memory goes from there to the wire, and what it is to read comes from the wire into the shared memory. Method: a client, a gateway
//! over shared memory, and a server that keeps data, over TCP or (in a guest that has a device) RDMA; counters of bytes copied tell.

mod support;

use bytes::Bytes;
use fs_net::{
    Acceptor, Address, BufferPool, Connection, Frame, Handled, Handler, Identity, NetCounters, NetEnv,
    PeerInfo, Peers, Reply, Secret, ServerIdentity, Sharing, serve_connection,
};
use fs_proto::msg::session::Role;
use fs_proto::{ClientId, Header, Op, ServerId, Status};
use parking_lot::RwLock;
use std::cell::{Cell, RefCell};
use std::os::unix::fs::FileExt;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use support::{JOB, LONG, client, is_emulated, over_rdma, request, run, server_env, share_stats, until};
use tempfile::TempDir;
use tokio::sync::oneshot;

/// Held by the test that writes all over the memory of a session that it finds in this process: it must not be another test's.
static SCRIBBLED: RwLock<()> = RwLock::new(());

const MIB: usize = 1 << 20;
/// Of each answer over TCP so much may come with its header, and is copied; of the first a whole read buffer.
const HEAD_BYTES: u64 = 2 << 10;
const FIRST_BYTES: u64 = 64 << 10;
/// What comes before the arenas in the memory of a session (`shm/region.rs`).
const ARENAS_AT: usize = 4096 + 2 * (64 << 10);

fn pattern(len: usize, seed: u8) -> Vec<u8> {
    (0..len).map(|i| (i / 7) as u8 ^ seed).collect()
}

/// Keeps what it is sent by `WriteChunk`, if that comes without a body, and answers `ReadChunk` with it, out of its pool; `Lookup` likewise, when
/// the test opens its gate.
struct Store {
    pool: BufferPool,
    kept: RefCell<Vec<u8>>,
    gates: RefCell<Vec<oneshot::Sender<()>>>,
}

impl Store {
    async fn content(&self) -> Bytes {
        let kept = self.kept.borrow().clone();
        let mut buffer = self.pool.get(kept.len()).await.expect("not too large");
        buffer.copy_from_slice(&kept);
        buffer.freeze()
    }
}

impl Handler for Store {
    fn handle(self: Rc<Self>, _: &Rc<PeerInfo>, request: Frame) -> Handled {
        let header = request.header;
        if header.op == Op::WriteChunk {
            if request.meta.is_empty() {
                self.kept.replace(request.bulk.to_vec());
            }
            return Handled::Now(Reply::ok(&header, Bytes::new(), Bytes::new()));
        }
        Handled::Later(Box::pin(async move {
            if header.op == Op::Lookup {
                let (gate, opened) = oneshot::channel();
                self.gates.borrow_mut().push(gate);
                opened.await.expect("the test opens every gate");
            }
            Reply::ok(&header, Bytes::new(), self.content().await)
        }))
    }
}

/// Passes everything on, as a server does with what is another's (`fs-server/src/worker.rs`).
struct Gateway {
    peers: Rc<Peers>,
    under_way: Cell<usize>,
}

impl Handler for Gateway {
    fn handle(self: Rc<Self>, peer: &Rc<PeerInfo>, request: Frame) -> Handled {
        let Frame { header, meta, bulk } = request;
        let peer = peer.clone();
        Handled::Later(Box::pin(async move {
            self.under_way.set(self.under_way.get() + 1);
            let answer = self.peers.call_into(ServerId(1), header, meta, bulk, &peer.lending).await;
            self.under_way.set(self.under_way.get() - 1);
            let answer = answer.expect("the other server lives");
            Reply {
                header: Header { tag: header.tag, ..answer.header },
                meta: answer.meta,
                bulk: answer.bulk,
            }
        }))
    }
}

/// Serves until the test's end; where that is.
fn serve(id: u16, at: &Address, secret: &Secret, env: &Rc<NetEnv>, handler: Rc<dyn Handler>) -> Address {
    let acceptor = Acceptor::bind(at).expect("bound");
    let address = acceptor.address().clone();
    let epoch = Arc::new(AtomicU64::new(1));
    let me = ServerIdentity { id: ServerId(id), job: JOB.into(), secret: secret.clone(), epoch };
    let (env, room) = (env.clone(), env.connections.clone());
    let deliver = move |accepted| {
        tokio::task::spawn_local(serve_connection(accepted, handler.clone(), me.clone(), env.clone()));
    };
    tokio::task::spawn_local(async move {
        acceptor.run_within(&room, || (), deliver, std::future::pending()).await
    });
    address
}

/// The three, each with counters of its own.
struct Chain {
    store: Rc<Store>,
    gateway: Rc<Gateway>,
    env: Rc<NetEnv>,
    store_env: Rc<NetEnv>,
    secret: Secret,
    address: Address,
    _dir: TempDir,
}

impl Chain {
    fn new(store_at: &Address) -> Chain {
        let (secret, dir) = (Secret::random(), TempDir::new().expect("a directory"));
        let (store_env, env) = (server_env(), server_env());
        let (kept, gates) = Default::default();
        let store = Rc::new(Store { pool: store_env.pool.clone(), kept, gates });
        let far = serve(1, store_at, &secret, &store_env, store.clone());
        let who =
            Identity { role: Role::Server { id: ServerId(0) }, job: JOB.into(), secret: secret.clone() };
        let peers = Peers::new(move |_| Some(far.clone()), who, env.clone());
        let gateway = Rc::new(Gateway { peers, under_way: Cell::default() });
        let at = Address::Unix(dir.path().join("s.sock"));
        let address = serve(0, &at, &secret, &env, gateway.clone());
        Chain { store, gateway, env, store_env, secret, address, _dir: dir }
    }

    async fn client(&self, id: u64) -> Connection {
        let env = Rc::new(NetEnv { sharing: Sharing::Insist, ..NetEnv::new(64 << 20) });
        let who = Identity { role: Role::Client { id: ClientId(id) }, ..client(&self.secret) };
        Connection::connect(&self.address, &who, &env, LONG).await.expect("connected")
    }

    /// Bytes that the gateway has copied.
    fn copied(&self) -> u64 {
        NetCounters::read(&self.env.counters.copied_bytes)
    }

    /// What is in use of the memory of the gateway and of the other server.
    fn in_use(&self) -> [u64; 4] {
        let shared = share_stats(&self.env);
        [shared.used, shared.sessions, self.env.pool.stats().used, self.store_env.pool.stats().used]
    }
}

async fn write(client: &Connection, data: &[u8]) {
    let mut buffer = client.buffer(data.len()).expect("room in the shared memory");
    buffer.copy_from_slice(data);
    let answer = client.call(request(Op::WriteChunk), Bytes::new(), buffer.freeze()).await;
    assert_eq!(answer.expect("answered").header.status, Status::Ok);
}

async fn read(client: &Connection) -> Bytes {
    let answer = client.call(request(Op::ReadChunk), Bytes::new(), Bytes::new()).await.expect("answered");
    assert_eq!(answer.header.status, Status::Ok);
    answer.bulk
}

fn tcp() -> Address {
    Address::Tcp("127.0.0.1:0".into())
}

/// Runs a test over each way between the servers that there is here, with what the gateway may copy at most of so many answers.
fn over_each_way<F: Future<Output = ()>>(test: impl Fn(Address, fn(u64) -> u64) -> F) {
    let _among_others = SCRIBBLED.read();
    over_each_way_here(test);
}

fn over_each_way_here<F: Future<Output = ()>>(test: impl Fn(Address, fn(u64) -> u64) -> F) {
    if is_emulated() {
        over_rdma(|address| test(address, |_| 0));
    } else {
        run(test(tcp(), |answers| FIRST_BYTES + answers * HEAD_BYTES));
    }
}

#[test]
fn a_gateway_copies_neither_what_is_written_nor_what_is_read() {
    over_each_way(|address, most| async move {
        let chain = Chain::new(&address);
        let client = chain.client(1).await;
        // The first request also opens the way to the other server.
        write(&client, &pattern(20_000, 0)).await;
        let before = chain.copied();
        let mut data = Vec::new();
        for seed in 0..8 {
            data = pattern(MIB - usize::from(seed), seed);
            write(&client, &data).await;
        }
        let between = chain.copied();
        for _ in 0..8 {
            assert!(read(&client).await == data);
        }
        let (written, back) = (between - before, chain.copied() - between);
        println!("copied by the gateway: {written} bytes of 8 MiB written, {back} of 8 MiB read");
        assert!(written == 0 && back <= most(8), "{written} bytes of 8 MiB written, {back} of 8 MiB read");
        assert_eq!(chain.env.pool.stats().peak, 0, "no data were in buffers of the gateway");
        let rdma = [&chain.env, &chain.store_env].map(|env| env.rdma.stats());
        if is_emulated() {
            assert_eq!((rdma[0].reads, rdma[1].reads), (8, 9), "each part was read by who got it");
        }
        drop(client);
        until(|| chain.in_use() == [0; 4]).await;
    });
}

/// Goal: what does not fit into the shared memory is passed on as well, and all comes right. Method: more and larger answers at once than an
/// arena holds, among smaller ones.
#[test]
fn what_has_no_room_to_land_comes_all_the_same() {
    over_each_way(|address, _| async move {
        let chain = Chain::new(&address);
        let client = chain.client(1).await;
        for len in [9 * MIB, MIB + 5, 9_000, 100, 0] {
            let data = pattern(len, len as u8);
            let bulk = Bytes::from(data.clone());
            let answer = client.call(request(Op::WriteChunk), Bytes::new(), bulk).await.expect("answered");
            assert_eq!(answer.header.status, Status::Ok);
            let calls: Vec<_> = (0..if is_emulated() { 3 } else { 6 })
                .map(|_| {
                    let client = client.clone();
                    tokio::task::spawn_local(async move { read(&client).await })
                })
                .collect();
            for call in calls {
                assert!(call.await.expect("no panic") == data, "{len}");
            }
        }
        drop(client);
        until(|| chain.in_use() == [0; 4]).await;
    });
}

/// Goal: a client may go at any time. Method: it goes while the other server still thinks, and while its answer is on its way; the
/// answer finds no memory to land in, or keeps it until it has landed, and another client of the gateway is served.
#[test]
fn a_client_that_goes_before_its_answer_leaves_nothing() {
    over_each_way(|address, _| async move {
        let chain = Chain::new(&address);
        let (other, data) = (chain.client(2).await, pattern(3 * MIB, 7));
        let bulk = Bytes::from(data.clone());
        other.call(request(Op::WriteChunk), Bytes::new(), bulk).await.expect("answered");
        for turns in 0..if is_emulated() { 10 } else { 40 } {
            let leaving = chain.client(1).await;
            let asked = leaving.clone();
            let call = tokio::task::spawn_local(async move {
                asked.call(request(Op::Lookup), Bytes::new(), Bytes::new()).await
            });
            until(|| !chain.store.gates.borrow().is_empty()).await;
            let gate = chain.store.gates.borrow_mut().remove(0);
            // First it goes before the answer, then a little later each time.
            if turns > 0 {
                gate.send(()).expect("it waits");
                for _ in 0..turns {
                    tokio::task::yield_now().await;
                }
                leaving.close();
            } else {
                leaving.close();
                until(|| share_stats(&chain.env).sessions == 1).await;
                gate.send(()).expect("it waits");
            }
            drop((call.await.expect("no panic"), leaving));
            assert!(read(&other).await == data, "{turns}");
            until(|| chain.gateway.under_way.get() == 0 && share_stats(&chain.env).sessions == 1).await;
        }
        drop(other);
        until(|| chain.in_use() == [0; 4]).await;
    });
}

/// Where the memory of a client's session is mapped in this process, first of all mappings of it.
fn newest_session(before: &[String]) -> (u64, usize) {
    let new = sessions().into_iter().find(|line| !before.contains(line)).expect("a mapping");
    let (from, to) = new.split_once(' ').expect("a range").0.split_once('-').expect("two ends");
    let [from, to] = [from, to].map(|hex| u64::from_str_radix(hex, 16).expect("hexadecimal"));
    (from, (to - from) as usize)
}

fn sessions() -> Vec<String> {
    let maps = std::fs::read_to_string("/proc/self/maps").expect("proc");
    maps.lines().filter(|line| line.contains("memfd:hayate session")).map(str::to_owned).collect()
}

/// Goal: who writes into the memory that it shares, while data go to the wire and come from there, spoils its own and nobody else's. Method: a
/// thread that never stops writing all over both arenas of one client, which writes and reads; beside it an honest client compares.
#[test]
fn who_scribbles_spoils_its_own_answers_only() {
    let _alone = SCRIBBLED.write();
    over_each_way_here(|address, _| async move {
        let chain = Chain::new(&address);
        let (honest, before) = (chain.client(1).await, sessions());
        let liar = chain.client(2).await;
        let (at, len) = newest_session(&before);
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let scribbler = std::thread::spawn(move || {
            // Through the kernel: no reference of this program is to memory that changes. What comes before the arenas stays, so that the session lives.
            let memory =
                std::fs::OpenOptions::new().write(true).open("/proc/self/mem").expect("this process");
            let mut byte = 1_u8;
            while !stopped.load(Ordering::Relaxed) {
                byte = byte.wrapping_mul(31).wrapping_add(7);
                memory
                    .write_all_at(&vec![byte; len - ARENAS_AT], at + ARENAS_AT as u64)
                    .expect("it is mapped");
            }
        });
        for round in 0..if is_emulated() { 5 } else { 20_u8 } {
            let data = pattern(MIB - usize::from(round), round);
            write(&honest, &data).await;
            let mut buffer = liar.buffer(MIB).expect("room");
            buffer.fill(9);
            let lie = liar.call(request(Op::WriteChunk), Bytes::from_static(b"lie"), buffer.freeze());
            assert_eq!(lie.await.expect("answered").header.status, Status::Ok);
            assert_eq!(read(&liar).await.len(), data.len());
            assert!(read(&honest).await == data, "{round}");
        }
        stop.store(true, Ordering::Relaxed);
        scribbler.join().expect("no panic");
        drop((liar, honest));
        until(|| chain.in_use() == [0; 4]).await;
    });
}

/// Goal: over RDMA memory of clients stays registered as long as anything of it is under way and no longer. Method: what is registered before
/// a client comes and after it has gone.
#[test]
fn memory_of_clients_is_registered_while_they_are_there() {
    let _among_others = SCRIBBLED.read();
    over_rdma(|address| async move {
        let chain = Chain::new(&address);
        let registered = || chain.env.rdma.stats().registered_bytes;
        let first = chain.client(1).await;
        write(&first, &pattern(MIB, 1)).await;
        assert!(read(&first).await == pattern(MIB, 1));
        let before = registered();
        let second = chain.client(2).await;
        assert_eq!(registered(), before, "nothing before it is used");
        write(&second, &pattern(MIB, 2)).await;
        let written = registered();
        assert!(read(&second).await == pattern(MIB, 2));
        assert!(before < written && written < registered(), "each arena when it is first used");
        drop(second);
        until(|| registered() == before).await;
        drop(first);
        until(|| chain.in_use() == [0; 4]).await;
    });
}
