//! Goal: what suites of others found wrong between two clients of one file stays right. Method: each finding's own scenario, two clients that
//! ask always, on a cluster in this process.

use fs_client::{Caller, Client, OpenOptions, Route};
use fs_proto::ServerId;
use hayate_tests::Cluster;

/// Found by fsx from two mounts: the writer showed its own size until it published.
#[test]
fn a_writer_sees_that_another_cut_what_it_has_not_published() {
    let cluster = Cluster::start(4);
    let (writer, cutter) = (cluster.strict_client(Route::Auto), cluster.client());
    let options = OpenOptions { read: true, ..OpenOptions::create_truncate() };
    let file = writer.open_path("/f", &options).unwrap();
    for round in 0..10 {
        let size = 2_000_000 + round;
        file.write_at(&vec![1; size], 0).unwrap();
        cutter.truncate_path("/f", 200_000).unwrap();
        let mut rest = [0; 100];
        assert_eq!(file.read_at(&mut rest, 199_990).unwrap(), 10);
        assert_eq!(file.attr().unwrap().size, 200_000);
        file.write_at(&vec![1; size], 0).unwrap();
        cutter.truncate_path("/f", 100_000).unwrap();
        assert_eq!(writer.stat("/f").unwrap().size, 100_000);
        assert_eq!(file.append(b"more").unwrap(), 100_000);
    }
}

/// Found by fsx from two mounts: a far write that was under way while its file was published was forgotten with the next, nearer one.
#[test]
fn a_write_under_way_during_a_publishing_is_seen() {
    let cluster = Cluster::start(4);
    // All writes enter by one server, which remembers one end.
    let writer = cluster.strict_client(Route::Gateway(ServerId(1)));
    let other = cluster.strict_client(Route::Owners);
    let file = writer.open_path("/f", &OpenOptions::create_truncate()).unwrap();
    file.write_at(&vec![1; 100_000], 0).unwrap();
    for round in 0..200 {
        let end = 1_000_000 + 1000 * round;
        file.write_at(b"near", 0).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| file.flush().unwrap());
            scope.spawn(|| file.write_at(&[2; 1000], end - 1000).unwrap());
        });
        file.write_at(b"near", 0).unwrap();
        assert_eq!(other.stat("/f").unwrap().size, end, "round {round}");
    }
}

/// Found by the search for an order of calls on names: between the look at a name and the question to its inode's home the name was given to
/// another file, and was said not to exist.
#[test]
fn a_name_that_always_exists_is_always_found() {
    let cluster = Cluster::start(4);
    let (mover, looker) = (cluster.strict_client(Route::Auto), cluster.strict_client(Route::Auto));
    for dir in ["/a", "/b", "/c"] {
        mover.mkdir_path(dir, 0o755).unwrap();
    }
    mover.put("/a/name", b"first", 0o644).unwrap();
    let over = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for round in 0..400 {
                // From directories of other servers, so that inode and name lie apart.
                let from = ["/b/new", "/c/new"][round % 2];
                mover.put(from, b"other", 0o644).unwrap();
                mover.rename_path(from, "/a/name").unwrap();
            }
            over.store(true, std::sync::atomic::Ordering::Relaxed);
        });
        while !over.load(std::sync::atomic::Ordering::Relaxed) {
            assert!(matches!(looker.get("/a/name").expect("get").as_ref(), b"first" | b"other"));
            looker.stat("/a/name").expect("stat");
            let opened = looker.open_path("/a/name", &OpenOptions::read_only()).expect("open");
            opened.close().expect("close");
        }
    });
}

/// Found by the search for an order of calls on names: of two moves at once of one name to another both were said to have been done, because the
/// second looked at the old name before and at the new one after the first, and took them for two names of one file.
#[test]
fn of_two_moves_of_one_name_one_finds_nothing() {
    let cluster = Cluster::start(4);
    let (one, other) = (cluster.strict_client(Route::Auto), cluster.strict_client(Route::Auto));
    for dir in ["/x", "/y"] {
        one.mkdir_path(dir, 0o755).unwrap();
    }
    for round in 0..400 {
        one.put("/x/name", b"moved", 0o644).unwrap();
        let done = std::thread::scope(|scope| {
            let first = scope.spawn(|| one.rename_path("/x/name", "/y/name").is_ok());
            let second = scope.spawn(|| other.rename_path("/x/name", "/y/name").is_ok());
            u32::from(first.join().unwrap()) + u32::from(second.join().unwrap())
        });
        assert_eq!(done, 1, "round {round}");
    }
}

