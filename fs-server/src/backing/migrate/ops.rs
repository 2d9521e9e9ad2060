//! Requests about migrations.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use fs_proto::msg::tier::{AttachOld, MergeOld, MigrateStatus, Migrated};
use fs_proto::record::Mutation;
use fs_proto::{InodeId, Status};

use super::{left, path_of, place, run};
use crate::error::{OpError, OpResult, ServerError};
use crate::flush::old;
use crate::kv::Batch;
use crate::namespace::locks::{LockKey, LockSet, Mode};
use crate::namespace::{encode_record, keys};
use crate::node::Node;
use crate::tier::both::{self, Old};
use crate::tier::late::Late;
use crate::tier::posix::UNOPENED;
use crate::worker::{Context, Worker};

/// Name of the fact in the store: path, number, whether something moves from there yet.
const FACT: &str = "old tier";

const NONE: OpError = OpError::new(Status::NotSupported, "this cluster has no shared tier to move to");
const OTHER: OpError = OpError::new(
    Status::Busy,
    "this cluster moved from another directory or bucket before; end it and start a new one on the same shared tier",
);
const AWAY: OpError = OpError::new(Status::Invalid, both::ANOTHER);
const LEFT: OpError = OpError::new(Status::Busy, "something has not moved from the old tier yet");

/// An old tier as it is written down.
pub struct Known {
    path: Bytes,
    id: u64,
    /// Whether something moves from there yet.
    pub attached: bool,
}

/// The old tier that was attached, if ever.
pub fn known(node: &Node) -> OpResult<Option<Known>> {
    let fact: Option<(Bytes, (u64, bool))> = node.namespace.record(&keys::fact(FACT))?;
    Ok(fact.map(|(path, (id, attached))| Known { path, id, attached }))
}

fn remember(node: &Node, known: &Known) -> OpResult<()> {
    let mut batch = Batch::default();
    batch.put(keys::fact(FACT), encode_record(&(known.path.clone(), (known.id, known.attached))));
    Ok(node.namespace.kv().commit(batch)?)
}

/// Things move from there. Nothing is opened: what is not there yet after a restart may come.
pub fn attach(node: &Arc<Node>, known: &Known) {
    let (path, config) = (path_of(&known.path), node.config.clone());
    let tier = place::reading(&path, &config).unwrap_or_else(|why| {
        tracing::warn!(reason = why, path = %path.display(), "what has not moved from the old tier cannot be read yet");
        let open = move || {
            place::reading(&path, &config).map_err(|reason| ServerError::Tier { path: path.clone(), reason })
        };
        Arc::new(Late::new(why, UNOPENED, Box::new(open)))
    });
    node.flusher.set_old(Some(Old { tier, id: known.id }));
    node.errands.send(run);
}

/// Things move from there to here, or no more.
pub async fn attach_old(worker: &Rc<Worker>, _: &Context, request: AttachOld) -> OpResult<u64> {
    let node = &worker.node;
    if !node.flusher.has_tier() {
        return Err(NONE);
    }
    if request.path.is_empty() {
        return detach(node).map(|()| 0);
    }
    let (path, config) = (path_of(&request.path), node.config.clone());
    let opened = node.flusher.on_reader(move |_| Ok(place::open(&path, &config))).await;
    let opened = opened.map_err(|error| OpError::because(Status::TierFailed, error.to_string()))?;
    let id = opened.map_err(|reason| OpError::because(Status::Invalid, reason))?.id;
    match known(node)? {
        Some(known) if known.path != request.path => return Err(OTHER),
        Some(known) if known.id != id => return Err(AWAY),
        _ => {}
    }
    if request.id == 0 {
        return Ok(id);
    }
    if request.id != id {
        return Err(OpError::new(Status::Invalid, "servers see different directories under the path"));
    }
    let known = Known { path: request.path, id, attached: true };
    remember(node, &known)?;
    attach(node, &known);
    if node.owns(InodeId::ROOT.partition()) {
        merge(worker, MergeOld { dir: InodeId::ROOT, path: Bytes::from_static(old::ROOT) }).await?;
    }
    Ok(id)
}

fn detach(node: &Node) -> OpResult<()> {
    let Some(known) = known(node)?.filter(|known| known.attached) else { return Ok(()) };
    if left(node)? > 0 {
        return Err(LEFT);
    }
    remember(node, &Known { attached: false, ..known })?;
    node.flusher.set_old(None);
    Ok(())
}

/// A directory that lives here has entries in the old tier, too.
pub async fn merge_old(worker: &Rc<Worker>, _: &Context, request: MergeOld) -> OpResult<()> {
    merge(worker, request).await
}

/// It is listed again, and its entries in the old tier once. One that came from elsewhere in the old tier stays what it is.
async fn merge(worker: &Rc<Worker>, request: MergeOld) -> OpResult<()> {
    let namespace = &worker.node.namespace;
    let set = LockSet::of(&[(LockKey::Inode(request.dir), Mode::Exclusive)]);
    let commit = || {
        let Some(inode) = namespace.inode_in_section(request.dir)? else { return Ok(()) };
        if !inode.attr.is_dir() || !inode.target.is_empty() {
            return Ok(());
        }
        let mut inode = (*inode).clone();
        inode.target = request.path.clone();
        inode.backed.get_or_insert(old::ONLY_OLD);
        namespace.commit(&[Mutation::PutInode { inode }])
    };
    namespace.locks().with(&set, commit).await
}

/// How far this server is.
#[allow(clippy::unused_async)] // One signature for all operations.
pub async fn migrate_status(worker: &Rc<Worker>, _: &Context, _: MigrateStatus) -> OpResult<Migrated> {
    let node = &worker.node;
    let migration = &node.backing.migration;
    let load = |counter: &AtomicU64| counter.load(Ordering::Acquire);
    // Before what was found: what is not left was counted.
    let left = left(node)?;
    Ok(Migrated {
        left,
        found: node.namespace.moving_noted(),
        same_files: load(&migration.same_files),
        compared_bytes: load(&migration.compared_bytes),
        again: load(&migration.again),
        gone: load(&migration.gone),
        trouble: migration.trouble.lock().clone(),
    })
}
