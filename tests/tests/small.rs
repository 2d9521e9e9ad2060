//! Goal: small files, whose content lies with their inodes, are as any others: under races, across restarts, in wide directories, and
//! when they grow out of their inodes in the middle of all that. Method: clusters in this process, several clients, and raw messages
//! where a crash has to be made up.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use fs_client::{Caller, Client, OpenFlags, OpenOptions, Result, Route};
use fs_proto::checksum::crc;
use fs_proto::msg::chunk::{ReadChunk, WriteChunk};
use fs_proto::msg::small::Spill;
use fs_proto::placement::chunk_partition;
use fs_proto::{ChunkIndex, InodeId, Partition, Request, ServerId, Status};
use hayate_tests::{Cluster, ClusterOptions, send_raw};

const INLINE: usize = 16 << 10;
const ROOT: Caller = Caller::ROOT;

fn errno<T>(result: Result<T>) -> i32 {
    result.err().map_or(0, |error| error.errno())
}

fn is_inline(client: &Client, path: &str) -> bool {
    client.stat(path).expect("stat").inline
}

#[test]
fn files_leave_their_inodes_at_the_limit_and_stay_outside() {
    let cluster = Cluster::start(4);
    let (client, other) = (cluster.strict_client(Route::Auto), cluster.strict_client(Route::Auto));
    for i in 0..8 {
        let path = format!("/f{i}");
        client.put(&path, &[1; INLINE], 0o644).unwrap();
        assert!(is_inline(&client, &path));
        let file = client.open_path(&path, &OpenOptions { write: true, ..OpenOptions::default() }).unwrap();
        file.write_at(&[2; 10], INLINE as u64 - 5).unwrap();
        assert!(!is_inline(&client, &path));
        file.close().unwrap();
        let mut model = vec![1; INLINE + 5];
        model[INLINE - 5..].fill(2);
        assert!(other.get(&path).unwrap() == model);
        client.truncate_path(&path, 0).unwrap();
        assert!(!is_inline(&client, &path), "clients rely on it");
        client.put(&path, b"small again", 0o644).unwrap();
        assert_eq!(other.get(&path).unwrap(), "small again");
    }
}

#[test]
fn sizes_are_set_within_and_beyond_the_limit() {
    let cluster = Cluster::start(3);
    let (client, other) = (cluster.strict_client(Route::Auto), cluster.strict_client(Route::Auto));
    client.put("/f", b"abcdef", 0o644).unwrap();
    let mut model = b"abcdef".to_vec();
    for size in [3, 100, 50, INLINE, 2, INLINE + 1, 4, 3 << 20, 1] {
        client.truncate_path("/f", size as u64).unwrap();
        model.resize(size, 0);
        assert!(other.get("/f").unwrap() == model, "{size} bytes");
    }
    client.put("/g", b"abc", 0o644).unwrap();
    let ino = client.stat("/g").unwrap().ino;
    assert_eq!(client.extend(&ROOT, ino, 5).unwrap().size, 5);
    assert_eq!(client.extend(&ROOT, ino, 2).unwrap().size, 5);
    assert_eq!(other.get("/g").unwrap(), &b"abc\0\0"[..]);
}

/// Goal: `get` answers what lay under the name at one moment. Method: a file gets even contents under one name and odd ones under the other,
/// to which it is moved in between; readers of the first never see an odd one.
#[test]
fn a_get_is_of_one_moment_of_name_and_content() {
    let cluster = Cluster::start(1);
    let (done, seen) = (AtomicBool::new(false), AtomicU64::new(0));
    let client = || cluster.strict_client(Route::Auto);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let client = client();
                while !done.load(Ordering::Relaxed) {
                    let Ok(content) = client.get("/here") else { continue };
                    let number = u64::from_le_bytes(content.as_ref().try_into().unwrap());
                    assert_eq!(number % 2, 0, "written under the other name");
                    seen.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let writer = client();
        for round in (0..2000u64).step_by(2) {
            writer.put("/here", &round.to_le_bytes(), 0o644).unwrap();
            writer.rename_path("/here", "/there").unwrap();
            writer.put("/there", &(round + 1).to_le_bytes(), 0o644).unwrap();
        }
        done.store(true, Ordering::Relaxed);
    });
    assert!(seen.load(Ordering::Relaxed) > 100);
}

