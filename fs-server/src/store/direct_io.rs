//! Requests of the workers on a store in direct mode: as `engine`, but nothing blocks the thread on the device.
//!
//! # Invariants
//! - A write goes on to its end when nobody waits for it any more: its place in the log counts as under way until the
//!   device is done with it (`tests/store`, `an_abandoned_write_is_whole_or_absent`).
//! - As everywhere, nothing that did not match its CRC is returned.

use super::crc_cache;
use super::disk::direct::{ALIGN, Aligned, DirectFile, blocks, is_aligned};
use super::disk::ring::{self, Part};
use super::engine::{Core, LogStore, read_range};
use super::extent::Extent;
use super::format::{self, HEADER_BYTES, Position};
use super::log::Ticket;
use super::reader::{Fault, Source};
use super::{ChunkKey, ChunkStore, StoreError};
use bytes::Bytes;
use fs_net::PoolBuffer;
use fs_proto::checksum::BLOCK_BYTES;
use futures_util::future::join;
use std::io;
use std::sync::Arc;

/// A record's begin and the wanted data are read with one request if they are within so many bytes.
const TOGETHER_BYTES: u64 = 128 << 10;

impl LogStore {
    /// As [`ChunkStore::write`], without blocking the thread in direct mode. Needs a `LocalSet` there.
    pub async fn write_bytes(&self, key: ChunkKey, offset: u32, data: Bytes) -> Result<(), StoreError> {
        if !self.core().is_direct || data.is_empty() {
            return self.write(key, offset, &data);
        }
        super::engine::check_range(offset, data.len())?;
        let core = self.shared_core();
        // A task of its own, which nobody's impatience ends.
        let writing = tokio::task::spawn_local(async move { write(&core, key, offset, data).await });
        writing.await.unwrap_or_else(|gone| Err(StoreError::Io(io::Error::other(gone))))
    }

    /// As [`ChunkStore::read`] into the first `len` bytes of a buffer, which comes back with the number of bytes
    /// read; without blocking the thread in direct mode. Needs a `LocalSet` there.
    pub async fn read_buffer(
        &self,
        key: ChunkKey,
        offset: u32,
        len: usize,
        mut buffer: PoolBuffer,
    ) -> Result<(PoolBuffer, usize), StoreError> {
        let core = self.core();
        if !core.is_direct {
            let got = self.read(key, offset, &mut buffer[..len])?;
            return Ok((buffer, got));
        }
        let Some((range, pieces)) = read_range(core, key, offset, len)? else { return Ok((buffer, 0)) };
        if let [(extent, file)] = &pieces[..]
            && extent.start == range.start
            && extent.end == range.end
            && let Some(file) = Arc::clone(file).direct()
        {
            let buffer = read_one(core, key, file, extent, buffer).await?;
            return Ok((buffer, (range.end - range.start) as usize));
        }
        let mut cursor = range.start;
        for (extent, file) in pieces {
            buffer[(cursor - offset) as usize..(extent.start - offset) as usize].fill(0);
            let out = (extent.start - offset) as usize..(extent.end - offset) as usize;
            match Arc::clone(&file).direct() {
                Some(file) => read_into(core, key, file, &extent, &mut buffer[out]).await?,
                None => core.read_extent(key, &*file, &extent, &mut buffer[out])?,
            }
            cursor = extent.end;
        }
        buffer[(cursor - offset) as usize..(range.end - offset) as usize].fill(0);
        Ok((buffer, (range.end - offset) as usize))
    }
}

async fn write(core: &Core, key: ChunkKey, offset: u32, data: Bytes) -> Result<(), StoreError> {
    let table = format::block_table(offset, &data);
    let ticket = core.reserve_data(&super::engine::data_request(key, offset, data.len(), &table))?;
    match ticket.direct_file() {
        Some(file) => write_record(&ticket, file, &table, data).await?,
        None => ticket.write(&table, &data)?,
    }
    core.enter(key, ticket)
}

/// Writes a record. Its data goes to the device from where it is, if that is aligned, else through a copy.
async fn write_record(
    ticket: &Ticket<'_>,
    file: Arc<DirectFile>,
    table: &[u8],
    data: Bytes,
) -> Result<(), StoreError> {
    let shape = ticket.header.shape();
    let front_bytes = shape.data_at() as usize;
    let record_bytes = (shape.total_bytes() as usize).next_multiple_of(BLOCK_BYTES);
    let whole = data.len() / BLOCK_BYTES * BLOCK_BYTES;
    let parts = if front_bytes.is_multiple_of(BLOCK_BYTES) && is_aligned(&data) && whole > 0 {
        let (mut front, rest) = (Aligned::new(front_bytes), &data[whole..]);
        let mut back = Aligned::new(record_bytes - front_bytes - whole);
        back[..rest.len()].copy_from_slice(rest);
        ticket.frame_into(table, &mut front, &mut back[rest.len()..]);
        vec![Part::Own(front), Part::Shared(data.slice(..whole)), Part::Own(back)]
    } else {
        let mut all = Aligned::new(record_bytes);
        let (front, others) = all.split_at_mut(front_bytes);
        let (middle, back) = others.split_at_mut(data.len());
        middle.copy_from_slice(&data);
        ticket.frame_into(table, front, back);
        vec![Part::Own(all)]
    };
    let written = ring::write(file, parts, ticket.header.at.byte()).await;
    written.map_err(|error| ticket.failed(error))
}

