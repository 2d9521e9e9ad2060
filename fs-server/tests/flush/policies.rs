//! Flush policies: what is copied when, inherited, shown, and overridden.

use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use fs_proto::msg::inode::Getxattr;
use fs_proto::msg::tier::{FlushInode, FlushList, FlushNote};
use fs_proto::placement::{entry_partition, name_hash};
use fs_proto::{InodeId, ServerId};

use crate::client::{Client, ROOT};
use crate::cluster::Cluster;

fn get(client: &Client, ino: InodeId, name: &'static str) -> String {
    let name = Bytes::from_static(name.as_bytes());
    String::from_utf8_lossy(&client.ask_home(ino, &Getxattr { ino, name })).into_owned()
}

pub fn durable(client: &Client, ino: InodeId) -> bool {
    get(client, ino, "user.hayate.durable") == "yes"
}

pub fn until(what: &str, mut done: impl FnMut() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < Duration::from_secs(60), "{what} does not happen");
        std::thread::yield_now();
    }
}

#[test]
fn policies_are_inherited_and_shown() {
    // Goal: the nearest directory above says what holds, a change holds for what was made before, and a wrong value is refused.
    let cluster = Cluster::start(3);
    let client = Client::connect(&cluster.file);
    let dir = client.mkdir(ROOT, "dir");
    let deep = client.mkdir(dir, "deep");
    let file = client.write_file(deep, "file", b"x");
    assert_eq!(get(&client, file, "user.hayate.flush"), "close");
    client.setxattr(dir, "user.hayate.flush", "demand");
    until("a change of the policy above", || get(&client, file, "user.hayate.flush") == "demand");
    client.setxattr(deep, "user.hayate.flush", "idle:7");
    until("a change of the policy nearer", || get(&client, file, "user.hayate.flush") == "idle:7");
    client.setxattr(file, "user.hayate.flush", "never");
    assert_eq!(get(&client, file, "user.hayate.flush"), "never");
    client.removexattr(file, "user.hayate.flush");
    assert_eq!(get(&client, file, "user.hayate.flush"), "idle:7");
    assert!(!client.try_setxattr(file, "user.hayate.flush", "soon"));
    assert!(!client.try_setxattr(file, "user.hayate.other", "x"));
}

#[test]
fn what_waits_for_a_demand_waits_and_a_drain_takes_it() {
    // Goal: a file below `demand` stays while others go, also when it is renamed and changed; asking for it, or for all, takes it.
    let cluster = Cluster::start(2);
    let client = Client::connect(&cluster.file);
    let dir = client.mkdir(ROOT, "dir");
    client.setxattr(dir, "user.hayate.flush", "demand");
    let one = client.write_file(dir, "one", b"one");
    let two = client.write_file(dir, "two", b"two");
    let other = client.write_file(ROOT, "other", b"x");
    until("the other file", || durable(&client, other) && cluster.at("dir").exists());
    // Noted after the two: by then they had their turn.
    assert!(!cluster.at("dir/one").exists() && !durable(&client, one));
    client.ask_home(one, &FlushInode { ino: one });
    until("the file that was asked for", || durable(&client, one));
    assert!(cluster.at("dir/one").exists() && !cluster.at("dir/two").exists());
    client.rename(dir, "one", ROOT, "one");
    until("the removal of its old name", || !cluster.at("dir/one").exists() && cluster.at("one").exists());
    assert!(!durable(&client, two));
    cluster.drain(&client);
    cluster.compare(&client);
    assert!(durable(&client, two));
}

#[test]
fn what_is_never_flushed_is_left_alone_by_a_drain() {
    // Goal: nothing below `never` is copied or pending, until it is asked for by name; what was copied before is still removed.
    let cluster = Cluster::start(2);
    let client = Client::connect(&cluster.file);
    let dir = client.mkdir(ROOT, "scratch");
    client.write_file(dir, "before", b"before");
    cluster.check(&client);
    client.setxattr(dir, "user.hayate.flush", "never");
    until("the policy", || get(&client, dir, "user.hayate.flush") == "never");
    let file = client.write_file(dir, "file", &vec![5; 3 << 20]);
    // The directory's servers may remember for two seconds what held before.
    until("the policy of the file", || get(&client, file, "user.hayate.flush") == "never");
    let later = client.write_file(dir, "later", b"later");
    client.unlink(dir, "before");
    cluster.drain(&client);
    assert!(!cluster.at("scratch/before").exists() && !cluster.at("scratch/later").exists());
    assert!(!durable(&client, later));
    client.ask_home(later, &FlushInode { ino: later });
    until("the file that was asked for", || durable(&client, later));
    assert_eq!(std::fs::read(cluster.at("scratch/later")).unwrap(), b"later");
}

