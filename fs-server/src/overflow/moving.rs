//! Giving chunks away: which may go, who has room, and the move.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use fs_net::BufferClass;
use fs_proto::msg::chunk::SyncChunks;
use fs_proto::msg::inode::Statfs;
use fs_proto::msg::overflow::MayOverflow;
use fs_proto::msg::vault::{VaultDrop, VaultList, VaultPut};
use fs_proto::record::OverflowRecord;
use fs_proto::{InodeId, ServerId, Status};
use futures_util::future::join_all;
use rand::seq::{IndexedRandom, SliceRandom};

use super::{ALLOWED, access, keeper, kept};
use crate::backing::claims::Use;
use crate::error::{OpError, OpResult};
use crate::kv::Batch;
use crate::namespace::{encode_record, keys};
use crate::node::Node;
use crate::ops::copy;
use crate::store::{ChunkKey, ChunkStore, ChunkWrite, Compare};
use crate::worker::Worker;

/// How long it is believed who has room.
pub(super) const SURVEY_HOLDS: Duration = Duration::from_millis(500);
/// Servers that are asked for it: among so many there is one with room, unless hardly any has.
const SURVEYED: usize = 16;
/// How long they are waited for.
const SURVEY_WAIT: Duration = Duration::from_secs(1);
/// Percent of its file system that a keeper must have free: it is not to need room itself soon.
const KEEPER_FREE: u64 = 15;
/// Bytes of a chunk that are sent at once.
const PIECE: u32 = 4 << 20;
/// Bytes of chunks that are given away at once for want of room for something else.
const RELIEF: u64 = 64 << 20;
/// Chunks that are looked at a time for that.
const RELIEF_PAGE: usize = 64;

/// Who had room lately.
#[derive(Default)]
pub struct Survey {
    made: Option<Instant>,
    keepers: Vec<ServerId>,
}

/// Where [`relieve`] goes on: device, and the chunk behind which.
#[derive(Default)]
pub struct Hand {
    device: usize,
    after: Option<ChunkKey>,
}

/// What became of a chunk that was to go.
pub enum Outcome {
    /// It went, and what was to be written is there.
    Moved,
    /// Somebody else moved it, or tried to.
    LookAgain,
    /// It has to stay.
    Stays,
}

/// Has another server keep a chunk, with what is held of it here and with `write`, for which there was no room: a chunk of which there was nothing here does not come
/// into being without its first bytes. The caller uses the file.
pub async fn out(
    worker: &Rc<Worker>,
    used: &Use,
    key: ChunkKey,
    write: Option<&ChunkWrite>,
) -> OpResult<Outcome> {
    let node = &worker.node;
    while let Some(to) = keeper_with_room(worker).await {
        if !may_move(worker, key.ino).await {
            return Ok(Outcome::Stays);
        }
        // Who wanted it may give up; what was begun ends all the same.
        let (used, write) = (used.clone(), write.cloned());
        let errand = move |own: Rc<Worker>| async move {
            let (_used, node) = (used, Arc::clone(&own.node));
            let Some(_move) = node.overflow.begin(key) else {
                node.overflow.settled(key).await;
                return Ok(Outcome::LookAgain);
            };
            move_to(&own, key, to, write).await
        };
        match node.errands.run(errand).await {
            Some(Ok(outcome)) => return Ok(outcome),
            Some(Err(error)) => {
                tracing::debug!(keeper = to.0, message = %error.message, "cannot keep a chunk for this server");
                node.overflow.survey.lock().await.keepers.retain(|server| *server != to);
            }
            None => return Err(OpError::new(Status::Unavailable, "the server is ending")),
        }
    }
    Ok(Outcome::Stays)
}

/// A server that has room, if there is one.
async fn keeper_with_room(worker: &Rc<Worker>) -> Option<ServerId> {
    let overflow = &worker.node.overflow;
    let mut survey = overflow.survey.lock().await;
    if survey.made.is_none_or(|made| made.elapsed() > SURVEY_HOLDS) {
        survey.keepers = look_for_room(worker).await;
        survey.made = Some(Instant::now());
        if !survey.keepers.is_empty() {
            *overflow.seen_room.lock() = survey.made;
        }
    }
    survey.keepers.choose(&mut rand::rng()).copied()
}

async fn look_for_room(worker: &Rc<Worker>) -> Vec<ServerId> {
    let mut others = worker.node.stores();
    others.retain(|server| *server != worker.node.id());
    let (some, _) = others.partial_shuffle(&mut rand::rng(), SURVEYED);
    let asked = some.iter().map(|server| async move {
        let space = tokio::time::timeout(SURVEY_WAIT, worker.ask(*server, &Statfs { server: *server }))
            .await
            .ok()?
            .ok()?;
        (space.free_bytes / 100 >= space.total_bytes / 10_000 * KEEPER_FREE).then_some(*server)
    });
    join_all(asked).await.into_iter().flatten().collect()
}

