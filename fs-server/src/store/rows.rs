//! What the store keeps in the key-value store: its index. Pure.
//!
//! ```text
//! 'e' device:u8 inode:u64 chunk:u64  -> version:u8, then for each extent, ascending:
//!                                       start:u32 end:u32 sequence:u64 segment:u32 unit:u32 offset:u32 data bytes:u32
//! 'v' device:u8 0                    -> Checkpoint: version:u8 store id:u64 segment:u32 unit:u32 next sequence:u64 chunks:u64
//! 'v' device:u8 1 segment:u32        -> SegmentRow: version:u8 live bytes:u64 payload bytes:u64 units:u32
//! ```
//! Integers of keys are big-endian, so that they sort; those of values little-endian. Values carry no checksum of their
//! own: the key-value store's port verifies one.

use super::ChunkKey;
use super::extent::{Extent, Place};
use super::format::{Position, Shape, u32_at, u64_at};
use fs_proto::ids::{ChunkIndex, InodeId};

/// First byte of every value.
const VERSION: u8 = 1;
/// Bytes of one extent.
const EXTENT_BYTES: usize = 32;

/// Up to where the log is in the index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Checkpoint {
    pub store_id: u64,
    /// Every record before it is in the rows, and on the device.
    pub at: Position,
    pub next_sequence: u64,
    /// Rows of chunks.
    pub chunks: u64,
}

/// What the index keeps of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct SegmentRow {
    /// Bytes that the rows of chunks refer to.
    pub live_bytes: u64,
    pub payload_bytes: u64,
    pub units: u32,
}

/// Makes the keys of one device of a server.
#[derive(Debug, Clone, Copy)]
pub(super) struct Keys {
    pub device: u8,
}

impl Keys {
    pub fn chunk(self, key: ChunkKey) -> [u8; 18] {
        let mut out = [0; 18];
        out[..2].copy_from_slice(&[b'e', self.device]);
        out[2..10].copy_from_slice(&key.ino.0.to_be_bytes());
        out[10..].copy_from_slice(&key.chunk.0.to_be_bytes());
        out
    }

    /// The chunk behind a key of `chunk`.
    pub fn split_chunk(key: &[u8]) -> Option<ChunkKey> {
        let ino = u64::from_be_bytes(key.get(2..10)?.try_into().ok()?);
        let chunk = u64::from_be_bytes(key.get(10..18)?.try_into().ok()?);
        Some(ChunkKey { ino: InodeId(ino), chunk: ChunkIndex(chunk) })
    }

    /// Where the chunks of the device begin and end.
    pub fn all_chunks(self) -> ([u8; 2], [u8; 2]) {
        ([b'e', self.device], [b'e', self.device + 1])
    }

    pub fn checkpoint(self) -> [u8; 3] {
        [b'v', self.device, 0]
    }

    pub fn segment(self, id: u32) -> [u8; 7] {
        let mut out = [0; 7];
        out[..3].copy_from_slice(&[b'v', self.device, 1]);
        out[3..].copy_from_slice(&id.to_be_bytes());
        out
    }

    /// Where the segments of the device begin and end.
    pub fn all_segments(self) -> ([u8; 3], [u8; 3]) {
        ([b'v', self.device, 1], [b'v', self.device, 2])
    }

    /// The segment behind a key of `segment`.
    pub fn split_segment(key: &[u8]) -> Option<u32> {
        Some(u32::from_be_bytes(key.get(3..7)?.try_into().ok()?))
    }
}

pub(super) fn encode_extents(extents: &[Extent]) -> Vec<u8> {
    let mut out = Vec::with_capacity(1 + EXTENT_BYTES * extents.len());
    out.push(VERSION);
    for extent in extents {
        let shape = extent.place.shape;
        out.extend_from_slice(&extent.start.to_le_bytes());
        out.extend_from_slice(&extent.end.to_le_bytes());
        out.extend_from_slice(&extent.sequence.to_le_bytes());
        for field in [extent.place.segment, shape.unit, shape.offset, shape.data_bytes] {
            out.extend_from_slice(&field.to_le_bytes());
        }
    }
    out
}

/// The extents in a value, if it is one: sorted, not empty, apart from each other and within their records.
pub(super) fn decode_extents(from: &[u8]) -> Option<Vec<Extent>> {
    let (version, rest) = from.split_first()?;
    let (extents, odd) = rest.as_chunks::<EXTENT_BYTES>();
    if *version != VERSION || !odd.is_empty() || extents.is_empty() {
        return None;
    }
    let mut end = 0;
    extents.iter().map(|bytes| decode_extent(bytes, &mut end)).collect()
}

