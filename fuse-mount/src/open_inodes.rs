//! Which inodes are open in this mount, how often, and which of them may have setuid or setgid bits.
//!
//! # Invariants
//! - An inode is counted from before its opening is asked for until after its closing has ended, so "nobody else has it open"
//!   means that the client asks the home for attributes at the opening (`an_opening_knows_whether_it_is_the_only_one`).
//! - Whoever clears the bits takes the suspicion away first and brings it back if clearing fails
//!   (`a_suspicion_is_taken_once`).
//!
//! One owner: the adapter. One lock, held for a few loads and stores.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

/// See the module.
#[derive(Default)]
pub(crate) struct OpenInodes {
    inodes: Mutex<HashMap<u64, State>>,
}

#[derive(Default)]
struct State {
    handles: u32,
    privileged: bool,
}

/// One opening; counted out when dropped.
pub(crate) struct Present {
    table: Arc<OpenInodes>,
    ino: u64,
}

impl OpenInodes {
    /// Counts an opening of `ino` in; answers whether it is the only one.
    pub(crate) fn enter(self: &Arc<Self>, ino: u64) -> (Present, bool) {
        let mut inodes = self.inodes.lock();
        let state = inodes.entry(ino).or_default();
        state.handles += 1;
        (Present { table: Arc::clone(self), ino }, state.handles == 1)
    }

    /// `ino`, if it is open, has bits that must fall when somebody unprivileged writes.
    pub(crate) fn suspect(&self, ino: u64) {
        if let Some(state) = self.inodes.lock().get_mut(&ino) {
            state.privileged = true;
        }
    }

    /// Whether `ino` is suspected; it is not any more.
    pub(crate) fn take_suspicion(&self, ino: u64) -> bool {
        self.inodes.lock().get_mut(&ino).is_some_and(|state| std::mem::take(&mut state.privileged))
    }

    fn leave(&self, ino: u64) {
        let mut inodes = self.inodes.lock();
        if let Some(state) = inodes.get_mut(&ino) {
            state.handles -= 1;
            if state.handles == 0 {
                inodes.remove(&ino);
            }
        }
    }
}

impl Drop for Present {
    fn drop(&mut self) {
        self.table.leave(self.ino);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_opening_knows_whether_it_is_the_only_one() {
        let table = Arc::new(OpenInodes::default());
        let (first, alone) = table.enter(7);
        let (second, also) = table.enter(7);
        assert!(alone && !also);
        drop(first);
        assert!(!table.enter(7).1);
        drop(second);
        assert!(table.enter(7).1);
        assert!(table.inodes.lock().is_empty());
    }

    #[test]
    fn a_suspicion_is_taken_once() {
        let table = Arc::new(OpenInodes::default());
        let (_open, _) = table.enter(7);
        table.suspect(7);
        table.suspect(8); // Not open: nobody can write it.
        assert!(table.take_suspicion(7) && !table.take_suspicion(7) && !table.take_suspicion(8));
    }
}
