//! Goal: what lies in a bucket before the cluster begins is visible, readable and can be changed through it, whoever put it there, and leaves a store
//! that is full. Method: a server in memory that keeps to Amazon's rules (`s3_memory`), objects put past the cluster, every byte compared.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use fs_net::Secret;
use fs_proto::msg::inode::Readlink;
use fs_proto::{ChunkIndex, FileKind, ServerId};
use fs_server::ServerConfig;
use fs_server::tier::both::{Both, Old};
use fs_server::tier::posix::Posix;
use fs_server::tier::{Base, Dir, Found, Place, Tier, TierError};

use crate::client::{Client, ROOT};
use crate::cluster::{Cluster, plain};
use crate::evicting::{change_some, figure, name};
use crate::reading::{content, find, read};
use crate::s3_memory::{self, Bucket, Fate};
use crate::s3_server::S3Server;

const CHUNK: usize = 1 << 20;

/// A cluster on a bucket, not started yet.
pub fn prepared(server: S3Server, adjust: fn(&mut ServerConfig)) -> Cluster {
    let mut cluster = Cluster::prepared_with(2, adjust);
    cluster.s3 = Some(server);
    cluster
}

#[test]
fn what_a_cluster_left_in_a_bucket_is_seen_by_the_next() {
    // Goal: every kind of object, every attribute and every byte comes back from the mapping.
    let (server, _) = s3_memory::start();
    let mut cluster = prepared(server, |_| {});
    cluster.launch(&plain);
    let client = Client::connect(&cluster.file);
    let (dir, deep) = (client.mkdir(ROOT, "dir"), client.mkdir_mode(ROOT, "deep", 0o710));
    client.mkdir_mode(deep, "empty", 0o1700);
    client.write_file(dir, "small", b"hello");
    client.write_file(dir, "none", b"");
    let big = client.write_file(deep, "big: c++ 100% & \u{fc}!", &content(3, (21 << 20) + 7));
    client.chmod(big, 0o4711);
    client.setxattr(big, "user.a", "1");
    client.setxattr(deep, "user.b", "2");
    client.make(dir, "link", FileKind::Symlink, "../nowhere", false);
    client.make(dir, "pipe", FileKind::Fifo, "", false);
    client.set_times(dir, 1_000_000_001, 2_000_000_002);
    cluster.drain(&client);
    cluster.compare(&client);
    drop(client);
    cluster.stop();
    let mut next = prepared(cluster.s3.take().unwrap(), |_| {});
    next.launch(&plain);
    let client = Client::connect(&next.file);
    assert_eq!(figure(&client, "fetched_bytes"), 0, "attributes come without data");
    next.compare(&client);
    assert!(figure(&client, "fetched_bytes") > 21 << 20);
    // And nothing of it is sent again.
    assert!(next.settle(&client).iter().all(|account| account.copied_bytes == 0));
}

fn fill(bucket: &Bucket) {
    bucket.put("plain", &content(1, 3 * CHUNK + 17), &[], 0);
    bucket.put("data/2020-01-01T00:00:00+01:00 100%!.nc", &content(2, 5 * CHUNK), &[], 4);
    bucket.put("data/deep/er/one", b"one", &[], 0);
    bucket.put("folder/", b"", &[], 0);
    bucket.put("s3fs/", b"", &[("mode", "16872"), ("uid", "7"), ("gid", "8"), ("mtime", "5.5")], 0);
    bucket.put("s3fs/link", b"../plain", &[("mode", "41471"), ("uid", "7"), ("gid", "8"), ("mtime", "6")], 0);
    bucket.put("both", b"hidden by the directory", &[], 0);
    bucket.put("both-more", b"between them", &[], 0);
    bucket.put("both/inner", b"inner", &[], 0);
    bucket.put("never//shown", b"no name", &[], 0);
}

