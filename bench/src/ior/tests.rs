//! Goal: a run measures, verifies and reports as IOR does. Method: whole runs of small tests, tasks as threads.

use std::fs;
use std::time::Duration;

use super::spec::{IorSpec, Reorder};
use super::{IorOutcome, Output, run};
use crate::backend::{Api, Connection};
use crate::error::BenchError;
use crate::phase::Phase;
use crate::tasks::launch::Launch;

fn connection(api: Api) -> Connection {
    Connection::new(api, &|| Err("no cluster in this test".to_owned())).expect("no cluster needed")
}

fn run_text(spec: &IorSpec, output: &Output) -> (IorOutcome, String) {
    spec.validate().expect("a valid test");
    let mut text = Vec::new();
    let outcome = run(spec, output, &Launch::Threads, &connection(spec.api), &mut text).expect("a run");
    (outcome, String::from_utf8(text).expect("text"))
}

fn run_quietly(spec: &IorSpec) -> IorOutcome {
    run_text(spec, &Output { quiet: true, ..Output::default() }).0
}

fn temporary() -> (tempfile::TempDir, String) {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("testFile").to_string_lossy().into_owned();
    (dir, file)
}

fn small(file: &str) -> IorSpec {
    let base = IorSpec::new(Api::Posix, file);
    IorSpec { tasks: 4, block_size: 24_000, transfer_size: 6000, segments: 3, check_read: true, ..base }
}

/// Whether `line` has the shape: `#` stands for a number, `@` for a date or any text to the end.
fn has_shape(shape: &str, line: &str) -> bool {
    let (mut shape, mut line) = (shape.trim_end(), line.trim_end());
    while let Some(next) = shape.chars().next() {
        match next {
            '@' => return true,
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

/// The lines of a published output of IOR 4.0 (4 tasks, shared file), numbers and names left out.
const SHAPE: &str = "\
IOR-4.0.0@
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
    let (_, text) = run_text(
        &spec,
        &Output { reference: 7, command_line: "hayate bench ior".to_owned(), ..Output::default() },
    );
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
        IorSpec { random_offset: true, reorder: Reorder::Random { seed: -1 }, ..base.clone() },
        IorSpec {
            file_per_process: true,
            reorder: Reorder::Constant { offset: 3 },
            fsync: true,
            ..base.clone()
        },
        IorSpec { file_per_process: true, unique_dir: true, random_offset: true, ..base.clone() },
        IorSpec { fsync_per_write: true, intra_barriers: true, transfer_size: 3000, ..base.clone() },
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
        let victim = read.file_of(2).1;
        let mut data = fs::read(&victim).expect("the file");
        data[50_001] ^= 0x10;
        fs::write(&victim, data).expect("the file");
        let outcome = run_quietly(&IorSpec { keep: false, keep_with_error: true, ..read.clone() });
        assert_eq!(outcome.errors, 1);
        let first = outcome.results[0].first_error.clone().expect("a description");
        assert!(first.contains(&victim) && first.contains("offset 50001"), "{first}");
        assert!(fs::exists(&victim).expect("the directory"), "kept, because it is wrong (-K)");
        let error = run(
            &IorSpec { quit_on_error: true, ..read },
            &Output::default(),
            &Launch::Threads,
            &Connection::Posix,
            &mut Vec::new(),
        );
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
    let error = run(&plain, &Output::default(), &Launch::Threads, &Connection::Posix, &mut Vec::new());
    assert!(matches!(&error, Err(BenchError::Task { why, .. }) if why.contains("too early")), "{error:?}");
}

/// The null backend moves nothing, so verification of its reads must fail in every word.
#[test]
fn nothing_is_measured_but_the_harness() {
    let spec = IorSpec { api: Api::Null, check_read: false, ..small("nowhere") };
    let outcome = run_quietly(&spec);
    assert_eq!((outcome.errors, outcome.results.len()), (0, 3));
    assert!(outcome.startup > Duration::ZERO && outcome.results[0].cpu_s > 0.0);
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
    let (outcome, text) = run_text(&small(&file), &Output { json: Some(path.clone()), ..Output::default() });
    assert!(text.contains("Max Write"));
    let from_file: serde_json::Value = serde_json::from_slice(&fs::read(path).expect("JSON")).expect("JSON");
    let (_, stdout) =
        run_text(&small(&file), &Output { quiet: true, json: Some(String::new()), ..Output::default() });
    let from_stdout: serde_json::Value = serde_json::from_str(&stdout).expect("nothing but JSON");
    for document in [&from_file, &from_stdout] {
        for key in ["Version", "Began", "Command line", "Machine", "Finished"] {
            assert!(document[key].is_string(), "{key}");
        }
        let test = &document["tests"][0];
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
