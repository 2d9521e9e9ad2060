//! Goal: a metadata run does, checks and reports its phases as mdtest does. Method: small runs on a directory, tasks as threads.

use std::fs;
use std::time::Duration;

use super::spec::MdtestSpec;
use super::{MdtestOutcome, Setup, Show, run};
use crate::backend::fake::Fake;
use crate::backend::{Api, Connection, Storage};
use crate::error::{BenchError, Result};
use crate::pattern::Packet;
use crate::phase::Phase;
use crate::session::Session;
use crate::tasks::launch::Launch;

fn setup(spec: &MdtestSpec) -> Setup {
    Setup { command_line: "bench mdtest".to_owned(), ..Setup::new(spec.clone()) }
}

fn attempt(setup: &Setup) -> (Result<MdtestOutcome>, String) {
    attempt_on(if setup.spec.api == Api::Null { &Connection::Null } else { &Connection::Posix }, setup)
}

fn attempt_on(connection: &Connection, setup: &Setup) -> (Result<MdtestOutcome>, String) {
    let mut session = Session::start(setup.spec.tasks, &Launch::Threads, connection, None).expect("threads");
    let mut text = Vec::new();
    let outcome = setup.spec.validate().and_then(|()| run(setup, &mut session, &mut text));
    (outcome, String::from_utf8(text).expect("text"))
}

fn spec(dir: &tempfile::TempDir) -> MdtestSpec {
    let new = MdtestSpec::new(Api::Posix, dir.path().join("out").to_string_lossy(), 20);
    MdtestSpec { tasks: 3, ..new }
}

fn left(dir: &tempfile::TempDir) -> usize {
    fs::read_dir(dir.path().join("out")).map_or(0, Iterator::count)
}

/// Shared and own trees, deep ones, files and directories, own and others' items: all phases count, nothing is left.
#[test]
fn all_phases_run_and_clean_up() {
    let dir = tempfile::tempdir().expect("a directory");
    let base = MdtestSpec { files: true, dirs: true, rename: true, ..spec(&dir) };
    let verified =
        MdtestSpec { write_bytes: 3901, read_bytes: 3901, verify: true, sync: true, ..base.clone() };
    let mut deep = MdtestSpec {
        items_per_dir: 0,
        branch: 2,
        depth: 2,
        leaf_only: true,
        unique_dir: true,
        ..base.clone()
    };
    deep.distribute().expect("items");
    let ways = [
        base.clone(),
        MdtestSpec { unique_dir: true, time_unique: true, repetitions: 2, stride: 1, ..base.clone() },
        MdtestSpec { stride: 1, random: true, ..verified },
        MdtestSpec { items_per_dir: 5, ..base.clone() },
        MdtestSpec { collective: true, write_bytes: 10, read_bytes: 10, verify: true, ..base.clone() },
        MdtestSpec { collective: true, unique_dir: true, stride: 1, ..base.clone() },
        MdtestSpec { make_node: true, random: true, random_seed: 3, ..base.clone() },
        MdtestSpec { write_bytes: 512, verify_write: true, sync_host: true, ..base.clone() },
        MdtestSpec {
            write_bytes: 99,
            read_bytes: 99,
            verify: true,
            packet: Packet::Timestamp,
            ..base.clone()
        },
        deep,
        MdtestSpec { api: Api::Null, stride: 1, ..base },
    ];
    for spec in ways {
        let (outcome, text) = attempt(&setup(&spec));
        let outcome = outcome.unwrap_or_else(|e| panic!("{spec:?}: {e}"));
        assert_eq!(outcome.errors, 0, "{spec:?}");
        assert_eq!(outcome.results.len(), 10 * spec.repetitions as usize);
        let items =
            outcome.results.iter().filter(|r| !matches!(r.phase, Phase::TreeCreate | Phase::TreeRemove));
        assert!(items.into_iter().all(|r| r.operations == 3 * spec.items && r.total_s > 0.0), "{spec:?}");
        let trees = spec.tree_size() * spec.loops() * if spec.unique_dir { 3 } else { 1 };
        assert!(
            outcome.results.iter().any(|r| r.phase == Phase::TreeCreate && r.operations == trees),
            "{spec:?}"
        );
        assert_eq!(left(&dir), 0, "{spec:?}");
        check_table(&text, spec.repetitions);
    }
}

