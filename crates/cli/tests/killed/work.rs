//! What clients do until they are killed, and how they are started.

use super::common::{Sandbox, pattern};
use super::network::Network;
use fs_client::{
    Caller, Client, ClientConfig, Error, File, LockFamily, LockKind, LockRange, LockWish, OpenOptions,
};
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// The cluster file, for a process that is a client.
const CHILD: &str = "HAYATE_TEST_KILLED";
/// What a client says when it is connected.
const AT_WORK: &str = "at work";
const SHARED_BYTES: usize = 4 << 20;
const SMALL_FILES: usize = 20;
/// Large files that are written: several clients each, so that a thousand of them do not fill the store.
const LARGE_FILES: u32 = 16;
const TRANSPORTS: [&str; 3] = ["shm", "unix", "tcp"];

/// Whether this process was started as a client: then it has no other tests.
pub fn is_child() -> bool {
    std::env::var_os(CHILD).is_some()
}

/// What all clients use.
pub fn prepare(sandbox: &Sandbox) {
    let client = sandbox.client();
    for dir in ["/own", "/many"] {
        client.mkdir_path(dir, 0o755).unwrap();
    }
    client.put("/shared", &pattern(SHARED_BYTES), 0o644).unwrap();
    for number in 0..SMALL_FILES {
        client.put(format!("/small-{number}"), b"a small one", 0o644).unwrap();
    }
}

/// Client number `number`: each number another way to the servers.
pub fn spawn(sandbox: &Sandbox, number: usize) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.env("HAYATE_TRANSPORT", TRANSPORTS[number % TRANSPORTS.len()]);
    if number % 2 == 1 {
        command.env("HAYATE_GATEWAY", (number / 2 % super::SERVERS).to_string());
    }
    start(command, sandbox)
}

/// A client at the other end of a network.
pub fn spawn_in(sandbox: &Sandbox, network: &Network) -> Child {
    let mut command = network.program(&std::env::current_exe().unwrap());
    command.env("HAYATE_TRANSPORT", "tcp");
    start(command, sandbox)
}

