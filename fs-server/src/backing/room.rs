//! Writes that find the store full wait for room, as long as room is being made.

use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::error::OpResult;
use crate::store::{ChunkWrite, StoreError};
use crate::worker::Worker;

/// Longest wait: less than requests live. The client sends its request again.
const WAIT: Duration = Duration::from_secs(15);
/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(50);

/// Writes into the store, after waiting for room if there is none and some is to be had.
pub async fn write(worker: &Rc<Worker>, write: ChunkWrite) -> OpResult<()> {
    let (node, began) = (&worker.node, Instant::now());
    loop {
        match node.store.write_bytes(write.clone()).await {
            Err(StoreError::NoSpace) if node.backing.evictor.is_hopeful(node) => {
                node.backing.evictor.note_full();
                if began.elapsed() > WAIT {
                    return Err(super::evict::WAITING);
                }
                tokio::time::sleep(PAUSE).await;
            }
            outcome => return Ok(outcome?),
        }
    }
}

/// Waits until there is room for the content of a small file, if some is to be had.
pub async fn admit(worker: &Rc<Worker>) -> OpResult<()> {
    let (node, began) = (&worker.node, Instant::now());
    loop {
        match node.space.check(node) {
            Err(_) if node.backing.evictor.is_hopeful(node) => {
                node.backing.evictor.note_full();
                if began.elapsed() > WAIT {
                    return Err(super::evict::WAITING);
                }
                tokio::time::sleep(PAUSE).await;
            }
            outcome => return outcome,
        }
    }
}
