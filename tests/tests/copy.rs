//! Goal: a copy made by the servers is what a copy through the client would be. Method: files over several chunks and servers, ranges that are
//! aligned and that are not, against models in memory, through several clients.

use fs_client::{File, Route};
use fs_proto::ServerId;
use hayate_tests::{Cluster, full, open};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

const CHUNK: u64 = 1 << 20;

fn assert_is(file: &File, model: &[u8], what: &str) {
    assert_eq!(file.attr().unwrap().size, model.len() as u64, "{what}: size");
    let bytes = file.read_bytes_at(model.len() + 1, 0).unwrap();
    assert!(bytes == model, "{what}: content");
}

/// What a copy does to a model; answers how many bytes.
fn copied(from: &[u8], at: u64, to: &mut Vec<u8>, start: u64, len: u64) -> u64 {
    let end = (at + len).min(from.len() as u64);
    if at >= end {
        return 0;
    }
    let part = from[at as usize..end as usize].to_vec();
    let target = start as usize..start as usize + part.len();
    to.resize(to.len().max(target.end), 0);
    to[target].copy_from_slice(&part);
    end - at
}

#[test]
fn copies_of_any_range_are_right() {
    let cluster = Cluster::start(4);
    let (one, two) = (cluster.strict_client(Route::Auto), cluster.strict_client(Route::Gateway(ServerId(2))));
    let (a, b) = (open(&one, "/a"), open(&one, "/b"));
    let mut models = [full(5 * CHUNK + 321, 1), full(2 * CHUNK + 5, 2)];
    a.write_at(&models[0], 0).unwrap();
    b.write_at(&models[1], 0).unwrap();
    let seed = rand::random();
    let mut random = StdRng::seed_from_u64(seed);
    for n in 0..40 {
        let client = if n % 3 == 0 { &two } else { &one };
        let (files, from) = ([open(client, "/a"), open(client, "/b")], n % 2);
        let aligned = random.random_bool(0.3);
        let mut place = |most: u64| {
            let at = random.random_range(0..most);
            if aligned { at & !(CHUNK - 1) } else { at }
        };
        let (at, start, len) = (place(6 * CHUNK), place(6 * CHUNK), place(3 * CHUNK));
        let [first, second] = &mut models;
        let (source, target) = if from == 0 { (first, second) } else { (second, first) };
        let expected = copied(source, at, target, start, len);
        let count = files[from].copy_range_to(at, &files[1 - from], start, len).unwrap();
        assert_eq!(count, expected, "seed {seed}, copy {n} of {len} from {at} to {start}");
        drop(files);
        for (path, model) in [("/a", &models[0]), ("/b", &models[1])] {
            assert_is(
                &open(&two, path),
                model,
                &format!("{path}, seed {seed}, copy {n} of {len} from {at} to {start}"),
            );
        }
    }
}

#[test]
fn holes_are_copied_as_holes() {
    let cluster = Cluster::start(3);
    let client = cluster.strict_client(Route::Auto);
    let (a, b) = (open(&client, "/a"), open(&client, "/b"));
    let mut model = full(4 * CHUNK, 3);
    a.write_at(&model, 0).unwrap();
    b.write_at(&full(6 * CHUNK, 4), 0).unwrap();
    for hole in [CHUNK / 2..CHUNK / 2 + 100_000, 2 * CHUNK - 5000..3 * CHUNK + 70_000] {
        a.punch(hole.clone()).unwrap();
        model[hole.start as usize..hole.end as usize].fill(0);
    }
    a.set_len(5 * CHUNK).unwrap();
    model.resize(5 * CHUNK as usize, 0);
    assert_eq!(a.copy_range_to(0, &b, 0, u64::MAX / 2).unwrap(), 5 * CHUNK);
    b.set_len(5 * CHUNK).unwrap();
    assert_is(&b, &model, "the copy");
    let (mut at, mut seen) = (0, Vec::new());
    while let Some(hole) = a.seek_hole(at).unwrap().filter(|hole| *hole < 5 * CHUNK) {
        assert_eq!(b.seek_hole(at).unwrap(), Some(hole), "after {seen:?}");
        seen.push(hole);
        let Some(data) = a.seek_data(hole).unwrap() else { break };
        assert_eq!(b.seek_data(hole).unwrap(), Some(data));
        at = data;
    }
    assert_eq!(seen.len(), 3, "two holes and the end: {seen:?}");
}

