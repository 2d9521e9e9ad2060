//! System calls on any path.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat};

use super::{Attributes, Backend, Capacity, DURABLE, IoFailure, IoResult, Listed, OpenFile, OpenHow};

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

fn partial(path: &str, done: usize, wanted: usize) -> IoFailure {
    let why = format!("{done} of {wanted} bytes were transferred, and -x forbids a second attempt");
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

    fn durable(&self, path: &str) -> IoResult<Option<bool>> {
        let mut value = [0; 8];
        // Other file systems have no such attribute.
        let told = rustix::fs::getxattr(path, DURABLE, &mut value).ok();
        Ok(told.map(|bytes| &value[..bytes] == b"yes"))
    }

    fn capacity(&self, path: &str) -> IoResult<Capacity> {
        // The file need not exist yet: then its directory tells.
        let there = Path::new(path).ancestors().find(|p| !p.as_os_str().is_empty() && p.exists());
        let there = there.unwrap_or(Path::new("."));
        let stat = rustix::fs::statvfs(there).map_err(|e| failure("cannot statvfs", path, &e.into()))?;
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
        if self.single_attempt {
            let done =
                self.file.write_at(data, offset).map_err(|e| failure("cannot write", &self.path, &e))?;
            return if done == data.len() { Ok(()) } else { Err(partial(&self.path, done, data.len())) };
        }
        self.file.write_all_at(data, offset).map_err(|e| failure("cannot write", &self.path, &e))
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> IoResult<usize> {
        let mut done = 0;
        while done < buffer.len() && !(self.single_attempt && done > 0) {
            match self.file.read_at(&mut buffer[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(bytes) => done += bytes,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(failure("cannot read", &self.path, &error)),
            }
        }
        Ok(done)
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
