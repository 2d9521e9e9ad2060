//! Identifiers that route themselves.
//!
//! # Invariants
//! - An inode number carries its partition in its upper 16 bits, so any server can tell who owns it without a
//!   look-up (`inode_number_carries_its_partition`).
//! - Zero is never a valid inode number or client id.

use std::fmt;

/// Number of partitions (virtual nodes of the consistent hash). Fixed by the format of inode numbers.
pub const PARTITIONS: u32 = 1 << 16;

/// Servers that can allocate inode numbers: ids 0 to 4,095, never given to another server again.
pub const MAX_SERVERS: u32 = 1 << 12;

const COUNTER_BITS: u32 = 48;
const SEQUENCE_BITS: u32 = 36;
const COUNTER_MASK: u64 = (1 << COUNTER_BITS) - 1;
/// In an inode number: what it stands for was found in the shared tier.
const ADOPTED: u64 = 1 << (SEQUENCE_BITS - 1);

/// A virtual node of the consistent hash: 0 to 65,535.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Partition(pub u16);

/// An inode number: 16 bits of partition, 48 bits of counter (12 bits of the allocating server, one bit that says
/// whether it was found in the shared tier, 35 bits of the server's sequence, so that any server can allocate a number in any partition without asking).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct InodeId(pub u64);

/// A server of the cluster, as numbered in the cluster file.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ServerId(pub u16);

/// A client process (or a server, for requests of its own). Drawn at random at start, never zero.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ClientId(pub u64);

/// Index of a chunk within its file.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ChunkIndex(pub u64);

impl InodeId {
    /// One of `places` (a power of two, at least 2) for the number. Numbers of one directory follow each other: they are spread.
    pub fn place(self, places: usize) -> usize {
        (self.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - places.ilog2())) as usize
    }

    /// The root directory. Partition 0, counter 1: the number that FUSE wants for it, too.
    pub const ROOT: InodeId = InodeId(1);

    /// The `counter`-th inode that was born in `partition`. Counters above 48 bits wrap: callers hand out fewer.
    pub fn new(partition: Partition, counter: u64) -> Self {
        InodeId((u64::from(partition.0) << COUNTER_BITS) | (counter & COUNTER_MASK))
    }

    /// The `sequence`-th inode number that `server` allocated, in `partition`. None when the server has used up its 2^35.
    pub fn allocate(partition: Partition, server: ServerId, sequence: u64) -> Option<Self> {
        let fits = sequence < ADOPTED && u32::from(server.0) < MAX_SERVERS;
        fits.then(|| InodeId::new(partition, u64::from(server.0) << SEQUENCE_BITS | sequence))
    }

    /// The number in place of this one for what was found in the shared tier.
    #[must_use]
    pub fn adopted(self) -> Self {
        InodeId(self.0 | ADOPTED)
    }

    /// Whether it was found in the shared tier: chunks of it that a server does not hold may be there.
    pub fn is_adopted(self) -> bool {
        self.0 & ADOPTED != 0
    }

    /// The partition whose owner holds this inode.
    pub fn partition(self) -> Partition {
        Partition((self.0 >> COUNTER_BITS) as u16)
    }

    /// The counter within the partition.
    pub fn counter(self) -> u64 {
        self.0 & COUNTER_MASK
    }
}

impl fmt::Debug for InodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "i{:x}.{}", self.partition().0, self.counter())
    }
}

impl fmt::Debug for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "p{:04x}", self.0)
    }
}

impl fmt::Debug for ServerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "server {}", self.0)
    }
}

impl fmt::Display for ServerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl fmt::Debug for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "c{:016x}", self.0)
    }
}

impl fmt::Debug for ChunkIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inode_number_carries_its_partition() {
        let id = InodeId::new(Partition(0xbeef), 77);
        assert_eq!((id.partition(), id.counter()), (Partition(0xbeef), 77));
        assert_eq!(InodeId::ROOT.partition(), Partition(0));
    }

    #[test]
    fn what_was_found_in_the_tier_is_known_by_its_number() {
        let born = InodeId::allocate(Partition(7), ServerId(4095), ADOPTED - 1).unwrap();
        assert!(!born.is_adopted() && born.adopted().is_adopted());
        assert_eq!(born.adopted().partition(), Partition(7));
        assert_eq!(InodeId::allocate(Partition(7), ServerId(0), ADOPTED), None);
    }
}
