//! Goal: what is open stays so for as long as its clients say so, and not for ever, whichever server is restarted. Method: leases of five seconds; clients of which the test
//! decides when they say what.

use super::raw::{READS, Raw, WRITES};
use super::*;
use fs_proto::InodeId;
use fs_proto::placement::PartitionMap;

const LEASE_MS: u32 = 5_000;
const LEASE: Duration = Duration::from_millis(LEASE_MS as u64);

fn short_leases() -> Cluster {
    configured(|config| config.open_lease_ms = LEASE_MS)
}

fn home_of(cluster: &Cluster, ino: InodeId) -> ServerId {
    let map: PartitionMap = cluster.file().map().expect("a map");
    map.owner(ino.partition())
}

/// For two leases.
fn for_long(mut act: impl FnMut()) {
    let end = Instant::now() + LEASE * 2;
    while Instant::now() < end {
        act();
        std::thread::sleep(Duration::from_millis(300));
    }
}

fn a_file(cluster: &Cluster, asker: &Client) -> (InodeId, ServerId) {
    put(asker, "/f", &full(100_000, 1));
    let ino = asker.stat("/f").expect("stat").ino;
    until("the maker has closed it", || at_homes(asker, "open_holders") == 0);
    (ino, home_of(cluster, ino))
}

#[test]
fn the_server_of_a_node_renews_for_its_clients() {
    let cluster = short_leases();
    let asker = outside(&cluster);
    let (ino, home) = a_file(&cluster, &asker);
    let (one, other) = (Raw::on_node(&cluster, 1), Raw::on_node(&cluster, 2));
    one.open(ino, READS);
    other.open(ino, WRITES);
    asker.remove_file("/f").expect("unlink");
    for_long(|| {
        one.renew(home, ino, READS);
        assert_eq!(at_homes(&asker, "open_holders"), 1);
        assert!(one.getattr(ino).is_ok());
    });
    assert_eq!(known(&asker), 1, "the other was not heard of for a lease");
    one.release(home, ino);
    until("it is removed", || one.getattr(ino).is_err());
    nothing_stays(&asker);
}

#[test]
fn clients_that_die_are_forgotten() {
    let options = ClusterOptions { servers: 3, gateways: 1, tier: true, ..ClusterOptions::default() };
    let cluster = Cluster::configured(options, |config| config.open_lease_ms = LEASE_MS);
    let asker = outside(&cluster);
    let (ino, home) = a_file(&cluster, &asker);
    let (one, other) = (Raw::on_node(&cluster, 1), Raw::on_node(&cluster, 2));
    let version = one.open(ino, WRITES).version;
    other.open(ino, WRITES);
    until("what a vanished client wrote counts as a new version", || {
        other.renew(home, ino, WRITES);
        other.getattr(ino).expect("attributes").version > version
    });
    assert_eq!((known(&asker), at_homes(&asker, "open_holders")), (1, 1));
    drop(other);
    nothing_stays(&asker);
}

#[test]
fn a_restarted_home_learns_what_is_open() {
    let mut cluster = short_leases();
    let asker = outside(&cluster);
    let (ino, home) = a_file(&cluster, &asker);
    let (one, other) = (Raw::on_node(&cluster, 1), Raw::on_node(&cluster, 2));
    one.open(ino, READS);
    other.open(ino, WRITES);
    cluster.restart(home.0);
    let asker = outside(&cluster);
    asker.remove_file("/f").expect("unlink");
    for_long(|| {
        one.renew(home, ino, READS);
        other.renew(home, ino, WRITES);
    });
    assert!(one.getattr(ino).is_ok());
    assert_eq!(at_homes(&asker, "open_holders"), 1);
    one.release(home, ino);
    for_long(|| other.renew(home, ino, WRITES));
    assert!(other.getattr(ino).is_ok());
    other.release(home, ino);
    until("it is removed", || one.getattr(ino).is_err());
    nothing_stays(&asker);
}

#[test]
fn a_restarted_gateway_learns_what_is_open() {
    let mut cluster = short_leases();
    let asker = outside(&cluster);
    let (ino, home) = a_file(&cluster, &asker);
    let (one, other) = (Raw::on_node(&cluster, 1), Raw::on_node(&cluster, 2));
    one.open(ino, READS);
    other.open(ino, WRITES);
    cluster.restart(GATEWAY);
    let third = Raw::on_node(&cluster, 3);
    third.open(ino, READS);
    asker.remove_file("/f").expect("unlink");
    third.release(home, ino);
    for_a_while(|| {
        assert!(third.getattr(ino).is_ok(), "who opened and closed since knows nothing of the others");
    });
    let (one, other) = (Raw::on_node(&cluster, 1), Raw::on_node(&cluster, 2));
    for_long(|| {
        assert!(one.getattr(ino).is_ok());
        one.renew(home, ino, READS);
        other.renew(home, ino, WRITES);
    });
    assert_eq!(known(&asker), 1, "the reader counts for the node");
    assert_eq!(at_homes(&asker, "open_holders"), 2, "the writer for itself");
    one.release(home, ino);
    for_long(|| other.renew(home, ino, WRITES));
    assert!(other.getattr(ino).is_ok());
    other.release(home, ino);
    until("it is removed", || one.getattr(ino).is_err());
    nothing_stays(&asker);
}