#[test]
fn racing_writers_leave_what_one_of_them_wrote() {
    let cluster = Cluster::start(2);
    cluster.strict_client(Route::Auto).put("/f", &[0; 5000], 0o644).unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let writers: Vec<_> = (1..=3u8)
            .map(|id| {
                let cluster = &cluster;
                scope.spawn(move || {
                    let client = cluster.strict_client(Route::Auto);
                    for round in 0..150usize {
                        client.put("/f", &vec![id; 3000 + 1000 * usize::from(id) + round], 0o644).unwrap();
                    }
                })
            })
            .collect();
        let reader = scope.spawn(|| {
            let client = cluster.strict_client(Route::Auto);
            let mut reads = 0;
            while !done.load(Ordering::Relaxed) {
                let content = client.get("/f").unwrap();
                let id = content[0];
                assert!(content.iter().all(|byte| *byte == id), "a mixture of two contents");
                let size = 3000 + 1000 * usize::from(id);
                assert!(
                    id == 0 || (size..size + 150).contains(&content.len()),
                    "{} bytes of {id}",
                    content.len()
                );
                reads += 1;
            }
            reads
        });
        for writer in writers {
            writer.join().unwrap();
        }
        done.store(true, Ordering::Relaxed);
        assert!(reader.join().unwrap() > 0);
    });
}

#[test]
fn nothing_is_lost_when_a_file_grows_out_under_writers() {
    let cluster = Cluster::start(4);
    for round in 0..12u64 {
        let path = format!("/f{round}");
        let slot = 128;
        cluster.strict_client(Route::Auto).put(&path, b"", 0o644).unwrap();
        std::thread::scope(|scope| {
            for id in 0..4u64 {
                let (cluster, path) = (&cluster, &path);
                scope.spawn(move || {
                    let client = cluster.strict_client(Route::Auto);
                    let options = OpenOptions { read: true, write: true, ..OpenOptions::default() };
                    let file = client.open_path(path, &options).unwrap();
                    for n in 0..40u64 {
                        let at = (n * 4 + id) * slot; // Beyond 16 KiB from n = 32 on.
                        let data = vec![(1 + id * 40 + n) as u8; slot as usize];
                        file.write_at(&data, at).unwrap();
                        let mut back = vec![0; slot as usize];
                        assert_eq!(file.read_at(&mut back, at).unwrap(), back.len());
                        assert!(back == data, "what was written is read");
                    }
                    file.close().unwrap();
                });
            }
        });
        let content = cluster.strict_client(Route::Auto).get(&path).unwrap();
        assert_eq!(content.len() as u64, 160 * slot);
        for (at, part) in content.chunks(slot as usize).enumerate() {
            let (n, id) = (at / 4, at % 4);
            assert!(
                part.iter().all(|byte| usize::from(*byte) == 1 + id * 40 + n),
                "round {round}, slot {at}"
            );
        }
    }
}

#[test]
fn contents_survive_restarts_and_other_limits() {
    let options = || ClusterOptions { servers: 2, ..ClusterOptions::default() };
    let mut cluster = Cluster::configured(options(), |_| ());
    let content = |i: usize| vec![i as u8; i * 400];
    let client = cluster.strict_client(Route::Auto);
    for i in 0..20 {
        client.mkdir_path(format!("/d{i}"), 0o755).unwrap();
        client.put(format!("/d{i}/f"), &content(i), 0o644).unwrap();
    }
    let edits: [fn(&mut fs_server::ServerConfig); 3] =
        [|_| (), |config| config.inline_bytes = 0, |config| config.inline_bytes = 1000];
    for (round, edit) in edits.into_iter().enumerate() {
        cluster.configure(edit);
        (0..2).for_each(|id| cluster.restart(id));
        for i in 0..20 {
            let path = format!("/d{i}/f");
            let mut expected = content(i);
            assert!(client.get(&path).unwrap() == expected, "{path} after restart {round}");
            let file =
                client.open_path(&path, &OpenOptions { write: true, ..OpenOptions::default() }).unwrap();
            file.write_at(b"x", 0).unwrap();
            file.close().unwrap();
            if expected.is_empty() {
                expected.push(0);
            }
            expected[0] = b'x';
            assert!(
                cluster.strict_client(Route::Auto).get(&path).unwrap() == expected,
                "{path} written in round {round}"
            );
            client.put(&path, &content(i), 0o644).unwrap();
        }
    }
    assert!(!is_inline(&client, "/d19/f"), "it had to leave when nothing was allowed to be inline");
}

#[test]
fn without_inline_files_everything_lies_in_chunks() {
    let options = ClusterOptions { servers: 2, ..ClusterOptions::default() };
    let cluster = Cluster::configured(options, |config| config.inline_bytes = 0);
    let client = cluster.strict_client(Route::Auto);
    client.put("/f", b"abc", 0o644).unwrap();
    client.put("/g", b"abc", 0o644).unwrap();
    assert!(!is_inline(&client, "/f") && !is_inline(&client, "/g"));
    assert_eq!(cluster.strict_client(Route::Auto).get("/g").unwrap(), "abc");
}

