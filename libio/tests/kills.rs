//! Goal: whatever moment a rank is killed at, and whatever call to the file system fails, a restart finds the old version or the new one,
//! never a mixture, and the same number can be tried again. Method: the test starts itself again as a rank that kills itself (SIGKILL)
//! before its n-th change, for every n; and ranks as threads whose n-th change fails. The rank is the last to seal or the first, each without redundancy, with a copy,
//! and with parity, incremental, compressed, and with routed regions; or it waits for others. All but the plain ones at some boundaries only, with HAYATE_TEST_LONG at every one.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use fs_client::{Client, ClientConfig, Status};
use hayate_tests::Cluster;
use libio::{Checkpoints, Error, Level, Options, Pending, Redundancy, Result, State};

const SET: &str = "set";
const BYTES: usize = 1_200_000;
/// Bytes at the beginning of a rank's part that incremental versions have in common.
const COMMON: usize = 1_100_000;
/// How long a rank waits for one that is dead.
const SHORT: Duration = Duration::from_millis(50);
/// How long it waits for one that comes.
const PATIENCE: Duration = Duration::from_secs(60);

/// Which rank of the two has bad luck.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Seals {
    First,
    Last,
}

/// How a version is written.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Kind {
    Plain,
    Copy,
    Parity,
    Incremental,
    Compressed,
    /// By its path.
    Routed,
    /// And then copied.
    RoutedCopy,
}

const CASES: [(Seals, Kind); 11] = [
    (Seals::Last, Kind::Plain),
    (Seals::First, Kind::Plain),
    (Seals::Last, Kind::Copy),
    (Seals::First, Kind::Copy),
    (Seals::Last, Kind::Parity),
    (Seals::First, Kind::Parity),
    (Seals::Last, Kind::Incremental),
    (Seals::First, Kind::Incremental),
    (Seals::Last, Kind::Compressed),
    (Seals::Last, Kind::Routed),
    (Seals::Last, Kind::RoutedCopy),
];

impl Kind {
    fn options(self) -> Options {
        let redundancy = match self {
            Kind::Copy | Kind::RoutedCopy => Redundancy::Copies(1),
            Kind::Parity => Redundancy::Parity { data: 2, extra: 1 },
            _ => Redundancy::None,
        };
        let incremental = self == Kind::Incremental;
        let compress = (self == Kind::Compressed).then_some(1);
        Options { redundancy, incremental, compress, ..Options::default() }
    }

    /// From one moment of bad luck to the next.
    fn stride(self) -> usize {
        match self {
            _ if std::env::var_os("HAYATE_TEST_LONG").is_some() => 1,
            Kind::Plain => 1,
            Kind::Copy | Kind::Incremental | Kind::Compressed | Kind::Routed => 4,
            Kind::Parity | Kind::RoutedCopy => 9,
        }
    }

    fn is_routed(self) -> bool {
        matches!(self, Kind::Routed | Kind::RoutedCopy)
    }

    /// What rank `rank` writes into `version`.
    fn content(self, version: u64, rank: u32) -> Vec<u8> {
        let of = |at: usize| if self == Kind::Incremental && at < COMMON { 0 } else { version * 101 };
        let byte = |at: usize| (at as u64 * 31 + of(at) + u64::from(rank) * 7 + (at as u64 >> 8)) as u8;
        (0..BYTES).map(byte).collect()
    }

    /// The region that has it, and where: a path is one rank's alone.
    fn place(self, rank: u32) -> (String, u64) {
        if self.is_routed() {
            return (format!("array.{rank}"), 0);
        }
        ("array".to_owned(), u64::from(rank) * BYTES as u64)
    }
}

