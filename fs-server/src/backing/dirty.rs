//! Files that were written to here since they were last copied from here: their chunks are not dropped, whatever their home knows.
//!
//! # Invariants
//! - A file that is dirty is said to be so (`a_full_shard_takes_all_of_its_files_for_dirty`). One that is not may be said to be so, too: it stays in tier 1.

use std::collections::HashSet;

use fs_proto::InodeId;
use parking_lot::Mutex;

/// Writes of different files seldom meet at one lock.
const SHARDS: usize = 64;
/// Files of one shard that are known.
const SHARD_MAX: usize = 16 << 10;

#[derive(Default)]
struct Shard {
    inos: HashSet<InodeId>,
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
        self.shard(ino).lock().inos.remove(&ino);
    }

    /// Whether the file may have been written to since.
    pub fn has(&self, ino: InodeId) -> bool {
        let shard = self.shard(ino).lock();
        shard.blind || shard.inos.contains(&ino)
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
}
