//! Goal: a server takes no data that are not those that were sent, in whatever message they come: it answers Corrupt, and nothing has changed. Method: requests
//! whose checksum differs by a bit, to the server that owns the place and to another, which passes them on; the same with the right one go through.

use bytes::Bytes;
use fs_client::{Client, Route};
use fs_proto::checksum::crc;
use fs_proto::msg::chunk::WriteChunk;
use fs_proto::msg::small::{Append, Put, PutFile, PutMany, PutManyAnswer, PutOutcome, WriteInline};
use fs_proto::placement::{chunk_partition, entry_partition, name_hash};
use fs_proto::{ChunkIndex, InodeId, Partition, Request, ServerId, Status, Wire};
use hayate_tests::{Cluster, send_raw, status};

const ROOT: InodeId = InodeId::ROOT;
const SERVERS: [ServerId; 2] = [ServerId(0), ServerId(1)];
const SMALL: &[u8] = b"a small file";
const NEW: Bytes = Bytes::from_static(b"fresh");

struct World {
    cluster: Cluster,
    client: Client,
}

impl World {
    /// Two servers, of which the second uses direct I/O.
    fn new() -> World {
        let cluster = Cluster::start(2);
        let client = cluster.strict_client(Route::Auto);
        World { cluster, client }
    }

    fn content(&self, path: &str) -> Bytes {
        self.client.get(path).expect("read")
    }

    fn send<R: Request>(&self, to: ServerId, at: Partition, request: &R) -> Result<Bytes, Status> {
        send_raw(&self.cluster, to, at, request, NEW).map(|(body, _)| body)
    }

    /// Sends what `request` makes with a checksum, which must be refused with the wrong one wherever it is sent to; with the right one it makes `old` into `new`.
    fn check<R: Request>(&self, path: &str, at: Partition, new: &[u8], request: impl Fn(u32) -> R) {
        let (old, sum) = (self.content(path), crc(&NEW));
        for wrong in [sum ^ 1, sum ^ (1 << 31), 0] {
            for to in SERVERS {
                let refused = self.send(to, at, &request(wrong)).map(drop);
                assert_eq!(refused, Err(Status::Corrupt), "{path} by {to}");
            }
        }
        assert!(self.content(path) == old, "{path} was changed by data that were refused");
        self.send(SERVERS[0], at, &request(sum)).expect("the right checksum");
        assert!(self.content(path) == new, "{path} is not what was written");
    }
}

fn overlaid(old: &[u8]) -> Vec<u8> {
    [&NEW, &old[NEW.len()..]].concat()
}

#[test]
fn chunks_that_changed_on_their_way_are_refused() {
    let world = World::new();
    let map = world.cluster.file().map().expect("a map");
    let old = vec![7; 100_000];
    let mut owners = Vec::new();
    for number in 0..64 {
        let path = format!("/f{number}");
        let ino = world.client.put(&path, &old, 0o644).expect("put").ino;
        let (chunk, at) = (ChunkIndex(0), chunk_partition(ino, ChunkIndex(0)));
        if owners.contains(&map.owner(at)) {
            continue;
        }
        owners.push(map.owner(at));
        world.check(&path, at, &overlaid(&old), |crc| WriteChunk {
            ino,
            chunk,
            offset: 0,
            file_end: old.len() as u64,
            since: 0,
            crc,
        });
    }
    assert_eq!(owners.len(), 2, "both servers were asked");
}

#[test]
fn small_files_that_changed_on_their_way_are_refused() {
    let world = World::new();
    let ino = world.client.put("/f", SMALL, 0o644).expect("put").ino;
    let (offset, mtime) = (0, 0);
    let request = |crc| WriteInline { ino, offset, mtime, crc };
    world.check("/f", ino.partition(), &overlaid(SMALL), request);
}

