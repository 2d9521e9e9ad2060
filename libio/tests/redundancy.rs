//! Goal: what was committed with copies or parity is read byte for byte when as many servers as it can spare have lost all they had, whichever they are, and
//! damage is repaired; when more are lost, the newest version in the shared tier is used, or it is said who is missing. Method: a real cluster in this
//! process; servers are ended, their stores deleted, and started again on nothing, or not at all. With processes and SIGKILL: `crates/cli/tests/ckpt.rs`.

use std::time::Duration;

use fs_client::{Client, ClientConfig, OpenOptions, Route, ServerId, Spot};
use hayate_tests::{Cluster, ClusterOptions};
use libio::{Checkpoints, Error, Level, Options, Redundancy};

const SET: &str = "set";
const MIB: usize = 1 << 20;
const PATIENCE: Duration = Duration::from_secs(60);
const COPY: Redundancy = Redundancy::Copies(1);
const PARITY: Redundancy = Redundancy::Parity { data: 2, extra: 1 };
const DOUBLE: Redundancy = Redundancy::Parity { data: 2, extra: 2 };

fn cluster(servers: u16) -> Cluster {
    Cluster::with(ClusterOptions { servers, tier: true, ..ClusterOptions::default() })
}

fn checkpoints(cluster: &Cluster) -> Checkpoints {
    // A server that is gone for good is not waited for here.
    let mut config = ClientConfig::new(cluster.file().clone());
    config.timeout = Duration::from_secs(5);
    Checkpoints::open(Client::connect(config).expect("connect"), "/deep/down/ckpt")
        .expect("open")
        .with_group("first")
}

fn content(version: u64, rank: u32) -> Vec<u8> {
    let len = 5 * MIB as u64 + 321 + u64::from(rank);
    (0..len).map(|at| (at * 31 + version * 7 + u64::from(rank) * 3 + (at >> 9)) as u8).collect()
}

/// Two ranks: large regions of their own, written in odd pieces, a small one, and one that both write.
fn save(checkpoints: &Checkpoints, version: u64, options: &Options) {
    let writers: Vec<_> = (0..2u32)
        .map(|rank| {
            let mut writer = checkpoints.begin_with(SET, version, rank, 2, options).expect("begin");
            let data = content(version, rank);
            let mut at = 0;
            for bytes in [2 * MIB, 100, MIB - 100, 2 * MIB + 321 + rank as usize] {
                writer.write(&format!("field.{rank}"), &data[at..at + bytes], at as u64).expect("write");
                at += bytes;
            }
            writer.write("small", &[rank as u8 + 1; 10], u64::from(rank) * 10).expect("write");
            writer
        })
        .collect();
    for writer in writers {
        writer.seal(true).expect("seal");
    }
}

fn with(redundancy: Redundancy, flush: &str) -> Options {
    Options { redundancy, flush: Some(flush.to_owned()), ..Options::default() }
}

fn assert_whole(checkpoints: &Checkpoints, version: u64, what: &str) {
    let snapshot = checkpoints.snapshot(SET, version).unwrap_or_else(|e| panic!("{what}: {e}"));
    for rank in 0..2 {
        let expected = content(version, rank);
        let mut found = vec![0; expected.len() + 5];
        let read = snapshot.read(&format!("field.{rank}"), 0, &mut found);
        assert_eq!(read.unwrap_or_else(|e| panic!("{what}, rank {rank}: {e}")), expected.len());
        assert!(found[..expected.len()] == expected, "{what}: version {version}, rank {rank}");
        let mut part = vec![0; 3000];
        snapshot.read(&format!("field.{rank}"), 2 * MIB as u64 - 1500, &mut part).expect("read");
        assert!(part == expected[2 * MIB - 1500..2 * MIB + 1500], "{what}");
    }
    let mut small = [0; 20];
    snapshot.read("small", 0, &mut small).expect("read");
    assert_eq!(small, [[1; 10], [2; 10]].as_flattened(), "{what}");
    snapshot.verify().expect("verify");
}

/// Ends a server and deletes all that it kept.
fn lose(cluster: &mut Cluster, server: u16) {
    cluster.stop(server);
    let dirs = std::fs::read_dir(cluster.store_dir(server).parent().expect("above")).expect("list");
    for dir in dirs.map(|entry| entry.expect("entry").path()) {
        let name = dir.file_name().expect("a name").to_string_lossy().into_owned();
        if name == format!("store-{server}") || name.starts_with(&format!("store-{server}-")) {
            std::fs::remove_dir_all(dir).expect("remove");
        }
    }
}

