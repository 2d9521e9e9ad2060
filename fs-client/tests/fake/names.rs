//! Goal: names cost the messages that they must, wide directories included. Method: count what the servers note.

use std::collections::BTreeSet;

use bytes::Bytes;
use fs_client::{Caller, Client, FileKind, InodeId, OpenFlags, SetTime, Setattr};
use fs_proto::msg::name::Create;
use fs_proto::{Op, Status};

use crate::support::{FakeCluster, Fault};

const WHO: Caller = Caller::ROOT;

fn make(client: &Client, parent: InodeId, name: &str) -> InodeId {
    let what = Create {
        parent,
        name: name.to_owned().into(),
        kind: FileKind::File,
        mode: 0o600,
        rdev: 0,
        target: Bytes::new(),
        exclusive: false,
        layout: None,
        open: None,
    };
    client.create(&WHO, what).unwrap().0.ino
}

#[test]
fn create_and_lookup_are_one_message() {
    let cluster = FakeCluster::start(3);
    let client = cluster.client();
    let ino = make(&client, InodeId::ROOT, "a");
    assert_eq!(cluster.control.take_ops(), [Op::Create]);
    assert_eq!(client.lookup(&WHO, InodeId::ROOT, b"a").unwrap().ino, ino);
    assert_eq!(cluster.control.take_ops(), [Op::Lookup]);
    cluster.control.world.lock().remote.insert(ino);
    assert_eq!(client.lookup(&WHO, InodeId::ROOT, b"a").unwrap().ino, ino);
    assert_eq!(cluster.control.take_ops(), [Op::Lookup, Op::Getattr]);
}

#[test]
fn operations_on_names_do_what_they_say() {
    let cluster = FakeCluster::start(3);
    let client = cluster.client();
    let dir = client.mkdir(&WHO, InodeId::ROOT, b"d", 0o700).unwrap();
    assert!(dir.is_dir() && dir.mode == 0o700);
    let ino = make(&client, dir.ino, "a");
    assert_eq!(client.link(&WHO, ino, InodeId::ROOT, b"hard").unwrap().nlink, 2);
    client.rename(&WHO, dir.ino, b"a", InodeId::ROOT, b"b", false, false).unwrap();
    let again = client.rename(&WHO, InodeId::ROOT, b"b", InodeId::ROOT, b"hard", true, false);
    assert_eq!(again.unwrap_err().code(), Some(Status::Exists));
    client.rmdir(&WHO, InodeId::ROOT, b"d").unwrap();
    client.unlink(&WHO, InodeId::ROOT, b"b").unwrap();
    assert!(client.lookup(&WHO, InodeId::ROOT, b"b").unwrap_err().is_not_found());
    assert_eq!(client.lookup(&WHO, InodeId::ROOT, b"hard").unwrap().ino, ino);
}

#[test]
fn operations_on_inodes_do_what_they_say() {
    let cluster = FakeCluster::start(3);
    let client = cluster.client();
    let ino = make(&client, InodeId::ROOT, "a");
    let mut change = Setattr::nothing(ino);
    (change.mode, change.mtime) = (Some(0o640), Some(SetTime::Now {}));
    assert_eq!(client.setattr(&WHO, change).unwrap().mode, 0o640);
    assert_eq!(client.getattr(&WHO, ino).unwrap().mode, 0o640);
    client.setxattr(&WHO, ino, b"user.x", b"1", false, false).unwrap();
    assert_eq!(client.getxattr(&WHO, ino, b"user.x").unwrap(), "1");
    assert_eq!(client.listxattr(&WHO, ino).unwrap(), ["user.x"]);
    client.removexattr(&WHO, ino, b"user.x").unwrap();
    assert_eq!(client.getxattr(&WHO, ino, b"user.x").unwrap_err().errno(), libc::ENODATA);
}

#[test]
fn impossible_names_are_refused_without_a_message() {
    let cluster = FakeCluster::start(1);
    let client = cluster.client();
    let long = [b'x'; 256];
    for (name, errno) in
        [(&b""[..], libc::EINVAL), (b"a/b", libc::EINVAL), (b"..", libc::EINVAL), (&long, libc::ENAMETOOLONG)]
    {
        assert_eq!(client.unlink(&WHO, InodeId::ROOT, name).unwrap_err().errno(), errno);
    }
    assert_eq!(cluster.control.take_ops(), []);
}

#[test]
fn a_wide_directory_is_learnt_once() {
    let cluster = FakeCluster::start(4);
    let client = cluster.client();
    cluster.control.world.lock().widen(InodeId::ROOT);
    make(&client, InodeId::ROOT, "a");
    let seen = cluster.control.take_seen();
    assert_eq!(seen.len(), 2, "one in vain, one to the right place");
    assert_eq!(seen[0].header.sequence, seen[1].header.sequence);
    for i in 0..20 {
        make(&client, InodeId::ROOT, &format!("f{i}"));
    }
    let seen = cluster.control.take_seen();
    let servers: BTreeSet<_> = seen.iter().map(|s| s.server).collect();
    assert_eq!((seen.len(), servers.len()), (20, 4));
    client.unlink(&WHO, InodeId::ROOT, b"f3").unwrap();
    assert_eq!(cluster.control.take_ops(), [Op::Unlink]);
}

