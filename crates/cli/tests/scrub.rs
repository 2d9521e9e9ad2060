//! Goal: `hayate scrub` verifies everything on all devices, and finds a flipped bit that no reader asked for. Method: two servers of
//! three devices each, one byte of a stored file changed on disk.

mod common;

use common::{Sandbox, pattern};
use std::fs;
use std::path::{Path, PathBuf};

/// All files below `dir`.
fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

/// Flips a bit where `needle` is stored; false if it is nowhere on disk.
fn flip(sandbox: &Sandbox, needle: &[u8]) -> bool {
    let is_segment = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "seg");
    let all = ["store", "nvme0", "nvme1"].into_iter().flat_map(|root| files(&sandbox.path(root)));
    for path in all.filter(is_segment) {
        let mut bytes = fs::read(&path).unwrap();
        if let Some(at) = memchr::memmem::find(&bytes, needle) {
            bytes[at + needle.len() / 2] ^= 0x20;
            fs::write(&path, bytes).unwrap();
            return true;
        }
    }
    false
}

#[test]
fn scrub_finds_a_flipped_bit() {
    for io in ["buffered", "direct"] {
        let sandbox = Sandbox::new();
        let (nvme0, nvme1) = (sandbox.word("nvme0"), sandbox.word("nvme1"));
        sandbox.up(&["--nodes", "2", "--store", &nvme0, "--store", &nvme1, "--io", io]);
        for number in 0..6_usize {
            fs::write(sandbox.path("in"), pattern(3_000_000 + number)).unwrap();
            sandbox.ok(&["cp", &sandbox.word("in"), &format!("h:/f{number}")]);
        }
        fs::write(sandbox.path("in"), "a secret of forty bytes is in this file.".repeat(1_000)).unwrap();
        sandbox.ok(&["cp", &sandbox.word("in"), "h:/precious"]);
        let clean = sandbox.ok(&["scrub"]);
        assert_eq!(clean.lines().count(), 3, "{clean}");
        // Written back and dropped from the page cache is not ours to ask for here: the change goes through it.
        assert!(
            flip(&sandbox, b"a secret of forty bytes is in this file."),
            "what was stored is on no device"
        );
        let said = sandbox.run(&["scrub"]);
        assert_eq!(said.code, Some(3), "{said:?}");
        assert!(said.err.contains("1 files or records are damaged"), "{said:?}");
        assert!(said.out.contains("damaged on server") && said.out.contains("/precious"), "{said:?}");
        sandbox.fails(1, &["cat", "/precious"], &["/precious"]);
        sandbox.ok(&["cp", &sandbox.word("in"), "h:/precious"]);
        sandbox.ok(&["scrub"]);
        sandbox.ok(&["scrub", "--server", "1"]);
        sandbox.fails(2, &["scrub", "--server", "9"], &["no server of that number"]);
        sandbox.ok(&["down", "--discard"]);
        sandbox.assert_nothing_left();
    }
}
