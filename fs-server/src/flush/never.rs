//! Names that are not copied because the policy of their directory is `never`. They are off the queue, so nothing counts them as pending, and written down ('Q')
//! under the directory that says so, or inherits it: once another policy holds there, which any directory above may have said, or a move of one have brought
//! about, they are queued again.
//!
//! # Invariants
//! - A name that is in the namespace and not in the tier is in the queue, or written down here, or says `never` itself: then a change of that notes it
//!   (`tests/flush`, `what_leaves_never_is_flushed`).
//! - Nothing of what is written down is in memory.

use std::ops::ControlFlow;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use fs_proto::InodeId;
use fs_proto::placement::name_hash;

use super::outcome::FlushResult;
use super::policy::Policy;
use super::queue::FlushItem;
use super::remote;
use crate::error::OpResult;
use crate::kv::Batch;
use crate::namespace::locks::{LockKey, LockSet, Mode};
use crate::namespace::{encode_record, keys};
use crate::node::Node;
use crate::worker::Worker;

/// Time between two looks at policies.
const EVERY: Duration = Duration::from_secs(1);
/// Directories of one look; the next goes on behind them.
const DIRS: usize = 256;
/// Names that are queued again in one change.
const PAGE: usize = 64;

/// What to remember of a name that its policy keeps from being copied.
pub async fn keep_back(worker: &Rc<Worker>, item: &FlushItem) -> FlushResult<Batch> {
    let mut batch = Batch::default();
    let FlushItem::Name(parent, name) = item else { return Ok(batch) };
    let node = &worker.node;
    let Some(entry) = remote::entry_now(node, *parent, name).await? else { return Ok(batch) };
    let view = remote::state(worker, entry.ino, None).await?;
    let says_so = node.flusher.policies().said(&view.xattrs) == Some(Policy::Never);
    // The directory of a file's first name is the one that counts.
    if let Some(inode) = view.inode.filter(|_| !says_so) {
        batch.put(keys::kept_back(inode.attr.parent, *parent, name), encode_record(&()));
    }
    Ok(batch)
}

/// In the batch that takes an item off the queue: it is not kept back any more.
pub fn forget(node: &Node, item: &FlushItem, mut batch: Batch) -> FlushResult<Batch> {
    if let FlushItem::Name(parent, name) = item {
        let key = keys::kept_back(*parent, *parent, name);
        if node.namespace.kv().get(&key)?.is_some() {
            batch.delete(key);
        }
    }
    Ok(batch)
}

/// Looks again and again whether another policy holds, until it is dropped.
pub async fn watch(worker: Rc<Worker>) {
    let mut from = InodeId(0);
    loop {
        tokio::time::sleep(EVERY).await;
        from = look(&worker, from).await.unwrap_or_else(|error| {
            tracing::debug!(message = %error.message, "policies are looked at again");
            InodeId(0)
        });
    }
}

/// Looks at some directories from `from` on; returns where the next look begins.
async fn look(worker: &Rc<Worker>, mut from: InodeId) -> OpResult<InodeId> {
    for _ in 0..DIRS {
        let Some(dir) = next(&worker.node, from)? else { return Ok(InodeId(0)) };
        if worker.node.flusher.policies().below(worker, dir).await? != Policy::Never {
            while queue_again(&worker.node, dir).await? {
                // There may be millions, and this thread directs all flushing.
                tokio::task::yield_now().await;
            }
        }
        from = InodeId(dir.0.saturating_add(1));
    }
    Ok(from)
}

/// The first directory from `from` on for which something is kept back.
fn next(node: &Node, from: InodeId) -> OpResult<Option<InodeId>> {
    let (from, to) = (keys::kept_back(from, InodeId(0), b""), keys::range_of_kind(b'Q').1);
    let mut found = None;
    node.namespace.kv().scan(&from, &to, &mut |key, _| {
        found = keys::split_inode(key);
        ControlFlow::Break(())
    })?;
    Ok(found)
}

/// Queues some of what is kept back for a directory; false if there was nothing.
async fn queue_again(node: &Node, dir: InodeId) -> OpResult<bool> {
    let namespace = &node.namespace;
    let (from, to) = keys::range_of(b'Q', dir);
    let mut found: Vec<(InodeId, Bytes)> = Vec::with_capacity(PAGE);
    namespace.kv().scan(&from, &to, &mut |key, _| {
        // As a further name's key: the directory comes before parent and name.
        found.extend(keys::split_link(key).map(|(parent, name)| (parent, Bytes::copy_from_slice(name))));
        if found.len() < PAGE { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    if found.is_empty() {
        return Ok(false);
    }
    let mut set = LockSet::default();
    for (parent, name) in &found {
        set.add(LockKey::Entry(*parent, name_hash(*parent, name)), Mode::Shared);
    }
    // In the sections of the names: whoever flushes one keeps it back again only after this is committed.
    let commit = || {
        let mut batch = Batch::default();
        for (parent, name) in &found {
            namespace.queue().note_name(&mut batch, *parent, name, None);
            batch.delete(keys::kept_back(dir, *parent, name));
        }
        namespace.kv().commit(batch)
    };
    namespace.locks().with(&set, commit).await?;
    Ok(true)
}
