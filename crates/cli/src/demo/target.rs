//! What the burst goes through: the mount, as applications do, or the native client where there is no FUSE.

use crate::error::{Result, cannot, failed};
use fs_client::{Client, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// A way into the file system.
pub trait Target: Sync {
    /// Makes a directory (a relative path).
    fn make_dir(&self, path: &Path) -> Result<()>;
    /// Opens a file for writing; made if need be, never cut (several ranks write one file).
    fn open_write(&self, path: &Path) -> Result<Box<dyn Handle>>;
    /// Opens a file for reading.
    fn open_read(&self, path: &Path) -> Result<Box<dyn Handle>>;
}

/// An open file.
pub trait Handle {
    /// Writes all of `data`.
    fn write_at(&self, data: &[u8], offset: u64) -> Result<()>;
    /// Fills `data`, or less at the end of the file; answers how much.
    fn read_at(&self, data: &mut [u8], offset: u64) -> Result<usize>;
    /// Makes it durable and closes it.
    fn finish(self: Box<Self>) -> Result<()>;
}

/// By system calls below a mount.
pub struct Mounted(pub PathBuf);

struct MountedFile {
    file: std::fs::File,
    path: PathBuf,
}

impl Target for Mounted {
    fn make_dir(&self, path: &Path) -> Result<()> {
        let path = self.0.join(path);
        std::fs::create_dir_all(&path).map_err(cannot("make directory", &path))
    }

    fn open_write(&self, path: &Path) -> Result<Box<dyn Handle>> {
        let path = self.0.join(path);
        let file = std::fs::OpenOptions::new().write(true).create(true).truncate(false).open(&path);
        Ok(Box::new(MountedFile { file: file.map_err(cannot("make", &path))?, path }))
    }

    fn open_read(&self, path: &Path) -> Result<Box<dyn Handle>> {
        let path = self.0.join(path);
        Ok(Box::new(MountedFile { file: std::fs::File::open(&path).map_err(cannot("open", &path))?, path }))
    }
}

impl Handle for MountedFile {
    fn write_at(&self, data: &[u8], offset: u64) -> Result<()> {
        self.file.write_all_at(data, offset).map_err(cannot("write", &self.path))
    }

    fn read_at(&self, data: &mut [u8], offset: u64) -> Result<usize> {
        let mut done = 0;
        while done < data.len() {
            match self
                .file
                .read_at(&mut data[done..], offset + done as u64)
                .map_err(cannot("read", &self.path))?
            {
                0 => break,
                bytes => done += bytes,
            }
        }
        Ok(done)
    }

    fn finish(self: Box<Self>) -> Result<()> {
        self.file.sync_all().map_err(cannot("sync", &self.path))
    }
}

/// By the client library.
pub struct Native(pub Client);

struct NativeFile(fs_client::File);

impl Target for Native {
    fn make_dir(&self, path: &Path) -> Result<()> {
        self.0.mkdir_all(path, 0o755).map(drop).map_err(failed)
    }

    fn open_write(&self, path: &Path) -> Result<Box<dyn Handle>> {
        let options = OpenOptions { write: true, create: true, ..OpenOptions::default() };
        Ok(Box::new(NativeFile(self.0.open_path(path, &options).map_err(failed)?)))
    }

    fn open_read(&self, path: &Path) -> Result<Box<dyn Handle>> {
        Ok(Box::new(NativeFile(self.0.open_path(path, &OpenOptions::read_only()).map_err(failed)?)))
    }
}

impl Handle for NativeFile {
    fn write_at(&self, data: &[u8], offset: u64) -> Result<()> {
        self.0.write_at(data, offset).map_err(failed)
    }

    fn read_at(&self, data: &mut [u8], offset: u64) -> Result<usize> {
        self.0.read_at(data, offset).map_err(failed)
    }

    fn finish(self: Box<Self>) -> Result<()> {
        self.0.sync().map_err(failed)?;
        self.0.close().map_err(failed)
    }
}
