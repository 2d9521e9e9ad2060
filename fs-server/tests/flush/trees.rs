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
use crate::s3_server::S3Server;

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

/// Leaves out when files were read.
pub fn forget_atimes(tree: &mut Tree) {
    for node in tree.values_mut() {
        node.atime = None;
    }
}

/// A bucket, by the mapping of docs/decisions/0019. Directories and files alike.
pub fn of_bucket(server: &S3Server) -> Tree {
    const DIRECTORY: &str = "/.hayate-directory";
    const ATTRIBUTES: &str = "/.hayate-attributes";
    let client = server.client();
    let mut found = Vec::new();
    for key in server.keys() {
        if key.ends_with(ATTRIBUTES) || key == ATTRIBUTES[1..] {
            continue;
        }
        let head = |key: &str| {
            client.head(&format!("run/{key}")).unwrap().unwrap_or_else(|| panic!("{key} is gone"))
        };
        let (path, meta) = match key.strip_suffix(DIRECTORY) {
            Some(dir) => (dir.to_owned(), head(&format!("{dir}{ATTRIBUTES}")).meta),
            None => (key.clone(), head(&key).meta),
        };
        let mode: u32 = meta["mode"].parse().unwrap();
        let kind = kind_of_mode(mode);
        let has_content = matches!(kind, FileKind::File | FileKind::Symlink);
        let time = |name: &str| {
            let (seconds, ns) = meta[name].split_once('.').unwrap();
            seconds.parse::<i128>().unwrap() * 1_000_000_000 + ns.parse::<i128>().unwrap()
        };
        let node = Node {
            kind,
            mode: if kind == FileKind::Symlink { 0o777 } else { mode & 0o7777 },
            owner: is_root().then(|| (meta["uid"].parse().unwrap(), meta["gid"].parse().unwrap())),
            mtime: time("mtime"),
            atime: (kind == FileKind::File).then(|| time("atime")),
            content: if has_content {
                client.get(&format!("run/{key}")).unwrap().unwrap()
            } else {
                Vec::new()
            },
            xattrs: meta.get("xattr").map(|text| xattrs_of_json(&unescape(text, '%'))).unwrap_or_default(),
            group: 0,
        };
        let id = u64::from_str_radix(&meta["hayate-id"], 16).unwrap();
        found.push(([b"/".to_vec(), unescape(&path, '!')].concat(), id, node));
    }
    number(found)
}

fn kind_of_mode(mode: u32) -> FileKind {
    match mode >> 12 {
        0o10 => FileKind::File,
        0o4 => FileKind::Directory,
        0o12 => FileKind::Symlink,
        0o1 => FileKind::Fifo,
        0o14 => FileKind::Socket,
        0o2 => FileKind::CharDevice,
        _ => FileKind::BlockDevice,
    }
}

/// Takes escapes with two hexadecimal digits back.
fn unescape(text: &str, escape: char) -> Vec<u8> {
    let mut parts = text.split(escape);
    let mut out = parts.next().unwrap().as_bytes().to_vec();
    for part in parts {
        let digits = part.get(..2).filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()));
        match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                out.push(byte);
                out.extend_from_slice(&part.as_bytes()[2..]);
            }
            None => out.extend_from_slice(format!("{escape}{part}").as_bytes()),
        }
    }
    out
}

fn xattrs_of_json(text: &[u8]) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let values: BTreeMap<String, String> = serde_json::from_slice(text).unwrap();
    values.into_iter().map(|(name, value)| (name.into_bytes(), from_base64(&value))).collect()
}

fn from_base64(text: &str) -> Vec<u8> {
    let digit = |c: u8| match c {
        b'A'..=b'Z' => c - b'A',
        b'a'..=b'z' => c - b'a' + 26,
        b'0'..=b'9' => c - b'0' + 52,
        b'+' => 62,
        _ => 63,
    };
    let bits = text.bytes().filter(|c| *c != b'=').map(digit);
    let (mut word, mut have, mut out) = (0u32, 0, Vec::new());
    for six in bits {
        (word, have) = (word << 6 | u32::from(six), have + 6);
        if have >= 8 {
            have -= 8;
            out.push((word >> have) as u8);
        }
    }
    out
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
