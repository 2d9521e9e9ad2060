//! Which clients of this node have which files open for reading without their homes knowing them: the homes know this server in their place.
//!
//! Opening is answered here under a lease, and while the home gives leases it counts the file as open at this server, for as long as at any client
//! that is not heard of again. Before that is over the client has told the home itself, as it does with everything that it has open.
//!
//! # Invariants
//! - A closing is kept from a home only if the home does not know of the opening (`what_the_home_knows_of_is_closed_there`). The other way round does no harm:
//!   a home keeps what is unlinked for longer than need be, never for less.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use fs_proto::msg::inode::LEASE_MS;
use fs_proto::{ClientId, InodeId, ServerId};
use parking_lot::Mutex;

/// Openings that are remembered, at most: 1.5 MiB.
const OPENED_MAX: usize = 32_768;
const LEASE: Duration = Duration::from_millis(LEASE_MS as u64);

/// As which client a server counts at the homes of what is open through it. Clients draw their numbers from all 64 bits.
pub fn client_of(server: ServerId) -> ClientId {
    ClientId(0xffff_ffff_ffff_0000 | u64::from(server.0))
}

/// The table.
#[derive(Default)]
pub struct Opened {
    table: Mutex<HashMap<(ClientId, InodeId), Instant>>,
    count: AtomicUsize,
}

impl Opened {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// The client opens a file here; false: there is no room to remember it.
    pub fn note(&self, client: ClientId, ino: InodeId) -> bool {
        let mut table = self.table.lock();
        if table.len() >= OPENED_MAX && !table.contains_key(&(client, ino)) {
            return false;
        }
        table.insert((client, ino), Instant::now() + LEASE);
        self.count.store(table.len(), Ordering::Relaxed);
        true
    }

    /// The client has closed these. Answers whether no home knows of them.
    pub fn close(&self, client: ClientId, inos: &[InodeId]) -> bool {
        let mut table = self.table.lock();
        let unknown = inos.iter().filter(|ino| table.remove(&(client, **ino)).is_some()).count();
        self.count.store(table.len(), Ordering::Relaxed);
        unknown == inos.len()
    }

    /// The client tells the home of these.
    pub fn told(&self, client: ClientId, inos: impl IntoIterator<Item = InodeId>) {
        let mut table = self.table.lock();
        for ino in inos {
            table.remove(&(client, ino));
        }
        self.count.store(table.len(), Ordering::Relaxed);
    }

    /// Forgets clients that were not heard of.
    pub fn tidy(&self, now: Instant) {
        let mut table = self.table.lock();
        table.retain(|_, until| *until > now);
        self.count.store(table.len(), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_home_knows_of_is_closed_there() {
        let (opened, client) = (Opened::default(), ClientId(5));
        let (one, other) = (InodeId(1), InodeId(2));
        assert!(opened.note(client, one) && opened.note(client, other));
        assert!(opened.close(client, &[one]) && !opened.close(client, &[one]));
        opened.told(client, [other]);
        assert!(!opened.close(client, &[other]) && opened.is_empty());
        assert!(opened.note(client, one) && !opened.close(client, &[one, other]), "one of them is known");
        opened.note(client, one);
        opened.tidy(Instant::now() + LEASE * 2);
        assert!(opened.is_empty());
    }
}
