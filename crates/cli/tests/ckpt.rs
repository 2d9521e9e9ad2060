//! Goal: checkpoints survive what kills processes and disks, and the command shows, checks and exports them. Method: servers as processes, killed by
//! SIGKILL, their stores deleted; ranks as processes (this test started again), killed by SIGKILL while the servers flush.

mod common;

use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

use common::{Sandbox, kill, pattern, wait_until};
use fs_client::{Client, ClientConfig};
use libio::{Checkpoints, Level, Options, Redundancy, State};
use rustix::process::Signal;

const MIB: usize = 1 << 20;
const SET: &str = "set";

fn checkpoints(sandbox: &Sandbox) -> Checkpoints {
    let mut config = ClientConfig::load(&sandbox.path("c.toml")).unwrap();
    config.timeout = Duration::from_secs(5);
    Checkpoints::open(Client::connect(config).unwrap(), "/checkpoints").unwrap().with_group("test")
}

fn content(version: u64, rank: u32) -> Vec<u8> {
    let mut content = pattern(4 * MIB + 99);
    for byte in &mut content {
        *byte ^= (version * 16 + u64::from(rank)) as u8;
    }
    content
}

fn save(checkpoints: &Checkpoints, version: u64, redundancy: Redundancy, flush: &str) {
    let options = Options { redundancy, flush: Some(flush.to_owned()), ..Options::default() };
    let writers: Vec<_> = (0..2)
        .map(|rank| {
            let mut writer = checkpoints.begin_with(SET, version, rank, 2, &options).unwrap();
            writer.write(&format!("field.{rank}"), &content(version, rank), 0).unwrap();
            writer
        })
        .collect();
    for writer in writers {
        writer.seal(true).unwrap();
    }
}

fn assert_whole(checkpoints: &Checkpoints, version: u64) {
    let snapshot = checkpoints.snapshot(SET, version).unwrap();
    for rank in 0..2 {
        let mut found = vec![0; 4 * MIB + 99];
        snapshot.read(&format!("field.{rank}"), 0, &mut found).unwrap();
        assert!(found == content(version, rank), "version {version}, rank {rank}");
    }
}

/// SIGKILL of a server, and its store deleted.
fn kill_and_wipe(sandbox: &Sandbox, server: usize) {
    sandbox.kill_server(server);
    for store in sandbox.members("stores")[server].as_array().unwrap() {
        fs::remove_dir_all(store.as_str().unwrap()).unwrap();
    }
}

#[test]
fn a_server_is_killed_and_its_store_deleted() {
    for (redundancy, victim) in [(Redundancy::Copies(1), 0), (Redundancy::Parity { data: 2, extra: 1 }, 2)] {
        let sandbox = Sandbox::new();
        sandbox.up(&["--nodes", "4"]);
        let before = checkpoints(&sandbox);
        save(&before, 1, redundancy, "close");
        // A second version is being written when the server dies.
        let options = Options { redundancy, ..Options::default() };
        let mut open = before.begin_with(SET, 2, 0, 2, &options).unwrap();
        open.write("field.0", &content(2, 0), 0).unwrap();
        kill_and_wipe(&sandbox, victim);
        assert_eq!(checkpoints(&sandbox).latest(SET).unwrap(), Some(1), "{redundancy:?}");
        assert_whole(&checkpoints(&sandbox), 1);
        // Rank 1 never comes, and rank 0 may or may not reach what it needs: the old version stays the newest.
        drop(open.seal(true));
        assert_eq!(checkpoints(&sandbox).latest(SET).unwrap(), Some(1), "{redundancy:?}");
    }
}

/// As a rank of its own process: see [`ranks_are_killed_during_the_flush`].
#[test]
fn child() {
    let Ok(cluster) = std::env::var("HAYATE_TEST_CHILD") else { return };
    let client = Client::connect(ClientConfig::load(cluster.as_ref()).unwrap()).unwrap();
    let checkpoints = Checkpoints::open(client, "/checkpoints").unwrap();
    save(&checkpoints, 1, Redundancy::None, "close");
    println!("committed");
    loop {
        std::thread::park();
    }
}

