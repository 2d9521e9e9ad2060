//! Goal: incremental and compressed versions are what was written, take less room, and are there as long as a version needs them. Method: versions that differ
//! in few blocks, sizes of what is stored, pruning at every point and at the same time.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use fs_client::Client;
use hayate_tests::{Cluster, ClusterOptions};
use libio::{Checkpoints, Error, Options, Redundancy};

const SET: &str = "set";
const MIB: usize = 1 << 20;
const BYTES: usize = 6 * MIB + 500;

fn start() -> (Cluster, Client, Checkpoints) {
    let cluster = Cluster::with(ClusterOptions { servers: 3, ..ClusterOptions::default() });
    let client = cluster.client();
    let checkpoints = Checkpoints::open(client.clone(), "/ckpt").expect("open").with_group("first");
    (cluster, client, checkpoints)
}

fn incremental() -> Options {
    Options { incremental: true, ..Options::default() }
}

/// Noise: nothing compresses it.
fn noise(seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    (0..BYTES)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        })
        .collect()
}

/// What version `version` is: noise, of which each version has changed one block more.
fn content(version: u64) -> Vec<u8> {
    let mut content = noise(42);
    for changed in 1..=version {
        content[(changed as usize * MIB + 77) % BYTES] = changed as u8;
    }
    content
}

fn save(checkpoints: &Checkpoints, version: u64, content: &[u8], options: &Options) {
    let mut writer = checkpoints.begin_with(SET, version, 0, 1, options).expect("begin");
    let (head, tail) = content.split_at(content.len() / 3);
    writer.write("field", tail, head.len() as u64).expect("write");
    writer.write("field", head, 0).expect("write");
    writer.commit(true).expect("commit");
}

fn assert_is(checkpoints: &Checkpoints, version: u64, content: &[u8]) {
    let snapshot = checkpoints.snapshot(SET, version).expect("snapshot");
    let mut found = vec![9; content.len() + 3];
    assert_eq!(snapshot.read("field", 0, &mut found).expect("read"), content.len());
    assert!(found[..content.len()] == *content, "version {version}");
    let mut part = [0; 5000];
    snapshot.read("field", MIB as u64 - 2000, &mut part).expect("read");
    assert!(part == content[MIB - 2000..MIB + 3000], "version {version}");
    snapshot.verify().expect("verify");
}

/// Bytes of the data that version `version` has of its own.
fn stored(client: &Client, version: u64) -> u64 {
    let name = format!("{version:020}.");
    let mut bytes = 0;
    for attempt in client.read_dir("/ckpt/set/data").expect("list") {
        let attempt = String::from_utf8_lossy(&attempt.expect("entry").name).into_owned();
        let path = format!("/ckpt/set/data/{attempt}/r0/0");
        bytes += if attempt.starts_with(&name) { client.stat(path).expect("stat").size } else { 0 };
    }
    bytes
}

#[test]
fn unchanged_blocks_are_not_stored_again() {
    let (_cluster, client, checkpoints) = start();
    for version in 1..=4 {
        save(&checkpoints, version, &content(version), &incremental());
        assert_is(&checkpoints, version, &content(version));
    }
    assert_eq!(stored(&client, 1), BYTES as u64);
    for version in 2..=4 {
        assert_eq!(stored(&client, version), MIB as u64, "one block differs from version {}", version - 1);
    }
    // The same again: nothing at all.
    save(&checkpoints, 5, &content(4), &incremental());
    assert_eq!(stored(&client, 5), 0);
    assert_is(&checkpoints, 5, &content(4));
    // Shorter, and longer: only the last block is another.
    save(&checkpoints, 6, &content(4)[..BYTES - 10], &incremental());
    assert_eq!(stored(&client, 6), 490);
    assert_is(&checkpoints, 6, &content(4)[..BYTES - 10]);
}

