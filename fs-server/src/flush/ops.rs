//! Requests about the shared tier.

use std::ops::ControlFlow;
use std::rc::Rc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use fs_proto::msg::tier::{
    FlushAccount, FlushChunks, FlushInode, FlushList, FlushName, FlushNote, FlushNow, FlushPage, FlushStatus,
    FlushWait, FlushedShare, TierForget, TierHope, TierHoped, TierPath, TierPlace, TierState, TierView,
};
use fs_proto::record::{Backing, InodeRecord, Mutation, TierLocation};
use fs_proto::{FileKind, InodeId, Placement, Status};
use tokio::time::Instant;

use super::entry::TierEntry;
use super::outcome::Stop;
use super::queue::FlushItem;
use super::{aside, content, old, remote};
use crate::backing::{evict, migrate};
use crate::error::{OpError, OpResult};
use crate::kv::Batch;
use crate::namespace::locks::{LockKey, LockSet, Mode};
use crate::namespace::{DEPTH_MAX, Namespace, encode_record, keys};
use crate::node::Node;
use crate::ops::{directory_here, getattr};
use crate::worker::{Context, Worker};

const CHANGING: &str = "its directory is changing";
const NONE: OpError = OpError::new(Status::NotSupported, "this cluster has no shared tier");
/// Names of one page of a list.
const LIST_PAGE: usize = 500;
/// How long a page waits for paths, in all: some of the servers that know them may be dead, and who asks has not much longer.
const PATHS_LIMIT: Duration = Duration::from_secs(3);
/// Requests live longer.
const WAIT_MAX: Duration = Duration::from_secs(8);
/// Names that are looked at to see whether something that waits makes room.
const HOPED_FOR: usize = 1_000;

fn require_tier(worker: &Worker) -> OpResult<()> {
    if worker.node.namespace.queue().is_enabled() { Ok(()) } else { Err(NONE) }
}

/// Writes the chunks that are here into a staged file.
pub async fn flush_chunks(worker: &Rc<Worker>, _: &Context, request: FlushChunks) -> OpResult<FlushedShare> {
    require_tier(worker)?;
    content::share(worker, request).await
}

/// Path of a directory within the tier.
pub async fn tier_path(worker: &Rc<Worker>, _: &Context, request: TierPath) -> OpResult<Option<Bytes>> {
    require_tier(worker)?;
    let (mut dir, mut names) = (request.dir, Vec::new());
    while dir != InodeId::ROOT && names.len() < DEPTH_MAX {
        let Some(location) = remote::place(worker, dir).await? else { return Ok(None) };
        if aside::is_aside(&location) {
            return Ok(None);
        }
        names.push(location.name);
        dir = location.parent;
    }
    let mut path = BytesMut::new();
    for (index, name) in names.iter().rev().enumerate() {
        if index > 0 {
            path.put_u8(b'/');
        }
        path.put_slice(name);
    }
    Ok(Some(path.freeze()))
}

/// What this home knows of an inode; takes over a copy first. Names of inodes are asked for without a tier, too.
pub async fn tier_state(worker: &Rc<Worker>, _: &Context, request: TierState) -> OpResult<TierView> {
    if request.published.is_some() {
        require_tier(worker)?;
    }
    view(worker, request).await
}

/// The account of this server.
#[allow(clippy::unused_async)]
pub async fn flush_status(worker: &Rc<Worker>, context: &Context, _: FlushStatus) -> OpResult<FlushAccount> {
    let asker = Some(context.client()).filter(|client| client.0 != 0);
    Ok(worker.node.flusher.account_of(&worker.node, asker))
}

/// Answers when this server has nothing to flush any more, or when the asker wants to look again.
pub async fn flush_wait(worker: &Rc<Worker>, _: &Context, request: FlushWait) -> OpResult<()> {
    require_tier(worker)?;
    let (node, longest) = (&worker.node, Duration::from_millis(request.longest_ms.into()).min(WAIT_MAX));
    node.flusher.ask_to_tidy(node.namespace.queue());
    tokio::select! {
        () = node.flusher.settled(node.namespace.queue(), longest) => {}
        () = node.stopped() => {}
    }
    Ok(())
}

