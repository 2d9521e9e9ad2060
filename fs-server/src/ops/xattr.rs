//! Extended attributes. Access control lists are two of them, and change with the mode (`namespace/acl.rs`).

use std::rc::Rc;

use bytes::Bytes;
use fs_proto::msg::inode::{Getxattr, Listxattr, Removexattr, Setxattr};
use fs_proto::record::{InodeRecord, Mutation};
use fs_proto::{Attr, FileKind, InodeId, LAYOUT_ATTRIBUTE, LayoutWish, Placement, Status};

use super::SETGID;
use super::layout;
use super::setattr::commit_held;
use crate::backing::{pins, room};
use crate::error::{OpError, OpResult};
use crate::flush::policy;
use crate::inherited;
use crate::kv::Batch;
use crate::namespace::apply::CAPABILITY;
use crate::namespace::locks::{LockKey, LockSet, Mode};
use crate::namespace::permission::{READ, WRITE, require, require_owner};
use crate::namespace::{Namespace, acl};
use crate::overflow;
use crate::worker::{Context, Worker};

/// What names of attributes that mean something to Hayate begin with.
const OURS: &[u8] = b"user.hayate.";
/// Longest name, in bytes (XATTR_NAME_MAX).
const NAME_MAX: usize = 255;
/// Longest value, in bytes (XATTR_SIZE_MAX).
const VALUE_MAX: usize = 65_536;
const NONE: OpError = OpError::new(Status::NoAttribute, "no such attribute");
const KINDS: OpError = OpError::new(
    Status::NotSupported,
    "attributes are user.*, trusted.*, security.* and the two access control lists",
);

/// Value of one.
pub async fn get(worker: &Rc<Worker>, context: &Context, request: Getxattr) -> OpResult<Bytes> {
    let inode = worker.node.namespace.live_inode(request.ino).await?;
    readable(worker, context, &inode, &request.name)?;
    if request.name == LAYOUT_ATTRIBUTE {
        return layout::shown(&inode.attr).ok_or(NONE);
    }
    if let Some(value) = policy::shown(worker, &inode, &request.name).await? {
        return Ok(value);
    }
    worker.node.namespace.xattr(request.ino, &request.name)?.ok_or(NONE)
}

/// Names of all that the caller may know of. The layout is not among them: who copies all attributes of a file copies content, not where
/// that lies.
pub async fn list(worker: &Rc<Worker>, context: &Context, request: Listxattr) -> OpResult<Vec<Bytes>> {
    worker.node.namespace.live_inode(request.ino).await?;
    let names = worker.node.namespace.xattrs(request.ino)?.into_iter().map(|(name, _)| name);
    Ok(names.filter(|name| context.caller.is_root() || !name.starts_with(b"trusted.")).collect())
}

/// Sets one.
pub async fn set(worker: &Rc<Worker>, context: &Context, request: Setxattr) -> OpResult<()> {
    if request.name.len() > NAME_MAX {
        return Err(OpError::new(Status::OutOfRange, "an attribute's name has at most 255 bytes"));
    }
    if request.value.len() > VALUE_MAX {
        return Err(OpError::new(Status::OutOfRange, "an attribute's value has at most 65536 bytes"));
    }
    if request.name == policy::FLUSH {
        policy::check(&request.value)?;
    }
    if [pins::PIN, overflow::ATTRIBUTE].contains(&&request.name[..]) {
        inherited::check_switch(&request.name, &request.value)?;
    }
    if matches!(&request.name[..], acl::ACCESS | acl::DEFAULT) {
        return set_list(worker, context, request.ino, &request.name, acl::validated(&request.value)?).await;
    }
    if request.name == LAYOUT_ATTRIBUTE {
        if request.create {
            return Err(OpError::new(Status::Exists, "everything has a layout"));
        }
        return layout::change(worker, context, request.ino, &layout::wished(&request.value)?).await;
    }
    // The attributes of Hayate are what makes room: policies of flushing, pins taken away.
    if !request.name.starts_with(OURS) {
        room::admit_name(worker).await?;
    }
    change(worker, context, request.ino, &request.name, |inode, there| {
        match (request.create, request.replace) {
            (true, _) if there => Err(OpError::new(Status::Exists, "the attribute exists")),
            (_, true) if !there => Err(NONE),
            _ => Ok(Mutation::PutXattr {
                ino: inode.attr.ino,
                name: request.name.clone(),
                value: request.value.clone(),
            }),
        }
    })
    .await
}

/// Removes one.
pub async fn remove(worker: &Rc<Worker>, context: &Context, request: Removexattr) -> OpResult<()> {
    if matches!(&request.name[..], acl::ACCESS | acl::DEFAULT) {
        return set_list(worker, context, request.ino, &request.name, None).await;
    }
    if request.name == LAYOUT_ATTRIBUTE {
        let striped = LayoutWish { placement: Some(Placement::Striped), ..LayoutWish::default() };
        return layout::change(worker, context, request.ino, &striped).await;
    }
    change(worker, context, request.ino, &request.name, |inode, there| {
        if there {
            Ok(Mutation::DelXattr { ino: inode.attr.ino, name: request.name.clone() })
        } else {
            Err(NONE)
        }
    })
    .await
}

