//! Goal: what many nodes ask about names and inodes costs their homes a question a node and lease, and nobody hears what was so before the last change
//! returned (decision 0038). Method: small files, found by their paths, stated, opened and read by clients that trust nothing; what servers count.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use fs_client::{Attr, Caller, InodeId, OpenFlags};
use fs_proto::Status;

use super::*;

const SERVERS: u16 = 6;

fn nodes(cluster: &Cluster) -> Vec<Client> {
    (0..SERVERS).map(|server| on_node(cluster, server)).collect()
}

fn owner(cluster: &Cluster, ino: InodeId) -> u16 {
    cluster.file().map().expect("a map").owner(ino.partition()).0
}

fn sum(client: &Client, name: &str) -> u64 {
    (0..SERVERS).map(|server| hot(client, server, name)).sum()
}

/// Asks on all nodes until every one but the home of what is asked for answers some of it by itself.
fn heat_by(maker: &Client, clients: &[Client], ask: impl Fn(&Client)) {
    let given = || (0..SERVERS).map(|server| hot(maker, server, "answers_given")).collect::<Vec<_>>();
    hayate_tests::until("it is hot", || {
        let before = given();
        clients.iter().for_each(&ask);
        before.iter().zip(given()).filter(|(before, after)| *before < after).count() + 1 >= clients.len()
    });
}

/// What matters of attributes. Times of reading are told late.
fn told(attr: &Attr) -> String {
    let Attr { ino, kind, mode, uid, nlink, size, mtime, ctime, version, inline, .. } = attr;
    format!("{ino:?} {kind:?} {mode:o} {uid} {nlink} {size} {mtime} {ctime} {version} {inline}")
}

fn or_status<T>(answer: fs_client::Result<T>, show: impl Fn(T) -> String) -> String {
    match answer {
        Ok(value) => show(value),
        Err(error) => format!("{:?}", error.code().expect("a status")),
    }
}

/// All that can be asked about what lies in a directory.
fn seen(client: &Client, dir: &str) -> String {
    let look = |name: &str| {
        let path = format!("{dir}/{name}");
        let read = |client: &Client| -> fs_client::Result<Bytes> {
            client.open_path(&path, &OpenOptions::read_only())?.read_bytes_at(1 << 20, 0)
        };
        let content = |bytes: Bytes| format!("{} {:x}", bytes.len(), fs_proto::checksum::crc(&bytes));
        [
            or_status(client.lstat(&path), |attr| told(&attr)),
            or_status(client.stat(&path), |attr| told(&attr)),
            or_status(client.get(&path), content),
            or_status(read(client), content),
            or_status(client.read_link(&path), |target| target.display().to_string()),
        ]
        .join(", ")
    };
    format!("f: {}\ng: {}\nh: {}", look("f"), look("g"), look("h"))
}

