//! Goal: what cannot be is refused with the documented error on every rank, and the versions before it stay as they are. Method: two ranks each time, in a real cluster
//! with a shared tier; a version before, read byte for byte afterwards.

use std::sync::Barrier;
use std::time::Duration;

use fs_client::Client;
use hayate_tests::{Cluster, ClusterOptions};
use libio::{Checkpoints, Error, Level, Options, Redundancy, Result, State};

const SET: &str = "set";
const BYTES: usize = 3 << 20;
const PATIENCE: Duration = Duration::from_secs(60);
/// What each server of a small cluster may keep.
const CAPACITY: u64 = 192 << 20;

fn content(version: u64, rank: u32) -> Vec<u8> {
    (0..BYTES as u64).map(|at| (at * 31 + version * 7 + u64::from(rank) * 3 + (at >> 9)) as u8).collect()
}

fn cluster() -> Cluster {
    Cluster::with(ClusterOptions { servers: 3, tier: true, ..ClusterOptions::default() })
}

fn open(client: Client) -> Checkpoints {
    Checkpoints::open(client, "/ckpt").expect("open").with_group("run")
}

fn rank_saves(checkpoints: &Checkpoints, version: u64, rank: u32, options: &Options) -> Result<()> {
    let mut writer = checkpoints.begin_with(SET, version, rank, 2, options)?;
    writer.write("field", &content(version, rank), u64::from(rank) * BYTES as u64)?;
    writer.commit(true)
}

/// Both ranks at the same time; what each heard.
fn both(work: impl Fn(u32) -> Result<()> + Sync) -> [Result<()>; 2] {
    std::thread::scope(|scope| {
        let work = &work;
        [0, 1].map(|rank| scope.spawn(move || work(rank))).map(|thread| thread.join().expect("no panic"))
    })
}

fn save(checkpoints: &Checkpoints, version: u64, options: &Options) {
    for heard in both(|rank| rank_saves(checkpoints, version, rank, options)) {
        heard.expect("saved");
    }
}

/// That version 1 is offered, and every byte of it is right.
fn assert_old_is_whole(checkpoints: &Checkpoints) {
    assert_eq!(checkpoints.latest(SET).expect("latest"), Some(1));
    for rank in 0..2 {
        let mut found = vec![0; BYTES];
        checkpoints.read(SET, 1, "field", u64::from(rank) * BYTES as u64, &mut found).expect("read");
        assert!(found == content(1, rank), "rank {rank}");
    }
}

#[test]
fn wrong_numbers_of_ranks() {
    let cluster = cluster();
    let checkpoints = open(cluster.client());
    save(&checkpoints, 1, &Options::default());
    let begun = Barrier::new(2);
    let heard = both(|rank| {
        // Rank 1 comes when rank 0 has begun, and thinks that there are three.
        if rank == 0 {
            let writer = checkpoints.begin(SET, 2, 0, 2);
            begun.wait();
            return writer?.commit(true);
        }
        begun.wait();
        checkpoints.begin(SET, 2, 1, 3)?.commit(true)
    });
    let [Err(first), Err(second)] = heard else { panic!("{heard:?}") };
    assert!(matches!(&first, Error::Aborted { reason, .. } if reason.contains("3 ranks, not 2")), "{first}");
    assert!(matches!(second, Error::RanksDiffer { theirs: 2, ours: 3, .. }), "{second}");
    assert_eq!((first.errno(), second.errno()), (libc::ECANCELED, libc::EINVAL));
    let none = both(|rank| checkpoints.begin(SET, 2, rank + 2, 2).map(drop));
    assert!(none.iter().all(|heard| matches!(heard, Err(Error::Invalid(_)))), "{none:?}");
    assert_old_is_whole(&checkpoints);
    save(&checkpoints, 2, &Options::default());
    assert_eq!(checkpoints.latest(SET).expect("latest"), Some(2));
}

#[test]
fn two_groups_on_one_version() {
    let cluster = cluster();
    let first = open(cluster.client());
    let second = first.clone().with_group("another");
    save(&first, 1, &Options::default());
    let writers = [0, 1].map(|rank| first.begin(SET, 2, rank, 2).expect("begin"));
    let theirs = [0, 1].map(|rank| second.begin(SET, 2, rank, 2).expect("it takes over"));
    for writer in writers {
        let heard = writer.commit(true).expect_err("taken over");
        assert!(matches!(&heard, Error::Superseded { by, .. } if by == "another"), "{heard}");
        assert_eq!(heard.errno(), libc::EBUSY);
    }
    drop(theirs);
    assert_old_is_whole(&first);
}

