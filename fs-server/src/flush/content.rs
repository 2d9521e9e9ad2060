//! Making the copy of something in staging: files from the servers that hold their chunks, all at once; other things here.
//!
//! # Invariants
//! - A staged file belongs to one attempt of one server: its name is never used again.
//! - A request to write a share is answered only when its file is closed: what is published is complete
//!   (`tests/flush`, `files_are_copied_by_all_servers_that_hold_chunks`).

use std::collections::HashMap;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use fs_net::{BufferClass, PoolBuffer};
use fs_proto::msg::small::ReadInline;
use fs_proto::msg::tier::{FlushChunks, FlushedShare, PartsOf, TierView};
use fs_proto::record::{InodeRecord, OverflowRecord};
use fs_proto::{Attr, ChunkIndex, FileKind, INLINE_MAX, InodeId, Layout, ServerId, Status};
use futures_util::future::{join_all, try_join_all};
use parking_lot::Mutex;
use tokio::sync::watch;

use super::gathering::{self, Gatherings};
use super::outcome::{FlushResult, Stop};
use super::window::Call;
use super::{dirs, parts};
use crate::backing::claims::Copied;
use crate::backing::fetch::{self, Ensured, Want};
use crate::error::{OpError, OpResult};
use crate::node::Node;
use crate::ops::inline;
use crate::ops::setattr::holders;
use crate::overflow::{self, access};
use crate::store::{ChunkKey, ChunkStore, Compare};
use crate::tier::{
    Attributes, Base, Destination, Make, Place, Staged, Tier, TierError, TierFile, TierResult,
};
use crate::worker::Worker;

/// Why a copy is made again.
const MOVED: Stop = Stop::Wait("its chunks went to another server while they were copied");
/// Most bytes of one write to the tier.
const PIECE: usize = 4 << 20;
/// The same to a file system of this machine, where a call costs little: what is read, checked and written stays in a core's cache.
const PIECE_LOCAL: usize = 256 << 10;
/// Holes of fewer bytes are written to the tier as zeros: a write more costs more than these.
const HOLE_MIN: u32 = 64 << 10;
/// Bytes of a share per thread that writes it.
const PART: u64 = 16 << 20;
/// Most threads that write one share.
const PARTS_MAX: u64 = 4;
/// The same on a file system of this machine: its writes to one file are done one after the other, and who waits for them burns CPU.
const PARTS_MAX_LOCAL: u64 = 1;
/// How long a request to write a share waits before it is told to ask again: less than requests live.
const SHARE_WAIT: Duration = Duration::from_secs(8);
/// How long the outcome of a share is kept for an asker that does not come.
const SHARE_KEPT: Duration = Duration::from_secs(120);

/// The attributes that the copy of an inode gets.
pub fn attributes(attr: &Attr, xattrs: &[(Bytes, Bytes)]) -> Attributes {
    Attributes {
        mode: Some(attr.mode),
        owner: Some((attr.uid, attr.gid)),
        xattrs: Some(xattrs.to_vec()),
        atime: attr.atime,
        mtime: attr.mtime,
    }
}

/// Makes the copy of what `view` shows at a fresh place in staging; returns the place and what is there.
pub async fn stage(
    worker: &Rc<Worker>,
    view: &TierView,
    inode: &InodeRecord,
    to: &Place,
) -> FlushResult<(Place, Staged)> {
    // The name first: staging is tidied up only before or after it.
    let name = worker.node.flusher.new_staging_name(worker.node.id());
    let place = Place { dir: dirs::staging(worker).await?, name };
    let made = match inode.attr.kind {
        FileKind::File => {
            let attributes = attributes(&inode.attr, &view.xattrs);
            let to = Destination { place: to.clone(), attributes };
            file(worker, &inode.attr, &place, to).await
        }
        _ => other(worker, view, inode, &place).await,
    };
    match made {
        Ok(staged) => Ok((place, staged)),
        Err(error) => {
            discard(worker, &place).await;
            Err(error)
        }
    }
}

