//! Small files made with their content, or replaced: one message, one atomic local change, of one file or of many of a directory.
//!
//! # Invariants
//! - All files of one message that are changed are changed in one batch, with the memory of it for a retry (decision 0005).
//! - What this message cannot replace (a directory, a file in chunks, an inode of another server) is left alone, and the answer
//!   says what it is.

use std::collections::BTreeSet;
use std::rc::Rc;

use bytes::Bytes;
use fs_proto::msg::small::{MANY_MAX, Put, PutAnswer, PutFile, PutMany, PutManyAnswer, PutOutcome};
use fs_proto::placement::{entry_partition, name_hash};
use fs_proto::record::{EntryRecord, InlineRecord, InodeRecord, Mutation};
use fs_proto::{FileKind, InodeId, LayoutWish, Status, TimeNs};

use super::create::{Birth, born};
use super::{directory_here, directory_in_section, getattr, inline, lookup, valid_name};
use crate::backing::room;
use crate::error::{OpError, OpResult};
use crate::namespace::locks::{LockKey, LockSet, Mode};
use crate::namespace::permission::{SEARCH, WRITE, require};
use crate::namespace::{DirView, Namespace};
use crate::widen;
use crate::worker::{Context, Worker};

/// One file of a message; its checksum was verified.
struct Item {
    name: Bytes,
    content: InlineRecord,
    hash: u64,
    /// What the name stood for when the locks were chosen, else the number for the file to be made.
    there: Result<EntryRecord, InodeId>,
}

/// What the files of a message have in common.
struct Common {
    parent: InodeId,
    mode: u32,
    exclusive: bool,
    now: TimeNs,
}

/// Changes that are being gathered, and what they come to.
#[derive(Default)]
struct Plan {
    mutations: Vec<Mutation>,
    outcomes: Vec<PutOutcome>,
    made: i64,
    last: InodeId,
}

/// Makes or replaces one small file.
pub async fn put(worker: &Rc<Worker>, context: &Context, request: Put, bulk: &Bytes) -> OpResult<PutAnswer> {
    inline::check(bulk, request.crc)?;
    let limit = worker.node.config.inline_bytes;
    let Put { parent, name, mode, exclusive, .. } = request;
    if bulk.len() as u64 > u64::from(limit) {
        return Ok(PutAnswer { outcome: PutOutcome::TooLarge {}, limit });
    }
    room::admit(worker).await?;
    let item = item(worker, parent, name, InlineRecord { crc: request.crc, data: bulk.clone() }).await?;
    let common = Common { parent, mode, exclusive, now: worker.node.now() };
    let mut outcomes = carry_out(worker, context, &common, vec![item]).await?;
    match outcomes.pop() {
        Some(PutOutcome::Failed { status: Status::Exists }) => {
            Err(OpError::new(Status::Exists, "file exists"))
        }
        Some(PutOutcome::Failed { status }) => Err(OpError::new(status, "the file there cannot be replaced")),
        Some(outcome) => Ok(PutAnswer { outcome, limit }),
        None => Err(OpError::new(Status::Io, "a file was put without an outcome")),
    }
}

/// Makes or replaces many.
pub async fn put_many(
    worker: &Rc<Worker>,
    context: &Context,
    request: PutMany,
    bulk: &Bytes,
) -> OpResult<PutManyAnswer> {
    let limit = worker.node.config.inline_bytes;
    let PutMany { parent, mode, files } = request;
    let parts = parts(&files, bulk)?;
    room::admit(worker).await?;
    let common = Common { parent, mode, exclusive: false, now: worker.node.now() };
    let mut outcomes: Vec<Option<PutOutcome>> = Vec::with_capacity(files.len());
    let mut items = Vec::with_capacity(files.len());
    for (file, data) in files.into_iter().zip(parts) {
        let outcome = match inline::check(&data, file.crc) {
            Err(error) => Some(PutOutcome::Failed { status: error.status }),
            Ok(()) if data.len() as u64 > u64::from(limit) => Some(PutOutcome::TooLarge {}),
            Ok(()) => match item(worker, parent, file.name, InlineRecord { crc: file.crc, data }).await {
                Ok(item) => {
                    items.push(item);
                    None
                }
                Err(error) => Some(PutOutcome::Failed { status: error.of_item()? }),
            },
        };
        outcomes.push(outcome);
    }
    let mut done = carry_out(worker, context, &common, items).await?.into_iter();
    let outcomes = outcomes.into_iter().filter_map(|outcome| outcome.or_else(|| done.next())).collect();
    Ok(PutManyAnswer { outcomes, limit })
}

