//! The side of the server that has the chunk: it notices what is hot, lends it, and calls it back before it changes.

use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use fs_net::Frame;
use fs_proto::msg::Caller;
use fs_proto::msg::chunk::{ChunkRead, ReadChunk};
use fs_proto::msg::hot::{HOT_PIECE_BYTES, HotAsk, HotGrant, HotRecall};
use fs_proto::wire::Reader;
use fs_proto::{DecodeError, InodeId, Op, ServerId, Status, Wire};
use tokio::sync::watch;

use super::grants::{Change, Lease};
use super::{LEASE, PieceKey};
use crate::dispatch::Answer;
use crate::error::{OpError, OpResult};
use crate::ops;
use crate::worker::{Context, Worker};

/// Between two attempts to call a lease back.
const PAUSE: Duration = Duration::from_millis(50);

const ENDING: OpError = OpError::new(Status::Unavailable, "the server is ending");

/// The read in a request.
pub fn read_of(meta: &Bytes) -> Result<ReadChunk, DecodeError> {
    let mut body = Reader::new(meta.clone());
    Caller::get(&mut body)?;
    ReadChunk::get(&mut body)
}

/// Whether a read that a client sent through `server` is of something hot, so that that server is to borrow it: it is told so by an answer without a
/// body.
pub fn redirects(worker: &Worker, server: ServerId, frame: &Frame) -> bool {
    let hot = &worker.node.hot;
    if frame.header.op != Op::ReadChunk || frame.header.client.0 == 0 || !hot.is_enabled() {
        return false;
    }
    let Ok(read) = read_of(&frame.meta) else { return false };
    if read.compared {
        return false;
    }
    let (key, now) = (PieceKey::of(read.ino, read.chunk, read.offset), Instant::now());
    (hot.watch.note(key, server, now) || hot.grants.is_lent(key, now)) && hot.grants.is_lendable(key.ino, now)
}

/// Lends a piece.
pub async fn ask(worker: &Rc<Worker>, context: &Context, request: HotAsk) -> OpResult<Answer> {
    let (node, hot) = (&worker.node, &worker.node.hot);
    let key = PieceKey { ino: request.ino, chunk: request.chunk, piece: request.piece };
    if u64::from(request.piece) * u64::from(HOT_PIECE_BYTES) >= 1 << *fs_proto::attr::CHUNK_LOG2.end() {
        return Err(OpError::new(Status::Invalid, "no chunk has such a piece"));
    }
    let lent = if hot.is_enabled() { hot.grants.lend(key, request.server, Instant::now()) } else { None };
    let Some(lent) = lent else {
        if !request.direct {
            return Ok((HotGrant::Cold {}.to_bytes(), Bytes::new()));
        }
        let (crc, data) = piece(worker, context, key).await?;
        return Ok((HotGrant::Loose { crc }.to_bytes(), data));
    };
    hot.grants.note(&**node.namespace.kv())?;
    let (generation, lease_ms) = (lent.generation, LEASE.as_millis() as u32);
    if generation == request.have {
        return Ok((HotGrant::Same { lease_ms }.to_bytes(), Bytes::new()));
    }
    if !lent.from.is_empty() && !request.direct {
        return Ok((HotGrant::From { generation, lease_ms, servers: lent.from }.to_bytes(), Bytes::new()));
    }
    let (crc, data) = piece(worker, context, key).await?;
    hot.counters.lent.fetch_add(1, Ordering::Relaxed);
    Ok((HotGrant::Here { generation, lease_ms, crc }.to_bytes(), data))
}

/// Checksum and bytes of a piece.
async fn piece(worker: &Rc<Worker>, context: &Context, key: PieceKey) -> OpResult<(u32, Bytes)> {
    let (ino, chunk, offset) = (key.ino, key.chunk, key.offset());
    // By the holder: those that it is lent to have nobody to ask for the reason if it is damaged.
    let read = ReadChunk { ino, chunk, offset, len: HOT_PIECE_BYTES, compared: true };
    let (meta, data) = ops::chunk::read(worker, context, read).await?;
    Ok((ChunkRead::from_bytes(meta)?.crc, data))
}

/// To be held while chunks of a file change here: nobody has any of it kept, and nobody gets any. [`Change::done`] says that the change is over.
pub async fn change(worker: &Rc<Worker>, ino: InodeId) -> OpResult<Change> {
    let change = worker.node.hot.grants.announce(ino);
    if worker.node.hot.grants.may_be_lent(ino) {
        // Rare, and not to make the future of every write larger.
        Box::pin(recalled(worker, ino)).await?;
    }
    Ok(change)
}

async fn recalled(worker: &Rc<Worker>, ino: InodeId) -> OpResult<()> {
    let (node, grants) = (&worker.node, &worker.node.hot.grants);
    if let Some(until) = grants.inherited_until() {
        tokio::time::sleep_until(until.into()).await;
    }
    match grants.end(ino, Instant::now()) {
        Lease::None => Ok(()),
        Lease::Wait(mut recalled) => recalled.wait_for(|done| *done).await.map(drop).map_err(|_| ENDING),
        Lease::Recall(leases, done) => {
            // Goes on if who asked gives up: others wait for it.
            let errand = move |own: Rc<Worker>| async move { recall(&own, ino, leases, &done).await };
            node.errands.run(errand).await.ok_or(ENDING)
        }
    }
}

async fn recall(
    worker: &Rc<Worker>,
    ino: InodeId,
    leases: Vec<(ServerId, Instant)>,
    done: &watch::Sender<bool>,
) {
    let calls = leases.into_iter().map(|(server, until)| recall_from(worker, ino, server, until));
    futures_util::future::join_all(calls).await;
    worker.node.hot.grants.ended(ino, done);
}

/// Returns when the server has dropped what it kept, or its lease is over.
async fn recall_from(worker: &Rc<Worker>, ino: InodeId, server: ServerId, until: Instant) {
    let request = HotRecall { holder: worker.node.id(), ino };
    let counters = &worker.node.hot.counters;
    let called = async {
        while let Err(error) = worker.ask(server, &request).await {
            tracing::debug!(%server, message = %error.message, "a lease is not called back yet");
            tokio::time::sleep(PAUSE).await;
        }
    };
    match tokio::time::timeout_at(until.into(), called).await {
        Ok(()) => counters.recalls.fetch_add(1, Ordering::Relaxed),
        Err(_) => counters.ends_waited.fetch_add(1, Ordering::Relaxed),
    };
}
