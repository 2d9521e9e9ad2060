//! Goal: names behave as POSIX says on a cluster of several servers, wherever entry and inode happen to live.
//! Method: a real four-server cluster in this process; every scenario with enough names that all combinations of servers occur.

use std::collections::BTreeSet;

use fs_client::{Client, OpenOptions, Result, Route};
use hayate_tests::{Cluster, ClusterOptions};

fn put(client: &Client, path: &str, content: &[u8]) {
    let file = client.open_path(path, &OpenOptions::create_truncate()).expect("create");
    file.write_at(content, 0).expect("write");
    file.close().expect("close");
}

fn get(client: &Client, path: &str) -> Vec<u8> {
    let file = client.open_path(path, &OpenOptions::read_only()).expect("open");
    let mut content = vec![0; file.attr().expect("attr").size as usize];
    let read = file.read_at(&mut content, 0).expect("read");
    content.truncate(read);
    content
}

fn names(client: &Client, path: &str) -> BTreeSet<String> {
    let entries = client.read_dir(path).expect("list");
    let names = entries.map(|entry| String::from_utf8(entry.expect("entry").name.to_vec()).expect("utf-8"));
    let all: Vec<_> = names.filter(|name| name != "." && name != "..").collect();
    let set: BTreeSet<_> = all.iter().cloned().collect();
    assert_eq!(set.len(), all.len(), "no name twice");
    set
}

fn errno<T>(result: Result<T>) -> i32 {
    match result {
        Ok(_) => 0,
        Err(error) => error.errno(),
    }
}

#[test]
fn files_directories_links_and_their_counts() {
    let cluster = Cluster::start(4);
    let client = cluster.client();
    for d in 0..24 {
        client.mkdir_path(format!("/d{d}"), 0o755).expect("mkdir");
        put(&client, &format!("/d{d}/file"), format!("content {d}").as_bytes());
        client.symlink_path("file", format!("/d{d}/sym")).expect("symlink");
        client.link_path(format!("/d{d}/file"), format!("/hard{d}")).expect("link");
    }
    assert_eq!(client.stat("/").unwrap().nlink, 26);
    assert_eq!(names(&client, "/").len(), 48);
    for d in 0..24 {
        let other = cluster.client();
        assert_eq!(get(&other, &format!("/d{d}/sym")), format!("content {d}").as_bytes());
        assert_eq!(other.stat(format!("/hard{d}")).unwrap().nlink, 2);
        assert_eq!(errno(other.remove_dir(format!("/d{d}"))), libc::ENOTEMPTY);
        other.remove_file(format!("/d{d}/file")).expect("unlink");
        assert_eq!(get(&other, &format!("/hard{d}")), format!("content {d}").as_bytes());
        assert_eq!(other.stat(format!("/hard{d}")).unwrap().nlink, 1);
        other.remove_file(format!("/d{d}/sym")).expect("unlink symlink");
        other.remove_dir(format!("/d{d}")).expect("rmdir");
        assert_eq!(errno(other.stat(format!("/d{d}/file"))), libc::ENOENT);
    }
    let last = cluster.client();
    assert_eq!(last.stat("/").unwrap().nlink, 2);
    assert_eq!(names(&last, "/").len(), 24);
}

#[test]
fn rename_replaces_refuses_and_moves_trees() {
    let cluster = Cluster::start(4);
    let client = cluster.client();
    for i in 0..16 {
        client.mkdir_path(format!("/a{i}"), 0o755).unwrap();
        client.mkdir_path(format!("/b{i}"), 0o755).unwrap();
        client.mkdir_path(format!("/a{i}/sub"), 0o755).unwrap();
        put(&client, &format!("/a{i}/sub/deep"), b"deep");
        put(&client, &format!("/a{i}/x"), b"new");
        put(&client, &format!("/b{i}/y"), b"old");
        client.rename_path(format!("/a{i}/x"), format!("/b{i}/y")).expect("replace");
        assert_eq!(errno(client.stat(format!("/a{i}/x"))), libc::ENOENT);
        assert_eq!(get(&client, &format!("/b{i}/y")), b"new");
        let into_itself = client.rename_path(format!("/a{i}"), format!("/a{i}/sub/a"));
        assert_eq!(errno(into_itself), libc::EINVAL);
        let dir_over_file = client.rename_path(format!("/a{i}/sub"), format!("/b{i}/y"));
        assert_eq!(errno(dir_over_file), libc::ENOTDIR);
        let file_over_dir = client.rename_path(format!("/b{i}/y"), format!("/a{i}/sub"));
        assert_eq!(errno(file_over_dir), libc::EISDIR);
        client.rename_path(format!("/a{i}/sub"), format!("/b{i}/moved")).expect("move a tree");
        assert_eq!(get(&client, &format!("/b{i}/moved/deep")), b"deep");
        assert_eq!(
            (client.stat(format!("/a{i}")).unwrap().nlink, client.stat(format!("/b{i}")).unwrap().nlink),
            (2, 3)
        );
        client.rename_path(format!("/a{i}"), format!("/b{i}/moved2")).expect("move an empty directory");
        let full = client.rename_path(format!("/b{i}/moved2"), format!("/b{i}/moved"));
        assert_eq!(errno(full), libc::ENOTEMPTY);
        client.rename_path(format!("/b{i}/moved"), format!("/b{i}/moved2")).expect("over an empty directory");
        assert_eq!(names(&client, &format!("/b{i}")), ["moved2", "y"].map(String::from).into());
    }
}

