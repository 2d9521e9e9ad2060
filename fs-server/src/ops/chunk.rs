//! Chunks: write, read, cut, remove, sync. The bytes go from the request's buffer to the store, and from the store into the reply's
//! buffer, without a further copy.

use std::rc::Rc;

use bytes::Bytes;
use fs_proto::checksum::crc;
use fs_proto::msg::chunk::{
    ChunkRanges, ChunkRead, DropChunks, PunchChunk, ReadChunk, SyncChunks, TruncateChunks, WriteChunk,
};
use fs_proto::{BULK_MAX, Status, Wire};

use super::chunk_map;
use crate::backing::claims::Use;
use crate::backing::fetch::{Ensured, Want};
use crate::backing::{fetch, room, rows};
use crate::dispatch::Answer;
use crate::error::{OpError, OpResult};
use crate::hot;
use crate::hot::grants::Change;
use crate::overflow::{self, access};
use crate::store::{BlockSums, ChunkData, ChunkKey, ChunkStore, ChunkWrite, Compare};
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
    let write = ChunkWrite { key, offset: request.offset, data: bulk, sums };
    let change = hot::holder::change(worker, key.ino).await?;
    let used = worker.node.backing.enter(key.ino).await;
    let covers = request.offset..end as u32;
    match fetch::ensure(worker, &used, key, Want::Overwritten(covers)).await? {
        Ensured::Here | Ensured::Fetched | Ensured::Passed(_) => {
            written(worker, used, write).await?;
            change.done();
        }
        Ensured::Fill(filling) => {
            // Should who asked give up, nobody else fills the chunk before this did.
            let errand = move |own: Rc<Worker>| async move {
                written(&own, used, write).await?;
                drop(filling);
                change.done();
                Ok(())
            };
            let done = worker.node.errands.run(errand).await;
            done.unwrap_or_else(|| Err(OpError::new(Status::Unavailable, "the server is ending")))?;
        }
    }
    worker.node.counters.note_written(len);
    Ok(())
}

/// Writes what is not to be evicted before it was copied.
async fn written(worker: &Rc<Worker>, used: Use, write: ChunkWrite) -> OpResult<()> {
    let (ino, dirty) = (write.key.ino, worker.node.backing.evictor().dirty());
    let may_go = worker.node.backing.is_enabled();
    if may_go {
        dirty.note_write(ino);
    }
    let written = room::write(worker, &used, write).await;
    if may_go {
        // Again, for a copy that began meanwhile.
        dirty.note_write(ino);
    }
    written
}

/// Reads a piece of a chunk.
pub async fn read(worker: &Rc<Worker>, context: &Context, request: ReadChunk) -> OpResult<Answer> {
    if request.len > BULK_MAX {
        return Err(OpError::new(Status::Invalid, "a read moves at most 16 MiB"));
    }
    let len = request.len as usize;
    let mut buffer = context.buffer(worker, len).await?;
    let key = ChunkKey { ino: request.ino, chunk: request.chunk };
    let used = worker.node.backing.enter(key.ino).await;
    match fetch::ensure(worker, &used, key, Want::Bytes).await? {
        Ensured::Passed(chunk) => {
            let end = chunk.len().min(request.offset as usize + len);
            let data = &chunk[(request.offset as usize).min(end)..end];
            // Memory for what is fetched is not held up by whoever reads the answer slowly.
            buffer[..data.len()].copy_from_slice(data);
            worker.node.counters.note_read(data.len());
            let crc = crc(data);
            return Ok((ChunkRead { crc }.to_bytes(), buffer.freeze().slice(..data.len())));
        }
        Ensured::Fetched => fetch::ahead(worker, key),
        Ensured::Here | Ensured::Fill(_) => {}
    }
    let compare = if request.compared { Compare::Here } else { Compare::ByReader };
    let ChunkData { data, crc } = access::read(worker, key, request.offset, len, buffer, compare).await?;
    worker.node.counters.note_read(data.len());
    Ok((ChunkRead { crc }.to_bytes(), data))
}

/// Cuts a file's chunks here.
pub async fn truncate(worker: &Rc<Worker>, _: &Context, request: TruncateChunks) -> OpResult<()> {
    let node = &worker.node;
    let change = hot::holder::change(worker, request.ino).await?;
    let _alone = node.backing.alone(request.ino).await;
    if fetch::cut(node, request.ino, request.chunk, request.keep_bytes)? && node.syncs_device() {
        // Or what was cut off could be fetched again after a loss of power.
        crate::sync::group_sync(node).await?;
    }
    access::truncate(worker, request.ino, request.chunk, request.keep_bytes).await?;
    change.done();
    Ok(())
}

/// Removes files' chunks here, and what is known here of where others are.
pub async fn remove(worker: &Rc<Worker>, _: &Context, request: DropChunks) -> OpResult<()> {
    let node = &worker.node;
    let (mut alone, mut concerned, mut changes) = (Vec::new(), Vec::new(), Vec::new());
    let mut inos = request.inos;
    // In one order for all: who waits for a file has others already.
    inos.sort_unstable();
    for ino in &inos {
        changes.push(hot::holder::change(worker, *ino).await?);
        node.backing.evictor().dirty().note_copy(*ino);
        if node.backing.concerns(*ino) {
            concerned.push(*ino);
        }
        alone.push(node.backing.alone(*ino).await);
    }
    rows::forget(node, &concerned)?;
    node.store.remove(&inos)?;
    overflow::forget(node, &inos)?;
    changes.into_iter().for_each(Change::done);
    node.pointers.remove(&**node.namespace.kv(), &inos)
}

/// Makes a hole in a chunk.
pub async fn punch(worker: &Rc<Worker>, _: &Context, request: PunchChunk) -> OpResult<()> {
    let node = &worker.node;
    let key = ChunkKey { ino: request.ino, chunk: request.chunk };
    let change = hot::holder::change(worker, key.ino).await?;
    let used = node.backing.enter(key.ino).await;
    // What the hole covers as a whole needs its mark alone.
    let covers = request.offset..request.offset.saturating_add(request.len);
    let _filling = fetch::ensure(worker, &used, key, Want::Overwritten(covers)).await?;
    if node.backing.is_enabled() {
        node.backing.evictor().dirty().note_write(key.ino);
    }
    if node.backing.concerns(key.ino) {
        rows::keep(node, key.ino, key.chunk)?;
    }
    access::punch(worker, key, request.offset, request.len).await?;
    change.done();
    Ok(())
}

/// Where a chunk has data.
pub async fn ranges(worker: &Rc<Worker>, _: &Context, request: ChunkRanges) -> OpResult<Vec<(u32, u32)>> {
    let key = ChunkKey { ino: request.ino, chunk: request.chunk };
    let used = worker.node.backing.enter(key.ino).await;
    if let Some(bytes) = fetch::elsewhere(worker, &used, key).await? {
        return Ok(vec![(0, bytes)]);
    }
    chunk_map::ranges(worker, key).await
}

/// Makes what was written here durable, if that is what fsync promises.
pub async fn sync(worker: &Rc<Worker>, _: &Context, _: SyncChunks) -> OpResult<()> {
    if worker.node.syncs_device() {
        crate::sync::group_sync(&worker.node).await?;
    }
    Ok(())
}
