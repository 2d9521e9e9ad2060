//! Attributes.

use std::ffi::{c_char, c_int};
use std::mem::MaybeUninit;

use fs_client::Attr;
use hayate::border::{Failure, Result};
use hayate::{arguments, type_bits};
use libc::{off_t, stat};

use crate::errors::call;
use crate::paths::absolute;
use crate::session::{client, state};

/// Bytes that `st_blocks` counts in.
const BLOCK_BYTES: u64 = 512;
const NS: i64 = 1_000_000_000;

/// Attributes as stat(2) shows them; `st_blksize` is the size of the file's chunks.
pub fn shown(attr: &Attr) -> stat {
    // SAFETY: integers, of which zeros are some.
    let mut shown: stat = unsafe { MaybeUninit::zeroed().assume_init() };
    shown.st_ino = attr.ino.0;
    shown.st_mode = type_bits(attr.kind) | attr.mode;
    shown.st_nlink = attr.nlink.into();
    (shown.st_uid, shown.st_gid) = (attr.uid, attr.gid);
    shown.st_size = attr.size as off_t;
    shown.st_blocks = attr.size.div_ceil(BLOCK_BYTES) as i64;
    shown.st_blksize = attr.layout.chunk_bytes() as i64;
    (shown.st_atime, shown.st_atime_nsec) = (attr.atime.div_euclid(NS), attr.atime.rem_euclid(NS));
    (shown.st_mtime, shown.st_mtime_nsec) = (attr.mtime.div_euclid(NS), attr.mtime.rem_euclid(NS));
    (shown.st_ctime, shown.st_ctime_nsec) = (attr.ctime.div_euclid(NS), attr.ctime.rem_euclid(NS));
    shown
}

/// Attributes of the path's last name, a symbolic link itself if it is one, as CHFS answers them.
///
/// # Safety
/// `path` is null or a string, `st` is null or may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn chfs_stat(path: *const c_char, st: *mut stat) -> c_int {
    call(|| {
        // SAFETY: the caller's promise.
        let attr = client()?.lstat(unsafe { absolute(path) }?)?;
        // SAFETY: the caller's promise.
        unsafe { arguments::store(st, shown(&attr)) }.map(|()| 0)
    })
}

/// Attributes of an open file or directory.
///
/// # Safety
/// `st` is null or may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn chfs_fstat(fd: c_int, st: *mut stat) -> c_int {
    call(|| {
        let opened = state().files.get(fd)?;
        let attr = match opened.file() {
            Ok(file) => file.attr()?,
            Err(_) => client()?.stat(&opened.path)?,
        };
        // SAFETY: the caller's promise.
        unsafe { arguments::store(st, shown(&attr)) }.map(|()| 0)
    })
}

/// Whether the process may do this with what the path leads to, by mode bits (`F_OK`, `R_OK`, `W_OK`, `X_OK`).
///
/// # Safety
/// `path` is null or a string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn chfs_access(path: *const c_char, mode: c_int) -> c_int {
    call(|| {
        let wanted = u32::try_from(mode).ok().filter(|mode| *mode <= 7);
        let wanted = wanted.ok_or_else(|| Failure::new(libc::EINVAL, format!("{mode} is no access mode")))?;
        // SAFETY: the caller's promise.
        let attr = client()?.stat(unsafe { absolute(path) }?)?;
        if wanted & !granted(&attr)? != 0 {
            return Err(Failure::new(libc::EACCES, "the mode does not permit it"));
        }
        Ok(0)
    })
}

/// What the mode permits this process, as one octal digit.
fn granted(attr: &Attr) -> Result<u32> {
    // SAFETY: both take nothing and return a number.
    let (uid, gid) = unsafe { (libc::geteuid(), libc::getegid()) };
    if uid == 0 {
        return Ok(if attr.is_dir() || attr.mode & 0o111 != 0 { 7 } else { 6 });
    }
    if uid == attr.uid {
        return Ok(attr.mode >> 6 & 7);
    }
    let member = gid == attr.gid || groups()?.contains(&attr.gid);
    Ok(if member { attr.mode >> 3 & 7 } else { attr.mode & 7 })
}

fn groups() -> Result<Vec<libc::gid_t>> {
    let failed = || Failure::new(libc::EIO, "the process's groups cannot be asked for");
    // SAFETY: with no room it only counts.
    let count = usize::try_from(unsafe { libc::getgroups(0, std::ptr::null_mut()) }).map_err(|_| failed())?;
    let mut groups = vec![0; count];
    // SAFETY: there is room for `count`.
    let got = unsafe { libc::getgroups(count as c_int, groups.as_mut_ptr()) };
    groups.truncate(usize::try_from(got).map_err(|_| failed())?);
    Ok(groups)
}

/// Cuts or extends a file.
///
/// # Safety
/// `path` is null or a string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn chfs_truncate(path: *const c_char, len: off_t) -> c_int {
    call(|| {
        // SAFETY: the caller's promise.
        client()?.truncate_path(unsafe { absolute(path) }?, arguments::offset(len)?)?;
        Ok(0)
    })
}
