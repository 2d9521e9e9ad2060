//! Goal: restarts of servers lose neither bytes nor where they are. Method: servers that end and start again on their stores, all in turn; kills of
//! processes are in `crates/cli/tests`.

use bytes::Bytes;
use fs_client::Client;
use fs_proto::checksum::crc;
use fs_proto::msg::chunk::{ClaimChunk, WriteChunk};
use fs_proto::msg::small::Spill;
use fs_proto::placement::chunk_partition;
use fs_proto::{ChunkIndex, InodeId, Partition, ServerId};
use fs_server::ServerConfig;
use fs_server::config::Durability;
use hayate_tests::{Cluster, ClusterOptions, ask_raw, full, send_raw, status};

use super::{LAYOUTS, MIB, assert_content, chunks, create, directory, ino, on_node, set, shown};

#[test]
fn what_was_written_is_found_after_restarts() {
    let mut cluster = Cluster::start(4);
    let mut models = Vec::new();
    for layout in LAYOUTS {
        directory(&on_node(&cluster, 0), &format!("/{layout}"), layout);
        let path = format!("/{layout}/file");
        let mut model = Vec::new();
        for node in 0..4_u16 {
            let data = full(3 * MIB / 2, node as u8);
            create(&on_node(&cluster, node), &path).write_at(&data, model.len() as u64).unwrap();
            model.extend(data);
        }
        models.push((path, model, layout));
    }
    let before: Vec<_> = models.iter().map(|(path, ..)| chunks(&on_node(&cluster, 0), path)).collect();
    // This one remembers where chunks are, and that stays right.
    let old = on_node(&cluster, 1);
    for (path, model, _) in &models {
        assert_content(&old, path, model);
    }
    for server in 0..4 {
        cluster.restart(server);
    }
    for ((path, model, layout), before) in models.iter_mut().zip(before) {
        assert!(shown(&old, path).starts_with(*layout));
        for client in [&old, &on_node(&cluster, 3)] {
            assert_content(client, path, model);
            assert_eq!(chunks(client, path), before, "{path}");
        }
        let patch = full(4 * MIB, 9);
        create(&old, path).write_at(&patch, MIB).unwrap();
        model[MIB as usize..][..patch.len()].copy_from_slice(&patch);
        assert_content(&on_node(&cluster, 2), path, model);
        assert_eq!(chunks(&old, path), before, "overwriting moves nothing: {path}");
    }
}

/// Who wrote a chunk reaches it although the server that knows its place is away.
#[test]
fn a_remembered_place_needs_nobody_else() {
    let mut cluster = Cluster::start(4);
    let client = on_node(&cluster, 1);
    directory(&client, "/writer", "writer");
    let file = create(&client, "/writer/file");
    let content = full(8 * MIB, 1);
    file.write_at(&content, 0).unwrap();
    let map = cluster.file().map().unwrap();
    let home = map.owner(file.ino().partition());
    let away =
        (0..4).map(ServerId).find(|server| ![ServerId(1), home].contains(server)).expect("two of four");
    cluster.stop(away.0);
    assert!(file.read_bytes_at(content.len(), 0).unwrap() == content);
    file.write_at(&content, 0).unwrap();
    cluster.restart(away.0);
}

