//! Files in parts: whichever servers write them, and whoever holds the chunks.
//!
//! - Object stores want each part in one call. Parts are dealt to the servers that hold chunks, in turn.
//! - A striped file system locks objects. A part is a stripe there (or some, if they are small), and all parts of one object go to one server, which
//!   writes each in pieces as large as its memory allows (decision 0045).
//!
//! A server fetches what it does not hold itself; with `n` servers that is all but one `n`th of the file, which crosses the network between
//! servers once before it goes to the tier.
//!
//! # Invariants
//! - No two servers write into one object of a striped file (`no_two_servers_share_an_object`).
//! - What is gathered at once stays within a quarter of the buffers (`tests/flush`: `with_little_memory_pieces_are_smaller`).

use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use fs_net::{BufferClass, LARGEST_BUFFER, PoolBuffer};
use fs_proto::msg::chunk::ReadChunk;
use fs_proto::msg::tier::{FlushChunks, FlushedShare, PartsOf};
use fs_proto::{Attr, ChunkIndex, ServerId};
use futures_util::future::try_join_all;
use futures_util::stream::{self, StreamExt, TryStreamExt};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::content;
use super::outcome::{FlushResult, Stop};
use crate::node::Node;
use crate::ops::{inline, pointer};
use crate::tier::{Base, Destination, Make, Place, Staged, Stripes, Tier, TierFile};
use crate::worker::Worker;

/// Parts that one server writes of one file, or of one object of it, at once.
const AT_ONCE: u64 = 2;
/// Bytes that are fetched for one part at once.
const FETCHED: u64 = 4 << 20;
/// What room for parts is counted in.
const UNIT: u64 = 1 << 20;

/// Stages a file. `how`: bytes of each part but the last, and the servers that hold chunks.
pub async fn file(
    worker: &Rc<Worker>,
    attr: &Attr,
    place: &Place,
    to: Destination,
    how: (u64, Vec<ServerId>),
) -> FlushResult<Staged> {
    let (node, size, (part_bytes, servers)) = (&worker.node, attr.size, how);
    if part_bytes > LARGEST_BUFFER as u64 {
        return Err(Stop::Failed(format!(
            "a file of {size} bytes is too large for this tier: at most {} bytes fit",
            LARGEST_BUFFER as u64 * crate::tier::PARTS_MAX
        )));
    }
    let (make, target) = (Make::File { size, to: Some(Box::new(to.clone())) }, place.clone());
    let id = node.flusher.on_tier(move |tier| tier.make(&target, &make)).await?;
    let count = size.div_ceil(part_bytes);
    let every = count.min(servers.len() as u64).max(1);
    let parts = (0..every).map(|first| PartsOf { part_bytes, first, every });
    let dealt = if count <= 1 {
        // Nobody else knows of a file that waits in memory.
        vec![(node.id(), PartsOf { part_bytes, first: 0, every: 1 })]
    } else {
        servers.iter().copied().zip(parts).collect()
    };
    let receipts = gathered(worker, attr, place, &servers, dealt).await?;
    let (place, syncs) = (place.clone(), node.syncs_tier());
    let finish = move |tier: &dyn Tier| {
        tier.collect(&place, &receipts)?;
        content::finish(tier, &place, id, size, &to.attributes, syncs)
    };
    Ok(node.flusher.on_tier(finish).await?)
}

/// Has a staged file of a striped file system filled, each object by one server.
pub async fn by_objects(
    worker: &Rc<Worker>,
    attr: &Attr,
    place: &Place,
    servers: &[ServerId],
    stripes: Stripes,
) -> FlushResult<()> {
    let mut writers = servers.to_vec();
    // Names are spread over the servers, and so is who writes files with one object.
    let own = writers.iter().position(|server| *server == worker.node.id()).unwrap_or(0);
    writers.rotate_left(own);
    let dealt = dealt(stripes, attr.size, &writers);
    gathered(worker, attr, place, servers, dealt).await?;
    Ok(())
}

