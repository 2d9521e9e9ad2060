//! What the home of a file knows of the copy that its chunks are fetched from, and the rule by which changes that others make there are noticed:
//! a file without changes of its own is compared with its copy when it is opened and the last look is older than `--tier-check`.
//!
//! # Invariants
//! - Content of another copy is taken over only after what is held of the old one is gone at all holders: a crash in between leaves the home with what
//!   it knew, and the next look finds the difference again (`tests/flush`: `a_copy_that_others_change_is_noticed`).
//! - A file with changes of its own is never replaced by what others put in its place (`changes_of_our_own_are_not_replaced`).

use std::rc::Rc;
use std::time::{Duration, Instant};

use fs_proto::msg::tier::{DetachFile, EvictChunks, FetchShare, TierSource};
use fs_proto::record::{Backing, InodeRecord, Mutation, TierLocation};
use fs_proto::{ChunkIndex, FileKind, InodeId, Status};

use crate::error::{OpError, OpResult};
use crate::flush::dirs;
use crate::hash::{Cache, cache};
use crate::namespace::locks::{HoldGuard, LockKey, LockSet, Mode};
use crate::node::Node;
use crate::ops::ask_all;
use crate::ops::setattr::holders;
use crate::tier::{Found, Place};
use crate::worker::Worker;

/// Looks that are remembered.
const LOOKS: usize = 64 << 10;

/// How long a tier that hangs is waited for with a look. What hangs keeps its thread.
const LOOK: Duration = Duration::from_secs(1);

const CHANGING: OpError =
    OpError::new(Status::Retry, "the file is being changed in the shared tier by others");

/// When copies were looked at.
pub struct Looks {
    last: Cache<InodeId, Instant>,
}

impl Default for Looks {
    fn default() -> Self {
        Looks { last: cache(LOOKS) }
    }
}

impl Looks {
    /// The copy was just seen.
    pub(super) fn note(&self, ino: InodeId) {
        self.last.insert(ino, Instant::now());
    }

    fn forget(&self, ino: InodeId) {
        self.last.remove(&ino);
    }

    /// Whether a look is due; then it counts as done.
    fn is_due(&self, ino: InodeId, every: Duration) -> bool {
        let due = self.last.get(&ino).is_none_or(|last| last.elapsed() >= every);
        if due {
            self.last.insert(ino, Instant::now());
        }
        due
    }
}

/// What chunks are fetched from, as the inode says.
pub fn source_of(inode: &InodeRecord) -> Option<TierSource> {
    if inode.attr.kind != FileKind::File {
        return None;
    }
    let (at, backing) = (inode.tier.clone()?, inode.backed?);
    Some(TierSource { at, backing, layout: inode.attr.layout })
}

/// What chunks are fetched from if all of them may lie in what was found.
pub fn backing_of(found: &Found) -> Backing {
    Backing { size: found.size, mtime: found.mtime, limit: found.size }
}

/// Whether the file is what its copy is, and stays so.
pub fn is_clean(node: &Node, inode: &InodeRecord) -> bool {
    let attr = &inode.attr;
    attr.nlink > 0 && is_current(inode) && node.opens.writers(attr.ino).is_empty()
}

/// Whether the copy is of the file as it was published last.
pub fn is_current(inode: &InodeRecord) -> bool {
    let attr = &inode.attr;
    inode.tier.as_ref().is_some_and(|at| at.version == attr.version && at.ctime == attr.ctime)
}

/// Whether what was found is the copy at `at`, of `size` bytes.
pub fn is_copy(found: &Found, at: &TierLocation, size: u64) -> bool {
    !found.is_dir && found.id == at.tier_ino && found.size == size
}

fn is_same(found: &Found, source: &TierSource) -> bool {
    !found.is_dir && found.id == source.at.tier_ino && is_as_seen(found, &source.backing)
}

/// Whether what was found has the size and the time of a copy as it was seen.
pub fn is_as_seen(found: &Found, seen: &Backing) -> bool {
    found.size == seen.size && found.mtime == seen.mtime
}

