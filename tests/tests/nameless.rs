//! Goal: a file that is made without a name (O_TMPFILE) is a file like others, seen by nobody until it is linked, and gone if it never is.
//! Method: clients of a cluster of four servers make such files in directories of one, and link them into directories of others.

use fs_client::{Client, File, InodeId, OpenFlags, OpenOptions, Route, Status};
use fs_proto::msg::Caller;
use hayate_tests::{Cluster, ClusterOptions, full, until};

/// Beside the inode, and in chunks of several servers.
const SIZES: [u64; 2] = [100, 3_000_000];

fn nameless(client: &Client, dir: InodeId) -> File {
    client.create_nameless(&Caller::ROOT, dir, 0o640, OpenFlags::READ_WRITE).unwrap()
}

fn content(client: &Client, path: &str) -> Vec<u8> {
    let file = client.open_path(path, &OpenOptions::read_only()).unwrap();
    file.read_bytes_at(file.attr().unwrap().size as usize + 1, 0).unwrap().to_vec()
}

/// Directories, of which some are of other servers than the first.
fn directories(client: &Client) -> Vec<InodeId> {
    (0..6).map(|n| client.mkdir_path(format!("/{n}"), 0o755).unwrap().ino).collect()
}

/// One such file, and directories that it may be linked in.
fn one() -> (Cluster, Client, Vec<InodeId>, File) {
    let cluster = Cluster::start(3);
    let client = cluster.client();
    let dirs = directories(&client);
    let file = nameless(&client, dirs[0]);
    (cluster, client, dirs, file)
}

#[test]
fn it_is_seen_when_it_is_linked() {
    let cluster = Cluster::start(4);
    let (client, other) = (cluster.client(), cluster.strict_client(Route::Auto));
    let dirs = directories(&client);
    for (to, dir) in dirs.iter().enumerate() {
        for (linked, size) in SIZES.into_iter().enumerate() {
            let file = nameless(&client, dirs[0]);
            file.write_at(&full(size, to as u8), 0).unwrap();
            let attr = file.attr().unwrap();
            assert_eq!((attr.nlink, attr.size, attr.mode & 0o7777), (0, size, 0o640));
            assert_eq!(other.read_dir("/0").unwrap().count(), if to == 0 { linked } else { SIZES.len() });
            let name = format!("f{size}");
            assert_eq!(client.link(&Caller::ROOT, attr.ino, *dir, name.as_bytes()).unwrap().nlink, 1);
            assert_eq!(other.stat(format!("/{to}/{name}")).unwrap().ino, attr.ino);
            file.write_at(b"more", size).unwrap();
            file.close().unwrap();
            let expected = [full(size, to as u8), b"more".to_vec()].concat();
            assert!(content(&other, &format!("/{to}/{name}")) == expected, "{to}: {size}");
        }
    }
    let parent = other.stat("/0").unwrap();
    assert_eq!(parent.size, SIZES.len() as u64, "entries of a directory");
}

#[test]
fn it_ends_when_it_is_closed_without_a_name() {
    let cluster = Cluster::start(4);
    let client = cluster.client();
    let dirs = directories(&client);
    // What a client has heard it tells again for a while.
    let inodes = || cluster.client().statfs().unwrap().inodes;
    let before = inodes();
    let files: Vec<File> = dirs.iter().map(|dir| nameless(&client, *dir)).collect();
    for (file, size) in files.iter().zip(SIZES.iter().cycle()) {
        file.write_at(&full(*size, 1), 0).unwrap();
    }
    assert_eq!(inodes(), before + files.len() as u64);
    for file in files {
        file.close().unwrap();
    }
    until("their inodes are gone", || inodes() == before);
}

#[test]
fn it_stays_through_restarts_while_it_is_open() {
    let mut cluster = Cluster::start(2);
    let client = cluster.client();
    let dir = client.mkdir_path("/d", 0o755).unwrap().ino;
    let files = SIZES.map(|size| {
        let file = nameless(&client, dir);
        file.write_at(&full(size, 3), 0).unwrap();
        file.sync().unwrap();
        (size, file)
    });
    (0..2).for_each(|id| cluster.restart(id));
    for (size, file) in files {
        assert!(file.read_bytes_at(size as usize, 0).unwrap() == full(size, 3), "{size}");
        client.link(&Caller::ROOT, file.ino(), dir, size.to_string().as_bytes()).unwrap();
        file.close().unwrap();
    }
    (0..2).for_each(|id| cluster.restart(id));
    for size in SIZES {
        assert!(content(&cluster.client(), &format!("/d/{size}")) == full(size, 3), "{size}");
    }
}

#[test]
fn what_had_a_name_and_lost_it_gets_none_again() {
    let (_cluster, client, dirs, file) = one();
    client.link(&Caller::ROOT, file.ino(), dirs[1], b"a").unwrap();
    client.remove_file("/1/a").unwrap();
    let again = client.link(&Caller::ROOT, file.ino(), dirs[2], b"b").unwrap_err();
    assert_eq!(again.code(), Some(Status::NotFound));
    assert_eq!(client.stat("/2/b").unwrap_err().errno(), libc::ENOENT);
    assert_eq!(file.attr().unwrap().nlink, 0);
}

#[test]
fn a_taken_name_is_refused_and_the_file_stays() {
    let (_cluster, client, dirs, file) = one();
    file.write_at(b"new", 0).unwrap();
    let old =
        client.create_open(&Caller::ROOT, dirs[3], b"there", 0o600, OpenFlags::READ_WRITE, true).unwrap().0;
    assert_eq!(client.link(&Caller::ROOT, file.ino(), dirs[3], b"there").unwrap_err().errno(), libc::EEXIST);
    assert_eq!(old.attr().unwrap().nlink, 1);
    client.link(&Caller::ROOT, file.ino(), dirs[3], b"free").unwrap();
    assert_eq!(content(&client, "/3/free"), b"new");
}

#[test]
fn only_members_of_the_directory_make_one() {
    let cluster = Cluster::start(2);
    let client = cluster.client();
    let dir = client.mkdir_path("/d", 0o755).unwrap().ino;
    let other = Caller { uid: 7, gid: 7, groups: Vec::new() };
    assert_eq!(
        client.create_nameless(&other, dir, 0o600, OpenFlags::READ_WRITE).err().unwrap().errno(),
        libc::EACCES
    );
    let file = client.open_path("/d/f", &OpenOptions::create_truncate()).unwrap();
    let no_directory = client.create_nameless(&Caller::ROOT, file.ino(), 0o600, OpenFlags::READ_WRITE);
    assert_eq!(no_directory.err().unwrap().errno(), libc::ENOTDIR);
}

#[test]
fn it_reaches_the_tier_under_its_first_name() {
    let cluster = Cluster::with(ClusterOptions { servers: 3, tier: true, ..ClusterOptions::default() });
    let client = cluster.client();
    let dirs = directories(&client);
    let tier = cluster.tier().unwrap();
    for size in SIZES {
        let file = nameless(&client, dirs[0]);
        file.write_at(&full(size, 9), 0).unwrap();
        file.flush().unwrap();
        client.flush_now(true).unwrap();
        client.link(&Caller::ROOT, file.ino(), dirs[4], size.to_string().as_bytes()).unwrap();
        file.close().unwrap();
        until("its copy is in the tier", || {
            client.flush_now(true).unwrap();
            std::fs::read(tier.join(format!("4/{size}"))).is_ok_and(|bytes| bytes == full(size, 9))
        });
    }
    assert_eq!(std::fs::read_dir(tier.join("0")).unwrap().count(), 0);
}
