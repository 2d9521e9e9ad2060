//! What this process has open, and what it wrote but did not publish yet.
//!
//! An inode is announced to its home when its first handle opens (and when the first writing one does), and given back when the
//! last one closes: at once with the final publishing if something was written, else later, with others, by the housekeeper.
//!
//! # Invariants
//! - While a giving back is under way nobody opens the inode here: the home never sees the two in the wrong order
//!   (`opening_waits_for_a_giving_back`).
//! - An answer that left its server before a local change of size does not overwrite what is known (`late_answers_are_dropped`).
//! - Nor does it hide what was published while it was on its way (`an_answer_that_a_publishing_overtook_is_not_believed`).
//! - A content that came with an opening is read at most once, and not after anything was written or heard that is newer
//!   (`content_is_read_once_and_not_after_a_write`).
//! - The version that writes are sent with does not move on while the end of one may lie at the servers with an older version: they take a newer
//!   one to say that all before is published (`the_version_of_writes_waits_for_those_under_way`).
//! - What was written here does not hide that somebody else cut the file since (`what_was_written_before_a_cut_is_doubted`).
//! - What was written stays pending until a publishing that included it succeeded (`a_failed_publishing_loses_nothing`).
//!
//! Locks: the table's, then an inode's; both for a few loads and stores only. Publishing and cutting an inode exclude each other
//! by `settling`, which is held across awaits.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use fs_proto::msg::Caller;
use fs_proto::msg::inode::OpenInode as OpenRecord;
use fs_proto::msg::name::OpenMode;
use fs_proto::{Attr, InodeId, Layout, ServerId, TimeNs};
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::config::OpenFlags;
use crate::error::{Error, Result};
use crate::kept::{Content, Contents};

/// Estimated bytes of an open inode, with its servers to sync.
const INODE_BYTES: usize = 640;

/// One `Renew` message holds all that is open at a server, so this many must fit into it.
const INODES_MAX: usize = 256 << 10;
const _: () = assert!(INODES_MAX * 12 + (64 << 10) < fs_proto::META_MAX as usize);

/// Part of the table's bytes that contents which came with openings may take beside it.
const KEPT_SHARE: usize = 4;

/// Inodes to give back that are worth a message before their time.
const BATCH: usize = 64;

/// An opening of a file: what [`super::File`] wraps, for asynchronous use. It must be given to [`crate::aio::Core::close`];
/// merely dropped, the file stays open until the process ends.
#[derive(Debug)]
pub struct Handle {
    pub(crate) inode: Arc<OpenInode>,
    /// On whose behalf; without supplementary groups, as nothing is checked by handle.
    pub(crate) who: Caller,
    pub(crate) flags: OpenFlags,
}

impl Handle {
    pub(crate) fn new(inode: Arc<OpenInode>, who: &Caller, flags: OpenFlags) -> Handle {
        Handle { inode, who: Caller { uid: who.uid, gid: who.gid, groups: Vec::new() }, flags }
    }

    /// The inode.
    pub fn ino(&self) -> InodeId {
        self.inode.ino
    }

    /// What it was opened for.
    pub fn flags(&self) -> OpenFlags {
        self.flags
    }

    /// Attributes as last heard, what was written here included.
    pub fn known_attr(&self) -> Attr {
        self.inode.known_attr()
    }
}

/// An inode that is open here, for all its handles.
#[derive(Debug)]
pub(crate) struct OpenInode {
    pub ino: InodeId,
    state: Mutex<State>,
    /// Rung when a giving back has ended.
    gone: Notify,
    /// Excludes publishing and cutting from each other.
    pub settling: tokio::sync::Mutex<()>,
    /// Excludes appends of this process from each other.
    pub appending: tokio::sync::Mutex<()>,
    /// A lock on it is lost.
    lock_lost: AtomicBool,
}

