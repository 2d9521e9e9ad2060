//! `user.hayate.pin` = `yes` or `no`: of a file, or of a directory for everything below that says nothing else.

use std::rc::Rc;

use fs_proto::record::InodeRecord;

use crate::error::OpResult;
use crate::inherited::Inherited;
use crate::worker::Worker;

/// The attribute.
pub const PIN: &[u8] = b"user.hayate.pin";

/// What directories say, or inherit.
pub fn pins() -> Inherited<bool> {
    Inherited::new(PIN, |value| Some(value == b"yes"), false)
}

/// Whether a file that lives here is to stay.
pub async fn is_pinned(worker: &Rc<Worker>, inode: &InodeRecord) -> OpResult<bool> {
    worker.node.backing.pins.of_inode(worker, inode).await
}
