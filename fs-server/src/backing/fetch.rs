//! Chunks that are not held come from the shared tier: whole, verified, one task a chunk.
//!
//! # Invariants
//! - A chunk is stored only while its filling is claimed, so nothing that was written since is replaced by what it replaced
//!   (`tests/flush`: `parts_that_are_written_leave_the_rest`).
//! - Failures are errors after [`PATIENCE`], never zeros (`a_tier_that_fails_for_good_is_an_error_for_who_reads`).

use std::ops::Range;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use fs_net::BufferClass;
use fs_proto::msg::tier::{FetchChunk, FindLost, FindSource, TierSource};
use fs_proto::placement::{ChunkPlace, chunk_place};
use fs_proto::{ChunkIndex, InodeId, Placement, ServerId, Status};
use futures_util::stream::{self, TryStreamExt};

use super::claims::{Filling, Use};
use super::evict::{self, WAITING};
use super::replaced;
use super::rows::{self, Row};
use crate::error::{OpError, OpResult};
use crate::flush::dirs;
use crate::flush::outcome::Stop;
use crate::node::Node;
use crate::overflow::{self, access};
use crate::store::{BlockSums, ChunkKey, ChunkStore, ChunkWrite};
use crate::tier::{Found, Place, Tier, TierError};
use crate::worker::Worker;

/// How long failures are tried again.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// Pauses between attempts: the first, doubled up to the last.
const PAUSES: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));
/// Chunks behind one that was wanted which are fetched, too.
const AHEAD: u64 = 4;
/// Chunks of one file that are fetched at once when all are wanted.
const SHARE_AT_ONCE: usize = 4;
/// Chunks that this server fetches ahead at once.
const AHEAD_MAX: u64 = 16;

/// The chunk's claim is given back: what hangs keeps its thread and its memory only.
const HANGS: OpError = OpError::new(Status::Retry, "the shared tier does not answer");

/// What somebody wants of a chunk.
pub enum Want {
    /// To read some of it: can do with its bytes where there is no room for it.
    Bytes,
    /// To have it in the store.
    Stored,
    /// To overwrite this part of it.
    Overwritten(Range<u32>),
}

/// How it comes that what the store says of a chunk is right.
pub enum Ensured {
    /// It was.
    Here,
    /// The chunk was fetched.
    Fetched,
    /// It was fetched, and there is no room for it: its bytes, from its beginning. Only for [`Want::Bytes`].
    Passed(Bytes),
    /// It will be, once the caller has overwritten all that there is of the chunk; until then this is held.
    Fill(Filling),
}

/// Makes sure that what the store says of a chunk is right.
pub async fn ensure(worker: &Rc<Worker>, used: &Use, key: ChunkKey, want: Want) -> OpResult<Ensured> {
    let node = &worker.node;
    if !node.backing.concerns(key.ino) || is_here(node, key)? || is_no_concern(node, key.ino)? {
        return Ok(Ensured::Here);
    }
    let filling = node.backing.claims.fill(used, key.chunk).await;
    if is_here(node, key)? {
        return Ok(Ensured::Here);
    }
    let Some(source) = source(worker, key.ino).await? else { return Ok(Ensured::Here) };
    let bytes = bytes_of(&source, key.chunk);
    if bytes == 0 {
        return Ok(Ensured::Here);
    }
    if let Want::Overwritten(range) = &want
        && range.start == 0
        && range.end >= bytes
    {
        return Ok(Ensured::Fill(filling));
    }
    let passes = matches!(want, Want::Bytes);
    // Who wanted it may give up, and nobody else may fill the chunk meanwhile.
    let errand = move |own: Rc<Worker>| async move { fetch(&own, key, source, passes, filling).await };
    let fetched = node.errands.run(errand).await;
    let fetched = fetched.unwrap_or_else(|| Err(OpError::new(Status::Unavailable, "the server is ending")));
    Ok(fetched?.map_or(Ensured::Fetched, Ensured::Passed))
}

