//! What was published in the shared tier, counted for ever: the account at the end of a job must be right after any crash.
//!
//! The home of an inode counts, when it takes a copy over, in the batch that writes down which copy is the right one. So a copy counts
//! if and only if its home knows it, and a version of a file once: a copy made again because a crash came before the home knew, and one
//! that was thrown away, do not count twice, or at all. Who copies cannot count like that: between its rename in the tier and its record
//! lies a moment when a crash makes it copy again.
//!
//! # Invariants
//! - The counts in memory are those in the store (`counts_are_what_was_committed`).
//! - Two that count at once both count (`concurrent_counts_add_up`): the store has no increment, so reading, adding and committing are
//!   one critical section. It costs nothing: commits queue up in the store's journal anyway, and nobody takes another lock inside.
//! - Sums over servers are files and bytes of the tier, wherever servers are killed (`crates/cli/tests/drain.rs`,
//!   `account_is_exact_after_kills`).

use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::error::OpResult;
use crate::kv::{Batch, Kv};
use crate::namespace::{decode_record, encode_record, keys};

/// Name of the fact in the store: files, bytes.
const FACT: &str = "published";

/// Counts over all starts of a server.
pub struct Published {
    counts: Mutex<(u64, u64)>,
    /// When it was counted last, since the start.
    last: Mutex<Option<Instant>>,
}

impl Published {
    /// The counts so far.
    pub fn open(kv: &dyn Kv) -> OpResult<Self> {
        let counts = kv.get(&keys::fact(FACT))?.map(decode_record).transpose()?;
        Ok(Published { counts: Mutex::new(counts.unwrap_or_default()), last: Mutex::default() })
    }

    /// Whether something was published in the last `span` of time.
    pub fn is_recent(&self, span: Duration) -> bool {
        self.last.lock().is_some_and(|last| last.elapsed() < span)
    }

    /// Files and their bytes.
    pub fn counts(&self) -> (u64, u64) {
        *self.counts.lock()
    }

    /// Counts so many files of so many bytes together in the change that `commit` makes of `batch`.
    pub fn count(
        &self,
        (files, bytes): (u64, u64),
        mut batch: Batch,
        commit: impl FnOnce(Batch) -> OpResult<()>,
    ) -> OpResult<()> {
        let mut counts = self.counts.lock();
        let next = (counts.0 + files, counts.1 + bytes);
        batch.put(keys::fact(FACT), encode_record(&next));
        commit(batch)?;
        *counts = next;
        *self.last.lock() = Some(Instant::now());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::OpError;
    use crate::kv::{self, KvKind};
    use std::sync::Arc;

    fn open(dir: &tempfile::TempDir) -> Arc<dyn Kv> {
        kv::open(KvKind::Fjall, &dir.path().join("kv"), 8 << 20).unwrap()
    }

    #[test]
    fn counts_are_what_was_committed() {
        // Goal: a change that fails counts nothing, neither now nor after reopening.
        let dir = tempfile::tempdir().unwrap();
        let kv = open(&dir);
        let published = Published::open(kv.as_ref()).unwrap();
        published.count((1, 5), Batch::default(), |batch| Ok(kv.commit(batch)?)).unwrap();
        assert!(published.count((1, 7), Batch::default(), |_| Err(OpError::not_found())).is_err());
        published.count((1, 0), Batch::default(), |batch| Ok(kv.commit(batch)?)).unwrap();
        assert_eq!(published.counts(), (2, 5));
        drop(kv);
        assert_eq!(Published::open(open(&dir).as_ref()).unwrap().counts(), (2, 5));
    }

    #[test]
    fn concurrent_counts_add_up() {
        let dir = tempfile::tempdir().unwrap();
        let kv = open(&dir);
        let published = Published::open(kv.as_ref()).unwrap();
        std::thread::scope(|scope| {
            for thread in 0..4_u64 {
                let (kv, published) = (&kv, &published);
                let count =
                    move || published.count((1, thread), Batch::default(), |batch| Ok(kv.commit(batch)?));
                scope.spawn(move || (0..250).for_each(|_| count().unwrap()));
            }
        });
        drop(kv);
        assert_eq!(Published::open(open(&dir).as_ref()).unwrap().counts(), (1000, 250 * (1 + 2 + 3)));
    }
}
