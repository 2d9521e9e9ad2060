//! Goal: paths lead where they should, and remembered names cost nothing and mislead nobody for long. Method: a small tree with
//! symbolic links; a second client that changes things behind the first one's back.

use std::collections::BTreeSet;

use fs_client::{Client, FileKind, InodeId, OpenOptions, SetTime};
use fs_proto::{Op, Status};

use crate::support::FakeCluster;

/// /d/e/f, /d/up -> .., /abs -> /d/e, /loop -> loop, /d/e/rel -> ../e/f
fn tree(cluster: &FakeCluster) -> InodeId {
    let mut world = cluster.control.world.lock();
    let d = world.add(InodeId::ROOT, "d", FileKind::Directory);
    let e = world.add(d, "e", FileKind::Directory);
    let f = world.add(e, "f", FileKind::File);
    world.add_link(d, "up", "..");
    world.add_link(InodeId::ROOT, "abs", "/d/e");
    world.add_link(InodeId::ROOT, "loop", "loop");
    world.add_link(e, "rel", "../e/f");
    world.add_link(e, "new", "fresh");
    f
}

fn code(result: Result<impl Sized, fs_client::Error>) -> Option<Status> {
    result.err().and_then(|e| e.code())
}

#[test]
fn walks_follow_links_and_dots() {
    let cluster = FakeCluster::start(3);
    let f = tree(&cluster);
    let client = cluster.client();
    for path in ["/d/e/f", "d//e/./f", "/abs/f", "/d/up/d/e/f", "/d/e/rel", "/../d/e/../e/f", "/d/up/abs/rel"]
    {
        assert_eq!(client.stat(path).unwrap().ino, f, "{path}");
    }
    assert_eq!(client.stat("/").unwrap().ino, InodeId::ROOT);
    assert_eq!(client.lstat("/abs").unwrap().kind, FileKind::Symlink);
    assert!(client.lstat("/abs/").unwrap().is_dir());
    assert_eq!(client.read_link("/abs").unwrap().to_str(), Some("/d/e"));
    assert_eq!(code(client.stat("/loop")), Some(Status::Loop));
    assert_eq!(code(client.stat("/d/e/f/g")), Some(Status::NotDirectory));
    assert_eq!(code(client.stat("/d/e/f/")), Some(Status::NotDirectory));
    let error = client.stat("/d/nothing").unwrap_err();
    assert!(error.is_not_found() && error.to_string().starts_with("/d/nothing: "), "{error}");
}

#[test]
fn remembered_names_and_attributes_cost_nothing() {
    let cluster = FakeCluster::start(3);
    tree(&cluster);
    let minute = std::time::Duration::from_secs(60);
    let client = cluster.client_with(|config| (config.entry_ttl, config.attr_ttl) = (minute, minute));
    client.stat("/d/e/f").unwrap();
    assert_eq!(cluster.control.take_ops(), [Op::Lookup; 3], "attributes come along");
    client.stat("/d/e/f").unwrap();
    client.stat("/d/e").unwrap();
    assert_eq!(cluster.control.take_ops(), []);
    client.chmod("/d/e/f", 0o600).unwrap();
    assert_eq!(cluster.control.take_ops(), [Op::Setattr]);
    assert_eq!(client.stat("/d/e/f").unwrap().mode, 0o600);
    client.remove_file("/d/e/f").unwrap();
    assert_eq!(code(client.stat("/d/e/f")), Some(Status::NotFound));
    let strict = cluster.client_with(|config| {
        (config.entry_ttl, config.attr_ttl) = (std::time::Duration::ZERO, std::time::Duration::ZERO);
    });
    strict.stat("/d/e").unwrap();
    strict.stat("/d/e").unwrap();
    assert_eq!(cluster.control.take_ops(), [Op::Lookup; 4], "attributes come along all the same");
}

