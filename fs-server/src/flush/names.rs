//! Bringing one name of the shared tier in line with the namespace. Only the server that owns the name does it, one attempt at a
//! time, so nobody else creates, replaces or removes what is under it.
//!
//! # Invariants
//! - The name's record ('t') is written before anything appears under the name in the tier, and deleted after it went: whatever a
//!   crash leaves in the tier is known (`tests/flush`, `a_restart_in_the_middle_finishes`).
//! - A directory is removed from the tier only empty, and only after the namespace removed it; one that moved away is moved.
//! - What appears under a name was whole before (`tests/flush`, `readers_of_the_tier_see_whole_files`).
//! - A name whose directory is gone on both sides waits for nothing (`tests/flush`, `what_was_removed_untold_is_not_waited_for`).

use std::rc::Rc;

use bytes::Bytes;
use fs_proto::msg::tier::FlushNote;
use fs_proto::record::{EntryRecord, TierLocation};
use fs_proto::{FileKind, InodeId};

use super::entry::TierEntry;
use super::outcome::{FlushResult, Stop};
use super::queue::Taken;
use super::{WAIT_LIMIT, aside, dirs, leaf, remote};
use crate::kv::Batch;
use crate::namespace::{encode_record, keys};
use crate::tier::is_staging_name;
use crate::tier::{Dir, Make, Place, TierError};
use crate::worker::Worker;

/// A name that is being flushed.
pub struct NameJob<'a> {
    /// The flusher's worker.
    pub worker: &'a Rc<Worker>,
    /// The queue's item.
    pub taken: &'a Taken,
    /// Directory of the name.
    pub parent: InodeId,
    /// The name.
    pub name: &'a Bytes,
    /// What the tier has under it.
    pub had: Option<TierEntry>,
}

impl NameJob<'_> {
    /// The name's place in the tier; waits while its directory is not there.
    pub async fn place(&self) -> FlushResult<Place> {
        match dirs::handle(self.worker, self.parent).await? {
            Some(dir) => Ok(Place::new(&dir, self.name)),
            None => Err(Stop::Wait("its directory is not in the shared tier yet")),
        }
    }

    /// Whether a location in the tier is this name.
    pub fn is_here(&self, location: &TierLocation) -> bool {
        location.parent == self.parent && location.name == *self.name
    }

    /// Writes down that something of ours may be under the name from now on. Of a directory that was here before, too: it lies elsewhere,
    /// and only a part of it may come.
    pub fn intend(&self, entry: &EntryRecord) -> FlushResult<()> {
        let is_known = |had: &TierEntry| {
            had.ino == entry.ino && (entry.kind != FileKind::Directory || !had.is_settled())
        };
        if self.had.as_ref().is_some_and(is_known) {
            return Ok(());
        }
        let mut batch = Batch::default();
        batch.put(self.key(), encode_record(&TierEntry::intended(entry)));
        Ok(self.worker.node.namespace.kv().commit(batch)?)
    }

    /// Writes down what is under the name now; the item itself may need another attempt.
    pub fn remember(&self, entry: &TierEntry) -> FlushResult<()> {
        let mut batch = Batch::default();
        batch.put(self.key(), encode_record(entry));
        Ok(self.worker.node.namespace.kv().commit(batch)?)
    }

    /// An entry of the directory appeared or went in the tier.
    pub async fn touch_parent(&self) -> FlushResult<()> {
        remote::touch(self.worker, self.parent).await
    }

    fn key(&self) -> keys::Key {
        keys::tier_entry(self.parent, self.name)
    }

    fn with(&self, entry: Option<TierEntry>) -> Batch {
        let mut batch = Batch::default();
        match entry {
            Some(entry) if self.had.as_ref() == Some(&entry) => {}
            Some(entry) => batch.put(self.key(), encode_record(&entry)),
            None => batch.delete(self.key()),
        }
        batch
    }
}

