//! `user.hayate.pin` = `yes` or `no`: of a file, or of a directory for everything below that says nothing else.

use std::rc::Rc;

use fs_proto::Status;
use fs_proto::record::InodeRecord;

use crate::error::{OpError, OpResult};
use crate::inherited::Inherited;
use crate::worker::Worker;

/// The attribute.
pub const PIN: &[u8] = b"user.hayate.pin";

/// What directories say, or inherit.
pub fn pins() -> Inherited<bool> {
    Inherited::new(PIN, |value| Some(value == b"yes"), false)
}

/// Checks a value of the attribute.
pub fn check(value: &[u8]) -> OpResult<()> {
    match value {
        b"yes" | b"no" => Ok(()),
        _ => Err(OpError::new(Status::Invalid, "user.hayate.pin is yes or no")),
    }
}

/// Whether a file that lives here is to stay.
pub async fn is_pinned(worker: &Rc<Worker>, inode: &InodeRecord) -> OpResult<bool> {
    let xattrs = worker.node.namespace.xattrs(inode.attr.ino)?;
    worker.node.backing.pins.of(worker, inode.attr.ino, inode.attr.parent, &xattrs).await
}
