//! From errors and panics of operations to errno: the only place.

use fs_client::{Error, LockFailure, Status};
use fuser::Errno;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Why an operation is answered with an error.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The client library says so.
    Client(Error),
    /// The adapter says so.
    Errno(Errno),
}

impl From<Error> for Failure {
    fn from(e: Error) -> Self {
        Failure::Client(e)
    }
}

impl From<Errno> for Failure {
    fn from(e: Errno) -> Self {
        Failure::Errno(e)
    }
}

/// Result of an operation.
pub(crate) type Outcome<T> = Result<T, Failure>;

/// What "not found" means to the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Missing {
    /// The operation was about a name: `ENOENT`.
    Name,
    /// The operation was about an inode that the kernel believed to exist: `ESTALE`, on which it walks the path again past
    /// its caches (a file that another node replaced is then found at once).
    Inode,
}

/// Runs an operation about inode `ino`; failures are logged here and become an errno.
pub(crate) fn attempt<T>(
    op: &'static str,
    ino: u64,
    missing: Missing,
    work: impl FnOnce() -> Outcome<T>,
) -> Result<T, Errno> {
    // State shared with other operations is changed in single steps only, so none is left half done by a panic.
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(Failure::Errno(errno))) => Err(errno),
        Ok(Err(Failure::Client(e))) => {
            if is_ordinary(&e) {
                tracing::debug!(op, ino, error = %e, "refused");
            } else {
                tracing::error!(op, ino, error = %e, "operation failed");
            }
            Err(errno_of(&e, missing))
        }
        Err(panic) => {
            tracing::error!(
                op,
                ino,
                panic = panic_text(&*panic),
                "operation panicked, this is a bug; answered EIO"
            );
            Err(Errno::EIO)
        }
    }
}

fn errno_of(e: &Error, missing: Missing) -> Errno {
    match missing {
        Missing::Inode if e.is_not_found() => Errno::from_i32(libc::ESTALE),
        Missing::Inode | Missing::Name => Errno::from_i32(e.errno()),
    }
}

/// Whether an error is an answer that applications reckon with; the others are for a person to look at.
fn is_ordinary(e: &Error) -> bool {
    match e.code() {
        Some(status) => !matches!(
            status,
            Status::NoSpace
                | Status::ReadOnly
                | Status::Io
                | Status::Corrupt
                | Status::Unavailable
                | Status::TimedOut
                | Status::BadMessage
                | Status::WrongVersion
                | Status::Unauthenticated
                | Status::TierFailed
                | Status::TierRefused
        ),
        None => matches!(e, Error::NotOpenFor(_) | Error::Lock(LockFailure::Deadlock)),
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(status: Status, missing: Missing) -> i32 {
        attempt::<()>("test", 1, missing, || Err(Error::status(status, "as asked").into()))
            .unwrap_err()
            .code()
    }

    #[test]
    fn a_panic_becomes_eio() {
        let result = attempt::<()>("test", 1, Missing::Name, || panic!("on purpose"));
        assert_eq!(result, Err(Errno::EIO));
    }

    #[test]
    fn a_missing_inode_is_stale_and_a_missing_name_is_not() {
        assert_eq!(refused(Status::NotFound, Missing::Name), libc::ENOENT);
        assert_eq!(refused(Status::NotFound, Missing::Inode), libc::ESTALE);
        assert_eq!(refused(Status::Exists, Missing::Inode), libc::EEXIST);
    }

    #[test]
    fn every_status_has_an_errno() {
        for status in Status::ALL.iter().filter(|status| **status != Status::Ok) {
            assert_eq!(refused(*status, Missing::Name), status.errno(), "{status:?}");
        }
    }

    #[test]
    fn failures_of_the_system_are_not_ordinary() {
        assert!(is_ordinary(&Error::status(Status::NotEmpty, "")));
        assert!(!is_ordinary(&Error::status(Status::Corrupt, "")));
        assert!(!is_ordinary(&Error::Cluster("gone".into())));
    }
}