/// Removes what was staged in vain. If that fails, it is done when nothing else is to do.
pub async fn discard(worker: &Rc<Worker>, place: &Place) {
    let doomed = place.clone();
    match worker.node.flusher.on_tier(move |tier| tier.remove(&doomed, false)).await {
        Ok(()) | Err(TierError::Missing(_)) => {}
        Err(error) => {
            tracing::debug!(%error, "a staged copy that is not needed stays for now");
            worker.node.flusher.note_doomed(place.name.clone());
        }
    }
}

async fn other(
    worker: &Rc<Worker>,
    view: &TierView,
    inode: &InodeRecord,
    place: &Place,
) -> FlushResult<Staged> {
    let what = match inode.attr.kind {
        FileKind::Symlink => Make::Symlink { target: inode.target.clone() },
        kind => Make::Special { kind, rdev: inode.attr.rdev },
    };
    let (place, attributes) = (place.clone(), attributes(&inode.attr, &view.xattrs));
    let make = move |tier: &dyn Tier| make_other(tier, &place, &what, &attributes);
    Ok(worker.node.flusher.on_tier(make).await?)
}

/// Stages what is no file.
pub fn make_other(tier: &dyn Tier, at: &Place, what: &Make, attributes: &Attributes) -> TierResult<Staged> {
    let id = tier.make(at, what)?;
    tier.set(at, id, attributes)?;
    Ok(Staged { id, found: None })
}

async fn file(worker: &Rc<Worker>, attr: &Attr, place: &Place, to: Destination) -> FlushResult<Staged> {
    let node = &worker.node;
    if attr.inline {
        return inline_file(worker, attr, place, to).await;
    }
    let chunks = attr.size.div_ceil(attr.layout.chunk_bytes());
    let servers =
        if chunks == 0 { Vec::new() } else { holders(node, attr, ChunkIndex(0), ChunkIndex(chunks)) };
    if let Some(part_bytes) = node.flusher.part_bytes(attr.size) {
        return parts::file(worker, attr, place, to, (part_bytes, servers)).await;
    }
    if servers.iter().all(|server| *server == node.id())
        && attr.size <= PIECE as u64
        && let Some(staged) = small_file(worker, attr, place, &to).await?
    {
        return Ok(staged);
    }
    let (size, target) = (attr.size, place.clone());
    let make = Make::File { size, to: Some(Box::new(to.clone())) };
    let make = move |tier: &dyn Tier| Ok((tier.make(&target, &make)?, tier.stripes(&target)?));
    let (id, stripes) = node.flusher.on_tier(make).await?;
    if let Some(stripes) = stripes {
        parts::by_objects(worker, attr, place, &servers, stripes).await?;
    } else {
        let request = request_for(node, attr, place, None);
        let requests = servers.into_iter().map(|server| (server, request.clone())).collect();
        all_shares(worker, requests).await?;
    }
    let (place, syncs) = (place.clone(), node.syncs_tier());
    Ok(node.flusher.on_tier(move |tier| finish(tier, &place, id, size, &to.attributes, syncs)).await?)
}

/// What a server is asked to write of a file that is staged here.
pub fn request_for(node: &Node, attr: &Attr, place: &Place, parts: Option<PartsOf>) -> FlushChunks {
    FlushChunks {
        ino: attr.ino,
        server: node.id(),
        staging: place.name.clone(),
        layout: attr.layout,
        size: attr.size,
        parts,
    }
}

/// Asks servers for their shares of a file; returns their receipts.
pub async fn all_shares(
    worker: &Rc<Worker>,
    requests: Vec<(ServerId, FlushChunks)>,
) -> FlushResult<Vec<Bytes>> {
    let shares = requests.iter().map(|(server, request)| async {
        loop {
            match worker.ask(*server, request).await {
                Err(error) if error.status == Status::Retry => {}
                outcome => return outcome,
            }
        }
    });
    // All of them, also after a failure: nobody looks for what was discarded.
    let outcomes = join_all(shares).await.into_iter();
    Ok(outcomes.map(|outcome| outcome.map(|share| share.receipt)).collect::<OpResult<_>>()?)
}

