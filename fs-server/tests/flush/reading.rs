//! Goal: what lies in the shared tier before the cluster begins is visible, readable and can be changed through it, and no wrong byte is ever given.
//! Method: trees made in the tier's directory, clusters on it, every byte compared, faults by the fake.

use std::collections::BTreeMap;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use fs_proto::{ChunkIndex, InodeId, ServerId};
use fs_server::tier::{Tier, TierError};

use crate::client::{Client, ROOT};
use crate::cluster::{Cluster, plain};
use crate::evicting::figure;
use crate::fake::{Fake, Gate};
use crate::policies::until;

const CHUNK: usize = 1 << 20;

/// Bytes that tell where they are from.
pub fn content(seed: u64, len: usize) -> Vec<u8> {
    let word = |at: u64| (seed << 40 ^ at).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes();
    (0..len.div_ceil(8) as u64).flat_map(word).take(len).collect()
}

/// A tree with everything: directories, empty, small and large files, a link, modes. Answers paths and contents of files.
pub fn make_tree(tier: &Path) -> BTreeMap<&'static str, Vec<u8>> {
    std::fs::create_dir_all(tier.join("a/b/empty")).unwrap();
    let files = BTreeMap::from([
        ("top", content(1, 3 * CHUNK + 17)),
        ("none", Vec::new()),
        ("a/small", content(2, 100)),
        ("a/b/large", content(3, 5 * CHUNK)),
        ("a/b/other", content(4, CHUNK - 1)),
    ]);
    for (path, data) in &files {
        std::fs::write(tier.join(path), data).unwrap();
    }
    symlink("b/large", tier.join("a/link")).unwrap();
    std::fs::set_permissions(tier.join("a/small"), PermissionsExt::from_mode(0o640)).unwrap();
    std::fs::set_permissions(tier.join("a/b"), PermissionsExt::from_mode(0o711)).unwrap();
    files
}

/// What a path from the root names.
pub fn find(client: &Client, path: &str) -> Option<InodeId> {
    path.split('/').try_fold(ROOT, |dir, name| client.lookup(dir, name))
}

/// The content of a file.
pub fn read(client: &Client, path: &str) -> Vec<u8> {
    let ino = find(client, path).unwrap_or_else(|| panic!("{path} is not there"));
    let data = client.read(&client.open_for_reading(ino));
    client.release(ino);
    data
}

#[test]
fn what_was_there_before_is_seen_and_read() {
    let mut cluster = Cluster::prepared(3);
    let files = make_tree(&cluster.tier());
    cluster.launch(&plain);
    let client = Client::connect(&cluster.file);
    for (path, data) in &files {
        assert!(read(&client, path) == *data, "{path}");
        let (meta, attr) =
            (std::fs::metadata(cluster.at(path)).unwrap(), client.attr(find(&client, path).unwrap()));
        assert_eq!((meta.mode() & 0o7777, meta.size()), (attr.mode, attr.size), "{path}");
        assert_eq!(meta.mtime() * 1_000_000_000 + meta.mtime_nsec(), attr.mtime, "{path}");
    }
    cluster.compare(&client);
    // And from a client that comes later, without the tier: what was read is here.
    drop(client);
    cluster.restart(&|tier| {
        let hook = |what: &'static str, _: &[u8]| match what {
            "read" | "list" => Err(TierError::Failed("away".to_owned())),
            _ => Ok(()),
        };
        Arc::new(Fake { with_listings: true, ..Fake::before(tier, hook) })
    });
    let client = Client::connect(&cluster.file);
    for (path, data) in &files {
        assert!(read(&client, path) == *data, "{path} after a restart");
    }
}

#[test]
fn what_was_there_before_is_changed_like_anything_else() {
    let mut cluster = Cluster::prepared(3);
    make_tree(&cluster.tier());
    cluster.launch(&plain);
    let client = Client::connect(&cluster.file);
    let (a, b) = (find(&client, "a").unwrap(), find(&client, "a/b").unwrap());
    client.rename(b, "large", ROOT, "moved");
    client.rename(ROOT, "a", ROOT, "c");
    client.unlink(b, "other");
    client.rmdir(b, "empty");
    client.chmod(find(&client, "c/small").unwrap(), 0o600);
    client.write_file(b, "new", &content(9, 2 * CHUNK));
    client.rename(ROOT, "top", a, "small");
    cluster.check(&client);
    assert!(std::fs::read(cluster.at("moved")).unwrap() == content(3, 5 * CHUNK));
    assert!(read(&client, "moved") == content(3, 5 * CHUNK));
    assert!(read(&client, "c/small") == content(1, 3 * CHUNK + 17));
    assert!(!cluster.at("a").exists() && !cluster.at("c/b/other").exists());
}

