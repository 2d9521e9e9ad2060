//! Bringing the copy of an inode in line: a directory's attributes here; a file by way of its names' owners.

use std::rc::Rc;

use fs_proto::{InodeId, Status};

use super::outcome::{FlushResult, Stop};
use super::queue::FlushItem;
use super::{content, dirs, remote};
use crate::ops::getattr;
use crate::tier::{Attributes, Place};
use crate::worker::Worker;

/// Flushes an inode that lives here.
pub async fn flush(worker: &Rc<Worker>, ino: InodeId) -> FlushResult<()> {
    let node = &worker.node;
    remote::settle(node, ino).await;
    let attr = match getattr::attributes(worker, ino).await {
        Ok(attr) => attr,
        // Its names were noted when they went.
        Err(error) if error.status == Status::NotFound => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    if attr.is_dir() {
        // One that is not in the tier yet is noted again when it comes there.
        let Some(dir) = dirs::handle(worker, ino).await? else { return Ok(()) };
        let attributes = if ino == InodeId::ROOT {
            // The tier's own directory belongs to whoever made it: only its times follow.
            Attributes { atime: attr.atime, mtime: attr.mtime, ..Attributes::default() }
        } else {
            content::attributes(&attr, &node.namespace.xattrs(ino)?)
        };
        let (place, id) = (Place::itself(&dir), dir.id);
        return Ok(node.flusher.on_tier(move |tier| tier.set(&place, id, &attributes)).await?);
    }
    let Some(inode) = node.namespace.inode(ino)? else { return Ok(()) };
    for (parent, name) in node.namespace.names_of(&inode)? {
        if node.namespace.entry(parent, &name)?.is_some() {
            node.namespace.queue().note_now(&FlushItem::Name(parent, name))?;
        } else {
            remote::note_name(worker, parent, &name, false).await?;
        }
    }
    Ok::<(), Stop>(())
}
