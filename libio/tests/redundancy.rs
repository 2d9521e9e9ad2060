//! Goal: what was committed with copies or parity is read byte for byte when as many servers as it can spare have lost all they had, whichever they are, and
//! damage is repaired; when more are lost, the newest version in the shared tier is used, or it is said who is missing. Method: a real cluster in this
//! process; servers are ended, their stores deleted, and started again on nothing, or not at all. With processes and SIGKILL: `crates/cli/tests/ckpt.rs`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use fs_client::{Client, ClientConfig, OpenOptions, Route, ServerId, Spot};
use hayate_tests::{Cluster, ClusterOptions};
use libio::{Checkpoints, Error, Level, Options, Redundancy, State, Writer};

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

/// One rank of two that has written its part.
fn written(checkpoints: &Checkpoints, version: u64, rank: u32, options: &Options) -> Writer {
    let mut writer = checkpoints.begin_with(SET, version, rank, 2, options).expect("begin");
    writer.write(&format!("field.{rank}"), &content(version, rank), 0).expect("write");
    writer
}

/// Whichever server loses what rank 0 sealed: rank 1 must not commit the rest. Names are lost with most servers, and fail it as well; servers are tried until one
/// is found whose loss only the number of its store tells.
#[test]
fn a_store_lost_before_the_last_rank_seals_ends_the_version() {
    for redundancy in [Redundancy::None, COPY] {
        let noticed = (0..8).cycle().take(40).any(|lost| {
            let mut cluster = cluster(8);
            let checkpoints = checkpoints(&cluster);
            save(&checkpoints, 1, &with(COPY, "never"));
            let options = with(redundancy, "never");
            let [first, second] = [0, 1].map(|rank| written(&checkpoints, 2, rank, &options));
            let pending = first.seal(true).expect("seal");
            lose(&mut cluster, lost);
            cluster.restart(lost);
            let ended = second.seal(true).expect_err("what rank 0 sealed is gone");
            assert!(!pending.test().is_ok_and(|committed| committed), "{redundancy:?}, server {lost}");
            assert_eq!(checkpoints.latest(SET).expect("latest"), Some(1), "{redundancy:?}, server {lost}");
            ended.to_string().contains("stores of servers")
        });
        assert!(noticed, "{redundancy:?}: no loss was found by the store's number");
    }
}

/// Rank 0 has no copies, rank 1 has, and seals last: the version can spare no server.
#[test]
fn a_version_spares_what_its_weakest_rank_does() {
    let mut cluster = cluster(4);
    let checkpoints = checkpoints(&cluster);
    save(&checkpoints, 1, &with(COPY, "never"));
    let [first, second] = [(0, Redundancy::None), (1, COPY)]
        .map(|(rank, how)| written(&checkpoints, 2, rank, &with(how, "never")));
    let pending = first.seal(true).expect("seal");
    second.seal(true).expect("seal").wait(PATIENCE).expect("committed");
    assert!(pending.test().expect("test"));
    lose(&mut cluster, 3);
    cluster.restart(3);
    assert_eq!(self::checkpoints(&cluster).latest(SET).expect("latest"), Some(1));
}

/// Version 2 is lost with any server, and its manifest may be there: version 1 is the only one to restart from, and stays.
#[test]
fn what_cannot_be_read_is_not_counted_as_kept() {
    let mut pruned = 0;
    for lost in 0..4 {
        let mut cluster = cluster(4);
        let before = checkpoints(&cluster);
        save(&before, 1, &with(COPY, "never"));
        save(&before, 2, &with(Redundancy::None, "never"));
        lose(&mut cluster, lost);
        cluster.restart(lost);
        let after = checkpoints(&cluster);
        // Directories may be lost, too: then there is nothing to prune, or it cannot be done.
        pruned += u32::from(after.prune(SET, 1).is_ok_and(|removed| removed.is_empty()));
        assert_eq!(after.latest(SET).expect("latest"), Some(1), "server {lost}");
        assert_whole(&after, 1, &format!("server {lost}"));
    }
    assert!(pruned > 0);
}