/// Whether the store's word on a chunk is the truth.
pub fn is_here(node: &Node, key: ChunkKey) -> OpResult<bool> {
    Ok(overflow::kept(node, key)?.is_some()
        || node.store.holds(key)?
        || rows::is_kept(node, key.ino, key.chunk)?)
}

/// Whether nothing of the file is in the shared tier only, as far as is known without asking.
pub fn is_no_concern(node: &Node, ino: InodeId) -> OpResult<bool> {
    if !node.backing.concerns(ino) {
        return Ok(true);
    }
    Ok(match rows::get(node, ino)? {
        Row::Absent => !ino.is_adopted() && node.backing.replaced().is_none(),
        Row::Nothing => true,
        Row::From(_) => false,
    })
}

/// What chunks of a file are fetched from: known here, or asked of its home. The caller fills one of its chunks.
pub async fn source(worker: &Rc<Worker>, ino: InodeId) -> OpResult<Option<TierSource>> {
    let node = &worker.node;
    match rows::get(node, ino)? {
        Row::From(source) => return Ok(Some(source)),
        Row::Absent if ino.is_adopted() || node.backing.replaced().is_some() => {}
        Row::Absent | Row::Nothing => return Ok(None),
    }
    let told = ask_home(worker, ino, false).await?;
    rows::put(node, ino, told.as_ref())?;
    Ok(told)
}

async fn ask_home(worker: &Rc<Worker>, ino: InodeId, look: bool) -> OpResult<Option<TierSource>> {
    match worker.node.backing.replaced() {
        Some(made) => worker.ask_owner(ino.partition(), &FindLost { ino, made }).await,
        None => worker.ask_owner(ino.partition(), &FindSource { ino, look }).await,
    }
}

/// Bytes of a chunk that the source has.
pub fn bytes_of(source: &TierSource, chunk: ChunkIndex) -> u32 {
    let chunk_bytes = source.layout.chunk_bytes();
    let start = chunk.0.saturating_mul(chunk_bytes);
    source.backing.limit.saturating_sub(start).min(chunk_bytes) as u32
}

/// Answers the bytes if they could not be stored.
async fn fetch(
    worker: &Rc<Worker>,
    key: ChunkKey,
    mut source: TierSource,
    passes: bool,
    filling: Filling,
) -> OpResult<Option<Bytes>> {
    let (began, mut pause) = (Instant::now(), PAUSES.0);
    loop {
        if replaced::is_lost(&source) {
            return Err(replaced::error());
        }
        let attempt = tokio::time::timeout(PATIENCE, attempt(worker, key, &source)).await;
        let error = match attempt.map_err(|_| HANGS)? {
            Ok(data) => return store(worker, filling.used(), key, data, passes).await,
            Err(Trouble::Gone(reason)) => {
                let told = ask_home(worker, key.ino, true).await?;
                let Some(told) = told else { return Err(lost(worker, key, &reason)) };
                if told != source {
                    rows::put(&worker.node, key.ino, Some(&told))?;
                    source = told;
                }
                if bytes_of(&source, key.chunk) == 0 {
                    return Ok(None);
                }
                reason
            }
            Err(Trouble::Tier(reason)) => reason,
        };
        if began.elapsed() + pause > PATIENCE {
            return Err(lost(worker, key, &error));
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSES.1);
    }
}

fn lost(worker: &Worker, key: ChunkKey, reason: &str) -> OpError {
    if !worker.node.is_stopping() {
        tracing::warn!(ino = ?key.ino, chunk = key.chunk.0, reason, "cannot be read from the shared tier");
    }
    OpError::because(
        Status::TierFailed,
        format!("the shared tier does not give what was not read yet: {reason}"),
    )
}

/// Why a fetch failed.
enum Trouble {
    /// It is not there, or another is.
    Gone(String),
    /// The tier or the way to it.
    Tier(String),
}

