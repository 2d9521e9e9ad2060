//! How names become keys, and what the adapter's own objects are called.
//!
//! ```text
//! PREFIX a/b/name                       a file, symbolic link, pipe or device
//! PREFIX a/b/.hayate-directory          a/b is a directory: the content is its number (16 hexadecimal digits)
//! PREFIX a/b/.hayate-attributes         mode, owner, times and extended attributes of a/b are stored with this empty object
//! PREFIX .hayate-staging-JOB-SERVER/f-* an upload that is not published: which, as JSON
//! PREFIX .hayate-moving-JOB/SERVER-NEW-OLD a directory that is being moved, as JSON; NEW and OLD are hashes of its keys
//! ```
//! In names, `!`, `%`, `+`, control characters and bytes that are not UTF-8 are written `!XX`, and so is the first `.` of a name that begins
//! with `.hayate-`, so that no name is taken for one of these objects. Not `%XX`: servers differ in whether a listing escapes keys.

use super::client::failed;
use crate::tier::TierResult;

/// Makes a directory of a prefix.
pub const DIRECTORY: &str = ".hayate-directory";
/// Has a directory's attributes.
pub const ATTRIBUTES: &str = ".hayate-attributes";
/// Begins the names of the adapter's own objects.
const OWN: &[u8] = b".hayate-";
/// Longest key, in bytes.
const KEY_MAX: usize = 1024;

/// The key of `name` below `dir`, which is empty or ends with a slash.
pub fn key(dir: &str, name: &[u8]) -> TierResult<String> {
    let key = format!("{dir}{}", encode(name));
    if key.len() > KEY_MAX {
        return Err(failed("name", &key, "S3 keys have at most 1,024 bytes; shorten the path"));
    }
    Ok(key)
}

fn encode(name: &[u8]) -> String {
    let mut out = String::with_capacity(name.len());
    for (index, chunk) in name.utf8_chunks().enumerate() {
        for (at, c) in chunk.valid().char_indices() {
            let hides = index == 0 && at == 0 && name.starts_with(OWN);
            if matches!(c, '!' | '%' | '+') || c.is_control() || hides {
                c.encode_utf8(&mut [0; 4]).bytes().for_each(|byte| push_hex(&mut out, '!', byte));
            } else {
                out.push(c);
            }
        }
        chunk.invalid().iter().for_each(|byte| push_hex(&mut out, '!', *byte));
    }
    out
}

/// Bytes as in a URL's path: slashes stay.
pub fn percent(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for byte in bytes {
        if byte.is_ascii_alphanumeric() || b"-._~/".contains(byte) {
            out.push(char::from(*byte));
        } else {
            push_hex(&mut out, '%', *byte);
        }
    }
    out
}

fn push_hex(out: &mut String, escape: char, byte: u8) {
    out.push(escape);
    out.push_str(&hex::encode_upper([byte]));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_keys() {
        for (name, expected) in [
            (&b"plain name.txt"[..], "a/plain name.txt"),
            ("\u{fc}".as_bytes(), "a/\u{fc}"),
            (b"100%+!", "a/100!25!2B!21"),
            (b"x\ny\xff", "a/x!0Ay!FF"),
            (b".hayate-directory", "a/!2Ehayate-directory"),
            (b".hidden", "a/.hidden"),
        ] {
            assert_eq!(key("a/", name).unwrap(), expected);
        }
        assert!(key("", &[b'x'; 1025]).is_err());
        assert_eq!(percent(b"a b/\xfc"), "a%20b/%FC");
    }
}
