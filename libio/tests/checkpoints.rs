//! Goal: a version is there wholly or not at all, whatever ranks do; damage is found; removing keeps what must be kept.
//! Method: a real cluster in this process, ranks as threads or, where the order matters, as writers of one thread.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use fs_client::{Client, FileKind, OpenOptions};
use hayate_tests::Cluster;
use libio::{Checkpoints, Error, Level, Options, Redundancy};

const ROOT: &str = "/ckpt";
const SET: &str = "set";
const MIB: usize = 1 << 20;

fn start() -> (Cluster, Client, Checkpoints) {
    let cluster = Cluster::start(2);
    let client = cluster.client();
    let checkpoints = Checkpoints::open(client.clone(), ROOT).expect("open").with_group("first");
    (cluster, client, checkpoints)
}

/// What `rank` writes into `version`: no two alike.
fn content(version: u64, rank: u32, bytes: usize) -> Vec<u8> {
    (0..bytes).map(|i| (i as u64 * 31 + version * 7 + u64::from(rank) * 3 + (i as u64 >> 8)) as u8).collect()
}

fn field(rank: u32) -> String {
    format!("field.{rank}")
}

fn bytes_of(rank: u32) -> usize {
    2 * MIB + 1000 + rank as usize
}

fn write_rank(checkpoints: &Checkpoints, version: u64, rank: u32, nranks: u32) -> libio::Writer {
    let mut writer = checkpoints.begin(SET, version, rank, nranks).expect("begin");
    let data = content(version, rank, bytes_of(rank));
    let (head, tail) = data.split_at(MIB / 2);
    writer.write(&field(rank), tail, head.len() as u64).expect("write");
    writer.write(&field(rank), head, 0).expect("write");
    writer.write("step", &version.to_le_bytes(), 0).expect("write");
    writer
}

/// All ranks, one after the other.
fn commit_all(checkpoints: &Checkpoints, version: u64, nranks: u32) {
    let writers: Vec<_> = (0..nranks).map(|rank| write_rank(checkpoints, version, rank, nranks)).collect();
    for writer in writers {
        writer.seal(true).expect("commit");
    }
}

fn assert_whole(checkpoints: &Checkpoints, version: u64, nranks: u32) {
    let snapshot = checkpoints.snapshot(SET, version).expect("snapshot");
    assert_eq!(snapshot.nranks(), nranks);
    snapshot.verify().expect("whole");
    for rank in 0..nranks {
        let mut field = vec![0; bytes_of(rank) + 10];
        let read = snapshot.read(&self::field(rank), 0, &mut field).expect("read");
        assert!(field[..read] == content(version, rank, bytes_of(rank)), "version {version}, rank {rank}");
    }
}

