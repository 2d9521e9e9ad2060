//! Goal: a run measures, verifies and reports as IOR does. Method: whole runs of small tests, tasks as threads.

use std::fs;

use super::plan::{Format, Output, Plan, Test};
use super::spec::{IorSpec, Reorder};
use super::{TestOutcome, run};
use crate::backend::{Api, Connection, Storage};
use crate::configuration::{ServerSetup, ServersSetup};
use crate::error::{BenchError, Result};
use crate::pattern::Packet;
use crate::phase::Phase;
use crate::seat::Seat;
use crate::session::Session;
use crate::tasks::launch::Launch;

fn attempt(tests: Vec<Test>, output: &Output) -> (Result<super::IorOutcome>, String) {
    let api = tests[0].spec.api;
    let none = &|_: Option<Seat>| Err("no cluster in this test".to_owned());
    attempt_on(&Connection::new(api, None, none).expect("no cluster needed"), tests, output)
}

pub(super) fn attempt_on(
    connection: &Connection,
    tests: Vec<Test>,
    output: &Output,
) -> (Result<super::IorOutcome>, String) {
    let plan = Plan { tests, output: output.clone() };
    let mut session = Session::start(plan.tasks(), &Launch::Threads, connection, None).expect("threads");
    let mut text = Vec::new();
    let outcome = run(&plan, &mut session, &mut text);
    (outcome, String::from_utf8(text).expect("text"))
}

fn run_text(spec: &IorSpec, output: &Output) -> (TestOutcome, String) {
    spec.validate().expect("a valid test");
    let (outcome, text) = attempt(vec![Test::new(spec.clone())], output);
    (outcome.expect("a run").tests.remove(0), text)
}

fn run_quietly(spec: &IorSpec) -> TestOutcome {
    run_text(spec, &Output::default()).0
}

fn failure(spec: &IorSpec) -> Result<super::IorOutcome> {
    attempt(vec![Test::new(spec.clone())], &Output::default()).0
}

fn temporary() -> (tempfile::TempDir, String) {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("testFile").to_string_lossy().into_owned();
    (dir, file)
}

pub(super) fn small(file: &str) -> IorSpec {
    let base = IorSpec::new(Api::Posix, file);
    IorSpec { tasks: 4, block_size: 24_000, transfer_size: 6000, segments: 3, check_read: true, ..base }
}

/// Whether `line` has the shape: `#` stands for a number, `@` for a date or any text to the end.
fn has_shape(shape: &str, line: &str) -> bool {
    let (mut shape, mut line) = (shape.trim_end(), line.trim_end());
    while let Some(next) = shape.chars().next() {
        match next {
            '@' => return shape.len() == 1 || line.ends_with(&shape[1..]),
            '#' => {
                let end =
                    line.find(|c: char| !(c.is_ascii_digit() || c == '.' || c == '-')).unwrap_or(line.len());
                // A number fills its column with blanks, on the side that the shape does not tell.
                if end == 0 {
                    return false;
                }
                (shape, line) = (shape[1..].trim_start(), line[end..].trim_start());
            }
            _ => match line.strip_prefix(next) {
                Some(rest) => (shape, line) = (&shape[next.len_utf8()..], rest),
                None => return false,
            },
        }
    }
    line.is_empty()
}