#[test]
fn objects_of_other_tools_are_seen_and_changed() {
    let (server, bucket) = s3_memory::start();
    fill(&bucket);
    let mut cluster = prepared(server, |_| {});
    cluster.launch(&plain);
    let client = Client::connect(&cluster.file);
    let names: BTreeSet<_> = client.list(ROOT).into_iter().map(|(name, _)| name).collect();
    let expected = ["both", "both-more", "data", "folder", "never", "plain", "s3fs"];
    assert_eq!(names, expected.iter().map(|name| name.as_bytes().to_vec()).collect());
    let attr = |path: &str| client.attr(find(&client, path).unwrap());
    assert_eq!((attr("plain").mode, attr("plain").size), (0o644, 3 * CHUNK as u64 + 17));
    assert_eq!((attr("s3fs").mode, attr("s3fs").uid, attr("s3fs").mtime), (0o750, 7, 5_500_000_000));
    let link = attr("s3fs/link");
    assert_eq!(
        (link.kind, client.ask_home(link.ino, &Readlink { ino: link.ino })),
        (FileKind::Symlink, "../plain".into())
    );
    assert!(attr("both").is_dir() && client.list(find(&client, "folder").unwrap()).is_empty());
    let odd = "data/2020-01-01T00:00:00+01:00 100%!.nc";
    assert!(read(&client, odd) == content(2, 5 * CHUNK));
    assert_eq!(
        (read(&client, "data/deep/er/one"), read(&client, "both/inner")),
        (b"one".to_vec(), b"inner".to_vec())
    );

    // Changes of all kinds, in directories that other tools made.
    let data = find(&client, "data").unwrap();
    client.write_file(data, "new", b"new");
    client.rename(data, &odd["data/".len()..], ROOT, "moved");
    client.chmod(find(&client, "plain").unwrap(), 0o600);
    client.unlink(find(&client, "both").unwrap(), "inner");
    client.rename(data, "deep", ROOT, "shallow");
    cluster.settle(&client);
    assert!(bucket.get("moved").unwrap() == content(2, 5 * CHUNK) && bucket.get(odd).is_none());
    assert!(bucket.get("plain").unwrap() == content(1, 3 * CHUNK + 17));
    assert_eq!(bucket.meta("plain").unwrap()["mode"], (0o100_600).to_string());
    assert_eq!(
        (bucket.get("shallow/er/one").as_deref(), bucket.get("data/new").as_deref()),
        (Some(&b"one"[..]), Some(&b"new"[..]))
    );
    assert!(bucket.get("both/inner").is_none() && bucket.get("data/deep/er/one").is_none());
    drop(client);
    cluster.stop();
    let mut next = prepared(cluster.s3.take().unwrap(), |_| {});
    next.launch(&plain);
    let client = Client::connect(&next.file);
    assert!(read(&client, "moved") == content(2, 5 * CHUNK) && read(&client, "shallow/er/one") == b"one");
    assert!(client.list(find(&client, "both").unwrap()).is_empty(), "an empty directory stays one");
}

#[test]
fn a_directory_of_other_tools_moves_before_it_is_read() {
    // Goal: objects that nobody has read yet are known again after the server copied them, also those whose ETag changes with that.
    let (server, bucket) = s3_memory::start();
    bucket.put("data/sub/large", &content(7, 5 * CHUNK), &[], 3);
    let mut cluster = prepared(server, |config| config.tier_check_ms = 0);
    cluster.launch(&plain);
    let client = Client::connect(&cluster.file);
    let sub = find(&client, "data/sub").unwrap();
    let large = client.open_file(sub, "large");
    client.write(large, 10, b"changed");
    client.rename(ROOT, "data", ROOT, "moved");
    cluster.wait(&client, "the move", |_| bucket.get("moved/sub/large").is_some());
    client.close(large, 5 * CHUNK as u64);
    cluster.settle(&client);
    let mut wanted = content(7, 5 * CHUNK);
    wanted[10..17].copy_from_slice(b"changed");
    assert!(bucket.get("moved/sub/large").unwrap() == wanted && bucket.get("data/sub/large").is_none());
    assert!(read(&client, "moved/sub/large") == wanted);
}

#[test]
fn an_object_that_others_replace_is_noticed() {
    let (server, bucket) = s3_memory::start();
    bucket.put("theirs", &content(1, 3 * CHUNK), &[], 0);
    let mut cluster = prepared(server, |config| config.tier_check_ms = 0);
    cluster.launch(&plain);
    let client = Client::connect(&cluster.file);
    client.write_file(ROOT, "ours", &content(2, 2 * CHUNK));
    cluster.settle(&client);
    assert!(
        read(&client, "theirs") == content(1, 3 * CHUNK) && read(&client, "ours") == content(2, 2 * CHUNK)
    );
    // The same sizes: what tells is the ETag, and that our number is gone.
    bucket.put("theirs", &content(3, 3 * CHUNK), &[], 0);
    bucket.put("ours", &content(4, 2 * CHUNK), &[], 0);
    assert!(read(&client, "theirs") == content(3, 3 * CHUNK));
    assert!(read(&client, "ours") == content(4, 2 * CHUNK));
}

