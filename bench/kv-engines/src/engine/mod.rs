//! The engines behind the server's own port.

mod redb;
#[cfg(feature = "rocksdb")]
mod rocksdb;

use fs_server::kv::{self, FjallOptions, Kv, KvError};
use std::path::Path;
use std::sync::Arc;

/// Opens the engine of this name. `fjall` is what a server opens; `fjall-bare` is without the guard; other fjall names are
/// variants that the decision tells about.
pub fn open(name: &str, dir: &Path, cache_bytes: u64) -> Result<Arc<dyn Kv>, KvError> {
    let base = FjallOptions::within(cache_bytes);
    let fjall = |options: FjallOptions| kv::open_fjall(dir, &options, true);
    let split = |sixteenths: u64| FjallOptions {
        block_cache_bytes: cache_bytes / 16 * (16 - sixteenths),
        memtable_bytes: cache_bytes / 16 * sixteenths / 5,
        ..base.clone()
    };
    match name {
        "fjall" => fjall(base),
        "fjall-bare" => kv::open_fjall(dir, &base, false),
        "fjall-pinned" => fjall(FjallOptions { pins: true, partitions: false, ..base }),
        "fjall-paged" => fjall(FjallOptions { pins: false, partitions: false, ..base }),
        "fjall-partitioned" => fjall(FjallOptions { pins: false, partitions: true, ..base }),
        "fjall-quarter" => fjall(split(4)),
        "fjall-half" => fjall(split(8)),
        "sled" => kv::open_bare_sled(dir, cache_bytes),
        "redb" => redb::RedbKv::open(dir, cache_bytes),
        #[cfg(feature = "rocksdb")]
        "rocksdb" => rocksdb::RocksKv::open(dir, cache_bytes),
        other => Err(KvError::Io(std::io::Error::other(format!("no engine {other} in this build")))),
    }
}