#[test]
fn what_is_needed_stays_when_its_version_goes() {
    let (_cluster, client, checkpoints) = start();
    for version in 1..=3 {
        save(&checkpoints, version, &content(version), &incremental());
    }
    assert_eq!(checkpoints.prune(SET, 1).expect("prune"), [1, 2]);
    assert_eq!(checkpoints.versions(SET).expect("versions"), [3]);
    assert_is(&checkpoints, 3, &content(3));
    save(&checkpoints, 4, &content(4), &incremental());
    assert_eq!(stored(&client, 4), MIB as u64);
    assert_eq!(checkpoints.prune(SET, 1).expect("prune"), [3]);
    assert_is(&checkpoints, 4, &content(4));
    // A version that needs none of them lets all go.
    save(&checkpoints, 5, &noise(7), &incremental());
    assert_eq!(checkpoints.prune(SET, 1).expect("prune"), [4]);
    assert_is(&checkpoints, 5, &noise(7));
    let left: Vec<_> =
        client.read_dir("/ckpt/set/data").expect("list").map(|entry| entry.expect("entry").name).collect();
    assert_eq!(left.len(), 1, "{left:?}");
    let versions =
        client.read_dir("/ckpt/set/versions").expect("list").map(|entry| entry.expect("entry").name);
    assert_eq!(versions.count(), 1, "marks of needs are gone");
}

/// A removed version whose files another one needs vanishes from sight, also where copies of its manifest said that it is there.
#[test]
fn a_needed_version_with_copies_vanishes_from_sight() {
    let (_cluster, client, checkpoints) = start();
    let options = Options { redundancy: Redundancy::Copies(1), ..incremental() };
    for version in 1..=2 {
        save(&checkpoints, version, &content(version), &options);
    }
    assert_eq!(checkpoints.prune(SET, 1).expect("prune"), [1]);
    assert_eq!(checkpoints.versions(SET).expect("versions"), [2]);
    assert_is(&checkpoints, 2, &content(2));
    save(&checkpoints, 3, &noise(7), &options);
    assert_eq!(checkpoints.prune(SET, 1).expect("prune"), [2]);
    let left: Vec<_> =
        client.read_dir("/ckpt/set/data").expect("list").map(|entry| entry.expect("entry").name).collect();
    assert_eq!(left.len(), 1, "{left:?}");
}

#[test]
fn an_attempt_that_was_given_up_needs_nothing() {
    let (_cluster, client, checkpoints) = start();
    save(&checkpoints, 1, &content(1), &incremental());
    drop(checkpoints.begin_with(SET, 2, 0, 1, &incremental()).expect("begin"));
    save(&checkpoints, 3, &noise(9), &Options::default());
    assert_eq!(checkpoints.prune(SET, 1).expect("prune"), [1]);
    assert_eq!(stored(&client, 1), 0);
    assert_is(&checkpoints, 3, &noise(9));
}

#[test]
fn pruning_at_the_same_time_takes_nothing_away() {
    let (_cluster, _, checkpoints) = start();
    save(&checkpoints, 1, &content(1), &incremental());
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for version in 2..=12 {
                let options = incremental();
                let began = checkpoints.begin_with(SET, version, 0, 1, &options);
                let done = began.and_then(|mut writer| {
                    writer.write("field", &content(version), 0)?;
                    writer.commit(true)
                });
                assert!(matches!(done, Ok(()) | Err(Error::Aborted { .. })), "{done:?}");
            }
        });
        while !writer.is_finished() {
            checkpoints.prune(SET, 1).expect("prune");
            let latest = checkpoints.latest(SET).expect("latest").expect("there is always one");
            match checkpoints.snapshot(SET, latest).and_then(|snapshot| snapshot.verify()) {
                Ok(()) | Err(Error::NotFound { .. }) => {} // Pruned since.
                Err(e) => assert!(checkpoints.latest(SET).expect("latest") > Some(latest), "{e}"),
            }
        }
    });
    let latest = checkpoints.latest(SET).expect("latest").expect("one");
    assert_is(&checkpoints, latest, &content(latest));
}

#[test]
fn pruning_at_any_step_of_a_beginning_takes_nothing_away() {
    // Goal: also marks that are being written are marks. Method: pruning before every change that a beginning makes; the version before needs an older one, which is invisible.
    let (_cluster, _, checkpoints) = start();
    for version in 1..=3 {
        save(&checkpoints, version, &content(version), &incremental());
    }
    let (pruner, steps) = (checkpoints.clone(), Arc::new(AtomicUsize::new(0)));
    let counted = steps.clone();
    let pruned_at = checkpoints.clone().with_hook(Arc::new(move |_| {
        counted.fetch_add(1, Ordering::Relaxed);
        pruner.prune(SET, 1).map(drop)
    }));
    save(&pruned_at, 4, &content(4), &incremental());
    assert!(steps.load(Ordering::Relaxed) > 20);
    assert_is(&checkpoints, 4, &content(4));
}

