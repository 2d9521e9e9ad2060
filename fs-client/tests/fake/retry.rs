//! Goal: every request reaches its end once, whatever happens on the way. Method: faults at chosen requests; the servers note
//! the identity of all that came.

use std::time::Duration;

use fs_client::{Caller, Client, Error, FileKind, InodeId};
use fs_proto::msg::name::Create;
use fs_proto::{Flags, Op, ServerId, Status};

use crate::support::{FakeCluster, Fault, Seen};

fn file(name: &str) -> Create {
    Create {
        parent: InodeId::ROOT,
        name: name.to_owned().into(),
        kind: FileKind::File,
        mode: 0o644,
        rdev: 0,
        target: "".into(),
        exclusive: true,
        layout: None,
        open: None,
    }
}

fn assert_same_request(seen: &[Seen], flags: &[bool]) {
    let retried: Vec<bool> = seen.iter().map(|s| s.header.flags.has(Flags::RETRY)).collect();
    assert_eq!(retried, flags);
    assert!(seen.iter().all(|s| s.header.sequence == seen[0].header.sequence));
    assert!(seen.iter().all(|s| s.header.client == seen[0].header.client && s.header.client.0 != 0));
}

#[test]
fn a_mutation_cut_off_after_its_execution_is_done_once() {
    let cluster = FakeCluster::start(3);
    let client = cluster.client();
    cluster.control.fail(Op::Create, &[Fault::CutAfter]);
    let (attr, fresh) = client.create(&Caller::ROOT, file("a")).unwrap();
    assert!(fresh);
    assert_same_request(&cluster.control.take_seen(), &[false, true]);
    let world = cluster.control.world.lock();
    assert_eq!((world.inodes.len(), world.entries.len()), (2, 1));
    assert!(world.inodes.contains_key(&attr.ino));
}

#[test]
fn requests_cut_off_before_their_execution_are_sent_again() {
    let cluster = FakeCluster::start(2);
    let client = cluster.client();
    cluster.control.fail(Op::Create, &[Fault::CutBefore, Fault::CutBefore, Fault::CutAfter]);
    client.create(&Caller::ROOT, file("a")).unwrap();
    assert_same_request(&cluster.control.take_seen(), &[false, true, true, true]);
}

#[test]
fn transient_answers_are_tried_again_under_the_same_identity() {
    let cluster = FakeCluster::start(2);
    let client = cluster.client();
    let answers = [Status::StaleEpoch, Status::Retry, Status::Unavailable].map(Fault::Answer);
    cluster.control.fail(Op::Create, &answers);
    client.create(&Caller::ROOT, file("a")).unwrap();
    // Only `Unavailable` leaves open whether it was executed.
    assert_same_request(&cluster.control.take_seen(), &[false, false, false, true]);
}

#[test]
fn identities_are_never_used_twice() {
    let cluster = FakeCluster::start(2);
    let client = cluster.client();
    for name in ["a", "b", "c"] {
        client.create(&Caller::ROOT, file(name)).unwrap();
        client.getattr(&Caller::ROOT, InodeId::ROOT).unwrap();
    }
    let mut sequences: Vec<u64> = cluster.control.take_seen().iter().map(|s| s.header.sequence).collect();
    let sent = sequences.len();
    assert!(sequences.is_sorted(), "within a lane they count up");
    sequences.dedup();
    assert_eq!(sequences.len(), sent);
}

#[test]
fn a_permanent_answer_is_not_tried_again() {
    let cluster = FakeCluster::start(2);
    let client = cluster.client();
    cluster.control.fail(Op::Create, &[Fault::Answer(Status::NoSpace)]);
    let error = client.create(&Caller::ROOT, file("a")).unwrap_err();
    assert_eq!((error.errno(), cluster.control.take_seen().len()), (libc::ENOSPC, 1));
    assert!(error.to_string().contains("as the test wants"));
}

fn hurried(cluster: &FakeCluster) -> Client {
    cluster.client_with(|config| config.timeout = Duration::from_millis(300))
}

#[test]
fn what_stays_away_becomes_a_clear_error() {
    let cluster = FakeCluster::start(1);
    let client = hurried(&cluster);
    cluster.control.fail(Op::Getattr, &[Fault::Answer(Status::Unavailable); 500]);
    let error = client.getattr(&Caller::ROOT, InodeId::ROOT).unwrap_err();
    assert!(matches!(error, Error::Unavailable { server: ServerId(0), .. }), "{error:?}");
    assert_eq!(error.errno(), libc::ETIMEDOUT);
    assert!(error.to_string().contains("server 0 did not answer"), "{error}");
    assert!(cluster.control.take_seen().len() > 3);
}

#[test]
fn a_silent_server_does_not_hold_a_caller_forever() {
    let cluster = FakeCluster::start(1);
    let client = hurried(&cluster);
    cluster.control.fail(Op::Getattr, &[Fault::Silence]);
    let error = client.getattr(&Caller::ROOT, InodeId::ROOT).unwrap_err();
    assert_eq!(error.errno(), libc::ETIMEDOUT, "{error}");
    // The connection still serves.
    client.getattr(&Caller::ROOT, InodeId::ROOT).unwrap();
}

#[test]
fn a_wrong_secret_is_said_at_once() {
    let cluster = FakeCluster::start(2);
    let mut config = cluster.config();
    config.cluster.secret = fs_net::Secret::random();
    let error = Client::connect(config).err().unwrap();
    assert!(matches!(error, Error::Rejected { .. }), "{error:?}");
    assert_eq!(error.errno(), libc::EACCES);
}

#[test]
fn nobody_there_is_said_when_connecting() {
    let cluster = FakeCluster::start(1);
    let mut config = cluster.config();
    config.cluster.members[0].unix = cluster.dir().join("nobody.sock");
    std::fs::write(&config.cluster.members[0].unix, b"").unwrap();
    let error = Client::connect(config).err().unwrap();
    assert!(matches!(error, Error::Unavailable { .. }), "{error:?}");
}
