//! Give an inode a further name.

use std::rc::Rc;

use fs_proto::msg::name::Link;
use fs_proto::record::{Check, EntryRecord, Mutation};
use fs_proto::{Attr, Status};

use super::{directory_here, getattr, may_change, valid_name};
use crate::backing::room;
use crate::error::{OpError, OpResult};
use crate::transaction::{Plan, coordinator};
use crate::worker::{Context, Worker};

/// Most names of one inode.
const LINKS_MAX: u32 = 65_000;

/// Adds the name.
pub async fn link(worker: &Rc<Worker>, context: &Context, request: Link) -> OpResult<Attr> {
    valid_name(&request.name)?;
    coordinator::retrying(async || attempt(worker, context, &request).await).await?;
    getattr::attributes(worker, request.ino).await
}

async fn attempt(worker: &Rc<Worker>, context: &Context, request: &Link) -> OpResult<()> {
    let node = &worker.node;
    let (me, dir, name, ino) = (node.id(), request.parent, &request.name, request.ino);
    directory_here(node, dir, name).await?;
    let attr = getattr::attributes(worker, ino).await?;
    if node.namespace.settled_entry(dir, name).await?.is_some() {
        return Err(OpError::new(Status::Exists, "file exists"));
    }
    if attr.is_dir() {
        return Err(OpError::new(Status::NotPermitted, "directories have no hard links"));
    }
    if attr.nlink >= LINKS_MAX {
        return Err(OpError::new(Status::TooManyLinks, "too many hard links"));
    }
    room::admit_name(worker).await?;
    let (now, home) = (node.now(), node.owner(ino.partition()));
    let mut plan = Plan::default();
    plan.check(me, Check::EntryIs { parent: dir, name: name.clone(), ino: None });
    plan.check(me, may_change(context, dir, None));
    plan.check(home, Check::InodeLinkable { ino });
    let entry = EntryRecord { ino, kind: attr.kind };
    plan.mutate(me, Mutation::PutEntry { parent: dir, name: name.clone(), entry });
    plan.mutate(me, Mutation::TouchDir { dir, time: now, entries_delta: 1, subdirs_delta: 0 });
    plan.mutate(
        home,
        Mutation::AdjustInode {
            ino,
            nlink_delta: 1,
            ctime: now,
            linked: Some((dir, name.clone())),
            unlinked: None,
        },
    );
    coordinator::run_for(worker, plan, context, ino).await
}