/// A file whose content lies with its inode: the home is asked for it.
async fn inline_file(
    worker: &Rc<Worker>,
    attr: &Attr,
    place: &Place,
    to: Destination,
) -> FlushResult<Staged> {
    let node = &worker.node;
    let request = ReadInline { ino: attr.ino, offset: 0, len: INLINE_MAX };
    let (read, data) = worker.exchange(attr.ino.partition(), &request, Bytes::new()).await?;
    if !read.attr.inline {
        return Err(Stop::Wait("it changed while it was copied"));
    }
    inline::check(&data, read.crc)?;
    let (own, place, size) = (Arc::clone(node), place.clone(), attr.size);
    let stage = move |tier: &dyn Tier| {
        // Should it be another version by now, this copy is not shown, or a later one follows.
        let data = &data[..data.len().min(size as usize)];
        own.flusher.control().pace(&own, data.len() as u64);
        stage_whole(&own, tier, (&place, size), &to, data)
    };
    Ok(node.flusher.on_tier(stage).await?)
}

/// Makes the copy of a file of `size` bytes whose content, or the beginning of it, is `data`; on a thread of the tier.
pub fn stage_whole(
    node: &Node,
    tier: &dyn Tier,
    (at, size): (&Place, u64),
    to: &Destination,
    data: &[u8],
) -> TierResult<Staged> {
    let mut fill = |file: &dyn TierFile| write_whole(node, file, data);
    node.flusher.measured(Call::Whole, || tier.stage(at, size, to, &mut fill))
}

/// Writes all there is to write of a file.
pub fn write_whole(node: &Node, file: &dyn TierFile, data: &[u8]) -> TierResult<()> {
    file.write_at(0, data)?;
    node.flusher.account().note_copied(data.len() as u64);
    if node.syncs_tier() { file.sync() } else { Ok(()) }
}

/// Gives a filled file its attributes, and checks its size.
pub fn finish(
    tier: &dyn Tier,
    place: &Place,
    id: u64,
    size: u64,
    attributes: &Attributes,
    syncs: bool,
) -> TierResult<Staged> {
    if syncs {
        tier.open_file(place)?.sync()?;
    }
    tier.set(place, id, attributes)?;
    let found = tier.look(place)?.filter(|found| found.id == id && found.size == size);
    if found.is_none() {
        return Err(TierError::Failed(format!(
            "the staged copy has not {size} bytes: the shared tier lost or changed it"
        )));
    }
    Ok(Staged { id, found: found.filter(|_| tier.shows_staged()) })
}

/// A file whose chunks are all here, in one job: no message, one buffer. None if some may be in the shared tier only.
async fn small_file(
    worker: &Rc<Worker>,
    attr: &Attr,
    place: &Place,
    to: &Destination,
) -> FlushResult<Option<Staged>> {
    let node = &worker.node;
    let mut copying = Copying::begin(worker, attr.ino).await;
    // Nothing of an empty one is elsewhere, and nobody who holds chunks of it would be asked.
    if attr.size > 0 && (!fetch::is_no_concern(node, attr.ino)? || overflow::has_any_of(node, attr.ino)?) {
        return Ok(None);
    }
    let mut buffer = buffer(node, attr.size.max(1)).await?;
    let (own, place, attr, to) = (Arc::clone(node), place.clone(), attr.clone(), to.clone());
    let stage = move |tier: &dyn Tier| {
        tier.stage(&place, attr.size, &to, &mut |file| {
            let chunks = chunks_here(&own, attr.ino, attr.size, attr.layout)?;
            write_chunks(&own, file, attr.ino, attr.layout, attr.size, &chunks, &mut buffer)?;
            if own.syncs_tier() { file.sync() } else { Ok(()) }
        })
    };
    let staged = node.flusher.on_tier(stage).await?;
    if overflow::has_any_of(node, copying.ino)? {
        return Err(MOVED);
    }
    copying.is_done = true;
    Ok(Some(staged))
}

/// Chunks of a file are being copied from here: none is dropped meanwhile.
struct Copying {
    node: Arc<Node>,
    ino: InodeId,
    _claim: Copied,
    is_done: bool,
}

