//! Goal: all phases of IO500 run in their order, verify, and print IO500's lines. Method: a short run on a directory, tasks as threads.

use std::fs;

use super::options::Io500Spec;
use super::phases::{Group, PHASES, Work};
use super::report::{Entry, group_score};
use super::run;
use crate::backend::{Api, Connection};
use crate::results::PhaseResult;
use crate::session::Session;
use crate::tasks::launch::Launch;

fn spec(dir: &tempfile::TempDir) -> Io500Spec {
    let path = |name: &str| dir.path().join(name).to_string_lossy().into_owned();
    Io500Spec {
        api: Api::Posix,
        data_dir: path("data"),
        result_dir: path("results"),
        stonewall_s: 1,
        easy_block: 8 << 20,
        hard_segments: 200,
        easy_files: 300,
        hard_files: 150,
    }
}

/// The phases of IO500 in their order (its `phase_*.c` and the `[SCORE]` line's two means), written down again.
const ORDER: [(&str, char); 14] = [
    ("ior-easy-write", 'b'),
    ("mdtest-easy-write", 'm'),
    ("timestamp", '-'),
    ("ior-hard-write", 'b'),
    ("mdtest-hard-write", 'm'),
    ("find", 'm'),
    ("ior-easy-read", 'b'),
    ("mdtest-easy-stat", 'm'),
    ("ior-hard-read", 'b'),
    ("mdtest-hard-stat", 'm'),
    ("mdtest-easy-delete", 'm'),
    ("mdtest-hard-read", 'm'),
    ("mdtest-hard-delete", 'm'),
    ("ior-rnd4K-easy-read", '-'),
];

/// Goal: the phases and their sizes are those of IO500, whatever constants of ours are called. Method: a list and numbers that are written out here.
#[test]
fn phases_and_sizes_are_those_of_io500() {
    let found: Vec<(&str, char)> = PHASES
        .iter()
        .map(|step| {
            let group = match step.group {
                Group::Bandwidth => 'b',
                Group::Metadata => 'm',
                Group::Unscored => '-',
            };
            (step.name, group)
        })
        .collect();
    assert_eq!(found, ORDER);
    let spec = Io500Spec {
        stonewall_s: 300,
        easy_block: 9_920_000 << 20,
        ..spec(&tempfile::tempdir().expect("it"))
    };
    let ior = |name: &str| {
        let step = PHASES.iter().find(|step| step.name == name).expect("a phase");
        let Work::Ior(of) = step.work else { panic!("{name} is no IOR") };
        of(&spec, "/data", 4).spec
    };
    for (name, transfer, block, own_file) in [
        ("ior-easy-write", 2_097_152, 10_401_873_920_000, true),
        ("ior-easy-read", 2_097_152, 10_401_873_920_000, true),
        ("ior-hard-write", 47_008, 47_008, false),
        ("ior-hard-read", 47_008, 47_008, false),
        ("ior-rnd4K-easy-read", 4096, 10_401_873_920_000, true),
    ] {
        let ior = ior(name);
        assert_eq!(
            (ior.transfer_size, ior.block_size, ior.file_per_process),
            (transfer, block, own_file),
            "{name}"
        );
        let walled = name.ends_with("write") || name.contains("rnd4K");
        assert_eq!((ior.deadline_s, ior.wear_out), (if walled { 300 } else { 0 }, walled), "{name}");
        assert!(ior.keep && ior.fsync && ior.write == name.ends_with("write"), "{name}");
    }
    assert!(ior("ior-rnd4K-easy-read").random_offset);
    for (name, bytes, own_dir) in [
        ("mdtest-easy-write", 0, true),
        ("mdtest-hard-write", 3901, false),
        ("mdtest-hard-read", 3901, false),
        ("mdtest-hard-delete", 3901, false),
    ] {
        let step = PHASES.iter().find(|step| step.name == name).expect("a phase");
        let Work::Mdtest(of) = step.work else { panic!("{name} is no mdtest") };
        let md = of(&spec, "/data", 4).spec;
        assert_eq!((md.write_bytes, md.read_bytes, md.unique_dir), (bytes, bytes, own_dir), "{name}");
        assert_eq!((md.stride, md.deadline_s), (1, if name.ends_with("write") { 300 } else { 0 }), "{name}");
    }
}

