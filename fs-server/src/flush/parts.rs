//! Files in parts: whichever servers write them, and whoever holds the chunks.
//!
//! - Object stores want each part in one call. Parts are dealt to the servers that hold chunks, in turn.
//! - A striped file system locks objects. A part is a stripe there (or some, if they are small), and all parts of one object go to one server, which
//!   writes each in pieces as large as its memory allows (decision 0045).
//!
//! A server fetches what it does not hold itself; with `n` servers that is all but one `n`th of the file, which crosses the network between
//! servers once before it goes to the tier.
//!
//! What fails is done again after a pause, and nothing else: a piece that was gathered is written again, a chunk that could not be read is asked for again, and of
//! a share that failed all the same what it has not written. Only when that is in vain, too, the copy is begun anew.
//!
//! # Invariants
//! - No two servers write into one object of a striped file (`no_two_servers_share_an_object`).
//! - While a file is gathered its holders keep its chunks, for this copy and no other (`gathering`).
//! - What is gathered at once stays within a quarter of the buffers (`tests/flush`: `with_little_memory_pieces_are_smaller`).

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use fs_net::{BufferClass, LARGEST_BUFFER, PoolBuffer};
use fs_proto::msg::chunk::ReadChunk;
use fs_proto::msg::tier::{FlushChunks, FlushedShare, PartsOf};
use fs_proto::{Attr, ChunkIndex, InodeId, ServerId, Status};
use futures_util::future::{join_all, try_join_all};
use futures_util::stream::{self, StreamExt, TryStreamExt};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::gathering::Opened;
use super::outcome::{FlushResult, Stop};
use super::{content, gathering};
use crate::error::{OpError, OpResult};
use crate::node::Node;
use crate::ops::{inline, pointer};
use crate::tier::{Destination, Make, Place, Staged, Stripes, Tier, TierError, TierFile};
use crate::worker::Worker;

/// Parts that one server writes of one file, or of one object of it, at once.
const AT_ONCE: u64 = 2;
/// Bytes that are fetched for one part at once.
const FETCHED: u64 = 4 << 20;
/// What room for parts is counted in.
const UNIT: u64 = 1 << 20;
/// Shares of one file that one server is asked for at once: each has [`AT_ONCE`] pieces under way. A file may have 2,000 objects.
const SHARES: usize = 4;
/// Pauses before a piece is written, or a chunk read, again; and before shares that failed are asked for again.
const PIECE_PAUSES: [Duration; 3] =
    [Duration::from_millis(50), Duration::from_millis(200), Duration::from_millis(800)];