/// The lines of published outputs of IOR 4 (shared file; 160 tasks on 10 nodes, and 10 on one), numbers and names left out.
const SHAPE: &str = "\
IOR-4.0.0@: MPI Coordinated Test of Parallel I/O
Began               : @
Command line        : @
Machine             : Linux @
TestID              : 0
StartTime           : @
Path                : @
FS                  : @
\n\
Options: 
api                 : POSIX
apiVersion          : 
test filename       : @
access              : single-shared-file
type                : independent
segments            : 3
ordering in a file  : sequential
ordering inter file : constant task offset
task offset         : 1
nodes               : 1
tasks               : 4
clients per node    : 4
memoryBuffer        : CPU
dataAccess          : CPU
GPUDirect           : 0
repetitions         : 2
xfersize            : 6000 bytes
blocksize           : 24000 bytes
aggregate filesize  : 288000 bytes
\n\
Results: 
\n\
access    bw(MiB/s)  IOPS       Latency(s)  block(KiB) xfer(KiB)  open(s)    wr/rd(s)   close(s)   total(s)   iter
------    ---------  ----       ----------  ---------- ---------  --------   --------   --------   --------   ----
write     # # # 23.44      5.86       # # # # 0
read      # # # 23.44      5.86       # # # # 0
remove    -          -          -           -          -          -          -          -          # 0
write     # # # 23.44      5.86       # # # # 1
read      # # # 23.44      5.86       # # # # 1
remove    -          -          -           -          -          -          -          -          # 1
Max Write: # MiB/sec (# MB/sec)
Max Read:  # MiB/sec (# MB/sec)
\n\
Summary of all tests:
Operation   Max(MiB)   Min(MiB)  Mean(MiB)     StdDev   Max(OPs)   Min(OPs)  Mean(OPs)     StdDev    Mean(s) Stonewall(s) Stonewall(MiB) Test# #Tasks tPN reps fPP reord reordoff reordrand seed segcnt   blksiz    xsize aggs(MiB)   API RefNum
write         # # # # # # # # # NA            NA     0      4   4    2   0     1        1         0    0      3    24000     6000       0.3 POSIX      7
read          # # # # # # # # # NA            NA     0      4   4    2   0     1        1         0    0      3    24000     6000       0.3 POSIX      7
Finished            : @
";

/// Line by line, and the columns of the results under their headings.
#[test]
fn text_has_the_shape_of_ior() {
    let (_dir, file) = temporary();
    let spec = IorSpec { reorder: Reorder::Constant { offset: 1 }, repetitions: 2, ..small(&file) };
    let output = Output { command_line: "hayate bench ior".to_owned(), ..Output::default() };
    let (outcome, text) = attempt(vec![Test { reference: 7, ..Test::new(spec) }], &output);
    outcome.expect("a run");
    for (shape, line) in SHAPE.lines().zip(text.lines()) {
        let squeezed = |text: &str| {
            let numbers = shape.contains('#');
            if numbers { text.split_whitespace().collect::<Vec<_>>().join(" ") } else { text.to_owned() }
        };
        assert!(
            shape == line || has_shape(&squeezed(shape), &squeezed(line)),
            "expected {shape:?}\n     got {line:?}\nin\n{text}"
        );
    }
    let at = text.lines().position(|line| line.starts_with("Finished")).expect("a last line");
    assert_eq!(at + 1, SHAPE.lines().count());
    let heading = text.lines().find(|line| line.starts_with("access    bw")).expect("the heading of results");
    let starts = |line: &str| -> Vec<usize> {
        (0..line.len())
            .filter(|&i| line.as_bytes()[i] != b' ' && (i == 0 || line.as_bytes()[i - 1] == b' '))
            .collect()
    };
    for line in text.lines().skip_while(|line| *line != heading).take(8) {
        assert_eq!(starts(line), starts(heading), "{line:?}");
    }
}

/// Goal: every way of access moves and verifies all bytes and leaves nothing behind. Method: all of them on a directory.
#[test]
fn every_way_of_access_is_verified() {
    let (dir, file) = temporary();
    let base = IorSpec { check_write: true, repetitions: 2, seeds: vec![5, 6], ..small(&file) };
    let ways = [
        base.clone(),
        IorSpec { random_offset: true, reorder: Reorder::Random { seed: -1, offset: 1 }, ..base.clone() },
        IorSpec {
            file_per_process: true,
            reorder: Reorder::Constant { offset: 3 },
            fsync: true,
            ..base.clone()
        },
        IorSpec { file_per_process: true, unique_dir: true, random_offset: true, ..base.clone() },
        IorSpec { fsync_per_write: true, intra_barriers: true, transfer_size: 3000, ..base.clone() },
        IorSpec {
            packet: Packet::Offset,
            multi_file: true,
            single_attempt: true,
            hog_bytes: 9000,
            ..base.clone()
        },
        IorSpec { packet: Packet::Timestamp, file_per_process: true, multi_file: true, ..base.clone() },
    ];
    for spec in ways {
        let outcome = run_quietly(&spec);
        assert_eq!(outcome.errors, 0, "{spec:?}");
        let phases: Vec<Phase> = outcome.results.iter().map(|r| r.phase).collect();
        let once = [Phase::Write, Phase::CheckWrite, Phase::Read, Phase::Remove];
        assert_eq!(phases, [once, once].concat());
        for result in outcome.results.iter().filter(|r| r.phase != Phase::Remove) {
            assert_eq!(
                (result.bytes, result.operations),
                (288_000, 288_000 / spec.transfer_size),
                "{spec:?}"
            );
        }
        assert_eq!(fs::read_dir(dir.path()).expect("the directory").count(), 0, "{spec:?}");
    }
}

