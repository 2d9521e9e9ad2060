//! Directories that somebody removes from the shared tier, behind the servers' backs.

use crate::client::{Client, ROOT};
use crate::cluster::{Cluster, plain};

#[test]
fn a_directory_that_was_removed_from_outside_is_made_again() {
    // Goal: what is made below later arrives, whether the servers have the directory open, or come back and look for it.
    let mut cluster = Cluster::start(2);
    for round in 0..2 {
        let client = Client::connect(&cluster.file);
        let outer = client.mkdir(ROOT, &format!("outer{round}"));
        let inner = client.mkdir(outer, "inner");
        client.write_file(inner, "file", b"first");
        cluster.check(&client);
        client.unlink(inner, "file");
        cluster.check(&client);
        let client = if round == 0 {
            client
        } else {
            drop(client);
            cluster.restart(&plain);
            Client::connect(&cluster.file)
        };
        std::fs::remove_dir_all(cluster.at(format!("outer{round}"))).unwrap();
        client.write_file(inner, "small", b"small");
        client.write_file(inner, "large", &vec![5; 2 << 20]);
        // A home that was restarted does not know for some time who writes, and waits but for a drain.
        cluster.drain(&client);
        cluster.check(&client);
    }
}
