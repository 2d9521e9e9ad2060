//! Why a file system could not be mounted or unmounted. Each message says what to do.

use std::path::PathBuf;
use thiserror::Error;

/// One variant per thing that a person can do about it.
#[derive(Debug, Error)]
pub enum MountError {
    /// The mount point is not there.
    #[error("{0}: no such directory; make it first (mkdir -p {0})")]
    Missing(PathBuf),
    /// The mount point is not a directory.
    #[error("{0}: not a directory; a file system is mounted on an empty directory")]
    NotDirectory(PathBuf),
    /// The mount point has entries, which the mount would hide.
    #[error("{0}: the directory is not empty, and a mount would hide what it holds; use an empty one")]
    NotEmpty(PathBuf),
    /// Something is mounted there.
    #[error(
        "{path}: a file system of type {fs_type} is mounted there; unmount it first (hayate umount {path}, or umount {path})"
    )]
    AlreadyMounted {
        /// Where.
        path: PathBuf,
        /// Its type, as in /proc/mounts.
        fs_type: String,
    },
    /// A dead mount that is not of this program, or that cannot be removed.
    #[error(
        "{path}: a mount whose daemon is gone ({fs_type}) is in the way: {cause}; remove it with: fusermount3 -uz {path} (or umount -l {path} as root)"
    )]
    DeadMount {
        /// Where.
        path: PathBuf,
        /// Its type, as in /proc/mounts.
        fs_type: String,
        /// Why it was not removed.
        cause: String,
    },
    /// The mount point cannot be looked at.
    #[error("{path}: cannot be read: {cause}; the mounting user needs read and search permission there")]
    Unreadable {
        /// Where.
        path: PathBuf,
        /// What the system says.
        cause: String,
    },
    /// The kernel has no FUSE here.
    #[error(
        "/dev/fuse is missing; load the kernel module (modprobe fuse) or give the container the device (--device /dev/fuse)"
    )]
    NoFuseDevice,
    /// The user may not open the device.
    #[error(
        "/dev/fuse cannot be opened: {0}; ask the administrator for mode 0666, which is usual, or mount as root"
    )]
    FuseDeviceDenied(String),
    /// An ordinary user cannot mount without it.
    #[error(
        "fusermount3 was not found in PATH, and only root can mount without it; install the package fuse3, or mount as root"
    )]
    NoFusermount,
    /// fusermount3 forbids `allow_other`.
    #[error(
        "allow_other is forbidden to ordinary users here; add the line user_allow_other to /etc/fuse.conf, or leave allow_other out"
    )]
    AllowOtherForbidden,
    /// Options contradict each other.
    #[error("mount options: {0}")]
    Options(String),
    /// The system refused.
    #[error("{path}: mounting failed: {cause}")]
    Refused {
        /// Where.
        path: PathBuf,
        /// What the system says.
        cause: String,
    },
    /// The system refused to unmount.
    #[error("{path}: unmounting failed: {cause}")]
    UnmountRefused {
        /// Where.
        path: PathBuf,
        /// What the system says.
        cause: String,
    },
    /// Programs still use files of it; the name is gone, the session goes with the last of them.
    #[error(
        "{0}: unmounted, but programs still have files or working directories there (see: fuser -vm, lsof); they get errors once this process ends"
    )]
    StillInUse(PathBuf),
    /// The conversation with the kernel broke off.
    #[error("{path}: the FUSE session ended with an error: {cause}")]
    Session {
        /// Where.
        path: PathBuf,
        /// What the system says.
        cause: String,
    },
}