#[derive(Debug)]
struct State {
    readers: u32,
    writers: u32,
    announced: Announced,
    /// The giving back is under way or over.
    leaving: bool,
    known: Attr,
    known_at: Option<Instant>,
    /// Counts local changes of size.
    stamp: u64,
    pending: Pending,
    /// Writes under way.
    writing: u32,
    /// Servers that hold data which was not synced since.
    unsynced: BTreeSet<ServerId>,
    /// `unsynced` is all there is: the file was made or wholly synced here.
    tracked: bool,
    /// A small file's content that came with the opening and was not read yet.
    content: Option<Content>,
    /// Version that a copy of the content which is kept above this client is of: as told, and counted on by the own writes.
    copied: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Announced {
    No,
    Reading,
    Writing,
}

/// What the home does not know yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Pending {
    /// End of the furthest write, in bytes.
    pub end: u64,
    /// Time of the last write.
    pub mtime: Option<TimeNs>,
    /// Version of the file that the writes followed, as the home is told with them.
    pub since: u64,
    /// When the first of it was written.
    first: Option<Instant>,
}

impl Pending {
    pub fn is_dirty(&self) -> bool {
        self.mtime.is_some()
    }

    fn touch(&mut self, now: TimeNs) {
        self.mtime = Some(now);
        self.first.get_or_insert_with(Instant::now);
    }
}

/// What closing a handle calls for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Left {
    /// Others have it open. With `true` something is to be published.
    Others(bool),
    /// The last one: publish and give back, then [`OpenTable::gone`].
    Dirty,
    /// The last one: the housekeeper gives it back.
    Clean,
}

impl State {
    /// Takes what the home answered. The version counts for later writes only: not for those that it may not know of yet.
    fn hear(&mut self, attr: &Attr) {
        if self.content.as_ref().is_some_and(|content| content.version != attr.version) {
            self.content = None;
        }
        self.known = attr.clone();
        self.known_at = Some(Instant::now());
        if !self.pending.is_dirty() {
            self.move_on(attr.version);
        }
    }

    /// Later writes follow this version, if all earlier ones are published.
    fn move_on(&mut self, version: u64) {
        if self.writing == 0 && self.pending.end == 0 {
            self.pending.since = version;
        }
    }

    /// This client changed the content, and the home counted that as version `version`: a copy is of it if nobody else came between.
    fn count_own(&mut self, version: u64) {
        if version == self.copied + 1 {
            self.copied = version;
        }
    }

    fn merged(&self) -> Attr {
        let mut attr = self.known.clone();
        self.merge(&mut attr);
        attr
    }

    fn merge(&self, attr: &mut Attr) {
        attr.size = attr.size.max(self.pending.end);
        if let Some(mtime) = self.pending.mtime {
            attr.mtime = attr.mtime.max(mtime);
            attr.ctime = attr.ctime.max(mtime);
        }
    }
}

fn nothing_known(ino: InodeId) -> Attr {
    Attr {
        ino,
        kind: fs_proto::FileKind::File,
        mode: 0,
        uid: 0,
        gid: 0,
        nlink: 0,
        rdev: 0,
        size: 0,
        atime: 0,
        mtime: 0,
        ctime: 0,
        btime: 0,
        layout: Layout::default(),
        wide: false,
        inline: false,
        acl: false,
        capable: false,
        version: 0,
        parent: InodeId::default(),
    }
}

impl OpenInode {
    fn new(ino: InodeId) -> OpenInode {
        let state = State {
            readers: 0,
            writers: 0,
            announced: Announced::No,
            leaving: false,
            known: nothing_known(ino),
            known_at: None,
            stamp: 0,
            pending: Pending::default(),
            writing: 0,
            unsynced: BTreeSet::new(),
            tracked: false,
            content: None,
            copied: 0,
        };
        OpenInode {
            ino,
            state: Mutex::new(state),
            gone: Notify::new(),
            settling: tokio::sync::Mutex::new(()),
            appending: tokio::sync::Mutex::new(()),
            lock_lost: AtomicBool::new(false),
        }
    }

    /// Counts a handle in; answers whether it must be announced. `None`: it is being given back, wait.
    fn join(&self, writes: bool) -> Option<bool> {
        let mut state = self.state.lock();
        if state.leaving {
            return None;
        }
        let first = state.readers + state.writers == 0;
        *(if writes { &mut state.writers } else { &mut state.readers }) += 1;
        let wanted = if writes { Announced::Writing } else { Announced::Reading };
        // A later opening asks for attributes at its first use, as close-to-open wants.
        state.known_at = None;
        state.content = None;
        Some(first || state.announced < wanted)
    }

    /// The home knows of the opening, and answered `attr`. `fresh`: it was made by it.
    pub fn announced(&self, writes: bool, attr: &Attr, fresh: bool) {
        let mut state = self.state.lock();
        let now = if writes { Announced::Writing } else { Announced::Reading };
        state.announced = state.announced.max(now);
        state.hear(attr);
        state.tracked |= fresh;
    }

