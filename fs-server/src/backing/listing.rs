//! Taking over the names of a directory of the shared tier, when the directory is first used; at its home.
//!
//! ```text
//! commit 't' of a page's names  ->  commit names and inodes of the page (directories' inodes at their own homes)  ->  ...  ->  commit: listed
//! ```
//! While things move from an old tier, its names follow those of the shared tier, to be flushed: `old_names`.
//!
//! A crash before the last step means that the directory is listed again. A 't' of a name that is not there tells nobody anything: nobody is asked to
//! compare the name, and the next listing writes it again.
//!
//! # Invariants
//! - Nothing that is in the namespace is replaced (`tests/flush`: `a_listing_that_is_interrupted_is_finished`).
//! - Until a directory is listed, nobody sees or changes its names (`namespace::directory`).
//! - A page is all that is in memory of a listing, and [`PAGES`] that wait.

use std::collections::HashMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use fs_proto::placement::{directory_partition, entry_partition, name_hash};
use fs_proto::record::{Backing, EntryRecord, InodeRecord, Mutation, TierLocation};
use fs_proto::{FileKind, InodeId, Layout, Placement, Status};
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};

use super::{home, old_names};
use crate::error::{OpError, OpResult};
use crate::flush::entry::TierEntry;
use crate::flush::outcome::{FlushResult, Stop};
use crate::flush::{dirs, old};
use crate::kv::Batch;
use crate::namespace::locks::{LockKey, LockSet, Mode};
use crate::namespace::{NewInode, acl, apply, encode_record, keys, new_inode};
use crate::tier::{Dir, Listed, Tier};
use crate::transaction::{Plan, coordinator};
use crate::worker::Worker;

/// Pages that wait for being taken over.
const PAGES: usize = 2;
/// How long a listing that fails is tried again.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(200);
/// How long a request waits for a listing before it is told to ask again: less than requests live.
const WAIT: Duration = Duration::from_secs(12);

type Outcome = Option<OpResult<()>>;

/// Listings that are under way.
#[derive(Default)]
pub struct Listings {
    running: Mutex<HashMap<InodeId, watch::Receiver<Outcome>>>,
}

/// Takes over the names of a directory that lives here. Who comes while that is done waits for the same.
pub async fn list(worker: &Rc<Worker>, dir: InodeId) -> OpResult<()> {
    let mut outcome = join(worker, dir);
    match tokio::time::timeout(WAIT, outcome.wait_for(Option::is_some)).await {
        Err(_) => Err(OpError::new(Status::Retry, "the directory is being listed in the shared tier")),
        Ok(Ok(done)) => done.clone().unwrap_or(Ok(())),
        Ok(Err(_)) => Err(OpError::new(Status::Retry, "listing ended unexpectedly")),
    }
}

fn join(worker: &Rc<Worker>, dir: InodeId) -> watch::Receiver<Outcome> {
    let listings = &worker.node.backing.listings;
    let mut running = listings.running.lock();
    if let Some(outcome) = running.get(&dir) {
        return outcome.clone();
    }
    let (sender, outcome) = watch::channel(None);
    running.insert(dir, outcome.clone());
    worker.node.errands.send(move |own: Rc<Worker>| async move {
        let done = persistently(&own, dir).await;
        own.node.backing.listings.running.lock().remove(&dir);
        sender.send_replace(Some(done));
    });
    outcome
}