/// Who writes which parts of a file of `size` bytes. A part is one stripe, or as many small ones as a buffer takes. Such parts are of one group of objects if
/// they divide the objects into groups; if not, one server writes all.
fn dealt(stripes: Stripes, size: u64, writers: &[ServerId]) -> Vec<(ServerId, PartsOf)> {
    let Stripes { stripe_bytes, count } = stripes;
    let together = (LARGEST_BUFFER as u64 / stripe_bytes).max(1);
    let groups = if count.is_multiple_of(together) { count / together } else { 1 };
    let part_bytes = stripe_bytes * together;
    let parts =
        (0..groups.min(size.div_ceil(part_bytes))).map(|first| PartsOf { part_bytes, first, every: groups });
    writers.iter().copied().cycle().zip(parts).collect()
}

/// Has parts written by those to whom they are dealt, out of what `holders` hold; returns the receipts.
async fn gathered(
    worker: &Rc<Worker>,
    attr: &Attr,
    place: &Place,
    holders: &[ServerId],
    dealt: Vec<(ServerId, PartsOf)>,
) -> FlushResult<Vec<Bytes>> {
    let request = |parts| content::request_for(&worker.node, attr, place, Some(parts));
    let all = |what: &PartsOf| holders.iter().map(|server| (*server, request(what.clone()))).collect();
    // At all holders before any of them is read: whoever writes the parts.
    content::all_shares(worker, all(&PartsOf::NONE)).await?;
    let written = match &dealt[..] {
        [(alone, parts)] if *alone == worker.node.id() => {
            let own = share(worker, request(parts.clone()), parts.clone()).await;
            own.map(|share| vec![share.receipt])
        }
        _ => {
            let requests = dealt.into_iter().map(|(server, parts)| (server, request(parts))).collect();
            content::all_shares(worker, requests).await
        }
    };
    if written.is_err() {
        // A holder that is away has forgotten, and evicts nothing for a while.
        let _ = content::all_shares(worker, all(&PartsOf::IN_VAIN)).await;
    }
    written
}

/// Writes parts of a staged file.
pub async fn share(worker: &Rc<Worker>, request: FlushChunks, which: PartsOf) -> FlushResult<FlushedShare> {
    if which.part_bytes == 0 || which.every == 0 {
        return Err(Stop::Failed("parts of no size, or none at all".to_owned()));
    }
    let node = &worker.node;
    let piece_bytes = piece_bytes(node, which.part_bytes)?;
    let (server, staging) = (request.server, request.staging.clone());
    let open = move |tier: &dyn Tier| {
        let place = Place { dir: tier.base(Base::Staging(server))?, name: staging };
        Ok(Arc::<dyn TierFile>::from(tier.open_file(&place)?))
    };
    let file = node.flusher.on_tier(open).await?;
    let lanes = (0..AT_ONCE).map(|lane| {
        let mine = PartsOf {
            first: which.first.saturating_add(lane.saturating_mul(which.every)),
            every: which.every.saturating_mul(AT_ONCE),
            ..which
        };
        parts(worker, &request, mine, piece_bytes, &file)
    });
    let bytes = try_join_all(lanes).await?.into_iter().sum();
    let syncs = node.syncs_tier();
    let close = move |_: &dyn Tier| {
        if syncs {
            file.sync()?;
        }
        Ok(file.receipt())
    };
    Ok(FlushedShare { bytes, receipt: node.flusher.on_tier(close).await? })
}

/// Whether the tier wants each part in one call, holes and all.
fn wants_whole_parts(node: &Node) -> bool {
    node.flusher.part_bytes(0).is_some()
}

/// Bytes that are gathered and written at once: a part; or of it, where the tier lets us, as much as all parts together may take of the memory.
fn piece_bytes(node: &Node, part_bytes: u64) -> FlushResult<u64> {
    let most = LARGEST_BUFFER as u64;
    if !wants_whole_parts(node) {
        return Ok(piece_within(room_units(node) as u64 * UNIT).min(part_bytes));
    }
    if part_bytes > most {
        return Err(Stop::Failed(format!("parts of {part_bytes} bytes: at most {most} are gathered")));
    }
    Ok(part_bytes)
}

/// The largest buffer that fits into `room` bytes: a power of two, so that pieces of a stripe begin at multiples of it.
fn piece_within(room: u64) -> u64 {
    (1 << room.max(UNIT).ilog2()).min(LARGEST_BUFFER as u64)
}

