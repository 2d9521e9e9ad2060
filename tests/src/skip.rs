//! What a test says that can show nothing here, or only a part: it has no device, no FUSE, no rights.
//!
//! Such a test passes, and the harness keeps back what a passing test prints. So the reason also goes to the file that `HAYATE_TEST_SKIPS`
//! names; `./test` sets it, and shows and counts what is there. Crates that do not know this one include the file.

use std::fmt::Display;
use std::fs::OpenOptions;
use std::io::Write as _;

/// Notes that the test that runs shows nothing, or less than it should, and why.
pub fn note(reason: impl Display) {
    let line = format!("{}: {reason}\n", running_test());
    eprint!("skipped: {line}");
    let Some(path) = std::env::var_os("HAYATE_TEST_SKIPS") else { return };
    let mut file =
        OpenOptions::new().create(true).append(true).open(path).expect("the list of skipped tests");
    // In one write: tests that run beside this one append, too.
    file.write_all(line.as_bytes()).expect("the list of skipped tests is written");
}

/// The test's program, without cargo's hash, and its name, which the harness gives its thread.
fn running_test() -> String {
    let program = std::env::current_exe().ok();
    let stem = program.as_deref().and_then(|path| path.file_stem()?.to_str()).unwrap_or("a test");
    let name = stem.rsplit_once('-').map_or(stem, |(name, _)| name);
    match std::thread::current().name() {
        Some(test) if test != "main" => format!("{name} {test}"),
        _ => name.to_owned(),
    }
}
