//! Goal: a connection that had to be over TCP becomes one over RDMA by itself, while calls go on without a failure. Method: a server that offers none
//! for a while, as when its memory cannot be registered, and one client that never stops asking. Needs a device: without `HAYATE_TEST_RDMA`
//! (an address of one; `tests/e2e/rdma.sh` sets it in its guest) nothing is tried.

use super::{Rdma, RdmaChoice};
use crate::env::{Identity, NetEnv};
use crate::frame::Frame;
use crate::serve::{Handled, Handler, PeerInfo, Reply, ServerIdentity, serve_connection};
use crate::{Acceptor, Address, Peers, Secret};
use bytes::Bytes;
use fs_proto::msg::session::Role;
use fs_proto::{ClientId, Header, Op, Partition, ServerId};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};
use tokio::task::LocalSet;

struct Mirror;

impl Handler for Mirror {
    fn handle(self: Rc<Self>, _: &Rc<PeerInfo>, request: Frame) -> Handled {
        Handled::Now(Reply::ok(&request.header, request.meta, request.bulk))
    }
}

fn env() -> Rc<NetEnv> {
    let mut env = NetEnv::new(64 << 20);
    env.rdma = Arc::new(Rdma::new(RdmaChoice::Auto, 64 << 20, 1));
    Rc::new(env)
}

/// Serves until the test's end; where that is.
fn serve(ip: &str, secret: &Secret, env: &Rc<NetEnv>) -> Address {
    let acceptor = Acceptor::bind(&Address::Tcp(format!("{ip}:0"))).expect("bound");
    let address = acceptor.address().clone();
    let (env, room, secret) = (env.clone(), env.connections.clone(), secret.clone());
    let deliver = move |accepted| {
        let epoch = Arc::new(AtomicU64::new(1));
        let me = ServerIdentity { id: ServerId(0), job: "job".into(), secret: secret.clone(), epoch };
        tokio::task::spawn_local(serve_connection(accepted, Rc::new(Mirror), me, env.clone()));
    };
    tokio::task::spawn_local(async move {
        acceptor.run_within(&room, || (), deliver, std::future::pending()).await
    });
    address
}

async fn ask(peers: &Peers, number: u32) {
    let bulk = Bytes::from(vec![number as u8; 100_000]);
    let request = Header::request(Op::Ping, Partition(0));
    let answer = peers.call(ServerId(0), request, Bytes::new(), bulk.clone()).await;
    assert!(answer.expect("no call fails").bulk == bulk);
}

async fn comes_back(ip: String) {
    let (secret, theirs, ours) = (Secret::random(), env(), env());
    theirs.rdma.cannot_register("the test says so");
    let address = serve(&ip, &secret, &theirs);
    let role = Role::Client { id: ClientId(1) };
    let who = Identity { role, job: "job".into(), secret };
    let peers = Peers::new(move |_| Some(address.clone()), who, ours.clone());
    ask(&peers, 0).await;
    assert_eq!((ours.rdma.stats().connections, theirs.rdma.stats().connections), (0, 0));
    let (began, mut number) = (Instant::now(), 1);
    while ours.rdma.stats().messages_received == 0 {
        assert!(began.elapsed() < Duration::from_secs(60), "{:?}", ours.rdma.stats());
        ask(&peers, number).await;
        number += 1;
        tokio::task::yield_now().await;
    }
    assert_eq!((ours.rdma.stats().connections, theirs.rdma.stats().connections), (1, 1));
    assert!(ours.rdma.stats().fallbacks == 0 && theirs.rdma.stats().fallbacks == 1);
}

#[test]
fn calls_go_on_while_rdma_comes_back() {
    let Ok(ip) = std::env::var("HAYATE_TEST_RDMA") else {
        return crate::skip::note("no RDMA device, but in the guests of tests/e2e/rdma.sh");
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    LocalSet::new().block_on(&runtime, comes_back(ip));
}
