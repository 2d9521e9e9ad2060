//! Change attributes. Making a file smaller also cuts its chunks, wherever they are.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use fs_proto::msg::chunk::TruncateChunks;
use fs_proto::msg::inode::{SetTime, Setattr};
use fs_proto::placement::chunk_partition;
use fs_proto::record::{Backing, InodeRecord, Mutation};
use fs_proto::{Attr, ChunkIndex, FileKind, InodeId, Placement, ServerId, Status, TimeNs};

use super::publish::set_id_bits;
use super::spill::Outgrown;
use super::{ask_all, getattr, inline, spill, xattr};
use crate::error::{OpError, OpResult};
use crate::kv::Batch;
use crate::namespace::access::shard_mode;
use crate::namespace::locks::{HoldGuard, LockKey, LockSet, Mode};
use crate::namespace::permission::{Access, WRITE, require, require_owner};
use crate::namespace::{encode_record, inline as contents, keys};
use crate::node::Node;
use crate::transaction::{Plan, coordinator};
use crate::worker::{Context, Worker};

/// Largest file, in bytes: 8 EiB less one.
pub const FILE_MAX: u64 = i64::MAX as u64;

/// Carries the change out.
pub async fn setattr(worker: &Rc<Worker>, context: &Context, request: Setattr) -> OpResult<Attr> {
    let inode = worker.node.namespace.live_inode(request.ino).await?;
    allowed(worker, context, &request, &inode)?;
    if let Some(size) = request.size {
        resize(worker, context, &request, size, inode).await?;
    }
    if inode_wide(worker, request.ino)? {
        return change_wide(worker, context, &request).await;
    }
    change(worker, context, &request).await
}

fn inode_wide(worker: &Rc<Worker>, ino: InodeId) -> OpResult<bool> {
    Ok(worker.node.namespace.inode(ino)?.is_some_and(|inode| inode.attr.wide))
}

fn allowed(worker: &Worker, context: &Context, request: &Setattr, inode: &InodeRecord) -> OpResult<()> {
    let attr = &inode.attr;
    if request.size.is_some_and(|size| size > FILE_MAX) {
        return Err(OpError::new(Status::FileTooBig, "the largest file has 2^63 - 1 bytes"));
    }
    match attr.kind {
        FileKind::Directory if request.size.is_some() => {
            return Err(OpError::new(Status::IsDirectory, "is a directory"));
        }
        FileKind::File | FileKind::Directory => {}
        _ if request.size.is_some() => return Err(OpError::new(Status::Invalid, "not a regular file")),
        _ => {}
    }
    if context.is_checked() {
        return Ok(());
    }
    let access = worker.node.namespace.access(inode)?;
    if request.size.is_some() && !request.by_handle {
        require(&context.caller, &access, WRITE)?;
    }
    if request.mode.is_some() {
        require_owner(&context.caller, attr)?;
    }
    change_of_owner(context, request, attr)?;
    times(context, request, attr, &access)
}

fn change_of_owner(context: &Context, request: &Setattr, attr: &Attr) -> OpResult<()> {
    let new_uid = request.uid.is_some_and(|uid| uid != attr.uid);
    let foreign_gid = request.gid.is_some_and(|gid| gid != attr.gid && !context.caller.in_group(gid));
    if new_uid || foreign_gid {
        return Err(OpError::new(Status::NotPermitted, "only root gives files to others"));
    }
    if request.uid.is_some() || request.gid.is_some() {
        require_owner(&context.caller, attr)?;
    }
    Ok(())
}

fn times(context: &Context, request: &Setattr, attr: &Attr, access: &Access) -> OpResult<()> {
    let fixed = |time: &Option<SetTime>| matches!(time, Some(SetTime::At { .. }));
    if fixed(&request.atime) || (fixed(&request.mtime) && request.size.is_none()) {
        return require_owner(&context.caller, attr);
    }
    let touched = request.atime.is_some() || request.mtime.is_some();
    if touched && request.size.is_none() && require_owner(&context.caller, attr).is_err() {
        return require(&context.caller, access, WRITE);
    }
    Ok(())
}