/// Version 1 is in the shared tier, version 2 in tier 1 alone; each server in turn restarts, with all it had, while somebody asks.
#[test]
fn a_short_restart_sends_nobody_back() {
    let mut cluster = cluster(4);
    let before = checkpoints(&cluster);
    save(&before, 1, &with(Redundancy::None, "close"));
    before.wait(SET, 1, Level::Durable, PATIENCE).expect("durable");
    save(&before, 2, &with(Redundancy::None, "never"));
    for away in 1..4 {
        // Made before: a new client would wait for a server itself.
        let asks = checkpoints(&cluster);
        cluster.stop(away);
        let asked = std::thread::spawn(move || asks.latest(SET));
        std::thread::sleep(Duration::from_millis(500)); // As long as the restart takes.
        cluster.restart(away);
        let answer = asked.join().expect("no panic");
        assert_eq!(answer.expect("latest"), Some(2), "server {away}");
    }
}

/// A file of the shared tier becomes what a server flushes that lost its share of it: of the same size, and zeros. As long as no store is lost the servers' word
/// counts; then the bytes do.
#[test]
fn holes_are_not_durable() {
    let mut cluster = cluster(4);
    let before = checkpoints(&cluster);
    for version in [1, 2] {
        save(&before, version, &with(Redundancy::None, "close"));
        before.wait(SET, version, Level::Durable, PATIENCE).expect("durable");
    }
    let data = cluster.tier().expect("a tier").join("deep/down/ckpt/set/data");
    let attempts = std::fs::read_dir(data).expect("list").map(|entry| entry.expect("entry").path());
    let newest = attempts.max().expect("two").join("r1/0");
    let mut bytes = std::fs::read(&newest).expect("read");
    assert!(bytes == content(2, 1));
    bytes[MIB..2 * MIB].fill(0);
    std::fs::write(&newest, bytes).expect("write");
    lose(&mut cluster, 3);
    cluster.restart(3);
    let after = checkpoints(&cluster);
    assert_eq!(after.latest(SET).expect("latest"), Some(1));
    assert_ne!(after.state(SET, 2).expect("state"), State::Durable);
    assert_whole(&after, 1, "the whole one");
}

/// What is offered from copies alone is shown, failed and removed as any other. All of its names are taken away by hand.
#[test]
fn what_only_copies_have_can_be_failed_and_removed() {
    let cluster = cluster(3);
    let (checkpoints, client) = (checkpoints(&cluster), cluster.client());
    for version in [1, 2] {
        save(&checkpoints, version, &with(COPY, "never"));
        let name = format!("{version:020}");
        client.remove_file(format!("/deep/down/ckpt/set/versions/{name}")).expect("remove");
        for entry in client.read_dir("/deep/down/ckpt/set/attempts").expect("list") {
            let path = format!(
                "/deep/down/ckpt/set/attempts/{}",
                String::from_utf8_lossy(&entry.expect("entry").name)
            );
            client.remove_file(path).expect("remove");
        }
        assert_eq!(checkpoints.latest(SET).expect("latest"), Some(version));
        assert_eq!(checkpoints.state(SET, version).expect("state"), State::Committed);
    }
    checkpoints.pin(SET, 2, true).expect("pin");
    assert!(checkpoints.list(SET).expect("list")[1].pinned);
    checkpoints.finish(SET, 2, false).expect("remembered");
    // The mark in the namespace may be lost as well.
    for entry in client.read_dir("/deep/down/ckpt/set/versions").expect("list") {
        let path =
            format!("/deep/down/ckpt/set/versions/{}", String::from_utf8_lossy(&entry.expect("entry").name));
        client.remove_file(path).expect("remove");
    }
    assert_eq!(checkpoints.state(SET, 2).expect("state"), State::Failed);
    assert_eq!(checkpoints.latest(SET).expect("latest"), Some(1));
    checkpoints.remove(SET, 2).expect("remove");
    save(&checkpoints, 2, &with(COPY, "never"));
    assert_eq!(checkpoints.latest(SET).expect("latest"), Some(2), "the mark went, too");
    assert_whole(&checkpoints, 2, "written again");
}

