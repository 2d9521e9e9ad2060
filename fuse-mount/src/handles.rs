//! Open files and directories, by the number that the kernel knows them by.
//!
//! # Invariants
//! - Numbers are never used again within a mount (`numbers_are_never_used_again`), so a late request cannot meet another file.
//! - One owner: the adapter. The locks are held for a look-up only, never while a server is asked; a read-write lock, because
//!   every read and write of every thread looks here (rejected: a pointer as the number, which needs `unsafe`).

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::RwLock;

/// A table of things that are open.
pub(crate) struct Handles<T> {
    open: RwLock<HashMap<u64, Arc<T>>>,
    next: AtomicU64,
}

impl<T> Default for Handles<T> {
    fn default() -> Self {
        // 0 is what the kernel shows for "none".
        Handles { open: RwLock::new(HashMap::new()), next: AtomicU64::new(1) }
    }
}

impl<T> Handles<T> {
    /// Keeps `what`; answers its number.
    pub(crate) fn insert(&self, what: T) -> u64 {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.open.write().insert(number, Arc::new(what));
        number
    }

    /// What has this number.
    pub(crate) fn get(&self, number: u64) -> Option<Arc<T>> {
        self.open.read().get(&number).cloned()
    }

    /// Forgets a number; answers what it stood for.
    pub(crate) fn remove(&self, number: u64) -> Option<Arc<T>> {
        self.open.write().remove(&number)
    }

    /// All that are open.
    pub(crate) fn all(&self) -> Vec<Arc<T>> {
        self.open.read().values().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_never_used_again() {
        let table = Handles::default();
        let first = table.insert("a");
        assert_eq!(table.remove(first).as_deref(), Some(&"a"));
        let second = table.insert("b");
        assert!(first != 0 && second != first);
        assert!(table.get(first).is_none());
        assert_eq!(table.get(second).as_deref(), Some(&"b"));
    }

    #[test]
    fn knows_all_that_is_open() {
        let table = Handles::default();
        let first = table.insert(1);
        table.insert(2);
        table.remove(first);
        assert_eq!(table.all().iter().map(|n| **n).collect::<Vec<_>>(), [2]);
    }
}
