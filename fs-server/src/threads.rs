//! The threads of a server: one that accepts and keeps house, one that flushes, and the workers.
//!
//! Every thread has a runtime of its own; connections are dealt to the workers in turn and stay there. Threads share the [`Node`]
//! and nothing else.

use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use fs_net::{
    Accepted, Acceptor, Handler, Identity, NetEnv, Peers, SPIN_DEFAULT, STALL_DEFAULT, ServerIdentity,
    close_idle_connections, serve_connection,
};
use fs_proto::msg::session::Role;
use tokio::runtime::LocalOptions;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::error::ServerError;
use crate::metrics_page::MetricsPage;
use crate::node::Node;
use crate::transaction::recovery;
use crate::worker::Worker;
use crate::{backing, errands, flush, hot, opened, ops, overflow, reaper};

const HOUSEKEEPING: Duration = Duration::from_secs(1);
/// Time from one look for unused connections to other servers to the next.
const PEERS_UNUSED: Duration = Duration::from_secs(30);
/// Idle connections that a worker closes when there is no room for a new one.
const CLOSED_AT_ONCE: usize = 8;

/// What a worker is told.
enum Told {
    Serve(Accepted),
    /// There is no room for more connections.
    MakeRoom,
}

/// Runs the server's threads until it is asked to end.
pub fn run(
    node: &Arc<Node>,
    acceptors: Vec<Acceptor>,
    metrics: Option<MetricsPage>,
    before_end: impl FnOnce() + Send + 'static,
) -> Result<(), ServerError> {
    let mut senders = Vec::new();
    let mut threads = Vec::new();
    for index in 0..node.config.worker_count() {
        let (sender, sockets) = mpsc::unbounded_channel();
        senders.push(sender);
        threads.push(spawn(node, &format!("worker-{index}"), move |worker| serve(worker, sockets))?);
    }
    threads.push(spawn(node, "flusher", flush::run)?);
    threads.push(spawn(node, "errands", errands::serve)?);
    let outcome = on_local_runtime(node, async move |worker| {
        let outcome = keep_house(worker, acceptors, senders, metrics).await;
        if tokio::task::spawn_blocking(before_end).await.is_err() {
            tracing::error!("what was to be done before the end panicked");
        }
        outcome
    })?;
    node.request_stop(false);
    for thread in threads {
        if thread.join().is_err() {
            tracing::error!("a server thread panicked");
        }
    }
    outcome
}

fn spawn<F: Future<Output = ()> + 'static>(
    node: &Arc<Node>,
    name: &str,
    body: impl FnOnce(Rc<Worker>) -> F + Send + 'static,
) -> Result<JoinHandle<()>, ServerError> {
    let node = Arc::clone(node);
    let run = move || {
        if let Err(error) = on_local_runtime(&node, body) {
            tracing::error!(%error, "a server thread could not start; the server ends");
            node.request_stop(false);
        }
    };
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(run)
        .map_err(|source| ServerError::System { what: "start a thread", source })
}

/// Runs `body` with a worker of its own on this thread.
fn on_local_runtime<R: 'static, F: Future<Output = R> + 'static>(
    node: &Arc<Node>,
    body: impl FnOnce(Rc<Worker>) -> F + 'static,
) -> Result<R, ServerError> {
    let failed = |source| ServerError::System { what: "start a runtime", source };
    // Not a `LocalSet` on a runtime: whatever woke a task of that would wake the whole set, by a write to the poller and a poll in vain.
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build_local(LocalOptions::default());
    let runtime = runtime.map_err(failed)?;
    let node = Arc::clone(node);
    // A task, for the same reason.
    let task = runtime.spawn_local(async move {
        let worker = new_worker(&node);
        tokio::task::spawn_local(close_unused(Rc::clone(&worker)));
        body(worker).await
    });
    // Nobody cancels it: it ended by itself, or panicked.
    runtime.block_on(task).map_err(|ended| match ended.try_into_panic() {
        Ok(panic) => std::panic::resume_unwind(panic),
        Err(cancelled) => failed(std::io::Error::other(cancelled)),
    })
}

/// Of this thread's connections to other servers, those that were not used from one look to the next are closed.
async fn close_unused(worker: Rc<Worker>) {
    loop {
        tokio::time::sleep(PEERS_UNUSED).await;
        worker.peers.close_unused();
    }
}

/// A worker for the calling thread.
pub fn new_worker(node: &Arc<Node>) -> Rc<Worker> {
    let env = Rc::new(NetEnv {
        pool: node.pools.buffers.clone(),
        messages: node.pools.messages.clone(),
        connections: node.pools.connections.clone(),
        stall: STALL_DEFAULT,
        counters: Arc::clone(&node.net),
        sharing: node.pools.sharing.clone(),
        spin: SPIN_DEFAULT,
        rdma: Arc::clone(&node.rdma),
    });
    let who = Identity {
        role: Role::Server { id: node.id() },
        job: node.config.job.clone(),
        secret: node.config.secret.clone(),
    };
    let directory = Arc::clone(node);
    let peers = Peers::new(
        move |server| directory.cluster().member(server).map(fs_net::MemberEntry::address),
        who,
        Rc::clone(&env),
    );
    Worker::new(Arc::clone(node), peers, env)
}

