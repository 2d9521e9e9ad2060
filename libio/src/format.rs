//! What lies on disk.
//!
//! ```text
//! ROOT/SET/versions/<V>                      manifest: the version is COMMITTED once this name is here; when it is lost, a copy says so (below)
//! ROOT/SET/versions/<V>.pin                  the version is not pruned
//! ROOT/SET/versions/<V>.needed-<W>.<N>-<ID>  attempt N at version W has blocks in V's files: these stay, as long as it may
//! ROOT/SET/versions/<V>.failed-<ID>          a restart from attempt ID failed: it is FAILED, and not offered again
//! ROOT/SET/attempts/<V>.<N>                  group record: who makes attempt N at version V
//! ROOT/SET/attempts/<V>.<N>-<ID>.manifest    what `versions/<V>` will be: written before the verdict, and moved there after it
//! ROOT/SET/attempts/<V>.<N>-<ID>.verdict     how it ended: SEALED or ABORTED; without it the attempt is OPEN
//! ROOT/SET/attempts/<V>.<N>-<ID>.pruned      the version is being removed: nobody may publish it again
//! ROOT/SET/data/<V>.<N>-<ID>/r<R>/           rank R takes part (made exclusively: the rank's claim)
//! ROOT/SET/data/<V>.<N>-<ID>/r<R>/<I>        what the rank wrote of region I: plain bytes, each at its offset in the region
//! ROOT/SET/data/<V>.<N>-<ID>/r<R>/<I>.<P>    with redundancy: part P of region I (block b is in part b mod parts, at block b / parts)
//! ROOT/SET/data/<V>.<N>-<ID>/r<R>/seal       sizes and checksums of the rank's regions
//! ROOT/SET/data/<V>.<N>-<ID>/t<L>.<I>        one half below node I of level L of the tree of ranks has sealed
//! ROOT/SET/{versions,attempts}/<NAME>~<ID>   a document being written (left over after a crash)
//!
//! V: version, 20 decimal digits. N: attempt, 6 decimal digits, from 1. R, I, L: decimal. ID: 16 hexadecimal digits, random.
//!
//! With redundancy, objects of single servers, outside of the namespace (`copies.rs`); keys are texts:
//!
//!   ckpt ROOT/SET\nm/<V>.<N>-<ID>              a copy of the manifest; value: bytes and CRC as SealSum
//!   ckpt ROOT/SET\nm/<V>.<N>-<ID>.failed       a restart from it failed; at the servers with such a copy; no value
//!   ckpt ROOT/SET\nd/<V>.<N>-<ID>/r<R>/<I>.<P> copy or parity P of region I
//!   ckpt ROOT/SET\nd/<V>.<N>-<ID>/r<R>/seal    a copy of the seal
//!
//! A document (group record, verdict, pruned mark, manifest, seal, pin, failed mark) is text:
//!
//!   hayate-ckpt 4 <kind> <crc>\n      4: format; kind: group | verdict | pruned | manifest | seal | pin | failed | needed;
//!   <JSON>\n                          crc: CRC-32C, 8 hexadecimal digits, of kind, "\n" and all bytes after the first line
//! ```
//!
//! States of a version: OPEN (ranks write), SEALED (all ranks closed, verdict written), COMMITTED (manifest in `versions/`), DURABLE (and
//! whole in the shared tier, where the tree is the same), FAILED, ABORTED. A crash between the last seal and COMMITTED leaves the version
//! invisible; whoever asks for the newest, or begins it again, finishes it first (`completion.rs`).
//!
//! Group record, verdict and manifest are written aside, made durable and renamed to their names without replacing: the first wins, and
//! nobody sees half of one. All ranks read the verdict, so it is small, however many there are. A number of an attempt is not used again while its version may still be written.
//!
//! Kinds and fields are never renamed or reused. Golden test: `documents_keep_their_bytes`.

use fs_proto::checksum::{self, Crc};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Bytes that one checksum of a region covers.
pub const BLOCK_BYTES: u64 = 1 << 20;

/// Largest region, in bytes: a million checksums.
pub const REGION_MAX_BYTES: u64 = 1 << 40;

/// Most ranks in a group.
pub const RANKS_MAX: u32 = 1 << 20;

/// Longest name of a set, in bytes.
pub const SET_NAME_MAX: usize = 200;

/// Longest name of a region, in bytes.
pub const REGION_NAME_MAX: usize = 255;

/// Bytes in which a manifest says whose it is.
pub(crate) const HEAD_BYTES: usize = 256;

const MAGIC: &str = "hayate-ckpt";
const FORMAT: &str = "4";

