//! The one function that applies mutations, whatever they come from: local operations, transactions, recovery.
//!
//! # Invariants
//! - A batch is atomic: all its mutations are in the store, or none (the store's promise).
//! - Mutations of one batch see each other (two changes of one directory add up): `changes_of_one_inode_add_up`.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use fs_proto::msg::tier::TierSource;
use fs_proto::placement::name_hash;
use fs_proto::record::{EntryRecord, InodeRecord, Mutation, ShardRecord};
use fs_proto::{FileKind, InodeId, Status, TimeNs};

use super::inline::encoded;
use super::locks::{LockKey, LockSet, Mode};
use super::{Namespace, acl, encode_record, keys};
use crate::error::{OpError, OpResult};
use crate::flush::old;
use crate::kv::Batch;

/// The attribute that makes a program privileged: it goes when an inode is put that is not [`fs_proto::Attr::capable`] any more.
pub const CAPABILITY: &[u8] = b"security.capability";

/// The keys that a mutation changes, for locking.
pub fn lock_keys(mutation: &Mutation, set: &mut LockSet) {
    match mutation {
        Mutation::PutEntry { parent, name, .. } | Mutation::DelEntry { parent, name } => {
            set.add(LockKey::Entry(*parent, name_hash(*parent, name)), Mode::Exclusive);
        }
        // The whole directory is held while it widens.
        Mutation::AdoptEntry { .. } | Mutation::ReleaseEntry { .. } | Mutation::Remember { .. } => {}
        Mutation::TouchDir { dir, .. } => set.add(LockKey::Inode(*dir), Mode::Touch),
        Mutation::PutInode { inode } => set.add(LockKey::Inode(inode.attr.ino), Mode::Exclusive),
        Mutation::PutShard { shard } => set.add(LockKey::Inode(shard.dir), Mode::Exclusive),
        Mutation::AdjustInode { ino, .. }
        | Mutation::DelInode { ino }
        | Mutation::DelShard { dir: ino }
        | Mutation::SetWide { dir: ino }
        | Mutation::PutXattr { ino, .. }
        | Mutation::DelXattr { ino, .. }
        | Mutation::SetTier { ino, .. }
        | Mutation::SetBacked { ino, .. }
        | Mutation::CountEntries { dir: ino, .. }
        | Mutation::DelOrphan { ino }
        | Mutation::PutInline { ino, .. }
        | Mutation::DelInline { ino }
        | Mutation::SetShardAttr { dir: ino, .. } => set.add(LockKey::Inode(*ino), Mode::Exclusive),
    }
}

/// Changes that are being gathered into one batch.
struct Staging<'a> {
    namespace: &'a Namespace,
    batch: Batch,
    inodes: BTreeMap<InodeId, Option<InodeRecord>>,
    shards: BTreeMap<InodeId, Option<ShardRecord>>,
    orphans: Vec<InodeId>,
    born: i64,
    moving: u64,
}

impl Namespace {
    /// Applies `mutations` as one atomic change and gives the inodes as they are afterwards to the cache. The caller is inside a
    /// lock section over [`lock_keys`] of all of them.
    pub fn commit(&self, mutations: &[Mutation]) -> OpResult<()> {
        self.commit_with(mutations, Batch::default())
    }

    /// As [`Namespace::commit`], with further puts and deletes in the same atomic change.
    pub fn commit_with(&self, mutations: &[Mutation], batch: Batch) -> OpResult<()> {
        debug_assert!(self.may_change(mutations), "changed while it is lent: {mutations:?}");
        let mut staging = Staging {
            namespace: self,
            batch,
            inodes: BTreeMap::new(),
            shards: BTreeMap::new(),
            orphans: Vec::new(),
            born: 0,
            moving: 0,
        };
        for mutation in mutations {
            staging.apply(mutation)?;
        }
        staging.finish()
    }

    fn may_change(&self, mutations: &[Mutation]) -> bool {
        let mut set = LockSet::default();
        for mutation in mutations {
            lock_keys(mutation, &mut set);
        }
        self.locks.may_change(&set)
    }
}