async fn store(
    worker: &Rc<Worker>,
    used: &Use,
    key: ChunkKey,
    data: Bytes,
    passes: bool,
) -> OpResult<Option<Bytes>> {
    let node = &worker.node;
    node.backing.fetched_bytes.fetch_add(data.len() as u64, Ordering::Relaxed);
    let write = ChunkWrite { key, offset: 0, sums: BlockSums::of(0, &data), data: data.clone() };
    let stored = if passes {
        node.store.write_bytes(write).await.map_err(OpError::from)
    } else {
        access::write(worker, used, write).await
    };
    match stored {
        Err(error) if error.status == Status::NoSpace && passes => {
            node.backing.evictor.note_full();
            Ok(Some(data))
        }
        Err(error) if error.status == Status::NoSpace => {
            // Others are asked, and room is waited for, without memory that flushing may need.
            drop(data);
            if !evict::is_hopeful(worker).await {
                return Err(error);
            }
            node.backing.evictor.note_full();
            Err(WAITING)
        }
        outcome => outcome.map(|()| None),
    }
}

async fn attempt(worker: &Rc<Worker>, key: ChunkKey, source: &TierSource) -> Result<Bytes, Trouble> {
    let node = &worker.node;
    let dir = dirs::handle(worker, source.at.parent).await.map_err(|stop| match stop {
        Stop::Failed(reason) | Stop::Refused(reason) => Trouble::Tier(reason),
        Stop::Wait(reason) => Trouble::Gone(reason.to_owned()),
        Stop::Open | Stop::Later(_) | Stop::Never => Trouble::Gone("its directory is busy".to_owned()),
    })?;
    let dir = dir.ok_or_else(|| Trouble::Gone("its directory is not in the shared tier".to_owned()))?;
    let (place, len) = (Place::new(&dir, &source.at.name), bytes_of(source, key.chunk) as usize);
    let offset = key.chunk.0 * source.layout.chunk_bytes();
    let backing = source.backing;
    let wanted = Found { id: source.at.tier_ino, is_dir: false, size: backing.size, mtime: backing.mtime };
    let buffer = node.pools.fetches.get_for(BufferClass::PeerRequest, None, len).await;
    let mut buffer = buffer.map_err(|error| Trouble::Tier(error.to_string()))?;
    let read = move |tier: &dyn Tier| {
        tier.read(&place, &wanted, offset, &mut buffer)?;
        Ok(buffer)
    };
    match node.flusher.on_reader(read).await {
        Ok(buffer) => Ok(buffer.freeze()),
        Err(TierError::Missing(reason) | TierError::Occupied(reason)) => Err(Trouble::Gone(reason)),
        Err(error) => Err(Trouble::Tier(error.to_string())),
    }
}

/// The server that holds a chunk of a file from the shared tier.
pub fn holder(node: &Node, source: &TierSource, ino: InodeId, chunk: ChunkIndex) -> Option<ServerId> {
    match chunk_place(source.layout, ino, chunk) {
        ChunkPlace::Owner(partition) => Some(node.owner(partition)),
        ChunkPlace::Server(server) => Some(server),
        // Never evicted, and what was found in the tier is striped.
        ChunkPlace::Pointer(_) => None,
    }
}

/// Fetches everything that this server should hold of a file. The caller uses it.
pub async fn share(worker: &Rc<Worker>, used: &Use, ino: InodeId) -> OpResult<()> {
    let missing = all_elsewhere(worker, used, ino, ChunkIndex(0)..ChunkIndex(u64::MAX), usize::MAX).await?;
    let fetched =
        missing.into_iter().map(|(chunk, _)| ensure(worker, used, ChunkKey { ino, chunk }, Want::Stored));
    stream::iter(fetched.map(Ok::<_, OpError>))
        .try_for_each_concurrent(SHARE_AT_ONCE, |one| async { one.await.map(drop) })
        .await
}

/// Large files have millions of chunks, and other requests wait.
async fn give_way(chunk: ChunkIndex) {
    if chunk.0 % 1_000 == 999 {
        tokio::task::yield_now().await;
    }
}

