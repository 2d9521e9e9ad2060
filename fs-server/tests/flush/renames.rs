//! Directories that move, in all orders.

use crate::client::{Client, ROOT};
use crate::cluster::Cluster;

#[test]
fn directories_move_with_what_is_below() {
    let cluster = Cluster::start(3);
    let client = Client::connect(&cluster.file);
    let (a, b) = (client.mkdir(ROOT, "a"), client.mkdir(ROOT, "b"));
    let sub = client.mkdir(a, "sub");
    client.write_file(sub, "file", b"content");
    let bytes: u64 = cluster.check(&client).iter().map(|account| account.bytes).sum();
    client.rename(ROOT, "a", b, "moved");
    let after: u64 = cluster.check(&client).iter().map(|account| account.bytes).sum();
    assert_eq!(bytes, after, "a move copies nothing");
    client.rename(b, "moved", ROOT, "back");
    client.mkdir(ROOT, "a");
    client.write_file(sub, "another", b"x");
    cluster.check(&client);
}

#[test]
fn names_that_wait_for_each_other_are_untangled() {
    // Goal: swaps and cycles of directories, before the first of them could be moved, end right.
    let cluster = Cluster::start(3);
    let client = Client::connect(&cluster.file);
    for name in ["a", "b", "c"] {
        let dir = client.mkdir(ROOT, name);
        client.write_file(dir, name, name.as_bytes());
    }
    cluster.check(&client);
    client.exchange(ROOT, "a", ROOT, "b");
    cluster.check(&client);
    client.rename(ROOT, "a", ROOT, "t");
    client.rename(ROOT, "b", ROOT, "a");
    client.rename(ROOT, "c", ROOT, "b");
    client.rename(ROOT, "t", ROOT, "c");
    cluster.check(&client);
}

#[test]
fn a_child_becomes_its_parents_parent() {
    let cluster = Cluster::start(2);
    let client = Client::connect(&cluster.file);
    let x = client.mkdir(ROOT, "x");
    let y = client.mkdir(x, "y");
    client.write_file(x, "in x", b"1");
    client.write_file(y, "in y", b"2");
    cluster.check(&client);
    client.rename(x, "y", ROOT, "y");
    client.rename(ROOT, "x", y, "x");
    cluster.check(&client);
}

#[test]
fn a_tree_is_removed_after_parts_of_it_moved_out() {
    // Goal: what moved out of a removed directory is kept, and moved rather than lost with it.
    let cluster = Cluster::start(3);
    let client = Client::connect(&cluster.file);
    let old = client.mkdir(ROOT, "old");
    let (keep, gone) = (client.mkdir(old, "keep"), client.mkdir(old, "gone"));
    client.write_file(keep, "file", b"kept");
    client.write_file(gone, "file", b"gone");
    client.write_file(old, "moved", b"moved");
    cluster.check(&client);
    client.rename(old, "keep", ROOT, "kept");
    client.rename(old, "moved", ROOT, "moved");
    client.unlink(gone, "file");
    client.rmdir(old, "gone");
    client.rmdir(ROOT, "old");
    client.mkdir(ROOT, "old");
    cluster.check(&client);
}

#[test]
fn what_moves_while_it_is_flushed_ends_where_it_belongs() {
    // Goal: files made in directories that are renamed all the time arrive, each in the right one.
    let cluster = Cluster::start(3);
    let client = Client::connect(&cluster.file);
    let outer = client.mkdir(ROOT, "outer");
    let (a, b) = (client.mkdir(outer, "a"), client.mkdir(outer, "b"));
    for round in 0..40 {
        client.write_file(a, &format!("a{round}"), format!("a {round}").as_bytes());
        client.write_file(b, &format!("b{round}"), format!("b {round}").as_bytes());
        match round % 4 {
            0 => client.exchange(outer, "a", outer, "b"),
            1 => client.rename(ROOT, "outer", ROOT, "other"),
            2 => client.rename(outer, "a", ROOT, "a"),
            _ => {
                client.rename(ROOT, "a", outer, "a");
                client.rename(ROOT, "other", ROOT, "outer");
            }
        }
    }
    cluster.check(&client);
}

#[test]
fn a_rename_over_something_replaces_it() {
    let cluster = Cluster::start(2);
    let client = Client::connect(&cluster.file);
    client.write_file(ROOT, "a", b"new");
    client.write_file(ROOT, "b", b"old");
    let full = client.mkdir(ROOT, "full");
    client.write_file(full, "x", b"x");
    client.mkdir(ROOT, "empty");
    cluster.check(&client);
    client.rename(ROOT, "a", ROOT, "b");
    client.rename(ROOT, "full", ROOT, "empty");
    cluster.check(&client);
}

#[test]
fn the_first_name_of_a_linked_file_moves() {
    // Goal: after its first name moved and the further one went, the file's content is flushed under the new name.
    let cluster = Cluster::start(2);
    let client = Client::connect(&cluster.file);
    let file = client.write_file(ROOT, "first", b"old");
    client.link(file, ROOT, "further");
    client.rename(ROOT, "first", ROOT, "moved");
    client.unlink(ROOT, "further");
    cluster.check(&client);
    client.write_file(ROOT, "moved", b"new content");
    client.chmod(file, 0o600);
    cluster.check(&client);
}
