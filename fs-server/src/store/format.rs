//! The format of segment files. All integers are little-endian; lengths are in bytes unless a *unit* (512) is named.
//!
//! ```text
//! directory    store                      identity of the store (128 bytes), locked while it is open
//!              00000001.seg ...           segments, numbered upwards in hexadecimal
//!
//! store        0 8  "HAYATE-C"   8 u32 version   12 u32 zero   16 u64 store id   24 zeros   124 u32 CRC of 0 to 123
//!
//! segment      head (one unit), then records, each at the unit where the one before ends:
//!   head       0 8  "HAYATE-S"   8 u32 version   12 u32 segment   16 u128 boot id of the kernel that wrote it
//!              32 zeros          508 u32 CRC of 0 to 507
//!
//! record       header (64) | CRC of each block (u32 each) | zeros | data | zeros | header again (64)
//!   header     0 u32 "HYC1"     4 u8 kind   5 u8 version   6 u16 zero
//!              8 u32 segment   12 u32 unit (position of the record in its segment)
//!             16 u64 inode     24 u64 chunk
//!             32 u64 sequence  40 u32 durable segment   44 u32 durable unit
//!             48 u32 offset    52 u32 data bytes
//!             56 u32 CRC of the block CRCs   60 u32 CRC of bytes 0 to 59 and the store id
//!   kinds      1 data: `data bytes` at `offset` of the chunk
//!              2 truncate: cut the chunk to `offset` bytes, drop later chunks; no data
//!              3 remove: the data is a list of inodes, u64 each; `inode` is the first
//!              4 void: nothing; `data bytes` is the length of the whole record, and only the header is there
//!              5 punch: a hole of `data bytes` at `offset` of the chunk; no data, one unit
//! ```
//! Block k of a record covers the bytes of the chunk from 4096 (offset / 4096 + k), so the first and the last may be short
//! and an aligned read touches no block that it does not need. Data begins at the first multiple of 64 after the block
//! CRCs; from 64 KiB of data on, at the first multiple of 4096 within the segment.
//!
//! Records that are written together (a *group*) follow each other directly. Where direct I/O wants whole blocks of 4096
//! bytes, a void record fills the last block of a group, of the head, and of what is before a record of 16 KiB and more.
//!
//! Why it is so:
//! - The header is repeated at the end because a killed `pwritev` leaves a prefix: the end is there only if all is. And
//!   a record whose header is damaged is found, and repaired, from its end.
//! - There is nothing between records, so that whatever is missing is seen to be. Records of a group are on their own
//!   otherwise: a torn group loses those that the tear hit.
//! - A record names its own place, and its CRC covers the store id, which users never see: no data that happens to
//!   look like a record, and no record of another store, is taken for one.
//! - `sequence` orders contents: of two records for the same byte the higher wins, and of equal ones the one later in the
//!   log (a copy made by compaction keeps the sequence of its source).
//! - `durable`: all records before that position of the log had reached the device when this record was written.
//!   So a damaged record before it is damage, one after it may be what a crash left of an unfinished write.

use fs_proto::checksum::{BLOCK_BYTES, Crc, combine, crc};
use fs_proto::ids::{ChunkIndex, InodeId};

/// Granule of positions in a segment.
pub const UNIT_BYTES: u64 = 512;
/// Where the first record begins: behind the head.
pub const FIRST_UNIT: u32 = 1;
/// Length of a record's header.
pub const HEADER_BYTES: usize = 64;
/// Most bytes that a chunk holds.
pub const MAX_CHUNK_BYTES: u32 = 1 << *fs_proto::attr::CHUNK_LOG2.end();
/// Version of all three formats.
pub const VERSION: u32 = 3;
/// Inodes that one remove record lists at most.
pub const MAX_REMOVED: usize = 4096;

const RECORD_MAGIC: u32 = u32::from_le_bytes(*b"HYC1");
const SEGMENT_MAGIC: &[u8; 8] = b"HAYATE-S";
const STORE_MAGIC: &[u8; 8] = b"HAYATE-C";
/// From this length on data begins on a page, so that a block is read from one page and not from two.
const PAGE_ALIGNED_FROM: u32 = 64 << 10;

const _: () = assert!(BLOCK_BYTES == 4096, "block CRCs are part of the format");
const _: () = assert!(UNIT_BYTES as usize >= 2 * HEADER_BYTES, "a record without data fits in a unit");

/// A place in the log: records were placed in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Position {
    /// Number of the segment.
    pub segment: u32,
    /// Units of 512 bytes from its begin.
    pub unit: u32,
}

impl Position {
    /// Byte within the segment file.
    pub fn byte(self) -> u64 {
        u64::from(self.unit) * UNIT_BYTES
    }
}

