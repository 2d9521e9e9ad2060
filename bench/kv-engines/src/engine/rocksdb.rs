//! RocksDB of the system, set up for a bound in memory: filters and indexes are in the block cache, write buffers are bounded.

use bytes::Bytes;
use fs_server::kv::{Batch, Change, Kv, KvError, ScanVisitor};
use rocksdb::{
    BlockBasedIndexType, BlockBasedOptions, Cache, DB, DBCompressionType, Options, ReadOptions, WriteBatch,
};
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub struct RocksKv {
    database: DB,
    dir: PathBuf,
}

fn lift(error: rocksdb::Error) -> KvError {
    KvError::Io(std::io::Error::other(error.into_string()))
}

fn blocks(cache_bytes: u64) -> Result<BlockBasedOptions, KvError> {
    let mut blocks = BlockBasedOptions::default();
    blocks.set_block_cache(&Cache::new_lru_cache(cache_bytes as usize).map_err(lift)?);
    blocks.set_cache_index_and_filter_blocks(true);
    blocks.set_pin_l0_filter_and_index_blocks_in_cache(true);
    blocks.set_index_type(BlockBasedIndexType::TwoLevelIndexSearch);
    blocks.set_partition_filters(true);
    blocks.set_bloom_filter(10.0, false);
    blocks.set_format_version(5);
    Ok(blocks)
}

impl RocksKv {
    pub fn open(dir: &Path, cache_bytes: u64) -> Result<Arc<dyn Kv>, KvError> {
        let mut options = Options::default();
        options.create_if_missing(true);
        options.set_block_based_table_factory(&blocks(cache_bytes / 2)?);
        // The same halves as fjall has.
        options.set_write_buffer_size((cache_bytes / 2 / 5) as usize);
        options.set_max_write_buffer_number(5);
        options.set_max_background_jobs(2);
        options.set_compression_per_level(&[
            DBCompressionType::None,
            DBCompressionType::None,
            DBCompressionType::Lz4,
        ]);
        options.set_max_open_files(900);
        options.set_max_total_wal_size(128 << 20);
        let database = DB::open(&options, dir).map_err(lift)?;
        Ok(Arc::new(RocksKv { database, dir: dir.to_owned() }))
    }
}

impl Kv for RocksKv {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, KvError> {
        Ok(self.database.get_pinned(key).map_err(lift)?.map(|value| Bytes::copy_from_slice(&value)))
    }

    fn commit(&self, batch: Batch) -> Result<(), KvError> {
        let mut write = WriteBatch::default();
        for change in batch.changes() {
            match change {
                Change::Put { key, value } => write.put(key, value),
                Change::Delete { key } => write.delete(key),
            }
        }
        // Not synced, but written to the kernel.
        self.database.write(write).map_err(lift)
    }

    fn scan(&self, from: &[u8], to: &[u8], visit: &mut ScanVisitor<'_>) -> Result<(), KvError> {
        let mut options = ReadOptions::default();
        options.set_iterate_upper_bound(to);
        let mut rows = self.database.raw_iterator_opt(options);
        rows.seek(from);
        while let (Some(key), Some(value)) = (rows.key(), rows.value()) {
            if visit(key, value).is_break() {
                break;
            }
            rows.next();
        }
        rows.status().map_err(lift)
    }

    fn sync(&self) -> Result<(), KvError> {
        self.database.flush_wal(true).map_err(lift)
    }

    fn disk_bytes(&self) -> u64 {
        crate::process::disk_bytes(&self.dir)
    }

    fn memory_bytes(&self) -> u64 {
        0
    }
}
