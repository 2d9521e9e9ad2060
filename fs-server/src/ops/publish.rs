//! The home learns what a client wrote: size, time, a new version.

use std::rc::Rc;

use fs_proto::Attr;
use fs_proto::msg::inode::{PollSize, Publish};
use fs_proto::record::{InodeRecord, Mutation};

use super::spill::Outgrown;
use super::{getattr, spill};
use crate::error::{OpError, OpResult};
use crate::namespace::locks::{LockKey, LockSet, Mode};
use crate::worker::{Context, Worker};

/// Set-user-id and set-group-id bits: a write by somebody without privilege takes them off.
const SET_ID: u32 = 0o6000;

/// Takes over what was written.
pub async fn publish(worker: &Rc<Worker>, context: &Context, request: Publish) -> OpResult<Attr> {
    let node = &worker.node;
    let inode = node.namespace.live_inode(request.ino).await?;
    let mut attr = inode.attr.clone();
    if request.mtime.is_some() {
        let end = true_end(worker, context, &request, &inode).await?;
        if inode.attr.inline && end > inode.attr.size {
            // Only space that is asked for (fallocate) is published of a small file; what comes there goes to chunks.
            spill::to_chunks(worker, request.ino, Outgrown::by(context, end)).await?;
        }
        attr = take_over(worker, context, &request, end).await?;
        node.flusher.control().note_written(attr.size);
    }
    if request.close {
        node.opens.release(request.ino, context.client());
        node.flusher.control().admit(node).await;
    }
    if request.sync && node.syncs_device() {
        crate::sync::group_sync(node).await?;
    }
    Ok(attr)
}

/// How far the client's writes reach. When the file was cut since the client last heard of it, only the servers that the writes
/// went through know which came after the cut.
async fn true_end(
    worker: &Rc<Worker>,
    context: &Context,
    request: &Publish,
    inode: &InodeRecord,
) -> OpResult<u64> {
    if inode.cut_version <= request.since {
        return Ok(request.end);
    }
    let mut writers = worker.node.opens.writers(request.ino);
    writers.retain(|writer| writer.client == context.client());
    getattr::poll(worker, request.ino, &writers, false).await
}

async fn take_over(worker: &Rc<Worker>, context: &Context, request: &Publish, end: u64) -> OpResult<Attr> {
    let namespace = &worker.node.namespace;
    let set = LockSet::of(&[(LockKey::Inode(request.ino), Mode::Exclusive)]);
    namespace
        .locks()
        .with(&set, || {
            let inode = namespace.inode_in_section(request.ino)?.ok_or(OpError::not_found())?;
            let mut changed = (*inode).clone();
            let attr = &mut changed.attr;
            attr.size = attr.size.max(end);
            attr.version += 1;
            attr.capable = false;
            attr.mtime = request.mtime.unwrap_or(attr.mtime);
            attr.ctime = worker.node.now();
            if !context.caller.is_root() {
                attr.mode &= !set_id_bits(attr.mode);
            }
            let attr = attr.clone();
            namespace.commit(&[Mutation::PutInode { inode: changed }])?;
            Ok(attr)
        })
        .await
}

/// The set-id bits that a write clears: set-group-id without group execution means mandatory locking and stays.
pub fn set_id_bits(mode: u32) -> u32 {
    if mode & 0o010 == 0 { mode & 0o4000 } else { mode & SET_ID }
}

/// How far unpublished writes reached that came to this server.
#[allow(clippy::unused_async)] // One signature for all operations.
pub async fn poll_size(worker: &Rc<Worker>, _: &Context, request: PollSize) -> OpResult<u64> {
    Ok(worker.node.sizes.poll(request.ino, &request.writers, request.forget))
}
