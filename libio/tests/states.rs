//! Goal: every rank hears the same of a version, it comes to the shared tier by itself, and what cannot be restarted from is not
//! offered. Method: a real cluster with a shared tier in this process, ranks as threads.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use fs_client::Client;
use hayate_tests::{Cluster, ClusterOptions};
use libio::{Checkpoints, Error, Level, Options, Pending, Protected, Redundancy, Result, State, Writer};

const SET: &str = "set";
const MIB: usize = 1 << 20;
const PATIENCE: Duration = Duration::from_secs(60);

fn start() -> (Cluster, Client, Checkpoints) {
    let cluster = Cluster::with(ClusterOptions { servers: 3, tier: true, ..ClusterOptions::default() });
    let client = cluster.client();
    let checkpoints = Checkpoints::open(client.clone(), "/ckpt").expect("open").with_group("first");
    (cluster, client, checkpoints)
}

/// The first MiB is the same in every version, so that incremental ones have something in common.
fn bytes(version: u64, len: usize) -> Vec<u8> {
    let part = |at: u64| if at < MIB as u64 { 0 } else { version * 13 };
    (0..len as u64).map(|at| (at * 7 + part(at) + (at >> 9)) as u8).collect()
}

/// A version of one rank.
fn save(checkpoints: &Checkpoints, version: u64, options: &Options) {
    let mut writer = checkpoints.begin_with(SET, version, 0, 1, options).expect("begin");
    writer.write("field", &bytes(version, 2 * MIB + 77), 0).expect("write");
    writer.commit(true).expect("commit");
}

fn read(checkpoints: &Checkpoints, version: u64) -> Result<Vec<u8>> {
    let snapshot = checkpoints.snapshot(SET, version)?;
    let mut found = vec![0; snapshot.size("field")? as usize];
    snapshot.read("field", 0, &mut found)?;
    Ok(found)
}

/// What each of four ranks hears, each doing `work` as its own.
fn together(work: impl Fn(u32) -> Result<()> + Sync) -> Vec<Result<()>> {
    std::thread::scope(|scope| {
        let work = &work;
        let ranks: Vec<_> = (0..4).map(|rank| scope.spawn(move || work(rank))).collect();
        ranks.into_iter().map(|rank| rank.join().expect("no panic")).collect()
    })
}

/// All that one of four ranks does for a version.
fn rank_saves(checkpoints: &Checkpoints, version: u64, rank: u32, timeout: Duration, ok: bool) -> Result<()> {
    let options = Options { timeout, ..Options::default() };
    let mut writer = checkpoints.begin_with(SET, version, rank, 4, &options)?;
    writer.write("x", &[rank as u8; 100], u64::from(rank) * 100)?;
    writer.commit(ok)
}

#[test]
fn one_no_is_no_for_all() {
    let (_cluster, _, checkpoints) = start();
    save(&checkpoints, 1, &Options::default());
    let began = Instant::now();
    let heard = together(|rank| rank_saves(&checkpoints, 2, rank, PATIENCE, rank != 2));
    for verdict in heard {
        let verdict = verdict.expect_err("rank 2 said no");
        assert!(matches!(&verdict, Error::Aborted { reason, .. } if reason.contains("rank 2")), "{verdict}");
    }
    assert!(began.elapsed() < PATIENCE / 4, "nobody waits for who said no");
    assert_eq!(checkpoints.state(SET, 2).expect("state"), State::Aborted);
    assert_eq!(checkpoints.latest(SET).expect("latest"), Some(1));
    for heard in together(|rank| rank_saves(&checkpoints, 2, rank, PATIENCE, true)) {
        heard.expect("commit");
    }
    assert_eq!(checkpoints.latest(SET).expect("latest"), Some(2));
}

/// The first that says no is heard by all, also by those that say no themselves.
#[test]
fn the_first_no_is_every_ranks_answer() {
    let (_cluster, _, checkpoints) = start();
    let writers = [1, 0].map(|rank| (rank, begin_of_two(&checkpoints, rank)));
    for (rank, writer) in writers {
        let heard = writer.commit(false).expect_err("nobody wants it").to_string();
        assert!(heard.contains("rank 1 voted"), "rank {rank}: {heard}");
    }
}

/// When the last rank dies, by a hook.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Dies {
    /// Between its seal and the verdict: from then on every change fails.
    AfterItsSeal,
    /// Between the verdict and the publication: that rename fails.
    AfterTheVerdict,
}

