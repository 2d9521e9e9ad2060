//! What can go wrong, one variant per thing that a caller can do about it.

use fs_proto::{DecodeError, InodeId, ServerId, Status};
use thiserror::Error;

/// Result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// Why an operation failed. [`Error::errno`] is what an application sees.
#[derive(Debug, Clone, Error)]
pub enum Error {
    /// A server refused: the operation cannot be done, or not by this caller.
    #[error("{path}{message}", path = prefix(path.as_ref()))]
    Status {
        /// How it ended.
        status: Status,
        /// The server's words, or the client's own.
        message: String,
        /// The path that was given, in operations by path.
        path: Option<String>,
    },
    /// A server could not be reached, or went away, for as long as the client was told to try.
    #[error("{path}server {server} did not answer for {seconds} s ({cause}); see whether it runs (hayate status) and try again", path = prefix(path.as_ref()))]
    Unavailable {
        /// Who was asked.
        server: ServerId,
        /// How long it was tried.
        seconds: u64,
        /// The last failure.
        cause: String,
        /// The path that was given, in operations by path.
        path: Option<String>,
    },
    /// A server answers but does not accept this client.
    #[error("server {server} refuses this client: {reason}")]
    Rejected {
        /// Who was asked.
        server: ServerId,
        /// Why, and what to do.
        reason: String,
    },
    /// Data differs from its checksum, on arrival, twice.
    #[error(
        "data of inode {ino:?} at byte {offset} does not match its checksum, twice: check the network and the memory of server {server}"
    )]
    Corrupt {
        /// Which file.
        ino: InodeId,
        /// Where in it.
        offset: u64,
        /// Who sent it.
        server: ServerId,
    },
    /// A server sent what is not an answer of this protocol.
    #[error(
        "server {server} sent an answer that makes no sense ({what}): use the same release of hayate on all nodes"
    )]
    Protocol {
        /// Who was asked.
        server: ServerId,
        /// What is wrong.
        what: String,
    },
    /// The cluster file cannot be used.
    #[error("{0}")]
    Cluster(String),
    /// The file was not opened for this.
    #[error("the file was not opened for {0}")]
    NotOpenFor(&'static str),
    /// A bound of this client is reached.
    #[error(
        "this process has {what}, which is the limit ({limit}): close some, or raise the client's memory"
    )]
    Limit {
        /// What there are too many of.
        what: &'static str,
        /// How many are allowed.
        limit: usize,
    },
    /// A lock cannot be had, or is lost.
    #[error("{0}")]
    Lock(LockFailure),
    /// A blocking call was made on a thread that runs an event loop.
    #[error("a blocking call of fs-client was made inside an event loop: use fs_client::aio there")]
    InsideEventLoop,
    /// The operating system refused something that the client needs.
    #[error("cannot {what}: {cause}")]
    System {
        /// What was tried.
        what: &'static str,
        /// Why not.
        cause: String,
    },
}

/// What is wrong with a lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum LockFailure {
    /// Waiting for it would never end.
    #[error("whoever holds the bytes waits for this lock's owner")]
    Deadlock,
    /// The server keeps no more.
    #[error("the server has no room for another lock")]
    TooMany,
    /// It was given to others.
    #[error("locks of the file are lost, so it cannot be read or written: unlock or close it")]
    Lost,
}

fn prefix(path: Option<&String>) -> String {
    path.map_or_else(String::new, |p| format!("{p}: "))
}

impl Error {
    /// An error with a status, as a server would send it.
    pub fn status(status: Status, message: impl Into<String>) -> Error {
        Error::Status { status, message: message.into(), path: None }
    }

    /// The status, if this is one.
    pub fn code(&self) -> Option<Status> {
        match self {
            Error::Status { status, .. } => Some(*status),
            _ => None,
        }
    }

    /// Whether it says that a name or an inode does not exist.
    pub fn is_not_found(&self) -> bool {
        self.code() == Some(Status::NotFound)
    }

    /// The errno (Linux numbers) for applications.
    pub fn errno(&self) -> i32 {
        match self {
            Error::Status { status, .. } => status.errno(),
            Error::Unavailable { .. } => libc::ETIMEDOUT,
            Error::Rejected { .. } => libc::EACCES,
            Error::Corrupt { .. } | Error::Protocol { .. } | Error::Lock(LockFailure::Lost) => libc::EIO,
            Error::Cluster(_) => libc::EINVAL,
            Error::NotOpenFor(_) => libc::EBADF,
            Error::Limit { .. } => libc::ENFILE,
            Error::Lock(LockFailure::TooMany) => libc::ENOLCK,
            Error::InsideEventLoop | Error::Lock(LockFailure::Deadlock) => libc::EDEADLK,
            Error::System { .. } => libc::EAGAIN,
        }
    }

    /// The same, with the path that the user gave.
    #[must_use]
    pub(crate) fn at(mut self, given: &[u8]) -> Error {
        if let Error::Status { path, .. } | Error::Unavailable { path, .. } = &mut self {
            path.get_or_insert_with(|| String::from_utf8_lossy(given).into_owned());
        }
        self
    }

    pub(crate) fn undecodable(server: ServerId, e: &DecodeError) -> Error {
        Error::Protocol { server, what: e.to_string() }
    }
}

impl From<Error> for std::io::Error {
    fn from(e: Error) -> Self {
        // The errno's kind, but our words: they say more than strerror.
        std::io::Error::new(std::io::Error::from_raw_os_error(e.errno()).kind(), e)
    }
}
