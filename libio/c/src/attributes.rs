//! Attributes by path.

use std::ffi::{c_char, c_int};

use fs_client::{Attr, FileKind, SetTime};
use fs_proto::attr::with_umask;

use crate::arguments;
use crate::border::call;
use crate::handles::tables;

/// Attributes of a file, directory or symbolic link. Times are nanoseconds since 1970-01-01 UTC.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stat {
    /// Its number.
    pub ino: u64,
    /// Bytes of a file, length of a symbolic link's target, entries of a directory.
    pub size: u64,
    /// Last access.
    pub atime_ns: i64,
    /// Last change of content.
    pub mtime_ns: i64,
    /// Last change of attributes.
    pub ctime_ns: i64,
    /// Birth.
    pub btime_ns: i64,
    /// Counts changes of content that were published.
    pub version: u64,
    /// Type and permissions, as in `st_mode`.
    pub mode: u32,
    /// Hard links.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number of device nodes.
    pub rdev: u32,
    /// Bytes that are best read and written at once: a chunk.
    pub chunk_bytes: u32,
}

impl From<&Attr> for Stat {
    fn from(attr: &Attr) -> Self {
        Stat {
            ino: attr.ino.0,
            size: attr.size,
            atime_ns: attr.atime,
            mtime_ns: attr.mtime,
            ctime_ns: attr.ctime,
            btime_ns: attr.btime,
            version: attr.version,
            mode: type_bits(attr.kind) | attr.mode,
            nlink: attr.nlink,
            uid: attr.uid,
            gid: attr.gid,
            rdev: attr.rdev,
            chunk_bytes: attr.layout.chunk_bytes() as u32,
        }
    }
}

/// The type in `st_mode`.
pub fn type_bits(kind: FileKind) -> u32 {
    match kind {
        FileKind::File => libc::S_IFREG,
        FileKind::Directory => libc::S_IFDIR,
        FileKind::Symlink => libc::S_IFLNK,
        FileKind::Fifo => libc::S_IFIFO,
        FileKind::Socket => libc::S_IFSOCK,
        FileKind::CharDevice => libc::S_IFCHR,
        FileKind::BlockDevice => libc::S_IFBLK,
    }
}

/// The mode of something new, with the process's umask for the server to take from it, or not: where the directory has a default access control list.
pub fn creation_mode(mode: u32) -> u32 {
    with_umask(mode, umask())
}

/// The process's umask, without changing it for a moment, which other threads might see. What the kernel does not tell is the usual one.
fn umask() -> u32 {
    const USUAL: u32 = 0o022;
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("Umask:"));
    line.and_then(|octal| u32::from_str_radix(octal.trim(), 8).ok()).unwrap_or(USUAL)
}

/// Attributes of what the path leads to.
///
/// # Safety
/// `path` is null or a string, `stat` is null or may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hayate_stat(fs: c_int, path: *const c_char, stat: *mut Stat) -> c_int {
    call(|| {
        // SAFETY: the caller's promise.
        let attr = tables().clients.get(fs)?.stat(unsafe { arguments::path(path) }?)?;
        // SAFETY: the caller's promise.
        unsafe { arguments::store(stat, Stat::from(&attr)) }?;
        Ok(0)
    })
}

/// As hayate_stat, of the path's last name itself, also if it is a symbolic link.
///
/// # Safety
/// As hayate_stat.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hayate_lstat(fs: c_int, path: *const c_char, stat: *mut Stat) -> c_int {
    call(|| {
        // SAFETY: the caller's promise.
        let attr = tables().clients.get(fs)?.lstat(unsafe { arguments::path(path) }?)?;
        // SAFETY: the caller's promise.
        unsafe { arguments::store(stat, Stat::from(&attr)) }?;
        Ok(0)
    })
}

/// Cuts or extends a file to `size` bytes.
///
/// # Safety
/// `path` is null or a string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hayate_truncate(fs: c_int, path: *const c_char, size: i64) -> c_int {
    call(|| {
        // SAFETY: the caller's promise.
        let path = unsafe { arguments::path(path) }?;
        tables().clients.get(fs)?.truncate_path(path, arguments::offset(size)?)?;
        Ok(0)
    })
}

/// Sets the permission bits.
///
/// # Safety
/// `path` is null or a string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hayate_chmod(fs: c_int, path: *const c_char, mode: u32) -> c_int {
    call(|| {
        // SAFETY: the caller's promise.
        let path = unsafe { arguments::path(path) }?;
        tables().clients.get(fs)?.chmod(path, mode & 0o7777)?;
        Ok(0)
    })
}

/// Sets owner and group; `UINT32_MAX` leaves one as it is.
///
/// # Safety
/// `path` is null or a string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hayate_chown(fs: c_int, path: *const c_char, uid: u32, gid: u32) -> c_int {
    call(|| {
        let given = |id| (id != u32::MAX).then_some(id);
        // SAFETY: the caller's promise.
        let path = unsafe { arguments::path(path) }?;
        tables().clients.get(fs)?.chown(path, given(uid), given(gid))?;
        Ok(0)
    })
}

/// Sets access and modification time, in nanoseconds since 1970-01-01 UTC; `INT64_MIN` leaves one as it is, `INT64_MAX` is now.
///
/// # Safety
/// `path` is null or a string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn hayate_utime(fs: c_int, path: *const c_char, atime_ns: i64, mtime_ns: i64) -> c_int {
    call(|| {
        // SAFETY: the caller's promise.
        let path = unsafe { arguments::path(path) }?;
        tables().clients.get(fs)?.set_times(path, time(atime_ns), time(mtime_ns))?;
        Ok(0)
    })
}

fn time(given: i64) -> Option<SetTime> {
    match given {
        i64::MIN => None,
        i64::MAX => Some(SetTime::Now {}),
        at => Some(SetTime::At { ns: at }),
    }
}
