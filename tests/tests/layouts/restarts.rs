//! Goal: restarts of servers lose neither bytes nor where they are. Method: servers that end and start again on their stores, all in turn; kills of
//! processes are in `crates/cli/tests`.

use fs_client::Client;
use fs_proto::msg::chunk::ClaimChunk;
use fs_proto::placement::chunk_partition;
use fs_proto::{ChunkIndex, InodeId, ServerId};
use fs_server::ServerConfig;
use fs_server::config::Durability;
use hayate_tests::{Cluster, ClusterOptions, ask_raw, full};

use super::{LAYOUTS, MIB, assert_content, chunks, create, directory, on_node, shown};

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
    models.iter().for_each(|(path, model, _)| assert_content(&old, path, model));
    (0..4).for_each(|server| cluster.restart(server));
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
    let status: serde_json::Value =
        serde_json::from_str(&client.server_status(ServerId(0)).unwrap()).unwrap();
    status["device_syncs"].as_u64().unwrap()
}
