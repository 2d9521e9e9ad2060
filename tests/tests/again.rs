//! Goal: a mutation whose answer got lost was done, whatever others did since (decision 0005).
//! Method: the request as it is, then another client removes what it made, then the same request again.

use bytes::Bytes;
use fs_client::Client;
use fs_proto::checksum::crc;
use fs_proto::msg::name::{Create, Link, Mkdir};
use fs_proto::msg::small::{Put, PutOutcome};
use fs_proto::placement::{entry_partition, name_hash};
use fs_proto::{FileKind, InodeId, Partition, Request, ServerId};
use hayate_tests::{Cluster, ask_again, ask_raw, until};

const NAME: &[u8] = b"made";

/// Does `request`, then `remove`, and answers what it is told the second time, when the inode is gone.
fn told_again<R: Request>(request: impl FnOnce(&Client) -> R, remove: impl FnOnce(&Client)) -> R::Reply {
    let cluster = Cluster::start(2);
    let inodes = || cluster.client().statfs().unwrap().inodes;
    let (client, home) = (cluster.client(), home());
    let before = inodes();
    let request = request(&client);
    ask_raw(&cluster, owner(&cluster), home, &request).unwrap();
    remove(&client);
    until("nothing of it is left", || inodes() == before);
    ask_again(&cluster, owner(&cluster), home, &request).unwrap()
}

/// Of entries of the root directory, which is narrow.
fn home() -> Partition {
    entry_partition(InodeId::ROOT, name_hash(InodeId::ROOT, NAME), false)
}

fn owner(cluster: &Cluster) -> ServerId {
    cluster.file().map().unwrap().owner(home())
}

fn create() -> Create {
    Create {
        parent: InodeId::ROOT,
        name: Bytes::from_static(NAME),
        kind: FileKind::Fifo,
        mode: 0o600,
        rdev: 0,
        target: Bytes::new(),
        exclusive: true,
        layout: None,
        open: None,
    }
}

#[test]
fn a_creation() {
    let told = told_again(|_| create(), |client| client.remove_file("/made").unwrap());
    assert!(told.fresh && told.kind == FileKind::Fifo && told.attr.unwrap().nlink == 0);
}

#[test]
fn a_directory() {
    let mkdir = Mkdir { parent: InodeId::ROOT, name: Bytes::from_static(NAME), mode: 0o700 };
    let told = told_again(|_| mkdir, |client| client.remove_dir("/made").unwrap());
    assert!(told.is_dir() && told.nlink == 0);
}

#[test]
fn a_link() {
    let link = |client: &Client| {
        let file = hayate_tests::open(client, "/first");
        let ino = file.ino();
        file.close().unwrap();
        Link { ino, parent: InodeId::ROOT, name: Bytes::from_static(NAME) }
    };
    let told = told_again(link, |client| {
        client.remove_file("/made").unwrap();
        client.remove_file("/first").unwrap();
    });
    assert_eq!(told.nlink, 0);
}

#[test]
fn a_small_file() {
    let name = Bytes::from_static(NAME);
    let put = Put { parent: InodeId::ROOT, name, mode: 0o600, exclusive: true, crc: crc(b"") };
    let told = told_again(|_| put, |client| client.remove_file("/made").unwrap());
    let PutOutcome::Done { attr, fresh: true } = told.outcome else { panic!("{told:?}") };
    assert_eq!(attr.nlink, 0);
}