/// A worker thread: serves the connections that it is dealt.
async fn serve(worker: Rc<Worker>, mut told: mpsc::UnboundedReceiver<Told>) {
    let node = Arc::clone(&worker.node);
    loop {
        let told = tokio::select! {
            told = told.recv() => told,
            () = node.stopped() => None,
        };
        let accepted = match told {
            Some(Told::Serve(accepted)) => accepted,
            Some(Told::MakeRoom) => {
                close_idle_connections(CLOSED_AT_ONCE);
                continue;
            }
            None => break,
        };
        let me = ServerIdentity {
            id: node.id(),
            job: node.config.job.clone(),
            secret: node.config.secret.clone(),
            epoch: Arc::clone(&node.epoch),
        };
        let handler: Rc<dyn Handler> = Rc::clone(&worker) as Rc<dyn Handler>;
        tokio::task::spawn_local(serve_connection(accepted, handler, me, Rc::clone(&worker.env)));
    }
    // Answers that are on their way (that to the request to end among them) get a moment to leave.
    tokio::time::sleep(Duration::from_millis(50)).await;
    worker.peers.close_all();
}

/// The first thread: accepts connections, recovers, keeps house, waits for the end.
async fn keep_house(
    worker: Rc<Worker>,
    acceptors: Vec<Acceptor>,
    senders: Vec<mpsc::UnboundedSender<Told>>,
    metrics: Option<MetricsPage>,
) -> Result<(), ServerError> {
    let node = Arc::clone(&worker.node);
    let failed = |what| move |source| ServerError::System { what, source };
    let mut terminate = signal(SignalKind::terminate()).map_err(failed("listen to SIGTERM"))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed("listen to SIGINT"))?;
    let recovered = recovery::restore_prepared(&node).await;
    let retold = recovery::retell_decisions(&worker);
    match (recovered, retold) {
        (Ok(0), Ok(0)) => {}
        (Ok(prepared), Ok(decided)) => {
            tracing::info!(prepared, decided, "transactions of before the restart are finished");
        }
        (Err(error), _) | (_, Err(error)) => {
            return Err(ServerError::Cluster(format!("transactions cannot be recovered: {}", error.message)));
        }
    }
    let senders = Rc::new(senders);
    for (first, acceptor) in acceptors.into_iter().enumerate() {
        let (senders, stop) = (Rc::clone(&senders), Arc::clone(&node));
        tokio::task::spawn_local(async move {
            let mut turn = first;
            let deliver = |accepted| {
                turn += 1;
                // A worker that is gone means that the server ends.
                let _ = senders[turn % senders.len()].send(Told::Serve(accepted));
            };
            let pressed = || senders.iter().for_each(|sender| drop(sender.send(Told::MakeRoom)));
            let room = &stop.pools.connections;
            if let Err(error) = acceptor.run_within(room, pressed, deliver, stop.stopped()).await {
                tracing::error!(%error, "no more connections can be accepted; the server ends");
                stop.request_stop(false);
            }
        });
    }
    if let Some(page) = metrics {
        tokio::task::spawn_local(page.serve(Arc::clone(&node)));
    }
    tokio::task::spawn_local(ops::setattr::finish_cuts(Rc::clone(&worker)));
    tokio::task::spawn_local(reaper::run(Rc::clone(&worker)));
    tokio::task::spawn_local(backing::evict::run(Rc::clone(&worker)));
    tokio::task::spawn_local(hot::lender::serve(Rc::clone(&worker)));
    tokio::task::spawn_local(opened::upkeep::serve(Rc::clone(&worker)));
    tokio::task::spawn_local(overflow::keeper::keep_house(Rc::clone(&worker)));
    tokio::task::spawn_local(tidy(Rc::clone(&worker)));
    tokio::select! {
        _ = terminate.recv() => tracing::info!("SIGTERM"),
        _ = interrupt.recv() => tracing::info!("SIGINT"),
        () = node.stopped() => {}
    }
    Ok(())
}

/// What has to be done now and then.
async fn tidy(worker: Rc<Worker>) {
    loop {
        tokio::time::sleep(HOUSEKEEPING).await;
        worker.node.pools.note_peaks(&worker.node);
        recovery::ask_about_silent(&worker).await;
        if let Err(error) = worker.node.locks.tidy_up(&worker.node.namespace, Instant::now()) {
            tracing::error!(message = %error.message, "records of clients with locks could not be changed");
        }
        if let Err(error) = worker.node.hot.tidy(&worker.node.namespace, Instant::now()) {
            tracing::error!(message = %error.message, "it could not be noted that no hot file is lent");
        }
        for ino in worker.node.opens.expire(Instant::now()) {
            tracing::debug!(?ino, "a client that had it open for writing is gone");
            // What it wrote without telling is content of no known version: flushed as a new one.
            flush::ops::lost_writer(&worker, ino).await;
        }
    }
}