/// A kind of change in a directory.
type Kind = (&'static str, fn(&Client, &str));

const KINDS: [Kind; 17] = [
    ("write", |client, dir| open(client, &format!("{dir}/f")).write_at(b"other", 2).expect("write")),
    ("append", |client, dir| {
        open(client, &format!("{dir}/f")).append(b"more").expect("append");
    }),
    ("cut", |client, dir| {
        client.truncate_path(format!("{dir}/f"), 3).expect("cut");
    }),
    ("punch", |client, dir| open(client, &format!("{dir}/f")).punch(1..3).expect("punch")),
    ("put", |client, dir| {
        client.put(format!("{dir}/f"), b"replaced", 0o600).expect("put");
    }),
    ("grow", |client, dir| file(client, &format!("{dir}/f"), &full(100_000, 3))),
    ("unpublished", |client, dir| {
        let path = format!("{dir}/f");
        file(client, &path, &full(100_000, 3));
        let file = open(client, &path);
        file.write_at(b"more", 200_000).expect("write");
        // Open for as long as the test: nothing is published.
        std::mem::forget(file);
    }),
    ("chmod", |client, dir| {
        client.chmod(format!("{dir}/f"), 0o4711).expect("chmod");
    }),
    ("chown", |client, dir| {
        client.chown(format!("{dir}/f"), Some(77), None).expect("chown");
    }),
    ("attribute", |client, dir| {
        client.setxattr_path(format!("{dir}/f"), b"user.a", b"b", false, false).expect("setxattr");
    }),
    ("link", |client, dir| {
        client.link_path(format!("{dir}/f"), format!("{dir}/g")).expect("link");
    }),
    ("symlink", |client, dir| {
        client.symlink_path("f", format!("{dir}/g")).expect("symlink");
    }),
    ("unlink", |client, dir| client.remove_file(format!("{dir}/f")).expect("unlink")),
    ("rename", |client, dir| client.rename_path(format!("{dir}/f"), format!("{dir}/g")).expect("rename")),
    ("replace", |client, dir| client.rename_path(format!("{dir}/h"), format!("{dir}/f")).expect("rename")),
    ("create", |client, dir| {
        client.put(format!("{dir}/g"), b"new", 0o644).expect("put");
    }),
    ("move the directory", |client, dir| client.rename_path(dir, format!("{dir}-moved")).expect("rename")),
];

/// Method: each kind of change of a directory about which all nodes ask; right after it, every node sees what its homes say, and that is something else
/// than before.
#[test]
fn every_kind_of_change_of_names_and_inodes_is_seen_at_once() {
    let cluster = cluster(SERVERS);
    let (maker, clients) = (cluster.strict_client(Route::Owners), nodes(&cluster));
    // Another client than who changes it, which knows more than it has published.
    let observer = cluster.strict_client(Route::Owners);
    for (kind, change) in KINDS {
        // Again if the machine was so slow that the leases were over.
        let was_hot = (0..5).any(|round| {
            let dir = format!("/{}-{round}", kind.replace(' ', "-"));
            maker.mkdir_path(&dir, 0o755).expect("mkdir");
            maker.put(format!("{dir}/f"), b"content of f", 0o644).expect("put");
            maker.put(format!("{dir}/h"), b"that of h", 0o644).expect("put");
            heat_by(&maker, &clients, |client| drop(seen(client, &dir)));
            let (before, recalls) = (seen(&observer, &dir), sum(&maker, "answers_recalled"));
            change(&maker, &dir);
            let mut now = seen(&observer, &dir);
            assert_ne!(before, now, "{kind}: it changes something");
            for (server, client) in clients.iter().enumerate() {
                let (there, later) = (seen(client, &dir), seen(&observer, &dir));
                // What is written is published meanwhile.
                assert!(
                    there == now || there == later,
                    "{kind}: on node {server}:\n{there}\nand not\n{later}"
                );
                now = later;
            }
            sum(&maker, "answers_recalled") > recalls
        });
        assert!(was_hot, "{kind}: changed when it was not hot");
    }
}

/// Goal: attributes of a directory are right although names in it come and go; and who may search it is judged for each user.
/// Method: a directory at rest, of which all nodes ask; then names are made in it, and it is closed to others.
#[test]
fn directories_are_seen_as_they_are_and_by_whom_they_may_be() {
    let cluster = cluster(SERVERS);
    let (maker, clients) = (cluster.strict_client(Route::Owners), nodes(&cluster));
    maker.mkdir_path("/d", 0o755).expect("mkdir");
    maker.put("/d/f", b"content", 0o644).expect("put");
    let dir = maker.stat("/d").expect("stat").ino;
    let user = |uid| Caller { uid, gid: uid, groups: vec![] };
    let getattr = |client: &Client| told(&client.getattr(&Caller::ROOT, dir).expect("getattr"));
    // Not lent before it was at rest for a while.
    heat_by(&maker, &clients, |client| drop(getattr(client)));
    maker.put("/d/g", b"new", 0o644).expect("put");
    let now = getattr(&maker);
    assert!(clients.iter().all(|client| getattr(client) == now));
    let finds = |client: &Client, uid| or_status(client.lookup(&user(uid), dir, b"f"), |attr| told(&attr));
    heat_by(&maker, &clients, |client| assert_eq!(finds(client, 7), finds(client, 8)));
    maker.chown("/d", Some(7), Some(7)).expect("chown");
    maker.chmod("/d", 0o700).expect("chmod");
    let is_judged = || {
        for client in &clients {
            assert_eq!(finds(client, 8), format!("{:?}", Status::AccessDenied));
            assert!(finds(client, 7).contains("File"));
        }
    };
    is_judged();
    heat_by(&maker, &clients, |_| is_judged());
    let file = maker.stat("/d/f").expect("stat").ino;
    let opens = |client: &Client, uid| {
        or_status(client.open(&user(uid), file, OpenFlags::READ), |_| "open".to_owned())
    };
    heat_by(&maker, &clients, |client| assert_eq!(opens(client, 8), "open"));
    maker.chmod("/d/f", 0o600).expect("chmod");
    assert!(clients.iter().all(|client| opens(client, 8) == format!("{:?}", Status::AccessDenied)));
}

const FILES: usize = 4;

fn number_in(content: &[u8]) -> u64 {
    u64::from_le_bytes(content[..8].try_into().expect("a number"))
}

/// Method: writers number what they put into small files, in several ways, and say the number once that has returned; they set a time to it besides. Readers on
/// all nodes note what was said, then ask: it is that or later. Writers pause until it is hot.
#[test]
fn no_answer_is_older_than_what_was_said_before_the_question() {
    let cluster = cluster(SERVERS);
    let maker = cluster.strict_client(Route::Owners);
    maker.mkdir_path("/d", 0o755).expect("mkdir");
    let said: Vec<[AtomicU64; 2]> = (0..FILES).map(|_| [AtomicU64::new(1), AtomicU64::new(0)]).collect();
    for at in 0..FILES {
        maker.put(format!("/d/{at}"), &1_u64.to_le_bytes(), 0o644).expect("put");
    }
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for server in 0..SERVERS {
            let (cluster, said, is_over) = (&cluster, &said, &is_over);
            scope.spawn(move || ask_on(cluster, server, said, is_over));
        }
        let writers: Vec<_> = (0..2)
            .map(|writer| {
                let (cluster, said, maker) = (&cluster, &said, &maker);
                scope.spawn(move || change_when_hot(cluster, said, maker, writer))
            })
            .collect();
        let done: Vec<_> = writers.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
        is_over.store(true, Ordering::Relaxed);
        for writer in done {
            writer.expect("a writer ends");
        }
    });
    assert!(sum(&maker, "answers_recalled") > 0 && sum(&maker, "answers_given") > 0);
}

