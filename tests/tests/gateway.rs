//! Goal: a server without a store is a gateway, and what servers know of each other does not grow with the clients behind one.
//! Method: three servers, the last of weight 0; all clients go through it.

use fs_client::{OpenOptions, Route};
use fs_proto::ServerId;
use hayate_tests::{Cluster, ClusterOptions, full, open, status};
use serde_json::Value;

const GATEWAY: u16 = 2;
/// Threads that serve, of each server (`hayate_tests::Cluster`).
const WORKERS: u64 = 2;

fn cluster() -> Cluster {
    Cluster::with(ClusterOptions { servers: 3, gateways: 1, ..ClusterOptions::default() })
}

#[test]
fn a_server_without_weight_serves_and_keeps_nothing() {
    let cluster = cluster();
    let client = cluster.strict_client(Route::Gateway(ServerId(GATEWAY)));
    client.mkdir_path("/d", 0o755).expect("mkdir");
    let data = full(3 << 20, 5);
    for name in 0..20 {
        let file = open(&client, &format!("/d/{name}"));
        file.write_at(&data, 0).expect("write");
        file.close().expect("close");
    }
    for name in 0..20 {
        let file = client.open_path(format!("/d/{name}"), &OpenOptions::read_only()).expect("open");
        let mut back = vec![0; data.len()];
        assert_eq!(file.read_at(&mut back, 0).expect("read"), data.len());
        assert!(back == data);
    }
    let gateway = status(&client, ServerId(GATEWAY));
    let number = |pointer: &str| gateway.pointer(pointer).and_then(Value::as_u64);
    assert_eq!(
        (number("/partitions"), number("/inodes"), number("/chunks/count")),
        (Some(0), Some(0), Some(0))
    );
    let forwarded = number("/messages_sent").expect("a number");
    assert!(forwarded > 100, "{forwarded} messages through the gateway");
}

#[test]
fn clients_behind_a_gateway_cost_the_other_servers_no_connection() {
    let cluster = cluster();
    let clients: Vec<_> = (0..40).map(|_| cluster.strict_client(Route::Gateway(ServerId(GATEWAY)))).collect();
    drop(open(&clients[0], "/shared"));
    let files: Vec<_> = clients
        .iter()
        .map(|client| client.open_path("/shared", &OpenOptions::read_only()).expect("open"))
        .collect();
    for server in 0..2 {
        let seen = status(&clients[0], ServerId(server))["connections"].as_u64().expect("a number");
        // Both directions count, and each thread of a server has its own connections, one for data: those that serve, the flusher, the first.
        let bound = 2 * 2 * 3 * (WORKERS + 2);
        assert!(seen <= bound, "server {server} has {seen} connections for {} clients", clients.len());
    }
    let gateway = status(&clients[0], ServerId(GATEWAY));
    assert!(gateway["connections"].as_u64() >= Some(40), "{gateway}");
    drop(files);
}
