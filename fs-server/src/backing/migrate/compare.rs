//! Reading both copies of a file: what the old tier has, and what the shared tier got of it.

use std::ops::Range;
use std::rc::Rc;
use std::sync::atomic::Ordering;

use fs_proto::Status;
use fs_proto::msg::tier::TierSource;
use fs_proto::record::{InodeRecord, TierLocation};

use crate::error::{OpError, OpResult};
use crate::flush::{dirs, old};
use crate::tier::{Found, Place, Tier, TierError, TierResult};
use crate::worker::Worker;

/// Bytes that are compared at once, and on one turn of a thread.
const PIECE: usize = 1 << 20;
const STEP: u64 = 32 << 20;

/// What became of a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compared {
    /// It is what the old tier has.
    Same,
    /// The old tier has other bytes, or another file; or the shared tier has nothing.
    Differs,
    /// The old tier has no file there any more.
    Gone,
    /// The shared tier has another: it is being replaced or moved, or others did.
    Moved,
}

/// Compares the copy at `at` in the shared tier with what it was made from.
pub async fn copies(
    worker: &Rc<Worker>,
    inode: &InodeRecord,
    at: &TierLocation,
    source: &TierSource,
) -> OpResult<Compared> {
    let node = &worker.node;
    let handle = async |dir| {
        let handle = dirs::handle(worker, dir).await;
        handle.map_err(|stop| stop.refusal("its directory is busy"))
    };
    let Some(old) = handle(old::PARENT).await? else { return Ok(Compared::Moved) };
    let Some(new) = handle(at.parent).await? else { return Ok(Compared::Moved) };
    let backing = source.backing;
    let was = Found { id: source.at.tier_ino, is_dir: false, size: backing.size, mtime: backing.mtime };
    let made = match inode.backed {
        Some(seen) => Found { id: at.tier_ino, is_dir: false, size: seen.size, mtime: seen.mtime },
        None => return Ok(Compared::Moved),
    };
    let pair =
        Pair { old: (Place::new(&old, &source.at.name), was), new: (Place::new(&new, &at.name), made) };
    let mut offset = 0;
    loop {
        let end = was.size.min(offset + STEP);
        let (pair, range) = (pair.clone(), offset..end);
        let compared = node.flusher.on_reader(move |tier| pair.compare(tier, range)).await;
        let compared = compared.map_err(|error| OpError::because(Status::TierFailed, error.to_string()))?;
        node.backing.migration.compared_bytes.fetch_add(end - offset, Ordering::AcqRel);
        offset = end;
        if compared != Compared::Same || offset >= was.size || node.is_stopping() {
            return Ok(if node.is_stopping() { Compared::Moved } else { compared });
        }
    }
}

/// Where the copies lie, and what they were when the one was made from the other.
#[derive(Clone)]
struct Pair {
    old: (Place, Found),
    new: (Place, Found),
}

impl Pair {
    /// Runs where blocking is allowed.
    fn compare(&self, tier: &dyn Tier, range: Range<u64>) -> TierResult<Compared> {
        let ((old, was), (new, made)) = (&self.old, &self.new);
        match tier.look(old)? {
            None => return Ok(Compared::Gone),
            Some(found) if found.is_dir => return Ok(Compared::Gone),
            Some(found) if found != *was => return Ok(Compared::Differs),
            Some(_) => {}
        }
        match tier.look(new)? {
            None => return Ok(Compared::Differs),
            Some(found) if found != *made => return Ok(Compared::Moved),
            Some(found) if found.size != was.size => return Ok(Compared::Differs),
            Some(_) => {}
        }
        self.same_bytes(tier, range)
    }

    fn same_bytes(&self, tier: &dyn Tier, range: Range<u64>) -> TierResult<Compared> {
        let (mut here, mut there) = (vec![0; PIECE], vec![0; PIECE]);
        let mut offset = range.start;
        while offset < range.end {
            let len = (range.end - offset).min(PIECE as u64) as usize;
            match tier.read(&self.old.0, &self.old.1, offset, &mut there[..len]) {
                Err(TierError::Missing(_)) => return Ok(Compared::Differs),
                outcome => outcome?,
            }
            match tier.read(&self.new.0, &self.new.1, offset, &mut here[..len]) {
                Err(TierError::Missing(_)) => return Ok(Compared::Moved),
                outcome => outcome?,
            }
            if here[..len] != there[..len] {
                return Ok(Compared::Differs);
            }
            offset += len as u64;
        }
        Ok(Compared::Same)
    }
}
