//! Reading and writing the content of small files at their home: one message, one batch.
//!
//! # Invariants
//! - A write that is answered as taken is published: size, time and version with the bytes, in one batch.
//! - What does not fit spills before the answer says so (`spill.rs`); nothing is both inline and in chunks.

use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use fs_proto::checksum::crc;
use fs_proto::msg::small::{InlineRead, InlineWritten, PunchInline, ReadInline, WriteInline};
use fs_proto::record::{InlineRecord, InodeRecord, Mutation};
use fs_proto::{Attr, INLINE_MAX, InodeId, Status, TimeNs, Wire};

use super::publish::set_id_bits;
use super::spill::Outgrown;
use super::{getattr, spill};
use crate::backing::room;
use crate::dispatch::Answer;
use crate::error::{OpError, OpResult};
use crate::namespace::inline;
use crate::namespace::locks::{LockKey, LockSet, Mode};
use crate::node::Node;
use crate::worker::{Context, Worker};

/// Refuses bytes that are not those that were sent.
pub fn check(data: &[u8], sent: u32) -> OpResult<()> {
    if crc(data) == sent {
        return Ok(());
    }
    Err(OpError::new(Status::Corrupt, "the data changed on its way to the server; send it again"))
}

/// Writes into a small file; one that grows out of its inode spills, and the answer says so.
pub async fn write(
    worker: &Rc<Worker>,
    context: &Context,
    request: WriteInline,
    bulk: &Bytes,
) -> OpResult<InlineWritten> {
    let node = &worker.node;
    check(bulk, request.crc)?;
    let limit = node.config.inline_bytes;
    let end = request.offset.checked_add(bulk.len() as u64);
    let fits = end.is_some_and(|end| end <= u64::from(limit));
    if fits {
        room::admit(worker).await?;
        let set = LockSet::of(&[(LockKey::Inode(request.ino), Mode::Exclusive)]);
        let take = || take_over(node, context, &request, bulk);
        if let Some(attr) = node.namespace.locks().with(&set, take).await? {
            node.counters.note_written(bulk.len());
            return Ok(InlineWritten { attr, written: true, limit });
        }
    } else {
        spill::to_chunks(worker, request.ino, Outgrown::by(context, 0)).await?;
    }
    let attr = getattr::home_attributes(worker, request.ino, Some(context.asker())).await?;
    Ok(InlineWritten { attr, written: false, limit })
}

/// None if the file lies in chunks.
fn take_over(node: &Node, context: &Context, request: &WriteInline, bulk: &Bytes) -> OpResult<Option<Attr>> {
    let namespace = &node.namespace;
    let inode = namespace.inode_in_section(request.ino)?.ok_or(OpError::not_found())?;
    if !inode.attr.inline {
        return Ok(None);
    }
    let (size, offset) = (inode.attr.size, request.offset as usize);
    let replaces_all = offset == 0 && bulk.len() as u64 >= size;
    let old = if replaces_all { None } else { namespace.inline(request.ino)? };
    let new = InlineRecord { crc: request.crc, data: bulk.clone() };
    let content = inline::overwritten(old, size, offset, new)?;
    let end = request.offset + bulk.len() as u64;
    let inode = written(&inode, size.max(end), request.mtime, node.now(), context);
    let attr = inode.attr.clone();
    namespace.commit(&[Mutation::PutInode { inode }, Mutation::PutInline { ino: request.ino, content }])?;
    Ok(Some(attr))
}

/// Makes a hole in a small file. What is stored of it becomes less, never more, so a full device does not forbid it.
pub async fn punch(worker: &Rc<Worker>, context: &Context, request: PunchInline) -> OpResult<InlineWritten> {
    let node = &worker.node;
    let limit = node.config.inline_bytes;
    let set = LockSet::of(&[(LockKey::Inode(request.ino), Mode::Exclusive)]);
    let punched = node.namespace.locks().with(&set, || punch_held(node, context, &request)).await?;
    let written = punched.is_some();
    let attr = match punched {
        Some(attr) => attr,
        None => getattr::home_attributes(worker, request.ino, Some(context.asker())).await?,
    };
    Ok(InlineWritten { attr, written, limit })
}

