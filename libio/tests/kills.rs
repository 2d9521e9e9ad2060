//! Goal: whatever moment a rank is killed at, and whatever call to the file system fails, a restart finds the old version or the new one,
//! never a mixture, and the same number can be tried again. Method: the test starts itself again as a rank that kills itself (SIGKILL)
//! before its n-th change, for every n; and ranks as threads whose n-th change fails. The rank is the last to seal or the first, each without redundancy, with a copy,
//! and with parity; these at every boundary with HAYATE_TEST_LONG, and else at some.

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use fs_client::{Client, ClientConfig, Status};
use hayate_tests::Cluster;
use libio::{Checkpoints, Error, Options, Pending, Redundancy, Result};

const SET: &str = "set";
const BYTES: usize = 1_200_000;
/// How long a rank waits for one that is dead.
const SHORT: Duration = Duration::from_millis(50);

/// What rank `rank` writes into `version`.
fn content(version: u64, rank: u32) -> Vec<u8> {
    (0..BYTES as u64).map(|at| (at * 31 + version * 101 + u64::from(rank) * 7 + (at >> 8)) as u8).collect()
}

/// Which rank of the two has bad luck.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Seals {
    First,
    Last,
}

const COPY: Redundancy = Redundancy::Copies(1);
const PARITY: Redundancy = Redundancy::Parity { data: 2, extra: 1 };
const CASES: [(Seals, Redundancy); 6] = [
    (Seals::Last, Redundancy::None),
    (Seals::First, Redundancy::None),
    (Seals::Last, COPY),
    (Seals::First, COPY),
    (Seals::Last, PARITY),
    (Seals::First, PARITY),
];

/// From one moment of bad luck to the next.
fn stride(redundancy: Redundancy) -> usize {
    match redundancy {
        _ if std::env::var_os("HAYATE_TEST_LONG").is_some() => 1,
        Redundancy::None => 1,
        Redundancy::Copies(_) => 3,
        Redundancy::Parity { .. } => 7,
    }
}

/// All that a rank of two does for a version, but for waiting.
fn work(checkpoints: &Checkpoints, version: u64, rank: u32, redundancy: Redundancy) -> Result<Pending> {
    let options = Options { redundancy, ..Options::default() };
    let mut writer = checkpoints.begin_with(SET, version, rank, 2, &options)?;
    writer.write("array", &content(version, rank), u64::from(rank) * BYTES as u64)?;
    writer.write(&format!("own.{rank}"), &version.to_le_bytes(), 0)?;
    writer.seal(true)
}

/// Both ranks, one after the other.
fn save(checkpoints: &Checkpoints, version: u64, redundancy: Redundancy) {
    let pending: Vec<_> =
        (0..2).map(|rank| work(checkpoints, version, rank, redundancy).expect("sealed")).collect();
    pending[0].wait(SHORT).expect("committed");
}

fn assert_whole(checkpoints: &Checkpoints, version: u64) {
    let snapshot = checkpoints.snapshot(SET, version).expect("snapshot");
    for rank in 0..2 {
        let mut found = vec![0; BYTES];
        snapshot.read("array", u64::from(rank) * BYTES as u64, &mut found).expect("read");
        assert!(found == content(version, rank), "version {version}, rank {rank}");
        let mut own = [0; 8];
        snapshot.read(&format!("own.{rank}"), 0, &mut own).expect("read");
        assert_eq!(u64::from_le_bytes(own), version);
    }
}

/// As a rank of its own process: see [`a_rank_is_killed_at_every_boundary`].
#[test]
fn child() {
    let Ok(order) = std::env::var("HAYATE_TEST_CHILD") else { return };
    let parts: Vec<&str> = order.split(' ').collect();
    let [cluster, version, step, case] = parts[..] else { panic!("{order}") };
    let (version, step): (u64, usize) = (version.parse().expect("a version"), step.parse().expect("a step"));
    let (_, redundancy) = CASES[case.parse::<usize>().expect("a case")];
    let client = Client::connect(ClientConfig::load(cluster.as_ref()).expect("cluster")).expect("connect");
    let count = AtomicUsize::new(0);
    let checkpoints = Checkpoints::open(client, "/ckpt").expect("open").with_group(&format!("run {version}"));
    let checkpoints = checkpoints.with_hook(Arc::new(move |_| {
        if count.fetch_add(1, Ordering::Relaxed) + 1 == step {
            rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL)
                .expect("killed");
        }
        Ok(())
    }));
    work(&checkpoints, version, 1, redundancy).expect("sealed");
}

