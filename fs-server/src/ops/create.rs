//! Make a file, symbolic link, pipe, socket or device node: one message, one atomic local change.

use std::rc::Rc;

use bytes::Bytes;
use fs_proto::msg::inode::Open;
use fs_proto::msg::name::{Create, Created};
use fs_proto::placement::{entry_partition, name_hash};
use fs_proto::record::{EntryRecord, InodeRecord, Mutation};
use fs_proto::{Attr, FileKind, InodeId, Layout, LayoutWish, Status, TimeNs};

use super::{SETGID, directory_here, directory_in_section, getattr, layout, lookup, open, valid_name};
use crate::backing::room;
use crate::error::{OpError, OpResult};
use crate::namespace::access::Lists;
use crate::namespace::locks::{LockKey, LockSet, Mode};
use crate::namespace::permission::{SEARCH, WRITE, require};
use crate::namespace::{DirView, NewInode, new_inode};
use crate::widen;
use crate::worker::{Context, Worker};

/// Longest target of a symbolic link, in bytes (PATH_MAX without the end).
const TARGET_MAX: usize = 4095;
const GROUP_EXECUTION: u32 = 0o010;

enum Outcome {
    Made(Box<InodeRecord>, u64),
    There(EntryRecord),
}

/// Makes what is asked, or finds what is there.
pub async fn create(worker: &Rc<Worker>, context: &Context, request: Create) -> OpResult<Created> {
    let node = &worker.node;
    validate(worker, context, &request)?;
    let named = !request.name.is_empty();
    let view = directory_here(node, request.parent, &request.name).await?;
    let hash = name_hash(request.parent, &request.name);
    let has_room = node.space.check_names().is_ok();
    // What is there already is opened also where nothing new can be made; and changes nothing, so what is lent of it stays lent.
    let looks_first = !has_room || node.namespace.locks().loans().are_any();
    if named
        && looks_first
        && let Some(entry) = node.namespace.settled_entry(request.parent, &request.name).await?
    {
        return found(worker, context, &request, &view, &entry).await;
    }
    if !has_room {
        room::admit_name(worker).await?;
    }
    if let Some(mode) = &request.open {
        node.opens.admit(mode).await;
        // A mount closes files at their homes when nobody waits for that any more: here somebody does.
        node.flusher.control().admit(node).await;
    }
    let ino = node.namespace.allocator().inode(entry_partition(
        request.parent,
        hash,
        matches!(view, DirView::Wide(_)),
    ))?;
    let set = LockSet::of(&[
        (LockKey::Entry(request.parent, hash), Mode::Exclusive),
        (LockKey::Inode(request.parent), Mode::Touch),
        (LockKey::Inode(ino), Mode::Exclusive),
    ]);
    let outcome = node.namespace.locks().with(&set, || make(worker, context, &request, ino)).await?;
    match outcome {
        Outcome::There(entry) => found(worker, context, &request, &view, &entry).await,
        Outcome::Made(inode, entries) => {
            if named {
                widen::consider(worker, request.parent, entries);
            }
            Ok(Created { ino, kind: request.kind, attr: Some(inode.attr), fresh: true })
        }
    }
}

/// The name is taken. Who finds what is there only looks.
async fn found(
    worker: &Rc<Worker>,
    context: &Context,
    request: &Create,
    view: &DirView,
    entry: &EntryRecord,
) -> OpResult<Created> {
    if !context.is_checked() {
        require(&context.caller, &worker.node.namespace.dir_access(view)?, SEARCH)?;
    }
    if request.exclusive {
        return Err(OpError::new(Status::Exists, "file exists"));
    }
    let attr = there(worker, context, request, entry).await?;
    Ok(Created { ino: entry.ino, kind: entry.kind, attr, fresh: false })
}

/// Attributes of what the name stands for, if it lives here. A file is opened as asked: who asked need not ask again.
async fn there(
    worker: &Rc<Worker>,
    context: &Context,
    request: &Create,
    entry: &EntryRecord,
) -> OpResult<Option<Attr>> {
    match &request.open {
        Some(mode) if entry.kind == FileKind::File && worker.node.owns(entry.ino.partition()) => {
            let open = Open { ino: entry.ino, mode: mode.clone() };
            getattr::of_name(open::open(worker, context, open).await).map(Some)
        }
        _ => lookup::attributes_here(worker, entry.ino).await,
    }
}

fn note_open(worker: &Worker, context: &Context, request: &Create, ino: InodeId, version: u64) {
    if let Some(mode) = &request.open {
        worker.node.opens.open(ino, context.opener(), mode, version);
    }
}