/// All that a rank of two does for a version, but for waiting. What it routes is written by `client`.
fn work(client: &Client, checkpoints: &Checkpoints, version: u64, rank: u32, kind: Kind) -> Result<Pending> {
    let mut writer = checkpoints.begin_with(SET, version, rank, 2, &kind.options())?;
    let ((name, offset), content) = (kind.place(rank), kind.content(version, rank));
    if kind.is_routed() {
        client.put(writer.route(&name)?, &content, 0o640)?;
    } else {
        writer.write(&name, &content, offset)?;
    }
    writer.write(&format!("own.{rank}"), &version.to_le_bytes(), 0)?;
    writer.seal(true)
}

/// A cluster with version 0.
struct Stage {
    cluster: Cluster,
    client: Client,
    kind: Kind,
}

impl Stage {
    /// With the checkpoints of somebody who only looks.
    fn new(kind: Kind) -> (Stage, Checkpoints) {
        let cluster = Cluster::start(3);
        let client = cluster.client();
        let stage = Stage { cluster, client, kind };
        stage.save(&stage.group("run 0"), 0);
        let looks = stage.group("looks");
        (stage, looks)
    }

    fn group(&self, name: &str) -> Checkpoints {
        Checkpoints::open(self.client.clone(), "/ckpt").expect("open").with_group(name)
    }

    fn work(&self, checkpoints: &Checkpoints, version: u64, rank: u32) -> Result<Pending> {
        work(&self.client, checkpoints, version, rank, self.kind)
    }

    /// Both ranks, one after the other.
    fn save(&self, checkpoints: &Checkpoints, version: u64) {
        let pending: Vec<_> =
            (0..2).map(|rank| self.work(checkpoints, version, rank).expect("sealed")).collect();
        pending[0].wait(SHORT).expect("committed");
    }

    fn assert_whole(&self, checkpoints: &Checkpoints, version: u64) {
        let snapshot = checkpoints.snapshot(SET, version).expect("snapshot");
        for rank in 0..2 {
            let (mut found, (name, offset)) = (vec![0; BYTES], self.kind.place(rank));
            snapshot.read(&name, offset, &mut found).expect("read");
            assert!(found == self.kind.content(version, rank), "version {version}, rank {rank}");
            let mut own = [0; 8];
            snapshot.read(&format!("own.{rank}"), 0, &mut own).expect("read");
            assert_eq!(u64::from_le_bytes(own), version);
        }
    }

    /// Where a process finds the cluster.
    fn file(&self, dir: &Path) -> String {
        let file = dir.join("run").join("c.toml");
        self.cluster.file().store(&file).expect("cluster file");
        file.display().to_string()
    }
}

/// As a rank of its own process: see [`a_rank_is_killed_at_every_boundary`] and [`a_rank_is_killed_while_it_waits`].
#[test]
fn child() {
    let Ok(order) = std::env::var("HAYATE_TEST_CHILD") else { return };
    let parts: Vec<&str> = order.split(' ').collect();
    let [cluster, version, step, case, sealed, timeout_ms] = parts[..] else { panic!("{order}") };
    let (version, step): (u64, usize) = (version.parse().expect("a version"), step.parse().expect("a step"));
    let (_, kind) = CASES[case.parse::<usize>().expect("a case")];
    let client = Client::connect(ClientConfig::load(cluster.as_ref()).expect("cluster")).expect("connect");
    // With a file to say that it has sealed, it waits then, and only changes from then on count.
    let (count, counts) = (AtomicUsize::new(0), Arc::new(AtomicBool::new(sealed == "-")));
    let armed = counts.clone();
    let checkpoints = Checkpoints::open(client.clone(), "/ckpt").expect("open");
    let checkpoints = checkpoints.with_group(&format!("run {version}")).with_hook(Arc::new(move |_| {
        if armed.load(Ordering::Relaxed) && count.fetch_add(1, Ordering::Relaxed) + 1 == step {
            rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL)
                .expect("killed");
        }
        Ok(())
    }));
    let pending = work(&client, &checkpoints, version, 1, kind).expect("sealed");
    if sealed != "-" {
        counts.store(true, Ordering::Relaxed);
        std::fs::write(sealed, b"").expect("told");
        // Given up or published by this rank, when it is not killed before.
        let _ = pending.wait(Duration::from_millis(timeout_ms.parse().expect("a time-out")));
    }
}