impl Copying {
    async fn begin(worker: &Rc<Worker>, ino: InodeId) -> Self {
        let node = Arc::clone(&worker.node);
        let claim = node.backing.copy(ino).await;
        // What is written from now on is dirty again.
        node.backing.evictor().dirty().note_copy(ino);
        Copying { node, ino, _claim: claim, is_done: false }
    }
}

impl Drop for Copying {
    fn drop(&mut self) {
        if !self.is_done {
            self.node.backing.evictor().dirty().note_write(self.ino);
        }
    }
}

/// A buffer for a piece of a file with so many bytes. Requests that wait for room, which flushing makes, may hold all of the usual ones.
async fn buffer(node: &Node, bytes: u64) -> FlushResult<PoolBuffer> {
    let piece = if node.flusher.is_remote() { PIECE } else { PIECE_LOCAL };
    let bytes = bytes.min(piece as u64) as usize;
    if let Some(buffer) = node.pools.buffers.try_get(bytes) {
        return Ok(buffer);
    }
    let got = node.pools.fetches.get_for(BufferClass::PeerRequest, None, bytes).await;
    got.map_err(|error| Stop::Failed(error.to_string()))
}

type Chunks = Vec<(ChunkIndex, u32)>;

fn chunks_here(node: &Node, ino: InodeId, size: u64, layout: Layout) -> TierResult<Chunks> {
    let mut chunks = node.store.chunks(ino).map_err(unreadable)?;
    let kept = overflow::list(node, ino, ChunkIndex(0), usize::MAX).map_err(unlisted)?;
    chunks.retain(|(chunk, _)| kept.binary_search_by_key(chunk, |(kept, _)| *kept).is_err());
    chunks.retain(|(chunk, _)| chunk.0 < size.div_ceil(layout.chunk_bytes()));
    Ok(chunks)
}

fn unreadable(error: crate::store::StoreError) -> TierError {
    TierError::Failed(format!("the data cannot be read from the server's store: {error}"))
}

fn unlisted(error: OpError) -> TierError {
    TierError::Failed(format!("what other servers keep cannot be listed: {}", error.message))
}

fn write_chunks(
    node: &Node,
    file: &dyn TierFile,
    ino: InodeId,
    layout: Layout,
    size: u64,
    chunks: &[(ChunkIndex, u32)],
    buffer: &mut [u8],
) -> TierResult<u64> {
    let mut written = 0;
    for (chunk, _) in chunks {
        let key = ChunkKey { ino, chunk: *chunk };
        let start = chunk.0 * layout.chunk_bytes();
        for range in with_small_holes(node.store.ranges(key).map_err(unreadable)?) {
            let end = u64::from(range.end).min(size - start);
            let mut offset = u64::from(range.start);
            while offset < end {
                let want = (end - offset).min(buffer.len() as u64) as usize;
                let got = node.store.read(key, offset as u32, &mut buffer[..want]).map_err(unreadable)?;
                if got == 0 {
                    break;
                }
                node.flusher.write(node, file, start + offset, &buffer[..got])?;
                if size > PIECE as u64 {
                    node.flusher.underway().note(ino, got as u64);
                }
                (offset, written) = (offset + got as u64, written + got as u64);
            }
        }
    }
    Ok(written)
}

/// What is written of a chunk: its data and the zeros of small holes. A staged file is a hole as a whole at first, so large ones stay.
fn with_small_holes(mut data: Vec<Range<u32>>) -> Vec<Range<u32>> {
    data.dedup_by(|next, last| {
        let joins = next.start - last.end < HOLE_MIN;
        last.end = if joins { next.end } else { last.end };
        joins
    });
    data
}

type ShareOutcome = Option<OpResult<FlushedShare>>;

struct Share {
    outcome: watch::Receiver<ShareOutcome>,
    began: Instant,
}

/// The name of the staged file, and the first part of the share.
type ShareKey = (Bytes, Option<u64>);

/// Shares of files that this server writes: whoever asks again joins.
#[derive(Default)]
pub struct Shares {
    running: Mutex<HashMap<ShareKey, Share>>,
    /// Copies that are gathered in parts.
    pub gatherings: Gatherings,
}