    /// See the module's second invariant: to be taken before a question is sent, and given to [`OpenInode::learn`].
    pub fn stamp(&self) -> u64 {
        self.state.lock().stamp
    }

    /// Takes an answer, unless the size changed here since `stamp`. Answers the attributes with what was written here; should a publishing
    /// have overtaken the answer, those that it brought, as the answer lacks what is not pending any more.
    pub fn learn(&self, mut attr: Attr, stamp: u64) -> Attr {
        let mut state = self.state.lock();
        if state.stamp == stamp {
            state.hear(&attr);
        } else if state.known.version > attr.version {
            attr = state.known.clone();
        }
        state.merge(&mut attr);
        attr
    }

    /// See [`Handle::known_attr`].
    pub fn known_attr(&self) -> Attr {
        self.state.lock().merged()
    }

    /// Whether only the home can tell how large the file is: what was written here reaches further than it answered, but somebody changed
    /// the file since, perhaps by cutting it.
    fn doubts(&self, answered: &Attr) -> bool {
        let state = self.state.lock();
        let pending = &state.pending;
        pending.is_dirty() && pending.end > answered.size && pending.since < answered.version
    }

    /// Whether anything was heard since the last opening.
    pub fn is_heard_of(&self) -> bool {
        self.state.lock().known_at.is_some()
    }

    /// Whether the content is believed to lie with the inode.
    pub fn is_inline(&self) -> bool {
        self.state.lock().known.inline
    }

    /// The whole content came with the opening, of the version that was heard with it.
    pub fn keep(&self, content: Content) {
        let mut state = self.state.lock();
        if state.known.inline && state.known.version == content.version {
            state.content = Some(content);
        }
    }

    /// Up to `len` bytes from `offset` of what came with the opening, if it is younger than `ttl`; gone when the end was read.
    /// What begins beyond it has to be asked for.
    pub fn read_kept(&self, offset: u64, len: usize, ttl: Duration) -> Option<Bytes> {
        let mut state = self.state.lock();
        let (part, more) = state.content.as_ref()?.read(offset, len, ttl);
        if !more {
            state.content = None;
        }
        part
    }

    /// Bytes are about to be written beside the inode: what is kept is old.
    pub fn forget_kept(&self) {
        self.state.lock().content = None;
    }

    /// Bytes were written beside the inode, published with it, and the home answered `attr`; or it said that they go to chunks.
    pub fn wrote_inline(&self, attr: &Attr) {
        let mut state = self.state.lock();
        state.stamp += 1;
        state.content = None;
        state.count_own(attr.version);
        // Answers of writes at the same time may come in another order than the home took them.
        if attr.version >= state.known.version {
            state.hear(attr);
        }
        state.known.inline &= attr.inline;
    }

    /// Whoever keeps a copy of the content has the one of this version.
    pub fn set_copied(&self, version: u64) {
        self.state.lock().copied = version;
    }

    /// Whether such a copy is of another version than `attr`; it is expected to be renewed then.
    pub fn is_changed(&self, attr: &Attr) -> bool {
        std::mem::replace(&mut self.state.lock().copied, attr.version) != attr.version
    }

    /// Whether a lock of the file was given to others, so that it must not be read or written.
    pub fn is_lock_lost(&self) -> bool {
        self.lock_lost.load(Ordering::Relaxed)
    }

    pub fn set_lock_lost(&self, lost: bool) {
        self.lock_lost.store(lost, Ordering::Relaxed);
    }

    /// Data up to `end` was appended at these servers.
    pub fn appended_at(&self, servers: impl IntoIterator<Item = ServerId>) {
        self.state.lock().unsynced.extend(servers);
    }

    pub fn layout(&self) -> Layout {
        self.state.lock().known.layout
    }

    /// The size as known here, and whether that is younger than `ttl`.
    pub fn size(&self, ttl: Duration) -> (u64, bool) {
        let state = self.state.lock();
        let fresh = state.known_at.is_some_and(|at| at.elapsed() < ttl);
        (state.known.size.max(state.pending.end), fresh)
    }

