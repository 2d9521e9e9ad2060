//! Which inodes clients have open, and who writes: kept in memory, by client or by node, bounded by leases and by a pool.
//!
//! Clients that come through the server of their node count as one, that node: its server knows which they are (`opened/`, decision 0053). When the pool is full, those
//! who open for reading are remembered by a table of fixed size only: it says for the hash of an inode until when somebody may have it open, and so keeps what is
//! unlinked for longer than need be. Those who open for writing wait ([`OpenTable::admit`]).
//!
//! # Invariants
//! - A client or node that is not heard of for a lease has nothing open (`leases_end`).
//! - The table keeps to its pool, and forgets nobody for it (`a_full_pool_keeps_readers_roughly_and_lets_writers_wait`).
//! - What a node says of its end changes nothing of what it said later, in whatever order both arrive (`an_end_that_comes_late_ends_nothing_newer`).
//! - A client that closes what it alone of a node wrote has done so whichever server or run of it hears of that (`who_wrote_alone_ends_it_by_another_way`).
//! - What is being removed, as it has no name and was open nowhere, is opened by nobody (`who_opens_what_is_being_removed_finds_it_doomed`).
//! - After a restart of the server the table is empty until clients and nodes renew: orphans wait for one lease before they go.

use std::collections::HashSet;
use std::num::NonZeroU64;
use std::time::{Duration, Instant};

use fs_net::{Budget, BufferClass, Charge};
use fs_proto::msg::name::OpenMode;
use fs_proto::{ClientId, InodeId, ServerId};
use parking_lot::Mutex;

use crate::hash::Map;
use crate::opened;

/// Who has an inode open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    /// One client.
    Client(ClientId),
    /// Clients of a server's node that came through it, in one of its runs.
    Node {
        /// The server.
        server: ServerId,
        /// Of its run.
        session: u64,
    },
}

/// A node that tells what it has open, and when it did, as its server counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodeStamp {
    /// The server.
    pub server: ServerId,
    /// Of its run.
    pub session: u64,
    /// Greater than of what it told before.
    pub stamp: u64,
}

/// Who opens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opener {
    /// A client, for itself.
    Client(ClientId),
    /// A client, for all of its node; None: the node's server says that some of its clients do.
    Node(NodeStamp, Option<ClientId>),
}

impl Opener {
    fn who(self) -> Who {
        match self {
            Opener::Client(client) => Who::Client(client),
            Opener::Node(node, _) => node.who(),
        }
    }

    fn client(self) -> Option<ClientId> {
        match self {
            Opener::Client(client) => Some(client),
            Opener::Node(_, client) => client,
        }
    }
}

/// Whose closing something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Closer {
    /// The client.
    pub client: ClientId,
    /// The server that it came through, and of its run if that knows: what it says of that run's files goes by stamps.
    pub through: Option<(ServerId, Option<u64>)>,
}

impl Closer {
    /// Whether what ends of these for the client is not said by stamps.
    fn ends(&self, server: ServerId, session: u64) -> bool {
        self.through.is_none_or(|(through, run)| through != server || run.is_some_and(|run| run > session))
    }
}

impl NodeStamp {
    fn who(self) -> Who {
        Who::Node { server: self.server, session: self.session }
    }
}

/// Who writes an inode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Writer {
    /// Who.
    pub who: Who,
    /// The one server that its writes go through, or None for any.
    pub via: Option<ServerId>,
    /// Version of the inode when it began.
    pub version: u64,
}

impl Writer {
    /// As whom servers know it.
    pub fn client(&self) -> ClientId {
        match self.who {
            Who::Client(client) => client,
            Who::Node { server, .. } => opened::client_of(server),
        }
    }
}

struct Holder {
    who: Who,
    writes: Option<Writes>,
    /// When its lease is over; milliseconds of the table.
    until: u64,
    /// Of a node: the stamp of its last opening.
    opened: u64,
    /// When it was last opened for writing: milliseconds of the table, or of a node the stamp.
    written: u64,
}

#[derive(Clone, Copy)]
struct Writes {
    via: Option<ServerId>,
    /// Version of the inode when it began.
    since: u64,
    /// The number of the one client that does; None: several may.
    alone: Option<NonZeroU64>,
}

