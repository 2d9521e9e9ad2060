//! Goal: a client keeps to its `--client-memory`, a process with the library as well as a mount, whatever is asked of it at once: much parallel I/O, as many open
//! files as it says that it may have, a large directory with all its attributes.
//! Method: real servers and processes (this program again, as a client; `hayate mount`), whose anonymous memory the kernel tells every few
//! milliseconds. `bench/limits.py --only client` measures the same with more.

mod common;

use common::{Sandbox, can_mount, skip};
use fs_client::{Caller, Client, ClientConfig, Error, File, OpenOptions};
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier};
use std::thread::JoinHandle;
use std::time::Duration;

const MEMORY: usize = 32 << 20;
/// What a client may have besides: code's data, threads, connections, and what the allocator keeps.
const BESIDES: u64 = 16 << 20;
const THREADS: usize = 24;
const PIECE: usize = 4 << 20;
const PIECES: usize = 3;
const READ: usize = 256 << 10;
/// Close to what an eighth of [`MEMORY`] has room for.
const OPEN: usize = 6_000;
const NAMES: usize = 20_000;
const CHILD: &str = "HAYATE_TEST_CLIENT_MEMORY";
const WORK: &str = "HAYATE_TEST_CLIENT_WORK";
const DONE: &str = "done";

/// The most anonymous memory that a process has had since.
struct Watch {
    over: Arc<AtomicBool>,
    thread: JoinHandle<u64>,
}

impl Watch {
    fn begin(pid: u32) -> Watch {
        let over = Arc::new(AtomicBool::new(false));
        let is_over = Arc::clone(&over);
        let thread = std::thread::spawn(move || {
            let mut most = 0;
            while !is_over.load(Ordering::Relaxed) {
                most = most.max(common::memory_of(pid, "RssAnon").unwrap_or(0));
                std::thread::sleep(Duration::from_millis(5));
            }
            most
        });
        Watch { over, thread }
    }

    fn end(self, what: &str) {
        self.over.store(true, Ordering::Relaxed);
        let most = self.thread.join().unwrap();
        println!("{what}: at most {:.1} MiB", most as f64 / f64::from(1 << 20));
        assert!(most > 1 << 20, "{what}: the process was not looked at");
        assert!(most <= MEMORY as u64 + BESIDES, "{what}: {most} bytes of a budget of {MEMORY}");
    }
}

/// Not a test of its own: a client process that does one kind of work.
#[test]
fn a_client_with_a_budget() {
    let (Some(file), Ok(work)) = (std::env::var_os(CHILD), std::env::var(WORK)) else { return };
    let mut config = ClientConfig::load(Path::new(&file)).unwrap();
    config.memory_bytes = MEMORY;
    let client = Client::connect(config).unwrap();
    match work.as_str() {
        "io" => parallel(|number, data| native_io(&client, number, data)),
        "opens" => native_opens(&client),
        _ => native_names(&client),
    }
    println!("\n{DONE}");
}

fn parallel(one: impl Fn(usize, &[u8]) + Sync) {
    let (ready, data) = (Barrier::new(THREADS), common::pattern(PIECE));
    std::thread::scope(|scope| {
        for number in 0..THREADS {
            let (one, ready, data) = (&one, &ready, &data);
            scope.spawn(move || {
                ready.wait();
                one(number, data);
            });
        }
    });
}

fn native_io(client: &Client, number: usize, data: &[u8]) {
    let options = OpenOptions { read: true, ..OpenOptions::create_truncate() };
    let file = client.open_path(format!("/io-{number}"), &options).unwrap();
    for piece in 0..PIECES {
        file.write_at(data, (piece * PIECE) as u64).unwrap();
    }
    // Into memory of its own, so that what is counted is the library's but for a little.
    let mut found = vec![0; READ];
    for at in (0..PIECES * PIECE).step_by(READ) {
        assert_eq!(file.read_at(&mut found, at as u64).unwrap(), READ);
        assert!(found == data[at % PIECE..][..READ]);
    }
    file.close().unwrap();
}

/// As many as it may, and what it says then.
fn native_opens(client: &Client) {
    client.mkdir_path("/opens", 0o755).unwrap();
    let options = OpenOptions { read: true, create: true, ..OpenOptions::default() };
    let open = |number: usize| client.open_path(format!("/opens/{number}"), &options);
    let mut files: Vec<File> = (0..OPEN).map(|number| open(number).unwrap()).collect();
    let refused = loop {
        match open(files.len()) {
            Ok(file) if files.len() < 2 * OPEN => files.push(file),
            other => break other.err(),
        }
    };
    assert!(matches!(refused, Some(Error::Limit { .. })), "it has no limit: {refused:?}");
    for file in files {
        file.close().unwrap();
    }
}

