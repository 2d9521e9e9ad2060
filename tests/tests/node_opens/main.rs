//! Goal: homes keep one holder for each node and file that is open there, whatever the number of its clients, and that costs no file, no size and no byte (decision 0053).
//! Method: clusters in this process whose last server has no store, so that all files live elsewhere; clients that go through it, as those of its node do; what servers
//! count, and files that lose their names while they are open.

mod leases;
mod raw;
mod stress;

use std::time::{Duration, Instant};

use fs_client::{Caller, Client, File, OpenFlags, OpenOptions, Route, ServerId, Setattr};
use fs_server::ServerConfig;
use hayate_tests::{Cluster, ClusterOptions, full, open, status, until};

/// The server of the node.
const GATEWAY: u16 = 2;
/// Those where files live.
const HOMES: [u16; 2] = [0, 1];

fn cluster() -> Cluster {
    configured(|_| ())
}

fn configured(edit: fn(&mut ServerConfig)) -> Cluster {
    let options = ClusterOptions { servers: 3, gateways: 1, ..ClusterOptions::default() };
    Cluster::configured(options, edit)
}

/// A client of the node.
fn on_node(cluster: &Cluster) -> Client {
    cluster.strict_client(Route::Gateway(ServerId(GATEWAY)))
}

/// One that asks the homes itself.
fn outside(cluster: &Cluster) -> Client {
    cluster.strict_client(Route::Owners)
}

fn number(asker: &Client, server: u16, name: &str) -> u64 {
    status(asker, ServerId(server))[name].as_u64().unwrap_or_else(|| panic!("no figure {name}"))
}

fn at_homes(asker: &Client, name: &str) -> u64 {
    HOMES.iter().map(|home| number(asker, *home, name)).sum()
}

/// Openings that the node's server knows of.
fn known(asker: &Client) -> u64 {
    number(asker, GATEWAY, "node_opens")
}

fn reading(client: &Client, path: &str) -> File {
    client.open_path(path, &OpenOptions::read_only()).expect("open")
}

fn writing(client: &Client, path: &str) -> File {
    let options = OpenOptions { read: true, write: true, ..OpenOptions::default() };
    client.open_path(path, &options).expect("open")
}

fn put(client: &Client, path: &str, content: &[u8]) {
    let file = open(client, path);
    file.write_at(content, 0).expect("write");
    file.close().expect("close");
}

