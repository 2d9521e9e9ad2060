//! Extended attributes, of what a path leads to.

use std::ffi::{c_char, c_int, c_void};

use crate::arguments;
use crate::border::{Failure, Result, call};
use crate::handles::tables;

/// Sets an extended attribute. `flags` as of setxattr(2): 0, `XATTR_CREATE` (fail if it exists) or `XATTR_REPLACE` (fail if it does not).
///
/// # Safety
/// `path` and `name` are null or strings, `value` has `size` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hayate_setxattr(
    fs: c_int,
    path: *const c_char,
    name: *const c_char,
    value: *const c_void,
    size: usize,
    flags: c_int,
) -> c_int {
    call(|| {
        // SAFETY: the caller's promise.
        let (path, name) = unsafe { (arguments::path(path)?, arguments::bytes(name, "attribute's name")?) };
        // SAFETY: the caller's promise.
        let value = unsafe { arguments::input(value, size) }?;
        let (create, replace) = (flags & libc::XATTR_CREATE != 0, flags & libc::XATTR_REPLACE != 0);
        if flags & !(libc::XATTR_CREATE | libc::XATTR_REPLACE) != 0 || create && replace {
            return Err(Failure::new(libc::EINVAL, format!("flags {flags:#x} of setxattr make no sense")));
        }
        tables().clients.get(fs)?.setxattr_path(path, name, value, create, replace)?;
        Ok(0)
    })
}

/// Value of an extended attribute. Answers how many bytes it has; if there is not so much room it is `-ERANGE`, but with `size` 0 nothing is stored and no room needed.
///
/// # Safety
/// `path` and `name` are null or strings, `value` has `size` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hayate_getxattr(
    fs: c_int,
    path: *const c_char,
    name: *const c_char,
    value: *mut c_void,
    size: usize,
) -> i64 {
    call(|| {
        // SAFETY: the caller's promise.
        let (path, name) = unsafe { (arguments::path(path)?, arguments::bytes(name, "attribute's name")?) };
        // SAFETY: the caller's promise.
        let room = unsafe { arguments::output(value, size) }?;
        answered(&tables().clients.get(fs)?.getxattr_path(path, name)?, room)
    })
}

/// Names of all extended attributes, each with a zero behind it. Answers how many bytes that are, as hayate_getxattr does.
///
/// # Safety
/// `path` is null or a string, `names` has `size` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hayate_listxattr(
    fs: c_int,
    path: *const c_char,
    names: *mut c_void,
    size: usize,
) -> i64 {
    call(|| {
        // SAFETY: the caller's promise.
        let (path, room) = unsafe { (arguments::path(path)?, arguments::output(names, size)?) };
        let mut all = Vec::new();
        for name in tables().clients.get(fs)?.listxattr_path(path)? {
            all.extend_from_slice(&name);
            all.push(0);
        }
        answered(&all, room)
    })
}

/// Removes an extended attribute.
///
/// # Safety
/// `path` and `name` are null or strings.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hayate_removexattr(fs: c_int, path: *const c_char, name: *const c_char) -> c_int {
    call(|| {
        // SAFETY: the caller's promise.
        let (path, name) = unsafe { (arguments::path(path)?, arguments::bytes(name, "attribute's name")?) };
        tables().clients.get(fs)?.removexattr_path(path, name)?;
        Ok(0)
    })
}

fn answered(value: &[u8], room: &mut [u8]) -> Result<i64> {
    if room.is_empty() { Ok(value.len() as i64) } else { arguments::copy_out(value, room, "value") }
}