/// What can be in a document.
pub(crate) trait Document: Serialize + DeserializeOwned {
    const KIND: &'static str;
}

/// Who makes an attempt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct GroupRecord {
    pub group: String,
    pub nranks: u32,
    pub id: String,
}

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Verdict {
    Sealed(Sealed),
    Aborted { group: String, reason: String },
}

/// What has to be known of a sealed version before its manifest is read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Sealed {
    /// As the manifest's.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub spare: u16,
    /// As the manifest's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub needs: Vec<u64>,
}

/// A version that is on its way out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Pruned {}

/// A version that stays.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Pin {}

/// A version whose files another one needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Needed {}

/// A version that an application could not restart from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Failed {
    pub group: String,
}

/// A whole version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Manifest {
    pub version: u64,
    pub attempt: u32,
    pub id: String,
    /// Bytes that all ranks wrote.
    pub bytes: u64,
    /// How many servers may be lost without harm.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub spare: u16,
    /// Versions with files that this one has blocks in.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub needs: Vec<u64>,
    /// The servers that kept data then, and the numbers of their stores.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stores: Vec<(u16, u64)>,
    /// If no two parts of anything are at one host: those of `stores`, in their order. What one host loses then counts as one loss.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<String>,
    /// One per rank, in order.
    pub seals: Vec<SealSum>,
}

/// Guards a rank's seal, and through it the rank's data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SealSum {
    /// Bytes of the document.
    pub bytes: u64,
    /// CRC-32C of all of them.
    pub crc: u32,
    /// Copies at single servers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub copies: Vec<Place>,
}

/// Chunks of 1 MiB at one server: its number, and that of the object or file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Place(pub u16, pub u64);

#[allow(clippy::trivially_copy_pass_by_ref)] // As serde calls it.
fn is_zero(number: &u16) -> bool {
    *number == 0
}

#[allow(clippy::trivially_copy_pass_by_ref)] // As serde calls it.
fn is_false(flag: &bool) -> bool {
    !*flag
}

/// What a rank wrote.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Seal {
    pub rank: u32,
    /// In the order of their files.
    pub regions: Vec<SealedRegion>,
    /// The servers with data when the rank began, and the numbers of their stores.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stores: Vec<(u16, u64)>,
    /// Whether no two parts of anything are at one host.
    #[serde(default, skip_serializing_if = "is_false")]
    pub apart: bool,
    /// Where copies of this document are.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub copies: Vec<Place>,
}

/// What a rank wrote of one region.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SealedRegion {
    pub name: String,
    /// Which bytes of the region: ascending, apart from one another, [from, to).
    pub extents: Vec<(u64, u64)>,
    /// The blocks that these touch, ascending.
    pub runs: Vec<Run>,
    /// With redundancy: where the parts are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spread: Option<Spread>,
    /// Incremental or compressed: where the blocks are. There are no runs then, and no parts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub packed: Option<Packed>,
}

/// Blocks that are stored one behind the other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Packed {
    /// Those that were written to, ascending.
    pub blocks: Vec<PackedBlock>,
    /// The file, as a region of its own; its name is empty.
    pub file: Box<SealedRegion>,
    /// Files of earlier attempts; blocks count them from 1.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<Source>,
}

/// A file of an earlier attempt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Source {
    /// The attempt's directory.
    pub attempt: String,
    pub rank: u32,
    /// Number of the region there.
    pub index: usize,
    /// As that attempt's seal has it.
    pub file: SealedRegion,
}

impl Source {
    /// Its path below the directory of all attempts' data; parts have their numbers behind it.
    pub fn path(&self, data: &str) -> String {
        format!("{data}/{}/r{}/{}", self.attempt, self.rank, self.index)
    }
}

/// A block and where its bytes are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PackedBlock {
    /// Its number within the region.
    pub block: u64,
    /// Bytes of content, from the block's beginning; zeros follow.
    pub bytes: u32,
    /// CRC-32C of the content.
    pub crc: u32,
    /// XXH3 of the content, 128 bits in hexadecimal; empty unless incremental.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub hash: String,
    /// 0: this region's file; else one of the sources.
    pub source: usize,
    /// Where in that file.
    pub offset: u64,
    /// Bytes there: fewer than those of the content if they are compressed (zstd).
    pub stored: u32,
}

/// Where the parts of a region are, each at another server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Spread {
    /// Files with the data: block b in number b mod their count.
    pub data: Vec<Place>,
    /// Objects with copies of the data if that has one part, else with parity: that of stripe s (blocks s * parts and on) at block s.
    pub extra: Vec<Place>,
    /// Sums of parity, ascending.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stripes: Vec<StripeSum>,
}

