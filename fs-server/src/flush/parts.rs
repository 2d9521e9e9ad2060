//! Files in parts, for tiers that want each part in one call (object stores): whichever servers write them, and whoever holds the chunks.
//!
//! The parts are dealt to the servers that hold chunks, in turn. A server fetches what it does not hold itself; with `n` servers that is
//! all but one `n`th of the file, which crosses the network between servers once before it goes to the tier.

use std::rc::Rc;
use std::sync::Arc;

use fs_net::{BufferClass, LARGEST_BUFFER, PoolBuffer};

use fs_proto::msg::chunk::ReadChunk;
use fs_proto::msg::tier::{FlushChunks, FlushedShare, PartsOf};
use fs_proto::{Attr, ChunkIndex, ServerId};
use futures_util::future::try_join_all;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::content;
use super::outcome::{FlushResult, Stop};
use crate::ops::{inline, pointer};
use crate::tier::{Base, Destination, Make, Place, Staged, Tier, TierFile};
use crate::worker::Worker;

/// Parts that one server writes of one file at once.
const AT_ONCE: u64 = 2;

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
    let request = |parts| FlushChunks {
        ino: attr.ino,
        server: node.id(),
        staging: place.name.clone(),
        layout: attr.layout,
        size,
        parts: Some(parts),
    };
    // At all holders before any of them is read: whoever writes the parts.
    let begin = servers.iter().map(|server| (*server, request(PartsOf::NONE))).collect();
    content::all_shares(worker, begin).await?;
    let receipts = if count <= 1 {
        // Nobody else knows of a file that waits in memory.
        let whole = PartsOf { part_bytes, first: 0, every: 1 };
        vec![share(worker, request(whole.clone()), whole).await?.receipt]
    } else {
        let every = count.min(servers.len() as u64).max(1);
        let parts = (0..every).map(|first| request(PartsOf { part_bytes, first, every }));
        content::all_shares(worker, servers.into_iter().zip(parts).collect()).await?
    };
    let (place, syncs) = (place.clone(), node.syncs_tier());
    let finish = move |tier: &dyn Tier| {
        tier.collect(&place, &receipts)?;
        content::finish(tier, &place, id, size, &to.attributes, syncs)
    };
    Ok(node.flusher.on_tier(finish).await?)
}

/// Writes parts of a staged file.
pub async fn share(worker: &Rc<Worker>, request: FlushChunks, which: PartsOf) -> FlushResult<FlushedShare> {
    if which.part_bytes == 0 || which.part_bytes > LARGEST_BUFFER as u64 || which.every == 0 {
        return Err(Stop::Failed("parts of no size, or too large".to_owned()));
    }
    let (server, staging) = (request.server, request.staging.clone());
    let open = move |tier: &dyn Tier| {
        let place = Place { dir: tier.base(Base::Staging(server))?, name: staging };
        Ok(Arc::<dyn TierFile>::from(tier.open_file(&place)?))
    };
    let file = worker.node.flusher.on_tier(open).await?;
    let lanes = (0..AT_ONCE).map(|lane| {
        let mine = PartsOf {
            first: which.first.saturating_add(lane.saturating_mul(which.every)),
            every: which.every.saturating_mul(AT_ONCE),
            ..which
        };
        parts(worker, &request, mine, &file)
    });
    let bytes = try_join_all(lanes).await?.into_iter().sum();
    Ok(FlushedShare { bytes, receipt: file.receipt() })
}

/// One part after the other.
async fn parts(
    worker: &Rc<Worker>,
    request: &FlushChunks,
    which: PartsOf,
    file: &Arc<dyn TierFile>,
) -> FlushResult<u64> {
    let (node, mut part, mut written) = (&worker.node, which.first, 0);
    while let Some(start) = part.checked_mul(which.part_bytes).filter(|start| *start < request.size) {
        let len = which.part_bytes.min(request.size - start);
        let _room = room(worker, len).await?;
        // It is filled with buffers of higher classes, and so never waits for another part.
        let buffer = node.pools.buffers.get_for(BufferClass::ClientRequest, None, len as usize).await;
        let mut buffer = buffer.map_err(|error| Stop::Failed(error.to_string()))?;
        gather(worker, request, start, &mut buffer).await?;
        let (own, file) = (Arc::clone(node), Arc::clone(file));
        let write = move |_: &dyn Tier| own.flusher.write(&own, file.as_ref(), start, &buffer);
        node.flusher.on_tier(write).await?;
        written += len;
        part = part.saturating_add(which.every);
    }
    Ok(written)
}

/// Room in memory for a part: all of them together take a quarter of the buffers, or there is one.
async fn room(worker: &Rc<Worker>, bytes: u64) -> FlushResult<SemaphorePermit<'_>> {
    const UNIT: u64 = 1 << 20;
    let node = &worker.node;
    let all = (node.pools.buffers.stats().size / 4 / UNIT).max(1) as usize;
    let room = node.flusher.part_room.get_or_init(|| Semaphore::new(all));
    let wanted = bytes.div_ceil(UNIT).min(all as u64) as u32;
    room.acquire_many(wanted).await.map_err(|_| Stop::Failed("the server is ending".to_owned()))
}

/// Fills the buffer with the file's bytes from `start` on; holes are zeros.
async fn gather(
    worker: &Rc<Worker>,
    request: &FlushChunks,
    start: u64,
    buffer: &mut PoolBuffer,
) -> FlushResult<()> {
    let chunk_bytes = request.layout.chunk_bytes();
    let mut filled = 0;
    while filled < buffer.len() {
        let at = start + filled as u64;
        let (chunk, offset) = (ChunkIndex(at / chunk_bytes), (at % chunk_bytes) as u32);
        let len = (chunk_bytes - u64::from(offset)).min((buffer.len() - filled) as u64) as usize;
        let part = &mut buffer[filled..filled + len];
        filled += len;
        let Some(holder) = pointer::present_holder(worker, request.layout, request.ino, chunk).await? else {
            part.fill(0);
            continue;
        };
        let read = ReadChunk { ino: request.ino, chunk, offset, len: len as u32 };
        let (answer, data) = worker.fetch(holder, &read).await?;
        inline::check(&data, answer.crc)?;
        let (have, hole) = part.split_at_mut(data.len().min(len));
        have.copy_from_slice(&data[..have.len()]);
        hole.fill(0);
    }
    Ok(())
}