/// As [`source`], for who fills no chunk: claims one that no file has.
pub async fn source_of_share(worker: &Rc<Worker>, used: &Use, ino: InodeId) -> OpResult<Option<TierSource>> {
    let node = &worker.node;
    if !node.backing.concerns(ino) {
        return Ok(None);
    }
    let _filling = node.backing.claims.fill(used, ChunkIndex(u64::MAX)).await;
    source(worker, ino).await
}

/// After a chunk was fetched because somebody wanted it: has those behind it fetched.
pub fn ahead(worker: &Rc<Worker>, key: ChunkKey) {
    let node = &worker.node;
    let Ok(Row::From(source)) = rows::get(node, key.ino) else { return };
    for chunk in (key.chunk.0 + 1..=key.chunk.0 + AHEAD).map(ChunkIndex) {
        let Some(to) = holder(node, &source, key.ino, chunk).filter(|_| bytes_of(&source, chunk) > 0) else {
            return;
        };
        let request = FetchChunk { ino: key.ino, chunk, later: true };
        // Whoever wants the chunk hears of failures.
        node.errands.send(move |own: Rc<Worker>| async move { drop(own.ask(to, &request).await) });
    }
}

/// Fetches a chunk after answering, unless enough is being fetched like that.
pub fn later(worker: &Rc<Worker>, used: Use, key: ChunkKey) {
    let node = &worker.node;
    if node.backing.ahead.fetch_add(1, Ordering::Relaxed) >= AHEAD_MAX {
        node.backing.ahead.fetch_sub(1, Ordering::Relaxed);
        return;
    }
    node.errands.send(move |own: Rc<Worker>| async move {
        let _ = ensure(&own, &used, key, Want::Stored).await;
        own.node.backing.ahead.fetch_sub(1, Ordering::Relaxed);
    });
}

/// Bytes of a chunk that is in the shared tier only; None if what the store says of it is right.
pub async fn elsewhere(worker: &Rc<Worker>, used: &Use, key: ChunkKey) -> OpResult<Option<u32>> {
    let node = &worker.node;
    if !node.backing.concerns(key.ino) || is_here(node, key)? {
        return Ok(None);
    }
    let source = source_of_share(worker, used, key.ino).await?;
    Ok(source.map(|source| bytes_of(&source, key.chunk)).filter(|bytes| *bytes > 0))
}

/// Up to `limit` chunks within `within` that this server would hold, and that are in the shared tier only, with their bytes.
pub async fn all_elsewhere(
    worker: &Rc<Worker>,
    used: &Use,
    ino: InodeId,
    within: Range<ChunkIndex>,
    limit: usize,
) -> OpResult<Vec<(ChunkIndex, u32)>> {
    let node = &worker.node;
    let Some(source) = source_of_share(worker, used, ino).await? else { return Ok(Vec::new()) };
    if replaced::is_lost(&source) && source.layout.placement == Placement::Writer {
        // Which chunks those were is known by their pointers only.
        return Err(replaced::error());
    }
    let end = source.backing.limit.div_ceil(source.layout.chunk_bytes()).min(within.end.0);
    let mut found = Vec::new();
    for chunk in (within.start.0..end).map(ChunkIndex) {
        if found.len() >= limit {
            break;
        }
        give_way(chunk).await;
        let is_mine = holder(node, &source, ino, chunk) == Some(node.id());
        if is_mine && !is_here(node, ChunkKey { ino, chunk })? {
            found.push((chunk, bytes_of(&source, chunk)));
        }
    }
    Ok(found)
}

/// The file is being cut here: what lies beyond is not fetched any more. Answers whether that is news. The caller is alone with it.
pub fn cut(node: &Node, ino: InodeId, chunk: ChunkIndex, keep_bytes: u32) -> OpResult<bool> {
    if !node.backing.concerns(ino) {
        return Ok(false);
    }
    let Row::From(mut source) = rows::get(node, ino)? else { return Ok(false) };
    let start = chunk.0.saturating_mul(source.layout.chunk_bytes());
    let limit = start.saturating_add(u64::from(keep_bytes));
    if limit >= source.backing.limit {
        return Ok(false);
    }
    source.backing.limit = limit;
    rows::put(node, ino, Some(&source)).map(|()| true)
}
