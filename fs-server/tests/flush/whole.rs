//! The tier equals the namespace, in all that a name and an inode can be.

use std::collections::HashSet;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use fs_proto::FileKind;
use fs_server::tier::Tier;
use fs_server::tier::posix::Posix;

use crate::client::{Client, ROOT};
use crate::cluster::Cluster;
use crate::fake::Fake;

fn pattern(len: usize, seed: u8) -> Vec<u8> {
    (0..len).map(|i| (i as u32).wrapping_mul(2_654_435_761).to_le_bytes()[3] ^ seed).collect()
}

#[test]
fn tier_equals_the_namespace() {
    // Goal: every kind of object with every attribute arrives, and each later change does.
    let cluster = Cluster::start(3);
    let client = Client::connect(&cluster.file);
    let dir = client.mkdir(ROOT, "dir");
    let deep = client.mkdir(dir, "deep");
    client.mkdir_mode(ROOT, "empty", 0o1700);
    client.write_file(dir, "small", b"hello");
    client.write_file(deep, "none", b"");
    let big = client.write_file(deep, "big:name with spaces", &pattern(5 << 20, 1));
    client.link(big, ROOT, "second");
    client.link(big, dir, "third");
    client.make(dir, "link", FileKind::Symlink, "../nowhere", false);
    client.make(dir, "pipe", FileKind::Fifo, "", false);
    client.make(dir, "socket", FileKind::Socket, "", false);
    client.setxattr(big, "user.a", "1");
    client.setxattr(dir, "user.b", "2");
    client.chmod(deep, 0o500);
    client.set_times(dir, 1_000_000_001, 2_000_000_002);
    let holes = client.open_file(dir, "holes");
    client.write(holes, 3 << 20, b"end");
    client.close(holes, (3 << 20) + 3);
    let accounts = cluster.check(&client);
    assert_eq!(accounts.iter().map(|a| a.failures).sum::<u64>(), 0);
    assert!(accounts.iter().map(|a| a.files).sum::<u64>() >= 4);

    client.write_file(dir, "small", b"changed and longer");
    client.truncate(big, 1000);
    client.chmod(big, 0o4711);
    client.removexattr(big, "user.a");
    client.setxattr(big, "user.c", "3");
    client.unlink(dir, "pipe");
    client.unlink(deep, "none");
    client.chmod(deep, 0o755);
    if rustix::process::geteuid().is_root() {
        client.chown(big, 12, 34);
        client.chown(dir, 12, 34);
    }
    cluster.check(&client);

    client.unlink(deep, "big:name with spaces");
    client.chmod(big, 0o600);
    cluster.check(&client);
    client.write_file(ROOT, "second", &pattern(3 << 20, 9));
    cluster.check(&client);
    for name in ["small", "third", "link", "socket", "holes"] {
        client.unlink(dir, name);
    }
    client.rmdir(dir, "deep");
    client.rmdir(ROOT, "dir");
    client.write_file(ROOT, "dir", b"a file now");
    client.unlink(ROOT, "second");
    client.mkdir(ROOT, "second");
    cluster.check(&client);
}

#[test]
fn attributes_alone_copy_nothing() {
    // Goal: chmod and the removal of a further name touch the published file in place: the same object, no bytes written.
    let cluster = Cluster::start(2);
    let client = Client::connect(&cluster.file);
    let file = client.write_file(ROOT, "a", &pattern(2 << 20, 3));
    client.link(file, ROOT, "b");
    let bytes = |accounts: Vec<fs_proto::msg::tier::FlushAccount>| {
        accounts.iter().map(|a| a.copied_bytes).sum::<u64>()
    };
    let before = bytes(cluster.check(&client));
    let ino = std::fs::metadata(cluster.at("a")).unwrap().ino();
    client.chmod(file, 0o600);
    cluster.check(&client);
    client.unlink(ROOT, "a");
    client.set_times(file, 5, 6);
    client.rename(ROOT, "b", ROOT, "c");
    let after = bytes(cluster.check(&client));
    assert_eq!(std::fs::metadata(cluster.at("c")).unwrap().ino(), ino);
    assert_eq!((before, after), (2 << 20, 2 << 20));
}

#[test]
fn staging_leaves_no_trace_in_the_tiers_own_directory() {
    // Goal: the tier's directory ends with the root's times although servers make and remove staging in it side by side.
    // Method: after a server has put staging away, another one seems to do so, too: an entry comes and goes.
    let path = Arc::new(OnceLock::<PathBuf>::new());
    let wrap = |tier: Posix| -> Arc<dyn Tier> {
        let path = Arc::clone(&path);
        let mut fake = Fake::before(tier, |_, _| Ok(()));
        fake.after = Box::new(move |what, _| {
            if let Some(path) = path.get().filter(|_| what == "rest") {
                let _staging_of_another = tempfile::tempdir_in(path).unwrap();
            }
            Ok(())
        });
        Arc::new(fake)
    };
    let cluster = Cluster::start_with(2, 10_000, &wrap);
    path.set(cluster.tier()).unwrap();
    let client = Client::connect(&cluster.file);
    for round in 0..3 {
        client.write_file(ROOT, &format!("f{round}"), &pattern(3 << 20, round));
        cluster.check(&client);
    }
}

