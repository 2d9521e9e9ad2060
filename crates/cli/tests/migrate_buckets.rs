//! Goal: `hayate migrate` moves trees from and to buckets as it does between directories: all is seen at once, it ends right when servers and command are killed in the middle, the old
//! one is only read, and a copy that is not what it was made from is found. Method: the real program, S3 servers in this process, contents compared with what was put there.

mod common;
#[path = "../../../fs-server/tests/flush/s3_server.rs"]
#[allow(dead_code)]
mod s3_server;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use common::{Sandbox, kill, pattern, said, tree, wait_until};
use fs_server::tier::s3::client::Meta;
use s3_server::S3Server;

const DIRS: usize = 6;
const FILES_OF_DIR: usize = 60;
/// Of how many are written by other tools, which store no attributes.
const FOREIGN: usize = 40;

/// A side of a migration.
enum Side {
    Directory(PathBuf),
    Bucket(S3Server),
}

type Files = BTreeMap<String, Vec<u8>>;

impl Side {
    fn word(&self) -> String {
        match self {
            Side::Directory(path) => path.to_str().unwrap().to_owned(),
            Side::Bucket(_) => "s3://bucket/run".to_owned(),
        }
    }

    /// Regular files with their contents.
    fn files(&self) -> Files {
        match self {
            Side::Directory(path) => {
                let files = tree(path).into_iter().filter(|(_, mode, _)| mode & 0o170_000 == 0o100_000);
                files.map(|(path, _, data)| (path.to_str().unwrap().to_owned(), data)).collect()
            }
            Side::Bucket(server) => {
                let client = server.client();
                let is_file = |key: &String| {
                    let meta = client.head(&format!("run/{key}")).unwrap().unwrap().meta;
                    let mode = meta.get("mode").map_or(0o100_000, |mode| mode.parse::<u32>().unwrap());
                    !key.contains(".hayate-") && mode & 0o170_000 == 0o100_000
                };
                let keys = server.keys().into_iter().filter(is_file);
                let get = |key: String| {
                    let data = client.get(&format!("run/{key}")).unwrap().unwrap();
                    (key, data)
                };
                keys.map(get).collect()
            }
        }
    }

    /// Files of the tree that are there.
    fn arrived(&self) -> usize {
        match self {
            Side::Directory(path) => {
                let count =
                    |dir: usize| fs::read_dir(path.join(format!("d{dir}"))).map_or(0, Iterator::count);
                (0..DIRS).map(count).sum()
            }
            Side::Bucket(server) => {
                server.keys().iter().filter(|key| key.starts_with('d') && key.contains("/f")).count()
            }
        }
    }

    /// All that is there, own objects and times too: what nobody touched is the same.
    fn everything(&self) -> Vec<(String, Vec<u8>, i64)> {
        match self {
            Side::Directory(path) => {
                let ctime = |name: &PathBuf| {
                    let meta = fs::symlink_metadata(path.join(name)).unwrap();
                    meta.ctime() * 1_000_000_000 + meta.ctime_nsec()
                };
                let all = tree(path).into_iter();
                all.map(|(name, _, data)| (name.display().to_string(), data, ctime(&name))).collect()
            }
            Side::Bucket(server) => {
                let client = server.client();
                let of = |key: String| {
                    let at = format!("run/{key}");
                    let modified = client.head(&at).unwrap().unwrap().modified;
                    (key, client.get(&at).unwrap().unwrap(), modified)
                };
                server.keys().into_iter().map(of).collect()
            }
        }
    }
}

fn content(dir: usize, file: usize) -> Vec<u8> {
    let mut data = pattern(file * 331 + if file == 7 { 2_500_000 } else { 0 });
    data.splice(..0, format!("{dir}/{file} ").into_bytes());
    data
}

