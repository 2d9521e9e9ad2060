//! Attributes, modes, flags and times between FUSE and Hayate. Pure.

use std::ffi::OsStr;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fs_client::{Attr, FileKind, OpenFlags, SetTime, Setattr, Space};
use fs_proto::{NAME_MAX, TimeNs};
use fuser::{Errno, FileAttr, FileType, FopenFlags, INodeNo, TimeOrNow};

/// Unit of `st_blocks`, in bytes, whatever the block size is.
const STAT_BLOCK: u64 = 512;

/// Unit in which statfs counts, in bytes.
pub(crate) const STATFS_BLOCK: u32 = 4096;

const NS_PER_S: i128 = 1_000_000_000;

/// `stat` of an inode. Allocation is shown as the size, rounded up; the block size is the chunk size, the best unit of I/O.
pub(crate) fn file_attr(attr: &Attr) -> FileAttr {
    FileAttr {
        ino: INodeNo(attr.ino.0),
        size: attr.size,
        blocks: attr.size.div_ceil(STAT_BLOCK),
        atime: system_time(attr.atime),
        mtime: system_time(attr.mtime),
        ctime: system_time(attr.ctime),
        crtime: system_time(attr.btime),
        kind: file_type(attr.kind),
        perm: (attr.mode & 0o7777) as u16,
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        rdev: attr.rdev,
        blksize: attr.layout.chunk_bytes() as u32,
        flags: 0,
    }
}

/// A directory of which only the number matters ("." and ".." in listings: the kernel takes nothing else from them).
pub(crate) fn directory_stub(ino: u64) -> FileAttr {
    FileAttr {
        ino: INodeNo(ino),
        size: 0,
        blocks: 0,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind: FileType::Directory,
        perm: 0,
        nlink: 2,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: STATFS_BLOCK,
        flags: 0,
    }
}

/// The kind, in FUSE's words.
pub(crate) fn file_type(kind: FileKind) -> FileType {
    match kind {
        FileKind::File => FileType::RegularFile,
        FileKind::Directory => FileType::Directory,
        FileKind::Symlink => FileType::Symlink,
        FileKind::Fifo => FileType::NamedPipe,
        FileKind::Socket => FileType::Socket,
        FileKind::CharDevice => FileType::CharDevice,
        FileKind::BlockDevice => FileType::BlockDevice,
    }
}

/// What mknod(2) is asked to make by the type bits of `mode`; none is a regular file.
pub(crate) fn node_kind(mode: u32) -> Result<FileKind, Errno> {
    match mode & libc::S_IFMT {
        0 | libc::S_IFREG => Ok(FileKind::File),
        libc::S_IFIFO => Ok(FileKind::Fifo),
        libc::S_IFSOCK => Ok(FileKind::Socket),
        libc::S_IFCHR => Ok(FileKind::CharDevice),
        libc::S_IFBLK => Ok(FileKind::BlockDevice),
        _ => Err(Errno::EINVAL),
    }
}

/// A time for the kernel.
pub(crate) fn system_time(ns: TimeNs) -> SystemTime {
    let distance = Duration::from_nanos(ns.unsigned_abs());
    if ns >= 0 { UNIX_EPOCH + distance } else { UNIX_EPOCH - distance }
}

/// A time from the kernel, as fuser passes it. Times beyond the year 2262 or before 1677 are cut to that.
///
/// fuser 0.18 turns the kernel's (s, ns) of a time before 1970 into `EPOCH - (-s, ns)`, where it should be `EPOCH - (-s, 0) +
/// ns`; this undoes it.
pub(crate) fn time_from_fuser(time: SystemTime) -> TimeNs {
    let ns = match time.duration_since(UNIX_EPOCH) {
        Ok(after) => after.as_nanos() as i128,
        Err(before) => {
            let distance = before.duration();
            i128::from(distance.subsec_nanos()) - i128::from(distance.as_secs()) * NS_PER_S
        }
    };
    ns.clamp(i128::from(TimeNs::MIN), i128::from(TimeNs::MAX)) as TimeNs
}

/// A time to set.
pub(crate) fn set_time(time: TimeOrNow) -> SetTime {
    match time {
        TimeOrNow::Now => SetTime::Now {},
        TimeOrNow::SpecificTime(at) => SetTime::At { ns: time_from_fuser(at) },
    }
}

/// open(2) flags, for the client.
pub(crate) fn open_flags(flags: i32) -> OpenFlags {
    let access = flags & libc::O_ACCMODE;
    let write = access == libc::O_WRONLY || access == libc::O_RDWR;
    OpenFlags {
        read: access != libc::O_WRONLY,
        write,
        append: write && flags & libc::O_APPEND != 0,
        truncate: write && flags & libc::O_TRUNC != 0,
    }
}

/// Flags by which an opening is served when the kernel holds writes back: it reads around what is written to a part of a page, and finds the end
/// for appends itself.
pub(crate) fn held_back(flags: i32) -> i32 {
    if open_flags(flags).writes() {
        return flags & !(libc::O_ACCMODE | libc::O_APPEND) | libc::O_RDWR;
    }
    flags
}

/// Whether an opening bypasses the page cache: asked for, or for appending (see the crate's page).
pub(crate) fn is_direct(flags: i32, always: bool) -> bool {
    always || flags & libc::O_DIRECT != 0 || open_flags(flags).append
}

