//! The mounts of a cluster on this machine.
//!
//! Every mount process leaves a record in the cluster's directory here, so that `down` and `umount` find it.
//!
//! # Invariants
//! - A record is written once the mount is live, and removed by whoever sees it gone; a stale one harms nobody because the
//!   kernel's table and the process's command line are looked at, too (`tests/mount.rs`).

use crate::error::{CliError, Result, cannot, failed};
use crate::launch::{local, rendezvous};
use crate::place;
use crate::process::Daemon;
use serde::{Deserialize, Serialize};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// What a mount process says on its standard output once the mount is live; anything else is an error.
pub const LIVE: &str = "live";
/// How long programs may go on using a mount that is taken away by force.
const FORCE_LIMIT: Duration = Duration::from_secs(1);
/// How long a mount process may take to end after its mount is gone.
const END_LIMIT: Duration = Duration::from_secs(10);

/// A mount of a cluster on this machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountRecord {
    /// Where.
    pub dir: PathBuf,
    /// The process that serves it.
    pub pid: u32,
    /// Where, in the words of that process's command line.
    pub word: String,
}

/// Fails if `dir` cannot be mounted on, with the reason and what to do. A dead mount of ours is cleared away.
pub fn check(dir: &Path) -> Result<()> {
    fuse_mount::check_mount_point(dir).map_err(failed)
}

/// Where the mount of server `id`'s host is reported: empty when live, else why not.
pub fn report_path(rendezvous: &Path, id: u16) -> PathBuf {
    rendezvous.join(format!("mount-{id}.done"))
}

fn records_dir(job: &str) -> PathBuf {
    place::local_dir(job).join("mounts")
}

fn record_path(job: &str, dir: &Path) -> PathBuf {
    records_dir(job).join(format!("{:08x}.toml", fs_proto::checksum::crc(dir.as_os_str().as_encoded_bytes())))
}

/// Notes that this process serves a mount at `dir`, which its command line calls `word`.
pub fn record(job: &str, dir: &Path, word: &Path) -> Result<()> {
    place::make_local_dir(job)?;
    place::private_dir(&records_dir(job))?;
    let path = record_path(job, dir);
    let record =
        MountRecord { dir: dir.to_path_buf(), pid: std::process::id(), word: word.display().to_string() };
    let text = toml::to_string(&record).map_err(cannot("write", &path))?;
    place::write_private(&path, text.as_bytes())
}

/// Removes the note.
pub fn forget(job: &str, dir: &Path) -> Result<()> {
    place::remove_file(&record_path(job, dir))
}

/// The mounts of cluster `job` on this machine.
pub fn list(job: &str) -> Result<Vec<MountRecord>> {
    let dir = records_dir(job);
    let entries = match std::fs::read_dir(&dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(cannot("list", &dir)(error)),
    };
    let mut records = Vec::new();
    for entry in entries {
        let path = entry.map_err(cannot("list", &dir))?.path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            let text = std::fs::read_to_string(&path).map_err(cannot("read", &path))?;
            records.push(toml::from_str(&text).map_err(cannot("understand", &path))?);
        }
    }
    Ok(records)
}

/// The cluster and process that a mount at `dir` belongs to.
fn find(dir: &Path) -> Option<(String, MountRecord)> {
    let jobs = std::fs::read_dir(place::base_dir()).ok()?;
    jobs.flatten().find_map(|entry| {
        let job = entry.file_name().into_string().ok()?;
        let record = list(&job).ok()?.into_iter().find(|record| record.dir == dir)?;
        Some((job, record))
    })
}

/// Whether a process serves a mount of cluster `job` at `dir`.
pub fn is_served(job: &str, dir: &Path) -> Result<bool> {
    let dir = canonical(dir)?;
    let served = |record: &MountRecord| {
        record.dir == dir && Daemon::find(record.pid, &["mount", &record.word]).is_some()
    };
    Ok(list(job)?.iter().any(served))
}

/// The options of `hayate mount` for a mount that a launch makes.
pub fn words(memory_bytes: u64, passthrough: bool) -> Vec<String> {
    let mut words = vec![format!("--memory={memory_bytes}")];
    words.extend(passthrough.then(|| "--passthrough".to_owned()));
    words
}

/// What the kernel's table has as the source of a cluster's mounts.
pub fn source_name(cluster: &str) -> String {
    format!("hayate-{cluster}").replace(',', "_")
}

/// `dir` as the kernel names it. The directory itself is not looked at: a dead mount would fail.
pub fn canonical(dir: &Path) -> Result<PathBuf> {
    let absolute = place::absolute(dir)?;
    match (absolute.parent(), absolute.file_name()) {
        (Some(parent), Some(name)) => {
            let parent = std::fs::canonicalize(parent).map_err(cannot("find", parent))?;
            Ok(parent.join(name))
        }
        _ => Ok(absolute),
    }
}

/// Mounts the cluster of `cluster_path` on `dir` by a process in the background; returns when the mount is live.
pub fn mount_in_background(cluster_path: &Path, job: &str, dir: &Path, options: &[String]) -> Result<()> {
    let log = place::make_local_dir(job)?.join("mount.log");
    let mut command = Command::new(local::own_exe()?);
    command.arg("--cluster").arg(cluster_path);
    command.args(["mount", "--foreground", "--report"]).args(options).arg(dir);
    let stderr =
        std::fs::OpenOptions::new().create(true).append(true).open(&log).map_err(cannot("open", &log))?;
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(stderr);
    let mut child = command.spawn().map_err(failed)?;
    let mut said = String::new();
    if let Some(output) = child.stdout.take() {
        // An unreadable pipe is an ended process, which the empty line says as well.
        let _ = BufReader::new(output).read_line(&mut said);
    }
    if said.trim_end() == LIVE {
        return Ok(());
    }
    let status = child.wait().map_err(failed)?;
    match said.trim_end() {
        "" => Err(CliError::Failed(format!(
            "the mount process ended ({status}) before {} was mounted{}",
            dir.display(),
            rendezvous::tail(&log)
        ))),
        reason => Err(CliError::Failed(reason.to_owned())),
    }
}