/// The table as mdtest prints it: headings, names, and four numbers that end in the columns of a published output.
fn check_table(text: &str, repetitions: u32) {
    let mut lines = text.lines().skip_while(|line| !line.starts_with("SUMMARY"));
    assert_eq!(lines.next(), Some(&*format!("SUMMARY rate (in ops/sec): (of {repetitions} iterations)")));
    assert_eq!(
        lines.next(),
        Some("   Operation                     Max            Min           Mean        Std Dev")
    );
    assert_eq!(
        lines.next(),
        Some("   ---------                     ---            ---           ----        -------")
    );
    for (_, name) in super::report::ROWS {
        let line = lines.next().expect("a row");
        assert!(line.starts_with(&format!("   {name} ")) && line.len() == 85, "{line:?}");
        let numbers: Vec<f64> = line[25..].split_whitespace().filter_map(|n| n.parse().ok()).collect();
        assert!(numbers.len() == 4 && numbers[0] >= numbers[1] && numbers[1] > 0.0, "{line:?}");
    }
    assert!(lines.next().is_some_and(|line| line.starts_with("-- finished at ")));
}

/// Goal: whoever may have answered stats and reads is named, also where a run only reads what an earlier one made. Method: the notes of a run, with the facts
/// that they depend on changed.
#[test]
fn caches_are_named() {
    let dir = tempfile::tempdir().expect("a directory");
    let (outcome, text) = attempt(&setup(&spec(&dir)));
    let outcome = outcome.expect("a run");
    assert!(
        text.contains(
            "note: stats and reads may be answered by a cache of the node: tasks ask for what they made"
        ),
        "{text}"
    );
    let named = |storage, hosts, create, stride| {
        let outcome = MdtestOutcome { hosts, storage, ..outcome.clone() };
        let spec = MdtestSpec { create, stat: false, read: true, stride, ..spec(&dir) };
        let notes = super::report::notes_of(&spec, &outcome);
        ["a cache of the node", "an earlier run", "the servers' memory"]
            .map(|part| notes.iter().any(|note| note.contains(part)))
    };
    assert_eq!(named(Storage::Local, 1, false, 0), [true, true, false], "-E alone");
    assert_eq!(named(Storage::Fuse, 1, false, 1), [true, true, true]);
    assert_eq!(named(Storage::Servers, 1, false, 0), [false, false, true], "its client had none");
    assert_eq!(named(Storage::Local, 1, true, 1), [true, false, false]);
    assert_eq!(named(Storage::Network("NFS"), 2, true, 1), [false, false, true]);
    assert_eq!(named(Storage::Network("NFS"), 2, true, 0), [true, false, true]);
    let creates = MdtestSpec { stat: false, read: false, ..spec(&dir) };
    let notes = super::report::notes_of(&creates, &outcome);
    assert!(notes.iter().all(|note| !note.contains("stats")), "{notes:?}");
}

/// A published output of mdtest 4.1 (10 tasks, -z 0 -F -C -n 3334 -e 4096 -w 4096), dates, paths and numbers left out.
const SHAPE: &str = "\
-- started at # --
\n\
mdtest-4.# was launched with 3 total task(s) on 1 node(s)
Command line used: #
Nodemap: 111
Path                : #
FS                  : #   Used FS: #%   Inodes: # Mi   Used Inodes: #%
3 tasks, 60 files
\n\
SUMMARY rate (in ops/sec): (of 1 iterations)
   Operation                     Max            Min           Mean        Std Dev
   ---------                     ---            ---           ----        -------
   File creation         #          0.000
   File stat                       0.000          0.000          0.000          0.000
   File read                       0.000          0.000          0.000          0.000
   File removal                    0.000          0.000          0.000          0.000
   Tree creation         #          0.000
   Tree removal                    0.000          0.000          0.000          0.000
-- finished at # --
";

/// Line by line; `#` stands for anything.
#[test]
fn text_has_the_shape_of_mdtest() {
    let dir = tempfile::tempdir().expect("a directory");
    let only = MdtestSpec { stat: false, read: false, remove: false, write_bytes: 4096, ..spec(&dir) };
    let (outcome, text) = attempt(&setup(&only));
    outcome.expect("a run");
    assert!(text.lines().count() > SHAPE.lines().count(), "costs follow");
    for (shape, line) in SHAPE.lines().zip(text.lines()) {
        let mut rest = line;
        let parts: Vec<&str> = shape.split('#').collect();
        for (index, part) in parts.iter().enumerate() {
            let at = if index == 0 { rest.starts_with(part).then_some(0) } else { rest.rfind(part) };
            let at = at.unwrap_or_else(|| panic!("expected {shape:?}\n     got {line:?}"));
            let cut = if index == 0 || index + 1 == parts.len() { at } else { rest.find(part).unwrap_or(at) };
            rest = &rest[cut + part.len()..];
        }
        assert!(rest.is_empty(), "expected {shape:?}\n     got {line:?}");
    }
}

