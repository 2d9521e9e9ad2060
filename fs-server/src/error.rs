//! How operations and the server itself fail.

use std::borrow::Cow;
use std::path::PathBuf;

use fs_net::NetError;
use fs_proto::{DecodeError, InodeId, Status};
use thiserror::Error;

use crate::kv::KvError;
use crate::store::StoreError;

/// Why an operation failed: a status for programs, a text for people.
#[derive(Debug, Clone)]
pub struct OpError {
    /// What the caller can do about it.
    pub status: Status,
    /// What happened, and to what.
    pub message: Cow<'static, str>,
    /// The directory whose names have to be taken over from the shared tier first; within a server only.
    pub unlisted: Option<InodeId>,
}

/// Result of an operation.
pub type OpResult<T> = Result<T, OpError>;

impl OpError {
    /// A failure with a fixed text: no allocation on the common paths (a name that is not there).
    pub const fn new(status: Status, message: &'static str) -> Self {
        OpError { status, message: Cow::Borrowed(message), unlisted: None }
    }

    /// A failure with a text made for it.
    pub fn because(status: Status, message: String) -> Self {
        OpError { status, message: Cow::Owned(message), unlisted: None }
    }

    /// The names of a directory have to be taken over from the shared tier first.
    pub const fn unlisted(dir: InodeId) -> Self {
        OpError {
            status: Status::Busy,
            message: Cow::Borrowed("the directory was not listed in the shared tier yet"),
            unlisted: Some(dir),
        }
    }

    /// What one of many items that a request is about came to. A request that cannot be answered yet fails as a whole.
    pub fn of_item(self) -> OpResult<Status> {
        if self.unlisted.is_some() { Err(self) } else { Ok(self.status) }
    }

    /// The name or inode is not there.
    pub const fn not_found() -> Self {
        OpError::new(Status::NotFound, "no such file or directory")
    }
}

impl From<KvError> for OpError {
    fn from(error: KvError) -> Self {
        let status = match &error {
            KvError::NoSpace => return OpError::because(Status::NoSpace, error.to_string()),
            KvError::Refused => Status::ReadOnly,
            KvError::InUse(_) | KvError::Corrupt(_) | KvError::Io(_) => Status::Io,
        };
        tracing::error!(%error, "the namespace store failed");
        OpError::because(status, format!("namespace store: {error}"))
    }
}

impl From<DecodeError> for OpError {
    fn from(error: DecodeError) -> Self {
        OpError::because(Status::BadMessage, error.to_string())
    }
}

impl From<NetError> for OpError {
    fn from(error: NetError) -> Self {
        OpError::because(error.status(), error.to_string())
    }
}

impl From<StoreError> for OpError {
    fn from(error: StoreError) -> Self {
        let status = match &error {
            StoreError::NoSpace => Status::NoSpace,
            StoreError::Refused => Status::ReadOnly,
            StoreError::Corrupt { .. } | StoreError::Index(KvError::Corrupt(_)) => Status::Corrupt,
            StoreError::OutOfRange { .. } => Status::Invalid,
            StoreError::Index(_) | StoreError::InUse(_) | StoreError::Foreign { .. } | StoreError::Io(_) => {
                Status::Io
            }
        };
        OpError::because(status, error.to_string())
    }
}

/// Why a server does not start or ends.
#[derive(Debug, Error)]
pub enum ServerError {
    /// The store cannot be opened.
    #[error("store {path}: {reason}")]
    Store {
        /// Its directory.
        path: PathBuf,
        /// What is wrong and what to do.
        reason: String,
    },
    /// An address cannot be listened on.
    #[error("cannot listen on {address}: {reason}")]
    Listen {
        /// Which.
        address: String,
        /// What is wrong and what to do.
        reason: String,
    },
    /// The shared tier cannot be used.
    #[error("tier directory {path}: {reason}")]
    Tier {
        /// Its directory.
        path: PathBuf,
        /// What is wrong and what to do.
        reason: String,
    },
    /// The server was started with something that it cannot work with.
    #[error("{0}")]
    Config(String),
    /// The cluster file does not fit this server.
    #[error("cluster file: {0}")]
    Cluster(String),
    /// The namespace store failed at start.
    #[error("namespace store: {0}")]
    Kv(#[from] KvError),
    /// The operating system refused something.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        source: std::io::Error,
    },
}
