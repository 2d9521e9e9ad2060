//! Publishing a file, symbolic link, pipe or device under its name: by setting attributes, by a further link, or by a copy.
//!
//! # Invariants
//! - A copy is published only if the inode is as it was when copying began, and nobody has it open for writing (unless everything
//!   has to go) (`tests/flush`, `readers_of_the_tier_see_whole_files`).
//! - Names of one inode end as links of one copy: the home takes one copy of a version as the right one, and owners of other
//!   names link to it (`tests/flush`, `tier_equals_the_namespace`).

use std::rc::Rc;

use fs_proto::FileKind;
use fs_proto::msg::tier::TierView;
use fs_proto::record::{Backing, EntryRecord, InodeRecord, TierLocation};

use super::entry::TierEntry;
use super::names::{NameJob, clear_foreign, source};
use super::outcome::{FlushResult, Stop};
use super::{content, old, policy, remote};
use crate::backing::home;
use crate::ops::getattr;
use crate::tier::{Base, Found, Make, Place, Tier, TierError, TierResult};
use crate::worker::Worker;

const CHANGED: Stop = Stop::Wait("it changed while it was copied");

/// Brings the inode of `entry` to the job's name; returns what is there then.
pub async fn publish(job: &NameJob<'_>, entry: &EntryRecord) -> FlushResult<TierEntry> {
    // Before the look: of a file that was open then, the size is asked for only if everything has to go.
    let everything = job.worker.node.flusher.takes_everything() || job.taken.open;
    if job.taken.open && entry.kind == FileKind::File {
        getattr::attributes(job.worker, entry.ino).await?;
    }
    let view = remote::state(job.worker, entry.ino, None).await?;
    let Some(inode) = view.inode.as_ref().filter(|inode| inode.attr.nlink > 0) else {
        return Err(Stop::Wait("its inode is being removed"));
    };
    let had = right_copy(job, inode).await?;
    // From the old tier it is copied.
    let other = inode
        .tier
        .as_ref()
        .filter(|at| at.version == inode.attr.version && !job.is_here(at) && !old::is_in(at));
    let place = job.place().await?;
    if let Some(other) = other.filter(|at| should_link(inode, had.as_ref(), at))
        && let Some(now) = link(job, entry, inode, other, &view, &place).await?
    {
        return settle(job, inode, now, &place, None).await;
    }
    if let Some(had) = had {
        let known = inode.tier.as_ref().is_some_and(|at| at.tier_ino == had.tier_ino);
        if had.ctime == inode.attr.ctime && known {
            return Ok(had);
        }
        if let Some(now) = set_in_place(job, inode, &view, &had, &place).await? {
            return settle(job, inode, now, &place, None).await;
        }
    }
    let first_name = inode.attr.parent == job.parent && inode.name == *job.name;
    if inode.attr.nlink > 1 && !first_name && job.taken.is_early() {
        return Err(Stop::Wait("the first name of the file is copied, and this one becomes a link of it"));
    }
    copy(job, entry, view, &place, everything).await
}

/// What is under the name, if it is a copy of this version: known from the name's record, or from the inode's home (after the
/// name came from another server, or others put another copy there, which was taken over).
async fn right_copy(job: &NameJob<'_>, inode: &InodeRecord) -> FlushResult<Option<TierEntry>> {
    let attr = &inode.attr;
    let had = job.had.as_ref().filter(|had| had.ino == attr.ino && had.is_settled());
    if let Some(had) = had.filter(|had| had.version == attr.version) {
        return Ok(Some(had.clone()));
    }
    let Some(at) = inode.tier.as_ref().filter(|at| at.version == attr.version && job.is_here(at)) else {
        return Ok(None);
    };
    let (place, id) = (job.place().await?, at.tier_ino);
    let found = job.worker.node.flusher.on_tier(move |tier| tier.look(&place)).await?;
    let entry =
        TierEntry { ino: attr.ino, kind: attr.kind, version: at.version, ctime: at.ctime, tier_ino: id };
    Ok(found.filter(|found| found.id == id).map(|_| entry))
}

/// Whether the name should become a link of the copy at `other`: it has no right copy, or another one than its sibling.
fn should_link(inode: &InodeRecord, had: Option<&TierEntry>, other: &TierLocation) -> bool {
    had.is_none_or(|had| inode.attr.nlink > 1 && had.tier_ino != other.tier_ino)
}