impl Writes {
    fn new(opener: Opener, via: Option<ServerId>, since: u64) -> Writes {
        Writes { via, since, alone: opener.client().and_then(|client| NonZeroU64::new(client.0)) }
    }

    fn are_only_of(&self, client: ClientId) -> bool {
        self.alone.is_some_and(|alone| alone.get() == client.0)
    }

    /// The opener writes, too. A renewal keeps the version of the beginning: writes since then count.
    fn joined(self, opener: Opener, via: Option<ServerId>) -> Writes {
        // A node's server that says that some write does not say who: there may be others whose openings this home did not hear.
        let stays = opener.client().is_some_and(|client| self.are_only_of(client));
        Writes { via, since: self.since, alone: self.alone.filter(|_| stays) }
    }
}

/// All inodes of this server that are open somewhere.
pub struct OpenTable {
    pool: Budget,
    table: Mutex<Table>,
}

struct Table {
    since: Instant,
    lease_ms: u64,
    open: Map<InodeId, Vec<Holder>>,
    /// Without a name, and being removed.
    doomed: HashSet<InodeId>,
    pages: Pages,
    rough: Rough,
}

/// Entries of a table of open files, as many as were counted in the pool, a page at a time.
#[derive(Default)]
pub struct Pages {
    /// Entries that there are.
    pub used: usize,
    charges: Vec<Charge>,
}

/// Until when anything of a hash may be open, in seconds since the first.
struct Rough {
    until: Vec<u32>,
    _memory: Charge,
}

/// What an entry is counted with, its part of the tables included: measured, see docs/performance.md.
const ENTRY_BYTES: usize = 160;
/// Entries that are counted together.
const PAGE_ENTRIES: usize = 256;
/// What they are counted with.
pub const PAGE_BYTES: usize = PAGE_ENTRIES * ENTRY_BYTES;
/// Part of the pool that the rough table has at most, as a divisor.
const ROUGH_PART: usize = 4;

/// An opening for writing that is younger may have overtaken the renewal that does not know of it yet: 10 s, in milliseconds as the lease.
pub fn overtaken(lease_ms: u64) -> u64 {
    lease_ms / 9
}

impl Pages {
    /// Whether one more has room; takes a page more if need be, of `most`.
    pub fn make_room(&mut self, pool: &Budget, most: usize) -> bool {
        if self.used < self.charges.len() * PAGE_ENTRIES {
            return true;
        }
        if self.charges.len() >= most {
            return false;
        }
        let page = pool.try_get(BufferClass::Local, None, PAGE_BYTES);
        let is_there = page.is_some();
        self.charges.extend(page);
        is_there
    }

    /// Pages that are not needed any more, but one; to be dropped outside of the lock, after the memory has been given back.
    pub fn unused(&mut self) -> Vec<Charge> {
        let needed = self.used.div_ceil(PAGE_ENTRIES) + 1;
        if self.charges.len() <= needed { Vec::new() } else { self.charges.split_off(needed) }
    }
}

impl OpenTable {
    /// An empty table within a pool. The part of it that may be needed for the rough table is taken at once.
    pub fn new(pool: Budget, lease: Duration) -> OpenTable {
        let entries = (pool.stats().size as usize / ROUGH_PART / size_of::<u32>()).max(1);
        let entries = 1 << entries.ilog2();
        let memory = pool.charge(BufferClass::Local, None, entries * size_of::<u32>());
        let rough = Rough { until: vec![0; entries], _memory: memory };
        let table = Table {
            since: Instant::now(),
            lease_ms: lease.as_millis() as u64,
            open: Map::default(),
            doomed: HashSet::new(),
            pages: Pages::default(),
            rough,
        };
        OpenTable { pool, table: Mutex::new(table) }
    }

    /// Waits until there is room for one more who opens so.
    pub async fn admit(&self, mode: &OpenMode) {
        if matches!(mode, OpenMode::Read {}) || self.table.lock().pages.make_room(&self.pool, usize::MAX) {
            return;
        }
        let page = self.pool.get(BufferClass::Local, None, PAGE_BYTES).await;
        self.table.lock().pages.charges.push(page);
    }

