//! The connections that a thread serves, to find those that may go when there is no room for more.

use super::session::Shared;
use std::cell::{Cell, RefCell};
use std::cmp::Reverse;
use std::rc::{Rc, Weak};

#[derive(Default)]
struct Served {
    connections: Vec<Weak<Shared>>,
    /// Length at which those that have ended are dropped from the list.
    tidy_at: usize,
}

thread_local! {
    static SERVED: RefCell<Served> = RefCell::default();
    static TURN: Cell<u64> = const { Cell::new(0) };
}

/// A number that grows with every piece of work of the thread.
pub(super) fn turn() -> u64 {
    TURN.replace(TURN.get() + 1)
}

/// Takes a connection into the list.
pub(super) fn watch(shared: &Rc<Shared>) {
    SERVED.with_borrow_mut(|served| {
        if served.connections.len() >= served.tidy_at {
            served.connections.retain(|connection| connection.strong_count() > 0);
            served.tidy_at = (2 * served.connections.len()).max(16);
        }
        served.connections.push(Rc::downgrade(shared));
    });
}

/// Closes up to `count` connections that this thread serves and that are idle: first of the peers that have the most of them, first
/// those unused for longest. Returns how many. Peers connect again when they need to.
pub fn close_idle_connections(count: usize) -> usize {
    let all: Vec<Rc<Shared>> =
        SERVED.with_borrow(|served| served.connections.iter().filter_map(Weak::upgrade).collect());
    let mut idle: Vec<_> = all.iter().filter(|shared| shared.is_idle()).collect();
    idle.sort_by_key(|shared| (Reverse(shared.peer_connections()), shared.last_turn.get()));
    idle.truncate(count);
    for shared in &idle {
        shared.close();
    }
    idle.len()
}
