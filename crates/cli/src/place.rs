//! Where a cluster keeps its things on one machine: `/tmp/hayate-UID/JOB`, private to the user.
//!
//! The path is short because Unix socket paths have at most 107 bytes, and it does not depend on the environment because
//! processes that a batch system starts may have another one.
//!
//! # Invariants
//! - Clusters share no directory: JOB is random (`jobs_differ`).
//! - A directory that others own or can enter is refused (`tests/bad_input.rs` and `refuses_open_directory`).

use crate::error::{CliError, Result, cannot};
use std::fs;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Bytes of randomness in a job id.
const JOB_BYTES: usize = 6;

/// A new job id: 12 hexadecimal digits.
pub fn random_job() -> Result<String> {
    let mut raw = [0; JOB_BYTES];
    getrandom::fill(&mut raw)
        .map_err(|error| CliError::Failed(format!("cannot get random bytes: {error}")))?;
    Ok(hex::encode(raw))
}

/// Directory of all clusters of this user on this machine.
pub fn base_dir() -> PathBuf {
    PathBuf::from(format!("/tmp/hayate-{}", rustix::process::geteuid().as_raw()))
}

/// Directory of cluster `job` on this machine: sockets, logs, records of mounts.
pub fn local_dir(job: &str) -> PathBuf {
    base_dir().join(job)
}

/// Makes [`local_dir`].
pub fn make_local_dir(job: &str) -> Result<PathBuf> {
    private_dir(&base_dir())?;
    let dir = local_dir(job);
    private_dir(&dir)?;
    Ok(dir)
}

/// Makes `path` with mode 0700, or checks that the one that is there belongs to this user alone.
pub fn private_dir(path: &Path) -> Result<()> {
    match fs::DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => return Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(cannot("make directory", path)(error)),
    }
    let meta = fs::symlink_metadata(path).map_err(cannot("look at", path))?;
    let mine = meta.is_dir() && meta.uid() == rustix::process::geteuid().as_raw();
    let for_others = meta.mode() & 0o077;
    if mine && for_others == 0 {
        return Ok(());
    }
    Err(CliError::Failed(format!(
        "{} is not a directory that only you can enter (owner {}, mode {:o}): remove it or set its mode to 0700",
        path.display(),
        meta.uid(),
        meta.mode() & 0o7777
    )))
}

/// Writes `content` to `path` with mode 0600, whole or not at all.
pub fn write_private(path: &Path, content: &[u8]) -> Result<()> {
    let temporary = beside(path);
    let written = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)
        .and_then(|mut file| file.write_all(content))
        .and_then(|()| fs::rename(&temporary, path));
    written.map_err(cannot("write", path))
}

/// A name next to `path` that no other process uses.
pub fn beside(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(format!(".{}.tmp", std::process::id()));
    path.with_file_name(name)
}

/// `path` made absolute by the working directory; it need not exist.
pub fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).map_err(cannot("make absolute", path))
}

/// Removes a directory tree; one that is not there is fine.
pub fn remove_tree(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(cannot("remove", path)(error)),
        _ => Ok(()),
    }
}

/// Removes a file; one that is not there is fine.
pub fn remove_file(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(cannot("remove", path)(error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn jobs_differ() {
        let (one, two) = (random_job().unwrap(), random_job().unwrap());
        assert_eq!(one.len(), 2 * JOB_BYTES);
        assert_ne!(one, two);
    }

    #[test]
    fn refuses_open_directory() {
        let dir = tempfile::tempdir().unwrap();
        let open = dir.path().join("open");
        fs::create_dir(&open).unwrap();
        fs::set_permissions(&open, fs::Permissions::from_mode(0o755)).unwrap();
        let message = private_dir(&open).unwrap_err().to_string();
        assert!(message.contains("0700"), "{message}");
        let own = dir.path().join("own");
        private_dir(&own).unwrap();
        private_dir(&own).unwrap();
    }

    #[test]
    fn private_files_are_private_and_replaced_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        write_private(&path, b"one").unwrap();
        write_private(&path, b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    /// Goal: sockets below the directory fit `sun_path`. Method: the longest names that can occur.
    #[test]
    fn socket_paths_are_short() {
        let path = PathBuf::from(format!("/tmp/hayate-{}", u32::MAX))
            .join("0".repeat(2 * JOB_BYTES))
            .join("65535.sock");
        assert!(path.as_os_str().len() < 108);
    }
}