/// Reads an extent's part into a buffer from its begin: in place if its blocks lie as the device wants them.
async fn read_one(
    core: &Core,
    key: ChunkKey,
    file: Arc<DirectFile>,
    extent: &Extent,
    mut buffer: PoolBuffer,
) -> Result<PoolBuffer, StoreError> {
    let len = (extent.end - extent.start) as usize;
    let shape = extent.place.shape;
    let at = shape.byte_of(extent.start);
    let covers_blocks = extent.start.is_multiple_of(BLOCK_BYTES as u32)
        && (len.is_multiple_of(BLOCK_BYTES) || extent.end == shape.offset + shape.data_bytes);
    let (_, bytes) = blocks(at, len);
    let is_in_place = at.is_multiple_of(ALIGN)
        && covers_blocks
        && bytes <= buffer.whole_mut().len()
        && is_aligned(buffer.whole_mut());
    if !is_in_place {
        read_into(core, key, file, extent, &mut buffer[..len]).await?;
        return Ok(buffer);
    }
    let reading = ring::read(Arc::clone(&file), Part::Pool(buffer, bytes), at);
    let (table, (got, part)) = join(table_of(core, key, &file, extent), reading).await;
    let (table, got) = (table?, got?);
    let Some(Part::Pool(mut buffer, _)) = part else { return Err(lost()) };
    let source = core.source(&*file, extent);
    if got < len || !source.verify(&table, extent.start, &buffer[..len]) {
        buffer[..len].fill(0);
        return Err(core.corrupt(key, extent));
    }
    Ok(buffer)
}

/// Reads an extent's part into `out` through aligned memory.
async fn read_into(
    core: &Core,
    key: ChunkKey,
    file: Arc<DirectFile>,
    extent: &Extent,
    out: &mut [u8],
) -> Result<(), StoreError> {
    let (shape, position) = (extent.place.shape, extent.place.position());
    let span = format::BlockSpan::covering(shape, extent.start, out.len());
    let want = span.head + out.len() + span.tail;
    let at = shape.byte_of(span.start);
    let source = core.source(&*file, extent);
    let cached = core.cache.get(&position);
    // With the record's begin, which has the CRCs, in one request, if it is not far.
    let begin = position.byte();
    let takes_all = cached.is_none() && at + want as u64 - begin <= TOGETHER_BYTES;
    let from = if takes_all { begin } else { at };
    let (memory, got) = read_blocks(&file, from, (at - from) as usize + want).await?;
    let memory = &memory[((from % ALIGN) as usize).min(got)..got];
    let front = memory.get(..source.front_bytes()).filter(|_| takes_all);
    let table = match (cached, front.and_then(|front| source.table_in(front))) {
        (Some(table), _) => table,
        (None, Some(table)) => core.cache_table(position, table),
        (None, None) => table_of(core, key, &file, extent).await?,
    };
    let blocks = memory.get((at - from) as usize..(at - from) as usize + want);
    let Some(blocks) = blocks.filter(|blocks| source.verify(&table, span.start, blocks)) else {
        return Err(core.corrupt(key, extent));
    };
    out.copy_from_slice(&blocks[span.head..][..out.len()]);
    Ok(())
}

/// The verified block CRCs of the record that holds an extent.
async fn table_of(
    core: &Core,
    key: ChunkKey,
    file: &Arc<DirectFile>,
    extent: &Extent,
) -> Result<crc_cache::Table, StoreError> {
    let position = extent.place.position();
    if let Some(table) = core.cache.get(&position) {
        return Ok(table);
    }
    let source = core.source(&**file, extent);
    let want = source.front_bytes();
    let (memory, got) = read_blocks(file, position.byte(), want).await?;
    let from = (position.byte() % ALIGN) as usize;
    match source.table_in(&memory[from.min(got)..got.min(from + want)]) {
        Some(table) => Ok(core.cache_table(position, table)),
        // The header may be damaged and its repetition not: rare enough to block for.
        None => match source.load_table() {
            Ok(table) => Ok(core.cache_table(position, &table)),
            Err(fault) => Err(lift(core, key, extent, fault)),
        },
    }
}

async fn read_blocks(file: &Arc<DirectFile>, at: u64, len: usize) -> Result<(Aligned, usize), StoreError> {
    let (begin, bytes) = blocks(at, len);
    let (got, part) = ring::read(Arc::clone(file), Part::Own(Aligned::new(bytes)), begin).await;
    match (got?, part) {
        (got, Some(Part::Own(memory))) => Ok((memory, got)),
        _ => Err(lost()),
    }
}

fn lift(core: &Core, key: ChunkKey, extent: &Extent, fault: Fault) -> StoreError {
    match fault {
        Fault::Io(error) => StoreError::Io(error),
        Fault::Corrupt => core.corrupt(key, extent),
    }
}

/// The ring gives memory back with every result.
fn lost() -> StoreError {
    StoreError::Io(io::Error::other("an operation came back without its memory"))
}

impl Core {
    /// Keeps a verified table of CRCs.
    fn cache_table(&self, position: Position, table: &[u8]) -> crc_cache::Table {
        let table: crc_cache::Table = table.into();
        self.cache.insert(position, Arc::clone(&table));
        table
    }
}

impl Source<'_> {
    /// Bytes of the record's header and CRCs.
    fn front_bytes(&self) -> usize {
        HEADER_BYTES + 4 * self.place.shape.blocks()
    }

    /// Whether whole blocks of the record from `start` of the chunk match their CRCs.
    fn verify(&self, table: &[u8], start: u32, blocks: &[u8]) -> bool {
        let shape = self.place.shape;
        let span = format::BlockSpan::covering(shape, start, blocks.len());
        span.head == 0
            && span.tail == 0
            && super::reader::blocks_match(shape, &span, table, [&[], blocks, &[]])
    }
}
