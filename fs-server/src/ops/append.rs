//! Writing at the end of a file, wherever that is by then: one message of a client, whoever else appends.
//!
//! ```text
//! small:  one batch: content, size, time, the request remembered
//! large:  hold the inode -> write chunks behind its end -> one batch: size, time, the request remembered
//! ```
//! What a crash leaves behind the end of the file is overwritten by the next append, which is this one sent again.
//!
//! # Invariants
//! - Appends follow each other: each lies whole behind the one before, and is executed once (`tests/tests/append.rs`).
//! - The size never counts bytes that are not there yet.

use std::rc::Rc;

use bytes::Bytes;
use fs_proto::checksum::crc;
use fs_proto::msg::chunk::WriteChunk;
use fs_proto::msg::small::{Append, Appended};
use fs_proto::record::{InlineRecord, InodeRecord, Mutation};
use fs_proto::{Attr, ChunkIndex, InodeId, ServerId, Status};

use super::inline::{check, written};
use super::spill::Outgrown;
use super::{getattr, pointer, spill};
use crate::backing::room;
use crate::error::{OpError, OpResult};
use crate::namespace::inline;
use crate::namespace::locks::{LockKey, LockSet, Mode};
use crate::node::Node;
use crate::worker::{Context, Worker};

/// End of the largest file.
const FILE_END_MAX: u64 = i64::MAX as u64;

/// Appends to a file, small or not.
pub async fn append(
    worker: &Rc<Worker>,
    context: &Context,
    request: Append,
    bulk: &Bytes,
) -> OpResult<Appended> {
    let node = &worker.node;
    check(bulk, request.crc)?;
    room::admit(worker).await?;
    let set = LockSet::of(&[(LockKey::Inode(request.ino), Mode::Exclusive)]);
    let small = || beside_inode(node, context, &request, bulk);
    let (attr, offset) = match node.namespace.locks().with(&set, small).await? {
        Some(appended) => appended,
        None => to_chunks(worker, context, &request, bulk).await?,
    };
    node.counters.note_written(bulk.len());
    Ok(Appended { attr, offset, limit: node.config.inline_bytes })
}

/// The answer to an append that was done before, at `offset`.
pub async fn append_before(worker: &Rc<Worker>, ino: InodeId, offset: u64) -> OpResult<Appended> {
    let attr = getattr::attributes(worker, ino).await?;
    Ok(Appended { attr, offset, limit: worker.node.config.inline_bytes })
}

/// None if the file lies in chunks, or has to.
fn beside_inode(
    node: &Node,
    context: &Context,
    request: &Append,
    bulk: &Bytes,
) -> OpResult<Option<(Attr, u64)>> {
    let (namespace, ino) = (&node.namespace, request.ino);
    let inode = namespace.inode_in_section(ino)?.ok_or(OpError::not_found())?;
    let offset = inode.attr.size;
    let end = offset + bulk.len() as u64;
    if !inode.attr.inline || end > u64::from(node.config.inline_bytes) {
        return Ok(None);
    }
    let old = if offset == 0 { None } else { namespace.inline(ino)? };
    let new = InlineRecord { crc: request.crc, data: bulk.clone() };
    let content = inline::overwritten(old, offset, offset as usize, new)?;
    let put = Mutation::PutInline { ino, content };
    let attr = finish(node, context, &inode, (offset, end), request, Some(put))?;
    Ok(Some((attr, offset)))
}

/// Commits the new end; the record of the request says where the bytes lie instead of an inode.
fn finish(
    node: &Node,
    context: &Context,
    inode: &InodeRecord,
    (offset, end): (u64, u64),
    request: &Append,
    content: Option<Mutation>,
) -> OpResult<Attr> {
    let inode = written(inode, end, request.mtime, node.now(), context);
    let attr = inode.attr.clone();
    let mut mutations = vec![Mutation::PutInode { inode }];
    mutations.extend(content);
    mutations.extend(context.remember(InodeId(offset)));
    node.namespace.commit(&mutations)?;
    Ok(attr)
}

async fn to_chunks(
    worker: &Rc<Worker>,
    context: &Context,
    request: &Append,
    bulk: &Bytes,
) -> OpResult<(Attr, u64)> {
    let (node, ino) = (&worker.node, request.ino);
    spill::to_chunks(worker, ino, Outgrown::by(context, 0)).await?;
    // Counts what others wrote and did not publish. The asker has published.
    let inode = node.namespace.live_inode(ino).await?;
    getattr::settled(worker, inode, Some(context.asker()), false).await?;
    let set = LockSet::of(&[(LockKey::Inode(ino), Mode::Exclusive)]);
    let hold = node.namespace.locks().hold(set).await;
    let inode = node.namespace.inode_in_section(ino)?.ok_or(OpError::not_found())?;
    let offset = inode.attr.size;
    let end = offset.checked_add(bulk.len() as u64).filter(|end| *end <= FILE_END_MAX);
    let Some(end) = end else {
        return Err(OpError::new(Status::FileTooBig, "the file would grow beyond the largest size"));
    };
    write_behind(worker, &inode.attr, bulk, context.near()).await?;
    let commit = || finish(node, context, &inode, (offset, end), request, None);
    let attr = node.namespace.locks().with_held(hold.set(), commit)?;
    Ok((attr, offset))
}

/// Writes `bulk` behind the end of the file, one message for each chunk.
async fn write_behind(
    worker: &Rc<Worker>,
    attr: &Attr,
    bulk: &Bytes,
    near: Option<ServerId>,
) -> OpResult<()> {
    let chunk_bytes = attr.layout.chunk_bytes();
    let mut pieces = Vec::new();
    let mut from = 0;
    while from < bulk.len() {
        let at = attr.size + from as u64;
        let (chunk, offset) = (ChunkIndex(at / chunk_bytes), (at % chunk_bytes) as u32);
        let len = (bulk.len() - from).min((chunk_bytes - u64::from(offset)) as usize);
        pieces.push((chunk, offset, bulk.slice(from..from + len)));
        from += len;
    }
    let sent = pieces.into_iter().map(|(chunk, offset, data)| async move {
        let file_end = attr.size + bulk.len() as u64;
        let sum = crc(&data);
        let request = WriteChunk { ino: attr.ino, chunk, offset, file_end, since: attr.version, crc: sum };
        let holder = pointer::holder(worker, attr.layout, attr.ino, chunk, near).await?;
        worker.send(holder, &request, data).await
    });
    futures_util::future::try_join_all(sent).await.map(drop)
}
