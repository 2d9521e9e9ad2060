//! Setting attributes through `/proc/self/fd/N`: the link leads to the very object that is open, whatever happens to its name.

use std::collections::BTreeMap;
use std::os::fd::{AsRawFd, OwnedFd};

use bytes::Bytes;
use fs_proto::TimeNs;
use rustix::fs::{
    self, AtFlags, CWD, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid, XattrFlags,
};
use rustix::io::{self, Errno};

use super::super::Attributes;

/// Attributes of so many bytes do not fit into an inode of many file systems.
const MUCH: usize = 2 << 10;

/// Room for a value, and for the list of names (the kernel's limits).
const XATTR_MAX: usize = 64 << 10;

/// Sets `wanted` on the object that `target` leads to. Returns the name of an extended attribute that the file system refused.
pub fn set(target: &str, stat: &Stat, wanted: &Attributes, is_root: bool) -> io::Result<Option<Bytes>> {
    let is_link = FileType::from_raw_mode(stat.st_mode) == FileType::Symlink;
    // Before all else: with the owner the kernel takes capabilities away, and the bits that give the owner's rights.
    if let Some((uid, gid)) = wanted.owner.filter(|owner| is_root && (stat.st_uid, stat.st_gid) != *owner) {
        fs::chownat(CWD, target, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)), AtFlags::empty())?;
    }
    let refused = match &wanted.xattrs {
        Some(xattrs) => set_xattrs(target, stat, xattrs, is_root)?,
        None => None,
    };
    if let Some(mode) = wanted.mode.filter(|_| !is_link) {
        fs::chmodat(CWD, target, Mode::from_raw_mode(mode & 0o7777), AtFlags::empty())?;
    }
    let times = Timestamps { last_access: timespec(wanted.atime), last_modification: timespec(wanted.mtime) };
    fs::utimensat(CWD, target, &times, AtFlags::empty())?;
    Ok(refused)
}

/// The same on a file that is open for writing and was just made, with `stat` from after its content was written.
pub fn set_open(
    file: &OwnedFd,
    stat: &Stat,
    wanted: &Attributes,
    is_root: bool,
) -> io::Result<Option<Bytes>> {
    let xattrs = wanted.xattrs.as_deref().unwrap_or_default();
    // A directory's default list makes some on new files.
    if !xattrs.is_empty()
        || !matches!(fs::flistxattr(file, &mut [0_u8; 0][..]), Ok(0) | Err(Errno::OPNOTSUPP))
    {
        return set(&format!("/proc/self/fd/{}", file.as_raw_fd()), stat, wanted, is_root);
    }
    if let Some((uid, gid)) = wanted.owner.filter(|owner| is_root && (stat.st_uid, stat.st_gid) != *owner) {
        fs::fchown(file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
    }
    if let Some(mode) = wanted.mode.filter(|mode| (mode ^ stat.st_mode) & 0o7777 != 0) {
        fs::fchmod(file, Mode::from_raw_mode(mode & 0o7777))?;
    }
    let times = Timestamps { last_access: timespec(wanted.atime), last_modification: timespec(wanted.mtime) };
    fs::futimens(file, &times)?;
    Ok(None)
}

/// Nanoseconds since 1970, also before, as the kernel wants them.
pub fn timespec(ns: TimeNs) -> Timespec {
    const SECOND: i64 = 1_000_000_000;
    Timespec { tv_sec: ns.div_euclid(SECOND), tv_nsec: ns.rem_euclid(SECOND) as _ }
}

fn set_xattrs(
    target: &str,
    stat: &Stat,
    wanted: &[(Bytes, Bytes)],
    is_root: bool,
) -> io::Result<Option<Bytes>> {
    let wanted: BTreeMap<&[u8], &[u8]> = wanted.iter().map(|(name, value)| (&name[..], &value[..])).collect();
    let large = wanted.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>() > MUCH;
    let have = list(target)?;
    let surplus = have.iter().filter(|name| !wanted.contains_key(&name[..]) && is_removable(name));
    let mut changes: Vec<(&[u8], Option<&[u8]>)> = surplus.map(|name| (&name[..], None)).collect();
    changes.extend(wanted.iter().map(|(name, value)| (*name, Some(*value))));
    let mut refused = None;
    for (name, value) in changes {
        let change = || match value {
            Some(value) => fs::setxattr(target, name, value, XattrFlags::empty()),
            None => fs::removexattr(target, name),
        };
        if value.is_some() && is_equal(target, name, value) {
            continue;
        }
        let changed = match change() {
            // The owner's own permission bits forbid it; the wanted ones are set afterwards.
            Err(Errno::ACCESS) if !is_root => {
                fs::chmodat(
                    CWD,
                    target,
                    Mode::from_raw_mode(stat.st_mode & 0o7777 | 0o600),
                    AtFlags::empty(),
                )?;
                change()
            }
            outcome => outcome,
        };
        match changed {
            Ok(()) | Err(Errno::NODATA) => {}
            Err(Errno::OPNOTSUPP | Errno::PERM | Errno::TOOBIG) => {
                refused = Some(Bytes::copy_from_slice(name));
            }
            // ext4 says so of more than a block holds. It never will, and the file must not wait for it.
            Err(Errno::NOSPC) if large => refused = Some(Bytes::copy_from_slice(name)),
            Err(error) => return Err(error),
        }
    }
    Ok(refused)
}

fn is_removable(name: &[u8]) -> bool {
    name.starts_with(b"user.") || name.starts_with(b"trusted.") || is_list(name)
}

fn is_list(name: &[u8]) -> bool {
    name.starts_with(b"system.posix_acl_")
}

fn is_equal(target: &str, name: &[u8], wanted: Option<&[u8]>) -> bool {
    let Some(wanted) = wanted else { return false };
    // One byte more than wanted, so that a longer value shows.
    let mut value = vec![0; wanted.len() + 1];
    fs::getxattr(target, name, &mut value[..]).is_ok_and(|len| &value[..len] == wanted)
}

/// Names of all extended attributes of what `target` leads to.
pub fn list(target: &str) -> io::Result<Vec<Vec<u8>>> {
    match fs::listxattr_query(target) {
        Ok(0) | Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
        Ok(_) => {}
        Err(error) => return Err(error),
    }
    let mut names = vec![0; XATTR_MAX];
    let len = fs::listxattr(target, &mut names[..])?;
    Ok(names[..len].split(|byte| *byte == 0).filter(|name| !name.is_empty()).map(<[u8]>::to_vec).collect())
}

/// Lets the owner into a directory whose mode keeps it out.
pub fn make_accessible(parent: &OwnedFd, name: &[u8]) -> io::Result<()> {
    let dir = fs::openat(
        parent,
        name,
        OFlags::PATH | OFlags::NOFOLLOW | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    let mode = fs::fstat(&dir)?.st_mode;
    let target = format!("/proc/self/fd/{}", dir.as_raw_fd());
    fs::chmodat(CWD, target, Mode::from_raw_mode(mode & 0o7777 | 0o700), AtFlags::empty())
}
