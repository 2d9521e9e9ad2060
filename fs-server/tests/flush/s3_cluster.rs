//! Flushing to an object store: the bucket equals the namespace, through changes, moves and restarts.

use fs_proto::msg::tier::TierHope;
use fs_proto::{FileKind, ServerId};

use crate::client::{Client, ROOT};
use crate::cluster::{Cluster, plain};
use crate::s3_memory::{self, Fate};
use crate::s3_reading::prepared;

fn pattern(len: usize, seed: u8) -> Vec<u8> {
    (0..len).map(|i| (i as u32).wrapping_mul(2_654_435_761).to_le_bytes()[3] ^ seed).collect()
}

#[test]
fn a_bucket_equals_the_namespace() {
    // Goal: every kind of object with every attribute arrives, and each later change does; large files in parts by all servers.
    let cluster = Cluster::start_on_s3(3);
    let client = Client::connect(&cluster.file);
    let dir = client.mkdir(ROOT, "dir");
    let deep = client.mkdir(dir, "deep");
    client.mkdir_mode(ROOT, "empty", 0o1700);
    client.write_file(dir, "small", b"hello");
    client.write_file(deep, "none", b"");
    client.write_file(dir, "medium", &pattern(700_000, 3));
    let big = client.write_file(deep, "big:name with spaces", &pattern((21 << 20) + 7, 1));
    client.link(big, ROOT, "second");
    client.make(dir, "link", FileKind::Symlink, "../nowhere", false);
    client.make(dir, "pipe", FileKind::Fifo, "", false);
    client.setxattr(big, "user.a", "1");
    client.setxattr(dir, "user.b", "2");
    client.set_times(dir, 1_000_000_001, 2_000_000_002);
    let holes = client.open_file(dir, "holes");
    client.write(holes, 3 << 20, b"end");
    client.close(holes, (3 << 20) + 3);
    let accounts = cluster.check(&client);
    let wrote = accounts.iter().filter(|account| account.copied_bytes > 4 << 20).count();
    assert!(wrote >= 2, "parts are written by several servers: {accounts:#?}");

    client.write_file(dir, "small", b"changed and longer");
    client.truncate(big, 1000);
    client.chmod(big, 0o4711);
    client.setxattr(big, "user.c", "3");
    client.unlink(dir, "pipe");
    client.unlink(deep, "none");
    client.rename(dir, "link", deep, "link");
    client.chmod(deep, 0o500);
    client.rmdir(ROOT, "empty");
    cluster.check(&client);
}

#[test]
fn directories_of_a_bucket_move_while_files_come() {
    // Goal: files made in directories that are renamed all the time arrive in the right ones; swaps end right.
    let cluster = Cluster::start_on_s3(2);
    let client = Client::connect(&cluster.file);
    let (a, b) = (client.mkdir(ROOT, "a"), client.mkdir(ROOT, "b"));
    let sub = client.mkdir(a, "sub");
    for round in 0..12 {
        client.write_file(a, &format!("a{round}"), &pattern(1_000, round));
        client.write_file(sub, &format!("s{round}"), &pattern(20_000, round));
        let (from, to) = if round % 2 == 0 { ("a", "moved") } else { ("moved", "a") };
        client.rename(ROOT, from, ROOT, to);
        client.write_file(b, &format!("b{round}"), &pattern(10, round));
    }
    client.exchange(ROOT, "a", ROOT, "b");
    client.write_file(b, "last", b"last");
    let accounts = cluster.drain(&client);
    cluster.compare(&client);
    assert!(accounts.iter().all(|account| account.unsafe_names.is_empty()));
}

#[test]
fn a_directory_whose_move_was_cut_off_and_that_is_renamed_back_is_whole() {
    // Goal: nothing stays at a place where a directory was on its way to, whether it went away from there before it had come or is gone.
    for and_removed in [false, true] {
        let cluster = Cluster::start_on_s3(2);
        let client = Client::connect(&cluster.file);
        let a = client.mkdir(ROOT, "a");
        for file in 0..6 {
            client.write_file(a, &format!("f{file}"), &pattern(1_000, file));
        }
        cluster.check(&client);
        let server = cluster.s3.as_ref().unwrap();
        server.allow_copies(3);
        client.rename(ROOT, "a", ROOT, "moved");
        cluster.wait(&client, "a failure", |accounts| accounts.iter().any(|account| account.failures > 0));
        client.rename(ROOT, "moved", ROOT, "a");
        if and_removed {
            (0..6).for_each(|file| client.unlink(a, &format!("f{file}")));
            client.rmdir(ROOT, "a");
        } else {
            client.write_file(a, "late", b"late");
        }
        server.allow_copies(i64::MAX);
        cluster.drain(&client);
        cluster.compare(&client);
        let keys = server.keys();
        assert!(
            !keys.iter().any(|key| key.starts_with("moved/") || key.contains(".hayate-moving")),
            "{keys:?}"
        );
    }
}

