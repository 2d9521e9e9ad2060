//! Connections over RDMA: what differs from a socket. What is the same is tried by `session.rs` and `calls.rs`, over all transports.
//! Without a device (`tests/e2e/rdma.sh` makes one, in a guest) only what needs none is tried.

mod support;

use bytes::Bytes;
use fs_net::{Address, NetCounters, NetEnv, Rdma, RdmaChoice, Secret};
use fs_proto::Op;
use std::rc::Rc;
use std::sync::Arc;
use support::{Server, env, over_rdma, request, run};

const MIB: usize = 1 << 20;

fn pattern(len: usize, seed: u8) -> Bytes {
    (0..len).map(|i| (i / 7) as u8 ^ seed).collect::<Vec<_>>().into()
}

/// Goal: data that lies in buffers of the pool is not copied by either side. Method: the counters tell.
#[test]
fn data_by_reference_is_not_copied() {
    over_rdma(|address| async move {
        let server = Server::start(0, &address, &Secret::random());
        let env = env();
        let connection = server.connect(&env).await.expect("connected");
        let copied = || [&env, &server.env].map(|env| NetCounters::read(&env.counters.copied_bytes));
        let before = copied();
        for seed in 0..3 {
            let mut buffer = env.pool.get(MIB).await.expect("a buffer");
            buffer.copy_from_slice(&pattern(MIB, seed));
            let answer = connection.call(request(Op::Ping), Bytes::new(), buffer.freeze()).await;
            assert!(answer.expect("answered").bulk == pattern(MIB, seed));
        }
        assert_eq!(copied(), before);
        let (ours, theirs) = (env.rdma.stats(), server.env.rdma.stats());
        assert_eq!((ours.reads, ours.read_bytes), (3, 3 * MIB as u64));
        assert_eq!((theirs.reads, theirs.connections, ours.connections), (3, 1, 1));
        assert!(ours.registrations > 0 && ours.registered_bytes > 2 * MIB as u64, "{ours:?}");
    });
}

/// Goal: a process that may use RDMA works with one that does not. Method: only one side has it, then only the other.
#[test]
fn without_a_way_tcp_does() {
    run(async {
        for (ours, theirs) in [(RdmaChoice::Auto, RdmaChoice::Off), (RdmaChoice::Off, RdmaChoice::Auto)] {
            let with = |choice: RdmaChoice| {
                let mut env = NetEnv::new(64 << 20);
                env.rdma = Arc::new(Rdma::new(choice, env.pool.stats().size, 1));
                Rc::new(env)
            };
            let address = Address::Tcp("127.0.0.1:0".into());
            let server = Server::start_in(with(theirs), 0, &address, &Secret::random());
            let connection = server.connect(&with(ours)).await.expect("connected");
            let answer = connection.call(request(Op::Ping), Bytes::new(), pattern(MIB, 1)).await;
            assert!(answer.expect("answered").bulk == pattern(MIB, 1));
        }
    });
}
