//! Listings.

use std::ffi::{CString, c_char, c_int, c_void};
use std::path::Path;

use fs_client::DirEntry;
use hayate::border::{Failure, Result};
use libc::{off_t, stat};

use crate::attributes::shown;
use crate::errors::call;
use crate::paths::absolute;
use crate::session::client;

/// What is called for each entry: with the caller's pointer, the name, attributes and 0. If it does not return 0, the listing ends.
pub type Filler = Option<unsafe extern "C" fn(*mut c_void, *const c_char, *const stat, off_t) -> c_int>;

/// Calls `filler` for each entry of a directory, without "." and "..".
///
/// # Safety
/// `path` is null or a string; `filler` may be called with `buf`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn chfs_readdir(path: *const c_char, buf: *mut c_void, filler: Filler) -> c_int {
    call(|| {
        // SAFETY: the caller's promise.
        let path = unsafe { absolute(path) }?;
        // SAFETY: the caller's promise.
        list(&path, |_| true, |name, stat| unsafe { fill(filler, buf, name, stat) })
    })
}

/// As [`chfs_readdir`], a part of the entries: each comes for one `index` of those from 0 to `chfs_size()`, so that as many processes can share a
/// directory. Which comes where follows from its name.
///
/// # Safety
/// As [`chfs_readdir`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn chfs_readdir_index(
    path: *const c_char,
    index: c_int,
    buf: *mut c_void,
    filler: Filler,
) -> c_int {
    call(|| {
        // SAFETY: the caller's promise.
        let path = unsafe { absolute(path) }?;
        let parts = client()?.cluster().members.len() as u64;
        let mine = |name: &[u8]| i64::from(index) == (part_hash(name) % parts) as i64;
        // SAFETY: the caller's promise.
        list(&path, mine, |name, stat| unsafe { fill(filler, buf, name, stat) })
    })
}

/// Whether the listing goes on.
unsafe fn fill(filler: Filler, buf: *mut c_void, name: &CString, stat: &stat) -> bool {
    // SAFETY: the caller's promise.
    filler.is_none_or(|filler| unsafe { filler(buf, name.as_ptr(), stat, 0) } == 0)
}

fn list(
    path: &Path,
    which: impl Fn(&[u8]) -> bool,
    mut each: impl FnMut(&CString, &stat) -> bool,
) -> Result<i64> {
    for entry in client()?.read_dir_plus(path)? {
        let DirEntry { name, attr, .. } = entry?;
        // Without attributes it vanished meanwhile.
        let Some(attr) = attr.filter(|_| which(&name)) else { continue };
        let name = CString::new(&name[..]).map_err(|_| Failure::new(libc::EIO, "a name has a zero in it"))?;
        if !each(&name, &shown(&attr)) {
            break;
        }
    }
    Ok(0)
}

/// FNV-1a: any even spread that does not change does.
fn part_hash(name: &[u8]) -> u64 {
    name.iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}
