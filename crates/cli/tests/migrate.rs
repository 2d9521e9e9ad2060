//! Goal: `hayate migrate` moves a tree from an old file system to the cluster's tier while it is used, and ends right whoever is killed meanwhile; wrong arguments
//! are told. Method: the real program and processes, a mount where there is one, trees compared with a twin that had the same done to it.

mod common;

use common::{Said, Sandbox, can_mount, kill, pattern, said, tree, wait_until};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

const DIRS: usize = 10;
const FILES_OF_DIR: usize = 120;

/// A tree as a centre has it, at `root`. The same for the same root's name; times are old.
fn grow(root: &Path) {
    fs::create_dir_all(root.join("deep/empty")).unwrap();
    for dir in 0..DIRS {
        fs::create_dir(root.join(format!("d{dir}"))).unwrap();
        for file in 0..FILES_OF_DIR {
            fs::write(root.join(format!("d{dir}/f{file}")), pattern(file * 137)).unwrap();
        }
    }
    fs::write(root.join("deep/large"), pattern(9_000_000)).unwrap();
    fs::write(root.join("deep/gone"), pattern(3_000_000)).unwrap();
    fs::set_permissions(root.join("d1/f7"), fs::Permissions::from_mode(0o751)).unwrap();
    fs::set_permissions(root.join("d2"), fs::Permissions::from_mode(0o750)).unwrap();
    std::os::unix::fs::symlink("deep/large", root.join("l")).unwrap();
    fs::hard_link(root.join("d3/f9"), root.join("d4/second")).unwrap();
    let xattr = |path: &str, name: &str, value: &str| {
        rustix::fs::setxattr(root.join(path), name, value.as_bytes(), rustix::fs::XattrFlags::empty())
            .unwrap();
    };
    xattr("d5/f5", "user.colour", "blue");
    xattr("d6", "user.hayate.flush", "never");
    for (path, seconds) in [("d1/f7", 1_000_000_000), ("d2", 1_100_000_000), ("deep", 1_200_000_000)] {
        let time = rustix::fs::Timespec { tv_sec: seconds, tv_nsec: 123_456_789 };
        let times = rustix::fs::Timestamps { last_access: time, last_modification: time };
        rustix::fs::utimensat(rustix::fs::CWD, root.join(path), &times, rustix::fs::AtFlags::empty())
            .unwrap();
    }
}

/// Times of change of everything below a root but symbolic links; with `all` those of attributes, too, which say that nobody touched it.
fn times(root: &Path, all: bool) -> BTreeMap<PathBuf, (i64, i64, i64)> {
    let entries = tree(root).into_iter().map(|(path, ..)| path);
    let time = |path: &PathBuf| {
        let meta = fs::symlink_metadata(root.join(path)).unwrap();
        let changed = if all { meta.ctime() * 1_000_000_000 + meta.ctime_nsec() } else { 0 };
        (meta.mtime(), meta.mtime_nsec(), changed)
    };
    let is_link = |path: &PathBuf| root.join(path).is_symlink();
    entries.filter(|path| all || !is_link(path)).map(|path| (path.clone(), time(&path))).collect()
}

