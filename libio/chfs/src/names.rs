//! Names.

use std::ffi::{CString, c_char, c_int};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use hayate::border::{Failure, Result};
use hayate::{arguments, creation_mode};
use libc::{mode_t, size_t};

use crate::errors::call;
use crate::paths::absolute;
use crate::session::{client, state};

/// Removes a name that is not a directory.
///
/// # Safety
/// `path` is null or a string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn chfs_unlink(path: *const c_char) -> c_int {
    call(|| {
        // SAFETY: the caller's promise.
        client()?.remove_file(unsafe { absolute(path) }?)?;
        Ok(0)
    })
}

/// Makes a directory; the process's umask is taken from `mode`.
///
/// # Safety
/// `path` is null or a string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn chfs_mkdir(path: *const c_char, mode: mode_t) -> c_int {
    call(|| {
        // SAFETY: the caller's promise.
        client()?.mkdir_path(unsafe { absolute(path) }?, creation_mode(mode))?;
        Ok(0)
    })
}

/// Removes an empty directory.
///
/// # Safety
/// `path` is null or a string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn chfs_rmdir(path: *const c_char) -> c_int {
    call(|| {
        // SAFETY: the caller's promise.
        client()?.remove_dir(unsafe { absolute(path) }?)?;
        Ok(0)
    })
}

/// Makes a symbolic link at `path` that says `target`.
///
/// # Safety
/// `target` and `path` are null or strings.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn chfs_symlink(target: *const c_char, path: *const c_char) -> c_int {
    call(|| {
        // SAFETY: the caller's promise.
        let (target, path) = unsafe { (arguments::path(target)?, absolute(path)?) };
        client()?.symlink_path(target, path)?;
        Ok(0)
    })
}

/// What a symbolic link says, without a zero at the end, cut to `size` bytes; answers how many bytes were stored.
///
/// # Safety
/// `path` is null or a string, `buf` has `size` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn chfs_readlink(path: *const c_char, buf: *mut c_char, size: size_t) -> c_int {
    call(|| {
        // SAFETY: the caller's promise.
        let (path, room) = unsafe { (absolute(path)?, arguments::output(buf.cast(), size)?) };
        let target = client()?.read_link(path)?;
        let target = target.as_os_str().as_bytes();
        let len = target.len().min(room.len());
        room[..len].copy_from_slice(&target[..len]);
        Ok(len as i64)
    })
}

/// Lets relative paths begin at this directory.
///
/// # Safety
/// `path` is null or a string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn chfs_chdir(path: *const c_char) -> c_int {
    // SAFETY: the caller's promise.
    call(|| change_to(&unsafe { absolute(path) }?))
}

/// Lets relative paths begin at an open directory.
#[unsafe(no_mangle)]
pub extern "C" fn chfs_fchdir(fd: c_int) -> c_int {
    call(|| change_to(&state().files.get(fd)?.path))
}

fn change_to(path: &Path) -> Result<i64> {
    if !client()?.stat(path)?.is_dir() {
        return Err(Failure::new(libc::ENOTDIR, format!("{}: it is not a directory", path.display())));
    }
    path.clone_into(&mut state().directory.lock());
    Ok(0)
}

/// The path that `path` is, seen from an open directory, or with `AT_FDCWD` from where relative paths begin: a string for the caller to free(3).
///
/// # Safety
/// `path` is null or a string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn chfs_path_at(fd: c_int, path: *const c_char) -> *mut c_char {
    let mut joined = std::ptr::null_mut();
    let _errno_is_set: c_int = call(|| {
        // SAFETY: the caller's promise.
        let path = unsafe { arguments::path(path) }?;
        let from = if fd == libc::AT_FDCWD {
            state().directory.lock().clone()
        } else {
            state().files.get(fd)?.path.clone()
        };
        let path = CString::new(from.join(path).into_os_string().as_bytes())
            .map_err(|_| Failure::new(libc::EINVAL, "the path has a zero in it"))?;
        // SAFETY: a string; memory of malloc(3), as the caller frees it.
        joined = unsafe { libc::strdup(path.as_ptr()) };
        Ok(0)
    });
    joined
}
