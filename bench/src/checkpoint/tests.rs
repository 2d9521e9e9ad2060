//! Goal: checkpoints are timed, committed, found again and compared. Method: small runs on a directory, tasks as threads.

use std::fs;

use super::options::{CheckpointSetup, CheckpointSpec};
use super::{CheckpointOutcome, run};
use crate::backend::{Api, Connection};
use crate::error::Result;
use crate::phase::Phase;
use crate::session::Session;
use crate::tasks::launch::Launch;

fn attempt(
    dir: &tempfile::TempDir,
    shared: bool,
    fault: Option<&str>,
) -> (Result<CheckpointOutcome>, String) {
    let spec = CheckpointSpec {
        api: Api::Posix,
        directory: dir.path().join("c").to_string_lossy().into_owned(),
        tasks: 3,
        state_bytes: 1 << 20,
        transfer_size: 1 << 18,
        shared,
        versions: 2,
        compute_ms: 1,
        durable_s: 5,
        keep: false,
        seed: 7,
        redundancy: None,
        restore: false,
    };
    let json = Some(dir.path().join("out.json").to_string_lossy().into_owned());
    let setup = CheckpointSetup { spec, fault: fault.map(str::to_owned), json, command_line: String::new() };
    let mut session = Session::start(3, &Launch::Threads, &Connection::Posix, None).expect("threads");
    let mut text = Vec::new();
    let outcome = run(&setup, &mut session, &mut text);
    (outcome, String::from_utf8(text).expect("text"))
}

/// Own files and one file: all versions in three columns, the newest read back, nothing left but the directory.
#[test]
fn versions_are_timed_and_read_back() {
    for shared in [false, true] {
        let dir = tempfile::tempdir().expect("a directory");
        let (outcome, text) = attempt(&dir, shared, Some("true"));
        let outcome = outcome.expect("a run");
        assert_eq!(outcome.errors(), 0);
        let (save, commit) = (outcome.until(Phase::Save), outcome.until(Phase::Commit));
        assert!(
            save.len() == 2 && commit.len() == 2 && save[0] < commit[0] && outcome.fault_s.is_some(),
            "{text}"
        );
        let rows: Vec<&str> =
            text.lines().filter(|line| line.starts_with("0  ") || line.starts_with("1  ")).collect();
        assert_eq!(rows.len(), 2, "{text}");
        assert_eq!(
            rows[0].split_whitespace().nth(3),
            Some("-"),
            "a plain directory tells nothing of a shared tier"
        );
        assert!(
            text.contains("recovery            : ") && text.contains(", 0 wrong words, after "),
            "{text}"
        );
        assert!(text.contains("note: what the recovery reads may come from the page cache (3 MiB"), "{text}");
        assert_eq!(fs::read_dir(dir.path().join("c")).expect("the directory").count(), 0);
        let document: serde_json::Value =
            serde_json::from_slice(&fs::read(dir.path().join("out.json")).expect("JSON")).expect("JSON");
        assert_eq!(document["hayate"]["metrics"][0]["values"].as_array().map(Vec::len), Some(2));
    }
}

/// A fault that damages the newest version is found; one whose command fails ends the run.
#[test]
fn faults_show() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("c/state.1.000002");
    let damage =
        format!("printf XXXXXXXX | dd of={} bs=1 seek=4096 conv=notrunc 2>/dev/null", file.display());
    let (outcome, text) = attempt(&dir, false, Some(&damage));
    assert_eq!(outcome.expect("a run").errors(), 1, "{text}");
    assert!(text.contains("state.1.000002: 1 wrong words from offset 4096"), "{text}");
    let (outcome, _) = attempt(&dir, false, Some("exit 3"));
    assert!(outcome.expect_err("the command failed").to_string().contains("' failed: exit status"));
}
