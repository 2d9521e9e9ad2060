//! The asynchronous core: what the blocking interface waits for.
//!
//! A [`Core`] belongs to one thread's event loop (a current-thread runtime inside a `LocalSet`) and has connections of its own.
//! Any number of its operations may run at once; mutations of one core go out one at a time, because servers remember the last
//! of each lane to recognise a retry.

mod admin;
mod call;
mod copy;
mod data;
mod dirs;
mod holes;
mod inline;
mod inodes;
mod layouts;
mod locks;
mod looking;
mod many;
mod names;
mod opens;
mod paths;
mod places;
mod seek;
mod small;
mod stage;
mod vault;
mod walk;

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fs_net::Peers;
use fs_proto::TimeNs;
use fs_proto::msg::Caller;

use crate::error::Result;
use crate::shared::{Seat, Shared};

pub use crate::open_table::Handle;

/// The operations of a client on one event loop. See the module.
pub struct Core {
    shared: Arc<Shared>,
    peers: Rc<Peers>,
    seat: Seat,
    /// Requests sent.
    count: Cell<u64>,
    /// Held by the mutation that is under way.
    mutating: tokio::sync::Mutex<()>,
    caller: Caller,
    /// How long a request is sent again.
    insists_for: Cell<Duration>,
    /// Largest piece of data in one message, in bytes.
    piece_bytes: u32,
}

/// Smallest value of [`Core::piece_bytes`]: the smallest chunk.
const PIECE_MIN: usize = 64 << 10;

impl Core {
    pub(crate) fn new(shared: &Arc<Shared>) -> Result<Rc<Core>> {
        let (seat, forked) = shared.take_seat()?;
        if forked {
            shared.locks.forget_all();
            shared.keeper.start(shared)?;
        }
        let addresses = shared.clone();
        let peers = Peers::new(
            move |server| addresses.address(server),
            shared.identity(seat.client),
            Rc::new(shared.env.clone()),
        );
        if let Some(server) = &shared.config.inside {
            peers.enter(Arc::clone(server), seat.client);
        }
        // Several pieces of several threads must fit into the buffers at once.
        let piece_bytes = (shared.buffer_bytes / 8).clamp(PIECE_MIN, fs_proto::BULK_MAX as usize) as u32;
        Ok(Rc::new(Core {
            shared: shared.clone(),
            peers,
            seat,
            count: Cell::new(seat.count),
            mutating: tokio::sync::Mutex::new(()),
            caller: own_caller(),
            insists_for: Cell::new(shared.config.timeout),
            piece_bytes,
        }))
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Sends the requests of the operations that begin from now on again for at most this long.
    pub(crate) fn insist_for(&self, time: Duration) {
        self.insists_for.set(time);
    }

    /// The process's own user and groups, on whose behalf operations by path are.
    pub fn caller(&self) -> &Caller {
        &self.caller
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        self.shared.give_back(Seat { count: self.count.get(), ..self.seat });
    }
}

fn own_caller() -> Caller {
    let groups = rustix::process::getgroups().map(|groups| groups.iter().map(|gid| gid.as_raw()).collect());
    Caller {
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
        // The call cannot fail for a process of its own; without groups less is permitted, never more.
        groups: groups.unwrap_or_default(),
    }
}

/// The clock that writes are stamped with.
fn now() -> TimeNs {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    TimeNs::try_from(since.as_nanos()).unwrap_or(TimeNs::MAX)
}
