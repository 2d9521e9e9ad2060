//! Goal: checkpoints survive what kills processes and disks, and the command shows, checks and exports them. Method: servers as processes, killed by
//! SIGKILL, their stores deleted; ranks as processes (this test started again), killed by SIGKILL while the servers flush.

mod common;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{RwLock, mpsc};
use std::time::{Duration, Instant};

use common::versions::{SET, assert_whole, checkpoints, content};
use common::{Sandbox, kill, pattern, wait_until};
use fs_client::{Client, ClientConfig};
use libio::{Checkpoints, Error, Level, Options, Redundancy, Result, State};
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

/// How long the clients of [`calls_end_while_a_server_does_not_answer`] wait for a server, and their calls for what they wait for.
const TIMEOUT: Duration = Duration::from_secs(3);
/// How much longer than both a call may take (docs/semantics.md).
const LONGER: Duration = Duration::from_secs(20);

/// What is called while a server does not answer.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Call {
    Write,
    Seal,
    Commit,
    /// A commit whose other rank does not come.
    CommitAlone,
    Latest,
    Read,
    WaitDurable,
    Prune,
    Finish,
}

impl Call {
    const ALL: [Call; 9] = [
        Call::Write,
        Call::Seal,
        Call::Commit,
        Call::CommitAlone,
        Call::Latest,
        Call::Read,
        Call::WaitDurable,
        Call::Prune,
        Call::Finish,
    ];

    fn set(self) -> String {
        format!("{self:?}")
    }

    /// The versions of which one is the latest afterwards.
    fn outcomes(self) -> &'static [u64] {
        match self {
            Call::Seal | Call::Commit | Call::Finish => &[1, 2],
            Call::Prune => &[2],
            _ => &[1],
        }
    }

    /// The call, with what must be there before: version 1, and another one, committed or begun.
    fn prepare(
        self,
        checkpoints: Checkpoints,
        redundancy: Redundancy,
    ) -> Box<dyn FnOnce() -> Result<()> + Send> {
        let (set, options) = (self.set(), Options { redundancy, timeout: TIMEOUT, ..Options::default() });
        let begun = |version, rank, nranks| {
            let mut writer = checkpoints.begin_with(&set, version, rank, nranks, &options).unwrap();
            writer.write(&format!("field.{rank}"), &content(version, rank), 0).unwrap();
            writer
        };
        begun(1, 0, 1).commit(true).unwrap();
        if matches!(self, Call::Prune | Call::Finish) {
            begun(2, 0, 1).commit(true).unwrap();
        }
        match self {
            Call::Write => {
                let mut writer = begun(2, 0, 1);
                Box::new(move || writer.write("more.0", &content(2, 0), 0))
            }
            Call::Seal => {
                let writer = begun(2, 0, 1);
                Box::new(move || writer.seal(true).map(drop))
            }
            Call::Commit => {
                let writer = begun(2, 1, 2);
                begun(2, 0, 2).seal(true).unwrap();
                Box::new(move || writer.commit(true))
            }
            Call::CommitAlone => {
                let writer = begun(2, 1, 2);
                Box::new(move || writer.commit(true))
            }
            Call::Latest => Box::new(move || {
                checkpoints.latest(&set).map(|latest| assert_eq!(latest, Some(1), "there is one"))
            }),
            Call::Read => Box::new(move || regions_are_whole(&checkpoints, &set, 1)),
            Call::WaitDurable => Box::new(move || checkpoints.wait(&set, 1, Level::Durable, TIMEOUT)),
            Call::Prune => Box::new(move || checkpoints.prune(&set, 1).map(drop)),
            Call::Finish => Box::new(move || checkpoints.finish(&set, 2, false)),
        }
    }
}

/// Every region's content is what its rank wrote, or it is an error.
fn regions_are_whole(checkpoints: &Checkpoints, set: &str, version: u64) -> Result<()> {
    let snapshot = checkpoints.snapshot(set, version)?;
    for region in snapshot.regions()? {
        let rank = region.name.rsplit('.').next().unwrap().parse().unwrap();
        let mut found = vec![0; region.bytes as usize];
        snapshot.read(&region.name, 0, &mut found)?;
        assert!(found == content(version, rank), "{set}, version {version}, {}", region.name);
    }
    Ok(())
}

