//! Chunks for which there is no room here: another server, their *keeper*, has them, and this one goes on answering for them. A full node
//! is slower, and no error, while others have room (`docs/decisions/0041-overflow.md`).
//!
//! `moving` gives chunks away, `access` is the way of every operation on a chunk to where its bytes are, `keeper` is the other side. A keeper has a chunk as an
//! object of its vault: outside of the namespace, chunk 0 of an inode number of its own.
//!
//! # Invariants
//! - Of a chunk with a record ('u') the keeper has everything, and nothing that is held here counts: the record comes after the bytes and before the local
//!   ones go. Who writes looks behind its write whether the chunk has begun to move, who reads whether it has moved (`tests/flush`, `overflowing`).
//! - A chunk that was not here comes into being with its first bytes, as everywhere: else a reader would take nothing for what is in the shared tier.
//! - A record is made by whoever is alone in moving the chunk, and removed by whoever is alone with the file (`claims`).
//! - A keeper that has lost its store is an error, never zeros (`a_keeper_that_lost_its_store_is_an_error`).
//! - What must be where it is stays: objects of vaults, and what `user.hayate.overflow` says `no` of.

pub mod access;
pub mod keeper;
pub mod moving;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence};
use std::time::{Duration, Instant};

use fs_proto::record::OverflowRecord;
use fs_proto::{ChunkIndex, InodeId, ServerId};
use parking_lot::Mutex;
use tokio::sync::watch;

use self::moving::Survey;
use crate::error::OpResult;
use crate::hash::{Cache, cache};
use crate::inherited::Inherited;
use crate::kv::{Batch, Kv};
use crate::namespace::{chunk_records, has_any, keys};
use crate::node::Node;
use crate::store::ChunkKey;

/// The attribute: `yes` or `no`, of a file, or of a directory for everything below that says nothing else.
pub const ATTRIBUTE: &[u8] = b"user.hayate.overflow";
/// How long it is remembered which store a keeper has: less than a restart takes.
const STORE_KNOWN: Duration = Duration::from_secs(1);
/// How long it is remembered what a home said of a file, and of how many.
const ALLOWED: (Duration, usize) = (Duration::from_secs(10), 4096);
/// Records that are removed in one batch.
const REMOVED_AT_ONCE: usize = 1024;

/// State of one server.
pub struct Overflow {
    /// Whether any chunk may have a record.
    any: AtomicBool,
    /// Chunks that are being moved; their number apart, for who only asks whether there are any.
    moving: Mutex<HashMap<ChunkKey, watch::Sender<()>>>,
    moves: AtomicUsize,
    survey: tokio::sync::Mutex<Survey>,
    /// When a server with room was last seen.
    seen_room: Mutex<Option<Instant>>,
    stores: Mutex<HashMap<ServerId, (Instant, u64)>>,
    allowed: Cache<InodeId, (Instant, bool)>,
    policy: Inherited<bool>,
    relief: tokio::sync::Mutex<moving::Hand>,
    /// Bytes that went to keepers since the start, and how many chunks have moved.
    sent_bytes: AtomicU64,
    moved_chunks: AtomicU64,
    /// Requests that were passed on to keepers.
    passed_on: AtomicU64,
}

/// Somebody moves a chunk, until it is dropped.
struct Move<'a> {
    overflow: &'a Overflow,
    key: ChunkKey,
}

