//! The namespace of one server: its directory entries, inodes and extended attributes, in the key-value store.
//!
//! # Invariants
//! - Every change goes through [`Namespace::commit`], as one atomic batch of mutations (`apply.rs`), by somebody who holds the
//!   stripes of the keys it touches.
//! - The inode cache never holds what the store does not, but for times of reading (`atime.rs`): it is filled and changed under the inode's stripe only
//!   (`cache_is_never_older_than_the_store`).
//! - An inode number is handed out once, also across restarts (`numbers_are_not_reused_after_reopen`).
//!
//! Deliberately absent: messages and other servers (`ops/`, `transaction/`), and paths: names are (directory, name).

pub mod access;
pub mod acl;
pub mod allocate;
pub mod apply;
pub mod atime;
pub mod inline;
pub mod keys;
pub mod loans;
pub mod locks;
pub mod permission;

use std::collections::{HashMap, VecDeque};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use bytes::{BufMut, Bytes, BytesMut};
use fs_net::Budget;
use fs_proto::placement::name_hash;
use fs_proto::record::{
    Backing, EntryRecord, InodeRecord, RECORD_VERSION, RequestResult, SHARD_ACL, ShardRecord,
};
use fs_proto::{Attr, ChunkIndex, ClientId, FileKind, InodeId, Layout, ServerId, Status, TimeNs, Wire};

use parking_lot::Mutex;

use self::allocate::Allocator;
use self::locks::{LockKey, LockSet, LockTable, Mode};
use crate::error::{OpError, OpResult};
use crate::flush::published::Published;
use crate::flush::queue::FlushQueue;
use crate::hash::{Cache, cache};
use crate::kv::{Batch, Kv};

/// An entry of a listing: cookie, name, what it stands for.
pub type Listed = (u64, Bytes, EntryRecord);

/// Most directories between the root and any other (a path has at most 4,096 bytes, two a level).
pub const DEPTH_MAX: usize = 4_096;
/// Bytes that one cached inode is taken to cost.
const CACHED_INODE_BYTES: u64 = 512;

/// One server's part of the namespace.
pub struct Namespace {
    kv: Arc<dyn Kv>,
    locks: Arc<LockTable>,
    inodes: Cache<InodeId, Arc<InodeRecord>>,
    allocator: Allocator,
    queue: Arc<FlushQueue>,
    published: Published,
    orphans: Mutex<VecDeque<InodeId>>,
    inode_count: AtomicI64,
    /// Rows of things that move from an old tier, made since the start.
    moving: AtomicU64,
}

/// Names and values of inodes' extended attributes.
pub type XattrsOf = HashMap<InodeId, Vec<(Bytes, Bytes)>>;

/// What a server knows of a directory whose entries it holds.
#[derive(Debug, Clone)]
pub enum DirView {
    /// All entries are here, with the inode.
    Narrow(Arc<InodeRecord>),
    /// A part of the entries is here.
    Wide(ShardRecord),
}

impl DirView {
    /// The directory.
    pub fn ino(&self) -> InodeId {
        match self {
            DirView::Narrow(inode) => inode.attr.ino,
            DirView::Wide(shard) => shard.dir,
        }
    }

    /// Permission bits, owner and group.
    pub fn owner(&self) -> (u32, u32, u32) {
        match self {
            DirView::Narrow(inode) => (inode.attr.mode, inode.attr.uid, inode.attr.gid),
            DirView::Wide(shard) => (shard.mode & 0o7777, shard.uid, shard.gid),
        }
    }

    /// Whether it has access control lists.
    pub fn has_acl(&self) -> bool {
        match self {
            DirView::Narrow(inode) => inode.attr.acl,
            DirView::Wide(shard) => shard.mode & SHARD_ACL != 0,
        }
    }

    /// Layout that new files inherit.
    pub fn layout(&self) -> Layout {
        match self {
            DirView::Narrow(inode) => inode.attr.layout,
            DirView::Wide(shard) => shard.layout,
        }
    }

