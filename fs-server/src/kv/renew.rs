//! Putting a file's bytes into a new one.

use std::ffi::OsString;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

/// Bytes that are read or written with one call.
const PIECE_BYTES: usize = 256 << 10;

/// What is put around the name of a copy that is not complete: sled goes by how names begin, fjall by how they end.
const HALF: (&str, &str) = ("half-", ".new");

/// Whether a file is half a copy, as a kill may leave it.
pub(super) fn is_half(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().as_encoded_bytes();
    name.starts_with(HALF.0.as_bytes()) && name.ends_with(HALF.1.as_bytes())
}

fn half_of(path: &Path) -> PathBuf {
    let mut name = OsString::from(HALF.0);
    name.push(path.file_name().unwrap_or_default());
    name.push(HALF.1);
    path.with_file_name(name)
}

/// Puts the first `bytes` of a file into a new file, which is synced and takes its place. If a sync of the old one has failed, the kernel shows
/// its bytes and takes them for written, so that the next sync would be answered without them; writing them again in place
/// does not help (decision 0044). The name is the caller's to sync.
pub(super) fn renew(path: &Path, bytes: u64) -> std::io::Result<()> {
    let next = half_of(path);
    let renewed = copy(path, &next, bytes).and_then(|()| std::fs::rename(&next, path));
    // Half a copy would hold the space that another try needs. Should it stay, then that overwrites it.
    renewed.inspect_err(|_| drop(std::fs::remove_file(&next)))
}

fn copy(from: &Path, to: &Path, bytes: u64) -> std::io::Result<()> {
    let (from, to) = (File::open(from)?, File::create(to)?);
    let (mut buffer, mut at) = (vec![0; PIECE_BYTES], 0);
    while at < bytes {
        let piece = (bytes - at).min(PIECE_BYTES as u64) as usize;
        from.read_exact_at(&mut buffer[..piece], at)?;
        to.write_all_at(&buffer[..piece], at)?;
        at += piece as u64;
    }
    to.sync_all()
}
