//! Whole files at once.

use std::ffi::{c_char, c_int, c_void};

use crate::arguments;
use crate::attributes::creation_mode;
use crate::border::call;
use crate::handles::tables;

/// Makes a file with this content, or replaces the content of one that is there. One message for a small file; of a larger one others
/// may see a part meanwhile. Answers `size`.
///
/// # Safety
/// `path` is null or a string, `buffer` has `size` bytes that nobody changes meanwhile.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hayate_put(
    fs: c_int,
    path: *const c_char,
    buffer: *const c_void,
    size: usize,
    mode: u32,
) -> i64 {
    call(|| {
        // SAFETY: the caller's promise.
        let (path, data) = unsafe { (arguments::path(path)?, arguments::input(buffer, size)?) };
        tables().clients.get(fs)?.put(path, data, creation_mode(mode))?;
        Ok(size as i64)
    })
}

/// All of a file, one message for a small one. Answers how many bytes it has. If there is not so much room it is `-ERANGE`, and the buffer is
/// as it was; hayate_stat tells how large it is.
///
/// # Safety
/// `path` is null or a string, `buffer` has `size` bytes that nobody else uses meanwhile.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hayate_get(fs: c_int, path: *const c_char, buffer: *mut c_void, size: usize) -> i64 {
    call(|| {
        // SAFETY: the caller's promise.
        let (path, room) = unsafe { (arguments::path(path)?, arguments::output(buffer, size)?) };
        let content = tables().clients.get(fs)?.get(path)?;
        arguments::copy_out(&content, room, "file")
    })
}
