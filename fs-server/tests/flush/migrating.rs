//! Goal: a tree moves from an old tier to the shared one while it is used: all of it is seen and read at once, what applications do to it meanwhile counts, the
//! shared tier ends with what the old one had, which is not touched, and what is lost or changed on the way is found. Method: trees made in a directory,
//! clusters whose tier is another, every path compared; faults by the fake.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use fs_proto::msg::tier::{AttachOld, FlushNow, MigrateStatus, Migrated};
use fs_proto::{ChunkIndex, InodeId, ServerId, Status};
use fs_server::tier::posix::Posix;
use fs_server::tier::{Tier, TierError};

use crate::client::{Client, ROOT};
use crate::cluster::{Cluster, Wrap, plain};
use crate::fake::Fake;
use crate::reading::{self, content, find, read};
use crate::trees::{Tree, assert_same, forget_atimes, of_directory};

const CHUNK: usize = 1 << 20;
const LIMIT: Duration = Duration::from_secs(120);

/// The old tier's directory.
fn old(cluster: &Cluster) -> PathBuf {
    cluster.dir.path().join("old")
}

fn raw(path: &Path) -> Bytes {
    Bytes::copy_from_slice(path.as_os_str().as_bytes())
}

fn servers(cluster: &Cluster) -> Vec<ServerId> {
    cluster.file.members.iter().map(|member| member.id).collect()
}

/// As `hayate migrate` does it.
fn attach(cluster: &Cluster, client: &Client) {
    let path = raw(&old(cluster));
    let mut order = servers(cluster);
    let root = cluster.file.map().unwrap().owner(InodeId::ROOT.partition());
    order.sort_by_key(|server| *server == root);
    let ask = |id| {
        order
            .iter()
            .map(|to| client.ask_server(*to, &AttachOld { path: path.clone(), id }).unwrap())
            .collect::<Vec<_>>()
    };
    let seen = ask(0);
    assert!(seen.iter().all(|id| *id == seen[0]));
    ask(seen[0]);
}

fn statuses(cluster: &Cluster, client: &Client) -> Vec<Migrated> {
    servers(cluster).into_iter().map(|to| client.ask_server(to, &MigrateStatus {}).unwrap()).collect()
}

fn sum(statuses: &[Migrated], of: fn(&Migrated) -> u64) -> u64 {
    statuses.iter().map(of).sum()
}

/// Waits until nothing is left, flushes, and has the old tier forgotten.
fn end(cluster: &Cluster, client: &Client) -> Vec<Migrated> {
    let (began, mut last) = (Instant::now(), u64::MAX);
    let ended = loop {
        let now = statuses(cluster, client);
        let found = sum(&now, |one| one.found);
        if sum(&now, |one| one.left) == 0 && last == found {
            break now;
        }
        last = found;
        assert!(began.elapsed() < LIMIT, "it does not end: {now:?}");
        std::thread::sleep(Duration::from_millis(20));
    };
    cluster.drain(client);
    for to in servers(cluster) {
        client.ask_server(to, &AttachOld { path: Bytes::new(), id: 0 }).unwrap();
    }
    ended
}

/// A tree with everything, attributes and times too. Answers paths and contents of files.
fn make_tree(old: &Path) -> BTreeMap<&'static str, Vec<u8>> {
    let files = reading::make_tree(old);
    for path in files.keys() {
        rustix::fs::setxattr(old.join(path), "user.from", path.as_bytes(), rustix::fs::XattrFlags::empty())
            .unwrap();
    }
    set_mtime(&old.join("top"), 1_600_000_000_123_456_789);
    set_mtime(&old.join("a/b"), 1_500_000_000_000_000_001);
    files
}

fn set_mtime(path: &Path, ns: i64) {
    let time = |ns: i64| rustix::fs::Timespec { tv_sec: ns / 1_000_000_000, tv_nsec: ns % 1_000_000_000 };
    let times = rustix::fs::Timestamps { last_access: time(1), last_modification: time(ns) };
    rustix::fs::utimensat(rustix::fs::CWD, path, &times, rustix::fs::AtFlags::empty()).unwrap();
}

/// A cluster with such an old tier.
fn started(servers: u16, wrap: Wrap<'_>) -> (Cluster, Client, Tree) {
    let mut cluster = Cluster::prepared(servers);
    std::fs::create_dir(old(&cluster)).unwrap();
    make_tree(&old(&cluster));
    let before = of_directory(&old(&cluster));
    cluster.launch(wrap);
    let client = Client::connect(&cluster.file);
    (cluster, client, before)
}