/// Goal: what is written through a gateway that was just restarted is seen, although its clients have not said yet that they have the file open.
#[test]
fn what_is_written_through_a_restarted_gateway_is_seen() {
    let mut cluster = cluster();
    let (asker, first, second) = (outside(&cluster), on_node(&cluster), on_node(&cluster));
    put(&asker, "/f", &full(100_000, 1));
    let (one, other) = (writing(&first, "/f"), writing(&second, "/f"));
    one.write_at(b"one", 1_000_000).expect("write");
    one.flush().expect("publish");
    cluster.restart(GATEWAY);
    other.write_at(b"other", 2_000_000).expect("write");
    assert_eq!(asker.stat("/f").expect("stat").size, 2_000_005);
    assert_eq!(one.attr().expect("attr").size, 2_000_005);
    one.write_at(b"one", 3_000_000).expect("write");
    assert_eq!(asker.stat("/f").expect("stat").size, 3_000_003);
    assert_eq!(other.attr().expect("attr").size, 3_000_003);
    asker.remove_file("/f").expect("unlink");
    one.close().expect("close");
    for_a_while(|| assert_eq!(other.read_bytes_at(5, 2_000_000).expect("read"), "other"));
}

/// Goal: what was cut off does not come back, when the servers where it had been written were restarted before. Method: a client that goes to them itself, so that they do not
/// hear of what it closes, and one of the node.
#[test]
fn what_was_cut_does_not_come_back_after_restarts() {
    let mut cluster = cluster();
    let (asker, itself) = (outside(&cluster), outside(&cluster));
    put(&asker, "/f", &full(100_000, 1));
    for server in [0, 1, GATEWAY] {
        cluster.restart(server);
    }
    let of_node = on_node(&cluster);
    for (round, client) in [&itself, &of_node, &itself].into_iter().enumerate() {
        let file = writing(client, "/f");
        // Over enough chunks that all servers have some.
        file.write_at(&full(9_000_000, round as u8), 0).expect("write");
        file.close().expect("close");
        asker.truncate_path("/f", 10).expect("cut");
        for other in [&itself, &of_node] {
            let _file = writing(other, "/f");
            assert_eq!(asker.stat("/f").expect("stat").size, 10, "round {round}");
        }
    }
}

/// Goal: what is written after a cut by another counts, also when the home was restarted in between, and does not know yet who writes. Method: clients that were writing before; their
/// servers restarted, all or one.
#[test]
fn what_is_written_after_a_cut_counts_after_restarts() {
    let mut cluster = cluster();
    let (asker, itself, of_node) = (outside(&cluster), outside(&cluster), on_node(&cluster));
    for (round, restarted) in [&HOMES[..], &[GATEWAY], &[0, 1, GATEWAY]].into_iter().enumerate() {
        for client in [&itself, &of_node] {
            put(&asker, "/f", &full(100_000, 1));
            let file = writing(client, "/f");
            file.write_at(b"before", 5_000_000).expect("write");
            file.flush().expect("publish");
            asker.truncate_path("/f", 10).expect("cut");
            for server in restarted {
                cluster.restart(*server);
            }
            file.write_at(b"after", 3_000_000).expect("write");
            file.flush().expect("publish");
            assert_eq!(asker.stat("/f").expect("stat").size, 3_000_005, "round {round}");
            assert_eq!(file.read_bytes_at(10, 3_000_000).expect("read"), "after");
            file.close().expect("close");
            asker.remove_file("/f").expect("remove");
        }
    }
}

/// Goal: a cut holds for what was written before it and not published, also when the home was restarted in between, and does not know yet who writes: neither the size nor the bytes
/// come back.
#[test]
fn what_was_written_before_a_cut_stays_cut_after_restarts() {
    let mut cluster = cluster();
    let (asker, itself, of_node) = (outside(&cluster), outside(&cluster), on_node(&cluster));
    for client in [&itself, &of_node] {
        put(&asker, "/f", &full(100_000, 1));
        let file = writing(client, "/f");
        let home = home_of(&cluster, asker.stat("/f").expect("stat").ino);
        // Chunks of both.
        file.write_at(&full(4_000_000, 7), 4_000_000).expect("write");
        cluster.restart(home.0);
        asker.truncate_path("/f", 10).expect("cut");
        file.flush().expect("publish");
        assert_eq!(asker.stat("/f").expect("stat").size, 10);
        asker.truncate_path("/f", 9_000_000).expect("longer");
        let found = reading(&asker, "/f").read_bytes_at(9_000_000, 0).expect("read");
        assert!(found.len() == 9_000_000 && found[10..].iter().all(|byte| *byte == 0));
        file.close().expect("close");
        asker.remove_file("/f").expect("remove");
    }
}

/// Goal: what a client closes that the gateway's last run had open for it counts as closed at once, and not when the lease of that run is over: it would not be flushed before.
/// Method: files of which some are written after the restart, and some only closed; what is in the shared tier sooner than after a lease.
#[test]
fn what_is_closed_after_a_restart_of_the_gateway_is_flushed() {
    let options = ClusterOptions { servers: 3, gateways: 1, tier: true, ..ClusterOptions::default() };
    let mut cluster = Cluster::configured(options, |_| ());
    let (asker, client) = (outside(&cluster), on_node(&cluster));
    let paths: Vec<String> = (0..5).map(|number| format!("/f-{number}")).collect();
    put(&asker, &paths[4], &full(100_000, 1));
    let files: Vec<File> = paths.iter().map(|path| open(&client, path)).collect();
    for file in &files[..2] {
        file.write_at(&full(100_000, 2), 0).expect("write");
    }
    cluster.restart(GATEWAY);
    for file in files.iter().step_by(2) {
        file.write_at(&full(100_000, 3), 100_000).expect("write");
    }
    for file in files {
        file.close().expect("close");
    }
    until("all is in the shared tier", || {
        let is_durable =
            |path: &String| asker.getxattr_path(path, b"user.hayate.durable").expect("attribute") == "yes";
        paths.iter().all(is_durable)
    });
}
