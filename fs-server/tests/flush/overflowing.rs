//! Goal: a server without room goes on, because others keep its chunks; whatever is done to such a chunk, it is the chunk that it was.
//! Method: one server with a small store among large ones, nothing that may be evicted, every byte compared with a model; restarts, a keeper
//! that loses its store.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use fs_proto::msg::chunk::{ChunkMap, ChunkRanges};
use fs_proto::msg::small::Spill;
use fs_proto::msg::vault::{VaultDrop, VaultList, VaultPut};
use fs_proto::placement::chunk_partition;
use fs_proto::{ChunkIndex, InodeId, PartitionMap, ServerId, Status};
use fs_server::ServerConfig;

use crate::client::{Client, ROOT};
use crate::cluster::{Cluster, plain};
use crate::reading::content;

const CHUNK: usize = 1 << 20;
const SERVERS: u16 = 3;
/// The one without room.
const FULL: ServerId = ServerId(0);
const CAPACITY: u64 = 24 << 20;

fn one_is_small(config: &mut ServerConfig) {
    let is_small = config.id == FULL;
    config.capacity = Some(if is_small { CAPACITY } else { 20 * CAPACITY });
    // What is not flushed cannot be evicted.
    config.flush_delay_ms = 3_600_000;
}

fn start() -> (Cluster, Client) {
    let mut cluster = Cluster::prepared_with(SERVERS, one_is_small);
    cluster.launch(&plain);
    let client = Client::connect(&cluster.file);
    (cluster, client)
}

fn figure(client: &Client, name: &str) -> u64 {
    client.status(FULL)["overflow"][name].as_u64().unwrap_or_else(|| panic!("no {name}"))
}

fn live_bytes(client: &Client, server: ServerId) -> u64 {
    client.status(server)["chunks"]["bytes_live"].as_u64().unwrap()
}

/// What servers keep for others.
fn kept(client: &Client, server: ServerId) -> usize {
    let request = VaultList { prefix: "overflow/".into(), after: Bytes::new() };
    client.ask_server(server, &request).unwrap().objects.len()
}

fn wait_until(what: impl Fn() -> String, done: impl Fn() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < Duration::from_secs(60), "{}", what());
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Chunks of a file that belong to the server without room.
fn chunks_of_full(map: &PartitionMap, ino: InodeId, size: usize) -> Vec<ChunkIndex> {
    let all = (0..size.div_ceil(CHUNK) as u64).map(ChunkIndex);
    all.filter(|chunk| map.owner(chunk_partition(ino, *chunk)) == FULL).collect()
}

/// Writes files of twice what fits at the server without room.
fn fill(client: &Client) -> Vec<(InodeId, Vec<u8>)> {
    const FILE: usize = 12 * CHUNK + 4321;
    let files = 2 * CAPACITY as usize * usize::from(SERVERS) / FILE;
    let write = |n| {
        let data = content(n as u64, FILE);
        (client.write_file(ROOT, &format!("file{n}"), &data), data)
    };
    let all = (0..files).map(write).collect();
    assert!(figure(client, "overflow_bytes") > CAPACITY / 2, "{}", client.status(FULL)["overflow"]);
    all
}

fn assert_same(client: &Client, files: &[(InodeId, Vec<u8>)]) {
    for (ino, data) in files {
        let attr = client.attr(*ino);
        assert_eq!(attr.size, data.len() as u64, "{ino:?}");
        assert!(client.read(&attr) == *data, "{ino:?} has other content");
    }
}

/// Overwrites, punches and cuts whatever lies at the server without room.
fn change(client: &Client, map: &PartitionMap, files: &mut [(InodeId, Vec<u8>)]) {
    for (turn, (ino, data)) in files.iter_mut().enumerate() {
        for chunk in chunks_of_full(map, *ino, data.len()) {
            let start = chunk.0 as usize * CHUNK;
            let end = (start + CHUNK).min(data.len());
            let (at, len) = (start + 1000 * turn % (end - start), 700);
            let (at, len) = (at, len.min(end - at));
            let piece = content(chunk.0 + 1000, len);
            client.write(*ino, at as u64, &piece);
            data[at..at + len].copy_from_slice(&piece);
            let hole = start..(start + 3000).min(end);
            client.punch(*ino, chunk, 0, hole.len() as u32);
            data[hole].fill(0);
        }
        if turn % 3 == 0 {
            let size = data.len() - (CHUNK * (turn % 5 + 1) + 777);
            data.truncate(size);
            client.truncate(*ino, size as u64);
            // What was cut off does not come back.
            data.resize(size + 2 * CHUNK, 0);
            client.truncate(*ino, data.len() as u64);
        }
    }
}