impl Dies {
    fn hook(self, looker: &Checkpoints, version: u64) -> libio::Hook {
        let (looker, closed) = (looker.clone(), AtomicUsize::new(0));
        let dead = move |kind: &str| match self {
            // What is closed are the one region and the seal.
            Dies::AfterItsSeal => closed.fetch_add((kind == "close").into(), Ordering::Relaxed) >= 2,
            Dies::AfterTheVerdict => {
                kind == "rename" && matches!(looker.state(SET, version), Ok(State::Sealed))
            }
        };
        Arc::new(move |kind| if dead(kind) { Err(Error::Invalid("it dies".to_owned())) } else { Ok(()) })
    }
}

/// Two ranks seal a version; the last one dies. Answers what the first waits by.
fn last_dies(first: &Checkpoints, checkpoints: &Checkpoints, dies: Dies, version: u64) -> Pending {
    let dying = checkpoints.clone().with_hook(dies.hook(checkpoints, version));
    let [first, last] = [(first, 0), (&dying, 1)].map(|(checkpoints, rank)| {
        let mut writer = checkpoints.begin(SET, version, rank, 2).expect("begin");
        writer.write("x", &[1], u64::from(rank)).expect("write");
        writer
    });
    let pending = first.seal(true).expect("seal");
    last.seal(true).expect_err("it dies");
    pending
}

/// The last rank dies when all have sealed. Whoever comes, by each of the calls, publishes.
#[test]
fn a_sealed_version_is_published_by_whoever_comes() {
    let (_cluster, _, checkpoints) = start();
    let ways = ["wait", "test", "join", "latest", "begin", "versions", "list", "prune"];
    let cases = ways.map(|way| [(way, Dies::AfterTheVerdict), (way, Dies::AfterItsSeal)]);
    for (version, (way, dies)) in (1..).zip(cases.as_flattened()) {
        if (*way, *dies) == ("test", Dies::AfterItsSeal) {
            continue; // It looks at the verdict only.
        }
        let pending = last_dies(&checkpoints, &checkpoints, *dies, version);
        let left = if *dies == Dies::AfterItsSeal { State::Open } else { State::Sealed };
        assert_eq!(checkpoints.state(SET, version).expect("state"), left, "{way}, {dies:?}");
        comes(&checkpoints, &pending, version, way);
        assert!(checkpoints.state(SET, version).expect("state") >= State::Committed, "{way}, {dies:?}");
        assert_eq!(checkpoints.latest(SET).expect("latest"), Some(version), "{way}, {dies:?}");
    }
}

/// All have sealed, and the last one died. Two that complete the version, and a rank that gives it up because it cannot, come at the same moment, that one a little later each time.
#[test]
fn completing_and_giving_up_at_once_has_one_outcome() {
    let (_cluster, _, checkpoints) = start();
    save(&checkpoints, 1, &Options::default());
    let (mut newest, mut outcomes) = (1, [0, 0]);
    for version in 2..32 {
        let fails = Arc::new(AtomicBool::new(false));
        let armed = fails.clone();
        let unable = checkpoints.clone().with_hook(Arc::new(move |kind| {
            if kind == "sync" && armed.swap(false, Ordering::Relaxed) {
                return Err(Error::Invalid("it cannot".to_owned()));
            }
            Ok(())
        }));
        let pending = last_dies(&unable, &checkpoints, Dies::AfterItsSeal, version);
        fails.store(true, Ordering::Relaxed);
        let (completing, gives_up) = std::thread::scope(|scope| {
            let completing =
                [(); 2].map(|()| scope.spawn(|| checkpoints.latest(SET).expect("latest") == Some(version)));
            // From before both to after them, also on a slow machine.
            std::thread::sleep(Duration::from_micros(version * version * 400));
            let gives_up = pending.wait(Duration::ZERO);
            (completing.map(|thread| thread.join().expect("no panic")), gives_up)
        });
        let committed = completing[0];
        assert_eq!(completing, [committed; 2], "version {version}: {gives_up:?}");
        assert_eq!(gives_up.is_ok(), committed, "version {version}: {gives_up:?}");
        let state = checkpoints.state(SET, version).expect("state");
        let fits = if committed { state >= State::Committed } else { state == State::Aborted };
        assert!(fits, "version {version}: {state:?}");
        newest = if committed { version } else { newest };
        assert_eq!(checkpoints.latest(SET).expect("latest"), Some(newest), "and so it stays");
        outcomes[usize::from(committed)] += 1;
    }
    assert!(outcomes[1] > 0, "{outcomes:?}: none was completed");
}