/// One part after the other, each piece by piece.
async fn parts(
    worker: &Rc<Worker>,
    request: &FlushChunks,
    which: PartsOf,
    piece_bytes: u64,
    file: &Arc<dyn TierFile>,
) -> FlushResult<u64> {
    let (mut part, mut written) = (which.first, 0);
    while let Some(mut at) = part.checked_mul(which.part_bytes).filter(|start| *start < request.size) {
        let end = request.size.min(at.saturating_add(which.part_bytes));
        while at < end {
            let len = piece_bytes.min(end - at);
            written += piece(worker, request, at..at + len, file).await?;
            at += len;
        }
        part = part.saturating_add(which.every);
    }
    Ok(written)
}

/// Gathers and writes; answers the bytes.
async fn piece(
    worker: &Rc<Worker>,
    request: &FlushChunks,
    range: Range<u64>,
    file: &Arc<dyn TierFile>,
) -> FlushResult<u64> {
    let (node, start, len) = (&worker.node, range.start, (range.end - range.start) as usize);
    let _room = room(worker, len as u64).await?;
    // It is filled with buffers of higher classes, and so never waits for another part.
    let buffer = node.pools.buffers.get_for(BufferClass::ClientRequest, None, len).await;
    let mut buffer = buffer.map_err(|error| Stop::Failed(error.to_string()))?;
    let data = gather(worker, request, start, &mut buffer).await?;
    let runs = if wants_whole_parts(node) { std::iter::once(0..len).collect() } else { data };
    let written = runs.iter().map(|run| run.len() as u64).sum();
    let (own, file) = (Arc::clone(node), Arc::clone(file));
    let write = move |_: &dyn Tier| {
        for run in runs {
            own.flusher.write(&own, file.as_ref(), start + run.start as u64, &buffer[run])?;
        }
        Ok(())
    };
    node.flusher.on_tier(write).await?;
    Ok(written)
}

/// All parts together take a quarter of the buffers, or there is one.
fn room_units(node: &Node) -> usize {
    (node.pools.buffers.stats().size / 4 / UNIT).max(1) as usize
}

/// Room in memory for a piece, as it is counted there.
async fn room(worker: &Rc<Worker>, bytes: u64) -> FlushResult<SemaphorePermit<'_>> {
    let all = room_units(&worker.node);
    let room = worker.node.flusher.part_room.get_or_init(|| Semaphore::new(all));
    // A buffer has a power of two.
    let wanted = bytes.next_power_of_two().div_ceil(UNIT).min(all as u64) as u32;
    room.acquire_many(wanted).await.map_err(|_| Stop::Failed("the server is ending".to_owned()))
}

/// Fills the buffer with the file's bytes from `start` on, zeros in holes; answers where chunks have some, in ranges as long as can be.
async fn gather(
    worker: &Rc<Worker>,
    request: &FlushChunks,
    start: u64,
    buffer: &mut PoolBuffer,
) -> FlushResult<Vec<Range<usize>>> {
    let chunk_bytes = request.layout.chunk_bytes();
    let mut slices = Vec::new();
    let (mut rest, mut at) = (&mut buffer[..], start);
    while !rest.is_empty() {
        let len = (chunk_bytes - at % chunk_bytes).min(rest.len() as u64);
        let (slice, next) = rest.split_at_mut(len as usize);
        slices.push((at, slice));
        (rest, at) = (next, at + len);
    }
    let filled = slices.into_iter().map(|(at, slice)| async move {
        let (from, len) = ((at - start) as usize, slice.len());
        let has_data = fill(worker, request, at, slice).await?;
        Ok::<_, Stop>((from..from + len, has_data))
    });
    let at_once = (FETCHED / chunk_bytes).clamp(1, FETCHED / UNIT) as usize;
    let filled: Vec<_> = stream::iter(filled).buffered(at_once).try_collect().await?;
    let mut runs: Vec<Range<usize>> = Vec::new();
    for (range, _) in filled.into_iter().filter(|(_, has_data)| *has_data) {
        match runs.last_mut().filter(|last| last.end == range.start) {
            Some(last) => last.end = range.end,
            None => runs.push(range),
        }
    }
    Ok(runs)
}

