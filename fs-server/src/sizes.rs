//! How far writes reached that clients sent to this server and did not publish yet: what homes ask for with `PollSize`.
//!
//! # Invariants
//! - Bounded: beyond [`LIMIT`] files the table drops those not written for longest. Clients publish every few seconds, so what is
//!   dropped is known to the home already.
//! - An end counts only for a writer that the home knows, and from the version on that the home knows it with.

use fs_proto::{ClientId, InodeId};

use crate::hash::{Cache, cache};

/// Files and writers that are remembered.
pub const LIMIT: usize = 65_536;

/// Ends of unpublished writes.
pub struct PendingSizes {
    ends: Cache<(InodeId, ClientId), (u64, u64)>,
}

impl Default for PendingSizes {
    fn default() -> Self {
        PendingSizes { ends: cache(LIMIT) }
    }
}

impl PendingSizes {
    /// A client wrote up to `end`; it knew version `since`.
    pub fn note(&self, ino: InodeId, client: ClientId, since: u64, end: u64) {
        let key = (ino, client);
        match self.ends.get(&key) {
            // A newer version means that all before was published.
            Some((known, far)) if known > since || (known == since && far >= end) => {}
            _ => self.ends.insert(key, (since, end)),
        }
    }

    /// Forgets how far anybody wrote an inode.
    pub fn forget(&self, ino: InodeId) {
        self.ends.retain(|(of, _), _| *of != ino);
    }

    /// The furthest end among `writers` (client, version); forgotten afterwards if `forget`.
    pub fn poll(&self, ino: InodeId, writers: &[(ClientId, u64)], forget: bool) -> u64 {
        let mut furthest = 0;
        for &(client, version) in writers {
            let key = (ino, client);
            if let Some((_, end)) = self.ends.get(&key).filter(|(since, _)| *since >= version) {
                furthest = furthest.max(end);
            }
            if forget {
                self.ends.remove(&key);
            }
        }
        furthest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_known_writers_and_versions_count() {
        let sizes = PendingSizes::default();
        sizes.note(InodeId(1), ClientId(1), 5, 100);
        sizes.note(InodeId(1), ClientId(1), 5, 40);
        sizes.note(InodeId(1), ClientId(2), 5, 900);
        assert_eq!(sizes.poll(InodeId(1), &[(ClientId(1), 5)], false), 100);
        assert_eq!(sizes.poll(InodeId(1), &[(ClientId(1), 6)], false), 0);
        sizes.note(InodeId(1), ClientId(1), 6, 10);
        assert_eq!(sizes.poll(InodeId(1), &[(ClientId(1), 5)], true), 10);
        assert_eq!(sizes.poll(InodeId(1), &[(ClientId(1), 5)], false), 0);
        sizes.note(InodeId(2), ClientId(1), 5, 70);
        sizes.forget(InodeId(1));
        assert_eq!(sizes.poll(InodeId(1), &[(ClientId(2), 5)], false), 0);
        assert_eq!(sizes.poll(InodeId(2), &[(ClientId(1), 5)], false), 70);
    }
}
