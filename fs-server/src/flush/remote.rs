//! What flushing asks about inodes and names: here when they live here, else of the server where they do.

use std::rc::Rc;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use fs_proto::msg::tier::{DetachFile, FlushNote, TierForget, TierPlace, TierState, TierView};
use fs_proto::placement::{entry_partition, name_hash};
use fs_proto::record::{Backing, EntryRecord, InodeRecord, TierLocation};
use fs_proto::{InodeId, ServerId, Status};

use super::ops;
use super::outcome::{FlushResult, Stop};
use super::queue::FlushItem;
use crate::error::OpResult;
use crate::namespace::DEPTH_MAX;
use crate::namespace::locks::{LockKey, LockSet, Mode};
use crate::node::Node;
use crate::ops::{entry_owner, getattr};
use crate::worker::Worker;

/// What an inode's home knows of it; tells it first where a directory lies.
pub async fn state(worker: &Rc<Worker>, ino: InodeId, published: Option<TierLocation>) -> OpResult<TierView> {
    ask(worker, TierState { ino, published, published_bytes: 0, published_as: None }).await
}

/// The same, when extended attributes are of no interest.
pub async fn inode(worker: &Rc<Worker>, ino: InodeId) -> OpResult<TierView> {
    let request = TierState { ino, published: None, published_bytes: 0, published_as: None };
    if worker.node.owns(ino.partition()) {
        return ops::view_with(worker, request, false).await;
    }
    worker.ask_owner(ino.partition(), &request).await
}

/// The inode under a name, if it lives here. `known`: what the name stood for when it was noted, which saves a look.
pub fn inode_here(
    node: &Node,
    (parent, name): (InodeId, &Bytes),
    known: Option<InodeId>,
) -> OpResult<Option<Arc<InodeRecord>>> {
    let ino = match known {
        Some(ino) => Some(ino),
        None => node.namespace.entry(parent, name)?.map(|entry| entry.ino),
    };
    ino.filter(|ino| node.owns(ino.partition())).map_or(Ok(None), |ino| node.namespace.inode(ino))
}

/// Tells an inode's home of its copy, which has `bytes` bytes and is `seen` in the tier; returns what the home knows then.
pub async fn publish(
    worker: &Rc<Worker>,
    ino: InodeId,
    copy: TierLocation,
    bytes: u64,
    seen: Option<Backing>,
) -> OpResult<TierView> {
    let (published, published_bytes, published_as) = (Some(copy), bytes, seen);
    ask(worker, TierState { ino, published, published_bytes, published_as }).await
}

async fn ask(worker: &Rc<Worker>, request: TierState) -> OpResult<TierView> {
    if worker.node.owns(request.ino.partition()) {
        return ops::view(worker, request).await;
    }
    worker.ask_owner(request.ino.partition(), &request).await
}

/// A file's copy is about to go from this name: its home has everything fetched that somebody may read yet.
pub async fn detach(worker: &Rc<Worker>, ino: InodeId, parent: InodeId, name: &Bytes) -> FlushResult<()> {
    let request = DetachFile { ino, parent, name: name.clone() };
    match worker.ask_owner(ino.partition(), &request).await {
        Err(error) if matches!(error.status, Status::Retry | Status::Waiting) => {
            Err(Stop::Wait("what is read of it yet is fetched"))
        }
        outcome => Ok(outcome?),
    }
}

/// Where a directory lies in the tier, also one that the namespace has no more.
pub async fn place(worker: &Rc<Worker>, dir: InodeId) -> OpResult<Option<TierLocation>> {
    if worker.node.owns(dir.partition()) {
        return ops::place(&worker.node, dir);
    }
    worker.ask_owner(dir.partition(), &TierPlace { dir }).await
}

/// A removed directory is gone from the tier.
pub async fn forget(worker: &Rc<Worker>, dir: InodeId) -> OpResult<()> {
    worker.ask_owner(dir.partition(), &TierForget { dir }).await
}

/// In whose section a name is read, so that the change that was noted before is committed. Its directory is part of it: when that widens its names
/// change their owners, and only the directory is held.
pub fn name_section(parent: InodeId, name: &Bytes) -> LockSet {
    let entry = LockKey::Entry(parent, name_hash(parent, name));
    LockSet::of(&[(entry, Mode::Shared), (LockKey::Inode(parent), Mode::Shared)])
}