#[test]
fn racing_renames_of_directories_build_no_cycle() {
    let cluster = Cluster::start(4);
    let client = cluster.client();
    for round in 0..20 {
        client.mkdir_path(format!("/r{round}"), 0o755).unwrap();
        client.mkdir_path(format!("/r{round}/a"), 0o755).unwrap();
        client.mkdir_path(format!("/r{round}/b"), 0o755).unwrap();
        let into = |from: &'static str, to: &'static str| {
            let client = client.clone();
            std::thread::spawn(move || {
                client.rename_path(format!("/r{round}/{from}"), format!("/r{round}/{to}/{from}"))
            })
        };
        let (first, second) = (into("a", "b"), into("b", "a"));
        let done = [first, second].map(|thread| thread.join().expect("no panic").is_ok());
        assert_eq!(
            done.iter().filter(|ok| **ok).count(),
            1,
            "exactly one of two opposite moves is carried out"
        );
        assert_eq!(cluster.client().stat(format!("/r{round}")).unwrap().nlink, 3);
    }
}

#[test]
fn a_growing_directory_becomes_wide_while_it_is_used() {
    let cluster =
        Cluster::with(ClusterOptions { servers: 4, wide_threshold: 200, ..ClusterOptions::default() });
    let client = cluster.client();
    client.mkdir_path("/wide", 0o755).unwrap();
    let writers: Vec<_> = (0..4)
        .map(|w| {
            let client = cluster.client();
            std::thread::spawn(move || {
                for i in 0..300 {
                    put(&client, &format!("/wide/{w}-{i}"), format!("{w} {i}").as_bytes());
                }
                client.mkdir_path(format!("/wide/sub{w}"), 0o755).expect("mkdir in a wide directory");
            })
        })
        .collect();
    for writer in writers {
        writer.join().expect("writer");
    }
    let reader = cluster.client();
    let attr = reader.stat("/wide").unwrap();
    assert!(attr.wide, "1,200 entries are above the threshold");
    assert_eq!((attr.size, attr.nlink), (1204, 6));
    let all = names(&reader, "/wide");
    assert_eq!(all.len(), 1204);
    for w in 0..4 {
        for i in 0..300 {
            assert_eq!(get(&reader, &format!("/wide/{w}-{i}")), format!("{w} {i}").as_bytes());
        }
    }
    assert_eq!(errno(reader.remove_dir("/wide")), libc::ENOTEMPTY);
    reader.rename_path("/wide/0-0", "/wide/renamed").expect("rename within");
    for name in names(&reader, "/wide") {
        if name.starts_with("sub") {
            reader.remove_dir(format!("/wide/{name}")).expect("rmdir");
        } else {
            reader.remove_file(format!("/wide/{name}")).expect("unlink");
        }
    }
    reader.remove_dir("/wide").expect("an empty wide directory goes");
    assert_eq!(errno(cluster.client().stat("/wide")), libc::ENOENT);
}

#[test]
fn a_listing_after_a_rename_between_servers_shows_the_new_name() {
    let cluster =
        Cluster::with(ClusterOptions { servers: 4, wide_threshold: 8, ..ClusterOptions::default() });
    let client = cluster.client();
    client.mkdir_path("/w", 0o755).unwrap();
    for i in 0..40 {
        put(&client, &format!("/w/f{i}"), b"");
    }
    assert!(cluster.client().stat("/w").unwrap().wide);
    for round in 0..300 {
        let (from, to) = (format!("f{}", round % 40), format!("g{}", round % 40));
        let (from, to) = if round / 40 % 2 == 0 { (from, to) } else { (to, from) };
        client.rename_path(format!("/w/{from}"), format!("/w/{to}")).expect("rename");
        let now = names(&client, "/w");
        assert_eq!((now.len(), now.contains(&to), now.contains(&from)), (40, true, false), "round {round}");
    }
}

#[test]
fn exclusive_creation_has_one_winner() {
    let cluster = Cluster::start(4);
    for round in 0..20 {
        let racers: Vec<_> = (0..6)
            .map(|_| {
                let client = cluster.client();
                std::thread::spawn(move || {
                    let options = OpenOptions { write: true, create_new: true, ..OpenOptions::default() };
                    client.open_path(format!("/race{round}"), &options).is_ok()
                })
            })
            .collect();
        let winners = racers.into_iter().map(|racer| racer.join().expect("racer")).filter(|won| *won).count();
        assert_eq!(winners, 1);
    }
}

#[test]
fn every_route_reaches_every_server() {
    let cluster = Cluster::start(3);
    for (n, route) in
        [Route::Auto, Route::Owners, Route::Gateway(fs_proto::ServerId(2))].into_iter().enumerate()
    {
        let client = cluster.client_by(route);
        for i in 0..12 {
            let path = format!("/via{n}-{i}");
            client.mkdir_path(&path, 0o755).unwrap();
            put(&client, &format!("{path}/f"), path.as_bytes());
        }
    }
    let client = cluster.client();
    for n in 0..3 {
        for i in 0..12 {
            assert_eq!(get(&client, &format!("/via{n}-{i}/f")), format!("/via{n}-{i}").as_bytes());
        }
    }
}

#[test]
fn listing_goes_on_while_entries_change() {
    let cluster = Cluster::start(2);
    let client = cluster.client();
    client.mkdir_path("/d", 0o755).unwrap();
    for i in 0..5000 {
        put(&client, &format!("/d/keep{i}"), b"");
    }
    let mut seen = BTreeSet::new();
    for (n, entry) in client.read_dir("/d").unwrap().enumerate() {
        let name = String::from_utf8(entry.unwrap().name.to_vec()).unwrap();
        assert!(seen.insert(name), "no entry twice");
        if n % 50 == 0 {
            put(&client, &format!("/d/extra{n}"), b"");
            if n >= 100 {
                client.remove_file(format!("/d/extra{}", n - 100)).unwrap();
            }
        }
    }
    assert_eq!(seen.iter().filter(|name| name.starts_with("keep")).count(), 5000, "what stays is seen once");
}