#[test]
fn a_hole_of_exbibytes_is_copied_at_once() {
    let cluster = Cluster::start(3);
    let client = cluster.strict_client(Route::Auto);
    let (a, b) = (open(&client, "/a"), open(&client, "/b"));
    let last = i64::MAX as u64 - 10;
    a.write_at(b"beginning", 0).unwrap();
    a.write_at(b"end", last).unwrap();
    b.write_at(&full(3 * CHUNK, 5), 0).unwrap();
    assert_eq!(a.copy_range_to(0, &b, 0, u64::MAX).unwrap(), last + 3);
    assert_eq!(b.attr().unwrap().size, last + 3);
    assert_eq!(b.read_bytes_at(3, last).unwrap(), &b"end"[..]);
    assert_eq!(b.read_bytes_at(12, 0).unwrap(), &b"beginning\0\0\0"[..]);
    assert_eq!(b.seek_data(CHUNK).unwrap(), a.seek_data(CHUNK).unwrap());
    assert_eq!(b.read_bytes_at(5000, CHUNK).unwrap(), vec![0; 5000], "what was there is a hole now");
}

#[test]
fn small_files_grow_out_of_their_inodes() {
    let cluster = Cluster::start(3);
    let client = cluster.strict_client(Route::Auto);
    let (small, large, copy) = (open(&client, "/small"), open(&client, "/large"), open(&client, "/copy"));
    small.write_at(b"small", 0).unwrap();
    large.write_at(&full(2 * CHUNK, 6), 0).unwrap();
    assert_eq!(small.copy_range_to(1, &copy, 3, 100).unwrap(), 4);
    assert_is(&copy, b"\0\0\0mall", "small to small");
    assert_eq!(large.copy_range_to(0, &copy, 7, 100).unwrap(), 100);
    assert!(copy.attr().unwrap().inline, "a few bytes of a large one");
    assert_eq!(large.copy_range_to(0, &copy, 7, CHUNK).unwrap(), CHUNK);
    let model = [b"\0\0\0mall", &full(2 * CHUNK, 6)[..CHUNK as usize]].concat();
    assert!(!copy.attr().unwrap().inline);
    assert_is(&copy, &model, "large to small");
    assert_eq!(small.copy_range_to(0, &large, 2 * CHUNK, 9).unwrap(), 5);
    assert_eq!(large.attr().unwrap().size, 2 * CHUNK + 5);
}

#[test]
fn what_makes_no_sense_is_refused() {
    let cluster = Cluster::start(2);
    let client = cluster.strict_client(Route::Auto);
    let file = open(&client, "/f");
    file.write_at(&full(CHUNK, 7), 0).unwrap();
    let errno = |result: fs_client::Result<u64>| result.unwrap_err().errno();
    assert_eq!(errno(file.copy_range_to(0, &file, 100, 200)), libc::EINVAL, "over itself");
    assert_eq!(file.copy_range_to(0, &file, CHUNK, CHUNK).unwrap(), CHUNK, "beside itself");
    assert_is(&file, &[full(CHUNK, 7), full(CHUNK, 7)].concat(), "twice itself");
    assert_eq!(file.copy_range_to(2 * CHUNK, &file, 0, 10).unwrap(), 0, "nothing beyond the end");
    assert_eq!(errno(file.copy_range_to(0, &open(&client, "/g"), i64::MAX as u64 - 5, 10)), libc::EFBIG);
    let reader = client.open(&fs_client::Caller::ROOT, file.ino(), fs_client::OpenFlags::READ).unwrap();
    assert!(file.copy_range_to(0, &reader, 4 * CHUNK, 10).is_err(), "not open for writing");
}

#[test]
fn servers_that_copy_to_each_other_end() {
    let cluster = Cluster::start(2);
    let files: Vec<u64> = (0..8).collect();
    let client = cluster.strict_client(Route::Auto);
    for n in &files {
        open(&client, &format!("/f{n}")).write_at(&full(16 * CHUNK, *n as u8), 0).unwrap();
    }
    std::thread::scope(|scope| {
        for n in &files {
            let client = &client;
            scope.spawn(move || {
                let (from, to) = (open(client, &format!("/f{n}")), open(client, &format!("/copy{n}")));
                assert_eq!(from.copy_range_to(0, &to, CHUNK / 2, 16 * CHUNK).unwrap(), 16 * CHUNK);
            });
        }
    });
    for n in files {
        let copy = open(&client, &format!("/copy{n}"));
        assert!(copy.read_bytes_at(16 * CHUNK as usize, CHUNK / 2).unwrap() == full(16 * CHUNK, n as u8));
    }
}

#[test]
fn a_copy_that_is_not_published_is_seen_by_others() {
    let cluster = Cluster::start(3);
    let (one, two) = (cluster.strict_client(Route::Auto), cluster.strict_client(Route::Auto));
    let (a, b) = (open(&one, "/a"), open(&one, "/b"));
    a.write_at(&full(3 * CHUNK, 8), 0).unwrap();
    b.write_at(&full(CHUNK, 9), 0).unwrap();
    let before = two.stat("/b").unwrap();
    a.copy_range_to(0, &b, CHUNK, 2 * CHUNK).unwrap();
    let now = two.stat("/b").unwrap();
    assert_eq!((before.size, now.size), (CHUNK, 3 * CHUNK));
    b.close().unwrap();
    let after = two.stat("/b").unwrap();
    assert!(after.mtime > before.mtime && after.version > before.version);
}
