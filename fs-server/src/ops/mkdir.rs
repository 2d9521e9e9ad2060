//! Make a directory: its entry here, its inode in a partition of its own.

use std::rc::Rc;

use fs_proto::msg::name::Mkdir;
use fs_proto::placement::directory_partition;
use fs_proto::record::{Check, EntryRecord, Mutation};
use fs_proto::{Attr, FileKind, LayoutWish, Status};

use super::create::{Birth, born};
use super::{directory_here, may_change, valid_name};
use crate::backing::room;
use crate::error::{OpError, OpResult};
use crate::transaction::{Plan, coordinator};
use crate::widen;
use crate::worker::{Context, Worker};

/// Makes the directory.
pub async fn mkdir(worker: &Rc<Worker>, context: &Context, request: Mkdir) -> OpResult<Attr> {
    valid_name(&request.name)?;
    coordinator::retrying(async || attempt(worker, context, &request).await).await
}

async fn attempt(worker: &Rc<Worker>, context: &Context, request: &Mkdir) -> OpResult<Attr> {
    let node = &worker.node;
    let view = directory_here(node, request.parent, &request.name).await?;
    if node.namespace.settled_entry(request.parent, &request.name).await?.is_some() {
        return Err(OpError::new(Status::Exists, "file exists"));
    }
    room::admit_name(worker).await?;
    let now = node.now();
    let partition = directory_partition(request.parent, &request.name, now as u64);
    let birth = Birth {
        ino: node.namespace.allocator().inode(partition)?,
        kind: FileKind::Directory,
        mode: request.mode,
        parent: request.parent,
        name: request.name.clone(),
        layout: LayoutWish::default(),
        now,
    };
    let (inode, lists) = born(worker, context, &view, birth)?;
    let attr = inode.attr.clone();
    let (me, dir, name) = (node.id(), request.parent, request.name.clone());
    let mut plan = Plan::default();
    plan.check(me, Check::EntryIs { parent: dir, name: name.clone(), ino: None });
    plan.check(me, may_change(context, dir, None));
    let entry = EntryRecord { ino: attr.ino, kind: FileKind::Directory };
    plan.mutate(me, Mutation::PutEntry { parent: dir, name, entry });
    plan.mutate(me, Mutation::TouchDir { dir, time: now, entries_delta: 1, subdirs_delta: 1 });
    for mutation in [Mutation::PutInode { inode }].into_iter().chain(lists) {
        plan.mutate(node.owner(partition), mutation);
    }
    coordinator::run_for(worker, plan, context, attr.ino).await?;
    widen::consider(worker, dir, view.entries() + 1);
    Ok(attr)
}