fn ask_on(cluster: &Cluster, server: u16, said: &[[AtomicU64; 2]], is_over: &AtomicBool) {
    let client = on_node(cluster, server);
    let mut turn = u64::from(server);
    while !is_over.load(Ordering::Relaxed) {
        turn = turn.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let at = (turn >> 33) as usize % FILES;
        let path = format!("/d/{at}");
        let [content, time] = &said[at];
        let (content, time) = (content.load(Ordering::SeqCst), time.load(Ordering::SeqCst));
        match turn >> 40 & 3 {
            0 => assert!(number_in(&client.get(&path).expect("get")) >= content, "get of {at}"),
            1 => assert!(client.stat(&path).expect("stat").mtime as u64 >= time, "time of {at}"),
            _ => {
                let read = reading(&client, &path).read_bytes_at(8, 0).expect("read");
                assert!(number_in(&read) >= content, "read of {at}: {}, after {content}", number_in(&read));
            }
        }
    }
}

/// Each writer has its own files.
fn change_when_hot(cluster: &Cluster, said: &[[AtomicU64; 2]], maker: &Client, writer: usize) {
    let client = on_node(cluster, writer as u16);
    let mut number = 1_u64;
    for burst in 0..3 {
        if burst != 1 {
            let given = sum(maker, "answers_given");
            hayate_tests::until("much is hot", || sum(maker, "answers_given") > given + 200);
        }
        for round in 0..6 {
            for at in (writer..FILES).step_by(2) {
                number += 1;
                let (path, new) = (format!("/d/{at}"), format!("/d/new-{at}"));
                match round % 3 {
                    0 => drop(client.put(&path, &number.to_le_bytes(), 0o644).expect("put")),
                    1 => open(&client, &path).write_at(&number.to_le_bytes(), 0).expect("write"),
                    _ => {
                        client.put(&new, &number.to_le_bytes(), 0o644).expect("put");
                        client.rename_path(&new, &path).expect("rename");
                    }
                }
                said[at][0].store(number, Ordering::SeqCst);
                // The home's clock, or the writer's: of one machine.
                let time = client.stat(&path).expect("stat").mtime as u64;
                said[at][1].store(time, Ordering::SeqCst);
            }
        }
    }
}

