//! Requests of the workers: as `engine`, but small writes are gathered, data is in buffers of the pool, and in direct mode
//! nothing blocks the thread on the device.
//!
//! # Invariants
//! - A write goes on to its end when nobody waits for it any more: its place in the log counts as under way until the
//!   device is done with it (`tests/store`, `an_abandoned_write_is_whole_or_absent`).
//! - As everywhere, nothing that did not match its CRC is returned to who does not compare it (`tests/store`, `damage_is_told_in_direct_mode`).
//! - The CRC that comes with data is of exactly that data (`tests/store`, `sums_are_those_of_what_was_read`).

use super::crc_cache::{Sums, Table};
use super::disk::direct::{ALIGN, Aligned, DirectFile, blocks};
use super::disk::ring::{self, Part};
use super::engine::{self, Core, LogStore, Made, read_range};
use super::extent::Extent;
use super::format::{BlockSpan, HEADER_BYTES, Position};
use super::gather;
use super::group::{self, ChunkWrite};
use super::reader::{self, Compare, Source};
use super::{ChunkKey, StoreError};
use bytes::Bytes;
use fs_net::PoolBuffer;
use futures_util::future::join;
use futures_util::stream::{self, StreamExt};
use std::io;
use std::ops::Range;
use std::sync::Arc;

/// A record's begin and the wanted data are read with one request if they are within so many bytes.
const TOGETHER_BYTES: u64 = 128 << 10;
/// Parts of one read that are read at once.
const PARTS: usize = 8;

/// What a read gives.
#[derive(Debug, Clone, Default)]
pub struct ChunkData {
    /// The content.
    pub data: Bytes,
    /// Its CRC.
    pub crc: u32,
}

impl LogStore {
    /// As [`ChunkStore::write`](super::ChunkStore::write), of data whose sums are known; without blocking the thread in
    /// direct mode. Small writes that come at the same time are written together. Needs a runtime with local tasks.
    pub async fn write_bytes(&self, write: ChunkWrite) -> Result<(), StoreError> {
        engine::check_range(write.offset, write.data.len())?;
        if write.data.is_empty() {
            return self.core().log.check();
        }
        let core = self.shared_core();
        if write.data.len() < gather::GATHERED_BELOW {
            return gather::write(&core, write).await;
        }
        if !core.is_direct {
            return core.write(write.key, write.offset, &write.data, &write.sums);
        }
        // A task of its own, which nobody's impatience ends.
        let writing = tokio::task::spawn_local(async move { group::write(&core, &[write]).await });
        let mut outcomes = writing.await.map_err(|gone| StoreError::Io(io::Error::other(gone)))?;
        outcomes.pop().unwrap_or(Ok(()))
    }

    /// Writes pieces in groups, by calls that block. Returns how each ended.
    pub fn write_many(&self, writes: &[ChunkWrite]) -> Vec<Result<(), StoreError>> {
        let mut outcomes = Vec::with_capacity(writes.len());
        while outcomes.len() < writes.len() {
            let rest = &writes[outcomes.len()..];
            outcomes.extend(group::write_now(self.core(), &rest[..rest.len().min(group::GROUP_RECORDS)]));
        }
        outcomes
    }

    /// Up to `len` bytes at `offset` of a chunk, fewer if it ends before, in a buffer of at least that length; without
    /// blocking the thread in direct mode. Needs a runtime with local tasks there. With it comes its CRC: of what it was written as, if the caller compares.
    pub async fn read_buffer(
        &self,
        key: ChunkKey,
        offset: u32,
        len: usize,
        mut buffer: PoolBuffer,
        compare: Compare,
    ) -> Result<ChunkData, StoreError> {
        let core = self.core();
        if !core.is_direct {
            let (got, crc) = core.read(key, offset, &mut buffer[..len], compare)?;
            return Ok(ChunkData { data: first(buffer, got), crc });
        }
        let Some((range, pieces)) = read_range(core, key, offset, len)? else {
            return Ok(ChunkData::default());
        };
        if let [(extent, file)] = &pieces[..]
            && (extent.start, extent.end) == (range.start, range.end)
            && let Some(file) = Arc::clone(file).direct()
        {
            let plan = Plan::of(core, extent);
            if plan.blocks().1 <= buffer.whole().len() {
                let part = Part::Pool(buffer, plan.blocks().1);
                let (part, found, crc) = read_planned(core, key, &file, plan, part, compare).await?;
                return Ok(ChunkData { data: part_of(part, found), crc });
            }
        }
        let crc = read_parts(core, key, offset, &pieces, &mut buffer[..range.len()], compare).await?;
        Ok(ChunkData { data: first(buffer, range.len()), crc })
    }
}