/// The parts of the bulk that belong to the files.
fn parts(files: &[PutFile], bulk: &Bytes) -> OpResult<Vec<Bytes>> {
    let names: BTreeSet<&Bytes> = files.iter().map(|file| &file.name).collect();
    let bytes: u64 = files.iter().map(|file| u64::from(file.len)).sum();
    if files.len() > MANY_MAX || names.len() < files.len() || bytes != bulk.len() as u64 {
        return Err(OpError::new(
            Status::Invalid,
            "too many files, a name twice, or lengths that are not those of the data",
        ));
    }
    let mut left = bulk.clone();
    Ok(files.iter().map(|file| left.split_to(file.len as usize)).collect())
}

async fn item(worker: &Rc<Worker>, parent: InodeId, name: Bytes, content: InlineRecord) -> OpResult<Item> {
    let node = &worker.node;
    valid_name(&name)?;
    let view = directory_here(node, parent, &name).await?;
    let hash = name_hash(parent, &name);
    let there = if let Some(entry) = node.namespace.settled_entry(parent, &name).await? {
        Ok(entry)
    } else {
        let partition = entry_partition(parent, hash, matches!(view, DirView::Wide(_)));
        Err(node.namespace.allocator().inode(partition)?)
    };
    Ok(Item { name, content, hash, there })
}

async fn carry_out(
    worker: &Rc<Worker>,
    context: &Context,
    common: &Common,
    items: Vec<Item>,
) -> OpResult<Vec<PutOutcome>> {
    let node = &worker.node;
    let Some(first) = items.first() else { return Ok(Vec::new()) };
    let bytes = items.iter().map(|item| item.content.data.len() as u64).sum();
    node.flusher.control().note_written(bytes);
    node.flusher.control().admit(node).await;
    let mut set = LockSet::of(&[(LockKey::Inode(common.parent), Mode::Touch)]);
    for item in &items {
        set.add(LockKey::Entry(common.parent, item.hash), Mode::Exclusive);
        let ino = item.there.as_ref().map_or_else(|fresh| *fresh, |entry| entry.ino);
        set.add(LockKey::Inode(ino), Mode::Exclusive);
    }
    let work = || {
        let view = directory_in_section(node, common.parent, &first.name)?;
        if !context.is_checked() {
            require(&context.caller, &node.namespace.dir_access(&view)?, SEARCH)?;
        }
        let mut plan = Plan::default();
        for item in &items {
            // A part of a wide directory that is not here is told for all names alike: clients ask by server.
            directory_in_section(node, common.parent, &item.name)?;
            plan.add(worker, context, common, &view, item)?;
        }
        plan.commit(&node.namespace, context, common)?;
        Ok::<_, OpError>((plan, view.entries()))
    };
    let (mut plan, before) = node.namespace.locks().with(&set, work).await?;
    for entries in before + 1..=before + plan.made as u64 {
        widen::consider(worker, common.parent, entries);
    }
    for (item, outcome) in items.iter().zip(&mut plan.outcomes) {
        if let PutOutcome::There { ino, attr, .. } = outcome {
            // Who needs them asks; the file may be gone by now, and what was put is put.
            *attr = lookup::attributes_here(worker, *ino).await.unwrap_or_default();
        } else if matches!(outcome, PutOutcome::Done { .. }) {
            node.counters.note_written(item.content.data.len());
        }
    }
    Ok(plan.outcomes)
}

impl Plan {
    fn add(
        &mut self,
        worker: &Rc<Worker>,
        context: &Context,
        common: &Common,
        view: &DirView,
        item: &Item,
    ) -> OpResult<()> {
        let now = worker.node.namespace.entry(common.parent, &item.name)?;
        let outcome = match (now, &item.there) {
            (None, Err(ino)) => self.make(worker, context, common, view, item, *ino)?,
            (Some(_), _) if common.exclusive => PutOutcome::Failed { status: Status::Exists },
            (Some(entry), Ok(seen)) if entry == *seen => {
                self.replace(worker, context, common, item, &entry)?
            }
            // The name changed between the look and the lock.
            _ => return Err(OpError::new(Status::Retry, "the name is being changed")),
        };
        self.outcomes.push(outcome);
        Ok(())
    }

