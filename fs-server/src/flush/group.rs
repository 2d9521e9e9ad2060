//! Names of one directory that stand for small files and symbolic links, flushed together: one job on a thread of the tier makes all copies and shows them, and three
//! changes of the store, whatever their number, write down what is intended and what came of it. `docs/decisions/0034-flush-of-small-files.md`.
//!
//! Only what needs nothing but a new copy goes this way: a file whose content lies with its inode, or a symbolic link, with one name, all of it at home here, closed, and
//! not in the tier in this version. Everything else, and whatever meets something unusual, is given back to the queue and flushed by itself (`names`, `leaf`).
//!
//! # Invariants
//! - What holds of a name that is flushed by itself holds of each of a group: its record is there before anything is under the name, what is shown is whole and
//!   of a version that nobody changed meanwhile, and it leaves the queue with the records of its copy (`tests/flush`, `groups.rs`).
//! - What is in the way of one name does not hold up the others (`tests/flush`, `one_that_fails_holds_up_no_other`).
//! - A job takes no more than one file's calls longer than [`TURN`], and groups become as large as fits into that (`tests/flush`,
//!   `a_tier_that_gets_slow_has_fewer_calls_and_then_more_again`).
//! - A job has at most [`ROOM`] bytes of contents, and one more file's, in memory.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use fs_proto::record::{EntryRecord, InlineRecord, InodeRecord, TierLocation};
use fs_proto::{FileKind, INLINE_MAX, InodeId};

use super::attempt::{InFlight, postpone};
use super::entry::TierEntry;
use super::ops::TakenOver;
use super::outcome::{FlushResult, Stop};
use super::policy::Policy;
use super::queue::{FlushItem, Taken};
use super::window::Call;
use super::{WAIT_LIMIT, content, dirs, old, remote};
use crate::error::{OpError, OpResult};
use crate::hash::Map;
use crate::kv::Batch;
use crate::namespace::locks::{LockKey, LockSet, Mode};
use crate::namespace::{encode_record, inline, keys};
use crate::node::Node;
use crate::tier::{
    Attributes, Destination, Dir, Make, Place, Publication, Staged, Tier, TierError, TierFile, TierResult,
    is_staging_name,
};
use crate::worker::Worker;

/// Contents that one job reads before it writes them to the tier.
const ROOM: usize = 256 << 10;
/// Extended attributes that are read for a group together, also those of other files between; with more, each file's are read by themselves.
const XATTRS: usize = 1_024;
/// Contents of other files that are read with those of a group, as they lie between; with more, each is read by itself.
const STRANGERS: usize = 32;
/// Names of one group: at least and at most.
pub const SIZES: (usize, usize) = (2, 64);
/// A job that took so long ends, and leaves the rest to others: else a tier that falters would have as many calls to answer for as long as groups last.
const TURN: Duration = Duration::from_millis(20);

/// A name of the group, and what it stands for.
struct Found {
    /// Its place in the group.
    index: usize,
    name: Bytes,
    inode: Arc<InodeRecord>,
    /// The name's record says already that a copy of this inode may be there.
    is_known: bool,
}

impl Found {
    /// Bytes of its content that lie with the inode.
    fn content_bytes(&self) -> usize {
        if self.inode.attr.inline { self.inode.attr.size as usize } else { 0 }
    }
}

/// Contents of a group's files by inode; None: they are too far from each other to be read together.
type Contents = Option<Map<InodeId, InlineRecord>>;

/// A name of the group whose file is to be copied.
struct Small {
    /// Its place in the group.
    index: usize,
    name: Bytes,
    inode: Arc<InodeRecord>,
    xattrs: Vec<(Bytes, Bytes)>,
    /// A file's bytes; of a symbolic link its inode has all.
    content: Bytes,
    /// The name's record says already that a copy of this inode may be there.
    is_known: bool,
}

/// What came of a name.
enum Fate {
    /// Not tried: the job's time was over.
    Later,
    /// Nothing for a group.
    Alone,
    /// Its copy is under the name.
    Shown(Shown),
    /// The tier failed with it.
    Failed(TierError),
}

/// A copy that is in the tier.
struct Shown {
    ino: InodeId,
    kind: FileKind,
    bytes: u64,
    at: TierLocation,
}