impl Drop for Move<'_> {
    fn drop(&mut self) {
        self.overflow.moving.lock().remove(&self.key);
        self.overflow.moves.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Overflow {
    /// That of a server whose records are in `kv`.
    pub fn open(kv: &dyn Kv) -> Self {
        Overflow {
            any: AtomicBool::new(has_any(kv, b'u')),
            moving: Mutex::default(),
            moves: AtomicUsize::new(0),
            survey: tokio::sync::Mutex::default(),
            seen_room: Mutex::new(None),
            stores: Mutex::default(),
            allowed: cache(ALLOWED.1),
            policy: Inherited::new(ATTRIBUTE, |value| Some(value != b"no"), true),
            relief: tokio::sync::Mutex::default(),
            sent_bytes: AtomicU64::new(0),
            moved_chunks: AtomicU64::new(0),
            passed_on: AtomicU64::new(0),
        }
    }

    /// Whether any chunk may be with a keeper.
    pub fn any(&self) -> bool {
        self.any.load(Ordering::Acquire)
    }

    /// Begins to move a chunk; None if somebody does already.
    fn begin(&self, key: ChunkKey) -> Option<Move<'_>> {
        let mut moving = self.moving.lock();
        if moving.contains_key(&key) {
            return None;
        }
        moving.insert(key, watch::Sender::new(()));
        self.moves.fetch_add(1, Ordering::SeqCst);
        // What is written from now on is looked for behind this (`has_begun`).
        fence(Ordering::SeqCst);
        Some(Move { overflow: self, key })
    }

    fn is_moving(&self, key: ChunkKey) -> bool {
        self.moves.load(Ordering::SeqCst) > 0 && self.moving.lock().contains_key(&key)
    }

    /// Waits until nobody moves the chunk.
    async fn settled(&self, key: ChunkKey) {
        while self.moves.load(Ordering::SeqCst) > 0 {
            let Some(mut end) = self.moving.lock().get(&key).map(watch::Sender::subscribe) else { return };
            // Its sender is dropped at the end.
            let _ = end.changed().await;
        }
    }

    /// Bytes that went to keepers.
    pub fn sent_bytes(&self) -> u64 {
        self.sent_bytes.load(Ordering::Relaxed)
    }

    /// Counters for the metrics page: name, meaning, value.
    pub fn metrics(&self) -> [(&'static str, &'static str, u64); 3] {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        [
            (
                "overflow_bytes",
                "Bytes sent to servers that keep chunks for want of room here",
                self.sent_bytes(),
            ),
            (
                "overflow_chunks",
                "Chunks that went to other servers for want of room here",
                load(&self.moved_chunks),
            ),
            ("overflow_requests", "Requests passed on to servers that keep chunks", load(&self.passed_on)),
        ]
    }

    /// Whether another server was seen to have room lately.
    pub fn is_hopeful(&self) -> bool {
        self.seen_room.lock().is_some_and(|then| then.elapsed() < moving::SURVEY_HOLDS * 4)
    }

    /// For the status page.
    pub fn status_json(&self) -> serde_json::Value {
        self.metrics()
            .iter()
            .map(|(name, _, value)| ((*name).to_owned(), serde_json::Value::from(*value)))
            .collect()
    }
}

/// Who keeps a chunk, if another server does.
pub fn kept(node: &Node, key: ChunkKey) -> OpResult<Option<OverflowRecord>> {
    if !node.overflow.any() {
        return Ok(None);
    }
    node.namespace.record(&keys::overflow(key.ino, key.chunk))
}

/// Whether a chunk moves or has moved: who wrote it here asks afterwards.
fn has_begun(node: &Node, key: ChunkKey) -> OpResult<bool> {
    fence(Ordering::SeqCst);
    Ok(node.overflow.is_moving(key) || kept(node, key)?.is_some())
}

/// Up to `limit` chunks of a file from `from` on that others keep, ascending.
pub fn list(
    node: &Node,
    ino: InodeId,
    from: ChunkIndex,
    limit: usize,
) -> OpResult<Vec<(ChunkIndex, OverflowRecord)>> {
    if !node.overflow.any() {
        return Ok(Vec::new());
    }
    let (from, to) = (keys::overflow(ino, from), keys::range_of(b'u', ino).1);
    chunk_records(&**node.namespace.kv(), (&from, &to), limit)
}

/// Whether anything of a file is with keepers.
pub fn has_any_of(node: &Node, ino: InodeId) -> OpResult<bool> {
    Ok(!list(node, ino, ChunkIndex(0), 1)?.is_empty())
}

/// Forgets who keeps chunks of a file from `from` on; their keepers drop them by and by. The caller is alone with the file.
fn forget_from(node: &Node, ino: InodeId, from: ChunkIndex) -> OpResult<()> {
    loop {
        let some = list(node, ino, from, REMOVED_AT_ONCE)?;
        if some.is_empty() {
            return Ok(());
        }
        let mut batch = Batch::default();
        for (chunk, _) in &some {
            batch.delete(keys::overflow(ino, *chunk));
        }
        node.namespace.kv().commit(batch)?;
        for (chunk, record) in some {
            keeper::drop_later(node, ChunkKey { ino, chunk }, record);
        }
    }
}

/// Forgets who keeps chunks of these files, which are removed or can be fetched from the shared tier. The caller is alone with them.
pub fn forget(node: &Node, inos: &[InodeId]) -> OpResult<()> {
    inos.iter().try_for_each(|ino| forget_from(node, *ino, ChunkIndex(0)))
}