/// Longer than a file without a name waits for its removal, several times.
fn for_a_while(mut act: impl FnMut()) {
    let end = Instant::now() + Duration::from_millis(1200);
    while Instant::now() < end {
        act();
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn nothing_stays(asker: &Client) {
    until("all is closed", || at_homes(asker, "open_holders") == 0 && known(asker) == 0);
}

#[test]
fn holders_do_not_grow_with_the_clients_of_a_node() {
    const CLIENTS: u64 = 12;
    let cluster = cluster();
    let asker = outside(&cluster);
    let clients: Vec<Client> = (0..CLIENTS).map(|_| on_node(&cluster)).collect();
    put(&asker, "/f", &full(100_000, 1));
    until("the maker has closed it", || at_homes(&asker, "open_holders") == 0);
    for open_one in [reading, writing, open] {
        let files: Vec<File> = clients.iter().map(|client| open_one(client, "/f")).collect();
        assert_eq!((at_homes(&asker, "open_holders"), known(&asker)), (1, CLIENTS));
        drop(files);
        nothing_stays(&asker);
    }
    let make = |(number, client): (usize, &Client)| open(client, &format!("/new-{number}"));
    let files: Vec<File> = clients.iter().enumerate().map(make).collect();
    assert_eq!((at_homes(&asker, "open_holders"), known(&asker)), (CLIENTS, CLIENTS));
    for file in files {
        file.write_at(&full(30_000, 3), 0).expect("write");
        file.close().expect("close");
    }
    nothing_stays(&asker);
    let mixed: Vec<File> =
        vec![reading(&clients[0], "/f"), writing(&clients[1], "/f"), open(&clients[2], "/f")];
    let direct = writing(&asker, "/f");
    assert_eq!(at_homes(&asker, "open_holders"), 2, "who asks the home itself is known there");
    drop((mixed, direct));
    nothing_stays(&asker);
}

/// How a file is opened.
type How = fn(&Client, &str) -> File;

#[test]
fn an_unlinked_file_stays_until_the_last_of_its_node_closes() {
    let cluster = cluster();
    let (asker, first, second) = (outside(&cluster), on_node(&cluster), on_node(&cluster));
    let inodes = || at_homes(&asker, "inodes");
    for (round, size) in [100, 100_000].into_iter().enumerate() {
        let path = format!("/f{round}");
        for (one, other) in [(reading as How, writing as How), (writing, reading), (open, open)] {
            let before = inodes();
            let content = full(size, 7);
            put(&asker, &path, &content);
            let (one, other) = (one(&first, &path), other(&second, &path));
            asker.remove_file(&path).expect("unlink");
            if one.flags().writes() {
                one.write_at(&content[..10], 0).expect("write");
            }
            one.close().expect("close");
            for_a_while(|| assert!(other.read_bytes_at(1 << 20, 0).expect("read") == content));
            assert_eq!(inodes(), before + 1);
            other.close().expect("close");
            until("it is removed", || inodes() == before);
            nothing_stays(&asker);
        }
    }
}

#[test]
fn a_file_that_was_made_by_another_of_the_node_stays() {
    let cluster = cluster();
    let (asker, maker, other) = (outside(&cluster), on_node(&cluster), on_node(&cluster));
    let made = open(&maker, "/f");
    let found = reading(&other, "/f");
    asker.remove_file("/f").expect("unlink");
    drop(found);
    made.write_at(b"here", 0).expect("write");
    for_a_while(|| assert_eq!(made.read_bytes_at(10, 0).expect("read"), "here"));
    let root = asker.stat("/").expect("root").ino;
    let nameless = maker.create_nameless(&Caller::ROOT, root, 0o600, OpenFlags::READ_WRITE).expect("create");
    nameless.write_at(&full(100_000, 4), 0).expect("write");
    drop(made);
    for_a_while(|| assert!(nameless.read_bytes_at(1 << 20, 0).expect("read") == full(100_000, 4)));
    drop(nameless);
    nothing_stays(&asker);
}

#[test]
fn what_is_written_is_seen_while_two_of_a_node_write() {
    let cluster = cluster();
    let (asker, first, second) = (outside(&cluster), on_node(&cluster), on_node(&cluster));
    let size = || asker.stat("/f").expect("stat").size;
    put(&asker, "/f", &full(100_000, 1));
    let (one, other) = (writing(&first, "/f"), writing(&second, "/f"));
    for round in 1..=20 {
        let end = 1_000_000 * round;
        one.write_at(b"one", end - 3).expect("write");
        // Who asks first has the home ask, and write down what it hears.
        assert_eq!((other.attr().expect("attr").size, size()), (end, end));
        other.write_at(b"other", end + 500_000).expect("write");
        assert_eq!((size(), one.attr().expect("attr").size), (end + 500_005, end + 500_005));
    }
    one.close().expect("close");
    other.write_at(b"more", 30_000_000).expect("write");
    assert_eq!(size(), 30_000_004, "one writes yet");
    let again = reading(&first, "/f");
    other.close().expect("close");
    assert_eq!(again.attr().expect("attr").size, 30_000_004);
    asker.truncate_path("/f", 5).expect("cut");
    assert_eq!(again.attr().expect("attr").size, 5);
}

/// Goal: what a client wrote by an earlier opening does not count, although another of its node has been writing since before that. Method: it writes far, closes; the
/// file is cut; it opens the file again.
#[test]
fn what_was_cut_does_not_come_back_with_an_opening() {
    let cluster = cluster();
    let (asker, first, second) = (outside(&cluster), on_node(&cluster), on_node(&cluster));
    put(&asker, "/f", &full(100_000, 1));
    let _writes_all_the_time = writing(&first, "/f");
    for round in 0..5 {
        let other = writing(&second, "/f");
        other.write_at(b"far", 3_000_000 + round).expect("write");
        other.close().expect("close");
        assert_eq!(asker.stat("/f").expect("stat").size, 3_000_003 + round);
        asker.truncate_path("/f", 50_000).expect("cut");
        let other = writing(&second, "/f");
        assert_eq!(asker.stat("/f").expect("stat").size, 50_000);
        assert_eq!(other.attr().expect("attr").size, 50_000);
        other.write_at(b"near", 60_000).expect("write");
        assert_eq!(asker.stat("/f").expect("stat").size, 60_004);
        other.close().expect("close");
    }
}

/// Goal: who publishes after a cut by another tells no size from before it, and loses none of after it, whoever else of its node writes.
#[test]
fn cuts_bind_the_writers_of_a_node() {
    let cluster = cluster();
    let (asker, first, second) = (outside(&cluster), on_node(&cluster), on_node(&cluster));
    put(&asker, "/f", &full(100_000, 1));
    let (one, other) = (writing(&first, "/f"), writing(&second, "/f"));
    let size = || asker.stat("/f").expect("stat").size;
    for round in 0..10 {
        one.write_at(b"far", 5_000_000 + round).expect("write");
        other.write_at(b"further", 6_000_000 + round).expect("write");
        asker.truncate_path("/f", 10_000).expect("cut");
        assert_eq!(size(), 10_000);
        one.flush().expect("publish");
        assert_eq!(size(), 10_000, "what was cut off stays so");
        other.write_at(b"after", 20_000).expect("write");
        // Who asks has the home hear of it, which else hears of it by the publishing.
        if round % 2 == 0 {
            assert_eq!(size(), 20_005);
        }
        other.flush().expect("publish");
        one.flush().expect("publish");
        assert_eq!(size(), 20_005);
        asker.truncate_path("/f", 100).expect("cut");
    }
}

#[test]
fn appends_of_two_of_a_node_follow_each_other() {
    let cluster = cluster();
    let (asker, first, second) = (outside(&cluster), on_node(&cluster), on_node(&cluster));
    put(&asker, "/f", &full(100_000, 1));
    let (one, other) = (writing(&first, "/f"), writing(&second, "/f"));
    let mut end = 100_000;
    for _ in 0..20 {
        assert_eq!(one.append(b"12345").expect("append"), end);
        other.write_at(b"x", end + 5).expect("write");
        assert_eq!(other.append(b"123").expect("append"), end + 6);
        end += 9;
    }
    assert_eq!(asker.stat("/f").expect("stat").size, end);
}

#[test]
fn a_layout_is_set_by_who_alone_of_its_node_has_the_file_open() {
    let cluster = configured(|config| config.inline_bytes = 0);
    let (asker, first, second) = (outside(&cluster), on_node(&cluster), on_node(&cluster));
    let set = |client: &Client, to: &str| {
        client
            .setxattr_path("/f", fs_client::LAYOUT_ATTRIBUTE, to.as_bytes(), false, false)
            .map_err(|error| error.errno())
    };
    let one = open(&first, "/f");
    set(&first, "striped,chunk=64K").expect("nobody else has it open");
    let other = reading(&second, "/f");
    assert_eq!(
        set(&first, "striped,chunk=128K"),
        Err(libc::ENOTEMPTY),
        "another of the node remembers the layout"
    );
    assert_eq!(set(&second, "striped,chunk=128K"), Err(libc::ENOTEMPTY));
    assert_eq!(set(&asker, "striped,chunk=128K"), Err(libc::ENOTEMPTY));
    drop(other);
    until("the other has closed it", || known(&asker) == 1);
    set(&first, "striped,chunk=128K").expect("nobody else has it open any more");
    one.write_at(&full(300_000, 1), 0).expect("write");
    assert!(one.read_bytes_at(1 << 20, 0).expect("read") == full(300_000, 1));
    assert_eq!(set(&first, "striped,chunk=64K"), Err(libc::ENOTEMPTY), "it has data");
}

#[test]
fn openings_that_fail_leave_nothing() {
    let cluster = cluster();
    let (asker, client) = (outside(&cluster), on_node(&cluster));
    put(&asker, "/f", &full(100_000, 1));
    let mode = Setattr { mode: Some(0o600), ..Setattr::nothing(asker.stat("/f").expect("stat").ino) };
    asker.setattr(&Caller::ROOT, mode).expect("chmod");
    let (root, ino) = (asker.stat("/").expect("root").ino, asker.stat("/f").expect("stat").ino);
    let nobody = Caller { uid: 12345, gid: 12345, groups: vec![] };
    for flags in [OpenFlags::READ, OpenFlags::READ_WRITE] {
        assert_eq!(client.open(&nobody, ino, flags).map(drop).map_err(|e| e.errno()), Err(libc::EACCES));
        let made = client.create_open(&nobody, root, b"f", 0o600, flags, false);
        assert_eq!(made.map(drop).map_err(|e| e.errno()), Err(libc::EACCES));
        let made = client.create_open(&Caller::ROOT, root, b"f", 0o600, flags, true);
        assert_eq!(made.map(drop).map_err(|e| e.errno()), Err(libc::EEXIST));
        asker.mkdir_path("/d", 0o755).ok();
        let directory = client.create_open(&Caller::ROOT, root, b"d", 0o600, flags, false);
        assert_eq!(directory.map(drop).map_err(|e| e.errno()), Err(libc::EISDIR));
    }
    assert_eq!(known(&asker), 0);
    until("homes forget them", || at_homes(&asker, "open_holders") == 0);
}

/// Goal: a node whose server has no room for more keeps its files as if it had. Method: more files than its table holds, open at one client; then another comes.
#[test]
fn who_has_no_room_is_known_to_the_home() {
    let cluster = configured(|config| {
        if config.id == ServerId(GATEWAY) {
            config.memory_bytes = 64 << 20;
        }
    });
    let (asker, hoarder, client) = (outside(&cluster), on_node(&cluster), on_node(&cluster));
    put(&asker, "/f", &full(100_000, 1));
    put(&asker, "/g", &full(100_000, 2));
    let early = reading(&client, "/f");
    let root = asker.stat("/").expect("root").ino;
    let mut hoard = Vec::new();
    while hoard.len() < 8000 {
        let one = hoarder.create_nameless(&Caller::ROOT, root, 0o600, OpenFlags::READ_WRITE);
        hoard.push(one.expect("create"));
    }
    let room = known(&asker);
    assert!((5000..7000).contains(&room), "{room}");
    let late = on_node(&cluster);
    let (reads, writes) = (reading(&late, "/g"), writing(&late, "/f"));
    assert_eq!((known(&asker), at_homes(&asker, "open_holders")), (room, 8000 + 3));
    asker.remove_file("/f").expect("unlink");
    asker.remove_file("/g").expect("unlink");
    writes.write_at(b"more", 200_000).expect("write");
    drop(hoard);
    until("there is room", || known(&asker) <= 1);
    for_a_while(|| {
        assert_eq!(early.read_bytes_at(4, 200_000).expect("read"), "more");
        assert!(reads.read_bytes_at(1 << 20, 0).expect("read") == full(100_000, 2));
    });
    drop((early, reads, writes));
    nothing_stays(&asker);
    until("all of it is removed", || at_homes(&asker, "inodes") <= 3);
}
