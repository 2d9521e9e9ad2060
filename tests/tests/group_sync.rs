//! Group commit: fsyncs that wait at the same time share a sync of the device, and none is left out.

use fs_proto::ServerId;
use fs_server::config::Durability;
use hayate_tests::{Cluster, ClusterOptions, open, status};

const CLIENTS: u64 = 32;
const ROUNDS: u64 = 20;

fn one_server(edit: fn(&mut fs_server::ServerConfig)) -> Cluster {
    Cluster::configured(ClusterOptions { servers: 1, ..ClusterOptions::default() }, edit)
}

/// What `clients` clients at once, each with a small file of its own that it writes and syncs ROUNDS times, have made of syncs of the device.
fn device_syncs(cluster: &Cluster, clients: u64) -> u64 {
    let watcher = cluster.client();
    let count = || status(&watcher, ServerId(0))["device_syncs"].as_u64().expect("a number");
    let before = count();
    std::thread::scope(|scope| {
        for number in 0..clients {
            scope.spawn(move || {
                let client = cluster.client();
                let file = open(&client, &format!("/{clients}-{number}"));
                for round in 0..ROUNDS {
                    file.write_at(&round.to_le_bytes(), 8 * round).expect("a write");
                    file.sync().expect("a sync");
                }
            });
        }
    });
    count() - before
}

#[test]
fn many_fsyncs_share_a_sync_of_the_device() {
    // Goal: alone, each fsync of a small file is one sync of the device; 32 at once are less than half as many syncs as fsyncs. With
    // durability `process` there is none.
    let device = one_server(|config| config.durability = Durability::Device);
    assert_eq!(device_syncs(&device, 1), ROUNDS);
    let syncs = device_syncs(&device, CLIENTS);
    assert!((1..CLIENTS * ROUNDS / 2).contains(&syncs), "{syncs} for {} fsyncs", CLIENTS * ROUNDS);
    let process = one_server(|config| config.durability = Durability::Process);
    assert_eq!(device_syncs(&process, 4), 0);
}