/// Files of regions that are in the tier.
fn regions(sandbox: &Sandbox) -> usize {
    let attempts = fs::read_dir(sandbox.path("tier/checkpoints/set/data")).into_iter().flatten().flatten();
    let files = attempts.flat_map(|attempt| [0, 1].map(|rank| attempt.path().join(format!("r{rank}/0"))));
    files.filter(|file| file.exists()).count()
}

#[test]
fn ranks_are_killed_during_the_flush() {
    let sandbox = Sandbox::new();
    // Slow enough that the flush is under way: 9 MB at 4 MB/s.
    sandbox.up(&["--nodes", "2", "--tier", &sandbox.word("tier"), "--flush-bandwidth", "4M"]);
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "child", "--nocapture"]).env("HAYATE_TEST_CHILD", sandbox.path("c.toml"));
    sandbox.environment(&mut child);
    let mut child = child.stdout(Stdio::null()).spawn().unwrap();
    let watcher = checkpoints(&sandbox);
    wait_until("a part of the version is in the tier", || {
        watcher.latest(SET).unwrap() == Some(1) && regions(&sandbox) > 0
    });
    kill(child.id(), Signal::KILL);
    child.wait().unwrap();
    assert_eq!(
        watcher.state(SET, 1).unwrap(),
        State::Committed,
        "the kill came after the flush: this run shows nothing"
    );
    watcher.wait(SET, 1, Level::Durable, common::PATIENCE).unwrap();
    // All of tier 1 goes; the next cluster restarts from the shared tier.
    sandbox.ok(&["down", "--discard"]);
    sandbox.up(&["--nodes", "3", "--tier", &sandbox.word("tier")]);
    let next = checkpoints(&sandbox);
    assert_eq!(next.latest(SET).unwrap(), Some(1));
    assert_whole(&next, 1);
    sandbox.ok(&["down"]);
}

#[test]
fn the_command_shows_checks_and_exports() {
    let sandbox = Sandbox::new();
    sandbox.up(&["--nodes", "2"]);
    let checkpoints = checkpoints(&sandbox);
    assert_eq!(sandbox.ok(&["ckpt", "list"]).lines().count(), 1, "a header");
    sandbox.fails(1, &["ckpt", "show", SET], &["no version to restart from"]);
    for version in 1..=4 {
        save(&checkpoints, version, Redundancy::None, "never");
    }
    drop(checkpoints.begin(SET, 5, 0, 1).unwrap());
    sandbox.ok(&["ckpt", "pin", SET, "1"]);
    let list = sandbox.ok(&["ckpt", "list"]);
    let rows: Vec<Vec<&str>> = list.lines().skip(1).map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(rows.len(), 5, "{list}");
    assert_eq!((rows[0][1..3].join(" "), rows[0].last()), ("1 committed".to_owned(), Some(&"yes")), "{list}");
    assert_eq!(rows[4][1..3].join(" "), "5 aborted", "{list}");
    assert!(sandbox.ok(&["ckpt", "prune", SET, "--keep", "1"]).contains("removed: 2, 3"));
    sandbox.ok(&["ckpt", "pin", SET, "1", "--off"]);
    assert!(sandbox.ok(&["ckpt", "show", SET]).contains("set 4: committed, 2 ranks"));
    assert!(sandbox.ok(&["ckpt", "verify", SET]).contains("set 4: whole"));
    let out = sandbox.word("out");
    sandbox.ok(&["ckpt", "export", SET, "4", &out]);
    assert!(fs::read(sandbox.path("out/field.1")).unwrap() == content(4, 1));
    sandbox.fails(1, &["ckpt", "export", SET, "4", &out], &["out"]);
    sandbox.fails(1, &["ckpt", "show", SET, "9"], &["version 9"]);
    // Damage is told, of each version.
    let data = sandbox.ok(&["ls", "/checkpoints/set/data"]);
    let attempt = data.split_whitespace().find(|name| name.contains("4.000001-")).unwrap().to_owned();
    fs::write(sandbox.path("wrong"), pattern(4 * MIB + 99)).unwrap();
    let field = format!("h:/checkpoints/set/data/{attempt}/r1/0");
    sandbox.ok(&["cp", &sandbox.word("wrong"), &field]);
    sandbox.fails(3, &["ckpt", "verify", SET], &["not whole: set 4"]);
    sandbox.ok(&["down", "--discard"]);
}