/// Parity of a stripe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StripeSum {
    pub stripe: u64,
    /// Bytes of each parity; data blocks count as followed by zeros.
    pub bytes: u32,
    /// CRC-32C of each.
    pub crcs: Vec<u32>,
}

/// Checksums of blocks that follow each other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Run {
    /// The first block's number within the region.
    pub block: u64,
    /// CRC-32C of each [`BLOCK_BYTES`], zeros where nothing was written; the last block ends with the last extent.
    pub crcs: Vec<u32>,
}

impl Manifest {
    /// What its verdict says of it.
    pub fn sealed(&self) -> Sealed {
        Sealed { spare: self.spare, needs: self.needs.clone() }
    }

    /// The name of its attempt's directory.
    pub fn full_name(&self) -> String {
        attempt_full_name(self.version, self.attempt, &self.id)
    }
}

impl SealSum {
    /// Of a document with copies at these places.
    pub fn of(text: &[u8], copies: Vec<Place>) -> Self {
        SealSum { bytes: text.len() as u64, crc: checksum::crc(text), copies }
    }

    /// Whether this is the document.
    pub fn fits(&self, text: &[u8]) -> bool {
        text.len() as u64 == self.bytes && checksum::crc(text) == self.crc
    }

    /// How many servers its rank can lose: its copies, and with them its parts, are made so.
    pub fn spare(&self) -> u16 {
        self.copies.len().saturating_sub(1) as u16
    }
}

impl SealedRegion {
    /// Where the last extent ends.
    pub fn end(&self) -> u64 {
        self.extents.last().map_or(0, |(_, to)| *to)
    }

    /// What its files are: itself, unless it is packed.
    pub fn stored(&self) -> &SealedRegion {
        self.packed.as_ref().map_or(self, |packed| &packed.file)
    }

    /// The checksum of a block, if it was written to.
    pub fn crc(&self, block: u64) -> Option<u32> {
        let run = self.runs[..self.runs.partition_point(|run| run.block <= block)].last()?;
        run.crcs.get((block - run.block) as usize).copied()
    }
}

impl Document for GroupRecord {
    const KIND: &'static str = "group";
}
impl Document for Verdict {
    const KIND: &'static str = "verdict";
}
impl Document for Pruned {
    const KIND: &'static str = "pruned";
}
impl Document for Pin {
    const KIND: &'static str = "pin";
}
impl Document for Needed {
    const KIND: &'static str = "needed";
}
impl Document for Failed {
    const KIND: &'static str = "failed";
}
impl Document for Manifest {
    const KIND: &'static str = "manifest";
}
impl Document for Seal {
    const KIND: &'static str = "seal";
}

fn body_crc(kind: &str, body: &[u8]) -> u32 {
    let mut crc = Crc::new();
    crc.update(kind.as_bytes());
    crc.update(b"\n");
    crc.update(body);
    crc.finalize()
}

pub(crate) fn encode<D: Document>(document: &D) -> Vec<u8> {
    let mut body = serde_json::to_vec(document).expect("plain structs with string keys");
    body.push(b'\n');
    let crc = body_crc(D::KIND, &body);
    let mut text = format!("{MAGIC} {FORMAT} {} {crc:08x}\n", D::KIND).into_bytes();
    text.append(&mut body);
    text
}

/// Whether the beginning of a document, of [`HEAD_BYTES`] at least, is that of this attempt's manifest. If it is damaged there: no.
pub(crate) fn begins_manifest(head: &[u8], version: u64, attempt: u32, id: &str) -> bool {
    let begin = format!("{{\"version\":{version},\"attempt\":{attempt},\"id\":\"{id}\"");
    let body = head.split_inclusive(|byte| *byte == b'\n').next().map(|line| &head[line.len()..]);
    head.starts_with(format!("{MAGIC} {FORMAT} {} ", Manifest::KIND).as_bytes())
        && body.is_some_and(|body| body.starts_with(begin.as_bytes()))
}