#[test]
fn many_files_are_put_into_directories_that_widen_meanwhile() {
    let options = ClusterOptions { servers: 4, wide_threshold: 100, ..ClusterOptions::default() };
    let cluster = Cluster::with(options);
    let client = cluster.strict_client(Route::Auto);
    let dir = client.mkdir_path("/d", 0o755).unwrap().ino;
    let content = |i: usize| format!("{i}").repeat(1 + i % 700).into_bytes();
    let files: Vec<(String, Vec<u8>)> = (0..1500).map(|i| (format!("f{i}"), content(i))).collect();
    for part in files.chunks(50) {
        let parts: Vec<(&[u8], &[u8])> =
            part.iter().map(|(name, data)| (name.as_bytes(), &data[..])).collect();
        for result in client.put_many(&ROOT, dir, &parts, 0o644).unwrap() {
            result.unwrap();
        }
    }
    let deadline = Instant::now() + Duration::from_secs(30);
    while !client.stat("/d").unwrap().wide {
        assert!(Instant::now() < deadline, "the directory does not become wide");
        std::thread::yield_now();
    }
    // A client that does not know it yet.
    let other = cluster.strict_client(Route::Auto);
    let names: Vec<&[u8]> = files.iter().map(|(name, _)| name.as_bytes()).collect();
    let got = other.get_many(&ROOT, dir, &names).unwrap();
    for ((name, data), got) in files.iter().zip(got) {
        assert!(got.unwrap() == *data, "{name}");
    }
    let ignorant = cluster.strict_client(Route::Auto);
    let parts: Vec<(&[u8], &[u8])> = names.iter().map(|name| (*name, &b"new"[..])).collect();
    for result in ignorant.put_many(&ROOT, dir, &parts, 0o644).unwrap() {
        assert_eq!(result.unwrap().size, 3);
    }
    assert_eq!(client.stat("/d").unwrap().size, 1500);
    assert_eq!(
        client
            .read_dir_plus("/d")
            .unwrap()
            .filter(|entry| { entry.as_ref().unwrap().attr.as_ref().is_some_and(|attr| attr.size == 3) })
            .count(),
        1500
    );
}

#[test]
fn names_lead_to_contents_wherever_they_are_moved() {
    let cluster = Cluster::start(4);
    let (client, other) = (cluster.strict_client(Route::Auto), cluster.strict_client(Route::Auto));
    let mut expected = BTreeMap::new();
    for i in 0..24 {
        client.mkdir_path(format!("/d{i}"), 0o755).unwrap();
        let content = format!("content {i}").into_bytes();
        client.put(format!("/d{i}/f"), &content, 0o644).unwrap();
        // To other directories, mostly on other servers: the inode stays where it is.
        client.rename_path(format!("/d{i}/f"), format!("/d{}/moved", i / 2)).unwrap();
        client.link_path(format!("/d{}/moved", i / 2), format!("/d{i}/linked")).unwrap();
        expected.insert(i / 2, content);
        other.put(format!("/d{i}/linked"), b"through the link", 0o644).unwrap();
        assert_eq!(client.get(format!("/d{}/moved", i / 2)).unwrap(), "through the link");
        client.put(format!("/d{}/moved", i / 2), &expected[&(i / 2)], 0o644).unwrap();
    }
    for (i, content) in expected {
        assert!(other.get(format!("/d{i}/moved")).unwrap() == content);
    }
}

#[test]
fn an_unlinked_small_file_can_be_read_and_written_while_open() {
    let cluster = Cluster::start(3);
    let (client, other) = (cluster.strict_client(Route::Auto), cluster.strict_client(Route::Auto));
    client.put("/f", b"still here", 0o644).unwrap();
    let options = OpenOptions { read: true, write: true, ..OpenOptions::default() };
    let file = client.open_path("/f", &options).unwrap();
    other.remove_file("/f").unwrap();
    assert_eq!(file.read_bytes_at(100, 0).unwrap(), "still here");
    file.write_at(&[7; INLINE], 5).unwrap();
    let mut model = b"still".to_vec();
    model.extend([7; INLINE]);
    assert!(file.read_bytes_at(2 * INLINE, 0).unwrap() == model);
    assert_eq!(errno(other.get("/f")), libc::ENOENT);
}

