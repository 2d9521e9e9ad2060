//! Extended attributes.

use std::rc::Rc;

use bytes::Bytes;
use fs_proto::msg::inode::{Getxattr, Listxattr, Removexattr, Setxattr};
use fs_proto::record::{InodeRecord, Mutation};
use fs_proto::{FileKind, InodeId, Status};

use crate::error::{OpError, OpResult};
use crate::namespace::locks::{LockKey, LockSet, Mode};
use crate::namespace::permission::{READ, WRITE, access_of, require, require_owner};
use crate::worker::{Context, Worker};

/// Longest name, in bytes (XATTR_NAME_MAX).
const NAME_MAX: usize = 255;
/// Longest value, in bytes (XATTR_SIZE_MAX).
const VALUE_MAX: usize = 65_536;
/// Shows the layout of a file, or the one that files inherit.
const LAYOUT: &[u8] = b"user.hayate.layout";

const NONE: OpError = OpError::new(Status::NoAttribute, "no such attribute");

/// Value of one.
pub async fn get(worker: &Rc<Worker>, context: &Context, request: Getxattr) -> OpResult<Bytes> {
    let inode = worker.node.namespace.live_inode(request.ino).await?;
    if request.name == LAYOUT {
        let layout = inode.attr.layout;
        return Ok(Bytes::from(format!("striped chunk={}", layout.chunk_bytes())));
    }
    readable(context, &inode, &request.name)?;
    worker.node.namespace.xattr(request.ino, &request.name)?.ok_or(NONE)
}

/// Names of all that the caller may know of.
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
            writable(context, &inode, name)?;
            let there = namespace.xattr(ino, name)?.is_some();
            let mutation = decide(&inode, there)?;
            let mut touched = (*inode).clone();
            touched.attr.ctime = worker.node.now();
            let mut mutations = vec![mutation, Mutation::PutInode { inode: touched }];
            mutations.extend(context.remember(ino));
            namespace.commit(&mutations)
        })
        .await
}

fn readable(context: &Context, inode: &InodeRecord, name: &[u8]) -> OpResult<()> {
    if name.starts_with(b"user.") {
        if matches!(inode.attr.kind, FileKind::File | FileKind::Directory) {
            return if context.is_checked() {
                Ok(())
            } else {
                require(&context.caller, access_of(&inode.attr), READ)
            };
        }
        return Err(NONE);
    }
    if name.starts_with(b"trusted.") {
        return if context.caller.is_root() { Ok(()) } else { Err(NONE) };
    }
    if name.starts_with(b"security.") {
        return Ok(());
    }
    Err(OpError::new(Status::NotSupported, "attributes are user.*, trusted.* and security.*"))
}

fn writable(context: &Context, inode: &InodeRecord, name: &[u8]) -> OpResult<()> {
    if name.starts_with(b"user.hayate.") {
        return Err(OpError::new(
            Status::NotSupported,
            "attributes user.hayate.* cannot be set in this release",
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
            require(&context.caller, access_of(&inode.attr), WRITE)
        };
    }
    if name.starts_with(b"trusted.") {
        let refused = OpError::new(Status::NotPermitted, "only root sets trusted attributes");
        return if context.caller.is_root() { Ok(()) } else { Err(refused) };
    }
    if name.starts_with(b"security.") {
        return require_owner(&context.caller, &inode.attr);
    }
    Err(OpError::new(Status::NotSupported, "attributes are user.*, trusted.* and security.*"))
}
