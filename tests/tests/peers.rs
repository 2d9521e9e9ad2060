//! Goal: what went wrong when the nearest peer was run does not go wrong here. One test a finding.
//! Method: the finding's own scenario on a four-server cluster in this process.

use fs_client::{Client, OpenFlags, OpenOptions, Result};
use fs_proto::msg::Caller;
use fs_proto::placement::chunk_partition;
use fs_proto::{ChunkIndex, InodeId, ServerId};
use hayate_tests::{Cluster, status, until};

fn put(client: &Client, path: &str, content: &[u8]) {
    let file = client.open_path(path, &OpenOptions::create_truncate()).expect("create");
    file.write_at(content, 0).expect("write");
    file.close().expect("close");
}

fn errno<T>(result: Result<T>) -> i32 {
    match result {
        Ok(_) => 0,
        Err(error) => error.errno(),
    }
}

fn content(client: &Client, path: &str) -> Vec<u8> {
    let file = client.open_path(path, &OpenOptions::read_only()).expect("open");
    let mut bytes = vec![0xee; file.attr().expect("attr").size as usize + 10];
    let read = file.read_at(&mut bytes, 0).expect("read");
    bytes.truncate(read);
    bytes
}

#[test]
fn a_second_writer_that_creates_does_not_truncate() {
    let cluster = Cluster::start(4);
    let (one, two) = (cluster.client(), cluster.client());
    let create = OpenOptions { write: true, create: true, ..OpenOptions::default() };
    let first = one.open_path("/shared", &create).unwrap();
    first.write_at(b"first half ", 0).unwrap();
    let second = two.open_path("/shared", &create).unwrap();
    second.write_at(b"second half", 11).unwrap();
    first.close().unwrap();
    second.close().unwrap();
    assert_eq!(content(&cluster.client(), "/shared"), b"first half second half");
}

#[test]
fn exclusive_create_is_exclusive() {
    let cluster = Cluster::start(4);
    let client = cluster.client();
    put(&client, "/there", b"x");
    let options = OpenOptions { write: true, create_new: true, ..OpenOptions::default() };
    assert_eq!(errno(client.open_path("/there", &options)), libc::EEXIST);
}

#[test]
fn a_read_only_descriptor_does_not_write() {
    let cluster = Cluster::start(4);
    let client = cluster.client();
    put(&client, "/f", b"data");
    let file = client.open_path("/f", &OpenOptions::read_only()).unwrap();
    assert_eq!(errno(file.write_at(b"no", 0)), libc::EBADF);
    assert_eq!(content(&client, "/f"), b"data");
}

#[test]
fn long_names_and_names_with_colons_work_past_the_first_chunk() {
    let cluster = Cluster::start(4);
    let client = cluster.client();
    let chunk = 1 << 20;
    for name in ["n".repeat(255), "m".repeat(254), "with:colon".to_owned(), ":".to_owned()] {
        let path = format!("/{name}");
        let data: Vec<u8> = (0..chunk * 3 + 17).map(|i: usize| (i % 251) as u8).collect();
        put(&client, &path, &data);
        assert!(content(&cluster.client(), &path) == data, "{name}: all chunks");
        let listed = client.read_dir("/").unwrap().any(|entry| entry.unwrap().name == name.as_bytes());
        assert!(listed, "{name} is listed");
    }
    assert_eq!(errno(client.stat(format!("/{}", "n".repeat(256)))), libc::ENAMETOOLONG);
}

#[test]
fn paths_go_deeper_than_fifty() {
    let cluster = Cluster::start(4);
    let client = cluster.client();
    let path = "/d".repeat(200);
    client.mkdir_all(&path, 0o755).unwrap();
    put(&client, &format!("{path}/leaf"), b"deep");
    assert_eq!(content(&cluster.client(), &format!("{path}/leaf")), b"deep");
}

#[test]
fn rmdir_of_a_full_directory_fails_and_keeps_its_children() {
    let cluster = Cluster::start(4);
    let client = cluster.client();
    for i in 0..20 {
        client.mkdir_path(format!("/d{i}"), 0o755).unwrap();
        put(&client, &format!("/d{i}/child"), b"here");
        assert_eq!(errno(client.remove_dir(format!("/d{i}"))), libc::ENOTEMPTY);
        assert_eq!(content(&client, &format!("/d{i}/child")), b"here");
    }
}

