//! Goal: locks of files hold between clients, are waited for, and go with their holder; nothing is lost by a server's restart.
//! Method: several clients of one cluster in this process, each with an event loop of its own for what waits.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use fs_client::{
    Client, ClientConfig, File, LOCK_END, LockFailure, LockFamily, LockKind, LockRange, LockWish, Locked,
    OpenOptions,
};
use fs_server::ServerConfig;
use hayate_tests::{Cluster, ClusterOptions, DEADLINE, until};

const BOTH: OpenOptions = OpenOptions {
    read: true,
    write: true,
    create: true,
    create_new: false,
    truncate: false,
    append: false,
    mode: 0o644,
};

fn wish(owner: u64, first: u64, last: u64, kind: LockKind) -> LockWish {
    LockWish { family: LockFamily::Posix, owner, range: LockRange { first, last }, kind, pid: 1 }
}

fn whole(owner: u64) -> LockWish {
    wish(owner, 0, LOCK_END, LockKind::Write)
}

fn open(client: &Client, path: &str) -> File {
    client.open_path(path, &BOTH).expect("open")
}

fn is_had(locked: &fs_client::Result<Locked>) -> bool {
    matches!(locked, Ok(Locked::Yes { .. }))
}

fn unlock(file: &File, owner: u64) {
    file.unlock(LockFamily::Posix, owner, LockRange::ALL).expect("unlock");
}

/// Waits on a thread of its own; what became of it comes by the channel.
fn wait_for(file: &File, wish: LockWish) -> mpsc::Receiver<fs_client::Result<Locked>> {
    let (tell, told) = mpsc::channel();
    let file = file.clone();
    std::thread::spawn(move || tell.send(file.lock(&wish)));
    told
}

/// A network between a client and the servers that can be cut: what goes through it ends then, and nothing new gets through.
struct Wire {
    cut: Arc<AtomicBool>,
    ports: Vec<u16>,
}

impl Wire {
    fn new(cluster: &Cluster) -> Wire {
        let cut = Arc::new(AtomicBool::new(false));
        let ports = cluster.file().members.iter().map(|member| listen(member.tcp.clone(), cut.clone()));
        Wire { ports: ports.collect(), cut }
    }

    fn cut(&self, cut: bool) {
        self.cut.store(cut, Ordering::Release);
    }

    fn client(&self, cluster: &Cluster) -> Client {
        let mut file = cluster.file().clone();
        for (member, port) in file.members.iter_mut().zip(&self.ports) {
            (member.host, member.tcp) = ("elsewhere".to_owned(), format!("127.0.0.1:{port}"));
        }
        Client::connect(ClientConfig::new(file)).expect("a client connects")
    }
}

/// Passes connections on; answers the port.
fn listen(to: String, cut: Arc<AtomicBool>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("its number").port();
    std::thread::spawn(move || {
        for near in listener.incoming().map_while(Result::ok) {
            if cut.load(Ordering::Acquire) {
                continue;
            }
            let Ok(far) = TcpStream::connect(&to) else { continue };
            for (from, to) in [(near.try_clone(), far.try_clone()), (far.try_clone(), near.try_clone())] {
                let (Ok(from), Ok(to), cut) = (from, to, cut.clone()) else { continue };
                std::thread::spawn(move || pass(from, to, &cut));
            }
        }
    });
    port
}

fn pass(mut from: TcpStream, mut to: TcpStream, cut: &AtomicBool) {
    from.set_read_timeout(Some(Duration::from_millis(50))).expect("a time-out");
    let mut bytes = vec![0; 64 << 10];
    while !cut.load(Ordering::Acquire) {
        match from.read(&mut bytes) {
            Ok(0) => break,
            Ok(len) if to.write_all(&bytes[..len]).is_ok() => {}
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Ok(_) | Err(_) => break,
        }
    }
    let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}

fn impatient(config: &mut ServerConfig) {
    config.lock_lease_ms = 2_000;
}

