//! Chunks: write, read, cut, remove, sync. The bytes go from the request's buffer to the store, and from the store into the reply's
//! buffer, without a further copy.

use std::rc::Rc;

use bytes::Bytes;
use fs_proto::msg::chunk::{
    ChunkRanges, ChunkRead, DropChunks, PunchChunk, ReadChunk, SyncChunks, TruncateChunks, WriteChunk,
};
use fs_proto::{BULK_MAX, Status, Wire};

use super::chunk_map;
use crate::dispatch::Answer;
use crate::error::{OpError, OpResult};
use crate::store::{BlockSums, ChunkData, ChunkKey, ChunkStore, ChunkWrite};
use crate::worker::{Context, Worker};

/// Writes a piece of a chunk, after checking that it arrived as it was sent.
pub async fn write(worker: &Rc<Worker>, request: WriteChunk, bulk: Bytes) -> OpResult<()> {
    // One pass over the data: the record's sums make the message's.
    let sums = BlockSums::of(request.offset, &bulk);
    if sums.crc() != request.crc {
        return Err(OpError::new(
            Status::Corrupt,
            "the data changed on its way to the server; send it again",
        ));
    }
    let end = u64::from(request.offset) + bulk.len() as u64;
    if end > 1 << *fs_proto::attr::CHUNK_LOG2.end() {
        return Err(OpError::new(Status::Invalid, "the piece does not fit into a chunk"));
    }
    let key = ChunkKey { ino: request.ino, chunk: request.chunk };
    let len = bulk.len();
    worker.node.store.write_bytes(ChunkWrite { key, offset: request.offset, data: bulk, sums }).await?;
    worker.node.counters.note_written(len);
    Ok(())
}

/// Reads a piece of a chunk.
pub async fn read(worker: &Rc<Worker>, context: &Context, request: ReadChunk) -> OpResult<Answer> {
    if request.len > BULK_MAX {
        return Err(OpError::new(Status::Invalid, "a read moves at most 16 MiB"));
    }
    let len = request.len as usize;
    let buffer = context.buffer(worker, len).await?;
    let key = ChunkKey { ino: request.ino, chunk: request.chunk };
    let ChunkData { data, crc } = worker.node.store.read_buffer(key, request.offset, len, buffer).await?;
    worker.node.counters.note_read(data.len());
    Ok((ChunkRead { crc }.to_bytes(), data))
}

/// Cuts a file's chunks here.
#[allow(clippy::unused_async)] // One signature for all operations.
pub async fn truncate(worker: &Rc<Worker>, _: &Context, request: TruncateChunks) -> OpResult<()> {
    Ok(worker.node.store.truncate(request.ino, request.chunk, request.keep_bytes)?)
}

/// Removes files' chunks here, and what is known here of where others are.
#[allow(clippy::unused_async)]
pub async fn remove(worker: &Rc<Worker>, _: &Context, request: DropChunks) -> OpResult<()> {
    worker.node.store.remove(&request.inos)?;
    worker.node.pointers.remove(&**worker.node.namespace.kv(), &request.inos)
}

/// Makes a hole in a chunk.
#[allow(clippy::unused_async)]
pub async fn punch(worker: &Rc<Worker>, _: &Context, request: PunchChunk) -> OpResult<()> {
    let key = ChunkKey { ino: request.ino, chunk: request.chunk };
    Ok(worker.node.store.punch(key, request.offset, request.len)?)
}

/// Where a chunk has data.
#[allow(clippy::unused_async)]
pub async fn ranges(worker: &Rc<Worker>, _: &Context, request: ChunkRanges) -> OpResult<Vec<(u32, u32)>> {
    chunk_map::ranges(&worker.node, ChunkKey { ino: request.ino, chunk: request.chunk })
}

/// Makes what was written here durable, if that is what fsync promises.
pub async fn sync(worker: &Rc<Worker>, _: &Context, _: SyncChunks) -> OpResult<()> {
    if worker.node.syncs_device() {
        crate::sync::group_sync(&worker.node).await?;
    }
    Ok(())
}
