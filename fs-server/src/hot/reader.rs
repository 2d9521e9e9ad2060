//! The side of a server whose clients read: it keeps what is hot for all of them, fetches each piece once, and passes it on.

use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use fs_net::{Frame, PeerInfo, Reply};
use fs_proto::checksum::combine;
use fs_proto::msg::chunk::{ChunkRead, ReadChunk};
use fs_proto::msg::hot::{HOT_PIECE_BYTES, HotAsk, HotFetch, HotGrant, HotRecall};
use fs_proto::{BULK_MAX, Header, Op, ServerId, Status, Wire};

use super::kept::{Asking, Found};
use super::whole::Whole;
use super::{JOIN_BYTES, PARENT_WAIT, PieceKey, holder};
use crate::dispatch::Answer;
use crate::error::{OpError, OpResult};
use crate::worker::{Context, Worker, refusal};

/// How often a reader looks whether what it waited for has come, before it asks by itself.
const ROUNDS: usize = 8;
/// How long a piece that is on its way here is waited for, to be passed on.
const ARRIVAL_WAIT: Duration = Duration::from_millis(400);
const _: () = assert!(ARRIVAL_WAIT.as_millis() < PARENT_WAIT.as_millis());

/// The read in a client's request if it is one that this server may answer for the holder.
pub fn wanted(worker: &Worker, frame: &Frame) -> Option<ReadChunk> {
    let kept = &worker.node.hot.kept;
    if frame.header.op != Op::ReadChunk || !kept.is_any_hot() {
        return None;
    }
    let read = holder::read_of(&frame.meta).ok()?;
    let is_hot = kept.is_hot(read.ino, Instant::now()) && read.len > 0 && read.len <= BULK_MAX;
    let joins = || read.len >= JOIN_BYTES || kept.knows(PieceKey::of(read.ino, read.chunk, read.offset));
    (is_hot && joins()).then_some(read)
}

/// Whether an answer says that what was to be read is hot: a read that is answered has a body.
pub fn is_redirection(answer: &Header) -> bool {
    answer.op == Op::ReadChunk && answer.status == Status::Ok && answer.meta_bytes == 0
}

/// Answers a read of what `holder` has, if it is hot; None: it is not any more.
pub async fn read(
    worker: &Rc<Worker>,
    peer: &PeerInfo,
    frame: &Frame,
    holder: ServerId,
    read: &ReadChunk,
) -> Option<Reply> {
    let mut pieces = Vec::new();
    for key in keys_of(read) {
        match kept_piece(worker, key, holder).await {
            Ok(Some(whole)) => pieces.push((key, whole)),
            Ok(None) => return None,
            Err(error) => {
                tracing::debug!(?key, message = %error.message, "a hot piece is read from its holder as any other");
                return None;
            }
        }
    }
    Some(answer(worker, peer, frame, read, &pieces).await)
}

/// Answers a read that its holder did not answer because it is of something hot.
pub async fn redirected(worker: &Rc<Worker>, peer: &PeerInfo, frame: &Frame, holder: ServerId) -> Reply {
    let refused = |error: &OpError| refusal(&frame.header, error);
    let request = match holder::read_of(&frame.meta) {
        Ok(request) if request.len <= BULK_MAX => request,
        Ok(_) => return refused(&OpError::new(Status::Invalid, "a read moves at most 16 MiB")),
        Err(error) => return refused(&OpError::from(error)),
    };
    worker.node.hot.kept.note_hot(request.ino, Instant::now());
    if let Some(reply) = read(worker, peer, frame, holder, &request).await {
        return reply;
    }
    // It is not hot any more: as it is now, and for this reader only.
    let mut pieces = Vec::new();
    for key in keys_of(&request) {
        match directly(worker, key, holder).await {
            Ok((_, whole)) => pieces.push((key, whole)),
            Err(error) => return refused(&error),
        }
    }
    answer(worker, peer, frame, &request, &pieces).await
}