fn comes(checkpoints: &Checkpoints, pending: &Pending, version: u64, way: &str) {
    match way {
        "wait" => checkpoints.wait(SET, version, Level::Committed, PATIENCE).expect("committed"),
        "join" => pending.wait(Duration::from_millis(50)).expect("committed"),
        "latest" => assert_eq!(checkpoints.latest(SET).expect("latest"), Some(version)),
        "begin" => assert!(matches!(
            checkpoints.clone().with_group("next").begin(SET, version, 0, 2),
            Err(Error::VersionExists { .. })
        )),
        "versions" => assert!(checkpoints.versions(SET).expect("versions").contains(&version)),
        "list" => {
            assert!(checkpoints.list(SET).expect("list").last().expect("one").state >= State::Committed);
        }
        "prune" => assert!(!checkpoints.prune(SET, 1).expect("prune").contains(&version)),
        _ => {
            let end = Instant::now() + PATIENCE;
            while !pending.test().expect("test") {
                assert!(Instant::now() < end, "it is not published");
                std::thread::yield_now();
            }
        }
    }
}

#[test]
fn a_missing_rank_is_the_same_verdict_for_all() {
    let (_cluster, _, checkpoints) = start();
    save(&checkpoints, 1, &Options::default());
    let began = Instant::now();
    let heard = together(|rank| match rank {
        3 => Ok(()),
        _ => rank_saves(&checkpoints, 2, rank, Duration::from_millis(300), true),
    });
    assert!(began.elapsed() < PATIENCE / 6, "300 ms became {:?}", began.elapsed());
    for verdict in &heard[..3] {
        let verdict = verdict.as_ref().expect_err("rank 3 did not come");
        assert!(matches!(verdict, Error::Aborted { reason, .. } if reason.contains("4 ranks")), "{verdict}");
    }
    assert_eq!(checkpoints.latest(SET).expect("latest"), Some(1));
    assert!(matches!(checkpoints.wait(SET, 2, Level::Sealed, PATIENCE), Err(Error::Aborted { .. })));
}

/// Rank 1 has begun and written when rank 0's time is over, and seals then: it hears what rank 0 heard, and the number is free again.
#[test]
fn a_rank_that_seals_too_late_hears_the_same() {
    let (_cluster, _, checkpoints) = start();
    save(&checkpoints, 1, &Options::default());
    let write = |rank: u32| {
        let mut writer = checkpoints.begin(SET, 2, rank, 2).expect("begin");
        writer.write("x", &[rank as u8; 100], u64::from(rank) * 100).expect("write");
        writer
    };
    let (first, late) = (write(0), write(1));
    let missing = first.seal(true).expect("sealed").wait(Duration::from_millis(50));
    let late = late.seal(true).map(drop);
    let reasons = [missing, late].map(|heard| match heard.expect_err("it was given up") {
        Error::Aborted { reason, .. } => reason,
        other => panic!("{other}"),
    });
    assert_eq!(reasons[0], reasons[1]);
    assert!(reasons[0].contains("not all 2 ranks"), "{}", reasons[0]);
    assert_eq!(checkpoints.latest(SET).expect("latest"), Some(1));
    assert_eq!(checkpoints.state(SET, 2).expect("state"), State::Aborted);
    let pending = [0, 1].map(|rank| write(rank).seal(true).expect("sealed"));
    for pending in &pending {
        pending.wait(PATIENCE).expect("committed");
    }
    assert_eq!(checkpoints.latest(SET).expect("latest"), Some(2));
}

#[test]
fn states_follow_each_other() {
    let (_cluster, _, checkpoints) = start();
    assert!(matches!(checkpoints.state(SET, 1), Err(Error::NotFound { .. })));
    let none = checkpoints.wait(SET, 1, Level::Sealed, Duration::from_millis(1)).expect_err("nobody began");
    assert!(matches!(none, Error::TimedOut { .. }) && none.errno() == libc::ETIMEDOUT, "{none}");
    let (first, second) = (begin_of_two(&checkpoints, 0), begin_of_two(&checkpoints, 1));
    assert_eq!(checkpoints.state(SET, 1).expect("state"), State::Open);
    let pending = first.seal(true).expect("seal");
    assert!(!pending.test().expect("test"));
    let late = checkpoints.wait(SET, 1, Level::Committed, Duration::from_millis(5)).expect_err("rank 1");
    assert!(late.to_string().contains("not committed"), "{late}");
    second.seal(true).expect("seal");
    assert!(pending.test().expect("test"));
    pending.wait(Duration::ZERO).expect("it is committed");
    checkpoints.wait(SET, 1, Level::Durable, PATIENCE).expect("durable");
    assert_eq!(checkpoints.state(SET, 1).expect("state"), State::Durable);
    let list = checkpoints.list(SET).expect("list");
    assert_eq!((list.len(), list[0].nranks, list[0].bytes, list[0].pinned), (1, Some(2), Some(2), false));
    assert_eq!(checkpoints.sets().expect("sets"), [SET]);
}

