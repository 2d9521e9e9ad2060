//! The server's memory: one budget, divided at the start into pools that never change size. Decision 0018.
//!
//! # Invariants
//! - The pools' sizes add up to the budget (`shares_add_up`).

use std::sync::atomic::{AtomicU64, Ordering};

use fs_net::{Budget, BufferPool, PoolStats, ShareBudget, ShareStats, Sharing};
use serde_json::{Value, json};

use crate::node::Node;
use crate::store::ChunkStore;

/// Parts of the budget, in 32nds.
const BUFFERS: u64 = 9;
const SHARED_MEMORY: u64 = 4;
const METADATA_CACHE: u64 = 6;
const HOT_FILES: u64 = 2;
const INODE_CACHE: u64 = 4;
const CHUNK_INDEX: u64 = 4;
const MESSAGES: u64 = 1;
const CONNECTIONS: u64 = 1;
const OPEN_FILES: u64 = 1;
const PARTS: u64 = 32;

const _: () = assert!(
    BUFFERS
        + SHARED_MEMORY
        + METADATA_CACHE
        + HOT_FILES
        + INODE_CACHE
        + CHUNK_INDEX
        + MESSAGES
        + CONNECTIONS
        + OPEN_FILES
        == PARTS
);

/// Largest part of the chunk index's pool that checksums of records have, as a divisor, and at most.
const CHECKSUM_PART: u64 = 4;
const CHECKSUM_MAX: u64 = 8 << 20;

/// What the parts of a server may take.
#[derive(Debug)]
pub struct Pools {
    /// Bulk data of requests and replies.
    pub buffers: BufferPool,
    /// Chunks that come from the shared tier, on their way into the store. Apart from `buffers`, all of which may be held by requests that wait
    /// for such chunks. Beside the 32 parts: taken only where there is a tier that is read.
    pub fetches: BufferPool,
    /// Small requests that wait, and answers that nobody has read.
    pub messages: Budget,
    /// Accepted connections.
    pub connections: Budget,
    /// What clients have open.
    pub open_files: Budget,
    /// Pieces of files that many nodes read (`hot/`).
    pub hot_files: Budget,
    /// Memory shared with clients of this node.
    pub sharing: Sharing,
    /// Bytes of the key-value store's caches and write buffers.
    pub metadata_bytes: u64,
    /// Bytes of the inode cache.
    pub inode_bytes: u64,
    /// Bytes of the chunks' index.
    pub index_bytes: u64,
    /// Bytes of the checksums of records that were read.
    pub checksum_bytes: u64,
    peaks: Peaks,
}

/// Most that was seen of what does not count by itself.
#[derive(Debug, Default)]
struct Peaks {
    metadata: AtomicU64,
    inodes: AtomicU64,
    index: AtomicU64,
    shared: AtomicU64,
}

/// What the pools hold that do not count by themselves.
struct Used {
    metadata: u64,
    inodes: u64,
    index: u64,
    shared: ShareStats,
}

impl Used {
    fn now(node: &Node) -> Used {
        Used {
            metadata: node.namespace.kv().memory_bytes(),
            inodes: node.namespace.cached_inode_bytes(),
            index: node.store.index_bytes(),
            shared: node.share_stats(),
        }
    }
}

/// A pool's name and its figures.
pub type Named = (&'static str, PoolStats);

impl Pools {
    /// Divides `memory_bytes`. `shares`: whether memory is shared with clients.
    pub fn new(memory_bytes: u64, shares: bool) -> Pools {
        let part = |of: u64| memory_bytes / PARTS * of;
        let checksum_bytes = (part(CHUNK_INDEX) / CHECKSUM_PART).min(CHECKSUM_MAX);
        let sharing =
            if shares { Sharing::Grant(ShareBudget::new(part(SHARED_MEMORY))) } else { Sharing::Never };
        Pools {
            buffers: BufferPool::new(part(BUFFERS) as usize),
            fetches: BufferPool::new(part(1) as usize),
            messages: Budget::for_messages(part(MESSAGES) as usize),
            connections: Budget::for_connections(part(CONNECTIONS) as usize),
            open_files: Budget::new(part(OPEN_FILES) as usize),
            hot_files: Budget::new(part(HOT_FILES) as usize),
            sharing,
            metadata_bytes: part(METADATA_CACHE),
            inode_bytes: part(INODE_CACHE),
            index_bytes: part(CHUNK_INDEX) - checksum_bytes,
            checksum_bytes,
            peaks: Peaks::default(),
        }
    }

    /// Bytes that may come to be registered with RDMA devices.
    pub fn registrable_bytes(&self) -> u64 {
        let shared = match &self.sharing {
            Sharing::Grant(budget) => budget.stats().size,
            Sharing::Never | Sharing::Ask | Sharing::Insist => 0,
        };
        self.buffers.stats().size + shared
    }

    /// Looks what the pools hold that do not count by themselves, for their peaks.
    pub fn note_peaks(&self, node: &Node) {
        let used = Used::now(node);
        for (peak, used) in [
            (&self.peaks.metadata, used.metadata),
            (&self.peaks.inodes, used.inodes),
            (&self.peaks.index, used.index),
            (&self.peaks.shared, used.shared.used),
        ] {
            peak.fetch_max(used, Ordering::Relaxed);
        }
    }

    /// Figures of all pools. Caches and shared memory do not wait; their peaks are of the moments when they were looked at.
    pub fn all(&self, node: &Node) -> Vec<Named> {
        self.note_peaks(node);
        let seen = |size: u64, used: u64, peak: &AtomicU64| PoolStats {
            size,
            used,
            peak: peak.load(Ordering::Relaxed),
            ..PoolStats::default()
        };
        let (peaks, used) = (&self.peaks, Used::now(node));
        let index_bytes = self.index_bytes + self.checksum_bytes;
        vec![
            ("buffers", self.buffers.stats()),
            ("fetches", self.fetches.stats()),
            ("messages", self.messages.stats()),
            ("connections", self.connections.stats()),
            ("open_files", self.open_files.stats()),
            ("hot_files", self.hot_files.stats()),
            (
                "shared_memory",
                PoolStats {
                    waits: used.shared.refused,
                    ..seen(used.shared.size, used.shared.used, &peaks.shared)
                },
            ),
            ("metadata_cache", seen(self.metadata_bytes, used.metadata, &peaks.metadata)),
            ("inode_cache", seen(self.inode_bytes, used.inodes, &peaks.inodes)),
            ("chunk_index", seen(index_bytes, used.index, &peaks.index)),
        ]
    }
}

/// The pools as `hayate status` has them.
pub fn as_json(node: &Node) -> Value {
    let pools = node.pools.all(node).into_iter().map(|(name, pool)| {
        json!({
            "name": name, "size": pool.size, "used": pool.used, "peak": pool.peak, "waits": pool.waits,
            "wait_ns": pool.wait_ns, "waiting": pool.waiting,
        })
    });
    pools.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_add_up() {
        for memory_bytes in [64 << 20, 512 << 20, (3 << 30) + 12_345] {
            let pools = Pools::new(memory_bytes, true);
            let counted = [&pools.messages, &pools.connections, &pools.open_files, &pools.hot_files]
                .map(|pool| pool.stats().size);
            let Sharing::Grant(shared) = &pools.sharing else { panic!("memory is shared") };
            let caches = pools.metadata_bytes + pools.inode_bytes + pools.index_bytes + pools.checksum_bytes;
            let sum = counted.iter().sum::<u64>() + pools.buffers.stats().size + shared.stats().size + caches;
            assert!(memory_bytes - sum < PARTS, "{sum} of {memory_bytes}");
        }
    }
}