/// Phases may run one at a time, on what an earlier run created; wrong content and wrong sizes are found.
#[test]
fn phases_alone_verify_what_an_earlier_run_created() {
    let dir = tempfile::tempdir().expect("a directory");
    let all = MdtestSpec { write_bytes: 100, read_bytes: 100, seed: 9, ..spec(&dir) };
    let none = MdtestSpec { create: false, stat: false, read: false, remove: false, ..all.clone() };
    attempt(&setup(&MdtestSpec { create: true, ..none.clone() })).0.expect("creates");
    let victim = all.item_of(0, 1, 7, false);
    let mut data = fs::read(&victim).expect("a file");
    data[99] ^= 1;
    fs::write(&victim, &data).expect("a file");
    let reads = MdtestSpec { read: true, verify: true, ..none.clone() };
    let json = dir.path().join("out.json").to_string_lossy().into_owned();
    let (outcome, text) = attempt(&Setup { json: Some(json.clone()), ..setup(&reads) });
    assert_eq!(outcome.expect("reads").errors, 1);
    assert!(text.contains(&victim), "{text}");
    let document: serde_json::Value = serde_json::from_slice(&fs::read(json).expect("JSON")).expect("JSON");
    assert_eq!(document["Results"][0]["operation"], "File read");
    assert_eq!(document["hayate"]["errors"], 1);
    fs::write(&victim, &data[..50]).expect("a file");
    let (outcome, _) = attempt(&setup(&MdtestSpec { stat: true, ..none.clone() }));
    assert!(
        matches!(&outcome, Err(BenchError::Task { rank: 1, why }) if why.contains("50 bytes")),
        "{outcome:?}"
    );
    attempt(&setup(&MdtestSpec { remove: true, ..none })).0.expect("removes");
    assert_eq!(left(&dir), 0);
}

/// Goal: a deadline ends creation, all tasks come equally far, and a later run finds how far. Method: more files than a second allows.
#[test]
fn a_deadline_ends_creation() {
    let dir = tempfile::tempdir().expect("a directory");
    let status = Some(dir.path().join("status").to_string_lossy().into_owned());
    let endless = MdtestSpec { deadline_s: 1, sync: true, write_bytes: 10, unique_dir: true, ..spec(&dir) };
    let endless = MdtestSpec {
        items: 10_000_000,
        items_per_dir: 10_000_000,
        remove: false,
        stat: false,
        read: false,
        ..endless
    };
    let (outcome, text) = attempt(&Setup { status_file: status.clone(), ..setup(&endless) });
    let outcome = outcome.expect("a run");
    let create = outcome.results.iter().find(|r| r.phase == Phase::FileCreate).expect("creation");
    let wall = create.stonewall.expect("a deadline");
    assert!(wall.hit && create.operations == 3 * wall.max_operations && wall.max_operations < 10_000_000);
    assert!(text.contains("stonewall: File creation: "), "{text}");
    let rest = MdtestSpec { create: false, stat: true, remove: true, deadline_s: 0, ..endless };
    let (outcome, _) = attempt(&Setup { status_file: status, ..setup(&rest) });
    let removed = outcome.expect("a run").results.iter().map(|r| r.operations).max();
    assert_eq!(removed, Some(create.operations));
    assert_eq!(left(&dir), 0);
}

/// Tasks that share their files: every task does every phase on all of them, but task 0 alone removes them. With content and by mknod.
#[test]
fn tasks_can_share_their_files() {
    let dir = tempfile::tempdir().expect("a directory");
    let shared = MdtestSpec { shared_files: true, ..spec(&dir) };
    for spec in [
        MdtestSpec { write_bytes: 300, read_bytes: 300, verify: true, ..shared.clone() },
        MdtestSpec { make_node: true, items_per_dir: 5, ..shared },
    ] {
        let (outcome, text) = attempt(&setup(&spec));
        let outcome = outcome.unwrap_or_else(|e| panic!("{spec:?}: {e}"));
        assert_eq!((outcome.errors, left(&dir)), (0, 0));
        assert!(text.contains("\n3 tasks, 1 file\n"), "{text}");
        let operations = |phase| outcome.results.iter().find(|r| r.phase == phase).map(|r| r.operations);
        assert_eq!(operations(Phase::FileStat), Some(60));
        assert_eq!(operations(Phase::FileRemove), Some(20));
    }
}