/// Flushes a name; returns what to remember when it is taken off the queue.
pub async fn flush(worker: &Rc<Worker>, taken: &Taken, parent: InodeId, name: &Bytes) -> FlushResult<Batch> {
    let node = &worker.node;
    let entry = remote::entry_now(node, parent, name).await?;
    let had: Option<TierEntry> = node.namespace.record(&keys::tier_entry(parent, name))?;
    let mut job = NameJob { worker, taken, parent, name, had };
    let owner = remote::owner_of_own_name(node, parent, name)?;
    if owner != node.id() {
        let had = job.had.as_ref().map(|had| EntryRecord { ino: had.ino, kind: had.kind });
        remote::hand(
            worker,
            owner,
            FlushNote { ino: parent, name: Some(name.clone()), had, forced: taken.forced, open: taken.open },
        )
        .await?;
        return Ok(job.with(None));
    }
    if parent == InodeId::ROOT && is_staging_name(name, &node.config.job) {
        return Err(Stop::Refused(
            "this name is taken by the flusher's own directory in the shared tier; rename it".to_owned(),
        ));
    }
    clear(&mut job, entry.as_ref()).await?;
    match entry {
        None => Ok(job.with(None)),
        Some(entry) if entry.kind == FileKind::Directory => {
            directory(&job, &entry).await.map(|now| job.with(Some(now)))
        }
        Some(entry) => leaf::publish(&job, &entry).await.map(|now| job.with(Some(now))),
    }
}

/// Takes away what the tier has under the name, as far as it must go before `wanted` comes.
async fn clear(job: &mut NameJob<'_>, wanted: Option<&EntryRecord>) -> FlushResult<()> {
    let Some(had) = job.had.clone() else { return Ok(()) };
    if wanted.is_some_and(|wanted| wanted.ino == had.ino) {
        return Ok(());
    }
    if had.kind == FileKind::Directory {
        clear_directory(job, &had, wanted).await?;
    } else if wanted.is_none_or(|wanted| wanted.kind == FileKind::Directory) {
        clear_leaf(job, &had).await?;
    } else {
        // Replaced by a rename.
        return detach(job, &had).await;
    }
    job.had = None;
    let mut batch = Batch::default();
    batch.delete(job.key());
    job.worker.node.namespace.kv().commit(batch)?;
    Ok(())
}

async fn clear_leaf(job: &NameJob<'_>, had: &TierEntry) -> FlushResult<()> {
    if job.taken.is_early() {
        let inode = remote::inode(job.worker, had.ino).await?.inode;
        let moved = inode.filter(|inode| inode.attr.nlink > 0).and_then(|inode| inode.tier);
        if moved.is_some_and(|location| job.is_here(&location)) {
            return Err(Stop::Wait("its new name takes the copy over"));
        }
    }
    detach(job, had).await?;
    remove(job, false).await.map(drop)
}

/// The copy of a file is about to go, unless another name has taken it over: what is read of it yet is fetched.
async fn detach(job: &NameJob<'_>, had: &TierEntry) -> FlushResult<()> {
    if had.kind != FileKind::File {
        return Ok(());
    }
    remote::detach(job.worker, had.ino, job.parent, job.name).await
}

/// Removes what is under the name; false if it was gone already, or its directory was.
async fn remove(job: &NameJob<'_>, is_dir: bool) -> FlushResult<bool> {
    let Some(dir) = dir_to_clear(job).await? else { return Ok(false) };
    let place = Place::new(&dir, job.name);
    match job.worker.node.flusher.on_tier(move |tier| tier.remove(&place, is_dir)).await {
        Ok(()) => job.touch_parent().await.map(|()| true),
        // Perhaps removed before a crash, by us: the directory's times have to be set again in any case.
        Err(TierError::Missing(_)) => job.touch_parent().await.map(|()| false),
        Err(TierError::Occupied(_)) if is_dir => {
            Err(Stop::Wait("the directory is not empty in the shared tier yet"))
        }
        Err(error) => Err(error.into()),
    }
}

/// The name's directory, as far as something has to be taken away there; None if that is gone.
async fn dir_to_clear(job: &NameJob<'_>) -> FlushResult<Option<Dir>> {
    match dirs::handle(job.worker, job.parent).await {
        Err(Stop::Wait(_)) if went_with_its_directory(job).await? => Ok(None),
        found => found,
    }
}

/// Whether the name's directory, which the namespace has no more, is gone from the tier, too, or one above it for which that holds. Its home may not know: a call that failed, or a server that
/// ended, after it was removed. Not said at once: who moves a directory in the tier tells its home afterwards.
async fn went_with_its_directory(job: &NameJob<'_>) -> FlushResult<bool> {
    if job.taken.tried.elapsed() < WAIT_LIMIT {
        return Ok(false);
    }
    let lost = dirs::lost(job.worker, job.parent).await?;
    for (dir, _) in &lost {
        if remote::inode(job.worker, *dir).await?.inode.is_some() {
            return Ok(false);
        }
    }
    Ok(!lost.is_empty())
}