/// Links the name to the copy under another name (of a hard link, or of before a rename); None if that is not there any more.
async fn link(
    job: &NameJob<'_>,
    entry: &EntryRecord,
    inode: &InodeRecord,
    other: &TierLocation,
    view: &TierView,
    place: &Place,
) -> FlushResult<Option<TierEntry>> {
    let Some(dir) = source(job.worker, other).await? else { return Ok(None) };
    let flusher = &job.worker.node.flusher;
    let (of, id) = (Place::new(&dir, &other.name), other.tier_ino);
    let me = job.worker.node.id();
    let name = flusher.new_staging_name(me);
    let doomed = name.clone();
    let attributes =
        (other.ctime != inode.attr.ctime).then(|| content::attributes(&inode.attr, &view.xattrs));
    // A tier gives the number of what went to something else: what has the old name of a file that moved may be that. A copy that was not seen has what the
    // file has, or is made again.
    let moved = inode.attr.nlink == 1;
    let (size, mtime) = (inode.attr.size, inode.attr.mtime);
    let seen = inode.backed.unwrap_or(Backing { size, mtime, limit: size });
    let make = move |tier: &dyn Tier| {
        let staged = Place { dir: tier.base(Base::Staging(me))?, name };
        let made = tier.make(&staged, &Make::Link { of })?;
        let is_it = made == id
            && (!moved
                || !tier.shows_staged()
                || tier.look(&staged)?.is_some_and(|found| home::is_as_seen(&found, &seen)));
        if !is_it {
            tier.remove(&staged, false)?;
            return Err(TierError::Missing("another object has taken the place".to_owned()));
        }
        if let Some(attributes) = attributes {
            tier.set(&staged, id, &attributes)?;
        }
        Ok(staged)
    };
    let staged = match flusher.on_tier(make).await {
        Ok(staged) => staged,
        Err(error) => {
            // It may have got as far as making the link.
            flusher.note_doomed(doomed);
            return if matches!(error, TierError::Missing(_)) { Ok(None) } else { Err(error.into()) };
        }
    };
    show(job, entry, &staged, place, true).await?;
    Ok(Some(entry_of(inode, id)))
}