#[test]
fn appended_data_that_changed_on_their_way_are_refused() {
    let world = World::new();
    for (path, old) in [("/small", SMALL.to_vec()), ("/large", vec![7; 100_000])] {
        let ino = world.client.put(path, &old, 0o644).expect("put").ino;
        let request = |crc| Append { ino, mtime: 0, crc };
        world.check(path, ino.partition(), &[&old[..], &NEW].concat(), request);
    }
}

fn put(name: &'static str, crc: u32) -> (Partition, Put) {
    let request = Put { parent: ROOT, name: name.into(), mode: 0o644, exclusive: false, crc };
    (entry_partition(ROOT, name_hash(ROOT, name.as_bytes()), false), request)
}

#[test]
fn whole_files_that_changed_on_their_way_are_refused() {
    let world = World::new();
    world.client.put("/there", SMALL, 0o644).expect("put");
    world.check("/there", put("there", 0).0, &NEW, |crc| put("there", crc).1);
    let (at, request) = put("missing", crc(&NEW) ^ 1);
    assert_eq!(world.send(SERVERS[0], at, &request), Err(Status::Corrupt));
    assert!(world.client.stat("/missing").unwrap_err().is_not_found(), "a file was made of nothing");
}

#[test]
fn of_many_files_only_those_that_changed_are_refused() {
    let world = World::new();
    for name in ["a", "b", "c"] {
        world.client.put(format!("/{name}"), SMALL, 0o644).expect("put");
    }
    let at = ROOT.partition();
    let home = world.cluster.file().map().expect("a map").owner(at);
    let file = |name: &'static str, wrong: u32| PutFile {
        name: name.into(),
        len: NEW.len() as u32,
        crc: crc(&NEW) ^ wrong,
    };
    let files = vec![file("a", 0), file("b", 1), file("missing", 1), file("c", 0)];
    let request = PutMany { parent: ROOT, mode: 0o644, files };
    let data = NEW.repeat(4).into();
    let (body, _) = send_raw(&world.cluster, home, at, &request, data).expect("an answer of each");
    let answer = PutManyAnswer::from_bytes(body).expect("an answer");
    let refused: Vec<bool> = answer
        .outcomes
        .iter()
        .map(|outcome| match outcome {
            PutOutcome::Done { .. } => false,
            PutOutcome::Failed { status: Status::Corrupt } => true,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(refused, [false, true, true, false]);
    assert_eq!([world.content("/a"), world.content("/b"), world.content("/c")], [&NEW[..], SMALL, &NEW]);
    assert!(world.client.stat("/missing").unwrap_err().is_not_found(), "a file was made of nothing");
}

/// Goal: a server that is told to use direct I/O where that cannot be had serves through the page cache, has what it wrote before, and says how it works. Method: the file
/// that the store tries it on is a link into a file system that has no direct I/O.
#[test]
fn without_direct_io_a_server_goes_on_and_says_so() {
    let mut cluster = Cluster::start(2);
    let client = cluster.strict_client(Route::Auto);
    // Status is asked for once, so not over a connection of before a restart.
    let modes = |cluster: &Cluster| status(&cluster.client(), ServerId(1))["chunks"]["io"].clone();
    let before = modes(&cluster);
    let content = |seed: u8| vec![seed; 3_000_000];
    client.put("/before", &content(1), 0o644).expect("put");
    let probe = cluster.store_dir(1).join("chunks/direct-probe");
    std::os::unix::fs::symlink("/proc/self/comm", &probe).expect("a link");
    cluster.restart(1);
    assert_eq!(modes(&cluster), serde_json::json!(["buffered"]));
    assert!(client.get("/before").expect("get") == content(1));
    client.put("/after", &content(2), 0o644).expect("put");
    cluster.restart(1);
    // The link is gone with the attempt.
    assert_eq!(modes(&cluster), before);
    for (path, seed) in [("/before", 1), ("/after", 2)] {
        assert!(client.get(path).expect("get") == content(seed), "{path}");
    }
}