/// Goal: one wrong byte on the disk is found, named and counted. Method: flip it between a write run and a read run.
#[test]
fn a_flipped_byte_is_found() {
    let (_dir, file) = temporary();
    for file_per_process in [false, true] {
        let write = IorSpec { file_per_process, read: false, check_read: false, keep: true, ..small(&file) };
        run_quietly(&write);
        let read = IorSpec { write: false, check_read: true, ..write };
        assert_eq!(run_quietly(&read).errors, 0);
        let victim = read.file_of(2, 0).1;
        let mut data = fs::read(&victim).expect("the file");
        data[50_001] ^= 0x10;
        fs::write(&victim, data).expect("the file");
        let outcome = run_quietly(&IorSpec { keep: false, keep_with_error: true, ..read.clone() });
        assert_eq!(outcome.errors, 1);
        let first = outcome.results[0].first_error.clone().expect("a description");
        assert!(first.contains(&victim) && first.contains("offset 50001"), "{first}");
        assert!(fs::exists(&victim).expect("the directory"), "kept, because it is wrong (-K)");
        let error = failure(&IorSpec { quit_on_error: true, ..read });
        assert!(matches!(&error, Err(BenchError::Task { why, .. }) if why.contains("50001")), "{error:?}");
    }
}

/// Content of an earlier run, and a file that ends too early, are errors too; without verification a short read ends the
/// run, because its bandwidth would be a lie.
#[test]
fn old_and_missing_content_is_found() {
    let (_dir, file) = temporary();
    let write = IorSpec { read: false, check_read: false, keep: true, ..small(&file) };
    run_quietly(&write);
    let read = IorSpec { write: false, check_read: true, ..write };
    assert_eq!(run_quietly(&IorSpec { seeds: vec![2], ..read.clone() }).errors, 36_000);
    fs::File::options().write(true).open(&file).and_then(|f| f.set_len(288_000 - 80)).expect("truncation");
    let outcome = run_quietly(&read);
    assert_eq!(outcome.errors, 10);
    assert!(outcome.results[0].first_error.as_ref().is_some_and(|what| what.contains("too early")));
    let plain = IorSpec { check_read: false, read: true, ..read };
    let error = failure(&plain);
    assert!(matches!(&error, Err(BenchError::Task { why, .. }) if why.contains("too early")), "{error:?}");
}

/// The null backend moves nothing, so verification of its reads must fail in every word.
#[test]
fn nothing_is_measured_but_the_harness() {
    let spec = IorSpec { api: Api::Null, check_read: false, ..small("nowhere") };
    let outcome = run_quietly(&spec);
    assert_eq!((outcome.errors, outcome.results.len()), (0, 3));
    assert!(outcome.results[0].cpu_s > 0.0 && outcome.results[0].meter.latency.count() == 48);
    let (outcome, text) = run_text(&IorSpec { check_read: true, ..spec }, &Output::default());
    assert!(outcome.errors > 0);
    assert!(
        text.contains("WARNING: Incorrect data on read (") && text.contains("wrong words         : "),
        "{text}"
    );
}

