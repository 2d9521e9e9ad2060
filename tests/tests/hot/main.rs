//! Goal: a file that many nodes read is sent by its holder a few times, and nobody reads what was overwritten before (decision 0033).
//! Method: clusters in this process; clients that go through one server each, as those of so many nodes do; what the servers count.

mod coherence;
mod failures;
mod joined;
mod names;
mod relay;
mod tree;

use std::time::{Duration, Instant};

use fs_client::{Client, ClientConfig, File, OpenOptions, Route, ServerId};
use hayate_tests::{Cluster, ClusterOptions, full, open, send_raw, status};

const MIB: u64 = 1 << 20;
/// The server that holds the chunks.
const HOLDER: u16 = 0;
/// How long a lease lasts, from `fs-server/src/hot/mod.rs`, as who lends counts it.
const LEASE_HELD: Duration = Duration::from_millis(2_250);

fn cluster(servers: u16) -> Cluster {
    Cluster::with(ClusterOptions { servers, ..ClusterOptions::default() })
}

/// A client on the node of `server`, that trusts nothing it heard before.
fn on_node(cluster: &Cluster, server: u16) -> Client {
    cluster.strict_client(Route::Gateway(ServerId(server)))
}

/// As [`on_node`], with attributes that are trusted for longer than a test takes: reading asks only for bytes.
fn trusting(cluster: &Cluster, server: u16) -> Client {
    let mut config = ClientConfig::new(cluster.file().clone());
    (config.attr_ttl, config.entry_ttl) = (Duration::from_secs(600), Duration::from_secs(600));
    config.route = Route::Gateway(ServerId(server));
    Client::connect(config).expect("a client connects")
}

/// Makes a directory whose files have their chunks with the server of who makes them.
fn local_directory(client: &Client) {
    client.mkdir_path("/d", 0o777).expect("mkdir");
    client.setxattr_path("/d", fs_client::LAYOUT_ATTRIBUTE, b"local", false, false).expect("layout");
}

/// A file with this content.
fn file(client: &Client, path: &str, content: &[u8]) {
    let file = open(client, path);
    file.write_at(content, 0).expect("write");
    file.close().expect("close");
}

fn reading(client: &Client, path: &str) -> File {
    client.open_path(path, &OpenOptions::read_only()).expect("open")
}

/// What server `server` counts of hot files under `name`.
fn hot(client: &Client, server: u16, name: &str) -> u64 {
    status(client, ServerId(server))["hot"][name].as_u64().unwrap_or_else(|| panic!("no figure {name}"))
}

/// Reads a file on all `nodes` until each of their servers answers from what it keeps.
fn heat(maker: &Client, nodes: &[u16], files: &[File], content: &[u8]) {
    let hits = || nodes.iter().map(|node| hot(maker, *node, "hits")).collect::<Vec<_>>();
    hayate_tests::until("the file is hot", || {
        let before = hits();
        for file in files {
            assert!(file.read_bytes_at(content.len() + 1, 0).expect("read") == content);
        }
        before.iter().zip(hits()).all(|(before, after)| *before < after)
    });
}
