//! Group commit: many waiting fsyncs share one sync of the device, on a thread of its own.
//!
//! # Invariants
//! - A sync that is answered began after it was asked for: what was written before is covered
//!   (`who_asks_while_a_sync_runs_is_answered_by_a_later_one`).

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};

use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::error::{OpError, OpResult};
use crate::node::Node;
use crate::store::ChunkStore;
use fs_proto::Status;

type Waiter = oneshot::Sender<OpResult<()>>;

/// The thread that syncs, started at the first need.
#[derive(Default)]
pub struct GroupSync {
    queue: Mutex<Option<mpsc::Sender<Waiter>>>,
    count: AtomicU64,
}

impl GroupSync {
    /// Syncs since the start, however many waited for each.
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    fn submit(&self, node: &Arc<Node>, waiter: Waiter) {
        let mut queue = self.queue.lock();
        let sender = queue.get_or_insert_with(|| spawn(node));
        if let Err(mpsc::SendError(waiter)) = sender.send(waiter) {
            let sender = queue.insert(spawn(node));
            // A thread that was just started listens.
            let _ = sender.send(waiter);
        }
    }
}

fn spawn(node: &Arc<Node>) -> mpsc::Sender<Waiter> {
    let (sender, receiver) = mpsc::channel::<Waiter>();
    let node = Arc::downgrade(node);
    std::thread::spawn(move || answer(&receiver, || node.upgrade().map(|node| sync_all(&node))));
    sender
}

/// Answers all who wait with one call of `sync`, until that is over (none) or nobody can ask any more.
fn answer(receiver: &mpsc::Receiver<Waiter>, sync: impl Fn() -> Option<OpResult<()>>) {
    while let Ok(first) = receiver.recv() {
        let mut waiters = vec![first];
        waiters.extend(receiver.try_iter());
        let Some(outcome) = sync() else { return };
        for waiter in waiters {
            // A waiter that is gone needs no answer.
            let _ = waiter.send(outcome.clone());
        }
    }
}

fn sync_all(node: &Node) -> OpResult<()> {
    node.store.sync()?;
    node.namespace.kv().sync()?;
    node.group_sync.count.fetch_add(1, Ordering::Relaxed);
    Ok(())
}

/// Waits until all that was written before is on the device.
pub async fn group_sync(node: &Arc<Node>) -> OpResult<()> {
    let (waiter, done) = oneshot::channel();
    node.group_sync.submit(node, waiter);
    done.await.unwrap_or_else(|_| Err(OpError::new(Status::Io, "the sync thread ended unexpectedly")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_asks_while_a_sync_runs_is_answered_by_a_later_one() {
        // Goal: 32 ask while a sync runs; none of them is answered by that one, all by the next, which they share; and each failure
        // goes to those whose sync failed. A sync that waits until it is let go.
        let (ask, asked) = mpsc::channel::<Waiter>();
        let (begun, begins) = mpsc::channel();
        let (let_go, go) = mpsc::channel::<OpResult<()>>();
        let syncs = std::thread::spawn(move || {
            answer(&asked, || {
                begun.send(()).ok()?;
                go.recv().ok()
            });
        });
        let asking = || {
            let (waiter, done) = oneshot::channel();
            ask.send(waiter).unwrap();
            done
        };
        let first = asking();
        begins.recv().unwrap();
        let mut others: Vec<_> = (0..32).map(|_| asking()).collect();
        let_go.send(Err(OpError::new(Status::Io, "a failed sync"))).unwrap();
        assert!(first.blocking_recv().unwrap().is_err());
        begins.recv().unwrap();
        assert!(
            others.iter_mut().all(|done| done.try_recv().is_err()),
            "none is answered by the sync that ran"
        );
        let_go.send(Ok(())).unwrap();
        assert!(others.into_iter().all(|done| done.blocking_recv().unwrap().is_ok()));
        drop(ask);
        syncs.join().unwrap();
        assert!(begins.try_recv().is_err(), "one sync for all who asked");
    }
}
