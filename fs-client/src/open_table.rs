//! All that this process has open.
//!
//! An inode is announced to its home when its first handle opens (and when the first writing one does), and given back when the
//! last one closes: at once with the final publishing if something was written, else later, with others, by the housekeeper.
//!
//! # Invariants
//! - While a giving back is under way nobody opens the inode here: the home never sees the two in the wrong order
//!   (`opening_waits_for_a_giving_back`). A creation does not know before which file it opens: if anything was given back meanwhile it announces the opening once more
//!   ([`OpenTable::given_back_since`]; `racing_clients_of_a_node_lose_nothing` in `tests/tests/node_opens/`).
//! - What an inode promises: see `open_inode`.
//!
//! Locks: the table's, then an inode's; both for a few loads and stores only. Publishing and cutting an inode exclude each other
//! by `settling`, which is held across awaits.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use fs_proto::msg::Caller;
use fs_proto::msg::inode::OpenInode as OpenRecord;
use fs_proto::{Attr, InodeId, ServerId};
use parking_lot::Mutex;

use crate::config::OpenFlags;
use crate::error::{Error, Result};
use crate::kept::Contents;
use crate::open_inode::{Left, OpenInode};

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
    /// Givings back that began, and that ended.
    given_back: Mutex<(u64, u64)>,
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
            given_back: Mutex::default(),
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
            inode.merge(attr);
        }
    }

    /// The inode of these attributes, if its home must be told what was written before its size is known. See [`OpenInode::doubts`].
    pub fn doubted(&self, answered: &Attr) -> Option<Arc<OpenInode>> {
        self.get(answered.ino).filter(|inode| inode.doubts(answered))
    }

    /// Counts a handle out. See [`Left`] for what is to follow.
    pub fn leave(&self, inode: &Arc<OpenInode>, writes: bool) -> Left {
        // Counted before it begins: see [`OpenTable::given_back_since`].
        self.given_back.lock().0 += 1;
        let left = inode.leave(writes);
        if left == Left::Clean {
            self.idle.lock().push(inode.clone());
        }
        if left != Left::Dirty {
            self.given_back.lock().0 -= 1;
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
        self.given_back.lock().0 += idle.len() as u64;
        let all = idle.len();
        let (known, unknown): (Vec<_>, Vec<_>) =
            idle.into_iter().filter(|inode| inode.begin_leaving()).partition(|inode| inode.is_announced());
        // Those that were opened again stay.
        self.given_back.lock().0 -= (all - known.len() - unknown.len()) as u64;
        for inode in unknown {
            self.gone(&inode);
        }
        known
    }

    /// The giving back has ended.
    pub fn gone(&self, inode: &Arc<OpenInode>) {
        self.inodes.lock().remove(&inode.ino);
        inode.gone.notify_waiters();
        self.given_back.lock().1 += 1;
    }

    /// To be asked before a request that opens a file of which it is not known yet which it is.
    pub fn givings_back(&self) -> (u64, u64) {
        *self.given_back.lock()
    }

    /// Whether anything was being given back then, or has been since: of the file that was opened, perhaps, and its home may have heard of it in this order.
    pub fn given_back_since(&self, (began, ended): (u64, u64)) -> bool {
        began != ended || self.given_back.lock().0 != began
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
    use fs_proto::msg::name::OpenMode;

    fn attr(size: u64) -> Attr {
        Attr { size, ..Attr::unknown(InodeId(7), fs_proto::FileKind::File) }
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
    async fn who_was_told_as_a_reader_announces_the_next_writing() {
        let table = OpenTable::new(1 << 20);
        let told =
            || table.records(None).into_iter().map(|record| matches!(record.mode, OpenMode::Write { .. }));
        let inode = table.join(InodeId(7), false).await.unwrap().inode;
        inode.announced(false, &attr(1), false);
        for _ in 0..2 {
            assert!(table.join(InodeId(7), true).await.unwrap().announce);
            inode.announced(true, &attr(1), false);
            inode.wrote(50, ServerId(1), 5);
            assert!(told().eq([true]));
            assert_eq!(table.leave(&inode, true), Left::Others(true));
            assert!(told().eq([true]), "its size is not published");
            inode.published(&inode.pending(), &attr(50));
            assert!(!table.join(InodeId(7), true).await.unwrap().announce, "the home still knows");
            table.leave(&inode, true);
            assert!(told().eq([false]));
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn an_answer_that_was_asked_for_before_an_opening_is_not_its_news() {
        let table = OpenTable::new(1 << 20);
        let inode = table.join(InodeId(7), false).await.unwrap().inode;
        inode.announced(false, &attr(1), false);
        let stamp = inode.stamp();
        table.join(InodeId(7), false).await.unwrap();
        inode.learn(attr(1), stamp);
        assert!(!inode.is_heard_of());
        inode.learn(attr(2), inode.stamp());
        assert!(inode.is_heard_of());
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
