//! Goal: a cluster whose servers keep their namespaces in sled is like any other: names, small files and large ones, changes across servers, restarts, a scrub. Method: a
//! cluster in this process, and a model of its tree in a few lines.

use std::collections::BTreeMap;

use fs_client::{Client, Route};
use fs_proto::ServerId;
use fs_proto::msg::scrub::Scrub;
use fs_server::config::KvKind;
use hayate_tests::{Cluster, ClusterOptions, full};

const SERVERS: u16 = 3;
const DIRS: usize = 6;
const FILES_OF_DIR: usize = 12;

type Model = BTreeMap<String, Vec<u8>>;

fn make(client: &Client, model: &mut Model) {
    for dir in 0..DIRS {
        client.mkdir_path(format!("/d{dir}"), 0o755).expect("mkdir");
        for file in 0..FILES_OF_DIR {
            let path = format!("/d{dir}/f{file}");
            // One of each directory lies in chunks.
            let len = if file == 0 { 3_000_000 + dir } else { 100 * file };
            let content = full(len as u64, (dir * FILES_OF_DIR + file) as u8);
            client.put(&path, &content, 0o644).expect("put");
            model.insert(path, content);
        }
    }
}

/// Moves, mostly from one server to another, links, removes, and writes again.
fn change(client: &Client, model: &mut Model) {
    for dir in 0..DIRS {
        let next = (dir + 1) % DIRS;
        let at = |dir: usize, name: &str| format!("/d{dir}/{name}");
        client.rename_path(at(dir, "f1"), at(next, "moved")).expect("rename");
        let content = model.remove(&at(dir, "f1")).expect("it is there");
        model.insert(at(next, "moved"), content);
        client.link_path(at(dir, "f2"), at(next, "linked")).expect("link");
        model.insert(at(next, "linked"), model[&at(dir, "f2")].clone());
        client.remove_file(at(dir, "f3")).expect("remove");
        model.remove(&at(dir, "f3"));
        for name in ["f0", "f4"] {
            let content = full(if name == "f0" { 1_500_000 } else { 40 }, 200 + dir as u8);
            client.put(at(dir, name), &content, 0o644).expect("put");
            model.insert(at(dir, name), content);
        }
    }
}

fn check(client: &Client, model: &Model) {
    let mut found = Model::new();
    for dir in 0..DIRS {
        for entry in client.read_dir(format!("/d{dir}")).expect("a listing") {
            let path = format!("/d{dir}/{}", String::from_utf8_lossy(&entry.expect("an entry").name));
            let content = client.get(&path).expect("get").to_vec();
            found.insert(path, content);
        }
    }
    let names = |tree: &Model| tree.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&found), names(model));
    for (path, content) in model {
        assert!(found[path] == *content, "{path} has another content");
    }
}

/// Verifies everything; answers how many records and bytes there were.
fn scrub(client: &Client) -> (u64, u64) {
    let (mut records, mut bytes) = (0, 0);
    for server in (0..SERVERS).map(ServerId) {
        let mut after = None;
        loop {
            let page = client.scrub(server, &Scrub { after, budget_bytes: 1 << 20 }).expect("a scrub");
            assert!(page.damaged.is_empty() && page.repaired == 0, "{page:?}");
            (records, bytes) = (records + page.records, bytes + page.bytes);
            after = page.next;
            if after.is_none() {
                break;
            }
        }
    }
    (records, bytes)
}

#[test]
fn a_cluster_on_sled_keeps_names_and_contents() {
    let options = ClusterOptions { servers: SERVERS, ..ClusterOptions::default() };
    let mut cluster = Cluster::configured(options, |config| config.kv = KvKind::Sled);
    for id in 0..SERVERS {
        assert!(cluster.store_dir(id).join("namespace/db").exists(), "server {id} does not use sled");
    }
    let client = cluster.strict_client(Route::Auto);
    let mut model = Model::new();
    make(&client, &mut model);
    check(&client, &model);
    (0..SERVERS).for_each(|id| cluster.restart(id));
    check(&client, &model);
    change(&client, &mut model);
    check(&client, &model);
    (0..SERVERS).for_each(|id| cluster.restart(id));
    let client = cluster.strict_client(Route::Auto);
    check(&client, &model);
    let (records, bytes) = scrub(&client);
    assert!(records > model.len() as u64 && bytes >= 6 * 1_500_000, "{records} records, {bytes} bytes");
}
