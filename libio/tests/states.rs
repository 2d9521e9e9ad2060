//! Goal: every rank hears the same of a version, it comes to the shared tier by itself, and what cannot be restarted from is not
//! offered. Method: a real cluster with a shared tier in this process, ranks as threads.

use std::time::{Duration, Instant};

use fs_client::Client;
use hayate_tests::{Cluster, ClusterOptions};
use libio::{Checkpoints, Error, Level, Options, Protected, Result, State, Writer};

const SET: &str = "set";
const MIB: usize = 1 << 20;
const PATIENCE: Duration = Duration::from_secs(60);

fn start() -> (Cluster, Client, Checkpoints) {
    let cluster = Cluster::with(ClusterOptions { servers: 3, tier: true, ..ClusterOptions::default() });
    let client = cluster.client();
    let checkpoints = Checkpoints::open(client.clone(), "/ckpt").expect("open").with_group("first");
    (cluster, client, checkpoints)
}

fn bytes(version: u64, len: usize) -> Vec<u8> {
    (0..len as u64).map(|at| (at * 7 + version * 13 + (at >> 9)) as u8).collect()
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
    assert!(began.elapsed() < PATIENCE, "nobody waits for who said no");
    assert_eq!(checkpoints.state(SET, 2).expect("state"), State::Aborted);
    assert_eq!(checkpoints.latest(SET).expect("latest"), Some(1));
    for heard in together(|rank| rank_saves(&checkpoints, 2, rank, PATIENCE, true)) {
        heard.expect("commit");
    }
    assert_eq!(checkpoints.latest(SET).expect("latest"), Some(2));
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
    assert!(began.elapsed() < PATIENCE);
    for verdict in &heard[..3] {
        let verdict = verdict.as_ref().expect_err("rank 3 did not come");
        assert!(matches!(verdict, Error::Aborted { reason, .. } if reason.contains("4 ranks")), "{verdict}");
    }
    assert_eq!(checkpoints.latest(SET).expect("latest"), Some(1));
    assert!(matches!(checkpoints.wait(SET, 2, Level::Sealed, PATIENCE), Err(Error::Aborted { .. })));
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