#[test]
fn a_version_that_is_removed_while_another_begins_is_not_used() {
    // Goal: removal at any step of a beginning, of the version that it would use. Method: removal before each change in turn.
    let (_cluster, client, checkpoints) = start();
    let mut reused = Vec::new();
    for (at, base) in (1..30).zip((10..).step_by(10)) {
        save(&checkpoints, base, &content(base), &incremental());
        save(&checkpoints, base + 1, &content(base + 1), &incremental());
        let (remover, step) = (checkpoints.clone(), AtomicUsize::new(0));
        let removed_at = checkpoints.clone().with_hook(Arc::new(move |_| {
            if step.fetch_add(1, Ordering::Relaxed) == at {
                remover.remove(SET, base + 1)?;
            }
            Ok(())
        }));
        save(&removed_at, base + 2, &content(base + 2), &incremental());
        assert_is(&checkpoints, base + 2, &content(base + 2));
        reused.push(stored(&client, base + 2) < BYTES as u64);
    }
    assert!(reused.contains(&true) && reused.contains(&false), "{reused:?}");
}

#[test]
fn blocks_are_compressed_where_it_pays() {
    let (_cluster, client, checkpoints) = start();
    let mut half = noise(3);
    half[..4 * MIB].fill(7);
    let options = Options { compress: Some(1), ..Options::default() };
    save(&checkpoints, 1, &half, &options);
    assert_is(&checkpoints, 1, &half);
    let bytes = stored(&client, 1);
    let rest = (BYTES - 4 * MIB) as u64;
    assert!((rest..rest + 4096).contains(&bytes), "{bytes} instead of {rest}");
    // Both: compressed blocks of the version before are used again.
    let both = Options { incremental: true, ..options };
    save(&checkpoints, 2, &half, &both);
    half[0] = 1;
    save(&checkpoints, 3, &half, &both);
    assert!(stored(&client, 3) < 4096, "{}", stored(&client, 3));
    assert_is(&checkpoints, 3, &half);
}

#[test]
fn pieces_and_second_writes_are_stored_as_written() {
    let (_cluster, _, checkpoints) = start();
    let mut model = vec![0; 40 * MIB];
    let options = Options { incremental: true, compress: Some(1), ..Options::default() };
    for version in 1..=2 {
        let mut writer = checkpoints.begin_with(SET, version, 0, 1, &options).expect("begin");
        let mut write = |offset: usize, bytes: usize, fill: u8| {
            model[offset..offset + bytes].fill(fill);
            writer.write("field", &vec![fill; bytes], offset as u64).expect("write");
        };
        for block in 0..40 {
            write(block * MIB + 10, 100, block as u8 + version as u8); // More open blocks than are kept.
        }
        write(0, 40 * MIB, 9);
        write(3 * MIB + 5, 2 * MIB, 8); // Blocks that were stored already.
        write(10, 5, version as u8);
        write(7 * MIB - 3, 6, 3);
        writer.commit(true).expect("commit");
        assert_is(&checkpoints, version, &model);
    }
}

#[test]
fn copies_and_parity_hold_for_packed_regions() {
    for redundancy in [Redundancy::Copies(1), Redundancy::Parity { data: 2, extra: 1 }] {
        let mut cluster = Cluster::start(3);
        let open = |cluster: &Cluster| {
            Checkpoints::open(cluster.client(), "/ckpt").expect("open").with_group("first")
        };
        let checkpoints = open(&cluster);
        let options = Options { redundancy, compress: Some(1), ..incremental() };
        save(&checkpoints, 1, &content(1), &options);
        save(&checkpoints, 2, &content(2), &options);
        cluster.stop(1);
        let dirs = std::fs::read_dir(cluster.store_dir(1).parent().expect("above")).expect("list");
        for dir in dirs.map(|entry| entry.expect("entry").path()) {
            if dir.to_string_lossy().contains("store-1") {
                std::fs::remove_dir_all(dir).expect("remove");
            }
        }
        cluster.restart(1);
        let after = open(&cluster);
        assert_eq!(after.latest(SET).expect("latest"), Some(2), "{redundancy:?}");
        assert_is(&after, 2, &content(2));
    }
}