/// Reads a document; `path` is for the error.
pub(crate) fn decode<D: Document>(path: &str, text: &[u8]) -> Result<D> {
    let corrupt = |what: &str| Error::corrupt(path, what);
    let end = text.iter().position(|byte| *byte == b'\n').ok_or_else(|| corrupt("it has no first line"))?;
    let (head, body) = (&text[..end], &text[end + 1..]);
    let head = std::str::from_utf8(head).map_err(|_| corrupt("its first line is not text"))?;
    let [magic, format, kind, crc] = head.split(' ').collect::<Vec<_>>()[..] else {
        return Err(corrupt("its first line is damaged"));
    };
    if magic != MAGIC || (format == FORMAT && kind != D::KIND) {
        return Err(corrupt(&format!("it is not a {} document", D::KIND)));
    }
    if u32::from_str_radix(crc, 16).ok() != Some(body_crc(kind, body)) {
        return Err(corrupt("it differs from its checksum"));
    }
    if format != FORMAT {
        return Err(Error::Unsupported { path: path.to_owned(), found: format.to_owned() });
    }
    serde_json::from_slice(body).map_err(|e| corrupt(&format!("it cannot be understood ({e})")))
}

/// Refuses names of sets that cannot be a directory's, or that would hide.
pub(crate) fn check_set_name(set: &str) -> Result<()> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    if (1..=SET_NAME_MAX).contains(&set.len()) && set.bytes().all(plain) && !set.starts_with('.') {
        return Ok(());
    }
    Err(Error::Invalid(format!(
        "{set:?} cannot name a checkpoint set: use 1 to {SET_NAME_MAX} letters, digits, '.', '_' and '-', not '.' first"
    )))
}

/// Refuses names of regions that are empty or too long.
pub(crate) fn check_region_name(name: &str) -> Result<()> {
    if (1..=REGION_NAME_MAX).contains(&name.len()) {
        return Ok(());
    }
    Err(Error::Invalid(format!("a region's name has 1 to {REGION_NAME_MAX} bytes, not {}", name.len())))
}

/// The directories of one set.
#[derive(Debug, Clone)]
pub(crate) struct SetPaths {
    pub versions: String,
    pub attempts: String,
    pub data: String,
}

impl SetPaths {
    pub fn new(root: &str, set: &str) -> SetPaths {
        let root = root.trim_end_matches('/');
        SetPaths {
            versions: format!("{root}/{set}/versions"),
            attempts: format!("{root}/{set}/attempts"),
            data: format!("{root}/{set}/data"),
        }
    }

    /// The manifest of a version.
    pub fn manifest(&self, version: u64) -> String {
        format!("{}/{}", self.versions, version_name(version))
    }

    /// The directory of an attempt's data.
    pub fn attempt_data(&self, full_name: &str) -> String {
        format!("{}/{full_name}", self.data)
    }
}

pub(crate) fn version_name(version: u64) -> String {
    format!("{version:020}")
}

pub(crate) fn attempt_name(version: u64, attempt: u32) -> String {
    format!("{version:020}.{attempt:06}")
}

pub(crate) fn attempt_full_name(version: u64, attempt: u32, id: &str) -> String {
    format!("{version:020}.{attempt:06}-{id}")
}

/// The mark that an attempt is being removed.
pub(crate) fn pruned_name(full_name: &str) -> String {
    format!("{full_name}.pruned")
}

/// The version that a name in `versions/` stands for.
pub(crate) fn parse_version(name: &[u8]) -> Option<u64> {
    let name = std::str::from_utf8(name).ok()?;
    (name.len() == 20 && name.bytes().all(|byte| byte.is_ascii_digit())).then(|| name.parse().ok())?
}

pub(crate) fn pin_name(version: u64) -> String {
    format!("{version:020}.pin")
}

pub(crate) fn failed_name(version: u64, id: &str) -> String {
    format!("{version:020}.failed-{id}")
}

pub(crate) fn needed_name(version: u64, by: &str) -> String {
    format!("{version:020}.needed-{by}")
}

/// What stands behind the name of a document that is being written.
const ASIDE: char = '~';

/// The name under which a document is written before it gets `name`.
pub(crate) fn aside_name(name: &str, id: &str) -> String {
    format!("{name}{ASIDE}{id}")
}

/// Which attempt needs another's files, by the mark's name; none if that is a mark which is being written.
pub(crate) fn parse_needed(name: &str) -> Option<&str> {
    name.get(20..)?.strip_prefix(".needed-").filter(|by| !by.contains(ASIDE))
}

/// The version and attempt that a group record's name stands for.
pub(crate) fn parse_attempt(name: &[u8]) -> Option<(u64, u32)> {
    let (version, attempt) = (name.get(..20)?, name.get(20..)?);
    let attempt = std::str::from_utf8(attempt).ok()?.strip_prefix('.')?;
    let digits = attempt.len() == 6 && attempt.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| Some((parse_version(version)?, attempt.parse().ok()?)))?
}

