//! The native client: what a program that links the client library gets, no kernel in between.

use std::sync::atomic::Ordering;

use fs_client::{Attr, Caller, Client, Create, Error, File, FileKind, OpenOptions};

use super::{
    Attributes, Backend, Capacity, DURABLE, IoFailure, IoResult, LAYOUT, Listed, OpenFile, OpenHow, Storage,
};

/// A file system of Hayate through its client.
pub struct Native {
    client: Client,
}

struct NativeFile {
    file: File,
    path: String,
}

impl Native {
    /// A backend over a connected client.
    pub fn new(client: Client) -> Self {
        Native { client }
    }
}

fn failure(action: &'static str, path: &str, error: &Error) -> IoFailure {
    IoFailure { action, path: path.to_owned(), why: error.to_string(), not_found: error.is_not_found() }
}

fn caller() -> Caller {
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    Caller { uid, gid, groups: Vec::new() }
}

fn attributes(attr: &Attr) -> Attributes {
    Attributes {
        bytes: attr.size,
        modified_ns: attr.mtime.max(0) as u64,
        directory: attr.kind == FileKind::Directory,
    }
}

impl Backend for Native {
    fn open(&self, path: &str, how: OpenHow) -> IoResult<Box<dyn OpenFile>> {
        let options = OpenOptions {
            read: !how.write || how.read_too,
            write: how.write,
            create: how.create,
            ..OpenOptions::default()
        };
        match self.client.open_path(path, &options) {
            Ok(file) => Ok(Box::new(NativeFile { file, path: path.to_owned() })),
            Err(error) => Err(failure("cannot open", path, &error)),
        }
    }

    fn make_file(&self, path: &str) -> IoResult<()> {
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        let parent = if parent.is_empty() { "/" } else { parent };
        let made = self.client.stat(parent).and_then(|parent| {
            let what = Create {
                parent: parent.ino,
                name: name.as_bytes().to_vec().into(),
                kind: FileKind::File,
                mode: 0o644,
                rdev: 0,
                target: Vec::new().into(),
                exclusive: true,
                layout: None,
                open: None,
            };
            self.client.create(&caller(), what)
        });
        made.map(drop).map_err(|e| failure("cannot make", path, &e))
    }

    fn stat(&self, path: &str) -> IoResult<Attributes> {
        self.client.stat(path).map(|attr| attributes(&attr)).map_err(|e| failure("cannot stat", path, &e))
    }

    fn rename(&self, from: &str, to: &str) -> IoResult<()> {
        self.client.rename_path(from, to).map_err(|e| failure("cannot rename", from, &e))
    }

    fn list(&self, dir: &str) -> IoResult<Vec<Listed>> {
        let entries = self.client.read_dir_plus(dir).map_err(|e| failure("cannot list", dir, &e))?;
        let listed = entries.map(|entry| {
            let entry = entry.map_err(|e| failure("cannot list", dir, &e))?;
            Ok(Listed {
                name: String::from_utf8_lossy(&entry.name).into_owned(),
                directory: entry.kind == FileKind::Directory,
                attributes: entry.attr.as_ref().map(attributes),
            })
        });
        listed.collect()
    }

    fn unlink(&self, path: &str) -> IoResult<()> {
        self.client.remove_file(path).map_err(|e| failure("cannot remove", path, &e))
    }

    fn mkdir(&self, path: &str) -> IoResult<()> {
        self.client.mkdir_path(path, 0o755).map(drop).map_err(|e| failure("cannot make directory", path, &e))
    }

    fn rmdir(&self, path: &str) -> IoResult<()> {
        self.client.remove_dir(path).map_err(|e| failure("cannot remove directory", path, &e))
    }

    fn capacity(&self, path: &str) -> IoResult<Capacity> {
        let space = self.client.statfs().map_err(|e| failure("cannot ask for the space of", path, &e))?;
        Ok(Capacity {
            bytes: space.total_bytes,
            free_bytes: space.free_bytes,
            inodes: space.inodes,
            free_inodes: 0,
        })
    }

    fn storage(&self, _path: &str) -> Storage {
        Storage::Servers
    }

    fn layout(&self, path: &str) -> Option<String> {
        let mut there = std::path::Path::new(path).ancestors().filter(|path| path.has_root());
        let value = there.find_map(|path| self.client.getxattr_path(path, LAYOUT.as_bytes()).ok())?;
        Some(String::from_utf8_lossy(&value).into_owned())
    }

    fn durable(&self, path: &str) -> IoResult<Option<bool>> {
        let told = self
            .client
            .stat(path)
            .and_then(|attr| self.client.getxattr(&caller(), attr.ino, DURABLE.as_bytes()));
        told.map(|value| Some(&*value == b"yes"))
            .map_err(|e| failure("cannot ask for the state of", path, &e))
    }

    fn messages_sent(&self) -> Option<u64> {
        Some(self.client.counters().messages_sent.load(Ordering::Relaxed))
    }
}

impl OpenFile for NativeFile {
    fn write_at(&self, data: &[u8], offset: u64) -> IoResult<()> {
        self.file.write_at(data, offset).map_err(|e| failure("cannot write", &self.path, &e))
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> IoResult<usize> {
        self.file.read_at(buffer, offset).map_err(|e| failure("cannot read", &self.path, &e))
    }

    fn sync(&self) -> IoResult<()> {
        self.file.sync().map_err(|e| failure("cannot fsync", &self.path, &e))
    }

    fn close(self: Box<Self>) -> IoResult<()> {
        self.file.close().map_err(|e| failure("cannot close", &self.path, &e))
    }
}
