//! An inode that is open here, for all its handles: what is known of it, and what was written and is not published yet.
//!
//! # Invariants
//! - An answer that left its server before a local change of size does not overwrite what is known (`late_answers_are_dropped`).
//! - Nor does it hide what was published while it was on its way (`an_answer_that_a_publishing_overtook_is_not_believed`).
//! - A content that came with an opening is read at most once, and not after anything was written or heard that is newer
//!   (`content_is_read_once_and_not_after_a_write`).
//! - The version that writes are sent with does not move on while the end of one may lie at the servers with an older version: they take a newer
//!   one to say that all before is published (`the_version_of_writes_waits_for_those_under_way`).
//! - What was written here does not hide that somebody else cut the file since (`what_was_written_before_a_cut_is_doubted`).
//! - What was written stays pending until a publishing that included it succeeded (`a_failed_publishing_loses_nothing`).
//!
//! The tests are with `open_table`: an inode lives in the table.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use fs_proto::msg::inode::OpenInode as OpenRecord;
use fs_proto::msg::name::OpenMode;
use fs_proto::{Attr, FileKind, InodeId, Layout, ServerId, TimeNs};
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::kept::Content;

/// An inode that is open here, for all its handles.
#[derive(Debug)]
pub(crate) struct OpenInode {
    pub ino: InodeId,
    state: Mutex<State>,
    /// Rung when a giving back has ended.
    pub gone: Notify,
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
    /// A copy of the content which is kept above this client has nothing older than this version: as told, and counted on by the own writes.
    copied: Option<u64>,
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
    /// The last one: publish and give back, then [`crate::open_table::OpenTable::gone`].
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
        if self.copied.is_some_and(|copied| version == copied + 1) {
            self.copied = Some(version);
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

impl OpenInode {
    pub fn new(ino: InodeId) -> OpenInode {
        let state = State {
            readers: 0,
            writers: 0,
            announced: Announced::No,
            leaving: false,
            known: Attr::unknown(ino, FileKind::File),
            known_at: None,
            stamp: 0,
            pending: Pending::default(),
            writing: 0,
            unsynced: BTreeSet::new(),
            tracked: false,
            content: None,
            copied: None,
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
    pub fn join(&self, writes: bool) -> Option<bool> {
        let mut state = self.state.lock();
        if state.leaving {
            return None;
        }
        let first = state.readers + state.writers == 0;
        *(if writes { &mut state.writers } else { &mut state.readers }) += 1;
        let wanted = if writes { Announced::Writing } else { Announced::Reading };
        // A later opening asks for attributes at its first use, as close-to-open wants; an answer that is on its way may be older.
        state.known_at = None;
        state.content = None;
        state.stamp += 1;
        Some(first || state.announced < wanted)
    }

    /// The home knows of the opening, and answered `attr`. `fresh`: it was made by it.
    pub fn announced(&self, writes: bool, attr: &Attr, fresh: bool) {
        let mut state = self.state.lock();
        let now = if writes { Announced::Writing } else { Announced::Reading };
        state.announced = state.announced.max(now);
        // Where it was open before, a publishing may have overtaken the answer.
        if attr.version >= state.known.version {
            state.hear(attr);
        }
        state.tracked |= fresh;
    }

    /// See the module's first invariant: to be taken before a question is sent, and given to [`OpenInode::learn`].
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

    /// See [`crate::open_table::Handle::known_attr`].
    pub fn known_attr(&self) -> Attr {
        self.state.lock().merged()
    }

    /// Whether only the home can tell how large the file is: what was written here reaches further than it answered, but somebody changed
    /// the file since, perhaps by cutting it.
    pub fn doubts(&self, answered: &Attr) -> bool {
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
        if !attr.inline {
            (state.known.inline, state.known.layout) = (false, attr.layout);
        }
    }

    /// The layout was changed, and the home answered `attr`; if the content has left the inode meanwhile, what that told counts.
    pub fn set_layout(&self, attr: &Attr) {
        let mut state = self.state.lock();
        if state.known.inline || !attr.inline {
            state.known.layout = attr.layout;
        }
    }

    /// The content lies in chunks, in a layout that is final, whatever else is known.
    pub fn left_inode(&self, layout: Layout) {
        let mut state = self.state.lock();
        (state.known.inline, state.known.layout) = (false, layout);
    }

    /// Whoever keeps a copy of the content has dropped what is older than this version.
    pub fn set_copied(&self, version: u64) {
        let mut state = self.state.lock();
        state.copied = state.copied.max(Some(version));
    }

    /// Whether such a copy may have parts older than `attr`. It counts as renewed when [`OpenInode::set_copied`] says so, not before: others
    /// ask meanwhile.
    pub fn is_changed(&self, attr: &Attr) -> bool {
        self.state.lock().copied.is_none_or(|copied| copied < attr.version)
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
    pub fn leave(&self, writes: bool) -> Left {
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

    /// Adds what was written here to attributes from elsewhere.
    pub fn merge(&self, attr: &mut Attr) {
        self.state.lock().merge(attr);
    }

    /// Lets nobody open it any more, if nobody has it open; false if somebody has, or it is being left already.
    pub fn begin_leaving(&self) -> bool {
        let mut state = self.state.lock();
        let taken = state.readers + state.writers == 0 && !state.leaving;
        state.leaving |= taken;
        taken
    }

    /// Whether its home knows that it is open here.
    pub fn is_announced(&self) -> bool {
        self.state.lock().announced > Announced::No
    }

    /// Whether something written before `age` ago is not published.
    pub fn is_overdue(&self, age: Duration) -> bool {
        self.state.lock().pending.first.is_some_and(|first| first.elapsed() >= age)
    }

    /// What a renewal tells its home. Who does not write any more is told as a reader, and so has to announce the next opening for writing.
    pub fn record(&self, via: Option<ServerId>) -> Option<OpenRecord> {
        let mut state = self.state.lock();
        if state.leaving || state.announced == Announced::No {
            return None;
        }
        let writes = state.announced == Announced::Writing && (state.writers > 0 || state.pending.is_dirty());
        if !writes {
            state.announced = Announced::Reading;
        }
        let mode = if writes { OpenMode::Write { via } } else { OpenMode::Read {} };
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