/// All calls at once, by clients that are connected, after a server got this signal; each ends in time, well or with an error that says so.
fn calls_end(sandbox: &Sandbox, root: &str, redundancy: Redundancy, (victim, signal): (u32, Signal)) {
    let open = || {
        let mut config = ClientConfig::load(&sandbox.path("c.toml")).unwrap();
        config.timeout = TIMEOUT;
        Checkpoints::open(Client::connect(config).unwrap(), root).unwrap().with_group("test")
    };
    let gate = RwLock::new(());
    let closed = gate.write().unwrap();
    std::thread::scope(|scope| {
        let (tell, told) = mpsc::channel();
        let threads = Call::ALL.map(|call| {
            let (checkpoints, tell, gate) = (open(), tell.clone(), &gate);
            scope.spawn(move || {
                let prepared = call.prepare(checkpoints.clone(), redundancy);
                checkpoints.latest(&call.set()).unwrap(); // Connects to all servers.
                tell.send(()).unwrap();
                drop(tell);
                drop(gate.read());
                let began = Instant::now();
                (prepared(), began.elapsed())
            })
        });
        drop(tell);
        for _ in &threads {
            told.recv().expect("the call is prepared");
        }
        kill(victim, signal);
        drop(closed);
        for (call, thread) in Call::ALL.into_iter().zip(threads) {
            let (heard, took) = thread.join().unwrap();
            let what = format!("{root} {call:?}: {heard:?} after {took:?}");
            assert!(took < TIMEOUT + TIMEOUT + LONGER, "{what}");
            if let Err(error) = heard {
                let expected = [libc::ETIMEDOUT, libc::ECANCELED, libc::EHOSTDOWN];
                assert!(expected.contains(&error.errno()), "{what}");
            }
        }
    });
}

/// A server hangs (SIGSTOP), or is killed and not started again: no call hangs with it; and when it is back the older versions are whole, and the sets in use.
#[test]
fn calls_end_while_a_server_does_not_answer() {
    let sandbox = Sandbox::new();
    sandbox.up(&["--nodes", "3", "--tier", &sandbox.word("tier")]);
    let copy = Redundancy::Copies(1);
    let rounds = [
        (0, Signal::STOP, Redundancy::None),
        (1, Signal::STOP, Redundancy::None),
        (2, Signal::STOP, copy),
        (0, Signal::KILL, Redundancy::None),
        (1, Signal::KILL, copy),
        (2, Signal::KILL, copy),
    ];
    // By default every second, as each takes ten seconds.
    let each = if std::env::var_os("HAYATE_TEST_LONG").is_some() { 1 } else { 2 };
    for (server, signal, redundancy) in rounds.into_iter().step_by(each) {
        let root = format!("/{server} {signal:?} {redundancy:?}");
        let victim = sandbox.server_pids()[server];
        calls_end(&sandbox, &root, redundancy, (victim, signal));
        if signal == Signal::STOP {
            kill(victim, Signal::CONT);
        } else {
            sandbox.ok(&["up", "--restart"]);
        }
        let client = sandbox.client();
        let after = Checkpoints::open(client, &root).unwrap().with_group("after");
        for call in Call::ALL {
            let (set, what) = (call.set(), format!("{root} {call:?}"));
            let latest = after.latest(&set).unwrap().unwrap();
            assert!(call.outcomes().contains(&latest), "{what}: {latest}");
            for version in call.outcomes()[0]..=latest {
                regions_are_whole(&after, &set, version).unwrap();
            }
            let mut writer = after.begin(&set, 3, 0, 1).unwrap();
            writer.write("field.0", &content(3, 0), 0).unwrap();
            writer.commit(true).unwrap();
            assert_eq!(after.latest(&set).unwrap(), Some(3), "{what}");
        }
    }
    sandbox.ok(&["down", "--discard"]);
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
        let left = Checkpoints::open(sandbox.client(), "/bench");
        assert_eq!(left.unwrap().versions("bench").unwrap(), Vec::<u64>::new());
    }
    sandbox.ok(&["down", "--discard"]);
}
