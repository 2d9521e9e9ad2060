//! Name to inode, with attributes when the inode lives here too: one message.

use std::rc::Rc;

use fs_proto::msg::name::{Entry, Lookup};
use fs_proto::{Attr, InodeId};

use super::{directory_here, getattr, valid_name};
use crate::error::{OpError, OpResult};
use crate::namespace::permission::{SEARCH, require};
use crate::transaction::coordinator;
use crate::worker::{Context, Worker};

/// Finds a name.
pub async fn lookup(worker: &Rc<Worker>, context: &Context, request: Lookup) -> OpResult<Entry> {
    let node = &worker.node;
    valid_name(&request.name)?;
    let view = directory_here(node, request.parent, &request.name).await?;
    if !context.is_checked() {
        require(&context.caller, &node.namespace.dir_access(&view)?, SEARCH)?;
    }
    coordinator::retrying(async || {
        let found = node.namespace.settled_entry(request.parent, &request.name).await?;
        let entry = found.ok_or(OpError::not_found())?;
        let attr = attributes_here(worker, entry.ino).await?;
        Ok(Entry { ino: entry.ino, kind: entry.kind, attr })
    })
    .await
}

/// Attributes of an inode that a name stood for, if it lives here.
pub async fn attributes_here(worker: &Rc<Worker>, ino: InodeId) -> OpResult<Option<Attr>> {
    if !worker.node.owns(ino.partition()) {
        return Ok(None);
    }
    getattr::of_name(getattr::attributes(worker, ino).await).map(Some)
}
