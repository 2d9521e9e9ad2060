//! Trees as lists of paths with all that counts, from the namespace and from a directory, to be compared.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs::OpenOptions;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use fs_proto::msg::inode::{Getxattr, Listxattr, Readlink};
use fs_proto::{FileKind, InodeId};

use crate::client::{Client, ROOT};

/// One object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    kind: FileKind,
    mode: u32,
    owner: Option<(u32, u32)>,
    /// Times of the content's change; access times are compared for files (reading changes those of directories).
    mtime: i128,
    atime: Option<i128>,
    content: Vec<u8>,
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Paths that are links of one object get the same number, in the order of paths.
    group: usize,
}

/// All paths below a root.
pub type Tree = BTreeMap<Vec<u8>, Node>;

struct Groups(BTreeMap<u64, usize>);

impl Groups {
    fn of(&mut self, ino: u64) -> usize {
        let next = self.0.len();
        *self.0.entry(ino).or_insert(next)
    }
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// The namespace.
pub fn of_namespace(client: &Client) -> Tree {
    let mut found = Vec::new();
    walk_namespace(client, ROOT, b"", &mut found);
    number(found)
}

fn number(mut found: Vec<(Vec<u8>, u64, Node)>) -> Tree {
    found.sort_by(|a, b| a.0.cmp(&b.0));
    let mut groups = Groups(BTreeMap::new());
    found
        .into_iter()
        .map(|(path, ino, mut node)| {
            node.group = groups.of(ino);
            (path, node)
        })
        .collect()
}

fn walk_namespace(client: &Client, dir: InodeId, at: &[u8], found: &mut Vec<(Vec<u8>, u64, Node)>) {
    for (name, ino) in client.list(dir) {
        let path = [at, b"/", &name].concat();
        let attr = client.attr(ino);
        let content = match attr.kind {
            FileKind::File => client.read(&attr),
            FileKind::Symlink => client.ask_home(ino, &Readlink { ino }).to_vec(),
            _ => Vec::new(),
        };
        let names = client.ask_home(ino, &Listxattr { ino });
        let xattrs = names.into_iter().map(|name| {
            let value = client.ask_home(ino, &Getxattr { ino, name: name.clone() });
            (name.to_vec(), value.to_vec())
        });
        let node = Node {
            kind: attr.kind,
            mode: if attr.kind == FileKind::Symlink { 0o777 } else { attr.mode },
            owner: is_root().then_some((attr.uid, attr.gid)),
            mtime: i128::from(attr.mtime),
            atime: (attr.kind == FileKind::File).then_some(i128::from(attr.atime)),
            content,
            xattrs: xattrs.collect(),
            group: 0,
        };
        found.push((path.clone(), ino.0, node));
        if attr.is_dir() {
            walk_namespace(client, ino, &path, found);
        }
    }
}

/// A directory of the operating system.
pub fn of_directory(root: &Path) -> Tree {
    let mut found = Vec::new();
    walk_directory(root, b"", &mut found);
    number(found)
}

fn kind_of(file_type: std::fs::FileType) -> FileKind {
    match file_type {
        t if t.is_file() => FileKind::File,
        t if t.is_dir() => FileKind::Directory,
        t if t.is_symlink() => FileKind::Symlink,
        t if t.is_fifo() => FileKind::Fifo,
        t if t.is_socket() => FileKind::Socket,
        t if t.is_char_device() => FileKind::CharDevice,
        _ => FileKind::BlockDevice,
    }
}

fn walk_directory(dir: &Path, at: &[u8], found: &mut Vec<(Vec<u8>, u64, Node)>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        let path = [at, b"/", entry.file_name().as_bytes()].concat();
        let meta = entry.path().symlink_metadata().unwrap();
        let kind = kind_of(meta.file_type());
        let ns = |seconds: i64, ns: i64| i128::from(seconds) * 1_000_000_000 + i128::from(ns);
        let node = Node {
            kind,
            mode: meta.mode() & 0o7777,
            owner: is_root().then_some((meta.uid(), meta.gid())),
            mtime: ns(meta.mtime(), meta.mtime_nsec()),
            atime: (kind == FileKind::File).then_some(ns(meta.atime(), meta.atime_nsec())),
            content: match kind {
                FileKind::File => read_quietly(&entry.path()).unwrap(),
                FileKind::Symlink => {
                    std::fs::read_link(entry.path()).unwrap().as_os_str().as_bytes().to_vec()
                }
                _ => Vec::new(),
            },
            xattrs: xattrs_of(&entry.path()),
            group: 0,
        };
        found.push((path.clone(), meta.ino(), node));
        if kind == FileKind::Directory {
            walk_directory(&entry.path(), &path, found);
        }
    }
}

/// Content of a file, without a trace in its access time.
pub fn read_quietly(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut data = Vec::new();
    OpenOptions::new()
        .read(true)
        .custom_flags(rustix::fs::OFlags::NOATIME.bits() as i32)
        .open(path)?
        .read_to_end(&mut data)?;
    Ok(data)
}

fn xattrs_of(path: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut names = vec![0; 4096];
    let len = rustix::fs::llistxattr(path, &mut names[..]).unwrap_or(0);
    let names = names[..len].split(|byte| *byte == 0).filter(|name| name.starts_with(b"user."));
    names
        .map(|name| {
            let mut value = vec![0; 4096];
            let len = rustix::fs::lgetxattr(path, name, &mut value[..]).unwrap();
            (name.to_vec(), value[..len].to_vec())
        })
        .collect()
}

/// Fails with what differs.
pub fn assert_same(namespace: &Tree, tier: &Tree) {
    let mut differences = String::new();
    for path in namespace.keys().chain(tier.keys().filter(|path| !namespace.contains_key(*path))) {
        let (mut here, mut there) = (namespace.get(path).cloned(), tier.get(path).cloned());
        if here != there {
            for side in [&mut here, &mut there].into_iter().flatten() {
                let len = side.content.len();
                side.content.truncate(64);
                side.content.extend_from_slice(format!("... {len} bytes").as_bytes());
            }
            let path = String::from_utf8_lossy(path);
            writeln!(differences, "{path}\n  namespace {here:?}\n  tier      {there:?}").unwrap();
        }
    }
    assert!(differences.is_empty(), "the tier differs:\n{differences}");
}