#[test]
fn holes_read_as_zeros_and_sizes_are_right() {
    let cluster = Cluster::start(4);
    let client = cluster.client();
    let file = client.open_path("/sparse", &OpenOptions::create_truncate()).unwrap();
    file.write_at(b"ten bytes!", 1_000_000).unwrap();
    file.close().unwrap();
    let bytes = content(&cluster.client(), "/sparse");
    assert_eq!(bytes.len(), 1_000_010);
    assert!(bytes[..1_000_000].iter().all(|byte| *byte == 0));
    assert_eq!(&bytes[1_000_000..], b"ten bytes!");
}

#[test]
fn truncate_up_and_down_across_chunks() {
    let cluster = Cluster::start(4);
    let client = cluster.client();
    put(&client, "/t", &vec![7; 3_500_000]);
    client.truncate_path("/t", 1_500_000).unwrap();
    client.truncate_path("/t", 5_000_000).unwrap();
    let bytes = content(&cluster.client(), "/t");
    assert_eq!(bytes.len(), 5_000_000);
    assert!(bytes[..1_500_000].iter().all(|byte| *byte == 7));
    assert!(bytes[1_500_000..].iter().all(|byte| *byte == 0), "cut bytes do not come back");
}

#[test]
fn a_cut_is_not_undone_by_a_writer_that_did_not_hear_of_it() {
    let cluster = Cluster::start(4);
    let (writer, cutter) = (cluster.client(), cluster.client());
    let file = writer.open_path("/f", &OpenOptions::create_truncate()).unwrap();
    file.write_at(&vec![1; 3_000_000], 0).unwrap();
    assert_eq!(cutter.stat("/f").unwrap().size, 3_000_000, "a write is seen before it is published");
    cutter.truncate_path("/f", 10).unwrap();
    file.write_at(b"tail", 100).unwrap();
    file.close().unwrap();
    let bytes = content(&cluster.client(), "/f");
    assert_eq!(bytes.len(), 104);
    assert_eq!((&bytes[..10], &bytes[100..]), ([1; 10].as_slice(), b"tail".as_slice()));
    assert!(bytes[10..100].iter().all(|byte| *byte == 0));
}

#[test]
fn permissions_bind_the_native_path() {
    let cluster = Cluster::start(4);
    let client = cluster.client();
    let nobody = Caller { uid: 65534, gid: 65534, groups: Vec::new() };
    for i in 0..8 {
        let name = format!("secret{i}");
        put(&client, &format!("/{name}"), b"root's");
        client.chmod(format!("/{name}"), 0o600).unwrap();
        let ino = client.stat(format!("/{name}")).unwrap().ino;
        assert_eq!(errno(client.open(&nobody, ino, OpenFlags::READ)), libc::EACCES);
        assert_eq!(errno(client.open(&nobody, ino, OpenFlags::WRITE)), libc::EACCES);
        assert_eq!(errno(client.unlink(&nobody, InodeId::ROOT, name.as_bytes())), libc::EACCES);
        assert_eq!(errno(client.mkdir(&nobody, InodeId::ROOT, b"mine", 0o777)), libc::EACCES);
    }
}

/// Opening for both needs the permission for both, however the file comes to be open and whoever of the client has it open already.
#[test]
fn who_may_only_write_does_not_read() {
    let cluster = Cluster::start(4);
    let client = cluster.client();
    let user = Caller { uid: 65534, gid: 65534, groups: Vec::new() };
    let (read, write, both) = (OpenFlags::READ, OpenFlags::WRITE, OpenFlags::READ_WRITE);
    let cases = [(0o222, write, [read, both]), (0o444, read, [write, both])];
    for (i, (mode, allowed, denied)) in cases.into_iter().cycle().take(8).enumerate() {
        let name = format!("half{i}");
        put(&client, &format!("/{name}"), b"root's");
        client.chmod(format!("/{name}"), mode).unwrap();
        let ino = client.stat(format!("/{name}")).unwrap().ino;
        // Half of them are open already, by one who may do everything.
        let _held = (i >= 4).then(|| client.open(&Caller::ROOT, ino, both).unwrap());
        let _allowed = client.open(&user, ino, allowed).unwrap();
        for flags in denied {
            assert_eq!(errno(client.open(&user, ino, flags)), libc::EACCES, "{mode:o} {flags:?}");
            let made = client.create_open(&user, InodeId::ROOT, name.as_bytes(), 0o600, flags, false);
            assert_eq!(errno(made), libc::EACCES, "{mode:o} {flags:?}");
        }
        client.create_open(&user, InodeId::ROOT, name.as_bytes(), 0o600, allowed, false).unwrap();
    }
}

