//! System calls on any path.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat};

use super::{
    Attributes, Backend, Capacity, DURABLE, IoFailure, IoResult, LAYOUT, Listed, OpenFile, OpenHow, Storage,
};

/// Permissions of files, less the umask.
const FILE_MODE: u32 = 0o666;

/// The mounted file systems of this host.
#[derive(Debug, Clone, Copy, Default)]
pub struct Posix;

struct PosixFile {
    file: File,
    path: String,
    single_attempt: bool,
}

fn failure(action: &'static str, path: &str, error: &io::Error) -> IoFailure {
    IoFailure {
        action,
        path: path.to_owned(),
        why: error.to_string(),
        not_found: error.kind() == io::ErrorKind::NotFound,
    }
}

/// The path, or the directory that it will be in.
pub(crate) fn there(path: &str) -> &Path {
    let there = Path::new(path).ancestors().find(|p| !p.as_os_str().is_empty() && p.exists());
    there.unwrap_or(Path::new("."))
}

/// File systems behind which are other hosts, or a process, by the numbers of statfs(2). Those of local storage need not be known.
fn kind(number: u64) -> Storage {
    const FUSE: u64 = 0x6573_5546;
    const NETWORK: [(u64, &str); 11] = [
        (0x6969, "NFS"),
        (0x0BD0_0BD0, "Lustre"),
        (0x00C3_6400, "CephFS"),
        (0x4750_4653, "Spectrum Scale"),
        (0x1983_0326, "BeeGFS"),
        (0xFF53_4D42, "CIFS"),
        (0xFE53_4D42, "SMB"),
        (0x0102_1997, "9P"),
        (0x5346_414F, "AFS"),
        (0x0116_1970, "GFS2"),
        (0xAAD7_AAEA, "PanFS"),
    ];
    // Of 32 bits in the kernel; some are sign-extended on the way.
    let number = number & 0xFFFF_FFFF;
    if number == FUSE {
        return Storage::Fuse;
    }
    let found = NETWORK.iter().find(|(magic, _)| *magic == number);
    found.map_or(Storage::Local, |(_, name)| Storage::Network(name))
}

