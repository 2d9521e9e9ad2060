//! Operations by path, on behalf of this process's user.
//!
//! Paths are absolute within the file system (a missing leading slash is read as one). Symbolic links are followed, 40 at most,
//! absolute targets from the file system's root. Names and attributes are remembered for the configured times.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use fs_proto::msg::inode::{SetTime, Setattr};
use fs_proto::msg::name::DirEntry;
use fs_proto::{Attr, InodeId};

use super::Client;
use crate::aio::Core;
use crate::config::OpenOptions;
use crate::error::Result;
use crate::file::File;

/// Entries that [`ReadDir`] fetches at once.
const PAGE_ENTRIES: usize = 1024;

impl Client {
    pub(super) fn at<T>(&self, path: &Path, op: impl AsyncFnOnce(&Core, &[u8]) -> Result<T>) -> Result<T> {
        let path = path.as_os_str().as_bytes();
        self.run(async |core| op(core, path).await).map_err(|e| e.at(path))
    }

    /// Attributes of what the path leads to; the same as [`Client::stat`].
    pub fn resolve(&self, path: impl AsRef<Path>) -> Result<Attr> {
        self.stat(path)
    }

    /// Attributes of what the path leads to.
    pub fn stat(&self, path: impl AsRef<Path>) -> Result<Attr> {
        self.at(path.as_ref(), async |core, path| core.stat(path, true).await)
    }

    /// Attributes of the path's last name, a symbolic link itself if it is one.
    pub fn lstat(&self, path: impl AsRef<Path>) -> Result<Attr> {
        self.at(path.as_ref(), async |core, path| core.stat(path, false).await)
    }

    /// Opens a regular file.
    pub fn open_path(&self, path: impl AsRef<Path>, options: &OpenOptions) -> Result<File> {
        let handle = self.at(path.as_ref(), async |core, path| core.open_path(path, *options).await)?;
        Ok(File::new(self.clone(), handle))
    }

    /// Makes a file with this content, or replaces the content of one that is there. One message for a small file whose directory is
    /// remembered; of a larger one others may see a part meanwhile.
    pub fn put(&self, path: impl AsRef<Path>, data: &[u8], mode: u32) -> Result<Attr> {
        self.at(path.as_ref(), async |core, path| core.put(path, data, mode).await)
    }

    /// All of a file. One message for a small one whose directory is remembered.
    pub fn get(&self, path: impl AsRef<Path>) -> Result<Bytes> {
        self.at(path.as_ref(), async |core, path| core.get(path).await)
    }

    /// Makes a directory.
    pub fn mkdir_path(&self, path: impl AsRef<Path>, mode: u32) -> Result<Attr> {
        self.at(path.as_ref(), async |core, path| core.mkdir_path(path, mode).await)
    }

    /// Makes a directory and those above it that are missing. It is no error if it exists.
    pub fn mkdir_all(&self, path: impl AsRef<Path>, mode: u32) -> Result<Attr> {
        self.at(path.as_ref(), async |core, path| core.mkdir_all(path, mode).await)
    }

    /// Removes a name that is not a directory.
    pub fn remove_file(&self, path: impl AsRef<Path>) -> Result<()> {
        self.at(path.as_ref(), async |core, path| core.remove_path(path, false).await)
    }

    /// Removes an empty directory.
    pub fn remove_dir(&self, path: impl AsRef<Path>) -> Result<()> {
        self.at(path.as_ref(), async |core, path| core.remove_path(path, true).await)
    }

    /// Moves a name, over whatever is at the new one.
    pub fn rename_path(&self, from: impl AsRef<Path>, to: impl AsRef<Path>) -> Result<()> {
        let to = to.as_ref().as_os_str().as_bytes();
        self.at(from.as_ref(), async |core, from| core.rename_path(from, to).await)
    }

    /// Gives the file at `from` the further name `to`. A symbolic link at `from` is not followed.
    pub fn link_path(&self, from: impl AsRef<Path>, to: impl AsRef<Path>) -> Result<Attr> {
        let to = to.as_ref().as_os_str().as_bytes();
        self.at(from.as_ref(), async |core, from| core.link_path(from, to).await)
    }

    /// Makes a symbolic link at `path` that says `target`.
    pub fn symlink_path(&self, target: impl AsRef<Path>, path: impl AsRef<Path>) -> Result<Attr> {
        let target = target.as_ref().as_os_str().as_bytes();
        self.at(path.as_ref(), async |core, path| core.symlink_path(target, path).await)
    }

    /// What a symbolic link says.
    pub fn read_link(&self, path: impl AsRef<Path>) -> Result<PathBuf> {
        let target = self.at(path.as_ref(), async |core, path| core.readlink_path(path).await)?;
        Ok(PathBuf::from(OsString::from_vec(target.to_vec())))
    }

