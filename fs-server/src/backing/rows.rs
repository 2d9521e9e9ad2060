//! What a holder of chunks remembers of files that are, in part, in the shared tier only ('h'), and of their chunks that must not be fetched
//! although nothing may be held of them ('n').
//!
//! # Invariants
//! - A row is changed by whoever is alone with its file, or fills one of its chunks (`claims`).
//! - A row of no source says that every chunk which is not held is a hole. It becomes another only by an eviction.
//! - What was cut off or punched is not fetched again (`tests/flush`: `what_is_cut_off_or_punched_does_not_come_back`).

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};

use fs_proto::msg::tier::TierSource;
use fs_proto::{ChunkIndex, InodeId};

use crate::error::OpResult;
use crate::kv::{Batch, Kv};
use crate::namespace::{encode_record, has_any, keys};
use crate::node::Node;

/// Marks that are removed in one batch.
const MARKS_AT_ONCE: usize = 4096;

/// Whether there are rows at all.
pub struct Rows {
    any: AtomicBool,
}

impl Rows {
    /// Looks whether the store has any.
    pub fn open(kv: &dyn Kv) -> Self {
        Rows { any: AtomicBool::new(has_any(kv, b'h')) }
    }

    /// Whether any file may have one.
    pub fn any(&self) -> bool {
        self.any.load(Ordering::Acquire)
    }

    /// To be called before the first row is committed.
    pub fn note_some(&self) {
        self.any.store(true, Ordering::Release);
    }
}

/// What the row of a file says.
pub enum Row {
    /// There is none.
    Absent,
    /// Every chunk that is not held is a hole.
    Nothing,
    /// Chunks that are not held come from there.
    From(TierSource),
}

/// The row of a file.
pub fn get(node: &Node, ino: InodeId) -> OpResult<Row> {
    let row: Option<Option<TierSource>> = node.namespace.record(&keys::source(ino))?;
    Ok(match row {
        None => Row::Absent,
        Some(None) => Row::Nothing,
        Some(Some(source)) => Row::From(source),
    })
}

/// Sets the row of a file.
pub fn put(node: &Node, ino: InodeId, source: Option<&TierSource>) -> OpResult<()> {
    node.backing.rows.note_some();
    let mut batch = Batch::default();
    batch.put(keys::source(ino), encode_record(&source.cloned()));
    Ok(node.namespace.kv().commit(batch)?)
}

/// Whether a chunk must not be fetched.
pub fn is_kept(node: &Node, ino: InodeId, chunk: ChunkIndex) -> OpResult<bool> {
    Ok(node.namespace.kv().get(&keys::kept_chunk(ino, chunk))?.is_some())
}

/// Marks a chunk as not to be fetched.
pub fn keep(node: &Node, ino: InodeId, chunk: ChunkIndex) -> OpResult<()> {
    let mut batch = Batch::default();
    batch.put(keys::kept_chunk(ino, chunk), encode_record(&()));
    Ok(node.namespace.kv().commit(batch)?)
}

/// Replaces what is known of a file by `source`. The row comes with the first marks that go: with the old one, a chunk without its mark would be
/// fetched from a copy that had something else there.
pub fn replace(node: &Node, ino: InodeId, source: &TierSource) -> OpResult<()> {
    node.backing.rows.note_some();
    let mut batch = Batch::default();
    batch.put(keys::source(ino), encode_record(&Some(source.clone())));
    remove_marks(node, &[ino], batch)
}

/// Forgets files.
pub fn forget(node: &Node, inos: &[InodeId]) -> OpResult<()> {
    if inos.is_empty() {
        return Ok(());
    }
    let mut batch = Batch::default();
    for ino in inos {
        batch.delete(keys::source(*ino));
    }
    remove_marks(node, inos, batch)
}

/// Removes the marks of files with `batch`, and with further ones if they are too many.
fn remove_marks(node: &Node, inos: &[InodeId], mut batch: Batch) -> OpResult<()> {
    let kv = node.namespace.kv();
    for ino in inos {
        let (mut from, to) = keys::range_of(b'n', *ino);
        loop {
            let (mut marks, mut next) = (0, None);
            kv.scan(&from, &to, &mut |key, _| {
                batch.delete(key);
                marks += 1;
                if marks < MARKS_AT_ONCE {
                    return ControlFlow::Continue(());
                }
                next = Some([key, &[0]].concat());
                ControlFlow::Break(())
            })?;
            let Some(next) = next else { break };
            kv.commit(std::mem::take(&mut batch))?;
            from = next;
        }
    }
    Ok(kv.commit(batch)?)
}