    /// The inode is open now (again, or still). `version` is the inode's.
    pub fn open(&self, ino: InodeId, opener: Opener, mode: &OpenMode, version: u64) {
        self.table.lock().open(&self.pool, ino, opener, mode, version);
    }

    /// The client still has the inode open, in this mode: writing ends with a renewal for reading.
    pub fn renew(&self, ino: InodeId, client: ClientId, mode: &OpenMode, version: u64) {
        let reads = matches!(mode, OpenMode::Read {});
        let mut table = self.table.lock();
        let (now, overtaken) = (table.moment(Instant::now()), overtaken(table.lease_ms));
        let holder = table.open(&self.pool, ino, Opener::Client(client), mode, version);
        let is_over = |holder: &&mut Holder| now >= holder.written + overtaken;
        if let Some(holder) = holder.filter(|holder| reads && is_over(holder)) {
            holder.writes = None;
        }
    }

    /// The client has the inode open no longer. What counts for a node that only it wrote for ends, too, if that node's server cannot say so: it was restarted, or the client
    /// has come another way since.
    pub fn release(&self, ino: InodeId, closer: Closer) {
        self.retain(ino, |holder| {
            let Who::Node { server, session } = holder.who else {
                return holder.who != Who::Client(closer.client);
            };
            if closer.ends(server, session) {
                holder.writes.take_if(|writes| writes.are_only_of(closer.client));
            }
            true
        });
    }

    /// The node has it open no longer, or (`reads`) for reading only: but for what it opened after it said so.
    pub fn end(&self, ino: InodeId, node: NodeStamp, reads: bool) {
        self.retain(ino, |holder| {
            if holder.who != node.who() {
                return true;
            }
            if holder.written < node.stamp {
                holder.writes = None;
            }
            reads || holder.opened >= node.stamp
        });
    }

    fn retain(&self, ino: InodeId, keep: impl FnMut(&mut Holder) -> bool) {
        let mut guard = self.table.lock();
        let table = &mut *guard;
        if let Some(holders) = table.open.get_mut(&ino) {
            let before = holders.len();
            holders.retain_mut(keep);
            table.pages.used -= before - holders.len();
            if holders.is_empty() {
                table.open.remove(&ino);
            }
        }
        let unused = table.shrink();
        drop(guard);
        drop(unused);
    }

    /// Who writes the inode.
    pub fn writers(&self, ino: InodeId) -> Vec<Writer> {
        let table = self.table.lock();
        let now = table.moment(Instant::now());
        let holders = table.open.get(&ino).map(Vec::as_slice).unwrap_or_default();
        let live = holders.iter().filter(|holder| holder.until > now);
        live.filter_map(|holder| {
            let writes = holder.writes?;
            Some(Writer { who: holder.who, via: writes.via, version: writes.since })
        })
        .collect()
    }

    /// Whether anybody has the inode open.
    pub fn is_open(&self, ino: InodeId) -> bool {
        self.table.lock().is_open(ino)
    }

    /// Whether an inode without a name may be removed, as nobody has it open. Whoever opens it from now on finds it doomed.
    pub fn doom(&self, ino: InodeId) -> bool {
        let mut table = self.table.lock();
        let is_doomed = table.doomed.contains(&ino) || !table.is_open(ino);
        if is_doomed {
            table.doomed.insert(ino);
        }
        is_doomed
    }

    /// Whether it is being removed. Asked after it was opened.
    pub fn is_doomed(&self, ino: InodeId) -> bool {
        self.table.lock().doomed.contains(&ino)
    }