fn begin_of_two(checkpoints: &Checkpoints, rank: u32) -> Writer {
    let mut writer = checkpoints.begin(SET, 1, rank, 2).expect("begin");
    writer.write("x", &[rank as u8], u64::from(rank)).expect("write");
    writer
}

#[test]
fn a_version_becomes_durable_by_itself() {
    let (cluster, client, checkpoints) = start();
    save(&checkpoints, 1, &Options::default());
    save(&checkpoints, 2, &Options { flush: Some("never".to_owned()), ..Options::default() });
    checkpoints.wait(SET, 1, Level::Durable, PATIENCE).expect("durable");
    let tier = cluster.tier().expect("a tier").join("ckpt").join(SET);
    let data = std::fs::read_dir(tier.join("data")).expect("data").map(|entry| entry.expect("entry").path());
    let copied = data.map(|attempt| attempt.join("r0/0")).find(|path| path.exists()).expect("a copy");
    assert!(std::fs::read(copied).expect("read") == bytes(1, 2 * MIB + 77));
    let waited = checkpoints.wait(SET, 2, Level::Durable, Duration::from_millis(300)).expect_err("never");
    assert!(matches!(waited, Error::TimedOut { .. }), "{waited}");
    assert_eq!(checkpoints.state(SET, 2).expect("state"), State::Committed);
    let bad = Options { flush: Some("soon".to_owned()), ..Options::default() };
    let refused = checkpoints.begin_with(SET, 3, 0, 1, &bad).err().expect("no policy");
    assert_eq!(refused.errno(), libc::EINVAL, "{refused}");
    drop(client);
}

/// Without a look at the tier, so that only the servers' word counts: files that are gone are nobody's word.
#[test]
fn what_tier_1_does_not_list_is_not_durable() {
    let (cluster, client, checkpoints) = start();
    save(&checkpoints, 1, &Options::default());
    checkpoints.wait(SET, 1, Level::Durable, PATIENCE).expect("durable");
    let mut config = fs_client::ClientConfig::new(cluster.file().clone());
    config.cluster.tier = Some("/no/tier/here".into());
    let blind = Checkpoints::open(Client::connect(config).expect("connect"), "/ckpt").expect("open");
    assert_eq!(blind.state(SET, 1).expect("state"), State::Durable);
    let data = client.read_dir("/ckpt/set/data").expect("list").next().expect("one").expect("entry");
    for name in ["0", "seal"] {
        client
            .remove_file(format!("/ckpt/set/data/{}/r0/{name}", String::from_utf8_lossy(&data.name)))
            .expect("remove");
        assert_eq!(blind.state(SET, 1).expect("state"), State::Committed, "without {name}");
    }
}

#[test]
fn what_tier_1_lost_is_read_from_the_shared_tier() {
    let (_cluster, client, checkpoints) = start();
    save(&checkpoints, 1, &Options::default());
    checkpoints.wait(SET, 1, Level::Durable, PATIENCE).expect("durable");
    // Damage in tier 1 alone: what is written without closing is not flushed before it is read here.
    let data = client.read_dir("/ckpt/set/data").expect("list").next().expect("one").expect("entry");
    let path = format!("/ckpt/set/data/{}/r0/0", String::from_utf8_lossy(&data.name));
    let how = fs_client::OpenOptions { write: true, ..fs_client::OpenOptions::default() };
    let file = client.open_path(&path, &how).expect("open");
    file.write_at(b"damage", MIB as u64 + 5).expect("write");
    assert!(read(&checkpoints, 1).expect("read") == bytes(1, 2 * MIB + 77));
    checkpoints.snapshot(SET, 1).expect("snapshot").verify().expect("whole");
}

/// The shared tier as a client sees it that is broken: a file is where a directory should be.
#[test]
fn a_broken_shared_tier_hides_nothing_of_tier_1() {
    let (cluster, _, checkpoints) = start();
    let broken = tempfile::tempdir().expect("a directory");
    std::fs::write(broken.path().join("ckpt"), b"no directory").expect("write");
    let mut config = fs_client::ClientConfig::new(cluster.file().clone());
    config.cluster.tier = Some(broken.path().to_owned());
    let looks = Checkpoints::open(Client::connect(config).expect("connect"), "/ckpt").expect("open");
    // Nothing to restart from would be a wrong answer.
    assert!(matches!(looks.latest(SET), Err(Error::Tier { .. })), "{:?}", looks.latest(SET));
    save(&checkpoints, 1, &Options::default());
    assert_eq!(looks.latest(SET).expect("latest"), Some(1));
    assert_eq!(looks.versions(SET).expect("versions"), [1]);
    assert_eq!(looks.list(SET).expect("list").len(), 1);
    assert_eq!(looks.sets().expect("sets"), [SET]);
    assert!(read(&looks, 1).expect("read") == bytes(1, 2 * MIB + 77));
}

