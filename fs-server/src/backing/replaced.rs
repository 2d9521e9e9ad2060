//! A store that has taken the place of one that was lost: nothing of a file that was there before tells a chunk that is gone from a hole. So the file's
//! home is asked, once a file: what is in the shared tier in its present version is fetched from there, and the rest is an error, never zeros, until it is
//! written again or cut off.
//!
//! Names and inodes that lived here are gone with the store; what other servers hold of those files is not found any more.

use std::rc::Rc;

use bytes::Bytes;
use fs_proto::msg::tier::{FindLost, TierSource};
use fs_proto::record::{Backing, InodeRecord, TierLocation};
use fs_proto::{FileKind, Status, TimeNs};

use super::home;
use crate::error::{OpError, OpResult};
use crate::kv::Batch;
use crate::namespace::{Namespace, decode_record, encode_record, keys};
use crate::worker::{Context, Worker};

/// The fact whether, and since when, a store is a replacement.
const FACT: &str = "replaced";

/// When this store was made, if the server had another one before in its cluster: `rejoins` says so at the store's first start.
pub fn since(namespace: &Namespace, rejoins: bool, now: TimeNs) -> OpResult<Option<TimeNs>> {
    let (kv, key) = (namespace.kv(), keys::fact(FACT));
    if let Some(known) = kv.get(&key)? {
        return decode_record(known);
    }
    let replaced = rejoins.then_some(now);
    let mut batch = Batch::default();
    batch.put(key, encode_record(&replaced));
    kv.commit(batch)?;
    if replaced.is_none() {
        return Ok(None);
    }
    kv.sync()?;
    tracing::warn!(
        "this server's store is new, but its cluster is not: what the server held is lost. Reads of it come from the shared tier where \
         that has it, and else fail with EIO"
    );
    Ok(replaced)
}

/// Whether a source says that chunks are lost.
pub fn is_lost(source: &TierSource) -> bool {
    source.at.tier_ino == 0 && source.at.name.is_empty()
}

fn lost(inode: &InodeRecord) -> TierSource {
    let at =
        TierLocation { parent: inode.attr.parent, name: Bytes::new(), version: 0, ctime: 0, tier_ino: 0 };
    let backing = Backing { size: inode.attr.size, mtime: 0, limit: inode.attr.size };
    TierSource { at, backing, layout: inode.attr.layout }
}

/// The error of who wants what is lost.
pub fn error() -> OpError {
    OpError::new(Status::Io, "a part of the file is lost: the server that held it has a new store")
}

/// Answers a server whose store is new.
pub async fn find(worker: &Rc<Worker>, _: &Context, request: FindLost) -> OpResult<Option<TierSource>> {
    let node = &worker.node;
    let Some(inode) = node.namespace.inode(request.ino)? else { return Ok(None) };
    let attr = &inode.attr;
    if attr.kind != FileKind::File || attr.btime >= request.made {
        return home::find(worker, request.ino, false).await;
    }
    let Some(at) = inode.tier.clone().filter(|_| home::is_current(&inode)) else {
        return Ok(Some(lost(&inode)));
    };
    match home::look(worker, &at).await {
        Some(Some(found)) if home::is_copy(&found, &at, attr.size) => {
            Ok(Some(TierSource { at, backing: home::backing_of(&found), layout: attr.layout }))
        }
        // It may be there yet.
        None => Err(OpError::new(Status::Retry, "the shared tier does not answer")),
        Some(_) => Ok(Some(lost(&inode))),
    }
}