/// Starts a rank that ends at its `step`-th change; see [`child`].
fn start_child(order: &str) -> Child {
    let mut child = Command::new(std::env::current_exe().expect("this program"));
    child.args(["--exact", "child"]).stdout(Stdio::null()).env("HAYATE_TEST_CHILD", order);
    child.spawn().expect("the child runs")
}

/// What both ranks came to: rank 0, and rank 1, which has bad luck.
fn both<T>(
    seals: Seals,
    zero: impl FnOnce() -> Result<Pending>,
    one: impl FnOnce() -> T,
) -> (Result<Pending>, T) {
    if seals == Seals::First {
        let one = one();
        return (zero(), one);
    }
    (zero(), one())
}

/// The first of the boundaries of a case: cases that leave some out leave out others.
fn first_step(case: usize) -> usize {
    1 + case % CASES[case].1.stride()
}

#[test]
fn a_rank_is_killed_at_every_boundary() {
    for (case, (seals, kind)) in CASES.into_iter().enumerate() {
        let (stage, looks) = Stage::new(kind);
        let dir = tempfile::tempdir().expect("a directory");
        let file = stage.file(dir.path());
        let (mut step, mut old, mut fates) = (first_step(case), 0, [0, 0]);
        loop {
            let version = step as u64;
            let ours = stage.group(&format!("run {version}"));
            let order = format!("{file} {version} {step} {case} - 0");
            let run_child = || start_child(&order).wait().expect("it ends").success();
            let (pending, survived) = both(seals, || stage.work(&ours, version, 0), run_child);
            let heard = pending.expect("sealed").wait(SHORT);
            let what = format!("{seals:?}, {kind:?}, step {step}: {heard:?}");
            let latest = looks.latest(SET).expect("latest").expect("there is always one");
            assert_eq!(latest, if heard.is_ok() { version } else { old }, "{what}");
            stage.assert_whole(&looks, latest);
            stage.assert_whole(&looks, old);
            if survived {
                assert_eq!(latest, version, "{what}");
                break;
            }
            fates[usize::from(heard.is_ok())] += 1;
            if let Err(verdict) = heard {
                assert!(matches!(verdict, Error::Aborted { .. }), "{what}");
                stage.save(&stage.group("again"), version);
            }
            stage.assert_whole(&looks, version);
            assert_eq!(looks.prune(SET, 2).expect("prune").len(), usize::from(old > 0), "{what}");
            old = version;
            step += kind.stride();
        }
        // Before the verdict the old version stays, after it the new one comes: both have been seen, where this rank has the verdict to write.
        assert!(
            kind.stride() > 1 || (fates[0] > 10 && (seals == Seals::First || fates[1] > 1)),
            "{seals:?}, {kind:?}: {fates:?} of {step} steps"
        );
    }
}