fn first(mut buffer: PoolBuffer, len: usize) -> Bytes {
    buffer.truncate(len);
    buffer.freeze()
}

/// The bytes of a part, which goes back to the pool when they are dropped if it is of one.
fn part_of(part: Part, range: Range<usize>) -> Bytes {
    match part {
        Part::Pool(buffer, _) => Bytes::from_owner(Whole(buffer)).slice(range),
        Part::Own(memory) => Bytes::copy_from_slice(&memory[range]),
        Part::Shared(bytes) => bytes.slice(range),
    }
}

/// All memory of a buffer: what is wanted may lie behind the length that was asked of the pool.
struct Whole(PoolBuffer);

impl AsRef<[u8]> for Whole {
    fn as_ref(&self) -> &[u8] {
        self.0.whole()
    }
}

/// Reads extents into `out`, which begins at `offset` of the chunk, several at once. Returns the CRC of all.
async fn read_parts(
    core: &Core,
    key: ChunkKey,
    offset: u32,
    pieces: &engine::Pieces,
    out: &mut [u8],
    compare: Compare,
) -> Result<u32, StoreError> {
    let reads = pieces.iter().map(|(extent, file)| async move {
        match Arc::clone(file).direct() {
            Some(file) => {
                let plan = Plan::of(core, extent);
                let part = Part::Own(Aligned::new(plan.blocks().1));
                read_planned(core, key, &file, plan, part, compare).await
            }
            None => read_blocking(core, key, (extent, &**file), compare),
        }
    });
    let mut reads = stream::iter(reads).buffered(PARTS);
    let end = out.len();
    let mut made = Made::new(out);
    for (extent, _) in pieces {
        let Some(read) = reads.next().await else { return Err(lost()) };
        let (part, found, sum) = read?;
        made.skip_to((extent.start - offset) as usize);
        made.fill(found.len(), |to| {
            to.copy_from_slice(&part.bytes()[found.clone()]);
            Ok::<_, StoreError>(sum)
        })?;
    }
    made.skip_to(end);
    Ok(made.sum)
}

fn read_blocking(
    core: &Core,
    key: ChunkKey,
    (extent, file): (&Extent, &dyn super::disk::SegmentFile),
    compare: Compare,
) -> Result<Found, StoreError> {
    let len = (extent.end - extent.start) as usize;
    let mut memory = Aligned::new(len);
    let sum = core.read_extent(key, (extent, file), &mut memory[..len], compare)?;
    Ok((Part::Own(memory), 0..len, sum))
}

/// Carries out a plan with memory for its blocks. Returns the memory, where in it the wanted bytes are, and their CRC.
async fn read_planned(
    core: &Core,
    key: ChunkKey,
    file: &Arc<DirectFile>,
    plan: Plan,
    main: Part,
    compare: Compare,
) -> Result<Found, StoreError> {
    let extent = &plan.extent;
    let front = plan.front_bytes();
    let parts = (front > 0).then(|| Part::Own(Aligned::new(front))).into_iter().chain([main]).collect();
    let reading = ring::read(Arc::clone(file), parts, plan.blocks().0 - front as u64);
    let (table, (got, mut parts)) = match &plan.table {
        TableFrom::Memory(table) => (Some(Arc::clone(table)), reading.await),
        TableFrom::Here => (None, reading.await),
        TableFrom::Elsewhere => {
            let (table, read) = join(table_of(core, key, file, extent), reading).await;
            (Some(table?), read)
        }
    };
    let got = got.map_err(|error| core.unread(key, extent, error.into()))?.saturating_sub(front);
    let Some(main) = parts.pop() else { return Err(lost()) };
    let table = match table.or_else(|| plan.table_in(core, file, parts.first().unwrap_or(&main))) {
        Some(table) => table,
        None => table_of(core, key, file, extent).await?,
    };
    match plan.verify(&table, main.bytes(), got, compare) {
        Some((found, sum)) => Ok((main, found, sum)),
        None => Err(core.corrupt(key, extent)),
    }
}

/// Memory, where in it the wanted bytes are, and their CRC.
type Found = (Part, Range<usize>, u32);

/// Where the block CRCs for a read come from.
enum TableFrom {
    Memory(Table),
    /// The same request.
    Here,
    /// One of its own.
    Elsewhere,
}

/// How an extent's part is read.
struct Plan {
    extent: Extent,
    span: BlockSpan,
    /// Byte of the file where the first block of the record that is wanted begins.
    wanted_at: u64,
    /// From which byte on how many are read.
    from: u64,
    bytes: usize,
    /// Where the request begins: before `from` if the record's begin comes into memory of its own.
    begin: u64,
    table: TableFrom,
}