    /// Entries on this server.
    pub fn entries(&self) -> u64 {
        match self {
            DirView::Narrow(inode) => inode.attr.size,
            DirView::Wide(shard) => shard.entries,
        }
    }
}

/// Encodes a record for the store.
pub fn encode_record(record: &impl Wire) -> Bytes {
    let mut out = BytesMut::with_capacity(160);
    out.put_u8(RECORD_VERSION);
    record.put(&mut out);
    out.freeze()
}

/// Whether there is any record of a kind.
pub fn has_any(kv: &dyn Kv, kind: u8) -> bool {
    let mut any = false;
    let (from, to) = keys::range_of_kind(kind);
    let looked = kv.scan(&from, &to, &mut |_, _| {
        any = true;
        ControlFlow::Break(())
    });
    // A store that cannot be read is found out by whoever needs a record.
    any || looked.is_err()
}

/// Up to `limit` records of a file's chunks within a range of keys, ascending.
pub fn chunk_records<T: Wire>(
    kv: &dyn Kv,
    (from, to): (&[u8], &[u8]),
    limit: usize,
) -> OpResult<Vec<(ChunkIndex, T)>> {
    let (mut found, mut failure) = (Vec::new(), None);
    kv.scan(from, to, &mut |key, value| {
        match (keys::split_chunk(key), decode_record(Bytes::copy_from_slice(value))) {
            (Some(chunk), Ok(record)) => found.push((chunk, record)),
            (_, Err(error)) => failure = Some(error),
            (None, _) => {}
        }
        let goes_on = found.len() < limit && failure.is_none();
        if goes_on { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    failure.map_or(Ok(found), Err)
}

/// Decodes a record from the store.
pub fn decode_record<T: Wire>(mut stored: Bytes) -> OpResult<T> {
    let damaged = |what: String| OpError::because(Status::Corrupt, what);
    if stored.first() != Some(&RECORD_VERSION) {
        return Err(damaged(format!(
            "record of unknown version {:?} in the namespace store",
            stored.first()
        )));
    }
    let body = stored.split_off(1);
    T::from_bytes(body).map_err(|error| damaged(format!("damaged record in the namespace store: {error}")))
}

impl Namespace {
    /// Bytes that cached inodes are taken to cost.
    pub fn cached_inode_bytes(&self) -> u64 {
        self.inodes.len() as u64 * CACHED_INODE_BYTES
    }

    /// Opens the namespace of server `me` in `kv`; `cache_bytes` bounds the inode cache. What is lent of it is counted in `hot_files`.
    pub fn open(
        kv: Arc<dyn Kv>,
        me: ServerId,
        cache_bytes: u64,
        hot_files: &Budget,
        queue: Arc<FlushQueue>,
    ) -> OpResult<Self> {
        Ok(Namespace {
            allocator: Allocator::open(Arc::clone(&kv), me)?,
            published: Published::open(kv.as_ref())?,
            locks: Arc::new(LockTable::new(hot_files)),
            inodes: cache((cache_bytes / CACHED_INODE_BYTES).max(64) as usize),
            kv,
            queue,
            orphans: Mutex::default(),
            inode_count: AtomicI64::new(0),
            moving: AtomicU64::new(0),
        })
    }

    /// The locks of this namespace.
    pub fn locks(&self) -> &Arc<LockTable> {
        &self.locks
    }

    /// The store below.
    pub fn kv(&self) -> &Arc<dyn Kv> {
        &self.kv
    }

    /// Allocator of inode numbers and transaction numbers.
    pub fn allocator(&self) -> &Allocator {
        &self.allocator
    }

    /// Inodes that lost their last name; the reaper takes them.
    pub fn note_orphans(&self, orphans: impl IntoIterator<Item = InodeId>) {
        self.orphans.lock().extend(orphans);
    }

    /// Up to `limit` of the noted orphans, the oldest first.
    pub fn take_orphans(&self, limit: usize) -> Vec<InodeId> {
        let mut orphans = self.orphans.lock();
        let count = orphans.len().min(limit);
        orphans.drain(..count).collect()
    }

    /// Inodes that live here. Right once [`Namespace::count_inodes`] has run.
    pub fn inode_count(&self) -> u64 {
        self.inode_count.load(Ordering::Relaxed).max(0) as u64
    }

    /// How often something was written down that moves from an old tier, since the start.
    pub fn moving_noted(&self) -> u64 {
        self.moving.load(Ordering::Acquire)
    }

    pub(crate) fn adjust_inode_count(&self, delta: i64) {
        self.inode_count.fetch_add(delta, Ordering::Relaxed);
    }

    /// Counts the inodes that are in the store; called once, before the first request.
    pub fn count_inodes(&self) -> OpResult<()> {
        let mut count = 0;
        let (from, to) = keys::range_of_kind(b'i');
        self.kv.scan(&from, &to, &mut |_, _| {
            count += 1;
            ControlFlow::Continue(())
        })?;
        self.adjust_inode_count(count);
        Ok(())
    }

    /// What waits for flushing.
    pub fn queue(&self) -> &Arc<FlushQueue> {
        &self.queue
    }

    /// What was published in the shared tier.
    pub fn published(&self) -> &Published {
        &self.published
    }

    pub(crate) fn record<T: Wire>(&self, key: &[u8]) -> OpResult<Option<T>> {
        self.kv.get(key)?.map(decode_record).transpose()
    }

    /// An inode, for readers that hold no lock.
    pub fn inode(&self, ino: InodeId) -> OpResult<Option<Arc<InodeRecord>>> {
        if let Some(inode) = self.inodes.get(&ino) {
            return Ok(Some(inode));
        }
        let set = LockSet::of(&[(LockKey::Inode(ino), Mode::Shared)]);
        self.locks.with_held(&set, || {
            let inode = self.inode_in_section(ino)?;
            if let Some(inode) = &inode {
                self.inodes.insert(ino, Arc::clone(inode));
            }
            Ok(inode)
        })
    }

    /// An inode, for code inside a lock section.
    pub fn inode_in_section(&self, ino: InodeId) -> OpResult<Option<Arc<InodeRecord>>> {
        match self.inodes.get(&ino) {
            Some(inode) => Ok(Some(inode)),
            None => Ok(self.record(&keys::inode(ino))?.map(Arc::new)),
        }
    }

    /// Attributes of an inode that must be there, for readers: waits for a transaction that is about to change it.
    pub async fn live_inode(&self, ino: InodeId) -> OpResult<Arc<InodeRecord>> {
        self.locks.settled(LockKey::Inode(ino)).await;
        self.inode(ino)?.ok_or(OpError::not_found())
    }

    /// What a name stands for, for readers: waits for a transaction that is about to change it.
    pub async fn settled_entry(&self, parent: InodeId, name: &[u8]) -> OpResult<Option<EntryRecord>> {
        self.locks.readable(LockKey::Entry(parent, name_hash(parent, name))).await;
        self.entry(parent, name)
    }

    /// What a name stands for.
    pub fn entry(&self, parent: InodeId, name: &[u8]) -> OpResult<Option<EntryRecord>> {
        self.record(&keys::entry(parent, name))
    }

    /// This server's part of a wide directory.
    pub fn shard(&self, dir: InodeId) -> OpResult<Option<ShardRecord>> {
        self.record(&keys::shard(dir))
    }

    /// What is known here of a directory; `home` tells whether its inode lives here. Not found when it is gone; [`OpError::unlisted`] when its names
    /// are in the shared tier only.
    pub fn directory(&self, dir: InodeId, home: bool) -> OpResult<DirView> {
        if home {
            let inode = self.inode_in_section(dir)?.ok_or(OpError::not_found())?;
            if !inode.attr.is_dir() {
                return Err(OpError::new(Status::NotDirectory, "not a directory"));
            }
            if inode.backed.is_some() {
                return Err(OpError::unlisted(dir));
            }
            if !inode.attr.wide {
                return Ok(DirView::Narrow(inode));
            }
        }
        self.shard(dir)?.map(DirView::Wide).ok_or(OpError::not_found())
    }

    /// Entries of `dir` with a cookie above `after`: at least `limit` unless there are fewer, more when cookies are equal.
    pub fn page(&self, dir: InodeId, after: u64, limit: usize) -> OpResult<(Vec<Listed>, bool)> {
        let mut entries: Vec<Listed> = Vec::with_capacity(limit.min(4096));
        let mut end = true;
        let mut failure = None;
        self.kv.scan(&keys::entries_after(dir, after), &keys::entries_end(dir), &mut |key, value| {
            let Some((_, cookie, name)) = keys::split_entry(key) else { return ControlFlow::Continue(()) };
            if entries.len() >= limit && entries.last().is_some_and(|(last, ..)| *last != cookie) {
                end = false;
                return ControlFlow::Break(());
            }
            match decode_record(Bytes::copy_from_slice(value)) {
                Ok(entry) => entries.push((cookie, Bytes::copy_from_slice(name), entry)),
                Err(error) => failure = Some(error),
            }
            if failure.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        failure.map_or(Ok((entries, end)), Err)
    }

    /// Whether `dir` has an entry on this server.
    pub fn has_entries(&self, dir: InodeId) -> OpResult<bool> {
        Ok(!self.page(dir, 0, 1)?.0.is_empty())
    }

    /// Value of an extended attribute.
    pub fn xattr(&self, ino: InodeId, name: &[u8]) -> OpResult<Option<Bytes>> {
        self.record(&keys::xattr(ino, name))
    }

    /// All extended attributes of an inode.
    pub fn xattrs(&self, ino: InodeId) -> OpResult<Vec<(Bytes, Bytes)>> {
        let mut found = Vec::new();
        self.scan_xattrs((ino, ino), &mut |_, xattr| {
            found.push(xattr);
            ControlFlow::Continue(())
        })?;
        Ok(found)
    }

    /// Those of all inodes from `first` to `last`; None if they are `limit` or more.
    pub fn xattrs_between(&self, range: (InodeId, InodeId), limit: usize) -> OpResult<Option<XattrsOf>> {
        let (mut found, mut left) = (XattrsOf::new(), limit);
        self.scan_xattrs(range, &mut |ino, xattr| {
            left = left.saturating_sub(1);
            found.entry(ino).or_default().push(xattr);
            if left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        Ok((left > 0).then_some(found))
    }

    fn scan_xattrs(
        &self,
        (first, last): (InodeId, InodeId),
        visit: &mut dyn FnMut(InodeId, (Bytes, Bytes)) -> ControlFlow<()>,
    ) -> OpResult<()> {
        let mut failure = None;
        let ((from, _), (_, to)) = (keys::range_of(b'x', first), keys::range_of(b'x', last));
        self.kv.scan(&from, &to, &mut |key, value| {
            let Some(ino) = keys::split_inode(key) else { return ControlFlow::Continue(()) };
            match decode_record(Bytes::copy_from_slice(value)) {
                Ok(value) => visit(ino, (Bytes::copy_from_slice(&key[9..]), value)),
                Err(error) => {
                    failure = Some(error);
                    ControlFlow::Break(())
                }
            }
        })?;
        failure.map_or(Ok(()), Err)
    }

    /// All names of an inode: its primary one and the further ones.
    pub fn names_of(&self, inode: &InodeRecord) -> OpResult<Vec<(InodeId, Bytes)>> {
        let mut names = vec![(inode.attr.parent, inode.name.clone())];
        if inode.attr.nlink > 1 && !inode.attr.is_dir() {
            let (from, to) = keys::range_of(b'l', inode.attr.ino);
            self.kv.scan(&from, &to, &mut |key, _| {
                names.extend(keys::split_link(key).map(|(dir, name)| (dir, Bytes::copy_from_slice(name))));
                ControlFlow::Continue(())
            })?;
        }
        Ok(names)
    }

    /// How the last mutation of a client's lane ended.
    pub fn remembered(&self, client: ClientId, lane: u16) -> OpResult<Option<RequestResult>> {
        self.record(&keys::remembered(client, lane))
    }

    /// All keys of a kind, copied: for recovery and housekeeping, at most `limit`.
    pub fn keys_of_kind(&self, kind: u8, limit: usize) -> OpResult<Vec<Vec<u8>>> {
        let (from, to) = keys::range_of_kind(kind);
        let mut found = Vec::new();
        self.kv.scan(&from, &to, &mut |key, _| {
            found.push(key.to_vec());
            if found.len() < limit { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        Ok(found)
    }

    /// Makes the root directory if this server is its home and it is not there; `in_tier`: its names may be in the shared tier.
    pub fn ensure_root(&self, uid: u32, gid: u32, now: TimeNs, in_tier: bool) -> OpResult<()> {
        if self.inode(InodeId::ROOT)?.is_some() {
            return Ok(());
        }
        let mut root = new_inode(NewInode {
            ino: InodeId::ROOT,
            kind: FileKind::Directory,
            mode: 0o755,
            uid,
            gid,
            parent: InodeId::ROOT,
            name: Bytes::new(),
            layout: Layout::default(),
            now,
        });
        root.backed = in_tier.then(Backing::default);
        let mut batch = Batch::default();
        batch.put(keys::inode(InodeId::ROOT), encode_record(&root));
        self.kv.commit(batch)?;
        self.adjust_inode_count(1);
        Ok(())
    }
}

/// What a new inode is made from.
pub struct NewInode {
    /// Its number.
    pub ino: InodeId,
    /// What it is.
    pub kind: FileKind,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Directory of its first name.
    pub parent: InodeId,
    /// Its first name.
    pub name: Bytes,
    /// Layout.
    pub layout: Layout,
    /// Now.
    pub now: TimeNs,
}

/// A new inode, without link target and device number.
pub fn new_inode(new: NewInode) -> InodeRecord {
    let attr = Attr {
        ino: new.ino,
        kind: new.kind,
        mode: new.mode & 0o7777,
        uid: new.uid,
        gid: new.gid,
        nlink: if new.kind == FileKind::Directory { 2 } else { 1 },
        atime: new.now,
        mtime: new.now,
        ctime: new.now,
        btime: new.now,
        layout: new.layout,
        version: 1,
        parent: new.parent,
        ..Attr::unknown(new.ino, new.kind)
    };
    InodeRecord { attr, name: new.name, target: Bytes::new(), tier: None, cut_version: 0, backed: None }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::kv::{self, KvKind};
    use std::time::Duration;

    /// An empty namespace in `dir`.
    pub fn fresh(dir: &tempfile::TempDir) -> (Arc<dyn Kv>, Namespace) {
        let kv = kv::open(KvKind::Fjall, &dir.path().join("kv"), 8 << 20).unwrap();
        let queue = Arc::new(FlushQueue::open(Arc::clone(&kv), false, Duration::ZERO).unwrap());
        let pool = Budget::new(1 << 20);
        let namespace = Namespace::open(Arc::clone(&kv), ServerId(0), 1 << 20, &pool, queue).unwrap();
        (kv, namespace)
    }

    #[test]
    fn attributes_of_neighbours_are_those_of_each() {
        // Goal: read together, inodes have the attributes that each of them has, and nothing of inodes beyond; too many are told.
        let dir = tempfile::tempdir().unwrap();
        let (kv, namespace) = fresh(&dir);
        let mut batch = Batch::default();
        for (ino, name) in [(4, "user.a"), (5, "user.a"), (5, "user.b"), (8, "user.a"), (9, "user.c")] {
            let value = Bytes::copy_from_slice(format!("{ino}{name}").as_bytes());
            batch.put(keys::xattr(InodeId(ino), name.as_bytes()), encode_record(&value));
        }
        kv.commit(batch).unwrap();
        let between = |limit| namespace.xattrs_between((InodeId(5), InodeId(8)), limit).unwrap();
        let found = between(4).unwrap();
        assert_eq!(found.len(), 2);
        for ino in 5..=8 {
            let alone = namespace.xattrs(InodeId(ino)).unwrap();
            assert_eq!(found.get(&InodeId(ino)).cloned().unwrap_or_default(), alone);
        }
        assert!(between(3).is_none());
    }
}
