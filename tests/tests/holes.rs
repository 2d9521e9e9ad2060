//! Goal: holes can be made anywhere, read as zeros everywhere, take no space, come neither back nor go, reach the shared tier, and are
//! found by whoever seeks. Method: files over several chunks and servers, against a model in memory, through several clients.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use fs_client::{Client, File, OpenOptions, Route};
use fs_proto::ServerId;
use hayate_tests::{Cluster, ClusterOptions, full, open};

const CHUNK: u64 = 1 << 20;

/// Goes from data to data: the holes on the way, the end of the file included if it is one.
fn holes(file: &File) -> Vec<Range<u64>> {
    let (mut found, mut at) = (Vec::new(), 0);
    let size = file.attr().unwrap().size;
    while let Some(begin) = file.seek_hole(at).unwrap().filter(|begin| *begin < size) {
        let end = file.seek_data(begin).unwrap().unwrap_or(size);
        found.push(begin..end);
        at = end;
    }
    found
}

fn holes_of(model: &[u8]) -> Vec<Range<u64>> {
    let (mut found, mut at) = (Vec::new(), 0);
    while let Some(begin) = model[at..].iter().position(|byte| *byte == 0).map(|begin| at + begin) {
        at = model[begin..].iter().position(|byte| *byte != 0).map_or(model.len(), |len| begin + len);
        found.push(begin as u64..at as u64);
    }
    found
}

fn assert_is(file: &File, model: &[u8], what: &str) {
    let bytes = file.read_bytes_at(model.len() + 1, 0).unwrap();
    assert!(bytes == model, "{what}: {} bytes, {} expected", bytes.len(), model.len());
    assert_eq!(holes(file), holes_of(model), "{what}");
}

fn live_bytes(cluster: &Cluster) -> u64 {
    let of = |id: u16| {
        let address = cluster.file().member(ServerId(id)).unwrap().metrics.as_deref().unwrap();
        let mut socket = TcpStream::connect(address).unwrap();
        write!(socket, "GET /metrics HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").unwrap();
        let mut page = String::new();
        socket.read_to_string(&mut page).unwrap();
        let line = page.lines().find(|line| line.starts_with("hayate_chunk_live_bytes ")).unwrap();
        line.rsplit(' ').next().unwrap().parse::<f64>().unwrap() as u64
    };
    (0..cluster.file().members.len() as u16).map(of).sum()
}

#[test]
fn holes_in_the_middle_across_chunks_and_beyond_the_end() {
    let mut cluster = Cluster::start(4);
    let (one, two) = (cluster.strict_client(Route::Auto), cluster.strict_client(Route::Gateway(ServerId(2))));
    let (file, other) = (open(&one, "/f"), open(&two, "/f"));
    let size = 12 * CHUNK + 12_345;
    let mut model = full(size, 3);
    file.write_at(&model, 0).unwrap();
    let before = live_bytes(&cluster);
    let ranges = [
        100..300,
        CHUNK - 5000..CHUNK,
        2 * CHUNK..3 * CHUNK,
        4 * CHUNK - 1..4 * CHUNK + 1,
        5 * CHUNK + 17..9 * CHUNK + 4097,
        size - 10..size + 5 * CHUNK,
        size + CHUNK..size + 2 * CHUNK,
    ];
    for (n, range) in ranges.into_iter().enumerate() {
        let (by, seen_by) = if n % 2 == 0 { (&file, &other) } else { (&other, &file) };
        let within = range.start.min(size) as usize..range.end.min(size) as usize;
        model[within].fill(0);
        by.punch(range.clone()).unwrap();
        assert_eq!(seen_by.attr().unwrap().size, size, "no hole changes the size");
        assert_is(seen_by, &model, &format!("hole {range:?}"));
    }
    let zeros: u64 = holes_of(&model).iter().map(|hole| hole.end - hole.start).sum();
    assert_eq!(live_bytes(&cluster), before - zeros, "holes take no space");
    drop((file, other));
    for id in 0..4 {
        cluster.restart(id);
    }
    let file = open(&one, "/f");
    assert_is(&file, &model, "after a restart");
    file.zero_range(size - 50..size + CHUNK, false).unwrap();
    model[size as usize - 50..].fill(0);
    model.resize((size + CHUNK) as usize, 0);
    assert_is(&open(&two, "/f"), &model, "zeros beyond the end");
}

