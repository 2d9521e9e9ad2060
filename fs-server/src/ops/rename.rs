//! Move a name, over whatever the new name stands for, or swap two names: atomic also between servers, O(1) for directories.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use fs_proto::msg::inode::Getxattr;
use fs_proto::msg::name::{Lookup, Rename};
use fs_proto::msg::transaction::{TransactionId, TreeLock};
use fs_proto::record::{Check, EntryRecord, Mutation};
use fs_proto::{Attr, FileKind, InodeId, ServerId, Status, TimeNs};

use super::{directory_here, entry_owner, getattr, may_change, rmdir, valid_name};
use crate::error::{OpError, OpResult};
use crate::namespace::permission::{Access, WRITE, require};
use crate::namespace::{DEPTH_MAX, acl};
use crate::node::Node;
use crate::transaction::{Plan, coordinator};
use crate::worker::{Context, Worker};

/// One of the two names, and what it stands for.
struct Side {
    server: ServerId,
    dir: InodeId,
    name: Bytes,
    there: Option<(EntryRecord, Attr)>,
}

impl Side {
    fn is_dir(&self) -> bool {
        self.there.as_ref().is_some_and(|(entry, _)| entry.kind == FileKind::Directory)
    }

    fn subdirs(&self) -> i32 {
        i32::from(self.is_dir())
    }
}

/// Moves or swaps.
pub async fn rename(worker: &Rc<Worker>, context: &Context, request: Rename) -> OpResult<()> {
    valid_name(&request.name)?;
    valid_name(&request.new_name)?;
    if request.no_replace && request.exchange {
        return Err(OpError::new(Status::Invalid, "a rename cannot both swap and not replace"));
    }
    if request.parent == request.new_parent && request.name == request.new_name {
        directory_here(&worker.node, request.parent, &request.name).await?;
        let there = worker.node.namespace.settled_entry(request.parent, &request.name).await?;
        return match there {
            Some(_) if request.no_replace => Err(OpError::new(Status::Exists, "file exists")),
            Some(_) => Ok(()),
            None => Err(OpError::not_found()),
        };
    }
    coordinator::retrying(async || attempt(worker, context, &request).await).await
}

async fn attempt(worker: &Rc<Worker>, context: &Context, request: &Rename) -> OpResult<()> {
    let node = &worker.node;
    directory_here(node, request.parent, &request.name).await?;
    let old_entry = node.namespace.settled_entry(request.parent, &request.name).await?;
    let old_entry = old_entry.ok_or(OpError::not_found())?;
    let ino = old_entry.ino;
    let old_attr = getattr::of_name(getattr::attributes(worker, ino).await)?;
    let new_dir = getattr::attributes(worker, request.new_parent).await?;
    if !new_dir.is_dir() {
        return Err(OpError::new(Status::NotDirectory, "not a directory"));
    }
    let new = new_side(worker, &new_dir, &request.new_name).await?;
    let old = Side {
        server: node.id(),
        dir: request.parent,
        name: request.name.clone(),
        there: Some((old_entry, old_attr)),
    };
    let ino_of = |side: &Side| side.there.as_ref().map(|(entry, _)| entry.ino);
    if ino_of(&old) == ino_of(&new) && !request.no_replace {
        // Two names of one file: POSIX says that nothing happens.
        return coordinator::run_for(worker, as_they_are(&old, &new), context, ino).await;
    }
    if let Err(error) = permitted(request, &old, &new) {
        coordinator::run(worker, as_they_are(&old, &new), None).await?;
        return Err(error);
    }
    let moves_tree = old.dir != new.dir && (old.is_dir() || (request.exchange && new.is_dir()));
    if moves_tree {
        return in_tree_lock(worker, async || {
            no_cycle(worker, &old, &new).await?;
            if request.exchange {
                no_cycle(worker, &new, &old).await?;
            }
            carry_out(worker, context, request, &old, &new).await
        })
        .await;
    }
    carry_out(worker, context, request, &old, &new).await
}

