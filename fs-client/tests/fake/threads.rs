//! Goal: one client serves many threads, each with an identity of its own, and event loops. Method: note the identities.

use std::collections::HashSet;

use fs_client::{Caller, Error, InodeId, OpenFlags};
use fs_proto::Op;
use tokio::task::LocalSet;

use crate::support::FakeCluster;

#[test]
fn threads_have_lanes_of_their_own_that_are_used_again() {
    let cluster = FakeCluster::start(3);
    let client = cluster.client();
    for round in 0..3u8 {
        std::thread::scope(|scope| {
            for thread in 0..8u8 {
                let client = client.clone();
                scope.spawn(move || {
                    for i in 0..10u8 {
                        let name = format!("{round}.{thread}.{i}");
                        client.mkdir(&Caller::ROOT, InodeId::ROOT, name.as_bytes(), 0o755).unwrap();
                    }
                });
            }
        });
    }
    let seen = cluster.control.take_seen();
    let sequences: HashSet<u64> = seen.iter().map(|s| s.header.sequence).collect();
    assert_eq!((seen.len(), sequences.len()), (240, 240));
    let lanes: HashSet<u64> = sequences.iter().map(|s| s >> 48).collect();
    assert!(lanes.len() <= 9, "lanes of ended threads are used again: {lanes:?}");
}

fn in_event_loop<T>(op: impl AsyncFnOnce() -> T) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, op())
}

#[test]
fn an_event_loop_uses_the_core() {
    let cluster = FakeCluster::start(3);
    let client = cluster.client();
    let ino = in_event_loop(async || {
        let core = client.core().unwrap();
        let flags = OpenFlags::READ_WRITE;
        let opened = core.create_open(&Caller::ROOT, InodeId::ROOT, b"a", 0o644, flags, true).await.unwrap();
        core.write_at(&opened.0, b"data", 0).await.unwrap();
        assert_eq!(core.read_bytes_at(&opened.0, 4, 0).await.unwrap(), "data");
        let ino = opened.0.ino();
        core.close(opened.0).await.unwrap();
        ino
    });
    assert_eq!(client.getattr(&Caller::ROOT, ino).unwrap().size, 4);
}

#[test]
fn mutations_of_a_core_go_one_at_a_time_and_in_order() {
    let cluster = FakeCluster::start(3);
    let client = cluster.client();
    in_event_loop(async || {
        let core = client.core().unwrap();
        let who = Caller::ROOT;
        let (a, b, c) = tokio::join!(
            core.mkdir(&who, InodeId::ROOT, b"a", 0o755),
            core.mkdir(&who, InodeId::ROOT, b"b", 0o755),
            core.mkdir(&who, InodeId::ROOT, b"c", 0o755),
        );
        a.unwrap();
        b.unwrap();
        c.unwrap();
    });
    let sequences: Vec<u64> = cluster.control.take_seen().iter().map(|s| s.header.sequence).collect();
    assert!(sequences.len() == 3 && sequences.is_sorted());
}

#[test]
fn blocking_calls_inside_an_event_loop_are_refused_and_drops_are_deferred() {
    let cluster = FakeCluster::start(3);
    let client = cluster.client();
    let flags = OpenFlags::READ_WRITE;
    let (file, _) = client.create_open(&Caller::ROOT, InodeId::ROOT, b"a", 0o644, flags, true).unwrap();
    file.write_at(b"1234", 0).unwrap();
    let ino = file.ino();
    in_event_loop(async || {
        let refused = client.getattr(&Caller::ROOT, InodeId::ROOT).unwrap_err();
        assert!(matches!(refused, Error::InsideEventLoop));
        drop(file);
    });
    cluster.control.wait_for(Op::Publish);
    assert_eq!(client.getattr(&Caller::ROOT, ino).unwrap().size, 4);
}

#[test]
fn a_client_that_ends_leaves_nothing_open() {
    let cluster = FakeCluster::start(3);
    let client = cluster.client();
    let files = ["a", "b"].map(|name| {
        let flags = OpenFlags::READ;
        client.create_open(&Caller::ROOT, InodeId::ROOT, name.as_bytes(), 0o644, flags, true).unwrap().0
    });
    assert_eq!(cluster.control.world.lock().opens.len(), 2);
    drop(files);
    drop(client);
    assert!(cluster.control.world.lock().opens.is_empty());
}