/// What a record does. Numbers are never changed or used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Bytes of a chunk.
    Data = 1,
    /// Cuts an inode.
    Truncate = 2,
    /// Drops inodes.
    Remove = 3,
    /// Covers what an unfinished write left.
    Void = 4,
    /// Makes a hole in a chunk.
    Punch = 5,
}

impl Kind {
    const ALL: [Kind; 5] = [Kind::Data, Kind::Truncate, Kind::Remove, Kind::Void, Kind::Punch];
}

/// The header of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// What the record does.
    pub kind: Kind,
    /// Where it is.
    pub at: Position,
    /// The inode.
    pub ino: InodeId,
    /// The chunk.
    pub chunk: ChunkIndex,
    /// Order of the content.
    pub sequence: u64,
    /// All records before it were on the device.
    pub durable: Position,
    /// First byte within the chunk; for a truncation the bytes kept.
    pub offset: u32,
    /// Bytes of data; for a void record of all of it, for a punched hole of the hole.
    pub data_bytes: u32,
    /// CRC of the block CRCs.
    pub table_crc: u32,
}

impl Header {
    /// The 64 bytes of the header.
    pub fn encode(&self, store_id: u64) -> [u8; HEADER_BYTES] {
        let mut out = [0; HEADER_BYTES];
        out[0..4].copy_from_slice(&RECORD_MAGIC.to_le_bytes());
        out[4] = self.kind as u8;
        out[5] = VERSION as u8;
        out[8..12].copy_from_slice(&self.at.segment.to_le_bytes());
        out[12..16].copy_from_slice(&self.at.unit.to_le_bytes());
        out[16..24].copy_from_slice(&self.ino.0.to_le_bytes());
        out[24..32].copy_from_slice(&self.chunk.0.to_le_bytes());
        out[32..40].copy_from_slice(&self.sequence.to_le_bytes());
        out[40..44].copy_from_slice(&self.durable.segment.to_le_bytes());
        out[44..48].copy_from_slice(&self.durable.unit.to_le_bytes());
        out[48..52].copy_from_slice(&self.offset.to_le_bytes());
        out[52..56].copy_from_slice(&self.data_bytes.to_le_bytes());
        out[56..60].copy_from_slice(&self.table_crc.to_le_bytes());
        let crc = header_crc(&out, store_id);
        out[60..64].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// The header in `from`, if it is one of this store.
    pub fn decode(from: &[u8; HEADER_BYTES], store_id: u64) -> Option<Header> {
        if u32_at(from, 0) != RECORD_MAGIC || u32_at(from, 60) != header_crc(from, store_id) {
            return None;
        }
        if u32::from(from[5]) != VERSION || from[6..8] != [0, 0] {
            return None;
        }
        let header = Header {
            kind: Kind::ALL.into_iter().find(|k| *k as u8 == from[4])?,
            at: Position { segment: u32_at(from, 8), unit: u32_at(from, 12) },
            ino: InodeId(u64_at(from, 16)),
            chunk: ChunkIndex(u64_at(from, 24)),
            sequence: u64_at(from, 32),
            durable: Position { segment: u32_at(from, 40), unit: u32_at(from, 44) },
            offset: u32_at(from, 48),
            data_bytes: u32_at(from, 52),
            table_crc: u32_at(from, 56),
        };
        header.is_sane().then_some(header)
    }

    fn is_sane(&self) -> bool {
        let in_chunk = self.offset <= MAX_CHUNK_BYTES && self.data_bytes <= MAX_CHUNK_BYTES - self.offset;
        match self.kind {
            Kind::Data | Kind::Punch => in_chunk && self.data_bytes > 0,
            Kind::Truncate => in_chunk && self.data_bytes == 0,
            Kind::Remove => {
                in_chunk && self.data_bytes > 0 && self.data_bytes.is_multiple_of(8) && self.offset == 0
            }
            Kind::Void => self.data_bytes > 0 && u64::from(self.data_bytes).is_multiple_of(UNIT_BYTES),
        }
    }

    /// The shape of the record.
    pub fn shape(&self) -> Shape {
        match self.kind {
            Kind::Void | Kind::Punch => Shape { unit: self.at.unit, offset: 0, data_bytes: 0 },
            _ => Shape { unit: self.at.unit, offset: self.offset, data_bytes: self.data_bytes },
        }
    }

    /// Length of the whole record in units.
    pub fn units(&self) -> u32 {
        match self.kind {
            Kind::Void => (u64::from(self.data_bytes) / UNIT_BYTES) as u32,
            _ => self.shape().units(),
        }
    }

    /// Position after the record.
    pub fn end(&self) -> Position {
        Position { segment: self.at.segment, unit: self.at.unit.saturating_add(self.units()) }
    }

    /// Whether it undoes other records.
    pub fn is_tombstone(&self) -> bool {
        matches!(self.kind, Kind::Truncate | Kind::Remove | Kind::Punch)
    }
}

/// Where the parts of a record are: follows from its position and the range that it covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Shape {
    /// Position within the segment.
    pub unit: u32,
    /// First byte within the chunk.
    pub offset: u32,
    /// Bytes of data.
    pub data_bytes: u32,
}