/// The part of the group's flush that is done on a thread of the tier.
struct Job {
    node: Arc<Node>,
    parent: InodeId,
    dir: Dir,
    staging: Dir,
    /// Names in staging, one for each of the group.
    staged: Vec<Bytes>,
    taken: Vec<Taken>,
    /// Whether what lies in the directory is to be copied unless it says otherwise itself.
    admitted: bool,
    /// Nobody knows yet who writes.
    is_forgetful: bool,
}

/// Flushes names of one directory.
pub async fn flush(worker: &Rc<Worker>, group: Vec<Taken>) {
    let node = &worker.node;
    let mut flights: Vec<InFlight> = group.iter().map(|taken| InFlight::begin(node, taken.clone())).collect();
    let fates = match job(worker, &group).await {
        Ok(job) => node.flusher.on_tier(move |tier| Ok(job.run(tier))).await.map_err(Stop::from),
        Err(stop) => Err(stop),
    };
    match fates {
        Ok(fates) => end(worker, &group, fates).await,
        Err(stop) => put_off(worker, &group, &stop).await,
    }
    for flight in &mut flights {
        flight.ended = true;
    }
}

/// The group as a whole has to wait: for its directory, of which a transaction that makes or moves it may be under way. Names whose directory is gone need none, and
/// of what lasts longer than that each name has its own account: then each finds out by itself.
async fn put_off(worker: &Rc<Worker>, group: &[Taken], stop: &Stop) {
    let lasts = |taken: &Taken| taken.tried.elapsed() >= WAIT_LIMIT;
    if !matches!(stop, Stop::Wait(_)) || group.iter().any(lasts) || is_gone(worker, group).await {
        return worker.node.namespace.queue().give_back(group, true);
    }
    for taken in group {
        postpone(worker, taken, stop.clone()).await;
    }
}

/// Whether the group's directory is not in the namespace any more, as far as its home can be asked.
async fn is_gone(worker: &Rc<Worker>, group: &[Taken]) -> bool {
    let FlushItem::Name(parent, _) = group[0].item else { return true };
    remote::inode(worker, parent).await.is_ok_and(|view| view.inode.is_none())
}

async fn job(worker: &Rc<Worker>, group: &[Taken]) -> FlushResult<Job> {
    let node = &worker.node;
    let FlushItem::Name(parent, _) = group[0].item else {
        return Err(Stop::Failed("a group of something else than names".to_owned()));
    };
    let admitted = is_admitted(worker, parent).await?;
    let Some(dir) = dirs::handle(worker, parent).await? else {
        return Err(Stop::Wait("its directory is not in the shared tier yet"));
    };
    // The names first: staging is tidied up only before or after them.
    let staged = node.flusher.new_staging_names(node.id(), group.len() as u64).collect();
    let staging = dirs::staging(worker).await?;
    let is_forgetful = node.is_forgetful() && !node.flusher.takes_everything();
    let (node, taken) = (Arc::clone(node), group.to_vec());
    Ok(Job { node, parent, dir, staging, staged, taken, admitted, is_forgetful })
}

async fn is_admitted(worker: &Rc<Worker>, parent: InodeId) -> FlushResult<bool> {
    let flusher = &worker.node.flusher;
    let everything = flusher.takes_everything() || flusher.control().is_urgent(&worker.node);
    Ok(match flusher.policies().below(worker, parent).await? {
        Policy::Close => true,
        Policy::Demand | Policy::Idle(_) => everything,
        Policy::Never => false,
    })
}

impl Job {
    /// Copies what is for a group; a piece of it after the other, so that few contents are in memory at a time.
    fn run(self, tier: &dyn Tier) -> Vec<Fate> {
        let began = Instant::now();
        let mut fates: Vec<Fate> = self.taken.iter().map(|_| Fate::Alone).collect();
        let (mut next, mut done) = (0, 0);
        while next < self.taken.len() && began.elapsed() < TURN {
            let some = self.read(&mut next);
            if self.intend(&some).is_err() {
                return fates;
            }
            for small in some {
                let index = small.index;
                if done > 0 && began.elapsed() >= TURN {
                    fates[index] = Fate::Later;
                    continue;
                }
                fates[index] = self.copy(tier, small);
                done += 1;
                if matches!(fates[index], Fate::Failed(_)) {
                    // Whatever ails the tier: the others find out for themselves.
                    return fates;
                }
            }
        }
        for fate in &mut fates[next..] {
            *fate = Fate::Later;
        }
        self.node.flusher.note_together(done, fates.iter().any(|fate| matches!(fate, Fate::Later)));
        fates
    }