/// Puts a tree into a new `old`, as a cluster does that flushes there; and objects of other tools, if it is a bucket.
fn fill(sandbox: &Sandbox, old: &Side) -> Files {
    let from = sandbox.path("from");
    for dir in 0..DIRS {
        fs::create_dir_all(from.join(format!("d{dir}"))).unwrap();
        for file in 0..FILES_OF_DIR {
            fs::write(from.join(format!("d{dir}/f{file}")), content(dir, file)).unwrap();
        }
    }
    fs::create_dir_all(from.join("deep/er/empty")).unwrap();
    fs::write(from.join("deep/er/odd name & more"), pattern(100)).unwrap();
    fs::write(from.join("deep/large"), pattern(19_000_001)).unwrap();
    fs::set_permissions(from.join("d1/f3"), fs::Permissions::from_mode(0o751)).unwrap();
    std::os::unix::fs::symlink("er/none", from.join("deep/link")).unwrap();
    sandbox.up(&["--nodes", "1", "--tier", &old.word()]);
    let top = fs::read_dir(&from).unwrap().map(|entry| entry.unwrap().path().to_str().unwrap().to_owned());
    for path in top {
        sandbox.ok(&["cp", "-r", &path, "h:/"]);
    }
    sandbox.ok(&["down", "--drain"]);
    let mut files = Side::Directory(from).files();
    if let Side::Bucket(server) = old {
        for number in 0..FOREIGN {
            let key = format!("others/{}/f{number}", number % 3);
            server.client().put(&format!("run/{key}"), &Meta::new(), &content(9, number)).unwrap();
            files.insert(key, content(9, number));
        }
    }
    files
}