impl Shape {
    /// Number of block CRCs.
    pub fn blocks(self) -> usize {
        block_count(self.offset, self.data_bytes)
    }

    /// Bytes from the record's begin to its data.
    pub fn data_at(self) -> u64 {
        let after_table = (HEADER_BYTES + 4 * self.blocks()).next_multiple_of(64) as u64;
        if self.data_bytes < PAGE_ALIGNED_FROM {
            return after_table;
        }
        let begin = u64::from(self.unit) * UNIT_BYTES;
        (begin + after_table).next_multiple_of(BLOCK_BYTES as u64) - begin
    }

    /// Length of the whole record in bytes.
    pub fn total_bytes(self) -> u64 {
        (self.data_at() + u64::from(self.data_bytes) + HEADER_BYTES as u64).next_multiple_of(UNIT_BYTES)
    }

    /// Length of the whole record in units.
    pub fn units(self) -> u32 {
        (self.total_bytes() / UNIT_BYTES) as u32
    }

    /// Byte within the segment file of byte `offset` of the chunk.
    pub fn byte_of(self, offset: u32) -> u64 {
        u64::from(self.unit) * UNIT_BYTES + self.data_at() + u64::from(offset - self.offset)
    }

    /// The part of the chunk that block `index` covers.
    pub fn block_range(self, index: usize) -> std::ops::Range<u32> {
        let block = BLOCK_BYTES as u32;
        let begin = (self.offset / block + index as u32) * block;
        begin.max(self.offset)..(begin + block).min(self.offset + self.data_bytes)
    }

    /// The block that byte `offset` of the chunk is in.
    pub fn block_of(self, offset: u32) -> usize {
        (offset / BLOCK_BYTES as u32 - self.offset / BLOCK_BYTES as u32) as usize
    }
}

/// The blocks of a record that cover a range.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockSpan {
    /// Indexes of the blocks.
    pub blocks: std::ops::Range<usize>,
    /// Byte of the chunk where the first begins.
    pub start: u32,
    /// Bytes of the first block before the range.
    pub head: usize,
    /// Bytes of the last block behind the range.
    pub tail: usize,
}

impl BlockSpan {
    /// The blocks of `shape` that cover `len` bytes (at least one) from `start`, which lie within the record.
    pub fn covering(shape: Shape, start: u32, len: usize) -> Self {
        let end = start + len as u32;
        let (first, last) = (shape.block_of(start), shape.block_of(end - 1));
        let (from, to) = (shape.block_range(first).start, shape.block_range(last).end);
        BlockSpan {
            blocks: first..last + 1,
            start: from,
            head: (start - from) as usize,
            tail: (to - end) as usize,
        }
    }
}

fn block_count(offset: u32, data_bytes: u32) -> usize {
    match data_bytes {
        0 => 0,
        _ => (offset as usize % BLOCK_BYTES + data_bytes as usize).div_ceil(BLOCK_BYTES),
    }
}

/// The CRCs of the blocks of some data of a chunk, and of all of it: what is computed once serves message and record.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BlockSums {
    table: Vec<u8>,
    whole: u32,
}

impl BlockSums {
    /// Of data at `offset` of a chunk.
    pub fn of(offset: u32, data: &[u8]) -> Self {
        let first = (BLOCK_BYTES - offset as usize % BLOCK_BYTES).min(data.len());
        let (head, rest) = data.split_at(first);
        let mut sums = BlockSums::default();
        sums.table.reserve_exact(4 * block_count(offset, data.len() as u32));
        for block in std::iter::once(head).filter(|h| !h.is_empty()).chain(rest.chunks(BLOCK_BYTES)) {
            let sum = crc(block);
            sums.table.extend_from_slice(&sum.to_le_bytes());
            sums.whole = combine(sums.whole, sum, block.len() as u64);
        }
        sums
    }

    /// The blocks' CRCs, encoded.
    pub fn table(&self) -> &[u8] {
        &self.table
    }

    /// CRC of all the data.
    pub fn crc(&self) -> u32 {
        self.whole
    }
}

/// What surrounds the data of a record: the bytes before it and those after it, up to a multiple of `align`.
pub fn frame(header: &Header, table: &[u8], store_id: u64, align: u32) -> (Vec<u8>, Vec<u8>) {
    let shape = header.shape();
    let mut front = vec![0; shape.data_at() as usize];
    let before_bytes = front.len() + shape.data_bytes as usize;
    let record_end = (u64::from(header.at.unit) * UNIT_BYTES + shape.total_bytes()) as usize;
    let end = record_end.next_multiple_of(align as usize) - record_end + shape.total_bytes() as usize;
    let mut back = vec![0; end - before_bytes];
    frame_into(header, table, store_id, &mut front, &mut back);
    (front, back)
}

