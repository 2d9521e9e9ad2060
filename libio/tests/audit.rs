//! Goal: who looks after a set is told of every place that is damaged, though reading makes up for it. Method: one place after the other is damaged, or taken
//! away, in a real cluster, and mended again; each time exactly that place is named.

use std::path::{Path, PathBuf};
use std::time::Duration;

use fs_client::{Client, OpenOptions, ServerId, Spot};
use hayate_tests::{Cluster, ClusterOptions};
use libio::{Checkpoints, Level, Options, Redundancy};

const SET: &str = "set";
const ROOT: &str = "/ckpt/set";
const BYTES: usize = (5 << 20) + 321;

fn start() -> (Cluster, Client, Checkpoints) {
    let cluster = Cluster::with(ClusterOptions { servers: 4, tier: true, ..ClusterOptions::default() });
    let client = cluster.client();
    let checkpoints = Checkpoints::open(client.clone(), "/ckpt").expect("open");
    (cluster, client, checkpoints)
}

fn save(checkpoints: &Checkpoints, redundancy: Redundancy, flush: &str) {
    let options = Options { redundancy, flush: Some(flush.to_owned()), ..Options::default() };
    let data: Vec<u8> = (0..BYTES).map(|at| (at * 31 + (at >> 9)) as u8).collect();
    let mut writer = checkpoints.begin_with(SET, 1, 0, 1, &options).expect("begin");
    writer.write("field", &data, 0).expect("write");
    writer.commit(true).expect("commit");
}

/// What the audit names, each without the path above.
fn audit(checkpoints: &Checkpoints) -> Vec<String> {
    let snapshot = checkpoints.snapshot(SET, 1).expect("snapshot");
    let found = snapshot.audit().expect("audit");
    found.iter().map(|damage| damage.to_string().rsplit('/').next().expect("a name").to_owned()).collect()
}

/// That exactly one place is named, and how.
fn names(checkpoints: &Checkpoints, words: &[&str]) {
    let found = audit(checkpoints);
    assert!(found.len() == 1 && words.iter().all(|word| found[0].contains(word)), "{words:?}: {found:?}");
}

/// The directory of the only attempt's only rank.
fn rank_dir(client: &Client) -> String {
    let attempt =
        client.read_dir(format!("{ROOT}/data")).expect("list").next().expect("one").expect("entry").name;
    format!("{ROOT}/data/{}/r0", String::from_utf8_lossy(&attempt))
}

fn flip_file(client: &Client, path: &str, offset: u64) {
    let how = OpenOptions { read: true, write: true, ..OpenOptions::default() };
    let file = client.open_path(path, &how).expect("open");
    let mut byte = [0];
    file.read_at(&mut byte, offset).expect("read");
    file.write_at(&[byte[0] ^ 16], offset).expect("write");
    file.close().expect("close");
}

fn flip_spot(client: &Client, spot: Spot, offset: u64) {
    let mut byte = [0];
    client.read_spot(spot, &mut byte, offset).expect("read");
    client.write_spot(spot, &[byte[0] ^ 16], offset).expect("write");
}

fn flip_local(path: &Path, offset: usize) {
    let mut bytes = std::fs::read(path).expect("read");
    bytes[offset] ^= 16;
    std::fs::write(path, bytes).expect("write");
}

/// Places of one kind, from the seal: `field` is "data" or "extra" of the region's parts, or "copies" of the seal itself.
fn spots(client: &Client, field: &str) -> Vec<Spot> {
    let seal = client.get(format!("{}/seal", rank_dir(client))).expect("seal");
    let body = seal.split(|byte| *byte == b'\n').nth(1).expect("a body");
    let seal: serde_json::Value = serde_json::from_slice(body).expect("JSON");
    let places = if field == "copies" { &seal["copies"] } else { &seal["regions"][0]["spread"][field] };
    let number = |value: &serde_json::Value| value.as_u64().expect("a number");
    let spot = |place: &serde_json::Value| Spot {
        server: ServerId(number(&place[0]) as u16),
        ino: fs_client::InodeId(number(&place[1])),
    };
    places.as_array().expect("places").iter().map(spot).collect()
}