impl Plan {
    fn of(core: &Core, extent: &Extent) -> Plan {
        let shape = extent.place.shape;
        let len = (extent.end - extent.start) as usize;
        let span = BlockSpan::covering(shape, extent.start, len);
        let (record, wanted_at) = (extent.place.position().byte(), shape.byte_of(span.start));
        let want = span.head + len + span.tail;
        let end = wanted_at + want as u64;
        let is_on_blocks = record.is_multiple_of(ALIGN) && wanted_at.is_multiple_of(ALIGN);
        let (from, begin, table) = match core.cache.get(&extent.place.position()) {
            Some(table) => (wanted_at, wanted_at, TableFrom::Memory(table)),
            None if span.start == shape.offset && is_on_blocks => (wanted_at, record, TableFrom::Here),
            None if end - record <= TOGETHER_BYTES => (record, record, TableFrom::Here),
            None => (wanted_at, wanted_at, TableFrom::Elsewhere),
        };
        Plan { extent: *extent, span, wanted_at, from, bytes: (end - from) as usize, begin, table }
    }

    /// First byte and number of bytes of what is read into the main memory.
    fn blocks(&self) -> (u64, usize) {
        blocks(self.from, self.bytes)
    }

    /// Bytes of the record's begin that come into memory of their own.
    fn front_bytes(&self) -> usize {
        (self.from - self.begin) as usize
    }

    /// The record's block CRCs, from memory that has its begin.
    fn table_in(&self, core: &Core, file: &Arc<DirectFile>, part: &Part) -> Option<Table> {
        let source = core.source(&**file, &self.extent);
        let skipped = (self.begin % ALIGN) as usize;
        let front = part.bytes().get(skipped..skipped + source.front_bytes())?;
        source.table_in(front).map(|table| core.cache_table(self.extent.place.position(), table))
    }

    /// Where the wanted bytes are in the main memory, of which `got` were read, and their CRC, if they match.
    fn verify(
        &self,
        table: &Sums,
        memory: &[u8],
        got: usize,
        compare: Compare,
    ) -> Option<(Range<usize>, u32)> {
        let at = (self.wanted_at - self.blocks().0) as usize;
        let wanted =
            at + self.span.head..at + self.span.head + (self.extent.end - self.extent.start) as usize;
        let all = memory.get(..got)?.get(at..wanted.end + self.span.tail)?;
        let (head, rest) = all.split_at(self.span.head);
        let (middle, tail) = rest.split_at(wanted.len());
        let sum = reader::verify(self.extent.place.shape, &self.span, table, [head, middle, tail], compare)?;
        Some((wanted, sum))
    }
}

/// The verified block CRCs of the record that holds an extent.
async fn table_of(
    core: &Core,
    key: ChunkKey,
    file: &Arc<DirectFile>,
    extent: &Extent,
) -> Result<Table, StoreError> {
    let position = extent.place.position();
    if let Some(table) = core.cache.get(&position) {
        return Ok(table);
    }
    let source = core.source(&**file, extent);
    let want = source.front_bytes();
    let (begin, bytes) = blocks(position.byte(), want);
    let (got, mut parts) = ring::read(Arc::clone(file), vec![Part::Own(Aligned::new(bytes))], begin).await;
    let got = got.map_err(|error| core.unread(key, extent, error.into()))?;
    let Some(part) = parts.pop() else { return Err(lost()) };
    let from = (position.byte() - begin) as usize;
    match source.table_in(&part.bytes()[from.min(got)..got.min(from + want)]) {
        Some(table) => Ok(core.cache_table(position, table)),
        // The header may be damaged and its repetition not: rare enough to block for.
        None => match source.load_table() {
            Ok(table) => Ok(core.cache_table(position, &table)),
            Err(fault) => Err(core.unread(key, extent, fault)),
        },
    }
}

/// The ring gives memory back with every result.
fn lost() -> StoreError {
    StoreError::Io(io::Error::other("an operation came back without its memory"))
}

impl Core {
    /// Keeps a verified table of CRCs.
    fn cache_table(&self, position: Position, table: &[u8]) -> Table {
        let table = Sums::decode(table);
        self.cache.insert(position, Arc::clone(&table));
        table
    }
}

impl Source<'_> {
    /// Bytes of the record's header and CRCs.
    fn front_bytes(&self) -> usize {
        HEADER_BYTES + 4 * self.place.shape.blocks()
    }
}