#[test]
fn a_file_replaced_by_others_is_found_again() {
    let cluster = FakeCluster::start(3);
    tree(&cluster);
    let minute = std::time::Duration::from_secs(60);
    let client = cluster.client_with(|config| config.entry_ttl = minute);
    let other = cluster.client();
    client.open_path("/d/e/f", &OpenOptions::read_only()).unwrap();
    other.remove_file("/d/e/f").unwrap();
    let made = other.open_path("/d/e/f", &OpenOptions::create_truncate()).unwrap().ino();
    assert_eq!(client.open_path("/d/e/f", &OpenOptions::read_only()).unwrap().ino(), made);
    other.remove_file("/d/e/f").unwrap();
    assert_eq!(code(client.open_path("/d/e/f", &OpenOptions::read_only())), Some(Status::NotFound));
    other.remove_dir("/d/e").unwrap_err(); // It holds links.
}

#[test]
fn creating_by_path_is_one_message_once_the_directory_is_known() {
    let cluster = FakeCluster::start(3);
    tree(&cluster);
    let client = cluster.client();
    client.stat("/d/e").unwrap();
    cluster.control.take_seen();
    let file = client.open_path("/d/e/new file", &OpenOptions::create_truncate()).unwrap();
    assert_eq!(cluster.control.take_ops(), [Op::Create]);
    drop(file);
    let create_new = OpenOptions { create_new: true, write: true, ..OpenOptions::default() };
    assert_eq!(code(client.open_path("/d/e/new file", &create_new)), Some(Status::Exists));
}

#[test]
fn creating_follows_a_link_to_nothing() {
    let cluster = FakeCluster::start(3);
    tree(&cluster);
    let client = cluster.client();
    let file = client.open_path("/abs/new", &OpenOptions::create_truncate()).unwrap();
    assert_eq!(client.stat("/d/e/fresh").unwrap().ino, file.ino());
    assert_eq!(code(client.open_path("/loop", &OpenOptions::create_truncate())), Some(Status::Loop));
    assert_eq!(code(client.open_path("/d", &OpenOptions::create_truncate())), Some(Status::IsDirectory));
    assert_eq!(code(client.open_path("/d/x/", &OpenOptions::create_truncate())), Some(Status::IsDirectory));
}

fn names(client: &Client, path: &str) -> BTreeSet<String> {
    client
        .read_dir(path)
        .unwrap()
        .map(|entry| String::from_utf8(entry.unwrap().name.to_vec()).unwrap())
        .collect()
}

#[test]
fn trees_are_made_listed_and_removed() {
    let cluster = FakeCluster::start(3);
    let client = cluster.client();
    assert!(client.mkdir_all("/a/b/c", 0o755).unwrap().is_dir());
    client.mkdir_all("/a/b/c", 0o755).unwrap();
    for i in 0..1500 {
        let mut world = cluster.control.world.lock();
        let c = *world.inodes.iter().find(|(_, a)| a.is_dir() && a.parent != InodeId::ROOT).unwrap().0;
        world.add(c, &format!("f{i}"), FileKind::File);
    }
    let found: usize = ["/a/b", "/a/b/c"].iter().map(|path| names(&client, path).len()).sum();
    assert_eq!(found, 1501);
    client.symlink_path("b/c", "/a/link").unwrap();
    client.rename_path("/a/b", "/a/moved").unwrap();
    assert_eq!(names(&client, "/a"), ["link".to_owned(), "moved".to_owned()].into());
    assert_eq!(code(client.remove_dir("/a")), Some(Status::NotEmpty));
    client.link_path("/a/link", "/a/second").unwrap();
    assert_eq!(client.lstat("/a/second").unwrap().kind, FileKind::Symlink);
    assert_eq!(code(client.mkdir_path("/", 0o755)), Some(Status::Exists));
    assert_eq!(code(client.remove_dir("/a/..")), Some(Status::Busy));
    assert_eq!(code(client.read_dir("/a/link")), Some(Status::NotFound));
}

#[test]
fn attributes_change_by_path() {
    let cluster = FakeCluster::start(3);
    tree(&cluster);
    let client = cluster.client();
    assert_eq!(client.truncate_path("/abs/rel", 77).unwrap().size, 77);
    assert_eq!(client.chown("/d/e/f", Some(5), None).unwrap().uid, 5);
    client.set_times("/d/e/f", Some(SetTime::Now {}), None).unwrap();
    assert_eq!(client.stat("/d/e/f").unwrap().size, 77);
}