/// A cluster with version 0, seen by a group of its own.
fn start(redundancy: Redundancy) -> (Cluster, Checkpoints) {
    let cluster = Cluster::start(3);
    let checkpoints = Checkpoints::open(cluster.client(), "/ckpt").expect("open").with_group("run 0");
    save(&checkpoints, 0, redundancy);
    (cluster, checkpoints)
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

#[test]
fn a_rank_is_killed_at_every_boundary() {
    for (case, (seals, redundancy)) in CASES.into_iter().enumerate() {
        let (cluster, checkpoints) = start(redundancy);
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("run").join("c.toml");
        cluster.file().store(&file).expect("cluster file");
        let (mut step, mut old, mut fates) = (0, 0, [0, 0]);
        loop {
            step += stride(redundancy);
            let version = step as u64;
            let ours = checkpoints.clone().with_group(&format!("run {version}"));
            let run_child = || {
                let mut child = Command::new(std::env::current_exe().expect("this program"));
                child.args(["--exact", "child"]).stdout(Stdio::null());
                child.env("HAYATE_TEST_CHILD", format!("{} {version} {step} {case}", file.display()));
                child.status().expect("the child runs").success()
            };
            let (pending, survived) = both(seals, || work(&ours, version, 0, redundancy), run_child);
            let heard = pending.expect("sealed").wait(SHORT);
            let what = format!("{seals:?}, {redundancy:?}, step {step}: {heard:?}");
            let latest = checkpoints.latest(SET).expect("latest").expect("there is always one");
            assert_eq!(latest, if heard.is_ok() { version } else { old }, "{what}");
            assert_whole(&checkpoints, latest);
            assert_whole(&checkpoints, old);
            if survived {
                assert_eq!(latest, version, "{what}");
                break;
            }
            fates[usize::from(heard.is_ok())] += 1;
            if let Err(verdict) = heard {
                assert!(matches!(verdict, Error::Aborted { .. }), "{what}");
                save(&checkpoints.clone().with_group("again"), version, redundancy);
            }
            assert_whole(&checkpoints, version);
            assert_eq!(checkpoints.prune(SET, 2).expect("prune").len(), usize::from(old > 0), "{what}");
            old = version;
        }
        // Before the verdict the old version stays, after it the new one comes: both have been seen, where this rank has the verdict to write.
        assert!(
            stride(redundancy) > 1 || (fates[0] > 10 && (seals == Seals::First || fates[1] > 1)),
            "{seals:?}, {redundancy:?}: {fates:?} of {step} steps"
        );
    }
}

#[test]
fn every_call_fails_once() {
    for (seals, redundancy) in CASES {
        let (_cluster, checkpoints) = start(redundancy);
        let (mut step, mut old, mut failures) = (0, 0, 0);
        loop {
            step += stride(redundancy);
            let version = step as u64;
            let ours = checkpoints.clone().with_group(&format!("run {version}"));
            let (failing, count) = failing(&ours, step);
            let unlucky = || work(&failing, version, 1, redundancy);
            let (first, second) = both(seals, || work(&ours, version, 0, redundancy), unlucky);
            let heard = first.and_then(|pending| pending.wait(SHORT));
            let second = second.and_then(|pending| pending.wait(SHORT));
            let done = count.load(Ordering::Relaxed) < step;
            let what = format!("{seals:?}, {redundancy:?}, step {step}: {heard:?}, {second:?}");
            let latest = checkpoints.latest(SET).expect("latest").expect("there is always one");
            if heard.is_ok() {
                assert_eq!(latest, version, "{what}");
                assert_whole(&checkpoints, version);
            } else {
                assert_eq!(latest, old, "{what}");
                let error = second.expect_err("no rank believes that it is committed");
                assert!([libc::ENOSPC, libc::EIO].contains(&error.errno()), "{what}");
                failures += 1;
            }
            assert_whole(&checkpoints, old);
            if done {
                assert_eq!(latest, version, "{what}");
                break;
            }
            if heard.is_err() {
                save(&checkpoints.clone().with_group("again"), version, redundancy);
            }
            assert_whole(&checkpoints, version);
            old = version;
        }
        assert!(failures * stride(redundancy) > 10, "{seals:?}, {redundancy:?}: {failures} of {step} steps");
    }
}

/// The same, whose `step`-th change fails, and how many there were.
fn failing(ours: &Checkpoints, step: usize) -> (Checkpoints, Arc<AtomicUsize>) {
    let count = Arc::new(AtomicUsize::new(0));
    let counted = count.clone();
    let failing = ours.clone().with_hook(Arc::new(move |kind| {
        if counted.fetch_add(1, Ordering::Relaxed) + 1 != step {
            return Ok(());
        }
        let status = if kind == "write" { Status::NoSpace } else { Status::Io };
        let (message, path) = (format!("{kind} fails"), None);
        Err(Error::FileSystem(fs_client::Error::Status { status, message, path }))
    }));
    (failing, count)
}
