//! Block CRCs of records that were read, within a bound of memory: saves a read of the table per read of a block.

use super::format::Position;
use quick_cache::Weighter;
use quick_cache::sync::Cache;
use std::sync::Arc;

/// What an entry takes beside its CRCs, about.
const ENTRY_BYTES: u64 = 96;

/// Block CRCs of a record, encoded.
pub(super) type Table = Arc<[u8]>;

#[derive(Clone)]
pub(super) struct TableWeight;

impl Weighter<Position, Table> for TableWeight {
    fn weight(&self, _: &Position, table: &Table) -> u64 {
        ENTRY_BYTES + table.len() as u64
    }
}

/// Verified tables of block CRCs by the position of their records. Positions are not used again while a store is open.
pub(super) type CrcCache = Cache<Position, Table, TableWeight>;

pub(super) fn new(bytes: u64) -> CrcCache {
    Cache::with_weighter((bytes / (4 * ENTRY_BYTES)).max(16) as usize, bytes.max(ENTRY_BYTES), TableWeight)
}