#[test]
fn names_that_are_too_long() {
    let cluster = cluster();
    let checkpoints = open(cluster.client());
    save(&checkpoints, 1, &Options::default());
    let long = "n".repeat(1000);
    let heard = both(|rank| checkpoints.begin(&long, 2, rank, 2).map(drop));
    assert!(heard.iter().all(|heard| matches!(heard, Err(e) if e.errno() == libc::EINVAL)), "{heard:?}");
    // A region's name is refused, and the version can be written all the same. Who writes when the other has given up is told of that.
    let written = Barrier::new(2);
    let heard = both(|rank| {
        let mut writer = checkpoints.begin(SET, 2, rank, 2)?;
        let refused = writer.write(&long, &[1], 0).expect_err("too long");
        assert_eq!(refused.errno(), libc::EINVAL);
        let wrote = writer.write("field", &[1], u64::from(rank));
        written.wait();
        wrote?;
        writer.abort()
    });
    assert!(heard.iter().all(Result::is_ok), "{heard:?}");
    assert_old_is_whole(&checkpoints);
}

/// Servers that take only so much: one rank cannot write all that it wants, the other could.
#[test]
fn out_of_space() {
    for redundancy in [Redundancy::None, Redundancy::Copies(1), Redundancy::Parity { data: 2, extra: 1 }] {
        let options = ClusterOptions { servers: 3, ..ClusterOptions::default() };
        let cluster = Cluster::configured(options, |server| server.capacity = Some(CAPACITY));
        let checkpoints = open(cluster.client());
        let options = Options { redundancy, ..Options::default() };
        save(&checkpoints, 1, &options);
        let heard = both(|rank| {
            let mut writer = checkpoints.begin_with(SET, 2, rank, 2, &options)?;
            writer.write("small", &[1], u64::from(rank))?;
            let (piece, mut at) = (content(2, rank), 0);
            let mut failed = None;
            while rank == 0 && failed.is_none() && at < 8 * CAPACITY {
                failed = writer.write("large", &piece, at).err();
                at += BYTES as u64;
            }
            // An application that does not look at what its writes say hears it here.
            let verdict = writer.commit(true);
            failed.map_or(verdict, Err)
        });
        let [Err(full), Err(other)] = heard else { panic!("{redundancy:?}: {heard:?}") };
        assert_eq!(full.errno(), libc::ENOSPC, "{redundancy:?}: {full}");
        assert!(
            matches!(&other, Error::Aborted { reason, .. } if reason.contains("rank 0 failed")),
            "{other}"
        );
        assert_eq!(other.errno(), libc::ECANCELED);
        assert_old_is_whole(&checkpoints);
        // Room is made, and the next version fits.
        checkpoints.prune(SET, 1).expect("prune");
        let end = std::time::Instant::now() + PATIENCE;
        while let Err(e) =
            both(|rank| rank_saves(&checkpoints, 3, rank, &options)).into_iter().collect::<Result<Vec<()>>>()
        {
            assert!(std::time::Instant::now() < end, "{redundancy:?}: {e}");
        }
        assert_eq!(checkpoints.latest(SET).expect("latest"), Some(3));
    }
}

/// The shared tier's directory is taken away, and later it comes back.
#[test]
fn the_shared_tier_is_gone() {
    let cluster = cluster();
    let checkpoints = open(cluster.client());
    save(&checkpoints, 1, &Options::default());
    checkpoints.wait(SET, 1, Level::Durable, PATIENCE).expect("durable");
    let tier = cluster.tier().expect("a tier").to_owned();
    let away = tier.with_extension("away");
    std::fs::rename(&tier, &away).expect("taken away");
    save(&checkpoints, 2, &Options::default());
    let heard = both(|_| checkpoints.wait(SET, 2, Level::Durable, Duration::from_millis(200)));
    for heard in heard {
        let heard = heard.expect_err("there is no tier");
        assert!(matches!(heard, Error::TimedOut { .. } | Error::Tier { .. }), "{heard}");
    }
    assert_eq!(checkpoints.state(SET, 2).expect("state"), State::Committed);
    assert_eq!(checkpoints.latest(SET).expect("latest"), Some(2));
    checkpoints.finish(SET, 2, false).expect("remembered");
    assert_old_is_whole(&checkpoints);
    std::fs::rename(&away, &tier).expect("back");
    save(&checkpoints, 3, &Options::default());
    checkpoints.wait(SET, 3, Level::Durable, PATIENCE).expect("durable");
}

/// A cluster without a shared tier says so, on every rank, and at once.
#[test]
fn there_never_was_a_shared_tier() {
    let cluster = Cluster::start(2);
    let checkpoints = open(cluster.client());
    save(&checkpoints, 1, &Options::default());
    let heard = both(|_| checkpoints.wait(SET, 1, Level::Durable, PATIENCE));
    assert!(heard.iter().all(|heard| matches!(heard, Err(Error::Invalid(_)))), "{heard:?}");
    assert_old_is_whole(&checkpoints);
}
