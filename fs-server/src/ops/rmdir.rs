//! Remove an empty directory.

use std::rc::Rc;

use fs_proto::msg::name::Rmdir;
use fs_proto::record::{Check, Mutation};
use fs_proto::{Attr, FileKind, Status};

use super::{directory_here, getattr, may_change, valid_name};
use crate::error::{OpError, OpResult};
use crate::node::Node;
use crate::transaction::{Plan, coordinator};
use crate::worker::{Context, Worker};

/// Removes the directory.
pub async fn rmdir(worker: &Rc<Worker>, context: &Context, request: Rmdir) -> OpResult<()> {
    if request.name == b"."[..] {
        return Err(OpError::new(Status::Invalid, "the last component is ."));
    }
    valid_name(&request.name)?;
    coordinator::retrying(async || attempt(worker, context, &request).await).await
}

async fn attempt(worker: &Rc<Worker>, context: &Context, request: &Rmdir) -> OpResult<()> {
    let node = &worker.node;
    let (me, dir, name) = (node.id(), request.parent, &request.name);
    directory_here(node, dir, name).await?;
    let entry = node.namespace.settled_entry(dir, name).await?.ok_or(OpError::not_found())?;
    if entry.kind != FileKind::Directory {
        return Err(OpError::new(Status::NotDirectory, "not a directory"));
    }
    let victim = getattr::of_name(getattr::attributes(worker, entry.ino).await)?;
    let now = node.now();
    let mut plan = Plan::default();
    plan.check(me, Check::EntryIs { parent: dir, name: name.clone(), ino: Some(entry.ino) });
    plan.check(me, may_change(context, dir, Some(victim.uid)));
    plan.mutate(me, Mutation::DelEntry { parent: dir, name: name.clone() });
    plan.mutate(me, Mutation::TouchDir { dir, time: now, entries_delta: -1, subdirs_delta: -1 });
    remove_directory(node, &mut plan, &victim);
    coordinator::run_for(worker, plan, context, entry.ino).await
}

/// Adds to `plan` that the directory `victim` is empty and goes.
pub fn remove_directory(node: &Node, plan: &mut Plan, victim: &Attr) {
    let (dir, home) = (victim.ino, node.owner(victim.ino.partition()));
    if victim.wide {
        for server in node.stores() {
            plan.check(server, Check::DirEmpty { dir });
            plan.mutate(server, Mutation::DelShard { dir });
        }
    } else {
        plan.check(home, Check::DirNarrow { dir });
        plan.check(home, Check::DirEmpty { dir });
    }
    plan.mutate(home, Mutation::DelInode { ino: dir });
}