#[test]
fn names_that_would_leave_the_tree_are_refused() {
    let cluster = Cluster::start(2);
    let client = cluster.client();
    let root = Caller { uid: 0, gid: 0, groups: Vec::new() };
    for name in ["../x", "a/b", "..", ".", ""] {
        assert_eq!(
            errno(client.mkdir(&root, InodeId::ROOT, name.as_bytes(), 0o755)),
            libc::EINVAL,
            "{name:?}"
        );
    }
}

#[test]
fn a_restarted_server_has_all_its_data_and_mounts_go_on() {
    let mut cluster = Cluster::start(3);
    let client = cluster.client();
    for i in 0..60 {
        client.mkdir_path(format!("/d{i}"), 0o755).unwrap();
        put(&client, &format!("/d{i}/f"), format!("{i}").repeat(1000).as_bytes());
    }
    for id in 0..3 {
        cluster.restart(id);
        for i in 0..60 {
            assert_eq!(content(&client, &format!("/d{i}/f")), format!("{i}").repeat(1000).as_bytes());
        }
        put(&client, &format!("/after{id}"), b"goes on");
    }
}

#[test]
fn a_file_that_is_unlinked_after_a_restart_stays_while_it_is_open() {
    let mut cluster = Cluster::start(2);
    let client = cluster.client();
    for (n, size) in [100, 100_000].into_iter().enumerate() {
        let path = format!("/f{n}");
        put(&client, &path, &vec![7; size]);
        let options = OpenOptions { read: true, write: true, ..OpenOptions::default() };
        let file = client.open_path(&path, &options).unwrap();
        // The servers do not know any more what is open: clients tell them again within a third of a lease.
        (0..2).for_each(|id| cluster.restart(id));
        cluster.client().remove_file(&path).unwrap();
        // Longer than an orphan waits for the reaper, several times.
        let until = std::time::Instant::now() + std::time::Duration::from_millis(1500);
        while std::time::Instant::now() < until {
            file.write_at(b"still here", 50).unwrap();
            assert_eq!(file.read_bytes_at(10, 50).unwrap(), "still here");
            assert_eq!(file.attr().unwrap().size as usize, size);
        }
    }
}

/// Goal: a server that is away keeps only those files from being removed that have chunks there. Method: two files live at the root's home; one of them has
/// a chunk at the other server, which is stopped.
#[test]
fn what_needs_no_server_that_is_away_is_removed() {
    let mut cluster = Cluster::start(2);
    let map = cluster.file().map().unwrap();
    let home = map.owner(InodeId::ROOT.partition());
    let away = ServerId(1 - home.0);
    let client = cluster.client();
    let inodes = || status(&client, home)["inodes"].as_u64().unwrap();
    let before = inodes();
    let large = client.open_path("/large", &OpenOptions::create_truncate()).unwrap();
    let attr = large.attr().unwrap();
    let is_there = |chunk: &u64| map.owner(chunk_partition(attr.ino, ChunkIndex(*chunk))) == away;
    let chunk = (0..1_000).find(is_there).unwrap();
    large.write_at(&vec![7; 100_000], chunk * attr.layout.chunk_bytes()).unwrap();
    large.close().unwrap();
    put(&client, "/small", b"small");
    assert_eq!(inodes(), before + 2);
    cluster.stop(away.0);
    for path in ["/large", "/small"] {
        client.remove_file(path).unwrap();
    }
    until("the small file is removed", || inodes() == before + 1);
    cluster.restart(away.0);
    until("so is the large one", || inodes() == before);
}
