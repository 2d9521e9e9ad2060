//! Calls to the kernel: positioned vectored reads and writes, space, syncs. Thin.

use super::StoreError;
use rustix::fs::FallocateFlags;
use rustix::io::Errno;
use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::path::Path;

/// Writes all of `parts` at `at`: one `pwritev`, more only if the kernel takes part of it.
pub(super) fn write_all_at(file: &File, parts: &mut [IoSlice<'_>], mut at: u64) -> io::Result<()> {
    let mut left = parts;
    while !left.is_empty() {
        match rustix::io::pwritev(file, left, at) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                at += written as u64;
                IoSlice::advance_slices(&mut left, written);
            }
            Err(Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

/// Fills `parts` from `at`. Returns fewer bytes than they hold only at the end of the file.
pub(super) fn read_at(file: &File, parts: &mut [IoSliceMut<'_>], mut at: u64) -> io::Result<usize> {
    let (mut left, mut total) = (parts, 0);
    while !left.is_empty() {
        match rustix::io::preadv(file, left, at) {
            Ok(0) => break,
            Ok(got) => {
                at += got as u64;
                total += got;
                IoSliceMut::advance_slices(&mut left, got);
            }
            Err(Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(total)
}

/// Fills `out` from `at`, zeros behind the end of the file.
pub(super) fn read_padded(file: &File, out: &mut [u8], at: u64) -> io::Result<()> {
    let got = read_at(file, &mut [IoSliceMut::new(out)], at)?;
    out[got..].fill(0);
    Ok(())
}

/// Size and free bytes of the file system that holds `dir`.
pub(super) fn space(dir: &Path) -> io::Result<(u64, u64)> {
    let info = rustix::fs::statvfs(dir)?;
    Ok((info.f_blocks * info.f_frsize, info.f_bavail * info.f_frsize))
}

/// Takes space for the first `bytes` of a file. File systems without that are left to fail at the write.
pub(super) fn preallocate(file: &File, bytes: u64) -> io::Result<()> {
    match rustix::fs::fallocate(file, FallocateFlags::empty(), 0, bytes) {
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
        other => Ok(other?),
    }
}

/// Makes names that were created or removed in `dir` durable.
pub(super) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Sorts an I/O error: a full disk is its own case.
pub(super) fn lift(error: io::Error) -> StoreError {
    if is_full(&error) { StoreError::NoSpace } else { StoreError::Io(error) }
}

/// Whether an error says that the file system, or the user's part of it, is full.
pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT))
}

/// Identity of the running kernel's boot; zero, which equals no other, if it does not tell.
pub(super) fn boot_id() -> u128 {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    u128::from_str_radix(&text.trim().replace('-', ""), 16).unwrap_or(0)
}
