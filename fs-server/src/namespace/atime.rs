//! When an inode was last read, by the rule of relatime: told anew if it was not read since it changed, or not for a day.
//!
//! # Invariants
//! - Reading writes nothing: the time lies with the cached inode, goes to the store (and to the shared tier) with the inode's next change,
//!   and is lost if that does not come before the cache forgets it or the server ends (`reading_writes_nothing`).

use std::sync::Arc;

use fs_proto::record::InodeRecord;
use fs_proto::{Attr, InodeId, TimeNs};

use super::Namespace;
use super::locks::{LockKey, LockSet, Mode};

const DAY: TimeNs = 86_400_000_000_000;

/// Whether a reading at `now` is told.
fn is_told(attr: &Attr, now: TimeNs) -> bool {
    attr.atime <= attr.mtime || attr.atime <= attr.ctime || now.saturating_sub(attr.atime) >= DAY
}

impl Namespace {
    /// `inode`, which lives here, is read at `now`. Answers the same state of it with the time of that, whatever became of it since it was taken
    /// (`what_was_read_stays_what_it_was`).
    pub fn note_reading(&self, inode: Arc<InodeRecord>, now: TimeNs) -> Arc<InodeRecord> {
        if !is_told(&inode.attr, now) {
            return inode;
        }
        let mut read = Arc::unwrap_or_clone(inode);
        let set = LockSet::of(&[(LockKey::Inode(read.attr.ino), Mode::Shared)]);
        read.attr.atime = self.locks.with_held(&set, || self.told(read.attr.ino, now)).unwrap_or(now);
        Arc::new(read)
    }

    /// Tells the reading to the inode as it is now, inside a lock section; answers when it was read last. None if it is not at hand.
    fn told(&self, ino: InodeId, now: TimeNs) -> Option<TimeNs> {
        let cached = self.inodes.get(&ino)?;
        if !is_told(&cached.attr, now) {
            return Some(cached.attr.atime);
        }
        let mut read = Arc::unwrap_or_clone(cached);
        read.attr.atime = now;
        self.inodes.insert(ino, Arc::new(read));
        Some(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::namespace::tests::fresh;
    use crate::namespace::{NewInode, new_inode};
    use fs_proto::record::Mutation;
    use fs_proto::{FileKind, Layout};

    fn record(ino: InodeId) -> InodeRecord {
        new_inode(NewInode {
            ino,
            kind: FileKind::File,
            mode: 0,
            uid: 0,
            gid: 0,
            parent: InodeId::ROOT,
            name: bytes::Bytes::new(),
            layout: Layout::default(),
            now: 100,
        })
    }

    #[test]
    fn the_first_reading_after_a_change_and_one_a_day_are_told() {
        let mut attr = record(InodeId(7)).attr;
        assert!(is_told(&attr, 200));
        attr.atime = 200;
        assert!(!is_told(&attr, 201) && is_told(&attr, 200 + DAY));
        attr.ctime = 300;
        assert!(is_told(&attr, 301));
    }

    /// Goal: content and attributes of one answer belong together. Method: the file is written between a reader's look and its telling.
    #[test]
    fn what_was_read_stays_what_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let (_, namespace) = fresh(&dir);
        let ino = InodeId(7);
        let put = |size, ctime| {
            let mut inode = record(ino);
            (inode.attr.size, inode.attr.ctime) = (size, ctime);
            namespace.commit(&[Mutation::PutInode { inode }]).unwrap();
            namespace.inode(ino).unwrap().unwrap()
        };
        let seen = put(1, 100);
        put(2, 300);
        let answered = namespace.note_reading(seen, 200);
        assert_eq!((answered.attr.size, answered.attr.atime), (1, 200));
        let told = |now| {
            let answered = namespace.note_reading(namespace.inode(ino).unwrap().unwrap(), now).attr.atime;
            let kept = namespace.inode(ino).unwrap().unwrap();
            assert_eq!(kept.attr.size, 2);
            (answered, kept.attr.atime)
        };
        assert_eq!(told(400), (400, 400));
        assert_eq!(told(500), (400, 400), "told once after a change");
    }
}
