//! What the shared tier has under a name: the record ('t') that the owner of the name keeps.

use bytes::BytesMut;
use fs_proto::record::EntryRecord;
use fs_proto::wire::Reader;
use fs_proto::{DecodeError, FileKind, InodeId, TimeNs, Wire};

/// The record. Written before anything is done under the name (as [`TierEntry::intended`]), so that what a crash leaves there is
/// known to be ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TierEntry {
    /// Whose copy it is.
    pub ino: InodeId,
    /// What it is.
    pub kind: FileKind,
    /// Version of the content; 0 if the copy may or may not be there.
    pub version: u64,
    /// Change time of the attributes.
    pub ctime: TimeNs,
    /// The tier's own number of the copy.
    pub tier_ino: u64,
}

impl TierEntry {
    /// A copy that is about to be published.
    pub fn intended(entry: &EntryRecord) -> Self {
        TierEntry { ino: entry.ino, kind: entry.kind, version: 0, ctime: 0, tier_ino: 0 }
    }

    /// Whether the copy was published, and which one it is is known.
    pub fn is_settled(&self) -> bool {
        self.version != 0
    }
}

/// ```text
/// u64 inode   u8 kind   u64 version   i64 ctime   u64 tier's number
/// ```
impl Wire for TierEntry {
    fn put(&self, out: &mut BytesMut) {
        self.ino.put(out);
        self.kind.put(out);
        self.version.put(out);
        self.ctime.put(out);
        self.tier_ino.put(out);
    }
    fn get(from: &mut Reader) -> Result<Self, DecodeError> {
        Ok(TierEntry {
            ino: Wire::get(from)?,
            kind: Wire::get(from)?,
            version: Wire::get(from)?,
            ctime: Wire::get(from)?,
            tier_ino: Wire::get(from)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_bytes() {
        let entry =
            TierEntry { ino: InodeId(1), kind: FileKind::Symlink, version: 2, ctime: -1, tier_ino: 0x0102 };
        let raw = entry.to_bytes();
        assert_eq!(hex::encode(&raw), "0100000000000000030200000000000000ffffffffffffffff0201000000000000");
        assert_eq!(TierEntry::from_bytes(raw).unwrap(), entry);
    }
}
