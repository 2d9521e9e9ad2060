//! Goal: every request reaches its end once, whatever happens on the way. Method: faults at chosen requests; the servers note
//! the identity of all that came.

use std::time::{Duration, Instant};

use fs_client::{Caller, Client, Error, File, FileKind, InodeId, OpenOptions};
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
fn who_is_told_to_wait_waits_for_longer_than_his_patience() {
    // Goal: answers that something else comes first (no room before the shared tier is back) become no error however long they come; a client with less time than
    // others gives up. Method: so many of them that they take several times the patience.
    let cluster = FakeCluster::start(1);
    let client = hurried(&cluster);
    cluster.control.fail(Op::Getattr, &[Fault::Answer(Status::Waiting); 12]);
    let began = Instant::now();
    client.getattr(&Caller::ROOT, InodeId::ROOT).unwrap();
    assert!(began.elapsed() > Duration::from_millis(600), "{:?}", began.elapsed());
    cluster.control.fail(Op::Getattr, &[Fault::Answer(Status::Waiting); 500]);
    let error = client.within(Duration::from_millis(100)).getattr(&Caller::ROOT, InodeId::ROOT).unwrap_err();
    assert!(matches!(error, Error::Unavailable { .. }), "{error:?}");
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

/// What the tests of flipped bits write, and what lies there before: a small file and one in chunks.
const NEW: &[u8] = b"fresh";
const OLD_SMALL: &[u8] = b"0123456789";
const OLD_LARGE: [u8; 2_000] = [7; 2_000];

/// One way to send data: by this operation, to this file.
struct Way {
    op: Op,
    path: &'static str,
    write: fn(&File) -> fs_client::Result<()>,
}

const WAYS: [Way; 4] = [
    Way { op: Op::WriteChunk, path: "/large", write: |file| file.write_at(NEW, 0) },
    Way { op: Op::WriteInline, path: "/small", write: |file| file.write_at(NEW, 0) },
    Way { op: Op::Append, path: "/small", write: |file| file.append(NEW).map(drop) },
    Way { op: Op::Append, path: "/large", write: |file| file.append(NEW).map(drop) },
];

impl Way {
    fn old(&self) -> &'static [u8] {
        if self.path == "/small" { OLD_SMALL } else { &OLD_LARGE }
    }

    fn written(&self) -> Vec<u8> {
        match self.op {
            Op::Append => [self.old(), NEW].concat(),
            _ => [NEW, &self.old()[NEW.len()..]].concat(),
        }
    }
}

/// A server with both files, and a client.
fn with_files() -> (FakeCluster, Client) {
    let cluster = FakeCluster::start(1);
    cluster.control.world.lock().inline_limit = 1_000;
    let client = cluster.client();
    client.put("/small", OLD_SMALL, 0o644).unwrap();
    client.put("/large", &OLD_LARGE, 0o644).unwrap();
    (cluster, client)
}

fn open(client: &Client, path: &str) -> File {
    client.open_path(path, &OpenOptions { write: true, ..OpenOptions::read_only() }).unwrap()
}

/// The requests that carried data since the last time.
fn sent(cluster: &FakeCluster, op: Op) -> Vec<Seen> {
    cluster.control.take_seen().into_iter().filter(|seen| seen.header.op == op).collect()
}

#[test]
fn data_that_changed_on_their_way_are_sent_again() {
    for way in WAYS {
        let (cluster, client) = with_files();
        let file = open(&client, way.path);
        cluster.control.take_seen();
        cluster.control.fail(way.op, &[Fault::FlipSent, Fault::FlipSent]);
        (way.write)(&file).unwrap();
        // Refused is not executed: as if for the first time.
        assert_same_request(&sent(&cluster, way.op), &[false; 3]);
        file.close().unwrap();
        assert!(client.get(way.path).unwrap() == way.written(), "{:?} {}", way.op, way.path);
    }
}

#[test]
fn data_that_change_each_time_are_refused() {
    for way in WAYS {
        let (cluster, client) = with_files();
        let file = open(&client, way.path);
        cluster.control.take_seen();
        cluster.control.fail(way.op, &[Fault::FlipSent; 3]);
        let error = (way.write)(&file).unwrap_err();
        assert_eq!((error.code(), error.errno()), (Some(Status::Corrupt), libc::EIO), "{error}");
        assert_same_request(&sent(&cluster, way.op), &[false; 3]);
        file.close().unwrap();
        assert!(client.get(way.path).unwrap() == way.old(), "{:?} {}", way.op, way.path);
    }
}

#[test]
fn damage_in_a_store_is_not_asked_for_again() {
    // Who sends no data is told of what the server holds.
    let (cluster, client) = with_files();
    let file = open(&client, "/large");
    cluster.control.take_seen();
    cluster.control.fail(Op::ReadChunk, &[Fault::Answer(Status::Corrupt)]);
    assert_eq!(file.read_bytes_at(10, 0).unwrap_err().code(), Some(Status::Corrupt));
    assert_eq!(sent(&cluster, Op::ReadChunk).len(), 1);
}

#[test]
fn whole_files_that_changed_on_their_way_are_sent_again() {
    let (cluster, client) = with_files();
    cluster.control.take_seen();
    cluster.control.fail(Op::Put, &[Fault::FlipSent, Fault::FlipSent]);
    client.put("/small", NEW, 0o644).unwrap();
    assert_same_request(&sent(&cluster, Op::Put), &[false; 3]);
    assert_eq!(client.get("/small").unwrap(), NEW);
    cluster.control.fail(Op::Put, &[Fault::FlipSent; 3]);
    assert_eq!(client.put("/small", OLD_SMALL, 0o644).unwrap_err().code(), Some(Status::Corrupt));
    assert_eq!(client.get("/small").unwrap(), NEW);
}

#[test]
fn of_many_files_only_those_that_changed_are_sent_again() {
    let (cluster, client) = with_files();
    let put = || {
        let files: [(&[u8], &[u8]); 3] = [(b"small", NEW), (b"b", b"second"), (b"c", b"third")];
        client.put_many(&Caller::ROOT, InodeId::ROOT, &files, 0o644).unwrap()
    };
    cluster.control.take_seen();
    cluster.control.fail(Op::PutMany, &[Fault::FlipSent]);
    assert!(put().iter().all(Result::is_ok));
    assert_eq!(cluster.control.take_ops(), [Op::PutMany, Op::Put], "the first one's bit was flipped");
    assert_eq!(client.get("/small").unwrap(), NEW);
    client.put("/small", OLD_SMALL, 0o644).unwrap();
    cluster.control.fail(Op::PutMany, &[Fault::FlipSent]);
    cluster.control.fail(Op::Put, &[Fault::FlipSent; 3]);
    let results = put();
    assert_eq!(results[0].as_ref().unwrap_err().code(), Some(Status::Corrupt));
    assert!(results[1..].iter().all(Result::is_ok));
    assert_eq!(client.get("/small").unwrap(), OLD_SMALL);
}