async fn set_in_place(
    job: &NameJob<'_>,
    inode: &InodeRecord,
    view: &TierView,
    had: &TierEntry,
    place: &Place,
) -> FlushResult<Option<TierEntry>> {
    let (place, id) = (place.clone(), had.tier_ino);
    let attributes = content::attributes(&inode.attr, &view.xattrs);
    match job.worker.node.flusher.on_tier(move |tier| tier.set(&place, id, &attributes)).await {
        Ok(()) => Ok(Some(entry_of(inode, id))),
        Err(TierError::Missing(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

async fn copy(
    job: &NameJob<'_>,
    entry: &EntryRecord,
    view: TierView,
    place: &Place,
    everything: bool,
) -> FlushResult<TierEntry> {
    let worker = job.worker;
    let Some(inode) = &view.inode else { return Err(CHANGED) };
    policy::admit(worker, inode, &view.xattrs, job.taken.forced).await?;
    if view.writing && !everything {
        return Err(Stop::Open);
    }
    let (at, staged) = content::stage(worker, &view, inode, place).await?;
    if let Err(stop) = unchanged(worker, inode, everything).await {
        content::discard(worker, &at).await;
        return Err(stop);
    }
    show(job, entry, &at, place, false).await?;
    if is_doubtful(job) {
        confirm(job, place, staged.id).await?;
    }
    settle(job, inode, entry_of(inode, staged.id), place, staged.found).await
}

/// Whether a call of an earlier attempt may have been carried out though it failed, or was cut off: GlusterFS whose brick had been away has lost files
/// that were moved over what such a call had left.
fn is_doubtful(job: &NameJob<'_>) -> bool {
    job.worker.node.flusher.is_remote() && (job.taken.attempts > 0 || job.had.is_some())
}

/// What was published must be there.
async fn confirm(job: &NameJob<'_>, place: &Place, id: u64) -> FlushResult<()> {
    let at = place.clone();
    let found = job.worker.node.flusher.on_tier(move |tier| tier.look(&at)).await?;
    if found.is_some_and(|found| found.id == id) {
        return Ok(());
    }
    let what = if found.is_some() { "something else is" } else { "nothing is" };
    Err(Stop::Failed(format!("{what} under the name though the shared tier has taken the copy")))
}

/// Whether what was copied is still what the inode holds. With `everything` a file that is being written goes as it is: each
/// later version is noted, and follows.
async fn unchanged(worker: &Rc<Worker>, inode: &InodeRecord, everything: bool) -> FlushResult<()> {
    let after = remote::inode(worker, inode.attr.ino).await?;
    let Some(now) = after.inode.filter(|now| now.attr.nlink > 0) else { return Err(CHANGED) };
    if everything {
        return Ok(());
    }
    if after.writing {
        return Err(Stop::Open);
    }
    if now.attr.version == inode.attr.version { Ok(()) } else { Err(CHANGED) }
}

/// Moves what was staged to its place. `is_link`: it may be there already, under another name.
async fn show(
    job: &NameJob<'_>,
    entry: &EntryRecord,
    staged: &Place,
    place: &Place,
    is_link: bool,
) -> FlushResult<()> {
    let worker = job.worker;
    if let Err(stop) = job.intend(entry) {
        content::discard(worker, staged).await;
        return Err(stop);
    }
    let (from, to) = (staged.clone(), place.clone());
    let rename =
        move |tier: &dyn Tier| if is_link { rename_link(tier, &from, &to) } else { tier.rename(&from, &to) };
    match worker.node.flusher.on_tier(rename).await {
        Ok(()) => job.touch_parent().await,
        Err(TierError::Occupied(_)) => {
            content::discard(worker, staged).await;
            clear_foreign(job, place).await?;
            Err(Stop::Wait("an empty directory was in the way"))
        }
        Err(error) => {
            content::discard(worker, staged).await;
            Err(error.into())
        }
    }
}

/// A rename between two links of one object does nothing and keeps both: the staged one is removed then.
fn rename_link(tier: &dyn Tier, from: &Place, to: &Place) -> TierResult<()> {
    tier.rename(from, to)?;
    match tier.remove(from, false) {
        Ok(()) | Err(TierError::Missing(_)) => Ok(()),
        Err(error) => Err(error),
    }
}

fn entry_of(inode: &InodeRecord, tier_ino: u64) -> TierEntry {
    let attr = &inode.attr;
    TierEntry { ino: attr.ino, kind: attr.kind, version: attr.version, ctime: attr.ctime, tier_ino }
}

/// Tells the home which copy is under the name. If the home knows another copy of this version under another name of the inode, that
/// one stays, and this name has to become a link of it. `inode` is as it was when it was copied; `found` is the copy, if that is known.
async fn settle(
    job: &NameJob<'_>,
    inode: &InodeRecord,
    now: TierEntry,
    place: &Place,
    found: Option<Found>,
) -> FlushResult<TierEntry> {
    let seen = seen(job.worker, inode, now.tier_ino, place, found).await;
    let here = TierLocation {
        parent: job.parent,
        name: job.name.clone(),
        version: now.version,
        ctime: now.ctime,
        tier_ino: now.tier_ino,
    };
    let view = remote::publish(job.worker, now.ino, here, inode.attr.size, seen).await?;
    let known = view.inode.and_then(|inode| inode.tier);
    if known.is_none_or(|known| known.tier_ino == now.tier_ino || known.version > now.version) {
        return Ok(now);
    }
    job.remember(&now)?;
    Err(Stop::Wait("another name of the file was published first; this one becomes a link of it"))
}

/// The copy of a file as the tier has it, to be recognised when it is read again. If others have put something in its place already, or it cannot be
/// looked at now, it is told as it was made: a difference is found out by whoever opens the file.
async fn seen(
    worker: &Rc<Worker>,
    inode: &InodeRecord,
    id: u64,
    place: &Place,
    found: Option<Found>,
) -> Option<Backing> {
    let (attr, flusher) = (&inode.attr, &worker.node.flusher);
    if attr.kind != FileKind::File {
        return None;
    }
    let found = if found.is_some() {
        found
    } else {
        let place = place.clone();
        flusher.on_tier(move |tier| tier.look(&place)).await.ok().flatten()
    };
    let made = Found { id, is_dir: false, size: attr.size, mtime: attr.mtime };
    Some(home::backing_of(&found.filter(|found| found.id == id).unwrap_or(made)))
}