/// A tier that nothing comes to: not even what is read of the old one for that.
fn takes_nothing(tier: Posix) -> Arc<dyn Tier> {
    Arc::new(Fake::before(tier, |call, _| match call {
        "make" | "rename" | "collect" => Err(TierError::Failed("not now".into())),
        _ => Ok(()),
    }))
}

fn without_atimes(mut tree: Tree) -> Tree {
    forget_atimes(&mut tree);
    tree
}

#[test]
fn everything_is_there_before_anything_is_copied() {
    // Method: a tier that takes nothing.
    let mut cluster = Cluster::prepared(3);
    std::fs::create_dir(old(&cluster)).unwrap();
    let files = make_tree(&old(&cluster));
    cluster.launch(&takes_nothing);
    let client = Client::connect(&cluster.file);
    assert!(client.list(ROOT).is_empty());
    attach(&cluster, &client);
    for (path, data) in &files {
        assert!(read(&client, path) == *data, "{path}");
        let (meta, attr) =
            (std::fs::metadata(old(&cluster).join(path)).unwrap(), client.attr(find(&client, path).unwrap()));
        assert_eq!((meta.mode() & 0o7777, meta.size()), (attr.mode, attr.size), "{path}");
        assert_eq!(meta.mtime() * 1_000_000_000 + meta.mtime_nsec(), attr.mtime, "{path}");
    }
    let seen = without_atimes(crate::trees::of_namespace(&client));
    let whole = without_atimes(of_directory(&old(&cluster)));
    assert_same(&whole, &seen);
    let there = of_directory(&cluster.tier());
    assert!(whole.keys().all(|path| !there.contains_key(path)), "{:?}", there.keys());
    assert_eq!(client.attr(find(&client, "a").unwrap()).nlink, 3);
    assert_eq!(client.attr(ROOT).size, 3);
}

#[test]
fn what_flushing_puts_off_moves_now() {
    // Goal: a delay of flushing, which is for what is written again soon, does not hold a migration up. Method: nothing else would be flushed for an hour.
    let mut cluster = Cluster::prepared_with(2, |config| config.flush_delay_ms = 3_600_000);
    std::fs::create_dir(old(&cluster)).unwrap();
    make_tree(&old(&cluster));
    cluster.launch(&plain);
    let client = Client::connect(&cluster.file);
    attach(&cluster, &client);
    assert_eq!(sum(&end(&cluster, &client), |one| one.same_files), 5);
}

#[test]
fn a_tree_moves_as_it_is_and_the_old_one_is_not_touched() {
    let (cluster, client, before) = started(3, &plain);
    attach(&cluster, &client);
    let ended = end(&cluster, &client);
    assert_eq!(sum(&ended, |one| one.same_files), 5, "{ended:?}");
    assert_eq!(sum(&ended, |one| one.compared_bytes) as usize, 3 * CHUNK + 17 + 100 + 5 * CHUNK + CHUNK - 1);
    assert_same(&before, &of_directory(&old(&cluster)));
    assert_same(&without_atimes(before), &without_atimes(of_directory(&cluster.tier())));
    cluster.check(&client);
    // Without the old tier: all of it is here or in the new one.
    std::fs::rename(old(&cluster), cluster.dir.path().join("away")).unwrap();
    assert!(read(&client, "a/b/large") == content(3, 5 * CHUNK));
}

#[test]
fn what_applications_do_meanwhile_is_what_counts() {
    let (cluster, client, before) = started(3, &plain);
    attach(&cluster, &client);
    let (a, b) = (find(&client, "a").unwrap(), find(&client, "a/b").unwrap());
    let open = find(&client, "a/b/other").unwrap();
    client.open_for_reading(open);
    client.unlink(b, "other");
    client.rmdir(b, "empty");
    client.rename(ROOT, "top", a, "moved");
    client.rename(ROOT, "a", ROOT, "c");
    client.chmod(find(&client, "c/small").unwrap(), 0o600);
    let large = client.open_file(b, "large");
    client.write(large, 2 * CHUNK as u64 + 5, b"changed");
    client.close(large, 5 * CHUNK as u64);
    client.write_file(b, "new", &content(9, 2 * CHUNK));
    end(&cluster, &client);
    let mut changed = content(3, 5 * CHUNK);
    changed[2 * CHUNK + 5..][..7].copy_from_slice(b"changed");
    assert!(std::fs::read(cluster.at("c/b/large")).unwrap() == changed);
    assert!(std::fs::read(cluster.at("c/moved")).unwrap() == content(1, 3 * CHUNK + 17));
    assert!(!cluster.at("a").exists() && !cluster.at("top").exists());
    assert!(!cluster.at("c/b/other").exists() && !cluster.at("c/b/empty").exists());
    assert_eq!(std::fs::metadata(cluster.at("c/small")).unwrap().mode() & 0o7777, 0o600);
    cluster.check(&client);
    assert_same(&before, &of_directory(&old(&cluster)));
    // What was removed while it was open is read to its end, without the old tier.
    assert!(client.read(&client.attr(open)) == content(4, CHUNK - 1));
    client.release(open);
}