/// Somebody removes a sealed version just before its rank makes it visible, and perhaps writes it again. Nothing of the removed one stays, and all of the
/// new one does.
#[test]
fn removal_before_publication_leaves_nothing() {
    for again in [false, true] {
        let cluster = cluster(3);
        let (other, client) = (checkpoints(&cluster), cluster.client());
        save(&other, 1, &with(COPY, "never"));
        let (remover, once) = (other.clone(), AtomicBool::new(false));
        let slow = other.clone().with_hook(Arc::new(move |kind| {
            let sealed = kind == "rename" && matches!(remover.state(SET, 2), Ok(State::Sealed));
            if sealed && !once.swap(true, Ordering::Relaxed) {
                remover.remove(SET, 2).expect("remove");
                if again {
                    save(&remover, 2, &with(COPY, "never"));
                }
            }
            Ok(())
        }));
        let mut writer = slow.begin_with(SET, 2, 0, 1, &with(COPY, "never")).expect("begin");
        writer.write("field.0", &[1; 10], 0).expect("write");
        let ended = writer.commit(true).expect_err("it was removed");
        assert!(matches!(ended, Error::VersionExists { .. } | Error::Aborted { .. }), "{ended}");
        let newest = if again { 2 } else { 1 };
        assert_eq!(other.latest(SET).expect("latest"), Some(newest));
        assert_whole(&other, newest, "after a removal");
        let kept = client.vault_list_all("ckpt /deep/down/ckpt/set\nm/").expect("list");
        let manifests: usize = kept.into_iter().map(|(_, kept)| kept.expect("it answers").1.len()).sum();
        assert_eq!(manifests, 2 * newest as usize, "copies of manifests");
    }
}

/// A server of the parity's and one of the data's are away: each is asked once, and not for each of a hundred blocks.
#[test]
fn silent_servers_are_asked_once() {
    let mut cluster = cluster(5);
    let before = checkpoints(&cluster);
    let data: Vec<u8> = (0..60 * MIB).map(|at| (at * 31 + (at >> 9)) as u8).collect();
    let mut writer = before.begin_with(SET, 1, 0, 1, &with(DOUBLE, "never")).expect("begin");
    writer.write("field.0", &data, 0).expect("write");
    writer.commit(true).expect("commit");
    let spots = spots(&cluster.client());
    let away: Vec<u16> = spots.iter().map(|spot| spot.server.0).filter(|server| *server > 0).collect();
    let (first, last) = (away[0], away[away.len() - 1]);
    let snapshot = before.snapshot(SET, 1).expect("snapshot");
    snapshot.regions().expect("the seals");
    for server in [first, last] {
        cluster.stop(server);
    }
    let began = Instant::now();
    let mut found = vec![0; data.len()];
    snapshot.read("field.0", 0, &mut found).expect("read");
    assert!(found == data);
    // Asked for each stripe it would be half a minute and more, if being away takes a second to notice.
    assert!(began.elapsed() < PATIENCE / 2, "{:?}", began.elapsed());
}

/// Six servers on three hosts, as the clients' cluster file has it: with a copy on another host, the loss of a host is one loss, and that of servers of two is two.
#[test]
fn losses_are_counted_by_hosts() {
    for (lost, survives) in [([2, 3], true), ([1, 2], false)] {
        let mut cluster = cluster(6);
        let on_hosts = |cluster: &Cluster| {
            let mut config = ClientConfig::new(cluster.file().clone());
            for (at, member) in config.cluster.members.iter_mut().enumerate() {
                member.host = format!("host{}", at / 2);
            }
            config.timeout = Duration::from_secs(5);
            let client = Client::connect(config).expect("connect");
            Checkpoints::open(client, "/deep/down/ckpt").expect("open").with_group("first")
        };
        save(&on_hosts(&cluster), 1, &with(COPY, "never"));
        for server in lost {
            lose(&mut cluster, server);
            cluster.restart(server);
        }
        let after = on_hosts(&cluster);
        if survives {
            assert_eq!(after.latest(SET).expect("latest"), Some(1), "{lost:?}");
            assert_whole(&after, 1, "a host is lost");
        } else {
            assert!(!matches!(after.latest(SET), Ok(Some(_))), "{lost:?}");
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
    let mut cluster = cluster(4);
    save(&checkpoints(&cluster), 1, &with(COPY, "never"));
    let kept = cluster.client().vault_list_all("ckpt /deep/down/ckpt/set\nm/").expect("list");
    let has = |found: &(ServerId, fs_client::Result<fs_client::Kept>)| {
        !found.1.as_ref().expect("it answers").1.is_empty()
    };
    let (with_copy, others): (Vec<_>, Vec<_>) = kept.into_iter().partition(has);
    assert_eq!((with_copy.len(), others.len()), (2, 2));
    // The other copy of the manifest says what there was.
    let mut lost = [with_copy[0].0.0, others[0].0.0];
    lost.sort_unstable();
    for server in lost {
        lose(&mut cluster, server);
        cluster.restart(server);
    }
    match checkpoints(&cluster).latest(SET) {
        Err(Error::Lost { version: 1, servers, .. }) => {
            assert_eq!(servers, lost.map(|server| server.to_string()).join(", "));
        }
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
