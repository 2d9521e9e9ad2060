//! Writes that find the store full wait for room, as long as room is being made.

use std::rc::Rc;
use std::time::{Duration, Instant};

use fs_proto::Status;

use super::claims::Use;
use super::evict;
use crate::error::OpResult;
use crate::overflow::{access, moving};
use crate::store::ChunkWrite;
use crate::worker::Worker;

/// Longest wait: less than requests live. The client sends its request again.
const WAIT: Duration = Duration::from_secs(15);
/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(50);

/// Writes into a chunk where it is, after waiting for room if there is none anywhere and some is to be had.
pub async fn write(worker: &Rc<Worker>, used: &Use, write: ChunkWrite) -> OpResult<()> {
    with_room(worker, async || access::write(worker, used, write.clone()).await).await
}

/// Waits until there is room for the content of a small file, if some is to be had.
pub async fn admit(worker: &Rc<Worker>) -> OpResult<()> {
    with_room(worker, async || relieved(worker, worker.node.space.check_contents())).await
}

/// Waits until there is room for a new name, if some is to be had.
pub async fn admit_name(worker: &Rc<Worker>) -> OpResult<()> {
    with_room(worker, async || relieved(worker, worker.node.space.check_names())).await
}

/// Where there is no room, chunks give way to what cannot go itself.
fn relieved(worker: &Rc<Worker>, outcome: OpResult<()>) -> OpResult<()> {
    if outcome.is_err() {
        worker.node.errands.send(async |own: Rc<Worker>| moving::relieve(&own).await);
    }
    outcome
}

async fn with_room(worker: &Rc<Worker>, attempt: impl AsyncFn() -> OpResult<()>) -> OpResult<()> {
    let (node, began) = (&worker.node, Instant::now());
    loop {
        let outcome = attempt().await;
        let is_full = outcome.as_ref().is_err_and(|error| error.status == Status::NoSpace);
        if !is_full || !evict::is_hopeful(worker).await {
            return outcome;
        }
        node.backing.evictor.note_full();
        if began.elapsed() > WAIT {
            return Err(evict::WAITING);
        }
        tokio::time::sleep(PAUSE).await;
    }
}
