//! Goal: checkpoints survive what kills processes and disks, and the command shows, checks and exports them. Method: servers as processes, killed by
//! SIGKILL, their stores deleted; ranks as processes (this test started again), killed by SIGKILL while the servers flush.

mod common;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use common::versions::{SET, assert_whole, checkpoints, content};
use common::{Sandbox, kill, pattern, wait_until};
use fs_client::{Client, ClientConfig};
use libio::{Checkpoints, Error, Level, Options, Redundancy, State};
use rustix::process::Signal;

const MIB: usize = 1 << 20;

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
        // Of a second version rank 0 has sealed its part when the server dies. It comes back with nothing before rank 1 seals.
        let options = Options { redundancy, flush: Some("never".to_owned()), ..Options::default() };
        let [first, second] = [0, 1].map(|rank| {
            let mut writer = before.begin_with(SET, 2, rank, 2, &options).unwrap();
            writer.write(&format!("field.{rank}"), &content(2, rank), 0).unwrap();
            writer
        });
        let pending = first.seal(true).unwrap();
        kill_and_wipe(&sandbox, victim);
        assert_eq!(checkpoints(&sandbox).latest(SET).unwrap(), Some(1), "{redundancy:?}");
        assert_whole(&checkpoints(&sandbox), 1);
        restart_empty(&sandbox, &[victim]);
        assert!(second.seal(true).is_err(), "{redundancy:?}: what rank 0 sealed is gone");
        assert!(!pending.test().is_ok_and(|committed| committed), "{redundancy:?}");
        assert_eq!(checkpoints(&sandbox).latest(SET).unwrap(), Some(1), "{redundancy:?}");
        assert_whole(&checkpoints(&sandbox), 1);
    }
}

/// What `kill_and_wipe` took away, as after the exchange of a disk: the places are there, and empty.
fn restart_empty(sandbox: &Sandbox, servers: &[usize]) {
    for server in servers {
        for store in sandbox.members("stores")[*server].as_array().unwrap() {
            fs::create_dir_all(store.as_str().unwrap()).unwrap();
        }
    }
    sandbox.ok(&["up", "--restart"]);
}

/// Version 1 is in the shared tier, if there is one; version 2 can spare one server, and two are killed and lose their disks.
#[test]
fn more_servers_are_killed_than_can_be_spared() {
    for tier in [true, false] {
        let sandbox = Sandbox::new();
        let word = sandbox.word("tier");
        let words = ["--nodes", "4", "--tier", &word];
        sandbox.up(if tier { &words } else { &words[..2] });
        let before = checkpoints(&sandbox);
        save(&before, 1, Redundancy::Copies(1), "close");
        if tier {
            before.wait(SET, 1, Level::Durable, common::PATIENCE).unwrap();
        }
        save(&before, 2, Redundancy::Copies(1), "never");
        assert_eq!(before.latest(SET).unwrap(), Some(2));
        let victims = [1, 2];
        for victim in victims {
            kill_and_wipe(&sandbox, victim);
        }
        restart_empty(&sandbox, &victims);
        let after = checkpoints(&sandbox);
        match after.latest(SET) {
            Ok(Some(1)) if tier => assert_whole(&after, 1),
            // A copy of its manifest is at server 3.
            Err(Error::Lost { servers, .. }) if !tier => assert_eq!(servers, "1, 2"),
            other => panic!("tier {tier}: {other:?}"),
        }
        sandbox.ok(&["down", "--discard"]);
    }
}