/// Method: as many clients a node as processes are there, each of which finds, opens, reads and closes a small file again and again; what homes carried
/// out, by the time that leases were renewed.
#[test]
fn homes_are_asked_once_a_node_and_lease_whatever_the_number_of_processes() {
    const PROCESSES: usize = 6;
    const ROUNDS: usize = 20;
    let cluster = cluster(SERVERS);
    let maker = cluster.strict_client(Route::Owners);
    maker.mkdir_path("/d", 0o755).expect("mkdir");
    maker.put("/d/f", b"content", 0o644).expect("put");
    let clients: Vec<Vec<Client>> =
        (0..SERVERS).map(|server| (0..PROCESSES).map(|_| on_node(&cluster, server)).collect()).collect();
    let read = |client: &Client| {
        let file = reading(client, "/d/f");
        assert_eq!(file.read_bytes_at(100, 0).expect("read"), &b"content"[..]);
        file.close().expect("close");
    };
    let first: Vec<&Client> = clients.iter().filter_map(|node| node.first()).collect();
    hayate_tests::until("it is hot", || {
        let before = sum(&maker, "answers_given");
        for client in &first {
            read(client);
        }
        sum(&maker, "answers_given") >= before + 4 * (u64::from(SERVERS) - 1) - 1
    });
    let (before, began) = (carried_out(&maker), Instant::now());
    std::thread::scope(|scope| {
        for client in clients.iter().flatten() {
            scope.spawn(|| (0..ROUNDS).for_each(|_| read(client)));
        }
    });
    // One that is there already, one that ends at once, and one every two seconds.
    let leases = 2 + began.elapsed().as_secs() / 2;
    let after = carried_out(&maker);
    // Clients of the home itself ask it.
    let own = (PROCESSES * ROUNDS) as u64;
    for (op, questions) in [("lookup", 2), ("openread", 1), ("readinline", 1)] {
        let asked = after[op] - before[op];
        let most = questions * (own + u64::from(SERVERS) * leases);
        assert!(asked <= most, "{asked} times {op}, at most {most}");
    }
}

/// What was asked of all servers, by operation.
fn carried_out(client: &Client) -> BTreeMap<String, u64> {
    let mut all = BTreeMap::new();
    for server in 0..SERVERS {
        let status = status(client, ServerId(server));
        for (op, count) in status["operations"].as_object().expect("operations") {
            *all.entry(op.clone()).or_default() += count.as_u64().expect("a number");
        }
    }
    all
}