/// The JSON document has IOR's keys; text and JSON come from one run if JSON goes to a file.
#[test]
fn json_has_the_keys_of_ior() {
    let (dir, file) = temporary();
    let path = dir.path().join("summary.json").to_string_lossy().into_owned();
    let output = Output { format: Format::Json, ..Output::default() };
    let (outcome, text) = run_text(&small(&file), &Output { file: Some(path.clone()), ..output.clone() });
    assert!(text.contains("Max Write"));
    let from_file: serde_json::Value = serde_json::from_slice(&fs::read(path).expect("JSON")).expect("JSON");
    let (_, stdout) = run_text(&small(&file), &output);
    let from_stdout: serde_json::Value = serde_json::from_str(&stdout).expect("nothing but JSON");
    for document in [&from_file, &from_stdout] {
        for key in ["Version", "Began", "Command line", "Machine", "Finished"] {
            assert!(document[key].is_string(), "{key}");
        }
        let test = &document["tests"][0];
        for key in ["StartTime", "Path", "Capacity", "Used Capacity", "Inodes", "Used Inodes"] {
            assert!(test[key].is_string(), "{key}");
        }
        assert_eq!(test["Parameters"]["transferSize"], 6000);
        assert_eq!(test["Options"]["access"], "single-shared-file");
        let results = test["Results"].as_array().expect("results");
        let access: Vec<&str> = results.iter().filter_map(|r| r["access"].as_str()).collect();
        assert_eq!(access, ["write", "read", "remove"]);
        for key in [
            "bwMiB",
            "blockKiB",
            "xferKiB",
            "iops",
            "latency",
            "openTime",
            "wrRdTime",
            "closeTime",
            "totalTime",
        ] {
            assert!(results[0][key].is_f64(), "{key}");
        }
        for (index, operation) in ["write", "read"].iter().enumerate() {
            let summary = &document["summary"][index];
            assert_eq!((&summary["operation"], &summary["numTasks"]), (&(*operation).into(), &4.into()));
            for key in [
                "bwMaxMIB",
                "bwMinMIB",
                "bwMeanMIB",
                "bwStdMIB",
                "OPsMax",
                "OPsMin",
                "OPsMean",
                "OPsSD",
                "MeanTime",
            ] {
                assert!(summary[key].is_f64(), "{key}");
            }
        }
    }
    let shown = from_file["tests"][0]["Results"][0]["bwMiB"].as_f64().expect("a number");
    assert!((shown - outcome.results[0].bandwidth_mib()).abs() < 1e-6);
}

/// Goal: a deadline ends writing, and with wear-out all tasks come equally far; what was written is what is read. Method: more data
/// than the deadline allows, to no storage at all, and to a directory with reads that verify.
#[test]
fn deadlines_end_phases() {
    let (dir, file) = temporary();
    let status = dir.path().join("status").to_string_lossy().into_owned();
    let huge = IorSpec {
        block_size: 1 << 40,
        transfer_size: 1 << 20,
        segments: 1,
        deadline_s: 1,
        check_read: false,
        tasks: 2,
        ..small("nowhere")
    };
    let outcome = run_quietly(&IorSpec { api: Api::Null, read: false, wear_out: true, ..huge.clone() });
    let write = &outcome.results[0];
    let wall = write.stonewall.expect("a deadline");
    assert!(wall.hit && (1.0..30.0).contains(&wall.time_s) && wall.max_operations > wall.min_operations / 2);
    assert_eq!(write.operations, 2 * wall.max_operations, "both came as far as the faster");
    let slow = IorSpec {
        fsync_per_write: true,
        keep: true,
        read: false,
        wear_out: true,
        transfer_size: 4096,
        seeds: vec![4],
        ..huge
    };
    let test = Test { status_file: Some(status.clone()), ..Test::new(IorSpec { test_file: file, ..slow }) };
    let (outcome, text) = attempt(vec![test.clone()], &Output::default());
    let written = outcome.expect("a run").tests.remove(0).results.remove(0).operations;
    assert!(
        text.contains("stonewalling pairs accessed min: ") && text.contains("stonewallingTime    : 1\n"),
        "{text}"
    );
    assert_eq!(fs::read_to_string(&status).expect("a status").trim().parse::<u64>(), Ok(written / 2));
    let read = IorSpec {
        write: false,
        read: true,
        check_read: true,
        keep: false,
        deadline_s: 0,
        wear_out: false,
        ..test.spec.clone()
    };
    let (outcome, _) = attempt(vec![Test { spec: read, ..test }], &Output::default());
    let outcome = outcome.expect("a run").tests.remove(0);
    assert_eq!((outcome.results[0].operations, outcome.errors), (written, 0), "all of it, and it is right");
}