#[test]
fn a_working_set_of_three_times_the_stores_goes_through_a_bucket() {
    const FILE: usize = 4 * CHUNK + 77;
    const CAPACITY: u64 = 24 << 20;
    let files = 3 * CAPACITY as usize * 2 / FILE;
    let (server, bucket) = s3_memory::start();
    // A third is there before; some of it in parts.
    for n in 0..files / 3 {
        bucket.put(&name(n), &content(n as u64, FILE), &[], n % 2);
    }
    let mut cluster = prepared(server, |config| config.capacity = Some(CAPACITY));
    cluster.launch(&plain);
    let client = Client::connect(&cluster.file);
    for n in files / 3..files {
        client.write_file(ROOT, &name(n), &content(n as u64, FILE));
    }
    for round in 0..2 {
        for n in 0..files {
            assert!(read(&client, &name(n)) == content(n as u64, FILE), "file {n} in round {round}");
        }
    }
    assert!(figure(&client, "evicted_bytes") > CAPACITY && figure(&client, "fetched_bytes") > CAPACITY);
    // What was evicted is changed like anything else.
    change_some(&client, FILE as u64);
    cluster.settle(&client);
    let mut changed = content(0, FILE);
    changed[CHUNK - 5..CHUNK + 5].copy_from_slice(b"0123456789");
    assert!(bucket.get("file0").unwrap() == changed && bucket.get("moved").unwrap() == content(1, FILE));
    assert!(bucket.get("file2").is_none() && bucket.get("file3").unwrap() == content(3, 10));
}

/// From now on one request of `every` is refused, and others are late.
fn refuse_each(bucket: &Bucket, every: u64) {
    let count = Arc::new(AtomicU64::new(0));
    bucket.hook(move |_, _| match count.fetch_add(1, Ordering::Relaxed) % every {
        0 => Fate::Refused,
        _ => Fate::After(Duration::from_millis(30)),
    });
}

#[test]
fn a_server_that_fails_and_is_slow_delays_only() {
    // Goal: requests that are refused or late are made again; no wrong byte, no error. Method: every third request refused while files are read, every
    // 19th while one is flushed (a publication is a chain of requests that begins again as a whole), others late.
    let (server, bucket) = s3_memory::start();
    for n in 0..8 {
        bucket.put(&format!("dir/file{n}"), &content(n, 2 * CHUNK + 5), &[], 0);
    }
    let mut cluster = prepared(server, |_| {});
    cluster.launch(&plain);
    refuse_each(&bucket, 3);
    let client = Client::connect(&cluster.file);
    for n in 0..8 {
        assert!(read(&client, &format!("dir/file{n}")) == content(n, 2 * CHUNK + 5), "file {n}");
    }
    refuse_each(&bucket, 19);
    client.write_file(find(&client, "dir").unwrap(), "new", &content(9, 3 * CHUNK));
    cluster.settle(&client);
    assert!(bucket.get("dir/new").unwrap() == content(9, 3 * CHUNK));
}

#[test]
fn a_server_that_refuses_for_good_is_an_error_for_who_reads() {
    let (server, bucket) = s3_memory::start();
    bucket.put("file", &content(1, 2 * CHUNK), &[], 0);
    let mut cluster = prepared(server, |_| {});
    cluster.launch(&plain);
    let client = Client::connect(&cluster.file);
    let ino = find(&client, "file").unwrap();
    bucket.hook(|_, _| Fate::Refused);
    assert!(client.try_read_chunk(ino, ChunkIndex(0)).is_err());
    bucket.unhook();
    assert!(read(&client, "file") == content(1, 2 * CHUNK));
}

fn config() -> ServerConfig {
    ServerConfig::new(ServerId(3), "job/7".to_owned(), Secret::from_raw([1; 32]), "/nonexistent/store".into())
}