/// Fills a part of one chunk; false if there is nothing but a hole.
async fn fill(worker: &Rc<Worker>, request: &FlushChunks, at: u64, out: &mut [u8]) -> FlushResult<bool> {
    let (ino, chunk_bytes) = (request.ino, request.layout.chunk_bytes());
    let (chunk, offset) = (ChunkIndex(at / chunk_bytes), (at % chunk_bytes) as u32);
    let Some(holder) = pointer::present_holder(worker, request.layout, ino, chunk).await? else {
        out.fill(0);
        return Ok(false);
    };
    let (answer, data) =
        worker.fetch(holder, &ReadChunk { ino, chunk, offset, len: out.len() as u32 }).await?;
    inline::check(&data, answer.crc)?;
    let (have, hole) = out.split_at_mut(data.len().min(out.len()));
    have.copy_from_slice(&data[..have.len()]);
    hole.fill(0);
    Ok(!have.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    const MIB: u64 = 1 << 20;

    #[test]
    fn no_two_servers_share_an_object() {
        // Goal: for layouts of all kinds every byte is in one part, parts are whole stripes of 16 MiB at most (or one stripe, if that is larger), and no object
        // is in parts of two servers. Method: each stripe of a file is looked up.
        let writers: Vec<_> = (0..4).map(ServerId).collect();
        for (stripe_bytes, count) in [
            (16 * MIB, 1),
            (16 * MIB, 4),
            (16 * MIB, 5),
            (16 * MIB, 14),
            (MIB, 1),
            (MIB, 4),
            (MIB, 48),
            (4 * MIB, 8),
            (4 * MIB, 6),
            (3 * MIB, 10),
            (64 * MIB, 3),
            (64 << 10, 2_000),
        ] {
            let size = 700 * MIB + 5;
            let dealt = dealt(Stripes { stripe_bytes, count }, size, &writers);
            let mut owners: HashMap<u64, ServerId> = HashMap::new();
            for stripe in 0..size.div_ceil(stripe_bytes) {
                let within = |parts: &PartsOf| {
                    let part = stripe * stripe_bytes / parts.part_bytes;
                    part >= parts.first && (part - parts.first).is_multiple_of(parts.every)
                };
                let found: Vec<_> = dealt.iter().filter(|(_, parts)| within(parts)).collect();
                let [(server, parts)] = found[..] else { panic!("{stripe_bytes} {count}: {found:?}") };
                assert!(parts.part_bytes.is_multiple_of(stripe_bytes), "{stripe_bytes} {count}");
                assert!(parts.part_bytes <= stripe_bytes.max(16 * MIB), "{stripe_bytes} {count}");
                let owner = *owners.entry(stripe % count).or_insert(*server);
                assert_eq!(owner, *server, "{stripe_bytes} {count}: stripe {stripe}");
            }
        }
    }

    #[test]
    fn objects_are_spread_over_all_servers() {
        let writers: Vec<_> = (3..7).map(ServerId).collect();
        let who = |stripe_bytes, count, size| -> Vec<u16> {
            dealt(Stripes { stripe_bytes, count }, size, &writers)
                .iter()
                .map(|(server, _)| server.0)
                .collect()
        };
        assert_eq!(who(16 * MIB, 6, 1 << 30), [3, 4, 5, 6, 3, 4]);
        assert_eq!(who(4 * MIB, 16, 1 << 30), [3, 4, 5, 6]);
        assert_eq!(who(16 * MIB, 1, 1 << 30), [3]);
        // Two parts are all that there is.
        assert_eq!(who(16 * MIB, 6, 17 * MIB), [3, 4]);
        assert_eq!(who(MIB, 4, 100 * MIB), [3]);
    }

    #[test]
    fn pieces_fit_into_the_room_for_all_of_them() {
        let pieces = [0, 1, 4, 9, 16, 36, 1_000].map(|room| piece_within(room * MIB) / MIB);
        assert_eq!(pieces, [1, 1, 4, 8, 16, 16, 16]);
    }
}
