//! A thread's own event loop and connections, so that a blocking call never changes threads.
//!
//! # Invariants
//! - A lane is used only in the process that made it: a forked child leaves its parent's alone (neither used nor dropped, because
//!   both share the sockets and the poller), also when it ends by exit(3), and makes its own (`tests/fork.rs`).
//! - A thread's lanes go when it ends, and their numbers are given back (`threads_have_lanes_of_their_own_that_are_used_again`).
//! - tokio's own thread-locals are touched before [`LANES`] is: thread-locals go in the reverse order of their first use, and a
//!   connection's end wakes its task, which needs them.

use std::cell::{Cell, RefCell};
use std::mem::ManuallyDrop;
use std::rc::Rc;
use std::sync::Arc;

use tokio::runtime::{Builder, Handle, Runtime};
use tokio::task::LocalSet;

use crate::aio::Core;
use crate::error::{Error, Result};
use crate::shared::Shared;

/// Fields are dropped in this order: the connections' tasks, their owners, the poller. An owner that goes first would wake its
/// task, which a thread that is ending can no longer do (tokio's own thread-local state may be gone by then).
struct Lane {
    tasks: LocalSet,
    core: Rc<Core>,
    runtime: Runtime,
}

struct Lanes {
    pid: u32,
    /// One per client that this thread uses, by the client's serial number.
    lanes: Vec<(u64, Rc<Lane>)>,
}

thread_local! {
    /// Whether an event loop has run on this thread. Has no destructor, so its place in the order does not matter.
    static RAN: Cell<bool> = const { Cell::new(false) };
    static LANES: RefCell<Lanes> = const { RefCell::new(Lanes { pid: 0, lanes: Vec::new() }) };
}

impl Drop for Lanes {
    /// In a forked child that ends: as in its life.
    fn drop(&mut self) {
        leave_parents_alone(self);
    }
}

impl Lane {
    fn new(shared: &Arc<Shared>) -> Result<Lane> {
        let runtime = Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .build()
            .map_err(|e| Error::System { what: "start an event loop", cause: e.to_string() })?;
        let lane = Lane { core: Core::new(shared)?, tasks: LocalSet::new(), runtime };
        if !RAN.replace(true) {
            lane.tasks.block_on(&lane.runtime, std::future::ready(()));
        }
        Ok(lane)
    }
}

/// Whether [`block_on`] can work here: not inside an event loop, and not while the thread's own data are being destroyed.
pub(crate) fn can_block() -> bool {
    Handle::try_current().is_err() && (!RAN.get() || LANES.try_with(|_| ()).is_ok())
}

/// Runs `op` on the calling thread's lane.
pub(crate) fn block_on<T>(shared: &Arc<Shared>, op: impl AsyncFnOnce(&Core) -> Result<T>) -> Result<T> {
    if Handle::try_current().is_ok() {
        return Err(Error::InsideEventLoop);
    }
    let lane = if RAN.get() { find(shared)? } else { None };
    let lane = match lane {
        Some(lane) => lane,
        None => add(shared, Lane::new(shared)?)?,
    };
    lane.tasks.block_on(&lane.runtime, op(&lane.core))
}

fn ending<E>(_: E) -> Error {
    Error::System {
        what: "reach a server from a thread that is ending",
        cause: "its data are gone".to_owned(),
    }
}

fn find(shared: &Shared) -> Result<Option<Rc<Lane>>> {
    LANES
        .try_with(|lanes| {
            let mut lanes = lanes.borrow_mut();
            leave_parents_alone(&mut lanes);
            lanes.lanes.iter().find(|(serial, _)| *serial == shared.serial).map(|(_, lane)| lane.clone())
        })
        .map_err(ending)
}

fn add(shared: &Shared, lane: Lane) -> Result<Rc<Lane>> {
    let lane = Rc::new(lane);
    let old = LANES
        .try_with(|lanes| {
            let mut lanes = lanes.borrow_mut();
            leave_parents_alone(&mut lanes);
            let old: Vec<_> =
                lanes.lanes.extract_if(.., |(_, lane)| lane.core.shared().is_closed()).collect();
            lanes.lanes.push((shared.serial, lane.clone()));
            old
        })
        .map_err(ending)?;
    drop(old); // Outside the borrow: what goes may run anything.
    Ok(lane)
}

fn leave_parents_alone(lanes: &mut Lanes) {
    let pid = std::process::id();
    if lanes.pid != pid {
        // Dropping would unregister the parent's sockets from the poller that both share.
        let _parents = ManuallyDrop::new(std::mem::take(&mut lanes.lanes));
        lanes.pid = pid;
    }
}

/// Drops the calling thread's lane of a client that ends. Inside an event loop it stays until the thread ends or makes another.
pub(crate) fn forget(shared: &Shared) {
    if Handle::try_current().is_ok() {
        return;
    }
    let gone = LANES.try_with(|lanes| {
        let mut lanes = lanes.borrow_mut();
        leave_parents_alone(&mut lanes);
        lanes.lanes.extract_if(.., |(serial, _)| *serial == shared.serial).collect::<Vec<_>>()
    });
    drop(gone); // An error means that the thread is ending, and its lanes with it.
}