/// Goal: who reads without the file that says how far the writes came is warned, in IOR's words, and reads everything; `--warningAsErrors` ends the run. Method: files that
/// are not there, or hold no number.
#[test]
fn a_missing_status_is_a_warning() {
    let (dir, file) = temporary();
    let write = IorSpec { read: false, check_read: false, keep: true, ..small(&file) };
    run_quietly(&write);
    let path = |name: &str| Some(dir.path().join(name).to_string_lossy().into_owned());
    fs::write(dir.path().join("words"), "none").expect("a file");
    let read = Test::new(IorSpec { write: false, check_read: true, ..write });
    for (name, why) in [("none", "cannot read stonewall status"), ("words", "holds no number")] {
        let test = Test { status_file: path(name), ..read.clone() };
        let (outcome, text) = attempt(vec![test.clone()], &Output::default());
        let outcome = outcome.expect("a run").tests.remove(0);
        assert_eq!((outcome.results[0].bytes, outcome.errors), (288_000, 0), "everything");
        assert!(
            text.contains("\nWARNING: Could not read back the stonewalling status from the file!\nread "),
            "{text}"
        );
        assert!(text.contains("note: ") && text.contains(why), "{text}");
        let (ended, _) = attempt(vec![Test { warnings_are_errors: true, ..test }], &Output::default());
        assert!(matches!(&ended, Err(BenchError::Options(what)) if what.contains(why)), "{ended:?}");
    }
}

/// Goal: with `--spread` the text says of every test of a script which server its tasks are clients of. Method: tests of four and of two tasks, over two servers.
#[test]
fn tests_of_a_script_are_spread_each_over_all_servers() {
    let (_dir, file) = temporary();
    let test = |tasks| Test::new(IorSpec { tasks, write: true, ..small(&file) });
    let plan = Plan { tests: vec![test(4), test(2)], output: Output::default() };
    let session = Session::start(plan.tasks(), &Launch::Threads, &Connection::Posix, None).expect("threads");
    let mut text = Vec::new();
    let outcome = run(&plan, &mut session.spread_over(2), &mut text).expect("a run");
    assert_eq!(outcome.facts.configuration.tasks_of_a_server, [(2, 1), (4, 2)].into());
    let text = String::from_utf8(text).expect("text");
    let line = text.lines().find(|line| line.starts_with("spread ")).expect("a line");
    assert!(line.contains("r / 1 in tests of 2 tasks, r / 2 in tests of 4 tasks"), "{line}");
}

/// Goal: tests of one command show one after the other and all in the summary; CSV and times of ranks have IOR's columns.
#[test]
fn several_tests_and_csv() {
    let (dir, file) = temporary();
    let path = |name: &str| dir.path().join(name).to_string_lossy().into_owned();
    let output = Output {
        format: Format::Csv,
        file: Some(path("s.csv")),
        rank_csv: Some(path("r.csv")),
        ..Output::default()
    };
    let second = IorSpec { tasks: 2, repetitions: 2, ..small(&file) };
    let tests = vec![Test::new(small(&file)), Test { id: 1, ..Test::new(second) }];
    let (outcome, text) = attempt(tests, &output);
    assert_eq!(outcome.expect("a run").tests.len(), 2);
    assert_eq!(text.matches("\nOptions: \n").count(), 2);
    let summary = text.split("Summary of all tests:\n").nth(1).expect("a summary");
    let rows: Vec<&str> =
        summary.lines().skip(1).take(4).map(|line| line.split_whitespace().next().unwrap_or("")).collect();
    assert_eq!(rows, ["write", "read", "write", "read"]);
    let csv = fs::read_to_string(path("s.csv")).expect("CSV");
    let lines: Vec<&str> = csv.lines().collect();
    assert_eq!(
        lines[0],
        "access,bw(MiB/s),IOPS,Latency,block(KiB),xfer(KiB),open(s),wr/rd(s),close(s),total(s),numTasks,iter"
    );
    assert_eq!(lines.len(), 1 + 2 + 4);
    assert!(lines[6].starts_with("read,") && lines[6].ends_with(",2,1") && lines[6].split(',').count() == 12);
    let ranks = fs::read_to_string(path("r.csv")).expect("CSV");
    assert_eq!(ranks.lines().count(), 1 + 2 * 4 + 4 * 2);
    assert!(
        ranks.lines().nth(1).is_some_and(|line| line.starts_with("write,0,") && line.split(',').count() == 6)
    );
}