#[test]
fn a_restart_goes_on() {
    let (mut cluster, client, before) = started(2, &plain);
    attach(&cluster, &client);
    assert_eq!(client.list(ROOT).len(), 3);
    drop(client);
    cluster.restart(&plain);
    let client = Client::connect(&cluster.file);
    assert!(read(&client, "a/b/large") == content(3, 5 * CHUNK));
    // What is open for writing is not known for half a minute after a restart: nothing is here.
    for to in servers(&cluster) {
        client.ask_server(to, &FlushNow { everything: true }).unwrap();
    }
    attach(&cluster, &client);
    end(&cluster, &client);
    assert_same(&without_atimes(before), &without_atimes(of_directory(&cluster.tier())));
    // Once more: there is nothing left to do.
    attach(&cluster, &client);
    let ended = end(&cluster, &client);
    assert_eq!(sum(&ended, |one| one.again + one.gone), 0);
    cluster.check(&client);
}

/// A cluster whose copies cannot be read in the shared tier, so that nothing is compared, until the flag is set. All is copied when this returns.
fn copied_and_not_compared() -> (Cluster, Client, Arc<AtomicBool>) {
    let compares = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&compares);
    let (cluster, client, _) = started(2, &move |tier| {
        let flag = Arc::clone(&flag);
        Arc::new(Fake::before(tier, move |what, name| {
            // An empty one is only looked at.
            let compares = what == "read" || (what, name) == ("look", b"none");
            if !compares || flag.load(Ordering::Acquire) {
                Ok(())
            } else {
                Err(TierError::Failed("not yet".to_owned()))
            }
        })) as Arc<dyn Tier>
    });
    attach(&cluster, &client);
    let began = Instant::now();
    let all = ["top", "none", "a/small", "a/b/large", "a/b/other", "a/link", "a/b/empty"];
    while !all.iter().all(|path| cluster.at(path).symlink_metadata().is_ok()) {
        assert!(began.elapsed() < LIMIT, "it is not copied");
        std::thread::sleep(Duration::from_millis(5));
        client.list(ROOT);
    }
    cluster.drain(&client);
    (cluster, client, compares)
}

#[test]
fn a_flipped_byte_is_found() {
    let (cluster, client, compares) = copied_and_not_compared();
    for (path, at) in [("a/b/large", 4 * CHUNK + 77), ("a/small", 99)] {
        let meta = std::fs::metadata(cluster.at(path)).unwrap();
        let file = std::fs::OpenOptions::new().read(true).write(true).open(cluster.at(path)).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, at as u64).unwrap();
        file.write_all_at(&[byte[0] ^ 4], at as u64).unwrap();
        set_mtime(&cluster.at(path), meta.mtime() * 1_000_000_000 + meta.mtime_nsec());
    }
    compares.store(true, Ordering::Release);
    let ended = end(&cluster, &client);
    assert_eq!((sum(&ended, |one| one.again), sum(&ended, |one| one.same_files)), (2, 5), "{ended:?}");
    assert_same(
        &without_atimes(of_directory(&old(&cluster))),
        &without_atimes(of_directory(&cluster.tier())),
    );
    cluster.check(&client);
}

#[test]
fn what_changes_in_the_old_tier_is_copied_again() {
    let (cluster, client, compares) = copied_and_not_compared();
    std::fs::write(old(&cluster).join("a/b/large"), content(30, 2 * CHUNK + 5)).unwrap();
    std::fs::write(old(&cluster).join("none"), "no more").unwrap();
    std::fs::write(old(&cluster).join("x"), content(31, 100)).unwrap();
    std::fs::rename(old(&cluster).join("x"), old(&cluster).join("a/small")).unwrap();
    std::fs::remove_file(old(&cluster).join("a/b/other")).unwrap();
    compares.store(true, Ordering::Release);
    let ended = end(&cluster, &client);
    assert_eq!((sum(&ended, |one| one.again), sum(&ended, |one| one.gone)), (3, 1), "{ended:?}");
    for (path, data) in [
        ("a/b/large", content(30, 2 * CHUNK + 5)),
        ("none", b"no more".to_vec()),
        ("a/small", content(31, 100)),
    ] {
        assert!(std::fs::read(cluster.at(path)).unwrap() == data, "{path}");
        assert!(read(&client, path) == data, "{path} in the cluster");
    }
    assert!(cluster.at("a/b/other").exists(), "what others removed there after it was copied stays");
    cluster.check(&client);
}