/// One bit of each file of version 2 in the shared tier, one after the other, after tier 1 is gone: version 1 is used.
#[test]
fn a_flipped_bit_in_the_shared_tier_is_found_before_it_is_offered() {
    let sandbox = Sandbox::new();
    sandbox.up(&["--nodes", "2", "--tier", &sandbox.word("tier")]);
    let before = checkpoints(&sandbox);
    for version in [1, 2] {
        save(&before, version, Redundancy::None, "close");
        before.wait(SET, version, Level::Durable, common::PATIENCE).unwrap();
    }
    sandbox.ok(&["down", "--discard"]);
    let set = sandbox.path("tier/checkpoints/set");
    let attempts = fs::read_dir(set.join("data")).unwrap().map(|entry| entry.unwrap().path());
    let newest = attempts.max().unwrap();
    for file in [newest.join("r0/0"), newest.join("r1/seal"), set.join(format!("versions/{:020}", 2))] {
        let whole = fs::read(&file).unwrap();
        let mut flipped = whole.clone();
        let middle = flipped.len() / 2;
        flipped[middle] ^= 1;
        fs::write(&file, flipped).unwrap();
        sandbox.up(&["--nodes", "2", "--tier", &sandbox.word("tier")]);
        let next = checkpoints(&sandbox);
        assert_eq!(next.latest(SET).unwrap(), Some(1), "{}", file.display());
        assert_whole(&next, 1);
        sandbox.ok(&["down", "--discard"]);
        fs::write(&file, whole).unwrap();
    }
    sandbox.up(&["--nodes", "2", "--tier", &sandbox.word("tier")]);
    assert_eq!(checkpoints(&sandbox).latest(SET).unwrap(), Some(2), "all is mended");
    sandbox.ok(&["down", "--discard"]);
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

/// Whether a region's file is being copied into the tier.
fn is_being_flushed(sandbox: &Sandbox) -> bool {
    let entries = |dir: &Path| fs::read_dir(dir).into_iter().flatten().flatten();
    let staging = entries(&sandbox.path("tier"))
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(".hayate-staging"));
    let mut staged = staging.flat_map(|dir| entries(&dir.path()).collect::<Vec<_>>());
    staged.any(|entry| entry.metadata().is_ok_and(|found| found.len() > 1 << 20))
}

#[test]
fn ranks_are_killed_during_the_flush() {
    let sandbox = Sandbox::new();
    // Slow enough that the flush is under way, also when the watcher gets little time: 9 MB, 1 MB/s a server.
    sandbox.up(&["--nodes", "2", "--tier", &sandbox.word("tier"), "--flush-bandwidth", "1M"]);
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "child", "--nocapture"]).env("HAYATE_TEST_CHILD", sandbox.path("c.toml"));
    sandbox.environment(&mut child);
    let mut child = child.stdout(Stdio::null()).spawn().unwrap();
    let watcher = checkpoints(&sandbox);
    wait_until("a part of the version is in the tier", || {
        watcher.latest(SET).unwrap() == Some(1) && is_being_flushed(&sandbox)
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
    // Also of one that is not offered any more.
    let manifest = format!("h:/checkpoints/set/versions/{:020}", 4);
    sandbox.ok(&["cp", &sandbox.word("wrong"), &manifest]);
    sandbox.fails(3, &["ckpt", "verify", SET], &["not whole: set 4"]);
    // Its number is free once it is removed.
    assert!(checkpoints.begin(SET, 4, 0, 1).is_err());
    sandbox.ok(&["ckpt", "remove", SET, "4"]);
    // A client of its own: the other one may remember the name for a while.
    save(&self::checkpoints(&sandbox), 4, Redundancy::None, "never");
    sandbox.fails(1, &["ckpt", "remove", SET, "9"], &["version 9"]);
    sandbox.ok(&["down", "--discard"]);
}

/// The harness, with the library: its phases are there, what it reads back is right, and it leaves no version behind.
#[test]
fn the_harness_measures_the_library() {
    let sandbox = Sandbox::new();
    sandbox.up(&["--nodes", "3", "--tier", &sandbox.word("tier")]);
    for more in [&["--shared"][..], &["--redundancy", "copies:1"], &["--redundancy", "parity:2+1"]] {
        let words = [
            "bench",
            "checkpoint",
            "-a",
            "LIBIO",
            "-np",
            "2",
            "-b",
            "3m",
            "-t",
            "1m",
            "-i",
            "2",
            "-d",
            "/bench",
        ];
        let said = sandbox.ok(&[&words[..], &["--durable", "60"], more].concat());
        let rows: Vec<_> =
            said.lines().filter(|line| line.starts_with("0  ") || line.starts_with("1  ")).collect();
        assert_eq!(rows.len(), 2, "{said}");
        for row in rows {
            let times: Vec<f64> =
                row.split_whitespace().skip(1).take(3).map(|word| word.parse().unwrap()).collect();
            assert!(times[0] > 0.0 && times[0] <= times[1] && times[1] <= times[2], "{said}");
        }
        assert!(said.contains("recovery            : ") && said.contains(" 0 wrong words"), "{said}");
        let left = Checkpoints::open(
            Client::connect(ClientConfig::load(&sandbox.path("c.toml")).unwrap()).unwrap(),
            "/bench",
        );
        assert_eq!(left.unwrap().versions("bench").unwrap(), Vec::<u64>::new());
    }
    sandbox.ok(&["down", "--discard"]);
}
