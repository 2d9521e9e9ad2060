//! Remove a name that is not a directory. The inode goes with its last name, once nobody has it open (`reaper.rs`).

use std::rc::Rc;

use fs_proto::msg::name::Unlink;
use fs_proto::record::{Check, Mutation};
use fs_proto::{FileKind, Status};

use super::{directory_here, getattr, may_change, valid_name};
use crate::error::{OpError, OpResult};
use crate::transaction::{Plan, coordinator};
use crate::worker::{Context, Worker};

/// Removes the name.
pub async fn unlink(worker: &Rc<Worker>, context: &Context, request: Unlink) -> OpResult<()> {
    valid_name(&request.name)?;
    coordinator::retrying(async || attempt(worker, context, &request).await).await
}

async fn attempt(worker: &Rc<Worker>, context: &Context, request: &Unlink) -> OpResult<()> {
    let node = &worker.node;
    let (me, dir, name) = (node.id(), request.parent, &request.name);
    directory_here(node, dir, name).await?;
    let entry = node.namespace.settled_entry(dir, name).await?.ok_or(OpError::not_found())?;
    if entry.kind == FileKind::Directory {
        return Err(OpError::new(Status::IsDirectory, "is a directory"));
    }
    let victim = if context.is_checked() {
        None
    } else {
        Some(getattr::of_name(getattr::attributes(worker, entry.ino).await)?.uid)
    };
    let now = node.now();
    let home = node.owner(entry.ino.partition());
    let mut plan = Plan::default();
    plan.check(me, Check::EntryIs { parent: dir, name: name.clone(), ino: Some(entry.ino) });
    plan.check(me, may_change(context, dir, victim));
    plan.check(home, Check::InodeLive { ino: entry.ino });
    plan.mutate(me, Mutation::DelEntry { parent: dir, name: name.clone() });
    plan.mutate(me, Mutation::TouchDir { dir, time: now, entries_delta: -1, subdirs_delta: 0 });
    plan.mutate(
        home,
        Mutation::AdjustInode {
            ino: entry.ino,
            nlink_delta: -1,
            ctime: now,
            linked: None,
            unlinked: Some((dir, name.clone())),
        },
    );
    coordinator::run_for(worker, plan, context, entry.ino).await
}
