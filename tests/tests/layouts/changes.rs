//! Goal: what changes a file (cutting, holes, copies, removal, flushing) reaches its bytes wherever they are, and leaves nothing behind.

use fs_client::{Client, File, InodeId, Route};
use fs_proto::ChunkIndex;
use fs_proto::ServerId;
use fs_proto::msg::chunk::FindChunks;
use fs_proto::placement::chunk_partition;
use hayate_tests::{Cluster, ClusterOptions, ask_raw, full, status, until};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::{LAYOUTS, assert_content, chunks, create, directory, ino, on_node};

const CHUNK: u64 = 64 << 10;

/// A file, written by four nodes a block of 1.5 chunks each, and what it must hold.
fn dumped(cluster: &Cluster, layout: &str, path: &str, blocks: u64) -> Vec<u8> {
    let files: Vec<File> = (0..4).map(|node| create(&on_node(cluster, node), path)).collect();
    let block = CHUNK + CHUNK / 2;
    let mut model = Vec::new();
    for i in 0..blocks {
        let data = full(block, i as u8);
        files[i as usize % 4].write_at(&data, i * block).unwrap();
        model.extend(data);
    }
    assert_content(&on_node(cluster, 3), path, &model);
    assert!(layout == "local" || chunks(&on_node(cluster, 3), path).len() == 4);
    model
}

fn with_each_layout(test: impl Fn(&Cluster, &str, &str)) {
    let cluster = Cluster::start(4);
    for layout in LAYOUTS {
        let dir = format!("/{layout}");
        directory(&on_node(&cluster, 1), &dir, &format!("{layout},chunk=64K"));
        test(&cluster, layout, &format!("{dir}/file"));
    }
}

#[test]
fn a_cut_reaches_every_chunk() {
    with_each_layout(|cluster, layout, path| {
        let mut model = dumped(cluster, layout, path, 16);
        let file = create(&on_node(cluster, 2), path);
        for size in [20 * CHUNK + 5, 7 * CHUNK, 100, 0] {
            file.set_len(size).unwrap();
            model.truncate(size as usize);
            assert_content(&on_node(cluster, 0), path, &model);
        }
        // Nothing of before comes back when it grows.
        file.set_len(24 * CHUNK).unwrap();
        model.resize(24 * CHUNK as usize, 0);
        assert_content(&on_node(cluster, 1), path, &model);
        let data = full(3 * CHUNK, 77);
        create(&on_node(cluster, 3), path).write_at(&data, 2 * CHUNK + 9).unwrap();
        model[(2 * CHUNK + 9) as usize..][..data.len()].copy_from_slice(&data);
        assert_content(&on_node(cluster, 0), path, &model);
    });
}

#[test]
fn holes_are_made_and_found_in_every_layout() {
    with_each_layout(|cluster, layout, path| {
        let mut model = dumped(cluster, layout, path, 16);
        let file = create(&on_node(cluster, 2), path);
        for hole in [CHUNK / 2..CHUNK, 3 * CHUNK + 10..9 * CHUNK + 5] {
            file.punch(hole.clone()).unwrap();
            model[hole.start as usize..hole.end as usize].fill(0);
        }
        file.set_len(400 * CHUNK).unwrap();
        model.resize(400 * CHUNK as usize, 0);
        file.write_at(b"end", 300 * CHUNK).unwrap();
        model[300 * CHUNK as usize..][..3].copy_from_slice(b"end");
        assert_content(&on_node(cluster, 0), path, &model);
        let reader = create(&on_node(cluster, 1), path);
        let sought = |from: u64, what: bool| {
            let found = model[from as usize..].iter().position(|byte| (*byte != 0) == what);
            found.map(|at| from + at as u64)
        };
        for from in [0, CHUNK / 2 + 3, CHUNK, 4 * CHUNK, 20 * CHUNK, 250 * CHUNK, 301 * CHUNK] {
            assert_eq!(reader.seek_data(from).unwrap(), sought(from, true), "{layout}: data from {from}");
            assert_eq!(reader.seek_hole(from).unwrap(), sought(from, false), "{layout}: a hole from {from}");
        }
        reader.punch(0..400 * CHUNK).unwrap();
        model.fill(0);
        assert_content(&on_node(cluster, 0), path, &model);
    });
}

