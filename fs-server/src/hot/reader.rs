//! The side of a server whose clients read: it keeps what is hot for all of them, fetches each piece once, and passes it on.

use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use fs_net::{BufferClass, Frame, PeerInfo, Reply};
use fs_proto::checksum::combine;
use fs_proto::msg::chunk::{ChunkRead, ReadChunk};
use fs_proto::msg::hot::{HOT_PIECE_BYTES, HotAsk, HotFetch, HotGrant, HotRecall};
use fs_proto::{BULK_MAX, Header, Op, ServerId, Status, Wire};

use super::kept::{Asking, Found};
use super::whole::Whole;
use super::{JOIN_BYTES, PARENT_WAIT, PieceKey, copier, holder};
use crate::dispatch::Answer;
use crate::error::{OpError, OpResult};
use crate::worker::{Context, Worker, refusal};

/// How often a reader looks whether what it waited for has come, before it asks by itself.
const ROUNDS: usize = 8;
/// Generation of a piece that was not lent.
pub(super) const LOOSE: u64 = 0;
/// How long a piece that is on its way here is waited for, to be passed on.
const ARRIVAL_WAIT: Duration = Duration::from_millis(400);
const _: () = assert!(ARRIVAL_WAIT.as_millis() < PARENT_WAIT.as_millis());

/// The read in a client's request if it is one that this server may answer for the holder. What was read before and did not match is not: what is kept here may be what is damaged.
pub fn wanted(worker: &Worker, frame: &Frame) -> Option<ReadChunk> {
    let kept = &worker.node.hot.kept;
    if frame.header.op != Op::ReadChunk || !kept.is_any_hot() {
        return None;
    }
    let read = holder::read_of(&frame.meta).ok()?;
    let is_hot =
        !read.compared && kept.is_hot(read.ino, Instant::now()) && read.len > 0 && read.len <= BULK_MAX;
    let joins = || read.len >= JOIN_BYTES || kept.knows(PieceKey::of(read.ino, read.chunk, read.offset));
    (is_hot && joins()).then_some(read)
}

/// Whether an answer says that what was to be read is hot: a read that is answered has a body.
pub fn is_redirection(answer: &Header) -> bool {
    answer.op == Op::ReadChunk && answer.status == Status::Ok && answer.meta_bytes == 0
}

/// Answers a read of what `holder` has, if it is hot; None: it is not any more, or changes meanwhile.
pub async fn read(
    worker: &Rc<Worker>,
    peer: &PeerInfo,
    frame: &Frame,
    holder: ServerId,
    read: &ReadChunk,
) -> Option<Reply> {
    match filled(worker, peer, holder, read).await {
        Ok(Some((crc, data))) => Some(Reply::ok(&frame.header, ChunkRead { crc }.to_bytes(), data)),
        Ok(None) => None,
        Err(error) => {
            tracing::debug!(?read, message = %error.message, "what is hot is read from its holder as any other");
            None
        }
    }
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
    // As it is now, and for this reader only: a server that asks for itself is not told to borrow it.
    match worker.fetch(holder, &request).await {
        Ok((ChunkRead { crc }, data)) => Reply::ok(&frame.header, ChunkRead { crc }.to_bytes(), data),
        Err(error) => refused(&error),
    }
}

fn keys_of(read: &ReadChunk) -> impl Iterator<Item = PieceKey> + use<> {
    let (ino, chunk) = (read.ino, read.chunk);
    let last = read.offset.saturating_add(read.len.max(1) - 1) / HOT_PIECE_BYTES;
    (read.offset / HOT_PIECE_BYTES..=last).map(move |piece| PieceKey { ino, chunk, piece })
}