/// What lies where the copy should; None if that cannot be found out soon: inodes are held meanwhile, and files are being opened.
pub async fn look(worker: &Rc<Worker>, at: &TierLocation) -> Option<Option<Found>> {
    let looked = async {
        let dir = dirs::handle(worker, at.parent).await.ok().flatten()?;
        let place = Place::new(&dir, &at.name);
        worker.node.flusher.on_reader(move |tier| tier.look(&place)).await.ok()
    };
    tokio::time::timeout(LOOK, looked).await.ok().flatten()
}

/// Answers a holder. Never waits for who holds the inode: that may be waiting for the holder.
pub async fn find(worker: &Rc<Worker>, ino: InodeId, has_to_look: bool) -> OpResult<Option<TierSource>> {
    let node = &worker.node;
    let Some(inode) = node.namespace.inode(ino)? else { return Ok(None) };
    let Some(source) = source_of(&inode) else { return Ok(None) };
    if has_to_look
        && let Some(Some(found)) = look(worker, &source.at).await
        && !is_same(&found, &source)
        && is_clean(node, &inode)
    {
        node.errands.send(move |own: Rc<Worker>| async move {
            if let Err(error) = take_over(&own, ino).await {
                tracing::debug!(?ino, message = %error.message, "what others changed is taken over later");
            }
        });
        return Err(CHANGING);
    }
    Ok(Some(source))
}

/// The file is being opened: has a look whether others changed its copy. A tier that does not answer changes nothing.
pub async fn check(worker: &Rc<Worker>, ino: InodeId) -> OpResult<()> {
    let node = &worker.node;
    let Some(inode) = node.namespace.inode(ino)? else { return Ok(()) };
    let Some(source) = source_of(&inode).filter(|_| is_clean(node, &inode)) else { return Ok(()) };
    if !node.backing.looks.is_due(ino, Duration::from_millis(node.config.tier_check_ms)) {
        return Ok(());
    }
    match look(worker, &source.at).await {
        Some(Some(found)) if !is_same(&found, &source) => {
            // Until that is done, each opening looks again.
            take_over(worker, ino).await.inspect_err(|_| node.backing.looks.forget(ino))
        }
        _ => Ok(()),
    }
}

/// Takes over another copy in the place of the one that the file was.
async fn take_over(worker: &Rc<Worker>, ino: InodeId) -> OpResult<()> {
    let node = &worker.node;
    let namespace = &node.namespace;
    let set = LockSet::of(&[(LockKey::Inode(ino), Mode::Exclusive)]);
    let hold = namespace.locks().hold(set).await;
    let Some(inode) = namespace.inode_in_section(ino)?.filter(|inode| is_clean(node, inode)) else {
        return Ok(());
    };
    let Some(old) = source_of(&inode) else { return Ok(()) };
    let Some(Some(found)) = look(worker, &old.at).await else { return Ok(()) };
    if is_same(&found, &old) || found.is_dir {
        return Ok(());
    }
    let at = old.at.clone();
    replace(worker, (hold, &inode), old, (at, found)).await?;
    tracing::info!(?ino, "others changed the file in the shared tier");
    Ok(())
}

/// A migration found that the copy at `copied` in the shared tier is not what the old tier has at `from`: takes over that, to be copied again. False if
/// the file was changed meanwhile.
pub async fn take_over_from(
    worker: &Rc<Worker>,
    ino: InodeId,
    copied: &TierLocation,
    from: &TierLocation,
) -> OpResult<bool> {
    let node = &worker.node;
    let namespace = &node.namespace;
    let set = LockSet::of(&[(LockKey::Inode(ino), Mode::Exclusive)]);
    let hold = namespace.locks().hold(set).await;
    let Some(inode) = namespace.inode_in_section(ino)?.filter(|inode| is_clean(node, inode)) else {
        return Ok(false);
    };
    let Some(old) = source_of(&inode).filter(|old| old.at == *copied) else { return Ok(false) };
    let Some(Some(found)) = look(worker, from).await.filter(|found| found.is_none_or(|found| !found.is_dir))
    else {
        return Ok(false);
    };
    // It may be there yet, and must not be fetched from any more.
    let old = TierSource { at: TierLocation { tier_ino: 0, ..old.at }, ..old };
    replace(worker, (hold, &inode), old, (from.clone(), found)).await?;
    Ok(true)
}

