//! Goal: requests go where the route says, and writers announce a server only if all writes pass it. Method: note who got what.

use std::collections::BTreeSet;

use fs_client::{Caller, InodeId, OpenFlags, Route, ServerId};
use fs_proto::Op;
use fs_proto::msg::name::{Create, OpenMode};

use crate::support::{FakeCluster, Seen};
use crate::world::request;

/// Writes a file of many chunks and returns what the servers got.
fn traffic(cluster: &FakeCluster, route: Route) -> Vec<Seen> {
    let client = cluster.client_with(|config| config.route = route);
    let name = format!("{route:?}");
    let flags = OpenFlags::READ_WRITE;
    let (file, _) =
        client.create_open(&Caller::ROOT, InodeId::ROOT, name.as_bytes(), 0o644, flags, true).unwrap();
    file.write_at(&vec![7; 1 << 20], 0).unwrap();
    file.sync().unwrap();
    file.close().unwrap();
    client.statfs().unwrap();
    cluster.control.take_seen()
}

fn announced(seen: &[Seen]) -> OpenMode {
    let create = seen.iter().find(|s| s.header.op == Op::Create).unwrap();
    request::<Create>(&create.meta).open.unwrap()
}

#[test]
fn a_gateway_gets_everything() {
    let cluster = FakeCluster::start(4);
    let seen = traffic(&cluster, Route::Gateway(ServerId(2)));
    assert!(seen.iter().all(|s| s.server == ServerId(2)));
    assert_eq!(announced(&seen), OpenMode::ReadWrite { via: Some(ServerId(2)) });
    let targets: BTreeSet<u16> = seen.iter().map(|s| s.header.target).collect();
    assert!(targets.len() > 10, "targets stay the owners'");
}

#[test]
fn owners_get_their_own() {
    let cluster = FakeCluster::start(4);
    for route in [Route::Owners, Route::Auto] {
        let seen = traffic(&cluster, route);
        let map = cluster.map();
        for s in &seen {
            let to_server = s.header.flags.has(fs_proto::Flags::TO_SERVER);
            let owner = if to_server {
                ServerId(s.header.target)
            } else {
                map.owner(fs_proto::Partition(s.header.target))
            };
            assert_eq!(s.server, owner, "{:?}", s.header);
        }
        assert_eq!(seen.iter().map(|s| s.server).collect::<BTreeSet<_>>().len(), 4);
        assert_eq!(announced(&seen), OpenMode::ReadWrite { via: None });
    }
}

#[test]
fn a_node_with_one_server_goes_through_it() {
    let cluster = FakeCluster::start(4);
    let client = cluster.client_with(|config| {
        config
            .cluster
            .members
            .iter_mut()
            .filter(|m| m.id != ServerId(1))
            .for_each(|m| m.host = "far".to_owned());
    });
    for i in 0..20u8 {
        client.mkdir(&Caller::ROOT, InodeId::ROOT, &[b'a' + i], 0o755).unwrap();
    }
    assert!(cluster.control.take_seen().iter().all(|s| s.server == ServerId(1)));
}
