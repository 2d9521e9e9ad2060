//! The operations of a server, one file each: check, plan, carry out, answer.
//!
//! Deliberately absent: sockets and frames (`worker.rs`, `dispatch.rs`), keys and batches (`namespace/`).

pub mod admin;
pub mod append;
pub mod chunk;
pub mod chunk_map;
pub mod copy;
pub mod create;
pub mod get;
pub mod getattr;
pub mod inline;
pub mod layout;
pub mod link;
pub mod lock;
pub mod lookup;
pub mod mkdir;
pub mod node_opens;
pub mod open;
pub mod pointer;
pub mod publish;
pub mod put;
pub mod readdir;
pub mod rename;
pub mod rmdir;
pub mod scrub;
pub mod setattr;
pub mod spill;
pub mod unlink;
pub mod vault;
pub mod xattr;

use std::rc::Rc;

use fs_proto::placement::{entry_partition, name_hash};
use fs_proto::record::Check;
use fs_proto::{Attr, InodeId, NAME_MAX, ServerId, Status};

use crate::error::{OpError, OpResult};
use crate::namespace::DirView;
use crate::namespace::locks::LockKey;
use crate::node::Node;
use crate::worker::{Context, Worker};

/// Set-group-id bit: what is made in such a directory belongs to its group.
pub const SETGID: u32 = 0o2000;

/// A name that a user may give: not empty, not too long, not "." or "..", without '/' and NUL.
pub fn valid_name(name: &[u8]) -> OpResult<()> {
    if name.len() > NAME_MAX {
        return Err(OpError::new(Status::NameTooLong, "a file name has at most 255 bytes"));
    }
    let reserved = matches!(name, b"" | b"." | b"..");
    if reserved || name.iter().any(|byte| matches!(byte, b'/' | 0)) {
        return Err(OpError::new(
            Status::Invalid,
            "a file name is not empty, not . or .., and has no / or NUL",
        ));
    }
    Ok(())
}

/// The directory that holds the entry `name` of `parent`, if that is on this server. Waits for a transaction that makes, widens or
/// removes the directory.
pub async fn directory_here(node: &Node, parent: InodeId, name: &[u8]) -> OpResult<DirView> {
    node.namespace.locks().readable(LockKey::Inode(parent)).await;
    if node.owns(parent.partition()) {
        // For the cache: the view below reads without filling it.
        node.namespace.inode(parent)?;
    }
    directory_in_section(node, parent, name)
}

/// As [`directory_here`], for code inside a lock section of `parent`.
pub fn directory_in_section(node: &Node, parent: InodeId, name: &[u8]) -> OpResult<DirView> {
    let home = node.owns(parent.partition());
    match node.namespace.directory(parent, home) {
        // Told wide also when the directory is here and its part is gone: the look-up of the part settles it.
        Ok(DirView::Wide(_)) if !node.owns(entry_partition(parent, name_hash(parent, name), true)) => {
            Err(WIDE)
        }
        Ok(view) => Ok(view),
        Err(error) if home && error.status == Status::NotFound && is_wide(node, parent)? => Err(WIDE),
        Err(error) => Err(error),
    }
}

const WIDE: OpError =
    OpError::new(Status::WideDirectory, "the directory is wide: ask the owner of the name's partition");

fn is_wide(node: &Node, dir: InodeId) -> OpResult<bool> {
    Ok(node.namespace.inode_in_section(dir)?.is_some_and(|inode| inode.attr.wide))
}

/// The server that holds entry `name` of a directory with these attributes.
pub fn entry_owner(node: &Node, dir: &Attr, name: &[u8]) -> ServerId {
    node.owner(entry_partition(dir.ino, name_hash(dir.ino, name), dir.wide))
}

/// The check that the caller may change entries of `dir`, of which one stands for an inode of `victim_uid`.
pub fn may_change(context: &Context, dir: InodeId, victim_uid: Option<u32>) -> Check {
    if context.is_checked() {
        Check::DirLive { dir }
    } else {
        Check::DirWritable { dir, caller: context.caller.clone(), victim_uid }
    }
}

/// The same request of several servers at once; fails with the first failure.
pub async fn ask_all<R: fs_proto::Request>(
    worker: &Rc<Worker>,
    servers: &[ServerId],
    request: &R,
) -> OpResult<Vec<R::Reply>> {
    let answers = servers.iter().map(|server| worker.ask(*server, request));
    futures_util::future::join_all(answers).await.into_iter().collect()
}