#[test]
fn parts_that_are_written_leave_the_rest() {
    let mut cluster = Cluster::prepared(3);
    let mut data = content(5, 6 * CHUNK + 5);
    std::fs::write(cluster.at("file"), &data).unwrap();
    cluster.launch(&plain);
    let client = Client::connect(&cluster.file);
    let ino = client.open_file(ROOT, "file");
    for (offset, len) in [(10, 20), (2 * CHUNK - 3, 6), (4 * CHUNK, CHUNK), (6 * CHUNK + 3, 100)] {
        let new = content(70 + offset as u64, len);
        client.write(ino, offset as u64, &new);
        data.resize(data.len().max(offset + len), 0);
        data[offset..offset + len].copy_from_slice(&new);
    }
    client.close(ino, data.len() as u64);
    assert!(client.read(&client.attr(ino)) == data);
    cluster.check(&client);
    assert!(std::fs::read(cluster.at("file")).unwrap() == data);
}

#[test]
fn what_is_cut_off_or_punched_does_not_come_back() {
    let mut cluster = Cluster::prepared(3);
    let mut data = content(6, 5 * CHUNK);
    std::fs::write(cluster.at("file"), &data).unwrap();
    cluster.launch(&plain);
    let client = Client::connect(&cluster.file);
    let ino = client.open_file(ROOT, "file");
    client.truncate(ino, (3 * CHUNK + 5) as u64);
    client.truncate(ino, 7 * CHUNK as u64);
    client.punch(ino, ChunkIndex(1), 0, CHUNK as u32);
    client.punch(ino, ChunkIndex(2), 5, 10);
    data[3 * CHUNK + 5..].fill(0);
    data.resize(7 * CHUNK, 0);
    data[CHUNK..2 * CHUNK].fill(0);
    data[2 * CHUNK + 5..2 * CHUNK + 15].fill(0);
    client.close(ino, data.len() as u64);
    assert!(client.read(&client.attr(ino)) == data);
    cluster.check(&client);
    assert!(std::fs::read(cluster.at("file")).unwrap() == data);
    drop(client);
    cluster.restart(&plain);
    let client = Client::connect(&cluster.file);
    assert!(read(&client, "file") == data);
}

#[test]
fn a_file_that_is_open_is_read_after_its_last_name_went() {
    // Goal: the copy goes from the tier with the name, and who has the file open still reads all of it.
    let mut cluster = Cluster::prepared(3);
    let data = content(7, 4 * CHUNK);
    std::fs::write(cluster.at("gone"), &data).unwrap();
    std::fs::write(cluster.at("replaced"), &data).unwrap();
    std::fs::write(cluster.at("new"), content(8, CHUNK)).unwrap();
    cluster.launch(&plain);
    let client = Client::connect(&cluster.file);
    let open = ["gone", "replaced"].map(|name| client.open_for_reading(find(&client, name).unwrap()));
    client.unlink(ROOT, "gone");
    client.rename(ROOT, "new", ROOT, "replaced");
    cluster.check(&client);
    assert!(!cluster.at("gone").exists());
    for attr in &open {
        assert!(client.read(attr) == data);
    }
}

#[test]
fn a_copy_that_others_change_is_noticed() {
    let mut cluster = Cluster::prepared_with(2, |config| config.tier_check_ms = 0);
    std::fs::write(cluster.at("file"), content(10, 3 * CHUNK)).unwrap();
    cluster.launch(&plain);
    let client = Client::connect(&cluster.file);
    assert!(read(&client, "file") == content(10, 3 * CHUNK));
    // Longer, by another file in its place; then shorter, in place.
    std::fs::write(cluster.at("other"), content(11, 4 * CHUNK)).unwrap();
    std::fs::rename(cluster.at("other"), cluster.at("file")).unwrap();
    assert!(read(&client, "file") == content(11, 4 * CHUNK));
    std::fs::write(cluster.at("file"), content(12, CHUNK + 1)).unwrap();
    assert!(read(&client, "file") == content(12, CHUNK + 1));
    // And half of it unread: the rest is not mixed in.
    std::fs::write(cluster.at("file"), content(13, 3 * CHUNK)).unwrap();
    let attr = client.open_for_reading(find(&client, "file").unwrap());
    client.read_chunk(attr.ino, ChunkIndex(0));
    std::fs::OpenOptions::new().write(true).open(cluster.at("file")).unwrap().write_all_at(b"x", 7).unwrap();
    assert!(read(&client, "file") == std::fs::read(cluster.at("file")).unwrap());
    cluster.settle(&client);
    cluster.compare(&client);
}