impl Staging<'_> {
    fn apply(&mut self, mutation: &Mutation) -> OpResult<()> {
        match mutation {
            Mutation::PutEntry { parent, name, entry } => self.put_entry(*parent, name, entry),
            Mutation::DelEntry { parent, name } => self.delete_entry(*parent, name),
            Mutation::AdoptEntry { parent, name, entry } => {
                self.batch.put(keys::entry(*parent, name), encode_record(entry));
            }
            Mutation::ReleaseEntry { parent, name } => {
                self.batch.delete(keys::entry(*parent, name));
                // What is known of the name in the shared tier goes to its new owner, too.
                self.namespace.queue.note_name(&mut self.batch, *parent, name, None);
            }
            Mutation::PutInode { inode } => self.put_inode(inode)?,
            Mutation::AdjustInode { ino, nlink_delta, ctime, linked, unlinked } => {
                self.adjust(*ino, *nlink_delta, *ctime, linked.as_ref(), unlinked.as_ref())?;
            }
            Mutation::TouchDir { dir, time, entries_delta, subdirs_delta } => {
                self.touch(*dir, *time, *entries_delta, *subdirs_delta)?;
            }
            Mutation::DelInode { ino } => self.delete_inode(*ino)?,
            Mutation::PutShard { shard } => {
                self.shards.insert(shard.dir, Some(shard.clone()));
            }
            Mutation::DelShard { dir } => {
                self.shards.insert(*dir, None);
                for name in [acl::ACCESS, acl::DEFAULT] {
                    self.batch.delete(keys::xattr(*dir, name));
                }
            }
            Mutation::SetWide { dir } => self.inode_mut(*dir)?.attr.wide = true,
            Mutation::PutXattr { ino, name, value } => {
                self.batch.put(keys::xattr(*ino, name), encode_record(value));
                self.note_if_here(*ino)?;
            }
            Mutation::DelXattr { ino, name } => {
                self.batch.delete(keys::xattr(*ino, name));
                self.note_if_here(*ino)?;
            }
            Mutation::SetTier { ino, tier } => self.inode_mut(*ino)?.tier.clone_from(tier),
            Mutation::SetBacked { ino, backed } => self.inode_mut(*ino)?.backed = *backed,
            Mutation::CountEntries { dir, entries, subdirs } => {
                let attr = &mut self.inode_mut(*dir)?.attr;
                (attr.size, attr.nlink) = (*entries, 2 + subdirs);
            }
            Mutation::Remember { client, lane, result } => {
                self.batch.put(keys::remembered(*client, *lane), encode_record(result));
            }
            Mutation::DelOrphan { ino } => self.batch.delete(keys::orphan(*ino)),
            Mutation::SetShardAttr { dir, mode, uid, gid, layout } => {
                let shard = self.shard_mut(*dir)?;
                (shard.mode, shard.uid, shard.gid, shard.layout) = (*mode, *uid, *gid, *layout);
            }
            Mutation::PutInline { ino, content } => {
                self.batch.put(keys::inline(*ino), encoded(content));
            }
            Mutation::DelInline { ino } => self.batch.delete(keys::inline(*ino)),
        }
        Ok(())
    }

    fn inode_mut(&mut self, ino: InodeId) -> OpResult<&mut InodeRecord> {
        if !self.inodes.contains_key(&ino) {
            let stored = self.namespace.inode_in_section(ino)?.map(|inode| (*inode).clone());
            self.inodes.insert(ino, stored);
        }
        self.inodes.get_mut(&ino).and_then(Option::as_mut).ok_or(OpError::not_found())
    }

    fn shard_mut(&mut self, dir: InodeId) -> OpResult<&mut ShardRecord> {
        if !self.shards.contains_key(&dir) {
            let stored = self.namespace.shard(dir)?;
            self.shards.insert(dir, stored);
        }
        self.shards.get_mut(&dir).and_then(Option::as_mut).ok_or(OpError::not_found())
    }

    fn put_entry(&mut self, parent: InodeId, name: &Bytes, entry: &EntryRecord) {
        self.batch.put(keys::entry(parent, name), encode_record(entry));
        if entry.kind == FileKind::Directory {
            self.namespace.queue.note_directory(&mut self.batch, parent, name);
        } else {
            self.namespace.queue.note_name(&mut self.batch, parent, name, Some(entry.ino));
        }
    }

    fn delete_entry(&mut self, parent: InodeId, name: &Bytes) {
        self.batch.delete(keys::entry(parent, name));
        self.namespace.queue.note_name(&mut self.batch, parent, name, None);
    }

    fn put_inode(&mut self, inode: &InodeRecord) -> OpResult<()> {
        let ino = inode.attr.ino;
        let before =
            if self.inodes.contains_key(&ino) { None } else { self.namespace.inode_in_section(ino)? };
        let fresh = before.is_none() && !self.inodes.contains_key(&ino);
        if before.is_some_and(|before| before.attr.capable) && !inode.attr.capable {
            self.batch.delete(keys::xattr(ino, CAPABILITY));
        }
        self.inodes.insert(ino, Some(inode.clone()));
        if old::is_to_move(inode) {
            self.batch.put(keys::moving(ino), encode_record(&None::<TierSource>));
            self.moving += 1;
        }
        if !fresh {
            return self.note_inode(ino);
        }
        // A new inode is flushed because of its new name.
        self.born += 1;
        if inode.attr.nlink == 0 {
            self.note_orphan(ino);
        }
        Ok(())
    }

    fn note_orphan(&mut self, ino: InodeId) {
        self.orphans.push(ino);
        self.batch.put(keys::orphan(ino), encode_record(&()));
    }

    /// Queues an inode whose content or attributes changed: under its name when that is here for certain, else by number.
    fn note_inode(&mut self, ino: InodeId) -> OpResult<()> {
        if !self.namespace.queue.is_enabled() {
            return Ok(());
        }
        let (parent, name, plain) = {
            let inode = self.inode_mut(ino)?;
            let attr = &inode.attr;
            (attr.parent, inode.name.clone(), attr.kind != FileKind::Directory && attr.nlink == 1)
        };
        let born_here = plain && parent.partition() == ino.partition() && self.is_narrow_here(parent)?;
        if born_here {
            self.namespace.queue.note_name(&mut self.batch, parent, &name, Some(ino));
        } else {
            self.namespace.queue.note_inode(&mut self.batch, ino);
        }
        Ok(())
    }

    /// As [`Self::note_inode`], of an inode that may live elsewhere: a wide directory, of which a part and its lists are here.
    fn note_if_here(&mut self, ino: InodeId) -> OpResult<()> {
        match self.inode_mut(ino) {
            Ok(_) => self.note_inode(ino),
            Err(error) if error.status == Status::NotFound => {
                self.inodes.remove(&ino);
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    fn is_narrow_here(&self, dir: InodeId) -> OpResult<bool> {
        Ok(self.namespace.inode_in_section(dir)?.is_some_and(|inode| inode.attr.is_dir() && !inode.attr.wide))
    }

    fn adjust(
        &mut self,
        ino: InodeId,
        delta: i32,
        ctime: TimeNs,
        linked: Option<&(InodeId, Bytes)>,
        unlinked: Option<&(InodeId, Bytes)>,
    ) -> OpResult<()> {
        let vacant = match unlinked {
            Some(name) => self.drop_name(ino, name, linked.is_some())?,
            None => false,
        };
        if let Some((parent, name)) = linked {
            self.add_name(ino, *parent, name, vacant)?;
        }
        let inode = self.inode_mut(ino)?;
        let attr = &mut inode.attr;
        attr.ctime = ctime;
        let before = attr.nlink;
        attr.nlink =
            before.checked_add_signed(delta).ok_or(OpError::new(Status::Corrupt, "link count underflow"))?;
        let (after, is_copied) = (attr.nlink, inode.tier.is_some());
        match (before, after) {
            (_, 0) => self.note_orphan(ino),
            (0, _) => self.batch.delete(keys::orphan(ino)),
            _ => {}
        }
        // A name more or less changes the time of the copy under the others. One that moved is published anew itself.
        let moves = linked.is_some() && unlinked.is_some();
        if after > 0 && !moves && is_copied {
            self.note_inode(ino)?;
        }
        Ok(())
    }

    /// Takes `gone` off the names of `ino`. True if it was the primary one and `replaced`: the name that comes in the same change
    /// has to take its place.
    fn drop_name(&mut self, ino: InodeId, gone: &(InodeId, Bytes), replaced: bool) -> OpResult<bool> {
        let inode = self.inode_mut(ino)?;
        let primary = inode.attr.parent == gone.0 && inode.name == gone.1;
        if !primary {
            self.batch.delete(keys::link(ino, gone.0, &gone.1));
            return Ok(false);
        }
        if replaced || inode.attr.nlink <= 1 || inode.attr.is_dir() {
            return Ok(replaced);
        }
        let mut next = None;
        let (from, to) = keys::range_of(b'l', ino);
        self.namespace.kv.scan(&from, &to, &mut |key, _| {
            next = keys::split_link(key).map(|(dir, name)| (dir, Bytes::copy_from_slice(name)));
            ControlFlow::Break(())
        })?;
        if let Some((parent, name)) = next {
            self.batch.delete(keys::link(ino, parent, &name));
            let inode = self.inode_mut(ino)?;
            (inode.attr.parent, inode.name) = (parent, name);
        }
        Ok(false)
    }

    /// Adds a name; as the primary one if that place is `vacant`.
    fn add_name(&mut self, ino: InodeId, parent: InodeId, name: &Bytes, vacant: bool) -> OpResult<()> {
        let inode = self.inode_mut(ino)?;
        let take_over = inode.attr.is_dir() || inode.attr.nlink == 0 || vacant;
        if take_over {
            (inode.attr.parent, inode.name) = (parent, name.clone());
        } else {
            self.batch.put(keys::link(ino, parent, name), encode_record(&()));
        }
        Ok(())
    }

    fn touch(&mut self, dir: InodeId, time: TimeNs, entries: i64, subdirs: i32) -> OpResult<()> {
        let home = self.namespace.inode_in_section(dir)?.is_some_and(|inode| !inode.attr.wide);
        if home {
            let attr = &mut self.inode_mut(dir)?.attr;
            attr.mtime = attr.mtime.max(time);
            attr.ctime = attr.ctime.max(time);
            attr.size = attr.size.saturating_add_signed(entries);
            attr.nlink = attr.nlink.saturating_add_signed(subdirs);
            self.namespace.queue.note_inode(&mut self.batch, dir);
        } else {
            let shard = self.shard_mut(dir)?;
            shard.mtime = shard.mtime.max(time);
            shard.entries = shard.entries.saturating_add_signed(entries);
            shard.subdirs = shard.subdirs.saturating_add_signed(subdirs);
        }
        Ok(())
    }

    fn delete_inode(&mut self, ino: InodeId) -> OpResult<()> {
        for kind in [b'x', b'l'] {
            let (from, to) = keys::range_of(kind, ino);
            let batch = &mut self.batch;
            self.namespace.kv.scan(&from, &to, &mut |key, _| {
                batch.delete(key);
                ControlFlow::Continue(())
            })?;
        }
        if self.inode_mut(ino).is_ok_and(|inode| inode.attr.inline) {
            self.batch.delete(keys::inline(ino));
            self.batch.delete(keys::spill(ino));
        }
        // The shared tier's copy of a directory is removed after those of its entries: until then its place is known.
        let ghost =
            self.inode_mut(ino).ok().filter(|inode| inode.attr.is_dir()).and_then(|inode| inode.tier.clone());
        if let Some(tier) = ghost {
            self.batch.put(keys::tier_ghost(ino), encode_record(&tier));
        }
        if ino.is_adopted() {
            self.batch.delete(keys::moving(ino));
        }
        self.inodes.insert(ino, None);
        self.born -= 1;
        Ok(())
    }

    fn finish(mut self) -> OpResult<()> {
        for (ino, inode) in &self.inodes {
            match inode {
                Some(inode) => self.batch.put(keys::inode(*ino), encode_record(inode)),
                None => self.batch.delete(keys::inode(*ino)),
            }
        }
        for (dir, shard) in &self.shards {
            match shard {
                Some(shard) => self.batch.put(keys::shard(*dir), encode_record(shard)),
                None => self.batch.delete(keys::shard(*dir)),
            }
        }
        self.namespace.kv.commit(self.batch)?;
        self.namespace.moving.fetch_add(self.moving, Ordering::AcqRel);
        self.namespace.adjust_inode_count(self.born);
        for (ino, inode) in self.inodes {
            match inode {
                Some(inode) => self.namespace.inodes.insert(ino, Arc::new(inode)),
                None => drop(self.namespace.inodes.remove(&ino)),
            }
        }
        // Last: who opens one until here reads that it has a name, and is seen by the reaper.
        self.namespace.note_orphans(self.orphans);
        Ok(())
    }
}
