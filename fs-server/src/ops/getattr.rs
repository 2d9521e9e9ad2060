//! Attributes, with the size settled: the home asks the servers that unpublished writes went through.

use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use fs_proto::msg::inode::{Getattr, GetattrMany, PollSize, Readlink};
use fs_proto::msg::transaction::GetShard;
use fs_proto::record::{InodeRecord, Mutation, ShardRecord};
use fs_proto::{Attr, ClientId, FileKind, InodeId, ServerId, Status};

use super::ask_all;
use crate::error::{OpError, OpResult};
use crate::namespace::locks::{LockKey, LockSet, Mode};
use crate::opens::{Who, Writer};
use crate::worker::{Context, Worker};

/// No write is of so late a version.
pub const NEVER: u64 = u64::MAX;

/// Who asks for a size. How far it wrote itself it knows.
#[derive(Debug, Clone, Copy)]
pub struct Asker {
    /// Which client.
    pub client: ClientId,
    /// The server of its node, if no other of that server's clients writes the inode.
    pub sole_of: Option<ServerId>,
}

impl Asker {
    fn knows(&self, writer: &Writer) -> bool {
        match writer.who {
            Who::Client(client) => client == self.client,
            Who::Node { server, .. } => Some(server) == self.sole_of,
        }
    }
}

/// Attributes of one inode.
pub async fn getattr(worker: &Rc<Worker>, context: &Context, request: Getattr) -> OpResult<Attr> {
    home_attributes(worker, request.ino, Some(context.asker())).await
}

/// Attributes of many inodes that live here.
pub async fn getattr_many(
    worker: &Rc<Worker>,
    context: &Context,
    request: GetattrMany,
) -> OpResult<Vec<Option<Attr>>> {
    let mut found = Vec::with_capacity(request.inos.len());
    for ino in request.inos {
        found.push(listed(worker, ino, context.asker()).await?);
    }
    Ok(found)
}

