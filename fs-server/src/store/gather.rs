//! Gathers the small writes of a worker thread that come at the same time into groups.
//!
//! The first write that waits makes a *leader*, a task which runs when all tasks that are ready have had their turn, and
//! takes what has come until then. So nothing waits for a clock, and a write that is alone is written at once. In direct
//! mode two groups may be under way, so that one is made while the device has the other; what comes meanwhile waits and
//! makes the next group the larger, the slower the device is.
//!
//! # Invariants
//! - A write goes on to its end when nobody waits for it any more (`tests/store`, `an_abandoned_write_is_whole_or_absent`).
//! - While something waits there is a leader (`tests/store`, `writes_that_are_under_way_do_not_wait_for_each_other`).
//! - Writes that wait hold buffers of their sender's pool, so their number is bounded as that is.
//!
//! Writes that are under way at the same time have no order among each other, wherever they overlap: as everywhere, who
//! wants one waits for the answer.

use super::StoreError;
use super::engine::Core;
use super::group::{self, ChunkWrite, GROUP_BYTES, GROUP_RECORDS};
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::sync::{Arc, Weak};
use std::task::Poll;
use tokio::sync::oneshot;

/// Writes from this length on are not gathered: they fill a request of their own.
pub(super) const GATHERED_BELOW: usize = 64 << 10;
/// Groups that the device has at once from one thread.
const DIRECT_LEADERS: usize = 2;
/// With no group under way, half of what waits is taken, but at least so much.
const SMALL_GROUP: usize = 128 << 10;

struct Waiting {
    write: ChunkWrite,
    done: oneshot::Sender<Result<(), StoreError>>,
}

/// What waits in a thread for a store.
#[derive(Default)]
struct Gather {
    waiting: RefCell<VecDeque<Waiting>>,
    bytes: Cell<usize>,
    leaders: Cell<usize>,
}

thread_local! {
    static GATHERS: RefCell<Vec<(Weak<Core>, Rc<Gather>)>> = const { RefCell::new(Vec::new()) };
}

/// Writes a piece together with what comes at the same time. Needs a runtime with local tasks.
pub(super) async fn write(core: &Arc<Core>, write: ChunkWrite) -> Result<(), StoreError> {
    let gather = Gather::here(core);
    let (done, outcome) = oneshot::channel();
    gather.bytes.set(gather.bytes.get() + write.data.len());
    gather.waiting.borrow_mut().push_back(Waiting { write, done });
    Gather::see_to_it(&gather, core);
    drop(gather);
    outcome.await.unwrap_or_else(|_| Err(StoreError::Io(io::Error::other("a write was given up"))))
}

impl Gather {
    /// This thread's for a store.
    fn here(core: &Arc<Core>) -> Rc<Gather> {
        GATHERS.with_borrow_mut(|gathers| {
            let is_this = |(of, _): &&(Weak<Core>, Rc<Gather>)| of.as_ptr() == Arc::as_ptr(core);
            if let Some((_, gather)) = gathers.iter().find(is_this) {
                return Rc::clone(gather);
            }
            gathers.retain(|(of, _)| of.strong_count() > 0);
            let gather = Rc::<Gather>::default();
            gathers.push((Arc::downgrade(core), Rc::clone(&gather)));
            gather
        })
    }

    /// Makes a leader if one is wanted and there may be one.
    fn see_to_it(gather: &Rc<Gather>, core: &Arc<Core>) {
        let most = if core.is_direct { DIRECT_LEADERS } else { 1 };
        if gather.leaders.get() < most && !gather.waiting.borrow().is_empty() {
            gather.leaders.set(gather.leaders.get() + 1);
            let leader = Leader { gather: Rc::clone(gather), core: Arc::clone(core) };
            tokio::task::spawn_local(leader.lead());
        }
    }

    /// What the next group is of; nothing if nothing waits.
    fn take(&self, is_direct: bool) -> Vec<Waiting> {
        let is_alone = self.leaders.get() == 1;
        let limit = if is_direct && is_alone { (self.bytes.get() / 2).max(SMALL_GROUP) } else { GROUP_BYTES };
        let mut waiting = self.waiting.borrow_mut();
        let (mut group, mut bytes) = (Vec::new(), 0);
        while let Some(next) = waiting.front().map(|next| next.write.data.len())
            && (group.is_empty() || (bytes + next <= limit.min(GROUP_BYTES) && group.len() < GROUP_RECORDS))
        {
            bytes += next;
            group.extend(waiting.pop_front());
        }
        self.bytes.set(self.bytes.get() - bytes);
        group
    }

    fn put_back(&self, left: Vec<Waiting>) {
        let mut waiting = self.waiting.borrow_mut();
        for one in left.into_iter().rev() {
            self.bytes.set(self.bytes.get() + one.write.data.len());
            waiting.push_front(one);
        }
    }
}

struct Leader {
    gather: Rc<Gather>,
    core: Arc<Core>,
}

impl Leader {
    async fn lead(self) {
        loop {
            let group = self.gather.take(self.core.is_direct);
            if group.is_empty() {
                return;
            }
            // What was left is for another, if there may be one.
            Gather::see_to_it(&self.gather, &self.core);
            let (mut writes, mut done): (Vec<_>, Vec<_>) =
                group.into_iter().map(|w| (w.write, w.done)).unzip();
            let outcomes = group::write(&self.core, &writes).await;
            let left = writes.drain(outcomes.len()..).zip(done.drain(outcomes.len()..));
            self.gather.put_back(left.map(|(write, done)| Waiting { write, done }).collect());
            // Buffers come back before their senders are told.
            drop(writes);
            for (done, outcome) in done.into_iter().zip(outcomes) {
                // Nobody may wait for it any more.
                let _ = done.send(outcome);
            }
            others_first().await;
        }
    }
}

impl Drop for Leader {
    /// A leader that ends with its thread's runtime leaves nothing that another runtime would write much later.
    fn drop(&mut self) {
        self.gather.leaders.set(self.gather.leaders.get() - 1);
        if self.gather.leaders.get() == 0 {
            self.gather.waiting.borrow_mut().clear();
            self.gather.bytes.set(0);
        }
    }
}

/// Lets all tasks that are ready have their turn.
async fn others_first() {
    let mut was_polled = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut was_polled, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}