/// The same of exchanges: two at once leave everything as it was.
#[test]
fn two_exchanges_undo_each_other() {
    let cluster = Cluster::start(4);
    let (one, other) = (cluster.strict_client(Route::Auto), cluster.strict_client(Route::Auto));
    let dirs = ["/x", "/y"].map(|dir| one.mkdir_path(dir, 0o755).unwrap().ino);
    one.put("/x/name", b"x", 0o644).unwrap();
    one.put("/y/name", b"y", 0o644).unwrap();
    let exchange = |client: &Client| {
        client.rename(&Caller::ROOT, dirs[0], b"name", dirs[1], b"name", false, true).unwrap();
    };
    for round in 0..400 {
        std::thread::scope(|scope| {
            scope.spawn(|| exchange(&one));
            scope.spawn(|| exchange(&other));
        });
        assert_eq!(one.get("/x/name").unwrap().as_ref(), b"x", "round {round}");
    }
}

/// Who has the file open while another client removes its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Holder {
    Nobody,
    Remover,
    Opener,
}

/// Calls `then` with a client that remembers a name, another that has removed it, and a description of the case; the file is open as `Holder` says
/// and must be as it was afterwards.
fn with_a_removed_name(then: impl Fn(&Client, &Client, &str)) {
    let cluster = Cluster::start(4);
    let (opener, remover) = (cluster.trusting_client(), cluster.trusting_client());
    for (i, holder) in [Holder::Nobody, Holder::Remover, Holder::Opener].into_iter().enumerate() {
        let path = format!("/f{i}");
        remover.put(&path, b"old", 0o644).unwrap();
        opener.stat(&path).unwrap();
        let read = OpenOptions::read_only();
        let held = match holder {
            Holder::Nobody => None,
            Holder::Remover => Some(remover.open_path(&path, &read).unwrap()),
            // For writing, too: then its client need not tell the home of one more opening.
            Holder::Opener => Some(opener.open_path(&path, &OpenOptions { write: true, ..read }).unwrap()),
        };
        remover.remove_file(&path).unwrap();
        then(&opener, &remover, &path);
        if let Some(held) = held {
            let mut content = [0; 8];
            assert_eq!(held.read_at(&mut content, 0).unwrap(), 3, "{holder:?}");
            assert_eq!(&content[..3], b"old", "{holder:?}");
        }
    }
}

/// An opening that may make its file believed a remembered name, and wrote to a file that had none any more.
#[test]
fn what_is_written_under_a_name_that_another_removed_is_found() {
    for options in [
        OpenOptions::create_truncate(),
        OpenOptions { truncate: false, ..OpenOptions::create_truncate() },
        OpenOptions { truncate: false, append: true, read: true, ..OpenOptions::create_truncate() },
    ] {
        with_a_removed_name(|opener, remover, path| {
            let file = opener.open_path(path, &options).unwrap();
            file.append(b"new").unwrap();
            file.close().unwrap();
            assert_eq!(remover.get(path).expect(path).as_ref(), b"new");
        });
    }
}

/// One that may not make it says that there is none, and cuts nothing.
#[test]
fn a_name_that_another_removed_is_not_opened() {
    for truncate in [false, true] {
        let write = OpenOptions { create: false, truncate, ..OpenOptions::create_truncate() };
        with_a_removed_name(|opener, _, path| {
            for options in [write, OpenOptions::read_only()] {
                let error = opener.open_path(path, &options).err().expect(path);
                assert_eq!(error.errno(), libc::ENOENT, "{path}");
            }
        });
        with_a_removed_name(|opener, remover, path| {
            remover.put(path, b"again", 0o644).unwrap();
            let file = opener.open_path(path, &write).unwrap();
            file.write_at(b"A", 0).unwrap();
            file.close().unwrap();
            assert_eq!(remover.get(path).unwrap().as_ref(), if truncate { &b"A"[..] } else { b"Again" });
        });
    }
}