fn keys_of(read: &ReadChunk) -> impl Iterator<Item = PieceKey> + use<> {
    let (ino, chunk) = (read.ino, read.chunk);
    let last = read.offset.saturating_add(read.len.max(1) - 1) / HOT_PIECE_BYTES;
    (read.offset / HOT_PIECE_BYTES..=last).map(move |piece| PieceKey { ino, chunk, piece })
}

async fn answer(
    worker: &Rc<Worker>,
    peer: &PeerInfo,
    frame: &Frame,
    read: &ReadChunk,
    pieces: &[(PieceKey, Whole)],
) -> Reply {
    match filled(worker, peer, read, pieces).await {
        Ok((crc, data)) => Reply::ok(&frame.header, ChunkRead { crc }.to_bytes(), data),
        Err(error) => refusal(&frame.header, &error),
    }
}

/// The bytes that are read, with their checksum, in a buffer for who reads.
async fn filled(
    worker: &Rc<Worker>,
    peer: &PeerInfo,
    read: &ReadChunk,
    pieces: &[(PieceKey, Whole)],
) -> OpResult<(u32, Bytes)> {
    let len = read.len as usize;
    let mut buffer = worker.buffer(&peer.lending, len).await?;
    let (mut at, mut sum) = (0, 0);
    for (key, whole) in pieces {
        let from = (read.offset.saturating_sub(key.offset()) as usize).min(whole.len());
        let to = (from + len - at).min(whole.len());
        let (part, part_sum) = whole.part(from..to)?;
        buffer[at..at + part.len()].copy_from_slice(part);
        sum = combine(sum, part_sum, part.len() as u64);
        at += part.len();
        if whole.len() < HOT_PIECE_BYTES as usize {
            break;
        }
    }
    Ok((sum, buffer.freeze().slice(..at)))
}

/// A piece that is kept, or is from now on. None: its holder lends nothing of this file.
async fn kept_piece(worker: &Rc<Worker>, key: PieceKey, holder: ServerId) -> OpResult<Option<Whole>> {
    let hot = &worker.node.hot;
    for _ in 0..ROUNDS {
        match hot.kept.find(key, holder, Instant::now()) {
            Found::Data(whole) => {
                hot.counters.hits.fetch_add(1, Ordering::Relaxed);
                return Ok(Some(whole));
            }
            // An error says that it is over.
            Found::Coming(mut over) => drop(over.changed().await),
            Found::Ask(asking) => match borrow(worker, &asking, key, holder).await? {
                Borrowed::Piece(whole) => return Ok(Some(whole)),
                Borrowed::Renewed => {}
                Borrowed::Nothing => return Ok(None),
            },
        }
    }
    Ok(None)
}

/// What became of asking the holder.
enum Borrowed {
    /// The piece, of a moment after it was asked for.
    Piece(Whole),
    /// What is kept is right.
    Renewed,
    Nothing,
}

async fn borrow(
    worker: &Rc<Worker>,
    asking: &Asking<'_>,
    key: PieceKey,
    holder: ServerId,
) -> OpResult<Borrowed> {
    let hot = &worker.node.hot;
    let (grant, bulk) = ask(worker, key, holder, asking.have, false).await?;
    let lease = |lease_ms: u32| Duration::from_millis(u64::from(lease_ms));
    let (generation, lease_ms, whole) = match grant {
        HotGrant::Same { lease_ms } => {
            let renewed = asking.renewed(lease(lease_ms));
            return Ok(if renewed { Borrowed::Renewed } else { Borrowed::Nothing });
        }
        HotGrant::Here { generation, lease_ms, crc } => {
            hot.counters.from_holder.fetch_add(1, Ordering::Relaxed);
            (generation, lease_ms, Whole::verified(bulk, crc)?)
        }
        HotGrant::From { generation, lease_ms, servers } => {
            match from_peers(worker, key, generation, &servers).await {
                Some(whole) => (generation, lease_ms, whole),
                None => match directly(worker, key, holder).await? {
                    (Some((generation, lease_ms)), whole) => (generation, lease_ms, whole),
                    (None, whole) => return Ok(Borrowed::Piece(whole)),
                },
            }
        }
        HotGrant::Cold {} | HotGrant::Loose { .. } => {
            hot.kept.note_cold(key.ino);
            return Ok(Borrowed::Nothing);
        }
    };
    asking.arrived(generation, lease(lease_ms), &whole);
    Ok(Borrowed::Piece(whole))
}