/// Each server in turn loses everything, is away, and comes back with nothing.
fn any_one_is_lost(servers: u16, redundancy: Redundancy) {
    for lost in 0..servers {
        let mut cluster = cluster(servers);
        let before = checkpoints(&cluster);
        save(&before, 1, &with(redundancy, "never"));
        assert_whole(&before, 1, "before");
        lose(&mut cluster, lost);
        if lost > 0 {
            // A client needs one that answers; the test's cluster is asked through the first.
            let during = checkpoints(&cluster);
            assert_eq!(during.latest(SET).expect("latest"), Some(1), "without server {lost}");
            assert_whole(&during, 1, &format!("without server {lost}"));
        }
        cluster.restart(lost);
        let after = checkpoints(&cluster);
        assert_eq!(after.latest(SET).expect("latest"), Some(1), "server {lost} is empty");
        assert_whole(&after, 1, &format!("server {lost} is empty"));
    }
}

#[test]
fn a_lost_server_is_survived_with_a_copy() {
    any_one_is_lost(3, COPY);
}

#[test]
fn a_lost_server_is_survived_with_parity() {
    any_one_is_lost(4, PARITY);
}

#[test]
fn two_lost_servers_are_survived_with_double_parity() {
    for lost in [(0, 1), (1, 2), (0, 3), (2, 3)] {
        let mut cluster = cluster(4);
        save(&checkpoints(&cluster), 1, &with(DOUBLE, "never"));
        for server in [lost.0, lost.1] {
            lose(&mut cluster, server);
            cluster.restart(server);
        }
        let after = checkpoints(&cluster);
        assert_eq!(after.latest(SET).expect("latest"), Some(1), "{lost:?}");
        assert_whole(&after, 1, &format!("{lost:?}"));
    }
}

#[test]
fn more_lost_than_spared_falls_back() {
    let mut cluster = cluster(3);
    let before = checkpoints(&cluster);
    save(&before, 1, &with(COPY, "close"));
    before.wait(SET, 1, Level::Durable, PATIENCE).expect("durable");
    save(&before, 2, &with(COPY, "never"));
    save(&before, 3, &with(Redundancy::None, "never"));
    assert_eq!(before.latest(SET).expect("latest"), Some(3));
    lose(&mut cluster, 2);
    cluster.restart(2);
    // Version 3 could spare none.
    assert_eq!(checkpoints(&cluster).latest(SET).expect("latest"), Some(2));
    lose(&mut cluster, 1);
    cluster.restart(1);
    let after = checkpoints(&cluster);
    assert_eq!(after.latest(SET).expect("latest"), Some(1));
    assert_whole(&after, 1, "from the shared tier");
    assert!(after.snapshot(SET, 2).and_then(|snapshot| snapshot.verify()).is_err());
}

#[test]
fn with_nothing_left_it_is_said_who_is_missing() {
    let mut cluster = cluster(3);
    save(&checkpoints(&cluster), 1, &with(COPY, "never"));
    for server in [1, 2] {
        lose(&mut cluster, server);
        cluster.restart(server);
    }
    // Servers 1 and 2 may have had the manifest and all its copies: then there is nothing to be said.
    match checkpoints(&cluster).latest(SET) {
        Ok(None) => {}
        Err(Error::Lost { version: 1, servers, .. }) => assert_eq!(servers, "1, 2"),
        other => panic!("{other:?}"),
    }
}

/// The spots of parts and copies that the seals name, damaged one after the other.
#[test]
fn damage_is_repaired_from_copy_or_parity() {
    for redundancy in [COPY, PARITY] {
        let cluster = cluster(4);
        let (checkpoints, client) = (checkpoints(&cluster), cluster.client());
        save(&checkpoints, 1, &with(redundancy, "never"));
        let spots = spots(&client);
        let (data, extra) = spots.split_at(spots.len() - 1);
        for (number, spot) in data.iter().enumerate() {
            flip(&client, *spot, 1234);
            assert_whole(&checkpoints, 1, &format!("{redundancy:?}, part {number} damaged"));
            flip(&client, *spot, 1234);
        }
        for spot in extra {
            flip(&client, *spot, 1234);
            assert_whole(&checkpoints, 1, &format!("{redundancy:?}, extra part damaged"));
            // And now the same block where the data are.
            flip(&client, data[0], 1234);
            let mut found = vec![0; 10];
            let damaged = checkpoints.read(SET, 1, "field.0", 0, &mut found).expect_err("twice damaged");
            assert!(matches!(damaged, Error::Corrupt { .. }), "{damaged}");
        }
    }
}

