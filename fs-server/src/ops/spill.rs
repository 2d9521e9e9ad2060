//! A file grows out of its inode: its content goes to chunk 0, and stays in chunks from then on.
//!
//! ```text
//! commit 'w'  ->  write chunk 0 (any server)  ->  commit: inode no longer inline, 'f' and 'w' gone
//! ```
//! A crash before the last step leaves the file inline, and maybe bytes in chunk 0 that nobody reads. They are known by 'w': the next
//! attempt cuts the chunk first, and the reaper drops it.
//!
//! # Invariants
//! - The inode is held from the first step to the last: nobody reads or writes the content meanwhile.
//! - A file that has left its inode does not come back, and its layout is final (clients rely on both).

use std::rc::Rc;

use bytes::Bytes;
use fs_proto::checksum::crc;
use fs_proto::msg::chunk::{SyncChunks, TruncateChunks, WriteChunk};
use fs_proto::msg::small::Spill;
use fs_proto::record::Mutation;
use fs_proto::{Attr, ChunkIndex, InodeId, ServerId};

use super::{getattr, pointer};
use crate::error::{OpError, OpResult};
use crate::kv::Batch;
use crate::namespace::locks::{HoldGuard, LockKey, LockSet, Mode};
use crate::namespace::{encode_record, inline, keys};
use crate::worker::{Context, Worker};

const FIRST: ChunkIndex = ChunkIndex(0);

/// A client is about to write beyond what lies with an inode.
pub async fn spill(worker: &Rc<Worker>, context: &Context, request: Spill) -> OpResult<Attr> {
    to_chunks(worker, request.ino, Outgrown::by(context, 0)).await?;
    getattr::home_attributes(worker, request.ino, Some(context.asker())).await
}

/// Why a file leaves its inode, for its chunks.
#[derive(Debug, Clone, Copy)]
pub struct Outgrown {
    /// The server of the node of whoever makes it grow.
    pub near: Option<ServerId>,
    /// Bytes that it is expected to get, or 0.
    pub expected_bytes: u64,
}

impl Outgrown {
    /// By the request of `context`, which tells that the file will have so many bytes.
    pub fn by(context: &Context, expected_bytes: u64) -> Outgrown {
        Outgrown { near: context.near(), expected_bytes }
    }
}

/// Moves the content to chunks, unless it is there already.
pub async fn to_chunks(worker: &Rc<Worker>, ino: InodeId, why: Outgrown) -> OpResult<()> {
    let set = LockSet::of(&[(LockKey::Inode(ino), Mode::Exclusive)]);
    let hold = worker.node.namespace.locks().hold(set).await;
    to_chunks_held(worker, ino, &hold, why).await
}

/// As [`to_chunks`], for the holder of the inode.
pub async fn to_chunks_held(
    worker: &Rc<Worker>,
    ino: InodeId,
    hold: &HoldGuard,
    why: Outgrown,
) -> OpResult<()> {
    let namespace = &worker.node.namespace;
    let inode = namespace.inode_in_section(ino)?.ok_or(OpError::not_found())?;
    if !inode.attr.inline {
        return Ok(());
    }
    let mut inode = (*inode).clone();
    inode.attr.inline = false;
    inode.attr.layout = inode.attr.layout.sized_for(why.expected_bytes);
    let layout = inode.attr.layout;
    let mut mutations = vec![Mutation::PutInode { inode }];
    let mut batch = Batch::default();
    if let Some(content) = namespace.inline(ino)?.filter(|content| !content.data.is_empty()) {
        let data = inline::checked(content)?.data;
        let again = begin(worker, ino)?;
        let holder = pointer::holder(worker, layout, ino, FIRST, why.near).await?;
        if again {
            worker.ask(holder, &TruncateChunks { ino, chunk: FIRST, keep_bytes: 0 }).await?;
        }
        move_out(worker, ino, holder, data).await?;
        mutations.push(Mutation::DelInline { ino });
        batch.delete(keys::spill(ino));
    }
    namespace.locks().with_held(hold.set(), || namespace.commit_with(&mutations, batch))
}

/// Notes that chunk 0 gets bytes, before it has a place: whoever removes the file looks for both. Answers whether it may have some of an attempt
/// before.
fn begin(worker: &Worker, ino: InodeId) -> OpResult<bool> {
    if has_begun(worker, ino)? {
        return Ok(true);
    }
    let mut batch = Batch::default();
    batch.put(keys::spill(ino), encode_record(&()));
    worker.node.namespace.kv().commit(batch)?;
    Ok(false)
}

async fn move_out(worker: &Rc<Worker>, ino: InodeId, holder: ServerId, data: Bytes) -> OpResult<()> {
    let file_end = data.len() as u64;
    let request = WriteChunk { ino, chunk: FIRST, offset: 0, file_end, since: 0, crc: crc(&data) };
    worker.send(holder, &request, data).await?;
    if worker.node.syncs_device() {
        // What was synced with the inode must not be lost by leaving it.
        worker.ask(holder, &SyncChunks { ino }).await?;
    }
    Ok(())
}

/// Whether chunk 0 of an inline file may hold bytes of a spill that did not end.
pub fn has_begun(worker: &Worker, ino: InodeId) -> OpResult<bool> {
    Ok(worker.node.namespace.kv().get(&keys::spill(ino))?.is_some())
}