#[test]
fn what_is_read_of_a_bucket_is_of_one_object() {
    // Goal: any other number, size or time is missing, and so is what is beyond the end; never other bytes.
    let (server, bucket) = s3_memory::start();
    bucket.put("file", b"0123456789", &[], 0);
    let tier = server.tier(&config());
    let at = Place::new(&tier.base(Base::Root).unwrap(), &"file".into());
    let wanted = tier.look(&at).unwrap().unwrap();
    let mut out = [0; 4];
    tier.read(&at, &wanted, 3, &mut out).unwrap();
    assert_eq!(&out, b"3456");
    let missing = |wanted: &Found, offset| {
        assert!(matches!(tier.read(&at, wanted, offset, &mut [7; 4]), Err(TierError::Missing(_))));
    };
    missing(&wanted, 10);
    missing(&Found { id: wanted.id + 2, ..wanted }, 3);
    missing(&Found { mtime: wanted.mtime + 1, ..wanted }, 3);
    missing(&Found { size: 11, ..wanted }, 3);
    bucket.put("file", b"abcdefghij", &[], 0);
    missing(&wanted, 3);
}

#[test]
fn a_large_directory_of_a_bucket_is_listed_in_pages() {
    // Goal: each object once, also where pages end between an object and the directory that hides it.
    let (server, bucket) = s3_memory::start();
    for n in 0..2_500 {
        bucket.put(&format!("dir/f{n:04}"), b"", &[], 0);
    }
    bucket.put("dir/f0999/below", b"", &[], 0);
    let tier = server.tier(&config());
    let dir = tier.open_dir(&Place::new(&tier.base(Base::Root).unwrap(), &"dir".into()));
    // Other tools made it, and nobody listed the directory above it.
    assert!(tier.list(dir.as_ref().unwrap(), &mut |_| true).is_err());
    let root = tier.base(Base::Root).unwrap();
    tier.list(&root, &mut |_| true).unwrap();
    let (mut names, mut dirs) = (Vec::new(), 0);
    tier.list(&dir.unwrap(), &mut |page| {
        dirs += page.iter().filter(|one| one.found.is_dir).count();
        names.extend(page.into_iter().map(|one| one.name));
        true
    })
    .unwrap();
    names.sort();
    assert_eq!((names.len(), dirs), (2_500, 1));
    names.dedup();
    assert_eq!(names.len(), 2_500);
}

#[test]
fn an_old_bucket_is_only_read() {
    // Goal: all that lies in a bucket which things move away from is found under its path, listed and read, and no request changes anything there: not even a marker for a directory of
    // other tools. Method: the bucket refuses, and counts, what is not GET or HEAD.
    let (server, bucket) = s3_memory::start();
    fill(&bucket);
    let changes = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&changes);
    bucket.hook(move |method, _| {
        if matches!(method.as_str(), "GET" | "HEAD") {
            return Fate::Served;
        }
        count.fetch_add(1, Ordering::Relaxed);
        Fate::Refused
    });
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("new")).unwrap();
    let config =
        ServerConfig::new(ServerId(0), "job".to_owned(), Secret::from_raw([1; 32]), dir.path().join("store"));
    let both = Both::new(Arc::new(Posix::open(&dir.path().join("new"), &config).unwrap()));
    let (old, id) = server.old_tier(&config);
    old.check_readable().unwrap();
    both.set_old(Some(Old { tier: Arc::new(old), id }));
    let root = both.old_root().unwrap();
    let names = |dir: &Dir| {
        let mut names = Vec::new();
        both.list(dir, &mut |page| {
            names.extend(page.into_iter().map(|listed| (listed.name, listed.found.is_dir)));
            true
        })
        .unwrap();
        names.sort();
        names
    };
    let dirs: Vec<_> = names(&root).into_iter().filter(|(_, is_dir)| *is_dir).map(|(name, _)| name).collect();
    assert_eq!(dirs, ["both", "data", "folder", "never", "s3fs"]);
    let at = |path: &'static str| Place::new(&root, &path.into());
    let deep = both.open_dir(&at("data/deep/er")).unwrap();
    assert_eq!(names(&deep), [("one".into(), false)]);
    let found = both.look(&at("data/deep/er/one")).unwrap().unwrap();
    let mut data = [0; 3];
    both.read(&at("data/deep/er/one"), &found, 0, &mut data).unwrap();
    assert_eq!(&data, b"one");
    let other = Found { size: 4, ..found };
    assert!(matches!(both.read(&at("data/deep/er/one"), &other, 0, &mut data), Err(TierError::Missing(_))));
    assert!(both.look(&at("data/deep/none")).unwrap().is_none());
    assert!(both.remove(&Place::new(&deep, &"one".into()), false).is_err());
    assert_eq!(changes.load(Ordering::Relaxed), 0);
}