#[test]
fn a_damaged_manifest_or_seal_is_read_from_its_copy() {
    let cluster = cluster(3);
    let (checkpoints, client) = (checkpoints(&cluster), cluster.client());
    save(&checkpoints, 1, &with(COPY, "never"));
    let dir = "/deep/down/ckpt/set";
    let attempt =
        client.read_dir(format!("{dir}/data")).expect("list").next().expect("one").expect("entry").name;
    let seal = format!("{dir}/data/{}/r0/seal", String::from_utf8_lossy(&attempt));
    for path in [format!("{dir}/versions/{:020}", 1), seal] {
        let how = OpenOptions { read: true, write: true, ..OpenOptions::default() };
        let file = client.open_path(&path, &how).expect("open");
        file.write_at(b"#", 60).expect("write");
        file.close().expect("close");
        assert_eq!(checkpoints.latest(SET).expect("latest"), Some(1));
        assert_whole(&checkpoints, 1, &path);
    }
}

/// Where the parts of `field.0` are, the extra one last, by its seal.
fn spots(client: &Client) -> Vec<Spot> {
    let dir = "/deep/down/ckpt/set/data";
    let attempt = client.read_dir(dir).expect("list").next().expect("one").expect("entry").name;
    let seal = client.get(format!("{dir}/{}/r0/seal", String::from_utf8_lossy(&attempt))).expect("seal");
    let body = seal.split(|byte| *byte == b'\n').nth(1).expect("a body");
    let seal: serde_json::Value = serde_json::from_slice(body).expect("JSON");
    let spread = &seal["regions"][0]["spread"];
    let parts = ["data", "extra"].into_iter().flat_map(|kind| spread[kind].as_array().expect("places"));
    let number = |value: &serde_json::Value| value.as_u64().expect("a number");
    parts
        .map(|place| Spot {
            server: ServerId(number(&place[0]) as u16),
            ino: fs_client::InodeId(number(&place[1])),
        })
        .collect()
}

fn flip(client: &Client, spot: Spot, offset: u64) {
    let mut byte = [0];
    client.read_spot(spot, &mut byte, offset).expect("read");
    client.write_spot(spot, &[byte[0] ^ 16], offset).expect("write");
}

#[test]
fn parts_lie_on_different_servers_and_go_with_the_version() {
    let cluster = cluster(4);
    let (checkpoints, client) = (checkpoints(&cluster), cluster.client());
    for (version, redundancy) in [(1, COPY), (2, PARITY), (3, DOUBLE)] {
        save(&checkpoints, version, &with(redundancy, "never"));
        let mut servers: Vec<_> = spots(&client).into_iter().map(|spot| spot.server).collect();
        servers.sort_unstable();
        let count = servers.len();
        servers.dedup();
        assert_eq!(servers.len(), count, "{redundancy:?}");
        if version > 1 {
            checkpoints.remove(SET, version - 1).expect("remove");
        }
    }
    drop(checkpoints.begin_with(SET, 4, 0, 1, &with(COPY, "never")).expect("begin")); // Given up.
    save(&checkpoints, 5, &with(Redundancy::None, "never"));
    checkpoints.prune(SET, 1).expect("prune");
    for (server, kept) in client.vault_list_all("ckpt ").expect("list") {
        let kept = kept.expect("it answers").1;
        assert!(kept.is_empty(), "server {server}: {kept:?}");
    }
    let many = checkpoints.begin_with(SET, 9, 0, 1, &with(Redundancy::Copies(4), "never")).err();
    assert!(matches!(&many, Some(Error::Invalid(text)) if text.contains("5 servers")), "{many:?}");
}

#[test]
fn parts_come_to_the_shared_tier_and_routed_regions_are_spread() {
    for redundancy in [COPY, PARITY] {
        let mut cluster = cluster(4);
        let (checkpoints, client) = (checkpoints(&cluster), cluster.client());
        let mut writer = checkpoints.begin_with(SET, 1, 0, 1, &with(redundancy, "close")).expect("begin");
        let path = writer.route("output").expect("route");
        client.put(&path, &content(1, 0), 0o644).expect("written by somebody");
        writer.commit(true).expect("commit");
        let look = cluster.strict_client(Route::Auto);
        assert!(look.open_path(&path, &OpenOptions::read_only()).is_err(), "it is in parts now");
        checkpoints.wait(SET, 1, Level::Durable, PATIENCE).expect("durable");
        for server in [1, 2, 3] {
            lose(&mut cluster, server);
            cluster.restart(server);
        }
        let after = self::checkpoints(&cluster);
        assert_eq!(after.latest(SET).expect("latest"), Some(1));
        let mut found = vec![0; content(1, 0).len()];
        after.read(SET, 1, "output", 0, &mut found).expect("read");
        assert!(found == content(1, 0), "{redundancy:?}");
    }
}
