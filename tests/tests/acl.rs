//! Goal: access control lists, and the other rules of who may do what and when things changed, hold for the native client and on every server.
//! Method: clusters in this process, callers of several users; the same against a local file system is `tests/e2e/acl.py`.

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use fs_client::{Attr, Caller, Client, Create, FileKind, InodeId, OpenFlags, Route, Setattr};
use hayate_tests::{Cluster, ClusterOptions};

const ROOT: Caller = Caller::ROOT;
const ACCESS: &[u8] = b"system.posix_acl_access";
const DEFAULT: &[u8] = b"system.posix_acl_default";
const NO_ID: u32 = u32::MAX;

fn user(uid: u32) -> Caller {
    Caller { uid, gid: uid, groups: Vec::new() }
}

/// A list of (tag, permissions, id).
fn list(entries: &[(u16, u16, u32)]) -> Bytes {
    let mut out = BytesMut::new();
    out.put_u32_le(2);
    for (tag, perm, id) in entries {
        out.put_u16_le(*tag);
        out.put_u16_le(*perm);
        out.put_u32_le(*id);
    }
    out.freeze()
}

/// u::rwx u:7:<user> g::--- m::rwx o::---
fn for_user_7(perm: u16) -> Bytes {
    list(&[(1, 7, NO_ID), (2, perm, 7), (4, 0, NO_ID), (16, 7, NO_ID), (32, 0, NO_ID)])
}

fn set(client: &Client, who: &Caller, ino: InodeId, name: &[u8], value: &[u8]) -> Result<(), i32> {
    client.setxattr(who, ino, name, value, false, false).map_err(|error| error.errno())
}

fn set_mode(client: &Client, ino: InodeId, mode: u32) -> Attr {
    client.setattr(&ROOT, Setattr { mode: Some(mode), ..Setattr::nothing(ino) }).expect("chmod")
}

fn may(client: &Client, who: &Caller, ino: InodeId, flags: OpenFlags) -> bool {
    match client.open(who, ino, flags) {
        Ok(file) => file.close().is_ok(),
        Err(error) => {
            assert_eq!(error.errno(), libc::EACCES);
            false
        }
    }
}

fn file(client: &Client, path: &str, mode: u32) -> InodeId {
    client.put(path, b"content", 0o644).expect("put");
    let ino = client.stat(path).expect("stat").ino;
    set_mode(client, ino, mode);
    ino
}

#[test]
fn lists_come_and_go() {
    let mut cluster = Cluster::start(3);
    let client = cluster.strict_client(Route::Auto);
    let ino = file(&client, "/f", 0o700);
    assert!(!may(&client, &user(7), ino, OpenFlags::READ));
    assert_eq!(set(&client, &user(7), ino, ACCESS, &for_user_7(7)), Err(libc::EPERM));
    set(&client, &ROOT, ino, ACCESS, &for_user_7(6)).expect("set");
    let attr = client.getattr(&ROOT, ino).unwrap();
    assert_eq!((attr.mode, attr.acl), (0o770, true), "the group's bits are the mask");
    assert!(may(&client, &user(7), ino, OpenFlags::READ_WRITE));
    assert!(!may(&client, &user(8), ino, OpenFlags::READ), "others stay out");
    set_mode(&client, ino, 0o740);
    assert!(may(&client, &user(7), ino, OpenFlags::READ) && !may(&client, &user(7), ino, OpenFlags::WRITE));
    client.link(&ROOT, ino, InodeId::ROOT, b"second").expect("link");
    client.rename(&ROOT, InodeId::ROOT, b"f", InodeId::ROOT, b"g", false, false).expect("rename");
    for id in 0..3 {
        cluster.restart(id);
    }
    assert!(may(&client, &user(7), ino, OpenFlags::READ), "kept by names and restarts");
    assert_eq!(client.listxattr(&ROOT, ino).unwrap(), [ACCESS]);
    client.removexattr(&ROOT, ino, ACCESS).expect("remove");
    client.removexattr(&ROOT, ino, ACCESS).expect("what is not there is removed, too");
    let attr = client.getattr(&ROOT, ino).unwrap();
    assert_eq!((attr.mode, attr.acl), (0o740, false));
    assert!(!may(&client, &user(7), ino, OpenFlags::READ));
    assert_eq!(client.getxattr(&ROOT, ino, ACCESS).unwrap_err().errno(), libc::ENODATA);
}