    /// Looks at names from `next` on until their contents have [`ROOM`] bytes.
    fn read(&self, next: &mut usize) -> Vec<Small> {
        let (mut found, mut bytes) = (Vec::new(), 0);
        while *next < self.taken.len() && bytes < ROOM {
            // Who looks at it alone will say what the matter is.
            if let Some(one) = self.find(*next).unwrap_or_default() {
                bytes += one.content_bytes();
                found.push(one);
            }
            *next += 1;
        }
        let Ok(mut contents) = self.contents_of(&found) else { return Vec::new() };
        let look = |one| self.look(one, &mut contents).unwrap_or_default();
        let mut some: Vec<Small> = found.into_iter().filter_map(look).collect();
        if self.add_xattrs(&mut some).is_err() {
            some.clear();
        }
        some
    }

    /// Contents of all at once, as [`Self::add_xattrs`] does with those. Read after the inodes, and taken for theirs only if those are as they were afterwards.
    fn contents_of(&self, found: &[Found]) -> OpResult<Contents> {
        let inos = || found.iter().filter(|one| one.content_bytes() > 0).map(|one| one.inode.attr.ino);
        let (Some(first), Some(last)) = (inos().min(), inos().max()) else { return Ok(None) };
        let bytes = found.iter().map(Found::content_bytes).sum();
        self.node.namespace.inline_between((first, last), STRANGERS + found.len(), bytes)
    }

    /// Extended attributes of all at once: their inodes have numbers near each other, mostly. Read after the inodes: what changes between is noted, with another
    /// change time, and so is set later.
    fn add_xattrs(&self, some: &mut Vec<Small>) -> OpResult<()> {
        let inos = || some.iter().map(|small| small.inode.attr.ino);
        let (Some(first), Some(last)) = (inos().min(), inos().max()) else { return Ok(()) };
        let (namespace, flusher) = (&self.node.namespace, &self.node.flusher);
        let mut all = namespace.xattrs_between((first, last), XATTRS)?;
        for small in &mut *some {
            let ino = small.inode.attr.ino;
            small.xattrs = match &mut all {
                Some(all) => all.remove(&ino).unwrap_or_default(),
                None => namespace.xattrs(ino)?,
            };
        }
        let again = namespace.queue().are_noted_since(some.iter().map(|small| &self.taken[small.index]));
        let mut again = again.into_iter();
        some.retain(|small| {
            let (taken, is_as_taken) = (&self.taken[small.index], again.next() == Some(false));
            let says_nothing = flusher.policies().said(&small.xattrs).is_none();
            (taken.forced || (self.admitted && says_nothing)) && is_as_taken
        });
        Ok(())
    }

    /// A name of the group and its inode, as it was a moment ago; None if it is nothing for one.
    fn find(&self, index: usize) -> OpResult<Option<Found>> {
        let (node, taken) = (&self.node, &self.taken[index]);
        let namespace = &node.namespace;
        let FlushItem::Name(parent, name) = &taken.item else { return Ok(None) };
        if *parent == InodeId::ROOT && is_staging_name(name, &node.config.job) {
            return Ok(None);
        }
        let inode = remote::inode_here(node, (*parent, name), taken.ino)?;
        let Some(inode) = inode.filter(|inode| self.is_small(name, inode)) else { return Ok(None) };
        let had: Option<TierEntry> = namespace.record(&keys::tier_entry(*parent, name))?;
        // What an earlier attempt may have left in a tier far away is looked for afterwards, and not here.
        let is_doubtful = node.flusher.is_remote() && (taken.attempts > 0 || had.is_some());
        let is_other = |had: &TierEntry| {
            had.ino != inode.attr.ino || had.kind != inode.attr.kind || had.version >= inode.attr.version
        };
        let is_nothing = is_doubtful || had.as_ref().is_some_and(is_other);
        Ok((!is_nothing).then(|| Found { index, name: name.clone(), inode, is_known: had.is_some() }))
    }

