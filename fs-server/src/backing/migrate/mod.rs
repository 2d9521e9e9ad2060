//! Moving what an old tier has to the shared one, in the background: `docs/decisions/0030-migration.md`. Listing (`old_names`) takes over what is there,
//! reading fetches from there, flushing copies it. Here is what sees to it that all of that happens, and ends.
//!
//! Whatever has not moved has a row ('g'), at the home of its inode, from the batch on that makes its inode. Each server goes through its rows again
//! and again: directories are listed, what was not copied is flushed whatever its policy, copies are compared, and rows go.
//!
//! # Invariants
//! - A file's row goes only after both copies were read and were the same, or it was changed here since (`tests/flush/migrating.rs`: `a_flipped_byte_is_found`,
//!   `what_changes_in_the_old_tier_is_copied_again`).
//! - While any server has a row, or makes one, the old tier is not forgotten (`the_old_tier_is_kept_while_something_is_left`).

mod compare;
pub mod ops;
mod place;

use std::cell::{Cell, RefCell};
use std::ops::ControlFlow;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use fs_proto::msg::tier::{DetachFile, TierSource};
use fs_proto::record::{InodeRecord, TierLocation};
use fs_proto::{FileKind, InodeId};
use futures_util::stream::{self, StreamExt};
use parking_lot::Mutex;

use self::compare::Compared;
use super::{home, listing};
use crate::error::OpResult;
use crate::flush::policy::{self, Policy};
use crate::flush::{self, FlushItem, old};
use crate::kv::Batch;
use crate::namespace::locks::{LockKey, LockSet, Mode};
use crate::namespace::{encode_record, keys};
use crate::node::Node;
use crate::worker::Worker;

/// Rows that are looked at in one go.
const PAGE: usize = 1_000;
/// Things that have their turn at once.
const AT_ONCE: usize = 4;
/// Names that wait for being flushed, above which no further directories are listed.
const AHEAD: usize = 20_000;
/// Between two passes: as long as the last one took, within these.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));

/// What a server knows of its part of a migration, since its start.
#[derive(Default)]
pub struct Migration {
    running: AtomicBool,
    /// Rows that the last pass left.
    left: AtomicU64,
    same_files: AtomicU64,
    compared_bytes: AtomicU64,
    again: AtomicU64,
    gone: AtomicU64,
    trouble: Mutex<String>,
}

impl Migration {
    /// For the status page; null unless things move.
    pub fn status_json(&self) -> serde_json::Value {
        if !self.running.load(Ordering::Acquire) {
            return serde_json::Value::Null;
        }
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        serde_json::json!({
            "left": load(&self.left),
            "same_files": load(&self.same_files),
            "compared_bytes": load(&self.compared_bytes),
            "copied_again": load(&self.again),
            "gone": load(&self.gone),
            "trouble": *self.trouble.lock(),
        })
    }
}

/// In the batch that makes a copy in the shared tier the right one: what it was made from is remembered, to be compared with it. What was changed here
/// since it was taken over has moved.
pub fn note_copied(batch: &mut Batch, inode: &InodeRecord, published: &TierLocation) {
    let Some(from) = inode.tier.as_ref().filter(|at| old::is_in(at)) else { return };
    let (key, same) = (keys::moving(inode.attr.ino), from.version == published.version);
    match inode.backed.filter(|_| same && inode.attr.kind == FileKind::File) {
        Some(backing) => {
            let source = TierSource { at: from.clone(), backing, layout: inode.attr.layout };
            batch.put(key, encode_record(&Some(source)));
        }
        None => batch.delete(key),
    }
}

/// Goes on where the server was before its end.
pub fn resume(node: &Arc<Node>) -> OpResult<()> {
    if let Some(old) = ops::known(node)?.filter(|known| known.attached) {
        ops::attach(node, &old);
    }
    Ok(())
}

/// Has things move until the old tier is forgotten, or the server ends.
async fn run(worker: Rc<Worker>) {
    let node = &worker.node;
    let migration = &node.backing.migration;
    while node.flusher.has_old() && !node.is_stopping() && !migration.running.swap(true, Ordering::AcqRel) {
        while node.flusher.has_old() && !node.is_stopping() {
            let began = Instant::now();
            pass(&worker).await;
            tokio::select! {
                () = tokio::time::sleep(began.elapsed().clamp(PAUSES.0, PAUSES.1)) => {}
                () = node.stopped() => {}
            }
        }
        migration.running.store(false, Ordering::Release);
    }
}

/// Gives everything that has not moved a turn.
async fn pass(worker: &Rc<Worker>) {
    let (left, trouble) = (Cell::new(0), RefCell::new(String::new()));
    let mut after = None;
    loop {
        let page = match rows_after(&worker.node, after, PAGE) {
            Ok(page) => page,
            Err(error) => break *trouble.borrow_mut() = error.message.into_owned(),
        };
        let Some(last) = page.last() else { break };
        after = Some(*last);
        let turns = stream::iter(page).for_each_concurrent(AT_ONCE, async |ino| {
            match turn(worker, ino).await {
                Ok(true) => return,
                Ok(false) => {}
                Err(error) => {
                    tracing::debug!(?ino, message = %error.message, "does not move yet");
                    if trouble.borrow().is_empty() {
                        let path = flush::path_of(worker, &FlushItem::Inode(ino)).await;
                        *trouble.borrow_mut() =
                            format!("{}: {}", String::from_utf8_lossy(&path), error.message);
                    }
                }
            }
            left.set(left.get() + 1);
        });
        turns.await;
        if worker.node.is_stopping() {
            return;
        }
    }
    let migration = &worker.node.backing.migration;
    migration.left.store(left.get(), Ordering::Release);
    *migration.trouble.lock() = trouble.into_inner();
}