    fn make(
        &mut self,
        worker: &Rc<Worker>,
        context: &Context,
        common: &Common,
        view: &DirView,
        item: &Item,
        ino: InodeId,
    ) -> OpResult<PutOutcome> {
        let access = worker.node.namespace.dir_access(view)?;
        if !context.is_checked()
            && let Err(error) = require(&context.caller, &access, WRITE | SEARCH)
        {
            return Ok(PutOutcome::Failed { status: error.status });
        }
        let (parent, name) = (common.parent, item.name.clone());
        let birth = Birth {
            ino,
            kind: FileKind::File,
            mode: common.mode,
            parent,
            name: name.clone(),
            layout: LayoutWish::default(),
            now: common.now,
        };
        let (mut inode, lists) = born(worker, context, view, birth)?;
        inode.attr.size = item.content.data.len() as u64;
        let attr = inode.attr.clone();
        let entry = EntryRecord { ino, kind: FileKind::File };
        self.mutations.push(Mutation::PutEntry { parent, name, entry });
        self.set_content(inode, item);
        self.mutations.extend(lists);
        self.made += 1;
        Ok(PutOutcome::Done { attr, fresh: true })
    }

    fn replace(
        &mut self,
        worker: &Rc<Worker>,
        context: &Context,
        common: &Common,
        item: &Item,
        entry: &EntryRecord,
    ) -> OpResult<PutOutcome> {
        let node = &worker.node;
        let there = PutOutcome::There { ino: entry.ino, kind: entry.kind, attr: None };
        if entry.kind != FileKind::File || !node.owns(entry.ino.partition()) {
            return Ok(there);
        }
        let inode = node.namespace.inode_in_section(entry.ino)?.ok_or(OpError::not_found())?;
        if !inode.attr.inline {
            return Ok(there);
        }
        if !context.is_checked()
            && let Err(error) = require(&context.caller, &node.namespace.access(&inode)?, WRITE)
        {
            return Ok(PutOutcome::Failed { status: error.status });
        }
        let mut inode =
            inline::written(&inode, item.content.data.len() as u64, common.now, common.now, context);
        inode.cut_version = inode.attr.version;
        let attr = inode.attr.clone();
        self.set_content(inode, item);
        Ok(PutOutcome::Done { attr, fresh: false })
    }

    fn set_content(&mut self, inode: InodeRecord, item: &Item) {
        let ino = inode.attr.ino;
        self.last = ino;
        self.mutations.push(Mutation::PutInode { inode });
        self.mutations.push(if item.content.data.is_empty() {
            Mutation::DelInline { ino }
        } else {
            Mutation::PutInline { ino, content: item.content.clone() }
        });
    }

    fn commit(&mut self, namespace: &Namespace, context: &Context, common: &Common) -> OpResult<()> {
        if self.mutations.is_empty() {
            return Ok(());
        }
        if self.made > 0 {
            let (dir, time, entries_delta) = (common.parent, common.now, self.made);
            self.mutations.push(Mutation::TouchDir { dir, time, entries_delta, subdirs_delta: 0 });
        }
        self.mutations.extend(context.remember(self.last));
        namespace.commit(&self.mutations)
    }
}

/// The answer to a put that was carried out before.
pub async fn put_before(worker: &Rc<Worker>, ino: InodeId) -> OpResult<PutAnswer> {
    let attr = getattr::attributes_since(worker, ino, FileKind::File).await?;
    let outcome = PutOutcome::Done { attr, fresh: true };
    Ok(PutAnswer { outcome, limit: worker.node.config.inline_bytes })
}

/// The answer to a put of many that was carried out before. It tells what is there now: small files here were put by it, and
/// the client puts by other ways what is something else, as it would have had to the first time.
pub async fn put_many_before(worker: &Rc<Worker>, request: PutMany) -> OpResult<PutManyAnswer> {
    let limit = worker.node.config.inline_bytes;
    let mut outcomes = Vec::with_capacity(request.files.len());
    for file in request.files {
        let outcome = match now(worker, request.parent, &file, limit).await {
            Ok(outcome) => outcome,
            Err(error) => PutOutcome::Failed { status: error.of_item()? },
        };
        outcomes.push(outcome);
    }
    Ok(PutManyAnswer { outcomes, limit })
}

async fn now(worker: &Rc<Worker>, parent: InodeId, file: &PutFile, limit: u32) -> OpResult<PutOutcome> {
    if file.len > limit {
        return Ok(PutOutcome::TooLarge {});
    }
    valid_name(&file.name)?;
    directory_here(&worker.node, parent, &file.name).await?;
    let entry = worker.node.namespace.settled_entry(parent, &file.name).await?.ok_or(OpError::not_found())?;
    let (ino, kind) = (entry.ino, entry.kind);
    Ok(match lookup::attributes_here(worker, ino).await? {
        Some(attr) if attr.inline => PutOutcome::Done { attr, fresh: true },
        attr => PutOutcome::There { ino, kind, attr },
    })
}