/// What the name stands for.
pub async fn entry_now(node: &Node, parent: InodeId, name: &Bytes) -> OpResult<Option<EntryRecord>> {
    let read = || node.namespace.entry(parent, name);
    node.namespace.locks().with(&name_section(parent, name), read).await
}

/// The server that owns a name which this server once owned. Asked after the entry was looked at: a name that has gone because its
/// directory widened is then known to be another server's. For code in a section of the directory, too.
pub fn owner_of_own_name(node: &Node, parent: InodeId, name: &Bytes) -> OpResult<ServerId> {
    let spread = entry_partition(parent, name_hash(parent, name), true);
    if !node.owns(parent.partition()) {
        return Ok(node.owner(spread));
    }
    let wide = node.namespace.inode_in_section(parent)?.is_some_and(|inode| inode.attr.wide);
    Ok(if wide { node.owner(spread) } else { node.id() })
}

/// Tells the server that owns a name that it may differ.
pub async fn note_name(worker: &Rc<Worker>, parent: InodeId, name: &Bytes, forced: bool) -> FlushResult<()> {
    let node = &worker.node;
    let attr = match getattr::attributes(worker, parent).await {
        Ok(attr) => attr,
        // The directory went, and with it the name: its removal was noted.
        Err(error) if error.status == Status::NotFound => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    let owner = entry_owner(node, &attr, name);
    let name = Some(name.clone());
    hand(worker, owner, FlushNote { ino: parent, name, had: None, forced, open: false }).await
}

/// The copy of a directory was changed by flushing one of its entries: its times have to be set again.
pub async fn touch(worker: &Rc<Worker>, dir: InodeId) -> FlushResult<()> {
    let owner = worker.node.owner(dir.partition());
    hand(worker, owner, FlushNote { ino: dir, name: None, had: None, forced: false, open: false }).await
}

/// Queues something at `owner`.
pub async fn hand(worker: &Rc<Worker>, owner: ServerId, note: FlushNote) -> FlushResult<()> {
    let node = &worker.node;
    if owner != node.id() {
        // Before and after: the other server's account may be asked at any time between.
        node.flusher.account().note_handed();
        let answer = worker.ask(owner, &note).await;
        node.flusher.account().note_handed();
        return match answer {
            Err(error) if error.status == Status::Busy => {
                Err(Stop::Wait("the server that owns its name now is flushing it"))
            }
            outcome => Ok(outcome?),
        };
    }
    match note.name {
        Some(name) if note.forced => {
            node.namespace.queue().note_forced(&FlushItem::Name(note.ino, name), note.open)?;
        }
        Some(name) => node.namespace.queue().note_now(&FlushItem::Name(note.ino, name))?,
        None => node.namespace.queue().note_touched(note.ino)?,
    }
    Ok(())
}

/// The path of a name, for people; with an inode number instead where that cannot be found out.
pub async fn path_of(worker: &Rc<Worker>, item: &FlushItem) -> Bytes {
    let (mut dir, mut components) = match item {
        FlushItem::Name(parent, name) => (*parent, vec![name.clone()]),
        FlushItem::Inode(ino) => (*ino, Vec::new()),
    };
    let mut start = Bytes::new();
    while dir != InodeId::ROOT && components.len() < DEPTH_MAX {
        let Ok(TierView { inode: Some(inode), .. }) = state(worker, dir, None).await else {
            start = Bytes::from(format!("(inode {dir:?})"));
            break;
        };
        components.push(inode.name);
        dir = inode.attr.parent;
    }
    let mut path = BytesMut::from(&start[..]);
    components.iter().rev().for_each(|component| {
        path.put_u8(b'/');
        path.put_slice(component);
    });
    if path.is_empty() { Bytes::from_static(b"/") } else { path.freeze() }
}

/// Marks an inode's section as passed: whatever was noted of it before is committed.
pub async fn settle(node: &Node, ino: InodeId) {
    let set = LockSet::of(&[(LockKey::Inode(ino), Mode::Shared)]);
    node.namespace.locks().with(&set, || ()).await;
}