/// With several directories, tasks take them by turns.
#[test]
fn tasks_can_have_several_directories() {
    let dir = tempfile::tempdir().expect("a directory");
    let directories = ["a", "b"].map(|name| dir.path().join(name).to_string_lossy().into_owned()).to_vec();
    let two = MdtestSpec { unique_dir: true, directories: directories.clone(), remove: false, ..spec(&dir) };
    attempt(&setup(&two)).0.expect("a run");
    let trees = |path: &str| fs::read_dir(format!("{path}/test-dir.0-0")).map_or(0, Iterator::count);
    assert_eq!(directories.iter().map(|path| trees(path)).collect::<Vec<_>>(), [2, 1]);
    let removes = MdtestSpec { create: false, stat: false, read: false, remove: true, ..two };
    attempt(&setup(&removes)).0.expect("removes");
    assert_eq!(directories.iter().map(|path| fs::read_dir(path).expect("it").count()).sum::<usize>(), 0);
}

/// Goal: `-Y` syncs once for each task and phase on items, at its end and within its time. Method: a file system on which a sync takes long, by the tasks'
/// clocks.
#[test]
fn a_phase_ends_with_a_sync_if_asked() {
    let dir = tempfile::tempdir().expect("a directory");
    let takes = Duration::from_secs(100);
    for (sync_host, count) in [(false, 0), (true, 3 * 2)] {
        let fake = Fake::with(|fake| fake.sync_takes = takes);
        let only = MdtestSpec { sync_host, stat: false, remove: false, ..spec(&dir) };
        let outcome = attempt_on(&Connection::Fake(fake.clone()), &setup(&only)).0.expect("a run");
        assert_eq!(fake.count("sync_host"), count);
        let items = outcome.results.iter().filter(|r| r.operations == 60);
        let timed: Vec<bool> = items.map(|r| r.total_s >= takes.as_secs_f64()).collect();
        assert_eq!(timed, [sync_host; 2], "it is timed");
        let calls = fake.calls();
        let first = calls.iter().position(|call| call.what == "sync_host").unwrap_or(calls.len());
        assert!(calls[..first].iter().filter(|call| call.what == "close").count() >= 20, "{calls:?}");
    }
}

/// What `--verify-write` compares is what the file system gives back: the null backend gives nothing, and is found out.
#[test]
fn written_content_is_compared_at_once() {
    let dir = tempfile::tempdir().expect("a directory");
    let only = MdtestSpec { write_bytes: 800, verify_write: true, stat: false, read: false, ..spec(&dir) };
    let (outcome, _) = attempt(&setup(&MdtestSpec { api: Api::Null, ..only }));
    assert_eq!(outcome.expect("a run").errors, 3 * 20 * 100);
}

/// Commands before and after a phase are run by every task; one that fails ends the run with its text.
#[test]
fn commands_go_before_and_after_phases() {
    let dir = tempfile::tempdir().expect("a directory");
    let noted = dir.path().join("noted").to_string_lossy().into_owned();
    let with = MdtestSpec {
        before_phase: format!("echo before >>{noted}"),
        after_phase: format!("sleep 0.05; echo after >>{noted}"),
        ..spec(&dir)
    };
    let outcome = attempt(&setup(&with)).0.expect("a run");
    let text = fs::read_to_string(&noted).expect("a file");
    let count = |word| text.lines().filter(|line| *line == word).count();
    assert_eq!((count("before"), count("after")), (3 * 4, 3 * 4), "four phases of three tasks");
    let timed = outcome.results.iter().filter(|r| !matches!(r.phase, Phase::TreeCreate | Phase::TreeRemove));
    assert!(timed.into_iter().all(|result| result.total_s >= 0.05), "the command after a phase is timed");
    let fails = MdtestSpec { before_phase: "exit 3".to_owned(), ..spec(&dir) };
    let (outcome, _) = attempt(&setup(&fails));
    assert!(matches!(&outcome, Err(BenchError::Task { why, .. }) if why.contains("'exit 3'")), "{outcome:?}");
}

