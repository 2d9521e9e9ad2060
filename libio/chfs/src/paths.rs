//! Relative paths.
//!
//! A relative path begins at the process's directory, which is that of the environment's `CHFS_SUBDIR_PATH`, else the root, until
//! `chfs_chdir` says otherwise.

use std::ffi::c_char;
use std::path::{Path, PathBuf};

use hayate::arguments;
use hayate::border::Result;

use crate::session::state;

/// The environment's name for the directory at the beginning.
const DIRECTORY_VARIABLE: &str = "CHFS_SUBDIR_PATH";

/// Where relative paths begin at first.
pub fn first_directory() -> PathBuf {
    Path::new("/").join(std::env::var_os(DIRECTORY_VARIABLE).unwrap_or_default())
}

/// A path of C, absolute.
///
/// # Safety
/// `path` is null or a string.
pub unsafe fn absolute(path: *const c_char) -> Result<PathBuf> {
    // SAFETY: the caller's promise.
    let path = unsafe { arguments::path(path) }?;
    Ok(state().directory.lock().join(path))
}