#[test]
fn a_wide_directory_lists_whole_and_with_attributes() {
    let cluster = FakeCluster::start(4);
    let client = cluster.client();
    let names: BTreeSet<String> = (0..500).map(|i| format!("f{i}")).collect();
    {
        let mut world = cluster.control.world.lock();
        world.widen(InodeId::ROOT);
        let inos: Vec<_> = names.iter().map(|name| world.add(InodeId::ROOT, name, FileKind::File)).collect();
        world.remote.extend(inos);
    }
    let (mut after, mut listed) = (0, Vec::new());
    loop {
        let page = client.readdir(&WHO, InodeId::ROOT, after, 100, true).unwrap();
        let ops = cluster.control.take_ops();
        assert!(ops.iter().filter(|op| **op == Op::GetattrMany).count() <= 4, "{ops:?}");
        assert!(page.wide && page.entries.iter().all(|e| e.attr.as_ref().is_some_and(|a| a.ino == e.ino)));
        listed.extend(page.entries.iter().map(|e| String::from_utf8(e.name.to_vec()).unwrap()));
        if page.end {
            break;
        }
        after = page.entries.last().unwrap().cookie;
    }
    assert_eq!(listed.len(), 500);
    assert_eq!(listed.into_iter().collect::<BTreeSet<_>>(), names);
}

#[test]
fn a_narrow_directory_is_one_message_a_page() {
    let cluster = FakeCluster::start(4);
    let client = cluster.client();
    for i in 0..10 {
        cluster.control.world.lock().add(InodeId::ROOT, &format!("f{i}"), FileKind::File);
    }
    let page = client.readdir(&WHO, InodeId::ROOT, 0, 100, true).unwrap();
    assert_eq!((page.entries.len(), page.end), (10, true));
    assert_eq!(cluster.control.take_ops(), [Op::Readdir]);
}

#[test]
fn creating_and_opening_a_new_file_is_one_message() {
    let cluster = FakeCluster::start(3);
    let client = cluster.client();
    let (file, fresh) =
        client.create_open(&WHO, InodeId::ROOT, b"a", 0o644, OpenFlags::READ_WRITE, true).unwrap();
    assert!(fresh);
    assert_eq!(cluster.control.take_ops(), [Op::Create]);
    assert_eq!(cluster.control.world.lock().opens.len(), 1);
    let again = client.create_open(&WHO, InodeId::ROOT, b"a", 0o644, OpenFlags::READ, true);
    assert_eq!(again.err().unwrap().errno(), libc::EEXIST);
    drop(file);
}

#[test]
fn a_failed_opening_is_given_back() {
    let cluster = FakeCluster::start(3);
    let client = cluster.client();
    cluster.control.world.lock().add(InodeId::ROOT, "d", FileKind::Directory);
    let ino = cluster.control.world.lock().add(InodeId::ROOT, "f", FileKind::File);
    cluster.control.fail(Op::Open, &[Fault::Answer(Status::AccessDenied)]);
    let made = client.create_open(&WHO, InodeId::ROOT, b"d", 0o644, OpenFlags::WRITE, false);
    assert_eq!(made.err().unwrap().errno(), libc::EISDIR);
    assert_eq!(client.open(&WHO, ino, OpenFlags::WRITE).err().unwrap().errno(), libc::EACCES);
    drop(client);
    assert!(cluster.control.world.lock().opens.is_empty());
    assert!(cluster.control.take_ops().contains(&Op::Release));
}

#[test]
fn space_is_summed_and_remembered() {
    let cluster = FakeCluster::start(3);
    let client = cluster.client();
    assert_eq!(client.statfs().unwrap().free_bytes, 180);
    assert_eq!(client.statfs().unwrap().total_bytes, 300);
    assert_eq!(cluster.control.take_ops().len(), 3);
}

#[test]
fn operators_are_answered_by_each_server() {
    let cluster = FakeCluster::start(3);
    let client = cluster.client();
    for member in &client.cluster().members {
        assert_eq!(client.server_status(member.id).unwrap(), format!("{{\"server\":{}}}", member.id));
        client.ping(member.id).unwrap();
    }
    let accounts = client.flush_status().unwrap();
    assert_eq!(accounts.iter().map(|(_, a)| a.as_ref().unwrap().pending_names).sum::<u64>(), 9);
    cluster.control.take_seen();
    client.flush_now(true).unwrap();
    assert_eq!(cluster.control.take_ops(), [Op::FlushNow; 3]);
}
