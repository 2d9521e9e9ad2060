//! A name and the file that it stands for lie with different servers: between the answer of the one and the question to the other the name may
//! be given to another file. Then it is looked at again, so that what always exists is always found
//! (`tests/tests/two_clients.rs`, `crates/cli/tests/linearizable/`).

use fs_proto::Status;

use crate::error::{Error, Result};

/// Looks before the failure is believed. Each fails only if the name was given away within two messages.
const LOOKS: usize = 32;

/// What a look came to.
pub(super) enum Look<T> {
    /// The file of the name.
    At(T),
    /// The name was there, its file is not.
    Gone(Error),
}

/// Looks until the file is there or the name is not.
pub(super) async fn looking<T>(mut look: impl AsyncFnMut() -> Result<Look<T>>) -> Result<T> {
    for _ in 1..LOOKS {
        if let Look::At(found) = look().await? {
            return Ok(found);
        }
    }
    match look().await? {
        Look::At(found) => Ok(found),
        Look::Gone(error) => Err(error),
    }
}

/// Whether an inode is not there any more.
pub(super) fn is_gone(error: &Error) -> bool {
    matches!(error.code(), Some(Status::NotFound | Status::Stale))
}
