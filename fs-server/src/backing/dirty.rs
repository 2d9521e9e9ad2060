//! Files that were written to here since they were last copied from here: their chunks are not dropped, whatever their home knows.
//!
//! # Invariants
//! - A file that is dirty is said to be so (`a_full_shard_takes_all_of_its_files_for_dirty`). One that is not may be said to be so, too: it stays in tier 1.
//! - What a copy cleans that was given up for lost and ends well after all is what it would have cleaned (`a_copy_that_was_in_doubt_cleans_nothing_written_since`).

use std::collections::{HashMap, HashSet};

use bytes::Bytes;
use fs_proto::InodeId;
use parking_lot::Mutex;

/// Writes of different files seldom meet at one lock.
const SHARDS: usize = 64;
/// Files of one shard that are known.
const SHARD_MAX: usize = 16 << 10;

#[derive(Default)]
struct Shard {
    inos: HashSet<InodeId>,
    /// Files of which no more is known than that the copy under this name, which was begun here, was not heard of again.
    doubtful: HashMap<InodeId, Bytes>,
    /// There were too many to know.
    blind: bool,
}

/// The set.
pub struct Dirty {
    shards: Vec<Mutex<Shard>>,
}

impl Default for Dirty {
    fn default() -> Self {
        Dirty { shards: (0..SHARDS).map(|_| Mutex::default()).collect() }
    }
}

impl Dirty {
    fn shard(&self, ino: InodeId) -> &Mutex<Shard> {
        &self.shards[ino.place(SHARDS)]
    }

    /// Chunks of the file are about to be written. The caller uses it (`claims`).
    pub fn note_write(&self, ino: InodeId) {
        let mut shard = self.shard(ino).lock();
        if shard.inos.len() < SHARD_MAX {
            shard.inos.insert(ino);
        } else if !shard.inos.contains(&ino) {
            shard.blind = true;
        }
    }

    /// Chunks of the file are about to be copied, as they are now, or are gone.
    pub fn note_copy(&self, ino: InodeId) {
        let mut shard = self.shard(ino).lock();
        shard.inos.remove(&ino);
        shard.doubtful.remove(&ino);
    }

    /// Nothing is heard of `copy`, before which [`Dirty::note_copy`] was called: what it had cleaned is dirty unless it ends well after all.
    pub fn doubt(&self, ino: InodeId, copy: &Bytes) {
        let mut shard = self.shard(ino).lock();
        if shard.doubtful.len() < SHARD_MAX {
            shard.doubtful.insert(ino, copy.clone());
        } else {
            shard.blind = true;
        }
    }

    /// `copy` ended well.
    pub fn settle(&self, ino: InodeId, copy: &Bytes) {
        let mut shard = self.shard(ino).lock();
        if shard.doubtful.get(&ino) == Some(copy) {
            shard.doubtful.remove(&ino);
        }
    }

    /// Whether the file may have been written to since.
    pub fn has(&self, ino: InodeId) -> bool {
        let shard = self.shard(ino).lock();
        shard.blind || shard.inos.contains(&ino) || shard.doubtful.contains_key(&ino)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_shard_takes_all_of_its_files_for_dirty() {
        // Goal: with more files than are known every file that was written to is dirty, those of other shards are not, and copying cleans.
        let dirty = Dirty::default();
        let is_here = |ino: &InodeId| std::ptr::eq(dirty.shard(*ino), dirty.shard(InodeId(0)));
        let (here, others): (Vec<_>, Vec<_>) = (0..2_000_000).map(InodeId).partition(is_here);
        let (known, last, elsewhere) = (&here[..SHARD_MAX], here[SHARD_MAX], others[0]);
        for ino in known.iter().chain(known) {
            dirty.note_write(*ino);
        }
        dirty.note_copy(here[3]);
        assert!(dirty.has(here[2]) && !dirty.has(here[3]) && !dirty.has(last));
        dirty.note_write(here[3]);
        dirty.note_write(last);
        assert!(dirty.has(last) && dirty.has(here[SHARD_MAX + 1]) && !dirty.has(elsewhere));
    }

    #[test]
    fn a_copy_that_was_in_doubt_cleans_nothing_written_since() {
        // Goal: a file in doubt is dirty; the end of the copy that is in doubt cleans it, and of no other; what was written meanwhile, or is of a later copy, stays as it is.
        const INO: InodeId = InodeId(7);
        let (dirty, [first, second]) =
            (Dirty::default(), [&b"f-1-aa-0"[..], b"f-2-bb-0"].map(Bytes::from_static));
        dirty.doubt(INO, &first);
        dirty.settle(INO, &second);
        assert!(dirty.has(INO) && !dirty.has(InodeId(8)));
        dirty.settle(INO, &first);
        assert!(!dirty.has(INO));
        dirty.doubt(INO, &first);
        dirty.note_write(INO);
        dirty.settle(INO, &first);
        assert!(dirty.has(INO));
        dirty.note_copy(INO);
        assert!(!dirty.has(INO));
        dirty.doubt(INO, &second);
        dirty.note_copy(INO);
        assert!(!dirty.has(INO));
        dirty.doubt(INO, &second);
        dirty.settle(INO, &first);
        assert!(dirty.has(INO));
    }
}