    /// These are removed, or have got a name again.
    pub fn forget_doomed<'a>(&self, inos: impl Iterator<Item = &'a InodeId>) {
        let mut table = self.table.lock();
        for ino in inos {
            table.doomed.remove(ino);
        }
    }

    /// Whether anybody but `client` has the inode open. `alone`: when its node's server said that no other client of the node has.
    pub fn is_open_elsewhere(&self, ino: InodeId, client: ClientId, alone: Option<NodeStamp>) -> bool {
        let table = self.table.lock();
        let now = table.moment(Instant::now());
        let is_own = |holder: &Holder| {
            holder.who == Who::Client(client)
                || alone.is_some_and(|node| holder.who == node.who() && holder.opened < node.stamp)
        };
        let others = |holder: &Holder| holder.until > now && !is_own(holder);
        table.open.get(&ino).is_some_and(|holders| holders.iter().any(others)) || table.may_be_open(ino, now)
    }

    /// Forgets holders whose lease is over; returns the inodes that lost a writer so.
    pub fn expire(&self, now: Instant) -> Vec<InodeId> {
        let mut lost = Vec::new();
        let mut guard = self.table.lock();
        let table = &mut *guard;
        let now = table.moment(now);
        table.open.retain(|ino, holders| {
            if holders.iter().any(|holder| holder.until <= now && holder.writes.is_some()) {
                lost.push(*ino);
            }
            let before = holders.len();
            holders.retain(|holder| holder.until > now);
            table.pages.used -= before - holders.len();
            !holders.is_empty()
        });
        let unused = table.shrink();
        drop(guard);
        drop(unused);
        lost
    }

    /// Number of inodes that are open.
    pub fn len(&self) -> usize {
        self.table.lock().open.len()
    }

    /// Whether nothing is open.
    pub fn is_empty(&self) -> bool {
        self.table.lock().open.is_empty()
    }

    /// Number of clients and nodes that have something open, once for each inode.
    pub fn holders(&self) -> usize {
        self.table.lock().pages.used
    }
}

impl Table {
    /// Milliseconds since the table was made.
    fn moment(&self, at: Instant) -> u64 {
        at.saturating_duration_since(self.since).as_millis() as u64
    }

    /// Notes that the inode is open. None: a reader for whom there is no room, who is known only roughly.
    fn open(
        &mut self,
        pool: &Budget,
        ino: InodeId,
        opener: Opener,
        mode: &OpenMode,
        version: u64,
    ) -> Option<&mut Holder> {
        let writes = mode.writes().then(|| Writes::new(opener, mode.via(), version));
        let now = self.moment(Instant::now());
        let until = now + self.lease_ms;
        let (opened, mark) = match opener {
            Opener::Client(_) => (0, now),
            Opener::Node(node, _) => (node.stamp, node.stamp),
        };
        let written = if writes.is_some() { mark } else { 0 };
        let Some(at) = self.place(ino, opener.who()) else {
            if !self.pages.make_room(pool, usize::MAX) {
                if writes.is_none() {
                    self.note_roughly(ino, until);
                    return None;
                }
                // It was admitted when there was room, and another has it now: one more than counted.
                self.pages.charges.push(pool.charge(BufferClass::Local, None, PAGE_BYTES));
            }
            self.pages.used += 1;
            let holders = self.open.entry(ino).or_default();
            if holders.is_empty() {
                // Most files are open at one.
                holders.reserve_exact(1);
            }
            holders.push(Holder { who: opener.who(), writes, until, opened, written });
            return holders.last_mut();
        };
        let holder = self.open.get_mut(&ino)?.get_mut(at)?;
        holder.until = until;
        holder.opened = holder.opened.max(opened);
        holder.written = holder.written.max(written);
        holder.writes = match (holder.writes, writes) {
            (Some(began), Some(new)) => Some(began.joined(opener, new.via)),
            (have, None) => have,
            (None, new) => new,
        };
        Some(holder)
    }

    /// Where somebody is among those that have the inode open.
    fn place(&self, ino: InodeId, who: Who) -> Option<usize> {
        self.open.get(&ino)?.iter().position(|holder| holder.who == who)
    }

    /// Pages that are not needed any more; to be dropped outside of the lock.
    fn shrink(&mut self) -> Vec<Charge> {
        let unused = self.pages.unused();
        if !unused.is_empty() {
            // The memory goes back before it is said to be free.
            self.open.shrink_to(2 * self.open.len());
        }
        unused
    }

    fn note_roughly(&mut self, ino: InodeId, until: u64) {
        let at = self.rough.place(ino);
        self.rough.until[at] = self.rough.until[at].max((until / 1000) as u32 + 1);
    }