async fn new_side(worker: &Rc<Worker>, dir: &Attr, name: &Bytes) -> OpResult<Side> {
    let server = entry_owner(&worker.node, dir, name);
    let there = match worker.ask(server, &Lookup { parent: dir.ino, name: name.clone() }).await {
        Ok(entry) => {
            let attr = match entry.attr {
                Some(attr) => attr,
                None => getattr::of_name(getattr::attributes(worker, entry.ino).await)?,
            };
            Some((EntryRecord { ino: entry.ino, kind: entry.kind }, attr))
        }
        Err(error) if error.status == Status::NotFound => None,
        Err(error) if error.status == Status::WideDirectory => {
            return Err(OpError::new(Status::Retry, "the directory widened meanwhile"));
        }
        Err(error) => return Err(error),
    };
    Ok(Side { server, dir: dir.ino, name: name.clone(), there })
}

/// A plan that changes nothing, for what is answered without a change: that it is so of both names at one moment. Either may have been another
/// file meanwhile, and be the same again.
fn as_they_are(old: &Side, new: &Side) -> Plan {
    let mut plan = Plan::default();
    for side in [old, new] {
        plan.check(side.server, is_as_found(side));
    }
    plan
}

fn is_as_found(side: &Side) -> Check {
    let ino = side.there.as_ref().map(|(entry, _)| entry.ino);
    Check::EntryIs { parent: side.dir, name: side.name.clone(), ino }
}

fn permitted(request: &Rename, old: &Side, new: &Side) -> OpResult<()> {
    match (&new.there, old.is_dir(), new.is_dir()) {
        (None, ..) if request.exchange => Err(OpError::not_found()),
        (Some(_), ..) if request.no_replace => Err(OpError::new(Status::Exists, "file exists")),
        (Some(_), ..) if request.exchange => Ok(()),
        (Some(_), true, false) => Err(OpError::new(Status::NotDirectory, "the new name is not a directory")),
        (Some(_), false, true) => Err(OpError::new(Status::IsDirectory, "the new name is a directory")),
        _ => Ok(()),
    }
}

/// Runs `body` while no other directory moves between directories in the whole cluster.
async fn in_tree_lock(worker: &Rc<Worker>, body: impl AsyncFnOnce() -> OpResult<()>) -> OpResult<()> {
    let node = &worker.node;
    let id = TransactionId { coordinator: node.id(), number: node.namespace.allocator().transaction() };
    let root = InodeId::ROOT.partition();
    let mut pause = Duration::from_millis(1);
    loop {
        match worker.ask_owner(root, &TreeLock { id, take: true }).await {
            Ok(()) => break,
            Err(error) if matches!(error.status, Status::Busy | Status::Retry) => {
                tokio::time::sleep(pause).await;
            }
            Err(error) => return Err(error),
        }
        pause = (pause * 2).min(Duration::from_millis(50));
    }
    let outcome = body().await;
    if let Err(error) = worker.ask_owner(root, &TreeLock { id, take: false }).await {
        tracing::debug!(message = %error.message, "a tree lock was not given back; it ends by itself");
    }
    outcome
}

/// Refuses to move a directory below itself.
async fn no_cycle(worker: &Rc<Worker>, moved: &Side, into: &Side) -> OpResult<()> {
    let Some((entry, _)) = moved.there.as_ref().filter(|_| moved.is_dir()) else { return Ok(()) };
    let mut dir = into.dir;
    for _ in 0..DEPTH_MAX {
        if dir == entry.ino {
            return Err(OpError::new(Status::Invalid, "a directory cannot be moved below itself"));
        }
        if dir == InodeId::ROOT {
            return Ok(());
        }
        dir = getattr::attributes(worker, dir).await?.parent;
    }
    Err(OpError::new(Status::Invalid, "the directory tree is too deep"))
}