#[test]
fn a_hole_changes_time_and_version_as_a_write() {
    let cluster = Cluster::start(3);
    let (client, other) = (cluster.client(), cluster.strict_client(Route::Auto));
    for (path, size) in [("/small", 1000), ("/large", 3 * CHUNK)] {
        let file = open(&client, path);
        file.write_at(&full(size, 1), 0).unwrap();
        file.flush().unwrap();
        let before = other.stat(path).unwrap();
        file.punch(10..20).unwrap();
        file.close().unwrap();
        let after = other.stat(path).unwrap();
        assert!(after.mtime > before.mtime && after.ctime > before.ctime, "{path}");
        assert!(after.version > before.version && after.size == before.size, "{path}");
    }
}

#[test]
fn cuts_holes_and_writes_follow_each_other() {
    let cluster = Cluster::start(3);
    let (one, two) = (cluster.strict_client(Route::Auto), cluster.strict_client(Route::Auto));
    let (file, other) = (open(&one, "/f"), open(&two, "/f"));
    let mut model = full(4 * CHUNK, 9);
    file.write_at(&model, 0).unwrap();
    file.punch(CHUNK / 2..3 * CHUNK + CHUNK / 2).unwrap();
    model[CHUNK as usize / 2..(3 * CHUNK + CHUNK / 2) as usize].fill(0);
    file.flush().unwrap(); // Until it has published, a writer believes that the file reaches to where it wrote.
    other.set_len(3 * CHUNK).unwrap();
    model.truncate(3 * CHUNK as usize);
    assert_is(&file, &model, "cut within a hole");
    other.set_len(5 * CHUNK).unwrap();
    model.resize(5 * CHUNK as usize, 0);
    assert_is(&file, &model, "what was cut stays a hole");
    file.write_at(&[7; 10], 4 * CHUNK - 5).unwrap();
    model[4 * CHUNK as usize - 5..4 * CHUNK as usize + 5].fill(7);
    assert_is(&other, &model, "written into a hole");
    other.punch(0..u64::MAX / 2).unwrap();
    model.fill(0);
    assert_is(&file, &model, "all a hole");
    assert_eq!((file.seek_data(0).unwrap(), file.seek_hole(5).unwrap()), (None, Some(5)));
}

#[test]
fn what_somebody_else_wrote_and_did_not_publish_is_data() {
    let cluster = Cluster::start(3);
    let (one, two) = (cluster.strict_client(Route::Auto), cluster.strict_client(Route::Auto));
    let (file, other) = (open(&one, "/f"), open(&two, "/f"));
    file.write_at(&[7; 100], 30 * CHUNK).unwrap();
    assert_eq!(other.seek_data(0).unwrap(), Some(30 * CHUNK));
    assert_eq!(other.seek_hole(30 * CHUNK).unwrap(), Some(30 * CHUNK + 100));
    assert_eq!(other.seek_hole(30 * CHUNK + 100).unwrap(), None);
    assert_eq!(other.seek_hole(0).unwrap(), Some(0));
}

#[test]
fn clients_that_punch_and_write_at_once_do_not_meet() {
    let cluster = Cluster::start(4);
    let clients: Vec<Client> = (0..4).map(|_| cluster.client()).collect();
    let size = 8 * CHUNK;
    let piece = 10_000u64;
    open(&clients[0], "/f").write_at(&full(size, 0), 0).unwrap();
    // Every client has every fourth piece: of those it punches the even ones and writes the others again.
    std::thread::scope(|scope| {
        for (n, client) in clients.iter().enumerate() {
            scope.spawn(move || {
                let file = open(client, "/f");
                for i in (n as u64..size / piece).step_by(4) {
                    let range = i * piece..(i + 1) * piece;
                    match i / 4 % 2 {
                        0 => file.punch(range).unwrap(),
                        _ => file.write_at(&full(piece, i as u8), range.start).unwrap(),
                    }
                }
                file.close().unwrap();
            });
        }
    });
    let mut model = full(size, 0);
    for i in 0..size / piece {
        let part = &mut model[(i * piece) as usize..((i + 1) * piece) as usize];
        if i / 4 % 2 == 0 { part.fill(0) } else { part.copy_from_slice(&full(piece, i as u8)) }
    }
    assert_is(&open(&cluster.client(), "/f"), &model, "after all");
}