#[test]
fn ranges_exclude_each_other_between_clients() {
    let cluster = Cluster::start(3);
    let (one, two) = (cluster.client(), cluster.client());
    let (a, b) = (open(&one, "/f"), open(&two, "/f"));
    assert!(is_had(&a.try_lock(&wish(1, 0, 9, LockKind::Write))));
    let Ok(Locked::Busy(held)) = b.try_lock(&wish(1, 5, 20, LockKind::Read)) else { panic!("it is held") };
    assert_eq!((held.range.first, held.range.last, held.kind), (0, 9, LockKind::Write));
    assert!(is_had(&b.try_lock(&wish(1, 10, 20, LockKind::Read))));
    assert!(is_had(&a.try_lock(&wish(1, 10, 20, LockKind::Read))));
    let found = a.test_lock(&wish(1, 10, 10, LockKind::Write)).unwrap();
    assert!(found.is_some_and(|(held, own)| held.range.first == 10 && !own));
    // The families do not see each other.
    let flock = LockWish { family: LockFamily::Flock, ..whole(7) };
    assert!(is_had(&b.try_lock(&flock)) && matches!(a.try_lock(&flock), Ok(Locked::Busy(_))));
    unlock(&a, 1);
    assert!(is_had(&b.try_lock(&whole(1))));
}

#[test]
fn who_locks_next_sees_what_was_written() {
    let cluster = Cluster::start(3);
    let (one, two) = (cluster.client(), cluster.client());
    for (path, size) in [("/small", 100), ("/large", 300_000)] {
        let files = [open(&one, path), open(&two, path)];
        for round in 0..20usize {
            let file = &files[round % 2];
            assert!(is_had(&file.lock(&whole(1))));
            let end = round * size;
            assert_eq!(file.attr().unwrap().size, end as u64, "{path}: the size after {round} rounds");
            let mut last = vec![0; size];
            if round > 0 {
                file.read_at(&mut last, (end - size) as u64).unwrap();
                assert!(last.iter().all(|byte| *byte == round as u8), "{path}: bytes of round {round}");
            }
            file.write_at(&vec![round as u8 + 1; size], end as u64).unwrap();
            unlock(file, 1);
        }
    }
}

#[test]
fn a_grant_says_whether_the_content_changed() {
    let cluster = Cluster::start(2);
    let (one, two) = (cluster.client(), cluster.client());
    let (a, b) = (open(&one, "/f"), open(&two, "/f"));
    a.set_copied(a.attr().unwrap().version);
    a.lock(&whole(1)).unwrap();
    a.write_at(b"mine", 0).unwrap();
    unlock(&a, 1);
    assert_eq!(a.lock(&whole(1)).unwrap(), Locked::Yes { changed: None }, "only it wrote");
    unlock(&a, 1);
    b.lock(&whole(1)).unwrap();
    b.write_at(b"other", 0).unwrap();
    unlock(&b, 1);
    let grant = a.lock(&whole(1)).unwrap();
    let Locked::Yes { changed: Some(version) } = grant else { panic!("{grant:?}") };
    unlock(&a, 1);
    assert_eq!(a.lock(&whole(1)).unwrap(), grant, "the copy is not renewed yet, and others must know");
    unlock(&a, 1);
    a.set_copied(version);
    assert_eq!(a.lock(&whole(1)).unwrap(), Locked::Yes { changed: None });
    unlock(&a, 1);
    let again = open(&one, "/f");
    a.set_copied(version - 1);
    assert_eq!(
        again.lock(&whole(2)).unwrap(),
        Locked::Yes { changed: None },
        "a late word of an older version"
    );
    let (c, size) = (open(&cluster.client(), "/f"), a.attr().unwrap().size);
    unlock(&again, 2);
    assert!(
        matches!(c.lock(&whole(3)).unwrap(), Locked::Yes { changed: Some(_) }),
        "nothing is known of its copy"
    );
    assert_eq!(size, 5);
}

#[test]
fn waiting_ends_in_the_order_of_coming() {
    let cluster = Cluster::start(2);
    let holder = cluster.client();
    let file = open(&holder, "/f");
    assert!(is_had(&file.lock(&whole(1))));
    let clients: Vec<Client> = (0..4).map(|_| cluster.client()).collect();
    let files: Vec<File> = clients.iter().map(|client| open(client, "/f")).collect();
    let mut waits = Vec::new();
    for (number, file) in files.iter().enumerate() {
        waits.push(wait_for(file, whole(1)));
        until("it is in the queue", || waiting(&cluster) == number as u64 + 1);
    }
    unlock(&file, 1);
    for (number, told) in waits.iter().enumerate() {
        assert!(is_had(&told.recv_timeout(DEADLINE).expect("its turn")), "number {number}");
        assert!(waits[number + 1..].iter().all(|later| later.try_recv().is_err()), "number {number} alone");
        unlock(&files[number], 1);
    }
}

/// Requests that wait, over all servers.
fn waiting(cluster: &Cluster) -> u64 {
    let client = cluster.client();
    let all = cluster.file().members.iter().map(|member| {
        let status = client.server_status(member.id).expect("its state");
        let status: serde_json::Value = serde_json::from_str(&status).expect("JSON");
        status["locks_waiting"].as_u64().expect("a number")
    });
    all.sum()
}