/// Up to `limit` of what has not moved, behind `after`.
fn rows_after(node: &Node, after: Option<InodeId>, limit: usize) -> OpResult<Vec<InodeId>> {
    let (mut from, to) = keys::range_of_kind(b'g');
    if let Some(after) = after {
        from = keys::moving(after);
        from.push(0);
    }
    let mut found = Vec::new();
    node.namespace.kv().scan(&from, &to, &mut |key, _| {
        found.extend(keys::split_moving(key));
        if found.len() < limit { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    Ok(found)
}

/// One thing's turn; true if it has moved.
async fn turn(worker: &Rc<Worker>, ino: InodeId) -> OpResult<bool> {
    let namespace = &worker.node.namespace;
    let Some(inode) = namespace.inode(ino)? else { return forget(worker, ino).await };
    if inode.attr.is_dir() {
        if inode.backed.is_some() {
            if waits_for_flushing(&worker.node) {
                return Ok(false);
            }
            listing::list(worker, ino).await?;
        }
        let now = namespace.inode(ino)?.filter(|now| ino != InodeId::ROOT && now.tier.is_none());
        if let Some(unpublished) = now {
            // What is in it waits for it.
            have_copied(worker, &unpublished).await?;
        }
        return forget(worker, ino).await;
    }
    let Some(at) = inode.tier.clone() else { return forget(worker, ino).await };
    match (old::is_in(&at), inode.attr.nlink) {
        (true, 0) => {
            // Who has it open yet reads on.
            let request = DetachFile { ino, parent: at.parent, name: at.name };
            home::detach(worker, request).await?;
            return forget(worker, ino).await;
        }
        (true, _) => return have_copied(worker, &inode).await.map(|()| false),
        (false, 0) => return forget(worker, ino).await,
        (false, _) => {}
    }
    let source: Option<Option<TierSource>> = namespace.record(&keys::moving(ino))?;
    let is_copy_of =
        |source: &TierSource| at.version == source.at.version && at.version == inode.attr.version;
    match source.flatten().filter(is_copy_of) {
        Some(source) => compare_with(worker, &inode, &at, &source).await,
        // Changed here since it was copied: what the flusher makes of it is right.
        None => forget(worker, ino).await,
    }
}

/// Whether enough was found for now: what waits for being flushed is in memory, and trees are large.
fn waits_for_flushing(node: &Node) -> bool {
    let queue = node.namespace.queue();
    queue.len().0.saturating_sub(queue.parked()) >= AHEAD
}

/// Has something copied, unless that is about to be done: its policy may say never, and a delay is for what is written again soon.
async fn have_copied(worker: &Rc<Worker>, inode: &InodeRecord) -> OpResult<()> {
    let namespace = &worker.node.namespace;
    let item = FlushItem::Name(inode.attr.parent, inode.name.clone());
    if namespace.queue().is_asked_for(&item) {
        // It has pauses of its own, which another asking would end.
        return Ok(());
    }
    if namespace.queue().is_tried_within(&item, PAUSES.1) {
        let xattrs = namespace.xattrs(inode.attr.ino)?;
        if policy::of(worker, inode, &xattrs).await? == Policy::Close {
            return Ok(());
        }
    }
    flush::ops::force(worker, inode.attr.ino).await
}

async fn compare_with(
    worker: &Rc<Worker>,
    inode: &InodeRecord,
    at: &TierLocation,
    source: &TierSource,
) -> OpResult<bool> {
    let (migration, ino) = (&worker.node.backing.migration, inode.attr.ino);
    let count = |counter: &AtomicU64| counter.fetch_add(1, Ordering::AcqRel);
    match compare::copies(worker, inode, at, source).await? {
        Compared::Same => {
            count(&migration.same_files);
            forget(worker, ino).await
        }
        Compared::Gone => {
            count(&migration.gone);
            forget(worker, ino).await
        }
        Compared::Moved => {
            // If it was others who replaced it, theirs is a change like any other.
            home::check(worker, ino).await?;
            Ok(false)
        }
        Compared::Differs => {
            if home::take_over_from(worker, ino, at, &source.at).await? {
                count(&migration.again);
                let path = String::from_utf8_lossy(&source.at.name).into_owned();
                tracing::info!(?path, "the old tier has another than was copied; it is copied again");
            }
            Ok(false)
        }
    }
}

/// It has moved, unless that changed a moment ago.
async fn forget(worker: &Rc<Worker>, ino: InodeId) -> OpResult<bool> {
    let namespace = &worker.node.namespace;
    let set = LockSet::of(&[(LockKey::Inode(ino), Mode::Exclusive)]);
    let commit = || {
        let inode = namespace.inode_in_section(ino)?;
        if inode.is_some_and(|inode| inode.attr.nlink > 0 && old::is_to_move(&inode)) {
            return Ok(false);
        }
        let mut batch = Batch::default();
        batch.delete(keys::moving(ino));
        namespace.kv().commit(batch)?;
        Ok(true)
    };
    namespace.locks().with(&set, commit).await
}

/// What is left here, at least: exact only if it is nothing.
fn left(node: &Node) -> OpResult<u64> {
    let any = !rows_after(node, None, 1)?.is_empty();
    Ok(if any { node.backing.migration.left.load(Ordering::Acquire).max(1) } else { 0 })
}

/// Takes the path of an old tier as it is on this server.
fn path_of(raw: &Bytes) -> std::path::PathBuf {
    use std::os::unix::ffi::OsStrExt;
    std::ffi::OsStr::from_bytes(raw).into()
}
