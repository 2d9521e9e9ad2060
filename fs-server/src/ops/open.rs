//! Which inodes clients have open.

use std::rc::Rc;

use bytes::Bytes;
use fs_proto::msg::inode::{Open, Release, Renew};
use fs_proto::msg::name::OpenMode;
use fs_proto::msg::small::{OpenRead, Opened};
use fs_proto::{Attr, InodeId, Status, Wire};

use super::{getattr, inline, setattr};
use crate::backing::home;
use crate::dispatch::Answer;
use crate::error::{OpError, OpResult};
use crate::namespace::locks::{LockKey, LockSet, Mode};
use crate::namespace::permission::{READ, WRITE, require};
use crate::node::Node;
use crate::worker::{Context, Worker};

/// Registers the client as a holder; answers fresh attributes (close-to-open consistency in one message).
pub async fn open(worker: &Rc<Worker>, context: &Context, request: Open) -> OpResult<Attr> {
    let node = &worker.node;
    node.opens.admit(&request.mode).await;
    if node.flusher.has_tier() {
        home::check(worker, request.ino).await?;
        node.backing.evictor().note_use(request.ino, node.now());
    }
    let writes = request.mode.writes();
    if writes {
        node.flusher.control().admit(node).await;
        setattr::finish_cut_first(worker, request.ino).await?;
    }
    let inode = node.namespace.live_inode(request.ino).await?;
    if writes && inode.attr.is_dir() {
        return Err(OpError::new(Status::IsDirectory, "is a directory"));
    }
    if !context.is_checked() {
        let access = node.namespace.access(&inode)?;
        let read = if request.mode.reads() { READ } else { 0 };
        require(&context.caller, &access, if writes { read | WRITE } else { read })?;
    }
    let inode = getattr::settled(worker, inode, Some(context.asker()), false).await?;
    let inode = if writes { inode } else { node.namespace.note_reading(inode, node.now()) };
    let register = || node.opens.open(request.ino, context.opener(), &request.mode, inode.attr.version);
    if writes {
        register_writer(node, request.ino, register).await;
    } else {
        register();
    }
    let nlink = links_left(node, request.ino)?;
    Ok(Attr { nlink, ..inode.attr.clone() })
}

/// Links of an inode that is open since a moment ago: what loses its last one from now on stays. Not found if it has none, and is being removed.
pub fn links_left(node: &Node, ino: InodeId) -> OpResult<u32> {
    let nlink = node.namespace.inode(ino)?.ok_or(OpError::not_found())?.attr.nlink;
    if nlink == 0 && node.opens.is_doomed(ino) { Err(OpError::not_found()) } else { Ok(nlink) }
}

/// Who is about to evict the file holds it, and looks who writes after that. Servers that answer for it do not know of writers: it is called back from them.
pub async fn register_writer(node: &Node, ino: InodeId, register: impl FnOnce()) {
    let set = LockSet::of(&[(LockKey::Inode(ino), Mode::Touch)]);
    node.namespace.locks().with(&set, register).await;
}

/// As [`open`] for reading, with the content of a small file: opening and reading are one message.
pub async fn open_read(worker: &Rc<Worker>, context: &Context, request: OpenRead) -> OpResult<Answer> {
    let node = &worker.node;
    let open = Open { ino: request.ino, mode: OpenMode::Read {} };
    let attr = self::open(worker, context, open).await?;
    if !attr.inline {
        return Ok((Opened { attr, crc: None }.to_bytes(), Bytes::new()));
    }
    let (inode, content) = inline::snapshot(node, request.ino).await?;
    let attr = inode.attr.clone();
    match content.filter(|_| request.known_version != Some(attr.version)) {
        Some(content) => {
            node.counters.note_read(content.data.len());
            Ok((Opened { attr, crc: Some(content.crc) }.to_bytes(), content.data))
        }
        None => Ok((Opened { attr, crc: None }.to_bytes(), Bytes::new())),
    }
}

/// The client has these open no longer.
#[allow(clippy::unused_async)] // One signature for all operations.
pub async fn release(worker: &Rc<Worker>, context: &Context, request: Release) -> OpResult<()> {
    for ino in request.inos {
        worker.node.opens.release(ino, context.closer());
    }
    Ok(())
}

/// The client still has these open (and after a restart of this server: has).
pub async fn renew(worker: &Rc<Worker>, context: &Context, request: Renew) -> OpResult<()> {
    let node = &worker.node;
    for open in request.open {
        match node.namespace.live_inode(open.ino).await {
            Ok(inode) => {
                let renew = || node.opens.renew(open.ino, context.client(), &open.mode, inode.attr.version);
                if open.mode.writes() {
                    // After a restart it may be news.
                    register_writer(node, open.ino, renew).await;
                } else {
                    renew();
                }
            }
            Err(error) if error.status == Status::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
