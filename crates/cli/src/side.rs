//! Which side of a copy a path is on: `h:/a` and `hayate:/a` are in the cluster, all else is on this machine.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

const PREFIXES: [&[u8]; 2] = [b"hayate:", b"h:"];

/// A path and where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Side {
    /// On this machine. A file named `h:x` is written `./h:x`.
    Local(PathBuf),
    /// In the cluster, absolute.
    Cluster(PathBuf),
}

/// Reads a path as the user wrote it.
pub fn parse(path: &Path) -> Side {
    let raw = path.as_os_str().as_bytes();
    match PREFIXES.iter().find_map(|prefix| raw.strip_prefix(*prefix)) {
        Some(rest) => Side::Cluster(rooted(Path::new(OsStr::from_bytes(rest)))),
        None => Side::Local(path.to_path_buf()),
    }
}

/// A path of a command that knows the cluster only: with or without the prefix.
pub fn in_cluster(path: &Path) -> PathBuf {
    match parse(path) {
        Side::Cluster(path) => path,
        Side::Local(path) => rooted(&path),
    }
}

fn rooted(path: &Path) -> PathBuf {
    Path::new("/").join(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_name_the_cluster() {
        for (text, path) in [("h:/a", "/a"), ("hayate:a/b", "/a/b"), ("h:", "/")] {
            assert_eq!(parse(Path::new(text)), Side::Cluster(path.into()), "{text}");
        }
        for text in ["/a", "a", "./h:a", "x:h:a"] {
            assert_eq!(parse(Path::new(text)), Side::Local(text.into()), "{text}");
        }
    }

    #[test]
    fn cluster_commands_take_both_forms() {
        assert_eq!(in_cluster(Path::new("a")), Path::new("/a"));
        assert_eq!(in_cluster(Path::new("h:/a")), Path::new("/a"));
    }
}
