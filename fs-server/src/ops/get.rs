//! Small files found and read at once: one message, of one file or of many of a directory.

use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use fs_proto::msg::small::{Get, GetMany, GetOutcome, MANY_BYTES, MANY_MAX};
use fs_proto::placement::name_hash;
use fs_proto::record::{InlineRecord, InodeRecord};
use fs_proto::{FileKind, InodeId, Status, Wire};

use super::{directory_here, getattr, inline, lookup, valid_name};
use crate::dispatch::Answer;
use crate::error::{OpError, OpResult};
use crate::namespace::locks::{LockKey, LockSet, Mode};
use crate::namespace::permission::{READ, SEARCH, require};
use crate::transaction::coordinator;
use crate::worker::{Context, Worker};

enum Found {
    Whole(Arc<InodeRecord>, InlineRecord),
    There(GetOutcome),
}

/// Finds and reads one small file.
pub async fn get(worker: &Rc<Worker>, context: &Context, request: Get) -> OpResult<Answer> {
    match find(worker, context, request.parent, &request.name).await? {
        Found::There(outcome) => Ok((outcome.to_bytes(), Bytes::new())),
        Found::Whole(inode, content) => {
            worker.node.counters.note_read(content.data.len());
            let outcome = GetOutcome::Whole { attr: inode.attr.clone(), crc: content.crc };
            Ok((outcome.to_bytes(), content.data))
        }
    }
}

async fn find(worker: &Rc<Worker>, context: &Context, parent: InodeId, name: &Bytes) -> OpResult<Found> {
    let node = &worker.node;
    valid_name(name)?;
    let view = directory_here(node, parent, name).await?;
    if !context.is_checked() {
        require(&context.caller, &node.namespace.dir_access(&view)?, SEARCH)?;
    }
    coordinator::retrying(async || find_in(worker, context, parent, name).await).await
}

async fn find_in(worker: &Rc<Worker>, context: &Context, parent: InodeId, name: &Bytes) -> OpResult<Found> {
    let node = &worker.node;
    let entry = node.namespace.settled_entry(parent, name).await?.ok_or(OpError::not_found())?;
    let (ino, kind) = (entry.ino, entry.kind);
    if kind == FileKind::File && node.owns(ino.partition()) {
        // The name and the content of one moment, whatever is moved and written meanwhile.
        let name_lock = LockSet::of(&[(LockKey::Entry(parent, name_hash(parent, name)), Mode::Shared)]);
        let still = || match node.namespace.entry(parent, name)? {
            Some(now) if now == entry => Ok(()),
            _ => Err(OpError::new(Status::Retry, "the name is being changed")),
        };
        let (inode, content) = getattr::of_name(inline::snapshot_while(node, ino, name_lock, still).await)?;
        if let Some(content) = content {
            if !context.is_checked() {
                require(&context.caller, &node.namespace.access(&inode)?, READ)?;
            }
            return Ok(Found::Whole(node.namespace.note_reading(inode, node.now()), content));
        }
    }
    let attr = lookup::attributes_here(worker, ino).await?;
    Ok(Found::There(GetOutcome::There { ino, kind, attr }))
}

/// Finds and reads many, as far as one answer holds them.
pub async fn get_many(worker: &Rc<Worker>, context: &Context, request: GetMany) -> OpResult<Answer> {
    if request.names.len() > MANY_MAX {
        return Err(OpError::new(Status::Invalid, "too many names in one message"));
    }
    let (mut outcomes, mut contents, mut bytes) = (Vec::with_capacity(request.names.len()), Vec::new(), 0);
    for name in &request.names {
        if bytes >= MANY_BYTES as usize {
            outcomes.push(GetOutcome::Left {});
            continue;
        }
        outcomes.push(match find(worker, context, request.parent, name).await {
            Ok(Found::There(outcome)) => outcome,
            Ok(Found::Whole(_, content)) if bytes + content.data.len() > MANY_BYTES as usize => {
                GetOutcome::Left {}
            }
            Ok(Found::Whole(inode, content)) => {
                bytes += content.data.len();
                contents.push(content.data);
                GetOutcome::Whole { attr: inode.attr.clone(), crc: content.crc }
            }
            Err(error) => GetOutcome::Failed { status: error.of_item()? },
        });
    }
    let bulk = gathered(worker, context, &contents, bytes).await?;
    worker.node.counters.note_read(bytes);
    Ok((outcomes.to_bytes(), bulk))
}

/// The contents one after the other, in one buffer of the pool.
async fn gathered(
    worker: &Rc<Worker>,
    context: &Context,
    contents: &[Bytes],
    bytes: usize,
) -> OpResult<Bytes> {
    if bytes == 0 {
        return Ok(Bytes::new());
    }
    let mut buffer = context.buffer(worker, bytes).await?;
    let mut at = 0;
    for content in contents {
        buffer[at..at + content.len()].copy_from_slice(content);
        at += content.len();
    }
    Ok(buffer.freeze())
}