async fn clear_directory(
    job: &NameJob<'_>,
    had: &TierEntry,
    wanted: Option<&EntryRecord>,
) -> FlushResult<()> {
    let worker = job.worker;
    let inode = remote::inode(worker, had.ino).await?.inode;
    let location = match &inode {
        Some(inode) => inode.tier.clone(),
        None => remote::place(worker, had.ino).await?,
    };
    let Some(location) = location.filter(|location| job.is_here(location) || !had.is_settled()) else {
        // It lies elsewhere by now. One that never came may have been made and not told: then it is empty.
        return if had.is_settled() { job.touch_parent().await } else { remove(job, true).await.map(drop) };
    };
    if !job.is_here(&location) {
        return untold(job, had, location).await;
    }
    if inode.is_none() {
        // If it is not here, somebody may be about to tell where it is: that is not forgotten.
        if remove(job, true).await? {
            remote::forget(worker, had.ino).await?;
        }
        worker.node.flusher.dirs().forget(had.ino);
        return Ok(());
    }
    if wanted.is_none() || job.taken.is_early() {
        return Err(Stop::Wait("the directory moves; its new name takes it over"));
    }
    make_way(job, had.ino, location).await
}

/// Something was begun under the name with a directory that lies elsewhere as far as its home knows: if it was moved here and that was
/// not told, tells it; else what is here is an empty one that was made in vain.
async fn untold(job: &NameJob<'_>, had: &TierEntry, location: TierLocation) -> FlushResult<()> {
    let Some(dir) = dir_to_clear(job).await? else { return Ok(()) };
    let place = Place::new(&dir, job.name);
    let found = job.worker.node.flusher.on_tier(move |tier| {
        tier.undo_move(&place)?;
        tier.look(&place)
    });
    let found = found.await?;
    if found.is_none_or(|found| found.id != location.tier_ino) {
        return remove(job, true).await.map(drop);
    }
    let here = TierLocation { parent: job.parent, name: job.name.clone(), ..location };
    let told = remote::state(job.worker, had.ino, Some(here)).await?;
    if let Some(inode) = told.inode {
        // It may have been in place when it was looked at.
        remote::note_name(job.worker, inode.attr.parent, &inode.name, job.taken.forced).await?;
    }
    Err(Stop::Wait("the directory moves; its new name takes it over"))
}

/// Moves a directory into staging whose own new name cannot take it over yet, because that name waits for this one.
async fn make_way(job: &NameJob<'_>, dir: InodeId, location: TierLocation) -> FlushResult<()> {
    let me = job.worker.node.id();
    let aside = TierLocation { parent: aside::number(me), name: aside::name(dir), ..location.clone() };
    if !move_directory(job.worker, &location, &aside).await? {
        return Err(Stop::Wait("the directory moves; its new name takes it over"));
    }
    remote::state(job.worker, dir, Some(aside)).await?;
    job.touch_parent().await
}

/// Moves a directory in the tier from `from` to `to`; false if it is at neither place.
async fn move_directory(worker: &Rc<Worker>, from: &TierLocation, to: &TierLocation) -> FlushResult<bool> {
    let (Some(source), Some(target)) =
        (dirs::handle(worker, from.parent).await?, dirs::handle(worker, to.parent).await?)
    else {
        return Err(Stop::Wait("its directory is not in the shared tier yet"));
    };
    let (source, target) = (Place::new(&source, &from.name), Place::new(&target, &to.name));
    let id = from.tier_ino;
    let moved = worker.node.flusher.on_tier(move |tier| tier.move_directory(id, &source, &target));
    match moved.await {
        Err(TierError::Missing(_)) => Ok(false),
        Err(TierError::BelowItself(_)) => Err(Stop::Wait("a directory above its new place moves first")),
        outcome => Ok(outcome?),
    }
}