/// None if the file lies in chunks.
fn punch_held(node: &Node, context: &Context, request: &PunchInline) -> OpResult<Option<Attr>> {
    let (namespace, ino) = (&node.namespace, request.ino);
    let inode = namespace.inode_in_section(ino)?.ok_or(OpError::not_found())?;
    if !inode.attr.inline {
        return Ok(None);
    }
    let hole = request.offset..request.offset.saturating_add(request.len);
    let content = match namespace.inline(ino)? {
        Some(content) => inline::punched(content, hole)?,
        None => None,
    };
    let inode = written(&inode, inode.attr.size, request.mtime, node.now(), context);
    let attr = inode.attr.clone();
    let mut mutations = vec![Mutation::PutInode { inode }];
    mutations.extend(content.map(|content| {
        if content.data.is_empty() {
            Mutation::DelInline { ino }
        } else {
            Mutation::PutInline { ino, content }
        }
    }));
    namespace.commit(&mutations)?;
    Ok(Some(attr))
}

/// The inode after its content was written.
pub fn written(inode: &InodeRecord, size: u64, mtime: TimeNs, now: TimeNs, context: &Context) -> InodeRecord {
    let mut inode = inode.clone();
    let attr = &mut inode.attr;
    attr.size = size;
    attr.version += 1;
    attr.capable = false;
    (attr.mtime, attr.ctime) = (mtime, now);
    if !context.caller.is_root() {
        attr.mode &= !set_id_bits(attr.mode);
    }
    inode
}

/// A small file as it is now: its inode and, unless it lies in chunks, its whole content.
pub async fn snapshot(node: &Node, ino: InodeId) -> OpResult<(Arc<InodeRecord>, Option<InlineRecord>)> {
    snapshot_while(node, ino, LockSet::default(), || Ok(())).await
}

/// As [`snapshot`], at a moment when `check` succeeds, with the locks of `set` besides the inode's.
pub async fn snapshot_while(
    node: &Node,
    ino: InodeId,
    mut set: LockSet,
    check: impl FnOnce() -> OpResult<()>,
) -> OpResult<(Arc<InodeRecord>, Option<InlineRecord>)> {
    let namespace = &node.namespace;
    // Fills the inode cache, which a section does not.
    namespace.live_inode(ino).await?;
    set.add(LockKey::Inode(ino), Mode::Shared);
    let read = || {
        check()?;
        let inode = namespace.inode_in_section(ino)?.ok_or(OpError::not_found())?;
        let content = if inode.attr.inline { namespace.inline(ino)? } else { None };
        Ok::<_, OpError>((inode, content))
    };
    let (inode, content) = namespace.locks().with(&set, read).await?;
    if !inode.attr.inline {
        return Ok((inode, None));
    }
    if inode.attr.size > u64::from(INLINE_MAX) {
        return Err(OpError::new(
            Status::Corrupt,
            "a file that lies with its inode is larger than that can be",
        ));
    }
    let whole = inline::whole(content, inode.attr.size)?;
    Ok((inode, Some(whole)))
}

/// Reads from a small file.
pub async fn read(worker: &Rc<Worker>, context: &Context, request: ReadInline) -> OpResult<Answer> {
    let (inode, content) = snapshot(&worker.node, request.ino).await?;
    let Some(content) = content else {
        let attr = getattr::home_attributes(worker, request.ino, Some(context.asker())).await?;
        return Ok((InlineRead { attr, crc: 0 }.to_bytes(), Bytes::new()));
    };
    let len = content.data.len();
    let from = request.offset.min(len as u64) as usize;
    let to = from.saturating_add(request.len as usize).min(len);
    let part = if to - from == len {
        content
    } else {
        inline::content(inline::checked(content)?.data.slice(from..to))
    };
    worker.node.counters.note_read(part.data.len());
    Ok((InlineRead { attr: inode.attr.clone(), crc: part.crc }.to_bytes(), part.data))
}