#[test]
fn copies_between_all_layouts_are_right() {
    let cluster = Cluster::start(4);
    for layout in LAYOUTS {
        directory(&on_node(&cluster, 1), &format!("/{layout}"), &format!("{layout},chunk=64K"));
    }
    let seed = rand::random();
    let mut random = StdRng::seed_from_u64(seed);
    for from in LAYOUTS {
        let source = format!("/{from}/source");
        let model = dumped(&cluster, from, &source, 12);
        create(&on_node(&cluster, 0), &source).set_len(40 * CHUNK).unwrap();
        for to in LAYOUTS {
            let client = on_node(&cluster, random.random_range(0..4));
            let target = format!("/{to}/from-{from}");
            let (a, b) = (create(&client, &source), create(&client, &target));
            let (at, start) = (random.random_range(0..10 * CHUNK), random.random_range(0..5 * CHUNK));
            let count = a.copy_range_to(at, &b, start, 30 * CHUNK).unwrap();
            let what = format!("seed {seed}: {from} to {to}, {at} to {start}");
            assert_eq!(count, 30 * CHUNK, "{what}");
            let mut padded = model.clone();
            padded.resize(40 * CHUNK as usize, 0);
            let expected = [&vec![0; start as usize], &padded[at as usize..][..count as usize]].concat();
            let got = create(&on_node(&cluster, 3), &target).read_bytes_at(expected.len() + 1, 0).unwrap();
            assert!(got == expected, "{what}");
        }
    }
}

fn chunk_count(client: &Client) -> u64 {
    let of = |server| status(client, ServerId(server))["chunks"]["count"].as_u64().unwrap();
    (0..4).map(of).sum()
}

/// Records of where chunks are, at all servers.
fn pointers(cluster: &Cluster, ino: InodeId) -> usize {
    let map = cluster.file().map().unwrap();
    let one = |server: u16| {
        let chunk =
            (0..64).map(ChunkIndex).find(|chunk| map.owner(chunk_partition(ino, *chunk)) == ServerId(server));
        let chunk = chunk.expect("every server has some of consecutive partitions");
        let request = FindChunks { ino, from: ChunkIndex(0), limit: 4096 };
        ask_raw(cluster, ServerId(server), chunk_partition(ino, chunk), &request).unwrap().len()
    };
    (0..4).map(one).sum()
}

#[test]
fn removal_leaves_nothing_behind() {
    with_each_layout(|cluster, layout, path| {
        let client = on_node(cluster, 0);
        assert_eq!(chunk_count(&client), 0);
        dumped(cluster, layout, path, 16);
        let ino = ino(&client, path);
        assert_eq!(chunk_count(&client), 24);
        assert_eq!(pointers(cluster, ino), if layout == "writer" { 24 } else { 0 });
        create(&client, path).set_len(CHUNK).unwrap();
        client.remove_file(path).unwrap();
        let gone = || chunk_count(&client) == 0 && pointers(cluster, ino) == 0;
        until(&format!("{layout}: chunks of a removed file go"), gone);
    });
}

#[test]
fn a_removed_file_that_was_cut_leaves_no_pointers() {
    let cluster = Cluster::start(4);
    let client = on_node(&cluster, 2);
    directory(&client, "/writer", "writer,chunk=64K");
    dumped(&cluster, "writer", "/writer/file", 8);
    let ino = ino(&client, "/writer/file");
    create(&client, "/writer/file").set_len(0).unwrap();
    client.remove_file("/writer/file").unwrap();
    until("pointers of an empty, removed file go", || pointers(&cluster, ino) == 0);
}

#[test]
fn every_layout_reaches_the_shared_tier() {
    let cluster = Cluster::with(ClusterOptions { tier: true, ..ClusterOptions::default() });
    let mut models = Vec::new();
    for layout in LAYOUTS {
        directory(&on_node(&cluster, 1), &format!("/{layout}"), &format!("{layout},chunk=64K"));
        let path = format!("/{layout}/file");
        let mut model = dumped(&cluster, layout, &path, 16);
        let file = create(&on_node(&cluster, 3), &path);
        file.punch(2 * CHUNK..6 * CHUNK).unwrap();
        model[2 * CHUNK as usize..6 * CHUNK as usize].fill(0);
        file.set_len(20 * CHUNK + 11).unwrap();
        model.truncate(20 * CHUNK as usize + 11);
        file.close().unwrap();
        models.push((path, model));
    }
    let client = cluster.client_by(Route::Owners);
    client.flush_now(true).unwrap();
    for (path, model) in models {
        let copy = cluster.tier().unwrap().join(path.trim_start_matches('/'));
        let is_there = || std::fs::read(&copy).is_ok_and(|bytes| bytes == model);
        until(&format!("{path} reaches the shared tier as it is"), is_there);
    }
}
