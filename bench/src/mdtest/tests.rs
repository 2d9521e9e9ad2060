//! Goal: a metadata run does, checks and reports its phases as mdtest does. Method: small runs on a directory, tasks as threads.

use std::fs;

use super::spec::MdtestSpec;
use super::{MdtestOutcome, Setup, run};
use crate::backend::{Api, Connection};
use crate::error::{BenchError, Result};
use crate::phase::Phase;
use crate::session::Session;
use crate::tasks::launch::Launch;

fn setup(spec: &MdtestSpec) -> Setup {
    Setup { spec: spec.clone(), status_file: None, json: None, command_line: "bench mdtest".to_owned() }
}

fn attempt(setup: &Setup) -> (Result<MdtestOutcome>, String) {
    let connection = if setup.spec.api == Api::Null { Connection::Null } else { Connection::Posix };
    let mut session = Session::start(setup.spec.tasks, &Launch::Threads, &connection, None).expect("threads");
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