    /// The same as it is now, with its content; None if it has become another.
    fn look(&self, found: Found, contents: &mut Contents) -> OpResult<Option<Small>> {
        let Found { index, name, inode: before, is_known } = found;
        let (namespace, attr) = (&self.node.namespace, &before.attr);
        let mut section = remote::name_section(self.parent, &name);
        section.add(LockKey::Inode(attr.ino), Mode::Shared);
        let read = || {
            let is_ours = remote::owner_of_own_name(&self.node, self.parent, &name)? == self.node.id();
            // An inode that says so has this name, and no other.
            let is_same =
                |now: &Arc<InodeRecord>| now.attr.version == attr.version && self.is_small(&name, now);
            let Some(now) = namespace.inode_in_section(attr.ino)?.filter(|now| is_ours && is_same(now))
            else {
                return Ok(None);
            };
            let content = match contents {
                _ if !attr.inline => None,
                Some(contents) => contents.remove(&attr.ino),
                None => namespace.inline(attr.ino)?,
            };
            Ok::<_, OpError>(Some((now, content)))
        };
        let Some((inode, content)) = namespace.locks().try_with(&section, read).transpose()?.flatten() else {
            return Ok(None);
        };
        let is_file = attr.kind == FileKind::File;
        if (is_file && self.is_forgetful) || !self.node.opens.writers(attr.ino).is_empty() {
            return Ok(None);
        }
        let content =
            if is_file { inline::checked(inline::whole(content, attr.size)?)?.data } else { Bytes::new() };
        Ok(Some(Small { index, name, inode, xattrs: Vec::new(), content, is_known }))
    }

    fn is_small(&self, name: &Bytes, inode: &InodeRecord) -> bool {
        let attr = &inode.attr;
        let is_small = match attr.kind {
            FileKind::File => attr.inline && attr.size <= u64::from(INLINE_MAX),
            kind => kind == FileKind::Symlink,
        };
        let is_copied = |at: &TierLocation| at.version >= attr.version || old::is_in(at);
        is_small
            && attr.nlink == 1
            && (attr.parent, &inode.name) == (self.parent, name)
            && inode.backed.is_none()
            && !inode.tier.as_ref().is_some_and(is_copied)
    }

    /// Writes down that something of ours may be under the names from now on.
    fn intend(&self, some: &[Small]) -> OpResult<()> {
        let mut batch = Batch::default();
        for small in some.iter().filter(|small| !small.is_known) {
            let attr = &small.inode.attr;
            let entry = TierEntry::intended(&EntryRecord { ino: attr.ino, kind: attr.kind });
            batch.put(keys::tier_entry(self.parent, &small.name), encode_record(&entry));
        }
        if batch.is_empty() { Ok(()) } else { Ok(self.node.namespace.kv().commit(batch)?) }
    }

    fn copy(&self, tier: &dyn Tier, small: Small) -> Fate {
        let staged = Place { dir: self.staging.clone(), name: self.staged[small.index].clone() };
        let (to, attr) = (Place::new(&self.dir, &small.name), &small.inode.attr);
        let shown = self.publish(tier, &staged, &to, &small);
        if let Ok(Some(made)) = shown {
            let (parent, version, ctime) = (self.parent, attr.version, attr.ctime);
            let at = TierLocation { parent, name: small.name, version, ctime, tier_ino: made.id };
            return Fate::Shown(Shown { ino: attr.ino, kind: attr.kind, bytes: attr.size, at });
        }
        self.discard(tier, &staged);
        match shown {
            Err(error @ (TierError::Failed(_) | TierError::Refused(_) | TierError::Full(_))) => {
                Fate::Failed(error)
            }
            _ => Fate::Alone,
        }
    }

    /// None if what was copied is not what the inode holds any more.
    fn publish(&self, tier: &dyn Tier, at: &Place, to: &Place, small: &Small) -> TierResult<Option<Staged>> {
        let (node, data) = (&self.node, &small.content);
        let attributes = content::attributes(&small.inode.attr, &small.xattrs);
        if small.inode.attr.kind == FileKind::Symlink {
            return self.publish_link(tier, (at, to), &small.inode, &attributes);
        }
        let to = Destination { place: to.clone(), attributes };
        node.flusher.control().pace(node, data.len() as u64);
        let is_wanted = || self.is_unchanged(&small.inode);
        let mut fill = |file: &dyn TierFile| content::write_whole(node, file, data);
        let (to, size) = (&to, small.inode.attr.size);
        let new = Publication { at, size, to, fill: &mut fill, is_wanted: &is_wanted };
        node.flusher.measured(Call::Whole, || tier.publish(new))
    }

    fn publish_link(
        &self,
        tier: &dyn Tier,
        (at, to): (&Place, &Place),
        inode: &InodeRecord,
        attributes: &Attributes,
    ) -> TierResult<Option<Staged>> {
        let staged =
            content::make_other(tier, at, &Make::Symlink { target: inode.target.clone() }, attributes)?;
        if !self.is_unchanged(inode) {
            return Ok(None);
        }
        tier.rename(at, to)?;
        Ok(Some(staged))
    }