fn begin(sandbox: &Sandbox) -> Child {
    let words = ["migrate", "--from", &sandbox.word("old"), "--to", &sandbox.word("tier")];
    sandbox.hayate(&words).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn end(child: Child) -> Said {
    said(child.wait_with_output().unwrap())
}

/// Regular files that have arrived in the new tier.
fn arrived(sandbox: &Sandbox) -> usize {
    let count = |dir: usize| fs::read_dir(sandbox.path(&format!("tier/d{dir}"))).map_or(0, Iterator::count);
    (0..DIRS).map(count).sum()
}

fn xattr(path: &Path, name: &str) -> Vec<u8> {
    let mut value = vec![0; 256];
    let len = rustix::fs::lgetxattr(path, name, &mut value[..]).unwrap();
    value[..len].to_vec()
}

/// What applications do meanwhile, of which the old file system must see nothing.
fn work(root: &Path) {
    fs::rename(root.join("deep"), root.join("moved")).unwrap();
    fs::remove_file(root.join("moved/gone")).unwrap();
    fs::remove_dir(root.join("moved/empty")).unwrap();
    fs::remove_dir_all(root.join("d7")).unwrap();
    fs::rename(root.join("d1/f1"), root.join("d2/f2")).unwrap();
    fs::write(root.join("d3/f3"), pattern(2_500_000)).unwrap();
    fs::set_permissions(root.join("d4/f4"), fs::Permissions::from_mode(0o600)).unwrap();
    let large = fs::OpenOptions::new().write(true).open(root.join("moved/large")).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&large, b"in the middle", 2_100_000).unwrap();
    large.set_len(8_000_000).unwrap();
    fs::create_dir(root.join("new")).unwrap();
    fs::write(root.join("new/file"), pattern(1_500_000)).unwrap();
}

#[test]
fn a_tree_moves_while_it_is_used() {
    let sandbox = Sandbox::new();
    let (old, twin) = (sandbox.path("old"), sandbox.path("twin"));
    grow(&old);
    grow(&twin);
    fs::create_dir(sandbox.path("m")).unwrap();
    let (was, was_times) = (tree(&old), times(&old, true));
    let (tier_word, mount) = (sandbox.word("tier"), sandbox.word("m"));
    let mut words = vec!["--nodes", "3", "--tier", &tier_word];
    if can_mount() {
        words.extend(["--mount", &mount]);
    }
    sandbox.up(&words);
    let child = begin(&sandbox);
    wait_until("the old tree in the cluster", || sandbox.run(&["ls", "/"]).out.contains("deep"));
    assert!(sandbox.hayate(&["cat", "/deep/large"]).output().unwrap().stdout == pattern(9_000_000));
    if can_mount() {
        work(&sandbox.path("m"));
        work(&twin);
    } else {
        sandbox.ok(&["rm", "/deep/gone"]);
        fs::remove_file(twin.join("deep/gone")).unwrap();
    }
    let said = end(child);
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(said.out.contains("compared and the same") && said.out.contains("was not changed"), "{said:?}");
    assert_eq!(tree(&twin), tree(&sandbox.path("tier")));
    assert_eq!((was, was_times), (tree(&old), times(&old, true)), "the old tree was touched");
    assert_eq!(xattr(&sandbox.path("tier/d5/f5"), "user.colour"), b"blue");
    // The old file system goes; the cluster has all of it.
    fs::rename(&old, sandbox.path("away")).unwrap();
    sandbox.ok(&["cp", "-r", "h:/", &sandbox.word("out")]);
    assert_eq!(tree(&twin), tree(&sandbox.path("out")));
    sandbox.ok(&["down", "--drain"]);
    assert_eq!(tree(&twin), tree(&sandbox.path("tier")));
    sandbox.assert_nothing_left();
}