/// The version that any name in the directories of a set begins with.
pub(crate) fn parse_leading_version(name: &[u8]) -> Option<u64> {
    parse_version(name.get(..20)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_keep_their_bytes() {
        let record = GroupRecord { group: "job.1".to_owned(), nranks: 4, id: "00ff".to_owned() };
        let text = "hayate-ckpt 4 group 7b687233\n{\"group\":\"job.1\",\"nranks\":4,\"id\":\"00ff\"}\n";
        assert_eq!(String::from_utf8(encode(&record)).unwrap(), text);
        let seals = vec![SealSum { bytes: 7, crc: 9, copies: vec![] }];
        let manifest = Manifest {
            version: 3,
            attempt: 1,
            id: "00ff".to_owned(),
            bytes: 5,
            spare: 0,
            needs: vec![],
            stores: vec![],
            hosts: vec![],
            seals,
        };
        let text = "hayate-ckpt 4 verdict 45309af6\n{\"sealed\":{}}\n";
        assert_eq!(String::from_utf8(encode(&Verdict::Sealed(manifest.sealed()))).unwrap(), text);
        let text = "hayate-ckpt 4 manifest c23be088\n{\"version\":3,\"attempt\":1,\"id\":\"00ff\",\"bytes\":5,\"seals\":[{\"bytes\":7,\"crc\":9}]}\n";
        assert_eq!(String::from_utf8(encode(&manifest)).unwrap(), text);
        assert!(begins_manifest(text.as_bytes(), 3, 1, "00ff"));
        for (version, attempt, id) in [(2, 1, "00ff"), (3, 2, "00ff"), (3, 1, "00fe")] {
            assert!(!begins_manifest(text.as_bytes(), version, attempt, id));
        }
        assert!(!begins_manifest(&text.as_bytes()[..40], 3, 1, "00ff"));
        let runs = vec![Run { block: 1, crcs: vec![77] }];
        let region = SealedRegion {
            name: "u".to_owned(),
            extents: vec![(1_048_576, 1_048_581)],
            runs,
            spread: None,
            packed: None,
        };
        let text = "hayate-ckpt 4 seal 986fb0ac\n{\"rank\":2,\"regions\":[{\"name\":\"u\",\"extents\":[[1048576,1048581]],\"runs\":[{\"block\":1,\"crcs\":[77]}]}]}\n";
        assert_eq!(
            String::from_utf8(encode(&Seal {
                rank: 2,
                regions: vec![region],
                stores: vec![],
                apart: false,
                copies: vec![]
            }))
            .unwrap(),
            text
        );
    }

    #[test]
    fn every_flipped_bit_is_an_error() {
        let record = GroupRecord { group: "g".to_owned(), nranks: 4, id: "00".to_owned() };
        let good = encode(&record);
        assert_eq!(decode::<GroupRecord>("p", &good).unwrap(), record);
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            // Upper and lower case hexadecimal digits are one bit apart, and mean the same.
            match decode::<GroupRecord>("p", &bad) {
                Ok(read) => assert!(read == record && bad.eq_ignore_ascii_case(&good), "bit {bit}"),
                Err(Error::Corrupt { .. } | Error::Unsupported { .. }) => {}
                Err(e) => panic!("bit {bit}: {e}"),
            }
        }
        for end in 0..good.len() {
            assert!(decode::<GroupRecord>("p", &good[..end]).is_err(), "cut at {end}");
        }
        assert!(matches!(decode::<Seal>("p", &good), Err(Error::Corrupt { .. })));
    }

    #[test]
    fn names_are_read_back() {
        assert_eq!(parse_version(version_name(u64::MAX).as_bytes()), Some(u64::MAX));
        assert_eq!(parse_attempt(attempt_name(7, 3).as_bytes()), Some((7, 3)));
        assert_eq!(parse_leading_version(attempt_full_name(7, 3, "ab").as_bytes()), Some(7));
        for other in ["", "7", "0000000000000000000x", "99999999999999999999", "00000000000000000007~ab"] {
            assert_eq!(parse_version(other.as_bytes()), None, "{other}");
        }
        assert_eq!(parse_attempt(attempt_full_name(7, 3, "ab").as_bytes()), None);
        let mark = needed_name(5, &attempt_full_name(7, 3, "ab"));
        assert_eq!(parse_needed(&mark), Some(&*attempt_full_name(7, 3, "ab")));
        assert_eq!(parse_needed(&aside_name(&mark, "cd")), None);
    }

    #[test]
    fn bad_set_names_are_refused() {
        for name in ["", ".", "..", "a/b", "a b", ".hidden", &"x".repeat(SET_NAME_MAX + 1)] {
            assert!(matches!(check_set_name(name), Err(Error::Invalid(_))), "{name}");
        }
        check_set_name("heat-2.d_x").unwrap();
    }
}