#[test]
fn a_full_server_gives_to_those_with_room() {
    let (mut cluster, client) = start();
    let map = cluster.file.map().unwrap();
    let mut files = fill(&client);
    assert_same(&client, &files);
    change(&client, &map, &mut files);
    assert_same(&client, &files);
    drop(client);
    cluster.restart(&plain);
    let client = Client::connect(&cluster.file);
    assert_same(&client, &files);
    change(&client, &map, &mut files);
    cluster.drain(&client);
    cluster.compare(&client);
    assert_same(&client, &files);
}

#[test]
fn nothing_is_left_with_keepers_when_files_are_gone() {
    let (_cluster, client) = start();
    let files = fill(&client);
    assert!((1..SERVERS).any(|id| kept(&client, ServerId(id)) > 0));
    for n in 0..files.len() {
        client.unlink(ROOT, &format!("file{n}"));
    }
    for id in (0..SERVERS).map(ServerId) {
        let what = || format!("{id:?} has {} objects, {} bytes", kept(&client, id), live_bytes(&client, id));
        wait_until(what, || kept(&client, id) == 0 && live_bytes(&client, id) == 0);
    }
}

#[test]
fn without_a_shared_tier_as_well() {
    let mut cluster = Cluster::prepared_with(SERVERS, one_is_small);
    cluster.launch_without_tier();
    let client = Client::connect(&cluster.file);
    let map = cluster.file.map().unwrap();
    let mut files = fill(&client);
    change(&client, &map, &mut files);
    assert_same(&client, &files);
}

#[test]
fn chunks_move_while_they_are_used() {
    // Goal: nothing that was acknowledged is lost by a chunk that moves under writes, holes and reads.
    // Method: threads that each own a stripe of every chunk of one file, and fill the server meanwhile; each compares its stripe all the time.
    const STRIPES: usize = 4;
    const STRIPE: usize = CHUNK / STRIPES;
    let (cluster, client) = start();
    let map = cluster.file.map().unwrap();
    let attr = client
        .ask_home(client.open_file(ROOT, "shared"), &Spill { ino: client.lookup(ROOT, "shared").unwrap() });
    let chunks: Vec<_> = chunks_of_full(&map, attr.ino, 60 * CHUNK);
    let (file, chunks, attr) = (&cluster.file, &chunks, &attr);
    std::thread::scope(|scope| {
        for stripe in 0..STRIPES {
            scope.spawn(move || {
                let client = Client::connect(file);
                let mut model: HashMap<ChunkIndex, Vec<u8>> = HashMap::new();
                for round in 0..400_usize {
                    // New chunks all the time, and those of before again.
                    let known = (round / 6 + 2).min(chunks.len());
                    let chunk = chunks[rand::random_range(0..known)];
                    let have = model.entry(chunk).or_insert_with(|| vec![0; STRIPE]);
                    let (at, len) = (rand::random_range(0..STRIPE - 1), rand::random_range(1..40_000));
                    let len = len.min(STRIPE - at);
                    let offset = (stripe * STRIPE + at) as u32;
                    if round % 5 == 4 {
                        client.punch(attr.ino, chunk, offset, len as u32);
                        have[at..at + len].fill(0);
                    } else {
                        let data = content(rand::random(), len);
                        client.try_write_in_chunk(attr, chunk, offset, &data).unwrap();
                        have[at..at + len].copy_from_slice(&data);
                    }
                    let got = client.read_chunk(attr.ino, chunk);
                    let mine = &got[(stripe * STRIPE).min(got.len())..((stripe + 1) * STRIPE).min(got.len())];
                    assert!(*mine == have[..mine.len()], "round {round}, {chunk:?}");
                    assert!(have[mine.len()..].iter().all(|byte| *byte == 0), "the end is gone");
                }
            });
        }
        scope.spawn(move || {
            // The store becomes full by others meanwhile.
            let client = Client::connect(file);
            for n in 0..8 {
                client.write_file(ROOT, &format!("other{n}"), &content(n, 10 * CHUNK));
                std::thread::sleep(Duration::from_millis(50));
            }
        });
    });
    assert!(figure(&client, "overflow_chunks") > 0);
}