    /// Value of an extended attribute of what the path leads to.
    pub fn getxattr_path(&self, path: impl AsRef<Path>, name: &[u8]) -> Result<Bytes> {
        self.at(path.as_ref(), async |core, path| {
            let ino = core.walk(path, true).await?;
            core.getxattr(core.caller(), ino, name).await
        })
    }

    /// Sets an extended attribute of what the path leads to; fails if it exists with `create`, and if it does not with `replace`.
    pub fn setxattr_path(
        &self,
        path: impl AsRef<Path>,
        name: &[u8],
        value: &[u8],
        create: bool,
        replace: bool,
    ) -> Result<()> {
        self.at(path.as_ref(), async |core, path| {
            let ino = core.walk(path, true).await?;
            core.setxattr(core.caller(), ino, name, value, create, replace).await
        })
    }

    /// Names of all extended attributes of what the path leads to.
    pub fn listxattr_path(&self, path: impl AsRef<Path>) -> Result<Vec<Bytes>> {
        self.at(path.as_ref(), async |core, path| {
            let ino = core.walk(path, true).await?;
            core.listxattr(core.caller(), ino).await
        })
    }

    /// Removes an extended attribute of what the path leads to.
    pub fn removexattr_path(&self, path: impl AsRef<Path>, name: &[u8]) -> Result<()> {
        self.at(path.as_ref(), async |core, path| {
            let ino = core.walk(path, true).await?;
            core.removexattr(core.caller(), ino, name).await
        })
    }

    /// The entries of a directory, without "." and "..", in no order that means anything. Attributes are not fetched.
    pub fn read_dir(&self, path: impl AsRef<Path>) -> Result<ReadDir> {
        self.list(path.as_ref(), false)
    }

    /// As [`Client::read_dir`], with attributes.
    pub fn read_dir_plus(&self, path: impl AsRef<Path>) -> Result<ReadDir> {
        self.list(path.as_ref(), true)
    }

    fn list(&self, path: &Path, plus: bool) -> Result<ReadDir> {
        let dir = self.at(path, async |core, path| core.walk_dir(path).await)?;
        let mut list = ReadDir {
            client: self.clone(),
            dir,
            plus,
            path: path.as_os_str().as_bytes().to_vec(),
            after: 0,
            page: Vec::new().into_iter(),
            end: false,
        };
        list.fetch()?; // So that a missing permission is found now.
        Ok(list)
    }

    /// Sets the permission bits.
    pub fn chmod(&self, path: impl AsRef<Path>, mode: u32) -> Result<Attr> {
        self.change(path.as_ref(), |change| change.mode = Some(mode))
    }

    /// Sets owner and group, those that are given.
    pub fn chown(&self, path: impl AsRef<Path>, uid: Option<u32>, gid: Option<u32>) -> Result<Attr> {
        self.change(path.as_ref(), |change| (change.uid, change.gid) = (uid, gid))
    }

    /// Cuts or extends a file to `size` bytes.
    pub fn truncate_path(&self, path: impl AsRef<Path>, size: u64) -> Result<Attr> {
        self.change(path.as_ref(), |change| change.size = Some(size))
    }

    /// Sets access and modification time, those that are given.
    pub fn set_times(
        &self,
        path: impl AsRef<Path>,
        atime: Option<SetTime>,
        mtime: Option<SetTime>,
    ) -> Result<Attr> {
        self.change(path.as_ref(), |change| (change.atime, change.mtime) = (atime, mtime))
    }

    fn change(&self, path: &Path, edit: impl FnOnce(&mut Setattr)) -> Result<Attr> {
        self.at(path, async |core, path| {
            let ino = core.walk(path, true).await?;
            let mut change = Setattr::nothing(ino);
            edit(&mut change);
            core.setattr(core.caller(), change).await
        })
    }
}

/// The entries of a directory, fetched page by page.
pub struct ReadDir {
    client: Client,
    dir: InodeId,
    plus: bool,
    path: Vec<u8>,
    after: u64,
    page: std::vec::IntoIter<DirEntry>,
    end: bool,
}

impl ReadDir {
    fn fetch(&mut self) -> Result<()> {
        let (dir, after, plus) = (self.dir, self.after, self.plus);
        let page = self
            .client
            .run(async |core| core.readdir(core.caller(), dir, after, PAGE_ENTRIES, plus).await)
            .map_err(|e| e.at(&self.path))?;
        self.end = page.end;
        self.after = page.entries.last().map_or(after, |last| last.cookie);
        self.page = page.entries.into_iter();
        Ok(())
    }
}

impl Iterator for ReadDir {
    type Item = Result<DirEntry>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(entry) = self.page.next() {
                return Some(Ok(entry));
            }
            if self.end {
                return None;
            }
            if let Err(e) = self.fetch() {
                self.end = true;
                return Some(Err(e));
            }
        }
    }
}