#[test]
fn a_file_rests_before_it_is_flushed() {
    // Goal: with `idle:2` a file is copied two seconds after its last change, not before, and steadily.
    let cluster = Cluster::start(2);
    let client = Client::connect(&cluster.file);
    let dir = client.mkdir(ROOT, "dir");
    client.setxattr(dir, "user.hayate.flush", "idle:2");
    let file = client.write_file(dir, "file", b"first");
    client.write(file, 0, b"second");
    client.close(file, 6);
    until("the copy", || cluster.at("dir/file").exists());
    let changed = SystemTime::UNIX_EPOCH + Duration::from_nanos(client.attr(file).mtime as u64);
    let rested = changed.elapsed().unwrap();
    assert!(rested >= Duration::from_secs(2), "copied after {rested:?}");
    assert_eq!(std::fs::metadata(cluster.at("dir/file")).unwrap().size(), 6);
    cluster.check(&client);
}

#[test]
fn a_name_that_is_asked_for_is_answered_once_it_was_flushed() {
    // Goal: who asks for a name hears that it is pending until an attempt that began later has ended, whatever its policy: of one that is open for writing at once if that is
    // wanted, else after it was closed. Nothing else goes meanwhile. Method: a delay of ten minutes, `demand` on one of them.
    let cluster = Cluster::start_adjusted(2, |config| config.flush_delay_ms = 600_000);
    let client = Client::connect(&cluster.file);
    let dir = client.mkdir(ROOT, "dir");
    client.setxattr(dir, "user.hayate.flush", "demand");
    let open = client.open_file(dir, "open");
    client.write(open, 0, &vec![7; 3 << 20]);
    client.write_file(dir, "other", b"other");
    assert_eq!(client.flush_name(dir, "open", false, false), None);
    client.flush_name(ROOT, "dir", true, false);
    until("the directory", || client.flush_name(ROOT, "dir", false, false).is_none());
    assert!(client.flush_name(dir, "open", true, false).is_some());
    // Not before it is closed, but for who wants it as it is.
    std::thread::sleep(Duration::from_millis(700));
    assert!(client.flush_name(dir, "open", false, false).is_some() && !cluster.at("dir/open").exists());
    client.flush_name(dir, "open", true, true);
    until("the open file", || client.flush_name(dir, "open", false, false).is_none());
    assert!(std::fs::read(cluster.at("dir/open")).unwrap() == vec![7; 3 << 20]);
    client.write(open, 0, b"more");
    client.close(open, 3 << 20);
    assert!(!durable(&client, open));
    client.flush_name(dir, "open", true, false);
    until("the closed file", || client.flush_name(dir, "open", false, false).is_none());
    assert!(durable(&client, open) && !cluster.at("dir/other").exists());
    cluster.drain(&client);
    cluster.compare(&client);
}

#[test]
fn who_asks_for_an_open_file_is_heard_by_the_new_owner_of_its_name() {
    // Goal: a name that was asked for although its file is open, and that another server owns by now, goes as it is; one that nobody asked for so stays, and is listed with the
    // reason. Method: a directory that has widened, and its home, which owned all names before, asked for names of another server.
    let cluster = Cluster::start_adjusted(3, |config| {
        (config.wide_threshold, config.flush_delay_ms) = (20, 600_000);
    });
    let client = Client::connect(&cluster.file);
    let dir = client.mkdir(ROOT, "dir");
    let mut number = 0;
    until("a wide directory", || {
        number += 1;
        client.write_file(dir, &format!("f{number}"), b"x");
        client.attr(dir).wide
    });
    let map = cluster.file.map().unwrap();
    let home = map.owner(dir.partition());
    let owner = |name: &Bytes| map.owner(entry_partition(dir, name_hash(dir, name), true));
    let names = (0..).map(|number| Bytes::from(format!("open{number}")));
    let names: Vec<_> = names.filter(|name| owner(name) != home).take(2).collect();
    for name in &names {
        let ino = client.open_file(dir, std::str::from_utf8(name).unwrap());
        client.write(ino, 0, &vec![7; 3 << 20]);
    }
    client.flush_name(ROOT, "dir", true, false);
    until("the directory", || client.flush_name(ROOT, "dir", false, false).is_none());
    let server = Client::connect_as(&cluster.file, Some(ServerId(0)));
    let note = |name: &Bytes, open| {
        let note = FlushNote { ino: dir, name: Some(name.clone()), had: None, forced: true, open };
        server.ask_server(home, &note).unwrap();
    };
    note(&names[0], false);
    note(&names[1], true);
    let path = |name: &Bytes| format!("dir/{}", std::str::from_utf8(name).unwrap());
    until("the file that goes as it is", || cluster.at(path(&names[1])).exists());
    assert!(std::fs::read(cluster.at(path(&names[1]))).unwrap() == vec![7; 3 << 20]);
    let reason = || {
        let page = client.ask_server(owner(&names[0]), &FlushList { after: Bytes::new() }).unwrap();
        let wanted = format!("/{}", path(&names[0]));
        page.names.into_iter().find(|(path, _)| **path == *wanted.as_bytes()).map(|(_, why)| why)
    };
    until("the reason", || reason().is_some_and(|why| why.contains("open for writing")));
    assert!(!cluster.at(path(&names[0])).exists());
}
