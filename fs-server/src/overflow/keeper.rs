//! What a server keeps for others, and what homes allow.
//!
//! Objects are named after the server that they are kept for. What that server does not know of (it has lost its store, or ended in the middle of
//! a move, or could not say that it needs the chunk no more) is dropped after it was asked.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use fs_proto::msg::overflow::{Kept, KeptFor, MayOverflow};
use fs_proto::msg::vault::{VaultDrop, VaultList, VaultObject};
use fs_proto::record::OverflowRecord;
use fs_proto::{ChunkIndex, FileKind, InodeId, ServerId};

use super::kept;
use crate::error::OpResult;
use crate::node::Node;
use crate::store::ChunkKey;
use crate::worker::{Context, Worker};

const PREFIX: &str = "overflow/";
/// Before the first look at what is kept, and between two.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// Name of the object that has a chunk of server `of`.
pub fn name(of: ServerId, key: ChunkKey, nonce: u64) -> Bytes {
    format!("{PREFIX}{}/{:x}/{:x}/{nonce:x}/", of.0, key.ino.0, key.chunk.0).into()
}

/// For whom an object is kept, and what.
fn parse(object: &VaultObject) -> Option<(ServerId, Kept)> {
    let mut parts = std::str::from_utf8(&object.key).ok()?.strip_prefix(PREFIX)?.split('/');
    let server = ServerId(parts.next()?.parse().ok()?);
    let mut number = || u64::from_str_radix(parts.next()?, 16).ok();
    Some((server, Kept { ino: InodeId(number()?), chunk: ChunkIndex(number()?), place: object.ino }))
}

/// Has a keeper told that its chunk is not needed any more. If it does not hear of it, it will ask.
pub(super) fn drop_later(node: &Node, key: ChunkKey, record: OverflowRecord) {
    let prefix = name(node.id(), key, record.nonce);
    node.errands.send(move |own: Rc<Worker>| async move {
        drop(own.ask(record.keeper, &VaultDrop { prefix }).await);
    });
}

/// Whether chunks of a file that lives here may be with others.
pub async fn may_overflow(worker: &Rc<Worker>, _: &Context, request: MayOverflow) -> OpResult<bool> {
    let namespace = &worker.node.namespace;
    let Some(inode) = namespace.inode(request.ino)?.filter(|inode| inode.attr.kind == FileKind::File) else {
        return Ok(false);
    };
    worker.node.overflow.policy.of_inode(worker, &inode).await
}

/// Which of these are still this server's.
#[allow(clippy::unused_async)] // One signature for all operations.
pub async fn kept_for(worker: &Rc<Worker>, _: &Context, request: KeptFor) -> OpResult<Vec<bool>> {
    let node = &worker.node;
    let is_mine = |chunk: &Kept| {
        let key = ChunkKey { ino: chunk.ino, chunk: chunk.chunk };
        // In this order: a move ends with its record.
        let is_moving = node.overflow.is_moving(key);
        Ok(is_moving || kept(node, key)?.is_some_and(|record| record.place == chunk.place))
    };
    request.chunks.iter().map(is_mine).collect()
}

/// Asks now and then whether what is kept here is still wanted, until the server ends.
pub async fn keep_house(worker: Rc<Worker>) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => {}
            () = worker.node.stopped() => return,
        }
        if let Err(error) = drop_unwanted(&worker).await {
            tracing::debug!(message = %error.message, "what is kept for others was not looked at");
        }
    }
}

/// Drops what nobody wants; answers how much that was.
pub async fn drop_unwanted(worker: &Rc<Worker>) -> OpResult<usize> {
    let (node, mut after, mut dropped) = (&worker.node, Bytes::new(), 0);
    loop {
        let request = VaultList { prefix: Bytes::from_static(PREFIX.as_bytes()), after };
        let page = worker.ask(node.id(), &request).await?;
        let mut of_servers: BTreeMap<ServerId, Vec<(Bytes, Kept)>> = BTreeMap::new();
        for object in &page.objects {
            if let Some((server, chunk)) = parse(object) {
                of_servers.entry(server).or_default().push((object.key.clone(), chunk));
            }
        }
        for (server, objects) in of_servers {
            dropped += drop_unwanted_of(worker, server, objects).await?;
        }
        match page.objects.last() {
            Some(last) if !page.end => after = last.key.clone(),
            _ => return Ok(dropped),
        }
    }
}

async fn drop_unwanted_of(
    worker: &Rc<Worker>,
    server: ServerId,
    objects: Vec<(Bytes, Kept)>,
) -> OpResult<usize> {
    let (names, chunks): (Vec<_>, Vec<_>) = objects.into_iter().unzip();
    // Who is away is asked the next time.
    let Ok(wanted) = worker.ask(server, &KeptFor { chunks }).await else { return Ok(0) };
    let unwanted: Vec<_> =
        names.into_iter().zip(wanted).filter(|(_, wanted)| !wanted).map(|(name, _)| name).collect();
    for prefix in &unwanted {
        worker.ask(worker.node.id(), &VaultDrop { prefix: prefix.clone() }).await?;
    }
    Ok(unwanted.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_whose_they_are() {
        let key = ChunkKey { ino: InodeId(0x12_34), chunk: ChunkIndex(17) };
        let object = VaultObject { key: name(ServerId(3), key, 99), ino: InodeId(5), value: Bytes::new() };
        let expected = Kept { ino: key.ino, chunk: key.chunk, place: InodeId(5) };
        assert_eq!(parse(&object), Some((ServerId(3), expected)));
        for odd in ["overflow/", "overflow/x/1/1/1/", "overflow/3/1", "checkpoint/3/1/1/1/"] {
            assert_eq!(parse(&VaultObject { key: Bytes::from(odd), ..object.clone() }), None, "{odd}");
        }
    }
}