    fn is_open(&self, ino: InodeId) -> bool {
        let now = self.moment(Instant::now());
        let is_open = |holders: &Vec<Holder>| holders.iter().any(|holder| holder.until > now);
        self.open.get(&ino).is_some_and(is_open) || self.may_be_open(ino, now)
    }

    fn may_be_open(&self, ino: InodeId, now: u64) -> bool {
        u64::from(self.rough.until[self.rough.place(ino)]) > now / 1000
    }
}

impl Rough {
    fn place(&self, ino: InodeId) -> usize {
        ino.place(self.until.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INO: InodeId = InodeId(9);
    const LEASE: Duration = Duration::from_secs(90);
    const READ: OpenMode = OpenMode::Read {};

    fn client(id: u64) -> Opener {
        Opener::Client(ClientId(id))
    }

    fn closer(id: u64, through: Option<(u16, Option<u64>)>) -> Closer {
        let through = through.map(|(server, run)| (ServerId(server), run));
        Closer { client: ClientId(id), through }
    }

    #[test]
    fn leases_end() {
        let table = OpenTable::new(Budget::new(1 << 20), LEASE);
        table.open(INO, client(1), &READ, 1);
        table.open(INO, client(2), &OpenMode::Write { via: None }, 4);
        let writer = Writer { who: Who::Client(ClientId(2)), via: None, version: 4 };
        assert_eq!(table.writers(INO), [writer]);
        assert!(table.expire(Instant::now()).is_empty());
        assert_eq!(table.expire(Instant::now() + LEASE + LEASE), [INO]);
        assert!(table.is_empty());
    }

    /// Goal: a full pool costs nobody an open file. Method: a pool for some hundreds; readers by the thousand, then writers.
    #[test]
    fn a_full_pool_keeps_readers_roughly_and_lets_writers_wait() {
        use std::future::Future;
        use std::pin::pin;
        use std::task::{Context, Poll, Waker};
        let pool = Budget::new(256 << 10);
        let table = OpenTable::new(pool.clone(), LEASE);
        let write = OpenMode::Write { via: None };
        for ino in 1..=10_000 {
            table.open(InodeId(ino), client(1), &READ, 1);
        }
        assert!(
            (1..=10_000).all(|ino| table.is_open(InodeId(ino))) && table.len() < 2_000,
            "{}",
            table.len()
        );
        assert!(pool.used() <= 256 << 10);
        let mut cx = Context::from_waker(Waker::noop());
        let mut waits = pin!(table.admit(&write));
        assert_eq!(waits.as_mut().poll(&mut cx), Poll::Pending);
        for ino in 1..=10_000 {
            table.release(InodeId(ino), closer(1, None));
        }
        assert_eq!(waits.as_mut().poll(&mut cx), Poll::Ready(()));
        table.open(InodeId(7), client(2), &write, 3);
        assert_eq!(table.writers(InodeId(7)).len(), 1);
        assert!(table.expire(Instant::now() + LEASE * 2) == [InodeId(7)] && table.is_empty());
        let free = |table: &OpenTable| (1..=10_000).filter(|ino| !table.is_open(InodeId(*ino))).count();
        assert!(free(&table) < 5_000, "rough entries last for a lease");
        let guard = table.table.lock();
        assert!(!guard.may_be_open(InodeId(9_999), guard.moment(Instant::now() + LEASE * 2)));
    }

    #[test]
    fn who_opens_what_is_being_removed_finds_it_doomed() {
        let table = OpenTable::new(Budget::new(1 << 20), LEASE);
        table.open(INO, client(1), &READ, 1);
        assert!(!table.doom(INO) && !table.is_doomed(INO), "somebody has it open");
        table.release(INO, closer(1, None));
        assert!(table.doom(INO));
        table.open(INO, client(2), &READ, 1);
        assert!(table.is_doomed(INO), "it came too late");
        assert!(table.doom(INO), "and the next attempt to remove it does not wait for that");
        table.forget_doomed([INO].iter());
        assert!(!table.is_doomed(INO));
    }

    #[test]
    fn renewing_keeps_the_version_of_the_beginning() {
        let table = OpenTable::new(Budget::new(1 << 20), LEASE);
        table.open(INO, client(2), &OpenMode::Write { via: Some(ServerId(3)) }, 4);
        table.open(INO, client(2), &OpenMode::Write { via: Some(ServerId(3)) }, 9);
        table.open(INO, client(2), &READ, 9);
        assert_eq!(table.writers(INO)[0].version, 4);
        assert!(
            table.is_open_elsewhere(INO, ClientId(1), None)
                && !table.is_open_elsewhere(INO, ClientId(2), None)
        );
        table.release(INO, closer(2, None));
        assert!(!table.is_open(INO));
    }

    fn node(stamp: u64) -> NodeStamp {
        NodeStamp { server: ServerId(3), session: 100, stamp }
    }

    #[test]
    fn an_end_that_comes_late_ends_nothing_newer() {
        let table = OpenTable::new(Budget::new(1 << 20), LEASE);
        let write = OpenMode::Write { via: Some(ServerId(3)) };
        let open = |mode: &OpenMode, stamp| table.open(INO, Opener::Node(node(stamp), None), mode, 4);
        open(&write, 101);
        open(&READ, 103);
        assert_eq!(table.holders(), 1, "one for all of the node");
        table.end(INO, node(102), false);
        assert!(table.is_open(INO) && table.writers(INO).is_empty(), "the reader came later");
        open(&write, 106);
        open(&READ, 105);
        table.end(INO, node(104), false);
        table.end(INO, node(105), true);
        assert_eq!(table.writers(INO).len(), 1, "so did the second writer");
        table.end(INO, NodeStamp { session: 200, ..node(999) }, false);
        assert_eq!(table.writers(INO).len(), 1, "another run of the server knows nothing of it");
        table.end(INO, node(107), true);
        assert!(table.is_open(INO) && table.writers(INO).is_empty());
        table.end(INO, node(108), false);
        assert!(table.is_empty() && table.holders() == 0);
    }

    #[test]
    fn who_is_alone_on_its_node_is_so_until_another_opens() {
        let table = OpenTable::new(Budget::new(1 << 20), LEASE);
        let me = ClientId(1);
        table.open(INO, Opener::Node(node(101), None), &READ, 1);
        assert!(table.is_open_elsewhere(INO, me, None));
        assert!(!table.is_open_elsewhere(INO, me, Some(node(102))));
        table.open(INO, Opener::Node(node(103), None), &READ, 1);
        assert!(table.is_open_elsewhere(INO, me, Some(node(102))));
        assert!(!table.is_open_elsewhere(INO, me, Some(node(104))));
        table.open(INO, client(2), &READ, 1);
        assert!(table.is_open_elsewhere(INO, me, Some(node(104))));
    }

    /// Goal: a file counts as written no longer than it is, when the server of its writer's node was restarted in between. Method: the ways by which a closing comes, of who
    /// wrote alone and of others.
    #[test]
    fn who_wrote_alone_ends_it_by_another_way() {
        let table = OpenTable::new(Budget::new(1 << 20), LEASE);
        let write = OpenMode::Write { via: Some(ServerId(3)) };
        let open = |stamp, client: Option<u64>| {
            table.open(INO, Opener::Node(node(stamp), client.map(ClientId)), &write, 4);
        };
        let is_written_after = |closer| {
            table.release(INO, closer);
            !table.writers(INO).is_empty()
        };
        open(101, Some(1));
        open(102, Some(1));
        for (server, run) in [(3, Some(100)), (3, None), (3, Some(99))] {
            assert!(is_written_after(closer(1, Some((server, run)))), "this run tells it by a stamp");
        }
        assert!(is_written_after(closer(2, None)), "who does not write ends nothing");
        for through in [None, Some((3, Some(200))), Some((4, None)), Some((4, Some(1)))] {
            open(104, Some(1));
            assert!(!is_written_after(closer(1, through)), "{through:?}");
            assert!(table.is_open(INO), "who reads is not known");
        }
        open(105, Some(1));
        open(106, Some(2));
        assert!(
            is_written_after(closer(1, None)) && is_written_after(closer(2, None)),
            "one of two may write"
        );
        table.end(INO, node(107), true);
        open(108, Some(1));
        open(109, None);
        assert!(is_written_after(closer(1, None)), "somebody of the node writes");
    }
}