fn begin(sandbox: &Sandbox, old: &Side, new: &Side) -> Child {
    let words = ["migrate", "--from", &old.word(), "--to", &new.word(), "--json"];
    sandbox.hayate(&words).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn account(child: Child) -> serde_json::Value {
    let said = said(child.wait_with_output().unwrap());
    assert_eq!(said.code, Some(0), "{said:?}");
    serde_json::from_str(&said.out).unwrap()
}

/// Moves a tree while servers and the command are killed.
fn moves(sandbox: &Sandbox, old: &Side, new: &Side) {
    let files = fill(sandbox, old);
    let before = old.everything();
    sandbox.up(&["--nodes", "3", "--tier", &new.word(), "--flush-delay", "0"]);
    // Once one server, once all and the command.
    for (victims, within) in [(1..2, 20), (0..3, 150)] {
        let child = begin(sandbox, old, new);
        wait_until("a part of the files in the new tier", || new.arrived() >= within);
        for victim in &sandbox.server_pids()[victims] {
            kill(*victim, rustix::process::Signal::KILL);
        }
        kill(child.id(), rustix::process::Signal::KILL);
        said(child.wait_with_output().unwrap());
        assert!(new.arrived() < DIRS * FILES_OF_DIR, "the kill came too late: this run shows nothing");
        sandbox.ok(&["up", "--restart"]);
        assert!(sandbox.hayate(&["cat", "/d5/f59"]).output().unwrap().stdout == content(5, 59));
    }
    let account = account(begin(sandbox, old, new));
    assert_eq!((account["copied_again"].as_u64(), account["gone"].as_u64()), (Some(0), Some(0)), "{account}");
    assert!(new.files() == files, "{:?}", new.files().keys());
    assert!(old.everything() == before, "the old one was touched");
    // Links, modes and empty directories, too.
    sandbox.ok(&["cp", "-r", "h:/", &sandbox.word("out")]);
    let mut seen = tree(&sandbox.path("out"));
    seen.retain(|(path, ..)| !path.starts_with("others"));
    assert_eq!(tree(&sandbox.path("from")), seen);
    sandbox.ok(&["down", "--drain"]);
    assert!(new.files() == files);
    sandbox.assert_nothing_left();
}

#[test]
fn a_bucket_moves_to_a_directory() {
    let server = S3Server::start();
    let sandbox = Sandbox::with(server.environment());
    let new = Side::Directory(sandbox.path("tier"));
    moves(&sandbox, &Side::Bucket(server), &new);
    let mode = |path: &str| fs::metadata(sandbox.path("tier").join(path)).unwrap().mode() & 0o7777;
    assert_eq!((mode("d1/f3"), mode("others/1/f1")), (0o751, 0o644));
    assert_eq!(fs::read_link(sandbox.path("tier/deep/link")).unwrap(), Path::new("er/none"));
    assert!(sandbox.path("tier/deep/er/empty").is_dir());
}

#[test]
fn a_directory_moves_to_a_bucket() {
    let server = S3Server::start();
    let sandbox = Sandbox::with(server.environment());
    let old = Side::Directory(sandbox.path("old"));
    fs::create_dir(sandbox.path("old")).unwrap();
    moves(&sandbox, &old, &Side::Bucket(server));
}

#[test]
fn a_bucket_moves_to_a_bucket_of_another_server() {
    let (old, new) = (S3Server::start(), S3Server::start());
    let mut sandbox = Sandbox::with(old.environment());
    let endpoint = old.environment().into_iter().find(|(name, _)| *name == "AWS_ENDPOINT_URL").unwrap().1;
    let mut moved = new.environment();
    moved.push(("HAYATE_OLD_AWS_ENDPOINT_URL", endpoint));
    let (old, new) = (Side::Bucket(old), Side::Bucket(new));
    // The tree is made with the old one's environment.
    let files = fill(&sandbox, &old);
    let before = old.everything();
    sandbox.variables = moved;
    sandbox.up(&["--nodes", "2", "--tier", &new.word()]);
    let account = account(begin(&sandbox, &old, &new));
    assert_eq!((account["copied_again"].as_u64(), account["gone"].as_u64()), (Some(0), Some(0)), "{account}");
    assert_eq!(account["same_files"].as_u64(), Some(files.len() as u64), "{account}");
    assert!(new.files() == files && old.everything() == before);
    sandbox.ok(&["down", "--drain"]);
    sandbox.assert_nothing_left();
}

#[test]
fn a_copy_that_is_damaged_is_made_again() {
    // Method: everything is read, so that copies are made without the old bucket, which refuses everything meanwhile: nothing can be compared until a byte of one copy is another.
    let server = S3Server::start();
    let sandbox = Sandbox::with(server.environment());
    let (old, new) = (Side::Bucket(server), Side::Directory(sandbox.path("tier")));
    let files = fill(&sandbox, &old);
    sandbox.up(&["--nodes", "2", "--tier", &new.word()]);
    sandbox.hold_copies();
    let child = begin(&sandbox, &old, &new);
    wait_until("the old tree in the cluster", || sandbox.run(&["ls", "/"]).out.contains("deep"));
    sandbox.ok(&["cp", "-r", "h:/", &sandbox.word("out")]);
    let Side::Bucket(server) = &old else { unreachable!() };
    server.go_away(true);
    sandbox.let_copy();
    sandbox.ok(&["flush", "--wait"]);
    assert!(new.files() == files);
    let damaged = sandbox.path("tier/deep/large");
    let meta = fs::metadata(&damaged).unwrap();
    let file = fs::OpenOptions::new().read(true).write(true).open(&damaged).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, 17_000_000).unwrap();
    file.write_all_at(&[byte[0] ^ 16], 17_000_000).unwrap();
    file.set_modified(meta.modified().unwrap()).unwrap();
    assert!(new.files() != files);
    server.go_away(false);
    let account = account(child);
    assert_eq!(account["copied_again"].as_u64(), Some(1), "{account}");
    assert!(new.files() == files);
    sandbox.ok(&["down", "--drain"]);
    sandbox.assert_nothing_left();
}

#[test]
fn what_cannot_be_an_old_bucket_is_told() {
    let server = S3Server::start();
    let sandbox = Sandbox::with(server.environment());
    sandbox.up(&["--nodes", "2", "--tier", "s3://bucket/run"]);
    let refused = |from: &str, words: &[&str]| {
        sandbox.fails(2, &["migrate", "--from", from, "--to", "s3://bucket/run/"], words);
    };
    refused("s3://bucket/run/", &["is the shared tier itself", "--from must name another"]);
    refused("s3://bucket/run/inside", &["lies inside the shared tier", "outside"]);
    refused("s3://bucket", &["would move into itself"]);
    refused("s3://no-such-bucket/run", &["cannot be read", "AWS_ENDPOINT_URL", "HAYATE_OLD_"]);
    server.client().put("other/.hayate-moving-j/0-1-2", &Meta::new(), b"{}").unwrap();
    refused("s3://bucket/other", &["half moved", "hayate down --drain"]);
    sandbox.ok(&["down", "--drain"]);
    sandbox.assert_nothing_left();
}
