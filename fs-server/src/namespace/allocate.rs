//! Numbers that are handed out once: inode sequences and transaction numbers.
//!
//! A range is reserved in the store before any number of it is used, so that a crash skips numbers and repeats none.
//!
//! # Invariants
//! - A server whose store was lost, and made anew, does not give out the numbers again that it gave out before: other servers may still have chunks under
//!   these (`a_new_store_begins_somewhere_else`).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use fs_proto::{InodeId, Partition, ServerId, Status};
use parking_lot::Mutex;

use super::{decode_record, encode_record, keys};
use crate::error::{OpError, OpResult};
use crate::kv::{Batch, Kv};

const RESERVE: u64 = 1 << 16;
/// Sequence 1 of partition 0 at server 0 is the root directory.
const FIRST: u64 = 2;
/// A new store begins somewhere below: half of all numbers are left then, and with a hundred million used before, one new store in a hundred repeats some.
const BEGIN_BELOW: u64 = 1 << 34;
/// A new store counts its starts from somewhere below.
const STARTS_BELOW: u64 = 1 << 31;

/// Hands out numbers for one server.
pub struct Allocator {
    kv: Arc<dyn Kv>,
    me: ServerId,
    next: AtomicU64,
    reserved: Mutex<u64>,
    transactions: AtomicU64,
    restarted: bool,
}

impl Allocator {
    /// Opens the allocator; also counts this start of the server.
    pub fn open(kv: Arc<dyn Kv>, me: ServerId) -> OpResult<Self> {
        let fact = |name: &str| -> OpResult<Option<u64>> {
            kv.get(&keys::fact(name))?.map(decode_record).transpose()
        };
        let next = fact("sequence")?.unwrap_or_else(|| rand::random_range(FIRST..BEGIN_BELOW));
        let before = fact("starts")?;
        // The upper half of a transaction's number; one that a lost store coordinated may still be undecided elsewhere.
        let start = before.unwrap_or_else(|| rand::random_range(0..STARTS_BELOW)) + 1;
        let mut batch = Batch::default();
        batch.put(keys::fact("starts"), encode_record(&start));
        kv.commit(batch)?;
        Ok(Allocator {
            kv,
            me,
            next: AtomicU64::new(next),
            reserved: Mutex::new(next),
            transactions: AtomicU64::new(start << 32),
            restarted: before.is_some(),
        })
    }

    /// A number for a new inode in `partition`.
    pub fn inode(&self, partition: Partition) -> OpResult<InodeId> {
        let sequence = self.next.fetch_add(1, Ordering::Relaxed);
        let mut reserved = self.reserved.lock();
        if sequence >= *reserved {
            let upto = sequence + RESERVE;
            let mut batch = Batch::default();
            batch.put(keys::fact("sequence"), encode_record(&upto));
            self.kv.commit(batch)?;
            *reserved = upto;
        }
        drop(reserved);
        InodeId::allocate(partition, self.me, sequence)
            .ok_or(OpError::new(Status::NoSpace, "this server has used up its inode numbers"))
    }

    /// Whether the store was used by an earlier start of the server.
    pub fn is_restart(&self) -> bool {
        self.restarted
    }

    /// A number for a transaction: never used before by this server, also not before its last start.
    pub fn transaction(&self) -> u64 {
        self.transactions.fetch_add(1, Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    //! Goal: numbers are never given out twice. Method: real stores, one opened again, and new ones.
    use std::collections::BTreeSet;

    use super::*;
    use crate::kv::{self, KvKind};

    fn store(dir: &std::path::Path) -> Arc<dyn Kv> {
        kv::open(KvKind::default(), dir, 8 << 20).expect("a store")
    }

    #[test]
    fn a_new_store_begins_somewhere_else() {
        let (mut inodes, mut transactions) = (BTreeSet::new(), BTreeSet::new());
        for _ in 0..3 {
            let dir = tempfile::tempdir().expect("a directory");
            for restarted in [false, true] {
                let allocator = Allocator::open(store(dir.path()), ServerId(0)).expect("an allocator");
                assert_eq!(allocator.is_restart(), restarted);
                for _ in 0..100 {
                    assert!(inodes.insert(allocator.inode(Partition(0)).expect("a number")));
                    assert!(transactions.insert(allocator.transaction()));
                }
            }
        }
        assert!(!inodes.contains(&InodeId::ROOT));
    }
}