/// The command that does the same as a phase, with POSIX and with the native client.
fn commands(name: &str) -> [String; 2] {
    [Api::Posix, Api::Hayate].map(|api| {
        let spec = Io500Spec { api, stonewall_s: 300, ..spec(&tempfile::tempdir().expect("it")) };
        let step = PHASES.iter().find(|step| step.name == name).expect("a phase");
        match step.work {
            Work::Ior(of) => step.command(&of(&spec, "/data", 4).spec),
            Work::Mdtest(of) => step.mdtest_command(&of(&spec, "/data", 4).spec),
            _ => panic!("{name} is no command"),
        }
    })
}

/// Goal: the writes of mdtest end with a sync (`-Y` of `phase_mdtest_*_write.c`), no other phase does, and the command that is shown has it. The native client
/// cannot: such a run is marked, and its command does not promise what it would refuse. Random reads go on to where the fastest was, as in IO500.
#[test]
fn writes_of_mdtest_are_synced_or_marked() {
    for step in PHASES {
        let Work::Mdtest(of) = step.work else { continue };
        for (api, has) in [(Api::Posix, true), (Api::Hayate, false), (Api::Null, false)] {
            let spec = Io500Spec { api, ..spec(&tempfile::tempdir().expect("it")) };
            let synced = of(&spec, "/data", 4).spec.sync_host;
            assert_eq!(synced, has && step.name.ends_with("write"), "{} by {api}", step.name);
        }
        let [posix, native] = commands(step.name);
        let shown = posix.split(' ').any(|word| word == "-Y");
        assert_eq!(shown, step.name.ends_with("write"), "{posix}");
        assert!(!native.contains("-Y"), "{native}");
    }
    let [random, _] = commands("ior-rnd4K-easy-read");
    assert!(random.contains(" -z -D 300 -O stoneWallingWearOut=1"), "{random}");
}

