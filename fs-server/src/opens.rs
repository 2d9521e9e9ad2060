//! Which inodes clients have open, and who writes: kept in memory, by client, bounded by leases and by a pool.
//!
//! A mount is one client, whatever the number of its node's processes. When the pool is full, those who open for reading are remembered by a
//! table of fixed size only: it says for the hash of an inode until when somebody may have it open, and so keeps what is unlinked for
//! longer than need be. Those who open for writing wait ([`OpenTable::admit`]).
//!
//! # Invariants
//! - A client that is not heard of for a lease has nothing open (`leases_end`).
//! - The table keeps to its pool, and forgets nobody for it (`a_full_pool_keeps_readers_roughly_and_lets_writers_wait`).
//! - After a restart of the server the table is empty until clients renew: orphans wait for one lease before they go.

use std::time::{Duration, Instant};

use fs_net::{Budget, BufferClass, Charge};
use fs_proto::msg::inode::LEASE_MS;
use fs_proto::msg::name::OpenMode;
use fs_proto::{ClientId, InodeId, ServerId};
use parking_lot::Mutex;

use crate::hash::Map;

/// A client that writes an inode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Writer {
    /// Which client.
    pub client: ClientId,
    /// The one server that its writes go through, or None for any.
    pub via: Option<ServerId>,
    /// Version of the inode when it began.
    pub version: u64,
}

struct Holder {
    client: ClientId,
    writes: Option<(Option<ServerId>, u64)>,
    /// When it was last opened for writing.
    written_open: Instant,
    until: Instant,
}

/// All inodes of this server that are open somewhere.
pub struct OpenTable {
    pool: Budget,
    table: Mutex<Table>,
}

struct Table {
    open: Map<InodeId, Vec<Holder>>,
    holders: usize,
    /// For [`PAGE_HOLDERS`] holders each.
    pages: Vec<Charge>,
    rough: Rough,
}

/// Until when anything of a hash may be open, in seconds since the first.
struct Rough {
    since: Instant,
    until: Vec<u32>,
    _memory: Charge,
}

/// What a holder is counted with, its part of the tables included: measured, see docs/performance.md.
const HOLDER_BYTES: usize = 160;
/// Holders that are counted together.
const PAGE_HOLDERS: usize = 256;
/// Part of the pool that the rough table has at most, as a divisor.
const ROUGH_PART: usize = 4;

const LEASE: Duration = Duration::from_millis(LEASE_MS as u64);
/// An opening for writing that is younger may have overtaken the renewal that does not know of it yet.
const OVERTAKEN: Duration = Duration::from_secs(10);

impl OpenTable {
    /// An empty table within a pool. The part of it that may be needed for the rough table is taken at once.
    pub fn new(pool: Budget) -> OpenTable {
        let entries = (pool.stats().size as usize / ROUGH_PART / size_of::<u32>()).max(1);
        let entries = 1 << entries.ilog2();
        let memory = pool.charge(BufferClass::Local, None, entries * size_of::<u32>());
        let rough = Rough { since: Instant::now(), until: vec![0; entries], _memory: memory };
        let table = Table { open: Map::default(), holders: 0, pages: Vec::new(), rough };
        OpenTable { pool, table: Mutex::new(table) }
    }

    /// Waits until there is room for one more who opens so.
    pub async fn admit(&self, mode: &OpenMode) {
        if matches!(mode, OpenMode::Read {}) || self.table.lock().make_room(&self.pool) {
            return;
        }
        let page = self.pool.get(BufferClass::Local, None, PAGE_HOLDERS * HOLDER_BYTES).await;
        self.table.lock().pages.push(page);
    }

    /// The client has the inode open now (again, or still). `version` is the inode's.
    pub fn open(&self, ino: InodeId, client: ClientId, mode: &OpenMode, version: u64) {
        self.table.lock().open(&self.pool, ino, client, mode, version);
    }

    /// The client still has the inode open, in this mode: writing ends with a renewal for reading.
    pub fn renew(&self, ino: InodeId, client: ClientId, mode: &OpenMode, version: u64) {
        let reads = matches!(mode, OpenMode::Read {});
        let mut table = self.table.lock();
        let holder = table.open(&self.pool, ino, client, mode, version);
        if let Some(holder) = holder.filter(|holder| reads && holder.written_open.elapsed() >= OVERTAKEN) {
            holder.writes = None;
        }
    }