#[test]
fn what_is_no_list_and_what_has_none_is_refused() {
    let cluster = Cluster::start(2);
    let client = cluster.strict_client(Route::Auto);
    let ino = file(&client, "/f", 0o640);
    assert_eq!(set(&client, &ROOT, ino, ACCESS, b"nonsense"), Err(libc::EINVAL));
    assert_eq!(set(&client, &ROOT, ino, DEFAULT, &for_user_7(7)), Err(libc::EACCES));
    assert_eq!(set(&client, &ROOT, ino, b"system.posix_acl_other", b""), Err(libc::EOPNOTSUPP));
    client.symlink_path("f", "/l").expect("symlink");
    let link = client.lookup(&ROOT, InodeId::ROOT, b"l").unwrap().ino;
    assert_eq!(set(&client, &ROOT, link, ACCESS, &for_user_7(7)), Err(libc::EOPNOTSUPP));
    // What mode bits say is kept in mode bits.
    let minimal = list(&[(1, 6, NO_ID), (4, 4, NO_ID), (32, 4, NO_ID)]);
    set(&client, &ROOT, ino, ACCESS, &minimal).expect("set");
    let attr = client.getattr(&ROOT, ino).unwrap();
    assert_eq!((attr.mode, attr.acl), (0o644, false));
    assert_eq!(client.listxattr(&ROOT, ino).unwrap(), Vec::<Bytes>::new());
}

fn make(client: &Client, who: &Caller, parent: InodeId, name: &str, mode: u32) -> Result<Attr, i32> {
    let what = Create {
        parent,
        name: Bytes::copy_from_slice(name.as_bytes()),
        kind: FileKind::File,
        mode,
        rdev: 0,
        target: Bytes::new(),
        exclusive: true,
        layout: None,
        open: None,
    };
    client.create(who, what).map(|(attr, _)| attr).map_err(|error| error.errno())
}

#[test]
fn a_directory_gives_its_default_list() {
    let cluster = Cluster::start(3);
    let client = cluster.strict_client(Route::Auto);
    let dir = client.mkdir_path("/d", 0o755).unwrap().ino;
    let masked = |mode| fs_proto::attr::with_umask(mode, 0o077);
    assert_eq!(make(&client, &ROOT, dir, "before", masked(0o666)).unwrap().mode, 0o600);
    set(&client, &ROOT, dir, DEFAULT, &for_user_7(7)).expect("set");
    let made = make(&client, &ROOT, dir, "after", masked(0o666)).unwrap();
    assert_eq!((made.mode, made.acl), (0o660, true), "the umask does not count");
    assert!(may(&client, &user(7), made.ino, OpenFlags::READ_WRITE));
    assert_eq!(client.getxattr(&ROOT, made.ino, DEFAULT).unwrap_err().errno(), libc::ENODATA);
    let sub = client.mkdir(&ROOT, dir, b"sub", masked(0o750)).unwrap();
    assert_eq!((sub.mode, sub.acl), (0o750, true));
    assert_eq!(client.getxattr(&ROOT, sub.ino, DEFAULT).unwrap(), for_user_7(7));
    client.put("/d/put", b"small", 0o666).expect("put");
    assert!(client.stat("/d/put").unwrap().acl);
    client.removexattr(&ROOT, dir, DEFAULT).expect("remove");
    let made = make(&client, &ROOT, dir, "last", masked(0o666)).unwrap();
    assert_eq!((made.mode, made.acl), (0o600, false));
}