#[test]
fn files_are_copied_by_all_servers_that_hold_chunks() {
    let cluster = Cluster::start(3);
    let client = Client::connect(&cluster.file);
    client.write_file(ROOT, "a", &pattern(9 << 20, 5));
    let accounts = cluster.check(&client);
    assert!(accounts.iter().all(|account| account.copied_bytes == 3 << 20), "{accounts:?}");
}

#[test]
fn a_file_that_is_open_for_writing_waits_unless_everything_goes() {
    let cluster = Cluster::start(2);
    let client = Client::connect(&cluster.file);
    let file = client.open_file(ROOT, "open");
    client.write(file, 0, b"half");
    client.write_file(ROOT, "closed", b"whole");
    cluster.wait(&client, "the closed file", |accounts| accounts.iter().map(|a| a.files).sum::<u64>() == 1);
    assert!(!cluster.at("open").exists());
    cluster.drain(&client);
    assert_eq!(crate::trees::read_quietly(&cluster.at("open")).unwrap(), b"half");
    client.write(file, 4, b" and the rest");
    client.close(file, 17);
    cluster.check(&client);
}

#[test]
fn wide_directories_are_flushed_by_all_servers() {
    // Goal: names change hands when a directory widens; nothing is lost, nothing published twice, nothing removed stays.
    let cluster = Cluster::start_with(3, 40, &crate::cluster::plain);
    let client = Client::connect(&cluster.file);
    let dir = client.mkdir(ROOT, "wide");
    for i in 0..30 {
        client.write_file(dir, &format!("f{i}"), format!("content {i}").as_bytes());
    }
    client.mkdir(dir, "sub");
    cluster.check(&client);
    for i in 30..120 {
        client.write_file(dir, &format!("f{i}"), format!("content {i}").as_bytes());
        if i < 60 {
            client.unlink(dir, &format!("f{}", i - 30));
        }
    }
    cluster.check(&client);
    assert!(client.attr(dir).wide, "the directory widened");
    let sub = client.lookup(dir, "sub").unwrap();
    client.write_file(sub, "x", b"below");
    client.rename(dir, "sub", ROOT, "sub");
    let linked = client.lookup(dir, "f77").unwrap();
    client.link(linked, dir, "g77");
    client.chmod(linked, 0o640);
    client.chmod(dir, 0o711);
    cluster.check(&client);
    for (name, _) in client.list(dir) {
        client.unlink(dir, &String::from_utf8(name).unwrap());
    }
    client.rmdir(ROOT, "wide");
    cluster.check(&client);
}

#[test]
fn readers_of_the_tier_see_whole_files() {
    // Goal: a file that is rewritten all the time (by writing and renaming, and in place) is whole in the tier at every look. Method: rounds of rewriting, at least 25,
    // until a reader of the tier has seen many contents of each.
    const WANTED: u64 = 6;
    let cluster = Cluster::start(2);
    let client = Client::connect(&cluster.file);
    let (done, seen) = (Arc::new(AtomicBool::new(false)), Arc::new([AtomicU64::new(0), AtomicU64::new(0)]));
    let reader = {
        let (done, counts) = (Arc::clone(&done), Arc::clone(&seen));
        let paths = [cluster.at("renamed"), cluster.at("in place")];
        std::thread::spawn(move || {
            let mut seen = [HashSet::new(), HashSet::new()];
            while !done.load(Ordering::Acquire) {
                for (path, (seen, count)) in paths.iter().zip(seen.iter_mut().zip(counts.iter())) {
                    let Ok(data) = crate::trees::read_quietly(path) else { continue };
                    let whole = data.len() == 1 << 21 && data.iter().all(|byte| *byte == data[0]);
                    if !whole {
                        return Some((path.clone(), data.len(), data.first().copied()));
                    }
                    seen.insert(data[0]);
                    count.store(seen.len() as u64, Ordering::Release);
                }
            }
            None
        })
    };
    let (began, mut round) = (Instant::now(), 0_u8);
    let has_seen = || seen.iter().all(|count| count.load(Ordering::Acquire) >= WANTED);
    while (round < 25 || !has_seen()) && !reader.is_finished() {
        assert!(began.elapsed() < Duration::from_secs(90) && round < u8::MAX, "{seen:?} contents were seen");
        let data = vec![round; 1 << 21];
        client.write_file(ROOT, "tmp", &data);
        client.rename(ROOT, "tmp", ROOT, "renamed");
        client.write_file(ROOT, "in place", &data);
        round += 1;
        if round >= 25 {
            // What changes without a pause is put off.
            std::thread::sleep(Duration::from_millis(200));
        }
    }
    cluster.check(&client);
    done.store(true, Ordering::Release);
    assert_eq!(reader.join().unwrap(), None);
}