/// Who waits makes changes, too: it places the verdict when a rank is missing, and it publishes what the last rank sealed and could not. It is killed before each
/// of them.
#[test]
fn a_rank_is_killed_while_it_waits() {
    for kind in [Kind::Plain, Kind::Copy] {
        for dies in [false, true] {
            let (stage, looks) = Stage::new(kind);
            let dir = tempfile::tempdir().expect("a directory");
            let (file, told) = (stage.file(dir.path()), dir.path().join("sealed"));
            let case = CASES.iter().position(|(_, of)| *of == kind).expect("a case");
            let (mut old, mut step) = (0, 1);
            loop {
                let (version, timeout) = (step as u64, if dies { PATIENCE } else { SHORT });
                let order =
                    format!("{file} {version} {step} {case} {} {}", told.display(), timeout.as_millis());
                let mut child = start_child(&order);
                hayate_tests::until("the child has sealed", || told.exists());
                std::fs::remove_file(&told).expect("remove");
                let ours = stage.group(&format!("run {version}"));
                if dies {
                    let heard = stage.work(&dying_at_publication(&stage, version), version, 0);
                    heard.expect_err("it dies");
                }
                let survived = child.wait().expect("it ends").success();
                let what = format!("{kind:?}, dies: {dies}, step {step}");
                let committed = if dies {
                    looks.wait(SET, version, Level::Committed, PATIENCE).expect("published");
                    true
                } else {
                    // It comes at last: in time if rank 1 had not given up yet.
                    let heard = stage.work(&ours, version, 0).and_then(|pending| pending.wait(PATIENCE));
                    assert!(matches!(heard, Ok(()) | Err(Error::Aborted { .. })), "{what}: {heard:?}");
                    heard.is_ok()
                };
                let latest = looks.latest(SET).expect("latest").expect("there is always one");
                assert_eq!(latest, if committed { version } else { old }, "{what}");
                stage.assert_whole(&looks, latest);
                stage.assert_whole(&looks, old);
                if !committed {
                    stage.save(&stage.group("again"), version);
                }
                stage.assert_whole(&looks, version);
                if survived {
                    break;
                }
                (old, step) = (version, step + 1);
            }
            assert!(step > 2, "{kind:?}, dies: {dies}: {step} steps");
        }
    }
}

/// All ranks are gone: one sealed and went, the other is killed before each of its changes, and nobody waits. From the last seal on the version is completed by whoever comes: who asks for the
/// newest, who begins it, or both at once. Before that it is given up, and both hear so.
#[test]
fn what_all_ranks_sealed_is_completed_by_who_comes_next() {
    let turns = if std::env::var_os("HAYATE_TEST_LONG").is_some() { 3 } else { 1 };
    for kind in [Kind::Plain, Kind::Copy] {
        for turn in 0..turns {
            all_ranks_are_gone(kind, turn);
        }
    }
}

fn all_ranks_are_gone(kind: Kind, turn: usize) {
    let (stage, looks) = Stage::new(kind);
    let dir = tempfile::tempdir().expect("a directory");
    let file = stage.file(dir.path());
    let case = CASES.iter().position(|of| *of == (Seals::Last, kind)).expect("a case");
    let (mut old, mut completed) = (0, 0);
    for step in 1.. {
        let version = step as u64;
        drop(stage.work(&stage.group(&format!("run {version}")), version, 0).expect("sealed"));
        let survived =
            start_child(&format!("{file} {version} {step} {case} - 0")).wait().expect("it ends").success();
        let (asks, begins) =
            (stage.group(&format!("asks {version}")), stage.group(&format!("begins {version}")));
        let asked = || asks.latest(SET).expect("latest").expect("there is always one") == version;
        let begun = || exists(&begins, version);
        let what = format!("{kind:?}, step {step}");
        let found = match (step + turn) % 3 {
            0 => asked(),
            1 => begun(),
            _ => std::thread::scope(|scope| {
                let (asked, begun) = (scope.spawn(asked), scope.spawn(begun));
                let both = (asked.join().expect("no panic"), begun.join().expect("no panic"));
                assert_eq!(both.0, both.1, "{what}: one outcome for both");
                both.0
            }),
        };
        assert!(found || (completed == 0 && !survived), "{what}: an earlier death left a version");
        assert_eq!(looks.latest(SET).expect("latest"), Some(if found { version } else { old }), "{what}");
        assert_eq!(exists(&stage.group("later"), version), found, "{what}");
        if !found {
            stage.save(&stage.group("again"), version);
        }
        let (state, expected) = (looks.state(SET, version).expect("state"), State::Committed);
        assert_eq!(state, expected, "{what}");
        stage.assert_whole(&looks, version);
        stage.assert_whole(&looks, old);
        completed += usize::from(found);
        if survived {
            break;
        }
        assert_eq!(looks.prune(SET, 2).expect("prune").len(), usize::from(old > 0), "{what}");
        old = version;
    }
    // From before the seal is synced to after the manifest has its name.
    assert!(completed > 12, "{kind:?}: {completed} completed");
}