const SHARE_PAUSES: [Duration; 2] = [Duration::from_millis(500), Duration::from_secs(2)];
/// The first holder refused the claim.
const ANOTHER: Stop = Stop::Wait("another copy of it is being made");
/// A holder does not count the copy.
const LOST: Stop = Stop::Wait("this server was silent, and another copy of it was begun meanwhile");

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
        return Err(Stop::Refused(format!(
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

/// Parts that a server is to write, or failed to.
type Dealt = Vec<(ServerId, PartsOf)>;

/// A file that is gathered: who asks whom for what.
struct Gathered<'a> {
    worker: &'a Rc<Worker>,
    attr: &'a Attr,
    place: &'a Place,
    holders: &'a [ServerId],
}

/// Has parts written by those to whom they are dealt, out of what `holders` hold; returns the receipts.
async fn gathered(
    worker: &Rc<Worker>,
    attr: &Attr,
    place: &Place,
    holders: &[ServerId],
    dealt: Dealt,
) -> FlushResult<Vec<Bytes>> {
    let all = Gathered { worker, attr, place, holders };
    let written = match all.claimed().await {
        // Nothing was noted anywhere.
        Err(ANOTHER) => return Err(ANOTHER),
        Ok(()) => {
            tokio::select! {
                written = all.written(dealt) => written,
                never = all.renewed() => match never {},
            }
        }
        Err(stop) => Err(stop),
    };
    let written = match written {
        Ok(_) if !all.ended(&PartsOf::DONE).await => Err(LOST),
        written => written,
    };
    if written.is_err() {
        all.ended(&PartsOf::IN_VAIN).await;
    }
    written
}

impl Gathered<'_> {
    fn request(&self, parts: &PartsOf) -> FlushChunks {
        content::request_for(&self.worker.node, self.attr, self.place, Some(parts.clone()))
    }

    async fn tell(&self, who: &[ServerId], what: &PartsOf) -> FlushResult<Vec<Bytes>> {
        let requests = who.iter().map(|server| (*server, self.request(what))).collect();
        content::all_shares(self.worker, requests).await
    }

    /// Claims the file at all holders before any of them is read: whoever writes the parts. All who want it begin with the same holder, so that one gets it.
    async fn claimed(&self) -> FlushResult<()> {
        let Some((first, others)) = self.holders.split_first() else { return Ok(()) };
        match self.worker.ask(*first, &self.request(&PartsOf::NONE)).await {
            Err(error) if error.status == Status::Busy => return Err(ANOTHER),
            outcome => outcome?,
        };
        self.tell(others, &PartsOf::NONE).await.map(drop)
    }

    /// Tells the holders how it ended; false if the copy counts for nothing with one of them. A holder that is away has forgotten, and evicts nothing for a while; one that
    /// hears nothing takes it for in vain after a while, and is not waited for.
    async fn ended(&self, end: &PartsOf) -> bool {
        let (request, lease) = (self.request(end), self.patience().lease);
        let told =
            self.holders.iter().map(|holder| tokio::time::timeout(lease, self.worker.ask(*holder, &request)));
        let is_lost = |answer: &OpResult<FlushedShare>| {
            answer.as_ref().is_err_and(|error| error.status == Status::Busy)
        };
        !join_all(told).await.iter().flatten().any(is_lost)
    }

    fn patience(&self) -> gathering::Patience {
        self.worker.node.flusher.shares().gatherings.patience
    }

    /// Tells the holders, again and again, that it goes on; none of them waits for another.
    async fn renewed(&self) -> Infallible {
        join_all(self.holders.iter().map(|holder| self.renewed_at(*holder))).await;
        // There is no holder.
        std::future::pending().await
    }

    async fn renewed_at(&self, holder: ServerId) -> Infallible {
        loop {
            tokio::time::sleep(self.patience().renew).await;
            // Who is away says so when it is read.
            let _ = self.tell(&[holder], &PartsOf::STILL).await;
        }
    }

    /// Has all of it written; what fails of it is tried again.
    async fn written(&self, mut left: Dealt) -> FlushResult<Vec<Bytes>> {
        let (mut receipts, mut pauses) = (Vec::new(), SHARE_PAUSES.iter());
        loop {
            let (mut failed, mut reason) = (Dealt::new(), None);
            for (share, outcome) in self.asked(left).await {
                match outcome {
                    Ok(receipt) => receipts.push(receipt),
                    Err(stop @ Stop::Failed(_)) => {
                        failed.push(share);
                        reason = Some(stop);
                    }
                    Err(stop) => return Err(stop),
                }
            }
            let Some(reason) = reason else { return Ok(receipts) };
            match pauses.next() {
                Some(pause) if has_time(&self.worker.node, *pause).await => left = failed,
                _ => return Err(reason),
            }
            tracing::debug!(?reason, shares = left.len(), "a part of a copy is written again");
        }
    }

    /// Asks for shares, some of each server at a time. All of them, also after a failure: nobody looks for what was discarded.
    async fn asked(&self, dealt: Dealt) -> Vec<((ServerId, PartsOf), FlushResult<Bytes>)> {
        let mut by_server: BTreeMap<ServerId, Vec<PartsOf>> = BTreeMap::new();
        for (server, parts) in dealt {
            by_server.entry(server).or_default().push(parts);
        }
        let of_servers = by_server.into_iter().map(|(server, all)| {
            let shares = all.into_iter().map(move |parts| async move {
                let receipt = self.share_of(server, &parts).await;
                ((server, parts), receipt)
            });
            stream::iter(shares).buffer_unordered(SHARES).collect::<Vec<_>>()
        });
        join_all(of_servers).await.into_iter().flatten().collect()
    }

    async fn share_of(&self, server: ServerId, parts: &PartsOf) -> FlushResult<Bytes> {
        let request = self.request(parts);
        if server == self.worker.node.id() {
            return Ok(share(self.worker, request, parts.clone()).await?.receipt);
        }
        let receipts = content::all_shares(self.worker, vec![(server, request)]).await?;
        Ok(receipts.into_iter().next().unwrap_or_default())
    }
}

/// Waits before something is tried again; false if the server ends.
async fn has_time(node: &Node, pause: Duration) -> bool {
    tokio::select! {
        () = tokio::time::sleep(pause) => true,
        () = node.stopped() => false,
    }
}

/// Writes parts of a staged file.
pub async fn share(worker: &Rc<Worker>, request: FlushChunks, which: PartsOf) -> FlushResult<FlushedShare> {
    if which.part_bytes == 0 || which.every == 0 {
        return Err(Stop::Failed("parts of no size, or none at all".to_owned()));
    }
    let piece_bytes = piece_bytes(&worker.node, which.part_bytes)?;
    let keeps_all = wants_whole_parts(&worker.node);
    let write = async |share: &Opened| share_into(worker, &request, which, piece_bytes, share).await;
    gathering::with_file(worker, &request, keeps_all, write).await
}

async fn share_into(
    worker: &Rc<Worker>,
    request: &FlushChunks,
    which: PartsOf,
    piece_bytes: u64,
    share: &Opened,
) -> FlushResult<FlushedShare> {
    let node = &worker.node;
    let lanes = (0..AT_ONCE).map(|lane| {
        let mine = PartsOf {
            first: which.first.saturating_add(lane.saturating_mul(which.every)),
            every: which.every.saturating_mul(AT_ONCE),
            ..which
        };
        parts(worker, request, mine, piece_bytes, share)
    });
    let bytes = try_join_all(lanes).await?.into_iter().sum();
    let (own, share, staging) = (Arc::clone(node), share.clone(), request.staging.clone());
    let close = move |_: &dyn Tier| {
        if own.syncs_tier() {
            own.flusher.shares().gatherings.sync(&staging, &share)?;
        }
        Ok(share.file.receipt())
    };
    let receipt = node.flusher.on_tier(close).await?;
    Ok(FlushedShare { bytes, receipt })
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
    share: &Opened,
) -> FlushResult<u64> {
    let gatherings = &worker.node.flusher.shares().gatherings;
    let (mut part, mut written) = (which.first, 0);
    while let Some(mut at) = part.checked_mul(which.part_bytes).filter(|start| *start < request.size) {
        let end = request.size.min(at.saturating_add(which.part_bytes));
        if gatherings.is_written(&request.staging, share, part) {
            at = end;
        }
        while at < end {
            let len = piece_bytes.min(end - at);
            written += piece(worker, request, at..at + len, &share.file).await?;
            at += len;
        }
        gatherings.note_written(&request.staging, share, part);
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
    put(node, file, Arc::new(Piece { start, buffer, runs, done: AtomicUsize::new(0) })).await?;
    node.flusher.underway().note(request.ino, written);
    Ok(written)
}

/// A piece that was gathered.
struct Piece {
    start: u64,
    buffer: PoolBuffer,
    /// What is written of it.
    runs: Vec<Range<usize>>,
    /// How many of them are.
    done: AtomicUsize,
}

impl Piece {
    /// Runs where blocking is allowed.
    fn put(&self, node: &Node, file: &dyn TierFile) -> Result<(), TierError> {
        for run in &self.runs[self.done.load(Ordering::Acquire)..] {
            node.flusher.write(node, file, self.start + run.start as u64, &self.buffer[run.clone()])?;
            self.done.fetch_add(1, Ordering::AcqRel);
        }
        Ok(())
    }
}

/// Several times, as long as it fails in a way that may pass.
async fn patiently<R, E>(
    node: &Node,
    may_pass: impl Fn(&E) -> bool,
    mut attempt: impl AsyncFnMut() -> Result<R, E>,
) -> FlushResult<R>
where
    Stop: From<E>,
{
    let mut pauses = PIECE_PAUSES.iter();
    loop {
        match attempt().await {
            Err(error) if may_pass(&error) => match pauses.next() {
                Some(pause) if has_time(node, *pause).await => {}
                _ => return Err(error.into()),
            },
            outcome => return Ok(outcome?),
        }
    }
}

/// Writes a piece, what fails of it several times.
async fn put(node: &Arc<Node>, file: &Arc<dyn TierFile>, piece: Arc<Piece>) -> FlushResult<()> {
    // Of the other failures none passes in a moment.
    let may_pass = |error: &TierError| matches!(error, TierError::Failed(_));
    let attempt = async || {
        let (own, file, piece) = (Arc::clone(node), Arc::clone(file), Arc::clone(&piece));
        node.flusher.on_tier(move |_: &dyn Tier| piece.put(&own, file.as_ref())).await
    };
    patiently(node, may_pass, attempt).await
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
        let has_data = patiently_fill(worker, request, at, slice).await?;
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

/// As [`fill`], several times if it fails: what was gathered besides is kept meanwhile.
async fn patiently_fill(
    worker: &Rc<Worker>,
    request: &FlushChunks,
    at: u64,
    out: &mut [u8],
) -> FlushResult<bool> {
    let may_pass = |error: &OpError| error.status != Status::NotFound;
    patiently(&worker.node, may_pass, async || fill(worker, request, at, out).await).await
}

/// Fills a part of one chunk; false if there is nothing but a hole.
async fn fill(worker: &Rc<Worker>, request: &FlushChunks, at: u64, out: &mut [u8]) -> OpResult<bool> {
    let (ino, chunk_bytes) = (request.ino, request.layout.chunk_bytes());
    let (chunk, offset) = (ChunkIndex(at / chunk_bytes), (at % chunk_bytes) as u32);
    let Some(holder) = pointer::present_holder(worker, request.layout, ino, chunk).await? else {
        out.fill(0);
        return Ok(false);
    };
    let data = read(worker, holder, (ino, chunk), (offset, out.len() as u32)).await?;
    let (have, hole) = out.split_at_mut(data.len().min(out.len()));
    have.copy_from_slice(&data[..have.len()]);
    hole.fill(0);
    Ok(!have.is_empty())
}

/// Bytes of a chunk, compared with the checksum that they were stored with: by this server, and then by their holder, who can tell what the matter is.
async fn read(
    worker: &Rc<Worker>,
    holder: ServerId,
    (ino, chunk): (InodeId, ChunkIndex),
    (offset, len): (u32, u32),
) -> OpResult<Bytes> {
    let ask = |compared| ReadChunk { ino, chunk, offset, len, compared };
    let (answer, data) = worker.fetch(holder, &ask(false)).await?;
    if inline::check(&data, answer.crc).is_ok() {
        return Ok(data);
    }
    let (answer, data) = worker.fetch(holder, &ask(true)).await?;
    inline::check(&data, answer.crc)?;
    Ok(data)
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
