//! Goal: a metadata run does, checks and reports its phases. Method: small runs on a directory, tasks as threads.

use std::fs;

use super::{MetadataOutcome, MetadataSpec, run};
use crate::backend::{Api, Connection};
use crate::error::{BenchError, Result};
use crate::phase::Phase;
use crate::tasks::launch::Launch;

fn attempt(spec: &MetadataSpec) -> (Result<MetadataOutcome>, String) {
    let connection = if spec.api == Api::Null { Connection::Null } else { Connection::Posix };
    let mut text = Vec::new();
    let outcome = run(spec, "bench metadata", &Launch::Threads, &connection, &mut text);
    (outcome, String::from_utf8(text).expect("text"))
}

fn spec(dir: &tempfile::TempDir) -> MetadataSpec {
    MetadataSpec { tasks: 3, ..MetadataSpec::new(Api::Posix, dir.path().to_string_lossy(), 20) }
}

/// Shared and own directories, empty and filled files, own and others' files: all phases count, nothing is left.
#[test]
fn all_phases_run_and_clean_up() {
    let dir = tempfile::tempdir().expect("a directory");
    let ways = [
        spec(&dir),
        MetadataSpec { unique_dir: true, repetitions: 2, ..spec(&dir) },
        MetadataSpec { write_bytes: 3901, shift: 1, ..spec(&dir) },
        MetadataSpec { api: Api::Null, write_bytes: 0, shift: 1, ..spec(&dir) },
    ];
    for spec in ways {
        let (outcome, text) = attempt(&spec);
        let outcome = outcome.unwrap_or_else(|e| panic!("{spec:?}: {e}"));
        assert_eq!(outcome.errors, 0, "{spec:?}");
        assert_eq!(outcome.results.len(), 6 * spec.repetitions as usize);
        let files =
            outcome.results.iter().filter(|r| !matches!(r.phase, Phase::TreeCreate | Phase::TreeRemove));
        assert!(files.into_iter().all(|r| r.operations == 60 && r.total_s > 0.0), "{spec:?}");
        assert_eq!(fs::read_dir(dir.path()).expect("the directory").count(), 0);
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

/// Phases may run one at a time, on what an earlier run created; wrong content and wrong sizes are found.
#[test]
fn phases_alone_verify_what_an_earlier_run_created() {
    let dir = tempfile::tempdir().expect("a directory");
    let all = MetadataSpec { write_bytes: 100, seed: 9, ..spec(&dir) };
    let none = MetadataSpec { create: false, stat: false, read: false, remove: false, ..all.clone() };
    attempt(&MetadataSpec { create: true, ..none.clone() }).0.expect("creates");
    let victim = all.file_of(1, 7);
    let mut data = fs::read(&victim).expect("a file");
    data[99] ^= 1;
    fs::write(&victim, &data).expect("a file");
    let (outcome, text) = attempt(&MetadataSpec { read: true, ..none.clone() });
    assert_eq!(outcome.expect("reads").errors, 1);
    assert!(text.contains(&victim), "{text}");
    fs::write(&victim, &data[..50]).expect("a file");
    let (outcome, _) = attempt(&MetadataSpec { stat: true, ..none.clone() });
    assert!(
        matches!(&outcome, Err(BenchError::Task { rank: 1, why }) if why.contains("50 bytes")),
        "{outcome:?}"
    );
    attempt(&MetadataSpec { remove: true, ..none.clone() }).0.expect("removes");
    assert_eq!(fs::read_dir(dir.path()).expect("the directory").count(), 0);
    let refused = MetadataSpec { create: true, repetitions: 2, ..none };
    assert!(matches!(refused.validate(), Err(BenchError::Options(_))));
}
