//! Whether a directory can be mounted on.

use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::error::MountError;
use crate::kernel;

/// Checks that a file system can be mounted on `path`, and says what to do if not. A mount of ours whose daemon died is removed.
///
/// # Errors
/// See [`MountError`]; nothing was changed then.
pub fn check_mount_point(path: impl AsRef<Path>) -> Result<(), MountError> {
    check_device()?;
    check_directory(path.as_ref()).map(drop)
}

/// The mount point's path without symbolic links, if it is an empty directory.
pub(crate) fn check_directory(path: &Path) -> Result<PathBuf, MountError> {
    remove_if_dead(path)?;
    let real = path.canonicalize().map_err(|e| match e.kind() {
        ErrorKind::NotFound => MountError::Missing(path.to_owned()),
        ErrorKind::NotADirectory => MountError::NotDirectory(path.to_owned()),
        _ => unreadable(path, &e),
    })?;
    if !real.is_dir() {
        return Err(MountError::NotDirectory(real));
    }
    if let Some(mounted) = kernel::mount_at(&real).map_err(|e| unreadable(&real, &e))?
        && mounted.fs_type.starts_with("fuse")
    {
        return Err(MountError::AlreadyMounted { path: real, fs_type: mounted.fs_type });
    }
    match std::fs::read_dir(&real).map_err(|e| unreadable(&real, &e))?.next() {
        None => Ok(real),
        Some(_) => Err(MountError::NotEmpty(real)),
    }
}

/// The same, and nobody else mounts there as long as the file is open: two that looked at the same moment would mount one over the other.
pub(crate) fn claim_directory(path: &Path) -> Result<(PathBuf, File), MountError> {
    let real = check_directory(path)?;
    let claim = File::open(&real).map_err(|e| unreadable(&real, &e))?;
    if let Err(error) = claim.lock() {
        // Some network file systems know no locks; then the second look has to do.
        tracing::debug!(%error, path = %real.display(), "the mount point cannot be locked");
    }
    Ok((check_directory(path)?, claim))
}

/// A mount whose daemon is gone answers everything with `ENOTCONN`.
fn remove_if_dead(path: &Path) -> Result<(), MountError> {
    // Attributes of the root may still be in the kernel's cache; statistics never are.
    if rustix::fs::statfs(path).map(drop) != Err(rustix::io::Errno::NOTCONN) {
        return Ok(());
    }
    let entry = mount_entry_unseen(path)?;
    let fs_type =
        entry.as_ref().map_or_else(|| "a directory above it".to_owned(), |entry| entry.fs_type.clone());
    let dead =
        |cause: String| MountError::DeadMount { path: path.to_owned(), fs_type: fs_type.clone(), cause };
    match entry {
        Some(entry) if entry.fs_type == kernel::FS_TYPE => {
            tracing::warn!(path = %path.display(), "removing a mount whose daemon is gone");
            kernel::unmount(&entry.path, true).map_err(|e| dead(format!("it cannot be removed ({e})")))
        }
        _ => Err(dead("it is not of this program".to_owned())),
    }
}

/// The mount at a path that cannot be looked at itself: only what is above it is resolved.
fn mount_entry_unseen(path: &Path) -> Result<Option<kernel::MountEntry>, MountError> {
    let look = || {
        let absolute = std::path::absolute(path)?;
        let real = match (absolute.parent(), absolute.file_name()) {
            (Some(parent), Some(name)) => parent.canonicalize()?.join(name),
            _ => absolute,
        };
        kernel::mount_at(&real)
    };
    look().map_err(|e| unreadable(path, &e))
}

fn unreadable(path: &Path, e: &std::io::Error) -> MountError {
    MountError::Unreadable { path: path.to_owned(), cause: e.to_string() }
}

/// The device, and the helper program for those who need it. The device must be open to the user even with the helper: each
/// thread opens it for itself.
pub(crate) fn check_device() -> Result<(), MountError> {
    match kernel::open_device() {
        Ok(_) => {}
        Err(e) if e.kind() == ErrorKind::NotFound || e.raw_os_error() == Some(libc::ENODEV) => {
            return Err(MountError::NoFuseDevice);
        }
        Err(e) => return Err(MountError::FuseDeviceDenied(e.to_string())),
    }
    if kernel::is_root() || kernel::find_helper().is_some() { Ok(()) } else { Err(MountError::NoFusermount) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_directory_will_do() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(check_directory(dir.path()).unwrap(), dir.path().canonicalize().unwrap());
    }

    #[test]
    fn what_cannot_be_mounted_on_is_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let missing = check_directory(&dir.path().join("no"));
        assert!(matches!(missing, Err(MountError::Missing(_))), "{missing:?}");
        std::fs::write(dir.path().join("file"), "").unwrap();
        let file = check_directory(&dir.path().join("file"));
        assert!(matches!(file, Err(MountError::NotDirectory(_))), "{file:?}");
        let full = check_directory(dir.path());
        assert!(matches!(full, Err(MountError::NotEmpty(_))), "{full:?}");
    }

    #[test]
    fn a_symbolic_link_to_a_directory_is_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (real, link) = (dir.path().join("real"), dir.path().join("link"));
        std::fs::create_dir(&real).unwrap();
        std::os::unix::fs::symlink(&real, &link).unwrap();
        assert_eq!(check_directory(&link).unwrap(), real.canonicalize().unwrap());
    }
}
