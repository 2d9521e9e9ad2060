//! A small cluster in memory: several "servers" over Unix sockets that share one world, note every request, and fail on demand.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use fs_client::{Client, ClientConfig};
use fs_net::{
    Acceptor, Address, ClusterFile, Frame, Handled, Handler, MemberEntry, NetEnv, PeerInfo, Reply, Secret,
    ServerIdentity, host_name, serve_connection,
};
use fs_proto::{Flags, Header, Op, PartitionMap, ServerId, Status};
use parking_lot::{Condvar, Mutex};
use tokio::sync::oneshot;
use tokio::task::{AbortHandle, LocalSet};

use crate::world::World;

/// A request as a server received it.
#[derive(Debug, Clone)]
pub struct Seen {
    pub server: ServerId,
    pub header: Header,
    pub meta: Bytes,
}

/// What a server does with a request instead of, or besides, answering it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Cuts the connection, unanswered and not executed.
    CutBefore,
    /// Executes, then cuts the connection.
    CutAfter,
    /// Answers this, not executed.
    Answer(Status),
    /// Answers with a bit of the data flipped.
    FlipBit,
    /// Executes with a bit of the request's data flipped.
    FlipSent,
    /// Never answers.
    Silence,
}

/// What the servers share with the test.
pub struct Control {
    pub world: Mutex<World>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    seen: Vec<Seen>,
    faults: Vec<(Op, Fault)>,
    /// Ends of the last mutations, by client and lane: (sequence, status, meta).
    remembered: HashMap<(u64, u64), (u64, Status, Bytes)>,
    /// Data requests not yet answered, now and at most.
    running: usize,
    most_running: usize,
}

pub struct FakeCluster {
    pub control: Arc<Control>,
    pub file: ClusterFile,
    dir: tempfile::TempDir,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl FakeCluster {
    pub fn start(servers: u16) -> FakeCluster {
        let dir = tempfile::tempdir().unwrap();
        let members = (0..servers).map(|number| member(dir.path(), number)).collect();
        let file = ClusterFile {
            name: "fake".to_owned(),
            job: "7".to_owned(),
            secret: Secret::random(),
            epoch: 1,
            tier: None,
            members,
            events: vec![],
        };
        let world = Mutex::new(World::new(file.map().unwrap()));
        let control = Arc::new(Control { world, state: Mutex::default(), changed: Condvar::new() });
        let (stop, stopped) = oneshot::channel();
        let (ready, listening) = std::sync::mpsc::channel();
        let (its_file, its_control) = (file.clone(), control.clone());
        let thread = std::thread::spawn(move || serve(&its_file, &its_control, &ready, stopped));
        listening.recv().unwrap();
        FakeCluster { control, file, dir, stop: Some(stop), thread: Some(thread) }
    }

    pub fn config(&self) -> ClientConfig {
        ClientConfig { timeout: Duration::from_secs(10), ..ClientConfig::new(self.file.clone()) }
    }

    /// A client with default settings, and no requests noted so far.
    pub fn client(&self) -> Client {
        self.client_with(|_| ())
    }

    pub fn client_with(&self, edit: impl FnOnce(&mut ClientConfig)) -> Client {
        let mut config = self.config();
        edit(&mut config);
        let client = Client::connect(config).unwrap();
        self.control.take_seen();
        client
    }

    pub fn map(&self) -> PartitionMap {
        self.file.map().unwrap()
    }

    pub fn dir(&self) -> &std::path::Path {
        self.dir.path()
    }
}

impl Drop for FakeCluster {
    fn drop(&mut self) {
        drop(self.stop.take());
        let ended = self.thread.take().map(JoinHandle::join);
        if !std::thread::panicking() {
            ended.unwrap().unwrap();
        }
    }
}

impl Control {
    /// The requests noted since the last time.
    pub fn take_seen(&self) -> Vec<Seen> {
        std::mem::take(&mut self.state.lock().seen)
    }

    /// The operations of the requests noted since the last time.
    pub fn take_ops(&self) -> Vec<Op> {
        self.take_seen().iter().map(|seen| seen.header.op).collect()
    }

    /// The next requests of `op` meet these, one each.
    pub fn fail(&self, op: Op, faults: &[Fault]) {
        self.state.lock().faults.extend(faults.iter().map(|fault| (op, *fault)));
    }

    /// Waits until a request of `op` is noted.
    pub fn wait_for(&self, op: Op) -> Seen {
        let deadline = Instant::now() + Duration::from_secs(20);
        let mut state = self.state.lock();
        loop {
            if let Some(seen) = state.seen.iter().find(|seen| seen.header.op == op) {
                return seen.clone();
            }
            let waited = self.changed.wait_until(&mut state, deadline);
            assert!(!waited.timed_out(), "no {op:?} came; there were {:?}", state.seen);
        }
    }