#[test]
fn a_copy_of_a_file_that_is_empty_here_is_compared_as_well() {
    // Method: one from the tier is cut to nothing, which is copied; then others write to the copy.
    let mut cluster = Cluster::prepared_with(2, |config| config.tier_check_ms = 0);
    std::fs::write(cluster.at("file"), content(32, CHUNK)).unwrap();
    cluster.launch(&plain);
    let client = Client::connect(&cluster.file);
    client.truncate(find(&client, "file").unwrap(), 0);
    cluster.settle(&client);
    assert_eq!(std::fs::metadata(cluster.at("file")).unwrap().len(), 0);
    std::fs::write(cluster.at("file"), content(33, 2 * CHUNK)).unwrap();
    assert!(read(&client, "file") == content(33, 2 * CHUNK));
    cluster.settle(&client);
    cluster.compare(&client);
}

#[test]
fn a_copy_of_a_file_that_was_made_here_is_compared_as_well() {
    let mut cluster = Cluster::prepared_with(2, |config| config.tier_check_ms = 0);
    cluster.launch(&plain);
    let client = Client::connect(&cluster.file);
    client.write_file(ROOT, "file", &content(30, 3 * CHUNK));
    cluster.settle(&client);
    std::fs::write(cluster.at("file"), content(31, 2 * CHUNK + 9)).unwrap();
    assert!(read(&client, "file") == content(31, 2 * CHUNK + 9));
    cluster.settle(&client);
    cluster.compare(&client);
}

#[test]
fn changes_of_our_own_are_not_replaced() {
    let mut cluster = Cluster::prepared_with(2, |config| config.tier_check_ms = 0);
    std::fs::write(cluster.at("file"), content(14, 100)).unwrap();
    cluster.launch(&plain);
    let client = Client::connect(&cluster.file);
    let ino = client.open_file(ROOT, "file");
    client.write(ino, 0, &content(15, 200));
    std::fs::write(cluster.at("file"), content(16, 50)).unwrap();
    let seen = client.read(&client.open_for_reading(ino));
    client.close(ino, 200);
    assert!(seen.len() >= 100 && seen == content(15, 200)[..seen.len()], "{}", seen.len());
    cluster.settle(&client);
    assert!(std::fs::read(cluster.at("file")).unwrap() == content(15, 200));
}

#[test]
fn a_listing_that_is_interrupted_is_finished() {
    // Goal: a crash between pages loses no name and makes none twice. Method: listings that fail after their first page, a restart.
    let mut cluster = Cluster::prepared(2);
    std::fs::create_dir(cluster.at("many")).unwrap();
    for n in 0..600 {
        std::fs::write(cluster.at(format!("many/f{n}")), n.to_string()).unwrap();
    }
    for n in 0..40 {
        std::fs::create_dir(cluster.at(format!("many/d{n}"))).unwrap();
    }
    cluster.launch(&|tier| Arc::new(Fake { cut_listings: true, ..Fake::before(tier, |_, _| Ok(())) }));
    let client = Client::connect(&cluster.file);
    let dir = find(&client, "many").unwrap();
    assert!(client.try_lookup(dir, "f1").is_err());
    drop(client);
    cluster.restart(&plain);
    let client = Client::connect(&cluster.file);
    let dir = find(&client, "many").unwrap();
    assert_eq!(client.list(dir).len(), 640);
    assert_eq!((client.attr(dir).size, client.attr(dir).nlink), (640, 42));
    cluster.compare(&client);
    for n in 0..600 {
        assert_eq!(read(&client, &format!("many/f{n}")), n.to_string().into_bytes());
    }
}

