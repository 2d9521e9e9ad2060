//! Copy a piece of a chunk into a chunk of a file, from server to server: the bytes do not go through a client.
//!
//! The server that holds the source reads and sends. Within one server it is a read and a write of the store: records of the log belong to
//! one chunk each, so none is shared.
//!
//! # Invariants
//! - What is a hole in the source is a hole in the copy, if it has [`HOLE_MIN`] bytes or more (`tests/tests/copy.rs`:
//!   `holes_are_copied_as_holes`).
//! - A copy holds one buffer of the class that waits for requests of servers and not the other way round, so two servers that copy to each
//!   other do not wait for one another (`servers_that_copy_to_each_other_end`).

use std::ops::Range;
use std::rc::Rc;

use bytes::Bytes;

use fs_proto::checksum::crc;
use fs_proto::msg::chunk::{CopyChunk, CopyChunkTo, PunchChunk, WriteChunk};
use fs_proto::placement::chunk_partition;
use fs_proto::{BULK_MAX, ServerId, Status};

use crate::backing::claims::Use;
use crate::backing::fetch::{self, Want};
use crate::error::{OpError, OpResult};
use crate::overflow::access;
use crate::store::{ChunkKey, Compare};
use crate::worker::{Context, Worker};

/// Holes of fewer bytes are copied as zeros: a message more costs more than these.
const HOLE_MIN: u32 = 4096;

/// Copies a piece of a chunk that is held here to the owner of the copy's partition.
pub async fn copy(worker: &Rc<Worker>, context: &Context, request: CopyChunk) -> OpResult<()> {
    let to = worker.node.owner(chunk_partition(request.ino, request.chunk));
    copy_to(worker, context, CopyChunkTo { copy: request, to }).await
}

/// Copies a piece of a chunk that is held here.
pub async fn copy_to(worker: &Rc<Worker>, _: &Context, request: CopyChunkTo) -> OpResult<()> {
    let CopyChunkTo { copy: request, to } = request;
    let end = request.from_offset.checked_add(request.len).filter(|_| request.len <= BULK_MAX);
    let end = end.ok_or(OpError::new(Status::Invalid, "a copy moves at most 16 MiB"))?;
    let key = ChunkKey { ino: request.from, chunk: request.from_chunk };
    let ranges = {
        let _used = at_hand(worker, key).await?;
        access::ranges(worker, key).await?
    };
    let mut at = request.from_offset;
    for data in runs(ranges, at..end) {
        if at < data.start {
            hole(worker, to, &request, at..data.start).await?;
        }
        at = data.end;
        move_data(worker, to, &request, key, data).await?;
    }
    if at < end {
        hole(worker, to, &request, at..end).await?;
    }
    Ok(())
}

/// Has a chunk here as long as the answer lives. That is never longer than it is read: who writes it may be in the same file, and wait behind somebody
/// who cuts it and waits for this.
async fn at_hand(worker: &Rc<Worker>, key: ChunkKey) -> OpResult<Use> {
    let used = worker.node.backing.enter(key.ino).await;
    fetch::ensure(worker, &used, key, Want::Stored).await?;
    Ok(used)
}

/// What of `within` is copied as data.
pub fn runs(ranges: Vec<Range<u32>>, within: Range<u32>) -> Vec<Range<u32>> {
    let mut runs: Vec<Range<u32>> = Vec::new();
    for range in ranges {
        let (start, end) = (range.start.max(within.start), range.end.min(within.end));
        match runs.last_mut() {
            _ if start >= end => {}
            Some(last) if start - last.end < HOLE_MIN => last.end = end,
            _ => runs.push(start..end),
        }
    }
    runs
}

/// Where a byte of the source's chunk goes to in the copy's.
fn place(request: &CopyChunk, at: u32) -> u32 {
    request.offset + (at - request.from_offset)
}

async fn hole(worker: &Rc<Worker>, to: ServerId, request: &CopyChunk, hole: Range<u32>) -> OpResult<()> {
    let (ino, chunk) = (request.ino, request.chunk);
    let punch = PunchChunk { ino, chunk, offset: place(request, hole.start), len: hole.end - hole.start };
    worker.ask(to, &punch).await
}

async fn move_data(
    worker: &Rc<Worker>,
    to: ServerId,
    request: &CopyChunk,
    from: ChunkKey,
    data: Range<u32>,
) -> OpResult<()> {
    let len = (data.end - data.start) as usize;
    let pool = &worker.env.pool;
    let buffer = pool.get(len).await.map_err(|error| OpError::because(Status::Invalid, error.to_string()))?;
    let read = {
        let _used = at_hand(worker, from).await?;
        access::read(worker, from, data.start, len, buffer, Compare::Here).await?
    };
    worker.node.counters.note_read(read.data.len());
    let (bytes, sum) = if read.data.len() == len { (read.data, read.crc) } else { padded(&read.data, len) };
    let (ino, chunk) = (request.ino, request.chunk);
    let write = WriteChunk {
        ino,
        chunk,
        offset: place(request, data.start),
        file_end: request.file_end,
        since: request.since,
        crc: sum,
    };
    worker.send(to, &write, bytes).await
}

/// The source was cut since its ranges were looked at: what is gone reads as zeros.
fn padded(data: &[u8], len: usize) -> (Bytes, u32) {
    let mut whole = vec![0; len];
    whole[..data.len()].copy_from_slice(data);
    let sum = crc(&whole);
    (whole.into(), sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[allow(clippy::single_range_in_vec_init)]
    fn small_holes_are_data_and_large_ones_are_not() {
        let ranges = || vec![0..10, 20..30, 30 + HOLE_MIN..5000];
        assert_eq!(runs(ranges(), 0..10_000), [0..30, 30 + HOLE_MIN..5000]);
        assert_eq!(runs(ranges(), 5..25), [5..25]);
        assert_eq!(runs(ranges(), 40..4000), []);
    }
}