#[test]
fn the_old_tier_is_kept_while_something_is_left() {
    let (cluster, client, compares) = copied_and_not_compared();
    let detach = AttachOld { path: Bytes::new(), id: 0 };
    let refused: Vec<_> = servers(&cluster).iter().map(|to| client.ask_server(*to, &detach)).collect();
    assert!(refused.contains(&Err(Status::Busy)), "{refused:?}");
    assert!(sum(&statuses(&cluster, &client), |one| one.left) > 0);
    compares.store(true, Ordering::Release);
    end(&cluster, &client);
    // Another one after it is refused: directories remember where they were in this one.
    std::fs::create_dir(cluster.dir.path().join("third")).unwrap();
    let third = AttachOld { path: raw(&cluster.dir.path().join("third")), id: 0 };
    assert_eq!(client.ask_server(ServerId(0), &third), Err(Status::Busy));
}

#[test]
fn what_both_have_is_one() {
    // Method: directories of the shared tier that were listed before, one of them wide; and ones that were not.
    let mut cluster = Cluster::wide_above(3, 20);
    for place in ["old", "tier"] {
        for dir in ["many", "few", "unseen/deep"] {
            std::fs::create_dir_all(cluster.dir.path().join(place).join(dir)).unwrap();
        }
    }
    let name = |index: u64| format!("many/f{index}");
    for index in 0..120 {
        let place = if index < 60 { cluster.tier() } else { old(&cluster) };
        std::fs::write(place.join(name(index)), content(index, 50)).unwrap();
    }
    for path in ["few/same", "many/f7", "unseen/same", "unseen/deep/same"] {
        std::fs::write(old(&cluster).join(path), "old").unwrap();
        std::fs::write(cluster.at(path), "new").unwrap();
    }
    for path in ["few/old", "unseen/old", "unseen/deep/old"] {
        std::fs::write(old(&cluster).join(path), "old").unwrap();
    }
    std::fs::create_dir(old(&cluster).join("many/sub")).unwrap();
    std::fs::write(old(&cluster).join("many/sub/f"), "old").unwrap();
    cluster.launch(&plain);
    let client = Client::connect(&cluster.file);
    let many = find(&client, "many").unwrap();
    assert_eq!(client.list(many).len(), 60);
    client.list(find(&client, "few").unwrap());
    // Grows, so that it widens.
    for index in 0..100 {
        client.write_file(many, &format!("more{index}"), b"more");
    }
    let began = Instant::now();
    while !client.attr(many).wide {
        assert!(began.elapsed() < LIMIT, "it does not widen");
        client.write_file(many, &format!("yet{:?}", began.elapsed()), b"yet");
    }
    let grown = client.list(many).len();
    attach(&cluster, &client);
    end(&cluster, &client);
    assert_eq!(client.list(many).len(), grown + 61);
    assert_eq!(client.attr(many).size as usize, grown + 61);
    assert_eq!(client.attr(many).nlink, 3);
    for index in (0..120).filter(|index| *index != 7) {
        assert!(std::fs::read(cluster.at(name(index))).unwrap() == content(index, 50), "{index}");
    }
    for path in ["few/same", "many/f7", "unseen/same", "unseen/deep/same"] {
        assert_eq!(std::fs::read(cluster.at(path)).unwrap(), b"new", "{path}");
    }
    for path in ["few/old", "unseen/old", "unseen/deep/old", "many/sub/f"] {
        assert_eq!(std::fs::read(cluster.at(path)).unwrap(), b"old", "{path}");
    }
    let few = client.attr(find(&client, "few").unwrap());
    assert_eq!((few.size, few.nlink), (2, 2));
    cluster.check(&client);
}