#[test]
fn the_largest_file_is_searched_and_punched_at_once() {
    let cluster = Cluster::start(4);
    let client = cluster.client();
    let file = open(&client, "/f");
    let (end, far) = (i64::MAX as u64, i64::MAX as u64 / 3);
    file.write_at(&vec![7; 3 << 20], far).unwrap();
    file.write_at(b"x", 5).unwrap();
    file.set_len(end).unwrap();
    assert_eq!(holes(&file), [0..5, 6..far, far + (3 << 20)..end]);
    file.punch(6..end - 6).unwrap();
    assert_eq!(holes(&file), [0..5, 6..end]);
}

#[test]
fn small_files_have_zeros_for_holes() {
    let cluster = Cluster::start(3);
    let (one, two) = (cluster.strict_client(Route::Auto), cluster.strict_client(Route::Auto));
    let (file, other) = (open(&one, "/f"), open(&two, "/f"));
    let mut model = full(1000, 5);
    file.write_at(&model, 0).unwrap();
    let read = two.open_path("/f", &OpenOptions::read_only()).unwrap();
    for range in [0..10, 400..600, 990..5000, 2000..3000] {
        file.punch(range.clone()).unwrap();
        model[range.start.min(1000) as usize..range.end.min(1000) as usize].fill(0);
        assert!(
            other.read_bytes_at(2000, 0).unwrap() == model && read.read_bytes_at(2000, 0).unwrap() == model
        );
    }
    assert!(two.stat("/f").unwrap().inline, "a hole does not move it");
    assert_eq!((other.seek_data(3).unwrap(), other.seek_hole(3).unwrap()), (Some(3), Some(1000)));
    file.zero_range(900..1500, false).unwrap();
    model[900..].fill(0);
    model.resize(1500, 0);
    assert!(two.stat("/f").unwrap().inline && other.read_bytes_at(2000, 0).unwrap() == model);
    file.punch(0..1500).unwrap();
    file.write_at(b"end", 1499).unwrap();
    assert_eq!(other.read_bytes_at(2000, 1490).unwrap(), "\0\0\0\0\0\0\0\0\0end");
    file.zero_range(1000..2 * CHUNK, false).unwrap();
    assert_eq!(two.stat("/f").unwrap().size, 2 * CHUNK);
    assert!(!two.stat("/f").unwrap().inline);
    assert_eq!(other.seek_data(2000).unwrap(), None, "in chunks, what was not written is a hole");
}

/// Waits until the copy in the tier is `model`; answers the bytes that it takes there.
fn flushed(client: &Client, copy: &std::path::Path, model: &[u8]) -> u64 {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        client.flush_now(true).unwrap();
        if std::fs::read(copy).is_ok_and(|bytes| bytes == model) {
            return std::fs::metadata(copy).unwrap().blocks() * 512;
        }
        assert!(Instant::now() < deadline, "the copy in the tier is not what the file is");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_hole_reaches_the_tier_and_takes_no_space_there() {
    let cluster = Cluster::with(ClusterOptions { servers: 3, tier: true, ..ClusterOptions::default() });
    let client = cluster.client();
    let file = open(&client, "/f");
    let mut model = full(6 * CHUNK, 2);
    file.write_at(&model, 0).unwrap();
    file.flush().unwrap();
    let copy = cluster.tier().unwrap().join("f");
    let before = flushed(&client, &copy, &model);
    for range in [CHUNK / 4..CHUNK / 2 + 1, 2 * CHUNK..5 * CHUNK, 6 * CHUNK - 100..6 * CHUNK] {
        file.punch(range.clone()).unwrap();
        model[range.start as usize..range.end as usize].fill(0);
    }
    file.close().unwrap();
    let after = flushed(&client, &copy, &model);
    assert!(after + 3 * CHUNK <= before, "{after} bytes after, {before} before");
    let file = open(&client, "/small");
    file.write_at(&full(100, 1), 0).unwrap();
    flushed(&client, &cluster.tier().unwrap().join("small"), &full(100, 1));
    file.punch(0..50).unwrap();
    file.close().unwrap();
    let mut model = full(100, 1);
    model[..50].fill(0);
    flushed(&client, &cluster.tier().unwrap().join("small"), &model);
}