#[test]
fn a_tier_that_fails_for_a_while_delays_readers() {
    // Goal: EIO and ESTALE and latency are tried again; the reader gets its bytes.
    let mut cluster = Cluster::prepared(2);
    let files = make_tree(&cluster.tier());
    let calls = Arc::new(AtomicU64::new(0));
    cluster.launch(&|tier| {
        let calls = Arc::clone(&calls);
        let hook = move |what: &'static str, _: &[u8]| match what {
            "read" | "list" | "open_dir" => match calls.fetch_add(1, Ordering::Relaxed) % 16 {
                0..4 => Err(TierError::Failed("cannot read: Stale file handle (os error 116)".to_owned())),
                4..6 => {
                    std::thread::sleep(Duration::from_secs(1));
                    Ok(())
                }
                _ => Ok(()),
            },
            _ => Ok(()),
        };
        Arc::new(Fake { with_listings: true, ..Fake::before(tier, hook) })
    });
    let client = Client::connect(&cluster.file);
    for (path, data) in &files {
        assert!(read(&client, path) == *data, "{path}");
    }
}

#[test]
fn a_tier_that_fails_for_good_is_an_error_for_who_reads() {
    let mut cluster = Cluster::prepared(2);
    std::fs::write(cluster.at("file"), content(20, CHUNK)).unwrap();
    let fails = Arc::new(AtomicBool::new(true));
    cluster.launch(&|tier| -> Arc<dyn Tier> {
        let fails = Arc::clone(&fails);
        Arc::new(Fake::before(tier, move |what, _| {
            if what == "read" && fails.load(Ordering::Relaxed) {
                return Err(TierError::Failed("cannot read: Input/output error (os error 5)".to_owned()));
            }
            Ok(())
        }))
    });
    let client = Client::connect(&cluster.file);
    let ino = find(&client, "file").unwrap();
    assert!(client.try_read_chunk(ino, ChunkIndex(0)).is_err());
    fails.store(false, Ordering::Relaxed);
    assert!(read(&client, "file") == content(20, CHUNK));
}

#[test]
fn a_directory_of_before_becomes_wide_when_it_grows() {
    let mut cluster = Cluster::prepared_with(3, |config| config.wide_threshold = 50);
    std::fs::create_dir(cluster.at("dir")).unwrap();
    for n in 0..120 {
        std::fs::write(cluster.at(format!("dir/old{n}")), content(n, 1000)).unwrap();
    }
    cluster.launch(&plain);
    let client = Client::connect(&cluster.file);
    let dir = find(&client, "dir").unwrap();
    let mut made = 0;
    while !client.attr(dir).wide {
        client.write_file(dir, &format!("new{made}"), &content(made, 2000));
        made += 1;
        assert!(made < 500, "it stays narrow");
    }
    client.unlink(dir, "old7");
    client.rename(dir, "old8", ROOT, "moved");
    client.write_file(dir, "old9", &content(9, 3000));
    cluster.check(&client);
    assert_eq!(client.list(dir).len() as u64, 118 + made);
    assert!(read(&client, "moved") == content(8, 1000) && read(&client, "dir/old10") == content(10, 1000));
}

#[test]
fn attributes_of_before_are_taken_over() {
    let mut cluster = Cluster::prepared(2);
    std::fs::create_dir(cluster.at("dir")).unwrap();
    std::fs::write(cluster.at("dir/file"), content(1, 10)).unwrap();
    let set = |path: &str, name: &str, value: &str| {
        rustix::fs::setxattr(cluster.at(path), name, value.as_bytes(), rustix::fs::XattrFlags::empty())
            .is_ok()
    };
    let takes = set("dir/file", "user.color", "blue") && set("dir", "user.hayate.flush", "demand");
    cluster.launch(&plain);
    let client = Client::connect(&cluster.file);
    let file = find(&client, "dir/file").unwrap();
    if takes {
        let name = bytes::Bytes::from_static(b"user.color");
        assert_eq!(client.ask_home(file, &fs_proto::msg::inode::Getxattr { ino: file, name }), "blue");
        let name = bytes::Bytes::from_static(b"user.hayate.flush");
        assert_eq!(client.ask_home(file, &fs_proto::msg::inode::Getxattr { ino: file, name }), "demand");
    }
    let name = bytes::Bytes::from_static(b"user.hayate.durable");
    assert_eq!(client.ask_home(file, &fs_proto::msg::inode::Getxattr { ino: file, name }), "yes");
    cluster.compare(&client);
}

