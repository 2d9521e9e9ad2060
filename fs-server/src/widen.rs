//! A narrow directory that grew past the threshold becomes wide, while it is used.
//!
//! The home holds the directory for the time of one transaction: its entries are dealt to the servers that own their partitions, every
//! server gets its part's record, and the inode is marked. Requests for the directory wait that long; those of clients that still
//! think it narrow are told then.

use std::rc::Rc;

use fs_proto::placement::{entry_partition, name_hash};
use fs_proto::record::{Check, Mutation, ShardRecord};
use fs_proto::{FileKind, InodeId, ServerId};

use crate::error::OpResult;
use crate::namespace::access::{Lists, shard_mode};
use crate::namespace::locks::{LockKey, LockSet, Mode};
use crate::transaction::{Plan, coordinator};
use crate::worker::Worker;

/// Widens `dir` in the background if it has grown past the threshold and is narrow.
pub fn consider(worker: &Rc<Worker>, dir: InodeId, entries: u64) {
    let node = &worker.node;
    // Only at the threshold itself and at its multiples: one attempt, and another should the first fail.
    let threshold = node.config.wide_threshold.max(1);
    if entries <= threshold || entries % threshold != 1 % threshold || !node.owns(dir.partition()) {
        return;
    }
    if node.stores().len() < 2 {
        return;
    }
    let worker = Rc::clone(worker);
    tokio::task::spawn_local(async move {
        match widen(&worker, dir).await {
            Ok(moved) => tracing::info!(?dir, moved, "directory is wide now"),
            Err(error) => {
                tracing::warn!(?dir, message = %error.message, "directory could not be widened; it stays narrow");
            }
        }
    });
}

/// Deals the entries; returns how many moved to other servers.
async fn widen(worker: &Rc<Worker>, dir: InodeId) -> OpResult<usize> {
    let node = &worker.node;
    let me = node.id();
    let hold = node.namespace.locks().hold(LockSet::of(&[(LockKey::Inode(dir), Mode::Exclusive)])).await;
    let Some(inode) = node.namespace.inode_in_section(dir)?.filter(|inode| !inode.attr.wide) else {
        return Ok(0);
    };
    let mut plan = Plan::default();
    plan.check(me, Check::DirHeld { dir });
    let mut shards: Vec<(ServerId, ShardRecord)> = node
        .stores()
        .into_iter()
        .map(|server| {
            let attr = &inode.attr;
            let (uid, gid, layout, mtime) = (attr.uid, attr.gid, attr.layout, attr.mtime);
            let mode = shard_mode(attr);
            (server, ShardRecord { dir, mode, uid, gid, layout, mtime, entries: 0, subdirs: 0 })
        })
        .collect();
    let (entries, _) = node.namespace.page(dir, 0, usize::MAX)?;
    let mut moved = 0;
    for (_, name, entry) in entries {
        let owner = node.owner(entry_partition(dir, name_hash(dir, &name), true));
        if let Some((_, shard)) = shards.iter_mut().find(|(server, _)| *server == owner) {
            shard.entries += 1;
            shard.subdirs += u32::from(entry.kind == FileKind::Directory);
        }
        if owner != me {
            moved += 1;
            plan.mutate(me, Mutation::ReleaseEntry { parent: dir, name: name.clone() });
            plan.mutate(owner, Mutation::AdoptEntry { parent: dir, name, entry });
        }
    }
    let lists = node.namespace.lists(dir, inode.attr.acl)?.changes(dir, &Lists::default());
    for (server, shard) in shards {
        for list in lists.iter().filter(|_| server != me) {
            plan.mutate(server, list.clone());
        }
        plan.mutate(server, Mutation::PutShard { shard });
    }
    plan.mutate(me, Mutation::SetWide { dir });
    coordinator::run_holding(worker, plan, hold).await?;
    Ok(moved)
}