#[test]
fn two_that_wait_for_each_other_are_told() {
    let cluster = Cluster::start(2);
    let (one, two) = (cluster.client(), cluster.client());
    let (a, b) = (open(&one, "/f"), open(&two, "/f"));
    assert!(is_had(&a.lock(&wish(1, 0, 0, LockKind::Write))));
    assert!(is_had(&b.lock(&wish(1, 1, 1, LockKind::Write))));
    let waits = wait_for(&a, wish(1, 1, 1, LockKind::Write));
    until("it is in the queue", || waiting(&cluster) == 1);
    let refused = b.lock(&wish(1, 0, 0, LockKind::Write)).unwrap_err();
    assert!(matches!(refused, fs_client::Error::Lock(LockFailure::Deadlock)), "{refused}");
    assert_eq!(refused.errno(), libc::EDEADLK);
    unlock(&b, 1);
    assert!(is_had(&waits.recv_timeout(DEADLINE).expect("its turn")));
}

#[test]
fn giving_up_leaves_nothing_behind() {
    let cluster = Cluster::start(2);
    let (one, two) = (cluster.client(), cluster.client());
    let (a, b) = (open(&one, "/f"), open(&two, "/f"));
    assert!(is_had(&a.lock(&whole(1))));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let given_up = tokio::task::LocalSet::new().block_on(&runtime, async {
        let core = two.core().unwrap();
        let soon = async {
            tokio::time::sleep(Duration::from_millis(100)).await;
        };
        b.lock_on(&core, &whole(1), soon).await
    });
    assert_eq!(given_up.unwrap(), Locked::GivenUp);
    assert_eq!(waiting(&cluster), 0);
    unlock(&a, 1);
    assert!(is_had(&a.try_lock(&whole(1))));
}

#[test]
fn closing_a_file_gives_its_locks_back() {
    let cluster = Cluster::start(2);
    let (one, two) = (cluster.client(), cluster.client());
    let (a, b) = (open(&one, "/f"), open(&two, "/f"));
    assert!(is_had(&a.lock(&whole(1))));
    a.close().unwrap();
    assert!(is_had(&b.try_lock(&whole(1))));
}

#[test]
fn a_client_that_is_silent_loses_its_locks_and_learns_it() {
    let cluster = Cluster::configured(ClusterOptions { servers: 2, ..ClusterOptions::default() }, impatient);
    let (wire, two) = (Wire::new(&cluster), cluster.client());
    let one = wire.client(&cluster);
    let (a, b) = (open(&one, "/f"), open(&two, "/f"));
    assert!(is_had(&a.lock(&whole(1))));
    wire.cut(true);
    assert!(is_had(&b.lock(&whole(1))), "when the lease is over");
    wire.cut(false);
    until("it learns it", || a.write_at(b"x", 0).is_err_and(|e| e.errno() == libc::EIO));
    assert!(a.read_at(&mut [0], 0).is_err_and(|e| e.errno() == libc::EIO));
    unlock(&a, 1);
    a.write_at(b"x", 0).expect("who has unlocked goes on");
    unlock(&b, 1);
    assert!(is_had(&a.try_lock(&whole(1))));
}

#[test]
fn a_restarted_server_gets_its_locks_back() {
    let mut cluster =
        Cluster::configured(ClusterOptions { servers: 2, ..ClusterOptions::default() }, impatient);
    let (one, two) = (cluster.client(), cluster.client());
    let paths = ["/f0", "/f1", "/f2", "/f3", "/f4"];
    let a: Vec<File> = paths.iter().map(|path| open(&one, path)).collect();
    let b: Vec<File> = paths.iter().map(|path| open(&two, path)).collect();
    for file in &a {
        assert!(is_had(&file.lock(&whole(1))));
    }
    let waits: Vec<_> = b.iter().map(|file| wait_for(file, whole(1))).collect();
    until("they are in the queue", || waiting(&cluster) == 5);
    (0..2).for_each(|id| cluster.restart(id));
    // Asked at once after the restart: it has to wait until the holder has claimed, and is refused then.
    let third = cluster.client();
    for path in paths {
        assert!(matches!(open(&third, path).try_lock(&whole(1)), Ok(Locked::Busy(_))), "{path}");
    }
    for (file, told) in a.iter().zip(&waits) {
        assert!(told.try_recv().is_err());
        file.write_at(b"still mine", 0).unwrap();
        unlock(file, 1);
        assert!(is_had(&told.recv_timeout(DEADLINE).expect("its turn")));
    }
}