#[test]
fn another_cluster_restarts_from_the_shared_tier() {
    let (cluster, _, checkpoints) = start();
    save(&checkpoints, 1, &Options::default());
    save(&checkpoints, 2, &Options { flush: Some("never".to_owned()), ..Options::default() });
    checkpoints.wait(SET, 1, Level::Durable, PATIENCE).expect("durable");
    let copy = tempfile::tempdir().expect("a directory");
    let copied = std::process::Command::new("cp")
        .arg("-r")
        .arg(cluster.tier().expect("tier"))
        .arg(copy.path())
        .status();
    assert!(copied.expect("cp").success());
    let empty = Cluster::start(2);
    let mut config = fs_client::ClientConfig::new(empty.file().clone());
    config.cluster.tier = Some(copy.path().join("tier"));
    let restarted = Checkpoints::open(Client::connect(config).expect("connect"), "/ckpt").expect("open");
    // The manifest of version 2 may be there, its data are not.
    assert_eq!(restarted.latest(SET).expect("latest"), Some(1));
    assert!(read(&restarted, 1).expect("read") == bytes(1, 2 * MIB + 77));
    assert!(matches!(restarted.begin(SET, 1, 0, 1), Err(Error::VersionExists { .. })));
    assert_eq!(restarted.state(SET, 1).expect("state"), State::Durable);
    // Damage in the tier is found.
    let data = std::fs::read_dir(copy.path().join("tier/ckpt/set/data")).expect("data");
    let field =
        data.map(|entry| entry.expect("entry").path().join("r0/0")).find(|path| path.exists()).expect("data");
    let mut content = std::fs::read(&field).expect("read");
    content[MIB + 3] ^= 1;
    std::fs::write(&field, content).expect("write");
    let damaged = read(&restarted, 1).expect_err("damaged");
    assert!(matches!(damaged, Error::Corrupt { .. }), "{damaged}");
}

/// The cluster of the next job, and its checkpoints: its shared tier has what this one's has now.
fn next_job(cluster: &Cluster) -> (Cluster, Checkpoints) {
    let next = Cluster::with(ClusterOptions { servers: 2, tier: true, ..ClusterOptions::default() });
    let content = cluster.tier().expect("tier").join(".");
    // Again, if something was being flushed meanwhile.
    hayate_tests::until("the shared tier is copied", || {
        let copied =
            std::process::Command::new("cp").arg("-a").arg(&content).arg(next.tier().expect("tier")).status();
        copied.expect("cp").success()
    });
    let checkpoints = Checkpoints::open(next.client(), "/ckpt").expect("open").with_group("next");
    (next, checkpoints)
}

/// The mark that a restart failed goes to the shared tier, and holds for who begins there with nothing else.
#[test]
fn a_version_that_failed_is_skipped_by_the_next_job() {
    let (cluster, _, checkpoints) = start();
    for version in [1, 2] {
        save(&checkpoints, version, &Options::default());
        checkpoints.wait(SET, version, Level::Durable, PATIENCE).expect("durable");
    }
    assert_eq!(next_job(&cluster).1.latest(SET).expect("latest"), Some(2), "before it failed");
    checkpoints.finish(SET, 2, false).expect("remembered");
    let versions = cluster.tier().expect("tier").join("ckpt").join(SET).join("versions");
    hayate_tests::until("the mark is in the shared tier", || {
        let mut names = std::fs::read_dir(&versions).expect("list").map(|entry| entry.expect("entry"));
        names.any(|entry| entry.file_name().to_string_lossy().contains(".failed-"))
    });
    let (_next, restarted) = next_job(&cluster);
    assert_eq!(restarted.latest(SET).expect("latest"), Some(1));
    assert_eq!(restarted.versions(SET).expect("versions"), [1]);
    assert_eq!(restarted.state(SET, 2).expect("state"), State::Failed);
    assert!(matches!(restarted.wait(SET, 2, Level::Committed, PATIENCE), Err(Error::Failed { .. })));
    assert!(read(&restarted, 1).expect("read") == bytes(1, 2 * MIB + 77));
    save(&restarted, 3, &Options::default());
    assert_eq!(restarted.latest(SET).expect("latest"), Some(3));
}

