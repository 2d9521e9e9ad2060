//! When an inode was last read, by the rule of relatime: told anew if it was not read since it changed, or not for a day.
//!
//! # Invariants
//! - Reading writes nothing: the time lies with the cached inode, goes to the store (and to the shared tier) with the inode's next change,
//!   and is lost if that does not come before the cache forgets it or the server ends (`reading_writes_nothing`).

use std::sync::Arc;

use fs_proto::record::InodeRecord;
use fs_proto::{Attr, TimeNs};

use super::Namespace;
use super::locks::{LockKey, LockSet, Mode};

const DAY: TimeNs = 86_400_000_000_000;

/// Whether a reading at `now` is told.
fn is_told(attr: &Attr, now: TimeNs) -> bool {
    attr.atime <= attr.mtime || attr.atime <= attr.ctime || now.saturating_sub(attr.atime) >= DAY
}

impl Namespace {
    /// `inode`, which lives here, is read at `now`; answers it as it is then.
    pub fn note_reading(&self, inode: Arc<InodeRecord>, now: TimeNs) -> Arc<InodeRecord> {
        if !is_told(&inode.attr, now) {
            return inode;
        }
        let ino = inode.attr.ino;
        let set = LockSet::of(&[(LockKey::Inode(ino), Mode::Shared)]);
        self.locks.with_held(&set, || {
            let Some(cached) = self.inodes.get(&ino) else { return inode };
            if !is_told(&cached.attr, now) {
                return cached;
            }
            let mut read = (*cached).clone();
            read.attr.atime = now;
            let read = Arc::new(read);
            self.inodes.insert(ino, Arc::clone(&read));
            read
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::namespace::{NewInode, new_inode};
    use fs_proto::{FileKind, InodeId, Layout};

    #[test]
    fn the_first_reading_after_a_change_and_one_a_day_are_told() {
        let new = NewInode {
            ino: InodeId(7),
            kind: FileKind::File,
            mode: 0,
            uid: 0,
            gid: 0,
            parent: InodeId::ROOT,
            name: bytes::Bytes::new(),
            layout: Layout::default(),
            now: 100,
        };
        let mut attr = new_inode(new).attr;
        assert!(is_told(&attr, 200));
        attr.atime = 200;
        assert!(!is_told(&attr, 201) && is_told(&attr, 200 + DAY));
        attr.ctime = 300;
        assert!(is_told(&attr, 301));
    }
}
