//! Listings of directories.

use std::ffi::{c_char, c_int};
use std::sync::{Mutex, PoisonError};

use fs_client::DirEntry;

use crate::arguments;
use crate::attributes::{Stat, type_bits};
use crate::border::{Failure, Result, call};
use crate::handles::{Listing, tables};

/// Bytes of a name, with the zero at its end.
pub const NAME_BYTES: usize = 256;

/// An entry of a directory.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct Entry {
    /// Inode number.
    pub ino: u64,
    /// Its type, as in `st_mode`.
    pub kind: u32,
    /// Whether `stat` is set: it was asked for, and the entry did not vanish meanwhile.
    pub has_stat: u32,
    /// Attributes.
    pub stat: Stat,
    /// Its name, which ends in a zero.
    pub name: [c_char; NAME_BYTES],
}

/// Begins a listing of a directory; answers its number. With `attributes` not 0 every entry has its attributes.
///
/// # Safety
/// `path` is null or a string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hayate_opendir(fs: c_int, path: *const c_char, attributes: c_int) -> c_int {
    call(|| {
        let client = tables().clients.get(fs)?;
        // SAFETY: the caller's promise.
        let path = unsafe { arguments::path(path) }?;
        let entries = if attributes == 0 { client.read_dir(path) } else { client.read_dir_plus(path) }?;
        tables().listings.add(Listing { fs, entries: Mutex::new(entries) })
    })
}

/// The next entry, in no order that means anything, without "." and "..": 1, or 0 if there are no more.
///
/// # Safety
/// `entry` is null or may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hayate_readdir(listing: c_int, entry: *mut Entry) -> c_int {
    call(|| {
        let listing = tables().listings.get(listing)?;
        if entry.is_null() {
            return Err(Failure::new(libc::EFAULT, "the place for the entry is a null pointer"));
        }
        let next = listing.entries.lock().unwrap_or_else(PoisonError::into_inner).next();
        let Some(next) = next else { return Ok(0) };
        // SAFETY: the caller's promise.
        unsafe { arguments::store(entry, translated(&next?)?) }?;
        Ok(1)
    })
}

/// Ends a listing.
#[unsafe(no_mangle)]
pub extern "C" fn hayate_closedir(listing: c_int) -> c_int {
    call(|| tables().listings.take(listing).map(|_| 0))
}

fn translated(from: &DirEntry) -> Result<Entry> {
    let mut name = [0; NAME_BYTES];
    if from.name.len() >= NAME_BYTES {
        return Err(Failure::new(libc::ENAMETOOLONG, "a name has more than 255 bytes"));
    }
    for (to, byte) in name.iter_mut().zip(from.name.iter()) {
        *to = *byte as c_char;
    }
    Ok(Entry {
        ino: from.ino.0,
        kind: type_bits(from.kind),
        has_stat: u32::from(from.attr.is_some()),
        stat: from.attr.as_ref().map(Stat::from).unwrap_or_default(),
        name,
    })
}
