//! Space of the cluster, and its second tier.

use std::ffi::{c_char, c_int};

use crate::arguments;
use crate::border::call;
use crate::handles::tables;

/// Space of all servers together; up to a second old.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// Bytes of the stores' file systems.
    pub total_bytes: u64,
    /// Bytes still free.
    pub free_bytes: u64,
    /// Inodes that exist.
    pub inodes: u64,
}

/// Space of all servers together.
///
/// # Safety
/// `space` is null or may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hayate_statfs(fs: c_int, space: *mut Space) -> c_int {
    call(|| {
        let all = tables().clients.get(fs)?.statfs()?;
        let all = Space { total_bytes: all.total_bytes, free_bytes: all.free_bytes, inodes: all.inodes };
        // SAFETY: the caller's promise.
        unsafe { arguments::store(space, all) }?;
        Ok(0)
    })
}

/// Makes the servers copy a file to tier 2 now, whatever the policy that holds for it, and returns without waiting for that. What this process wrote is
/// published before; a file that somebody has open for writing is copied when it is closed. Whether it is there is told by the extended attribute `user.hayate.durable` (`yes` or `no`).
///
/// # Safety
/// `path` is null or a string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hayate_tier_flush(fs: c_int, path: *const c_char) -> c_int {
    call(|| {
        let client = tables().clients.get(fs)?;
        // SAFETY: the caller's promise.
        let attr = client.stat(unsafe { arguments::path(path) }?)?;
        client.flush_inode(attr.ino)?;
        Ok(0)
    })
}
