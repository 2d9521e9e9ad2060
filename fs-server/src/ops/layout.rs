//! The layout of a file or directory: seen, and changed while that is possible.
//!
//! # Invariants
//! - A file's layout is final once its content lies in chunks, so that nobody looks for them elsewhere than where they were written
//!   (`tests/tests/layouts/settings.rs`: `a_layout_is_final_once_there_is_data`).

use std::rc::Rc;

use bytes::Bytes;
use fs_proto::msg::chunk::DropChunks;
use fs_proto::msg::inode::SetLayout;
use fs_proto::record::InodeRecord;
use fs_proto::{Attr, FileKind, InodeId, Layout, LayoutWish, Placement, Status, layout_text};

use super::setattr::commit_held;
use super::{ask_all, getattr, spill};
use crate::error::{OpError, OpResult};
use crate::kv::Batch;
use crate::namespace::keys;
use crate::namespace::locks::{LockKey, LockSet, Mode};
use crate::namespace::permission::{WRITE, require};
use crate::worker::{Context, Worker};

const FINAL: OpError = OpError::new(
    Status::NotEmpty,
    "the layout of a file that has, or had, data cannot be changed: set it on the empty file, or make a new one and copy",
);
const KINDS: OpError = OpError::new(Status::NotPermitted, "only files and directories have a layout");

/// The text that [`set`] takes; None of what has no layout.
pub fn shown(attr: &Attr) -> Option<Bytes> {
    match attr.kind {
        FileKind::File => Some(Bytes::from(layout_text(attr.layout, !attr.inline))),
        FileKind::Directory => Some(Bytes::from(layout_text(attr.layout, false))),
        _ => None,
    }
}

/// What an attribute's value asks for.
pub fn wished(value: &[u8]) -> OpResult<LayoutWish> {
    LayoutWish::parse(value).map_err(|error| OpError::because(Status::Invalid, error.to_string()))
}

/// Whether there can be such a layout.
pub fn possible(worker: &Worker, wish: &LayoutWish) -> OpResult<()> {
    if !wish.is_possible() {
        return Err(OpError::new(Status::Invalid, "a chunk has 64 KiB to 16 MiB"));
    }
    match wish.placement {
        Some(Placement::Local(Some(server))) if worker.node.map().share(server) == 0 => {
            Err(OpError::new(Status::Invalid, "the server that is named for the file keeps no files"))
        }
        _ => Ok(()),
    }
}

/// Changes it.
pub async fn set(worker: &Rc<Worker>, context: &Context, request: SetLayout) -> OpResult<Attr> {
    change(worker, context, request.ino, &request.wish).await?;
    getattr::home_attributes(worker, request.ino, Some(context.asker())).await
}

/// As [`set`], and the request is remembered if it is one to be remembered.
pub async fn change(worker: &Rc<Worker>, context: &Context, ino: InodeId, wish: &LayoutWish) -> OpResult<()> {
    possible(worker, wish)?;
    let namespace = &worker.node.namespace;
    let hold = namespace.locks().hold(LockSet::of(&[(LockKey::Inode(ino), Mode::Exclusive)])).await;
    let before = namespace.inode_in_section(ino)?.ok_or(OpError::not_found())?;
    allowed(worker, context, &before)?;
    let Some(layout) = next(worker, context, &before.attr, wish)? else {
        return Ok(());
    };
    let mut inode = (*before).clone();
    (inode.attr.layout, inode.attr.ctime) = (layout, worker.node.now());
    let batch = forget_spill(worker, ino).await?;
    commit_held(worker, context, hold, inode, Vec::new(), batch).await
}

fn allowed(worker: &Worker, context: &Context, inode: &InodeRecord) -> OpResult<()> {
    if !matches!(inode.attr.kind, FileKind::File | FileKind::Directory) {
        return Err(KINDS);
    }
    if context.is_checked() {
        return Ok(());
    }
    require(&context.caller, &worker.node.namespace.access(inode)?, WRITE)
}

/// The layout after the change; None if there is nothing to change.
fn next(worker: &Worker, context: &Context, attr: &Attr, wish: &LayoutWish) -> OpResult<Option<Layout>> {
    let layout = wish.applied(attr.layout);
    if attr.is_dir() {
        // What is made in it lies with its own maker.
        let placement = match layout.placement {
            Placement::Local(_) => Placement::Local(None),
            other => other,
        };
        return Ok(Some(Layout { placement, ..layout }));
    }
    let layout = layout.settled(context.near());
    if never_had_chunks(worker, context, attr) {
        return Ok(Some(layout));
    }
    // Whoever copies attributes along with content asks for what is there.
    let same_place = layout.placement.name() == attr.layout.placement.name();
    let same_size = wish.chunk_log2.is_none_or(|log2| log2 == attr.layout.chunk_log2);
    if same_place && same_size { Ok(None) } else { Err(FINAL) }
}

/// Whether the file is empty and always was, so far as to where its bytes would be. Of one that is born in chunks (`--inline 0`) somebody else
/// who has it open may remember the layout.
fn never_had_chunks(worker: &Worker, context: &Context, attr: &Attr) -> bool {
    let elsewhere =
        || worker.node.opens.is_open_elsewhere(attr.ino, context.client(), context.arrival.for_node);
    attr.size == 0 && (attr.inline || (attr.version == 1 && !elsewhere()))
}

/// Removes what an interrupted move of the content to chunk 0 left behind in the old layout.
async fn forget_spill(worker: &Rc<Worker>, ino: InodeId) -> OpResult<Batch> {
    let mut batch = Batch::default();
    if spill::has_begun(worker, ino)? {
        ask_all(worker, &worker.node.stores(), &DropChunks { inos: vec![ino] }).await?;
        batch.delete(keys::spill(ino));
    }
    Ok(batch)
}