fn validate(worker: &Worker, context: &Context, request: &Create) -> OpResult<()> {
    if !request.name.is_empty() {
        valid_name(&request.name)?;
    } else if request.kind != FileKind::File || request.open.is_none() {
        return Err(OpError::new(
            Status::Invalid,
            "only a regular file that is opened can do without a name",
        ));
    }
    if let Some(wish) = &request.layout {
        layout::possible(worker, wish)?;
    }
    match request.kind {
        FileKind::Directory => Err(OpError::new(Status::Invalid, "directories are made with mkdir")),
        FileKind::CharDevice | FileKind::BlockDevice if !context.caller.is_root() => {
            Err(OpError::new(Status::NotPermitted, "only root makes device nodes"))
        }
        FileKind::Symlink if request.target.is_empty() => {
            Err(OpError::new(Status::NotFound, "a symbolic link needs a target"))
        }
        _ if request.target.len() > TARGET_MAX => {
            Err(OpError::new(Status::NameTooLong, "the target of a symbolic link has at most 4095 bytes"))
        }
        _ => Ok(()),
    }
}

fn make(worker: &Rc<Worker>, context: &Context, request: &Create, ino: InodeId) -> OpResult<Outcome> {
    let namespace = &worker.node.namespace;
    let view = directory_in_section(&worker.node, request.parent, &request.name)?;
    let named = !request.name.is_empty();
    if named && let Some(entry) = namespace.entry(request.parent, &request.name)? {
        return Ok(Outcome::There(entry));
    }
    if !context.is_checked() {
        require(&context.caller, &namespace.dir_access(&view)?, WRITE | SEARCH)?;
    }
    let now = worker.node.now();
    let (mut inode, lists) = born(
        worker,
        context,
        &view,
        Birth {
            ino,
            kind: request.kind,
            mode: request.mode,
            parent: request.parent,
            name: request.name.clone(),
            layout: request.layout.unwrap_or_default(),
            now,
        },
    )?;
    inode.attr.rdev = request.rdev;
    inode.attr.size = request.target.len() as u64;
    inode.target = request.target.clone();
    let mut mutations = Vec::with_capacity(4);
    if named {
        let entry = EntryRecord { ino, kind: request.kind };
        mutations.push(Mutation::PutEntry { parent: request.parent, name: request.name.clone(), entry });
        mutations.push(Mutation::TouchDir {
            dir: request.parent,
            time: now,
            entries_delta: 1,
            subdirs_delta: 0,
        });
    } else {
        inode.attr.nlink = 0;
    }
    // Before it is an orphan, which only being open keeps alive; and before others may ask for its attributes.
    note_open(worker, context, request, ino, inode.attr.version);
    mutations.push(Mutation::PutInode { inode: inode.clone() });
    mutations.extend(lists);
    mutations.extend(context.remember(ino));
    namespace.commit(&mutations)?;
    Ok(Outcome::Made(Box::new(inode), view.entries() + 1))
}

/// What is made.
pub struct Birth {
    /// Its number.
    pub ino: InodeId,
    /// What it is.
    pub kind: FileKind,
    /// Permission bits, maybe with a umask ([`fs_proto::attr::with_umask`]).
    pub mode: u32,
    /// Directory of its name.
    pub parent: InodeId,
    /// Its name.
    pub name: Bytes,
    /// What its layout is to have otherwise than the directory's.
    pub layout: LayoutWish,
    /// Now.
    pub now: TimeNs,
}

/// Who makes a file decides where a local one lies; a directory leaves it to those who make files in it.
fn layout_at_birth(layout: Layout, kind: FileKind, context: &Context) -> Layout {
    match kind {
        FileKind::Directory => layout,
        _ => layout.settled(context.near()),
    }
}

/// A new inode that takes from its directory and its maker what is theirs to give, and the changes that give it its access control lists.
pub fn born(
    worker: &Worker,
    context: &Context,
    dir: &DirView,
    birth: Birth,
) -> OpResult<(InodeRecord, Vec<Mutation>)> {
    let (dir_mode, _, dir_gid) = dir.owner();
    let inherits = dir_mode & SETGID != 0;
    let (mut mode, lists) = worker.node.namespace.born(dir, birth.kind, birth.mode)?;
    if birth.kind == FileKind::Directory {
        mode |= if inherits { SETGID } else { 0 };
    } else if inherits && !context.is_checked() && !context.caller.in_group(dir_gid) {
        // Nobody makes programs that run as a group that is not his.
        mode &= if mode & GROUP_EXECUTION == 0 { u32::MAX } else { !SETGID };
    }
    let mut inode = new_inode(NewInode {
        ino: birth.ino,
        kind: birth.kind,
        mode,
        uid: context.caller.uid,
        gid: if inherits { dir_gid } else { context.caller.gid },
        parent: birth.parent,
        name: birth.name,
        layout: layout_at_birth(birth.layout.applied(dir.layout()), birth.kind, context),
        now: birth.now,
    });
    inode.attr.inline = birth.kind == FileKind::File && worker.node.config.inline_bytes > 0;
    inode.attr.acl = lists.any();
    let changes = lists.changes(birth.ino, &Lists::default());
    Ok((inode, changes))
}
