//! The way of operations on a chunk to where its bytes are: the store here, or its keeper.

use std::ops::Range;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use bytes::Bytes;
use fs_net::PoolBuffer;
use fs_proto::msg::chunk::{ChunkRanges, PunchChunk, ReadChunk, TruncateChunks, WriteChunk};
use fs_proto::msg::vault::VaultList;
use fs_proto::record::OverflowRecord;
use fs_proto::{ChunkIndex, InodeId, Request, ServerId, Status};

use super::moving::{self, Outcome};
use super::{STORE_KNOWN, forget_from, has_begun, kept, list};
use crate::backing::claims::Use;
use crate::error::{OpError, OpResult};
use crate::store::{ChunkData, ChunkKey, ChunkStore, ChunkWrite, Compare, StoreError};
use crate::worker::Worker;

/// Chunk of a keeper's object that has the bytes.
pub(super) const AT: ChunkIndex = ChunkIndex(0);
/// No object's name begins so: for who asks a vault only which store it has.
const NOTHING: &[u8] = b"overflow-of-nobody";

/// Who keeps a chunk, once nobody moves it.
async fn find(worker: &Worker, key: ChunkKey) -> OpResult<Option<OverflowRecord>> {
    worker.node.overflow.settled(key).await;
    kept(&worker.node, key)
}

/// Writes into a chunk. Where there is no room another server is looked for to keep it.
pub async fn write(worker: &Rc<Worker>, used: &Use, write: ChunkWrite) -> OpResult<()> {
    let (node, key) = (&worker.node, write.key);
    loop {
        if let Some(record) = find(worker, key).await? {
            return write_there(worker, &record, write).await;
        }
        match node.store.write_bytes(write.clone()).await {
            Ok(()) if !has_begun(node, key)? => return Ok(()),
            // It may have stayed behind: written again where the chunk is by now.
            Ok(()) => {}
            Err(StoreError::NoSpace) => match moving::out(worker, used, key, Some(&write)).await? {
                Outcome::Moved => return Ok(()),
                Outcome::LookAgain => {}
                Outcome::Stays => return Err(StoreError::NoSpace.into()),
            },
            Err(error) => return Err(error.into()),
        }
    }
}

async fn write_there(worker: &Rc<Worker>, record: &OverflowRecord, write: ChunkWrite) -> OpResult<()> {
    check_store(worker, record).await?;
    send(worker, record, write.offset, write.sums.crc(), write.data).await
}

/// Writes into a keeper's object.
pub(super) async fn send(
    worker: &Rc<Worker>,
    record: &OverflowRecord,
    offset: u32,
    crc: u32,
    data: Bytes,
) -> OpResult<()> {
    let write = WriteChunk { ino: record.place, chunk: AT, offset, file_end: 0, since: 0, crc };
    let (overflow, len) = (&worker.node.overflow, data.len() as u64);
    overflow.passed_on.fetch_add(1, Ordering::Relaxed);
    worker.send(record.keeper, &write, data).await?;
    overflow.sent_bytes.fetch_add(len, Ordering::Relaxed);
    Ok(())
}

/// Reads a piece of a chunk into `buffer`, or from its keeper.
pub async fn read(
    worker: &Rc<Worker>,
    key: ChunkKey,
    offset: u32,
    len: usize,
    buffer: PoolBuffer,
    compare: Compare,
) -> OpResult<ChunkData> {
    if let Some(record) = find(worker, key).await? {
        drop(buffer);
        return read_there(worker, &record, offset, len, compare).await;
    }
    let data = worker.node.store.read_buffer(key, offset, len, buffer, compare).await?;
    match kept(&worker.node, key)? {
        None => Ok(data),
        // It went while it was read. Nothing is held while this waits for memory at the keeper, who may wait for some here.
        Some(record) => {
            drop(data);
            read_there(worker, &record, offset, len, compare).await
        }
    }
}

