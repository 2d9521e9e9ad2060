//! Group commit: many waiting fsyncs share one sync of the device, on a thread of its own.
//!
//! # Invariants
//! - A sync that is answered began after it was asked for: what was written before is covered.

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
    std::thread::spawn(move || {
        while let Ok(first) = receiver.recv() {
            let mut waiters = vec![first];
            waiters.extend(receiver.try_iter());
            let Some(node) = node.upgrade() else { return };
            let outcome = sync_all(&node);
            for waiter in waiters {
                // A waiter that is gone needs no answer.
                let _ = waiter.send(outcome.clone());
            }
        }
    });
    sender
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