/// No delay from now on, until nothing waits.
#[allow(clippy::unused_async)]
pub async fn flush_now(worker: &Rc<Worker>, _: &Context, request: FlushNow) -> OpResult<()> {
    require_tier(worker)?;
    let (flusher, queue) = (&worker.node.flusher, worker.node.namespace.queue());
    flusher.ask_to_tidy(queue);
    flusher.hurry(queue, request.everything);
    Ok(())
}

/// Flushes an inode that lives here under all its names.
pub async fn flush_inode(worker: &Rc<Worker>, _: &Context, request: FlushInode) -> OpResult<()> {
    require_tier(worker)?;
    force(worker, request.ino).await
}

/// The same, of an inode that lives here.
pub(crate) async fn force(worker: &Rc<Worker>, ino: InodeId) -> OpResult<()> {
    let inode = worker.node.namespace.live_inode(ino).await?;
    for (parent, name) in worker.node.namespace.names_of(&inode)? {
        remote::note_name(worker, parent, &name, true).await.map_err(|stop| match stop {
            Stop::Wait(_) => OpError::new(Status::Busy, CHANGING),
            stop => stop.refusal(CHANGING),
        })?;
    }
    Ok(())
}

/// Flushes a name, or a directory's attributes, for somebody who asks for just that; or tells whether that was done.
pub async fn flush_name(worker: &Rc<Worker>, _: &Context, request: FlushName) -> OpResult<Option<String>> {
    require_tier(worker)?;
    let (node, FlushName { parent, name, ask, open }) = (&worker.node, request);
    let item = if name.is_empty() {
        FlushItem::Inode(parent)
    } else {
        directory_here(node, parent, &name).await?;
        FlushItem::Name(parent, name)
    };
    let queue = node.namespace.queue();
    if ask {
        // What is told from now on is what came of this.
        node.flusher.account().forget_reason(&item);
        queue.note_forced(&item, open)?;
    }
    let reason = || node.flusher.account().reason(&item).unwrap_or_default();
    Ok(queue.is_asked_for(&item).then(reason))
}

/// Whether something that waits here will make room. All that waits is due at once: what makes room at another server may need a directory of this one.
#[allow(clippy::unused_async)]
pub async fn tier_hope(worker: &Rc<Worker>, _: &Context, _: TierHope) -> OpResult<TierHoped> {
    let (flusher, queue) = (&worker.node.flusher, worker.node.namespace.queue());
    if !queue.is_empty() {
        flusher.begin_hurry(queue);
    }
    let names = queue.ripe_names(HOPED_FOR);
    // What was published a moment ago may be evicted; who publishes it is not always who has its chunks. Of more than are looked at some take room, most likely.
    let is_recent = worker.node.namespace.published().is_recent(evict::HOPE);
    let waits = is_recent
        || names.len() == HOPED_FOR
        || names.iter().any(|(dir, name, open)| takes_room(&worker.node, (*dir, name), *open));
    Ok(TierHoped { waits, is_full: flusher.is_tier_full() && !is_recent })
}

/// Whether what a name stands for may have chunks, which can be evicted when they are in the shared tier. `open`: it was open for writing when it was tried
/// last, and may have been closed since.
fn takes_room(node: &Node, (dir, name): (InodeId, &Bytes), open: bool) -> bool {
    let entry = match node.namespace.entry(dir, name) {
        Ok(Some(entry)) if entry.kind == FileKind::File => entry,
        Ok(_) => return false,
        Err(_) => return !open,
    };
    if !node.owns(entry.ino.partition()) {
        return !open;
    }
    if open && !node.opens.writers(entry.ino).is_empty() {
        return false;
    }
    node.namespace.inode(entry.ino).map_or(true, |inode| inode.is_some_and(|inode| !inode.attr.inline))
}