#[test]
fn a_quiet_cluster_leaves_the_tier_alone() {
    // Goal: without changes no call reaches the tier, however long it lasts in turns of the run loop.
    let calls = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&calls);
    let wrap = move |tier: Posix| -> Arc<dyn Tier> {
        let counter = Arc::clone(&counter);
        Arc::new(Fake::before(tier, move |_, _| {
            counter.fetch_add(1, Ordering::Relaxed);
            Ok(())
        }))
    };
    let mut cluster = Cluster::start_with(2, 10_000, &wrap);
    let client = Client::connect(&cluster.file);
    client.write_file(ROOT, "a", b"x");
    cluster.check(&client);
    drop(client);
    let before = calls.load(Ordering::Relaxed);
    cluster.restart(&wrap);
    let client = Client::connect(&cluster.file);
    cluster.check(&client);
    assert_eq!(calls.load(Ordering::Relaxed), before);
}

/// Largest file that lies with its inode.
const LIMIT: usize = 16 << 10;

#[test]
fn small_files_are_copied_from_their_inodes_and_from_chunks_once_they_grew() {
    // Goal: contents beside inodes arrive, whoever copies them; so do their changes, and the move to chunks. Method: sizes around the
    // limit; moved and linked, so that a name's server is not the inode's home.
    let cluster = Cluster::start(3);
    let client = Client::connect(&cluster.file);
    let dirs: Vec<_> = (0..6).map(|n| client.mkdir(ROOT, &format!("d{n}"))).collect();
    let sizes = [0, 1, 4000, LIMIT - 1, LIMIT, LIMIT + 1];
    let mut files = Vec::new();
    for (n, size) in sizes.into_iter().enumerate() {
        let ino = client.write_file(dirs[n], "f", &pattern(size, n as u8));
        assert_eq!(client.attr(ino).inline, size <= LIMIT, "{size} bytes");
        client.rename(dirs[n], "f", dirs[(n + 1) % 6], "moved");
        client.link(ino, dirs[(n + 3) % 6], "linked");
        files.push(ino);
    }
    cluster.check(&client);
    for ino in &files {
        client.write(*ino, 2, b"changed");
        client.close(*ino, 9);
    }
    cluster.check(&client);
    for (n, ino) in files.iter().enumerate() {
        client.write(*ino, (LIMIT + n) as u64, b"grown");
        client.close(*ino, (LIMIT + n + 5) as u64);
        assert!(!client.attr(*ino).inline);
    }
    cluster.check(&client);
    for ino in &files {
        client.truncate(*ino, 3);
    }
    let accounts = cluster.check(&client);
    assert_eq!(accounts.iter().map(|a| a.failures).sum::<u64>(), 0);
}

#[test]
fn a_small_file_that_changes_all_the_time_is_never_seen_in_part() {
    // Goal: what readers of the tier see of a small file is one of its contents, though it is written while it is copied. Method: bursts
    // of changes, as long as copying takes, and of looks at the tier, until ten contents were seen.
    let cluster = Cluster::start(2);
    let client = Client::connect(&cluster.file);
    let size = |round: u8| 100 + usize::from(round.wrapping_mul(97)) * 40;
    let ino = client.write_file(ROOT, "f", &[0; 100]);
    cluster.check(&client);
    let mut seen = HashSet::new();
    let deadline = Instant::now() + Duration::from_secs(90);
    let mut round = 0u8;
    while seen.len() < 10 {
        assert!(Instant::now() < deadline, "copies are made meanwhile: {seen:?}");
        for _ in 0..5 {
            round = (round + 1) % 250;
            // Smaller and larger in turn: a copy of one with the length of another would show.
            client.truncate(ino, 0);
            client.write(ino, 0, &vec![round; size(round)]);
        }
        let looks = Instant::now() + Duration::from_millis(30);
        while Instant::now() < looks {
            let content = std::fs::read(cluster.at("f")).unwrap();
            let Some(first) = content.first() else { continue };
            assert!(content.iter().all(|byte| byte == first), "a mixture");
            assert_eq!(content.len(), size(*first));
            seen.insert(*first);
        }
    }
    cluster.settle(&client);
    assert_eq!(std::fs::read(cluster.at("f")).unwrap(), vec![round; size(round)]);
}

#[test]
fn what_another_machine_keeps_is_synced_before_it_appears() {
    // Goal: on a shared file system each copy is synced, by every server that wrote a share of it: else it would be in a node's memory only, and lost
    // with it. On a disk of this machine that is a matter of durability. Method: files of each way of copying, their syncs counted.
    for is_remote in [false, true] {
        let synced = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&synced);
        let wrap = move |tier: Posix| -> Arc<dyn Tier> {
            Arc::new(Fake { is_remote, synced: Arc::clone(&counter), ..Fake::before(tier, |_, _| Ok(())) })
        };
        let cluster = Cluster::start_with(2, 10_000, &wrap);
        let client = Client::connect(&cluster.file);
        let mut before = 0;
        for (name, bytes) in [("inline", 100), ("small", 100_000), ("large", 9 << 20)] {
            client.write_file(ROOT, name, &vec![7; bytes]);
            cluster.check(&client);
            let now = synced.load(Ordering::Acquire);
            assert_eq!(now > before, is_remote, "{name}: {} syncs", now - before);
            before = now;
        }
    }
}