fn time_of(time: &SetTime, now: TimeNs) -> TimeNs {
    match time {
        SetTime::Now {} => now,
        SetTime::At { ns } => *ns,
    }
}

/// The attributes after the change, without the size.
fn changed(context: &Context, request: &Setattr, attr: &Attr, now: TimeNs) -> Attr {
    let mut attr = attr.clone();
    if request.uid.is_some() || request.gid.is_some() {
        attr.uid = request.uid.unwrap_or(attr.uid);
        attr.gid = request.gid.unwrap_or(attr.gid);
        attr.capable = false;
        if attr.kind != FileKind::Directory && !context.caller.is_root() {
            attr.mode &= !set_id_bits(attr.mode);
        }
    }
    if let Some(mode) = request.mode {
        attr.mode = mode & 0o7777;
        // The kernel has done this for a mount, and knows all groups of its callers.
        if !context.is_checked() && !context.caller.in_group(attr.gid) {
            attr.mode &= !super::SETGID;
        }
    }
    attr.atime = request.atime.as_ref().map_or(attr.atime, |time| time_of(time, now));
    attr.mtime = request.mtime.as_ref().map_or(attr.mtime, |time| time_of(time, now));
    attr.ctime = now;
    attr
}

async fn change(worker: &Rc<Worker>, context: &Context, request: &Setattr) -> OpResult<Attr> {
    let namespace = &worker.node.namespace;
    let set = LockSet::of(&[(LockKey::Inode(request.ino), Mode::Alter)]);
    namespace
        .locks()
        .with(&set, || {
            let inode = namespace.inode_in_section(request.ino)?.ok_or(OpError::not_found())?;
            let bare_resize = request.size.is_some() && *request == only_size(request);
            if bare_resize {
                return Ok(inode.attr.clone());
            }
            let mut inode = (*inode).clone();
            inode.attr = changed(context, request, &inode.attr, worker.node.now());
            let attr = inode.attr.clone();
            let mut mutations = vec![Mutation::PutInode { inode }];
            if request.mode.is_some() {
                mutations.extend(xattr::list_after_chmod(namespace, &attr)?);
            }
            namespace.commit(&mutations)?;
            Ok(attr)
        })
        .await
}

fn only_size(request: &Setattr) -> Setattr {
    Setattr { size: request.size, by_handle: request.by_handle, ..Setattr::nothing(request.ino) }
}

/// Permissions of a wide directory are copied to every server that holds a part of it.
async fn change_wide(worker: &Rc<Worker>, context: &Context, request: &Setattr) -> OpResult<Attr> {
    coordinator::retrying(async || {
        let node = &worker.node;
        let mut inode = (*node.namespace.live_inode(request.ino).await?).clone();
        inode.attr = changed(context, request, &inode.attr, node.now());
        let list = match request.mode {
            Some(_) => xattr::list_after_chmod(&node.namespace, &inode.attr)?,
            None => None,
        };
        coordinator::run(worker, everywhere(node, inode, list.as_slice()), None).await
    })
    .await?;
    getattr::attributes(worker, request.ino).await
}

/// Commits an inode's change with its lists' for the request in `context`, which holds its key; of a wide directory in all its parts.
pub async fn commit_held(
    worker: &Rc<Worker>,
    context: &Context,
    hold: HoldGuard,
    inode: InodeRecord,
    lists: Vec<Mutation>,
    batch: Batch,
) -> OpResult<()> {
    let (namespace, done) = (&worker.node.namespace, context.remember(inode.attr.ino));
    if inode.attr.wide {
        let mut plan = everywhere(&worker.node, inode, &lists);
        if let Some(done) = done {
            plan.mutate(worker.node.id(), done);
        }
        return coordinator::run_holding(worker, plan, hold).await;
    }
    let mut mutations = vec![Mutation::PutInode { inode }];
    mutations.extend(lists);
    mutations.extend(done);
    namespace.locks().with_held(hold.set(), || namespace.commit_with(&mutations, batch))
}