/// Makes what was found in a tier the content of a file in the place of `old`, whose chunks are dropped.
async fn replace(
    worker: &Rc<Worker>,
    (hold, inode): (HoldGuard, &InodeRecord),
    old: TierSource,
    (at, found): (TierLocation, Found),
) -> OpResult<()> {
    let (node, ino) = (&worker.node, inode.attr.ino);
    let mut changed = inode.clone();
    let attr = &mut changed.attr;
    let chunks = attr.size.max(found.size).div_ceil(attr.layout.chunk_bytes());
    let who = holders(node, attr, ChunkIndex(0), ChunkIndex(chunks));
    (attr.size, attr.mtime, attr.ctime) = (found.size, found.mtime, node.now());
    attr.version += 1;
    attr.capable = false;
    changed.cut_version = attr.version;
    let (version, ctime) = (attr.version, attr.ctime);
    let backing = backing_of(&found);
    let at = TierLocation { version, ctime, tier_ino: found.id, ..at };
    // The old one, which is not there any more: what is dropped can be fetched from nowhere until the commit, also should that not be reached, and
    // holders learn the new one when they look. All of both, or what the new one has more would be a hole.
    let limit = old.backing.limit.max(found.size);
    let gone = TierSource { backing: Backing { limit, ..old.backing }, ..old };
    let dropped = ask_all(worker, &who, &EvictChunks { files: vec![(ino, gone)], must: true }).await;
    dropped.map_err(|error| if error.status == Status::Busy { CHANGING } else { error })?;
    (changed.tier, changed.backed) = (Some(at), Some(backing));
    let commit = || node.namespace.commit(&[Mutation::PutInode { inode: changed }]);
    node.namespace.locks().with_held(hold.set(), commit)
}

/// The copy is about to go from its place: everything of it that may be read yet is fetched first. A directory was lost there.
pub async fn detach(worker: &Rc<Worker>, request: DetachFile) -> OpResult<()> {
    let (node, ino) = (&worker.node, request.ino);
    let Some(inode) = node.namespace.inode(ino)? else { return Ok(()) };
    let is_from = |at: &&TierLocation| at.parent == request.parent && at.name == request.name;
    let Some(at) = inode.tier.as_ref().filter(is_from) else { return Ok(()) };
    let change = if inode.attr.is_dir() {
        Mutation::SetTier { ino, tier: None }
    } else {
        let Some(source) = source_of(&inode) else { return Ok(()) };
        // After a restart those who have it open are known within a lease.
        let lease = node.opened.lease();
        let is_known = !node.namespace.allocator().is_restart() || node.started.elapsed() > lease;
        if inode.attr.nlink == 0 && is_known && !node.opens.is_open(ino) {
            return Ok(());
        }
        let chunks = source.backing.limit.div_ceil(source.layout.chunk_bytes());
        let who = holders(node, &inode.attr, ChunkIndex(0), ChunkIndex(chunks));
        ask_all(worker, &who, &FetchShare { ino }).await?;
        Mutation::SetBacked { ino, backed: None }
    };
    let set = LockSet::of(&[(LockKey::Inode(ino), Mode::Exclusive)]);
    let commit = || {
        // Another name may have taken it over meanwhile.
        let now = node.namespace.inode_in_section(ino)?;
        let same = |now: &TierLocation| now.tier_ino == at.tier_ino && is_from(&now);
        if !now.is_some_and(|inode| inode.tier.as_ref().is_some_and(same)) {
            return Ok(());
        }
        node.namespace.commit(std::slice::from_ref(&change))
    };
    node.namespace.locks().with(&set, commit).await
}