/// As [`frame`], into memory of these lengths. All of it is written.
pub fn frame_into(header: &Header, table: &[u8], store_id: u64, front: &mut [u8], back: &mut [u8]) {
    let (shape, encoded) = (header.shape(), header.encode(store_id));
    front[..HEADER_BYTES].copy_from_slice(&encoded);
    front[HEADER_BYTES..][..table.len()].copy_from_slice(table);
    front[HEADER_BYTES + table.len()..].fill(0);
    let end = shape.total_bytes() as usize - front.len() - shape.data_bytes as usize;
    let (back, filling) = back.split_at_mut(end);
    let zeros = back.len() - HEADER_BYTES;
    back[..zeros].fill(0);
    back[zeros..].copy_from_slice(&encoded);
    fill_up(header.end(), store_id, filling);
}

/// Makes units at `at` a void record, if there are any.
pub fn fill_up(at: Position, store_id: u64, units: &mut [u8]) {
    if units.is_empty() {
        return;
    }
    units.fill(0);
    let void = void(at, (units.len() as u64 / UNIT_BYTES) as u32);
    units[..HEADER_BYTES].copy_from_slice(&void.encode(store_id));
}

/// The first unit from `end_unit` on that is a multiple of `align` bytes.
pub fn aligned(end_unit: u32, align: u32) -> u32 {
    end_unit.next_multiple_of(align / UNIT_BYTES as u32)
}

/// A record over `units` at `at` that says nothing.
pub fn void(at: Position, units: u32) -> Header {
    Header {
        kind: Kind::Void,
        at,
        ino: InodeId(0),
        chunk: ChunkIndex(0),
        sequence: 0,
        durable: Position::default(),
        offset: 0,
        data_bytes: (u64::from(units) * UNIT_BYTES) as u32,
        table_crc: 0,
    }
}

/// The head of segment `segment`, written by the kernel of boot `boot_id`.
pub fn encode_segment_head(segment: u32, boot_id: u128) -> [u8; UNIT_BYTES as usize] {
    let mut out = [0; UNIT_BYTES as usize];
    out[0..8].copy_from_slice(SEGMENT_MAGIC);
    out[8..12].copy_from_slice(&VERSION.to_le_bytes());
    out[12..16].copy_from_slice(&segment.to_le_bytes());
    out[16..32].copy_from_slice(&boot_id.to_le_bytes());
    let sum = crc(&out[..508]);
    out[508..].copy_from_slice(&sum.to_le_bytes());
    out
}

/// The boot that wrote segment `segment`, if its head is whole.
pub fn decode_segment_head(from: &[u8; UNIT_BYTES as usize], segment: u32) -> Option<u128> {
    let is_head = from[..8] == *SEGMENT_MAGIC && u32_at(from, 508) == crc(&from[..508]);
    let is_this = u32_at(from, 8) == VERSION && u32_at(from, 12) == segment;
    let is_sane = from[32..508].iter().all(|byte| *byte == 0);
    let boot_id = u128::from_le_bytes(from[16..32].try_into().unwrap_or_default());
    (is_head && is_this && is_sane).then_some(boot_id)
}

/// Length of the file `store`.
pub const STORE_FILE_BYTES: usize = 128;

/// The file `store`.
pub fn encode_store_file(store_id: u64) -> [u8; STORE_FILE_BYTES] {
    let mut out = [0; STORE_FILE_BYTES];
    out[0..8].copy_from_slice(STORE_MAGIC);
    out[8..12].copy_from_slice(&VERSION.to_le_bytes());
    out[16..24].copy_from_slice(&store_id.to_le_bytes());
    let sum = crc(&out[..124]);
    out[124..].copy_from_slice(&sum.to_le_bytes());
    out
}

/// The store id, or what is wrong with the file `store`.
pub fn decode_store_file(from: &[u8]) -> Result<u64, &'static str> {
    if from.len() != STORE_FILE_BYTES || from[..8] != *STORE_MAGIC {
        return Err("not a chunk store of Hayate");
    }
    if u32_at(from, 124) != crc(&from[..124]) {
        return Err("the store's identity is damaged");
    }
    if u32_at(from, 8) != VERSION {
        return Err("the store has another format version");
    }
    Ok(u64_at(from, 16))
}

fn header_crc(header: &[u8; HEADER_BYTES], store_id: u64) -> u32 {
    let mut hasher = Crc::new();
    hasher.update(&header[..60]);
    hasher.update(&store_id.to_le_bytes());
    hasher.finalize()
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}