/// All files below `dir` whose path ends so.
fn files(client: &Client, dir: &str, end: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in client.read_dir(dir).expect("list") {
        let entry = entry.expect("entry");
        let path = format!("{dir}/{}", String::from_utf8_lossy(&entry.name));
        if entry.kind == FileKind::Directory {
            found.extend(files(client, &path, end));
        } else if path.ends_with(end) {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn flip(client: &Client, path: &str, offset: u64) {
    let how = OpenOptions { read: true, write: true, ..OpenOptions::default() };
    let file = client.open_path(path, &how).expect("open");
    let mut byte = [0];
    assert_eq!(file.read_at(&mut byte, offset).expect("read"), 1);
    file.write_at(&[byte[0] ^ 4], offset).expect("write");
    file.close().expect("close");
}

#[test]
fn four_ranks_commit_and_any_number_reads() {
    let (_cluster, _, checkpoints) = start();
    assert_eq!(checkpoints.latest(SET).expect("latest"), None);
    std::thread::scope(|scope| {
        for rank in 0..4 {
            let checkpoints = checkpoints.clone();
            scope.spawn(move || {
                for version in [1, 2] {
                    write_rank(&checkpoints, version, rank, 4).commit(true).expect("commit");
                    assert!(checkpoints.versions(SET).expect("versions").contains(&version));
                }
            });
        }
    });
    assert_eq!(checkpoints.versions(SET).expect("versions"), [1, 2]);
    assert_eq!(checkpoints.latest(SET).expect("latest"), Some(2));
    let reader = checkpoints.clone().with_group("another run");
    assert_whole(&reader, 1, 4);
    assert_whole(&reader, 2, 4);

    let regions = reader.regions(SET, 2).expect("regions");
    let names: Vec<_> = regions.iter().map(|r| (r.name.as_str(), r.bytes)).collect();
    assert_eq!(names[3..], [("field.3", bytes_of(3) as u64), ("step", 8)]);
    assert_eq!(names.len(), 5);
}

#[test]
fn reads_at_any_offset_are_exact() {
    let (_cluster, _, checkpoints) = start();
    commit_all(&checkpoints, 5, 1);
    let all = content(5, 0, bytes_of(0));
    let end = all.len();
    for (from, bytes) in
        [(0, 1), (MIB - 1, 2), (MIB, MIB), (5, 2 * MIB), (MIB, MIB + 1000), (end - 1, 50), (end, 9)]
    {
        let mut buf = vec![0; bytes];
        let read = checkpoints.read(SET, 5, "field.0", from as u64, &mut buf).expect("read");
        assert_eq!(read, bytes.min(end - from), "{bytes} bytes from {from}");
        assert!(buf[..read] == all[from..from + read], "{bytes} bytes from {from}");
    }
    let beyond = checkpoints.read(SET, 5, "field.0", u64::MAX, &mut [0; 4]);
    assert_eq!(beyond.expect("read"), 0);
}

/// Whatever becomes of the bytes on their way, and however they are cut: each buffer is overwritten as soon as `write` has returned.
#[test]
fn buffers_may_be_reused() {
    let cluster = Cluster::start(3);
    let checkpoints = Checkpoints::open(cluster.client(), ROOT).expect("open").with_group("first");
    let plain = Options::default();
    let kinds = [
        plain.clone(),
        Options { redundancy: Redundancy::Copies(1), ..plain.clone() },
        Options { redundancy: Redundancy::Parity { data: 2, extra: 1 }, ..plain.clone() },
        Options { incremental: true, ..plain.clone() },
        Options { compress: Some(1), ..plain.clone() },
        Options { incremental: true, compress: Some(1), redundancy: Redundancy::Copies(1), ..plain },
    ];
    for (kind, options) in kinds.iter().enumerate() {
        let set = format!("set.{kind}");
        // The second of incremental ones is compared with the first.
        for version in [1, 2] {
            let mut writer = checkpoints.begin_with(&set, version, 0, 1, options).expect("begin");
            let mut models = Vec::new();
            for (piece, total) in [(100, 2000), (MIB - 1, 3 * MIB + 5), (20 * MIB, 20 * MIB)] {
                let (name, model) = (format!("pieces of {piece}"), content(version / 2, kind as u32, total));
                let mut buffer = vec![0; piece];
                for (number, part) in model.chunks(piece).enumerate() {
                    buffer[..part.len()].copy_from_slice(part);
                    writer.write(&name, &buffer[..part.len()], (number * piece) as u64).expect("write");
                    buffer.fill(0xee);
                }
                models.push((name, model));
            }
            writer.commit(true).expect("commit");
            let snapshot = checkpoints.snapshot(&set, version).expect("snapshot");
            snapshot.verify().expect("whole");
            for (name, model) in models {
                let mut found = vec![0; model.len() + 1];
                let read = snapshot.read(&name, 0, &mut found).expect("read");
                assert!(found[..read] == model, "{options:?}, version {version}, {name}");
            }
        }
    }
}

#[test]
fn overlapping_writes_are_summed_as_stored() {
    let (_cluster, _, checkpoints) = start();
    let mut writer = checkpoints.begin(SET, 1, 0, 1).expect("begin");
    writer.write("a", &[1; 100], 0).expect("write");
    writer.write("a", &[2; 100], 50).expect("write");
    writer.write("a", &[3; 10], 3 * MIB as u64).expect("write");
    writer.write("empty", &[], 0).expect("write");
    writer.seal(true).expect("commit");
    let snapshot = checkpoints.snapshot(SET, 1).expect("snapshot");
    snapshot.verify().expect("whole");
    let mut buf = [9; 152];
    snapshot.read("a", 0, &mut buf).expect("read");
    assert!(buf[..50] == [1; 50] && buf[50..150] == [2; 100] && buf[150..] == [0; 2]);
    assert_eq!(snapshot.read("empty", 0, &mut buf).expect("read"), 0);
}

#[test]
fn a_rank_that_dies_leaves_the_older_version() {
    let (_cluster, _, checkpoints) = start();
    commit_all(&checkpoints, 1, 4);
    let mut writers: Vec<_> = (0..4).map(|rank| write_rank(&checkpoints, 2, rank, 4)).collect();
    let late = writers.pop().expect("four");
    writers.remove(0).seal(true).expect("sealed before");
    drop(writers.remove(0));
    for writer in [writers.remove(0), late] {
        let refused = writer.seal(true).expect_err("a rank died");
        assert!(matches!(refused, Error::Aborted { version: 2, .. }), "{refused}");
    }
    assert_eq!(checkpoints.latest(SET).expect("latest"), Some(1));
    assert!(matches!(checkpoints.snapshot(SET, 2), Err(Error::NotFound { .. })));
    let waited = checkpoints.wait(SET, 2, Level::Committed, Duration::from_secs(60)).expect_err("aborted");
    assert!(matches!(waited, Error::Aborted { .. }), "{waited}");
    assert_whole(&checkpoints, 1, 4);

    commit_all(&checkpoints, 2, 4);
    assert_eq!(checkpoints.latest(SET).expect("latest"), Some(2));
    assert_whole(&checkpoints, 2, 4);
}

#[test]
fn a_killed_run_is_followed_by_another() {
    let (_cluster, _, checkpoints) = start();
    commit_all(&checkpoints, 1, 2);
    let mut killed: Vec<_> = (0..2).map(|rank| write_rank(&checkpoints, 2, rank, 2)).collect();
    killed.remove(1).seal(true).expect("sealed before");
    std::mem::forget(killed); // As SIGKILL: nothing is told to anybody.
    let again = checkpoints.clone().with_group("second");
    commit_all(&again, 2, 2);
    assert_whole(&again, 2, 2);

    // The same group, one rank of which was started again.
    let half = write_rank(&again, 3, 0, 2);
    std::mem::forget(write_rank(&again, 3, 1, 2));
    let one = write_rank(&again, 3, 1, 2);
    assert!(matches!(half.seal(true), Err(Error::Aborted { .. })));
    one.seal(true).expect("sealed");
    write_rank(&again, 3, 0, 2).seal(true).expect("commit");
    assert_whole(&again, 3, 2);
}

#[test]
fn abort_and_late_ranks() {
    let (_cluster, _, checkpoints) = start();
    let writer = write_rank(&checkpoints, 1, 0, 2);
    writer.abort().expect("abort");
    let late = checkpoints.wait(SET, 1, Level::Committed, Duration::from_secs(60)).expect_err("aborted");
    assert!(matches!(late, Error::Aborted { .. }), "{late}");
    let late = checkpoints.begin(SET, 1, 1, 2).err().expect("given up before it came");
    assert!(matches!(late, Error::Aborted { .. }), "{late}");
    write_rank(&checkpoints, 1, 1, 2).seal(true).expect("sealed");
    let missing =
        checkpoints.wait(SET, 1, Level::Committed, Duration::from_millis(5)).expect_err("a rank is missing");
    assert!(matches!(missing, Error::TimedOut { .. }), "{missing}");
    write_rank(&checkpoints, 1, 0, 2).seal(true).expect("commit");
    assert_whole(&checkpoints, 1, 2);
}

#[test]
fn wrong_calls_are_refused_and_harm_nothing() {
    let (_cluster, _, checkpoints) = start();
    commit_all(&checkpoints, 1, 2);
    let first = write_rank(&checkpoints, 2, 0, 2);
    let wrong = checkpoints.begin(SET, 2, 1, 3).err().expect("three ranks");
    assert!(matches!(wrong, Error::RanksDiffer { theirs: 2, ours: 3, .. }), "{wrong}");
    let heard = first.commit(true).expect_err("they disagree");
    assert!(matches!(&heard, Error::Aborted { reason, .. } if reason.contains("3 ranks, not 2")), "{heard}");
    assert_whole(&checkpoints, 1, 2);
    commit_all(&checkpoints, 2, 2);
    assert_whole(&checkpoints, 2, 2);

    for (rank, nranks) in [(2, 2), (0, 0), (0, u32::MAX)] {
        assert!(
            matches!(checkpoints.begin(SET, 3, rank, nranks), Err(Error::Invalid(_))),
            "{rank} of {nranks}"
        );
    }
    assert!(matches!(checkpoints.begin("a/b", 3, 0, 1), Err(Error::Invalid(_))));
    // latest_below(u64::MAX) is all versions, so that one would never be found.
    assert!(matches!(checkpoints.begin(SET, u64::MAX, 0, 1), Err(Error::Invalid(_))));
    for (data, extra) in [(0, 1), (1, 1), (2, 0)] {
        let options = Options { redundancy: Redundancy::Parity { data, extra }, ..Options::default() };
        assert!(matches!(checkpoints.begin_with(SET, 3, 0, 1, &options), Err(Error::Invalid(_))));
    }
    let exists = checkpoints.begin(SET, 2, 0, 2).err().expect("committed");
    assert!(matches!(exists, Error::VersionExists { .. }), "{exists}");

    let mut writer = checkpoints.begin(SET, 3, 0, 1).expect("begin");
    assert!(matches!(writer.write("", &[1], 0), Err(Error::Invalid(_))));
    assert!(matches!(writer.write(&"n".repeat(256), &[1], 0), Err(Error::Invalid(_))));
    assert!(matches!(writer.write("x", &[1], u64::MAX), Err(Error::Invalid(_))));
    writer.write("x/../y\n", &[1], 0).expect("a region's name is no path");
    writer.seal(true).expect("commit");
    let mut byte = [0];
    checkpoints.read(SET, 3, "x/../y\n", 0, &mut byte).expect("read");
    assert_eq!(byte, [1]);
    assert!(matches!(checkpoints.read(SET, 3, "z", 0, &mut byte), Err(Error::NotFound { .. })));
    assert!(matches!(checkpoints.read(SET, 9, "x", 0, &mut byte), Err(Error::NotFound { .. })));
}

#[test]
fn two_groups_on_one_version() {
    let (_cluster, _, first) = start();
    let second = first.clone().with_group("second");
    commit_all(&first, 1, 2);
    let early = write_rank(&first, 2, 0, 2);
    let theirs = write_rank(&second, 2, 0, 2);
    let refused = first.begin(SET, 2, 1, 2).err().expect("taken over");
    assert!(matches!(&refused, Error::Superseded { by, .. } if by == "second"), "{refused}");
    let refused = early.seal(true).expect_err("taken over");
    assert!(matches!(&refused, Error::Superseded { by, .. } if by == "second"), "{refused}");
    assert_eq!(first.latest(SET).expect("latest"), Some(1));
    theirs.seal(true).expect("sealed");
    write_rank(&second, 2, 1, 2).seal(true).expect("commit");
    assert_whole(&first, 2, 2);
}

#[test]
fn racing_groups_never_mix() {
    let (_cluster, _, checkpoints) = start();
    for version in 1..=5 {
        std::thread::scope(|scope| {
            for member in 0..6u32 {
                let checkpoints = checkpoints.clone().with_group(&format!("g{}", member % 3));
                scope.spawn(move || {
                    let mark = [(member % 3) as u8; 100];
                    let begun = checkpoints.begin(SET, version, member / 3, 2);
                    let done = begun.and_then(|mut writer| {
                        writer.write(&format!("mark.{}", member / 3), &mark, 0)?;
                        writer.seal(true)
                    });
                    let lost = matches!(
                        done,
                        Err(Error::Superseded { .. } | Error::Aborted { .. } | Error::VersionExists { .. })
                    );
                    assert!(done.is_ok() || lost, "{done:?}");
                });
            }
        });
        if !checkpoints.versions(SET).expect("versions").contains(&version) {
            // They took it from one another; whoever comes after them gets it.
            commit_marks(&checkpoints.clone().with_group("after"), version);
        }
        let mut marks = [[0; 100], [9; 100]];
        for (rank, mark) in marks.iter_mut().enumerate() {
            checkpoints.read(SET, version, &format!("mark.{rank}"), 0, mark).expect("read");
        }
        assert_eq!(marks[0], marks[1], "both ranks of one group");
    }
}

fn commit_marks(checkpoints: &Checkpoints, version: u64) {
    for rank in 0..2 {
        let mut writer = checkpoints.begin(SET, version, rank, 2).expect("begin");
        writer.write(&format!("mark.{rank}"), &[7; 100], 0).expect("write");
        writer.seal(true).expect("commit");
    }
}

#[test]
fn damaged_data_are_found() {
    let (_cluster, client, checkpoints) = start();
    commit_all(&checkpoints, 1, 2);
    commit_all(&checkpoints, 2, 2);
    let field = files(&client, &format!("{ROOT}/{SET}/data"), "/r1/0").pop().expect("a region's file");
    flip(&client, &field, MIB as u64 + 77);
    let mut buf = vec![0; bytes_of(1)];
    let damaged = checkpoints.read(SET, 2, "field.1", 0, &mut buf).expect_err("damaged");
    assert!(matches!(&damaged, Error::Corrupt { path, .. } if *path == field), "{damaged}");
    assert!(damaged.to_string().contains("bytes 1048576 to 2097152"), "{damaged}");
    let part = checkpoints.read(SET, 2, "field.1", MIB as u64 + 500, &mut buf[..10]).expect_err("same block");
    assert!(matches!(part, Error::Corrupt { .. }), "{part}");
    assert!(checkpoints.snapshot(SET, 2).expect("snapshot").verify().is_err());
    assert_whole(&checkpoints, 1, 2);

    client.truncate_path(&field, MIB as u64).expect("cut");
    let cut = checkpoints.read(SET, 2, "field.1", MIB as u64, &mut buf[..10]).expect_err("cut");
    assert!(matches!(&cut, Error::Corrupt { what, .. } if what.contains("ends at byte")), "{cut}");
    client.remove_file(&field).expect("remove");
    let gone = checkpoints.read(SET, 2, "field.1", 0, &mut buf).expect_err("gone");
    assert!(matches!(&gone, Error::Corrupt { what, .. } if what.contains("missing")), "{gone}");

    let seal = files(&client, &format!("{ROOT}/{SET}/data"), "/r0/seal").pop().expect("a seal");
    flip(&client, &seal, 60);
    let damaged = checkpoints.regions(SET, 2).expect_err("damaged");
    assert!(matches!(&damaged, Error::Corrupt { path, .. } if *path == seal), "{damaged}");
}

#[test]
fn a_damaged_version_can_be_removed() {
    let (_cluster, client, checkpoints) = start();
    commit_all(&checkpoints, 1, 1);
    commit_all(&checkpoints, 2, 1);
    for path in files(&client, &format!("{ROOT}/{SET}/versions"), "2") {
        flip(&client, &path, 50);
    }
    assert_eq!(checkpoints.latest(SET).expect("latest"), Some(1), "a damaged manifest is passed over");
    assert!(matches!(checkpoints.begin(SET, 2, 0, 1), Err(Error::VersionExists { .. })));
    let attempts = files(&client, &format!("{ROOT}/{SET}/attempts"), "");
    for path in attempts.iter().filter(|path| path.contains("002.")) {
        flip(&client, path, 40);
    }
    checkpoints.remove(SET, 2).expect("remove");
    assert!(matches!(checkpoints.remove(SET, 2), Err(Error::NotFound { .. })));
    let left = files(&client, ROOT, "");
    assert!(left.iter().all(|path| !path.contains("0000000002")), "{left:?}");
    commit_all(&checkpoints, 2, 1);
    assert_whole(&checkpoints, 2, 1);
}

#[test]
fn prune_keeps_the_newest() {
    let (_cluster, client, checkpoints) = start();
    assert_eq!(checkpoints.prune(SET, 1).expect("prune"), [0; 0]);
    for version in 1..=4 {
        commit_all(&checkpoints, version, 2);
    }
    std::mem::forget(write_rank(&checkpoints, 0, 0, 2)); // A killed rank's leftovers, old.
    drop(write_rank(&checkpoints, 5, 0, 2)); // Given up, newer than all.
    let going_on = write_rank(&checkpoints, 6, 0, 1);
    assert_eq!(checkpoints.prune(SET, 2).expect("prune"), [1, 2]);
    assert_eq!(checkpoints.versions(SET).expect("versions"), [3, 4]);
    assert_whole(&checkpoints, 3, 2);
    assert_eq!(checkpoints.prune(SET, 0).expect("prune"), [3], "one always stays");
    assert_whole(&checkpoints, 4, 2);
    let data = client.read_dir(format!("{ROOT}/{SET}/data")).expect("list").count();
    assert_eq!(data, 2, "data of version 4 and of the writer that goes on");
    going_on.seal(true).expect("commit");
    assert_eq!(checkpoints.latest(SET).expect("latest"), Some(6));
    assert_eq!(checkpoints.prune(SET, 1).expect("prune"), [4]);
    assert_whole(&checkpoints, 6, 1);
    let left = files(&client, ROOT, "");
    assert!(left.iter().all(|path| path.contains("0000000006")), "{left:?}");
}

/// Goal: whatever part of a removal a crash cut off, the version is whole or gone, and the next call finishes.
/// Method: the removal's steps are done by hand up to each point.
#[test]
fn an_interrupted_removal_goes_on() {
    let (_cluster, client, checkpoints) = start();
    let attempts = format!("{ROOT}/{SET}/attempts");
    for done in 0..4u64 {
        let (old, new) = (done * 2 + 1, done * 2 + 2);
        commit_all(&checkpoints, old, 1);
        commit_all(&checkpoints, new, 1);
        let verdict = files(&client, &attempts, ".verdict");
        let verdict = verdict.iter().find(|path| path.contains(&format!("{old:020}."))).expect("a verdict");
        let steps = [
            format!("{ROOT}/{SET}/versions/{old:020}"),
            files(&client, &format!("{ROOT}/{SET}/data"), "/seal").remove(0),
            format!("{attempts}/{old:020}.000001"),
        ];
        let pruned = client.open_path(
            verdict.replace(".verdict", ".pruned"),
            &OpenOptions { write: true, create_new: true, ..OpenOptions::default() },
        );
        let pruned = pruned.expect("create");
        pruned.write_at(b"hayate-ckpt 4 pruned aa0ead5a\n{}\n", 0).expect("write");
        pruned.close().expect("close");
        for path in &steps[..done as usize] {
            client.remove_file(path).expect("remove");
        }
        assert_eq!(checkpoints.versions(SET).expect("versions").contains(&old), done == 0);
        if done > 0 {
            drop(checkpoints.begin(SET, old, 0, 1).expect("a new attempt"));
            let versions = checkpoints.versions(SET).expect("versions");
            assert!(!versions.contains(&old), "beginning it again must not bring the removed one back");
        }
        checkpoints.prune(SET, 1).expect("prune");
        let left = files(&client, ROOT, "");
        assert!(left.iter().all(|path| path.contains(&format!("{new:020}"))), "{done} steps: {left:?}");
        assert_whole(&checkpoints, new, 1);
    }
}

#[test]
fn a_sealed_version_is_finished_by_the_next_that_begins_it() {
    let (_cluster, client, checkpoints) = start();
    commit_all(&checkpoints, 1, 2);
    // As if the last rank had been killed between verdict and publication.
    let manifest = format!("{ROOT}/{SET}/versions/{:020}", 1);
    let verdict = files(&client, &format!("{ROOT}/{SET}/attempts"), ".verdict").remove(0);
    client.rename_path(&manifest, verdict.replace(".verdict", ".manifest")).expect("rename");
    let exists = checkpoints.clone().with_group("second").begin(SET, 1, 0, 2).err().expect("finished");
    assert!(matches!(exists, Error::VersionExists { .. }), "{exists}");
    assert_whole(&checkpoints, 1, 2);
}

/// A manifest that is nowhere any more (its server lost it, say) does not keep the number from being used again.
#[test]
fn a_sealed_version_whose_manifest_is_lost_is_written_again() {
    let (_cluster, client, checkpoints) = start();
    commit_all(&checkpoints, 1, 2);
    client.remove_file(format!("{ROOT}/{SET}/versions/{:020}", 1)).expect("remove");
    assert_eq!(checkpoints.latest(SET).expect("latest"), None);
    commit_all(&checkpoints.clone().with_group("second"), 1, 2);
    assert_whole(&checkpoints, 1, 2);
}

#[test]
fn the_latest_is_whole_while_others_are_written_and_removed() {
    let (_cluster, _, checkpoints) = start();
    commit_all(&checkpoints, 1, 2);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (done, checkpoints) = (&done, &checkpoints);
        let readers: Vec<_> = (0..3)
            .map(|_| {
                scope.spawn(move || {
                    let mut newest = 1;
                    while !done.load(Ordering::Relaxed) {
                        let version = checkpoints.latest(SET).expect("latest").expect("there is always one");
                        assert!(version >= newest, "{version} after {newest}");
                        newest = version;
                        let mut step = [0; 8];
                        match checkpoints.read(SET, version, "step", 0, &mut step) {
                            Ok(_) => assert_eq!(u64::from_le_bytes(step), version),
                            // Two versions were committed since `latest`, and this one pruned.
                            Err(Error::NotFound { .. }) => {}
                            Err(e) => panic!("version {version}: {e}"),
                        }
                    }
                })
            })
            .collect();
        for version in 2..=12 {
            commit_all(checkpoints, version, 2);
            checkpoints.prune(SET, 2).expect("prune");
        }
        done.store(true, Ordering::Relaxed);
        for reader in readers {
            reader.join().expect("reader");
        }
    });
    assert_eq!(checkpoints.versions(SET).expect("versions"), [11, 12]);
    assert_whole(&checkpoints, 12, 2);
}

#[test]
fn seventeen_ranks_in_any_order() {
    let (_cluster, _, checkpoints) = start();
    std::thread::scope(|scope| {
        for rank in 0..17u32 {
            let checkpoints = checkpoints.clone();
            scope.spawn(move || {
                let mut writer = checkpoints.begin(SET, 1, rank, 17).expect("begin");
                writer.write("rank", &rank.to_le_bytes(), u64::from(rank) * 4).expect("write");
                writer.seal(true).expect("commit");
            });
        }
    });
    let snapshot = checkpoints.snapshot(SET, 1).expect("committed by the last of them");
    let mut found = [0; 17 * 4 + 1];
    assert_eq!(snapshot.read("rank", 0, &mut found).expect("read"), 17 * 4);
    assert!(found[..17 * 4].chunks(4).enumerate().all(|(rank, bytes)| bytes == (rank as u32).to_le_bytes()));
}