/// The change of a wide directory's attributes and lists at its home and in all its parts.
fn everywhere(node: &Node, inode: InodeRecord, lists: &[Mutation]) -> Plan {
    let (dir, attr) = (inode.attr.ino, inode.attr.clone());
    let mut plan = Plan::default();
    plan.mutate(node.id(), Mutation::PutInode { inode });
    for server in node.stores() {
        let (mode, uid, gid, layout) = (shard_mode(&attr), attr.uid, attr.gid, attr.layout);
        plan.mutate(server, Mutation::SetShardAttr { dir, mode, uid, gid, layout });
        for list in lists {
            plan.mutate(server, list.clone());
        }
    }
    plan
}

async fn resize(
    worker: &Rc<Worker>,
    context: &Context,
    request: &Setattr,
    size: u64,
    inode: Arc<InodeRecord>,
) -> OpResult<()> {
    let (node, ino) = (&worker.node, request.ino);
    let end = if node.is_forgetful() && !inode.attr.inline {
        // Nobody may have said yet how far it wrote: there may be chunks anywhere, and ends that must not count after the cut.
        getattr::forget_ends(worker, ino).await?;
        FILE_MAX
    } else {
        getattr::settled(worker, inode, None, true).await?.attr.size
    };
    // Held across the messages below: nobody sees, publishes or flushes a size between the old and the new.
    let hold = node.namespace.locks().hold(LockSet::of(&[(LockKey::Inode(ino), Mode::Exclusive)])).await;
    let current = node.namespace.inode_in_section(ino)?.ok_or(OpError::not_found())?;
    // The note of a cut that failed is of that cut alone: done first, it is not lost to another.
    finish_cut_held(worker, &current.attr).await?;
    if current.attr.inline && size > u64::from(node.config.inline_bytes).max(current.attr.size) {
        spill::to_chunks_held(worker, ino, &hold, Outgrown::by(context, size)).await?;
    }
    let current = node.namespace.inode_in_section(ino)?.ok_or(OpError::not_found())?;
    let old_size = current.attr.size.max(end);
    let cuts = size < old_size;
    let mut changed = inline::written(&current, size, node.now(), node.now(), context);
    let mut batch = Batch::default();
    if cuts {
        changed.cut_version = changed.attr.version;
        changed.backed = changed.backed.map(|backed| Backing { limit: backed.limit.min(size), ..backed });
    }
    let mut mutations = Vec::with_capacity(2);
    if current.attr.inline {
        mutations.extend(cut_content(node, ino, size)?);
    } else if cuts {
        batch.put(keys::cut(ino), encode_record(&(old_size, size)));
    }
    mutations.push(Mutation::PutInode { inode: changed });
    node.namespace.locks().with_held(hold.set(), || node.namespace.commit_with(&mutations, batch))?;
    if cuts && !current.attr.inline {
        let done = cut_chunks(worker, &current.attr, old_size, size).await;
        if done.is_err() {
            finish_later(worker, ino);
        }
        drop(hold);
        return done;
    }
    drop(hold);
    Ok(())
}

/// What becomes of a small file's content when the file gets `size` bytes.
fn cut_content(node: &Node, ino: InodeId, size: u64) -> OpResult<Option<Mutation>> {
    let Some(content) = node.namespace.inline(ino)? else { return Ok(None) };
    if size == 0 {
        return Ok(Some(Mutation::DelInline { ino }));
    }
    Ok(contents::cut(content, size)?.map(|content| Mutation::PutInline { ino, content }))
}

/// Cuts the chunks of a file that becomes smaller, and forgets that it had to be done.
pub async fn cut_chunks(worker: &Rc<Worker>, attr: &Attr, old_size: u64, size: u64) -> OpResult<()> {
    let chunk_bytes = attr.layout.chunk_bytes();
    let chunk = ChunkIndex(size / chunk_bytes);
    let request = TruncateChunks { ino: attr.ino, chunk, keep_bytes: (size % chunk_bytes) as u32 };
    let holders = holders(&worker.node, attr, chunk, ChunkIndex(old_size.div_ceil(chunk_bytes)));
    ask_all(worker, &holders, &request).await?;
    let mut batch = Batch::default();
    batch.delete(keys::cut(attr.ino));
    worker.node.namespace.kv().commit(batch)?;
    Ok(())
}

