//! Which inodes clients have open, and who writes: kept in memory, by client, bounded by leases.
//!
//! # Invariants
//! - A client that is not heard of for a lease has nothing open (`leases_end`).
//! - After a restart of the server the table is empty until clients renew: orphans wait for one lease before they go.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use fs_proto::msg::inode::LEASE_MS;
use fs_proto::msg::name::OpenMode;
use fs_proto::{ClientId, InodeId, ServerId};
use parking_lot::Mutex;

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
#[derive(Default)]
pub struct OpenTable {
    open: Mutex<HashMap<InodeId, Vec<Holder>>>,
}

const LEASE: Duration = Duration::from_millis(LEASE_MS as u64);
/// An opening for writing that is younger may have overtaken the renewal that does not know of it yet.
const OVERTAKEN: Duration = Duration::from_secs(10);

impl OpenTable {
    /// The client has the inode open now (again, or still). `version` is the inode's.
    pub fn open(&self, ino: InodeId, client: ClientId, mode: &OpenMode, version: u64) {
        let until = Instant::now() + LEASE;
        let writes = match mode {
            OpenMode::Read {} => None,
            OpenMode::Write { via } => Some((*via, version)),
        };
        let now = Instant::now();
        let mut open = self.open.lock();
        let holders = open.entry(ino).or_default();
        match holders.iter_mut().find(|holder| holder.client == client) {
            Some(holder) => {
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
            }
            None => holders.push(Holder { client, writes, written_open: now, until }),
        }
    }

    /// The client still has the inode open, in this mode: writing ends with a renewal for reading.
    pub fn renew(&self, ino: InodeId, client: ClientId, mode: &OpenMode, version: u64) {
        let reads = matches!(mode, OpenMode::Read {});
        self.open(ino, client, mode, version);
        let mut open = self.open.lock();
        let holders = open.get_mut(&ino).map(Vec::as_mut_slice).unwrap_or_default();
        let holder = holders.iter_mut().find(|holder| holder.client == client);
        if let Some(holder) = holder.filter(|holder| reads && holder.written_open.elapsed() >= OVERTAKEN) {
            holder.writes = None;
        }
    }

    /// The client has the inode open no longer.
    pub fn release(&self, ino: InodeId, client: ClientId) {
        let mut open = self.open.lock();
        if let Some(holders) = open.get_mut(&ino) {
            holders.retain(|holder| holder.client != client);
            if holders.is_empty() {
                open.remove(&ino);
            }
        }
    }

    /// Who writes the inode.
    pub fn writers(&self, ino: InodeId) -> Vec<Writer> {
        let now = Instant::now();
        let open = self.open.lock();
        let holders = open.get(&ino).map(Vec::as_slice).unwrap_or_default();
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
        self.open.lock().get(&ino).is_some_and(|holders| holders.iter().any(|holder| holder.until > now))
    }

    /// Whether anybody but `client` has the inode open.
    pub fn is_open_elsewhere(&self, ino: InodeId, client: ClientId) -> bool {
        let now = Instant::now();
        let others = |holder: &Holder| holder.until > now && holder.client != client;
        self.open.lock().get(&ino).is_some_and(|holders| holders.iter().any(others))
    }

    /// Forgets holders whose lease is over; returns the inodes that lost a writer so.
    pub fn expire(&self, now: Instant) -> Vec<InodeId> {
        let mut lost = Vec::new();
        self.open.lock().retain(|ino, holders| {
            if holders.iter().any(|holder| holder.until <= now && holder.writes.is_some()) {
                lost.push(*ino);
            }
            holders.retain(|holder| holder.until > now);
            !holders.is_empty()
        });
        lost
    }

    /// Number of inodes that are open.
    pub fn len(&self) -> usize {
        self.open.lock().len()
    }

    /// Whether nothing is open.
    pub fn is_empty(&self) -> bool {
        self.open.lock().is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INO: InodeId = InodeId(9);

    #[test]
    fn leases_end() {
        let table = OpenTable::default();
        table.open(INO, ClientId(1), &OpenMode::Read {}, 1);
        table.open(INO, ClientId(2), &OpenMode::Write { via: None }, 4);
        assert_eq!(table.writers(INO), [Writer { client: ClientId(2), via: None, version: 4 }]);
        assert!(table.expire(Instant::now()).is_empty());
        assert_eq!(table.expire(Instant::now() + LEASE + LEASE), [INO]);
        assert!(table.is_empty());
    }

    #[test]
    fn renewing_keeps_the_version_of_the_beginning() {
        let table = OpenTable::default();
        table.open(INO, ClientId(2), &OpenMode::Write { via: Some(ServerId(3)) }, 4);
        table.open(INO, ClientId(2), &OpenMode::Write { via: Some(ServerId(3)) }, 9);
        table.open(INO, ClientId(2), &OpenMode::Read {}, 9);
        assert_eq!(table.writers(INO)[0].version, 4);
        assert!(table.is_open_elsewhere(INO, ClientId(1)) && !table.is_open_elsewhere(INO, ClientId(2)));
        table.release(INO, ClientId(2));
        assert!(!table.is_open(INO));
    }
}
