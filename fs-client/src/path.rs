//! Components of paths. Pure.

use bytes::Bytes;

/// Symbolic links followed in one walk.
pub(crate) const LINKS_MAX: usize = 40;

/// The components of `path` without empty ones and ".", last first (to pop from), sharing its memory.
pub(crate) fn components(path: &Bytes) -> Vec<Bytes> {
    let mut parts: Vec<Bytes> = path
        .split(|byte| *byte == b'/')
        .filter(|part| !part.is_empty() && *part != b".")
        .map(|part| path.slice_ref(part))
        .collect();
    parts.reverse();
    parts
}

/// Whether the path can only mean a directory: it ends in a slash, "." or "..".
pub(crate) fn names_directory(path: &[u8]) -> bool {
    matches!(path.rsplit(|byte| *byte == b'/').next(), Some(b"" | b"." | b"..")) && !path.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(path: &'static str) -> Vec<Bytes> {
        components(&Bytes::from_static(path.as_bytes()))
    }

    #[test]
    fn components_come_last_first() {
        assert_eq!(split("/a//b/./c"), ["c", "b", "a"]);
        assert_eq!(split("a/../b/"), ["b", "..", "a"]);
        assert_eq!(split("/"), Vec::<Bytes>::new());
        assert_eq!(split(""), Vec::<Bytes>::new());
    }

    #[test]
    fn some_endings_name_directories() {
        for path in ["/", "a/", "a/.", "..", "."] {
            assert!(names_directory(path.as_bytes()), "{path}");
        }
        for path in ["", "a", "/a", "a/b", "a/..b"] {
            assert!(!names_directory(path.as_bytes()), "{path}");
        }
    }
}