    /// The client has the inode open no longer.
    pub fn release(&self, ino: InodeId, client: ClientId) {
        let mut guard = self.table.lock();
        let table = &mut *guard;
        if let Some(holders) = table.open.get_mut(&ino) {
            let before = holders.len();
            holders.retain(|holder| holder.client != client);
            table.holders -= before - holders.len();
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
        let now = Instant::now();
        let table = self.table.lock();
        let holders = table.open.get(&ino).map(Vec::as_slice).unwrap_or_default();
        let live = holders.iter().filter(|holder| holder.until > now);
        live.filter_map(|holder| {
            let (via, version) = holder.writes?;
            Some(Writer { client: holder.client, via, version })
        })
        .collect()
    }

    /// Whether anybody has the inode open.
    pub fn is_open(&self, ino: InodeId) -> bool {
        let now = Instant::now();
        let table = self.table.lock();
        let is_open = |holders: &Vec<Holder>| holders.iter().any(|holder| holder.until > now);
        table.open.get(&ino).is_some_and(is_open) || table.may_be_open(ino, now)
    }

    /// Whether anybody but `client` has the inode open.
    pub fn is_open_elsewhere(&self, ino: InodeId, client: ClientId) -> bool {
        let now = Instant::now();
        let others = |holder: &Holder| holder.until > now && holder.client != client;
        let table = self.table.lock();
        table.open.get(&ino).is_some_and(|holders| holders.iter().any(others)) || table.may_be_open(ino, now)
    }

    /// Forgets holders whose lease is over; returns the inodes that lost a writer so.
    pub fn expire(&self, now: Instant) -> Vec<InodeId> {
        let mut lost = Vec::new();
        let mut guard = self.table.lock();
        let table = &mut *guard;
        table.open.retain(|ino, holders| {
            if holders.iter().any(|holder| holder.until <= now && holder.writes.is_some()) {
                lost.push(*ino);
            }
            let before = holders.len();
            holders.retain(|holder| holder.until > now);
            table.holders -= before - holders.len();
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
}

impl Table {
    /// Notes that the client has the inode open. None: a reader for whom there is no room, who is known only roughly.
    fn open(
        &mut self,
        pool: &Budget,
        ino: InodeId,
        client: ClientId,
        mode: &OpenMode,
        version: u64,
    ) -> Option<&mut Holder> {
        let writes = mode.writes().then(|| (mode.via(), version));
        let now = Instant::now();
        let until = now + LEASE;
        let Some(at) = self.place(ino, client) else {
            if !self.make_room(pool) {
                if writes.is_none() {
                    self.note_roughly(ino, until);
                    return None;
                }
                // It was admitted when there was room, and another has it now: one more than counted.
                self.pages.push(pool.charge(BufferClass::Local, None, PAGE_HOLDERS * HOLDER_BYTES));
            }
            self.holders += 1;
            let holders = self.open.entry(ino).or_default();
            holders.push(Holder { client, writes, written_open: now, until });
            return holders.last_mut();
        };
        let holder = self.open.get_mut(&ino)?.get_mut(at)?;
        holder.until = until;
        if writes.is_some() {
            holder.written_open = now;
        }
        // A renewal keeps the version of the beginning: writes since then count.
        holder.writes = match (holder.writes, writes) {
            (Some((_, began)), Some((via, _))) => Some((via, began)),
            (have, None) => have,
            (None, new) => new,
        };
        Some(holder)
    }

    /// Where the client is among those that have the inode open.
    fn place(&self, ino: InodeId, client: ClientId) -> Option<usize> {
        self.open.get(&ino)?.iter().position(|holder| holder.client == client)
    }

    /// Whether one more has room; takes a page more if need be.
    fn make_room(&mut self, pool: &Budget) -> bool {
        if self.holders < self.pages.len() * PAGE_HOLDERS {
            return true;
        }
        let page = pool.try_get(BufferClass::Local, None, PAGE_HOLDERS * HOLDER_BYTES);
        let is_there = page.is_some();
        self.pages.extend(page);
        is_there
    }

    /// Pages that are not needed any more, but one; to be dropped outside of the lock.
    fn shrink(&mut self) -> Vec<Charge> {
        let needed = self.holders.div_ceil(PAGE_HOLDERS) + 1;
        if self.pages.len() <= needed {
            return Vec::new();
        }
        // The memory goes back before it is said to be free.
        self.open.shrink_to(2 * self.open.len());
        self.pages.split_off(needed)
    }

    fn note_roughly(&mut self, ino: InodeId, until: Instant) {
        let rough = &mut self.rough;
        let until = until.saturating_duration_since(rough.since).as_secs() as u32 + 1;
        let at = rough.place(ino);
        rough.until[at] = rough.until[at].max(until);
    }

    fn may_be_open(&self, ino: InodeId, now: Instant) -> bool {
        let now = now.saturating_duration_since(self.rough.since).as_secs() as u32;
        self.rough.until[self.rough.place(ino)] > now
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

    #[test]
    fn leases_end() {
        let table = OpenTable::new(Budget::new(1 << 20));
        table.open(INO, ClientId(1), &OpenMode::Read {}, 1);
        table.open(INO, ClientId(2), &OpenMode::Write { via: None }, 4);
        assert_eq!(table.writers(INO), [Writer { client: ClientId(2), via: None, version: 4 }]);
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
        let table = OpenTable::new(pool.clone());
        let write = OpenMode::Write { via: None };
        for ino in 1..=10_000 {
            table.open(InodeId(ino), ClientId(1), &OpenMode::Read {}, 1);
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
            table.release(InodeId(ino), ClientId(1));
        }
        assert_eq!(waits.as_mut().poll(&mut cx), Poll::Ready(()));
        table.open(InodeId(7), ClientId(2), &write, 3);
        assert_eq!(table.writers(InodeId(7)).len(), 1);
        assert!(table.expire(Instant::now() + LEASE * 2) == [InodeId(7)] && table.is_empty());
        let free = |table: &OpenTable| (1..=10_000).filter(|ino| !table.is_open(InodeId(*ino))).count();
        assert!(free(&table) < 5_000, "rough entries last for a lease");
        assert!(!table.table.lock().may_be_open(InodeId(9_999), Instant::now() + LEASE * 2));
    }

    #[test]
    fn renewing_keeps_the_version_of_the_beginning() {
        let table = OpenTable::new(Budget::new(1 << 20));
        table.open(INO, ClientId(2), &OpenMode::Write { via: Some(ServerId(3)) }, 4);
        table.open(INO, ClientId(2), &OpenMode::Write { via: Some(ServerId(3)) }, 9);
        table.open(INO, ClientId(2), &OpenMode::Read {}, 9);
        assert_eq!(table.writers(INO)[0].version, 4);
        assert!(table.is_open_elsewhere(INO, ClientId(1)) && !table.is_open_elsewhere(INO, ClientId(2)));
        table.release(INO, ClientId(2));
        assert!(!table.is_open(INO));
    }
}