/// Whether chunks of a file may be with others; its home knows.
async fn may_move(worker: &Rc<Worker>, ino: InodeId) -> bool {
    let allowed = &worker.node.overflow.allowed;
    if let Some((since, may)) = allowed.get(&ino)
        && since.elapsed() < ALLOWED.0
    {
        return may;
    }
    // What cannot be known now stays.
    let Ok(may) = worker.ask_owner(ino.partition(), &MayOverflow { ino }).await else { return false };
    allowed.insert(ino, (Instant::now(), may));
    may
}

/// The caller is the one who moves the chunk.
async fn move_to(
    worker: &Rc<Worker>,
    key: ChunkKey,
    to: ServerId,
    write: Option<ChunkWrite>,
) -> OpResult<Outcome> {
    let node = &worker.node;
    if kept(node, key)?.is_some() {
        return Ok(Outcome::LookAgain);
    }
    let nonce = rand::random();
    let name = keeper::name(node.id(), key, nonce);
    let place = worker.ask(to, &VaultPut { key: name.clone(), value: Bytes::new() }).await?;
    let mut record = OverflowRecord { keeper: to, store: 0, place, nonce };
    let store = match give(worker, key, &record, write).await {
        // Asked behind the bytes: a store that has the object has them, too.
        Ok(()) => confirm(worker, to, &name, place).await,
        Err(error) => Err(error),
    };
    if store.is_err() {
        // If this fails, too, the keeper will ask (`keeper::keep_house`).
        drop(worker.ask(to, &VaultDrop { prefix: name }).await);
    }
    record.store = store?;
    node.overflow.any.store(true, Ordering::Release);
    let mut batch = Batch::default();
    batch.put(keys::overflow(key.ino, key.chunk), encode_record(&record));
    node.namespace.kv().commit(batch)?;
    if node.syncs_device() {
        crate::sync::group_sync(node).await?;
    }
    drop_here(node, key)?;
    node.overflow.moved_chunks.fetch_add(1, Ordering::Relaxed);
    Ok(Outcome::Moved)
}

/// Sends what is held here, and then what is to be written, to the keeper.
async fn give(
    worker: &Rc<Worker>,
    key: ChunkKey,
    record: &OverflowRecord,
    write: Option<ChunkWrite>,
) -> OpResult<()> {
    let node = &worker.node;
    for run in copy::runs(node.store.ranges(key)?, 0..u32::MAX) {
        let mut start = run.start;
        while start < run.end {
            let len = (run.end - start).min(PIECE) as usize;
            let buffer = node.pools.fetches.get_for(BufferClass::PeerRequest, None, len).await;
            let buffer = buffer.map_err(|error| OpError::because(Status::Invalid, error.to_string()))?;
            let read = node.store.read_buffer(key, start, len, buffer, Compare::Here).await?;
            if !read.data.is_empty() {
                access::send(worker, record, start, read.crc, read.data).await?;
            }
            start += len as u32;
        }
    }
    if let Some(write) = write {
        access::send(worker, record, write.offset, write.sums.crc(), write.data).await?;
    }
    if node.syncs_device() {
        worker.ask(record.keeper, &SyncChunks { ino: record.place }).await?;
    }
    Ok(())
}

/// The number of the store that has the object.
async fn confirm(worker: &Rc<Worker>, to: ServerId, name: &Bytes, place: InodeId) -> OpResult<u64> {
    let page = worker.ask(to, &VaultList { prefix: name.clone(), after: Bytes::new() }).await?;
    if page.objects.iter().any(|object| object.ino == place) {
        return Ok(page.store);
    }
    Err(OpError::new(Status::Retry, "the keeper has lost its store meanwhile"))
}

/// What is held here does not count any more.
fn drop_here(node: &Node, key: ChunkKey) -> OpResult<()> {
    let Some(end) = node.store.ranges(key)?.last().map(|range| range.end) else { return Ok(()) };
    Ok(node.store.punch(key, 0, end)?)
}

/// Gives some chunks away, because there is no room for names or small files.
pub async fn relieve(worker: &Rc<Worker>) {
    let node = &worker.node;
    // Else somebody does so already.
    let Ok(mut hand) = node.overflow.relief.try_lock() else { return };
    let before = node.overflow.sent_bytes();
    let moved = || node.overflow.sent_bytes() - before;
    let mut turns = 0;
    while moved() < RELIEF && turns <= node.store.stores().len() {
        if keeper_with_room(worker).await.is_none() {
            break;
        }
        let Ok(keys) = node.store.chunks_after(hand.device, hand.after, RELIEF_PAGE) else { break };
        hand.after = keys.last().copied();
        if keys.is_empty() {
            hand.device = (hand.device + 1) % node.store.stores().len();
            turns += 1;
        }
        for key in keys {
            let used = node.backing.enter(key.ino).await;
            if out(worker, &used, key, None).await.is_err() || moved() >= RELIEF {
                break;
            }
        }
    }
}