#[test]
fn where_data_is_can_be_asked() {
    // Goal: seeking sees chunks with keepers as it sees others: data, holes, each once.
    let (cluster, client) = start();
    let map = cluster.file.map().unwrap();
    let files = fill(&client);
    for (ino, data) in &files {
        let of_full = chunks_of_full(&map, *ino, data.len());
        let page = client.ask_server(FULL, &ChunkMap { ino: *ino, from: ChunkIndex(0), limit: 3 }).unwrap();
        assert_eq!(
            page.chunks.iter().map(|(chunk, _)| *chunk).collect::<Vec<_>>(),
            of_full[..of_full.len().min(3)]
        );
        assert_eq!(page.end, of_full.len() <= 3);
        for chunk in of_full {
            let end = (data.len() - chunk.0 as usize * CHUNK).min(CHUNK) as u32;
            let ranges = || client.ask_server(FULL, &ChunkRanges { ino: *ino, chunk }).unwrap();
            assert_eq!(ranges(), [(0, end)]);
            // The last chunk of a file is short.
            client.punch(*ino, chunk, 1000, 2000);
            assert_eq!(ranges(), [(0, 1000), (3000, end)]);
        }
    }
}

#[test]
fn a_keeper_that_lost_its_store_is_an_error() {
    let (mut cluster, client) = start();
    let map = cluster.file.map().unwrap();
    let files = fill(&client);
    let keepers: Vec<_> = (1..SERVERS).map(ServerId).filter(|id| kept(&client, *id) > 0).collect();
    drop(client);
    cluster.stop();
    // Not the root's home: else no name is left.
    let lost = *keepers.iter().find(|id| **id != map.owner(ROOT.partition())).expect("two keepers");
    cluster.lose(lost);
    cluster.launch(&plain);
    let client = Client::connect(&cluster.file);
    let (mut errors, mut right) = (0, 0);
    for (ino, data) in &files {
        for chunk in chunks_of_full(&map, *ino, data.len()) {
            let start = chunk.0 as usize * CHUNK;
            match client.try_read_chunk(*ino, chunk) {
                Ok(got) => {
                    assert!(*got == data[start..(start + CHUNK).min(data.len())], "{ino:?} {chunk:?}");
                    right += 1;
                }
                Err(status) => {
                    assert_eq!(status, Status::Io, "{ino:?} {chunk:?}");
                    errors += 1;
                }
            }
        }
    }
    assert!(errors > 0 && right > 0, "{errors} errors, {right} right");
}

#[test]
fn what_must_stay_stays() {
    // Goal: neither what the attribute forbids nor an object of a vault goes elsewhere: both get ENOSPC.
    let (cluster, client) = start();
    let map = cluster.file.map().unwrap();
    let dir = client.mkdir(ROOT, "here");
    client.setxattr(dir, "user.hayate.overflow", "no");
    assert!(!client.try_setxattr(dir, "user.hayate.overflow", "perhaps"));
    let ino = client.open_file(dir, "file");
    let attr = client.ask_home(ino, &Spill { ino });
    let chunks = chunks_of_full(&map, ino, 200 * CHUNK);
    let write = |chunk: &ChunkIndex| client.try_write_in_chunk(&attr, *chunk, 0, &content(chunk.0, CHUNK));
    let refused = chunks.iter().map(write).find_map(Result::err);
    assert_eq!(refused, Some(Status::NoSpace));
    let object = client.ask_server(FULL, &VaultPut { key: "mine".into(), value: Bytes::new() }).unwrap();
    let mut refused = (0..20).map(|n| client.try_write_at(FULL, object, ChunkIndex(n), &content(n, CHUNK)));
    assert_eq!(refused.find_map(Result::err), Some(Status::NoSpace));
    assert_eq!(figure(&client, "overflow_chunks"), 0);
    assert!(client.ask_server(FULL, &VaultDrop { prefix: "mine".into() }).unwrap());
    // Others may, and what is there is right.
    client.setxattr(dir, "user.hayate.overflow", "yes");
    wait_until(|| "still refused".to_owned(), || chunks.iter().all(|chunk| write(chunk).is_ok()));
    for chunk in &chunks {
        assert!(client.read_chunk(ino, *chunk) == content(chunk.0, CHUNK), "{chunk:?}");
    }
}