/// A byte of the shared tier changes while tier 1 is whole. DURABLE is the servers' word, the sizes and the seals, so it stays; whoever reads the bytes finds it,
/// and pruning leaves a version that can be read, here as well as in the next job.
#[test]
fn damage_in_the_shared_tier_is_found_by_who_reads_it() {
    let (cluster, _, checkpoints) = start();
    for version in [1, 2] {
        save(&checkpoints, version, &Options::default());
        checkpoints.wait(SET, version, Level::Durable, PATIENCE).expect("durable");
    }
    let data = std::fs::read_dir(cluster.tier().expect("tier").join("ckpt/set/data")).expect("list");
    let newest = data.map(|entry| entry.expect("entry").path()).max().expect("two").join("r0/0");
    let mut content = std::fs::read(&newest).expect("read");
    content[2 * MIB + 3] ^= 1;
    std::fs::write(&newest, content).expect("write");

    assert_eq!(checkpoints.state(SET, 2).expect("state"), State::Durable);
    assert_eq!(checkpoints.latest(SET).expect("latest"), Some(2));
    let snapshot = checkpoints.snapshot(SET, 2).expect("snapshot");
    snapshot.verify().expect("tier 1 has it whole");
    let found = snapshot.audit().expect("audit");
    assert!(found.len() == 1 && found[0].place.ends_with("in the shared tier"), "{found:?}");

    let (_next, restarted) = next_job(&cluster);
    assert_eq!(restarted.latest(SET).expect("latest"), Some(1));
    let damaged = read(&restarted, 2).expect_err("nothing makes up for it there");
    assert!(matches!(damaged, Error::Corrupt { .. }), "{damaged}");
    assert_eq!(restarted.prune(SET, 1).expect("prune"), [0; 0], "version 2 is newer, and 1 the last");
    assert!(read(&restarted, 1).expect("read") == bytes(1, 2 * MIB + 77));

    assert_eq!(checkpoints.prune(SET, 1).expect("prune"), [1]);
    assert!(read(&checkpoints, 2).expect("read") == bytes(2, 2 * MIB + 77), "the last that is left");
}

#[test]
fn a_version_that_failed_is_skipped() {
    let (_cluster, _, checkpoints) = start();
    for version in 1..=3 {
        save(&checkpoints, version, &Options::default());
    }
    checkpoints.finish(SET, 3, false).expect("remembered");
    checkpoints.finish(SET, 2, true).expect("nothing to remember");
    assert!(matches!(checkpoints.finish(SET, 9, false), Err(Error::NotFound { .. })));
    assert_eq!(checkpoints.latest(SET).expect("latest"), Some(2));
    assert_eq!(checkpoints.latest_below(SET, 2).expect("latest"), Some(1));
    assert_eq!(checkpoints.state(SET, 3).expect("state"), State::Failed);
    assert!(matches!(checkpoints.wait(SET, 3, Level::Committed, PATIENCE), Err(Error::Failed { .. })));
    // It counts as none of those that are kept; and its number is free once it is removed.
    assert_eq!(checkpoints.prune(SET, 2).expect("prune"), [0; 0]);
    checkpoints.remove(SET, 3).expect("remove");
    save(&checkpoints, 3, &Options::default());
    assert_eq!(checkpoints.latest(SET).expect("latest"), Some(3));
}

#[test]
fn a_pinned_version_stays() {
    let (_cluster, client, checkpoints) = start();
    let never = Options { flush: Some("never".to_owned()), ..Options::default() };
    for version in 1..=4 {
        save(&checkpoints, version, &never);
    }
    checkpoints.pin(SET, 2, true).expect("pin");
    checkpoints.pin(SET, 2, true).expect("again");
    assert!(matches!(checkpoints.pin(SET, 7, true), Err(Error::NotFound { .. })));
    assert!(checkpoints.list(SET).expect("list")[1].pinned);
    assert_eq!(checkpoints.prune(SET, 1).expect("prune"), [1, 3]);
    assert!(read(&checkpoints, 2).expect("read") == bytes(2, 2 * MIB + 77));
    checkpoints.pin(SET, 2, false).expect("unpin");
    assert_eq!(checkpoints.prune(SET, 1).expect("prune"), [2]);
    assert_eq!(client.read_dir("/ckpt/set/versions").expect("list").count(), 1, "the pin went, too");
}

/// A pin is set before each change that pruning makes: it holds, or its setter is told that it does not.
#[test]
fn a_pin_that_comes_during_pruning_holds_or_fails() {
    let (_cluster, _, checkpoints) = start();
    let never = Options { flush: Some("never".to_owned()), ..Options::default() };
    let (mut held, mut refused) = (0, 0);
    for step in 0.. {
        // The first of these two is pinned; what is older goes as well.
        let version = 2 * step as u64 + 1;
        save(&checkpoints, version, &never);
        save(&checkpoints, version + 1, &never);
        let (pinner, steps, pinned) =
            (checkpoints.clone(), AtomicUsize::new(0), Arc::new(AtomicUsize::new(2)));
        let answer = pinned.clone();
        let pruner = checkpoints.clone().with_hook(Arc::new(move |_| {
            if steps.fetch_add(1, Ordering::Relaxed) == step {
                answer.store(usize::from(pinner.pin(SET, version, true).is_ok()), Ordering::Relaxed);
            }
            Ok(())
        }));
        let removed = pruner.prune(SET, 1).expect("prune");
        match pinned.load(Ordering::Relaxed) {
            1 => {
                assert!(!removed.contains(&version), "step {step}");
                assert!(
                    read(&checkpoints, version).expect("pinned") == bytes(version, 2 * MIB + 77),
                    "step {step}"
                );
                checkpoints.pin(SET, version, false).expect("unpin");
                held += 1;
            }
            0 => refused += 1,
            _ => break, // There are no so many steps.
        }
    }
    assert!(held > 0 && refused > 0, "{held} held, {refused} refused");
}