/// A crash between the claim of a chunk and its first byte.
#[test]
fn a_claim_without_bytes_is_a_hole_and_stays_a_claim() {
    let cluster = Cluster::start(4);
    let client = on_node(&cluster, 1);
    directory(&client, "/writer", "writer");
    let file = create(&client, "/writer/file");
    let mut model = full(4 * MIB, 1);
    model[MIB as usize..2 * MIB as usize].fill(0);
    file.write_at(&model[..MIB as usize], 0).unwrap();
    let (ino, chunk) = (file.ino(), ChunkIndex(1));
    let partition = chunk_partition(ino, chunk);
    let owner = cluster.file().map().unwrap().owner(partition);
    let claim = ClaimChunk { ino, chunk, at: Some(ServerId(2)) };
    assert_eq!(ask_raw(&cluster, owner, partition, &claim).unwrap(), ServerId(2));
    file.write_at(&model[2 * MIB as usize..], 2 * MIB).unwrap();
    assert_content(&on_node(&cluster, 3), "/writer/file", &model);
    assert_eq!(file.seek_hole(0).unwrap(), Some(MIB));
    assert_eq!(file.seek_data(MIB).unwrap(), Some(2 * MIB));
    assert_eq!(chunks(&client, "/writer/file"), [(1, 3)]);
    model[MIB as usize + 5] = 7;
    file.write_at(b"\x07", MIB + 5).unwrap();
    assert_content(&on_node(&cluster, 3), "/writer/file", &model);
    assert_eq!(chunks(&client, "/writer/file"), [(1, 3), (2, 1)]);
}

/// A file's content was on its way out of its inode when a server died; then the file is emptied and gets another layout: nothing of the
/// first way is left.
#[test]
fn a_layout_changes_after_a_move_that_was_cut_off() {
    let mut cluster = Cluster::start(4);
    let path = "/file";
    let made = create(&on_node(&cluster, 0), path);
    let home = cluster.file().map().unwrap().owner(made.ino().partition());
    let away = ServerId((home.0 + 1) % 4);
    let client = on_node(&cluster, (home.0 + 2) % 4);
    set(&on_node(&cluster, away.0), path, "local").unwrap();
    create(&client, path).write_at(b"0123456789", 0).unwrap();
    let ino = ino(&client, path);
    cluster.stop(away.0);
    assert!(ask_raw(&cluster, home, ino.partition(), &Spill { ino }).is_err());
    cluster.restart(away.0);
    let (data, theirs) = (Bytes::from_static(b"0123456789"), partition_of(&cluster, away));
    let write = WriteChunk { ino, chunk: ChunkIndex(0), offset: 0, file_end: 10, since: 0, crc: crc(&data) };
    send_raw(&cluster, away, theirs, &write, data).unwrap();
    client.truncate_path(path, 0).unwrap();
    set(&client, path, "writer").unwrap();
    let mut model = vec![0; MIB as usize];
    model.extend(full(MIB, 3));
    create(&client, path).write_at(&model[MIB as usize..], MIB).unwrap();
    create(&client, path).write_at(b"new", 100).unwrap();
    model[100..103].copy_from_slice(b"new");
    assert_content(&on_node(&cluster, away.0), path, &model);
    assert_eq!(chunks(&client, path), [((home.0 + 2) % 4, 2)]);
}

fn partition_of(cluster: &Cluster, server: ServerId) -> Partition {
    cluster.file().map().unwrap().partitions_of(server).next().expect("every server has some")
}

#[test]
fn pointers_are_synced_before_they_are_told() {
    // That what was synced survives the loss of power is the store's promise (fs-server/tests/kv); here: that it is synced.
    let device = |config: &mut ServerConfig| config.durability = Durability::Device;
    for (edit, syncs) in [((|_| ()) as fn(&mut ServerConfig), 0), (device, 20)] {
        let cluster = Cluster::configured(ClusterOptions { servers: 1, ..ClusterOptions::default() }, edit);
        let client = cluster.client();
        let before = device_syncs(&client);
        for chunk in 0..20 {
            let (ino, chunk) = (InodeId(77), ChunkIndex(chunk));
            let request = ClaimChunk { ino, chunk, at: None };
            let holder = ask_raw(&cluster, ServerId(0), chunk_partition(ino, chunk), &request).unwrap();
            assert_eq!(holder, ServerId(0));
        }
        assert_eq!(
            device_syncs(&client) - before,
            syncs,
            "one for each claim, if that is what fsync promises"
        );
    }
}

fn device_syncs(client: &Client) -> u64 {
    status(client, ServerId(0))["device_syncs"].as_u64().unwrap()
}
