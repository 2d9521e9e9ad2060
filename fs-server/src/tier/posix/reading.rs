//! Listing and reading what lies in the tier: nothing is followed, nothing is changed.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use bytes::Bytes;
use fs_proto::{FileKind, TimeNs};
use rustix::fs::{self, AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::{self, Errno};

use super::super::{
    Attributes, Found, Listed, TakeListed, TierError, TierResult, is_anyones_staging, is_kept_xattr,
};
use super::{attributes, failed};

/// Entries that are given at once.
const PAGE: usize = 256;
/// Longest target of a symbolic link, and a byte more.
const TARGET_ROOM: usize = 4096;
/// Largest value of an extended attribute.
const VALUE_MAX: usize = 64 << 10;

/// What `stat` says of an object.
pub fn found(stat: &Stat) -> Found {
    let is_dir = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
    let mtime = nanoseconds(stat.st_mtime, stat.st_mtime_nsec);
    Found { id: stat.st_ino, is_dir, size: stat.st_size as u64, mtime }
}

fn nanoseconds(seconds: i64, ns: u64) -> TimeNs {
    seconds.saturating_mul(1_000_000_000).saturating_add(ns as i64)
}

/// See [`super::super::Tier::list`].
pub fn list(dir: &OwnedFd, take: TakeListed<'_>) -> TierResult<()> {
    let error = |error| failed("list", b"a directory", error);
    let mut page = Vec::with_capacity(PAGE);
    for entry in fs::Dir::read_from(dir).map_err(error)? {
        let name = Bytes::copy_from_slice(entry.map_err(error)?.file_name().to_bytes());
        if matches!(&name[..], b"." | b"..") || is_anyones_staging(&name) {
            continue;
        }
        page.extend(listed(dir, name)?);
        if page.len() >= PAGE && !take(std::mem::take(&mut page)) {
            return Ok(());
        }
    }
    take(page);
    Ok(())
}

/// All of one entry; None if it went meanwhile.
fn listed(dir: &OwnedFd, name: Bytes) -> TierResult<Option<Listed>> {
    let error = |error| failed("look at", &name, error);
    let stat = match fs::statat(dir, &name[..], AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => stat,
        Err(Errno::NOENT) => return Ok(None),
        Err(other) => return Err(error(other)),
    };
    let kind = kind(stat.st_mode);
    let target = match kind {
        FileKind::Symlink => {
            let target = fs::readlinkat(dir, &name[..], Vec::with_capacity(TARGET_ROOM)).map_err(error)?;
            Bytes::from(target.into_bytes())
        }
        _ => Bytes::new(),
    };
    let xattrs = match kind {
        FileKind::File | FileKind::Directory => xattrs(dir, &name).map_err(error)?,
        _ => Vec::new(),
    };
    let attributes = Attributes {
        mode: Some(stat.st_mode & 0o7777),
        owner: Some((stat.st_uid, stat.st_gid)),
        xattrs: Some(xattrs),
        atime: nanoseconds(stat.st_atime, stat.st_atime_nsec),
        mtime: nanoseconds(stat.st_mtime, stat.st_mtime_nsec),
    };
    Ok(Some(Listed {
        found: found(&stat),
        kind,
        attributes,
        ctime: nanoseconds(stat.st_ctime, stat.st_ctime_nsec),
        nlink: stat.st_nlink as u32,
        rdev: stat.st_rdev as u32,
        target,
        name,
    }))
}

fn kind(mode: u32) -> FileKind {
    match FileType::from_raw_mode(mode) {
        FileType::Directory => FileKind::Directory,
        FileType::Symlink => FileKind::Symlink,
        FileType::Fifo => FileKind::Fifo,
        FileType::Socket => FileKind::Socket,
        FileType::CharacterDevice => FileKind::CharDevice,
        FileType::BlockDevice => FileKind::BlockDevice,
        FileType::RegularFile | FileType::Unknown => FileKind::File,
    }
}

/// The extended attributes that the namespace keeps, through an open descriptor of the object itself.
fn xattrs(dir: &OwnedFd, name: &Bytes) -> io::Result<Vec<(Bytes, Bytes)>> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let object = fs::openat(dir, &name[..], flags, Mode::empty())?;
    let target = format!("/proc/self/fd/{}", object.as_raw_fd());
    let mut found = Vec::new();
    for name in attributes::list(&target)?.iter().filter(|name| is_kept_xattr(name)) {
        let mut value = vec![0; VALUE_MAX];
        match fs::getxattr(&target, &name[..], &mut value[..]) {
            Ok(len) => found.push((Bytes::copy_from_slice(name), Bytes::copy_from_slice(&value[..len]))),
            Err(Errno::NODATA | Errno::ACCESS | Errno::PERM) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

/// See [`super::super::Tier::read`].
pub fn read(dir: &OwnedFd, name: &Bytes, wanted: &Found, offset: u64, out: &mut [u8]) -> TierResult<()> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let open = |flags| fs::openat(dir, &name[..], flags, Mode::empty());
    let opened = match open(flags | OFlags::NOATIME) {
        // Somebody else's file.
        Err(Errno::PERM) => open(flags),
        opened => opened,
    };
    let file = opened.map_err(|error| failed("open", name, error))?;
    check(&file, name, wanted)?;
    let mut filled = 0;
    while filled < out.len() {
        match io::pread(&file, &mut out[filled..], offset + filled as u64) {
            Ok(0) => return Err(other(name)),
            Ok(got) => filled += got,
            Err(Errno::INTR) => {}
            Err(error) => return Err(failed("read", name, error)),
        }
    }
    check(&file, name, wanted)
}

fn check(file: impl AsFd, name: &Bytes, wanted: &Found) -> TierResult<()> {
    let stat = fs::fstat(file).map_err(|error| failed("stat", name, error))?;
    if found(&stat) == *wanted { Ok(()) } else { Err(other(name)) }
}

fn other(name: &Bytes) -> TierError {
    TierError::Missing(format!(
        "{:?} was changed in the shared tier by others",
        String::from_utf8_lossy(name)
    ))
}