    /// A write to chunks begins. Drop the answer when it has ended, after [`OpenInode::wrote`].
    pub fn begin_write(&self) -> Writing<'_> {
        let mut state = self.state.lock();
        state.writing += 1;
        Writing { inode: self, since: state.pending.since }
    }

    /// Data up to `end` lies at `server` now.
    pub fn wrote(&self, end: u64, server: ServerId, now: TimeNs) {
        let mut state = self.state.lock();
        state.pending.end = state.pending.end.max(end);
        state.pending.touch(now);
        state.unsynced.insert(server);
    }

    /// The content was changed at `now`, and the home has to be told.
    pub fn touched(&self, now: TimeNs) {
        self.state.lock().pending.touch(now);
    }

    /// What is to be published now.
    pub fn pending(&self) -> Pending {
        self.state.lock().pending
    }

    /// `what` was published, and the home answered `attr`.
    pub fn published(&self, what: &Pending, attr: &Attr) {
        let mut state = self.state.lock();
        state.stamp += 1;
        state.hear(attr);
        state.count_own(attr.version);
        if state.pending.end == what.end {
            state.pending.end = 0;
        }
        state.move_on(attr.version);
        if state.pending.mtime == what.mtime {
            state.pending.mtime = None;
            state.pending.first = None;
        }
    }

    /// The size is about to be set: what was written before does not count for it. Give the answer to [`OpenInode::uncut`] if
    /// it fails.
    pub fn cut(&self) -> u64 {
        let mut state = self.state.lock();
        state.stamp += 1;
        std::mem::take(&mut state.pending.end)
    }

    pub fn uncut(&self, end: u64) {
        let mut state = self.state.lock();
        state.pending.end = state.pending.end.max(end);
    }

    /// The size was set, and the home answered `attr`.
    pub fn settled(&self, attr: &Attr) {
        let mut state = self.state.lock();
        state.stamp += 1;
        state.hear(attr);
        // What was written before the own cut does not count any more.
        state.move_on(attr.version);
    }

    /// Takes the servers to sync; `None` if only the file's size tells.
    pub fn take_unsynced(&self) -> Option<BTreeSet<ServerId>> {
        let mut state = self.state.lock();
        let servers = std::mem::take(&mut state.unsynced);
        state.tracked.then_some(servers)
    }

    /// `servers` could not be synced.
    pub fn still_unsynced(&self, servers: impl IntoIterator<Item = ServerId>) {
        let mut state = self.state.lock();
        state.unsynced.extend(servers);
    }

    pub fn synced_wholly(&self) {
        self.state.lock().tracked = true;
    }

    /// Whether one handle is open.
    pub fn is_last(&self) -> bool {
        let state = self.state.lock();
        state.readers + state.writers == 1
    }

    /// Counts a handle out.
    fn leave(&self, writes: bool) -> Left {
        let mut state = self.state.lock();
        *(if writes { &mut state.writers } else { &mut state.readers }) -= 1;
        let dirty = state.pending.is_dirty();
        if state.readers + state.writers > 0 {
            return Left::Others(writes && dirty);
        }
        if dirty {
            state.leaving = true;
            return Left::Dirty;
        }
        Left::Clean
    }

    /// Whether something written before `age` ago is not published.
    fn is_overdue(&self, age: Duration) -> bool {
        self.state.lock().pending.first.is_some_and(|first| first.elapsed() >= age)
    }

    fn record(&self, via: Option<ServerId>) -> Option<OpenRecord> {
        let state = self.state.lock();
        let mode = match state.announced {
            _ if state.leaving => return None,
            Announced::No => return None,
            Announced::Writing if state.writers > 0 => OpenMode::Write { via },
            Announced::Writing | Announced::Reading => OpenMode::Read {},
        };
        Some(OpenRecord { ino: self.ino, mode })
    }
}

/// A write under way.
pub(crate) struct Writing<'a> {
    inode: &'a OpenInode,
    /// The version that it follows.
    pub since: u64,
}

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        self.inode.state.lock().writing -= 1;
    }
}

/// A handle counted in.
pub(crate) struct Joined {
    pub inode: Arc<OpenInode>,
    /// The home must be told.
    pub announce: bool,
    /// Nothing was open before: the housekeeper may be asleep. (Told by the insertion itself, as a look before or after it could
    /// miss the housekeeper's falling asleep.)
    pub first: bool,
}