#[test]
fn a_restart_finishes_what_was_begun_in_a_bucket() {
    // Goal: servers that end in the middle of flushing go on at the next start; the bucket ends equal, without a trace of uploads.
    let mut cluster = Cluster::start_on_s3(2);
    for round in 0..4 {
        let client = Client::connect(&cluster.file);
        let dir = client.mkdir(ROOT, &format!("d{round}"));
        client.write_file(dir, "large", &pattern(10 << 20, round));
        for file in 0..20 {
            client.write_file(dir, &format!("f{file}"), &pattern(file * 1_000, round));
        }
        client.rename(ROOT, &format!("d{round}"), ROOT, &format!("e{round}"));
        drop(client);
        cluster.restart(&plain);
    }
    let client = Client::connect(&cluster.file);
    cluster.drain(&client);
    cluster.compare(&client);
    let server = cluster.s3.as_ref().unwrap();
    assert!(server.open_uploads().is_empty(), "{:?}", server.open_uploads());
    assert!(
        !server.keys().iter().any(|key| key.contains(".hayate-staging") || key.contains(".hayate-moving"))
    );
}

#[test]
fn what_a_bucket_refuses_is_named_and_all_else_goes_on() {
    // Goal: objects that the bucket does not take are told by name and with the reason, one server's as another's, and keep up nobody's hope for room; everything else arrives. What can be
    // mended arrives then. Method: a key and the parts of another that are denied, and one that is too long.
    let (server, bucket) = s3_memory::start();
    bucket.hook(|method, key| match (method.as_str(), key) {
        ("PUT" | "POST", "run/denied") => Fate::Denied(403, "AccessDenied"),
        ("PUT", "run/parts") => Fate::Denied(400, "InvalidArgument"),
        _ => Fate::Served,
    });
    let mut cluster = prepared(server, |_| {});
    cluster.launch(&plain);
    let client = Client::connect(&cluster.file);
    client.write_file(ROOT, "denied", &pattern(100_000, 1));
    client.write_file(ROOT, "parts", &pattern(17 << 20, 2));
    let deep = (0..4).fold(ROOT, |dir, _| client.mkdir(dir, &"d".repeat(240)));
    let long = "l".repeat(200);
    client.write_file(deep, &long, b"its key has more than 1,024 bytes");
    for file in 0..20 {
        client.write_file(ROOT, &format!("f{file}"), &pattern(50_000, file));
    }
    let accounts = cluster.wait(&client, "a refusal again and again", |accounts| {
        let told = accounts.iter().flat_map(|account| &account.unsafe_names);
        told.filter(|(_, why)| why.contains("makes no room")).count() == 3
    });
    assert!(
        (0..20).all(|file| bucket.get(&format!("f{file}")).is_some_and(|data| data == pattern(50_000, file)))
    );
    let told: Vec<_> = accounts.iter().flat_map(|account| &account.unsafe_names).collect();
    for (end, reason) in
        [("/denied", "403 Forbidden AccessDenied"), ("/parts", "InvalidArgument"), (&long[..], "1,024")]
    {
        let is_it =
            |(name, why): &&(bytes::Bytes, String)| name.ends_with(end.as_bytes()) && why.contains(reason);
        assert_eq!(told.iter().copied().filter(is_it).count(), 1, "{end}: {told:?}");
    }
    let server = Client::connect_as(&cluster.file, Some(ServerId(1)));
    cluster.wait(&client, "the end of hope", |_| {
        [0, 1].map(|id| server.ask_server(ServerId(id), &TierHope {}).unwrap().waits) == [false; 2]
    });
    bucket.unhook();
    client.unlink(deep, &long);
    cluster.drain(&client);
    cluster.compare(&client);
}