#[test]
fn a_wide_directory_has_its_lists_everywhere() {
    let cluster = Cluster::with(ClusterOptions { wide_threshold: 32, ..ClusterOptions::default() });
    let client = cluster.strict_client(Route::Auto);
    let dir = client.mkdir_path("/wide", 0o700).unwrap().ino;
    set(&client, &ROOT, dir, ACCESS, &for_user_7(7)).expect("set while narrow");
    set(&client, &ROOT, dir, DEFAULT, &for_user_7(6)).expect("set while narrow");
    for n in 0..64 {
        make(&client, &ROOT, dir, &format!("old{n}"), 0o666).expect("make");
    }
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while !client.getattr(&ROOT, dir).unwrap().wide {
        assert!(std::time::Instant::now() < deadline, "the directory does not become wide");
        std::thread::yield_now();
    }
    let all = |who: &Caller, prefix: &str| {
        (0..32).map(|n| make(&client, who, dir, &format!("{prefix}{n}"), 0o666)).collect::<Vec<_>>()
    };
    assert!(
        all(&user(7), "a").iter().all(|made| made.as_ref().is_ok_and(|attr| attr.acl && attr.mode == 0o660))
    );
    assert!(all(&user(8), "b").iter().all(|made| *made == Err(libc::EACCES)));
    set_mode(&client, dir, 0o740);
    assert!(all(&user(7), "c").iter().all(|made| *made == Err(libc::EACCES)), "the mask says no");
    set_mode(&client, dir, 0o770);
    client.removexattr(&ROOT, dir, DEFAULT).expect("remove while wide");
    assert!(all(&user(7), "d").iter().all(|made| made.as_ref().is_ok_and(|attr| !attr.acl)));
    client.removexattr(&ROOT, dir, ACCESS).expect("remove while wide");
    assert!(all(&user(7), "e").iter().all(|made| *made == Err(libc::EACCES)));
}

#[test]
fn the_set_group_id_bit_is_for_members() {
    let cluster = Cluster::start(2);
    let client = cluster.strict_client(Route::Auto);
    let ino = file(&client, "/f", 0o755);
    let (member, other) = (Caller { uid: 7, gid: 7, groups: vec![50] }, user(7));
    let give = Setattr { uid: Some(7), gid: Some(50), ..Setattr::nothing(ino) };
    client.setattr(&ROOT, give).expect("chown");
    let chmod = |who: &Caller, mode| {
        client.setattr(who, Setattr { mode: Some(mode), ..Setattr::nothing(ino) }).expect("chmod").mode
    };
    assert_eq!((chmod(&other, 0o2755), chmod(&member, 0o2755)), (0o755, 0o2755));
    set(&client, &member, ino, ACCESS, &for_user_7(7)).expect("set");
    assert_eq!(client.getattr(&ROOT, ino).unwrap().mode, 0o2770);
    set(&client, &other, ino, ACCESS, &for_user_7(7)).expect("set");
    assert_eq!(client.getattr(&ROOT, ino).unwrap().mode, 0o770);
    let dir = client.mkdir_path("/d", 0o2777).unwrap();
    client.setattr(&ROOT, Setattr { gid: Some(50), ..Setattr::nothing(dir.ino) }).expect("chgrp");
    let made = |who: &Caller, name: &str| make(&client, who, dir.ino, name, 0o2775).unwrap();
    assert_eq!((made(&other, "a").mode, made(&member, "b").mode), (0o775, 0o2775));
    assert_eq!(made(&other, "c").gid, 50, "the directory's group");
}

#[test]
fn reading_writes_nothing() {
    let mut cluster = Cluster::start(1);
    let client = cluster.strict_client(Route::Auto);
    for (path, size) in [("/small", 100), ("/large", 1 << 20)] {
        client.put(path, &vec![7; size], 0o644).expect("put");
        let written = client.stat(path).unwrap();
        let read = || {
            let file = client.open(&ROOT, written.ino, OpenFlags::READ).expect("open");
            file.read_bytes_at(10, 0).expect("read");
            file.close().expect("close");
            client.getattr(&ROOT, written.ino).unwrap()
        };
        let first = read();
        assert!(first.atime > written.atime && first.atime > first.mtime, "{path}: told once");
        assert_eq!(
            (first.mtime, first.ctime, first.version),
            (written.mtime, written.ctime, written.version)
        );
        assert_eq!(read().atime, first.atime, "{path}: and not again");
        client.setattr(&ROOT, Setattr { mode: Some(0o600), ..Setattr::nothing(written.ino) }).expect("chmod");
        let again = read();
        assert!(again.atime > first.atime, "{path}: again after a change");
        cluster.restart(0);
        assert_eq!(
            client.getattr(&ROOT, written.ino).unwrap().atime,
            first.atime,
            "{path}: went with the change"
        );
    }
}
