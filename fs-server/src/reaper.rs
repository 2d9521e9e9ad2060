//! Removes inodes that have lost their last name, once nobody has them open: first their chunks, then their records.
//!
//! # Invariants
//! - An orphan's record stays until all its chunks are gone, so that a crash leaves nothing behind that is not known.
//! - What is about to be removed was open nowhere, and is opened by nobody from then on (`opens`, [`OpenTable::doom`](crate::opens::OpenTable::doom)).
//! - A server that is away keeps only those from being removed that have chunks there (`tests/tests/peers.rs`, `what_needs_no_server_that_is_away_is_removed`).
//! - After a restart orphans wait for one lease, those of before and those of since: clients that have them open renew within it
//!   (`tests/tests/peers.rs`, `a_file_that_is_unlinked_after_a_restart_stays_while_it_is_open`).

use std::collections::{BTreeMap, HashSet};
use std::rc::Rc;
use std::time::{Duration, Instant};

use fs_proto::msg::chunk::DropChunks;
use fs_proto::record::Mutation;
use fs_proto::{Attr, ChunkIndex, FileKind, InodeId, Placement, ServerId};

use crate::error::OpResult;
use crate::namespace::keys;
use crate::namespace::locks::{LockKey, LockSet, Mode};
use crate::ops::setattr::holders;
use crate::ops::spill;
use crate::worker::Worker;

/// Orphans of one round: one message a server removes the chunks of all of them.
const ROUND: usize = 512;
const PAUSE: Duration = Duration::from_millis(100);

/// Runs until the server ends.
pub async fn run(worker: Rc<Worker>) {
    let node = &worker.node;
    let restarted = node.namespace.allocator().is_restart();
    let grace = Instant::now() + node.opened.lease();
    match node.namespace.keys_of_kind(b'o', usize::MAX) {
        Ok(keys) => node.namespace.note_orphans(keys.iter().filter_map(|key| keys::split_inode(key))),
        Err(error) => {
            tracing::error!(message = %error.message, "orphans of before the restart could not be listed");
        }
    }
    loop {
        let waits = restarted && Instant::now() < grace;
        let orphans = if waits { Vec::new() } else { node.namespace.take_orphans(ROUND) };
        if orphans.is_empty() {
            tokio::select! {
                () = tokio::time::sleep(PAUSE) => continue,
                () = node.stopped() => return,
            }
        }
        let (free, open): (Vec<_>, Vec<_>) = orphans.into_iter().partition(|ino| node.opens.doom(*ino));
        let still_open = !open.is_empty() && free.is_empty();
        node.namespace.note_orphans(open);
        let left = reap(&worker, &free).await.unwrap_or_else(|error| {
            tracing::debug!(message = %error.message, "orphans cannot be removed yet");
            free.iter().copied().collect()
        });
        node.opens.forget_doomed(free.iter().filter(|ino| !left.contains(*ino)));
        if !left.is_empty() {
            node.namespace.note_orphans(left);
            tokio::time::sleep(PAUSE * 10).await;
        } else if still_open {
            tokio::time::sleep(PAUSE).await;
        }
        if node.is_stopping() {
            return;
        }
    }
}

/// Returns those that are left, as they have chunks on a server that is away.
async fn reap(worker: &Rc<Worker>, orphans: &[InodeId]) -> OpResult<HashSet<InodeId>> {
    let node = &worker.node;
    let mut chunks: BTreeMap<ServerId, Vec<InodeId>> = BTreeMap::new();
    let mut gone = Vec::with_capacity(orphans.len());
    for ino in orphans {
        let Some(inode) = node.namespace.inode(*ino)? else { continue };
        if inode.attr.nlink > 0 {
            continue;
        }
        for server in chunk_holders(worker, &inode.attr)? {
            chunks.entry(server).or_default().push(*ino);
        }
        gone.push(*ino);
    }
    let mut left = HashSet::new();
    for (server, inos) in chunks {
        let request = DropChunks { inos };
        if let Err(error) = worker.ask(server, &request).await {
            tracing::debug!(?server, message = %error.message, "orphans wait for a server that is away");
            left.extend(request.inos);
        }
    }
    for ino in gone.into_iter().filter(|ino| !left.contains(ino)) {
        let set = LockSet::of(&[(LockKey::Inode(ino), Mode::Exclusive)]);
        let both = [Mutation::DelInode { ino }, Mutation::DelOrphan { ino }];
        node.namespace.locks().with(&set, || node.namespace.commit(&both)).await?;
    }
    Ok(left)
}

fn chunk_holders(worker: &Rc<Worker>, attr: &Attr) -> OpResult<Vec<ServerId>> {
    let chunks = if attr.inline {
        u64::from(spill::has_begun(worker, attr.ino)?)
    } else {
        attr.size.div_ceil(attr.layout.chunk_bytes())
    };
    if attr.kind == FileKind::File && attr.layout.placement == Placement::Writer && !attr.inline {
        // Pointers stay when a file is cut.
        return Ok(worker.node.stores());
    }
    if attr.kind != FileKind::File || chunks == 0 {
        return Ok(Vec::new());
    }
    Ok(holders(&worker.node, attr, ChunkIndex(0), ChunkIndex(chunks)))
}