impl Shares {
    fn join(&self, key: &ShareKey) -> Result<watch::Receiver<ShareOutcome>, watch::Sender<ShareOutcome>> {
        let mut running = self.running.lock();
        if let Some(share) = running.get(key) {
            return Ok(share.outcome.clone());
        }
        running.retain(|_, share| share.outcome.borrow().is_none() || share.began.elapsed() < SHARE_KEPT);
        let (sender, outcome) = watch::channel(None);
        running.insert(key.clone(), Share { outcome, began: Instant::now() });
        Err(sender)
    }
}

/// Writes this server's chunks of a file into its staged copy; a long one answers `Retry` meanwhile.
pub async fn share(worker: &Rc<Worker>, request: FlushChunks) -> OpResult<FlushedShare> {
    let node = &worker.node;
    if let Some(parts) = request.parts.as_ref().filter(|parts| gathering::is_step(parts)) {
        gathering::step(worker, &request, parts).await?;
        return Ok(FlushedShare { bytes: 0, receipt: Bytes::new() });
    }
    let shares = node.flusher.shares();
    let key = (request.staging.clone(), request.parts.as_ref().map(|parts| parts.first));
    let mut outcome = match shares.join(&key) {
        Ok(outcome) => outcome,
        Err(sender) => {
            let (outcome, own) = (sender.subscribe(), Rc::clone(worker));
            tokio::task::spawn_local(async move {
                let written = write_share(&own, request).await;
                sender.send_replace(Some(written.map_err(|stop| stop.refusal("not to be written now"))));
            });
            outcome
        }
    };
    let answer = match tokio::time::timeout(SHARE_WAIT, outcome.wait_for(Option::is_some)).await {
        Err(_) => return Err(OpError::new(Status::Retry, "the share is being written")),
        Ok(Ok(done)) => done.clone(),
        Ok(Err(_)) => None,
    };
    shares.running.lock().remove(&key);
    answer.unwrap_or_else(|| Err(OpError::new(Status::TierFailed, "the share's task ended unexpectedly")))
}

async fn write_share(worker: &Rc<Worker>, request: FlushChunks) -> FlushResult<FlushedShare> {
    let node = &worker.node;
    if let Some(which) = request.parts.clone() {
        return parts::share(worker, request, which).await;
    }
    let (own, ino, size, layout) = (Arc::clone(node), request.ino, request.size, request.layout);
    let mut copying = Copying::begin(worker, ino).await;
    let (server, staging) = (request.server, request.staging.clone());
    let open = move |tier: &dyn Tier| {
        let place = Place { dir: tier.base(Base::Staging(server))?, name: staging };
        Ok(Arc::<dyn TierFile>::from(tier.open_file(&place)?))
    };
    let file = node.flusher.on_tier(open).await?;
    let kept = overflow::list(node, ino, ChunkIndex(0), usize::MAX)?;
    let past = copy_past(worker, ino, layout, size, &file, &kept).await?;
    let chunks = node.flusher.on_tier(move |_: &dyn Tier| chunks_here(&own, ino, size, layout)).await?;
    if chunks.is_empty() && past == 0 {
        check_kept(node, ino, &kept)?;
        copying.is_done = true;
        return Ok(FlushedShare { bytes: 0, receipt: Bytes::new() });
    }
    let bytes = chunks.len() as u64 * layout.chunk_bytes();
    let most = if node.flusher.is_remote() { PARTS_MAX } else { PARTS_MAX_LOCAL };
    let parts = bytes.div_ceil(PART).clamp(1, most);
    let per_part = chunks.len().div_ceil(parts as usize).max(1);
    let jobs = chunks.chunks(per_part).map(|part| {
        let (own, file, part) = (Arc::clone(node), Arc::clone(&file), part.to_vec());
        async move {
            let mut buffer = buffer(node, layout.chunk_bytes()).await?;
            let write =
                move |_: &dyn Tier| write_chunks(&own, file.as_ref(), ino, layout, size, &part, &mut buffer);
            Ok::<u64, Stop>(node.flusher.on_tier(write).await?)
        }
    });
    let written: u64 = try_join_all(jobs).await?.into_iter().sum();
    check_kept(node, ino, &kept)?;
    let syncs = node.syncs_tier();
    let close = move |_: &dyn Tier| {
        if syncs {
            file.sync()?;
        }
        Ok(file.receipt())
    };
    let receipt = node.flusher.on_tier(close).await?;
    copying.is_done = true;
    Ok(FlushedShare { bytes: written + past, receipt })
}