#[test]
fn policies_hold_nothing_back() {
    let mut cluster = Cluster::prepared(2);
    std::fs::create_dir_all(old(&cluster).join("never")).unwrap();
    std::fs::create_dir_all(old(&cluster).join("demand")).unwrap();
    for dir in ["never", "demand"] {
        let at = old(&cluster).join(dir);
        rustix::fs::setxattr(&at, "user.hayate.flush", dir.as_bytes(), rustix::fs::XattrFlags::empty())
            .unwrap();
        std::fs::write(at.join("f"), content(5, CHUNK)).unwrap();
        symlink("f", at.join("l")).unwrap();
    }
    let before = of_directory(&old(&cluster));
    cluster.launch(&plain);
    let client = Client::connect(&cluster.file);
    attach(&cluster, &client);
    end(&cluster, &client);
    assert_same(&without_atimes(before), &without_atimes(of_directory(&cluster.tier())));
}

#[test]
fn what_cannot_be_an_old_tier_is_refused() {
    let cluster = Cluster::start(2);
    let client = Client::connect(&cluster.file);
    let dir = cluster.dir.path();
    std::fs::create_dir(cluster.at("inside")).unwrap();
    std::fs::create_dir(dir.join("old")).unwrap();
    std::fs::write(dir.join("file"), "").unwrap();
    symlink(cluster.tier(), dir.join("other-name")).unwrap();
    let wrong = [
        dir.join("none"),
        dir.join("file"),
        cluster.tier(),
        dir.join("other-name"),
        cluster.at("inside"),
        dir.to_owned(),
        dir.join("s1"),
        "s3://".into(),
        "relative".into(),
    ];
    for path in wrong {
        for id in [0, 1] {
            let answer = client.ask_server(ServerId(1), &AttachOld { path: raw(&path), id });
            assert_eq!(answer, Err(Status::Invalid), "{}", path.display());
        }
    }
    // Not the directory that others see there.
    let right = raw(&dir.join("old"));
    let id = client.ask_server(ServerId(0), &AttachOld { path: right.clone(), id: 0 }).unwrap();
    assert_eq!(client.ask_server(ServerId(0), &AttachOld { path: right, id: id + 1 }), Err(Status::Invalid));
    assert_eq!(sum(&statuses(&cluster, &client), |one| one.found), 0);
    client.ask_server(ServerId(0), &FlushNow { everything: false }).unwrap();
}

#[test]
fn an_old_tier_that_is_away_is_an_error_and_no_empty_tree() {
    // Method: nothing is copied; a restart while an empty directory is under the old tier's path, as of a file system that is not mounted.
    let (mut cluster, client, _) = started(2, &takes_nothing);
    attach(&cluster, &client);
    let (a, top) = (find(&client, "a").unwrap(), find(&client, "top").unwrap());
    drop(client);
    cluster.stop();
    let away = cluster.dir.path().join("away");
    std::fs::rename(old(&cluster), &away).unwrap();
    std::fs::create_dir(old(&cluster)).unwrap();
    cluster.launch(&plain);
    let client = Client::connect(&cluster.file);
    // What was listed is known; nothing else is taken for absent, or for zeros.
    assert_eq!(client.list(ROOT).len(), 3);
    assert_eq!(client.try_read_chunk(top, ChunkIndex(0)).unwrap_err(), Status::TierFailed);
    assert_eq!(
        client.ask_server(ServerId(0), &AttachOld { path: raw(&old(&cluster)), id: 0 }),
        Err(Status::Invalid)
    );
    std::fs::remove_dir(old(&cluster)).unwrap();
    std::fs::rename(&away, old(&cluster)).unwrap();
    assert!(read(&client, "top") == content(1, 3 * CHUNK + 17));
    assert!(read(&client, "a/b/large") == content(3, 5 * CHUNK));
    assert_eq!(client.attr(a).nlink, 3);
}

#[test]
fn a_tree_moves_to_a_bucket() {
    let cluster = Cluster::start_on_s3(2);
    std::fs::create_dir(old(&cluster)).unwrap();
    let files = make_tree(&old(&cluster));
    let before = of_directory(&old(&cluster));
    let client = Client::connect(&cluster.file);
    attach(&cluster, &client);
    for (path, data) in &files {
        assert!(read(&client, path) == *data, "{path}");
    }
    let ended = end(&cluster, &client);
    assert_eq!((sum(&ended, |one| one.same_files), sum(&ended, |one| one.again)), (5, 0), "{ended:?}");
    let bucket = crate::trees::of_bucket(cluster.s3.as_ref().unwrap());
    assert_same(&without_atimes(before.clone()), &without_atimes(bucket));
    assert_same(&before, &of_directory(&old(&cluster)));
    assert_same(&without_atimes(before), &without_atimes(crate::trees::of_namespace(&client)));
}
