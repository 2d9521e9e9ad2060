//! A page of a directory: entries in the order of cookies, so that a page goes on where the last ended, whatever changed meanwhile.

use std::rc::Rc;
use std::sync::Arc;

use fs_proto::msg::name::{DirEntry, DirPage, Readdir};
use fs_proto::{Flags, Status};

use super::getattr;
use crate::error::{OpError, OpResult};
use crate::namespace::DirView;
use crate::namespace::locks::LockKey;
use crate::namespace::permission::{READ, require};
use crate::worker::{Context, Worker};

/// Most entries of one page, so that it fits into a message.
const PAGE_MAX: u32 = 8192;

/// Reads the page. A wide directory is read part by part: of each server with [`Flags::TO_SERVER`].
pub async fn readdir(worker: &Rc<Worker>, context: &Context, request: Readdir) -> OpResult<DirPage> {
    let node = &worker.node;
    let home = node.owns(request.dir.partition());
    let part = context.header.flags.has(Flags::TO_SERVER);
    if home {
        node.namespace.live_inode(request.dir).await?;
    } else {
        // Where only a part of the directory is, too, a rename that was answered may still be arriving.
        node.namespace.locks().settled(LockKey::Inode(request.dir)).await;
    }
    let view = match node.namespace.directory(request.dir, home) {
        Ok(view) => view,
        Err(error) if part && !home && error.status == Status::NotFound => {
            // Not wide (any more), and the home is elsewhere: nothing of it is here.
            return Ok(DirPage { entries: Vec::new(), end: true, wide: false });
        }
        Err(error) => return Err(error),
    };
    if !context.is_checked() {
        require(&context.caller, &node.namespace.dir_access(&view)?, READ)?;
    }
    if let (DirView::Narrow(inode), 0) = (&view, request.after) {
        node.namespace.note_reading(Arc::clone(inode), node.now());
    }
    let wide = matches!(view, DirView::Wide(_));
    if wide && !part {
        return Ok(DirPage { entries: Vec::new(), end: true, wide });
    }
    if request.limit == 0 {
        return Err(OpError::new(Status::Invalid, "a page has at least one entry"));
    }
    let (found, end) =
        node.namespace.page(request.dir, request.after, request.limit.min(PAGE_MAX) as usize)?;
    let mut entries = Vec::with_capacity(found.len());
    for (cookie, name, entry) in found {
        let local = request.plus && node.owns(entry.ino.partition());
        let attr = if local { getattr::listed(worker, entry.ino, context.asker()).await? } else { None };
        entries.push(DirEntry { cookie, ino: entry.ino, kind: entry.kind, name, attr });
    }
    Ok(DirPage { entries, end, wide })
}