/// What went to a keeper since `kept` was listed may have been read when it was gone, or not at all.
fn check_kept(node: &Node, ino: InodeId, kept: &[(ChunkIndex, OverflowRecord)]) -> FlushResult<()> {
    let now = overflow::list(node, ino, ChunkIndex(0), usize::MAX)?;
    if now.iter().map(|(chunk, _)| chunk).eq(kept.iter().map(|(chunk, _)| chunk)) {
        Ok(())
    } else {
        Err(MOVED)
    }
}

/// Fetches what this server should hold of a file. What has no room in the store goes from the old copy, or from its keeper, into the new one past it;
/// answers its bytes.
async fn copy_past(
    worker: &Rc<Worker>,
    ino: InodeId,
    layout: Layout,
    size: u64,
    file: &Arc<dyn TierFile>,
    kept: &[(ChunkIndex, OverflowRecord)],
) -> FlushResult<u64> {
    let node = &worker.node;
    let mut copied = copy_kept(worker, layout, size, file, kept).await?;
    let missing = {
        let used = node.backing.enter(ino).await;
        let within = ChunkIndex(0)..ChunkIndex(size.div_ceil(layout.chunk_bytes()));
        fetch::all_elsewhere(worker, &used, ino, within, usize::MAX).await?
    };
    for (chunk, _) in missing {
        // Used for one chunk at a time: who cuts the file waits for no more than that.
        let used = node.backing.enter(ino).await;
        let key = ChunkKey { ino, chunk };
        let ensured = fetch::ensure(worker, &used, key, Want::Bytes).await?;
        drop(used);
        let Ensured::Passed(mut data) = ensured else { continue };
        let start = chunk.0 * layout.chunk_bytes();
        data.truncate(size.saturating_sub(start).min(data.len() as u64) as usize);
        let written = write_past(node, file, start, data).await?;
        node.flusher.underway().note(ino, written);
        copied += written;
    }
    Ok(copied)
}

/// Writes bytes that are not in the store; answers how many.
async fn write_past(node: &Arc<Node>, file: &Arc<dyn TierFile>, at: u64, data: Bytes) -> FlushResult<u64> {
    let (file, own, bytes) = (Arc::clone(file), Arc::clone(node), data.len() as u64);
    let write = move |_: &dyn Tier| own.flusher.write(&own, file.as_ref(), at, &data);
    node.flusher.on_tier(write).await?;
    Ok(bytes)
}

/// Copies what other servers keep of this server's chunks; answers its bytes.
async fn copy_kept(
    worker: &Rc<Worker>,
    layout: Layout,
    size: u64,
    file: &Arc<dyn TierFile>,
    kept: &[(ChunkIndex, OverflowRecord)],
) -> FlushResult<u64> {
    let (node, mut copied) = (&worker.node, 0);
    for (chunk, record) in kept {
        let start = chunk.0 * layout.chunk_bytes();
        for range in with_small_holes(access::ranges_there(worker, record).await?) {
            let end = u64::from(range.end).min(size.saturating_sub(start)) as u32;
            let mut offset = range.start;
            while offset < end {
                let want = (end - offset).min(PIECE as u32) as usize;
                let read = access::read_there(worker, record, offset, want, Compare::Here).await?;
                inline::check(&read.data, read.crc)?;
                if read.data.is_empty() {
                    break;
                }
                let got = write_past(node, file, start + u64::from(offset), read.data).await?;
                (offset, copied) = (offset + got as u32, copied + got);
            }
        }
    }
    Ok(copied)
}
