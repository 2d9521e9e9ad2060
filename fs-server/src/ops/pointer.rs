//! Layout `writer`: a place for a chunk, and where chunks are.
//!
//! # Invariants
//! - What is told here of a chunk's place survives what a synced write survives: with `--durability device` it is on the device first
//!   (`tests/tests/layouts/restarts.rs`: `pointers_are_synced_before_they_are_told`).

use std::rc::Rc;

use fs_proto::msg::chunk::{ClaimChunk, FindChunks};
use fs_proto::placement::{ChunkPlace, chunk_place};
use fs_proto::{ChunkIndex, InodeId, Layout, ServerId};

use crate::error::OpResult;
use crate::worker::{Context, Worker};

/// Most chunks of one answer.
const FOUND_MAX: usize = 4096;

/// Gives a chunk to whoever asks first.
pub async fn claim(worker: &Rc<Worker>, context: &Context, request: ClaimChunk) -> OpResult<ServerId> {
    let node = &worker.node;
    let at = request.at.filter(|at| node.map().share(*at) > 0).or(context.near()).unwrap_or(node.id());
    let unsynced = node.syncs_device().then(|| node.pointers.begin());
    let (holder, made) = node.pointers.claim(&**node.namespace.kv(), request.ino, request.chunk, at)?;
    let _unsynced = unsynced.filter(|_| made);
    // Also if another made it: that may be on its way to the device still.
    synced(worker).await?;
    Ok(holder)
}

/// Tells where chunks are.
pub async fn find(
    worker: &Rc<Worker>,
    _: &Context,
    request: FindChunks,
) -> OpResult<Vec<(ChunkIndex, ServerId)>> {
    let node = &worker.node;
    let limit = (request.limit as usize).clamp(1, FOUND_MAX);
    let found = node.pointers.find(&**node.namespace.kv(), request.ino, request.from, limit)?;
    synced(worker).await?;
    Ok(found)
}

async fn synced(worker: &Rc<Worker>) -> OpResult<()> {
    if worker.node.syncs_device() && worker.node.pointers.is_unsynced() {
        crate::sync::group_sync(&worker.node).await?;
    }
    Ok(())
}

/// The server that a chunk lies at, if it has been written.
pub async fn present_holder(
    worker: &Rc<Worker>,
    layout: Layout,
    ino: InodeId,
    chunk: ChunkIndex,
) -> OpResult<Option<ServerId>> {
    match chunk_place(layout, ino, chunk) {
        ChunkPlace::Owner(partition) => Ok(Some(worker.node.owner(partition))),
        ChunkPlace::Server(server) => Ok(Some(server)),
        ChunkPlace::Pointer(partition) => {
            let found = worker.ask_owner(partition, &FindChunks { ino, from: chunk, limit: 1 }).await?;
            Ok(found.first().filter(|(at, _)| *at == chunk).map(|(_, holder)| *holder))
        }
    }
}

/// The server that holds a chunk which is about to be written by somebody on the node of `near`.
pub async fn holder(
    worker: &Rc<Worker>,
    layout: Layout,
    ino: InodeId,
    chunk: ChunkIndex,
    near: Option<ServerId>,
) -> OpResult<ServerId> {
    match chunk_place(layout, ino, chunk) {
        ChunkPlace::Owner(partition) => Ok(worker.node.owner(partition)),
        ChunkPlace::Server(server) => Ok(server),
        ChunkPlace::Pointer(partition) => {
            worker.ask_owner(partition, &ClaimChunk { ino, chunk, at: near }).await
        }
    }
}
