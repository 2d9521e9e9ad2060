//! Where chunks of files in layout `writer` are: one record for each chunk, at the server that owns the chunk's partition (`namespace/keys.rs`,
//! 'b').
//!
//! # Invariants
//! - A pointer is set before the first byte of its chunk is written, by whoever asks first, and stays as it is until its file is removed: what a
//!   client remembers of it is never wrong, and no server has bytes of a chunk that the pointer does not know of
//!   (`the_first_claim_stays`; `tests/tests/layouts/`).
//! - A pointer that was told is as durable as `--durability` says (`ops/pointer.rs`).

use std::sync::atomic::{AtomicUsize, Ordering};

use fs_proto::{ChunkIndex, InodeId, ServerId};
use parking_lot::Mutex;

use crate::error::OpResult;
use crate::kv::{Batch, Kv};
use crate::namespace::{chunk_records, decode_record, encode_record, keys};

/// Records that are removed in one batch.
const REMOVED_AT_ONCE: usize = 4096;

/// Claims of one server, one at a time. Reading needs no lock.
#[derive(Default)]
pub struct Pointers {
    claims: Mutex<()>,
    /// Claims that were made and are not yet on the device.
    unsynced: AtomicUsize,
}

/// Says that a claim is on the way to the device, until it is dropped.
pub struct Unsynced<'a>(&'a AtomicUsize);

impl Drop for Unsynced<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Pointers {
    /// Who holds the chunk: `at`, unless it is somebody's already. Answers whether this claim made the pointer, too.
    pub fn claim(
        &self,
        kv: &dyn Kv,
        ino: InodeId,
        chunk: ChunkIndex,
        at: ServerId,
    ) -> OpResult<(ServerId, bool)> {
        let key = keys::pointer(ino, chunk);
        let _alone = self.claims.lock();
        if let Some(found) = kv.get(&key)? {
            return Ok((decode_record(found)?, false));
        }
        let mut batch = Batch::default();
        batch.put(key, encode_record(&at));
        kv.commit(batch)?;
        Ok((at, true))
    }

    /// Up to `limit` chunks from `from` on that are somebody's, ascending.
    pub fn find(
        &self,
        kv: &dyn Kv,
        ino: InodeId,
        from: ChunkIndex,
        limit: usize,
    ) -> OpResult<Vec<(ChunkIndex, ServerId)>> {
        chunk_records(kv, (&keys::pointer(ino, from), &keys::range_of(b'b', ino).1), limit)
    }

    /// Forgets all chunks of these files.
    pub fn remove(&self, kv: &dyn Kv, inos: &[InodeId]) -> OpResult<()> {
        for ino in inos {
            loop {
                let some = self.find(kv, *ino, ChunkIndex(0), REMOVED_AT_ONCE)?;
                if some.is_empty() {
                    break;
                }
                let mut batch = Batch::default();
                for (chunk, _) in &some {
                    batch.delete(keys::pointer(*ino, *chunk));
                }
                kv.commit(batch)?;
            }
        }
        Ok(())
    }

    /// To be held from before a claim until it is synced.
    pub fn begin(&self) -> Unsynced<'_> {
        self.unsynced.fetch_add(1, Ordering::AcqRel);
        Unsynced(&self.unsynced)
    }

    /// Whether what is told now may be lost with the power.
    pub fn is_unsynced(&self) -> bool {
        self.unsynced.load(Ordering::Acquire) > 0
    }
}

#[cfg(test)]
mod tests {
    //! Goal: what the module promises of one server's pointers. Method: claims by several threads at once, on a real store, reopened.
    use super::*;
    use crate::kv::{self, KvKind};
    use std::path::Path;
    use std::sync::Arc;

    const INO: InodeId = InodeId(7);

    fn open(dir: &Path) -> Arc<dyn Kv> {
        kv::open(KvKind::default(), dir, 8 << 20).expect("a store")
    }

    #[test]
    fn the_first_claim_stays() {
        let dir = tempfile::tempdir().expect("a directory");
        let kv = open(dir.path());
        let pointers = Pointers::default();
        let claim = |server| pointers.claim(&*kv, INO, ChunkIndex(3), ServerId(server)).expect("claim").0;
        let got: Vec<ServerId> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|server| scope.spawn(move || claim(server))).collect();
            threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
        });
        assert!(got.iter().all(|server| *server == got[0]), "{got:?}");
        drop(kv);
        let kv = open(dir.path());
        let again = Pointers::default().claim(&*kv, INO, ChunkIndex(3), ServerId(99)).expect("claim");
        assert_eq!(again, (got[0], false));
    }

    #[test]
    fn pages_are_of_one_file_and_go_with_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let kv = open(dir.path());
        let pointers = Pointers::default();
        for (ino, chunk) in [(6, 1), (7, 2), (7, 5), (7, 9), (8, 0)] {
            pointers.claim(&*kv, InodeId(ino), ChunkIndex(chunk), ServerId(chunk as u16)).expect("claim");
        }
        let chunks = |from, limit| {
            let found = pointers.find(&*kv, INO, ChunkIndex(from), limit).expect("find");
            found.into_iter().map(|(chunk, server)| (chunk.0, server.0)).collect::<Vec<_>>()
        };
        assert_eq!(chunks(0, 10), [(2, 2), (5, 5), (9, 9)]);
        assert_eq!(chunks(3, 1), [(5, 5)]);
        assert_eq!(chunks(10, 10), []);
        pointers.remove(&*kv, &[INO]).expect("remove");
        assert_eq!(chunks(0, 10), []);
        assert_eq!(
            pointers.find(&*kv, InodeId(8), ChunkIndex(0), 9).expect("find"),
            [(ChunkIndex(0), ServerId(0))]
        );
    }
}
