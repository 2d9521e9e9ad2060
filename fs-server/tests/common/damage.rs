//! Flipping bits in the files of a closed key-value store.

use std::path::{Path, PathBuf};

/// The file that says what was acknowledged, beside the engine's.
pub const FENCE: &str = "fence";

/// All files below `dir`, ascending.
pub fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// Copies without the zeros that fjall reserves at the end of its journals, as they are 64 MiB: 64 bytes behind the end of
/// the batches stay.
pub fn copy_tree(from: &Path, to: &Path) {
    for path in files(from) {
        let target = to.join(path.strip_prefix(from).unwrap());
        std::fs::create_dir_all(target.parent().unwrap()).unwrap();
        std::fs::write(target, bytes_of(&path)).unwrap();
    }
}

/// A file as [`copy_tree`] copies it.
pub fn bytes_of(path: &Path) -> Vec<u8> {
    let mut bytes = std::fs::read(path).unwrap();
    if path.extension().is_some_and(|end| end == "jnl") {
        let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |at| at + 1);
        bytes.truncate((used + 64).min(bytes.len()));
    }
    bytes
}

/// Makes the fence in `dir` one of another boot.
pub fn reboot(dir: &Path) {
    let path = dir.join(FENCE);
    let mut fence = std::fs::read(&path).unwrap();
    fence[8..24].fill(0x5a);
    std::fs::write(path, fence).unwrap();
}

/// Where to flip in a file of this length: its ends, and the rest evenly.
pub fn places(length: usize, count: usize) -> impl Iterator<Item = usize> {
    let (step, end_step) = ((length / count).max(1), (200 / count).max(1));
    let is_end = move |at: usize| (at < 48 || at + 96 > length) && at.is_multiple_of(end_step);
    (0..length).filter(move |at| at % step == at / step % step.min(7) || is_end(*at))
}

/// Flips a bit of every place of `count` a file below `kv` in copies of `source`, each in the directory `copy`, and shows each to `judge`, which answers whether anything was told.
/// Answers how many were told, and how many not.
pub fn flip_all(
    source: &Path,
    kv: &Path,
    count: usize,
    is_rebooted: bool,
    judge: impl Fn(&Path, &str) -> bool,
) -> (u32, u32) {
    // In memory, and without the zeros from the begin: each copy is opened once.
    let work = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let (trimmed, copy) = (work.path().join("trimmed"), work.path().join("store"));
    copy_tree(source, &trimmed);
    if is_rebooted {
        reboot(&trimmed.join(kv));
    }
    let (mut told, mut harmless) = (0, 0);
    for path in files(&trimmed.join(kv)) {
        let name = path.strip_prefix(&trimmed).unwrap();
        let whole = std::fs::read(&path).unwrap();
        for at in places(whole.len(), count) {
            copy_tree(&trimmed, &copy);
            let mut flipped = whole.clone();
            flipped[at] ^= 1 << (at % 8);
            std::fs::write(copy.join(name), flipped).unwrap();
            let is_told = judge(&copy, &format!("{} byte {at} of {}", name.display(), whole.len()));
            *(if is_told { &mut told } else { &mut harmless }) += 1;
            std::fs::remove_dir_all(&copy).unwrap();
        }
    }
    println!("rebooted {is_rebooted}: {told} told, {harmless} harmless");
    (told, harmless)
}
