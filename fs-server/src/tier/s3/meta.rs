//! What is stored with an object: the names and forms of s3fs-fuse for mode, owner, times and extended attributes, and the number of ours.
//!
//! ```text
//! mode        decimal, with the kind        uid, gid       decimal
//! mtime       SECONDS.NANOSECONDS           atime          the same
//! xattr       JSON {"name": "base64"}, percent-encoded     rdev    decimal, of a device
//! hayate-id   16 hexadecimal digits: which copy this is; links of one file have the same
//! ```

use bytes::Bytes;
use fs_proto::{FileKind, TimeNs};

use super::client::Meta;
use super::keys::percent;
use crate::tier::Attributes;

/// Bytes of extended attributes that are stored: S3 takes 2 KiB of everything.
const XATTRS_MAX: usize = 1_500;

/// The number of a copy.
pub const ID: &str = "hayate-id";

fn format_bits(kind: FileKind) -> u32 {
    match kind {
        FileKind::File => 0o100_000,
        FileKind::Directory => 0o040_000,
        FileKind::Symlink => 0o120_000,
        FileKind::Fifo => 0o010_000,
        FileKind::Socket => 0o140_000,
        FileKind::CharDevice => 0o020_000,
        FileKind::BlockDevice => 0o060_000,
    }
}

/// What is stored with an object; the second says whether extended attributes were left out because they are too many.
pub fn of(kind: FileKind, id: u64, rdev: u32, attributes: Option<&Attributes>) -> (Meta, bool) {
    let mut meta = Meta::new();
    let mut put = |name: &str, value: String| meta.insert(name.to_owned(), value);
    put(ID, format!("{id:016x}"));
    let default = Attributes::default();
    let attributes = attributes.unwrap_or(&default);
    let mode = attributes.mode.unwrap_or(if kind == FileKind::Directory { 0o700 } else { 0o600 });
    put("mode", (format_bits(kind) | mode & 0o7777).to_string());
    if let Some((uid, gid)) = attributes.owner {
        put("uid", uid.to_string());
        put("gid", gid.to_string());
    }
    put("mtime", time(attributes.mtime));
    put("atime", time(attributes.atime));
    if rdev != 0 {
        put("rdev", rdev.to_string());
    }
    let xattrs = attributes.xattrs.as_deref().unwrap_or_default();
    let mut too_many = false;
    if !xattrs.is_empty() {
        let text = xattrs_text(xattrs);
        too_many = text.len() > XATTRS_MAX;
        if !too_many {
            put("xattr", text);
        }
    }
    (meta, too_many)
}

/// The number of the copy that this was stored with; 0 for an object of somebody else.
pub fn id_of(meta: &Meta) -> u64 {
    meta.get(ID).and_then(|id| u64::from_str_radix(id, 16).ok()).unwrap_or(0)
}

/// The change time that this was stored with; 0 for an object of somebody else.
pub fn mtime_of(meta: &Meta) -> TimeNs {
    meta.get("mtime").and_then(|text| ns_of(text)).unwrap_or(0)
}

fn ns_of(text: &str) -> Option<TimeNs> {
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let ns = format!("{:0<9}", fraction.get(..fraction.len().min(9))?).parse::<TimeNs>().ok()?;
    seconds.parse::<TimeNs>().ok()?.checked_mul(1_000_000_000)?.checked_add(ns)
}

fn time(ns: TimeNs) -> String {
    const SECOND: i64 = 1_000_000_000;
    format!("{}.{:09}", ns.div_euclid(SECOND), ns.rem_euclid(SECOND))
}

fn xattrs_text(xattrs: &[(Bytes, Bytes)]) -> String {
    let map: serde_json::Map<String, serde_json::Value> = xattrs
        .iter()
        .map(|(name, value)| (String::from_utf8_lossy(name).into_owned(), base64(value).into()))
        .collect();
    percent(serde_json::Value::Object(map).to_string().as_bytes())
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for three in bytes.chunks(3) {
        let word =
            three.iter().fold(0u32, |word, byte| word << 8 | u32::from(*byte)) << (8 * (3 - three.len()));
        for digit in 0..4 {
            let used = digit <= three.len();
            out.push(if used { char::from(DIGITS[(word >> (18 - 6 * digit)) as usize & 63]) } else { '=' });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_metadata() {
        let attributes = Attributes {
            mode: Some(0o640),
            owner: Some((1, 2)),
            xattrs: Some(vec![(Bytes::from_static(b"user.a"), Bytes::from_static(b"value"))]),
            atime: -1,
            mtime: 1_500_000_000,
        };
        let (meta, too_many) = of(FileKind::File, 0xab, 0, Some(&attributes));
        let text: Vec<_> = meta.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let expected = "atime=-1.999999999 gid=2 hayate-id=00000000000000ab mode=33184 mtime=1.500000000 uid=1 \
             xattr=%7B%22user.a%22%3A%22dmFsdWU%3D%22%7D";
        assert_eq!((text.join(" "), too_many), (expected.to_owned(), false));
        assert_eq!(id_of(&meta), 0xab);
    }

    #[test]
    fn base64_of_each_length() {
        for (bytes, text) in
            [(&b""[..], ""), (b"f", "Zg=="), (b"fo", "Zm8="), (b"foo", "Zm9v"), (b"foob", "Zm9vYg==")]
        {
            assert_eq!(base64(bytes), text);
        }
    }

    #[test]
    fn too_many_attributes_are_left_out() {
        let attributes = Attributes {
            xattrs: Some(vec![(Bytes::from_static(b"user.a"), Bytes::from(vec![7; 2_000]))]),
            ..Attributes::default()
        };
        let (meta, too_many) = of(FileKind::File, 1, 0, Some(&attributes));
        assert!(too_many && !meta.contains_key("xattr"));
    }
}