/// The bytes that are read, with their checksum, in a buffer for who reads. None: not all of it is lent, or it is not of one moment.
async fn filled(
    worker: &Rc<Worker>,
    peer: &PeerInfo,
    holder: ServerId,
    read: &ReadChunk,
) -> OpResult<Option<(u32, Bytes)>> {
    let len = read.len as usize;
    // First, and pieces one by one: who waits for this buffer must not hold what others answered, which may be all that there is room for. Of the lowest class:
    // who has it waits for other servers, whose readers have such buffers and wait for this one; what they give each other must find room beside those.
    let mut buffer = worker.buffer_of(BufferClass::ClientRequest, &peer.lending, len).await?;
    let (mut at, mut sum, mut moment) = (0, 0, None);
    for key in keys_of(read) {
        let Some((whole, generation)) = kept_piece(worker, key, holder).await? else { return Ok(None) };
        if !is_of(&mut moment, generation) {
            return Ok(None);
        }
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
    Ok(Some((sum, buffer.freeze().slice(..at))))
}

/// Whether a piece is of the same `moment` as those before it. One that was not lent is of its own.
fn is_of(moment: &mut Option<u64>, generation: u64) -> bool {
    moment.replace(generation).is_none_or(|before| before == generation && generation != LOOSE)
}

/// A piece that is kept, or is from now on, and its generation. None: its holder lends nothing of this file.
pub(super) async fn kept_piece(
    worker: &Rc<Worker>,
    key: PieceKey,
    holder: ServerId,
) -> OpResult<Option<(Whole, u64)>> {
    let hot = &worker.node.hot;
    for _ in 0..ROUNDS {
        match hot.kept.find(key, holder, Instant::now()) {
            Found::Data(whole, generation) => {
                hot.counters.hits.fetch_add(1, Ordering::Relaxed);
                return Ok(Some((whole, generation)));
            }
            // An error says that it is over.
            Found::Coming(mut over) => drop(over.changed().await),
            Found::Ask(asking) => match borrow(worker, &asking, key, holder).await? {
                Borrowed::Piece(whole, generation) => return Ok(Some((whole, generation))),
                Borrowed::Renewed => {}
                Borrowed::Nothing => return Ok(None),
            },
        }
    }
    Ok(None)
}

/// What became of asking the holder.
enum Borrowed {
    /// The piece, of a moment after it was asked for, and its generation, or [`LOOSE`].
    Piece(Whole, u64),
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
                    (None, whole) => return Ok(Borrowed::Piece(whole, LOOSE)),
                },
            }
        }
        HotGrant::Cold {} | HotGrant::Loose { .. } => {
            hot.kept.note_cold(key.ino);
            return Ok(Borrowed::Nothing);
        }
    };
    asking.arrived(generation, lease(lease_ms), &whole);
    Ok(Borrowed::Piece(whole, generation))
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
    for server in servers {
        if let Some(whole) = from_peer(worker, *server, &request).await {
            hot.counters.from_peers.fetch_add(1, Ordering::Relaxed);
            return Some(whole);
        }
        hot.counters.refusals.fetch_add(1, Ordering::Relaxed);
    }
    None
}

/// The piece from a server, unless it has not answered a moment before. One that does not answer in time is left alone from then on.
async fn from_peer(worker: &Rc<Worker>, server: ServerId, request: &HotFetch) -> Option<Whole> {
    let kept = &worker.node.hot.kept;
    if kept.is_shunned(server, Instant::now()) {
        return None;
    }
    let Ok(Ok((sum, bulk))) = tokio::time::timeout(PARENT_WAIT, worker.fetch(server, request)).await else {
        kept.shun(server, Instant::now());
        return None;
    };
    Whole::verified(bulk, sum?).ok()
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
pub async fn recall(worker: &Rc<Worker>, _: &Context, request: HotRecall) -> OpResult<()> {
    worker.node.hot.kept.drop_file(request.ino, request.holder);
    copier::call_back(&worker.node, request.ino);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: no read is put together of what was there before a change and after it. Method: generations of the pieces of one read, in their order.
    #[test]
    fn pieces_of_a_read_are_of_one_moment() {
        let is_one = |generations: &[u64]| {
            let mut moment = None;
            generations.iter().all(|generation| is_of(&mut moment, *generation))
        };
        assert!(is_one(&[5]) && is_one(&[5, 5, 5]) && is_one(&[LOOSE]));
        for mixed in [&[5, 6][..], &[6, 6, 5], &[5, LOOSE], &[LOOSE, 5], &[LOOSE, LOOSE]] {
            assert!(!is_one(mixed), "{mixed:?}");
        }
    }
}