    /// Whether what was copied is still what the inode holds, and nobody has it open for writing.
    fn is_unchanged(&self, inode: &InodeRecord) -> bool {
        let attr = &inode.attr;
        let now = self.node.namespace.inode(attr.ino).ok().flatten();
        now.is_some_and(|now| now.attr.nlink > 0 && now.attr.version == attr.version)
            && self.node.opens.writers(attr.ino).is_empty()
    }

    fn discard(&self, tier: &dyn Tier, staged: &Place) {
        match tier.remove(staged, false) {
            Ok(()) | Err(TierError::Missing(_)) => {}
            Err(_) => self.node.flusher.note_doomed(staged.name.clone()),
        }
    }
}

/// Takes what is in the tier off the queue, and gives the rest back to it.
async fn end(worker: &Rc<Worker>, group: &[Taken], fates: Vec<Fate>) {
    let queue = worker.node.namespace.queue();
    let (mut alone, mut later) = (Vec::new(), Vec::new());
    let (mut shown, mut failed) = (Vec::new(), Vec::new());
    for (taken, fate) in group.iter().zip(fates) {
        match fate {
            Fate::Later => later.push(taken),
            Fate::Alone => alone.push(taken),
            Fate::Shown(copy) => shown.push((taken.clone(), copy)),
            Fate::Failed(error) => failed.push((taken, error)),
        }
    }
    queue.give_back(alone, true);
    queue.give_back(later, false);
    for (taken, error) in failed {
        worker.node.flusher.note_trouble(&error);
        queue.set_alone(taken);
        postpone(worker, taken, error.into()).await;
    }
    if let Err(stop) = settle(worker, &shown).await {
        for (taken, _) in &shown {
            queue.set_alone(taken);
            postpone(worker, taken, stop.clone()).await;
        }
    }
}

/// Writes down which copies are under their names, and has the directory's times set again.
async fn settle(worker: &Rc<Worker>, shown: &[(Taken, Shown)]) -> FlushResult<()> {
    let Some((_, first)) = shown.first() else { return Ok(()) };
    remote::touch(worker, first.at.parent).await?;
    let mut set = LockSet::default();
    for (_, copy) in shown {
        set.add(LockKey::Inode(copy.ino), Mode::Exclusive);
    }
    let locks = worker.node.namespace.locks();
    if let Some(outcome) = locks.try_with(&set, || take_over(&worker.node, shown)) {
        return Ok(outcome?);
    }
    // A transaction is under way with one of them: the others do not wait for it.
    for one in shown {
        let set = LockSet::of(&[(LockKey::Inode(one.1.ino), Mode::Exclusive)]);
        locks.with(&set, || take_over(&worker.node, std::slice::from_ref(one))).await?;
    }
    Ok(())
}

/// The same in one change, in the sections of all their inodes.
fn take_over(node: &Node, shown: &[(Taken, Shown)]) -> OpResult<()> {
    let namespace = &node.namespace;
    let (mut taken_over, mut done, mut again) = (TakenOver::default(), Vec::new(), Vec::new());
    for (taken, copy) in shown {
        let TierLocation { version, ctime, tier_ino, .. } = copy.at;
        let entry = TierEntry { ino: copy.ino, kind: copy.kind, version, ctime, tier_ino };
        taken_over.batch.put(keys::tier_entry(copy.at.parent, &copy.at.name), encode_record(&entry));
        let inode = namespace.inode_in_section(copy.ino)?;
        let is_right = match &inode {
            Some(inode) if !taken_over.add(node, inode, copy.at.clone(), (copy.bytes, None))? => {
                inode.tier.as_ref().is_none_or(|at| at.tier_ino == tier_ino || at.version > version)
            }
            _ => true,
        };
        // Else another name of it was published first, and this one becomes a link of that.
        if is_right { done.push(taken.clone()) } else { again.push(taken) }
    }
    let queue = namespace.queue();
    taken_over.commit(namespace, |changes, batch| {
        queue.all_done(&done, batch, |batch| namespace.commit_with(changes, batch))
    })?;
    for taken in &done {
        node.flusher.account().note_success(&taken.item);
    }
    queue.give_back(again, true);
    Ok(())
}
