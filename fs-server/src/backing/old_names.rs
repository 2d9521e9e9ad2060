//! Taking over the names of a directory of an old tier (`migrate`), behind those of the shared tier.
//!
//! # Invariants
//! - A name that the namespace has already stays what it is; a directory that both have is one (`tests/flush`: `what_both_have_is_one`).
//! - What is taken over is queued for flushing, and written down as not moved yet, in the batch that makes its inode (`namespace/apply.rs`).

use std::rc::Rc;

use bytes::Bytes;
use fs_proto::msg::name::Lookup;
use fs_proto::msg::tier::MergeOld;
use fs_proto::record::{Check, EntryRecord, InodeRecord, Mutation, TierLocation};
use fs_proto::{FileKind, InodeId, ServerId, Status};

use super::{home, listing};
use crate::error::OpResult;
use crate::flush::outcome::{FlushResult, Stop};
use crate::flush::{dirs, old};
use crate::namespace::Namespace;
use crate::ops::entry_owner;
use crate::tier::{Dir, Listed, Place, TierError};
use crate::transaction::{Plan, coordinator};
use crate::worker::Worker;

/// The directory at a path of the old tier; None if others removed it there.
pub async fn open(worker: &Rc<Worker>, path: &Bytes) -> FlushResult<Option<Dir>> {
    let root = dirs::handle(worker, old::PARENT).await?.ok_or(Stop::Wait("the old tier is not there"))?;
    let place = Place::new(&root, path);
    match worker.node.flusher.on_reader(move |tier| tier.open_dir(&place)).await {
        Ok(dir) => Ok(Some(dir)),
        Err(TierError::Missing(_) | TierError::Occupied(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Takes over a page of the names of `dir`.
pub async fn take(worker: &Rc<Worker>, dir: &InodeRecord, page: Vec<Listed>) -> FlushResult<()> {
    let (node, parent) = (&worker.node, dir.attr.ino);
    let mut plan = Plan::default();
    let mut any = false;
    for listed in page {
        let path = old::path_of(&dir.target, &listed.name);
        let owner = entry_owner(node, &dir.attr, &listed.name);
        match entry(worker, owner, parent, &listed.name).await? {
            Some(known) if known.kind == FileKind::Directory && listed.kind == FileKind::Directory => {
                worker.ask_owner(known.ino.partition(), &MergeOld { dir: known.ino, path }).await?;
            }
            Some(_) => {}
            None => {
                any = true;
                add(worker, &mut plan, dir, (owner, listed, path))?;
            }
        }
    }
    if any {
        if !dir.attr.wide {
            plan.check(node.id(), Check::DirNarrow { dir: parent });
        }
        coordinator::run(worker, plan, None).await?;
    }
    Ok(())
}

/// What the name stands for, by the server that owns it: no other changes the names of a directory that is not listed, but those of a wide one.
async fn entry(
    worker: &Rc<Worker>,
    owner: ServerId,
    parent: InodeId,
    name: &Bytes,
) -> OpResult<Option<EntryRecord>> {
    if owner == worker.node.id() {
        return worker.node.namespace.settled_entry(parent, name).await;
    }
    match worker.ask(owner, &Lookup { parent, name: name.clone() }).await {
        Ok(entry) => Ok(Some(EntryRecord { ino: entry.ino, kind: entry.kind })),
        Err(error) if error.status == Status::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn add(
    worker: &Worker,
    plan: &mut Plan,
    dir: &InodeRecord,
    (owner, listed, path): (ServerId, Listed, Bytes),
) -> OpResult<()> {
    let (node, parent, name) = (&worker.node, dir.attr.ino, listed.name.clone());
    let inode = inode(worker, dir, &listed, path)?;
    let (ino, kind) = (inode.attr.ino, inode.attr.kind);
    if dir.attr.wide {
        // Other parts of it are in use, and count for themselves.
        plan.check(owner, Check::EntryIs { parent, name: name.clone(), ino: None });
        let subdirs_delta = i32::from(kind == FileKind::Directory);
        plan.mutate(owner, Mutation::TouchDir { dir: parent, time: 0, entries_delta: 1, subdirs_delta });
    }
    plan.mutate(owner, Mutation::PutEntry { parent, name, entry: EntryRecord { ino, kind } });
    let home = node.owner(ino.partition());
    plan.mutate(home, Mutation::PutInode { inode });
    for (name, value) in listed.attributes.xattrs.unwrap_or_default() {
        plan.mutate(home, Mutation::PutXattr { ino, name, value });
    }
    Ok(())
}

/// The inode of what was found at a path of the old tier.
fn inode(worker: &Worker, dir: &InodeRecord, listed: &Listed, path: Bytes) -> OpResult<InodeRecord> {
    let mut inode = listing::adopted(worker, dir, listed)?;
    match listed.kind {
        FileKind::Directory => {
            (inode.tier, inode.target, inode.backed) = (None, path, Some(old::ONLY_OLD));
            // Counted when it is listed.
            inode.attr.nlink = 2;
        }
        kind => {
            inode.tier = inode.tier.map(|at| TierLocation { parent: old::PARENT, name: path, ..at });
            // An empty one, too: it is compared.
            inode.backed = (kind == FileKind::File).then(|| home::backing_of(&listed.found));
        }
    }
    Ok(inode)
}

/// Counts the names of a directory of which all are here.
pub fn count(namespace: &Namespace, dir: InodeId) -> OpResult<Mutation> {
    let (names, _) = namespace.page(dir, 0, usize::MAX)?;
    let subdirs = names.iter().filter(|(.., entry)| entry.kind == FileKind::Directory).count();
    Ok(Mutation::CountEntries { dir, entries: names.len() as u64, subdirs: subdirs as u32 })
}
