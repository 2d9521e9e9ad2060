//! How names become keys, and what the adapter's own objects are called.
//!
//! ```text
//! PREFIX a/b/name                       a file, symbolic link, pipe or device
//! PREFIX a/b/.hayate-directory          a/b is a directory: the content is its number (16 hexadecimal digits)
//! PREFIX a/b/.hayate-attributes         mode, owner, times and extended attributes of a/b are stored with this empty object
//! PREFIX .hayate-staging-JOB-SERVER/f-* an upload that is not published: which, as JSON
//! PREFIX .hayate-moving-JOB/SERVER-NEW-OLD a directory that is being moved, as JSON; NEW and OLD are hashes of its keys
//! ```
//! In names, control characters and bytes that are not UTF-8 are written `!XX`, and so are a `!` that two upper-case hexadecimal digits follow, and the
//! first `.` of a name that begins with `.hayate-`, so that no name is taken for one of these objects. Whatever else other tools call their objects is a
//! name, unless it is empty, `.` or `..`, or longer than names are.

use bytes::Bytes;

use super::client::cannot;
use crate::tier::{TierError, TierResult};

/// Makes a directory of a prefix.
const DIRECTORY: &str = ".hayate-directory";
/// Has a directory's attributes.
pub const ATTRIBUTES: &str = ".hayate-attributes";
/// Begins the keys that tell of directories on their way.
pub const MOVING: &str = ".hayate-moving-";
/// Begins the names of the adapter's own objects.
const OWN: &[u8] = b".hayate-";
/// Longest key, in bytes.
const KEY_MAX: usize = 1024;

/// The marker of the directory whose keys begin with `path`.
pub fn marker(path: &str) -> String {
    format!("{path}{DIRECTORY}")
}

/// The key of `name` below `dir`, which is empty or ends with a slash.
pub fn key(dir: &str, name: &[u8]) -> TierResult<String> {
    let key = format!("{dir}{}", encode(name));
    if key.len() > KEY_MAX {
        let reason = "S3 keys have at most 1,024 bytes; shorten the path";
        return Err(TierError::Refused(format!("{}: {reason}", cannot("name", &key))));
    }
    Ok(key)
}

fn encode(name: &[u8]) -> String {
    let mut out = String::with_capacity(name.len());
    let mut at = 0;
    for chunk in name.utf8_chunks() {
        for c in chunk.valid().chars() {
            let hides = at == 0 && name.starts_with(OWN);
            let is_escape = c == '!' && hex_of(&name[at..]).is_some();
            if c.is_control() || hides || is_escape {
                c.encode_utf8(&mut [0; 4]).bytes().for_each(|byte| push_hex(&mut out, '!', byte));
            } else {
                out.push(c);
            }
            at += c.len_utf8();
        }
        chunk.invalid().iter().for_each(|byte| push_hex(&mut out, '!', *byte));
        at += chunk.invalid().len();
    }
    out
}

/// The byte of an escape, which is three bytes long and upper-case.
fn hex_of(text: &[u8]) -> Option<u8> {
    let digits = text.get(1..3)?;
    let is_hex = digits.iter().all(|digit| matches!(digit, b'0'..=b'9' | b'A'..=b'F'));
    is_hex.then(|| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok())?
}

/// Takes escapes back.
pub fn unescape(text: &[u8], escape: u8) -> Vec<u8> {
    let (mut out, mut at) = (Vec::with_capacity(text.len()), 0);
    while let Some(byte) = text.get(at) {
        let escaped = (*byte == escape).then(|| hex_of(&text[at..])).flatten();
        out.push(escaped.unwrap_or(*byte));
        at += if escaped.is_some() { 3 } else { 1 };
    }
    out
}

/// The name that has this last part of a key; None if no name has it.
pub fn name(part: &str) -> Option<Bytes> {
    let name = unescape(part.as_bytes(), b'!');
    let fits = !matches!(&name[..], b"" | b"." | b"..") && name.len() <= fs_proto::NAME_MAX;
    (fits && !name.contains(&b'/') && encode(&name) == part).then(|| name.into())
}

/// Whether this is one of the adapter's own objects.
pub fn is_own(part: &str) -> bool {
    part.as_bytes().starts_with(OWN)
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
            (b"100%+!", "a/100%+!"),
            (b"a!41", "a/a!2141"),
            (b"!!0a\n", "a/!!0a!0A"),
            (b"x\ny\xff", "a/x!0Ay!FF"),
            (b".hayate-directory", "a/!2Ehayate-directory"),
            (b".hidden", "a/.hidden"),
        ] {
            assert_eq!(key("a/", name).unwrap(), expected);
            assert_eq!(super::name(&expected[2..]).as_deref(), Some(name));
        }
        // Keys that no name has.
        for other in ["", "..", "x!41", ".hayate-directory", "!2Fx", "x\ny"] {
            assert_eq!(super::name(other), None, "{other:?}");
        }
        assert!(matches!(key("", &[b'x'; 1025]), Err(TierError::Refused(_))));
        assert_eq!(percent(b"a b/\xfc"), "a%20b/%FC");
    }
}