#[test]
fn every_place_is_looked_at() {
    let kinds = [(Redundancy::Copies(1), "copy"), (Redundancy::Parity { data: 2, extra: 1 }, "parity")];
    for (redundancy, kind) in kinds {
        let (_cluster, client, checkpoints) = start();
        save(&checkpoints, redundancy, "never");
        assert_eq!(audit(&checkpoints), Vec::<String>::new());
        for (part, spot) in spots(&client, "data").into_iter().enumerate() {
            flip_spot(&client, spot, 1 << 20);
            names(&checkpoints, &[&format!("0.{part} at server {}", spot.server), "block"]);
            flip_spot(&client, spot, 1 << 20);
        }
        for spot in spots(&client, "extra") {
            flip_spot(&client, spot, 5);
            names(&checkpoints, &[&format!("{kind} 0 at server {}", spot.server)]);
            flip_spot(&client, spot, 5);
        }
        for spot in spots(&client, "copies") {
            flip_spot(&client, spot, 100);
            names(&checkpoints, &[&format!("seal at server {}", spot.server)]);
            flip_spot(&client, spot, 100);
        }
        for (server, kept) in client.vault_list_all("ckpt /ckpt/set\nm/").expect("list") {
            for object in kept.expect("it answers").1 {
                let spot = Spot { server, ino: object.ino };
                flip_spot(&client, spot, 100);
                names(&checkpoints, &[&format!("at server {server}"), "copy of the manifest"]);
                flip_spot(&client, spot, 100);
            }
        }
        for path in [format!("{}/seal", rank_dir(&client)), format!("{ROOT}/versions/{:020}", 1)] {
            flip_file(&client, &path, 60);
            names(&checkpoints, &["checksum"]);
            flip_file(&client, &path, 60);
        }
        assert_eq!(audit(&checkpoints), Vec::<String>::new(), "all is mended");
    }
}

/// Also where there is nothing to make up for it, and in the shared tier. What the tier does not have yet is no damage.
#[test]
fn plain_files_and_the_shared_tier_are_looked_at() {
    let (cluster, client, checkpoints) = start();
    save(&checkpoints, Redundancy::None, "close");
    checkpoints.wait(SET, 1, Level::Durable, Duration::from_secs(60)).expect("durable");
    let in_tier = |path: &str| -> PathBuf { cluster.tier().expect("a tier").join(&path[1..]) };
    let (data, seal) = (format!("{}/0", rank_dir(&client)), format!("{}/seal", rank_dir(&client)));
    for path in [&data, &seal, &format!("{ROOT}/versions/{:020}", 1)] {
        flip_local(&in_tier(path), 60);
        names(&checkpoints, &["in the shared tier"]);
        flip_local(&in_tier(path), 60);
    }
    let whole = std::fs::read(in_tier(&data)).expect("read");
    std::fs::write(in_tier(&data), &whole[..BYTES - 1]).expect("write");
    names(&checkpoints, &["in the shared tier", &format!("{} bytes", BYTES - 1)]);
    std::fs::remove_file(in_tier(&data)).expect("remove");
    assert_eq!(audit(&checkpoints), Vec::<String>::new(), "it is not there yet");
    std::fs::write(in_tier(&data), &whole).expect("write");
    // Damage in tier 1 alone: what is written without closing is not flushed before it is looked at here.
    let how = OpenOptions { write: true, ..OpenOptions::default() };
    let file = client.open_path(&data, &how).expect("open");
    file.write_at(b"damage", 3 << 20).expect("write");
    let found = audit(&checkpoints);
    assert!(found.iter().any(|damage| damage.starts_with("0: block 3")), "{found:?}");
    checkpoints.snapshot(SET, 1).expect("snapshot").verify().expect("the shared tier makes up for it");
}