async fn persistently(worker: &Rc<Worker>, dir: InodeId) -> OpResult<()> {
    let began = Instant::now();
    loop {
        let reason = match attempt(worker, dir).await {
            Ok(()) => return Ok(()),
            Err(Stop::Failed(reason) | Stop::Refused(reason)) => reason,
            Err(Stop::Wait(reason)) => reason.to_owned(),
            Err(Stop::Open | Stop::Later(_) | Stop::Never) => "busy".to_owned(),
        };
        if began.elapsed() > PATIENCE || worker.node.is_stopping() {
            tracing::warn!(?dir, reason, "a directory cannot be listed in the shared tier");
            return Err(OpError::because(
                Status::TierFailed,
                format!("the shared tier cannot be listed: {reason}"),
            ));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// What a listing has seen so far.
#[derive(Default)]
struct Counts {
    entries: u64,
    subdirs: u32,
}

async fn attempt(worker: &Rc<Worker>, dir: InodeId) -> FlushResult<()> {
    let node = &worker.node;
    let Some(inode) = node.namespace.inode(dir)?.filter(|inode| inode.backed.is_some()) else {
        return Ok(());
    };
    let mut counts = Counts::default();
    if inode.backed != Some(old::ONLY_OLD) {
        let handle = dirs::handle(worker, dir).await?.ok_or(Stop::Wait("it is not in the shared tier"))?;
        let (directory, counts) = (&inode, &mut counts);
        each_page(worker, handle, async move |page| take(worker, directory, page, counts).await).await?;
    }
    if old::is_to_move(&inode)
        && let Some(handle) = old_names::open(worker, &inode.target).await?
    {
        let directory = &inode;
        each_page(worker, handle, async move |page| old_names::take(worker, directory, page).await).await?;
    }
    finish(worker, &inode, &counts).await?;
    tracing::debug!(?dir, entries = counts.entries, "taken over from the shared tier");
    Ok(())
}

/// Gives what lies in a directory to `take`, while more of it is being looked at.
async fn each_page(
    worker: &Rc<Worker>,
    handle: Dir,
    mut take: impl AsyncFnMut(Vec<Listed>) -> FlushResult<()>,
) -> FlushResult<()> {
    let (pages, mut arrivals) = mpsc::channel(PAGES);
    let listed = worker.node.flusher.on_reader(move |tier: &dyn Tier| give(tier, &handle, &pages));
    // The receiver goes with it: whoever gives pages must not wait for one that failed.
    let takes = async move {
        while let Some(page) = arrivals.recv().await {
            take(page).await?;
        }
        Ok::<(), Stop>(())
    };
    let (listed, taken) = tokio::join!(listed, takes);
    taken?;
    Ok(listed?)
}

/// Runs where blocking is allowed.
fn give(tier: &dyn Tier, dir: &Dir, pages: &mpsc::Sender<Vec<Listed>>) -> crate::tier::TierResult<()> {
    tier.list(dir, &mut |page| pages.blocking_send(page).is_ok())
}

async fn take(
    worker: &Rc<Worker>,
    dir: &InodeRecord,
    page: Vec<Listed>,
    counts: &mut Counts,
) -> FlushResult<()> {
    let (node, parent) = (&worker.node, dir.attr.ino);
    let (mut plan, mut copies) = (Plan::default(), Batch::default());
    let mut any = false;
    for listed in page {
        counts.entries += 1;
        counts.subdirs += u32::from(listed.kind == FileKind::Directory);
        if node.namespace.entry(parent, &listed.name)?.is_some() {
            continue;
        }
        any = true;
        let inode = adopted(worker, dir, &listed)?;
        let (attr, name) = (&inode.attr, listed.name.clone());
        copies.put(keys::tier_entry(parent, &name), encode_record(&copy_of(&inode, &listed)));
        let entry = EntryRecord { ino: attr.ino, kind: attr.kind };
        plan.mutate(node.id(), Mutation::AdoptEntry { parent, name, entry });
        let (ino, home) = (attr.ino, node.owner(attr.ino.partition()));
        plan.mutate(home, Mutation::PutInode { inode });
        for (name, value) in listed.attributes.xattrs.unwrap_or_default() {
            plan.mutate(home, Mutation::PutXattr { ino, name, value });
        }
    }
    if any {
        node.namespace.kv().commit(copies)?;
        coordinator::run(worker, plan, None).await?;
    }
    Ok(())
}

/// The record of the name's copy.
fn copy_of(inode: &InodeRecord, listed: &Listed) -> TierEntry {
    let (attr, is_dir) = (&inode.attr, listed.kind == FileKind::Directory);
    let ctime = if is_dir { 0 } else { attr.ctime };
    TierEntry { ino: attr.ino, kind: attr.kind, version: 1, ctime, tier_ino: listed.found.id }
}

/// The inode of what was found.
pub(super) fn adopted(worker: &Worker, dir: &InodeRecord, listed: &Listed) -> OpResult<InodeRecord> {
    let (node, parent, is_dir) = (&worker.node, dir.attr.ino, listed.kind == FileKind::Directory);
    let partition = if is_dir {
        directory_partition(parent, &listed.name, listed.ctime as u64)
    } else {
        entry_partition(parent, name_hash(parent, &listed.name), dir.attr.wide)
    };
    let (uid, gid) = listed.attributes.owner.unwrap_or_default();
    let mut inode = new_inode(NewInode {
        ino: node.namespace.allocator().inode(partition)?.adopted(),
        kind: listed.kind,
        mode: listed.attributes.mode.unwrap_or_default(),
        uid,
        gid,
        parent,
        name: listed.name.clone(),
        layout: layout(dir.attr.layout, listed),
        now: listed.ctime,
    });
    let attr = &mut inode.attr;
    (attr.atime, attr.mtime) = (listed.attributes.atime, listed.attributes.mtime);
    attr.size = if is_dir { 0 } else { listed.found.size };
    attr.rdev = listed.rdev;
    if is_dir {
        attr.nlink = listed.nlink.max(2);
    }
    let has = |wanted: &[&[u8]]| {
        let names = listed.attributes.xattrs.iter().flatten();
        names.into_iter().any(|(name, _)| wanted.contains(&&name[..]))
    };
    attr.acl = has(&[acl::ACCESS, acl::DEFAULT]);
    attr.capable = has(&[apply::CAPABILITY]);
    let ctime = if is_dir { 0 } else { attr.ctime };
    let (name, tier_ino) = (listed.name.clone(), listed.found.id);
    inode.tier = Some(TierLocation { parent, name, version: 1, ctime, tier_ino });
    inode.target = listed.target.clone();
    inode.backed = backing(listed);
    Ok(inode)
}

/// A directory is listed when it is used; a file without content is here already.
fn backing(listed: &Listed) -> Option<Backing> {
    match listed.kind {
        FileKind::Directory => Some(Backing::default()),
        FileKind::File if listed.found.size > 0 => Some(home::backing_of(&listed.found)),
        _ => None,
    }
}

/// A file from the tier is striped: it belongs to no node.
fn layout(of_directory: Layout, listed: &Listed) -> Layout {
    match listed.kind {
        FileKind::File => {
            Layout { placement: Placement::Striped, ..of_directory }.sized_for(listed.found.size)
        }
        _ => of_directory,
    }
}

/// From now on the namespace is the authority for the directory's names.
async fn finish(worker: &Rc<Worker>, listed: &InodeRecord, counts: &Counts) -> OpResult<()> {
    let (namespace, dir) = (&worker.node.namespace, listed.attr.ino);
    let set = LockSet::of(&[(LockKey::Inode(dir), Mode::Exclusive)]);
    let commit = || {
        let inode = namespace.inode_in_section(dir)?;
        let Some(inode) = inode.filter(|inode| inode.backed.is_some()) else { return Ok(()) };
        if inode.target != listed.target || inode.attr.wide != listed.attr.wide {
            return Err(OpError::new(Status::Retry, "the directory has names in the old tier, too"));
        }
        let listed = Mutation::SetBacked { ino: dir, backed: None };
        if !old::is_to_move(&inode) {
            let Counts { entries, subdirs } = *counts;
            return namespace.commit(&[listed, Mutation::CountEntries { dir, entries, subdirs }]);
        }
        let mut moved = Batch::default();
        moved.delete(keys::moving(dir));
        // Each part of a wide one counted what came to it.
        let count = if inode.attr.wide { None } else { Some(old_names::count(namespace, dir)?) };
        let changes: Vec<_> = count.into_iter().chain([listed]).collect();
        namespace.commit_with(&changes, moved)
    };
    namespace.locks().with(&set, commit).await
}