async fn carry_out(
    worker: &Rc<Worker>,
    context: &Context,
    request: &Rename,
    old: &Side,
    new: &Side,
) -> OpResult<()> {
    let node = &worker.node;
    let now = node.now();
    let mut plan = Plan::default();
    for side in [old, new] {
        let victim = side.there.as_ref().map(|(_, attr)| attr.uid);
        plan.check(side.server, is_as_found(side));
        plan.check(side.server, may_change(context, side.dir, victim));
    }
    let (entry, attr) = old.there.as_ref().ok_or(OpError::not_found())?;
    may_move(worker, context, attr, old, new).await?;
    move_inode(node, &mut plan, entry.ino, old, new, now);
    plan.mutate(
        new.server,
        Mutation::PutEntry { parent: new.dir, name: new.name.clone(), entry: entry.clone() },
    );
    match &new.there {
        Some((other, other_attr)) if request.exchange => {
            may_move(worker, context, other_attr, new, old).await?;
            move_inode(node, &mut plan, other.ino, new, old, now);
            let back = Mutation::PutEntry { parent: old.dir, name: old.name.clone(), entry: other.clone() };
            plan.mutate(old.server, back);
            let gain = old.subdirs() - new.subdirs();
            plan.mutate(old.server, touch(old.dir, now, 0, -gain));
            plan.mutate(new.server, touch(new.dir, now, 0, gain));
        }
        there => {
            plan.mutate(old.server, Mutation::DelEntry { parent: old.dir, name: old.name.clone() });
            plan.mutate(old.server, touch(old.dir, now, -1, -old.subdirs()));
            let entries = i64::from(there.is_none());
            plan.mutate(new.server, touch(new.dir, now, entries, old.subdirs() - new.subdirs()));
            if let Some((_, victim)) = there {
                replace(node, &mut plan, victim, new, now);
            }
        }
    }
    coordinator::run_for(worker, plan, context, entry.ino).await
}

fn touch(dir: InodeId, time: TimeNs, entries_delta: i64, subdirs_delta: i32) -> Mutation {
    Mutation::TouchDir { dir, time, entries_delta, subdirs_delta }
}

/// Moving a directory changes its "..", which needs write permission on itself.
async fn may_move(
    worker: &Rc<Worker>,
    context: &Context,
    attr: &Attr,
    from: &Side,
    to: &Side,
) -> OpResult<()> {
    if context.is_checked() || !attr.is_dir() || from.dir == to.dir {
        return Ok(());
    }
    let mut access = Access::plain(attr.mode, attr.uid, attr.gid);
    if attr.acl {
        let request = Getxattr { ino: attr.ino, name: Bytes::from_static(acl::ACCESS) };
        access.acl = match worker.ask_owner(attr.ino.partition(), &request).await {
            Ok(list) => Some(list),
            Err(error) if error.status == Status::NoAttribute => None,
            Err(error) => return Err(error),
        };
    }
    require(&context.caller, &access, WRITE)
}

fn move_inode(node: &Node, plan: &mut Plan, ino: InodeId, from: &Side, to: &Side, now: TimeNs) {
    let home = node.owner(ino.partition());
    plan.check(home, Check::InodeLive { ino });
    plan.mutate(
        home,
        Mutation::AdjustInode {
            ino,
            nlink_delta: 0,
            ctime: now,
            linked: Some((to.dir, to.name.clone())),
            unlinked: Some((from.dir, from.name.clone())),
        },
    );
}

/// What the new name stood for goes.
fn replace(node: &Node, plan: &mut Plan, victim: &Attr, new: &Side, now: TimeNs) {
    if victim.is_dir() {
        rmdir::remove_directory(node, plan, victim);
        return;
    }
    let home = node.owner(victim.ino.partition());
    plan.check(home, Check::InodeLive { ino: victim.ino });
    plan.mutate(
        home,
        Mutation::AdjustInode {
            ino: victim.ino,
            nlink_delta: -1,
            ctime: now,
            linked: None,
            unlinked: Some((new.dir, new.name.clone())),
        },
    );
}
