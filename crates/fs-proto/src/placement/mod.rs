//! Where things live: the consistent hash.
//!
//! A name or a chunk is hashed to a *partition*; [`PartitionMap`] says which server owns it. The hashes are part of the disk and
//! wire format and never change (`tests/golden.rs`).

mod map;

pub use map::{MapError, MapEvent, Member, PartitionMap};

use crate::attr::{Layout, Placement};
use crate::ids::{ChunkIndex, InodeId, PARTITIONS, Partition, ServerId};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

/// Hash of a name within its directory: order of listings, and partition in wide directories.
pub fn name_hash(parent: InodeId, name: &[u8]) -> u64 {
    xxh3_64_with_seed(name, parent.0)
}

/// The position of a name in listings: above 2 (those are "." and ".."), below 2^63.
pub fn entry_cookie(hash: u64) -> u64 {
    (hash >> 1).max(3)
}

/// The partition that holds a directory entry.
pub fn entry_partition(parent: InodeId, hash: u64, wide: bool) -> Partition {
    if wide { Partition((hash >> 48) as u16) } else { parent.partition() }
}

/// The partition that a new directory's inode is born in, so that subtrees spread. `salt` keeps a name that is made again
/// from the same place.
pub fn directory_partition(parent: InodeId, name: &[u8], salt: u64) -> Partition {
    Partition((xxh3_64_with_seed(name, parent.0 ^ salt.rotate_left(32)) >> 48) as u16)
}

/// Where the bytes of a chunk are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChunkPlace {
    /// At the owner of this partition.
    Owner(Partition),
    /// At this server.
    Server(ServerId),
    /// The owner of this partition knows (layout `writer`).
    Pointer(Partition),
}

/// Where the bytes of a chunk are, as far as the layout tells.
pub fn chunk_place(layout: Layout, ino: InodeId, chunk: ChunkIndex) -> ChunkPlace {
    let partition = chunk_partition(ino, chunk);
    match layout.placement {
        // A file has a server, if it is local. Should it not, its chunks are found again as they were written.
        Placement::Striped | Placement::Local(None) => ChunkPlace::Owner(partition),
        Placement::Local(Some(server)) => ChunkPlace::Server(server),
        Placement::Writer => ChunkPlace::Pointer(partition),
    }
}

/// The partition of a chunk of a striped file: consecutive chunks are on consecutive partitions.
pub fn chunk_partition(ino: InodeId, chunk: ChunkIndex) -> Partition {
    let first = xxh3_64(&ino.0.to_le_bytes()) >> 48;
    Partition((first.wrapping_add(chunk.0) % u64::from(PARTITIONS)) as u16)
}
