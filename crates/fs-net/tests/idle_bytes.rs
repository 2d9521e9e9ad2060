//! What an idle connection takes of a server's memory: below 1,024 bytes, the event loop's part included.
//!
//! Method: the allocator of this program counts, per thread, what the system's allocator gives and gets back, by its own account (whole blocks
//! with their heads). A server runs on one thread, its clients on another; after each of many connections of one client has asked something
//! once, what the server's thread holds is divided by their number. So it has tables that grow with connections, too, and everything that an
//! assertion on the size of a structure does not see.

#[path = "../../../tests/src/heap.rs"]
#[allow(dead_code)] // A part of it is used here.
mod heap;
mod support;

use bytes::Bytes;
use fs_net::{Address, Connection, Secret};
use fs_proto::Op;
use heap::{Held, check_the_meter};
use rustix::process::{Resource, getrlimit, setrlimit};
use support::{LONG, Server, client, env, over_each_socket, request, run};
use tokio::sync::{mpsc, oneshot};

/// What the requirement says.
const BOUND: isize = 1024;
/// Connections that are there before the first measurement, so that what is there once is.
const BEFORE: usize = 100;
/// Connections that are measured.
const MEASURED: usize = 1000;

#[global_allocator]
static COUNTED: heap::Counted = heap::Counted;

/// A server on a thread of its own. Where it listens, and who asks it what it holds.
fn server(listen: Address, secret: Secret) -> (Address, mpsc::UnboundedSender<oneshot::Sender<Held>>) {
    let (ask, mut asked) = mpsc::unbounded_channel::<oneshot::Sender<Held>>();
    let (started, listens) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        run(async {
            let server = Server::start(0, &listen, &secret);
            started.send(server.address.clone()).expect("the test waits");
            while let Some(answer) = asked.recv().await {
                answer.send(Held::now()).unwrap_or_else(|_| panic!("the test waits"));
            }
        });
    });
    (listens.recv().expect("it listens"), ask)
}

#[test]
fn an_idle_connection_takes_less_than_a_kibibyte() {
    check_the_meter();
    allow_descriptors(2 * (BEFORE + MEASURED) as u64 + 100);
    over_each_socket(measure);
}

async fn measure(listen: Address) {
    let secret = Secret::random();
    let kind = if matches!(listen, Address::Tcp(_)) { "tcp" } else { "unix" };
    let (address, ask) = server(listen, secret.clone());
    let (env, who, mut open) = (env(), client(&secret), Vec::new());
    let mut held = Vec::new();
    for target in [BEFORE, BEFORE + MEASURED] {
        while open.len() < target {
            let connection = Connection::connect(&address, &who, &env, LONG).await.expect("connected");
            let answer = connection.call(request(Op::Ping), Bytes::new(), Bytes::new()).await;
            drop(answer.expect("an answer"));
            open.push(connection);
        }
        let (answer, holds) = oneshot::channel();
        ask.send(answer).expect("it runs");
        held.push(holds.await.expect("it runs"));
    }
    let bytes = (held[1].bytes - held[0].bytes) / MEASURED as isize;
    let blocks = held[1].blocks_since(&held[0], MEASURED / 2);
    println!("{kind}: {bytes} bytes for each idle connection; blocks of bytes, how many: {blocks:?}");
    assert!(bytes < BOUND, "{kind}: {bytes} bytes, at most {BOUND}; blocks of bytes, how many: {blocks:?}");
    assert!(bytes > 300, "{kind}: {bytes} bytes cannot be all");
    assert!(open.iter().all(|connection| !connection.is_closed()));
}

fn allow_descriptors(wanted: u64) {
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current.is_some_and(|current| current < wanted) {
        limit.current = Some(wanted);
        setrlimit(Resource::Nofile, limit)
            .expect("the hard limit on open files is higher: raise it (ulimit -Hn)");
    }
}