/// Goal: a file that was opened without its home knowing the client stays when its last name goes. Method: a file in chunks, opened by answers that were kept;
/// then it is unlinked, and others are removed after it; it is read.
#[test]
fn what_is_open_through_another_server_outlives_its_name() {
    let cluster = cluster(SERVERS);
    let (maker, clients) = (cluster.strict_client(Route::Owners), nodes(&cluster));
    maker.mkdir_path("/d", 0o755).expect("mkdir");
    let content = full(100_000, 5);
    file(&maker, "/d/f", &content);
    heat_by(&maker, &clients, |client| drop(reading(client, "/d/f")));
    let late = nodes(&cluster);
    let files: Vec<_> = late.iter().map(|client| reading(client, "/d/f")).collect();
    let known = |server| status(&maker, ServerId(server))["node_opens"].as_u64().expect("a number");
    assert!((0..SERVERS).map(known).sum::<u64>() >= u64::from(SERVERS) - 2, "the nodes' servers know of it");
    maker.remove_file("/d/f").expect("unlink");
    // What is removed after it is removed, so the home has looked whether it may remove the first.
    let inodes = |client: &Client| -> u64 {
        (0..SERVERS)
            .map(|server| status(client, ServerId(server))["inodes"].as_u64().expect("a number"))
            .sum()
    };
    let before = inodes(&maker);
    for number in 0..64 {
        file(&maker, &format!("/d/other-{number}"), &content);
        maker.remove_file(format!("/d/other-{number}")).expect("unlink");
    }
    hayate_tests::until("others are removed", || inodes(&maker) <= before);
    for (server, file) in files.iter().enumerate() {
        assert!(file.read_bytes_at(1 << 20, 0).expect("read") == content, "on node {server}");
    }
    assert!(late.iter().all(|client| client.stat("/d/f").is_err()));
}

/// Who made a small file, and its home.
fn put_before(cluster: &Cluster) -> (Client, u16) {
    let maker = cluster.strict_client(Route::Owners);
    maker.mkdir_path("/d", 0o755).expect("mkdir");
    let home = owner(cluster, maker.put("/d/f", b"before", 0o644).expect("put").ino);
    (maker, home)
}

/// Method: a home ends, and comes back at once, with answers of it kept everywhere; what is put then is what everybody reads.
#[test]
fn a_restarted_home_waits_for_what_it_lent_before() {
    let mut cluster = cluster(SERVERS);
    let (maker, home) = put_before(&cluster);
    let clients: Vec<_> = (0..SERVERS).filter(|id| *id != home).map(|id| on_node(&cluster, id)).collect();
    let get = |client: &Client| client.get("/d/f").expect("get");
    for round in 0..5 {
        heat_by(&maker, &clients, |client| drop(get(client)));
        let heated = Instant::now();
        cluster.restart(home);
        let content = format!("after {round}");
        maker.put("/d/f", content.as_bytes(), 0o644).expect("put");
        for client in &clients {
            assert_eq!(get(client), content.as_bytes());
        }
        if heated.elapsed() < LEASE_HELD + Duration::from_secs(1) {
            return;
        }
        // The machine is so slow that the leases were over.
    }
}

/// Method: a server that keeps answers ends; a change waits for its lease, and not longer.
#[test]
fn a_server_that_ended_delays_a_change_of_names_by_its_lease() {
    let mut cluster = cluster(SERVERS);
    let (maker, home) = put_before(&cluster);
    let dir = maker.stat("/d").expect("stat").ino;
    let homes = [home, owner(&cluster, InodeId::ROOT), owner(&cluster, dir)];
    let gone = (0..SERVERS).find(|id| !homes.contains(id)).expect("a server that is the home of none of it");
    let clients = nodes(&cluster);
    heat_by(&maker, &clients, |client| drop(client.get("/d/f").expect("get")));
    cluster.stop(gone);
    let began = Instant::now();
    maker.put("/d/f", b"after", 0o644).expect("put");
    assert!(began.elapsed() < LEASE_HELD * 4, "{:?}", began.elapsed());
    for (server, client) in clients.iter().enumerate().filter(|(server, _)| *server != usize::from(gone)) {
        assert_eq!(client.get("/d/f").expect("get"), &b"after"[..], "on node {server}");
    }
    cluster.restart(gone);
}
