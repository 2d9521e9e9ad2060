//! Requests about what is only in the shared tier.

use std::rc::Rc;
use std::time::Duration;

use fs_proto::Status;
use fs_proto::msg::tier::{
    DetachFile, EvictChunks, EvictNow, FetchChunk, FetchShare, FindSource, TierSource,
};

use super::fetch::{self, Want};
use super::{evict, home};
use crate::error::{OpError, OpResult};
use crate::store::ChunkKey;
use crate::worker::{Context, Worker};

/// How long a request that fetches much waits before it is told to ask again.
const WAIT: Duration = Duration::from_secs(8);

/// What chunks of a file that lives here are fetched from.
pub async fn find_source(
    worker: &Rc<Worker>,
    _: &Context,
    request: FindSource,
) -> OpResult<Option<TierSource>> {
    home::find(worker, request.ino, request.look).await
}

/// Has a chunk at hand, now or later.
pub async fn fetch_chunk(worker: &Rc<Worker>, _: &Context, request: FetchChunk) -> OpResult<()> {
    let key = ChunkKey { ino: request.ino, chunk: request.chunk };
    let used = worker.node.backing.enter(key.ino).await;
    if request.later {
        fetch::later(worker, used, key);
        return Ok(());
    }
    fetch::ensure(worker, &used, key, Want::Stored).await.map(drop)
}

/// Fetches what this server should hold of a file; what takes long is told to ask again, and finds more of it done.
pub async fn fetch_share(worker: &Rc<Worker>, _: &Context, request: FetchShare) -> OpResult<()> {
    let used = worker.node.backing.enter(request.ino).await;
    let fetching = fetch::share(worker, &used, request.ino);
    match tokio::time::timeout(WAIT, fetching).await {
        Ok(done) => done,
        Err(_) => Err(OpError::new(Status::Retry, "the file is being fetched")),
    }
}

/// Fetches a file of which the copy goes.
pub async fn detach_file(worker: &Rc<Worker>, _: &Context, request: DetachFile) -> OpResult<()> {
    home::detach(worker, request).await
}

/// Drops chunks.
pub async fn evict_chunks(worker: &Rc<Worker>, _: &Context, request: EvictChunks) -> OpResult<u64> {
    evict::drop_chunks(worker, request).await
}

/// Evicts files that live here.
pub async fn evict_now(worker: &Rc<Worker>, _: &Context, request: EvictNow) -> OpResult<u64> {
    // A task of its own: holders are told to drop what is held here, also if who asked gives up.
    let own = Rc::clone(worker);
    let task = tokio::task::spawn_local(async move { evict::evict(&own, request).await });
    task.await.unwrap_or_else(|_| Err(OpError::new(Status::Io, "an eviction ended unexpectedly")))
}