/// Attributes for a listing: None when the inode has gone meanwhile.
pub async fn listed(worker: &Rc<Worker>, ino: InodeId, asker: Asker) -> OpResult<Option<Attr>> {
    match home_attributes(worker, ino, Some(asker)).await {
        Ok(attr) => Ok(Some(attr)),
        Err(error) if error.status == Status::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Target of a symbolic link.
pub async fn readlink(worker: &Rc<Worker>, _: &Context, request: Readlink) -> OpResult<Bytes> {
    let inode = worker.node.namespace.live_inode(request.ino).await?;
    if inode.attr.kind != FileKind::Symlink {
        return Err(OpError::new(Status::Invalid, "not a symbolic link"));
    }
    Ok(inode.target.clone())
}

/// This server's part of a wide directory.
pub async fn get_shard(worker: &Rc<Worker>, _: &Context, request: GetShard) -> OpResult<Option<ShardRecord>> {
    worker.node.namespace.locks().settled(LockKey::Inode(request.dir)).await;
    worker.node.namespace.shard(request.dir)
}

/// Attributes of any inode, wherever it lives.
pub async fn attributes(worker: &Rc<Worker>, ino: InodeId) -> OpResult<Attr> {
    if worker.node.owns(ino.partition()) {
        return home_attributes(worker, ino, None).await;
    }
    worker.ask_owner(ino.partition(), &Getattr { ino }).await
}

/// Attributes for an answer that is given again. The inode may be gone since: that says nothing of what was done then.
pub async fn attributes_since(worker: &Rc<Worker>, ino: InodeId, kind: FileKind) -> OpResult<Attr> {
    match attributes(worker, ino).await {
        Err(error) if error.status == Status::NotFound => Ok(Attr::unknown(ino, kind)),
        answer => answer,
    }
}

/// What became of a question to the inode that a name stood for: if that is gone, the name has been removed or given to another file since, and
/// it has to be looked at again. That the inode is not there does not say that the name is not.
pub fn of_name<T>(answer: OpResult<T>) -> OpResult<T> {
    answer.map_err(|error| match error.status {
        Status::NotFound => OpError::new(Status::Retry, "the name is being given to another file"),
        _ => error,
    })
}

/// Attributes of an inode that lives here.
pub async fn home_attributes(worker: &Rc<Worker>, ino: InodeId, asker: Option<Asker>) -> OpResult<Attr> {
    let inode = worker.node.namespace.live_inode(ino).await?;
    match inode.attr.kind {
        FileKind::Directory if inode.attr.wide => merged(worker, &inode).await,
        FileKind::File => Ok(settled(worker, inode, asker, false).await?.attr.clone()),
        _ => Ok(inode.attr.clone()),
    }
}

/// A wide directory's attributes: its own, and its parts' counts and times.
async fn merged(worker: &Rc<Worker>, inode: &InodeRecord) -> OpResult<Attr> {
    let mut attr = inode.attr.clone();
    let shards = ask_all(worker, &worker.node.stores(), &GetShard { dir: attr.ino }).await?;
    (attr.size, attr.nlink) = (0, 2);
    for shard in shards.into_iter().flatten() {
        attr.size += shard.entries;
        attr.nlink += shard.subdirs;
        attr.mtime = attr.mtime.max(shard.mtime);
        attr.ctime = attr.ctime.max(shard.mtime);
    }
    Ok(attr)
}

/// The inode with a size that counts what others (than `asker`, who knows its own) wrote and did not publish. With `forget` the
/// servers on the way forget it: the file is about to be cut.
pub async fn settled(
    worker: &Rc<Worker>,
    inode: Arc<InodeRecord>,
    asker: Option<Asker>,
    forget: bool,
) -> OpResult<Arc<InodeRecord>> {
    let ino = inode.attr.ino;
    if inode.attr.inline {
        // What is written to a small file is published by it.
        return Ok(inode);
    }
    let mut writers = worker.node.opens.writers(ino);
    writers.retain(|writer| !asker.is_some_and(|asker| asker.knows(writer)));
    if writers.is_empty() {
        return Ok(inode);
    }
    let end = poll(worker, ino, &writers, asker, forget).await?;
    if end <= inode.attr.size {
        return Ok(inode);
    }
    grow(worker, ino, end).await
}

/// How far the writes of `writers`, but not those of `asker`, reached that are not published.
pub async fn poll(
    worker: &Rc<Worker>,
    ino: InodeId,
    writers: &[Writer],
    asker: Option<Asker>,
    forget: bool,
) -> OpResult<u64> {
    let node = &worker.node;
    let mut via: Vec<ServerId> = writers.iter().filter_map(|writer| writer.via).collect();
    if writers.iter().any(|writer| writer.via.is_none()) {
        via = node.members();
    }
    via.sort_unstable();
    via.dedup();
    // Who asks is listed for itself, so that its node's server does not count for it.
    let asker = asker.map(|asker| (asker.client, NEVER));
    let writers = writers.iter().map(|writer| (writer.client(), writer.version)).chain(asker).collect();
    let ends = ask_all(worker, &via, &PollSize { ino, writers, forget }).await?;
    Ok(ends.into_iter().max().unwrap_or(0))
}

/// Has all servers forget how far unpublished writes reached, whose home does not know them.
pub async fn forget_ends(worker: &Rc<Worker>, ino: InodeId) -> OpResult<()> {
    let request = PollSize { ino, writers: Vec::new(), forget: true };
    ask_all(worker, &worker.node.members(), &request).await.map(drop)
}

async fn grow(worker: &Rc<Worker>, ino: InodeId, end: u64) -> OpResult<Arc<InodeRecord>> {
    let namespace = &worker.node.namespace;
    let set = LockSet::of(&[(LockKey::Inode(ino), Mode::Exclusive)]);
    namespace
        .locks()
        .with(&set, || {
            let inode = namespace.inode_in_section(ino)?.ok_or(OpError::not_found())?;
            if inode.attr.size >= end {
                return Ok(inode);
            }
            let mut grown = (*inode).clone();
            grown.attr.size = end;
            grown.attr.version += 1;
            let now = worker.node.now();
            (grown.attr.mtime, grown.attr.ctime) = (now, now);
            namespace.commit(&[Mutation::PutInode { inode: grown.clone() }])?;
            Ok(Arc::new(grown))
        })
        .await
}