/// All inodes that are open here.
pub(crate) struct OpenTable {
    limit: usize,
    inodes: Mutex<HashMap<InodeId, Arc<OpenInode>>>,
    /// Closed, to be given back.
    idle: Mutex<Vec<Arc<OpenInode>>>,
    /// Dropped where nobody could wait for the closing.
    deferred: Mutex<Vec<Handle>>,
    /// Contents that came with openings.
    pub contents: Contents,
}

impl OpenTable {
    /// A table within about `bytes`.
    pub fn new(bytes: usize) -> OpenTable {
        OpenTable {
            limit: (bytes / INODE_BYTES).clamp(64, INODES_MAX),
            inodes: Mutex::default(),
            idle: Mutex::default(),
            deferred: Mutex::default(),
            contents: Contents::new(bytes / KEPT_SHARE),
        }
    }

    /// Counts a handle in, waiting for a giving back to end.
    pub async fn join(&self, ino: InodeId, writes: bool) -> Result<Joined> {
        loop {
            let (inode, first) = self.get_or_add(ino)?;
            let mut gone = std::pin::pin!(inode.gone.notified());
            gone.as_mut().enable(); // Before the look: what rings after it is not missed.
            if let Some(announce) = inode.join(writes) {
                return Ok(Joined { inode: inode.clone(), announce, first });
            }
            gone.await;
        }
    }

    /// Also whether the table was empty before.
    fn get_or_add(&self, ino: InodeId) -> Result<(Arc<OpenInode>, bool)> {
        let mut inodes = self.inodes.lock();
        if let Some(inode) = inodes.get(&ino) {
            return Ok((inode.clone(), false));
        }
        if inodes.len() >= self.limit {
            return Err(Error::Limit { what: "too many files open", limit: self.limit });
        }
        let (inode, first) = (Arc::new(OpenInode::new(ino)), inodes.is_empty());
        inodes.insert(ino, inode.clone());
        Ok((inode, first))
    }

    pub fn get(&self, ino: InodeId) -> Option<Arc<OpenInode>> {
        self.inodes.lock().get(&ino).cloned()
    }

    pub fn is_empty(&self) -> bool {
        self.inodes.lock().is_empty() && self.deferred.lock().is_empty()
    }

    /// Adds what was written here to attributes from elsewhere.
    pub fn merge(&self, attr: &mut Attr) {
        if let Some(inode) = self.get(attr.ino) {
            inode.state.lock().merge(attr);
        }
    }

    /// The inode of these attributes, if its home must be told what was written before its size is known. See [`OpenInode::doubts`].
    pub fn doubted(&self, answered: &Attr) -> Option<Arc<OpenInode>> {
        self.get(answered.ino).filter(|inode| inode.doubts(answered))
    }

    /// Counts a handle out. See [`Left`] for what is to follow.
    pub fn leave(&self, inode: &Arc<OpenInode>, writes: bool) -> Left {
        let left = inode.leave(writes);
        if left == Left::Clean {
            self.idle.lock().push(inode.clone());
        }
        left
    }

    /// Whether a batch is worth sending before its time.
    pub fn has_batch(&self) -> bool {
        self.idle.lock().len() >= BATCH
    }

    /// Closed inodes that nobody opened again: nobody can, until they are [`OpenTable::gone`]. Those that no home knows of go
    /// at once.
    pub fn take_idle(&self) -> Vec<Arc<OpenInode>> {
        let idle = std::mem::take(&mut *self.idle.lock());
        let (known, unknown): (Vec<_>, Vec<_>) = idle
            .into_iter()
            .filter(|inode| {
                let mut state = inode.state.lock();
                let taken = state.readers + state.writers == 0 && !state.leaving;
                state.leaving |= taken;
                taken
            })
            .partition(|inode| inode.state.lock().announced > Announced::No);
        for inode in unknown {
            self.gone(&inode);
        }
        known
    }

    /// The giving back has ended.
    pub fn gone(&self, inode: &Arc<OpenInode>) {
        self.inodes.lock().remove(&inode.ino);
        inode.gone.notify_waiters();
    }

    /// Leaves a closing to the housekeeper.
    pub fn defer_close(&self, handle: Handle) {
        self.deferred.lock().push(handle);
    }

    pub fn take_deferred(&self) -> Vec<Handle> {
        std::mem::take(&mut *self.deferred.lock())
    }