/// The whole, with everything that IO500 leaves behind; nothing of the data is left.
#[test]
fn a_short_run_has_all_phases_and_is_marked() {
    let dir = tempfile::tempdir().expect("a directory");
    let spec = spec(&dir);
    let mut session = Session::start(2, &Launch::Threads, &Connection::Posix, None).expect("threads");
    let mut text = Vec::new();
    assert_eq!(run(&spec, "bench io500", &mut session, &mut text).expect("a run"), 0);
    let text = String::from_utf8(text).expect("text");
    let names: Vec<&str> = text
        .lines()
        .filter(|line| line.starts_with("[RESULT]") || line.starts_with("[      ]"))
        .filter_map(|line| line[8..].split_whitespace().next())
        .collect();
    assert_eq!(names, ORDER.map(|(name, _)| name));
    let score = text.lines().find(|line| line.starts_with("[SCORE ] Bandwidth ")).expect("a score");
    assert!(
        score.ends_with(" [INVALID]") && text.contains("ERROR INVALID stonewall-time is 1, not 300"),
        "{text}"
    );
    assert!(text.contains("Not an official IO500 result"), "{text}");
    assert!(
        text.contains("note: reads may come from the page cache (")
            && text.contains("note: stats and reads may"),
        "{text}"
    );
    let results =
        fs::read_dir(&spec.result_dir).expect("results").next().expect("a run").expect("a run").path();
    let file = |name: &str| fs::read_to_string(results.join(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
    let details = file("result.txt");
    let found = details.lines().find_map(|line| line.strip_prefix("found           = ")).expect("found");
    // Of the files of mdtest-hard, 150 of each task, those with 01 in their name: item 1, 01x, 101 and so on, of both tasks.
    let expected = (0..150).flat_map(|item| [0, 1].map(|rank| format!("file.mdtest.{rank}.{item}")));
    assert_eq!(found.parse::<usize>(), Ok(expected.filter(|name| name.contains("01")).count()));
    let files = 300 * 2 + 150 * 2 + 2 + 1 + 1;
    assert!(details.contains(&format!("total-files     = {files}\n")), "{details}");
    assert!(file("ior-hard-write.txt").contains("xfersize            : 47008 bytes"));
    assert!(file("mdtest-hard-read.txt").contains("File read"));
    assert_eq!(details.matches(" -C -Y -W 1 ").count(), 2, "{details}");
    assert!(
        file("ior-easy-read.csv").lines().count() == 3 && file("config.ini").contains("stonewall-time  = 1")
    );
    assert!(file("result_summary.txt").contains(score));
    let document: serde_json::Value = serde_json::from_str(&file("result.json")).expect("JSON");
    assert_eq!(document["phases"].as_array().map(Vec::len), Some(14));
    assert!(document["hayate"]["warnings"].as_array().is_some_and(|notes| notes.len() > 1));
    assert!(details.contains("\n; note: reads may come from the page cache"), "{details}");
    assert_eq!(fs::read_dir(&spec.data_dir).expect("data").count(), 0);
}

/// Published lines of IO500, and its score: geometric means of 4 bandwidths and 8 rates, and of both.
#[test]
fn lines_are_those_of_io500() {
    let published = [
        ("ior-easy-write", 10.608_264, 35.013, true),
        ("mdtest-easy-write", 29.244_625, 33.941, true),
        ("ior-hard-write", 0.381_392, 599.690, false),
        ("find", 24_346.302_247, 4.760, false),
        ("ior-rnd4K-easy-read", 0.134_469, 30.157, false),
    ];
    let lines = published.map(|(name, score, seconds, invalid)| {
        let step = PHASES.iter().find(|step| step.name == name).expect("a phase");
        let faults = if invalid { vec!["too short".to_owned()] } else { Vec::new() };
        Entry { step, score, seconds, began: 0, more: Vec::new(), result: PhaseResult::default(), faults }
            .line()
    });
    let expected = "\
[RESULT]       ior-easy-write       10.608264 GiB/s : time 35.013 seconds [INVALID]
[RESULT]    mdtest-easy-write       29.244625 kIOPS : time 33.941 seconds [INVALID]
[RESULT]       ior-hard-write        0.381392 GiB/s : time 599.690 seconds
[RESULT]                 find    24346.302247 kIOPS : time 4.760 seconds
[      ]  ior-rnd4K-easy-read        0.134469 GiB/s : time 30.157 seconds";
    assert_eq!(lines.join("\n"), expected);
    let scores = [
        10.608_264,
        29.244_625,
        0.0,
        0.381_392,
        19.860_258,
        24_346.302_247,
        18.397_064,
        36.866_300,
        6.904_673,
    ];
    let more = [39.002_295, 33.458_041, 15.063_562, 34.007_658, 0.134_469];
    let of = |group| group_score(PHASES.iter().zip(scores.into_iter().chain(more)), group);
    assert!((of(Group::Bandwidth) - 4.761_314).abs() < 1e-5, "{}", of(Group::Bandwidth));
    assert!((of(Group::Metadata) - 65.731_505).abs() < 1e-4, "{}", of(Group::Metadata));
}

/// Only IO500's own sizes and deadline give no reason.
#[test]
fn every_reduction_is_a_fault() {
    use super::options::Io500Args;
    use clap::Parser;
    #[derive(Parser)]
    struct Program {
        #[command(flatten)]
        io500: Io500Args,
    }
    let faults = |words: &[&str]| Program::parse_from(words).io500.spec().faults();
    assert_eq!(faults(&["io500"]), Vec::<String>::new());
    let official = ["--stonewall", "300", "--easy-block", "9920000m", "--hard-segments", "10000000"];
    let items = ["--easy-files", "1000000", "--hard-files", "1000000"];
    assert_eq!(faults(&[&["io500"][..], &official, &items].concat()), Vec::<String>::new(), "IO500's own");
    for option in [
        ["--stonewall", "30"],
        ["--easy-block", "1g"],
        ["--hard-segments", "5"],
        ["--easy-files", "9"],
        ["--hard-files", "999999"],
        ["-a", "NULL"],
        // Its client has no sync of everything.
        ["-a", "HAYATE"],
    ] {
        assert_eq!(faults(&["io500", option[0], option[1]]).len(), 1, "{option:?}");
    }
}