/// Versions are committed and flushed, pruned by another thread, and read by a third, while servers restart.
#[test]
fn pruning_races_commit_flush_and_restart() {
    let kinds = [
        (Options::default(), 10),
        (Options { redundancy: Redundancy::Copies(1), ..Options::default() }, 6),
        (Options { incremental: true, ..Options::default() }, 6),
    ];
    let rounds = if std::env::var_os("HAYATE_TEST_LONG").is_some() { 8 } else { 1 };
    for (options, newest) in kinds {
        for round in 0..rounds {
            race_of_pruning(&options, newest, &format!("{options:?}, round {round}"));
        }
    }
}

/// One round, until version `newest` is there.
fn race_of_pruning(options: &Options, newest: u64, what: &str) {
    let (mut cluster, _, checkpoints) = start();
    save(&checkpoints, 1, options);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (done, checkpoints) = (&done, &checkpoints);
        let pruner = scope.spawn(move || prune_until(done, checkpoints));
        let reader = scope.spawn(move || read_until(done, checkpoints));
        let writer =
            scope.spawn(move || (2..=newest).for_each(|version| save(checkpoints, version, options)));
        for server in [1, 2] {
            cluster.restart(server);
        }
        let wrote = writer.join();
        done.store(true, Ordering::Relaxed);
        wrote.expect("writer");
        reader.join().expect("reader");
        assert!(pruner.join().expect("pruner") > 0, "{what}: nothing was pruned: this run shows nothing");
    });
    assert_eq!(checkpoints.latest(SET).expect("latest"), Some(newest), "{what}");
    assert!(read(&checkpoints, newest).expect("read") == bytes(newest, 2 * MIB + 77), "{what}");
    checkpoints.wait(SET, newest, Level::Durable, PATIENCE).expect("durable");
    checkpoints.prune(SET, 1).expect("prune");
    // The shared tier follows.
    hayate_tests::until(what, || checkpoints.versions(SET).expect("versions") == [newest]);
}

/// Prunes all but one again and again; answers how many versions went.
fn prune_until(done: &AtomicBool, checkpoints: &Checkpoints) -> usize {
    let mut removed = 0;
    while !done.load(Ordering::Relaxed) {
        match checkpoints.prune(SET, 1) {
            Ok(gone) => removed += gone.len(),
            Err(Error::FileSystem(_)) => {} // All servers are told, and one is away: the next call goes on.
            Err(e) => panic!("prune: {e}"),
        }
    }
    removed
}

/// Reads the newest version again and again.
fn read_until(done: &AtomicBool, checkpoints: &Checkpoints) {
    let mut newest = 1;
    while !done.load(Ordering::Relaxed) {
        let version = checkpoints.latest(SET).expect("latest").expect("there is always one");
        assert!(version >= newest, "{version} after {newest}");
        newest = version;
        match read(checkpoints, version) {
            Ok(found) => assert!(found == bytes(version, 2 * MIB + 77), "version {version}"),
            // It was removed meanwhile, as there is a newer one.
            Err(e) => {
                let now = checkpoints.latest(SET).expect("latest");
                assert!(now > Some(version), "version {version}: {e}");
            }
        }
    }
}

#[test]
fn the_newest_durable_version_stays() {
    let (_cluster, _, checkpoints) = start();
    let never = Options { flush: Some("never".to_owned()), ..Options::default() };
    save(&checkpoints, 1, &Options::default());
    save(&checkpoints, 2, &Options::default());
    checkpoints.wait(SET, 1, Level::Durable, PATIENCE).expect("durable");
    checkpoints.wait(SET, 2, Level::Durable, PATIENCE).expect("durable");
    save(&checkpoints, 3, &never);
    save(&checkpoints, 4, &never);
    assert_eq!(checkpoints.prune(SET, 1).expect("prune"), [1, 3]);
    save(&checkpoints, 5, &Options::default());
    checkpoints.wait(SET, 5, Level::Durable, PATIENCE).expect("durable");
    assert_eq!(checkpoints.prune(SET, 1).expect("prune"), [2, 4]);
}