/// Unmounts `dir` and waits for the process behind it. `lazy` lets programs that still use it finish by themselves.
pub fn unmount(dir: &Path, lazy: bool) -> Result<()> {
    let dir = canonical(dir)?;
    let found = find(&dir);
    match kind_at(&dir)?.as_deref() {
        Some(kind) if kind.starts_with("fuse") => detach(&dir, lazy)?,
        Some(kind) => {
            return Err(CliError::Usage(format!(
                "{} is a mount of type {kind}, not of Hayate",
                dir.display()
            )));
        }
        None if found.is_none() => {
            return Err(CliError::Usage(format!("nothing is mounted at {}", dir.display())));
        }
        None => {}
    }
    let Some((job, record)) = found else { return Ok(()) };
    if let Some(process) = Daemon::find(record.pid, &["mount", &record.word])
        && !lazy
        && !process.ended(END_LIMIT)
        && !process.end()
    {
        return Err(CliError::Failed(format!(
            "the process {} of mount {} does not end",
            record.pid,
            dir.display()
        )));
    }
    forget(&job, &dir)
}

/// Unmounts what `record` names, if it is still there. With `by_force` also when programs use it, which then get errors.
pub fn unmount_recorded(record: &MountRecord, job: &str, by_force: bool) -> Result<()> {
    let process = Daemon::find(record.pid, &["mount", &record.word]);
    match unmount(&record.dir, by_force) {
        Err(CliError::Usage(_)) => forget(job, &record.dir)?,
        outcome => outcome?,
    }
    if let Some(process) = process.filter(|process| by_force && !process.ended(FORCE_LIMIT)) {
        process.end();
    }
    Ok(())
}

/// Takes the mount away: by the system call when allowed, else by the FUSE tool, which may do it for its owner.
fn detach(dir: &Path, lazy: bool) -> Result<()> {
    use rustix::mount::{UnmountFlags, unmount};
    let flags = if lazy { UnmountFlags::DETACH } else { UnmountFlags::empty() };
    let errno = match unmount(dir, flags) {
        Ok(()) => return Ok(()),
        Err(errno) => errno,
    };
    if errno == rustix::io::Errno::PERM {
        return fusermount(dir, lazy);
    }
    let hint = if errno == rustix::io::Errno::BUSY { BUSY } else { "" };
    Err(cannot("unmount", dir)(errno).with(hint))
}

const BUSY: &str = "; a program uses it (see `fuser -vm DIR`): end it, or leave the directory, and try again";

fn fusermount(dir: &Path, lazy: bool) -> Result<()> {
    let output = Command::new("fusermount3").arg(if lazy { "-uz" } else { "-u" }).arg("--").arg(dir).output();
    let output = output.map_err(|error| {
        CliError::Failed(format!("cannot unmount {}: fusermount3 cannot be started ({error})", dir.display()))
    })?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    let hint = if said.contains("busy") { BUSY } else { "" };
    Err(cannot("unmount", dir)(said).with(hint))
}

/// Type of the file system that is mounted at `dir`, if one is.
pub fn kind_at(dir: &Path) -> Result<Option<String>> {
    let table = Path::new("/proc/self/mountinfo");
    let text = std::fs::read_to_string(table).map_err(cannot("read", table))?;
    Ok(kind_in(&text, dir))
}

/// Fields of a line: id, parent, device, root, mount point, options, optional fields, "-", type, source, options.
fn kind_in(table: &str, dir: &Path) -> Option<String> {
    // The last line of a place is what lies on top.
    table.lines().rev().find_map(|line| {
        let at = line.split(' ').nth(4)?;
        let kind = line.split(" - ").nth(1)?.split(' ').next()?;
        (Path::new(&unescape(at)) == dir).then(|| kind.to_owned())
    })
}

/// The kernel writes blanks, tabs, newlines and backslashes in octal.
fn unescape(text: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .iter()
        .fold(text.to_owned(), |text, (code, plain)| text.replace(code, plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "\
        36 35 98:0 / /mnt rw,noatime master:1 - ext3 /dev/root rw\n\
        37 36 0:50 / /mnt/a\\040b rw shared:2 - fuse.hayate hayate rw\n\
        38 36 0:51 / /mnt/x rw - tmpfs t rw\n\
        39 38 0:52 / /mnt/x rw - fuse h rw\n";

    #[test]
    fn mount_table_is_understood() {
        assert_eq!(kind_in(TABLE, Path::new("/mnt/a b")).as_deref(), Some("fuse.hayate"));
        assert_eq!(kind_in(TABLE, Path::new("/mnt/x")).as_deref(), Some("fuse"));
        assert_eq!(kind_in(TABLE, Path::new("/mnt/y")), None);
        assert_eq!(kind_at(Path::new("/proc")).unwrap().as_deref(), Some("proc"));
    }

    #[test]
    fn what_is_no_mount_is_said_to_be_none() {
        let dir = tempfile::tempdir().unwrap();
        assert!(unmount(dir.path(), false).unwrap_err().to_string().contains("nothing is mounted"));
        assert!(unmount(Path::new("/proc"), false).unwrap_err().to_string().contains("not of Hayate"));
    }
}