fn native_names(client: &Client) {
    make_names(client);
    for _ in 0..2 {
        assert_eq!(client.read_dir_plus("/names").unwrap().map(Result::unwrap).count(), NAMES);
    }
    for number in 0..NAMES {
        client.stat(name(number)).unwrap();
    }
}

fn name(number: usize) -> String {
    format!("/names/an-entry-of-many-{number}")
}

fn make_names(client: &Client) {
    let dir = client.mkdir_path("/names", 0o755).unwrap().ino;
    for first in (0..NAMES).step_by(100) {
        let names: Vec<String> = (first..first + 100).map(name).collect();
        let files: Vec<(&[u8], &[u8])> =
            names.iter().map(|name| (&name.as_bytes()["/names/".len()..], &b""[..])).collect();
        for made in client.put_many(&Caller::ROOT, dir, &files, 0o644).unwrap() {
            made.unwrap();
        }
    }
}

fn spawn(sandbox: &Sandbox, work: &str) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "a_client_with_a_budget", "--nocapture"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    sandbox.environment(&mut command);
    command.env(CHILD, sandbox.path("c.toml")).env(WORK, work).spawn().unwrap()
}

#[test]
fn a_process_keeps_to_its_memory() {
    if std::env::var_os(CHILD).is_some() {
        return;
    }
    let sandbox = Sandbox::new();
    sandbox.up(&["--nodes", "2"]);
    for work in ["io", "opens", "names"] {
        let mut child = spawn(&sandbox, work);
        let watch = Watch::begin(child.id());
        // To its end, or the harness of the client could not say its last line.
        let said: Vec<String> =
            BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok).collect();
        assert!(said.iter().any(|line| line == DONE), "the client failed at {work}: {said:?}");
        watch.end(work);
        child.wait().unwrap();
    }
    sandbox.ok(&["down", "--discard"]);
}

#[test]
fn a_mount_keeps_to_its_memory() {
    if std::env::var_os(CHILD).is_some() || !can_mount() {
        return;
    }
    let sandbox = Sandbox::new();
    fs::create_dir(sandbox.path("m")).unwrap();
    sandbox.up(&["--nodes", "2"]);
    let client = sandbox.client();
    make_names(&client);
    sandbox.ok(&["mount", "--client-memory", &format!("{}M", MEMORY >> 20), "m"]);
    let mounts: Vec<_> =
        sandbox.processes().into_iter().filter(|(_, line)| line.contains(" mount ")).collect();
    let [(pid, _)] = mounts[..] else { panic!("{mounts:?}") };
    let top = sandbox.path("m");
    let watched = |what: &str, work: &dyn Fn()| {
        let watch = Watch::begin(pid);
        work();
        watch.end(what);
    };
    watched("io by a mount", &|| parallel(|number, data| mount_io(&top, number, data)));
    watched("names by a mount", &|| {
        for _ in 0..2 {
            let entries = fs::read_dir(top.join("names")).unwrap();
            let all: Vec<_> = entries.map(|entry| entry.unwrap().metadata().unwrap()).collect();
            assert_eq!(all.len(), NAMES);
        }
    });
    watched("open files by a mount", &|| mount_opens(&top));
    sandbox.ok(&["umount", "m"]);
    sandbox.ok(&["down", "--discard"]);
    sandbox.assert_nothing_left();
}

fn mount_io(top: &Path, number: usize, data: &[u8]) {
    let path = top.join(format!("io-{number}"));
    let file = fs::File::options().read(true).write(true).create(true).truncate(true).open(path).unwrap();
    for piece in 0..PIECES {
        file.write_all_at(data, (piece * PIECE) as u64).unwrap();
    }
    // From the client, not from the kernel's pages.
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
    let mut found = vec![0; PIECE];
    for piece in 0..PIECES {
        file.read_exact_at(&mut found, (piece * PIECE) as u64).unwrap();
        assert!(found == data);
    }
}

fn mount_opens(top: &Path) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    if limit.maximum.is_some_and(|most| most < OPEN as u64 + 500) {
        return skip::note(format!("no {OPEN} files may be open here (ulimit -Hn)"));
    }
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }).unwrap();
    fs::create_dir(top.join("opens")).unwrap();
    let files: Vec<fs::File> = (0..OPEN)
        .map(|number| fs::File::create(top.join("opens").join(number.to_string())).unwrap())
        .collect();
    drop(files);
}
