//! The two sides of a copy behind one small port: this machine's files and the cluster's.

use crate::error::{CliError, Result, cannot, failed};
use fs_client::{Client, File, FileKind, OpenOptions};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Bytes moved at once: several chunks, so that several servers work.
const PIECE_BYTES: usize = 4 << 20;

/// What is at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Node {
    kind: FileKind,
    /// Permission bits.
    pub mode: u32,
}

impl Node {
    /// A directory.
    pub fn is_dir(self) -> bool {
        self.kind == FileKind::Directory
    }
    /// A regular file.
    pub fn is_file(self) -> bool {
        self.kind == FileKind::File
    }
    /// A symbolic link.
    pub fn is_link(self) -> bool {
        self.kind == FileKind::Symlink
    }
}

/// Where bytes of a file go. Ended by [`Sink::finish`]: only then all is known to be there.
pub trait Sink {
    /// Appends.
    fn put(&mut self, piece: &[u8]) -> Result<()>;
    /// Nothing more comes.
    fn finish(&mut self) -> Result<()>;
}

/// A file system, as far as copying needs it.
pub trait Tree {
    /// What is at `path`; nothing if it does not exist.
    fn look(&self, path: &Path, follow: bool) -> Result<Option<Node>>;
    /// Names in a directory.
    fn names(&self, dir: &Path) -> Result<Vec<OsString>>;
    /// The target of a symbolic link.
    fn link_target(&self, path: &Path) -> Result<PathBuf>;
    /// Makes a symbolic link.
    fn link(&self, target: &Path, path: &Path) -> Result<()>;
    /// Makes a directory, unless it is there.
    fn make_dir(&self, path: &Path, mode: u32) -> Result<()>;
    /// Sends a file's content to `sink`, and finishes it.
    fn read(&self, path: &Path, sink: &mut dyn Sink) -> Result<()>;
    /// A new or emptied file.
    fn write(&self, path: &Path, mode: u32) -> Result<Box<dyn Sink>>;
}

/// This machine's files.
pub struct Local;

impl Tree for Local {
    fn look(&self, path: &Path, follow: bool) -> Result<Option<Node>> {
        let meta = if follow { fs::metadata(path) } else { fs::symlink_metadata(path) };
        match meta {
            Ok(meta) => Ok(Some(Node { kind: kind(meta.file_type()), mode: meta.mode() & 0o7777 })),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(cannot("look at", path)(error)),
        }
    }

    fn names(&self, dir: &Path) -> Result<Vec<OsString>> {
        let entries = fs::read_dir(dir).map_err(cannot("list", dir))?;
        entries.map(|entry| entry.map(|entry| entry.file_name()).map_err(cannot("list", dir))).collect()
    }

    fn link_target(&self, path: &Path) -> Result<PathBuf> {
        fs::read_link(path).map_err(cannot("read", path))
    }

    fn link(&self, target: &Path, path: &Path) -> Result<()> {
        std::os::unix::fs::symlink(target, path).map_err(cannot("make the link", path))
    }

    fn make_dir(&self, path: &Path, mode: u32) -> Result<()> {
        match fs::create_dir(path) {
            Ok(()) => {
                // The owner must be able to fill it, whatever the source says.
                let mode = fs::Permissions::from_mode(mode | 0o700);
                fs::set_permissions(path, mode).map_err(cannot("set the mode of", path))
            }
            Err(_) if path.is_dir() => Ok(()),
            Err(error) => Err(cannot("make directory", path)(error)),
        }
    }

    fn read(&self, path: &Path, sink: &mut dyn Sink) -> Result<()> {
        let mut file = fs::File::open(path).map_err(cannot("open", path))?;
        let mut piece = vec![0; PIECE_BYTES];
        loop {
            match file.read(&mut piece).map_err(cannot("read", path))? {
                0 => return sink.finish(),
                bytes => sink.put(&piece[..bytes])?,
            }
        }
    }

    fn write(&self, path: &Path, mode: u32) -> Result<Box<dyn Sink>> {
        let file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(path);
        Ok(Box::new(LocalSink { file: file.map_err(cannot("make", path))?, path: path.to_path_buf() }))
    }
}

fn kind(kind: fs::FileType) -> FileKind {
    if kind.is_dir() {
        FileKind::Directory
    } else if kind.is_symlink() {
        FileKind::Symlink
    } else if kind.is_fifo() {
        FileKind::Fifo
    } else if kind.is_socket() {
        FileKind::Socket
    } else if kind.is_char_device() {
        FileKind::CharDevice
    } else if kind.is_block_device() {
        FileKind::BlockDevice
    } else {
        FileKind::File
    }
}

struct LocalSink {
    file: fs::File,
    path: PathBuf,
}

impl Sink for LocalSink {
    fn put(&mut self, piece: &[u8]) -> Result<()> {
        self.file.write_all(piece).map_err(cannot("write", &self.path))
    }
    fn finish(&mut self) -> Result<()> {
        self.file.flush().map_err(cannot("write", &self.path))
    }
}

/// The cluster's files.
pub struct Cluster(pub Client);

impl Tree for Cluster {
    fn look(&self, path: &Path, follow: bool) -> Result<Option<Node>> {
        let attr = if follow { self.0.stat(path) } else { self.0.lstat(path) };
        match attr {
            Ok(attr) => Ok(Some(Node { kind: attr.kind, mode: attr.mode })),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(failed(error)),
        }
    }

    fn names(&self, dir: &Path) -> Result<Vec<OsString>> {
        let entries = self.0.read_dir(dir).map_err(failed)?;
        entries
            .map(|entry| entry.map(|entry| OsStr::from_bytes(&entry.name).to_owned()).map_err(failed))
            .collect()
    }

    fn link_target(&self, path: &Path) -> Result<PathBuf> {
        self.0.read_link(path).map_err(failed)
    }

    fn link(&self, target: &Path, path: &Path) -> Result<()> {
        self.0.symlink_path(target, path).map(drop).map_err(failed)
    }

    fn make_dir(&self, path: &Path, mode: u32) -> Result<()> {
        match self.0.mkdir_path(path, mode | 0o700) {
            Err(error) => match self.look(path, true)? {
                Some(node) if node.is_dir() => Ok(()),
                _ => Err(failed(error)),
            },
            Ok(_) => Ok(()),
        }
    }

    fn read(&self, path: &Path, sink: &mut dyn Sink) -> Result<()> {
        let file = self.0.open_path(path, &OpenOptions::read_only()).map_err(failed)?;
        let mut offset = 0;
        loop {
            let piece = file.read_bytes_at(PIECE_BYTES, offset).map_err(failed)?;
            if piece.is_empty() {
                return sink.finish();
            }
            sink.put(&piece)?;
            offset += piece.len() as u64;
        }
    }

    fn write(&self, path: &Path, mode: u32) -> Result<Box<dyn Sink>> {
        let options = OpenOptions { mode, ..OpenOptions::create_truncate() };
        let file = self.0.open_path(path, &options).map_err(failed)?;
        Ok(Box::new(ClusterSink { file: Some(file), offset: 0 }))
    }
}

struct ClusterSink {
    file: Option<File>,
    offset: u64,
}

impl Sink for ClusterSink {
    fn put(&mut self, piece: &[u8]) -> Result<()> {
        let file = self.file.as_ref().ok_or_else(|| CliError::Failed("the copy has ended already".into()))?;
        file.write_at(piece, self.offset).map_err(failed)?;
        self.offset += piece.len() as u64;
        Ok(())
    }
    fn finish(&mut self) -> Result<()> {
        self.file.take().map_or(Ok(()), |file| file.close().map_err(failed))
    }
}
