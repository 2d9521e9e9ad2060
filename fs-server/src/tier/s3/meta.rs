//! What is stored with an object: the names and forms of s3fs-fuse for mode, owner, times and extended attributes, and the number of ours.
//!
//! ```text
//! mode        decimal, with the kind        uid, gid       decimal
//! mtime       SECONDS.NANOSECONDS           atime          the same
//! xattr       JSON {"name": "base64"}, percent-encoded     rdev    decimal, of a device
//! hayate-id   16 hexadecimal digits: which copy this is; links of one file have the same
//! ```
//! An object of another tool has some of these or none: it is a file that anybody reads and the server's user owns, changed when the server took
//! it, and its number is made of its ETag.

use bytes::Bytes;
use fs_proto::{FileKind, TimeNs};

use xxhash_rust::xxh3::xxh3_64;

use super::client::{Head, Meta};
use super::keys::{percent, unescape};
use crate::tier::{Attributes, Found, is_kept_xattr};

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

/// Which copy an object is.
pub fn number_of(head: &Head) -> u64 {
    match id_of(&head.meta) {
        0 if head.tag.is_empty() => head.modified as u64 | 1,
        0 => xxh3_64(head.tag.as_bytes()) | 1,
        id => id,
    }
}

/// What an object is, by number, size and time: it is another one as soon as one of these is.
pub fn found(head: &Head) -> Found {
    Found { id: number_of(head), is_dir: false, size: head.size, mtime: mtime_of(head) }
}

/// Whether an object that is being read is the one that was found. Some servers tell no ETag when an object is looked at, but when it is read.
pub fn is(head: &Head, wanted: &Found) -> bool {
    found(head) == *wanted || found(&Head { tag: String::new(), ..head.clone() }) == *wanted
}

/// The change time that this was stored with, or when the server took it.
fn mtime_of(head: &Head) -> TimeNs {
    head.meta.get("mtime").and_then(|text| ns_of(text)).unwrap_or(head.modified)
}

fn number(head: &Head, name: &str) -> Option<u32> {
    head.meta.get(name)?.parse().ok()
}

/// What kind of object this is.
pub fn kind(head: &Head) -> FileKind {
    let bits = number(head, "mode").unwrap_or_default() & 0o170_000;
    let kinds = [
        FileKind::Directory,
        FileKind::Symlink,
        FileKind::Fifo,
        FileKind::Socket,
        FileKind::CharDevice,
        FileKind::BlockDevice,
    ];
    kinds.into_iter().find(|kind| format_bits(*kind) == bits).unwrap_or(FileKind::File)
}

/// Device number.
pub fn rdev(head: &Head) -> u32 {
    number(head, "rdev").unwrap_or_default()
}

/// The attributes that are stored with an object, and what holds of one of another tool.
pub fn attributes(head: &Head, is_dir: bool) -> Attributes {
    let mtime = mtime_of(head);
    let xattrs = head.meta.get("xattr").and_then(|text| xattrs_of(text)).unwrap_or_default();
    Attributes {
        xattrs: Some(xattrs),
        atime: head.meta.get("atime").and_then(|text| ns_of(text)).unwrap_or(mtime),
        mode: Some(number(head, "mode").map_or(if is_dir { 0o755 } else { 0o644 }, |mode| mode & 0o7777)),
        owner: Some((
            number(head, "uid").unwrap_or_else(|| rustix::process::geteuid().as_raw()),
            number(head, "gid").unwrap_or_else(|| rustix::process::getegid().as_raw()),
        )),
        mtime,
    }
}

/// What another tool's object gets when it is copied: what it was, so that it is known again. None of our own, which keep what they have.
pub fn adopted(head: &Head) -> Option<Meta> {
    let is_foreign = id_of(&head.meta) == 0;
    is_foreign.then(|| of(kind(head), number_of(head), rdev(head), Some(&attributes(head, false))).0)
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

fn xattrs_of(text: &str) -> Option<Vec<(Bytes, Bytes)>> {
    let map: std::collections::BTreeMap<String, String> =
        serde_json::from_slice(&unescape(text.as_bytes(), b'%')).ok()?;
    let all = map.into_iter().filter(|(name, _)| is_kept_xattr(name.as_bytes()));
    all.map(|(name, value)| Some((Bytes::from(name.into_bytes()), Bytes::from(from_base64(&value)?))))
        .collect()
}

fn from_base64(text: &str) -> Option<Vec<u8>> {
    let (mut word, mut bits, mut out) = (0u32, 0, Vec::new());
    for digit in text.trim_end_matches('=').bytes() {
        word = word << 6 | DIGITS.iter().position(|known| *known == digit)? as u32;
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            out.push((word >> bits) as u8);
        }
    }
    Some(out)
}

/// Of base64.
const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

fn base64(bytes: &[u8]) -> String {
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
        // And back.
        let head = Head { size: 3, meta, tag: "x".to_owned(), modified: 7 };
        let read = super::attributes(&head, false);
        assert_eq!(
            (read.mode, read.owner, read.xattrs),
            (attributes.mode, attributes.owner, attributes.xattrs)
        );
        assert_eq!(
            (read.atime, read.mtime, kind(&head)),
            (attributes.atime, attributes.mtime, FileKind::File)
        );
        assert_eq!(found(&head), Found { id: 0xab, is_dir: false, size: 3, mtime: 1_500_000_000 });
    }

    #[test]
    fn objects_of_other_tools_are_files_with_defaults() {
        let head = |meta: &[(&str, &str)], tag: &str| Head {
            size: 3,
            meta: meta.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            tag: tag.to_owned(),
            modified: 7_000_000_000,
        };
        let plain = head(&[], "one");
        let read = super::attributes(&plain, false);
        assert_eq!((read.mode, read.mtime, read.atime), (Some(0o644), 7_000_000_000, 7_000_000_000));
        assert_eq!(
            read.owner,
            Some((rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw()))
        );
        assert_eq!(kind(&plain), FileKind::File);
        assert_ne!(number_of(&plain), number_of(&head(&[], "two")));
        // As s3fs-fuse and rclone store them.
        let link = head(&[("mode", "41471"), ("uid", "5"), ("mtime", "1.5")], "one");
        assert_eq!((kind(&link), super::attributes(&link, false).mode), (FileKind::Symlink, Some(0o777)));
        assert_eq!(found(&link).mtime, 1_500_000_000);
        // A copy of it is known again.
        let copy =
            Head { meta: adopted(&plain).unwrap(), tag: "other".to_owned(), modified: 9, ..plain.clone() };
        assert_eq!(found(&copy), found(&plain));
    }

    #[test]
    fn base64_of_each_length() {
        for (bytes, text) in
            [(&b""[..], ""), (b"f", "Zg=="), (b"fo", "Zm8="), (b"foo", "Zm9v"), (b"foob", "Zm9vYg==")]
        {
            assert_eq!(base64(bytes), text);
            assert_eq!(from_base64(text).as_deref(), Some(bytes));
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
