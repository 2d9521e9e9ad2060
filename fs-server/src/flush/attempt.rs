//! One attempt at one item, and what is said, counted and done when it does not succeed.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::outcome::Stop;
use super::queue::{FlushItem, Put, Taken};
use super::{FAILURE_PAUSES, OPEN_PAUSE, WAIT_LIMIT, WAIT_PAUSES, dirs, inodes, names, never, remote};
use crate::kv::Batch;
use crate::node::Node;
use crate::worker::Worker;

/// An item that is being flushed; goes back into the queue if its task ends in any other way than by `end`.
pub struct InFlight {
    node: Arc<Node>,
    taken: Taken,
    /// It went back to the queue, or off it.
    pub ended: bool,
}

impl Drop for InFlight {
    fn drop(&mut self) {
        if !self.ended {
            self.node.namespace.queue().postpone(&self.taken, FAILURE_PAUSES.1);
        }
    }
}

impl InFlight {
    /// One that begins.
    pub fn begin(node: &Arc<Node>, taken: Taken) -> Self {
        InFlight { node: Arc::clone(node), taken, ended: false }
    }
}

/// Flushes an item by itself.
pub async fn flush_one(worker: Rc<Worker>, taken: Taken) {
    let node = Arc::clone(&worker.node);
    let mut flight = InFlight::begin(&node, taken.clone());
    let outcome = match &taken.item {
        FlushItem::Name(parent, name) => names::flush(&worker, &taken, *parent, name).await,
        FlushItem::Inode(ino) => inodes::flush(&worker, *ino).await.map(|()| Batch::default()),
    };
    let outcome = match outcome {
        // Nothing is to be done for now, and nothing of it is in the tier that was not before.
        Err(Stop::Never) => never::keep_back(&worker, &taken.item).await,
        Ok(batch) => never::forget(&node, &taken.item, batch),
        outcome => outcome,
    };
    let is_in_the_way = matches!(outcome, Err(Stop::Wait(_) | Stop::Failed(_) | Stop::Refused(_)));
    if is_in_the_way && !taken.is_early() {
        let (FlushItem::Name(dir, _) | FlushItem::Inode(dir)) = &taken.item;
        if let Err(stop) = dirs::doubt(&worker, *dir).await {
            tracing::debug!(?dir, ?stop, "whether it is where it was published is looked for again");
        }
    }
    let outcome = outcome.and_then(|batch| Ok(node.namespace.queue().done(&taken, batch)?));
    match outcome {
        Ok(()) => node.flusher.account.note_success(&taken.item),
        Err(Stop::Later(pause)) => node.namespace.queue().park(&taken, pause),
        Err(stop) => postpone(&worker, &taken, stop).await,
    }
    flight.ended = true;
}

/// Gives an item back to the queue that did not get there.
pub async fn postpone(worker: &Rc<Worker>, taken: &Taken, stop: Stop) {
    let why = match stop {
        Stop::Open => Put::Open,
        Stop::Refused(_) => Put::Refused,
        _ => Put::Off,
    };
    let pause = put_off(worker, taken, stop).await;
    let is_in_vain = worker.node.namespace.queue().postpone_as(taken, pause, why);
    if why != Put::Open {
        worker.node.flusher.account.note_in_vain(&taken.item, is_in_vain);
    }
}

/// What is said and counted of an attempt without success; returns the pause before the next.
async fn put_off(worker: &Rc<Worker>, taken: &Taken, stop: Stop) -> Duration {
    match stop {
        Stop::Open | Stop::Never => OPEN_PAUSE,
        Stop::Later(pause) => pause,
        Stop::Wait(_) if taken.tried.elapsed() < WAIT_LIMIT => doubled(WAIT_PAUSES, taken.attempts),
        Stop::Wait(reason) => {
            let pause = doubled(WAIT_PAUSES, taken.attempts);
            note_failure(worker, taken, reason).await;
            pause
        }
        Stop::Failed(reason) | Stop::Refused(reason) => {
            note_failure(worker, taken, &reason).await;
            doubled(FAILURE_PAUSES, taken.attempts)
        }
    }
}

/// The pause after so many attempts.
pub fn doubled((first, longest): (Duration, Duration), attempts: u32) -> Duration {
    first.saturating_mul(1 << attempts.min(16)).min(longest)
}

async fn note_failure(worker: &Rc<Worker>, taken: &Taken, reason: &str) {
    let account = &worker.node.flusher.account;
    let path = if account.has_failed(&taken.item) {
        Bytes::new()
    } else {
        remote::path_of(worker, &taken.item).await
    };
    let shown = path.clone();
    if account.note_failure(&taken.item, || path, reason) {
        let name = if shown.is_empty() {
            format!("{:?}", taken.item)
        } else {
            String::from_utf8_lossy(&shown).into_owned()
        };
        // Escaped: a name may have line breaks and would forge log lines.
        tracing::warn!(?name, reason, "not in the shared tier yet; it is tried again");
    }
}