#[test]
fn permissions_bind_whole_files_too() {
    let cluster = Cluster::start(3);
    let client = cluster.strict_client(Route::Auto);
    let nobody = Caller { uid: 65534, gid: 65534, groups: Vec::new() };
    let secret = client.put("/secret", b"root's", 0o600).unwrap();
    assert_eq!((secret.mode, secret.uid), (0o600, 0));
    let root = InodeId::ROOT;
    assert_eq!(errno(client.get_at(&nobody, root, b"secret")), libc::EACCES);
    assert_eq!(errno(client.put_at(&nobody, root, b"secret", b"x", 0o644, false)), libc::EACCES);
    assert_eq!(errno(client.put_at(&nobody, root, b"new", b"x", 0o644, false)), libc::EACCES);
    let many = client.put_many(&nobody, root, &[(b"secret", b"x"), (b"new", b"x")], 0o644).unwrap();
    assert!(many.into_iter().all(|result| errno(result) == libc::EACCES));
    let many = client.get_many(&nobody, root, &[b"secret"]).unwrap();
    assert!(many.into_iter().all(|result| errno(result) == libc::EACCES));
    client.mkdir_path("/closed", 0o700).unwrap();
    client.put("/closed/f", b"x", 0o666).unwrap();
    let closed = client.stat("/closed").unwrap().ino;
    assert_eq!(errno(client.get_at(&nobody, closed, b"f")), libc::EACCES);
    assert_eq!(errno(client.put_at(&nobody, closed, b"f", b"y", 0o666, false)), libc::EACCES);
    client.mkdir_path("/shared", 0o2777).unwrap();
    client.chown("/shared", None, Some(77)).unwrap();
    let shared = client.stat("/shared").unwrap().ino;
    let theirs = client.put_at(&nobody, shared, b"f", b"mine", 0o4755, true).unwrap();
    assert_eq!((theirs.uid, theirs.gid), (65534, 77), "the directory's group");
    let file = client.open(&nobody, theirs.ino, OpenFlags::WRITE).unwrap();
    file.write_at(b"x", 0).unwrap();
    assert_eq!(client.stat("/shared/f").unwrap().mode, 0o755, "a write by somebody without privilege");
}

/// One message as it is, to a server; answers its data.
fn send<R: Request>(
    cluster: &Cluster,
    to: ServerId,
    target: Partition,
    request: &R,
    data: Bytes,
) -> std::result::Result<Bytes, Status> {
    send_raw(cluster, to, target, request, data).map(|(_, data)| data)
}

/// A file of the root whose first chunk is not its home's, but server `away`'s.
fn apart(cluster: &Cluster, client: &Client, away: ServerId) -> (String, InodeId) {
    let map = cluster.file().map().unwrap();
    let made = (0..64).map(|i| {
        let path = format!("/apart{i}");
        let ino = client.put(&path, b"0123456789", 0o644).unwrap().ino;
        (path, ino)
    });
    made.into_iter()
        .find(|(_, ino)| map.owner(chunk_partition(*ino, ChunkIndex(0))) == away)
        .expect("one of many")
}

/// What a server holds of a file's first chunk.
fn chunk(cluster: &Cluster, ino: InodeId, server: ServerId) -> Bytes {
    let request = ReadChunk { ino, chunk: ChunkIndex(0), offset: 0, len: 65536, compared: false };
    send(cluster, server, chunk_partition(ino, ChunkIndex(0)), &request, Bytes::new()).unwrap()
}

/// A spill that noted what it is about, wrote the chunk, and was cut off before its end: what comes after is right all the same.
#[test]
fn a_spill_that_was_cut_off_leaves_nothing_behind() {
    let mut cluster = Cluster::start(2);
    let home = cluster.file().map().unwrap().owner(InodeId::ROOT.partition());
    let away = ServerId(1 - home.0);
    let client = cluster.strict_client(Route::Auto);
    // Removed first: after a restart of its home an orphan waits for a lease.
    for remove in [true, false] {
        let (path, ino) = apart(&cluster, &client, away);
        cluster.stop(away.0);
        assert!(send(&cluster, home, ino.partition(), &Spill { ino }, Bytes::new()).is_err());
        cluster.restart(away.0);
        let data = Bytes::from_static(b"0123456789");
        let request =
            WriteChunk { ino, chunk: ChunkIndex(0), offset: 0, file_end: 10, since: 0, crc: crc(&data) };
        send(&cluster, away, chunk_partition(ino, ChunkIndex(0)), &request, data).unwrap();
        assert!(is_inline(&client, &path));
        if remove {
            client.remove_file(&path).unwrap();
            let deadline = Instant::now() + Duration::from_secs(30);
            while !chunk(&cluster, ino, away).is_empty() {
                assert!(Instant::now() < deadline, "the chunk of an unfinished spill stays");
                std::thread::yield_now();
            }
            continue;
        }
        cluster.restart(home.0);
        assert_eq!(client.get(&path).unwrap(), "0123456789");
        client.truncate_path(&path, 3).unwrap();
        client.truncate_path(&path, 20_000).unwrap();
        assert!(!is_inline(&client, &path));
        assert_eq!(chunk(&cluster, ino, away), "012");
        let content = client.get(&path).unwrap();
        assert!(content[..3] == *b"012" && content[3..].iter().all(|byte| *byte == 0));
        client.remove_file(&path).unwrap();
    }
}