/// Whoever reads the figures is told what may be wrong with them, and who was late.
#[test]
fn warnings_are_given() {
    let (_dir, file) = temporary();
    let plain = IorSpec { check_read: false, ..small(&file) };
    let (_, text) = run_text(&plain, &Output::default());
    assert!(text.contains("note: reads may come from the page cache"), "{text}");
    assert!(text.contains("note: CPU time leaves out") && text.contains("machine             : "), "{text}");
    let (outcome, text) = attempt(
        vec![Test { collective: true, ..Test::new(IorSpec { read: false, ..plain }) }],
        &Output::default(),
    );
    assert!(
        text.contains("collective I/O (-c) does not exist for POSIX") && !text.contains("page cache"),
        "{text}"
    );
    let super::IorOutcome { mut tests, mut facts } = outcome.expect("a run");
    let mut test = tests.remove(0);
    caches_are_named(&test, &mut facts);
    test.test.spec.outlier_s = 2;
    assert!(super::warnings::outliers(&test).is_empty());
    test.results[0].ranks[3].access_s += 60.0;
    let late = super::warnings::outliers(&test);
    assert!(
        late.iter().any(|line| line.starts_with("WARNING: for task 3, elapsed transfer time is 60.")),
        "{late:?}"
    );
}

/// What a test does reaches what the notes are made of: -B and -C on several hosts go round the node's cache, neither round the servers'.
fn caches_are_named(test: &TestOutcome, facts: &mut super::RunFacts) {
    let all = |facts: &super::RunFacts, storage, direct, hosts, reorder| {
        let mut test = TestOutcome { storage, hosts, ..test.clone() };
        let spec = &mut test.test.spec;
        (spec.read, spec.direct, spec.reorder) = (true, direct, reorder);
        let notes = super::warnings::warnings(&test, facts);
        ["from the page cache (", "of this mount's servers (NFS)"]
            .map(|part| notes.iter().any(|note| note.contains(part)))
    };
    let next = Reorder::Constant { offset: 1 };
    for (storage, remote) in [(Storage::Local, false), (Storage::Network("NFS"), true)] {
        assert_eq!(all(facts, storage, false, 1, next), [true, remote], "one host: -C does not help");
        assert_eq!(all(facts, storage, true, 1, Reorder::None), [false, remote], "-B");
        assert_eq!(all(facts, storage, false, 2, next), [false, remote], "-C on two hosts");
        assert_eq!(all(facts, storage, false, 2, Reorder::None), [true, remote]);
    }
    let power = |facts: &super::RunFacts, fsync| {
        let mut test = test.clone();
        test.test.spec.fsync = fsync;
        super::warnings::warnings(&test, facts).iter().any(|note| note.contains("loss of power"))
    };
    let each = vec![ServerSetup { durability: Some("process".to_owned()), ..ServerSetup::default() }];
    facts.configuration.servers = Some(ServersSetup { each, ..ServersSetup::default() });
    assert!(power(facts, true) && !power(facts, false));
}

/// Each transfer is a line of a file of its task and phase, with IOR's columns.
#[test]
fn single_transfers_can_be_written() {
    let (dir, file) = temporary();
    let operations_csv = dir.path().join("op").to_string_lossy().into_owned();
    let spec = IorSpec { operations_csv, ..small(&file) };
    assert_eq!(run_quietly(&spec).errors, 0);
    for access in ["write", "read"] {
        let path = format!("{}-{access}-0-00003.csv", spec.operations_csv);
        let text = fs::read_to_string(&path).expect("a file");
        assert_eq!(text.lines().next(), Some("time,runtime,tp"));
        assert_eq!(text.lines().count() as u64, 1 + spec.transfers_per_task(), "{path}");
    }
}