/// The servers that hold chunks `from` to `to` (exclusive) of a file, or may.
pub fn holders(node: &Node, attr: &Attr, from: ChunkIndex, to: ChunkIndex) -> Vec<ServerId> {
    let all = node.stores();
    match attr.layout.placement {
        _ if from >= to => return Vec::new(),
        Placement::Local(Some(server)) => return vec![server],
        Placement::Writer => return all,
        Placement::Local(None) | Placement::Striped => {}
    }
    // Consecutive chunks are on consecutive partitions: a few rounds over the servers meet all of them.
    if to.0.saturating_sub(from.0) >= 4 * all.len() as u64 {
        return all;
    }
    let mut ids: Vec<_> =
        (from.0..to.0).map(|chunk| node.owner(chunk_partition(attr.ino, ChunkIndex(chunk)))).collect();
    ids.sort_unstable();
    ids.dedup();
    ids
}

/// Finishes the cuts of chunks that a crash interrupted; tries until it has.
pub async fn finish_cuts(worker: Rc<Worker>) {
    let namespace = &worker.node.namespace;
    let left = match namespace.keys_of_kind(b'z', usize::MAX) {
        Ok(keys) => keys,
        Err(error) => {
            return tracing::error!(message = %error.message, "interrupted cuts could not be listed");
        }
    };
    for key in left.iter().rev() {
        if !insist_on_cut(&worker, key).await {
            return;
        }
    }
    worker.node.unfinished_cuts.fetch_sub(1, Ordering::AcqRel);
}

/// Tries until a cut is done; false if the server ends before.
async fn insist_on_cut(worker: &Rc<Worker>, key: &[u8]) -> bool {
    while let Err(error) = finish_cut(worker, key).await {
        tracing::debug!(message = %error.message, "an interrupted cut waits for a server that is away");
        if worker.node.is_stopping() {
            return false;
        }
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    }
    true
}

/// Somebody is about to write to a file: what is written beyond a cut that failed would go with it, so that is done first.
pub async fn finish_cut_first(worker: &Rc<Worker>, ino: InodeId) -> OpResult<()> {
    let node = &worker.node;
    let key = keys::cut(ino);
    if node.unfinished_cuts.load(Ordering::Acquire) == 0 || node.namespace.kv().get(&key)?.is_none() {
        return Ok(());
    }
    finish_cut(worker, &key).await
}

/// The sooner a cut that failed is done, the less is written beyond it that it would take along.
fn finish_later(worker: &Rc<Worker>, ino: InodeId) {
    worker.node.unfinished_cuts.fetch_add(1, Ordering::AcqRel);
    worker.node.errands.send(move |own: Rc<Worker>| async move {
        if insist_on_cut(&own, &keys::cut(ino)).await {
            own.node.unfinished_cuts.fetch_sub(1, Ordering::AcqRel);
        }
    });
}

/// Does a cut that failed, if there is one. The caller holds the inode.
async fn finish_cut_held(worker: &Rc<Worker>, attr: &Attr) -> OpResult<()> {
    match worker.node.namespace.record::<(u64, u64)>(&keys::cut(attr.ino))? {
        Some((old_size, size)) => cut_chunks(worker, attr, old_size, size).await,
        None => Ok(()),
    }
}

async fn finish_cut(worker: &Rc<Worker>, key: &[u8]) -> OpResult<()> {
    let namespace = &worker.node.namespace;
    let Some(ino) = keys::split_inode(key) else { return Ok(()) };
    let _hold = namespace.locks().hold(LockSet::of(&[(LockKey::Inode(ino), Mode::Exclusive)])).await;
    if let Some(inode) = namespace.inode_in_section(ino)? {
        return finish_cut_held(worker, &inode.attr).await;
    }
    let mut batch = Batch::default();
    batch.delete(key);
    Ok(namespace.kv().commit(batch)?)
}
