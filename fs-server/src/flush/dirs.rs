//! Handles of directories in the tier, by inode number.
//!
//! A handle is found by going from the tier's root down, each step to where the home of the next directory says that it lies, checked
//! by the tier's own number. It is right from then on, wherever the directory moves, or it fails and is found again: nothing has to
//! be told to other servers when directories move.
//!
//! # Invariants
//! - A handle belongs to the directory that its inode number names: opened under the name and number that its home told
//!   (`tests/flush`, `what_moves_while_it_is_flushed_ends_where_it_belongs`).
//! - Bounded: [`LIMIT`] handles are kept, each an open descriptor.

use std::rc::Rc;

use fs_proto::InodeId;
use fs_proto::record::TierLocation;
use parking_lot::Mutex;

use super::outcome::{FlushResult, Stop};
use super::{aside, old, remote};
use crate::hash::{Cache, cache};
use crate::namespace::DEPTH_MAX;
use crate::tier::{Base, Dir, Place, TierError};
use crate::worker::Worker;

/// Handles that are kept.
pub const LIMIT: usize = 512;

const MOVING: Stop = Stop::Wait(
    "a directory above it is not where it was published: it is being moved, or was removed from outside",
);

/// The handles.
pub struct Dirs {
    open: Cache<InodeId, Dir>,
    /// This server's staging.
    staging: Mutex<Option<Dir>>,
}

impl Default for Dirs {
    fn default() -> Self {
        Dirs { open: cache(LIMIT), staging: Mutex::default() }
    }
}

impl Dirs {
    /// Forgets one: it is gone.
    pub fn forget(&self, dir: InodeId) {
        self.open.remove(&dir);
    }

    /// Forgets all: the tier may have been mounted again.
    pub fn clear(&self) {
        self.open.clear();
        self.forget_staging();
    }

    /// Forgets staging: it is about to be removed.
    pub fn forget_staging(&self) {
        *self.staging.lock() = None;
    }
}

/// This server's staging, made on need.
pub async fn staging(worker: &Rc<Worker>) -> FlushResult<Dir> {
    let (flusher, me) = (&worker.node.flusher, worker.node.id());
    let known = flusher.dirs().staging.lock().clone();
    if let Some(known) = known {
        return Ok(known);
    }
    let made = flusher.on_tier(move |tier| tier.base(Base::Staging(me))).await?;
    *flusher.dirs().staging.lock() = Some(made.clone());
    Ok(made)
}

/// The handle of a directory; None if it is not in the tier (yet, or any more).
pub async fn handle(worker: &Rc<Worker>, dir: InodeId) -> FlushResult<Option<Dir>> {
    let flusher = &worker.node.flusher;
    let mut below: Vec<(InodeId, TierLocation)> = Vec::new();
    let mut at = dir;
    let mut found = loop {
        if let Some(open) = flusher.dirs().open.get(&at) {
            break open;
        }
        if at == InodeId::ROOT {
            break flusher.on_tier(|tier| tier.base(Base::Root)).await?;
        }
        if at == old::PARENT {
            break match flusher.old_root().await {
                Err(TierError::Missing(_)) => return Err(Stop::Wait("there is no old tier any more")),
                found => found?,
            };
        }
        if let Some(server) = aside::server(at) {
            if server == worker.node.id() {
                flusher.note_staging_used();
            }
            break match flusher.on_tier(move |tier| tier.base(Base::Staging(server))).await {
                // Another server's, and gone: nothing lies there any more.
                Err(TierError::Missing(_)) => return Err(MOVING),
                found => found?,
            };
        }
        let Some(location) = remote::place(worker, at).await? else { return Ok(None) };
        let parent = location.parent;
        below.push((at, location));
        at = parent;
        if below.len() > DEPTH_MAX {
            return Err(Stop::Wait("directories above it are being moved"));
        }
    };
    for (ino, location) in below.into_iter().rev() {
        let parent = location.parent;
        // A tier's handles may be paths, which are wrong once the directory moved.
        found = open(worker, &found, location).await.inspect_err(|_| flusher.dirs().forget(parent))?;
        flusher.dirs().open.insert(ino, found.clone());
    }
    Ok(Some(found))
}

/// Something in a directory fails again and again: if the directory, or one above it, is not where it was published, has the owner of that name look. Handles
/// of what was removed from outside stay open, and everything fails through them, so each is found anew; but not those of directories that the namespace
/// has no more, which could not be.
pub async fn doubt(worker: &Rc<Worker>, dir: InodeId) -> FlushResult<()> {
    let above = places(worker, dir).await?;
    for (dir, _) in &above {
        if remote::inode(worker, *dir).await?.inode.is_none() {
            return Ok(());
        }
    }
    for (dir, _) in &above {
        worker.node.flusher.dirs().forget(*dir);
    }
    match lost(worker, dir).await?.pop() {
        Some((_, at)) => remote::note_name(worker, at.parent, &at.name, false).await,
        None => Ok(()),
    }
}

/// The directories from this one up to the one that is not where it was published; none if all above are.
pub async fn lost(worker: &Rc<Worker>, dir: InodeId) -> FlushResult<Vec<(InodeId, TierLocation)>> {
    let mut above = places(worker, dir).await?;
    for at in (0..above.len()).rev() {
        match handle(worker, above[at].0).await {
            Ok(_) => {}
            Err(Stop::Wait(_)) => {
                above.truncate(at + 1);
                return Ok(above);
            }
            Err(stop) => return Err(stop),
        }
    }
    Ok(Vec::new())
}

/// A directory and those above it, with their places in the tier as their homes know them, as far as there are any.
async fn places(worker: &Rc<Worker>, dir: InodeId) -> FlushResult<Vec<(InodeId, TierLocation)>> {
    let (mut at, mut above) = (dir, Vec::new());
    while at != InodeId::ROOT && at != old::PARENT && aside::server(at).is_none() && above.len() < DEPTH_MAX {
        let Some(location) = remote::place(worker, at).await? else { break };
        let parent = location.parent;
        above.push((at, location));
        at = parent;
    }
    Ok(above)
}

async fn open(worker: &Rc<Worker>, parent: &Dir, location: TierLocation) -> FlushResult<Dir> {
    let place = Place::new(parent, &location.name);
    match worker.node.flusher.on_tier(move |tier| tier.open_dir(&place)).await {
        Ok(dir) if dir.id == location.tier_ino => Ok(dir),
        Ok(_) | Err(TierError::Missing(_) | TierError::Occupied(_)) => Err(MOVING),
        Err(error) => Err(error.into()),
    }
}