#[test]
fn arrays_of_n_ranks_are_read_by_any_number() {
    let (_cluster, _, checkpoints) = start();
    let all = bytes(1, 5 * MIB + 1234);
    let share = |rank: u32, of: u32| {
        let at = |rank: u32| all.len() * rank as usize / of as usize;
        at(rank)..at(rank + 1)
    };
    let heard = together(|rank| {
        let mut writer = checkpoints.begin(SET, 1, rank, 4)?;
        let part = share(rank, 4);
        let (head, tail) = all[part.clone()].split_at(100);
        writer.write("array", tail, part.start as u64 + 100)?;
        writer.write("array", head, part.start as u64)?;
        writer.commit(true)
    });
    for verdict in heard {
        verdict.expect("commit");
    }
    for readers in [1, 2, 3, 8] {
        for rank in 0..readers {
            let part = share(rank, readers);
            let mut found = vec![9; part.len()];
            let read = checkpoints.read(SET, 1, "array", part.start as u64, &mut found).expect("read");
            assert!(read == part.len() && found == all[part], "rank {rank} of {readers}");
        }
    }
    checkpoints.snapshot(SET, 1).expect("snapshot").verify().expect("whole");
}

#[test]
fn holes_are_zero_and_the_highest_rank_counts() {
    let (_cluster, _, checkpoints) = start();
    let far = 700 << 30;
    let writers: Vec<_> = (0..2)
        .map(|rank| {
            let mut writer = checkpoints.begin(SET, 1, rank, 2).expect("begin");
            writer.write("x", &[rank as u8 + 1; 10], 5 + u64::from(rank) * 5).expect("write");
            writer.write("x", &[rank as u8 + 3; 10], far + u64::from(rank) * 20).expect("write");
            writer
        })
        .collect();
    for writer in writers {
        writer.seal(true).expect("seal");
    }
    let snapshot = checkpoints.snapshot(SET, 1).expect("snapshot");
    assert_eq!(snapshot.size("x").expect("size"), far + 30);
    let mut found = [9; 25];
    assert_eq!(snapshot.read("x", 0, &mut found).expect("read"), 25);
    assert_eq!(found, [[0; 5], [1; 5], [2; 5], [2; 5], [0; 5]].as_flattened());
    assert_eq!(snapshot.read("x", far, &mut found).expect("read"), 25);
    assert_eq!(found, [[3; 5], [3; 5], [0; 5], [0; 5], [4; 5]].as_flattened());
    snapshot.verify().expect("whole");
    assert_eq!(snapshot.bytes(), 40);
}

#[test]
fn a_routed_region_is_written_by_its_path() {
    let (_cluster, client, checkpoints) = start();
    let mounted = checkpoints.clone().with_mount("/mnt/h".as_ref());
    let mut writer = mounted.begin(SET, 1, 0, 1).expect("begin");
    let path = writer.route("output").expect("route");
    let path = path.strip_prefix("/mnt/h").expect("in the mount");
    let content = bytes(1, 3 * MIB + 5);
    assert!(matches!(writer.write("output", &[1], 0), Err(Error::Invalid(_))));
    assert!(matches!(writer.route("output"), Err(Error::Invalid(_))));
    client.put(std::path::Path::new("/").join(path), &content, 0o644).expect("written by somebody");
    writer.commit(true).expect("commit");
    let mut found = vec![0; content.len()];
    checkpoints.read(SET, 1, "output", 0, &mut found).expect("read");
    assert!(found == content);
}

#[test]
fn protected_regions_are_saved_and_restored_together() {
    struct Plate {
        step: [u8; 8],
        field: Vec<u8>,
    }
    let (_cluster, _, checkpoints) = start();
    let mut protected = Protected::new();
    protected.add("step", 0, |plate: &Plate| &plate.step, |plate| &mut plate.step);
    protected.add("field", 10, |plate: &Plate| &plate.field, |plate| &mut plate.field);
    let mut writer = checkpoints.begin(SET, 1, 0, 1).expect("begin");
    let mut plate = Plate { step: 7u64.to_le_bytes(), field: bytes(1, MIB) };
    protected.save(&mut writer, &plate).expect("save");
    (plate.step, plate.field[0]) = ([0; 8], 0);
    writer.commit(true).expect("commit");
    let snapshot = checkpoints.snapshot(SET, 1).expect("snapshot");
    protected.restore(&snapshot, &mut plate).expect("restore");
    assert!(plate.step == 7u64.to_le_bytes() && plate.field == bytes(1, MIB));
    plate.field.push(0);
    assert!(matches!(protected.restore(&snapshot, &mut plate), Err(Error::Invalid(_))));
}
