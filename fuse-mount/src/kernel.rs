//! What the system calls for mounts: mount(2), umount2(2), fusermount3, mountinfo, read-ahead.

use std::ffi::{CString, OsStr, OsString};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::mount::{MountFlags, UnmountFlags};

/// Type of our mounts in /proc/mounts.
pub(crate) const FS_TYPE: &str = "fuse.hayate";

/// The same, without "fuse.".
pub(crate) const SUBTYPE: &str = "hayate";

const DEVICE: &str = "/dev/fuse";

/// Read-ahead of a mount, in KiB. The kernel's default of 128 keeps sequential reads to an eighth of a chunk.
const READ_AHEAD_KB: u32 = 4096;

/// One line of mountinfo.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MountEntry {
    /// "major:minor" of the file system.
    pub(crate) device: String,
    /// Where.
    pub(crate) path: PathBuf,
    /// As in /proc/mounts.
    pub(crate) fs_type: String,
}

/// Opens the FUSE device.
pub(crate) fn open_device() -> io::Result<OwnedFd> {
    OpenOptions::new().read(true).write(true).open(DEVICE).map(OwnedFd::from)
}

/// Whether this process may call mount(2) at all (root, also of a user namespace).
pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// What mount(2) is told about a session on file descriptor `fd`.
fn mount_data(fd: i32, uid: u32, gid: u32, allow_other: bool) -> String {
    let mut data = format!("fd={fd},rootmode=40000,user_id={uid},group_id={gid},default_permissions");
    if allow_other {
        data.push_str(",allow_other");
    }
    data
}

/// Mounts by mount(2), without any helper program.
pub(crate) fn mount_directly(
    path: &Path,
    source: &str,
    device: &OwnedFd,
    allow_other: bool,
    read_only: bool,
) -> io::Result<()> {
    let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
    let data = CString::new(mount_data(device.as_raw_fd(), uid, gid, allow_other))?;
    let mut flags = MountFlags::NOSUID | MountFlags::NODEV;
    if read_only {
        flags |= MountFlags::RDONLY;
    }
    rustix::mount::mount(source, path, FS_TYPE, flags, data.as_c_str())?;
    Ok(())
}

/// Unmounts; `lazy` takes the name away at once and the rest when the last program has left. Goes through fusermount3 where
/// only root may.
pub(crate) fn unmount(path: &Path, lazy: bool) -> io::Result<()> {
    let flags = if lazy { UnmountFlags::DETACH } else { UnmountFlags::empty() };
    match rustix::mount::unmount(path, flags | UnmountFlags::NOFOLLOW) {
        Err(rustix::io::Errno::PERM) => unmount_by_helper(path, lazy),
        result => Ok(result?),
    }
}

fn unmount_by_helper(path: &Path, lazy: bool) -> io::Result<()> {
    let helper =
        find_helper().ok_or_else(|| io::Error::other("only root may, and fusermount3 is not in PATH"))?;
    let options = if lazy { "-uz" } else { "-u" };
    let output = Command::new(helper).arg(options).arg("--").arg(path).stdin(Stdio::null()).output()?;
    if output.status.success() {
        return Ok(());
    }
    let words = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    // Its only way to tell.
    let kind = if words.contains("busy") { io::ErrorKind::ResourceBusy } else { io::ErrorKind::Other };
    Err(io::Error::new(kind, words))
}

/// The program that mounts for ordinary users.
pub(crate) fn find_helper() -> Option<PathBuf> {
    let dirs: Vec<PathBuf> =
        std::env::var_os("PATH").map_or_else(Vec::new, |path| std::env::split_paths(&path).collect());
    let usual = ["/usr/bin", "/bin", "/sbin", "/usr/sbin"].map(PathBuf::from);
    dirs.into_iter().chain(usual).map(|dir| dir.join("fusermount3")).find(|file| file.is_file())
}

/// The mount that is visible at exactly `path`, if any.
pub(crate) fn mount_at(path: &Path) -> io::Result<Option<MountEntry>> {
    let table = std::fs::read("/proc/self/mountinfo")?;
    Ok(topmost(&table, path))
}

/// The last mount at `path` hides the earlier ones.
fn topmost(table: &[u8], path: &Path) -> Option<MountEntry> {
    table.split(|byte| *byte == b'\n').filter_map(parse_line).rfind(|entry| entry.path == path)
}

/// `36 35 98:0 /root /mount/point options [tags...] - type source super-options`
fn parse_line(line: &[u8]) -> Option<MountEntry> {
    let mut fields = line.split(|byte| *byte == b' ');
    let device = fields.nth(2)?;
    let path = fields.nth(1)?;
    let fs_type = fields.skip_while(|field| *field != b"-").nth(1)?;
    Some(MountEntry {
        device: String::from_utf8_lossy(device).into_owned(),
        path: unescape(path).into(),
        fs_type: String::from_utf8_lossy(fs_type).into_owned(),
    })
}

/// Spaces, tabs, line feeds and backslashes are written as octal numbers.
fn unescape(raw: &[u8]) -> OsString {
    let mut out = Vec::with_capacity(raw.len());
    let mut rest = raw;
    while let Some((first, tail)) = rest.split_first() {
        let escaped = (*first == b'\\').then(|| tail.get(..3)).flatten().and_then(octal);
        out.push(escaped.unwrap_or(*first));
        rest = if escaped.is_some() { &tail[3..] } else { tail };
    }
    OsString::from_vec(out)
}

fn octal(digits: &[u8]) -> Option<u8> {
    u8::from_str_radix(OsStr::from_bytes(digits).to_str()?, 8).ok()
}

/// Raises the read-ahead of a mounted file system. Only root may; others keep the kernel's default.
pub(crate) fn raise_read_ahead(device: &str) {
    let file = format!("/sys/class/bdi/{device}/read_ahead_kb");
    let written = File::options()
        .write(true)
        .open(&file)
        .and_then(|mut out| io::Write::write_all(&mut out, READ_AHEAD_KB.to_string().as_bytes()));
    if let Err(e) = written {
        tracing::debug!(file, error = %e, "read-ahead stays at the kernel's default");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &[u8] = b"22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n\
        40 22 0:41 / /mnt/my\\040dir rw,nosuid - fuse.sshfs host rw\n\
        41 40 0:42 / /mnt/my\\040dir rw,nosuid shared:2 master:3 - fuse.hayate hayate rw,user_id=0\n\
        bad line\n";

    #[test]
    fn the_topmost_mount_counts() {
        let entry = topmost(TABLE, Path::new("/mnt/my dir")).unwrap();
        assert_eq!((entry.device.as_str(), entry.fs_type.as_str()), ("0:42", FS_TYPE));
        assert_eq!(topmost(TABLE, Path::new("/")).unwrap().fs_type, "ext4");
        assert_eq!(topmost(TABLE, Path::new("/mnt")), None);
    }

    #[test]
    fn escapes_are_undone() {
        assert_eq!(unescape(b"a\\040b\\134c\\012"), "a b\\c\n");
        // Not escapes: passed through, not read past the end.
        assert_eq!(unescape(b"\\09\\"), "\\09\\");
        assert_eq!(unescape(b"\\999"), "\\999");
    }

    #[test]
    fn mount_data_asks_the_kernel_to_check_permissions() {
        let data = mount_data(7, 1000, 100, false);
        assert_eq!(data, "fd=7,rootmode=40000,user_id=1000,group_id=100,default_permissions");
        assert!(mount_data(7, 0, 0, true).ends_with(",default_permissions,allow_other"));
    }
}