/// What the kernel is told about an opening. `keep_cache`: the cached pages are of the file's present version.
pub(crate) fn fopen_flags(flags: i32, always_direct: bool, keep_cache: bool) -> FopenFlags {
    let mut answer = FopenFlags::empty();
    if is_direct(flags, always_direct) {
        answer |= FopenFlags::FOPEN_DIRECT_IO;
        if !open_flags(flags).append {
            answer |= FopenFlags::FOPEN_PARALLEL_DIRECT_WRITES;
        }
    } else if keep_cache {
        answer |= FopenFlags::FOPEN_KEEP_CACHE;
    }
    // Never FOPEN_NOFLUSH, although there is nothing to publish of a file that is open for reading: closing it gives locks back.
    answer
}

/// The mode after a write, truncation or change of owner by somebody whom setuid and setgid bits must not outlive, as Linux
/// does it: setgid without group execution marks mandatory locking and stays. `None`: nothing falls.
pub(crate) fn without_privileges(mode: u32) -> Option<u32> {
    let mut cleared = mode & !libc::S_ISUID;
    if mode & libc::S_IXGRP != 0 {
        cleared &= !libc::S_ISGID;
    }
    (cleared != mode).then_some(cleared & 0o7777)
}

/// Whether a change makes setuid and setgid bits fall of what is no directory: a new owner always, a new size unless root cut.
pub(crate) fn drops_privileges(change: &Setattr, kind: FileKind, uid: u32) -> bool {
    let new_owner = change.uid.is_some() || change.gid.is_some();
    let cut = change.size.is_some() && uid != 0;
    kind != FileKind::Directory && change.mode.is_none() && (new_owner || cut)
}

/// A name for the client.
pub(crate) fn name_bytes(name: &OsStr) -> Result<&[u8], Errno> {
    let raw = name.as_bytes();
    if raw.len() > NAME_MAX { Err(Errno::ENAMETOOLONG) } else { Ok(raw) }
}

/// How an extended attribute's value or list is answered.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum XattrAnswer<'a> {
    /// Only its size was asked for.
    Size(u32),
    /// It fits.
    Data(&'a [u8]),
}

/// The answer for a buffer of `room` bytes; 0 asks for the size.
pub(crate) fn xattr_answer(value: &[u8], room: u32) -> Result<XattrAnswer<'_>, Errno> {
    let size = u32::try_from(value.len()).map_err(|_| Errno::E2BIG)?;
    if room == 0 {
        Ok(XattrAnswer::Size(size))
    } else if size <= room {
        Ok(XattrAnswer::Data(value))
    } else {
        Err(Errno::ERANGE)
    }
}

/// A list of names as listxattr(2) gives it: each ends with a zero byte.
pub(crate) fn xattr_list<N: AsRef<[u8]>>(names: &[N]) -> Vec<u8> {
    names.iter().flat_map(|name| name.as_ref().iter().copied().chain([0])).collect()
}

/// Whether an attribute is an access control list.
pub(crate) fn is_acl(name: &[u8]) -> bool {
    name.starts_with(b"system.posix_acl_")
}

/// The supplementary groups in a process's status (proc(5)).
pub(crate) fn supplementary_groups(status: &str) -> Vec<u32> {
    let line = status.lines().find_map(|line| line.strip_prefix("Groups:")).unwrap_or_default();
    line.split_whitespace().filter_map(|gid| gid.parse().ok()).collect()
}

/// What statfs(2) shows.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Capacity {
    /// Blocks of [`STATFS_BLOCK`].
    pub(crate) blocks: u64,
    /// Free ones.
    pub(crate) free: u64,
    /// Inodes that exist or could.
    pub(crate) files: u64,
    /// Inodes that could be made: one for each free block, as nothing else limits them.
    pub(crate) files_free: u64,
}

/// The servers' space, in blocks.
pub(crate) fn capacity(space: &Space) -> Capacity {
    let unit = u64::from(STATFS_BLOCK);
    let free = space.free_bytes / unit;
    Capacity {
        blocks: space.total_bytes / unit,
        free,
        files: space.inodes.saturating_add(free),
        files_free: free,
    }
}

/// What fallocate(2) is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Allocation {
    /// Space, and the size to have it in.
    Space { keep_size: bool },
    /// A hole.
    Hole,
    /// Zeros.
    Zeros { keep_size: bool },
}

/// What a mode of fallocate(2) asks for; what moves data or unshares it is not offered.
pub(crate) fn allocation(mode: i32) -> Result<Allocation, Errno> {
    const HOLE: i32 = libc::FALLOC_FL_PUNCH_HOLE;
    const ZEROS: i32 = libc::FALLOC_FL_ZERO_RANGE;
    let keep_size = mode & libc::FALLOC_FL_KEEP_SIZE != 0;
    match mode & !libc::FALLOC_FL_KEEP_SIZE {
        0 => Ok(Allocation::Space { keep_size }),
        HOLE if keep_size => Ok(Allocation::Hole),
        ZEROS => Ok(Allocation::Zeros { keep_size }),
        _ => Err(Errno::EOPNOTSUPP),
    }
}

/// A range of fallocate(2).
pub(crate) fn file_range(offset: u64, length: u64) -> Result<Range<u64>, Errno> {
    let end = offset.checked_add(length).filter(|end| i64::try_from(*end).is_ok()).ok_or(Errno::EFBIG)?;
    Ok(offset..end)
}

#[cfg(test)]
#[path = "translate_tests.rs"]
mod tests;