#[test]
fn killed_in_the_middle_and_begun_again_it_ends_the_same() {
    let sandbox = Sandbox::new();
    let (old, twin) = (sandbox.path("old"), sandbox.path("twin"));
    grow(&old);
    grow(&twin);
    let (was, was_times) = (tree(&old), times(&old, true));
    sandbox.up(&["--nodes", "3", "--tier", &sandbox.word("tier"), "--flush-delay", "0"]);
    // Once one server, once all and the command.
    for (victims, within) in [(1..2, 60), (0..3, 400)] {
        let child = begin(&sandbox);
        wait_until("a part of the files in the new tier", || arrived(&sandbox) >= within);
        for victim in &sandbox.server_pids()[victims] {
            kill(*victim, rustix::process::Signal::KILL);
        }
        kill(child.id(), rustix::process::Signal::KILL);
        end(child);
        assert!(arrived(&sandbox) < DIRS * FILES_OF_DIR, "the kill came too late: this run shows nothing");
        sandbox.ok(&["up", "--restart"]);
        assert!(sandbox.hayate(&["cat", "/d9/f119"]).output().unwrap().stdout == pattern(119 * 137));
        // What applications do between the kills stays.
        change(&sandbox, &twin, within);
    }
    let text =
        sandbox.ok(&["migrate", "--from", &sandbox.word("old"), "--to", &sandbox.word("tier"), "--json"]);
    let account: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!((account["copied_again"].as_u64(), account["gone"].as_u64()), (Some(0), Some(0)), "{text}");
    assert_eq!(tree(&twin), tree(&sandbox.path("tier")));
    let untouched = |root: &Path| {
        let mut times = times(root, false);
        times.retain(|path, _| ["d0", "d8", "d9"].iter().all(|dir| !path.starts_with(dir)));
        times
    };
    assert_eq!(untouched(&old), untouched(&sandbox.path("tier")));
    assert_eq!((was, was_times), (tree(&old), times(&old, true)), "the old tree was touched");
    // Nothing is left to do, and that is no error.
    sandbox.ok(&["migrate", "--from", &sandbox.word("old"), "--to", &sandbox.word("tier")]);
    sandbox.ok(&["down", "--drain"]);
    assert_eq!(tree(&twin), tree(&sandbox.path("tier")));
    sandbox.assert_nothing_left();
}

/// Replaces a file, and removes one and a directory, here and in the twin.
fn change(sandbox: &Sandbox, twin: &Path, number: usize) {
    let (new, dir) = (format!("d0/f{number}"), if number == 60 { "d8" } else { "d9" });
    fs::write(sandbox.path("in"), pattern(number * 1_000)).unwrap();
    sandbox.ok(&["cp", &sandbox.word("in"), &format!("h:/{new}")]);
    sandbox.ok(&["rm", &format!("/d0/f{}", number / 60)]);
    sandbox.ok(&["rm", "-r", &format!("/{dir}")]);
    fs::write(twin.join(new), pattern(number * 1_000)).unwrap();
    fs::remove_file(twin.join(format!("d0/f{}", number / 60))).unwrap();
    fs::remove_dir_all(twin.join(dir)).unwrap();
}

/// Four times what tier 1 holds moves, is complete without the old file system, and what is read meanwhile is right.
#[test]
fn a_tree_larger_than_tier_1_moves() {
    const FILES: usize = 43;
    let sandbox = Sandbox::new();
    let old = sandbox.path("old");
    fs::create_dir_all(old.join("d")).unwrap();
    let content = |index: usize| {
        let mut data = pattern(3_000_000 + index);
        data[..8].copy_from_slice(&(index as u64).to_le_bytes());
        data
    };
    for index in 0..FILES {
        fs::write(old.join(format!("d/f{index}")), content(index)).unwrap();
    }
    sandbox.up(&["--nodes", "2", "--capacity", "16M", "--memory", "64M", "--tier", &sandbox.word("tier")]);
    let child = begin(&sandbox);
    wait_until("the old tree in the cluster", || sandbox.run(&["ls", "/d"]).out.contains("f0"));
    for index in (0..FILES).step_by(7) {
        let read = sandbox.hayate(&["cat", &format!("/d/f{index}")]).output().unwrap();
        assert!(read.stdout == content(index), "f{index}");
    }
    let said = end(child);
    assert_eq!(said.code, Some(0), "{said:?}");
    assert!(said.out.contains(&format!("{FILES} files compared and the same")), "{said:?}");
    assert!(tree(&old) == tree(&sandbox.path("tier")));
    fs::rename(&old, sandbox.path("away")).unwrap();
    sandbox.ok(&["cp", "-r", "h:/d", &sandbox.word("out")]);
    assert!(tree(&sandbox.path("away/d")) == tree(&sandbox.path("out")));
    sandbox.ok(&["down", "--drain"]);
    sandbox.assert_nothing_left();
}