async fn change(
    worker: &Rc<Worker>,
    context: &Context,
    ino: InodeId,
    name: &Bytes,
    decide: impl FnOnce(&InodeRecord, bool) -> OpResult<Mutation>,
) -> OpResult<()> {
    let namespace = &worker.node.namespace;
    let set = LockSet::of(&[(LockKey::Inode(ino), Mode::Exclusive)]);
    namespace
        .locks()
        .with(&set, || {
            let inode = namespace.inode_in_section(ino)?.ok_or(OpError::not_found())?;
            writable(worker, context, &inode, name)?;
            let there = namespace.xattr(ino, name)?.is_some();
            let mutation = decide(&inode, there)?;
            let mut touched = (*inode).clone();
            touched.attr.ctime = worker.node.now();
            if *name == CAPABILITY {
                touched.attr.capable = matches!(mutation, Mutation::PutXattr { .. });
            }
            let mut mutations = vec![mutation, Mutation::PutInode { inode: touched }];
            mutations.extend(context.remember(ino));
            namespace.commit(&mutations)
        })
        .await
}

/// Sets a list or takes it away; the mode follows an access list.
async fn set_list(
    worker: &Rc<Worker>,
    context: &Context,
    ino: InodeId,
    name: &[u8],
    list: Option<Bytes>,
) -> OpResult<()> {
    let namespace = &worker.node.namespace;
    let hold = namespace.locks().hold(LockSet::of(&[(LockKey::Inode(ino), Mode::Exclusive)])).await;
    let before = namespace.inode_in_section(ino)?.ok_or(OpError::not_found())?;
    let (inode, lists) = with_list(worker, context, &before, name, list)?;
    commit_held(worker, context, hold, inode, lists, Batch::default()).await
}

/// The inode with another list of one kind, and the changes beside it.
fn with_list(
    worker: &Worker,
    context: &Context,
    before: &InodeRecord,
    name: &[u8],
    list: Option<Bytes>,
) -> OpResult<(InodeRecord, Vec<Mutation>)> {
    let (mut inode, ino) = (before.clone(), before.attr.ino);
    let attr = &mut inode.attr;
    require_owner(&context.caller, attr)?;
    if attr.kind == FileKind::Symlink {
        return Err(OpError::new(Status::NotSupported, "symbolic links have no access control lists"));
    }
    if name == acl::DEFAULT && !attr.is_dir() && list.is_some() {
        return Err(OpError::new(Status::AccessDenied, "only directories have default access control lists"));
    }
    let had = worker.node.namespace.lists(ino, attr.acl)?;
    let mut has = had.clone();
    if name == acl::DEFAULT {
        has.default = list;
    } else {
        has.access = list.and_then(|list| {
            let (bits, more) = acl::mode_of(&list);
            attr.mode = attr.mode & !0o777 | bits;
            if !context.caller.is_root() && !context.caller.in_group(attr.gid) {
                attr.mode &= !SETGID;
            }
            more.then_some(list)
        });
    }
    (attr.acl, attr.ctime) = (has.any(), worker.node.now());
    Ok((inode, has.changes(ino, &had)))
}

/// The change of the access list of an inode that got the mode in `attr`, if it has one.
pub fn list_after_chmod(namespace: &Namespace, attr: &Attr) -> OpResult<Option<Mutation>> {
    let list = namespace.lists(attr.ino, attr.acl)?.access;
    Ok(list.map(|list| Mutation::PutXattr {
        ino: attr.ino,
        name: Bytes::from_static(acl::ACCESS),
        value: acl::with_mode(&list, attr.mode),
    }))
}

fn readable(worker: &Worker, context: &Context, inode: &InodeRecord, name: &[u8]) -> OpResult<()> {
    // They say nothing of contents, and links and pipes are copied, too.
    if [policy::DURABLE, policy::FLUSH].contains(&name) {
        return Ok(());
    }
    if name.starts_with(b"user.") {
        if matches!(inode.attr.kind, FileKind::File | FileKind::Directory) {
            return if context.is_checked() {
                Ok(())
            } else {
                require(&context.caller, &worker.node.namespace.access(inode)?, READ)
            };
        }
        return Err(NONE);
    }
    if name.starts_with(b"trusted.") {
        return if context.caller.is_root() { Ok(()) } else { Err(NONE) };
    }
    if name.starts_with(b"security.") || matches!(name, acl::ACCESS | acl::DEFAULT) {
        return Ok(());
    }
    Err(KINDS)
}

fn writable(worker: &Worker, context: &Context, inode: &InodeRecord, name: &[u8]) -> OpResult<()> {
    if name.starts_with(OURS) && ![policy::FLUSH, pins::PIN, overflow::ATTRIBUTE].contains(&name) {
        return Err(OpError::new(
            Status::NotSupported,
            "of Hayate's attributes user.hayate.layout, .flush, .pin and .overflow can be set",
        ));
    }
    if name.starts_with(b"user.") {
        if !matches!(inode.attr.kind, FileKind::File | FileKind::Directory) {
            return Err(OpError::new(
                Status::NotPermitted,
                "only files and directories have user attributes",
            ));
        }
        return if context.is_checked() {
            Ok(())
        } else {
            require(&context.caller, &worker.node.namespace.access(inode)?, WRITE)
        };
    }
    if name.starts_with(b"trusted.") {
        let refused = OpError::new(Status::NotPermitted, "only root sets trusted attributes");
        return if context.caller.is_root() { Ok(()) } else { Err(refused) };
    }
    if name.starts_with(b"security.") {
        return require_owner(&context.caller, &inode.attr);
    }
    Err(KINDS)
}
