//! Goal: a test that can show nothing where it runs is counted as skipped. Method: a test of this program notes that in a process of its own, as `./test` runs
//! it; and no source tells it to the harness alone, which keeps back what a passing test prints.

use std::path::{Path, PathBuf};
use std::process::Command;

use hayate_tests::skip;

const CHILD: &str = "HAYATE_TEST_CHILD";

/// What [`a_reason_is_written_down`] runs.
#[test]
fn child_that_shows_nothing() {
    if std::env::var_os(CHILD).is_some() {
        skip::note("no reason");
    }
}

#[test]
fn a_reason_is_written_down() {
    let dir = tempfile::tempdir().expect("a directory");
    let list = dir.path().join("list");
    for _ in 0..2 {
        let mut child = Command::new(std::env::current_exe().expect("this program"));
        child.args(["--exact", "child_that_shows_nothing"]).env(CHILD, "1").env("HAYATE_TEST_SKIPS", &list);
        let done = child.output().expect("a run");
        assert!(done.status.success() && done.stderr.is_empty(), "the harness keeps nothing back: {done:?}");
    }
    let text = std::fs::read_to_string(&list).expect("the list");
    let lines: Vec<&str> = text.lines().collect();
    let is_ours = |line: &&str| line.starts_with("skips") && line.ends_with(": no reason");
    assert!(lines.len() == 2 && lines.iter().all(is_ours), "{text}");
}

fn sources(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).expect("a directory").map(|entry| entry.expect("an entry").path());
    let is_foreign = |path: &Path| path.ends_with("target") || path.ends_with("third_party");
    entries
        .filter(|path| !path.is_symlink() && !is_foreign(path))
        .flat_map(|path| if path.is_dir() { sources(&path) } else { vec![path] })
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .collect()
}

#[test]
fn no_reason_is_kept_back() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace");
    let sources = sources(root);
    assert!(sources.len() > 300, "the sources are read");
    let own = root.join(file!());
    for path in sources.iter().filter(|path| **path != own && !path.ends_with("tests/src/skip.rs")) {
        let text = std::fs::read_to_string(path).expect("a source");
        let told = text.lines().find(|line| {
            line.contains("println!") && (line.contains("shows nothing") || line.contains("skipped:"))
        });
        assert!(told.is_none(), "{}: use skip::note for {told:?}", path.display());
    }
}
