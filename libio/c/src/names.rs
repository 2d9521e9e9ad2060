//! Names: making, moving and removing them.

use std::ffi::{c_char, c_int, c_void};
use std::os::unix::ffi::OsStrExt;

use crate::arguments;
use crate::attributes::creation_mode;
use crate::border::{Failure, call};
use crate::handles::tables;

/// Makes a directory; the process's umask is taken from `mode`.
///
/// # Safety
/// `path` is null or a string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hayate_mkdir(fs: c_int, path: *const c_char, mode: u32) -> c_int {
    call(|| {
        // SAFETY: the caller's promise.
        let path = unsafe { arguments::path(path) }?;
        tables().clients.get(fs)?.mkdir_path(path, creation_mode(mode))?;
        Ok(0)
    })
}

/// Makes a directory and those above it that are missing. It is no error if it exists.
///
/// # Safety
/// `path` is null or a string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hayate_mkdir_all(fs: c_int, path: *const c_char, mode: u32) -> c_int {
    call(|| {
        // SAFETY: the caller's promise.
        let path = unsafe { arguments::path(path) }?;
        tables().clients.get(fs)?.mkdir_all(path, creation_mode(mode))?;
        Ok(0)
    })
}

/// Removes a name that is not a directory.
///
/// # Safety
/// `path` is null or a string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hayate_unlink(fs: c_int, path: *const c_char) -> c_int {
    call(|| {
        // SAFETY: the caller's promise.
        tables().clients.get(fs)?.remove_file(unsafe { arguments::path(path) }?)?;
        Ok(0)
    })
}

/// Removes an empty directory.
///
/// # Safety
/// `path` is null or a string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hayate_rmdir(fs: c_int, path: *const c_char) -> c_int {
    call(|| {
        // SAFETY: the caller's promise.
        tables().clients.get(fs)?.remove_dir(unsafe { arguments::path(path) }?)?;
        Ok(0)
    })
}

/// Moves a name, a file's or a directory's, over whatever may be at the new one.
///
/// # Safety
/// `from` and `to` are null or strings.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hayate_rename(fs: c_int, from: *const c_char, to: *const c_char) -> c_int {
    call(|| {
        // SAFETY: the caller's promise.
        let (from, to) = unsafe { (arguments::path(from)?, arguments::path(to)?) };
        tables().clients.get(fs)?.rename_path(from, to)?;
        Ok(0)
    })
}

/// Gives the file at `from` the further name `to`. A symbolic link at `from` is not followed.
///
/// # Safety
/// `from` and `to` are null or strings.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hayate_link(fs: c_int, from: *const c_char, to: *const c_char) -> c_int {
    call(|| {
        // SAFETY: the caller's promise.
        let (from, to) = unsafe { (arguments::path(from)?, arguments::path(to)?) };
        tables().clients.get(fs)?.link_path(from, to)?;
        Ok(0)
    })
}

/// Makes a symbolic link at `path` that says `target`.
///
/// # Safety
/// `target` and `path` are null or strings.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hayate_symlink(fs: c_int, target: *const c_char, path: *const c_char) -> c_int {
    call(|| {
        // SAFETY: the caller's promise.
        let (target, path) = unsafe { (arguments::path(target)?, arguments::path(path)?) };
        tables().clients.get(fs)?.symlink_path(target, path)?;
        Ok(0)
    })
}

/// What a symbolic link says, without a zero at the end, and cut to `size` bytes, as by readlink(2). Answers how many bytes were stored.
///
/// # Safety
/// `path` is null or a string, `buffer` has `size` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hayate_readlink(
    fs: c_int,
    path: *const c_char,
    buffer: *mut c_void,
    size: usize,
) -> i64 {
    call(|| {
        // SAFETY: the caller's promise.
        let (path, room) = unsafe { (arguments::path(path)?, arguments::output(buffer, size)?) };
        if room.is_empty() {
            return Err(Failure::new(libc::EINVAL, "there is no room for the link's target"));
        }
        let target = tables().clients.get(fs)?.read_link(path)?;
        Ok(cut(target.as_os_str().as_bytes(), room))
    })
}

fn cut(from: &[u8], room: &mut [u8]) -> i64 {
    let len = from.len().min(room.len());
    room[..len].copy_from_slice(&from[..len]);
    len as i64
}