async fn directory(job: &NameJob<'_>, entry: &EntryRecord) -> FlushResult<TierEntry> {
    let worker = job.worker;
    let inode = remote::inode(worker, entry.ino).await?.inode;
    let Some(inode) = inode else { return Err(Stop::Wait("its inode is being removed")) };
    let settled = |tier_ino| TierEntry { ino: entry.ino, kind: entry.kind, version: 1, ctime: 0, tier_ino };
    let mut known = inode.tier;
    if let Some(location) = known.as_ref().filter(|location| job.is_here(location))
        && is_lost(job, location.tier_ino).await?
    {
        // Its home takes another one only if it knows of none.
        remote::detach(worker, entry.ino, job.parent, job.name).await?;
        worker.node.flusher.dirs().forget(entry.ino);
        known = None;
    }
    match known {
        Some(location) if job.is_here(&location) => {
            if job.had.as_ref().is_none_or(|had| !had.is_settled()) {
                // It was told before a crash, or came with the name from another server.
                job.touch_parent().await?;
            }
            Ok(settled(location.tier_ino))
        }
        Some(location) => {
            // Its place is looked for first: without it nothing is written down.
            job.place().await?;
            job.intend(entry)?;
            let here = TierLocation { parent: job.parent, name: job.name.clone(), ..location.clone() };
            if !move_directory(worker, &location, &here).await? {
                return Err(Stop::Wait(
                    "the directory is not where it was published: it is being moved, or was removed from outside",
                ));
            }
            tell(worker, entry.ino, here).await?;
            // The owner of the old name sees to the old parent.
            job.touch_parent().await?;
            Ok(settled(location.tier_ino))
        }
        None => {
            let place = job.place().await?;
            job.intend(entry)?;
            let tier_ino = make_directory(worker, place).await?;
            let here =
                TierLocation { parent: job.parent, name: job.name.clone(), version: 1, ctime: 0, tier_ino };
            tell(worker, entry.ino, here).await?;
            job.touch_parent().await?;
            Ok(settled(tier_ino))
        }
    }
}

/// Whether a directory that was published under the name was removed there from outside. Not said at once: who moves one in the tier tells its home
/// afterwards.
async fn is_lost(job: &NameJob<'_>, tier_ino: u64) -> FlushResult<bool> {
    let place = job.place().await?;
    match job.worker.node.flusher.on_tier(move |tier| tier.open_dir(&place)).await {
        Ok(dir) if dir.id == tier_ino => Ok(false),
        Ok(_) | Err(TierError::Missing(_) | TierError::Occupied(_)) => {
            if job.taken.tried.elapsed() < WAIT_LIMIT {
                // Or this is the handle of one that went from above it.
                job.worker.node.flusher.dirs().forget(job.parent);
                return Err(Stop::Wait("the directory is not where it was published; it is made again soon"));
            }
            Ok(true)
        }
        Err(error) => Err(error.into()),
    }
}

/// Tells a directory's home where it lies. One that was removed meanwhile, or made at another name as well, stays as intended only: the
/// next attempt takes it away.
async fn tell(worker: &Rc<Worker>, dir: InodeId, here: TierLocation) -> FlushResult<()> {
    let inode = remote::state(worker, dir, Some(here.clone())).await?.inode;
    if inode.is_some_and(|inode| inode.tier == Some(here)) {
        Ok(())
    } else {
        Err(Stop::Wait("its inode is being removed, or has its copy elsewhere"))
    }
}

/// Makes a directory, or takes over one that is there; its attributes are set as the directory's own item.
async fn make_directory(worker: &Rc<Worker>, place: Place) -> FlushResult<u64> {
    let made = worker.node.flusher.on_tier(move |tier| match tier.make(&place, &Make::Directory) {
        Err(TierError::Occupied(text)) => match tier.look(&place)? {
            Some(found) if found.is_dir => Ok(found.id),
            Some(_) => {
                tier.remove(&place, false)?;
                tier.make(&place, &Make::Directory)
            }
            None => Err(TierError::Missing(text)),
        },
        outcome => outcome,
    });
    Ok(made.await?)
}

/// What lies in the way of a leaf is a directory: goes if it is empty.
pub async fn clear_foreign(job: &NameJob<'_>, place: &Place) -> FlushResult<()> {
    let doomed = place.clone();
    match job.worker.node.flusher.on_tier(move |tier| tier.remove(&doomed, true)).await {
        Ok(()) | Err(TierError::Missing(_)) => Ok(()),
        Err(TierError::Occupied(_)) => {
            let text =
                "the shared tier has a directory with entries of its own under this name; move it away there";
            Err(Stop::Refused(text.to_owned()))
        }
        Err(error) => Err(error.into()),
    }
}

/// The directory of a location as a handle.
pub async fn source(worker: &Rc<Worker>, location: &TierLocation) -> FlushResult<Option<Dir>> {
    match dirs::handle(worker, location.parent).await {
        // Nothing to take over then.
        Err(Stop::Wait(_)) => Ok(None),
        outcome => outcome,
    }
}