fn decode_extent(bytes: &[u8; EXTENT_BYTES], end: &mut u32) -> Option<Extent> {
    let shape = Shape { unit: u32_at(bytes, 20), offset: u32_at(bytes, 24), data_bytes: u32_at(bytes, 28) };
    let extent = Extent {
        start: u32_at(bytes, 0),
        end: u32_at(bytes, 4),
        sequence: u64_at(bytes, 8),
        place: Place { segment: u32_at(bytes, 16), shape },
    };
    let record_end = shape.offset.checked_add(shape.data_bytes)?;
    let is_sane = *end <= extent.start && extent.start < extent.end;
    let is_within = shape.offset <= extent.start && extent.end <= record_end;
    *end = extent.end;
    (is_sane && is_within).then_some(extent)
}

impl Checkpoint {
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        out.extend_from_slice(&self.store_id.to_le_bytes());
        out.extend_from_slice(&self.at.segment.to_le_bytes());
        out.extend_from_slice(&self.at.unit.to_le_bytes());
        out.extend_from_slice(&self.next_sequence.to_le_bytes());
        out.extend_from_slice(&self.chunks.to_le_bytes());
        out
    }

    pub fn decode(from: &[u8]) -> Option<Self> {
        (from.len() == 33 && from[0] == VERSION).then(|| Checkpoint {
            store_id: u64_at(from, 1),
            at: Position { segment: u32_at(from, 9), unit: u32_at(from, 13) },
            next_sequence: u64_at(from, 17),
            chunks: u64_at(from, 25),
        })
    }
}

impl SegmentRow {
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        out.extend_from_slice(&self.live_bytes.to_le_bytes());
        out.extend_from_slice(&self.payload_bytes.to_le_bytes());
        out.extend_from_slice(&self.units.to_le_bytes());
        out
    }

    pub fn decode(from: &[u8]) -> Option<Self> {
        (from.len() == 21 && from[0] == VERSION).then(|| SegmentRow {
            live_bytes: u64_at(from, 1),
            payload_bytes: u64_at(from, 9),
            units: u32_at(from, 17),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extent(start: u32, end: u32) -> Extent {
        let shape = Shape { unit: 0x0708, offset: start, data_bytes: end - start + 1 };
        Extent { start, end, sequence: 0x1122, place: Place { segment: 0x0506, shape } }
    }

    #[test]
    fn golden_rows() {
        // Goal: bytes of rows never change unnoticed, and come back as they went in.
        let extents = [extent(0x10, 0x20), extent(0x30, 0x31)];
        let bytes = encode_extents(&extents);
        let first = "10000000 20000000 2211000000000000 06050000 08070000 10000000 11000000";
        assert_eq!(hex::encode(&bytes[..33]), format!("01{}", first.replace(' ', "")));
        assert_eq!(decode_extents(&bytes).unwrap(), extents);
        let at = Position { segment: 3, unit: 4 };
        let checkpoint = Checkpoint { store_id: 2, at, next_sequence: 5, chunks: 6 };
        let want = "01 0200000000000000 03000000 04000000 0500000000000000 0600000000000000";
        assert_eq!(hex::encode(checkpoint.encode()), want.replace(' ', ""));
        assert_eq!(Checkpoint::decode(&checkpoint.encode()), Some(checkpoint));
        let row = SegmentRow { live_bytes: 1, payload_bytes: 2, units: 3 };
        assert_eq!(hex::encode(row.encode()), "010100000000000000020000000000000003000000");
        assert_eq!(SegmentRow::decode(&row.encode()), Some(row));
        let key = ChunkKey { ino: InodeId(0x0102), chunk: ChunkIndex(3) };
        let encoded = Keys { device: 9 }.chunk(key);
        assert_eq!(hex::encode(encoded), "650900000000000001020000000000000003");
        assert_eq!(Keys::split_chunk(&encoded), Some(key));
    }

    #[test]
    fn rows_that_make_no_sense_are_none() {
        // Goal: whatever a value says, the index holds its invariants: overlaps, empty extents and bytes outside of
        // their record are refused.
        for bad in [vec![extent(0, 9), extent(8, 10)], vec![extent(5, 5)], Vec::new()] {
            assert_eq!(decode_extents(&encode_extents(&bad)), None);
        }
        let mut outside = extent(0, 9);
        outside.end = 11;
        assert_eq!(decode_extents(&encode_extents(&[outside])), None);
        assert_eq!(decode_extents(&encode_extents(&[extent(0, 9)])[..20]), None);
    }
}