#[test]
fn wrong_arguments_are_told() {
    let sandbox = Sandbox::new();
    let (tier, old) = (sandbox.word("tier"), sandbox.word("old"));
    fs::create_dir(sandbox.path("old")).unwrap();
    fs::create_dir(sandbox.path("third")).unwrap();
    fs::write(sandbox.path("file"), "").unwrap();
    let refused = |code: i32, from: &str, to: &str, words: &[&str]| {
        sandbox.fails(code, &["migrate", "--from", from, "--to", to], words);
    };
    refused(1, &old, &tier, &["no cluster file", "hayate up --tier NEW"]);
    sandbox.up(&["--nodes", "2"]);
    refused(2, &old, &tier, &["no shared tier", "hayate up --tier NEW"]);
    sandbox.ok(&["down", "--discard"]);
    sandbox.up(&["--nodes", "2", "--tier", &tier]);
    fs::create_dir(sandbox.path("tier/inside")).unwrap();
    refused(2, &sandbox.word("file"), &tier, &["is not a directory", "--from DIR"]);
    refused(2, &sandbox.word("none"), &tier, &[&sandbox.word("none"), "mount the old file system", "server"]);
    refused(2, &tier, &tier, &["is the shared tier itself", "--from must name another"]);
    refused(2, &sandbox.word("tier/inside"), &tier, &["lies inside the shared tier", "outside"]);
    refused(2, sandbox.path("").to_str().unwrap(), &tier, &["would move into itself"]);
    refused(2, &sandbox.word("store"), &tier, &["the store", "lie in each other"]);
    refused(2, "s3://", &tier, &["s3://BUCKET/PREFIX"]);
    refused(2, &old, &sandbox.word("third"), &["is not the shared tier of this cluster", &tier]);
    assert!(fs::read_dir(sandbox.path("old")).unwrap().next().is_none());
    // Once it moved from one directory it moves from no other.
    sandbox.ok(&["migrate", "--from", &old, "--to", &tier]);
    refused(1, &sandbox.word("third"), &tier, &["another directory or bucket before", "start a new one"]);
    sandbox.ok(&["down", "--drain"]);
    sandbox.assert_nothing_left();
}

#[test]
fn what_cannot_be_read_is_told_and_the_rest_moves() {
    let sandbox = Sandbox::new();
    let old = sandbox.path("old");
    fs::create_dir_all(old.join("d")).unwrap();
    fs::write(old.join("d/good"), pattern(100_000)).unwrap();
    fs::write(old.join("d/bad"), pattern(100_000)).unwrap();
    sandbox.up(&["--nodes", "2", "--tier", &sandbox.word("tier")]);
    sandbox.hold_copies();
    let child = begin(&sandbox);
    wait_until("the old tree in the cluster", || sandbox.run(&["ls", "/d"]).out.contains("bad"));
    fs::remove_file(old.join("d/bad")).unwrap();
    kill(child.id(), rustix::process::Signal::KILL);
    end(child);
    sandbox.let_copy();
    sandbox.ok(&["flush"]);
    let words = ["migrate", "--from", &sandbox.word("old"), "--to", &sandbox.word("tier"), "--stall", "5"];
    let message = sandbox.fails(
        3,
        &words,
        &["no progress for 5 s", "1 files and directories have not moved", "/d/bad"],
    );
    assert!(message.contains("remove through the cluster what cannot be read"), "{message}");
    assert_eq!(fs::read(sandbox.path("tier/d/good")).unwrap(), pattern(100_000));
    sandbox.ok(&["rm", "/d/bad"]);
    sandbox.ok(&words);
    assert_eq!(tree(&old), tree(&sandbox.path("tier")));
    sandbox.ok(&["down", "--drain"]);
    sandbox.assert_nothing_left();
}