fn start(mut command: Command, sandbox: &Sandbox) -> Child {
    command
        .args(["--exact", "a_client_that_works_for_ever", "--nocapture"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    sandbox.environment(&mut command);
    command.env(CHILD, sandbox.path("c.toml")).spawn().unwrap()
}

pub fn wait_until_at_work(child: &mut Child) {
    let mut said = BufReader::new(child.stdout.take().unwrap());
    let found = said.by_ref().lines().map_while(Result::ok).any(|line| line == AT_WORK);
    // Left open: the harness of a client ends it when it cannot say that it takes long.
    child.stdout = Some(said.into_inner());
    assert!(found, "a client does not connect");
}

type Work = fn(&Client, u64) -> Result<(), Error>;

/// The client process.
pub fn for_ever_if_told() {
    let Some(file) = std::env::var_os(CHILD) else { return };
    let client = Client::connect(ClientConfig::load(Path::new(&file)).unwrap()).unwrap();
    // The first lock is had before it is said.
    let locked = open(&client, "/shared").unwrap();
    locked.try_lock(&wish(u64::from(std::process::id()), 1 << 40)).unwrap();
    println!("\n{AT_WORK}");
    let works: [Work; 4] = [write_and_read, open_and_close, lock, names];
    std::thread::scope(|scope| {
        for work in works {
            let client = &client;
            scope.spawn(move || {
                for round in 0.. {
                    // Whoever is killed meanwhile may hold what another needs: nothing has to succeed.
                    let _ = work(client, round);
                }
            });
        }
    });
}

fn open(client: &Client, path: &str) -> Result<File, Error> {
    client.open_path(path, &OpenOptions { read: true, write: true, create: true, ..OpenOptions::default() })
}

fn wish(owner: u64, first: u64) -> LockWish {
    let range = LockRange { first, last: first + 9 };
    LockWish { family: LockFamily::Posix, owner, range, kind: LockKind::Write, pid: std::process::id() }
}

fn write_and_read(client: &Client, round: u64) -> Result<(), Error> {
    let large = open(client, &format!("/own/{}", std::process::id() % LARGE_FILES))?;
    let data = pattern([10, 20_000, 1 << 20, 5 << 20][round as usize % 4]);
    large.write_at(&data, round % 7 * 100_000)?;
    client.open_path("/shared", &OpenOptions::read_only())?.read_bytes_at(SHARED_BYTES, 0)?;
    large.sync()?;
    large.close()
}

fn open_and_close(client: &Client, round: u64) -> Result<(), Error> {
    let files: Result<Vec<File>, Error> =
        (0..SMALL_FILES).map(|number| open(client, &format!("/small-{number}"))).collect();
    for (number, file) in files?.into_iter().enumerate() {
        if (number as u64 + round).is_multiple_of(3) {
            file.write_at(b"another", 0)?;
        }
        file.close()?;
    }
    Ok(())
}

/// Ten ranges, which all clients want: some wait.
fn lock(client: &Client, round: u64) -> Result<(), Error> {
    let (file, owner) = (open(client, "/shared")?, 7);
    let wish = wish(owner, round % 10 * 10);
    if round.is_multiple_of(2) {
        file.lock(&wish)?
    } else {
        file.try_lock(&wish)?
    };
    file.write_at(b"locked", wish.range.first)?;
    file.unlock(LockFamily::Posix, owner, wish.range)?;
    file.close()
}

fn names(client: &Client, round: u64) -> Result<(), Error> {
    let (dir, me) = (client.stat("/many")?.ino, std::process::id());
    let names: Vec<String> = (0..30).map(|number| format!("{me}-{round}-{number}")).collect();
    let content = pattern(2_000);
    let files: Vec<(&[u8], &[u8])> = names.iter().map(|name| (name.as_bytes(), &content[..])).collect();
    client.put_many(&Caller::ROOT, dir, &files, 0o644)?;
    let paths: Vec<&[u8]> = names.iter().map(String::as_bytes).collect();
    client.get_many(&Caller::ROOT, dir, &paths)?;
    client.rename_path(format!("/many/{}", names[0]), format!("/own/{}", names[0]))?;
    client.read_dir_plus("/many")?.count();
    for name in &names[1..] {
        client.remove_file(format!("/many/{name}"))?;
    }
    Ok(())
}

/// One client after all: everything that they locked, wrote and named can be had, and what none of them wrote is unchanged.
pub fn assert_usable(sandbox: &Sandbox) {
    let client = sandbox.client();
    let file = open(&client, "/shared").unwrap();
    let whole = LockWish { range: LockRange::ALL, ..wish(1, 0) };
    assert!(matches!(file.try_lock(&whole).unwrap(), fs_client::Locked::Yes { .. }), "a lock of the dead");
    let found = file.read_bytes_at(SHARED_BYTES, 0).unwrap();
    assert!(found[200..] == pattern(SHARED_BYTES)[200..], "what nobody wrote is changed");
    file.close().unwrap();
    for entry in client.read_dir_plus("/many").unwrap() {
        let name = String::from_utf8(entry.unwrap().name.to_vec()).unwrap();
        assert!(client.get(format!("/many/{name}")).unwrap() == pattern(2_000), "{name}");
    }
}

/// Writes, reads and opens by a client of this node, as often as it can; answers how often.
pub fn rounds_until(sandbox: &Sandbox, over: &AtomicBool) -> usize {
    let client = sandbox.client();
    let client = client.within(Duration::from_secs(10));
    let data = pattern(1 << 20);
    let mut rounds = 0;
    while !over.load(Ordering::Relaxed) {
        let file = open(&client, "/other").unwrap();
        file.write_at(&data, 0).unwrap();
        assert!(file.read_bytes_at(data.len(), 0).unwrap() == data);
        file.close().unwrap();
        rounds += 1;
        std::thread::sleep(Duration::from_millis(50));
    }
    rounds
}