/// Which names have to be flushed yet: what the queue has in the store, a page at a time.
pub async fn flush_list(worker: &Rc<Worker>, _: &Context, request: FlushList) -> OpResult<FlushPage> {
    require_tier(worker)?;
    let namespace = &worker.node.namespace;
    let (mut from, to) = keys::range_of_kind(b'q');
    if !request.after.is_empty() {
        from = [&from[..], &request.after, &[0]].concat();
    }
    let mut found: Vec<Vec<u8>> = Vec::new();
    namespace.kv().scan(&from, &to, &mut |key, _| {
        found.push(key.to_vec());
        if found.len() < LIST_PAGE { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    let next = found.last().filter(|_| found.len() == LIST_PAGE).map(|key| Bytes::copy_from_slice(&key[1..]));
    let mut names = Vec::with_capacity(found.len());
    let (mut above, until) = (None, Instant::now() + PATHS_LIMIT);
    for item in found.iter().filter_map(|key| FlushItem::from_key(key)) {
        let FlushItem::Name(dir, name) = &item else { continue };
        // In the order of their directories.
        let of_dir = match above.take() {
            Some((known, path)) if known == *dir => path,
            _ => path_within(worker, *dir, until).await,
        };
        let reason = worker.node.flusher.account().reason(&item).or_else(|| {
            let is_open = namespace.queue().is_open(&item);
            is_open.then(|| "somebody has it open for writing".to_owned())
        });
        let path =
            if of_dir[..] == *b"/" { [&b"/"[..], name].concat() } else { [&of_dir[..], b"/", name].concat() };
        names.push((Bytes::from(path), reason.unwrap_or_else(|| "not copied yet".to_owned())));
        above = Some((*dir, of_dir));
    }
    Ok(FlushPage { names, next: next.unwrap_or_default() })
}

/// The path of a directory, or its number if whoever knows that does not answer in time.
async fn path_within(worker: &Rc<Worker>, dir: InodeId, until: Instant) -> Bytes {
    let item = FlushItem::Inode(dir);
    let path = tokio::time::timeout_at(until, remote::path_of(worker, &item)).await;
    path.unwrap_or_else(|_| Bytes::from(format!("(inode {dir:?})")))
}

/// Queues a name or inode.
#[allow(clippy::unused_async)]
pub async fn flush_note(worker: &Rc<Worker>, _: &Context, request: FlushNote) -> OpResult<()> {
    require_tier(worker)?;
    let namespace = &worker.node.namespace;
    let Some(name) = request.name else { return Ok(namespace.queue().note_touched(request.ino)?) };
    let queue = namespace.queue();
    let key = keys::tier_entry(request.ino, &name);
    let item = FlushItem::Name(request.ino, name);
    if let Some(had) = request.had {
        let take_over = || {
            let mut batch = Batch::default();
            if namespace.kv().get(&key)?.is_none() {
                batch.put(key, encode_record(&TierEntry::intended(&had)));
            }
            namespace.kv().commit(batch)
        };
        if !queue.while_idle(&item, take_over)? {
            return Err(OpError::new(Status::Busy, "the name is being flushed"));
        }
    }
    Ok(if request.forced { queue.note_forced(&item, request.open) } else { queue.note_now(&item) }?)
}

/// Where a directory that lives (or lived) here lies in the tier.
#[allow(clippy::unused_async)]
pub async fn tier_place(
    worker: &Rc<Worker>,
    _: &Context,
    request: TierPlace,
) -> OpResult<Option<TierLocation>> {
    require_tier(worker)?;
    place(&worker.node, request.dir)
}

/// A directory that was removed here is gone from the tier.
#[allow(clippy::unused_async)]
pub async fn tier_forget(worker: &Rc<Worker>, _: &Context, request: TierForget) -> OpResult<()> {
    require_tier(worker)?;
    worker.node.flusher.dirs().forget(request.dir);
    let mut batch = Batch::default();
    batch.delete(keys::tier_ghost(request.dir));
    Ok(worker.node.namespace.kv().commit(batch)?)
}

/// A client that had a file open for writing vanished: what it wrote and did not tell makes a version of its own.
pub async fn lost_writer(worker: &Rc<Worker>, ino: InodeId) {
    let namespace = &worker.node.namespace;
    let set = LockSet::of(&[(LockKey::Inode(ino), Mode::Exclusive)]);
    let count = || {
        let Some(inode) = namespace.inode_in_section(ino)? else { return Ok(()) };
        let mut inode = (*inode).clone();
        inode.attr.version += 1;
        namespace.commit(&[Mutation::PutInode { inode }])
    };
    if !namespace.queue().is_enabled() {
        return;
    }
    if let Err(error) = namespace.locks().with(&set, count).await {
        tracing::error!(?ino, message = %error.message, "what a vanished client wrote may be missing in the shared tier");
    }
}

/// See [`tier_place`].
pub fn place(node: &Node, dir: InodeId) -> OpResult<Option<TierLocation>> {
    match node.namespace.inode(dir)? {
        Some(inode) => Ok(inode.tier.clone()),
        None => node.namespace.record(&keys::tier_ghost(dir)),
    }
}

/// See [`tier_state`]. Inode and attributes are read together, inside the inode's section.
pub async fn view(worker: &Rc<Worker>, request: TierState) -> OpResult<TierView> {
    // Who tells of a copy wants no extended attributes.
    let with_xattrs = request.published.is_none();
    view_with(worker, request, with_xattrs).await
}

/// The same, with extended attributes or none.
pub async fn view_with(worker: &Rc<Worker>, request: TierState, with_xattrs: bool) -> OpResult<TierView> {
    let (node, ino) = (&worker.node, request.ino);
    if let Some(published) = request.published {
        take_over(node, ino, published, (request.published_bytes, request.published_as)).await?;
    }
    if node.flusher.takes_everything()
        && !node.opens.writers(ino).is_empty()
        && let Some(inode) = node.namespace.inode(ino)?
    {
        getattr::settled(worker, inode, None, false).await?;
    }
    let namespace = &node.namespace;
    let set = LockSet::of(&[(LockKey::Inode(ino), Mode::Shared)]);
    let xattrs = || if with_xattrs { namespace.xattrs(ino) } else { Ok(Vec::new()) };
    let read = || Ok::<_, OpError>((namespace.inode_in_section(ino)?, xattrs()?));
    let (inode, xattrs) = namespace.locks().with(&set, read).await?;
    let is_file = inode.as_ref().is_some_and(|inode| inode.attr.kind == FileKind::File);
    Ok(TierView {
        inode: inode.map(|inode| (*inode).clone()),
        xattrs,
        writing: (is_file && node.is_forgetful()) || !node.opens.writers(ino).is_empty(),
    })
}

/// `copy`: bytes of the file that was published, and how the tier has them.
async fn take_over(
    node: &Node,
    ino: InodeId,
    published: TierLocation,
    copy: (u64, Option<Backing>),
) -> OpResult<()> {
    let namespace = &node.namespace;
    let set = LockSet::of(&[(LockKey::Inode(ino), Mode::Exclusive)]);
    namespace
        .locks()
        .with(&set, || {
            let Some(inode) = namespace.inode_in_section(ino)? else {
                return move_ghost(namespace, ino, &published);
            };
            let mut taken = TakenOver::default();
            if !taken.add(node, &inode, published, copy)? {
                return Ok(());
            }
            taken.commit(namespace, |changes, batch| namespace.commit_with(changes, batch))
        })
        .await
}

/// Copies that homes take over, in one change.
#[derive(Default)]
pub struct TakenOver {
    /// Further puts and deletes of the change.
    pub batch: Batch,
    changes: Vec<Mutation>,
    files: u64,
    bytes: u64,
}

impl TakenOver {
    /// Adds the copy of an inode that was looked at in its section; false if it is known already, or another one is the right one.
    pub fn add(
        &mut self,
        node: &Node,
        inode: &InodeRecord,
        published: TierLocation,
        (bytes, seen): (u64, Option<Backing>),
    ) -> OpResult<bool> {
        let (namespace, ino) = (&node.namespace, inode.attr.ino);
        let backed = backing_after(inode, &published, seen);
        let is_known = inode.tier.as_ref() == Some(&published) && inode.backed == backed;
        if is_known || !accepts(namespace, inode, &published)? {
            return Ok(false);
        }
        if inode.attr.is_dir() {
            // What changed between the making of the directory and now was dropped as not in the tier.
            namespace.queue().note_inode(&mut self.batch, ino);
        }
        let is_new = inode.tier.as_ref().is_none_or(|at| at.version < published.version || old::is_in(at));
        if inode.attr.kind == FileKind::File && is_new {
            (self.files, self.bytes) = (self.files + 1, self.bytes + bytes);
        }
        migrate::note_copied(&mut self.batch, inode, &published);
        if backed.is_some() {
            node.backing.note_look(ino);
        }
        self.changes.push(Mutation::SetTier { ino, tier: Some(published) });
        self.changes.push(Mutation::SetBacked { ino, backed });
        Ok(true)
    }

    /// Has `commit` make the change, and counts what was published.
    pub fn commit(
        self,
        namespace: &Namespace,
        commit: impl FnOnce(&[Mutation], Batch) -> OpResult<()>,
    ) -> OpResult<()> {
        let TakenOver { batch, changes, files, bytes } = self;
        let commit = |batch| commit(&changes, batch);
        if files == 0 {
            return commit(batch);
        }
        namespace.published().count((files, bytes), batch, commit)
    }
}

/// What chunks that are not held are fetched from once a copy was published: from that copy, as it was seen in the tier. A holder may lack any of it:
/// what had no room when the copy was made went into it past the store. What was cut off since the copy was made counts no more: how much that is,
/// the limit of the copy before says.
fn backing_after(inode: &InodeRecord, published: &TierLocation, seen: Option<Backing>) -> Option<Backing> {
    if inode.attr.kind != FileKind::File {
        return inode.backed;
    }
    // What lies with the inode is here as a whole; what lies where it was written cannot be found without its pointers.
    let has_places = !inode.attr.inline && inode.attr.layout.placement != Placement::Writer;
    let seen = seen.filter(|_| has_places)?;
    let limit = if inode.cut_version > published.version {
        inode.backed.map_or(0, |known| known.limit.min(seen.size))
    } else {
        seen.size
    };
    Some(Backing { limit, ..seen })
}

/// A directory that was removed while it moved in the tier: its entries there are found where it lies now.
fn move_ghost(namespace: &Namespace, ino: InodeId, published: &TierLocation) -> OpResult<()> {
    let key = keys::tier_ghost(ino);
    if namespace.kv().get(&key)?.is_none() {
        return Ok(());
    }
    let mut batch = Batch::default();
    batch.put(key, encode_record(published));
    Ok(namespace.kv().commit(batch)?)
}

/// Whether a copy becomes the one that other names link to: not while another name has one of the same version. A directory has one copy, which
/// moves; one that was made at an earlier name meanwhile was made in vain.
fn accepts(namespace: &Namespace, inode: &InodeRecord, published: &TierLocation) -> OpResult<bool> {
    let Some(known) = &inode.tier else { return Ok(true) };
    if inode.attr.is_dir() {
        return Ok(known.tier_ino == published.tier_ino);
    }
    let same_name = known.parent == published.parent && known.name == published.name;
    if same_name || known.version < published.version {
        return Ok(true);
    }
    if known.version > published.version {
        return Ok(false);
    }
    let names = namespace.names_of(inode)?;
    Ok(!names.iter().any(|(parent, name)| *parent == known.parent && *name == known.name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use fs_proto::Attr;

    #[test]
    fn what_is_fetched_is_of_the_copy_as_it_was_seen() {
        // Goal: whatever the file is by now, the record has the size and time that the copy has, and nothing counts that was cut off since.
        let ino = InodeId(7);
        let seen = Backing { size: 100, mtime: 5, limit: 100 };
        let file = |cut_version, known: Option<u64>| InodeRecord {
            attr: Attr { version: 9, mtime: 77, ctime: 78, ..Attr::unknown(ino, FileKind::File) },
            name: Bytes::new(),
            target: Bytes::new(),
            tier: None,
            cut_version,
            backed: known.map(|limit| Backing { size: 300, mtime: 3, limit }),
        };
        let published = TierLocation { parent: ino, name: Bytes::new(), version: 8, ctime: 1, tier_ino: 2 };
        let limit = |cut_version, known| {
            let after = backing_after(&file(cut_version, known), &published, Some(seen)).unwrap();
            assert_eq!((after.size, after.mtime), (100, 5));
            after.limit
        };
        assert_eq!([limit(8, None), limit(8, Some(30)), limit(0, Some(300))], [100; 3]);
        assert_eq!([limit(9, Some(30)), limit(9, Some(300)), limit(9, None)], [30, 100, 0]);
        let mut small = file(0, None);
        small.attr.inline = true;
        assert_eq!(backing_after(&small, &published, Some(seen)), None);
        assert_eq!(backing_after(&file(0, Some(30)), &published, None), None);
    }
}