#[test]
fn a_tier_that_hangs_holds_up_no_opening() {
    // Goal: what is held of a file is read although nobody can look at its copy. Method: looks that do not end.
    let gate = Gate::shut();
    gate.open();
    let mut cluster = Cluster::prepared_with(2, |config| config.tier_check_ms = 0);
    std::fs::write(cluster.at("file"), content(21, 2 * CHUNK)).unwrap();
    cluster.launch(&gate.wrap("look"));
    let client = Client::connect(&cluster.file);
    assert!(read(&client, "file") == content(21, 2 * CHUNK));
    gate.close();
    let began = Instant::now();
    assert!(read(&client, "file") == content(21, 2 * CHUNK));
    let took = began.elapsed();
    gate.open();
    assert!(took < Duration::from_secs(8), "{took:?}");
}

#[test]
fn a_read_that_hangs_in_the_tier_holds_up_no_cut_for_good() {
    // Goal: who cuts a file comes to the turn although a fetch of it does not end, and what is cut off does not come back.
    let gate = Gate::shut();
    let mut cluster = Cluster::prepared(2);
    std::fs::write(cluster.at("file"), content(22, 2 * CHUNK)).unwrap();
    cluster.launch(&gate.wrap("read"));
    let (file, client) = (&cluster.file, Client::connect(&cluster.file));
    let ino = find(&client, "file").unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || drop(Client::connect(file).try_read_chunk(ino, ChunkIndex(0))));
        gate.await_somebody();
        let began = Instant::now();
        client.truncate(ino, 0);
        let took = began.elapsed();
        gate.open();
        assert!(took < Duration::from_secs(18), "{took:?}");
    });
    client.truncate(ino, 2 * CHUNK as u64);
    assert!(client.read(&client.attr(ino)).iter().all(|byte| *byte == 0));
    cluster.check(&client);
}

#[test]
fn a_rename_fetches_nothing() {
    // Goal: the copy of a file that gets another name is moved, not read.
    let mut cluster = Cluster::prepared(2);
    std::fs::create_dir(cluster.at("dir")).unwrap();
    for n in 0..20 {
        std::fs::write(cluster.at(format!("file{n}")), content(n, 2 * CHUNK)).unwrap();
    }
    cluster.launch(&plain);
    let client = Client::connect(&cluster.file);
    let dir = find(&client, "dir").unwrap();
    for n in 0..20 {
        client.rename(ROOT, &format!("file{n}"), dir, &format!("moved{n}"));
    }
    cluster.settle(&client);
    assert_eq!(figure(&client, "fetched_bytes"), 0);
    cluster.check(&client);
    assert!(read(&client, "dir/moved7") == content(7, 2 * CHUNK));
}

#[test]
fn what_follows_is_fetched_ahead() {
    // Goal: who reads one chunk of a file in the tier has the next four fetched, and no more, before anybody wants them; of a file that ends before, what there is.
    const AHEAD: usize = 4;
    let mut cluster = Cluster::prepared(3);
    std::fs::write(cluster.at("long"), content(40, 12 * CHUNK)).unwrap();
    std::fs::write(cluster.at("short"), content(41, 2 * CHUNK + 5)).unwrap();
    cluster.launch(&plain);
    let client = Client::connect(&cluster.file);
    let fetched = || {
        let of = |id| client.status(ServerId(id))["backing"]["fetched_bytes"].as_u64().unwrap();
        (0..3).map(of).sum::<u64>()
    };
    let mut wanted = 0;
    for (name, bytes) in [("long", (1 + AHEAD) * CHUNK), ("short", 2 * CHUNK + 5)] {
        wanted += bytes as u64;
        let ino = find(&client, name).unwrap();
        client.read_chunk(ino, ChunkIndex(0));
        until("what follows", || fetched() >= wanted);
        assert_eq!(fetched(), wanted, "{name}");
    }
    // All of it is here now: reading it fetches nothing.
    let ino = find(&client, "long").unwrap();
    (0..=AHEAD as u64).for_each(|chunk| drop(client.read_chunk(ino, ChunkIndex(chunk))));
    assert_eq!(fetched(), wanted);
}