/// Goal: tables of times, of tasks and of each task, and lines of phases, as mdtest 4 prints them. Method: the headings and formats of its
/// source, one run with all of them, and numbers that fit each other.
#[test]
fn other_tables_have_the_shape_of_mdtest() {
    let dir = tempfile::tempdir().expect("a directory");
    let show = Show { rate: true, time: true, of_ranks: true, each_rank: true, verbose: 1 };
    let (outcome, text) = attempt(&Setup { show, ..setup(&MdtestSpec { repetitions: 2, ..spec(&dir) }) });
    outcome.expect("a run");
    let at = |what: &str| {
        text.lines().position(|line| line == what).unwrap_or_else(|| panic!("{what:?} in\n{text}"))
    };
    assert!(at("Per process result (rate):") < at("SUMMARY rate (in ops/sec): (of 2 iterations)"));
    assert!(at("Per process result (time):") < at("SUMMARY time (in s): (of 2 iterations)"));
    let heading = "   Operation     per Rank: Max            Min           Mean      per Iteration: Max            Min           \
                   Mean        Std Dev";
    let first = at(heading);
    let row = text.lines().nth(first + 2).expect("a row");
    let numbers: Vec<f64> = row[21..].split_whitespace().filter_map(|word| word.parse().ok()).collect();
    assert!(row.starts_with("   File creation      ") && row.len() == 134 && numbers.len() == 7, "{row:?}");
    assert!(numbers[0] >= numbers[2] && numbers[2] >= numbers[1] && numbers[3] >= numbers[4], "{row:?}");
    let each = text.lines().find(|line| line.starts_with("Test File stat ")).expect("a line");
    assert_eq!(each["Test File stat ".len()..].split(',').filter(|n| n.parse::<f64>().is_ok()).count(), 3);
    let done =
        text.lines().filter(|line| line.starts_with("V-1: Rank   0 Line     0    File creation     : "));
    assert_eq!(done.filter(|line| line.ends_with(" ops/sec")).count(), 2);
}

/// Several numbers of tasks: each has its line and its table; nothing is left of any.
#[test]
fn numbers_of_tasks_have_a_table_each() {
    let dir = tempfile::tempdir().expect("a directory");
    let all = Setup { counts: vec![1, 3], ..setup(&MdtestSpec { unique_dir: true, ..spec(&dir) }) };
    let (outcome, text) = attempt(&all);
    let sizes: Vec<usize> = outcome.expect("a run").results.iter().map(|result| result.ranks.len()).collect();
    assert_eq!(
        (sizes.iter().filter(|n| **n == 1).count(), sizes.iter().filter(|n| **n == 3).count()),
        (6, 6)
    );
    assert!(text.contains("\n1 tasks, 20 files\n") && text.contains("\n3 tasks, 60 files\n"), "{text}");
    assert_eq!((text.matches("SUMMARY rate").count(), left(&dir)), (2, 0));
}

/// Goal: the CSV files of tasks and of single operations have mdtest's columns. Method: a run with both, read back.
#[test]
fn csv_files_have_the_columns_of_mdtest() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = |name: &str| dir.path().join(name).to_string_lossy().into_owned();
    let logged = MdtestSpec { operations_csv: file("op"), write_bytes: 100, ..spec(&dir) };
    attempt(&Setup { rank_csv: Some(file("ranks")), ..setup(&logged) }).0.expect("a run");
    let text = fs::read_to_string(file("ranks")).expect("a file");
    let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split(',').collect()).collect();
    assert_eq!(lines.iter().map(|line| line[0]).collect::<Vec<_>>(), ["rank", "all", "0", "1", "2"]);
    let column = lines[0].iter().position(|name| *name == "rate-File creation").expect("a column");
    assert!(
        lines.iter().skip(1).all(|line| line[column].parse::<f64>().is_ok_and(|rate| rate > 0.0)),
        "{text}"
    );
    assert!(lines[0][column + 1] == "time-File creation" && lines[1][2].is_empty(), "{text}");
    let text = fs::read_to_string(file("op-File creation-00002.csv")).expect("a file");
    assert!(text.starts_with("time,runtime,tp\n") && text.lines().count() == 21, "{text}");
    assert!(fs::exists(file("op-File removal-00000.csv")).expect("a directory"));
}