    pub fn most_running(&self) -> usize {
        self.state.lock().most_running
    }
}

fn member(dir: &std::path::Path, number: u16) -> MemberEntry {
    MemberEntry {
        id: ServerId(number),
        host: host_name(),
        tcp: "192.0.2.1:9".to_owned(), // A documentation address: nobody must go there.
        unix: dir.join(format!("{number}.sock")),
        stores: vec![],
        weight: 1,
        metrics: None,
        pid: std::process::id(),
    }
}

fn serve(
    file: &ClusterFile,
    control: &Arc<Control>,
    ready: &std::sync::mpsc::Sender<()>,
    stopped: oneshot::Receiver<()>,
) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let tasks = LocalSet::new();
    tasks.block_on(&runtime, async move {
        for member in &file.members {
            let acceptor = Acceptor::bind(&Address::Unix(member.unix.clone())).unwrap();
            let server = Rc::new(FakeServer {
                id: member.id,
                control: control.clone(),
                connections: RefCell::default(),
            });
            let identity = ServerIdentity {
                id: member.id,
                job: file.job.clone(),
                secret: file.secret.clone(),
                epoch: Arc::new(AtomicU64::new(1)),
            };
            let env = Rc::new(NetEnv::new(256 << 20));
            tokio::task::spawn_local(acceptor.run(
                move |socket| {
                    let serving = serve_connection(socket, server.clone(), identity.clone(), env.clone());
                    server.connections.borrow_mut().push(tokio::task::spawn_local(serving).abort_handle());
                },
                std::future::pending(),
            ));
        }
        ready.send(()).unwrap();
        // An error is the sender's drop, which is how the test says stop.
        assert!(stopped.await.is_err());
    });
}

struct FakeServer {
    id: ServerId,
    control: Arc<Control>,
    connections: RefCell<Vec<AbortHandle>>,
}

impl FakeServer {
    fn cut(&self) -> Handled {
        self.connections.borrow_mut().drain(..).for_each(|connection| connection.abort());
        Handled::Later(Box::pin(std::future::pending()))
    }

    fn note(&self, request: &Frame) -> Option<Fault> {
        let mut state = self.control.state.lock();
        let header = request.header;
        state.seen.push(Seen { server: self.id, header, meta: request.meta.clone() });
        self.control.changed.notify_all();
        let at = state.faults.iter().position(|(op, _)| *op == header.op)?;
        Some(state.faults.remove(at).1)
    }

    /// Executes, or answers what a mutation with this identity came to the first time.
    fn execute(&self, request: &Frame) -> Reply {
        let header = request.header;
        let lane = (header.client.0, header.sequence >> 48);
        if header.flags.has(Flags::RETRY) && header.op.is_mutation() {
            let state = self.control.state.lock();
            if let Some((sequence, status, meta)) = state.remembered.get(&lane)
                && *sequence == header.sequence
            {
                return reply(&header, *status, meta.clone(), Bytes::new());
            }
        }
        let (status, meta, bulk) = self.control.world.lock().execute(self.id, request);
        if header.op.is_mutation() && status != Status::WideDirectory {
            let end = (header.sequence, status, meta.clone());
            self.control.state.lock().remembered.insert(lane, end);
        }
        reply(&header, status, meta, bulk)
    }
}

fn reply(request: &Header, status: Status, meta: Bytes, bulk: Bytes) -> Reply {
    Reply { header: request.reply(status, meta.len() as u32, bulk.len() as u32), meta, bulk }
}

impl Handler for FakeServer {
    fn handle(self: Rc<Self>, _peer: &Rc<PeerInfo>, request: Frame) -> Handled {
        match self.note(&request) {
            Some(Fault::CutBefore) => return self.cut(),
            Some(Fault::CutAfter) => {
                self.execute(&request);
                return self.cut();
            }
            Some(Fault::Answer(status)) => {
                return Handled::Now(Reply::error(&request.header, status, "as the test wants"));
            }
            Some(Fault::Silence) => return Handled::Later(Box::pin(std::future::pending())),
            Some(Fault::FlipBit) => {
                let mut reply = self.execute(&request);
                let mut bulk = reply.bulk.to_vec();
                bulk[0] ^= 1;
                reply.bulk = bulk.into();
                return Handled::Now(reply);
            }
            Some(Fault::FlipSent) => {
                let mut bulk = request.bulk.to_vec();
                bulk[0] ^= 1;
                self.control.world.lock().flips = true;
                return Handled::Now(self.execute(&Frame { bulk: bulk.into(), ..request }));
            }
            None => {}
        }
        if !matches!(request.header.op, Op::WriteChunk | Op::ReadChunk) {
            return Handled::Now(self.execute(&request));
        }
        // Data takes a while, so that what is under way at once can be counted.
        let started = Running::start(self.control.clone());
        Handled::Later(Box::pin(async move {
            for _ in 0..20 {
                tokio::task::yield_now().await;
            }
            let reply = self.execute(&request);
            drop(started);
            reply
        }))
    }
}

struct Running(Arc<Control>);

impl Running {
    fn start(control: Arc<Control>) -> Running {
        {
            let mut state = control.state.lock();
            state.running += 1;
            state.most_running = state.most_running.max(state.running);
        }
        Running(control)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.state.lock().running -= 1;
    }
}