async fn ask(
    worker: &Rc<Worker>,
    key: PieceKey,
    holder: ServerId,
    have: u64,
    direct: bool,
) -> OpResult<(HotGrant, Bytes)> {
    let PieceKey { ino, chunk, piece } = key;
    let request = HotAsk { server: worker.node.id(), ino, chunk, piece, have, direct };
    worker.fetch(holder, &request).await
}

/// The piece from one of the servers that asked for it before.
async fn from_peers(
    worker: &Rc<Worker>,
    key: PieceKey,
    generation: u64,
    servers: &[ServerId],
) -> Option<Whole> {
    let hot = &worker.node.hot;
    let request = HotFetch { ino: key.ino, chunk: key.chunk, piece: key.piece, generation };
    for server in servers.iter().filter(|server| !hot.kept.is_shunned(**server, Instant::now())) {
        match tokio::time::timeout(PARENT_WAIT, worker.fetch(*server, &request)).await {
            Ok(Ok((Some(crc), bulk))) => {
                if let Ok(whole) = Whole::verified(bulk, crc) {
                    hot.counters.from_peers.fetch_add(1, Ordering::Relaxed);
                    return Some(whole);
                }
            }
            Ok(Ok((None, _))) => {}
            Ok(Err(_)) | Err(_) => hot.kept.shun(*server, Instant::now()),
        }
        hot.counters.refusals.fetch_add(1, Ordering::Relaxed);
    }
    None
}

/// Generation and milliseconds of a lease.
type Terms = (u64, u32);

/// The piece from its holder as it is now, with the terms on which it may be kept, if it may.
async fn directly(worker: &Rc<Worker>, key: PieceKey, holder: ServerId) -> OpResult<(Option<Terms>, Whole)> {
    let (grant, bulk) = ask(worker, key, holder, 0, true).await?;
    let (terms, crc) = match grant {
        HotGrant::Here { generation, lease_ms, crc } => (Some((generation, lease_ms)), crc),
        HotGrant::Loose { crc } => (None, crc),
        HotGrant::Cold {} | HotGrant::Same { .. } | HotGrant::From { .. } => {
            return Err(OpError::new(Status::Retry, "the holder of a chunk did not give it"));
        }
    };
    worker.node.hot.counters.from_holder.fetch_add(1, Ordering::Relaxed);
    Ok((terms, Whole::verified(bulk, crc)?))
}

/// Passes a piece on.
pub async fn pass_on(worker: &Rc<Worker>, _: &Context, request: HotFetch) -> OpResult<Answer> {
    let hot = &worker.node.hot;
    let key = PieceKey { ino: request.ino, chunk: request.chunk, piece: request.piece };
    let until = Instant::now() + ARRIVAL_WAIT;
    loop {
        match hot.kept.pass_on(key, request.generation) {
            Ok(whole) => {
                hot.counters.passed_on.fetch_add(1, Ordering::Relaxed);
                return Ok((Some(whole.sum()).to_bytes(), whole.bytes()));
            }
            Err(Some(mut over)) if Instant::now() < until => {
                // An error says that it is over, another that it takes too long.
                drop(tokio::time::timeout_at(until.into(), over.changed()).await);
            }
            Err(_) => return Ok((None::<u32>.to_bytes(), Bytes::new())),
        }
    }
}

/// Drops what a holder calls back.
#[allow(clippy::unused_async)] // The form of all operations.
pub async fn recall(worker: &Rc<Worker>, _: &Context, request: HotRecall) -> OpResult<()> {
    worker.node.hot.kept.drop_file(request.ino, request.holder);
    Ok(())
}
