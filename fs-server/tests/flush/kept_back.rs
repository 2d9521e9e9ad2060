//! What a policy `never` keeps back is flushed once another policy holds: said by a directory above, after a restart, or come with a move.

use fs_proto::InodeId;

use crate::client::{Client, ROOT};
use crate::cluster::{Cluster, plain};
use crate::policies::{durable, until};

/// A directory under `never` with another one, and files in both, which had their turn.
fn scratch(cluster: &Cluster, client: &Client) -> (InodeId, InodeId) {
    let dir = client.mkdir(ROOT, "scratch");
    let deep = client.mkdir(dir, "deep");
    client.setxattr(dir, "user.hayate.flush", "never");
    for number in 0..100 {
        client.write_file(deep, &format!("small{number}"), b"small");
    }
    client.write_file(dir, "large", &vec![7; 3 << 20]);
    let own = client.write_file(dir, "own", b"own");
    client.setxattr(own, "user.hayate.flush", "never");
    cluster.settle(client);
    assert!(!cluster.at("scratch/large").exists() && !cluster.at("scratch/deep/small0").exists());
    (dir, deep)
}

fn all_there(cluster: &Cluster) -> bool {
    let small = |number| cluster.at(format!("scratch/deep/small{number}")).exists();
    cluster.at("scratch/large").exists() && (0..100).all(small)
}

#[test]
fn what_leaves_never_is_flushed() {
    // Goal: nothing is pending while `never` holds; when that ends, also after a restart, all goes that does not say `never` itself; what was removed or
    // moved away meanwhile does not come back.
    let mut cluster = Cluster::start(2);
    let client = Client::connect(&cluster.file);
    let (dir, deep) = scratch(&cluster, &client);
    client.write_file(dir, "removed", b"x");
    client.write_file(dir, "moved", b"moved");
    cluster.settle(&client);
    client.unlink(dir, "removed");
    client.rename(dir, "moved", ROOT, "moved");
    until("what moved away from it", || cluster.at("moved").exists());
    drop(client);
    cluster.restart(&plain);
    let client = Client::connect(&cluster.file);
    cluster.settle(&client);
    assert!(!cluster.at("scratch/large").exists());
    client.setxattr(dir, "user.hayate.flush", "close");
    // A home that was restarted does not know for some time who writes, and waits but for a drain.
    cluster.drain(&client);
    until("what the directory kept back", || all_there(&cluster));
    cluster.settle(&client);
    let own = client.lookup(dir, "own").unwrap();
    assert!(!durable(&client, own) && !cluster.at("scratch/own").exists());
    client.removexattr(own, "user.hayate.flush");
    until("the file's own turn", || cluster.at("scratch/own").exists());
    assert!(client.lookup(deep, "small0").is_some());
    cluster.check(&client);
}

#[test]
fn what_moves_away_from_never_is_flushed() {
    // Goal: a directory below `never` is moved out; nobody says anything of a policy, and what is in it goes.
    let cluster = Cluster::start(2);
    let client = Client::connect(&cluster.file);
    let (dir, _) = scratch(&cluster, &client);
    client.rename(dir, "deep", ROOT, "out");
    until("what is in it", || (0..100).all(|number| cluster.at(format!("out/small{number}")).exists()));
    assert!(!cluster.at("scratch/large").exists());
}
