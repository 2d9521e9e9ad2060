//! Block CRCs of records that were read, within a bound of memory: saves a read of the table per read of a block.

use super::format::{BlockSums, Position, Shape};
use fs_proto::checksum::combine;
use quick_cache::Weighter;
use quick_cache::sync::Cache;
use std::ops::Range;
use std::sync::{Arc, OnceLock};

/// What an entry takes beside its CRCs, about.
const ENTRY_BYTES: u64 = 112;

/// The CRCs that the blocks of a record were written with.
pub(super) struct Sums {
    encoded: Box<[u8]>,
    /// Of all of them together, once it was asked for: most reads are of all that one write wrote.
    whole: OnceLock<u32>,
}

impl Sums {
    /// From a record's table.
    pub fn decode(encoded: &[u8]) -> Table {
        Arc::new(Sums { encoded: encoded.into(), whole: OnceLock::new() })
    }

    /// As they are when a record is written.
    pub fn of(sums: &BlockSums) -> Table {
        Arc::new(Sums { encoded: sums.table().into(), whole: sums.crc().into() })
    }

    /// Of one block.
    pub fn of_block(&self, block: usize) -> u32 {
        let (sums, _) = self.encoded.as_chunks();
        u32::from_le_bytes(sums[block])
    }

    /// Of these blocks of a record of this shape together.
    pub fn of_blocks(&self, shape: Shape, blocks: Range<usize>) -> u32 {
        let is_whole = blocks == (0..shape.blocks());
        let bytes_of = |block| shape.block_range(block).len() as u64;
        let sum = || blocks.fold(0, |sum, block| combine(sum, self.of_block(block), bytes_of(block)));
        if is_whole { *self.whole.get_or_init(sum) } else { sum() }
    }
}

/// Shared by who reads.
pub(super) type Table = Arc<Sums>;

#[derive(Clone)]
pub(super) struct TableWeight;

impl Weighter<Position, Table> for TableWeight {
    fn weight(&self, _: &Position, table: &Table) -> u64 {
        ENTRY_BYTES + table.encoded.len() as u64
    }
}

/// Verified tables of block CRCs by the position of their records. Positions are not used again while a store is open.
pub(super) type CrcCache = Cache<Position, Table, TableWeight>;

pub(super) fn new(bytes: u64) -> CrcCache {
    Cache::with_weighter((bytes / (4 * ENTRY_BYTES)).max(16) as usize, bytes.max(ENTRY_BYTES), TableWeight)
}