/// Reads from a chunk's keeper.
pub async fn read_there(
    worker: &Rc<Worker>,
    record: &OverflowRecord,
    offset: u32,
    len: usize,
    compare: Compare,
) -> OpResult<ChunkData> {
    check_store(worker, record).await?;
    let compared = compare == Compare::Here;
    let read = ReadChunk { ino: record.place, chunk: AT, offset, len: len as u32, compared };
    worker.node.overflow.passed_on.fetch_add(1, Ordering::Relaxed);
    let (answer, data) = worker.fetch(record.keeper, &read).await?;
    Ok(ChunkData { data, crc: answer.crc })
}

/// Where a chunk has data.
pub async fn ranges(worker: &Rc<Worker>, key: ChunkKey) -> OpResult<Vec<Range<u32>>> {
    if let Some(record) = find(worker, key).await? {
        return ranges_there(worker, &record).await;
    }
    let ranges = worker.node.store.ranges(key)?;
    match kept(&worker.node, key)? {
        None => Ok(ranges),
        Some(record) => ranges_there(worker, &record).await,
    }
}

/// Where a chunk that is with its keeper has data.
pub async fn ranges_there(worker: &Rc<Worker>, record: &OverflowRecord) -> OpResult<Vec<Range<u32>>> {
    let ranges = there(worker, record, &ChunkRanges { ino: record.place, chunk: AT }).await?;
    Ok(ranges.into_iter().map(|(start, end)| start..end).collect())
}

/// Makes a hole in a chunk.
pub async fn punch(worker: &Rc<Worker>, key: ChunkKey, offset: u32, len: u32) -> OpResult<()> {
    loop {
        if let Some(record) = find(worker, key).await? {
            return there(worker, &record, &PunchChunk { ino: record.place, chunk: AT, offset, len }).await;
        }
        worker.node.store.punch(key, offset, len)?;
        if !has_begun(&worker.node, key)? {
            return Ok(());
        }
    }
}

/// Cuts a file's chunks, here and with keepers. The caller is alone with the file.
pub async fn truncate(worker: &Rc<Worker>, ino: InodeId, chunk: ChunkIndex, keep_bytes: u32) -> OpResult<()> {
    let node = &worker.node;
    if let Some((_, record)) = list(node, ino, chunk, 1)?.into_iter().find(|(at, _)| *at == chunk)
        && keep_bytes > 0
    {
        let cut = TruncateChunks { ino: record.place, chunk: AT, keep_bytes };
        there(worker, &record, &cut).await?;
    }
    let first = if keep_bytes > 0 { ChunkIndex(chunk.0.saturating_add(1)) } else { chunk };
    forget_from(node, ino, first)?;
    Ok(node.store.truncate(ino, chunk, keep_bytes)?)
}

async fn there<R: Request>(worker: &Rc<Worker>, record: &OverflowRecord, request: &R) -> OpResult<R::Reply> {
    check_store(worker, record).await?;
    worker.node.overflow.passed_on.fetch_add(1, Ordering::Relaxed);
    worker.ask(record.keeper, request).await
}

/// Refuses if the keeper has another store than the one that the chunk went to.
async fn check_store(worker: &Rc<Worker>, record: &OverflowRecord) -> OpResult<()> {
    let stores = &worker.node.overflow.stores;
    let known = stores.lock().get(&record.keeper).filter(|(since, _)| since.elapsed() < STORE_KNOWN).copied();
    let store = match known {
        Some((_, store)) => store,
        None => store_of(worker, record.keeper).await?,
    };
    if store == record.store {
        return Ok(());
    }
    Err(OpError::because(
        Status::Io,
        format!("server {}, which kept this part of the file, has lost its store", record.keeper.0),
    ))
}

async fn store_of(worker: &Rc<Worker>, server: ServerId) -> OpResult<u64> {
    let asked = VaultList { prefix: Bytes::from_static(NOTHING), after: Bytes::new() };
    let page = worker.ask(server, &asked).await?;
    worker.node.overflow.stores.lock().insert(server, (Instant::now(), page.store));
    Ok(page.store)
}