    /// Inodes with something written that is older than `age` and not published.
    pub fn overdue(&self, age: Duration) -> Vec<Arc<OpenInode>> {
        self.inodes.lock().values().filter(|inode| inode.is_overdue(age)).cloned().collect()
    }

    /// All that is open, as the homes are told.
    pub fn records(&self, via: Option<ServerId>) -> Vec<OpenRecord> {
        self.inodes.lock().values().filter_map(|inode| inode.record(via)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attr(size: u64) -> Attr {
        Attr { size, ..nothing_known(InodeId(7)) }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn only_the_first_opening_and_the_first_for_writing_are_announced() {
        let table = OpenTable::new(1 << 20);
        let Joined { inode, announce: first, .. } = table.join(InodeId(7), false).await.unwrap();
        inode.announced(false, &attr(1), false);
        let again = table.join(InodeId(7), false).await.unwrap().announce;
        let writing = table.join(InodeId(7), true).await.unwrap().announce;
        inode.announced(true, &attr(1), false);
        let writing_again = table.join(InodeId(7), true).await.unwrap().announce;
        assert_eq!((first, again, writing, writing_again), (true, false, true, false));
    }

    #[tokio::test(flavor = "current_thread")]
    async fn opening_waits_for_a_giving_back() {
        let table = OpenTable::new(1 << 20);
        let inode = table.join(InodeId(7), false).await.unwrap().inode;
        inode.announced(false, &attr(1), false);
        assert_eq!(table.leave(&inode, false), Left::Clean);
        assert_eq!(table.take_idle().len(), 1);
        let opening = table.join(InodeId(7), false);
        let mut opening = std::pin::pin!(opening);
        tokio::select! {
            biased;
            _ = &mut opening => panic!("opened while being given back"),
            () = tokio::task::yield_now() => {}
        }
        table.gone(&inode);
        let Joined { inode: again, announce, .. } = opening.await.unwrap();
        assert!(announce && !Arc::ptr_eq(&again, &inode));
    }

    #[tokio::test(flavor = "current_thread")]
    async fn an_inode_opened_again_in_time_is_not_given_back() {
        let table = OpenTable::new(1 << 20);
        let inode = table.join(InodeId(7), false).await.unwrap().inode;
        inode.announced(false, &attr(1), false);
        table.leave(&inode, false);
        let Joined { inode: again, announce, .. } = table.join(InodeId(7), false).await.unwrap();
        assert!(announce, "its attributes must be fresh");
        assert!(Arc::ptr_eq(&again, &inode) && table.take_idle().is_empty());
    }

    #[tokio::test(flavor = "current_thread")]
    async fn late_answers_are_dropped() {
        let table = OpenTable::new(1 << 20);
        let inode = table.join(InodeId(7), true).await.unwrap().inode;
        inode.announced(true, &attr(100), false);
        let stamp = inode.stamp();
        inode.cut();
        inode.settled(&attr(10));
        inode.learn(attr(100), stamp);
        assert_eq!(inode.size(Duration::from_secs(9)).0, 10);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn an_answer_that_a_publishing_overtook_is_not_believed() {
        let table = OpenTable::new(1 << 20);
        let inode = table.join(InodeId(7), true).await.unwrap().inode;
        let of = |size, version| Attr { version, ..attr(size) };
        inode.announced(true, &of(0, 1), false);
        inode.wrote(50, ServerId(1), 5);
        let stamp = inode.stamp();
        inode.published(&inode.pending(), &of(50, 2));
        assert_eq!(inode.learn(of(0, 1), stamp).size, 50);
        assert_eq!(inode.learn(of(40, 3), stamp).size, 40, "a newer one is");
    }

    #[tokio::test(flavor = "current_thread")]
    async fn the_version_of_writes_waits_for_those_under_way() {
        let table = OpenTable::new(1 << 20);
        let inode = table.join(InodeId(7), true).await.unwrap().inode;
        let of = |size, version| Attr { version, ..attr(size) };
        inode.announced(true, &of(0, 1), false);
        let far = inode.begin_write();
        inode.learn(of(10, 2), inode.stamp());
        inode.published(&inode.pending(), &of(10, 3));
        assert_eq!(inode.begin_write().since, far.since, "the end of the other is not published");
        inode.wrote(90, ServerId(1), 5);
        drop(far);
        inode.learn(of(10, 4), inode.stamp());
        assert_eq!(inode.begin_write().since, 1);
        inode.published(&inode.pending(), &of(90, 5));
        assert_eq!(inode.begin_write().since, 5);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn what_was_written_before_a_cut_is_doubted() {
        let table = OpenTable::new(1 << 20);
        let inode = table.join(InodeId(7), true).await.unwrap().inode;
        let of = |size, version| Attr { version, ..attr(size) };
        inode.announced(true, &of(0, 1), false);
        inode.wrote(50, ServerId(1), 5);
        assert!(table.doubted(&of(0, 1)).is_none(), "nobody else changed it");
        assert!(table.doubted(&of(60, 2)).is_none(), "it is larger anyway");
        assert!(table.doubted(&of(10, 2)).is_some());
        inode.published(&inode.pending(), &of(10, 3));
        assert!(table.doubted(&of(10, 4)).is_none(), "the home has decided");
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_failed_publishing_loses_nothing() {
        let table = OpenTable::new(1 << 20);
        let inode = table.join(InodeId(7), true).await.unwrap().inode;
        inode.announced(true, &attr(0), true);
        inode.wrote(50, ServerId(1), 5);
        let first = inode.pending();
        assert_eq!(inode.pending(), first, "taking it to publish does not clear it");
        inode.wrote(80, ServerId(2), 6);
        inode.published(&first, &attr(50));
        assert_eq!((inode.pending().end, inode.pending().mtime), (80, Some(6)));
        inode.published(&inode.pending(), &attr(80));
        assert!(!inode.pending().is_dirty());
        assert_eq!(inode.take_unsynced(), Some([ServerId(1), ServerId(2)].into()));
    }

    fn small(size: u64, version: u64) -> Attr {
        Attr { inline: true, version, ..attr(size) }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn content_is_read_once_and_not_after_a_write() {
        const MINUTE: Duration = Duration::from_secs(60);
        let table = OpenTable::new(1 << 20);
        let inode = table.join(InodeId(7), true).await.unwrap().inode;
        let open = || {
            inode.announced(false, &small(5, 3), false);
            inode.keep(table.contents.copy(b"hello", 3).unwrap());
        };
        open();
        assert_eq!(inode.read_kept(0, 2, MINUTE).unwrap(), "he");
        assert_eq!(inode.read_kept(1, 99, MINUTE).unwrap(), "ello");
        assert_eq!(inode.read_kept(0, 2, MINUTE), None, "its end was read");
        open();
        assert_eq!(inode.read_kept(5, 1, MINUTE), None, "what comes after it is asked for");
        inode.keep(table.contents.copy(b"", 3).unwrap());
        assert_eq!(inode.read_kept(0, 9, MINUTE).unwrap(), "", "it is empty");
        assert_eq!(inode.read_kept(0, 9, MINUTE), None);
        open();
        assert_eq!(inode.read_kept(0, 1, Duration::ZERO), None);
        open();
        inode.wrote_inline(&small(5, 4));
        assert_eq!(inode.read_kept(0, 1, MINUTE), None);
        open();
        inode.learn(small(6, 9), inode.stamp());
        assert_eq!(inode.read_kept(0, 1, MINUTE), None, "a newer version was heard of");
        inode.keep(table.contents.copy(b"hello", 3).unwrap());
        assert_eq!(inode.read_kept(0, 1, MINUTE), None, "it is older than what is known");
    }

    #[tokio::test(flavor = "current_thread")]
    async fn answers_of_writes_may_come_in_any_order() {
        let table = OpenTable::new(1 << 20);
        let inode = table.join(InodeId(7), true).await.unwrap().inode;
        inode.announced(true, &small(0, 1), true);
        inode.wrote_inline(&small(9, 3));
        inode.wrote_inline(&small(5, 2));
        assert_eq!(inode.size(Duration::from_secs(9)), (9, true));
        inode.wrote_inline(&Attr { inline: false, ..small(9, 2) });
        assert!(!inode.is_inline(), "what has left its inode does not come back");
        assert!(!inode.pending().is_dirty());
    }

    #[tokio::test(flavor = "current_thread")]
    async fn the_table_is_bounded() {
        let table = OpenTable::new(0);
        for i in 0..64 {
            table.join(InodeId(i + 1), false).await.unwrap();
        }
        let error = table.join(InodeId(1000), false).await.err().unwrap();
        assert_eq!(error.errno(), libc::ENFILE);
    }
}
