//! How much memory the sessions of a process may share, all together.
//!
//! A session gets a sixteenth of what is left for each of its two arenas, so the first are large, later ones smaller, and there is
//! room for many; when even the smallest does not fit, none is given and the peer goes on over its socket.
//!
//! # Invariants
//! - Grants never exceed the budget, and all of it is back when they are gone (`grants_shrink_and_come_back`).

use super::region::{ARENA_MAX, ARENA_MIN, session_bytes};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Part of what is left that one arena gets.
const PART: u64 = 16;

/// Memory for sessions over shared memory. Clones of the `Arc` share it.
#[derive(Debug, Default)]
pub struct ShareBudget {
    bytes: u64,
    used: AtomicU64,
    sessions: AtomicU64,
    refused: AtomicU64,
}

/// State of a [`ShareBudget`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ShareStats {
    /// Bytes that all sessions may share.
    pub size: u64,
    /// Bytes that are promised to sessions. What of it is memory depends on how much they had under way at once.
    pub used: u64,
    /// Sessions, as long as anything refers to their memory.
    pub sessions: u64,
    /// Sessions that went over their socket because there was no room.
    pub refused: u64,
}

/// A session's part, given back when dropped.
#[derive(Debug)]
pub(super) struct Grant {
    budget: Arc<ShareBudget>,
    bytes: u64,
}

impl ShareBudget {
    /// A budget of `bytes`.
    pub fn new(bytes: u64) -> Arc<ShareBudget> {
        Arc::new(ShareBudget { bytes, ..ShareBudget::default() })
    }

    /// Its figures.
    pub fn stats(&self) -> ShareStats {
        ShareStats {
            size: self.bytes,
            used: self.used.load(Ordering::Relaxed),
            sessions: self.sessions.load(Ordering::Relaxed),
            refused: self.refused.load(Ordering::Relaxed),
        }
    }

    /// Room for a session, and how large its arenas are.
    pub(super) fn grant(self: &Arc<Self>) -> Option<(u32, Grant)> {
        let take = |used: u64| {
            let arena = arena_for(self.bytes.saturating_sub(used));
            let after = used + session_bytes(arena);
            (after <= self.bytes).then_some(after)
        };
        let Ok(before) = self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take) else {
            self.refused.fetch_add(1, Ordering::Relaxed);
            return None;
        };
        self.sessions.fetch_add(1, Ordering::Relaxed);
        let arena = arena_for(self.bytes - before);
        Some((arena, Grant { budget: self.clone(), bytes: session_bytes(arena) }))
    }
}

fn arena_for(left: u64) -> u32 {
    let part = (left / PART).clamp(ARENA_MIN.into(), ARENA_MAX.into()) as u32;
    1 << part.ilog2()
}

impl Drop for Grant {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.bytes, Ordering::Relaxed);
        self.budget.sessions.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grants_shrink_and_come_back() {
        let budget = ShareBudget::new(64 << 20);
        let mut grants = Vec::new();
        while let Some(grant) = budget.grant() {
            grants.push(grant);
        }
        let sizes: Vec<u32> = grants.iter().map(|(arena, _)| *arena).collect();
        assert_eq!((sizes[0], sizes[sizes.len() - 1]), (4 << 20, ARENA_MIN));
        assert!(sizes.is_sorted_by(|a, b| a >= b) && sizes.len() > 30, "{sizes:?}");
        let stats = budget.stats();
        assert!(stats.used <= stats.size && stats.size - stats.used < session_bytes(ARENA_MIN));
        assert_eq!((stats.sessions, stats.refused), (sizes.len() as u64, 1));
        drop(grants);
        assert_eq!((budget.stats().used, budget.stats().sessions), (0, 0));
    }

    #[test]
    fn no_budget_gives_nothing() {
        assert!(ShareBudget::new(0).grant().is_none());
    }
}