/// Transfers by calls that may do a part; each gets how many bytes were transferred before. Answers how many were until the file ended, or, with
/// a single attempt, by the first call.
fn transfer(
    wanted: usize,
    single_attempt: bool,
    mut call: impl FnMut(usize) -> io::Result<usize>,
) -> io::Result<usize> {
    let mut done = 0;
    while done < wanted && !(single_attempt && done > 0) {
        match call(done) {
            Ok(0) => break,
            Ok(bytes) => done += bytes,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

/// What a write that was done in part is, for it never ends early by itself.
fn partial(path: &str, done: usize, wanted: usize, single_attempt: bool) -> IoFailure {
    let reason = if single_attempt { ", and -x forbids a second attempt" } else { "" };
    let why = format!("{done} of {wanted} bytes were transferred{reason}");
    IoFailure { action: "cannot write", path: path.to_owned(), why, not_found: false }
}

impl Backend for Posix {
    fn open(&self, path: &str, how: OpenHow) -> IoResult<Box<dyn OpenFile>> {
        let flags = if how.direct { OFlags::DIRECT.bits() as i32 } else { 0 };
        let opened = fs::OpenOptions::new()
            .read(!how.write || how.read_too)
            .write(how.write)
            .create(how.create)
            .truncate(false)
            .custom_flags(flags)
            .open(path);
        match opened {
            Ok(file) => {
                Ok(Box::new(PosixFile { file, path: path.to_owned(), single_attempt: how.single_attempt }))
            }
            Err(error) => Err(failure("cannot open", path, &error)),
        }
    }

    fn make_file(&self, path: &str) -> IoResult<()> {
        let mode = Mode::from_raw_mode(FILE_MODE);
        mknodat(CWD, path, FileType::RegularFile, mode, 0)
            .map_err(|e| failure("cannot make", path, &e.into()))
    }

    fn sync_host(&self) -> IoResult<()> {
        rustix::fs::sync();
        Ok(())
    }

    fn stat(&self, path: &str) -> IoResult<Attributes> {
        let found = fs::metadata(path).map_err(|e| failure("cannot stat", path, &e))?;
        let modified_ns = (found.mtime() * 1_000_000_000 + found.mtime_nsec()).max(0) as u64;
        Ok(Attributes { bytes: found.len(), modified_ns, directory: found.is_dir() })
    }

    fn rename(&self, from: &str, to: &str) -> IoResult<()> {
        fs::rename(from, to).map_err(|e| failure("cannot rename", from, &e))
    }

    fn list(&self, dir: &str) -> IoResult<Vec<Listed>> {
        let entries = fs::read_dir(dir).map_err(|e| failure("cannot list", dir, &e))?;
        let listed = entries.map(|entry| {
            let entry = entry.map_err(|e| failure("cannot list", dir, &e))?;
            let kind = entry.file_type().map_err(|e| failure("cannot list", dir, &e))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            Ok(Listed { name, directory: kind.is_dir(), attributes: None })
        });
        listed.collect()
    }

    fn unlink(&self, path: &str) -> IoResult<()> {
        fs::remove_file(path).map_err(|e| failure("cannot remove", path, &e))
    }

    fn mkdir(&self, path: &str) -> IoResult<()> {
        fs::create_dir(path).map_err(|e| failure("cannot make directory", path, &e))
    }

    fn rmdir(&self, path: &str) -> IoResult<()> {
        fs::remove_dir(path).map_err(|e| failure("cannot remove directory", path, &e))
    }

    fn storage(&self, path: &str) -> Storage {
        rustix::fs::statfs(there(path)).map_or(Storage::Local, |told| kind(told.f_type as u64))
    }

    fn layout(&self, path: &str) -> Option<String> {
        let mut value = [0; 64];
        let bytes = rustix::fs::getxattr(there(path), LAYOUT, &mut value).ok()?;
        Some(String::from_utf8_lossy(value.get(..bytes)?).into_owned())
    }

    fn durable(&self, path: &str) -> IoResult<Option<bool>> {
        let mut value = [0; 8];
        // Other file systems have no such attribute.
        let told = rustix::fs::getxattr(path, DURABLE, &mut value).ok();
        Ok(told.map(|bytes| &value[..bytes] == b"yes"))
    }

    fn capacity(&self, path: &str) -> IoResult<Capacity> {
        let stat =
            rustix::fs::statvfs(there(path)).map_err(|e| failure("cannot statvfs", path, &e.into()))?;
        Ok(Capacity {
            bytes: stat.f_blocks * stat.f_frsize,
            free_bytes: stat.f_bfree * stat.f_frsize,
            inodes: stat.f_files,
            free_inodes: stat.f_ffree,
        })
    }
}

impl OpenFile for PosixFile {
    fn write_at(&self, data: &[u8], offset: u64) -> IoResult<()> {
        let call = |at: usize| self.file.write_at(&data[at..], offset + at as u64);
        let done = transfer(data.len(), self.single_attempt, call)
            .map_err(|e| failure("cannot write", &self.path, &e))?;
        if done == data.len() {
            return Ok(());
        }
        Err(partial(&self.path, done, data.len(), self.single_attempt))
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> IoResult<usize> {
        let wanted = buffer.len();
        let call = |at: usize| self.file.read_at(&mut buffer[at..], offset + at as u64);
        transfer(wanted, self.single_attempt, call).map_err(|e| failure("cannot read", &self.path, &e))
    }

    fn sync(&self) -> IoResult<()> {
        self.file.sync_all().map_err(|e| failure("cannot fsync", &self.path, &e))
    }

    fn close(self: Box<Self>) -> IoResult<()> {
        // Safe Rust cannot see the error of close(2). A lost write shows as a failure of fsync (-e) or as wrong content
        // (-R, -W).
        drop(self.file);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: what a call did in part is done to the end, or with `-x` not. Method: calls that do three bytes at most, and are interrupted in between.
    #[test]
    fn a_single_attempt_is_one_call() {
        let attempt = |wanted: usize, single: bool| {
            let (mut calls, mut places) = (0, Vec::new());
            let done = transfer(wanted, single, |at| {
                calls += 1;
                if calls == 1 {
                    return Err(io::ErrorKind::Interrupted.into());
                }
                places.push(at);
                Ok((wanted - at).min(3))
            });
            (done.expect("no error"), places)
        };
        assert_eq!(attempt(8, false), (8, vec![0, 3, 6]));
        assert_eq!(attempt(8, true), (3, vec![0]));
        assert_eq!(attempt(3, true), (3, vec![0]));
        assert_eq!(transfer(5, false, |at| Ok(usize::from(at == 0))).expect("an end"), 1, "the file ends");
        let why = partial("f", 3, 8, true).to_string();
        assert!(why.contains("3 of 8 bytes") && why.contains("-x"), "{why}");
    }

    #[test]
    fn file_systems_are_told_by_their_number() {
        assert_eq!(kind(0x6573_5546), Storage::Fuse);
        assert_eq!(kind(0x6969), Storage::Network("NFS"));
        assert_eq!(kind(0xFFFF_FFFF_FE53_4D42), Storage::Network("SMB"), "sign-extended");
        assert_eq!((kind(0xEF53), kind(0x0102_1994)), (Storage::Local, Storage::Local), "ext4, tmpfs");
        let proc = Posix.storage("/proc/none/such");
        assert_eq!((proc, Posix.layout("/proc/none")), (Storage::Local, None));
    }
}