/// Whether a version can be begun no more because it is committed. One that can is given up again.
fn exists(checkpoints: &Checkpoints, version: u64) -> bool {
    match checkpoints.begin(SET, version, 0, 2) {
        Err(Error::VersionExists { .. }) => true,
        Ok(writer) => {
            writer.abort().expect("aborted");
            false
        }
        Err(e) => panic!("version {version}: {e}"),
    }
}

/// The group's rank that dies, by a hook, between the verdict and the publication.
fn dying_at_publication(stage: &Stage, version: u64) -> Checkpoints {
    let ours = stage.group(&format!("run {version}"));
    let looker = ours.clone();
    ours.with_hook(Arc::new(move |_| match looker.state(SET, version) {
        Ok(State::Sealed) => Err(Error::Invalid("it dies".to_owned())),
        _ => Ok(()),
    }))
}

/// What fails, and how.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fault {
    /// As is usual: writes with ENOSPC, the rest with EIO.
    Usual,
    /// Writes with EIO, the rest with ENOSPC.
    Other,
}

#[test]
fn every_call_fails_once() {
    for (case, (seals, kind)) in CASES.into_iter().enumerate() {
        // Where boundaries are left out one fault is tried at some and the other at others.
        for (turn, fault) in [Fault::Usual, Fault::Other].into_iter().enumerate() {
            let first = 1 + (case + turn * (kind.stride() / 2)) % kind.stride();
            every_call_fails(seals, kind, fault, first);
        }
    }
}

fn every_call_fails(seals: Seals, kind: Kind, fault: Fault, first: usize) {
    let (stage, looks) = Stage::new(kind);
    let (mut step, mut old, mut failures) = (first, 0, 0);
    loop {
        let version = step as u64;
        let ours = stage.group(&format!("run {version}"));
        let (failing, count) = failing(&ours, step, fault);
        let unlucky = || stage.work(&failing, version, 1);
        let (first, second) = both(seals, || stage.work(&ours, version, 0), unlucky);
        let heard = first.and_then(|pending| pending.wait(SHORT));
        let second = second.and_then(|pending| pending.wait(SHORT));
        let done = count.load(Ordering::Relaxed) < step;
        let what = format!("{seals:?}, {kind:?}, {fault:?}, step {step}: {heard:?}, {second:?}");
        let latest = looks.latest(SET).expect("latest").expect("there is always one");
        if heard.is_ok() {
            assert_eq!(latest, version, "{what}");
            stage.assert_whole(&looks, version);
        } else {
            assert_eq!(latest, old, "{what}");
            let error = second.expect_err("no rank believes that it is committed");
            assert!([libc::ENOSPC, libc::EIO].contains(&error.errno()), "{what}");
            failures += 1;
        }
        stage.assert_whole(&looks, old);
        if done {
            assert_eq!(latest, version, "{what}");
            break;
        }
        if heard.is_err() {
            stage.save(&stage.group("again"), version);
        }
        stage.assert_whole(&looks, version);
        old = version;
        step += kind.stride();
    }
    assert!(failures * kind.stride() > 10, "{seals:?}, {kind:?}, {fault:?}: {failures} of {step} steps");
}

/// The same, whose `step`-th change fails, and how many there were.
fn failing(ours: &Checkpoints, step: usize, fault: Fault) -> (Checkpoints, Arc<AtomicUsize>) {
    let count = Arc::new(AtomicUsize::new(0));
    let counted = count.clone();
    let failing = ours.clone().with_hook(Arc::new(move |kind| {
        if counted.fetch_add(1, Ordering::Relaxed) + 1 != step {
            return Ok(());
        }
        let full = (kind == "write") == (fault == Fault::Usual);
        let status = if full { Status::NoSpace } else { Status::Io };
        let (message, path) = (format!("{kind} fails"), None);
        Err(Error::FileSystem(fs_client::Error::Status { status, message, path }))
    }));
    (failing, count)
}
